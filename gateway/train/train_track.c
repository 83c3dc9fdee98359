/* SPDX-License-Identifier: MIT */
#include "gateway/train/train_track.h"

#include <string.h>
#include <sys/stat.h>

#include "gateway/files.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/train/train_samples.h"
#include "proto/json.h"

#define PARAMS_MAX ((size_t)32 << 10)
#define EXPERIMENT "lorica"

static void put_number(struct lorica_jsonw *w, const char *key, double value) {
    char text[40];
    (void)snprintf(text, sizeof(text), "%.9g", value);
    lorica_jsonw_string(w, key, text);
}

static void put_bool(struct lorica_jsonw *w, const char *key, bool value) {
    lorica_jsonw_string(w, key, value ? "true" : "false");
}

/* How the base is stored. The first attention matrix stands for its linear layers. */
static void put_base(struct lorica_jsonw *w, const struct lorica_base *base) {
    char digest[LORICA_DIGEST_TEXT];
    const struct lorica_matrix *m = &base->layers[0].modules[LORICA_MODULE_Q];
    lorica_jsonw_string(w, "base", base->name);
    lorica_jsonw_string(w, "base_digest", lorica_digest_format(&base->digest, digest));
    lorica_jsonw_string(w, "quantization", lorica_format_name(m->format));
    if (m->format == LORICA_FORMAT_NF4) {
        put_number(w, "quantization_block", LORICA_NF4_BLOCK);
        put_bool(w, "double_quantization", !m->absmax);
        if (!m->absmax)
            put_number(w, "double_quantization_block", LORICA_NF4_NESTED_BLOCK);
    } else if (m->format == LORICA_FORMAT_Q8) {
        put_number(w, "quantization_block", LORICA_Q8_BLOCK);
    }
    lorica_jsonw_string(w, "embedding", lorica_format_name(base->embed.format));
}

/* "base_bytes" and "bits_per_weight", as `lorica base inspect` has them. */
static void put_base_size(struct lorica_jsonw *w, const struct lorica_base *base) {
    struct lorica_buf text;
    struct lorica_json *json = NULL;
    struct lorica_error ignored;
    lorica_buf_init(&text, LORICA_TRAIN_TEXT_MAX);
    if (lorica_base_inspect(base, true, &text) == 0 &&
        lorica_json_parse(text.data, text.len, &json, &ignored) == 0) {
        put_number(w, "base_bytes", lorica_json_number(lorica_json_get(json, "bytes"), 0));
        put_number(w, "bits_per_weight",
                   lorica_json_number(lorica_json_get(json, "bits_per_weight"), 0));
    }
    lorica_json_destroy(json);
    lorica_buf_finish(&text);
}

static void put_targets(struct lorica_jsonw *w, const struct lorica_train_spec *spec) {
    struct lorica_buf text;
    lorica_buf_init(&text, 512);
    for (int m = 0; m < LORICA_MODULE_COUNT; m++)
        if (spec->targets[m])
            (void)lorica_buf_printf(&text, "%s%s", text.len ? "," : "",
                                    strrchr(lorica_module_paths[m], '.') + 1);
    lorica_jsonw_string(w, "targets", text.data ? text.data : "");
    lorica_buf_finish(&text);
}

