/* SPDX-License-Identifier: MIT
 * One request inside the engine: its own copies of what was submitted, its place in the cache, and
 * how far it has come. */
#ifndef LORICA_RUNTIME_SEQUENCE_H
#define LORICA_RUNTIME_SEQUENCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/engine.h"
#include "runtime/outtext.h"
#include "runtime/prefix.h"
#include "runtime/sampler.h"

struct lorica_sched_flow;

struct lorica_sequence {
    uint64_t id;
    struct lorica_sequence *next;                  /**< in a queue */
    struct lorica_sequence *live_prev, *live_next; /**< among all that the engine has */
    atomic_bool cancelled;
    int32_t *tokens; /**< owned: the prompt, then what was generated */
    uint32_t prompt_count, count;
    uint32_t position; /**< tokens whose keys and values are in the cache; the rest is to be fed */
    uint32_t reached;  /**< the largest position so far: preemption sets the other one back */
    uint32_t cached;   /**< of the prompt: found in the prefix cache */
    struct lorica_adapter *adapter;  /**< own reference, or NULL */
    struct lorica_sampling sampling; /**< bias is `bias`; stop strings are in `text` */
    struct lorica_logit_bias *bias;  /**< owned */
    lorica_engine_event_fn on_event;
    void *user;
    struct lorica_page_table pages;
    char *client; /**< owned */
    enum lorica_priority priority;
    struct lorica_sched_flow *flow; /**< the scheduler's, while it waits or runs */
    bool running;                   /**< the scheduler's: else it waits */
    uint64_t admission;             /**< its number among all that were let in; 0: it never was */
    uint64_t fed;                   /**< the last step that it had rows in */
    double submitted, last_token;   /**< times of the monotonic clock; 0: none yet */
    float acceptance;               /**< sliding share of guessed tokens that were right */
    struct lorica_sampler sampler;
    struct lorica_outtext text;
};

/** Tokens generated. */
static inline uint32_t lorica_sequence_completion(const struct lorica_sequence *s) {
    return s->count - s->prompt_count;
}

/** True when only the last token is to be fed: each step brings a new one. */
static inline bool lorica_sequence_generates(const struct lorica_sequence *s) {
    return s->position + 1 == s->count;
}

/** What bounds a request. */
struct lorica_sequence_limits {
    const struct lorica_arch *arch;           /**< borrowed */
    const struct lorica_tokenizer *tokenizer; /**< borrowed, by the sequence too */
    uint32_t tokens;                          /**< the most of prompt and answer together */
};

/** Checks a request and copies it. LORICA_EINVAL with a sentence for what can never be served. */
int lorica_sequence_create(const struct lorica_sequence_limits *limits,
                           const struct lorica_engine_request *request,
                           struct lorica_sequence **ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees, and gives the adapter's reference back; pages must be given back before. NULL is
 * accepted. */
void lorica_sequence_destroy(struct lorica_sequence *sequence);

/** Calls on_event with the present counts, `text.out` and what is given. `choice` may be NULL. */
void lorica_sequence_emit(struct lorica_sequence *sequence, const struct lorica_choice *choice,
                          enum lorica_finish finish);

/** Takes a choice in: appends it, makes its text, and says whether the sequence goes on. *ret_token
 * is false when the choice only ends the text and is not part of it. */
enum lorica_finish lorica_sequence_accept(struct lorica_sequence *sequence,
                                          const struct lorica_choice *choice, bool *ret_token);

#endif
