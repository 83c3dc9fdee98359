/* SPDX-License-Identifier: MIT
 * LoRA's products. A row's sums take the inputs in the same order whatever is computed beside them:
 * lane by lane in steps of WIDTH, then the lanes.
 *
 * This file is compiled twice: for AVX2 and for AVX-512, whose vectors are named alike here. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

#ifdef __AVX512F__
#define LEVEL_NAME(name) name##_avx512
#define WIDTH 16
/* Ranks that four rows are shrunk to at a time. */
#define SHRINK_RANKS 4
typedef __m512 vec;
#define vec_zero _mm512_setzero_ps
#define vec_set1 _mm512_set1_ps
#define vec_load _mm512_loadu_ps
#define vec_store _mm512_storeu_ps
#define vec_add _mm512_add_ps
#define vec_fma _mm512_fmadd_ps
#define vec_sum _mm512_reduce_add_ps

static inline vec vec_int8(const int8_t *q) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)q)));
}
#else
#define LEVEL_NAME(name) name##_avx2
#define WIDTH 8
#define SHRINK_RANKS 2
typedef __m256 vec;
#define vec_zero _mm256_setzero_ps
#define vec_set1 _mm256_set1_ps
#define vec_load _mm256_loadu_ps
#define vec_store _mm256_storeu_ps
#define vec_add _mm256_add_ps
#define vec_fma _mm256_fmadd_ps
#define vec_sum sum_avx2

static inline vec vec_int8(const int8_t *q) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)q)));
}
#endif

#define INLINE static inline __attribute__((always_inline))
/* Rows that share each loaded piece of A or B. */
#define ROWS 4
/* Ranks that two rows and that one row are shrunk to at a time: as many as it takes for the latency
 * of an addition not to be waited for. */
#define PAIR_RANKS 4
#define ROW_RANKS 8
/* Sums that are held at a time, at most. */
#define SUMS 16
/* How far ahead B is fetched, in bytes. */
#define EXPAND_AHEAD 2048
#define TILE_VECTORS (LORICA_TILE_ROWS / WIDTH)

/* Inputs [j, k), fewer than WIDTH, with zeros behind them. */
INLINE vec inputs_left(const float *x, uint32_t j, uint32_t k) {
    float left[WIDTH] = {0};
    memcpy(left, x + j, (k - j) * sizeof(*left));
    return vec_load(left);
}

INLINE vec weights_left(const int8_t *a, uint32_t j, uint32_t k) {
    int8_t left[WIDTH] = {0};
    memcpy(left, a + j, k - j);
    return vec_int8(left);
}

/* R rows from `row` on times `ranks` rows of A from i on; both constants after inlining. */
INLINE void shrink_some(const struct lorica_lora_rows *rows, uint32_t row, const uint32_t R,
                        const float *x, size_t ldx, uint32_t k, const int8_t *a,
                        const float *scales, uint32_t i, const uint32_t ranks) {
    vec sum[SUMS];
    const float *from[ROWS];
    a += (size_t)i * k;
#pragma GCC unroll 4
    for (uint32_t r = 0; r < R; r++)
        from[r] = x + rows->index[row + r] * ldx;
#pragma GCC unroll 16
    for (uint32_t s = 0; s < ranks * R; s++)
        sum[s] = vec_zero();
    uint32_t j = 0;
    for (; j + WIDTH <= k; j += WIDTH) {
        vec inputs[ROWS];
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++)
            inputs[r] = vec_load(from[r] + j);
#pragma GCC unroll 8
        for (uint32_t n = 0; n < ranks; n++) {
            const vec weights = vec_int8(a + (size_t)n * k + j);
            _mm_prefetch((const char *)(a + (size_t)(n + ranks) * k + j), _MM_HINT_T0);
#pragma GCC unroll 4
            for (uint32_t r = 0; r < R; r++)
                sum[n * R + r] = vec_fma(weights, inputs[r], sum[n * R + r]);
        }
    }
