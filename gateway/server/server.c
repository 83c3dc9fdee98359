/* SPDX-License-Identifier: MIT */
#include "gateway/server/server.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/server/slice.h"
#include "gateway/server/uverr.h"

#define BACKLOG 512
#define HOST_MAX 256
/* What has to be computed beside answers works for so long, then rests: a token is then late by so
 * little at most. */
#define WORK_NS 500000
#define REST_MS 10

static void on_connection(uv_stream_t *listener, int status) {
    struct lorica_server *server = listener->data;
    if (status < 0)
        return;
    if (server->conn_count >= (size_t)server->parts.config->max_connections)
        server->accept_waits = true; /* libuv listens on after the next uv_accept */
    else
        lorica_conn_accept(server);
}

/* Cuts off what the drain did not bring to an end. */
static void on_drain_over(uv_timer_t *timer) {
    struct lorica_server *server = timer->data;
    server->phase = LORICA_SERVER_ENDING;
    struct lorica_conn *next = NULL;
    for (struct lorica_conn *conn = server->conns; conn; conn = next) {
        next = conn->next;
        if (conn->state == LORICA_CONN_STREAM &&
            conn->request->match.route->after == lorica_generate_start)
            lorica_generate_cut(conn->request, "the server ends");
        else
            lorica_conn_close(conn, "the server ends");
    }
}

