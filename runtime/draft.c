/* SPDX-License-Identifier: MIT */
#include "runtime/draft.h"

/* Ends shorter than this say too little; longer ones than that say no more. */
#define SHORTEST 2
#define LONGEST 16

/* How many tokens before `a` and before `b` (a < b) are the same. */
static uint32_t common_end(const int32_t *tokens, uint32_t a, uint32_t b) {
    uint32_t n = 0;
    while (n < a && n < LONGEST && tokens[a - 1 - n] == tokens[b - 1 - n])
        n++;
    return n;
}

uint32_t lorica_draft_lookup(const int32_t *tokens, uint32_t count, uint32_t most, int32_t *ret) {
    uint32_t best = 0, best_end = 0;
    if (count < SHORTEST + 1)
        return 0;
    for (uint32_t end = count - 1; end >= SHORTEST && best < LONGEST; end--) {
        if (tokens[end - 1] != tokens[count - 1])
            continue;
        const uint32_t length = common_end(tokens, end, count);
        if (length > best) {
            best = length;
            best_end = end;
        }
    }
    if (best < SHORTEST)
        return 0;
    for (uint32_t i = 0; i < most; i++)
        ret[i] = best_end + i < count ? tokens[best_end + i] : ret[best_end + i - count];
    return most;
}
