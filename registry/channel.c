/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "registry/internal.h"

int lorica_channel_get(struct lorica_txn *txn, const char *name, const char *channel,
                       struct lorica_channel_record *ret, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_channel(name, channel, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_CHANNEL, lorica_slice_key(&key), &value, err);
    if (rc == LORICA_ENOTFOUND) {
        memset(ret, 0, sizeof(*ret));
        return 0;
    }
    if (rc)
        return rc;
    rc = lorica_record_decode_channel(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the record of channel %s of %s", channel, name) : 0;
}

static void fill_channel(const char *channel, const struct lorica_channel_record *record,
                         const struct lorica_audit *last, struct lorica_channel *ret) {
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->channel, channel, strlen(channel) + 1);
    ret->version = record->version;
    ret->epoch = record->epoch;
    if (last) {
        ret->moved_ms = last->time_ms;
        memcpy(ret->moved_by, last->actor, sizeof(ret->moved_by));
    }
}

/* The audit record of a channel's last move, which must be one. */
static int last_move(struct lorica_txn *txn, const char *name, const char *channel, uint64_t seq,
                     struct lorica_audit *ret, struct lorica_error *err) {
    int rc = lorica_audit_get(txn, seq, ret, err);
    if (rc)
        return rc;
    if (!lorica_audit_is_move(ret->kind) || strcmp(ret->name, name) != 0 ||
        strcmp(ret->channel, channel) != 0)
        return lorica_damaged(err, LORICA_EFORMAT,
                              "audit record %" PRIu64 " is no move of channel %s of %s", seq,
                              channel, name);
    return 0;
}

/* {"checks":{"passed":N,"of":M,"list":DIGEST}} */
static void write_detail(char out[LORICA_DETAIL_MAX + 1], const struct lorica_checked *checked) {
    char digest[LORICA_DIGEST_TEXT];
    (void)snprintf(out, LORICA_DETAIL_MAX + 1,
                   "{\"checks\":{\"passed\":%" PRIu32 ",\"of\":%" PRIu32 ",\"list\":\"%s\"}}",
                   checked->count - checked->failed, checked->count,
                   lorica_digest_format(&checked->checks, digest));
}

/* Records a move and writes where the channel stands after it. */
static int channel_move(struct lorica_txn *txn, enum lorica_audit_kind kind,
                        const struct lorica_version *version, const char *channel,
                        const struct lorica_channel_record *now, uint64_t before,
                        const struct lorica_actor *actor, struct lorica_channel *ret,
                        struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_record record;
    struct lorica_audit audit = {.kind = kind,
                                 .version = version->version,
                                 .previous = now->version,
                                 .epoch = now->epoch + 1,
                                 .before = before,
                                 .digest = version->digest};
    memcpy(audit.name, version->name, sizeof(audit.name));
    memcpy(audit.channel, channel, strlen(channel) + 1);
    if (actor->checked && kind == LORICA_AUDIT_PROMOTE)
        write_detail(audit.detail, actor->checked);
    int rc = lorica_audit_append(txn, actor, &audit, err);
    if (rc)
        return rc;
    struct lorica_channel_record moved = {
        .version = version->version, .epoch = audit.epoch, .seq = audit.seq};
    rc = lorica_record_encode_channel(&moved, &record);
    if (rc)
        return lorica_fail(err, rc, "channel %s cannot be encoded", channel);
    lorica_record_key_channel(version->name, channel, &key);
    rc = lorica_store_put(txn, LORICA_TABLE_CHANNEL, lorica_slice_key(&key),
                          lorica_slice_record(&record), err);
    if (!rc && strcmp(channel, LORICA_CHANNEL_STABLE) == 0)
        rc = lorica_split_moved(txn, version->name, kind, version->version, actor, err);
    if (!rc)
        rc = lorica_approvals_void(txn, version->name, channel, err);
    if (!rc)
        fill_channel(channel, &moved, &audit, ret);
    return rc;
}

