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
#include "runtime/sampler.h"

struct lorica_sequence {
    uint64_t id;
    struct lorica_sequence *next; /**< in the waiting queue */
    atomic_bool cancelled;
    int32_t *prompt; /**< owned */
    uint32_t prompt_count;
    struct lorica_adapter *adapter;  /**< own reference, or NULL */
    struct lorica_sampling sampling; /**< bias is `bias`; stop strings are in `text` */
    struct lorica_logit_bias *bias;  /**< owned */
    lorica_engine_event_fn on_event;
    void *user;
    uint32_t *pages; /**< owned list of page numbers, valid while `has_pages` */
    uint32_t page_count;
    bool has_pages;
    uint32_t position;   /**< tokens whose keys and values are in the cache */
    int32_t token;       /**< chosen last, to be fed next */
    uint32_t completion; /**< tokens generated */
    struct lorica_sampler sampler;
    struct lorica_outtext text;
};

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

/** Takes a choice in: counts it, makes its text, and says whether the sequence goes on. *ret_token
 * is false when the choice only ends the text and is not part of it. */
enum lorica_finish lorica_sequence_accept(struct lorica_sequence *sequence,
                                          const struct lorica_choice *choice, bool *ret_token);

#endif
