/* SPDX-License-Identifier: MIT
 * Products of int8, whose sums stay in int16 for 16 inputs: vpmaddubsw multiplies unsigned weights
 * by signed activations and adds two inputs, and eight products of a row and a weight go to a lane
 * of int16 before vpmaddwd widens them. That is 5 multiplications and 10 instructions for 128
 * products, where int16 operands take 8 and 16.
 *
 * No lane overflows, by the choice of the activations' steps. One lane sums the inputs 0 1 4 5 8 9
 * 12 13 of a group of 16, its neighbour the others. With codes c of the activations and w of the
 * weights, which are made unsigned by adding 128:
 *
 *   |c0| + |c1| <= 128 for each pair: two products do not saturate (128 * 255 < 2^15)
 *   sum |c| <= 255 for each lane: nor does the sum of w * c in the end (255 * 128 < 2^15)
 *
 * A lane begins at -128 times the sum of its codes, which is kept with the row, and may wrap around
 * on its way. vpmaddwd multiplies each lane by a factor up to 63: so every eight inputs have a step
 * of their own at no cost, that many times the step of their block of 64, for which floats are
 * multiplied. The sum of a block is below 2^24, and meets float32 exactly.
 *
 * An output is the sum of its blocks in ascending order, whatever the number of rows and tiles:
 * sum = fma(block's sum * step, weights' scale, sum). NF4's table is rounded to int8. AVX-VNNI
 * brings nothing: vpdpwssd widens and adds in one instruction, but measured slower here, and
 * vpdpbusd would add inputs of different steps. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

#define INLINE static inline __attribute__((always_inline))

/* Inputs of a group, of a block, and groups of a block. */
#define GROUP 16
#define BLOCK 64
#define GROUPS (BLOCK / GROUP)
/* Steps of a pair and of a lane: rounding adds half a step to each code. */
#define PAIR_STEPS 127.0f
#define LANE_STEPS 251.0f
/* The largest factor of a lane. */
#define MOST_STEPS 63.0f
/* Blocks whose least step is below this count as 0. */
#define LEAST 0x1p-107f
/* Of the factors that keep NF4's table in int8, the one by which the model's distribution over next
 * tokens moves least; round(112 * c) + 128. */
#define NF4_FACTOR 112.0f
static const uint8_t nf4_codebook[16] = {16,  50,  69,  84,  96,  107, 118, 128,
                                         137, 146, 156, 166, 177, 191, 209, 240};
/* How far ahead of the products of a few rows the codes are fetched. */
#define PREFETCH 2048
/* Inputs of a tile that are decoded at a time when many rows share them: 9 KB. */
#define CHUNK 576
/* Rows that share each register of weights; up to so many take the weights from memory to the
 * product without a stop. */
#define ROWS 4

/* How the bytes of weights lie. */
enum layout {
    LAYOUT_NF4,    /* tiled NF4 */
    LAYOUT_Q8,     /* tiled int8 */
    LAYOUT_DECODED /* either as unsigned bytes in Q8's order */
};

/* 64 inputs of a quantised row, which is an array of these. What is past its end is 0. */
struct block {
    int8_t codes[BLOCK];
    int16_t starts[GROUPS][2]; /* what the lanes of a group begin at */
    int16_t factors[GROUPS][2];
    float step;
};

static size_t act_nbytes(uint32_t k) {
    return ((k + BLOCK - 1) / BLOCK * sizeof(struct block) + 63) / 64 * 64;
}

/* Sums in lanes. In the types of the adds themselves: gcc keeps a copy of one that changes its
 * type. */
typedef int32_t block_sums __attribute__((vector_size(32)));
typedef int16_t group_sums __attribute__((vector_size(32)));

INLINE group_sums dot(group_sums sums, __m256i w, __m256i x) {
    return sums + (group_sums)_mm256_maddubs_epi16(w, x);
}

INLINE block_sums add_group(block_sums sums, group_sums group, __m256i factors) {
    return sums + (block_sums)_mm256_madd_epi16((__m256i)group, factors);
}

/* The smallest steps of 16 values with which their two lanes, the first two of the result, do not
 * overflow. */
INLINE __m128 least_steps(__m256 low, __m256 high) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256 pairs = _mm256_hadd_ps(_mm256_andnot_ps(sign, low), _mm256_andnot_ps(sign, high));
    const __m128 a = _mm256_castps256_ps128(pairs), b = _mm256_extractf128_ps(pairs, 1);
    const __m128 most = _mm_max_ps(a, b), both = _mm_add_ps(a, b);
    const __m128 pair = _mm_max_ps(most, _mm_movehl_ps(most, most));
    const __m128 lane = _mm_add_ps(both, _mm_movehl_ps(both, both));
    return _mm_max_ps(_mm_mul_ps(pair, _mm_set1_ps(1 / PAIR_STEPS)),
                      _mm_mul_ps(lane, _mm_set1_ps(1 / LANE_STEPS)));
}

