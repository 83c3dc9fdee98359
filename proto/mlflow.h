/* SPDX-License-Identifier: MIT
 * MLflow's REST API, version 2.0 (mlflow.org/docs/latest/rest-api.html): addresses, bodies of
 * requests within its limits, and what is read out of answers. */
#ifndef LORICA_PROTO_MLFLOW_H
#define LORICA_PROTO_MLFLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/json.h"

/** What one runs/log-batch may carry. */
#define LORICA_MLFLOW_METRICS_MAX 1000
#define LORICA_MLFLOW_TEXTS_MAX 100 /**< params, and tags */
#define LORICA_MLFLOW_KEY_MAX 250
#define LORICA_MLFLOW_PARAM_MAX 500 /**< bytes; newer servers take 6000 */
#define LORICA_MLFLOW_TAG_MAX 5000
/** Longest id, and longest address of artifacts, that is taken from an answer. */
#define LORICA_MLFLOW_ID_MAX 64
#define LORICA_MLFLOW_URI_MAX 1000

/** A tracking server's address taken apart. Owned; finish frees. */
struct lorica_mlflow_url {
    char *server;          /**< "http[s]://HOST[:PORT][/PREFIX]", no slash at the end */
    char *user, *password; /**< what stood before an "@", unescaped; NULL: nothing did */
    bool plain;            /**< http */
    bool local;            /**< the host is this machine */
};
/** Takes an address apart. LORICA_EINVAL when it is none; the sentence shows no password. */
int lorica_mlflow_url_parse(const char *text, struct lorica_mlflow_url *ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees, wiping the password. A zeroed struct is accepted. */
void lorica_mlflow_url_finish(struct lorica_mlflow_url *url);

/** A run as an answer gives it. */
struct lorica_mlflow_run {
    char id[LORICA_MLFLOW_ID_MAX + 1];
    char artifacts[LORICA_MLFLOW_URI_MAX + 1]; /**< artifact_uri */
    bool ended;                                /**< FINISHED, FAILED or KILLED */
};
/** Reads {"info":{...}}. LORICA_EFORMAT when something is missing or no id. */
int lorica_mlflow_run_read(const struct lorica_json *run, struct lorica_mlflow_run *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** The last step of a metric among run["data"]["metrics"]; -1: it has none. */
int64_t lorica_mlflow_last_step(const struct lorica_json *run, const char *metric);

/** A member that is text, of letters, digits, "_" and "-" alone, at most LORICA_MLFLOW_ID_MAX; NULL
 * for anything else. Borrowed. Ids go into paths and filters. */
const char *lorica_mlflow_id(const struct lorica_json *object, const char *key);
/** A whole number that stands as a number or, as in Protocol Buffers' JSON, as text; else -1. */
int64_t lorica_mlflow_number(const struct lorica_json *value);

/** Appends the path, escaped, under which the server stores `name` ("a/b.txt") below an artifact
 * address. LORICA_EUNSUPPORTED unless that address is mlflow-artifacts:, which says that the server
 * takes artifacts itself; LORICA_EINVAL for a part "." or "..". */
int lorica_mlflow_artifact_path(const char *uri, const char *name, struct lorica_buf *out,
                                struct lorica_error *err) LORICA_MUSTCHECK;

/** True for a name that MLflow takes as an alias of a model version: letters, digits, "_" and "-",
 * neither "latest" nor "v" and digits. */
bool lorica_mlflow_alias_valid(const char *alias);

/** Writes {"key":KEY,"value":VALUE} of at most `max` bytes of VALUE, cut at a character. */
void lorica_mlflow_write_text(struct lorica_jsonw *w, const char *key, const char *value,
                              size_t max);

#endif
