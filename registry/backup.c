/* SPDX-License-Identifier: MIT
 * The directory of backups: written, found and checked. */
#include "registry/backup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "registry/digest.h"
#include "registry/snapshot.h"

#define PARTIAL ".partial"
#define SNAPSHOT "snapshot-"
#define SNAPSHOT_TRIES 8 /* as content is swept under a backup */

static int fail_path(struct lorica_error *err, const char *path, const char *what) {
    const int number = errno;
    const int code = number == ENOSPC || number == EDQUOT ? LORICA_ENOSPC
                     : number == ENOENT                   ? LORICA_ENOTFOUND
                     : number == ENOMEM                   ? LORICA_ENOMEM
                                                          : LORICA_EIO;
    return lorica_fail(err, code, "%s: %s: %s", path, what, strerror(number));
}

/* A registry as a source. */

struct content_sink {
    lorica_backup_sink sink;
    void *arg;
    struct lorica_error *err;
};

static int on_piece(void *arg, const void *bytes, size_t len) {
    const struct content_sink *sink = arg;
    return sink->sink(sink->arg, bytes, len, sink->err);
}

static int content_size(struct lorica_registry *registry, const struct lorica_digest *digest,
                        bool pieces, uint64_t *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    char text[LORICA_DIGEST_TEXT];
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_blob_size(txn, digest, ret, err);
    if (!rc && pieces)
        rc = lorica_blob_check_pieces(txn, digest, *ret, err);
    lorica_store_abort(txn);
    if (rc == LORICA_ENOTFOUND)
        return lorica_fail(err, rc, "there is no content %s", lorica_digest_format(digest, text));
    return rc;
}

int lorica_backup_content_size(struct lorica_registry *registry, const struct lorica_digest *digest,
                               uint64_t *ret, struct lorica_error *err) {
    return content_size(registry, digest, true, ret, err);
}

int lorica_backup_content_at(struct lorica_registry *registry, const struct lorica_digest *digest,
                             uint64_t nbytes, uint64_t offset, void *out, size_t len,
                             struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_blob_read_at(txn, digest, nbytes, offset, out, len, err);
    lorica_store_abort(txn);
    return rc;
}

int lorica_backup_content(struct lorica_registry *registry, const struct lorica_digest *digest,
                          lorica_backup_sink sink, void *arg, struct lorica_error *err) {
    struct lorica_error own;
    struct content_sink content = {sink, arg, err ? err : &own};
    uint64_t nbytes = 0;
    int rc = content_size(registry, digest, false, &nbytes, err);
    if (!rc)
        rc = lorica_blob_read(registry->store, digest, nbytes, on_piece, &content, content.err);
    /* Swept while it was read: that is no damage. */
    if (rc == LORICA_EFORMAT &&
        content_size(registry, digest, false, &nbytes, &own) == LORICA_ENOTFOUND)
        rc = lorica_fail(err, LORICA_ENOTFOUND, "%s", own.text);
    return rc;
}

static int read_registry(void *arg, const struct lorica_digest *digest, lorica_backup_sink sink,
                         void *sink_arg, struct lorica_error *err) {
    return digest ? lorica_backup_content(arg, digest, sink, sink_arg, err)
                  : lorica_backup_snapshot(arg, sink, sink_arg, err);
}

struct lorica_backup_source lorica_backup_from(struct lorica_registry *registry) {
    return (struct lorica_backup_source){.read = read_registry, .arg = registry};
}

/* Finding and reading. */

/* Number of "snapshot-000001"; 0 for any other name. */
static unsigned long snapshot_number(const char *name) {
    const size_t prefix = sizeof(SNAPSHOT) - 1;
    if (strncmp(name, SNAPSHOT, prefix) != 0)
        return 0;
    const char *digits = name + prefix;
    const size_t len = strlen(digits);
    if (len < 6 || len > 9 || strspn(digits, "0123456789") != len || (len > 6 && *digits == '0'))
        return 0;
    return strtoul(digits, NULL, 10);
}

