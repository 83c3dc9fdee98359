/* SPDX-License-Identifier: MIT */
#include "gateway/writer.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "gateway/uverr.h"

#define QUEUE_MAX 256
/* Steps of niceness behind the threads that answer. */
#define BEHIND 5

struct queue {
    struct lorica_writer_job *first, **end;
};

struct lorica_writer {
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

static void queue_push(struct queue *queue, struct lorica_writer_job *job) {
    job->next = NULL;
    *queue->end = job;
    queue->end = &job->next;
}

static struct lorica_writer_job *queue_pop(struct queue *queue) {
    struct lorica_writer_job *job = queue->first;
    if (job && !(queue->first = job->next))
        queue->end = &queue->first;
    return job;
}

static void *run(void *arg) {
    struct lorica_writer *writer = arg;
    (void)!nice(BEHIND); /* of this thread alone, on Linux */
    pthread_mutex_lock(&writer->mutex);
    for (;;) {
        struct lorica_writer_job *job = queue_pop(&writer->waiting);
        if (!job && writer->stop)
            break;
        if (!job) {
            pthread_cond_wait(&writer->wake, &writer->mutex);
            continue;
        }
        pthread_mutex_unlock(&writer->mutex);
        job->run(job);
        pthread_mutex_lock(&writer->mutex);
        queue_push(&writer->finished, job);
        uv_async_send(&writer->wake_loop);
    }
    pthread_mutex_unlock(&writer->mutex);
    return NULL;
}

static void complete(struct lorica_writer *writer) {
    for (;;) {
        pthread_mutex_lock(&writer->mutex);
        struct lorica_writer_job *job = queue_pop(&writer->finished);
        if (job)
            writer->count--;
        pthread_mutex_unlock(&writer->mutex);
        if (!job)
            return;
        job->done(job);
    }
}

static void on_wake(uv_async_t *async) {
    struct lorica_writer *writer = async->data;
    complete(writer);
    if (writer->after)
        writer->after(writer->arg);
}

static void on_close(uv_handle_t *handle) {
    struct lorica_writer *writer = handle->data;
    pthread_cond_destroy(&writer->wake);
    pthread_mutex_destroy(&writer->mutex);
    free(writer);
}

int lorica_writer_create(uv_loop_t *loop, void (*after)(void *arg), void *arg,
                         struct lorica_writer **ret, struct lorica_error *err) {
    struct lorica_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return lorica_fail(err, LORICA_ENOMEM, "the writer: out of memory");
    writer->after = after;
    writer->arg = arg;
    queue_init(&writer->waiting);
    queue_init(&writer->finished);
    pthread_mutex_init(&writer->mutex, NULL);
    pthread_cond_init(&writer->wake, NULL);
    const int rc = uv_async_init(loop, &writer->wake_loop, on_wake);
    if (rc != 0) {
        pthread_cond_destroy(&writer->wake);
        pthread_mutex_destroy(&writer->mutex);
        free(writer);
        return lorica_uv_fail(err, rc, "the writer");
    }
    writer->wake_loop.data = writer;
    if (pthread_create(&writer->thread, NULL, run, writer) != 0) {
        uv_close((uv_handle_t *)&writer->wake_loop, on_close);
        return lorica_fail(err, LORICA_ENOMEM, "the writer: no thread could be started");
    }
    *ret = writer;
    return 0;
}

void lorica_writer_destroy(struct lorica_writer *writer) {
    if (!writer)
        return;
    pthread_mutex_lock(&writer->mutex);
    writer->stop = true;
    pthread_cond_signal(&writer->wake);
    pthread_mutex_unlock(&writer->mutex);
    pthread_join(writer->thread, NULL);
    complete(writer);
    uv_close((uv_handle_t *)&writer->wake_loop, on_close);
}

int lorica_writer_submit(struct lorica_writer *writer, struct lorica_writer_job *job) {
    int rc = 0;
    pthread_mutex_lock(&writer->mutex);
    if (writer->stop || writer->count == QUEUE_MAX) {
        rc = LORICA_EBUSY;
    } else {
        writer->count++;
        queue_push(&writer->waiting, job);
        pthread_cond_signal(&writer->wake);
    }
    pthread_mutex_unlock(&writer->mutex);
    return rc;
}
