/* SPDX-License-Identifier: MIT
 * A trainer's checkpoint from any bytes, whose digest always holds. What is read must be a place
 * that a run can go on from. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/train/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define EXAMPLES 4
#define PASSES 2
#define ROWS 3

static void *zero_create(void) { return malloc(1); }

static int zero_update(void *stream, const void *bytes, size_t len) {
    (void)stream, (void)bytes, (void)len;
    return 0;
}

static int zero_finish(void *stream, struct lorica_digest *ret) {
    if (ret)
        memset(ret, 0, sizeof(*ret));
    free(stream);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    static const struct lorica_hasher hasher = {zero_create, zero_update, zero_finish};
    static const struct lorica_checkpoint_fact fact = {"--lr", "0.5"};
    struct lorica_checkpoint_state state = {0};
    float a[5], b[3];
    uint8_t moments[64];
    size_t order[EXAMPLES], ends[PASSES], begin = 0;
    float best[8];
    char notes[6];
    const struct iovec weights[] = {{a, sizeof(a)}, {b, sizeof(b)}};
    const struct lorica_checkpoint checkpoint = {.facts = &fact,
                                                 .fact_count = 1,
                                                 .state = &state,
                                                 .weights = weights,
                                                 .weights_count = 2,
                                                 .best = best,
                                                 .best_count = 8,
                                                 .moments = moments,
                                                 .moments_nbytes = sizeof(moments),
                                                 .order = order,
                                                 .order_count = EXAMPLES,
                                                 .ends = ends,
                                                 .ends_count = PASSES,
                                                 .max_rows = ROWS,
                                                 .notes = {notes, sizeof(notes)}};
    if (lorica_checkpoint_decode(data, len, &hasher, &checkpoint, NULL) != 0) {
        if (state.step != 0)
            abort();
        return 0;
    }
    if (state.step == 0 || state.pass > PASSES || ends[PASSES - 1] != EXAMPLES)
        abort();
    for (size_t i = 0; i < PASSES; begin = ends[i++])
        if (ends[i] < begin || ends[i] - begin > ROWS)
            abort();
    for (size_t i = 0; i < EXAMPLES; i++)
        if (order[i] >= EXAMPLES)
            abort();
    return 0;
}
