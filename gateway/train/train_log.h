/* SPDX-License-Identifier: MIT
 * What a training run tells of itself while it runs: lines of JSON, and the curves of its plot. */
#ifndef LORICA_GATEWAY_TRAIN_TRAIN_LOG_H
#define LORICA_GATEWAY_TRAIN_TRAIN_LOG_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/uio.h>

#include "runtime/train/trainer.h"

/** One run's log. Each update is one line, an object: "step", "loss", "lr", "grad_norm", "tokens",
 * "seconds" (both since the beginning), "memory_mb" (the largest so far), "time_ms" (Unix), and
 * "eval_loss" where the loss on examples held apart was measured after that update. */
struct lorica_train_log;

/** Begins the log in a file at `path` (NULL: no file). It replaces what was there; with `resume` it
 * goes on behind the lines of the updates before the first that it hears of. On success the caller
 * owns *ret. */
int lorica_train_log_create(const char *path, bool resume, struct lorica_train_log **ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;
/** Writes the same lines to `copy` too, and one for "step" 0; borrowed until destroy. */
void lorica_train_log_copy(struct lorica_train_log *log, FILE *copy);

/** After an update; of step 0, before the first, there is no line in the file. */
void lorica_train_log_update(struct lorica_train_log *log, const struct lorica_trainer_progress *p);

/** The log's own memory of the curves, which a checkpoint keeps so that the plot of a run that goes
 * on begins where the run did. Borrowed until destroy. */
struct iovec lorica_train_log_notes(struct lorica_train_log *log);

/** Writes DIR/loss.svg. */
int lorica_train_log_plot(const struct lorica_train_log *log, const char *dir, const char *title,
                          const char *subtitle, struct lorica_error *err) LORICA_MUSTCHECK;

/** Ends the log. An error says that not every line could be written. NULL is accepted. */
int lorica_train_log_destroy(struct lorica_train_log *log,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** Largest resident memory of this process so far, in MiB. */
double lorica_train_memory_mb(void);

#endif
