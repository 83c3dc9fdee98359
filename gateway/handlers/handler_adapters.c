/* SPDX-License-Identifier: MIT
 * The adapters: what there is, in which versions, where the channels point; publish, promote and
 * roll back. */
#include <stdlib.h>
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/server/auth.h"
#include "gateway/handlers/checks.h"
#include "gateway/handlers/handlers.h"
#include "gateway/handlers/listing.h"
#include "gateway/server/server.h"
#include "proto/http_fields.h"
#include "registry/retire.h"

static struct lorica_registry *registry_of(struct lorica_request *request) {
    return request->server->parts.registry;
}

static int fail_err(struct lorica_request *request, int rc, const struct lorica_error *err) {
    if (rc == LORICA_EGATE)
        return lorica_request_fail(request, rc, NULL, "policy_not_met", "%s", err->text);
    return lorica_request_fail(request, rc, NULL, NULL, "%s", err->text);
}

int lorica_handler_version_number(struct lorica_request *request, uint64_t *ret) {
    const char *text = request->match.params[1];
    char *end = NULL;
    const bool digits = text[0] >= '1' && text[0] <= '9' && strlen(text) < 19;
    const unsigned long long number = digits ? strtoull(text, &end, 10) : 0;
    if (!digits || *end != '\0')
        return lorica_request_fail(request, LORICA_ENOTFOUND, NULL, NULL,
                                   "\"%.40s\" is no version number", text);
    *ret = number;
    return 0;
}

static int path_version(struct lorica_request *request, struct lorica_version *ret) {
    struct lorica_error err = {0};
    uint64_t number = 0;
    int rc = lorica_handler_version_number(request, &number);
    if (rc != 0)
        return rc;
    rc = lorica_registry_version(registry_of(request), request->match.params[0], number, ret, &err);
    return rc == 0 ? 0 : fail_err(request, rc, &err);
}

/* One whose content may be had: it is not deleted. */
static int path_live_version(struct lorica_request *request, struct lorica_version *ret) {
    char reference[LORICA_NAME_MAX + 32];
    struct lorica_error err = {0};
    int rc = path_version(request, ret);
    if (rc != 0 || ret->deleted_ms == 0)
        return rc;
    (void)snprintf(reference, sizeof(reference), "%s@%llu", ret->name,
                   (unsigned long long)ret->version);
    rc =
        lorica_registry_resolve(registry_of(request), reference, ret, &err); /* says who and when */
    return rc == 0 ? 0 : fail_err(request, rc, &err);
}

/* How long deleted content stays, and what can be taken back. */
static int write_deleted(struct lorica_request *request, struct lorica_jsonw *w, const char *name) {
    struct lorica_retention retention;
    struct lorica_error err = {0};
    uint64_t *numbers = NULL;
    size_t count = 0;
    int rc = lorica_registry_retention(registry_of(request), name, &retention, &err);
    if (rc == 0)
        rc = lorica_registry_deleted(registry_of(request), name, &numbers, &count, &err);
    if (rc != 0)
        return fail_err(request, rc, &err);
    lorica_jsonw_integer(w, "retention_days", retention.days);
    lorica_jsonw_array(w, "deleted");
    for (size_t i = 0; i < count; i++)
        lorica_jsonw_integer(w, NULL, (int64_t)numbers[i]);
    lorica_jsonw_end_array(w);
    free(numbers);
    return 0;
}

static int write_adapter(struct lorica_request *request, struct lorica_jsonw *w, const char *name,
                         uint64_t latest) {
    struct lorica_channels channels = {0};
    struct lorica_error err = {0};
    int rc = lorica_channels_read(registry_of(request), name, &channels, &err);
    if (rc != 0) {
        rc = fail_err(request, rc, &err);
    } else {
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_string(w, "object", "adapter");
        lorica_jsonw_string(w, "name", name);
        lorica_jsonw_integer(w, "latest", (int64_t)latest);
        lorica_jsonw_array(w, "channels");
        for (size_t i = 0; i < channels.count; i++)
            lorica_api_write_channel(w, NULL, name, &channels.items[i]);
        lorica_jsonw_end_array(w);
        rc = write_deleted(request, w, name);
        lorica_jsonw_end_object(w);
    }
    lorica_channels_finish(&channels);
    return rc;
}

