/* SPDX-License-Identifier: MIT
 * A client of an MLflow tracking server: runs, their artifacts, registered models. Its requests
 * block the calling thread, each for a bounded time.
 *
 * Who asks is taken from the environment, as MLflow's own client does: MLFLOW_TRACKING_USERNAME and
 * MLFLOW_TRACKING_PASSWORD, else MLFLOW_TRACKING_TOKEN; a name and password in the address stand
 * over both. They travel over TLS, or within this machine. MLFLOW_HTTP_REQUEST_TIMEOUT bounds the
 * seconds that an answer, or an upload that does not move, is waited for (30). */
#ifndef LORICA_GATEWAY_MLFLOW_MLFLOW_H
#define LORICA_GATEWAY_MLFLOW_MLFLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/mlflow.h"

/** One server. Not thread-safe: one thread at a time. */
struct lorica_mlflow;

struct lorica_mlflow_options {
    const char *url; /**< see lorica_mlflow_url_parse */
    const char *ca;  /**< PEM file of the authority; NULL: $MLFLOW_TRACKING_SERVER_CERT_PATH, else
                          the system's */
    /** Asked now and then while a request runs, on its thread: true ends it with
     * LORICA_ECANCELED. May be NULL. */
    bool (*stopped)(void *arg);
    void *arg;
};

/** Judges address and credentials; connects to nothing yet. LORICA_EINVAL says what is wrong. On
 * success the caller owns *ret; destroy it. */
int lorica_mlflow_create(const struct lorica_mlflow_options *options, struct lorica_mlflow **ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;
/** Closes. NULL is accepted. */
void lorica_mlflow_destroy(struct lorica_mlflow *mlflow);
/** The address without name and password. Borrowed. */
const char *lorica_mlflow_server(const struct lorica_mlflow *mlflow);

/** True for an error that may be over when the request is made again later: the server is away, too
 * slow, at fault itself, turns these credentials away, or is another one. False: MLflow refuses
 * just this, and will for ever. */
bool lorica_mlflow_may_pass(int code);

/** GET (`body` NULL) or POST of a path below /api/2.0/mlflow/, such as "runs/create". An answer of
 * 300 or more is an error with MLflow's sentence: LORICA_ECONFLICT for RESOURCE_ALREADY_EXISTS,
 * LORICA_ENOTFOUND for RESOURCE_DOES_NOT_EXIST. `ret` may be NULL; else the caller frees *ret with
 * lorica_json_destroy. */
int lorica_mlflow_call(struct lorica_mlflow *mlflow, const char *path,
                       const struct lorica_buf *body, struct lorica_json **ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Likewise with another method, for the few that want one. */
int lorica_mlflow_send(struct lorica_mlflow *mlflow, const char *method, const char *path,
                       const struct lorica_buf *body, struct lorica_error *err) LORICA_MUSTCHECK;

/** Id of the experiment of this name, which is made where it is not there yet. */
int lorica_mlflow_experiment(struct lorica_mlflow *mlflow, const char *name,
                             char ret[LORICA_MLFLOW_ID_MAX + 1],
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** A run to begin. */
struct lorica_mlflow_new_run {
    const char *experiment; /**< id */
    const char *name;
    const char *mark; /**< the tag lorica.run, of LORICA_MLFLOW_ID_MAX bytes at most, tells the run:
                           there is one run with it, however often this is asked for */
    int64_t start_ms; /**< Unix time */
};
/** Finds the run of this mark, or makes it. */
int lorica_mlflow_run(struct lorica_mlflow *mlflow, const struct lorica_mlflow_new_run *wanted,
                      struct lorica_mlflow_run *ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** The run as the server has it, for lorica_mlflow_last_step: a "run" member with "info" and
 * "data". The caller frees *ret with lorica_json_destroy. */
int lorica_mlflow_run_get(struct lorica_mlflow *mlflow, const char *run_id,
                          struct lorica_json **ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** Ends a run: status FINISHED, FAILED or KILLED. */
int lorica_mlflow_run_end(struct lorica_mlflow *mlflow, const char *run_id, const char *status,
                          int64_t end_ms, struct lorica_error *err) LORICA_MUSTCHECK;

/** Stores bytes as the artifact `name` ("adapter/x.json") of a run, instead of what had that name.
 */
int lorica_mlflow_put(struct lorica_mlflow *mlflow, const struct lorica_mlflow_run *run,
                      const char *name, const void *bytes, size_t len,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Stores a file likewise; it is read while it is sent. */
int lorica_mlflow_put_file(struct lorica_mlflow *mlflow, const struct lorica_mlflow_run *run,
                           const char *name, const char *path,
                           struct lorica_error *err) LORICA_MUSTCHECK;

#endif
