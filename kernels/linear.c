/* SPDX-License-Identifier: MIT
 * Plain C: activations stay float32. The reference of the faster versions, and what runs where
 * there is none. Then the ladder. */
#include "kernels/linear.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

int lorica_linear_nf4_scales(const struct lorica_matrix *m, uint16_t *scales) {
    const uint32_t blocks = m->k / LORICA_NF4_BLOCK;
    memset(scales, 0, (size_t)lorica_matrix_tiles(m) * LORICA_TILE_ROWS * blocks * sizeof(*scales));
    for (uint32_t row = 0; row < m->n; row++) {
        const size_t tile = row / LORICA_TILE_ROWS;
        for (uint32_t b = 0; b < blocks; b++) {
            const float absmax = lorica_nf4_absmax(m, (size_t)row * blocks + b);
            if (!(fabsf(absmax) <= 65504))
                return LORICA_EUNSUPPORTED;
            scales[(tile * blocks + b) * LORICA_TILE_ROWS + row % LORICA_TILE_ROWS] =
                lorica_f32_to_f16(absmax);
        }
    }
    return 0;
}

static size_t act_nbytes_c(uint32_t k) { return ((size_t)k * sizeof(float) + 63) / 64 * 64; }

static void act_quantise_c(void *dst, const float *x, uint32_t k) {
    memcpy(dst, x, k * sizeof(*x));
}

/* One row of activations against one tile. */
static void nf4_tile_c(float y[LORICA_TILE_ROWS], const float *x, const uint8_t *codes,
                       const uint16_t *scales, uint32_t blocks) {
    memset(y, 0, LORICA_TILE_ROWS * sizeof(*y));
    for (uint32_t b = 0; b < blocks;
         b++, codes += LORICA_TILE_BLOCK_NBYTES, x += LORICA_NF4_BLOCK) {
        for (uint32_t r = 0; r < LORICA_TILE_ROWS; r++) {
            float sum = 0;
            for (uint32_t g = 0; g < 8; g++) {
                for (uint32_t j = 0; j < 4; j++) {
                    const uint8_t pair = codes[g * 64 + r * 4 + j];
                    sum += lorica_nf4_table[pair & 15] * x[g * 8 + j];
                    sum += lorica_nf4_table[pair >> 4] * x[g * 8 + 4 + j];
                }
            }
            y[r] += sum * lorica_f16_to_f32(scales[b * LORICA_TILE_ROWS + r]);
        }
    }
}

static void nf4_c(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                  const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    const uint32_t blocks = w->k / LORICA_NF4_BLOCK;
    for (uint32_t t = tile0; t < tile1; t++) {
        const size_t first = (size_t)t * blocks;
        for (uint32_t r = 0; r < rows; r++)
            nf4_tile_c(y + r * ldy + t * LORICA_TILE_ROWS,
                       (const float *)((const char *)xq + r * xq_stride),
                       (const uint8_t *)w->codes + first * LORICA_TILE_BLOCK_NBYTES,
                       w->scales + first * LORICA_TILE_ROWS, blocks);
    }
}

/* y += the same of int8, `each` inputs a scale. */
static void int8_tile_c(float y[LORICA_TILE_ROWS], const float *x, const int8_t *codes,
                        const uint16_t *scales, uint32_t blocks, uint32_t each) {
    for (uint32_t b = 0; b < blocks; b++, codes += (size_t)each * LORICA_TILE_ROWS, x += each) {
        for (uint32_t r = 0; r < LORICA_TILE_ROWS; r++) {
            float sum = 0;
            for (uint32_t i = 0; i < each; i++)
                sum += (float)codes[i / 4 * 64 + r * 4 + i % 4] * x[i];
            y[r] += sum * lorica_f16_to_f32(scales[b * LORICA_TILE_ROWS + r]);
        }
    }
}

static void int8_c(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                   const struct lorica_linear *w, uint32_t tile0, uint32_t tile1, uint32_t each,
                   bool add) {
    const uint32_t blocks = w->k / each;
    for (uint32_t t = tile0; t < tile1; t++) {
        const size_t first = (size_t)t * blocks;
        for (uint32_t r = 0; r < rows; r++) {
            float *to = y + r * ldy + t * LORICA_TILE_ROWS;
            if (!add)
                memset(to, 0, LORICA_TILE_ROWS * sizeof(*to));
            int8_tile_c(to, (const float *)((const char *)xq + r * xq_stride),
                        (const int8_t *)w->codes + first * each * LORICA_TILE_ROWS,
                        w->scales + first * LORICA_TILE_ROWS, blocks, each);
        }
    }
}

static void q8_c(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                 const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    int8_c(y, ldy, xq, xq_stride, rows, w, tile0, tile1, LORICA_Q8_BLOCK, false);
}

static void turned_c(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                     const struct lorica_linear *w, bool add) {
    int8_c(y, ldy, xq, xq_stride, rows, w, 0, w->n / LORICA_TILE_ROWS, LORICA_TURN_BLOCK, add);
}

static float dense_value(const struct lorica_linear *w, size_t at) {
    return w->format == LORICA_FORMAT_F32   ? ((const float *)w->codes)[at]
           : w->format == LORICA_FORMAT_F16 ? lorica_f16_to_f32(((const uint16_t *)w->codes)[at])
                                            : lorica_bf16_to_f32(((const uint16_t *)w->codes)[at]);
}

static void dense_c(float *y, size_t ldy, const float *x, size_t ldx, uint32_t rows,
                    const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t i = tile0 * LORICA_TILE_ROWS; i < tile1 * LORICA_TILE_ROWS; i++) {
            float sum = 0;
            for (uint32_t j = 0; i < w->n && j < w->k; j++)
                sum += dense_value(w, (size_t)i * w->k + j) * x[r * ldx + j];
            y[r * ldy + i] = sum;
        }
    }
}