#define PAGE 256 /* names read in one transaction */

int lorica_handle_adapters(struct lorica_request *request) {
    struct lorica_names names = {0};
    struct lorica_error err = {0};
    long long limit = LORICA_API_LIST_DEFAULT;
    char after[LORICA_NAME_MAX + 1] = "";
    long long written = 0;
    bool more = false;
    int rc = lorica_request_query_number(request, "limit", 1, LORICA_API_LIST_MAX, &limit);
    if (rc != 0)
        return rc;
    rc = lorica_http_query(request->query, "after", after, sizeof(after));
    if (rc != 0 && rc != LORICA_ENOTFOUND)
        return lorica_request_fail(request, LORICA_EINVAL, "after", NULL, "after must be a name");
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_open_list(&w);
    do {
        lorica_names_finish(&names);
        rc = lorica_names_read(registry_of(request), after[0] ? after : NULL, PAGE, &names, &err);
        if (rc != 0)
            rc = fail_err(request, rc, &err);
        for (size_t i = 0; i < names.count && rc == 0 && !more; i++) {
            (void)snprintf(after, sizeof(after), "%s", names.items[i].name);
            if (!lorica_key_allows(&request->key, after))
                continue;
            more = written == limit;
            if (!more)
                rc = write_adapter(request, &w, after, names.items[i].latest);
            written++;
        }
    } while (rc == 0 && names.count == PAGE && !more);
    lorica_names_finish(&names);
    lorica_api_close_list(&w, more);
    return rc;
}

int lorica_handle_adapter(struct lorica_request *request) {
    struct lorica_error err = {0};
    const char *name = request->match.params[0];
    uint64_t latest = 0;
    int rc = lorica_name_valid(name)
                 ? lorica_registry_latest(registry_of(request), name, &latest, &err)
                 : 0;
    if (rc != 0)
        return fail_err(request, rc, &err);
    if (latest == 0)
        return lorica_request_fail(request, LORICA_ENOTFOUND, NULL, NULL,
                                   "there is no adapter \"%s\"", name);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    return write_adapter(request, &w, name, latest);
}

static int write_version(void *arg, const struct lorica_version *version) {
    lorica_api_write_version(arg, NULL, version);
    return 0;
}

int lorica_handle_versions(struct lorica_request *request) {
    struct lorica_error err = {0};
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_open_list(&w);
    const int rc = lorica_registry_versions(registry_of(request), request->match.params[0],
                                            write_version, &w, &err);
    lorica_api_close_list(&w, false);
    return rc == 0 ? 0 : fail_err(request, rc, &err);
}

int lorica_handle_version(struct lorica_request *request) {
    struct lorica_version version;
    const int rc = path_version(request, &version);
    if (rc != 0)
        return rc;
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_write_version(&w, NULL, &version);
    return 0;
}

static void describe_download(struct lorica_request *request, const char *type,
                              const struct lorica_digest *digest) {
    char text[LORICA_DIGEST_TEXT], etag[LORICA_DIGEST_TEXT + 2];
    request->response.status = 200;
    request->response.content_type = type;
    (void)lorica_digest_format(digest, text);
    (void)snprintf(etag, sizeof(etag), "\"%s\"", text);
    lorica_request_header(request, "etag", etag);
}

typedef int (*text_fn)(struct lorica_registry *registry, const struct lorica_version *version,
                       char **ret, size_t *ret_len, struct lorica_error *err);

static int send_text(struct lorica_request *request, const struct lorica_version *version,
                     text_fn read, const struct lorica_digest *digest) {
    struct lorica_error err = {0};
    char *text = NULL;
    size_t len = 0;
    const int rc = read(registry_of(request), version, &text, &len, &err);
    if (rc != 0)
        return fail_err(request, rc, &err);
    request->response.blob = text;
    request->response.blob_len = len;
    describe_download(request, "application/json", digest);
    return 0;
}

