/* SPDX-License-Identifier: MIT */
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

static float dot(const float *x, const uint16_t *a, uint32_t k) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    uint32_t j = 0;
    for (; j + 16 <= k; j += 16) {
        s0 = _mm256_fmadd_ps(bf16_avx2(a + j), _mm256_loadu_ps(x + j), s0);
        s1 = _mm256_fmadd_ps(bf16_avx2(a + j + 8), _mm256_loadu_ps(x + j + 8), s1);
    }
    float sum = sum_avx2(_mm256_add_ps(s0, s1));
    for (; j < k; j++)
        sum += bf16_scalar(a[j]) * x[j];
    return sum;
}

static void shrink_avx2(float *t, const float *x, uint32_t k, const uint16_t *a, size_t lda,
                        uint32_t i0, uint32_t i1) {
    for (uint32_t i = i0; i < i1; i++)
        t[i] = dot(x, a + i * lda, k);
}

static void expand_avx2(float *y, const float *t, uint32_t r, const uint16_t *bt, size_t ldb,
                        uint32_t n0, uint32_t n1) {
    for (uint32_t i = n0; i < n1; i += 16) {
        __m256 s0 = _mm256_setzero_ps(), s1 = s0;
        const uint16_t *b = bt + i;
        for (uint32_t j = 0; j < r; j++, b += ldb) {
            const __m256 tj = _mm256_broadcast_ss(t + j);
            s0 = _mm256_fmadd_ps(bf16_avx2(b), tj, s0);
            s1 = _mm256_fmadd_ps(bf16_avx2(b + 8), tj, s1);
        }
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), s0));
        _mm256_storeu_ps(y + i + 8, _mm256_add_ps(_mm256_loadu_ps(y + i + 8), s1));
    }
}

void lorica_lora_kernels_avx2(struct lorica_lora_kernels *kernels) {
    kernels->shrink = shrink_avx2;
    kernels->expand = expand_avx2;
}
