/* SPDX-License-Identifier: MIT
 * The serving engine: continuous batching over one base, any mix of adapters in one batch.
 * One engine thread drives a team (pool.h); requests come in through a bounded queue and their
 * tokens go out through a callback on that thread. */
#ifndef LORICA_RUNTIME_ENGINE_H
#define LORICA_RUNTIME_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/attn.h"
#include "proto/err.h"
#include "runtime/adapter.h"
#include "runtime/base.h"
#include "runtime/tokenizer.h"

struct lorica_engine;

struct lorica_engine_options {
    unsigned threads;                /**< 0: one per core */
    enum lorica_kv_format kv_format; /**< how the key/value cache holds its values */
    uint32_t kv_tokens;              /**< capacity of the key/value cache over all sequences */
    uint32_t max_running;            /**< sequences in one batch */
    uint32_t max_waiting;            /**< queue length; over it submit returns LORICA_EBUSY */
    uint32_t prefill_chunk;          /**< prompt tokens per step at most */
    size_t prefix_bytes; /**< of key/value pages that are kept for prompts that begin alike;
                              0: none are, and none are shared */
    double step_seconds; /**< how long prompts may make a step that answers wait for; 0: as long
                              as their chunk takes */
    enum lorica_speculation {
        LORICA_SPECULATE_WHERE_IT_PAYS, /**< by what steps take and how often guesses are right */
        LORICA_SPECULATE_NEVER,
        LORICA_SPECULATE_ALWAYS, /**< wherever there is something to guess by: for tests */
    } speculation;               /**< guessing ahead (draft.h); no answer depends on it */
};

/** Sensible values: all cores, 32768 tokens of cache, 64 running, 256 waiting, chunks of 128,
 * 128 MiB of pages kept, steps of 40 ms, guessing where it pays. */
void lorica_engine_default_options(struct lorica_engine_options *options);

/** How to choose tokens, and when to stop. OpenAI's meanings. */
struct lorica_sampling {
    float temperature; /**< 0: greedy */
    float top_p;       /**< 1: off */
    float min_p;       /**< 0: off */
    uint32_t top_k;    /**< 0: off */
    float presence_penalty, frequency_penalty;
    uint64_t seed;
    uint32_t max_tokens; /**< >= 1 */
    bool ignore_eos;
    int top_logprobs; /**< -1: no logprobs; 0..20 alternatives otherwise */
    const struct lorica_logit_bias {
        int32_t id;
        float bias;
    } * logit_bias; /**< copied at submit */
    size_t logit_bias_count;
    const char *const *stop; /**< up to 4 strings; copied at submit; not part of the output */
    size_t stop_count;
};

enum lorica_finish {
    LORICA_FINISH_NONE,      /**< goes on */
    LORICA_FINISH_STOP,      /**< end token or stop string */
    LORICA_FINISH_LENGTH,    /**< max_tokens, or the model's length */
    LORICA_FINISH_CANCELLED, /**< lorica_engine_cancel or engine stop */
    LORICA_FINISH_ERROR,     /**< numeric failure (NaN logits): never a made-up token */
};

struct lorica_token_logprob {
    int32_t id;
    float logprob;
};

/** What one step brought to one request. Borrowed: valid during the callback only. */
struct lorica_engine_event {
    const char *text; /**< whole UTF-8 characters that are certain now (may be empty: held back for
                         a split character or a possible stop string) */
    size_t text_len;
    int32_t token; /**< -1 with a finish that brought no token */
    float logprob; /**< of the token, from the raw distribution, when asked for */
    const struct lorica_token_logprob *top; /**< top_logprobs of them */
    enum lorica_finish finish;
    uint32_t prompt_tokens, completion_tokens; /**< so far */
    uint32_t cached_tokens; /**< of the prompt: keys and values that were there already */
};

