/* SPDX-License-Identifier: MIT
 * Sending a journal (mlflow_journal.h): the part that those who write it and those who find it
 * share. */
#ifndef LORICA_GATEWAY_MLFLOW_MLFLOW_SEND_H
#define LORICA_GATEWAY_MLFLOW_MLFLOW_SEND_H

#include "gateway/mlflow/mlflow.h"

struct lorica_mlflow_send;

/** Opens the journal DIR/NAME to read it from its head on; the head must be there. *ret_url (may be
 * NULL) is where it wants to go, borrowed from *ret. On success the caller owns *ret. */
int lorica_mlflow_send_open(const char *dir, const char *name, struct lorica_mlflow_send **ret,
                            const char **ret_url, struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_mlflow_send_close(struct lorica_mlflow_send *send);

/** Sends what the journal holds now beyond what was sent. `last`: nothing more will be written; a
 * journal without its last line is of a run that was killed. *ret_all: the server has everything,
 * and the run there has ended. After a failure it may be called again. */
int lorica_mlflow_send_some(struct lorica_mlflow_send *send, struct lorica_mlflow *mlflow,
                            bool last, bool *ret_all, struct lorica_error *err) LORICA_MUSTCHECK;

/** Where people see the run, "SERVER/#/experiments/1/runs/abc"; "" before it is known. */
const char *lorica_mlflow_send_link(const struct lorica_mlflow_send *send);
/** What of the run could not be sent because it is no longer there, for people; "" for nothing. */
const char *lorica_mlflow_send_note(const struct lorica_mlflow_send *send);

#endif
