/* SPDX-License-Identifier: MIT
 * The serving products against double arithmetic on the exact weights, with a bound that follows
 * from the steps to which a level rounds activations and table; and the promise that a row's result
 * depends on nothing else, to the bit. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/linear.h"

static struct lorica_linear_kernels kernels;

/* Steps from 0 to the largest activation of a block, and from 0 to 1 in the NF4 table, whose
 * bytes are nearer than steps of their size would bring them. AVX2 chooses its steps of activations
 * so that no sum of them overflows: x_steps 0. */
static const struct precision {
    double x_steps, table_steps;
} precisions[LORICA_CPU_COUNT] = {
    [LORICA_CPU_C] = {INFINITY, INFINITY}, [LORICA_CPU_AVX2] = {0, 200},
    [LORICA_CPU_AVXVNNI] = {0, 200},       [LORICA_CPU_AVX512] = {127, 200},
    [LORICA_CPU_NEON] = {127 * 252, 200},
};

/* A matrix in the form that the products take, and its exact values row by row. */
struct weights {
    struct lorica_linear linear;
    float *exact, *size; /* size: |scale| of each weight's block (NF4), 0 for Q8 */
};

static struct weights random_nf4(uint32_t n, uint32_t k, size_t offset) {
    const size_t blocks = (size_t)n * k / LORICA_NF4_BLOCK;
    uint8_t *flat = check_buffer((size_t)n * k / 2, 0);
    float *absmax = check_buffer(blocks * sizeof(float), 0);
    const size_t nbytes = lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, n, k);
    struct lorica_matrix m = {.format = LORICA_FORMAT_NF4, .n = n, .k = k, .absmax = absmax};
    uint8_t *codes = check_buffer(nbytes, offset);
    uint16_t *scales =
        check_buffer((size_t)lorica_matrix_tiles(&m) * 16 * (k / LORICA_NF4_BLOCK) * 2, 2 * offset);
    m.data = codes;
    for (size_t i = 0; i < (size_t)n * k / 2; i++)
        flat[i] = (uint8_t)check_random();
    for (size_t i = 0; i < blocks; i++)
        absmax[i] = lorica_f16_to_f32(lorica_f32_to_f16(exp2f(check_uniform() * 4 - 4)));
    lorica_nf4_tile(codes, flat, n, k);
    if (lorica_linear_nf4_scales(&m, scales) != 0)
        check_fail("scales refused");
    struct weights w = {{LORICA_FORMAT_NF4, n, k, codes, scales},
                        check_buffer((size_t)n * k * 4, 0),
                        check_buffer((size_t)n * k * 4, 0)};
    lorica_matrix_rows_f32(&m, 0, n, w.exact);
    for (size_t i = 0; i < (size_t)n * k; i++)
        w.size[i] = absmax[i / LORICA_NF4_BLOCK];
    return w;
}

/* Of these values, which become the exact ones. */
static struct weights make_q8(float *x, uint32_t n, uint32_t k, size_t offset) {
    const size_t nbytes = lorica_matrix_data_nbytes(LORICA_FORMAT_Q8, n, k);
    int8_t *codes = check_buffer(nbytes, offset);
    uint16_t *scales = check_buffer(nbytes / LORICA_Q8_BLOCK * 2, 2 * offset);
    const struct lorica_matrix m = {
        .format = LORICA_FORMAT_Q8, .n = n, .k = k, .data = codes, .scales = scales};
    lorica_q8_quantise(x, n, k, codes, scales);
    struct weights w = {
        {LORICA_FORMAT_Q8, n, k, codes, scales}, x, check_buffer((size_t)n * k * 4, 0)};
    lorica_matrix_rows_f32(&m, 0, n, w.exact);
    memset(w.size, 0, (size_t)n * k * 4);
    return w;
}

static struct weights random_q8(uint32_t n, uint32_t k, size_t offset) {
    float *x = check_buffer((size_t)n * k * 4, 0);
    check_fill(x, (size_t)n * k);
    return make_q8(x, n, k, offset);
}

static lorica_linear_fn product(const struct weights *w) {
    return w->linear.format == LORICA_FORMAT_NF4 ? kernels.nf4 : kernels.q8;
}

/* AVX2's least step of input j: so that the codes of a pair come to 127 at most, and those of the
 * eight that a lane adds, every other pair of 16, to 251. */
