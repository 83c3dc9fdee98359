/* SPDX-License-Identifier: MIT
 * Products by vpdpbusd: unsigned weights times signed activations, four inputs per lane, sixteen
 * rows of W per register.
 *
 * An activation row is int8 with a float32 scale per 64 inputs. The few largest values of each
 * chunk of 768 would make the steps of all others in their blocks wide: they are taken out first,
 * as int8 with a scale of their own, and what their rounding leaves is rounded with the others.
 * Weights are unsigned bytes, with a zero of their own (128 for int8): an accumulator starts at
 * -zero * sum(x) of its inputs, which is kept with the row for either format.
 *
 * A chunk's weights stay in the first-level cache. Whatever the number of rows and tiles, an output
 * is the sum, chunk by chunk, of its blocks in ascending order, then of the values taken out there:
 * sum = fma(float(acc), w_scale * x_scale, sum). So a row's result never depends on its company. */
#include "kernels/kernels.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* How the bytes of a span lie. */
enum layout {
    LAYOUT_NF4,     /* tiled NF4 */
    LAYOUT_Q8,      /* tiled int8 */
    LAYOUT_TURNED,  /* the same, 64 inputs a scale */
    LAYOUT_DECODED, /* NF4 decoded to unsigned bytes in Q8's order */
};

INLINE bool is_nf4(enum layout layout) { return layout == LAYOUT_NF4 || layout == LAYOUT_DECODED; }

/* Inputs of a block of weights, which share a scale. */
INLINE uint32_t inputs_of(enum layout layout) {
    return layout == LAYOUT_Q8       ? LORICA_Q8_BLOCK
           : layout == LAYOUT_TURNED ? LORICA_TURN_BLOCK
                                     : LORICA_NF4_BLOCK;
}

/* Bytes of the codes of such a block of a tile. */
INLINE uint32_t nbytes_of(enum layout layout) {
    return inputs_of(layout) * (layout == LAYOUT_NF4 ? LORICA_TILE_ROWS / 2 : LORICA_TILE_ROWS);
}

/* Inputs that share a scale, and inputs of a chunk: two decoded tiles of it take 24 KB. */
#define BLOCK 64
#define CHUNK 768
/* Values that are taken out of a chunk. */
#define LARGEST 6
/* Values below this count as 0. */
#define LEAST 0x1p-100f
/* Tiles and rows that are multiplied together: 12 accumulators and 12 sums in registers. */
#define TILES 2
#define ROWS 6

/* The values taken out of a chunk: each stands alone in a word of four codes. */
struct largest {
    float scale;
    int32_t words[LARGEST], q8_starts[LARGEST], nf4_starts[LARGEST];
    uint32_t fours[LARGEST]; /* where in the chunk, in words */
};

/* Where the parts of a quantised row lie: codes, a scale for each 64 of them, what accumulators
 * start at with each block of Q8 and of NF4, and a struct largest for each chunk. */
struct form {
    size_t scales, q8_starts, nf4_starts, largest, nbytes;
};

/* One call's fixed parts. */
struct job {
    const char *x; /* quantised rows */
    size_t stride;
    struct form form;
    float *y;
    size_t ldy;
    uint32_t rows;
    bool add; /* to what is in y */
};

/* A chunk of one tile or two: blocks [begin, end) of the weights, which are 64 inputs of NF4 and 32
 * of Q8. `codes` and `scales` are those of the first tile and block; the second tile's lie so many
 * bytes or scales further. */
struct span {
    const uint8_t *codes;
    const uint16_t *scales;
    size_t codes_step, scales_step;
    uint32_t begin, end;
    bool last; /* there is no chunk after this */
    /* The span after this one, whose codes are fetched while this one is multiplied, so that memory
     * is read evenly: lines of 64 bytes of each tile, and how many at each block of each group of
     * rows. */
    const uint8_t *next[TILES];
    uint32_t next_lines, next_each;
};

static size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

