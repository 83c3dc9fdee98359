/* SPDX-License-Identifier: MIT
 * Products by vpdpbusd: unsigned weights times signed activations, four inputs per lane, sixteen
 * rows of W per register.
 *
 * An activation row is int8 with a float32 scale per 32 inputs. Where a block's largest value
 * stands out in its row, what rounding left over is kept in a second int8 plane: these few blocks
 * would otherwise bring most of the error. Weights are unsigned bytes, with a zero of their own
 * (128 for int8): an accumulator starts at -zero * sum(x) of the block, which is kept with the row
 * for either format.
 *
 * Inputs are taken in chunks, whose weights stay in the first-level cache. Whatever the number of
 * rows and tiles, an output is the sum, chunk by chunk, of its blocks in ascending order, then of
 * the second planes that its row has there: sum = fma(float(acc), w_scale * x_scale, sum). So a
 * row's result never depends on its company. */
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

#define BLOCK 32
/* Blocks of a chunk: two decoded tiles of it take 24 KB. */
#define CHUNK 24
/* Tiles and rows that are multiplied together: 12 accumulators and 12 sums in registers. */
#define TILES 2
#define ROWS 6

/* Blocks beyond this multiple of the mean block maximum of the row get the second plane. */
#define OUTLIER 3.0f

/* Where the parts of a quantised row lie: two planes of codes, of scales and of starts for weights
 * of Q8 and of NF4, and for each chunk a word whose bits say which of its blocks have a second
 * plane. */
struct form {
    size_t codes[2], scales[2], q8_starts[2], nf4_starts[2], marks, nbytes;
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

/* A chunk of one tile or two: blocks [begin, end) of 32 inputs. `codes` and `scales` are those of
 * the first tile and block; the second tile's lie so many bytes or scales further. */
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

static struct form form_of(uint32_t k) {
    const size_t codes = ((size_t)k + 63) / 64 * 64, blocks = k / BLOCK;
    struct form form = {.codes = {0, codes}};
    form.scales[0] = 2 * codes;
    form.scales[1] = form.scales[0] + 4 * blocks;
    form.q8_starts[0] = form.scales[1] + 4 * blocks;
    form.q8_starts[1] = form.q8_starts[0] + 4 * blocks;
    form.nf4_starts[0] = form.q8_starts[1] + 4 * blocks;
    form.nf4_starts[1] = form.nf4_starts[0] + 4 * blocks;
    form.marks = form.nf4_starts[1] + 4 * blocks;
    form.nbytes = (form.marks + (blocks + CHUNK - 1) / CHUNK * 4 + 63) / 64 * 64;
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
    __m512 low = _mm512_loadu_ps(x + (size_t)b * BLOCK),
           high = _mm512_loadu_ps(x + (size_t)b * BLOCK + 16);
    float scale = max * (1.0f / 127.0f), inverse = 127.0f / max;
    for (int plane = 0; plane < (outlier ? 2 : 1); plane++) {
        int8_t *codes = (int8_t *)dst + form->codes[plane] + (size_t)b * BLOCK;
        const __m512i sum = _mm512_add_epi32(take_codes(&low, codes, inverse, scale),
                                             take_codes(&high, codes + 16, inverse, scale));
        const int32_t codes_sum = _mm512_reduce_add_epi32(sum),
                      q8_start = -(int32_t)LORICA_Q8_ZERO * codes_sum;
        const int32_t nf4_start = (int32_t)lrintf(-LORICA_NF4_ZERO * (float)codes_sum);
        memcpy(dst + form->scales[plane] + 4 * b, &scale, sizeof(scale));
        memcpy(dst + form->q8_starts[plane] + 4 * b, &q8_start, sizeof(q8_start));
        memcpy(dst + form->nf4_starts[plane] + 4 * b, &nf4_start, sizeof(nf4_start));
        scale *= 1.0f / 252.0f; /* half a step becomes 126 */
        inverse *= 252.0f;
    }
    uint32_t word;
    memcpy(&word, dst + form->marks + b / CHUNK * 4, sizeof(word));
    word |= (uint32_t)outlier << b % CHUNK;
    memcpy(dst + form->marks + b / CHUNK * 4, &word, sizeof(word));
}

static void act_quantise_avx512(void *dst, const float *x, uint32_t k) {
    const struct form form = form_of(k);
    float *scales = (float *)((char *)dst + form.scales[0]);
    float mean = 0;
    memset(dst, 0, form.nbytes);
    for (uint32_t b = 0; b < k / BLOCK; b++) {
        const int32_t top = top_bits(x + (size_t)b * BLOCK);
        memcpy(&scales[b], &top, sizeof(top));
        mean += scales[b];
    }
    mean /= (float)(k / BLOCK);
    for (uint32_t b = 0; b < k / BLOCK; b++) {
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

/* Eight inputs of 16 outputs as unsigned weights; `g` counts eights within a block. */
INLINE void eight_inputs(__m512i w[2], const uint8_t *block, uint32_t g, enum layout layout) {
    if (layout == LAYOUT_NF4) {
        const __m512i raw = _mm512_loadu_si512(block + 64 * g), book = codebook();
        w[0] = nf4_low(raw, book);
        w[1] = nf4_high(raw, book);
        return;
    }
    w[0] = _mm512_loadu_si512(block + 128 * g);
    w[1] = _mm512_loadu_si512(block + 128 * g + 64);
    if (layout != LAYOUT_DECODED) {
        const __m512i flip = _mm512_set1_epi8((char)0x80);
        w[0] = _mm512_xor_si512(w[0], flip);
        w[1] = _mm512_xor_si512(w[1], flip);
    }
}

/* sum[t * ROWS + r] += one plane of one block; x[r]: codes, start and scale of row r. */
struct operand {
    const char *codes, *start, *scale;
};

INLINE void add_block(__m512 *sum, const struct operand *x, uint32_t rows, const uint8_t *block,
                      const struct span *span, const __m512 *scale, uint32_t tiles,
                      enum layout layout) {
    __m512i acc[TILES * ROWS];
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++)
            acc[t * ROWS + r] = _mm512_set1_epi32(word(x[r].start));
#pragma GCC unroll 4
    for (uint32_t g = 0; g < 4; g++) {
        __m512i w[TILES][2];
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++)
            eight_inputs(w[t], block + t * span->codes_step, g, layout);
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; half++)
#pragma GCC unroll 6
            for (uint32_t r = 0; r < rows; r++) {
                const __m512i four = _mm512_set1_epi32(word(x[r].codes + 8 * g + 4 * half));
#pragma GCC unroll 2
                for (uint32_t t = 0; t < tiles; t++)
                    acc[t * ROWS + r] = _mm512_dpbusd_epi32(acc[t * ROWS + r], w[t][half], four);
            }
    }
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t t = 0; t < tiles; t++)
            sum[t * ROWS + r] = _mm512_fmadd_ps(
                _mm512_cvtepi32_ps(acc[t * ROWS + r]),
                _mm512_mul_ps(scale[t], _mm512_set1_ps(real(x[r].scale))), sum[t * ROWS + r]);
}

