/* SPDX-License-Identifier: MIT */
#include <immintrin.h>
#include <string.h>

#include "kernels/attn_page.h"
#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

#define LANES 8
/* 6 queries: 12 sums, two operands and a factor in 16 registers. 3 queries: the pairs, being
 * operands as they lie, are read less often with 6 sums at a time; bytes are made floats less often
 * with 12. */
#define TWICE(queries, format) ((queries) <= ((format) == LORICA_KV_INT8 ? 3 : 2))
#define SCORE_PAGES(queries, format) (TWICE(queries, format) ? 2 : 1)
#define GATHER_VECS(queries, format) (TWICE(queries, format) ? 4 : 2)

typedef __m256 vec;

static inline vec vec_zero(void) { return _mm256_setzero_ps(); }
static inline vec vec_set1(float x) { return _mm256_set1_ps(x); }
static inline vec vec_load(const float *at) { return _mm256_loadu_ps(at); }
static inline void vec_store(float *at, vec v) { _mm256_storeu_ps(at, v); }
static inline vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
/* Left to itself gcc moves the sums from register to register, and one of them to memory. */
static inline vec vec_fma_in_place(vec a, vec b, vec c) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
    return c;
}
static inline vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline float vec_sum(vec v) { return sum_avx2(v); }

static inline float vec_top(vec v) {
    __m128 top = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    top = _mm_max_ps(top, _mm_movehl_ps(top, top));
    return _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
}

/* 2^(v + power). The polynomial is exact at 0 and elsewhere within 1e-7, the least that its degree
 * allows; n is added to its exponent, which for the least n leaves 0. A maximum with NaN is its
 * second operand, and NaN as an integer is 2^31, which the shift makes 0. */
static inline vec exp2_up(vec v, const int power) {
    const float by = (float)(1 << power);
    const vec x = _mm256_max_ps(_mm256_set1_ps((float)(-127 - power)), v);
    const __m256i n = _mm256_cvtps_epi32(x);
    const vec r = _mm256_sub_ps(x, _mm256_cvtepi32_ps(n));
    vec p = _mm256_set1_ps(1.32646516e-3f * by);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(9.67151858e-3f * by));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.55073395e-2f * by));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(2.40222424e-1f * by));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(6.93147004e-1f * by));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(by));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(n, 23)));
}

static inline vec vec_exp2(vec v) { return exp2_up(v, 0); }

static inline vec vec_byte(const uint8_t *at, uint32_t i) {
    const __m256i left =
        _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)at), (int)(24 - 8 * i));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(left, 24));
}

/* The first `count` lanes, at most eight. */
static inline __m256i first_lanes(uint32_t count) {
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(ones + 8 - count));
}

/* Up to eight values, the rest 0. */
static inline __m256 load_some(const float *x, uint32_t count) {
    return _mm256_maskload_ps(x, first_lanes(count));
}

static inline vec vec_part(vec v, uint32_t count) {
    return _mm256_and_ps(v, _mm256_castsi256_ps(first_lanes(count)));
}

/* Magnitudes are compared as integers: NaN and infinity are the largest. */
static inline vec vec_magnitude(vec top, vec v) {
    const __m256i bits = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(top), bits));
}

static inline float vec_magnitude_top(vec v) {
    const __m256i top = _mm256_castps_si256(v);
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
    const float max = _mm_cvtss_f32(_mm_castsi128_ps(most));
    return max <= __FLT_MAX__ ? max : __builtin_nanf("");
}

/* The largest magnitude; NaN when a value is not finite. */
static inline float top_of(const float *x, uint32_t n) {
    vec top = vec_zero();
    uint32_t d = 0;
    for (; d + 8 <= n; d += 8)
        top = vec_magnitude(top, _mm256_loadu_ps(x + d));
    if (d < n)
        top = vec_magnitude(top, load_some(x + d, n - d));
    return vec_magnitude_top(top);
}

/* Eight values as int16 steps. */
static inline __m128i steps_of(__m256 x, __m256 inverse) {
    const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
    return _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
}

/* Steps for one of a value whose largest magnitude is `top`; 0 where that is next to nothing. */
static inline float inverse_of(float top, float steps) {
    return top >= 0x1p-113f ? steps / top : 0;
}

#define PAIRS 1
#define UNITS 1

typedef __m256i vec_raw;

static inline vec_raw vec_pairs(const uint8_t *at) {
    return _mm256_loadu_si256((const __m256i *)at);
}
static inline vec_raw vec_set1_pairs(uint32_t x) { return _mm256_set1_epi32((int)x); }
static inline vec_raw vec_first(vec_raw pairs) {
    return _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
}
static inline vec vec_dot(vec sum, vec_raw a, vec_raw b) {
    __m256i products;
    /* In place, and in this order. */
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
            : "+x"(sum), "=x"(products)
            : "x"(a), "x"(b));
    return sum;
}
static inline vec vec_steps(vec v) { return exp2_up(v, 12); }
_Static_assert(LORICA_KV_WEIGHT_STEPS == 1 << 12, "what vec_steps makes");
static inline void vec_put_steps(uint32_t *to, const vec *v) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
    _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(words, 0xd8));
}
static inline vec vec_total(vec sum) { return _mm256_cvtepi32_ps(_mm256_castps_si256(sum)); }

