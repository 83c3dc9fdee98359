/* SPDX-License-Identifier: MIT
 * A registry made of a backup: built beside its place, walked, and only then put there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "registry/snapshot.h"

/* What is written in one transaction. */
#define BATCH_NBYTES ((uint64_t)8 << 20)
#define BATCH_RECORDS 10000

struct restore {
    struct lorica_backup_place from;
    char target[LORICA_PATH_MAX], beside[LORICA_PATH_MAX], parent[LORICA_PATH_MAX];
    struct lorica_registry *registry; /* being built */
    struct lorica_txn *txn;           /* open batch, or NULL */
    uint64_t batch_nbytes, batch_records;
    lorica_backup_progress progress;
    void *progress_arg;
    uint64_t done, total;
};

static int fail_path(struct lorica_error *err, const char *path, const char *what) {
    const int number = errno;
    return lorica_fail(err,
                       number == ENOSPC || number == EDQUOT ? LORICA_ENOSPC
                       : number == ENOENT                   ? LORICA_ENOTFOUND
                                                            : LORICA_EIO,
                       "%s: %s: %s", path, what, strerror(number));
}

static int batch_begin(struct restore *r, struct lorica_error *err) {
    return r->txn ? 0 : lorica_store_begin(r->registry->store, true, &r->txn, err);
}

static int batch_end(struct restore *r, struct lorica_error *err) {
    struct lorica_txn *txn = r->txn;
    r->txn = NULL;
    r->batch_nbytes = r->batch_records = 0;
    return txn ? lorica_store_commit(txn, err) : 0;
}

static int batch_added(struct restore *r, uint64_t nbytes, struct lorica_error *err) {
    r->batch_nbytes += nbytes;
    r->batch_records++;
    return r->batch_nbytes > BATCH_NBYTES || r->batch_records > BATCH_RECORDS ? batch_end(r, err)
                                                                              : 0;
}

/* Content: large files go in transactions of their own, small ones along with the records. */
static int load_file(struct restore *r, struct lorica_blob_file *file, struct lorica_error *err) {
    int rc = 0;
    if (lorica_blob_chunks(file->nbytes) > LORICA_BATCH_CHUNKS)
        rc = batch_end(r, err);
    if (!rc)
        rc = r->txn ? 0 : lorica_blob_stage(r->registry, file, NULL, NULL, err);
    if (!rc)
        rc = batch_begin(r, err);
    if (!rc)
        rc = lorica_blob_put_file(r->txn, file, err);
    return rc ? rc : batch_added(r, file->nbytes, err);
}

static int load_blob(struct restore *r, const struct lorica_snapshot_record *record,
                     struct lorica_error *err) {
    struct lorica_blob_file file;
    struct lorica_digest digest;
    char path[LORICA_PATH_MAX];
    uint64_t nbytes = 0;
    int rc = lorica_snapshot_blob(record, &digest, &nbytes, err);
    if (!rc)
        rc = lorica_backup_blob_path(path, r->from.dir, &digest, err);
    if (!rc)
        rc = lorica_backup_blob_open(path, &digest, nbytes, &file, err);
    if (rc)
        return rc;
    rc = load_file(r, &file, err);
    lorica_blob_file_close(&file);
    r->done += nbytes;
    if (!rc && r->progress)
        r->progress(r->progress_arg, "restoring", r->done, r->total);
    return rc;
}

static int load_record(void *arg, const struct lorica_snapshot_record *record,
                       struct lorica_error *err) {
    struct restore *r = arg;
    if (record->table == LORICA_TABLE_BLOB)
        return load_blob(r, record, err);
    int rc = batch_begin(r, err);
    if (!rc)
        rc = lorica_store_put(r->txn, record->table, record->key, record->value, err);
    return rc ? rc : batch_added(r, record->key.len + record->value.len, err);
}

