/* SPDX-License-Identifier: MIT
 * POST /v1/chat/completions and /v1/completions, the first half, on a worker: what is asked, which
 * adapter answers, and the prompt's tokens. generate.c does the rest. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/handlers/generate.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "registry/digest.h"

static int parse(struct lorica_request *request, struct lorica_generation *g,
                 enum lorica_openai_endpoint endpoint) {
    struct lorica_openai_fault fault = {.err = {0}};
    const int rc = lorica_openai_parse(endpoint, request->body.data ? request->body.data : "",
                                       request->body.len, &g->options, &fault);
    if (rc == 0)
        return 0;
    if (rc != LORICA_ENOMEM)
        request->error_status = 400;
    return lorica_request_fail(request, rc, fault.param, fault.code, "%s", fault.err.text);
}

static int load_adapter(struct lorica_request *request, const struct lorica_version *version,
                        struct lorica_adapter **ret) {
    const struct lorica_server_parts *parts = &request->server->parts;
    struct lorica_error err = {0};
    char *config = NULL;
    void *weights = NULL;
    size_t config_len = 0, weights_len = 0;
    struct lorica_adapter *adapter = NULL;
    int rc = lorica_registry_config(parts->registry, version, &config, &config_len, &err);
    if (rc == 0)
        rc = lorica_registry_weights(parts->registry, version, &weights, &weights_len, &err);
    if (rc == 0)
        rc = lorica_adapter_create(&parts->base->arch, LORICA_ADAPTER_FAST, config, config_len,
                                   weights, weights_len, &adapter, &err);
    free(config);
    free(weights);
    if (rc != 0) /* it was judged at publish: the fault is not the client's */
        return lorica_request_fail(request, rc == LORICA_ENOMEM ? rc : LORICA_EBUG, NULL, NULL,
                                   "%s@%llu could not be loaded: %s", version->name,
                                   (unsigned long long)version->version, err.text);
    adapter->digest = version->digest;
    *ret = adapter;
    return 0;
}

int lorica_handler_adapter(struct lorica_request *request, const struct lorica_version *version,
                           struct lorica_adapter **ret) {
    struct lorica_adapter_cache *cache = request->server->parts.adapters;
    *ret = lorica_adapter_cache_claim(cache, &version->digest);
    if (*ret)
        return 0;
    const int rc = load_adapter(request, version, ret);
    lorica_adapter_cache_settle(cache, &version->digest, *ret);
    return rc;
}

/* Which adapter answers is decided here, once; reference and pin hold to the end of the answer. */
static int choose_adapter(struct lorica_request *request, struct lorica_generation *g) {
    struct lorica_pins *pins = &request->server->pins;
    lorica_pins_lock(pins);
    const int rc = lorica_model_resolve(request, g->options.model, g->options.user, &g->model);
    if (rc == 0 && !g->model.is_base)
        lorica_pins_hold(pins, &g->pin, &g->model.version);
    lorica_pins_unlock(pins);
    if (rc != 0 || g->model.is_base)
        return rc;
    return lorica_handler_adapter(request, &g->model.version, &g->adapter);
}

/* The prompt as text is made for a receipt only. */
static int render_chat(struct lorica_request *request, struct lorica_generation *g,
                       struct lorica_buf *text) {
    const struct lorica_server_parts *parts = &request->server->parts;
    const size_t count = g->options.message_count;
    struct lorica_error err = {0};
    struct lorica_chat_message *messages = calloc(count, sizeof(*messages));
    if (!messages)
        return lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    for (size_t i = 0; i < count; i++)
        messages[i] = (struct lorica_chat_message){.role = g->options.messages[i].role,
                                                   .content = g->options.messages[i].content};
    const int rc = lorica_chat_render(parts->chat, parts->tokenizer, messages, count, true,
                                      &g->prompt, text, NULL, &err);
    free(messages);
    return rc == 0 ? 0 : lorica_request_fail(request, rc, "messages", NULL, "%s", err.text);
}

/* "[1,2,3]" */
static int write_ids(struct lorica_buf *text, const int32_t *ids, size_t count) {
    struct lorica_jsonw w = {.out = text};
    lorica_jsonw_array(&w, NULL);
    for (size_t i = 0; i < count; i++)
        lorica_jsonw_integer(&w, NULL, ids[i]);
    lorica_jsonw_end_array(&w);
    return lorica_buf_status(text);
}

static int render_completion(struct lorica_request *request, struct lorica_generation *g,
                             struct lorica_buf *text) {
    const struct lorica_tokenizer *tokenizer = request->server->parts.tokenizer;
    const int32_t bos = lorica_tokenizer_bos_id(tokenizer);
    const int64_t vocab = request->server->parts.base->arch.vocab;
    struct lorica_error err = {0};
    int rc = 0;
    if (g->options.prompt) {
        if (bos >= 0)
            rc = lorica_tokens_push(&g->prompt, bos);
        if (rc == 0)
            rc = lorica_tokenizer_encode(tokenizer, g->options.prompt, strlen(g->options.prompt),
                                         false, &g->prompt, &err);
        else
            (void)lorica_fail(&err, rc, "out of memory");
    }
    for (size_t i = 0; i < g->options.prompt_id_count && rc == 0; i++) {
        if (g->options.prompt_ids[i] >= vocab)
            rc = lorica_fail(&err, LORICA_EINVAL, "the prompt holds the token %d; there are %lld",
                             g->options.prompt_ids[i], (long long)vocab);
        else if (lorica_tokens_push(&g->prompt, g->options.prompt_ids[i]) != 0)
            rc = lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    }
    if (rc == 0 && g->prompt.count == 0)
        rc = lorica_fail(&err, LORICA_EINVAL, "the prompt is empty");
    if (rc == 0 && text &&
        (g->options.prompt
             ? lorica_buf_puts(text, g->options.prompt)
             : write_ids(text, g->options.prompt_ids, g->options.prompt_id_count)) != 0)
        rc = lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    return rc == 0 ? 0 : lorica_request_fail(request, rc, "prompt", NULL, "%s", err.text);
}

