/* SPDX-License-Identifier: MIT */
#include "gateway/server/receipts.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/files.h"
#include "gateway/handlers/generate.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/server/server.h"
#include "proto/receipt.h"
#include "registry/digest.h"

#define PAYLOAD_MAX 8192

struct lorica_receipting {
    struct lorica_receipt receipt;
    void *streams[LORICA_OPENAI_MAX_N]; /* SHA-256 of each choice's text */
    bool failed;
};

/* The key. */

/* Keeps the public half of a key that is not in use any more: its receipts are still checked. */
static int keep_public(const char *dir, const char *path, const char *pem, size_t len,
                       struct lorica_error *err) {
    struct lorica_digest id;
    char text[LORICA_DIGEST_TEXT], name[64];
    if (lorica_sha256(pem, len, &id) != 0)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    (void)snprintf(name, sizeof(name), "receipt-%.16s.pub",
                   strchr(lorica_digest_format(&id, text), ':') + 1);
    char *kept = lorica_path_join(dir, name);
    int rc = kept ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (!rc && rename(path, kept) != 0)
        rc = lorica_fail_errno(err, kept, "the public key of before cannot be kept there");
    free(kept);
    return rc;
}

/* Makes DIR/receipt.pub the key's public half, unless it is. */
static int put_public(const char *dir, const char *path, const struct lorica_signkey *key,
                      struct lorica_error *err) {
    const char *pem = lorica_signkey_public_pem(key);
    char *there = NULL;
    size_t len = 0;
    int rc = lorica_path_exists(path) ? lorica_file_read(path, LORICA_PEM_MAX, &there, &len, err)
                                      : LORICA_ENOTFOUND;
    const bool same = !rc && len == strlen(pem) && memcmp(there, pem, len) == 0;
    if (!rc && !same)
        rc = keep_public(dir, path, there, len, err);
    if (rc == LORICA_ENOTFOUND)
        rc = 0;
    if (!rc && !same)
        rc = lorica_file_replace(path, pem, strlen(pem), 0644, err);
    free(there);
    return rc;
}

static int make_key(const char *path, struct lorica_signkey **ret, struct lorica_error *err) {
    struct lorica_signkey *key = NULL;
    struct lorica_buf pem;
    int rc = lorica_signkey_generate(&key, err);
    if (rc)
        return rc;
    lorica_buf_init(&pem, LORICA_PEM_MAX);
    rc = lorica_signkey_write_private(key, &pem, err);
    if (!rc)
        rc = lorica_file_replace(path, pem.data, pem.len, 0600, err);
    if (pem.data)
        explicit_bzero(pem.data, pem.len);
    lorica_buf_finish(&pem);
    if (rc)
        lorica_signkey_destroy(key);
    else
        *ret = key;
    return rc;
}

int lorica_receipt_key_open(const char *dir, struct lorica_signkey **ret, bool *ret_made,
                            struct lorica_error *err) {
    char *path = lorica_path_join(dir, "receipt.key"), *pub = lorica_path_join(dir, "receipt.pub");
    struct lorica_signkey *key = NULL;
    int rc = path && pub ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    *ret_made = !rc && !lorica_path_exists(path);
    if (!rc)
        rc = *ret_made ? make_key(path, &key, err) : lorica_key_file_private(path, &key, err);
    if (!rc && !lorica_signkey_is_ed25519(key))
        rc = lorica_fail(err, LORICA_EUNSUPPORTED, "%s is no Ed25519 key", path);
    if (!rc)
        rc = lorica_signkey_try(key, err);
    if (!rc)
        rc = put_public(dir, pub, key, err);
    if (rc)
        lorica_signkey_destroy(key);
    else
        *ret = key;
    free(path);
    free(pub);
    return rc;
}

/* One receipt. */

void lorica_receipt_free(struct lorica_receipting *receipting) {
    for (size_t i = 0; receipting && i < LORICA_OPENAI_MAX_N; i++)
        if (receipting->streams[i])
            (void)lorica_sha256_hasher.finish(receipting->streams[i], NULL);
    free(receipting);
}

static int digest_ids(const struct lorica_tokens *tokens, struct lorica_digest *ret) {
    void *stream = lorica_sha256_hasher.create();
    int rc = stream ? 0 : LORICA_ENOMEM;
    for (size_t i = 0; i < tokens->count && !rc; i++) {
        const uint32_t id = (uint32_t)tokens->ids[i];
        const uint8_t bytes[4] = {(uint8_t)(id >> 24), (uint8_t)(id >> 16), (uint8_t)(id >> 8),
                                  (uint8_t)id};
        rc = lorica_sha256_hasher.update(stream, bytes, sizeof(bytes));
    }
    const int ended = stream ? lorica_sha256_hasher.finish(stream, rc ? NULL : ret) : 0;
    return rc ? rc : ended;
}

