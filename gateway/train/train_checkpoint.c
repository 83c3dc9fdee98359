/* SPDX-License-Identifier: MIT
 * Checkpoints of lorica train: the file, what it is bound to, and the signals that end a run. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/train/train.h"
#include "kernels/cpu.h"
#include "registry/digest.h"

#define NAME "checkpoint.safetensors"
#define FRONT_MAX ((size_t)1 << 20)

static volatile sig_atomic_t stop_asked;

static void on_signal(int number) {
    (void)number;
    stop_asked = 1;
}

static bool stopped(void *arg) {
    (void)arg;
    return stop_asked != 0;
}

static void take_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

/* -- what a checkpoint is bound to -- */

static void add_fact(struct lorica_train_keeper *k, const char *name, const char *fmt, ...)
    LORICA_PRINTF(3, 4);

static void add_fact(struct lorica_train_keeper *k, const char *name, const char *fmt, ...) {
    struct lorica_checkpoint_fact *fact = &k->facts[k->checkpointing.fact_count++];
    va_list args;
    va_start(args, fmt);
    fact->name = name;
    (void)vsnprintf(fact->value, sizeof(fact->value), fmt, args);
    va_end(args);
}

/* Digest of the ids and labels in the order of the files. */
static int data_digest(const struct lorica_train_data *data, char text[LORICA_DIGEST_TEXT]) {
    const struct lorica_hasher *hasher = &lorica_sha256_hasher;
    struct lorica_digest digest;
    void *stream = hasher->create();
    int rc = stream ? 0 : LORICA_ENOMEM;
    for (size_t i = 0; i < data->count && !rc; i++) {
        const struct lorica_train_example *e = &data->examples[i];
        rc = hasher->update(stream, &e->length, sizeof(e->length));
        if (!rc)
            rc = hasher->update(stream, e->ids, e->length * sizeof(*e->ids));
        if (!rc)
            rc = hasher->update(stream, e->labels, e->length * sizeof(*e->labels));
    }
    if (stream) {
        const int ended = hasher->finish(stream, rc ? NULL : &digest);
        rc = rc ? rc : ended;
    }
    if (!rc)
        (void)lorica_digest_format(&digest, text);
    return rc;
}

static void add_recipe(struct lorica_train_keeper *k, const struct lorica_trainer_options *o,
                       const struct lorica_train_spec *spec) {
    char targets[LORICA_MODULE_COUNT + 1] = {0};
    if (o->full)
        add_fact(k, "--full", "on");
    for (int m = 0; m < LORICA_MODULE_COUNT; m++)
        targets[m] = spec->targets[m] ? '1' : '0';
    add_fact(k, "--rank", "%u", spec->rank);
    add_fact(k, "--alpha", "%.17g", spec->alpha);
    add_fact(k, "--rslora", "%s", spec->rslora ? "on" : "off");
    add_fact(k, "--targets", "%s", targets);
    add_fact(k, "--dropout", "%.17g", spec->dropout);
    add_fact(k, "--seed", "%llu", (unsigned long long)o->seed);
    add_fact(k, "--lr", "%.17g", o->lr);
    add_fact(k, "--schedule", "%d", (int)o->schedule);
    add_fact(k, "--warmup", "%.17g", o->warmup);
    add_fact(k, "--steps", "%llu", (unsigned long long)o->steps);
    add_fact(k, "--epochs", "%.17g", o->epochs);
    add_fact(k, "--batch", "%u", o->batch);
    add_fact(k, "--pack", "%u", o->pack);
    add_fact(k, "--eval-every", "%llu", (unsigned long long)o->eval_every);
    add_fact(k, "--patience", "%u", o->patience);
    add_fact(k, "--accumulate", "%u", o->accumulate);
    add_fact(k, "--max-grad-norm", "%.17g", o->max_grad_norm);
    add_fact(k, "--weight-decay", "%.17g", o->adamw.weight_decay);
    add_fact(k, "--beta1", "%.17g", o->adamw.beta1);
    add_fact(k, "--beta2", "%.17g", o->adamw.beta2);
    add_fact(k, "--eps", "%.17g", o->adamw.eps);
    add_fact(k, "--optimizer", "%s", o->adamw.eight_bit ? "adamw-8bit" : "adamw");
    add_fact(k, "--compute", "%s on %s%s", o->compute == LORICA_TRAIN_FAST ? "fast" : "exact",
             lorica_cpu_level_name(lorica_cpu_level()),
             o->recompute ? " with --checkpoint-activations" : "");
}

/* -- the file -- */

