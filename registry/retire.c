/* SPDX-License-Identifier: MIT */
#include "registry/retire.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "registry/internal.h"

int lorica_tombstone_get(struct lorica_txn *txn, const char *name, uint64_t number,
                         struct lorica_tombstone_record *ret, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_numbered(name, number, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_TOMBSTONE, lorica_slice_key(&key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_tombstone(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the tombstone of %s@%" PRIu64, name, number) : 0;
}

int lorica_tombstone_put(struct lorica_txn *txn, const char *name, uint64_t number,
                         const struct lorica_tombstone_record *tombstone,
                         struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_record record;
    int rc = lorica_record_encode_tombstone(tombstone, &record);
    if (rc)
        return lorica_fail(err, rc, "a tombstone cannot be encoded");
    lorica_record_key_numbered(name, number, &key);
    return lorica_store_put(txn, LORICA_TABLE_TOMBSTONE, lorica_slice_key(&key),
                            lorica_slice_record(&record), err);
}

int lorica_retention_get(struct lorica_txn *txn, const char *name,
                         struct lorica_retention_record *ret, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_numbered(name, 0, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_TOMBSTONE, lorica_slice_key(&key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_retention(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the retention of %s", name) : 0;
}

int lorica_version_gone(struct lorica_error *err, const struct lorica_version *version) {
    const time_t seconds = (time_t)(version->deleted_ms / 1000);
    struct tm tm;
    char when[32] = "an unknown day";
    if (gmtime_r(&seconds, &tm))
        (void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
    return lorica_fail(err, LORICA_ENOTFOUND, "%s@%" PRIu64 " was deleted on %s by %s; %s",
                       version->name, version->version, when, version->deleted_by,
                       version->swept ? "its content is gone: publish it again"
                                      : "an undelete takes it back");
}

/* The first channel that points to a version; LORICA_ENOTFOUND, no sentence. */
static int find_channel(struct lorica_txn *txn, const char *name, uint64_t version,
                        char ret[LORICA_CHANNEL_MAX + 1], struct lorica_error *err) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_record_key from;
    struct lorica_slice key, value;
    const size_t prefix = strlen(name) + 1;
    lorica_record_key_channel(name, "", &from);
    int rc = lorica_store_walk(txn, LORICA_TABLE_CHANNEL, &cursor, err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    while (!rc && key.len > prefix && memcmp(key.data, name, prefix) == 0) {
        struct lorica_channel_record record;
        if (key.len - prefix > LORICA_CHANNEL_MAX ||
            lorica_record_decode_channel(value.data, value.len, &record)) {
            rc = lorica_damaged(err, LORICA_EFORMAT, "a channel of %s", name);
        } else if (record.version == version) {
            memcpy(ret, (const char *)key.data + prefix, key.len - prefix);
            ret[key.len - prefix] = '\0';
            break;
        } else {
            rc = lorica_cursor_next(cursor, &key, &value, err);
        }
    }
    const bool found = !rc && key.len > prefix && memcmp(key.data, name, prefix) == 0;
    lorica_cursor_close(cursor);
    return rc || found ? rc : LORICA_ENOTFOUND;
}

/* Refuses the canary of a split; its other arm is held by its channel. */
static int check_split(struct lorica_txn *txn, const struct lorica_version *version,
                       struct lorica_error *err) {
    struct lorica_split_record split;
    int rc = lorica_split_read(txn, version->name, &split, err);
    if (rc || split.terms.version != version->version)
        return rc;
    return lorica_fail(err, LORICA_ECONFLICT,
                       "%s@%" PRIu64 " cannot be deleted: a split sends requests to it as the "
                       "canary; end the split first",
                       version->name, version->version);
}

static int check_unheld(struct lorica_txn *txn, const struct lorica_version *version,
                        struct lorica_error *err) {
    char channel[LORICA_CHANNEL_MAX + 1];
    int rc = find_channel(txn, version->name, version->version, channel, err);
    if (!rc)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s@%" PRIu64 " cannot be deleted: channel %s points to it; promote "
                           "another version or roll back first",
                           version->name, version->version, channel);
    return rc == LORICA_ENOTFOUND ? check_split(txn, version, err) : rc;
}

/* Records that a version is deleted or taken back. */
static int record_event(struct lorica_txn *txn, enum lorica_audit_kind kind,
                        const struct lorica_version *version, uint64_t before,
                        const struct lorica_actor *actor, struct lorica_audit *ret,
                        struct lorica_error *err) {
    *ret = (struct lorica_audit){
        .kind = kind, .version = version->version, .before = before, .digest = version->digest};
    memcpy(ret->name, version->name, sizeof(ret->name));
    return lorica_audit_append(txn, actor, ret, err);
}

static int delete_inside(struct lorica_txn *txn, struct lorica_version *version,
                         const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_audit audit;
    int rc = check_unheld(txn, version, err);
    if (rc)
        return rc;
    lorica_record_key_identity(version->name, &version->digest, &version->base_digest, &key);
    rc = lorica_store_delete(txn, LORICA_TABLE_IDENTITY, lorica_slice_key(&key), err);
    if (rc == LORICA_ENOTFOUND)
        rc = lorica_damaged(err, LORICA_EFORMAT, "%s@%" PRIu64 " is not found by its content",
                            version->name, version->version);
    if (!rc)
        rc = record_event(txn, LORICA_AUDIT_DELETE, version, 0, actor, &audit, err);
    if (rc)
        return rc;
    version->deleted_ms = audit.time_ms;
    memcpy(version->deleted_by, audit.actor, sizeof(version->deleted_by));
    const struct lorica_tombstone_record tombstone = {.seq = audit.seq};
    return lorica_tombstone_put(txn, version->name, version->version, &tombstone, err);
}

static int undelete_inside(struct lorica_txn *txn, struct lorica_version *version,
                           const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_tombstone_record tombstone;
    struct lorica_record_key identity, key;
    struct lorica_record record;
    struct lorica_slice value;
    struct lorica_audit audit;
    uint64_t newer = 0;
    lorica_record_key_identity(version->name, &version->digest, &version->base_digest, &identity);
    int rc = lorica_store_get(txn, LORICA_TABLE_IDENTITY, lorica_slice_key(&identity), &value, err);
    if (!rc)
        rc = lorica_record_decode_number(value.data, value.len, &newer);
    if (!rc)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s@%" PRIu64 " cannot be taken back: the same content is there as "
                           "version %" PRIu64 "; use that",
                           version->name, version->version, newer);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    rc = lorica_tombstone_get(txn, version->name, version->version, &tombstone, err);
    if (!rc)
        rc = record_event(txn, LORICA_AUDIT_UNDELETE, version, tombstone.seq, actor, &audit, err);
    lorica_record_key_numbered(version->name, version->version, &key);
    if (!rc)
        rc = lorica_store_delete(txn, LORICA_TABLE_TOMBSTONE, lorica_slice_key(&key), err);
    if (!rc)
        rc = lorica_record_encode_number(version->version, &record);
    if (!rc)
        rc = lorica_store_put(txn, LORICA_TABLE_IDENTITY, lorica_slice_key(&identity),
                              lorica_slice_record(&record), err);
    version->deleted_ms = 0;
    version->deleted_by[0] = '\0';
    return rc;
}

/* A version that can be taken back, if another of its content does not stand in the way. */
static int find_deleted(struct lorica_txn *txn, const char *name, uint64_t number,
                        struct lorica_version *ret, struct lorica_error *err) {
    struct lorica_error gone;
    int rc = lorica_version_find(txn, name, number, ret, &gone);
    if (!rc)
        return lorica_fail(err, LORICA_ECONFLICT, "%s@%" PRIu64 " is not deleted", name, number);
    rc = lorica_version_get(txn, name, number, ret, err);
    if (rc == LORICA_ENOTFOUND)
        return lorica_fail(err, rc, "%s", gone.text);
    if (!rc && ret->swept)
        rc = lorica_fail(err, LORICA_ECONFLICT,
                         "%s@%" PRIu64 " cannot be taken back: its content has been swept; publish "
                         "it again",
                         name, number);
    return rc;
}

typedef int (*find_fn)(struct lorica_txn *txn, const char *name, uint64_t number,
                       struct lorica_version *ret, struct lorica_error *err);
typedef int (*change_fn)(struct lorica_txn *txn, struct lorica_version *version,
                         const struct lorica_actor *actor, struct lorica_error *err);

/* Finds a version and changes it in one transaction. */
static int change_version(struct lorica_registry *registry, const char *name, uint64_t number,
                          find_fn find, change_fn change, const struct lorica_actor *actor,
                          struct lorica_version *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_version version;
    int rc = lorica_name_check(name, err);
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = find(txn, name, number, &version, err);
    if (!rc)
        rc = change(txn, &version, actor, err);
    rc = lorica_store_end(txn, rc, err);
    if (!rc)
        *ret = version;
    return rc;
}

int lorica_registry_delete(struct lorica_registry *registry, const char *name, uint64_t version,
                           const struct lorica_actor *actor, struct lorica_version *ret_tombstone,
                           struct lorica_error *err) {
    return change_version(registry, name, version, lorica_version_find, delete_inside, actor,
                          ret_tombstone, err);
}

int lorica_registry_undelete(struct lorica_registry *registry, const char *name, uint64_t version,
                             const struct lorica_actor *actor, struct lorica_version *ret,
                             struct lorica_error *err) {
    return change_version(registry, name, version, find_deleted, undelete_inside, actor, ret, err);
}

struct numbers {
    uint64_t *items;
    size_t count, cap;
};

static int add_number(struct numbers *numbers, uint64_t number, struct lorica_error *err) {
    if (numbers->count == numbers->cap) {
        const size_t cap = numbers->cap ? 2 * numbers->cap : 16;
        uint64_t *grown = realloc(numbers->items, cap * sizeof(*grown));
        if (!grown)
            return lorica_fail(err, LORICA_ENOMEM, "out of memory");
        numbers->items = grown;
        numbers->cap = cap;
    }
    numbers->items[numbers->count++] = number;
    return 0;
}

static int collect_deleted(struct lorica_cursor *cursor, const char *name, struct numbers *numbers,
                           struct lorica_error *err) {
    struct lorica_record_key from;
    struct lorica_slice key, value;
    struct lorica_tombstone_record tombstone;
    uint64_t number;
    lorica_record_key_numbered(name, 1, &from);
    int rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    while (!rc && lorica_record_key_of(key.data, key.len, name, &number)) {
        rc = lorica_record_decode_tombstone(value.data, value.len, &tombstone);
        if (rc)
            return lorica_damaged(err, rc, "the tombstone of %s@%" PRIu64, name, number);
        if (!tombstone.swept_seq)
            rc = add_number(numbers, number, err);
        if (!rc)
            rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_registry_deleted(struct lorica_registry *registry, const char *name, uint64_t **ret,
                            size_t *ret_count, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_cursor *cursor = NULL;
    struct numbers numbers = {0};
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_store_walk(txn, LORICA_TABLE_TOMBSTONE, &cursor, err);
    if (!rc && lorica_name_valid(name))
        rc = collect_deleted(cursor, name, &numbers, err);
    lorica_cursor_close(cursor);
    lorica_store_abort(txn);
    if (rc) {
        free(numbers.items);
        return rc;
    }
    *ret = numbers.items;
    *ret_count = numbers.count;
    return 0;
}

int lorica_registry_retention(struct lorica_registry *registry, const char *name,
                              struct lorica_retention *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_retention_record record = {0};
    int rc = lorica_name_check(name, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_known_name(txn, name, err);
    if (!rc) {
        rc = lorica_retention_get(txn, name, &record, err);
        if (!rc)
            *ret = (struct lorica_retention){.days = record.days};
        else if (rc == LORICA_ENOTFOUND)
            *ret = (struct lorica_retention){.days = LORICA_RETENTION_DAYS, .is_default = true};
        rc = rc == LORICA_ENOTFOUND ? 0 : rc;
    }
    lorica_store_abort(txn);
    return rc;
}

static int set_inside(struct lorica_txn *txn, const char *name, uint32_t days,
                      const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_audit audit = {.kind = LORICA_AUDIT_RETENTION};
    struct lorica_record_key key;
    struct lorica_record record;
    int rc = lorica_known_name(txn, name, err);
    if (rc)
        return rc;
    memcpy(audit.name, name, strlen(name) + 1);
    (void)snprintf(audit.detail, sizeof(audit.detail), "{\"days\":%" PRIu32 "}", days);
    rc = lorica_audit_append(txn, actor, &audit, err);
    const struct lorica_retention_record retention = {.days = days, .seq = audit.seq};
    if (!rc)
        rc = lorica_record_encode_retention(&retention, &record);
    lorica_record_key_numbered(name, 0, &key);
    return rc ? rc
              : lorica_store_put(txn, LORICA_TABLE_TOMBSTONE, lorica_slice_key(&key),
                                 lorica_slice_record(&record), err);
}

int lorica_registry_retention_set(struct lorica_registry *registry, const char *name, uint32_t days,
                                  const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    int rc = lorica_name_check(name, err);
    if (!rc && days > LORICA_RETENTION_DAYS_MAX)
        rc = lorica_fail(err, LORICA_EINVAL, "deleted content is kept for 0 to %d days",
                         LORICA_RETENTION_DAYS_MAX);
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = set_inside(txn, name, days, actor, err);
    return lorica_store_end(txn, rc, err);
}
