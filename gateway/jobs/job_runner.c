/* SPDX-License-Identifier: MIT
 * The thread that works jobs off: takes the oldest that is queued, has it trained and published. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/jobs/job_process.h"
#include "gateway/jobs/jobs_private.h"
#include "gateway/server/server.h"
#include "runtime/train/trainer.h"

#define FOLLOW_MS 500       /* between two looks at what the trainer tells */
#define LOCK_MS 200         /* between two tries to be the only trainer */
#define STOP_MS 30000       /* that a trainer has for its last checkpoint, while the server runs */
#define CHECKPOINT_STEPS 50 /* updates that a killed machine costs, at most */
#define RETRY_MS 10000      /* after a job that could not be kept */
#define METRICS_MAX ((size_t)1 << 20) /* of its log that is looked at at once */
#define LOG_MAX ((size_t)1 << 20)
#define WORDS_MAX 40

/* The job that is worked on. */
struct run {
    struct lorica_jobs *jobs;
    struct lorica_job_entry *entry;
    struct lorica_job job; /* a copy, whose metadata are borrowed: what was asked for stays */
    uint64_t read;         /* bytes of metrics.jsonl that were looked at */
    char code[64];         /* of a failure */
    bool broke_off;        /* the trainer ended before its time, and nobody had asked it to */
};

/* Waits for the wake-up call, or for `fd` (-1: none); true when `fd` is readable. */
static bool wait_for(struct lorica_jobs *jobs, int fd, int timeout_ms) {
    struct pollfd polled[] = {{.fd = jobs->wake, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    uint64_t count;
    (void)poll(polled, 2, timeout_ms);
    if (polled[0].revents && read(jobs->wake, &count, sizeof(count)) < 0)
        return polled[1].revents != 0; /* somebody else was awake */
    return polled[1].revents != 0;
}

/* True while the job is to go on. */
static bool wanted(const struct run *run) {
    if (atomic_load(&run->jobs->stopping))
        return false;
    pthread_mutex_lock(&run->jobs->mutex);
    const bool running = run->entry->job.state == LORICA_JOB_RUNNING;
    pthread_mutex_unlock(&run->jobs->mutex);
    return running;
}

/* Takes the oldest job that waits. */
static struct lorica_job_entry *take_next(struct lorica_jobs *jobs) {
    struct lorica_job_entry *next = NULL;
    struct lorica_error err = {0};
    pthread_mutex_lock(&jobs->mutex);
    for (struct lorica_job_entry *e = jobs->first; e; e = e->next)
        if (e->job.state == LORICA_JOB_QUEUED)
            next = e;
    if (next && lorica_job_set(jobs, next, LORICA_JOB_RUNNING, "The job is running", &err) != 0)
        next = NULL; /* the log says why; it is tried again with the next wake-up */
    if (next) {
        next->started_ms = lorica_sweeper_now_ms();
        next->started_step = next->logged_step;
    }
    pthread_mutex_unlock(&jobs->mutex);
    return next;
}

/* -- the trainer -- */

/* The command line, its numbers kept in `text`. */
struct words {
    char *argv[WORDS_MAX];
    char text[WORDS_MAX][64];
    char *paths[8];
    size_t count, path_count;
};

static void add_word(struct words *w, const char *word) {
    w->argv[w->count++] = (char *)(uintptr_t)word;
}

static void add_number(struct words *w, const char *option, double number) {
    (void)snprintf(w->text[w->count], sizeof(w->text[0]), "%.17g", number);
    add_word(w, option);
    w->argv[w->count] = w->text[w->count - 1];
    w->count++;
}

static void add_whole(struct words *w, const char *option, int64_t number) {
    (void)snprintf(w->text[w->count], sizeof(w->text[0]), "%lld", (long long)number);
    add_word(w, option);
    w->argv[w->count] = w->text[w->count - 1];
    w->count++;
}

/* Takes a path over; false: out of memory. */
static bool add_path(struct words *w, const char *option, char *path) {
    w->paths[w->path_count++] = path;
    if (option)
        add_word(w, option);
    add_word(w, path);
    return path != NULL;
}

static void finish_words(struct words *w) {
    for (size_t i = 0; i < w->path_count; i++)
        free(w->paths[i]);
}

static char *data_path(const struct lorica_jobs *jobs, const struct lorica_job *job) {
    char *path = lorica_job_path(jobs, job, "data.csv");
    if (path && lorica_path_exists(path))
        return path;
    free(path);
    return lorica_job_path(jobs, job, "data.jsonl");
}

static char *held_path(const struct lorica_jobs *jobs, const struct lorica_job *job) {
    char *dir = lorica_job_path(jobs, job, "held");
    char *path = dir ? lorica_path_join(dir, job->validation.filename) : NULL;
    free(dir);
    return path;
}

static int make_words(struct lorica_jobs *jobs, const struct lorica_job *job, struct words *w,
                      struct lorica_error *err) {
    const struct lorica_config *config = jobs->server->parts.config;
    const struct lorica_job_recipe *r = &job->recipe;
    struct lorica_trainer_options defaults;
    char *base = NULL;
    lorica_trainer_default_options(&defaults);
    const int rc = lorica_find_base(jobs->server->parts.data_dir, config->base, &base, err);
    if (rc != 0)
        return rc;
    add_word(w, "lorica");
    add_word(w, "train");
    add_word(w, job->suffix);
    bool fine = add_path(w, NULL, data_path(jobs, job)) && add_path(w, "--base", base) &&
                add_path(w, "--data", strdup(jobs->server->parts.data_dir)) &&
                add_path(w, "--out", lorica_job_path(jobs, job, "out")) &&
                add_path(w, "--log", lorica_job_path(jobs, job, "metrics.jsonl"));
    if (w->path_count < 2)
        free(base);
    if (fine && job->validation.id[0])
        fine = add_path(w, "--eval", held_path(jobs, job));
    add_word(w, "--resume");
    add_whole(w, "--checkpoint-steps", CHECKPOINT_STEPS);
    add_whole(w, "--threads", r->threads);
    add_whole(w, "--seed", r->seed);
    add_whole(w, "--epochs", r->epochs);
    add_whole(w, "--batch", r->batch);
    add_number(w, "--lr", defaults.lr * r->lr_multiplier);
    add_whole(w, "--rank", r->rank);
    add_number(w, "--alpha", r->alpha);
    add_whole(w, "--max-length", r->max_length);
    add_word(w, NULL);
    return fine ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
}

/* Opens the lock that the one trainer holds, once nobody else has it. -1: the job is not wanted any
 * more, or *err says why. */
static int open_lock(struct run *run, struct lorica_error *err) {
    char *path = lorica_path_join(run->jobs->dir, "lock");
    const int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0) {
        (void)lorica_fail(err, LORICA_EIO, "the trainer's lock cannot be opened");
        free(path);
        return -1;
    }
    free(path);
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        (void)wait_for(run->jobs, -1, LOCK_MS);
        if (!wanted(run)) {
            (void)close(fd);
            return -1;
        }
    }
    return fd;
}

