/* SPDX-License-Identifier: MIT
 * Publishing what a job made: the very handlers of POST /v1/adapters/{name}/versions, given a
 * request of the server's own in the name of the job's key. It is judged on the job's thread and
 * written by the writer, where it is made sure that the key is still in force. */
#include <math.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/server/auth.h"
#include "gateway/handlers/checks.h"
#include "gateway/files.h"
#include "gateway/jobs/jobs_private.h"
#include "gateway/server/refusals.h"
#include "gateway/server/server.h"
#include "gateway/server/upload.h"

#define CHANNEL "candidate"
#define TEXT_MAX ((size_t)1 << 20)

/* What is handed to the writer; the loop frees it once the writer has done with it. */
struct publication {
    struct lorica_lane_job lane;
    struct lorica_request *request;
    const char *owner; /* as `ret`, valid until `written` is posted */
    struct outcome {
        sem_t written;
        int rc;
        char model[LORICA_NAME_MAX + 32], code[64];
        struct lorica_error err;
    } * ret;
    int rc;
};

/* -- the key -- */

/* The job's key as it is now; refuses one that may not publish the adapter any more. */
static int check_key(struct lorica_registry *registry, const char *owner, const char *adapter,
                     struct lorica_key *ret, struct lorica_error *err) {
    const int rc = lorica_registry_key(registry, owner, ret, err);
    if (rc != 0 && rc != LORICA_ENOTFOUND)
        return rc;
    if (rc != 0 || ret->revoked_ms != 0)
        return lorica_fail(err, LORICA_EPERM,
                           "the key \"%s\", which made the job, is not in force any more; nothing "
                           "was published",
                           owner);
    if (!lorica_auth_role(ret->role, LORICA_ROLE_PUBLISH) || !lorica_key_allows(ret, adapter))
        return lorica_fail(err, LORICA_EPERM,
                           "the key \"%s\", which made the job, may not publish \"%s\" any more; "
                           "nothing was published",
                           owner, adapter);
    return 0;
}

/* -- on the writer's thread, and behind it on the loop's -- */

static void report(struct publication *p) {
    struct outcome *ret = p->ret;
    const struct lorica_request *request = p->request;
    ret->rc = p->rc;
    ret->err = request->error;
    (void)snprintf(ret->model, sizeof(ret->model), "%s", request->adapter);
    (void)snprintf(ret->code, sizeof(ret->code), "%s",
                   request->error_code ? request->error_code : "publish_failed");
    if (request->error_aside[0]) {
        const size_t used = strlen(ret->err.text);
        (void)snprintf(ret->err.text + used, sizeof(ret->err.text) - used, " (%s)",
                       request->error_aside);
    }
    p->ret = NULL;
    (void)sem_post(&ret->written); /* and it is gone */
}

static void run_write(struct lorica_lane_job *lane) {
    struct publication *p = (struct publication *)(void *)lane;
    struct lorica_request *request = p->request;
    struct lorica_error err = {0};
    if (p->rc == 0) {
        p->rc = check_key(request->server->parts.registry, p->owner, request->match.params[0],
                          &request->key, &err);
        p->rc = p->rc
                    ? lorica_request_fail(request, p->rc, NULL, "key_not_in_force", "%s", err.text)
                    : request->match.route->write(request);
        if (p->rc != 0)
            lorica_checks_explain(request);
    }
    report(p);
}

static void free_publication(struct lorica_lane_job *lane) {
    struct publication *p = (struct publication *)(void *)lane;
    lorica_request_destroy_own(p->request);
    free(p);
}

static void run_refusal(struct lorica_lane_job *lane) {
    struct publication *p = (struct publication *)(void *)lane;
    struct lorica_error err = {0};
    if (lorica_refusals_record(p->request, &err) != 0)
        lorica_log_line(p->request->server->parts.log, "error",
                        "event=refusal_not_recorded key=%s id=%s why=\"%s\"", p->request->key.name,
                        p->request->id, err.text);
}

/* A refused publish is recorded like anyone's. */
static void write_done(struct lorica_lane_job *lane) {
    struct publication *p = (struct publication *)(void *)lane;
    struct lorica_server *server = p->request->server;
    lorica_mlflow_mirror_nudge(server->mlflow);
    if (p->rc != 0 && lorica_refusals_is_one(p->request) &&
        lorica_refusals_take(server->refusals, p->request)) {
        lane->run = run_refusal;
        lane->done = free_publication;
        if (lorica_lane_submit(server->writer, lane) == 0)
            return;
        lorica_refusals_missed(server->refusals, p->request);
    }
    free_publication(lane);
}

/* -- on the job's thread -- */

