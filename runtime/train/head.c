/* SPDX-License-Identifier: MIT */
#include "runtime/train/head.h"

#include <math.h>
#include <stdlib.h>

#define CHUNK_BYTES ((size_t)64 << 20)

uint32_t lorica_loss_chunk(const struct lorica_arch *arch, uint32_t max_tokens) {
    size_t rows = CHUNK_BYTES / sizeof(float) / arch->vocab;
    rows = rows < 16 ? 16 : rows > 512 ? 512 : rows;
    return rows < max_tokens ? (uint32_t)rows : max_tokens;
}

bool lorica_loss_init(struct lorica_loss *loss, struct lorica_pass *pass) {
    const struct lorica_arch *arch = &pass->base->arch;
    *loss = (struct lorica_loss){.chunk = lorica_loss_chunk(arch, pass->max_tokens)};
    loss->rows = calloc(pass->max_tokens, sizeof(*loss->rows));
    loss->losses = calloc(pass->max_tokens, sizeof(*loss->losses));
    loss->hidden = lorica_pass_floats(pass, loss->chunk, arch->hidden);
    loss->logits = lorica_pass_floats(pass, loss->chunk, arch->vocab);
    return loss->rows && loss->losses && loss->hidden && loss->logits;
}

void lorica_loss_finish(struct lorica_loss *loss) {
    free(loss->rows);
    free(loss->losses);
    *loss = (struct lorica_loss){0};
}

/* Replaces a row of logits by their gradient, softmax - one-hot, and returns the loss. */
static double cross_entropy(const struct lorica_pass *pass, float *logits, int32_t label) {
    const uint32_t vocab = pass->base->arch.vocab;
    const double wanted = (double)logits[label];
    float max = logits[0];
    double sum = 0;
    for (uint32_t i = 1; i < vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    pass->gemm.exp(logits, logits, vocab, 1.0f, -max);
    for (uint32_t i = 0; i < vocab; i++)
        sum += (double)logits[i];
    const float factor = (float)(1.0 / sum);
    for (uint32_t i = 0; i < vocab; i++)
        logits[i] *= factor;
    logits[label] -= 1.0f;
    return log(sum) + (double)max - wanted;
}

static void chunk_forward(struct lorica_pass *pass, unsigned thread, struct lorica_loss *loss,
                          const float *x, uint32_t first, uint32_t count) {
    const struct lorica_base *base = pass->base;
    const size_t hidden = base->arch.hidden, vocab = base->arch.vocab;
    const struct lorica_term head = {
        .a = loss->hidden, .lda = hidden, .w = &base->head, .scale = 1.0f};
    uint32_t begin, end;
    lorica_pool_range(count, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = begin; i < end; i++)
        lorica_norm_row(x + loss->rows[first + i].row * hidden, base->final_norm, base->arch.hidden,
                        base->arch.rms_eps, loss->hidden + i * hidden);
    lorica_pool_barrier(pass->pool);
    lorica_pass_product(pass, thread, loss->logits, vocab, count, base->arch.vocab, &head, 1,
                        false);
    lorica_pool_barrier(pass->pool);
    for (size_t i = begin; i < end; i++)
        loss->losses[first + i] =
            cross_entropy(pass, loss->logits + i * vocab, loss->rows[first + i].label);
    lorica_pool_barrier(pass->pool);
}

void lorica_pass_loss(struct lorica_pass *pass, unsigned thread, struct lorica_loss *loss,
                      const float *x, float *d) {
    const struct lorica_base *base = pass->base;
    const size_t hidden = base->arch.hidden;
    const struct lorica_term head = {.a = loss->logits,
                                     .lda = base->arch.vocab,
                                     .w = &base->head,
                                     .by_rows = true,
                                     .scale = 1.0f};
    for (uint32_t first = 0; first < loss->count; first += loss->chunk) {
        const uint32_t left = loss->count - first, count = left < loss->chunk ? left : loss->chunk;
        uint32_t begin, end;
        chunk_forward(pass, thread, loss, x, first, count);
        if (!d)
            continue;
        lorica_pass_product(pass, thread, loss->hidden, hidden, count, base->arch.hidden, &head, 1,
                            false);
        lorica_pool_barrier(pass->pool);
        lorica_pool_range(count, thread, lorica_pool_threads(pass->pool), &begin, &end);
        for (size_t i = begin; i < end; i++) {
            const size_t row = loss->rows[first + i].row * hidden;
            lorica_norm_row_backward(x + row, base->final_norm, loss->hidden + i * hidden,
                                     base->arch.hidden, base->arch.rms_eps, d + row);
        }
        lorica_pool_barrier(pass->pool);
    }
}