static struct form form_of(uint32_t k) {
    const size_t blocks = divide_up(k, BLOCK);
    struct form form = {.scales = blocks * BLOCK};
    form.q8_starts = form.scales + blocks * sizeof(float);
    form.nf4_starts = form.q8_starts + 2 * blocks * sizeof(int32_t);
    form.largest = form.nf4_starts + blocks * sizeof(int32_t);
    form.nbytes = form.largest + divide_up(k, CHUNK) * sizeof(struct largest);
    form.nbytes = divide_up(form.nbytes, 64) * 64;
    return form;
}

static size_t act_nbytes_avx512(uint32_t k) { return form_of(k).nbytes; }

/* What accumulators start at for codes with this sum. */
static int32_t q8_start(int32_t sum) { return -(int32_t)LORICA_Q8_ZERO * sum; }
static int32_t nf4_start(int32_t sum) { return (int32_t)lrintf(-LORICA_NF4_ZERO * (float)sum); }

/* Where the largest of `count` values stand, the very largest first, at most two of those with the
 * same index modulo 16. They are compared as bits, so what is not finite comes first; the last six
 * bits are those of the index instead. */
INLINE void find_largest(uint32_t at[LARGEST], const float *x, uint32_t count) {
    const __m512i kept = _mm512_set1_epi32(0x7fffffc0);
    __m512i most = _mm512_setzero_si512(), second = most, number = most;
    for (uint32_t i = 0; i < count; i += 16) {
        const __m512i key =
            _mm512_or_si512(_mm512_and_si512(_mm512_loadu_si512(x + i), kept), number);
        second = _mm512_max_epi32(second, _mm512_min_epi32(most, key));
        most = _mm512_max_epi32(most, key);
        number = _mm512_add_epi32(number, _mm512_set1_epi32(1));
    }
    for (int e = 0; e < LARGEST; e++) {
        const int32_t top = _mm512_reduce_max_epi32(most);
        const uint32_t lanes = _mm512_cmpeq_epi32_mask(most, _mm512_set1_epi32(top));
        const __mmask16 one = (__mmask16)(lanes & -lanes);
        at[e] = (uint32_t)top % 64 * 16 + (uint32_t)__builtin_ctz(lanes);
        most = _mm512_mask_mov_epi32(most, one, second);
        second = _mm512_mask_mov_epi32(second, one, _mm512_setzero_si512());
    }
}

/* A chunk while it is quantised. */
struct chunk {
    uint64_t taken[CHUNK / BLOCK]; /* a bit for each value that was taken out */
    float left[LARGEST];           /* what rounding left of those */
    float tops[CHUNK / BLOCK];     /* largest magnitudes of what is left of each block */
    float inverses[CHUNK / BLOCK];
    int32_t sums[CHUNK / LORICA_Q8_BLOCK]; /* of codes */
};

/* Takes the values at these places out, `top` the largest of them. */
INLINE void take_largest(struct largest *largest, struct chunk *chunk, const uint32_t at[LARGEST],
                         const float *x, float top) {
    const float scale = top * (1.0f / 127.0f), inverse = 127.0f / top;
    largest->scale = scale;
#pragma GCC unroll 6
    for (int e = 0; e < LARGEST; e++) {
        const int32_t code = (int32_t)lrintf(x[at[e]] * inverse);
        float *most = &chunk->tops[at[e] / BLOCK];
        chunk->left[e] = x[at[e]] - (float)code * scale;
        *most = fabsf(chunk->left[e]) > *most ? fabsf(chunk->left[e]) : *most;
        chunk->taken[at[e] / BLOCK] |= 1ULL << at[e] % BLOCK;
        largest->words[e] = (int32_t)((uint32_t)(uint8_t)code << at[e] % 4 * 8);
        largest->fours[e] = at[e] / 4;
        largest->q8_starts[e] = q8_start(code);
        largest->nf4_starts[e] = nf4_start(code);
    }
}

