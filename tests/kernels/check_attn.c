/* SPDX-License-Identifier: MIT
 * Attention over a shuffled paged cache against double arithmetic. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attn.h"
#include "kernels/matrix.h"

#define EPS 0x1p-24

static struct lorica_attn_kernels kernels;

/* A cache of one head, and what was put into it. */
struct cache {
    enum lorica_kv_format format;
    struct lorica_kv_view view;
    uint8_t *cells;
    float *keys, *values; /* [position][dim] as the cache holds them */
    uint32_t length;
};

static void *page_of(const struct cache *c, uint32_t position) {
    return c->cells + c->view.pages[position / LORICA_KV_PAGE] * c->view.page_nbytes;
}

/* True when pages of bf16 hold int16 instead, and queries and weights are rounded to that. */
static bool integers(enum lorica_kv_format format) {
    return format == LORICA_KV_BF16 &&
           (lorica_cpu_level() == LORICA_CPU_AVX2 || lorica_cpu_level() == LORICA_CPU_AVXVNNI);
}

/* What the cache holds of x, in steps of the largest. */
static void hold(float *to, const float *x, uint32_t dim, bool bf16, uint32_t steps) {
    float top = 0;
    for (uint32_t d = 0; d < dim; d++)
        top = fabsf(x[d]) > top ? fabsf(x[d]) : top;
    const float scale = top / (float)steps;
    for (uint32_t d = 0; d < dim; d++)
        to[d] = bf16         ? lorica_bf16_to_f32(lorica_f32_to_bf16(x[d]))
                : scale == 0 ? 0
                             : rintf(x[d] / scale) * scale;
}

static uint32_t key_steps(uint32_t dim) { return dim <= 64 ? 8191 : dim <= 256 ? 4095 : 2047; }

static void put(struct cache *c, uint32_t p, const float *key, const float *value) {
    const uint32_t dim = c->view.head_dim;
    kernels.put[c->format](page_of(c, p), p % LORICA_KV_PAGE, key, value, dim);
    const bool bf16 = c->format == LORICA_KV_BF16 && !integers(c->format);
    hold(c->keys + (size_t)p * dim, key, dim, bf16, integers(c->format) ? key_steps(dim) : 127);
    hold(c->values + (size_t)p * dim, value, dim, bf16, integers(c->format) ? 4095 : 127);
}

/* Pages in random order, a gap between them that holds NaN, as do slots before they are written. */
static struct cache make_cache(enum lorica_kv_format format, uint32_t length, uint32_t dim) {
    const uint32_t count = (length + LORICA_KV_PAGE - 1) / LORICA_KV_PAGE;
    const size_t stride = lorica_kv_page_nbytes(format, dim) + 64;
    uint32_t *pages = check_buffer(count * sizeof(uint32_t), 0);
    struct cache c = {.format = format,
                      .cells = check_buffer(count * stride, 0),
                      .keys = check_buffer((size_t)length * dim * 4, 0),
                      .values = check_buffer((size_t)length * dim * 4, 0),
                      .length = length};
    float *key = check_buffer(dim * 4, 4 * check_below(2)), *value = check_buffer(dim * 4, 4);
    memset(c.cells, 0xff, count * stride);
    for (uint32_t i = 0; i < count; i++)
        pages[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        const uint32_t j = check_below(i), page = pages[i - 1];
        pages[i - 1] = pages[j];
        pages[j] = page;
    }
    c.view = (struct lorica_kv_view){c.cells, stride, pages, dim};
    const float size = check_below(4) ? 1 : check_below(2) ? 1e-30f : 20;
    for (uint32_t p = 0; p < length; p++) {
        for (uint32_t d = 0; d < dim; d++)
            key[d] = check_normal() * size, value[d] = check_normal() * size;
        put(&c, p, key, value);
    }
    return c;
}

/* Largest magnitude of a row. */
static double top_of(const float *x, uint32_t dim) {
    double top = 0;
    for (uint32_t d = 0; d < dim; d++)
        top = fmax(top, fabs((double)x[d]));
    return top;
}

/* How far a score may be off for what rounding to whole steps leaves of the query and of the key,
 * of which the code may be the one beside the test's. */
static double steps_error(const float *q, const float *key, uint32_t dim) {
    double sum_q = 0, sum_key = 0;
    for (uint32_t d = 0; d < dim; d++) {
        sum_q += fabs((double)q[d]);
        sum_key += fabs((double)key[d]);
    }
    const double steps = key_steps(dim);
    return top_of(q, dim) / (steps - 1) * sum_key + 1e-3 * top_of(key, dim) / steps * sum_q;
}

