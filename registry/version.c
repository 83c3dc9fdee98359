/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "registry/digest.h"
#include "registry/internal.h"

void lorica_version_detail(const struct lorica_version *version, char out[LORICA_DETAIL_MAX + 1]) {
    static const struct lorica_digest unknown = {{0}};
    char text[LORICA_DIGEST_TEXT];
    out[0] = '\0';
    if (!version->other_base)
        return;
    if (lorica_digest_equal(&version->trained_digest, &unknown))
        (void)snprintf(out, LORICA_DETAIL_MAX, "{\"trained_on_other_base\":true,\"base\":null}");
    else
        (void)snprintf(out, LORICA_DETAIL_MAX, "{\"trained_on_other_base\":true,\"base\":\"%s\"}",
                       lorica_digest_format(&version->trained_digest, text));
}

static int unknown_name(struct lorica_error *err, const char *name) {
    return lorica_fail(err, LORICA_ENOTFOUND,
                       "no adapter is named %s; publish one, or list those there are", name);
}

int lorica_known_name(struct lorica_txn *txn, const char *name, struct lorica_error *err) {
    uint64_t latest;
    const int rc = lorica_latest_get(txn, name, &latest, err);
    return rc == LORICA_ENOTFOUND ? unknown_name(err, name) : rc;
}

int lorica_version_digest(const struct lorica_digest *canonical,
                          const struct lorica_digest *weights, struct lorica_digest *ret) {
    static const char domain[] = "lorica adapter v1\n";
    uint8_t bytes[sizeof(domain) - 1 + 64];
    memcpy(bytes, domain, sizeof(domain) - 1);
    memcpy(bytes + sizeof(domain) - 1, canonical->bytes, 32);
    memcpy(bytes + sizeof(domain) - 1 + 32, weights->bytes, 32);
    return lorica_sha256(bytes, sizeof(bytes), ret);
}

