/* SPDX-License-Identifier: MIT
 * Queue and scheduler. The engine thread alone owns the running sequences, the cache's pages and
 * the forward; `mutex` guards the waiting queue, joining and leaving, and the figures. A step:
 *
 *   drop who was cancelled | admit in order of arrival while pages last | one row for each
 *   generating sequence and the next chunk of prompts | forward | choose tokens | events
 */
#include "runtime/engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/forward.h"
#include "runtime/kv.h"
#include "runtime/model.h"
#include "runtime/pool.h"
#include "runtime/sampler.h"
#include "runtime/sequence.h"

#define MAX_RUNNING 4096
#define MAX_WAITING (1u << 20)
#define MAX_CHUNK (1u << 16)

/* A token chosen in a step, and for whom. */
struct pick {
    struct lorica_sequence *sequence;
    int failure;
    struct lorica_choice choice;
    enum lorica_finish finish;
    bool has_token; /* the choice is part of the answer */
};

struct lorica_engine {
    struct lorica_engine_options options;
    struct lorica_sequence_limits limits;
    struct lorica_model model;
    struct lorica_kv kv;
    struct lorica_pool *pool;
    struct lorica_forward *forward;
    struct lorica_sampler_scratch *scratch; /* one for each thread */
    struct lorica_row *rows;
    struct pick *picks;
    uint32_t row_count, pick_count;
    pthread_t thread;
    bool started;
    /* Guarded by mutex. */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop;
    uint64_t last_id;
    struct lorica_sequence *first_waiting, *last_waiting;
    struct lorica_sequence **running; /* in order of admission; changed by the engine thread only */
    struct lorica_engine_stats stats;
};

void lorica_engine_default_options(struct lorica_engine_options *options) {
    *options = (struct lorica_engine_options){
        .kv_tokens = 32768, .max_running = 64, .max_waiting = 256, .prefill_chunk = 128};
}

/* Takes a sequence out of the running ones and gives its last event. */
static void retire(struct lorica_engine *engine, struct lorica_sequence *s,
                   const struct lorica_choice *choice, enum lorica_finish finish) {
    (void)pthread_mutex_lock(&engine->mutex);
    struct lorica_engine_stats *stats = &engine->stats;
    for (uint32_t i = 0; i < stats->running; i++) {
        if (engine->running[i] != s)
            continue;
        stats->running--;
        memmove(&engine->running[i], &engine->running[i + 1],
                (stats->running - i) * sizeof(*engine->running));
        break;
    }
    if (s->has_pages)
        lorica_kv_give(&engine->kv, s->pages, s->page_count);
    stats->kv_pages_used = engine->kv.pages - engine->kv.free_count;
    stats->finished++;
    stats->cancelled += finish == LORICA_FINISH_CANCELLED;
    (void)pthread_mutex_unlock(&engine->mutex);
    lorica_sequence_emit(s, choice, finish);
    lorica_sequence_destroy(s);
}

/* Takes the first waiting sequence off the queue. Under the mutex. */
static struct lorica_sequence *unqueue_first(struct lorica_engine *engine) {
    struct lorica_sequence *s = engine->first_waiting;
    engine->first_waiting = s->next;
    if (!engine->first_waiting)
        engine->last_waiting = NULL;
    s->next = NULL;
    engine->stats.waiting--;
    return s;
}

/* Takes all cancelled ones (all whatsoever when stopping) out of the queue, as a list. Under the
 * mutex. */
static struct lorica_sequence *unqueue_cancelled(struct lorica_engine *engine) {
    struct lorica_sequence *cancelled = NULL, **tail = &cancelled;
    struct lorica_sequence *all = engine->first_waiting;
    engine->first_waiting = engine->last_waiting = NULL;
    while (all) {
        struct lorica_sequence *s = all;
        all = s->next;
        s->next = NULL;
        if (engine->stop || atomic_load(&s->cancelled)) {
            *tail = s;
            tail = &s->next;
            engine->stats.waiting--;
        } else if (engine->last_waiting) {
            engine->last_waiting->next = s;
            engine->last_waiting = s;
        } else {
            engine->first_waiting = engine->last_waiting = s;
        }
    }
    return cancelled;
}

/* Lets in who is first, as long as pages for all it may ever need are free. Under the mutex. */
static void admit(struct lorica_engine *engine) {
    while (engine->first_waiting && engine->stats.running < engine->options.max_running) {
        struct lorica_sequence *s = engine->first_waiting;
        if (lorica_kv_take(&engine->kv, s->pages, s->page_count) != 0)
            break;
        s->has_pages = true;
        engine->running[engine->stats.running++] = unqueue_first(engine);
        engine->stats.kv_pages_used = engine->kv.pages - engine->kv.free_count;
    }
}

