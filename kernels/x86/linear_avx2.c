/* SPDX-License-Identifier: MIT
 * Products of int8, whose sums stay in int16 for 16 inputs: vpmaddubsw multiplies unsigned weights
 * by signed activations and adds two inputs, and eight products of a row and a weight go to a lane
 * of int16 before vpmaddwd widens them. That is 5 multiplications and 10 instructions for 128
 * products, where int16 operands take 8 and 16.
 *
 * No lane overflows, by the choice of the activations' steps. One lane sums the inputs 0 1 4 5 8 9
 * 12 13 of a group of 16, its neighbour the others. With codes c of the activations and w of the
 * weights, which are unsigned:
 *
 *   |c0| + |c1| <= 128 for each pair: two products do not saturate (128 * 255 < 2^15)
 *   sum |c| <= 255 for each lane: nor does the sum of w * c in the end (255 * 128 < 2^15)
 *
 * A lane begins at minus its codes' sum times the byte that stands for a weight of 0, which is kept
 * with the row for either format, and may wrap around on its way. vpmaddwd multiplies each lane by
 * a factor up to 8191: so every eight inputs have a step of their own at no cost, that many times
 * the step of their row. Eight lanes at most make a sum of a block, which stays below 2^31 (8 * 255
 * * 128 * 8191).
 *
 * An output is the sum of its blocks in ascending order, whatever the number of rows and tiles:
 * sum = fma(block's sum, weights' scale, sum), in the end times the row's step. AVX-VNNI brings
 * nothing: vpdpwssd widens and adds in one instruction, but measured slower here, and vpdpbusd
 * would add inputs of different steps. */
#include <immintrin.h>
#include <stdbool.h>
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
#define MOST_STEPS 8191.0f
/* Rows whose least step is below this count as 0. */
#define LEAST 0x1p-107f
/* How far ahead of the products of a few rows the codes are fetched. */
#define PREFETCH 2048
/* Inputs of a tile that are decoded at a time when many rows share them: 9 KB. */
#define CHUNK 576
/* Rows that share each register of weights; up to so many take the weights from memory to the
 * product without a stop. */
#define ROWS 4

/* How the bytes of weights lie. */
enum layout {
    LAYOUT_NF4,         /* tiled NF4 */
    LAYOUT_Q8,          /* tiled int8 */
    LAYOUT_NF4_DECODED, /* either as unsigned bytes in Q8's order */
    LAYOUT_Q8_DECODED
};

INLINE bool is_nf4(enum layout layout) {
    return layout == LAYOUT_NF4 || layout == LAYOUT_NF4_DECODED;
}

/* 64 inputs of a quantised row. What is past its end is 0. */
struct block {
    int8_t codes[BLOCK];
    int16_t q8_starts[GROUPS][2]; /* what the lanes of a group begin at, with either format */
    int16_t nf4_starts[GROUPS][2];
    int16_t factors[GROUPS][2];
};

struct row {
    float step;
    uint32_t padding[3];
    struct block blocks[];
};

static size_t act_nbytes(uint32_t k) {
    const size_t blocks = ((size_t)k + BLOCK - 1) / BLOCK;
    return (sizeof(struct row) + blocks * sizeof(struct block) + 63) / 64 * 64;
}

/* Sums in lanes. In the types of the adds themselves: gcc keeps a copy of one that changes its
 * type. */
typedef int32_t block_sums __attribute__((vector_size(32)));
typedef int16_t group_sums __attribute__((vector_size(32)));

/* In place, and in this order: compilers would add in a tree, and keep its leaves in memory. */
INLINE group_sums dot(group_sums sums, __m256i w, __m256i x) {
    __m256i products;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
            : "+x"(sums), "=x"(products)
            : "x"(w), "x"(x));
    return sums;
}

INLINE block_sums add_group(block_sums sums, group_sums group, __m256i factors) {
    return sums + (block_sums)_mm256_madd_epi16((__m256i)group, factors);
}

