/* SPDX-License-Identifier: MIT */
#include "runtime/sched.h"

#include <stdlib.h>
#include <string.h>

/* Clients without a sequence that are remembered for what they were served. */
#define MAX_ABSENT 1024

/* One adapter of one client. */
struct lorica_sched_flow {
    struct lorica_sched_client *client;
    struct lorica_digest adapter;
    double served;
    uint32_t present;                     /* sequences that wait or run */
    struct lorica_sequence *first, *last; /* waiting */
    struct lorica_sched_flow *next;
};

struct lorica_sched_client {
    struct lorica_sched_client *next;
    struct lorica_sched_flow *flows;
    enum lorica_priority priority;
    double served, floor; /* tokens by weight; lowest counter of the flows present */
    uint32_t present, running;
    char name[];
};

static const double weights[LORICA_PRIORITY_COUNT] = {
    [LORICA_PRIORITY_NORMAL] = 4, [LORICA_PRIORITY_LOW] = 1, [LORICA_PRIORITY_HIGH] = 16};
/* What order they come in. */
static const int ranks[LORICA_PRIORITY_COUNT] = {
    [LORICA_PRIORITY_NORMAL] = 1, [LORICA_PRIORITY_LOW] = 0, [LORICA_PRIORITY_HIGH] = 2};

static void free_flows(struct lorica_sched_client *client) {
    while (client->flows) {
        struct lorica_sched_flow *flow = client->flows;
        client->flows = flow->next;
        free(flow);
    }
    client->floor = 0;
}

static void free_client(struct lorica_sched_client *client) {
    free_flows(client);
    free(client);
}

void lorica_sched_finish(struct lorica_sched *sched) {
    while (sched->clients) {
        struct lorica_sched_client *client = sched->clients;
        sched->clients = client->next;
        free_client(client);
    }
}

/* Forgets absent clients that have no debt, and beyond MAX_ABSENT those with one. */
static void forget_clients(struct lorica_sched *sched) {
    uint32_t absent = 0;
    for (struct lorica_sched_client **at = &sched->clients; *at;) {
        struct lorica_sched_client *client = *at;
        if (client->present > 0 || (client->served > sched->floor && absent++ < MAX_ABSENT)) {
            at = &client->next;
            continue;
        }
        *at = client->next;
        free_client(client);
    }
}

static void raise_floor(struct lorica_sched *sched) {
    double least = -1;
    for (const struct lorica_sched_client *c = sched->clients; c; c = c->next)
        if (c->present > 0 && (least < 0 || c->served < least))
            least = c->served;
    if (least > sched->floor)
        sched->floor = least;
}

static struct lorica_sched_client *find_client(struct lorica_sched *sched, const char *name) {
    struct lorica_sched_client *client = sched->clients;
    while (client && strcmp(client->name, name) != 0)
        client = client->next;
    if (client)
        return client;
    const size_t len = strlen(name);
    forget_clients(sched);
    client = calloc(1, sizeof(*client) + len + 1);
    if (!client)
        return NULL;
    memcpy(client->name, name, len);
    client->next = sched->clients;
    sched->clients = client;
    return client;
}

/* The flow of an adapter; flows that are absent and have no debt go on the way. */
static struct lorica_sched_flow *find_flow(struct lorica_sched_client *client,
                                           const struct lorica_digest *adapter) {
    double least = -1;
    for (const struct lorica_sched_flow *f = client->flows; f; f = f->next)
        if (f->present > 0 && (least < 0 || f->served < least))
            least = f->served;
    if (least > client->floor)
        client->floor = least;
    for (struct lorica_sched_flow **at = &client->flows; *at;) {
        struct lorica_sched_flow *flow = *at;
        if (lorica_digest_equal(&flow->adapter, adapter))
            return flow;
        if (flow->present > 0 || flow->served > client->floor) {
            at = &flow->next;
            continue;
        }
        *at = flow->next;
        free(flow);
    }
    struct lorica_sched_flow *flow = calloc(1, sizeof(*flow));
    if (!flow)
        return NULL;
    flow->client = client;
    flow->adapter = *adapter;
    flow->next = client->flows;
    client->flows = flow;
    return flow;
}

