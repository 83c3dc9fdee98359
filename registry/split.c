/* SPDX-License-Identifier: MIT */
#include "registry/split.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "registry/digest.h"
#include "registry/internal.h"

/* Terms as JSON fit. */
#define TERMS_MAX 256

struct lorica_split_terms lorica_split_defaults(uint64_t version, uint32_t share) {
    return (struct lorica_split_terms){.version = version,
                                       .share = share,
                                       .window_s = 300,
                                       .min_requests = 50,
                                       .max_error_excess = 200,
                                       .max_latency_ratio = 150};
}

bool lorica_split_terms_equal(const struct lorica_split_terms *a,
                              const struct lorica_split_terms *b) {
    return a->version == b->version && a->share == b->share && a->window_s == b->window_s &&
           a->min_requests == b->min_requests && a->max_error_excess == b->max_error_excess &&
           a->max_latency_ratio == b->max_latency_ratio;
}

int lorica_split_place(const char *name, uint64_t version, const void *sticky, size_t sticky_len,
                       uint32_t *ret) {
    struct lorica_digest digest;
    uint8_t bytes[LORICA_NAME_MAX + 1 + 24 + sizeof(digest.bytes)];
    if (lorica_sha256(sticky_len ? sticky : "", sticky_len, &digest))
        return LORICA_ENOMEM;
    const int len = snprintf((char *)bytes, sizeof(bytes) - sizeof(digest.bytes),
                             "%.*s%c%" PRIu64 "%c", LORICA_NAME_MAX, name, '\0', version, '\0');
    memcpy(bytes + len, digest.bytes, sizeof(digest.bytes));
    if (lorica_sha256(bytes, (size_t)len + sizeof(digest.bytes), &digest))
        return LORICA_ENOMEM;
    const uint64_t h = (uint64_t)digest.bytes[0] << 24 | (uint64_t)digest.bytes[1] << 16 |
                       (uint64_t)digest.bytes[2] << 8 | digest.bytes[3];
    *ret = (uint32_t)(h * LORICA_SPLIT_WHOLE >> 32);
    return 0;
}

int lorica_split_read(struct lorica_txn *txn, const char *name, struct lorica_split_record *ret,
                      struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_name(name, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_SPLIT, lorica_slice_key(&key), &value, err);
    if (rc == LORICA_ENOTFOUND) {
        memset(ret, 0, sizeof(*ret));
        return 0;
    }
    if (rc)
        return rc;
    rc = lorica_record_decode_split(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the split of %s", name) : 0;
}

/* Terms as they stand in an audit record. */
static void format_terms(const struct lorica_split_terms *terms, char out[TERMS_MAX]) {
    if (terms->version == 0) {
        (void)snprintf(out, TERMS_MAX, "null");
        return;
    }
    (void)snprintf(out, TERMS_MAX,
                   "{\"version\":%" PRIu64 ",\"share\":%" PRIu32 ",\"window_s\":%" PRIu32
                   ",\"min_requests\":%" PRIu32 ",\"max_error_excess\":%" PRIu32
                   ",\"max_latency_ratio\":%" PRIu32 "}",
                   terms->version, terms->share, terms->window_s, terms->min_requests,
                   terms->max_error_excess, terms->max_latency_ratio);
}

/* Records a change and writes how the split stands after it. `canary` NULL: it ends. */
static int split_change(struct lorica_txn *txn, const char *name,
                        const struct lorica_split_record *now,
                        const struct lorica_split_terms *terms, const struct lorica_version *canary,
                        uint64_t stable, const struct lorica_actor *actor,
                        struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_record record;
    struct lorica_split_record next = {.terms = *terms, .epoch = now->epoch + 1};
    struct lorica_audit audit = {.kind = LORICA_AUDIT_SPLIT,
                                 .version = terms->version,
                                 .previous = stable,
                                 .epoch = next.epoch};
    char before[TERMS_MAX], after[TERMS_MAX];
    memcpy(audit.name, name, strlen(name) + 1);
    memcpy(audit.channel, LORICA_CHANNEL_STABLE, sizeof(LORICA_CHANNEL_STABLE));
    if (canary)
        audit.digest = canary->digest;
    format_terms(&now->terms, before);
    format_terms(terms, after);
    (void)snprintf(audit.detail, sizeof(audit.detail), "{\"before\":%s,\"after\":%s}", before,
                   after);
    int rc = lorica_audit_append(txn, actor, &audit, err);
    if (rc)
        return rc;
    next.seq = audit.seq;
    if (terms->version)
        next.first = terms->version == now->terms.version ? now->first : audit.seq;
    rc = lorica_record_encode_split(&next, &record);
    if (rc)
        return lorica_fail(err, rc, "the split of %s cannot be encoded", name);
    lorica_record_key_name(name, &key);
    return lorica_store_put(txn, LORICA_TABLE_SPLIT, lorica_slice_key(&key),
                            lorica_slice_record(&record), err);
}

/* The split as callers see it. */
static int split_fill(struct lorica_txn *txn, const char *name, struct lorica_split *ret,
                      struct lorica_error *err) {
    struct lorica_split_record now;
    struct lorica_channel_record stable;
    struct lorica_audit audit;
    int rc = lorica_split_read(txn, name, &now, err);
    if (!rc)
        rc = lorica_channel_get(txn, name, LORICA_CHANNEL_STABLE, &stable, err);
    if (rc)
        return rc;
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->name, name, strlen(name) + 1);
    ret->terms = now.terms;
    ret->stable = stable.version;
    ret->epoch = now.epoch;
    ret->seq = now.seq;
    if (now.seq) {
        rc = lorica_audit_get(txn, now.seq, &audit, err);
        if (rc)
            return rc;
        ret->changed_ms = audit.time_ms;
        memcpy(ret->by, audit.actor, sizeof(ret->by));
    }
    if (now.first) {
        rc = lorica_audit_get(txn, now.first, &audit, err);
        if (rc)
            return rc;
        ret->started_ms = audit.time_ms;
    }
    return 0;
}

