/* SPDX-License-Identifier: MIT */
#include "runtime/train/plan.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/train/random.h"

#define NONE SIZE_MAX

/* What packing works with. Bins are filled by best fit: of those with room enough the fullest,
 * found through lists of bins by the room that is left. */
struct work {
    uint32_t *tokens;   /* [examples] */
    size_t *bin_of;     /* [examples] */
    uint32_t *room;     /* [bins] */
    size_t *next;       /* [bins]: the next bin with the same room */
    size_t *first;      /* [pack + 1]: the first bin with this room */
    uint64_t *has_bins; /* bit per room */
    size_t *sorted;     /* [examples] */
    size_t *starts;     /* [most of pack + 2, bins + 1]: for counting */
    size_t *bin_order;  /* [bins] */
    size_t bins;
};

uint32_t lorica_train_example_tokens(const struct lorica_train_example *e) {
    uint32_t at = e->length;
    while (at > 1 && e->labels[at - 1] == -100)
        at--;
    return at - 1;
}

/* -- packing -- */

static void list_bin(struct work *w, size_t bin) {
    const uint32_t room = w->room[bin];
    w->next[bin] = w->first[room];
    w->first[room] = bin;
    w->has_bins[room / 64] |= UINT64_C(1) << room % 64;
}

/* Takes the fullest bin with room for `tokens` off its list; NONE: there is none. */
static size_t take_bin(struct work *w, uint32_t tokens, uint32_t pack) {
    for (uint32_t word = tokens / 64; word <= pack / 64; word++) {
        uint64_t bits = w->has_bins[word];
        if (word == tokens / 64)
            bits &= UINT64_MAX << tokens % 64;
        if (!bits)
            continue;
        const uint32_t room = word * 64 + (uint32_t)__builtin_ctzll(bits);
        const size_t bin = w->first[room];
        w->first[room] = w->next[bin];
        if (w->first[room] == NONE)
            w->has_bins[word] &= ~(UINT64_C(1) << room % 64);
        return bin;
    }
    return NONE;
}

/* order, stably sorted by falling length, to sorted. */
static void sort_by_length(struct work *w, const size_t *order, size_t count, uint32_t pack) {
    memset(w->starts, 0, ((size_t)pack + 2) * sizeof(*w->starts));
    for (size_t i = 0; i < count; i++)
        w->starts[pack - w->tokens[i] + 1]++;
    for (uint32_t t = 0; t <= pack; t++)
        w->starts[t + 1] += w->starts[t];
    for (size_t i = 0; i < count; i++)
        w->sorted[w->starts[pack - w->tokens[order[i]]]++] = order[i];
}

/* Deals the examples in `order` to bins. */
static void fill_bins(struct work *w, const size_t *order, size_t count, uint32_t pack) {
    w->bins = 0;
    for (uint32_t room = 0; room <= pack; room++)
        w->first[room] = NONE;
    memset(w->has_bins, 0, ((size_t)pack / 64 + 1) * sizeof(*w->has_bins));
    sort_by_length(w, order, count, pack);
    for (size_t i = 0; i < count; i++) {
        const size_t example = w->sorted[i];
        size_t bin = take_bin(w, w->tokens[example], pack);
        if (bin == NONE) {
            bin = w->bins++;
            w->room[bin] = pack;
        }
        w->room[bin] -= w->tokens[example];
        w->bin_of[example] = bin;
        list_bin(w, bin);
    }
}

/* The examples bin by bin in the order of bin_order, and where each pass ends. */
static void lay_out_bins(struct lorica_train_plan *plan, size_t count) {
    struct work *w = plan->work;
    memset(w->starts, 0, (w->bins + 1) * sizeof(*w->starts));
    for (size_t i = 0; i < count; i++)
        w->starts[w->bin_of[i]]++;
    size_t at = 0;
    for (size_t i = 0; i < w->bins; i++) {
        const size_t bin = w->bin_order[i], examples = w->starts[bin];
        w->starts[bin] = at;
        at += examples;
        plan->ends[i / plan->batch] = at;
    }
    for (size_t i = 0; i < count; i++)
        plan->order[w->starts[w->bin_of[w->sorted[i]]]++] = w->sorted[i];
}

/* -- without packing -- */

static void sort_stretches(struct lorica_train_plan *plan, const uint32_t *tokens, size_t count) {
    const size_t stretch = (size_t)plan->batch * 8;
    for (size_t begin = 0; begin < count; begin += stretch) {
        const size_t end = count - begin < stretch ? count : begin + stretch;
        for (size_t i = begin + 1; i < end; i++) {
            const size_t moved = plan->order[i];
            size_t j = i;
            for (; j > begin && tokens[plan->order[j - 1]] > tokens[moved]; j--)
                plan->order[j] = plan->order[j - 1];
            plan->order[j] = moved;
        }
    }
}

void lorica_train_plan_shuffle(struct lorica_train_plan *plan, const struct lorica_train_data *data,
                               uint64_t *random) {
    struct work *w = plan->work;
    const size_t count = data->count;
    for (size_t i = 0; i < count; i++)
        plan->order[i] = i;
    lorica_random_shuffle(plan->order, count, 1, random);
    if (plan->pack == 0) {
        sort_stretches(plan, w->tokens, count);
        lorica_random_shuffle(plan->order, count / plan->batch, plan->batch, random);
        return;
    }
    fill_bins(w, plan->order, count, plan->pack);
    for (size_t i = 0; i < w->bins; i++)
        w->bin_order[i] = i;
    lorica_random_shuffle(w->bin_order, w->bins, 1, random);
    lay_out_bins(plan, count);
}

