/* SPDX-License-Identifier: MIT
 * A training step: forward over all layers, loss, backward down to the lowest layer that learns. */
#include "runtime/train/model.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/train/head.h"
#include "runtime/train/pass.h"

#define IGNORED (-100)

struct lorica_train_model {
    struct lorica_pass pass;
    struct lorica_loss loss;
    struct lorica_backward work;
    float **x;                      /* [layers + 1]: the residual stream below each layer */
    struct lorica_layer_acts *acts; /* [layers]: own, or the shared ones */
    uint32_t kept;                  /* the layers from here on have acts of their own */
    float *d;                       /* [tokens][hidden]: gradient of the residual stream */
    int32_t *ids;                   /* [tokens] */
    uint32_t max_rank;
    bool dropout;
};

/* The step at work. */
struct step {
    struct lorica_train_model *model;
    struct lorica_adapter_grads *grads; /* NULL: loss only */
    uint32_t lowest;                    /* layer that learns */
};

/* -- gradients -- */

int lorica_adapter_grads_init(struct lorica_adapter_grads *grads, const struct lorica_base *base,
                              const struct lorica_adapter *adapter) {
    const size_t pairs = (size_t)adapter->layer_count * LORICA_MODULE_COUNT;
    *grads = (struct lorica_adapter_grads){0};
    for (size_t i = 0; i < pairs; i++) {
        uint32_t n, k;
        lorica_arch_module_shape(&base->arch, (enum lorica_module)(i % LORICA_MODULE_COUNT), &n,
                                 &k);
        grads->count += (size_t)adapter->layers[i].rank * ((size_t)n + k);
    }
    grads->da = calloc(pairs + 1, sizeof(*grads->da));
    grads->db = calloc(pairs + 1, sizeof(*grads->db));
    grads->values = calloc(grads->count + 1, sizeof(*grads->values));
    if (!grads->da || !grads->db || !grads->values) {
        lorica_adapter_grads_finish(grads);
        return LORICA_ENOMEM;
    }
    float *at = grads->values;
    for (size_t i = 0; i < pairs; i++) {
        const size_t rank = adapter->layers[i].rank;
        uint32_t n, k;
        if (rank == 0)
            continue;
        lorica_arch_module_shape(&base->arch, (enum lorica_module)(i % LORICA_MODULE_COUNT), &n,
                                 &k);
        grads->da[i] = at;
        grads->db[i] = at + rank * k;
        at += rank * ((size_t)n + k);
    }
    return 0;
}

void lorica_adapter_grads_finish(struct lorica_adapter_grads *grads) {
    free((void *)grads->da);
    free((void *)grads->db);
    free(grads->values);
    *grads = (struct lorica_adapter_grads){0};
}

/* -- memory -- */

static size_t widest_of(const struct lorica_arch *arch) {
    const size_t q = (size_t)arch->heads * arch->head_dim;
    const size_t widest = arch->hidden > arch->intermediate ? arch->hidden : arch->intermediate;
    return q > widest ? q : widest;
}

/* How many layers from the top have activations of their own. */
static uint32_t layers_kept(const struct lorica_arch *arch,
                            const struct lorica_train_model_options *options) {
    const size_t one = lorica_pass_acts_floats(arch) * sizeof(float) * (size_t)options->max_tokens;
    const size_t fit = options->keep_bytes / (one > 0 ? one : 1);
    return fit < arch->layers ? (uint32_t)fit : arch->layers;
}

size_t lorica_train_model_nbytes(const struct lorica_base *base, unsigned threads,
                                 const struct lorica_train_model_options *options) {
    const struct lorica_arch *arch = &base->arch;
    const size_t m = options->max_tokens, kept = layers_kept(arch, options),
                 q = (size_t)arch->heads * arch->head_dim,
                 kv = (size_t)arch->kv_heads * arch->head_dim, widest = widest_of(arch);
    const size_t row = (kept + (kept < arch->layers)) * lorica_pass_acts_floats(arch) +
                       (size_t)(arch->layers + 1) * arch->hidden + arch->head_dim +
                       3 * (size_t)arch->hidden + arch->intermediate + widest + q + 2 * kv +
                       6 * (size_t)options->max_rank + (options->dropout ? 2 * widest : 0) + 16;
    return sizeof(float) *
           (row * m +
            lorica_loss_chunk(arch, options->max_tokens) * ((size_t)arch->vocab + arch->hidden) +
            options->max_rank * widest +
            threads * (lorica_attention_scratch(arch, options->max_tokens) +
                       (size_t)LORICA_PASS_DEPTH * LORICA_GEMM_NR));
}

