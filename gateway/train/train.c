/* SPDX-License-Identifier: MIT */
#include "gateway/train/train.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/train/train_track.h"
#include "proto/json.h"
#include "registry/policy.h"
#include "runtime/train/full.h"
#include "runtime/train/plan.h"

/* The examples, and what turns text into them. */
struct examples {
    struct lorica_tokenizer *tokenizer;
    struct lorica_chat_template *chat;
    struct lorica_train_data data, held_apart;
    uint32_t max_length;       /* tokens of an example */
    struct lorica_buf digests; /* of the files of examples as they were read: a JSON array */
};

static void free_examples(struct examples *e) {
    lorica_train_data_finish(&e->data);
    lorica_train_data_finish(&e->held_apart);
    lorica_buf_finish(&e->digests);
    lorica_chat_destroy(e->chat);
    lorica_tokenizer_destroy(e->tokenizer);
}

static void print_bad(void *arg, const char *path, uint32_t line, const char *what) {
    (void)arg;
    (void)fprintf(stderr, "%s: line %u: %s; left out\n", path, line, what);
}

static void print_examples(const struct lorica_train_data *data, const char *path, size_t files,
                           uint32_t length) {
    (void)printf("%s", path);
    if (files > 1)
        (void)printf(" and %zu more", files - 1);
    (void)printf(": %zu examples\n", data->count);
    if (data->bad > 0)
        (void)printf("%zu bad lines were left out\n", data->bad);
    if (data->cut > 0)
        (void)printf("%zu were longer than %u tokens and lost their end, %zu of them all of the "
                     "answer; --max-length raises the limit\n",
                     data->cut, length, data->skipped);
}

static int digest_files(struct examples *e, const struct lorica_train_job *job,
                        struct lorica_error *err) {
    struct lorica_jsonw w = {.out = &e->digests};
    lorica_buf_init(&e->digests, LORICA_TRAIN_TEXT_MAX);
    lorica_jsonw_array(&w, NULL);
    for (size_t i = 0; i < job->data_count; i++) {
        struct lorica_digest digest;
        char text[LORICA_DIGEST_TEXT];
        const int rc = lorica_file_digest(job->data_paths[i], &digest, err);
        if (rc)
            return rc;
        lorica_jsonw_string(&w, NULL, lorica_digest_format(&digest, text));
    }
    lorica_jsonw_end_array(&w);
    const int rc = lorica_buf_status(&e->digests);
    return rc ? lorica_fail(err, rc, "there are too many files of examples") : 0;
}

/* Says how much of what is held apart is no test of anything. */
static int print_shared(const struct examples *e, struct lorica_error *err) {
    size_t shared = 0;
    if (lorica_train_data_shared(&e->data, &e->held_apart, &shared) != 0)
        return lorica_fail(err, LORICA_ENOMEM, "no memory to compare the examples");
    if (shared > 0)
        (void)printf("%zu of the %zu examples held apart are trained on, too: their loss tells "
                     "nothing of what is new\n",
                     shared, e->held_apart.count);
    return 0;
}

static int load_examples(struct examples *e, const struct lorica_base *b,
                         const struct lorica_train_job *job, struct lorica_error *err) {
    const uint32_t length =
        job->max_length < b->arch.max_positions ? job->max_length : b->arch.max_positions;
    int rc = lorica_tokenizer_create(b->metadata, b->metadata_len, &e->tokenizer, err);
    if (!rc)
        rc = lorica_chat_create(b->metadata, b->metadata_len, &e->chat, err);
    const struct lorica_train_data_options options = {.tokenizer = e->tokenizer,
                                                      .chat = e->chat,
                                                      .max_length = length,
                                                      .whole = job->whole,
                                                      .columns = {job->columns[0], job->columns[1]},
                                                      .on_bad = job->skip_bad ? print_bad : NULL};
    if (!rc)
        rc = lorica_train_data_load(job->data_paths, job->data_count, &options, &e->data, err);
    if (!rc)
        rc = digest_files(e, job, err);
    if (!rc && job->eval_path)
        rc = lorica_train_data_load(&job->eval_path, 1, &options, &e->held_apart, err);
    if (rc)
        return rc;
    e->max_length = length;
    print_examples(&e->data, job->data_paths[0], job->data_count, length);
    if (job->eval_path)
        print_examples(&e->held_apart, job->eval_path, 1, length);
    else if (job->eval_split > 0) {
        if ((rc = lorica_train_data_split(&e->data, job->eval_split, job->options.seed,
                                          &e->held_apart, err)) != 0)
            return rc;
        (void)printf("%zu of them are held apart\n", e->held_apart.count);
    } else
        (void)printf("--eval FILE or --eval-split would measure on examples held apart\n");
    rc = print_shared(e, err);
    (void)fflush(stdout); /* before the progress, which goes to stderr */
    return rc;
}

