/* SPDX-License-Identifier: MIT */
#include "runtime/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/pool.h"
#include "runtime/train/model.h"

static int exact_logits(const struct lorica_eval *eval, const int32_t *ids, uint32_t batch,
                        uint32_t time, float *logits, struct lorica_error *err) {
    struct lorica_pool *pool;
    int rc = lorica_pool_create(eval->threads, &pool, err);
    if (rc)
        return rc;
    rc = lorica_exact_logits(eval->base, eval->exact, pool, ids, batch, time, logits, err);
    lorica_pool_destroy(pool);
    return rc;
}

int lorica_eval_logits(const struct lorica_eval *eval, enum lorica_compute compute,
                       const int32_t *ids, uint32_t batch, uint32_t time, float *logits,
                       struct lorica_error *err) {
    if (compute == LORICA_COMPUTE_EXACT)
        return exact_logits(eval, ids, batch, time, logits, err);
    int rc = 0;
    for (uint32_t i = 0; i < batch && !rc; i++)
        rc = lorica_engine_logits(eval->base, eval->fast, eval->kv_format, eval->threads,
                                  ids + (size_t)i * time, time,
                                  logits + (size_t)i * time * eval->base->arch.vocab, err);
    return rc;
}

/* max + log(sum(exp(x - max))) in double; *ret_top: where the largest stands. */
static double log_sum_exp(const float *x, uint32_t n, uint32_t *ret_top) {
    uint32_t top = 0;
    for (uint32_t i = 1; i < n; i++)
        top = x[i] > x[top] ? i : top;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)x[top]);
    *ret_top = top;
    return (double)x[top] + log(sum);
}

/* Sums over the windows so far. */
struct sums {
    double nll, fast_nll, kl;
    uint64_t tokens, positions, agree;
    double *kls; /* one per position, for the percentile; NULL without kl */
};

static void add_kl(struct sums *s, const float *exact, const float *fast, uint32_t vocab,
                   double exact_sum, double fast_sum, bool agree) {
    double kl = 0;
    for (uint32_t j = 0; j < vocab; j++) {
        const double p = (double)exact[j] - exact_sum;
        kl += exp(p) * (p - ((double)fast[j] - fast_sum));
    }
    s->kl += kl;
    s->kls[s->positions++] = kl;
    s->agree += agree;
}

static void add_window(struct sums *s, const int32_t *ids, uint32_t count, const float *logits,
                       const float *fast, uint32_t vocab) {
    for (uint32_t i = 0; i < count; i++) {
        uint32_t top, fast_top = 0;
        const float *row = logits + (size_t)i * vocab;
        const float *fast_row = fast ? fast + (size_t)i * vocab : NULL;
        const double sum = log_sum_exp(row, vocab, &top);
        const double fast_sum = fast ? log_sum_exp(fast_row, vocab, &fast_top) : 0;
        if (fast)
            add_kl(s, row, fast_row, vocab, sum, fast_sum, top == fast_top);
        if (i + 1 == count)
            break;
        s->nll += sum - (double)row[ids[i + 1]];
        s->fast_nll += fast ? fast_sum - (double)fast_row[ids[i + 1]] : 0;
        s->tokens++;
    }
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void conclude(struct sums *s, struct lorica_eval_result *ret) {
    *ret = (struct lorica_eval_result){.tokens = s->tokens, .nll = s->nll / (double)s->tokens};
    ret->perplexity = exp(ret->nll);
    if (!s->kls)
        return;
    ret->fast_nll = s->fast_nll / (double)s->tokens;
    ret->fast_perplexity = exp(ret->fast_nll);
    ret->mean_kl = s->kl / (double)s->positions;
    qsort(s->kls, s->positions, sizeof(*s->kls), compare_doubles);
    ret->p99_kl = s->kls[(s->positions - 1) * 99 / 100];
    ret->top1_agreement = (double)s->agree / (double)s->positions;
}

/* One buffer of a window's logits, two with kl. */
static int run_windows(const struct lorica_eval *eval, enum lorica_compute compute, bool kl,
                       const int32_t *ids, size_t count, uint32_t window, float *logits,
                       lorica_eval_progress_fn progress, void *progress_arg, struct sums *sums,
                       struct lorica_error *err) {
    const uint32_t vocab = eval->base->arch.vocab;
    float *fast = kl ? logits + (size_t)window * vocab : NULL;
    int rc = 0;
    for (size_t at = 0; at + 1 < count && !rc; at += window) {
        const uint32_t n = count - at < window ? (uint32_t)(count - at) : window;
        rc = lorica_eval_logits(eval, kl ? LORICA_COMPUTE_EXACT : compute, ids + at, 1, n, logits,
                                err);
        if (!rc && kl)
            rc = lorica_eval_logits(eval, LORICA_COMPUTE_FAST, ids + at, 1, n, fast, err);
        if (!rc)
            add_window(sums, ids + at, n, logits, fast, vocab);
        if (!rc && progress)
            progress(progress_arg, at + n, count);
    }
    return rc;
}

int lorica_eval_perplexity(const struct lorica_eval *eval, enum lorica_compute compute, bool kl,
                           const int32_t *ids, size_t count, uint32_t window,
                           lorica_eval_progress_fn progress, void *progress_arg,
                           struct lorica_eval_result *ret, struct lorica_error *err) {
    if (count < 2)
        return lorica_fail(err, LORICA_EINVAL, "the text has %zu tokens: two at least are needed",
                           count);
    if (window < 2 || window > eval->base->arch.max_positions)
        return lorica_fail(err, LORICA_EINVAL, "a window of %u tokens: 2 to %u are possible",
                           window, eval->base->arch.max_positions);
    if (count < window)
        window = (uint32_t)count;
    struct sums sums = {.kls = kl ? calloc(count, sizeof(*sums.kls)) : NULL};
    float *logits = calloc((size_t)window * (kl ? 2 : 1), sizeof(*logits) * eval->base->arch.vocab);
    int rc = logits && (!kl || sums.kls)
                 ? run_windows(eval, compute, kl, ids, count, window, logits, progress,
                               progress_arg, &sums, err)
                 : lorica_fail(err, LORICA_ENOMEM,
                               "no memory for the logits of %u tokens: use a "
                               "smaller window",
                               window);
    if (!rc)
        conclude(&sums, ret);
    free(sums.kls);
    free(logits);
    return rc;
}
