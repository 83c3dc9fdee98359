/* SPDX-License-Identifier: MIT */
#include "kernels/cpu.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

static const char *const names[LORICA_CPU_COUNT] = {"c", "avx2", "avxvnni", "avx512", "neon"};

static enum lorica_cpu_level level_limit;
static bool limited;

#if defined(__x86_64__)
/* The registers that the system saves: bits of XCR0. */
static uint64_t xgetbv0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Which levels there are: one bit for each, of level 0 in the lowest. */
static uint32_t detect_all(void) {
    uint32_t a, b, c, d, b7, c7, a71 = 0, unused, levels = 1u << LORICA_CPU_C;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA) || !(c & bit_F16C))
        return levels;
    const uint64_t saved = xgetbv0();
    if ((saved & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || !(b7 & bit_AVX2) ||
        !(b7 & bit_BMI2))
        return levels;
    levels |= 1u << LORICA_CPU_AVX2;
    if (!__get_cpuid_count(7, 1, &a71, &unused, &unused, &unused))
        return levels;
    if (a71 & bit_AVXVNNI)
        levels |= 1u << LORICA_CPU_AVXVNNI;
    const uint32_t wanted_b = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const uint32_t wanted_c = bit_AVX512VBMI | bit_AVX512VNNI;
    if ((saved & 0xe6) == 0xe6 && (b7 & wanted_b) == wanted_b && (c7 & wanted_c) == wanted_c &&
        (a71 & bit_AVX512BF16))
        levels |= 1u << LORICA_CPU_AVX512;
    return levels;
}
#elif defined(__aarch64__)
static uint32_t detect_all(void) {
    return 1u << LORICA_CPU_C | (getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? 1u << LORICA_CPU_NEON : 0);
}
#else
static uint32_t detect_all(void) { return 1u << LORICA_CPU_C; }
#endif

enum lorica_cpu_level lorica_cpu_detect(void) {
    return (enum lorica_cpu_level)(31 - __builtin_clz(detect_all()));
}

bool lorica_cpu_supports(enum lorica_cpu_level level) { return detect_all() >> level & 1; }

enum lorica_cpu_level lorica_cpu_level(void) { return limited ? level_limit : lorica_cpu_detect(); }

int lorica_cpu_limit(enum lorica_cpu_level level) {
    if (!lorica_cpu_supports(level))
        return LORICA_EUNSUPPORTED;
    level_limit = level;
    limited = true;
    return 0;
}

int lorica_cpu_limit_from_env(struct lorica_error *err) {
    const char *word = getenv("LORICA_CPU");
    if (!word || !word[0])
        return 0;
    for (int i = 0; i < LORICA_CPU_COUNT; i++) {
        if (strcmp(word, names[i]) != 0)
            continue;
        if (lorica_cpu_limit((enum lorica_cpu_level)i) == 0)
            return 0;
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "LORICA_CPU=%s: this machine cannot run that; its best is %s", word,
                           names[lorica_cpu_detect()]);
    }
    return lorica_fail(err, LORICA_EINVAL,
                       "LORICA_CPU=%s: c, avx2, avxvnni, avx512 or neon expected", word);
}

const char *lorica_cpu_level_name(enum lorica_cpu_level level) { return names[level]; }

const char *lorica_cpu_brand(void) {
#if defined(__x86_64__)
    static char brand[49];
    uint32_t *words = (uint32_t[12]){0};
    if ((uint32_t)__get_cpuid_max(0x80000000, NULL) >= 0x80000004u) {
        for (uint32_t i = 0; i < 3; i++)
            (void)__get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                              &words[4 * i + 3]);
        memcpy(brand, words, 48);
        return brand;
    }
#endif
    return "unknown processor";
}