/* Highest number in a directory, 0 when there is none. */
static int newest_number(const char *dir, unsigned long *ret, struct lorica_error *err) {
    DIR *listing = opendir(dir);
    const struct dirent *entry;
    *ret = 0;
    if (!listing)
        return fail_path(err, dir, "cannot be listed");
    while ((entry = readdir(listing))) {
        const unsigned long number = snapshot_number(entry->d_name);
        *ret = number > *ret ? number : *ret;
    }
    closedir(listing);
    return 0;
}

static int snapshot_path(char out[LORICA_PATH_MAX], const char *dir, unsigned long number,
                         struct lorica_error *err) {
    char name[32];
    snprintf(name, sizeof(name), SNAPSHOT "%06lu", number);
    return lorica_dir_join(out, dir, name, err);
}

int lorica_backup_find(const char *from, struct lorica_backup_place *ret,
                       struct lorica_error *err) {
    struct stat st;
    unsigned long number = 0;
    if (strlen(from) >= LORICA_PATH_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "the path %.100s... is too long", from);
    if (stat(from, &st) != 0)
        return fail_path(err, from, "there is no backup here");
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->dir, from, strlen(from) + 1);
    if (!S_ISDIR(st.st_mode)) {
        char *slash = strrchr(ret->dir, '/');
        if (!snapshot_number(slash ? slash + 1 : ret->dir))
            return lorica_fail(err, LORICA_EFORMAT,
                               "%s is no backup: name a directory that `lorica backup` wrote, or "
                               "a file snapshot-... in it",
                               from);
        memcpy(ret->snapshot, from, strlen(from) + 1);
        snprintf(ret->name, sizeof(ret->name), "%.31s", slash ? slash + 1 : ret->dir);
        if (!slash)
            memcpy(ret->dir, ".", 2);
        else
            slash[slash == ret->dir] = '\0';
        return 0;
    }
    int rc = newest_number(from, &number, err);
    if (!rc && !number)
        rc = lorica_fail(err, LORICA_ENOTFOUND,
                         "%s holds no finished backup; one that was cut off is none", from);
    snprintf(ret->name, sizeof(ret->name), SNAPSHOT "%06lu", number);
    return rc ? rc : snapshot_path(ret->snapshot, from, number, err);
}

int lorica_snapshot_read_path(const char *path, struct lorica_snapshot_head *ret,
                              lorica_snapshot_fn fn, void *arg, struct lorica_error *err) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    int rc = 0;
    if (!file) {
        rc = fail_path(err, path, "cannot be opened");
        if (fd >= 0)
            close(fd);
        return rc;
    }
    rc = lorica_snapshot_read(file, path, ret, fn, arg, err);
    fclose(file);
    return rc;
}

int lorica_backup_blob_path(char out[LORICA_PATH_MAX], const char *dir,
                            const struct lorica_digest *digest, struct lorica_error *err) {
    char text[LORICA_DIGEST_TEXT], name[96];
    snprintf(name, sizeof(name), "blobs/%s", lorica_digest_format(digest, text) + 7);
    return lorica_dir_join(out, dir, name, err);
}

int lorica_snapshot_blob(const struct lorica_snapshot_record *record, struct lorica_digest *ret,
                         uint64_t *ret_nbytes, struct lorica_error *err) {
    if (record->key.len != sizeof(ret->bytes) ||
        lorica_record_decode_number(record->value.data, record->value.len, ret_nbytes) ||
        *ret_nbytes > LORICA_WEIGHTS_BYTES_MAX)
        return lorica_fail(err, LORICA_EFORMAT,
                           "this backup is damaged: what it says of content cannot be; take "
                           "another");
    memcpy(ret->bytes, record->key.data, sizeof(ret->bytes));
    return 0;
}

int lorica_backup_blob_open(const char *path, const struct lorica_digest *digest, uint64_t nbytes,
                            struct lorica_blob_file *ret, struct lorica_error *err) {
    struct stat st;
    if (stat(path, &st) != 0 && errno == ENOENT)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: this content of the backup is gone; take another backup", path);
    int rc = lorica_blob_file_open(path, NULL, ret, err);
    if (rc)
        return rc;
    if (ret->nbytes == nbytes && lorica_digest_equal(&ret->digest, digest))
        return 0;
    lorica_blob_file_close(ret);
    return lorica_fail(err, LORICA_EFORMAT,
                       "%s: this content of the backup is damaged; remove it and back up again, "
                       "or take another backup",
                       path);
}

