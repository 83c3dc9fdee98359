/* SPDX-License-Identifier: MIT */
#include <arm_neon.h>

#include "kernels/arm/math_neon.h"
#include "kernels/kernels.h"

/* Four of eight int8 as floats. */
static inline float32x4_t low_floats(int8x8_t q) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(q))));
}

static inline float32x4_t high_floats(int8x8_t q) {
    return vcvtq_f32_s32(vmovl_high_s16(vmovl_s8(q)));
}

static float dot(const float *x, const int8_t *a, uint32_t k) {
    float32x4_t s0 = vdupq_n_f32(0), s1 = s0;
    uint32_t j = 0;
    for (; j + 8 <= k; j += 8) {
        const int8x8_t q = vld1_s8(a + j);
        s0 = vfmaq_f32(s0, low_floats(q), vld1q_f32(x + j));
        s1 = vfmaq_f32(s1, high_floats(q), vld1q_f32(x + j + 4));
    }
    float sum = vaddvq_f32(vaddq_f32(s0, s1));
    for (; j < k; j++)
        sum += a[j] * x[j];
    return sum;
}

static void shrink_neon(const struct lorica_lora_rows *rows, const float *x, size_t ldx, uint32_t k,
                        const int8_t *a, const float *scales, uint32_t i0, uint32_t i1) {
    for (uint32_t n = 0; n < rows->count; n++) {
        const size_t r = rows->index[n];
        for (uint32_t i = i0; i < i1; i++)
            rows->t[r * rows->ldt + i] = scales[i] * dot(x + r * ldx, a + (size_t)i * k, k);
    }
}

static void expand_row(float *y, const float *t, uint32_t rank, const int8_t *b) {
    float32x4_t sum[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (uint32_t j = 0; j < rank; j++, b += 16)
        for (int v = 0; v < 4; v += 2) {
            const int8x8_t q = vld1_s8(b + 4 * v);
            sum[v] = vfmaq_n_f32(sum[v], low_floats(q), t[j]);
            sum[v + 1] = vfmaq_n_f32(sum[v + 1], high_floats(q), t[j]);
        }
    for (int v = 0; v < 4; v++)
        vst1q_f32(y + 4 * v, vaddq_f32(vld1q_f32(y + 4 * v), sum[v]));
}

static void expand_neon(const struct lorica_lora_rows *rows, float *y, size_t ldy, uint32_t rank,
                        const int8_t *b, uint32_t tile0, uint32_t tile1) {
    for (size_t tile = tile0; tile < tile1; tile++)
        for (uint32_t n = 0; n < rows->count; n++)
            expand_row(y + rows->index[n] * ldy + tile * 16, rows->t + rows->index[n] * rows->ldt,
                       rank, b + tile * rank * 16);
}

void lorica_lora_kernels_neon(struct lorica_lora_kernels *kernels) {
    kernels->shrink = shrink_neon;
    kernels->expand = expand_neon;
}