static bool make_layers(struct lorica_train_model *model, uint32_t kept) {
    const struct lorica_arch *arch = &model->pass.base->arch;
    struct lorica_layer_acts shared = {0};
    model->x = calloc((size_t)arch->layers + 1, sizeof(*model->x));
    model->acts = calloc((size_t)arch->layers + 1, sizeof(*model->acts));
    if (!model->x || !model->acts)
        return false;
    for (uint32_t l = 0; l <= arch->layers; l++)
        if (!(model->x[l] = lorica_pass_floats(&model->pass, model->pass.max_tokens, arch->hidden)))
            return false;
    model->kept = arch->layers - kept;
    if (model->kept > 0 && !lorica_pass_acts(&model->pass, &shared))
        return false;
    for (uint32_t l = 0; l < arch->layers; l++) {
        model->acts[l] = shared;
        if (l >= model->kept && !lorica_pass_acts(&model->pass, &model->acts[l]))
            return false;
    }
    return true;
}

static bool make_work(struct lorica_train_model *model) {
    struct lorica_pass *pass = &model->pass;
    struct lorica_backward *work = &model->work;
    const struct lorica_arch *arch = &pass->base->arch;
    const size_t m = pass->max_tokens, widest = widest_of(arch),
                 q = (size_t)arch->heads * arch->head_dim,
                 kv = (size_t)arch->kv_heads * arch->head_dim;
    const size_t rank = model->max_rank > 0 ? model->max_rank : 1;
    model->d = lorica_pass_floats(pass, m, arch->hidden);
    work->dnormed = lorica_pass_floats(pass, m, arch->hidden);
    work->dwide = lorica_pass_floats(pass, m, widest);
    work->dq = lorica_pass_floats(pass, m, q);
    work->dk = lorica_pass_floats(pass, m, kv);
    work->dv = lorica_pass_floats(pass, m, kv);
    work->thin = lorica_pass_floats(pass, m, rank);
    work->thin_t = lorica_pass_floats(pass, m, rank);
    work->wide_t = lorica_pass_floats(pass, m, rank);
    work->db_t = lorica_pass_floats(pass, rank, widest);
    if (model->dropout && !(work->extra = lorica_pass_floats(pass, m, widest)))
        return false;
    model->ids = calloc(m, sizeof(*model->ids));
    return model->d && work->dnormed && work->dwide && work->dq && work->dk && work->dv &&
           work->thin && work->thin_t && work->wide_t && work->db_t && model->ids;
}

int lorica_train_model_create(const struct lorica_base *base, struct lorica_pool *pool,
                              const struct lorica_train_model_options *options,
                              struct lorica_train_model **ret, struct lorica_error *err) {
    struct lorica_train_model *model = calloc(1, sizeof(*model));
    if (!model)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    model->max_rank = options->max_rank;
    model->dropout = options->dropout;
    int rc = lorica_pass_init(&model->pass, base, pool, options->max_tokens, options->max_rank,
                              options->dropout, err);
    if (rc == 0 && (!make_layers(model, layers_kept(&base->arch, options)) || !make_work(model) ||
                    !lorica_loss_init(&model->loss, &model->pass)))
        rc = lorica_fail(err, LORICA_ENOMEM,
                         "no memory to train on %u tokens at once; use a smaller batch or shorter "
                         "sequences",
                         options->max_tokens);
    if (rc != 0) {
        lorica_train_model_destroy(model);
        return rc;
    }
    *ret = model;
    return 0;
}

void lorica_train_model_destroy(struct lorica_train_model *model) {
    if (!model)
        return;
    lorica_loss_finish(&model->loss);
    lorica_pass_finish(&model->pass);
    free((void *)model->x);
    free(model->acts);
    free(model->ids);
    free(model);
}

/* -- one step -- */

static void backward(struct step *step, unsigned thread) {
    struct lorica_train_model *model = step->model;
    struct lorica_pass *pass = &model->pass;
    for (uint32_t l = pass->base->arch.layers; l-- > step->lowest;) {
        /* The output goes where the layer's own output already is, with the same values. */
        if (l < model->kept)
            lorica_pass_layer(pass, thread, l, model->x[l], &model->acts[l], model->x[l + 1]);
        lorica_pass_layer_backward(pass, thread, l, model->x[l], &model->acts[l], &model->work,
                                   step->grads, l == step->lowest, model->d);
    }
}

