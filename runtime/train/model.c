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
    struct lorica_model served; /* fast mode: what serving multiplies */
    struct lorica_loss loss;
    struct lorica_backward work;
    struct lorica_layer_acts *acts; /* [layers] */
    uint32_t whole;                 /* the layers from here on keep all their activations */
    bool squeezed;                  /* operands are floats, what is kept is bfloat16 */
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

static enum lorica_operand operand_of(const struct lorica_train_model_options *options) {
    return options->compute == LORICA_TRAIN_FAST ? lorica_gemm_fastest() : LORICA_OPERAND_F32;
}

/* Whether frozen matrices are multiplied as serving does. */
static bool is_served(const struct lorica_train_model_options *options) {
    return options->compute == LORICA_TRAIN_FAST && !options->full;
}

/* Bytes of one element of what is kept, and of an operand. */
static size_t kept_nbytes(const struct lorica_train_model_options *options) {
    return options->compute == LORICA_TRAIN_FAST ? sizeof(uint16_t) : sizeof(float);
}

static size_t operand_nbytes(const struct lorica_train_model_options *options) {
    return operand_of(options) == LORICA_OPERAND_BF16 ? sizeof(uint16_t) : sizeof(float);
}

/* Elements of one token in the activations [first, last). */
static size_t acts_width(const struct lorica_arch *arch, uint32_t max_rank, enum lorica_act first,
                         enum lorica_act last) {
    size_t sum = 0;
    for (int a = (int)first; a < (int)last; a++)
        sum += lorica_act_width(arch, max_rank, (enum lorica_act)a);
    return sum;
}

/* How many layers from the top keep all their activations. */
static uint32_t layers_kept(const struct lorica_arch *arch,
                            const struct lorica_train_model_options *options) {
    const size_t one = acts_width(arch, options->max_rank, LORICA_ACT_SMALL, LORICA_ACT_COUNT) *
                       kept_nbytes(options) * options->max_tokens;
    const size_t fit = options->keep_bytes / (one > 0 ? one : 1);
    return fit < arch->layers ? (uint32_t)fit : arch->layers;
}

/* Scales of matrices in tiles. */
static size_t scales_nbytes(const struct lorica_arch *arch) {
    size_t values = 0;
    for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
        uint32_t n, k;
        lorica_arch_module_shape(arch, (enum lorica_module)m, &n, &k);
        values += (size_t)n * k;
    }
    return values / LORICA_NF4_BLOCK * sizeof(uint16_t) * arch->layers;
}

size_t lorica_train_model_nbytes(const struct lorica_arch *arch, unsigned threads,
                                 const struct lorica_train_model_options *options) {
    const size_t m = options->max_tokens, kept = layers_kept(arch, options),
                 rank = options->max_rank, widest = widest_of(arch),
                 q = (size_t)arch->heads * arch->head_dim,
                 kv = (size_t)arch->kv_heads * arch->head_dim, size = operand_nbytes(options);
    const size_t small = acts_width(arch, options->max_rank, LORICA_ACT_X, LORICA_ACT_SMALL),
                 large = acts_width(arch, options->max_rank, LORICA_ACT_SMALL, LORICA_ACT_COUNT);
    const size_t thin = acts_width(arch, options->max_rank, LORICA_ACT_THIN, LORICA_ACT_SMALL);
    const size_t shared = size != kept_nbytes(options) ? thin + large
                          : kept < arch->layers        ? large
                                                       : 0;
    const size_t chunk = lorica_loss_chunk(arch, options->max_tokens);
    return m * (kept_nbytes(options) * (arch->layers * small + kept * large) + size * shared +
                sizeof(float) * (2 * arch->hidden + (options->dropout ? 2 * widest : 0)) +
                size * ((size < sizeof(float) ? arch->hidden : 0) + widest + q + 2 * kv +
                        LORICA_PASS_SLOTS * 3 * rank) +
                40) +
           sizeof(float) *
               (LORICA_PASS_SLOTS * rank * widest + chunk * (arch->vocab + arch->hidden)) +
           chunk * arch->hidden * size +
           (options->full ? size * (widest * m + chunk * arch->vocab) : 0) +
           (is_served(options) ? scales_nbytes(arch) + 2 * arch->vocab * sizeof(float) : 0) +
           lorica_pass_nbytes(arch, threads, operand_of(options), is_served(options),
                              options->max_tokens, options->max_rank, options->dropout);
}

