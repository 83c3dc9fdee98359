/* SPDX-License-Identifier: MIT
 * The transactional key-value store under the registry: ordered tables of bytes, any number of
 * readers, one writer at a time, durable commits. store_lmdb.c is the only implementation and the
 * only file that knows LMDB.
 *
 * Lifetimes: a slice that comes out of the store is borrowed until the transaction ends or writes
 * again. A write transaction begins and ends in one thread. */
#ifndef LORICA_REGISTRY_STORE_H
#define LORICA_REGISTRY_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

/** The tables: what each holds, and the key (record.h builds them). */
#define LORICA_TABLE_MAP(XX)                                                                       \
    XX(META, "meta")           /* "schema": number of the layout */                                \
    XX(ADAPTER, "adapter")     /* name: newest version number */                                   \
    XX(VERSION, "version")     /* name, number: a version */                                       \
    XX(IDENTITY, "identity")   /* name, digest, base: version number */                            \
    XX(CHANNEL, "channel")     /* name, channel: where it stands */                                \
    XX(AUDIT, "audit")         /* seq: a link of the chain */                                      \
    XX(HISTORY, "history")     /* name, seq: (empty) audit records of one adapter */               \
    XX(KEY, "key")             /* key name: an API key */                                          \
    XX(SECRET, "secret")       /* HMAC of its text: key name */                                    \
    XX(BLOB, "blob")           /* digest: size of complete content */                              \
    XX(CHUNK, "chunk")         /* digest, number: a piece of content */                            \
    XX(STAGED, "staged")       /* digest: content being written or removed: no version has it */   \
    XX(TOMBSTONE, "tombstone") /* name, number: a deleted version; number 0: retention */          \
    XX(SPLIT, "split")         /* name: the share of a channel that goes to a canary */            \
    XX(POLICY, "policy")       /* name, channel: what it demands of a promote */                   \
    XX(APPROVAL, "approval")   /* name, channel, number, key name: who approves of it */           \
    XX(SIGNER, "signer")       /* signer's name: a public key that is or was trusted */            \
    XX(SIGNATURE, "signature") /* name, number, key id: a signature of a version */                \
    XX(CHECKS, "checks")       /* name, channel: the checks of its policy, as JSON */

enum lorica_table {
#define XX(name, text) LORICA_TABLE_##name,
    LORICA_TABLE_MAP(XX)
#undef XX
        LORICA_TABLE_COUNT
};

/** Number of the layout that this program writes. 1 had the tables up to STAGED, 2 those up to
 * APPROVAL, 3 those up to SIGNATURE; 4 has all. An older one is brought up to date when the store
 * is opened for writing. */
#define LORICA_STORE_SCHEMA 4

struct lorica_store;
struct lorica_txn;
struct lorica_cursor;

struct lorica_slice {
    const void *data;
    size_t len;
};

/** Opens (write mode: creates) the store in an existing DIR that the caller has locked.
 * `ret_short` (may be NULL) tells that the data file ends before the store does: it may be damaged
 * and must be walked before it is trusted. LORICA_EUNSUPPORTED for a newer layout. */
int lorica_store_open(const char *dir, uint64_t map_bytes, bool read_only,
                      struct lorica_store **ret, bool *ret_short,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Closes. NULL is accepted. All transactions must have ended. */
void lorica_store_close(struct lorica_store *store);

/** Begins a read or a write transaction; a second writer waits. */
int lorica_store_begin(struct lorica_store *store, bool write, struct lorica_txn **ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Makes a write transaction visible and durable. The transaction has ended either way; on failure
 * nothing of it remains. */
int lorica_store_commit(struct lorica_txn *txn, struct lorica_error *err) LORICA_MUSTCHECK;
/** True once a write met a fault after which nothing more is to be written: LMDB has stopped since
 * it does not know what the disk holds, or there is damage where a change was to be made. What was
 * durable stays so. Any thread. */
bool lorica_store_failed(const struct lorica_store *store);
/** Directory of the store that this thread has a transaction in, or is opening; NULL: none. A
 * transaction ends on the thread that began it. *ret_store: `code`, which met a fault, is
 * LMDB's, or LMDB has found the store damaged by a check of its own and aborts. Async-signal-safe.
 */
const char *lorica_store_inside(const void *code, bool *ret_store);
/** Ends a transaction without effect. NULL is accepted. */
void lorica_store_abort(struct lorica_txn *txn);
/** Ends a write transaction as what was done in it ended: commits when `rc` is 0, else aborts and
 * gives `rc` back. NULL is accepted where `rc` is not 0. */
int lorica_store_end(struct lorica_txn *txn, int rc, struct lorica_error *err) LORICA_MUSTCHECK;

/** Finds a value. LORICA_ENOTFOUND, without a sentence in `err`, when there is none. */
int lorica_store_get(struct lorica_txn *txn, enum lorica_table table, struct lorica_slice key,
                     struct lorica_slice *ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** Writes a value, replacing one that is there. */
int lorica_store_put(struct lorica_txn *txn, enum lorica_table table, struct lorica_slice key,
                     struct lorica_slice value, struct lorica_error *err) LORICA_MUSTCHECK;
/** Removes a value. LORICA_ENOTFOUND, without a sentence, when there is none. */
int lorica_store_delete(struct lorica_txn *txn, enum lorica_table table, struct lorica_slice key,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** Number of records in a table. */
int lorica_store_count(struct lorica_txn *txn, enum lorica_table table, uint64_t *ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Bytes of the data file that hold nothing and that later transactions fill before it grows. They
 * may lie in pieces too small for what comes: an estimate. */
int lorica_store_reusable(struct lorica_txn *txn, uint64_t *ret,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Walks a table in order of keys. The cursor must be closed before its transaction ends. */
int lorica_store_walk(struct lorica_txn *txn, enum lorica_table table, struct lorica_cursor **ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_cursor_close(struct lorica_cursor *cursor);
/** Moves to the first record at or after `key`, to the next, to the one before, or to the last;
 * LORICA_ENOTFOUND, without a sentence, when there is none. */
int lorica_cursor_seek(struct lorica_cursor *cursor, struct lorica_slice key,
                       struct lorica_slice *ret_key, struct lorica_slice *ret_value,
                       struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_cursor_next(struct lorica_cursor *cursor, struct lorica_slice *ret_key,
                       struct lorica_slice *ret_value, struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_cursor_previous(struct lorica_cursor *cursor, struct lorica_slice *ret_key,
                           struct lorica_slice *ret_value,
                           struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_cursor_last(struct lorica_cursor *cursor, struct lorica_slice *ret_key,
                       struct lorica_slice *ret_value, struct lorica_error *err) LORICA_MUSTCHECK;

#endif
