/* SPDX-License-Identifier: MIT
 * Attention as every instruction set does it: TILE queries against one span, in registers. A source
 * that includes this has defined before
 *
 *   LANES                  floats in a vec: 16, 8 or 4
 *   SCORE_PAGES(queries, format)   pages whose scores fit the registers at once: 1, 2 or 4
 *   GATHER_VECS(queries, format)   vecs of columns whose sums do: 16 / LANES times 1, 2 or 4
 *   vec, and on it: vec_zero() vec_set1(float) vec_load(at) vec_store(at, v) vec_add(a, b)
 *     vec_mul(a, b) vec_fma(a, b, c) = a * b + c, vec_fma_in_place(a, b, c): the same for sums that
 *     take all registers, vec_max(a, b), vec_exp2(v) = 2^v for v up to 1 or
 *     NaN, which is 0 for -infinity and off by at most 2^-126 where it is less than that,
 *     vec_top(v) the largest lane, vec_sum(v) the sum of the lanes, vec_byte(at, i): the signed
 *     bytes i = 0..3 of 32-bit lanes as floats
 *   PAIRS 0, and vec_low(at), vec_high(at): the low, or high, bf16 halves of 32-bit lanes as
 *     floats; or, where there is an instruction for pairs of bf16,
 *   PAIRS 1: queries and weights are rounded to pairs too, and there are vec_pairs(at) and
 *     vec_set1_pairs(uint32_t), a pair in each lane; vec_first(pairs), without the high halves;
 *     vec_dot(sum, a, b), which adds both products; and vec_round(uint32_t *to, const float *x, n,
 *     steps, top), pairs of n floats, the last with 0 where n is odd
 *   UNITS 1: the pairs are int16; vec_dot adds to lanes of int32, of which vec_total(sum) makes
 *     floats; vec_round makes `steps` of the largest magnitude, `top`, and returns what one is
 *     worth; top_of(x, n) is the largest magnitude of n floats, NaN when not all are finite;
 *     vec_steps(v) is LORICA_KV_WEIGHT_STEPS * 2^v for v up to 0 or NaN, as exact as vec_exp2;
 *     vec_put_steps(uint32_t *to, const vec *v) rounds those of a page to pairs; vec_part(v, n) is
 *     v with 0 behind its first n lanes. UNITS 0: they are bf16, and vec_round, which takes no
 *     notice of steps and top, returns 1
 *
 * Each sum is one chain, in the order of its index, whatever the tile: that makes results
 * independent of it. */
#ifndef LORICA_KERNELS_ATTN_TILE_H
#define LORICA_KERNELS_ATTN_TILE_H

#if defined(LANES)
#include <math.h>
#include <stdbool.h>

#include "kernels/attn_page.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define TILE 6
#define SPAN_PAGES (LORICA_ATTN_SPAN / LORICA_KV_PAGE)
#define PAGE_VECS (LORICA_KV_PAGE / LANES)
#define VECS (64 / LANES) /* what one query may have in registers */
/* Queries that are rounded once for all spans, and room for their pairs. */
#define GROUP_QUERIES 48
#define GROUP_PAIRS (TILE * LORICA_ATTN_MAX_DIM / 2)

/* One factor for each query of a tile and element of a sum, as floats or in pairs. */
struct factors {
    const float *real[TILE];
    const uint32_t *pairs[TILE];
    float units[TILE]; /* of the pairs, times the tile's scale */
};

/* Queries of one call that see keys of a span, and their states. */
struct tile {
    struct factors q;
    float *state[TILE];
    const uint8_t *pages[SPAN_PAGES];
    uint32_t visible[TILE]; /* keys of the span that each query sees, from its start; ascending */
    uint32_t least, most;   /* the first and the last of these */
    uint32_t head_dim;
    float scale; /* of scores whose power of 2 is the weight */
    bool begin;  /* the states begin with this span */
};

/* Element e of each lane. */
INLINE vec element(const uint8_t *at, uint32_t e, enum lorica_kv_format format) {
#if !PAIRS
    if (format == LORICA_KV_BF16)
        return e ? vec_high(at) : vec_low(at);
#endif
    return vec_byte(at, e);
}

