/* SPDX-License-Identifier: MIT
 * The walk of what was taken out of service: the chain's deletions, undeletions, sweeps and
 * retentions, and the tombstones, each held against the other. */
#include <string.h>

#include "proto/json.h"
#include "registry/verify.h"

/* True in *ret when an undelete took back what a deletion did. */
static int find_undelete(struct walk *w, const struct lorica_audit *deletion, bool *ret) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_record_key from;
    struct lorica_slice key, value;
    struct lorica_error inner = {0};
    struct lorica_audit audit;
    uint64_t seq;
    *ret = false;
    lorica_record_key_numbered(deletion->name, deletion->seq + 1, &from);
    int rc = lorica_store_walk(w->txn, LORICA_TABLE_HISTORY, &cursor, w->err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, w->err);
    while (!rc && !*ret && lorica_record_key_of(key.data, key.len, deletion->name, &seq)) {
        rc = lorica_audit_get(w->txn, seq, &audit, &inner);
        *ret = !rc && audit.kind == LORICA_AUDIT_UNDELETE && audit.before == deletion->seq;
        rc = rc ? note(w, rc, &inner) : 0;
        if (!rc && !*ret)
            rc = lorica_cursor_next(cursor, &key, &value, w->err);
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

/* A deletion left a tombstone, or was taken back. */
static int check_deleted(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_error inner = {0};
    struct lorica_tombstone_record tombstone = {0};
    bool undone = false;
    w->deletes++;
    int rc = lorica_tombstone_get(w->txn, audit->name, audit->version, &tombstone, &inner);
    if (rc && rc != LORICA_ENOTFOUND)
        return note(w, rc, &inner);
    if (tombstone.seq == audit->seq)
        return 0;
    rc = find_undelete(w, audit, &undone);
    if (!rc && !undone)
        finding(w, "audit record %" PRIu64 " deleted %s@%" PRIu64 ", whose tombstone is gone",
                audit->seq, audit->name, audit->version);
    return rc;
}

static int check_undeleted(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_error inner = {0};
    struct lorica_audit deletion = {0};
    struct lorica_tombstone_record tombstone = {0};
    w->undeletes++;
    int rc = audit->before && audit->before < audit->seq
                 ? lorica_audit_get(w->txn, audit->before, &deletion, &inner)
                 : 0;
    if (rc)
        return note(w, rc, &inner);
    rc = lorica_tombstone_get(w->txn, audit->name, audit->version, &tombstone, &inner);
    if (rc && rc != LORICA_ENOTFOUND)
        return note(w, rc, &inner);
    if (deletion.kind != LORICA_AUDIT_DELETE || strcmp(deletion.name, audit->name) != 0 ||
        deletion.version != audit->version || tombstone.seq == deletion.seq)
        finding(w, "audit record %" PRIu64 " took back no deletion of %s@%" PRIu64, audit->seq,
                audit->name, audit->version);
    return 0;
}

/* A sweep names versions, each of which says the same of it. */
static int check_swept(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_error inner = {0};
    struct lorica_json *detail = NULL;
    int rc = lorica_json_parse(audit->detail, strlen(audit->detail), &detail, &inner);
    if (rc == LORICA_ENOMEM)
        return lorica_fail(w->err, rc, "out of memory");
    const struct lorica_json *item = lorica_json_first(lorica_json_get(detail, "versions"));
    if (!item)
        finding(w, "audit record %" PRIu64 " does not say what was swept", audit->seq);
    for (rc = 0; !rc && item; item = lorica_json_next(item)) {
        struct lorica_tombstone_record tombstone = {0};
        int64_t number = 0;
        if (!lorica_json_integer(item, 1, INT64_MAX, &number))
            rc = lorica_tombstone_get(w->txn, audit->name, (uint64_t)number, &tombstone, &inner);
        if (!rc || rc == LORICA_ENOTFOUND) {
            rc = 0;
            w->sweeps++;
            if (tombstone.swept_seq != audit->seq)
                finding(w,
                        "audit record %" PRIu64 " swept %s@%" PRId64 ", which is not swept by it",
                        audit->seq, audit->name, number);
        } else {
            rc = note(w, rc, &inner);
        }
    }
    lorica_json_destroy(detail);
    return rc;
}

/* The newest setting stands in force. */
static int check_retention(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_error inner = {0};
    struct lorica_retention_record retention = {0};
    char detail[LORICA_DETAIL_MAX + 1];
    int rc = lorica_retention_get(w->txn, audit->name, &retention, &inner);
    if (rc && rc != LORICA_ENOTFOUND)
        return note(w, rc, &inner);
    (void)snprintf(detail, sizeof(detail), "{\"days\":%" PRIu32 "}", retention.days);
    if (retention.seq < audit->seq ||
        (retention.seq == audit->seq && strcmp(audit->detail, detail) != 0))
        finding(w, "the retention of %s is not as audit record %" PRIu64 " set it", audit->name,
                audit->seq);
    return 0;
}

int lorica_verify_retired(struct walk *w, const struct lorica_audit *audit) {
    switch (audit->kind) {
    case LORICA_AUDIT_DELETE:
        return check_deleted(w, audit);
    case LORICA_AUDIT_UNDELETE:
        return check_undeleted(w, audit);
    case LORICA_AUDIT_SWEEP:
        return check_swept(w, audit);
    case LORICA_AUDIT_RETENTION:
        return check_retention(w, audit);
    default:
        return 0;
    }
}

/* Tombstones: each belongs to a version, and there are as many as the chain says. */

struct buried {
    uint64_t tombstones, swept, retentions;
};

static int check_tombstone(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                           void *state) {
    struct buried *buried = state;
    struct lorica_tombstone_record tombstone;
    struct lorica_retention_record retention;
    struct lorica_record_key version;
    struct lorica_audit audit;
    struct lorica_error inner = {0};
    struct lorica_slice found;
    char name[LORICA_NAME_MAX + 1];
    uint64_t number = 0;
    if (!lorica_record_key_split_numbered(key.data, key.len, name, &number)) {
        finding(w, "a tombstone has a malformed key");
        return 0;
    }
    if (number == 0) {
        buried->retentions++;
        if (lorica_record_decode_retention(value.data, value.len, &retention)) {
            finding(w, "the retention of %s cannot be read", name);
            return 0;
        }
        int rc = lorica_audit_get(w->txn, retention.seq, &audit, &inner);
        if (!rc && (audit.kind != LORICA_AUDIT_RETENTION || strcmp(audit.name, name) != 0))
            finding(w, "the retention of %s names audit record %" PRIu64 ", which did not set it",
                    name, retention.seq);
        return note(w, rc, &inner);
    }
    buried->tombstones++;
    if (lorica_record_decode_tombstone(value.data, value.len, &tombstone)) {
        finding(w, "the tombstone of %s@%" PRIu64 " cannot be read", name, number);
        return 0;
    }
    buried->swept += tombstone.swept_seq != 0;
    lorica_record_key_numbered(name, number, &version);
    int rc =
        lorica_store_get(w->txn, LORICA_TABLE_VERSION, lorica_slice_key(&version), &found, w->err);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    finding(w, "the tombstone of %s@%" PRIu64 " belongs to no version", name, number);
    return 0;
}

int lorica_verify_tombstones(struct walk *w) {
    struct buried buried = {0};
    int rc = walk_table(w, LORICA_TABLE_TOMBSTONE, check_tombstone, &buried);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_TOMBSTONE, w->deletes - w->undeletes + buried.retentions,
                          "tombstones and retentions");
    if (!rc && buried.swept != w->sweeps)
        finding(w, "%" PRIu64 " tombstones are swept, the other records say %" PRIu64, buried.swept,
                w->sweeps);
    return rc;
}
