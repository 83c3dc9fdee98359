/* SPDX-License-Identifier: MIT
 * Requests of OpenAI's /v1/chat/completions and /v1/completions. Everything a client may ask for is
 * either understood here or refused by its name: no option is accepted and then ignored. */
#ifndef LORICA_PROTO_OPENAI_H
#define LORICA_PROTO_OPENAI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "proto/json.h"

#define LORICA_OPENAI_MAX_MESSAGES 256
#define LORICA_OPENAI_MAX_STOP 4
#define LORICA_OPENAI_MAX_STOP_BYTES 1024 /**< of one stop string */
#define LORICA_OPENAI_MAX_N 8
#define LORICA_OPENAI_MAX_TOP_LOGPROBS 20
#define LORICA_OPENAI_MAX_BIAS 1024
#define LORICA_OPENAI_MAX_TOKENS 1048576
#define LORICA_OPENAI_MAX_MODEL_BYTES 512 /**< of a model's name; of `user` too */

enum lorica_openai_endpoint {
    LORICA_OPENAI_CHAT,       /**< /v1/chat/completions */
    LORICA_OPENAI_COMPLETION, /**< /v1/completions */
};

/** One message of a chat. */
struct lorica_openai_message {
    const char *role; /**< "system", "user" or "assistant" ("developer" is read as "system");
                           static storage */
    char *content;    /**< owned by the request; text parts are joined with a newline */
};

/** One member of logit_bias. */
struct lorica_openai_bias {
    int32_t id; /**< token id, >= 0; not checked against a vocabulary */
    float bias; /**< -100 to 100 */
};

/** A request with OpenAI's defaults filled in. Strings are UTF-8 without NUL inside. */
struct lorica_openai_request {
    enum lorica_openai_endpoint endpoint;
    const char *model;                      /**< borrowed from the request, never empty */
    struct lorica_openai_message *messages; /**< chat: owned, at least one */
    size_t message_count;
    const char *prompt;  /**< completion: text, borrowed from the request, or NULL with ids */
    int32_t *prompt_ids; /**< completion: token ids >= 0, owned, or NULL with text */
    size_t prompt_id_count;
    bool stream;
    bool include_usage;  /**< stream_options.include_usage */
    uint32_t max_tokens; /**< 0: not given (chat only; 16 is the default of a completion) */
    double temperature;  /**< 0 to 2; 1 */
    double top_p;        /**< 0 to 1; 1 */
    double min_p;        /**< 0 to 1; 0 */
    uint32_t top_k;      /**< 0: off (-1 in the request too) */
    double presence_penalty, frequency_penalty; /**< -2 to 2; 0 */
    bool has_seed;
    uint64_t seed;    /**< a negative one is taken modulo 2^64 */
    uint32_t n;       /**< 1 to 8; 1 */
    int top_logprobs; /**< -1: no logprobs wanted; else 0 to 20 alternatives per token */
    bool ignore_eos;  /**< go on behind the end token */
    const char *user; /**< a label of the client's, borrowed from the request, or NULL */
    const char *stop[LORICA_OPENAI_MAX_STOP]; /**< borrowed from the request, not empty */
    size_t stop_count;
    struct lorica_openai_bias *bias; /**< owned */
    size_t bias_count;
    struct lorica_json *root; /**< private: what the borrowed strings belong to */
};

/** Why a request was refused, with what the `error` object of the answer says. */
struct lorica_openai_fault {
    struct lorica_error err;
    char param[96];   /**< the key at fault ("messages[2].content"), or "" when there is none */
    const char *code; /**< OpenAI's code ("unknown_parameter", ...), static storage, or NULL */
};

/** Parses a body. The caller has limited `len`. LORICA_EFORMAT: no JSON object; LORICA_EINVAL: a
 * key missing, of a wrong type, or out of range; LORICA_EUNSUPPORTED: a key that is not known, or
 * that asks for something lorica does not do; LORICA_ELIMIT: more messages, stop strings or biases
 * than the limits above; LORICA_ENOMEM. All but the last are answered with status 400. null counts
 * as absent for every key that is not required. On success the caller owns *ret and ends it with
 * finish; on failure *ret is zeroed and *fault says why. */
int lorica_openai_parse(enum lorica_openai_endpoint endpoint, const char *body, size_t len,
                        struct lorica_openai_request *ret,
                        struct lorica_openai_fault *fault) LORICA_MUSTCHECK;

/** Frees. A zeroed struct is accepted. */
void lorica_openai_finish(struct lorica_openai_request *request);

#endif