/* One query in double; and how far float32 may be off, relative to sum of weight * |value|. */
static double exact_weights(double *weights, const float *q, const struct cache *c, uint32_t seen,
                            float scale) {
    const uint32_t dim = c->view.head_dim;
    double top = -INFINITY, largest = 0, total = 0, steps = 0;
    for (uint32_t p = 0; p < seen; p++) {
        const float *key = c->keys + (size_t)p * dim;
        double sum = 0, size = 0;
        for (uint32_t d = 0; d < dim; d++) {
            const double product = (double)q[d] * (double)key[d];
            sum += product;
            size += fabs(product);
        }
        weights[p] = sum * (double)scale;
        largest = fmax(largest, size * fabs((double)scale));
        top = fmax(top, weights[p]);
        if (integers(c->format))
            steps = fmax(steps, steps_error(q, key, dim) * fabs((double)scale));
    }
    for (uint32_t p = 0; p < seen; p++)
        total += weights[p] = exp(weights[p] - top);
    for (uint32_t p = 0; p < seen; p++)
        weights[p] /= total;
    /* A score is off by (dim + 4) roundings, its distance to the largest by one more, and each of
     * the exponentials by 1e-6: one for the weight, one for each fold. Weights and their total are
     * off alike, and summed in chains. Where queries and weights are rounded to bfloat16, each is
     * off by half a unit of that. */
    const bool rounded = lorica_cpu_level() == LORICA_CPU_AVX512 && c->format == LORICA_KV_BF16;
    const double half = rounded ? 0x1p-8 : 0;
    const double folds = seen / LORICA_ATTN_SPAN + 1;
    return 2 * expm1(((dim + 6) * EPS * 2 + half) * largest + steps + 1e-6 * (1 + folds)) + half +
           2 * (LORICA_ATTN_SPAN + 4 * folds) * EPS;
}

/* What rounding weights to steps of the largest of their span may bring, in all: half a step of
 * each, times values of at most the largest of its key. */
static double weights_error(const double *weights, const struct cache *c, uint32_t seen) {
    const uint32_t dim = c->view.head_dim;
    double error = 0;
    for (uint32_t start = 0; integers(c->format) && start < seen; start += LORICA_ATTN_SPAN) {
        const uint32_t end = seen - start < LORICA_ATTN_SPAN ? seen : start + LORICA_ATTN_SPAN;
        double top = 0;
        for (uint32_t p = start; p < end; p++)
            top = fmax(top, weights[p] * top_of(c->values + (size_t)p * dim, dim));
        error += (end - start) * top * (0.5 + 1e-3) / 4095;
    }
    return error;
}

static void compare(const float *out, const float *q, const struct cache *c, uint32_t seen,
                    float scale) {
    const uint32_t dim = c->view.head_dim;
    double *weights = malloc(seen * sizeof(double));
    const double relative = exact_weights(weights, q, c, seen, scale);
    const double absolute = 2 * weights_error(weights, c, seen) + 1e-37;
    for (uint32_t d = 0; d < dim; d++) {
        double sum = 0, size = 0, lost = 0; /* of weights that are no normal numbers */
        for (uint32_t p = 0; p < seen; p++) {
            const double value = (double)c->values[(size_t)p * dim + d];
            sum += weights[p] * value;
            size += fabs(weights[p] * value);
            lost += 0x1p-125 * fabs(value);
        }
        if (!check_near((double)out[d], sum, relative * size + absolute + lost, "attend", d))
            break;
    }
    free(weights);
}

/* Queries at the end of a cache, and where their results go. */
struct problem {
    struct cache cache;
    struct lorica_attn_queries queries;
    float *q, *out, *other, *states, *parts;
    size_t nbytes; /* of each of q, out, other */
};

static struct problem make_problem(enum lorica_kv_format format, uint32_t length, uint32_t dim,
                                   uint32_t rows, uint32_t heads) {
    const size_t stride = (size_t)heads * dim + check_below(3), count = rows * stride;
    const size_t states = (size_t)rows * heads * lorica_attn_state_count(dim) * 4;
    struct problem p = {.cache = make_cache(format, length, dim),
                        .q = check_buffer(count * 4, 4 * check_below(2)),
                        .out = check_buffer(count * 4, 4 * check_below(2)),
                        .other = check_buffer(count * 4, 0),
                        .states = check_buffer(states, 0),
                        .parts = check_buffer(states, 0),
                        .nbytes = count * 4};
    for (size_t i = 0; i < count; i++)
        p.q[i] = check_normal() * (check_below(20) ? 1 : 10);
    p.queries = (struct lorica_attn_queries){p.q,   stride,        rows,
                                             heads, length - rows, 1 / sqrtf((float)dim)};
    return p;
}

