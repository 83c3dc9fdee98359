/* SPDX-License-Identifier: MIT
 * The snapshot file of a backup: its writing and its reading. backup.h describes the bytes. */
#ifndef LORICA_REGISTRY_SNAPSHOT_H
#define LORICA_REGISTRY_SNAPSHOT_H

#include <stdio.h>

#include "registry/backup.h"
#include "registry/internal.h"

/** No value of a snapshot is longer, nor any key. */
#define LORICA_SNAPSHOT_VALUE_MAX ((size_t)4 << 20)
#define LORICA_SNAPSHOT_KEY_MAX ((size_t)511)

/** One record as it comes out, borrowed during the call. */
struct lorica_snapshot_record {
    enum lorica_table table;
    struct lorica_slice key, value;
};
typedef int (*lorica_snapshot_fn)(void *arg, const struct lorica_snapshot_record *record,
                                  struct lorica_error *err);

/** What stands before the records. */
struct lorica_snapshot_head {
    struct lorica_backup_info info;
    uint8_t pepper[LORICA_PEPPER_BYTES];
};

/** True for tables whose records a snapshot holds: not those that describe the store itself, nor
 * content. */
bool lorica_snapshot_holds(enum lorica_table table);

/** Reads a whole snapshot from the start of `file`, hands each record to `fn` (NULL: none) in
 * order, and compares the digest at its end: only after 0 was returned is any of it to be trusted.
 * LORICA_EFORMAT for damage and a file that was cut off, LORICA_EUNSUPPORTED for one of a newer
 * lorica. `path` is for sentences. */
int lorica_snapshot_read(FILE *file, const char *path, struct lorica_snapshot_head *ret,
                         lorica_snapshot_fn fn, void *arg,
                         struct lorica_error *err) LORICA_MUSTCHECK;

/* backup.c: the directory around it. */

/** A snapshot that was found: its own path, and the directory with its content. */
struct lorica_backup_place {
    char dir[LORICA_PATH_MAX];
    char snapshot[LORICA_PATH_MAX];
    char name[32]; /**< of it, within the directory */
};
/** Finds a snapshot by its path, or the newest one in a directory. LORICA_ENOTFOUND when there is
 * none. */
int lorica_backup_find(const char *from, struct lorica_backup_place *ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Reads a snapshot by path (see lorica_snapshot_read). */
int lorica_snapshot_read_path(const char *path, struct lorica_snapshot_head *ret,
                              lorica_snapshot_fn fn, void *arg,
                              struct lorica_error *err) LORICA_MUSTCHECK;
/** Path of content in a backup directory. */
int lorica_backup_blob_path(char out[LORICA_PATH_MAX], const char *dir,
                            const struct lorica_digest *digest,
                            struct lorica_error *err) LORICA_MUSTCHECK;
/** Digest and size that a record of content names. */
int lorica_snapshot_blob(const struct lorica_snapshot_record *record, struct lorica_digest *ret,
                         uint64_t *ret_nbytes, struct lorica_error *err) LORICA_MUSTCHECK;
/** Opens content of a backup and compares its digest and size. Close with
 * lorica_blob_file_close. */
int lorica_backup_blob_open(const char *path, const struct lorica_digest *digest, uint64_t nbytes,
                            struct lorica_blob_file *ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;

#endif
