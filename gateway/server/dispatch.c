/* SPDX-License-Identifier: MIT */
#include "gateway/server/dispatch.h"

#include <string.h>
#include <strings.h>

#include "gateway/server/auth.h"
#include "gateway/handlers/checks.h"
#include "gateway/server/refusals.h"
#include "gateway/server/server.h"
#include "gateway/server/upload.h"

static struct lorica_request *request_of(struct lorica_lane_job *job) {
    return (struct lorica_request *)(void *)((char *)job - offsetof(struct lorica_request, job));
}

/* Answers with the request's error, unless the client has gone. */
static void send_error(struct lorica_request *request) {
    if (!request->conn)
        return;
    lorica_request_error_response(request);
    lorica_conn_respond(request->conn);
}

static void run_refusal(struct lorica_lane_job *job) {
    struct lorica_request *request = request_of(job);
    struct lorica_error err = {0};
    if (lorica_refusals_record(request, &err) != 0)
        lorica_log_line(request->server->parts.log, "error",
                        "event=refusal_not_recorded key=%s id=%s why=\"%s\"", request->key.name,
                        request->id, err.text);
}

static void run_refusal_done(struct lorica_lane_job *job) {
    struct lorica_request *request = request_of(job);
    send_error(request);
    lorica_request_unref(request);
}

/* The request failed: records a refused attempt at a change, then answers. */
static void answer_error(struct lorica_request *request) {
    struct lorica_refusals *refusals = request->server->refusals;
    if (request->storing) {
        request->refused = true;
        if (request->conn)
            lorica_conn_wait(request->conn, LORICA_CONN_SPOOL);
        return;
    }
    if (lorica_refusals_is_one(request) && lorica_refusals_take(refusals, request)) {
        request->job.run = run_refusal;
        request->job.done = run_refusal_done;
        request->job.quick = true;
        if (lorica_lane_submit(request->server->writer, &request->job) == 0) {
            (void)lorica_request_ref(request);
            return; /* the connection goes on to wait as it did */
        }
        lorica_refusals_missed(refusals, request);
    }
    send_error(request);
}

/* All halves of the handler returned: answer, unless the client has gone. */
static void on_ran(struct lorica_request *request) {
    if (request->run_rc != 0)
        answer_error(request);
    else if (request->conn && request->match.route->after)
        request->match.route->after(request);
    else if (request->conn)
        lorica_conn_respond(request->conn);
    lorica_request_unref(request);
}

static void run_job(struct lorica_lane_job *job) {
    struct lorica_request *request = request_of(job);
    const struct lorica_route *route = request->match.route;
    request->run_rc = lorica_auth_again(request);
    if (request->run_rc == 0)
        request->run_rc = route->write ? route->write(request) : route->run(request);
    if (request->run_rc != 0)
        lorica_checks_explain(request);
}

static void run_job_done(struct lorica_lane_job *job) {
    struct lorica_request *request = request_of(job);
    lorica_mlflow_mirror_nudge(request->server->mlflow);
    on_ran(request);
}

/* Queues the request's job, or answers that there are too many. */
static void submit(struct lorica_request *request, struct lorica_lane *to,
                   void (*run)(struct lorica_lane_job *job),
                   void (*done)(struct lorica_lane_job *job)) {
    request->job.run = run;
    request->job.done = done;
    if (lorica_lane_submit(to, &request->job) == 0)
        return;
    request->run_rc = lorica_request_fail(request, LORICA_EBUSY, NULL, "server_busy",
                                          "too many changes wait; try again");
    on_ran(request);
}

static void run_on_writer(struct lorica_request *request) {
    request->job.quick = !request->match.route->in_turn;
    submit(request, request->server->writer, run_job, run_job_done);
}

static void run_checks(struct lorica_lane_job *job) {
    struct lorica_request *request = request_of(job);
    request->run_rc = lorica_checks_run(request);
}

/* What nobody waits for any more is not changed. */
static void run_checks_done(struct lorica_lane_job *job) {
    struct lorica_request *request = request_of(job);
    if (request->run_rc == 0 && request->conn)
        run_on_writer(request);
    else
        on_ran(request);
}