static int save(void *arg, const struct lorica_checkpoint *checkpoint, struct lorica_error *err) {
    const struct lorica_train_keeper *k = arg;
    struct lorica_buf front;
    struct iovec *parts = NULL;
    size_t count = 0;
    lorica_buf_init(&front, FRONT_MAX);
    int rc =
        lorica_checkpoint_encode(checkpoint, &lorica_sha256_hasher, &front, &parts, &count, err);
    if (!rc)
        rc = lorica_file_replace_parts(k->path, parts, count, 0600, err);
    if (rc)
        (void)lorica_fail_prefix(err, "no checkpoint at update %llu (one written before stays)",
                                 (unsigned long long)checkpoint->state->step);
    free(parts);
    lorica_buf_finish(&front);
    return rc;
}

static int load(void *arg, const struct lorica_checkpoint *checkpoint, bool *ret_found,
                struct lorica_error *err) {
    const struct lorica_train_keeper *k = arg;
    struct stat st;
    const int fd = k->resume ? open(k->path, O_RDONLY | O_CLOEXEC) : -1;
    *ret_found = false;
    if (!k->resume)
        return 0;
    if (fd < 0 && errno == ENOENT) {
        (void)printf("no checkpoint in %s: beginning\n", k->path);
        return 0;
    }
    if (fd < 0 || fstat(fd, &st) != 0) {
        const int rc = lorica_fail_errno(err, k->path, "cannot be opened");
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    const size_t len = (size_t)st.st_size;
    void *bytes = len > 0 ? mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    (void)close(fd);
    if (bytes == MAP_FAILED)
        return lorica_fail(err, LORICA_EFORMAT, "%s: cannot be read", k->path);
    const int rc = lorica_checkpoint_decode(bytes, len, &lorica_sha256_hasher, checkpoint, err);
    (void)munmap(bytes, len);
    if (rc)
        return lorica_fail_prefix(err,
                                  "%s does not fit this run; give the run the same again, or "
                                  "remove the file to begin anew",
                                  k->path);
    *ret_found = true;
    (void)printf("resumed after update %llu\n", (unsigned long long)checkpoint->state->step);
    (void)fflush(stdout);
    return 0;
}

/* True for the name of one of a run's files while it is written. */
static bool is_stray(const char *name) {
    static const char *const files[] = {NAME, "adapter_model.safetensors", "adapter_config.json",
                                        "manifest.json", "loss.svg"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        const size_t len = strlen(files[i]);
        if (strncmp(name, files[i], len) == 0 && name[len] == '.' && strlen(name) == len + 7)
            return true;
    }
    return false;
}

/* Removes what a run left that was killed while it wrote. */
static void remove_strays(const char *dir) {
    DIR *list = opendir(dir);
    const struct dirent *entry;
    while (list && (entry = readdir(list)))
        if (is_stray(entry->d_name))
            (void)unlinkat(dirfd(list), entry->d_name, 0);
    if (list)
        (void)closedir(list);
}

int lorica_train_keeper_ready(const char *dir, bool resume, struct lorica_error *err) {
    char *path = lorica_path_join(dir, NAME);
    int rc = 0;
    if (!path)
        rc = lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    else if (!resume && lorica_path_exists(path))
        rc = lorica_fail(err, LORICA_ECONFLICT,
                         "%s is there, from a run that did not end: go on with --resume, or remove "
                         "it to begin anew",
                         path);
    free(path);
    return rc;
}

int lorica_train_keeper_init(struct lorica_train_keeper *k, const char *dir,
                             const struct lorica_trainer_options *options,
                             const struct lorica_train_job *job,
                             const struct lorica_train_session *s,
                             const struct lorica_train_data *data, struct lorica_error *err) {
    char base[LORICA_DIGEST_TEXT], examples[LORICA_DIGEST_TEXT], apart[LORICA_DIGEST_TEXT] = "none";
    *k = (struct lorica_train_keeper){.resume = job->resume, .path = lorica_path_join(dir, NAME)};
    if (!k->path)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    int rc = data_digest(data, examples);
    if (!rc && options->held_apart)
        rc = data_digest(options->held_apart, apart);
    if (rc)
        return lorica_fail(err, rc, "the examples cannot be digested: %s", lorica_err_text(rc));
    k->checkpointing = (struct lorica_checkpointing){.arg = k,
                                                     .every = job->checkpoint_steps,
                                                     .save = save,
                                                     .load = load,
                                                     .stopped = stopped,
                                                     .facts = k->facts};
    add_fact(k, "base", "%s", lorica_digest_format(&s->base->digest, base));
    add_recipe(k, options, &job->spec); /* before the data, which the seed may have split */
    add_fact(k, "data", "%s", examples);
    add_fact(k, "held apart", "%s", apart);
    remove_strays(dir);
    take_signals();
    return 0;
}

void lorica_train_keeper_finish(struct lorica_train_keeper *k) {
    free(k->path);
    *k = (struct lorica_train_keeper){0};
}

void lorica_train_keeper_clear(const struct lorica_train_keeper *k) { (void)unlink(k->path); }