#pragma GCC unroll 8
    for (uint32_t n = 0; n < ranks; n++)
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++) {
            if (j < k)
                sum[n * R + r] = vec_fma(weights_left(a + (size_t)n * k, j, k),
                                         inputs_left(from[r], j, k), sum[n * R + r]);
            rows->t[rows->index[row + r] * rows->ldt + i + n] =
                scales[i + n] * vec_sum(sum[n * R + r]);
        }
}

/* R rows, `ranks` rows of A at a time as long as there are so many; both constants. */
INLINE void shrink_rows(const struct lorica_lora_rows *rows, uint32_t row, const uint32_t R,
                        const float *x, size_t ldx, uint32_t k, const int8_t *a,
                        const float *scales, uint32_t i0, uint32_t i1, const uint32_t ranks) {
    for (; i0 + ranks <= i1; i0 += ranks)
        shrink_some(rows, row, R, x, ldx, k, a, scales, i0, ranks);
    for (; i0 < i1; i0++)
        shrink_some(rows, row, R, x, ldx, k, a, scales, i0, 1);
}

static void shrink(const struct lorica_lora_rows *rows, const float *x, size_t ldx, uint32_t k,
                   const int8_t *a, const float *scales, uint32_t i0, uint32_t i1) {
    uint32_t row = 0;
    for (; row + ROWS <= rows->count; row += ROWS)
        shrink_rows(rows, row, ROWS, x, ldx, k, a, scales, i0, i1, SHRINK_RANKS);
    for (; row + 2 <= rows->count; row += 2)
        shrink_rows(rows, row, 2, x, ldx, k, a, scales, i0, i1, PAIR_RANKS);
    if (row < rows->count)
        shrink_rows(rows, row, 1, x, ldx, k, a, scales, i0, i1, ROW_RANKS);
}

/* One tile of R rows from `row` on; b: the tile's part of B. */
INLINE void expand_some(const struct lorica_lora_rows *rows, uint32_t row, const uint32_t R,
                        float *y, size_t ldy, uint32_t rank, const int8_t *b) {
    vec sum[ROWS][TILE_VECTORS];
    const float *t[ROWS];
#pragma GCC unroll 4
    for (uint32_t r = 0; r < R; r++) {
        t[r] = rows->t + rows->index[row + r] * rows->ldt;
#pragma GCC unroll 2
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            sum[r][v] = vec_zero();
    }
    for (uint32_t j = 0; j < rank; j++, b += LORICA_TILE_ROWS) {
        vec weights[TILE_VECTORS];
        _mm_prefetch((const char *)b + EXPAND_AHEAD, _MM_HINT_T0);
#pragma GCC unroll 2
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            weights[v] = vec_int8(b + v * WIDTH);
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++)
#pragma GCC unroll 2
            for (uint32_t v = 0; v < TILE_VECTORS; v++)
                sum[r][v] = vec_fma(weights[v], vec_set1(t[r][j]), sum[r][v]);
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < R; r++)
#pragma GCC unroll 2
        for (uint32_t v = 0; v < TILE_VECTORS; v++) {
            float *to = y + rows->index[row + r] * ldy + v * WIDTH;
            vec_store(to, vec_add(vec_load(to), sum[r][v]));
        }
}

static void expand(const struct lorica_lora_rows *rows, float *y, size_t ldy, uint32_t rank,
                   const int8_t *b, uint32_t tile0, uint32_t tile1) {
    for (uint32_t tile = tile0; tile < tile1; tile++) {
        const int8_t *part = b + (size_t)tile * rank * LORICA_TILE_ROWS;
        float *to = y + (size_t)tile * LORICA_TILE_ROWS;
        uint32_t row = 0;
        for (; row + ROWS <= rows->count; row += ROWS)
            expand_some(rows, row, ROWS, to, ldy, rank, part);
        for (; row + 2 <= rows->count; row += 2)
            expand_some(rows, row, 2, to, ldy, rank, part);
        if (row < rows->count)
            expand_some(rows, row, 1, to, ldy, rank, part);
    }
}

void LEVEL_NAME(lorica_lora_kernels)(struct lorica_lora_kernels *kernels) {
    kernels->shrink = shrink;
    kernels->expand = expand;
}
