/* SPDX-License-Identifier: MIT
 * The engine's thread: it takes in what was submitted, drops who was cancelled, lets in whose turn
 * it is (sched.h) as long as there are pages (prefix.h), and runs a step (engine_step.c). */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/engine_private.h"

#define MAX_RUNNING 4096
#define MAX_WAITING (1u << 20)
#define MAX_CHUNK (1u << 16)

void lorica_engine_default_options(struct lorica_engine_options *options) {
    *options = (struct lorica_engine_options){.kv_tokens = 32768,
                                              .max_running = 64,
                                              .max_waiting = 256,
                                              .prefill_chunk = 128,
                                              .prefix_bytes = (size_t)128 << 20,
                                              .step_seconds = 0.04};
}

double lorica_engine_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double lorica_engine_times_bound(unsigned bucket) { return ldexp(0.0005, (int)bucket); }

void lorica_engine_time(struct lorica_engine_times *times, double seconds) {
    unsigned i = 0;
    while (i < LORICA_ENGINE_TIMES && seconds > lorica_engine_times_bound(i))
        i++;
    times->buckets[i]++;
    times->sum += seconds;
    times->count++;
}

/* Figures as they are now. Under the mutex. */
static void show_locked(struct lorica_engine *engine) {
    struct lorica_engine_stats *f = &engine->figures;
    f->running = engine->running_count;
    f->waiting = engine->live_count - engine->running_count;
    f->kv_pages_idle = engine->prefix.idle;
    f->kv_pages_used = engine->kv.pages - lorica_prefix_available(&engine->prefix);
    f->evicted_pages = engine->prefix.evicted;
    engine->stats = *f;
}

void lorica_engine_show(struct lorica_engine *engine) {
    (void)pthread_mutex_lock(&engine->mutex);
    show_locked(engine);
    (void)pthread_mutex_unlock(&engine->mutex);
}

static void stop_running(struct lorica_engine *engine, const struct lorica_sequence *s) {
    uint32_t i = 0;
    while (engine->running[i] != s)
        i++;
    engine->running_count--;
    memmove(&engine->running[i], &engine->running[i + 1],
            (engine->running_count - i) * sizeof(struct lorica_sequence *));
}

void lorica_engine_retire(struct lorica_engine *engine, struct lorica_sequence *s,
                          const struct lorica_choice *choice, enum lorica_finish finish) {
    if (s->running)
        stop_running(engine, s);
    if (s->flow)
        lorica_sched_leave(&engine->sched, s);
    lorica_prefix_release(&engine->prefix, &s->pages);
    engine->figures.finished++;
    engine->figures.cancelled += finish == LORICA_FINISH_CANCELLED;
    (void)pthread_mutex_lock(&engine->mutex);
    *(s->live_prev ? &s->live_prev->live_next : &engine->live) = s->live_next;
    if (s->live_next)
        s->live_next->live_prev = s->live_prev;
    engine->live_count--;
    show_locked(engine);
    (void)pthread_mutex_unlock(&engine->mutex);
    lorica_sequence_emit(s, choice, finish);
    lorica_sequence_destroy(s);
}

void lorica_engine_preempt(struct lorica_engine *engine, struct lorica_sequence *s) {
    stop_running(engine, s);
    lorica_sched_return(&engine->sched, s);
    lorica_prefix_release(&engine->prefix, &s->pages);
    s->reached = s->position > s->reached ? s->position : s->reached;
    s->position = 0;
    engine->figures.preempted++;
}

uint32_t lorica_engine_adopt(struct lorica_engine *engine, struct lorica_sequence *s) {
    return lorica_prefix_adopt(&engine->prefix, &s->pages, s->tokens,
                               (s->count - 1) / LORICA_KV_PAGE);
}

void lorica_engine_skip_shared(struct lorica_engine *engine, struct lorica_sequence *s) {
    const uint32_t known = s->position > s->reached ? s->position : s->reached;
    s->position = s->pages.shared * LORICA_KV_PAGE;
    if (s->position <= known)
        return;
    s->cached += s->position - known;
    engine->figures.cached_tokens += s->position - known;
}

