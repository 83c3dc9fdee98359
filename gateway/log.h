/* SPDX-License-Identifier: MIT
 * The log: lines of `key=value` on standard error. A thread of its own writes them, so that a slow
 * terminal or a full pipe never stops the loop; what does not fit into the bounded buffer is
 * counted and the count is logged. Prompts, answers and keys never come here. */
#ifndef LORICA_GATEWAY_LOG_H
#define LORICA_GATEWAY_LOG_H

#include "proto/err.h"

struct lorica_log;

/** Starts writing to a file descriptor, which must stay open until destroy. */
int lorica_log_create(int fd, struct lorica_log **ret) LORICA_MUSTCHECK;
/** Writes what waits, stops the thread, frees. NULL is accepted. */
void lorica_log_destroy(struct lorica_log *log);

/** One line: `time=2026-01-31T12:00:00.123Z level=LEVEL ` and the formatted text. Control
 * characters become '?'. Any thread; never blocks. NULL log: nothing. */
void lorica_log_line(struct lorica_log *log, const char *level, const char *fmt, ...)
    LORICA_PRINTF(3, 4);

#endif