/* -- memory -- */

static void free_work(struct work *w) {
    if (!w)
        return;
    free(w->tokens);
    free(w->bin_of);
    free(w->room);
    free(w->next);
    free(w->first);
    free(w->has_bins);
    free(w->sorted);
    free(w->starts);
    free(w->bin_order);
    free(w);
}

static struct work *make_work(size_t count, uint32_t pack) {
    struct work *w = calloc(1, sizeof(*w));
    const size_t counted = count > pack ? count : pack;
    if (!w)
        return NULL;
    w->tokens = calloc(count, sizeof(*w->tokens));
    w->bin_of = calloc(count, sizeof(*w->bin_of));
    w->room = calloc(count, sizeof(*w->room));
    w->next = calloc(count, sizeof(*w->next));
    w->first = calloc((size_t)pack + 1, sizeof(*w->first));
    w->has_bins = calloc((size_t)pack / 64 + 1, sizeof(*w->has_bins));
    w->sorted = calloc(count, sizeof(*w->sorted));
    w->starts = calloc(counted + 2, sizeof(*w->starts));
    w->bin_order = calloc(count, sizeof(*w->bin_order));
    if (w->tokens && w->bin_of && w->room && w->next && w->first && w->has_bins && w->sorted &&
        w->starts && w->bin_order)
        return w;
    free_work(w);
    return NULL;
}

/* What any epoch needs: the most tokens and rows of a pass. */
static void measure(struct lorica_train_plan *plan, size_t count, uint32_t longest) {
    struct work *w = plan->work;
    const size_t rows = plan->batch < count ? plan->batch : count;
    if (plan->pack == 0) {
        plan->passes = (count + plan->batch - 1) / plan->batch;
        plan->max_tokens = (uint32_t)(rows * longest);
        plan->max_rows = rows;
        for (size_t p = 0; p < plan->passes; p++)
            plan->ends[p] = (p + 1) * plan->batch < count ? (p + 1) * plan->batch : count;
        return;
    }
    /* How many bins there are depends on the lengths alone, not on the order of equal ones. */
    for (size_t i = 0; i < count; i++)
        plan->order[i] = i;
    fill_bins(w, plan->order, count, plan->pack);
    const size_t bins = plan->batch < w->bins ? plan->batch : w->bins;
    plan->passes = (w->bins + plan->batch - 1) / plan->batch;
    plan->max_tokens = (uint32_t)(bins * plan->pack);
    plan->max_rows = count < plan->max_tokens ? count : plan->max_tokens;
}

int lorica_train_plan_init(struct lorica_train_plan *plan, const struct lorica_train_data *data,
                           uint32_t batch, uint32_t pack, struct lorica_error *err) {
    uint32_t longest = 1;
    for (size_t i = 0; i < data->count; i++) {
        const uint32_t tokens = lorica_train_example_tokens(&data->examples[i]);
        longest = tokens > longest ? tokens : longest;
    }
    if (pack > 0 && pack < longest)
        pack = longest;
    *plan = (struct lorica_train_plan){.batch = batch, .pack = pack};
    if ((uint64_t)batch * (pack > longest ? pack : longest) > UINT32_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "a batch of %u rows of %u tokens is too large",
                           batch, pack > longest ? pack : longest);
    plan->order = calloc(data->count, sizeof(*plan->order));
    plan->ends = calloc(data->count, sizeof(*plan->ends));
    struct work *w = plan->work = make_work(data->count, pack);
    if (!plan->order || !plan->ends || !w) {
        lorica_train_plan_finish(plan);
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the order of examples");
    }
    for (size_t i = 0; i < data->count; i++)
        w->tokens[i] = lorica_train_example_tokens(&data->examples[i]);
    measure(plan, data->count, longest);
    return 0;
}

void lorica_train_plan_finish(struct lorica_train_plan *plan) {
    free_work(plan->work);
    free(plan->order);
    free(plan->ends);
    *plan = (struct lorica_train_plan){0};
}

/* -- holding apart -- */

int lorica_train_data_split(struct lorica_train_data *data, double share, uint64_t seed,
                            struct lorica_train_data *ret, struct lorica_error *err) {
    const size_t count = data->count;
    size_t apart = (size_t)(share * (double)count + 0.5), kept = 0;
    uint64_t random = seed ^ UINT64_C(0x73706c6974);
    if (count < 2)
        return lorica_fail(err, LORICA_EINVAL,
                           "there is one example only: none can be held apart (--eval-split)");
    apart = apart < 1 ? 1 : apart > count - 1 ? count - 1 : apart;
    size_t *order = calloc(count, sizeof(*order));
    bool *chosen = calloc(count, sizeof(*chosen));
    struct lorica_train_data held = {.examples = calloc(apart, sizeof(*held.examples))};
    if (!order || !chosen || !held.examples) {
        free(order);
        free(chosen);
        free(held.examples);
        return lorica_fail(err, LORICA_ENOMEM, "no memory to hold examples apart");
    }
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    lorica_random_shuffle(order, count, 1, &random);
    for (size_t i = 0; i < apart; i++)
        chosen[order[i]] = true;
    for (size_t i = 0; i < count; i++) {
        if (chosen[i])
            held.examples[held.count++] = data->examples[i];
        else
            data->examples[kept++] = data->examples[i];
    }
    data->count = kept;
    *ret = held;
    free(order);
    free(chosen);
    return 0;
}