/* Takes in what was submitted since; true when the engine is to stop. */
static bool take_new(struct lorica_engine *engine) {
    (void)pthread_mutex_lock(&engine->mutex);
    while (!engine->stop && !engine->first_new && engine->running_count == 0 &&
           engine->sched.waiting == 0)
        (void)pthread_cond_wait(&engine->wake, &engine->mutex);
    const bool stop = engine->stop;
    struct lorica_sequence *s = engine->first_new;
    engine->first_new = engine->last_new = NULL;
    (void)pthread_mutex_unlock(&engine->mutex);
    for (struct lorica_sequence *next; s; s = next) {
        next = s->next;
        if (lorica_sched_join(&engine->sched, s) != 0)
            lorica_engine_retire(engine, s, NULL, LORICA_FINISH_CANCELLED);
    }
    return stop;
}

/* Ends those that were cancelled, or all. */
static void drop_cancelled(struct lorica_engine *engine, bool all) {
    struct lorica_sequence *s;
    while ((s = lorica_sched_cancelled(&engine->sched, all)))
        lorica_engine_retire(engine, s, NULL, LORICA_FINISH_CANCELLED);
    for (uint32_t i = engine->running_count; i-- > 0;)
        if (all || atomic_load(&engine->running[i]->cancelled))
            lorica_engine_retire(engine, engine->running[i], NULL, LORICA_FINISH_CANCELLED);
}

/* An adapter without a digest is known by nothing that could be compared: its pages are its own. */
static void bind_pages(struct lorica_engine *engine, struct lorica_sequence *s) {
    static const struct lorica_digest none = {{0}};
    struct lorica_prefix_key key = {.base = engine->model.base->digest};
    if (s->adapter) {
        if (lorica_digest_equal(&s->adapter->digest, &none))
            return;
        key.adapter = s->adapter->digest;
        key.adapted = true;
    }
    lorica_prefix_bind(&engine->prefix, &s->pages, &key);
}

/* Gives a waiting sequence the pages for all that it has and one token more, sharing what is there
 * already. One page for each running sequence must be left: else they would soon drive each other
 * out. */
static bool take_pages(struct lorica_engine *engine, struct lorica_sequence *s) {
    uint32_t wanted = lorica_kv_pages((uint64_t)s->count + 1);
    wanted = wanted < s->pages.capacity ? wanted : s->pages.capacity;
    bind_pages(engine, s);
    const uint32_t shared = lorica_engine_adopt(engine, s);
    if (lorica_prefix_available(&engine->prefix) >= wanted - shared + engine->running_count &&
        lorica_prefix_reserve(&engine->prefix, &s->pages, wanted) == 0)
        return true;
    lorica_prefix_release(&engine->prefix, &s->pages);
    return false;
}

/* The running sequence that gives way first, if it does so for `s`. */
static struct lorica_sequence *find_displaced(const struct lorica_engine *engine,
                                              const struct lorica_sequence *s) {
    struct lorica_sequence *first = NULL;
    for (uint32_t i = 0; i < engine->running_count; i++)
        if (lorica_sched_displaces(s, engine->running[i]) &&
            (!first || lorica_sched_yields(engine->running[i], first)))
            first = engine->running[i];
    return first;
}

/* Lets in whose turn it is, as long as there is room or somebody has to make it. */
static void admit(struct lorica_engine *engine) {
    struct lorica_sequence *s;
    while ((s = lorica_sched_next(&engine->sched))) {
        while (engine->running_count == engine->options.max_running || !take_pages(engine, s)) {
            struct lorica_sequence *displaced = find_displaced(engine, s);
            if (!displaced)
                return;
            lorica_engine_preempt(engine, displaced);
        }
        lorica_sched_start(&engine->sched, s);
        engine->running[engine->running_count++] = s;
        if (s->admission == 0) {
            s->admission = ++engine->admissions;
            lorica_engine_time(&engine->figures.queue, lorica_engine_now() - s->submitted);
        }
        lorica_engine_skip_shared(engine, s);
        if (s->adapter &&
            lorica_forward_reserve_rank(engine->forward, s->adapter->max_rank, NULL) != 0)
            lorica_engine_retire(engine, s, NULL, LORICA_FINISH_ERROR);
    }
}

static void *engine_main(void *arg) {
    struct lorica_engine *engine = arg;
    lorica_pool_bind(engine->pool);
    for (;;) {
        const bool stop = take_new(engine);
        drop_cancelled(engine, stop);
        if (stop)
            return NULL;
        admit(engine);
        lorica_engine_step(engine);
    }
}

