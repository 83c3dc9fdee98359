/* SPDX-License-Identifier: MIT
 * Products with AVX-512, 12 rows x 32 columns in registers: float32, and pairs of bfloat16. */
#include <immintrin.h>
#include <string.h>

#include "kernels/gemm_isa.h"

#define NR LORICA_GEMM_NR
#define ROWS 12
#define CHUNK 64 /* inputs decoded at a time on the way to bfloat16; a multiple of 64 */

/* Where a block of sums goes. */
struct target {
    void *c;
    size_t ldc;
    enum lorica_gemm_out out;
    __mmask16 m0, m1;
};

static inline __attribute__((always_inline)) void begin(const struct target *t, __m512 *lo,
                                                        __m512 *hi, int rows) {
    const float *c = t->c;
    LORICA_GEMM_UNROLL
    for (int i = 0; i < rows; i++) {
        const bool add = t->out == LORICA_GEMM_ADD;
        lo[i] = add ? _mm512_maskz_loadu_ps(t->m0, c + i * t->ldc) : _mm512_setzero_ps();
        hi[i] = add ? _mm512_maskz_loadu_ps(t->m1, c + i * t->ldc + 16) : _mm512_setzero_ps();
    }
}

static inline __attribute__((always_inline)) void end(const struct target *t, const __m512 *lo,
                                                      const __m512 *hi, int rows) {
    if (t->out == LORICA_GEMM_OPERAND) {
        LORICA_GEMM_UNROLL
        for (int i = 0; i < rows; i++)
            _mm512_mask_storeu_epi16((uint16_t *)t->c + i * t->ldc, (__mmask32)t->m1 << 16 | t->m0,
                                     (__m512i)_mm512_cvtne2ps_pbh(hi[i], lo[i]));
        return;
    }
    float *c = t->c;
    LORICA_GEMM_UNROLL
    for (int i = 0; i < rows; i++) {
        _mm512_mask_storeu_ps(c + i * t->ldc, t->m0, lo[i]);
        _mm512_mask_storeu_ps(c + i * t->ldc + 16, t->m1, hi[i]);
    }
}

/* Sums of rows [row, row + rows), the columns past the masks untouched; the compiler makes one for
 * each constant `rows`. */
static inline __attribute__((always_inline)) void block_f32(const struct target *t,
                                                            const struct lorica_gemm_part *parts,
                                                            size_t count, size_t row, int rows) {
    __m512 lo[ROWS], hi[ROWS];
    begin(t, lo, hi, rows);
    for (size_t s = 0; s < count; s++) {
        const size_t lda = parts[s].lda;
        const float *a = (const float *)parts[s].a + row * lda, *panel = parts[s].panel;
        for (uint32_t p = 0; p < parts[s].depth; p++, a++, panel += NR) {
            const __m512 b0 = _mm512_loadu_ps(panel), b1 = _mm512_loadu_ps(panel + 16);
            LORICA_GEMM_UNROLL
            for (int i = 0; i < rows; i++) {
                const __m512 x = _mm512_set1_ps(a[i * lda]);
                lo[i] = _mm512_fmadd_ps(x, b0, lo[i]);
                hi[i] = _mm512_fmadd_ps(x, b1, hi[i]);
            }
        }
    }
    end(t, lo, hi, rows);
}

static inline __m512bh pair_of(const uint16_t *at) {
    int32_t both;
    memcpy(&both, at, sizeof(both));
    return (__m512bh)_mm512_set1_epi32(both);
}

static inline __attribute__((always_inline)) void block_bf16(const struct target *t,
                                                             const struct lorica_gemm_part *parts,
                                                             size_t count, size_t row, int rows) {
    __m512 lo[ROWS], hi[ROWS];
    begin(t, lo, hi, rows);
    for (size_t s = 0; s < count; s++) {
        const size_t lda = parts[s].lda;
        const uint16_t *a = (const uint16_t *)parts[s].a + row * lda, *panel = parts[s].panel;
        for (uint32_t p = 0; p < parts[s].depth; p += 2, a += 2, panel += 2 * NR) {
            const __m512bh b0 = (__m512bh)_mm512_loadu_si512(panel),
                           b1 = (__m512bh)_mm512_loadu_si512(panel + NR);
            LORICA_GEMM_UNROLL
            for (int i = 0; i < rows; i++) {
                const __m512bh x = pair_of(a + i * lda);
                lo[i] = _mm512_dpbf16_ps(lo[i], x, b0);
                hi[i] = _mm512_dpbf16_ps(hi[i], x, b1);
            }
        }
    }
    end(t, lo, hi, rows);
}

