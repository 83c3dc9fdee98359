/* SPDX-License-Identifier: MIT
 * lorica bench: how fast this machine serves. Decode and prefill measure what llama-bench measures
 * (a context that begins empty; a prompt of which the last token's logits are wanted), so that the
 * figures stand beside each other. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/cmd/adapter_source.h"
#include "gateway/bench/bench_engine.h"
#include "gateway/bench/bench_kernels.h"
#include "gateway/bench/bench_machine.h"
#include "gateway/bench/bench_registry.h"
#include "gateway/bench/bench_train.h"
#include "gateway/cmd/cmd.h"
#include "gateway/cmd/table.h"
#include "kernels/cpu.h"
#include "proto/json.h"
#include "registry/digest.h"
#include "runtime/forward.h"
#include "runtime/sampler.h"

#define MAX_ROWS 1024
#define MAX_REPEAT 1000
/* Rows of a prefill step, as the engine makes them. */
#define PREFILL_CHUNK 128

/* What can be measured of the engine. */
struct bench;
struct bench_kind {
    const char *word;
    int (*run)(struct bench *);
    uint32_t sequences, tokens; /* unless options say else */
};

/* What a run needs, whatever it measures. */
struct bench {
    struct lorica_base *base;
    struct lorica_model model;
    struct lorica_kv kv;
    struct lorica_pool *pool;
    struct lorica_forward *forward;
    struct lorica_sampler_scratch scratch;
    struct lorica_adapter **adapters;
    size_t adapter_count;
    uint32_t sequences, tokens, repeat;
    enum lorica_kv_format kv_format;
    uint32_t *pages; /* [sequences][pages_each] */
    uint32_t pages_each;
    struct lorica_row *rows;
    const struct bench_kind *kind;
};

struct bench_words {
    const char *base, *threads, *kv, *tokens, *rows, *repeat;
    const char *names, *versions, *bytes; /* of a registry */
    const char **adapters;
    const char *rank, *answers, *compute;
    bool recompute, json;
    struct lorica_client_options where;
};

struct bench_result {
    double mean, deviation, best; /* tokens per second */
    double gops, gbytes;          /* of the base's products, per second, at the mean */
    struct lorica_bench_machine machine;
};

static double seconds_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int load_adapter(struct bench *bench, const char *word,
                        const struct lorica_client_options *where, struct lorica_error *err) {
    struct lorica_adapter_source source = {0};
    struct lorica_adapter *adapter;
    int rc = lorica_adapter_source_open(word, where, &source, err);
    if (rc)
        return rc;
    rc =
        lorica_adapter_load_dir(&bench->base->arch, LORICA_ADAPTER_FAST, source.dir, &adapter, err);
    lorica_adapter_source_close(&source);
    if (rc)
        return rc;
    bench->adapters[bench->adapter_count++] = adapter;
    return lorica_forward_reserve_rank(bench->forward, adapter->max_rank, err);
}

static int load_adapters(struct bench *bench, const struct bench_words *words,
                         struct lorica_error *err) {
    size_t count = 0;
    while (words->adapters && words->adapters[count])
        count++;
    bench->adapters = calloc(count + 1, sizeof(struct lorica_adapter *));
    if (!bench->adapters)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for adapters");
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++)
        rc = load_adapter(bench, words->adapters[i], &words->where, err);
    return rc;
}

static int open_base(struct bench *bench, const struct bench_words *words,
                     struct lorica_error *err) {
    char *data = lorica_data_dir(words->where.data), *path = NULL;
    if (!data)
        return lorica_fail(err, LORICA_EINVAL, "there is no data directory");
    int rc = lorica_find_base(data, words->base, &path, err);
    if (!rc)
        rc = lorica_base_open_any(path, &lorica_sha256_hasher, &bench->base, err);
    free(path);
    free(data);
    return rc;
}

