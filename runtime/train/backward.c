/* SPDX-License-Identifier: MIT
 * The backward pass of a Llama block: gradients through the frozen weights to the layer's input,
 * and to A and B of each pair: with y = W x + s B A x,
 *   U = s dy B,  dB += s dy^T (A x),  dA += U^T x,  dx = dy W + U A. */
#include "runtime/train/pass.h"

/* One module at work. Its place among those of the same input is its slot. */
struct module {
    enum lorica_module module;
    const void *x;  /* its input */
    const void *dy; /* gradient of its output */
};

/* The backward pass of a layer. */
struct layer {
    struct lorica_pass *pass;
    unsigned thread;
    uint32_t number;
    const struct lorica_layer_acts *acts;
    const struct lorica_backward *work;
    struct lorica_adapter_grads *grads;
};

static const struct lorica_adapter_pair *pair_of(const struct layer *l, const struct module *m) {
    return lorica_pass_pair(l->pass, l->number, m->module);
}

static bool any_pair(const struct layer *l, const struct module *modules, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (pair_of(l, &modules[i]))
            return true;
    return false;
}

/* Turns this thread's rows of U and of A x, in whole blocks of 32: neither shares a pair. */
static void turn_thin(const struct layer *l, const struct module *m, size_t slot) {
    const struct lorica_pass *pass = l->pass;
    const struct lorica_adapter_pair *pair = pair_of(l, m);
    const size_t ld = l->work->ld;
    uint32_t begin, end;
    if (!pair)
        return;
    lorica_pool_range((pass->tokens + 31) / 32, l->thread, lorica_pool_threads(pass->pool), &begin,
                      &end);
    begin *= 32;
    end = end * 32 < pass->tokens ? end * 32 : pass->tokens;
    if (begin >= end)
        return;
    const size_t at = (size_t)begin * pair->rank;
    pass->gemm.turn(lorica_operands_at(pass, l->work->u_t[slot], begin), ld,
                    lorica_operands_at(pass, l->work->u[slot], at), pair->rank, end - begin,
                    pair->rank);
    pass->gemm.turn(lorica_operands_at(pass, l->work->t_t[slot], begin), ld,
                    lorica_operands_at(pass, lorica_act_thin(pass, l->acts, m->module), at),
                    pair->rank, end - begin, pair->rank);
}

/* dA += U^T x, and dB's transposed into its buffer. */
static void thin_products(const struct layer *l, const struct module *m, size_t slot) {
    struct lorica_pass *pass = l->pass;
    const struct lorica_adapter_pair *pair = pair_of(l, m);
    const size_t at = (size_t)l->number * LORICA_MODULE_COUNT + m->module;
    const void *x = m->x;
    uint32_t n, k;
    if (!pair)
        return;
    lorica_arch_module_shape(&pass->base->arch, m->module, &n, &k);
    if (pass->dropout > 0) {
        lorica_pool_barrier(pass->pool); /* the one before may still be read */
        lorica_pass_mask(pass, l->thread, l->number, m->module, x);
        lorica_pool_barrier(pass->pool);
        x = pass->dropped;
    }
    const struct lorica_term to_da = {
        .a = l->work->u_t[slot], .lda = l->work->ld, .x = x, .ldx = k, .depth = pass->tokens};
    const struct lorica_term to_db = {
        .a = l->work->t_t[slot], .lda = l->work->ld, .x = m->dy, .ldx = n, .depth = pass->tokens};
    lorica_pass_product(pass, l->thread, l->grads->da[at], k, pair->rank, k, &to_da, 1,
                        LORICA_GEMM_ADD);
    lorica_pass_product(pass, l->thread, l->work->db_t[slot], n, pair->rank, n, &to_db, 1,
                        LORICA_GEMM_SET);
}

/* db[n][rank] += scale * db_t[rank][n]. */
static void add_db(const struct layer *l, const struct module *m, size_t slot) {
    const struct lorica_adapter_pair *pair = pair_of(l, m);
    uint32_t begin, end, n, k;
    if (!pair)
        return;
    lorica_arch_module_shape(&l->pass->base->arch, m->module, &n, &k);
    float *db = l->grads->db[(size_t)l->number * LORICA_MODULE_COUNT + m->module];
    const float *db_t = l->work->db_t[slot];
    lorica_pool_range(n, l->thread, lorica_pool_threads(l->pass->pool), &begin, &end);
    for (size_t i = begin; i < end; i++)
        for (size_t j = 0; j < pair->rank; j++)
            db[i * pair->rank + j] += pair->scale * db_t[j * n + i];
}

