/* SPDX-License-Identifier: MIT */
#include "gateway/server/auth.h"

#include <string.h>

#include "gateway/server/server.h"

bool lorica_auth_role(enum lorica_role role, enum lorica_role needed) { return role >= needed; }

int lorica_auth_adapter(struct lorica_request *request, const char *name) {
    if (lorica_key_allows(&request->key, name))
        return 0;
    return lorica_request_fail(request, LORICA_EPERM, NULL, "adapter_not_allowed",
                               "the key \"%s\" may not use the adapter \"%s\"", request->key.name,
                               name);
}

static int find_key(struct lorica_request *request) {
    struct lorica_error err = {0};
    if (!request->has_bearer)
        return lorica_request_fail(request, LORICA_EAUTH, NULL, "invalid_api_key",
                                   "a key is required: send \"Authorization: Bearer KEY\"");
    const int rc = lorica_registry_key_find(request->server->parts.registry, request->bearer,
                                            strlen(request->bearer), &request->key, &err);
    explicit_bzero(request->bearer, sizeof(request->bearer));
    if (rc == LORICA_EAUTH)
        return lorica_request_fail(request, LORICA_EAUTH, NULL, "invalid_api_key",
                                   "the key is not valid, or was revoked");
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    request->keyed = true;
    return 0;
}

int lorica_auth_again(struct lorica_request *request) {
    struct lorica_key now;
    struct lorica_error err = {0};
    const int rc =
        lorica_registry_key(request->server->parts.registry, request->key.name, &now, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    if (now.revoked_ms != 0)
        return lorica_request_fail(request, LORICA_EAUTH, NULL, "invalid_api_key",
                                   "the key \"%s\" was revoked while the request was under way; "
                                   "nothing was changed",
                                   request->key.name);
    return 0;
}

int lorica_auth_check(struct lorica_request *request) {
    const struct lorica_route *route = request->match.route;
    int rc = find_key(request);
    if (rc != 0)
        return rc;
    if (!lorica_auth_role(request->key.role, route->role))
        return lorica_request_fail(request, LORICA_EPERM, NULL, "role_not_allowed",
                                   "the key \"%s\" has the role %s; this needs %s",
                                   request->key.name, lorica_role_name(request->key.role),
                                   lorica_role_name(route->role));
    if (strncmp(route->pattern, "/v1/adapters/{}", 15) == 0)
        return lorica_auth_adapter(request, request->match.params[0]);
    return 0;
}
