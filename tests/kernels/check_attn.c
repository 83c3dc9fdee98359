/* SPDX-License-Identifier: MIT
 * Attention over a shuffled paged cache against double arithmetic. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"
#include "kernels/matrix.h"

static struct lorica_attn_kernels kernels;

struct cache {
    struct lorica_kv_view view;
    uint16_t *keys, *values;
    uint32_t *pages;
};

/* Pages in random order, a gap between them, every row filled. */
static struct cache make_cache(uint32_t length, uint32_t dim, size_t offset) {
    const uint32_t count = (length + LORICA_KV_PAGE - 1) / LORICA_KV_PAGE;
    const size_t stride = (size_t)LORICA_KV_PAGE * dim + 8;
    struct cache c = {.keys = check_buffer(count * stride * 2, 2 * offset),
                      .values = check_buffer(count * stride * 2, 2 * offset),
                      .pages = check_buffer(count * sizeof(uint32_t), 0)};
    for (size_t i = 0; i < count * stride; i++) {
        c.keys[i] = lorica_f32_to_bf16(check_normal());
        c.values[i] = lorica_f32_to_bf16(check_normal());
    }
    for (uint32_t i = 0; i < count; i++)
        c.pages[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        const uint32_t j = check_below(i), page = c.pages[i - 1];
        c.pages[i - 1] = c.pages[j];
        c.pages[j] = page;
    }
    c.view = (struct lorica_kv_view){c.keys, c.values, stride, c.pages, dim};
    return c;
}

static size_t row_at(const struct lorica_kv_view *kv, uint32_t p) {
    return kv->pages[p / LORICA_KV_PAGE] * kv->page_stride +
           (size_t)(p % LORICA_KV_PAGE) * kv->head_dim;
}

/* One head in double; and how far float32 may be off, relative to sum of weight * |value|. */
static double exact_weights(double *weights, const float *q, const struct lorica_kv_view *kv,
                            uint32_t length, float scale) {
    double top = -INFINITY, largest = 0, total = 0;
    for (uint32_t p = 0; p < length; p++) {
        double sum = 0, size = 0;
        for (uint32_t d = 0; d < kv->head_dim; d++) {
            const double product =
                (double)q[d] * (double)lorica_bf16_to_f32(kv->keys[row_at(kv, p) + d]);
            sum += product;
            size += fabs(product);
        }
        weights[p] = sum * (double)scale;
        largest = fmax(largest, size * fabs((double)scale));
        top = fmax(top, weights[p]);
    }
    for (uint32_t p = 0; p < length; p++)
        total += weights[p] = exp(weights[p] - top);
    for (uint32_t p = 0; p < length; p++)
        weights[p] /= total;
    /* Scores off by (dim + 4) roundings shift weight and total alike; the exponential adds 1e-6 */
    return 2 * ((kv->head_dim + 4) * 0x1p-24 * largest * 2 + 1e-6) + 2 * (length + 4) * 0x1p-24;
}

static void compare(const float *out, const float *q, const struct lorica_kv_view *kv,
                    uint32_t length, float scale) {
    double *weights = check_buffer(length * sizeof(double), 0);
    const double relative = exact_weights(weights, q, kv, length, scale);
    for (uint32_t d = 0; d < kv->head_dim; d++) {
        double sum = 0, size = 0;
        for (uint32_t p = 0; p < length; p++) {
            const double product =
                weights[p] * (double)lorica_bf16_to_f32(kv->values[row_at(kv, p) + d]);
            sum += product;
            size += fabs(product);
        }
        if (!check_near((double)out[d], sum, relative * size, "attend", d))
            return;
    }
}

static void attend(uint32_t length, uint32_t dim, uint32_t heads) {
    const size_t offset = check_below(2), padded = (length + 15) / 16 * 16;
    const struct cache c = make_cache(length, dim, offset);
    const float scale = 1 / sqrtf((float)dim);
    float *q = check_buffer((size_t)heads * dim * 4, 4 * offset);
    float *out = check_buffer((size_t)heads * dim * 4, 4 * offset);
    float *one = check_buffer((size_t)heads * dim * 4, 0);
    float *scratch = check_buffer(heads * padded * 4, 4 * offset);
    float *small = check_buffer(padded * 4, 0);
    for (uint32_t i = 0; i < heads * dim; i++)
        q[i] = check_normal() * (check_below(20) ? 1 : 10);
    kernels.attend(out, q, heads, &c.view, length, scale, scratch);
    for (uint32_t h = 0; h < heads; h++) {
        compare(out + (size_t)h * dim, q + (size_t)h * dim, &c.view, length, scale);
        kernels.attend(one + (size_t)h * dim, q + (size_t)h * dim, 1, &c.view, length, scale,
                       small);
    }
    check_same(out, one, (size_t)heads * dim * 4, "heads together and alone");
    check_canaries("attend");
    /* What lies behind the last position must not matter, whatever it is. */
    if (length % LORICA_KV_PAGE) {
        const size_t after = row_at(&c.view, length - 1) + dim;
        for (uint32_t d = 0; d < dim; d++)
            c.keys[after + d] = c.values[after + d] = 0x7fc0;
        kernels.attend(one, q, heads, &c.view, length, scale, scratch);
        check_same(out, one, (size_t)heads * dim * 4, "rows past the end");
    }
    q[check_below(dim)] = NAN;
    kernels.attend(out, q, heads, &c.view, length, scale, scratch);
    if (!isnan(out[0]) || !isnan(out[dim - 1]))
        check_fail("attend: a NaN in the query is lost");
    if (heads > 1)
        check_same(out + dim, one + dim, (heads - 1) * (size_t)dim * 4, "heads beside a NaN");
}

static void check(void) {
    static const uint32_t dims[] = {2, 8, 16, 24, 31, 32, 48, 64, 80, 100, 128, 256};
    lorica_attn_kernels_init(&kernels);
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++)
        for (uint32_t length = 1; length < 200; length += 1 + length / 3)
            attend(length, dims[i], 1 + check_below(9));
    attend(1000, 64, 3);
}

struct timed {
    struct cache cache;
    float *out, *q, *scratch;
    uint32_t heads, length;
};

static void time_attend(void *context) {
    struct timed *p = context;
    kernels.attend(p->out, p->q, p->heads, &p->cache.view, p->length, 0.125f, p->scratch);
}

static void bench(void) {
    lorica_attn_kernels_init(&kernels);
    for (uint32_t length = 64; length <= 4096; length *= 8) {
        struct timed p = {make_cache(length, 64, 0),
                          check_buffer(3 * 64 * 4, 0),
                          check_buffer(3 * 64 * 4, 0),
                          check_buffer((size_t)length * 3 * 4, 0),
                          3,
                          length};
        for (int i = 0; i < 3 * 64; i++)
            p.q[i] = check_normal();
        char name[64];
        snprintf(name, sizeof(name), "attend 3 heads of 64, %u tokens", length);
        check_bench(name, time_attend, &p, 256.0 * length, 768.0 * length);
    }
}

const struct check_family check_attn = {"attn", check, bench};
