/* SPDX-License-Identifier: MIT
 * The share of stable's traffic that goes to a canary: shown, set, ended. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/handlers/checks.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
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
    lorica_jsonw_integer(&w, "window", split->terms.window_s);
    lorica_jsonw_integer(&w, "min_requests", split->terms.min_requests);
    lorica_jsonw_number(&w, "max_error_excess",
                        (double)split->terms.max_error_excess / PER_PERCENT);
    lorica_jsonw_number(&w, "max_latency_ratio", split->terms.max_latency_ratio / 100.0);
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

/* An optional whole number. */
static int read_count(struct lorica_request *request, const struct lorica_json *root,
                      const char *name, int64_t min, int64_t max, uint32_t *ret) {
    const struct lorica_json *value = lorica_json_get(root, name);
    int64_t number = 0;
    if (lorica_json_type(value) == LORICA_JSON_NULL)
        return 0;
    if (lorica_json_integer(value, min, max, &number) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   "%s must be a whole number from %lld to %lld", name,
                                   (long long)min, (long long)max);
    *ret = (uint32_t)number;
    return 0;
}

/* When the canary is taken off by itself; what is left out stays as it is in *terms. */
static int read_abort(struct lorica_request *request, const struct lorica_json *root,
                      struct lorica_split_terms *terms) {
    const struct lorica_json *errors = lorica_json_get(root, "max_error_excess");
    const struct lorica_json *latency = lorica_json_get(root, "max_latency_ratio");
    int rc = read_count(request, root, "window", LORICA_SPLIT_WINDOW_MIN, LORICA_SPLIT_WINDOW_MAX,
                        &terms->window_s);
    if (rc == 0)
        rc = read_count(request, root, "min_requests", 1, LORICA_SPLIT_REQUESTS_MAX,
                        &terms->min_requests);
    if (rc != 0)
        return rc;
    if (lorica_json_type(errors) != LORICA_JSON_NULL &&
        !read_hundredths(errors, 0, 100, &terms->max_error_excess))
        return lorica_request_fail(request, LORICA_EINVAL, "max_error_excess", NULL,
                                   "max_error_excess must be from 0 to 100 percent, in steps of "
                                   "0.01");
    if (lorica_json_type(latency) != LORICA_JSON_NULL &&
        !read_hundredths(latency, 1.01, 100, &terms->max_latency_ratio) &&
        !read_hundredths(latency, 0, 0, &terms->max_latency_ratio))
        return lorica_request_fail(request, LORICA_EINVAL, "max_latency_ratio", NULL,
                                   "max_latency_ratio must be from 1.01 to 100, in steps of 0.01, "
                                   "or 0 for no limit");
    return 0;
}

/* The terms of a body. */
static int read_terms(struct lorica_request *request, const struct lorica_json *root,
                      struct lorica_split_terms *ret) {
    static const char *const members[] = {
        "version",          "percent",           "window",  "min_requests",
        "max_error_excess", "max_latency_ratio", "message", NULL};
    uint64_t version = 0;
    uint32_t share = 0;
    int rc = lorica_request_only(request, root, members);
    if (rc == 0)
        rc = lorica_handler_named_version(request, root, &version);
    if (rc != 0)
        return rc;
    if (!read_hundredths(lorica_json_get(root, "percent"), 0.01, 100, &share))
        return lorica_request_fail(request, LORICA_EINVAL, "percent", NULL,
                                   "percent must be from 0.01 to 100, in steps of 0.01");
    *ret = lorica_split_defaults(version, share);
    return read_abort(request, root, ret);
}

/* A canary answers for stable: it must pass stable's checks. */
int lorica_handle_split_check(struct lorica_request *request) {
    const int rc = lorica_handler_known_adapter(request);
    return rc == 0 ? lorica_handler_check_version(request, LORICA_CHANNEL_STABLE) : rc;
}

int lorica_handle_split_set(struct lorica_request *request) {
    struct lorica_actor actor = {.key_name = request->key.name,
                                 .role = request->key.role,
                                 .checked = lorica_checks_found(request)};
    struct lorica_split_terms terms = {0};
    struct lorica_split split;
    const struct lorica_json *root = NULL;
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
    return rc;
}

int lorica_handle_split_end(struct lorica_request *request) {
    struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_split split;
    struct lorica_error err = {0};
    uint64_t epoch = 0;
    int rc = lorica_handler_known_adapter(request);
    if (rc == 0)
        rc = lorica_handler_reason(request, &actor.message);
    if (rc == 0)
        rc = lorica_handler_epoch(request, &epoch);
    if (rc == 0) {
        rc = lorica_registry_split_end(registry_of(request), request->match.params[0], &epoch,
                                       &actor, &split, &err);
        rc = rc == 0 ? say_split(request, &split) : fail_err(request, rc, &err);
    }
    return rc;
}