uint64_t lorica_channel_before(const struct lorica_audit *last, uint64_t version) {
    return last->version == version ? last->before : last->seq;
}

int lorica_channel_promote(struct lorica_txn *txn, const struct lorica_version *version,
                           const char *channel, const struct lorica_channel_record *now,
                           const struct lorica_actor *actor, struct lorica_channel *ret,
                           struct lorica_error *err) {
    struct lorica_audit last = {0};
    int rc = now->epoch ? last_move(txn, version->name, channel, now->seq, &last, err) : 0;
    if (!rc)
        rc = lorica_policy_judge(txn, version, channel, now, actor, err);
    if (rc)
        return rc;
    return channel_move(txn, LORICA_AUDIT_PROMOTE, version, channel, now,
                        lorica_channel_before(&last, version->version), actor, ret, err);
}

int lorica_channel_check_names(const char *name, const char *channel, struct lorica_error *err) {
    const int rc = lorica_name_check(name, err);
    if (!rc && !lorica_channel_valid(channel))
        return lorica_fail(err, LORICA_EINVAL,
                           "a channel's name is [a-z0-9][a-z0-9._-]*, up to %d bytes",
                           LORICA_CHANNEL_MAX);
    return rc;
}

static int promote_inside(struct lorica_txn *txn, const struct lorica_version *version,
                          const char *channel, const uint64_t *expected_epoch,
                          const struct lorica_actor *actor, struct lorica_channel *ret,
                          struct lorica_error *err) {
    struct lorica_channel_record now;
    int rc = lorica_channel_get(txn, version->name, channel, &now, err);
    if (rc)
        return rc;
    if (expected_epoch && *expected_epoch != now.epoch)
        return lorica_fail(err, LORICA_EPRECOND,
                           "channel %s of %s has moved: its epoch is %" PRIu64 ", not %" PRIu64
                           " (version %" PRIu64 " is live); look again and repeat",
                           channel, version->name, now.epoch, *expected_epoch, now.version);
    return lorica_channel_promote(txn, version, channel, &now, actor, ret, err);
}

int lorica_registry_promote(struct lorica_registry *registry, const char *name, const char *channel,
                            uint64_t version, uint64_t expected_epoch, bool any_epoch,
                            const struct lorica_actor *actor, struct lorica_channel *ret,
                            struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_version target;
    struct lorica_channel moved;
    int rc = lorica_channel_check_names(name, channel, err);
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = lorica_version_find(txn, name, version, &target, err);
    if (!rc)
        rc = promote_inside(txn, &target, channel, any_epoch ? NULL : &expected_epoch, actor,
                            &moved, err);
    rc = lorica_store_end(txn, rc, err);
    if (!rc)
        *ret = moved;
    return rc;
}

/* The move that a rollback goes back to, and the version it brings back: down the stack, past what
 * is deleted and past the version that is live now. LORICA_ECONFLICT when there is none. */
static int rollback_target(struct lorica_txn *txn, const struct lorica_audit *last,
                           struct lorica_audit *ret_below, struct lorica_version *ret_target,
                           struct lorica_error *err) {
    unsigned long long deleted = 0;
    uint64_t above = last->seq, at = last->before;
    while (at) {
        int rc = at < above
                     ? last_move(txn, last->name, last->channel, at, ret_below, err)
                     : lorica_damaged(err, LORICA_EFORMAT, "the moves of channel %s of %s go round",
                                      last->channel, last->name);
        if (rc)
            return rc;
        above = at;
        at = ret_below->before;
        if (ret_below->version == last->version)
            continue;
        rc = lorica_version_get(txn, last->name, ret_below->version, ret_target, err);
        if (rc == LORICA_ENOTFOUND)
            return lorica_damaged(err, LORICA_EFORMAT, "%s@%" PRIu64 " is gone", last->name,
                                  ret_below->version);
        if (rc || !ret_target->deleted_ms)
            return rc;
        deleted++;
    }
    return lorica_fail(err, LORICA_ECONFLICT,
                       "nothing%s was live in channel %s of %s before version %" PRIu64
                       "; promote a version instead",
                       deleted ? " that is not deleted" : "", last->channel, last->name,
                       last->version);
}

