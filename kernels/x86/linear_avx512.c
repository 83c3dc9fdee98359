/* SPDX-License-Identifier: MIT
 * Products by vpdpbusd: unsigned weights times signed activations, four inputs per lane, sixteen
 * rows of W per register.
 *
 * An activation row is int8 with a float32 scale per 32 inputs. Where a block's largest value
 * stands out in its row, what rounding left over is kept in a second int8 plane: these few blocks
 * would otherwise bring most of the error. Weights are made unsigned by adding 128; an accumulator
 * starts at -128 * sum(x) of the block, which is kept with the row. NF4's table is rounded to int8.
 *
 * Per 32 inputs, whatever the number of rows: sum = fma(float(acc), w_scale * x_scale, sum), and
 * the same for the second plane, where a row that needs none adds zero when its neighbour needs
 * one. So a row's result never depends on its company. */
#include "kernels/kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* round(112 * c) + 128: of the factors that keep the table in int8, the one by which the model's
 * distribution over next tokens moves least. */
#define NF4_FACTOR 112.0f
static const uint8_t nf4_codebook[16] = {16,  50,  69,  84,  96,  107, 118, 128,
                                         137, 146, 156, 166, 177, 191, 209, 240};

/* How the bytes of a span lie. */
enum layout {
    LAYOUT_NF4,     /* tiled NF4 */
    LAYOUT_Q8,      /* tiled int8 */
    LAYOUT_DECODED, /* NF4 decoded to unsigned bytes in Q8's order */
};

/* Inputs that are decoded at once when many rows share them: 24 KB of scratch per tile. */
#define CHUNK_INPUTS 1536
/* Rows that share each decoded register. */
#define GROUP_ROWS 8

/* Blocks beyond this multiple of the mean block maximum of the row get the second plane. */
#define OUTLIER 2.0f

/* Where the parts of a quantised row lie: two planes of codes, of scales and of starts, and one bit
 * per block that says whether it has a second plane. */
struct form {
    size_t codes[2], scales[2], starts[2], marks, nbytes;
};

/* One call's fixed parts. */
struct job {
    const char *x; /* quantised rows */
    size_t stride;
    struct form form;
    float *y;
    size_t ldy;
    uint32_t rows;
};

/* A run of one tile: bytes and scales from 32-input block `begin` up to `end`. */
struct span {
    const uint8_t *codes;
    const uint16_t *scales;
    uint32_t begin, end;
};

static struct form form_of(uint32_t k) {
    const size_t codes = ((size_t)k + 63) / 64 * 64, blocks = k / 32;
    struct form form = {.codes = {0, codes}};
    form.scales[0] = 2 * codes;
    form.scales[1] = form.scales[0] + 4 * blocks;
    form.starts[0] = form.scales[1] + 4 * blocks;
    form.starts[1] = form.starts[0] + 4 * blocks;
    form.marks = form.starts[1] + 4 * blocks;
    form.nbytes = (form.marks + (blocks + 31) / 32 * 4 + 63) / 64 * 64;
    return form;
}

static size_t act_nbytes_avx512(uint32_t k) { return form_of(k).nbytes; }

/* Largest magnitude of 32 values as bits: infinity and NaN come out on top. */
static int32_t top_bits(const float *x) {
    const __m512i a = _mm512_loadu_si512(x), b = _mm512_loadu_si512(x + 16);
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    return _mm512_reduce_max_epi32(
        _mm512_max_epi32(_mm512_and_si512(a, mask), _mm512_and_si512(b, mask)));
}

/* Sixteen values as codes of one plane; what is left over takes their place. */
static __m512i take_codes(__m512 *x, int8_t *codes, float inverse, float scale) {
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(*x, _mm512_set1_ps(inverse)));
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtsepi32_epi8(q));
    *x = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(scale), *x);
    return q;
}

/* One block of a quantised row `dst`; `max` is its largest magnitude, finite. */
static void quantise_block(char *dst, const struct form *form, uint32_t b, const float *x,
                           float max, bool outlier) {
    __m512 low = _mm512_loadu_ps(x + (size_t)b * 32),
           high = _mm512_loadu_ps(x + (size_t)b * 32 + 16);
    float scale = max * (1.0f / 127.0f), inverse = 127.0f / max;
    for (int plane = 0; plane < (outlier ? 2 : 1); plane++) {
        int8_t *codes = (int8_t *)dst + form->codes[plane] + (size_t)b * 32;
        const __m512i sum = _mm512_add_epi32(take_codes(&low, codes, inverse, scale),
                                             take_codes(&high, codes + 16, inverse, scale));
        const int32_t start = -128 * _mm512_reduce_add_epi32(sum);
        memcpy(dst + form->scales[plane] + 4 * b, &scale, sizeof(scale));
        memcpy(dst + form->starts[plane] + 4 * b, &start, sizeof(start));
        scale *= 1.0f / 252.0f; /* half a step becomes 126 */
        inverse *= 252.0f;
    }
    uint32_t word;
    memcpy(&word, dst + form->marks + b / 32 * 4, sizeof(word));
    word |= (uint32_t)outlier << b % 32;
    memcpy(dst + form->marks + b / 32 * 4, &word, sizeof(word));
}

