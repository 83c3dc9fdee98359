/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "registry/digest.h"
#include "registry/internal.h"

#define KEY_PREFIX "lk_"
#define KEY_RANDOM 32
#define KEY_LEN 46 /* prefix and 43 characters */

static const char *const role_names[] = {
    [LORICA_ROLE_INFER] = "infer",
    [LORICA_ROLE_PUBLISH] = "publish",
    [LORICA_ROLE_OPS] = "ops",
    [LORICA_ROLE_ADMIN] = "admin",
};
#define ROLE_COUNT (sizeof(role_names) / sizeof(role_names[0]))

const char *lorica_role_name(enum lorica_role role) {
    return (unsigned)role < ROLE_COUNT ? role_names[role] : "unknown";
}

int lorica_role_parse(const char *word) {
    for (size_t i = 0; word && i < ROLE_COUNT; i++) {
        if (strcmp(word, role_names[i]) == 0)
            return (int)i;
    }
    return -1;
}

/* The actors of splits that end by themselves, of `lorica init` and of the sweeper. */
static const char *const own_names[] = {"auto", "cli", "server"};

/* '*' and '?' only. Going back to the last star suffices, so the cost is |glob| times |text|. */
static bool glob_matches(const char *glob, const char *text) {
    const char *star = NULL, *resume = NULL;
    while (*text) {
        if (*glob == '*') {
            star = ++glob;
            resume = text;
        } else if (*glob == '?' || *glob == *text) {
            glob++;
            text++;
        } else if (star) {
            glob = star;
            text = ++resume;
        } else {
            return false;
        }
    }
    while (*glob == '*')
        glob++;
    return *glob == '\0';
}

bool lorica_key_allows(const struct lorica_key *key, const char *adapter) {
    for (size_t i = 0; i < key->glob_count && i < LORICA_KEY_GLOBS; i++) {
        if (glob_matches(key->globs[i], adapter))
            return true;
    }
    return key->glob_count == 0;
}

static bool glob_valid(const char *glob) {
    size_t len = strnlen(glob, LORICA_NAME_MAX + 1);
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-*?";
    return len > 0 && len <= LORICA_NAME_MAX && strspn(glob, allowed) == len;
}

static int check_key(const struct lorica_key *key, struct lorica_error *err) {
    if (!lorica_name_valid(key->name))
        return lorica_fail(err, LORICA_EINVAL,
                           "a key's name is [a-z0-9][a-z0-9._-]*, up to %d bytes", LORICA_NAME_MAX);
    for (size_t i = 0; i < sizeof(own_names) / sizeof(own_names[0]); i++)
        if (strcmp(key->name, own_names[i]) == 0)
            return lorica_fail(err, LORICA_EINVAL,
                               "no key is called \"%s\": the audit says that of what lorica does "
                               "by itself; choose another name",
                               key->name);
    if ((unsigned)key->role >= ROLE_COUNT)
        return lorica_fail(err, LORICA_EINVAL, "a key's role is infer, publish, ops or admin");
    if (key->glob_count > LORICA_KEY_GLOBS)
        return lorica_fail(err, LORICA_ELIMIT, "a key names at most %d globs", LORICA_KEY_GLOBS);
    for (size_t i = 0; i < key->glob_count; i++) {
        if (!glob_valid(key->globs[i]))
            return lorica_fail(err, LORICA_EINVAL,
                               "glob %zu: a glob is made of [a-z0-9._-], * and ?, up to %d bytes",
                               i + 1, LORICA_NAME_MAX);
    }
    return 0;
}

/* base64url without padding; 32 bytes make 43 characters. */
static void key_text(const uint8_t random[KEY_RANDOM], char out[LORICA_KEY_TEXT]) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t len = sizeof(KEY_PREFIX) - 1;
    uint32_t bits = 0;
    unsigned count = 0;
    memcpy(out, KEY_PREFIX, len);
    for (size_t i = 0; i < KEY_RANDOM; i++) {
        bits = bits << 8 | random[i];
        for (count += 8; count >= 6; count -= 6)
            out[len++] = digits[bits >> (count - 6) & 63];
    }
    out[len++] = digits[bits << (6 - count) & 63];
    out[len] = '\0';
}

