/* SPDX-License-Identifier: MIT
 * Products and decoding with AVX2 and FMA. The product keeps 6 rows x 16 columns in registers. */
#include <immintrin.h>
#include <string.h>

#include "kernels/gemm_isa.h"

#define NR LORICA_GEMM_NR
#define ROWS 6
#define AHEAD 16  /* rows that are fetched before they are packed */
#define DEPTH 256 /* of a panel at a time: half of it, 16 KB, stays in the first-level cache */

/* C[ROWS rows][16 columns] of one half panel; the compiler unrolls for each constant `rows`. */
static inline __attribute__((always_inline)) void block(float *c, size_t ldc, const float *a,
                                                        size_t lda, const float *panel,
                                                        uint32_t depth, int accumulate, int rows) {
    __m256 lo[ROWS], hi[ROWS];
    LORICA_GEMM_UNROLL
    for (int i = 0; i < rows; i++) {
        lo[i] = accumulate ? _mm256_loadu_ps(c + i * ldc) : _mm256_setzero_ps();
        hi[i] = accumulate ? _mm256_loadu_ps(c + i * ldc + 8) : _mm256_setzero_ps();
    }
    for (uint32_t p = 0; p < depth; p++) {
        const __m256 b0 = _mm256_loadu_ps(panel + (size_t)p * NR);
        const __m256 b1 = _mm256_loadu_ps(panel + (size_t)p * NR + 8);
        LORICA_GEMM_UNROLL
        for (int i = 0; i < rows; i++) {
            const __m256 x = _mm256_broadcast_ss(a + i * lda + p);
            lo[i] = _mm256_fmadd_ps(x, b0, lo[i]);
            hi[i] = _mm256_fmadd_ps(x, b1, hi[i]);
        }
    }
    LORICA_GEMM_UNROLL
    for (int i = 0; i < rows; i++) {
        _mm256_storeu_ps(c + i * ldc, lo[i]);
        _mm256_storeu_ps(c + i * ldc + 8, hi[i]);
    }
}

static void block_rows(float *c, size_t ldc, const float *a, size_t lda, const float *panel,
                       uint32_t depth, int accumulate, uint32_t rows) {
    switch (rows) {
    case 6:
        block(c, ldc, a, lda, panel, depth, accumulate, 6);
        break;
    case 5:
        block(c, ldc, a, lda, panel, depth, accumulate, 5);
        break;
    case 4:
        block(c, ldc, a, lda, panel, depth, accumulate, 4);
        break;
    case 3:
        block(c, ldc, a, lda, panel, depth, accumulate, 3);
        break;
    case 2:
        block(c, ldc, a, lda, panel, depth, accumulate, 2);
        break;
    default:
        block(c, ldc, a, lda, panel, depth, accumulate, 1);
        break;
    }
}

/* A half panel with fewer than 16 columns goes through a block of its own. */
static void block_edge(float *c, size_t ldc, const float *a, size_t lda, const float *panel,
                       uint32_t depth, int accumulate, uint32_t rows, uint32_t cols) {
    float own[ROWS * 16] = {0};
    for (uint32_t i = 0; accumulate && i < rows; i++)
        memcpy(own + (size_t)i * 16, c + i * ldc, cols * sizeof(float));
    block_rows(own, 16, a, lda, panel, depth, accumulate, rows);
    for (uint32_t i = 0; i < rows; i++)
        memcpy(c + i * ldc, own + (size_t)i * 16, cols * sizeof(float));
}

/* One half panel over all rows. */
static void half_panel(float *c, size_t ldc, const float *a, size_t lda, const float *panel,
                       uint32_t m, uint32_t depth, uint32_t cols, int accumulate) {
    for (uint32_t i = 0; i < m; i += ROWS) {
        const uint32_t rows = m - i < ROWS ? m - i : ROWS;
        if (cols >= 16)
            block_rows(c + i * ldc, ldc, a + i * lda, lda, panel, depth, accumulate, rows);
        else
            block_edge(c + i * ldc, ldc, a + i * lda, lda, panel, depth, accumulate, rows, cols);
    }
}

static void panel_f32_avx2(void *c, size_t ldc, const struct lorica_gemm_part *parts, size_t count,
                           uint32_t m, uint32_t cols, enum lorica_gemm_out out) {
    int accumulate = out == LORICA_GEMM_ADD;
    for (size_t s = 0; s < count; s++) {
        const struct lorica_gemm_part *part = &parts[s];
        for (uint32_t p = 0; p < part->depth; p += DEPTH) {
            const uint32_t depth = part->depth - p < DEPTH ? part->depth - p : DEPTH;
            for (uint32_t j = 0; j < cols; j += 16)
                half_panel((float *)c + j, ldc, (const float *)part->a + p, part->lda,
                           (const float *)part->panel + (size_t)p * NR + j, m, depth, cols - j,
                           accumulate);
            accumulate = 1;
        }
    }
}

