/* SPDX-License-Identifier: MIT
 * Two passes over the cache: scores, then the weighted sum of the values. */
#include <immintrin.h>
#include <math.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

/* Columns of the output that are kept in registers at a time. */
#define COLUMNS 32

static inline const uint16_t *page(const uint16_t *pool, const struct lorica_kv_view *kv,
                                   uint32_t at) {
    return pool + kv->pages[at / LORICA_KV_PAGE] * kv->page_stride;
}

static float dot(const float *q, const uint16_t *key, uint32_t dim) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    uint32_t d = 0;
    for (; d + 16 <= dim; d += 16) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(q + d), bf16_avx2(key + d), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(q + d + 8), bf16_avx2(key + d + 8), s1);
    }
    for (; d + 8 <= dim; d += 8)
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(q + d), bf16_avx2(key + d), s0);
    float sum = sum_avx2(_mm256_add_ps(s0, s1));
    for (; d < dim; d++)
        sum += q[d] * bf16_scalar(key[d]);
    return sum;
}

/* scores[h * stride + p] = scale * q_h . key p. */
static void score(float *scores, size_t stride, const float *q, uint32_t heads,
                  const struct lorica_kv_view *kv, uint32_t length, float scale) {
    for (uint32_t p0 = 0; p0 < length; p0 += LORICA_KV_PAGE) {
        const uint16_t *keys = page(kv->keys, kv, p0);
        const uint32_t rows = length - p0 < LORICA_KV_PAGE ? length - p0 : LORICA_KV_PAGE;
        for (uint32_t i = 0; i < rows; i++)
            for (uint32_t h = 0; h < heads; h++)
                scores[h * stride + p0 + i] =
                    scale * dot(q + (size_t)h * kv->head_dim, keys + (size_t)i * kv->head_dim,
                                kv->head_dim);
    }
}

/* Turns scores into weights exp(score - max), padded with zeros to `padded`; returns their sum. */
static float weigh(float *scores, uint32_t length, uint32_t padded) {
    for (uint32_t p = length; p < padded; p++)
        scores[p] = -INFINITY;
    __m256 top = _mm256_set1_ps(-INFINITY), nans = _mm256_setzero_ps();
    for (uint32_t p = 0; p < padded; p += 8) {
        const __m256 v = _mm256_loadu_ps(scores + p);
        top = _mm256_max_ps(v, top);
        nans = _mm256_or_ps(nans, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    float lanes[8], max = -INFINITY;
    _mm256_storeu_ps(lanes, top);
    for (int i = 0; i < 8; i++)
        max = lanes[i] > max ? lanes[i] : max;
    if (_mm256_movemask_ps(nans))
        max = NAN;
    const __m256 m = _mm256_set1_ps(max);
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t p = 0; p < padded; p += 8) {
        const __m256 e = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(scores + p), m));
        _mm256_storeu_ps(scores + p, e);
        sum = _mm256_add_ps(sum, e);
    }
    return sum_avx2(sum);
}

/* out[d] = factor * sum of weights[p] * value p[d], for COLUMNS columns from d on. */
static void gather(float *out, const float *weights, const struct lorica_kv_view *kv, uint32_t d,
                   uint32_t length, float factor) {
    __m256 s[COLUMNS / 8];
    for (int c = 0; c < COLUMNS / 8; c++)
        s[c] = _mm256_setzero_ps();
    for (uint32_t p0 = 0; p0 < length; p0 += LORICA_KV_PAGE) {
        const uint16_t *value = page(kv->values, kv, p0) + d;
        const uint32_t rows = length - p0 < LORICA_KV_PAGE ? length - p0 : LORICA_KV_PAGE;
        for (uint32_t i = 0; i < rows; i++, value += kv->head_dim) {
            const __m256 w = _mm256_broadcast_ss(weights + p0 + i);
            for (int c = 0; c < COLUMNS / 8; c++)
                s[c] = _mm256_fmadd_ps(w, bf16_avx2(value + 8 * c), s[c]);
        }
    }
    for (int c = 0; c < COLUMNS / 8; c++)
        _mm256_storeu_ps(out + d + 8 * c, _mm256_mul_ps(s[c], _mm256_set1_ps(factor)));
}

static void gather_one(float *out, const float *weights, const struct lorica_kv_view *kv,
                       uint32_t d, uint32_t length, float factor) {
    float sum = 0;
    for (uint32_t p = 0; p < length; p++) {
        const uint16_t *value =
            page(kv->values, kv, p) + (size_t)(p % LORICA_KV_PAGE) * kv->head_dim;
        sum += weights[p] * bf16_scalar(value[d]);
    }
    out[d] = sum * factor;
}

static void attend_avx2(float *out, const float *q, uint32_t heads, const struct lorica_kv_view *kv,
                        uint32_t length, float scale, float *scratch) {
    const uint32_t padded = (length + 15) / 16 * 16;
    score(scratch, padded, q, heads, kv, length, scale);
    for (uint32_t h = 0; h < heads; h++) {
        float *weights = scratch + (size_t)h * padded;
        const float factor = 1 / weigh(weights, length, padded);
        float *row = out + (size_t)h * kv->head_dim;
        uint32_t d = 0;
        for (; d + COLUMNS <= kv->head_dim; d += COLUMNS)
            gather(row, weights, kv, d, length, factor);
        for (; d < kv->head_dim; d++)
            gather_one(row, weights, kv, d, length, factor);
    }
}

void lorica_attn_kernels_avx2(struct lorica_attn_kernels *kernels) {
    kernels->attend = attend_avx2;
}
