/* SPDX-License-Identifier: MIT */
#include "gateway/handlers/generate.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/handlers/hub.h"
#include "gateway/server/server.h"

#define TEXT_MAX ((size_t)64 << 20)
#define FRAMES_MAX ((size_t)4 << 20)
#define WRITTEN_ON_LOOP ((size_t)64 << 10) /* bytes of text and logprobs, as they are kept */
#define RECEIPT_MAX ((size_t)7 << 10)      /* with the other headers of a response it fits */

/* A token's logprobs as they wait in choice->logs for the end of an answer that is not streamed. */
struct stored_token {
    int32_t id;
    float logprob;
    size_t top_count; /* struct lorica_token_logprob each, right behind */
};

/* Creation and end. */

static void free_events(struct lorica_generation *g) {
    for (struct lorica_generation_event *e = g->first, *next; e; e = next) {
        next = e->next;
        free(e);
    }
}

/* What a version is blamed for: neither what the client did wrong nor a lack of room. */
static bool failed(const struct lorica_request *request) {
    const int rc = request->error.code;
    return request->adapter[0] && rc != 0 && rc != LORICA_EBUSY && rc != LORICA_ENOMEM &&
           request->error_status == 0 && lorica_err_http_status(rc) >= 500;
}

/* Tells the watcher how a request fared that a split decided. Its choices are computed together,
 * so that its pace is that of its longest. */
static void note(const struct lorica_generation *g, bool bad) {
    const struct lorica_request *request = g->request;
    struct lorica_split_sample sample = {
        .at_ms = uv_now(&request->server->loop), .failed = bad, .first = -1, .each = -1};
    uint32_t tokens = 0;
    if (g->model.is_base || g->model.choice.arm == LORICA_SPLIT_NONE)
        return;
    for (uint32_t i = 0; i < g->options.n; i++)
        if (g->choices[i].completion_tokens > tokens)
            tokens = g->choices[i].completion_tokens;
    if (g->first_token)
        sample.first = (float)((double)(g->first_ns - request->started_ns) / 1e9);
    if (g->first_token && tokens > 1)
        sample.each = (float)((double)(g->last_ns - g->first_ns) / 1e9 / (tokens - 1));
    lorica_split_note(request->server->splits, g->model.version.name, &g->model.choice, &sample);
}

/* Counts a request that failed before the engine had it. */
static void count_unborn(const struct lorica_request *request) {
    note(request->state, true);
    lorica_metrics_tokens(&request->server->metrics, request->adapter, 0, 0);
    lorica_metrics_failed(&request->server->metrics, request->adapter);
}

static void finish(struct lorica_request *request) {
    struct lorica_generation *g = request->state;
    if (!g->answered && failed(request))
        count_unborn(request);
    for (size_t i = 0; i < LORICA_OPENAI_MAX_N; i++) {
        lorica_buf_finish(&g->choices[i].text);
        lorica_buf_finish(&g->choices[i].logs);
        free(g->choices[i].last);
    }
    free_events(g);
    lorica_receipt_free(g->receipting);
    (void)lorica_adapter_unref(g->adapter);
    lorica_pins_release(&request->server->pins, &g->pin);
    lorica_openai_finish(&g->options);
    free(g->prompt.ids);
    free(g);
}

/* The client went away: the engine need not go on. */
static void cancel_all(struct lorica_generation *g) {
    for (uint32_t i = 0; i < g->options.n; i++)
        if (g->choices[i].submitted && !g->choices[i].done)
            lorica_engine_cancel(g->request->server->parts.engine, g->choices[i].engine_id);
}

static void on_gone(struct lorica_request *request) {
    struct lorica_generation *g = request->state;
    g->answered = true;
    cancel_all(g);
}

struct lorica_generation *lorica_generation_create(struct lorica_request *request) {
    struct lorica_generation *g = calloc(1, sizeof(*g));
    if (!g) {
        (void)lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
        return NULL;
    }
    g->request = request;
    g->end = &g->first;
    request->state = g;
    request->finish = finish;
    for (uint32_t i = 0; i < LORICA_OPENAI_MAX_N; i++) {
        struct lorica_choice *choice = &g->choices[i];
        choice->generation = g;
        choice->index = i;
        lorica_buf_init(&choice->text, TEXT_MAX);
        lorica_buf_init(&choice->logs, TEXT_MAX);
        choice->last = malloc(sizeof(*choice->last));
        if (!choice->last) {
            (void)lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
            return NULL;
        }
    }
    return g;
}