/* Values of the codes in the low four bits of each lane; bits above are ignored. */
static inline __m256 nf4_values(__m256i codes, __m256 low, __m256 high) {
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes),
                            _mm256_permutevar8x32_ps(high, codes), upper);
}

/* One block of 64 inputs of 8 rows: to[p * NR] over its columns. */
static void pack_nf4_block(float *to, const uint8_t *codes, const float *absmax) {
    const __m256 low = _mm256_loadu_ps(lorica_nf4_table),
                 high = _mm256_loadu_ps(lorica_nf4_table + 8), scale = _mm256_loadu_ps(absmax);
    for (uint32_t g = 0; g < 8; g++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(codes + (size_t)g * 64));
        float *at = to + (size_t)g * 8 * NR;
        for (uint32_t j = 0; j < 4; j++, at += NR) {
            const __m256 first = nf4_values(v, low, high);
            const __m256 second = nf4_values(_mm256_srli_epi32(v, 4), low, high);
            _mm256_storeu_ps(at, _mm256_mul_ps(first, scale));
            _mm256_storeu_ps(at + (size_t)4 * NR, _mm256_mul_ps(second, scale));
            v = _mm256_srli_epi32(v, 8);
        }
    }
}

static void pack_w_nf4(float *panel, const struct lorica_matrix *w, uint32_t row, uint32_t k0,
                       uint32_t k1) {
    const uint32_t blocks = w->k / LORICA_NF4_BLOCK;
    for (uint32_t r = 0; r < NR; r += 8) {
        const uint32_t tile = (row + r) / LORICA_TILE_ROWS, half = (row + r) % LORICA_TILE_ROWS;
        if (row + r >= w->n) {
            for (uint32_t p = 0; p < k1 - k0; p++)
                memset(panel + (size_t)p * NR + r, 0, 8 * sizeof(float));
            continue;
        }
        const uint8_t *codes =
            (const uint8_t *)w->data + (size_t)tile * blocks * 512 + (size_t)half * 4;
        for (uint32_t b = k0 / LORICA_NF4_BLOCK; b < k1 / LORICA_NF4_BLOCK; b++) {
            float absmax[8];
            for (uint32_t i = 0; i < 8; i++)
                absmax[i] = row + r + i < w->n
                                ? lorica_nf4_absmax(w, (size_t)(row + r + i) * blocks + b)
                                : 0;
            pack_nf4_block(panel + ((size_t)b * LORICA_NF4_BLOCK - k0) * NR + r,
                           codes + (size_t)b * 512, absmax);
        }
    }
}

static void pack_w_q8(float *panel, const struct lorica_matrix *w, uint32_t row, uint32_t k0,
                      uint32_t k1) {
    const uint32_t blocks = w->k / LORICA_Q8_BLOCK;
    for (uint32_t r = 0; r < NR; r += 8) {
        const uint32_t tile = (row + r) / LORICA_TILE_ROWS, half = (row + r) % LORICA_TILE_ROWS;
        if (row + r >= w->n) {
            for (uint32_t p = 0; p < k1 - k0; p++)
                memset(panel + (size_t)p * NR + r, 0, 8 * sizeof(float));
            continue;
        }
        const int8_t *codes =
            (const int8_t *)w->data + (size_t)tile * blocks * 512 + (size_t)half * 4;
        const uint16_t *scales = w->scales + (size_t)tile * blocks * LORICA_TILE_ROWS + half;
        for (uint32_t p = k0; p < k1; p += 4) {
            const uint32_t b = p / LORICA_Q8_BLOCK, g = p % LORICA_Q8_BLOCK / 4;
            const __m256 scale = _mm256_cvtph_ps(
                _mm_loadu_si128((const __m128i *)(scales + (size_t)b * LORICA_TILE_ROWS)));
            const __m256i v =
                _mm256_loadu_si256((const __m256i *)(codes + (size_t)b * 512 + (size_t)g * 64));
            for (uint32_t j = 0; j < 4; j++) {
                const __m256i q =
                    _mm256_srai_epi32(_mm256_sllv_epi32(v, _mm256_set1_epi32(24 - 8 * (int)j)), 24);
                _mm256_storeu_ps(panel + ((size_t)p - k0 + j) * NR + r,
                                 _mm256_mul_ps(_mm256_cvtepi32_ps(q), scale));
            }
        }
    }
}

