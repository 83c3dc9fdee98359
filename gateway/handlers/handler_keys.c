/* SPDX-License-Identifier: MIT
 * API keys: list, make, revoke. */
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"

/* A key that is held to some adapters could otherwise make itself one that is not. */
static int whole_admin(struct lorica_request *request) {
    if (request->key.glob_count == 0)
        return 0;
    return lorica_request_fail(request, LORICA_EPERM, NULL, "adapter_not_allowed",
                               "the key \"%s\" is held to some adapters and may not manage keys",
                               request->key.name);
}

static int write_key(void *arg, const struct lorica_key *key) {
    lorica_api_write_key(arg, NULL, key, NULL);
    return 0;
}

int lorica_handle_keys(struct lorica_request *request) {
    struct lorica_error err = {0};
    int rc = whole_admin(request);
    if (rc != 0)
        return rc;
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_open_list(&w);
    rc = lorica_registry_keys(request->server->parts.registry, write_key, &w, &err);
    lorica_api_close_list(&w, false);
    return rc == 0 ? 0 : lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
}

static int read_globs(struct lorica_request *request, const struct lorica_json *value,
                      struct lorica_key *key) {
    if (lorica_json_type(value) == LORICA_JSON_NULL)
        return 0;
    if (lorica_json_type(value) != LORICA_JSON_ARRAY || lorica_json_count(value) > LORICA_KEY_GLOBS)
        return lorica_request_fail(request, LORICA_EINVAL, "adapters", NULL,
                                   "adapters must be a list of at most %d patterns",
                                   LORICA_KEY_GLOBS);
    for (const struct lorica_json *v = lorica_json_first(value); v; v = lorica_json_next(v)) {
        const char *glob = lorica_json_string(v);
        if (!glob || glob[0] == '\0' || strlen(glob) > LORICA_NAME_MAX)
            return lorica_request_fail(request, LORICA_EINVAL, "adapters", NULL,
                                       "each of adapters must be a pattern of 1 to %d characters",
                                       LORICA_NAME_MAX);
        memcpy(key->globs[key->glob_count++], glob, strlen(glob) + 1);
    }
    return 0;
}

static int read_key(struct lorica_request *request, const struct lorica_json *root,
                    struct lorica_key *key) {
    static const char *const members[] = {"name", "role", "adapters", NULL};
    const int rc = lorica_request_only(request, root, members);
    if (rc != 0)
        return rc;
    const char *name = lorica_json_string(lorica_json_get(root, "name"));
    const char *word = lorica_json_string(lorica_json_get(root, "role"));
    const int role = word ? lorica_role_parse(word) : -1;
    if (!name || name[0] == '\0' || strlen(name) > LORICA_NAME_MAX)
        return lorica_request_fail(request, LORICA_EINVAL, "name", NULL,
                                   "name must be text of 1 to %d characters", LORICA_NAME_MAX);
    if (role < 0)
        return lorica_request_fail(request, LORICA_EINVAL, "role", NULL,
                                   "role must be infer, publish, ops or admin");
    memcpy(key->name, name, strlen(name) + 1);
    key->role = (enum lorica_role)role;
    return read_globs(request, lorica_json_get(root, "adapters"), key);
}

/* Reads a key back, for the times that the registry gave it. */
static int say_key(struct lorica_request *request, int status, const char *name, const char *text) {
    struct lorica_error err = {0};
    struct lorica_key key;
    const int rc = lorica_registry_key(request->server->parts.registry, name, &key, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    struct lorica_jsonw w = lorica_request_json(request, status);
    lorica_api_write_key(&w, NULL, &key, text);
    return 0;
}

int lorica_handle_key_create(struct lorica_request *request) {
    const struct lorica_actor actor = {.key_name = request->key.name};
    const struct lorica_json *root = NULL;
    struct lorica_key key = {0};
    struct lorica_error err = {0};
    char text[LORICA_KEY_TEXT] = "";
    int rc = whole_admin(request);
    if (rc == 0)
        rc = lorica_request_parse(request, &root);
    if (rc == 0)
        rc = read_key(request, root, &key);
    if (rc != 0)
        return rc;
    rc = lorica_registry_key_create(request->server->parts.registry, &key, &actor, text, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, rc == LORICA_EINVAL ? "name" : NULL, NULL, "%s",
                                   err.text);
    rc = say_key(request, 201, key.name, text);
    explicit_bzero(text, sizeof(text));
    return rc;
}

int lorica_handle_key_revoke(struct lorica_request *request) {
    const struct lorica_actor actor = {.key_name = request->key.name};
    struct lorica_error err = {0};
    int rc = whole_admin(request);
    if (rc != 0)
        return rc;
    rc = lorica_registry_key_revoke(request->server->parts.registry, request->match.params[0],
                                    &actor, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    return say_key(request, 200, request->match.params[0], NULL);
}
