/* SPDX-License-Identifier: MIT */
#include "gateway/server/conn.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/server/dispatch.h"
#include "gateway/server/server.h"

#define PIECE ((size_t)16 << 10) /* plaintext per turn, in and out: one TLS record */

#define BIT(state) (1u << LORICA_CONN_##state)

/* Which states may follow each; CLOSING may follow all. */
static const unsigned allowed[LORICA_CONN_STATE_COUNT] = {
    [LORICA_CONN_HANDSHAKE] = BIT(IDLE),
    [LORICA_CONN_IDLE] = BIT(HEAD),
    [LORICA_CONN_HEAD] = BIT(CHECK) | BIT(SEND),
    [LORICA_CONN_CHECK] = BIT(BODY) | BIT(WORK) | BIT(SEND),
    [LORICA_CONN_BODY] = BIT(BODY) | BIT(SPOOL) | BIT(WORK) | BIT(SEND),
    [LORICA_CONN_SPOOL] = BIT(BODY) | BIT(WORK) | BIT(SEND),
    [LORICA_CONN_WORK] = BIT(STREAM) | BIT(SEND),
    [LORICA_CONN_STREAM] = BIT(SEND),
    [LORICA_CONN_SEND] = BIT(FETCH) | BIT(IDLE) | BIT(LINGER),
    [LORICA_CONN_FETCH] = BIT(SEND),
};

struct write_request {
    uv_write_t req;
    struct lorica_conn *conn;
    size_t len;
    char bytes[];
};

static void conn_advance(struct lorica_conn *conn);
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf);
static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf);
static void on_timer(uv_timer_t *timer);

static void conn_set_state(struct lorica_conn *conn, enum lorica_conn_state state) {
    if (state != LORICA_CONN_CLOSING && !(allowed[conn->state] & (1u << state)))
        abort(); /* a fault of this file: going on could mix up two answers */
    conn->state = state;
}

static void conn_set_timeout(struct lorica_conn *conn, uint64_t ms) {
    (void)uv_timer_start(&conn->timer, on_timer, ms, 0); /* fails for closing handles only */
}

static void on_closed(uv_handle_t *handle) {
    struct lorica_conn *conn = handle->data;
    struct lorica_server *server = conn->server;
    if (--conn->handles > 0)
        return;
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        server->conns = conn->next;
    if (conn->next)
        conn->next->prev = conn->prev;
    server->conn_count--;
    lorica_tls_destroy(conn->tls);
    lorica_http_finish(&conn->http);
    lorica_buf_finish(&conn->in);
    free(conn);
    lorica_server_released(server);
}

/* The request loses its client. */
static void abandon(struct lorica_conn *conn, const char *reason) {
    struct lorica_request *request = conn->request;
    if (!request)
        return;
    conn->request = NULL;
    request->conn = NULL;
    atomic_store(&request->gone, true);
    if (request->response.status == 0)
        conn->server->metrics.cancelled++;
    lorica_request_log(request, request->response.status ? request->response.status : 499, reason);
    if (request->on_gone)
        request->on_gone(request);
    lorica_request_unref(request);
}

void lorica_conn_close(struct lorica_conn *conn, const char *reason) {
    if (conn->state == LORICA_CONN_CLOSING)
        return;
    if (conn->state == LORICA_CONN_HANDSHAKE) {
        conn->server->metrics.handshake_failures++;
        lorica_log_line(conn->server->parts.log, "info", "handshake_failed=\"%s\"", reason);
    }
    conn_set_state(conn, LORICA_CONN_CLOSING);
    abandon(conn, reason);
    uv_close((uv_handle_t *)&conn->timer, on_closed);
    uv_close((uv_handle_t *)&conn->tcp, on_closed);
}

/* Sending. */

static void finish_answer(struct lorica_conn *conn);
static void pull_body(struct lorica_conn *conn);

