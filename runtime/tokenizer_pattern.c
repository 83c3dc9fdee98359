/* SPDX-License-Identifier: MIT
 * Pre-tokenizer patterns. They are written for Oniguruma; PCRE2 reads nearly all of them alike.
 * What it would read in another way is refused instead of being matched wrongly. */
#include <stdio.h>
#include <string.h>

#include "runtime/tokenizer_parts.h"

const char lorica_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int refuse(struct lorica_error *err, const char *what, size_t len) {
    return lorica_fail(err, LORICA_EUNSUPPORTED,
                       "the pre-tokenizer's pattern holds \"%.*s\", which is not supported",
                       (int)len, what);
}

/* Groups that mean the same to both: (?: (?= (?! (?<= (?<! (?> and (?i: */
static bool group_known(const char *p) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strncmp(p, known[i], strlen(known[i])) == 0)
            return true;
    return p[1] != '?' && p[1] != '*';
}

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

static int check(const char *p, struct lorica_error *err) {
    bool in_class = false;
    for (; *p; p++) {
        if (*p == '\\') {
            p++;
            if (!*p || (p[0] >= '0' && p[0] <= '9') ||
                (is_letter(*p) && !strchr("pPsSdDwWnrtfx", *p)))
                return refuse(err, p - 1, *p ? 2 : 1);
            const char *close = strchr(p, '}');
            if ((*p == 'p' || *p == 'P') && p[1] == '{' && close)
                p = close; /* the brace of a property is no repetition */
        } else if (in_class) {
            if (*p == '[' || (*p == '&' && p[1] == '&'))
                return refuse(err, p, 2);
            in_class = *p != ']';
        } else if (*p == '[') {
            in_class = true;
            if (p[1] == '^')
                p++;
            if (p[1] == ']' || p[1] == '[')
                return refuse(err, p, 2);
        } else if (*p == '^' || *p == '$' || (*p == '(' && !group_known(p))) {
            return refuse(err, p, *p == '(' ? 3 : 1);
        } else if (*p == '}' && (p[1] == '+' || p[1] == '?')) {
            return refuse(err, p, 2);
        }
    }
    return 0;
}

int lorica_tokenizer_pattern(const char *pattern, pcre2_code **ret, struct lorica_error *err) {
    const int rc = check(pattern, err);
    if (rc)
        return rc;
    int code = 0;
    size_t offset = 0;
    pcre2_code *regex =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    if (!regex) {
        PCRE2_UCHAR text[128] = "";
        (void)pcre2_get_error_message(code, text, sizeof(text));
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "the pre-tokenizer's pattern does not compile at byte %zu: %s", offset,
                           (const char *)text);
    }
    (void)pcre2_jit_compile(regex, PCRE2_JIT_COMPLETE); /* without it the interpreter matches */
    *ret = regex;
    return 0;
}
