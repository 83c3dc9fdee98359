/* SPDX-License-Identifier: MIT */
#include "proto/http_fields.h"

#include <string.h>
#include <strings.h>

#include "proto/utf8.h"

static const char *skip_blank(const char *text) { return text + strspn(text, " \t"); }

int lorica_http_if_match(const char *value, uint64_t *ret) {
    const char *at = skip_blank(value);
    if (*at++ != '"')
        return LORICA_EINVAL;
    const size_t digits = strspn(at, "0123456789");
    if (digits == 0 || (digits > 1 && *at == '0'))
        return LORICA_EINVAL;
    uint64_t number = 0;
    for (size_t i = 0; i < digits; i++) {
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(at[i] - '0'), &number))
            return LORICA_EINVAL;
    }
    at += digits;
    if (*at != '"' || *skip_blank(at + 1))
        return LORICA_EINVAL;
    *ret = number;
    return 0;
}

const char *lorica_http_bearer(const char *value, size_t *ret_len) {
    if (strncasecmp(value, "Bearer", 6) != 0 || value[6] != ' ')
        return NULL;
    const char *token = value + 6 + strspn(value + 6, " ");
    size_t len = strspn(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                               "-._~+/");
    if (len == 0)
        return NULL;
    len += strspn(token + len, "=");
    if (*skip_blank(token + len))
        return NULL;
    *ret_len = len;
    return token;
}

