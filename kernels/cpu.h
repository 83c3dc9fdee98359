/* SPDX-License-Identifier: MIT
 * What this processor can run, and how much of it may be used. */
#ifndef LORICA_KERNELS_CPU_H
#define LORICA_KERNELS_CPU_H

#include <stdbool.h>

#include "proto/err.h"

/** Instruction-set levels, each a usable whole (CPUID says so and, through XGETBV, the system
 * saves the registers). Ascending; a kernel of a lower level runs on a higher one. */
enum lorica_cpu_level {
    LORICA_CPU_C,       /**< plain C */
    LORICA_CPU_AVX2,    /**< AVX2 + FMA + F16C */
    LORICA_CPU_AVXVNNI, /**< AVX2 + AVX-VNNI, which so far no kernel is faster with: as AVX2 */
    LORICA_CPU_AVX512,  /**< AVX-512 F/BW/DQ/VL/VBMI + VNNI + BF16 */
    LORICA_CPU_NEON,    /**< Armv8.2 with dotprod (arm64 only; there it stands above C) */
    LORICA_CPU_COUNT
};

/** The best level of this machine, ignoring any limit. */
enum lorica_cpu_level lorica_cpu_detect(void);

/** True when this machine can run kernels of `level`. */
bool lorica_cpu_supports(enum lorica_cpu_level level);

/** The level that kernel tables are filled for: the best, unless lorica_cpu_limit set another. */
enum lorica_cpu_level lorica_cpu_level(void);

/** Limits the level from now on (tests, LORICA_CPU). LORICA_EUNSUPPORTED if the machine lacks it.
 * Not thread-safe; call it before any kernel table is initialised. */
int lorica_cpu_limit(enum lorica_cpu_level level) LORICA_MUSTCHECK;

/** Applies $LORICA_CPU (c, avx2, avxvnni, avx512, neon) when it is set and not empty. LORICA_EINVAL
 * for another word, LORICA_EUNSUPPORTED for a level that this machine lacks; `err` says which there
 * are. Call once at start-up. */
int lorica_cpu_limit_from_env(struct lorica_error *err) LORICA_MUSTCHECK;

/** "c", "avx2", "avxvnni", "avx512", "neon". */
const char *lorica_cpu_level_name(enum lorica_cpu_level level);

/** The processor's brand string, for reports. Static storage. */
const char *lorica_cpu_brand(void);

#endif
