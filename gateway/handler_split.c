/* SPDX-License-Identifier: MIT
 * The share of stable's traffic that goes to a canary: shown, set, ended. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "gateway/api.h"
#include "gateway/handlers.h"
#include "gateway/server.h"
#include "registry/split.h"

#define PER_PERCENT (LORICA_SPLIT_WHOLE / 100)

static struct lorica_registry *registry_of(struct lorica_request *request) {
    return request->server->parts.registry;
}

static int fail_err(struct lorica_request *request, int rc, const struct lorica_error *err) {
    return lorica_request_fail(request, rc, NULL, rc == LORICA_EGATE ? "policy_not_met" : NULL,
                               "%s", err->text);
}

static int say_split(struct lorica_request *request, const struct lorica_split *split) {
    char etag[32];
    (void)snprintf(etag, sizeof(etag), "\"%llu\"", (unsigned long long)split->epoch);
    lorica_request_header(request, "etag", etag);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "adapter.split");
    lorica_jsonw_string(&w, "name", split->name);
    lorica_jsonw_integer(&w, "version", (int64_t)split->terms.version);
    lorica_jsonw_number(&w, "percent", (double)split->terms.share / PER_PERCENT);
    lorica_jsonw_integer(&w, "stable", (int64_t)split->stable);
    lorica_jsonw_integer(&w, "epoch", (int64_t)split->epoch);
    lorica_jsonw_integer(&w, "changed", split->changed_ms / 1000);
    lorica_jsonw_string(&w, "changed_by", split->by);
    lorica_jsonw_integer(&w, "started", split->started_ms / 1000);
    lorica_jsonw_end_object(&w);
    return 0;
}

int lorica_handle_split(struct lorica_request *request) {
    struct lorica_split split;
    struct lorica_error err = {0};
    const int rc =
        lorica_registry_split_get(registry_of(request), request->match.params[0], &split, &err);
    return rc == 0 ? say_split(request, &split) : fail_err(request, rc, &err);
}

/* A number that is a whole multiple of 0.01. */
static bool read_hundredths(const struct lorica_json *value, double min, double max,
                            uint32_t *ret) {
    const double number = lorica_json_number(value, NAN);
    if (!(number >= min && number <= max) || fabs(number * 100 - round(number * 100)) > 1e-6)
        return false;
    *ret = (uint32_t)round(number * 100);
    return true;
}

/* The terms of a body. */
static int read_terms(struct lorica_request *request, const struct lorica_json *root,
                      struct lorica_split_terms *ret) {
    static const char *const members[] = {"version", "percent", "message", NULL};
    int64_t version = 0;
    uint32_t share = 0;
    const int rc = lorica_request_only(request, root, members);
    if (rc != 0)
        return rc;
    if (lorica_json_integer(lorica_json_get(root, "version"), 1, (int64_t)1 << 53, &version) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, "version", NULL,
                                   "version must be a version number");
    if (!read_hundredths(lorica_json_get(root, "percent"), 0.01, 100, &share))
        return lorica_request_fail(request, LORICA_EINVAL, "percent", NULL,
                                   "percent must be from 0.01 to 100, in steps of 0.01");
    *ret = lorica_split_defaults((uint64_t)version, share);
    ret->max_error_excess = LORICA_SPLIT_WHOLE;
    ret->max_latency_ratio = 0;
    return 0;
}

int lorica_handle_split_set(struct lorica_request *request) {
    struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_split_terms terms = {0};
    struct lorica_split split;
    struct lorica_json *root = NULL;
    struct lorica_error err = {0};
    uint64_t epoch = 0;
    int rc = lorica_handler_known_adapter(request);
    if (rc == 0)
        rc = lorica_request_parse(request, &root);
    if (rc == 0)
        rc = read_terms(request, root, &terms);
    if (rc == 0)
        rc = lorica_handler_text(request, root, "message", &actor.message);
    if (rc == 0)
        rc = lorica_handler_epoch(request, &epoch);
    if (rc == 0) {
        rc = lorica_registry_split_set(registry_of(request), request->match.params[0], &terms,
                                       epoch, &actor, &split, &err);
        rc = rc == 0 ? say_split(request, &split) : fail_err(request, rc, &err);
    }
    lorica_json_destroy(root);
    return rc;
}

int lorica_handle_split_end(struct lorica_request *request) {
    static const char *const members[] = {"reason", NULL};
    struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_split split;
    struct lorica_json *root = NULL;
    struct lorica_error err = {0};
    uint64_t epoch = 0;
    int rc = lorica_handler_known_adapter(request);
    if (rc == 0 && request->body.len > 0)
        rc = lorica_request_parse(request, &root);
    if (rc == 0)
        rc = lorica_request_only(request, root, members);
    if (rc == 0)
        rc = lorica_handler_text(request, root, "reason", &actor.message);
    if (rc == 0)
        rc = lorica_handler_epoch(request, &epoch);
    if (rc == 0) {
        rc = lorica_registry_split_end(registry_of(request), request->match.params[0], &epoch,
                                       &actor, &split, &err);
        rc = rc == 0 ? say_split(request, &split) : fail_err(request, rc, &err);
    }
    lorica_json_destroy(root);
    return rc;
}
