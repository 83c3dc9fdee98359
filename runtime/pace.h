/* SPDX-License-Identifier: MIT
 * How long a step takes by its number of rows, learned as steps run: what decides how much of a
 * prompt fits beside running answers, and whether guessing ahead pays. It steers only when things
 * are computed, never what. */
#ifndef LORICA_RUNTIME_PACE_H
#define LORICA_RUNTIME_PACE_H

#include <stdbool.h>
#include <stdint.h>

/** Each number of rows up to this is known by itself; above, in steps of a quarter. */
#define LORICA_PACE_EXACT 16
#define LORICA_PACE_BUCKETS 64

struct lorica_pace {
    struct lorica_pace_bucket {
        float rows, seconds; /**< sliding means; 0: nothing known */
    } buckets[LORICA_PACE_BUCKETS];
    float
        margin; /**< part of the time given to a step that is kept free, because steps came late */
};

/** Takes in that a step of `rows` >= 1 took `seconds`. */
void lorica_pace_note(struct lorica_pace *pace, uint32_t rows, double seconds);

/** How long a step of `rows` should take; between known numbers on a line; beyond them each row
 * costs its share of the largest known step, or an eighth of a smaller one. 0 while nothing is
 * known. Above LORICA_PACE_EXACT rows a row costs no more than it does in a smaller step. */
double lorica_pace_seconds(const struct lorica_pace *pace, uint32_t rows);

/** Takes in whether a step that was filled as far as its time allows came late after all. The
 * margin grows and shrinks so that one in a hundred does, up to a third of the time. */
void lorica_pace_judge(struct lorica_pace *pace, bool late);

/** The most rows, from `least` to `most`, whose step should take `seconds`, less the margin, or
 * less; `least` when not even these do. */
uint32_t lorica_pace_rows(const struct lorica_pace *pace, double seconds, uint32_t least,
                          uint32_t most);

#endif
