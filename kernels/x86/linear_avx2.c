/* SPDX-License-Identifier: MIT
 * int16 activations of 13 bits and a sign, a scale for every 64 inputs; NF4 codes as int16 of 12
 * bits and a sign, looked up a byte at a time; vpmaddwd and vpaddd, or vpdpwssd, which is both in
 * one, where the processor has AVX-VNNI. It does as many products per instruction as the int8 way
 * (vpsignb, vpmaddubsw, vpmaddwd, vpaddd), and rounds 64 times finer. Sums of 64 products are
 * exact integers (64 * 8191 * 4095 < 2^31), and meet float32 in the order of the blocks: so a
 * result does not depend on how many rows are computed together, nor on AVX-VNNI.
 *
 * This file is compiled twice, for each of the two levels. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

#ifdef __AVXVNNI__
#define LEVEL_NAME(name) name##_avxvnni
#define PEAK_FORM "int16 (vpdpwssd)"
#else
#define LEVEL_NAME(name) name##_avx2
#define PEAK_FORM "int16 (vpmaddwd, vpaddd)"
#endif

#define INLINE static inline __attribute__((always_inline))

/* Inputs that share a scale of the activations. */
#define BLOCK 64
/* Largest magnitude of activations, and of NF4 codes. */
#define X_STEPS 8191.0f
#define TABLE_STEPS 4095.0f
/* How far ahead of one row's product the codes are fetched. */
#define PREFETCH 2048
/* Inputs of a tile that are decoded at a time when several rows share them: 18 KB of int16. */
#define CHUNK 576
/* Rows that share each decoded register: two accumulators each. */
#ifdef __AVXVNNI__
#define ROWS 6
#else
#define ROWS 4
#endif
/* Up to this many rows take the weights from memory to the product without a stop. */
#define DIRECT_ROWS 2

/* A quantised row: k int16, then a scale for each BLOCK inputs or what is left of one. */
static size_t scales_at(uint32_t k) { return (size_t)k * sizeof(int16_t); }

static size_t act_nbytes(uint32_t k) {
    return (scales_at(k) + (k + BLOCK - 1) / BLOCK * sizeof(float) + 63) / 64 * 64;
}

/* `count` values, a multiple of 8 up to BLOCK, of one scale. */
static void quantise_block(int16_t *q, float *scale, const float *x, uint32_t count) {
    const __m256 sign = _mm256_set1_ps(-0.0f), huge = _mm256_set1_ps(3.4028235e38f);
    __m256 top = _mm256_setzero_ps(), fine = _mm256_cmp_ps(top, top, _CMP_EQ_OQ);
    for (uint32_t i = 0; i < count; i += 8) {
        const __m256 magnitude = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
        top = _mm256_max_ps(top, magnitude);
        fine = _mm256_and_ps(fine, _mm256_cmp_ps(magnitude, huge, _CMP_LE_OQ));
    }
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    const float max = _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
    /* NaN and infinities must come out as NaN: by the scale, since integers cannot carry them. */
    const int finite = _mm256_movemask_ps(fine) == 0xff;
    const float inverse = !finite || max < 1e-30f ? 0 : X_STEPS / max;
    *scale = !finite ? __builtin_nanf("") : inverse == 0 ? 0 : max / X_STEPS;
    for (uint32_t i = 0; i < count; i += 8) {
        /* 0 times infinity or NaN would give the most negative integer. */
        const __m256 v = finite ? _mm256_loadu_ps(x + i) : _mm256_setzero_ps();
        const __m256i w = _mm256_cvtps_epi32(_mm256_mul_ps(v, _mm256_set1_ps(inverse)));
        _mm_storeu_si128((__m128i *)(q + i), _mm_packs_epi32(_mm256_castsi256_si128(w),
                                                             _mm256_extracti128_si256(w, 1)));
    }
}

static void act_quantise(void *dst, const float *x, uint32_t k) {
    float *scales = (float *)((char *)dst + scales_at(k));
    for (uint32_t i = 0; i < k; i += BLOCK)
        quantise_block((int16_t *)dst + i, scales + i / BLOCK, x + i,
                       k - i < BLOCK ? k - i : BLOCK);
}

