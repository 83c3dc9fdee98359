/* SPDX-License-Identifier: MIT
 * How a page of the key/value cache lies in memory, so that both products take their operands as
 * they are: lanes are tokens for the scores, columns for the weighted sum, and neighbours in the
 * direction of the sum share a 32-bit lane. Private to this folder.
 *
 *   bf16  keys    [ceil(dim / 2)][16 tokens][2]: columns 2i and 2i + 1 of each token; where dim is
 *                 odd, the last is 0
 *         values  [16 / 2 tokens][columns][2]: tokens 2i and 2i + 1 of each column; columns are dim
 *                 rounded up to 16, what is past dim is never used */
#ifndef LORICA_KERNELS_ATTN_PAGE_H
#define LORICA_KERNELS_ATTN_PAGE_H

#include "kernels/attn.h"

static inline size_t lorica_kv_columns(uint32_t head_dim) {
    return ((size_t)head_dim + 15) / 16 * 16;
}

/** Bytes of the keys of a bf16 page, which its values follow. */
static inline size_t lorica_kv_bf16_keys(uint32_t head_dim) {
    return ((size_t)head_dim + 1) / 2 * 64;
}

/** Elements of a bf16 page: column d of the key, and of the value, of token `slot`. */
static inline uint16_t *lorica_kv_bf16_key(void *page, uint32_t slot, uint32_t d) {
    return (uint16_t *)page + (size_t)(d / 2) * 32 + (size_t)slot * 2 + d % 2;
}

static inline uint16_t *lorica_kv_bf16_value(void *page, uint32_t slot, uint32_t d,
                                             uint32_t head_dim) {
    return (uint16_t *)page + lorica_kv_bf16_keys(head_dim) / 2 +
           slot / 2 * 2 * lorica_kv_columns(head_dim) + (size_t)d * 2 + slot % 2;
}

/** The first row of `queries` that sees a span; the first that sees all of it. Either may be past
 * the last row. */
static inline uint32_t lorica_attn_first_row(const struct lorica_attn_queries *queries,
                                             uint32_t span) {
    const uint32_t start = span * LORICA_ATTN_SPAN;
    return start > queries->position ? start - queries->position : 0;
}

static inline uint32_t lorica_attn_whole_row(const struct lorica_attn_queries *queries,
                                             uint32_t span) {
    const uint32_t last = span * LORICA_ATTN_SPAN + LORICA_ATTN_SPAN - 1;
    return last > queries->position ? last - queries->position : 0;
}

/** Where a query and its state are. */
static inline const float *lorica_attn_query(const struct lorica_attn_queries *queries,
                                             uint32_t index, uint32_t head_dim) {
    return queries->q + index / queries->heads * queries->stride +
           (size_t)(index % queries->heads) * head_dim;
}

/** Parts of a state: its largest score, the sum of its weights, the weighted sum of the values. */
enum { LORICA_STATE_MAX, LORICA_STATE_SUM, LORICA_STATE_VALUES = 16 };

#endif