static int take_lists(struct bench *bench, struct lorica_error *err) {
    const uint32_t pages = bench->sequences * bench->pages_each;
    const uint32_t rows = bench->sequences > PREFILL_CHUNK ? bench->sequences : PREFILL_CHUNK;
    bench->pages = malloc(pages * sizeof(*bench->pages));
    bench->rows = calloc(rows, sizeof(*bench->rows));
    if (!bench->pages || !bench->rows || lorica_kv_take(&bench->kv, bench->pages, pages) != 0)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the sequences");
    const int rc = lorica_forward_create(&bench->model, &bench->kv, bench->pool, rows,
                                         bench->sequences, &bench->forward, err);
    if (rc)
        return rc;
    if (lorica_sampler_scratch_init(&bench->scratch, bench->base->arch.vocab) != 0)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the sampler");
    return 0;
}

static int bench_open(struct bench *bench, const struct bench_words *words, unsigned threads,
                      struct lorica_error *err) {
    int rc = open_base(bench, words, err);
    if (rc)
        return rc;
    if (bench->tokens > bench->base->arch.max_positions)
        return lorica_fail(err, LORICA_EINVAL, "--tokens: the model has %u positions",
                           bench->base->arch.max_positions);
    bench->pages_each = lorica_kv_pages(bench->tokens);
    rc = lorica_model_init(&bench->model, bench->base, err);
    if (!rc)
        rc = lorica_kv_init(&bench->kv, &bench->base->arch, bench->kv_format,
                            bench->sequences * bench->pages_each * LORICA_KV_PAGE, err);
    if (!rc)
        rc = lorica_pool_create(threads, &bench->pool, err);
    if (!rc)
        rc = take_lists(bench, err);
    if (!rc)
        rc = load_adapters(bench, words, err);
    return rc;
}

static void bench_close(struct bench *bench) {
    for (size_t i = 0; i < bench->adapter_count; i++)
        (void)lorica_adapter_unref(bench->adapters[i]);
    free(bench->adapters);
    free(bench->rows);
    free(bench->pages);
    lorica_sampler_scratch_finish(&bench->scratch);
    lorica_forward_destroy(bench->forward);
    lorica_pool_destroy(bench->pool);
    lorica_kv_finish(&bench->kv);
    lorica_model_finish(&bench->model);
    lorica_base_close(bench->base);
}

/* Sequences take the adapters in turn. */
static void set_row(struct bench *bench, uint32_t row, uint32_t sequence, int32_t token,
                    uint32_t position, bool wants_logits) {
    bench->rows[row] = (struct lorica_row){
        .token = token,
        .position = position,
        .pages = bench->pages + (size_t)sequence * bench->pages_each,
        .adapter = bench->adapter_count ? bench->adapters[sequence % bench->adapter_count] : NULL,
        .wants_logits = wants_logits};
}

/* One token after the other, each chosen greedily, for all sequences at once. */
static int run_decode(struct bench *bench) {
    static const struct lorica_sampling greedy = {.top_p = 1, .max_tokens = 1, .top_logprobs = -1};
    const uint32_t vocab = bench->base->arch.vocab;
    int32_t tokens[MAX_ROWS];
    for (uint32_t s = 0; s < bench->sequences; s++)
        tokens[s] = (int32_t)((1 + s * 37) % vocab);
    for (uint32_t position = 0; position < bench->tokens; position++) {
        for (uint32_t s = 0; s < bench->sequences; s++)
            set_row(bench, s, s, tokens[s], position, true);
        lorica_forward_run(bench->forward, bench->rows, bench->sequences);
        for (uint32_t s = 0; s < bench->sequences; s++) {
            struct lorica_sampler sampler = {.sampling = &greedy};
            struct lorica_choice choice;
            if (lorica_sampler_choose(&sampler, &bench->model.vec, &bench->scratch,
                                      lorica_forward_logits(bench->forward, s), vocab,
                                      &choice) != 0)
                return LORICA_EFORMAT;
            tokens[s] = choice.id;
        }
    }
    return 0;
}