/* Block b of a chunk: x[i] where i's bit is among `there`. */
INLINE void quantise_block(int8_t *codes, struct chunk *chunk, size_t b, const float *x,
                           uint64_t there) {
    __m512 values[4], top = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        values[i] = _mm512_maskz_loadu_ps((__mmask16)(there >> 16 * i), x + (size_t)16 * i);
        top = _mm512_max_ps(top, _mm512_abs_ps(values[i]));
    }
    const float most = _mm512_reduce_max_ps(top);
    chunk->tops[b] = most > chunk->tops[b] ? most : chunk->tops[b];
    chunk->inverses[b] = chunk->tops[b] >= LEAST ? 127.0f / chunk->tops[b] : 0;
    __m512i sums[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        sums[i] = _mm512_cvtps_epi32(_mm512_mul_ps(values[i], _mm512_set1_ps(chunk->inverses[b])));
        _mm_storeu_si128((__m128i *)codes + i, _mm512_cvtsepi32_epi8(sums[i]));
    }
    chunk->sums[2 * b] = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]));
    chunk->sums[2 * b + 1] = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[2], sums[3]));
}

/* Codes of what rounding left of the values that were taken out, in their places. */
INLINE void put_left(int8_t *codes, struct chunk *chunk, const uint32_t at[LARGEST]) {
#pragma GCC unroll 6
    for (int e = 0; e < LARGEST; e++) {
        const int32_t code = (int32_t)lrintf(chunk->left[e] * chunk->inverses[at[e] / BLOCK]);
        chunk->sums[at[e] / LORICA_Q8_BLOCK] += code - codes[at[e]];
        codes[at[e]] = (int8_t)code;
    }
}

/* Chunk c of a quantised row: `count` inputs, a multiple of 32. */
static void quantise_chunk(char *dst, const struct form *form, size_t c, const float *x,
                           uint32_t count) {
    const size_t blocks = divide_up(count, BLOCK), first = c * (CHUNK / BLOCK);
    int8_t *codes = (int8_t *)dst + first * BLOCK;
    float *scales = (float *)(dst + form->scales) + first;
    int32_t *nf4_starts = (int32_t *)(dst + form->nf4_starts) + first,
            *q8_starts = (int32_t *)(dst + form->q8_starts) + 2 * first;
    struct largest *largest = (struct largest *)(dst + form->largest) + c;
    struct chunk chunk = {.taken = {0}};
    uint32_t at[LARGEST];
    find_largest(at, x, count);
    const float top = fabsf(x[at[0]]);
    if (!(top >= LEAST && isfinite(top))) {
        memset(codes, 0, blocks * BLOCK);
        memset(q8_starts, 0, 2 * blocks * sizeof(*q8_starts));
        memset(nf4_starts, 0, blocks * sizeof(*nf4_starts));
        memset(largest, 0, sizeof(*largest));
        for (size_t b = 0; b < blocks; b++) /* infinity or NaN: all is lost, and says so */
            scales[b] = isfinite(top) ? 0 : NAN;
        return;
    }
    take_largest(largest, &chunk, at, x, top);
    for (size_t b = 0; b < blocks; b++) {
        const uint64_t all = count - b * BLOCK < BLOCK ? UINT32_MAX : UINT64_MAX;
        quantise_block(codes + b * BLOCK, &chunk, b, x + b * BLOCK, all & ~chunk.taken[b]);
    }
    put_left(codes, &chunk, at);
    for (size_t b = 0; b < blocks; b++) {
        const int32_t *sums = chunk.sums + 2 * b;
        scales[b] = chunk.inverses[b] > 0 ? chunk.tops[b] * (1.0f / 127.0f) : 0;
        q8_starts[2 * b] = q8_start(sums[0]);
        q8_starts[2 * b + 1] = q8_start(sums[1]);
        nf4_starts[b] = nf4_start(sums[0] + sums[1]);
    }
}

static void act_quantise_avx512(void *dst, const float *x, uint32_t k) {
    const struct form form = form_of(k);
    for (uint32_t i = 0; i < k; i += CHUNK)
        quantise_chunk(dst, &form, i / CHUNK, x + i, k - i < CHUNK ? k - i : CHUNK);
}

