/* SPDX-License-Identifier: MIT
 * Who comes next. Clients (API keys) share the engine by the tokens they were served, and what a
 * client gets its adapters share likewise: a counter each, and the lowest comes first (Sheng et
 * al., "Fairness in Serving Large Language Models", 2024). Priority is a weight: a client of high
 * priority is charged less for the same tokens, so that nobody starves, and it is the one that
 * gives way last.
 *
 * Who was away comes back with the lowest counter of those who are there, if its own is lower:
 * idle time is no credit. Not thread-safe: the engine thread alone uses it. */
#ifndef LORICA_RUNTIME_SCHED_H
#define LORICA_RUNTIME_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/sequence.h"

/** What a client is charged: an output token costs more than one of a prompt. */
#define LORICA_COST_PROMPT 1
#define LORICA_COST_OUTPUT 2

struct lorica_sched_client;

struct lorica_sched {
    struct lorica_sched_client *clients; /**< private */
    double floor;                        /**< private: the lowest counter of those present */
    uint32_t waiting;                    /**< sequences in the queues */
};

/** Frees what is known of clients. No sequence may be in it. A zeroed struct is an empty one. */
void lorica_sched_finish(struct lorica_sched *sched);

/** A new sequence: it waits at the end of its queue. LORICA_ENOMEM: it is not in. */
int lorica_sched_join(struct lorica_sched *sched, struct lorica_sequence *s) LORICA_MUSTCHECK;
/** A sequence that waits or runs is over. */
void lorica_sched_leave(struct lorica_sched *sched, struct lorica_sequence *s);

/** The waiting sequence whose turn it is, or NULL. It goes on waiting. */
struct lorica_sequence *lorica_sched_next(const struct lorica_sched *sched);
/** Some waiting sequence that was cancelled (any at all with `all`), or NULL. */
struct lorica_sequence *lorica_sched_cancelled(const struct lorica_sched *sched, bool all);
/** A waiting sequence runs from now on. */
void lorica_sched_start(struct lorica_sched *sched, struct lorica_sequence *s);
/** A running sequence waits again, first in its queue. */
void lorica_sched_return(struct lorica_sched *sched, struct lorica_sequence *s);

/** Charges for tokens: their number times LORICA_COST_*. */
void lorica_sched_charge(struct lorica_sequence *s, uint32_t cost);

/** True when running `a` is served before running `b`. A strict order. */
bool lorica_sched_before(const struct lorica_sequence *a, const struct lorica_sequence *b);
/** True when running `a` gives way before running `b`: lower priority, then more running sequences
 * of the client, then admitted later. A strict order. */
bool lorica_sched_yields(const struct lorica_sequence *a, const struct lorica_sequence *b);
/** True when running `a` may be made to wait so that waiting `b` can run: `b` has a higher
 * priority, or its client would still have fewer running than that of `a`. */
bool lorica_sched_displaces(const struct lorica_sequence *b, const struct lorica_sequence *a);

#endif