static double least_step(const float *x, uint32_t j) {
    double most = 0, lane = 0;
    for (uint32_t i = j / 16 * 16 + j % 4 / 2 * 2; i < j / 16 * 16 + 16; i += 4) {
        const double pair = fabs((double)x[i]) + fabs((double)x[i + 1]);
        most = fmax(most, pair);
        lane += pair;
    }
    return fmax(most / 127, lane / 251);
}

/* The largest magnitude of x[from, to). */
static double top_of(const double *x, uint32_t from, uint32_t to) {
    double top = 0;
    for (uint32_t i = from; i < to; i++)
        top = fmax(top, fabs(x[i]));
    return top;
}

/* Where the largest value stands that AVX-512 takes next out of 768, when `taken` says how many of
 * each column of 16 are out already: at most two are. The last six bits of a value do not count. */
static uint32_t largest_of(const float *x, uint32_t count, const uint32_t *taken) {
    uint32_t at = 0, most = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key;
        memcpy(&key, &x[i], sizeof(key));
        key = (key & 0x7fffffc0) | i / 16;
        if (taken[i % 16] < 2 && key > most) {
            most = key;
            at = i;
        }
    }
    return at;
}

/* What AVX-512 leaves of a row: of each 768 inputs six are taken out, rounded to one of 127 steps
 * to the first. */
static void take_largest(double *sizes, const float *x, uint32_t k) {
    for (uint32_t from = 0; from < k; from += 768) {
        const uint32_t count = k - from < 768 ? k - from : 768;
        uint32_t taken[16] = {0};
        float *rest = check_buffer(count * sizeof(*rest), 0);
        memcpy(rest, x + from, count * sizeof(*rest));
        double step = 0;
        for (int e = 0; e < 6; e++) {
            const uint32_t at = largest_of(rest, count, taken);
            double *size = &sizes[from + at];
            step = e ? step : fabs(*size) / 127;
            *size -= step > 0 ? rint(*size / step) * step : 0;
            rest[at] = 0;
            taken[at % 16]++;
        }
    }
}

/* The steps to which the inputs of a row are rounded: of 32 inputs' largest (NEON), of 64 inputs'
 * when the largest of all are taken out (AVX-512), or a multiple of an 8191st of the largest least
 * step of the row (AVX2). */
static void x_steps(double *steps, const float *x, uint32_t k) {
    const enum lorica_cpu_level level = lorica_cpu_level();
    const uint32_t block = level == LORICA_CPU_NEON ? 32 : 64;
    const double count = precisions[level].x_steps;
    double largest = 0;
    double *sizes = check_buffer(k * sizeof(*sizes), 0);
    for (uint32_t j = 0; j < k; j++)
        sizes[j] = count > 0 ? (double)x[j] : least_step(x, j);
    if (level == LORICA_CPU_AVX512)
        take_largest(sizes, x, k);
    if (count == 0)
        largest = top_of(sizes, 0, k);
    for (uint32_t j = 0; j < k; j++) {
        const uint32_t first = j / block * block;
        const double top = top_of(sizes, first, k < first + block ? k : first + block);
        steps[j] = count > 0 ? top / count : sizes[j] + largest / 8191;
    }
}

/* Every output of one row inside the worst case; and all of them together near the expected error,
 * which a single pair of inputs in the wrong place would already exceed many times. */
static void compare(const float *y, const float *x, const struct weights *w) {
    const uint32_t n = w->linear.n, k = w->linear.k;
    const struct precision p = precisions[lorica_cpu_level()];
    double errors = 0, expected = 0;
    double *steps = check_buffer(k * sizeof(*steps), 0);
    x_steps(steps, x, k);
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0, bound = 0, variance = 0;
        for (uint32_t j = 0; j < k; j++) {
            const double weight = (double)w->exact[(size_t)i * k + j], value = (double)x[j];
            const double from_x = fabs(weight) * steps[j] / 2;
            const double from_table =
                fabs(value) * (double)w->size[(size_t)i * k + j] / p.table_steps / 2;
            sum += weight * value;
            /* Blocks below 2^-100 count as 0. */
            bound += 1.02 * (from_x + from_table) + (k + 40) * 0x1p-24 * fabs(weight * value) +
                     fabs(weight) * 0x1p-99;
            variance += (from_x * from_x + from_table * from_table) / 3 +
                        weight * weight * value * value * 0x1p-40;
        }
        if (!check_near((double)y[i], sum, bound, lorica_format_name(w->linear.format), i))
            return;
        errors += ((double)y[i] - sum) * ((double)y[i] - sum);
        expected += variance;
    }
    /* Five deviations, for inputs are of very different sizes: where one row has nearly all of the
     * sum, it is a single draw, and three are exceeded by one seed in fifty. */
    if (n >= 16 && errors > 25 * expected + 1e-60)
        check_fail("%s %u x %u: root mean square error is %.1f times the expected",
                   lorica_format_name(w->linear.format), n, k, sqrt(errors / expected));
}

