/* SPDX-License-Identifier: MIT */
#include "gateway/bench/bench_engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/cmd/adapter_source.h"
#include "gateway/cmd/cmd.h"
#include "gateway/cmd/table.h"
#include "kernels/cpu.h"
#include "proto/json.h"
#include "registry/digest.h"
#include "runtime/chat.h"
#include "runtime/engine.h"

#define MAX_FIGURES 16
/* Tokens of a prompt behind the beginning that all have in common. */
#define OWN_TOKENS 16

struct run {
    const struct lorica_bench_engine *bench;
    struct lorica_base *base;
    struct lorica_tokenizer *tokenizer;
    struct lorica_chat_template *chat;
    struct lorica_adapter *adapter;
    struct lorica_engine *engine;
    uint32_t sequences, tokens;
    struct figure {
        const char *name;
        double value;
    } figures[MAX_FIGURES];
    size_t figure_count;
};

/* What one request brought. Times are written by the engine's thread until `done`. */
struct answer {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool done;
    enum lorica_finish finish;
    uint32_t count, room, cached;
    double begin;
    double *times;   /* of each token */
    int32_t *tokens; /* each token */
};

static double seconds_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void add_figure(struct run *run, const char *name, double value) {
    if (run->figure_count < MAX_FIGURES)
        run->figures[run->figure_count++] = (struct figure){name, value};
}

/* Requests. */

static void on_event(void *user, const struct lorica_engine_event *event) {
    struct answer *a = user;
    (void)pthread_mutex_lock(&a->mutex);
    if (event->token >= 0 && a->count < a->room) {
        a->times[a->count] = seconds_now();
        a->tokens[a->count++] = event->token;
    }
    a->cached = event->cached_tokens;
    a->finish = event->finish;
    a->done = event->finish != LORICA_FINISH_NONE;
    (void)pthread_cond_signal(&a->changed);
    (void)pthread_mutex_unlock(&a->mutex);
}

static void answer_finish(struct answer *a) {
    if (!a->times)
        return;
    (void)pthread_cond_destroy(&a->changed);
    (void)pthread_mutex_destroy(&a->mutex);
    free(a->times);
    free(a->tokens);
    a->times = NULL;
}

static int ask(struct run *run, const int32_t *prompt, size_t count, uint32_t max_tokens,
               struct answer *a, uint64_t *ret_id, struct lorica_error *err) {
    *a = (struct answer){.room = max_tokens,
                         .times = calloc(max_tokens, sizeof(*a->times)),
                         .tokens = calloc(max_tokens, sizeof(*a->tokens)),
                         .begin = seconds_now()};
    (void)pthread_mutex_init(&a->mutex, NULL);
    (void)pthread_cond_init(&a->changed, NULL);
    if (!a->times || !a->tokens)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for an answer");
    const struct lorica_engine_request request = {
        .prompt = prompt,
        .prompt_count = count,
        .adapter = run->adapter,
        .sampling = {.top_p = 1, .max_tokens = max_tokens, .ignore_eos = true, .top_logprobs = -1},
        .on_event = on_event,
        .user = a};
    return lorica_engine_submit(run->engine, &request, ret_id, err);
}

/* Waits for `tokens` tokens, or for the end. */
static int await(struct answer *a, uint32_t tokens, struct lorica_error *err) {
    (void)pthread_mutex_lock(&a->mutex);
    while (!a->done && a->count < tokens)
        (void)pthread_cond_wait(&a->changed, &a->mutex);
    const bool failed = a->done && a->finish == LORICA_FINISH_ERROR;
    (void)pthread_mutex_unlock(&a->mutex);
    return failed ? lorica_fail(err, LORICA_EFORMAT, "the model gives logits that are no numbers")
                  : 0;
}

static int open_engine(struct run *run, const struct lorica_engine_options *options,
                       struct lorica_error *err) {
    lorica_engine_destroy(run->engine);
    run->engine = NULL;
    return lorica_engine_create(run->base, run->tokenizer, options, &run->engine, err);
}

static struct lorica_engine_options options_of(const struct run *run) {
    struct lorica_engine_options options;
    lorica_engine_default_options(&options);
    options.threads = run->bench->threads;
    options.kv_format = run->bench->kv_format;
    return options;
}

static void made_up_prompt(const struct run *run, int32_t *prompt, uint32_t count, uint32_t seed) {
    for (uint32_t i = 0; i < count; i++)
        prompt[i] = (int32_t)((i * 7919u + seed * 104729u + 11) % run->base->arch.vocab);
}

/* prefix: requests that begin alike, one after the other. */

