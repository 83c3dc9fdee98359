/* SPDX-License-Identifier: MIT
 * int16 activations of 13 bits and a sign, a scale for every 32 inputs; NF4 codes as int16 of the
 * same width, looked up a byte at a time; vpmaddwd. It does as many products per instruction as the
 * int8 way (vpsignb, vpmaddubsw, vpmaddwd), and rounds 64 times finer. Sums of 32 products are
 * exact integers (32 * 8191 * 8191 < 2^31), and meet float32 in the order of the blocks: so a
 * result does not depend on how many rows are computed together. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/x86/exp_avx2.h"

#define BLOCK 32
#define TILE_BLOCK_BYTES 512
#define HALF_TILE 8
#define PREFETCH 2048
/* Largest magnitude of activations and of codes. */
#define STEPS 8191.0f
/* Vectors of a 32-block for half a tile: 8 groups of 4 inputs, rows 0 1 4 5 and rows 2 3 6 7. */
#define BLOCK_VECTORS 16
/* Inputs that are decoded at a time when several rows share them: 32 KB of int16. */
#define CHUNK 2048

/* A quantised row: k int16, then k/32 scales. */
struct act {
    const int16_t *q;
    const float *scale;
};

static struct act act_at(const void *xq, size_t stride, uint32_t row, uint32_t k) {
    const char *base = (const char *)xq + row * stride;
    return (struct act){(const int16_t *)base, (const float *)(base + (size_t)k * 2)};
}

static size_t act_nbytes_avx2(uint32_t k) { return ((size_t)k * 2 + k / BLOCK * 4 + 63) / 64 * 64; }

static void act_quantise_avx2(void *dst, const float *x, uint32_t k) {
    int16_t *q = dst;
    float *scale = (float *)((char *)dst + (size_t)k * 2);
    const __m256 sign = _mm256_set1_ps(-0.0f), huge = _mm256_set1_ps(3.4028235e38f);
    for (uint32_t b = 0; b < k / BLOCK; b++, x += BLOCK, q += BLOCK) {
        __m256 v[4], top = _mm256_setzero_ps(), fine = _mm256_cmp_ps(top, top, _CMP_EQ_OQ);
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            const __m256 magnitude = _mm256_andnot_ps(sign, v[i]);
            top = _mm256_max_ps(top, magnitude);
            fine = _mm256_and_ps(fine, _mm256_cmp_ps(magnitude, huge, _CMP_LE_OQ));
        }
        float lanes[8], max = 0;
        _mm256_storeu_ps(lanes, top);
        for (int i = 0; i < 8; i++)
            max = lanes[i] > max ? lanes[i] : max;
        const int finite = _mm256_movemask_ps(fine) == 0xff;
        const float inverse = !finite || max < 1e-30f ? 0 : STEPS / max;
        /* NaN and infinities must come out as NaN: by the scale, since integers cannot carry them.
         */
        scale[b] = !finite ? __builtin_nanf("") : inverse == 0 ? 0 : max / STEPS;
        __m256i w[4];
        for (int i = 0; i < 4; i++)
            w[i] = finite ? _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)))
                          : _mm256_setzero_si256();
        for (int i = 0; i < 2; i++)
            _mm256_storeu_si256(
                (__m256i *)(q + 16 * i),
                _mm256_permute4x64_epi64(_mm256_packs_epi32(w[2 * i], w[2 * i + 1]), 0xd8));
    }
}

/* The NF4 codes as int16, their low bytes and their high bytes, for both halves of a register. */
struct tables {
    __m256i low, high;
};

static struct tables code_tables(void) {
    uint8_t low[16], high[16];
    for (int i = 0; i < 16; i++) {
        const float value = STEPS * lorica_nf4_table[i];
        const int16_t code = (int16_t)(value < 0 ? value - 0.5f : value + 0.5f);
        low[i] = (uint8_t)((uint16_t)code & 255);
        high[i] = (uint8_t)((uint16_t)code >> 8);
    }
    return (struct tables){_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                           _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high))};
}

/* Four inputs of eight rows as int16 from four-bit codes. */
static inline __attribute__((always_inline)) void nf4_group(__m256i w[2], __m256i index,
                                                            struct tables tables) {
    const __m256i low = _mm256_shuffle_epi8(tables.low, index);
    const __m256i high = _mm256_shuffle_epi8(tables.high, index);
    w[0] = _mm256_unpacklo_epi8(low, high);
    w[1] = _mm256_unpackhi_epi8(low, high);
}

