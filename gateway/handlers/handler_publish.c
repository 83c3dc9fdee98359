/* SPDX-License-Identifier: MIT
 * POST /v1/adapters/{name}/versions: the adapter is judged against the base on a worker, then
 * stored by the writer. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/handlers/api.h"
#include "gateway/server/auth.h"
#include "gateway/files.h"
#include "gateway/handlers/checks.h"
#include "gateway/handlers/handlers.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/server/server.h"
#include "gateway/server/upload.h"
#include "proto/peft.h"
#include "registry/digest.h"
#include "registry/sign.h"

const struct lorica_upload_form lorica_publish_form = {
    .parts =
        {
            {"config", LORICA_UPLOAD_PART_MAX, .required = true},
            {"weights", .file = true, .required = true},
            {"manifest", LORICA_UPLOAD_PART_MAX},
            {"channel", LORICA_CHANNEL_MAX},
            {"message", LORICA_MESSAGE_MAX},
            {"signature", LORICA_SIGNATURE_BYTES_MAX},
            {"weights_digest", LORICA_DIGEST_TEXT},
            {"trained_on_other_base", 8},
        },
    .note = "config is an adapter_config.json, weights an adapter_model.safetensors",
    .limit_name = "upload-limit-mb",
    .limit_mb = offsetof(struct lorica_config, upload_limit_mb),
};

/* Between the two halves. */
struct publish {
    struct lorica_buf canonical;
    struct lorica_adapter *adapter; /* as it will answer */
    bool base_stated, other_base;
    struct lorica_digest trained_digest;
    const char *channel, *message; /* borrowed from the upload */
};

static void finish(struct lorica_request *request) {
    struct publish *publish = request->state;
    lorica_buf_finish(&publish->canonical);
    (void)lorica_adapter_unref(publish->adapter);
    free(publish);
}

static int fail_err(struct lorica_request *request, int rc, const char *param,
                    const struct lorica_error *err) {
    if (rc == LORICA_ESIGNATURE)
        return lorica_request_fail(request, rc, "signature", "invalid_signature", "%s", err->text);
    return lorica_request_fail(request, rc, param, rc == LORICA_EGATE ? "policy_not_met" : NULL,
                               "%s", err->text);
}

/* Name, channel, message: what can be judged without the adapter. */
static int judge_words(struct lorica_request *request, struct publish *publish) {
    size_t len = 0;
    const char *name = request->match.params[0];
    if (!lorica_name_valid(name))
        return lorica_request_fail(request, LORICA_EINVAL, NULL, NULL,
                                   "\"%.140s\" is no name for an adapter: [a-z0-9][a-z0-9._-]*, at "
                                   "most %d characters, not \"base\"",
                                   name, LORICA_NAME_MAX);
    if (strcmp(name, request->server->parts.base->name) == 0)
        return lorica_request_fail(request, LORICA_ECONFLICT, NULL, NULL,
                                   "\"%s\" is the name of the base model", name);
    publish->message = lorica_upload_text(request->upload, "message", &len);
    publish->channel = lorica_upload_text(request->upload, "channel", &len);
    if (publish->channel && !lorica_channel_valid(publish->channel))
        return lorica_request_fail(request, LORICA_EINVAL, "channel", NULL,
                                   "\"%.70s\" is no name for a channel", publish->channel);
    if (publish->channel && strcmp(publish->channel, LORICA_CHANNEL_STABLE) == 0 &&
        !lorica_auth_role(request->key.role, LORICA_ROLE_OPS))
        return lorica_request_fail(request, LORICA_EPERM, "channel", "role_not_allowed",
                                   "only a key with the role ops may publish to stable; publish "
                                   "without it and have the version promoted");
    return 0;
}

/* What the client says that the weights are must be what came. */
static int judge_digest(struct lorica_request *request) {
    const struct lorica_digest *came = lorica_upload_digest(request->upload);
    struct lorica_digest stated;
    char text[LORICA_DIGEST_TEXT];
    size_t len = 0;
    const char *given = lorica_upload_text(request->upload, "weights_digest", &len);
    if (!given)
        return 0;
    if (lorica_digest_parse(given, len, &stated) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, "weights_digest", NULL,
                                   "weights_digest must be sha256: and 64 hex digits");
    if (lorica_digest_equal(&stated, came))
        return 0;
    return lorica_request_fail(request, LORICA_EFORMAT, "weights_digest", "digest_mismatch",
                               "the weights came with the digest %s, not with the one that "
                               "weights_digest says; send them again",
                               lorica_digest_format(came, text));
}

