/* SPDX-License-Identifier: MIT
 * Inside of the engine. Its thread alone owns the sequences' state, the scheduler, the pages and
 * the forward; `mutex` guards what comes in and the figures that go out. */
#ifndef LORICA_RUNTIME_ENGINE_PRIVATE_H
#define LORICA_RUNTIME_ENGINE_PRIVATE_H

#include <pthread.h>

#include "runtime/draft.h"
#include "runtime/engine.h"
#include "runtime/forward.h"
#include "runtime/kv.h"
#include "runtime/model.h"
#include "runtime/pace.h"
#include "runtime/pool.h"
#include "runtime/prefix.h"
#include "runtime/sampler.h"
#include "runtime/sched.h"
#include "runtime/sequence.h"

/** Guessed tokens of one step over all sequences. */
#define LORICA_ENGINE_DRAFTS 32

/** A sequence that gets tokens from the present step: one, and one more for each guess that was
 * right. */
struct lorica_pick {
    struct lorica_sequence *sequence;
    uint32_t first, count; /**< its rows among those that want logits: its last token and guesses */
    int32_t draft[LORICA_DRAFT_MAX];
    uint32_t chosen; /**< choices that stand: choices[first..first + chosen) */
    int failure;     /**< of the sampler, after these */
};

struct lorica_engine {
    struct lorica_engine_options options;
    struct lorica_sequence_limits limits;
    struct lorica_model model;
    struct lorica_kv kv;
    struct lorica_prefix prefix;
    struct lorica_pool *pool;
    struct lorica_forward *forward;
    struct lorica_sampler_scratch *scratch; /**< one for each thread */
    pthread_t thread;
    bool started;

    /* The engine thread's: */
    struct lorica_sched sched;
    struct lorica_sequence **running; /**< [max_running] */
    struct lorica_sequence **queue;   /**< [max_running]: of a step, who has prompt to compute */
    struct lorica_row *rows;
    struct lorica_pick *picks;
    struct lorica_choice *choices;  /**< one for each row that wants logits */
    struct lorica_pace pace;        /**< of all steps, by their work */
    struct lorica_pace decode_pace; /**< of those without prompts, by their rows */
    double work, work_limit;        /**< of the present step; when prompts stop being added */
    double position_work;           /**< of one position that attention reads, in rows of work */
    uint32_t running_count, row_count, pick_count, logits_count;
    uint64_t admissions;
    struct lorica_engine_stats figures;

    /* Guarded by mutex: */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop;
    uint64_t last_id;
    struct lorica_sequence *first_new, *last_new; /**< submitted, not seen by the thread yet */
    struct lorica_sequence *live;                 /**< all that have not ended */
    uint32_t live_count;
    struct lorica_engine_stats stats; /**< the figures as they are shown */
};

/** Ends a sequence of the scheduler: its pages go back, its last event comes, it is freed. */
void lorica_engine_retire(struct lorica_engine *engine, struct lorica_sequence *s,
                          const struct lorica_choice *choice, enum lorica_finish finish);

/** Makes a running sequence wait: its pages go back, and what it has computed is computed again,
 * as far as it is not found in the prefix cache. Nothing of its answer is lost or said again. */
void lorica_engine_preempt(struct lorica_engine *engine, struct lorica_sequence *s);

/** Takes the pages that a sequence needs next and that are shared already, up to that of its last
 * token, which is always computed: its logits are needed. Returns how many came. */
uint32_t lorica_engine_adopt(struct lorica_engine *engine, struct lorica_sequence *s);

/** Goes on behind the shared pages, and counts what need not be computed for that. */
void lorica_engine_skip_shared(struct lorica_engine *engine, struct lorica_sequence *s);

/** The monotonic clock, in seconds. */
double lorica_engine_now(void);

/** Counts a time. */
void lorica_engine_time(struct lorica_engine_times *times, double seconds);

/** Shows the figures. */
void lorica_engine_show(struct lorica_engine *engine);

/** Computes one batch of tokens for the running sequences. */
void lorica_engine_step(struct lorica_engine *engine);

#endif
