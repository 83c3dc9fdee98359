/* SPDX-License-Identifier: MIT */
#include "proto/openai_write.h"

#include <string.h>

#include "proto/json.h"
#include "proto/utf8.h"

/* The least logprob that is written: clients' types want a number. */
#define FLOOR (-9999.0)

static void write_error(struct lorica_jsonw *w, const char *message, const char *type,
                        const char *param, const char *code) {
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_object(w, "error");
    lorica_jsonw_string(w, "message", message);
    lorica_jsonw_string(w, "type", type);
    lorica_jsonw_string(w, "param", param && *param ? param : NULL);
    lorica_jsonw_string(w, "code", code);
    lorica_jsonw_end_object(w);
    lorica_jsonw_end_object(w);
}

int lorica_openai_write_error(struct lorica_buf *out, const char *message, const char *type,
                              const char *param, const char *code) {
    struct lorica_jsonw w = {.out = out};
    write_error(&w, message, type, param, code);
    return out->failure;
}

const char *lorica_openai_error_type(int status) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 429:
        return "rate_limit_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static double floored(double logprob) { return logprob > FLOOR ? logprob : FLOOR; }

/* token, logprob and bytes of one token in a chat's logprobs. */
static void write_chat_token(struct lorica_jsonw *w, const char *text, size_t len, double logprob) {
    lorica_jsonw_bytes(w, "token", text, len);
    lorica_jsonw_number(w, "logprob", floored(logprob));
    lorica_jsonw_array(w, "bytes");
    for (size_t i = 0; i < len; i++)
        lorica_jsonw_integer(w, NULL, (unsigned char)text[i]);
    lorica_jsonw_end_array(w);
}

static void write_chat_logprobs(struct lorica_jsonw *w, const struct lorica_openai_choice *choice) {
    lorica_jsonw_object(w, "logprobs");
    lorica_jsonw_array(w, "content");
    for (size_t i = 0; i < choice->token_count; i++) {
        const struct lorica_openai_token *token = &choice->tokens[i];
        lorica_jsonw_object(w, NULL);
        write_chat_token(w, token->text, token->len, token->logprob);
        lorica_jsonw_array(w, "top_logprobs");
        for (size_t j = 0; j < token->top_count; j++) {
            lorica_jsonw_object(w, NULL);
            write_chat_token(w, token->top[j].text, token->top[j].len, token->top[j].logprob);
            lorica_jsonw_end_object(w);
        }
        lorica_jsonw_end_array(w);
        lorica_jsonw_end_object(w);
    }
    lorica_jsonw_end_array(w);
    lorica_jsonw_null(w, "refusal");
    lorica_jsonw_end_object(w);
}

