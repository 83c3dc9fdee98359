/* SPDX-License-Identifier: MIT
 * The small steps between the products: norm, rotary positions, activation, conversions, softmax
 * reductions. Rows are independent of each other, to the bit. */
#ifndef LORICA_KERNELS_VEC_H
#define LORICA_KERNELS_VEC_H

#include <stddef.h>
#include <stdint.h>

/** Vectors without a larger magnitude count as zeros in int8. */
#define LORICA_INT8_LEAST 2e-36f

struct lorica_vec_kernels {
    /** y[i] = x[i] * weight[i] / sqrt(mean(x^2) + eps). y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *weight, uint32_t n, float eps);

    /** Rotates each head of x[heads][head_dim] in place, pairs (i, i + head_dim/2), by the angles
     * whose cosine and sine are given: cs[0..head_dim/2) then sn[0..head_dim/2). head_dim even. */
    void (*rope)(float *x, uint32_t heads, uint32_t head_dim, const float *cs, const float *sn);

    /** y[i] = silu(gate[i]) * up[i], silu(v) = v / (1 + exp(-v)). y may be either input. */
    void (*silu_mul)(float *y, const float *gate, const float *up, uint32_t n);

    /** y[i] += x[i]. */
    void (*add)(float *y, const float *x, uint32_t n);

    /** dst[i] = x[i] / s, rounded to nearest even, where s, which is returned, is the largest
     * magnitude / 127; both are 0 where that magnitude is below LORICA_INT8_LEAST. NaN, and nothing
     * that could be read in dst, where a value is not finite. */
    float (*to_int8)(int8_t *dst, const float *x, uint32_t n);

    /** Largest value, and sum of exp(x[i] - max), of a row of logits. n >= 1. */
    void (*logsumexp)(const float *x, uint32_t n, float *ret_max, float *ret_sum);
};

/** Fills the table for lorica_cpu_level(). */
void lorica_vec_kernels_init(struct lorica_vec_kernels *kernels);

#endif
