/* SPDX-License-Identifier: MIT */
#include "gateway/jobs/jobs.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/server/auth.h"
#include "gateway/files.h"
#include "gateway/jobs/jobs_private.h"
#include "gateway/server/server.h"

#define NEW "new-" /* before the name of a directory that is being made */

char *lorica_job_path(const struct lorica_jobs *jobs, const struct lorica_job *job,
                      const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s/%s", jobs->dir, job->id, name) < 0 ? NULL : path;
}

void lorica_jobs_wake(struct lorica_jobs *jobs) {
    const uint64_t one = 1;
    /* Fails only where it is full, and so awake. */
    if (write(jobs->wake, &one, sizeof(one)) < 0)
        return;
}

void lorica_jobs_count(struct lorica_jobs *jobs, unsigned counts[LORICA_JOB_STATE_COUNT]) {
    for (int i = 0; i < LORICA_JOB_STATE_COUNT; i++)
        counts[i] = atomic_load(&jobs->counts[i]);
}

/* -- the disk -- */

/* Removes a directory of plain files inside that of a job. */
static void discard_inside(const char *dir, const char *name) {
    char *path = lorica_path_join(dir, name);
    if (path)
        lorica_dir_discard(path);
    free(path);
}

void lorica_jobs_discard(const char *dir) {
    discard_inside(dir, "out");
    discard_inside(dir, "held");
    lorica_dir_discard(dir);
}

static void discard_job(const struct lorica_jobs *jobs, const char *id) {
    char *dir = lorica_path_join(jobs->dir, id);
    if (dir)
        lorica_jobs_discard(dir);
    free(dir);
}

void lorica_job_tidy(struct lorica_jobs *jobs, const struct lorica_job *job) {
    static const char *const files[] = {"data.jsonl",  "data.csv",    "metrics.jsonl",
                                        "trainer.log", "results.csv", "out/checkpoint.safetensors"};
    char *dir = lorica_path_join(jobs->dir, job->id);
    for (size_t i = 0; dir && i < sizeof(files) / sizeof(files[0]); i++) {
        char *path = lorica_path_join(dir, files[i]);
        if (path)
            (void)unlink(path);
        free(path);
    }
    if (dir)
        discard_inside(dir, "held");
    if (dir && job->state != LORICA_JOB_FAILED)
        discard_inside(dir, "out");
    free(dir);
}

static int save(const char *dir, const struct lorica_job *job, struct lorica_error *err) {
    struct lorica_buf text;
    char *path = lorica_path_join(dir, "job.json");
    lorica_buf_init(&text, LORICA_JOB_TEXT_MAX);
    int rc = path ? lorica_job_encode(job, &text) : LORICA_ENOMEM;
    rc = rc ? lorica_fail(err, rc, "the job cannot be written down: %s", lorica_err_text(rc))
            : lorica_file_replace(path, text.data, text.len, 0600, err);
    lorica_buf_finish(&text);
    free(path);
    return rc;
}

/* What is told to clients of a fault of the disk: no paths. */
static int keep_paths(struct lorica_jobs *jobs, int rc, struct lorica_error *err) {
    if (rc == LORICA_ENOMEM)
        return rc;
    lorica_log_line(jobs->server->parts.log, "error", "event=job_not_kept why=\"%s\"", err->text);
    return lorica_fail(err, rc == LORICA_ENOSPC ? rc : LORICA_EIO,
                       rc == LORICA_ENOSPC
                           ? "the disk has no room for the job"
                           : "the job could not be kept; the server's log says why");
}

/* -- in memory -- */

static int64_t now_ms(void) { return lorica_sweeper_now_ms(); }

static void free_entry(struct lorica_job_entry *entry) {
    lorica_job_finish(&entry->job);
    free(entry);
}

/* Puts it among the others, by age. */
static void insert(struct lorica_jobs *jobs, struct lorica_job_entry *entry) {
    struct lorica_job_entry **at = &jobs->first;
    while (*at && (*at)->job.created_ms > entry->job.created_ms)
        at = &(*at)->next;
    entry->next = *at;
    *at = entry;
    atomic_fetch_add(&jobs->counts[entry->job.state], 1);
}

