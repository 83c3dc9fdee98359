/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/cmd/table.h"

static char *printed(const struct lorica_table *table) {
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    assert_true(lorica_table_print(table, out));
    assert_int_equal(fclose(out), 0);
    return text;
}

static void test_table_columns_are_as_wide_as_their_widest_cell(void **state) {
    (void)state;
    static const char *const headings[] = {"NAME", "N", "LAST", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    lorica_table_text(table, "a");
    lorica_table_number(table, 12345);
    lorica_table_text(table, "x");
    lorica_table_text(table, "p\xc3\xa4"
                             "diatrie");
    lorica_table_number(table, 7);
    lorica_table_format(table, "%s@%d", "y", 1);
    char *text = printed(table);
    assert_string_equal(text, "NAME           N  LAST\n"
                              "a          12345  x\n"
                              "p\xc3\xa4"
                              "diatrie      7  y@1\n");
    free(text);
    lorica_table_destroy(table);
}

static void test_table_empty_prints_headings(void **state) {
    (void)state;
    static const char *const headings[] = {"A", "B", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    char *text = printed(table);
    assert_string_equal(text, "A  B\n");
    free(text);
    lorica_table_destroy(table);
    lorica_table_destroy(NULL);
}

static void test_table_control_characters_are_replaced(void **state) {
    (void)state;
    static const char *const headings[] = {"A", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    lorica_table_text(table, "\x1b[31mred\n");
    lorica_table_time(table, 0);
    lorica_table_time(table, 1772357400);
    char *text = printed(table);
    assert_string_equal(text, "A\n?[31mred?\n-\n2026-03-01 09:30:00\n");
    free(text);
    lorica_table_destroy(table);
}

static void test_plain_text_keeps_lines_and_drops_control(void **state) {
    (void)state;
    static const char dirty[] = "a\tb\n\x1b]0;t\x07\xc2\x9b"
                                "c\xc2\xa0\xe2\x82\xac\x7f";
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    lorica_print_plain(out, dirty, sizeof(dirty) - 1);
    assert_int_equal(fclose(out), 0);
    assert_string_equal(text, "a\tb\n?]0;t??c\xc2\xa0\xe2\x82\xac?");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_columns_are_as_wide_as_their_widest_cell),
        cmocka_unit_test(test_table_empty_prints_headings),
        cmocka_unit_test(test_table_control_characters_are_replaced),
        cmocka_unit_test(test_plain_text_keeps_lines_and_drops_control),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