/* What is written. */

static struct lorica_openai_head head_of(const struct lorica_generation *g) {
    return (struct lorica_openai_head){
        .endpoint = g->options.endpoint,
        .id = g->id,
        .model = g->model.is_base ? g->request->server->parts.base->name : g->request->adapter,
        .fingerprint = g->fingerprint,
        .created = g->created,
    };
}

static struct lorica_openai_usage usage_of(const struct lorica_generation *g) {
    struct lorica_openai_usage usage = {.prompt_tokens = g->prompt_tokens,
                                        .cached_tokens = g->cached_tokens};
    for (uint32_t i = 0; i < g->options.n; i++)
        usage.completion_tokens += g->choices[i].completion_tokens;
    return usage;
}

static const char *reason_of(enum lorica_finish finish) {
    return finish == LORICA_FINISH_STOP ? "stop" : finish == LORICA_FINISH_LENGTH ? "length" : NULL;
}

static uint64_t characters_in(const char *text, size_t len) {
    uint64_t count = 0;
    for (size_t i = 0; i < len; i++)
        count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

/* The bytes of tokens, for logprobs: one buffer that holds them all and slices of it. */
struct token_texts {
    struct lorica_buf bytes;
    struct lorica_openai_token *tokens;
    struct lorica_openai_top *tops;
    size_t token_count, top_count;
};

static void texts_finish(struct token_texts *texts) {
    lorica_buf_finish(&texts->bytes);
    free(texts->tokens);
    free(texts->tops);
}

static size_t decode(const struct lorica_generation *g, struct token_texts *texts, int32_t id) {
    const size_t before = texts->bytes.len;
    (void)lorica_tokenizer_decode(g->request->server->parts.tokenizer, id, true, &texts->bytes);
    return texts->bytes.len - before;
}

/* Decodes stored tokens. The texts are offsets until the buffer has stopped growing. */
static int texts_build(const struct lorica_generation *g, const char *stored, size_t len,
                       struct token_texts *texts) {
    struct stored_token token;
    size_t at = 0;
    *texts = (struct token_texts){0};
    lorica_buf_init(&texts->bytes, TEXT_MAX);
    const size_t most = len / sizeof(token) + 1;
    texts->tokens = calloc(most, sizeof(*texts->tokens));
    texts->tops = calloc(len / sizeof(struct lorica_token_logprob) + 1, sizeof(*texts->tops));
    if (!texts->tokens || !texts->tops)
        return LORICA_ENOMEM;
    while (at < len) {
        struct lorica_openai_token *t = &texts->tokens[texts->token_count++];
        memcpy(&token, stored + at, sizeof(token));
        at += sizeof(token);
        *t = (struct lorica_openai_token){.logprob = token.logprob,
                                          .top = &texts->tops[texts->top_count],
                                          .top_count = token.top_count};
        t->len = decode(g, texts, token.id);
        for (size_t i = 0; i < token.top_count; i++, at += sizeof(struct lorica_token_logprob)) {
            struct lorica_token_logprob top;
            memcpy(&top, stored + at, sizeof(top));
            texts->tops[texts->top_count].logprob = top.logprob;
            texts->tops[texts->top_count++].len = decode(g, texts, top.id);
        }
    }
    const char *p = texts->bytes.data ? texts->bytes.data : "";
    for (size_t i = 0; i < texts->token_count; i++) {
        texts->tokens[i].text = p;
        p += texts->tokens[i].len;
        struct lorica_openai_top *tops = &texts->tops[texts->tokens[i].top - texts->tops];
        for (size_t j = 0; j < texts->tokens[i].top_count; p += tops[j++].len)
            tops[j].text = p;
    }
    return lorica_buf_status(&texts->bytes);
}

static void store_token(struct lorica_buf *logs, const struct lorica_generation_event *e) {
    struct stored_token token = {0}; /* padding too: it is copied as bytes */
    token.id = e->token;
    token.logprob = e->logprob;
    token.top_count = e->top_count;
    (void)lorica_buf_append(logs, &token, sizeof(token));
    if (e->top_count)
        (void)lorica_buf_append(logs, e->top, e->top_count * sizeof(*e->top));
}

/* The whole answer. */
static int write_answer(struct lorica_generation *g) {
    struct lorica_openai_choice choices[LORICA_OPENAI_MAX_N] = {{0}};
    struct token_texts texts[LORICA_OPENAI_MAX_N] = {{{0}}};
    const struct lorica_openai_head head = head_of(g);
    const struct lorica_openai_usage usage = usage_of(g);
    int rc = 0;
    for (uint32_t i = 0; i < g->options.n && rc == 0; i++) {
        const struct lorica_choice *choice = &g->choices[i];
        rc = lorica_buf_status(&choice->text);
        if (rc == 0)
            rc = lorica_buf_status(&choice->logs);
        if (rc == 0)
            rc = texts_build(g, choice->logs.data, choice->logs.len, &texts[i]);
        choices[i] = (struct lorica_openai_choice){
            .index = i,
            .text = choice->text.data ? choice->text.data : "",
            .text_len = choice->text.len,
            .finish_reason = reason_of(choice->finish),
            .logprobs = g->options.top_logprobs >= 0,
            .tokens = texts[i].tokens,
            .token_count = texts[i].token_count,
        };
    }
    if (rc == 0)
        rc = lorica_openai_write_response(&g->request->response.body, &head, choices, g->options.n,
                                          &usage);
    for (uint32_t i = 0; i < g->options.n; i++)
        texts_finish(&texts[i]);
    return rc;
}

/* One event of a stream. */
static void write_event(struct lorica_generation *g, const struct lorica_generation_event *e,
                        struct lorica_buf *frames) {
    const struct lorica_openai_head head = head_of(g);
    const bool logprobs = g->options.top_logprobs >= 0;
    struct token_texts texts = {0};
    struct lorica_buf logs;
    lorica_buf_init(&logs, TEXT_MAX);
    if (logprobs && e->token >= 0)
        store_token(&logs, e);
    if (e->text_len > 0 || logs.len > 0 || reason_of(e->finish)) {
        if (texts_build(g, logs.data, logs.len, &texts) != 0)
            texts.token_count = 0;
        const struct lorica_openai_choice piece = {
            .index = e->choice->index,
            .text = e->text ? e->text : "",
            .text_len = e->text_len,
            .finish_reason = reason_of(e->finish),
            .logprobs = logprobs,
            .tokens = texts.tokens,
            .token_count = texts.token_count,
            .text_offset = e->choice->characters,
        };
        (void)lorica_openai_write_chunk(frames, &head, &piece, g->options.include_usage);
        texts_finish(&texts);
    }
    lorica_buf_finish(&logs);
}

/* Answering. */

static void send_frames(struct lorica_generation *g, struct lorica_buf *frames) {
    if (frames->len > 0 && g->request->conn)
        lorica_conn_stream(g->request->conn, frames->data, frames->len);
    lorica_buf_clear(frames);
}

/* Ends with the request's error: a response, or an error event where a stream has begun. */
static void answer_failure(struct lorica_generation *g) {
    struct lorica_request *request = g->request;
    if (g->answered)
        return;
    g->answered = true;
    if (failed(request)) {
        lorica_metrics_failed(&request->server->metrics, request->adapter);
        note(g, true);
    }
    cancel_all(g);
    if (request->conn->state != LORICA_CONN_STREAM) {
        lorica_request_error_response(request);
        lorica_conn_respond(request->conn);
        return;
    }
    struct lorica_buf frames;
    lorica_buf_init(&frames, FRAMES_MAX);
    lorica_openai_write_error_event(
        &frames, request->error.text,
        lorica_openai_error_type(lorica_err_http_status(request->error.code)), request->error_code);
    send_frames(g, &frames);
    lorica_buf_finish(&frames);
    if (request->conn)
        lorica_conn_stream_end(request->conn, true);
}

/* A whole answer, which `run_rc` says whether it could be written. */
static void answer_whole(struct lorica_generation *g, const struct lorica_buf *receipt) {
    struct lorica_request *request = g->request;
    request->response.status = 200;
    if (request->run_rc != 0) {
        (void)lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
        answer_failure(g);
        return;
    }
    if (receipt->len > 0)
        lorica_request_header(request, "lorica-receipt", receipt->data);
    g->answered = true;
    note(g, false);
    lorica_conn_respond(request->conn);
}

static void end_stream(struct lorica_generation *g, const struct lorica_buf *receipt) {
    struct lorica_request *request = g->request;
    const struct lorica_openai_head head = head_of(g);
    const struct lorica_openai_usage usage = usage_of(g);
    struct lorica_buf frames;
    lorica_buf_init(&frames, FRAMES_MAX);
    g->answered = true;
    note(g, false);
    if (receipt->len > 0)
        (void)lorica_openai_write_receipt_chunk(&frames, &head, receipt->data, receipt->len,
                                                g->options.include_usage);
    if (g->options.include_usage)
        (void)lorica_openai_write_usage_chunk(&frames, &head, &usage);
    (void)lorica_openai_write_done(&frames);
    send_frames(g, &frames);
    lorica_buf_finish(&frames);
    if (request->conn)
        lorica_conn_stream_end(request->conn, false);
}

static void answer_success(struct lorica_generation *g) {
    struct lorica_buf receipt;
    lorica_buf_init(&receipt, RECEIPT_MAX);
    if (g->receipting && lorica_receipt_end(g, &receipt) != 0)
        answer_failure(g);
    else if (g->options.stream)
        end_stream(g, &receipt);
    else
        answer_whole(g, &receipt);
    lorica_buf_finish(&receipt);
}

static void write_work(uv_work_t *work) {
    struct lorica_request *request = work->data;
    request->run_rc = write_answer(request->state);
}

static void write_done(uv_work_t *work, int status) {
    struct lorica_request *request = work->data;
    struct lorica_generation *g = request->state;
    if (!g->answered)
        answer_success(g);
    lorica_request_unref(request);
}

/* All choices are complete. A long answer, which logprobs make a very long one, is written by a
 * worker: the loop has others to serve. */
static void answer(struct lorica_generation *g) {
    struct lorica_request *request = g->request;
    size_t stored = 0;
    for (uint32_t i = 0; i < g->options.n; i++)
        stored += g->choices[i].text.len + g->choices[i].logs.len;
    if (stored > WRITTEN_ON_LOOP) {
        request->work.data = lorica_request_ref(request);
        /* Fails for a missing callback only. */
        (void)uv_queue_work(&request->server->loop, &request->work, write_work, write_done);
        return;
    }
    if (!g->options.stream)
        request->run_rc = write_answer(g);
    answer_success(g);
}

/* Why a choice ended before its end, as the request's error. */
static void fail_choice(struct lorica_generation *g, enum lorica_finish finish) {
    if (finish == LORICA_FINISH_ERROR)
        (void)lorica_request_fail(g->request, LORICA_EBUG, NULL, "numeric_failure",
                                  "the model's numbers broke down; nothing was made up in place of "
                                  "the rest");
    else
        (void)lorica_request_fail(g->request, LORICA_EBUSY, NULL, "cancelled",
                                  "the generation was cancelled by the server");
}

static void take_event(struct lorica_generation *g, const struct lorica_generation_event *e,
                       struct lorica_buf *frames) {
    struct lorica_choice *choice = e->choice;
    g->prompt_tokens = e->prompt_tokens;
    if (choice->index == 0)
        g->cached_tokens = e->cached_tokens;
    choice->completion_tokens = e->completion_tokens;
    if (!g->first_token && e->token >= 0) {
        g->first_token = true;
        g->first_ns = uv_hrtime();
        lorica_metrics_first_token(&g->request->server->metrics,
                                   (double)(g->first_ns - g->request->started_ns) / 1e9);
    }
    if (e->token >= 0)
        g->last_ns = uv_hrtime();
    if (e->finish != LORICA_FINISH_NONE) {
        choice->done = true;
        choice->finish = e->finish;
        g->pending--;
    }
    if (g->answered)
        return;
    if (e->lost || (e->finish != LORICA_FINISH_NONE && !reason_of(e->finish))) {
        fail_choice(g, e->finish);
        return;
    }
    if (g->options.stream) {
        write_event(g, e, frames);
    } else {
        (void)lorica_buf_append(&choice->text, e->text, e->text_len);
        if (g->options.top_logprobs >= 0 && e->token >= 0)
            store_token(&choice->logs, e);
    }
    choice->characters += characters_in(e->text, e->text_len);
    lorica_receipt_piece(g->receipting, choice->index, e->text, e->text_len);
}

void lorica_generate_events(struct lorica_generation *g) {
    struct lorica_request *request = g->request;
    struct lorica_buf frames;
    bool overflow = false;
    unsigned ended = 0;
    lorica_buf_init(&frames, FRAMES_MAX);
    struct lorica_generation_event *next = NULL;
    for (struct lorica_generation_event *e = lorica_hub_take(g, &overflow); e; e = next) {
        next = e->next;
        ended += e->finish != LORICA_FINISH_NONE;
        take_event(g, e, &frames);
        free(e);
    }
    if (!g->answered && (overflow || lorica_buf_status(&frames) != 0))
        (void)lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL,
                                  "the answer came faster than it could be passed on");
    if (!g->answered)
        send_frames(g, &frames);
    lorica_buf_finish(&frames);
    if (!g->answered && request->error.code != 0)
        answer_failure(g);
    else if (!g->answered && g->pending == 0)
        answer(g);
    if (g->pending == 0 && ended > 0)
        lorica_metrics_tokens(&request->server->metrics, request->adapter, g->prompt_tokens,
                              usage_of(g).completion_tokens);
    while (ended-- > 0)
        lorica_request_unref(request); /* the last one may free all this */
}

