/* SPDX-License-Identifier: MIT
 * What the NEON kernels share: exp, as exp_avx2.h has it. */
#ifndef LORICA_KERNELS_ARM_MATH_NEON_H
#define LORICA_KERNELS_ARM_MATH_NEON_H

#if defined(__aarch64__)
#include <arm_neon.h>

/* Relative error below 2e-7 for results that are normal numbers; 0 below -87.3, infinity above
 * 88.7, NaN stays NaN. */
static inline float32x4_t exp_neon(float32x4_t x) {
    const float32x4_t low = vdupq_n_f32(-87.3365447f), high = vdupq_n_f32(88.7228394f);
    const float32x4_t v = vminq_f32(vmaxq_f32(x, low), high);
    const float32x4_t n = vrndnq_f32(vmulq_n_f32(v, 1.44269504f));
    float32x4_t r = vfmsq_f32(v, n, vdupq_n_f32(0.693359375f));
    r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4f));
    float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
    p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    p = vfmaq_f32(vaddq_f32(r, vdupq_n_f32(1)), vmulq_f32(r, r), p);
    /* 2^n in two factors: n can be 128. */
    const int32x4_t i = vcvtq_s32_f32(n), half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
    const float32x4_t s1 = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    const float32x4_t s2 =
        vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(i, half), bias), 23));
    float32x4_t y = vmulq_f32(vmulq_f32(p, s1), s2);
    y = vbslq_f32(vcltq_f32(x, low), vdupq_n_f32(0), y);
    y = vbslq_f32(vcgtq_f32(x, high), vdupq_n_f32(__builtin_inff()), y);
    return vbslq_f32(vceqq_f32(x, x), y, x);
}
#endif

#endif
