/* SPDX-License-Identifier: MIT */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

/* The last n values (fewer than eight), padded with `fill`. */
static inline __m256 load_tail(const float *x, uint32_t n, float fill) {
    float lanes[8];
    for (uint32_t i = 0; i < 8; i++)
        lanes[i] = i < n ? x[i] : fill;
    return _mm256_loadu_ps(lanes);
}

static inline void store_tail(float *y, __m256 v, uint32_t n) {
    float lanes[8];
    _mm256_storeu_ps(lanes, v);
    memcpy(y, lanes, n * sizeof(*y));
}

static void rmsnorm_avx2(float *y, const float *x, const float *weight, uint32_t n, float eps) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        s0 = _mm256_fmadd_ps(a, a, s0);
        s1 = _mm256_fmadd_ps(b, b, s1);
    }
    float squares = sum_avx2(_mm256_add_ps(s0, s1));
    for (; i < n; i++)
        squares += x[i] * x[i];
    const float scale = 1 / sqrtf(squares / (float)n + eps);
    const __m256 s = _mm256_set1_ps(scale);
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), s),
                                              _mm256_loadu_ps(weight + i)));
    for (; i < n; i++)
        y[i] = x[i] * scale * weight[i];
}

static void rope_avx2(float *x, uint32_t heads, uint32_t head_dim, const float *cs,
                      const float *sn) {
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < heads; h++, x += head_dim) {
        uint32_t i = 0;
        for (; i + 8 <= half; i += 8) {
            const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + half + i);
            const __m256 c = _mm256_loadu_ps(cs + i), s = _mm256_loadu_ps(sn + i);
            _mm256_storeu_ps(x + i, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
            _mm256_storeu_ps(x + half + i, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
        }
        for (; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cs[i] - b * sn[i];
            x[i + half] = b * cs[i] + a * sn[i];
        }
    }
}

/* exp(-x) by exp_avx2's method, for x >= -88 or NaN; never less than exp(-87), which beside 1 is
 * nothing. */
static inline __m256 exp_of_minus(__m256 x) {
    const __m256 v = _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), x), _mm256_set1_ps(-87));
    const __m256i i = _mm256_cvtps_epi32(_mm256_mul_ps(v, _mm256_set1_ps(1.44269504f)));
    const __m256 n = _mm256_cvtepi32_ps(i);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), v);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    const __m256i p = _mm256_castps_si256(exp_polynomial(r));
    return _mm256_castsi256_ps(_mm256_add_epi32(p, _mm256_slli_epi32(i, 23)));
}

/* Gates below -88 give 0. */
static inline __m256 silu_mul8(__m256 gate, __m256 up) {
    const __m256 none = _mm256_cmp_ps(gate, _mm256_set1_ps(-88), _CMP_LT_OQ);
    const __m256 below = _mm256_add_ps(_mm256_set1_ps(1), exp_of_minus(gate));
    return _mm256_mul_ps(_mm256_andnot_ps(none, _mm256_div_ps(gate, below)), up);
}

static void silu_mul_avx2(float *y, const float *gate, const float *up, uint32_t n) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, silu_mul8(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i < n)
        store_tail(y + i, silu_mul8(load_tail(gate + i, n - i, 0), load_tail(up + i, n - i, 0)),
                   n - i);
}

static void add_avx2(float *y, const float *x, uint32_t n) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        y[i] += x[i];
}

/* The largest magnitude; NaN where a value is not finite. */
static float largest_magnitude(const float *x, uint32_t n) {
    const __m256 sign = _mm256_set1_ps(-0.0f), huge = _mm256_set1_ps(3.4028235e38f);
    __m256 top = _mm256_setzero_ps(), odd = top;
    float lanes[8], result = 0;
    for (uint32_t i = 0; i < n; i += 8) {
        const __m256 v = n - i >= 8 ? _mm256_loadu_ps(x + i) : load_tail(x + i, n - i, 0);
        const __m256 magnitude = _mm256_andnot_ps(sign, v);
        top = _mm256_max_ps(magnitude, top);
        odd = _mm256_or_ps(odd, _mm256_cmp_ps(magnitude, huge, _CMP_NLE_UQ));
    }
    if (_mm256_movemask_ps(odd))
        return NAN;
    _mm256_storeu_ps(lanes, top);
    for (uint32_t i = 0; i < 8; i++)
        result = lanes[i] > result ? lanes[i] : result;
    return result;
}

static inline __m128i to_int8_8(__m256 x, __m256 inverse) {
    const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    return _mm_packs_epi16(words, words);
}

static float to_int8_avx2(int8_t *dst, const float *x, uint32_t n) {
    const float top = largest_magnitude(x, n);
    if (isnan(top))
        return top;
    const int none = top < LORICA_INT8_LEAST;
    const __m256 inverse = _mm256_set1_ps(none ? 0 : 127 / top);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storel_epi64((__m128i *)(dst + i), to_int8_8(_mm256_loadu_ps(x + i), inverse));
    if (i < n) {
        int8_t lanes[8];
        _mm_storel_epi64((__m128i *)lanes, to_int8_8(load_tail(x + i, n - i, 0), inverse));
        memcpy(dst + i, lanes, n - i);
    }
    return none ? 0 : top / 127;
}

static float max_avx2(const float *x, uint32_t n) {
    __m256 top = _mm256_set1_ps(-INFINITY), nans = _mm256_setzero_ps();
    uint32_t i = 0;
    for (; i < n; i += 8) {
        const __m256 v = n - i >= 8 ? _mm256_loadu_ps(x + i) : load_tail(x + i, n - i, -INFINITY);
        top = _mm256_max_ps(v, top);
        nans = _mm256_or_ps(nans, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    if (_mm256_movemask_ps(nans))
        return NAN;
    float lanes[8], result = -INFINITY;
    _mm256_storeu_ps(lanes, top);
    for (i = 0; i < 8; i++)
        result = lanes[i] > result ? lanes[i] : result;
    return result;
}

static void logsumexp_avx2(const float *x, uint32_t n, float *ret_max, float *ret_sum) {
    const float top = max_avx2(x, n);
    const __m256 t = _mm256_set1_ps(top);
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        s0 = _mm256_add_ps(s0, exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(x + i), t)));
        s1 = _mm256_add_ps(s1, exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8), t)));
    }
    float sum = sum_avx2(_mm256_add_ps(s0, s1));
    for (; i < n; i++)
        sum += expf(x[i] - top);
    *ret_max = top;
    *ret_sum = sum;
}

void lorica_vec_kernels_avx2(struct lorica_vec_kernels *kernels) {
    *kernels = (struct lorica_vec_kernels){
        .rmsnorm = rmsnorm_avx2,
        .rope = rope_avx2,
        .silu_mul = silu_mul_avx2,
        .add = add_avx2,
        .to_int8 = to_int8_avx2,
        .logsumexp = logsumexp_avx2,
    };
}
