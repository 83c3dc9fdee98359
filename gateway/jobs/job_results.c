/* SPDX-License-Identifier: MIT
 * What a job that succeeded leaves of the figures of its updates: a CSV file among the files of the
 * key that made it, as OpenAI's "result_files". Its id has the digits of the job's, so that a job
 * whose end is told twice has one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/files.h"
#include "gateway/jobs/jobs_private.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/server/server.h"

#define PIECE ((size_t)64 << 10)
#define ROW_MAX ((size_t)1024)

/* Columns, and members of an event's data. */
static const char *const columns[] = {"step",          "train_loss", "valid_loss",
                                      "learning_rate", "grad_norm",  "tokens"};
#define COLUMNS (sizeof(columns) / sizeof(columns[0]))

/* Writes the row of an event of an update; other events have none. */
static bool write_row(FILE *file, const char *line, size_t len) {
    struct lorica_json *event = NULL;
    struct lorica_error ignored;
    struct lorica_buf row;
    bool fine = true;
    if (lorica_json_parse(line, len, &event, &ignored) != 0)
        return true;
    const struct lorica_json *data = lorica_json_get(event, "data");
    lorica_buf_init(&row, ROW_MAX);
    for (size_t i = 0; i < COLUMNS; i++) {
        const struct lorica_json *value = lorica_json_get(data, columns[i]);
        if (i > 0)
            (void)lorica_buf_puts(&row, ",");
        if (lorica_json_type(value) == LORICA_JSON_NUMBER)
            (void)lorica_json_write(&row, value);
    }
    (void)lorica_buf_puts(&row, "\n");
    if (lorica_json_type(lorica_json_get(data, "step")) == LORICA_JSON_NUMBER)
        fine = lorica_buf_status(&row) == 0 && fwrite(row.data, 1, row.len, file) == row.len;
    lorica_buf_finish(&row);
    lorica_json_destroy(event);
    return fine;
}

static int write_rows(struct lorica_jobs *jobs, const char *id, FILE *file,
                      struct lorica_error *err) {
    struct lorica_buf lines;
    uint64_t offset = 0;
    bool ended = false, fine = true;
    int rc = 0;
    for (size_t i = 0; i < COLUMNS; i++)
        fine = fine && fprintf(file, "%s%s", columns[i], i + 1 < COLUMNS ? "," : "\n") > 0;
    do {
        lorica_buf_init(&lines, 2 * PIECE);
        rc = lorica_jobs_events(jobs, id, offset, PIECE, &lines, &ended, err);
        offset += lines.len;
        ended = lines.len == 0;
        for (size_t at = 0; rc == 0 && fine && at < lines.len;) {
            const char *newline = memchr(lines.data + at, '\n', lines.len - at);
            const size_t end = (size_t)(newline - lines.data);
            fine = write_row(file, lines.data + at, end - at);
            at = end + 1;
        }
        lorica_buf_finish(&lines);
    } while (rc == 0 && fine && !ended);
    return rc || fine ? rc : lorica_fail(err, LORICA_EIO, "it cannot be written");
}

static int make(struct lorica_jobs *jobs, const struct lorica_job *job, const char *path,
                struct lorica_training_file *made, struct lorica_error *err) {
    FILE *file = fopen(path, "we");
    if (!file)
        return lorica_fail_errno(err, path, "cannot be written");
    int rc = write_rows(jobs, job->id, file, err);
    const long nbytes = ftell(file);
    if (fclose(file) != 0 && rc == 0)
        rc = lorica_fail_errno(err, path, "cannot be written");
    if (rc == 0)
        rc = lorica_file_digest(path, &made->digest, err);
    made->nbytes = nbytes > 0 ? (uint64_t)nbytes : 0;
    return rc ? rc : lorica_training_file_keep(jobs->server->parts.data_dir, path, made, err);
}

static void name(const char *job, char id[LORICA_TRAINING_FILE_ID]) {
    (void)snprintf(id, LORICA_TRAINING_FILE_ID, "file-%.24s",
                   job + sizeof(LORICA_JOB_ID_PREFIX) - 1);
}

void lorica_job_results_make(struct lorica_jobs *jobs, struct lorica_job *job) {
    struct lorica_training_file made = {.filename = "step_metrics.csv",
                                        .purpose = LORICA_TRAINING_FILE_RESULTS};
    struct lorica_error err = {0};
    char *path = lorica_job_path(jobs, job, "results.csv");
    name(job->id, made.id);
    (void)snprintf(made.owner, sizeof(made.owner), "%s", job->owner);
    int rc = path ? make(jobs, job, path, &made, &err)
                  : lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        memcpy(job->result.file, made.id, sizeof(job->result.file));
    else
        lorica_log_line(jobs->server->parts.log, "error", "event=job_results_lost id=%s why=\"%s\"",
                        job->id, err.text);
    if (rc != 0 && path)
        (void)unlink(path);
    free(path);
}

void lorica_job_results_remove(struct lorica_jobs *jobs, const struct lorica_job *job) {
    struct lorica_training_file file = {.purpose = LORICA_TRAINING_FILE_RESULTS};
    struct lorica_error ignored;
    memcpy(file.id, job->result.file, sizeof(file.id));
    if (file.id[0] &&
        lorica_training_file_remove(jobs->server->parts.data_dir, &file, &ignored) != 0)
        return; /* its owner has removed it */
}