static bool make_layers(struct lorica_train_model *model,
                        const struct lorica_train_model_options *options) {
    struct lorica_pass *pass = &model->pass;
    const struct lorica_arch *arch = &pass->base->arch;
    const size_t size = kept_nbytes(options);
    void *shared[LORICA_ACT_COUNT] = {0};
    model->squeezed = size != pass->gemm.operand_nbytes;
    model->whole = arch->layers - layers_kept(arch, options);
    model->acts = calloc((size_t)arch->layers + 1, sizeof(*model->acts));
    if (!model->acts)
        return false;
    if ((model->squeezed || model->whole > 0) &&
        !lorica_pass_acts(pass, shared, model->squeezed ? LORICA_ACT_THIN : LORICA_ACT_SMALL,
                          LORICA_ACT_COUNT, pass->gemm.operand_nbytes))
        return false;
    for (uint32_t l = 0; l < arch->layers; l++) {
        struct lorica_layer_acts *acts = &model->acts[l];
        memcpy(acts->kept, shared, sizeof(shared));
        if (!lorica_pass_acts(pass, acts->kept, LORICA_ACT_X,
                              l >= model->whole ? LORICA_ACT_COUNT : LORICA_ACT_SMALL, size))
            return false;
        memcpy(acts->of, model->squeezed ? shared : acts->kept, sizeof(shared));
    }
    return true;
}