/* Starting. */

/* For a chat, each choice's first chunk brings the role. */
static void send_roles(struct lorica_generation *g) {
    const struct lorica_openai_head head = head_of(g);
    struct lorica_buf frames;
    if (g->options.endpoint != LORICA_OPENAI_CHAT)
        return;
    lorica_buf_init(&frames, FRAMES_MAX);
    for (uint32_t i = 0; i < g->options.n; i++) {
        const struct lorica_openai_choice piece = {.index = i, .text = "", .first = true};
        (void)lorica_openai_write_chunk(&frames, &head, &piece, g->options.include_usage);
    }
    send_frames(g, &frames);
    lorica_buf_finish(&frames);
}

static struct lorica_sampling sampling_of(const struct lorica_generation *g, uint32_t index,
                                          const struct lorica_logit_bias *bias) {
    const struct lorica_openai_request *o = &g->options;
    return (struct lorica_sampling){
        .temperature = (float)o->temperature,
        .top_p = (float)o->top_p,
        .min_p = (float)o->min_p,
        .top_k = o->top_k,
        .presence_penalty = (float)o->presence_penalty,
        .frequency_penalty = (float)o->frequency_penalty,
        .seed = o->seed + index,
        .max_tokens = g->max_tokens,
        .ignore_eos = o->ignore_eos,
        .top_logprobs = o->top_logprobs,
        .logit_bias = bias,
        .logit_bias_count = o->bias_count,
        .stop = o->stop,
        .stop_count = o->stop_count,
    };
}

