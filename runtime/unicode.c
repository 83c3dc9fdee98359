/* SPDX-License-Identifier: MIT
 * Characters: classes, normal forms, and stand-ins for characters newer than the regex library. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/unicode.h"

struct stand_in {
    uint32_t first, last;
    uint32_t by; /* a character of the same general category and encoded length */
};

/* Characters that came with Unicode 15.0 to 16.0, which PCRE2 10.42 (Unicode 14) takes for
 * unassigned, by category; and U+180E, which PCRE2 counts as white space and Unicode does not. */
static const struct stand_in stand_ins[] = {
    {0x0897, 0x0897, 0x20D0},    {0x0CF3, 0x0CF3, 0x20D0},    {0x0ECE, 0x0ECE, 0x20D0},
    {0x180E, 0x180E, 0x200B},    {0x1B4E, 0x1B4F, 0x2020},    {0x1B7F, 0x1B7F, 0x2020},
    {0x1C89, 0x1C89, 0xA640},    {0x1C8A, 0x1C8A, 0xA641},    {0x2427, 0x2429, 0x2603},
    {0x2FFC, 0x2FFF, 0x2603},    {0x31E4, 0x31E5, 0x2603},    {0x31EF, 0x31EF, 0x2603},
    {0xA7CB, 0xA7CC, 0xA640},    {0xA7CD, 0xA7CD, 0xA641},    {0xA7DA, 0xA7DA, 0xA640},
    {0xA7DB, 0xA7DB, 0xA641},    {0xA7DC, 0xA7DC, 0xA640},    {0x105C0, 0x105F3, 0x20000},
    {0x10D40, 0x10D49, 0x1D7CE}, {0x10D4A, 0x10D4D, 0x20000}, {0x10D4E, 0x10D4E, 0x16B40},
    {0x10D4F, 0x10D4F, 0x20000}, {0x10D50, 0x10D65, 0x10400}, {0x10D69, 0x10D6D, 0x101FD},
    {0x10D6E, 0x10D6E, 0x10100}, {0x10D6F, 0x10D6F, 0x16B40}, {0x10D70, 0x10D85, 0x10428},
    {0x10D8E, 0x10D8F, 0x1F600}, {0x10EC2, 0x10EC4, 0x20000}, {0x10EFC, 0x10EFF, 0x101FD},
    {0x1123F, 0x11240, 0x20000}, {0x11241, 0x11241, 0x101FD}, {0x11380, 0x11389, 0x20000},
    {0x1138B, 0x1138B, 0x20000}, {0x1138E, 0x1138E, 0x20000}, {0x11390, 0x113B5, 0x20000},
    {0x113B7, 0x113B7, 0x20000}, {0x113B8, 0x113C0, 0x101FD}, {0x113C2, 0x113C2, 0x101FD},
    {0x113C5, 0x113C5, 0x101FD}, {0x113C7, 0x113CA, 0x101FD}, {0x113CC, 0x113D0, 0x101FD},
    {0x113D1, 0x113D1, 0x20000}, {0x113D2, 0x113D2, 0x101FD}, {0x113D3, 0x113D3, 0x20000},
    {0x113D4, 0x113D5, 0x10100}, {0x113D7, 0x113D8, 0x10100}, {0x113E1, 0x113E2, 0x101FD},
    {0x116D0, 0x116E3, 0x1D7CE}, {0x11B00, 0x11B09, 0x10100}, {0x11BC0, 0x11BE0, 0x20000},
    {0x11BE1, 0x11BE1, 0x10100}, {0x11BF0, 0x11BF9, 0x1D7CE}, {0x11F00, 0x11F01, 0x101FD},
    {0x11F02, 0x11F02, 0x20000}, {0x11F03, 0x11F03, 0x101FD}, {0x11F04, 0x11F10, 0x20000},
    {0x11F12, 0x11F33, 0x20000}, {0x11F34, 0x11F3A, 0x101FD}, {0x11F3E, 0x11F42, 0x101FD},
    {0x11F43, 0x11F4F, 0x10100}, {0x11F50, 0x11F59, 0x1D7CE}, {0x11F5A, 0x11F5A, 0x101FD},
    {0x1342F, 0x1342F, 0x20000}, {0x13440, 0x13440, 0x101FD}, {0x13441, 0x13446, 0x20000},
    {0x13447, 0x13455, 0x101FD}, {0x13460, 0x143FA, 0x20000}, {0x16100, 0x1611D, 0x20000},
    {0x1611E, 0x1612F, 0x101FD}, {0x16130, 0x16139, 0x1D7CE}, {0x16D40, 0x16D42, 0x16B40},
    {0x16D43, 0x16D6A, 0x20000}, {0x16D6B, 0x16D6C, 0x16B40}, {0x16D6D, 0x16D6F, 0x10100},
    {0x16D70, 0x16D79, 0x1D7CE}, {0x18CFF, 0x18CFF, 0x20000}, {0x1B132, 0x1B132, 0x20000},
    {0x1B155, 0x1B155, 0x20000}, {0x1CC00, 0x1CCEF, 0x1F600}, {0x1CCF0, 0x1CCF9, 0x1D7CE},
    {0x1CD00, 0x1CEB3, 0x1F600}, {0x1D2C0, 0x1D2D3, 0x1F100}, {0x1DF25, 0x1DF2A, 0x10428},
    {0x1E030, 0x1E06D, 0x16B40}, {0x1E08F, 0x1E08F, 0x101FD}, {0x1E4D0, 0x1E4EA, 0x20000},
    {0x1E4EB, 0x1E4EB, 0x16B40}, {0x1E4EC, 0x1E4EF, 0x101FD}, {0x1E4F0, 0x1E4F9, 0x1D7CE},
    {0x1E5D0, 0x1E5ED, 0x20000}, {0x1E5EE, 0x1E5EF, 0x101FD}, {0x1E5F0, 0x1E5F0, 0x20000},
    {0x1E5F1, 0x1E5FA, 0x1D7CE}, {0x1E5FF, 0x1E5FF, 0x10100}, {0x1F6DC, 0x1F6DC, 0x1F600},
    {0x1F774, 0x1F776, 0x1F600}, {0x1F77B, 0x1F77F, 0x1F600}, {0x1F7D9, 0x1F7D9, 0x1F600},
    {0x1F8B2, 0x1F8BB, 0x1F600}, {0x1F8C0, 0x1F8C1, 0x1F600}, {0x1FA75, 0x1FA77, 0x1F600},
    {0x1FA87, 0x1FA89, 0x1F600}, {0x1FA8F, 0x1FA8F, 0x1F600}, {0x1FAAD, 0x1FAAF, 0x1F600},
    {0x1FABB, 0x1FABF, 0x1F600}, {0x1FAC6, 0x1FAC6, 0x1F600}, {0x1FACE, 0x1FACF, 0x1F600},
    {0x1FADA, 0x1FADC, 0x1F600}, {0x1FADF, 0x1FADF, 0x1F600}, {0x1FAE8, 0x1FAE9, 0x1F600},
    {0x1FAF7, 0x1FAF8, 0x1F600}, {0x1FBCB, 0x1FBEF, 0x1F600}, {0x2B739, 0x2B739, 0x20000},
    {0x2EBF0, 0x2EE5D, 0x20000}, {0x31350, 0x323AF, 0x20000}};