typedef void (*block_fn)(const struct target *t, const struct lorica_gemm_part *parts, size_t count,
                         size_t row, int rows);

static inline __attribute__((always_inline)) void
panel_with(block_fn block, void *c, size_t ldc, const struct lorica_gemm_part *parts, size_t count,
           uint32_t m, uint32_t cols, enum lorica_gemm_out out) {
    const uint32_t mask = cols >= 32 ? 0xFFFFFFFFu : (1u << cols) - 1;
    const size_t row_nbytes = ldc * (out == LORICA_GEMM_OPERAND ? sizeof(uint16_t) : sizeof(float));
    struct target t = {c, ldc, out, (__mmask16)(mask & 0xFFFF), (__mmask16)(mask >> 16)};
    uint32_t i = 0;
    for (; i + 12 <= m; i += 12, t.c = (char *)t.c + 12 * row_nbytes)
        block(&t, parts, count, i, 12);
    for (; i + 4 <= m; i += 4, t.c = (char *)t.c + 4 * row_nbytes)
        block(&t, parts, count, i, 4);
    for (; i < m; i++, t.c = (char *)t.c + row_nbytes)
        block(&t, parts, count, i, 1);
}

static void panel_f32_avx512(void *c, size_t ldc, const struct lorica_gemm_part *parts,
                             size_t count, uint32_t m, uint32_t cols, enum lorica_gemm_out out) {
    /* Operands are floats here. */
    panel_with(block_f32, c, ldc, parts, count, m, cols,
               out == LORICA_GEMM_OPERAND ? LORICA_GEMM_SET : out);
}

static void panel_bf16_avx512(void *c, size_t ldc, const struct lorica_gemm_part *parts,
                              size_t count, uint32_t m, uint32_t cols, enum lorica_gemm_out out) {
    panel_with(block_bf16, c, ldc, parts, count, m, cols, out);
}

/* -- packing of bfloat16 -- */

/* The order of words that makes pairs of the low and the high half of a register. */
static inline __m512i pair_order(void) {
    const __m512i low = _mm512_cvtepu16_epi32(
        _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    return _mm512_or_si512(low,
                           _mm512_slli_epi32(_mm512_add_epi32(low, _mm512_set1_epi32(16)), 16));
}

/* Interleaves decoded rows into pairs; the last of an odd number goes with zeros. */
static void pairs(uint16_t *to, const float *from, uint32_t depth) {
    const __m512i order = pair_order();
    for (uint32_t p = 0; p < depth; p += 2, to += 2 * NR, from += 2 * NR) {
        for (uint32_t j = 0; j < NR; j += 16) {
            const __m512 first = _mm512_loadu_ps(from + j);
            const __m512 second =
                p + 1 < depth ? _mm512_loadu_ps(from + NR + j) : _mm512_setzero_ps();
            const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
            _mm512_storeu_si512(to + (size_t)2 * j, _mm512_permutexvar_epi16(order, both));
        }
    }
}

/* Where a register of values of row p and one of row p + 1 go as pairs. */
static inline void put_pairs(uint16_t *to, __m512 first, __m512 second, __m512i order) {
    _mm512_storeu_si512(
        to, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first)));
}

/* The inputs [k0, k1) of 16 rows from `row` on, which begin a tile of NF4: columns of a panel. */
static void pack_w_nf4_tile(uint16_t *to, const struct lorica_matrix *w, uint32_t row, uint32_t k0,
                            uint32_t k1) {
    const uint32_t blocks = w->k / LORICA_NF4_BLOCK;
    const uint8_t *codes =
        (const uint8_t *)w->data + (size_t)(row / LORICA_TILE_ROWS) * blocks * 512;
    const __m512 table = _mm512_loadu_ps(lorica_nf4_table);
    const __m512i order = pair_order();
    for (uint32_t b = k0 / LORICA_NF4_BLOCK; b < k1 / LORICA_NF4_BLOCK; b++) {
        float absmax[16];
        for (uint32_t i = 0; i < 16; i++)
            absmax[i] = row + i < w->n ? lorica_nf4_absmax(w, (size_t)(row + i) * blocks + b) : 0;
        const __m512 scale = _mm512_loadu_ps(absmax);
        for (uint32_t g = 0; g < 8; g++, to += (size_t)8 * NR) {
            const __m512i v = _mm512_loadu_si512(codes + (size_t)b * 512 + (size_t)g * 64);
            __m512 x[8]; /* the permutation looks at the low four bits only */
            LORICA_GEMM_UNROLL
            for (unsigned j = 0; j < 8; j++)
                x[j] = _mm512_mul_ps(
                    _mm512_permutexvar_ps(_mm512_srli_epi32(v, j % 4 * 8 + j / 4 * 4), table),
                    scale);
            LORICA_GEMM_UNROLL
            for (unsigned j = 0; j < 8; j += 2)
                put_pairs(to + (size_t)j * NR, x[j], x[j + 1], order);
        }
    }
}