/* What the trainer's log holds from the line on that follows run->read bytes, at most METRICS_MAX
 * of it. The byte before is read too: where it ends no line, or the log is shorter, the log is that
 * of a run that was taken up again, and is looked at from its beginning. */
static char *read_metrics(struct run *run, size_t *ret_len) {
    char *path = lorica_job_path(run->jobs, &run->job, "metrics.jsonl");
    const int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct lorica_error ignored;
    struct stat st;
    char before = '\0', *text = NULL;
    free(path);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && st.st_size > 0 && (uint64_t)st.st_size != run->read) {
        const uint64_t size = (uint64_t)st.st_size;
        if (run->read > size || (run->read > 0 && (lorica_file_read_at(fd, run->read - 1, &before,
                                                                       1, "a log", &ignored) != 0 ||
                                                   before != '\n')))
            run->read = 0;
        *ret_len = size - run->read < METRICS_MAX ? (size_t)(size - run->read) : METRICS_MAX;
        text = malloc(*ret_len);
        if (text && lorica_file_read_at(fd, run->read, text, *ret_len, "a log", &ignored) != 0) {
            free(text);
            text = NULL;
        }
    }
    (void)close(fd);
    return text;
}

/* Makes events of what the trainer has written since. */
static void follow(struct run *run) {
    size_t len = 0, at = 0;
    char *text = read_metrics(run, &len);
    if (!text)
        return;
    pthread_mutex_lock(&run->jobs->mutex);
    for (const char *end; at < len && (end = memchr(text + at, '\n', len - at));) {
        lorica_job_event_update(run->jobs, run->entry, text + at, (size_t)(end - text) - at);
        at = (size_t)(end - text) + 1;
    }
    pthread_mutex_unlock(&run->jobs->mutex);
    run->read += at;
    free(text);
}

/* Sees the trainer to its end; gives waitpid()'s status. One that is not wanted any more gets the
 * time for a checkpoint. */