uint32_t lorica_unicode_next(const char *text, size_t *pos) {
    const uint8_t *p = (const uint8_t *)text + *pos;
    if (p[0] < 0x80) {
        *pos += 1;
        return p[0];
    }
    if (p[0] < 0xE0) {
        *pos += 2;
        return (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F);
    }
    if (p[0] < 0xF0) {
        *pos += 3;
        return (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    }
    *pos += 4;
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 |
           (uint32_t)(p[2] & 0x3F) << 6 | (p[3] & 0x3F);
}

uint32_t lorica_unicode_previous(const char *text, size_t *pos) {
    size_t at = *pos - 1;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80)
        at--;
    *pos = at;
    size_t end = at;
    return lorica_unicode_next(text, &end);
}

bool lorica_unicode_is_space(uint32_t c) {
    return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static const struct stand_in *find_stand_in(uint32_t c) {
    size_t low = 0, high = sizeof(stand_ins) / sizeof(stand_ins[0]);
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (c > stand_ins[mid].last)
            low = mid + 1;
        else if (c < stand_ins[mid].first)
            high = mid;
        else
            return &stand_ins[mid];
    }
    return NULL;
}

static utf8proc_category_t category(uint32_t c) {
    const struct stand_in *s = find_stand_in(c);
    return utf8proc_category((utf8proc_int32_t)(s ? s->by : c));
}

