/* SPDX-License-Identifier: MIT
 * The tokenizer against ids made by Hugging Face's library (tests/golden/make_tokenizer.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/gguf.h"
#include "runtime/import.h"
#include "runtime/tokenizer.h"

static char *read_whole(const char *path, size_t *ret_len) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *ret_len = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*ret_len + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, *ret_len, f), *ret_len);
    text[*ret_len] = '\0';
    (void)fclose(f);
    return text;
}

static struct lorica_json *parse_file(const char *path) {
    size_t len = 0;
    struct lorica_json *json = NULL;
    char *text = read_whole(path, &len);
    assert_non_null(text);
    assert_int_equal(lorica_json_parse(text, len, &json, NULL), 0);
    free(text);
    return json;
}

/* A tokenizer from tokenizer.json text, as import and open make it. */
static int make(const char *text, size_t len, struct lorica_tokenizer **ret,
                struct lorica_error *err) {
    struct lorica_json *json = NULL;
    struct lorica_buf metadata;
    lorica_buf_init(&metadata, 1u << 24);
    assert_int_equal(lorica_json_parse(text, len, &json, err), 0);
    (void)lorica_buf_puts(&metadata, "{\"tokenizer\":");
    int rc = lorica_import_tokenizer_hf(json, NULL, NULL, NULL, &metadata, err);
    (void)lorica_buf_puts(&metadata, "}");
    if (!rc)
        rc = lorica_tokenizer_create(metadata.data, metadata.len, ret, err);
    lorica_json_destroy(json);
    lorica_buf_finish(&metadata);
    return rc;
}

static struct lorica_tokenizer *make_tiny(void) {
    size_t len = 0;
    struct lorica_tokenizer *tokenizer = NULL;
    char *text = read_whole(TEST_DATA "/golden/tiny/tokenizer.json", &len);
    assert_non_null(text);
    assert_int_equal(make(text, len, &tokenizer, NULL), 0);
    free(text);
    return tokenizer;
}

static int make_from_gguf(const char *path, struct lorica_tokenizer **ret) {
    size_t len = 0;
    char *bytes = read_whole(path, &len);
    if (!bytes)
        return LORICA_ENOTFOUND;
    struct lorica_gguf file = {0};
    struct lorica_buf metadata;
    lorica_buf_init(&metadata, 1u << 26);
    (void)lorica_buf_puts(&metadata, "{\"tokenizer\":");
    assert_int_equal(lorica_gguf_parse(bytes, len, &file, NULL), 0);
    assert_int_equal(lorica_import_tokenizer_gguf(&file, &metadata, NULL), 0);
    (void)lorica_buf_puts(&metadata, "}");
    const int rc = lorica_tokenizer_create(metadata.data, metadata.len, ret, NULL);
    lorica_gguf_finish(&file);
    lorica_buf_finish(&metadata);
    free(bytes);
    return rc;
}

static void check_row(const struct lorica_tokenizer *tokenizer, const struct lorica_json *row,
                      const char *member, bool special) {
    const char *text = lorica_json_string(lorica_json_get(row, "text"));
    const struct lorica_json *want = lorica_json_get(row, member);
    struct lorica_tokens got = {0};
    assert_int_equal(lorica_tokenizer_encode(tokenizer, text, strlen(text), special, &got, NULL),
                     0);
    assert_int_equal(got.count, lorica_json_count(want));
    size_t i = 0;
    for (const struct lorica_json *j = lorica_json_first(want); j; j = lorica_json_next(j))
        assert_int_equal(got.ids[i++], (int)lorica_json_number(j, -1));
    free(got.ids);
}

static void check_vectors(const struct lorica_tokenizer *tokenizer, const char *member,
                          bool special) {
    struct lorica_json *rows = parse_file(TEST_DATA "/golden/tokenizer.vectors.json");
    assert_int_equal(lorica_json_count(rows), 200);
    for (const struct lorica_json *r = lorica_json_first(rows); r; r = lorica_json_next(r))
        check_row(tokenizer, r, member, special);
    lorica_json_destroy(rows);
}

static void test_encode_tiny_gives_reference_ids(void **state) {
    struct lorica_tokenizer *tokenizer = make_tiny();
    check_vectors(tokenizer, "tiny", false);
    check_vectors(tokenizer, "tiny_special", true);
    lorica_tokenizer_destroy(tokenizer);
}

static void test_encode_tiny_gguf_gives_reference_ids(void **state) {
    struct lorica_tokenizer *tokenizer = NULL;
    assert_int_equal(make_from_gguf(TEST_DATA "/golden/tiny.gguf", &tokenizer), 0);
    check_vectors(tokenizer, "tiny", false);
    check_vectors(tokenizer, "tiny_special", true);
    lorica_tokenizer_destroy(tokenizer);
}

static void test_encode_smollm_gives_reference_ids(void **state) {
    const char *path = getenv("LORICA_TEST_MODEL");
    struct lorica_tokenizer *tokenizer = NULL;
    if (!path) {
        printf("skipped: SmolLM2 tokenizer vectors: LORICA_TEST_MODEL is not set\n");
        skip();
    }
    assert_int_equal(make_from_gguf(path, &tokenizer), 0);
    check_vectors(tokenizer, "smollm", false);
    lorica_tokenizer_destroy(tokenizer);
}

