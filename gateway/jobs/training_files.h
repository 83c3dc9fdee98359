/* SPDX-License-Identifier: MIT
 * Files that clients upload to train on (OpenAI's /v1/files): DIR/train/files/ID holds the bytes,
 * DIR/train/files/ID.json what is known of them. A file is there when its .json is, which is
 * written last; what a stopped server left half made is removed at start. Files never change. */
#ifndef LORICA_GATEWAY_JOBS_TRAINING_FILES_H
#define LORICA_GATEWAY_JOBS_TRAINING_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "registry/digest.h"
#include "registry/registry.h"

/** "file-" and 24 hex digits, NUL-terminated. */
#define LORICA_TRAINING_FILE_ID 30
#define LORICA_TRAINING_FILENAME_MAX 255
/** Purposes, as OpenAI's: what is uploaded to train on, and what a job leaves of its figures. */
#define LORICA_TRAINING_FILE_EXAMPLES "fine-tune"
#define LORICA_TRAINING_FILE_RESULTS "fine-tune-results"

struct lorica_training_file {
    char id[LORICA_TRAINING_FILE_ID];
    char filename[LORICA_TRAINING_FILENAME_MAX + 1]; /**< as the client calls it; never a path */
    char purpose[32];                /**< LORICA_TRAINING_FILE_EXAMPLES or _RESULTS */
    char owner[LORICA_NAME_MAX + 1]; /**< name of the key that uploaded it */
    uint64_t nbytes;
    int64_t created_s;           /**< Unix time */
    struct lorica_digest digest; /**< SHA-256 of the bytes */
    bool damaged;                /**< what is known of it cannot be read: there is its id alone, and
                                      it is nobody's but operations', who may remove it */
};

/** Uploaded files of one key, and of all keys together: each lies on the disk until it is deleted.
 */
#define LORICA_TRAINING_FILES_PER_KEY 100
#define LORICA_TRAINING_FILES_MAX 1000

/** Makes DIR/train/files where it is missing, and removes what is half made. At start, before any
 * other call. */
int lorica_training_files_open(const char *data_dir, struct lorica_error *err) LORICA_MUSTCHECK;

/** Moves the bytes at `path`, on the same disk, into the store: on return 0 they are durable, and
 * `file`, of which the caller filled in filename, purpose, owner, nbytes and digest, has its id and
 * time. LORICA_ECONFLICT when there are too many files; LORICA_ENOSPC when the disk is full. On
 * failure nothing is kept there. One call at a time, or the bounds do not hold. */
int lorica_training_file_store(const char *data_dir, const char *path,
                               struct lorica_training_file *file,
                               struct lorica_error *err) LORICA_MUSTCHECK;

/** The same for a file that the server made, and bounds by itself: `file` has its id already, and
 * replaces one that is there. Any thread. */
int lorica_training_file_keep(const char *data_dir, const char *path,
                              struct lorica_training_file *file,
                              struct lorica_error *err) LORICA_MUSTCHECK;

/** Finds a file that `key` may see: its own; every file for ops and admin. LORICA_ENOTFOUND for
 * any other, so that ids tell nothing. Any thread. */
int lorica_training_file_find(const char *data_dir, const struct lorica_key *key, const char *id,
                              struct lorica_training_file *ret,
                              struct lorica_error *err) LORICA_MUSTCHECK;
/** Gives the bytes a second name, `path`, on the same disk (a hard link): they stay as they are
 * whatever becomes of the file. Any thread. */
int lorica_training_file_link(const char *data_dir, const struct lorica_training_file *file,
                              const char *path, struct lorica_error *err) LORICA_MUSTCHECK;

/** Opens the bytes for reading; the caller closes *ret_fd. Any thread. */
int lorica_training_file_read(const char *data_dir, const struct lorica_training_file *file,
                              int *ret_fd, struct lorica_error *err) LORICA_MUSTCHECK;
/** Removes a file; what was linked or is being read stays as it is. Any thread. */
int lorica_training_file_remove(const char *data_dir, const struct lorica_training_file *file,
                                struct lorica_error *err) LORICA_MUSTCHECK;

/** Files, oldest first; those of the same second by id. */
struct lorica_training_file_list {
    struct lorica_training_file *items; /**< owned */
    size_t count;
};
/** All files that `key` may see; NULL: every file. Caller finishes *ret. Any thread. */
int lorica_training_files_list(const char *data_dir, const struct lorica_key *key,
                               struct lorica_training_file_list *ret,
                               struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_training_files_finish(struct lorica_training_file_list *list);

#endif
