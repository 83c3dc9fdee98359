/* SPDX-License-Identifier: MIT */
#include "gateway/server/split_watch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/server/server.h"
#include "gateway/server/uverr.h"

#define CHECK_MS 1000
#define REASON_MAX 512

/* The last samples of one side; a ring once it is full. */
struct side {
    struct lorica_split_sample *samples;
    size_t count, room, next;
};

struct watch {
    char name[LORICA_NAME_MAX + 1]; /* "": free */
    struct lorica_split_choice choice;
    struct side stable, canary;
    uint64_t last_ms; /* its last sample */
    bool fresh;       /* samples since it was judged */
    bool ending;      /* a job is under way */
};

struct lorica_split_watcher {
    struct lorica_server *server;
    uv_timer_t timer;
    struct watch watches[LORICA_SPLIT_WATCHES];
    float scratch[LORICA_SPLIT_REQUESTS_MAX];
};

/* Ends a split on the writer's thread. */
struct ending {
    struct lorica_lane_job job; /* first */
    struct lorica_split_watcher *watcher;
    char name[LORICA_NAME_MAX + 1];
    uint64_t epoch;
    char reason[REASON_MAX];
    int rc;
    struct lorica_error err;
};

static int compare(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double median(float *values, size_t count) {
    if (count == 0)
        return 0;
    qsort(values, count, sizeof(*values), compare);
    return ((double)values[(count - 1) / 2] + (double)values[count / 2]) / 2;
}

struct lorica_split_figures lorica_split_sum(const struct lorica_split_sample *samples,
                                             size_t count, uint64_t since_ms, float *scratch) {
    struct lorica_split_figures f = {0};
    for (size_t i = 0; i < count; i++) {
        if (samples[i].at_ms < since_ms)
            continue;
        f.requests++;
        f.failed += samples[i].failed;
        if (samples[i].first >= 0)
            scratch[f.firsts++] = samples[i].first;
    }
    f.first_median = median(scratch, f.firsts);
    for (size_t i = 0; i < count; i++)
        if (samples[i].at_ms >= since_ms && samples[i].each >= 0)
            scratch[f.eachs++] = samples[i].each;
    f.each_median = median(scratch, f.eachs);
    return f;
}

/* One time, such as that to the first token. */
struct times {
    const char *what;
    uint32_t stable_count, canary_count;
    double stable, canary;
};

static bool slower(const struct lorica_split_terms *terms, uint64_t stable_version,
                   const struct times *t, char *reason, size_t size) {
    if (terms->max_latency_ratio == 0 || t->stable_count < terms->min_requests ||
        t->canary_count < terms->min_requests ||
        t->canary * 100 <= t->stable * terms->max_latency_ratio)
        return false;
    (void)snprintf(reason, size,
                   "ended: the median time %s of version %" PRIu64 " was %.3f ms in %" PRIu32
                   " requests, over %.2f times the %.3f ms of version %" PRIu64 " in %" PRIu32
                   ", within %" PRIu32 " s",
                   t->what, terms->version, t->canary * 1e3, t->canary_count,
                   terms->max_latency_ratio / 100.0, t->stable * 1e3, stable_version,
                   t->stable_count, terms->window_s);
    return true;
}

static bool fails_more(const struct lorica_split_terms *terms, uint64_t stable_version,
                       const struct lorica_split_figures *stable,
                       const struct lorica_split_figures *canary, char *reason, size_t size) {
    /* where stable has no requests, nothing of it has failed */
    const int64_t s = stable->requests ? stable->requests : 1, c = canary->requests;
    const int64_t above = canary->failed * s - stable->failed * c; /* of s * c */
    if (above * LORICA_SPLIT_WHOLE <= terms->max_error_excess * s * c)
        return false;
    (void)snprintf(reason, size,
                   "ended: version %" PRIu64 " failed %" PRIu32 " of %" PRIu32
                   " requests, more than %.2f %% above the %" PRIu32 " of %" PRIu32
                   " of version %" PRIu64 ", within %" PRIu32 " s",
                   terms->version, canary->failed, canary->requests,
                   terms->max_error_excess / 100.0, stable->failed, stable->requests,
                   stable_version, terms->window_s);
    return true;
}

bool lorica_split_worse(const struct lorica_split_terms *terms, uint64_t stable_version,
                        const struct lorica_split_figures *stable,
                        const struct lorica_split_figures *canary, char *reason, size_t size) {
    const struct times first = {"to the first token", stable->firsts, canary->firsts,
                                stable->first_median, canary->first_median};
    const struct times each = {"for each further token", stable->eachs, canary->eachs,
                               stable->each_median, canary->each_median};
    const bool alone = terms->share == LORICA_SPLIT_WHOLE; /* stable gets none to be held against */
    if (canary->requests < terms->min_requests ||
        (!alone && stable->requests < terms->min_requests))
        return false;
    return fails_more(terms, stable_version, stable, canary, reason, size) ||
           slower(terms, stable_version, &first, reason, size) ||
           slower(terms, stable_version, &each, reason, size);
}

/* Watching. */

static void forget(struct watch *watch) {
    free(watch->stable.samples);
    free(watch->canary.samples);
    *watch = (struct watch){.name = ""};
}

static struct watch *find(struct lorica_split_watcher *watcher, const char *name) {
    for (size_t i = 0; i < LORICA_SPLIT_WATCHES; i++)
        if (strcmp(watcher->watches[i].name, name) == 0)
            return &watcher->watches[i];
    return NULL;
}

/* A place for a name: its own, a free one, or that of the one that was quiet for longest. */
static struct watch *place_for(struct lorica_split_watcher *watcher, const char *name) {
    struct watch *found = find(watcher, name);
    if (found)
        return found;
    found = &watcher->watches[0];
    for (size_t i = 1; i < LORICA_SPLIT_WATCHES; i++)
        if (watcher->watches[i].last_ms < found->last_ms)
            found = &watcher->watches[i]; /* a free one has 0 */
    forget(found);
    (void)snprintf(found->name, sizeof(found->name), "%s", name);
    return found;
}

/* False: out of memory. */
static bool push(struct side *side, const struct lorica_split_sample *sample) {
    if (side->count == side->room && side->room < LORICA_SPLIT_REQUESTS_MAX) {
        const size_t doubled = side->room ? 2 * side->room : 64;
        const size_t room =
            doubled < LORICA_SPLIT_REQUESTS_MAX ? doubled : LORICA_SPLIT_REQUESTS_MAX;
        struct lorica_split_sample *grown = realloc(side->samples, room * sizeof(*grown));
        if (!grown)
            return false;
        side->samples = grown;
        side->room = room;
    }
    if (side->count < side->room) {
        side->samples[side->count++] = *sample;
    } else {
        side->samples[side->next] = *sample;
        side->next = (side->next + 1) % side->room;
    }
    return true;
}

void lorica_split_note(struct lorica_split_watcher *watcher, const char *name,
                       const struct lorica_split_choice *choice,
                       const struct lorica_split_sample *sample) {
    struct watch *watch = place_for(watcher, name);
    if (choice->epoch < watch->choice.epoch)
        return; /* decided by a split that is no more */
    if (choice->epoch > watch->choice.epoch) {
        forget(watch);
        (void)snprintf(watch->name, sizeof(watch->name), "%s", name);
        watch->choice = *choice;
    }
    if (!push(choice->arm == LORICA_SPLIT_CANARY ? &watch->canary : &watch->stable, sample))
        lorica_log_line(watcher->server->parts.log, "error",
                        "event=split_sample_lost adapter=%s why=\"out of memory\"", name);
    watch->last_ms = sample->at_ms;
    watch->fresh = true;
}

static void run_ending(struct lorica_lane_job *job) {
    struct ending *ending = (struct ending *)(void *)job;
    const struct lorica_actor actor = {.key_name = LORICA_SPLIT_ACTOR, .message = ending->reason};
    struct lorica_split split;
    ending->rc = lorica_registry_split_end(ending->watcher->server->parts.registry, ending->name,
                                           &ending->epoch, &actor, &split, &ending->err);
}

static void ending_done(struct lorica_lane_job *job) {
    struct ending *ending = (struct ending *)(void *)job;
    struct lorica_log *log = ending->watcher->server->parts.log;
    struct watch *watch = find(ending->watcher, ending->name);
    const bool over =
        ending->rc == 0 || ending->rc == LORICA_EPRECOND || ending->rc == LORICA_ENOTFOUND;
    if (ending->rc == 0)
        lorica_log_line(log, "warning", "event=split_ended adapter=%s why=\"%s\"", ending->name,
                        ending->reason);
    else if (!over)
        lorica_log_line(log, "error", "event=split_not_ended adapter=%s why=\"%s\"", ending->name,
                        ending->err.text);
    if (watch && watch->choice.epoch == ending->epoch) {
        if (over)
            forget(watch);
        else
            watch->ending = false; /* tried again with the next second */
    }
    free(ending);
}

static void end(struct lorica_split_watcher *watcher, struct watch *watch, const char *reason) {
    struct ending *ending = calloc(1, sizeof(*ending));
    if (!ending)
        return; /* tried again with the next second */
    ending->job.run = run_ending;
    ending->job.done = ending_done;
    ending->job.quick = true;
    ending->watcher = watcher;
    ending->epoch = watch->choice.epoch;
    memcpy(ending->name, watch->name, sizeof(ending->name));
    (void)snprintf(ending->reason, sizeof(ending->reason), "%s", reason);
    watch->ending = lorica_lane_submit(watcher->server->writer, &ending->job) == 0;
    if (!watch->ending)
        free(ending);
}

static void judge(struct lorica_split_watcher *watcher, struct watch *watch, uint64_t now_ms) {
    const struct lorica_split_terms *terms = &watch->choice.terms;
    const uint64_t window_ms = (uint64_t)terms->window_s * 1000;
    const uint64_t since = now_ms > window_ms ? now_ms - window_ms : 0;
    char reason[REASON_MAX];
    if (watch->last_ms < since) {
        forget(watch);
        return;
    }
    const struct lorica_split_figures stable =
        lorica_split_sum(watch->stable.samples, watch->stable.count, since, watcher->scratch);
    const struct lorica_split_figures canary =
        lorica_split_sum(watch->canary.samples, watch->canary.count, since, watcher->scratch);
    watch->fresh =
        lorica_split_worse(terms, watch->choice.stable, &stable, &canary, reason, sizeof(reason));
    if (watch->fresh)
        end(watcher, watch, reason);
}

static void on_second(uv_timer_t *timer) {
    struct lorica_split_watcher *watcher = timer->data;
    const uint64_t now_ms = uv_now(timer->loop);
    for (size_t i = 0; i < LORICA_SPLIT_WATCHES; i++) {
        struct watch *watch = &watcher->watches[i];
        const uint64_t window_ms = (uint64_t)watch->choice.terms.window_s * 1000;
        if (watch->name[0] && !watch->ending &&
            (watch->fresh || now_ms - watch->last_ms > window_ms))
            judge(watcher, watch, now_ms);
    }
}

int lorica_split_watcher_create(struct lorica_server *server, struct lorica_split_watcher **ret,
                                struct lorica_error *err) {
    struct lorica_split_watcher *watcher = calloc(1, sizeof(*watcher));
    if (!watcher)
        return lorica_fail(err, LORICA_ENOMEM, "the splits: out of memory");
    watcher->server = server;
    int rc = uv_timer_init(&server->loop, &watcher->timer);
    if (rc != 0) {
        free(watcher);
        return lorica_uv_fail(err, rc, "the splits");
    }
    watcher->timer.data = watcher;
    (void)uv_timer_start(&watcher->timer, on_second, CHECK_MS, CHECK_MS); /* has a callback */
    *ret = watcher;
    return 0;
}

void lorica_split_watcher_destroy(struct lorica_split_watcher *watcher) {
    for (size_t i = 0; watcher && i < LORICA_SPLIT_WATCHES; i++)
        forget(&watcher->watches[i]);
    free(watcher);
}
