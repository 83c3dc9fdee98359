/* SPDX-License-Identifier: MIT */
#include "gateway/jobs/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE_MAX ((int64_t)1 << 53)
#define BIT(s) (1u << LORICA_JOB_##s)

static const struct {
    const char *name, *status;
    unsigned next; /* states that may follow */
} states[LORICA_JOB_STATE_COUNT] = {
    [LORICA_JOB_QUEUED] = {"queued", "queued",
                           BIT(RUNNING) | BIT(PAUSED) | BIT(CANCELLED) | BIT(FAILED)},
    [LORICA_JOB_RUNNING] = {"running", "running",
                            BIT(PUBLISHING) | BIT(PAUSED) | BIT(CANCELLED) | BIT(FAILED) |
                                BIT(QUEUED)},
    [LORICA_JOB_PUBLISHING] = {"publishing", "running",
                               BIT(SUCCEEDED) | BIT(FAILED) | BIT(QUEUED) | BIT(PAUSED)},
    [LORICA_JOB_PAUSED] = {"paused", "paused", BIT(QUEUED) | BIT(CANCELLED)},
    [LORICA_JOB_SUCCEEDED] = {"succeeded", "succeeded", 0},
    [LORICA_JOB_FAILED] = {"failed", "failed", 0},
    [LORICA_JOB_CANCELLED] = {"cancelled", "cancelled", 0},
};

const char *lorica_job_state_name(enum lorica_job_state state) { return states[state].name; }

const char *lorica_job_status(enum lorica_job_state state) { return states[state].status; }

bool lorica_job_may_become(enum lorica_job_state from, enum lorica_job_state to) {
    return (states[from].next & 1u << to) != 0;
}

bool lorica_job_is_over(enum lorica_job_state state) { return states[state].next == 0; }

void lorica_job_finish(struct lorica_job *job) {
    free(job->metadata);
    *job = (struct lorica_job){.metadata = NULL};
}

bool lorica_job_id_valid(const char *text) {
    const size_t prefix = sizeof(LORICA_JOB_ID_PREFIX) - 1;
    return strncmp(text, LORICA_JOB_ID_PREFIX, prefix) == 0 && strlen(text) == LORICA_JOB_ID - 1 &&
           strspn(text + prefix, "0123456789abcdef") == LORICA_JOB_ID - 1 - prefix;
}

