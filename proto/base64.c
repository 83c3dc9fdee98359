/* SPDX-License-Identifier: MIT */
#include "proto/base64.h"

#include <stdlib.h>

int lorica_base64_encode(struct lorica_buf *out, const void *bytes, size_t len) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *at = bytes;
    for (size_t i = 0; i < len; i += 3) {
        const size_t n = len - i < 3 ? len - i : 3;
        const uint32_t bits = (uint32_t)at[i] << 16 | (n > 1 ? (uint32_t)at[i + 1] << 8 : 0) |
                              (n > 2 ? at[i + 2] : 0);
        const char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63],
                              n > 1 ? digits[bits >> 6 & 63] : '=',
                              n > 2 ? digits[bits & 63] : '='};
        (void)lorica_buf_append(out, four, sizeof(four));
    }
    return lorica_buf_status(out);
}

/* Value of a digit, or -1. */
static int digit(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

/* Four characters, `pad` of them '=', into 3 - pad bytes. */
static int decode_four(const char *four, size_t pad, uint8_t *out) {
    uint32_t bits = 0;
    for (size_t i = 0; i < 4; i++) {
        const int value = i < 4 - pad ? digit(four[i]) : 0;
        if (value < 0)
            return LORICA_EFORMAT;
        bits = bits << 6 | (uint32_t)value;
    }
    if ((pad == 1 && (bits & 0xFF)) || (pad == 2 && (bits & 0xFFFF)))
        return LORICA_EFORMAT;
    for (size_t i = 0; i < 3 - pad; i++)
        out[i] = (uint8_t)(bits >> (16 - 8 * i));
    return 0;
}

int lorica_base64_decode(const char *text, size_t len, uint8_t **ret, size_t *ret_len) {
    if (len % 4 != 0)
        return LORICA_EFORMAT;
    const size_t pad = len == 0 || text[len - 1] != '=' ? 0 : text[len - 2] != '=' ? 1 : 2;
    const size_t nbytes = len / 4 * 3 - pad;
    uint8_t *bytes = malloc(nbytes + 1);
    if (!bytes)
        return LORICA_ENOMEM;
    for (size_t i = 0; i < len; i += 4) {
        if (decode_four(text + i, i + 4 == len ? pad : 0, bytes + i / 4 * 3) != 0) {
            free(bytes);
            return LORICA_EFORMAT;
        }
    }
    bytes[nbytes] = 0;
    *ret = bytes;
    *ret_len = nbytes;
    return 0;
}
