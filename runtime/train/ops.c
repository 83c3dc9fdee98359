/* SPDX-License-Identifier: MIT
 * Norm, rotary positions and activation, forward and backward, row by row. */
#include <math.h>

#include "runtime/train/pass.h"

/* Row i of an activation as it is kept, as floats: itself, or a copy in `line`. */
static const float *kept_row(const struct lorica_pass *pass, const struct lorica_layer_acts *acts,
                             enum lorica_act act, size_t i, uint32_t n, float *line) {
    if (acts->kept[act] == acts->of[act])
        return lorica_pass_read(pass, lorica_operands_at(pass, acts->of[act], i * n), n, line);
    pass->gemm.expand(line, (const uint16_t *)acts->kept[act] + i * n, n);
    return line;
}

/* Keeps row i of an activation where it is not kept by being where it is. */
static void keep_row(const struct lorica_pass *pass, const struct lorica_layer_acts *acts,
                     enum lorica_act act, size_t i, uint32_t n, const float *row) {
    if (acts->kept[act] != acts->of[act])
        pass->gemm.squeeze((uint16_t *)acts->kept[act] + i * n, row, n);
}

/* out = norm of row i of an activation, given as floats. */
static void norm_row(struct lorica_pass *pass, const float *x, const float *weight, void *out,
                     size_t i, float *line) {
    const uint32_t n = pass->base->arch.hidden;
    void *row = lorica_operands_at(pass, out, i * n);
    float *normed = lorica_pass_place(pass, row, line);
    pass->gemm.norm(normed, x, weight, n, pass->base->arch.rms_eps);
    lorica_pass_write(pass, row, normed, n);
}

void lorica_pass_norm(struct lorica_pass *pass, unsigned thread, const float *x,
                      const float *weight, const struct lorica_layer_acts *acts,
                      enum lorica_act act, void *out) {
    const uint32_t n = pass->base->arch.hidden;
    float *line = pass->lines[thread], *normed = line + pass->widest;
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *from = x + i * n;
        keep_row(pass, acts, act, i, n, from);
        if (acts->of[act]) { /* as it will be found */
            void *row = lorica_operands_at(pass, acts->of[act], i * n);
            pass->gemm.store(row, from, n);
            from = lorica_pass_read(pass, row, n, line);
        }
        norm_row(pass, from, weight, out, i, normed);
    }
}

void lorica_pass_norm_kept(struct lorica_pass *pass, unsigned thread,
                           const struct lorica_layer_acts *acts, enum lorica_act act,
                           const float *weight, void *out) {
    const uint32_t n = pass->base->arch.hidden;
    float *line = pass->lines[thread];
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++)
        norm_row(pass, kept_row(pass, acts, act, i, n, line), weight, out, i, line + pass->widest);
}

void lorica_pass_norm_backward(struct lorica_pass *pass, unsigned thread,
                               const struct lorica_layer_acts *acts, enum lorica_act act,
                               const float *weight, const float *dy, float *dx, void *to) {
    const uint32_t n = pass->base->arch.hidden;
    float *line = pass->lines[thread];
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *x = kept_row(pass, acts, act, i, n, line);
        pass->gemm.norm_backward(dx + i * n, x, weight, dy + i * n, n, pass->base->arch.rms_eps);
        lorica_pass_write(pass, lorica_operands_at(pass, to, i * n), dx + i * n, n);
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

void lorica_pass_norm_gradient(struct lorica_pass *pass, unsigned thread,
                               const struct lorica_layer_acts *acts, enum lorica_act act,
                               const float *dy, float *dweight) {
    const uint32_t n = pass->base->arch.hidden;
    float *line = pass->lines[thread];
    uint32_t begin, end;
    lorica_pool_range(n, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = 0; i < pass->tokens; i++)
        lorica_norm_gradient_row(kept_row(pass, acts, act, i, n, line), dy + i * n, n,
                                 pass->base->arch.rms_eps, begin, end, dweight);
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
        lorica_pass_write(pass, lorica_operands_at(pass, to, i * n), x + i * n, n);
    }
}

/* out = silu(gate) * up of row i. */
static void silu_row(struct lorica_pass *pass, const float *gate, const float *up, void *out,
                     size_t i, float *line) {
    const uint32_t n = pass->base->arch.intermediate;
    void *row = lorica_operands_at(pass, out, i * n);
    float *to = lorica_pass_place(pass, row, line);
    pass->gemm.silu(to, gate, up, n);
    lorica_pass_write(pass, row, to, n);
}

void lorica_pass_silu(struct lorica_pass *pass, unsigned thread,
                      const struct lorica_layer_acts *acts, void *out) {
    const uint32_t n = pass->base->arch.intermediate;
    float *lines = pass->lines[thread];
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const void *gate_row = lorica_operands_at(pass, acts->of[LORICA_ACT_GATE], i * n);
        const void *up_row = lorica_operands_at(pass, acts->of[LORICA_ACT_UP], i * n);
        const float *gate = lorica_pass_read(pass, gate_row, n, lines);
        const float *up = lorica_pass_read(pass, up_row, n, lines + pass->widest);
        keep_row(pass, acts, LORICA_ACT_GATE, i, n, gate);
        keep_row(pass, acts, LORICA_ACT_UP, i, n, up);
        silu_row(pass, gate, up, out, i, lines + 2 * (size_t)pass->widest);
    }
}

void lorica_pass_silu_kept(struct lorica_pass *pass, unsigned thread,
                           const struct lorica_layer_acts *acts, void *out) {
    const uint32_t n = pass->base->arch.intermediate;
    float *lines = pass->lines[thread];
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++)
        silu_row(pass, kept_row(pass, acts, LORICA_ACT_GATE, i, n, lines),
                 kept_row(pass, acts, LORICA_ACT_UP, i, n, lines + pass->widest), out, i,
                 lines + 2 * (size_t)pass->widest);
}

/* Row i of gate or up as floats where its gradient is made. */
static float *take_kept(struct lorica_pass *pass, const struct lorica_layer_acts *acts,
                        enum lorica_act act, size_t i, uint32_t n, float *line) {
    float *to = lorica_pass_place(pass, lorica_operands_at(pass, acts->of[act], i * n), line);
    (void)kept_row(pass, acts, act, i, n, to);
    return to;
}

void lorica_pass_silu_backward(struct lorica_pass *pass, unsigned thread,
                               const struct lorica_layer_acts *acts, void *dout) {
    const uint32_t n = pass->base->arch.intermediate;
    float *lines = pass->lines[thread];
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        void *row = lorica_operands_at(pass, dout, i * n);
        float *gate = take_kept(pass, acts, LORICA_ACT_GATE, i, n, lines);
        float *up = take_kept(pass, acts, LORICA_ACT_UP, i, n, lines + pass->widest);
        float *d = lorica_pass_place(pass, row, lines + 2 * (size_t)pass->widest);
        (void)lorica_pass_read(pass, row, n, d);
        pass->gemm.silu_backward(gate, up, d, n);
        lorica_pass_write(pass, lorica_operands_at(pass, acts->of[LORICA_ACT_GATE], i * n), gate,
                          n);
        lorica_pass_write(pass, lorica_operands_at(pass, acts->of[LORICA_ACT_UP], i * n), up, n);
    }
}