int lorica_handle_version_config(struct lorica_request *request) {
    struct lorica_version version;
    const int rc = path_live_version(request, &version);
    return rc ? rc : send_text(request, &version, lorica_registry_config, &version.config_digest);
}

int lorica_handle_version_weights(struct lorica_request *request) {
    struct lorica_version version;
    int rc = path_live_version(request, &version);
    if (rc == 0)
        rc = lorica_handler_content(request, &version.weights_digest, true);
    if (rc != 0)
        return rc;
    describe_download(request, "application/octet-stream", &version.weights_digest);
    return 0;
}

int lorica_handle_version_manifest(struct lorica_request *request) {
    struct lorica_version version;
    const int rc = path_live_version(request, &version);
    return rc ? rc
              : send_text(request, &version, lorica_registry_manifest, &version.manifest_digest);
}

int lorica_handler_known_adapter(struct lorica_request *request) {
    struct lorica_error err = {0};
    uint64_t latest = 0;
    const char *name = request->match.params[0];
    const int rc = lorica_name_valid(name)
                       ? lorica_registry_latest(registry_of(request), name, &latest, &err)
                       : 0;
    if (rc != 0)
        return fail_err(request, rc, &err);
    if (latest == 0)
        return lorica_request_fail(request, LORICA_ENOTFOUND, NULL, NULL,
                                   "there is no adapter \"%s\"", name);
    return 0;
}

int lorica_handle_channels(struct lorica_request *request) {
    struct lorica_channels channels = {0};
    struct lorica_error err = {0};
    int rc = lorica_handler_known_adapter(request);
    if (rc != 0)
        return rc;
    rc = lorica_channels_read(registry_of(request), request->match.params[0], &channels, &err);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_open_list(&w);
    for (size_t i = 0; i < channels.count; i++)
        lorica_api_write_channel(&w, NULL, request->match.params[0], &channels.items[i]);
    lorica_api_close_list(&w, false);
    lorica_channels_finish(&channels);
    return rc == 0 ? 0 : fail_err(request, rc, &err);
}

/* Answers with a channel and its epoch as the entity tag. */
static int say_channel(struct lorica_request *request, const struct lorica_channel *channel) {
    char etag[32];
    (void)snprintf(etag, sizeof(etag), "\"%llu\"", (unsigned long long)channel->epoch);
    lorica_request_header(request, "etag", etag);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_write_channel(&w, NULL, request->match.params[0], channel);
    return 0;
}

int lorica_handler_known_channel(struct lorica_request *request) {
    const int rc = lorica_handler_known_adapter(request);
    if (rc != 0)
        return rc;
    if (!lorica_channel_valid(request->match.params[1]))
        return lorica_request_fail(request, LORICA_EINVAL, NULL, NULL,
                                   "\"%.80s\" is no name for a channel: [a-z0-9][a-z0-9._-]*, at "
                                   "most %d characters",
                                   request->match.params[1], LORICA_CHANNEL_MAX);
    return 0;
}

int lorica_handle_channel(struct lorica_request *request) {
    struct lorica_channel channel;
    struct lorica_error err = {0};
    int rc = lorica_handler_known_channel(request);
    if (rc != 0)
        return rc;
    rc = lorica_registry_channel(registry_of(request), request->match.params[0],
                                 request->match.params[1], &channel, &err);
    return rc == 0 ? say_channel(request, &channel) : fail_err(request, rc, &err);
}

int lorica_handler_epoch(struct lorica_request *request, uint64_t *ret) {
    if (!request->has_if_match)
        return lorica_request_fail(request, LORICA_EPRECONDREQ, NULL, "if_match_required",
                                   "send If-Match with the present epoch, as the ETag says it");
    if (lorica_http_if_match(request->if_match, ret) != 0)
        return lorica_request_fail(request, LORICA_EPRECOND, NULL, "bad_if_match",
                                   "If-Match must be one epoch in quotes, such as \"3\"");
    return 0;
}