/* A prompt in the engine's chunks. */
static int run_prefill(struct bench *bench) {
    const uint32_t vocab = bench->base->arch.vocab;
    for (uint32_t first = 0; first < bench->tokens; first += PREFILL_CHUNK) {
        const uint32_t left = bench->tokens - first;
        const uint32_t count = left < PREFILL_CHUNK ? left : PREFILL_CHUNK;
        for (uint32_t i = 0; i < count; i++)
            set_row(bench, i, 0, (int32_t)((first + i) * 7919u % vocab), first + i,
                    first + i + 1 == bench->tokens);
        lorica_forward_run(bench->forward, bench->rows, count);
    }
    return 0;
}

/* Operations of one row, and bytes of one pass, of a matrix. */
static double matrix_ops(const struct lorica_linear *w) { return 2.0 * w->n * w->k; }

static double matrix_nbytes(const struct lorica_linear *w) {
    const double weights = (double)w->n * w->k;
    return (double)lorica_matrix_data_nbytes(w->format, w->n, w->k) +
           (w->format == LORICA_FORMAT_NF4  ? weights / LORICA_NF4_BLOCK * 2
            : w->format == LORICA_FORMAT_Q8 ? weights / LORICA_Q8_BLOCK * 2
                                            : 0);
}

/* What the base's products do in one run, as rates at `seconds` for it; then what the machine can
 * do at most. */
static int rate_work(struct bench *bench, double seconds, struct bench_result *ret,
                     struct lorica_error *err) {
    const struct lorica_model *model = &bench->model;
    const bool prefill = bench->kind->run == run_prefill;
    const double rows = (double)bench->tokens * bench->sequences;
    const double passes =
        prefill ? (bench->tokens + PREFILL_CHUNK - 1) / PREFILL_CHUNK : bench->tokens;
    double ops = matrix_ops(&model->head) * (prefill ? 1 : rows);
    double nbytes = matrix_nbytes(&model->head) * (prefill ? 1 : passes);
    for (size_t i = 0; i < (size_t)bench->base->arch.layers * LORICA_MODULE_COUNT; i++) {
        ops += matrix_ops(&model->modules[i]) * rows;
        nbytes += matrix_nbytes(&model->modules[i]) * passes;
    }
    ret->gops = ops / seconds * 1e-9;
    ret->gbytes = nbytes / seconds * 1e-9;
    if (!lorica_bench_machine_measure(bench->pool, &ret->machine))
        return lorica_fail(err, LORICA_ENOMEM, "no memory to measure the machine with");
    return 0;
}

/* Repeats after one run to warm up. */
static int measure(struct bench *bench, struct bench_result *ret, struct lorica_error *err) {
    double sum = 0, squares = 0, best = 0;
    for (uint32_t i = 0; i <= bench->repeat; i++) {
        const double start = seconds_now();
        if (bench->kind->run(bench) != 0)
            return lorica_fail(err, LORICA_EFORMAT, "the model gives logits that are no numbers");
        const double rate = (double)bench->tokens * bench->sequences / (seconds_now() - start);
        if (i == 0)
            continue;
        sum += rate;
        squares += rate * rate;
        best = rate > best ? rate : best;
    }
    ret->mean = sum / bench->repeat;
    ret->deviation = sqrt(fmax(0, squares / bench->repeat - ret->mean * ret->mean));
    ret->best = best;
    return rate_work(bench, (double)bench->tokens * bench->sequences / ret->mean, ret, err);
}

