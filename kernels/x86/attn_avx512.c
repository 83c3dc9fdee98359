/* SPDX-License-Identifier: MIT
 * Products by vdpbf16ps: queries and weights are rounded to bfloat16, as the cache is. Against
 * float32 queries and weights that moves the model's distribution over next tokens by less than can
 * be measured beside the rounding of activations in linear_avx512.c. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

#define LANES 16
/* 6 queries: 24 sums, four operands and a factor in 32 registers. */
#define SCORE_PAGES(queries, format) 4
#define GATHER_VECS(queries, format) 4

typedef __m512 vec;

static inline vec vec_zero(void) { return _mm512_setzero_ps(); }
static inline vec vec_set1(float x) { return _mm512_set1_ps(x); }
static inline vec vec_load(const float *at) { return _mm512_loadu_ps(at); }
static inline void vec_store(float *at, vec v) { _mm512_storeu_ps(at, v); }
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec vec_fma_in_place(vec a, vec b, vec c) { return vec_fma(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline float vec_sum(vec v) { return _mm512_reduce_add_ps(v); }
static inline float vec_top(vec v) { return _mm512_reduce_max_ps(v); }

/* The polynomial is exact at 0 and elsewhere within 1e-7, the least that its degree allows. A
 * maximum with NaN is its second operand. */
static inline vec vec_exp2(vec v) {
    const vec x = _mm512_max_ps(_mm512_set1_ps(-200), v);
    const vec n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vec r = _mm512_sub_ps(x, n);
    vec p = _mm512_set1_ps(1.32646516e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.67151858e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.55073395e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.40222424e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.93147004e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

static inline vec vec_byte(const uint8_t *at, uint32_t i) {
    const __m512i left = _mm512_slli_epi32(_mm512_loadu_si512(at), 24 - 8 * i);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(left, 24));
}

#define PAIRS 1
#define UNITS 0

typedef __m512i vec_raw;

static inline vec_raw vec_pairs(const uint8_t *at) { return _mm512_loadu_si512(at); }
static inline vec_raw vec_set1_pairs(uint32_t x) { return _mm512_set1_epi32((int)x); }

static inline vec_raw vec_first(vec_raw pairs) {
    return _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff));
}

static inline vec vec_dot(vec sum, vec_raw a, vec_raw b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* Bfloat16 needs none. */
static inline float top_of(const float *x, uint32_t n) {
    (void)x;
    (void)n;
    return 0;
}

static inline float vec_round(uint32_t *to, const float *x, uint32_t n, uint32_t steps, float top) {
    (void)steps;
    (void)top;
    for (; n >= 16; n -= 16, x += 16, to += 8)
        _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)));
    if (n > 0)
        _mm256_mask_storeu_epi16(
            to, (__mmask16)((1u << (n + n % 2)) - 1),
            (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), x)));
    return 1;
}

#include "kernels/attn_tile.h"

/* Eight columns at a time; single stores, for a neighbour may be writing the slot beside. */
static void put_bf16(void *page, uint32_t slot, const float *key, const float *value,
                     uint32_t head_dim) {
    for (uint32_t d = 0; d < head_dim; d += 8) {
        float tail[2][8] = {{0}};
        uint16_t bits[2][8];
        const uint32_t count = head_dim - d < 8 ? head_dim - d : 8;
        if (count < 8) {
            memcpy(tail[0], key + d, count * sizeof(*key));
            memcpy(tail[1], value + d, count * sizeof(*value));
        }
        _mm_storeu_si128((__m128i *)bits[0],
                         to_bf16_8(_mm256_loadu_ps(count < 8 ? tail[0] : key + d)));
        _mm_storeu_si128((__m128i *)bits[1],
                         to_bf16_8(_mm256_loadu_ps(count < 8 ? tail[1] : value + d)));
        for (uint32_t i = 0; i < count; i += 2)
            memcpy(lorica_kv_bf16_key(page, slot, d + i), &bits[0][i], 2 * sizeof(uint16_t));
        for (uint32_t i = 0; i < count; i++)
            *lorica_kv_bf16_value(page, slot, d + i, head_dim) = bits[1][i];
    }
}

void lorica_attn_kernels_avx512(struct lorica_attn_kernels *kernels) {
    kernels->put[LORICA_KV_BF16] = put_bf16;
    kernels->attend[LORICA_KV_BF16] = attend_bf16;
    kernels->attend[LORICA_KV_INT8] = attend_int8;
    kernels->fold = fold;
    kernels->finish = finish;
}
