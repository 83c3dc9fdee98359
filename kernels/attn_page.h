/* SPDX-License-Identifier: MIT
 * How a page of the key/value cache lies in memory, so that both products take their operands as
 * they are: lanes are tokens for the scores, columns for the weighted sum, and neighbours in the
 * direction of the sum share a 32-bit lane. Private to this folder.
 *
 *   bf16  keys    [ceil(dim / 2)][16 tokens][2]: columns 2i and 2i + 1 of each token; where dim is
 *                 odd, the last is 0
 *         values  [16 / 2 tokens][columns][2]: tokens 2i and 2i + 1 of each column; columns are dim
 *                 rounded up to 16, what is past dim is never used
 *
 * AVX2, which multiplies int16 twice as fast as floats, holds int16 instead, and behind them, for
 * each token, what one step of its key is worth; the logarithm to base 2 of what 4095 steps of its
 * value are; and how much of its weight in the sum a step of its value's weight is. */
#ifndef LORICA_KERNELS_ATTN_PAGE_H
#define LORICA_KERNELS_ATTN_PAGE_H

#include "kernels/attn.h"

static inline size_t lorica_kv_columns(uint32_t head_dim) {
    return ((size_t)head_dim + 15) / 16 * 16;
}

/** Elements that share a lane. */
static inline uint32_t lorica_kv_group(enum lorica_kv_format format) {
    return format == LORICA_KV_INT8 ? 4 : 2;
}

/** Bytes of the scales of keys, or of values. */
#define LORICA_KV_SCALES_NBYTES (LORICA_KV_PAGE * sizeof(float))

/** Bytes of the codes of keys, which with int8 their scales follow; and then the codes of values.
 */
static inline size_t lorica_kv_keys(enum lorica_kv_format format, uint32_t head_dim) {
    const uint32_t group = lorica_kv_group(format);
    return ((size_t)head_dim + group - 1) / group * 64;
}

/** Where the codes of values begin in a page. */
static inline size_t lorica_kv_values_at(enum lorica_kv_format format, uint32_t head_dim) {
    return lorica_kv_keys(format, head_dim) +
           (format == LORICA_KV_INT8 ? LORICA_KV_SCALES_NBYTES : 0);
}

/** Bytes of the keys and values of a page of pairs. */
static inline size_t lorica_kv_pairs_nbytes(uint32_t head_dim) {
    return lorica_kv_keys(LORICA_KV_BF16, head_dim) +
           LORICA_KV_PAGE / 2 * lorica_kv_columns(head_dim) * 4;
}

/** Where the scales of keys lie in a page, and where those of values do; with bf16 AVX2's alone. */
static inline size_t lorica_kv_key_scales_at(enum lorica_kv_format format, uint32_t head_dim) {
    return format == LORICA_KV_INT8 ? lorica_kv_keys(format, head_dim)
                                    : lorica_kv_pairs_nbytes(head_dim);
}

static inline size_t lorica_kv_value_scales_at(enum lorica_kv_format format, uint32_t head_dim) {
    return format == LORICA_KV_INT8 ? lorica_kv_values_at(format, head_dim) +
                                          lorica_kv_columns(head_dim) * LORICA_KV_PAGE
                                    : lorica_kv_pairs_nbytes(head_dim) + LORICA_KV_SCALES_NBYTES;
}

/** Where int16 pages have the shares, which are the last of them. */
static inline size_t lorica_kv_value_shares_at(uint32_t head_dim) {
    return lorica_kv_value_scales_at(LORICA_KV_BF16, head_dim) + LORICA_KV_SCALES_NBYTES;
}

/** Steps of a key's largest element in an int16 page. With half as many of a query's no sum of
 * head_dim products leaves 32 bits. */
static inline uint32_t lorica_kv_key_steps(uint32_t head_dim) {
    return head_dim <= 64 ? 8191 : head_dim <= 256 ? 4095 : 2047;
}

/** Steps of a value's, and of the largest weight of a span: no sum of a span leaves 32 bits. */
#define LORICA_KV_VALUE_STEPS 4095
#define LORICA_KV_WEIGHT_STEPS 4096

/** Elements of a page: column d of the key, and of the value, of token `slot`. */
static inline uint16_t *lorica_kv_bf16_key(void *page, uint32_t slot, uint32_t d) {
    return (uint16_t *)page + (size_t)(d / 2) * 32 + (size_t)slot * 2 + d % 2;
}

static inline uint16_t *lorica_kv_bf16_value(void *page, uint32_t slot, uint32_t d,
                                             uint32_t head_dim) {
    return (uint16_t *)((char *)page + lorica_kv_values_at(LORICA_KV_BF16, head_dim)) +
           slot / 2 * 2 * lorica_kv_columns(head_dim) + (size_t)d * 2 + slot % 2;
}

static inline int8_t *lorica_kv_int8_key(void *page, uint32_t slot, uint32_t d) {
    return (int8_t *)page + (size_t)(d / 4) * 64 + (size_t)slot * 4 + d % 4;
}

static inline int8_t *lorica_kv_int8_value(void *page, uint32_t slot, uint32_t d,
                                           uint32_t head_dim) {
    return (int8_t *)page + lorica_kv_values_at(LORICA_KV_INT8, head_dim) +
           slot / 4 * 4 * lorica_kv_columns(head_dim) + (size_t)d * 4 + slot % 4;
}

/** The scales of the keys, and of the values, of a page. */
static inline float *lorica_kv_key_scales(void *page, enum lorica_kv_format format,
                                          uint32_t head_dim) {
    return (float *)((char *)page + lorica_kv_key_scales_at(format, head_dim));
}

static inline float *lorica_kv_value_scales(void *page, enum lorica_kv_format format,
                                            uint32_t head_dim) {
    return (float *)((char *)page + lorica_kv_value_scales_at(format, head_dim));
}

/** The shares of an int16 page. */
static inline float *lorica_kv_value_shares(void *page, uint32_t head_dim) {
    return (float *)((char *)page + lorica_kv_value_shares_at(head_dim));
}

/** The first row of `queries` that sees a span; it may be past the last row. */
static inline uint32_t lorica_attn_first_row(const struct lorica_attn_queries *queries,
                                             uint32_t span) {
    const uint32_t start = span * LORICA_ATTN_SPAN;
    return start > queries->position ? start - queries->position : 0;
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
