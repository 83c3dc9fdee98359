/* SPDX-License-Identifier: MIT
 * Seeing a run learn: its log and plot, and MLflow where a tracking server is named. */
#ifndef LORICA_GATEWAY_TRAIN_TRAIN_TRACK_H
#define LORICA_GATEWAY_TRAIN_TRAIN_TRACK_H

#include "gateway/mlflow/mlflow_journal.h"
#include "gateway/train/train.h"
#include "gateway/train/train_log.h"

/** What it is about. All borrowed. */
struct lorica_train_tracked {
    const struct lorica_train_job *job;
    const char *dir; /**< where the adapter goes */
    const struct lorica_base *base;
    const struct lorica_tokenizer *tokenizer;
    const struct lorica_train_data *data, *held_apart; /**< held_apart may be empty */
};

/** A run's log, and its journal for MLflow (NULL: none). Zeroed: nothing was begun. */
struct lorica_train_tracker {
    struct lorica_train_log *log;
    struct lorica_mlflow_journal *journal;
};

/** Begins log and journal. That MLflow is away is no error; that its address is none is. */
int lorica_train_track_begin(const struct lorica_train_tracked *what,
                             struct lorica_train_tracker *ret,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** Ends both. `rc` is what became of the run: 0, or its error; then the adapter was not written.
 * After a run that went well it writes DIR/loss.svg, and for MLflow DIR/samples.jsonl. Returns
 * `rc`, or an error of its own where that is 0. */
int lorica_train_track_end(struct lorica_train_tracker *tracker,
                           const struct lorica_train_tracked *what, int rc,
                           struct lorica_error *err) LORICA_MUSTCHECK;

#endif
