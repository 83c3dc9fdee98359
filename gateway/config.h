/* SPDX-License-Identifier: MIT
 * The server's settings: one table of names for the configuration file and the command line. */
#ifndef LORICA_GATEWAY_CONFIG_H
#define LORICA_GATEWAY_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/engine.h"

/** Settings of `lorica serve`. Strings are owned. */
struct lorica_config {
    char *listen;                    /**< "HOST:PORT", "[::1]:8443"; port 0: any free one */
    char *base;                      /**< name of the base; NULL: the only one */
    char *tls_certificate, *tls_key; /**< PEM files; NULL: DIR/tls/server.pem, .key */
    long long threads;               /**< of the engine; 0: one per core */
    long long kv;                    /**< enum lorica_kv_format */
    long long kv_tokens, max_running, max_waiting;
    long long prefix_cache_mb, adapter_cache_mb, upload_limit_mb, training_file_mb;
    long long max_connections, max_per_key;
    long long drain_seconds;
    long long step_ms; /**< how long prompts may make a step; 0: no bound */
    bool no_training;  /**< jobs are refused, and those there wait */
    long long training_threads,
        training_memory_mb; /**< of the trainer; 0: half the cores, no bound */
    bool no_speculation;    /**< never guess ahead */
    bool metrics_open;      /**< /metrics without a key */
    /** Names of keys, with "*" and "?", separated by commas; NULL: none. */
    char *priority_high, *priority_low;
    char *mlflow_url, *mlflow_ca; /**< tracking server that versions go to; NULL: none */
    char *mlflow_experiment;      /**< holds their runs */
};

/** One setting of the table. */
struct lorica_setting {
    const char *name; /**< as in the file; "--name" on the command line */
    enum {
        LORICA_SETTING_TEXT,
        LORICA_SETTING_NUMBER,
        LORICA_SETTING_BOOL,
        LORICA_SETTING_KV /**< the name of a format of the key/value cache; a long long */
    } type;
    size_t offset;      /**< of the field */
    long long min, max; /**< of a number */
};

/** The table; *ret_count settings. */
const struct lorica_setting *lorica_config_settings(size_t *ret_count);

/** Default values. */
int lorica_config_init(struct lorica_config *config) LORICA_MUSTCHECK;
/** Frees the strings. A zeroed struct is accepted. */
void lorica_config_finish(struct lorica_config *config);

/** Sets one by name. LORICA_EINVAL names what is wrong. A bool takes "true" and "false". */
int lorica_config_set(struct lorica_config *config, const char *name, const char *value,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads a file's text: `name = value` lines, "#" begins a comment line, blank lines are skipped.
 * An unknown name, one that stands twice, or a bad value is an error with `path` and the line
 * number. */
int lorica_config_parse(struct lorica_config *config, const char *path, const char *text,
                        size_t len, struct lorica_error *err) LORICA_MUSTCHECK;
/** Reads the file; one that does not exist changes nothing. */
int lorica_config_read(struct lorica_config *config, const char *path,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** What a key's requests are worth; high stands over low. */
enum lorica_priority lorica_config_priority(const struct lorica_config *config, const char *key);

/** Splits "HOST:PORT" or "[HOST]:PORT" into an address and a port. */
int lorica_config_listen(const char *listen, char *host, size_t host_size, int *ret_port,
                         struct lorica_error *err) LORICA_MUSTCHECK;

#endif
