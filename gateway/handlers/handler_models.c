/* SPDX-License-Identifier: MIT
 * GET /v1/models: the base, and every channel of an adapter that this base can answer with. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "gateway/handlers/handlers.h"
#include "gateway/handlers/listing.h"
#include "gateway/handlers/models.h"
#include "gateway/server/server.h"

#define PAGE 256 /* names read in one transaction */

static void write_base(struct lorica_jsonw *w, const char *key,
                       const struct lorica_server *server) {
    lorica_jsonw_object(w, key);
    lorica_jsonw_string(w, "id", server->parts.base->name);
    lorica_jsonw_string(w, "object", "model");
    lorica_jsonw_integer(w, "created", 0);
    lorica_jsonw_string(w, "owned_by", "lorica");
    lorica_jsonw_string(w, "root", server->parts.base->name);
    lorica_jsonw_null(w, "parent");
    lorica_jsonw_string(w, "base_digest", server->base_digest);
    lorica_jsonw_end_object(w);
}

static void write_model(struct lorica_jsonw *w, const char *id,
                        const struct lorica_version *version, const struct lorica_server *server) {
    char digest[LORICA_DIGEST_TEXT];
    char root[LORICA_NAME_MAX + 32];
    (void)snprintf(root, sizeof(root), "%s@%llu", version->name,
                   (unsigned long long)version->version);
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "id", id);
    lorica_jsonw_string(w, "object", "model");
    lorica_jsonw_integer(w, "created", version->created_ms / 1000);
    lorica_jsonw_string(w, "owned_by", "lorica");
    lorica_jsonw_string(w, "root", root);
    lorica_jsonw_string(w, "parent", server->parts.base->name);
    lorica_jsonw_string(w, "digest", lorica_digest_format(&version->digest, digest));
    lorica_jsonw_end_object(w);
}

/* One adapter's channels; a version of another base is not offered. */
static int write_channels(struct lorica_request *request, struct lorica_jsonw *w,
                          const char *name) {
    struct lorica_registry *registry = request->server->parts.registry;
    struct lorica_channels channels = {0};
    struct lorica_error err = {0};
    int rc = lorica_channels_read(registry, name, &channels, &err);
    for (size_t i = 0; i < channels.count && rc == 0; i++) {
        const struct lorica_channel *channel = &channels.items[i];
        struct lorica_version version;
        char id[LORICA_NAME_MAX + LORICA_CHANNEL_MAX + 2];
        if (channel->version == 0)
            continue;
        rc = lorica_registry_version(registry, name, channel->version, &version, &err);
        if (rc != 0 ||
            !lorica_digest_equal(&version.base_digest, &request->server->parts.base->digest))
            continue;
        const bool stable = strcmp(channel->channel, LORICA_CHANNEL_STABLE) == 0;
        (void)snprintf(id, sizeof(id), "%s%s%s", name, stable ? "" : ":",
                       stable ? "" : channel->channel);
        write_model(w, id, &version, request->server);
    }
    lorica_channels_finish(&channels);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    return 0;
}

int lorica_handle_models(struct lorica_request *request) {
    struct lorica_names names = {0};
    struct lorica_error err = {0};
    char after[LORICA_NAME_MAX + 1] = "";
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "list");
    lorica_jsonw_array(&w, "data");
    if (lorica_key_allows(&request->key, "base"))
        write_base(&w, NULL, request->server);
    int rc = 0;
    do {
        lorica_names_finish(&names);
        rc = lorica_names_read(request->server->parts.registry, after[0] ? after : NULL, PAGE,
                               &names, &err);
        if (rc != 0)
            rc = lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
        for (size_t i = 0; i < names.count && rc == 0; i++) {
            (void)snprintf(after, sizeof(after), "%s", names.items[i].name);
            if (lorica_key_allows(&request->key, names.items[i].name))
                rc = write_channels(request, &w, names.items[i].name);
        }
    } while (rc == 0 && names.count == PAGE);
    lorica_names_finish(&names);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    return rc;
}

int lorica_handle_model(struct lorica_request *request) {
    struct lorica_model model;
    const int rc = lorica_model_resolve(request, request->match.params[0], NULL, &model);
    if (rc != 0)
        return rc;
    struct lorica_jsonw w = lorica_request_json(request, 200);
    if (model.is_base)
        write_base(&w, NULL, request->server);
    else
        write_model(&w, request->match.params[0], &model.version, request->server);
    return 0;
}
