/* SPDX-License-Identifier: MIT */
#include "gateway/bench/bench_machine.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/cmd/cmd.h"
#include "gateway/cmd/table.h"
#include "kernels/cpu.h"
#include "kernels/gemm.h"
#include "kernels/linear.h"
#include "proto/json.h"

#define MAX_THREADS 256
#define REPEATS 5
/* Rounds and passes that take some hundredths of a second. */
#define PRODUCT_ROUNDS 2000000u
#define GEMM_ROUNDS 1000000u
#define MEMORY_WORDS ((size_t)256 << 17)
#define LEVEL3_WORDS ((size_t)16 << 17)
#define LEVEL3_PASSES 16

/* One measurement, done by all threads. */
struct job {
    double (*compute)(uint64_t rounds); /* or, when NULL: read */
    uint64_t rounds;
    const uint64_t *words;
    size_t count;
    uint32_t passes;
    double done[MAX_THREADS];
};

static double seconds_now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Sixteen bytes at a time: words one by one would be counted slower than the caches deliver. */
typedef uint64_t pair __attribute__((vector_size(16)));

/* Reads this thread's part; returns the bytes. */
static double read_part(const struct job *job, unsigned thread, unsigned threads) {
    const size_t lines = job->count / 8 / threads;
    const pair *begin = (const pair *)job->words + lines * 4 * thread;
    pair a = {0}, b = {0}, c = {0}, d = {0};
    for (uint32_t p = 0; p < job->passes; p++)
        for (const pair *at = begin; at < begin + lines * 4; at += 4) {
            a += at[0];
            b += at[1];
            c += at[2];
            d += at[3];
        }
    a += b + c + d;
    volatile uint64_t sink = a[0] + a[1];
    (void)sink;
    return (double)lines * 64 * job->passes;
}

static void run_job(void *arg, unsigned thread, unsigned threads) {
    struct job *job = arg;
    job->done[thread] = job->compute ? job->compute(job->rounds) : read_part(job, thread, threads);
}

/* The best of some runs, in 1e9 of whatever the job counts, a second. */
static double best_of(struct lorica_pool *pool, struct job *job) {
    double best = 0;
    for (int i = 0; i < REPEATS; i++) {
        const double start = seconds_now();
        lorica_pool_run(pool, run_job, job);
        const double seconds = seconds_now() - start;
        double done = 0;
        for (unsigned t = 0; t < lorica_pool_threads(pool); t++)
            done += job->done[t];
        best = done / seconds > best ? done / seconds : best;
    }
    return best * 1e-9;
}

static double compute(struct lorica_pool *pool, double (*fn)(uint64_t), uint64_t rounds) {
    struct job job = {.compute = fn, .rounds = rounds};
    return best_of(pool, &job);
}

static double gemm_peak(struct lorica_pool *pool, enum lorica_operand operand) {
    struct lorica_gemm_kernels gemm;
    lorica_gemm_kernels_init(&gemm, operand);
    return compute(pool, gemm.peak, GEMM_ROUNDS);
}

bool lorica_bench_machine_measure(struct lorica_pool *pool, struct lorica_bench_machine *ret) {
    struct lorica_linear_kernels linear;
    uint64_t *words = aligned_alloc(64, MEMORY_WORDS * sizeof(*words));
    if (!words)
        return false;
    memset(words, 1, MEMORY_WORDS * sizeof(*words));
    struct job memory = {.words = words, .count = MEMORY_WORDS, .passes = 1};
    struct job level3 = {.words = words, .count = LEVEL3_WORDS, .passes = LEVEL3_PASSES};
    lorica_linear_kernels_init(&linear);
    *ret = (struct lorica_bench_machine){.form = linear.peak_form,
                                         .products = compute(pool, linear.peak, PRODUCT_ROUNDS),
                                         .f32 = gemm_peak(pool, LORICA_OPERAND_F32),
                                         .bf16 = lorica_gemm_fastest() == LORICA_OPERAND_BF16
                                                     ? gemm_peak(pool, LORICA_OPERAND_BF16)
                                                     : 0,
                                         .memory = best_of(pool, &memory),
                                         .level3 = best_of(pool, &level3)};
    free(words);
    return true;
}

static bool print_table(const struct lorica_bench_machine *m) {
    static const char *const headings[] = {"what", "peak", "unit", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    const struct {
        const char *what;
        double peak;
        const char *unit;
    } lines[] = {{m->form, m->products, "GOP/s"},
                 {"float32", m->f32, "GFLOP/s"},
                 {"bfloat16", m->bf16, "GFLOP/s"},
                 {"read of 256 MiB", m->memory, "GB/s"},
                 {"read of 16 MiB", m->level3, "GB/s"}};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        if (lines[i].peak == 0)
            continue;
        lorica_table_text(table, lines[i].what);
        lorica_table_format(table, "%.1f", lines[i].peak);
        lorica_table_text(table, lines[i].unit);
    }
    const bool printed = lorica_table_print(table, stdout);
    lorica_table_destroy(table);
    return printed;
}

static bool print_json(const struct lorica_bench_machine *m, unsigned threads) {
    struct lorica_buf out;
    struct lorica_jsonw w = {.out = &out};
    lorica_buf_init(&out, 1u << 12);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "cpu", lorica_cpu_brand());
    lorica_jsonw_string(&w, "level", lorica_cpu_level_name(lorica_cpu_level()));
    lorica_jsonw_integer(&w, "threads", threads);
    lorica_jsonw_string(&w, "products_form", m->form);
    lorica_jsonw_number(&w, "products_gops", m->products);
    lorica_jsonw_number(&w, "f32_gflops", m->f32);
    lorica_jsonw_number(&w, "bf16_gflops", m->bf16);
    lorica_jsonw_number(&w, "memory_gb_per_second", m->memory);
    lorica_jsonw_number(&w, "level3_gb_per_second", m->level3);
    lorica_jsonw_end_object(&w);
    const bool whole = lorica_buf_status(&out) == 0;
    if (whole)
        (void)printf("%s\n", out.data);
    lorica_buf_finish(&out);
    return whole;
}

int lorica_bench_machine(unsigned threads, bool json) {
    struct lorica_error err = {0};
    struct lorica_pool *pool = NULL;
    struct lorica_bench_machine m;
    if (lorica_pool_create(threads, &pool, &err) != 0)
        return lorica_cmd_fail(&err);
    threads = lorica_pool_threads(pool);
    bool done = lorica_bench_machine_measure(pool, &m);
    lorica_pool_destroy(pool);
    if (done && !json)
        (void)printf("%s, level %s, %u threads\n", lorica_cpu_brand(),
                     lorica_cpu_level_name(lorica_cpu_level()), threads);
    done = done && (json ? print_json(&m, threads) : print_table(&m));
    if (done)
        return LORICA_EXIT_OK;
    (void)lorica_fail(&err, LORICA_ENOMEM, "no memory to measure the machine with");
    return lorica_cmd_fail(&err);
}
