/* SPDX-License-Identifier: MIT
 * lorica eval: the numbers, for anyone who wants to check them. */
#include <errno.h>
#include <math.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/cmd/adapter_source.h"
#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "proto/json.h"
#include "proto/safetensors.h"
#include "registry/digest.h"
#include "runtime/eval.h"
#include "runtime/tokenizer.h"

enum { LOGITS, PERPLEXITY };

#define COMMAND(which) (&lorica_cmd_eval[which])
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define INPUT_MAX ((size_t)1 << 30)
#define OUTPUT_MAX 65536
#define WINDOW_DEFAULT "1024"

/* What both commands evaluate. */
struct subject {
    struct lorica_base *base;
    struct lorica_adapter *exact, *fast;
};

static void close_subject(struct subject *s) {
    (void)lorica_adapter_unref(s->exact);
    (void)lorica_adapter_unref(s->fast);
    lorica_base_close(s->base);
}

static int open_adapter(struct subject *s, const char *word,
                        const struct lorica_client_options *where, struct lorica_error *err) {
    struct lorica_adapter_source source = {0};
    int rc = lorica_adapter_source_open(word, where, &source, err);
    if (!rc)
        rc = lorica_adapter_load_dir(&s->base->arch, LORICA_ADAPTER_EXACT, source.dir, &s->exact,
                                     err);
    if (!rc)
        rc =
            lorica_adapter_load_dir(&s->base->arch, LORICA_ADAPTER_FAST, source.dir, &s->fast, err);
    lorica_adapter_source_close(&source);
    return rc;
}

static int open_subject(struct subject *s, const char *base_word, const char *adapter_word,
                        const struct lorica_client_options *where, struct lorica_error *err) {
    char *data = lorica_data_dir(where->data), *path = NULL;
    if (!data)
        return lorica_fail(err, LORICA_EINVAL, "there is no data directory");
    int rc = lorica_find_base(data, base_word, &path, err);
    if (!rc)
        rc = lorica_base_open_any(path, &lorica_sha256_hasher, &s->base, err);
    if (!rc && adapter_word)
        rc = open_adapter(s, adapter_word, where, err);
    free(path);
    free(data);
    return rc;
}

static bool parse_compute(const struct lorica_cmd *cmd, const char *word,
                          enum lorica_compute *ret) {
    *ret = strcmp(word, "fast") == 0 ? LORICA_COMPUTE_FAST : LORICA_COMPUTE_EXACT;
    if (strcmp(word, "fast") == 0 || strcmp(word, "exact") == 0)
        return true;
    (void)lorica_cmd_usage(cmd, "--compute %s: exact or fast expected", word);
    return false;
}

/* -- logits --------------------------------------------------------------------------------------
 */

/* input_ids of a safetensors file: [batch][time]. */
struct tokens_file {
    int32_t *ids;
    uint32_t batch, time;
};

static int take_ids(const char *path, const char *bytes, const struct lorica_tensor *t,
                    uint32_t vocab, struct tokens_file *ret, struct lorica_error *err) {
    const bool wide = t && t->dtype == LORICA_DTYPE_I64;
    if (!t || (t->dtype != LORICA_DTYPE_I32 && !wide) || t->ndim != 2 || t->nbytes == 0)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: a tensor input_ids of I32 [batch, time] is expected", path);
    const size_t count = (size_t)(t->shape[0] * t->shape[1]);
    int32_t *ids = malloc(count * sizeof(*ids));
    if (!ids)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %zu token ids", count);
    for (size_t i = 0; i < count; i++) {
        int64_t id = 0;
        int32_t narrow = 0;
        if (wide)
            memcpy(&id, bytes + t->offset + 8 * i, 8);
        else
            memcpy(&narrow, bytes + t->offset + 4 * i, 4);
        if (!wide)
            id = narrow;
        if (id < 0 || id >= (int64_t)vocab) {
            free(ids);
            return lorica_fail(err, LORICA_EINVAL,
                               "%s: token id %lld at position %zu is outside the vocabulary of %u",
                               path, (long long)id, i, vocab);
        }
        ids[i] = (int32_t)id;
    }
    *ret = (struct tokens_file){ids, (uint32_t)t->shape[0], (uint32_t)t->shape[1]};
    return 0;
}

