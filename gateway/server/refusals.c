/* SPDX-License-Identifier: MIT */
#include "gateway/server/refusals.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/server/server.h"
#include "gateway/server/upload.h"
#include "gateway/server/uverr.h"
#include "registry/refused.h"

struct lorica_refusals {
    struct lorica_server *server;
    uv_timer_t timer;
    struct lorica_refusal_bucket *buckets; /* one for each key that was refused of late */
    size_t count, room;
};

/* A summary on its way to the writer. */
struct summary {
    struct lorica_lane_job job; /* first: found from it */
    struct lorica_refusals *refusals;
    struct lorica_refusal_bucket bucket;
    int rc;
    struct lorica_error err;
};

/* The bucket. */

static void refill(struct lorica_refusal_bucket *bucket, uint64_t now_ms) {
    bucket->tokens += (double)(now_ms - bucket->filled_ms) / LORICA_REFUSALS_EVERY_MS;
    if (bucket->tokens > LORICA_REFUSALS_BURST)
        bucket->tokens = LORICA_REFUSALS_BURST;
    bucket->filled_ms = now_ms;
}

void lorica_refusal_bucket_init(struct lorica_refusal_bucket *bucket, const char *key_name,
                                uint64_t now_ms) {
    *bucket = (struct lorica_refusal_bucket){.tokens = LORICA_REFUSALS_BURST, .filled_ms = now_ms};
    (void)snprintf(bucket->key_name, sizeof(bucket->key_name), "%s", key_name);
}

static void miss(struct lorica_refusal_bucket *bucket, int64_t unix_ms) {
    if (bucket->missed++ == 0)
        bucket->first_ms = unix_ms;
    bucket->last_ms = unix_ms;
}

bool lorica_refusal_bucket_take(struct lorica_refusal_bucket *bucket, uint64_t now_ms,
                                int64_t unix_ms) {
    refill(bucket, now_ms);
    if (bucket->missed == 0 && bucket->tokens >= 1) {
        bucket->tokens -= 1;
        return true;
    }
    miss(bucket, unix_ms);
    return false;
}

bool lorica_refusal_bucket_summary(struct lorica_refusal_bucket *bucket, uint64_t now_ms) {
    refill(bucket, now_ms);
    if (bucket->missed == 0 || bucket->tokens < 1)
        return false;
    bucket->tokens -= 1;
    return true;
}

bool lorica_refusal_bucket_idle(struct lorica_refusal_bucket *bucket, uint64_t now_ms) {
    refill(bucket, now_ms);
    return bucket->missed == 0 && bucket->tokens >= LORICA_REFUSALS_BURST;
}

/* Judging and recording. */

bool lorica_refusals_is_one(struct lorica_request *request) {
    struct lorica_metrics *metrics = &request->server->metrics;
    const struct lorica_route *route = request->match.route;
    const int code = request->error.code;
    if (!route || !route->change)
        return false;
    if (code == LORICA_EAUTH && !request->keyed)
        metrics->unauthenticated++;
    const char *why = request->error_code ? request->error_code : "";
    const bool refused = code == LORICA_EAUTH || code == LORICA_EPERM || code == LORICA_ECONFLICT ||
                         code == LORICA_EGATE || code == LORICA_EPRECOND ||
                         code == LORICA_ESIGNATURE || strcmp(why, "invalid_adapter") == 0 ||
                         strcmp(why, "digest_mismatch") == 0;
    if (!request->keyed || !refused)
        return false;
    metrics->refused++;
    return true;
}

static struct lorica_refusal_bucket *bucket_of(struct lorica_refusals *refusals, const char *name,
                                               uint64_t now_ms) {
    for (size_t i = 0; i < refusals->count; i++)
        if (strcmp(refusals->buckets[i].key_name, name) == 0)
            return &refusals->buckets[i];
    if (refusals->count == refusals->room) {
        const size_t room = refusals->room ? 2 * refusals->room : 16;
        void *grown = realloc(refusals->buckets, room * sizeof(*refusals->buckets));
        if (!grown)
            return NULL;
        refusals->buckets = grown;
        refusals->room = room;
    }
    struct lorica_refusal_bucket *bucket = &refusals->buckets[refusals->count++];
    lorica_refusal_bucket_init(bucket, name, now_ms);
    return bucket;
}

bool lorica_refusals_take(struct lorica_refusals *refusals, const struct lorica_request *request) {
    const uint64_t now_ms = uv_now(&refusals->server->loop);
    struct lorica_refusal_bucket *bucket = bucket_of(refusals, request->key.name, now_ms);
    return bucket && lorica_refusal_bucket_take(bucket, now_ms, lorica_sweeper_now_ms());
}

void lorica_refusals_missed(struct lorica_refusals *refusals,
                            const struct lorica_request *request) {
    struct lorica_refusal_bucket *bucket =
        bucket_of(refusals, request->key.name, uv_now(&refusals->server->loop));
    if (bucket)
        miss(bucket, lorica_sweeper_now_ms());
}

