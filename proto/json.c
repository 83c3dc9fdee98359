/* SPDX-License-Identifier: MIT
 * Reading. A struct lorica_json is a cJSON under another name: only this file knows. */
#include "proto/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "proto/json_scan.h"

static const cJSON *in(const struct lorica_json *value) { return (const cJSON *)value; }
static const struct lorica_json *out(const cJSON *value) {
    return (const struct lorica_json *)value;
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Refuses a duplicate key in one object. */
static int check_object(const cJSON *object, struct lorica_error *err) {
    const size_t count = lorica_json_count(out(object));
    if (count < 2)
        return 0;
    const char **keys = malloc(count * sizeof(*keys));
    if (!keys)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %zu JSON keys", count);
    size_t i = 0;
    for (const cJSON *child = object->child; child; child = child->next)
        keys[i++] = child->string;
    qsort(keys, count, sizeof(*keys), compare_keys);
    int rc = 0;
    for (i = 1; i < count && rc == 0; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            rc = lorica_fail(err, LORICA_EFORMAT, "JSON: the key \"%.100s\" stands twice", keys[i]);
    free(keys);
    return rc;
}

/* Recursion is bounded: the scan has limited the depth. */
static int check_tree(const cJSON *value, struct lorica_error *err) {
    if (cJSON_IsObject(value)) {
        const int rc = check_object(value, err);
        if (rc)
            return rc;
    }
    if (cJSON_IsNumber(value) && !isfinite(value->valuedouble))
        return lorica_fail(err, LORICA_EFORMAT, "JSON: a number is too large");
    for (const cJSON *child = value->child; child; child = child->next) {
        const int rc = check_tree(child, err);
        if (rc)
            return rc;
    }
    return 0;
}

int lorica_json_parse(const char *text, size_t len, struct lorica_json **ret,
                      struct lorica_error *err) {
    int rc = lorica_json_scan(text, len, err);
    if (rc)
        return rc;
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, len, &end, 0);
    if (!root)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %zu bytes of JSON", len);
    rc = check_tree(root, err);
    if (rc) {
        cJSON_Delete(root);
        return rc;
    }
    *ret = (struct lorica_json *)root;
    return 0;
}

void lorica_json_destroy(struct lorica_json *root) { cJSON_Delete((cJSON *)root); }

enum lorica_json_type lorica_json_type(const struct lorica_json *value) {
    const cJSON *v = in(value);
    return cJSON_IsBool(v)     ? LORICA_JSON_BOOL
           : cJSON_IsNumber(v) ? LORICA_JSON_NUMBER
           : cJSON_IsString(v) ? LORICA_JSON_STRING
           : cJSON_IsArray(v)  ? LORICA_JSON_ARRAY
           : cJSON_IsObject(v) ? LORICA_JSON_OBJECT
                               : LORICA_JSON_NULL;
}

const char *lorica_json_type_name(enum lorica_json_type type) {
    static const char *const names[] = {"null",     "true or false", "a number",
                                        "a string", "an array",      "an object"};
    return names[type];
}

const struct lorica_json *lorica_json_get(const struct lorica_json *object, const char *key) {
    return cJSON_IsObject(in(object)) ? out(cJSON_GetObjectItemCaseSensitive(in(object), key))
                                      : NULL;
}

size_t lorica_json_count(const struct lorica_json *value) {
    size_t count = 0;
    for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c))
        count++;
    return count;
}

const struct lorica_json *lorica_json_first(const struct lorica_json *value) {
    return value ? out(in(value)->child) : NULL;
}

const struct lorica_json *lorica_json_next(const struct lorica_json *child) {
    return out(in(child)->next);
}

const char *lorica_json_key(const struct lorica_json *child) { return in(child)->string; }

const char *lorica_json_string(const struct lorica_json *value) {
    return cJSON_GetStringValue(in(value));
}

bool lorica_json_is_true(const struct lorica_json *value) { return cJSON_IsTrue(in(value)); }

double lorica_json_number(const struct lorica_json *value, double fallback) {
    return cJSON_IsNumber(in(value)) ? in(value)->valuedouble : fallback;
}

int lorica_json_integer(const struct lorica_json *value, int64_t min, int64_t max, int64_t *ret) {
    const double limit = 9007199254740992.0; /* 2^53 */
    if (!cJSON_IsNumber(in(value)))
        return LORICA_EINVAL;
    const double number = in(value)->valuedouble;
    if (number != floor(number) || fabs(number) > limit)
        return LORICA_EINVAL;
    const int64_t integer = (int64_t)number;
    if (integer < min || integer > max)
        return LORICA_EINVAL;
    *ret = integer;
    return 0;
}