/* Forgets the oldest of those that are over, when there are more than are kept. */
static void forget(struct lorica_jobs *jobs) {
    size_t over = 0;
    for (struct lorica_job_entry **at = &jobs->first; *at;) {
        struct lorica_job_entry *entry = *at;
        if (!lorica_job_is_over(entry->job.state) || entry->started_ms > 0 ||
            ++over <= LORICA_JOBS_KEPT) {
            at = &entry->next;
            continue;
        }
        *at = entry->next;
        atomic_fetch_sub(&jobs->counts[entry->job.state], 1);
        lorica_job_results_remove(jobs, &entry->job);
        discard_job(jobs, entry->job.id);
        free_entry(entry);
    }
}

int lorica_job_set(struct lorica_jobs *jobs, struct lorica_job_entry *entry,
                   enum lorica_job_state to, const char *message, struct lorica_error *err) {
    struct lorica_job *job = &entry->job;
    const struct lorica_job before = *job;
    char *dir = lorica_path_join(jobs->dir, job->id);
    if (!dir)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    job->state = to;
    if (lorica_job_is_over(to))
        job->finished_ms = now_ms();
    const int rc = save(dir, job, err);
    free(dir);
    if (rc != 0) {
        *job = before;
        return keep_paths(jobs, rc, err);
    }
    atomic_fetch_sub(&jobs->counts[before.state], 1);
    atomic_fetch_add(&jobs->counts[to], 1);
    lorica_job_event(jobs, entry, to == LORICA_JOB_FAILED ? "error" : "info", message);
    lorica_log_line(jobs->server->parts.log, "info", "event=job id=%s key=%s adapter=%s state=%s",
                    job->id, job->owner, job->suffix, lorica_job_state_name(to));
    return 0;
}

void lorica_job_requeue(struct lorica_jobs *jobs, struct lorica_job_entry *entry) {
    atomic_fetch_sub(&jobs->counts[entry->job.state], 1);
    entry->job.state = LORICA_JOB_QUEUED;
    atomic_fetch_add(&jobs->counts[LORICA_JOB_QUEUED], 1);
}

/* -- at start -- */

/* A job whose job.json cannot be read is listed, for operations, and left alone. */
static void put_damaged(struct lorica_job_entry *entry, const char *dir, const char *id,
                        const char *why) {
    struct stat st;
    struct lorica_job *job = &entry->job;
    entry->damaged = true;
    memcpy(job->id, id, sizeof(job->id)); /* it has the form of one */
    job->state = LORICA_JOB_FAILED;
    if (stat(dir, &st) == 0)
        job->created_ms = job->finished_ms = (int64_t)st.st_mtim.tv_sec * 1000;
    (void)snprintf(job->error.code, sizeof(job->error.code), "damaged");
    (void)snprintf(job->error.message, sizeof(job->error.message),
                   "what is known of the job is damaged: %.400s", why);
}

static int read_job(struct lorica_jobs *jobs, const char *id, struct lorica_job_entry *entry,
                    struct lorica_error *err) {
    char *text = NULL;
    size_t len = 0;
    char *dir = lorica_path_join(jobs->dir, id),
         *path = dir ? lorica_path_join(dir, "job.json") : NULL;
    int rc = path ? lorica_file_read(path, LORICA_JOB_TEXT_MAX, &text, &len, err)
                  : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        rc = lorica_job_decode(text, len, &entry->job, err);
    if (rc == 0 && strcmp(entry->job.id, id) != 0) {
        lorica_job_finish(&entry->job);
        rc = lorica_fail(err, LORICA_EFORMAT, "it is of another job");
    }
    if (rc != 0 && rc != LORICA_ENOMEM) {
        lorica_log_line(jobs->server->parts.log, "error", "event=job_damaged id=%s why=\"%s\"", id,
                        err->text);
        put_damaged(entry, dir, id, rc == LORICA_EFORMAT ? err->text : "it cannot be read");
        rc = 0;
    }
    free(text);
    free(path);
    free(dir);
    return rc;
}