bool lorica_unicode_is_numeric(uint32_t c) {
    if (c < 0x80)
        return c >= '0' && c <= '9';
    /* Unicode 17: Tolong Siki digits and three Ideographic numbers. */
    if ((c >= 0x11DE0 && c <= 0x11DE9) || (c >= 0x16FF4 && c <= 0x16FF6))
        return true;
    const utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool lorica_unicode_is_word(uint32_t c) {
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9); /* joiners, circled */
    }
}

bool lorica_unicode_shadow(char *text, size_t len, bool write) {
    bool any = false;
    for (size_t i = 0; i < len;) {
        if ((uint8_t)text[i] < 0xE0) { /* nothing below U+0800 stands in the table */
            i++;
            continue;
        }
        const size_t at = i;
        const struct stand_in *s = find_stand_in(lorica_unicode_next(text, &i));
        if (!s)
            continue;
        if (!write)
            return true;
        any = true;
        utf8proc_encode_char((utf8proc_int32_t)s->by, (utf8proc_uint8_t *)text + at);
    }
    return any;
}

/* Characters that got a compatibility form after the normalisation tables that tokenizers uses were
 * made: it leaves them as they are. */
static bool is_left_alone(uint32_t c) {
    return c == 0x32FF || (c >= 0xA7F2 && c <= 0xA7F4) || c == 0xAB69 ||
           (c >= 0x10781 && c <= 0x107BA) || (c >= 0x1CCD6 && c <= 0x1CCF9) ||
           (c >= 0x1E030 && c <= 0x1E06D) || c == 0x1F16C || (c >= 0x1FBF0 && c <= 0x1FBF9);
}

static int normalise_run(utf8proc_option_t options, const char *text, size_t len,
                         struct lorica_buf *out) {
    utf8proc_uint8_t *result = NULL;
    const utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &result, options);
    if (n < 0)
        return n == UTF8PROC_ERROR_NOMEM ? LORICA_ENOMEM : LORICA_EFORMAT;
    const int rc = lorica_buf_append(out, result, (size_t)n);
    free(result);
    return rc;
}

int lorica_unicode_normalise(enum lorica_normal_form form, const char *text, size_t len,
                             struct lorica_buf *out) {
    if (form == LORICA_NORMAL_NONE)
        return lorica_buf_append(out, text, len);
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    if (form == LORICA_NORMAL_NFC)
        return normalise_run(options, text, len, out);
    int rc = 0;
    for (size_t i = 0, done = 0; !rc && done < len;) {
        const size_t at = i;
        const bool alone = i < len && is_left_alone(lorica_unicode_next(text, &i));
        if (!alone && i < len)
            continue;
        const size_t end = alone ? at : len;
        if (end > done)
            rc = normalise_run(options | UTF8PROC_COMPAT, text + done, end - done, out);
        if (!rc && alone)
            rc = lorica_buf_append(out, text + at, i - at);
        done = i;
    }
    return rc;
}
