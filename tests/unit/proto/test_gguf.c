/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/buf.h"
#include "proto/gguf.h"

static struct lorica_buf file;

static void put(uint64_t number, size_t nbytes) {
    for (size_t i = 0; i < nbytes; i++) {
        const char byte = (char)(number >> (8 * i));
        assert_int_equal(lorica_buf_append(&file, &byte, 1), 0);
    }
}

static void put_string(const char *text) {
    put(strlen(text), 8);
    assert_int_equal(lorica_buf_puts(&file, text), 0);
}

static void begin(uint32_t version, uint64_t tensors, uint64_t values) {
    lorica_buf_clear(&file);
    assert_int_equal(lorica_buf_puts(&file, "GGUF"), 0);
    put(version, 4);
    put(tensors, 8);
    put(values, 8);
}

static void put_tensor(const char *name, uint64_t k, uint64_t rows, uint32_t type,
                       uint64_t offset) {
    put_string(name);
    put(2, 4);
    put(k, 8);
    put(rows, 8);
    put(type, 4);
    put(offset, 8);
}

/* Pads the header to 32 bytes and adds the data. */
static void put_data(size_t nbytes) {
    while (file.len % 32)
        put(0, 1);
    for (size_t i = 0; i < nbytes; i++)
        put(0, 1);
}

/* Parses a copy that ends where an allocation ends. */
static int parse(size_t len) {
    struct lorica_gguf gguf = {0};
    struct lorica_error err;
    void *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, file.data, len);
    const int rc = lorica_gguf_parse(copy, len, &gguf, &err);
    if (rc == 0)
        lorica_gguf_finish(&gguf);
    else
        assert_true(err.code == rc && err.text[0]);
    free(copy);
    return rc;
}

/* Two values, a Q4_1 tensor of 2x32 and an F32 one of 8. */
static void make_small(void) {
    begin(3, 2, 2);
    put_string("general.architecture");
    put(LORICA_GGUF_STRING, 4);
    put_string("llama");
    put_string("tokens");
    put(LORICA_GGUF_ARRAY, 4);
    put(LORICA_GGUF_STRING, 4);
    put(2, 8);
    put_string("a");
    put_string("bc");
    put_tensor("q", 32, 2, LORICA_GGML_Q4_1, 0);
    put_tensor("f", 8, 1, LORICA_GGML_F32, 64);
    put_data(64 + 32);
}

static void test_parse_small_file_gives_all(void **state) {
    (void)state;
    struct lorica_gguf gguf;
    struct lorica_error err;
    make_small();
    assert_int_equal(lorica_gguf_parse(file.data, file.len, &gguf, &err), 0);
    const struct lorica_gguf_value *tokens = lorica_gguf_find(&gguf, "tokens");
    assert_non_null(tokens);
    assert_int_equal(tokens->count, 2);
    assert_memory_equal(tokens->strings[1].data, "bc", 2);
    const struct lorica_gguf_tensor *f = lorica_gguf_tensor(&gguf, "f");
    assert_non_null(f);
    assert_int_equal(f->offset, file.len - 32);
    assert_int_equal(f->dims[0], 8);
    assert_null(lorica_gguf_tensor(&gguf, "ff"));
    assert_null(lorica_gguf_find(&gguf, "token"));
    assert_int_equal(lorica_gguf_uint(&gguf, "absent", 5), 5);
    lorica_gguf_finish(&gguf);
}

static void test_parse_cut_anywhere_is_refused(void **state) {
    (void)state;
    make_small();
    const size_t len = file.len;
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(parse(cut), LORICA_EFORMAT);
    assert_int_equal(parse(len), 0);
}

static void test_parse_tensor_outside_is_refused(void **state) {
    (void)state;
    static const struct {
        uint64_t k, rows, offset;
        bool good;
    } cases[] = {
        {16, 1, 0, true},
        {16, 1, 32, false},
        {17, 1, 0, false},
        {8, 1, 32, true},
        {9, 1, 32, false},
        {8, 1, 4, false},
        {1, 1, UINT64_MAX - 31, false},
        {UINT64_C(1) << 33, UINT64_C(1) << 33, 0, false},
        {UINT64_C(1) << 62, 1, 0, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin(3, 1, 0);
        put_tensor("t", cases[i].k, cases[i].rows, LORICA_GGML_F32, cases[i].offset);
        put_data(64);
        assert_int_equal(parse(file.len), cases[i].good ? 0 : LORICA_EFORMAT);
    }
}

static void test_parse_hostile_counts_are_refused(void **state) {
    (void)state;
    static const uint64_t counts[] = {UINT64_MAX, UINT64_C(1) << 60, UINT64_C(1) << 32, 100};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        begin(3, counts[i], 0);
        assert_int_not_equal(parse(file.len), 0);
        begin(3, 0, counts[i]);
        assert_int_not_equal(parse(file.len), 0);
        for (int strings = 0; strings < 2; strings++) {
            begin(3, 0, 1);
            put_string("a");
            put(LORICA_GGUF_ARRAY, 4);
            put(strings ? LORICA_GGUF_STRING : LORICA_GGUF_U64, 4);
            put(counts[i], 8);
            assert_int_not_equal(parse(file.len), 0);
        }
    }
}

static void test_parse_duplicates_and_versions_are_refused(void **state) {
    (void)state;
    begin(3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_string("a");
        put(LORICA_GGUF_U8, 4);
        put(1, 1);
    }
    put_data(0);
    assert_int_equal(parse(file.len), LORICA_EFORMAT);
    begin(3, 2, 0);
    put_tensor("t", 8, 1, LORICA_GGML_F32, 0);
    put_tensor("t", 8, 1, LORICA_GGML_F32, 32);
    put_data(64);
    assert_int_equal(parse(file.len), LORICA_EFORMAT);
    for (uint32_t version = 1; version <= 4; version++) {
        begin(version, 0, 0);
        put_data(0);
        assert_int_equal(parse(file.len) == 0, version == 2 || version == 3);
    }
}

static void test_nbytes_whole_blocks_only(void **state) {
    (void)state;
    assert_int_equal(lorica_ggml_nbytes(LORICA_GGML_F32, 3), 12);
    assert_int_equal(lorica_ggml_nbytes(LORICA_GGML_BF16, 3), 6);
    assert_int_equal(lorica_ggml_nbytes(LORICA_GGML_Q4_0, 64), 36);
    assert_int_equal(lorica_ggml_nbytes(LORICA_GGML_Q4_1, 64), 40);
    assert_int_equal(lorica_ggml_nbytes(LORICA_GGML_Q8_0, 64), 68);
    assert_int_equal(lorica_ggml_nbytes(LORICA_GGML_Q8_0, 63), 0);
    assert_int_equal(lorica_ggml_nbytes(LORICA_GGML_F32, UINT64_MAX / 4), UINT64_MAX / 4 * 4);
    assert_int_equal(lorica_ggml_nbytes(LORICA_GGML_F32, UINT64_MAX / 4 + 1), 0);
    assert_int_equal(lorica_ggml_nbytes(99, 32), 0);
}

static int setup(void **state) {
    (void)state;
    lorica_buf_init(&file, 1 << 20);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    lorica_buf_finish(&file);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_small_file_gives_all),
        cmocka_unit_test(test_parse_cut_anywhere_is_refused),
        cmocka_unit_test(test_parse_tensor_outside_is_refused),
        cmocka_unit_test(test_parse_hostile_counts_are_refused),
        cmocka_unit_test(test_parse_duplicates_and_versions_are_refused),
        cmocka_unit_test(test_nbytes_whole_blocks_only),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