/* What is known before the first token. */
static int fill(const struct lorica_generation *g, const char *prompt, size_t len,
                struct lorica_receipt *r, struct lorica_error *err) {
    const struct lorica_request *request = g->request;
    const struct lorica_base *base = request->server->parts.base;
    const struct lorica_openai_request *o = &g->options;
    *r = (struct lorica_receipt){.endpoint = o->endpoint,
                                 .base_digest = base->digest,
                                 .adapter_digest = g->model.version.digest,
                                 .prompt_tokens = (uint32_t)g->prompt.count,
                                 .temperature = o->temperature,
                                 .top_p = o->top_p,
                                 .min_p = o->min_p,
                                 .presence_penalty = o->presence_penalty,
                                 .frequency_penalty = o->frequency_penalty,
                                 .top_k = o->top_k,
                                 .max_tokens = g->max_tokens,
                                 .seed = o->seed,
                                 .ignore_eos = o->ignore_eos,
                                 .output_count = o->n};
    (void)snprintf(r->request_id, sizeof(r->request_id), "%s", request->id);
    (void)snprintf(r->base, sizeof(r->base), "%s", base->name);
    if (!g->model.is_base)
        (void)snprintf(r->adapter, sizeof(r->adapter), "%s", request->adapter);
    int rc = lorica_registry_audit_head(request->server->parts.registry, &r->audit_seq,
                                        &r->audit_hash, err);
    if (!rc && (lorica_sha256(request->body.data ? request->body.data : "", request->body.len,
                              &r->request_digest) ||
                lorica_sha256(prompt, len, &r->prompt_digest) ||
                digest_ids(&g->prompt, &r->prompt_tokens_digest)))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    return rc;
}

int lorica_receipt_begin(struct lorica_generation *g, const char *prompt, size_t len) {
    struct lorica_error err = {0};
    struct lorica_receipting *receipting = calloc(1, sizeof(*receipting));
    int rc = receipting ? fill(g, prompt, len, &receipting->receipt, &err)
                        : lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < g->options.n && !rc; i++)
        if (!(receipting->streams[i] = lorica_sha256_hasher.create()))
            rc = lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    if (rc) {
        lorica_receipt_free(receipting);
        return lorica_request_fail(g->request, rc, NULL, NULL, "%s", err.text);
    }
    g->receipting = receipting;
    return 0;
}

void lorica_receipt_piece(struct lorica_receipting *receipting, uint32_t choice, const char *text,
                          size_t len) {
    if (receipting && len > 0 &&
        lorica_sha256_hasher.update(receipting->streams[choice], text, len) != 0)
        receipting->failed = true;
}

static int end_outputs(struct lorica_generation *g, struct lorica_receipt *r) {
    int rc = 0;
    for (uint32_t i = 0; i < g->options.n; i++) {
        void *stream = g->receipting->streams[i];
        g->receipting->streams[i] = NULL;
        if (lorica_sha256_hasher.finish(stream, &r->outputs[i].digest) != 0)
            rc = LORICA_EBUG;
        r->outputs[i].tokens = g->choices[i].completion_tokens;
        (void)snprintf(r->outputs[i].finish_reason, sizeof(r->outputs[i].finish_reason), "%s",
                       g->choices[i].finish == LORICA_FINISH_STOP ? "stop" : "length");
    }
    return g->receipting->failed ? LORICA_EBUG : rc;
}

int lorica_receipt_end(struct lorica_generation *g, struct lorica_buf *out) {
    struct lorica_receipt *r = &g->receipting->receipt;
    struct lorica_envelope envelope = {0};
    struct lorica_error err = {0};
    struct lorica_buf payload;
    lorica_buf_init(&payload, PAYLOAD_MAX);
    r->created = (int64_t)time(NULL);
    int rc = end_outputs(g, r);
    if (!rc)
        rc = lorica_receipt_write(&payload, r);
    if (!rc)
        rc = lorica_signkey_sign(g->request->server->parts.receipt_key, LORICA_PAYLOAD_RECEIPT,
                                 payload.data, payload.len, false, &envelope, &err);
    lorica_buf_finish(&payload);
    if (!rc) {
        struct lorica_jsonw w = {.out = out};
        lorica_envelope_write(&w, NULL, &envelope);
        rc = lorica_buf_status(out);
    }
    lorica_envelope_finish(&envelope);
    if (rc)
        return lorica_request_fail(g->request, rc == LORICA_ENOMEM ? rc : LORICA_EBUG, NULL, NULL,
                                   "the answer was made, and its receipt could not be: %s",
                                   err.text[0] ? err.text : lorica_err_text(rc));
    return 0;
}
