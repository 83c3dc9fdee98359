/* SPDX-License-Identifier: MIT
 * Memory of a pass, and its sequences. */
#include "runtime/train/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64
#define GROUP_BYTES ((size_t)384 << 10) /* of packed panels: what a level 2 cache holds well */

void *lorica_pass_block(struct lorica_pass *pass, size_t rows, size_t columns, size_t size) {
    size_t count, nbytes;
    void *block = NULL;
    void **longer = reallocarray(pass->owned, pass->owned_count + 1, sizeof(*longer));
    if (!longer)
        return NULL;
    pass->owned = longer;
    if (__builtin_mul_overflow(rows, columns, &count) ||
        __builtin_mul_overflow(count, size, &nbytes) || nbytes > SIZE_MAX - 2 * ALIGN)
        return NULL;
    if (posix_memalign(&block, ALIGN, nbytes + ALIGN) != 0)
        return NULL;
    memset(block, 0, nbytes + ALIGN);
    pass->owned[pass->owned_count++] = block;
    return block;
}

float *lorica_pass_floats(struct lorica_pass *pass, size_t rows, size_t columns) {
    return lorica_pass_block(pass, rows, columns, sizeof(float));
}

void *lorica_pass_operands(struct lorica_pass *pass, size_t rows, size_t columns) {
    return lorica_pass_block(pass, rows, columns, pass->gemm.operand_nbytes);
}

size_t lorica_act_width(const struct lorica_arch *arch, uint32_t max_rank, enum lorica_act act) {
    const size_t dim = arch->head_dim;
    switch (act) {
    case LORICA_ACT_X:
    case LORICA_ACT_MIDDLE:
        return arch->hidden;
    case LORICA_ACT_THIN:
        return (size_t)LORICA_MODULE_COUNT * max_rank;
    case LORICA_ACT_Q:
    case LORICA_ACT_ATTENDED:
        return arch->heads * dim;
    case LORICA_ACT_K:
    case LORICA_ACT_V:
        return arch->kv_heads * dim;
    case LORICA_ACT_GATE:
    case LORICA_ACT_UP:
    case LORICA_ACT_COUNT:
    default:
        return arch->intermediate;
    }
}

