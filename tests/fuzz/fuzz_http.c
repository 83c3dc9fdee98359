/* SPDX-License-Identifier: MIT
 * Requests out of any bytes, fed at once and byte by byte: both must come to the same heads, bodies
 * and end. Each head is routed. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/server/http.h"
#include "gateway/server/route.h"
#include "proto/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The head as text, to be compared; slices lie in memory that is going to be reused. */
static void write_head(const struct lorica_http *http, struct lorica_buf *out) {
    struct lorica_route_match match;
    size_t count;
    const struct lorica_route *routes = lorica_routes(&count);
    (void)lorica_buf_printf(out, "%d %u %d %d %llu\n", (int)http->method, http->minor,
                            http->has_body, http->chunked,
                            http->has_body ? (unsigned long long)http->content_length : 0);
    (void)lorica_buf_append(out, http->target.text, http->target.len);
    for (size_t i = 0; i < http->header_count; i++) {
        (void)lorica_buf_append(out, http->headers[i].name.text, http->headers[i].name.len);
        (void)lorica_buf_puts(out, ":");
        (void)lorica_buf_append(out, http->headers[i].value.text, http->headers[i].value.len);
    }
    if (lorica_route_find(routes, count, http->method, http->target.text, http->target.len,
                          &match) != 0)
        return;
    for (int p = 0; p < LORICA_ROUTE_PARAMS; p++)
        if (!lorica_utf8_valid(match.params[p], strlen(match.params[p])))
            abort();
}

/* Takes what feed leaves on the way; false when it is at an end. */
static bool go_on(struct lorica_http *http, struct lorica_buf *out) {
    if (http->body.len > 0) {
        (void)lorica_buf_append(out, http->body.data, http->body.len);
        lorica_buf_clear(&http->body);
    }
    if (http->state == LORICA_HTTP_JUDGED) {
        if (memchr(http->target.text, '\0', http->target.len) || http->target.text[0] != '/')
            abort();
        write_head(http, out);
        lorica_http_accept(http);
    } else if (http->state == LORICA_HTTP_DONE) {
        (void)lorica_buf_puts(out, "\n--\n");
        lorica_http_next(http);
    } else {
        return false;
    }
    return true;
}

static void run(const uint8_t *data, size_t len, size_t step, struct lorica_buf *out) {
    struct lorica_http http;
    if (lorica_http_init(&http) != 0)
        abort();
    for (size_t at = 0; at < len && http.state != LORICA_HTTP_FAILED;) {
        const size_t piece = len - at < step ? len - at : step;
        size_t used = 0;
        do {
            const size_t n = lorica_http_feed(&http, (const char *)data + at + used, piece - used);
            if (n > piece - used)
                abort();
            used += n;
        } while (go_on(&http, out));
        if (used < piece && http.state != LORICA_HTTP_FAILED)
            abort();
        at += used;
    }
    const bool failed = http.state == LORICA_HTTP_FAILED;
    if (failed && (http.status < 400 || http.status > 599 || !http.what))
        abort();
    (void)lorica_buf_printf(out, "%d", failed ? http.status : 0);
    lorica_http_finish(&http);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_buf whole, bytes;
    lorica_buf_init(&whole, 1u << 26);
    lorica_buf_init(&bytes, 1u << 26);
    run(data, len, len ? len : 1, &whole);
    run(data, len, 1, &bytes);
    if (whole.len != bytes.len || memcmp(whole.data, bytes.data, whole.len) != 0)
        abort();
    lorica_buf_finish(&whole);
    lorica_buf_finish(&bytes);
    return 0;
}
