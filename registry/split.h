/* SPDX-License-Identifier: MIT
 * Splits: a share of the traffic of an adapter's channel `stable` goes to another of its versions,
 * the canary, until someone ends it or the canary does worse by the split's own abort rule.
 *
 * An adapter has one split at most. Its EPOCH counts what was done to it, 1, 2, 3, ... for ever:
 * beginning, changing and ending it each count one, so that a change can be made on condition that
 * nothing happened in between. Each is one transaction with an audit record of kind SPLIT:
 * `version` is the canary (0: the split ended), `previous` what `stable` points to as the record is
 * written, `epoch` that of the split, and `detail`
 *
 *     {"before":TERMS,"after":TERMS}
 *
 * where TERMS is null or {"version":2,"share":500,"window_s":300,"min_requests":50,
 * "max_error_excess":200,"max_latency_ratio":150}, in this order and without spaces.
 *
 * A split is of `stable` as it is: a promote or rollback of `stable`, wherever to, ends it in the
 * same transaction, with the record of that end right behind the record of the move. Promoting the
 * canary is how a split succeeds. */
#ifndef LORICA_REGISTRY_SPLIT_H
#define LORICA_REGISTRY_SPLIT_H

#include "registry/registry.h"

/** Shares and error rates are in 1/10,000. */
#define LORICA_SPLIT_WHOLE 10000
#define LORICA_SPLIT_WINDOW_MIN 5 /**< seconds */
#define LORICA_SPLIT_WINDOW_MAX 86400
#define LORICA_SPLIT_REQUESTS_MAX 2000 /**< so many of each side are remembered */
#define LORICA_SPLIT_LATENCY_MIN 101   /**< percent */
#define LORICA_SPLIT_LATENCY_MAX 10000

/** What a split is: who gets how much, and when the canary is taken off by itself. The figures are
 * those of requests that the split decided, over the last `window_s` seconds. */
struct lorica_split_terms {
    uint64_t version; /**< the canary; 0: no split, and the rest is 0 too */
    uint32_t share;   /**< of the requests, 1 to LORICA_SPLIT_WHOLE */
    uint32_t window_s;
    uint32_t min_requests;     /**< of an arm, before it is judged; at least 1 */
    uint32_t max_error_excess; /**< of failed requests above stable's rate; all: never by errors */
    /** Median time to the first token, and median time for each further token, in percent of
     * stable's. 0: never by latency. The median: one long prompt, or one pause of the machine, must
     * not end a split, and half of all answers must have become slower. */
    uint32_t max_latency_ratio;
};

/** Terms of a split for which nothing was said but version and share: 300 s, 50 requests, 2 % more
 * errors, half as slow again. */
struct lorica_split_terms lorica_split_defaults(uint64_t version, uint32_t share);

bool lorica_split_terms_equal(const struct lorica_split_terms *a,
                              const struct lorica_split_terms *b);

/** A split, or its absence (terms.version 0). */
struct lorica_split {
    char name[LORICA_NAME_MAX + 1];
    struct lorica_split_terms terms;
    uint64_t stable;              /**< version that `stable` points to; 0: nowhere */
    uint64_t epoch;               /**< 0: the adapter never had one */
    uint64_t seq;                 /**< audit record of its last change; 0: none */
    int64_t changed_ms;           /**< time of that */
    char by[LORICA_NAME_MAX + 1]; /**< and who made it */
    int64_t started_ms;           /**< since when this canary has a share; 0: it has none */
};

/** Begins a split or changes the one there is, if its epoch still is `expected_epoch` (0: there was
 * none ever); else LORICA_EPRECOND with the present epoch in the sentence. LORICA_EINVAL for terms
 * out of range; LORICA_ENOTFOUND for an unknown name or version; LORICA_ECONFLICT when `stable`
 * points nowhere or to the canary itself, or when the canary is for another base. */
int lorica_registry_split_set(struct lorica_registry *registry, const char *name,
                              const struct lorica_split_terms *terms, uint64_t expected_epoch,
                              const struct lorica_actor *actor, struct lorica_split *ret,
                              struct lorica_error *err) LORICA_MUSTCHECK;

/** Ends a split. `expected_epoch` (NULL: whatever it is) as above. LORICA_ECONFLICT when there is
 * none. */
int lorica_registry_split_end(struct lorica_registry *registry, const char *name,
                              const uint64_t *expected_epoch, const struct lorica_actor *actor,
                              struct lorica_split *ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** The split of a name; none is no error. LORICA_ENOTFOUND for an unknown name. */
int lorica_registry_split_get(struct lorica_registry *registry, const char *name,
                              struct lorica_split *ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Whether a split decided which version answers, and how. */
enum lorica_split_arm {
    LORICA_SPLIT_NONE, /**< there is no split, or the reference names no split channel */
    LORICA_SPLIT_STABLE,
    LORICA_SPLIT_CANARY,
};
struct lorica_split_choice {
    enum lorica_split_arm arm;
    struct lorica_split_terms terms; /**< unless arm is NONE, as are the following */
    uint64_t stable;                 /**< version of the stable arm */
    uint64_t epoch;                  /**< of the split */
};

/** As lorica_registry_resolve, and a split is obeyed: `name` and `name:stable`, which mean the
 * same, answer with the canary for a share of all `sticky` texts (who asks: a user, a key; any
 * bytes). `name@3` and other channels are never split. The same text gets the same answer as long
 * as the canary is the same, whatever else changes: whoever has the canary keeps it when the share
 * grows, and whoever does not have it gains nothing when it shrinks. The next canary's share is
 * drawn anew, so that it is not always the same who go first. *ret_choice (may be NULL) says how.
 */
int lorica_registry_resolve_for(struct lorica_registry *registry, const char *reference,
                                const void *sticky, size_t sticky_len, struct lorica_version *ret,
                                struct lorica_split_choice *ret_choice,
                                struct lorica_error *err) LORICA_MUSTCHECK;

/** Where a text stands on the scale from 0 to LORICA_SPLIT_WHOLE - 1; below the share is the
 * canary. It is h * 10000 / 2^32, where h is the first four bytes, big-endian, of
 * SHA-256(name, NUL, the canary's number in decimal, NUL, SHA-256(sticky)). */
int lorica_split_place(const char *name, uint64_t version, const void *sticky, size_t sticky_len,
                       uint32_t *ret) LORICA_MUSTCHECK;

#endif