bool lorica_pass_acts(struct lorica_pass *pass, void *arrays[LORICA_ACT_COUNT],
                      enum lorica_act first, enum lorica_act last, size_t size) {
    for (int a = (int)first; a < (int)last; a++) {
        const size_t width =
            lorica_act_width(&pass->base->arch, pass->max_rank, (enum lorica_act)a);
        arrays[a] = lorica_pass_block(pass, pass->max_tokens, width, size);
        if (!arrays[a])
            return false;
    }
    return true;
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

static uint32_t widest_of(const struct lorica_arch *arch) {
    const uint32_t q = arch->heads * arch->head_dim;
    const uint32_t widest = arch->hidden > arch->intermediate ? arch->hidden : arch->intermediate;
    return q > widest ? q : widest;
}

/* A whole matrix of the model, and one of the adapter. */
static size_t panel_depth(const struct lorica_arch *arch, uint32_t max_rank) {
    return ((size_t)widest_of(arch) + 63) / 64 * 64 + ((size_t)max_rank + 63) / 64 * 64;
}

/* Room for one panel, and for several of those that are not so deep. */
static size_t panel_nbytes(const struct lorica_arch *arch, size_t size, uint32_t max_rank) {
    const size_t deepest = panel_depth(arch, max_rank) * LORICA_GEMM_NR * size;
    return deepest > GROUP_BYTES ? deepest : GROUP_BYTES;
}

/* Whether int8 is the fastest that the gradients' products can be of. */
static bool turns(bool served, enum lorica_operand operand) {
    return served && operand == LORICA_OPERAND_F32;
}

/* Of one token, quantised: what the products of a stage read, an input or gradients of outputs. */
static size_t quantised_nbytes(const struct lorica_arch *arch, bool gradients) {
    struct lorica_linear_kernels linear;
    lorica_linear_kernels_init(&linear);
    const uint32_t q = arch->heads * arch->head_dim, kv = arch->kv_heads * arch->head_dim;
    const size_t input = lorica_pass_quantised(&linear, widest_of(arch), false);
    if (!gradients)
        return input;
    const size_t mlp = 2 * lorica_pass_quantised(&linear, arch->intermediate, true),
                 attention = lorica_pass_quantised(&linear, q, true) +
                             2 * lorica_pass_quantised(&linear, kv, true),
                 hidden = lorica_pass_quantised(&linear, arch->hidden, true);
    const size_t most = mlp > attention ? mlp : attention, other = hidden > input ? hidden : input;
    return most > other ? most : other;
}

/* Of a line: a row, or a piece of one. */
static size_t line_width(uint32_t widest) {
    return widest > LORICA_PASS_PIECE ? widest : LORICA_PASS_PIECE;
}

size_t lorica_pass_nbytes(const struct lorica_arch *arch, unsigned threads,
                          enum lorica_operand operand, bool served, uint32_t max_tokens,
                          uint32_t max_rank, bool dropout) {
    const size_t size = operand == LORICA_OPERAND_BF16 ? sizeof(uint16_t) : sizeof(float);
    const size_t q = (size_t)arch->heads * arch->head_dim,
                 kv = (size_t)arch->kv_heads * arch->head_dim, widest = widest_of(arch);
    const bool apart = operand != LORICA_OPERAND_F32; /* queries and keys, before and after */
    const size_t floats = arch->hidden + (apart ? q + kv : 0) + arch->head_dim;
    const size_t operands = arch->hidden + (size_t)arch->intermediate + (dropout ? widest : 0);
    const size_t sums = served ? LORICA_PASS_SUM_ROWS * LORICA_PASS_SUM_COLS : 0;
    return max_tokens * (floats * sizeof(float) + operands * size +
                         (served ? quantised_nbytes(arch, turns(served, operand)) : 0) + 16) +
           threads * (panel_nbytes(arch, size, max_rank) +
                      (turns(served, operand) ? LORICA_PASS_TURNED : 0) +
                      (lorica_attention_scratch(arch, max_tokens) +
                       LORICA_PASS_LINES * line_width(widest_of(arch)) + sums) *
                          sizeof(float));
}

static bool make_thread_buffers(struct lorica_pass *pass) {
    const struct lorica_arch *arch = &pass->base->arch;
    const unsigned threads = lorica_pool_threads(pass->pool);
    pass->panels = calloc(threads, sizeof(*pass->panels));
    pass->scratch = calloc(threads, sizeof(*pass->scratch));
    pass->lines = calloc(threads, sizeof(*pass->lines));
    pass->sums = calloc(threads, sizeof(*pass->sums));
    pass->turned = calloc(threads, sizeof(*pass->turned));
    if (!pass->panels || !pass->scratch || !pass->lines || !pass->sums || !pass->turned)
        return false;
    for (unsigned i = 0; i < threads; i++) {
        pass->panels[i] = lorica_pass_block(pass, 1, pass->panel_nbytes, 1);
        pass->scratch[i] =
            lorica_pass_floats(pass, 1, lorica_attention_scratch(arch, pass->max_tokens));
        pass->lines[i] = lorica_pass_floats(pass, LORICA_PASS_LINES, line_width(pass->widest));
        if (!pass->panels[i] || !pass->scratch[i] || !pass->lines[i])
            return false;
        if (!pass->served)
            continue;
        pass->sums[i] = lorica_pass_floats(pass, LORICA_PASS_SUM_ROWS, LORICA_PASS_SUM_COLS);
        if (pass->turns)
            pass->turned[i] = lorica_pass_block(pass, 1, LORICA_PASS_TURNED, 1);
        if (!pass->sums[i] || (pass->turns && !pass->turned[i]))
            return false;
    }
    return true;
}

static bool make_buffers(struct lorica_pass *pass, bool dropout) {
    const struct lorica_arch *arch = &pass->base->arch;
    const size_t m = pass->max_tokens;
    pass->widest = widest_of(arch);
    pass->panel_depth = panel_depth(arch, pass->max_rank);
    pass->panel_nbytes = panel_nbytes(arch, pass->gemm.operand_nbytes, pass->max_rank);
    pass->stream = lorica_pass_floats(pass, m, arch->hidden);
    pass->normed = lorica_pass_operands(pass, m, arch->hidden);
    pass->wide = lorica_pass_operands(pass, m, arch->intermediate);
    if (pass->gemm.operand != LORICA_OPERAND_F32 &&
        (!(pass->q = lorica_pass_floats(pass, m, (size_t)arch->heads * arch->head_dim)) ||
         !(pass->k = lorica_pass_floats(pass, m, (size_t)arch->kv_heads * arch->head_dim))))
        return false;
    if (dropout && !(pass->dropped = lorica_pass_operands(pass, m, pass->widest)))
        return false;
    if (pass->served &&
        !(pass->quantised = lorica_pass_block(pass, m, quantised_nbytes(arch, pass->turns), 1)))
        return false;
    return pass->stream && pass->normed && pass->wide && make_thread_buffers(pass) &&
           make_rotary(pass);
}

int lorica_pass_init(struct lorica_pass *pass, const struct lorica_base *base,
                     const struct lorica_model *served, struct lorica_pool *pool,
                     enum lorica_operand operand, uint32_t max_tokens, uint32_t max_rank,
                     bool dropout, struct lorica_error *err) {
    *pass = (struct lorica_pass){.base = base,
                                 .served = served,
                                 .turns = turns(served != NULL, operand),
                                 .pool = pool,
                                 .max_tokens = max_tokens,
                                 .max_rank = max_rank};
    lorica_gemm_kernels_init(&pass->gemm, operand);
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
    free((void *)pass->lines);
    free((void *)pass->sums);
    free((void *)pass->turned);
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

void lorica_pass_rows(const struct lorica_pass *pass, unsigned thread, uint32_t *ret_begin,
                      uint32_t *ret_end) {
    lorica_pool_range(pass->tokens, thread, lorica_pool_threads(pass->pool), ret_begin, ret_end);
}
