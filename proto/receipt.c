/* SPDX-License-Identifier: MIT */
#include "proto/receipt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/json.h"

#define TYPE "lorica.receipt.v1"

static const char *const endpoints[] = {
    [LORICA_OPENAI_CHAT] = "chat.completions", [LORICA_OPENAI_COMPLETION] = "completions"};

static void write_digest(struct lorica_jsonw *w, const char *key,
                         const struct lorica_digest *digest) {
    char text[LORICA_DIGEST_TEXT];
    lorica_jsonw_string(w, key, lorica_digest_format(digest, text));
}

static void write_unsigned(struct lorica_jsonw *w, const char *key, uint64_t number) {
    char text[24];
    const int len = snprintf(text, sizeof(text), "%" PRIu64, number);
    lorica_jsonw_raw(w, key, text, (size_t)len);
}

static void write_sampling(struct lorica_jsonw *w, const struct lorica_receipt *r) {
    lorica_jsonw_object(w, "sampling");
    lorica_jsonw_number(w, "temperature", r->temperature);
    lorica_jsonw_number(w, "top_p", r->top_p);
    lorica_jsonw_integer(w, "top_k", r->top_k);
    lorica_jsonw_number(w, "min_p", r->min_p);
    lorica_jsonw_number(w, "presence_penalty", r->presence_penalty);
    lorica_jsonw_number(w, "frequency_penalty", r->frequency_penalty);
    write_unsigned(w, "seed", r->seed);
    lorica_jsonw_integer(w, "max_tokens", r->max_tokens);
    lorica_jsonw_integer(w, "n", r->output_count);
    lorica_jsonw_bool(w, "ignore_eos", r->ignore_eos);
    lorica_jsonw_end_object(w);
}

int lorica_receipt_write(struct lorica_buf *out, const struct lorica_receipt *r) {
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "type", TYPE);
    lorica_jsonw_string(&w, "request_id", r->request_id);
    lorica_jsonw_integer(&w, "created", r->created);
    lorica_jsonw_string(&w, "endpoint", endpoints[r->endpoint]);
    lorica_jsonw_string(&w, "base", r->base);
    write_digest(&w, "base_digest", &r->base_digest);
    lorica_jsonw_string(&w, "adapter", r->adapter[0] ? r->adapter : NULL);
    if (r->adapter[0])
        write_digest(&w, "adapter_digest", &r->adapter_digest);
    else
        lorica_jsonw_null(&w, "adapter_digest");
    write_unsigned(&w, "audit_seq", r->audit_seq);
    write_digest(&w, "audit_hash", &r->audit_hash);
    write_digest(&w, "request_digest", &r->request_digest);
    write_digest(&w, "prompt_digest", &r->prompt_digest);
    write_digest(&w, "prompt_tokens_digest", &r->prompt_tokens_digest);
    lorica_jsonw_integer(&w, "prompt_tokens", r->prompt_tokens);
    write_sampling(&w, r);
    lorica_jsonw_array(&w, "outputs");
    for (uint32_t i = 0; i < r->output_count; i++) {
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_integer(&w, "index", i);
        write_digest(&w, "digest", &r->outputs[i].digest);
        lorica_jsonw_integer(&w, "tokens", r->outputs[i].tokens);
        lorica_jsonw_string(&w, "finish_reason", r->outputs[i].finish_reason);
        lorica_jsonw_end_object(&w);
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    return lorica_buf_status(out);
}

/* Reading. */

static int wrong(struct lorica_error *err, const char *what) {
    return lorica_fail(err, LORICA_EFORMAT, "the receipt: %s is not as it must be", what);
}

static int read_digest(const struct lorica_json *object, const char *key, struct lorica_digest *ret,
                       struct lorica_error *err) {
    const char *text = lorica_json_string(lorica_json_get(object, key));
    return text && lorica_digest_parse(text, strlen(text), ret) == 0 ? 0 : wrong(err, key);
}

static int read_text(const struct lorica_json *object, const char *key, size_t size, char *ret,
                     struct lorica_error *err) {
    const char *text = lorica_json_string(lorica_json_get(object, key));
    if (!text || strlen(text) >= size)
        return wrong(err, key);
    memcpy(ret, text, strlen(text) + 1);
    return 0;
}

