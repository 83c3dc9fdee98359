/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include "proto/utf8.h"
#include "registry/digest.h"
#include "registry/internal.h"

static const char *const kind_names[LORICA_AUDIT_COUNT] = {
    [LORICA_AUDIT_PUBLISH] = "publish",
    [LORICA_AUDIT_PROMOTE] = "promote",
    [LORICA_AUDIT_ROLLBACK] = "rollback",
    [LORICA_AUDIT_KEY_CREATE] = "key-create",
    [LORICA_AUDIT_KEY_REVOKE] = "key-revoke",
    [LORICA_AUDIT_DELETE] = "delete",
    [LORICA_AUDIT_UNDELETE] = "undelete",
    [LORICA_AUDIT_SWEEP] = "sweep",
    [LORICA_AUDIT_SPLIT] = "split",
    [LORICA_AUDIT_POLICY] = "policy",
    [LORICA_AUDIT_APPROVE] = "approve",
    [LORICA_AUDIT_REFUSED] = "refused",
    [LORICA_AUDIT_RETENTION] = "retention",
    [LORICA_AUDIT_SIGNER_ADD] = "signer-add",
    [LORICA_AUDIT_SIGN] = "sign",
    [LORICA_AUDIT_SIGNER_REMOVE] = "signer-remove",
};

const char *lorica_audit_kind_name(enum lorica_audit_kind kind) {
    return (unsigned)kind < LORICA_AUDIT_COUNT ? kind_names[kind] : "unknown";
}

bool lorica_audit_is_move(enum lorica_audit_kind kind) {
    return kind == LORICA_AUDIT_PROMOTE || kind == LORICA_AUDIT_ROLLBACK;
}

static bool is_key_event(const struct lorica_audit *audit) {
    return audit->kind == LORICA_AUDIT_KEY_CREATE || audit->kind == LORICA_AUDIT_KEY_REVOKE ||
           audit->kind == LORICA_AUDIT_SIGNER_ADD || audit->kind == LORICA_AUDIT_SIGNER_REMOVE;
}

bool lorica_audit_of_adapter(const struct lorica_audit *audit) {
    return audit->name[0] && !is_key_event(audit);
}

static bool printable(const char *text, size_t len, bool lines) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && !(lines && (c == '\n' || c == '\t'))) || c == 0x7F)
            return false;
    }
    return lorica_utf8_valid(text, len);
}

int lorica_actor_check(const struct lorica_actor *actor, struct lorica_error *err) {
    size_t len = actor && actor->key_name ? strnlen(actor->key_name, LORICA_NAME_MAX + 1) : 0;
    if (len == 0 || len > LORICA_NAME_MAX || !printable(actor->key_name, len, false))
        return lorica_fail(err, LORICA_EINVAL,
                           "who makes the change must be named by 1 to %d bytes of printable text",
                           LORICA_NAME_MAX);
    if (!actor->message)
        return 0;
    len = strnlen(actor->message, LORICA_MESSAGE_MAX + 1);
    if (len > LORICA_MESSAGE_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "the message is over %d bytes; shorten it",
                           LORICA_MESSAGE_MAX);
    if (!printable(actor->message, len, true))
        return lorica_fail(err, LORICA_EINVAL,
                           "the message must be UTF-8 without control characters");
    return 0;
}

static int audit_decode(struct lorica_slice value, uint64_t seq, struct lorica_audit *ret,
                        struct lorica_error *err) {
    int rc = lorica_record_decode_audit(value.data, value.len, ret);
    if (!rc && ret->seq != seq)
        rc = LORICA_EFORMAT;
    return rc ? lorica_damaged(err, rc, "audit record %" PRIu64, seq) : 0;
}

int lorica_audit_get(struct lorica_txn *txn, uint64_t seq, struct lorica_audit *ret,
                     struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_number(seq, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_AUDIT, lorica_slice_key(&key), &value, err);
    if (rc == LORICA_ENOTFOUND)
        return lorica_damaged(err, LORICA_EFORMAT, "audit record %" PRIu64 " is gone", seq);
    return rc ? rc : audit_decode(value, seq, ret, err);
}

int lorica_audit_hash(const struct lorica_audit *audit, const struct lorica_digest *previous,
                      struct lorica_digest *ret) {
    uint8_t bytes[32 + LORICA_RECORD_MAX];
    struct lorica_record record;
    int rc = lorica_record_encode_audit(audit, &record);
    if (rc)
        return rc;
    memcpy(bytes, previous->bytes, 32);
    memcpy(bytes + 32, record.bytes, record.len);
    return lorica_sha256(bytes, 32 + record.len, ret);
}