static int read_tokens(const char *path, uint32_t vocab, struct tokens_file *ret,
                       struct lorica_error *err) {
    char *bytes = NULL;
    size_t len = 0;
    struct lorica_safetensors file = {0};
    int rc = lorica_file_read(path, INPUT_MAX, &bytes, &len, err);
    if (!rc) {
        rc = lorica_safetensors_parse(bytes, len, len, &file, err);
        if (rc)
            (void)lorica_fail_prefix(err, "%s", path);
    }
    if (!rc)
        rc = take_ids(path, bytes, lorica_safetensors_find(&file, "input_ids"), vocab, ret, err);
    lorica_safetensors_finish(&file);
    free(bytes);
    return rc;
}

/* Writes one batch row after another, so that only one row's logits are in memory. */
static int write_rows(FILE *out, const struct subject *s, enum lorica_compute compute,
                      enum lorica_kv_format kv, unsigned threads, const struct tokens_file *in,
                      struct lorica_error *err) {
    const size_t row = (size_t)in->time * s->base->arch.vocab;
    const struct lorica_eval eval = {s->base, s->exact, s->fast, threads, kv};
    float *logits = malloc(row * sizeof(*logits));
    int rc =
        logits ? 0
               : lorica_fail(err, LORICA_ENOMEM, "no memory for the logits of %u tokens", in->time);
    for (uint32_t i = 0; i < in->batch && !rc; i++) {
        rc = lorica_eval_logits(&eval, compute, in->ids + (size_t)i * in->time, 1, in->time, logits,
                                err);
        if (!rc && fwrite(logits, sizeof(*logits), row, out) != row)
            rc = lorica_fail(err, errno == ENOSPC ? LORICA_ENOSPC : LORICA_EIO,
                             "the output cannot be written: %s", strerror(errno));
    }
    free(logits);
    return rc;
}

static int write_logits(const char *path, const struct subject *s, enum lorica_compute compute,
                        enum lorica_kv_format kv, unsigned threads, const struct tokens_file *in,
                        struct lorica_error *err) {
    struct lorica_tensor tensor = {.name = "logits",
                                   .dtype = LORICA_DTYPE_F32,
                                   .ndim = 3,
                                   .shape = {in->batch, in->time, s->base->arch.vocab}};
    struct lorica_buf header;
    lorica_buf_init(&header, OUTPUT_MAX);
    int rc = lorica_safetensors_write_header(&header, &tensor, 1, NULL, 0);
    if (rc)
        return lorica_fail(err, rc, "%s: %s", path, lorica_err_text(rc));
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(header.data, 1, header.len, out) != header.len)
        rc = lorica_fail_errno(err, path, "cannot be written");
    if (!rc)
        rc = write_rows(out, s, compute, kv, threads, in, err);
    if (out && fclose(out) != 0 && !rc)
        rc = lorica_fail_errno(err, path, "cannot be written");
    if (rc && out)
        (void)remove(path);
    lorica_buf_finish(&header);
    return rc;
}

static int logits(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *base = NULL, *adapter = NULL, *in_path = NULL, *out_path = NULL;
    const char *compute_word = "exact", *kv_word = "bf16", *threads_word = "0";
    enum lorica_compute compute;
    enum lorica_kv_format kv;
    long long threads;
    const struct lorica_option options[] = {{.name = "base", .value = &base},
                                            {.name = "adapter", .value = &adapter},
                                            {.name = "tokens", .value = &in_path},
                                            {.name = "out", .value = &out_path},
                                            {.name = "compute", .value = &compute_word},
                                            {.name = "kv", .value = &kv_word},
                                            {.name = "threads", .value = &threads_word},
                                            LORICA_CLIENT_OPTIONS(where)};
    if (lorica_cmd_options(COMMAND(LOGITS), argc, argv, options, COUNT(options), 0, 0) < 0)
        return LORICA_EXIT_USAGE;
    if (!in_path || !out_path)
        return lorica_cmd_usage(COMMAND(LOGITS), "--tokens and --out are needed");
    if (!parse_compute(COMMAND(LOGITS), compute_word, &compute) || !lorica_cmd_kv(kv_word, &kv) ||
        !lorica_cmd_integer("threads", threads_word, 0, 256, &threads))
        return LORICA_EXIT_USAGE;
    struct subject s = {0};
    struct tokens_file in = {0};
    struct lorica_error err = {0};
    int rc = open_subject(&s, base, adapter, &where, &err);
    if (!rc)
        rc = read_tokens(in_path, s.base->arch.vocab, &in, &err);
    if (!rc)
        rc = write_logits(out_path, &s, compute, kv, (unsigned)threads, &in, &err);
    free(in.ids);
    close_subject(&s);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}

