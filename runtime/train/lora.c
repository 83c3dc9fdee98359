/* SPDX-License-Identifier: MIT
 * The adapter's side of a linear layer: y = W x + scale B (A dropout(x)). */
#include "runtime/train/pass.h"

const struct lorica_adapter_pair *lorica_pass_pair(const struct lorica_pass *pass, uint32_t layer,
                                                   enum lorica_module module) {
    if (!pass->adapter)
        return NULL;
    const struct lorica_adapter_pair *pair = lorica_adapter_pair(pass->adapter, layer, module);
    return pair->rank > 0 ? pair : NULL;
}

/* A well mixed 64-bit value of a counter (the finaliser of splitmix64). */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

void lorica_pass_mask(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                      enum lorica_module module, const float *x, float *to, bool add) {
    const float keep = 1.0f - pass->dropout, factor = 1.0f / keep;
    const uint64_t limit = (uint64_t)((double)keep * 4294967296.0);
    const uint64_t stream =
        mix(pass->seed + mix((uint64_t)layer * LORICA_MODULE_COUNT + (uint64_t)module + 1));
    uint32_t begin, end, n, k;
    lorica_arch_module_shape(&pass->base->arch, module, &n, &k);
    lorica_pool_range(pass->tokens, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = (size_t)begin * k; i < (size_t)end * k; i++) {
        const float kept = (mix(stream + i * 0x9E3779B97F4A7C15u) >> 32) < limit ? factor : 0.0f;
        to[i] = add ? to[i] + x[i] * kept : x[i] * kept;
    }
}

void lorica_pass_shrink(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                        enum lorica_module module, const float *x, unsigned slot) {
    const struct lorica_adapter_pair *pair = lorica_pass_pair(pass, layer, module);
    uint32_t n, k;
    if (!pair)
        return;
    lorica_arch_module_shape(&pass->base->arch, module, &n, &k);
    if (pass->dropout > 0) {
        lorica_pass_mask(pass, thread, layer, module, x, pass->dropped, false);
        lorica_pool_barrier(pass->pool);
        x = pass->dropped;
    }
    const struct lorica_matrix a = lorica_dense(pair->a, pair->rank, k);
    const struct lorica_term term = {.a = x, .lda = k, .w = &a, .scale = 1.0f};
    lorica_pass_product(pass, thread, pass->shrunk[slot], pair->rank, pass->tokens, pair->rank,
                        &term, 1, false);
    if (pass->dropout > 0)
        lorica_pool_barrier(pass->pool);
}

void lorica_pass_linear(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                        enum lorica_module module, const float *x, unsigned slot, float *out,
                        bool accumulate) {
    const struct lorica_matrix *w = &pass->base->layers[layer].modules[module];
    const struct lorica_adapter_pair *pair = lorica_pass_pair(pass, layer, module);
    const struct lorica_matrix b = lorica_dense(pair ? pair->b : NULL, w->n, pair ? pair->rank : 0);
    const struct lorica_term terms[2] = {
        {.a = x, .lda = w->k, .w = w, .scale = 1.0f},
        {.a = pass->shrunk[slot], .lda = b.k, .w = &b, .scale = pair ? pair->scale : 0.0f},
    };
    lorica_pass_product(pass, thread, out, w->n, pass->tokens, w->n, terms, pair ? 2 : 1,
                        accumulate);
}
