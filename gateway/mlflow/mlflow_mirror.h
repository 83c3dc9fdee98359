/* SPDX-License-Identifier: MIT
 * The registry's versions as model versions of an MLflow server, and its channels as their aliases.
 *
 * A thread of its own follows the audit chain, which says everything that happened in its order.
 * How far it came stands in DIR/mlflow.json; where that is lost, or the chain or the server is
 * another one, it begins anew, and finds by their tags the model versions that are there. So
 * nothing that was acknowledged is missed, whatever is down or restarted, and nothing is registered
 * twice. No request ever waits for it. What MLflow refuses for good is logged, counted and passed
 * over. */
#ifndef LORICA_GATEWAY_MLFLOW_MLFLOW_MIRROR_H
#define LORICA_GATEWAY_MLFLOW_MLFLOW_MIRROR_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/log.h"
#include "registry/registry.h"

struct lorica_mlflow_mirror;

/** All borrowed; registry and log must outlive the mirror. */
struct lorica_mlflow_mirror_options {
    struct lorica_registry *registry;
    struct lorica_log *log;
    const char *data_dir;
    const char *url, *ca;   /**< see struct lorica_mlflow_options */
    const char *experiment; /**< that holds the runs of the versions */
};

/** Judges the address and starts the thread. On success the caller owns *ret; destroy it. */
int lorica_mlflow_mirror_create(const struct lorica_mlflow_mirror_options *options,
                                struct lorica_mlflow_mirror **ret,
                                struct lorica_error *err) LORICA_MUSTCHECK;
/** Breaks off what it does, and frees. NULL is accepted. */
void lorica_mlflow_mirror_destroy(struct lorica_mlflow_mirror *mirror);

/** Something was changed in the registry. Never blocks. NULL is accepted. */
void lorica_mlflow_mirror_nudge(struct lorica_mlflow_mirror *mirror);

/** Figures for /metrics. */
struct lorica_mlflow_mirror_stats {
    uint64_t seq;       /**< audit record up to which MLflow has everything */
    uint64_t published; /**< model versions made since the start */
    uint64_t failures;  /**< attempts that failed and are made again */
    uint64_t refused;   /**< records that MLflow refused for good */
    bool failing;       /**< the last attempt failed */
};
void lorica_mlflow_mirror_stats(const struct lorica_mlflow_mirror *mirror,
                                struct lorica_mlflow_mirror_stats *ret);

#endif
