/* SPDX-License-Identifier: MIT
 * Fine-tuning jobs: OpenAI's /v1/fine_tuning/jobs, but for making one (job_create.c) and for its
 * events (handler_job_events.c). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "proto/http_fields.h"

#define LIST_DEFAULT 20 /* OpenAI's */
#define LIST_MAX 100
#define PAIR_MAX (4 * LORICA_JOB_METADATA_VALUE + 1)

/* -- one -- */

static int write_one(void *arg, const struct lorica_job *job, int64_t finish_ms) {
    struct lorica_jsonw w = lorica_request_json(arg, 200);
    lorica_job_write(job, finish_ms, &w);
    return 0;
}

static int fail(struct lorica_request *request, int rc, const struct lorica_error *err) {
    return lorica_request_fail(request, rc, NULL,
                               rc == LORICA_EINVAL      ? "invalid_job_state"
                               : rc == LORICA_ECONFLICT ? "job_is_published"
                                                        : NULL,
                               "%s", err->text);
}

int lorica_handle_job(struct lorica_request *request) {
    struct lorica_error err = {0};
    const int rc = lorica_jobs_find(request->server->jobs, &request->key, request->match.params[0],
                                    write_one, request, &err);
    return rc == 0 ? 0 : fail(request, rc, &err);
}

static int move(struct lorica_request *request, enum lorica_job_state to) {
    struct lorica_error err = {0};
    const int rc = lorica_jobs_move(request->server->jobs, &request->key, request->match.params[0],
                                    to, write_one, request, &err);
    return rc == 0 ? 0 : fail(request, rc, &err);
}

int lorica_handle_job_cancel(struct lorica_request *request) {
    return move(request, LORICA_JOB_CANCELLED);
}

int lorica_handle_job_pause(struct lorica_request *request) {
    return move(request, LORICA_JOB_PAUSED);
}

int lorica_handle_job_resume(struct lorica_request *request) {
    return move(request, LORICA_JOB_QUEUED);
}

/* -- the list -- */

struct listing {
    struct lorica_jsonw w;
    long long limit, count;
    bool more;
    bool unmarked; /* only jobs without metadata */
    struct {
        char key[4 * LORICA_JOB_METADATA_KEY + sizeof("metadata[]")], value[PAIR_MAX];
    } wanted[LORICA_JOB_METADATA_PAIRS];
    size_t wanted_count;
};

static bool is_wanted(const struct listing *l, const struct lorica_job *job) {
    struct lorica_json *metadata = NULL;
    struct lorica_error ignored;
    if (l->unmarked)
        return !job->metadata;
    if (l->wanted_count == 0)
        return true;
    if (!job->metadata ||
        lorica_json_parse(job->metadata, strlen(job->metadata), &metadata, &ignored) != 0)
        return false;
    bool all = true;
    for (size_t i = 0; all && i < l->wanted_count; i++) {
        const char *value = lorica_json_string(lorica_json_get(metadata, l->wanted[i].key));
        all = value && strcmp(value, l->wanted[i].value) == 0;
    }
    lorica_json_destroy(metadata);
    return all;
}

static int list_one(void *arg, const struct lorica_job *job, int64_t finish_ms) {
    struct listing *l = arg;
    if (!is_wanted(l, job))
        return 0;
    if (l->count == l->limit) {
        l->more = true;
        return 1;
    }
    l->count++;
    lorica_job_write(job, finish_ms, &l->w);
    return 0;
}

/* One "metadata[key]=value" of the query. */
static bool take_pair(struct listing *l, const char *text, size_t len) {
    char name[sizeof(l->wanted[0].key)];
    const char *equals = memchr(text, '=', len);
    const size_t name_len = equals ? (size_t)(equals - text) : len;
    const size_t prefix = strlen("metadata[");
    if (lorica_http_decode(text, name_len, true, name, sizeof(name)) != 0)
        return true; /* none of these names */
    const size_t used = strlen(name);
    if (strcmp(name, "metadata") == 0) {
        l->unmarked = true;
        return equals && (size_t)(text + len - equals) == sizeof("=null") - 1 &&
               strncmp(equals, "=null", 5) == 0;
    }
    if (strncmp(name, "metadata[", prefix) != 0 || name[used - 1] != ']')
        return true;
    if (!equals || l->wanted_count == LORICA_JOB_METADATA_PAIRS)
        return false;
    name[used - 1] = '\0';
    (void)snprintf(l->wanted[l->wanted_count].key, sizeof(l->wanted[0].key), "%s", name + prefix);
    return lorica_http_decode(equals + 1, (size_t)(text + len - equals - 1), true,
                              l->wanted[l->wanted_count++].value, PAIR_MAX) == 0;
}