/* `run` returned. */
static void on_judged(struct lorica_request *request) {
    const bool wanted = request->run_rc == 0 && request->match.route->write && request->conn;
    if (wanted && request->checks)
        submit(request, request->server->checker, run_checks, run_checks_done);
    else if (wanted)
        run_on_writer(request);
    else
        on_ran(request);
}

static void run_judgement(struct lorica_lane_job *job) {
    struct lorica_request *request = request_of(job);
    request->run_rc = request->match.route->run(request);
}

static void run_judgement_done(struct lorica_lane_job *job) { on_judged(request_of(job)); }

static void run_work(uv_work_t *work) {
    struct lorica_request *request = work->data;
    lorica_lane_give_way(); /* it may load an adapter, or cut a long prompt into tokens */
    request->run_rc = request->match.route->run(request);
}

static void run_work_done(uv_work_t *work, int status) { on_judged(work->data); }

/* The whole request is here: to its handler. */
static void run_handler(struct lorica_request *request) {
    lorica_conn_wait(request->conn, LORICA_CONN_WORK);
    request->work.data = lorica_request_ref(request);
    switch (request->match.route->where) {
    case LORICA_ON_LOOP:
        request->run_rc = request->match.route->run(request);
        on_ran(request);
        break;
    case LORICA_ON_WORKER:
        /* Fails for a missing callback only. */
        (void)uv_queue_work(&request->server->loop, &request->work, run_work, run_work_done);
        break;
    case LORICA_ON_JUDGE:
        submit(request, request->server->judge, run_judgement, run_judgement_done);
        break;
    case LORICA_ON_WRITER:
        run_on_writer(request);
        break;
    }
}

/* How many requests of this key are being worked on, this one included. */
static long long count_of_key(const struct lorica_request *request) {
    long long count = 0;
    for (const struct lorica_conn *c = request->server->conns; c; c = c->next)
        count +=
            c->request && c->request->keyed && strcmp(c->request->key.name, request->key.name) == 0;
    return count;
}

static uint64_t body_limit(const struct lorica_request *request) {
    switch (request->match.route->body) {
    case LORICA_BODY_JSON:
        return LORICA_JSON_BODY_MAX;
    case LORICA_BODY_UPLOAD:
        return lorica_upload_limit(request);
    case LORICA_BODY_NONE:
        break;
    }
    return 0;
}

static int too_large(struct lorica_request *request) {
    const uint64_t limit = body_limit(request);
    if (limit == 0)
        return lorica_request_fail_status(request, 413, "body_not_allowed",
                                          "this request takes no body");
    const struct lorica_upload_form *form = request->match.route->form;
    return lorica_request_fail_status(
        request, 413, "body_too_large", "the body is longer than %llu bytes%s%s",
        (unsigned long long)limit, form ? "; the server's setting for this is " : "",
        form ? form->limit_name : "");
}

/* application/json, with or without parameters; nothing is assumed where it is absent. */
static bool is_json(const char *type) {
    return type && strncasecmp(type, "application/json", 16) == 0 &&
           (type[16] == '\0' || type[16] == ';' || type[16] == ' ');
}

/* The body may come: its kind and its declared length are judged before it is read. */
static int judge_body(struct lorica_request *request) {
    const struct lorica_http *http = &request->conn->http;
    const enum lorica_body_kind kind = request->match.route->body;
    const struct lorica_http_slice *coding = lorica_http_header(http, "content-encoding");
    if (http->has_body && coding && !lorica_http_slice_is(coding, "identity"))
        return lorica_request_fail_status(request, 415, NULL, "Content-Encoding is not supported");
    if (http->has_body && !http->chunked && http->content_length > body_limit(request))
        return too_large(request);
    if (http->has_body && kind == LORICA_BODY_JSON && !is_json(request->content_type))
        return lorica_request_fail_status(request, 415, NULL,
                                          "the body must be \"Content-Type: application/json\"");
    if (kind == LORICA_BODY_UPLOAD)
        return lorica_upload_create(request);
    return 0;
}