/* A model trained whole: dW += dy^T x of each module. Ends behind a barrier. */
static void weight_gradients(const struct layer *l, const struct module *modules, size_t count) {
    struct lorica_pass *pass = l->pass;
    const size_t ld = l->work->ld;
    uint32_t begin, end;
    lorica_pool_range((pass->tokens + 31) / 32, l->thread, lorica_pool_threads(pass->pool), &begin,
                      &end);
    begin *= 32;
    end = end * 32 < pass->tokens ? end * 32 : pass->tokens;
    for (size_t i = 0; pass->full && i < count; i++) {
        const struct lorica_matrix *w = &pass->base->layers[l->number].modules[modules[i].module];
        const struct lorica_term term = {
            .a = l->work->dy_t, .lda = ld, .x = modules[i].x, .ldx = w->k, .depth = pass->tokens};
        if (begin < end)
            pass->gemm.turn(lorica_operands_at(pass, l->work->dy_t, begin), ld,
                            lorica_operands_at(pass, modules[i].dy, (size_t)begin * w->n), w->n,
                            end - begin, w->n);
        lorica_pool_barrier(pass->pool);
        lorica_pass_product(pass, l->thread, lorica_full_grad(pass->full, w->data), w->k, w->n,
                            w->k, &term, 1, LORICA_GEMM_ADD);
        lorica_pool_barrier(pass->pool);
    }
}

/* Leaves U in the slots and adds to dA and dB, or to dW. Ends behind a barrier. */
static void adapter_gradients(const struct layer *l, const struct module *modules, size_t count) {
    struct lorica_pass *pass = l->pass;
    weight_gradients(l, modules, count);
    if (!any_pair(l, modules, count))
        return;
    for (size_t i = 0; i < count; i++) {
        const struct lorica_adapter_pair *pair = pair_of(l, &modules[i]);
        if (!pair)
            continue;
        const uint32_t n = pass->base->layers[l->number].modules[modules[i].module].n;
        const struct lorica_matrix b = lorica_dense(pair->b, n, pair->rank);
        const struct lorica_term term = {
            .a = modules[i].dy, .lda = n, .w = &b, .by_rows = true, .scale = pair->scale};
        lorica_pass_product(pass, l->thread, l->work->u[i], pair->rank, pass->tokens, pair->rank,
                            &term, 1, LORICA_GEMM_OPERAND);
    }
    lorica_pool_barrier(pass->pool);
    for (size_t i = 0; i < count; i++)
        turn_thin(l, &modules[i], i);
    lorica_pool_barrier(pass->pool);
    for (size_t i = 0; i < count; i++)
        thin_products(l, &modules[i], i);
    lorica_pool_barrier(pass->pool);
    for (size_t i = 0; i < count; i++)
        add_db(l, &modules[i], i);
    lorica_pass_barrier(pass, l->thread, LORICA_PART_LORA);
}

/* With dropout: sum += mask(U A) of each module. */
static void masked_gradient(const struct layer *l, const struct module *modules, size_t count,
                            uint32_t k, float *sum) {
    struct lorica_pass *pass = l->pass;
    for (size_t i = 0; i < count; i++) {
        const struct lorica_adapter_pair *pair = pair_of(l, &modules[i]);
        if (!pair)
            continue;
        const struct lorica_matrix a = lorica_dense(pair->a, pair->rank, k);
        const struct lorica_term term = {
            .a = l->work->u[i], .lda = pair->rank, .w = &a, .by_rows = true, .scale = 1.0f};
        lorica_pass_product(pass, l->thread, l->work->extra, k, pass->tokens, k, &term, 1,
                            LORICA_GEMM_SET);
        lorica_pool_barrier(pass->pool);
        lorica_pass_mask_add(pass, l->thread, l->number, modules[i].module, l->work->extra, sum);
        lorica_pool_barrier(pass->pool);
    }
}

/* Lists the terms dy W: of operands, or quantised ones where that is faster and all modules are in
 * tiles; then ends behind a barrier. */
static size_t frozen_terms(const struct layer *l, const struct module *modules, size_t count,
                           struct lorica_term *terms) {
    struct lorica_pass *pass = l->pass;
    char *quantised = pass->quantised;
    bool all = pass->turns;
    for (size_t i = 0; i < count; i++)
        all = all && lorica_pass_tiled(pass, l->number, modules[i].module);
    for (size_t i = 0; i < count; i++) {
        const struct lorica_matrix *w = &pass->base->layers[l->number].modules[modules[i].module];
        terms[i] = (struct lorica_term){
            .a = modules[i].dy, .lda = w->n, .w = w, .by_rows = true, .scale = 1.0f};
        if (!all)
            continue;
        terms[i].tiled = lorica_pass_tiled(pass, l->number, modules[i].module);
        terms[i].quantised = quantised;
        terms[i].quantised_stride = lorica_pass_quantised(&pass->served->linear, w->n, true);
        lorica_pass_quantise(pass, l->thread, quantised, modules[i].dy, pass->tokens, w->n, true);
        quantised += pass->tokens * terms[i].quantised_stride;
    }
    if (all)
        lorica_pass_barrier(pass, l->thread, LORICA_PART_ROWS);
    return count;
}