static void put_recipe(struct lorica_jsonw *w, const struct lorica_train_job *job) {
    static const char *const schedules[] = {"constant", "linear", "cosine"};
    const struct lorica_trainer_options *o = &job->options;
    put_number(w, "rank", job->spec.rank);
    put_number(w, "alpha", job->spec.alpha);
    put_bool(w, "rslora", job->spec.rslora);
    put_number(w, "dropout", job->spec.dropout);
    put_targets(w, &job->spec);
    put_number(w, "lr", o->lr);
    lorica_jsonw_string(w, "schedule", schedules[o->schedule]);
    put_number(w, "warmup", o->warmup);
    if (o->steps)
        put_number(w, "steps", (double)o->steps);
    else
        put_number(w, "epochs", o->epochs);
    put_number(w, "batch", o->batch);
    put_number(w, "accumulate", o->accumulate);
    put_number(w, "max_length", job->max_length);
    put_number(w, "max_grad_norm", o->max_grad_norm);
    lorica_jsonw_string(w, "optimizer", o->adamw.eight_bit ? "adamw-8bit" : "adamw");
    put_number(w, "weight_decay", o->adamw.weight_decay);
    put_number(w, "beta1", o->adamw.beta1);
    put_number(w, "beta2", o->adamw.beta2);
    put_number(w, "eps", o->adamw.eps);
    put_bool(w, "pack", job->pack);
    put_bool(w, "checkpoint_activations", o->recompute);
    put_number(w, "eval_every", (double)o->eval_every);
    put_number(w, "patience", o->patience);
    put_number(w, "seed", (double)o->seed);
    lorica_jsonw_string(w, "compute", o->compute == LORICA_TRAIN_EXACT ? "exact" : "fast");
    lorica_jsonw_string(w, "loss", job->whole ? "all" : "answer");
    put_number(w, "threads", job->threads);
}

/* Names and digests of the files of examples: "a.jsonl sha256:..., b.jsonl sha256:...". */
static int put_files(struct lorica_jsonw *w, const char *key, const char *const *paths,
                     size_t count, struct lorica_error *err) {
    struct lorica_buf text;
    int rc = 0;
    lorica_buf_init(&text, PARAMS_MAX);
    for (size_t i = 0; i < count && rc == 0; i++) {
        struct lorica_digest digest;
        char digest_text[LORICA_DIGEST_TEXT];
        const char *slash = strrchr(paths[i], '/');
        rc = lorica_file_digest(paths[i], &digest, err);
        if (rc == 0)
            (void)lorica_buf_printf(&text, "%s%s %s", i ? ", " : "", slash ? slash + 1 : paths[i],
                                    lorica_digest_format(&digest, digest_text));
    }
    lorica_jsonw_string(w, key, text.data ? text.data : "");
    lorica_buf_finish(&text);
    return rc;
}

static int write_params(const struct lorica_train_tracked *what, struct lorica_buf *out,
                        struct lorica_error *err) {
    struct lorica_jsonw w = {.out = out};
    const struct lorica_train_job *job = what->job;
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "trainer", "lorica " LORICA_VERSION);
    lorica_jsonw_string(&w, "adapter", job->name);
    put_base(&w, what->base);
    put_base_size(&w, what->base);
    put_recipe(&w, job);
    int rc = put_files(&w, "dataset", job->data_paths, job->data_count, err);
    put_number(&w, "examples", (double)what->data->count);
    if (rc == 0 && job->eval_path)
        rc = put_files(&w, "eval_dataset", &job->eval_path, 1, err);
    if (job->eval_split > 0)
        put_number(&w, "eval_split", job->eval_split);
    if (what->held_apart->count > 0)
        put_number(&w, "eval_examples", (double)what->held_apart->count);
    lorica_jsonw_end_object(&w);
    if (rc == 0 && lorica_buf_status(out) != 0)
        rc = lorica_fail(err, lorica_buf_status(out), "the parameters for MLflow are too long");
    return rc;
}

static int begin_journal(const struct lorica_train_tracked *what, struct lorica_train_tracker *t,
                         struct lorica_error *err) {
    const struct lorica_train_job *job = what->job;
    const struct lorica_mlflow_options options = {.url = job->mlflow, .ca = job->mlflow_ca};
    struct lorica_mlflow *mlflow = NULL;
    struct lorica_buf params;
    lorica_buf_init(&params, PARAMS_MAX);
    int rc = lorica_mlflow_create(&options, &mlflow, err);
    if (rc == 0)
        rc = write_params(what, &params, err);
    if (rc == 0) {
        const struct lorica_mlflow_head head = {
            .url = lorica_mlflow_server(mlflow),
            .experiment = job->mlflow_experiment ? job->mlflow_experiment : EXPERIMENT,
            .name = job->name,
            .params = params.data,
        };
        rc = lorica_mlflow_journal_create(what->dir, &head, mlflow, &t->journal, err);
        mlflow = NULL;
    }
    lorica_mlflow_destroy(mlflow);
    lorica_buf_finish(&params);
    return rc;
}