/* The key is good, or none is needed. */
static void admit(struct lorica_request *request) {
    static const char *const none[] = {NULL};
    struct lorica_conn *conn = request->conn;
    const struct lorica_route *route = request->match.route;
    /* Who asks whether the server lives may add what it likes. */
    if (!route->open && lorica_request_query_only(request, route->query ? route->query : none)) {
        answer_error(request);
        return;
    }
    if (request->keyed && count_of_key(request) > request->server->parts.config->max_per_key) {
        (void)lorica_request_fail_status(request, 429, "too_many_requests",
                                         "the key \"%s\" has too many requests at once",
                                         request->key.name);
        answer_error(request);
        return;
    }
    if (judge_body(request) != 0) {
        answer_error(request);
        return;
    }
    lorica_http_accept(&conn->http);
    if (conn->http.state == LORICA_HTTP_DONE && request->match.route->body != LORICA_BODY_UPLOAD)
        run_handler(request);
    else
        lorica_conn_read_body(conn);
}

static void check_work(uv_work_t *work) {
    struct lorica_request *request = work->data;
    request->run_rc = lorica_auth_check(request);
}

static void check_done(uv_work_t *work, int status) {
    struct lorica_request *request = work->data;
    if (status != 0 || request->run_rc != 0) {
        if (status != 0)
            (void)lorica_request_fail(request, LORICA_EBUSY, NULL, NULL, "the server is ending");
        answer_error(request);
    } else if (request->conn) {
        admit(request);
    }
    lorica_request_unref(request);
}

static int find_route(struct lorica_request *request) {
    const struct lorica_http *http = &request->conn->http;
    const char *question = memchr(http->target.text, '?', http->target.len);
    const size_t len = question ? (size_t)(question - http->target.text) : http->target.len;
    size_t count = 0;
    const struct lorica_route *routes = lorica_routes(&count);
    if (lorica_route_find(routes, count, http->method, http->target.text, len, &request->match) !=
        0)
        return lorica_request_fail(
            request, LORICA_EINVAL, NULL, NULL,
            "the path holds a part that is no name: too long, or with an escape "
            "that is broken or hides a slash");
    if (request->match.route)
        return 0;
    if (!request->match.path_known)
        return lorica_request_fail(request, LORICA_ENOTFOUND, NULL, "unknown_url",
                                   "there is no %s %.*s", lorica_method_name(http->method),
                                   (int)(len < 200 ? len : 200), http->target.text);
    lorica_request_header(request, "allow", request->match.allow);
    return lorica_request_fail_status(request, 405, "method_not_allowed",
                                      "%s is not possible here; %s is",
                                      lorica_method_name(http->method), request->match.allow);
}

static bool is_open(const struct lorica_request *request) {
    return request->match.route->open || (strcmp(request->match.route->pattern, "/metrics") == 0 &&
                                          request->server->parts.config->metrics_open);
}

void lorica_dispatch_head(struct lorica_conn *conn) {
    struct lorica_request *request = lorica_request_create(conn);
    if (!request) {
        lorica_conn_close(conn, "out of memory");
        return;
    }
    conn->request = request;
    conn->requests++;
    lorica_conn_wait(conn, LORICA_CONN_CHECK);
    if (find_route(request) != 0) {
        answer_error(request);
        return;
    }
    if (is_open(request)) {
        admit(request);
        return;
    }
    request->work.data = lorica_request_ref(request);
    if (uv_queue_work(&conn->server->loop, &request->work, check_work, check_done) != 0) {
        lorica_request_unref(request);
        (void)lorica_request_fail(request, LORICA_EBUSY, NULL, NULL, "the server is busy");
        answer_error(request);
    }
}

void lorica_dispatch_http_failure(struct lorica_conn *conn) {
    if (!conn->request) {
        conn->request = lorica_request_create(conn);
        if (!conn->request) {
            lorica_conn_close(conn, "out of memory");
            return;
        }
        conn->requests++;
    }
    (void)lorica_request_fail_status(conn->request, conn->http.status, "bad_http", "%s",
                                     conn->http.what);
    answer_error(conn->request);
}

