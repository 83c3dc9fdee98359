/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/cmd/cmd.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct lorica_cmd cmd = {
    .name = "try", .synopsis = "WORD", .summary = "is tried", .help = ""};

/* What the options of one run gave. */
static struct {
    const char *text;
    bool flag;
    const char **list;
} got;

static int parse(char **argv, int min_words, int max_words) {
    const struct lorica_option options[] = {{.name = "text", .value = &got.text},
                                            {.name = "flag", .flag = &got.flag},
                                            {.name = "list", .list = &got.list}};
    int argc = 0;
    while (argv[argc])
        argc++;
    free((void *)got.list);
    memset(&got, 0, sizeof(got));
    return lorica_cmd_options(&cmd, argc, argv, options, COUNT(options), min_words, max_words);
}

static char **words(const char *first, ...) {
    static char *argv[16];
    size_t n = 0;
    va_list args;
    va_start(args, first);
    for (const char *word = first; word && n < 15; word = va_arg(args, const char *))
        argv[n++] = (char *)(uintptr_t)word; /* the parser moves the words, it writes none */
    va_end(args);
    argv[n] = NULL;
    return argv;
}

static void test_options_mixed_with_words_are_taken_out(void **state) {
    (void)state;
    char **argv = words("one", "--text", "T", "two", "--flag", "--list=a", "--list", "b", NULL);
    assert_int_equal(parse(argv, 2, 2), 2);
    assert_string_equal(argv[0], "one");
    assert_string_equal(argv[1], "two");
    assert_string_equal(got.text, "T");
    assert_true(got.flag);
    assert_string_equal(got.list[0], "a");
    assert_string_equal(got.list[1], "b");
    assert_null(got.list[2]);
}

static void test_options_behind_two_dashes_are_words(void **state) {
    (void)state;
    char **argv = words("--flag", "--", "--text", "-x", NULL);
    assert_int_equal(parse(argv, 0, 2), 2);
    assert_string_equal(argv[0], "--text");
    assert_string_equal(argv[1], "-x");
    assert_null(got.text);
}

static void test_options_single_dash_is_a_word(void **state) {
    (void)state;
    assert_int_equal(parse(words("-", NULL), 1, 1), 1);
}

static void test_options_value_with_dashes_needs_equals(void **state) {
    (void)state;
    assert_int_equal(parse(words("--text", "--flag", NULL), 0, 0), -1);
    assert_int_equal(parse(words("--text=--flag", NULL), 0, 0), 0);
    assert_string_equal(got.text, "--flag");
    assert_int_equal(parse(words("--text", "-1", NULL), 0, 0), 0);
    assert_string_equal(got.text, "-1");
    assert_int_equal(parse(words("--text=", NULL), 0, 0), 0);
    assert_string_equal(got.text, "");
}

static void test_options_wrong_usage_is_refused(void **state) {
    (void)state;
    assert_int_equal(parse(words("--tex", "T", NULL), 0, 0), -1);
    assert_int_equal(parse(words("--textual", "T", NULL), 0, 0), -1);
    assert_int_equal(parse(words("--text", NULL), 0, 0), -1);
    assert_int_equal(parse(words("--text", "a", "--text", "b", NULL), 0, 0), -1);
    assert_int_equal(parse(words("--flag=yes", NULL), 0, 0), -1);
    assert_int_equal(parse(words("-f", NULL), 0, 1), -1);
    assert_int_equal(parse(words("one", NULL), 0, 0), -1);
    assert_int_equal(parse(words("one", NULL), 2, 2), -1);
    assert_int_equal(parse(words("--list", "a", "one", NULL), 0, 0), -1);
    assert_null(got.list);
}

static void test_integer_outside_range_or_no_number_is_refused(void **state) {
    (void)state;
    long long n = 7;
    assert_true(lorica_cmd_integer("n", "-12", -12, 12, &n));
    assert_int_equal(n, -12);
    static const char *const wrong[] = {
        "", "-", "x", "1x", " 1", "1 ", "+1", "1.5", "13", "-13", "99999999999999999999"};
    for (size_t i = 0; i < COUNT(wrong); i++)
        assert_false(lorica_cmd_integer("n", wrong[i], -12, 12, &n));
    assert_int_equal(n, -12);
}

static void test_number_outside_range_or_no_number_is_refused(void **state) {
    (void)state;
    double x = 7;
    assert_true(lorica_cmd_number("x", "1e-4", 0, 1, &x));
    assert_true(x == 1e-4);
    static const char *const wrong[] = {"", "nan", "inf", "0x1", "1.5", "-0.1", "1e", " 1", "."};
    for (size_t i = 0; i < COUNT(wrong); i++)
        assert_false(lorica_cmd_number("x", wrong[i], 0, 1, &x));
    assert_true(x == 1e-4);
}