/* Rows quantised one by one at a 64-byte aligned stride. */
static char *quantised(const float *x, uint32_t k, uint32_t rows, size_t *ret_stride) {
    const size_t stride = kernels.act_nbytes(k);
    char *xq = check_buffer(stride * rows, 0);
    if (stride % 64)
        check_fail("act_nbytes(%u) is %zu", k, stride);
    for (uint32_t r = 0; r < rows; r++)
        kernels.act_quantise(xq + r * stride, x + (size_t)r * k, k);
    *ret_stride = stride;
    return xq;
}

static void check_product(const struct weights *w, uint32_t rows, size_t offset) {
    const uint32_t k = w->linear.k, tiles = (w->linear.n + 15) / 16;
    const size_t ldy = tiles * 16 + check_below(3);
    float *x = check_buffer((size_t)rows * k * 4, 4 * offset);
    float *y = check_buffer(((rows - 1) * ldy + tiles * 16) * 4, 4 * offset);
    float *one = check_buffer((size_t)tiles * 16 * 4, 4 * offset);
    for (uint32_t r = 0; r < rows; r++)
        check_fill(x + (size_t)r * k, k);
    size_t stride;
    const char *xq = quantised(x, k, rows, &stride);
    product(w)(y, ldy, xq, stride, rows, &w->linear, 0, tiles);
    for (uint32_t r = 0; r < rows; r++) {
        if (r < 3 || r == rows - 1)
            compare(y + r * ldy, x + (size_t)r * k, w);
        product(w)(one, ldy, xq + r * stride, stride, 1, &w->linear, 0, tiles);
        check_same(one, y + r * ldy, (size_t)tiles * 64, "one row alone");
    }
    float *part = check_buffer(((rows - 1) * ldy + tiles * 16) * 4, 4 * offset);
    for (uint32_t t = 0; t < tiles;) {
        const uint32_t next = t + 1 + check_below(tiles - t);
        const uint32_t first = check_below(rows);
        product(w)(part + first * ldy, ldy, xq + first * stride, stride, rows - first, &w->linear,
                   t, next);
        product(w)(part, ldy, xq, stride, first, &w->linear, t, next);
        t = next;
    }
    for (uint32_t r = 0; r < rows; r++)
        check_same(part + r * ldy, y + r * ldy, (size_t)tiles * 64, "rows and tiles in parts");
    for (uint32_t i = w->linear.n; i < tiles * 16; i++)
        check_near((double)y[i], 0, 1e-30, "columns past n", i);
    check_canaries("product");
}

/* y of the unit vectors is the matrix: every code is in its place. */
static void check_unit_vectors(const struct weights *w) {
    const uint32_t k = w->linear.k, n = w->linear.n, ldy = (n + 15) / 16 * 16;
    const double table = precisions[lorica_cpu_level()].table_steps;
    float *x = check_buffer((size_t)k * k * 4, 0), *y = check_buffer((size_t)k * ldy * 4, 0);
    for (uint32_t j = 0; j < k * k; j++)
        x[j] = j % (k + 1) == 0;
    size_t stride;
    const char *xq = quantised(x, k, k, &stride);
    product(w)(y, ldy, xq, stride, k, &w->linear, 0, ldy / 16);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j++)
            if (!check_near((double)y[j * ldy + i], (double)w->exact[i * k + j],
                            (double)w->size[i * k + j] * 0.51 / table +
                                fabs((double)w->exact[i * k + j]) * 1e-6,
                            "unit vectors", i * k + j))
                return;
}

/* Weights of the largest magnitude against inputs of the same signs, so that all products add up:
 * of the same magnitude all, or some of them alone. */