INLINE const uint8_t *block_codes(const struct span *span, uint32_t b, enum layout layout) {
    return span->codes + (size_t)(b - span->begin) * (layout == LAYOUT_NF4 ? 256 : 512);
}

INLINE void block_scales(__m512 *scale, const struct span *span, uint32_t b, uint32_t tiles,
                         enum layout layout) {
    /* Chunks begin at an even block. */
    const size_t at = layout == LAYOUT_Q8 ? b - span->begin : (b - span->begin) / 2;
#pragma GCC unroll 2
    for (uint32_t t = 0; t < tiles; t++)
        scale[t] = _mm512_cvtph_ps(_mm256_loadu_si256(
            (const __m256i *)(span->scales + t * span->scales_step + at * LORICA_TILE_ROWS)));
}

INLINE struct operand operand_of(const struct form *form, const char *row, uint32_t b, int plane,
                                 enum layout layout) {
    const size_t *starts = is_nf4(layout) ? form->nf4_starts : form->q8_starts;
    return (struct operand){row + form->codes[plane] + (size_t)b * BLOCK,
                            row + starts[plane] + (size_t)b * 4,
                            row + form->scales[plane] + (size_t)b * 4};
}

/* The second planes of one row. */
INLINE void add_second(__m512 *sum, const struct form *form, const char *row,
                       const struct span *span, uint32_t tiles, enum layout layout) {
    uint32_t marks = (uint32_t)word(row + form->marks + span->begin / CHUNK * 4);
    for (; marks; marks &= marks - 1) {
        const uint32_t b = span->begin + (uint32_t)__builtin_ctz(marks);
        const struct operand x = operand_of(form, row, b, 1, layout);
        __m512 scale[TILES];
        block_scales(scale, span, b, tiles, layout);
        add_block(sum, &x, 1, block_codes(span, b, layout), span, scale, tiles, layout);
    }
}

/* Fetches of the next span what falls to block b of the rows from `row` on. */
INLINE void fetch_ahead(const struct span *span, uint32_t row, uint32_t b, uint32_t tiles,
                        enum layout layout) {
    const uint32_t lines = is_nf4(layout) ? 4 : 8; /* of one block */
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
        const uint8_t *codes = block_codes(span, b, layout);
        struct operand operands[ROWS];
        __m512 scale[TILES];
        fetch_ahead(span, row, b, tiles, layout);
        block_scales(scale, span, b, tiles, layout);
#pragma GCC unroll 6
        for (uint32_t r = 0; r < rows; r++)
            operands[r] = operand_of(&job->form, x[r], b, 0, layout);
        add_block(sum, operands, rows, codes, span, scale, tiles, layout);
    }
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++)
        add_second(sum + r, &job->form, x[r], span, tiles, layout);
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

static void span_nf4(const struct job *job, const struct span *span, uint32_t tile,
                     uint32_t tiles) {
    if (tiles == 2)
        multiply_tiles(job, span, tile, 2, LAYOUT_NF4);
    else
        multiply_tiles(job, span, tile, 1, LAYOUT_NF4);
}

