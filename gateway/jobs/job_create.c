/* SPDX-License-Identifier: MIT
 * POST /v1/fine_tuning/jobs: what is asked for is read, the examples are read as the trainer will
 * read them, and the job is queued. On the judge's thread: it computes for long. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/server/auth.h"
#include "gateway/files.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "registry/policy.h"
#include "runtime/train/data.h"
#include "runtime/train/estimate.h"
#include "runtime/train/plan.h"
#include "runtime/train/save.h"
#include "runtime/train/trainer.h"

#define RANK 8 /* as lorica train's */
#define MAX_LENGTH 512
#define EPOCHS_MAX 1000
#define BATCH_MAX 1024
#define RANK_MAX 4096
#define LENGTH_MAX (1 << 20)
#define MULTIPLIER_MIN 1e-6
#define MULTIPLIER_MAX 10000.0
#define ALPHA_MAX 100000.0
#define SEED_MAX ((int64_t)1 << 53)

static int refuse(struct lorica_request *request, const char *param, const char *code,
                  const char *what) {
    return lorica_request_fail(request, LORICA_EINVAL, param, code, "%s", what);
}

/* -- what is asked for -- */

static bool is_absent(const struct lorica_json *value) {
    return lorica_json_type(value) == LORICA_JSON_NULL;
}

static bool is_auto(const struct lorica_json *value) {
    const char *text = lorica_json_string(value);
    return is_absent(value) || (text && strcmp(text, "auto") == 0);
}

/* A whole number, where it stays as it is without one or with "auto". */
static int read_whole(struct lorica_request *request, const struct lorica_json *object,
                      const char *name, int64_t min, int64_t max, int64_t *ret) {
    const struct lorica_json *value = lorica_json_get(object, name);
    if (is_auto(value) || lorica_json_integer(value, min, max, ret) == 0)
        return 0;
    return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                               "%s must be a whole number from %lld to %lld", name, (long long)min,
                               (long long)max);
}

static int read_number(struct lorica_request *request, const struct lorica_json *object,
                       const char *name, double min, double max, double *ret) {
    const struct lorica_json *value = lorica_json_get(object, name);
    const double number = lorica_json_number(value, NAN);
    if (is_auto(value))
        return 0;
    if (!(number >= min && number <= max))
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   "%s must be a number from %g to %g", name, min, max);
    *ret = number;
    return 0;
}

static int read_hyperparameters(struct lorica_request *request, const struct lorica_json *object,
                                struct lorica_job_recipe *r) {
    static const char *const names[] = {"n_epochs", "batch_size", "learning_rate_multiplier", NULL};
    if (is_absent(object))
        return 0;
    if (lorica_json_type(object) != LORICA_JSON_OBJECT)
        return refuse(request, "hyperparameters", NULL, "hyperparameters must be an object");
    int rc = lorica_request_only(request, object, names);
    if (rc == 0)
        rc = read_whole(request, object, "n_epochs", 1, EPOCHS_MAX, &r->epochs);
    if (rc == 0)
        rc = read_whole(request, object, "batch_size", 1, BATCH_MAX, &r->batch);
    if (rc == 0)
        rc = read_number(request, object, "learning_rate_multiplier", MULTIPLIER_MIN,
                         MULTIPLIER_MAX, &r->lr_multiplier);
    return rc;
}