/* Fails before the work where the disk is too full for what it makes. */
int lorica_train_check_room(const char *dir, uint64_t needed, struct lorica_error *err) {
    struct statvfs fs;
    if (statvfs(dir, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < needed)
        return lorica_fail(
            err, LORICA_ENOSPC, "%s: what is trained needs %llu MB, the disk has %llu MB left: %s",
            dir, (unsigned long long)(needed >> 20),
            (unsigned long long)((uint64_t)fs.f_bavail * fs.f_frsize >> 20), strerror(ENOSPC));
    return 0;
}

static void print_progress(const struct lorica_trainer_progress *p) {
    const bool terminal = isatty(STDERR_FILENO);
    const char *anew = terminal ? "\r\033[K" : ""; /* what is longer stands there already */
    const uint64_t each = p->steps < 10 ? 1 : p->steps / 10;
    if (isfinite(p->eval_loss))
        (void)fprintf(stderr, "%safter %llu updates: held apart %.3f\n", anew,
                      (unsigned long long)p->step, p->eval_loss);
    if (p->step == 0)
        return;
    if (!terminal && p->step % each != 0 && p->step != p->steps)
        return;
    const double left = p->seconds / (double)p->step * (double)(p->steps - p->step);
    char bar[21];
    for (unsigned i = 0; i < 20; i++)
        bar[i] = (uint64_t)(i + 1) * p->steps <= p->step * 20 ? '#' : '.';
    bar[20] = '\0';
    (void)fprintf(stderr, "%s[%s] %llu/%llu  loss %.3f  %.0f tokens/s  %.0f s left%s", anew, bar,
                  (unsigned long long)p->step, (unsigned long long)p->steps, p->loss,
                  (double)p->tokens / p->seconds, left,
                  terminal && p->step != p->steps ? "" : "\n");
    (void)fflush(stderr);
}

static void on_update(void *arg, const struct lorica_trainer_progress *p) {
    lorica_train_log_update(arg, p);
    print_progress(p);
}

/* What a set of examples is called in policies: its file's name without folders and ".jsonl". */
static bool set_name(const char *path, char ret[LORICA_EVAL_SET_MAX + 1]) {
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const size_t whole = strlen(name);
    const bool jsonl = whole > 6 && strcmp(name + whole - 6, ".jsonl") == 0;
    const size_t len = jsonl ? whole - 6 : whole;
    if (len > LORICA_EVAL_SET_MAX)
        return false;
    memcpy(ret, name, len);
    ret[len] = '\0';
    return lorica_eval_set_valid(ret);
}

/* Facts for the registry: how the adapter came to be. */
static int write_manifest(const char *dir, const struct lorica_train_job *job,
                          const struct examples *e, const struct lorica_trainer_result *r,
                          uint64_t trained, struct lorica_error *err) {
    struct lorica_buf out;
    char set[LORICA_EVAL_SET_MAX + 1];
    lorica_buf_init(&out, LORICA_TRAIN_TEXT_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "trainer", "lorica " LORICA_VERSION);
    lorica_jsonw_raw(&w, "dataset_digests", e->digests.data, e->digests.len);
    lorica_jsonw_integer(&w, "rank", job->spec.rank);
    lorica_jsonw_number(&w, "alpha", job->spec.alpha);
    lorica_jsonw_number(&w, "lr", job->options.lr);
    lorica_jsonw_integer(&w, "batch", job->options.batch);
    lorica_jsonw_integer(&w, "steps", (int64_t)r->steps);
    lorica_jsonw_integer(&w, "tokens", (int64_t)r->tokens);
    lorica_jsonw_integer(&w, "seed", (int64_t)job->options.seed);
    lorica_jsonw_number(&w, "train_loss", r->loss);
    lorica_jsonw_integer(&w, "trained_parameters", (int64_t)trained);
    lorica_jsonw_number(&w, "memory_mb", lorica_train_memory_mb());
    if (r->best_step > 0) {
        lorica_jsonw_number(&w, "eval_loss_base", r->eval_loss_before);
        lorica_jsonw_number(&w, "eval_loss", r->eval_loss);
        lorica_jsonw_integer(&w, "best_step", (int64_t)r->best_step);
        if (job->eval_path && set_name(job->eval_path, set))
            lorica_jsonw_string(&w, "eval_set", set);
    }
    lorica_jsonw_end_object(&w);
    (void)lorica_buf_puts(&out, "\n");
    int rc = lorica_buf_status(&out);
    rc = rc ? lorica_fail(err, rc, "manifest.json: %s", lorica_err_text(rc))
            : lorica_train_write(dir, "manifest.json", &out, err);
    lorica_buf_finish(&out);
    return rc;
}

static void print_result(const struct lorica_trainer_result *r, const char *what) {
    (void)printf("%llu updates, %llu tokens in %.0f s; training loss %.3f",
                 (unsigned long long)r->steps, (unsigned long long)r->tokens, r->seconds, r->loss);
    if (r->best_step > 0)
        (void)printf("; held apart %.3f, before %.3f (%+.0f %%)", r->eval_loss, r->eval_loss_before,
                     100 * (r->eval_loss / r->eval_loss_before - 1));
    (void)printf("\n");
    if (r->best_step > 0 && r->best_step < r->steps)
        (void)printf("%s%s is that after update %llu, when the loss on the examples held "
                     "apart was lowest\n",
                     r->stopped ? "stopped early, as that loss no longer fell; " : "", what,
                     (unsigned long long)r->best_step);
    if (r->best_step > 0 && r->eval_loss >= r->eval_loss_before)
        (void)printf("the base alone does better on the examples held apart: nothing of use was "
                     "learnt; more examples or a lower --lr may help\n");
}

/* How one run learns. */
struct learning {
    struct lorica_trainer_options options;
    struct lorica_train_keeper keeper;
};

/* What an adapter and a whole model (`full`, or NULL) are trained with alike: the examples held
 * apart, checkpoints, and moments that lie beside them. Finish l->keeper in any case. */
static int prepare(struct learning *l, const struct lorica_train_session *s,
                   const struct examples *e, const struct lorica_train_job *job, const char *dir,
                   struct lorica_full *full, struct lorica_train_log *log,
                   struct lorica_error *err) {
    l->options = job->options;
    l->options.full = full;
    l->options.checkpointing = &l->keeper.checkpointing;
    l->options.moments_dir = dir;
    l->options.held_apart = e->held_apart.count > 0 ? &e->held_apart : NULL;
    l->options.pack = job->pack ? e->max_length : 0;
    const int rc = lorica_train_keeper_init(&l->keeper, dir, &l->options, job, s, &e->data, err);
    l->keeper.checkpointing.notes = lorica_train_log_notes(log);
    return rc;
}

static int train_full(struct lorica_train_session *s, const struct examples *e,
                      const struct lorica_train_job *job, const char *dir,
                      struct lorica_train_log *log, struct lorica_error *err) {
    struct lorica_trainer_result result = {0};
    struct learning l = {0};
    struct lorica_full *full = NULL;
    int rc = lorica_train_full_ready(s->base, dir, err);
    if (!rc)
        rc = lorica_full_create(s->base, &full, err);
    if (!rc)
        rc = prepare(&l, s, e, job, dir, full, log, err);
    if (!rc)
        rc = lorica_trainer_run(&full->base, s->pool, &e->data, &l.options, NULL, on_update, log,
                                &result, err);
    if (!rc)
        rc = lorica_full_export(full, dir, err);
    lorica_full_destroy(full);
    if (!rc)
        lorica_train_keeper_clear(&l.keeper);
    lorica_train_keeper_finish(&l.keeper);
    if (rc)
        return rc;
    print_result(&result, "the model");
    (void)printf("written to %s; lorica base import makes a base of it\n", dir);
    if (!lorica_train_full_has_tokenizer(dir))
        (void)printf(
            "without a tokenizer: the base came from a GGUF file; import it from a Hugging "
            "Face directory to keep one\n");
    lorica_train_full_compare(job, dir, s->base, &result);
    return 0;
}

static int train_into(struct lorica_train_session *s, const struct examples *e,
                      const struct lorica_train_job *job, const char *dir,
                      struct lorica_train_log *log, struct lorica_error *err) {
    struct lorica_trainer_result result = {0};
    struct learning l = {0};
    int rc = lorica_train_adapter_new(&job->spec, s->base, &s->adapter, err);
    if (!rc)
        rc = prepare(&l, s, e, job, dir, NULL, log, err);
    if (!rc)
        rc = lorica_train_check_room(dir, lorica_train_weights_nbytes(&s->base->arch, s->adapter),
                                     err);
    if (!rc)
        rc = lorica_trainer_run(s->base, s->pool, &e->data, &l.options, s->adapter, on_update, log,
                                &result, err);
    struct lorica_buf config;
    lorica_buf_init(&config, LORICA_TRAIN_TEXT_MAX);
    if (!rc)
        rc = lorica_train_config_encode(&job->spec, s->base, &config);
    if (!rc)
        rc = lorica_train_write_adapter(dir, s, &config, err);
    if (!rc)
        rc = write_manifest(dir, job, e, &result,
                            lorica_spec_parameters(&job->spec, &s->base->arch), err);
    lorica_buf_finish(&config);
    if (!rc)
        lorica_train_keeper_clear(&l.keeper);
    lorica_train_keeper_finish(&l.keeper);
    if (rc)
        return rc;
    print_result(&result, "the adapter");
    (void)printf("written to %s\n", dir);
    return 0;
}

static int publish(const struct lorica_train_job *job, const char *dir) {
    struct lorica_client *client = NULL;
    struct lorica_json *version = NULL;
    struct lorica_error err = {0};
    bool existing = false;
    if (!lorica_client_open(&job->where, &client))
        return LORICA_EXIT_FAILED;
    const struct lorica_client_words words = {.channel = job->channel, .message = job->message};
    const int rc = lorica_client_publish(client, job->name, dir, &words, &version, &existing, &err);
    if (!rc)
        (void)printf("published %s@%lld%s%s\n", job->name,
                     (long long)lorica_member_number(version, "version"),
                     job->channel ? ", now live on channel " : "",
                     job->channel ? job->channel : "");
    lorica_json_destroy(version);
    lorica_client_destroy(client);
    if (rc)
        (void)lorica_fail_prefix(&err, "the adapter is in %s, but was not published", dir);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}

/* What a server keeps in DIR/train beside adapters. */
static bool is_taken(const char *name) {
    return strcmp(name, "files") == 0 || strcmp(name, "jobs") == 0;
}

/* Where the adapter goes: --out, else DIR/train/NAME. For free(). */
static char *output_dir(const struct lorica_train_job *job, struct lorica_error *err) {
    char *dir = NULL, *data = NULL, *all = NULL;
    if (!job->out && !job->full && is_taken(job->name)) {
        (void)lorica_fail(err, LORICA_ECONFLICT,
                          "train/%s in the data directory is where the server keeps its training "
                          "%s: say with --out where the adapter is to go",
                          job->name, job->name);
        return NULL;
    }
    if (job->out) {
        dir = strdup(job->out);
    } else if ((data = lorica_data_dir(job->where.data)) &&
               (all = lorica_path_join(data, job->full ? "full" : "train"))) {
        dir = lorica_path_join(all, job->name);
    }
    free(data);
    free(all);
    if (!dir)
        (void)lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    else if (lorica_dirs_make(dir, 0755, err) == 0)
        return dir;
    free(dir);
    return NULL;
}

int lorica_train_dir_hold(const char *dir, int *ret_fd, struct lorica_error *err) {
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return lorica_fail_errno(err, dir, "cannot be opened");
    int rc;
    while ((rc = flock(fd, LOCK_EX | LOCK_NB)) != 0 && errno == EINTR)
        ;
    if (rc != 0 && errno == EWOULDBLOCK) {
        (void)close(fd);
        return lorica_fail(err, LORICA_EBUSY,
                           "%s: another lorica train is writing there; wait for its end, or choose "
                           "another --out",
                           dir);
    }
    *ret_fd = fd;
    return 0;
}

int lorica_train_run(const struct lorica_train_job *job) {
    struct lorica_train_session s = {0};
    struct examples examples = {0};
    struct lorica_error err = {0};
    int held = -1;
    char *dir = output_dir(job, &err);
    int rc = dir ? lorica_train_dir_hold(dir, &held, &err) : err.code;
    if (!rc)
        rc = lorica_train_keeper_ready(dir, job->resume, &err);
    if (!rc)
        rc = lorica_train_open(&s, job, &err);
    if (!rc)
        rc = load_examples(&examples, s.base, job, &err);
    const struct lorica_train_tracked tracked = {
        job, dir, s.base, examples.tokenizer, &examples.data, &examples.held_apart};
    struct lorica_train_tracker tracker = {0};
    if (!rc)
        rc = lorica_train_track_begin(&tracked, &tracker, &err);
    if (!rc)
        rc = (job->full ? train_full : train_into)(&s, &examples, job, dir, tracker.log, &err);
    rc = lorica_train_track_end(&tracker, &tracked, rc, &err);
    free_examples(&examples);
    lorica_train_close(&s);
    int status = rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
    if (!rc && job->publish)
        status = publish(job, dir);
    if (held >= 0)
        (void)close(held);
    free(dir);
    return status;
}