int lorica_handler_text(struct lorica_request *request, const struct lorica_json *root,
                        const char *name, const char **ret) {
    const struct lorica_json *value = lorica_json_get(root, name);
    const char *text = lorica_json_string(value);
    if (lorica_json_type(value) == LORICA_JSON_NULL)
        return 0;
    if (!text || strlen(text) > LORICA_MESSAGE_MAX)
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   "%s must be text of at most %d bytes", name, LORICA_MESSAGE_MAX);
    *ret = text;
    return 0;
}

int lorica_handler_body(struct lorica_request *request, const char *const *members, const char *why,
                        const char **ret_why, const struct lorica_json **ret_root) {
    int rc = lorica_request_parse(request, ret_root);
    if (rc == 0)
        rc = lorica_request_only(request, *ret_root, members);
    return rc == 0 ? lorica_handler_text(request, *ret_root, why, ret_why) : rc;
}

int lorica_handler_named_version(struct lorica_request *request, const struct lorica_json *root,
                                 uint64_t *ret) {
    int64_t version = 0;
    if (lorica_json_integer(lorica_json_get(root, "version"), 1, (int64_t)1 << 53, &version) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, "version", NULL,
                                   "version must be a version number");
    *ret = (uint64_t)version;
    return 0;
}

int lorica_handler_reason(struct lorica_request *request, const char **ret) {
    static const char *const members[] = {"reason", NULL};
    const struct lorica_json *root = NULL;
    if (request->body.len == 0)
        return 0;
    return lorica_handler_body(request, members, "reason", ret, &root);
}

int lorica_handler_check_version(struct lorica_request *request, const char *channel) {
    struct lorica_json *root = NULL;
    struct lorica_error ignored;
    int64_t version = 0;
    const bool read = request->body.data && lorica_json_parse(request->body.data, request->body.len,
                                                              &root, &ignored) == 0;
    const bool named = read && lorica_json_integer(lorica_json_get(root, "version"), 1,
                                                   (int64_t)1 << 53, &version) == 0;
    lorica_json_destroy(root);
    return named ? lorica_checks_prepare_version(request, request->match.params[0], channel,
                                                 (uint64_t)version)
                 : 0;
}

int lorica_handle_promote_check(struct lorica_request *request) {
    const int rc = lorica_handler_known_channel(request);
    return rc == 0 ? lorica_handler_check_version(request, request->match.params[1]) : rc;
}

int lorica_handle_promote(struct lorica_request *request) {
    static const char *const members[] = {"version", "message", NULL};
    struct lorica_actor actor = {.key_name = request->key.name,
                                 .role = request->key.role,
                                 .checked = lorica_checks_found(request)};
    struct lorica_channel channel;
    const struct lorica_json *root = NULL;
    struct lorica_error err = {0};
    uint64_t version = 0, epoch = 0;
    int rc = lorica_handler_known_channel(request);
    if (rc == 0)
        rc = lorica_handler_body(request, members, "message", &actor.message, &root);
    if (rc == 0)
        rc = lorica_handler_named_version(request, root, &version);
    if (rc == 0)
        rc = lorica_handler_epoch(request, &epoch);
    if (rc != 0)
        return rc;
    rc = lorica_registry_promote(registry_of(request), request->match.params[0],
                                 request->match.params[1], version, epoch, false, &actor, &channel,
                                 &err);
    return rc == 0 ? say_channel(request, &channel) : fail_err(request, rc, &err);
}

int lorica_handle_rollback(struct lorica_request *request) {
    struct lorica_actor actor = {.key_name = request->key.name};
    struct lorica_channel channel;
    struct lorica_error err = {0};
    int rc = lorica_handler_known_channel(request);
    if (rc == 0)
        rc = lorica_handler_reason(request, &actor.message);
    if (rc == 0) {
        rc = lorica_registry_rollback(registry_of(request), request->match.params[0],
                                      request->match.params[1], &actor, &channel, &err);
        rc = rc == 0 ? say_channel(request, &channel) : fail_err(request, rc, &err);
    }
    return rc;
}
