/* SPDX-License-Identifier: MIT
 * Values of HTTP fields, path segments and queries from any bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/http_fields.h"
#include "proto/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    char *text = malloc(len + 1);
    if (!text)
        return 0;
    memcpy(text, data, len);
    text[len] = '\0';
    uint64_t epoch;
    size_t token_len = 0;
    char out[64];
    (void)!lorica_http_if_match(text, &epoch);
    if (lorica_http_bearer(text, &token_len) && (token_len == 0 || token_len > len))
        abort();
    for (int plus = 0; plus < 2; plus++)
        if (lorica_http_decode((const char *)data, len, plus, out, sizeof(out)) == 0 &&
            (!lorica_utf8_valid(out, strlen(out)) || (!plus && strpbrk(out, "/\\"))))
            abort();
    int64_t ms = 0;
    if (lorica_http_time(text, &ms) == 0 && (ms < -86400000 || ms > INT64_C(1000000000000000)))
        abort();
    if (lorica_http_query(text, "limit", out, sizeof(out)) == 0 &&
        !lorica_utf8_valid(out, strlen(out)))
        abort();
    free(text);
    return 0;
}