static void span_q8(const struct job *job, const struct span *span, uint32_t tile, uint32_t tiles) {
    if (tiles == 2)
        multiply_tiles(job, span, tile, 2, LAYOUT_Q8);
    else
        multiply_tiles(job, span, tile, 1, LAYOUT_Q8);
}

static void span_turned(const struct job *job, const struct span *span, uint32_t tile,
                        uint32_t tiles) {
    if (tiles == 2)
        multiply_tiles(job, span, tile, 2, LAYOUT_TURNED);
    else
        multiply_tiles(job, span, tile, 1, LAYOUT_TURNED);
}

/* Decodes the span first: once for all rows. */
static void span_decoded(const struct job *job, const struct span *span, uint32_t tile,
                         uint32_t tiles) {
    uint8_t scratch[TILES * CHUNK * BLOCK * LORICA_TILE_ROWS] __attribute__((aligned(64)));
    const __m512i book = codebook();
    struct span decoded = *span;
    decoded.codes = scratch;
    decoded.codes_step = sizeof(scratch) / TILES;
    for (uint32_t t = 0; t < tiles; t++) {
        const uint8_t *codes = span->codes + t * span->codes_step;
        uint8_t *to = scratch + t * decoded.codes_step;
        for (uint32_t g = 0; g < (span->end - span->begin) * 4; g++, codes += 64, to += 128) {
            const __m512i raw = _mm512_loadu_si512(codes);
            _mm512_store_si512(to, nf4_low(raw, book));
            _mm512_store_si512(to + 64, nf4_high(raw, book));
        }
    }
    if (tiles == 2)
        multiply_tiles(job, &decoded, tile, 2, LAYOUT_DECODED);
    else
        multiply_tiles(job, &decoded, tile, 1, LAYOUT_DECODED);
}

/* Chunk by chunk through tiles [tile0, tile1), one or two tiles at a time. */
struct walk {
    const struct lorica_linear *w;
    uint32_t block; /* inputs that share a scale */
    size_t nbytes;  /* of the codes of such a block of a tile */
    uint32_t tile, tiles, tile1, begin, end;
};

INLINE void walk_to(struct walk *walk, uint32_t tile, uint32_t begin) {
    const uint32_t blocks = walk->w->k / BLOCK;
    walk->tile = tile;
    walk->tiles = walk->tile1 - tile < walk->tiles ? 1 : walk->tiles;
    walk->begin = begin;
    walk->end = blocks - begin < CHUNK ? blocks : begin + CHUNK;
}

INLINE void walk_on(struct walk *walk) {
    if (walk->end < walk->w->k / BLOCK)
        walk_to(walk, walk->tile, walk->end);
    else
        walk_to(walk, walk->tile + walk->tiles, 0);
}

/* Index of a tile's first block of the walk, in blocks that share a scale. */
INLINE size_t walk_at(const struct walk *walk, uint32_t t) {
    return (size_t)(walk->tile + t) * (walk->w->k / walk->block) +
           (size_t)walk->begin * BLOCK / walk->block;
}

INLINE const uint8_t *walk_codes(const struct walk *walk, uint32_t t) {
    return (const uint8_t *)walk->w->codes + walk_at(walk, t) * walk->nbytes;
}

static void product(const struct job *job, const struct lorica_linear *w, uint32_t tile0,
                    uint32_t tile1, uint32_t block, size_t nbytes, span_fn fn) {
    const uint32_t groups = (job->rows + ROWS - 1) / ROWS;
    struct walk walk = {w, block, nbytes, .tiles = job->rows == 1 ? 1 : TILES, .tile1 = tile1};
    for (walk_to(&walk, tile0, 0); walk.tile < tile1 && groups;) {
        struct walk next = walk;
        walk_on(&next);
        const bool more = next.tile < tile1;
        struct span span = {
            .codes = walk_codes(&walk, 0),
            .scales = w->scales + walk_at(&walk, 0) * LORICA_TILE_ROWS,
            .codes_step = (size_t)w->k / block * nbytes,
            .scales_step = (size_t)w->k / block * LORICA_TILE_ROWS,
            .begin = walk.begin,
            .end = walk.end,
            .last = walk.end == w->k / BLOCK,
            .next = {walk_codes(&next, 0), walk_codes(&next, next.tiles - 1)},
            .next_lines =
                more ? (uint32_t)((next.end - next.begin) * BLOCK / block * nbytes / 64) : 0};
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
    product(&job, w, tile0, tile1, LORICA_NF4_BLOCK, LORICA_TILE_BLOCK_NBYTES,
            rows > 18 ? span_decoded : span_nf4);
}

static void q8_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                      const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    const struct job job = make_job(y, ldy, xq, xq_stride, rows, w->k);
    product(&job, w, tile0, tile1, LORICA_Q8_BLOCK, LORICA_TILE_BLOCK_NBYTES, span_q8);
}

static void turned_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                          const struct lorica_linear *w, bool add) {
    struct job job = make_job(y, ldy, xq, xq_stride, rows, w->k);
    job.add = add;
    product(&job, w, 0, w->n / LORICA_TILE_ROWS, LORICA_TURN_BLOCK, LORICA_TURN_BLOCK_NBYTES,
            span_turned);
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