/* Characters of UTF-8. */
static size_t characters(const char *text) {
    size_t count = 0;
    for (; *text; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

bool lorica_job_metadata_valid(const struct lorica_json *object, const char **what) {
    *what = "must be an object of at most 16 pairs";
    if (lorica_json_type(object) != LORICA_JSON_OBJECT ||
        lorica_json_count(object) > LORICA_JOB_METADATA_PAIRS)
        return false;
    for (const struct lorica_json *v = lorica_json_first(object); v; v = lorica_json_next(v)) {
        const char *text = lorica_json_string(v);
        *what = "must have keys of at most 64 characters, and text of at most 512 for each";
        if (!text || characters(text) > LORICA_JOB_METADATA_VALUE ||
            characters(lorica_json_key(v)) > LORICA_JOB_METADATA_KEY)
            return false;
    }
    *what = NULL;
    return true;
}

/* -- job.json -- */

static void put_file(struct lorica_jsonw *w, const char *key, const struct lorica_job_file *file) {
    char digest[LORICA_DIGEST_TEXT];
    if (!file->id[0])
        return;
    lorica_jsonw_object(w, key);
    lorica_jsonw_string(w, "id", file->id);
    lorica_jsonw_string(w, "filename", file->filename);
    lorica_jsonw_string(w, "digest", lorica_digest_format(&file->digest, digest));
    lorica_jsonw_end_object(w);
}

static void put_recipe(struct lorica_jsonw *w, const struct lorica_job_recipe *r) {
    lorica_jsonw_object(w, "recipe");
    lorica_jsonw_integer(w, "epochs", r->epochs);
    lorica_jsonw_integer(w, "batch", r->batch);
    lorica_jsonw_number(w, "lr_multiplier", r->lr_multiplier);
    lorica_jsonw_integer(w, "seed", r->seed);
    lorica_jsonw_integer(w, "rank", r->rank);
    lorica_jsonw_number(w, "alpha", r->alpha);
    lorica_jsonw_integer(w, "max_length", r->max_length);
    lorica_jsonw_integer(w, "threads", r->threads);
    lorica_jsonw_integer(w, "steps", r->steps);
    lorica_jsonw_end_object(w);
}

static void put_end(struct lorica_jsonw *w, const struct lorica_job *job) {
    if (job->error.code[0]) {
        lorica_jsonw_object(w, "error");
        lorica_jsonw_string(w, "code", job->error.code);
        lorica_jsonw_string(w, "param", job->error.param);
        lorica_jsonw_string(w, "message", job->error.message);
        lorica_jsonw_end_object(w);
    }
    if (job->result.model[0]) {
        lorica_jsonw_object(w, "result");
        lorica_jsonw_string(w, "model", job->result.model);
        if (job->result.file[0])
            lorica_jsonw_string(w, "file", job->result.file);
        lorica_jsonw_integer(w, "tokens", job->result.tokens);
        lorica_jsonw_integer(w, "step", job->result.step);
        lorica_jsonw_number(w, "train_loss", job->result.train_loss);
        lorica_jsonw_number(w, "valid_loss", job->result.valid_loss);
        lorica_jsonw_end_object(w);
    }
}

int lorica_job_encode(const struct lorica_job *job, struct lorica_buf *out) {
    char base[LORICA_DIGEST_TEXT];
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "id", job->id);
    lorica_jsonw_string(&w, "owner", job->owner);
    lorica_jsonw_string(&w, "suffix", job->suffix);
    lorica_jsonw_string(&w, "model", job->model);
    lorica_jsonw_string(&w, "base", lorica_digest_format(&job->base, base));
    put_file(&w, "training", &job->training);
    put_file(&w, "validation", &job->validation);
    put_recipe(&w, &job->recipe);
    if (job->metadata)
        lorica_jsonw_raw(&w, "metadata", job->metadata, strlen(job->metadata));
    lorica_jsonw_string(&w, "state", lorica_job_state_name(job->state));
    lorica_jsonw_integer(&w, "created_ms", job->created_ms);
    lorica_jsonw_integer(&w, "finished_ms", job->finished_ms);
    put_end(&w, job);
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(out, "\n");
    return lorica_buf_status(out);
}

static bool take_text(const struct lorica_json *object, const char *name, char *out, size_t size) {
    const char *text = lorica_json_string(lorica_json_get(object, name));
    return text && (size_t)snprintf(out, size, "%s", text) < size;
}

static bool take_whole(const struct lorica_json *object, const char *name, int64_t min,
                       int64_t *out) {
    return lorica_json_integer(lorica_json_get(object, name), min, WHOLE_MAX, out) == 0;
}

static bool take_number(const struct lorica_json *object, const char *name, double *out) {
    *out = lorica_json_number(lorica_json_get(object, name), NAN);
    return *out > 0;
}

static bool take_digest(const struct lorica_json *object, const char *name,
                        struct lorica_digest *out) {
    const char *text = lorica_json_string(lorica_json_get(object, name));
    return text && lorica_digest_parse(text, strlen(text), out) == 0;
}

static bool take_file(const struct lorica_json *root, const char *name,
                      struct lorica_job_file *file) {
    const struct lorica_json *object = lorica_json_get(root, name);
    return take_text(object, "id", file->id, sizeof(file->id)) &&
           take_text(object, "filename", file->filename, sizeof(file->filename)) &&
           take_digest(object, "digest", &file->digest);
}

static bool take_recipe(const struct lorica_json *root, struct lorica_job_recipe *r) {
    const struct lorica_json *object = lorica_json_get(root, "recipe");
    return take_whole(object, "epochs", 1, &r->epochs) &&
           take_whole(object, "batch", 1, &r->batch) && take_whole(object, "seed", 0, &r->seed) &&
           take_whole(object, "rank", 1, &r->rank) &&
           take_whole(object, "max_length", 1, &r->max_length) &&
           take_whole(object, "threads", 1, &r->threads) &&
           take_whole(object, "steps", 1, &r->steps) &&
           take_number(object, "lr_multiplier", &r->lr_multiplier) &&
           take_number(object, "alpha", &r->alpha);
}

static bool take_state(const struct lorica_json *root, enum lorica_job_state *ret) {
    const char *text = lorica_json_string(lorica_json_get(root, "state"));
    for (int i = 0; text && i < LORICA_JOB_STATE_COUNT; i++)
        if (strcmp(text, states[i].name) == 0) {
            *ret = (enum lorica_job_state)i;
            return true;
        }
    return false;
}

static bool take_end(const struct lorica_json *root, struct lorica_job *job) {
    const struct lorica_json *error = lorica_json_get(root, "error");
    const struct lorica_json *result = lorica_json_get(root, "result");
    if (job->state == LORICA_JOB_FAILED)
        return take_text(error, "code", job->error.code, sizeof(job->error.code)) &&
               job->error.code[0] &&
               take_text(error, "param", job->error.param, sizeof(job->error.param)) &&
               take_text(error, "message", job->error.message, sizeof(job->error.message));
    if (job->state != LORICA_JOB_SUCCEEDED)
        return true;
    job->result.train_loss = lorica_json_number(lorica_json_get(result, "train_loss"), NAN);
    job->result.valid_loss = lorica_json_number(lorica_json_get(result, "valid_loss"), NAN);
    return take_text(result, "model", job->result.model, sizeof(job->result.model)) &&
           job->result.model[0] &&
           (!lorica_json_get(result, "file") ||
            take_text(result, "file", job->result.file, sizeof(job->result.file))) &&
           take_whole(result, "tokens", 0, &job->result.tokens) &&
           take_whole(result, "step", 0, &job->result.step);
}

static bool take_all(const struct lorica_json *root, struct lorica_job *job) {
    return take_text(root, "id", job->id, sizeof(job->id)) && lorica_job_id_valid(job->id) &&
           take_text(root, "owner", job->owner, sizeof(job->owner)) &&
           take_text(root, "suffix", job->suffix, sizeof(job->suffix)) &&
           lorica_name_valid(job->suffix) &&
           take_text(root, "model", job->model, sizeof(job->model)) &&
           take_digest(root, "base", &job->base) && take_file(root, "training", &job->training) &&
           (!lorica_json_get(root, "validation") ||
            take_file(root, "validation", &job->validation)) &&
           take_recipe(root, &job->recipe) && take_state(root, &job->state) &&
           take_whole(root, "created_ms", 0, &job->created_ms) &&
           take_whole(root, "finished_ms", 0, &job->finished_ms) && take_end(root, job);
}

static int take_metadata(const struct lorica_json *root, struct lorica_job *job,
                         struct lorica_error *err) {
    const struct lorica_json *metadata = lorica_json_get(root, "metadata");
    const char *what = NULL;
    struct lorica_buf text;
    if (!metadata)
        return 0;
    if (!lorica_job_metadata_valid(metadata, &what))
        return lorica_fail(err, LORICA_EFORMAT, "the metadata %s", what);
    lorica_buf_init(&text, LORICA_JOB_TEXT_MAX);
    (void)lorica_json_write(&text, metadata);
    job->metadata = lorica_buf_take(&text, NULL);
    lorica_buf_finish(&text);
    return job->metadata ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
}

int lorica_job_decode(const char *text, size_t len, struct lorica_job *ret,
                      struct lorica_error *err) {
    struct lorica_job job = {.metadata = NULL};
    struct lorica_json *root = NULL;
    int rc = lorica_json_parse(text, len, &root, err);
    if (rc == 0 && !take_all(root, &job))
        rc = lorica_fail(err, LORICA_EFORMAT, "it is not what lorica writes");
    if (rc == 0)
        rc = take_metadata(root, &job, err);
    lorica_json_destroy(root);
    if (rc == 0)
        *ret = job;
    else
        lorica_job_finish(&job);
    return rc;
}

/* -- the API's object -- */

static void write_hyperparameters(struct lorica_jsonw *w, const struct lorica_job_recipe *r) {
    lorica_jsonw_object(w, "hyperparameters");
    lorica_jsonw_integer(w, "n_epochs", r->epochs);
    lorica_jsonw_integer(w, "batch_size", r->batch);
    lorica_jsonw_number(w, "learning_rate_multiplier", r->lr_multiplier);
    lorica_jsonw_end_object(w);
}

static void write_time(struct lorica_jsonw *w, const char *key, int64_t ms) {
    if (ms > 0)
        lorica_jsonw_integer(w, key, ms / 1000);
    else
        lorica_jsonw_null(w, key);
}

static const char *or_null(const char *text) { return text[0] ? text : NULL; }

static void write_error(struct lorica_jsonw *w, const struct lorica_job *job) {
    if (!job->error.code[0]) {
        lorica_jsonw_null(w, "error");
        return;
    }
    lorica_jsonw_object(w, "error");
    lorica_jsonw_string(w, "code", job->error.code);
    lorica_jsonw_string(w, "message", job->error.message);
    lorica_jsonw_string(w, "param", or_null(job->error.param));
    lorica_jsonw_end_object(w);
}

static void write_method(struct lorica_jsonw *w, const struct lorica_job_recipe *r) {
    lorica_jsonw_object(w, "method");
    lorica_jsonw_string(w, "type", "supervised");
    lorica_jsonw_object(w, "supervised");
    write_hyperparameters(w, r);
    lorica_jsonw_end_object(w);
    lorica_jsonw_end_object(w);
}

/* What OpenAI's object has no place for. */
static void write_own(struct lorica_jsonw *w, const struct lorica_job *job) {
    lorica_jsonw_object(w, "lorica");
    lorica_jsonw_string(w, "suffix", job->suffix);
    lorica_jsonw_integer(w, "rank", job->recipe.rank);
    lorica_jsonw_number(w, "alpha", job->recipe.alpha);
    lorica_jsonw_integer(w, "max_length", job->recipe.max_length);
    lorica_jsonw_integer(w, "steps", job->recipe.steps);
    lorica_jsonw_end_object(w);
}

void lorica_job_write(const struct lorica_job *job, int64_t finish_ms, struct lorica_jsonw *w) {
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "object", "fine_tuning.job");
    lorica_jsonw_string(w, "id", job->id);
    lorica_jsonw_integer(w, "created_at", job->created_ms / 1000);
    write_time(w, "finished_at", job->finished_ms);
    write_time(w, "estimated_finish", finish_ms);
    write_error(w, job);
    lorica_jsonw_string(w, "fine_tuned_model", or_null(job->result.model));
    write_hyperparameters(w, &job->recipe);
    lorica_jsonw_string(w, "model", job->model);
    lorica_jsonw_string(w, "organization_id", job->owner);
    lorica_jsonw_array(w, "result_files");
    if (job->result.file[0])
        lorica_jsonw_string(w, NULL, job->result.file);
    lorica_jsonw_end_array(w);
    lorica_jsonw_integer(w, "seed", job->recipe.seed);
    lorica_jsonw_string(w, "status", lorica_job_status(job->state));
    if (job->state == LORICA_JOB_SUCCEEDED)
        lorica_jsonw_integer(w, "trained_tokens", job->result.tokens);
    else
        lorica_jsonw_null(w, "trained_tokens");
    lorica_jsonw_string(w, "training_file", job->training.id);
    lorica_jsonw_string(w, "validation_file", or_null(job->validation.id));
    lorica_jsonw_array(w, "integrations");
    lorica_jsonw_end_array(w);
    if (job->metadata)
        lorica_jsonw_raw(w, "metadata", job->metadata, strlen(job->metadata));
    else
        lorica_jsonw_null(w, "metadata");
    write_method(w, &job->recipe);
    write_own(w, job);
    lorica_jsonw_end_object(w);
}
