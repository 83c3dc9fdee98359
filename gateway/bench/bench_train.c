/* SPDX-License-Identifier: MIT */
#include "gateway/bench/bench_train.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/cmd/cmd.h"
#include "gateway/cmd/table.h"
#include "gateway/train/train_log.h"
#include "kernels/cpu.h"
#include "kernels/gemm.h"
#include "proto/json.h"
#include "registry/digest.h"
#include "runtime/train/save.h"
#include "runtime/train/trainer.h"

#define PEAK_ROUNDS 20000000u /* about half a second */

struct bench {
    const struct lorica_bench_train *what;
    struct lorica_base *base;
    struct lorica_pool *pool;
    struct lorica_adapter *adapter;
    struct lorica_train_data data;
    struct lorica_clock clock;
    double first_seconds;  /* when the update to warm up was done */
    uint64_t first_tokens; /* computed by it */
    double tokens_per_second, gflops, peak_f32, peak, peak_mb;
    double seconds; /* of the measured updates */
};

static const char *const part_names[LORICA_PART_COUNT] = {"products", "lora", "attention", "rows",
                                                          "head",     "loss", "optimizer"};

/* -- the machine's peak -- */

struct peak_job {
    struct lorica_gemm_kernels gemm;
    double done[256];
};

static void peak_run(void *arg, unsigned thread, unsigned threads) {
    struct peak_job *job = arg;
    job->done[thread] = job->gemm.peak(PEAK_ROUNDS / 24);
}

/* GFLOP/s of all threads, the best of three. */
static double measure_peak(struct lorica_pool *pool, enum lorica_operand operand) {
    static struct peak_job job;
    double best = 0;
    lorica_gemm_kernels_init(&job.gemm, operand);
    for (int i = 0; i < 3; i++) {
        double sum = 0;
        const double began = lorica_clock_now();
        lorica_pool_run(pool, peak_run, &job);
        const double seconds = lorica_clock_now() - began;
        for (unsigned t = 0; t < lorica_pool_threads(pool); t++)
            sum += job.done[t];
        best = sum / seconds > best ? sum / seconds : best;
    }
    return best * 1e-9;
}

/* -- training -- */

static int make_examples(struct bench *bench) {
    const struct lorica_bench_train *what = bench->what;
    const size_t count = (size_t)what->sequences * (what->repeat + 1);
    const uint32_t learnt = (uint32_t)((uint64_t)what->tokens * what->answers / 100);
    /* One token more than are computed: the last is foretold only. */
    const uint32_t length = what->tokens + 1, from = length - (learnt > 0 ? learnt : 1);
    uint64_t state = 1;
    bench->data.examples = calloc(count, sizeof(*bench->data.examples));
    if (!bench->data.examples)
        return LORICA_ENOMEM;
    for (bench->data.count = 0; bench->data.count < count; bench->data.count++) {
        struct lorica_train_example *e = &bench->data.examples[bench->data.count];
        e->ids = malloc(length * sizeof(*e->ids));
        e->labels = malloc(length * sizeof(*e->labels));
        e->length = length;
        e->answers = length - from;
        if (!e->ids || !e->labels) {
            bench->data.count++;
            return LORICA_ENOMEM;
        }
        for (uint32_t i = 0; i < length; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            e->ids[i] = (int32_t)((state >> 33) % bench->base->arch.vocab);
            e->labels[i] = i >= from ? e->ids[i] : -100;
        }
    }
    return 0;
}

static void on_update(void *arg, const struct lorica_trainer_progress *p) {
    struct bench *bench = arg;
    if (p->step == 1) {
        bench->first_seconds = p->seconds;
        bench->first_tokens = p->tokens;
        bench->clock = (struct lorica_clock){0};
    } else if (p->step == p->steps) {
        bench->seconds = p->seconds - bench->first_seconds;
        bench->tokens_per_second = (double)(p->tokens - bench->first_tokens) / bench->seconds;
    }
}

/* Floating-point operations that one token needs: through the frozen weights forward and for the
 * gradient of the input, three times through the adapter's, and the head where there is a label.
 * Neither attention nor what is computed again counts. */
static double flops_per_token(const struct bench *bench) {
    const struct lorica_arch *arch = &bench->base->arch;
    double weights = 0, pairs = 0;
    for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
        uint32_t n, k;
        lorica_arch_module_shape(arch, (enum lorica_module)m, &n, &k);
        weights += (double)n * k * arch->layers;
        pairs += (double)bench->what->rank * ((double)n + k) * arch->layers;
    }
    const double share = (double)bench->what->answers / 100;
    return 4 * weights + 6 * pairs + 4 * share * (double)arch->vocab * arch->hidden;
}

static int train(struct bench *bench, struct lorica_error *err) {
    const struct lorica_bench_train *what = bench->what;
    struct lorica_train_spec spec = {.rank = what->rank, .alpha = 2.0 * what->rank};
    struct lorica_trainer_options options;
    struct lorica_trainer_result result;
    for (int m = 0; m < LORICA_MODULE_COUNT; m++)
        spec.targets[m] = true;
    lorica_trainer_default_options(&options);
    options.batch = what->sequences;
    options.steps = (uint64_t)what->repeat + 1;
    options.compute = what->compute;
    options.recompute = what->recompute;
    options.clock = &bench->clock;
    int rc = make_examples(bench);
    if (rc)
        return lorica_fail(err, rc, "no memory for examples");
    rc = lorica_train_adapter_new(&spec, bench->base, &bench->adapter, err);
    if (!rc)
        rc = lorica_trainer_run(bench->base, bench->pool, &bench->data, &options, bench->adapter,
                                on_update, bench, &result, err);
    if (rc)
        return rc;
    bench->peak_mb = lorica_train_memory_mb();
    bench->gflops = bench->tokens_per_second * flops_per_token(bench) * 1e-9;
    return 0;
}