static int read_method(struct lorica_request *request, const struct lorica_json *root,
                       struct lorica_job_recipe *r) {
    static const char *const names[] = {"type", "supervised", NULL};
    static const char *const inside[] = {"hyperparameters", NULL};
    const struct lorica_json *method = lorica_json_get(root, "method");
    const struct lorica_json *old = lorica_json_get(root, "hyperparameters");
    if (is_absent(method))
        return read_hyperparameters(request, old, r);
    const char *type = lorica_json_string(lorica_json_get(method, "type"));
    if (!type)
        return refuse(request, "method.type", NULL, "method must be an object with a type");
    if (strcmp(type, "supervised") != 0)
        return lorica_request_fail(request, LORICA_EUNSUPPORTED, "method.type", NULL,
                                   "the method \"%.40s\" is not supported; \"supervised\" is",
                                   type);
    if (!is_absent(old))
        return refuse(request, "hyperparameters", NULL,
                      "hyperparameters stand in method.supervised where there is a method");
    const struct lorica_json *supervised = lorica_json_get(method, "supervised");
    int rc = lorica_request_only(request, method, names);
    if (rc != 0 || is_absent(supervised))
        return rc;
    if (lorica_json_type(supervised) != LORICA_JSON_OBJECT)
        return refuse(request, "method.supervised", NULL, "method.supervised must be an object");
    rc = lorica_request_only(request, supervised, inside);
    return rc ? rc
              : read_hyperparameters(request, lorica_json_get(supervised, "hyperparameters"), r);
}

/* What only lorica has: the adapter's size, and how much of an example is read. */
static int read_own(struct lorica_request *request, const struct lorica_json *root,
                    struct lorica_job_recipe *r) {
    static const char *const names[] = {"rank", "alpha", "max_length", NULL};
    const struct lorica_json *own = lorica_json_get(root, "lorica");
    if (!is_absent(own) && lorica_json_type(own) != LORICA_JSON_OBJECT)
        return refuse(request, "lorica", NULL, "lorica must be an object");
    int rc = lorica_request_only(request, own, names);
    if (rc == 0)
        rc = read_whole(request, own, "rank", 1, RANK_MAX, &r->rank);
    r->alpha = 2.0 * (double)r->rank;
    if (rc == 0)
        rc = read_number(request, own, "alpha", 0.001, ALPHA_MAX, &r->alpha);
    if (rc == 0)
        rc = read_whole(request, own, "max_length", 8, LENGTH_MAX, &r->max_length);
    return rc;
}

static int read_seed(struct lorica_request *request, const struct lorica_json *root, int64_t *ret) {
    uint32_t random = 0;
    if (lorica_random_bytes(&random, sizeof(random)) != 0)
        return lorica_request_fail(request, LORICA_EBUG, NULL, NULL,
                                   "no random bytes are to be had");
    *ret = random >> 1; /* as OpenAI's */
    return read_whole(request, root, "seed", 0, SEED_MAX, ret);
}

static int read_metadata(struct lorica_request *request, const struct lorica_json *root,
                         struct lorica_job *job) {
    const struct lorica_json *metadata = lorica_json_get(root, "metadata");
    const char *what = NULL;
    struct lorica_buf text;
    if (is_absent(metadata))
        return 0;
    if (!lorica_job_metadata_valid(metadata, &what))
        return lorica_request_fail(request, LORICA_EINVAL, "metadata", NULL, "metadata %s", what);
    lorica_buf_init(&text, LORICA_JOB_TEXT_MAX / 2);
    (void)lorica_json_write(&text, metadata);
    job->metadata = lorica_buf_take(&text, NULL);
    lorica_buf_finish(&text);
    return job->metadata ? 0
                         : lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
}

static int read_model(struct lorica_request *request, const struct lorica_json *root,
                      struct lorica_job *job) {
    const struct lorica_base *base = request->server->parts.base;
    const char *model = lorica_json_string(lorica_json_get(root, "model"));
    struct lorica_version version;
    struct lorica_error ignored;
    if (!model)
        return refuse(request, "model", NULL, "model must be the name of the base model");
    (void)snprintf(job->model, sizeof(job->model), "%s", base->name);
    job->base = base->digest;
    if (strcmp(model, "base") == 0 || strcmp(model, base->name) == 0)
        return 0;
    if (lorica_registry_resolve(request->server->parts.registry, model, &version, &ignored) == 0 &&
        lorica_key_allows(&request->key, version.name))
        return lorica_request_fail(request, LORICA_EUNSUPPORTED, "model", NULL,
                                   "training on top of the adapter \"%.140s\" is not supported; "
                                   "train on the base, \"%s\"",
                                   model, base->name);
    return lorica_request_fail(request, LORICA_ENOTFOUND, "model", "model_not_found",
                               "there is no model \"%.140s\" to train; there is \"%s\"", model,
                               base->name);
}