/* 16 values as codes of group g; steps: its least ones, in steps of the block. */
INLINE void quantise_group(struct block *block, uint32_t g, __m256 low, __m256 high, __m128 steps,
                           float inverse) {
    const __m128 factors =
        _mm_min_ps(_mm_max_ps(_mm_ceil_ps(steps), _mm_set1_ps(1)), _mm_set1_ps(MOST_STEPS));
    const __m128 each = _mm_div_ps(_mm_set1_ps(inverse), factors);
    const __m256 by = _mm256_broadcast_ps(&(__m128){each[0], each[0], each[1], each[1]});
    const __m256i words =
        _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(low, by)),
                                                    _mm256_cvtps_epi32(_mm256_mul_ps(high, by))),
                                 0xd8);
    const __m256i pairs = _mm256_madd_epi16(words, _mm256_set1_epi16(-128));
    __m128i starts =
        _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    starts = _mm_add_epi32(starts, _mm_shuffle_epi32(starts, 0x4e));
    const __m128i both = _mm_packs_epi32(starts, _mm_cvtps_epi32(factors));
    _mm_storeu_si128(
        (__m128i *)(block->codes + (size_t)g * GROUP),
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    memcpy(block->starts[g], &both, sizeof(block->starts[g]));
    memcpy(block->factors[g], (const char *)&both + 8, sizeof(block->factors[g]));
}

/* 64 values or what is left of a row. */
static void quantise_block(struct block *block, const float *x, uint32_t groups) {
    __m128 steps[GROUPS], top = _mm_setzero_ps();
    __m256 zero = _mm256_setzero_ps();
    for (uint32_t g = 0; g < groups; g++) {
        const __m256 low = _mm256_loadu_ps(x + (size_t)g * GROUP);
        const __m256 high = _mm256_loadu_ps(x + (size_t)g * GROUP + 8);
        steps[g] = least_steps(low, high);
        top = _mm_max_ps(top, steps[g]);
        /* 0, or NaN where a value is not finite: codes could not carry that. */
        zero = _mm256_fmadd_ps(_mm256_add_ps(low, high), _mm256_setzero_ps(), zero);
    }
    const float most = _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
    const float inverse = MOST_STEPS / most, none = sum_avx2(zero);
    memset(block, 0, sizeof(*block));
    block->step = none == 0 && most < LEAST ? 0 : most / MOST_STEPS + none;
    for (uint32_t g = 0; block->step > 0 && g < groups; g++)
        quantise_group(block, g, _mm256_loadu_ps(x + (size_t)g * GROUP),
                       _mm256_loadu_ps(x + (size_t)g * GROUP + 8),
                       _mm_mul_ps(steps[g], _mm_set1_ps(inverse)), inverse);
}

static void act_quantise(void *dst, const float *x, uint32_t k) {
    struct block *block = dst;
    for (uint32_t i = 0; i < k; i += BLOCK, block++)
        quantise_block(block, x + i, (k - i < BLOCK ? k - i : BLOCK) / GROUP);
}

/* Four inputs of 16 outputs, `i` fours behind the beginning of a block, as unsigned weights. */
INLINE void four_inputs(__m256i w[2], const uint8_t *codes, uint32_t i, enum layout layout) {
    const __m256i *at = (const __m256i *)(codes + (size_t)(layout == LAYOUT_NF4 ? i / 2 : i) * 64);
    const __m256i nibble = _mm256_set1_epi8(15), flip = _mm256_set1_epi8((char)0x80);
    const __m256i book =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)nf4_codebook));
#pragma GCC unroll 2
    for (uint32_t half = 0; half < 2; half++) {
        w[half] = _mm256_loadu_si256(at + half);
        if (layout == LAYOUT_NF4 && i % 2)
            w[half] = _mm256_srli_epi16(w[half], 4);
        if (layout == LAYOUT_NF4)
            w[half] = _mm256_shuffle_epi8(book, _mm256_and_si256(w[half], nibble));
        if (layout == LAYOUT_Q8)
            w[half] = _mm256_xor_si256(w[half], flip);
    }
}

INLINE __m256i word(const void *at) {
    int32_t value;
    memcpy(&value, at, sizeof(value));
    return _mm256_set1_epi32(value);
}