/* -- report -- */

static int print_json(const struct bench *bench, struct lorica_error *err) {
    const struct lorica_bench_train *what = bench->what;
    struct lorica_buf out;
    struct lorica_jsonw w = {.out = &out};
    lorica_buf_init(&out, 1u << 16);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "bench", "train");
    lorica_jsonw_string(&w, "base", bench->base->name);
    lorica_jsonw_string(&w, "cpu", lorica_cpu_brand());
    lorica_jsonw_string(&w, "level", lorica_cpu_level_name(lorica_cpu_level()));
    lorica_jsonw_integer(&w, "threads", lorica_pool_threads(bench->pool));
    lorica_jsonw_string(&w, "compute", what->compute == LORICA_TRAIN_FAST ? "fast" : "exact");
    lorica_jsonw_bool(&w, "checkpoint_activations", what->recompute);
    lorica_jsonw_integer(&w, "sequences", what->sequences);
    lorica_jsonw_integer(&w, "tokens", what->tokens);
    lorica_jsonw_integer(&w, "rank", what->rank);
    lorica_jsonw_integer(&w, "answers_percent", what->answers);
    lorica_jsonw_integer(&w, "repeat", what->repeat);
    lorica_jsonw_number(&w, "tokens_per_second", bench->tokens_per_second);
    lorica_jsonw_number(&w, "gflop_per_second", bench->gflops);
    lorica_jsonw_number(&w, "peak_gflop_per_second", bench->peak);
    lorica_jsonw_number(&w, "peak_f32_gflop_per_second", bench->peak_f32);
    lorica_jsonw_number(&w, "peak_mb", bench->peak_mb);
    lorica_jsonw_object(&w, "seconds");
    for (int i = 0; i < LORICA_PART_COUNT; i++)
        lorica_jsonw_number(&w, part_names[i], bench->clock.seconds[i]);
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_object(&w);
    return lorica_cmd_print_json(&out, 0, err);
}

static int print_table(const struct bench *bench, struct lorica_error *err) {
    static const char *const headings[] = {"part", "ms an update", "%", NULL};
    const struct lorica_bench_train *what = bench->what;
    double sum = 0;
    (void)printf("%s, level %s, %u threads; %u x %u tokens, rank %u, %u %% of them learnt, %s%s\n",
                 lorica_cpu_brand(), lorica_cpu_level_name(lorica_cpu_level()),
                 lorica_pool_threads(bench->pool), what->sequences, what->tokens, what->rank,
                 what->answers, what->compute == LORICA_TRAIN_FAST ? "fast" : "exact",
                 what->recompute ? ", activations computed again" : "");
    (void)printf("%.0f tokens/s, %.0f GFLOP/s: %.0f %% of the peak of %.0f",
                 bench->tokens_per_second, bench->gflops, 100 * bench->gflops / bench->peak,
                 bench->peak);
    if (bench->peak != bench->peak_f32)
        (void)printf(" (%.0f %% of %.0f in float32)", 100 * bench->gflops / bench->peak_f32,
                     bench->peak_f32);
    (void)printf("; peak memory %.0f MB\n", bench->peak_mb);
    struct lorica_table *table = lorica_table_create(headings);
    for (int i = 0; i < LORICA_PART_COUNT; i++)
        sum += bench->clock.seconds[i];
    for (int i = 0; i < LORICA_PART_COUNT; i++) {
        lorica_table_text(table, part_names[i]);
        lorica_table_format(table, "%.1f", bench->clock.seconds[i] * 1e3 / what->repeat);
        lorica_table_format(table, "%.1f", 100 * bench->clock.seconds[i] / sum);
    }
    const bool printed = lorica_table_print(table, stdout);
    lorica_table_destroy(table);
    return printed ? 0 : lorica_fail(err, LORICA_ENOMEM, "no memory for the table");
}

static int open_bench(struct bench *bench, struct lorica_error *err) {
    char *data = lorica_data_dir(bench->what->where->data), *path = NULL;
    if (!data)
        return lorica_fail(err, LORICA_EINVAL, "there is no data directory");
    int rc = lorica_find_base(data, bench->what->base, &path, err);
    if (!rc)
        rc = lorica_base_open_any(path, &lorica_sha256_hasher, &bench->base, err);
    if (!rc && bench->what->tokens > bench->base->arch.max_positions)
        rc = lorica_fail(err, LORICA_EINVAL, "--tokens: the model has %u positions",
                         bench->base->arch.max_positions);
    if (!rc)
        rc = lorica_pool_create(bench->what->threads, &bench->pool, err);
    free(path);
    free(data);
    return rc;
}

int lorica_bench_train(const struct lorica_bench_train *what) {
    struct bench bench = {.what = what};
    struct lorica_error err = {0};
    int rc = open_bench(&bench, &err);
    if (!rc) {
        bench.peak_f32 = measure_peak(bench.pool, LORICA_OPERAND_F32);
        bench.peak = what->compute == LORICA_TRAIN_FAST
                         ? measure_peak(bench.pool, lorica_gemm_fastest())
                         : bench.peak_f32;
        rc = train(&bench, &err);
    }
    if (!rc)
        rc = what->json ? print_json(&bench, &err) : print_table(&bench, &err);
    lorica_train_data_finish(&bench.data);
    (void)lorica_adapter_unref(bench.adapter);
    lorica_pool_destroy(bench.pool);
    lorica_base_close(bench.base);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}