static int take_metadata(struct lorica_request *request, struct listing *l) {
    bool fine = true;
    for (const char *at = request->query; fine && at && *at;) {
        const size_t len = strcspn(at, "&");
        fine = take_pair(l, at, len);
        at += len + (at[len] == '&');
    }
    if (fine && !(l->unmarked && l->wanted_count > 0))
        return 0;
    return lorica_request_fail(request, LORICA_EINVAL, "metadata", NULL,
                               "metadata filters read metadata[KEY]=VALUE, at most %d of them, or "
                               "metadata=null alone",
                               LORICA_JOB_METADATA_PAIRS);
}

int lorica_handle_jobs(struct lorica_request *request) {
    struct lorica_error err = {0};
    char after_text[LORICA_JOB_ID];
    const char *after = NULL;
    struct listing *l = calloc(1, sizeof(*l));
    if (!l)
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    l->limit = LIST_DEFAULT;
    int rc = lorica_request_query_number(request, "limit", 1, LIST_MAX, &l->limit);
    if (rc == 0)
        rc = lorica_request_query_text(request, "after", after_text, sizeof(after_text), &after);
    if (rc == 0)
        rc = take_metadata(request, l);
    if (rc != 0) {
        free(l);
        return rc;
    }
    l->w = lorica_request_json(request, 200);
    lorica_api_open_list(&l->w);
    rc = lorica_jobs_each(request->server->jobs, &request->key, after, list_one, l, &err);
    lorica_api_close_list(&l->w, l->more);
    free(l);
    return rc >= 0 ? 0 : lorica_request_fail(request, rc, "after", NULL, "%s", err.text);
}

/* -- checkpoints -- */

/* The one that can be used: what was published. What a trainer keeps to go on from is none. */
static int write_checkpoints(void *arg, const struct lorica_job *job, int64_t finish_ms) {
    struct lorica_jsonw w = lorica_request_json(arg, 200);
    char id[64];
    const bool there = job->state == LORICA_JOB_SUCCEEDED;
    lorica_api_open_list(&w);
    if (there) {
        (void)snprintf(id, sizeof(id), "ftckpt-%s", job->id + sizeof(LORICA_JOB_ID_PREFIX) - 1);
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_string(&w, "object", "fine_tuning.job.checkpoint");
        lorica_jsonw_string(&w, "id", id);
        lorica_jsonw_integer(&w, "created_at", job->finished_ms / 1000);
        lorica_jsonw_string(&w, "fine_tuning_job_id", job->id);
        lorica_jsonw_string(&w, "fine_tuned_model_checkpoint", job->result.model);
        lorica_jsonw_integer(&w, "step_number", job->result.step);
        lorica_jsonw_object(&w, "metrics");
        lorica_jsonw_integer(&w, "step", job->result.step);
        lorica_jsonw_number(&w, "train_loss", job->result.train_loss);
        if (isfinite(job->result.valid_loss))
            lorica_jsonw_number(&w, "full_valid_loss", job->result.valid_loss);
        lorica_jsonw_end_object(&w);
        lorica_jsonw_end_object(&w);
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_string(&w, "first_id", there ? id : NULL);
    lorica_jsonw_string(&w, "last_id", there ? id : NULL);
    lorica_jsonw_bool(&w, "has_more", false);
    lorica_jsonw_end_object(&w);
    return 0;
}

int lorica_handle_job_checkpoints(struct lorica_request *request) {
    struct lorica_error err = {0};
    const int rc = lorica_jobs_find(request->server->jobs, &request->key, request->match.params[0],
                                    write_checkpoints, request, &err);
    return rc == 0 ? 0 : fail(request, rc, &err);
}
