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
#include "gateway/jobs_private.h"
#include "gateway/server.h"

#define NAME "events.jsonl"
#define LINE_MAX_BYTES ((size_t)4096)
/* Bytes at the end of the file in which the last update is looked for. */
#define TAIL ((size_t)64 << 10)
#define FILE_MAX ((size_t)256 << 20)

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

/* The last update within the text's end. */
static int64_t last_step(const char *text, size_t len) {
    const size_t begin = len > TAIL ? len - TAIL : 0;
    int64_t step = 0;
    while (len > begin && step == 0) {
        const char *before = len > 1 ? memrchr(text, '\n', len - 1) : NULL;
        const size_t start = before ? (size_t)(before - text) + 1 : 0;
        step = step_of(text + start, len - 1 - start);
        len = start;
    }
    return step;
}

int lorica_job_events_open(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                           struct lorica_error *err) {
    char *path = lorica_job_path(jobs, &entry->job, NAME), *text = NULL;
    size_t len = 0, whole = 0;
    int rc = path ? lorica_file_read(path, FILE_MAX, &text, &len, err)
                  : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == LORICA_ENOTFOUND || entry->damaged) {
        free(text);
        free(path);
        return 0;
    }
    for (size_t i = 0; rc == 0 && i < len; i++)
        if (text[i] == '\n') {
            entry->events++;
            whole = i + 1;
        }
    if (rc == 0 && whole < len && truncate(path, (off_t)whole) != 0)
        rc = lorica_fail_errno(err, path, "cannot be cut to its last line");
    if (rc == 0)
        entry->logged_step = last_step(text, whole);
    free(text);
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