int lorica_sched_join(struct lorica_sched *sched, struct lorica_sequence *s) {
    static const struct lorica_digest none = {{0}};
    raise_floor(sched);
    struct lorica_sched_client *client = find_client(sched, s->client);
    struct lorica_sched_flow *flow =
        client ? find_flow(client, s->adapter ? &s->adapter->digest : &none) : NULL;
    if (!flow)
        return LORICA_ENOMEM;
    if (client->present++ == 0 && client->served < sched->floor)
        client->served = sched->floor;
    if (flow->present++ == 0 && flow->served < client->floor)
        flow->served = client->floor;
    client->priority = s->priority;
    s->flow = flow;
    s->next = NULL;
    *(flow->last ? &flow->last->next : &flow->first) = s;
    flow->last = s;
    sched->waiting++;
    return 0;
}

/* Takes a waiting sequence out of its queue. */
static void unqueue(struct lorica_sched *sched, struct lorica_sequence *s) {
    struct lorica_sched_flow *flow = s->flow;
    struct lorica_sequence *before = NULL;
    if (flow->first == s) {
        flow->first = s->next;
    } else {
        for (before = flow->first; before->next != s;)
            before = before->next;
        before->next = s->next;
    }
    if (flow->last == s)
        flow->last = before;
    s->next = NULL;
    sched->waiting--;
}

void lorica_sched_leave(struct lorica_sched *sched, struct lorica_sequence *s) {
    if (s->running)
        s->flow->client->running--;
    else
        unqueue(sched, s);
    struct lorica_sched_client *client = s->flow->client;
    s->flow->present--;
    s->running = false;
    s->flow = NULL;
    if (--client->present == 0)
        free_flows(client);
}

void lorica_sched_start(struct lorica_sched *sched, struct lorica_sequence *s) {
    unqueue(sched, s);
    s->flow->client->running++;
    s->running = true;
}

void lorica_sched_return(struct lorica_sched *sched, struct lorica_sequence *s) {
    struct lorica_sched_flow *flow = s->flow;
    s->next = flow->first;
    flow->first = s;
    if (!flow->last)
        flow->last = s;
    flow->client->running--;
    s->running = false;
    sched->waiting++;
}

void lorica_sched_charge(struct lorica_sequence *s, uint32_t cost) {
    s->flow->client->served += cost / weights[s->flow->client->priority];
    s->flow->served += cost;
}

/* The client that was served less; between equals the one of higher priority. */
static bool client_before(const struct lorica_sched_client *a,
                          const struct lorica_sched_client *b) {
    return a->served != b->served ? a->served < b->served : ranks[a->priority] > ranks[b->priority];
}

struct lorica_sequence *lorica_sched_next(const struct lorica_sched *sched) {
    const struct lorica_sched_flow *best = NULL;
    for (const struct lorica_sched_client *c = sched->clients; c; c = c->next)
        for (const struct lorica_sched_flow *f = c->flows; f; f = f->next) {
            if (!f->first)
                continue;
            if (!best ||
                (best->client == c ? f->served < best->served : client_before(c, best->client)))
                best = f;
        }
    return best ? best->first : NULL;
}

struct lorica_sequence *lorica_sched_cancelled(const struct lorica_sched *sched, bool all) {
    for (const struct lorica_sched_client *c = sched->clients; c; c = c->next)
        for (const struct lorica_sched_flow *f = c->flows; f; f = f->next)
            for (struct lorica_sequence *s = f->first; s; s = s->next)
                if (all || atomic_load(&s->cancelled))
                    return s;
    return NULL;
}

bool lorica_sched_before(const struct lorica_sequence *a, const struct lorica_sequence *b) {
    const struct lorica_sched_flow *fa = a->flow, *fb = b->flow;
    if (client_before(fa->client, fb->client))
        return true;
    if (client_before(fb->client, fa->client))
        return false;
    if (fa->client == fb->client && fa->served != fb->served)
        return fa->served < fb->served;
    return a->admission < b->admission;
}

bool lorica_sched_yields(const struct lorica_sequence *a, const struct lorica_sequence *b) {
    const struct lorica_sched_client *ca = a->flow->client, *cb = b->flow->client;
    if (ca->priority != cb->priority)
        return ranks[ca->priority] < ranks[cb->priority];
    if (ca->running != cb->running)
        return ca->running > cb->running;
    return a->admission > b->admission;
}

bool lorica_sched_displaces(const struct lorica_sequence *b, const struct lorica_sequence *a) {
    const struct lorica_sched_client *ca = a->flow->client, *cb = b->flow->client;
    if (ca->priority != cb->priority)
        return ranks[cb->priority] > ranks[ca->priority];
    return cb->running + 1 < ca->running;
}
