/* SPDX-License-Identifier: MIT
 * Backups: a directory of plain files that any copying tool may move.
 *
 *   DIR/snapshot-000001, -000002, ...   one for each backup: all records of one moment
 *   DIR/blobs/<64 hex digits>           content by its SHA-256, shared by all snapshots
 *   DIR/lock                            held while a backup is written
 *
 * A backup writes only the content that DIR has not got, so that the next one is as large as what
 * is new. A name appears when its file is whole and on the disk, and a snapshot's name after all
 * content that it needs: one that was cut off leaves nothing that passes for a backup, only files
 * that end in ".partial", which the next run removes. DIR belongs to one registry.
 *
 * It holds API keys as the registry does and the pepper that recognises them, so that keys work
 * after a restore: files are made with mode 0600 and DIR is to be kept like the registry itself.
 * Configuration, TLS keys, the key that signs receipts and base models are not in it.
 *
 * A snapshot, integers big-endian: "lorica snapshot\n", u32 format (1), u32 layout of the store,
 * u64 time_ms, u64 seq and 32 bytes hash of the last audit record, 32 bytes identity of the
 * registry, u64 number of contents, u64 bytes of them, u64 number of records, 32 bytes pepper; then
 * the records (u8 1 + table, u16 length of the key, u32 length of the value, key, value) in order
 * of tables and keys, a zero byte, and the SHA-256 of all that. */
#ifndef LORICA_REGISTRY_BACKUP_H
#define LORICA_REGISTRY_BACKUP_H

#include "registry/registry.h"

/** What a snapshot holds. */
struct lorica_backup_info {
    int64_t time_ms;
    uint64_t seq;              /**< last audit record; 0: none */
    struct lorica_digest hash; /**< of it */
    struct lorica_digest id;   /**< of the registry: hash of its first audit record */
    uint64_t records;
    uint64_t blobs, blob_nbytes;    /**< content it names */
    char name[32];                  /**< "snapshot-000001" */
    uint64_t new_blobs, new_nbytes; /**< of lorica_backup_write: content not there before */
};

/** Takes the next piece of a stream. */
typedef int (*lorica_backup_sink)(void *arg, const void *bytes, size_t len,
                                  struct lorica_error *err);

/** Tells how far it is; called often. */
typedef void (*lorica_backup_progress)(void *arg, const char *what, unsigned long long done,
                                       unsigned long long total);

/** Where a backup comes from: a registry, or a server that has it. */
struct lorica_backup_source {
    /** Gives the snapshot when `digest` is NULL, else that content (LORICA_ENOTFOUND: swept since
     * the snapshot was taken). What comes is checked by the one who asked. */
    int (*read)(void *arg, const struct lorica_digest *digest, lorica_backup_sink sink,
                void *sink_arg, struct lorica_error *err);
    void *arg;
};

/** Gives the snapshot of a registry: one read transaction, as long as `sink` takes. */
int lorica_backup_snapshot(struct lorica_registry *registry, lorica_backup_sink sink, void *arg,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Size of content whose pieces are all there: LORICA_ENOTFOUND when there is none, LORICA_EFORMAT
 * when one is missing. */
int lorica_backup_content_size(struct lorica_registry *registry, const struct lorica_digest *digest,
                               uint64_t *ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** Copies `len` bytes at `offset` of content of `nbytes`, in a read transaction of its own, so that
 * it may go out as slowly as a network takes it. The digest is for the receiver to compare. */
int lorica_backup_content_at(struct lorica_registry *registry, const struct lorica_digest *digest,
                             uint64_t nbytes, uint64_t offset, void *out, size_t len,
                             struct lorica_error *err) LORICA_MUSTCHECK;
/** Gives content, in read transactions of bounded length. LORICA_ENOTFOUND when there is none. */
int lorica_backup_content(struct lorica_registry *registry, const struct lorica_digest *digest,
                          lorica_backup_sink sink, void *arg,
                          struct lorica_error *err) LORICA_MUSTCHECK;
/** A source that is an open registry; `registry` is borrowed. */
struct lorica_backup_source lorica_backup_from(struct lorica_registry *registry);

/** Writes a backup into DIR, which is made when absent. Content that was swept meanwhile makes it
 * begin again with a new snapshot, a few times; what came before is kept. LORICA_ECONFLICT when DIR
 * holds something else, or backups of another registry, or when content was swept each time;
 * LORICA_EBUSY when another backup writes to it. `progress` may be NULL. */
int lorica_backup_write(const char *dir, const struct lorica_backup_source *source,
                        lorica_backup_progress progress, void *progress_arg,
                        struct lorica_backup_info *ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Makes the registry DIR of a backup: `from` is a backup directory (its newest snapshot is taken)
 * or one snapshot in it. DIR must be absent or empty, and no other restore may run beside it. Every
 * digest is checked while it is read; the new registry is built in DIR.restore, walked as verify
 * does, and then renamed: DIR is there whole or not at all. What a restore that was cut off left in
 * DIR.restore is replaced by the next. */
int lorica_backup_restore(const char *from, const char *dir, lorica_backup_progress progress,
                          void *progress_arg, struct lorica_backup_info *ret,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads a backup (`from` as above) and compares every digest. LORICA_EFORMAT names what is wrong.
 */
int lorica_backup_check(const char *from, lorica_backup_progress progress, void *progress_arg,
                        struct lorica_backup_info *ret, struct lorica_error *err) LORICA_MUSTCHECK;

#endif