/** Called on the engine thread. Must not block, and must not call the engine except cancel. Exactly
 * one event has finish != NONE, and it is the last. If submit returned an error it is never called.
 */
typedef void (*lorica_engine_event_fn)(void *user, const struct lorica_engine_event *event);

/** How much a client gets of what all want. Nobody gets nothing. */
enum lorica_priority {
    LORICA_PRIORITY_NORMAL,
    LORICA_PRIORITY_LOW,  /**< a quarter of normal */
    LORICA_PRIORITY_HIGH, /**< four times normal */
    LORICA_PRIORITY_COUNT
};

struct lorica_engine_request {
    const int32_t *prompt; /**< copied at submit; >= 1 token */
    size_t prompt_count;
    struct lorica_adapter
        *adapter;       /**< fast form, or NULL for the base; submit takes its own ref */
    const char *client; /**< who asks, to share fairly between all; copied; NULL: "" */
    enum lorica_priority priority;
    struct lorica_sampling sampling;
    lorica_engine_event_fn on_event;
    void *user;
};

/** Creates and starts. `base` and `tokenizer` are borrowed and must outlive the engine. */
int lorica_engine_create(const struct lorica_base *base, const struct lorica_tokenizer *tokenizer,
                         const struct lorica_engine_options *options, struct lorica_engine **ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;

/** Cancels what runs (each gets its last event), stops the thread, frees. NULL is accepted. */
void lorica_engine_destroy(struct lorica_engine *engine);

/** Queues a request; any thread. *ret_id names it for cancel. LORICA_EBUSY when the queue is full,
 * LORICA_EINVAL when prompt + max_tokens can never fit (the sentence says the limit), or an id is
 * outside the vocabulary. The first event may come before submit returns. */
int lorica_engine_submit(struct lorica_engine *engine, const struct lorica_engine_request *request,
                         uint64_t *ret_id, struct lorica_error *err) LORICA_MUSTCHECK;

/** Ends a request before its next step; any thread; its last event still comes. Unknown or finished
 * ids are ignored. */
void lorica_engine_cancel(struct lorica_engine *engine, uint64_t id);

#define LORICA_ENGINE_TIMES 16

/** A histogram of times. */
struct lorica_engine_times {
    uint64_t buckets[LORICA_ENGINE_TIMES + 1]; /**< not cumulative; the last: above all bounds */
    double sum;
    uint64_t count;
};

/** Upper bound of a bucket in seconds: 0.5 ms, then twice as much each. */
double lorica_engine_times_bound(unsigned bucket);

/** Figures for /metrics. */
struct lorica_engine_stats {
    uint32_t running, waiting;
    uint32_t kv_pages_used;  /**< that sequences have */
    uint32_t kv_pages_idle;  /**< that are only kept */
    uint32_t kv_pages_total; /**< in all */
    uint64_t prompt_tokens;  /**< computed; what preemption makes computed again counts again */
    uint64_t cached_tokens;  /**< of prompts: found in the prefix cache */
    uint64_t evicted_pages;  /**< kept pages that were dropped for others */
    uint64_t completion_tokens, steps, finished, cancelled, preempted;
    uint64_t drafted_tokens, accepted_tokens; /**< guessed ahead, and of these right */
    struct lorica_engine_times queue;         /**< from submit to the first step */
    struct lorica_engine_times step;          /**< of a step */
    struct lorica_engine_times between;       /**< from one token of an answer to its next */
};
void lorica_engine_stats(struct lorica_engine *engine, struct lorica_engine_stats *ret);

/** The fast forward without the scheduler, for `eval` and benchmarks: logits[count][vocab] of one
 * token sequence, computed exactly as serving computes them in prefill. */
int lorica_engine_logits(const struct lorica_base *base, struct lorica_adapter *adapter,
                         enum lorica_kv_format kv_format, unsigned threads, const int32_t *ids,
                         size_t count, float *logits, struct lorica_error *err) LORICA_MUSTCHECK;

#endif