static int print_json(const struct bench *bench, const char *what,
                      const struct bench_result *result, struct lorica_error *err) {
    struct lorica_buf out;
    struct lorica_jsonw w = {.out = &out};
    lorica_buf_init(&out, 1u << 16);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "bench", what);
    lorica_jsonw_string(&w, "base", bench->base->name);
    lorica_jsonw_string(&w, "cpu", lorica_cpu_brand());
    lorica_jsonw_string(&w, "level", lorica_cpu_level_name(lorica_cpu_level()));
    lorica_jsonw_integer(&w, "threads", lorica_pool_threads(bench->pool));
    lorica_jsonw_string(&w, "kv", lorica_kv_format_name(bench->kv_format));
    lorica_jsonw_integer(&w, "sequences", bench->sequences);
    lorica_jsonw_integer(&w, "adapters", (int64_t)bench->adapter_count);
    lorica_jsonw_integer(&w, "tokens", bench->tokens);
    lorica_jsonw_integer(&w, "repeat", bench->repeat);
    lorica_jsonw_number(&w, "tokens_per_second", result->mean);
    lorica_jsonw_number(&w, "deviation", result->deviation);
    lorica_jsonw_number(&w, "best", result->best);
    lorica_jsonw_number(&w, "products_gops", result->gops);
    lorica_jsonw_string(&w, "products_form", result->machine.form);
    lorica_jsonw_number(&w, "products_peak_gops", result->machine.products);
    lorica_jsonw_number(&w, "weights_gb_per_second", result->gbytes);
    lorica_jsonw_number(&w, "memory_peak_gb_per_second", result->machine.memory);
    lorica_jsonw_end_object(&w);
    return lorica_cmd_print_json(&out, 0, err);
}