/* Of each group of a block 8 values, two of which belong to each lane: the larger of them, or their
 * sum, makes [0 0 2 2 | 1 1 3 3], lanes of groups. */
struct lanes {
    __m256 even, odd; /* of groups 0 and 2 | 1 and 3 */
};

INLINE struct lanes lanes_of(__m256 g01, __m256 g23) {
    const __m256d a = _mm256_castps_pd(g01), b = _mm256_castps_pd(g23);
    return (struct lanes){_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                          _mm256_castpd_ps(_mm256_unpackhi_pd(a, b))};
}

/* Sums of pairs of magnitudes of 16 values. */
INLINE __m256 pairs_of(const float *x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return _mm256_hadd_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x)),
                          _mm256_andnot_ps(sign, _mm256_loadu_ps(x + 8)));
}

/* The smallest steps with which the lanes of a block do not overflow. Those of a group where a
 * value is not finite are not, either. */
INLINE __m256 least_steps(const float *x) {
    __m256 most[2], both[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m256 p = pairs_of(x + 2 * i * GROUP), q = pairs_of(x + (2 * i + 1) * GROUP);
        const __m256 a = _mm256_permute2f128_ps(p, q, 0x20), b = _mm256_permute2f128_ps(p, q, 0x31);
        most[i] = _mm256_max_ps(a, b);
        both[i] = _mm256_add_ps(a, b);
    }
    const struct lanes pairs = lanes_of(most[0], most[1]), sums = lanes_of(both[0], both[1]);
    /* A maximum with NaN is its second operand. */
    return _mm256_max_ps(
        _mm256_mul_ps(_mm256_max_ps(pairs.even, pairs.odd), _mm256_set1_ps(1 / PAIR_STEPS)),
        _mm256_mul_ps(_mm256_add_ps(sums.even, sums.odd), _mm256_set1_ps(1 / LANE_STEPS)));
}

/* The largest of eight values, or NaN when not all are finite. */
INLINE float top_of(__m256 v) {
    const __m256 zeros = _mm256_mul_ps(v, _mm256_setzero_ps());
    __m128 top = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    top = _mm_max_ps(top, _mm_movehl_ps(top, top));
    top = _mm_max_ss(top, _mm_movehdup_ps(top));
    const bool finite = !_mm256_movemask_ps(_mm256_cmp_ps(zeros, zeros, _CMP_UNORD_Q));
    return finite ? _mm_cvtss_f32(top) : __builtin_nanf("");
}

/* 16 values as words. */
INLINE __m256i words_of(const float *x, __m256 by) {
    return _mm256_permute4x64_epi64(
        _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), by)),
                           _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), by))),
        0xd8);
}

/* Whole numbers of the lanes, which come as those of groups [0 0 2 2 | 1 1 3 3], in order. */
INLINE void put_lanes(int16_t to[GROUPS][2], __m256 lanes) {
    const __m256i whole = _mm256_cvtps_epi32(lanes);
    const __m128i even = _mm256_castsi256_si128(whole), odd = _mm256_extracti128_si256(whole, 1);
    _mm_storeu_si128((__m128i *)to,
                     _mm_packs_epi32(_mm_unpacklo_epi64(even, odd), _mm_unpackhi_epi64(even, odd)));
}

/* The codes of 64 values, with `factors` times the row's step for each lane as least_steps has
 * them, and what the lanes begin at. */
