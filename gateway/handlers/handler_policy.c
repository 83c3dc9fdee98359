/* SPDX-License-Identifier: MIT
 * What a channel demands of a promote, and who approved of one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "proto/checks.h"
#include "registry/policy.h"

static struct lorica_registry *registry_of(struct lorica_request *request) {
    return request->server->parts.registry;
}

static int fail_err(struct lorica_request *request, int rc, const struct lorica_error *err) {
    return lorica_request_fail(request, rc, NULL, NULL, "%s", err->text);
}

/* Answers with a policy and the list of its checks (NULL: none). */
static int say_policy(struct lorica_request *request, const struct lorica_policy *policy,
                      const char *checks, size_t len) {
    char etag[32];
    (void)snprintf(etag, sizeof(etag), "\"%llu\"", (unsigned long long)policy->epoch);
    lorica_request_header(request, "etag", etag);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "adapter.policy");
    lorica_jsonw_string(&w, "name", request->match.params[0]);
    lorica_jsonw_string(&w, "channel", request->match.params[1]);
    lorica_jsonw_integer(&w, "epoch", (int64_t)policy->epoch);
    lorica_jsonw_integer(&w, "changed", policy->changed_ms / 1000);
    lorica_jsonw_string(&w, "changed_by", policy->changed_by);
    lorica_policy_write(&w, "policy", policy);
    if (checks)
        lorica_jsonw_raw(&w, "checks", checks, len);
    else
        lorica_jsonw_null(&w, "checks");
    lorica_jsonw_end_object(&w);
    return 0;
}

int lorica_handle_policy(struct lorica_request *request) {
    struct lorica_policy policy;
    char *checks = NULL;
    size_t len = 0;
    struct lorica_error err = {0};
    int rc = lorica_handler_known_channel(request);
    if (rc != 0)
        return rc;
    rc = lorica_registry_checks(registry_of(request), request->match.params[0],
                                request->match.params[1], &policy, &checks, &len, &err);
    rc = rc == 0 ? say_policy(request, &policy, checks, len) : fail_err(request, rc, &err);
    free(checks);
    return rc;
}

/* An optional whole number from 0 on. */
static int read_count(struct lorica_request *request, const struct lorica_json *root,
                      const char *name, int64_t max, int64_t *ret) {
    const struct lorica_json *value = lorica_json_get(root, name);
    if (lorica_json_type(value) == LORICA_JSON_NULL)
        return 0;
    if (lorica_json_integer(value, 0, max, ret) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   "%s must be a whole number from 0 to %lld", name,
                                   (long long)max);
    return 0;
}

static int read_words(struct lorica_request *request, const struct lorica_json *root,
                      struct lorica_policy *policy) {
    const struct lorica_json *role = lorica_json_get(root, "min_role");
    const struct lorica_json *set = lorica_json_get(root, "eval_set");
    const struct lorica_json *worse = lorica_json_get(root, "max_worse");
    if (lorica_json_type(role) != LORICA_JSON_NULL) {
        const int found = lorica_role_parse(lorica_json_string(role));
        if (found < 0)
            return lorica_request_fail(request, LORICA_EINVAL, "min_role", NULL,
                                       "min_role must be infer, publish, ops or admin");
        policy->min_role = (enum lorica_role)found;
    }
    if (lorica_json_type(set) != LORICA_JSON_NULL) {
        const char *text = lorica_json_string(set);
        if (!text || !lorica_eval_set_valid(text))
            return lorica_request_fail(request, LORICA_EINVAL, "eval_set", NULL,
                                       "eval_set must be [A-Za-z0-9][A-Za-z0-9._-]*, at most %d "
                                       "characters",
                                       LORICA_EVAL_SET_MAX);
        memcpy(policy->eval_set, text, strlen(text) + 1);
    }
    if (lorica_json_type(worse) != LORICA_JSON_NULL &&
        lorica_json_type(worse) != LORICA_JSON_NUMBER)
        return lorica_request_fail(request, LORICA_EINVAL, "max_worse", NULL,
                                   "max_worse must be a number");
    policy->max_worse = lorica_json_number(worse, 0);
    const struct lorica_json *sign = lorica_json_get(root, "signed");
    if (lorica_json_type(sign) != LORICA_JSON_NULL && lorica_json_type(sign) != LORICA_JSON_BOOL)
        return lorica_request_fail(request, LORICA_EINVAL, "signed", NULL,
                                   "signed must be true or false");
    policy->trusted_signature = lorica_json_is_true(sign);
    return 0;
}

