/* SPDX-License-Identifier: MIT */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

#define LANES 8
/* 6 queries: 12 sums, two operands and a factor in 16 registers. */
#define SCORE_PAGES(queries) ((queries) <= 3 ? 2 : 1)
#define GATHER_VECS(queries) ((queries) <= 3 ? 4 : 2)

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

/* The polynomial is exact at 0 and elsewhere within 1e-7, the least that its degree allows; n is
 * added to its exponent, which for n = -127 leaves 0 of 1. A maximum with NaN is its second
 * operand, and NaN as an integer is 2^31, which the shift makes 0. */
static inline vec vec_exp2(vec v) {
    const vec x = _mm256_max_ps(_mm256_set1_ps(-127), v);
    const __m256i n = _mm256_cvtps_epi32(x);
    const vec r = _mm256_sub_ps(x, _mm256_cvtepi32_ps(n));
    vec p = _mm256_set1_ps(1.32646516e-3f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(9.67151858e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.55073395e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(2.40222424e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(6.93147004e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(n, 23)));
}

static inline vec vec_low(const uint8_t *at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)at), 16));
}

static inline vec vec_high(const uint8_t *at) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i *)at),
                                                _mm256_set1_epi32((int)0xffff0000)));
}

static inline vec vec_byte(const uint8_t *at, uint32_t i) {
    const __m256i left =
        _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)at), (int)(24 - 8 * i));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(left, 24));
}

#define PAIRS 0
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

/* Up to eight values, the rest 0. */
static inline __m256 load_some(const float *x, uint32_t count) {
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_maskload_ps(x, _mm256_loadu_si256((const __m256i *)(ones + 8 - count)));
}

/* As the reference: the largest magnitude becomes 127; NaN when a value is not finite. */
static float scale_of(const float *x, uint32_t n) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i top = _mm256_setzero_si256();
    for (uint32_t d = 0; d < n; d += 8) {
        const __m256i bits = _mm256_castps_si256(load_some(x + d, n - d < 8 ? n - d : 8));
        top = _mm256_max_epi32(top, _mm256_and_si256(bits, magnitude));
    }
    int32_t lanes[8], bits = 0; /* of magnitudes: NaN and infinity are the largest */
    float max;
    _mm256_storeu_si256((__m256i *)lanes, top);
    for (int i = 0; i < 8; i++)
        bits = lanes[i] > bits ? lanes[i] : bits;
    memcpy(&max, &bits, sizeof(max));
    return max <= __FLT_MAX__ ? max / 127 : __builtin_nanf("");
}

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
    lorica_kv_key_scales(page, head_dim)[slot] = key_scale;
    lorica_kv_value_scales(page, head_dim)[slot] = value_scale;
}

void lorica_attn_kernels_avx2(struct lorica_attn_kernels *kernels) {
    *kernels = (struct lorica_attn_kernels){.put = {put_bf16, put_int8},
                                            .attend = {attend_bf16, attend_int8},
                                            .fold = fold,
                                            .finish = finish};
}