/* Transposes 8 rows of 8 values at `from` into to[p * ldt + row]. */
static inline __attribute__((always_inline)) void transpose8_to(float *to, size_t ldt,
                                                                const float *from, size_t stride) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps(from + i * stride);
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * ldt, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * ldt, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

static void transpose8(float *to, const float *from, size_t stride) {
    transpose8_to(to, NR, from, stride);
}

/* Eight values of a dense matrix. */
static inline __m256 dense8(const struct lorica_matrix *w, size_t at) {
    const uint16_t *half = (const uint16_t *)w->data + at;
    if (w->format == LORICA_FORMAT_F32)
        return _mm256_loadu_ps((const float *)w->data + at);
    const __m128i bits = _mm_loadu_si128((const __m128i *)half);
    if (w->format == LORICA_FORMAT_F16)
        return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/* Columns are packed by eights; those past `cols` are 0. */
static void pack_w_dense(float *panel, const struct lorica_matrix *w, uint32_t row, uint32_t cols,
                         uint32_t k0, uint32_t k1) {
    float square[64];
    for (uint32_t p = 0; p < k1 - k0; p++)
        memset(panel + (size_t)p * NR + cols, 0, (NR - cols) * sizeof(float));
    for (uint32_t r = 0; r < cols; r += 8) {
        for (uint32_t p = k0; p < k1; p += 8) {
            for (uint32_t i = 0; i < 8; i++)
                _mm256_storeu_ps(square + (size_t)i * 8,
                                 dense8(w, (size_t)(row + r + i) * w->k + p));
            transpose8(panel + (size_t)(p - k0) * NR + r, square, 8);
        }
    }
}

static void scale_panel(float *panel, uint32_t depth, float scale) {
    const __m256 factor = _mm256_set1_ps(scale);
    for (size_t i = 0; scale != 1.0f && i < (size_t)depth * NR; i += 8)
        _mm256_storeu_ps(panel + i, _mm256_mul_ps(_mm256_loadu_ps(panel + i), factor));
}

void lorica_gemm_pack_w_avx2(void *panel, const struct lorica_matrix *w, uint32_t row,
                             uint32_t cols, uint32_t k0, uint32_t k1, float scale) {
    const bool whole = cols == NR || row + cols == w->n;
    if (w->format == LORICA_FORMAT_NF4 && whole && row % 16 == 0 && lorica_matrix_is_tiled(w) &&
        k0 % LORICA_NF4_BLOCK == 0 && k1 % LORICA_NF4_BLOCK == 0)
        pack_w_nf4(panel, w, row, k0, k1);
    else if (w->format == LORICA_FORMAT_Q8 && whole && row % 16 == 0 && k0 % 4 == 0 && k1 % 4 == 0)
        pack_w_q8(panel, w, row, k0, k1);
    else if (w->format <= LORICA_FORMAT_BF16 && cols % 8 == 0 && row + cols <= w->n &&
             (k1 - k0) % 8 == 0)
        pack_w_dense(panel, w, row, cols, k0, k1);
    else {
        lorica_gemm_pack_w_c(panel, w, row, cols, k0, k1, scale);
        return;
    }
    scale_panel(panel, k1 - k0, scale);
}

static void pack_wt_nf4(float *panel, const struct lorica_matrix *w, uint32_t row0, uint32_t row1,
                        uint32_t col) {
    const __m256 low = _mm256_loadu_ps(lorica_nf4_table),
                 high = _mm256_loadu_ps(lorica_nf4_table + 8);
    const __m256i shifts = _mm256_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28);
    const uint32_t blocks = w->k / LORICA_NF4_BLOCK, b = col / LORICA_NF4_BLOCK;
    const size_t group = (size_t)(col % LORICA_NF4_BLOCK) * 8;
    for (uint32_t i = row0; i < row1; i++) {
        const uint8_t *codes = (const uint8_t *)w->data +
                               ((size_t)(i / LORICA_TILE_ROWS) * blocks + b) * 512 + group +
                               (size_t)(i % LORICA_TILE_ROWS) * 4;
        const __m256 scale = _mm256_set1_ps(lorica_nf4_absmax(w, (size_t)i * blocks + b));
        float *to = panel + (size_t)(i - row0) * NR;
        for (uint32_t g = 0; g < 4; g++) {
            int32_t word;
            memcpy(&word, codes + (size_t)g * 64, sizeof(word));
            const __m256i v = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
            _mm256_storeu_ps(to + (size_t)g * 8, _mm256_mul_ps(nf4_values(v, low, high), scale));
        }
    }
}

