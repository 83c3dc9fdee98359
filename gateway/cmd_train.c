/* SPDX-License-Identifier: MIT
 * lorica train: a new adapter from questions and answers, or a trace replayed to check the numbers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "gateway/client_cmd.h"
#include "gateway/cmd.h"
#include "gateway/files.h"
#include "proto/json.h"
#include "proto/peft.h"
#include "proto/safetensors.h"
#include "registry/digest.h"
#include "registry/registry.h"
#include "runtime/train/save.h"
#include "runtime/train/trainer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define FILE_MAX ((size_t)2 << 30)
#define TEXT_MAX ((size_t)1 << 20)

/* The words of the command line, then their meaning. */
struct train {
    struct lorica_client_options where;
    const char *name, *data_path; /* NULL for a replay */
    const char *base_word, *out, *eval_path, *channel, *message, *replay, *init;
    const char *rank, *alpha, *targets, *lr, *schedule, *warmup, *epochs, *steps, *batch;
    const char *accumulate, *max_length, *max_grad_norm, *weight_decay, *beta1, *beta2, *eps;
    const char *dropout, *seed, *threads;
    bool publish, rslora;

    struct lorica_trainer_options options;
    struct lorica_train_spec spec;
    long long thread_count, length;
};

/* -- options -------------------------------------------------------------------------------------
 */

static bool whole(const char *name, const char *text, long long min, long long max, uint64_t *ret) {
    long long value;
    if (!lorica_cmd_integer(name, text, min, max, &value))
        return false;
    *ret = (uint64_t)value;
    return true;
}

static bool parse_schedule(const char *word, enum lorica_schedule *ret) {
    static const char *const names[] = {"constant", "linear", "cosine"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(word, names[i]) == 0) {
            *ret = (enum lorica_schedule)i;
            return true;
        }
    }
    (void)lorica_cmd_usage(&lorica_cmd_train, "--schedule %s: constant, linear or cosine expected",
                           word);
    return false;
}

static bool parse_loop(struct train *t) {
    struct lorica_trainer_options *o = &t->options;
    uint64_t batch = o->batch, accumulate = o->accumulate;
    bool fine = true;
    if (t->lr)
        fine &= lorica_cmd_number("lr", t->lr, 1e-9, 100, &o->lr);
    if (t->schedule)
        fine &= parse_schedule(t->schedule, &o->schedule);
    if (t->warmup)
        fine &= lorica_cmd_number("warmup", t->warmup, 0, 1, &o->warmup);
    if (t->epochs)
        fine &= lorica_cmd_number("epochs", t->epochs, 0.01, 10000, &o->epochs);
    if (t->steps)
        fine &= whole("steps", t->steps, 1, 100000000, &o->steps);
    if (t->batch)
        fine &= whole("batch", t->batch, 1, 1024, &batch);
    if (t->accumulate)
        fine &= whole("accumulate", t->accumulate, 1, 100000, &accumulate);
    if (t->seed)
        fine &= whole("seed", t->seed, 0, (long long)1 << 53, &o->seed);
    if (t->max_grad_norm)
        fine &= lorica_cmd_number("max-grad-norm", t->max_grad_norm, 0, 1e9, &o->max_grad_norm);
    o->batch = (uint32_t)batch;
    o->accumulate = (uint32_t)accumulate;
    return fine;
}

static bool parse_adamw(struct train *t) {
    struct lorica_adamw_options *a = &t->options.adamw;
    bool fine = true;
    if (t->weight_decay)
        fine &= lorica_cmd_number("weight-decay", t->weight_decay, 0, 1, &a->weight_decay);
    if (t->beta1)
        fine &= lorica_cmd_number("beta1", t->beta1, 0, 0.999999, &a->beta1);
    if (t->beta2)
        fine &= lorica_cmd_number("beta2", t->beta2, 0, 0.999999999, &a->beta2);
    if (t->eps)
        fine &= lorica_cmd_number("eps", t->eps, 0, 1, &a->eps);
    return fine;
}