static int check_options(const struct lorica_engine_options *o, struct lorica_error *err) {
    if (o->max_running < 1 || o->max_running > MAX_RUNNING)
        return lorica_fail(err, LORICA_EINVAL, "%u running requests: 1 to %d are possible",
                           o->max_running, MAX_RUNNING);
    if (o->max_waiting > MAX_WAITING)
        return lorica_fail(err, LORICA_EINVAL, "%u waiting requests: at most %u are possible",
                           o->max_waiting, MAX_WAITING);
    if (o->prefill_chunk < 1 || o->prefill_chunk > MAX_CHUNK)
        return lorica_fail(err, LORICA_EINVAL, "a prefill chunk of %u tokens: 1 to %u are possible",
                           o->prefill_chunk, MAX_CHUNK);
    if (!(o->step_seconds >= 0 && o->step_seconds <= 3600))
        return lorica_fail(err, LORICA_EINVAL, "steps of %g seconds: 0 to 3600 are possible",
                           o->step_seconds);
    return 0;
}

/* The lists that the engine thread works with. */
static int take_lists(struct lorica_engine *engine, struct lorica_error *err) {
    const uint32_t running = engine->options.max_running;
    const unsigned threads = lorica_pool_threads(engine->pool);
    const size_t picked = (size_t)running + LORICA_ENGINE_DRAFTS;
    engine->rows = calloc(picked + engine->options.prefill_chunk, sizeof(*engine->rows));
    engine->choices = calloc(picked, sizeof(*engine->choices));
    engine->picks = calloc(running, sizeof(*engine->picks));
    engine->running = calloc(running, sizeof(*engine->running));
    engine->queue = calloc(running, sizeof(*engine->queue));
    engine->scratch = calloc(threads, sizeof(*engine->scratch));
    if (!engine->rows || !engine->picks || !engine->choices || !engine->running || !engine->queue ||
        !engine->scratch)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the engine");
    for (unsigned i = 0; i < threads; i++)
        if (lorica_sampler_scratch_init(&engine->scratch[i], engine->limits.arch->vocab) != 0)
            return lorica_fail(err, LORICA_ENOMEM, "no memory for the engine's sampler");
    return 0;
}

/* Reading a position of the past costs a row two multiplications for each value of its queries in
 * each layer, at about a third of the speed of the products with weights. */
static double position_work(const struct lorica_arch *arch) {
    double weights = 0;
    for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
        uint32_t n, k;
        lorica_arch_module_shape(arch, (enum lorica_module)m, &n, &k);
        weights += (double)n * k;
    }
    return 3 * 2.0 * arch->heads * arch->head_dim / weights;
}

static int open_pages(struct lorica_engine *engine, const struct lorica_arch *arch,
                      struct lorica_error *err) {
    int rc = lorica_kv_init(&engine->kv, arch, engine->options.kv_format, engine->options.kv_tokens,
                            err);
    if (rc)
        return rc;
    const size_t idle = engine->options.prefix_bytes / (engine->kv.nbytes / engine->kv.pages);
    rc = lorica_prefix_init(&engine->prefix, &engine->kv,
                            idle < engine->kv.pages ? (uint32_t)idle : engine->kv.pages);
    return rc ? lorica_fail(err, rc, "no memory for the prefix cache") : 0;
}

static int engine_prepare(struct lorica_engine *engine, const struct lorica_base *base,
                          struct lorica_error *err) {
    const struct lorica_engine_options *o = &engine->options;
    int rc = lorica_model_init(&engine->model, base, err);
    if (!rc)
        rc = open_pages(engine, &base->arch, err);
    if (!rc)
        rc = lorica_pool_create(o->threads, &engine->pool, err);
    if (!rc)
        rc = lorica_forward_create(&engine->model, &engine->kv, engine->pool,
                                   o->max_running + LORICA_ENGINE_DRAFTS + o->prefill_chunk,
                                   o->max_running + LORICA_ENGINE_DRAFTS, &engine->forward, err);
    if (!rc)
        rc = take_lists(engine, err);
    if (rc)
        return rc;
    const uint64_t room = (uint64_t)engine->kv.pages * LORICA_KV_PAGE;
    engine->limits.tokens =
        room < base->arch.max_positions ? (uint32_t)room : base->arch.max_positions;
    engine->position_work = position_work(&base->arch);
    engine->figures.kv_pages_total = engine->kv.pages;
    lorica_engine_show(engine);
    return 0;
}

