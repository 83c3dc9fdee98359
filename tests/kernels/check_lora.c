/* SPDX-License-Identifier: MIT
 * LoRA's two products against double arithmetic. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/lora.h"
#include "kernels/matrix.h"

static struct lorica_lora_kernels kernels;

static void fill_bf16(uint16_t *h, size_t count) {
    for (size_t i = 0; i < count; i++)
        h[i] = lorica_f32_to_bf16(check_normal());
}

static void shrink(uint32_t r, uint32_t k, size_t lda, size_t offset) {
    uint16_t *a = check_buffer(((r - 1) * lda + k) * 2, 2 * offset);
    float *x = check_buffer(k * sizeof(float), 4 * offset);
    float *t = check_buffer(r * sizeof(float), 4 * offset), *one = check_buffer(r * 4, 0);
    fill_bf16(a, (r - 1) * lda + k);
    check_fill(x, k);
    kernels.shrink(t, x, k, a, lda, 0, r);
    for (uint32_t i = 0; i < r; i++) {
        double sum = 0, size = 0;
        for (uint32_t j = 0; j < k; j++) {
            const double product = (double)lorica_bf16_to_f32(a[i * lda + j]) * (double)x[j];
            sum += product;
            size += fabs(product);
        }
        check_near((double)t[i], sum, (k + 2) * 0x1p-24 * size, "shrink", i);
        kernels.shrink(one, x, k, a, lda, i, i + 1);
    }
    check_same(t, one, r * sizeof(float), "shrink row by row");
    check_canaries("shrink");
    x[check_below(k)] = NAN;
    kernels.shrink(t, x, k, a, lda, 0, r);
    if (!isnan(t[0]) || !isnan(t[r - 1]))
        check_fail("shrink: NaN is lost");
}

static void expand(uint32_t r, uint32_t n, size_t offset) {
    const uint32_t padded = (n + 15) / 16 * 16;
    const size_t ldb = padded + 8 * offset;
    uint16_t *bt = check_buffer(r * ldb * 2, 2 * offset);
    float *t = check_buffer(r * sizeof(float), 4 * offset);
    float *y = check_buffer(padded * sizeof(float), 4 * offset);
    float *before = check_buffer(padded * sizeof(float), 0), *one = check_buffer(padded * 4, 0);
    memset(bt, 0, r * ldb * 2);
    for (uint32_t j = 0; j < r; j++)
        fill_bf16(bt + j * ldb, n);
    check_fill(t, r);
    check_fill(before, padded);
    memcpy(y, before, padded * sizeof(float));
    memcpy(one, before, padded * sizeof(float));
    kernels.expand(y, t, r, bt, ldb, 0, n);
    for (uint32_t i = 0; i < n; i++) {
        double sum = (double)before[i], size = fabs(sum);
        for (uint32_t j = 0; j < r; j++) {
            const double product = (double)lorica_bf16_to_f32(bt[j * ldb + i]) * (double)t[j];
            sum += product;
            size += fabs(product);
        }
        check_near((double)y[i], sum, (r + 3) * 0x1p-24 * size, "expand", i);
    }
    for (uint32_t i = 0; i < n; i += 16)
        kernels.expand(one, t, r, bt, ldb, i, i + 16 < n ? i + 16 : n);
    check_same(y, one, n * sizeof(float), "expand piece by piece");
    check_canaries("expand");
}

static void check(void) {
    static const uint32_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 192, 576, 577};
    lorica_lora_kernels_init(&kernels);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (uint32_t r = 1; r <= 17; r += 1 + r / 4) {
            const size_t offset = check_below(2);
            shrink(r, sizes[i], sizes[i] + 3 * offset, offset);
            expand(r, sizes[i], offset);
        }
    }
}

struct timed {
    float *t, *x, *y;
    uint16_t *a, *bt;
    uint32_t k, n, r;
};

static void time_shrink(void *context) {
    struct timed *p = context;
    kernels.shrink(p->t, p->x, p->k, p->a, p->k, 0, p->r);
}

static void time_expand(void *context) {
    struct timed *p = context;
    kernels.expand(p->y, p->t, p->r, p->bt, p->n, 0, p->n);
}

static void bench(void) {
    static const uint32_t shapes[][2] = {{576, 576}, {1536, 576}, {576, 1536}};
    lorica_lora_kernels_init(&kernels);
    for (size_t i = 0; i < 3; i++) {
        struct timed p = {.n = shapes[i][0], .k = shapes[i][1], .r = 16};
        p.t = check_buffer(p.r * 4, 0), p.x = check_buffer(p.k * 4, 0);
        p.y = check_buffer(p.n * 4, 0), p.a = check_buffer((size_t)p.r * p.k * 2, 0);
        p.bt = check_buffer((size_t)p.r * p.n * 2, 0);
        memset(p.y, 0, p.n * 4);
        memset(p.t, 0, p.r * 4);
        memset(p.x, 0, p.k * 4);
        char name[64];
        snprintf(name, sizeof(name), "lora shrink r16 k%u", p.k);
        check_bench(name, time_shrink, &p, 2.0 * p.r * p.k, 2.0 * p.r * p.k);
        snprintf(name, sizeof(name), "lora expand r16 n%u", p.n);
        check_bench(name, time_expand, &p, 2.0 * p.r * p.n, 2.0 * p.r * p.n);
    }
}

const struct check_family check_lora = {"lora", check, bench};
