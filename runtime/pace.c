/* SPDX-License-Identifier: MIT */
#include "runtime/pace.h"

#include <stdbool.h>
#include <stddef.h>

/* Weight of a new step in the sliding mean, and how far one may be from it: a step that was held up
 * by something else must not count as slow for long. */
#define WEIGHT 0.125f
#define MOST 3.0f
/* A pass over the weights costs as much as this many rows, as long as nothing else is known. */
#define FREE_ROWS 8

static uint32_t bucket_of(uint32_t rows) {
    if (rows <= LORICA_PACE_EXACT)
        return rows;
    /* Four buckets for each doubling. */
    const uint32_t top = 31 - (uint32_t)__builtin_clz(rows);
    const uint32_t bucket = LORICA_PACE_EXACT + 4 * (top - 4) + ((rows >> (top - 2)) & 3) + 1;
    return bucket < LORICA_PACE_BUCKETS ? bucket : LORICA_PACE_BUCKETS - 1;
}

void lorica_pace_note(struct lorica_pace *pace, uint32_t rows, double seconds) {
    struct lorica_pace_bucket *b = &pace->buckets[bucket_of(rows)];
    float taken = (float)seconds;
    if (b->rows == 0) {
        *b = (struct lorica_pace_bucket){(float)rows, taken};
        return;
    }
    taken = taken < MOST * b->seconds ? taken : MOST * b->seconds;
    b->rows += WEIGHT * ((float)rows - b->rows);
    b->seconds += WEIGHT * (taken - b->seconds);
}

double lorica_pace_seconds(const struct lorica_pace *pace, uint32_t rows) {
    const struct lorica_pace_bucket *below = NULL, *above = NULL;
    for (uint32_t i = 1; i < LORICA_PACE_BUCKETS && !above; i++) {
        const struct lorica_pace_bucket *b = &pace->buckets[i];
        if (b->rows == 0)
            continue;
        if (b->rows <= (float)rows)
            below = b;
        else
            above = b;
    }
    if (!below)
        return above ? (double)above->seconds : 0;
    if (!above)
        return (double)below->seconds *
               (1 + (rows - (double)below->rows) /
                        ((double)below->rows > FREE_ROWS ? (double)below->rows : FREE_ROWS));
    const double part = (rows - (double)below->rows) / ((double)above->rows - (double)below->rows);
    return (double)below->seconds + part * ((double)above->seconds - (double)below->seconds);
}

uint32_t lorica_pace_rows(const struct lorica_pace *pace, double seconds, uint32_t least,
                          uint32_t most) {
    while (least < most) { /* times are taken as growing with rows */
        const uint32_t middle = least + (most - least + 1) / 2;
        if (lorica_pace_seconds(pace, middle) <= seconds)
            least = middle;
        else
            most = middle - 1;
    }
    return least;
}