static int read_suffix(struct lorica_request *request, const struct lorica_json *root,
                       struct lorica_job *job) {
    const char *suffix = lorica_json_string(lorica_json_get(root, "suffix"));
    if (!suffix)
        return refuse(request, "suffix", NULL,
                      "suffix is needed: it is the name of the adapter that the job publishes");
    if (!lorica_name_valid(suffix) || strcmp(suffix, request->server->parts.base->name) == 0)
        return lorica_request_fail(request, LORICA_EINVAL, "suffix", NULL,
                                   "suffix \"%.140s\" is no name for an adapter: a-z, 0-9, '.', "
                                   "'_' and '-', beginning with a letter or digit, at most %d, and "
                                   "not the base model's",
                                   suffix, LORICA_NAME_MAX);
    (void)snprintf(job->suffix, sizeof(job->suffix), "%s", suffix);
    return lorica_auth_adapter(request, suffix);
}

static int read_integrations(struct lorica_request *request, const struct lorica_json *root) {
    const struct lorica_json *value = lorica_json_get(root, "integrations");
    if (is_absent(value) ||
        (lorica_json_type(value) == LORICA_JSON_ARRAY && lorica_json_count(value) == 0))
        return 0;
    return lorica_request_fail(request, LORICA_EUNSUPPORTED, "integrations", NULL,
                               "integrations are not supported; leave them out");
}

/* Finds a file that the key may use. */
static int read_file(struct lorica_request *request, const struct lorica_json *root,
                     const char *name, struct lorica_training_file *ret) {
    const char *id = lorica_json_string(lorica_json_get(root, name));
    struct lorica_error err = {0};
    if (!id)
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   "%s must be the id of a file", name);
    const int rc =
        lorica_training_file_find(request->server->parts.data_dir, &request->key, id, ret, &err);
    if (rc == LORICA_ENOTFOUND) /* of the request, not of its path */
        return lorica_request_fail(request, LORICA_EINVAL, name, "file_not_found", "%s: %s", name,
                                   err.text);
    if (rc == 0 && strcmp(ret->purpose, LORICA_TRAINING_FILE_EXAMPLES) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   ret->damaged ? "%s: the file %s is damaged; upload it again"
                                                : "%s: the file %s is not for training; upload one "
                                                  "with the purpose " LORICA_TRAINING_FILE_EXAMPLES,
                                   name, id);
    return rc ? lorica_request_fail(request, rc, name, NULL, "%s", err.text) : 0;
}

/* -- the examples -- */

/* The first bad line, and how many there are. */
struct faults {
    uint32_t line;
    size_t count;
    char what[300];
};

static void on_bad(void *arg, const char *path, uint32_t line, const char *what) {
    struct faults *faults = arg;
    (void)path;
    if (faults->count++ > 0)
        return;
    faults->line = line;
    (void)snprintf(faults->what, sizeof(faults->what), "%s", what);
}

