/* SPDX-License-Identifier: MIT
 * JSON from any bytes. What parses must, written back, parse again and be written the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_json *first, *second;
    struct lorica_buf a, b;
    if (lorica_json_parse((const char *)data, len, &first, NULL) != 0)
        return 0;
    lorica_buf_init(&a, SIZE_MAX / 4);
    lorica_buf_init(&b, SIZE_MAX / 4);
    if (lorica_json_write(&a, first) != 0 || lorica_json_parse(a.data, a.len, &second, NULL) != 0)
        abort();
    if (lorica_json_write(&b, second) != 0 || a.len != b.len || memcmp(a.data, b.data, a.len) != 0)
        abort();
    lorica_json_destroy(first);
    lorica_json_destroy(second);
    lorica_buf_finish(&a);
    lorica_buf_finish(&b);
    return 0;
}
