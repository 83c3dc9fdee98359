/* SPDX-License-Identifier: MIT
 * The server: what all connections share, from start to drain. */
#ifndef LORICA_GATEWAY_SERVER_SERVER_H
#define LORICA_GATEWAY_SERVER_SERVER_H

#include <uv.h>

#include "gateway/config.h"
#include "gateway/server/conn.h"
#include "gateway/handlers/generate.h"
#include "gateway/jobs/jobs.h"
#include "gateway/log.h"
#include "gateway/server/metrics.h"
#include "gateway/mlflow/mlflow_mirror.h"
#include "gateway/server/pins.h"
#include "gateway/server/refusals.h"
#include "gateway/server/split_watch.h"
#include "gateway/server/sweeper.h"
#include "gateway/server/tls.h"
#include "gateway/server/lane.h"
#include "registry/registry.h"
#include "registry/signkey.h"
#include "runtime/adapter.h"
#include "runtime/base.h"
#include "runtime/chat.h"
#include "runtime/engine.h"
#include "runtime/tokenizer.h"

enum lorica_server_phase {
    LORICA_SERVER_RUNNING,
    LORICA_SERVER_DRAINING, /**< no new connections; answers are finished */
    LORICA_SERVER_ENDING,   /**< the time is over: what still runs is cut off */
};

/** What a server works with; all borrowed, must outlive it. */
struct lorica_server_parts {
    const struct lorica_config *config;
    const char *data_dir;
    const char *spool_dir;
    struct lorica_base *base;
    struct lorica_tokenizer *tokenizer;
    struct lorica_chat_template *chat;
    struct lorica_engine *engine;
    struct lorica_registry *registry;
    struct lorica_adapter_cache *adapters;
    const struct lorica_signkey *receipt_key; /**< signs receipts */
    struct lorica_tls_context *tls;
    struct lorica_log *log;
};

struct lorica_server {
    struct lorica_server_parts parts;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_signal_t sigterm, sigint;
    uv_timer_t drain_timer;
    enum lorica_server_phase phase;
    bool store_failed;         /**< it ends for that */
    struct lorica_conn *conns; /**< list */
    size_t conn_count;
    bool accept_waits;          /**< a connection waits in the listener for a free place */
    size_t request_count;       /**< that live, with or without a client */
    size_t upload_serial;       /**< makes names in the spool directory */
    uint64_t next_piece_ms;     /**< when the next piece of an upload has its turn */
    _Atomic unsigned snapshots; /**< of backups, that are being read */
    struct lorica_lane *writer;
    struct lorica_lane *judge;
    struct lorica_lane *checker; /**< the same for checks (checks.h), which take longer */
    struct lorica_sweeper sweeper;
    struct lorica_refusals *refusals;
    struct lorica_hub *hub; /**< engine events on their way to the loop */
    struct lorica_split_watcher *splits;
    struct lorica_mlflow_mirror *mlflow; /**< NULL: none is configured */
    struct lorica_jobs *jobs;            /**< fine-tuning */
    struct lorica_pins pins;
    struct lorica_metrics metrics;
    uint64_t started_ms;
    char base_digest[LORICA_DIGEST_TEXT];
    char slab[65536]; /**< where libuv reads into; emptied within the callback */
    bool slab_used;
    int port;
};

/** Listens. *server is caller's memory; call run, then finish, or finish at once. */
int lorica_server_init(struct lorica_server *server, const struct lorica_server_parts *parts,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Serves until SIGTERM or SIGINT and the drain that follows. */
void lorica_server_run(struct lorica_server *server);
/** Closes and frees. */
void lorica_server_finish(struct lorica_server *server);

/** True while answers are computed: all else gives way. Any thread. */
bool lorica_server_busy(const struct lorica_server *server);
/** Something long, done in parts that give way to the answers. */
struct lorica_sparing {
    struct lorica_server *server;
    uint64_t since; /**< when it last gave way; 0 to begin with */
};
/** Between two parts, of a struct lorica_sparing: waits if answers are computed and it worked for
 * a moment. Any thread. */
void lorica_server_spare(void *sparing);
/** Between two parts of a job on the writer's thread, of a struct lorica_server: the quick changes
 * that wait are made, and if answers are computed it waits, and returns true. */
bool lorica_server_let_in(void *server);
/** Begins the drain, as SIGTERM does. */
void lorica_server_drain(struct lorica_server *server);
/** A connection or request ended: takes a waiting connection, or ends the drain. */
void lorica_server_released(struct lorica_server *server);

#endif