struct check {
    const char *dir;
    lorica_backup_progress progress;
    void *progress_arg;
    uint64_t done, total;
};

static int check_record(void *arg, const struct lorica_snapshot_record *record,
                        struct lorica_error *err) {
    struct check *check = arg;
    struct lorica_blob_file file;
    struct lorica_digest digest;
    char path[LORICA_PATH_MAX];
    uint64_t nbytes = 0;
    if (record->table != LORICA_TABLE_BLOB)
        return 0;
    int rc = lorica_snapshot_blob(record, &digest, &nbytes, err);
    if (!rc)
        rc = lorica_backup_blob_path(path, check->dir, &digest, err);
    if (!rc)
        rc = lorica_backup_blob_open(path, &digest, nbytes, &file, err);
    if (rc)
        return rc;
    lorica_blob_file_close(&file);
    check->done += nbytes;
    if (check->progress)
        check->progress(check->progress_arg, "checking the backup", check->done, check->total);
    return 0;
}

static int check_place(const struct lorica_backup_place *place, lorica_backup_progress progress,
                       void *progress_arg, struct lorica_backup_info *ret,
                       struct lorica_error *err) {
    struct lorica_snapshot_head head;
    struct check check = {.dir = place->dir, .progress = progress, .progress_arg = progress_arg};
    int rc = lorica_snapshot_read_path(place->snapshot, &head, NULL, NULL, err);
    if (rc)
        return rc;
    check.total = head.info.blob_nbytes;
    rc = lorica_snapshot_read_path(place->snapshot, &head, check_record, &check, err);
    if (!rc) {
        *ret = head.info;
        memcpy(ret->name, place->name, sizeof(ret->name));
    }
    explicit_bzero(&head, sizeof(head));
    return rc;
}

int lorica_backup_check(const char *from, lorica_backup_progress progress, void *progress_arg,
                        struct lorica_backup_info *ret, struct lorica_error *err) {
    struct lorica_backup_place place;
    const int rc = lorica_backup_find(from, &place, err);
    return rc ? rc : check_place(&place, progress, progress_arg, ret, err);
}

/* Writing. */

struct backup {
    const char *dir;
    const struct lorica_backup_source *source;
    lorica_backup_progress progress;
    void *progress_arg;
    char blobs[LORICA_PATH_MAX], partial[LORICA_PATH_MAX], blob_partial[LORICA_PATH_MAX];
    uint64_t new_blobs, new_nbytes, done, total;
    bool swept; /* content of the snapshot was gone when it was asked for */
};

static void tell(const struct backup *backup, uint64_t more) {
    if (backup->progress && backup->total)
        backup->progress(backup->progress_arg, "backing up", backup->done + more, backup->total);
}

/* A file that is being written; its digest goes along. */
struct sink {
    const struct backup *backup;
    int fd;
    const char *path;
    void *stream;
    uint64_t nbytes;
};