/* A token as text completions show it: as it is, or "bytes:\xe2\x80" when it is no whole text. */
static const char *token_text(const char *text, size_t len, char *out, size_t size) {
    static const char digits[] = "0123456789abcdef";
    const bool valid = lorica_utf8_valid(text, len) && !memchr(text, '\0', len) && len < size;
    size_t used = 0;
    if (valid) {
        memcpy(out, text, len);
        out[len] = '\0';
        return out;
    }
    memcpy(out, "bytes:", 6);
    used = 6;
    for (size_t i = 0; i < len && used + 5 <= size; i++) {
        const unsigned char byte = (unsigned char)text[i];
        const char escape[4] = {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
        memcpy(out + used, escape, 4);
        used += 4;
    }
    out[used] = '\0';
    return out;
}

static uint64_t characters(const char *text, size_t len) {
    uint64_t count = 0;
    for (size_t i = 0; i < len; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

/* {"token": logprob, ...}: the alternatives, and the token itself when it is none of them. */
static void write_text_top(struct lorica_jsonw *w, const struct lorica_openai_token *token) {
    char text[1024];
    bool has_token = false;
    lorica_jsonw_object(w, NULL);
    for (size_t i = 0; i < token->top_count; i++) {
        const struct lorica_openai_top *top = &token->top[i];
        bool twice = false;
        for (size_t j = 0; j < i && !twice; j++)
            twice = token->top[j].len == top->len &&
                    memcmp(token->top[j].text, top->text, top->len) == 0;
        if (twice)
            continue;
        has_token =
            has_token || (top->len == token->len && memcmp(top->text, token->text, top->len) == 0);
        lorica_jsonw_number(w, token_text(top->text, top->len, text, sizeof(text)),
                            floored(top->logprob));
    }
    if (!has_token)
        lorica_jsonw_number(w, token_text(token->text, token->len, text, sizeof(text)),
                            floored(token->logprob));
    lorica_jsonw_end_object(w);
}

static void write_text_logprobs(struct lorica_jsonw *w, const struct lorica_openai_choice *choice) {
    char text[1024];
    uint64_t offset = choice->text_offset;
    lorica_jsonw_object(w, "logprobs");
    lorica_jsonw_array(w, "tokens");
    for (size_t i = 0; i < choice->token_count; i++)
        lorica_jsonw_string(
            w, NULL, token_text(choice->tokens[i].text, choice->tokens[i].len, text, sizeof(text)));
    lorica_jsonw_end_array(w);
    lorica_jsonw_array(w, "token_logprobs");
    for (size_t i = 0; i < choice->token_count; i++)
        lorica_jsonw_number(w, NULL, floored(choice->tokens[i].logprob));
    lorica_jsonw_end_array(w);
    lorica_jsonw_array(w, "top_logprobs");
    for (size_t i = 0; i < choice->token_count; i++)
        write_text_top(w, &choice->tokens[i]);
    lorica_jsonw_end_array(w);
    lorica_jsonw_array(w, "text_offset");
    for (size_t i = 0; i < choice->token_count; i++) {
        lorica_jsonw_integer(w, NULL, (int64_t)offset);
        offset += characters(choice->tokens[i].text, choice->tokens[i].len);
    }
    lorica_jsonw_end_array(w);
    lorica_jsonw_end_object(w);
}

static void write_usage(struct lorica_jsonw *w, const struct lorica_openai_usage *usage) {
    lorica_jsonw_object(w, "usage");
    lorica_jsonw_integer(w, "prompt_tokens", (int64_t)usage->prompt_tokens);
    lorica_jsonw_integer(w, "completion_tokens", (int64_t)usage->completion_tokens);
    lorica_jsonw_integer(w, "total_tokens",
                         (int64_t)(usage->prompt_tokens + usage->completion_tokens));
    lorica_jsonw_object(w, "prompt_tokens_details");
    lorica_jsonw_integer(w, "cached_tokens", (int64_t)usage->cached_tokens);
    lorica_jsonw_end_object(w);
    lorica_jsonw_end_object(w);
}

/* Opens the object and writes what every answer and chunk begins with. */
static void write_head(struct lorica_jsonw *w, const struct lorica_openai_head *head, bool chunk) {
    const char *object = head->endpoint == LORICA_OPENAI_COMPLETION ? "text_completion"
                         : chunk                                    ? "chat.completion.chunk"
                                                                    : "chat.completion";
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "id", head->id);
    lorica_jsonw_string(w, "object", object);
    lorica_jsonw_integer(w, "created", head->created);
    lorica_jsonw_string(w, "model", head->model);
    lorica_jsonw_string(w, "system_fingerprint", head->fingerprint);
    lorica_jsonw_array(w, "choices");
}

/* The message of a whole answer, or the delta of a chunk. */
static void write_message(struct lorica_jsonw *w, const struct lorica_openai_choice *choice,
                          bool chunk) {
    lorica_jsonw_object(w, chunk ? "delta" : "message");
    if (!chunk || choice->first)
        lorica_jsonw_string(w, "role", "assistant");
    if (!chunk || choice->first || choice->text_len)
        lorica_jsonw_bytes(w, "content", choice->text_len ? choice->text : "", choice->text_len);
    if (!chunk)
        lorica_jsonw_null(w, "refusal");
    lorica_jsonw_end_object(w);
}

static void write_choice(struct lorica_jsonw *w, const struct lorica_openai_head *head,
                         const struct lorica_openai_choice *choice, bool chunk) {
    const bool chat = head->endpoint == LORICA_OPENAI_CHAT;
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_integer(w, "index", choice->index);
    if (chat)
        write_message(w, choice, chunk);
    else
        lorica_jsonw_bytes(w, "text", choice->text_len ? choice->text : "", choice->text_len);
    if (!choice->logprobs)
        lorica_jsonw_null(w, "logprobs");
    else if (chat)
        write_chat_logprobs(w, choice);
    else
        write_text_logprobs(w, choice);
    lorica_jsonw_string(w, "finish_reason", choice->finish_reason);
    lorica_jsonw_end_object(w);
}

int lorica_openai_write_response(struct lorica_buf *out, const struct lorica_openai_head *head,
                                 const struct lorica_openai_choice *choices, size_t count,
                                 const struct lorica_openai_usage *usage) {
    struct lorica_jsonw w = {.out = out};
    write_head(&w, head, false);
    for (size_t i = 0; i < count; i++)
        write_choice(&w, head, &choices[i], false);
    lorica_jsonw_end_array(&w);
    write_usage(&w, usage);
    lorica_jsonw_end_object(&w);
    return out->failure;
}

int lorica_openai_write_chunk(struct lorica_buf *out, const struct lorica_openai_head *head,
                              const struct lorica_openai_choice *choice, bool include_usage) {
    struct lorica_jsonw w = {.out = out};
    lorica_buf_puts(out, "data: ");
    write_head(&w, head, true);
    write_choice(&w, head, choice, true);
    lorica_jsonw_end_array(&w);
    if (include_usage)
        lorica_jsonw_null(&w, "usage");
    lorica_jsonw_end_object(&w);
    return lorica_buf_puts(out, "\n\n");
}

int lorica_openai_write_usage_chunk(struct lorica_buf *out, const struct lorica_openai_head *head,
                                    const struct lorica_openai_usage *usage) {
    struct lorica_jsonw w = {.out = out};
    lorica_buf_puts(out, "data: ");
    write_head(&w, head, true);
    lorica_jsonw_end_array(&w);
    write_usage(&w, usage);
    lorica_jsonw_end_object(&w);
    return lorica_buf_puts(out, "\n\n");
}

int lorica_openai_write_receipt_chunk(struct lorica_buf *out, const struct lorica_openai_head *head,
                                      const char *receipt, size_t len, bool include_usage) {
    struct lorica_jsonw w = {.out = out};
    lorica_buf_puts(out, "data: ");
    write_head(&w, head, true);
    lorica_jsonw_end_array(&w);
    if (include_usage)
        lorica_jsonw_null(&w, "usage");
    lorica_jsonw_raw(&w, "lorica_receipt", receipt, len);
    lorica_jsonw_end_object(&w);
    return lorica_buf_puts(out, "\n\n");
}

int lorica_openai_write_done(struct lorica_buf *out) {
    return lorica_buf_puts(out, "data: [DONE]\n\n");
}

int lorica_openai_write_error_event(struct lorica_buf *out, const char *message, const char *type,
                                    const char *code) {
    struct lorica_jsonw w = {.out = out};
    lorica_buf_puts(out, "data: ");
    write_error(&w, message, type, NULL, code);
    return lorica_buf_puts(out, "\n\n");
}

static void write_model(struct lorica_jsonw *w, const struct lorica_openai_model *model) {
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "id", model->id);
    lorica_jsonw_string(w, "object", "model");
    lorica_jsonw_integer(w, "created", model->created);
    lorica_jsonw_string(w, "owned_by", model->owned_by);
    lorica_jsonw_string(w, "root", model->root);
    lorica_jsonw_string(w, "parent", model->parent);
    lorica_jsonw_end_object(w);
}

int lorica_openai_write_model(struct lorica_buf *out, const struct lorica_openai_model *model) {
    struct lorica_jsonw w = {.out = out};
    write_model(&w, model);
    return out->failure;
}

int lorica_openai_write_models(struct lorica_buf *out, const struct lorica_openai_model *models,
                               size_t count) {
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "list");
    lorica_jsonw_array(&w, "data");
    for (size_t i = 0; i < count; i++)
        write_model(&w, &models[i]);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    return out->failure;
}
