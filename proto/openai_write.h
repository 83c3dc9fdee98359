/* SPDX-License-Identifier: MIT
 * What OpenAI's endpoints answer: error objects, completions, chunks of a stream, models. Writers
 * append to a buffer, whose sticky status tells at the end whether all fitted. */
#ifndef LORICA_PROTO_OPENAI_WRITE_H
#define LORICA_PROTO_OPENAI_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/openai.h"

/** Writes {"error":{message,type,param,code}}. `param` and `code` may be NULL (null is written), as
 * may be an empty `param`. `type` is "invalid_request_error" and the like. */
int lorica_openai_write_error(struct lorica_buf *out, const char *message, const char *type,
                              const char *param, const char *code);

/** OpenAI's type for an HTTP status: 401 "authentication_error", 403 "permission_error", 429
 * "rate_limit_error", other 4xx "invalid_request_error", 5xx "server_error". Static storage. */
const char *lorica_openai_error_type(int status);

/** What all chunks of one answer have in common. Everything is borrowed during the call. */
struct lorica_openai_head {
    enum lorica_openai_endpoint endpoint;
    const char *id;          /**< "chatcmpl-..." or "cmpl-..." */
    const char *model;       /**< what answered: "cardiology@3" */
    const char *fingerprint; /**< system_fingerprint, or NULL */
    int64_t created;         /**< seconds since 1970 */
};

/** An alternative to a token. `text` holds the token's bytes, not always whole characters. */
struct lorica_openai_top {
    const char *text;
    size_t len;
    double logprob;
};

/** One token of an answer that asked for logprobs. */
struct lorica_openai_token {
    const char *text;
    size_t len;
    double logprob; /**< NaN or below -9999 is written as -9999.0, which readers take for "none" */
    const struct lorica_openai_top *top;
    size_t top_count;
};

/** One choice, whole or a piece of it. */
struct lorica_openai_choice {
    uint32_t index;
    const char *text; /**< UTF-8; in a chunk what is new, may be empty */
    size_t text_len;
    const char *finish_reason; /**< "stop", "length", or NULL: goes on */
    bool first;                /**< chunk of a chat: this one brings the role */
    bool logprobs;             /**< were asked for: `tokens` are written, else null */
    const struct lorica_openai_token *tokens;
    size_t token_count;
    uint64_t text_offset; /**< completion: characters of the text before the first of `tokens` */
};

struct lorica_openai_usage {
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
};

/** Writes a whole answer (object "chat.completion" or "text_completion"). */
int lorica_openai_write_response(struct lorica_buf *out, const struct lorica_openai_head *head,
                                 const struct lorica_openai_choice *choices, size_t count,
                                 const struct lorica_openai_usage *usage);

/** Writes one event of a stream, "data: {...}" and an empty line, with one choice. With
 * `include_usage` it carries "usage": null, as clients that asked for usage expect. */
int lorica_openai_write_chunk(struct lorica_buf *out, const struct lorica_openai_head *head,
                              const struct lorica_openai_choice *choice, bool include_usage);

/** Writes the event that ends a stream with usage: choices [] and the usage. */
int lorica_openai_write_usage_chunk(struct lorica_buf *out, const struct lorica_openai_head *head,
                                    const struct lorica_openai_usage *usage);

/** Writes the event of a stream that carries a receipt: choices [] and, as it stands, the JSON text
 * "lorica_receipt". */
int lorica_openai_write_receipt_chunk(struct lorica_buf *out, const struct lorica_openai_head *head,
                                      const char *receipt, size_t len, bool include_usage);

/** Writes "data: [DONE]" and an empty line: the end of a stream that went well. */
int lorica_openai_write_done(struct lorica_buf *out);

/** Writes the event that ends a stream that failed half-way: an error object; no [DONE] follows. */
int lorica_openai_write_error_event(struct lorica_buf *out, const char *message, const char *type,
                                    const char *code);

/** A model as /v1/models shows it. */
struct lorica_openai_model {
    const char *id;
    int64_t created;
    const char *owned_by;
    const char *parent; /**< base of an adapter; NULL for a base */
    const char *root;   /**< what the name stands for now: "cardiology@3"; never a path */
};

/** Writes one model object. */
int lorica_openai_write_model(struct lorica_buf *out, const struct lorica_openai_model *model);

/** Writes {"object":"list","data":[...]}. */
int lorica_openai_write_models(struct lorica_buf *out, const struct lorica_openai_model *models,
                               size_t count);

#endif
