/* SPDX-License-Identifier: MIT */
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx512.h"

#define LANES 16
/* 6 queries: 24 sums, four operands and a factor in 32 registers. */
#define SCORE_PAGES(queries) 4
#define GATHER_VECS(queries) 4

typedef __m512 vec;

static inline vec vec_zero(void) { return _mm512_setzero_ps(); }
static inline vec vec_set1(float x) { return _mm512_set1_ps(x); }
static inline vec vec_load(const float *at) { return _mm512_loadu_ps(at); }
static inline void vec_store(float *at, vec v) { _mm512_storeu_ps(at, v); }
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec vec_exp(vec v) { return exp_avx512(v); }
static inline float vec_sum(vec v) { return _mm512_reduce_add_ps(v); }
static inline float vec_top(vec v) { return _mm512_reduce_max_ps(v); }

static inline vec vec_low(const uint8_t *at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(at), 16));
}

static inline vec vec_high(const uint8_t *at) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(at), _mm512_set1_epi32((int)0xffff0000)));
}

#include "kernels/attn_tile.h"

void lorica_attn_kernels_avx512(struct lorica_attn_kernels *kernels) {
    kernels->attend[LORICA_KV_BF16] = attend_bf16;
    kernels->fold = fold;
    kernels->finish = finish;
}
