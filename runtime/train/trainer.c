/* SPDX-License-Identifier: MIT */
#include "runtime/train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void lorica_trainer_default_options(struct lorica_trainer_options *options) {
    *options = (struct lorica_trainer_options){.lr = 1e-3,
                                               .max_grad_norm = 0.3,
                                               .warmup = 0.03,
                                               .epochs = 3,
                                               .batch = 4,
                                               .accumulate = 1,
                                               .schedule = LORICA_SCHEDULE_COSINE,
                                               .compute = LORICA_TRAIN_FAST};
    lorica_adamw_default_options(&options->adamw);
}

/* Everything one run needs. */
struct run {
    const struct lorica_base *base;
    const struct lorica_trainer_options *options;
    struct lorica_adapter *adapter;
    struct lorica_train_model *model;
    struct lorica_adapter_grads grads;
    struct lorica_adamw adamw;
    double loss_sum; /* of the update in the making */
    uint64_t labels;
};

static int open_run(struct run *run, struct lorica_pool *pool, enum lorica_train_compute compute,
                    uint32_t max_tokens, struct lorica_error *err) {
    const struct lorica_train_model_options options = {
        .compute = compute,
        .max_tokens = max_tokens,
        .max_rank = run->adapter ? run->adapter->max_rank : 0,
        .dropout = run->options && run->options->dropout > 0,
        .keep_bytes = run->options && !run->options->recompute ? LORICA_TRAIN_KEEP_BYTES : 0};
    int rc = lorica_train_model_create(run->base, pool, &options, &run->model, err);
    if (rc || !run->options)
        return rc;
    lorica_train_model_set_clock(run->model, run->options->clock);
    rc = lorica_adapter_grads_init(&run->grads, run->base, run->adapter);
    if (!rc)
        rc = lorica_adamw_init(&run->adamw, &run->options->adamw, run->grads.count);
    return rc ? lorica_fail(err, rc, "no memory for gradients and moments") : 0;
}

static void close_run(struct run *run) {
    lorica_adamw_finish(&run->adamw);
    lorica_adapter_grads_finish(&run->grads);
    lorica_train_model_destroy(run->model);
}

/* Hands every trained array to AdamW: gradients lie in one block in the same order. */
static void apply(struct run *run, double lr) {
    const struct lorica_arch *arch = &run->base->arch;
    lorica_adamw_begin(&run->adamw);
    for (uint32_t l = 0; l < arch->layers; l++) {
        for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
            const size_t i = (size_t)l * LORICA_MODULE_COUNT + (size_t)m;
            const struct lorica_adapter_pair *pair =
                lorica_adapter_pair(run->adapter, l, (enum lorica_module)m);
            uint32_t n, k;
            if (pair->rank == 0)
                continue;
            lorica_arch_module_shape(arch, (enum lorica_module)m, &n, &k);
            lorica_adamw_apply(&run->adamw, lr, (size_t)(run->grads.da[i] - run->grads.values),
                               pair->a, run->grads.da[i], (size_t)pair->rank * k);
            lorica_adamw_apply(&run->adamw, lr, (size_t)(run->grads.db[i] - run->grads.values),
                               pair->b, run->grads.db[i], (size_t)pair->rank * n);
        }
    }
}

/* The update from what the passes added up: mean over the labels, clipped. */
static int update(struct run *run, double lr, uint64_t step, double *ret_loss, double *ret_norm,
                  struct lorica_error *err) {
    lorica_clock_start(run->options->clock);
    const double loss = run->loss_sum / (double)run->labels;
    const double mean = 1.0 / (double)run->labels;
    const double norm = lorica_grad_norm(run->grads.values, run->grads.count) * mean;
    if (!isfinite(loss) || !isfinite(norm))
        return lorica_fail(err, LORICA_EINVAL,
                           "the loss is no longer finite at update %llu: use a lower --lr",
                           (unsigned long long)(step + 1));
    const float factor = (float)(mean * lorica_clip_factor(norm, run->options->max_grad_norm));
    for (size_t i = 0; i < run->grads.count; i++)
        run->grads.values[i] *= factor;
    apply(run, lr);
    memset(run->grads.values, 0, run->grads.count * sizeof(*run->grads.values));
    run->loss_sum = 0;
    run->labels = 0;
    *ret_loss = loss;
    *ret_norm = norm;
    lorica_clock_mark(run->options->clock, LORICA_PART_OPTIMIZER);
    return 0;
}

/* -- batches of examples -------------------------------------------------------------------------
 */

/* A batch padded to its longest example. */
struct batch {
    int32_t *ids, *labels;
    uint32_t rows, time;
};