static bool parse_spec(struct train *t) {
    struct lorica_train_spec *s = &t->spec;
    struct lorica_error err = {0};
    uint64_t rank = 8;
    bool fine = !t->rank || whole("rank", t->rank, 1, 4096, &rank);
    *s = (struct lorica_train_spec){
        .rank = (uint32_t)rank, .alpha = 2.0 * (double)rank, .rslora = t->rslora};
    if (t->alpha)
        fine &= lorica_cmd_number("alpha", t->alpha, 0.001, 100000, &s->alpha);
    if (t->dropout)
        fine &= lorica_cmd_number("dropout", t->dropout, 0, 0.99, &s->dropout);
    if (lorica_train_targets_parse(t->targets ? t->targets : "all-linear", s->targets, &err) != 0) {
        (void)lorica_cmd_usage(&lorica_cmd_train, "--targets: %s", err.text);
        fine = false;
    }
    s->seed = t->options.seed;
    t->options.dropout = (float)s->dropout;
    t->length = 512;
    if (t->max_length)
        fine &= lorica_cmd_integer("max-length", t->max_length, 8, 1 << 20, &t->length);
    if (t->threads)
        fine &= lorica_cmd_integer("threads", t->threads, 0, 256, &t->thread_count);
    return fine;
}

/* -- output --------------------------------------------------------------------------------------
 */

