/* SPDX-License-Identifier: MIT
 * Inside of jobs: what the store (jobs.c), its events (job_events.c) and the thread that works them
 * off (job_runner.c, job_publish.c) share. */
#ifndef LORICA_GATEWAY_JOBS_JOBS_PRIVATE_H
#define LORICA_GATEWAY_JOBS_JOBS_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "gateway/jobs/jobs.h"
#include "gateway/server/request.h"

/** A job in memory. */
struct lorica_job_entry {
    struct lorica_job job;
    bool damaged;                  /**< its job.json cannot be read, and is left as it is */
    uint64_t events;               /**< lines of events.jsonl */
    int64_t logged_step;           /**< last update that there is an event of */
    int64_t started_step;          /**< that update when the trainer was started */
    int64_t started_ms;            /**< when; 0: it does not run */
    struct lorica_job_entry *next; /**< older */
};

struct lorica_jobs {
    struct lorica_server *server;
    char *dir;                      /**< DIR/train/jobs */
    pthread_mutex_t mutex;          /**< over what follows */
    struct lorica_job_entry *first; /**< the newest */
    _Atomic unsigned counts[LORICA_JOB_STATE_COUNT];
    int wake;                                 /**< eventfd: something changed */
    atomic_bool stopping;                     /**< the server ends */
    _Atomic(struct lorica_request *) checked; /**< whose checks run; freed by the loop alone */
    pthread_t thread;
    bool started;
};

/** DIR/train/jobs/ID/NAME, for free(); NULL: out of memory. */
char *lorica_job_path(const struct lorica_jobs *jobs, const struct lorica_job *job,
                      const char *name);
/** Wakes the thread. */
void lorica_jobs_wake(struct lorica_jobs *jobs);

/* With the mutex held: */

/** Sets a job's state, durably, with an event that says so. On failure it stays what it was. */
int lorica_job_set(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                   enum lorica_job_state to, const char *message,
                   struct lorica_error *err) LORICA_MUSTCHECK;
/** Queues a job again in memory alone, when its state cannot be kept; job.json says as much. */
void lorica_job_requeue(struct lorica_jobs *jobs, struct lorica_job_entry *entry);
/** Removes what a job that is over needs no more. */
void lorica_job_tidy(struct lorica_jobs *jobs, const struct lorica_job *job);

/** Reads where a job's events end; a last line that is not whole is cut off. At start. */
int lorica_job_events_open(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Adds an event; failures go to the log. */
void lorica_job_event(struct lorica_jobs *jobs, struct lorica_job_entry *entry, const char *level,
                      const char *message);
/** Adds an event of an update, given its line of metrics; one of an update that there is an event
 * of is passed over, as is what is no such line. */
void lorica_job_event_update(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                             const char *line, size_t len);

/** Makes the file of figures of a job that is published, with its id in job->result; failures go to
 * the log. Without the mutex. */
void lorica_job_results_make(struct lorica_jobs *jobs, struct lorica_job *job);
/** Removes it. */
void lorica_job_results_remove(struct lorica_jobs *jobs, const struct lorica_job *job);

/** The thread. */
void *lorica_job_runner(void *arg);
/** Publishes what the trainer made, as the owner, and fills in job->result; else `code` and *err
 * say why not. LORICA_ECANCELED: the server ends. Without the mutex. */
int lorica_job_publish(struct lorica_jobs *jobs, struct lorica_job *job, char *code, size_t size,
                       struct lorica_error *err) LORICA_MUSTCHECK;

#endif