/* All queries in one call. */
static void attend_at_once(const struct problem *p, float *out) {
    const uint32_t spans = lorica_attn_spans(p->cache.length - 1);
    kernels.attend[p->cache.format](p->states, true, &p->queries, &p->cache.view, 0, spans);
    kernels.finish(out, p->states, &p->queries, p->cache.view.head_dim);
}

/* Every row alone, every head alone, in calls of one span. */
static void attend_one_by_one(const struct problem *p, float *out) {
    const uint32_t dim = p->cache.view.head_dim;
    for (uint32_t r = 0; r < p->queries.rows; r++) {
        for (uint32_t h = 0; h < p->queries.heads; h++) {
            struct lorica_attn_queries one = p->queries;
            const size_t at = r * one.stride + (size_t)h * dim;
            one.q += at, one.rows = 1, one.heads = 1, one.position += r;
            for (uint32_t s = 0; s < lorica_attn_spans(one.position); s++)
                kernels.attend[p->cache.format](p->states, s == 0, &one, &p->cache.view, s, s + 1);
            kernels.finish(out + at, p->states, &one, dim);
        }
    }
}

/* As threads share a long past: the first spans in one call, each other one alone, then folded. */
static void attend_in_parts(const struct problem *p, float *out, uint32_t first) {
    const lorica_attn_fn attend = kernels.attend[p->cache.format];
    const uint32_t dim = p->cache.view.head_dim, spans = lorica_attn_spans(p->cache.length - 1);
    attend(p->states, true, &p->queries, &p->cache.view, 0, first);
    for (uint32_t s = first; s < spans; s++) {
        memset(p->parts, 0xff,
               (size_t)p->queries.rows * p->queries.heads * lorica_attn_state_count(dim) * 4);
        attend(p->parts, true, &p->queries, &p->cache.view, s, s + 1);
        kernels.fold(p->states, p->parts, &p->queries, dim, s);
    }
    kernels.finish(out, p->states, &p->queries, dim);
}

static void fill_gaps(const struct problem *p, float *out) {
    const size_t used = (size_t)p->queries.heads * p->cache.view.head_dim;
    for (uint32_t r = 0; r < p->queries.rows; r++)
        for (size_t i = used; i < p->queries.stride; i++)
            if (r * p->queries.stride + i < p->nbytes / 4)
                out[r * p->queries.stride + i] = 0;
}

/* A query that is no number gives no numbers, and harms none of the others. */
static void attend_nan(struct problem *p) {
    const uint32_t dim = p->cache.view.head_dim;
    const uint32_t row = check_below(p->queries.rows), head = check_below(p->queries.heads);
    const size_t at = row * p->queries.stride + (size_t)head * dim;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const float was = p->q[at];
    memcpy(p->other, p->out, p->nbytes);
    p->q[at] = bad[check_below(3)];
    attend_at_once(p, p->out);
    for (uint32_t d = 0; d < dim; d++) {
        if (isfinite(p->out[at + d]))
            check_fail("attend: %g in the query is lost", (double)p->q[at]);
        p->out[at + d] = p->other[at + d];
    }
    p->q[at] = was;
    fill_gaps(p, p->out);
    check_same(p->out, p->other, p->nbytes, "queries beside one that is no number");
}

static void attend(enum lorica_kv_format format, uint32_t length, uint32_t dim, uint32_t rows,
                   uint32_t heads) {
    struct problem p = make_problem(format, length, dim, rows < length ? rows : length, heads);
    attend_at_once(&p, p.out);
    for (uint32_t r = 0; r < p.queries.rows; r++)
        for (uint32_t h = 0; h < heads; h++)
            compare(p.out + r * p.queries.stride + (size_t)h * dim,
                    p.q + r * p.queries.stride + (size_t)h * dim, &p.cache,
                    p.queries.position + r + 1, p.queries.scale);
    fill_gaps(&p, p.out), fill_gaps(&p, p.other);
    attend_one_by_one(&p, p.other);
    check_same(p.out, p.other, p.nbytes, "queries together and alone");
    for (uint32_t s = 1; s < lorica_attn_spans(length - 1); s += 1 + check_below(3)) {
        attend_in_parts(&p, p.other, s);
        check_same(p.out, p.other, p.nbytes, "spans together and alone");
    }
    check_canaries(lorica_kv_format_name(format));
    attend_nan(&p);
}

