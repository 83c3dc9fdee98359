/* SPDX-License-Identifier: MIT
 * A training run on its way to MLflow.
 *
 * A run that is to be logged writes a JOURNAL beside its adapter, DIR/mlflow-MARK.jsonl: its first
 * line is the head (where to send it, parameters), then come the lines of train_log.h, and the last
 * says how the run ended. Whoever sends it, the run itself or `lorica train --mlflow-sync`, does
 * the same: what the server has not got yet follows from what it says it has, so a journal may be
 * sent again at any time and nothing stands there twice. Once the server has all of it the journal
 * is removed. The run holds a lock on its journal while it lives. */
#ifndef LORICA_GATEWAY_MLFLOW_MLFLOW_JOURNAL_H
#define LORICA_GATEWAY_MLFLOW_MLFLOW_JOURNAL_H

#include <stdio.h>

#include "gateway/mlflow/mlflow.h"

/** The first line. All borrowed. */
struct lorica_mlflow_head {
    const char *url;        /**< without name and password */
    const char *experiment; /**< name */
    const char *name;       /**< of the run */
    const char *params;     /**< a JSON object: name to text */
};

/** A journal that is being written, and sent meanwhile by a thread of its own. */
struct lorica_mlflow_journal;

/** Makes a journal in DIR, and starts to send it with `mlflow`, which it takes over whatever comes
 * of it. On success the caller owns *ret; finish it. */
int lorica_mlflow_journal_create(const char *dir, const struct lorica_mlflow_head *head,
                                 struct lorica_mlflow *mlflow, struct lorica_mlflow_journal **ret,
                                 struct lorica_error *err) LORICA_MUSTCHECK;
/** Where lines go. Borrowed; flush after each. */
FILE *lorica_mlflow_journal_file(struct lorica_mlflow_journal *journal);
/** Writes the last line, status FINISHED, FAILED or KILLED, waits for a bounded time until all is
 * sent, says what came of it, and frees. NULL is accepted. */
void lorica_mlflow_journal_finish(struct lorica_mlflow_journal *journal, const char *status);

/** Sends the journals of DIR that are not being written. `url` (may be NULL) stands over their own.
 * Prints what it does; returns an enum lorica_exit. */
int lorica_mlflow_sync(const char *dir, const char *url, const char *ca);

#endif
