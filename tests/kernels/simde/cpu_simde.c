/* SPDX-License-Identifier: MIT
 * cpu.h for a program whose AVX-512 kernels are SIMDe's: any processor with AVX2 runs that level,
 * since the kernels fall back to AVX2 for a few packings. */
#include "kernels/cpu.h"

static enum lorica_cpu_level limit = LORICA_CPU_AVX512;

bool lorica_cpu_supports(enum lorica_cpu_level level) {
    return level == LORICA_CPU_C ||
           (level == LORICA_CPU_AVX512 && __builtin_cpu_supports("avx2") &&
            __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"));
}

enum lorica_cpu_level lorica_cpu_detect(void) {
    return lorica_cpu_supports(LORICA_CPU_AVX512) ? LORICA_CPU_AVX512 : LORICA_CPU_C;
}

enum lorica_cpu_level lorica_cpu_level(void) { return limit; }

int lorica_cpu_limit(enum lorica_cpu_level level) {
    if (!lorica_cpu_supports(level))
        return LORICA_EUNSUPPORTED;
    limit = level;
    return 0;
}

const char *lorica_cpu_level_name(enum lorica_cpu_level level) {
    return level == LORICA_CPU_AVX512 ? "simde" : level == LORICA_CPU_C ? "c" : "none";
}

const char *lorica_cpu_brand(void) { return "AVX-512 through SIMDe"; }