static void check_largest_sums(void) {
    const uint32_t n = 15, k = 192; /* too few for a mean error: theirs are alike */
    float *values = check_buffer((size_t)n * k * 4, 0), *x = check_buffer((size_t)n * k * 4, 0);
    float *y = check_buffer((size_t)n * 16 * 4, 0);
    for (uint32_t i = 0; i < n * k; i++)
        values[i] = check_below(2) ? 1 : -1;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < k; j++)
            x[i * k + j] = values[i * k + j] * (float)(i % 4 == 0 || j % (4 * i) < 2 * (i % 4));
    const struct weights w = make_q8(values, n, k, 0);
    size_t stride;
    const char *xq = quantised(x, k, n, &stride);
    kernels.q8(y, 16, xq, stride, n, &w.linear, 0, 1);
    for (uint32_t i = 0; i < n; i++)
        compare(y + (size_t)i * 16, x + (size_t)i * k, &w);
}

/* The product with turned weights is that of the Q8 matrix with each scale twice; added to what was
 * there it goes on from that. */
static void check_turned(uint32_t n, uint32_t k, uint32_t rows, size_t offset) {
    const struct weights like = random_q8(n, k, 0);
    struct weights w = like;
    const size_t tiles = n / 16, blocks = k / 32, ldy = n + check_below(3);
    uint16_t *twice = check_buffer(tiles * blocks * 32, 0),
             *once = check_buffer(tiles * blocks * 16, 0);
    for (size_t i = 0; i < tiles * blocks * 16; i++) {
        twice[i] = like.linear.scales[i / 32 * 32 + i % 16];
        once[i / 32 * 16 + i % 16] = twice[i];
    }
    w.linear.scales = twice;
    const struct lorica_matrix m = {
        .format = LORICA_FORMAT_Q8, .n = n, .k = k, .data = w.linear.codes, .scales = twice};
    lorica_matrix_rows_f32(&m, 0, n, w.exact);
    float *x = check_buffer((size_t)rows * k * 4, 4 * offset);
    float *y = check_buffer(((rows - 1) * ldy + n) * 4, 4 * offset);
    float *one = check_buffer((size_t)n * 4, 4 * offset);
    for (uint32_t r = 0; r < rows; r++)
        check_fill(x + (size_t)r * k, k);
    size_t stride;
    const char *xq = quantised(x, k, rows, &stride);
    const struct lorica_linear turned = {LORICA_FORMAT_Q8, n, k, w.linear.codes, once};
    kernels.turned(y, ldy, xq, stride, rows, &turned, false);
    for (uint32_t r = 0; r < rows; r++) {
        if (r < 3 || r == rows - 1)
            compare(y + r * ldy, x + (size_t)r * k, &w);
        kernels.turned(one, ldy, xq + r * stride, stride, 1, &turned, false);
        check_same(one, y + r * ldy, (size_t)n * 4, "turned: one row alone");
    }
    memcpy(one, y, (size_t)n * 4);
    kernels.turned(one, ldy, xq, stride, 1, &turned, true);
    for (uint32_t i = 0; i < n; i++) {
        double size = 0;
        for (uint32_t j = 0; j < k; j++)
            size += fabs((double)w.exact[(size_t)i * k + j] * (double)x[j]);
        check_near((double)one[i], 2 * (double)y[i], (k + 40) * 0x1p-22 * size + 0x1p-99,
                   "turned: added", i);
    }
    check_canaries("turned");
}

/* Turned weights: the C reference's to the bit, within half a step of those they stand for, and in
 * their places. */