/* Waits for work. Returns false when the engine is to stop. */
static bool next_round(struct lorica_engine *engine) {
    (void)pthread_mutex_lock(&engine->mutex);
    while (!engine->stop && !engine->first_waiting && engine->stats.running == 0)
        (void)pthread_cond_wait(&engine->wake, &engine->mutex);
    const bool stop = engine->stop;
    struct lorica_sequence *cancelled = unqueue_cancelled(engine);
    (void)pthread_mutex_unlock(&engine->mutex);
    while (cancelled) {
        struct lorica_sequence *s = cancelled;
        cancelled = s->next;
        retire(engine, s, NULL, LORICA_FINISH_CANCELLED);
    }
    for (uint32_t i = engine->stats.running; i-- > 0;)
        if (stop || atomic_load(&engine->running[i]->cancelled))
            retire(engine, engine->running[i], NULL, LORICA_FINISH_CANCELLED);
    if (stop)
        return false;
    (void)pthread_mutex_lock(&engine->mutex);
    admit(engine);
    (void)pthread_mutex_unlock(&engine->mutex);
    return true;
}

/* A row for the token at the sequence's next position. */
static void add_row(struct lorica_engine *engine, struct lorica_sequence *s, uint32_t position) {
    const bool in_prompt = position < s->prompt_count;
    const bool wants_logits = position + 1 >= s->prompt_count;
    engine->rows[engine->row_count++] =
        (struct lorica_row){.token = in_prompt ? s->prompt[position] : s->token,
                            .position = position,
                            .pages = s->pages,
                            .adapter = s->adapter,
                            .wants_logits = wants_logits};
    if (wants_logits)
        engine->picks[engine->pick_count++].sequence = s;
}

/* Fills rows and picks; returns how many of the rows are prompt tokens. */
static uint32_t build_batch(struct lorica_engine *engine) {
    uint32_t left = engine->options.prefill_chunk;
    engine->row_count = engine->pick_count = 0;
    for (uint32_t i = 0; i < engine->stats.running; i++) {
        struct lorica_sequence *s = engine->running[i];
        if (s->position >= s->prompt_count)
            add_row(engine, s, s->position++);
    }
    for (uint32_t i = 0; i < engine->stats.running && left > 0; i++) {
        struct lorica_sequence *s = engine->running[i];
        for (; s->position < s->prompt_count && left > 0; left--)
            add_row(engine, s, s->position++);
    }
    return engine->options.prefill_chunk - left;
}

static void choose_one(struct lorica_engine *engine, uint32_t i, unsigned thread) {
    struct pick *pick = &engine->picks[i];
    pick->failure = lorica_sampler_choose(
        &pick->sequence->sampler, &engine->model.vec, &engine->scratch[thread],
        lorica_forward_logits(engine->forward, i), engine->limits.arch->vocab, &pick->choice);
}

static void choose_all(void *arg, unsigned thread, unsigned threads) {
    struct lorica_engine *engine = arg;
    uint32_t begin, end;
    lorica_pool_range(engine->pick_count, thread, threads, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        choose_one(engine, i, thread);
}

/* Takes the choices in; returns how many tokens they brought. */
static uint32_t accept_choices(struct lorica_engine *engine) {
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < engine->pick_count; i++) {
        struct pick *pick = &engine->picks[i];
        pick->has_token = false;
        pick->finish =
            pick->failure ? LORICA_FINISH_ERROR
                          : lorica_sequence_accept(pick->sequence, &pick->choice, &pick->has_token);
        tokens += pick->has_token;
    }
    return tokens;
}

/* Events of a step. */
static void deliver(struct lorica_engine *engine) {
    for (uint32_t i = 0; i < engine->pick_count; i++) {
        const struct pick *pick = &engine->picks[i];
        const struct lorica_choice *choice = pick->has_token ? &pick->choice : NULL;
        if (pick->finish == LORICA_FINISH_NONE)
            lorica_sequence_emit(pick->sequence, choice, pick->finish);
        else
            retire(engine, pick->sequence, choice, pick->finish);
    }
}

static void run_step(struct lorica_engine *engine) {
    const uint32_t prompt_rows = build_batch(engine);
    if (engine->row_count == 0)
        return;
    lorica_forward_run(engine->forward, engine->rows, engine->row_count);
    if (engine->pick_count > 1)
        lorica_pool_run(engine->pool, choose_all, engine);
    else if (engine->pick_count == 1)
        choose_one(engine, 0, 0);
    const uint32_t tokens = accept_choices(engine);
    (void)pthread_mutex_lock(&engine->mutex);
    engine->stats.steps++;
    engine->stats.prompt_tokens += prompt_rows;
    engine->stats.completion_tokens += tokens;
    (void)pthread_mutex_unlock(&engine->mutex);
    deliver(engine);
}

