/* SPDX-License-Identifier: MIT
 * The exact forward pass to logits. */
#include <string.h>

#include "runtime/train/pass.h"

#define ROWS_AT_ONCE 1024 /* short sequences are put together up to this many rows */

struct exact_job {
    struct lorica_pass *pass;
    struct lorica_layer_acts acts;
    const int32_t *ids;
    float *logits;
};

static void run(void *arg, unsigned thread, unsigned threads) {
    const struct exact_job *job = arg;
    struct lorica_pass *pass = job->pass;
    const struct lorica_base *base = pass->base;
    const uint32_t layers = base->arch.layers;
    lorica_pass_embed(pass, thread, job->ids);
    for (uint32_t l = 0; l < layers; l++)
        lorica_pass_layer(pass, thread, l, &job->acts);
    lorica_pass_norm(pass, thread, pass->stream, base->final_norm, &job->acts, LORICA_ACT_X,
                     pass->normed);
    lorica_pool_barrier(pass->pool);
    const struct lorica_term head = {
        .a = pass->normed, .lda = base->arch.hidden, .w = &base->head, .scale = 1.0f};
    lorica_pass_product(pass, thread, job->logits, base->arch.vocab, pass->tokens, base->arch.vocab,
                        &head, 1, LORICA_GEMM_SET);
}

int lorica_train_check_ids(const struct lorica_arch *arch, const int32_t *ids, size_t count,
                           struct lorica_error *err) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= arch->vocab)
            return lorica_fail(err, LORICA_EINVAL,
                               "token id %d at position %zu: the model knows 0 to %u", ids[i], i,
                               arch->vocab - 1);
    return 0;
}

static void run_all(struct exact_job *job, const struct lorica_adapter *adapter, uint32_t batch,
                    uint32_t time, float *logits) {
    const int32_t *ids = job->ids;
    for (uint32_t b = 0; b < batch;) {
        job->ids = ids + (size_t)b * time;
        job->logits = logits + (size_t)b * time * job->pass->base->arch.vocab;
        lorica_pass_begin(job->pass, adapter);
        do
            lorica_pass_add(job->pass, time);
        while (++b < batch && job->pass->tokens + time <= job->pass->max_tokens);
        lorica_pool_run(job->pass->pool, run, job);
    }
}

int lorica_exact_logits(const struct lorica_base *base, const struct lorica_adapter *adapter,
                        struct lorica_pool *pool, const int32_t *ids, uint32_t batch, uint32_t time,
                        float *logits, struct lorica_error *err) {
    const uint32_t most =
        ROWS_AT_ONCE / (time > 0 ? time : 1) < batch ? ROWS_AT_ONCE / (time > 0 ? time : 1) : batch;
    struct lorica_pass pass = {0};
    struct exact_job job = {.pass = &pass, .ids = ids};
    if (batch == 0 || time == 0 || time > base->arch.max_positions)
        return lorica_fail(err, LORICA_EINVAL,
                           "%u sequences of %u tokens: the model takes 1 to %u tokens", batch, time,
                           base->arch.max_positions);
    int rc = lorica_train_check_ids(&base->arch, ids, (size_t)batch * time, err);
    if (rc == 0)
        rc = lorica_pass_init(&pass, base, NULL, pool, LORICA_OPERAND_F32,
                              most > 1 ? most * time : time, adapter ? adapter->max_rank : 0, false,
                              err);
    if (rc != 0)
        return rc;
    if (lorica_pass_acts(&pass, job.acts.of, LORICA_ACT_X, LORICA_ACT_COUNT, sizeof(float))) {
        memcpy(job.acts.kept, job.acts.of, sizeof(job.acts.of));
        run_all(&job, adapter, batch, time, logits);
    } else {
        rc = lorica_fail(err, LORICA_ENOMEM, "no memory for a pass over %u tokens", time);
    }
    lorica_pass_finish(&pass);
    return rc;
}