static void store_work(uv_work_t *work) {
    struct lorica_request *request = work->data;
    lorica_lane_give_way();
    request->store_rc = lorica_upload_feed(request->upload, &request->piece, request->body_done,
                                           &request->store_param, &request->store_error);
}

static void store_done(uv_work_t *work, int status);

/* Gives what came of an upload to a worker; the next piece may come meanwhile. */
static void store(struct lorica_request *request) {
    const struct lorica_buf came = request->body;
    request->body = request->piece;
    request->piece = came;
    request->body_done = request->conn->http.state == LORICA_HTTP_DONE;
    request->storing = true;
    request->work.data = lorica_request_ref(request);
    /* Fails for a missing callback only. */
    (void)uv_queue_work(&request->server->loop, &request->work, store_work, store_done);
}

/* Milliseconds that an upload's next piece has to wait. While answers are computed, pieces have
 * turns, one at a time for the whole server: what they take of the processors is spread thinly over
 * the steps, so that no token comes noticeably later. */
static uint64_t wait_for_turn(struct lorica_server *server) {
    const uint64_t now = uv_now(&server->loop);
    if (!lorica_server_busy(server))
        return 0;
    const uint64_t turn = server->next_piece_ms > now ? server->next_piece_ms : now;
    server->next_piece_ms = turn + LORICA_UPLOAD_TURN_MS;
    return turn - now;
}

void lorica_dispatch_paused(struct lorica_conn *conn) {
    store(conn->request);
    if (!conn->request->body_done)
        lorica_conn_read_body(conn);
}

static void store_done(uv_work_t *work, int status) {
    struct lorica_request *request = work->data;
    struct lorica_conn *conn = request->conn;
    request->storing = false;
    lorica_buf_clear(&request->piece);
    if (request->store_rc != 0 && !request->refused)
        request->refused = lorica_request_fail(request, request->store_rc, request->store_param,
                                               NULL, "%s", request->store_error.text) != 0;
    if (request->refused) {
        if (conn && conn->state == LORICA_CONN_BODY)
            lorica_conn_wait(conn, LORICA_CONN_SPOOL);
        answer_error(request);
    } else if (conn && request->body_done) {
        run_handler(request);
    } else if (conn && conn->state == LORICA_CONN_SPOOL) {
        const uint64_t ms = wait_for_turn(conn->server);
        if (ms > 0)
            lorica_conn_pause(conn, ms);
        else
            lorica_dispatch_paused(conn);
    }
    lorica_request_unref(request);
}

/* A piece of an upload goes to a worker when it has a turn and the one before is stored. */
static void spool(struct lorica_conn *conn) {
    struct lorica_request *request = conn->request;
    if (conn->http.state != LORICA_HTTP_DONE && request->body.len < LORICA_UPLOAD_PIECE)
        return;
    const uint64_t ms = request->storing ? 0 : wait_for_turn(conn->server);
    const bool waits = request->storing || ms > 0;
    if (!waits)
        store(request);
    if (waits || request->body_done)
        lorica_conn_wait(conn, LORICA_CONN_SPOOL);
    if (ms > 0)
        lorica_conn_pause(conn, ms);
}

void lorica_dispatch_body(struct lorica_conn *conn) {
    struct lorica_request *request = conn->request;
    request->body_total += conn->http.body.len;
    int rc = 0;
    if (request->body_total > body_limit(request))
        rc = too_large(request);
    else if (lorica_buf_append(&request->body, conn->http.body.data, conn->http.body.len) != 0)
        rc = lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
    lorica_buf_clear(&conn->http.body);
    if (rc != 0)
        answer_error(request);
    else if (request->match.route->body == LORICA_BODY_UPLOAD)
        spool(conn);
    else if (conn->http.state == LORICA_HTTP_DONE)
        run_handler(request);
}
