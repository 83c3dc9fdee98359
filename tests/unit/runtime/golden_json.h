/* SPDX-License-Identifier: MIT
 * Reads the JSON files of tests/golden. */
#ifndef LORICA_TESTS_GOLDEN_JSON_H
#define LORICA_TESTS_GOLDEN_JSON_H

#include <stdio.h>
#include <stdlib.h>

#include "proto/json.h"

/** All bytes of a file, with a NUL behind them; caller frees. */
static inline char *read_all(const char *path, size_t *ret_len) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail_msg("%s cannot be read", path);
    *ret_len = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*ret_len + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *ret_len, file), *ret_len);
    bytes[*ret_len] = '\0';
    (void)fclose(file);
    return bytes;
}

/** tests/golden/NAME; caller destroys. */
static inline struct lorica_json *golden_json(const char *name) {
    char path[4096];
    size_t len = 0;
    struct lorica_json *json = NULL;
    (void)snprintf(path, sizeof(path), "%s/golden/%s", TEST_DATA, name);
    char *text = read_all(path, &len);
    assert_int_equal(lorica_json_parse(text, len, &json, NULL), 0);
    free(text);
    return json;
}

#endif