static void act_quantise_avx512(void *dst, const float *x, uint32_t k) {
    const struct form form = form_of(k);
    float *scales = (float *)((char *)dst + form.scales[0]);
    float mean = 0;
    memset(dst, 0, form.nbytes);
    for (uint32_t b = 0; b < k / 32; b++) {
        const int32_t top = top_bits(x + (size_t)b * 32);
        memcpy(&scales[b], &top, sizeof(top));
        mean += scales[b];
    }
    mean /= (float)(k / 32);
    for (uint32_t b = 0; b < k / 32; b++) {
        const float max = scales[b];
        if (!isfinite(max)) /* infinity or NaN: the whole block is lost, and says so */
            scales[b] = NAN;
        else if (max < 0x1p-100f)
            scales[b] = 0;
        else
            quantise_block(dst, &form, b, x, max, max > OUTLIER * mean);
    }
}

INLINE __m512i codebook(void) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)nf4_codebook));
}

/* Low or high nibbles of 64 bytes as unsigned weights. The codebook lies in the register four
 * times, so the bits above the nibble do no harm. */
INLINE __m512i nf4_low(__m512i raw, __m512i book) { return _mm512_permutexvar_epi8(raw, book); }
INLINE __m512i nf4_high(__m512i raw, __m512i book) {
    return _mm512_permutexvar_epi8(_mm512_srli_epi16(raw, 4), book);
}

INLINE int32_t word(const char *at) {
    int32_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

INLINE float real(const char *at) {
    float value;
    memcpy(&value, at, sizeof(value));
    return value;
}

/* acc[r] += 32 inputs of the weights at `codes` times those of row r at x[r] + at. */
INLINE void products(__m512i *acc, const char *const *x, size_t at, uint32_t rows,
                     const uint8_t *codes, enum layout layout) {
    const __m512i book = codebook(), flip = _mm512_set1_epi8((char)0x80);
#pragma GCC unroll 4
    for (uint32_t g = 0; g < 4; g++) {
        __m512i low, high;
        if (layout == LAYOUT_NF4) {
            const __m512i raw = _mm512_loadu_si512(codes + 64 * g);
            low = nf4_low(raw, book), high = nf4_high(raw, book);
        } else {
            low = _mm512_loadu_si512(codes + 128 * g);
            high = _mm512_loadu_si512(codes + 128 * g + 64);
        }
        if (layout == LAYOUT_Q8)
            low = _mm512_xor_si512(low, flip), high = _mm512_xor_si512(high, flip);
#pragma GCC unroll 8
        for (uint32_t r = 0; r < rows; r++)
            acc[r] = _mm512_dpbusd_epi32(acc[r], low, _mm512_set1_epi32(word(x[r] + at + 8 * g)));
#pragma GCC unroll 8
        for (uint32_t r = 0; r < rows; r++)
            acc[r] =
                _mm512_dpbusd_epi32(acc[r], high, _mm512_set1_epi32(word(x[r] + at + 8 * g + 4)));
    }
}

/* sum[r] += one plane of 32-input block b. */
INLINE void add_plane(__m512 *sum, const struct form *form, int plane, const char *const *x,
                      uint32_t b, uint32_t rows, const uint8_t *codes, __m512 scale,
                      enum layout layout) {
    __m512i acc[GROUP_ROWS];
#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++)
        acc[r] = _mm512_set1_epi32(word(x[r] + form->starts[plane] + 4 * b));
    products(acc, x, form->codes[plane] + 32 * b, rows, codes, layout);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++)
        sum[r] = _mm512_fmadd_ps(
            _mm512_cvtepi32_ps(acc[r]),
            _mm512_mul_ps(scale, _mm512_set1_ps(real(x[r] + form->scales[plane] + 4 * b))), sum[r]);
}

/* `rows` (a constant after inlining) rows of x against one span of one tile. */
INLINE void multiply(const struct job *job, uint32_t row, uint32_t rows, float *y,
                     const struct span *span, enum layout layout) {
    const uint32_t step = layout == LAYOUT_NF4 ? 256 : 512;
    const char *x[GROUP_ROWS];
    __m512 sum[GROUP_ROWS];
    uint32_t marks = 0;
#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++) {
        x[r] = job->x + (row + r) * job->stride;
        sum[r] = span->begin ? _mm512_loadu_ps(y + r * job->ldy) : _mm512_setzero_ps();
    }
    const uint8_t *codes = span->codes;
    for (uint32_t b = span->begin; b < span->end; b++, codes += step) {
        if (b % 32 == 0 || b == span->begin) {
            marks = 0;
            for (uint32_t r = 0; r < rows; r++)
                marks |= (uint32_t)word(x[r] + job->form.marks + b / 32 * 4);
        }
        if (layout != LAYOUT_DECODED)
            for (uint32_t i = 0; i < step; i += 64)
                _mm_prefetch((const char *)codes + 2048 + i, _MM_HINT_T0);
        const uint32_t block = layout == LAYOUT_Q8 ? b : b / 2;
        __m512 scale = _mm512_cvtph_ps(
            _mm256_loadu_si256((const __m256i *)(span->scales + (size_t)block * LORICA_TILE_ROWS)));
        if (layout != LAYOUT_Q8)
            scale = _mm512_mul_ps(scale, _mm512_set1_ps(1.0f / NF4_FACTOR));
        add_plane(sum, &job->form, 0, x, b, rows, codes, scale, layout);
        if (marks >> b % 32 & 1)
            add_plane(sum, &job->form, 1, x, b, rows, codes, scale, layout);
    }