static int hex(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* One decoded byte at *at, which moves behind it; -1 for a broken escape or a control character. */
static int next_byte(const char **at, const char *end, bool plus_is_space) {
    int byte = (unsigned char)*(*at)++;
    if (byte == '%') {
        if (end - *at < 2)
            return -1;
        const int high = hex((*at)[0]), low = hex((*at)[1]);
        if (high < 0 || low < 0)
            return -1;
        *at += 2;
        byte = high << 4 | low;
    } else if (byte == '+' && plus_is_space) {
        byte = ' ';
    }
    return byte < 0x20 || byte == 0x7f ? -1 : byte;
}

static int decode(const char *text, size_t len, bool plus_is_space, char *out, size_t size) {
    const char *at = text, *end = text + len;
    size_t used = 0;
    while (at < end) {
        const int byte = next_byte(&at, end, plus_is_space);
        if (byte < 0 || ((byte == '/' || byte == '\\') && !plus_is_space))
            return LORICA_EINVAL;
        if (used + 1 >= size)
            return LORICA_ELIMIT;
        out[used++] = (char)byte;
    }
    out[used] = '\0';
    if (!plus_is_space && (strcmp(out, ".") == 0 || strcmp(out, "..") == 0))
        return LORICA_EINVAL;
    return lorica_utf8_valid(out, used) ? 0 : LORICA_EINVAL;
}

int lorica_http_decode(const char *text, size_t len, bool plus_is_space, char *out, size_t size) {
    if (size == 0)
        return LORICA_ELIMIT;
    const int rc = decode(text, len, plus_is_space, out, size);
    if (rc)
        out[0] = '\0';
    return rc;
}

/* True when the encoded name of `len` bytes decodes to `name`. */
static bool same_name(const char *text, size_t len, const char *name) {
    const char *at = text, *end = text + len;
    while (at < end) {
        const int byte = next_byte(&at, end, true);
        if (byte < 0 || byte != (unsigned char)*name)
            return false;
        name++;
    }
    return *name == '\0';
}

int lorica_http_query(const char *query, const char *name, char *out, size_t size) {
    if (size == 0)
        return LORICA_ELIMIT;
    int rc = LORICA_ENOTFOUND;
    out[0] = '\0';
    while (query && *query) {
        const size_t len = strcspn(query, "&");
        const char *equals = memchr(query, '=', len);
        const size_t name_len = equals ? (size_t)(equals - query) : len;
        if (same_name(query, name_len, name)) {
            out[0] = '\0';
            if (rc != LORICA_ENOTFOUND)
                return LORICA_EINVAL;
            const size_t skip = equals ? name_len + 1 : len;
            rc = lorica_http_decode(query + skip, len - skip, true, out, size);
        }
        query += len + (query[len] == '&');
    }
    return rc;
}

/* True when a parameter is meant by one of the names that lorica_http_query_unknown takes. */
static bool meant_by(const char *text, size_t len, const char *name) {
    char decoded[LORICA_HTTP_KEYED_MAX];
    const size_t prefix = strlen(name);
    if (prefix == 0 || name[prefix - 1] != '[')
        return same_name(text, len, name);
    if (decode(text, len, true, decoded, sizeof(decoded)))
        return false;
    const size_t used = strlen(decoded);
    return used > prefix && strncmp(decoded, name, prefix) == 0 && decoded[used - 1] == ']';
}

size_t lorica_http_query_unknown(const char *query, const char *const *names, const char **ret) {
    while (query && *query) {
        const size_t len = strcspn(query, "&"), name_len = strcspn(query, "&=");
        const char *const *name = names;
        while (*name && !meant_by(query, name_len, *name))
            name++;
        if (!*name && len > 0) {
            *ret = query;
            return len;
        }
        query += len + (query[len] == '&');
    }
    return 0;
}

/* `count` digits at *at into *ret, and moves behind them. */
static bool take_digits(const char **at, int count, int64_t *ret) {
    *ret = 0;
    for (int i = 0; i < count; i++, (*at)++) {
        if (**at < '0' || **at > '9')
            return false;
        *ret = *ret * 10 + (**at - '0');
    }
    return true;
}

static bool take_char(const char **at, const char *set) {
    if (**at == '\0' || !strchr(set, **at))
        return false;
    (*at)++;
    return true;
}

/* Days from 1970-01-01 to a date of the Gregorian calendar: counted from March, so that the leap
 * day is a year's last (Howard Hinnant, days_from_civil). */
static int64_t days_to(int64_t year, int64_t month, int64_t day) {
    const int64_t y = month <= 2 ? year - 1 : year, era = y / 400, of_era = y % 400;
    const int64_t of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static bool take_date(const char **at, int64_t *ret_days) {
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int64_t year, month, day;
    if (!take_digits(at, 4, &year) || !take_char(at, "-") || !take_digits(at, 2, &month) ||
        !take_char(at, "-") || !take_digits(at, 2, &day) || year < 1970 || month < 1 || month > 12)
        return false;
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day < 1 || day > lengths[month - 1] + (month == 2 && leap))
        return false;
    *ret_days = days_to(year, month, day);
    return true;
}

/* Milliseconds of the day; digits behind the third of a fraction are dropped. */
static bool take_clock(const char **at, int64_t *ret_ms) {
    int64_t hour, minute, second, digit, ms = 0;
    if (!take_digits(at, 2, &hour) || !take_char(at, ":") || !take_digits(at, 2, &minute) ||
        !take_char(at, ":") || !take_digits(at, 2, &second) || hour > 23 || minute > 59 ||
        second > 60)
        return false;
    if (take_char(at, ".")) {
        int count = 0;
        for (int64_t unit = 100; take_digits(at, 1, &digit); unit /= 10, count++)
            ms += digit * unit;
        if (count == 0)
            return false;
    }
    *ret_ms = ((hour * 60 + minute) * 60 + second) * 1000 + ms;
    return true;
}

/* "Z", or the minutes by which a zone is ahead. */
static bool take_zone(const char **at, int64_t *ret_minutes) {
    int64_t hour, minute;
    *ret_minutes = 0;
    if (take_char(at, "Zz"))
        return true;
    const bool behind = **at == '-';
    if (!take_char(at, "+- ") || !take_digits(at, 2, &hour) || !take_char(at, ":") ||
        !take_digits(at, 2, &minute) || hour > 23 || minute > 59)
        return false;
    *ret_minutes = (behind ? -1 : 1) * (hour * 60 + minute);
    return true;
}

int lorica_http_time(const char *text, int64_t *ret_ms) {
    const char *at = text;
    const size_t len = strlen(text);
    int64_t days, ms = 0, minutes = 0;
    if (len > 0 && len <= 15 && strspn(text, "0123456789") == len)
        return take_digits(&at, (int)len, ret_ms) ? 0 : LORICA_EINVAL;
    if (!take_date(&at, &days))
        return LORICA_EINVAL;
    if (*at && !(take_char(&at, "Tt ") && take_clock(&at, &ms) && take_zone(&at, &minutes)))
        return LORICA_EINVAL;
    if (*at)
        return LORICA_EINVAL;
    *ret_ms = days * 86400000 + ms - minutes * 60000;
    return 0;
}

void lorica_http_escape(struct lorica_buf *out, const char *text, size_t len) {
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    for (size_t i = 0; i < len; i++)
        if (text[i] && strchr(plain, text[i]))
            (void)lorica_buf_append(out, text + i, 1);
        else
            (void)lorica_buf_printf(out, "%%%02X", (unsigned char)text[i]);
}
