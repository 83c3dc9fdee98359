/* SPDX-License-Identifier: MIT
 * Memory of a pass, and its sequences. */
#include "runtime/train/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64

float *lorica_pass_floats(struct lorica_pass *pass, size_t rows, size_t columns) {
    size_t count, nbytes;
    void *block = NULL;
    void **longer = reallocarray(pass->owned, pass->owned_count + 1, sizeof(*longer));
    if (!longer)
        return NULL;
    pass->owned = longer;
    if (__builtin_mul_overflow(rows, columns, &count) ||
        __builtin_mul_overflow(count, sizeof(float), &nbytes) || nbytes > SIZE_MAX - ALIGN)
        return NULL;
    if (posix_memalign(&block, ALIGN, nbytes + ALIGN) != 0)
        return NULL;
    memset(block, 0, nbytes);
    pass->owned[pass->owned_count++] = block;
    return block;
}

size_t lorica_pass_acts_floats(const struct lorica_arch *arch) {
    const size_t dim = arch->head_dim;
    return 2 * arch->heads * dim + 2 * arch->kv_heads * dim + arch->hidden +
           2 * (size_t)arch->intermediate;
}

bool lorica_pass_acts(struct lorica_pass *pass, struct lorica_layer_acts *acts) {
    const struct lorica_arch *arch = &pass->base->arch;
    const size_t q = (size_t)arch->heads * arch->head_dim,
                 kv = (size_t)arch->kv_heads * arch->head_dim, m = pass->max_tokens;
    acts->q = lorica_pass_floats(pass, m, q);
    acts->k = lorica_pass_floats(pass, m, kv);
    acts->v = lorica_pass_floats(pass, m, kv);
    acts->attended = lorica_pass_floats(pass, m, q);
    acts->middle = lorica_pass_floats(pass, m, arch->hidden);
    acts->gate = lorica_pass_floats(pass, m, arch->intermediate);
    acts->up = lorica_pass_floats(pass, m, arch->intermediate);
    return acts->q && acts->k && acts->v && acts->attended && acts->middle && acts->gate &&
           acts->up;
}

static bool make_rotary(struct lorica_pass *pass) {
    const struct lorica_arch *arch = &pass->base->arch;
    const uint32_t dim = arch->head_dim, half = dim / 2;
    float *inv_freq = lorica_pass_floats(pass, 1, half);
    pass->rotary = lorica_pass_floats(pass, pass->max_tokens, dim);
    if (!inv_freq || !pass->rotary)
        return false;
    lorica_arch_inv_freq(arch, inv_freq);
    for (size_t p = 0; p < pass->max_tokens; p++) {
        for (size_t i = 0; i < half; i++) {
            const float angle = (float)p * inv_freq[i]; /* rounded to float32, as PyTorch does */
            pass->rotary[p * dim + i] = cosf(angle);
            pass->rotary[p * dim + half + i] = sinf(angle);
        }
    }
    return true;
}

static bool make_buffers(struct lorica_pass *pass, bool dropout) {
    const struct lorica_arch *arch = &pass->base->arch;
    const unsigned threads = lorica_pool_threads(pass->pool);
    const size_t m = pass->max_tokens, q = (size_t)arch->heads * arch->head_dim;
    size_t widest = arch->hidden > arch->intermediate ? arch->hidden : arch->intermediate;
    widest = q > widest ? q : widest;
    pass->normed = lorica_pass_floats(pass, m, arch->hidden);
    pass->wide = lorica_pass_floats(pass, m, arch->intermediate);
    if (!pass->normed || !pass->wide)
        return false;
    for (unsigned i = 0; i < LORICA_PASS_SLOTS && pass->max_rank > 0; i++)
        if (!(pass->shrunk[i] = lorica_pass_floats(pass, m, pass->max_rank)))
            return false;
    if (dropout && !(pass->dropped = lorica_pass_floats(pass, m, widest)))
        return false;
    pass->panels = calloc(threads, sizeof(*pass->panels));
    pass->scratch = calloc(threads, sizeof(*pass->scratch));
    if (!pass->panels || !pass->scratch)
        return false;
    for (unsigned i = 0; i < threads; i++) {
        pass->panels[i] = lorica_pass_floats(pass, LORICA_PASS_DEPTH, LORICA_GEMM_NR);
        pass->scratch[i] =
            lorica_pass_floats(pass, 1, lorica_attention_scratch(arch, pass->max_tokens));
        if (!pass->panels[i] || !pass->scratch[i])
            return false;
    }
    return make_rotary(pass);
}

int lorica_pass_init(struct lorica_pass *pass, const struct lorica_base *base,
                     struct lorica_pool *pool, uint32_t max_tokens, uint32_t max_rank, bool dropout,
                     struct lorica_error *err) {
    *pass = (struct lorica_pass){
        .base = base, .pool = pool, .max_tokens = max_tokens, .max_rank = max_rank};
    lorica_gemm_kernels_init(&pass->gemm);
    pass->sequences = calloc(max_tokens, sizeof(*pass->sequences));
    pass->positions = calloc(max_tokens, sizeof(*pass->positions));
    if (!pass->sequences || !pass->positions || !make_buffers(pass, dropout)) {
        lorica_pass_finish(pass);
        return lorica_fail(err, LORICA_ENOMEM,
                           "no memory for a pass over %u tokens; use shorter or fewer sequences",
                           max_tokens);
    }
    return 0;
}

void lorica_pass_finish(struct lorica_pass *pass) {
    for (size_t i = 0; i < pass->owned_count; i++)
        free(pass->owned[i]);
    free((void *)pass->owned);
    free(pass->sequences);
    free(pass->positions);
    free((void *)pass->panels);
    free((void *)pass->scratch);
    *pass = (struct lorica_pass){0};
}

void lorica_pass_begin(struct lorica_pass *pass, const struct lorica_adapter *adapter) {
    pass->adapter = adapter;
    pass->count = 0;
    pass->tokens = 0;
}

void lorica_pass_add(struct lorica_pass *pass, uint32_t length) {
    pass->sequences[pass->count++] =
        (struct lorica_pass_sequence){.start = pass->tokens, .length = length};
    for (uint32_t i = 0; i < length; i++)
        pass->positions[pass->tokens++] = i;
}
