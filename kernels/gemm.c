/* SPDX-License-Identifier: MIT
 * The reference of both tables, and the ladder. */
#include "kernels/gemm.h"

#include <string.h>

#include "kernels/cpu.h"
#include "kernels/gemm_isa.h"
#include "kernels/gemm_rows.h"

#define NR LORICA_GEMM_NR
#define CHUNK 64 /* inputs decoded at a time on the way to bfloat16; a multiple of 64 */

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

/* -- float32 operands -- */

static void panel_f32_c(void *c, size_t ldc, const struct lorica_gemm_part *parts, size_t count,
                        uint32_t m, uint32_t cols, enum lorica_gemm_out out) {
    for (uint32_t i = 0; i < m; i++) {
        float *row = (float *)c + i * ldc;
        float sum[NR] = {0};
        if (out == LORICA_GEMM_ADD)
            memcpy(sum, row, cols * sizeof(float));
        for (size_t s = 0; s < count; s++) {
            const float *a = (const float *)parts[s].a + i * parts[s].lda;
            const float *panel = parts[s].panel;
            for (uint32_t p = 0; p < parts[s].depth; p++)
                for (uint32_t j = 0; j < NR; j++)
                    sum[j] += a[p] * panel[(size_t)p * NR + j];
        }
        memcpy(row, sum, cols * sizeof(float));
    }
}

void lorica_gemm_pack_w_c(void *panel, const struct lorica_matrix *w, uint32_t row, uint32_t cols,
                          uint32_t k0, uint32_t k1, float scale) {
    float *to = panel;
    for (uint32_t j = 0; j < NR; j++) {
        const bool real = j < cols && row + j < w->n;
        if (real)
            span(w, row + j, k0, k1, to + j, NR);
        for (uint32_t p = 0; p < k1 - k0; p++)
            to[(size_t)p * NR + j] = real ? to[(size_t)p * NR + j] * scale : 0;
    }
}

void lorica_gemm_pack_wt_c(void *panel, const struct lorica_matrix *w, uint32_t row0, uint32_t row1,
                           uint32_t col, uint32_t cols, float scale) {
    const uint32_t end = w->k - col < cols ? w->k : col + cols;
    for (uint32_t i = row0; i < row1; i++) {
        float *to = (float *)panel + (size_t)(i - row0) * NR;
        span(w, i, col, end, to, 1);
        for (uint32_t j = 0; j < NR; j++)
            to[j] = j < end - col ? to[j] * scale : 0;
    }
}

static void pack_rows_f32_c(void *panel, const void *x, size_t ldx, uint32_t depth, uint32_t cols) {
    for (uint32_t i = 0; i < depth; i++) {
        float *to = (float *)panel + (size_t)i * NR;
        memcpy(to, (const float *)x + i * ldx, cols * sizeof(float));
        memset(to + cols, 0, (NR - cols) * sizeof(float));
    }
}

static void pack_cols_f32_c(void *panel, const void *x, size_t ldx, uint32_t depth, uint32_t cols) {
    float *to = panel;
    for (uint32_t j = 0; j < NR; j++)
        for (uint32_t p = 0; p < depth; p++)
            to[(size_t)p * NR + j] = j < cols ? ((const float *)x)[j * ldx + p] : 0;
}

static void turn_f32_c(void *to, size_t ldt, const void *x, size_t ldx, uint32_t rows,
                       uint32_t cols) {
    for (uint32_t j = 0; j < cols; j++)
        for (uint32_t i = 0; i < rows; i++)
            ((float *)to)[j * ldt + i] = ((const float *)x)[i * ldx + j];
}

static void copy_to_f32(void *to, const float *from, size_t count) {
    memcpy(to, from, count * sizeof(float));
}

static void copy_from_f32(float *to, const void *from, size_t count) {
    memcpy(to, from, count * sizeof(float));
}

static double peak_f32_c(uint64_t rounds) {
    volatile float sink;
    float lanes[16] = {0};
    for (uint64_t r = 0; r < rounds; r++)
        for (int j = 0; j < 16; j++)
            lanes[j] = lanes[j] * 0.5f + 1.0f;
    for (int j = 0; j < 16; j++)
        sink = lanes[j];
    (void)sink;
    return 32.0 * (double)rounds;
}

/* -- bfloat16 operands -- */

static void panel_bf16_c(void *c, size_t ldc, const struct lorica_gemm_part *parts, size_t count,
                         uint32_t m, uint32_t cols, enum lorica_gemm_out out) {
    for (uint32_t i = 0; i < m; i++) {
        float *row = (float *)c + i * ldc;
        float sum[NR] = {0};
        if (out == LORICA_GEMM_ADD)
            memcpy(sum, row, cols * sizeof(float));
        for (size_t s = 0; s < count; s++) {
            const uint16_t *a = (const uint16_t *)parts[s].a + i * parts[s].lda;
            const uint16_t *panel = parts[s].panel;
            for (uint32_t p = 0; p < parts[s].depth; p++)
                for (uint32_t j = 0; j < NR; j++)
                    sum[j] += lorica_bf16_to_f32(a[p]) *
                              lorica_bf16_to_f32(panel[((size_t)(p / 2) * NR + j) * 2 + p % 2]);
        }
        if (out != LORICA_GEMM_OPERAND) {
            memcpy(row, sum, cols * sizeof(float));
            continue;
        }
        for (uint32_t j = 0; j < cols; j++)
            ((uint16_t *)c)[i * ldc + j] = lorica_f32_to_bf16(sum[j]);
    }
}

