/* SPDX-License-Identifier: MIT
 * The product and the decoding of NF4 with AVX-512: 12 rows x 32 columns in registers. */
#include <immintrin.h>

#include "kernels/gemm_isa.h"

#define NR LORICA_GEMM_NR
#define ROWS 12

/* C[rows][32 columns], columns past the masks untouched; unrolled for each constant `rows`. */
static inline __attribute__((always_inline)) void block(float *c, size_t ldc, const float *a,
                                                        size_t lda, const float *panel,
                                                        uint32_t depth, int accumulate, int rows,
                                                        __mmask16 m0, __mmask16 m1) {
    __m512 lo[ROWS], hi[ROWS];
    LORICA_GEMM_UNROLL
    for (int i = 0; i < rows; i++) {
        lo[i] = accumulate ? _mm512_maskz_loadu_ps(m0, c + i * ldc) : _mm512_setzero_ps();
        hi[i] = accumulate ? _mm512_maskz_loadu_ps(m1, c + i * ldc + 16) : _mm512_setzero_ps();
    }
    for (uint32_t p = 0; p < depth; p++) {
        const __m512 b0 = _mm512_loadu_ps(panel + (size_t)p * NR);
        const __m512 b1 = _mm512_loadu_ps(panel + (size_t)p * NR + 16);
        LORICA_GEMM_UNROLL
        for (int i = 0; i < rows; i++) {
            const __m512 x = _mm512_set1_ps(a[i * lda + p]);
            lo[i] = _mm512_fmadd_ps(x, b0, lo[i]);
            hi[i] = _mm512_fmadd_ps(x, b1, hi[i]);
        }
    }
    LORICA_GEMM_UNROLL
    for (int i = 0; i < rows; i++) {
        _mm512_mask_storeu_ps(c + i * ldc, m0, lo[i]);
        _mm512_mask_storeu_ps(c + i * ldc + 16, m1, hi[i]);
    }
}

static void panel_avx512(float *c, size_t ldc, const float *a, size_t lda, const float *panel,
                         uint32_t m, uint32_t depth, uint32_t cols, int accumulate) {
    const uint32_t mask = cols >= 32 ? 0xFFFFFFFFu : (1u << cols) - 1;
    const __mmask16 m0 = (__mmask16)(mask & 0xFFFF), m1 = (__mmask16)(mask >> 16);
    uint32_t i = 0;
    for (; i + 12 <= m; i += 12)
        block(c + i * ldc, ldc, a + i * lda, lda, panel, depth, accumulate, 12, m0, m1);
    for (; i + 4 <= m; i += 4)
        block(c + i * ldc, ldc, a + i * lda, lda, panel, depth, accumulate, 4, m0, m1);
    for (; i < m; i++)
        block(c + i * ldc, ldc, a + i * lda, lda, panel, depth, accumulate, 1, m0, m1);
}

void lorica_gemm_kernels_init_avx512(struct lorica_gemm_kernels *kernels) {
    kernels->panel = panel_avx512;
}