/* Group g of R rows, whose blocks are x[r], times 16 outputs. */
INLINE void multiply_group(block_sums sums[ROWS][2], const struct block *const x[ROWS], uint32_t g,
                           const uint8_t *codes, uint32_t i, const uint32_t R, enum layout layout) {
    group_sums group[ROWS][2];
#pragma GCC unroll 4
    for (uint32_t four = 0; four < GROUP / 4; four++) {
        __m256i w[2];
        four_inputs(w, codes, i + four, layout);
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++) {
            const __m256i inputs = word(x[r]->codes + (size_t)g * GROUP + 4 * four);
            if (four == 0)
                group[r][0] = group[r][1] = (group_sums)word(x[r]->starts[g]);
#pragma GCC unroll 2
            for (uint32_t half = 0; half < 2; half++) {
                group[r][half] = dot(group[r][half], w[half], inputs);
                /* Compilers would add in a tree, and keep its leaves in memory. */
                __asm__("" : "+x"(group[r][half]));
            }
        }
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < R; r++) {
        const __m256i factors = word(x[r]->factors[g]);
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++) {
            sums[r][half] = add_group(sums[r][half], group[r][half], factors);
            __asm__("" : "+x"(sums[r][half]));
        }
    }
}

/* Blocks [b0, b1) of a tile for some rows: `each` inputs a block, whose codes begin at `codes`. */
struct span {
    const uint8_t *codes;
    const uint16_t *scales;
    uint32_t b0, b1;
    const uint8_t *next; /* codes to be fetched meanwhile, or NULL */
};

/* What a span adds to R rows of 16 outputs at y; `each` and what follows it are constants after
 * inlining. */
INLINE void multiply_rows(float *y, size_t ldy, const char *x, size_t stride,
                          const struct span *span, const uint32_t each, const uint32_t R,
                          enum layout layout) {
    for (uint32_t b = span->b0; b < span->b1; b++) {
        const uint8_t *codes =
            span->codes + (size_t)(b - span->b0) * each * (layout == LAYOUT_NF4 ? 8 : 16);
        const __m128i *scales = (const __m128i *)(span->scales + (size_t)b * LORICA_TILE_ROWS);
        const __m256 unit = _mm256_set1_ps(each == LORICA_NF4_BLOCK ? 1 / NF4_FACTOR : 1);
        __m256 w_scale[2];
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++)
            w_scale[half] = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(scales + half)), unit);
        const struct block *at[ROWS];
        block_sums sums[ROWS][2];
        for (uint32_t i = 0; span->next && i < LORICA_TILE_BLOCK_NBYTES; i += 64)
            _mm_prefetch((const char *)span->next + (b - span->b0) * LORICA_TILE_BLOCK_NBYTES + i,
                         _MM_HINT_T0);
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++) {
            at[r] = (const struct block *)(x + r * stride) + b * each / BLOCK;
            sums[r][0] = sums[r][1] = (block_sums){0};
        }
#pragma GCC unroll 4
        for (uint32_t g = 0; g < each / GROUP; g++)
            multiply_group(sums, at, b * each % BLOCK / GROUP + g, codes, g * GROUP / 4, R, layout);
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++) {
            const __m256 step = _mm256_broadcast_ss(&at[r]->step);
#pragma GCC unroll 2
            for (uint32_t half = 0; half < 2; half++) {
                float *to = y + r * ldy + (size_t)half * 8;
                const __m256 sum = b == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(to);
                _mm256_storeu_ps(
                    to,
                    _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps((__m256i)sums[r][half]), step),
                                    w_scale[half], sum));
            }
        }
    }
}

/* The same for up to ROWS rows. */
INLINE void multiply_some(float *y, size_t ldy, const char *x, size_t stride, uint32_t rows,
                          const struct span *span, const uint32_t each, enum layout layout) {
    switch (rows) {
    case 0:
        break;
    case 1:
        multiply_rows(y, ldy, x, stride, span, each, 1, layout);
        break;
    case 2:
        multiply_rows(y, ldy, x, stride, span, each, 2, layout);
        break;
    case 3:
        multiply_rows(y, ldy, x, stride, span, each, 3, layout);
        break;
    default:
        multiply_rows(y, ldy, x, stride, span, each, ROWS, layout);
        break;
    }
}

