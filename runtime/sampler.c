/* SPDX-License-Identifier: MIT
 * Nothing here sorts a vocabulary: candidates too unlikely to matter are left out first, the rest
 * stand in a heap, and only as many are taken from it as top_k and top_p let in. */
#include "runtime/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Candidates this far (in logits, after temperature) below the likeliest are left out: together
 * they weigh less than a float can tell for any vocabulary. */
#define NEGLIGIBLE (-32.0f)
#define LANES 16

int lorica_sampler_scratch_init(struct lorica_sampler_scratch *scratch, uint32_t vocab) {
    struct lorica_sampler_scratch s = {
        .candidates = malloc(vocab * sizeof(*s.candidates)),
        .logits = malloc(vocab * sizeof(*s.logits)),
        .vocab = vocab,
    };
    if (!s.candidates || !s.logits) {
        lorica_sampler_scratch_finish(&s);
        return LORICA_ENOMEM;
    }
    *scratch = s;
    return 0;
}

void lorica_sampler_scratch_finish(struct lorica_sampler_scratch *scratch) {
    free(scratch->candidates);
    free(scratch->logits);
    *scratch = (struct lorica_sampler_scratch){0};
}

static bool has_penalties(const struct lorica_sampling *s) {
    return s->presence_penalty != 0 || s->frequency_penalty != 0;
}

int lorica_sampler_init(struct lorica_sampler *sampler, const struct lorica_sampling *sampling) {
    struct lorica_sampler s = {.sampling = sampling};
    if (has_penalties(sampling)) {
        s.used = calloc(sampling->max_tokens, sizeof(*s.used));
        if (!s.used)
            return LORICA_ENOMEM;
    }
    *sampler = s;
    return 0;
}

void lorica_sampler_finish(struct lorica_sampler *sampler) {
    free(sampler->used);
    *sampler = (struct lorica_sampler){0};
}

double lorica_sampler_random(uint64_t seed, uint64_t counter) {
    /* Two rounds of a 64-bit mixer over seed and counter: no state, so that a choice depends on its
     * place in its own request only. */
    uint64_t z = seed;
    for (int round = 0; round < 2; round++) {
        z += 0x9e3779b97f4a7c15u * (counter + 1);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        z ^= z >> 31;
    }
    return (double)(z >> 11) * 0x1p-53;
}

/* Largest value, in lanes that compilers turn into vectors; false when a value is not finite. */
static bool find_max(const float *x, uint32_t n, float *ret) {
    float max[LANES], bad[LANES];
    uint32_t i = 0;
    for (int j = 0; j < LANES; j++) {
        max[j] = -FLT_MAX;
        bad[j] = 0;
    }
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            max[j] = x[i + j] > max[j] ? x[i + j] : max[j];
            bad[j] += x[i + j] * 0.0f; /* 0 for finite values, NaN else */
        }
    for (; i < n; i++) {
        max[0] = x[i] > max[0] ? x[i] : max[0];
        bad[0] += x[i] * 0.0f;
    }
    for (int j = 1; j < LANES; j++) {
        max[0] = max[j] > max[0] ? max[j] : max[0];
        bad[0] += bad[j];
    }
    *ret = max[0];
    return bad[0] == 0;
}

static int32_t first_equal(const float *x, uint32_t n, float value) {
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        int any = 0;
        for (int j = 0; j < LANES; j++)
            any |= x[i + j] == value;
        if (any)
            break;
    }
    while (i + 1 < n && x[i] != value)
        i++;
    return (int32_t)i;
}

/* True when a comes before b: more weight, or as much and a lower id. */
static bool before(const struct lorica_candidate *a, const struct lorica_candidate *b) {
    return a->weight != b->weight ? a->weight > b->weight : a->id < b->id;
}

static void sift_down(struct lorica_candidate *heap, uint32_t count, uint32_t i) {
    const struct lorica_candidate moving = heap[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moving))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

/* Moves the first `limit` candidates in order, or as many as it takes for their weight to reach
 * `enough`, to the END of the array, the first last. Returns how many. */
static uint32_t take_first(struct lorica_candidate *heap, uint32_t count, uint32_t limit,
                           double enough) {
    double taken = 0;
    uint32_t left = count;
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(heap, count, i);
    while (left > 0 && count - left < limit && (left == count || taken < enough)) {
        const struct lorica_candidate first = heap[0];
        taken += first.weight;
        heap[0] = heap[--left];
        heap[left] = first;
        sift_down(heap, left, 0);
    }
    return count - left;
}

static double total_weight(const struct lorica_candidate *c, uint32_t count) {
    double total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += c[i].weight;
    return total;
}

/* Candidates that matter, in order of id; min_p is a bound on the weight, since the likeliest
 * weighs 1. */