INLINE void quantise_lanes(struct block *block, const float *x, __m256 factors, float inverse) {
    const __m256 each = _mm256_div_ps(_mm256_set1_ps(inverse), factors);
    __m256i pairs[GROUPS];
#pragma GCC unroll 4
    for (int g = 0; g < GROUPS; g++) {
        const int at = g % 2 * 4 + g / 2 * 2;
        const __m256i index = _mm256_setr_epi32(at, at, at + 1, at + 1, at, at, at + 1, at + 1);
        const __m256i words = words_of(x + g * GROUP, _mm256_permutevar8x32_ps(each, index));
        pairs[g] = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
        _mm_storeu_si128(
            (__m128i *)(block->codes + g * GROUP),
            _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
    __m256i sums[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        sums[i] = _mm256_add_epi32(_mm256_permute2x128_si256(pairs[2 * i], pairs[2 * i + 1], 0x20),
                                   _mm256_permute2x128_si256(pairs[2 * i], pairs[2 * i + 1], 0x31));
    const __m256 all = _mm256_cvtepi32_ps(_mm256_add_epi32(
        _mm256_unpacklo_epi64(sums[0], sums[1]), _mm256_unpackhi_epi64(sums[0], sums[1])));
    put_lanes(block->q8_starts, _mm256_mul_ps(all, _mm256_set1_ps(-LORICA_Q8_ZERO)));
    put_lanes(block->nf4_starts, _mm256_mul_ps(all, _mm256_set1_ps(-LORICA_NF4_ZERO)));
    put_lanes(block->factors, factors);
}

/* Where the least steps of a block are kept until those of all are known. */
static float *steps_of(struct block *block) { return (float *)(void *)block->codes; }

/* The larger magnitudes, of which NaN is the largest. */
INLINE __m256 larger(__m256 top, __m256 v) {
    return _mm256_castsi256_ps(_mm256_max_epi32(
        _mm256_castps_si256(top), _mm256_castps_si256(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), v))));
}

/* Finds the least steps of a row's blocks, and the largest of these. */
static float find_steps(struct row *row, const float *x, uint32_t blocks, const float *rest) {
    __m256 top = _mm256_setzero_ps();
    for (uint32_t b = 0; b < blocks; b++) {
        const __m256 steps = least_steps(rest && b + 1 == blocks ? rest : x + (size_t)b * BLOCK);
        _mm256_storeu_ps(steps_of(&row->blocks[b]), steps);
        top = larger(top, steps);
    }
    return top_of(top);
}

static void quantise_block(struct block *block, const float *x, float inverse) {
    const __m256 steps = _mm256_loadu_ps(steps_of(block));
    quantise_lanes(
        block, x,
        _mm256_min_ps(_mm256_max_ps(_mm256_ceil_ps(_mm256_mul_ps(steps, _mm256_set1_ps(inverse))),
                                    _mm256_set1_ps(1)),
                      _mm256_set1_ps(MOST_STEPS)),
        inverse);
}

static void act_quantise(void *dst, const float *x, uint32_t k) {
    struct row *row = dst;
    const uint32_t blocks = (k + BLOCK - 1) / BLOCK, odd = k % BLOCK;
    float rest[BLOCK] = {0};
    if (odd)
        memcpy(rest, x + (k - odd), odd * sizeof(*x));
    const float most = find_steps(row, x, blocks, odd ? rest : NULL), inverse = MOST_STEPS / most;
    if (!(most >= LEAST)) {
        memset(row->blocks, 0, blocks * sizeof(*row->blocks));
        row->step = most < LEAST ? 0 : most;
        return;
    }
    row->step = most / MOST_STEPS;
    for (uint32_t b = 0; b < blocks; b++)
        quantise_block(&row->blocks[b], odd && b + 1 == blocks ? rest : x + (size_t)b * BLOCK,
                       inverse);
}

/* Four inputs of 16 outputs, `i` fours behind the beginning of a block, as unsigned weights. */
INLINE void four_inputs(__m256i w[2], const uint8_t *codes, uint32_t i, enum layout layout) {
    const __m256i *at = (const __m256i *)(codes + (size_t)(layout == LAYOUT_NF4 ? i / 2 : i) * 64);
    const __m256i nibble = _mm256_set1_epi8(15), flip = _mm256_set1_epi8((char)0x80);
    const __m256i book =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)lorica_nf4_bytes));
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
        /* Left to itself gcc reads them again for each row, which alone Q8 as it lies is faster
         * with. */
        if (layout != LAYOUT_Q8)
            __asm__("" : "+x"(w[0]), "+x"(w[1]));
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++) {
            const __m256i inputs = word(x[r]->codes + (size_t)g * GROUP + 4 * four);
            if (four == 0)
                group[r][0] = group[r][1] =
                    (group_sums)word(is_nf4(layout) ? x[r]->nf4_starts[g] : x[r]->q8_starts[g]);
#pragma GCC unroll 2
            for (uint32_t half = 0; half < 2; half++)
                group[r][half] = dot(group[r][half], w[half], inputs);
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
    bool last;           /* there are no blocks behind these */
    bool add;            /* to what is there, with the first block, too */
};

