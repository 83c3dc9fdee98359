/* SPDX-License-Identifier: MIT
 * The second half of a chat or completion request, on the loop thread: hands it to the engine,
 * carries the engine's events from its thread to the loop, and makes the answer of them.
 *
 * A choice of the answer ("n") is one request of the engine. Each holds a reference of the HTTP
 * request until its last event was taken, so that the engine's thread never meets freed memory,
 * whatever became of the client. */
#ifndef LORICA_GATEWAY_HANDLERS_GENERATE_H
#define LORICA_GATEWAY_HANDLERS_GENERATE_H

#include <uv.h>

#include "gateway/handlers/models.h"
#include "gateway/server/pins.h"
#include "gateway/server/receipts.h"
#include "gateway/server/request.h"
#include "proto/openai.h"
#include "proto/openai_write.h"
#include "runtime/adapter.h"
#include "runtime/engine.h"

/** Bytes of events that may wait for the loop; over it the request is cancelled. */
#define LORICA_EVENTS_MAX ((size_t)1 << 20)

struct lorica_generation;
struct lorica_generation_event;

/** One choice. Loop thread only, except `last`. */
struct lorica_choice {
    struct lorica_generation *generation;
    uint32_t index;
    uint64_t engine_id;
    bool submitted, done;
    enum lorica_finish finish;
    uint32_t completion_tokens;
    uint64_t characters;    /**< of the text so far */
    struct lorica_buf text; /**< the whole text, unless it is streamed */
    struct lorica_buf logs; /**< its tokens as stored by generate.c, unless streamed */
    struct lorica_generation_event *last; /**< spare, so that the last event always comes through */
};

/** What the first half prepared (handler_chat.c), and how far the second has come. */
struct lorica_generation {
    struct lorica_request *request;
    struct lorica_openai_request options;
    struct lorica_model model;
    struct lorica_pin pin;          /**< on model.version, to the end */
    struct lorica_adapter *adapter; /**< a reference; NULL: the base */
    struct lorica_tokens prompt;
    uint32_t max_tokens;
    struct lorica_receipting *receipting; /**< NULL: no receipt is wanted */
    char id[64];
    char fingerprint[48];
    int64_t created;

    struct lorica_choice choices[LORICA_OPENAI_MAX_N];
    uint32_t pending;                      /**< choices whose last event is still to come */
    uint32_t prompt_tokens, cached_tokens; /**< the latter of the first choice */
    bool answered;                         /**< nothing more is said to the client */
    bool first_token;                      /**< it came */
    uint64_t first_ns, last_ns;            /**< when the first token came, and the last */

    /* Under the hub's mutex: */
    struct lorica_generation_event *first, **end;
    size_t queued;
    bool ready, overflow;
    struct lorica_generation *next_ready;
};

/** The way of events from the engine's thread to the loop's; one for a server. */
struct lorica_hub;
int lorica_hub_create(uv_loop_t *loop, struct lorica_hub **ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Closes; the loop frees it. No generation may live. NULL is accepted. */
void lorica_hub_destroy(struct lorica_hub *hub);

/** Makes an empty generation the request's state. NULL: out of memory, and the request failed. */
struct lorica_generation *lorica_generation_create(struct lorica_request *request);

/** Starts what lorica_handle_chat or lorica_handle_completion prepared. */
void lorica_generate_start(struct lorica_request *request);
/** Breaks a stream off with an error event. */
void lorica_generate_cut(struct lorica_request *request, const char *why);

#endif
