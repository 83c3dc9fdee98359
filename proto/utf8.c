/* SPDX-License-Identifier: MIT */
#include "proto/utf8.h"

/* Bytes of the character that begins at text[0]: 1 to 4; 0 when it is invalid; -1 when the bytes so
 * far are right but `len` ends before the character does. */
static int char_length(const unsigned char *text, size_t len) {
    const unsigned char first = text[0];
    if (first < 0x80)
        return 1;
    const int need = first >= 0xc2 && first <= 0xdf   ? 2
                     : first >= 0xe0 && first <= 0xef ? 3
                     : first >= 0xf0 && first <= 0xf4 ? 4
                                                      : 0;
    if (need == 0)
        return 0;
    for (int i = 1; i < need; i++) {
        if ((size_t)i >= len)
            return -1;
        unsigned char low = 0x80, high = 0xbf;
        if (i == 1) {
            low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
            high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        }
        if (text[i] < low || text[i] > high)
            return 0;
    }
    return need;
}

size_t lorica_utf8_valid_prefix(const char *text, size_t len) {
    size_t at = 0;
    while (at < len) {
        const int n = char_length((const unsigned char *)text + at, len - at);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    return at;
}

bool lorica_utf8_valid(const char *text, size_t len) {
    return lorica_utf8_valid_prefix(text, len) == len;
}

size_t lorica_utf8_incomplete_tail(const char *text, size_t len) {
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        const unsigned char *at = (const unsigned char *)text + len - back;
        if (*at >= 0xc0)
            return char_length(at, back) == -1 ? back : 0;
        if (*at < 0x80)
            return 0;
    }
    return 0;
}