/* True when pairs are int16. */
INLINE bool has_units(enum lorica_kv_format format) { return UNITS && format == LORICA_KV_BF16; }

/* A sum of products of pairs. */
INLINE vec total(vec sum) {
#if UNITS
    return vec_total(sum);
#else
    return sum;
#endif
}

INLINE void clear(vec (*sums)[VECS], uint32_t vecs, uint32_t queries) {
    UNROLL
    for (uint32_t i = 0; i < queries; i++)
        UNROLL
    for (uint32_t v = 0; v < vecs; v++)
        sums[i][v] = vec_zero();
}

/* sums[i][v] += the products of element e, a constant after inlining, of lane `lane`, which lies at
 * at[v] + offset. */
INLINE void add_element(vec (*sums)[VECS], const uint8_t *const *at, size_t offset, uint32_t vecs,
                        const struct factors *f, uint32_t lane, uint32_t e, uint32_t queries,
                        enum lorica_kv_format format) {
    const uint32_t first = lorica_kv_group(format) * lane + e;
    /* Whichever operands are fewer stay in registers. */
    if (queries < vecs) {
        vec factor[TILE];
        UNROLL
        for (uint32_t i = 0; i < queries; i++)
            factor[i] = vec_set1(f->real[i][first]);
        UNROLL
        for (uint32_t v = 0; v < vecs; v++) {
            const vec x = element(at[v] + offset, e, format);
            UNROLL
            for (uint32_t i = 0; i < queries; i++)
                sums[i][v] = vec_fma_in_place(factor[i], x, sums[i][v]);
        }
        return;
    }
    vec x[VECS];
    UNROLL
    for (uint32_t v = 0; v < vecs; v++)
        x[v] = element(at[v] + offset, e, format);
    UNROLL
    for (uint32_t i = 0; i < queries; i++) {
        const vec factor = vec_set1(f->real[i][first]);
        UNROLL
        for (uint32_t v = 0; v < vecs; v++)
            sums[i][v] = vec_fma_in_place(factor, x[v], sums[i][v]);
    }
}

#if PAIRS
/* The same for both elements of a bf16 lane, or for the first alone. */
INLINE void add_pairs(vec (*sums)[VECS], const uint8_t *const *at, size_t offset, uint32_t vecs,
                      const struct factors *f, uint32_t lane, bool first, uint32_t queries) {
    vec_raw x[VECS];
    UNROLL
    for (uint32_t v = 0; v < vecs; v++)
        x[v] = first ? vec_first(vec_pairs(at[v] + offset)) : vec_pairs(at[v] + offset);
    UNROLL
    for (uint32_t i = 0; i < queries; i++) {
        const vec_raw factor = vec_set1_pairs(f->pairs[i][lane]);
        UNROLL
        for (uint32_t v = 0; v < vecs; v++)
            sums[i][v] = vec_dot(sums[i][v], factor, x[v]);
    }
}
#endif

/* Adds `count` products to each sum: of the factors from `first` on, and elements whose lanes lie
 * `stride` bytes apart from at[v] on. */
INLINE void products(vec (*sums)[VECS], const uint8_t *const *at, size_t stride, uint32_t vecs,
                     const struct factors *f, uint32_t first, uint32_t count, uint32_t queries,
                     enum lorica_kv_format format) {
    const uint32_t group = lorica_kv_group(format);
    uint32_t lane = first / group;
    size_t offset = 0;
#if PAIRS
    if (format == LORICA_KV_BF16) {
        for (; lane < (first + count) / group; lane++, offset += stride)
            add_pairs(sums, at, offset, vecs, f, lane, false, queries);
        if (count % group)
            add_pairs(sums, at, offset, vecs, f, lane, true, queries);
        return;
    }
#endif
    for (; lane < (first + count) / group; lane++, offset += stride) {
        UNROLL
        for (uint32_t e = 0; e < group; e++)
            add_element(sums, at, offset, vecs, f, lane, e, queries, format);
    }
    if (count % group > 0)
        add_element(sums, at, offset, vecs, f, lane, 0, queries, format);
    if (count % group > 1)
        add_element(sums, at, offset, vecs, f, lane, 1, queries, format);
    if (count % group > 2)
        add_element(sums, at, offset, vecs, f, lane, 2, queries, format);
}

