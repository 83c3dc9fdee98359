/* SPDX-License-Identifier: MIT */
#include "gateway/mlflow/mlflow_journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/mlflow/mlflow_send.h"
#include "registry/digest.h"

#define PREFIX "mlflow-"
#define SUFFIX ".jsonl"
#define NAME_MAX_BYTES 64
#define EVERY_SECONDS 2
#define RETRY_SECONDS_MIN 4
#define RETRY_SECONDS_MAX 300
#define HEAD_MAX ((size_t)48 << 10)

struct lorica_mlflow_journal {
    char *dir, *path;
    FILE *file;
    struct lorica_mlflow *mlflow;
    struct lorica_mlflow_send *send; /* the thread's own until it was joined */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool ended; /* under the mutex */
    bool sent, said;
};

static int64_t now_ms(void) {
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Says once that the server does not get it. */
static void complain(struct lorica_mlflow_journal *j, const struct lorica_error *err) {
    if (j->said)
        return;
    j->said = true;
    (void)fprintf(stderr,
                  "%slorica: %s. Training goes on; lorica train --mlflow-sync %s sends the log "
                  "later\n",
                  isatty(STDERR_FILENO) ? "\n" : "", err->text, j->dir);
    (void)fflush(stderr);
}

/* Waits until it is time to send again, or the run has ended; true: it has. */
static bool wait_to_send(struct lorica_mlflow_journal *j, int seconds) {
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&j->mutex);
    int rc = 0;
    while (!j->ended && rc == 0)
        rc = pthread_cond_timedwait(&j->wake, &j->mutex, &until);
    const bool ended = j->ended;
    pthread_mutex_unlock(&j->mutex);
    return ended;
}

static void *run(void *arg) {
    struct lorica_mlflow_journal *j = arg;
    int seconds = 0;
    for (;;) {
        const bool last = wait_to_send(j, seconds);
        struct lorica_error err = {0};
        bool all = false;
        const int rc = lorica_mlflow_send_some(j->send, j->mlflow, last, &all, &err);
        if (rc != 0)
            complain(j, &err);
        if (last || all) {
            j->sent = rc == 0 && all;
            return NULL;
        }
        if (rc == 0)
            seconds = EVERY_SECONDS;
        else if (!lorica_mlflow_may_pass(rc) || seconds * 2 > RETRY_SECONDS_MAX)
            seconds = RETRY_SECONDS_MAX;
        else
            seconds = seconds < RETRY_SECONDS_MIN ? RETRY_SECONDS_MIN : 2 * seconds;
    }
}

/* Writes and syncs one line. */
static int put_line(struct lorica_mlflow_journal *j, struct lorica_buf *line,
                    struct lorica_error *err) {
    (void)lorica_buf_puts(line, "\n");
    if (lorica_buf_status(line) != 0)
        return lorica_fail(err, lorica_buf_status(line), "a line for %s is too long", j->path);
    if (fwrite(line->data, 1, line->len, j->file) != line->len || fflush(j->file) != 0 ||
        fsync(fileno(j->file)) != 0)
        return lorica_fail_errno(err, j->path, "cannot be written");
    return 0;
}

static int write_head(struct lorica_mlflow_journal *j, const struct lorica_mlflow_head *head,
                      const char *mark, struct lorica_error *err) {
    struct lorica_buf line;
    lorica_buf_init(&line, HEAD_MAX);
    struct lorica_jsonw w = {.out = &line};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "run", mark);
    lorica_jsonw_string(&w, "url", head->url);
    lorica_jsonw_string(&w, "experiment", head->experiment);
    lorica_jsonw_string(&w, "name", head->name);
    lorica_jsonw_integer(&w, "start_ms", now_ms());
    lorica_jsonw_raw(&w, "params", head->params, strlen(head->params));
    lorica_jsonw_end_object(&w);
    const int rc = put_line(j, &line, err);
    lorica_buf_finish(&line);
    return rc;
}