static void pack_wt_q8(float *panel, const struct lorica_matrix *w, uint32_t row0, uint32_t row1,
                       uint32_t col) {
    const size_t blocks = w->k / LORICA_Q8_BLOCK, b = col / LORICA_Q8_BLOCK;
    for (uint32_t i = row0; i < row1; i++) {
        const size_t tile = i / LORICA_TILE_ROWS, r = i % LORICA_TILE_ROWS;
        const int8_t *codes = (const int8_t *)w->data + (tile * blocks + b) * 512 + r * 4;
        const __m256 scale = _mm256_set1_ps(
            lorica_f16_to_f32(w->scales[(tile * blocks + b) * LORICA_TILE_ROWS + r]));
        float *to = panel + (size_t)(i - row0) * NR;
        for (uint32_t g = 0; g < 8; g += 2) {
            int32_t two[2];
            memcpy(&two[0], codes + (size_t)g * 64, 4);
            memcpy(&two[1], codes + (size_t)g * 64 + 64, 4);
            const __m256i q =
                _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)two));
            _mm256_storeu_ps(to + (size_t)g * 4, _mm256_mul_ps(_mm256_cvtepi32_ps(q), scale));
        }
    }
}

static void pack_wt_dense(float *panel, const struct lorica_matrix *w, uint32_t row0, uint32_t row1,
                          uint32_t col) {
    for (uint32_t i = row0; i < row1; i++)
        for (uint32_t j = 0; j < NR; j += 8)
            _mm256_storeu_ps(panel + (size_t)(i - row0) * NR + j,
                             dense8(w, (size_t)i * w->k + col + j));
}

void lorica_gemm_pack_wt_avx2(void *panel, const struct lorica_matrix *w, uint32_t row0,
                              uint32_t row1, uint32_t col, uint32_t cols, float scale) {
    const bool whole = cols == NR && col + NR <= w->k && col % NR == 0;
    if (whole && w->format == LORICA_FORMAT_NF4 && lorica_matrix_is_tiled(w)) {
        pack_wt_nf4(panel, w, row0, row1, col);
    } else if (whole && w->format == LORICA_FORMAT_Q8) {
        pack_wt_q8(panel, w, row0, row1, col);
    } else if (whole && w->format <= LORICA_FORMAT_BF16) {
        pack_wt_dense(panel, w, row0, row1, col);
    } else {
        lorica_gemm_pack_wt_c(panel, w, row0, row1, col, cols, scale);
        return;
    }
    scale_panel(panel, row1 - row0, scale);
}

/* Rows are far apart, where no processor looks ahead: it is told. */
static void pack_rows_f32_avx2(void *panel, const void *x, size_t ldx, uint32_t depth,
                               uint32_t cols) {
    const float *from = x;
    float *to = panel;
    for (uint32_t p = 0; p < depth; p++, from += ldx, to += NR) {
        if (depth - p > AHEAD) {
            _mm_prefetch((const char *)(from + AHEAD * ldx), _MM_HINT_T0);
            _mm_prefetch((const char *)(from + AHEAD * ldx + NR / 2), _MM_HINT_T0);
        }
        LORICA_GEMM_UNROLL
        for (uint32_t j = 0; cols == NR && j < NR; j += 8)
            _mm256_storeu_ps(to + j, _mm256_loadu_ps(from + j));
        if (cols < NR) {
            memcpy(to, from, cols * sizeof(*to));
            memset(to + cols, 0, (NR - cols) * sizeof(*to));
        }
    }
}

/* panel(p, j) = x[j][p] */
static void pack_cols_f32_avx2(void *panel, const void *x, size_t ldx, uint32_t depth,
                               uint32_t cols) {
    const float *from = x;
    float *to = panel;
    uint32_t p = 0;
    for (; p + 8 <= depth && cols == NR; p += 8)
        for (uint32_t j = 0; j < NR; j += 8)
            transpose8(to + (size_t)p * NR + j, from + j * ldx + p, ldx);
    for (; p < depth; p++)
        for (uint32_t j = 0; j < NR; j++)
            to[(size_t)p * NR + j] = j < cols ? from[j * ldx + p] : 0;
}

