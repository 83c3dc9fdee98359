/* SPDX-License-Identifier: MIT
 * The step is a line of items (a run of rows of one sequence, one key/value head), each as long as
 * it costs, and every thread takes an equal part of that line:
 *
 *   thread 0                  thread 1                  thread 2
 *   | item | item | item      : item | item      :  item | item |
 *
 * An item over which a part ends is computed whole by the thread in whose part it begins. But an
 * item of few rows, as decode has them, is cut there, at a span of its keys: the spans of a cut
 * item are kept apart and folded, always in the same order, by the thread where it begins, after a
 * barrier. Kernels make the results of all this the same to the bit. */
#include "runtime/attend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64
/* Queries of an item: enough that its keys, once in the first-level cache, are used often. */
#define ITEM_QUERIES 48
/* Items of one (sequence, head) for each thread, so that they can be spread evenly. */
#define ITEMS_PER_THREAD 4
/* Items of up to this many rows may be cut. */
#define CUT_ROWS 2
/* What an item costs beside reading its past, in keys. */
#define ITEM_OVERHEAD 32
/* Parts of the line shorter than this, in keys, are not worth a barrier. */
#define CUT_COST 512

/* Rows [row, row + count) of a step: consecutive positions of one sequence. */
struct run {
    uint32_t row, count;
};

struct item {
    uint32_t row, rows, head; /* key/value head */
    uint64_t at, cost;        /* its place on the line */
};

struct lorica_attend {
    const struct lorica_model *model;
    const struct lorica_kv *kv;
    struct lorica_pool *pool;
    uint32_t group; /* query heads of one key/value head */
    size_t state;   /* floats of one query's state */
    float *states;  /* [thread][item queries] */
    float *parts;   /* [boundary between threads][span][cut queries] */
    uint32_t max_spans;
    struct item *items;
    size_t item_count;
    const struct lorica_row *rows;
    uint64_t cost; /* of the whole line */
    bool cuts;     /* some item is cut */
};

static uint32_t item_queries(const struct lorica_attend *a) {
    return ITEM_QUERIES > CUT_ROWS * a->group ? ITEM_QUERIES : CUT_ROWS * a->group;
}

static size_t part_count(const struct lorica_attend *a) {
    return (size_t)CUT_ROWS * a->group * a->state;
}

static void *take(size_t count, size_t size) {
    size_t nbytes;
    if (__builtin_mul_overflow(count, size, &nbytes) || nbytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    return aligned_alloc(ALIGNMENT, (nbytes / ALIGNMENT + 1) * ALIGNMENT);
}

int lorica_attend_create(const struct lorica_model *model, const struct lorica_kv *kv,
                         struct lorica_pool *pool, uint32_t max_rows, struct lorica_attend **ret,
                         struct lorica_error *err) {
    const struct lorica_arch *arch = &model->base->arch;
    const unsigned threads = lorica_pool_threads(pool);
    const uint64_t room = (uint64_t)kv->pages * LORICA_KV_PAGE;
    const uint64_t length = room < arch->max_positions ? room : arch->max_positions;
    struct lorica_attend *a = calloc(1, sizeof(*a));
    if (!a)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for attention");
    a->model = model;
    a->kv = kv;
    a->pool = pool;
    a->group = arch->heads / arch->kv_heads;
    a->state = lorica_attn_state_count(arch->head_dim);
    a->max_spans = lorica_attn_spans((uint32_t)length);
    if (!(a->states = take((size_t)threads * item_queries(a), a->state * sizeof(float))) ||
        !(a->parts = take((size_t)(threads - 1) * a->max_spans, part_count(a) * sizeof(float))) ||
        !(a->items = take((size_t)max_rows * arch->kv_heads, sizeof(*a->items)))) {
        lorica_attend_destroy(a);
        return lorica_fail(err, LORICA_ENOMEM, "no memory for attention over %llu tokens",
                           (unsigned long long)length);
    }
    *ret = a;
    return 0;
}

void lorica_attend_destroy(struct lorica_attend *a) {
    if (!a)
        return;
    free(a->states);
    free(a->parts);
    free(a->items);
    free(a);
}

/* How many rows from `row` on are consecutive positions of one sequence. */
static struct run run_at(const struct lorica_row *rows, uint32_t row, uint32_t count) {
    struct run run = {row, 1};
    while (row + run.count < count && rows[row + run.count].pages == rows[row].pages &&
           rows[row + run.count].position == rows[row].position + run.count)
        run.count++;
    return run;
}

static void add_item(struct lorica_attend *a, uint32_t row, uint32_t rows, uint32_t head) {
    const uint64_t keys = (uint64_t)a->rows[row].position + rows;
    struct item *item = &a->items[a->item_count++];
    *item = (struct item){
        .row = row, .rows = rows, .head = head, .at = a->cost, .cost = rows * keys + ITEM_OVERHEAD};
    a->cost += item->cost;
}

/* Items of one head stand together: what one leaves in the cache the next finds there. */
static void add_run(struct lorica_attend *a, struct run run, unsigned threads) {
    const uint32_t heads = a->model->base->arch.kv_heads;
    const uint32_t largest = ITEM_QUERIES > a->group ? ITEM_QUERIES / a->group : 1;
    const uint64_t wanted = (uint64_t)run.count * heads / (threads * ITEMS_PER_THREAD);
    const uint32_t each = wanted < 1 ? 1 : wanted < largest ? (uint32_t)wanted : largest;
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t at = 0; at < run.count; at += each)
            add_item(a, run.row + at, run.count - at < each ? run.count - at : each, h);
}

