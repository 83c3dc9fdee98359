/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/http_fields.h"

static void test_if_match_one_epoch_is_read(void **state) {
    (void)state;
    uint64_t epoch = 1;
    assert_int_equal(lorica_http_if_match("\"0\"", &epoch), 0);
    assert_int_equal(epoch, 0);
    assert_int_equal(lorica_http_if_match(" \"18446744073709551615\" ", &epoch), 0);
    assert_true(epoch == UINT64_MAX);
}

static void test_if_match_anything_else_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",       "*",      "7",       "\"\"",        "\"7",    "W/\"7\"",
        "\"07\"", "\"-1\"", "\"7\" x", "\"7\",\"8\"", "\"7 \"", "\"18446744073709551616\""};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint64_t epoch = 99;
        assert_int_equal(lorica_http_if_match(bad[i], &epoch), LORICA_EINVAL);
        assert_int_equal(epoch, 99);
    }
}

static void test_bearer_token_is_found(void **state) {
    (void)state;
    size_t len = 0;
    const char *token = lorica_http_bearer("bearer  lor_ab.C-1~+/== ", &len);
    assert_non_null(token);
    assert_int_equal(len, 15);
    assert_memory_equal(token, "lor_ab.C-1~+/==", len);
    static const char *const bad[] = {"",          "Bearer",     "Bearer ",
                                      "Basic abc", "Bearer a b", "Bearer a=b",
                                      "Bearer =",  "Bearerabc",  "Bearer \xc3\xa9"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_null(lorica_http_bearer(bad[i], &len));
}

static int decode(const char *text, bool plus, char *out, size_t size) {
    return lorica_http_decode(text, strlen(text), plus, out, size);
}

static void test_decode_segment_gives_the_text(void **state) {
    (void)state;
    char out[16];
    assert_int_equal(decode("caf%C3%a9+1", false, out, sizeof(out)), 0);
    assert_string_equal(out, "caf\xc3\xa9+1");
    assert_int_equal(decode("a+b%2Fc", true, out, sizeof(out)), 0);
    assert_string_equal(out, "a b/c");
    assert_int_equal(decode("abc", false, out, 4), 0);
    assert_int_equal(decode("abcd", false, out, 4), LORICA_ELIMIT);
    assert_string_equal(out, "");
}

static void test_decode_hostile_segment_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"%",   "%4",    "%4g",    "%00",  "a%0ab",
                                      "%7f", "a%2fb", "a%5cb",  "a\\b", "a/b",
                                      "..",  ".",     "%2e%2E", "%ff",  "%c0%af"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char out[16] = "kept";
        assert_int_equal(decode(bad[i], false, out, sizeof(out)), LORICA_EINVAL);
        assert_string_equal(out, "");
    }
}

static void test_query_value_is_looked_up(void **state) {
    (void)state;
    char out[16];
    assert_int_equal(lorica_http_query("limit=20&a%66ter=x+y&flag", "limit", out, 16), 0);
    assert_string_equal(out, "20");
    assert_int_equal(lorica_http_query("limit=20&a%66ter=x+y&flag", "after", out, 16), 0);
    assert_string_equal(out, "x y");
    assert_int_equal(lorica_http_query("limit=20&flag", "flag", out, 16), 0);
    assert_string_equal(out, "");
    assert_int_equal(lorica_http_query("limit=20", "lim", out, 16), LORICA_ENOTFOUND);
    assert_int_equal(lorica_http_query("lim=20", "limit", out, 16), LORICA_ENOTFOUND);
    assert_int_equal(lorica_http_query(NULL, "limit", out, 16), LORICA_ENOTFOUND);
    static const char *const names[] = {"limit", "metadata[", NULL};
    const char *unknown = NULL;
    assert_int_equal(
        lorica_http_query_unknown("limit=1&metadata%5Bx%5D=2&&metadata[]=", names, &unknown), 0);
    assert_int_equal(lorica_http_query_unknown("limit=1&metadata[x=2", names, &unknown), 12);
    assert_int_equal(lorica_http_query_unknown("metadata=2&limit", names, &unknown), 10);
    assert_int_equal(lorica_http_query_unknown("xmetadata[a]=2", names, &unknown), 14);
    assert_int_equal(lorica_http_query("a=1&a=2", "a", out, 16), LORICA_EINVAL);
    assert_int_equal(lorica_http_query("a=%zz", "a", out, 16), LORICA_EINVAL);
    assert_int_equal(lorica_http_query("a=0123456789abcdef", "a", out, 16), LORICA_ELIMIT);
}

static void test_http_time_reads_moments(void **state) {
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"1970-01-01", 0},
        {"2026-03-01T09:30:00Z", 1772357400000},
        {"2026-03-01T10:30:00+01:00", 1772357400000},
        {"2026-03-01T10:30:00 01:00", 1772357400000}, /* an unescaped '+' */
        {"2026-03-01t04:30:00-05:00", 1772357400000},
        {"2026-03-01 09:30:00.5z", 1772357400500},
        {"2026-03-01T09:30:00.123987Z", 1772357400123},
        {"2024-02-29", 1709164800000},
        {"2000-02-29T23:59:59.999Z", 951868799999},
        {"2016-12-31T23:59:60Z", 1483228800000},
        {"9999-12-31T23:59:59Z", 253402300799000},
        {"0", 0},
        {"1772357400123", 1772357400123},
    };
    static const char *const refused[] = {
        "",
        "x",
        "2026-",
        "2026-3-1",
        "2026-13-01",
        "2026-00-10",
        "2026-02-29",
        "1900-02-29",
        "2026-04-31",
        "2026-03-01T",
        "2026-03-01T09:30",
        "2026-03-01T09:30:00",
        "2026-03-01T24:00:00Z",
        "2026-03-01T09:60:00Z",
        "2026-03-01T09:30:61Z",
        "2026-03-01T09:30:00.Z",
        "2026-03-01T09:30:00+1:00",
        "2026-03-01T09:30:00+24:00",
        "2026-03-01T09:30:00Zx",
        "1969-12-31",
        "-1",
        "1234567890123456",
        "12 ",
        "2026-03-01Z",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t ms = -1;
        assert_int_equal(lorica_http_time(cases[i].text, &ms), 0);
        assert_int_equal(ms, cases[i].ms);
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        int64_t ms;
        if (lorica_http_time(refused[i], &ms) != LORICA_EINVAL)
            fail_msg("\"%s\" was taken", refused[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_time_reads_moments),
        cmocka_unit_test(test_if_match_one_epoch_is_read),
        cmocka_unit_test(test_if_match_anything_else_is_refused),
        cmocka_unit_test(test_bearer_token_is_found),
        cmocka_unit_test(test_decode_segment_gives_the_text),
        cmocka_unit_test(test_decode_hostile_segment_is_refused),
        cmocka_unit_test(test_query_value_is_looked_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
