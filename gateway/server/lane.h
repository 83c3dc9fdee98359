/* SPDX-License-Identifier: MIT
 * A lane: a thread that works off a bounded queue, each job run there and then completed on the
 * loop's thread. The server has three: the writer, which alone changes the registry, the judge of
 * what was uploaded, and the checker of what a channel demands. They give way to the threads that
 * answer, so that a storm of publishes is not felt in running streams. */
#ifndef LORICA_GATEWAY_SERVER_LANE_H
#define LORICA_GATEWAY_SERVER_LANE_H

#include <stdbool.h>
#include <uv.h>

#include "proto/err.h"

struct lorica_lane;

/** Lets the calling thread, a lane's or one of libuv's workers, give way to those that answer. What
 * is called again for the same thread changes nothing. */
void lorica_lane_give_way(void);

/** Part of whatever waits for a lane; must live until `done` was called. */
struct lorica_lane_job {
    void (*run)(struct lorica_lane_job *job);  /**< on the lane's thread */
    void (*done)(struct lorica_lane_job *job); /**< on the loop's thread, after run */
    bool quick; /**< may be run between the parts of another job: it neither takes long nor lets
                   others in */
    struct lorica_lane_job *next; /**< private */
};

/** Starts the thread. `after` (may be NULL) is called with `arg` on the loop's thread when jobs
 * were completed. */
int lorica_lane_create(uv_loop_t *loop, void (*after)(void *arg), void *arg,
                       struct lorica_lane **ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** Finishes the jobs that wait, stops the thread and closes the handle; run the loop once more
 * after it, which completes those jobs and frees the lane. Loop thread. NULL is accepted. */
void lorica_lane_destroy(struct lorica_lane *lane);

/** Queues a job. LORICA_EBUSY when the queue is full: its callbacks are then never called. Any
 * thread. */
int lorica_lane_submit(struct lorica_lane *lane, struct lorica_lane_job *job) LORICA_MUSTCHECK;

/** For a job that takes long, between its parts, on the lane's thread: runs the quick jobs that
 * wait, and those that come within `ms` milliseconds. */
void lorica_lane_let_in(struct lorica_lane *lane, unsigned ms);

#endif