/* What is added to other products has the step in every block. */
INLINE bool is_turned(uint32_t each, enum layout layout) {
    return !is_nf4(layout) && each == LORICA_TURN_BLOCK;
}

/* What R rows of 16 outputs at y lack, once they have all blocks. */
INLINE void scale_rows_by_step(float *y, size_t ldy, const char *x, size_t stride, const uint32_t R,
                               enum layout layout) {
#pragma GCC unroll 4
    for (uint32_t r = 0; r < R; r++) {
        const float step = ((const struct row *)(x + r * stride))->step;
        const __m256 by = _mm256_set1_ps(is_nf4(layout) ? step * (1 / LORICA_NF4_FACTOR) : step);
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++) {
            float *to = y + r * ldy + (size_t)half * 8;
            _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_loadu_ps(to), by));
        }
    }
}

/* What a span adds to R rows of 16 outputs at y; `each` and what follows it are constants after
 * inlining. */
INLINE void multiply_rows(float *y, size_t ldy, const char *x, size_t stride,
                          const struct span *span, const uint32_t each, const uint32_t R,
                          enum layout layout) {
    for (uint32_t b = span->b0; b < span->b1; b++) {
        const uint8_t *codes =
            span->codes + (size_t)(b - span->b0) * each * (layout == LAYOUT_NF4 ? 8 : 16);
        const __m128i *scales = (const __m128i *)(span->scales + (size_t)b * LORICA_TILE_ROWS);
        const struct block *at[ROWS];
        block_sums sums[ROWS][2];
        for (uint32_t i = 0; span->next && i < LORICA_TILE_BLOCK_NBYTES; i += 64)
            _mm_prefetch((const char *)span->next + (b - span->b0) * LORICA_TILE_BLOCK_NBYTES + i,
                         _MM_HINT_T0);
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++) {
            at[r] = ((const struct row *)(x + r * stride))->blocks + b * each / BLOCK;
            sums[r][0] = sums[r][1] = (block_sums){0};
        }
#pragma GCC unroll 4
        for (uint32_t g = 0; g < each / GROUP; g++)
            multiply_group(sums, at, b * each % BLOCK / GROUP + g, codes, g * GROUP / 4, R, layout);
        __m256 w_scale[2];
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++)
            w_scale[half] = _mm256_cvtph_ps(_mm_loadu_si128(scales + half));
