/* SPDX-License-Identifier: MIT */
#include "runtime/train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/train/plan.h"
#include "runtime/train/random.h"

#define SMOOTH 16 /* updates over which the loss is smoothed to tell that it diverges */

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
    struct lorica_pool *pool;
    const struct lorica_trainer_options *options;
    struct lorica_adapter *adapter;
    struct lorica_train_model *model;
    struct lorica_adapter_grads grads;
    struct lorica_adamw adamw;
    struct lorica_train_row *rows; /* [max_rows]: of a pass */
    size_t max_rows;
    float *best;     /* the adapter's values when its loss was lowest; NULL: none */
    double loss_sum; /* of the update in the making */
    uint64_t labels;
    double first_loss, smooth_loss; /* of updates */
};

/* Lists what is trained, in the order of the gradients. */
static size_t list_arrays(const struct run *run, struct lorica_adamw_array *arrays) {
    const struct lorica_adapter *adapter = run->adapter;
    const struct lorica_full *full = run->options->full;
    size_t count = 0;
    if (full) {
        const size_t norms = full->count - full->matrices;
        arrays[0] = (struct lorica_adamw_array){full->values, full->grads, full->matrices, false};
        arrays[1] = (struct lorica_adamw_array){full->values + full->matrices,
                                                full->grads + full->matrices, norms, true};
        return 2;
    }
    for (size_t i = 0; i < (size_t)adapter->layer_count * LORICA_MODULE_COUNT; i++) {
        const struct lorica_adapter_pair *pair = &adapter->layers[i];
        uint32_t n, k;
        if (pair->rank == 0)
            continue;
        lorica_arch_module_shape(&run->base->arch, (enum lorica_module)(i % LORICA_MODULE_COUNT),
                                 &n, &k);
        arrays[count++] =
            (struct lorica_adamw_array){pair->a, run->grads.da[i], (size_t)pair->rank * k, false};
        arrays[count++] =
            (struct lorica_adamw_array){pair->b, run->grads.db[i], (size_t)pair->rank * n, false};
    }
    return count;
}

static int make_optimizer(struct run *run, struct lorica_error *err) {
    const size_t most = (size_t)run->base->arch.layers * LORICA_MODULE_COUNT * 2;
    struct lorica_adamw_array *arrays = malloc((most + 1) * sizeof(*arrays));
    if (!arrays)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the optimizer");
    const int rc = lorica_adamw_init(&run->adamw, &run->options->adamw, arrays,
                                     list_arrays(run, arrays), run->options->moments_dir, err);
    free(arrays);
    return rc;
}

static int open_run(struct run *run, uint32_t max_tokens, struct lorica_error *err) {
    const struct lorica_trainer_options *o = run->options;
    const struct lorica_train_model_options options = {
        .compute = o->compute,
        .max_tokens = max_tokens,
        .max_rank = run->adapter ? run->adapter->max_rank : 0,
        .full = o->full,
        .dropout = o->dropout > 0,
        .keep_bytes = o->recompute ? 0 : LORICA_TRAIN_KEEP_BYTES};
    int rc = lorica_train_model_create(run->base, run->pool, &options, &run->model, err);
    if (rc)
        return rc;
    lorica_train_model_set_clock(run->model, o->clock);
    if (o->full)
        run->grads =
            (struct lorica_adapter_grads){.values = o->full->grads, .count = o->full->count};
    else
        rc = lorica_adapter_grads_init(&run->grads, run->base, run->adapter);
    return rc ? lorica_fail(err, rc, "no memory for gradients") : make_optimizer(run, err);
}

static void close_run(struct run *run) {
    free(run->rows);
    free(run->best);
    lorica_adamw_finish(&run->adamw);
    if (!run->options->full)
        lorica_adapter_grads_finish(&run->grads);
    lorica_train_model_destroy(run->model);
}

