/* SPDX-License-Identifier: MIT */
#include "gateway/train/train_log.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gateway/files.h"
#include "gateway/train/loss_plot.h"
#include "proto/json.h"

#define LINE_MAX_BYTES 4096
#define PLOT_MAX ((size_t)4 << 20)

struct lorica_train_log {
    char *path; /* NULL: no file */
    FILE *file, *copy;
    bool rewinds; /* the lines of an earlier run are still to be looked through */
    int rc;       /* of the first write that failed */
    struct lorica_error err;
    struct curves {
        struct lorica_curve training, evaluation;
    } curves;
};

int lorica_train_log_create(const char *path, bool resume, struct lorica_train_log **ret,
                            struct lorica_error *err) {
    struct lorica_train_log *log = calloc(1, sizeof(*log));
    if (!log)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the log");
    if (path) {
        log->path = strdup(path);
        log->file = log->path ? fopen(path, resume ? "a+e" : "we") : NULL;
        if (!log->file) {
            const int rc = log->path ? lorica_fail_errno(err, path, "cannot be written")
                                     : lorica_fail(err, LORICA_ENOMEM, "no memory for the log");
            free(log->path);
            free(log);
            return rc;
        }
    }
    log->rewinds = resume && log->file;
    *ret = log;
    return 0;
}

void lorica_train_log_copy(struct lorica_train_log *log, FILE *copy) { log->copy = copy; }

struct iovec lorica_train_log_notes(struct lorica_train_log *log) {
    return (struct iovec){&log->curves, sizeof(log->curves)};
}

double lorica_train_memory_mb(void) {
    /* getrusage() also counts what the process that ran this program held before. */
    char *status = NULL;
    size_t len = 0;
    struct lorica_error err = {0};
    double kib = 0;
    if (lorica_file_read("/proc/self/status", 65536, &status, &len, &err) == 0) {
        const char *line = strstr(status, "\nVmHWM:");
        kib = line ? strtod(line + strlen("\nVmHWM:"), NULL) : 0;
    }
    free(status);
    return kib / 1024;
}

/* A line reaches the file at once: whoever follows it, and a run that is killed, lose nothing. */
static void put_line(struct lorica_train_log *log, FILE *file, const struct lorica_buf *line) {
    if (!file || log->rc != 0)
        return;
    if (fwrite(line->data, 1, line->len, file) != line->len || fflush(file) != 0)
        log->rc = lorica_fail_errno(&log->err, file == log->file ? log->path : "the log for MLflow",
                                    "cannot be written");
}

static void write_line(struct lorica_train_log *log, const struct lorica_trainer_progress *p) {
    struct lorica_buf line;
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    lorica_buf_init(&line, LINE_MAX_BYTES);
    struct lorica_jsonw w = {.out = &line};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_integer(&w, "step", (int64_t)p->step);
    if (p->step > 0) {
        lorica_jsonw_number(&w, "loss", p->loss);
        lorica_jsonw_number(&w, "lr", p->lr);
        lorica_jsonw_number(&w, "grad_norm", p->grad_norm);
        lorica_jsonw_integer(&w, "tokens", (int64_t)p->tokens);
        lorica_jsonw_number(&w, "seconds", p->seconds);
    }
    if (isfinite(p->eval_loss))
        lorica_jsonw_number(&w, "eval_loss", p->eval_loss);
    lorica_jsonw_number(&w, "memory_mb", lorica_train_memory_mb());
    lorica_jsonw_integer(&w, "time_ms", (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(&line, "\n");
    if (lorica_buf_status(&line) != 0 && log->rc == 0)
        log->rc = lorica_fail(&log->err, LORICA_ENOMEM, "the log: out of memory");
    if (p->step > 0)
        put_line(log, log->file, &line);
    put_line(log, log->copy, &line);
    lorica_buf_finish(&line);
}

/* Keeps the lines of the updates before `step` and takes the others off: what came behind the
 * checkpoint is done again. */
static void rewind_to(struct lorica_train_log *log, uint64_t step) {
    char line[LINE_MAX_BYTES];
    off_t end = 0;
    log->rewinds = false;
    rewind(log->file);
    while (fgets(line, (int)sizeof(line), log->file)) {
        struct lorica_json *json = NULL;
        struct lorica_error ignored;
        int64_t its = 0;
        const bool kept =
            lorica_json_parse(line, strlen(line), &json, &ignored) == 0 &&
            lorica_json_integer(lorica_json_get(json, "step"), 1, INT64_MAX, &its) == 0 &&
            (uint64_t)its < step;
        lorica_json_destroy(json);
        if (!kept)
            break;
        end = ftello(log->file);
    }
    if ((fflush(log->file) != 0 || ftruncate(fileno(log->file), end) != 0 ||
         fseeko(log->file, 0, SEEK_END) != 0) &&
        log->rc == 0)
        log->rc = lorica_fail_errno(&log->err, log->path, "cannot be gone on with");
}

void lorica_train_log_update(struct lorica_train_log *log,
                             const struct lorica_trainer_progress *p) {
    if (p->step > 0 && log->rewinds)
        rewind_to(log, p->step);
    if (p->step > 0)
        lorica_curve_add(&log->curves.training, p->step, p->loss);
    lorica_curve_add(&log->curves.evaluation, p->step, p->eval_loss);
    write_line(log, p);
}

int lorica_train_log_plot(const struct lorica_train_log *log, const char *dir, const char *title,
                          const char *subtitle, struct lorica_error *err) {
    const struct lorica_loss_plot plot = {title, subtitle, &log->curves.training,
                                          &log->curves.evaluation};
    struct lorica_buf out;
    lorica_buf_init(&out, PLOT_MAX);
    char *path = lorica_path_join(dir, "loss.svg");
    int rc = lorica_loss_plot_write(&plot, &out);
    if (rc || !path)
        rc = lorica_fail(err, rc ? rc : LORICA_ENOMEM, "the plot of the losses: out of memory");
    else
        rc = lorica_file_replace(path, out.data, out.len, 0644, err);
    lorica_buf_finish(&out);
    free(path);
    return rc;
}

int lorica_train_log_destroy(struct lorica_train_log *log, struct lorica_error *err) {
    if (!log)
        return 0;
    if (log->file && fclose(log->file) != 0 && log->rc == 0)
        log->rc = lorica_fail_errno(&log->err, log->path, "cannot be written");
    const int rc = log->rc;
    if (rc != 0)
        (void)lorica_fail(err, rc, "%s", log->err.text);
    free(log->path);
    free(log);
    return rc;
}
