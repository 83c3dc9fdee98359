/* SPDX-License-Identifier: MIT
 * The steps of vec_avx2.c that a prompt's activations pass through whole, twice as wide. */
#include <immintrin.h>
#include <math.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx512.h"

/* The lanes of the 16 from i on that are below n. */
static inline __mmask16 lanes_below(uint32_t i, uint32_t n) {
    return n - i >= 16 ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
}

static void rmsnorm_avx512(float *y, const float *x, const float *weight, uint32_t n, float eps) {
    __m512 s0 = _mm512_setzero_ps(), s1 = s0;
    uint32_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);
        s0 = _mm512_fmadd_ps(a, a, s0);
        s1 = _mm512_fmadd_ps(b, b, s1);
    }
    for (; i < n; i += 16) {
        const __m512 a = _mm512_maskz_loadu_ps(lanes_below(i, n), x + i);
        s0 = _mm512_fmadd_ps(a, a, s0);
    }
    const float squares = _mm512_reduce_add_ps(_mm512_add_ps(s0, s1));
    const __m512 scale = _mm512_set1_ps(1 / sqrtf(squares / (float)n + eps));
    for (i = 0; i < n; i += 16) {
        const __mmask16 lanes = lanes_below(i, n);
        _mm512_mask_storeu_ps(
            y + i, lanes,
            _mm512_mul_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), scale),
                          _mm512_maskz_loadu_ps(lanes, weight + i)));
    }
}

/* v / (1 + exp(-v)), for negative v as v * exp(v) / (1 + exp(v)). */
static inline __m512 silu(__m512 v) {
    const __m512 sign = _mm512_set1_ps(-0.0f), one = _mm512_set1_ps(1);
    const __m512 e = exp_avx512(_mm512_or_ps(v, sign));
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(v));
    return _mm512_div_ps(_mm512_mask_mul_ps(v, negative, v, e), _mm512_add_ps(one, e));
}

static void silu_mul_avx512(float *y, const float *gate, const float *up, uint32_t n) {
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 lanes = lanes_below(i, n);
        _mm512_mask_storeu_ps(y + i, lanes,
                              _mm512_mul_ps(silu(_mm512_maskz_loadu_ps(lanes, gate + i)),
                                            _mm512_maskz_loadu_ps(lanes, up + i)));
    }
}

static void add_avx512(float *y, const float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 lanes = lanes_below(i, n);
        _mm512_mask_storeu_ps(y + i, lanes,
                              _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, y + i),
                                            _mm512_maskz_loadu_ps(lanes, x + i)));
    }
}

void lorica_vec_kernels_avx512(struct lorica_vec_kernels *kernels) {
    kernels->rmsnorm = rmsnorm_avx512;
    kernels->silu_mul = silu_mul_avx512;
    kernels->add = add_avx512;
}