/* Reads the examples at `path`; what is wrong names the file as its owner knows it. */
static int read_examples(struct lorica_request *request, const char *param, const char *path,
                         const struct lorica_job_file *file, uint32_t max_length,
                         struct lorica_train_data *ret) {
    const struct lorica_server_parts *parts = &request->server->parts;
    struct lorica_error err = {0};
    struct faults faults = {.count = 0};
    const struct lorica_train_data_options options = {
        .tokenizer = parts->tokenizer,
        .chat = parts->chat,
        .max_length = max_length,
        .max_nbytes = (uint64_t)parts->config->training_memory_mb << 20,
        .on_bad = on_bad,
        .on_bad_arg = &faults,
    };
    const int rc = lorica_train_data_load(&path, 1, &options, ret, &err);
    if (faults.count > 0) {
        if (rc == 0)
            lorica_train_data_finish(ret);
        return lorica_request_fail(request, LORICA_EFORMAT, param, "invalid_file_format",
                                   "%s \"%s\" (%s): line %u: %.200s; %zu bad lines in all. "
                                   "Correct them and upload the file again",
                                   param, file->filename, file->id, faults.line, faults.what,
                                   faults.count);
    }
    if (rc == 0)
        return 0;
    const size_t len = strlen(path);
    const char *what = strncmp(err.text, path, len) == 0 && strncmp(err.text + len, ": ", 2) == 0
                           ? err.text + len + 2
                           : err.text;
    return lorica_request_fail(request, rc, param, "invalid_file_format", "%s \"%s\" (%s): %s",
                               param, file->filename, file->id, what);
}

/* The adapter must fit the model, and a pass and the examples the memory that the trainer may have.
 */
static int check_size(struct lorica_request *request, const struct lorica_job_recipe *r,
                      uint32_t length, uint64_t data_nbytes) {
    const struct lorica_server_parts *parts = &request->server->parts;
    const uint64_t limit = (uint64_t)parts->config->training_memory_mb << 20;
    struct lorica_train_estimate_options options = {
        .batch = (uint32_t)r->batch,
        .length = length,
        .spec = {.rank = (uint32_t)r->rank, .alpha = r->alpha},
        .model = {.compute = LORICA_TRAIN_FAST, .keep_bytes = LORICA_TRAIN_KEEP_BYTES},
        .threads = (unsigned)r->threads,
        .embed_bytes = 2,
    };
    struct lorica_train_estimate e;
    struct lorica_error err = {0};
    int rc = lorica_train_targets_parse("all-linear", options.spec.targets, &err);
    if (rc == 0)
        rc = lorica_train_spec_check(&options.spec, &parts->base->arch, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, "lorica.rank", NULL, "%s", err.text);
    lorica_train_estimate(&parts->base->arch, LORICA_WAY_QLORA, &options, &e);
    const uint64_t needed = e.gradients + e.activations + data_nbytes;
    if (limit == 0 || needed <= limit)
        return 0;
    return lorica_request_fail(request, LORICA_EINVAL, "batch_size", "memory_exceeded",
                               "batches of %lld examples of up to %u tokens need about %llu MB; "
                               "the trainer may have %lld (training-memory-mb): ask for a smaller "
                               "batch_size, or cut examples with lorica.max_length",
                               (long long)r->batch, length, (unsigned long long)(needed >> 20),
                               parts->config->training_memory_mb);
}

static uint32_t longest(const struct lorica_train_data *data) {
    uint32_t length = 1;
    for (size_t i = 0; i < data->count; i++)
        if (data->examples[i].length > length)
            length = data->examples[i].length;
    return length;
}

static int check_examples(struct lorica_request *request, const char *data_path,
                          const char *held_path, struct lorica_job *job) {
    const uint32_t positions = request->server->parts.base->arch.max_positions;
    struct lorica_job_recipe *r = &job->recipe;
    const uint32_t max_length =
        r->max_length < (int64_t)positions ? (uint32_t)r->max_length : positions;
    struct lorica_train_data data = {.count = 0}, held = {.count = 0};
    int rc = read_examples(request, "training_file", data_path, &job->training, max_length, &data);
    if (rc != 0)
        return rc;
    const int64_t count = (int64_t)data.count;
    uint32_t length = longest(&data);
    uint64_t nbytes = data.nbytes;
    lorica_train_data_finish(&data);
    if (held_path) {
        rc = read_examples(request, "validation_file", held_path, &job->validation, max_length,
                           &held);
        if (rc != 0)
            return rc;
        length = longest(&held) > length ? longest(&held) : length;
        nbytes += held.nbytes;
        lorica_train_data_finish(&held);
    }
    r->steps = (count + r->batch - 1) / r->batch * r->epochs;
    if (r->steps > LORICA_JOB_STEPS_MAX)
        return lorica_request_fail(request, LORICA_EINVAL, "n_epochs", NULL,
                                   "%lld examples in batches of %lld, %lld times over, are %lld "
                                   "updates; %d are possible",
                                   (long long)count, (long long)r->batch, (long long)r->epochs,
                                   (long long)r->steps, LORICA_JOB_STEPS_MAX);
    return check_size(request, r, length, nbytes);
}

