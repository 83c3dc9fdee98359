/* SPDX-License-Identifier: MIT
 * The row steps of gemm.h in C that compilers turn into vectors. Each instruction set includes this
 * once, after defining GEMM_EXP as its exponential (lorica_gemm_exp_fn; else the C library's), and
 * so has versions of its own; the sums run in lanes of a fixed number, so that all give the same
 * bits but for exp's. */
#ifndef LORICA_KERNELS_GEMM_ROWS_H
#define LORICA_KERNELS_GEMM_ROWS_H

#include <math.h>
#include <string.h>

#include "kernels/gemm.h"

#define LANES 8 /* of double sums */

#ifndef GEMM_EXP
#define GEMM_EXP rows_exp
static void rows_exp(float *y, const float *x, uint32_t n, float scale, float offset) {
    for (uint32_t i = 0; i < n; i++)
        y[i] = expf(scale * x[i] + offset);
}
#endif

static double rows_sum_lanes(const double *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* sum of a * b */
static double rows_dot(const float *a, const float *b, uint32_t n) {
    double lanes[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            lanes[j] += (double)a[i + j] * (double)b[i + j];
    for (uint32_t j = 0; i < n; i++, j++)
        lanes[j] += (double)a[i] * (double)b[i];
    return rows_sum_lanes(lanes);
}

static double rows_sum(const float *x, uint32_t n) {
    double lanes[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            lanes[j] += (double)x[i + j];
    for (uint32_t j = 0; i < n; i++, j++)
        lanes[j] += (double)x[i];
    return rows_sum_lanes(lanes);
}

/* Largest value; a NaN may be passed over: exp and the sum keep it. */
static float rows_max(const float *x, uint32_t n) {
    float lanes[16], max;
    uint32_t i = 0;
    for (uint32_t j = 0; j < 16; j++)
        lanes[j] = x[0];
    for (; i + 16 <= n; i += 16)
        for (uint32_t j = 0; j < 16; j++)
            lanes[j] = lanes[j] > x[i + j] ? lanes[j] : x[i + j];
    max = lanes[0];
    for (uint32_t j = 1; j < 16; j++)
        max = lanes[j] > max ? lanes[j] : max;
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static float rows_norm_factor(const float *x, uint32_t n, float eps) {
    return (float)(1.0 / sqrt(rows_dot(x, x, n) / n + (double)eps));
}

static void rows_norm(float *restrict out, const float *restrict x, const float *restrict weight,
                      uint32_t n, float eps) {
    const float factor = rows_norm_factor(x, n, eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = weight[i] * (x[i] * factor);
}

/* With y_i = w_i x_i f and f = (mean(x^2) + eps)^(-1/2):
 * dx_i = f (w_i dy_i - x_i f^2 mean(w dy x)). */
static void rows_norm_backward(float *restrict dx, const float *restrict x,
                               const float *restrict weight, const float *restrict dy, uint32_t n,
                               float eps) {
    const float factor = rows_norm_factor(x, n, eps);
    double lanes[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            lanes[j] += (double)(weight[i + j] * dy[i + j]) * (double)x[i + j];
    for (uint32_t j = 0; i < n; i++, j++)
        lanes[j] += (double)(weight[i] * dy[i]) * (double)x[i];
    const float common = (float)(rows_sum_lanes(lanes) / n * (double)factor * (double)factor);
    for (i = 0; i < n; i++)
        dx[i] += factor * (weight[i] * dy[i] - x[i] * common);
}

#define ROWS_BLOCK 512 /* values whose exponentials are held at a time */

static void rows_silu(float *restrict out, const float *restrict gate, const float *restrict up,
                      uint32_t n) {
    float e[ROWS_BLOCK];
    for (uint32_t i = 0; i < n; i += ROWS_BLOCK) {
        const uint32_t count = n - i < ROWS_BLOCK ? n - i : ROWS_BLOCK;
        GEMM_EXP(e, gate + i, count, -1.0f, 0.0f);
        for (uint32_t j = 0; j < count; j++)
            out[i + j] = gate[i + j] / (1.0f + e[j]) * up[i + j];
    }
}

/* With s = 1 / (1 + exp(-g)): silu(g) = g s, silu'(g) = s (1 + g (1 - s)). */
static void rows_silu_backward(float *gate, float *up, float *dout, uint32_t n) {
    float e[ROWS_BLOCK];
    for (uint32_t i = 0; i < n; i += ROWS_BLOCK) {
        const uint32_t count = n - i < ROWS_BLOCK ? n - i : ROWS_BLOCK;
        float *restrict g = gate + i, *restrict u = up + i;
        const float *restrict d = dout + i;
        GEMM_EXP(e, g, count, -1.0f, 0.0f);
        for (uint32_t j = 0; j < count; j++) {
            const float s = 1.0f / (1.0f + e[j]), silu = g[j] * s;
            const float slope = s * (1.0f + g[j] * (1.0f - s));
            g[j] = d[j] * u[j] * slope;
            u[j] = d[j] * silu;
        }
    }
}

static void rows_scale(float *x, uint32_t n, float factor) {
    for (uint32_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void rows_softmax(float *x, uint32_t n, float scale) {
    const float max = rows_max(x, n);
    GEMM_EXP(x, x, n, scale, -max * scale);
    rows_scale(x, n, (float)(1.0 / rows_sum(x, n)));
}

static void rows_softmax_backward(float *restrict dp, const float *restrict p, uint32_t n,
                                  float scale) {
    const float dot = (float)rows_dot(p, dp, n);
    for (uint32_t i = 0; i < n; i++)
        dp[i] = p[i] * (dp[i] - dot) * scale;
}

static double rows_cross_entropy(float *x, uint32_t n, uint32_t label) {
    const double wanted = (double)x[label];
    const float max = rows_max(x, n);
    GEMM_EXP(x, x, n, 1.0f, -max);
    const double sum = rows_sum(x, n);
    rows_scale(x, n, (float)(1.0 / sum));
    x[label] -= 1.0f;
    return log(sum) + (double)max - wanted;
}

static void rows_fill_table(struct lorica_gemm_kernels *kernels) {
    kernels->norm = rows_norm;
    kernels->norm_backward = rows_norm_backward;
    kernels->silu = rows_silu;
    kernels->silu_backward = rows_silu_backward;
    kernels->softmax = rows_softmax;
    kernels->softmax_backward = rows_softmax_backward;
    kernels->cross_entropy = rows_cross_entropy;
}

#undef LANES
#endif