static void on_written(uv_write_t *req, int status) {
    struct write_request *write = req->data;
    struct lorica_conn *conn = write->conn;
    conn->unsent -= write->len;
    free(write);
    if (conn->state == LORICA_CONN_CLOSING)
        return;
    if (status < 0) {
        lorica_conn_close(conn, "the client went away");
        return;
    }
    if (conn->state == LORICA_CONN_STREAM)
        conn_set_timeout(conn, conn->unsent ? LORICA_SEND_MS : LORICA_PING_MS);
    if (conn->state != LORICA_CONN_SEND)
        return;
    conn_set_timeout(conn, LORICA_SEND_MS);
    pull_body(conn);
}

/* Gives what TLS has for the peer to libuv. */
static bool flush(struct lorica_conn *conn) {
    const size_t len = lorica_tls_waiting(conn->tls);
    if (len == 0 || conn->state == LORICA_CONN_CLOSING)
        return conn->state != LORICA_CONN_CLOSING;
    struct write_request *write = malloc(sizeof(*write) + len);
    if (!write) {
        lorica_conn_close(conn, "out of memory");
        return false;
    }
    write->conn = conn;
    write->req.data = write;
    write->len = lorica_tls_take(conn->tls, write->bytes, len);
    const uv_buf_t buf = uv_buf_init(write->bytes, (unsigned)write->len);
    if (uv_write(&write->req, (uv_stream_t *)&conn->tcp, &buf, 1, on_written) != 0) {
        free(write);
        lorica_conn_close(conn, "the client went away");
        return false;
    }
    conn->unsent += write->len;
    conn->server->metrics.bytes_out += write->len;
    return true;
}

static bool encrypt(struct lorica_conn *conn, const void *bytes, size_t len) {
    if (len == 0 || lorica_tls_write(conn->tls, bytes, len) == LORICA_TLS_OK)
        return true;
    lorica_conn_close(conn, "TLS failed in writing");
    return false;
}

static size_t response_body(const struct lorica_response *response, const char **ret) {
    *ret = response->blob ? response->blob : response->body.data;
    return response->blob ? response->blob_len : response->body.len;
}

/* True when a source has more to give than was read of it. */
static bool source_waits(const struct lorica_request *request) {
    const struct lorica_response *response = &request->response;
    return response->source && request->method != LORICA_METHOD_HEAD &&
           response->source_read < response->source->nbytes;
}

static void fetch_work(uv_work_t *work) {
    struct lorica_request *request = work->data;
    struct lorica_response *response = &request->response;
    const uint64_t left = response->source->nbytes - response->source_read;
    const size_t len = left < LORICA_BODY_PIECE ? (size_t)left : LORICA_BODY_PIECE;
    lorica_buf_clear(&response->body);
    char *room = lorica_buf_reserve(&response->body, len);
    request->run_rc = room ? response->source->read(response->source, response->source_read, room,
                                                    len, &request->error)
                           : lorica_fail(&request->error, LORICA_ENOMEM, "out of memory");
    if (request->run_rc != 0)
        return;
    lorica_buf_commit(&response->body, len);
    response->source_read += len;
}

static void fetch_done(uv_work_t *work, int status) {
    struct lorica_request *request = work->data;
    struct lorica_conn *conn = request->conn;
    if (conn && (status != 0 || request->run_rc != 0)) {
        lorica_conn_close(conn, status != 0 ? "the server ends" : request->error.text);
    } else if (conn) {
        conn_set_state(conn, LORICA_CONN_SEND);
        conn_set_timeout(conn, LORICA_SEND_MS);
        conn->sent = 0;
        pull_body(conn);
    }
    lorica_request_unref(request);
}

/* SEND: has a worker read the next piece of the body. */
static void fetch(struct lorica_conn *conn) {
    struct lorica_request *request = conn->request;
    lorica_conn_wait(conn, LORICA_CONN_FETCH);
    request->work.data = lorica_request_ref(request);
    /* Fails for a missing callback only. */
    (void)uv_queue_work(&conn->server->loop, &request->work, fetch_work, fetch_done);
}