static void check_turn(const struct weights *w, uint32_t row, uint32_t depth, bool even) {
    const uint32_t n = w->linear.n, k = w->linear.k, tiles = k / 16;
    const uint32_t tile0 = check_below(tiles), tile1 = tile0 + 1 + check_below(tiles - tile0);
    const size_t columns = (size_t)(tile1 - tile0) * 16, count = columns * depth;
    struct lorica_linear_kernels reference;
    float *by = even ? NULL : check_buffer((size_t)(n + 15) / 16 * 64, 0);
    for (uint32_t i = 0; !even && i < (n + 15) / 16 * 16; i++)
        by[i] = exp2f(check_uniform() * 4 - 2);
    int8_t *codes = check_buffer(count, 0), *want = check_buffer(count, 0);
    uint16_t *scales = check_buffer(count / 32, 0), *want_scales = check_buffer(count / 32, 0);
    const enum lorica_cpu_level level = lorica_cpu_level();
    if (lorica_cpu_limit(LORICA_CPU_C) != 0)
        check_fail("no level C");
    lorica_linear_kernels_init(&reference);
    if (lorica_cpu_limit(level) != 0)
        check_fail("the level does not come back");
    lorica_linear_turn(&reference, want, want_scales, &w->linear, by, row, depth, tile0, tile1);
    lorica_linear_turn(&kernels, codes, scales, &w->linear, by, row, depth, tile0, tile1);
    check_same(codes, want, count, "turned codes");
    check_same(scales, want_scales, count / 32, "their scales");
    double top = 0; /* a word is a 32767th of it, nearly */
    for (size_t i = (size_t)row * k; i < (size_t)n * k && i < (size_t)(row + depth) * k; i++)
        top = fmax(top, fmax(fabs((double)w->exact[i]), (double)w->size[i]) *
                            (by ? (double)by[i / k] : 1));
    for (size_t j = 0; j < columns; j++)
        for (size_t i = 0; i < depth; i++) {
            const double scale =
                (double)lorica_f16_to_f32(scales[(j / 16 * (depth / 64) + i / 64) * 16 + j % 16]);
            const double value =
                scale * codes[j / 16 * 16 * depth + i / 4 * 64 + j % 16 * 4 + i % 4];
            const size_t at = (row + i) * k + tile0 * 16 + j;
            const double exact =
                row + i < n ? (double)w->exact[at] * (by ? (double)by[row + i] : 1) : 0.0;
            /* Half a code, two words, and the rounding of a code's scale to f16. */
            if (!check_near(value, exact,
                            0.501 * scale + top / 16000 + fabs(exact) * 0x1.1p-11 + 127 * 0x1p-25,
                            "turned", at))
                return;
        }
    check_canaries("turn");
}

static void check_turns(void) {
    static const uint32_t n[] = {1, 16, 17, 32, 33, 48, 49, 64, 100, 192};
    for (size_t i = 0; i < sizeof(n) / sizeof(n[0]); i++) {
        const uint32_t whole = (n[i] + 63) / 64 * 64;
        const struct weights nf4 = random_nf4(n[i], 64 + 64 * (uint32_t)(i % 3), 0),
                             q8 = random_q8(n[i], 32 + 32 * (uint32_t)(i % 5), 0);
        check_turn(&nf4, 0, whole, i % 2 == 0);
        check_turn(&q8, 0, whole, i % 2 == 1);
        if (n[i] <= 32)
            continue;
        check_turn(&nf4, 32, (n[i] - 32 + 63) / 64 * 64, i % 2 == 1);
        check_turn(&q8, 32, 64, i % 2 == 0);
    }
}

/* Non-finite inputs make their own row non-finite and leave the others alone. */
static void check_non_finite(const struct weights *w) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-45f, 1e-38f};
    const uint32_t k = w->linear.k, ldy = (w->linear.n + 15) / 16 * 16;
    float *x = check_buffer((size_t)3 * k * 4, 0), *y = check_buffer((size_t)3 * ldy * 4, 0);
    float *good = check_buffer((size_t)3 * ldy * 4, 0);
    for (size_t i = 0; i < 3 * k; i++)
        x[i] = check_normal();
    size_t stride;
    const char *xq = quantised(x, k, 3, &stride);
    product(w)(good, ldy, xq, stride, 3, &w->linear, 0, ldy / 16);
    for (size_t b = 0; b < sizeof(bad) / sizeof(bad[0]); b++) {
        const uint32_t at = k + check_below(k);
        const float before = x[at];
        x[at] = bad[b];
        xq = quantised(x, k, 3, &stride);
        product(w)(y, ldy, xq, stride, 3, &w->linear, 0, ldy / 16);
        check_same(y, good, ldy * 4, "the row before");
        check_same(y + 2 * ldy, good + 2 * ldy, ldy * 4, "the row after");
        for (uint32_t i = 0; i < w->linear.n; i++)
            if (b < 3 ? isfinite(y[ldy + i]) : b > 3 && !isfinite(y[ldy + i]))
                check_fail("an input of %g gives an output of %g", (double)bad[b],
                           (double)y[ldy + i]);
        x[at] = before;
    }
}

