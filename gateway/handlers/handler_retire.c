/* SPDX-License-Identifier: MIT
 * Versions out of service: delete, undelete, how long deleted content stays, and its sweep. */
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "registry/retire.h"

static struct lorica_registry *registry_of(struct lorica_request *request) {
    return request->server->parts.registry;
}

static int fail_err(struct lorica_request *request, int rc, const struct lorica_error *err) {
    return lorica_request_fail(request, rc, NULL, NULL, "%s", err->text);
}

typedef int (*change_fn)(struct lorica_request *request, uint64_t version,
                         const struct lorica_actor *actor, struct lorica_version *ret,
                         struct lorica_error *err);

/* Changes the version of the path; the body, where there is one, says why. */
static int change_version(struct lorica_request *request, change_fn change) {
    struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_version version;
    struct lorica_error err = {0};
    uint64_t number = 0;
    int rc = lorica_handler_version_number(request, &number);
    if (rc == 0)
        rc = lorica_handler_reason(request, &actor.message);
    if (rc == 0) {
        rc = change(request, number, &actor, &version, &err);
        if (rc != 0)
            rc = fail_err(request, rc, &err);
    }
    if (rc != 0)
        return rc;
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_write_version(&w, NULL, &version);
    return 0;
}

static int delete_unpinned(struct lorica_request *request, uint64_t version,
                           const struct lorica_actor *actor, struct lorica_version *ret,
                           struct lorica_error *err) {
    return lorica_pins_delete(&request->server->pins, registry_of(request),
                              request->match.params[0], version, actor, ret, err);
}

static int take_back(struct lorica_request *request, uint64_t version,
                     const struct lorica_actor *actor, struct lorica_version *ret,
                     struct lorica_error *err) {
    return lorica_registry_undelete(registry_of(request), request->match.params[0], version, actor,
                                    ret, err);
}

int lorica_handle_delete(struct lorica_request *request) {
    return change_version(request, delete_unpinned);
}

int lorica_handle_undelete(struct lorica_request *request) {
    return change_version(request, take_back);
}

int lorica_handle_retention(struct lorica_request *request) {
    struct lorica_retention retention;
    struct lorica_error err = {0};
    const char *name = request->match.params[0];
    const int rc = lorica_registry_retention(registry_of(request), name, &retention, &err);
    if (rc != 0)
        return fail_err(request, rc, &err);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "adapter.retention");
    lorica_jsonw_string(&w, "name", name);
    lorica_jsonw_integer(&w, "days", retention.days);
    lorica_jsonw_bool(&w, "default", retention.is_default);
    lorica_jsonw_end_object(&w);
    return 0;
}

int lorica_handle_retention_set(struct lorica_request *request) {
    static const char *const members[] = {"days", "reason", NULL};
    struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    const struct lorica_json *root = NULL;
    struct lorica_error err = {0};
    int64_t days = 0;
    int rc = lorica_handler_body(request, members, "reason", &actor.message, &root);
    if (rc != 0)
        return rc;
    if (lorica_json_integer(lorica_json_get(root, "days"), 0, LORICA_RETENTION_DAYS_MAX, &days))
        return lorica_request_fail(request, LORICA_EINVAL, "days", NULL,
                                   "days must be a whole number from 0 to %d",
                                   LORICA_RETENTION_DAYS_MAX);
    rc = lorica_registry_retention_set(registry_of(request), request->match.params[0],
                                       (uint32_t)days, &actor, &err);
    return rc == 0 ? lorica_handle_retention(request) : fail_err(request, rc, &err);
}

int lorica_handle_sweep(struct lorica_request *request) {
    const struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_sweep stats = {0};
    struct lorica_error err = {0};
    bool more = false;
    if (request->key.glob_count > 0)
        return lorica_request_fail(request, LORICA_EPERM, NULL, NULL,
                                   "a sweep goes through all adapters; the key \"%s\" is for some",
                                   request->key.name);
    const int rc = lorica_registry_sweep_step(registry_of(request), lorica_sweeper_now_ms(), &actor,
                                              &stats, &more, &err);
    if (rc != 0)
        return fail_err(request, rc, &err);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "sweep");
    lorica_jsonw_integer(&w, "versions", (int64_t)stats.versions);
    lorica_jsonw_integer(&w, "contents", (int64_t)stats.contents);
    lorica_jsonw_integer(&w, "bytes", (int64_t)stats.bytes);
    lorica_jsonw_bool(&w, "has_more", more);
    lorica_jsonw_end_object(&w);
    return 0;
}