static void turn_f32_avx2(void *to, size_t ldt, const void *x, size_t ldx, uint32_t rows,
                          uint32_t cols) {
    const float *from = x;
    uint32_t i = 0;
    for (; i + 8 <= rows; i += 8) {
        float *at = (float *)to + i;
        uint32_t j = 0;
        for (; j + 8 <= cols; j += 8)
            transpose8_to(at + j * ldt, ldt, from + i * ldx + j, ldx);
        for (; j < cols; j++)
            for (uint32_t r = 0; r < 8; r++)
                at[j * ldt + r] = from[(i + r) * ldx + j];
    }
    for (; i < rows; i++)
        for (uint32_t j = 0; j < cols; j++)
            ((float *)to)[j * ldt + i] = from[i * ldx + j];
}

/* exp by x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial in r. What is too large counts as the
 * largest whose result is finite, for which n is 128, but the polynomial below 1: so n can be added
 * to its exponent. A minimum or maximum with NaN is its second operand. */
static inline __m256 exp8(__m256 x) {
    const __m256 clamped =
        _mm256_max_ps(_mm256_set1_ps(-88.0f), _mm256_min_ps(_mm256_set1_ps(0x1.62e42ep6f), x));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(clamped, _mm256_set1_ps(1.44269504f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), clamped);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 y = _mm256_set1_ps(1.9875691500e-4f);
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.3981999507e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(8.3334519073e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(4.1665795894e-2f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.6666665459e-1f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(5.0000001201e-1f));
    y = _mm256_add_ps(_mm256_fmadd_ps(y, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    y = _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(y), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-87.336544f), _CMP_LT_OQ), y);
}

static void exp_avx2(float *y, const float *x, uint32_t n, float scale, float offset) {
    const __m256 s = _mm256_set1_ps(scale), o = _mm256_set1_ps(offset);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, exp8(_mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), s), o)));
    if (i < n) {
        float tail[8] = {0};
        memcpy(tail, x + i, (n - i) * sizeof(float));
        _mm256_storeu_ps(tail, exp8(_mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(tail), s), o)));
        memcpy(y + i, tail, (n - i) * sizeof(float));
    }
}

#define GEMM_EXP exp_avx2
#include "kernels/gemm_rows.h"

static void squeeze_avx2(void *to, const float *from, size_t count) {
    const __m256i one = _mm256_set1_epi32(1), half = _mm256_set1_epi32(0x7FFF);
    uint16_t *out = to;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m256 x = _mm256_loadu_ps(from + i);
        const __m256i bits = _mm256_castps_si256(x);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
        __m256i rounded =
            _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, half), odd), 16);
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        rounded = _mm256_blendv_epi8(
            rounded, _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40)), nan);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 8);
        _mm_storeu_si128((__m128i *)(out + i), _mm256_castsi256_si128(packed));
    }
    for (; i < count; i++)
        out[i] = lorica_f32_to_bf16(from[i]);
}

static void expand_avx2(float *to, const void *from, size_t count) {
    const uint16_t *in = from;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m128i bits = _mm_loadu_si128((const __m128i *)(in + i));
        _mm256_storeu_ps(to + i,
                         _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
    }
    for (; i < count; i++)
        to[i] = lorica_bf16_to_f32(in[i]);
}

static double peak_f32_avx2(uint64_t rounds) {
    __m256 sums[12];
    const __m256 x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(1.0f);
    volatile float sink;
    for (int i = 0; i < 12; i++)
        sums[i] = _mm256_setzero_ps();
    for (uint64_t r = 0; r < rounds; r++) {
        LORICA_GEMM_UNROLL
        for (int i = 0; i < 12; i++)
            sums[i] = _mm256_fmadd_ps(sums[i], x, y);
    }
    for (int i = 0; i < 12; i++)
        sink = _mm256_cvtss_f32(sums[i]);
    (void)sink;
    return (double)rounds * 12 * 8 * 2;
}

void lorica_gemm_kernels_init_avx2(struct lorica_gemm_kernels *kernels) {
    kernels->exp = exp_avx2;
    kernels->squeeze = squeeze_avx2;
    kernels->expand = expand_avx2;
    kernels->peak = peak_f32_avx2;
    rows_fill_table(kernels);
    if (kernels->operand == LORICA_OPERAND_BF16) {
        kernels->store = squeeze_avx2;
        kernels->load = expand_avx2;
        return;
    }
    kernels->panel = panel_f32_avx2;
    kernels->pack_w = lorica_gemm_pack_w_avx2;
    kernels->pack_wt = lorica_gemm_pack_wt_avx2;
    kernels->pack_rows = pack_rows_f32_avx2;
    kernels->pack_cols = pack_cols_f32_avx2;
    kernels->turn = turn_f32_avx2;
}