static void close_handle(uv_handle_t *handle) {
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void lorica_server_drain(struct lorica_server *server) {
    if (server->phase != LORICA_SERVER_RUNNING)
        return;
    server->phase = LORICA_SERVER_DRAINING;
    lorica_log_line(server->parts.log, "info", "event=drain connections=%zu requests=%zu",
                    server->conn_count, server->request_count);
    close_handle((uv_handle_t *)&server->listener);
    lorica_jobs_drain(server->jobs);
    (void)uv_timer_start(&server->drain_timer, on_drain_over,
                         (uint64_t)server->parts.config->drain_seconds * 1000, 0);
    struct lorica_conn *next = NULL;
    for (struct lorica_conn *conn = server->conns; conn; conn = next) {
        next = conn->next;
        lorica_conn_drain(conn);
    }
    lorica_server_released(server);
}

void lorica_server_released(struct lorica_server *server) {
    if (server->phase == LORICA_SERVER_RUNNING) {
        if (server->accept_waits &&
            server->conn_count < (size_t)server->parts.config->max_connections) {
            server->accept_waits = false;
            lorica_conn_accept(server);
        }
        return;
    }
    if (server->conn_count == 0 && server->request_count == 0)
        uv_stop(&server->loop);
}

static void on_signal(uv_signal_t *signal, int number) { lorica_server_drain(signal->data); }

/* A registry that makes no more changes is nothing to go on with: what is being answered is
 * finished, and somebody has to look. */
static void after_changes(void *arg) {
    struct lorica_server *server = arg;
    if (server->store_failed || !lorica_registry_failed(server->parts.registry))
        return;
    server->store_failed = true;
    lorica_log_line(server->parts.log, "error",
                    "event=store_failed note=\"a write to the registry met a fault of the disk or "
                    "damage: the server ends\"");
    lorica_server_drain(server);
}

static int listen_on(struct lorica_server *server, struct lorica_error *err) {
    char host[HOST_MAX];
    int port = 0, rc;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_storage room;
    } address;
    const char *listen = server->parts.config->listen;
    rc = lorica_config_listen(listen, host, sizeof(host), &port, err);
    if (rc != 0)
        return rc;
    if (uv_ip4_addr(host, port, &address.v4) != 0 && uv_ip6_addr(host, port, &address.v6) != 0)
        return lorica_fail(err, LORICA_EINVAL, "listen: \"%s\" is no IP address", host);
    rc = uv_tcp_bind(&server->listener, &address.any, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    int len = sizeof(address);
    if (rc == 0)
        rc = uv_tcp_getsockname(&server->listener, &address.any, &len);
    if (rc != 0)
        return lorica_uv_fail(err, rc, listen);
    server->port =
        ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
    return 0;
}

static int start_signals(struct lorica_server *server) {
    int rc = uv_signal_init(&server->loop, &server->sigterm);
    if (rc == 0)
        rc = uv_signal_init(&server->loop, &server->sigint);
    if (rc != 0)
        return rc;
    server->sigterm.data = server->sigint.data = server;
    rc = uv_signal_start(&server->sigterm, on_signal, SIGTERM);
    return rc ? rc : uv_signal_start(&server->sigint, on_signal, SIGINT);
}

static int start_mlflow(struct lorica_server *server, struct lorica_error *err) {
    const struct lorica_config *config = server->parts.config;
    const struct lorica_mlflow_mirror_options options = {
        .registry = server->parts.registry,
        .log = server->parts.log,
        .data_dir = server->parts.data_dir,
        .url = config->mlflow_url,
        .ca = config->mlflow_ca,
        .experiment = config->mlflow_experiment,
    };
    if (!config->mlflow_url)
        return 0;
    const int rc = lorica_mlflow_mirror_create(&options, &server->mlflow, err);
    return rc ? lorica_fail_prefix(err, "mlflow-url") : 0;
}

int lorica_server_init(struct lorica_server *server, const struct lorica_server_parts *parts,
                       struct lorica_error *err) {
    memset(server, 0, sizeof(*server));
    server->parts = *parts;
    lorica_pins_init(&server->pins);
    int rc = uv_loop_init(&server->loop);
    if (rc != 0)
        return lorica_uv_fail(err, rc, "the event loop");
    server->started_ms = uv_now(&server->loop);
    (void)lorica_digest_format(&parts->base->digest, server->base_digest);
    rc = uv_tcp_init(&server->loop, &server->listener);
    if (rc == 0)
        rc = uv_timer_init(&server->loop, &server->drain_timer);
    if (rc == 0)
        rc = start_signals(server);
    if (rc != 0) {
        rc = lorica_uv_fail(err, rc, "the event loop");
    } else {
        server->listener.data = server->drain_timer.data = server;
        rc = lorica_lane_create(&server->loop, after_changes, server, &server->writer, err);
        if (rc == 0)
            rc = lorica_lane_create(&server->loop, NULL, NULL, &server->judge, err);
        if (rc == 0)
            rc = lorica_lane_create(&server->loop, NULL, NULL, &server->checker, err);
        if (rc == 0)
            rc = lorica_refusals_create(server, &server->refusals, err);
        if (rc == 0)
            rc = lorica_hub_create(&server->loop, &server->hub, err);
        if (rc == 0)
            rc = lorica_split_watcher_create(server, &server->splits, err);
        if (rc == 0)
            rc = listen_on(server, err);
        if (rc == 0 && (rc = lorica_sweeper_start(&server->sweeper, server)) != 0)
            rc = lorica_uv_fail(err, rc, "the sweep");
        if (rc == 0)
            rc = start_mlflow(server, err);
        if (rc == 0)
            rc = lorica_jobs_create(server, &server->jobs, err);
    }
    if (rc != 0)
        lorica_server_finish(server);
    return rc;
}

void lorica_server_run(struct lorica_server *server) {
    lorica_slice_shorten();
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
}

bool lorica_server_busy(const struct lorica_server *server) {
    struct lorica_engine_stats stats;
    lorica_engine_stats(server->parts.engine, &stats);
    return stats.running > 0;
}

void lorica_server_spare(void *arg) {
    struct lorica_sparing *sparing = arg;
    if (sparing->since == 0)
        sparing->since = uv_hrtime();
    if (uv_hrtime() - sparing->since < WORK_NS || !lorica_server_busy(sparing->server))
        return;
    uv_sleep(REST_MS);
    sparing->since = uv_hrtime();
}

bool lorica_server_let_in(void *arg) {
    struct lorica_server *server = arg;
    const bool busy = lorica_server_busy(server);
    lorica_lane_let_in(server->writer, busy ? REST_MS : 0);
    return busy;
}

static void on_left(uv_handle_t *handle, void *arg) { close_handle(handle); }

void lorica_server_finish(struct lorica_server *server) {
    lorica_jobs_destroy(server->jobs); /* may still publish */
    server->jobs = NULL;
    lorica_refusals_flush(server->refusals);
    lorica_lane_destroy(server->judge); /* what it lets pass goes to the writer */
    lorica_lane_destroy(server->checker);
    lorica_mlflow_mirror_destroy(server->mlflow);
    server->mlflow = NULL;
    lorica_lane_destroy(server->writer);
    lorica_hub_destroy(server->hub);
    server->writer = server->judge = server->checker = NULL;
    server->hub = NULL;
    uv_walk(&server->loop, on_left, NULL);
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&server->loop);
    lorica_pins_finish(&server->pins);
    lorica_split_watcher_destroy(server->splits);
    server->splits = NULL;
    lorica_refusals_destroy(server->refusals);
    server->refusals = NULL;
}
