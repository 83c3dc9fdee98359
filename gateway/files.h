/* SPDX-License-Identifier: MIT
 * Small files and directories of the data directory: written whole or not at all. */
#ifndef LORICA_GATEWAY_FILES_H
#define LORICA_GATEWAY_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "proto/err.h"

/** "dir/name", for free(). NULL: out of memory. */
char *lorica_path_join(const char *dir, const char *name);

/** Takes "dir/" out of a sentence, where it names a file in there: true when it did. Where the
 * server keeps its data is nothing to its clients. */
bool lorica_path_hide(char *text, const char *dir);

/** Makes a directory and those above it, each with `mode` where it is new. One that is there
 * already is left as it is. */
int lorica_dirs_make(const char *path, mode_t mode, struct lorica_error *err) LORICA_MUSTCHECK;

/** Writes a file beside its place, syncs it, and renames it there; what stood there is replaced. */
int lorica_file_replace(const char *path, const void *bytes, size_t len, mode_t mode,
                        struct lorica_error *err) LORICA_MUSTCHECK;

/** The same of several pieces, one behind the other. */
int lorica_file_replace_parts(const char *path, const struct iovec *parts, size_t count,
                              mode_t mode, struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads a file of at most `max` bytes. Caller frees *ret, which is NUL-terminated.
 * LORICA_ENOTFOUND when there is none, LORICA_EPERM when it may not be read, LORICA_ELIMIT when it
 * is larger. */
int lorica_file_read(const char *path, size_t max, char **ret, size_t *ret_len,
                     struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads `len` bytes at `offset` of an open file. LORICA_EIO when it ends before; errors name
 * `what`. */
int lorica_file_read_at(int fd, uint64_t offset, void *out, size_t len, const char *what,
                        struct lorica_error *err) LORICA_MUSTCHECK;

/** Renames a file to `path`, on the same disk, and makes both its bytes and that durable. */
int lorica_file_move(const char *from, const char *path, struct lorica_error *err) LORICA_MUSTCHECK;

/** True when something has this path. */
bool lorica_path_exists(const char *path);

/** Removes a directory that holds only plain files, with them. Errors are ignored: for temporary
 * directories. */
void lorica_dir_discard(const char *path);

/** Makes durable that `path` was made, renamed or removed: syncs the directory that it stands in.
 */
int lorica_path_sync(const char *path, struct lorica_error *err) LORICA_MUSTCHECK;

/** The error of a failed system call: "path: what: text of errno"; returns its code. */
int lorica_fail_errno(struct lorica_error *err, const char *path, const char *what);

#endif
