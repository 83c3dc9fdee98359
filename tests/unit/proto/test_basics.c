/* SPDX-License-Identifier: MIT
 * The buffer, UTF-8 and digests as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/buf.h"
#include "proto/digest.h"
#include "proto/utf8.h"

static void test_buf_limit_is_exact_and_failure_stays(void **state) {
    (void)state;
    struct lorica_buf buf;
    for (size_t len = 9; len <= 11; len++) {
        lorica_buf_init(&buf, 10);
        assert_int_equal(lorica_buf_append(&buf, "0123456789a", len),
                         len <= 10 ? 0 : LORICA_ELIMIT);
        assert_int_equal(buf.len, len <= 10 ? len : 0);
        assert_int_equal(lorica_buf_puts(&buf, "xx"), LORICA_ELIMIT);
        assert_int_equal(lorica_buf_puts(&buf, ""), LORICA_ELIMIT);
        assert_int_equal(lorica_buf_status(&buf), LORICA_ELIMIT);
        assert_null(lorica_buf_take(&buf, NULL));
        lorica_buf_clear(&buf);
        assert_int_equal(lorica_buf_status(&buf), 0);
        lorica_buf_finish(&buf);
    }
    lorica_buf_init(&buf, SIZE_MAX);
    assert_null(lorica_buf_reserve(&buf, SIZE_MAX));
    assert_int_not_equal(lorica_buf_status(&buf), 0);
    lorica_buf_finish(&buf);
}

static void test_buf_reserve_consume_take(void **state) {
    (void)state;
    struct lorica_buf buf;
    lorica_buf_init(&buf, 100);
    char *room = lorica_buf_reserve(&buf, 100);
    assert_non_null(room);
    memcpy(room, "hello", 5);
    lorica_buf_commit(&buf, 5);
    assert_int_equal(lorica_buf_printf(&buf, " %d%s", 42, "!"), 0);
    assert_string_equal(buf.data, "hello 42!");
    lorica_buf_consume(&buf, 6);
    assert_string_equal(buf.data, "42!");
    size_t len = 0;
    char *text = lorica_buf_take(&buf, &len);
    assert_string_equal(text, "42!");
    assert_int_equal(len, 3);
    assert_int_equal(buf.len, 0);
    free(text);
    lorica_buf_finish(&buf);
}

static void test_utf8_edges_are_exact(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t valid;
    } cases[] = {
        {"abc", 3},          {"\x7f", 1},         {"\xc2\x80", 2},         {"\xc1\xbf", 0},
        {"\xdf\xbf", 2},     {"\xe0\xa0\x80", 3}, {"\xe0\x9f\xbf", 0},     {"\xed\x9f\xbf", 3},
        {"\xed\xa0\x80", 0}, {"\xee\x80\x80", 3}, {"\xf0\x90\x80\x80", 4}, {"\xf0\x8f\xbf\xbf", 0},
        {"a\x80", 1},        {"\xff", 0},         {"\xf4\x8f\xbf\xbf", 4}, {"\xf4\x90\x80\x80", 0},
        {"a\xe2\x82", 1},    {"\xf5\x80", 0},     {"ab\xc3\xa9\xc3", 4},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const size_t len = strlen(cases[i].text);
        assert_int_equal(lorica_utf8_valid_prefix(cases[i].text, len), cases[i].valid);
        assert_int_equal(lorica_utf8_valid(cases[i].text, len), cases[i].valid == len);
    }
}

static void test_utf8_incomplete_tail_is_counted(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t tail;
    } cases[] = {
        {"", 0},         {"abc", 0},  {"a\xc3", 1},    {"a\xc3\xa9", 0},
        {"\xe2\x82", 2}, {"\xe2", 1}, {"\xf0\x9f", 2}, {"\xf0\x9f\x98", 3},
        {"\x80", 0},     {"\xff", 0}, {"\xe0\x9f", 0}, {"\xf0\x9f\x98\x80", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(lorica_utf8_incomplete_tail(cases[i].text, strlen(cases[i].text)),
                         cases[i].tail);
}

static void test_digest_text_has_one_form(void **state) {
    (void)state;
    struct lorica_digest digest, again;
    char text[LORICA_DIGEST_TEXT];
    for (int i = 0; i < 32; i++)
        digest.bytes[i] = (uint8_t)(i * 9);
    lorica_digest_format(&digest, text);
    assert_int_equal(strlen(text), LORICA_DIGEST_TEXT - 1);
    assert_int_equal(lorica_digest_parse(text, strlen(text), &again), 0);
    assert_true(lorica_digest_equal(&digest, &again));
    assert_int_equal(lorica_digest_parse(text, strlen(text) - 1, &again), LORICA_EINVAL);
    assert_int_equal(lorica_digest_parse(text, strlen(text) + 1, &again), LORICA_EINVAL);
    for (size_t at = 0; at < strlen(text); at++) {
        char bad[LORICA_DIGEST_TEXT];
        memcpy(bad, text, sizeof(bad));
        bad[at] = at < 7 ? 'S' : 'A';
        assert_int_equal(lorica_digest_parse(bad, strlen(bad), &again), LORICA_EINVAL);
    }
    again.bytes[31] ^= 1;
    assert_false(lorica_digest_equal(&digest, &again));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_limit_is_exact_and_failure_stays),
        cmocka_unit_test(test_buf_reserve_consume_take),
        cmocka_unit_test(test_utf8_edges_are_exact),
        cmocka_unit_test(test_utf8_incomplete_tail_is_counted),
        cmocka_unit_test(test_digest_text_has_one_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