static int check_range(const char *what, uint64_t value, uint64_t min, uint64_t max,
                       struct lorica_error *err) {
    if (value >= min && value <= max)
        return 0;
    return lorica_fail(err, LORICA_EINVAL,
                       "%s of a split must be from %" PRIu64 " to %" PRIu64 ", not %" PRIu64, what,
                       min, max, value);
}

static int check_terms(const struct lorica_split_terms *terms, struct lorica_error *err) {
    int rc = check_range("the share, in 1/10000,", terms->share, 1, LORICA_SPLIT_WHOLE, err);
    if (!rc)
        rc = check_range("the window, in seconds,", terms->window_s, LORICA_SPLIT_WINDOW_MIN,
                         LORICA_SPLIT_WINDOW_MAX, err);
    if (!rc)
        rc = check_range("the least number of requests", terms->min_requests, 1,
                         LORICA_SPLIT_REQUESTS_MAX, err);
    if (!rc)
        rc = check_range("the excess of errors, in 1/10000,", terms->max_error_excess, 0,
                         LORICA_SPLIT_WHOLE, err);
    if (!rc && terms->max_latency_ratio)
        rc = check_range("the latency, in percent of stable's,", terms->max_latency_ratio,
                         LORICA_SPLIT_LATENCY_MIN, LORICA_SPLIT_LATENCY_MAX, err);
    return rc;
}

static int check_epoch(const char *name, const struct lorica_split_record *now,
                       const uint64_t *expected, struct lorica_error *err) {
    if (!expected || *expected == now->epoch)
        return 0;
    return lorica_fail(err, LORICA_EPRECOND,
                       "the split of %s has changed: its epoch is %" PRIu64 ", not %" PRIu64
                       "; look again and repeat",
                       name, now->epoch, *expected);
}

/* The canary must be able to stand in for what stable points to. */
static int check_canary(struct lorica_txn *txn, const char *name, uint64_t version,
                        struct lorica_version *ret_canary, uint64_t *ret_stable,
                        struct lorica_error *err) {
    struct lorica_channel_record stable;
    struct lorica_version present;
    int rc = lorica_version_find(txn, name, version, ret_canary, err);
    if (!rc)
        rc = lorica_channel_get(txn, name, LORICA_CHANNEL_STABLE, &stable, err);
    if (rc)
        return rc;
    if (stable.version == 0)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "channel stable of %s points nowhere yet: there is no traffic to share; "
                           "promote a version first",
                           name);
    if (stable.version == version)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s@%" PRIu64 " is what stable points to; the canary must be another "
                           "version",
                           name, version);
    rc = lorica_version_find(txn, name, stable.version, &present, err);
    if (!rc && !lorica_digest_equal(&present.base_digest, &ret_canary->base_digest))
        rc = lorica_fail(err, LORICA_ECONFLICT,
                         "%s@%" PRIu64 " is for another base model than %s@%" PRIu64
                         ", which stable points to",
                         name, version, name, stable.version);
    *ret_stable = stable.version;
    return rc;
}