/* Keeps a copy of the adapter as it is, or makes it that copy again. */
static void copy_best(struct run *run, bool back) {
    float *best = run->best;
    for (size_t i = 0; i < run->adamw.array_count; i++) {
        const struct lorica_adamw_array *array = &run->adamw.arrays[i];
        memcpy(back ? array->params : best, back ? best : array->params,
               array->count * sizeof(float));
        best += array->count;
    }
}

/* Whether the loss, smoothed over some updates, went far above where it began: it does not come
 * back from there. */
static bool diverges(struct run *run, double loss) {
    if (run->adamw.step == 0)
        run->first_loss = run->smooth_loss = loss;
    run->smooth_loss += (loss - run->smooth_loss) / SMOOTH;
    return run->smooth_loss > 2 * run->first_loss && run->smooth_loss > run->first_loss + 2;
}

/* The update from what the passes added up: mean over the labels, clipped. */
static int update(struct run *run, double lr, uint64_t step, double *ret_loss, double *ret_norm,
                  struct lorica_error *err) {
    lorica_clock_start(run->options->clock);
    const double loss = run->loss_sum / (double)run->labels;
    const double mean = 1.0 / (double)run->labels;
    const double norm = lorica_adamw_grad_norm(&run->adamw, run->pool) * mean;
    if (!isfinite(loss) || !isfinite(norm))
        return lorica_fail(
            err, LORICA_EINVAL,
            "the loss is no longer finite at update %llu: the learning rate %g is too "
            "high; use a lower --lr",
            (unsigned long long)(step + 1), run->options->lr);
    if (diverges(run, loss))
        return lorica_fail(
            err, LORICA_EINVAL,
            "the loss rose from %.3g to %.3g by update %llu: the learning rate %g is too "
            "high; use a lower --lr",
            run->first_loss, loss, (unsigned long long)(step + 1), run->options->lr);
    lorica_adamw_update(&run->adamw, run->pool, lr,
                        mean * lorica_clip_factor(norm, run->options->max_grad_norm));
    memset(run->grads.values, 0, run->grads.count * sizeof(*run->grads.values));
    run->loss_sum = 0;
    run->labels = 0;
    *ret_loss = loss;
    *ret_norm = norm;
    lorica_clock_mark(run->options->clock, LORICA_PART_OPTIMIZER);
    return 0;
}

/* -- the loss on examples held apart --------------------------------------------------------------
 */

static struct lorica_train_row row_of(const struct lorica_train_example *e) {
    return (struct lorica_train_row){e->ids, e->labels, e->length};
}

static uint32_t longest(const struct lorica_train_data *data) {
    uint32_t most = 1;
    for (size_t i = 0; i < data->count; i++) {
        const uint32_t tokens = lorica_train_example_tokens(&data->examples[i]);
        most = tokens > most ? tokens : most;
    }
    return most;
}

/* Mean loss over the labels, as many examples at once as there is room for. */
static int measure(struct run *run, const struct lorica_train_data *data, uint32_t max_tokens,
                   const struct lorica_adapter *adapter, double *ret_loss,
                   struct lorica_error *err) {
    double loss = 0;
    uint64_t labels = 0;
    int rc = 0;
    for (size_t at = 0; at < data->count && !rc;) {
        size_t rows = 0;
        for (uint64_t tokens = 0; at < data->count && rows < run->max_rows; rows++, at++) {
            tokens += lorica_train_example_tokens(&data->examples[at]);
            if (rows > 0 && tokens > max_tokens)
                break;
            run->rows[rows] = row_of(&data->examples[at]);
        }
        rc = lorica_train_model_step_rows(run->model, adapter, run->rows, rows, 0, 0, &loss,
                                          &labels, NULL, err);
    }
    if (!rc)
        *ret_loss = loss / (double)labels;
    return rc;
}

/* -- the loop ------------------------------------------------------------------------------------
 */

/* Where the loop stands. */
struct cursor {
    struct lorica_train_plan plan;
    const struct lorica_train_data *data;
    size_t pass; /* of this epoch, the next */
    uint64_t random;
    uint64_t tokens;
    double epoch_loss; /* of this epoch's labels; kept of the last whole one */
    uint64_t epoch_labels;
    uint32_t max_tokens;                          /* of the model */
    uint64_t steps, eval_every, evals_since_best; /* updates in all, and between measurements */
};