static int read_policy(struct lorica_request *request, const struct lorica_json *root,
                       struct lorica_policy *policy) {
    static const char *const members[] = {"approvals", "min_role",  "max_rank", "max_bytes",
                                          "eval_set",  "max_worse", "signed",   "checks",
                                          "message",   NULL};
    int64_t approvals = 0, rank = 0, nbytes = 0;
    int rc = lorica_request_only(request, root, members);
    if (rc == 0)
        rc = read_count(request, root, "approvals", LORICA_APPROVALS_MAX, &approvals);
    if (rc == 0)
        rc = read_count(request, root, "max_rank", INT32_MAX, &rank);
    if (rc == 0)
        rc = read_count(request, root, "max_bytes", (int64_t)1 << 53, &nbytes);
    if (rc == 0)
        rc = read_words(request, root, policy);
    policy->approvals = (uint32_t)approvals;
    policy->max_rank = (uint32_t)rank;
    policy->max_nbytes = (uint64_t)nbytes;
    return rc;
}

/* An optional list of checks. */
static int read_checks(struct lorica_request *request, const struct lorica_json *root,
                       struct lorica_checks *checks, struct lorica_policy *policy) {
    const struct lorica_json *list = lorica_json_get(root, "checks");
    struct lorica_error err = {0};
    if (lorica_json_type(list) == LORICA_JSON_NULL)
        return 0;
    const int rc = lorica_checks_read(list, checks, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, "checks", NULL, "%s", err.text);
    policy->checks = (uint32_t)checks->count;
    policy->checks_text = checks->text.data;
    policy->checks_len = checks->text.len;
    return 0;
}

int lorica_handle_policy_set(struct lorica_request *request) {
    struct lorica_checks checks = {.count = 0};
    struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_policy policy = {0}, now;
    const struct lorica_json *root = NULL;
    struct lorica_error err = {0};
    uint64_t epoch = 0;
    int rc = lorica_handler_known_channel(request);
    if (rc == 0)
        rc = lorica_request_parse(request, &root);
    if (rc == 0)
        rc = read_policy(request, root, &policy);
    if (rc == 0)
        rc = read_checks(request, root, &checks, &policy);
    if (rc == 0)
        rc = lorica_handler_text(request, root, "message", &actor.message);
    if (rc == 0)
        rc = lorica_handler_epoch(request, &epoch);
    if (rc == 0) {
        rc = lorica_registry_policy_set(registry_of(request), request->match.params[0],
                                        request->match.params[1], &policy, epoch, &actor, &now,
                                        &err);
        rc = rc == 0 ? say_policy(request, &now, checks.text.data, checks.text.len)
                     : fail_err(request, rc, &err);
    }
    lorica_checks_finish(&checks);
    return rc;
}

static void write_approval(struct lorica_jsonw *w, const char *name,
                           const struct lorica_approval *approval) {
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "object", "adapter.approval");
    lorica_jsonw_string(w, "name", name);
    lorica_jsonw_string(w, "channel", approval->channel);
    lorica_jsonw_integer(w, "version", (int64_t)approval->version);
    lorica_jsonw_integer(w, "epoch", (int64_t)approval->epoch);
    lorica_jsonw_integer(w, "given", approval->given_ms / 1000);
    lorica_jsonw_string(w, "given_by", approval->given_by);
    lorica_jsonw_string(w, "message", approval->message);
    lorica_jsonw_end_object(w);
}

struct listing {
    struct lorica_jsonw w;
    const char *name;
};

static int list_approval(void *arg, const struct lorica_approval *approval) {
    struct listing *listing = arg;
    write_approval(&listing->w, listing->name, approval);
    return 0;
}

int lorica_handle_approvals(struct lorica_request *request) {
    struct lorica_error err = {0};
    int rc = lorica_handler_known_channel(request);
    if (rc != 0)
        return rc;
    struct listing listing = {lorica_request_json(request, 200), request->match.params[0]};
    lorica_api_open_list(&listing.w);
    rc = lorica_registry_approvals(registry_of(request), request->match.params[0],
                                   request->match.params[1], list_approval, &listing, &err);
    lorica_api_close_list(&listing.w, false);
    return rc == 0 ? 0 : fail_err(request, rc, &err);
}

int lorica_handle_approve(struct lorica_request *request) {
    static const char *const members[] = {"version", "reason", NULL};
    struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_approval approval;
    const struct lorica_json *root = NULL;
    struct lorica_error err = {0};
    uint64_t version = 0;
    int rc = lorica_handler_known_channel(request);
    if (rc == 0)
        rc = lorica_handler_body(request, members, "reason", &actor.message, &root);
    if (rc == 0)
        rc = lorica_handler_named_version(request, root, &version);
    if (rc != 0)
        return rc;
    rc = lorica_registry_approve(registry_of(request), request->match.params[0],
                                 request->match.params[1], version, &actor, &approval, &err);
    if (rc != 0)
        return fail_err(request, rc, &err);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    write_approval(&w, request->match.params[0], &approval);
    return 0;
}