/* Reads the statement that the adapter was trained on another base. */
static int judge_statement(struct lorica_request *request, struct publish *publish) {
    size_t len = 0;
    const char *text = lorica_upload_text(request->upload, "trained_on_other_base", &len);
    publish->other_base = text && strcmp(text, "true") == 0;
    if (!text || publish->other_base || strcmp(text, "false") == 0)
        return 0;
    return lorica_request_fail(request, LORICA_EINVAL, "trained_on_other_base", NULL,
                               "trained_on_other_base must be true or false");
}

/* An adapter that says which base it was trained on must mean this one, unless its publisher states
 * that it is another. */
static int judge_base(struct lorica_request *request, const struct lorica_peft_config *config,
                      struct publish *publish) {
    struct lorica_digest digest;
    publish->base_stated = !config->base_digest;
    if (!config->base_digest)
        return 0;
    if (lorica_digest_parse(config->base_digest, strlen(config->base_digest), &digest) != 0)
        return lorica_request_fail(request, LORICA_EFORMAT, "config", NULL,
                                   "lorica_base_digest is no digest");
    const bool same = lorica_digest_equal(&digest, &request->server->parts.base->digest);
    if (same && publish->other_base)
        return lorica_request_fail(request, LORICA_EINVAL, "trained_on_other_base", NULL,
                                   "the adapter's config says that it was trained on this "
                                   "server's base; publish it without trained_on_other_base");
    if (!same && !publish->other_base)
        return lorica_request_fail(request, LORICA_ECONFLICT, "config", "other_base",
                                   "the adapter was trained on the base %s; this server's base is "
                                   "%s (%s). To serve it all the same, state "
                                   "trained_on_other_base (--trained-on-other-base)",
                                   config->base_digest, request->server->parts.base->name,
                                   request->server->base_digest);
    if (!same)
        publish->trained_digest = digest;
    return 0;
}

/* Builds the adapter from the mapped file: whatever does not fit is refused here. */
static int judge_weights(struct lorica_request *request, const char *config, size_t config_len,
                         struct publish *publish) {
    struct lorica_error err = {0};
    struct lorica_adapter *adapter = NULL;
    struct stat st;
    const int fd = open(lorica_upload_file(request->upload), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            (void)close(fd);
        return lorica_request_fail(request, LORICA_EIO, NULL, NULL,
                                   "the upload could not be read back");
    }
    void *bytes =
        st.st_size > 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    (void)close(fd);
    if (bytes == MAP_FAILED)
        return lorica_request_fail(request, st.st_size > 0 ? LORICA_ENOMEM : LORICA_EFORMAT,
                                   "weights", NULL,
                                   st.st_size > 0 ? "out of memory" : "the weights are empty");
    struct lorica_sparing sparing = {.server = request->server};
    const int rc = lorica_adapter_create_sparing(
        &request->server->parts.base->arch, LORICA_ADAPTER_FAST, config, config_len, bytes,
        (size_t)st.st_size, lorica_server_spare, &sparing, &adapter, &err);
    (void)munmap(bytes, (size_t)st.st_size);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, "invalid_adapter", "%s", err.text);
    const bool effect = lorica_adapter_has_effect(adapter);
    publish->adapter = adapter;
    if (!effect)
        return lorica_request_fail(request, LORICA_EFORMAT, "weights", "invalid_adapter",
                                   "the adapter has no effect on the base: every product of its B "
                                   "and A is 0, as before any training; publish it once trained");
    return 0;
}

static int judge_config(struct lorica_request *request, struct publish *publish) {
    struct lorica_error err = {0};
    struct lorica_peft_config config = {0};
    size_t len = 0;
    const char *text = lorica_upload_text(request->upload, "config", &len);
    int rc = lorica_peft_parse(text, len, &config, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, "config", "invalid_adapter", "%s", err.text);
    rc = judge_base(request, &config, publish);
    if (rc == 0 && lorica_peft_canonical(&publish->canonical, &config) != 0)
        rc = lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    lorica_peft_finish(&config);
    if (rc == 0)
        rc = judge_weights(request, text, len, publish);
    return rc;
}

