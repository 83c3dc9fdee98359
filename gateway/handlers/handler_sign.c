/* SPDX-License-Identifier: MIT
 * Signatures of versions, and the keys that are trusted to make them. */
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "registry/sign.h"

static struct lorica_registry *registry_of(struct lorica_request *request) {
    return request->server->parts.registry;
}

static int fail_err(struct lorica_request *request, int rc, const struct lorica_error *err) {
    return lorica_request_fail(request, rc, NULL, NULL, "%s", err->text);
}

static void write_digest(struct lorica_jsonw *w, const char *key,
                         const struct lorica_digest *digest) {
    char text[LORICA_DIGEST_TEXT];
    lorica_jsonw_string(w, key, lorica_digest_format(digest, text));
}

static int write_signature(void *arg, const struct lorica_signature *signature) {
    struct lorica_jsonw *w = arg;
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "object", "adapter.signature");
    write_digest(w, "key_id", &signature->key_id);
    lorica_jsonw_string(w, "form", lorica_signature_form_name(signature->form));
    lorica_jsonw_bool(w, "bound", signature->bound);
    lorica_jsonw_string(w, "signer", signature->signer[0] ? signature->signer : NULL);
    lorica_jsonw_bool(w, "trusted", signature->signer[0] != '\0');
    lorica_jsonw_integer(w, "added", signature->added_ms / 1000);
    lorica_jsonw_string(w, "added_by", signature->added_by);
    lorica_jsonw_raw(w, "signature", signature->text, signature->text_len);
    lorica_jsonw_end_object(w);
    return 0;
}

int lorica_handle_signatures(struct lorica_request *request) {
    struct lorica_version version;
    struct lorica_error err = {0};
    uint64_t number = 0;
    int rc = lorica_handler_version_number(request, &number);
    if (rc != 0)
        return rc;
    rc = lorica_registry_version(registry_of(request), request->match.params[0], number, &version,
                                 &err);
    if (rc != 0)
        return fail_err(request, rc, &err);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_open_list(&w);
    rc = lorica_registry_signatures(registry_of(request), version.name, number, write_signature, &w,
                                    &err);
    lorica_api_close_list(&w, false);
    return rc == 0 ? 0 : fail_err(request, rc, &err);
}

int lorica_handle_receipt_key(struct lorica_request *request) {
    const struct lorica_signkey *key = request->server->parts.receipt_key;
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "receipt.key");
    write_digest(&w, "key_id", lorica_signkey_id(key));
    lorica_jsonw_string(&w, "algorithm", lorica_signkey_algorithm(key));
    lorica_jsonw_string(&w, "public_key", lorica_signkey_public_pem(key));
    lorica_jsonw_end_object(&w);
    return 0;
}

static int write_signer(void *arg, const struct lorica_signer *signer) {
    struct lorica_jsonw *w = arg;
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "object", "signer");
    lorica_jsonw_string(w, "name", signer->name);
    write_digest(w, "key_id", &signer->key_id);
    lorica_jsonw_string(w, "algorithm", signer->algorithm);
    lorica_jsonw_string(w, "public_key", signer->public_pem);
    lorica_jsonw_integer(w, "added", signer->added_ms / 1000);
    lorica_jsonw_string(w, "added_by", signer->added_by);
    if (signer->removed_ms)
        lorica_jsonw_integer(w, "removed", signer->removed_ms / 1000);
    else
        lorica_jsonw_null(w, "removed");
    lorica_jsonw_string(w, "removed_by", signer->removed_ms ? signer->removed_by : NULL);
    lorica_jsonw_end_object(w);
    return 0;
}

int lorica_handle_signers(struct lorica_request *request) {
    struct lorica_error err = {0};
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_open_list(&w);
    const int rc = lorica_registry_signers(registry_of(request), write_signer, &w, &err);
    lorica_api_close_list(&w, false);
    return rc == 0 ? 0 : fail_err(request, rc, &err);
}

/* Whom to trust concerns every adapter. */
static int whole_admin(struct lorica_request *request) {
    if (request->key.glob_count == 0)
        return 0;
    return lorica_request_fail(request, LORICA_EPERM, NULL, "adapter_not_allowed",
                               "the key \"%s\" is held to some adapters and may not say who is "
                               "trusted",
                               request->key.name);
}

int lorica_handle_signer_add(struct lorica_request *request) {
    static const char *const members[] = {"name", "public_key", "message", NULL};
    struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_signer signer;
    const struct lorica_json *root = NULL;
    struct lorica_error err = {0};
    int rc = whole_admin(request);
    if (rc == 0)
        rc = lorica_handler_body(request, members, "message", &actor.message, &root);
    if (rc != 0)
        return rc;
    const char *name = lorica_json_string(lorica_json_get(root, "name"));
    const char *pem = lorica_json_string(lorica_json_get(root, "public_key"));
    if (!name)
        return lorica_request_fail(request, LORICA_EINVAL, "name", NULL, "name must be text");
    if (!pem)
        return lorica_request_fail(request, LORICA_EINVAL, "public_key", NULL,
                                   "public_key must be a public key in PEM");
    rc = lorica_registry_signer_add(registry_of(request), name, pem, strlen(pem), &actor, &signer,
                                    &err);
    if (rc != 0)
        return lorica_request_fail(request, rc,
                                   rc == LORICA_EINVAL ? "name"
                                   : rc == LORICA_EFORMAT || rc == LORICA_EUNSUPPORTED
                                       ? "public_key"
                                       : NULL,
                                   NULL, "%s", err.text);
    struct lorica_jsonw w = lorica_request_json(request, 201);
    return write_signer(&w, &signer);
}

int lorica_handle_signer_remove(struct lorica_request *request) {
    const struct lorica_actor actor = {.key_name = request->key.name, .role = request->key.role};
    struct lorica_signer signer;
    struct lorica_error err = {0};
    int rc = whole_admin(request);
    if (rc != 0)
        return rc;
    rc = lorica_registry_signer_remove(registry_of(request), request->match.params[0], &actor,
                                       &signer, &err);
    if (rc != 0)
        return fail_err(request, rc, &err);
    struct lorica_jsonw w = lorica_request_json(request, 200);
    return write_signer(&w, &signer);
}