static int load(struct lorica_jobs *jobs, const char *id, struct lorica_error *err) {
    struct lorica_job_entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = read_job(jobs, id, entry, err);
    if (rc == 0)
        rc = lorica_job_events_open(jobs, entry, err);
    if (rc != 0) {
        free_entry(entry);
        return rc;
    }
    insert(jobs, entry);
    if (entry->job.state == LORICA_JOB_RUNNING || entry->job.state == LORICA_JOB_PUBLISHING)
        rc = lorica_job_set(jobs, entry, LORICA_JOB_QUEUED,
                            "The server was started again; the job goes on where it was", err);
    else if (lorica_job_is_over(entry->job.state) && !entry->damaged)
        lorica_job_tidy(jobs, &entry->job);
    return rc;
}

static int load_all(struct lorica_jobs *jobs, struct lorica_error *err) {
    int rc = lorica_dirs_make(jobs->dir, 0700, err);
    DIR *dir = rc == 0 ? opendir(jobs->dir) : NULL;
    if (!dir)
        return rc ? rc : lorica_fail_errno(err, jobs->dir, "cannot be listed");
    for (const struct dirent *entry; rc == 0 && (entry = readdir(dir));) {
        if (strncmp(entry->d_name, NEW, sizeof(NEW) - 1) == 0)
            discard_job(jobs, entry->d_name);
        else if (lorica_job_id_valid(entry->d_name))
            rc = load(jobs, entry->d_name, err);
    }
    (void)closedir(dir);
    if (rc == 0)
        forget(jobs);
    return rc;
}

int lorica_jobs_create(struct lorica_server *server, struct lorica_jobs **ret,
                       struct lorica_error *err) {
    struct lorica_jobs *jobs = calloc(1, sizeof(*jobs));
    if (!jobs)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    jobs->server = server;
    pthread_mutex_init(&jobs->mutex, NULL);
    jobs->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    jobs->dir = lorica_path_join(server->parts.data_dir, "train/jobs");
    int rc = jobs->dir && jobs->wake >= 0 ? load_all(jobs, err)
                                          : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && !server->parts.config->no_training) {
        jobs->started = pthread_create(&jobs->thread, NULL, lorica_job_runner, jobs) == 0;
        if (!jobs->started)
            rc = lorica_fail(err, LORICA_ENOMEM, "no thread could be started");
    }
    if (rc != 0) {
        lorica_jobs_destroy(jobs);
        return lorica_fail_prefix(err, "the training jobs");
    }
    *ret = jobs;
    return 0;
}

void lorica_jobs_drain(struct lorica_jobs *jobs) {
    if (!jobs)
        return;
    atomic_store(&jobs->stopping, true);
    struct lorica_request *checked = atomic_load(&jobs->checked);
    if (checked)
        atomic_store(&checked->gone, true);
    lorica_jobs_wake(jobs);
}

void lorica_jobs_destroy(struct lorica_jobs *jobs) {
    if (!jobs)
        return;
    lorica_jobs_drain(jobs);
    if (jobs->started)
        (void)pthread_join(jobs->thread, NULL);
    while (jobs->first) {
        struct lorica_job_entry *entry = jobs->first;
        jobs->first = entry->next;
        free_entry(entry);
    }
    if (jobs->wake >= 0)
        (void)close(jobs->wake);
    pthread_mutex_destroy(&jobs->mutex);
    free(jobs->dir);
    free(jobs);
}

/* -- making one -- */

static int check_room(const struct lorica_jobs *jobs, const char *owner, struct lorica_error *err) {
    unsigned all = 0, own = 0;
    for (const struct lorica_job_entry *e = jobs->first; e; e = e->next) {
        const bool counts = !lorica_job_is_over(e->job.state);
        all += counts;
        own += counts && strcmp(e->job.owner, owner) == 0;
    }
    if (own >= LORICA_JOBS_PER_KEY)
        return lorica_fail(err, LORICA_ELIMIT,
                           "the key \"%s\" has %u jobs that are not over, as many as one key may; "
                           "wait for one, or cancel one",
                           owner, own);
    if (all >= LORICA_JOBS_MAX)
        return lorica_fail(err, LORICA_ELIMIT,
                           "there are %u jobs that are not over, as many as the server takes; try "
                           "again when one is",
                           all);
    return 0;
}

