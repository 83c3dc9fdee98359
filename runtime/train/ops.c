/* SPDX-License-Identifier: MIT
 * Norm, rotary positions and activation, forward and backward, row by row. */
#include <math.h>

#include "runtime/train/pass.h"

static float norm_factor(const float *x, uint32_t n, float eps) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return (float)(1.0 / sqrt(sum / n + (double)eps));
}

void lorica_norm_row(const float *x, const float *weight, uint32_t n, float eps, float *out) {
    const float factor = norm_factor(x, n, eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = weight[i] * (x[i] * factor);
}

/* With y_i = w_i x_i f and f = (mean(x^2) + eps)^(-1/2):
 * dx_i = f (w_i dy_i - x_i f^2 mean(w dy x)). */
void lorica_norm_row_backward(const float *x, const float *weight, const float *dy, uint32_t n,
                              float eps, float *dx) {
    const float factor = norm_factor(x, n, eps);
    double dot = 0;
    for (uint32_t i = 0; i < n; i++)
        dot += (double)(weight[i] * dy[i]) * (double)x[i];
    const float common = (float)(dot / n * (double)factor * (double)factor);
    for (uint32_t i = 0; i < n; i++)
        dx[i] += factor * (weight[i] * dy[i] - x[i] * common);
}

static void rows_of(const struct lorica_pass *pass, unsigned thread, uint32_t *ret_begin,
                    uint32_t *ret_end) {
    lorica_pool_range(pass->tokens, thread, lorica_pool_threads(pass->pool), ret_begin, ret_end);
}

void lorica_pass_norm(struct lorica_pass *pass, unsigned thread, const float *x,
                      const float *weight, float *out) {
    const uint32_t n = pass->base->arch.hidden;
    uint32_t begin, end;
    rows_of(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++)
        lorica_norm_row(x + i * n, weight, n, pass->base->arch.rms_eps, out + i * n);
}

void lorica_pass_norm_backward(struct lorica_pass *pass, unsigned thread, const float *x,
                               const float *weight, const float *dy, float *dx) {
    const uint32_t n = pass->base->arch.hidden;
    uint32_t begin, end;
    rows_of(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++)
        lorica_norm_row_backward(x + i * n, weight, dy + i * n, n, pass->base->arch.rms_eps,
                                 dx + i * n);
}

void lorica_pass_rotate(struct lorica_pass *pass, unsigned thread, float *x, uint32_t heads,
                        bool backward) {
    const uint32_t dim = pass->base->arch.head_dim, half = dim / 2;
    const float sign = backward ? -1.0f : 1.0f;
    uint32_t begin, end;
    rows_of(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *cosines = pass->rotary + (size_t)pass->positions[i] * dim;
        const float *sines = cosines + half;
        for (size_t h = 0; h < heads; h++) {
            float *low = x + (i * heads + h) * dim, *high = low + half;
            for (uint32_t j = 0; j < half; j++) {
                const float a = low[j], b = high[j], sine = sign * sines[j];
                low[j] = a * cosines[j] - b * sine;
                high[j] = b * cosines[j] + a * sine;
            }
        }
    }
}

void lorica_pass_silu(struct lorica_pass *pass, unsigned thread, const float *gate, const float *up,
                      float *out) {
    const uint32_t n = pass->base->arch.intermediate;
    uint32_t begin, end;
    rows_of(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *g = gate + i * n, *u = up + i * n;
        float *y = out + i * n;
        pass->gemm.exp(y, g, n, -1.0f, 0.0f);
        for (uint32_t j = 0; j < n; j++)
            y[j] = g[j] / (1.0f + y[j]) * u[j];
    }
}

/* With s = 1 / (1 + exp(-g)): silu(g) = g s, silu'(g) = s (1 + g (1 - s)). */
void lorica_pass_silu_backward(struct lorica_pass *pass, unsigned thread, float *gate, float *up,
                               const float *dout, float *work) {
    const uint32_t n = pass->base->arch.intermediate;
    uint32_t begin, end;
    rows_of(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        float *g = gate + i * n, *u = up + i * n, *e = work + i * n;
        const float *d = dout + i * n;
        pass->gemm.exp(e, g, n, -1.0f, 0.0f);
        for (uint32_t j = 0; j < n; j++) {
            const float s = 1.0f / (1.0f + e[j]), silu = g[j] * s;
            g[j] = d[j] * u[j] * s * (1.0f + g[j] * (1.0f - s));
            u[j] = d[j] * silu;
        }
    }
}
