/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/server/split_watch.h"

static char reason[512];

static bool worse(const struct lorica_split_terms *terms, struct lorica_split_figures stable,
                  struct lorica_split_figures canary) {
    reason[0] = '\0';
    return lorica_split_worse(terms, 1, &stable, &canary, reason, sizeof(reason));
}

static struct lorica_split_figures failing(uint32_t requests, uint32_t failed) {
    return (struct lorica_split_figures){.requests = requests, .failed = failed};
}

static struct lorica_split_figures taking(uint32_t count, double first, double each) {
    return (struct lorica_split_figures){.requests = count,
                                         .firsts = count,
                                         .eachs = count,
                                         .first_median = first,
                                         .each_median = each};
}

static void test_errors_count_from_the_margin_above_stable_on(void **state) {
    (void)state;
    struct lorica_split_terms terms = lorica_split_defaults(2, 500); /* 2 %, 50 requests */
    assert_false(worse(&terms, failing(100, 0), failing(100, 2)));
    assert_true(worse(&terms, failing(100, 0), failing(100, 3)));
    assert_string_equal(reason, "ended: version 2 failed 3 of 100 requests, more than 2.00 % above "
                                "the 0 of 100 of version 1, within 300 s");
    assert_false(worse(&terms, failing(1000, 50), failing(100, 7)));
    assert_true(worse(&terms, failing(1000, 50), failing(100, 8)));
    assert_false(worse(&terms, failing(100, 100), failing(100, 0)));
    terms.max_error_excess = LORICA_SPLIT_WHOLE;
    assert_false(worse(&terms, failing(2000, 0), failing(2000, 2000)));
    terms.max_error_excess = 0;
    assert_false(worse(&terms, failing(2000, 1), failing(2000, 1)));
    assert_true(worse(&terms, failing(2000, 0), failing(2000, 1)));
}

static void test_neither_side_is_judged_by_too_few_requests(void **state) {
    (void)state;
    const struct lorica_split_terms terms = lorica_split_defaults(2, 500);
    assert_false(worse(&terms, failing(50, 0), failing(49, 49)));
    assert_false(worse(&terms, failing(49, 0), failing(50, 50)));
    assert_false(worse(&terms, failing(0, 0), failing(0, 0)));
    assert_true(worse(&terms, failing(50, 0), failing(50, 50)));
}

static void test_a_canary_that_gets_all_is_judged_by_its_failures(void **state) {
    (void)state;
    struct lorica_split_terms terms = lorica_split_defaults(2, LORICA_SPLIT_WHOLE);
    assert_false(worse(&terms, failing(0, 0), failing(49, 49)));
    assert_false(worse(&terms, failing(0, 0), failing(100, 2)));
    assert_true(worse(&terms, failing(0, 0), failing(100, 3)));
    assert_string_equal(reason, "ended: version 2 failed 3 of 100 requests, more than 2.00 % above "
                                "the 0 of 0 of version 1, within 300 s");
    assert_false(worse(&terms, failing(0, 0), taking(2000, 9, 9)));
    terms.max_error_excess = LORICA_SPLIT_WHOLE;
    assert_false(worse(&terms, failing(0, 0), failing(100, 100)));
}

static void test_each_of_the_two_times_ends_a_split(void **state) {
    (void)state;
    struct lorica_split_terms terms = lorica_split_defaults(2, 500); /* half as slow again */
    assert_false(worse(&terms, taking(50, 1, 0.25), taking(50, 1.5, 0.375)));
    assert_true(worse(&terms, taking(50, 1, 0.25), taking(60, 1.75, 0.25)));
    assert_string_equal(reason, "ended: the median time to the first token of version 2 was "
                                "1750.000 ms in 60 requests, over 1.50 times the 1000.000 ms of "
                                "version 1 in 50, within 300 s");
    assert_true(worse(&terms, taking(50, 1, 0.25), taking(50, 1, 0.5)));
    assert_non_null(strstr(reason, "for each further token"));
    struct lorica_split_figures few = taking(50, 9, 9);
    few.firsts = few.eachs = 49;
    assert_false(worse(&terms, taking(50, 1, 1), few));
    struct lorica_split_figures base = taking(50, 1, 1);
    base.firsts = base.eachs = 49;
    assert_false(worse(&terms, base, taking(50, 9, 9)));
    terms.max_latency_ratio = 0;
    assert_false(worse(&terms, taking(50, 1, 1), taking(50, 9, 9)));
}

static void test_sums_leave_out_what_is_old_and_take_medians_of_what_has_a_time(void **state) {
    (void)state;
    const struct lorica_split_sample samples[] = {
        {.at_ms = 100, .first = 4, .each = 1},
        {.at_ms = 9, .first = 99, .each = 99},
        {.at_ms = 10, .first = 1, .each = -1},
        {.at_ms = 50, .failed = true, .first = -1, .each = -1},
        {.at_ms = 60, .first = 8, .each = 2},
        {.at_ms = 8, .failed = true, .first = -1, .each = -1},
        {.at_ms = 70, .first = 2, .each = 64},
    };
    float scratch[7];
    struct lorica_split_figures f = lorica_split_sum(samples, 7, 10, scratch);
    assert_int_equal(f.requests, 5);
    assert_int_equal(f.failed, 1);
    assert_int_equal(f.firsts, 4);
    assert_int_equal(f.eachs, 3);
    assert_true(f.first_median == 3);
    assert_true(f.each_median == 2);
    f = lorica_split_sum(samples, 7, 101, scratch);
    assert_int_equal(f.requests + f.failed + f.firsts + f.eachs, 0);
    assert_true(f.first_median == 0 && f.each_median == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors_count_from_the_margin_above_stable_on),
        cmocka_unit_test(test_neither_side_is_judged_by_too_few_requests),
        cmocka_unit_test(test_a_canary_that_gets_all_is_judged_by_its_failures),
        cmocka_unit_test(test_each_of_the_two_times_ends_a_split),
        cmocka_unit_test(test_sums_leave_out_what_is_old_and_take_medians_of_what_has_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