/* The version that was meant: of the path, or of the body. */
static uint64_t version_of(struct lorica_request *request) {
    struct lorica_json *root = NULL;
    struct lorica_error ignored;
    int64_t version = 0;
    if (strstr(request->match.route->pattern, "/versions/{}")) {
        const char *text = request->match.params[1];
        return strlen(text) < 16 && text[strspn(text, "0123456789")] == '\0'
                   ? strtoull(text, NULL, 10)
                   : 0;
    }
    if (request->match.route->body != LORICA_BODY_JSON || request->body.len == 0 ||
        lorica_json_parse(request->body.data, request->body.len, &root, &ignored) != 0)
        return 0;
    if (lorica_json_integer(lorica_json_get(root, "version"), 1, (int64_t)1 << 53, &version) != 0)
        version = 0;
    lorica_json_destroy(root);
    return (uint64_t)version;
}

/* What was attempted, for the record. The texts are borrowed from the request. */
static struct lorica_refusal describe(struct lorica_request *request) {
    const char *pattern = request->match.route->pattern;
    struct lorica_refusal refusal = {.attempt = request->match.route->change,
                                     .code = request->error_code,
                                     .why = request->error.text};
    size_t len = 0;
    refusal.status =
        request->error_status ? request->error_status : lorica_err_http_status(request->error.code);
    if (strncmp(pattern, "/v1/adapters/{}", 15) == 0)
        refusal.name = request->match.params[0];
    else if (strncmp(pattern, "/v1/keys/{}", 11) == 0)
        refusal.subject = request->match.params[0];
    else if (strncmp(pattern, "/v1/files/{}", 12) == 0)
        refusal.subject = request->match.params[0];
    else if (strncmp(pattern, "/v1/fine_tuning/jobs/{}", 23) == 0)
        refusal.subject = request->match.params[0];
    if (strstr(pattern, "/channels/{}"))
        refusal.channel = request->match.params[1];
    else if (request->upload)
        refusal.channel = lorica_upload_text(request->upload, "channel", &len);
    refusal.version = version_of(request);
    return refusal;
}

int lorica_refusals_record(struct lorica_request *request, struct lorica_error *err) {
    const struct lorica_refusal refusal = describe(request);
    return lorica_registry_refused(request->server->parts.registry, &refusal, request->key.name,
                                   err);
}

/* Summaries. */

static void run_summary(struct lorica_lane_job *job) {
    struct summary *summary = (struct summary *)(void *)job;
    const struct lorica_refusal_bucket *bucket = &summary->bucket;
    summary->rc = lorica_registry_refused_more(summary->refusals->server->parts.registry,
                                               bucket->key_name, bucket->missed, bucket->first_ms,
                                               bucket->last_ms, &summary->err);
}

static void summary_done(struct lorica_lane_job *job) {
    struct summary *summary = (struct summary *)(void *)job;
    if (summary->rc != 0)
        lorica_log_line(summary->refusals->server->parts.log, "error",
                        "event=refusals_not_recorded key=%s count=%llu why=\"%s\"",
                        summary->bucket.key_name, (unsigned long long)summary->bucket.missed,
                        summary->err.text);
    free(summary);
}

/* Hands what a bucket missed to the writer. What cannot be handed over is kept. */
static void summarise(struct lorica_refusals *refusals, struct lorica_refusal_bucket *bucket) {
    struct summary *summary = calloc(1, sizeof(*summary));
    if (!summary)
        return;
    summary->job.run = run_summary;
    summary->job.done = summary_done;
    summary->refusals = refusals;
    summary->bucket = *bucket;
    if (lorica_lane_submit(refusals->server->writer, &summary->job) == 0)
        bucket->missed = 0;
    else
        free(summary);
}

static void on_time(uv_timer_t *timer) {
    struct lorica_refusals *refusals = timer->data;
    const uint64_t now_ms = uv_now(timer->loop);
    for (size_t i = 0; i < refusals->count;) {
        struct lorica_refusal_bucket *bucket = &refusals->buckets[i];
        if (lorica_refusal_bucket_summary(bucket, now_ms))
            summarise(refusals, bucket);
        if (lorica_refusal_bucket_idle(bucket, now_ms))
            *bucket = refusals->buckets[--refusals->count];
        else
            i++;
    }
}

int lorica_refusals_create(struct lorica_server *server, struct lorica_refusals **ret,
                           struct lorica_error *err) {
    struct lorica_refusals *refusals = calloc(1, sizeof(*refusals));
    if (!refusals)
        return lorica_fail(err, LORICA_ENOMEM, "the refusals: out of memory");
    refusals->server = server;
    const int rc = uv_timer_init(&server->loop, &refusals->timer);
    if (rc != 0) {
        free(refusals);
        return lorica_uv_fail(err, rc, "the refusals");
    }
    refusals->timer.data = refusals;
    (void)uv_timer_start(&refusals->timer, on_time, LORICA_REFUSALS_EVERY_MS / 3,
                         LORICA_REFUSALS_EVERY_MS / 3); /* has a callback */
    *ret = refusals;
    return 0;
}

void lorica_refusals_flush(struct lorica_refusals *refusals) {
    for (size_t i = 0; refusals && i < refusals->count; i++)
        if (refusals->buckets[i].missed > 0)
            summarise(refusals, &refusals->buckets[i]);
}

void lorica_refusals_destroy(struct lorica_refusals *refusals) {
    if (!refusals)
        return;
    free(refusals->buckets);
    free(refusals);
}
