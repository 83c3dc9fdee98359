/* SPDX-License-Identifier: MIT
 * The keys that are trusted to sign. */
#include <string.h>

#include "registry/digest.h"
#include "registry/internal.h"
#include "registry/sign.h"

int lorica_signer_get(struct lorica_txn *txn, const char *name, struct lorica_signer_record *ret,
                      struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_name(name, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_SIGNER, lorica_slice_key(&key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_signer(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the record of signer %s", name) : 0;
}

static int signer_put(struct lorica_txn *txn, const char *name,
                      const struct lorica_signer_record *record, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_record value;
    const int rc = lorica_record_encode_signer(record, &value);
    if (rc)
        return lorica_fail(err, rc, "signer %s cannot be encoded", name);
    lorica_record_key_name(name, &key);
    return lorica_store_put(txn, LORICA_TABLE_SIGNER, lorica_slice_key(&key),
                            lorica_slice_record(&value), err);
}

static int id_of(const struct lorica_signer_record *record, struct lorica_digest *ret,
                 struct lorica_error *err) {
    const int rc = lorica_sha256(record->public_pem, strlen(record->public_pem), ret);
    return rc ? lorica_fail(err, rc, "out of memory") : 0;
}

static int walk_signers(struct lorica_cursor *cursor, lorica_signer_record_fn fn, void *arg,
                        struct lorica_error *err) {
    struct lorica_slice key, value;
    int rc = lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, err);
    while (!rc) {
        struct lorica_signer_record record;
        struct lorica_digest id;
        char name[LORICA_NAME_MAX + 1] = "";
        if (key.len > LORICA_NAME_MAX ||
            lorica_record_decode_signer(value.data, value.len, &record))
            return lorica_damaged(err, LORICA_EFORMAT, "the record of a signer");
        memcpy(name, key.data, key.len);
        rc = id_of(&record, &id, err);
        if (!rc)
            rc = fn(arg, name, &id, &record);
        if (!rc)
            rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_signers_walk(struct lorica_txn *txn, lorica_signer_record_fn fn, void *arg,
                        struct lorica_error *err) {
    struct lorica_cursor *cursor = NULL;
    int rc = lorica_store_walk(txn, LORICA_TABLE_SIGNER, &cursor, err);
    if (!rc)
        rc = walk_signers(cursor, fn, arg, err);
    lorica_cursor_close(cursor);
    return rc;
}

struct search {
    const struct lorica_digest *key_id;
    bool removed_too, found;
    char *name;
    struct lorica_signer_record *record;
};

static int compare_one(void *arg, const char *name, const struct lorica_digest *key_id,
                       const struct lorica_signer_record *record) {
    struct search *search = arg;
    if (!lorica_digest_equal(key_id, search->key_id) ||
        (record->removed_seq && !search->removed_too))
        return 0;
    search->found = true;
    memcpy(search->name, name, strlen(name) + 1);
    *search->record = *record;
    return record->removed_seq == 0; /* one that is trusted is the best there is */
}

int lorica_signer_find(struct lorica_txn *txn, const struct lorica_digest *key_id, bool removed_too,
                       char ret_name[LORICA_NAME_MAX + 1], struct lorica_signer_record *ret,
                       struct lorica_error *err) {
    struct search search = {
        .key_id = key_id, .removed_too = removed_too, .name = ret_name, .record = ret};
    const int rc = lorica_signers_walk(txn, compare_one, &search, err);
    if (rc < 0)
        return rc;
    return search.found ? 0 : LORICA_ENOTFOUND;
}

/* Fills what the audit records say of when and by whom. */
static int fill_signer(struct lorica_txn *txn, const char *name, const struct lorica_digest *key_id,
                       const struct lorica_signer_record *record, struct lorica_signer *ret,
                       struct lorica_error *err) {
    struct lorica_signkey *key = NULL;
    struct lorica_audit audit;
    memset(ret, 0, sizeof(*ret));
    int rc = lorica_signkey_public(record->public_pem, strlen(record->public_pem), &key, err);
    if (rc)
        return rc == LORICA_ENOMEM
                   ? rc
                   : lorica_damaged(err, LORICA_EFORMAT, "the key of signer %s", name);
    ret->algorithm = lorica_signkey_algorithm(key);
    lorica_signkey_destroy(key);
    memcpy(ret->name, name, strlen(name) + 1);
    memcpy(ret->public_pem, record->public_pem, sizeof(ret->public_pem));
    ret->key_id = *key_id;
    rc = lorica_audit_get(txn, record->seq, &audit, err);
    if (rc)
        return rc;
    ret->added_ms = audit.time_ms;
    memcpy(ret->added_by, audit.actor, sizeof(ret->added_by));
    if (!record->removed_seq)
        return 0;
    rc = lorica_audit_get(txn, record->removed_seq, &audit, err);
    if (rc)
        return rc;
    ret->removed_ms = audit.time_ms;
    memcpy(ret->removed_by, audit.actor, sizeof(ret->removed_by));
    return 0;
}

static int record_event(struct lorica_txn *txn, enum lorica_audit_kind kind, const char *name,
                        const struct lorica_digest *key_id, const struct lorica_actor *actor,
                        uint64_t *ret_seq, struct lorica_error *err) {
    struct lorica_audit audit = {.kind = kind, .digest = *key_id};
    memcpy(audit.name, name, strlen(name) + 1);
    const int rc = lorica_audit_append(txn, actor, &audit, err);
    if (!rc)
        *ret_seq = audit.seq;
    return rc;
}

static int check_new(struct lorica_txn *txn, const char *name, const struct lorica_digest *key_id,
                     struct lorica_error *err) {
    struct lorica_signer_record there;
    char other[LORICA_NAME_MAX + 1];
    uint64_t count = 0;
    int rc = lorica_signer_get(txn, name, &there, err);
    if (!rc)
        return lorica_fail(err, LORICA_ECONFLICT, "a signer named %s exists%s; choose another name",
                           name, there.removed_seq ? " (removed)" : "");
    if (rc != LORICA_ENOTFOUND)
        return rc;
    rc = lorica_signer_find(txn, key_id, false, other, &there, err);
    if (!rc)
        return lorica_fail(err, LORICA_ECONFLICT, "this key is trusted already, as %s", other);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    rc = lorica_store_count(txn, LORICA_TABLE_SIGNER, &count, err);
    if (!rc && count >= LORICA_SIGNERS_MAX)
        rc = lorica_fail(err, LORICA_ELIMIT, "there are %d signers; that is the most",
                         LORICA_SIGNERS_MAX);
    return rc;
}

static int add_inside(struct lorica_txn *txn, const char *name, const struct lorica_signkey *key,
                      const struct lorica_actor *actor, struct lorica_signer *ret,
                      struct lorica_error *err) {
    const struct lorica_digest *id = lorica_signkey_id(key);
    struct lorica_signer_record record = {.seq = 0};
    memcpy(record.public_pem, lorica_signkey_public_pem(key), sizeof(record.public_pem));
    int rc = check_new(txn, name, id, err);
    if (!rc)
        rc = record_event(txn, LORICA_AUDIT_SIGNER_ADD, name, id, actor, &record.seq, err);
    if (!rc)
        rc = signer_put(txn, name, &record, err);
    return rc ? rc : fill_signer(txn, name, id, &record, ret, err);
}

int lorica_registry_signer_add(struct lorica_registry *registry, const char *name, const char *pem,
                               size_t pem_len, const struct lorica_actor *actor,
                               struct lorica_signer *ret, struct lorica_error *err) {
    struct lorica_signkey *key = NULL;
    struct lorica_txn *txn = NULL;
    struct lorica_signer added;
    if (!lorica_name_valid(name))
        return lorica_fail(err, LORICA_EINVAL,
                           "a signer's name is [a-z0-9][a-z0-9._-]*, up to %d bytes",
                           LORICA_NAME_MAX);
    int rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_signkey_public(pem, pem_len, &key, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = add_inside(txn, name, key, actor, &added, err);
    lorica_signkey_destroy(key);
    rc = lorica_store_end(txn, rc, err);
    if (!rc)
        *ret = added;
    return rc;
}

static int remove_inside(struct lorica_txn *txn, const char *name, const struct lorica_actor *actor,
                         bool *ret_changed, struct lorica_signer *ret, struct lorica_error *err) {
    struct lorica_signer_record record;
    struct lorica_digest id;
    int rc =
        lorica_name_valid(name) ? lorica_signer_get(txn, name, &record, err) : LORICA_ENOTFOUND;
    if (rc == LORICA_ENOTFOUND)
        return lorica_fail(
            err, rc,
            "no signer has the name \"%.*s\"; `lorica signer list` shows those there "
            "are",
            LORICA_NAME_MAX, name);
    if (!rc)
        rc = id_of(&record, &id, err);
    *ret_changed = !rc && record.removed_seq == 0;
    if (*ret_changed) {
        rc = record_event(txn, LORICA_AUDIT_SIGNER_REMOVE, name, &id, actor, &record.removed_seq,
                          err);
        if (!rc)
            rc = signer_put(txn, name, &record, err);
    }
    return rc ? rc : fill_signer(txn, name, &id, &record, ret, err);
}

int lorica_registry_signer_remove(struct lorica_registry *registry, const char *name,
                                  const struct lorica_actor *actor, struct lorica_signer *ret,
                                  struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_signer removed;
    bool changed = false;
    int rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = remove_inside(txn, name, actor, &changed, &removed, err);
    if (!rc && changed)
        rc = lorica_store_commit(txn, err);
    else
        lorica_store_abort(txn);
    if (!rc)
        *ret = removed;
    return rc;
}

struct listing {
    struct lorica_txn *txn;
    lorica_signer_fn fn;
    void *arg;
    struct lorica_error *err;
};

static int list_one(void *arg, const char *name, const struct lorica_digest *key_id,
                    const struct lorica_signer_record *record) {
    const struct listing *listing = arg;
    struct lorica_signer signer;
    const int rc = fill_signer(listing->txn, name, key_id, record, &signer, listing->err);
    return rc ? rc : listing->fn(listing->arg, &signer);
}

int lorica_registry_signers(struct lorica_registry *registry, lorica_signer_fn fn, void *arg,
                            struct lorica_error *err) {
    struct listing listing = {.fn = fn, .arg = arg, .err = err};
    int rc = lorica_store_begin(registry->store, false, &listing.txn, err);
    if (!rc)
        rc = lorica_signers_walk(listing.txn, list_one, &listing, err);
    lorica_store_abort(listing.txn);
    return rc;
}
