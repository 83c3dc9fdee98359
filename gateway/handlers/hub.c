/* SPDX-License-Identifier: MIT */
#include "gateway/handlers/hub.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/server/server.h"
#include "gateway/server/uverr.h"

struct lorica_hub {
    uv_async_t wake;
    pthread_mutex_t mutex;
    struct lorica_generation *ready; /* those with events, linked by next_ready */
};

static struct lorica_generation *pop(struct lorica_hub *hub) {
    pthread_mutex_lock(&hub->mutex);
    struct lorica_generation *g = hub->ready;
    if (g) {
        hub->ready = g->next_ready;
        g->ready = false;
    }
    pthread_mutex_unlock(&hub->mutex);
    return g;
}

/* One turn takes what was there at its beginning, more or less: the bound keeps a busy engine from
 * holding the loop. */
#define TURN 256

static void on_wake(uv_async_t *async) {
    struct lorica_hub *hub = async->data;
    struct lorica_generation *g = NULL;
    unsigned i = 0;
    while (i++ < TURN && (g = pop(hub)))
        lorica_generate_events(g);
    if (g)
        uv_async_send(&hub->wake);
}

static void on_close(uv_handle_t *handle) {
    struct lorica_hub *hub = handle->data;
    pthread_mutex_destroy(&hub->mutex);
    free(hub);
}

int lorica_hub_create(uv_loop_t *loop, struct lorica_hub **ret, struct lorica_error *err) {
    struct lorica_hub *hub = calloc(1, sizeof(*hub));
    if (!hub)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const int rc = uv_async_init(loop, &hub->wake, on_wake);
    if (rc != 0) {
        free(hub);
        return lorica_uv_fail(err, rc, "the event loop");
    }
    pthread_mutex_init(&hub->mutex, NULL);
    hub->wake.data = hub;
    *ret = hub;
    return 0;
}

void lorica_hub_destroy(struct lorica_hub *hub) {
    if (hub)
        uv_close((uv_handle_t *)&hub->wake, on_close);
}

/* Copies an event, with its alternatives and text behind it. NULL: out of memory. */
static struct lorica_generation_event *copy(const struct lorica_engine_event *event,
                                            size_t top_count) {
    const size_t top_bytes = top_count * sizeof(struct lorica_token_logprob);
    struct lorica_generation_event *e = malloc(sizeof(*e) + top_bytes + event->text_len);
    if (!e)
        return NULL;
    char *tail = (char *)(e + 1);
    *e = (struct lorica_generation_event){.text_len = event->text_len, .top_count = top_count};
    if (top_bytes)
        memcpy(tail, event->top, top_bytes);
    if (event->text_len)
        memcpy(tail + top_bytes, event->text, event->text_len);
    e->top = (const struct lorica_token_logprob *)(void *)tail;
    e->text = tail + top_bytes;
    return e;
}

/* Queues an event; the loop is woken when the generation had none. */
static void push(struct lorica_generation *g, struct lorica_generation_event *e) {
    struct lorica_hub *hub = g->request->server->hub;
    e->next = NULL;
    *g->end = e;
    g->end = &e->next;
    g->queued += sizeof(*e) + e->text_len + e->top_count * sizeof(*e->top);
    if (g->ready)
        return;
    g->ready = true;
    g->next_ready = hub->ready;
    hub->ready = g;
    uv_async_send(&hub->wake);
}

void lorica_hub_on_event(void *user, const struct lorica_engine_event *event) {
    struct lorica_choice *choice = user;
    struct lorica_generation *g = choice->generation;
    struct lorica_hub *hub = g->request->server->hub;
    const int wanted = g->options.top_logprobs;
    const bool last = event->finish != LORICA_FINISH_NONE;
    const size_t top_count = wanted > 0 && event->top && event->token >= 0 ? (size_t)wanted : 0;
    pthread_mutex_lock(&hub->mutex);
    struct lorica_generation_event *e =
        g->queued < LORICA_EVENTS_MAX ? copy(event, top_count) : NULL;
    if (!e) {
        g->overflow = true;
        if (last) {
            e = choice->last;
            choice->last = NULL;
            *e = (struct lorica_generation_event){.lost = true};
        }
    }
    if (e) {
        e->choice = choice;
        e->token = event->token;
        e->logprob = event->logprob;
        e->finish = event->finish;
        e->prompt_tokens = event->prompt_tokens;
        e->completion_tokens = event->completion_tokens;
        e->cached_tokens = event->cached_tokens;
        push(g, e);
    }
    pthread_mutex_unlock(&hub->mutex);
}

/* Events may have come since the generation was taken off the list. These are taken now, and with
 * the last of them the generation may end: it must not stand in the list any more. */
static void unlist(struct lorica_hub *hub, struct lorica_generation *g) {
    struct lorica_generation **at = &hub->ready;
    if (!g->ready)
        return;
    while (*at != g)
        at = &(*at)->next_ready;
    *at = g->next_ready;
    g->ready = false;
}

struct lorica_generation_event *lorica_hub_take(struct lorica_generation *g, bool *ret_overflow) {
    struct lorica_hub *hub = g->request->server->hub;
    pthread_mutex_lock(&hub->mutex);
    unlist(hub, g);
    struct lorica_generation_event *list = g->first;
    g->first = NULL;
    g->end = &g->first;
    g->queued = 0;
    *ret_overflow = g->overflow;
    pthread_mutex_unlock(&hub->mutex);
    return list;
}
