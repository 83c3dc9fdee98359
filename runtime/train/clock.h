/* SPDX-License-Identifier: MIT
 * Where the time of a pass goes, as its first thread sees it. */
#ifndef LORICA_RUNTIME_TRAIN_CLOCK_H
#define LORICA_RUNTIME_TRAIN_CLOCK_H

#include <time.h>

enum lorica_part {
    LORICA_PART_PRODUCTS, /**< with the frozen weights of the layers, and the adapter's B */
    LORICA_PART_LORA,     /**< the other products of adapters */
    LORICA_PART_ATTENTION,
    LORICA_PART_ROWS,      /**< norms, rotation, activation, embedding */
    LORICA_PART_HEAD,      /**< output head and its gradient */
    LORICA_PART_LOSS,      /**< cross-entropy */
    LORICA_PART_OPTIMIZER, /**< clipping and AdamW */
    LORICA_PART_COUNT
};

struct lorica_clock {
    double seconds[LORICA_PART_COUNT];
    double last; /**< when the present part began */
};

static inline double lorica_clock_now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/** Begins to count. NULL is accepted. */
static inline void lorica_clock_start(struct lorica_clock *clock) {
    if (clock)
        clock->last = lorica_clock_now();
}

/** The time since the last mark was `part`'s. NULL is accepted. */
static inline void lorica_clock_mark(struct lorica_clock *clock, enum lorica_part part) {
    if (!clock)
        return;
    const double now = lorica_clock_now();
    clock->seconds[part] += now - clock->last;
    clock->last = now;
}

#endif