static void pack_w_q8_tile(uint16_t *to, const struct lorica_matrix *w, uint32_t row, uint32_t k0,
                           uint32_t k1) {
    const size_t blocks = w->k / LORICA_Q8_BLOCK, tile = row / LORICA_TILE_ROWS;
    const int8_t *codes = (const int8_t *)w->data + tile * blocks * 512;
    const uint16_t *scales = w->scales + tile * blocks * LORICA_TILE_ROWS;
    const __m512i order = pair_order();
    for (uint32_t p = k0; p < k1; p += 4, to += (size_t)4 * NR) {
        const size_t b = p / LORICA_Q8_BLOCK, g = p % LORICA_Q8_BLOCK / 4;
        const __m512 scale = _mm512_cvtph_ps(
            _mm256_loadu_si256((const __m256i *)(const void *)(scales + b * LORICA_TILE_ROWS)));
        const __m512i v = _mm512_loadu_si512(codes + b * 512 + g * 64);
        __m512 x[4];
        LORICA_GEMM_UNROLL
        for (unsigned j = 0; j < 4; j++)
            x[j] = _mm512_mul_ps(
                _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * j), 24)), scale);
        put_pairs(to, x[0], x[1], order);
        put_pairs(to + (size_t)2 * NR, x[2], x[3], order);
    }
}

/* Columns that do not exist. */
static void pack_no_tile(uint16_t *to, uint32_t depth) {
    for (uint32_t p = 0; p < depth; p += 2)
        _mm512_storeu_si512(to + (size_t)p * NR, _mm512_setzero_si512());
}

/* Whole tiles go straight to pairs. */
static void pack_w_bf16_avx512(void *panel, const struct lorica_matrix *w, uint32_t row,
                               uint32_t cols, uint32_t k0, uint32_t k1, float scale) {
    const bool nf4 = w->format == LORICA_FORMAT_NF4 && lorica_matrix_is_tiled(w);
    const uint32_t unit = nf4 ? LORICA_NF4_BLOCK : 4;
    if ((nf4 || w->format == LORICA_FORMAT_Q8) && (cols == NR || row + cols == w->n) &&
        row % LORICA_TILE_ROWS == 0 && k0 % unit == 0 && k1 % unit == 0 && scale == 1.0f) {
        for (uint32_t j = 0; j < NR; j += 16) {
            uint16_t *to = (uint16_t *)panel + (size_t)2 * j;
            if (row + j >= w->n)
                pack_no_tile(to, k1 - k0);
            else if (nf4)
                pack_w_nf4_tile(to, w, row + j, k0, k1);
            else
                pack_w_q8_tile(to, w, row + j, k0, k1);
        }
        return;
    }
    float floats[CHUNK * NR];
    for (uint32_t k = k0; k < k1; k += CHUNK) {
        const uint32_t last = k1 - k < CHUNK ? k1 : k + CHUNK;
        lorica_gemm_pack_w_avx2(floats, w, row, cols, k, last, scale);
        pairs((uint16_t *)panel + (size_t)(k - k0) * NR, floats, last - k);
    }
}

/* 16 inputs of a row of a tile: those of two groups of 8, of which `groups` holds the rows. */
static inline __m512 nf4_row(const __m512i *groups, uint32_t row, float absmax) {
    const __m512i shifts =
        _mm512_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28, 0, 8, 16, 24, 4, 12, 20, 28);
    const __m512i take =
        _mm512_add_epi32(_mm512_set1_epi32((int)row),
                         _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16));
    const __m512i codes =
        _mm512_srlv_epi32(_mm512_permutex2var_epi32(groups[0], take, groups[1]), shifts);
    return _mm512_mul_ps(_mm512_permutexvar_ps(codes, _mm512_loadu_ps(lorica_nf4_table)),
                         _mm512_set1_ps(absmax));
}

