/* SPDX-License-Identifier: MIT */
#include "proto/checks.h"

#include <string.h>

#define NUMBER(i) ((unsigned)(i) + 1)

static int fail(struct lorica_error *err, size_t i, const char *what) {
    return lorica_fail(err, LORICA_EFORMAT, "check %u: %s", NUMBER(i), what);
}

/* A phrase, or a list of them. */
static int read_phrases(const struct lorica_json *value, size_t i, const char **phrases,
                        size_t *ret_count, struct lorica_error *err) {
    const struct lorica_json *one =
        lorica_json_type(value) == LORICA_JSON_ARRAY ? lorica_json_first(value) : value;
    size_t count = 0;
    if (lorica_json_type(value) == LORICA_JSON_NULL)
        return 0;
    for (; one; one = lorica_json_type(value) == LORICA_JSON_ARRAY ? lorica_json_next(one) : NULL) {
        const char *text = lorica_json_string(one);
        if (!text || !*text)
            return fail(err, i, "must_say and must_not_say are phrases, or lists of phrases");
        if (count == LORICA_CHECK_PHRASES)
            return lorica_fail(err, LORICA_ELIMIT, "check %u: more than %d phrases", NUMBER(i),
                               LORICA_CHECK_PHRASES);
        phrases[count++] = text;
    }
    *ret_count = count;
    return 0;
}

static int read_check(const struct lorica_json *object, size_t i, struct lorica_check *check,
                      struct lorica_error *err) {
    static const char *const members[] = {"prompt", "system", "must_say", "must_not_say"};
    const struct lorica_json *system = lorica_json_get(object, "system");
    if (lorica_json_type(object) != LORICA_JSON_OBJECT)
        return fail(err, i, "it is no object");
    for (const struct lorica_json *m = lorica_json_first(object); m; m = lorica_json_next(m)) {
        size_t known = 0;
        while (known < 4 && strcmp(lorica_json_key(m), members[known]) != 0)
            known++;
        if (known == 4)
            return lorica_fail(err, LORICA_EFORMAT,
                               "check %u: \"%.60s\" means nothing; prompt, "
                               "system, must_say and must_not_say do",
                               NUMBER(i), lorica_json_key(m));
    }
    check->prompt = lorica_json_string(lorica_json_get(object, "prompt"));
    check->system = lorica_json_string(system);
    if (!check->prompt || !*check->prompt)
        return fail(err, i, "it has no prompt");
    if (!check->system && lorica_json_type(system) != LORICA_JSON_NULL)
        return fail(err, i, "system is no text");
    int rc =
        read_phrases(lorica_json_get(object, "must_say"), i, check->must, &check->must_count, err);
    if (rc == 0)
        rc = read_phrases(lorica_json_get(object, "must_not_say"), i, check->must_not,
                          &check->must_not_count, err);
    if (rc == 0 && check->must_count + check->must_not_count == 0)
        rc = fail(err, i, "it demands nothing: must_say or must_not_say is missing");
    return rc;
}

int lorica_checks_parse(const char *text, size_t len, struct lorica_checks *ret,
                        struct lorica_error *err) {
    struct lorica_json *root = NULL;
    memset(ret, 0, sizeof(*ret));
    lorica_buf_init(&ret->text, LORICA_CHECKS_BYTES);
    int rc = lorica_json_parse(text, len, &root, err);
    if (rc)
        return rc;
    ret->owned = root;
    if (lorica_json_type(root) != LORICA_JSON_ARRAY || !lorica_json_first(root))
        rc = lorica_fail(err, LORICA_EFORMAT, "checks are a list of at least one");
    for (const struct lorica_json *one = lorica_json_first(root); one && rc == 0;
         one = lorica_json_next(one)) {
        if (ret->count == LORICA_CHECKS_MAX)
            rc =
                lorica_fail(err, LORICA_ELIMIT, "there are more than %d checks", LORICA_CHECKS_MAX);
        else
            rc = read_check(one, ret->count, &ret->items[ret->count], err);
        ret->count += rc == 0;
    }
    if (rc == 0 && (rc = lorica_json_write(&ret->text, root)) != 0)
        rc = lorica_fail(err, rc, "the checks are longer than %zu bytes", LORICA_CHECKS_BYTES);
    if (rc)
        lorica_checks_finish(ret);
    return rc;
}

int lorica_checks_read(const struct lorica_json *array, struct lorica_checks *ret,
                       struct lorica_error *err) {
    struct lorica_buf text;
    lorica_buf_init(&text, LORICA_CHECKS_BYTES);
    int rc = lorica_json_write(&text, array);
    if (rc)
        rc = lorica_fail(err, rc, "the checks are longer than %zu bytes", LORICA_CHECKS_BYTES);
    else
        rc = lorica_checks_parse(text.data, text.len, ret, err);
    lorica_buf_finish(&text);
    return rc;
}

int lorica_checks_parse_lines(const char *text, size_t len, struct lorica_checks *ret,
                              struct lorica_error *err) {
    struct lorica_buf array;
    size_t count = 0;
    lorica_buf_init(&array, 2 * LORICA_CHECKS_BYTES);
    (void)lorica_buf_puts(&array, "[");
    for (size_t at = 0; at < len;) {
        const char *end = memchr(text + at, '\n', len - at);
        const size_t line = end ? (size_t)(end - text) - at : len - at;
        size_t blank = 0;
        while (blank < line && strchr(" \t\r", text[at + blank]) && text[at + blank])
            blank++;
        if (blank < line) {
            (void)lorica_buf_puts(&array, count++ ? "," : "");
            (void)lorica_buf_append(&array, text + at, line);
        }
        at += line + 1;
    }
    (void)lorica_buf_puts(&array, "]");
    int rc = lorica_buf_status(&array);
    if (rc)
        rc = lorica_fail(err, rc, "the checks are longer than %zu bytes", LORICA_CHECKS_BYTES);
    else
        rc = lorica_checks_parse(array.data, array.len, ret, err);
    lorica_buf_finish(&array);
    return rc;
}

void lorica_checks_finish(struct lorica_checks *checks) {
    lorica_json_destroy(checks->owned);
    lorica_buf_finish(&checks->text);
    memset(checks, 0, sizeof(*checks));
}

const char *lorica_check_fault(const struct lorica_check *check, const char *answer,
                               bool *ret_said) {
    for (size_t i = 0; i < check->must_count; i++) {
        *ret_said = false;
        if (!strcasestr(answer, check->must[i]))
            return check->must[i];
    }
    for (size_t i = 0; i < check->must_not_count; i++) {
        *ret_said = true;
        if (strcasestr(answer, check->must_not[i]))
            return check->must_not[i];
    }
    return NULL;
}