static int set_inside(struct lorica_txn *txn, const char *name,
                      const struct lorica_split_terms *terms, uint64_t expected_epoch,
                      const struct lorica_actor *actor, struct lorica_split *ret,
                      struct lorica_error *err) {
    struct lorica_split_record now;
    struct lorica_channel_record channel;
    struct lorica_version canary;
    uint64_t stable = 0;
    int rc = check_canary(txn, name, terms->version, &canary, &stable, err);
    if (!rc)
        rc = lorica_split_read(txn, name, &now, err);
    if (!rc)
        rc = check_epoch(name, &now, &expected_epoch, err);
    if (!rc) /* it will answer for stable: no way round what stable demands */
        rc = lorica_channel_get(txn, name, LORICA_CHANNEL_STABLE, &channel, err);
    if (!rc)
        rc = lorica_policy_judge(txn, &canary, LORICA_CHANNEL_STABLE, &channel, actor, err);
    if (!rc)
        rc = split_change(txn, name, &now, terms, &canary, stable, actor, err);
    return rc ? rc : split_fill(txn, name, ret, err);
}

int lorica_registry_split_set(struct lorica_registry *registry, const char *name,
                              const struct lorica_split_terms *terms, uint64_t expected_epoch,
                              const struct lorica_actor *actor, struct lorica_split *ret,
                              struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_split changed;
    int rc = lorica_name_check(name, err);
    if (!rc)
        rc = check_terms(terms, err);
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = set_inside(txn, name, terms, expected_epoch, actor, &changed, err);
    rc = lorica_store_end(txn, rc, err);
    if (!rc)
        *ret = changed;
    return rc;
}

static int end_inside(struct lorica_txn *txn, const char *name, const uint64_t *expected_epoch,
                      const struct lorica_actor *actor, struct lorica_split *ret,
                      struct lorica_error *err) {
    static const struct lorica_split_terms none = {0};
    struct lorica_split_record now;
    struct lorica_channel_record stable;
    int rc = lorica_known_name(txn, name, err);
    if (rc)
        return rc;
    rc = lorica_split_read(txn, name, &now, err);
    if (!rc)
        rc = check_epoch(name, &now, expected_epoch, err);
    if (!rc && now.terms.version == 0)
        rc = lorica_fail(err, LORICA_ECONFLICT, "%s has no split: there is nothing to end", name);
    if (!rc)
        rc = lorica_channel_get(txn, name, LORICA_CHANNEL_STABLE, &stable, err);
    if (!rc)
        rc = split_change(txn, name, &now, &none, NULL, stable.version, actor, err);
    return rc ? rc : split_fill(txn, name, ret, err);
}

int lorica_registry_split_end(struct lorica_registry *registry, const char *name,
                              const uint64_t *expected_epoch, const struct lorica_actor *actor,
                              struct lorica_split *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_split changed;
    int rc = lorica_name_check(name, err);
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = end_inside(txn, name, expected_epoch, actor, &changed, err);
    rc = lorica_store_end(txn, rc, err);
    if (!rc)
        *ret = changed;
    return rc;
}