/* dx = sum of dy W + U A over modules that read the same input. Ends behind a barrier. */
static void input_gradient(const struct layer *l, const struct module *modules, size_t count,
                           void *dx, enum lorica_gemm_out how) {
    struct lorica_pass *pass = l->pass;
    struct lorica_term terms[2 * LORICA_PASS_SLOTS];
    struct lorica_matrix a[LORICA_PASS_SLOTS];
    const uint32_t k = pass->base->layers[l->number].modules[modules[0].module].k;
    const bool masked = pass->dropout > 0 && any_pair(l, modules, count);
    float *sum = how == LORICA_GEMM_OPERAND ? l->work->sum : dx;
    size_t used = frozen_terms(l, modules, count, terms);
    for (size_t i = 0; i < count; i++) {
        const struct lorica_adapter_pair *pair = pair_of(l, &modules[i]);
        if (!pair || masked)
            continue;
        a[i] = lorica_dense(pair->a, pair->rank, k);
        terms[used++] = (struct lorica_term){
            .a = l->work->u[i], .lda = pair->rank, .w = &a[i], .by_rows = true, .scale = 1.0f};
    }
    if (!masked) {
        lorica_pass_product(pass, l->thread, dx, k, pass->tokens, k, terms, used, how);
        lorica_pass_barrier(pass, l->thread, LORICA_PART_PRODUCTS);
        return;
    }
    lorica_pass_product(pass, l->thread, sum, k, pass->tokens, k, terms, used, LORICA_GEMM_SET);
    lorica_pass_barrier(pass, l->thread, LORICA_PART_PRODUCTS);
    masked_gradient(l, modules, count, k, sum);
    if (how == LORICA_GEMM_OPERAND) {
        uint32_t begin, end;
        lorica_pass_rows(pass, l->thread, &begin, &end);
        const size_t at = (size_t)begin * k;
        pass->gemm.store(lorica_operands_at(pass, dx, at), sum + at, (size_t)(end - begin) * k);
        lorica_pool_barrier(pass->pool);
    }
    lorica_pass_mark(pass, l->thread, LORICA_PART_LORA);
}

/* From d, gradient of the layer's output, to that of its middle: d += through the MLP. */
static void mlp_backward(const struct layer *l) {
    struct lorica_pass *pass = l->pass;
    const struct lorica_backward *work = l->work;
    const float *norm = pass->base->layers[l->number].mlp_norm;
    void *const *acts = l->acts->of;
    const struct module down = {LORICA_MODULE_DOWN, pass->wide, work->dy};
    const struct module inner[] = {{LORICA_MODULE_GATE, pass->normed, acts[LORICA_ACT_GATE]},
                                   {LORICA_MODULE_UP, pass->normed, acts[LORICA_ACT_UP]}};
    lorica_pass_silu_kept(pass, l->thread, l->acts, pass->wide);
    lorica_pass_norm_kept(pass, l->thread, l->acts, LORICA_ACT_MIDDLE, norm, pass->normed);
    lorica_pass_barrier(pass, l->thread, LORICA_PART_ROWS);
    adapter_gradients(l, &down, 1);
    input_gradient(l, &down, 1, work->dwide, LORICA_GEMM_OPERAND);
    lorica_pass_silu_backward(pass, l->thread, l->acts, work->dwide);
    lorica_pass_barrier(pass, l->thread, LORICA_PART_ROWS);
    adapter_gradients(l, inner, 2);
    input_gradient(l, inner, 2, work->dnormed, LORICA_GEMM_SET);
    if (pass->full)
        lorica_pass_norm_gradient(pass, l->thread, l->acts, LORICA_ACT_MIDDLE, work->dnormed,
                                  lorica_full_grad(pass->full, norm));
    lorica_pass_norm_backward(pass, l->thread, l->acts, LORICA_ACT_MIDDLE, norm, work->dnormed,
                              work->d, work->dy);
    lorica_pass_barrier(pass, l->thread, LORICA_PART_ROWS);
}

void lorica_pass_layer_backward(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                                const struct lorica_layer_acts *acts,
                                const struct lorica_backward *work,
                                struct lorica_adapter_grads *grads, bool lowest) {
    const struct layer l = {pass, thread, layer, acts, work, grads};
    const float *norm = pass->base->layers[layer].attn_norm;
    const struct module out = {LORICA_MODULE_O, acts->of[LORICA_ACT_ATTENDED], work->dy};
    const struct module inner[] = {{LORICA_MODULE_Q, pass->normed, work->dq},
                                   {LORICA_MODULE_K, pass->normed, work->dk},
                                   {LORICA_MODULE_V, pass->normed, work->dv}};
    mlp_backward(&l);
    lorica_pass_norm_kept(pass, thread, acts, LORICA_ACT_X, norm, pass->normed);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    adapter_gradients(&l, &out, 1);
    input_gradient(&l, &out, 1, work->dwide, LORICA_GEMM_OPERAND);
    lorica_pass_attend_backward(pass, thread, acts, work->dwide, work->dq, work->dk, work->dv);
    lorica_pass_barrier(pass, thread, LORICA_PART_ATTENTION);
    adapter_gradients(&l, inner, 3);
    if (lowest)
        return;
    input_gradient(&l, inner, 3, work->dnormed, LORICA_GEMM_SET);
    if (pass->full)
        lorica_pass_norm_gradient(pass, thread, acts, LORICA_ACT_X, work->dnormed,
                                  lorica_full_grad(pass->full, norm));
    lorica_pass_norm_backward(pass, thread, acts, LORICA_ACT_X, norm, work->dnormed, work->d,
                              work->dy);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
}