/* -- the job's files -- */

/* Policies know a set of examples by its file's name without ".jsonl". */
static void name_held(const struct lorica_training_file *file, char *out, size_t size) {
    char set[LORICA_EVAL_SET_MAX + 1] = "";
    const size_t len = strlen(file->filename);
    const bool jsonl = len > 6 && strcmp(file->filename + len - 6, ".jsonl") == 0;
    if (jsonl && len - 6 <= LORICA_EVAL_SET_MAX)
        memcpy(set, file->filename, len - 6);
    (void)snprintf(out, size, "%s",
                   lorica_eval_set_valid(set)            ? file->filename
                   : lorica_train_is_csv(file->filename) ? "validation.csv"
                                                         : "validation.jsonl");
}

static void take_file(struct lorica_job_file *out, const struct lorica_training_file *file) {
    (void)snprintf(out->id, sizeof(out->id), "%s", file->id);
    (void)snprintf(out->filename, sizeof(out->filename), "%s", file->filename);
    out->digest = file->digest;
}

/* Links a file into the job's directory; *ret_path for free(). */
static int link_file(struct lorica_request *request, const struct lorica_training_file *file,
                     const char *dir, const char *name, char **ret_path) {
    struct lorica_error err = {0};
    char *path = lorica_path_join(dir, name);
    const int rc =
        path ? lorica_training_file_link(request->server->parts.data_dir, file, path, &err)
             : LORICA_ENOMEM;
    if (rc != 0) {
        free(path);
        lorica_log_line(request->server->parts.log, "error", "event=job_not_kept why=\"%s\"",
                        err.text);
        return lorica_request_fail(request, rc == LORICA_ENOTFOUND ? LORICA_ECONFLICT : rc, NULL,
                                   NULL, "the file %s cannot be kept for the job: %s", file->id,
                                   rc == LORICA_ENOTFOUND ? "it was deleted" : lorica_err_text(rc));
    }
    *ret_path = path;
    return 0;
}

static int make_files(struct lorica_request *request, const char *dir, struct lorica_job *job,
                      const struct lorica_training_file *training,
                      const struct lorica_training_file *validation) {
    char held_name[sizeof(job->validation.filename) + 8];
    char *data = NULL, *held = NULL;
    take_file(&job->training, training);
    int rc = link_file(request, training, dir,
                       lorica_train_is_csv(training->filename) ? "data.csv" : "data.jsonl", &data);
    if (rc == 0 && validation) {
        char name[sizeof(job->validation.filename)];
        take_file(&job->validation, validation);
        name_held(validation, name, sizeof(name));
        (void)snprintf(job->validation.filename, sizeof(job->validation.filename), "%s", name);
        (void)snprintf(held_name, sizeof(held_name), "held/%s", name);
        rc = link_file(request, validation, dir, held_name, &held);
    }
    if (rc == 0)
        rc = check_examples(request, data, held, job);
    free(data);
    free(held);
    return rc;
}

