/* SPDX-License-Identifier: MIT
 * A job's events: lines of events.jsonl, each the API's object. An event that was shown stays as it
 * is: an update that is done again after a crash has its event already. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/files.h"
#include "gateway/jobs/jobs_private.h"
#include "gateway/server/server.h"

#define NAME "events.jsonl"
#define LINE_MAX_BYTES ((size_t)4096)
/* Bytes that are read at once; longer than any line. */
#define PIECE ((size_t)64 << 10)

/* -- adding -- */

static void open_event(struct lorica_jsonw *w, const struct lorica_job_entry *entry,
                       const char *level, const char *type, const char *message) {
    char id[64];
    (void)snprintf(id, sizeof(id), "ftevent-%.16s%08llx",
                   entry->job.id + sizeof(LORICA_JOB_ID_PREFIX) - 1,
                   (unsigned long long)entry->events + 1);
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "object", "fine_tuning.job.event");
    lorica_jsonw_string(w, "id", id);
    lorica_jsonw_integer(w, "created_at", (int64_t)time(NULL));
    lorica_jsonw_string(w, "level", level);
    lorica_jsonw_string(w, "message", message);
    lorica_jsonw_string(w, "type", type);
}

/* One write for the line: it is there whole, or its beginning is cut off at the next start. */
static void append(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                   struct lorica_buf *line) {
    char *path = lorica_job_path(jobs, &entry->job, NAME);
    (void)lorica_buf_puts(line, "\n");
    const int fd = path && lorica_buf_status(line) == 0
                       ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)
                       : -1;
    struct stat st;
    if (fd >= 0 && fstat(fd, &st) == 0 && write(fd, line->data, line->len) == (ssize_t)line->len) {
        entry->events++;
    } else {
        if (fd >= 0 && ftruncate(fd, st.st_size) != 0)
            (void)unlink(path);
        lorica_log_line(jobs->server->parts.log, "error", "event=job_event_lost id=%s why=\"%s\"",
                        entry->job.id, strerror(errno));
    }
    if (fd >= 0)
        (void)close(fd);
    free(path);
}

void lorica_job_event(struct lorica_jobs *jobs, struct lorica_job_entry *entry, const char *level,
                      const char *message) {
    struct lorica_buf line;
    struct lorica_jsonw w = {.out = &line};
    if (entry->damaged)
        return;
    lorica_buf_init(&line, LINE_MAX_BYTES);
    open_event(&w, entry, level, "message", message);
    lorica_jsonw_null(&w, "data");
    lorica_jsonw_end_object(&w);
    append(jobs, entry, &line);
    lorica_buf_finish(&line);
}

static void put_member(struct lorica_jsonw *w, const char *key, const struct lorica_json *line,
                       const char *from) {
    const struct lorica_json *value = lorica_json_get(line, from);
    if (lorica_json_type(value) == LORICA_JSON_NUMBER)
        lorica_jsonw_value(w, key, value);
}

static void put_update(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                       const struct lorica_json *metrics, int64_t step) {
    char message[160];
    struct lorica_buf line;
    struct lorica_jsonw w = {.out = &line};
    (void)snprintf(message, sizeof(message), "Step %lld/%lld: training loss=%.4f", (long long)step,
                   (long long)entry->job.recipe.steps,
                   lorica_json_number(lorica_json_get(metrics, "loss"), 0));
    lorica_buf_init(&line, LINE_MAX_BYTES);
    open_event(&w, entry, "info", "metrics", message);
    lorica_jsonw_object(&w, "data");
    lorica_jsonw_integer(&w, "step", step);
    lorica_jsonw_integer(&w, "total_steps", entry->job.recipe.steps);
    put_member(&w, "train_loss", metrics, "loss");
    put_member(&w, "valid_loss", metrics, "eval_loss");
    put_member(&w, "learning_rate", metrics, "lr");
    put_member(&w, "grad_norm", metrics, "grad_norm");
    put_member(&w, "tokens", metrics, "tokens");
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_object(&w);
    append(jobs, entry, &line);
    lorica_buf_finish(&line);
}

void lorica_job_event_update(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                             const char *line, size_t len) {
    struct lorica_json *metrics = NULL;
    struct lorica_error ignored;
    int64_t step = 0;
    if (lorica_json_parse(line, len, &metrics, &ignored) != 0)
        return;
    if (lorica_json_integer(lorica_json_get(metrics, "step"), 1, LORICA_JOB_STEPS_MAX, &step) ==
            0 &&
        step > entry->logged_step) {
        put_update(jobs, entry, metrics, step);
        entry->logged_step = step;
    }
    lorica_json_destroy(metrics);
}