static void run(void *arg, unsigned thread, unsigned threads) {
    struct step *step = arg;
    struct lorica_train_model *model = step->model;
    struct lorica_pass *pass = &model->pass;
    const uint32_t layers = pass->base->arch.layers;
    uint32_t begin, end;
    lorica_pool_range(pass->tokens, thread, threads, &begin, &end);
    memset(model->d + (size_t)begin * pass->base->arch.hidden, 0,
           (size_t)(end - begin) * pass->base->arch.hidden * sizeof(float));
    lorica_pass_embed(pass, thread, model->ids, model->x[0]);
    for (uint32_t l = 0; l < layers; l++)
        lorica_pass_layer(pass, thread, l, model->x[l], &model->acts[l], model->x[l + 1]);
    lorica_pass_loss(pass, thread, &model->loss, model->x[layers], step->grads ? model->d : NULL);
    if (step->grads)
        backward(step, thread);
}

/* Tokens of a row that decide its labels: the last label is not read, only foretold. */
static uint32_t row_length(const int32_t *labels, uint32_t time) {
    while (time > 1 && labels[time - 1] == IGNORED)
        time--;
    return time - 1;
}

uint64_t lorica_train_tokens(const int32_t *labels, uint32_t batch, uint32_t time) {
    uint64_t sum = 0;
    for (uint32_t b = 0; b < batch; b++)
        sum += row_length(labels + (size_t)b * time, time);
    return sum;
}

static int add_row(struct lorica_train_model *model, const int32_t *ids, const int32_t *labels,
                   uint32_t time, struct lorica_error *err) {
    struct lorica_pass *pass = &model->pass;
    const uint32_t length = row_length(labels, time), start = pass->tokens;
    const uint32_t vocab = pass->base->arch.vocab;
    if (length == 0)
        return 0;
    const int rc = lorica_train_check_ids(&pass->base->arch, ids, length, err);
    if (rc != 0)
        return rc;
    if (length > pass->base->arch.max_positions)
        return lorica_fail(err, LORICA_EINVAL, "a sequence of %u tokens: the model takes %u",
                           length, pass->base->arch.max_positions);
    memcpy(model->ids + start, ids, length * sizeof(*ids));
    lorica_pass_add(pass, length);
    for (uint32_t i = 1; i <= length; i++) {
        if (labels[i] == IGNORED)
            continue;
        if (labels[i] < 0 || (uint32_t)labels[i] >= vocab)
            return lorica_fail(err, LORICA_EINVAL,
                               "label %d at position %u: the model knows 0 to %u, and -100 for no "
                               "label",
                               labels[i], i, vocab - 1);
        model->loss.rows[model->loss.count++] =
            (struct lorica_loss_row){.row = start + i - 1, .label = labels[i]};
    }
    return 0;
}

static uint32_t lowest_layer(const struct lorica_adapter *adapter, uint32_t layers) {
    for (uint32_t l = 0; adapter && l < layers; l++)
        for (int m = 0; m < LORICA_MODULE_COUNT; m++)
            if (lorica_adapter_pair(adapter, l, (enum lorica_module)m)->rank > 0)
                return l;
    return layers;
}

int lorica_train_model_step(struct lorica_train_model *model, const struct lorica_adapter *adapter,
                            const int32_t *ids, const int32_t *labels, uint32_t batch,
                            uint32_t time, float dropout, uint64_t seed, double *loss_sum,
                            uint64_t *label_count, struct lorica_adapter_grads *grads,
                            struct lorica_error *err) {
    struct lorica_pass *pass = &model->pass;
    struct step step = {.model = model, .grads = grads};
    if (batch == 0 || time == 0 || lorica_train_tokens(labels, batch, time) > pass->max_tokens)
        return lorica_fail(err, LORICA_EINVAL,
                           "a batch of %u sequences of %u tokens: room was made for %u tokens",
                           batch, time, pass->max_tokens);
    if (adapter && adapter->max_rank > model->max_rank)
        return lorica_fail(err, LORICA_EINVAL, "an adapter of rank %u: room was made for rank %u",
                           adapter->max_rank, model->max_rank);
    if (!(dropout >= 0 && dropout < 1) || (dropout > 0 && !model->dropout))
        return lorica_fail(err, LORICA_EINVAL, "dropout %g cannot be used here", (double)dropout);
    lorica_pass_begin(pass, adapter);
    pass->dropout = grads ? dropout : 0;
    pass->seed = seed;
    model->loss.count = 0;
    for (uint32_t b = 0; b < batch; b++) {
        const int rc = add_row(model, ids + (size_t)b * time, labels + (size_t)b * time, time, err);
        if (rc != 0)
            return rc;
    }
    if (model->loss.count == 0)
        return lorica_fail(err, LORICA_EINVAL, "no label in %u sequences", batch);
    step.lowest = lowest_layer(adapter, pass->base->arch.layers);
    lorica_pool_run(pass->pool, run, &step);
    for (uint32_t i = 0; i < model->loss.count; i++)
        *loss_sum += model->loss.losses[i];
    *label_count += model->loss.count;
    return 0;
}
