/* SPDX-License-Identifier: MIT
 * The forward pass of a Llama block. */
#include <string.h>

#include "runtime/train/pass.h"

void lorica_pass_embed(struct lorica_pass *pass, unsigned thread, const int32_t *ids, float *x) {
    const uint32_t hidden = pass->base->arch.hidden;
    uint32_t begin, end;
    lorica_pool_range(pass->tokens, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = begin; i < end; i++)
        lorica_matrix_rows_f32(&pass->base->embed, (uint32_t)ids[i], 1, x + i * hidden);
    lorica_pool_barrier(pass->pool);
}

/* True when any of the modules has a pair: only then is a barrier for their thin products due. */
static bool any_pair(const struct lorica_pass *pass, uint32_t layer, enum lorica_module first,
                     enum lorica_module last) {
    for (int m = (int)first; m <= (int)last; m++)
        if (lorica_pass_pair(pass, layer, (enum lorica_module)m))
            return true;
    return false;
}

/* The linear layers `first` to `last`, which read the same x: out[i] each. */
static void linears(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                    enum lorica_module first, enum lorica_module last, const float *x,
                    float *const *out, bool accumulate) {
    for (int m = (int)first; m <= (int)last; m++)
        lorica_pass_shrink(pass, thread, layer, (enum lorica_module)m, x,
                           (unsigned)(m - (int)first));
    if (any_pair(pass, layer, first, last))
        lorica_pool_barrier(pass->pool);
    for (int m = (int)first; m <= (int)last; m++)
        lorica_pass_linear(pass, thread, layer, (enum lorica_module)m, x,
                           (unsigned)(m - (int)first), out[m - (int)first], accumulate);
    lorica_pool_barrier(pass->pool);
}

static void copy_rows(struct lorica_pass *pass, unsigned thread, const float *from, float *to) {
    const size_t hidden = pass->base->arch.hidden;
    uint32_t begin, end;
    lorica_pool_range(pass->tokens, thread, lorica_pool_threads(pass->pool), &begin, &end);
    memcpy(to + begin * hidden, from + begin * hidden, (end - begin) * hidden * sizeof(float));
}

void lorica_pass_layer(struct lorica_pass *pass, unsigned thread, uint32_t layer, const float *x,
                       const struct lorica_layer_acts *acts, float *y) {
    const struct lorica_arch *arch = &pass->base->arch;
    const struct lorica_layer *weights = &pass->base->layers[layer];
    float *const attention[] = {acts->q, acts->k, acts->v}, *const mlp[] = {acts->gate, acts->up};
    lorica_pass_norm(pass, thread, x, weights->attn_norm, pass->normed);
    copy_rows(pass, thread, x, acts->middle);
    lorica_pool_barrier(pass->pool);
    linears(pass, thread, layer, LORICA_MODULE_Q, LORICA_MODULE_V, pass->normed, attention, false);
    lorica_pass_rotate(pass, thread, acts->q, arch->heads, false);
    lorica_pass_rotate(pass, thread, acts->k, arch->kv_heads, false);
    lorica_pool_barrier(pass->pool);
    lorica_pass_attend(pass, thread, acts);
    lorica_pool_barrier(pass->pool);
    linears(pass, thread, layer, LORICA_MODULE_O, LORICA_MODULE_O, acts->attended, &acts->middle,
            true);
    lorica_pass_norm(pass, thread, acts->middle, weights->mlp_norm, pass->normed);
    copy_rows(pass, thread, acts->middle, y);
    lorica_pool_barrier(pass->pool);
    linears(pass, thread, layer, LORICA_MODULE_GATE, LORICA_MODULE_UP, pass->normed, mlp, false);
    lorica_pass_silu(pass, thread, acts->gate, acts->up, pass->wide);
    lorica_pool_barrier(pass->pool);
    linears(pass, thread, layer, LORICA_MODULE_DOWN, LORICA_MODULE_DOWN, pass->wide, &y, true);
}
