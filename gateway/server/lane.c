/* SPDX-License-Identifier: MIT */
#include "gateway/server/lane.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "gateway/server/uverr.h"

#define QUEUE_MAX 256
/* Steps of niceness behind the threads that answer. */
#define BEHIND 5

struct queue {
    struct lorica_lane_job *first, **end;
};

struct lorica_lane {
    uv_async_t wake_loop;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct queue waiting, finished;
    unsigned count; /* jobs between submit and done */
    void (*after)(void *arg);
    void *arg;
    bool stop;
};

static void queue_init(struct queue *queue) {
    queue->first = NULL;
    queue->end = &queue->first;
}

static void queue_push(struct queue *queue, struct lorica_lane_job *job) {
    job->next = NULL;
    *queue->end = job;
    queue->end = &job->next;
}

static struct lorica_lane_job *queue_pop(struct queue *queue) {
    struct lorica_lane_job *job = queue->first;
    if (job && !(queue->first = job->next))
        queue->end = &queue->first;
    return job;
}

void lorica_lane_give_way(void) {
    static _Thread_local bool gives_way;
    if (!gives_way)
        (void)!nice(BEHIND); /* of this thread alone, on Linux */
    gives_way = true;
}

/* Takes the first quick job out of the queue, wherever it stands. */
static struct lorica_lane_job *queue_pop_quick(struct queue *queue) {
    struct lorica_lane_job **at = &queue->first;
    while (*at && !(*at)->quick)
        at = &(*at)->next;
    struct lorica_lane_job *job = *at;
    if (job && !(*at = job->next))
        queue->end = at;
    return job;
}

/* Runs a job; the mutex is held before and after. */
static void work_off(struct lorica_lane *lane, struct lorica_lane_job *job) {
    pthread_mutex_unlock(&lane->mutex);
    job->run(job);
    pthread_mutex_lock(&lane->mutex);
    queue_push(&lane->finished, job);
    uv_async_send(&lane->wake_loop);
}

static void *run(void *arg) {
    struct lorica_lane *lane = arg;
    lorica_lane_give_way();
    pthread_mutex_lock(&lane->mutex);
    for (;;) {
        struct lorica_lane_job *job = queue_pop(&lane->waiting);
        if (!job && lane->stop)
            break;
        if (!job) {
            pthread_cond_wait(&lane->wake, &lane->mutex);
            continue;
        }
        work_off(lane, job);
    }
    pthread_mutex_unlock(&lane->mutex);
    return NULL;
}

void lorica_lane_let_in(struct lorica_lane *lane, unsigned ms) {
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += (time_t)(ms / 1000) + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&lane->mutex);
    for (;;) {
        struct lorica_lane_job *job = queue_pop_quick(&lane->waiting);
        if (job)
            work_off(lane, job);
        else if (ms == 0 || lane->stop ||
                 pthread_cond_timedwait(&lane->wake, &lane->mutex, &until) != 0)
            break;
    }
    pthread_mutex_unlock(&lane->mutex);
}

static void complete(struct lorica_lane *lane) {
    for (;;) {
        pthread_mutex_lock(&lane->mutex);
        struct lorica_lane_job *job = queue_pop(&lane->finished);
        if (job)
            lane->count--;
        pthread_mutex_unlock(&lane->mutex);
        if (!job)
            return;
        job->done(job);
    }
}

static void on_wake(uv_async_t *async) {
    struct lorica_lane *lane = async->data;
    complete(lane);
    if (lane->after)
        lane->after(lane->arg);
}

static void on_close(uv_handle_t *handle) {
    struct lorica_lane *lane = handle->data;
    pthread_cond_destroy(&lane->wake);
    pthread_mutex_destroy(&lane->mutex);
    free(lane);
}

/* Waits are measured by a clock that nobody sets. */
static void init_wake(pthread_cond_t *wake) {
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(wake, &attr);
    (void)pthread_condattr_destroy(&attr);
}

int lorica_lane_create(uv_loop_t *loop, void (*after)(void *arg), void *arg,
                       struct lorica_lane **ret, struct lorica_error *err) {
    struct lorica_lane *lane = calloc(1, sizeof(*lane));
    if (!lane)
        return lorica_fail(err, LORICA_ENOMEM, "a lane: out of memory");
    lane->after = after;
    lane->arg = arg;
    queue_init(&lane->waiting);
    queue_init(&lane->finished);
    pthread_mutex_init(&lane->mutex, NULL);
    init_wake(&lane->wake);
    const int rc = uv_async_init(loop, &lane->wake_loop, on_wake);
    if (rc != 0) {
        pthread_cond_destroy(&lane->wake);
        pthread_mutex_destroy(&lane->mutex);
        free(lane);
        return lorica_uv_fail(err, rc, "a lane");
    }
    lane->wake_loop.data = lane;
    if (pthread_create(&lane->thread, NULL, run, lane) != 0) {
        uv_close((uv_handle_t *)&lane->wake_loop, on_close);
        return lorica_fail(err, LORICA_ENOMEM, "a lane: no thread could be started");
    }
    *ret = lane;
    return 0;
}

void lorica_lane_destroy(struct lorica_lane *lane) {
    if (!lane)
        return;
    pthread_mutex_lock(&lane->mutex);
    lane->stop = true;
    pthread_cond_signal(&lane->wake);
    pthread_mutex_unlock(&lane->mutex);
    pthread_join(lane->thread, NULL);
    complete(lane);
    uv_close((uv_handle_t *)&lane->wake_loop, on_close);
}

int lorica_lane_submit(struct lorica_lane *lane, struct lorica_lane_job *job) {
    int rc = 0;
    pthread_mutex_lock(&lane->mutex);
    if (lane->stop || lane->count == QUEUE_MAX) {
        rc = LORICA_EBUSY;
    } else {
        lane->count++;
        queue_push(&lane->waiting, job);
        pthread_cond_signal(&lane->wake);
    }
    pthread_mutex_unlock(&lane->mutex);
    return rc;
}
