/* SPDX-License-Identifier: MIT */
#include "kernels/vec.h"

#include <math.h>
#include <stdbool.h>

#include "kernels/kernels.h"

static void rmsnorm_c(float *y, const float *x, const float *weight, uint32_t n, float eps) {
    float sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    const float inverse = 1.0f / sqrtf(sum / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * inverse * weight[i];
}

static void rope_c(float *x, uint32_t heads, uint32_t head_dim, const float *cs, const float *sn) {
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < heads; h++, x += head_dim) {
        for (uint32_t i = 0; i < half; i++) {
            const float a = x[i], b = x[half + i];
            x[i] = a * cs[i] - b * sn[i];
            x[half + i] = b * cs[i] + a * sn[i];
        }
    }
}

static void silu_mul_c(float *y, const float *gate, const float *up, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void add_c(float *y, const float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        y[i] += x[i];
}

static float to_int8_c(int8_t *dst, const float *x, uint32_t n) {
    float top = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return NAN;
        top = fmaxf(top, fabsf(x[i]));
    }
    const bool none = top < LORICA_INT8_LEAST;
    const float inverse = none ? 0 : 127 / top;
    for (uint32_t i = 0; i < n; i++)
        dst[i] = (int8_t)lrintf(x[i] * inverse);
    return none ? 0 : top / 127;
}

static void logsumexp_c(const float *x, uint32_t n, float *ret_max, float *ret_sum) {
    float top = x[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        top = x[i] > top ? x[i] : top;
    for (uint32_t i = 0; i < n; i++)
        sum += expf(x[i] - top);
    *ret_max = top;
    *ret_sum = sum;
}

void lorica_vec_kernels_init(struct lorica_vec_kernels *kernels) {
    *kernels = (struct lorica_vec_kernels){
        .rmsnorm = rmsnorm_c,
        .rope = rope_c,
        .silu_mul = silu_mul_c,
        .add = add_c,
        .to_int8 = to_int8_c,
        .logsumexp = logsumexp_c,
    };
#if defined(__x86_64__)
    if (lorica_cpu_level() == LORICA_CPU_C)
        return;
    lorica_vec_kernels_avx2(kernels);
    if (lorica_cpu_level() <= LORICA_CPU_AVXVNNI)
        return;
    lorica_vec_kernels_avx512(kernels);
#elif defined(__aarch64__)
    if (lorica_cpu_level() == LORICA_CPU_NEON)
        lorica_vec_kernels_neon(kernels);
#endif
}