/* One pass through the model over the next examples. */
static int one_pass(struct run *run, struct cursor *c, struct lorica_error *err) {
    if (c->pass == c->plan.passes)
        c->pass = 0;
    if (c->pass == 0) {
        lorica_train_plan_shuffle(&c->plan, c->data, &c->random);
        c->epoch_loss = 0;
        c->epoch_labels = 0;
    }
    const size_t begin = c->pass == 0 ? 0 : c->plan.ends[c->pass - 1];
    const size_t rows = c->plan.ends[c->pass++] - begin;
    for (size_t i = 0; i < rows; i++) {
        const struct lorica_train_example *e = &c->data->examples[c->plan.order[begin + i]];
        run->rows[i] = row_of(e);
        c->tokens += lorica_train_example_tokens(e);
    }
    double loss = 0;
    uint64_t labels = 0;
    const int rc = lorica_train_model_step_rows(
        run->model, run->adapter, run->rows, rows, run->options->dropout,
        lorica_random_next(&c->random), &loss, &labels, &run->grads, err);
    run->loss_sum += loss;
    run->labels += labels;
    c->epoch_loss += loss;
    c->epoch_labels += labels;
    return rc;
}

static uint64_t count_steps(size_t passes, const struct lorica_trainer_options *options) {
    if (options->steps)
        return options->steps;
    const double steps = ceil((double)passes * options->epochs / options->accumulate);
    return steps < 1 ? 1 : (uint64_t)steps;
}

/* Measures when it is due, and keeps the adapter when it was never better. */
static int evaluate(struct run *run, struct cursor *c, struct lorica_trainer_progress *p,
                    struct lorica_trainer_result *ret, struct lorica_error *err) {
    const struct lorica_trainer_options *o = run->options;
    if (!o->held_apart || (p->step % c->eval_every != 0 && p->step != c->steps))
        return 0;
    const int rc = measure(run, o->held_apart, c->max_tokens, p->step ? run->adapter : NULL,
                           &p->eval_loss, err);
    if (rc)
        return rc;
    if (p->step == 0) {
        ret->eval_loss_before = p->eval_loss;
    } else if (ret->best_step == 0 || p->eval_loss < ret->eval_loss) {
        ret->eval_loss = p->eval_loss;
        ret->best_step = p->step;
        c->evals_since_best = 0;
        copy_best(run, false);
    } else {
        c->evals_since_best++;
        ret->stopped = o->patience > 0 && c->evals_since_best >= o->patience && p->step < c->steps;
    }
    return 0;
}

/* -- checkpoints -- */

static struct lorica_checkpoint_state gather(const struct run *run, const struct cursor *c,
                                             const struct lorica_trainer_progress *p,
                                             const struct lorica_trainer_result *ret) {
    return (struct lorica_checkpoint_state){.step = p->step,
                                            .pass = c->pass,
                                            .random = c->random,
                                            .tokens = c->tokens,
                                            .epoch_labels = c->epoch_labels,
                                            .best_step = ret->best_step,
                                            .evals_since_best = c->evals_since_best,
                                            .epoch_loss = c->epoch_loss,
                                            .seconds = p->seconds,
                                            .first_loss = run->first_loss,
                                            .smooth_loss = run->smooth_loss,
                                            .eval_loss_before = ret->eval_loss_before,
                                            .eval_loss = ret->eval_loss};
}

static void scatter(const struct lorica_checkpoint_state *s, struct run *run, struct cursor *c,
                    struct lorica_trainer_progress *p, struct lorica_trainer_result *ret) {
    p->step = run->adamw.step = s->step;
    p->seconds = s->seconds;
    c->pass = s->pass;
    c->random = s->random;
    c->tokens = s->tokens;
    c->epoch_labels = s->epoch_labels;
    c->epoch_loss = s->epoch_loss;
    c->evals_since_best = s->evals_since_best;
    run->first_loss = s->first_loss;
    run->smooth_loss = s->smooth_loss;
    ret->best_step = s->best_step;
    ret->eval_loss_before = s->eval_loss_before;
    ret->eval_loss = s->eval_loss;
}