#pragma GCC unroll 4
        for (uint32_t r = 0; r < R; r++) {
            const __m256 step = _mm256_broadcast_ss(&((const struct row *)(x + r * stride))->step);
#pragma GCC unroll 2
            for (uint32_t half = 0; half < 2; half++) {
                float *to = y + r * ldy + (size_t)half * 8;
                const __m256 sum = b == 0 && !span->add ? _mm256_setzero_ps() : _mm256_loadu_ps(to);
                __m256 more = _mm256_cvtepi32_ps((__m256i)sums[r][half]);
                if (is_turned(each, layout))
                    more = _mm256_mul_ps(more, step);
                _mm256_storeu_ps(to, _mm256_fmadd_ps(more, w_scale[half], sum));
            }
        }
    }
    if (span->last && !is_turned(each, layout))
        scale_rows_by_step(y, ldy, x, stride, R, layout);
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
    for (uint32_t b = 0; b < blocks; b++, codes += (size_t)each * (layout == LAYOUT_NF4 ? 8 : 16))
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
                         const struct span *whole, const uint32_t each, enum layout layout) {
    __m256i w[CHUNK / 2];
    const uint32_t chunk = CHUNK / each;
    const size_t nbytes = (size_t)each * (layout == LAYOUT_NF4 ? 8 : 16);
    for (uint32_t b0 = 0; b0 < whole->b1; b0 += chunk) {
        struct span span = *whole;
        span.codes = (const uint8_t *)w;
        span.b0 = b0;
        span.b1 = whole->b1 - b0 < chunk ? whole->b1 : b0 + chunk;
        span.last = span.b1 == whole->b1;
        span.next = whole->codes + span.b1 * nbytes;
        decode(w, whole->codes + b0 * nbytes, span.b1 - b0, each, layout);
        for (uint32_t r = 0; r < rows; r += ROWS, span.next = NULL)
            multiply_some(y + r * ldy, ldy, x + r * stride, stride, rows - r, &span, each,
                          layout == LAYOUT_NF4 ? LAYOUT_NF4_DECODED : LAYOUT_Q8_DECODED);
    }
}

INLINE void product(float *y, size_t ldy, const char *x, size_t stride, uint32_t rows,
                    const struct lorica_linear *w, uint32_t tile0, uint32_t tile1,
                    const uint32_t each, enum layout layout, bool add) {
    const uint32_t blocks = w->k / each;
    for (uint32_t t = tile0; t < tile1; t++) {
        const uint8_t *codes =
            (const uint8_t *)w->codes + (size_t)t * blocks * each * (layout == LAYOUT_NF4 ? 8 : 16);
        const struct span span = {.codes = codes,
                                  .scales = w->scales + (size_t)t * blocks * LORICA_TILE_ROWS,
                                  .b1 = blocks,
                                  .next = codes + PREFETCH,
                                  .last = true,
                                  .add = add};
        float *out = y + (size_t)t * LORICA_TILE_ROWS;
        if (rows <= ROWS)
            multiply_some(out, ldy, x, stride, rows, &span, each, layout);
        else
            tile_decoded(out, ldy, x, stride, rows, &span, each, layout);
    }
}

static void linear_nf4(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                       const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, LORICA_NF4_BLOCK, LAYOUT_NF4, false);
}

static void linear_q8(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                      const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, LORICA_Q8_BLOCK, LAYOUT_Q8, false);
}

static void linear_turned(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                          const struct lorica_linear *w, bool add) {
    product(y, ldy, xq, xq_stride, rows, w, 0, w->n / LORICA_TILE_ROWS, LORICA_TURN_BLOCK,
            LAYOUT_Q8, add);
}

/* -- turning -- */

#define TURN_TILES (LORICA_TURN_BLOCK / LORICA_TILE_ROWS)

/* Sixteen words of four columns: of rows 0 1 4 5 and 2 3 6 7 of eight. */
struct words {
    __m256i half[2];
};

/* Eight rows of four columns, each row behind the other, as steps in low and high bytes, times the
 * factors of their rows. */
INLINE struct words scale_rows(__m256i low, __m256i high, __m256i factors) {
    const __m256i first = _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 8, 9, 8,
                                           9, 8, 9, 8, 9, 10, 11, 10, 11, 10, 11, 10, 11);
    const __m256i second = _mm256_add_epi8(first, _mm256_set1_epi8(4));
    return (struct words){
        {_mm256_mulhrs_epi16(_mm256_unpacklo_epi8(low, high), _mm256_shuffle_epi8(factors, first)),
         _mm256_mulhrs_epi16(_mm256_unpackhi_epi8(low, high),
                             _mm256_shuffle_epi8(factors, second))}};
}