static bool make_slots(struct lorica_train_model *model) {
    struct lorica_pass *pass = &model->pass;
    struct lorica_backward *work = &model->work;
    const size_t rank = model->max_rank > 0 ? model->max_rank : 1;
    work->ld = ((size_t)pass->max_tokens + 31) / 32 * 32;
    for (int i = 0; i < LORICA_PASS_SLOTS; i++) {
        work->u[i] = lorica_pass_operands(pass, pass->max_tokens, rank);
        work->u_t[i] = lorica_pass_operands(pass, work->ld, rank);
        work->t_t[i] = lorica_pass_operands(pass, work->ld, rank);
        work->db_t[i] = lorica_pass_floats(pass, rank, widest_of(&pass->base->arch));
        if (!work->u[i] || !work->u_t[i] || !work->t_t[i] || !work->db_t[i])
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
    work->d = lorica_pass_floats(pass, m, arch->hidden);
    work->dy = pass->gemm.operand == LORICA_OPERAND_F32
                   ? work->d
                   : lorica_pass_operands(pass, m, arch->hidden);
    work->dnormed = lorica_pass_floats(pass, m, arch->hidden);
    work->dwide = lorica_pass_operands(pass, m, widest);
    work->dq = lorica_pass_operands(pass, m, q);
    work->dk = lorica_pass_operands(pass, m, kv);
    work->dv = lorica_pass_operands(pass, m, kv);
    if (model->dropout && (!(work->extra = lorica_pass_floats(pass, m, widest)) ||
                           !(work->sum = lorica_pass_floats(pass, m, widest))))
        return false;
    model->ids = calloc(m, sizeof(*model->ids));
    if (pass->full &&
        !(work->dy_t = lorica_pass_operands(pass, ((size_t)m + 31) / 32 * 32, widest)))
        return false;
    return work->d && work->dy && work->dnormed && work->dwide && work->dq && work->dk &&
           work->dv && model->ids && make_slots(model);
}

int lorica_train_model_create(const struct lorica_base *base, struct lorica_pool *pool,
                              const struct lorica_train_model_options *options,
                              struct lorica_train_model **ret, struct lorica_error *err) {
    struct lorica_train_model *model = calloc(1, sizeof(*model));
    if (!model)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    model->max_rank = options->max_rank;
    model->dropout = options->dropout;
    int rc = is_served(options) ? lorica_model_init_tiled(&model->served, base, err) : 0;
    if (rc == 0)
        rc = lorica_pass_init(&model->pass, base, is_served(options) ? &model->served : NULL, pool,
                              operand_of(options), options->max_tokens, options->max_rank,
                              options->dropout, err);
    model->pass.full = options->full;
    if (rc == 0 && (!make_layers(model, options) || !make_work(model) ||
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
    lorica_model_finish(&model->served);
    free(model->acts);
    free(model->ids);
    free(model);
}

void lorica_train_model_set_clock(struct lorica_train_model *model, struct lorica_clock *clock) {
    model->pass.clock = clock;
}

/* -- one step -- */

/* This thread's rows of a layer's activations to where they are kept, or back: of those that row
 * steps do not keep and read themselves. */
static void move_acts(const struct lorica_train_model *model, unsigned thread, uint32_t layer,
                      bool back) {
    const struct lorica_pass *pass = &model->pass;
    const struct lorica_layer_acts *acts = &model->acts[layer];
    for (int a = LORICA_ACT_THIN; a <= (int)LORICA_ACT_ATTENDED; a++) {
        const size_t width =
            lorica_act_width(&pass->base->arch, pass->max_rank, (enum lorica_act)a);
        float *own = acts->of[a];
        uint16_t *kept = acts->kept[a];
        uint32_t first, last;
        if ((void *)own == kept)
            continue;
        /* The thin products of the modules lie behind each other: all rows, in use or not. */
        lorica_pool_range(a == (int)LORICA_ACT_THIN ? pass->max_tokens : pass->tokens, thread,
                          lorica_pool_threads(pass->pool), &first, &last);
        const size_t at = first * width, count = (last - first) * width;
        if (back)
            pass->gemm.expand(own + at, kept + at, count);
        else
            pass->gemm.squeeze(kept + at, own + at, count);
    }
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
}

static void backward(struct step *step, unsigned thread) {
    struct lorica_train_model *model = step->model;
    struct lorica_pass *pass = &model->pass;
    const size_t hidden = pass->base->arch.hidden;
    uint32_t begin, end;
    lorica_pass_rows(pass, thread, &begin, &end);
    lorica_pass_write(pass, lorica_operands_at(pass, model->work.dy, begin * hidden),
                      model->work.d + begin * hidden, (end - begin) * hidden);
    lorica_pass_barrier(pass, thread, LORICA_PART_ROWS);
    for (uint32_t l = pass->base->arch.layers; l-- > step->lowest;) {
        if (model->squeezed)
            move_acts(model, thread, l, true);
        if (l < model->whole)
            lorica_pass_layer_again(pass, thread, l, &model->acts[l]);
        lorica_pass_layer_backward(pass, thread, l, &model->acts[l], &model->work, step->grads,
                                   l == step->lowest && !pass->full);
    }
    if (pass->full)
        lorica_pass_embed_backward(pass, thread, model->ids, model->work.d);
}

static void run(void *arg, unsigned thread, unsigned threads) {
    struct step *step = arg;
    struct lorica_train_model *model = step->model;
    struct lorica_pass *pass = &model->pass;
    const uint32_t layers = pass->base->arch.layers;
    uint32_t begin, end;
    if (thread == 0)
        lorica_clock_start(pass->clock);
    lorica_pass_rows(pass, thread, &begin, &end);
    memset(model->work.d + (size_t)begin * pass->base->arch.hidden, 0,
           (size_t)(end - begin) * pass->base->arch.hidden * sizeof(float));
    lorica_pass_embed(pass, thread, model->ids);
    for (uint32_t l = 0; l < layers; l++) {
        lorica_pass_layer(pass, thread, l, &model->acts[l]);
        if (model->squeezed && step->grads)
            move_acts(model, thread, l, false);
    }
    lorica_pass_loss(pass, thread, &model->loss, step->grads ? model->work.d : NULL);
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

static int add_rows(struct lorica_train_model *model, const struct lorica_train_row *rows,
                    size_t count, struct lorica_error *err) {
    uint64_t tokens = 0;
    model->loss.count = 0;
    for (size_t i = 0; i < count; i++)
        tokens += rows[i].length > 0 ? row_length(rows[i].labels, rows[i].length) : 0;
    if (tokens > model->pass.max_tokens)
        return lorica_fail(err, LORICA_EINVAL, "%llu tokens at once: room was made for %u",
                           (unsigned long long)tokens, model->pass.max_tokens);
    for (size_t i = 0; i < count; i++) {
        const int rc = rows[i].length == 0
                           ? 0
                           : add_row(model, rows[i].ids, rows[i].labels, rows[i].length, err);
        if (rc != 0)
            return rc;
    }
    return model->loss.count > 0
               ? 0
               : lorica_fail(err, LORICA_EINVAL, "no label in %zu sequences", count);
}

int lorica_train_model_step_rows(struct lorica_train_model *model,
                                 const struct lorica_adapter *adapter,
                                 const struct lorica_train_row *rows, size_t count, float dropout,
                                 uint64_t seed, double *loss_sum, uint64_t *label_count,
                                 struct lorica_adapter_grads *grads, struct lorica_error *err) {
    struct lorica_pass *pass = &model->pass;
    struct step step = {.model = model, .grads = grads};
    if (adapter && adapter->max_rank > model->max_rank)
        return lorica_fail(err, LORICA_EINVAL, "an adapter of rank %u: room was made for rank %u",
                           adapter->max_rank, model->max_rank);
    if (!(dropout >= 0 && dropout < 1) || (dropout > 0 && !model->dropout))
        return lorica_fail(err, LORICA_EINVAL, "dropout %g cannot be used here", (double)dropout);
    lorica_pass_begin(pass, adapter);
    pass->dropout = grads ? dropout : 0;
    pass->seed = seed;
    const int rc = add_rows(model, rows, count, err);
    if (rc != 0)
        return rc;
    step.lowest = pass->full ? 0 : lowest_layer(adapter, pass->base->arch.layers);
    lorica_pool_run(pass->pool, run, &step);
    for (uint32_t i = 0; i < model->loss.count; i++)
        *loss_sum += model->loss.losses[i];
    *label_count += model->loss.count;
    return 0;
}

int lorica_train_model_step(struct lorica_train_model *model, const struct lorica_adapter *adapter,
                            const int32_t *ids, const int32_t *labels, uint32_t batch,
                            uint32_t time, float dropout, uint64_t seed, double *loss_sum,
                            uint64_t *label_count, struct lorica_adapter_grads *grads,
                            struct lorica_error *err) {
    struct lorica_train_row *rows = calloc((size_t)batch + 1, sizeof(*rows));
    if (!rows)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %u rows", batch);
    for (size_t b = 0; b < batch; b++)
        rows[b] = (struct lorica_train_row){ids + b * time, labels + b * time, time};
    const int rc = lorica_train_model_step_rows(model, adapter, rows, batch, dropout, seed,
                                                loss_sum, label_count, grads, err);
    free(rows);
    return rc;
}
