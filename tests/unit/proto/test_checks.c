/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/checks.h"

static void test_list_is_read(void **state) {
    static const char text[] =
        " [ {\"prompt\": \"a\", \"must_say\": \"x\"}, {\"prompt\": \"b\", \"system\": \"s\","
        " \"must_say\": [], \"must_not_say\": [\"y\", \"z\"]} ] ";
    struct lorica_checks checks;
    struct lorica_error err = {0};
    assert_int_equal(lorica_checks_parse(text, strlen(text), &checks, &err), 0);
    assert_int_equal(checks.count, 2);
    assert_string_equal(checks.items[0].prompt, "a");
    assert_null(checks.items[0].system);
    assert_int_equal(checks.items[0].must_count, 1);
    assert_string_equal(checks.items[1].system, "s");
    assert_int_equal(checks.items[1].must_count, 0);
    assert_int_equal(checks.items[1].must_not_count, 2);
    assert_string_equal(checks.items[1].must_not[1], "z");
    assert_string_equal(checks.text.data,
                        "[{\"prompt\":\"a\",\"must_say\":\"x\"},{\"prompt\":\"b\",\"system\":\"s\","
                        "\"must_say\":[],\"must_not_say\":[\"y\",\"z\"]}]");
    lorica_checks_finish(&checks);
}

static void test_lines_are_read_and_blank_ones_passed_over(void **state) {
    static const char text[] = "\n{\"prompt\":\"a\",\"must_say\":\"x\"}\r\n \t\n"
                               "{\"prompt\":\"b\",\"must_say\":\"y\"}";
    struct lorica_checks checks;
    struct lorica_error err = {0};
    assert_int_equal(lorica_checks_parse_lines(text, strlen(text), &checks, &err), 0);
    assert_int_equal(checks.count, 2);
    assert_string_equal(checks.items[1].must[0], "y");
    lorica_checks_finish(&checks);
    assert_int_equal(lorica_checks_parse_lines("\n\n", 2, &checks, &err), LORICA_EFORMAT);
    assert_int_equal(lorica_checks_parse_lines("x", 1, &checks, &err), LORICA_EFORMAT);
}

static void test_fault_is_the_first_phrase_missing_or_said(void **state) {
    const struct lorica_check check = {
        .must = {"Heart", "centre"}, .must_count = 2, .must_not = {"lawyer"}, .must_not_count = 1};
    bool said = true;
    assert_null(lorica_check_fault(&check, "the HEART Centre", &said));
    assert_string_equal(lorica_check_fault(&check, "the heart", &said), "centre");
    assert_false(said);
    assert_string_equal(lorica_check_fault(&check, "heart centre's LAWYERS", &said), "lawyer");
    assert_true(said);
    assert_string_equal(lorica_check_fault(&check, "", &said), "Heart");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list_is_read),
        cmocka_unit_test(test_lines_are_read_and_blank_ones_passed_over),
        cmocka_unit_test(test_fault_is_the_first_phrase_missing_or_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