static uint32_t gather(const struct lorica_sampling *s, const float *logits, uint32_t vocab,
                       float max, struct lorica_candidate *out) {
    uint32_t count = 0;
    const float bound = NEGLIGIBLE * s->temperature;
    for (uint32_t i = 0; i < vocab; i++) {
        const float below = logits[i] - max;
        if (below < bound)
            continue;
        const float weight = expf(below / s->temperature);
        if (weight < s->min_p)
            continue;
        out[count++] = (struct lorica_candidate){weight, (int32_t)i};
    }
    return count;
}

static int32_t draw(const struct lorica_sampler *sampler, struct lorica_sampler_scratch *scratch,
                    const float *logits, uint32_t vocab, float max) {
    const struct lorica_sampling *s = sampler->sampling;
    struct lorica_candidate *c = scratch->candidates;
    uint32_t count = gather(s, logits, vocab, max, c);
    const double random = lorica_sampler_random(s->seed, sampler->position);
    if (s->top_k > 0 && s->top_k < count) {
        const uint32_t taken = take_first(c, count, s->top_k, INFINITY);
        c += count - taken;
        count = taken;
    }
    double total = total_weight(c, count);
    if (s->top_p < 1) {
        const uint32_t taken = take_first(c, count, count, (double)s->top_p * total);
        c += count - taken;
        count = taken;
        total = total_weight(c, count);
    }
    double at = random * total;
    for (uint32_t i = 0; i + 1 < count; i++) {
        at -= c[i].weight;
        if (at < 0)
            return c[i].id;
    }
    return c[count - 1].id;
}

/* The alternatives, likeliest first, by insertion: few ever pass the last one's bar. */
static void find_top(const float *logits, uint32_t vocab, uint32_t want,
                     struct lorica_choice *ret) {
    uint32_t count = 0;
    want = want < vocab ? want : vocab;
    for (uint32_t i = 0; i < vocab && want > 0; i++) {
        if (count == want && logits[i] <= ret->top[count - 1].logprob)
            continue;
        uint32_t at = count < want ? count++ : count - 1;
        for (; at > 0 && ret->top[at - 1].logprob < logits[i]; at--)
            ret->top[at] = ret->top[at - 1];
        ret->top[at] = (struct lorica_token_logprob){(int32_t)i, logits[i]};
    }
    ret->top_count = count;
}

/* Logits with bias and penalties: a copy when there are any, else the row itself. */
static const float *adjust(const struct lorica_sampler *sampler, float *copy, const float *logits,
                           uint32_t vocab) {
    const struct lorica_sampling *s = sampler->sampling;
    if (s->logit_bias_count == 0 && sampler->used_count == 0)
        return logits;
    memcpy(copy, logits, vocab * sizeof(*copy));
    for (size_t i = 0; i < s->logit_bias_count; i++)
        copy[s->logit_bias[i].id] += s->logit_bias[i].bias;
    for (uint32_t i = 0; i < sampler->used_count; i++)
        copy[sampler->used[i].id] -=
            s->presence_penalty + s->frequency_penalty * (float)sampler->used[i].count;
    return copy;
}

static void remember(struct lorica_sampler *sampler, int32_t id) {
    sampler->position++;
    if (!sampler->used)
        return;
    uint32_t i = 0;
    while (i < sampler->used_count && sampler->used[i].id != id)
        i++;
    if (i == sampler->used_count)
        sampler->used[sampler->used_count++] = (struct lorica_token_use){id, 0};
    sampler->used[i].count++;
}

int lorica_sampler_choose(struct lorica_sampler *sampler, const struct lorica_vec_kernels *vec,
                          struct lorica_sampler_scratch *scratch, const float *logits,
                          uint32_t vocab, struct lorica_choice *ret) {
    const struct lorica_sampling *s = sampler->sampling;
    float max;
    if (!find_max(logits, vocab, &max))
        return LORICA_EFORMAT;
    const float *adjusted = adjust(sampler, scratch->logits, logits, vocab);
    if (adjusted != logits && !find_max(adjusted, vocab, &max))
        return LORICA_EFORMAT;
    ret->id = s->temperature > 0 ? draw(sampler, scratch, adjusted, vocab, max)
                                 : first_equal(adjusted, vocab, max);
    ret->logprob = 0;
    ret->top_count = 0;
    if (s->top_logprobs >= 0) {
        float raw_max, sum;
        vec->logsumexp(logits, vocab, &raw_max, &sum);
        const float norm = raw_max + logf(sum);
        ret->logprob = logits[ret->id] - norm;
        find_top(logits, vocab, (uint32_t)s->top_logprobs, ret);
        for (uint32_t i = 0; i < ret->top_count; i++)
            ret->top[i].logprob -= norm;
    }
    remember(sampler, ret->id);
    return 0;
}