/* What lies in the page of vec v of a tile's scores, `at` bytes behind its begin, for the keys of
 * that vec. */
INLINE vec of_keys(const struct tile *t, uint32_t v, size_t at) {
    return vec_load((const float *)(t->pages[v / PAGE_VECS] + at) + v % PAGE_VECS * LANES);
}

/* Keys that a query does not see get -infinity, from `from` on to the end of a page. */
INLINE void hide(float *scores, uint32_t from) {
    for (uint32_t i = from; i % LORICA_KV_PAGE; i++)
        scores[i] = -INFINITY;
}

/* Scores of the keys of `count` pages from `page` on: scores[i][key]. Where pairs are int16 they
 * are logarithms of what the codes of the values are multiplied with, the largest of which come
 * into tops[i]. */
INLINE void score(float (*scores)[LORICA_ATTN_SPAN], vec *tops, const struct tile *t,
                  uint32_t queries, uint32_t page, uint32_t count, enum lorica_kv_format format) {
    const size_t key_scales = lorica_kv_key_scales_at(format, t->head_dim);
    const size_t value_scales = lorica_kv_value_scales_at(format, t->head_dim);
    const uint32_t first = page * PAGE_VECS, vecs = count * PAGE_VECS;
    vec sums[TILE][VECS];
    const uint8_t *at[VECS];
    UNROLL
    for (uint32_t v = 0; v < vecs; v++)
        at[v] = t->pages[page + v / PAGE_VECS] + (size_t)(v % PAGE_VECS) * 4 * LANES;
    clear(sums, vecs, queries);
    /* A pair that is not full ends with 0, in the query as in the key. */
    const uint32_t dim = PAIRS && format == LORICA_KV_BF16 ? (t->head_dim + 1) & ~1u : t->head_dim;
    products(sums, at, 64, vecs, &t->q, 0, dim, queries, format);
    UNROLL
    for (uint32_t v = 0; v < vecs; v++)
        UNROLL
    for (uint32_t i = 0; i < queries; i++) {
        vec x = sums[i][v];
        if (format == LORICA_KV_INT8)
            x = vec_mul(x, of_keys(t, first + v, key_scales));
        if (has_units(format)) {
            x = vec_fma(vec_mul(total(x), of_keys(t, first + v, key_scales)),
                        vec_set1(t->q.units[i]), of_keys(t, first + v, value_scales));
            tops[i] = vec_max(x, tops[i]);
        }
        vec_store(scores[i] + (first + v) * LANES, x);
    }
}

/* The largest score of a query. */
INLINE float largest(const float *scores, uint32_t visible) {
    vec top = vec_set1(-INFINITY);
    for (uint32_t i = 0; i < visible; i += LANES)
        top = vec_max(vec_load(scores + i), top);
    return vec_top(top);
}

/* Scores of a query become weights 2^(scale * score - top), whose sum is returned; then they are
 * multiplied with the scales of the values. */
INLINE float weigh(float *scores, const struct tile *t, uint32_t visible, float top,
                   enum lorica_kv_format format) {
    const size_t scales = lorica_kv_value_scales_at(format, t->head_dim);
    const vec factor = vec_set1(t->scale), offset = vec_set1(-top);
    vec sum = vec_zero();
    for (uint32_t i = 0; i < visible; i += LANES) {
        vec e = vec_exp2(vec_fma(vec_load(scores + i), factor, offset));
        sum = vec_add(sum, e);
        if (format == LORICA_KV_INT8)
            e = vec_mul(e, of_keys(t, i / LANES, scales));
        vec_store(scores + i, e);
    }
    return vec_sum(sum);
}

/* What folding multiplies with, for up to 8 queries: states, and from ADD on parts. */
struct shares {
    float of[16];
};
#define ADD 8