INLINE __m512i codebook(void) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)lorica_nf4_bytes));
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

/* Eight inputs of 16 outputs as unsigned weights; `g` counts eights. */
INLINE void eight_inputs(__m512i w[2], const uint8_t *codes, uint32_t g, enum layout layout) {
    if (layout == LAYOUT_NF4) {
        const __m512i raw = _mm512_loadu_si512(codes + 64 * g), book = codebook();
        w[0] = nf4_low(raw, book);
        w[1] = nf4_high(raw, book);
        return;
    }
    w[0] = _mm512_loadu_si512(codes + 128 * g);
    w[1] = _mm512_loadu_si512(codes + 128 * g + 64);
    if (layout != LAYOUT_DECODED) {
        const __m512i flip = _mm512_set1_epi8((char)0x80);
        w[0] = _mm512_xor_si512(w[0], flip);
        w[1] = _mm512_xor_si512(w[1], flip);
    }
}

/* Four inputs; `four` counts fours. */
INLINE __m512i four_inputs(const uint8_t *codes, size_t four, enum layout layout) {
    if (layout == LAYOUT_NF4)
        return _mm512_permutexvar_epi8(_mm512_srl_epi16(_mm512_loadu_si512(codes + four / 2 * 64),
                                                        _mm_cvtsi32_si128((int)(four % 2 * 4))),
                                       codebook());
    const __m512i w = _mm512_loadu_si512(codes + four * 64);
    return layout == LAYOUT_DECODED ? w : _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80));
}

/* Scales of block `at` of the span. */
INLINE void block_scales(__m512 *scale, const struct span *span, size_t at, uint32_t tiles) {
#pragma GCC unroll 2
    for (uint32_t t = 0; t < tiles; t++)
        scale[t] = _mm512_cvtph_ps(_mm256_loadu_si256(
            (const __m256i *)(span->scales + t * span->scales_step + at * LORICA_TILE_ROWS)));
}

/* What a row's block b starts at. */
INLINE int32_t start_of(const struct form *form, const char *x, size_t b, enum layout layout) {
    if (is_nf4(layout))
        return word(x + form->nf4_starts + b * 4);
    if (layout == LAYOUT_Q8)
        return word(x + form->q8_starts + b * 4);
    return word(x + form->q8_starts + b * 8) + word(x + form->q8_starts + b * 8 + 4);
}

/* sum[t * ROWS + r] += block b of the rows x[r]. */
INLINE void add_block(__m512 *sum, const struct form *form, const char *const *x, uint32_t rows,
                      const struct span *span, uint32_t b, uint32_t tiles, enum layout layout) {
    const uint8_t *codes = span->codes + (size_t)(b - span->begin) * nbytes_of(layout);
    const size_t first = (size_t)b * inputs_of(layout);
    const size_t x_scale = form->scales + first / BLOCK * sizeof(float);
    __m512i acc[TILES * ROWS];
    __m512 scale[TILES];
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++)
            acc[t * ROWS + r] = _mm512_set1_epi32(start_of(form, x[r], b, layout));
#pragma GCC unroll 8
    for (uint32_t g = 0; g < inputs_of(layout) / 8; g++) {
        __m512i w[TILES][2];
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++)
            eight_inputs(w[t], codes + t * span->codes_step, g, layout);
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++)
#pragma GCC unroll 6
            for (uint32_t r = 0; r < rows; r++) {
                const __m512i four = _mm512_set1_epi32(word(x[r] + first + 8 * g + 4 * half));
#pragma GCC unroll 2
                for (uint32_t t = 0; t < tiles; t++)
                    acc[t * ROWS + r] = _mm512_dpbusd_epi32(acc[t * ROWS + r], w[t][half], four);
            }
    }
    block_scales(scale, span, b - span->begin, tiles);
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++)
            sum[t * ROWS + r] = _mm512_fmadd_ps(
                _mm512_cvtepi32_ps(acc[t * ROWS + r]),
                _mm512_mul_ps(scale[t], _mm512_set1_ps(real(x[r] + x_scale))), sum[t * ROWS + r]);
}