static int store(struct lorica_request *request, struct lorica_job *job,
                 const struct lorica_training_file *training,
                 const struct lorica_training_file *validation) {
    struct lorica_jobs *jobs = request->server->jobs;
    struct lorica_error err = {0};
    char *dir = NULL;
    int rc = lorica_jobs_check_room(jobs, job->owner, &err);
    if (rc == LORICA_ELIMIT)
        return lorica_request_fail_status(request, 429, "too_many_jobs", "%s", err.text);
    if (rc == 0)
        rc = lorica_jobs_prepare(jobs, job->id, &dir, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    rc = make_files(request, dir, job, training, validation);
    if (rc == 0 && (rc = lorica_jobs_add(jobs, dir, job, &err)) != 0)
        rc = rc == LORICA_ELIMIT
                 ? lorica_request_fail_status(request, 429, "too_many_jobs", "%s", err.text)
                 : lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    if (rc != 0)
        lorica_jobs_discard(dir);
    free(dir);
    return rc;
}

static int read_all(struct lorica_request *request, const struct lorica_json *root,
                    struct lorica_job *job, struct lorica_training_file *training,
                    struct lorica_training_file *validation, bool *ret_validates) {
    static const char *const names[] = {
        "model",  "training_file",   "validation_file", "suffix", "seed", "metadata",
        "method", "hyperparameters", "integrations",    "lorica", NULL};
    *ret_validates = !is_absent(lorica_json_get(root, "validation_file"));
    int rc = lorica_request_only(request, root, names);
    if (rc == 0)
        rc = read_model(request, root, job);
    if (rc == 0)
        rc = read_suffix(request, root, job);
    if (rc == 0)
        rc = read_method(request, root, &job->recipe);
    if (rc == 0)
        rc = read_own(request, root, &job->recipe);
    if (rc == 0)
        rc = read_seed(request, root, &job->recipe.seed);
    if (rc == 0)
        rc = read_integrations(request, root);
    if (rc == 0)
        rc = read_file(request, root, "training_file", training);
    if (rc == 0 && *ret_validates)
        rc = read_file(request, root, "validation_file", validation);
    if (rc == 0)
        rc = read_metadata(request, root, job);
    return rc;
}

/* Half of the cores, so that the memory's bandwidth is not all the trainer's while it has them. */
static int64_t threads_of(const struct lorica_config *config) {
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return config->training_threads ? config->training_threads : cores > 1 ? cores / 2 : 1;
}

static int write_made(void *arg, const struct lorica_job *job, int64_t finish_ms) {
    struct lorica_jsonw w = lorica_request_json(arg, 200);
    lorica_job_write(job, finish_ms, &w);
    return 0;
}

int lorica_handle_job_create(struct lorica_request *request) {
    const struct lorica_config *config = request->server->parts.config;
    struct lorica_training_file training, validation;
    struct lorica_trainer_options defaults;
    const struct lorica_json *root = NULL;
    struct lorica_error err = {0};
    struct lorica_job job = {.metadata = NULL};
    bool validates = false;
    lorica_trainer_default_options(&defaults);
    job.recipe = (struct lorica_job_recipe){.epochs = (int64_t)defaults.epochs,
                                            .batch = defaults.batch,
                                            .rank = RANK,
                                            .max_length = MAX_LENGTH,
                                            .threads = threads_of(config),
                                            .lr_multiplier = 1};
    (void)snprintf(job.owner, sizeof(job.owner), "%s", request->key.name);
    if (config->no_training)
        return lorica_request_fail_status(request, 403, "training_disabled",
                                          "this server does not train (no-training)");
    int rc = lorica_request_parse(request, &root);
    if (rc == 0)
        rc = read_all(request, root, &job, &training, &validation, &validates);
    if (rc == 0)
        rc = store(request, &job, &training, validates ? &validation : NULL);
    free(job.metadata); /* NULL once the job has them */
    if (rc != 0)
        return rc;
    rc = lorica_jobs_find(request->server->jobs, &request->key, job.id, write_made, request, &err);
    return rc ? lorica_request_fail(request, rc, NULL, NULL, "%s", err.text) : 0;
}
