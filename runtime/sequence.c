/* SPDX-License-Identifier: MIT */
#include "runtime/sequence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/kv.h"

static int check_sampling(const struct lorica_sampling *s, uint32_t vocab,
                          struct lorica_error *err) {
    if (!isfinite(s->temperature) || s->temperature < 0)
        return lorica_fail(err, LORICA_EINVAL, "temperature must be 0 or more");
    if (!(s->top_p >= 0 && s->top_p <= 1) || !(s->min_p >= 0 && s->min_p <= 1))
        return lorica_fail(err, LORICA_EINVAL, "top_p and min_p must be from 0 to 1");
    if (!isfinite(s->presence_penalty) || !isfinite(s->frequency_penalty))
        return lorica_fail(err, LORICA_EINVAL, "penalties must be finite numbers");
    if (s->top_logprobs > LORICA_MAX_TOP_LOGPROBS || s->top_logprobs > (int64_t)vocab)
        return lorica_fail(err, LORICA_EINVAL, "top_logprobs must be at most %d",
                           LORICA_MAX_TOP_LOGPROBS);
    for (size_t i = 0; i < s->logit_bias_count; i++)
        if (s->logit_bias[i].id < 0 || (uint32_t)s->logit_bias[i].id >= vocab ||
            !isfinite(s->logit_bias[i].bias))
            return lorica_fail(err, LORICA_EINVAL, "logit_bias: token %d is not one of the model's",
                               s->logit_bias[i].id);
    if (s->max_tokens < 1)
        return lorica_fail(err, LORICA_EINVAL, "max_tokens must be at least 1");
    return 0;
}

static int check_adapter(const struct lorica_adapter *adapter, const struct lorica_arch *arch,
                         struct lorica_error *err) {
    if (!adapter)
        return 0;
    bool fits = adapter->layer_count == arch->layers;
    for (size_t i = 0; fits && i < (size_t)arch->layers * LORICA_MODULE_COUNT; i++)
        fits = adapter->layers[i].rank == 0 || adapter->layers[i].a8;
    return fits ? 0
                : lorica_fail(err, LORICA_EINVAL,
                              "the adapter was not made for serving on this base");
}

static int check_request(const struct lorica_sequence_limits *limits,
                         const struct lorica_engine_request *request, struct lorica_error *err) {
    const uint32_t vocab = limits->arch->vocab;
    if (request->prompt_count < 1)
        return lorica_fail(err, LORICA_EINVAL, "the prompt is empty");
    int rc = check_sampling(&request->sampling, vocab, err);
    if (!rc)
        rc = check_adapter(request->adapter, limits->arch, err);
    if (rc)
        return rc;
    if (request->prompt_count > limits->tokens ||
        request->sampling.max_tokens > limits->tokens - request->prompt_count)
        return lorica_fail(err, LORICA_EINVAL,
                           "the prompt's %zu tokens and %u to generate do not fit: %u together are "
                           "possible",
                           request->prompt_count, request->sampling.max_tokens, limits->tokens);
    for (size_t i = 0; i < request->prompt_count; i++)
        if (request->prompt[i] < 0 || (uint32_t)request->prompt[i] >= vocab)
            return lorica_fail(err, LORICA_EINVAL, "token %d of the prompt is not one of the %u",
                               request->prompt[i], vocab);
    return 0;
}

