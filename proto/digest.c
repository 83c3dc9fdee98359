/* SPDX-License-Identifier: MIT */
#include "proto/digest.h"

#include <string.h>

static const char prefix[] = "sha256:";
#define PREFIX_LEN (sizeof(prefix) - 1)

const char *lorica_digest_format(const struct lorica_digest *digest, char out[LORICA_DIGEST_TEXT]) {
    static const char digits[] = "0123456789abcdef";
    memcpy(out, prefix, PREFIX_LEN);
    char *at = out + PREFIX_LEN;
    for (size_t i = 0; i < sizeof(digest->bytes); i++) {
        *at++ = digits[digest->bytes[i] >> 4];
        *at++ = digits[digest->bytes[i] & 15];
    }
    *at = '\0';
    return out;
}

static int hex_value(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int lorica_digest_parse(const char *text, size_t len, struct lorica_digest *ret) {
    struct lorica_digest digest;
    if (len != LORICA_DIGEST_TEXT - 1 || memcmp(text, prefix, PREFIX_LEN) != 0)
        return LORICA_EINVAL;
    for (size_t i = 0; i < sizeof(digest.bytes); i++) {
        const int high = hex_value(text[PREFIX_LEN + 2 * i]);
        const int low = hex_value(text[PREFIX_LEN + 2 * i + 1]);
        if (high < 0 || low < 0)
            return LORICA_EINVAL;
        digest.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *ret = digest;
    return 0;
}

bool lorica_digest_equal(const struct lorica_digest *a, const struct lorica_digest *b) {
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}
