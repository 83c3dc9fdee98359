/* SPDX-License-Identifier: MIT
 * The backward pass of a Llama block: gradients through the frozen weights to the layer's input,
 * and to A and B of each pair: with y = W x + s B A x,
 *   U = s dy B,  dB += s dy^T (A x),  dA += U^T x,  dx = dy W + U A. */
#include "runtime/train/pass.h"

/* to[cols][rows] = x[rows][cols], this thread's part of the rows. */
static void transpose(struct lorica_pass *pass, unsigned thread, const float *x, uint32_t cols,
                      float *to) {
    const uint32_t rows = pass->tokens;
    uint32_t begin, end;
    lorica_pool_range(rows, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = begin; i < end; i++)
        for (size_t j = 0; j < cols; j++)
            to[j * rows + i] = x[i * cols + j];
}

/* db[n][rank] += db_t[rank][n]. */
static void add_transposed(struct lorica_pass *pass, unsigned thread, const float *db_t, uint32_t n,
                           uint32_t rank, float *db) {
    uint32_t begin, end;
    lorica_pool_range(n, thread, lorica_pool_threads(pass->pool), &begin, &end);
    for (size_t i = begin; i < end; i++)
        for (size_t j = 0; j < rank; j++)
            db[i * rank + j] += db_t[j * n + i];
}

/* One module at work. */
struct module {
    uint32_t layer;
    enum lorica_module module;
    unsigned slot;   /* where U goes */
    const float *x;  /* its input */
    const float *dy; /* gradient of its output */
};

/* Leaves U in the slot and adds to dA and dB. Ends behind a barrier. */
static void adapter_gradients(struct lorica_pass *pass, unsigned thread,
                              const struct lorica_backward *work,
                              struct lorica_adapter_grads *grads, const struct module *m) {
    const struct lorica_adapter_pair *pair = lorica_pass_pair(pass, m->layer, m->module);
    const size_t at = (size_t)m->layer * LORICA_MODULE_COUNT + m->module;
    uint32_t n, k;
    if (!pair)
        return;
    lorica_arch_module_shape(&pass->base->arch, m->module, &n, &k);
    const uint32_t rank = pair->rank, rows = pass->tokens;
    const float *x = m->x;
    if (pass->dropout > 0) {
        lorica_pass_mask(pass, thread, m->layer, m->module, x, pass->dropped, false);
        lorica_pool_barrier(pass->pool);
        x = pass->dropped;
    }
    const struct lorica_matrix a = lorica_dense(pair->a, rank, k),
                               b = lorica_dense(pair->b, n, rank),
                               x_rows = lorica_dense(x, rows, k),
                               dy_rows = lorica_dense(m->dy, rows, n);
    const struct lorica_term down = {.a = x, .lda = k, .w = &a, .scale = 1.0f};
    const struct lorica_term up = {
        .a = m->dy, .lda = n, .w = &b, .by_rows = true, .scale = pair->scale};
    const struct lorica_term to_da = {
        .a = work->wide_t, .lda = rows, .w = &x_rows, .by_rows = true, .scale = 1.0f};
    const struct lorica_term to_db = {
        .a = work->thin_t, .lda = rows, .w = &dy_rows, .by_rows = true, .scale = pair->scale};
    lorica_pass_product(pass, thread, work->thin, rank, rows, rank, &down, 1, false);
    lorica_pass_product(pass, thread, pass->shrunk[m->slot], rank, rows, rank, &up, 1, false);
    lorica_pool_barrier(pass->pool);
    transpose(pass, thread, work->thin, rank, work->thin_t);
    transpose(pass, thread, pass->shrunk[m->slot], rank, work->wide_t);
    lorica_pool_barrier(pass->pool);
    lorica_pass_product(pass, thread, grads->da[at], k, rank, k, &to_da, 1, true);
    lorica_pass_product(pass, thread, work->db_t, n, rank, n, &to_db, 1, false);
    lorica_pool_barrier(pass->pool);
    add_transposed(pass, thread, work->db_t, n, rank, grads->db[at]);
    lorica_pool_barrier(pass->pool);
}