/* Folds parts with these largest scores and sums into states, but for the values. */
INLINE struct shares fold_scores(float *const *state, const float *tops, const float *sums,
                                 uint32_t count) {
    struct shares f = {{0}};
    for (uint32_t i = 0; i < count; i++) {
        const float a = state[i][LORICA_STATE_MAX], top = a > tops[i] ? a : tops[i];
        f.of[i] = a - top;
        f.of[ADD + i] = tops[i] - top;
        state[i][LORICA_STATE_MAX] = top;
    }
    for (uint32_t i = 0; i < 16; i += LANES)
        vec_store(f.of + i, vec_exp2(vec_load(f.of + i)));
    for (uint32_t i = 0; i < count; i++)
        state[i][LORICA_STATE_SUM] = state[i][LORICA_STATE_SUM] * f.of[i] + sums[i] * f.of[ADD + i];
    return f;
}

/* values[i] of a state, folded. */
INLINE void fold_values(float *values, vec part, bool begin, float keep, float add) {
    vec_store(values,
              begin ? part
                    : vec_fma(vec_load(values), vec_set1(keep), vec_mul(part, vec_set1(add))));
}

/* Adds to the sums of each query what it sees of the keys from `key` on, `common` of which, whole
 * lanes, are done, up to the end of a page, at which at[] points. */
INLINE void gather_rest(vec (*sums)[VECS], const struct tile *t, const uint8_t *const *at,
                        size_t stride, uint32_t vecs, const struct factors *weights, uint32_t key,
                        uint32_t common, uint32_t queries, enum lorica_kv_format format) {
    const uint8_t *rest[VECS];
    UNROLL
    for (uint32_t v = 0; v < vecs; v++)
        rest[v] = at[v] + common / lorica_kv_group(format) * stride;
    UNROLL
    for (uint32_t i = 0; i < queries; i++) {
        const struct factors own = {.real = {weights->real[i]}, .pairs = {weights->pairs[i]}};
        const uint32_t seen =
            t->visible[i] < key + LORICA_KV_PAGE ? t->visible[i] : key + LORICA_KV_PAGE;
        if (seen > key + common)
            products(sums + i, rest, stride, vecs, &own, key + common, seen - key - common, 1,
                     format);
    }
}

/* The weighted sums of the values, in `vecs` vecs of columns from `column` on, folded into the
 * states. */
INLINE void gather(const struct tile *t, uint32_t queries, const struct factors *weights,
                   const struct shares *f, uint32_t column, uint32_t vecs,
                   enum lorica_kv_format format) {
    const uint32_t group = lorica_kv_group(format);
    const size_t stride = lorica_kv_columns(t->head_dim) * 4;
    const size_t first = lorica_kv_values_at(format, t->head_dim) + (size_t)column * 4;
    vec sums[TILE][VECS];
    clear(sums, vecs, queries);
    for (uint32_t key = 0; key < t->most; key += LORICA_KV_PAGE) {
        const uint8_t *at[VECS];
        UNROLL
        for (uint32_t v = 0; v < vecs; v++)
            at[v] = t->pages[key / LORICA_KV_PAGE] + first + (size_t)v * 4 * LANES;
        uint32_t common = t->least > key ? (t->least - key) / group * group : 0;
        /* Who does not see a key has 0 steps for it, and any code times 0 is 0. */
        common = common < LORICA_KV_PAGE && !has_units(format) ? common : LORICA_KV_PAGE;
        products(sums, at, stride, vecs, weights, key, common, queries, format);
        if (common < LORICA_KV_PAGE)
            gather_rest(sums, t, at, stride, vecs, weights, key, common, queries, format);
    }
    UNROLL
    for (uint32_t i = 0; i < queries; i++)
        UNROLL
    for (uint32_t v = 0; v < vecs; v++) {
        vec sum = sums[i][v];
        if (has_units(format))
            sum = vec_mul(total(sum),
                          vec_set1(1.0f / (LORICA_KV_WEIGHT_STEPS * LORICA_KV_VALUE_STEPS)));
        fold_values(t->state[i] + LORICA_STATE_VALUES + column + (size_t)v * LANES, sum, t->begin,
                    f->of[i], f->of[ADD + i]);
    }
}

/* What a tile's queries are given by its keys: weights, as floats or in pairs, their sums, and the
 * largest of their logarithms. */
