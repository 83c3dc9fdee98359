/* SPDX-License-Identifier: MIT
 * What the parts of the walk of everything share: verify.c for content, chain, versions, channels
 * and keys, and a file for each other part of the registry that has records of its own. */
#ifndef LORICA_REGISTRY_VERIFY_H
#define LORICA_REGISTRY_VERIFY_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "registry/internal.h"

struct content;

/** One walk of everything. */
struct walk {
    struct lorica_registry *registry;
    struct lorica_txn *txn;
    struct lorica_buf *report;
    uint64_t findings;
    struct content *contents; /* owned; in order of digests */
    size_t content_count;
    /* what the chain says there should be */
    uint64_t publishes, key_creates, first_moves, first_splits, first_policies, adapter_records;
    uint64_t deletes, undeletes, sweeps; /* sweeps: of versions */
    uint64_t signer_adds, signs;
    struct lorica_error *err;
};

/** A step of the walk over one table: a finding is reported, only failures are returned. */
typedef int (*step_fn)(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                       void *state);

/** Reports what is wrong. */
LORICA_PRINTF(2, 3) static inline void finding(struct walk *w, const char *fmt, ...) {
    char text[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    w->findings++;
    lorica_buf_printf(w->report, "%s\n", text); /* a full report still counts */
}

/** Turns damage that a lower function met into a finding. */
static inline int note(struct walk *w, int rc, const struct lorica_error *inner) {
    if (rc == LORICA_EFORMAT || rc == LORICA_EUNSUPPORTED) {
        finding(w, "%s", inner->text);
        return 0;
    }
    if (rc)
        return lorica_fail(w->err, rc, "%s", inner->text);
    return 0;
}

/** Steps through a table, in order of keys. */
static inline int walk_table(struct walk *w, enum lorica_table table, step_fn step, void *state) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_slice key, value;
    int rc = lorica_store_walk(w->txn, table, &cursor, w->err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, w->err);
    while (!rc) {
        rc = step(w, key, value, state);
        if (rc)
            break;
        rc = lorica_cursor_next(cursor, &key, &value, w->err);
        if (rc == LORICA_ENOTFOUND) {
            lorica_cursor_close(cursor);
            return 0;
        }
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

/** Holds the number of records of a table against what others say. */
static inline int expect_count(struct walk *w, enum lorica_table table, uint64_t expected,
                               const char *what) {
    uint64_t count = 0;
    int rc = lorica_store_count(w->txn, table, &count, w->err);
    if (!rc && count != expected)
        finding(w, "there are %" PRIu64 " %s, the other records say %" PRIu64, count, what,
                expected);
    return rc;
}

/* verify_retire.c */

/** Holds an audit record about deletion, undeletion, sweep or retention against the tombstones;
 * does nothing for others. */
int lorica_verify_retired(struct walk *w, const struct lorica_audit *audit) LORICA_MUSTCHECK;
/** Walks the tombstones; the chain must have been walked before. */
int lorica_verify_tombstones(struct walk *w) LORICA_MUSTCHECK;

/* verify_sign.c */

/** Holds an audit record about a signer against its record; does nothing for others. */
int lorica_verify_signer_event(struct walk *w, const struct lorica_audit *audit) LORICA_MUSTCHECK;
/** Walks signers and signatures, and checks each signature again; the chain must have been walked
 * before. */
int lorica_verify_signatures(struct walk *w) LORICA_MUSTCHECK;

#endif
