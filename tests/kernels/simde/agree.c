/* SPDX-License-Identifier: MIT
 * The intrinsics of immintrin.h beside this file against the processor's: the same bits, and NaN
 * for NaN. Exit code 77 where there is no AVX-512. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "intrinsics.h"
#include "kernels/cpu.h"

#define ROUNDS 20000

static uint64_t state = 20240607;

static uint32_t next(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

/* Any bits; numbers near 1; whole numbers such as scales are; what is no normal number. */
static void fill(uint32_t *x, uint32_t kind) {
    static const uint32_t special[] = {0,           0x80000000u, 1,           0x807fffffu,
                                       0x7f800000u, 0xff800000u, 0x7fc00001u, 0x7f800001u,
                                       0x00800000u, 0x3f808000u, 0x3f818000u, 0x4f000000u};
    for (int i = 0; i < 16; i++) {
        const float number = kind == 1 ? (float)(int32_t)next() * 0x1p-30f
                                       : floorf((float)(int32_t)next() * 0x1p-23f) / 2;
        x[i] = next();
        if (kind == 1 || kind == 2)
            memcpy(&x[i], &number, sizeof(number));
        else if (kind == 3)
            x[i] = special[next() % (sizeof(special) / sizeof(special[0]))];
    }
}

static float value(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static int same(uint32_t got, uint32_t want) {
    return got == want || (isnan(value(got)) && isnan(value(want)));
}

int main(void) {
    uint32_t a[16], b[16], c[16], native[INTRINSICS_WORDS], simde[INTRINSICS_WORDS];
    if (!lorica_cpu_supports(LORICA_CPU_AVX512)) {
        printf("skipped: this processor has no AVX-512 to compare SIMDe with\n");
        return 77;
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        fill(a, round % 4);
        fill(b, round / 4 % 4);
        fill(c, round % 3);
        const size_t count = intrinsics_native(native, a, b, c);
        if (intrinsics_simde(simde, a, b, c) != count)
            return 1;
        for (size_t i = 0; i < count; i++) {
            if (same(simde[i], native[i]))
                continue;
            printf("round %u: result %zu, lane %zu: %08x, the processor says %08x\n", round, i / 16,
                   i % 16, simde[i], native[i]);
            return 1;
        }
    }
    return 0;
}
