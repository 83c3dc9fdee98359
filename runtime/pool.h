/* SPDX-License-Identifier: MIT
 * A team of threads that runs one function at a time, all threads the whole function (SPMD), with
 * barriers inside it. Between two barriers of a running job threads spin, then sleep after a
 * bounded while; between jobs they sleep. */
#ifndef LORICA_RUNTIME_POOL_H
#define LORICA_RUNTIME_POOL_H

#include <stdint.h>

#include "proto/err.h"

struct lorica_pool;

/** A job: called once on every thread of the team with its number, 0 <= thread < threads. */
typedef void (*lorica_pool_fn)(void *arg, unsigned thread, unsigned threads);

/** Starts a team of `threads` (1 to 256) including the caller's; 0 means one per processor that
 * this process may use. The thread that calls run is always number 0. */
int lorica_pool_create(unsigned threads, struct lorica_pool **ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Called by the thread that will run the jobs, before the first. Where the process may use exactly
 * as many processors as the team has threads, each thread is bound to one of them: when something
 * else had its turn, the system may otherwise leave two of the team on one processor for a while,
 * and every barrier waits for both. With any other number nothing changes. Threads that the caller
 * starts afterwards are bound as it is. */
void lorica_pool_bind(struct lorica_pool *pool);

/** Ends the team. NULL is accepted. No job may be running. */
void lorica_pool_destroy(struct lorica_pool *pool);

/** Number of threads. */
unsigned lorica_pool_threads(const struct lorica_pool *pool);

/** Runs a job on the whole team and returns when every thread has finished it. One at a time,
 * always from the same thread. */
void lorica_pool_run(struct lorica_pool *pool, lorica_pool_fn fn, void *arg);

/** Inside a job: waits until every thread of the team has come here; what each wrote before is
 * visible to all after. Every thread must call it equally often. */
void lorica_pool_barrier(struct lorica_pool *pool);

/** The two halves of a barrier, for work between them that needs nothing of the others: what a
 * thread wrote before arrive is visible to those that return from wait with the ticket of theirs.
 * Between the two a thread must not call any of the three again. */
uint32_t lorica_pool_arrive(struct lorica_pool *pool) LORICA_MUSTCHECK;
void lorica_pool_wait(struct lorica_pool *pool, uint32_t ticket);

/** The part of `count` items that a thread takes: [*ret_begin, *ret_end), contiguous, sizes differ
 * by at most one. */
void lorica_pool_range(uint32_t count, unsigned thread, unsigned threads, uint32_t *ret_begin,
                       uint32_t *ret_end);

#endif