/* The NF4 codes as int16, their low bytes and their high bytes, for both halves of a register. */
struct tables {
    __m256i low, high;
};

static struct tables code_tables(void) {
    uint8_t low[16], high[16];
    for (int i = 0; i < 16; i++) {
        const float value = TABLE_STEPS * lorica_nf4_table[i];
        const int16_t code = (int16_t)(value < 0 ? value - 0.5f : value + 0.5f);
        low[i] = (uint8_t)((uint16_t)code & 255);
        high[i] = (uint8_t)((uint16_t)code >> 8);
    }
    return (struct tables){_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                           _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high))};
}

/* Eight sums. In the type of the add itself: gcc keeps a copy of a sum that changes its type. */
typedef int32_t sums_of_8 __attribute__((vector_size(32)));

/* acc += pairs of int16 products. */
INLINE sums_of_8 dot(sums_of_8 acc, __m256i w, __m256i x) {
#ifdef __AVXVNNI__
    return (sums_of_8)_mm256_dpwssd_avx_epi32((__m256i)acc, w, x);
#else
    return acc + (sums_of_8)_mm256_madd_epi16(w, x);
#endif
}

/* Four inputs of eight rows as int16 from four-bit codes: rows 0 1 4 5 and rows 2 3 6 7. */
INLINE void nf4_group(__m256i w[2], __m256i index, struct tables tables) {
    const __m256i low = _mm256_shuffle_epi8(tables.low, index);
    const __m256i high = _mm256_shuffle_epi8(tables.high, index);
    w[0] = _mm256_unpacklo_epi8(low, high);
    w[1] = _mm256_unpackhi_epi8(low, high);
}

/* Eight inputs of eight rows of Q8, four of a row after four of the next: rows 0..3 and 4..7. */
INLINE void q8_inputs(__m256i w[4], const uint8_t *codes) {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++)
        w[i] = _mm256_cvtepi8_epi16(
            _mm_loadu_si128((const __m128i *)(codes + i / 2 * 64 + i % 2 * 16)));
}

/* The same of NF4, whose 32 bytes are `v`: of the rows 0 1 4 5 and 2 3 6 7. */
INLINE void nf4_inputs(__m256i w[4], __m256i v, struct tables tables) {
    const __m256i nibble = _mm256_set1_epi8(15);
    nf4_group(w, _mm256_and_si256(v, nibble), tables);
    nf4_group(w + 2, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble), tables);
}

/* Sums of pairs of four inputs of such rows as sums of eight rows in order. */
INLINE sums_of_8 eight_rows(const sums_of_8 acc[2], const int nf4) {
    const __m256i sums = _mm256_hadd_epi32((__m256i)acc[0], (__m256i)acc[1]);
    return (sums_of_8)(nf4 ? sums : _mm256_permute4x64_epi64(sums, 0xd8));
}

/* Inputs of one block of weights, their groups of eight, and the bytes of a group. */
INLINE uint32_t block_inputs(const int nf4) { return nf4 ? LORICA_NF4_BLOCK : LORICA_Q8_BLOCK; }
INLINE uint32_t block_groups(const int nf4) { return block_inputs(nf4) / 8; }
INLINE uint32_t group_nbytes(const int nf4) { return nf4 ? 64 : 128; }

/* The scale of the activations that meet block b of the weights. */
INLINE __m256 x_scale(const char *x, uint32_t k, uint32_t b, const int nf4) {
    return _mm256_broadcast_ss((const float *)(x + scales_at(k)) + b * block_inputs(nf4) / BLOCK);
}

INLINE __m256 w_scale(const uint16_t *scales, uint32_t b, uint32_t half) {
    return _mm256_cvtph_ps(
        _mm_loadu_si128((const __m128i *)(scales + (size_t)b * LORICA_TILE_ROWS + half * 8)));
}

/* What a block adds to eight outputs. */
INLINE __m256 add_block(__m256 sum, sums_of_8 dots, __m256 x_step, __m256 w_step) {
    return _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps((__m256i)dots), x_step), w_step, sum);
}

/* The end of a sum over all blocks. */
INLINE __m256 finished(__m256 sum, const int nf4) {
    return nf4 ? _mm256_mul_ps(sum, _mm256_set1_ps(1 / TABLE_STEPS)) : sum;
}