int lorica_registry_split_get(struct lorica_registry *registry, const char *name,
                              struct lorica_split *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_split found;
    int rc = lorica_name_check(name, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_known_name(txn, name, err);
    if (!rc)
        rc = split_fill(txn, name, &found, err);
    lorica_store_abort(txn);
    if (!rc)
        *ret = found;
    return rc;
}

int lorica_split_moved(struct lorica_txn *txn, const char *name, enum lorica_audit_kind kind,
                       uint64_t target, const struct lorica_actor *actor,
                       struct lorica_error *err) {
    static const struct lorica_split_terms none = {0};
    struct lorica_split_record now;
    char why[120];
    const struct lorica_actor mover = {.key_name = actor->key_name, .message = why};
    int rc = lorica_split_read(txn, name, &now, err);
    if (rc || now.terms.version == 0)
        return rc;
    if (kind == LORICA_AUDIT_ROLLBACK)
        (void)snprintf(why, sizeof(why), "ended: stable was rolled back to version %" PRIu64,
                       target);
    else if (target == now.terms.version)
        (void)snprintf(why, sizeof(why), "ended: the canary, version %" PRIu64 ", became stable",
                       target);
    else
        (void)snprintf(why, sizeof(why), "ended: version %" PRIu64 " became stable", target);
    return split_change(txn, name, &now, &none, NULL, target, &mover, err);
}

/* The walk. */

struct check {
    struct lorica_txn *txn;
    void (*say)(void *arg, const char *text);
    void *arg;
    char name[LORICA_NAME_MAX + 1];
    /* as played so far: */
    uint64_t stable, epoch, seq, first, version;
    uint64_t due; /* audit record that must end the split, since stable moved; 0: none */
    char terms[LORICA_DETAIL_MAX + 1];
};

LORICA_PRINTF(2, 3) static void finding(const struct check *check, const char *fmt, ...) {
    char text[600];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    check->say(check->arg, text);
}

/* Takes the new terms out of a detail that must begin with the old ones. */
static bool take_terms(struct check *check, const struct lorica_audit *audit) {
    char head[LORICA_DETAIL_MAX + 32], start[48];
    const size_t len = strlen(audit->detail);
    const size_t head_len =
        (size_t)snprintf(head, sizeof(head), "{\"before\":%s,\"after\":", check->terms);
    if (len < head_len + 2 || memcmp(audit->detail, head, head_len) != 0 ||
        audit->detail[len - 1] != '}')
        return false;
    memcpy(check->terms, audit->detail + head_len, len - head_len - 1);
    check->terms[len - head_len - 1] = '\0';
    if (audit->version == 0)
        return strcmp(check->terms, "null") == 0;
    (void)snprintf(start, sizeof(start), "{\"version\":%" PRIu64 ",", audit->version);
    return strncmp(check->terms, start, strlen(start)) == 0;
}

static void play(struct check *check, const struct lorica_audit *audit) {
    if (check->due &&
        (audit->kind != LORICA_AUDIT_SPLIT || audit->seq != check->due || audit->version != 0))
        finding(check, "the split of %s outlived the move before audit record %" PRIu64,
                check->name, check->due);
    check->due = 0;
    if (lorica_audit_is_move(audit->kind) && strcmp(audit->channel, LORICA_CHANNEL_STABLE) == 0) {
        check->stable = audit->version;
        check->due = check->version ? audit->seq + 1 : 0;
    }
    if (audit->kind != LORICA_AUDIT_SPLIT)
        return;
    if (audit->epoch != check->epoch + 1 || audit->previous != check->stable ||
        strcmp(audit->channel, LORICA_CHANNEL_STABLE) != 0 || !take_terms(check, audit))
        finding(check, "audit record %" PRIu64 " does not follow from the split of %s before it",
                audit->seq, check->name);
    if (audit->version == 0)
        check->first = 0;
    else if (audit->version != check->version)
        check->first = audit->seq;
    check->version = audit->version;
    check->epoch = audit->epoch;
    check->seq = audit->seq;
}

static int play_history(struct check *check, struct lorica_error *err) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_record_key from;
    struct lorica_slice key, value;
    struct lorica_audit audit;
    uint64_t seq;
    lorica_record_key_numbered(check->name, 0, &from);
    int rc = lorica_store_walk(check->txn, LORICA_TABLE_HISTORY, &cursor, err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    while (!rc && lorica_record_key_of(key.data, key.len, check->name, &seq)) {
        rc = lorica_audit_get(check->txn, seq, &audit, err);
        if (!rc)
            play(check, &audit);
        if (!rc)
            rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    lorica_cursor_close(cursor);
    if (check->due)
        finding(check, "the split of %s outlived the move before audit record %" PRIu64,
                check->name, check->due);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int check_arms(struct check *check, uint64_t canary, struct lorica_error *err) {
    struct lorica_version version, stable;
    int rc = lorica_version_get(check->txn, check->name, canary, &version, err);
    if (!rc)
        rc = lorica_version_get(check->txn, check->name, check->stable, &stable, err);
    if (rc == LORICA_ENOTFOUND) {
        finding(check,
                "the split of %s between versions %" PRIu64 " and %" PRIu64 ": one of them is gone",
                check->name, check->stable, canary);
        return 0;
    }
    if (!rc && version.deleted_ms)
        finding(check, "the split of %s sends requests to version %" PRIu64 ", which is deleted",
                check->name, canary);
    if (!rc && !lorica_digest_equal(&version.base_digest, &stable.base_digest))
        finding(check, "the split of %s is between versions for different base models",
                check->name);
    return rc;
}

int lorica_split_check(struct lorica_txn *txn, struct lorica_slice key, struct lorica_slice value,
                       void (*say)(void *arg, const char *text), void *arg,
                       struct lorica_error *err) {
    struct check check = {.txn = txn, .say = say, .arg = arg, .terms = "null"};
    struct lorica_split_record record;
    char terms[TERMS_MAX];
    if (key.len == 0 || key.len > LORICA_NAME_MAX || memchr(key.data, '\0', key.len)) {
        finding(&check, "a split has a malformed key");
        return 0;
    }
    memcpy(check.name, key.data, key.len);
    if (lorica_record_decode_split(value.data, value.len, &record)) {
        finding(&check, "the split of %s cannot be read", check.name);
        return 0;
    }
    int rc = play_history(&check, err);
    format_terms(&record.terms, terms);
    if (!rc &&
        (record.epoch != check.epoch || record.seq != check.seq || record.first != check.first ||
         record.epoch == 0 || strcmp(terms, check.terms) != 0))
        finding(&check,
                "the split of %s stands at epoch %" PRIu64 " with %s, its history says epoch "
                "%" PRIu64 " with %.200s",
                check.name, record.epoch, terms, check.epoch, check.terms);
    if (!rc && record.terms.version)
        rc = check_arms(&check, record.terms.version, err);
    return rc;
}