struct weights {
    float real[TILE][LORICA_ATTN_SPAN] __attribute__((aligned(64)));
#if PAIRS
    uint32_t pairs[TILE][LORICA_ATTN_SPAN / 2] __attribute__((aligned(64)));
#endif
    float tops[TILE], sums[TILE];
};

INLINE void weigh_keys(struct weights *w, const struct tile *t, uint32_t queries,
                       enum lorica_kv_format format) {
    const uint32_t pages = (t->most + LORICA_KV_PAGE - 1) / LORICA_KV_PAGE;
    uint32_t page = 0;
    for (; page + SCORE_PAGES(queries, format) <= pages; page += SCORE_PAGES(queries, format))
        score(w->real, NULL, t, queries, page, SCORE_PAGES(queries, format), format);
    for (; SCORE_PAGES(queries, format) > 1 && page < pages; page++)
        score(w->real, NULL, t, queries, page, 1, format);
    UNROLL
    for (uint32_t i = 0; i < queries; i++) {
        hide(w->real[i], t->visible[i]);
        w->tops[i] = largest(w->real[i], t->visible[i]) * t->scale;
    }
    UNROLL
    for (uint32_t i = 0; i < queries; i++) {
        w->sums[i] = weigh(w->real[i], t, t->visible[i], w->tops[i], format);
#if PAIRS
        if (format == LORICA_KV_BF16)
            (void)vec_round(w->pairs[i], w->real[i], t->visible[i], 0, 0);
#endif
    }
}

#if UNITS
/* Logarithms of a query's weights become steps of the largest, 2^top; the sum of the weights as
 * they are without the values' scales. */
INLINE float weigh_steps(uint32_t *pairs, const float *scores, const struct tile *t,
                         uint32_t visible, uint32_t pages, float top) {
    const size_t shares = lorica_kv_value_shares_at(t->head_dim);
    const vec offset = vec_set1(-top);
    vec sum = vec_zero();
    for (uint32_t v = 0; v < pages * PAGE_VECS; v += PAGE_VECS) {
        vec steps[PAGE_VECS];
        UNROLL
        for (uint32_t i = 0; i < PAGE_VECS; i++) {
            const uint32_t key = (v + i) * LANES;
            vec share = of_keys(t, v + i, shares);
            if (visible < key + LANES)
                share = vec_part(share, visible > key ? visible - key : 0);
            steps[i] = vec_steps(vec_add(vec_load(scores + key), offset));
            sum = vec_fma(steps[i], share, sum);
        }
        vec_put_steps(pairs + v * LANES / 2, steps);
    }
    return vec_sum(sum);
}

/* As weigh_keys. Pages that all queries see are compared as their scores are made. */
INLINE void weigh_units(struct weights *w, const struct tile *t, uint32_t queries) {
    const enum lorica_kv_format format = LORICA_KV_BF16;
    const uint32_t pages = (t->most + LORICA_KV_PAGE - 1) / LORICA_KV_PAGE;
    const uint32_t whole = t->least / LORICA_KV_PAGE;
    vec tops[TILE], parts[TILE];
    uint32_t page = 0;
    UNROLL
    for (uint32_t i = 0; i < queries; i++)
        tops[i] = parts[i] = vec_set1(-INFINITY);
    for (; page + SCORE_PAGES(queries, format) <= whole; page += SCORE_PAGES(queries, format))
        score(w->real, tops, t, queries, page, SCORE_PAGES(queries, format), format);
    for (; page < pages; page++)
        score(w->real, page < whole ? tops : parts, t, queries, page, 1, format);
    UNROLL
    for (uint32_t i = 0; i < queries; i++) {
        for (uint32_t key = t->visible[i]; key < pages * LORICA_KV_PAGE; key++)
            w->real[i][key] = -INFINITY;
        for (uint32_t key = whole * LORICA_KV_PAGE; key < t->visible[i]; key += LANES)
            tops[i] = vec_max(vec_load(w->real[i] + key), tops[i]);
        w->tops[i] = vec_top(tops[i]);
    }
    UNROLL
    for (uint32_t i = 0; i < queries; i++)
        w->sums[i] = weigh_steps(w->pairs[i], w->real[i], t, t->visible[i], pages, w->tops[i]);
}
#endif