/* Blocks of `each` inputs as unsigned bytes. */
INLINE void decode(__m256i *to, const uint8_t *codes, uint32_t blocks, const uint32_t each,
                   enum layout layout) {
    for (uint32_t b = 0; b < blocks; b++, codes += LORICA_TILE_BLOCK_NBYTES)
#pragma GCC unroll 16
        for (uint32_t four = 0; four < each / 4; four++, to += 2) {
            __m256i w[2];
            four_inputs(w, codes, four, layout);
            to[0] = w[0];
            to[1] = w[1];
        }
}

/* A tile for many rows: decoded once, chunk by chunk. */
INLINE void tile_decoded(float *y, size_t ldy, const char *x, size_t stride, uint32_t rows,
                         const uint8_t *codes, const uint16_t *scales, uint32_t blocks,
                         const uint32_t each, enum layout layout) {
    __m256i w[CHUNK / 2];
    const uint32_t chunk = CHUNK / each;
    for (uint32_t b0 = 0; b0 < blocks; b0 += chunk) {
        const uint32_t b1 = blocks - b0 < chunk ? blocks : b0 + chunk;
        struct span span = {(const uint8_t *)w, scales, b0, b1,
                            codes + (size_t)b1 * LORICA_TILE_BLOCK_NBYTES};
        decode(w, codes + (size_t)b0 * LORICA_TILE_BLOCK_NBYTES, b1 - b0, each, layout);
        for (uint32_t r = 0; r < rows; r += ROWS, span.next = NULL)
            multiply_some(y + r * ldy, ldy, x + r * stride, stride, rows - r, &span, each,
                          LAYOUT_DECODED);
    }
}

INLINE void product(float *y, size_t ldy, const char *x, size_t stride, uint32_t rows,
                    const struct lorica_linear *w, uint32_t tile0, uint32_t tile1,
                    const uint32_t each, enum layout layout) {
    const uint32_t blocks = w->k / each;
    for (uint32_t t = tile0; t < tile1; t++) {
        const uint8_t *codes =
            (const uint8_t *)w->codes + (size_t)t * blocks * LORICA_TILE_BLOCK_NBYTES;
        const uint16_t *scales = w->scales + (size_t)t * blocks * LORICA_TILE_ROWS;
        const struct span span = {codes, scales, 0, blocks, codes + PREFETCH};
        float *out = y + (size_t)t * LORICA_TILE_ROWS;
        if (rows <= ROWS)
            multiply_some(out, ldy, x, stride, rows, &span, each, layout);
        else
            tile_decoded(out, ldy, x, stride, rows, codes, scales, blocks, each, layout);
    }
}

static void linear_nf4(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                       const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, LORICA_NF4_BLOCK, LAYOUT_NF4);
}

static void linear_q8(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                      const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, LORICA_Q8_BLOCK, LAYOUT_Q8);
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

#define PEAK_SUMS 4

static double peak(uint64_t rounds) {
    block_sums sums[PEAK_SUMS];
    __m256i w = _mm256_set1_epi8(3), x = w;
#pragma GCC unroll 4
    for (int i = 0; i < PEAK_SUMS; i++)
        sums[i] = (block_sums){0};
    for (uint64_t r = 0; r < rounds; r++) {
        group_sums group[PEAK_SUMS];
        __asm__ volatile("" : "+x"(w), "+x"(x)); /* nothing may be computed once for all rounds */
#pragma GCC unroll 4
        for (int i = 0; i < PEAK_SUMS; i++)
            group[i] = (group_sums)x;
#pragma GCC unroll 4
        for (int four = 0; four < GROUP / 4; four++)
#pragma GCC unroll 4
            for (int i = 0; i < PEAK_SUMS; i++) {
                __asm__ volatile("" : "+x"(x));
                group[i] = dot(group[i], w, x);
                __asm__ volatile("" : "+x"(group[i]));
            }
#pragma GCC unroll 4
        for (int i = 0; i < PEAK_SUMS; i++)
            sums[i] = add_group(sums[i], group[i], x);
    }
#pragma GCC unroll 4
    for (int i = 0; i < PEAK_SUMS; i++)
        __asm__ volatile("" : : "x"(sums[i]));
    return (double)rounds * PEAK_SUMS * GROUP * 16;
}

void lorica_linear_kernels_avx2(struct lorica_linear_kernels *kernels) {
    *kernels = (struct lorica_linear_kernels){
        .act_nbytes = act_nbytes,
        .act_quantise = act_quantise,
        .nf4 = linear_nf4,
        .q8 = linear_q8,
        .dense = linear_dense,
        .peak = peak,
        .peak_form = "int8 (4 vpmaddubsw, 4 vpaddw, vpmaddwd, vpaddd)",
    };
}
