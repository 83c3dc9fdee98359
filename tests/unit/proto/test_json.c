/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/json.h"

static int parse(const char *text, size_t len, struct lorica_json **ret) {
    struct lorica_error err = {0};
    const int rc = lorica_json_parse(text, len, ret, &err);
    assert_int_equal(rc, err.code);
    return rc;
}

/* Written back compact, or NULL when refused. Caller frees. */
static char *round_trip(const char *text) {
    struct lorica_json *root = NULL;
    if (parse(text, strlen(text), &root) != 0)
        return NULL;
    struct lorica_buf out;
    lorica_buf_init(&out, 10000);
    assert_int_equal(lorica_json_write(&out, root), 0);
    lorica_json_destroy(root);
    return lorica_buf_take(&out, NULL);
}

static void test_parse_valid_texts_written_back_alike(void **state) {
    (void)state;
    static const char *const texts[][2] = {
        {"null", "null"},
        {" [ ] ", "[]"},
        {"{\"a\":[1,2.5,-3e2,{\"b\":true}],\"c\":\"x\"}",
         "{\"a\":[1,2.5,-300,{\"b\":true}],\"c\":\"x\"}"},
        {"\"\\u00e9\\ud83d\\ude00\\n\\\"\"", "\"\xc3\xa9\xf0\x9f\x98\x80\\n\\\"\""},
        {"[0,-0.0,1e-7,0.1]", "[0,0,1e-07,0.1]"},
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char *text = round_trip(texts[i][0]);
        assert_non_null(text);
        assert_string_equal(text, texts[i][1]);
        free(text);
    }
}

static void test_parse_invalid_texts_refused(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "nul",
        "truex",
        "[1 2]",
        "{a:1}",
        "\"\\x\"",
        "\"\n\"",
        "\"\\u12\"",
        "\"a",
        "1 2",
        "NaN",
        "[1}",
        "{\"a\"}",
        "1e999",
        "'a'",
        "/**/1",
        "{\"a\":1,\"a\":2}",
        "[{\"k\":1,\"x\":2,\"k\":3}]",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\u0000\"",
        "{\"\\u0000\":1}",
        "\"\xff\"",
        "\"\xc0\x80\"",
        "\"\xed\xa0\x80\"",
        "\xef\xbb\xbf{}",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct lorica_json *root = NULL;
        assert_int_equal(parse(texts[i], strlen(texts[i]), &root), LORICA_EFORMAT);
        assert_null(root);
    }
    struct lorica_json *root = NULL;
    assert_int_equal(parse("1\0", 2, &root), LORICA_EFORMAT);
}

static void test_write_depth_64_written_65_refused(void **state) {
    (void)state;
    for (unsigned depth = 63; depth <= 65; depth++) {
        struct lorica_buf out;
        lorica_buf_init(&out, 1000);
        struct lorica_jsonw w = {.out = &out};
        for (unsigned i = 0; i < depth; i++)
            lorica_jsonw_array(&w, NULL);
        lorica_jsonw_integer(&w, NULL, 1);
        lorica_jsonw_integer(&w, NULL, 2);
        for (unsigned i = 0; i < depth; i++)
            lorica_jsonw_end_array(&w);
        assert_int_equal(lorica_buf_status(&out), depth <= 64 ? 0 : LORICA_ELIMIT);
        if (depth <= 64) {
            assert_int_equal(out.len, 2 * depth + 3);
            assert_memory_equal(out.data + depth, "1,2]", 4);
        }
        lorica_buf_finish(&out);
    }
}

static void test_parse_depth_64_accepted_65_refused(void **state) {
    (void)state;
    char text[140];
    for (size_t depth = 64; depth <= 65; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        struct lorica_json *root = NULL;
        assert_int_equal(parse(text, 2 * depth, &root), depth == 64 ? 0 : LORICA_EFORMAT);
        lorica_json_destroy(root);
    }
}