/* SEND: encrypts more of the body as long as not much waits to leave; ends the answer. */
static void pull_body(struct lorica_conn *conn) {
    struct lorica_request *request = conn->request;
    const char *body = NULL;
    size_t len = response_body(&request->response, &body);
    if (request->method == LORICA_METHOD_HEAD)
        len = conn->sent;
    while (conn->sent < len && conn->unsent < LORICA_CONN_LEFTOVER) {
        const size_t piece = len - conn->sent < PIECE ? len - conn->sent : PIECE;
        if (!encrypt(conn, body + conn->sent, piece))
            return;
        conn->sent += piece;
        if (!flush(conn))
            return;
    }
    if (conn->sent < len)
        return;
    if (source_waits(request) && conn->unsent < LORICA_CONN_LEFTOVER)
        fetch(conn);
    else if (!source_waits(request) && conn->unsent == 0)
        finish_answer(conn);
}

static void on_shutdown(uv_shutdown_t *req, int status) {}

static void linger(struct lorica_conn *conn) {
    lorica_tls_shutdown(conn->tls);
    conn_set_state(conn, LORICA_CONN_LINGER);
    if (!flush(conn))
        return;
    if (uv_shutdown(&conn->shutdown, (uv_stream_t *)&conn->tcp, on_shutdown) != 0) {
        lorica_conn_close(conn, "the client went away");
        return;
    }
    conn_set_timeout(conn, LORICA_LINGER_MS);
    (void)uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
}

/* SEND is over: the next request, or the end. */
static void finish_answer(struct lorica_conn *conn) {
    struct lorica_request *request = conn->request;
    conn->request = NULL;
    request->conn = NULL;
    lorica_request_log(request, request->response.status, NULL);
    lorica_request_unref(request);
    if (conn->last) {
        linger(conn);
        return;
    }
    lorica_http_next(&conn->http);
    conn_set_state(conn, LORICA_CONN_IDLE);
    conn_set_timeout(conn, LORICA_IDLE_MS);
    conn_advance(conn);
}