/* Extra facts must be one JSON object: they are shown later as they stand. */
static int judge_manifest(struct lorica_request *request) {
    struct lorica_error err = {0};
    struct lorica_json *root = NULL;
    size_t len = 0;
    const char *text = lorica_upload_text(request->upload, "manifest", &len);
    if (!text)
        return 0;
    const int rc = lorica_json_parse(text, len, &root, &err);
    if (rc != 0)
        return fail_err(request, rc, "manifest", &err);
    const bool object = lorica_json_type(root) == LORICA_JSON_OBJECT;
    lorica_json_destroy(root);
    return object ? 0
                  : lorica_request_fail(request, LORICA_EINVAL, "manifest", NULL,
                                        "the manifest must be a JSON object");
}

/* The channel's checks, for what this upload will be when it is a version. */
static int prepare_checks(struct lorica_request *request, struct publish *publish) {
    struct lorica_digest canonical, weights, content;
    struct lorica_error err = {0};
    int rc = lorica_file_digest(lorica_upload_file(request->upload), &weights, &err);
    if (rc == 0)
        rc = lorica_sha256(publish->canonical.data, publish->canonical.len, &canonical);
    if (rc == 0)
        rc = lorica_version_digest(&canonical, &weights, &content);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "the upload cannot be digested");
    publish->adapter->digest = content; /* the engine tells adapters apart by it */
    return lorica_checks_prepare(request, request->match.params[0], publish->channel, &content,
                                 publish->adapter);
}

int lorica_handle_publish_check(struct lorica_request *request) {
    struct publish *publish = calloc(1, sizeof(*publish));
    if (!publish)
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    lorica_buf_init(&publish->canonical, LORICA_UPLOAD_PART_MAX);
    request->state = publish;
    request->finish = finish;
    int rc = judge_words(request, publish);
    if (rc == 0)
        rc = judge_digest(request);
    if (rc == 0)
        rc = judge_statement(request, publish);
    if (rc == 0)
        rc = judge_manifest(request);
    if (rc == 0)
        rc = judge_config(request, publish);
    if (rc == 0 && publish->channel)
        rc = prepare_checks(request, publish);
    return rc;
}

int lorica_handle_publish_write(struct lorica_request *request) {
    const struct publish *publish = request->state;
    const struct lorica_actor actor = {.key_name = request->key.name,
                                       .message = publish->message,
                                       .role = request->key.role,
                                       .checked = lorica_checks_found(request)};
    struct lorica_publish order = {
        .name = request->match.params[0],
        .canonical = publish->canonical.data,
        .canonical_len = publish->canonical.len,
        .weights_path = lorica_upload_file(request->upload),
        .weights_digest = lorica_upload_digest(request->upload),
        .weights_seal = lorica_upload_seal(request->upload),
        .base_digest = request->server->parts.base->digest,
        .base_stated = publish->base_stated,
        .other_base = publish->other_base,
        .trained_digest = publish->trained_digest,
        .rank = publish->adapter->max_rank,
        .channel = publish->channel,
        .give_way = lorica_server_let_in,
        .give_way_arg = request->server,
    };
    struct lorica_version version;
    struct lorica_error err = {0};
    bool existing = false;
    char location[LORICA_NAME_MAX + 64];
    order.config = lorica_upload_text(request->upload, "config", &order.config_len);
    order.manifest = lorica_upload_text(request->upload, "manifest", &order.manifest_len);
    order.signature = lorica_upload_text(request->upload, "signature", &order.signature_len);
    if (order.signature && order.signature_len == 0)
        return lorica_request_fail(request, LORICA_EINVAL, "signature", "invalid_signature",
                                   "the part \"signature\" is empty");
    const int rc = lorica_registry_publish(request->server->parts.registry, &order, &actor,
                                           &version, &existing, &err);
    if (rc != 0)
        return fail_err(request, rc, NULL, &err);
    publish->adapter->digest = version.digest;
    lorica_adapter_cache_offer(request->server->parts.adapters, publish->adapter);
    (void)snprintf(location, sizeof(location), "/v1/adapters/%s/versions/%llu", version.name,
                   (unsigned long long)version.version);
    lorica_request_header(request, "location", location);
    (void)snprintf(request->adapter, sizeof(request->adapter), "%s@%llu", version.name,
                   (unsigned long long)version.version);
    struct lorica_jsonw w = lorica_request_json(request, existing ? 200 : 201);
    lorica_api_write_version(&w, NULL, &version);
    return 0;
}