static void pack_wt_nf4(uint16_t *to, const struct lorica_matrix *w, uint32_t row0, uint32_t row1,
                        uint32_t col) {
    const uint32_t blocks = w->k / LORICA_NF4_BLOCK, b = col / LORICA_NF4_BLOCK;
    const __m512i order = pair_order();
    for (uint32_t row = row0; row < row1; row += LORICA_TILE_ROWS) {
        const uint8_t *codes = (const uint8_t *)w->data +
                               ((size_t)(row / LORICA_TILE_ROWS) * blocks + b) * 512 +
                               (size_t)(col % LORICA_NF4_BLOCK) * 8;
        __m512i groups[4];
        for (size_t g = 0; g < 4; g++)
            groups[g] = _mm512_loadu_si512(codes + g * 64);
        for (uint32_t r = 0; r < LORICA_TILE_ROWS; r += 2, to += (size_t)2 * NR) {
            const float first = lorica_nf4_absmax(w, (size_t)(row + r) * blocks + b),
                        second = lorica_nf4_absmax(w, (size_t)(row + r + 1) * blocks + b);
            put_pairs(to, nf4_row(groups, r, first), nf4_row(groups, r + 1, second), order);
            put_pairs(to + NR, nf4_row(groups + 2, r, first), nf4_row(groups + 2, r + 1, second),
                      order);
        }
    }
}

/* 16 inputs of row `r` of a tile: those of four groups of 4 from `codes` on. */
static inline __m512 q8_row(const int8_t *codes, size_t r, __m512 scale) {
    int32_t words[4];
    for (size_t g = 0; g < 4; g++)
        memcpy(&words[g], codes + g * 64 + r * 4, sizeof(words[g]));
    const __m128i bytes = _mm_setr_epi32(words[0], words[1], words[2], words[3]);
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), scale);
}

static void pack_wt_q8(uint16_t *to, const struct lorica_matrix *w, uint32_t row0, uint32_t row1,
                       uint32_t col) {
    const size_t blocks = w->k / LORICA_Q8_BLOCK, b = col / LORICA_Q8_BLOCK;
    const __m512i order = pair_order();
    for (uint32_t row = row0; row < row1; row += LORICA_TILE_ROWS) {
        const size_t at = row / LORICA_TILE_ROWS * blocks + b;
        const int8_t *codes = (const int8_t *)w->data + at * 512;
        float scales[LORICA_TILE_ROWS];
        _mm512_storeu_ps(scales,
                         _mm512_cvtph_ps(_mm256_loadu_si256(
                             (const __m256i *)(const void *)(w->scales + at * LORICA_TILE_ROWS))));
        for (uint32_t r = 0; r < LORICA_TILE_ROWS; r += 2, to += (size_t)2 * NR) {
            const __m512 first = _mm512_set1_ps(scales[r]), second = _mm512_set1_ps(scales[r + 1]);
            for (size_t j = 0; j < NR; j += 16)
                put_pairs(to + 2 * j, q8_row(codes + j * 16, r, first),
                          q8_row(codes + j * 16, r + 1, second), order);
        }
    }
}

static void pack_wt_bf16_avx512(void *panel, const struct lorica_matrix *w, uint32_t row0,
                                uint32_t row1, uint32_t col, uint32_t cols, float scale) {
    const bool nf4 = w->format == LORICA_FORMAT_NF4 && lorica_matrix_is_tiled(w);
    if ((nf4 || w->format == LORICA_FORMAT_Q8) && cols == NR && col % NR == 0 && col + NR <= w->k &&
        row0 % LORICA_TILE_ROWS == 0 && row1 % LORICA_TILE_ROWS == 0 && scale == 1.0f) {
        if (nf4)
            pack_wt_nf4(panel, w, row0, row1, col);
        else
            pack_wt_q8(panel, w, row0, row1, col);
        return;
    }
    float floats[CHUNK * NR];
    for (uint32_t i = row0; i < row1; i += CHUNK) {
        const uint32_t last = row1 - i < CHUNK ? row1 : i + CHUNK;
        lorica_gemm_pack_wt_avx2(floats, w, i, last, col, cols, scale);
        pairs((uint16_t *)panel + (size_t)(i - row0) * NR, floats, last - i);
    }
}

