/* SPDX-License-Identifier: MIT */
#include "gateway/lane.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "gateway/uverr.h"

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
        pthread_mutex_unlock(&lane->mutex);
        job->run(job);
        pthread_mutex_lock(&lane->mutex);
        queue_push(&lane->finished, job);
        uv_async_send(&lane->wake_loop);
    }
    pthread_mutex_unlock(&lane->mutex);
    return NULL;
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
    pthread_cond_init(&lane->wake, NULL);
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