/* A tile of `queries` queries, a constant after inlining. */
INLINE void attend_tile(const struct tile *t, uint32_t queries, enum lorica_kv_format format) {
    struct weights w;
    struct factors rows = {.real = {0}};
    struct shares f = {{0}};
    const uint32_t columns = (uint32_t)lorica_kv_columns(t->head_dim);
    uint32_t column = 0;
#if UNITS
    if (format == LORICA_KV_BF16)
        weigh_units(&w, t, queries);
    else
#endif
        weigh_keys(&w, t, queries, format);
    UNROLL
    for (uint32_t i = 0; i < queries; i++) {
        rows.real[i] = w.real[i];
#if PAIRS
        rows.pairs[i] = w.pairs[i];
#endif
    }
    if (!t->begin)
        f = fold_scores(t->state, w.tops, w.sums, queries);
    for (uint32_t i = 0; t->begin && i < queries; i++) {
        t->state[i][LORICA_STATE_MAX] = w.tops[i];
        t->state[i][LORICA_STATE_SUM] = w.sums[i];
    }
    for (; column + GATHER_VECS(queries, format) * LANES <= columns;
         column += GATHER_VECS(queries, format) * LANES)
        gather(t, queries, &rows, &f, column, GATHER_VECS(queries, format), format);
    for (; column < columns; column += 16)
        gather(t, queries, &rows, &f, column, 16 / LANES, format);
}

INLINE void attend_queries(const struct tile *t, uint32_t queries, enum lorica_kv_format format) {
    switch (queries) {
    case 1:
        attend_tile(t, 1, format);
        break;
    case 2:
        attend_tile(t, 2, format);
        break;
    case 3:
        attend_tile(t, 3, format);
        break;
    case 4:
        attend_tile(t, 4, format);
        break;
    case 5:
        attend_tile(t, 5, format);
        break;
    default:
        attend_tile(t, 6, format);
        break;
    }
}

static void tile_bf16(const struct tile *t, uint32_t queries) {
    attend_queries(t, queries, LORICA_KV_BF16);
}

static void tile_int8(const struct tile *t, uint32_t queries) {
    attend_queries(t, queries, LORICA_KV_INT8);
}

/* One of these. */
typedef void (*tile_fn)(const struct tile *t, uint32_t queries);

/* Consecutive queries of a call, as their products with the keys take them. */
struct group {
    uint32_t begin, end;
    float units[GROUP_QUERIES];
#if PAIRS
    uint32_t pairs[GROUP_PAIRS];
#endif
};

/* As many queries from `begin` on as there is room for, and there are before `end`. */
static void round_group(struct group *g, const struct lorica_attn_queries *queries,
                        uint32_t head_dim, uint32_t begin, uint32_t end) {
    g->begin = begin;
    g->end = end;
#if PAIRS
    const uint32_t each = (head_dim + 1) / 2, steps = lorica_kv_key_steps(head_dim) / 2;
    uint32_t room = GROUP_PAIRS / each / TILE * TILE;
    room = room < GROUP_QUERIES ? room : GROUP_QUERIES;
    g->end = end - begin < room ? end : begin + room;
    for (uint32_t i = 0; i < g->end - begin; i++) {
        const float *q = lorica_attn_query(queries, begin + i, head_dim);
        g->units[i] =
            vec_round(g->pairs + (size_t)i * each, q, head_dim, steps, top_of(q, head_dim));
    }
#endif
}

/* Queries of a group from `begin` on in the span that begins at key `start`; all see some of it. */
static void attend_range(struct tile *t, float *states, const struct lorica_attn_queries *queries,
                         const struct group *g, uint32_t begin, uint32_t start, tile_fn run) {
    const size_t each = lorica_attn_state_count(t->head_dim);
    while (begin < g->end) {
        const uint32_t count = g->end - begin < TILE ? g->end - begin : TILE;
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t seen = queries->position + (begin + i) / queries->heads + 1 - start;
            t->visible[i] = seen < LORICA_ATTN_SPAN ? seen : LORICA_ATTN_SPAN;
            t->q.real[i] = lorica_attn_query(queries, begin + i, t->head_dim);
            t->state[i] = states + (begin + i) * each;
#if PAIRS
            t->q.units[i] = g->units[begin + i - g->begin] * t->scale;
            t->q.pairs[i] = g->pairs + (size_t)(begin + i - g->begin) * ((t->head_dim + 1) / 2);
#endif
        }
        t->least = t->visible[0];
        t->most = t->visible[count - 1];
        run(t, count);
        begin += count;
    }
}

