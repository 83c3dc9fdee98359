/* SPDX-License-Identifier: MIT */
#include "kernels/lora.h"

#include "kernels/kernels.h"
#include "kernels/matrix.h"

static void shrink_c(const struct lorica_lora_rows *rows, const float *x, size_t ldx, uint32_t k,
                     const int8_t *a, const float *scales, uint32_t i0, uint32_t i1) {
    for (uint32_t r = 0; r < rows->count; r++) {
        const float *from = x + rows->index[r] * ldx;
        for (uint32_t i = i0; i < i1; i++) {
            float sum = 0;
            for (uint32_t j = 0; j < k; j++)
                sum += a[(size_t)i * k + j] * from[j];
            rows->t[rows->index[r] * rows->ldt + i] = scales[i] * sum;
        }
    }
}

static void expand_c(const struct lorica_lora_rows *rows, float *y, size_t ldy, uint32_t rank,
                     const int8_t *b, uint32_t tile0, uint32_t tile1) {
    for (uint32_t r = 0; r < rows->count; r++) {
        const float *t = rows->t + rows->index[r] * rows->ldt;
        float *to = y + rows->index[r] * ldy;
        for (uint32_t i = tile0 * LORICA_TILE_ROWS; i < tile1 * LORICA_TILE_ROWS; i++) {
            const int8_t *tile = b + (size_t)(i / LORICA_TILE_ROWS) * rank * LORICA_TILE_ROWS;
            float sum = 0;
            for (uint32_t j = 0; j < rank; j++)
                sum += tile[j * LORICA_TILE_ROWS + i % LORICA_TILE_ROWS] * t[j];
            to[i] += sum;
        }
    }
}

void lorica_lora_kernels_init(struct lorica_lora_kernels *kernels) {
    *kernels = (struct lorica_lora_kernels){.shrink = shrink_c, .expand = expand_c};
#if defined(__x86_64__)
    if (lorica_cpu_level() == LORICA_CPU_C)
        return;
    lorica_lora_kernels_avx2(kernels);
    if (lorica_cpu_level() <= LORICA_CPU_AVXVNNI)
        return;
    lorica_lora_kernels_avx512(kernels);
#elif defined(__aarch64__)
    if (lorica_cpu_level() == LORICA_CPU_NEON)
        lorica_lora_kernels_neon(kernels);
#endif
}