/* A dense matrix of each format against double; rows past n are zero. */
static void check_dense(enum lorica_format format, uint32_t n, uint32_t k, uint32_t rows) {
    const size_t offset = check_below(2), size = format == LORICA_FORMAT_F32 ? 4 : 2;
    const uint32_t tiles = (n + 15) / 16;
    const size_t ldx = k + check_below(3), ldy = tiles * 16 + check_below(3);
    void *codes = check_buffer((size_t)n * k * size, size * offset);
    float *x = check_buffer(((rows - 1) * ldx + k) * 4, 4 * offset);
    float *y = check_buffer(((rows - 1) * ldy + tiles * 16) * 4, 4 * offset);
    float *one = check_buffer((size_t)tiles * 64, 0), *exact = check_buffer((size_t)n * k * 4, 0);
    for (size_t i = 0; i < (size_t)n * k; i++) {
        const float value = check_normal();
        if (format == LORICA_FORMAT_F32)
            ((float *)codes)[i] = value;
        else
            ((uint16_t *)codes)[i] =
                format == LORICA_FORMAT_F16 ? lorica_f32_to_f16(value) : lorica_f32_to_bf16(value);
    }
    const struct lorica_matrix m = {.format = format, .n = n, .k = k, .data = codes};
    const struct lorica_linear w = {format, n, k, codes, NULL};
    lorica_matrix_rows_f32(&m, 0, n, exact);
    check_fill(x, (rows - 1) * ldx + k);
    kernels.dense(y, ldy, x, ldx, rows, &w, 0, tiles);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t t = 0; t < tiles; t++)
            kernels.dense(one, ldy, x + r * ldx, ldx, 1, &w, t, t + 1);
        check_same(one, y + r * ldy, (size_t)tiles * 64, "dense: one row alone");
        for (uint32_t i = 0; i < tiles * 16; i++) {
            double sum = 0, bound = 0;
            for (uint32_t j = 0; i < n && j < k; j++) {
                const double term = (double)exact[(size_t)i * k + j] * (double)x[r * ldx + j];
                sum += term;
                bound += fabs(term) * (k + 2) * 0x1p-24;
            }
            if (!check_near((double)y[r * ldy + i], sum, bound, "dense", i))
                return;
        }
    }
    check_canaries("dense");
}

static void check(void) {
    static const uint32_t n[] = {1, 16, 17, 40, 64}, rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 33};
    static const uint32_t k[] = {64, 128, 192, 576, 832, 1600}, q8_k[] = {32, 96, 160, 800};
    lorica_linear_kernels_init(&kernels);
    for (size_t i = 0; i < 33; i++) {
        const size_t offset = i % 2;
        const struct weights nf4 = random_nf4(n[i % 5], k[i % 6], offset);
        check_product(&nf4, rows[i % 11], offset);
        const struct weights q8 = random_q8(n[i % 5], i % 3 ? q8_k[i % 4] : k[i % 6], offset);
        check_product(&q8, rows[i % 11], offset);
    }
    for (uint32_t i = 0; i < 11; i++)
        check_turned(16 + 16 * (i % 4), 64 + 64 * (i * i % 13), rows[i], i % 2);
    check_turned(32, 1536, 19, 0);
    const struct weights wide = random_nf4(16, 3200, 1), wide8 = random_q8(16, 3232, 1);
    check_product(&wide, 19, 0);
    check_product(&wide8, 19, 0);
    const struct weights nf4 = random_nf4(33, 192, 0), q8 = random_q8(33, 160, 0);
    check_unit_vectors(&nf4);
    check_unit_vectors(&q8);
    check_largest_sums();
    check_turns();
    check_non_finite(&nf4);
    check_non_finite(&q8);
    for (uint32_t i = 1; i < 80; i += 3)
        for (int format = LORICA_FORMAT_F32; format <= LORICA_FORMAT_BF16; format++)
            check_dense((enum lorica_format)format, 1 + i % 20, i, 1 + i % 7);
}

struct timed {
    struct lorica_linear w;
    char *xq;
    size_t stride;
    float *x, *y;
    uint32_t rows;
};