/* Interleaves decoded rows into pairs; the last of an odd number goes with zeros. */
static void pairs_c(uint16_t *to, const float *from, uint32_t depth) {
    for (uint32_t p = 0; p < depth + depth % 2; p++)
        for (uint32_t j = 0; j < NR; j++)
            to[((size_t)(p / 2) * NR + j) * 2 + p % 2] =
                p < depth ? lorica_f32_to_bf16(from[(size_t)p * NR + j]) : 0;
}

static void pack_w_bf16_c(void *panel, const struct lorica_matrix *w, uint32_t row, uint32_t cols,
                          uint32_t k0, uint32_t k1, float scale) {
    float floats[CHUNK * NR];
    for (uint32_t k = k0; k < k1; k += CHUNK) {
        const uint32_t end = k1 - k < CHUNK ? k1 : k + CHUNK;
        lorica_gemm_pack_w_c(floats, w, row, cols, k, end, scale);
        pairs_c((uint16_t *)panel + (size_t)(k - k0) * NR, floats, end - k);
    }
}

static void pack_wt_bf16_c(void *panel, const struct lorica_matrix *w, uint32_t row0, uint32_t row1,
                           uint32_t col, uint32_t cols, float scale) {
    float floats[CHUNK * NR];
    for (uint32_t i = row0; i < row1; i += CHUNK) {
        const uint32_t end = row1 - i < CHUNK ? row1 : i + CHUNK;
        lorica_gemm_pack_wt_c(floats, w, i, end, col, cols, scale);
        pairs_c((uint16_t *)panel + (size_t)(i - row0) * NR, floats, end - i);
    }
}

static void pack_rows_bf16_c(void *panel, const void *x, size_t ldx, uint32_t depth,
                             uint32_t cols) {
    uint16_t *to = panel;
    for (uint32_t i = 0; i < depth + depth % 2; i++)
        for (uint32_t j = 0; j < NR; j++)
            to[((size_t)(i / 2) * NR + j) * 2 + i % 2] =
                i < depth && j < cols ? ((const uint16_t *)x)[i * ldx + j] : 0;
}

static void pack_cols_bf16_c(void *panel, const void *x, size_t ldx, uint32_t depth,
                             uint32_t cols) {
    uint16_t *to = panel;
    for (uint32_t j = 0; j < NR; j++)
        for (uint32_t p = 0; p < depth + depth % 2; p++)
            to[((size_t)(p / 2) * NR + j) * 2 + p % 2] =
                p < depth && j < cols ? ((const uint16_t *)x)[j * ldx + p] : 0;
}

static void turn_bf16_c(void *to, size_t ldt, const void *x, size_t ldx, uint32_t rows,
                        uint32_t cols) {
    for (uint32_t j = 0; j < cols; j++)
        for (uint32_t i = 0; i < rows + rows % 2; i++)
            ((uint16_t *)to)[j * ldt + i] = i < rows ? ((const uint16_t *)x)[i * ldx + j] : 0;
}

static void store_bf16_c(void *to, const float *from, size_t count) {
    for (size_t i = 0; i < count; i++)
        ((uint16_t *)to)[i] = lorica_f32_to_bf16(from[i]);
}

static void load_bf16_c(float *to, const void *from, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = lorica_bf16_to_f32(((const uint16_t *)from)[i]);
}

/* -- tables -- */

static void fill_c(struct lorica_gemm_kernels *kernels) {
    const bool bf16 = kernels->operand == LORICA_OPERAND_BF16;
    kernels->operand_nbytes = bf16 ? sizeof(uint16_t) : sizeof(float);
    kernels->panel = bf16 ? panel_bf16_c : panel_f32_c;
    kernels->pack_w = bf16 ? pack_w_bf16_c : lorica_gemm_pack_w_c;
    kernels->pack_wt = bf16 ? pack_wt_bf16_c : lorica_gemm_pack_wt_c;
    kernels->pack_rows = bf16 ? pack_rows_bf16_c : pack_rows_f32_c;
    kernels->pack_cols = bf16 ? pack_cols_bf16_c : pack_cols_f32_c;
    kernels->turn = bf16 ? turn_bf16_c : turn_f32_c;
    kernels->store = bf16 ? store_bf16_c : copy_to_f32;
    kernels->load = bf16 ? load_bf16_c : copy_from_f32;
    kernels->squeeze = store_bf16_c;
    kernels->expand = load_bf16_c;
    kernels->exp = rows_exp;
    kernels->peak = peak_f32_c;
    rows_fill_table(kernels);
}

void lorica_gemm_kernels_init(struct lorica_gemm_kernels *kernels, enum lorica_operand operand) {
    kernels->operand = operand;
    fill_c(kernels);
#if defined(__x86_64__)
    if (lorica_cpu_level() >= LORICA_CPU_AVX2 && lorica_cpu_level() <= LORICA_CPU_AVX512)
        lorica_gemm_kernels_init_avx2(kernels);
    if (lorica_cpu_level() == LORICA_CPU_AVX512)
        lorica_gemm_kernels_init_avx512(kernels);
#endif
}

enum lorica_operand lorica_gemm_fastest(void) {
    return lorica_cpu_level() == LORICA_CPU_AVX512 ? LORICA_OPERAND_BF16 : LORICA_OPERAND_F32;
}