static int attend(struct run *run, struct lorica_process *process) {
    struct lorica_jobs *jobs = run->jobs;
    int64_t kill_ms = 0;
    while (!wait_for(jobs, process->fd, FOLLOW_MS)) {
        const int64_t now = lorica_sweeper_now_ms();
        follow(run);
        if (kill_ms == 0 && !wanted(run)) {
            const int64_t drain_ms = (int64_t)jobs->server->parts.config->drain_seconds * 1000;
            kill_ms = now + (atomic_load(&jobs->stopping) ? drain_ms : STOP_MS);
            lorica_process_signal(process, SIGTERM);
        } else if (kill_ms > 0 && now >= kill_ms) {
            lorica_process_signal(process, SIGKILL);
        }
    }
    const int status = lorica_process_wait(process);
    for (uint64_t before = UINT64_MAX; before != run->read;) { /* all that is left */
        before = run->read;
        follow(run);
    }
    return status;
}

/* Why the trainer ended: its last line that says so, without the job's paths. LORICA_ENOSPC where
 * the disk was full, else LORICA_EIO. */
static int explain(const struct run *run, int status, struct lorica_error *err) {
    char *path = lorica_job_path(run->jobs, &run->job, "trainer.log"), *text = NULL;
    char *dir = lorica_path_join(run->jobs->dir, run->job.id);
    struct lorica_error ignored;
    int rc = LORICA_EIO;
    size_t len = 0;
    char *line = NULL;
    if (path && lorica_file_read(path, LOG_MAX, &text, &len, &ignored) == 0)
        for (char *at = text; (at = strstr(at, "lorica: ")); at++)
            line = at == text || at[-1] == '\n' ? at + strlen("lorica: ") : line;
    if (line)
        line[strcspn(line, "\r\n")] = '\0';
    if (line && dir)
        (void)lorica_path_hide(line, dir);
    if (line && strstr(line, strerror(ENOSPC)))
        rc = LORICA_ENOSPC;
    if (WIFSIGNALED(status))
        rc = lorica_fail(err, LORICA_EIO, "the trainer was ended by signal %d (%s)",
                         WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        rc = lorica_fail(err, rc, "%s", line ? line : "the trainer did not say why it ended");
    free(text);
    free(path);
    free(dir);
    return rc;
}

static int train(struct run *run, struct lorica_error *err) {
    const struct lorica_config *config = run->jobs->server->parts.config;
    struct words words = {.count = 0};
    struct lorica_process process = {.fd = -1};
    char *out = lorica_job_path(run->jobs, &run->job, "trainer.log");
    int lock = -1, status = 0;
    int rc = make_words(run->jobs, &run->job, &words, err);
    if (rc == 0 && !out)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && (lock = open_lock(run, err)) < 0)
        rc = err->code ? err->code : LORICA_ECANCELED;
    const struct lorica_process_plan plan = {
        .argv = words.argv,
        .out = out,
        .lock = lock,
        .memory_bytes = (uint64_t)config->training_memory_mb << 20,
    };
    if (rc == 0)
        rc = lorica_process_start(&plan, &process, err);
    if (rc == 0 && (status = attend(run, &process)) != 0) {
        rc = explain(run, status, err);
        run->broke_off = wanted(run);
        rc = run->broke_off ? rc : LORICA_ECANCELED;
    }
    if (lock >= 0)
        (void)close(lock);
    finish_words(&words);
    free(out);
    (void)snprintf(run->code, sizeof(run->code), "training_failed");
    return rc;
}

/* The trainer writes the manifest behind the adapter and removes its checkpoint behind that. */
static bool is_trained(const struct run *run) {
    char *manifest = lorica_job_path(run->jobs, &run->job, "out/manifest.json");
    char *checkpoint = lorica_job_path(run->jobs, &run->job, "out/checkpoint.safetensors");
    const bool trained =
        manifest && checkpoint && lorica_path_exists(manifest) && !lorica_path_exists(checkpoint);
    free(manifest);
    free(checkpoint);
    return trained;
}

static int check_base(struct run *run, struct lorica_error *err) {
    (void)snprintf(run->code, sizeof(run->code), "base_changed");
    if (lorica_digest_equal(&run->job.base, &run->jobs->server->parts.base->digest))
        return 0;
    return lorica_fail(err, LORICA_ECONFLICT,
                       "the job is for the base %s as it was when the job was made; the server has "
                       "another now. Make the job again",
                       run->job.model);
}

/* -- the job -- */