/* sum[t * ROWS] += what was taken out of a row's chunk. */
INLINE void add_largest(__m512 *sum, const struct largest *largest, const struct span *span,
                        uint32_t tiles, enum layout layout) {
    __m512 own[TILES];
#pragma GCC unroll 6
    for (uint32_t e = 0; e < LARGEST; e++) {
        const size_t four = largest->fours[e];
        const __m512i start =
            _mm512_set1_epi32(is_nf4(layout) ? largest->nf4_starts[e] : largest->q8_starts[e]);
        const __m512i code = _mm512_set1_epi32(largest->words[e]);
        __m512 scale[TILES];
        block_scales(scale, span, four * 4 / inputs_of(layout), tiles);
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++) {
            const __m512i w = four_inputs(span->codes + t * span->codes_step, four, layout);
            own[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, w, code)),
                                     scale[t], e ? own[t] : _mm512_setzero_ps());
        }
    }
#pragma GCC unroll 2
    for (uint32_t t = 0; t < tiles; t++)
        sum[t * ROWS] = _mm512_fmadd_ps(own[t], _mm512_set1_ps(largest->scale), sum[t * ROWS]);
}

/* Fetches of the next span what falls to block b of the rows from `row` on. */
INLINE void fetch_ahead(const struct span *span, uint32_t row, uint32_t b, uint32_t tiles,
                        enum layout layout) {
    const uint32_t lines = nbytes_of(layout == LAYOUT_DECODED ? LAYOUT_NF4 : layout) / 64;
    const uint32_t at = row / ROWS * (span->end - span->begin) + b - span->begin;
    if (row == 0 && span->next_each == lines) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < lines; i++)
#pragma GCC unroll 2
            for (uint32_t t = 0; t < tiles; t++)
                _mm_prefetch((const char *)span->next[t] + ((size_t)at * lines + i) * 64,
                             _MM_HINT_T0);
        return;
    }
    for (uint32_t i = at * span->next_each; i < (at + 1) * span->next_each; i++)
        if (i < span->next_lines)
#pragma GCC unroll 2
            for (uint32_t t = 0; t < tiles; t++)
                _mm_prefetch((const char *)span->next[t] + (size_t)i * 64, _MM_HINT_T0);
}

/* `rows` rows of x from `row` on against a span of `tiles` tiles; all but the first three are
 * constants after inlining. */
INLINE void multiply(const struct job *job, const struct span *span, float *y, uint32_t row,
                     uint32_t rows, uint32_t tiles, enum layout layout) {
    const char *x[ROWS];
    __m512 sum[TILES * ROWS];
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++) {
        x[r] = job->x + (row + r) * job->stride;
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++)
            sum[t * ROWS + r] = span->begin || job->add
                                    ? _mm512_loadu_ps(y + r * job->ldy + t * LORICA_TILE_ROWS)
                                    : _mm512_setzero_ps();
    }
    for (uint32_t b = span->begin; b < span->end; b++) {
        fetch_ahead(span, row, b, tiles, layout);
        add_block(sum, &job->form, x, rows, span, b, tiles, layout);
    }
    const size_t chunk = (size_t)span->begin * inputs_of(layout) / CHUNK;
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++)
        add_largest(sum + r, (const struct largest *)(x[r] + job->form.largest) + chunk, span,
                    tiles, layout);
    const __m512 last =
        _mm512_set1_ps(is_nf4(layout) && span->last ? 1.0f / LORICA_NF4_FACTOR : 1.0f);
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++)
            _mm512_storeu_ps(y + r * job->ldy + t * LORICA_TILE_ROWS,
                             _mm512_mul_ps(sum[t * ROWS + r], last));
}

