/* SPDX-License-Identifier: MIT */
#include "runtime/train/head.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)16 << 20)

/* An odd number of cache lines: rows a multiple of 4 KB apart, which a vocabulary of 49,152 makes,
 * would all want the same few places of the cache. */
static size_t row_floats(const struct lorica_arch *arch) {
    return ((size_t)lorica_turned_depth(arch->vocab) / 16 | 1) * 16;
}

uint32_t lorica_loss_chunk(const struct lorica_arch *arch, uint32_t max_tokens) {
    size_t rows = CHUNK_BYTES / sizeof(float) / row_floats(arch);
    rows = rows < 16 ? 16 : rows > 512 ? 512 : rows;
    return rows < max_tokens ? (uint32_t)rows : max_tokens;
}

/* The head as it is served, or NULL. */
static const struct lorica_linear *tiled_head(const struct lorica_pass *pass) {
    return pass->served && lorica_linear_is_tiled(&pass->served->head) ? &pass->served->head : NULL;
}

/* The largest scale of each row of the head. False: no memory. */
static bool make_levels(struct lorica_loss *loss, struct lorica_pass *pass) {
    const struct lorica_linear *w = tiled_head(pass);
    const uint32_t blocks =
        w->k / (w->format == LORICA_FORMAT_NF4 ? LORICA_NF4_BLOCK : LORICA_Q8_BLOCK);
    const size_t rows = (size_t)lorica_linear_tiles(w) * LORICA_TILE_ROWS;
    loss->levels = lorica_pass_floats(pass, 1, rows);
    loss->inverse = lorica_pass_floats(pass, 1, rows);
    if (!loss->levels || !loss->inverse)
        return false;
    for (size_t i = 0; i < rows; i++) {
        const uint16_t *scales = w->scales + i / LORICA_TILE_ROWS * blocks * LORICA_TILE_ROWS;
        float level = 0;
        for (size_t b = 0; b < blocks; b++)
            level = fmaxf(level, fabsf(lorica_f16_to_f32(
                                     scales[b * LORICA_TILE_ROWS + i % LORICA_TILE_ROWS])));
        loss->levels[i] = level > 0 ? level : 1;
        loss->inverse[i] = 1 / loss->levels[i];
    }
    return true;
}

bool lorica_loss_init(struct lorica_loss *loss, struct lorica_pass *pass) {
    const struct lorica_arch *arch = &pass->base->arch;
    *loss = (struct lorica_loss){.chunk = lorica_loss_chunk(arch, pass->max_tokens)};
    loss->rows = calloc(pass->max_tokens, sizeof(*loss->rows));
    loss->losses = calloc(pass->max_tokens, sizeof(*loss->losses));
    loss->normed = lorica_pass_operands(pass, loss->chunk, arch->hidden);
    loss->dnormed = lorica_pass_floats(pass, loss->chunk, arch->hidden);
    loss->row = row_floats(arch);
    loss->logits = lorica_pass_floats(pass, loss->chunk, loss->row);
    loss->ld = ((size_t)loss->chunk + 31) / 32 * 32;
    if (pass->full && !(loss->turned = lorica_pass_operands(pass, arch->vocab, loss->ld)))
        return false;
    if (pass->turns && tiled_head(pass) && !make_levels(loss, pass))
        return false;
    return loss->rows && loss->losses && loss->normed && loss->dnormed && loss->logits;
}

void lorica_loss_finish(struct lorica_loss *loss) {
    free(loss->rows);
    free(loss->losses);
    *loss = (struct lorica_loss){0};
}

/* A row of logits' gradients quantised in its place, piece by piece: none is longer than its
 * floats. */
static void quantise_row(struct lorica_pass *pass, unsigned thread, const struct lorica_loss *loss,
                         float *row) {
    const uint32_t vocab = pass->base->arch.vocab;
    float *line = pass->lines[thread];
    char *to = (char *)row;
    for (uint32_t i = 0; i < vocab; i += LORICA_PASS_PIECE) {
        const uint32_t depth = lorica_turned_piece(vocab, i),
                       n = vocab - i < depth ? vocab - i : depth;
        for (uint32_t j = 0; j < n; j++)
            line[j] = row[i + j] * loss->levels[i + j];
        memset(line + n, 0, (depth - n) * sizeof(*line));
        pass->served->linear.act_quantise(to, line, depth);
        to += pass->served->linear.act_nbytes(depth);
    }
}