/* Group g (of 8) of a 32-block of NF4: groups come in pairs, low nibbles and high nibbles. */
static inline __attribute__((always_inline)) void nf4_pair(__m256i w[4], const uint8_t *codes,
                                                           struct tables tables) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i pair = _mm256_loadu_si256((const __m256i *)codes);
    nf4_group(w, _mm256_and_si256(pair, nibble), tables);
    nf4_group(w + 2, _mm256_and_si256(_mm256_srli_epi16(pair, 4), nibble), tables);
}

static inline __attribute__((always_inline)) void q8_group(__m256i w[2], const uint8_t *codes) {
    const __m256i v = _mm256_loadu_si256((const __m256i *)codes);
    w[0] = _mm256_srai_epi16(_mm256_unpacklo_epi8(v, v), 8);
    w[1] = _mm256_srai_epi16(_mm256_unpackhi_epi8(v, v), 8);
}

static inline __attribute__((always_inline)) void
decode_block(__m256i w[BLOCK_VECTORS], const uint8_t *codes, struct tables tables, const int nf4) {
    for (int i = 0; i < 4; i++) {
        if (nf4) {
            nf4_pair(w + 4 * i, codes + 64 * i, tables);
        } else {
            q8_group(w + 4 * i, codes + 128 * i);
            q8_group(w + 4 * i + 2, codes + 128 * i + 64);
        }
    }
}

/* Inputs 4g..4g+3 of a block, in every 64-bit lane. */
static inline __m256i four_inputs(const int16_t *q, int g) {
    long long four;
    memcpy(&four, q + 4 * g, sizeof(four));
    return _mm256_set1_epi64x(four);
}

/* A block's integer sums become float: eight rows in order. */
static inline __m256 block_sum(__m256i a, __m256i b, float scale, __m256 step, __m256 sum) {
    const __m256 dot = _mm256_cvtepi32_ps(_mm256_hadd_epi32(a, b));
    return _mm256_fmadd_ps(_mm256_mul_ps(dot, _mm256_set1_ps(scale)), step, sum);
}

static inline __m256 load_scales(const uint16_t *scales) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)scales));
}

/* Where block b of half a tile lies. */
static inline const uint8_t *block_codes(const uint8_t *codes, uint32_t b, const int nf4) {
    return codes + (size_t)b * (nf4 ? TILE_BLOCK_BYTES / 2 : TILE_BLOCK_BYTES);
}
static inline const uint16_t *block_scales(const uint16_t *scales, uint32_t b, const int nf4) {
    return scales + (size_t)(nf4 ? b / 2 : b) * LORICA_TILE_ROWS;
}

/* Half a tile for one row: weights go from memory to the product without a stop. */
static inline __attribute__((always_inline)) void half_one(float *y, struct act x,
                                                           const uint8_t *codes,
                                                           const uint16_t *scales, uint32_t k,
                                                           const int nf4, struct tables tables) {
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t b = 0; b < k / BLOCK; b++) {
        const uint8_t *at = block_codes(codes, b, nf4);
        const int16_t *q = x.q + (size_t)b * BLOCK;
        __m256i a = _mm256_setzero_si256(), c = a;
        for (int i = 0; i < 4; i++) {
            __m256i w[4];
            if (nf4) {
                nf4_pair(w, at + 64 * i, tables);
                _mm_prefetch((const char *)at + PREFETCH + 64 * i, _MM_HINT_T0);
            } else {
                q8_group(w, at + 128 * i);
                q8_group(w + 2, at + 128 * i + 64);
                _mm_prefetch((const char *)at + PREFETCH + 128 * i, _MM_HINT_T0);
                _mm_prefetch((const char *)at + PREFETCH + 128 * i + 64, _MM_HINT_T0);
            }
            for (int g = 0; g < 2; g++) {
                const __m256i four = four_inputs(q, 2 * i + g);
                a = _mm256_add_epi32(a, _mm256_madd_epi16(w[2 * g], four));
                c = _mm256_add_epi32(c, _mm256_madd_epi16(w[2 * g + 1], four));
            }
        }
        sum = block_sum(a, c, x.scale[b], load_scales(block_scales(scales, b, nf4)), sum);
    }
    _mm256_storeu_ps(y, nf4 ? _mm256_mul_ps(sum, _mm256_set1_ps(1 / STEPS)) : sum);
}

