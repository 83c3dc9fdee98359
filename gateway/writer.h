/* SPDX-License-Identifier: MIT
 * A thread that works off a bounded queue: each job is run there and then completed on the loop's
 * thread. The server has two: the one thread that changes the registry, and one that judges what
 * was uploaded. Both give way to the threads that answer, so that a storm of publishes is not felt
 * in running streams. */
#ifndef LORICA_GATEWAY_WRITER_H
#define LORICA_GATEWAY_WRITER_H

#include <uv.h>

#include "proto/err.h"

struct lorica_writer;

/** Part of whatever waits for the writer; must live until `done` was called. */
struct lorica_writer_job {
    void (*run)(struct lorica_writer_job *job);  /**< on the writer's thread */
    void (*done)(struct lorica_writer_job *job); /**< on the loop's thread, after run */
    struct lorica_writer_job *next;              /**< private */
};

/** Starts the thread. `after` (may be NULL) is called with `arg` on the loop's thread when jobs
 * were completed. */
int lorica_writer_create(uv_loop_t *loop, void (*after)(void *arg), void *arg,
                         struct lorica_writer **ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** Finishes the jobs that wait, stops the thread and closes the handle; run the loop once more
 * after it, which completes those jobs and frees the writer. Loop thread. NULL is accepted. */
void lorica_writer_destroy(struct lorica_writer *writer);

/** Queues a job. LORICA_EBUSY when the queue is full: its callbacks are then never called. Loop
 * thread. */
int lorica_writer_submit(struct lorica_writer *writer,
                         struct lorica_writer_job *job) LORICA_MUSTCHECK;

#endif