static uint32_t longest(const struct lorica_train_data *data) {
    uint32_t most = 0;
    for (size_t i = 0; i < data->count; i++)
        most = data->examples[i].length > most ? data->examples[i].length : most;
    return most;
}

static int batch_init(struct batch *batch, uint32_t rows, uint32_t time, struct lorica_error *err) {
    batch->ids = calloc((size_t)rows * time, sizeof(*batch->ids));
    batch->labels = calloc((size_t)rows * time, sizeof(*batch->labels));
    return batch->ids && batch->labels ? 0
                                       : lorica_fail(err, LORICA_ENOMEM, "no memory for a batch");
}

static void batch_finish(struct batch *batch) {
    free(batch->ids);
    free(batch->labels);
}

static void batch_fill(struct batch *batch, const struct lorica_train_data *data,
                       const size_t *order, uint32_t rows) {
    batch->rows = rows;
    batch->time = 0;
    for (uint32_t r = 0; r < rows; r++) {
        const uint32_t length = data->examples[order[r]].length;
        batch->time = length > batch->time ? length : batch->time;
    }
    for (uint32_t r = 0; r < rows; r++) {
        const struct lorica_train_example *e = &data->examples[order[r]];
        for (uint32_t t = 0; t < batch->time; t++) {
            batch->ids[(size_t)r * batch->time + t] = t < e->length ? e->ids[t] : 0;
            batch->labels[(size_t)r * batch->time + t] = t < e->length ? e->labels[t] : -100;
        }
    }
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void shuffle(size_t *order, size_t count, size_t stride, uint64_t *state) {
    for (size_t i = count; i-- > 1;) {
        const size_t j = next_random(state) % (i + 1);
        for (size_t s = 0; s < stride; s++) {
            const size_t kept = order[i * stride + s];
            order[i * stride + s] = order[j * stride + s];
            order[j * stride + s] = kept;
        }
    }
}

/* An epoch's order: shuffled, then sorted by length within stretches of some batches, so that a
 * batch holds examples of about one length; then the whole batches are shuffled. */
static void make_order(size_t *order, const struct lorica_train_data *data, uint32_t batch,
                       uint64_t *state) {
    const size_t stretch = (size_t)batch * 8;
    for (size_t i = 0; i < data->count; i++)
        order[i] = i;
    shuffle(order, data->count, 1, state);
    for (size_t begin = 0; begin < data->count; begin += stretch) {
        const size_t end = data->count - begin < stretch ? data->count : begin + stretch;
        for (size_t i = begin + 1; i < end; i++) {
            const size_t moved = order[i];
            size_t j = i;
            for (; j > begin && data->examples[order[j - 1]].length > data->examples[moved].length;
                 j--)
                order[j] = order[j - 1];
            order[j] = moved;
        }
    }
    shuffle(order, data->count / batch, batch, state);
}

/* -- the loop ------------------------------------------------------------------------------------
 */

/* Where the loop stands. */
struct cursor {
    size_t *order;
    size_t at; /* examples of this epoch that are done */
    uint64_t random;
    uint64_t tokens;
    double epoch_loss; /* of this epoch's labels; kept of the last whole one */
    uint64_t epoch_labels;
};

/* One pass through the model over the next examples. */
static int one_pass(struct run *run, const struct lorica_train_data *data, struct cursor *c,
                    struct batch *batch, struct lorica_error *err) {
    if (c->at == data->count)
        c->at = 0;
    if (c->at == 0) {
        make_order(c->order, data, run->options->batch, &c->random);
        c->epoch_loss = 0;
        c->epoch_labels = 0;
    }
    const size_t left = data->count - c->at;
    const uint32_t rows = left < run->options->batch ? (uint32_t)left : run->options->batch;
    batch_fill(batch, data, c->order + c->at, rows);
    c->at += rows;
    c->tokens += lorica_train_tokens(batch->labels, batch->rows, batch->time);
    double loss = 0;
    uint64_t labels = 0;
    const int rc = lorica_train_model_step(
        run->model, run->adapter, batch->ids, batch->labels, batch->rows, batch->time,
        run->options->dropout, next_random(&c->random), &loss, &labels, &run->grads, err);
    run->loss_sum += loss;
    run->labels += labels;
    c->epoch_loss += loss;
    c->epoch_labels += labels;
    return rc;
}

static uint64_t count_steps(const struct lorica_train_data *data,
                            const struct lorica_trainer_options *options) {
    if (options->steps)
        return options->steps;
    const double batches = ceil((double)data->count / options->batch);
    const double steps = ceil(batches * options->epochs / options->accumulate);
    return steps < 1 ? 1 : (uint64_t)steps;
}

static int loop(struct run *run, const struct lorica_train_data *data, struct cursor *c,
                struct batch *batch, lorica_trainer_progress_fn progress, void *progress_arg,
                struct lorica_trainer_result *ret, struct lorica_error *err) {
    const struct lorica_trainer_options *o = run->options;
    const uint64_t steps = count_steps(data, o);
    const uint64_t warmup = (uint64_t)ceil(o->warmup * (double)steps);
    const double began = lorica_clock_now();
    int rc = 0;
    for (uint64_t step = 0; step < steps && !rc; step++) {
        struct lorica_trainer_progress p = {.step = step + 1, .steps = steps};
        for (uint32_t i = 0; i < o->accumulate && !rc; i++)
            rc = one_pass(run, data, c, batch, err);
        p.lr = o->lr * lorica_schedule_factor(o->schedule, step, steps, warmup);
        if (!rc)
            rc = update(run, p.lr, step, &p.loss, &p.grad_norm, err);
        p.tokens = c->tokens;
        p.seconds = lorica_clock_now() - began;
        if (!rc && progress)
            progress(progress_arg, &p);
    }
    ret->steps = steps;
    ret->tokens = c->tokens;
    ret->seconds = lorica_clock_now() - began;
    ret->loss = c->epoch_labels ? c->epoch_loss / (double)c->epoch_labels : 0;
    return rc;
}

int lorica_trainer_run(const struct lorica_base *base, struct lorica_pool *pool,
                       const struct lorica_train_data *data,
                       const struct lorica_trainer_options *options, struct lorica_adapter *adapter,
                       lorica_trainer_progress_fn progress, void *progress_arg,
                       struct lorica_trainer_result *ret, struct lorica_error *err) {
    struct run run = {.base = base, .options = options, .adapter = adapter};
    struct cursor cursor = {.order = calloc(data->count, sizeof(*cursor.order)),
                            .random = options->seed};
    struct batch batch = {0};
    const uint32_t time = longest(data);
    int rc = cursor.order ? open_run(&run, pool, options->compute, options->batch * time, err)
                          : lorica_fail(err, LORICA_ENOMEM, "no memory for the order of examples");
    if (!rc)
        rc = batch_init(&batch, options->batch, time, err);
    if (!rc)
        rc = loop(&run, data, &cursor, &batch, progress, progress_arg, ret, err);
    batch_finish(&batch);
    close_run(&run);
    free(cursor.order);
    return rc;
}

int lorica_trainer_evaluate(const struct lorica_base *base, struct lorica_pool *pool,
                            const struct lorica_train_data *data, enum lorica_train_compute compute,
                            const struct lorica_adapter *adapter, double *ret_loss,
                            struct lorica_error *err) {
    struct run run = {.base = base, .adapter = (struct lorica_adapter *)adapter};
    struct batch batch = {0};
    const uint32_t time = longest(data);
    double loss = 0;
    uint64_t labels = 0;
    int rc = open_run(&run, pool, compute, time, err);
    if (!rc)
        rc = batch_init(&batch, 1, time, err);
    for (size_t i = 0; i < data->count && !rc; i++) {
        batch_fill(&batch, data, &i, 1);
        rc = lorica_train_model_step(run.model, adapter, batch.ids, batch.labels, 1, batch.time, 0,
                                     0, &loss, &labels, NULL, err);
    }
    batch_finish(&batch);
    close_run(&run);
    if (!rc)
        *ret_loss = loss / (double)labels;
    return rc;
}

int lorica_trainer_replay(const struct lorica_base *base, struct lorica_pool *pool,
                          const struct lorica_replay *replay,
                          const struct lorica_trainer_options *options,
                          struct lorica_adapter *adapter, float *losses, float *grad_norms,
                          struct lorica_error *err) {
    struct run run = {.base = base, .options = options, .adapter = adapter};
    const size_t size = (size_t)replay->batch * replay->time;
    int rc = open_run(&run, pool, options->compute, replay->batch * replay->time, err);
    for (uint32_t step = 0; step < replay->steps && !rc; step++) {
        double loss = 0, norm = 0;
        rc = lorica_train_model_step(run.model, adapter, replay->ids + step * size,
                                     replay->labels + step * size, replay->batch, replay->time,
                                     options->dropout, options->seed + step, &run.loss_sum,
                                     &run.labels, &run.grads, err);
        if (!rc)
            rc = update(&run, options->lr, step, &loss, &norm, err);
        losses[step] = (float)loss;
        grad_norms[step] = (float)norm;
    }
    close_run(&run);
    return rc;
}