int lorica_audit_last(struct lorica_txn *txn, struct lorica_audit *ret, struct lorica_error *err) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_slice key, value;
    memset(ret, 0, sizeof(*ret));
    int rc = lorica_store_walk(txn, LORICA_TABLE_AUDIT, &cursor, err);
    if (rc)
        return rc;
    rc = lorica_cursor_last(cursor, &key, &value, err);
    if (rc == LORICA_ENOTFOUND) {
        rc = 0;
    } else if (!rc) {
        struct lorica_record_key expected;
        rc = lorica_record_decode_audit(value.data, value.len, ret);
        lorica_record_key_number(ret->seq, &expected);
        if (!rc && (key.len != expected.len || memcmp(key.data, expected.bytes, key.len) != 0))
            rc = LORICA_EFORMAT;
        if (rc)
            rc = lorica_damaged(err, rc, "the last audit record");
    }
    lorica_cursor_close(cursor);
    return rc;
}

/* Writes the record with its hash, and its place in the adapter's history. */
static int audit_put(struct lorica_txn *txn, const struct lorica_audit *audit,
                     struct lorica_error *err) {
    struct lorica_record record;
    struct lorica_record_key key;
    int rc = lorica_record_encode_audit(audit, &record);
    if (!rc && sizeof(record.bytes) - record.len < 32)
        rc = LORICA_EBUG;
    if (rc)
        return lorica_fail(err, rc, "audit record %" PRIu64 " cannot be encoded", audit->seq);
    memcpy(record.bytes + record.len, audit->hash.bytes, 32);
    record.len += 32;
    lorica_record_key_number(audit->seq, &key);
    rc = lorica_store_put(txn, LORICA_TABLE_AUDIT, lorica_slice_key(&key),
                          lorica_slice_record(&record), err);
    if (rc || !lorica_audit_of_adapter(audit))
        return rc;
    lorica_record_key_numbered(audit->name, audit->seq, &key);
    return lorica_store_put(txn, LORICA_TABLE_HISTORY, lorica_slice_key(&key),
                            (struct lorica_slice){.data = "", .len = 0}, err);
}

int lorica_audit_append(struct lorica_txn *txn, const struct lorica_actor *actor,
                        struct lorica_audit *audit, struct lorica_error *err) {
    struct lorica_audit last;
    int rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_audit_last(txn, &last, err);
    if (rc)
        return rc;
    audit->seq = last.seq + 1;
    audit->time_ms = lorica_now_ms();
    memcpy(audit->actor, actor->key_name, strlen(actor->key_name) + 1);
    if (actor->message)
        memcpy(audit->message, actor->message, strlen(actor->message) + 1);
    rc = lorica_audit_hash(audit, &last.hash, &audit->hash);
    if (rc)
        return lorica_fail(err, rc, "audit record %" PRIu64 " cannot be hashed", audit->seq);
    return audit_put(txn, audit, err);
}