static void check_data_dir(const char *option, const char *expected) {
    char *dir = lorica_data_dir(option);
    if (expected)
        assert_string_equal(dir, expected);
    else
        assert_null(dir);
    free(dir);
}

static void test_data_dir_order_is_option_variable_xdg_home(void **state) {
    (void)state;
    (void)unsetenv("HOME");
    (void)unsetenv("XDG_DATA_HOME");
    (void)unsetenv("LORICA_DATA");
    check_data_dir(NULL, NULL);
    (void)setenv("HOME", "/h", 1);
    check_data_dir(NULL, "/h/.local/share/lorica");
    (void)setenv("XDG_DATA_HOME", "/x", 1);
    check_data_dir(NULL, "/x/lorica");
    (void)setenv("LORICA_DATA", "/d/", 1);
    check_data_dir(NULL, "/d");
    check_data_dir("/o//", "/o");
    check_data_dir("/", "/");
    check_data_dir("", NULL);
}

static void test_suggest_near_word_is_found_and_far_one_is_not(void **state) {
    (void)state;
    static const char *const names[] = {"adapter publish", "adapter promote", "chat", "init", NULL};
    assert_string_equal(lorica_suggest("chta", names), "chat");
    assert_string_equal(lorica_suggest("adapter promot", names), "adapter promote");
    assert_null(lorica_suggest("zzzzzz", names));
    assert_null(lorica_suggest("", names));
    char *longest = calloc(1, 1000);
    assert_non_null(longest);
    memset(longest, 'a', 999);
    assert_null(lorica_suggest(longest, names));
    free(longest);
}

/* What the calls write to standard error, which is a file meanwhile; for free(). */
static char *captured(void (*calls)(void)) {
    char *text = calloc(1, 10000);
    FILE *file = tmpfile();
    const int saved = dup(STDERR_FILENO);
    assert_true(text && file && saved >= 0);
    assert_int_equal(dup2(fileno(file), STDERR_FILENO), STDERR_FILENO);
    calls();
    assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
    rewind(file);
    assert_true(fread(text, 1, 9999, file) < 9999);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(close(saved), 0);
    return text;
}

static void progress_of_a_thousand_steps(void) {
    for (unsigned long long i = 0; i <= 1000; i++)
        lorica_progress(NULL, "reading", i, 1000);
    lorica_progress(NULL, "writing", 0, 0);
}

static void test_progress_in_a_file_is_a_line_each_tenth(void **state) {
    (void)state;
    char *text = captured(progress_of_a_thousand_steps);
    assert_string_equal(text, "reading: 0 %\nreading: 10 %\nreading: 20 %\nreading: 30 %\n"
                              "reading: 40 %\nreading: 50 %\nreading: 60 %\nreading: 70 %\n"
                              "reading: 80 %\nreading: 90 %\nreading: 100 %\nwriting: 100 %\n");
    free(text);
}

static int run(char **argv) {
    int argc = 0;
    while (argv[argc])
        argc++;
    return lorica_cli_run(argc, argv);
}

static void test_run_exit_codes(void **state) {
    (void)state;
    assert_int_equal(run(words("lorica", NULL)), LORICA_EXIT_USAGE);
    assert_int_equal(run(words("lorica", "--help", NULL)), LORICA_EXIT_OK);
    assert_int_equal(run(words("lorica", "-h", NULL)), LORICA_EXIT_OK);
    assert_int_equal(run(words("lorica", "--version", NULL)), LORICA_EXIT_OK);
    assert_int_equal(run(words("lorica", "hlep", NULL)), LORICA_EXIT_USAGE);
    assert_int_equal(run(words("lorica", "help", "--help", NULL)), LORICA_EXIT_OK);
    assert_int_equal(run(words("lorica", "help", "help", NULL)), LORICA_EXIT_OK);
    assert_int_equal(run(words("lorica", "help", "nothing", NULL)), LORICA_EXIT_USAGE);
    assert_int_equal(run(words("lorica", "help", "help", "--man", NULL)), LORICA_EXIT_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_mixed_with_words_are_taken_out),
        cmocka_unit_test(test_options_behind_two_dashes_are_words),
        cmocka_unit_test(test_options_single_dash_is_a_word),
        cmocka_unit_test(test_options_value_with_dashes_needs_equals),
        cmocka_unit_test(test_options_wrong_usage_is_refused),
        cmocka_unit_test(test_integer_outside_range_or_no_number_is_refused),
        cmocka_unit_test(test_number_outside_range_or_no_number_is_refused),
        cmocka_unit_test(test_data_dir_order_is_option_variable_xdg_home),
        cmocka_unit_test(test_suggest_near_word_is_found_and_far_one_is_not),
        cmocka_unit_test(test_progress_in_a_file_is_a_line_each_tenth),
        cmocka_unit_test(test_run_exit_codes),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free((void *)got.list);
    return failed;
}
