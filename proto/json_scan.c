/* SPDX-License-Identifier: MIT */
#include "proto/json_scan.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "proto/utf8.h"

struct scan {
    const char *at, *end;
    const char *wrong; /* what is wrong at `at`, once something is */
};

static bool fail(struct scan *s, const char *wrong) {
    if (!s->wrong)
        s->wrong = wrong;
    return false;
}

static void skip_space(struct scan *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool take(struct scan *s, char c) {
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

static bool scan_word(struct scan *s, const char *word) {
    const size_t len = strlen(word);
    if ((size_t)(s->end - s->at) < len || memcmp(s->at, word, len) != 0)
        return fail(s, "no JSON value");
    s->at += len;
    return true;
}

static bool scan_digits(struct scan *s) {
    const char *begin = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > begin || fail(s, "a digit is missing in a number");
}

static bool scan_number(struct scan *s) {
    (void)take(s, '-');
    if (!take(s, '0') && !scan_digits(s))
        return false;
    if (take(s, '.') && !scan_digits(s))
        return false;
    if (take(s, 'e') || take(s, 'E')) {
        if (!take(s, '+'))
            (void)take(s, '-');
        return scan_digits(s);
    }
    return true;
}

/* Four hexadecimal digits; -1 when they are not. */
static int scan_hex4(struct scan *s) {
    if (s->end - s->at < 4)
        return -1;
    int value = 0;
    for (int i = 0; i < 4; i++) {
        const char c = *s->at++;
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

static bool scan_unicode_escape(struct scan *s) {
    const int unit = scan_hex4(s);
    if (unit < 0)
        return fail(s, "a \\u escape without four hexadecimal digits");
    if (unit == 0)
        return fail(s, "a NUL in a string");
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return fail(s, "an unpaired surrogate");
    if (unit >= 0xd800 && unit <= 0xdbff) {
        const int low = take(s, '\\') && take(s, 'u') ? scan_hex4(s) : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return fail(s, "an unpaired surrogate");
    }
    return true;
}

static bool scan_string(struct scan *s) {
    if (!take(s, '"'))
        return fail(s, "a string was expected");
    while (s->at < s->end) {
        const unsigned char c = (unsigned char)*s->at;
        if (c < 0x20)
            return fail(s, "a raw control character in a string");
        s->at++;
        if (c == '"')
            return true;
        if (c != '\\')
            continue;
        if (s->at == s->end)
            break;
        const char escape = *s->at++;
        if (escape == 'u') {
            if (!scan_unicode_escape(s))
                return false;
        } else if (escape == '\0' || !strchr("\"\\/bfnrt", escape)) {
            return fail(s, "an unknown escape in a string");
        }
    }
    return fail(s, "a string without end");
}

/* One value, without recursion: `open` remembers for each depth whether it is an object. */
static bool scan_value(struct scan *s) {
    bool is_object[LORICA_JSON_MAX_DEPTH];
    int depth = 0;
    for (;;) {
        /* Here a value begins. */
        skip_space(s);
        const char c = s->at < s->end ? *s->at : '\0';
        bool closed = true;
        if (c == '{' || c == '[') {
            s->at++;
            if (depth == LORICA_JSON_MAX_DEPTH)
                return fail(s, "nested too deeply");
            is_object[depth++] = c == '{';
            skip_space(s);
            if (take(s, c == '{' ? '}' : ']'))
                depth--;
            else
                closed = false;
        } else if (!(c == '"'                             ? scan_string(s)
                     : c == '-' || (c >= '0' && c <= '9') ? scan_number(s)
                     : c == 't'                           ? scan_word(s, "true")
                     : c == 'f'                           ? scan_word(s, "false")
                                                          : scan_word(s, "null"))) {
            return false;
        }
        /* Here a value has ended, or a container has just been opened. */
        while (closed && depth > 0) {
            skip_space(s);
            if (take(s, ','))
                break;
            if (!take(s, is_object[depth - 1] ? '}' : ']'))
                return fail(s, "a comma or a closing bracket was expected");
            depth--;
        }
        if (depth == 0)
            return true;
        if (is_object[depth - 1]) {
            skip_space(s);
            if (!scan_string(s))
                return false;
            skip_space(s);
            if (!take(s, ':'))
                return fail(s, "a colon was expected");
        }
    }
}

int lorica_json_scan(const char *text, size_t len, struct lorica_error *err) {
    const size_t valid = lorica_utf8_valid_prefix(text, len);
    if (valid < len)
        return lorica_fail(err, LORICA_EFORMAT, "JSON, byte %zu: not UTF-8", valid);
    struct scan s = {.at = text, .end = text + len};
    if (scan_value(&s)) {
        skip_space(&s);
        if (s.at == s.end)
            return 0;
        (void)fail(&s, "something follows the value");
    }
    return lorica_fail(err, LORICA_EFORMAT, "JSON, byte %zu: %s", (size_t)(s.at - text), s.wrong);
}