/* -- at start -- */

/* The update that a line is the event of; 0: it is none. */
static int64_t step_of(const char *line, size_t len) {
    struct lorica_json *event = NULL;
    struct lorica_error ignored;
    int64_t step = 0;
    if (lorica_json_parse(line, len, &event, &ignored) == 0 &&
        lorica_json_integer(lorica_json_get(lorica_json_get(event, "data"), "step"), 1,
                            LORICA_JOB_STEPS_MAX, &step) != 0)
        step = 0;
    lorica_json_destroy(event);
    return step;
}

/* The last update that there is a line of in `text`, which may begin within one. */
static int64_t last_step(const char *text, size_t len) {
    int64_t step = 0;
    while (len > 0 && step == 0) {
        const char *before = len > 1 ? memrchr(text, '\n', len - 1) : NULL;
        const size_t start = before ? (size_t)(before - text) + 1 : 0;
        step = step_of(text + start, len - 1 - start);
        len = start;
    }
    return step;
}

/* Counts the lines of an open file, and finds where the last whole one ends. */
static int count_lines(int fd, char *piece, struct lorica_job_entry *entry, uint64_t *ret_end) {
    uint64_t at = 0;
    ssize_t n = 0;
    *ret_end = 0;
    while ((n = pread(fd, piece, PIECE, (off_t)at)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            if (piece[i] == '\n') {
                entry->events++;
                *ret_end = at + (uint64_t)i + 1;
            }
        at += (uint64_t)n;
    }
    return n < 0 ? -1 : 0;
}

int lorica_job_events_open(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                           struct lorica_error *err) {
    if (entry->damaged || lorica_job_is_over(entry->job.state))
        return 0; /* nothing is added any more */
    char *path = lorica_job_path(jobs, &entry->job, NAME), *piece = malloc(PIECE);
    const int fd = path && piece ? open(path, O_RDWR | O_CLOEXEC) : -1;
    uint64_t end = 0;
    int rc = 0;
    if (!path || !piece)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    else if (fd < 0)
        rc = errno == ENOENT ? 0 : lorica_fail_errno(err, path, "cannot be opened");
    else if (count_lines(fd, piece, entry, &end) != 0)
        rc = lorica_fail_errno(err, path, "cannot be read");
    else if (ftruncate(fd, (off_t)end) != 0)
        rc = lorica_fail_errno(err, path, "cannot be cut to its last line");
    if (rc == 0 && fd >= 0) {
        const size_t tail = end < PIECE ? (size_t)end : PIECE;
        rc = lorica_file_read_at(fd, end - tail, piece, tail, path, err);
        if (rc == 0)
            entry->logged_step = last_step(piece, tail);
    }
    if (fd >= 0)
        (void)close(fd);
    free(piece);
    free(path);
    return rc;
}

/* -- reading -- */

/* Up to `max` bytes at `offset`, cut behind their last line. */
static int read_lines(int fd, uint64_t offset, size_t max, struct lorica_buf *out) {
    char *room = lorica_buf_reserve(out, max);
    if (!room)
        return lorica_buf_status(out);
    const ssize_t n = pread(fd, room, max, (off_t)offset);
    if (n < 0)
        return LORICA_EIO;
    const char *end = n > 0 ? memrchr(room, '\n', (size_t)n) : NULL;
    lorica_buf_commit(out, end ? (size_t)(end - room) + 1 : 0);
    return 0;
}

int lorica_jobs_events(struct lorica_jobs *jobs, const char *id, uint64_t offset, size_t max,
                       struct lorica_buf *out, bool *ret_ended, struct lorica_error *err) {
    const struct lorica_job_entry *entry = NULL;
    char *path = NULL;
    /* The state before the file: whatever is over by then has all its lines. */
    pthread_mutex_lock(&jobs->mutex);
    for (entry = jobs->first; entry && strcmp(entry->job.id, id) != 0;)
        entry = entry->next;
    const bool over = !entry || lorica_job_is_over(entry->job.state);
    pthread_mutex_unlock(&jobs->mutex);
    if (!lorica_job_id_valid(id) || asprintf(&path, "%s/%s/" NAME, jobs->dir, id) < 0)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const size_t before = out->len;
    free(path);
    const int rc = fd >= 0 ? read_lines(fd, offset, max, out) : 0;
    if (fd >= 0)
        (void)close(fd);
    *ret_ended = over && out->len == before;
    return rc ? lorica_fail(err, rc, "the events cannot be read") : 0;
}

/* -- reading backwards -- */

/* A file of lines, of which no more than two pieces are in memory. */
struct backward {
    int fd;
    uint64_t begin; /* of `text` in the file */
    size_t len;     /* bytes of `text` up to the end of the next line to be given */
    char text[2 * PIECE];
};

/* Reads the piece before. */
static int read_before(struct backward *b, struct lorica_error *err) {
    const size_t more = b->begin < PIECE ? (size_t)b->begin : PIECE;
    if (b->len > sizeof(b->text) - more)
        return lorica_fail(err, LORICA_EIO, "the events are damaged: a line is too long");
    memmove(b->text + more, b->text, b->len);
    b->begin -= more;
    b->len += more;
    return lorica_file_read_at(b->fd, b->begin, b->text, more, "the events", err);
}

/* At the last whole line of the file. */
static int go_to_end(struct backward *b, struct lorica_error *err) {
    struct stat st;
    if (fstat(b->fd, &st) != 0)
        return lorica_fail(err, LORICA_EIO, "the events cannot be read: %s", strerror(errno));
    b->begin = (uint64_t)st.st_size;
    const int rc = read_before(b, err);
    const char *newline = rc == 0 ? memrchr(b->text, '\n', b->len) : NULL;
    b->len = newline ? (size_t)(newline - b->text) + 1 : 0;
    return rc;
}

/* Gives the line before those that were given, without its newline and until the next call: 1; 0
 * when there is none. */
static int line_before(struct backward *b, const char **ret, size_t *ret_len,
                       struct lorica_error *err) {
    const char *newline = NULL;
    while (!(newline = b->len > 1 ? memrchr(b->text, '\n', b->len - 1) : NULL) && b->begin > 0) {
        const int rc = read_before(b, err);
        if (rc != 0)
            return rc;
    }
    if (b->len == 0)
        return 0;
    const size_t start = newline ? (size_t)(newline - b->text) + 1 : 0;
    *ret = b->text + start;
    *ret_len = b->len - 1 - start;
    b->len = start;
    return 1;
}

/* Whether a line is that of the event `id`. */
static bool is_event(const char *line, size_t len, const char *id) {
    struct lorica_json *event = NULL;
    struct lorica_error ignored;
    if (!memmem(line, len, id, strlen(id)))
        return false;
    const char *its = lorica_json_parse(line, len, &event, &ignored) == 0
                          ? lorica_json_string(lorica_json_get(event, "id"))
                          : NULL;
    const bool same = its && strcmp(its, id) == 0;
    lorica_json_destroy(event);
    return same;
}

/* Up to `limit` lines before the event `after` (NULL: before the end), the newest first. */
static int take_before(struct backward *b, const char *after, long long limit,
                       struct lorica_buf *out, struct lorica_error *err) {
    const char *line = NULL;
    size_t len = 0;
    bool found = !after;
    int rc = 1;
    while (!found && (rc = line_before(b, &line, &len, err)) == 1)
        found = is_event(line, len, after);
    if (rc == 0)
        return lorica_fail(err, LORICA_ENOTFOUND, "the job has no event \"%s\"", after);
    for (long long i = 0; i < limit && rc == 1 && (rc = line_before(b, &line, &len, err)) == 1;
         i++) {
        (void)lorica_buf_append(out, line, len);
        (void)lorica_buf_puts(out, "\n");
    }
    if (rc < 0)
        return rc;
    rc = lorica_buf_status(out);
    return rc ? lorica_fail(err, rc, "the events cannot be read: %s", lorica_err_text(rc)) : 0;
}

int lorica_jobs_events_before(struct lorica_jobs *jobs, const char *id, const char *after,
                              long long limit, struct lorica_buf *out, bool *ret_more,
                              struct lorica_error *err) {
    struct backward *b = calloc(1, sizeof(*b));
    char *path = NULL;
    if (!b || !lorica_job_id_valid(id) || asprintf(&path, "%s/%s/" NAME, jobs->dir, id) < 0) {
        free(b);
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    }
    b->fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = b->fd >= 0 ? go_to_end(b, err) : 0; /* without a file there is no event */
    if (rc == 0)
        rc = take_before(b, after, limit, out, err);
    *ret_more = rc == 0 && b->begin + b->len > 0;
    if (b->fd >= 0)
        (void)close(b->fd);
    free(path);
    free(b);
    return rc;
}