INLINE void multiply_tiles(const struct job *job, const struct span *span, uint32_t tile,
                           uint32_t tiles, enum layout layout) {
    uint32_t r = 0;
    float *y = job->y + (size_t)tile * LORICA_TILE_ROWS;
    for (; r + ROWS <= job->rows; r += ROWS)
        multiply(job, span, y + r * job->ldy, r, ROWS, tiles, layout);
    y += r * job->ldy;
    switch (job->rows - r) {
    case 1:
        multiply(job, span, y, r, 1, tiles, layout);
        break;
    case 2:
        multiply(job, span, y, r, 2, tiles, layout);
        break;
    case 3:
        multiply(job, span, y, r, 3, tiles, layout);
        break;
    case 4:
        multiply(job, span, y, r, 4, tiles, layout);
        break;
    case 5:
        multiply(job, span, y, r, 5, tiles, layout);
        break;
    default:
        break;
    }
}

typedef void (*span_fn)(const struct job *job, const struct span *span, uint32_t tile,
                        uint32_t tiles);

INLINE void multiply_span(const struct job *job, const struct span *span, uint32_t tile,
                          uint32_t tiles, enum layout layout) {
    if (tiles == 2)
        multiply_tiles(job, span, tile, 2, layout);
    else
        multiply_tiles(job, span, tile, 1, layout);
}

static void span_nf4(const struct job *job, const struct span *span, uint32_t tile,
                     uint32_t tiles) {
    multiply_span(job, span, tile, tiles, LAYOUT_NF4);
}

static void span_q8(const struct job *job, const struct span *span, uint32_t tile, uint32_t tiles) {
    multiply_span(job, span, tile, tiles, LAYOUT_Q8);
}

static void span_turned(const struct job *job, const struct span *span, uint32_t tile,
                        uint32_t tiles) {
    multiply_span(job, span, tile, tiles, LAYOUT_TURNED);
}

/* Decodes the span first: once for all rows. */
static void span_decoded(const struct job *job, const struct span *span, uint32_t tile,
                         uint32_t tiles) {
    uint8_t scratch[TILES * CHUNK * LORICA_TILE_ROWS] __attribute__((aligned(64)));
    const __m512i book = codebook();
    struct span decoded = *span;
    decoded.codes = scratch;
    decoded.codes_step = sizeof(scratch) / TILES;
    for (uint32_t t = 0; t < tiles; t++) {
        const uint8_t *codes = span->codes + t * span->codes_step;
        uint8_t *to = scratch + t * decoded.codes_step;
        for (uint32_t g = 0; g < (span->end - span->begin) * 8; g++, codes += 64, to += 128) {
            const __m512i raw = _mm512_loadu_si512(codes);
            _mm512_store_si512(to, nf4_low(raw, book));
            _mm512_store_si512(to + 64, nf4_high(raw, book));
        }
    }
    multiply_span(job, &decoded, tile, tiles, LAYOUT_DECODED);
}

/* Chunk by chunk through tiles [tile0, tile1), one or two tiles at a time. */
struct walk {
    const struct lorica_linear *w;
    uint32_t block, nbytes; /* inputs of a block of the weights, and bytes of its codes */
    uint32_t tile, tiles, tile1, begin, end;
};

INLINE void walk_to(struct walk *walk, uint32_t tile, uint32_t begin) {
    const uint32_t blocks = walk->w->k / walk->block, chunk = CHUNK / walk->block;
    walk->tile = tile;
    walk->tiles = walk->tile1 - tile < walk->tiles ? 1 : walk->tiles;
    walk->begin = begin;
    walk->end = blocks - begin < chunk ? blocks : begin + chunk;
}

INLINE void walk_on(struct walk *walk) {
    if (walk->end < walk->w->k / walk->block)
        walk_to(walk, walk->tile, walk->end);
    else
        walk_to(walk, walk->tile + walk->tiles, 0);
}

/* Index of a tile's first block of the walk. */
INLINE size_t walk_at(const struct walk *walk, uint32_t t) {
    return (size_t)(walk->tile + t) * (walk->w->k / walk->block) + walk->begin;
}

INLINE const uint8_t *walk_codes(const struct walk *walk, uint32_t t) {
    return (const uint8_t *)walk->w->codes + walk_at(walk, t) * walk->nbytes;
}