static void pack_rows_bf16_avx512(void *panel, const void *x, size_t ldx, uint32_t depth,
                                  uint32_t cols) {
    const __mmask32 mask = cols >= 32 ? 0xFFFFFFFFu : (1u << cols) - 1;
    const __m512i order = pair_order();
    /* Words of the second source have bit 5 set. */
    const __m512i half = _mm512_set1_epi32(0x00100000), low = _mm512_add_epi16(order, half),
                  high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    uint16_t *to = panel;
    for (uint32_t i = 0; i < depth; i += 2, to += 2 * NR) {
        const uint16_t *at = (const uint16_t *)x + i * ldx;
        const __m512i first = _mm512_maskz_loadu_epi16(mask, at);
        const __m512i second =
            i + 1 < depth ? _mm512_maskz_loadu_epi16(mask, at + ldx) : _mm512_setzero_si512();
        _mm512_storeu_si512(to, _mm512_permutex2var_epi16(first, low, second));
        _mm512_storeu_si512(to + NR, _mm512_permutex2var_epi16(first, high, second));
    }
}

/* to[j * ldt + i] = from[i * ldx + j] for 16 x 16 words of 32 bits. */
static inline void transpose16(uint32_t *to, size_t ldt, const uint32_t *from, size_t ldx) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_si512(from + i * ldx);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* r[4g + i]: columns 4q + i of lane q, rows 4g to 4g + 3 */
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xDD);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xDD);
    }
    for (size_t i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * ldt, _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88));
        _mm512_storeu_si512(to + (8 + i) * ldt, _mm512_shuffle_i32x4(t[i], t[4 + i], 0xDD));
        _mm512_storeu_si512(to + (4 + i) * ldt, _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88));
        _mm512_storeu_si512(to + (12 + i) * ldt, _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xDD));
    }
}

static void pack_cols_bf16_avx512(void *panel, const void *x, size_t ldx, uint32_t depth,
                                  uint32_t cols) {
    const uint16_t *from = x;
    uint16_t *to = panel;
    uint32_t p = 0;
    /* Pairs are words of 32 bits; an odd ldx only makes them lie unaligned. */
    for (; p + 32 <= depth && cols == NR && ldx % 2 == 0; p += 32)
        for (uint32_t j = 0; j < NR; j += 16)
            transpose16((uint32_t *)(void *)(to + ((size_t)(p / 2) * NR + j) * 2), NR,
                        (const uint32_t *)(const void *)(from + j * ldx + p), ldx / 2);
    for (; p < depth + depth % 2; p++)
        for (uint32_t j = 0; j < NR; j++)
            to[((size_t)(p / 2) * NR + j) * 2 + p % 2] =
                p < depth && j < cols ? from[j * ldx + p] : 0;
}

/* Two rows become words of pairs, then 16 of those are transposed at a time. */
static void turn_block(uint16_t *to, size_t ldt, const uint16_t *x, size_t ldx) {
    const __m512i order = pair_order(), half = _mm512_set1_epi32(0x00100000),
                  low = _mm512_add_epi16(order, half);
    uint32_t words[16 * 16];
    for (size_t i = 0; i < 16; i++) {
        const __m512i first = _mm512_castsi256_si512(
            _mm256_loadu_si256((const __m256i *)(const void *)(x + 2 * i * ldx)));
        const __m512i second = _mm512_castsi256_si512(
            _mm256_loadu_si256((const __m256i *)(const void *)(x + (2 * i + 1) * ldx)));
        _mm512_storeu_si512(words + i * 16, _mm512_permutex2var_epi16(first, low, second));
    }
    transpose16((uint32_t *)(void *)to, ldt / 2, words, 16);
}

static void turn_bf16_avx512(void *to, size_t ldt, const void *x, size_t ldx, uint32_t rows,
                             uint32_t cols) {
    const uint16_t *from = x;
    uint32_t i = 0;
    for (; i + 32 <= rows && ldt % 2 == 0; i += 32) {
        uint32_t j = 0;
        for (; j + 16 <= cols; j += 16)
            turn_block((uint16_t *)to + j * ldt + i, ldt, from + i * ldx + j, ldx);
        for (; j < cols; j++)
            for (uint32_t r = i; r < i + 32; r++)
                ((uint16_t *)to)[j * ldt + r] = from[r * ldx + j];
    }
    for (; i < rows + rows % 2; i++)
        for (uint32_t j = 0; j < cols; j++)
            ((uint16_t *)to)[j * ldt + i] = i < rows ? from[i * ldx + j] : 0;
}