/* Copies of prompt and bias, and room for what is generated. */
static int copy_request(struct lorica_sequence *s, const struct lorica_engine_request *request) {
    const struct lorica_sampling *sampling = &request->sampling;
    const size_t most = request->prompt_count + sampling->max_tokens;
    s->prompt_count = s->count = (uint32_t)request->prompt_count;
    s->tokens = malloc(most * sizeof(*s->tokens));
    s->bias = malloc((sampling->logit_bias_count + 1) * sizeof(*s->bias));
    s->client = strdup(request->client ? request->client : "");
    if (!s->tokens || !s->bias || !s->client ||
        lorica_page_table_init(&s->pages, lorica_kv_pages(most)) != 0)
        return LORICA_ENOMEM;
    memcpy(s->tokens, request->prompt, request->prompt_count * sizeof(*s->tokens));
    if (sampling->logit_bias_count > 0)
        memcpy(s->bias, sampling->logit_bias, sampling->logit_bias_count * sizeof(*s->bias));
    s->sampling = *sampling;
    s->sampling.logit_bias = s->bias;
    s->sampling.stop = NULL;
    s->priority = request->priority;
    s->acceptance = 0.5f; /* nothing is known */
    s->on_event = request->on_event;
    s->user = request->user;
    return lorica_sampler_init(&s->sampler, &s->sampling);
}

int lorica_sequence_create(const struct lorica_sequence_limits *limits,
                           const struct lorica_engine_request *request,
                           struct lorica_sequence **ret, struct lorica_error *err) {
    int rc = check_request(limits, request, err);
    if (rc)
        return rc;
    struct lorica_sequence *s = calloc(1, sizeof(*s));
    rc = s ? copy_request(s, request) : LORICA_ENOMEM;
    if (!rc)
        rc = lorica_outtext_init(&s->text, limits->tokenizer, request->sampling.stop,
                                 request->sampling.stop_count);
    if (rc) {
        lorica_sequence_destroy(s);
        if (rc == LORICA_ELIMIT)
            return lorica_fail(err, LORICA_EINVAL, "stop: at most %d strings of at most %d bytes",
                               LORICA_MAX_STOP_STRINGS, LORICA_MAX_STOP_BYTES);
        return lorica_fail(err, rc, "no memory for the request");
    }
    s->adapter = lorica_adapter_ref(request->adapter);
    *ret = s;
    return 0;
}

void lorica_sequence_destroy(struct lorica_sequence *s) {
    if (!s)
        return;
    (void)lorica_adapter_unref(s->adapter);
    lorica_outtext_finish(&s->text);
    lorica_sampler_finish(&s->sampler);
    lorica_page_table_finish(&s->pages);
    free(s->client);
    free(s->bias);
    free(s->tokens);
    free(s);
}

void lorica_sequence_emit(struct lorica_sequence *s, const struct lorica_choice *choice,
                          enum lorica_finish finish) {
    const struct lorica_engine_event event = {
        .text = s->text.out.data ? s->text.out.data : "",
        .text_len = s->text.out.len,
        .token = choice ? choice->id : -1,
        .logprob = choice ? choice->logprob : 0,
        .top = choice ? choice->top : NULL,
        .finish = finish,
        .prompt_tokens = s->prompt_count,
        .completion_tokens = lorica_sequence_completion(s),
        .cached_tokens = s->cached,
    };
    s->on_event(s->user, &event);
    lorica_buf_clear(&s->text.out);
}

static bool is_stop_id(const struct lorica_sequence *s, int32_t id) {
    size_t count;
    const int32_t *ids = lorica_tokenizer_stop_ids(s->text.tokenizer, &count);
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id)
            return true;
    return false;
}

enum lorica_finish lorica_sequence_accept(struct lorica_sequence *s,
                                          const struct lorica_choice *choice, bool *ret_token) {
    bool stopped;
    *ret_token = false;
    if (!s->sampling.ignore_eos && is_stop_id(s, choice->id))
        return lorica_outtext_flush(&s->text) ? LORICA_FINISH_ERROR : LORICA_FINISH_STOP;
    if (lorica_outtext_push(&s->text, choice->id, &stopped) != 0)
        return LORICA_FINISH_ERROR;
    *ret_token = true;
    s->tokens[s->count++] = choice->id;
    if (stopped)
        return LORICA_FINISH_STOP;
    if (lorica_sequence_completion(s) < s->sampling.max_tokens)
        return LORICA_FINISH_NONE;
    return lorica_outtext_flush(&s->text) ? LORICA_FINISH_ERROR : LORICA_FINISH_LENGTH;
}