static int check_room(const char *dir, uint64_t needed, struct lorica_error *err) {
    struct statvfs fs;
    if (statvfs(dir, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < needed)
        return lorica_fail(err, LORICA_ENOSPC,
                           "%s: the adapter needs %llu MB, the disk has %llu MB left", dir,
                           (unsigned long long)(needed >> 20),
                           (unsigned long long)((uint64_t)fs.f_bavail * fs.f_frsize >> 20));
    return 0;
}

static int write_file(const char *dir, const char *name, const struct lorica_buf *bytes,
                      struct lorica_error *err) {
    char *path = lorica_path_join(dir, name);
    const int rc = path ? lorica_file_replace(path, bytes->data, bytes->len, 0644, err)
                        : lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    free(path);
    return rc;
}

/* The two files of an adapter; `config` as given, or made from the spec. */
static int write_adapter(const char *dir, const struct lorica_base *base,
                         const struct lorica_adapter *adapter, const struct lorica_buf *config,
                         struct lorica_error *err) {
    struct lorica_buf weights;
    lorica_buf_init(&weights, FILE_MAX);
    int rc = lorica_train_weights_encode(&base->arch, adapter, &weights);
    if (rc)
        rc = lorica_fail(err, rc, "%s: the weights: %s", dir, lorica_err_text(rc));
    if (!rc)
        rc = write_file(dir, "adapter_model.safetensors", &weights, err);
    if (!rc)
        rc = write_file(dir, "adapter_config.json", config, err);
    lorica_buf_finish(&weights);
    return rc;
}

static void print_progress(void *arg, const struct lorica_trainer_progress *p) {
    const bool terminal = isatty(STDERR_FILENO);
    const uint64_t each = p->steps < 10 ? 1 : p->steps / 10;
    if (!terminal && p->step % each != 0 && p->step != p->steps)
        return;
    const double left = p->seconds / (double)p->step * (double)(p->steps - p->step);
    char bar[21];
    for (unsigned i = 0; i < 20; i++)
        bar[i] = (uint64_t)(i + 1) * p->steps <= p->step * 20 ? '#' : '.';
    bar[20] = '\0';
    (void)fprintf(stderr, "%s[%s] %llu/%llu  loss %.3f  %.0f tokens/s  %.0f s left%s",
                  terminal ? "\r" : "", bar, (unsigned long long)p->step,
                  (unsigned long long)p->steps, p->loss, (double)p->tokens / p->seconds, left,
                  terminal && p->step != p->steps ? "  " : "\n");
    (void)fflush(stderr);
}

/* -- training ------------------------------------------------------------------------------------
 */

/* All that a run opens. */
struct session {
    struct lorica_base *base;
    struct lorica_pool *pool;
    struct lorica_tokenizer *tokenizer;
    struct lorica_chat_template *chat;
    struct lorica_train_data data, held_apart;
    struct lorica_adapter *adapter;
};

static void close_session(struct session *s) {
    (void)lorica_adapter_unref(s->adapter);
    lorica_train_data_finish(&s->data);
    lorica_train_data_finish(&s->held_apart);
    lorica_chat_destroy(s->chat);
    lorica_tokenizer_destroy(s->tokenizer);
    lorica_pool_destroy(s->pool);
    lorica_base_close(s->base);
}

static int open_session(struct session *s, const struct train *t, struct lorica_error *err) {
    char *dir = lorica_data_dir(t->where.data), *path = NULL;
    if (!dir)
        return lorica_fail(err, LORICA_EINVAL, "there is no data directory");
    int rc = lorica_find_base(dir, t->base_word, &path, err);
    if (!rc)
        rc = lorica_base_open_any(path, &lorica_sha256_hasher, &s->base, err);
    if (!rc)
        rc = lorica_pool_create((unsigned)t->thread_count, &s->pool, err);
    free(path);
    free(dir);
    return rc;
}

static int load_data(struct session *s, const struct train *t, struct lorica_error *err) {
    const struct lorica_base *b = s->base;
    uint32_t length = (uint32_t)t->length;
    if (length > b->arch.max_positions)
        length = b->arch.max_positions;
    int rc = lorica_tokenizer_create(b->metadata, b->metadata_len, &s->tokenizer, err);
    if (!rc)
        rc = lorica_chat_create(b->metadata, b->metadata_len, &s->chat, err);
    if (!rc)
        rc = lorica_train_data_load(t->data_path, s->tokenizer, s->chat, length, &s->data, err);
    if (!rc && t->eval_path)
        rc = lorica_train_data_load(t->eval_path, s->tokenizer, s->chat, length, &s->held_apart,
                                    err);
    if (rc)
        return rc;
    (void)printf("%s: %zu examples%s\n", t->data_path, s->data.count,
                 t->eval_path ? "" : "; --eval FILE would measure on examples held apart");
    if (s->data.cut > 0)
        (void)printf("%zu were longer than %u tokens and lost their end, %zu of them all of the "
                     "answer; --max-length raises the limit\n",
                     s->data.cut, length, s->data.skipped);
    (void)fflush(stdout); /* before the progress, which goes to stderr */
    return 0;
}

/* Facts for the registry: how the adapter came to be. */
static int write_manifest(const char *dir, const struct train *t,
                          const struct lorica_trainer_result *r, double before, double after,
                          struct lorica_error *err) {
    struct lorica_buf out;
    lorica_buf_init(&out, TEXT_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "trainer", "lorica " LORICA_VERSION);
    lorica_jsonw_integer(&w, "rank", t->spec.rank);
    lorica_jsonw_number(&w, "alpha", t->spec.alpha);
    lorica_jsonw_number(&w, "lr", t->options.lr);
    lorica_jsonw_integer(&w, "batch", t->options.batch);
    lorica_jsonw_integer(&w, "steps", (int64_t)r->steps);
    lorica_jsonw_integer(&w, "tokens", (int64_t)r->tokens);
    lorica_jsonw_integer(&w, "seed", (int64_t)t->options.seed);
    lorica_jsonw_number(&w, "train_loss", r->loss);
    if (t->eval_path) {
        lorica_jsonw_number(&w, "eval_loss_base", before);
        lorica_jsonw_number(&w, "eval_loss", after);
    }
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(&out, "\n");
    int rc = lorica_buf_status(&out);
    rc = rc ? lorica_fail(err, rc, "manifest.json: %s", lorica_err_text(rc))
            : write_file(dir, "manifest.json", &out, err);
    lorica_buf_finish(&out);
    return rc;
}

static int train_into(struct session *s, const struct train *t, const char *dir,
                      struct lorica_error *err) {
    struct lorica_trainer_result result = {0};
    double before = 0, after = 0;
    int rc = lorica_train_adapter_new(&t->spec, s->base, &s->adapter, err);
    if (!rc)
        rc = check_room(dir, lorica_train_weights_nbytes(&s->base->arch, s->adapter), err);
    if (!rc && t->eval_path)
        rc = lorica_trainer_evaluate(s->base, s->pool, &s->held_apart, NULL, &before, err);
    if (!rc)
        rc = lorica_trainer_run(s->base, s->pool, &s->data, &t->options, s->adapter, print_progress,
                                NULL, &result, err);
    if (!rc && t->eval_path)
        rc = lorica_trainer_evaluate(s->base, s->pool, &s->held_apart, s->adapter, &after, err);
    struct lorica_buf config;
    lorica_buf_init(&config, TEXT_MAX);
    if (!rc)
        rc = lorica_train_config_encode(&t->spec, s->base, &config);
    if (!rc)
        rc = write_adapter(dir, s->base, s->adapter, &config, err);
    if (!rc)
        rc = write_manifest(dir, t, &result, before, after, err);
    lorica_buf_finish(&config);
    if (rc)
        return rc;
    (void)printf("%llu updates, %llu tokens in %.0f s; training loss %.3f",
                 (unsigned long long)result.steps, (unsigned long long)result.tokens,
                 result.seconds, result.loss);
    if (t->eval_path)
        (void)printf("; held apart %.3f, before %.3f (%+.0f %%)", after, before,
                     100 * (after / before - 1));
    (void)printf("\nwritten to %s\n", dir);
    return 0;
}

static int publish(const struct train *t, const char *dir) {
    struct lorica_client *client = NULL;
    struct lorica_json *version = NULL;
    struct lorica_error err = {0};
    bool existing = false;
    if (!lorica_client_open(&t->where, &client))
        return LORICA_EXIT_FAILED;
    const int rc = lorica_client_publish(client, t->name, dir, t->channel, t->message, &version,
                                         &existing, &err);
    if (!rc)
        (void)printf("published %s@%lld%s%s\n", t->name,
                     (long long)lorica_member_number(version, "version"),
                     t->channel ? ", now live on channel " : "", t->channel ? t->channel : "");
    lorica_json_destroy(version);
    lorica_client_destroy(client);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}

/* Where the adapter goes: --out, else DIR/train/NAME. For free(). */
static char *output_dir(const struct train *t, struct lorica_error *err) {
    char *dir = NULL, *data = NULL, *all = NULL;
    if (t->out) {
        dir = strdup(t->out);
    } else if ((data = lorica_data_dir(t->where.data)) && (all = lorica_path_join(data, "train"))) {
        dir = lorica_path_join(all, t->name);
    }
    free(data);
    free(all);
    if (!dir)
        (void)lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    else if (lorica_dirs_make(dir, 0755, err) == 0)
        return dir;
    free(dir);
    return NULL;
}

static int train_and_publish(struct train *t) {
    struct session s = {0};
    struct lorica_error err = {0};
    char *dir = output_dir(t, &err);
    int rc = dir ? open_session(&s, t, &err) : err.code;
    if (!rc)
        rc = load_data(&s, t, &err);
    if (!rc)
        rc = train_into(&s, t, dir, &err);
    close_session(&s);
    int status = rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
    if (!rc && t->publish)
        status = publish(t, dir);
    free(dir);
    return status;
}

/* -- replay --------------------------------------------------------------------------------------
 */

/* A tensor of token ids or labels [step][batch][time], as int32. Caller frees. */
static int take_tensor(const char *bytes, const struct lorica_safetensors *file, const char *name,
                       struct lorica_replay *shape, int32_t **ret, struct lorica_error *err) {
    const struct lorica_tensor *t = lorica_safetensors_find(file, name);
    const bool wide = t && t->dtype == LORICA_DTYPE_I64;
    if (!t || (t->dtype != LORICA_DTYPE_I32 && !wide) || t->ndim != 3 || t->nbytes == 0 ||
        t->shape[0] > UINT32_MAX || t->shape[1] > UINT32_MAX || t->shape[2] > UINT32_MAX ||
        (shape->steps && (t->shape[0] != shape->steps || t->shape[1] != shape->batch ||
                          t->shape[2] != shape->time)))
        return lorica_fail(err, LORICA_EFORMAT,
                           "input_ids and labels of I32 or I64 [step, batch, time], of one shape, "
                           "are expected: %s is not so",
                           name);
    shape->steps = (uint32_t)t->shape[0];
    shape->batch = (uint32_t)t->shape[1];
    shape->time = (uint32_t)t->shape[2];
    const size_t count = (size_t)(t->nbytes / lorica_dtype_size(t->dtype));
    int32_t *values = malloc(count * sizeof(*values));
    if (!values)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %s", name);
    for (size_t i = 0; i < count; i++) {
        int64_t value = 0;
        memcpy(&value, bytes + t->offset + i * (wide ? 8 : 4), wide ? 8 : 4);
        values[i] = wide ? (value < INT32_MIN || value > INT32_MAX ? INT32_MIN : (int32_t)value)
                         : (int32_t)(uint32_t)value;
    }
    *ret = values;
    return 0;
}

static int write_curves(const char *dir, uint32_t steps, const float *losses, const float *norms,
                        struct lorica_error *err) {
    struct lorica_tensor tensors[] = {
        {.name = "losses", .dtype = LORICA_DTYPE_F32, .ndim = 1, .shape = {steps}},
        {.name = "grad_norms", .dtype = LORICA_DTYPE_F32, .ndim = 1, .shape = {steps}}};
    struct lorica_buf out;
    lorica_buf_init(&out, FILE_MAX);
    int rc = lorica_safetensors_write_header(&out, tensors, 2, NULL, 0);
    (void)lorica_buf_append(&out, losses, steps * sizeof(*losses));
    (void)lorica_buf_append(&out, norms, steps * sizeof(*norms));
    if (!rc)
        rc = lorica_buf_status(&out);
    rc = rc ? lorica_fail(err, rc, "replay.safetensors: %s", lorica_err_text(rc))
            : write_file(dir, "replay.safetensors", &out, err);
    lorica_buf_finish(&out);
    return rc;
}

static int replay_trace(struct session *s, const struct train *t, const char *dir,
                        const struct lorica_replay *trace, struct lorica_error *err) {
    char *path = lorica_path_join(t->init, "adapter_config.json"), *config = NULL;
    size_t config_len = 0;
    float *curves = calloc((size_t)trace->steps * 2, sizeof(*curves));
    int rc = path && curves ? lorica_file_read(path, TEXT_MAX, &config, &config_len, err)
                            : lorica_fail(err, LORICA_ENOMEM, "no memory for a replay");
    if (!rc)
        rc = lorica_adapter_load_dir(&s->base->arch, LORICA_ADAPTER_EXACT, t->init, &s->adapter,
                                     err);
    if (!rc)
        rc = lorica_trainer_replay(s->base, s->pool, trace, &t->options, s->adapter, curves,
                                   curves + trace->steps, err);
    if (!rc)
        rc = write_curves(dir, trace->steps, curves, curves + trace->steps, err);
    const struct lorica_buf text = {.data = config, .len = config_len};
    if (!rc)
        rc = write_adapter(dir, s->base, s->adapter, &text, err);
    if (!rc)
        (void)printf("%u updates; loss %.6f at the first, %.6f at the last; written to %s\n",
                     trace->steps, (double)curves[0], (double)curves[trace->steps - 1], dir);
    free(curves);
    free(config);
    free(path);
    return rc;
}

static int replay(struct train *t) {
    struct session s = {0};
    struct lorica_error err = {0};
    struct lorica_safetensors file = {0};
    struct lorica_replay trace = {0};
    int32_t *ids = NULL, *labels = NULL;
    char *bytes = NULL;
    size_t len = 0;
    int rc = open_session(&s, t, &err);
    if (!rc)
        rc = lorica_dirs_make(t->out, 0755, &err);
    if (!rc)
        rc = lorica_file_read(t->replay, FILE_MAX, &bytes, &len, &err);
    if (!rc) {
        rc = lorica_safetensors_parse(bytes, len, len, &file, &err);
        if (!rc)
            rc = take_tensor(bytes, &file, "input_ids", &trace, &ids, &err);
        if (!rc)
            rc = take_tensor(bytes, &file, "labels", &trace, &labels, &err);
        if (rc)
            (void)lorica_fail_prefix(&err, "%s", t->replay);
    }
    trace.ids = ids;
    trace.labels = labels;
    if (!rc)
        rc = replay_trace(&s, t, t->out, &trace, &err);
    free(ids);
    free(labels);
    lorica_safetensors_finish(&file);
    free(bytes);
    close_session(&s);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}

/* -- the command ---------------------------------------------------------------------------------
 */

static int run(int argc, char **argv) {
    struct train t = {0};
    const struct lorica_option options[] = {{.name = "base", .value = &t.base_word},
                                            {.name = "out", .value = &t.out},
                                            {.name = "eval", .value = &t.eval_path},
                                            {.name = "publish", .flag = &t.publish},
                                            {.name = "channel", .value = &t.channel},
                                            {.name = "message", .value = &t.message},
                                            {.name = "rank", .value = &t.rank},
                                            {.name = "alpha", .value = &t.alpha},
                                            {.name = "rslora", .flag = &t.rslora},
                                            {.name = "dropout", .value = &t.dropout},
                                            {.name = "targets", .value = &t.targets},
                                            {.name = "lr", .value = &t.lr},
                                            {.name = "schedule", .value = &t.schedule},
                                            {.name = "warmup", .value = &t.warmup},
                                            {.name = "epochs", .value = &t.epochs},
                                            {.name = "steps", .value = &t.steps},
                                            {.name = "batch", .value = &t.batch},
                                            {.name = "accumulate", .value = &t.accumulate},
                                            {.name = "max-length", .value = &t.max_length},
                                            {.name = "max-grad-norm", .value = &t.max_grad_norm},
                                            {.name = "weight-decay", .value = &t.weight_decay},
                                            {.name = "beta1", .value = &t.beta1},
                                            {.name = "beta2", .value = &t.beta2},
                                            {.name = "eps", .value = &t.eps},
                                            {.name = "seed", .value = &t.seed},
                                            {.name = "threads", .value = &t.threads},
                                            {.name = "replay", .value = &t.replay},
                                            {.name = "init", .value = &t.init},
                                            LORICA_CLIENT_OPTIONS(t.where)};
    const int words =
        lorica_cmd_options(&lorica_cmd_train, argc, argv, options, COUNT(options), 0, 2);
    lorica_trainer_default_options(&t.options);
    if (words < 0 || !parse_loop(&t) || !parse_adamw(&t) || !parse_spec(&t))
        return LORICA_EXIT_USAGE;
    if (t.replay) {
        if (words > 0 || !t.init || !t.out)
            return lorica_cmd_usage(&lorica_cmd_train,
                                    "--replay takes --init and --out, and no NAME");
        return replay(&t);
    }
    if (words != 2)
        return lorica_cmd_usage(&lorica_cmd_train, "NAME and DATA.jsonl are needed");
    if (t.init)
        return lorica_cmd_usage(&lorica_cmd_train, "--init goes with --replay");
    if ((t.channel || t.message) && !t.publish)
        return lorica_cmd_usage(&lorica_cmd_train, "--channel and --message go with --publish");
    t.name = argv[0];
    t.data_path = argv[1];
    if (!lorica_name_valid(t.name))
        return lorica_cmd_usage(&lorica_cmd_train,
                                "\"%s\" is no name for an adapter: a-z, 0-9, '.', '_' and '-', "
                                "beginning with a letter or digit, at most %d",
                                t.name, LORICA_NAME_MAX);
    return train_and_publish(&t);
}

const struct lorica_cmd lorica_cmd_train = {
    .name = "train",
    .synopsis = "NAME DATA.jsonl [--base BASE] [--eval FILE] [--out DIR] [--publish [--channel C]]",
    .summary = "train an adapter on questions and answers (QLoRA)",
    .help =
        "Learns a LoRA adapter against the 4-bit base, in float32, with the loss on the answers "
        "only, and writes the two files that PEFT reads. Each line of DATA.jsonl is "
        "{\"messages\":[{\"role\",\"content\"}...]} or {\"prompt\",\"completion\"}.\n"
        "--base BASE\ta base's name or digest, or a file; without it, the only base there is\n"
        "--eval FILE\texamples held apart: their loss is measured before and after\n"
        "--out DIR\twhere the adapter goes (else DIR/train/NAME in the data directory)\n"
        "--publish\tpublish it to the server as the next version of NAME\n"
        "--channel C\tand point this channel to it\n"
        "--message TEXT\twhat the history says of it\n"
        "--rank N\trank of A and B (8)\n"
        "--alpha X\tscale is alpha / rank (2 * rank)\n"
        "--rslora\tscale is alpha / sqrt(rank)\n"
        "--dropout P\tdropout before A (0)\n"
        "--targets T\tall-linear (the default), or a list of q,k,v,o,gate,up,down\n"
        "--lr X\tlearning rate (0.001)\n"
        "--schedule S\tconstant, linear or cosine (the default)\n"
        "--warmup P\tshare of the updates over which the learning rate rises (0.03)\n"
        "--epochs X\tpasses over the data (3)\n"
        "--steps N\tupdates, instead of epochs\n"
        "--batch N\texamples at once (4)\n"
        "--accumulate N\tbatches of one update (1)\n"
        "--max-length N\ttokens of an example; what is longer loses its end (512)\n"
        "--max-grad-norm X\tclip gradients to this norm (0.3); 0: do not\n"
        "--weight-decay X\tAdamW's weight decay (0)\n"
        "--beta1 X\tAdamW's first decay rate (0.9)\n"
        "--beta2 X\tAdamW's second decay rate (0.999)\n"
        "--eps X\tAdamW's epsilon (1e-8)\n"
        "--seed N\tof the first A, the order and dropout (0)\n"
        "--threads N\tthreads (else one per core)\n"
        "--replay TRACE\tinstead of training: feed given input_ids and labels [step, batch, time] "
        "in order with a constant learning rate, and write losses and grad_norms to "
        "OUT/replay.safetensors and the adapter after the last update\n"
        "--init DIR\tthe adapter that a replay begins with\n" LORICA_CLIENT_HELP,
    .run = run,
};