int lorica_engine_create(const struct lorica_base *base, const struct lorica_tokenizer *tokenizer,
                         const struct lorica_engine_options *options, struct lorica_engine **ret,
                         struct lorica_error *err) {
    int rc = check_options(options, err);
    if (rc)
        return rc;
    struct lorica_engine *engine = calloc(1, sizeof(*engine));
    if (!engine)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the engine");
    engine->options = *options;
    engine->limits.arch = &base->arch;
    engine->limits.tokenizer = tokenizer;
    (void)pthread_mutex_init(&engine->mutex, NULL);
    (void)pthread_cond_init(&engine->wake, NULL);
    rc = engine_prepare(engine, base, err);
    if (!rc && pthread_create(&engine->thread, NULL, engine_main, engine) != 0)
        rc = lorica_fail(err, LORICA_ENOMEM, "the engine's thread could not be started");
    if (rc) {
        lorica_engine_destroy(engine);
        return rc;
    }
    engine->started = true;
    *ret = engine;
    return 0;
}

void lorica_engine_destroy(struct lorica_engine *engine) {
    if (!engine)
        return;
    if (engine->started) {
        (void)pthread_mutex_lock(&engine->mutex);
        engine->stop = true;
        (void)pthread_cond_signal(&engine->wake);
        (void)pthread_mutex_unlock(&engine->mutex);
        (void)pthread_join(engine->thread, NULL);
    }
    for (unsigned i = 0; engine->scratch && i < lorica_pool_threads(engine->pool); i++)
        lorica_sampler_scratch_finish(&engine->scratch[i]);
    free(engine->scratch);
    free(engine->queue);
    free(engine->running);
    free(engine->choices);
    free(engine->picks);
    free(engine->rows);
    lorica_forward_destroy(engine->forward);
    lorica_pool_destroy(engine->pool);
    lorica_sched_finish(&engine->sched);
    lorica_prefix_finish(&engine->prefix);
    lorica_kv_finish(&engine->kv);
    lorica_model_finish(&engine->model);
    (void)pthread_cond_destroy(&engine->wake);
    (void)pthread_mutex_destroy(&engine->mutex);
    free(engine);
}

/* Hands a sequence to the engine thread. Under the mutex. */
static int enqueue(struct lorica_engine *engine, struct lorica_sequence *s,
                   struct lorica_error *err) {
    const struct lorica_engine_options *o = &engine->options;
    if (engine->stop)
        return lorica_fail(err, LORICA_ECANCELED, "the engine is stopping");
    if (engine->live_count >= o->max_running + o->max_waiting)
        return lorica_fail(err, LORICA_EBUSY, "%u requests are waiting already: try again later",
                           engine->live_count - engine->stats.running);
    s->id = ++engine->last_id;
    s->submitted = lorica_engine_now();
    *(engine->last_new ? &engine->last_new->next : &engine->first_new) = s;
    engine->last_new = s;
    s->live_next = engine->live;
    if (engine->live)
        engine->live->live_prev = s;
    engine->live = s;
    engine->live_count++;
    engine->stats.waiting++;
    return 0;
}

int lorica_engine_submit(struct lorica_engine *engine, const struct lorica_engine_request *request,
                         uint64_t *ret_id, struct lorica_error *err) {
    struct lorica_sequence *s;
    int rc = lorica_sequence_create(&engine->limits, request, &s, err);
    if (rc)
        return rc;
    (void)pthread_mutex_lock(&engine->mutex);
    rc = enqueue(engine, s, err);
    if (!rc) {
        *ret_id = s->id;
        (void)pthread_cond_signal(&engine->wake);
    }
    (void)pthread_mutex_unlock(&engine->mutex);
    if (rc)
        lorica_sequence_destroy(s);
    return rc;
}

void lorica_engine_cancel(struct lorica_engine *engine, uint64_t id) {
    (void)pthread_mutex_lock(&engine->mutex);
    for (struct lorica_sequence *s = engine->live; s; s = s->live_next)
        if (s->id == id)
            atomic_store(&s->cancelled, true);
    (void)pthread_mutex_unlock(&engine->mutex);
}

void lorica_engine_stats(struct lorica_engine *engine, struct lorica_engine_stats *ret) {
    (void)pthread_mutex_lock(&engine->mutex);
    *ret = engine->stats;
    (void)pthread_mutex_unlock(&engine->mutex);
}