/* Blocks [b0, b1) of half a tile, decoded at `w`, for R rows whose sums stand at y. */
static inline __attribute__((always_inline)) void chunk_rows(float *y, size_t ldy, const void *xq,
                                                             size_t stride, const __m256i *w,
                                                             const uint16_t *scales, uint32_t k,
                                                             uint32_t b0, uint32_t b1, const int R,
                                                             const int nf4) {
    __m256 sum[4];
    struct act x[4];
    for (int r = 0; r < R; r++) {
        x[r] = act_at(xq, stride, (uint32_t)r, k);
        sum[r] = b0 == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(y + (size_t)r * ldy);
    }
    for (uint32_t b = b0; b < b1; b++, w += BLOCK_VECTORS) {
        __m256i a[4], c[4];
        for (int r = 0; r < R; r++)
            a[r] = c[r] = _mm256_setzero_si256();
        for (int g = 0; g < 8; g++) {
            const __m256i w0 = w[2 * g], w1 = w[2 * g + 1];
            for (int r = 0; r < R; r++) {
                const __m256i four = four_inputs(x[r].q + (size_t)b * BLOCK, g);
                a[r] = _mm256_add_epi32(a[r], _mm256_madd_epi16(w0, four));
                c[r] = _mm256_add_epi32(c[r], _mm256_madd_epi16(w1, four));
            }
        }
        const __m256 step = load_scales(block_scales(scales, b, nf4));
        for (int r = 0; r < R; r++)
            sum[r] = block_sum(a[r], c[r], x[r].scale[b], step, sum[r]);
    }
    const int last = b1 == k / BLOCK;
    for (int r = 0; r < R; r++)
        _mm256_storeu_ps(y + (size_t)r * ldy,
                         nf4 && last ? _mm256_mul_ps(sum[r], _mm256_set1_ps(1 / STEPS)) : sum[r]);
}

/* Half a tile for several rows: decoded once, chunk by chunk. */
static inline __attribute__((always_inline)) void
half_many(float *y, size_t ldy, const void *xq, size_t stride, uint32_t rows, const uint8_t *codes,
          const uint16_t *scales, uint32_t k, const int nf4, struct tables tables) {
    __m256i w[CHUNK / BLOCK * BLOCK_VECTORS];
    for (uint32_t b0 = 0; b0 < k / BLOCK; b0 += CHUNK / BLOCK) {
        const uint32_t b1 = k / BLOCK - b0 < CHUNK / BLOCK ? k / BLOCK : b0 + CHUNK / BLOCK;
        for (uint32_t b = b0; b < b1; b++)
            decode_block(w + (size_t)(b - b0) * BLOCK_VECTORS, block_codes(codes, b, nf4), tables,
                         nf4);
        uint32_t r = 0;
#define ROWS(R)                                                                                    \
    for (; rows - r >= (R); r += (R))                                                              \
    chunk_rows(y + r * ldy, ldy, (const char *)xq + r * stride, stride, w, scales, k, b0, b1, (R), \
               nf4)
        ROWS(4);
        ROWS(2);
        ROWS(1);
#undef ROWS
    }
}

static inline __attribute__((always_inline)) void
product(float *y, size_t ldy, const void *xq, size_t stride, uint32_t rows,
        const struct lorica_linear *w, uint32_t tile0, uint32_t tile1, const int nf4) {
    const size_t blocks = w->k / (nf4 ? LORICA_NF4_BLOCK : LORICA_Q8_BLOCK);
    const struct tables tables = code_tables();
    for (uint32_t t = tile0; t < tile1; t++) {
        for (uint32_t half = 0; half < 2; half++) {
            /* Half a tile is half of each 64-byte group. */
            const uint8_t *codes =
                (const uint8_t *)w->codes + t * blocks * TILE_BLOCK_BYTES + half * 32;
            const uint16_t *scales =
                w->scales + t * blocks * LORICA_TILE_ROWS + (size_t)half * HALF_TILE;
            float *out = y + (size_t)t * LORICA_TILE_ROWS + (size_t)half * HALF_TILE;
            if (rows == 1)
                half_one(out, act_at(xq, stride, 0, w->k), codes, scales, w->k, nf4, tables);
            else
                half_many(out, ldy, xq, stride, rows, codes, scales, w->k, nf4, tables);
        }
    }
}

static void nf4_avx2(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                     const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, 1);
}

static void q8_avx2(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
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

static void dense_avx2(float *y, size_t ldy, const float *x, size_t ldx, uint32_t rows,
                       const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    for (uint32_t i = tile0 * LORICA_TILE_ROWS; i < tile1 * LORICA_TILE_ROWS; i++)
        for (uint32_t r = 0; r < rows; r++)
            y[r * ldy + i] = i < w->n ? dense_dot(w, (size_t)i * w->k, x + r * ldx) : 0;
}

void lorica_linear_kernels_avx2(struct lorica_linear_kernels *kernels) {
    *kernels = (struct lorica_linear_kernels){
        .act_nbytes = act_nbytes_avx2,
        .act_quantise = act_quantise_avx2,
        .nf4 = nf4_avx2,
        .q8 = q8_avx2,
        .dense = dense_avx2,
    };
}