static int rollback_inside(struct lorica_txn *txn, const char *name, const char *channel,
                           const struct lorica_actor *actor, struct lorica_channel *ret,
                           struct lorica_error *err) {
    struct lorica_channel_record now;
    struct lorica_audit last, below;
    struct lorica_version target;
    int rc = lorica_known_name(txn, name, err);
    if (rc)
        return rc;
    rc = lorica_channel_get(txn, name, channel, &now, err);
    if (rc)
        return rc;
    if (now.epoch == 0)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "channel %s of %s never moved: there is nothing to go back to", channel,
                           name);
    rc = last_move(txn, name, channel, now.seq, &last, err);
    if (rc)
        return rc;
    rc = rollback_target(txn, &last, &below, &target, err);
    if (rc)
        return rc;
    return channel_move(txn, LORICA_AUDIT_ROLLBACK, &target, channel, &now, below.before, actor,
                        ret, err);
}

int lorica_registry_rollback(struct lorica_registry *registry, const char *name,
                             const char *channel, const struct lorica_actor *actor,
                             struct lorica_channel *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_channel moved;
    int rc = lorica_channel_check_names(name, channel, err);
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = rollback_inside(txn, name, channel, actor, &moved, err);
    rc = lorica_store_end(txn, rc, err);
    if (!rc)
        *ret = moved;
    return rc;
}

static int read_channel(struct lorica_txn *txn, const char *name, const char *channel,
                        struct lorica_channel *ret, struct lorica_error *err) {
    struct lorica_channel_record now;
    struct lorica_audit last;
    int rc = lorica_channel_get(txn, name, channel, &now, err);
    if (!rc && now.epoch)
        rc = last_move(txn, name, channel, now.seq, &last, err);
    if (!rc)
        fill_channel(channel, &now, now.epoch ? &last : NULL, ret);
    return rc;
}

int lorica_registry_channel(struct lorica_registry *registry, const char *name, const char *channel,
                            struct lorica_channel *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_channel found;
    int rc = lorica_channel_check_names(name, channel, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_known_name(txn, name, err);
    if (!rc)
        rc = read_channel(txn, name, channel, &found, err);
    lorica_store_abort(txn);
    if (!rc)
        *ret = found;
    return rc;
}

static int walk_channels(struct lorica_txn *txn, struct lorica_cursor *cursor, const char *name,
                         lorica_channel_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_record_key from;
    struct lorica_slice key, value;
    struct lorica_channel channel;
    char word[LORICA_CHANNEL_MAX + 1];
    size_t prefix = strlen(name) + 1;
    lorica_record_key_channel(name, "", &from);
    int rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    while (!rc && key.len > prefix && memcmp(key.data, name, prefix) == 0) {
        if (key.len - prefix > LORICA_CHANNEL_MAX)
            return lorica_damaged(err, LORICA_EFORMAT, "a channel of %s has too long a name", name);
        memcpy(word, (const char *)key.data + prefix, key.len - prefix);
        word[key.len - prefix] = '\0';
        rc = read_channel(txn, name, word, &channel, err);
        if (!rc)
            rc = fn(arg, &channel);
        if (rc)
            return rc;
        rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_registry_channels(struct lorica_registry *registry, const char *name,
                             lorica_channel_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_cursor *cursor = NULL;
    int rc = lorica_channel_check_names(name, LORICA_CHANNEL_STABLE, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_known_name(txn, name, err);
    if (!rc)
        rc = lorica_store_walk(txn, LORICA_TABLE_CHANNEL, &cursor, err);
    if (!rc)
        rc = walk_channels(txn, cursor, name, fn, arg, err);
    lorica_cursor_close(cursor);
    lorica_store_abort(txn);
    return rc;
}