static bool is_same_file(const char *a, const char *b) {
    struct stat x, y;
    return a && b && stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

/* The log replaces what is there: not the examples, whose name is a likely one for it. */
static int check_log(const struct lorica_train_job *job, struct lorica_error *err) {
    bool theirs = is_same_file(job->log_path, job->eval_path);
    for (size_t i = 0; i < job->data_count; i++)
        theirs |= is_same_file(job->log_path, job->data_paths[i]);
    return theirs ? lorica_fail(err, LORICA_EINVAL,
                                "%s holds the examples, which the log would replace: give --log "
                                "another file",
                                job->log_path)
                  : 0;
}

int lorica_train_track_begin(const struct lorica_train_tracked *what,
                             struct lorica_train_tracker *ret, struct lorica_error *err) {
    struct lorica_train_tracker t = {0};
    int rc = check_log(what->job, err);
    if (!rc)
        rc = lorica_train_log_create(what->job->log_path, what->job->resume, &t.log, err);
    if (rc == 0 && what->job->mlflow)
        rc = begin_journal(what, &t, err);
    if (rc == 0 && t.journal)
        lorica_train_log_copy(t.log, lorica_mlflow_journal_file(t.journal));
    if (rc == 0) {
        *ret = t;
        return 0;
    }
    struct lorica_error ignored;
    const int closed = lorica_train_log_destroy(t.log, &ignored);
    return rc ? rc : closed;
}

static int plot(const struct lorica_train_tracker *t, const struct lorica_train_tracked *what,
                struct lorica_error *err) {
    char title[LORICA_NAME_MAX + 16], subtitle[LORICA_NAME_MAX + 128];
    (void)snprintf(title, sizeof(title), "Training of %s", what->job->name);
    (void)snprintf(subtitle, sizeof(subtitle), "on %s, rank %u, learning rate %g, %zu examples%s",
                   what->base->name, what->job->spec.rank, what->job->options.lr, what->data->count,
                   what->held_apart->count ? ", others held apart" : "");
    return lorica_train_log_plot(t->log, what->dir, title, subtitle, err);
}

/* Answers are worth having, but not worth losing a run for. */
static void make_samples(const struct lorica_train_tracked *what) {
    struct lorica_error err = {0};
    if (lorica_train_samples_write(what->dir, what->base, what->tokenizer,
                                   what->held_apart->count ? what->held_apart : what->data,
                                   what->job->threads, &err) != 0)
        (void)fprintf(stderr, "lorica: there are no sample answers: %s\n", err.text);
}

int lorica_train_track_end(struct lorica_train_tracker *t, const struct lorica_train_tracked *what,
                           int rc, struct lorica_error *err) {
    struct lorica_error own = {0};
    const char *status = rc == 0 ? "FINISHED" : rc == LORICA_ECANCELED ? "KILLED" : "FAILED";
    int own_rc = 0;
    if (!t->log)
        return rc;
    if (rc == 0)
        own_rc = plot(t, what, &own);
    if (rc == 0 && t->journal)
        make_samples(what);
    const int logged = lorica_train_log_destroy(t->log, own_rc ? &(struct lorica_error){0} : &own);
    lorica_mlflow_journal_finish(t->journal, status);
    *t = (struct lorica_train_tracker){0};
    if (rc == 0 && (own_rc || logged))
        rc = lorica_fail(err, own_rc ? own_rc : logged, "%s", own.text);
    return rc;
}