static void test_integer_outside_range_or_with_fraction_refused(void **state) {
    (void)state;
    struct lorica_json *root;
    const char *text = "[5,5.5,9007199254740993,\"5\"]";
    assert_int_equal(parse(text, strlen(text), &root), 0);
    const struct lorica_json *c = lorica_json_first(root);
    int64_t value = -1;
    assert_int_equal(lorica_json_integer(c, 5, 5, &value), 0);
    assert_int_equal(value, 5);
    assert_int_equal(lorica_json_integer(c, 6, 9, &value), LORICA_EINVAL);
    assert_int_equal(lorica_json_integer(c, 0, 4, &value), LORICA_EINVAL);
    c = lorica_json_next(c);
    assert_int_equal(lorica_json_integer(c, 0, 9, &value), LORICA_EINVAL);
    c = lorica_json_next(lorica_json_next(c));
    assert_int_equal(lorica_json_integer(c, 0, 9, &value), LORICA_EINVAL);
    assert_int_equal(value, 5);
    lorica_json_destroy(root);
}

static void test_writer_numbers_as_python_repr(void **state) {
    (void)state;
    static const struct {
        double number;
        const char *text;
    } cases[] = {{0.1, "0.1"},
                 {3, "3.0"},
                 {1e-5, "1e-05"},
                 {1e16, "1e+16"},
                 {1e15, "1000000000000000.0"},
                 {0.0001, "0.0001"},
                 {-0.0, "-0.0"},
                 {0.04372812435030937, "0.04372812435030937"},
                 {1e100, "1e+100"},
                 {123456.789, "123456.789"},
                 {5e-324, "5e-324"},
                 {120, "120.0"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_buf out;
        lorica_buf_init(&out, 100);
        struct lorica_jsonw w = {.out = &out};
        lorica_jsonw_number(&w, NULL, cases[i].number);
        assert_string_equal(out.data, cases[i].text);
        lorica_buf_finish(&out);
    }
}

static void test_writer_escapes_and_replaces_invalid_utf8(void **state) {
    (void)state;
    struct lorica_buf out;
    lorica_buf_init(&out, 1000);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_bytes(&w, "a\"", "x\xff\xc3\xa9\0\xe2\x82", 7);
    lorica_jsonw_array(&w, "b");
    lorica_jsonw_bool(&w, NULL, false);
    lorica_jsonw_null(&w, NULL);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_integer(&w, "c", -7);
    lorica_jsonw_end_object(&w);
    assert_int_equal(lorica_buf_status(&out), 0);
    assert_string_equal(out.data,
                        "{\"a\\\"\":\"x\xef\xbf\xbd\xc3\xa9\\u0000\xef\xbf\xbd\xef\xbf\xbd"
                        "\",\"b\":[false,null],\"c\":-7}");
    lorica_buf_finish(&out);
}

static void test_buffer_over_its_limit_fails_and_stays_failed(void **state) {
    (void)state;
    struct lorica_buf buf;
    lorica_buf_init(&buf, 5);
    assert_int_equal(lorica_buf_append(&buf, "12345", 5), 0);
    assert_int_equal(lorica_buf_append(&buf, "6", 1), LORICA_ELIMIT);
    assert_int_equal(lorica_buf_append(&buf, "", 0), LORICA_ELIMIT);
    assert_int_equal(lorica_buf_status(&buf), LORICA_ELIMIT);
    assert_null(lorica_buf_take(&buf, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_valid_texts_written_back_alike),
        cmocka_unit_test(test_parse_invalid_texts_refused),
        cmocka_unit_test(test_write_depth_64_written_65_refused),
        cmocka_unit_test(test_parse_depth_64_accepted_65_refused),
        cmocka_unit_test(test_integer_outside_range_or_with_fraction_refused),
        cmocka_unit_test(test_writer_numbers_as_python_repr),
        cmocka_unit_test(test_writer_escapes_and_replaces_invalid_utf8),
        cmocka_unit_test(test_buffer_over_its_limit_fails_and_stays_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