/* A tile for R rows, straight from the codes. */
INLINE void tile_direct(float *y, size_t ldy, const char *x, size_t stride, const uint8_t *codes,
                        const uint16_t *scales, uint32_t k, struct tables tables, const uint32_t R,
                        const int nf4) {
    __m256 sum[DIRECT_ROWS][2];
#pragma GCC unroll 2
    for (uint32_t r = 0; r < R; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < k / block_inputs(nf4); b++) {
        sums_of_8 acc[DIRECT_ROWS][2][2];
#pragma GCC unroll 2
        for (uint32_t r = 0; r < R; r++)
            acc[r][0][0] = acc[r][0][1] = acc[r][1][0] = acc[r][1][1] = (sums_of_8){0};
#pragma GCC unroll 8
        for (uint32_t g = 0; g < block_groups(nf4); g++, codes += group_nbytes(nf4)) {
            const uint32_t at = b * block_inputs(nf4) + 8 * g;
            for (uint32_t i = 0; i < group_nbytes(nf4); i += 64)
                _mm_prefetch((const char *)codes + PREFETCH + i, _MM_HINT_T0);
#pragma GCC unroll 2
            for (uint32_t half = 0; half < 2; half++) {
                __m256i w[4];
                if (nf4)
                    nf4_inputs(w, _mm256_loadu_si256((const __m256i *)codes + half), tables);
                else
                    q8_inputs(w, codes + (size_t)half * 32);
#pragma GCC unroll 2
                for (uint32_t r = 0; r < R; r++)
#pragma GCC unroll 4
                    for (uint32_t i = 0; i < 4; i++) {
                        long long four;
                        memcpy(&four, x + r * stride + 2 * (at + i / 2 * 4), sizeof(four));
                        acc[r][half][i % 2] =
                            dot(acc[r][half][i % 2], w[i], _mm256_set1_epi64x(four));
                        /* gcc would add in a tree, and keep its products in memory. */
                        __asm__("" : "+x"(acc[r][half][i % 2]));
                    }
            }
        }
#pragma GCC unroll 2
        for (uint32_t r = 0; r < R; r++)
#pragma GCC unroll 2
            for (uint32_t half = 0; half < 2; half++)
                sum[r][half] =
                    add_block(sum[r][half], eight_rows(acc[r][half], nf4),
                              x_scale(x + r * stride, k, b, nf4), w_scale(scales, b, half));
    }
#pragma GCC unroll 2
    for (uint32_t r = 0; r < R; r++)
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++)
            _mm256_storeu_ps(y + r * ldy + (size_t)half * 8, finished(sum[r][half], nf4));
}

/* 32 bytes of codes in another order, the same for both halves. */
INLINE __m256i ordered(const uint8_t *codes, __m256i order) {
    return _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)codes), order);
}

/* 32 bytes of Q8 as int16. */
INLINE void q8_pairs(__m256i w[2], __m256i bytes) {
    w[0] = _mm256_srai_epi16(_mm256_unpacklo_epi8(bytes, bytes), 8);
    w[1] = _mm256_srai_epi16(_mm256_unpackhi_epi8(bytes, bytes), 8);
}

/* Blocks [b0, b1) of a tile into `w`: for each pair of inputs the rows 0..7 and the rows 8..15, two
 * int16 of each. The codes of four rows, four of each, are put in the order of pairs first. */
INLINE void decode(__m256i *w, const uint8_t *codes, uint32_t b0, uint32_t b1, struct tables tables,
                   const int nf4) {
    const __m256i pairs = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    codes += (size_t)b0 * LORICA_TILE_BLOCK_NBYTES;
    for (uint32_t g = 0; g < (b1 - b0) * block_groups(nf4); g++, codes += group_nbytes(nf4), w += 8)
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++) {
            const uint8_t *at = codes + (size_t)half * 32;
            const __m256i bytes = ordered(at, pairs);
            __m256i v[4];
            if (nf4) {
                nf4_inputs(v, bytes, tables);
            } else {
                q8_pairs(v, bytes);
                q8_pairs(v + 2, ordered(at + 64, pairs));
            }
#pragma GCC unroll 4
            for (uint32_t i = 0; i < 4; i++)
                w[2 * i + half] = v[i];
        }
}

