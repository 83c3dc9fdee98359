/* SPDX-License-Identifier: MIT
 * What a step should take, from what steps took. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/pace.h"

static void note_many(struct lorica_pace *pace, uint32_t rows, double seconds) {
    for (int i = 0; i < 100; i++)
        lorica_pace_note(pace, rows, seconds);
}

static void expect_near(double got, double wanted) {
    if (got < wanted * 0.99 || got > wanted * 1.01)
        fail_msg("%g, not %g", got, wanted);
}

static void test_pace_knows_what_it_was_told(void **state) {
    struct lorica_pace pace = {.margin = 0};
    assert_true(lorica_pace_seconds(&pace, 5) == 0);
    for (uint32_t rows = 1; rows <= 4096; rows = rows * 5 / 4 + 1)
        note_many(&pace, rows, 0.002 + 0.0003 * rows);
    for (uint32_t rows = 1; rows <= 3000; rows += 1 + rows / 7)
        expect_near(lorica_pace_seconds(&pace, rows), 0.002 + 0.0003 * rows);
}

static void test_pace_beyond_what_is_known_is_assumed(void **state) {
    struct lorica_pace pace = {.margin = 0};
    note_many(&pace, 4, 0.01);
    expect_near(lorica_pace_seconds(&pace, 4), 0.01);
    expect_near(lorica_pace_seconds(&pace, 1), 0.01);
    expect_near(lorica_pace_seconds(&pace, 12), 0.02);
    note_many(&pace, 100, 0.1);
    expect_near(lorica_pace_seconds(&pace, 150), 0.15);
}

static void test_pace_follows_a_change_and_shrugs_off_an_outlier(void **state) {
    struct lorica_pace pace = {.margin = 0};
    note_many(&pace, 8, 0.01);
    lorica_pace_note(&pace, 8, 10);
    assert_true(lorica_pace_seconds(&pace, 8) < 0.013);
    note_many(&pace, 8, 0.05);
    expect_near(lorica_pace_seconds(&pace, 8), 0.05);
}

static void test_pace_rows_fill_the_time(void **state) {
    struct lorica_pace pace = {.margin = 0};
    for (uint32_t rows = 1; rows <= 1024; rows *= 2)
        note_many(&pace, rows, 0.001 * rows);
    const uint32_t rows = lorica_pace_rows(&pace, 0.04, 17, 500);
    assert_in_range(rows, 39, 41);
    assert_int_equal(lorica_pace_rows(&pace, 0.001, 17, 500), 17);
    assert_int_equal(lorica_pace_rows(&pace, 2, 17, 500), 500);
    assert_int_equal(lorica_pace_rows(&pace, 1, 5, 5), 5);
}

static void test_pace_tries_again_what_was_held_up_at_first(void **state) {
    struct lorica_pace pace = {.margin = 0};
    note_many(&pace, 8, 0.004);
    note_many(&pace, 180, 0.03);
    lorica_pace_note(&pace, 200, 0.09); /* something else was in its way */
    assert_true(lorica_pace_rows(&pace, 0.04, 20, 1000) > 200);
}

/* Steps of 1000 of which `late` in a hundred come late. */
static float margin_of(uint32_t late) {
    struct lorica_pace pace = {.margin = 0};
    for (uint32_t i = 0; i < 1000; i++)
        lorica_pace_judge(&pace, i % 100 < late);
    return pace.margin;
}

static void test_pace_keeps_a_margin_for_steps_that_come_late(void **state) {
    struct lorica_pace pace = {.margin = 0};
    assert_true(margin_of(0) == 0 && margin_of(1) < 0.05f);
    assert_true(margin_of(5) > 0.25f && margin_of(100) < 0.34f);
    for (uint32_t rows = 1; rows <= 1024; rows *= 2)
        note_many(&pace, rows, 0.001 * rows);
    for (int i = 0; i < 4; i++)
        lorica_pace_judge(&pace, true);
    assert_in_range(lorica_pace_rows(&pace, 0.04, 17, 500), 31, 33); /* a fifth is kept free */
    for (int i = 0; i < 1000; i++)
        lorica_pace_judge(&pace, false);
    assert_in_range(lorica_pace_rows(&pace, 0.04, 17, 500), 39, 41);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pace_knows_what_it_was_told),
        cmocka_unit_test(test_pace_beyond_what_is_known_is_assumed),
        cmocka_unit_test(test_pace_follows_a_change_and_shrugs_off_an_outlier),
        cmocka_unit_test(test_pace_rows_fill_the_time),
        cmocka_unit_test(test_pace_tries_again_what_was_held_up_at_first),
        cmocka_unit_test(test_pace_keeps_a_margin_for_steps_that_come_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