int lorica_jobs_check_room(struct lorica_jobs *jobs, const char *owner, struct lorica_error *err) {
    pthread_mutex_lock(&jobs->mutex);
    const int rc = check_room(jobs, owner, err);
    pthread_mutex_unlock(&jobs->mutex);
    return rc;
}

int lorica_jobs_prepare(struct lorica_jobs *jobs, char id[LORICA_JOB_ID], char **ret_dir,
                        struct lorica_error *err) {
    const size_t prefix = sizeof(LORICA_JOB_ID_PREFIX) - 1;
    unsigned char random[(LORICA_JOB_ID - sizeof(LORICA_JOB_ID_PREFIX)) / 2];
    char *dir = NULL;
    if (lorica_random_bytes(random, sizeof(random)) != 0)
        return lorica_fail(err, LORICA_EBUG, "no random bytes are to be had");
    memcpy(id, LORICA_JOB_ID_PREFIX, prefix + 1);
    for (size_t i = 0; i < sizeof(random); i++)
        (void)snprintf(id + prefix + 2 * i, 3, "%02x", random[i]);
    if (asprintf(&dir, "%s/" NEW "%s", jobs->dir, id) < 0)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = mkdir(dir, 0700) != 0 ? lorica_fail_errno(err, dir, "cannot be made") : 0;
    char *held = rc == 0 ? lorica_path_join(dir, "held") : NULL;
    if (rc == 0 && !held)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && mkdir(held, 0700) != 0)
        rc = lorica_fail_errno(err, held, "cannot be made");
    free(held);
    if (rc != 0) {
        lorica_jobs_discard(dir);
        free(dir);
        return keep_paths(jobs, rc, err);
    }
    *ret_dir = dir;
    return 0;
}

/* Gives a job its place on the disk and in memory. */
static int add(struct lorica_jobs *jobs, const char *dir, struct lorica_job_entry *entry,
               struct lorica_error *err) {
    struct lorica_job *job = &entry->job;
    char *place = lorica_path_join(jobs->dir, job->id);
    int rc = place ? check_room(jobs, job->owner, err)
                   : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc != 0) {
        free(place);
        return rc;
    }
    job->created_ms = now_ms();
    if (jobs->first && jobs->first->job.created_ms >= job->created_ms)
        job->created_ms = jobs->first->job.created_ms + 1; /* their order is this */
    rc = save(dir, job, err);
    if (rc == 0 && rename(dir, place) != 0)
        rc = lorica_fail_errno(err, place, "cannot be put in place");
    if (rc == 0)
        rc = lorica_path_sync(place, err);
    free(place);
    if (rc != 0)
        return keep_paths(jobs, rc, err);
    insert(jobs, entry);
    lorica_job_event(jobs, entry, "info", "The files were checked; the job is queued");
    forget(jobs);
    return 0;
}

int lorica_jobs_add(struct lorica_jobs *jobs, const char *dir, struct lorica_job *job,
                    struct lorica_error *err) {
    struct lorica_job_entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    job->state = LORICA_JOB_QUEUED;
    entry->job = *job;
    pthread_mutex_lock(&jobs->mutex);
    const int rc = add(jobs, dir, entry, err);
    if (rc == 0) {
        *job = entry->job;
        job->metadata = NULL;
    }
    pthread_mutex_unlock(&jobs->mutex);
    if (rc != 0)
        free(entry);
    else
        lorica_jobs_wake(jobs);
    return rc;
}

/* -- looking and changing -- */

static bool may_see(const struct lorica_key *key, const struct lorica_job *job) {
    return lorica_auth_role(key->role, LORICA_ROLE_OPS) || strcmp(key->name, job->owner) == 0;
}

