/* SPDX-License-Identifier: MIT
 * Norm, rotary positions and activation, forward and backward, row by row. */
#include <math.h>

#include "runtime/train/pass.h"

void lorica_pass_norm(struct lorica_pass *pass, unsigned thread, const float *x,
                      const float *weight, void *kept, void *out) {
    const uint32_t n = pass->base->arch.hidden;
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    pass->gemm.store(lorica_operands_at(pass, kept, (size_t)begin * n), x + (size_t)begin * n,
                     (size_t)(end - begin) * n);
    lorica_pass_norm_kept(pass, thread, kept, weight, out);
}

void lorica_pass_norm_kept(struct lorica_pass *pass, unsigned thread, const void *kept,
                           const float *weight, void *out) {
    const uint32_t n = pass->base->arch.hidden;
    float *line = pass->lines[thread], *normed = line + pass->widest;
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        pass->gemm.load(line, lorica_operands_at(pass, kept, i * n), n);
        pass->gemm.norm(normed, line, weight, n, pass->base->arch.rms_eps);
        pass->gemm.store(lorica_operands_at(pass, out, i * n), normed, n);
    }
}

void lorica_pass_norm_backward(struct lorica_pass *pass, unsigned thread, const void *kept,
                               const float *weight, const float *dy, float *dx, void *to) {
    const uint32_t n = pass->base->arch.hidden;
    float *line = pass->lines[thread];
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        pass->gemm.load(line, lorica_operands_at(pass, kept, i * n), n);
        pass->gemm.norm_backward(dx + i * n, line, weight, dy + i * n, n, pass->base->arch.rms_eps);
        if (to)
            pass->gemm.store(lorica_operands_at(pass, to, i * n), dx + i * n, n);
    }
}

void lorica_norm_gradient_row(const float *x, const float *dy, uint32_t n, float eps,
                              uint32_t begin, uint32_t end, float *dweight) {
    double sum = 0;
    for (uint32_t j = 0; j < n; j++)
        sum += (double)x[j] * (double)x[j];
    const float inverse = (float)(1 / sqrt(sum / n + (double)eps));
    for (uint32_t j = begin; j < end; j++)
        dweight[j] += dy[j] * x[j] * inverse;
}

void lorica_pass_norm_gradient(struct lorica_pass *pass, unsigned thread, const void *kept,
                               const float *dy, float *dweight) {
    const uint32_t n = pass->base->arch.hidden;
    float *line = pass->lines[thread];
    uint32_t begin, end;
    lorica_pool_range(n, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = 0; i < pass->tokens; i++) {
        pass->gemm.load(line, lorica_operands_at(pass, kept, i * n), n);
        lorica_norm_gradient_row(line, dy + i * n, n, pass->base->arch.rms_eps, begin, end,
                                 dweight);
    }
}

void lorica_pass_rotate_head(const struct lorica_pass *pass, float *x, uint32_t position,
                             bool backward) {
    const uint32_t dim = pass->base->arch.head_dim, half = dim / 2;
    const float *restrict cosines = pass->rotary + (size_t)position * dim;
    const float *restrict sines = cosines + half;
    float *restrict low = x, *restrict high = x + half;
    const float sign = backward ? -1.0f : 1.0f;
    for (uint32_t j = 0; j < half; j++) {
        const float a = low[j], b = high[j], sine = sign * sines[j];
        low[j] = a * cosines[j] - b * sine;
        high[j] = b * cosines[j] + a * sine;
    }
}

void lorica_pass_rotate(struct lorica_pass *pass, unsigned thread, float *x, uint32_t heads,
                        void *to) {
    const size_t dim = pass->base->arch.head_dim, n = heads * dim;
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        for (size_t h = 0; h < heads; h++)
            lorica_pass_rotate_head(pass, x + i * n + h * dim, pass->positions[i], false);
        pass->gemm.store(lorica_operands_at(pass, to, i * n), x + i * n, n);
    }
}

void lorica_pass_silu(struct lorica_pass *pass, unsigned thread,
                      const struct lorica_layer_acts *acts, void *out) {
    const uint32_t n = pass->base->arch.intermediate;
    float *gate = pass->lines[thread], *up = gate + pass->widest, *line = up + pass->widest;
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        pass->gemm.load(gate, lorica_operands_at(pass, acts->of[LORICA_ACT_GATE], i * n), n);
        pass->gemm.load(up, lorica_operands_at(pass, acts->of[LORICA_ACT_UP], i * n), n);
        pass->gemm.silu(line, gate, up, n);
        pass->gemm.store(lorica_operands_at(pass, out, i * n), line, n);
    }
}

void lorica_pass_silu_backward(struct lorica_pass *pass, unsigned thread,
                               const struct lorica_layer_acts *acts, const void *dout) {
    const uint32_t n = pass->base->arch.intermediate;
    float *gate = pass->lines[thread], *up = gate + pass->widest, *d = up + pass->widest;
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        void *gate_row = lorica_operands_at(pass, acts->of[LORICA_ACT_GATE], i * n);
        void *up_row = lorica_operands_at(pass, acts->of[LORICA_ACT_UP], i * n);
        pass->gemm.load(gate, gate_row, n);
        pass->gemm.load(up, up_row, n);
        pass->gemm.load(d, lorica_operands_at(pass, dout, i * n), n);
        pass->gemm.silu_backward(gate, up, d, n);
        pass->gemm.store(gate_row, gate, n);
        pass->gemm.store(up_row, up, n);
    }
}