/* dx = sum of dy W + U A over modules that read the same input. Ends behind a barrier. */
static void input_gradient(struct lorica_pass *pass, unsigned thread,
                           const struct lorica_backward *work, const struct module *modules,
                           size_t count, float *dx) {
    struct lorica_term terms[2 * LORICA_PASS_SLOTS];
    struct lorica_matrix a[LORICA_PASS_SLOTS];
    size_t used = 0;
    const struct lorica_layer *layer = &pass->base->layers[modules[0].layer];
    const uint32_t k = layer->modules[modules[0].module].k;
    for (size_t i = 0; i < count; i++) {
        const struct lorica_matrix *w = &layer->modules[modules[i].module];
        const struct lorica_adapter_pair *pair =
            lorica_pass_pair(pass, modules[i].layer, modules[i].module);
        terms[used++] = (struct lorica_term){
            .a = modules[i].dy, .lda = w->n, .w = w, .by_rows = true, .scale = 1.0f};
        if (!pair || pass->dropout > 0)
            continue;
        a[i] = lorica_dense(pair->a, pair->rank, k);
        terms[used++] = (struct lorica_term){.a = pass->shrunk[modules[i].slot],
                                             .lda = pair->rank,
                                             .w = &a[i],
                                             .by_rows = true,
                                             .scale = 1.0f};
    }
    lorica_pass_product(pass, thread, dx, k, pass->tokens, k, terms, used, false);
    lorica_pool_barrier(pass->pool);
    for (size_t i = 0; i < count && pass->dropout > 0; i++) {
        const struct lorica_adapter_pair *pair =
            lorica_pass_pair(pass, modules[i].layer, modules[i].module);
        if (!pair)
            continue;
        a[i] = lorica_dense(pair->a, pair->rank, k);
        const struct lorica_term term = {.a = pass->shrunk[modules[i].slot],
                                         .lda = pair->rank,
                                         .w = &a[i],
                                         .by_rows = true,
                                         .scale = 1.0f};
        lorica_pass_product(pass, thread, work->extra, k, pass->tokens, k, &term, 1, false);
        lorica_pool_barrier(pass->pool);
        lorica_pass_mask(pass, thread, modules[i].layer, modules[i].module, work->extra, dx, true);
        lorica_pool_barrier(pass->pool);
    }
}

/* From d, gradient of the layer's output, to that of its middle: d += through the MLP. */
static void mlp_backward(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                         const struct lorica_layer_acts *acts, const struct lorica_backward *work,
                         struct lorica_adapter_grads *grads, float *d) {
    const float *norm = pass->base->layers[layer].mlp_norm;
    const struct module down = {layer, LORICA_MODULE_DOWN, 0, pass->wide, d};
    const struct module inner[] = {{layer, LORICA_MODULE_GATE, 0, pass->normed, acts->gate},
                                   {layer, LORICA_MODULE_UP, 1, pass->normed, acts->up}};
    lorica_pass_silu(pass, thread, acts->gate, acts->up, pass->wide);
    lorica_pass_norm(pass, thread, acts->middle, norm, pass->normed);
    lorica_pool_barrier(pass->pool);
    adapter_gradients(pass, thread, work, grads, &down);
    input_gradient(pass, thread, work, &down, 1, work->dwide);
    lorica_pass_silu_backward(pass, thread, acts->gate, acts->up, work->dwide, pass->wide);
    lorica_pool_barrier(pass->pool);
    for (size_t i = 0; i < 2; i++)
        adapter_gradients(pass, thread, work, grads, &inner[i]);
    input_gradient(pass, thread, work, inner, 2, work->dnormed);
    lorica_pass_norm_backward(pass, thread, acts->middle, norm, work->dnormed, d);
}

void lorica_pass_layer_backward(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                                const float *x, const struct lorica_layer_acts *acts,
                                const struct lorica_backward *work,
                                struct lorica_adapter_grads *grads, bool lowest, float *d) {
    const struct lorica_arch *arch = &pass->base->arch;
    const float *norm = pass->base->layers[layer].attn_norm;
    const struct module out = {layer, LORICA_MODULE_O, 0, acts->attended, d};
    const struct module inner[] = {{layer, LORICA_MODULE_Q, 0, pass->normed, work->dq},
                                   {layer, LORICA_MODULE_K, 1, pass->normed, work->dk},
                                   {layer, LORICA_MODULE_V, 2, pass->normed, work->dv}};
    mlp_backward(pass, thread, layer, acts, work, grads, d);
    lorica_pass_norm(pass, thread, x, norm, pass->normed);
    lorica_pool_barrier(pass->pool);
    adapter_gradients(pass, thread, work, grads, &out);
    input_gradient(pass, thread, work, &out, 1, work->dwide);
    lorica_pass_attend_backward(pass, thread, acts, work->dwide, work->dq, work->dk, work->dv);
    lorica_pool_barrier(pass->pool);
    lorica_pass_rotate(pass, thread, work->dq, arch->heads, true);
    lorica_pass_rotate(pass, thread, work->dk, arch->kv_heads, true);
    lorica_pool_barrier(pass->pool);
    for (size_t i = 0; i < 3; i++)
        adapter_gradients(pass, thread, work, grads, &inner[i]);
    if (!lowest) {
        input_gradient(pass, thread, work, inner, 3, work->dnormed);
        lorica_pass_norm_backward(pass, thread, x, norm, work->dnormed, d);
    }
    lorica_pool_barrier(pass->pool);
}
