/* SPDX-License-Identifier: MIT
 * A job's events: as a list, the newest first, or with stream=true as server-sent events, from the
 * first on and as they come, until the job is over. */
#include <stdlib.h>
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "proto/http_fields.h"

#define LIST_DEFAULT 20 /* OpenAI's */
#define LIST_MAX 1000
#define PAGE_MAX ((size_t)8 << 20) /* bytes of a page of events */
/* Of a stream: bytes that are read at once, and the time between two looks. */
#define PIECE ((size_t)64 << 10)
#define LOOK_MS 300

/* -- the list -- */

static void write_list(struct lorica_request *request, const struct lorica_buf *lines, bool more) {
    struct lorica_jsonw w = lorica_request_json(request, 200);
    lorica_api_open_list(&w);
    for (size_t at = 0; at < lines->len;) {
        const char *newline = memchr(lines->data + at, '\n', lines->len - at);
        const size_t end = (size_t)(newline - lines->data);
        lorica_jsonw_raw(&w, NULL, lines->data + at, end - at);
        at = end + 1;
    }
    lorica_api_close_list(&w, more);
}

static int list(struct lorica_request *request) {
    struct lorica_error err = {0};
    struct lorica_buf lines;
    char after_text[64];
    const char *after = NULL;
    long long limit = LIST_DEFAULT;
    bool more = false;
    int rc = lorica_request_query_number(request, "limit", 1, LIST_MAX, &limit);
    if (rc == 0)
        rc = lorica_request_query_text(request, "after", after_text, sizeof(after_text), &after);
    if (rc != 0)
        return rc;
    lorica_buf_init(&lines, PAGE_MAX);
    rc = lorica_jobs_events_before(request->server->jobs, request->match.params[0], after, limit,
                                   &lines, &more, &err);
    if (rc == 0)
        write_list(request, &lines, more);
    lorica_buf_finish(&lines);
    return rc ? lorica_request_fail(request, rc, rc == LORICA_ENOTFOUND ? "after" : NULL, NULL,
                                    "%s", err.text)
              : 0;
}

/* -- the stream -- */

/* Follows the file: a worker reads, the loop sends, a timer waits. */
struct follow {
    struct lorica_request *request; /* a reference, until the timer is closed */
    uv_timer_t timer;
    uv_work_t work;
    uint64_t offset;
    struct lorica_buf lines;
    bool ended;
    int rc;
};

static void look(uv_work_t *work) {
    struct follow *f = work->data;
    struct lorica_error ignored;
    f->rc = lorica_jobs_events(f->request->server->jobs, f->request->match.params[0], f->offset,
                               PIECE, &f->lines, &f->ended, &ignored);
}

static void on_closed(uv_handle_t *handle) {
    struct follow *f = handle->data;
    lorica_buf_finish(&f->lines);
    lorica_request_unref(f->request);
    free(f);
}

/* Ends the stream; `cut`: before the job's end. */
static void end(struct follow *f, bool cut) {
    static const char done[] = "data: [DONE]\n\n";
    struct lorica_conn *conn = f->request->conn;
    if (conn && !cut)
        lorica_conn_stream(conn, done, sizeof(done) - 1);
    if (f->request->conn)
        lorica_conn_stream_end(f->request->conn, cut);
    uv_close((uv_handle_t *)&f->timer, on_closed);
}

/* Each line becomes an event. */
static void send_lines(struct follow *f) {
    struct lorica_buf frames;
    lorica_buf_init(&frames, 4 * PIECE);
    for (size_t at = 0; at < f->lines.len;) {
        const char *newline = memchr(f->lines.data + at, '\n', f->lines.len - at);
        const size_t next = (size_t)(newline - f->lines.data) + 1;
        (void)lorica_buf_puts(&frames, "data: ");
        (void)lorica_buf_append(&frames, f->lines.data + at, next - at);
        (void)lorica_buf_puts(&frames, "\n");
        at = next;
    }
    if (lorica_buf_status(&frames) != 0)
        f->rc = LORICA_ENOMEM;
    else
        lorica_conn_stream(f->request->conn, frames.data, frames.len);
    f->offset += f->lines.len;
    lorica_buf_finish(&frames);
}

static void on_time(uv_timer_t *timer);

static void looked(uv_work_t *work, int status) {
    struct follow *f = work->data;
    const bool came = f->lines.len > 0;
    if (f->request->conn && status == 0 && f->rc == 0 && came)
        send_lines(f);
    lorica_buf_clear(&f->lines);
    if (!f->request->conn || status != 0 || f->rc != 0)
        end(f, true);
    else if (f->ended)
        end(f, false);
    else if (f->request->server->phase != LORICA_SERVER_RUNNING)
        end(f, true);
    else /* a reader that is behind is waited for */
        (void)uv_timer_start(&f->timer, on_time,
                             came && f->request->conn->unsent == 0 ? 0 : LOOK_MS, 0);
}

static void on_time(uv_timer_t *timer) {
    struct follow *f = timer->data;
    if (f->request->conn && f->request->conn->unsent > PIECE)
        (void)uv_timer_start(timer, on_time, LOOK_MS, 0);
    else if (uv_queue_work(timer->loop, &f->work, look, looked) != 0)
        end(f, true);
}

void lorica_job_events_follow(struct lorica_request *request) {
    if (request->response.status != 0) { /* the list */
        lorica_conn_respond(request->conn);
        return;
    }
    struct follow *f = calloc(1, sizeof(*f));
    if (!f || uv_timer_init(&request->server->loop, &f->timer) != 0) {
        free(f);
        (void)lorica_request_fail(request, LORICA_ENOMEM, NULL, NULL, "out of memory");
        lorica_request_error_response(request);
        lorica_conn_respond(request->conn);
        return;
    }
    f->request = lorica_request_ref(request);
    f->timer.data = f->work.data = f;
    lorica_buf_init(&f->lines, 2 * PIECE);
    lorica_conn_stream_begin(request->conn);
    (void)uv_timer_start(&f->timer, on_time, 0, 0);
}

/* A stream has all events: what narrows a list is no option of it. */
static int check_stream(struct lorica_request *request) {
    static const char *const narrowing[] = {"limit", "after"};
    for (size_t i = 0; i < sizeof(narrowing) / sizeof(narrowing[0]); i++) {
        char text[64];
        if (lorica_http_query(request->query, narrowing[i], text, sizeof(text)) != LORICA_ENOTFOUND)
            return lorica_request_fail(request, LORICA_EINVAL, narrowing[i], NULL,
                                       "%s goes with the list of events, not with stream=true",
                                       narrowing[i]);
    }
    return 0; /* and lorica_job_events_follow goes on */
}

static int see(void *arg, const struct lorica_job *job, int64_t finish_ms) {
    (void)arg, (void)job, (void)finish_ms;
    return 0;
}

int lorica_handle_job_events(struct lorica_request *request) {
    struct lorica_error err = {0};
    char text[8];
    const char *stream = "false";
    int rc = lorica_jobs_find(request->server->jobs, &request->key, request->match.params[0], see,
                              NULL, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    rc = lorica_request_query_text(request, "stream", text, sizeof(text), &stream);
    if (rc != 0)
        return rc;
    if (strcmp(stream, "true") == 0)
        return check_stream(request);
    if (strcmp(stream, "false") == 0)
        return list(request);
    return lorica_request_fail(request, LORICA_EINVAL, "stream", NULL,
                               "stream must be true or false");
}