/* Room for the ranks of adapters that have just come in; who cannot have it is refused. */
static void reserve_ranks(struct lorica_engine *engine) {
    for (uint32_t i = engine->stats.running; i-- > 0;) {
        struct lorica_sequence *s = engine->running[i];
        if (s->adapter &&
            lorica_forward_reserve_rank(engine->forward, s->adapter->max_rank, NULL) != 0)
            retire(engine, s, NULL, LORICA_FINISH_ERROR);
    }
}

static void *engine_main(void *arg) {
    struct lorica_engine *engine = arg;
    while (next_round(engine)) {
        reserve_ranks(engine);
        run_step(engine);
    }
    return NULL;
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
    return 0;
}

/* The lists that the engine thread works with. */
static int take_lists(struct lorica_engine *engine, struct lorica_error *err) {
    const uint32_t running = engine->options.max_running;
    const unsigned threads = lorica_pool_threads(engine->pool);
    engine->rows = calloc((size_t)running + engine->options.prefill_chunk, sizeof(*engine->rows));
    engine->picks = calloc(running, sizeof(*engine->picks));
    engine->running = calloc(running, sizeof(*engine->running));
    engine->scratch = calloc(threads, sizeof(*engine->scratch));
    if (!engine->rows || !engine->picks || !engine->running || !engine->scratch)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the engine");
    for (unsigned i = 0; i < threads; i++)
        if (lorica_sampler_scratch_init(&engine->scratch[i], engine->limits.arch->vocab) != 0)
            return lorica_fail(err, LORICA_ENOMEM, "no memory for the engine's sampler");
    return 0;
}

static int engine_prepare(struct lorica_engine *engine, const struct lorica_base *base,
                          struct lorica_error *err) {
    const struct lorica_engine_options *o = &engine->options;
    int rc = lorica_model_init(&engine->model, base, err);
    if (!rc)
        rc = lorica_kv_init(&engine->kv, &base->arch, LORICA_KV_BF16, o->kv_tokens, err);
    if (!rc)
        rc = lorica_pool_create(o->threads, &engine->pool, err);
    if (!rc)
        rc = lorica_forward_create(&engine->model, &engine->kv, engine->pool,
                                   o->max_running + o->prefill_chunk, o->max_running,
                                   &engine->forward, err);
    if (!rc)
        rc = take_lists(engine, err);
    if (rc)
        return rc;
    const uint64_t room = (uint64_t)engine->kv.pages * LORICA_KV_PAGE;
    engine->limits.tokens =
        room < base->arch.max_positions ? (uint32_t)room : base->arch.max_positions;
    engine->stats.kv_pages_total = engine->kv.pages;
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
    free(engine->running);
    free(engine->picks);
    free(engine->rows);
    lorica_forward_destroy(engine->forward);
    lorica_pool_destroy(engine->pool);
    lorica_kv_finish(&engine->kv);
    lorica_model_finish(&engine->model);
    (void)pthread_cond_destroy(&engine->wake);
    (void)pthread_mutex_destroy(&engine->mutex);
    free(engine);
}

/* Puts a sequence at the end of the queue. Under the mutex. */
static int enqueue(struct lorica_engine *engine, struct lorica_sequence *s,
                   struct lorica_error *err) {
    const struct lorica_engine_stats *stats = &engine->stats;
    if (engine->stop)
        return lorica_fail(err, LORICA_ECANCELED, "the engine is stopping");
    /* Who can start with the next step does not wait. */
    const uint32_t starting = engine->options.max_running - stats->running;
    if (stats->waiting >= engine->options.max_waiting + starting)
        return lorica_fail(err, LORICA_EBUSY, "%u requests are waiting already: try again later",
                           stats->waiting);
    s->id = ++engine->last_id;
    if (engine->last_waiting)
        engine->last_waiting->next = s;
    else
        engine->first_waiting = s;
    engine->last_waiting = s;
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
    for (uint32_t i = 0; i < engine->stats.running; i++)
        if (engine->running[i]->id == id)
            atomic_store(&engine->running[i]->cancelled, true);
    for (struct lorica_sequence *s = engine->first_waiting; s; s = s->next)
        if (s->id == id)
            atomic_store(&s->cancelled, true);
    (void)pthread_mutex_unlock(&engine->mutex);
}

void lorica_engine_stats(struct lorica_engine *engine, struct lorica_engine_stats *ret) {
    (void)pthread_mutex_lock(&engine->mutex);
    *ret = engine->stats;
    (void)pthread_mutex_unlock(&engine->mutex);
}