static int walk_all(struct lorica_cursor *cursor, uint64_t after, size_t limit, lorica_audit_fn fn,
                    void *arg, struct lorica_error *err) {
    struct lorica_record_key from;
    struct lorica_slice key, value;
    struct lorica_audit audit;
    uint64_t seq = after + 1;
    lorica_record_key_number(seq, &from);
    int rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    for (size_t i = 0; !rc && i < limit; i++) {
        rc = audit_decode(value, seq + i, &audit, err);
        if (!rc)
            rc = fn(arg, &audit);
        if (rc)
            return rc;
        if (i + 1 < limit)
            rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int walk_name(struct lorica_txn *txn, struct lorica_cursor *cursor, const char *name,
                     uint64_t after, size_t limit, lorica_audit_fn fn, void *arg,
                     struct lorica_error *err) {
    struct lorica_record_key from;
    struct lorica_slice key, value;
    struct lorica_audit audit;
    uint64_t seq;
    lorica_record_key_numbered(name, after + 1, &from);
    int rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    for (size_t i = 0; !rc && i < limit && lorica_record_key_of(key.data, key.len, name, &seq);
         i++) {
        rc = lorica_audit_get(txn, seq, &audit, err);
        if (!rc)
            rc = fn(arg, &audit);
        if (rc)
            return rc;
        if (i + 1 < limit)
            rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_registry_audit(struct lorica_registry *registry, const char *name, uint64_t after_seq,
                          size_t limit, lorica_audit_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_cursor *cursor = NULL;
    if (after_seq == UINT64_MAX || (name && !lorica_name_valid(name)))
        return 0; /* nothing is behind the last number, nor under a name that cannot be */
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_store_walk(txn, name ? LORICA_TABLE_HISTORY : LORICA_TABLE_AUDIT, &cursor, err);
    if (!rc)
        rc = name ? walk_name(txn, cursor, name, after_seq, limit, fn, arg, err)
                  : walk_all(cursor, after_seq, limit, fn, arg, err);
    lorica_cursor_close(cursor);
    lorica_store_abort(txn);
    return rc;
}

/* Finding. */

static bool is_wanted(const struct lorica_audit_query *query, const struct lorica_audit *audit) {
    return audit->time_ms >= query->since_ms &&
           (!query->until_ms || audit->time_ms < query->until_ms) &&
           (!query->actor || strcmp(query->actor, audit->actor) == 0) &&
           (!query->kind || strcmp(query->kind, lorica_audit_kind_name(audit->kind)) == 0);
}

/* A walk over the chain, or over one adapter's part of it. */
struct finder {
    struct lorica_txn *txn;
    struct lorica_cursor *cursor;
    const struct lorica_audit_query *query;
    struct lorica_slice key, value;
};

static void finder_key(const struct finder *f, uint64_t seq, struct lorica_record_key *ret) {
    if (f->query->name)
        lorica_record_key_numbered(f->query->name, seq, ret);
    else
        lorica_record_key_number(seq, ret);
}

/* To the first record: behind `after`, or the last before `before`. */
static int finder_begin(struct finder *f, struct lorica_error *err) {
    const struct lorica_audit_query *q = f->query;
    struct lorica_record_key from;
    if (!q->newest_first) {
        finder_key(f, q->after + 1, &from);
        return lorica_cursor_seek(f->cursor, lorica_slice_key(&from), &f->key, &f->value, err);
    }
    finder_key(f, q->before ? q->before : UINT64_MAX, &from);
    const int rc = lorica_cursor_seek(f->cursor, lorica_slice_key(&from), &f->key, &f->value, err);
    if (rc == LORICA_ENOTFOUND)
        return lorica_cursor_last(f->cursor, &f->key, &f->value, err);
    return rc ? rc : lorica_cursor_previous(f->cursor, &f->key, &f->value, err);
}

/* The number of the record that the walk stands at; false: it is past the end. */
static bool finder_seq(const struct finder *f, uint64_t *ret) {
    const struct lorica_audit_query *q = f->query;
    const uint8_t *bytes = f->key.data;
    *ret = 0;
    if (q->name && !lorica_record_key_of(f->key.data, f->key.len, q->name, ret))
        return false;
    for (size_t i = 0; !q->name && i < 8 && i < f->key.len; i++)
        *ret = *ret << 8 | bytes[i];
    return *ret > q->after && (!q->before || *ret < q->before);
}

static int finder_step(struct finder *f, lorica_audit_fn fn, void *arg, uint64_t seq,
                       struct lorica_error *err) {
    struct lorica_audit audit;
    int rc = f->query->name ? lorica_audit_get(f->txn, seq, &audit, err)
                            : audit_decode(f->value, seq, &audit, err);
    if (!rc && is_wanted(f->query, &audit))
        rc = fn(arg, &audit);
    return rc;
}

static int find_inside(struct finder *f, size_t scan, lorica_audit_fn fn, void *arg,
                       uint64_t *ret_last, struct lorica_error *err) {
    uint64_t seq;
    int rc = finder_begin(f, err);
    for (size_t i = 0; !rc && i < scan && finder_seq(f, &seq); i++) {
        rc = finder_step(f, fn, arg, seq, err);
        if (rc)
            return rc;
        *ret_last = seq;
        rc = f->query->newest_first ? lorica_cursor_previous(f->cursor, &f->key, &f->value, err)
                                    : lorica_cursor_next(f->cursor, &f->key, &f->value, err);
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_registry_audit_find(struct lorica_registry *registry,
                               const struct lorica_audit_query *query, size_t scan,
                               lorica_audit_fn fn, void *arg, uint64_t *ret_last,
                               struct lorica_error *err) {
    struct finder f = {.query = query};
    if (query->after == UINT64_MAX || (query->name && !lorica_name_valid(query->name)))
        return 0; /* nothing is behind the last number, nor under a name that cannot be */
    int rc = lorica_store_begin(registry->store, false, &f.txn, err);
    if (!rc)
        rc = lorica_store_walk(f.txn, query->name ? LORICA_TABLE_HISTORY : LORICA_TABLE_AUDIT,
                               &f.cursor, err);
    if (!rc)
        rc = find_inside(&f, scan, fn, arg, ret_last, err);
    lorica_cursor_close(f.cursor);
    lorica_store_abort(f.txn);
    return rc;
}

int lorica_registry_audit_head(struct lorica_registry *registry, uint64_t *ret_seq,
                               struct lorica_digest *ret_hash, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_audit last;
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_audit_last(txn, &last, err);
    lorica_store_abort(txn);
    if (rc)
        return rc;
    *ret_seq = last.seq;
    *ret_hash = last.hash;
    return 0;
}
