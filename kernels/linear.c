/* SPDX-License-Identifier: MIT
 * Plain C: activations stay float32. The reference of the faster versions, and what runs where
 * there is none. Then the ladder. */
#include "kernels/linear.h"

#include <math.h>
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

static void q8_tile_c(float y[LORICA_TILE_ROWS], const float *x, const int8_t *codes,
                      const uint16_t *scales, uint32_t blocks) {
    memset(y, 0, LORICA_TILE_ROWS * sizeof(*y));
    for (uint32_t b = 0; b < blocks; b++, codes += LORICA_TILE_BLOCK_NBYTES, x += LORICA_Q8_BLOCK) {
        for (uint32_t r = 0; r < LORICA_TILE_ROWS; r++) {
            float sum = 0;
            for (uint32_t i = 0; i < LORICA_Q8_BLOCK; i++)
                sum += (float)codes[i / 4 * 64 + r * 4 + i % 4] * x[i];
            y[r] += sum * lorica_f16_to_f32(scales[b * LORICA_TILE_ROWS + r]);
        }
    }
}

static void q8_c(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                 const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    const uint32_t blocks = w->k / LORICA_Q8_BLOCK;
    for (uint32_t t = tile0; t < tile1; t++) {
        const size_t first = (size_t)t * blocks;
        for (uint32_t r = 0; r < rows; r++)
            q8_tile_c(y + r * ldy + t * LORICA_TILE_ROWS,
                      (const float *)((const char *)xq + r * xq_stride),
                      (const int8_t *)w->codes + first * LORICA_TILE_BLOCK_NBYTES,
                      w->scales + first * LORICA_TILE_ROWS, blocks);
    }
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