static void squeeze_avx512(void *to, const float *from, size_t count) {
    uint16_t *out = to;
    size_t i = 0;
    for (; i + 32 <= count; i += 32)
        _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16),
                                                                  _mm512_loadu_ps(from + i)));
    for (; i < count; i += 16) {
        const __mmask16 mask = count - i >= 16 ? 0xFFFF : (__mmask16)((1u << (count - i)) - 1);
        _mm256_mask_storeu_epi16(
            out + i, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + i)));
    }
}

static void expand_avx512(float *to, const void *from, size_t count) {
    const uint16_t *in = from;
    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 mask = count - i >= 16 ? 0xFFFF : (__mmask16)((1u << (count - i)) - 1);
        const __m256i bits = _mm256_maskz_loadu_epi16(mask, in + i);
        _mm512_mask_storeu_ps(
            to + i, mask, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
    }
}

/* -- row steps -- */

/* exp by x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial in r. */
static inline __m512 exp16(__m512 x) {
    const __m512 clamped =
        _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(89.0f)), _mm512_set1_ps(-88.0f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(clamped, _mm512_set1_ps(1.44269504f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), clamped);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.3981999507e-3f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(8.3334519073e-3f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(4.1665795894e-2f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.6666665459e-1f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(5.0000001201e-1f));
    y = _mm512_add_ps(_mm512_fmadd_ps(y, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    y = _mm512_scalef_ps(y, n);
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.336544f), _CMP_LT_OQ),
                           _mm512_setzero_ps());
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

static void exp_avx512(float *y, const float *x, uint32_t n, float scale, float offset) {
    const __m512 s = _mm512_set1_ps(scale), o = _mm512_set1_ps(offset);
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 mask = n - i >= 16 ? 0xFFFF : (__mmask16)((1u << (n - i)) - 1);
        const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        _mm512_mask_storeu_ps(y + i, mask, exp16(_mm512_add_ps(_mm512_mul_ps(v, s), o)));
    }
}

#define GEMM_EXP exp_avx512
#include "kernels/gemm_rows.h"

static double peak_f32_avx512(uint64_t rounds) {
    __m512 sums[24];
    const __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(1.0f);
    volatile float sink;
    for (int i = 0; i < 24; i++)
        sums[i] = _mm512_setzero_ps();
    for (uint64_t r = 0; r < rounds; r++) {
        LORICA_GEMM_UNROLL
        for (int i = 0; i < 24; i++)
            sums[i] = _mm512_fmadd_ps(x, y, sums[i]);
    }
    for (int i = 0; i < 24; i++)
        sink = _mm512_cvtss_f32(sums[i]);
    (void)sink;
    return (double)rounds * 24 * 16 * 2;
}

static double peak_bf16_avx512(uint64_t rounds) {
    __m512 sums[24];
    const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3F803F80),
                   y = (__m512bh)_mm512_set1_epi32(0x3F803F80);
    volatile float sink;
    for (int i = 0; i < 24; i++)
        sums[i] = _mm512_setzero_ps();
    for (uint64_t r = 0; r < rounds; r++) {
        LORICA_GEMM_UNROLL
        for (int i = 0; i < 24; i++)
            sums[i] = _mm512_dpbf16_ps(sums[i], x, y);
    }
    for (int i = 0; i < 24; i++)
        sink = _mm512_cvtss_f32(sums[i]);
    (void)sink;
    return (double)rounds * 24 * 16 * 4;
}

void lorica_gemm_kernels_init_avx512(struct lorica_gemm_kernels *kernels) {
    kernels->exp = exp_avx512;
    kernels->squeeze = squeeze_avx512;
    kernels->expand = expand_avx512;
    rows_fill_table(kernels);
    if (kernels->operand == LORICA_OPERAND_F32) {
        kernels->panel = panel_f32_avx512;
        kernels->peak = peak_f32_avx512;
        return;
    }
    kernels->panel = panel_bf16_avx512;
    kernels->pack_w = pack_w_bf16_avx512;
    kernels->pack_wt = pack_wt_bf16_avx512;
    kernels->pack_rows = pack_rows_bf16_avx512;
    kernels->pack_cols = pack_cols_bf16_avx512;
    kernels->turn = turn_bf16_avx512;
    kernels->store = squeeze_avx512;
    kernels->load = expand_avx512;
    kernels->peak = peak_bf16_avx512;
}
