/* SPDX-License-Identifier: MIT */
#include <arm_neon.h>

#include "kernels/arm/math_neon.h"
#include "kernels/kernels.h"

#define LANES 4
/* 6 queries: 24 sums, four operands and a factor in 32 registers. */
#define SCORE_PAGES(queries, format) 1
#define GATHER_VECS(queries, format) 4
#define PAIRS 0
#define UNITS 0

typedef float32x4_t vec;

static inline vec vec_zero(void) { return vdupq_n_f32(0); }
static inline vec vec_set1(float x) { return vdupq_n_f32(x); }
static inline vec vec_load(const float *at) { return vld1q_f32(at); }
static inline void vec_store(float *at, vec v) { vst1q_f32(at, v); }
static inline vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
static inline vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
static inline vec vec_fma_in_place(vec a, vec b, vec c) { return vec_fma(a, b, c); }
static inline vec vec_max(vec a, vec b) { return vmaxq_f32(a, b); }
static inline float vec_top(vec v) { return vmaxvq_f32(v); }
static inline float vec_sum(vec v) { return vaddvq_f32(v); }

/* As in attn_avx2.c. A maximum with NaN is NaN, and NaN as an integer is 0. */
static inline vec vec_exp2(vec v) {
    const vec x = vmaxq_f32(v, vdupq_n_f32(-127));
    const int32x4_t n = vcvtnq_s32_f32(x);
    const vec r = vsubq_f32(x, vcvtq_f32_s32(n));
    vec p = vdupq_n_f32(1.32646516e-3f);
    p = vfmaq_f32(vdupq_n_f32(9.67151858e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.55073395e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(2.40222424e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(6.93147004e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1), p, r);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(n, 23)));
}

static inline vec vec_low(const uint8_t *at) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(vld1q_u8(at)), 16));
}

static inline vec vec_high(const uint8_t *at) {
    return vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_u8(vld1q_u8(at)), vdupq_n_u32(0xffff0000)));
}

static inline vec vec_byte(const uint8_t *at, uint32_t i) {
    const int32x4_t left =
        vshlq_s32(vreinterpretq_s32_u8(vld1q_u8(at)), vdupq_n_s32(24 - 8 * (int32_t)i));
    return vcvtq_f32_s32(vshrq_n_s32(left, 24));
}

#include "kernels/attn_tile.h"

void lorica_attn_kernels_neon(struct lorica_attn_kernels *kernels) {
    kernels->attend[LORICA_KV_BF16] = attend_bf16;
    kernels->attend[LORICA_KV_INT8] = attend_int8;
    kernels->fold = fold;
    kernels->finish = finish;
}