/* Saves, or loads where *ret_found is given. */
static int checkpoint(const struct run *run, const struct cursor *c,
                      struct lorica_checkpoint_state *state, bool *ret_found,
                      struct lorica_error *err) {
    const struct lorica_checkpointing *how = run->options->checkpointing;
    const struct lorica_adamw *adamw = &run->adamw;
    struct iovec *weights = malloc((adamw->array_count + 1) * sizeof(*weights));
    if (!weights)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for a checkpoint");
    for (size_t i = 0; i < adamw->array_count; i++)
        weights[i] =
            (struct iovec){adamw->arrays[i].params, adamw->arrays[i].count * sizeof(float)};
    const struct lorica_checkpoint all = {.facts = how->facts,
                                          .fact_count = how->fact_count,
                                          .state = state,
                                          .weights = weights,
                                          .weights_count = adamw->array_count,
                                          .best = run->best,
                                          .best_count = run->best ? run->grads.count : 0,
                                          .moments = adamw->state,
                                          .moments_nbytes = adamw->nbytes,
                                          .order = c->plan.order,
                                          .order_count = c->data->count,
                                          .ends = c->plan.ends,
                                          .ends_count = c->plan.passes,
                                          .max_rows = run->max_rows,
                                          .notes = how->notes};
    const int rc =
        ret_found ? how->load(how->arg, &all, ret_found, err) : how->save(how->arg, &all, err);
    free(weights);
    return rc;
}

/* Goes on where a checkpoint says, when there is one. */
static int resume(struct run *run, struct cursor *c, struct lorica_trainer_progress *p,
                  struct lorica_trainer_result *ret, struct lorica_error *err) {
    struct lorica_checkpoint_state state = {0};
    bool found = false;
    if (!run->options->checkpointing)
        return 0;
    const int rc = checkpoint(run, c, &state, &found, err);
    if (!rc && found)
        scatter(&state, run, c, p, ret);
    return rc;
}

/* After an update: a checkpoint when one is due. */
static int keep(const struct run *run, const struct cursor *c,
                const struct lorica_trainer_progress *p, const struct lorica_trainer_result *ret,
                struct lorica_error *err) {
    const struct lorica_checkpointing *how = run->options->checkpointing;
    const bool stopped = how && how->stopped && how->stopped(how->arg);
    const bool due = how && how->every > 0 && p->step % how->every == 0;
    if (p->step == p->steps || ret->stopped || (!stopped && !due))
        return 0;
    struct lorica_checkpoint_state state = gather(run, c, p, ret);
    const int rc = checkpoint(run, c, &state, NULL, err);
    if (rc || !stopped)
        return rc;
    return lorica_fail(err, LORICA_ECANCELED,
                       "stopped after update %llu of %llu, behind a checkpoint: --resume goes on",
                       (unsigned long long)p->step, (unsigned long long)p->steps);
}

/* -- the loop itself -- */

/* The passes of one update, and the update. */
static int one_update(struct run *run, struct cursor *c, struct lorica_trainer_progress *p,
                      struct lorica_error *err) {
    const struct lorica_trainer_options *o = run->options;
    /* The first update of a warm-up has no learning rate: the only one there is has none of that.
     */
    const uint64_t warmup = c->steps > 1 ? (uint64_t)ceil(o->warmup * (double)c->steps) : 0;
    int rc = 0;
    for (uint32_t i = 0; i < o->accumulate && !rc; i++)
        rc = one_pass(run, c, err);
    p->lr = o->lr * lorica_schedule_factor(o->schedule, p->step, c->steps, warmup);
    if (!rc)
        rc = update(run, p->lr, p->step, &p->loss, &p->grad_norm, err);
    if (rc)
        return rc;
    p->step++;
    p->tokens = c->tokens;
    p->eval_loss = (double)NAN;
    return 0;
}