/* Two slots written side by side, in either order, come out alike, and touch no other. */
static void put_slots(enum lorica_kv_format format, uint32_t dim) {
    const size_t nbytes = lorica_kv_page_nbytes(format, dim);
    uint8_t *a = check_buffer(nbytes, 0), *b = check_buffer(nbytes, 0);
    float *x = check_buffer((size_t)dim * 4 * LORICA_KV_PAGE, 0);
    check_fill(x, (size_t)dim * LORICA_KV_PAGE);
    for (uint32_t i = 0; i < LORICA_KV_PAGE; i++)
        kernels.put[format](a, i, x + (size_t)i * dim, x + (size_t)i * dim, dim);
    for (uint32_t i = LORICA_KV_PAGE; i-- > 0;)
        kernels.put[format](b, i, x + (size_t)i * dim, x + (size_t)i * dim, dim);
    check_same(a, b, nbytes, "slots in either order");
    kernels.put[format](b, 3, x, x, dim);
    kernels.put[format](b, 3, x + (size_t)3 * dim, x + (size_t)3 * dim, dim);
    check_same(a, b, nbytes, "a slot overwritten");
    check_canaries("put");
}

/* A NaN is not lost, and what is too small for a scale does no harm. */
static void put_odd_values(enum lorica_kv_format format) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0, 1e-40f, -1e-38f};
    for (size_t i = 0; i < 2 * sizeof(odd) / sizeof(odd[0]); i++) {
        struct problem p = make_problem(format, 20, 48, 1, 2);
        float key[48], value[48];
        for (int d = 0; d < 48; d++)
            key[d] = value[d] = 0;
        *(i % 2 ? &key[5] : &value[5]) = odd[i / 2];
        put(&p.cache, 7, key, value);
        attend_at_once(&p, p.out);
        for (uint32_t d = 0; d < 48; d++)
            if (isnan(p.out[d]) != isnan(odd[i / 2]) && !isinf(odd[i / 2]) && (i % 2 || d == 5))
                check_fail("put %s: %g among the %s gives %g", lorica_kv_format_name(format),
                           (double)odd[i / 2], i % 2 ? "keys" : "values", (double)p.out[d]);
    }
}

static void check(void) {
    static const uint32_t dims[] = {2, 8, 16, 24, 31, 32, 48, 64, 80, 100, 128, 256};
    lorica_attn_kernels_init(&kernels);
    for (int f = 0; f < LORICA_KV_COUNT; f++) {
        const enum lorica_kv_format format = (enum lorica_kv_format)f;
        for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++) {
            put_slots(format, dims[i]);
            for (uint32_t length = 1; length < 400; length += 1 + length / 3)
                attend(format, length, dims[i], 1 + check_below(9), 1 + check_below(9));
        }
        put_odd_values(format);
        attend(format, 200, 64, 140, 3);
        attend(format, 1000, 64, 2, 3);
    }
}

static void time_attend(void *context) {
    const struct problem *p = context;
    attend_at_once(p, p->out);
}

static void time_put(void *context) {
    const struct problem *p = context;
    kernels.put[p->cache.format](p->cache.cells, 3, p->q, p->q, p->cache.view.head_dim);
}

static void bench(void) {
    lorica_attn_kernels_init(&kernels);
    for (int f = 0; f < LORICA_KV_COUNT; f++) {
        const enum lorica_kv_format format = (enum lorica_kv_format)f;
        char name[64];
        for (uint32_t length = 64; length <= 4096; length *= 8) {
            for (uint32_t rows = 1; rows <= 16; rows *= 16) {
                struct problem p = make_problem(format, length, 64, rows, 3);
                snprintf(name, sizeof(name), "attend %s, %u rows x 3, %u",
                         lorica_kv_format_name(format), rows, length);
                check_bench(name, time_attend, &p,
                            (double)lorica_kv_page_nbytes(format, 64) / LORICA_KV_PAGE * length,
                            768.0 * length * rows);
            }
        }
        struct problem p = make_problem(format, 16, 64, 1, 3);
        snprintf(name, sizeof(name), "put %s 64", lorica_kv_format_name(format));
        check_bench(name, time_put, &p, 0, 0);
    }
}

const struct check_family check_attn = {"attn", check, bench};
