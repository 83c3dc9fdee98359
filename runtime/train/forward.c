/* SPDX-License-Identifier: MIT
 * The forward pass of a Llama block. */
#include "runtime/train/pass.h"

void lorica_pass_embed(struct lorica_pass *pass, unsigned thread, const int32_t *ids) {
    const uint32_t hidden = pass->base->arch.hidden;
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++)
        lorica_matrix_rows_f32(&pass->base->embed, (uint32_t)ids[i], 1, pass->stream + i * hidden);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
}

void lorica_pass_embed_backward(struct lorica_pass *pass, unsigned thread, const int32_t *ids,
                                const float *d) {
    const size_t hidden = pass->base->arch.hidden;
    float *grad = lorica_full_grad(pass->full, pass->base->embed.data);
    uint32_t begin, end; /* columns: two threads never add to one row's value */
    lorica_pool_range((uint32_t)hidden, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = 0; i < pass->tokens; i++)
        for (size_t j = begin; j < end; j++)
            grad[(size_t)ids[i] * hidden + j] += d[i * hidden + j];
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
}

/* x quantised, where one of the modules that read it is in tiles. False: none is. */
static bool quantise(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                     enum lorica_module first, enum lorica_module last, const void *x) {
    for (int m = (int)first; m <= (int)last; m++) {
        const struct lorica_linear *w = lorica_pass_tiled(pass, layer, (enum lorica_module)m);
        if (!w)
            continue;
        lorica_pass_quantise(pass, thread, pass->quantised, x, pass->tokens, w->k, false);
        return true;
    }
    return false;
}

/* What modules that read the same x make of it before their products: its quantised rows, and their
 * thin products. */
static void prepare(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                    enum lorica_module first, enum lorica_module last, const void *x,
                    const struct lorica_layer_acts *acts) {
    bool any = quantise(pass, thread, layer, first, last, x);
    lorica_pass_mark(pass, thread, LORICA_PART_ROWS);
    for (int m = (int)first; m <= (int)last; m++) {
        lorica_pass_shrink(pass, thread, layer, (enum lorica_module)m, x, acts);
        any |= lorica_pass_pair(pass, layer, (enum lorica_module)m) != NULL;
    }
    if (any)
        lorica_pass_barrier(pass, thread, LORICA_PART_LORA);
}

/* From normed input to attention's output. */
static void attention(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                      const struct lorica_layer_acts *acts) {
    const struct lorica_arch *arch = &pass->base->arch;
    float *q = pass->q ? pass->q : acts->of[LORICA_ACT_Q];
    float *k = pass->k ? pass->k : acts->of[LORICA_ACT_K];
    lorica_pass_linear(pass, thread, layer, LORICA_MODULE_Q, pass->normed, acts, q,
                       LORICA_GEMM_SET);
    lorica_pass_linear(pass, thread, layer, LORICA_MODULE_K, pass->normed, acts, k,
                       LORICA_GEMM_SET);
    lorica_pass_linear(pass, thread, layer, LORICA_MODULE_V, pass->normed, acts,
                       acts->of[LORICA_ACT_V], LORICA_GEMM_OPERAND);
    lorica_pass_barrier(pass, thread, LORICA_PART_PRODUCTS);
    lorica_pass_rotate(pass, thread, q, arch->heads, acts->of[LORICA_ACT_Q]);
    lorica_pass_rotate(pass, thread, k, arch->kv_heads, acts->of[LORICA_ACT_K]);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    lorica_pass_attend(pass, thread, acts);
    lorica_pass_barrier(pass, thread, LORICA_PART_ATTENTION);
}

/* From normed middle to gate and up. */
static void gate_up(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                    const struct lorica_layer_acts *acts) {
    lorica_pass_linear(pass, thread, layer, LORICA_MODULE_GATE, pass->normed, acts,
                       acts->of[LORICA_ACT_GATE], LORICA_GEMM_OPERAND);
    lorica_pass_linear(pass, thread, layer, LORICA_MODULE_UP, pass->normed, acts,
                       acts->of[LORICA_ACT_UP], LORICA_GEMM_OPERAND);
    lorica_pass_barrier(pass, thread, LORICA_PART_PRODUCTS);
}

void lorica_pass_layer(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                       const struct lorica_layer_acts *acts) {
    const struct lorica_layer *weights = &pass->base->layers[layer];
    const void *attended = acts->of[LORICA_ACT_ATTENDED];
    lorica_pass_norm(pass, thread, pass->stream, weights->attn_norm, acts, LORICA_ACT_X,
                     pass->normed);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    prepare(pass, thread, layer, LORICA_MODULE_Q, LORICA_MODULE_V, pass->normed, acts);
    attention(pass, thread, layer, acts);
    prepare(pass, thread, layer, LORICA_MODULE_O, LORICA_MODULE_O, attended, acts);
    lorica_pass_linear(pass, thread, layer, LORICA_MODULE_O, attended, acts, pass->stream,
                       LORICA_GEMM_ADD);
    lorica_pass_barrier(pass, thread, LORICA_PART_PRODUCTS);
    lorica_pass_norm(pass, thread, pass->stream, weights->mlp_norm, acts, LORICA_ACT_MIDDLE,
                     pass->normed);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    prepare(pass, thread, layer, LORICA_MODULE_GATE, LORICA_MODULE_UP, pass->normed, acts);
    gate_up(pass, thread, layer, acts);
    lorica_pass_silu(pass, thread, acts, pass->wide);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    prepare(pass, thread, layer, LORICA_MODULE_DOWN, LORICA_MODULE_DOWN, pass->wide, acts);
    lorica_pass_linear(pass, thread, layer, LORICA_MODULE_DOWN, pass->wide, acts, pass->stream,
                       LORICA_GEMM_ADD);
    lorica_pass_barrier(pass, thread, LORICA_PART_PRODUCTS);
}

void lorica_pass_layer_again(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                             const struct lorica_layer_acts *acts) {
    const struct lorica_layer *weights = &pass->base->layers[layer];
    lorica_pass_norm_kept(pass, thread, acts, LORICA_ACT_X, weights->attn_norm, pass->normed);
    (void)quantise(pass, thread, layer, LORICA_MODULE_Q, LORICA_MODULE_V, pass->normed);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    attention(pass, thread, layer, acts);
    lorica_pass_norm_kept(pass, thread, acts, LORICA_ACT_MIDDLE, weights->mlp_norm, pass->normed);
    (void)quantise(pass, thread, layer, LORICA_MODULE_GATE, LORICA_MODULE_UP, pass->normed);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    gate_up(pass, thread, layer, acts);
}