static void time_product(void *context) {
    struct timed *p = context;
    (p->w.format == LORICA_FORMAT_NF4 ? kernels.nf4 : kernels.q8)(p->y, p->w.n, p->xq, p->stride,
                                                                  p->rows, &p->w, 0, p->w.n / 16);
}

static void time_turned(void *context) {
    struct timed *p = context;
    kernels.turned(p->y, p->w.n, p->xq, p->stride, p->rows, &p->w, false);
}

static void time_dense(void *context) {
    struct timed *p = context;
    kernels.dense(p->y, p->w.n, p->x, p->w.k, p->rows, &p->w, 0, p->w.n / 16);
}

static void time_turn(void *context) {
    struct timed *p = context;
    lorica_linear_turn(&kernels, (int8_t *)p->y, (uint16_t *)(void *)p->xq, &p->w, NULL, 0, p->w.n,
                       0, p->w.k / 16);
}

static void time_quantise(void *context) {
    struct timed *p = context;
    kernels.act_quantise(p->xq, p->x, p->w.k);
}

static void bench_shape(enum lorica_format format, uint32_t n, uint32_t k) {
    static const uint32_t rows[] = {1, 4, 16, 128};
    const size_t nbytes = lorica_matrix_data_nbytes(format, n, k);
    const bool dense = format < LORICA_FORMAT_Q8;
    const double scale_nbytes = dense ? 0 : (double)n * k / (format == LORICA_FORMAT_Q8 ? 16 : 32);
    /* Turned weights take twice the codes of NF4. */
    void *codes = check_buffer(dense ? nbytes : (size_t)n * k, 0);
    uint16_t *scales = check_buffer((size_t)n * k / 16, 0);
    memset(codes, 0x35, dense ? nbytes : (size_t)n * k);
    memset(scales, 0x30, (size_t)n * k / 16);
    struct timed p = {.w = {format, n, k, codes, scales}, .stride = kernels.act_nbytes(k)};
    p.x = check_buffer((size_t)128 * k * 4, 0), p.xq = check_buffer(128 * p.stride, 0);
    p.y = check_buffer((size_t)n * (k > 512 ? k : 512), 0); /* 128 rows of outputs, or W turned */
    for (size_t i = 0; i < (size_t)128 * k; i++)
        p.x[i] = check_normal() * (i % k == 7 ? 12 : 1);
    for (uint32_t r = 0; r < 128; r++)
        kernels.act_quantise(p.xq + r * p.stride, p.x + (size_t)r * k, k);
    for (size_t i = 0; i < 4; i++) {
        char name[64];
        /* Plain C would take minutes for these. */
        if (lorica_cpu_level() == LORICA_CPU_C && (double)n * k * rows[i] > 3e8)
            continue;
        p.rows = rows[i];
        snprintf(name, sizeof(name), "%s %u x %u, %u rows", lorica_format_name(format), n, k,
                 rows[i]);
        check_bench(name, dense ? time_dense : time_product, &p, (double)nbytes + scale_nbytes,
                    2.0 * n * k * rows[i]);
    }
    char name[64];
    snprintf(name, sizeof(name), "turned %u x %u, 128 rows", n, k);
    if (format == LORICA_FORMAT_NF4 && n == 576 && lorica_cpu_level() != LORICA_CPU_C)
        check_bench(name, time_turned, &p, (double)n * k * (1 + 1.0 / 32), 2.0 * n * k * 128);
    snprintf(name, sizeof(name), "turn %s %u x %u", lorica_format_name(format), n, k);
    if (!dense && n < 49152)
        check_bench(name, time_turn, &p, (double)nbytes, 0);
    if (format == LORICA_FORMAT_NF4 && n != 576)
        return;
    snprintf(name, sizeof(name), "act_quantise %u", k);
    if (!dense)
        check_bench(name, time_quantise, &p, k * 4.0, 0);
}

static void bench(void) {
    lorica_linear_kernels_init(&kernels);
    bench_shape(LORICA_FORMAT_NF4, 576, 576);
    bench_shape(LORICA_FORMAT_NF4, 192, 576);
    bench_shape(LORICA_FORMAT_NF4, 1536, 576);
    bench_shape(LORICA_FORMAT_NF4, 576, 1536);
    bench_shape(LORICA_FORMAT_Q8, 49152, 576);
    bench_shape(LORICA_FORMAT_BF16, 576, 576);
}

const struct check_family check_linear = {"linear", check, bench};
