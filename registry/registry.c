/* SPDX-License-Identifier: MIT */
#include "registry/registry.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "registry/internal.h"

int lorica_damaged(struct lorica_error *err, int code, const char *fmt, ...) {
    char what[300];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    if (code == LORICA_EUNSUPPORTED)
        return lorica_fail(err, code, "%s was written by a newer lorica; use that one", what);
    return lorica_fail(err, LORICA_EFORMAT,
                       "the registry is damaged: %s; run `lorica verify`, then restore a backup",
                       what);
}

int64_t lorica_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool word_valid(const char *word, size_t max) {
    size_t len = word ? strnlen(word, max + 1) : 0;
    if (len == 0 || len > max)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = word[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!alnum && (i == 0 || (c != '.' && c != '_' && c != '-')))
            return false;
    }
    return true;
}

bool lorica_name_valid(const char *name) {
    return word_valid(name, LORICA_NAME_MAX) && !strstr(name, "..") && strcmp(name, "base") != 0;
}

bool lorica_channel_valid(const char *channel) { return word_valid(channel, LORICA_CHANNEL_MAX); }

/* The pepper is made with the registry. Gone while keys depend on it, it must come from a backup;
 * gone before there was a key (a crash while the registry was made), it is made anew. */
static int open_pepper(struct lorica_registry *registry, bool read_only, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    uint64_t keys = 0;
    int rc = lorica_dir_pepper_read(registry->dir, registry->pepper, err);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_store_count(txn, LORICA_TABLE_KEY, &keys, err);
    lorica_store_abort(txn);
    if (rc)
        return rc;
    if (keys || read_only)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s/pepper is gone: no key can be checked; restore it from a backup",
                           registry->dir);
    return lorica_dir_pepper_create(registry->dir, registry->pepper, err);
}

/* A data file that was too short is trusted only after a walk of everything. */
static int walk_short(struct lorica_registry *registry, struct lorica_error *err) {
    struct lorica_buf report;
    uint64_t findings = 0;
    lorica_buf_init(&report, 1 << 16);
    int rc = lorica_registry_verify(registry, &report, &findings, err);
    if (!rc && findings)
        rc = lorica_damaged(err, LORICA_EFORMAT, "%s: its data file was cut short (%llu findings)",
                            registry->dir, (unsigned long long)findings);
    lorica_buf_finish(&report);
    return rc;
}

static int open_inside(struct lorica_registry *registry,
                       const struct lorica_registry_options *options, struct lorica_error *err) {
    bool is_short = false;
    int rc = lorica_dir_lock(registry->dir, options->read_only, &registry->lock_fd, err);
    if (!rc)
        rc = lorica_store_open(registry->dir, options->map_bytes, options->read_only,
                               &registry->store, &is_short, err);
    if (!rc && is_short)
        rc = walk_short(registry, err);
    if (!rc)
        rc = open_pepper(registry, options->read_only, err);
    if (!rc && !options->read_only)
        rc = lorica_blob_sweep(registry->store, err);
    if (!rc && !options->read_only)
        rc = lorica_dir_sync(registry->dir, err);
    return rc;
}

int lorica_registry_open(const char *dir, const struct lorica_registry_options *options,
                         struct lorica_registry **ret, struct lorica_error *err) {
    struct lorica_registry_options none = {0};
    struct lorica_registry *registry = calloc(1, sizeof(*registry));
    if (registry)
        registry->dir = strdup(dir);
    if (!registry || !registry->dir) {
        free(registry);
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", dir);
    }
    registry->lock_fd = -1;
    if (pthread_mutex_init(&registry->publishing, NULL) != 0) {
        free(registry->dir);
        free(registry);
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", dir);
    }
    int rc = open_inside(registry, options ? options : &none, err);
    if (rc) {
        lorica_registry_close(registry);
        return rc;
    }
    *ret = registry;
    return 0;
}

const char *lorica_registry_inside(const void *code, bool *ret_store) {
    return lorica_store_inside(code, ret_store);
}

bool lorica_registry_failed(const struct lorica_registry *registry) {
    return lorica_store_failed(registry->store);
}

void lorica_registry_close(struct lorica_registry *registry) {
    if (!registry)
        return;
    lorica_store_close(registry->store);
    if (registry->lock_fd >= 0)
        close(registry->lock_fd); /* last: the lock goes when nothing is open any more */
    pthread_mutex_destroy(&registry->publishing);
    explicit_bzero(registry->pepper, sizeof(registry->pepper));
    free(registry->dir);
    free(registry);
}