static int sink_write(void *arg, const void *bytes, size_t len, struct lorica_error *err) {
    struct sink *sink = arg;
    const uint8_t *at = bytes;
    if (sink->stream && lorica_sha256_hasher.update(sink->stream, bytes, len))
        return lorica_fail(err, LORICA_EBUG, "%s: cannot be hashed", sink->path);
    sink->nbytes += len;
    while (len > 0) {
        const ssize_t n = write(sink->fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_path(err, sink->path, "cannot be written");
        at += n;
        len -= (size_t)n;
    }
    tell(sink->backup, sink->nbytes);
    return 0;
}

/* Reads from the source into a file that nothing takes for whole yet, and syncs it. `ret_digest`
 * may be NULL. */
static int fetch(const struct backup *backup, const struct lorica_digest *digest, const char *path,
                 struct lorica_digest *ret_digest, uint64_t *ret_nbytes, struct lorica_error *err) {
    struct sink sink = {.backup = backup, .path = path};
    sink.stream = lorica_sha256_hasher.create();
    if (!sink.stream)
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", path);
    sink.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = sink.fd < 0 ? fail_path(err, path, "cannot be made") : 0;
    if (!rc)
        rc = backup->source->read(backup->source->arg, digest, sink_write, &sink, err);
    if (!rc && fsync(sink.fd) != 0)
        rc = fail_path(err, path, "cannot be written");
    if (sink.fd >= 0 && close(sink.fd) != 0 && !rc)
        rc = fail_path(err, path, "cannot be written");
    if (lorica_sha256_hasher.finish(sink.stream, rc ? NULL : ret_digest) && !rc)
        rc = lorica_fail(err, LORICA_EBUG, "%s: cannot be hashed", path);
    *ret_nbytes = sink.nbytes;
    return rc;
}

static int fetch_blob(struct backup *backup, const char *path, const struct lorica_digest *digest,
                      uint64_t nbytes, struct lorica_error *err) {
    struct lorica_digest found;
    uint64_t got = 0;
    char text[LORICA_DIGEST_TEXT];
    int rc = fetch(backup, digest, backup->blob_partial, &found, &got, err);
    if (rc == LORICA_ENOTFOUND) {
        backup->swept = true;
        return lorica_fail(err, LORICA_ECONFLICT,
                           "content %s was swept while the backup was written; run it again",
                           lorica_digest_format(digest, text));
    }
    if (!rc && (got != nbytes || !lorica_digest_equal(&found, digest)))
        rc = lorica_fail(err, LORICA_EFORMAT,
                         "content %s came damaged; run `lorica verify`, then try again",
                         lorica_digest_format(digest, text));
    if (!rc && rename(backup->blob_partial, path) != 0)
        rc = fail_path(err, path, "cannot be put in place");
    backup->new_blobs += !rc;
    backup->new_nbytes += rc ? 0 : nbytes;
    return rc;
}

static int keep_record(void *arg, const struct lorica_snapshot_record *record,
                       struct lorica_error *err) {
    struct backup *backup = arg;
    struct lorica_digest digest;
    char path[LORICA_PATH_MAX];
    uint64_t nbytes = 0;
    struct stat st;
    if (record->table != LORICA_TABLE_BLOB)
        return 0;
    int rc = lorica_snapshot_blob(record, &digest, &nbytes, err);
    if (!rc)
        rc = lorica_backup_blob_path(path, backup->dir, &digest, err);
    if (!rc && (lstat(path, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != nbytes))
        rc = fetch_blob(backup, path, &digest, nbytes, err);
    backup->done += nbytes;
    if (!rc)
        tell(backup, 0);
    return rc;
}

/* Removes what a run that was cut off left, and refuses a directory that is something else. */
static int tidy(const char *path, bool top, struct lorica_error *err) {
    DIR *listing = opendir(path);
    const struct dirent *entry;
    bool ours = false, others = false;
    if (!listing)
        return fail_path(err, path, "cannot be listed");
    while ((entry = readdir(listing))) {
        const char *name = entry->d_name;
        const size_t len = strlen(name), tail = sizeof(PARTIAL) - 1;
        if (len >= tail && strcmp(name + len - tail, PARTIAL) == 0)
            (void)unlinkat(dirfd(listing), name, 0);
        else if (strcmp(name, "blobs") == 0)
            ours = true;
        else if (name[0] != '.' && strcmp(name, "lock") != 0)
            others = true;
    }
    closedir(listing);
    if (top && others && !ours)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s holds other things; name a directory that is new, empty or has "
                           "backups",
                           path);
    return 0;
}

static int make_dir(const char *path, struct lorica_error *err) {
    struct stat st;
    if (mkdir(path, 0700) == 0)
        return 0;
    if (errno != EEXIST)
        return fail_path(err, path, "the directory cannot be made");
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return lorica_fail(err, LORICA_ECONFLICT,
                       "%s is a file; name a directory, new or with earlier backups", path);
}

static int lock_dir(const char *dir, int *ret_fd, struct lorica_error *err) {
    char path[LORICA_PATH_MAX];
    int rc = lorica_dir_join(path, dir, "lock", err);
    if (rc)
        return rc;
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fail_path(err, path, "cannot be made");
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR)
            continue;
        rc = errno == EWOULDBLOCK
                 ? lorica_fail(err, LORICA_EBUSY,
                               "%s: another backup is being written here; wait for it", dir)
                 : fail_path(err, path, "cannot be locked");
        close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

/* A directory belongs to one registry: its blobs could be shared, its numbers could not. */
static int check_same(const struct backup *backup, unsigned long newest,
                      const struct lorica_backup_info *info, struct lorica_error *err) {
    struct lorica_snapshot_head last;
    char path[LORICA_PATH_MAX];
    const struct lorica_digest none = {{0}};
    if (!newest)
        return 0;
    int rc = snapshot_path(path, backup->dir, newest, err);
    if (!rc)
        rc = lorica_snapshot_read_path(path, &last, NULL, NULL, err);
    if (rc)
        return rc;
    if (!lorica_digest_equal(&last.info.id, &info->id) &&
        !lorica_digest_equal(&last.info.id, &none))
        rc = lorica_fail(err, LORICA_ECONFLICT,
                         "%s holds backups of another registry; name another directory",
                         backup->dir);
    explicit_bzero(&last, sizeof(last));
    return rc;
}

/* The snapshot gets its name last of all. */
static int finish(const struct backup *backup, unsigned long number,
                  struct lorica_backup_info *info, struct lorica_error *err) {
    char path[LORICA_PATH_MAX];
    int rc = lorica_dir_sync(backup->blobs, err);
    if (!rc)
        rc = snapshot_path(path, backup->dir, number, err);
    if (!rc && rename(backup->partial, path) != 0)
        rc = fail_path(err, path, "cannot be put in place");
    if (!rc)
        rc = lorica_dir_sync(backup->dir, err);
    info->new_blobs = backup->new_blobs;
    info->new_nbytes = backup->new_nbytes;
    snprintf(info->name, sizeof(info->name), SNAPSHOT "%06lu", number);
    return rc;
}

static int write_inside(struct backup *backup, struct lorica_backup_info *ret,
                        struct lorica_error *err) {
    struct lorica_snapshot_head head = {0};
    struct lorica_digest ignored;
    unsigned long newest = 0;
    uint64_t nbytes = 0;
    backup->done = backup->total = 0;
    backup->swept = false;
    int rc = newest_number(backup->dir, &newest, err);
    if (!rc)
        rc = fetch(backup, NULL, backup->partial, &ignored, &nbytes, err);
    if (!rc)
        rc = lorica_snapshot_read_path(backup->partial, &head, NULL, NULL, err);
    if (!rc)
        rc = check_same(backup, newest, &head.info, err);
    backup->total = head.info.blob_nbytes;
    if (!rc)
        rc = lorica_snapshot_read_path(backup->partial, &head, keep_record, backup, err);
    if (!rc)
        rc = finish(backup, newest + 1, &head.info, err);
    if (rc) {
        (void)unlink(backup->partial);
        (void)unlink(backup->blob_partial);
    } else {
        *ret = head.info;
    }
    explicit_bzero(&head, sizeof(head));
    return rc;
}

static int prepare(struct backup *backup, struct lorica_error *err) {
    int rc = tidy(backup->dir, true, err);
    if (!rc)
        rc = lorica_dir_join(backup->blobs, backup->dir, "blobs", err);
    if (!rc)
        rc = lorica_dir_join(backup->partial, backup->dir, "snapshot" PARTIAL, err);
    if (!rc)
        rc = lorica_dir_join(backup->blob_partial, backup->dir, "blobs/new" PARTIAL, err);
    if (!rc)
        rc = make_dir(backup->blobs, err);
    return rc ? rc : tidy(backup->blobs, false, err);
}

int lorica_backup_write(const char *dir, const struct lorica_backup_source *source,
                        lorica_backup_progress progress, void *progress_arg,
                        struct lorica_backup_info *ret, struct lorica_error *err) {
    int lock_fd = -1;
    int rc = make_dir(dir, err);
    if (!rc)
        rc = lock_dir(dir, &lock_fd, err);
    if (rc)
        return rc;
    struct backup *backup = calloc(1, sizeof(*backup));
    if (backup) {
        backup->dir = dir;
        backup->source = source;
        backup->progress = progress;
        backup->progress_arg = progress_arg;
        rc = prepare(backup, err);
        for (int i = 0; i < SNAPSHOT_TRIES && (i == 0 ? rc == 0 : backup->swept); i++)
            rc = write_inside(backup, ret, err);
        free(backup);
    } else {
        rc = lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", dir);
    }
    close(lock_fd);
    return rc;
}