static int print_table(const struct bench *bench, const char *what,
                       const struct bench_result *result, struct lorica_error *err) {
    static const char *const headings[] = {
        "bench",    "base",  "level",   "threads", "sequences", "adapters", "tokens",
        "tokens/s", "GOP/s", "of peak", "GB/s",    "of memory", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    lorica_table_text(table, what);
    lorica_table_text(table, bench->base->name);
    lorica_table_text(table, lorica_cpu_level_name(lorica_cpu_level()));
    lorica_table_number(table, lorica_pool_threads(bench->pool));
    lorica_table_number(table, bench->sequences);
    lorica_table_number(table, (int64_t)bench->adapter_count);
    lorica_table_number(table, bench->tokens);
    lorica_table_format(table, "%.1f +- %.1f", result->mean, result->deviation);
    lorica_table_format(table, "%.0f", result->gops);
    lorica_table_format(table, "%.0f %%", 100 * result->gops / result->machine.products);
    lorica_table_format(table, "%.1f", result->gbytes);
    lorica_table_format(table, "%.0f %%", 100 * result->gbytes / result->machine.memory);
    const bool printed = lorica_table_print(table, stdout);
    lorica_table_destroy(table);
    return printed ? 0 : lorica_fail(err, LORICA_ENOMEM, "no memory for the table");
}

/* What can be measured. */
static const struct bench_kind kinds[] = {
    {"decode", run_decode, 1, 128},
    {"prefill", run_prefill, 1, 512},
    {"batch", run_decode, 16, 64},
};

static int run_kind(const struct bench_kind *kind, struct bench *bench,
                    const struct bench_words *words, unsigned threads) {
    struct lorica_error err = {0};
    struct bench_result result = {0};
    int rc = bench_open(bench, words, threads, &err);
    if (!rc)
        rc = measure(bench, &result, &err);
    if (!rc)
        rc = words->json ? print_json(bench, kind->word, &result, &err)
                         : print_table(bench, kind->word, &result, &err);
    bench_close(bench);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}

static bool read_numbers(const struct bench_kind *kind, const struct bench_words *words,
                         struct bench *bench, unsigned *ret_threads) {
    long long threads = 0, tokens = kind->tokens, rows = kind->sequences, repeat = 5;
    if ((words->threads && !lorica_cmd_integer("threads", words->threads, 1, 256, &threads)) ||
        (words->tokens && !lorica_cmd_integer("tokens", words->tokens, 1, 1 << 20, &tokens)) ||
        (words->rows && !lorica_cmd_integer("sequences", words->rows, 1, MAX_ROWS, &rows)) ||
        (words->repeat && !lorica_cmd_integer("repeat", words->repeat, 1, MAX_REPEAT, &repeat)) ||
        (words->kv && !lorica_cmd_kv(words->kv, &bench->kv_format)))
        return false;
    bench->kind = kind;
    bench->sequences = (uint32_t)rows;
    bench->tokens = (uint32_t)tokens;
    bench->repeat = (uint32_t)repeat;
    *ret_threads = (unsigned)threads;
    return true;
}

static int run_registry(const struct bench_words *words) {
    long long names = 10000, versions = 3, nbytes = 65536;
    if ((words->names && !lorica_cmd_integer("names", words->names, 1, 999999, &names)) ||
        (words->versions && !lorica_cmd_integer("versions", words->versions, 1, 1000, &versions)) ||
        (words->bytes && !lorica_cmd_integer("bytes", words->bytes, 8, 1 << 30, &nbytes)))
        return LORICA_EXIT_USAGE;
    const struct lorica_bench_registry size = {(uint32_t)names, (uint32_t)versions,
                                               (uint32_t)nbytes};
    return lorica_bench_registry(&size, words->json);
}

static int run_train(const struct bench_words *words) {
    long long threads = 0, tokens = 256, rows = 4, repeat = 5, rank = 16, answers = 100;
    const bool exact = words->compute && strcmp(words->compute, "exact") == 0;
    if (words->compute && !exact && strcmp(words->compute, "fast") != 0)
        return lorica_cmd_usage(&lorica_cmd_bench, "--compute %s: exact or fast expected",
                                words->compute);
    if ((words->threads && !lorica_cmd_integer("threads", words->threads, 1, 256, &threads)) ||
        (words->tokens && !lorica_cmd_integer("tokens", words->tokens, 1, 1 << 20, &tokens)) ||
        (words->rows && !lorica_cmd_integer("sequences", words->rows, 1, MAX_ROWS, &rows)) ||
        (words->rank && !lorica_cmd_integer("rank", words->rank, 1, 4096, &rank)) ||
        (words->answers && !lorica_cmd_integer("answers", words->answers, 1, 100, &answers)) ||
        (words->repeat && !lorica_cmd_integer("repeat", words->repeat, 1, MAX_REPEAT, &repeat)))
        return LORICA_EXIT_USAGE;
    const struct lorica_bench_train what = {.where = &words->where,
                                            .base = words->base,
                                            .threads = (unsigned)threads,
                                            .sequences = (uint32_t)rows,
                                            .tokens = (uint32_t)tokens,
                                            .repeat = (uint32_t)repeat,
                                            .rank = (uint32_t)rank,
                                            .answers = (uint32_t)answers,
                                            .compute =
                                                exact ? LORICA_TRAIN_EXACT : LORICA_TRAIN_FAST,
                                            .recompute = words->recompute,
                                            .json = words->json};
    return lorica_bench_train(&what);
}

static int run_engine(const char *word, const struct bench_words *words) {
    long long threads = 0, tokens = 0, rows = 0, repeat = 5;
    enum lorica_kv_format kv_format = LORICA_KV_BF16;
    if (words->adapters && words->adapters[1])
        return lorica_cmd_usage(&lorica_cmd_bench, "%s takes one --adapter at most", word);
    if ((words->threads && !lorica_cmd_integer("threads", words->threads, 1, 256, &threads)) ||
        (words->tokens && !lorica_cmd_integer("tokens", words->tokens, 2, 1 << 14, &tokens)) ||
        (words->rows && !lorica_cmd_integer("sequences", words->rows, 1, 64, &rows)) ||
        (words->repeat && !lorica_cmd_integer("repeat", words->repeat, 1, MAX_REPEAT, &repeat)) ||
        (words->kv && !lorica_cmd_kv(words->kv, &kv_format)))
        return LORICA_EXIT_USAGE;
    const struct lorica_bench_engine bench = {.what = word,
                                              .where = &words->where,
                                              .base = words->base,
                                              .adapter =
                                                  words->adapters ? words->adapters[0] : NULL,
                                              .kv_format = kv_format,
                                              .threads = (unsigned)threads,
                                              .sequences = (uint32_t)rows,
                                              .tokens = (uint32_t)tokens,
                                              .repeat = (uint32_t)repeat,
                                              .json = words->json};
    return lorica_bench_engine(&bench);
}

static int run_machine(const struct bench_words *words) {
    long long threads = 0;
    if (words->threads && !lorica_cmd_integer("threads", words->threads, 1, 256, &threads))
        return LORICA_EXIT_USAGE;
    return lorica_bench_machine((unsigned)threads, words->json);
}

/* What can be measured, and the options that it has a use for besides --json. */
#define SEQUENCES " base threads kv tokens adapter data server ca "
static const struct {
    const char *word, *takes;
} works[] = {
    {"machine", " threads "},
    {"kernels", " "},
    {"decode", SEQUENCES "repeat "},
    {"prefill", SEQUENCES "repeat "},
    {"batch", SEQUENCES "repeat sequences "},
    {"prefix", SEQUENCES "sequences "},
    {"speculation", SEQUENCES "repeat "},
    {"arrivals", SEQUENCES "repeat sequences "},
    {"train", " base threads tokens sequences repeat rank answers compute checkpoint-activations "
              "data "},
    {"registry", " names versions bytes "},
};

/* What options the work takes; NULL after a message where there is no such work. */
static const char *find_work(const char *word) {
    for (size_t i = 0; i < sizeof(works) / sizeof(works[0]); i++)
        if (strcmp(word, works[i].word) == 0)
            return works[i].takes;
    (void)lorica_cmd_usage(&lorica_cmd_bench,
                           "\"%.40s\" is not one of machine, kernels, decode, prefill, batch, "
                           "prefix, speculation, arrivals, train, registry",
                           word);
    return NULL;
}

/* Prints which option the work has no use for. */
static bool options_fit(const char *word, const char *takes, const struct lorica_option *options,
                        size_t count) {
    for (size_t i = 0; i < count; i++) {
        const struct lorica_option *o = &options[i];
        char name[64];
        const bool given = o->flag ? *o->flag : o->list ? *o->list != NULL : *o->value != NULL;
        (void)snprintf(name, sizeof(name), " %s ", o->name);
        if (!given || strstr(takes, name) || strcmp(o->name, "json") == 0)
            continue;
        (void)lorica_cmd_usage(&lorica_cmd_bench, "--%s does not go with %s", o->name, word);
        return false;
    }
    return true;
}

static int run_word(const char *word, const struct bench_words *words) {
    const struct bench_kind *kind = kinds;
    struct bench bench = {0};
    unsigned threads;
    if (strcmp(word, "registry") == 0)
        return run_registry(words);
    if (strcmp(word, "train") == 0)
        return run_train(words);
    if (strcmp(word, "machine") == 0)
        return run_machine(words);
    if (strcmp(word, "kernels") == 0)
        return lorica_bench_kernels(words->json);
    if (lorica_bench_engine_knows(word))
        return run_engine(word, words);
    while (strcmp(word, kind->word) != 0)
        kind++;
    if (!read_numbers(kind, words, &bench, &threads))
        return LORICA_EXIT_USAGE;
    return run_kind(kind, &bench, words, threads);
}

static int run(int argc, char **argv) {
    struct bench_words words = {0};
    const struct lorica_option options[] = {
        {.name = "base", .value = &words.base},
        {.name = "threads", .value = &words.threads},
        {.name = "kv", .value = &words.kv},
        {.name = "tokens", .value = &words.tokens},
        {.name = "sequences", .value = &words.rows},
        {.name = "repeat", .value = &words.repeat},
        {.name = "adapter", .list = &words.adapters},
        {.name = "names", .value = &words.names},
        {.name = "versions", .value = &words.versions},
        {.name = "bytes", .value = &words.bytes},
        {.name = "json", .flag = &words.json},
        {.name = "rank", .value = &words.rank},
        {.name = "answers", .value = &words.answers},
        {.name = "compute", .value = &words.compute},
        {.name = "checkpoint-activations", .flag = &words.recompute},
        LORICA_CLIENT_OPTIONS(words.where)};
    const size_t count = sizeof(options) / sizeof(options[0]);
    if (lorica_cmd_options(&lorica_cmd_bench, argc, argv, options, count, 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    const char *takes = find_work(argv[0]);
    const int rc = takes && options_fit(argv[0], takes, options, count) ? run_word(argv[0], &words)
                                                                        : LORICA_EXIT_USAGE;
    free(words.adapters);
    return rc;
}

const struct lorica_cmd lorica_cmd_bench = {
    .name = "bench",
    .synopsis =
        "WHAT [--base B] "
        "[--threads N] [--adapter A]... [--kv bf16|int8] [--tokens N] [--sequences N] [--repeat N] "
        "[--rank N] "
        "[--answers P] [--compute M] "
        "[--checkpoint-activations] [--names N] [--versions N] [--bytes N] "
        "[--json] " LORICA_CLIENT_SYNOPSIS,
    .summary = "measure how fast this machine serves and trains",
    .help = "Runs the engine's forward on this machine, without a server, and prints tokens per "
            "second: the mean of the repeats after one run to warm up; with them the operations of "
            "the base's products and the bytes of weights per second, and what share they are of "
            "what the machine can do, measured in the same run. LORICA_CPU limits the instruction "
            "set.\n"
            "machine\twhat the machine multiplies and reads at most\n"
            "kernels\tthe kernels alone, on one thread and made-up data\n"
            "decode\tone sequence, one token after the other (128 unless --tokens says else)\n"
            "prefill\ta prompt (512 tokens)\n"
            "batch\tsequences side by side (16 of 64 tokens)\n"
            "prefix\tthe time to the first token of prompts that begin alike (8 after the first, "
            "512 tokens in common), with the prefix cache and without\n"
            "speculation\tanswers (128 tokens) that repeat their prompt and one that does not, "
            "guessing ahead and not; fails when the answers differ\n"
            "arrivals\tgaps between the tokens of running answers (8) while prompts (5 of 2048 "
            "tokens) come in\n"
            "train\tupdates of an adapter on all linear layers (4 sequences of 256 tokens), and "
            "what the processor multiplies at best\n"
            "registry\tpublishing, promoting, listing and opening, in a registry of its own in "
            "$TMPDIR or /var/tmp, without the engine\n"
            "--base B\tname of a base, or a file; otherwise the only one there is\n"
            "--threads N\tthreads; otherwise one for each core\n"
            "--kv bf16|int8\thow the key/value cache holds its values (bf16)\n"
            "--adapter A\ta directory, or NAME or NAME@V; may be given several times: sequences "
            "take them in turn\n"
            "--tokens N\ttokens of each sequence\n"
            "--sequences N\tsequences of a batch; prompts that begin alike; running answers\n"
            "--repeat N\thow often (5)\n"
            "--rank N\trank of the trained adapter (16)\n"
            "--answers P\tpercent of the tokens that are learnt (100)\n"
            "--compute M\ttrain fast (the default) or exact\n"
            "--checkpoint-activations\ttrain in less memory, computing activations twice\n"
            "--names N\tadapters of the registry (10000)\n"
            "--versions N\tversions of each (3)\n"
            "--bytes N\tweights of each version (65536)\n"
            "--json\tprint JSON\n" LORICA_CLIENT_HELP,
    .run = run,
};
