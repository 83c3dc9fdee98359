/* SPDX-License-Identifier: MIT
 * A multipart body from any bytes, with the boundary "XyZ"; and a Content-Type from the same bytes.
 * The body is read at once and byte by byte: both must say the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/buf.h"
#include "proto/multipart.h"
#include "proto/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int on_part(void *user, const char *name, const char *filename, struct lorica_error *err) {
    (void)err;
    if (!lorica_utf8_valid(name, strlen(name)))
        abort();
    return lorica_buf_printf(user, "[%s|%s]", name, filename ? filename : "");
}

static int on_data(void *user, const void *bytes, size_t len, struct lorica_error *err) {
    (void)err;
    if (len == 0)
        abort();
    return lorica_buf_append(user, bytes, len);
}

static int on_part_end(void *user, struct lorica_error *err) {
    (void)err;
    return lorica_buf_puts(user, ".");
}

static int run(const char *type, const uint8_t *data, size_t len, size_t step,
               struct lorica_buf *out) {
    static struct lorica_multipart reader;
    const struct lorica_multipart_sink sink = {on_part, on_data, on_part_end, out};
    int rc = lorica_multipart_init(&reader, type, &sink, NULL);
    for (size_t at = 0; at < len && rc == 0; at += step)
        rc = lorica_multipart_feed(&reader, data + at, len - at < step ? len - at : step, NULL);
    return rc ? rc : lorica_multipart_end(&reader, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    static const char type[] = "multipart/form-data; boundary=XyZ";
    struct lorica_buf a, b;
    lorica_buf_init(&a, 1 << 24);
    lorica_buf_init(&b, 1 << 24);
    const int whole = run(type, data, len, len ? len : 1, &a);
    const int bytes = run(type, data, len, 1, &b);
    if (whole != bytes || a.len != b.len || (a.len && memcmp(a.data, b.data, a.len) != 0))
        abort();
    char *text = calloc(len + 21, 1);
    if (text) {
        memcpy(text, "multipart/form-data;", 20);
        memcpy(text + 20, data, len);
        (void)!run(text, data, 0, 1, &a);
    }
    free(text);
    lorica_buf_finish(&a);
    lorica_buf_finish(&b);
    return 0;
}
