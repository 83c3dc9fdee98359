/* SPDX-License-Identifier: MIT
 * The numbers that order, masks and beginnings are made of: splitmix64, a counter well mixed. */
#ifndef LORICA_RUNTIME_TRAIN_RANDOM_H
#define LORICA_RUNTIME_TRAIN_RANDOM_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t lorica_random_next(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/** Shuffles `count` groups of `stride` indices each. */
static inline void lorica_random_shuffle(size_t *order, size_t count, size_t stride,
                                         uint64_t *state) {
    for (size_t i = count; i-- > 1;) {
        const size_t j = lorica_random_next(state) % (i + 1);
        for (size_t s = 0; s < stride; s++) {
            const size_t kept = order[i * stride + s];
            order[i * stride + s] = order[j * stride + s];
            order[j * stride + s] = kept;
        }
    }
}

#endif