/* Makes the file DIR/mlflow-MARK.jsonl and locks it. */
static int make_file(struct lorica_mlflow_journal *j, const char *name, struct lorica_error *err) {
    j->path = lorica_path_join(j->dir, name);
    if (!j->path)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    const int fd = open(j->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return lorica_fail_errno(err, j->path, "cannot be made");
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 || !(j->file = fdopen(fd, "a"))) {
        const int rc = lorica_fail_errno(err, j->path, "cannot be locked");
        (void)close(fd);
        return rc;
    }
    return 0;
}

static int start_thread(struct lorica_mlflow_journal *j, struct lorica_error *err) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&j->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&j->mutex, NULL);
    if (pthread_create(&j->thread, NULL, run, j) == 0)
        return 0;
    pthread_mutex_destroy(&j->mutex);
    pthread_cond_destroy(&j->wake);
    return lorica_fail(err, LORICA_ENOMEM, "no thread for MLflow could be started");
}

static void destroy(struct lorica_mlflow_journal *j) {
    if (j->file)
        (void)fclose(j->file); /* and with it the lock */
    lorica_mlflow_send_close(j->send);
    lorica_mlflow_destroy(j->mlflow);
    free(j->path);
    free(j->dir);
    free(j);
}

int lorica_mlflow_journal_create(const char *dir, const struct lorica_mlflow_head *head,
                                 struct lorica_mlflow *mlflow, struct lorica_mlflow_journal **ret,
                                 struct lorica_error *err) {
    struct lorica_mlflow_journal *j = calloc(1, sizeof(*j));
    uint8_t random[16];
    char mark[2 * sizeof(random) + 1], name[NAME_MAX_BYTES];
    if (!j) {
        lorica_mlflow_destroy(mlflow);
        return lorica_fail(err, LORICA_ENOMEM, "no memory for a journal");
    }
    j->mlflow = mlflow;
    j->dir = strdup(dir);
    int rc = j->dir ? lorica_random_bytes(random, sizeof(random)) : LORICA_ENOMEM;
    if (rc != 0)
        (void)lorica_fail(err, rc, "a journal in %s: %s", dir, lorica_err_text(rc));
    for (size_t i = 0; i < sizeof(random); i++)
        (void)snprintf(mark + 2 * i, 3, "%02x", random[i]);
    (void)snprintf(name, sizeof(name), PREFIX "%s" SUFFIX, mark);
    if (rc == 0)
        rc = make_file(j, name, err);
    if (rc == 0)
        rc = write_head(j, head, mark, err);
    if (rc == 0)
        rc = lorica_mlflow_send_open(dir, name, &j->send, NULL, err);
    if (rc == 0)
        rc = start_thread(j, err);
    if (rc == 0) {
        *ret = j;
        return 0;
    }
    if (j->file)
        (void)unlink(j->path);
    destroy(j);
    return rc;
}

FILE *lorica_mlflow_journal_file(struct lorica_mlflow_journal *j) { return j->file; }

static void write_end(struct lorica_mlflow_journal *j, const char *status,
                      struct lorica_error *err) {
    struct lorica_buf line;
    struct lorica_digest digest;
    struct lorica_error ignored;
    char text[LORICA_DIGEST_TEXT];
    char *weights = lorica_path_join(j->dir, "adapter_model.safetensors");
    lorica_buf_init(&line, HEAD_MAX);
    struct lorica_jsonw w = {.out = &line};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "end", status);
    lorica_jsonw_integer(&w, "time_ms", now_ms());
    if (strcmp(status, "FINISHED") == 0 && weights &&
        lorica_file_digest(weights, &digest, &ignored) == 0)
        lorica_jsonw_string(&w, "weights", lorica_digest_format(&digest, text));
    lorica_jsonw_end_object(&w);
    if (put_line(j, &line, err) != 0)
        (void)fprintf(stderr, "lorica: %s\n", err->text);
    lorica_buf_finish(&line);
    free(weights);
}