/* Blocks [b0, b1) of a tile, decoded at `w`, for R rows whose sums so far stand at y. Meanwhile the
 * codes at `next`, unless NULL, are fetched. */
INLINE void chunk_rows(float *y, size_t ldy, const char *x, size_t stride, const __m256i *w,
                       const uint16_t *scales, uint32_t k, uint32_t b0, uint32_t b1,
                       const uint8_t *next, const uint32_t R, const int nf4) {
    for (uint32_t b = b0; b < b1; b++) {
        for (uint32_t i = 0; next && i < LORICA_TILE_BLOCK_NBYTES; i += 64)
            _mm_prefetch((const char *)next + (b - b0) * LORICA_TILE_BLOCK_NBYTES + i, _MM_HINT_T1);
        sums_of_8 acc[ROWS][2];
#pragma GCC unroll 6
        for (uint32_t r = 0; r < R; r++)
            acc[r][0] = acc[r][1] = (sums_of_8){0};
        const char *inputs = x + (size_t)b * block_inputs(nf4) * sizeof(int16_t);
#pragma GCC unroll 4
        for (uint32_t p = 0; p < block_inputs(nf4) / 2; p++, w += 2, inputs += 4) {
#pragma GCC unroll 6
            for (uint32_t r = 0; r < R; r++) {
                int32_t two;
                memcpy(&two, inputs + r * stride, sizeof(two));
                acc[r][0] = dot(acc[r][0], w[0], _mm256_set1_epi32(two));
                acc[r][1] = dot(acc[r][1], w[1], _mm256_set1_epi32(two));
            }
        }
        const __m256 w_steps[2] = {w_scale(scales, b, 0), w_scale(scales, b, 1)};
#pragma GCC unroll 6
        for (uint32_t r = 0; r < R; r++) {
            const __m256 x_step = x_scale(x + r * stride, k, b, nf4);
#pragma GCC unroll 2
            for (uint32_t half = 0; half < 2; half++) {
                float *at = y + r * ldy + (size_t)half * 8;
                const __m256 sum = b == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(at);
                _mm256_storeu_ps(at, add_block(sum, acc[r][half], x_step, w_steps[half]));
            }
        }
    }
    if (nf4 && b1 == k / block_inputs(nf4))
        for (uint32_t r = 0; r < R; r++)
            for (uint32_t half = 0; half < 2; half++) {
                float *at = y + r * ldy + (size_t)half * 8;
                _mm256_storeu_ps(at, finished(_mm256_loadu_ps(at), nf4));
            }
}

/* A tile for several rows: decoded once, chunk by chunk. */
INLINE void tile_decoded(float *y, size_t ldy, const char *x, size_t stride, uint32_t rows,
                         const uint8_t *codes, const uint16_t *scales, uint32_t k,
                         struct tables tables, const int nf4) {
    __m256i w[CHUNK];
    const uint32_t blocks = k / block_inputs(nf4), chunk = CHUNK / block_inputs(nf4);
    for (uint32_t b0 = 0; b0 < blocks; b0 += chunk) {
        const uint32_t b1 = blocks - b0 < chunk ? blocks : b0 + chunk;
        decode(w, codes, b0, b1, tables, nf4);
        const uint8_t *next = codes + (size_t)b1 * LORICA_TILE_BLOCK_NBYTES;
        for (uint32_t r = 0, some; r < rows; r += some, next = NULL) {
            float *at = y + r * ldy;
            const char *from = x + r * stride;
            some = rows - r >= ROWS ? ROWS : rows - r >= 4 ? 4 : rows - r >= 2 ? 2 : 1;
            if (some == ROWS)
                chunk_rows(at, ldy, from, stride, w, scales, k, b0, b1, next, ROWS, nf4);
            else if (some == 4)
                chunk_rows(at, ldy, from, stride, w, scales, k, b0, b1, next, 4, nf4);
            else if (some == 2)
                chunk_rows(at, ldy, from, stride, w, scales, k, b0, b1, next, 2, nf4);
            else
                chunk_rows(at, ldy, from, stride, w, scales, k, b0, b1, next, 1, nf4);
        }
    }
}

