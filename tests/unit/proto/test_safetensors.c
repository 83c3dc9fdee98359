/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/safetensors.h"

/* A file whose header is `json` and whose data are `data` zero bytes; its length. */
static size_t make(uint8_t out[4096], const char *json, size_t data) {
    const size_t len = strlen(json);
    memset(out, 0, 4096);
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)((uint64_t)len >> (8 * i));
    memcpy(out + 8, json, len);
    return 8 + len + data;
}

static void test_write_then_parse_gives_the_same_tensors(void **state) {
    (void)state;
    struct lorica_tensor tensors[] = {
        {.name = "b", .dtype = LORICA_DTYPE_F32, .ndim = 2, .shape = {2, 3}},
        {.name = "a", .dtype = LORICA_DTYPE_BF16, .ndim = 1, .shape = {5}},
        {.name = "scalar", .dtype = LORICA_DTYPE_U8, .ndim = 0},
        {.name = "empty", .dtype = LORICA_DTYPE_I64, .ndim = 1, .shape = {0}},
    };
    const char *metadata[] = {"format", "pt"};
    struct lorica_buf out;
    lorica_buf_init(&out, 100000);
    assert_int_equal(lorica_safetensors_write_header(&out, tensors, 4, metadata, 1), 0);
    assert_int_equal(out.len % 8, 0);
    struct lorica_safetensors file;
    struct lorica_error err;
    assert_int_equal(
        lorica_safetensors_parse(out.data, out.len, out.len + 24 + 10 + 1, &file, &err), 0);
    assert_int_equal(file.count, 4);
    for (int i = 0; i < 4; i++) {
        const struct lorica_tensor *t = lorica_safetensors_find(&file, tensors[i].name);
        assert_non_null(t);
        assert_int_equal(t->offset, tensors[i].offset);
        assert_int_equal(t->nbytes, tensors[i].nbytes);
        assert_int_equal(t->dtype, tensors[i].dtype);
    }
    assert_string_equal(lorica_safetensors_metadata(&file, "format"), "pt");
    assert_null(lorica_safetensors_find(&file, "c"));
    lorica_safetensors_finish(&file);
    lorica_buf_finish(&out);
}

static void test_parse_hostile_headers_refused(void **state) {
    (void)state;
    static const struct {
        const char *json;
        size_t data;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7},   /* cut off */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9},   /* left over */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12}, /* hole */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8},   /* shape */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8}, /* overlap */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1048576,1048576,1048576,16],\"data_offsets\":[0,0]}"
         "}",
         0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]}}",
         8}, /* twice */
        {"{\"__metadata__\":{\"a\":1}}", 0},
        {"[]", 0},
        {" {}", 0},
        {"{\"a\":5}", 0},
    };
    uint8_t bytes[4096];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const size_t len = make(bytes, cases[i].json, cases[i].data);
        struct lorica_safetensors file;
        struct lorica_error err = {0};
        if (lorica_safetensors_parse(bytes, len, len, &file, &err) != LORICA_EFORMAT)
            fail_msg("accepted: %s", cases[i].json);
    }
    const size_t len =
        make(bytes, "{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1);
    struct lorica_safetensors file;
    struct lorica_error err;
    assert_int_equal(lorica_safetensors_parse(bytes, len, len, &file, &err), LORICA_EUNSUPPORTED);
}

static void test_header_size_beyond_file_or_limit_refused(void **state) {
    (void)state;
    uint64_t size = 0;
    struct lorica_error err;
    uint8_t first[8] = {100};
    assert_int_equal(lorica_safetensors_header_size(first, 108, &size, &err), 0);
    assert_int_equal(size, 108);
    assert_int_equal(lorica_safetensors_header_size(first, 107, &size, &err), LORICA_EFORMAT);
    memset(first, 0xff, 8);
    assert_int_equal(lorica_safetensors_header_size(first, 1u << 30, &size, &err), LORICA_EFORMAT);
    const uint64_t over = (uint64_t)LORICA_SAFETENSORS_MAX_HEADER + 1;
    for (int i = 0; i < 8; i++)
        first[i] = (uint8_t)(over >> (8 * i));
    assert_int_equal(lorica_safetensors_header_size(first, UINT64_MAX, &size, &err),
                     LORICA_EFORMAT);
    assert_int_equal(size, 108);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_then_parse_gives_the_same_tensors),
        cmocka_unit_test(test_parse_hostile_headers_refused),
        cmocka_unit_test(test_header_size_beyond_file_or_limit_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