/* Says what came of a journal, and removes it once it is of no use. */
static void conclude(const char *path, const struct lorica_mlflow_send *send) {
    const char *note = lorica_mlflow_send_note(send);
    (void)printf("logged to MLflow: %s\n", lorica_mlflow_send_link(send));
    if (note[0])
        (void)fprintf(stderr, "lorica: %s\n", note);
    (void)unlink(path);
}

void lorica_mlflow_journal_finish(struct lorica_mlflow_journal *j, const char *status) {
    struct lorica_error err = {0};
    if (!j)
        return;
    write_end(j, status, &err);
    pthread_mutex_lock(&j->mutex);
    j->ended = true;
    pthread_cond_signal(&j->wake);
    pthread_mutex_unlock(&j->mutex);
    pthread_join(j->thread, NULL);
    pthread_mutex_destroy(&j->mutex);
    pthread_cond_destroy(&j->wake);
    if (j->sent)
        conclude(j->path, j->send);
    else
        (void)printf("MLflow does not have all of this run: lorica train --mlflow-sync %s\n",
                     j->dir);
    destroy(j);
}

/* Sending later. */

/* Takes the lock of a journal; -1 (printed) when its run still lives, or it cannot be opened. */
static int lock_journal(const char *path) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    const bool lives = fd >= 0 && errno == EWOULDBLOCK;
    (void)fprintf(stderr, "lorica: %s: %s\n", path,
                  lives ? "its run still trains, and sends it itself" : strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static int send_one(const char *dir, const char *name, const char *url, const char *ca,
                    struct lorica_error *err) {
    struct lorica_mlflow_send *send = NULL;
    struct lorica_mlflow *mlflow = NULL;
    struct lorica_mlflow_options options = {.ca = ca};
    bool all = false;
    char *path = lorica_path_join(dir, name);
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    int rc = lorica_mlflow_send_open(dir, name, &send, &options.url, err);
    if (rc == 0 && url)
        options.url = url;
    if (rc == 0)
        rc = lorica_mlflow_create(&options, &mlflow, err);
    if (rc == 0)
        rc = lorica_mlflow_send_some(send, mlflow, true, &all, err);
    if (rc == 0)
        conclude(path, send);
    lorica_mlflow_send_close(send);
    lorica_mlflow_destroy(mlflow);
    free(path);
    return rc;
}

static int is_journal(const struct dirent *entry) {
    const size_t len = strlen(entry->d_name);
    return len > sizeof(PREFIX SUFFIX) - 1 && len < NAME_MAX_BYTES &&
           strncmp(entry->d_name, PREFIX, sizeof(PREFIX) - 1) == 0 &&
           strcmp(entry->d_name + len - (sizeof(SUFFIX) - 1), SUFFIX) == 0;
}

static bool sync_one(const char *dir, const char *name, const char *url, const char *ca) {
    struct lorica_error err = {0};
    char *path = lorica_path_join(dir, name);
    const int fd = path ? lock_journal(path) : -1;
    int rc = -1;
    if (fd >= 0) {
        rc = send_one(dir, name, url, ca, &err);
        if (rc != 0)
            (void)lorica_cmd_fail(&err);
        (void)close(fd);
    }
    free(path);
    return rc == 0;
}

int lorica_mlflow_sync(const char *dir, const char *url, const char *ca) {
    struct dirent **entries = NULL;
    struct lorica_error err = {0};
    const int count = scandir(dir, &entries, is_journal, alphasort);
    int failed = 0;
    if (count < 0) {
        (void)lorica_fail_errno(&err, dir, "cannot be listed");
        return lorica_cmd_fail(&err);
    }
    for (int i = 0; i < count; i++) {
        failed += !sync_one(dir, entries[i]->d_name, url, ca);
        free(entries[i]);
    }
    free(entries);
    if (count == 0)
        (void)printf("%s: nothing waits to be sent to MLflow\n", dir);
    return failed ? LORICA_EXIT_FAILED : LORICA_EXIT_OK;
}
