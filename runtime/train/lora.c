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

/* line[k] = the factors of a row: 0 or 1 / (1 - dropout). */
static void mask_row(const struct lorica_pass *pass, uint32_t layer, enum lorica_module module,
                     size_t row, uint32_t k, float *line) {
    const float keep = 1.0f - pass->dropout, factor = 1.0f / keep;
    const uint64_t limit = (uint64_t)((double)keep * 4294967296.0);
    const uint64_t stream =
        mix(pass->seed + mix((uint64_t)layer * LORICA_MODULE_COUNT + (uint64_t)module + 1));
    for (size_t i = 0; i < k; i++)
        line[i] = (mix(stream + (row * k + i) * 0x9E3779B97F4A7C15u) >> 32) < limit ? factor : 0.0f;
}

void lorica_pass_mask(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                      enum lorica_module module, const void *x) {
    float *mask = pass->lines[thread], *line = mask + pass->widest;
    uint32_t begin, end, n, k;
    lorica_arch_module_shape(&pass->base->arch, module, &n, &k);
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        mask_row(pass, layer, module, i, k, mask);
        pass->gemm.load(line, lorica_operands_at(pass, x, i * k), k);
        for (uint32_t j = 0; j < k; j++)
            line[j] *= mask[j];
        pass->gemm.store(lorica_operands_at(pass, pass->dropped, i * k), line, k);
    }
}

void lorica_pass_mask_add(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                          enum lorica_module module, const float *x, float *to) {
    float *mask = pass->lines[thread];
    uint32_t begin, end, n, k;
    lorica_arch_module_shape(&pass->base->arch, module, &n, &k);
    lorica_pass_rows(pass, thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        mask_row(pass, layer, module, i, k, mask);
        for (uint32_t j = 0; j < k; j++)
            to[i * k + j] += x[i * k + j] * mask[j];
    }
}

void lorica_pass_shrink(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                        enum lorica_module module, const void *x,
                        const struct lorica_layer_acts *acts) {
    const struct lorica_adapter_pair *pair = lorica_pass_pair(pass, layer, module);
    uint32_t n, k;
    if (!pair)
        return;
    lorica_arch_module_shape(&pass->base->arch, module, &n, &k);
    if (pass->dropout > 0) {
        lorica_pass_mask(pass, thread, layer, module, x);
        lorica_pool_barrier(pass->pool);
        x = pass->dropped;
    }
    const struct lorica_matrix a = lorica_dense(pair->a, pair->rank, k);
    const struct lorica_term term = {.a = x, .lda = k, .w = &a, .scale = 1.0f};
    lorica_pass_product(pass, thread, lorica_act_thin(pass, acts, module), pair->rank, pass->tokens,
                        pair->rank, &term, 1, LORICA_GEMM_OPERAND);
    if (pass->dropout > 0)
        lorica_pool_barrier(pass->pool);
}

void lorica_pass_linear(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                        enum lorica_module module, const void *x,
                        const struct lorica_layer_acts *acts, void *out, enum lorica_gemm_out how) {
    const struct lorica_matrix *w = &pass->base->layers[layer].modules[module];
    const struct lorica_linear *tiled = lorica_pass_tiled(pass, layer, module);
    const struct lorica_adapter_pair *pair = lorica_pass_pair(pass, layer, module);
    const struct lorica_matrix b = lorica_dense(pair ? pair->b : NULL, w->n, pair ? pair->rank : 0);
    const struct lorica_term terms[2] = {
        {.a = x,
         .lda = w->k,
         .w = w,
         .scale = 1.0f,
         .tiled = tiled,
         .quantised = pass->quantised,
         .quantised_stride = tiled ? lorica_pass_quantised(&pass->served->linear, w->k, false) : 0},
        {.a = pair ? lorica_act_thin(pass, acts, module) : NULL,
         .lda = b.k,
         .w = &b,
         .scale = pair ? pair->scale : 0.0f},
    };
    lorica_pass_product(pass, thread, out, w->n, pass->tokens, w->n, terms, pair ? 2 : 1, how);
}