/* Rows of four columns as columns of four rows: they go to two fours of a block, 64 bytes apart. */
INLINE void put_fours(int8_t *to, __m256i rows) {
    const __m256i turn = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m256i fours = _mm256_shuffle_epi8(rows, turn);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(fours));
    _mm_storeu_si128((__m128i *)(to + 64), _mm256_extracti128_si256(fours, 1));
}

/* 16 columns from `codes` on of 16 rows, whose factors are given eight by eight, as words: those of
 * four columns of the first eight rows, of the others, of four columns more. */
INLINE void turn_tile(struct words *to, const uint8_t *codes, const __m256i factors[2], bool nf4) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i bytes =
        _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1, 0, 2, 4, 6, 8,
                         10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i steps = _mm256_loadu_si256((const __m256i *)lorica_nf4_steps);
    const __m256i low_book = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(steps, bytes), 0x88);
    const __m256i high_book =
        _mm256_permute4x64_epi64(_mm256_shuffle_epi8(_mm256_srli_epi16(steps, 8), bytes), 0x88);
    for (size_t group = 0; group < 4; group++) /* of four columns */
        for (size_t half = 0; half < 2; half++) {
            const uint8_t *at = codes + (nf4 ? group / 2 : group) * 64 + half * 32;
            __m256i v = _mm256_loadu_si256((const __m256i *)at), low = _mm256_setzero_si256();
            if (nf4) {
                v = _mm256_and_si256(group % 2 ? _mm256_srli_epi16(v, 4) : v, nibble);
                low = _mm256_shuffle_epi8(low_book, v);
                v = _mm256_shuffle_epi8(high_book, v);
            }
            to[group * 2 + half] = scale_rows(low, v, factors[half]);
        }
}

/* The largest magnitudes of four columns, in each quarter of the result. */
INLINE __m256i largest_words(const struct words *words, uint32_t tiles) {
    __m256i most = _mm256_setzero_si256();
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t i = 0; i < 4; i++)
            most = _mm256_max_epi16(most, _mm256_abs_epi16(words[t * 8 + i / 2].half[i % 2]));
    most = _mm256_max_epi16(most, _mm256_permute4x64_epi64(most, 0x4e));
    return _mm256_max_epi16(most, _mm256_shuffle_epi32(most, 0x4e));
}

/* Sixteen columns' factors that bring their largest words to 127, and the scales of such codes. */
INLINE __m256i column_factors(uint16_t *scales, __m256i most, float unit) {
    __m256i factors[2];
    for (uint32_t i = 0; i < 2; i++) {
        const __m256i wide = _mm256_cvtepi16_epi32(i ? _mm256_extracti128_si256(most, 1)
                                                     : _mm256_castsi256_si128(most));
        const __m256 enough =
            _mm256_div_ps(_mm256_set1_ps(LORICA_TURN_CODES), _mm256_cvtepi32_ps(wide));
        factors[i] = _mm256_cvttps_epi32(_mm256_min_ps(enough, _mm256_set1_ps(32767)));
        _mm_storeu_si128(
            (__m128i *)(scales + (size_t)8 * i),
            _mm256_cvtps_ph(_mm256_div_ps(_mm256_set1_ps(unit), _mm256_cvtepi32_ps(factors[i])),
                            _MM_FROUND_TO_NEAREST_INT));
    }
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(factors[0], factors[1]), 0xd8);
}