/* When a job that runs is expected to end, by its updates so far. */
static int64_t finish_of(const struct lorica_job_entry *entry) {
    const int64_t done = entry->logged_step - entry->started_step;
    if (entry->job.state != LORICA_JOB_RUNNING || entry->started_ms == 0 || done <= 0)
        return 0;
    const double each = (double)(now_ms() - entry->started_ms) / (double)done;
    return now_ms() + (int64_t)(each * (double)(entry->job.recipe.steps - entry->logged_step));
}

static struct lorica_job_entry *find(struct lorica_jobs *jobs, const char *id) {
    struct lorica_job_entry *entry = jobs->first;
    while (entry && strcmp(entry->job.id, id) != 0)
        entry = entry->next;
    return entry;
}

static int find_visible(struct lorica_jobs *jobs, const struct lorica_key *key, const char *id,
                        struct lorica_job_entry **ret, struct lorica_error *err) {
    struct lorica_job_entry *entry = find(jobs, id);
    if (!entry || !may_see(key, &entry->job))
        return lorica_fail(err, LORICA_ENOTFOUND, "there is no job \"%.100s\"", id);
    *ret = entry;
    return 0;
}

int lorica_jobs_find(struct lorica_jobs *jobs, const struct lorica_key *key, const char *id,
                     lorica_job_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_job_entry *entry = NULL;
    pthread_mutex_lock(&jobs->mutex);
    int rc = find_visible(jobs, key, id, &entry, err);
    if (rc == 0)
        rc = fn(arg, &entry->job, finish_of(entry));
    pthread_mutex_unlock(&jobs->mutex);
    return rc;
}

int lorica_jobs_each(struct lorica_jobs *jobs, const struct lorica_key *key, const char *after,
                     lorica_job_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_job_entry *entry = NULL;
    int rc = 0;
    pthread_mutex_lock(&jobs->mutex);
    if (after)
        rc = find_visible(jobs, key, after, &entry, err);
    entry = after && rc == 0 ? entry->next : jobs->first;
    for (; rc == 0 && entry; entry = entry->next)
        if (may_see(key, &entry->job))
            rc = fn(arg, &entry->job, finish_of(entry));
    pthread_mutex_unlock(&jobs->mutex);
    return rc;
}

static int move(struct lorica_jobs *jobs, struct lorica_job_entry *entry, enum lorica_job_state to,
                struct lorica_error *err) {
    const enum lorica_job_state state = entry->job.state;
    const char *word = to == LORICA_JOB_PAUSED   ? "paused"
                       : to == LORICA_JOB_QUEUED ? "resumed"
                                                 : "cancelled";
    if (state == LORICA_JOB_PUBLISHING)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "the job is trained and being published; it cannot be %s any more",
                           word);
    if (!lorica_job_may_become(state, to) ||
        (to == LORICA_JOB_QUEUED && state != LORICA_JOB_PAUSED))
        return lorica_fail(err, LORICA_EINVAL, "the job is %s; it cannot be %s",
                           lorica_job_status(state), word);
    const int rc = lorica_job_set(jobs, entry, to,
                                  to == LORICA_JOB_PAUSED   ? "The job was paused"
                                  : to == LORICA_JOB_QUEUED ? "The job was resumed; it is queued"
                                                            : "The job was cancelled",
                                  err);
    /* What a trainer still uses, the thread tidies once that has ended. */
    if (rc == 0 && to == LORICA_JOB_CANCELLED && entry->started_ms == 0)
        lorica_job_tidy(jobs, &entry->job);
    return rc;
}

int lorica_jobs_move(struct lorica_jobs *jobs, const struct lorica_key *key, const char *id,
                     enum lorica_job_state to, lorica_job_fn fn, void *arg,
                     struct lorica_error *err) {
    struct lorica_job_entry *entry = NULL;
    pthread_mutex_lock(&jobs->mutex);
    int rc = find_visible(jobs, key, id, &entry, err);
    if (rc == 0)
        rc = move(jobs, entry, to, err);
    if (rc == 0)
        rc = fn(arg, &entry->job, 0);
    pthread_mutex_unlock(&jobs->mutex);
    lorica_jobs_wake(jobs);
    return rc;
}