int lorica_latest_get(struct lorica_txn *txn, const char *name, uint64_t *ret,
                      struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_name(name, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_ADAPTER, lorica_slice_key(&key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_number(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the record of adapter %s", name) : 0;
}

/* Adds what its tombstone says of a deleted version. */
static int version_bury(struct lorica_txn *txn, struct lorica_version *version,
                        struct lorica_error *err) {
    struct lorica_tombstone_record tombstone;
    struct lorica_audit audit;
    int rc = lorica_tombstone_get(txn, version->name, version->version, &tombstone, err);
    if (rc)
        return rc == LORICA_ENOTFOUND ? 0 : rc;
    rc = lorica_audit_get(txn, tombstone.seq, &audit, err);
    if (rc)
        return rc;
    if (audit.kind != LORICA_AUDIT_DELETE || strcmp(audit.name, version->name) != 0 ||
        audit.version != version->version)
        return lorica_damaged(err, LORICA_EFORMAT,
                              "the tombstone of %s@%" PRIu64 " names audit record %" PRIu64
                              ", which is not its deletion",
                              version->name, version->version, tombstone.seq);
    version->deleted_ms = audit.time_ms;
    memcpy(version->deleted_by, audit.actor, sizeof(version->deleted_by));
    version->swept = tombstone.swept_seq != 0;
    return 0;
}

/* Adds what the stored record leaves to its key and its audit records. */
static int version_complete(struct lorica_txn *txn, const char *name, uint64_t number,
                            struct lorica_version *version, struct lorica_error *err) {
    struct lorica_audit audit;
    int rc = lorica_audit_get(txn, version->seq, &audit, err);
    if (rc)
        return rc;
    if (audit.kind != LORICA_AUDIT_PUBLISH || strcmp(audit.name, name) != 0 ||
        audit.version != number)
        return lorica_damaged(err, LORICA_EFORMAT,
                              "%s@%" PRIu64 " names audit record %" PRIu64
                              ", which is not its publishing",
                              name, number, version->seq);
    memcpy(version->name, audit.name, sizeof(version->name));
    version->version = number;
    version->created_ms = audit.time_ms;
    memcpy(version->created_by, audit.actor, sizeof(version->created_by));
    memcpy(version->message, audit.message, sizeof(version->message));
    return version_bury(txn, version, err);
}

int lorica_version_get(struct lorica_txn *txn, const char *name, uint64_t number,
                       struct lorica_version *ret, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_numbered(name, number, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_VERSION, lorica_slice_key(&key), &value, err);
    if (rc)
        return rc;
    rc = lorica_record_decode_version(value.data, value.len, ret);
    if (rc)
        return lorica_damaged(err, rc, "the record of %s@%" PRIu64, name, number);
    return version_complete(txn, name, number, ret, err);
}

/* A version, live or deleted; its absence gets its sentence. */
static int version_look(struct lorica_txn *txn, const char *name, uint64_t number,
                        struct lorica_version *ret, struct lorica_error *err) {
    uint64_t latest = 0;
    int rc = lorica_version_get(txn, name, number, ret, err);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    rc = lorica_latest_get(txn, name, &latest, err);
    if (rc == LORICA_ENOTFOUND)
        return unknown_name(err, name);
    if (rc)
        return rc;
    return lorica_fail(err, LORICA_ENOTFOUND,
                       "%s has no version %" PRIu64 "; the newest is %" PRIu64, name, number,
                       latest);
}

int lorica_version_find(struct lorica_txn *txn, const char *name, uint64_t number,
                        struct lorica_version *ret, struct lorica_error *err) {
    int rc = version_look(txn, name, number, ret, err);
    return !rc && ret->deleted_ms ? lorica_version_gone(err, ret) : rc;
}

int lorica_name_check(const char *name, struct lorica_error *err) {
    if (lorica_name_valid(name))
        return 0;
    return lorica_fail(err, LORICA_ENOTFOUND,
                       "no adapter has such a name: names are [a-z0-9][a-z0-9._-]*, up to %d",
                       LORICA_NAME_MAX);
}

int lorica_registry_version(struct lorica_registry *registry, const char *name, uint64_t version,
                            struct lorica_version *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_version found;
    int rc = lorica_name_check(name, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = version_look(txn, name, version, &found, err);
    lorica_store_abort(txn);
    if (!rc)
        *ret = found;
    return rc;
}

/* A reference in its parts: a channel, or a number when `channel` is empty. */
struct reference {
    char name[LORICA_NAME_MAX + 1];
    char channel[LORICA_CHANNEL_MAX + 1];
    uint64_t version;
};

static bool parse_number(const char *text, uint64_t *ret) {
    size_t len = strnlen(text, 20);
    uint64_t number = 0;
    if (len == 0 || len > 18 || text[0] == '0')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        number = number * 10 + (uint64_t)(text[i] - '0');
    }
    *ret = number;
    return true;
}

static int parse_reference(const char *text, struct reference *ret, struct lorica_error *err) {
    size_t name_len = text ? strcspn(text, ":@") : 0;
    bool valid = name_len > 0 && name_len <= LORICA_NAME_MAX;
    memset(ret, 0, sizeof(*ret));
    if (valid) {
        const char *rest = text + name_len;
        memcpy(ret->name, text, name_len);
        valid = lorica_name_valid(ret->name);
        if (*rest == '@') {
            valid = valid && parse_number(rest + 1, &ret->version);
        } else {
            const char *channel = *rest ? rest + 1 : LORICA_CHANNEL_STABLE;
            valid = valid && lorica_channel_valid(channel);
            if (valid)
                memcpy(ret->channel, channel, strlen(channel) + 1);
        }
    }
    if (valid)
        return 0;
    return lorica_fail(err, LORICA_ENOTFOUND,
                       "no such model: a model is called NAME, NAME:CHANNEL or NAME@VERSION");
}

static int resolve_channel(struct lorica_txn *txn, const struct reference *reference,
                           struct lorica_version *ret, struct lorica_error *err) {
    struct lorica_channel_record now;
    uint64_t latest = 0;
    int rc = lorica_channel_get(txn, reference->name, reference->channel, &now, err);
    if (rc)
        return rc;
    if (now.version == 0) {
        rc = lorica_latest_get(txn, reference->name, &latest, err);
        if (rc == LORICA_ENOTFOUND)
            return unknown_name(err, reference->name);
        if (rc)
            return rc;
        return lorica_fail(err, LORICA_ENOTFOUND,
                           "channel %s of %s points nowhere yet; promote a version (the newest is "
                           "%s@%" PRIu64 ")",
                           reference->channel, reference->name, reference->name, latest);
    }
    rc = lorica_version_get(txn, reference->name, now.version, ret, err);
    if (rc == LORICA_ENOTFOUND)
        return lorica_damaged(err, LORICA_EFORMAT,
                              "channel %s of %s points to version %" PRIu64 ", which is not there",
                              reference->channel, reference->name, now.version);
    return !rc && ret->deleted_ms ? lorica_version_gone(err, ret) : rc;
}

/* Lets a split decide; *version, where stable points to, becomes the canary or stays. */
static int resolve_split(struct lorica_txn *txn, const void *sticky, size_t sticky_len,
                         struct lorica_version *version, struct lorica_split_choice *ret,
                         struct lorica_error *err) {
    struct lorica_split_record split;
    uint32_t place = 0;
    int rc = lorica_split_read(txn, version->name, &split, err);
    if (rc || split.terms.version == 0)
        return rc;
    if (lorica_split_place(version->name, split.terms.version, sticky, sticky_len, &place))
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    *ret = (struct lorica_split_choice){.arm = LORICA_SPLIT_STABLE,
                                        .terms = split.terms,
                                        .stable = version->version,
                                        .epoch = split.epoch};
    if (place >= split.terms.share)
        return 0;
    char name[LORICA_NAME_MAX + 1];
    memcpy(name, version->name, sizeof(name));
    ret->arm = LORICA_SPLIT_CANARY;
    rc = lorica_version_get(txn, name, split.terms.version, version, err);
    if (rc == LORICA_ENOTFOUND)
        rc = lorica_damaged(err, LORICA_EFORMAT,
                            "the split of %s names version %" PRIu64 ", which is not there", name,
                            split.terms.version);
    return rc;
}

/* `obey`: a split counts. */
static int resolve(struct lorica_registry *registry, const char *reference, bool obey,
                   const void *sticky, size_t sticky_len, struct lorica_version *ret,
                   struct lorica_split_choice *ret_choice, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_version found;
    struct lorica_split_choice choice = {.arm = LORICA_SPLIT_NONE};
    struct reference parts;
    int rc = parse_reference(reference, &parts, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc && parts.channel[0])
        rc = resolve_channel(txn, &parts, &found, err);
    else if (!rc)
        rc = lorica_version_find(txn, parts.name, parts.version, &found, err);
    if (!rc && obey && strcmp(parts.channel, LORICA_CHANNEL_STABLE) == 0)
        rc = resolve_split(txn, sticky, sticky_len, &found, &choice, err);
    lorica_store_abort(txn);
    if (rc)
        return rc;
    *ret = found;
    if (ret_choice)
        *ret_choice = choice;
    return 0;
}

int lorica_registry_resolve(struct lorica_registry *registry, const char *reference,
                            struct lorica_version *ret, struct lorica_error *err) {
    return resolve(registry, reference, false, NULL, 0, ret, NULL, err);
}

int lorica_registry_resolve_for(struct lorica_registry *registry, const char *reference,
                                const void *sticky, size_t sticky_len, struct lorica_version *ret,
                                struct lorica_split_choice *ret_choice, struct lorica_error *err) {
    return resolve(registry, reference, true, sticky, sticky_len, ret, ret_choice, err);
}

int lorica_registry_latest(struct lorica_registry *registry, const char *name, uint64_t *ret,
                           struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    uint64_t latest = 0;
    int rc = 0;
    if (lorica_name_valid(name)) {
        rc = lorica_store_begin(registry->store, false, &txn, err);
        if (!rc)
            rc = lorica_latest_get(txn, name, &latest, err);
        lorica_store_abort(txn);
    }
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    *ret = latest;
    return 0;
}

static int walk_names(struct lorica_cursor *cursor, const char *after, size_t limit,
                      lorica_name_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_slice from = {.data = after, .len = after ? strlen(after) + 1 : 0}, key, value;
    char name[LORICA_NAME_MAX + 1];
    uint64_t latest;
    /* The NUL behind `after` makes the smallest key above it. */
    int rc = lorica_cursor_seek(cursor, from, &key, &value, err);
    for (size_t i = 0; !rc && i < limit; i++) {
        if (key.len == 0 || key.len > LORICA_NAME_MAX)
            return lorica_damaged(err, LORICA_EFORMAT, "an adapter's name is too long");
        memcpy(name, key.data, key.len);
        name[key.len] = '\0';
        rc = lorica_record_decode_number(value.data, value.len, &latest);
        if (rc)
            return lorica_damaged(err, rc, "the record of adapter %s", name);
        rc = fn(arg, name, latest);
        if (!rc && i + 1 < limit)
            rc = lorica_cursor_next(cursor, &key, &value, err);
        else if (rc)
            return rc;
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_registry_names(struct lorica_registry *registry, const char *after, size_t limit,
                          lorica_name_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_cursor *cursor = NULL;
    if (after && strnlen(after, LORICA_NAME_MAX + 1) > LORICA_NAME_MAX)
        return lorica_fail(err, LORICA_EINVAL, "no adapter's name is over %d bytes",
                           LORICA_NAME_MAX);
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_store_walk(txn, LORICA_TABLE_ADAPTER, &cursor, err);
    if (!rc)
        rc = walk_names(cursor, after, limit, fn, arg, err);
    lorica_cursor_close(cursor);
    lorica_store_abort(txn);
    return rc;
}

static int walk_versions(struct lorica_txn *txn, struct lorica_cursor *cursor, const char *name,
                         lorica_version_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_record_key from;
    struct lorica_slice key, value;
    struct lorica_version version;
    uint64_t number;
    lorica_record_key_numbered(name, 0, &from);
    int rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    while (!rc && lorica_record_key_of(key.data, key.len, name, &number)) {
        rc = lorica_record_decode_version(value.data, value.len, &version);
        if (rc)
            return lorica_damaged(err, rc, "the record of %s@%" PRIu64, name, number);
        rc = version_complete(txn, name, number, &version, err);
        if (!rc)
            rc = fn(arg, &version);
        if (rc)
            return rc;
        rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_registry_versions(struct lorica_registry *registry, const char *name,
                             lorica_version_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_cursor *cursor = NULL;
    int rc = lorica_name_check(name, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_known_name(txn, name, err);
    if (!rc)
        rc = lorica_store_walk(txn, LORICA_TABLE_VERSION, &cursor, err);
    if (!rc)
        rc = walk_versions(txn, cursor, name, fn, arg, err);
    lorica_cursor_close(cursor);
    lorica_store_abort(txn);
    return rc;
}