/* Words of `tiles` times 16 rows and 16 columns as codes. */
INLINE void put_codes(int8_t *codes, uint16_t *scales, const struct words *words, uint32_t tiles,
                      float unit) {
    const __m256i low =
        _mm256_unpacklo_epi64(largest_words(words, tiles), largest_words(words + 2, tiles));
    const __m256i high =
        _mm256_unpacklo_epi64(largest_words(words + 4, tiles), largest_words(words + 6, tiles));
    const __m256i all = column_factors(scales, _mm256_blend_epi32(low, high, 0xf0), unit);
    const __m256i factors[4] = {
        _mm256_permute4x64_epi64(all, 0x00), _mm256_permute4x64_epi64(all, 0x55),
        _mm256_permute4x64_epi64(all, 0xaa), _mm256_permute4x64_epi64(all, 0xff)};
    for (size_t t = 0; t < tiles; t++)
        for (size_t i = 0; i < 8; i++) {
            const struct words *from = &words[t * 8 + i];
            put_fours(codes + t * 256 + i % 2 * 128 + i / 2 * 16,
                      _mm256_packs_epi16(_mm256_mulhrs_epi16(from->half[0], factors[i / 2]),
                                         _mm256_mulhrs_epi16(from->half[1], factors[i / 2])));
        }
    memset(codes + (size_t)tiles * 256, 0, (size_t)(TURN_TILES - tiles) * 256);
}

/* Where the scales and codes of 16 rows' 16 columns lie. */
struct source {
    const uint16_t *scales;
    const uint8_t *codes;
};

static struct source source_of(const struct lorica_linear *w, uint32_t row, uint32_t col) {
    const bool nf4 = w->format == LORICA_FORMAT_NF4;
    const uint32_t block = nf4 ? LORICA_NF4_BLOCK : LORICA_Q8_BLOCK;
    const size_t at = (size_t)(row / LORICA_TILE_ROWS) * (w->k / block) + col / block;
    return (struct source){w->scales + at * LORICA_TILE_ROWS,
                           (const uint8_t *)w->codes + at * LORICA_TILE_BLOCK_NBYTES +
                               (size_t)(col % block) * (nf4 ? 8 : 16)};
}

static float largest_of(__m256 x) {
    __m128 top = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    top = _mm_max_ps(top, _mm_movehl_ps(top, top));
    return _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
}

static void turn(int8_t *codes, uint16_t *scales, const struct lorica_linear *w, const float *by,
                 uint32_t row, uint32_t col) {
    const bool nf4 = w->format == LORICA_FORMAT_NF4;
    const uint32_t left = row < w->n ? (w->n - row + LORICA_TILE_ROWS - 1) / LORICA_TILE_ROWS : 0;
    const uint32_t tiles = left < TURN_TILES ? left : TURN_TILES;
    struct source from[TURN_TILES];
    __m256 of[2 * TURN_TILES], top = _mm256_setzero_ps();
    for (uint32_t i = 0; i < 2 * tiles; i++) {
        if (i % 2 == 0)
            from[i / 2] = source_of(w, row + i / 2 * LORICA_TILE_ROWS, col);
        of[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from[i / 2].scales) + i % 2));
        if (by)
            of[i] = _mm256_mul_ps(of[i], _mm256_loadu_ps(by + row + (size_t)8 * i));
        top = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), of[i]), top);
    }
    const float largest = largest_of(top);
    const __m256 inverse = _mm256_set1_ps(largest > 0 ? 32767.0f / largest : 0);
    struct words words[8 * TURN_TILES];
    for (uint32_t t = 0; t < tiles; t++) {
        __m256i factors[2];
        for (uint32_t i = 0; i < 2; i++) {
            const __m256i eight = _mm256_cvtps_epi32(
                _mm256_min_ps(_mm256_mul_ps(of[2 * t + i], inverse), _mm256_set1_ps(32767)));
            factors[i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(eight, eight), 0x88);
        }
        if (nf4)
            turn_tile(words + (size_t)8 * t, from[t].codes, factors, true);
        else
            turn_tile(words + (size_t)8 * t, from[t].codes, factors, false);
    }
    put_codes(codes, scales, words, tiles, largest * (LORICA_TURN_UNIT / (nf4 ? 32767 : 256)));
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
        .turn = turn,
        .turned = linear_turned,
        .peak = peak,
        .peak_form = "int8 (4 vpmaddubsw, 4 vpaddw, vpmaddwd, vpaddd)",
    };
}