/* -- perplexity ----------------------------------------------------------------------------------
 */

/* The figures of the arithmetic that was asked for come first; --kl adds both and how they differ.
 */
struct report {
    const struct lorica_eval_result *result;
    enum lorica_compute compute;
    bool kl;
};

static double nll_of(const struct report *report) {
    const bool fast = report->kl && report->compute == LORICA_COMPUTE_FAST;
    return fast ? report->result->fast_nll : report->result->nll;
}

static const char *compute_name(const struct report *report) {
    return report->compute == LORICA_COMPUTE_FAST ? "fast" : "exact";
}

static void print_json(const struct report *report) {
    const struct lorica_eval_result *r = report->result;
    struct lorica_buf out;
    lorica_buf_init(&out, OUTPUT_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "compute", compute_name(report));
    lorica_jsonw_integer(&w, "tokens", (int64_t)r->tokens);
    lorica_jsonw_number(&w, "nll", nll_of(report));
    lorica_jsonw_number(&w, "perplexity", exp(nll_of(report)));
    if (report->kl) {
        lorica_jsonw_number(&w, "exact_nll", r->nll);
        lorica_jsonw_number(&w, "exact_perplexity", r->perplexity);
        lorica_jsonw_number(&w, "fast_nll", r->fast_nll);
        lorica_jsonw_number(&w, "fast_perplexity", r->fast_perplexity);
        lorica_jsonw_number(&w, "mean_kl", r->mean_kl);
        lorica_jsonw_number(&w, "p99_kl", r->p99_kl);
        lorica_jsonw_number(&w, "top1_agreement", r->top1_agreement);
    }
    lorica_jsonw_end_object(&w);
    (void)printf("%s\n", lorica_buf_status(&out) == 0 ? out.data : "{}");
    lorica_buf_finish(&out);
}

static void print_text(const struct report *report) {
    const struct lorica_eval_result *r = report->result;
    (void)printf("tokens      %llu\nnll         %.6f  (%s)\nperplexity  %.4f\n",
                 (unsigned long long)r->tokens, nll_of(report), compute_name(report),
                 exp(nll_of(report)));
    if (report->kl)
        (void)printf("exact: nll %.6f, perplexity %.4f\n"
                     "fast: nll %.6f, perplexity %.4f (%+.3f %%)\n"
                     "KL(exact || fast): mean %.3g, 99th percentile %.3g nats per token\n"
                     "same most likely token: %.2f %%\n",
                     r->nll, r->perplexity, r->fast_nll, r->fast_perplexity,
                     100 * (r->fast_perplexity / r->perplexity - 1), r->mean_kl, r->p99_kl,
                     100 * r->top1_agreement);
}

static void show_progress(void *arg, uint64_t done, uint64_t total) {
    lorica_progress(arg, "eval", done, total);
}

static int tokenize_file(const struct lorica_base *base, const char *path,
                         struct lorica_tokens *ids, struct lorica_error *err) {
    struct lorica_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t len = 0;
    int rc = lorica_file_read(path, INPUT_MAX, &text, &len, err);
    if (!rc)
        rc = lorica_tokenizer_create(base->metadata, base->metadata_len, &tokenizer, err);
    if (!rc) {
        rc = lorica_tokenizer_encode(tokenizer, text, len, false, ids, err);
        if (rc)
            (void)lorica_fail_prefix(err, "%s", path);
    }
    lorica_tokenizer_destroy(tokenizer);
    free(text);
    return rc;
}

