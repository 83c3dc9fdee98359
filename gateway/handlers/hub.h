/* SPDX-License-Identifier: MIT
 * Inside of generate: events between the engine's thread and the loop's. */
#ifndef LORICA_GATEWAY_HANDLERS_HUB_H
#define LORICA_GATEWAY_HANDLERS_HUB_H

#include "gateway/handlers/generate.h"

/** An event of the engine, copied. */
struct lorica_generation_event {
    struct lorica_generation_event *next;
    struct lorica_choice *choice;
    int32_t token;
    float logprob;
    enum lorica_finish finish;
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
    bool lost; /**< there was no memory for its text */
    size_t text_len, top_count;
    const struct lorica_token_logprob *top; /**< within the event */
    const char *text;                       /**< within the event */
};

/** The engine's callback; `user` is a struct lorica_choice. Engine thread. */
void lorica_hub_on_event(void *user, const struct lorica_engine_event *event);

/** Takes a generation's events: a list linked by `next`, each to be freed with free(). Tells in
 * *ret_overflow whether some were dropped. */
struct lorica_generation_event *lorica_hub_take(struct lorica_generation *generation,
                                                bool *ret_overflow);

/** Called on the loop for each generation that has events (generate.c). */
void lorica_generate_events(struct lorica_generation *generation);

#endif