/* The trainer's manifest, with what only the server knows of the job. */
static int put_manifest(struct lorica_request *request, const struct lorica_jobs *jobs,
                        struct lorica_job *job, struct lorica_error *err) {
    char *path = lorica_job_path(jobs, job, "out/manifest.json"), *text = NULL;
    struct lorica_json *root = NULL;
    struct lorica_buf out;
    size_t len = 0;
    lorica_buf_init(&out, TEXT_MAX);
    int rc = path ? lorica_file_read(path, TEXT_MAX, &text, &len, err)
                  : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        rc = lorica_json_parse(text, len, &root, err);
    if (rc == 0) {
        struct lorica_jsonw w = {.out = &out};
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_string(&w, "fine_tuning_job", job->id);
        lorica_jsonw_string(&w, "training_file", job->training.id);
        if (job->validation.id[0])
            lorica_jsonw_string(&w, "validation_file", job->validation.id);
        lorica_jsonw_integer(&w, "epochs", job->recipe.epochs);
        for (const struct lorica_json *v = lorica_json_first(root); v; v = lorica_json_next(v))
            lorica_jsonw_value(&w, lorica_json_key(v), v);
        lorica_jsonw_end_object(&w);
        job->result.tokens = (int64_t)lorica_json_number(lorica_json_get(root, "tokens"), 0);
        job->result.train_loss = lorica_json_number(lorica_json_get(root, "train_loss"), NAN);
        job->result.valid_loss = lorica_json_number(lorica_json_get(root, "eval_loss"), NAN);
        job->result.step = (int64_t)lorica_json_number(
            lorica_json_get(root, lorica_json_get(root, "best_step") ? "best_step" : "steps"), 0);
        rc = lorica_buf_status(&out);
        rc = rc ? rc : lorica_upload_put(request, "manifest", out.data, out.len);
    }
    lorica_json_destroy(root);
    lorica_buf_finish(&out);
    free(text);
    free(path);
    return rc;
}

static int put_config(struct lorica_request *request, const struct lorica_jobs *jobs,
                      const struct lorica_job *job, struct lorica_error *err) {
    char *path = lorica_job_path(jobs, job, "out/adapter_config.json"), *text = NULL;
    size_t len = 0;
    int rc = path ? lorica_file_read(path, LORICA_UPLOAD_PART_MAX, &text, &len, err)
                  : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        rc = lorica_upload_put(request, "config", text, len);
    free(text);
    free(path);
    return rc;
}

static int put_weights(struct lorica_request *request, const struct lorica_jobs *jobs,
                       const struct lorica_job *job, struct lorica_error *err) {
    char *weights = lorica_job_path(jobs, job, "out/adapter_model.safetensors");
    const int rc = weights ? lorica_upload_create_own(request, weights)
                           : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    free(weights);
    return rc;
}

static int put_parts(struct lorica_request *request, const struct lorica_jobs *jobs,
                     struct lorica_job *job, struct lorica_error *err) {
    char message[128];
    const int len = snprintf(message, sizeof(message), "fine-tuning job %s", job->id);
    int rc = put_weights(request, jobs, job, err);
    if (rc == 0)
        rc = put_config(request, jobs, job, err);
    if (rc == 0)
        rc = put_manifest(request, jobs, job, err);
    if (rc == 0)
        rc = lorica_upload_put(request, "channel", CHANNEL, strlen(CHANNEL));
    if (rc == 0)
        rc = lorica_upload_put(request, "message", message, (size_t)len);
    if (rc != 0 && err->code == 0)
        *err = request->error;
    return rc;
}

/* The server that ends breaks the channel's checks off. */
static int judge(struct lorica_jobs *jobs, struct lorica_request *request) {
    int rc = request->match.route->run(request);
    if (rc == 0 && request->checks) {
        atomic_store(&jobs->checked, request);
        if (atomic_load(&jobs->stopping))
            atomic_store(&request->gone, true);
        rc = lorica_checks_run(request);
        atomic_store(&jobs->checked, NULL);
    }
    return rc;
}

static int hand_over(struct lorica_jobs *jobs, struct lorica_request *request, int judged,
                     const char *owner, struct outcome *ret) {
    struct publication *p = calloc(1, sizeof(*p));
    if (!p) {
        lorica_request_destroy_own(request);
        return lorica_fail(&ret->err, LORICA_ENOMEM, "out of memory");
    }
    *p = (struct publication){.lane = {.run = run_write, .done = write_done},
                              .request = request,
                              .owner = owner,
                              .ret = ret,
                              .rc = judged};
    while (lorica_lane_submit(jobs->server->writer, &p->lane) != 0)
        (void)usleep(50000); /* its queue is full: it empties, as this thread ends before it does */
    while (sem_wait(&ret->written) != 0)
        continue;
    return ret->rc;
}

int lorica_job_publish(struct lorica_jobs *jobs, struct lorica_job *job, char *code, size_t size,
                       struct lorica_error *err) {
    struct lorica_registry *registry = jobs->server->parts.registry;
    struct lorica_request *request = NULL;
    struct lorica_key key = {.glob_count = 0};
    struct outcome outcome = {.rc = 0};
    char path[LORICA_NAME_MAX + 64];
    (void)snprintf(code, size, "key_not_in_force");
    int rc = check_key(registry, job->owner, job->suffix, &key, err);
    if (rc != 0)
        return rc;
    (void)snprintf(code, size, "publish_failed");
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/versions", job->suffix);
    request = lorica_request_create_own(jobs->server, LORICA_METHOD_POST, path, &key);
    if (!request)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    rc = put_parts(request, jobs, job, err);
    if (rc != 0) {
        lorica_request_destroy_own(request);
        return rc;
    }
    rc = judge(jobs, request);
    if (sem_init(&outcome.written, 0, 0) != 0) {
        lorica_request_destroy_own(request);
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    }
    rc = hand_over(jobs, request, rc, job->owner, &outcome);
    (void)sem_destroy(&outcome.written);
    (void)snprintf(code, size, "%s", outcome.code);
    if (rc != 0)
        return lorica_fail(err, rc, "%s", outcome.err.text);
    (void)snprintf(job->result.model, sizeof(job->result.model), "%s", outcome.model);
    return 0;
}