static int perplexity(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *adapter = NULL, *text = NULL, *compute_word = "exact", *threads_word = "0";
    const char *kv_word = "bf16", *window_word = WINDOW_DEFAULT;
    bool kl = false, json = false;
    enum lorica_compute compute;
    enum lorica_kv_format kv;
    long long threads, window;
    const struct lorica_option options[] = {{.name = "text", .value = &text},
                                            {.name = "adapter", .value = &adapter},
                                            {.name = "compute", .value = &compute_word},
                                            {.name = "kv", .value = &kv_word},
                                            {.name = "window", .value = &window_word},
                                            {.name = "threads", .value = &threads_word},
                                            {.name = "kl", .flag = &kl},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    const int words =
        lorica_cmd_options(COMMAND(PERPLEXITY), argc, argv, options, COUNT(options), 0, 1);
    if (words < 0)
        return LORICA_EXIT_USAGE;
    if (!text)
        return lorica_cmd_usage(COMMAND(PERPLEXITY), "--text is needed");
    if (!parse_compute(COMMAND(PERPLEXITY), compute_word, &compute) ||
        !lorica_cmd_kv(kv_word, &kv) ||
        !lorica_cmd_integer("threads", threads_word, 0, 256, &threads) ||
        !lorica_cmd_integer("window", window_word, 2, 1 << 20, &window))
        return LORICA_EXIT_USAGE;
    struct subject s = {0};
    struct lorica_tokens ids = {0};
    struct lorica_error err = {0};
    struct lorica_eval_result result;
    int rc = open_subject(&s, words > 0 ? argv[0] : NULL, adapter, &where, &err);
    if (!rc)
        rc = tokenize_file(s.base, text, &ids, &err);
    if (!rc) {
        const struct lorica_eval eval = {s.base, s.exact, s.fast, (unsigned)threads, kv};
        if (window > s.base->arch.max_positions)
            window = s.base->arch.max_positions;
        rc = lorica_eval_perplexity(&eval, compute, kl, ids.ids, ids.count, (uint32_t)window,
                                    show_progress, NULL, &result, &err);
    }
    const struct report report = {&result, compute, kl};
    if (!rc && json)
        print_json(&report);
    else if (!rc)
        print_text(&report);
    free(ids.ids);
    close_subject(&s);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}

#define COMMON_HELP                                                                                \
    "--adapter A\tan adapter: a directory as PEFT writes it, or NAME, NAME@V, NAME:CHANNEL of "    \
    "the registry\n"                                                                               \
    "--compute exact|fast\tfloat32 on the exact weights (the default), or what serving uses\n"     \
    "--kv bf16|int8\thow fast's key/value cache holds its values (bf16)\n"                         \
    "--threads N\tthreads (else one per core)\n"

const struct lorica_cmd lorica_cmd_eval[] = {
    [LOGITS] =
        {
            .name = "eval logits",
            .synopsis = "--tokens IN.safetensors --out OUT.safetensors [--base BASE] [--adapter A]",
            .summary = "write the logits of given token ids",
            .help =
                "Reads input_ids, int32 [batch, time], and writes logits, float32 [batch, time, "
                "vocab].\n"
                "--base BASE\ta base's name, a .lorica file, or a GGUF file or Hugging Face "
                "directory, which is then read without quantising it; without it, the only "
                "base there is\n"
                "--tokens IN\tsafetensors file with input_ids\n"
                "--out OUT\tsafetensors file to write\n" COMMON_HELP LORICA_CLIENT_HELP,
            .run = logits,
        },
    [PERPLEXITY] =
        {
            .name = "eval perplexity",
            .synopsis = "[BASE] --text FILE [--adapter A] [--compute exact|fast] [--kl]",
            .summary = "perplexity of a text, and how far serving is from exact",
            .help = "BASE\tas in eval logits --base\n"
                    "--text FILE\tthe text, UTF-8\n"
                    "--kl\trun both arithmetics and print KL(exact || fast)\n"
                    "--window N\ttokens seen at once (else " WINDOW_DEFAULT ")\n"
                    "--json\tprint JSON\n" COMMON_HELP LORICA_CLIENT_HELP,
            .run = perplexity,
        },
};
const size_t lorica_cmd_eval_count = COUNT(lorica_cmd_eval);
