/* SPDX-License-Identifier: MIT
 * Compares every version of every kernel that this machine can run with exact arithmetic, and times
 * them.
 *
 *     checkkern [--bench] [--family NAME] [--level NAME] [SEED]
 *
 * Exit code 1 when anything differs. A level that the machine cannot run is reported in a line that
 * begins with "skipped:". */
#include "check.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct check_family *const families[] = {
    &check_linear, &check_lora, &check_attn, &check_gemm, &check_vec,
};

#define FAMILIES (sizeof(families) / sizeof(families[0]))
#define GUARD_BYTES 128
#define GUARD 0x5a
#define SHOWN_FAILURES 20

struct buffer {
    struct buffer *next;
    unsigned char *base, *data;
    size_t base_nbytes, nbytes;
};

static struct buffer *buffers;
static uint64_t seed, random_state;
static int failures;
static const char *family_name;
static sigjmp_buf on_signal;

uint64_t check_random(void) {
    random_state += 0x9e3779b97f4a7c15u;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t check_below(uint32_t limit) { return (uint32_t)(check_random() >> 32) % limit; }

float check_uniform(void) { return (float)(check_random() >> 40) / (1 << 23) - 1; }

float check_normal(void) {
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += check_uniform();
    return sum / 2;
}

void check_fill(float *x, size_t count) {
    const uint32_t kind = check_below(5);
    for (size_t i = 0; i < count; i++) {
        x[i] = check_normal();
        if (kind == 1 && check_below(40) == 0)
            x[i] *= 50;
        if (kind == 2)
            x[i] *= 1e-6f;
        if (kind == 3)
            x[i] *= 1e4f;
        if (kind == 4 && check_below(2))
            x[i] = 0;
    }
}

void *check_buffer(size_t nbytes, size_t offset) {
    struct buffer *b = malloc(sizeof(*b));
    const size_t total = (nbytes + offset + 2 * GUARD_BYTES + 63) / 64 * 64;
    unsigned char *base = aligned_alloc(64, total);
    if (!b || !base) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    memset(base, GUARD, total);
    *b = (struct buffer){buffers, base, base + GUARD_BYTES + offset, total, nbytes};
    memset(b->data, 0xa5, nbytes);
    buffers = b;
    return b->data;
}

static bool guarded(const unsigned char *at, const unsigned char *end) {
    while (at < end && *at == GUARD)
        at++;
    return at == end;
}

void check_canaries(const char *where) {
    for (const struct buffer *b = buffers; b; b = b->next)
        if (!guarded(b->base, b->data) || !guarded(b->data + b->nbytes, b->base + b->base_nbytes))
            check_fail("%s: wrote outside a buffer of %zu bytes", where, b->nbytes);
}

static void free_buffers(void) {
    while (buffers) {
        struct buffer *b = buffers;
        buffers = b->next;
        free(b->base);
        free(b);
    }
}

void check_fail(const char *fmt, ...) {
    va_list args;
    if (++failures > SHOWN_FAILURES)
        return;
    printf("FAILED %s %s: ", family_name, lorica_cpu_level_name(lorica_cpu_level()));
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    printf("\n");
}

bool check_near(double got, double want, double bound, const char *what, size_t at) {
    if (fabs(got - want) <= bound)
        return true;
    check_fail("%s [%zu]: %.9g, exact %.9g, off by %.3g, bound %.3g", what, at, got, want,
               fabs(got - want), bound);
    return false;
}

bool check_same(const void *a, const void *b, size_t nbytes, const char *what) {
    if (memcmp(a, b, nbytes) == 0)
        return true;
    check_fail("%s: not the same bits", what);
    return false;
}

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Times of plain C, by name. */
static struct reference {
    char name[64];
    double ns;
} references[256];

/* What plain C took for this, 0 when it was not timed. */
static double reference_ns(const char *name, double ns) {
    const size_t count = sizeof(references) / sizeof(references[0]);
    size_t i = 0;
    while (i < count && references[i].name[0] && strcmp(references[i].name, name) != 0)
        i++;
    if (i == count)
        return 0;
    if (lorica_cpu_level() == LORICA_CPU_C) {
        snprintf(references[i].name, sizeof(references[i].name), "%s", name);
        references[i].ns = ns;
    }
    return references[i].ns;
}

void check_bench(const char *name, check_bench_fn fn, void *context, double nbytes, double ops) {
    fn(context);
    double begin = now_ns(), best = INFINITY;
    const double until = begin + 60e6;
    do {
        uint32_t calls = 0;
        const double start = now_ns();
        do {
            fn(context);
            calls++;
        } while (now_ns() - start < 1e6);
        const double each = (now_ns() - start) / calls;
        best = each < best ? each : best;
    } while (now_ns() < until);
    printf("%-34s %-7s %12.0f ns", name, lorica_cpu_level_name(lorica_cpu_level()), best);
    if (nbytes > 0)
        printf(" %8.2f GB/s", nbytes / best);
    if (ops > 0)
        printf(" %8.1f GOP/s", ops / best);
    const double plain = reference_ns(name, best);
    if (plain > 0)
        printf(" %8.2fx", plain / best);
    printf("\n");
    fflush(stdout);
}

static void handle_signal(int number) { siglongjmp(on_signal, number); }

static void run(const struct check_family *family, bool bench) {
    const int before = failures;
    family_name = family->name;
    random_state = seed;
    const int number = sigsetjmp(on_signal, 1);
    if (number != 0)
        check_fail("signal %d (%s)", number, strsignal(number));
    else if (bench)
        family->bench();
    else
        family->check();
    free_buffers();
    if (!bench)
        printf("%-7s %-7s %s\n", family->name, lorica_cpu_level_name(lorica_cpu_level()),
               failures == before ? "ok" : "FAILED");
    fflush(stdout);
}

static bool for_this_architecture(enum lorica_cpu_level level) {
#if defined(__aarch64__)
    return level == LORICA_CPU_C || level == LORICA_CPU_NEON;
#else
    return level != LORICA_CPU_NEON;
#endif
}

static void run_levels(const char *only_family, const char *only_level, bool bench) {
    for (int l = 0; l < LORICA_CPU_COUNT; l++) {
        const enum lorica_cpu_level level = (enum lorica_cpu_level)l;
        const char *name = lorica_cpu_level_name(level);
        if (!for_this_architecture(level) || (only_level && strcmp(only_level, name) != 0))
            continue;
        if (lorica_cpu_limit(level) != 0) {
            printf("skipped: %s kernels: this processor cannot run them\n", name);
            continue;
        }
        for (size_t f = 0; f < FAMILIES; f++)
            if (!only_family || strcmp(only_family, families[f]->name) == 0)
                run(families[f], bench);
    }
}

int main(int argc, char **argv) {
    const char *family = NULL, *level = NULL;
    bool bench = false;
    seed = (uint64_t)time(NULL);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            bench = true;
        } else if (strcmp(argv[i], "--family") == 0 && i + 1 < argc) {
            family = argv[++i];
        } else if (strcmp(argv[i], "--level") == 0 && i + 1 < argc) {
            level = argv[++i];
        } else {
            char *end;
            seed = strtoull(argv[i], &end, 0);
            if (end == argv[i] || *end) {
                fprintf(stderr,
                        "usage: checkkern [--bench] [--family NAME] [--level NAME] [SEED]\n");
                return 2;
            }
        }
    }
    static const int caught[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS};
    struct sigaction action = {.sa_handler = handle_signal};
    for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++)
        (void)sigaction(caught[i], &action, NULL);
    printf("%s, seed %llu\n", lorica_cpu_brand(), (unsigned long long)seed);
    run_levels(family, level, bench);
    if (failures)
        printf("%d failures\n", failures);
    return failures != 0;
}