#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++)
        _mm512_storeu_ps(y + r * job->ldy, sum[r]);
}

INLINE void multiply_rows(const struct job *job, const struct span *span, uint32_t tile,
                          enum layout layout) {
    uint32_t r = 0;
    float *y = job->y + (size_t)tile * LORICA_TILE_ROWS;
    for (; r + 8 <= job->rows; r += 8)
        multiply(job, r, 8, y + r * job->ldy, span, layout);
    if (job->rows - r >= 4) {
        multiply(job, r, 4, y + r * job->ldy, span, layout);
        r += 4;
    }
    if (job->rows - r >= 2) {
        multiply(job, r, 2, y + r * job->ldy, span, layout);
        r += 2;
    }
    if (job->rows - r)
        multiply(job, r, 1, y + r * job->ldy, span, layout);
}

static void rows_nf4(const struct job *job, const struct span *span, uint32_t tile) {
    multiply_rows(job, span, tile, LAYOUT_NF4);
}

static void rows_q8(const struct job *job, const struct span *span, uint32_t tile) {
    multiply_rows(job, span, tile, LAYOUT_Q8);
}

static void rows_decoded(const struct job *job, const struct span *span, uint32_t tile) {
    multiply_rows(job, span, tile, LAYOUT_DECODED);
}

static struct job make_job(float *y, size_t ldy, const void *xq, size_t stride, uint32_t rows,
                           uint32_t k) {
    return (struct job){
        .x = xq, .stride = stride, .form = form_of(k), .y = y, .ldy = ldy, .rows = rows};
}

/* Decodes a tile piece by piece, each used for all rows while it is in the first-level cache. */
static void tile_decoded(const struct job *job, const uint8_t *codes, const uint16_t *scales,
                         uint32_t k, uint32_t tile) {
    uint8_t scratch[CHUNK_INPUTS * LORICA_TILE_ROWS] __attribute__((aligned(64)));
    const __m512i book = codebook();
    for (uint32_t k0 = 0; k0 < k; k0 += CHUNK_INPUTS) {
        const uint32_t inputs = k - k0 < CHUNK_INPUTS ? k - k0 : CHUNK_INPUTS;
        for (uint32_t g = 0; g < inputs / 8; g++, codes += 64) {
            const __m512i raw = _mm512_loadu_si512(codes);
            _mm_prefetch((const char *)codes + 4096, _MM_HINT_T1);
            _mm512_store_si512(scratch + g * 128, nf4_low(raw, book));
            _mm512_store_si512(scratch + g * 128 + 64, nf4_high(raw, book));
        }
        const struct span span = {scratch, scales, k0 / 32, (k0 + inputs) / 32};
        rows_decoded(job, &span, tile);
    }
}

static void nf4_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                       const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    const struct job job = make_job(y, ldy, xq, xq_stride, rows, w->k);
    const uint32_t blocks = w->k / LORICA_NF4_BLOCK;
    for (uint32_t t = tile0; t < tile1; t++) {
        const uint8_t *codes =
            (const uint8_t *)w->codes + (size_t)t * blocks * LORICA_TILE_BLOCK_NBYTES;
        const uint16_t *scales = w->scales + (size_t)t * blocks * LORICA_TILE_ROWS;
        if (rows > 2 * GROUP_ROWS) {
            tile_decoded(&job, codes, scales, w->k, t);
        } else {
            const struct span span = {codes, scales, 0, w->k / 32};
            rows_nf4(&job, &span, t);
        }
    }
}

static void q8_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                      const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    const struct job job = make_job(y, ldy, xq, xq_stride, rows, w->k);
    const uint32_t blocks = w->k / LORICA_Q8_BLOCK;
    for (uint32_t t = tile0; t < tile1; t++) {
        const struct span span = {(const uint8_t *)w->codes +
                                      (size_t)t * blocks * LORICA_TILE_BLOCK_NBYTES,
                                  w->scales + (size_t)t * blocks * LORICA_TILE_ROWS, 0, blocks};
        rows_q8(&job, &span, t);
    }
}

void lorica_linear_kernels_avx512(struct lorica_linear_kernels *kernels) {
    kernels->act_nbytes = act_nbytes_avx512;
    kernels->act_quantise = act_quantise_avx512;
    kernels->nf4 = nf4_avx512;
    kernels->q8 = q8_avx512;
}