static void product(const struct job *job, const struct lorica_linear *w, uint32_t tile0,
                    uint32_t tile1, enum layout layout, span_fn fn) {
    const uint32_t groups = (job->rows + ROWS - 1) / ROWS, blocks = w->k / inputs_of(layout);
    struct walk walk = {w, inputs_of(layout), nbytes_of(layout),
                        .tiles = job->rows == 1 ? 1 : TILES, .tile1 = tile1};
    for (walk_to(&walk, tile0, 0); walk.tile < tile1 && groups;) {
        struct walk next = walk;
        walk_on(&next);
        const uint32_t lines = next.tile < tile1 ? walk.nbytes / 64 : 0;
        struct span span = {.codes = walk_codes(&walk, 0),
                            .scales = w->scales + walk_at(&walk, 0) * LORICA_TILE_ROWS,
                            .codes_step = (size_t)blocks * walk.nbytes,
                            .scales_step = (size_t)blocks * LORICA_TILE_ROWS,
                            .begin = walk.begin,
                            .end = walk.end,
                            .last = walk.end == blocks,
                            .next = {walk_codes(&next, 0), walk_codes(&next, next.tiles - 1)},
                            .next_lines = (next.end - next.begin) * lines};
        const uint32_t calls = groups * (walk.end - walk.begin);
        span.next_each = (span.next_lines + calls - 1) / calls;
        fn(job, &span, walk.tile, walk.tiles);
        walk = next;
    }
}

static struct job make_job(float *y, size_t ldy, const void *xq, size_t stride, uint32_t rows,
                           uint32_t k) {
    return (struct job){
        .x = xq, .stride = stride, .form = form_of(k), .y = y, .ldy = ldy, .rows = rows};
}

static void nf4_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                       const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    const struct job job = make_job(y, ldy, xq, xq_stride, rows, w->k);
    product(&job, w, tile0, tile1, LAYOUT_NF4, rows > 18 ? span_decoded : span_nf4);
}

static void q8_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                      const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    const struct job job = make_job(y, ldy, xq, xq_stride, rows, w->k);
    product(&job, w, tile0, tile1, LAYOUT_Q8, span_q8);
}

static void turned_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                          const struct lorica_linear *w, bool add) {
    struct job job = make_job(y, ldy, xq, xq_stride, rows, w->k);
    job.add = add;
    product(&job, w, 0, w->n / LORICA_TILE_ROWS, LAYOUT_TURNED, span_turned);
}

#define PEAK_SUMS 16

/* Nothing of a register may be computed once for all rounds, or not at all. Where SIMDe stands in
 * for the instruction set there are no such registers, and nothing to measure. */
#ifdef SIMDE_VERSION
#define KEEP(x) (void)(x)
#else
#define KEEP(x) __asm__ volatile("" : "+v"(x))
#endif

static double peak_avx512(uint64_t rounds) {
    __m512i sums[PEAK_SUMS], w = _mm512_set1_epi8(3), x = w;
#pragma GCC unroll 16
    for (int i = 0; i < PEAK_SUMS; i++)
        sums[i] = _mm512_setzero_si512();
    for (uint64_t r = 0; r < rounds; r++) {
        KEEP(w);
#pragma GCC unroll 16
        for (int i = 0; i < PEAK_SUMS; i++) {
            KEEP(x);
            sums[i] = _mm512_dpbusd_epi32(sums[i], w, x);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < PEAK_SUMS; i++)
        KEEP(sums[i]);
    return (double)rounds * PEAK_SUMS * 128;
}

void lorica_linear_kernels_avx512(struct lorica_linear_kernels *kernels) {
    kernels->act_nbytes = act_nbytes_avx512;
    kernels->act_quantise = act_quantise_avx512;
    kernels->nf4 = nf4_avx512;
    kernels->q8 = q8_avx512;
    kernels->turned = turned_avx512;
    kernels->peak = peak_avx512;
    kernels->peak_form = "int8 (vpdpbusd)";
}
