/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/train/loss_plot.h"

static char *plot(const char *title, const struct lorica_curve *training,
                  const struct lorica_curve *evaluation) {
    const struct lorica_loss_plot what = {title, "on a base", training, evaluation};
    struct lorica_buf out;
    lorica_buf_init(&out, 1 << 20);
    assert_int_equal(lorica_loss_plot_write(&what, &out), 0);
    return lorica_buf_take(&out, NULL);
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

static void test_plot_stands_for_itself(void **state) {
    struct lorica_curve training = {.count = 0}, evaluation = {.count = 0};
    for (uint64_t step = 1; step <= 50; step++)
        lorica_curve_add(&training, step, 4.0 / (double)step + 1);
    lorica_curve_add(&evaluation, 0, 5);
    lorica_curve_add(&evaluation, 25, 2);
    lorica_curve_add(&evaluation, 50, 1.25);
    char *svg = plot("a <b> & \"c\"", &training, &evaluation);
    assert_non_null(svg);
    assert_int_equal(strncmp(svg, "<svg xmlns=", 11), 0);
    assert_non_null(strstr(svg, "<title>a &lt;b&gt; &amp; &quot;c&quot;</title>"));
    assert_non_null(strstr(svg, ">update</text>"));
    assert_non_null(strstr(svg, ">loss (nats per token)</text>"));
    assert_non_null(strstr(svg, "held apart, last 1.250"));
    assert_non_null(strstr(svg, "last 1.080"));
    assert_int_equal(count(svg, "<circle"), 3 + 1); /* and the legend's */
    assert_int_equal(count(svg, "<polyline"), 3);   /* training, its mean, evaluation */
    assert_null(strstr(svg, "href"));
    assert_null(strstr(svg, "url("));
    free(svg);
}

/* A letter of DejaVu Sans is some 0.6 of its type wide, a bold one 0.7. */
static void test_long_titles_fit_into_the_page(void **state) {
    const struct lorica_curve none = {.count = 0};
    char title[141];
    memset(title, 'm', sizeof(title) - 1);
    title[sizeof(title) - 1] = '\0';
    for (size_t length = sizeof(title) - 1; length > 4; length /= 2) {
        title[length] = '\0';
        char *svg = plot(title, &none, &none);
        double size = 0;
        assert_non_null(svg);
        const char *at = strstr(svg, "y=\"32.0\" font-size=\"");
        assert_non_null(at);
        assert_int_equal(sscanf(at, "y=\"32.0\" font-size=\"%lf\"", &size), 1);
        assert_true(size >= 6 && size <= 19);
        assert_true(78 + 0.7 * size * (double)length < 780);
        free(svg);
    }
}

static void test_curves_of_few_points_and_of_equal_ones_have_a_frame(void **state) {
    struct lorica_curve none = {.count = 0}, one = {.count = 0}, flat = {.count = 0};
    lorica_curve_add(&one, 1, 3);
    for (uint64_t step = 1; step <= 3; step++)
        lorica_curve_add(&flat, step, 0);
    const struct lorica_curve *const curves[] = {&none, &one, &flat};
    for (size_t i = 0; i < 3; i++) {
        char *svg = plot("t", curves[i], &none);
        assert_non_null(svg);
        assert_null(strstr(svg, "nan"));
        assert_null(strstr(svg, "inf"));
        assert_null(strstr(svg, "held apart"));
        free(svg);
    }
}

static void test_long_curve_keeps_means_of_neighbours(void **state) {
    static struct lorica_curve curve;
    for (uint64_t step = 1; step <= 1000000; step++)
        lorica_curve_add(&curve, step, (double)step);
    assert_in_range(curve.count, LORICA_CURVE_POINTS / 4, LORICA_CURVE_POINTS - 1);
    for (size_t i = 0; i < curve.count; i++)
        assert_true(fabs(curve.points[i].step - curve.points[i].loss) < 1e-6);
    assert_true(curve.points[0].step < 2000);
    assert_true(curve.points[curve.count - 1].step > 990000);
    assert_true(curve.last == 1000000);
}

static void test_value_that_is_not_finite_is_left_out(void **state) {
    struct lorica_curve curve = {.count = 0};
    lorica_curve_add(&curve, 1, NAN);
    lorica_curve_add(&curve, 2, INFINITY);
    lorica_curve_add(&curve, 3, 1);
    assert_int_equal(curve.count, 1);
    assert_true(curve.points[0].step == 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plot_stands_for_itself),
        cmocka_unit_test(test_long_titles_fit_into_the_page),
        cmocka_unit_test(test_curves_of_few_points_and_of_equal_ones_have_a_frame),
        cmocka_unit_test(test_long_curve_keeps_means_of_neighbours),
        cmocka_unit_test(test_value_that_is_not_finite_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