static int loop(struct run *run, struct cursor *c, lorica_trainer_progress_fn progress,
                void *progress_arg, struct lorica_trainer_result *ret, struct lorica_error *err) {
    const struct lorica_trainer_options *o = run->options;
    struct lorica_trainer_progress p = {.steps = c->steps, .eval_loss = (double)NAN};
    int rc = resume(run, c, &p, ret, err);
    const double began = lorica_clock_now() - p.seconds;
    if (!rc && p.step == 0) {
        rc = evaluate(run, c, &p, ret, err);
        if (!rc && progress && o->held_apart)
            progress(progress_arg, &p);
    }
    while (p.step < c->steps && !rc && !ret->stopped) {
        rc = one_update(run, c, &p, err);
        if (!rc)
            rc = evaluate(run, c, &p, ret, err);
        p.seconds = lorica_clock_now() - began;
        if (!rc && progress)
            progress(progress_arg, &p);
        if (!rc)
            rc = keep(run, c, &p, ret, err);
    }
    if (!rc && ret->best_step > 0 && ret->best_step < p.step)
        copy_best(run, true);
    ret->steps = p.step;
    ret->tokens = c->tokens;
    ret->seconds = lorica_clock_now() - began;
    ret->loss = c->epoch_labels ? c->epoch_loss / (double)c->epoch_labels : 0;
    return rc;
}

static int open_cursor(struct run *run, struct cursor *c, struct lorica_error *err) {
    const struct lorica_trainer_options *o = run->options;
    const int rc = lorica_train_plan_init(&c->plan, c->data, o->batch, o->pack, err);
    if (rc)
        return rc;
    const uint32_t held_apart = o->held_apart ? longest(o->held_apart) : 0;
    c->max_tokens = c->plan.max_tokens > held_apart ? c->plan.max_tokens : held_apart;
    c->steps = count_steps(c->plan.passes, o);
    c->eval_every =
        o->eval_every ? o->eval_every : (c->plan.passes + o->accumulate - 1) / o->accumulate;
    run->max_rows = c->plan.max_rows;
    run->rows = calloc(run->max_rows, sizeof(*run->rows));
    return run->rows ? 0 : lorica_fail(err, LORICA_ENOMEM, "no memory for a batch");
}

int lorica_trainer_run(const struct lorica_base *base, struct lorica_pool *pool,
                       const struct lorica_train_data *data,
                       const struct lorica_trainer_options *options, struct lorica_adapter *adapter,
                       lorica_trainer_progress_fn progress, void *progress_arg,
                       struct lorica_trainer_result *ret, struct lorica_error *err) {
    struct run run = {.base = base, .pool = pool, .options = options, .adapter = adapter};
    struct cursor cursor = {.data = data, .random = options->seed};
    *ret = (struct lorica_trainer_result){0};
    int rc = open_cursor(&run, &cursor, err);
    if (!rc)
        rc = open_run(&run, cursor.max_tokens, err);
    if (!rc && options->held_apart && !(run.best = calloc(run.grads.count + 1, sizeof(float))))
        rc = lorica_fail(err, LORICA_ENOMEM, "no memory to keep the best adapter");
    if (!rc)
        rc = loop(&run, &cursor, progress, progress_arg, ret, err);
    close_run(&run);
    lorica_train_plan_finish(&cursor.plan);
    return rc;
}

int lorica_trainer_replay(const struct lorica_base *base, struct lorica_pool *pool,
                          const struct lorica_replay *replay,
                          const struct lorica_trainer_options *options,
                          struct lorica_adapter *adapter, float *losses, float *grad_norms,
                          struct lorica_error *err) {
    struct run run = {.base = base, .pool = pool, .options = options, .adapter = adapter};
    const size_t size = (size_t)replay->batch * replay->time;
    int rc = open_run(&run, replay->batch * replay->time, err);
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