int lorica_key_get(struct lorica_txn *txn, const char *name, struct lorica_key_record *ret,
                   struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_name(name, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_KEY, lorica_slice_key(&key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_key(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the record of key %s", name) : 0;
}

static int key_put(struct lorica_txn *txn, const struct lorica_key_record *record,
                   struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_record value;
    int rc = lorica_record_encode_key(record, &value);
    if (rc)
        return lorica_fail(err, rc, "key %s cannot be encoded", record->key.name);
    lorica_record_key_name(record->key.name, &key);
    return lorica_store_put(txn, LORICA_TABLE_KEY, lorica_slice_key(&key),
                            lorica_slice_record(&value), err);
}

static int secret_put(struct lorica_txn *txn, const struct lorica_key_record *record,
                      struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_record value;
    int rc = lorica_record_encode_name(record->key.name, &value);
    if (rc)
        return lorica_fail(err, rc, "key %s cannot be encoded", record->key.name);
    lorica_record_key_digest(&record->secret, &key);
    return lorica_store_put(txn, LORICA_TABLE_SECRET, lorica_slice_key(&key),
                            lorica_slice_record(&value), err);
}

int lorica_key_fingerprint(const struct lorica_key_record *key, struct lorica_digest *ret) {
    struct lorica_key_record created = *key;
    struct lorica_record record;
    created.key.revoked_ms = 0;
    int rc = lorica_record_encode_key(&created, &record);
    return rc ? rc : lorica_sha256(record.bytes, record.len, ret);
}

static int create_inside(struct lorica_txn *txn, struct lorica_key_record *record,
                         const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_audit audit = {.kind = LORICA_AUDIT_KEY_CREATE};
    struct lorica_key_record there;
    int rc = lorica_key_get(txn, record->key.name, &there, err);
    if (rc == 0)
        return lorica_fail(err, LORICA_ECONFLICT, "a key named %s exists%s; choose another name",
                           record->key.name, there.key.revoked_ms ? " (revoked)" : "");
    if (rc != LORICA_ENOTFOUND)
        return rc;
    memcpy(audit.name, record->key.name, sizeof(audit.name));
    rc = lorica_key_fingerprint(record, &audit.digest);
    if (rc)
        return lorica_fail(err, rc, "key %s cannot be recorded", record->key.name);
    rc = lorica_audit_append(txn, actor, &audit, err);
    if (!rc)
        rc = key_put(txn, record, err);
    return rc ? rc : secret_put(txn, record, err);
}

/* Puts the parts that count into a clean record, so that no stray byte is stored. */
static void copy_key(const struct lorica_key *from, struct lorica_key *to) {
    memset(to, 0, sizeof(*to));
    memcpy(to->name, from->name, strlen(from->name));
    to->role = from->role;
    to->glob_count = from->glob_count;
    for (size_t i = 0; i < from->glob_count; i++)
        memcpy(to->globs[i], from->globs[i], strlen(from->globs[i]));
    to->created_ms = lorica_now_ms();
}

int lorica_registry_key_create(struct lorica_registry *registry, const struct lorica_key *key,
                               const struct lorica_actor *actor, char ret_text[LORICA_KEY_TEXT],
                               struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_key_record record;
    uint8_t random[KEY_RANDOM];
    char text[LORICA_KEY_TEXT];
    int rc = check_key(key, err);
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (rc)
        return rc;
    copy_key(key, &record.key);
    const int drawn = lorica_random_bytes(random, sizeof(random));
    if (drawn)
        return lorica_fail(err, drawn, "the system gives no random bytes for a key");
    key_text(random, text);
    if (lorica_hmac_sha256(registry->pepper, sizeof(registry->pepper), text, KEY_LEN,
                           &record.secret))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = create_inside(txn, &record, actor, err);
    rc = lorica_store_end(txn, rc, err);
    if (!rc)
        memcpy(ret_text, text, KEY_LEN + 1);
    explicit_bzero(random, sizeof(random));
    explicit_bzero(text, sizeof(text));
    return rc;
}

static int unknown_key(struct lorica_error *err, const char *name) {
    return lorica_fail(err, LORICA_ENOTFOUND,
                       "no key has the name \"%.*s\"; `lorica key list` shows those there are",
                       LORICA_NAME_MAX, name);
}

static int revoke_inside(struct lorica_txn *txn, const char *name, const struct lorica_actor *actor,
                         bool *ret_changed, struct lorica_error *err) {
    struct lorica_audit audit = {.kind = LORICA_AUDIT_KEY_REVOKE};
    struct lorica_key_record record;
    int rc = lorica_name_valid(name) ? lorica_key_get(txn, name, &record, err) : LORICA_ENOTFOUND;
    if (rc == LORICA_ENOTFOUND)
        return unknown_key(err, name);
    *ret_changed = !rc && record.key.revoked_ms == 0;
    if (!*ret_changed)
        return rc;
    memcpy(audit.name, record.key.name, sizeof(audit.name));
    rc = lorica_key_fingerprint(&record, &audit.digest);
    if (rc)
        return lorica_fail(err, rc, "key %s cannot be recorded", name);
    rc = lorica_audit_append(txn, actor, &audit, err);
    if (rc)
        return rc;
    record.key.revoked_ms = audit.time_ms;
    return key_put(txn, &record, err);
}

int lorica_registry_key_revoke(struct lorica_registry *registry, const char *name,
                               const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    bool changed = false;
    int rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = revoke_inside(txn, name, actor, &changed, err);
    if (!rc && changed)
        return lorica_store_commit(txn, err);
    lorica_store_abort(txn);
    return rc;
}

static int walk_keys(struct lorica_cursor *cursor, lorica_key_fn fn, void *arg,
                     struct lorica_error *err) {
    struct lorica_slice key, value;
    struct lorica_key_record record;
    int rc = lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, err);
    while (!rc) {
        rc = lorica_record_decode_key(value.data, value.len, &record);
        if (rc)
            return lorica_damaged(err, rc, "the record of key %.*s",
                                  key.len > LORICA_NAME_MAX ? LORICA_NAME_MAX : (int)key.len,
                                  (const char *)key.data);
        rc = fn(arg, &record.key);
        if (rc)
            return rc;
        rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_registry_keys(struct lorica_registry *registry, lorica_key_fn fn, void *arg,
                         struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_cursor *cursor = NULL;
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_store_walk(txn, LORICA_TABLE_KEY, &cursor, err);
    if (!rc)
        rc = walk_keys(cursor, fn, arg, err);
    lorica_cursor_close(cursor);
    lorica_store_abort(txn);
    return rc;
}

int lorica_registry_key(struct lorica_registry *registry, const char *name, struct lorica_key *ret,
                        struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_key_record record;
    int rc = LORICA_ENOTFOUND;
    if (lorica_name_valid(name)) {
        rc = lorica_store_begin(registry->store, false, &txn, err);
        if (!rc)
            rc = lorica_key_get(txn, name, &record, err);
        lorica_store_abort(txn);
    }
    if (rc == LORICA_ENOTFOUND)
        return unknown_key(err, name);
    if (!rc)
        *ret = record.key;
    return rc;
}

/* The record whose secret this is; LORICA_ENOTFOUND without a sentence. */
static int find_secret(struct lorica_txn *txn, const struct lorica_digest *secret,
                       struct lorica_key_record *ret, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    char name[LORICA_NAME_MAX + 1];
    lorica_record_key_digest(secret, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_SECRET, lorica_slice_key(&key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_name(value.data, value.len, name);
    if (rc)
        return lorica_damaged(err, rc, "the index of keys");
    rc = lorica_key_get(txn, name, ret, err);
    if (!rc && !lorica_equal_secret(ret->secret.bytes, secret->bytes, sizeof(secret->bytes)))
        rc = LORICA_ENOTFOUND;
    return rc;
}

int lorica_registry_key_find(struct lorica_registry *registry, const char *text, size_t len,
                             struct lorica_key *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_key_record record;
    struct lorica_digest secret;
    int rc = LORICA_ENOTFOUND;
    if (text && len == KEY_LEN && memcmp(text, KEY_PREFIX, sizeof(KEY_PREFIX) - 1) == 0) {
        if (lorica_hmac_sha256(registry->pepper, sizeof(registry->pepper), text, len, &secret))
            return lorica_fail(err, LORICA_ENOMEM, "out of memory");
        rc = lorica_store_begin(registry->store, false, &txn, err);
        if (!rc)
            rc = find_secret(txn, &secret, &record, err);
        lorica_store_abort(txn);
    }
    if (rc == LORICA_ENOTFOUND || (!rc && record.key.revoked_ms))
        return lorica_fail(err, LORICA_EAUTH, "this is no key in force; ask operations for one");
    if (!rc)
        *ret = record.key;
    return rc;
}