/* The chain must end where the snapshot says. */
static int check_end(struct restore *r, const struct lorica_backup_info *info,
                     struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_audit last;
    int rc = lorica_store_begin(r->registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_audit_last(txn, &last, err);
    lorica_store_abort(txn);
    if (!rc && (last.seq != info->seq || !lorica_digest_equal(&last.hash, &info->hash)))
        rc = lorica_fail(err, LORICA_EFORMAT,
                         "%s: this backup is damaged: its audit chain ends elsewhere than it "
                         "says; take another",
                         r->from.snapshot);
    return rc;
}

static int walk(struct restore *r, struct lorica_error *err) {
    struct lorica_buf report;
    uint64_t findings = 0;
    lorica_buf_init(&report, 1 << 16);
    int rc = lorica_registry_verify(r->registry, &report, &findings, err);
    if (!rc && findings) {
        const char *text = report.data ? report.data : "";
        rc = lorica_fail(err, LORICA_EFORMAT,
                         "%.200s: what this backup holds is not right: %.*s; nothing was restored",
                         r->from.snapshot, (int)(strcspn(text, "\n") % 200), text);
    }
    lorica_buf_finish(&report);
    return rc;
}

static int load(struct restore *r, const struct lorica_snapshot_head *head,
                struct lorica_error *err) {
    struct lorica_snapshot_head again;
    const struct lorica_registry_options options = {0};
    int rc = mkdir(r->beside, 0700) != 0 ? fail_path(err, r->beside, "cannot be made") : 0;
    if (!rc)
        rc = lorica_dir_pepper_write(r->beside, head->pepper, err);
    if (!rc)
        rc = lorica_registry_open(r->beside, &options, &r->registry, err);
    if (!rc)
        rc = lorica_snapshot_read_path(r->from.snapshot, &again, load_record, r, err);
    if (!rc)
        rc = batch_end(r, err);
    explicit_bzero(&again, sizeof(again));
    lorica_store_abort(r->txn);
    r->txn = NULL;
    if (!rc)
        rc = check_end(r, &head->info, err);
    if (!rc)
        rc = walk(r, err);
    lorica_registry_close(r->registry);
    r->registry = NULL;
    return rc ? rc : lorica_dir_sync(r->beside, err);
}

/* Removes the files that a registry is made of, and their directory. */
static int discard(const char *dir, struct lorica_error *err) {
    static const char *const files[] = {"data.mdb", "lock.mdb", "pepper", "pepper.new", "lock"};
    char path[LORICA_PATH_MAX];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        const int rc = lorica_dir_join(path, dir, files[i], err);
        if (rc)
            return rc;
        if (unlink(path) != 0 && errno != ENOENT && errno != ENOTDIR)
            return fail_path(err, path, "cannot be removed");
    }
    if (rmdir(dir) != 0 && errno != ENOENT)
        return fail_path(err, dir, "is in the way; remove it");
    return 0;
}

/* The place must be free. */
static int check_target(const char *target, struct lorica_error *err) {
    DIR *listing = opendir(target);
    const struct dirent *entry;
    bool empty = true;
    if (!listing && errno == ENOENT)
        return 0;
    if (!listing)
        return fail_path(err, target, "is in the way");
    while ((entry = readdir(listing)))
        empty = empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
    closedir(listing);
    return empty ? 0
                 : lorica_fail(err, LORICA_ECONFLICT,
                               "%s is not empty: a restore never replaces a registry; move it "
                               "away, or name another data directory",
                               target);
}

static int take_paths(struct restore *r, const char *dir, struct lorica_error *err) {
    const size_t len = strlen(dir);
    if (len + sizeof(".restore") > LORICA_PATH_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "the path %.100s... is too long", dir);
    memcpy(r->target, dir, len + 1);
    snprintf(r->beside, sizeof(r->beside), "%s.restore", r->target);
    memcpy(r->parent, dir, len + 1);
    char *slash = strrchr(r->parent, '/');
    if (slash)
        slash[slash == r->parent] = '\0';
    else
        memcpy(r->parent, ".", 2);
    return 0;
}

/* One restore at a time beside a registry: the lock is on the directory that will hold it. */
static int lock_parent(const struct restore *r, int *ret_fd, struct lorica_error *err) {
    const int fd = open(r->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_path(err, r->parent, "cannot be opened");
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR)
            continue;
        const int rc = errno == EWOULDBLOCK
                           ? lorica_fail(err, LORICA_EBUSY,
                                         "%s: another restore goes on here; wait for it", r->parent)
                           : fail_path(err, r->parent, "cannot be locked");
        close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

static int put_in_place(const struct restore *r, struct lorica_error *err) {
    if (rename(r->beside, r->target) != 0)
        return fail_path(err, r->target, "the restored registry cannot be put there");
    return lorica_dir_sync(r->parent, err);
}

static int restore_locked(struct restore *r, struct lorica_backup_info *ret,
                          struct lorica_error *err) {
    struct lorica_snapshot_head head;
    struct lorica_error ignored;
    int rc = check_target(r->target, err);
    if (!rc)
        rc = discard(r->beside, err);
    if (!rc)
        rc = lorica_snapshot_read_path(r->from.snapshot, &head, NULL, NULL, err);
    if (rc)
        return rc;
    r->total = head.info.blob_nbytes;
    rc = load(r, &head, err);
    if (!rc)
        rc = put_in_place(r, err);
    if (rc) {
        (void)!discard(r->beside, &ignored);
    } else {
        *ret = head.info;
        memcpy(ret->name, r->from.name, sizeof(ret->name));
    }
    explicit_bzero(&head, sizeof(head));
    return rc;
}

int lorica_backup_restore(const char *from, const char *dir, lorica_backup_progress progress,
                          void *progress_arg, struct lorica_backup_info *ret,
                          struct lorica_error *err) {
    int lock_fd = -1;
    struct restore *r = calloc(1, sizeof(*r));
    if (!r)
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", dir);
    r->progress = progress;
    r->progress_arg = progress_arg;
    int rc = take_paths(r, dir, err);
    if (!rc)
        rc = lorica_backup_find(from, &r->from, err);
    if (!rc)
        rc = lock_parent(r, &lock_fd, err);
    if (!rc)
        rc = restore_locked(r, ret, err);
    if (lock_fd >= 0)
        close(lock_fd);
    free(r);
    return rc;
}