static bool begin_publishing(struct run *run) {
    struct lorica_error err = {0};
    pthread_mutex_lock(&run->jobs->mutex);
    const bool begun =
        run->entry->job.state == LORICA_JOB_RUNNING &&
        lorica_job_set(run->jobs, run->entry, LORICA_JOB_PUBLISHING,
                       "The adapter is trained; it is being judged and published", &err) == 0;
    pthread_mutex_unlock(&run->jobs->mutex);
    return begun;
}

/* What comes of a job: its new state and the event that says so. With the mutex. */
static int conclude(struct run *run, int rc, const struct lorica_error *why) {
    struct lorica_job *job = &run->entry->job;
    struct lorica_error err = {0};
    char message[LORICA_NAME_MAX + sizeof(why->text) + 100];
    if (rc == 0) {
        (void)snprintf(message, sizeof(message),
                       "The job succeeded: the adapter is %s, on channel candidate",
                       run->job.result.model);
        job->result = run->job.result;
        return lorica_job_set(run->jobs, run->entry, LORICA_JOB_SUCCEEDED, message, &err);
    }
    (void)snprintf(job->error.message, sizeof(job->error.message), "%s", why->text);
    (void)lorica_path_hide(job->error.message, run->jobs->server->parts.data_dir);
    if (rc == LORICA_ENOSPC) { /* what it has learnt so far is kept */
        (void)snprintf(message, sizeof(message),
                       "The job was paused, as the disk is full: %s. Resume it once there is room",
                       job->error.message);
        job->error.message[0] = '\0';
        return lorica_job_set(run->jobs, run->entry, LORICA_JOB_PAUSED, message, &err);
    }
    /* Killed, say. One that comes no further than the one before it has failed for good. */
    if (run->broke_off && run->entry->logged_step > run->entry->started_step) {
        (void)snprintf(message, sizeof(message),
                       "The trainer broke off (%s); the job goes on behind its last checkpoint",
                       job->error.message);
        job->error.message[0] = '\0';
        return lorica_job_set(run->jobs, run->entry, LORICA_JOB_QUEUED, message, &err);
    }
    (void)snprintf(job->error.code, sizeof(job->error.code), "%s", run->code);
    return lorica_job_set(run->jobs, run->entry, LORICA_JOB_FAILED, job->error.message, &err);
}

/* False: it could not be kept. */
static bool end(struct run *run, int rc, const struct lorica_error *why) {
    struct lorica_job *job = &run->entry->job;
    pthread_mutex_lock(&run->jobs->mutex);
    const struct lorica_job before = *job;
    if (rc == 0 ||
        (rc != LORICA_ECANCELED && lorica_job_may_become(job->state, LORICA_JOB_FAILED))) {
        rc = conclude(run, rc, why);
        if (rc != 0)
            *job = before;
    }
    if (lorica_job_is_over(job->state))
        lorica_job_tidy(run->jobs, job);
    run->entry->started_ms = 0;
    const bool stuck = rc != 0 && lorica_job_may_become(job->state, LORICA_JOB_QUEUED) &&
                       job->state != LORICA_JOB_PAUSED && !atomic_load(&run->jobs->stopping);
    if (stuck)
        lorica_job_requeue(run->jobs, run->entry);
    pthread_mutex_unlock(&run->jobs->mutex);
    return !stuck;
}

/* False: what came of it could not be kept; it is queued again. */
static bool run_job(struct lorica_jobs *jobs, struct lorica_job_entry *entry) {
    struct run run = {.jobs = jobs, .entry = entry};
    struct lorica_error err = {0};
    pthread_mutex_lock(&jobs->mutex);
    run.job = entry->job;
    pthread_mutex_unlock(&jobs->mutex);
    int rc = check_base(&run, &err);
    if (rc == 0 && !is_trained(&run))
        rc = train(&run, &err);
    if (rc == 0 && !begin_publishing(&run))
        rc = LORICA_ECANCELED;
    if (rc == 0)
        rc = lorica_job_publish(jobs, &run.job, run.code, sizeof(run.code), &err);
    if (rc == 0)
        lorica_job_results_make(jobs, &run.job);
    return end(&run, rc, &err);
}

void *lorica_job_runner(void *arg) {
    struct lorica_jobs *jobs = arg;
    lorica_lane_give_way();
    while (!atomic_load(&jobs->stopping)) {
        struct lorica_job_entry *entry = take_next(jobs);
        if (!entry || !run_job(jobs, entry))
            (void)wait_for(jobs, -1, RETRY_MS);
    }
    return NULL;
}