static uint64_t boundary(const struct lorica_attend *a, unsigned thread, unsigned threads) {
    return a->cost * thread / threads;
}

static uint32_t item_spans(const struct lorica_attend *a, const struct item *item) {
    return lorica_attn_spans(a->rows[item->row].position + item->rows - 1);
}

/* How many spans of an item lie before a boundary. All or none unless it may be cut. */
static uint32_t spans_before(const struct lorica_attend *a, const struct item *item,
                             uint64_t limit) {
    const uint32_t spans = item_spans(a, item);
    if (limit <= item->at)
        return 0;
    if (limit >= item->at + item->cost || item->rows > CUT_ROWS || item->cost < CUT_COST)
        return spans;
    return (uint32_t)((limit - item->at) * spans / item->cost);
}

void lorica_attend_plan(struct lorica_attend *a, const struct lorica_row *rows, uint32_t count) {
    const unsigned threads = lorica_pool_threads(a->pool);
    a->rows = rows;
    a->item_count = 0;
    a->cost = 0;
    a->cuts = false;
    for (uint32_t row = 0; row < count;) {
        const struct run run = run_at(rows, row, count);
        add_run(a, run, threads);
        row += run.count;
    }
    size_t i = 0;
    for (unsigned t = 1; t < threads && i < a->item_count; t++) {
        const uint64_t limit = boundary(a, t, threads);
        while (i + 1 < a->item_count && a->items[i + 1].at <= limit)
            i++;
        const uint32_t before = spans_before(a, &a->items[i], limit);
        a->cuts = a->cuts || (before > 0 && before < item_spans(a, &a->items[i]));
    }
}

/* A thread's part in a layer. */
struct worker {
    const struct lorica_attend *attend;
    const struct lorica_attend_rows *io;
    uint32_t layer;
    unsigned thread, threads;
};

static struct lorica_attn_queries queries_of(const struct worker *w, const struct item *item) {
    const struct lorica_attend *a = w->attend;
    const uint32_t dim = a->kv->head_dim;
    return (struct lorica_attn_queries){.q = w->io->q + item->row * w->io->stride +
                                             (size_t)item->head * a->group * dim,
                                        .stride = w->io->stride,
                                        .rows = item->rows,
                                        .heads = a->group,
                                        .position = a->rows[item->row].position,
                                        .scale = 1.0f / sqrtf((float)dim)};
}

static float *states_of(const struct worker *w) {
    const struct lorica_attend *a = w->attend;
    return a->states + (size_t)w->thread * item_queries(a) * a->state;
}

/* Where a span of a cut item that `owner` began is kept. */
static float *part_of(const struct lorica_attend *a, unsigned owner, uint32_t span) {
    return a->parts + ((size_t)owner * a->max_spans + span) * part_count(a);
}

static void finish_item(const struct worker *w, const struct item *item,
                        const struct lorica_attn_queries *queries) {
    const struct lorica_attend *a = w->attend;
    float *out =
        w->io->out + item->row * w->io->stride + (size_t)item->head * a->group * a->kv->head_dim;
    a->model->attn.finish(out, states_of(w), queries, a->kv->head_dim);
}

/* Spans [span0, span1) of an item. */
static void attend_item(const struct worker *w, const struct item *item, uint32_t span0,
                        uint32_t span1) {
    const struct lorica_attend *a = w->attend;
    const lorica_attn_fn attend = a->model->attn.attend[a->kv->format];
    const struct lorica_attn_queries queries = queries_of(w, item);
    const struct lorica_kv_view view =
        lorica_kv_view(a->kv, w->layer, item->head, a->rows[item->row].pages);
    if (span0 == 0) {
        attend(states_of(w), true, &queries, &view, 0, span1);
        if (span1 == item_spans(a, item))
            finish_item(w, item, &queries);
        return;
    }
    unsigned owner = w->thread;
    while (spans_before(a, item, boundary(a, owner, w->threads)) > 0)
        owner--;
    for (uint32_t s = span0; s < span1; s++)
        attend(part_of(a, owner, s), true, &queries, &view, s, s + 1);
}

/* Folds what others have made of an item that this thread began. */
static void complete_item(const struct worker *w, const struct item *item, uint32_t span) {
    const struct lorica_attend *a = w->attend;
    const struct lorica_attn_queries queries = queries_of(w, item);
    for (; span < item_spans(a, item); span++)
        a->model->attn.fold(states_of(w), part_of(a, w->thread, span), &queries, a->kv->head_dim,
                            span);
    finish_item(w, item, &queries);
}

void lorica_attend_run(struct lorica_attend *a, const struct lorica_attend_rows *io, uint32_t layer,
                       unsigned thread, unsigned threads) {
    const struct worker w = {a, io, layer, thread, threads};
    const uint64_t begin = boundary(a, thread, threads), end = boundary(a, thread + 1, threads);
    const struct item *open = NULL; /* begun here, to be completed */
    uint32_t open_span = 0;
    for (size_t i = 0; i < a->item_count; i++) {
        const struct item *item = &a->items[i];
        const uint32_t span0 = spans_before(a, item, begin), span1 = spans_before(a, item, end);
        if (span0 >= span1)
            continue;
        attend_item(&w, item, span0, span1);
        if (span0 == 0 && span1 < item_spans(a, item))
            open = item, open_span = span1;
    }
    if (!a->cuts)
        return;
    lorica_pool_barrier(a->pool);
    if (open)
        complete_item(&w, open, open_span);
}
