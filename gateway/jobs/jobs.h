/* SPDX-License-Identifier: MIT
 * Fine-tuning jobs: those there are, and the thread that works them off.
 *
 * A job is a directory DIR/train/jobs/ID:
 *   job.json       what it is (job.h); written last when it is made, and whole at every change
 *   events.jsonl   its events as the API shows them, one a line; only ever added to
 *   data.jsonl     the examples (or data.csv): a link to the uploaded file
 *   held/NAME      those held apart, by the uploaded file's name, which policies may ask for
 *   out/           where the trainer leaves checkpoint and adapter
 *   metrics.jsonl, trainer.log   what it tells of itself
 * All but the first two go once the job is over; the adapter of a job that failed stays. One that
 * succeeded leaves the figures of its updates among the training files (job_results.c). Of jobs
 * that are over the last LORICA_JOBS_KEPT are kept.
 *
 * One thread takes the oldest job that is queued, starts the trainer, follows it, and publishes
 * what it made (job_runner.c); so there is one trainer at a time. A lock that the trainer holds
 * keeps this true for one that a killed server left behind. Other threads read and change jobs
 * under a mutex, which is held while job.json is written: not for the loop. */
#ifndef LORICA_GATEWAY_JOBS_JOBS_H
#define LORICA_GATEWAY_JOBS_JOBS_H

#include "gateway/jobs/job.h"
#include "registry/registry.h"

struct lorica_server;
struct lorica_jobs;

/** Jobs that are not over, of one key and of all. */
#define LORICA_JOBS_PER_KEY 16
#define LORICA_JOBS_MAX 64
/** Jobs that are over and can still be looked at. */
#define LORICA_JOBS_KEPT 1000
/** Updates that one job may ask for: each is an event. */
#define LORICA_JOB_STEPS_MAX 200000

/** Reads the jobs there are and starts the thread. What was being made is removed, what is damaged
 * is listed as failed. */
int lorica_jobs_create(struct lorica_server *server, struct lorica_jobs **ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** The server ends: asks the trainer to stop behind a checkpoint. Does not wait. NULL is accepted.
 */
void lorica_jobs_drain(struct lorica_jobs *jobs);
/** Waits for that, at most as long as a drain may take, and frees. The writer must still run. NULL
 * is accepted. */
void lorica_jobs_destroy(struct lorica_jobs *jobs);

/* On a worker: */

/** Fails where one more job of `owner` would be too many (LORICA_ELIMIT). */
int lorica_jobs_check_room(struct lorica_jobs *jobs, const char *owner,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** A directory for a job to be made, with its id, as DIR/train/jobs/new-ID; for free(). */
int lorica_jobs_prepare(struct lorica_jobs *jobs, char id[LORICA_JOB_ID], char **ret_dir,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** Removes one that came to nothing. */
void lorica_jobs_discard(const char *dir);
/** Queues the job whose files are in `dir`, and sets its times. On success `job`'s metadata are
 * taken. */
int lorica_jobs_add(struct lorica_jobs *jobs, const char *dir, struct lorica_job *job,
                    struct lorica_error *err) LORICA_MUSTCHECK;

/** Called with a job under the mutex; `finish_ms`: when it is expected to end, 0: unknown. A
 * non-zero return ends a walk and is returned. */
typedef int (*lorica_job_fn)(void *arg, const struct lorica_job *job, int64_t finish_ms);

/** One job that `key` may see: its own, every one for ops and admin. LORICA_ENOTFOUND for others.
 */
int lorica_jobs_find(struct lorica_jobs *jobs, const struct lorica_key *key, const char *id,
                     lorica_job_fn fn, void *arg, struct lorica_error *err) LORICA_MUSTCHECK;
/** All of them, the newest first, behind the job `after` (NULL: from the first). */
int lorica_jobs_each(struct lorica_jobs *jobs, const struct lorica_key *key, const char *after,
                     lorica_job_fn fn, void *arg, struct lorica_error *err) LORICA_MUSTCHECK;
/** Makes it QUEUED (resumes it), PAUSED or CANCELLED, durably, and calls `fn` as find does.
 * LORICA_EINVAL when it is over or in that state already, LORICA_ECONFLICT while it is published.
 */
int lorica_jobs_move(struct lorica_jobs *jobs, const struct lorica_key *key, const char *id,
                     enum lorica_job_state to, lorica_job_fn fn, void *arg,
                     struct lorica_error *err) LORICA_MUSTCHECK;

/** Appends the bytes of a job's events from `offset` on, whole lines, at most about `max` bytes;
 * tells whether the job is over and there are no more. */
int lorica_jobs_events(struct lorica_jobs *jobs, const char *id, uint64_t offset, size_t max,
                       struct lorica_buf *out, bool *ret_ended,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Appends up to `limit` lines of a job's events, the newest first, from before the event `after`
 * on (NULL: from the last), and tells whether there are older ones. However many there are, little
 * of them is in memory. LORICA_ENOTFOUND when there is no such event. */
int lorica_jobs_events_before(struct lorica_jobs *jobs, const char *id, const char *after,
                              long long limit, struct lorica_buf *out, bool *ret_more,
                              struct lorica_error *err) LORICA_MUSTCHECK;

/** How many jobs are in each state. Any thread, the loop's too. */
void lorica_jobs_count(struct lorica_jobs *jobs, unsigned counts[LORICA_JOB_STATE_COUNT]);

#endif
