/* SPDX-License-Identifier: MIT
 * The forward of serving without its scheduler. */
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/forward.h"
#include "runtime/kv.h"
#include "runtime/model.h"
#include "runtime/pool.h"

/* Rows of one step. Results do not depend on it. */
#define CHUNK 64

/* Everything one call needs. */
struct logits_run {
    struct lorica_model model;
    struct lorica_kv kv;
    struct lorica_pool *pool;
    struct lorica_forward *forward;
    uint32_t *pages;
};

static int open_run(struct logits_run *run, const struct lorica_base *base,
                    const struct lorica_adapter *adapter, enum lorica_kv_format kv_format,
                    unsigned threads, uint32_t count, struct lorica_error *err) {
    int rc = lorica_model_init(&run->model, base, err);
    if (!rc)
        rc = lorica_kv_init(&run->kv, &base->arch, kv_format, count, err);
    if (!rc)
        rc = lorica_pool_create(threads, &run->pool, err);
    if (!rc)
        rc = lorica_forward_create(&run->model, &run->kv, run->pool, CHUNK, CHUNK, &run->forward,
                                   err);
    if (!rc && adapter)
        rc = lorica_forward_reserve_rank(run->forward, adapter->max_rank, err);
    if (rc)
        return rc;
    run->pages = malloc(run->kv.pages * sizeof(*run->pages));
    if (!run->pages || lorica_kv_take(&run->kv, run->pages, run->kv.pages) != 0)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the sequence's pages");
    return 0;
}

static void close_run(struct logits_run *run) {
    free(run->pages);
    lorica_forward_destroy(run->forward);
    lorica_pool_destroy(run->pool);
    lorica_kv_finish(&run->kv);
    lorica_model_finish(&run->model);
}

static void run_chunk(struct logits_run *run, const struct lorica_adapter *adapter,
                      const int32_t *ids, size_t first, uint32_t count, float *logits) {
    const size_t vocab = run->model.base->arch.vocab;
    struct lorica_row rows[CHUNK];
    for (uint32_t i = 0; i < count; i++)
        rows[i] = (struct lorica_row){.token = ids[first + i],
                                      .position = (uint32_t)first + i,
                                      .pages = run->pages,
                                      .adapter = adapter,
                                      .wants_logits = true};
    lorica_forward_run(run->forward, rows, count);
    for (uint32_t i = 0; i < count; i++)
        memcpy(logits + (first + i) * vocab, lorica_forward_logits(run->forward, i),
               vocab * sizeof(*logits));
}

int lorica_engine_logits(const struct lorica_base *base, struct lorica_adapter *adapter,
                         enum lorica_kv_format kv_format, unsigned threads, const int32_t *ids,
                         size_t count, float *logits, struct lorica_error *err) {
    if (count < 1 || count > base->arch.max_positions)
        return lorica_fail(err, LORICA_EINVAL, "%zu tokens: 1 to %u are possible", count,
                           base->arch.max_positions);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= base->arch.vocab)
            return lorica_fail(err, LORICA_EINVAL, "token %d is not one of the model's %u", ids[i],
                               base->arch.vocab);
    struct logits_run run = {0};
    const int rc = open_run(&run, base, adapter, kv_format, threads, (uint32_t)count, err);
    for (size_t first = 0; !rc && first < count; first += CHUNK)
        run_chunk(&run, adapter, ids, first,
                  count - first < CHUNK ? (uint32_t)(count - first) : CHUNK, logits);
    close_run(&run);
    return rc;
}