static void chunk_forward(struct lorica_pass *pass, unsigned thread, struct lorica_loss *loss,
                          uint32_t first, uint32_t count, bool backward) {
    const struct lorica_base *base = pass->base;
    const size_t hidden = base->arch.hidden, vocab = base->arch.vocab;
    const struct lorica_linear *tiled = tiled_head(pass);
    const struct lorica_term head = {
        .a = loss->normed,
        .lda = hidden,
        .w = &base->head,
        .scale = 1.0f,
        .tiled = tiled,
        .quantised = pass->quantised,
        .quantised_stride =
            tiled ? lorica_pass_quantised(&pass->served->linear, tiled->k, false) : 0};
    float *line = pass->lines[thread];
    uint32_t begin, end;
    lorica_pool_range(count, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = begin; i < end; i++) {
        pass->gemm.norm(line, pass->stream + loss->rows[first + i].row * hidden, base->final_norm,
                        base->arch.hidden, base->arch.rms_eps);
        pass->gemm.store(lorica_operands_at(pass, loss->normed, i * hidden), line, hidden);
    }
    if (tiled)
        lorica_pass_quantise(pass, thread, pass->quantised, loss->normed, count, base->arch.hidden,
                             false);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    lorica_pass_product(pass, thread, loss->logits, loss->row, count, base->arch.vocab, &head, 1,
                        LORICA_GEMM_SET);
    lorica_pass_barrier(pass, thread, LORICA_PART_HEAD);
    for (size_t i = begin; i < end; i++) {
        float *row = loss->logits + i * loss->row;
        loss->losses[first + i] =
            pass->gemm.cross_entropy(row, base->arch.vocab, (uint32_t)loss->rows[first + i].label);
        if (backward && tiled && pass->turns)
            quantise_row(pass, thread, loss, row);
        else if (backward)
            pass->gemm.store(row, row, vocab);
    }
    lorica_pass_barrier(pass, thread, LORICA_PART_LOSS);
}

/* A model trained whole: the head's gradient, dlogits^T normed. Ends behind a barrier. */
static void head_gradient(struct lorica_pass *pass, unsigned thread, struct lorica_loss *loss,
                          uint32_t count) {
    const uint32_t vocab = pass->base->arch.vocab, hidden = pass->base->arch.hidden;
    const size_t ldx = loss->row * sizeof(float) / pass->gemm.operand_nbytes;
    const struct lorica_term term = {
        .a = loss->turned, .lda = loss->ld, .x = loss->normed, .ldx = hidden, .depth = count};
    uint32_t begin, end;
    lorica_pool_range((count + 31) / 32, thread, lorica_pool_threads(pass->pool), &begin, &end);
    begin *= 32;
    end = end * 32 < count ? end * 32 : count;
    if (begin < end)
        pass->gemm.turn(lorica_operands_at(pass, loss->turned, begin), loss->ld,
                        lorica_operands_at(pass, loss->logits, begin * ldx), ldx, end - begin,
                        vocab);
    lorica_pool_barrier(pass->pool);
    lorica_pass_product(pass, thread, lorica_full_grad(pass->full, pass->base->head.data), hidden,
                        vocab, hidden, &term, 1, LORICA_GEMM_ADD);
    lorica_pool_barrier(pass->pool);
}

/* And that of the last norm's weight: each thread does some columns. */
static void norm_gradient(struct lorica_pass *pass, unsigned thread, struct lorica_loss *loss,
                          uint32_t first, uint32_t count) {
    const uint32_t n = pass->base->arch.hidden;
    float *dweight = lorica_full_grad(pass->full, pass->base->final_norm);
    uint32_t begin, end;
    lorica_pool_range(n, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = 0; i < count; i++)
        lorica_norm_gradient_row(pass->stream + (size_t)loss->rows[first + i].row * n,
                                 loss->dnormed + i * n, n, pass->base->arch.rms_eps, begin, end,
                                 dweight);
}

static void chunk_backward(struct lorica_pass *pass, unsigned thread, struct lorica_loss *loss,
                           uint32_t first, uint32_t count, float *d) {
    const struct lorica_base *base = pass->base;
    const size_t hidden = base->arch.hidden;
    const struct lorica_term head = {.a = loss->logits,
                                     .lda = loss->row * sizeof(float) / pass->gemm.operand_nbytes,
                                     .w = &base->head,
                                     .by_rows = true,
                                     .scale = 1.0f,
                                     .tiled = pass->turns ? tiled_head(pass) : NULL,
                                     .quantised = loss->logits,
                                     .quantised_stride = loss->row * sizeof(float),
                                     .by = loss->inverse};
    uint32_t begin, end;
    if (pass->full)
        head_gradient(pass, thread, loss, count);
    lorica_pass_product(pass, thread, loss->dnormed, hidden, count, base->arch.hidden, &head, 1,
                        LORICA_GEMM_SET);
    lorica_pass_barrier(pass, thread, LORICA_PART_HEAD);
    if (pass->full)
        norm_gradient(pass, thread, loss, first, count);
    lorica_pool_range(count, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const size_t row = loss->rows[first + i].row * hidden;
        pass->gemm.norm_backward(d + row, pass->stream + row, base->final_norm,
                                 loss->dnormed + i * hidden, base->arch.hidden, base->arch.rms_eps);
    }
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
}

void lorica_pass_loss(struct lorica_pass *pass, unsigned thread, struct lorica_loss *loss,
                      float *d) {
    /* Chunks of one size, nearly: a small last one would decode the head for few rows. */
    const uint32_t chunks = (loss->count + loss->chunk - 1) / loss->chunk;
    for (uint32_t chunk = 0; chunk < chunks; chunk++) {
        uint32_t begin, end;
        lorica_pool_range(loss->count, chunk, chunks, &begin, &end);
        chunk_forward(pass, thread, loss, begin, end - begin, d != NULL);
        if (d)
            chunk_backward(pass, thread, loss, begin, end - begin, d);
    }
}