static const char *status_text(int status) {
    static const struct {
        int status;
        const char *text;
    } texts[] = {
        {200, "OK"},
        {201, "Created"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (texts[i].status == status)
            return texts[i].text;
    return "Unknown";
}

/* Whether this answer is the connection's last. */
static bool is_last(const struct lorica_conn *conn) {
    return !conn->http.keep_alive || conn->http.state != LORICA_HTTP_DONE ||
           conn->server->phase != LORICA_SERVER_RUNNING || conn->requests >= LORICA_CONN_REQUESTS ||
           uv_now(&conn->server->loop) - conn->opened_ms > LORICA_LIFETIME_MS;
}

/* Encrypts status line and headers. `len` is the body's length, or -1 for a stream. */
static bool send_head(struct lorica_conn *conn, long long len) {
    struct lorica_request *request = conn->request;
    struct lorica_response *response = &request->response;
    struct lorica_buf head;
    /* A stream to a client that knows no chunks ends with the connection. */
    conn->last = is_last(conn) || (len < 0 && conn->http.minor == 0);
    lorica_buf_init(&head, (size_t)16 << 10);
    lorica_buf_printf(&head, "HTTP/1.1 %d %s\r\ncontent-type: %s\r\nx-request-id: %s\r\n",
                      response->status, status_text(response->status),
                      response->content_type ? response->content_type : "application/json",
                      request->id);
    lorica_buf_puts(&head, "lorica-version: " LORICA_VERSION "\r\n"
                           "x-content-type-options: nosniff\r\n");
    (void)lorica_buf_append(&head, response->headers.data, response->headers.len);
    if (len >= 0)
        lorica_buf_printf(&head, "content-length: %lld\r\n", len);
    else if (conn->http.minor > 0)
        lorica_buf_puts(&head, "transfer-encoding: chunked\r\n");
    lorica_buf_printf(&head, "connection: %s\r\n\r\n", conn->last ? "close" : "keep-alive");
    bool ok = lorica_buf_status(&head) == 0;
    if (ok)
        ok = encrypt(conn, head.data, head.len);
    else
        lorica_conn_close(conn, "out of memory");
    lorica_buf_finish(&head);
    return ok;
}

void lorica_conn_respond(struct lorica_conn *conn) {
    struct lorica_request *request = conn->request;
    struct lorica_response *response = &request->response;
    const char *body = NULL;
    if (lorica_buf_status(&response->body) != 0 || lorica_buf_status(&response->headers) != 0) {
        lorica_conn_close(conn, "the answer did not fit into memory");
        return;
    }
    if (!conn->http.has_body)
        lorica_http_accept(&conn->http); /* refused at its head, but complete: the next may come */
    conn_set_state(conn, LORICA_CONN_SEND);
    conn_set_timeout(conn, LORICA_SEND_MS);
    conn->sent = 0;
    const uint64_t len =
        response->source ? response->source->nbytes : response_body(response, &body);
    if (send_head(conn, (long long)len) && flush(conn))
        pull_body(conn);
}

void lorica_conn_stream_begin(struct lorica_conn *conn) {
    struct lorica_response *response = &conn->request->response;
    response->status = 200;
    response->content_type = "text/event-stream; charset=utf-8";
    lorica_request_header(conn->request, "cache-control", "no-cache, no-transform");
    lorica_request_header(conn->request, "x-accel-buffering", "no");
    conn_set_state(conn, LORICA_CONN_STREAM);
    conn_set_timeout(conn, LORICA_PING_MS);
    if (send_head(conn, -1))
        (void)flush(conn);
}

void lorica_conn_stream(struct lorica_conn *conn, const char *bytes, size_t len) {
    char size[24];
    if (conn->state != LORICA_CONN_STREAM || len == 0)
        return;
    if (conn->unsent + len > LORICA_CONN_UNSENT) {
        conn->server->metrics.slow_readers++;
        lorica_conn_close(conn, "the client reads too slowly");
        return;
    }
    if (conn->unsent == 0)
        conn_set_timeout(conn, LORICA_SEND_MS);
    const int n = snprintf(size, sizeof(size), "%zx\r\n", len);
    const bool chunked = conn->http.minor > 0;
    if ((!chunked || encrypt(conn, size, (size_t)n)) && encrypt(conn, bytes, len) &&
        (!chunked || encrypt(conn, "\r\n", 2)))
        (void)flush(conn);
}

void lorica_conn_stream_end(struct lorica_conn *conn, bool cut) {
    if (conn->state != LORICA_CONN_STREAM)
        return;
    if (cut)
        conn->last = true; /* without the last chunk: nobody can take it for whole */
    else if (conn->http.minor > 0 && !encrypt(conn, "0\r\n\r\n", 5))
        return;
    conn_set_state(conn, LORICA_CONN_SEND);
    conn_set_timeout(conn, LORICA_SEND_MS);
    conn->sent = 0;
    lorica_buf_clear(&conn->request->response.body);
    if (flush(conn))
        pull_body(conn);
}

/* Receiving. */

/* Moves plaintext from TLS into `in`, as much as may wait there. False: closed, or nothing came. */
static bool pull_plaintext(struct lorica_conn *conn) {
    bool came = false;
    while (conn->in.len < LORICA_CONN_LEFTOVER) {
        size_t len = 0;
        char *room = lorica_buf_reserve(&conn->in, PIECE);
        if (!room) {
            lorica_conn_close(conn, "out of memory");
            return false;
        }
        const enum lorica_tls_result rc = lorica_tls_read(conn->tls, room, PIECE, &len);
        if (rc == LORICA_TLS_MORE)
            return came;
        if (rc != LORICA_TLS_OK) {
            lorica_conn_close(conn, rc == LORICA_TLS_CLOSED ? "the client closed"
                                                            : lorica_tls_reason(conn->tls));
            return false;
        }
        lorica_buf_commit(&conn->in, len);
        came = true;
    }
    return came;
}

static bool do_handshake(struct lorica_conn *conn) {
    switch (lorica_tls_handshake(conn->tls)) {
    case LORICA_TLS_OK:
        conn_set_state(conn, LORICA_CONN_IDLE);
        conn_set_timeout(conn, LORICA_IDLE_MS);
        return true;
    case LORICA_TLS_MORE:
        return false;
    default:
        (void)flush(conn); /* the alert that says why */
        if (conn->state != LORICA_CONN_CLOSING)
            lorica_conn_close(conn, lorica_tls_reason(conn->tls));
        return false;
    }
}

/* A body that trickles keeps a place that others need. */
static bool too_slow(const struct lorica_conn *conn) {
    const uint64_t ms = uv_now(&conn->server->loop) - conn->body_began_ms;
    return ms > LORICA_BODY_IDLE_MS &&
           conn->request->body_total < (ms - LORICA_BODY_IDLE_MS) / 1000 * LORICA_BODY_RATE;
}

static void time_out(struct lorica_conn *conn, const char *what) {
    conn->http.state = LORICA_HTTP_FAILED;
    conn->http.status = 408;
    conn->http.what = what;
    lorica_dispatch_http_failure(conn);
}

/* Gives plaintext to HTTP, one event at a time. True: call again. */
static bool do_http(struct lorica_conn *conn) {
    if (conn->in.len == 0 && conn->http.state != LORICA_HTTP_DONE)
        return false;
    if (conn->state == LORICA_CONN_IDLE && conn->in.len > 0) {
        conn_set_state(conn, LORICA_CONN_HEAD);
        conn_set_timeout(conn, LORICA_HEAD_MS);
    }
    const size_t most = conn->in.len < PIECE ? conn->in.len : PIECE;
    const size_t used = lorica_http_feed(&conn->http, conn->in.data, most);
    lorica_buf_consume(&conn->in, used);
    if (conn->http.state == LORICA_HTTP_FAILED)
        lorica_dispatch_http_failure(conn);
    else if (conn->http.state == LORICA_HTTP_JUDGED)
        lorica_dispatch_head(conn);
    else if (conn->state == LORICA_CONN_BODY) {
        if (too_slow(conn)) {
            time_out(conn, "the body comes too slowly");
            return false;
        }
        conn_set_timeout(conn, LORICA_BODY_IDLE_MS);
        lorica_dispatch_body(conn);
    }
    return true;
}

static bool is_reading_http(const struct lorica_conn *conn) {
    return conn->state == LORICA_CONN_IDLE || conn->state == LORICA_CONN_HEAD ||
           conn->state == LORICA_CONN_BODY;
}

/* Asks for more ciphertext where it is welcome. While a request is answered the socket stays open
 * for reading, so that a client that goes away is noticed; what comes then has a bound. */
static void update_reading(struct lorica_conn *conn) {
    const bool full = conn->in.len >= LORICA_CONN_LEFTOVER;
    if (!full) {
        (void)uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
        return;
    }
    if (conn->state == LORICA_CONN_WORK || conn->state == LORICA_CONN_STREAM)
        lorica_conn_close(conn, "too much is sent ahead of the answer");
    else
        (void)uv_read_stop((uv_stream_t *)&conn->tcp);
}

/* Does all that can be done with what has come. */
static void conn_advance(struct lorica_conn *conn) {
    bool more = true;
    while (more && conn->state != LORICA_CONN_CLOSING) {
        if (conn->state == LORICA_CONN_HANDSHAKE) {
            more = do_handshake(conn);
        } else if (conn->state == LORICA_CONN_LINGER) {
            more = false;
        } else {
            more = pull_plaintext(conn);
            if (is_reading_http(conn))
                more = do_http(conn) || more;
            else
                more = false;
        }
    }
    if (conn->state != LORICA_CONN_CLOSING && conn->state != LORICA_CONN_LINGER && flush(conn))
        update_reading(conn);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    struct lorica_conn *conn = handle->data;
    *buf = uv_buf_init(conn->server->slab, sizeof(conn->server->slab));
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf) {
    struct lorica_conn *conn = stream->data;
    if (conn->state == LORICA_CONN_CLOSING || nread == 0)
        return;
    if (nread < 0) {
        lorica_conn_close(conn, "the client went away");
        return;
    }
    conn->server->metrics.bytes_in += (uint64_t)nread;
    if (conn->state == LORICA_CONN_LINGER) {
        conn->lingered += (size_t)nread;
        if (conn->lingered > LORICA_LINGER_BYTES)
            lorica_conn_close(conn, "sends on after the end");
        return;
    }
    if (lorica_tls_put(conn->tls, buf->base, (size_t)nread) != 0) {
        lorica_conn_close(conn, "sends too much ahead");
        return;
    }
    conn_advance(conn);
}

static void on_timer(uv_timer_t *timer) {
    struct lorica_conn *conn = timer->data;
    switch (conn->state) {
    case LORICA_CONN_HANDSHAKE:
        lorica_conn_close(conn, "the handshake took too long");
        break;
    case LORICA_CONN_HEAD:
        time_out(conn, "the head of the request took too long");
        break;
    case LORICA_CONN_BODY:
        time_out(conn, "the body of the request took too long");
        break;
    case LORICA_CONN_SPOOL:
        lorica_dispatch_paused(conn);
        break;
    case LORICA_CONN_STREAM:
        if (conn->unsent == 0) {
            lorica_conn_stream(conn, ": ping\n\n", 8);
            break;
        }
        conn->server->metrics.slow_readers++;
        lorica_conn_close(conn, "the client does not read");
        break;
    case LORICA_CONN_SEND:
        lorica_conn_close(conn, "the client does not read");
        break;
    default:
        lorica_conn_close(conn, "idle");
    }
}

void lorica_conn_wait(struct lorica_conn *conn, enum lorica_conn_state state) {
    conn_set_state(conn, state);
    (void)uv_timer_stop(&conn->timer);
}

void lorica_conn_pause(struct lorica_conn *conn, uint64_t ms) { conn_set_timeout(conn, ms); }

void lorica_conn_read_body(struct lorica_conn *conn) {
    if (conn->state == LORICA_CONN_CHECK) {
        conn->body_began_ms = uv_now(&conn->server->loop);
        if (conn->http.expect_continue && conn->in.len == 0 &&
            !encrypt(conn, "HTTP/1.1 100 Continue\r\n\r\n", 25))
            return;
    }
    conn_set_state(conn, LORICA_CONN_BODY);
    conn_set_timeout(conn, LORICA_BODY_IDLE_MS);
    conn_advance(conn);
}

void lorica_conn_drain(struct lorica_conn *conn) {
    if (conn->state == LORICA_CONN_IDLE || conn->state == LORICA_CONN_HANDSHAKE)
        lorica_conn_close(conn, "the server ends");
}

/* Beginning. */

static bool start(struct lorica_conn *conn) {
    struct lorica_server *server = conn->server;
    lorica_buf_init(&conn->in, LORICA_CONN_LEFTOVER + PIECE);
    if (uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&conn->tcp) != 0 ||
        lorica_tls_create(server->parts.tls, &conn->tls) != 0 || lorica_http_init(&conn->http) != 0)
        return false;
    (void)uv_tcp_nodelay(&conn->tcp, 1);
    conn_set_timeout(conn, LORICA_HANDSHAKE_MS);
    return uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read) == 0;
}

void lorica_conn_accept(struct lorica_server *server) {
    struct lorica_conn *conn = calloc(1, sizeof(*conn));
    if (!conn)
        return; /* the listener offers the connection again with the next one */
    conn->server = server;
    conn->opened_ms = uv_now(&server->loop);
    if (uv_tcp_init(&server->loop, &conn->tcp) != 0) {
        free(conn);
        return;
    }
    (void)uv_timer_init(&server->loop, &conn->timer); /* cannot fail */
    conn->tcp.data = conn->timer.data = conn;
    conn->handles = 2;
    conn->next = server->conns;
    if (conn->next)
        conn->next->prev = conn;
    server->conns = conn;
    server->conn_count++;
    server->metrics.connections_total++;
    if (!start(conn))
        lorica_conn_close(conn, "could not be started");
}
