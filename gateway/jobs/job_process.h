/* SPDX-License-Identifier: MIT
 * The trainer as a process of its own: this program again, behind everything that serves. It has
 * the lowest priority there is (SCHED_IDLE, for the disk too), a bound on its memory, none of the
 * server's files, environment or keys, and ends (behind a checkpoint) when the server does. */
#ifndef LORICA_GATEWAY_JOBS_JOB_PROCESS_H
#define LORICA_GATEWAY_JOBS_JOB_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/err.h"

/** How to start one. Everything is borrowed. */
struct lorica_process_plan {
    char *const *argv;     /**< NULL-terminated; argv[0] is a name */
    const char *out;       /**< file for what it prints; what was there goes */
    int lock;              /**< stays open in it, so that a lock on it lasts as long as it does */
    uint64_t memory_bytes; /**< private memory that it may have; 0: no bound */
};

struct lorica_process {
    pid_t pid;
    int fd; /**< readable once it has ended */
};

/** Starts it. The calling thread must outlive the process: it is told to end when that thread does.
 */
int lorica_process_start(const struct lorica_process_plan *plan, struct lorica_process *ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_process_signal(const struct lorica_process *process, int number);
/** Waits for its end and closes; gives waitpid()'s status. */
int lorica_process_wait(struct lorica_process *process);

#endif