static int run_alike(struct run *run, bool keep, double *ret_first, double *ret_hits,
                     struct lorica_error *err) {
    struct lorica_engine_options options = options_of(run);
    const uint32_t count = run->tokens + OWN_TOKENS;
    int32_t *prompt = malloc(count * sizeof(*prompt));
    double sum = 0, cached = 0;
    options.prefix_bytes = keep ? options.prefix_bytes : 0;
    int rc = prompt ? open_engine(run, &options, err) : LORICA_ENOMEM;
    for (uint32_t i = 0; i <= run->sequences && !rc; i++) {
        struct answer a;
        uint64_t id;
        made_up_prompt(run, prompt, run->tokens, 0);
        made_up_prompt(run, prompt + run->tokens, OWN_TOKENS, i + 1);
        rc = ask(run, prompt, count, 1, &a, &id, err);
        if (!rc)
            rc = await(&a, 1, err);
        if (!rc && i > 0) { /* the first one fills the cache */
            sum += a.times[0] - a.begin;
            cached += a.cached;
        }
        answer_finish(&a);
    }
    free(prompt);
    *ret_first = sum / run->sequences;
    *ret_hits = cached / run->sequences / count;
    return rc;
}

static int run_prefix(struct run *run, struct lorica_error *err) {
    double without, with, hits;
    int rc = run_alike(run, false, &without, &hits, err);
    if (!rc)
        rc = run_alike(run, true, &with, &hits, err);
    if (rc)
        return rc;
    add_figure(run, "tokens in common", run->tokens);
    add_figure(run, "first token without, ms", without * 1e3);
    add_figure(run, "first token with, ms", with * 1e3);
    add_figure(run, "ratio", without / with);
    add_figure(run, "hit rate", hits);
    return 0;
}

/* speculation: answers that repeat their prompt, and one that does not, with and without. */

static const char repeat_text[] =
    "Repeat this text word for word: \"Visiting hours on ward four are from two to half past five "
    "in "
    "the afternoon. Please report to the desk on the ground floor first. Children under twelve "
    "come with an adult. Flowers are welcome on ward four, but not in intensive care. The heart "
    "centre answers calls from eight in the morning to six in the evening on 555 0142.\"";
static const char open_text[] = "Write a short story about a lighthouse keeper and a lost ship.";

static int run_text(struct run *run, const char *text, struct answer *a, struct lorica_error *err) {
    const struct lorica_chat_message message = {.role = "user", .content = text};
    struct lorica_tokens prompt = {0};
    uint64_t id;
    int rc =
        lorica_chat_render(run->chat, run->tokenizer, &message, 1, true, &prompt, NULL, NULL, err);
    *a = (struct answer){.count = 0};
    if (!rc)
        rc = ask(run, prompt.ids, prompt.count, run->tokens, a, &id, err);
    if (!rc)
        rc = await(a, run->tokens, err);
    free(prompt.ids);
    return rc;
}

/* Tokens per second after the first one, the mean of the repeats after one to warm up. */
static int time_text(struct run *run, const char *text, bool speculate, double *ret_rate,
                     struct answer *ret_last, struct lorica_error *err) {
    struct lorica_engine_options options = options_of(run);
    options.speculation = speculate ? LORICA_SPECULATE_WHERE_IT_PAYS : LORICA_SPECULATE_NEVER;
    int rc = open_engine(run, &options, err);
    double sum = 0;
    for (uint32_t i = 0; i <= run->bench->repeat && !rc; i++) {
        answer_finish(ret_last);
        rc = run_text(run, text, ret_last, err);
        if (!rc && i > 0)
            sum +=
                (ret_last->count - 1) / (ret_last->times[ret_last->count - 1] - ret_last->times[0]);
    }
    *ret_rate = sum / run->bench->repeat;
    return rc;
}

static int compare_text(struct run *run, const char *text, const char *const names[4],
                        struct lorica_error *err) {
    struct answer without = {.count = 0}, with = {.count = 0};
    struct lorica_engine_stats stats = {0};
    double plain = 0, guessed = 0;
    int rc = time_text(run, text, false, &plain, &without, err);
    if (!rc)
        rc = time_text(run, text, true, &guessed, &with, err);
    if (!rc)
        lorica_engine_stats(run->engine, &stats);
    if (!rc && (with.count != without.count ||
                memcmp(with.tokens, without.tokens, with.count * sizeof(*with.tokens)) != 0))
        rc = lorica_fail(err, LORICA_EBUG, "guessing ahead changed an answer");
    answer_finish(&without);
    answer_finish(&with);
    add_figure(run, names[0], plain);
    add_figure(run, names[1], guessed);
    add_figure(run, names[2], guessed / plain);
    add_figure(run, names[3],
               stats.drafted_tokens ? (double)stats.accepted_tokens / (double)stats.drafted_tokens
                                    : 0);
    return rc;
}

