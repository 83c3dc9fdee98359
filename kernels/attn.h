/* SPDX-License-Identifier: MIT
 * Attention over a paged key/value cache: softmax(scale * q K^T) V, causal, for query heads that
 * share a key/value head.
 *
 * Contract that serving stands on: a query's result depends on that query, its position and the
 * cached past alone, to the bit. It holds because keys are taken in spans of absolute position,
 * always in ascending order: a span gives a partial softmax of its own (its largest score, the sum
 * of its weights, the weighted sum of its values), and partial softmaxes are folded one after the
 * other. How many queries one call has, and which thread computes which spans, changes nothing. */
#ifndef LORICA_KERNELS_ATTN_H
#define LORICA_KERNELS_ATTN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Tokens in one page of the cache. */
#define LORICA_KV_PAGE 16

/** Keys that are folded at once: whole pages. */
#define LORICA_ATTN_SPAN 128

/** The largest head_dim. */
#define LORICA_ATTN_MAX_DIM 1024

/** How the cache holds keys and values. */
enum lorica_kv_format {
    LORICA_KV_BF16, /**< bfloat16; with AVX2 int16, with three floats for each token that say what
                       its steps are worth, which is closer */
    LORICA_KV_INT8, /**< int8, with one float32 scale for each key and one for each value */
    LORICA_KV_COUNT
};

/** "bf16", "int8". */
const char *lorica_kv_format_name(enum lorica_kv_format format);

/** Finds a format by its name. False for another word, and then *ret stays as it is. */
bool lorica_kv_format_find(const char *name, enum lorica_kv_format *ret);

/** Bytes of one page of one (layer, key/value head), keys and values together; a multiple of 64. It
 * depends on lorica_cpu_level(), as the tables do.
 * What is inside is the kernels' own matter: pages are copied and shared whole. */
size_t lorica_kv_page_nbytes(enum lorica_kv_format format, uint32_t head_dim);

/** Writes the key and the value, head_dim floats each, of token `slot` (< LORICA_KV_PAGE) of a
 * page. A NaN makes the results of those who see it NaN. Other slots are not
 * touched, so threads may write different slots of one page. */
typedef void (*lorica_kv_put_fn)(void *page, uint32_t slot, const float *key, const float *value,
                                 uint32_t head_dim);

/** Where the keys and values of one (layer, key/value head) of a sequence lie: position p is slot
 * p % LORICA_KV_PAGE of the page at cells + pages[p / LORICA_KV_PAGE] * page_nbytes. */
struct lorica_kv_view {
    const uint8_t *cells; /**< borrowed; 64-byte aligned */
    size_t page_nbytes;
    const uint32_t *pages; /**< borrowed; those of positions that no query sees are not read */
    uint32_t head_dim;     /**< a multiple of 64 is fastest, of 16 fast */
};

/** Queries of one key/value head: `rows` consecutive positions of a sequence, `heads` of each. */
struct lorica_attn_queries {
    const float *q;    /**< query h of row r is q[r * stride + h * head_dim] */
    size_t stride;     /**< in floats */
    uint32_t rows;     /**< >= 1 */
    uint32_t heads;    /**< >= 1 */
    uint32_t position; /**< of row 0; row r sees the positions [0, position + r] */
    float scale;       /**< of the scores */
};

/** Floats of one query's partial softmax: opaque. 64-byte aligned arrays of them are passed, that
 * of query h of row r at r * heads + h. */
static inline size_t lorica_attn_state_count(uint32_t head_dim) {
    return 16 + ((size_t)head_dim + 15) / 16 * 16;
}

/** Number of spans that a query at `position` sees. */
static inline uint32_t lorica_attn_spans(uint32_t position) {
    return position / LORICA_ATTN_SPAN + 1;
}

/** Folds the spans [span0, span1) that each query sees into its state; with `fresh` the states
 * begin with span0, else they hold all spans before it. Queries that do not see a span keep their
 * state. */
typedef void (*lorica_attn_fn)(float *states, bool fresh, const struct lorica_attn_queries *queries,
                               const struct lorica_kv_view *kv, uint32_t span0, uint32_t span1);

/** Folds into the states, which hold the spans before `span`, what a fresh attend over `span`
 * alone has put into `parts`: the same bits as attend over it. */
typedef void (*lorica_attn_fold_fn)(float *states, const float *parts,
                                    const struct lorica_attn_queries *queries, uint32_t head_dim,
                                    uint32_t span);

/** The results of complete states: out[r * stride + h * head_dim + d], stride that of `queries`. */
typedef void (*lorica_attn_finish_fn)(float *out, const float *states,
                                      const struct lorica_attn_queries *queries, uint32_t head_dim);

struct lorica_attn_kernels {
    lorica_kv_put_fn put[LORICA_KV_COUNT];
    lorica_attn_fn attend[LORICA_KV_COUNT];
    lorica_attn_fold_fn fold;
    lorica_attn_finish_fn finish;
};

/** Fills the table for lorica_cpu_level(). */
void lorica_attn_kernels_init(struct lorica_attn_kernels *kernels);

#endif