static inline float vec_round(uint32_t *to, const float *x, uint32_t n, uint32_t steps, float top) {
    const float inverse = inverse_of(top, (float)steps);
    const __m256 factor = _mm256_set1_ps(inverse);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i / 2), steps_of(_mm256_loadu_ps(x + i), factor));
    if (i < n) {
        uint32_t tail[4];
        _mm_storeu_si128((__m128i *)tail, steps_of(load_some(x + i, n - i), factor));
        memcpy(to + i / 2, tail, (n - i + 1) / 2 * sizeof(*tail));
    }
    return top == top ? (inverse > 0 ? top / (float)steps : 0) : top;
}

#include "kernels/attn_tile.h"

/* Values below this count as 0. That it is no less keeps the weights of those that are all 0 from
 * vanishing beside others'. */
#define LEAST_VALUE 0x1p-101f

/* Eight columns at a time; single stores, for a neighbour may be writing the slot beside. */
static void put_int16(void *page, uint32_t slot, const float *key, const float *value,
                      uint32_t head_dim) {
    const float tops[2] = {top_of(key, head_dim), top_of(value, head_dim)};
    const float steps = (float)lorica_kv_key_steps(head_dim);
    /* NaN stays. */
    const float scale = tops[1] < LEAST_VALUE ? LEAST_VALUE : tops[1];
    const __m256 factors[2] = {_mm256_set1_ps(inverse_of(tops[0], steps)),
                               _mm256_set1_ps(LORICA_KV_VALUE_STEPS / scale)};
    for (uint32_t d = 0; d < head_dim; d += 8) {
        uint16_t bits[2][8];
        const uint32_t count = head_dim - d < 8 ? head_dim - d : 8;
        _mm_storeu_si128((__m128i *)bits[0], steps_of(load_some(key + d, count), factors[0]));
        _mm_storeu_si128((__m128i *)bits[1], steps_of(load_some(value + d, count), factors[1]));
        for (uint32_t i = 0; i < count; i += 2)
            memcpy(lorica_kv_bf16_key(page, slot, d + i), &bits[0][i], 2 * sizeof(uint16_t));
        for (uint32_t i = 0; i < count; i++)
            *lorica_kv_bf16_value(page, slot, d + i, head_dim) = bits[1][i];
    }
    lorica_kv_key_scales(page, LORICA_KV_BF16, head_dim)[slot] = tops[0] / steps;
    lorica_kv_value_scales(page, LORICA_KV_BF16, head_dim)[slot] = log2f(scale);
    lorica_kv_value_shares(page, head_dim)[slot] = 1 / (LORICA_KV_WEIGHT_STEPS * scale);
}

/* As the reference: the largest magnitude becomes 127; NaN when a value is not finite. */
static float scale_of(const float *x, uint32_t n) { return top_of(x, n) / 127; }

/* Codes of up to eight values. */
static inline void codes_of(int8_t codes[8], const float *x, uint32_t count, float scale) {
    const __m256 s = _mm256_set1_ps(scale >= 0x1p-126f ? scale : __builtin_inff());
    const __m256i q = _mm256_cvtps_epi32(_mm256_div_ps(load_some(x, count), s));
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64((__m128i *)codes, _mm_packs_epi16(words, words));
}

static void put_int8(void *page, uint32_t slot, const float *key, const float *value,
                     uint32_t head_dim) {
    const float key_scale = scale_of(key, head_dim), value_scale = scale_of(value, head_dim);
    for (uint32_t d = 0; d < head_dim; d += 8) {
        int8_t codes[2][8];
        const uint32_t count = head_dim - d < 8 ? head_dim - d : 8;
        codes_of(codes[0], key + d, count, key_scale);
        codes_of(codes[1], value + d, count, value_scale);
        for (uint32_t i = 0; i < count; i += 4)
            memcpy(lorica_kv_int8_key(page, slot, d + i), codes[0] + i, 4);
        for (uint32_t i = 0; i < count; i++)
            *lorica_kv_int8_value(page, slot, d + i, head_dim) = codes[1][i];
    }
    lorica_kv_key_scales(page, LORICA_KV_INT8, head_dim)[slot] = key_scale;
    lorica_kv_value_scales(page, LORICA_KV_INT8, head_dim)[slot] = value_scale;
}

void lorica_attn_kernels_avx2(struct lorica_attn_kernels *kernels) {
    *kernels = (struct lorica_attn_kernels){.put = {put_int16, put_int8},
                                            .attend = {attend_bf16, attend_int8},
                                            .fold = fold,
                                            .finish = finish};
}