static int run_speculation(struct run *run, struct lorica_error *err) {
    static const char *const repeats[] = {"repeating: tokens/s without", "repeating: tokens/s with",
                                          "repeating: ratio", "repeating: guesses that were right"};
    static const char *const story[] = {"story: tokens/s without", "story: tokens/s with",
                                        "story: ratio", "story: guesses that were right"};
    const int rc = compare_text(run, repeat_text, repeats, err);
    return rc ? rc : compare_text(run, open_text, story, err);
}

/* arrivals: running answers while long prompts come in. */

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Gaps between tokens that end in [begin, end): 50th and 99th percentile, and the largest. */
static int gaps(const struct answer *answers, uint32_t count, double begin, double end,
                double ret[3], struct lorica_error *err) {
    size_t room = 1, n = 0;
    for (uint32_t i = 0; i < count; i++)
        room += answers[i].count;
    double *all = malloc(room * sizeof(*all));
    if (!all)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the gaps");
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t t = 1; t < answers[i].count; t++)
            if (answers[i].times[t] >= begin && answers[i].times[t] < end)
                all[n++] = answers[i].times[t] - answers[i].times[t - 1];
    qsort(all, n, sizeof(*all), compare_doubles);
    ret[0] = n ? all[n / 2] : 0;
    ret[1] = n ? all[n - 1 - n / 100] : 0;
    ret[2] = n ? all[n - 1] : 0;
    free(all);
    return 0;
}

/* Lets the answers run alone, then with one prompt after the other coming in. */
static int let_arrive(struct run *run, struct answer *streams, double times[3], double *ret_first,
                      struct lorica_error *err) {
    int32_t *prompt = malloc(run->tokens * sizeof(*prompt));
    int rc = prompt ? 0 : lorica_fail(err, LORICA_ENOMEM, "no memory for a prompt");
    for (uint32_t i = 0; i < run->sequences && !rc; i++)
        rc = await(&streams[i], 8, err);
    times[0] = seconds_now();
    (void)pthread_mutex_lock(&streams[0].mutex);
    const uint32_t count = streams[0].count;
    (void)pthread_mutex_unlock(&streams[0].mutex);
    if (!rc)
        rc = await(&streams[0], count + 64, err);
    times[1] = seconds_now();
    for (uint32_t i = 0; i < run->bench->repeat && !rc; i++) {
        struct answer a;
        uint64_t id;
        made_up_prompt(run, prompt, run->tokens, 1000 + i);
        rc = ask(run, prompt, run->tokens, 1, &a, &id, err);
        if (!rc)
            rc = await(&a, 1, err);
        if (!rc)
            *ret_first += (a.times[0] - a.begin) / run->bench->repeat;
        answer_finish(&a);
    }
    times[2] = seconds_now();
    free(prompt);
    return rc;
}

static int run_arrivals(struct run *run, struct lorica_error *err) {
    const uint32_t room = run->base->arch.max_positions - OWN_TOKENS;
    struct answer *streams = calloc(run->sequences, sizeof(*streams));
    uint64_t *ids = calloc(run->sequences, sizeof(*ids));
    struct lorica_engine_options options = options_of(run);
    double times[3], alone[3], busy[3], first = 0;
    int32_t prompt[OWN_TOKENS];
    uint32_t asked = 0;
    int rc = streams && ids ? open_engine(run, &options, err)
                            : lorica_fail(err, LORICA_ENOMEM, "no memory for the answers");
    for (; asked < run->sequences && !rc; asked++) {
        made_up_prompt(run, prompt, OWN_TOKENS, asked);
        rc = ask(run, prompt, OWN_TOKENS, room < 4096 ? room : 4096, &streams[asked], &ids[asked],
                 err);
    }
    if (!rc)
        rc = let_arrive(run, streams, times, &first, err);
    lorica_engine_destroy(run->engine); /* ends the answers */
    run->engine = NULL;
    if (!rc)
        rc = gaps(streams, run->sequences, times[0], times[1], alone, err);
    if (!rc)
        rc = gaps(streams, run->sequences, times[1], times[2], busy, err);
    for (uint32_t i = 0; i < asked; i++)
        answer_finish(&streams[i]);
    free(streams);
    free(ids);
    if (rc)
        return rc;
    add_figure(run, "running answers", run->sequences);
    add_figure(run, "gap alone, p50, ms", alone[0] * 1e3);
    add_figure(run, "gap alone, p99, ms", alone[1] * 1e3);
    add_figure(run, "tokens of each arriving prompt", run->tokens);
    add_figure(run, "gap, p50, ms", busy[0] * 1e3);
    add_figure(run, "gap, p99, ms", busy[1] * 1e3);
    add_figure(run, "gap, largest, ms", busy[2] * 1e3);
    add_figure(run, "prompt tokens/s", run->tokens / first);
    return 0;
}

/* The frame. */

