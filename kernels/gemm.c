/* SPDX-License-Identifier: MIT
 * The reference products, and the ladder. */
#include "kernels/gemm.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/gemm_isa.h"

#define NR LORICA_GEMM_NR

static void exp_c(float *y, const float *x, uint32_t n, float scale, float offset) {
    for (uint32_t i = 0; i < n; i++)
        y[i] = expf(scale * x[i] + offset);
}

void lorica_gemm_panel_c(float *c, size_t ldc, const float *a, size_t lda, const float *panel,
                         uint32_t m, uint32_t depth, uint32_t cols, int accumulate) {
    for (uint32_t i = 0; i < m; i++) {
        float sum[NR] = {0};
        if (accumulate)
            memcpy(sum, c + i * ldc, cols * sizeof(float));
        for (uint32_t p = 0; p < depth; p++) {
            const float x = a[i * lda + p];
            const float *row = panel + (size_t)p * NR;
            for (uint32_t j = 0; j < NR; j++)
                sum[j] += x * row[j];
        }
        memcpy(c + i * ldc, sum, cols * sizeof(float));
    }
}

/* dst[(j - k0) * stride] = W[row][j] for j in [k0, k1), tiled NF4. */
static void span_nf4_tiled(const struct lorica_matrix *w, uint32_t row, uint32_t k0, uint32_t k1,
                           float *dst, size_t stride) {
    const uint32_t blocks = w->k / LORICA_NF4_BLOCK;
    const uint8_t *tile =
        (const uint8_t *)w->data + (size_t)(row / LORICA_TILE_ROWS) * blocks * 512;
    const uint32_t r = row % LORICA_TILE_ROWS;
    float absmax = 0;
    for (uint32_t j = k0; j < k1; j++) {
        const uint32_t block = j / LORICA_NF4_BLOCK, within = j % LORICA_NF4_BLOCK;
        if (j == k0 || within == 0)
            absmax = lorica_nf4_absmax(w, (size_t)row * blocks + block);
        const uint8_t byte =
            tile[(size_t)block * 512 + within / 8 * 64 + (size_t)4 * r + within % 4];
        const uint8_t code = within % 8 < 4 ? byte & 15 : byte >> 4;
        dst[(j - k0) * stride] = lorica_nf4_table[code] * absmax;
    }
}

/* The same for NF4 as bitsandbytes packs it. */
static void span_nf4_flat(const struct lorica_matrix *w, uint32_t row, uint32_t k0, uint32_t k1,
                          float *dst, size_t stride) {
    const uint8_t *data = w->data;
    float absmax = 0;
    for (uint32_t j = k0; j < k1; j++) {
        const size_t at = (size_t)row * w->k + j;
        if (j == k0 || at % LORICA_NF4_BLOCK == 0)
            absmax = lorica_nf4_absmax(w, at / LORICA_NF4_BLOCK);
        const uint8_t code = at % 2 == 0 ? data[at / 2] >> 4 : data[at / 2] & 15;
        dst[(j - k0) * stride] = lorica_nf4_table[code] * absmax;
    }
}

static void span_q8(const struct lorica_matrix *w, uint32_t row, uint32_t k0, uint32_t k1,
                    float *dst, size_t stride) {
    const size_t tile = row / LORICA_TILE_ROWS, blocks = w->k / LORICA_Q8_BLOCK;
    const uint32_t r = row % LORICA_TILE_ROWS;
    const int8_t *data = (const int8_t *)w->data + tile * blocks * 512;
    const uint16_t *scales = w->scales + tile * blocks * LORICA_TILE_ROWS;
    float scale = 0;
    for (uint32_t j = k0; j < k1; j++) {
        const uint32_t block = j / LORICA_Q8_BLOCK, within = j % LORICA_Q8_BLOCK;
        if (j == k0 || within == 0)
            scale = lorica_f16_to_f32(scales[(size_t)block * LORICA_TILE_ROWS + r]);
        const int8_t q = data[(size_t)block * 512 + within / 4 * 64 + (size_t)4 * r + within % 4];
        dst[(j - k0) * stride] = (float)q * scale;
    }
}

/* Any format: dst[(j - k0) * stride] = W[row][j] for j in [k0, k1). */
static void span(const struct lorica_matrix *w, uint32_t row, uint32_t k0, uint32_t k1, float *dst,
                 size_t stride) {
    const size_t at = (size_t)row * w->k;
    switch (w->format) {
    case LORICA_FORMAT_NF4:
        if (lorica_matrix_is_tiled(w))
            span_nf4_tiled(w, row, k0, k1, dst, stride);
        else
            span_nf4_flat(w, row, k0, k1, dst, stride);
        break;
    case LORICA_FORMAT_Q8:
        span_q8(w, row, k0, k1, dst, stride);
        break;
    case LORICA_FORMAT_F32:
        for (uint32_t j = k0; j < k1; j++)
            dst[(j - k0) * stride] = ((const float *)w->data)[at + j];
        break;
    case LORICA_FORMAT_F16:
        for (uint32_t j = k0; j < k1; j++)
            dst[(j - k0) * stride] = lorica_f16_to_f32(((const uint16_t *)w->data)[at + j]);
        break;
    case LORICA_FORMAT_BF16:
    default:
        for (uint32_t j = k0; j < k1; j++)
            dst[(j - k0) * stride] = lorica_bf16_to_f32(((const uint16_t *)w->data)[at + j]);
        break;
    }
}

void lorica_gemm_pack_w_c(float *panel, const struct lorica_matrix *w, uint32_t row, uint32_t cols,
                          uint32_t k0, uint32_t k1) {
    for (uint32_t j = 0; j < NR; j++) {
        if (j < cols && row + j < w->n) {
            span(w, row + j, k0, k1, panel + j, NR);
            continue;
        }
        for (uint32_t p = 0; p < k1 - k0; p++)
            panel[(size_t)p * NR + j] = 0;
    }
}

void lorica_gemm_pack_wt_c(float *panel, const struct lorica_matrix *w, uint32_t row0,
                           uint32_t row1, uint32_t col, uint32_t cols) {
    const uint32_t end = w->k - col < cols ? w->k : col + cols;
    for (uint32_t i = row0; i < row1; i++) {
        float *to = panel + (size_t)(i - row0) * NR;
        span(w, i, col, end, to, 1);
        memset(to + (end - col), 0, (NR - (end - col)) * sizeof(float));
    }
}

void lorica_gemm_kernels_init(struct lorica_gemm_kernels *kernels) {
    kernels->exp = exp_c;
    kernels->panel = lorica_gemm_panel_c;
    kernels->pack_w = lorica_gemm_pack_w_c;
    kernels->pack_wt = lorica_gemm_pack_wt_c;
#if defined(__x86_64__)
    if (lorica_cpu_level() >= LORICA_CPU_AVX2 && lorica_cpu_level() <= LORICA_CPU_AVX512)
        lorica_gemm_kernels_init_avx2(kernels);
    if (lorica_cpu_level() == LORICA_CPU_AVX512)
        lorica_gemm_kernels_init_avx512(kernels);
#endif
}
