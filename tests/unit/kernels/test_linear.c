/* SPDX-License-Identifier: MIT
 * The products of every level that this machine runs, against double arithmetic on the exact
 * values; and the promise that a result does not depend on what is computed beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu.h"
#include "kernels/linear.h"

#define N 50 /* a partial last tile */
#define K 192
#define ROWS 37

struct fixture {
    float weights[N * K], exact[N * K], x[ROWS * K];
    _Alignas(64) uint8_t codes[64 * K];
    uint16_t scales[64 * K / 32];
    struct lorica_linear linear;
};

static uint64_t seed = 1;
static float uniform(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / (1 << 23) - 1;
}

static void fill(struct fixture *f, enum lorica_format format) {
    static uint8_t flat[N * K / 2];
    static float absmax[N * K / 64];
    for (int i = 0; i < N * K; i++)
        f->weights[i] = uniform() * uniform();
    for (int i = 0; i < ROWS * K; i++)
        f->x[i] = uniform() * (i % 50 == 0 ? 20 : 1);
    struct lorica_matrix m = {.format = format, .n = N, .k = K, .data = f->codes};
    if (format == LORICA_FORMAT_NF4) {
        lorica_nf4_quantise(f->weights, N * K, flat, absmax);
        lorica_nf4_tile(f->codes, flat, N, K);
        m.absmax = absmax;
        assert_int_equal(lorica_linear_nf4_scales(&m, f->scales), 0);
    } else {
        lorica_q8_quantise(f->weights, N, K, (int8_t *)f->codes, f->scales);
        m.scales = f->scales;
    }
    lorica_matrix_rows_f32(&m, 0, N, f->exact);
    f->linear = (struct lorica_linear){format, N, K, f->codes, f->scales};
}

/* Steps of activations and codes of each level, as fractions of their largest value. AVX2's are at
 * worst, where eight that a lane adds are alike, 251 / 8 to the largest. */
static double x_step(enum lorica_cpu_level level) {
    return level == LORICA_CPU_AVX512                                ? 1.0 / 127
           : level == LORICA_CPU_AVX2 || level == LORICA_CPU_AVXVNNI ? 1.0 / 30
                                                                     : 1e-6;
}

static double code_step(enum lorica_cpu_level level) {
    return level >= LORICA_CPU_AVX2 && level <= LORICA_CPU_AVX512 ? 1.0 / 200 : 1e-6;
}

static void check_level(enum lorica_cpu_level level, enum lorica_format format) {
    static struct fixture f;
    fill(&f, format);
    assert_int_equal(lorica_cpu_limit(level), 0);
    struct lorica_linear_kernels kernels;
    lorica_linear_kernels_init(&kernels);
    lorica_linear_fn product = format == LORICA_FORMAT_NF4 ? kernels.nf4 : kernels.q8;
    const size_t stride = kernels.act_nbytes(K);
    char *xq = aligned_alloc(64, stride * ROWS);
    assert_non_null(xq);
    for (int r = 0; r < ROWS; r++)
        kernels.act_quantise(xq + r * stride, f.x + r * K, K);
    static float all[ROWS][64 + 1], one[64];
    all[ROWS - 1][64] = 12345;
    product(all[0], 65, xq, stride, ROWS, &f.linear, 0, 4);
    assert_true(all[ROWS - 1][64] == 12345);
    for (int r = 0; r < ROWS; r++) {
        product(one, 64, xq + r * stride, stride, 1, &f.linear, 0, 4);
        assert_memory_equal(one, all[r], 64 * sizeof(float));
        for (uint32_t t = 0; t < 4; t++)
            product(one, 64, xq + r * stride, stride, 1, &f.linear, t, t + 1);
        assert_memory_equal(one, all[r], 64 * sizeof(float));
        for (int i = 0; i < 64; i++) {
            double sum = 0, bound = 0;
            for (int j = 0; i < N && j < K; j++) {
                float block_top = 0;
                for (int b = j / 64 * 64; b < j / 64 * 64 + 64 && b < K; b++)
                    block_top = fmaxf(block_top, fabsf(f.x[r * K + b]));
                const double w = f.exact[i * K + j], x = f.x[r * K + j];
                sum += w * x;
                /* half a step of x, a step of w, and the f16 rounding of the scale */
                bound += fabs(w) * (double)block_top * x_step(level) / 2 +
                         fabs(x) * code_step(level) * 0.6 + fabs(w * x) * 0x1p-10;
            }
            if (!(fabs((double)all[r][i] - sum) <= bound + 1e-6))
                fail_msg("%s %s row %d output %d: %g, exact %g, bound %g",
                         lorica_cpu_level_name(level), lorica_format_name(format), r, i,
                         (double)all[r][i], sum, bound);
        }
    }
    float bad[K] = {0};
    bad[40] = NAN;
    kernels.act_quantise(xq, bad, K);
    product(one, 64, xq, stride, 1, &f.linear, 0, 4);
    assert_true(isnan(one[0]));
    bad[40] = INFINITY;
    kernels.act_quantise(xq, bad, K);
    product(one, 64, xq, stride, 1, &f.linear, 0, 4);
    assert_false(isfinite(one[0]));
    free(xq);
}

static void test_products_every_level_near_the_exact_value_and_alike_in_any_batch(void **state) {
    (void)state;
    for (int level = 0; level < LORICA_CPU_COUNT; level++) {
        if (!lorica_cpu_supports((enum lorica_cpu_level)level)) {
            printf("skipped: %s kernels: this machine cannot run them\n",
                   lorica_cpu_level_name((enum lorica_cpu_level)level));
            continue;
        }
        check_level((enum lorica_cpu_level)level, LORICA_FORMAT_NF4);
        check_level((enum lorica_cpu_level)level, LORICA_FORMAT_Q8);
    }
}

/* One row and three rows of both formats, at the level in force. */
static void all_products(float y[2][4][64]) {
    seed = 7;
    static struct fixture f;
    struct lorica_linear_kernels kernels;
    lorica_linear_kernels_init(&kernels);
    const size_t stride = kernels.act_nbytes(K);
    char *xq = aligned_alloc(64, stride * 3);
    assert_non_null(xq);
    for (int i = 0; i < 2; i++) {
        fill(&f, i == 0 ? LORICA_FORMAT_NF4 : LORICA_FORMAT_Q8);
        for (int r = 0; r < 3; r++)
            kernels.act_quantise(xq + r * stride, f.x + r * K, K);
        const lorica_linear_fn product = i == 0 ? kernels.nf4 : kernels.q8;
        product(y[i][0], 64, xq, stride, 1, &f.linear, 0, 4);
        product(y[i][1], 64, xq, stride, 3, &f.linear, 0, 4);
    }
    free(xq);
}

static void test_products_with_avx_vnni_give_the_bits_of_avx2(void **state) {
    (void)state;
    static float with[2][4][64], without[2][4][64];
    if (!lorica_cpu_supports(LORICA_CPU_AVXVNNI)) {
        printf("skipped: avxvnni kernels: this machine cannot run them\n");
        return;
    }
    assert_int_equal(lorica_cpu_limit(LORICA_CPU_AVX2), 0);
    all_products(without);
    assert_int_equal(lorica_cpu_limit(LORICA_CPU_AVXVNNI), 0);
    all_products(with);
    assert_memory_equal(with, without, sizeof(with));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_every_level_near_the_exact_value_and_alike_in_any_batch),
        cmocka_unit_test(test_products_with_avx_vnni_give_the_bits_of_avx2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