static const struct kind {
    const char *word;
    int (*run)(struct run *, struct lorica_error *);
    uint32_t tokens;
} kinds[] = {{"prefix", run_prefix, 512},
             {"speculation", run_speculation, 128},
             {"arrivals", run_arrivals, 2048}};

static const struct kind *find_kind(const char *word) {
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(word, kinds[i].word) == 0)
            return &kinds[i];
    return NULL;
}

bool lorica_bench_engine_knows(const char *word) { return find_kind(word) != NULL; }

static int open_adapter(struct run *run, struct lorica_error *err) {
    struct lorica_adapter_source source = {0};
    int rc = lorica_adapter_source_open(run->bench->adapter, run->bench->where, &source, err);
    if (rc)
        return rc;
    rc = lorica_adapter_load_dir(&run->base->arch, LORICA_ADAPTER_FAST, source.dir, &run->adapter,
                                 err);
    lorica_adapter_source_close(&source);
    if (!rc) /* of a directory nothing is known; here it stands for itself */
        memset(run->adapter->digest.bytes, 1, sizeof(run->adapter->digest.bytes));
    return rc;
}

static int open_run(struct run *run, struct lorica_error *err) {
    char *data = lorica_data_dir(run->bench->where->data), *path = NULL;
    if (!data)
        return lorica_fail(err, LORICA_EINVAL, "there is no data directory");
    int rc = lorica_find_base(data, run->bench->base, &path, err);
    if (!rc)
        rc = lorica_base_open_any(path, &lorica_sha256_hasher, &run->base, err);
    if (!rc)
        rc = lorica_tokenizer_create(run->base->metadata, run->base->metadata_len, &run->tokenizer,
                                     err);
    if (!rc)
        rc = lorica_chat_create(run->base->metadata, run->base->metadata_len, &run->chat, err);
    if (!rc && run->bench->adapter)
        rc = open_adapter(run, err);
    free(path);
    free(data);
    return rc;
}

static void close_run(struct run *run) {
    lorica_engine_destroy(run->engine);
    (void)lorica_adapter_unref(run->adapter);
    lorica_chat_destroy(run->chat);
    lorica_tokenizer_destroy(run->tokenizer);
    lorica_base_close(run->base);
}

/* The key of a figure: the words and numbers of its name, with one '_' between them. */
static void make_key(const char *name, char *ret, size_t room) {
    size_t len = 0;
    for (; *name && len + 1 < room; name++) {
        const bool word = (*name >= 'a' && *name <= 'z') || (*name >= '0' && *name <= '9');
        if (word || (len > 0 && ret[len - 1] != '_'))
            ret[len++] = word ? *name : '_';
    }
    ret[len] = '\0';
}

static int print_json(const struct run *run, struct lorica_error *err) {
    struct lorica_buf out;
    struct lorica_jsonw w = {.out = &out};
    lorica_buf_init(&out, 1u << 16);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "bench", run->bench->what);
    lorica_jsonw_string(&w, "base", run->base->name);
    lorica_jsonw_string(&w, "cpu", lorica_cpu_brand());
    lorica_jsonw_string(&w, "level", lorica_cpu_level_name(lorica_cpu_level()));
    for (size_t i = 0; i < run->figure_count; i++) {
        char key[64];
        make_key(run->figures[i].name, key, sizeof(key));
        lorica_jsonw_number(&w, key, run->figures[i].value);
    }
    lorica_jsonw_end_object(&w);
    return lorica_cmd_print_json(&out, 0, err);
}

static int print_table(const struct run *run, struct lorica_error *err) {
    static const char *const headings[] = {"figure", "value", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    for (size_t i = 0; i < run->figure_count; i++) {
        lorica_table_text(table, run->figures[i].name);
        lorica_table_format(table, "%.4g", run->figures[i].value);
    }
    const bool printed = lorica_table_print(table, stdout);
    lorica_table_destroy(table);
    return printed ? 0 : lorica_fail(err, LORICA_ENOMEM, "no memory for the table");
}

int lorica_bench_engine(const struct lorica_bench_engine *bench) {
    const struct kind *kind = find_kind(bench->what);
    struct lorica_error err = {0};
    struct run run = {.bench = bench,
                      .sequences = bench->sequences ? bench->sequences : 8,
                      .tokens = bench->tokens ? bench->tokens : kind->tokens};
    int rc = open_run(&run, &err);
    if (!rc && run.tokens + OWN_TOKENS > run.base->arch.max_positions)
        rc = lorica_fail(&err, LORICA_EINVAL, "--tokens: the model has %u positions",
                         run.base->arch.max_positions);
    if (!rc)
        rc = kind->run(&run, &err);
    if (!rc)
        rc = bench->json ? print_json(&run, &err) : print_table(&run, &err);
    close_run(&run);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}