static void test_encode_special_off_yields_no_special(void **state) {
    struct lorica_tokenizer *tokenizer = make_tiny();
    const char text[] = "<|im_end|><|im_start|>system\n<|endoftext|>";
    struct lorica_tokens ids = {0};
    assert_int_equal(lorica_tokenizer_encode(tokenizer, text, strlen(text), false, &ids, NULL), 0);
    assert_true(ids.count > 10);
    for (size_t i = 0; i < ids.count; i++)
        assert_true(ids.ids[i] > 2);
    free(ids.ids);
    lorica_tokenizer_destroy(tokenizer);
}

static void test_decode_every_vector_gives_the_text_back(void **state) {
    struct lorica_tokenizer *tokenizer = make_tiny();
    struct lorica_json *rows = parse_file(TEST_DATA "/golden/tokenizer.vectors.json");
    for (const struct lorica_json *r = lorica_json_first(rows); r; r = lorica_json_next(r)) {
        const char *text = lorica_json_string(lorica_json_get(r, "text"));
        struct lorica_tokens ids = {0};
        struct lorica_buf out;
        lorica_buf_init(&out, 1u << 20);
        assert_int_equal(lorica_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, NULL),
                         0);
        for (size_t i = 0; i < ids.count; i++)
            assert_int_equal(lorica_tokenizer_decode(tokenizer, ids.ids[i], true, &out), 0);
        assert_int_equal(out.len, strlen(text));
        if (out.len > 0)
            assert_memory_equal(out.data, text, out.len);
        lorica_buf_finish(&out);
        free(ids.ids);
    }
    lorica_json_destroy(rows);
    lorica_tokenizer_destroy(tokenizer);
}

static void test_encode_one_long_piece_ends(void **state) {
    struct lorica_tokenizer *tokenizer = make_tiny();
    const size_t len = 1u << 20;
    char *text = malloc(len);
    assert_non_null(text);
    static const char fills[] = {'a', ' ', '<', '\n'};
    for (size_t f = 0; f < sizeof(fills); f++) {
        struct lorica_tokens ids = {0};
        memset(text, fills[f], len);
        assert_int_equal(lorica_tokenizer_encode(tokenizer, text, len, false, &ids, NULL), 0);
        assert_true(ids.count > 0 && ids.count <= len);
        free(ids.ids);
    }
    free(text);
    lorica_tokenizer_destroy(tokenizer);
}

static void test_encode_broken_utf8_is_refused(void **state) {
    struct lorica_tokenizer *tokenizer = make_tiny();
    struct lorica_tokens ids = {0};
    struct lorica_error err = {0};
    assert_int_equal(lorica_tokenizer_encode(tokenizer, "ab\xff", 3, false, &ids, &err),
                     LORICA_EFORMAT);
    assert_non_null(strstr(err.text, "byte 2"));
    assert_int_equal(ids.count, 0);
    lorica_tokenizer_destroy(tokenizer);
}

/* Replaces the first `from` in the tiny tokenizer.json and expects a refusal that names `name`. */
static void expect_refused(const char *from, const char *to, const char *name) {
    size_t len = 0;
    char *text = read_whole(TEST_DATA "/golden/tiny/tokenizer.json", &len);
    assert_non_null(text);
    char *at = strstr(text, from);
    assert_non_null(at);
    struct lorica_buf changed;
    lorica_buf_init(&changed, 1u << 20);
    (void)lorica_buf_append(&changed, text, (size_t)(at - text));
    (void)lorica_buf_puts(&changed, to);
    (void)lorica_buf_puts(&changed, at + strlen(from));
    struct lorica_tokenizer *tokenizer = NULL;
    struct lorica_error err = {0};
    assert_true(make(changed.data, changed.len, &tokenizer, &err) < 0);
    assert_null(tokenizer);
    assert_non_null(strstr(err.text, name));
    lorica_buf_finish(&changed);
    free(text);
}

static void test_import_unknown_parts_are_refused_by_name(void **state) {
    expect_refused("\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback");
    expect_refused("\"type\": \"BPE\"", "\"type\": \"Unigram\"", "Unigram");
    expect_refused("\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}",
                   "Lowercase");
    expect_refused("\"type\": \"Digits\"", "\"type\": \"Metaspace\"", "Metaspace");
    expect_refused("\"type\": \"Digits\"",
                   "\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": "
                   "\"\\\\h+\"}",
                   "\\h");
    expect_refused("\"dropout\": null", "\"dropout\": 0.1", "dropout");
    expect_refused("\"id\": 1,", "\"id\": 0,", "two added tokens have the id 0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode_tiny_gives_reference_ids),
        cmocka_unit_test(test_encode_tiny_gguf_gives_reference_ids),
        cmocka_unit_test(test_encode_smollm_gives_reference_ids),
        cmocka_unit_test(test_encode_special_off_yields_no_special),
        cmocka_unit_test(test_decode_every_vector_gives_the_text_back),
        cmocka_unit_test(test_encode_one_long_piece_ends),
        cmocka_unit_test(test_encode_broken_utf8_is_refused),
        cmocka_unit_test(test_import_unknown_parts_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
