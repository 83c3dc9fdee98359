/* SPDX-License-Identifier: MIT */
#include "gateway/handlers/models.h"

#include <stdio.h>
#include <string.h>

#include "gateway/server/auth.h"
#include "gateway/server/server.h"

static int resolve_base(struct lorica_request *request, struct lorica_model *ret) {
    const int rc = lorica_auth_adapter(request, "base");
    if (rc != 0)
        return rc;
    *ret = (struct lorica_model){.is_base = true};
    (void)snprintf(request->adapter, sizeof(request->adapter), "base");
    return 0;
}

int lorica_model_resolve(struct lorica_request *request, const char *model, const char *user,
                         struct lorica_model *ret) {
    struct lorica_server *server = request->server;
    struct lorica_error err = {0};
    struct lorica_version version;
    struct lorica_split_choice choice;
    char name[LORICA_NAME_MAX + 1];
    if (strcmp(model, "base") == 0 || strcmp(model, server->parts.base->name) == 0)
        return resolve_base(request, ret);
    /* The key is judged before the name is looked up, so that a key learns of nothing but its own.
     */
    const size_t len = strcspn(model, ":@");
    if (len == 0 || len > LORICA_NAME_MAX)
        return lorica_request_fail(request, LORICA_ENOTFOUND, "model", "model_not_found",
                                   "there is no model \"%.200s\"", model);
    memcpy(name, model, len);
    name[len] = '\0';
    int rc = lorica_auth_adapter(request, name);
    if (rc != 0)
        return rc;
    const char *sticky = user && *user ? user : request->key.name;
    rc = lorica_registry_resolve_for(server->parts.registry, model, sticky, strlen(sticky),
                                     &version, &choice, &err);
    if (rc == LORICA_ENOTFOUND || rc == LORICA_EINVAL)
        return lorica_request_fail(request, LORICA_ENOTFOUND, "model", "model_not_found", "%s",
                                   err.text);
    if (rc != 0)
        return lorica_request_fail(request, rc, "model", NULL, "%s", err.text);
    if (!lorica_digest_equal(&version.base_digest, &server->parts.base->digest))
        return lorica_request_fail(request, LORICA_ECONFLICT, "model", "other_base",
                                   "%s@%llu was published for another base model than the one that "
                                   "is served here (%s)",
                                   version.name, (unsigned long long)version.version,
                                   server->parts.base->name);
    *ret = (struct lorica_model){.version = version, .choice = choice};
    (void)snprintf(request->adapter, sizeof(request->adapter), "%s@%llu", version.name,
                   (unsigned long long)version.version);
    return 0;
}

void lorica_model_headers(struct lorica_request *request, const struct lorica_model *model) {
    char digest[LORICA_DIGEST_TEXT];
    lorica_request_header(request, "lorica-adapter", request->adapter);
    if (!model->is_base)
        lorica_request_header(request, "lorica-adapter-digest",
                              lorica_digest_format(&model->version.digest, digest));
    lorica_request_header(request, "lorica-base-digest", request->server->base_digest);
}