static int submit(struct lorica_generation *g, uint32_t index,
                  const struct lorica_logit_bias *bias) {
    struct lorica_error err = {0};
    struct lorica_choice *choice = &g->choices[index];
    const struct lorica_engine_request order = {
        .prompt = g->prompt.ids,
        .prompt_count = g->prompt.count,
        .adapter = g->adapter,
        .client = g->request->key.name,
        .priority = lorica_config_priority(g->request->server->parts.config, g->request->key.name),
        .sampling = sampling_of(g, index, bias),
        .on_event = lorica_hub_on_event,
        .user = choice,
    };
    (void)lorica_request_ref(g->request);
    const int rc =
        lorica_engine_submit(g->request->server->parts.engine, &order, &choice->engine_id, &err);
    if (rc != 0) {
        lorica_request_unref(g->request); /* not the last: the caller holds one */
        return lorica_request_fail(g->request, rc, NULL, rc == LORICA_EBUSY ? "server_busy" : NULL,
                                   "%s", err.text);
    }
    choice->submitted = true;
    g->pending++;
    return 0;
}

static int submit_all(struct lorica_generation *g) {
    struct lorica_logit_bias *bias = NULL;
    int rc = 0;
    if (g->options.bias_count) {
        bias = calloc(g->options.bias_count, sizeof(*bias));
        if (!bias)
            return lorica_request_fail(g->request, LORICA_ENOMEM, NULL, NULL, "out of memory");
        for (size_t i = 0; i < g->options.bias_count; i++)
            bias[i] = (struct lorica_logit_bias){g->options.bias[i].id, g->options.bias[i].bias};
    }
    for (uint32_t i = 0; i < g->options.n && rc == 0; i++)
        rc = submit(g, i, bias);
    free(bias);
    return rc;
}

void lorica_generate_start(struct lorica_request *request) {
    struct lorica_generation *g = request->state;
    request->on_gone = on_gone;
    if (submit_all(g) != 0) {
        answer_failure(g);
        return;
    }
    lorica_model_headers(request, &g->model);
    if (!g->options.stream)
        return;
    lorica_conn_stream_begin(request->conn);
    if (request->conn)
        send_roles(g);
}

void lorica_generate_cut(struct lorica_request *request, const char *why) {
    (void)lorica_request_fail(request, LORICA_EBUSY, NULL, "server_ending", "%s", why);
    answer_failure(request->state);
}
