/* SPDX-License-Identifier: MIT
 * Attention of one query row over a paged bfloat16 key/value cache, for the query heads that share
 * one key/value head. Causal by construction: the caller says how many positions are visible. */
#ifndef LORICA_KERNELS_ATTN_H
#define LORICA_KERNELS_ATTN_H

#include <stddef.h>
#include <stdint.h>

/** Tokens in one page of the cache. */
#define LORICA_KV_PAGE 16

/** Where the keys and values of one (layer, key/value head) lie: position p is in page
 * pages[p / LORICA_KV_PAGE], at row p % LORICA_KV_PAGE:
 * keys + pages[..] * page_stride + row * head_dim (bf16 bits), values likewise. */
struct lorica_kv_view {
    const uint16_t *keys, *values; /**< borrowed; already offset to layer and head */
    size_t page_stride;            /**< in elements */
    const uint32_t *pages;         /**< borrowed */
    uint32_t head_dim;             /**< any; a multiple of 8 is fast */
};

/** out[h * head_dim + d] = softmax(scale * q_h . K) V over positions [0, length), length >= 1, for
 * `heads` query heads q[h * head_dim + d]. scratch: heads * (length rounded up to 16) floats.
 * Results depend on these arguments only, and a head's on its own query, not on how many heads one
 * call is given. */
typedef void (*lorica_attn_fn)(float *out, const float *q, uint32_t heads,
                               const struct lorica_kv_view *kv, uint32_t length, float scale,
                               float *scratch);

struct lorica_attn_kernels {
    lorica_attn_fn attend;
};

/** Fills the table for lorica_cpu_level(). */
void lorica_attn_kernels_init(struct lorica_attn_kernels *kernels);

#endif
