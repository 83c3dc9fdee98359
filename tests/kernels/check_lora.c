/* SPDX-License-Identifier: MIT
 * LoRA's two products against double arithmetic. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/lora.h"
#include "kernels/matrix.h"

static struct lorica_lora_kernels kernels;

static void fill_int8(int8_t *q, size_t count) {
    for (size_t i = 0; i < count; i++)
        q[i] = (int8_t)(check_below(255) - 127);
}

/* Rows of a batch in some order, every second one left out. */
static struct lorica_lora_rows some_rows(uint32_t count, uint32_t rank) {
    uint32_t *index = check_buffer(count * sizeof(*index), 0);
    const size_t ldt = rank + check_below(3);
    for (uint32_t r = 0; r < count; r++)
        index[r] = 2 * (count - 1 - r);
    return (struct lorica_lora_rows){
        index, count, check_buffer(((2 * count - 2) * ldt + rank) * sizeof(float), 4), ldt};
}

static void shrink(uint32_t r, uint32_t k, uint32_t count, size_t offset) {
    const size_t ldx = k + 3 * offset;
    int8_t *a = check_buffer((size_t)r * k, offset);
    float *scales = check_buffer(r * sizeof(float), 4 * offset);
    float *x = check_buffer(((2 * count - 2) * ldx + k) * sizeof(float), 4 * offset);
    const struct lorica_lora_rows rows = some_rows(count, r);
    fill_int8(a, (size_t)r * k);
    check_fill(scales, r);
    check_fill(x, (2 * count - 2) * ldx + k);
    kernels.shrink(&rows, x, ldx, k, a, scales, 0, r);
    float *one = check_buffer((2 * (size_t)count * rows.ldt) * sizeof(float), 0);
    for (uint32_t n = 0; n < count; n++) {
        const uint32_t row = rows.index[n];
        const float *t = rows.t + row * rows.ldt;
        for (uint32_t i = 0; i < r; i++) {
            double sum = 0, size = 0;
            for (uint32_t j = 0; j < k; j++) {
                const double product = (double)scales[i] * a[i * k + j] * (double)x[row * ldx + j];
                sum += product;
                size += fabs(product);
            }
            check_near((double)t[i], sum, (k + 3) * 0x1p-24 * size, "shrink", i);
            const struct lorica_lora_rows alone = {&row, 1, one, rows.ldt};
            kernels.shrink(&alone, x, ldx, k, a, scales, i, i + 1);
        }
        check_same(t, one + row * rows.ldt, r * sizeof(float), "shrink one by one");
    }
    check_canaries("shrink");
    x[rows.index[0] * ldx + check_below(k)] = NAN;
    kernels.shrink(&rows, x, ldx, k, a, scales, 0, r);
    const float *bad = rows.t + rows.index[0] * rows.ldt;
    if (!isnan(bad[0]) || !isnan(bad[r - 1]))
        check_fail("shrink: NaN is lost");
    if (count > 1)
        check_same(rows.t, one, r * sizeof(float), "shrink beside NaN");
}

static void expand(uint32_t r, uint32_t n, uint32_t count, size_t offset) {
    const uint32_t tiles = (n + 15) / 16, padded = tiles * 16;
    const size_t ldy = padded + offset, total = (2 * count - 2) * ldy + padded;
    int8_t *b = check_buffer((size_t)r * padded, offset);
    const struct lorica_lora_rows rows = some_rows(count, r);
    float *y = check_buffer(total * sizeof(float), 4 * offset);
    float *before = check_buffer(total * sizeof(float), 0);
    float *one = check_buffer(total * sizeof(float), 0);
    fill_int8(b, (size_t)r * padded);
    check_fill(rows.t, (2 * count - 2) * rows.ldt + r);
    check_fill(before, total);
    memcpy(y, before, total * sizeof(float));
    memcpy(one, before, total * sizeof(float));
    kernels.expand(&rows, y, ldy, r, b, 0, tiles);
    for (uint32_t m = 0; m < count; m++) {
        const uint32_t row = rows.index[m];
        for (uint32_t i = 0; i < padded; i++) {
            double sum = (double)before[row * ldy + i], size = fabs(sum);
            for (uint32_t j = 0; j < r; j++) {
                const double product =
                    b[(i / 16 * r + j) * 16 + i % 16] * (double)rows.t[row * rows.ldt + j];
                sum += product;
                size += fabs(product);
            }
            check_near((double)y[row * ldy + i], sum, (r + 3) * 0x1p-24 * size, "expand", i);
        }
        const struct lorica_lora_rows alone = {&row, 1, rows.t, rows.ldt};
        for (uint32_t t = 0; t < tiles; t++)
            kernels.expand(&alone, one, ldy, r, b, t, t + 1);
    }
    check_same(y, one, total * sizeof(float), "expand one by one, and rows between untouched");
    check_canaries("expand");
}

static void check(void) {
    static const uint32_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 192, 576, 577};
    lorica_lora_kernels_init(&kernels);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (uint32_t r = 1; r <= 17; r += 1 + r / 4) {
            const size_t offset = check_below(2);
            const uint32_t count = 1 + check_below(10);
            shrink(r, sizes[i], count, offset);
            expand(r, sizes[i], count, offset);
        }
    }
}

struct timed {
    struct lorica_lora_rows rows;
    float *x, *y;
    int8_t *a, *b;
    float *scales;
    uint32_t k, n, r;
};

static void time_shrink(void *context) {
    struct timed *p = context;
    kernels.shrink(&p->rows, p->x, p->k, p->k, p->a, p->scales, 0, p->r);
}

static void time_expand(void *context) {
    struct timed *p = context;
    kernels.expand(&p->rows, p->y, p->n, p->r, p->b, 0, p->n / 16);
}

static void bench(void) {
    static const uint32_t shapes[][2] = {{576, 576}, {1536, 576}, {576, 1536}};
    static const uint32_t counts[] = {1, 2, 16};
    static uint32_t index[16];
    lorica_lora_kernels_init(&kernels);
    for (uint32_t r = 0; r < 16; r++)
        index[r] = r;
    for (size_t i = 0; i < 9; i++) {
        struct timed p = {.n = shapes[i / 3][0], .k = shapes[i / 3][1], .r = 16};
        const uint32_t count = counts[i % 3];
        p.rows = (struct lorica_lora_rows){index, count, check_buffer(16 * p.r * 4, 0), p.r};
        p.x = check_buffer((size_t)16 * p.k * 4, 0), p.y = check_buffer((size_t)16 * p.n * 4, 0);
        p.a = check_buffer((size_t)p.r * p.k, 0), p.b = check_buffer((size_t)p.r * p.n, 0);
        p.scales = check_buffer(p.r * sizeof(float), 0);
        memset(p.a, 0, (size_t)p.r * p.k), memset(p.b, 0, (size_t)p.r * p.n);
        memset(p.scales, 0, p.r * sizeof(float));
        memset(p.y, 0, (size_t)16 * p.n * 4);
        memset(p.rows.t, 0, 16 * p.r * 4);
        memset(p.x, 0, (size_t)16 * p.k * 4);
        char name[64];
        snprintf(name, sizeof(name), "lora shrink r16 k%u, %u rows", p.k, count);
        check_bench(name, time_shrink, &p, 1.0 * p.r * p.k, 2.0 * p.r * p.k * count);
        snprintf(name, sizeof(name), "lora expand r16 n%u, %u rows", p.n, count);
        check_bench(name, time_expand, &p, 1.0 * p.r * p.n, 2.0 * p.r * p.n * count);
    }
}

const struct check_family check_lora = {"lora", check, bench};
