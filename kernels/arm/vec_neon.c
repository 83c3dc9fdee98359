/* SPDX-License-Identifier: MIT */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kernels/arm/math_neon.h"
#include "kernels/kernels.h"

/* The last n values (fewer than four), padded with `fill`. */
static inline float32x4_t load_tail(const float *x, uint32_t n, float fill) {
    float lanes[4];
    for (uint32_t i = 0; i < 4; i++)
        lanes[i] = i < n ? x[i] : fill;
    return vld1q_f32(lanes);
}

static inline void store_tail(float *y, float32x4_t v, uint32_t n) {
    float lanes[4];
    vst1q_f32(lanes, v);
    memcpy(y, lanes, n * sizeof(*y));
}

static void rmsnorm_neon(float *y, const float *x, const float *weight, uint32_t n, float eps) {
    float32x4_t s0 = vdupq_n_f32(0), s1 = s0;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + i + 4);
        s0 = vfmaq_f32(s0, a, a);
        s1 = vfmaq_f32(s1, b, b);
    }
    float squares = vaddvq_f32(vaddq_f32(s0, s1));
    for (; i < n; i++)
        squares += x[i] * x[i];
    const float scale = 1 / sqrtf(squares / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), vld1q_f32(weight + i)));
    for (; i < n; i++)
        y[i] = x[i] * scale * weight[i];
}

static void rope_neon(float *x, uint32_t heads, uint32_t head_dim, const float *cs,
                      const float *sn) {
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < heads; h++, x += head_dim) {
        uint32_t i = 0;
        for (; i + 4 <= half; i += 4) {
            const float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + half + i);
            const float32x4_t c = vld1q_f32(cs + i), s = vld1q_f32(sn + i);
            vst1q_f32(x + i, vsubq_f32(vmulq_f32(a, c), vmulq_f32(b, s)));
            vst1q_f32(x + half + i, vaddq_f32(vmulq_f32(b, c), vmulq_f32(a, s)));
        }
        for (; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cs[i] - b * sn[i];
            x[i + half] = b * cs[i] + a * sn[i];
        }
    }
}

static inline float32x4_t silu_mul4(float32x4_t gate, float32x4_t up) {
    const float32x4_t below = vaddq_f32(vdupq_n_f32(1), exp_neon(vnegq_f32(gate)));
    return vmulq_f32(vdivq_f32(gate, below), up);
}

static void silu_mul_neon(float *y, const float *gate, const float *up, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, silu_mul4(vld1q_f32(gate + i), vld1q_f32(up + i)));
    if (i < n)
        store_tail(y + i, silu_mul4(load_tail(gate + i, n - i, 0), load_tail(up + i, n - i, 0)),
                   n - i);
}

static void add_neon(float *y, const float *x, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vaddq_f32(vld1q_f32(y + i), vld1q_f32(x + i)));
    for (; i < n; i++)
        y[i] += x[i];
}

static float to_int8_neon(int8_t *dst, const float *x, uint32_t n) {
    float32x4_t tops = vdupq_n_f32(0);
    for (uint32_t i = 0; i < n; i += 4) /* the maximum with NaN is NaN */
        tops =
            vmaxq_f32(tops, vabsq_f32(n - i >= 4 ? vld1q_f32(x + i) : load_tail(x + i, n - i, 0)));
    const float top = vmaxvq_f32(tops);
    if (!isfinite(top))
        return NAN;
    const int none = top < LORICA_INT8_LEAST;
    const float inverse = none ? 0 : 127 / top;
    for (uint32_t i = 0; i < n; i += 4) {
        const float32x4_t v = n - i >= 4 ? vld1q_f32(x + i) : load_tail(x + i, n - i, 0);
        int32_t lanes[4];
        vst1q_s32(lanes, vcvtnq_s32_f32(vmulq_n_f32(v, inverse)));
        for (uint32_t l = 0; l < 4 && i + l < n; l++)
            dst[i + l] = (int8_t)lanes[l];
    }
    return none ? 0 : top / 127;
}

/* vmaxq gives NaN when one of its operands is. */
static void logsumexp_neon(const float *x, uint32_t n, float *ret_max, float *ret_sum) {
    float32x4_t top = vdupq_n_f32(-INFINITY), sum = vdupq_n_f32(0);
    for (uint32_t i = 0; i < n; i += 4)
        top = vmaxq_f32(top, n - i >= 4 ? vld1q_f32(x + i) : load_tail(x + i, n - i, -INFINITY));
    *ret_max = vmaxvq_f32(top);
    top = vdupq_n_f32(*ret_max);
    for (uint32_t i = 0; i < n; i += 4) {
        const float32x4_t v = n - i >= 4 ? vld1q_f32(x + i) : load_tail(x + i, n - i, -INFINITY);
        sum = vaddq_f32(sum, exp_neon(vsubq_f32(v, top)));
    }
    *ret_sum = vaddvq_f32(sum);
}

void lorica_vec_kernels_neon(struct lorica_vec_kernels *kernels) {
    *kernels = (struct lorica_vec_kernels){
        .rmsnorm = rmsnorm_neon,
        .rope = rope_neon,
        .silu_mul = silu_mul_neon,
        .add = add_neon,
        .to_int8 = to_int8_neon,
        .logsumexp = logsumexp_neon,
    };
}
