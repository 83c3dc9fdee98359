/* SPDX-License-Identifier: MIT
 * A regular expression and, behind a newline, a text. What lorica reads, PCRE2 must read alike. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/pattern.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* 1 or 0; -1 when PCRE2 gives up, and for its names of classes, which Python does not have. */
static int reference(const char *expression, const char *text, bool suffix) {
    if (strstr(expression, "[:") || strstr(expression, "[.") || strstr(expression, "[="))
        return -1;
    char whole[LORICA_PATTERN_MAX + 64];
    int code;
    size_t offset;
    (void)snprintf(whole, sizeof(whole), "\\A%s(?:%s)\\z", suffix ? "(?:.*\\.)?" : "", expression);
    pcre2_code *regex = pcre2_compile((PCRE2_SPTR)whole, PCRE2_ZERO_TERMINATED,
                                      PCRE2_DOTALL | PCRE2_DOLLAR_ENDONLY, &code, &offset, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if (!regex || !limits)
        abort(); /* lorica has read it */
    pcre2_set_match_limit(limits, 100000);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    const int n =
        pcre2_match(regex, (PCRE2_SPTR)text, strlen(text), 0, PCRE2_NO_JIT, match, limits);
    pcre2_match_data_free(match);
    pcre2_match_context_free(limits);
    pcre2_code_free(regex);
    return n >= 0 ? 1 : n == PCRE2_ERROR_NOMATCH ? 0 : -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    char *expression = malloc(len + 1);
    if (!expression)
        return 0;
    memcpy(expression, data, len);
    expression[len] = '\0';
    char *newline = strchr(expression, '\n');
    const char *text = newline ? newline + 1 : "";
    if (newline)
        *newline = '\0';
    for (int suffix = 0; suffix < 2; suffix++) {
        struct lorica_error err = {0};
        bool matches = false;
        const int rc = lorica_pattern_match(expression, text, suffix, &matches, &err);
        if (rc) {
            if (err.code != rc || !*err.text)
                abort();
            continue;
        }
        const int expected = reference(expression, text, suffix);
        if (expected >= 0 && expected != matches)
            abort();
    }
    free(expression);
    return 0;
}