/* Queries of a group in all spans of a call. */
static void attend_group(float *states, bool fresh, const struct lorica_attn_queries *queries,
                         const struct group *g, const struct lorica_kv_view *kv, uint32_t span0,
                         uint32_t span1, tile_fn run) {
    for (uint32_t s = span0; s < span1; s++) {
        const uint32_t start = s * LORICA_ATTN_SPAN;
        const uint32_t first = lorica_attn_first_row(queries, s) * queries->heads;
        struct tile t = {.head_dim = kv->head_dim, .scale = queries->scale * 1.44269504f};
        if (first >= g->end)
            break;
        t.begin = fresh && s == span0;
        for (uint32_t p = 0;
             p < SPAN_PAGES &&
             start + p * LORICA_KV_PAGE < queries->position + (g->end - 1) / queries->heads + 1;
             p++)
            t.pages[p] = kv->cells + kv->pages[start / LORICA_KV_PAGE + p] * kv->page_nbytes;
        attend_range(&t, states, queries, g, first > g->begin ? first : g->begin, start, run);
    }
}

static void attend_spans(float *states, bool fresh, const struct lorica_attn_queries *queries,
                         const struct lorica_kv_view *kv, uint32_t span0, uint32_t span1,
                         tile_fn run) {
    const uint32_t count = queries->rows * queries->heads;
    struct group g; /* large: not cleared */
    for (uint32_t begin = 0; begin < count; begin = g.end) {
        round_group(&g, queries, kv->head_dim, begin, count);
        attend_group(states, fresh, queries, &g, kv, span0, span1, run);
    }
}

static void attend_bf16(float *states, bool fresh, const struct lorica_attn_queries *queries,
                        const struct lorica_kv_view *kv, uint32_t span0, uint32_t span1) {
    attend_spans(states, fresh, queries, kv, span0, span1, tile_bf16);
}

static void attend_int8(float *states, bool fresh, const struct lorica_attn_queries *queries,
                        const struct lorica_kv_view *kv, uint32_t span0, uint32_t span1) {
    attend_spans(states, fresh, queries, kv, span0, span1, tile_int8);
}

static void fold(float *states, const float *parts, const struct lorica_attn_queries *queries,
                 uint32_t head_dim, uint32_t span) {
    const size_t each = lorica_attn_state_count(head_dim);
    for (uint32_t i = lorica_attn_first_row(queries, span) * queries->heads;
         i < queries->rows * queries->heads; i++) {
        float *const state = states + i * each;
        const float *part = parts + i * each;
        const struct shares f =
            fold_scores(&state, part + LORICA_STATE_MAX, part + LORICA_STATE_SUM, 1);
        for (size_t d = LORICA_STATE_VALUES; d < each; d += LANES)
            fold_values(state + d, vec_load(part + d), false, f.of[0], f.of[ADD]);
    }
}

static void finish(float *out, const float *states, const struct lorica_attn_queries *queries,
                   uint32_t head_dim) {
    const size_t each = lorica_attn_state_count(head_dim);
    for (uint32_t i = 0; i < queries->rows * queries->heads; i++) {
        const float *state = states + i * each, factor = 1 / state[LORICA_STATE_SUM];
        float *to =
            out + i / queries->heads * queries->stride + (size_t)(i % queries->heads) * head_dim;
        uint32_t d = 0;
        for (; d + LANES <= head_dim; d += LANES)
            vec_store(to + d, vec_mul(vec_load(state + LORICA_STATE_VALUES + d), vec_set1(factor)));
        for (; d < head_dim; d++)
            to[d] = state[LORICA_STATE_VALUES + d] * factor;
    }
}

#endif
#endif
