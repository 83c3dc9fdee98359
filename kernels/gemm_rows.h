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

/* Eight sums, and eight values to add to them. */
typedef double rows_lanes __attribute__((vector_size(64)));
typedef float rows_eight __attribute__((vector_size(32), aligned(4), may_alias));
#define LANES 8

#ifndef GEMM_EXP
#define GEMM_EXP rows_exp
static void rows_exp(float *y, const float *x, uint32_t n, float scale, float offset) {
    for (uint32_t i = 0; i < n; i++)
        y[i] = expf(scale * x[i] + offset);
}
#endif

/* The eight values at x as double. */
#define ROWS_WIDE(x) __builtin_convertvector(*(const rows_eight *)(x), rows_lanes)

/* Four groups of lanes, so that additions do not wait for each other; `tail`: what did not fill
 * eight. */
static double rows_sum_lanes(const rows_lanes *sums, const double *tail) {
    const rows_lanes all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double lanes[LANES];
    for (int j = 0; j < LANES; j++)
        lanes[j] = all[j] + tail[j];
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* sum of a * b */
static double rows_dot(const float *a, const float *b, uint32_t n) {
    rows_lanes sums[4] = {{0}};
    double tail[LANES] = {0};
    uint32_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES, a += 4 * LANES, b += 4 * LANES) {
        sums[0] += ROWS_WIDE(a) * ROWS_WIDE(b);
        sums[1] += ROWS_WIDE(a + LANES) * ROWS_WIDE(b + LANES);
        sums[2] += ROWS_WIDE(a + 2 * LANES) * ROWS_WIDE(b + 2 * LANES);
        sums[3] += ROWS_WIDE(a + 3 * LANES) * ROWS_WIDE(b + 3 * LANES);
    }
    for (; i + LANES <= n; i += LANES, a += LANES, b += LANES)
        sums[0] += ROWS_WIDE(a) * ROWS_WIDE(b);
    for (uint32_t j = 0; j < n - i; j++)
        tail[j] = (double)a[j] * (double)b[j];
    return rows_sum_lanes(sums, tail);
}

static double rows_sum(const float *x, uint32_t n) {
    rows_lanes sums[4] = {{0}};
    double tail[LANES] = {0};
    uint32_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES, x += 4 * LANES) {
        sums[0] += ROWS_WIDE(x);
        sums[1] += ROWS_WIDE(x + LANES);
        sums[2] += ROWS_WIDE(x + 2 * LANES);
        sums[3] += ROWS_WIDE(x + 3 * LANES);
    }
    for (; i + LANES <= n; i += LANES, x += LANES)
        sums[0] += ROWS_WIDE(x);
    for (uint32_t j = 0; j < n - i; j++)
        tail[j] = (double)x[j];
    return rows_sum_lanes(sums, tail);
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
    rows_lanes sums[4] = {{0}};
    double tail[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const rows_eight through =
            *(const rows_eight *)(weight + i) * *(const rows_eight *)(dy + i);
        sums[i / LANES % 4] += ROWS_WIDE(&through) * ROWS_WIDE(x + i);
    }
    for (uint32_t j = 0; i + j < n; j++)
        tail[j] = (double)(weight[i + j] * dy[i + j]) * (double)x[i + j];
    const float common = (float)(rows_sum_lanes(sums, tail) / n * (double)factor * (double)factor);
    for (i = 0; i < n; i++)
        dx[i] += factor * (weight[i] * dy[i] - x[i] * common);
}

#define ROWS_BLOCK 512 /* values whose exponentials are held at a time */

static void rows_silu(float *restrict out, const float *restrict gate, const float *restrict up,
                      uint32_t n) {
    float e[ROWS_BLOCK];
    for (uint32_t i = 0; i < n; i += ROWS_BLOCK) {
        const uint32_t count = n - i < ROWS_BLOCK ? n - i : ROWS_BLOCK;
        const float *restrict g = gate + i, *restrict u = up + i;
        float *restrict to = out + i;
        GEMM_EXP(e, g, count, -1.0f, 0.0f);
        for (uint32_t j = 0; j < count; j++)
            to[j] = g[j] / (1.0f + e[j]) * u[j];
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