/* -- turning: integer arithmetic, so that every level rounds alike -- */

/* a * b / 2^15, rounded: vpmulhrsw. */
static int32_t times_15(int32_t a, int32_t b) { return (a * b + (1 << 14)) >> 15; }

/* Index of a block of scales: that of column `col` of 16 rows from `row` on. */
static size_t scales_at(const struct lorica_linear *w, uint32_t row, uint32_t col) {
    const uint32_t block = w->format == LORICA_FORMAT_NF4 ? LORICA_NF4_BLOCK : LORICA_Q8_BLOCK;
    return ((size_t)(row / LORICA_TILE_ROWS) * (w->k / block) + col / block) * LORICA_TILE_ROWS;
}

/* A weight in steps: of 1 / 32767 (NF4) or 1 / 256 (Q8). */
static int32_t steps_of(const struct lorica_linear *w, uint32_t row, uint32_t col) {
    const size_t r = row % LORICA_TILE_ROWS,
                 at = scales_at(w, row, col) / LORICA_TILE_ROWS * LORICA_TILE_BLOCK_NBYTES;
    const uint8_t *codes = (const uint8_t *)w->codes + at;
    if (w->format == LORICA_FORMAT_Q8)
        return (int8_t)codes[col % LORICA_Q8_BLOCK / 4 * 64 + r * 4 + col % 4] * 256;
    const uint8_t pair = codes[col % LORICA_NF4_BLOCK / 8 * 64 + r * 4 + col % 4];
    return lorica_nf4_steps[col % 8 < 4 ? pair & 15 : pair >> 4];
}

static void turn_c(int8_t *codes, uint16_t *scales, const struct lorica_linear *w, const float *by,
                   uint32_t row, uint32_t col) {
    const uint32_t padded = (w->n + LORICA_TILE_ROWS - 1) / LORICA_TILE_ROWS * LORICA_TILE_ROWS;
    const uint32_t left = row < padded ? padded - row : 0,
                   rows = left < LORICA_TURN_BLOCK ? left : LORICA_TURN_BLOCK;
    const float steps = w->format == LORICA_FORMAT_NF4 ? 32767 : 256;
    float of[LORICA_TURN_BLOCK] = {0}, top = 0;
    for (uint32_t i = 0; i < rows; i++) {
        of[i] = lorica_f16_to_f32(w->scales[scales_at(w, row + i, col) + i % LORICA_TILE_ROWS]);
        of[i] *= by ? by[row + i] : 1;
        top = fabsf(of[i]) > top ? fabsf(of[i]) : top;
    }
    const float inverse = top > 0 ? 32767.0f / top : 0, unit = top * (LORICA_TURN_UNIT / steps);
    memset(codes, 0, LORICA_TURN_BLOCK_NBYTES);
    for (uint32_t j = 0; j < LORICA_TILE_ROWS; j++) {
        int32_t words[LORICA_TURN_BLOCK] = {0}, most = 0;
        for (uint32_t i = 0; i < rows; i++) {
            const float share = of[i] * inverse;
            words[i] = times_15(steps_of(w, row + i, col + j),
                                (int32_t)lrintf(share < 32767 ? share : 32767));
            most = abs(words[i]) > most ? abs(words[i]) : most;
        }
        const float enough = LORICA_TURN_CODES / (float)most;
        const int32_t factor = enough < 32767 ? (int32_t)enough : 32767;
        for (uint32_t i = 0; i < rows; i++)
            codes[i / 4 * 64 + j * 4 + i % 4] = (int8_t)times_15(words[i], factor);
        scales[j] = lorica_f32_to_f16(unit / (float)factor);
    }
}

void lorica_linear_turn(const struct lorica_linear_kernels *kernels, int8_t *codes,
                        uint16_t *scales, const struct lorica_linear *w, const float *by,
                        uint32_t row, uint32_t depth, uint32_t tile0, uint32_t tile1) {
    for (uint32_t t = tile0; t < tile1; t++)
        for (uint32_t i = 0; i < depth;
             i += LORICA_TURN_BLOCK, codes += LORICA_TURN_BLOCK_NBYTES, scales += LORICA_TILE_ROWS)
            kernels->turn(codes, scales, w, by, row + i, t * LORICA_TILE_ROWS);
}

static double peak_c(uint64_t rounds) {
    volatile float sum = 0;
    for (uint64_t r = 0; r < rounds; r++)
        sum += 0.5f * (float)r;
    (void)sum;
    return 2.0 * (double)rounds;
}

void lorica_linear_kernels_init(struct lorica_linear_kernels *kernels) {
    *kernels = (struct lorica_linear_kernels){
        .act_nbytes = act_nbytes_c,
        .act_quantise = act_quantise_c,
        .nf4 = nf4_c,
        .q8 = q8_c,
        .dense = dense_c,
        .turn = turn_c,
        .turned = turned_c,
        .peak = peak_c,
        .peak_form = "plain C",
    };
#if defined(__x86_64__)
    if (lorica_cpu_level() == LORICA_CPU_C)
        return;
    lorica_linear_kernels_avx2(kernels);
    if (lorica_cpu_level() <= LORICA_CPU_AVXVNNI)
        return;
    lorica_linear_kernels_avx512(kernels);
#elif defined(__aarch64__)
    if (lorica_cpu_level() == LORICA_CPU_NEON)
        lorica_linear_kernels_neon(kernels);
#endif
}
