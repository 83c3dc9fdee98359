/* SPDX-License-Identifier: MIT */
#include "runtime/pace.h"

#include <stddef.h>

/* Weight of a new step in the sliding mean, and how far one may be from it: a step that was held up
 * by something else must not count as slow for long. */
#define WEIGHT 0.125f
#define MOST 3.0f
/* A pass over the weights costs as much as this many rows, as long as nothing else is known. */
#define FREE_ROWS 8
/* What a step that came late adds to the margin, and one that did not takes: in balance when one in
 * a hundred is late. */
#define MARGIN_UP 0.0495f
#define MARGIN_DOWN 0.0005f
#define MARGIN_MOST (1.0f / 3)

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

/* A step that was held up when it was the first of its kind would keep its kind from being tried
 * again, were it believed: beyond the exact buckets a step never takes more, row for row, than a
 * smaller one. */
static double believed(const struct lorica_pace_bucket *b, double rows_below,
                       double seconds_below) {
    if (rows_below <= LORICA_PACE_EXACT)
        return (double)b->seconds;
    const double most = seconds_below * (double)b->rows / rows_below;
    return (double)b->seconds < most ? (double)b->seconds : most;
}

double lorica_pace_seconds(const struct lorica_pace *pace, uint32_t rows) {
    double rows_below = 0, seconds_below = 0;
    for (uint32_t i = 1; i < LORICA_PACE_BUCKETS; i++) {
        const struct lorica_pace_bucket *b = &pace->buckets[i];
        if (b->rows == 0)
            continue;
        const double seconds = believed(b, rows_below, seconds_below);
        if (b->rows > (float)rows) {
            const double part = (rows - rows_below) / ((double)b->rows - rows_below);
            return rows_below == 0 ? seconds : seconds_below + part * (seconds - seconds_below);
        }
        rows_below = (double)b->rows;
        seconds_below = seconds;
    }
    if (rows_below == 0)
        return 0;
    return seconds_below *
           (1 + (rows - rows_below) / (rows_below > FREE_ROWS ? rows_below : FREE_ROWS));
}

void lorica_pace_judge(struct lorica_pace *pace, bool late) {
    const float margin = pace->margin + (late ? MARGIN_UP : -MARGIN_DOWN);
    pace->margin = margin < 0 ? 0 : margin > MARGIN_MOST ? MARGIN_MOST : margin;
}

uint32_t lorica_pace_rows(const struct lorica_pace *pace, double seconds, uint32_t least,
                          uint32_t most) {
    seconds *= 1 - (double)pace->margin;
    while (least < most) { /* times are taken as growing with rows */
        const uint32_t middle = least + (most - least + 1) / 2;
        if (lorica_pace_seconds(pace, middle) <= seconds)
            least = middle;
        else
            most = middle - 1;
    }
    return least;
}
