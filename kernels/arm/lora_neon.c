/* SPDX-License-Identifier: MIT */
#include <arm_neon.h>

#include "kernels/arm/math_neon.h"
#include "kernels/kernels.h"

static float dot(const float *x, const uint16_t *a, uint32_t k) {
    float32x4_t s0 = vdupq_n_f32(0), s1 = s0;
    uint32_t j = 0;
    for (; j + 8 <= k; j += 8) {
        s0 = vfmaq_f32(s0, bf16_neon(a + j), vld1q_f32(x + j));
        s1 = vfmaq_f32(s1, bf16_neon(a + j + 4), vld1q_f32(x + j + 4));
    }
    float sum = vaddvq_f32(vaddq_f32(s0, s1));
    for (; j < k; j++)
        sum += bf16_scalar(a[j]) * x[j];
    return sum;
}

static void shrink_neon(const struct lorica_lora_rows *rows, const float *x, size_t ldx, uint32_t k,
                        const uint16_t *a, uint32_t i0, uint32_t i1) {
    for (uint32_t n = 0; n < rows->count; n++) {
        const size_t r = rows->index[n];
        for (uint32_t i = i0; i < i1; i++)
            rows->t[r * rows->ldt + i] = dot(x + r * ldx, a + (size_t)i * k, k);
    }
}

static void expand_row(float *y, const float *t, uint32_t rank, const uint16_t *b) {
    float32x4_t sum[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (uint32_t j = 0; j < rank; j++, b += 16)
        for (int v = 0; v < 4; v++)
            sum[v] = vfmaq_n_f32(sum[v], bf16_neon(b + 4 * v), t[j]);
    for (int v = 0; v < 4; v++)
        vst1q_f32(y + 4 * v, vaddq_f32(vld1q_f32(y + 4 * v), sum[v]));
}

static void expand_neon(const struct lorica_lora_rows *rows, float *y, size_t ldy, uint32_t rank,
                        const uint16_t *b, uint32_t tile0, uint32_t tile1) {
    for (size_t tile = tile0; tile < tile1; tile++)
        for (uint32_t n = 0; n < rows->count; n++)
            expand_row(y + rows->index[n] * ldy + tile * 16, rows->t + rows->index[n] * rows->ldt,
                       rank, b + tile * rank * 16);
}

void lorica_lora_kernels_neon(struct lorica_lora_kernels *kernels) {
    kernels->shrink = shrink_neon;
    kernels->expand = expand_neon;
}