INLINE void product(float *y, size_t ldy, const char *x, size_t stride, uint32_t rows,
                    const struct lorica_linear *w, uint32_t tile0, uint32_t tile1, const int nf4) {
    const size_t blocks = w->k / block_inputs(nf4);
    const struct tables tables = code_tables();
    for (uint32_t t = tile0; t < tile1; t++) {
        const uint8_t *codes = (const uint8_t *)w->codes + t * blocks * LORICA_TILE_BLOCK_NBYTES;
        const uint16_t *scales = w->scales + t * blocks * LORICA_TILE_ROWS;
        float *out = y + (size_t)t * LORICA_TILE_ROWS;
        if (rows == 1)
            tile_direct(out, ldy, x, stride, codes, scales, w->k, tables, 1, nf4);
        else if (rows == DIRECT_ROWS)
            tile_direct(out, ldy, x, stride, codes, scales, w->k, tables, DIRECT_ROWS, nf4);
        else
            tile_decoded(out, ldy, x, stride, rows, codes, scales, w->k, tables, nf4);
    }
}

static void linear_nf4(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                       const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, 1);
}

static void linear_q8(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                      const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, 0);
}

/* Eight weights of a dense row as floats. */
static inline __m256 dense_eight(const struct lorica_linear *w, size_t at) {
    const uint16_t *half = (const uint16_t *)w->codes + at;
    return w->format == LORICA_FORMAT_F32 ? _mm256_loadu_ps((const float *)w->codes + at)
           : w->format == LORICA_FORMAT_F16
               ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)half))
               : bf16_avx2(half);
}

static float dense_one(const struct lorica_linear *w, size_t at) {
    const uint16_t *half = (const uint16_t *)w->codes + at;
    return w->format == LORICA_FORMAT_F32   ? ((const float *)w->codes)[at]
           : w->format == LORICA_FORMAT_F16 ? _cvtsh_ss(*half)
                                            : bf16_scalar(*half);
}

static float dense_dot(const struct lorica_linear *w, size_t row, const float *x) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    uint32_t j = 0;
    for (; j + 16 <= w->k; j += 16) {
        s0 = _mm256_fmadd_ps(dense_eight(w, row + j), _mm256_loadu_ps(x + j), s0);
        s1 = _mm256_fmadd_ps(dense_eight(w, row + j + 8), _mm256_loadu_ps(x + j + 8), s1);
    }
    float sum = sum_avx2(_mm256_add_ps(s0, s1));
    for (; j < w->k; j++)
        sum += dense_one(w, row + j) * x[j];
    return sum;
}

static void linear_dense(float *y, size_t ldy, const float *x, size_t ldx, uint32_t rows,
                         const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    for (uint32_t i = tile0 * LORICA_TILE_ROWS; i < tile1 * LORICA_TILE_ROWS; i++)
        for (uint32_t r = 0; r < rows; r++)
            y[r * ldy + i] = i < w->n ? dense_dot(w, (size_t)i * w->k, x + r * ldx) : 0;
}

#define PEAK_SUMS 8

static double peak(uint64_t rounds) {
    sums_of_8 sums[PEAK_SUMS];
    __m256i w = _mm256_set1_epi16(3), x = w;
#pragma GCC unroll 8
    for (int i = 0; i < PEAK_SUMS; i++)
        sums[i] = (sums_of_8){0};
    for (uint64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+x"(w), "+x"(x)); /* nothing may be computed once for all rounds */
#pragma GCC unroll 8
        for (int i = 0; i < PEAK_SUMS; i++) {
            __asm__ volatile("" : "+x"(x));
            sums[i] = dot(sums[i], w, x);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < PEAK_SUMS; i++)
        __asm__ volatile("" : : "x"(sums[i]));
    return (double)rounds * PEAK_SUMS * 32;
}

void LEVEL_NAME(lorica_linear_kernels)(struct lorica_linear_kernels *kernels) {
    *kernels = (struct lorica_linear_kernels){
        .act_nbytes = act_nbytes,
        .act_quantise = act_quantise,
        .nf4 = linear_nf4,
        .q8 = linear_q8,
        .dense = linear_dense,
        .peak = peak,
        .peak_form = PEAK_FORM,
    };
}
