/* SPDX-License-Identifier: MIT
 * Who has which page of the key/value cache, and the prefix cache: pages that were filled once are
 * found again by what they were computed from, and shared read-only.
 *
 *   space (base, adapter) <- page of tokens 0..15 <- page of tokens 16..31 <- ...
 *
 * A shared page is known by the space, the shared page before it and its own 16 tokens, all three
 * compared in full, so that by induction the whole text before it is part of its key; the hash only
 * finds candidates. A sequence that has a page has all pages before it too, and gives them back
 * last page first. Hence among pages that nobody has, a page is always idle for longer than the one
 * before it, and dropping the one that was idle longest never tears a chain.
 *
 * Not thread-safe: the engine thread alone uses it. One cache holds pages of one struct lorica_kv,
 * and so of one format. */
#ifndef LORICA_RUNTIME_PREFIX_H
#define LORICA_RUNTIME_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/digest.h"
#include "proto/err.h"
#include "runtime/kv.h"

/** What keys and values depend on besides the tokens. The adapter's digest covers its scale. */
struct lorica_prefix_key {
    struct lorica_digest base, adapter;
    bool adapted; /**< false: the base alone; `adapter` is zero then */
};

struct lorica_prefix_space;
struct lorica_prefix_node;

struct lorica_prefix {
    struct lorica_kv *kv;               /**< borrowed */
    struct lorica_prefix_node *nodes;   /**< private: [kv->pages], what each page holds */
    uint32_t *buckets;                  /**< private */
    uint32_t bucket_mask;               /**< private */
    uint64_t seed;                      /**< private: of the hash, different in every process */
    uint64_t hash_mask;                 /**< private: bits of the hash that count; tests clear it */
    struct lorica_prefix_space *spaces; /**< private */
    uint32_t oldest, newest;            /**< private: list of idle pages */
    uint32_t idle;                      /**< pages that are kept and that no sequence has */
    uint32_t max_idle;                  /**< the most of these; 0: no page is shared at all */
    uint64_t evicted;                   /**< idle pages that were dropped */
};

/** A cache over all pages of `kv`, of which at most `max_idle` are kept for nobody. Finish it. */
int lorica_prefix_init(struct lorica_prefix *prefix, struct lorica_kv *kv,
                       uint32_t max_idle) LORICA_MUSTCHECK;
/** Frees. No table may have pages. A zeroed struct is accepted. */
void lorica_prefix_finish(struct lorica_prefix *prefix);

/** Pages that can be had now: free ones, and idle ones that would be dropped. */
uint32_t lorica_prefix_available(const struct lorica_prefix *prefix);

/** The pages of one sequence: `shared` ones of the cache, then its own. */
struct lorica_page_table {
    uint32_t *pages; /**< owned: numbers, as the forward takes them */
    uint32_t capacity, count, shared;
    struct lorica_prefix_space *space; /**< private; NULL: shares nothing */
};

/** An empty table for at most `capacity` pages. */
int lorica_page_table_init(struct lorica_page_table *table, uint32_t capacity) LORICA_MUSTCHECK;
/** Frees; its pages must be given back before. A zeroed struct is accepted. */
void lorica_page_table_finish(struct lorica_page_table *table);

/** Lets a table share pages under a key; until then, and if memory is short, it shares none. */
void lorica_prefix_bind(struct lorica_prefix *prefix, struct lorica_page_table *table,
                        const struct lorica_prefix_key *key);

/** True when two tables share the same pages so far, under the same key. */
bool lorica_page_table_alike(const struct lorica_page_table *a, const struct lorica_page_table *b);

/** Looks for the table's next pages, as many as are there up to `limit` in all, and takes them in
 * place of its own. `tokens` is the sequence's text from its beginning, limit * LORICA_KV_PAGE of
 * them at least. Returns how many pages came. */
uint32_t lorica_prefix_adopt(struct lorica_prefix *prefix, struct lorica_page_table *table,
                             const int32_t *tokens, uint32_t limit);

/** Shares the table's own pages that are filled by the first `filled` tokens. Where the same page
 * is shared already it takes that one and gives its own back. */
void lorica_prefix_publish(struct lorica_prefix *prefix, struct lorica_page_table *table,
                           const int32_t *tokens, uint32_t filled);

/** Takes pages until the table has `count`, dropping idle ones as needed. LORICA_EBUSY, taking
 * none, when there are not enough. */
int lorica_prefix_reserve(struct lorica_prefix *prefix, struct lorica_page_table *table,
                          uint32_t count) LORICA_MUSTCHECK;

/** Gives all pages of a table back; the shared ones stay for others, as far as they may. */
void lorica_prefix_release(struct lorica_prefix *prefix, struct lorica_page_table *table);

#endif