/* Prompt and answer must fit into the model's length, and into the cache. */
static int judge_length(struct lorica_request *request, struct lorica_generation *g) {
    const struct lorica_server_parts *parts = &request->server->parts;
    const uint64_t positions = parts->base->arch.max_positions;
    const uint64_t cache = (uint64_t)parts->config->kv_tokens;
    const uint64_t most = positions < cache ? positions : cache;
    const uint64_t wanted = g->options.max_tokens ? g->options.max_tokens : 1;
    if (g->prompt.count + wanted > most)
        return lorica_request_fail(
            request, LORICA_EINVAL,
            g->options.endpoint == LORICA_OPENAI_CHAT ? "messages" : "prompt",
            "context_length_exceeded",
            "the prompt has %zu tokens and the answer may have %llu; "
            "together %llu are possible",
            g->prompt.count, (unsigned long long)wanted, (unsigned long long)most);
    g->max_tokens =
        g->options.max_tokens ? g->options.max_tokens : (uint32_t)(most - g->prompt.count);
    return 0;
}

static int judge_bias(struct lorica_request *request, const struct lorica_generation *g) {
    for (size_t i = 0; i < g->options.bias_count; i++)
        if ((uint32_t)g->options.bias[i].id >= request->server->parts.base->arch.vocab)
            return lorica_request_fail(request, LORICA_EINVAL, "logit_bias", NULL,
                                       "logit_bias names the token %d; the last is %u",
                                       g->options.bias[i].id,
                                       request->server->parts.base->arch.vocab - 1);
    return 0;
}

static void hex(char *out, const struct lorica_digest *digest, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", digest->bytes[i]);
}

/* Ids and fingerprint: the latter says which base and which adapter made the answer. */
static int describe(struct lorica_request *request, struct lorica_generation *g) {
    struct lorica_digest random;
    if (lorica_random_bytes(random.bytes, sizeof(random.bytes)) != 0)
        return lorica_request_fail(request, LORICA_EIO, NULL, NULL, "no random bytes");
    (void)snprintf(g->id, sizeof(g->id), "%s",
                   g->options.endpoint == LORICA_OPENAI_CHAT ? "chatcmpl-" : "cmpl-");
    hex(g->id + strlen(g->id), &random, 16);
    if (!g->options.has_seed) { /* one that JSON can say: a receipt tells it */
        memcpy(&g->options.seed, random.bytes + 16, sizeof(g->options.seed));
        g->options.seed &= ((uint64_t)1 << 53) - 1;
    }
    memcpy(g->fingerprint, "fp_", sizeof("fp_"));
    hex(g->fingerprint + 3, &request->server->parts.base->digest, 6);
    if (!g->model.is_base) {
        const size_t used = strlen(g->fingerprint);
        g->fingerprint[used] = '_';
        hex(g->fingerprint + used + 1, &g->model.version.digest, 6);
    }
    g->created = (int64_t)time(NULL);
    return 0;
}

#define PROMPT_TEXT_MAX ((size_t)16 << 20)

static int prepare(struct lorica_request *request, enum lorica_openai_endpoint endpoint) {
    struct lorica_generation *g = lorica_generation_create(request);
    struct lorica_buf text;
    if (!g)
        return request->error.code;
    if (request->odd_receipt)
        return lorica_request_fail(request, LORICA_EINVAL, NULL, NULL,
                                   "the header lorica-receipt must be true or false, once");
    lorica_buf_init(&text, PROMPT_TEXT_MAX);
    struct lorica_buf *const wanted = request->wants_receipt ? &text : NULL;
    int rc = parse(request, g, endpoint);
    if (rc == 0)
        rc = choose_adapter(request, g);
    if (rc == 0)
        rc = judge_bias(request, g);
    if (rc == 0)
        rc = endpoint == LORICA_OPENAI_CHAT ? render_chat(request, g, wanted)
                                            : render_completion(request, g, wanted);
    if (rc == 0)
        rc = judge_length(request, g);
    if (rc == 0)
        rc = describe(request, g);
    if (rc == 0 && wanted)
        rc = lorica_receipt_begin(g, text.data ? text.data : "", text.len);
    lorica_buf_finish(&text);
    return rc;
}

int lorica_handle_chat(struct lorica_request *request) {
    return prepare(request, LORICA_OPENAI_CHAT);
}

int lorica_handle_completion(struct lorica_request *request) {
    return prepare(request, LORICA_OPENAI_COMPLETION);
}