static int read_count(const struct lorica_json *object, const char *key, int64_t max, int64_t *ret,
                      struct lorica_error *err) {
    return lorica_json_integer(lorica_json_get(object, key), 0, max, ret) == 0 ? 0
                                                                               : wrong(err, key);
}

static int read_outputs(const struct lorica_json *list, struct lorica_receipt *r,
                        struct lorica_error *err) {
    const size_t count = lorica_json_count(list);
    int rc = 0;
    if (lorica_json_type(list) != LORICA_JSON_ARRAY || count == 0 || count > LORICA_OPENAI_MAX_N)
        return wrong(err, "outputs");
    for (const struct lorica_json *o = lorica_json_first(list); o && !rc; o = lorica_json_next(o)) {
        struct lorica_receipt_output *output = &r->outputs[r->output_count];
        int64_t tokens = 0;
        rc = read_digest(o, "digest", &output->digest, err);
        if (!rc)
            rc = read_count(o, "tokens", INT32_MAX, &tokens, err);
        if (!rc)
            rc = read_text(o, "finish_reason", sizeof(output->finish_reason), output->finish_reason,
                           err);
        output->tokens = (uint32_t)tokens;
        r->output_count++;
    }
    return rc;
}

/* What answered. */
static int read_model(const struct lorica_json *root, struct lorica_receipt *r,
                      struct lorica_error *err) {
    int rc = read_text(root, "base", sizeof(r->base), r->base, err);
    if (!rc)
        rc = read_digest(root, "base_digest", &r->base_digest, err);
    if (rc || lorica_json_type(lorica_json_get(root, "adapter")) == LORICA_JSON_NULL)
        return rc;
    rc = read_text(root, "adapter", sizeof(r->adapter), r->adapter, err);
    return rc ? rc : read_digest(root, "adapter_digest", &r->adapter_digest, err);
}

static int read_receipt(const struct lorica_json *root, struct lorica_receipt *r,
                        struct lorica_error *err) {
    const char *type = lorica_json_string(lorica_json_get(root, "type"));
    const char *endpoint = lorica_json_string(lorica_json_get(root, "endpoint"));
    int64_t seq = 0, tokens = 0;
    if (!type || strcmp(type, TYPE) != 0)
        return wrong(err, "type");
    if (!endpoint || (strcmp(endpoint, endpoints[0]) != 0 && strcmp(endpoint, endpoints[1]) != 0))
        return wrong(err, "endpoint");
    r->endpoint =
        strcmp(endpoint, endpoints[0]) == 0 ? LORICA_OPENAI_CHAT : LORICA_OPENAI_COMPLETION;
    int rc = read_text(root, "request_id", sizeof(r->request_id), r->request_id, err);
    if (!rc)
        rc = read_count(root, "created", INT64_C(1) << 53, &r->created, err);
    if (!rc)
        rc = read_model(root, r, err);
    if (!rc)
        rc = read_count(root, "audit_seq", INT64_C(1) << 53, &seq, err);
    if (!rc)
        rc = read_digest(root, "audit_hash", &r->audit_hash, err);
    if (!rc)
        rc = read_digest(root, "request_digest", &r->request_digest, err);
    if (!rc)
        rc = read_digest(root, "prompt_digest", &r->prompt_digest, err);
    if (!rc)
        rc = read_digest(root, "prompt_tokens_digest", &r->prompt_tokens_digest, err);
    if (!rc)
        rc = read_count(root, "prompt_tokens", INT32_MAX, &tokens, err);
    r->audit_seq = (uint64_t)seq;
    r->prompt_tokens = (uint32_t)tokens;
    return rc ? rc : read_outputs(lorica_json_get(root, "outputs"), r, err);
}

int lorica_receipt_parse(const char *text, size_t len, struct lorica_receipt *ret,
                         struct lorica_error *err) {
    struct lorica_json *root = NULL;
    int rc = lorica_json_parse(text, len, &root, err);
    memset(ret, 0, sizeof(*ret));
    if (!rc)
        rc = read_receipt(root, ret, err);
    lorica_json_destroy(root);
    return rc;
}
