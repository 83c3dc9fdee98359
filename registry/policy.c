/* SPDX-License-Identifier: MIT */
#include "registry/policy.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/checks.h"
#include "registry/digest.h"
#include "registry/internal.h"

bool lorica_eval_set_valid(const char *set) {
    const size_t len = strnlen(set, LORICA_EVAL_SET_MAX + 1);
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return len > 0 && len <= LORICA_EVAL_SET_MAX && strspn(set, allowed) == len &&
           !strchr("._-", set[0]);
}

void lorica_policy_write(struct lorica_jsonw *w, const char *key,
                         const struct lorica_policy *policy) {
    lorica_jsonw_object(w, key);
    lorica_jsonw_integer(w, "approvals", policy->approvals);
    lorica_jsonw_string(w, "min_role", lorica_role_name(policy->min_role));
    lorica_jsonw_integer(w, "max_rank", policy->max_rank);
    lorica_jsonw_integer(w, "max_bytes", (int64_t)policy->max_nbytes);
    lorica_jsonw_string(w, "eval_set", policy->eval_set[0] ? policy->eval_set : NULL);
    lorica_jsonw_number(w, "max_worse", policy->max_worse);
    lorica_jsonw_bool(w, "signed", policy->trusted_signature);
    char digest[LORICA_DIGEST_TEXT];
    lorica_jsonw_integer(w, "checks", policy->checks);
    lorica_jsonw_string(w, "checks_digest",
                        policy->checks ? lorica_digest_format(&policy->checks_digest, digest)
                                       : NULL);
    lorica_jsonw_end_object(w);
}

int lorica_policy_fingerprint(const struct lorica_policy_record *policy,
                              struct lorica_digest *ret) {
    struct lorica_policy_record set = *policy;
    struct lorica_record record;
    set.seq = 0;
    const int rc = lorica_record_encode_policy(&set, &record);
    return rc ? rc : lorica_sha256(record.bytes, record.len, ret);
}

/* A channel's policy; all zero when it was never set. */
static int policy_get(struct lorica_txn *txn, const char *name, const char *channel,
                      struct lorica_policy_record *ret, struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    lorica_record_key_channel(name, channel, &key);
    int rc = lorica_store_get(txn, LORICA_TABLE_POLICY, lorica_slice_key(&key), &value, err);
    if (rc == LORICA_ENOTFOUND) {
        memset(ret, 0, sizeof(*ret));
        return 0;
    }
    if (rc)
        return rc;
    rc = lorica_record_decode_policy(value.data, value.len, ret);
    return rc ? lorica_damaged(err, rc, "the policy of channel %s of %s", channel, name) : 0;
}

/* Setting. */

static int check_policy(const struct lorica_policy *policy, struct lorica_error *err) {
    if (policy->approvals > LORICA_APPROVALS_MAX)
        return lorica_fail(err, LORICA_EINVAL, "a policy asks for at most %d approvals",
                           LORICA_APPROVALS_MAX);
    if ((unsigned)policy->min_role > LORICA_ROLE_ADMIN)
        return lorica_fail(err, LORICA_EINVAL, "a role is infer, publish, ops or admin");
    if (policy->max_nbytes > LORICA_WEIGHTS_BYTES_MAX)
        return lorica_fail(err, LORICA_EINVAL,
                           "no weights are over %" PRIu64 " bytes: ask for less, or for nothing",
                           LORICA_WEIGHTS_BYTES_MAX);
    if (policy->eval_set[0] && !lorica_eval_set_valid(policy->eval_set))
        return lorica_fail(err, LORICA_EINVAL,
                           "an evaluation set's name is [A-Za-z0-9][A-Za-z0-9._-]*, up to %d bytes",
                           LORICA_EVAL_SET_MAX);
    if (!isfinite(policy->max_worse) || policy->max_worse < 0 ||
        (policy->max_worse > 0 && !policy->eval_set[0]))
        return lorica_fail(err, LORICA_EINVAL,
                           "the margin is a number from 0 on, and needs an evaluation set");
    if (policy->checks > LORICA_CHECKS_MAX || !policy->checks != !policy->checks_text ||
        policy->checks_len > LORICA_CHECKS_BYTES)
        return lorica_fail(err, LORICA_EINVAL, "there are at most %d checks, in %zu bytes",
                           LORICA_CHECKS_MAX, LORICA_CHECKS_BYTES);
    return 0;
}

/* {"before":{...},"after":{...}} */
static int write_detail(char out[LORICA_DETAIL_MAX + 1], const struct lorica_policy *before,
                        const struct lorica_policy *after, struct lorica_error *err) {
    struct lorica_buf text;
    lorica_buf_init(&text, LORICA_DETAIL_MAX);
    struct lorica_jsonw w = {.out = &text};
    lorica_jsonw_object(&w, NULL);
    lorica_policy_write(&w, "before", before);
    lorica_policy_write(&w, "after", after);
    lorica_jsonw_end_object(&w);
    int rc = lorica_buf_status(&text);
    if (rc)
        rc = lorica_fail(err, rc, "the policy cannot be recorded");
    else
        memcpy(out, text.data, text.len + 1);
    lorica_buf_finish(&text);
    return rc;
}

static int policy_put(struct lorica_txn *txn, const char *name, const char *channel,
                      struct lorica_policy_record *record, const struct lorica_policy *before,
                      const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_audit audit = {.kind = LORICA_AUDIT_POLICY, .epoch = record->policy.epoch};
    struct lorica_record value;
    struct lorica_record_key key;
    memcpy(audit.name, name, strlen(name) + 1);
    memcpy(audit.channel, channel, strlen(channel) + 1);
    int rc = write_detail(audit.detail, before, &record->policy, err);
    if (!rc && (rc = lorica_policy_fingerprint(record, &audit.digest)))
        rc = lorica_fail(err, rc, "the policy cannot be recorded: %s", lorica_err_text(rc));
    if (!rc)
        rc = lorica_audit_append(txn, actor, &audit, err);
    if (rc)
        return rc;
    record->seq = audit.seq;
    record->policy.changed_ms = audit.time_ms;
    memcpy(record->policy.changed_by, audit.actor, sizeof(audit.actor));
    if (lorica_record_encode_policy(record, &value))
        return lorica_fail(err, LORICA_EBUG, "the policy cannot be encoded");
    lorica_record_key_channel(name, channel, &key);
    rc = lorica_store_put(txn, LORICA_TABLE_POLICY, lorica_slice_key(&key),
                          lorica_slice_record(&value), err);
    if (rc)
        return rc;
    const struct lorica_policy *p = &record->policy;
    if (p->checks)
        return lorica_store_put(txn, LORICA_TABLE_CHECKS, lorica_slice_key(&key),
                                (struct lorica_slice){p->checks_text, p->checks_len}, err);
    rc = lorica_store_delete(txn, LORICA_TABLE_CHECKS, lorica_slice_key(&key), err);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int set_inside(struct lorica_txn *txn, const char *name, const char *channel,
                      struct lorica_policy_record *record, uint64_t expected_epoch,
                      const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_policy_record before;
    int rc = lorica_known_name(txn, name, err);
    if (!rc)
        rc = policy_get(txn, name, channel, &before, err);
    if (rc)
        return rc;
    if (before.policy.epoch != expected_epoch)
        return lorica_fail(err, LORICA_EPRECOND,
                           "the policy of channel %s of %s has changed: its epoch is %" PRIu64
                           ", not %" PRIu64 "; look again and repeat",
                           channel, name, before.policy.epoch, expected_epoch);
    record->policy.epoch = before.policy.epoch + 1;
    return policy_put(txn, name, channel, record, &before.policy, actor, err);
}

int lorica_registry_policy_set(struct lorica_registry *registry, const char *name,
                               const char *channel, const struct lorica_policy *policy,
                               uint64_t expected_epoch, const struct lorica_actor *actor,
                               struct lorica_policy *ret, struct lorica_error *err) {
    struct lorica_policy_record record = {.policy = *policy};
    struct lorica_txn *txn = NULL;
    int rc = lorica_channel_check_names(name, channel, err);
    if (!rc)
        rc = check_policy(policy, err);
    if (!rc && policy->checks &&
        lorica_sha256(policy->checks_text, policy->checks_len, &record.policy.checks_digest))
        rc = lorica_fail(err, LORICA_ENOMEM, "the checks cannot be digested");
    if (!rc && !policy->checks)
        record.policy.checks_digest = (struct lorica_digest){{0}};
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = set_inside(txn, name, channel, &record, expected_epoch, actor, err);
    rc = lorica_store_end(txn, rc, err);
    if (rc)
        return rc;
    *ret = record.policy;
    ret->checks_text = NULL;
    ret->checks_len = 0;
    return 0;
}

static int read_policy(struct lorica_txn *txn, const char *name, const char *channel,
                       struct lorica_policy_record *record, struct lorica_error *err) {
    struct lorica_audit audit;
    int rc = lorica_known_name(txn, name, err);
    if (!rc)
        rc = policy_get(txn, name, channel, record, err);
    if (rc || record->policy.epoch == 0)
        return rc;
    rc = lorica_audit_get(txn, record->seq, &audit, err);
    if (rc)
        return rc;
    record->policy.changed_ms = audit.time_ms;
    memcpy(record->policy.changed_by, audit.actor, sizeof(audit.actor));
    return 0;
}

int lorica_registry_policy(struct lorica_registry *registry, const char *name, const char *channel,
                           struct lorica_policy *ret, struct lorica_error *err) {
    struct lorica_policy_record record;
    struct lorica_txn *txn = NULL;
    int rc = lorica_channel_check_names(name, channel, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = read_policy(txn, name, channel, &record, err);
    lorica_store_abort(txn);
    if (!rc)
        *ret = record.policy;
    return rc;
}

static int read_checks(struct lorica_txn *txn, const char *name, const char *channel,
                       const struct lorica_policy *policy, char **ret, size_t *ret_len,
                       struct lorica_error *err) {
    struct lorica_record_key key;
    struct lorica_slice value;
    struct lorica_digest digest;
    *ret = NULL;
    *ret_len = 0;
    if (!policy->checks)
        return 0;
    lorica_record_key_channel(name, channel, &key);
    const int rc = lorica_store_get(txn, LORICA_TABLE_CHECKS, lorica_slice_key(&key), &value, err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    if (rc || lorica_sha256(value.data, value.len, &digest) ||
        !lorica_digest_equal(&digest, &policy->checks_digest))
        return lorica_damaged(err, LORICA_EFORMAT, "the checks of channel %s of %s", channel, name);
    char *copy = malloc(value.len + 1);
    if (!copy)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    memcpy(copy, value.data, value.len);
    copy[value.len] = '\0';
    *ret = copy;
    *ret_len = value.len;
    return 0;
}

int lorica_registry_checks(struct lorica_registry *registry, const char *name, const char *channel,
                           struct lorica_policy *ret_policy, char **ret, size_t *ret_len,
                           struct lorica_error *err) {
    struct lorica_policy_record record;
    struct lorica_txn *txn = NULL;
    int rc = lorica_channel_check_names(name, channel, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = read_policy(txn, name, channel, &record, err);
    if (!rc)
        rc = read_checks(txn, name, channel, &record.policy, ret, ret_len, err);
    lorica_store_abort(txn);
    if (!rc)
        *ret_policy = record.policy;
    return rc;
}

/* Approvals. */

/* Called for each approval of a channel; a non-zero return stops the walk and is returned. */
typedef int (*approval_fn)(void *arg, struct lorica_txn *txn, uint64_t version,
                           const char *key_name, const struct lorica_approval_record *record,
                           struct lorica_error *err);

/* Approvals of one version, or of all for version 0. */
static int walk_approvals(struct lorica_txn *txn, const char *name, const char *channel,
                          uint64_t version, approval_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_record_key from;
    struct lorica_slice key, value;
    lorica_record_key_approval(name, channel, version, NULL, &from);
    int rc = lorica_store_walk(txn, LORICA_TABLE_APPROVAL, &cursor, err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    while (!rc && key.len > from.len && memcmp(key.data, from.bytes, from.len) == 0) {
        char its_name[LORICA_NAME_MAX + 1], its_channel[LORICA_CHANNEL_MAX + 1];
        char key_name[LORICA_NAME_MAX + 1];
        struct lorica_approval_record record;
        uint64_t number;
        if (!lorica_record_key_split(key.data, key.len, its_name, its_channel, &number, key_name))
            rc = LORICA_EFORMAT;
        else
            rc = lorica_record_decode_approval(value.data, value.len, &record);
        if (rc)
            rc = lorica_damaged(err, rc, "an approval for channel %s of %s", channel, name);
        else
            rc = fn(arg, txn, number, key_name, &record, err);
        if (!rc)
            rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

/* One approval's name, to remove it once the walk has ended. */
struct first_approval {
    uint64_t version;
    char key_name[LORICA_NAME_MAX + 1];
};

static int take_first(void *arg, struct lorica_txn *txn, uint64_t version, const char *key_name,
                      const struct lorica_approval_record *record, struct lorica_error *err) {
    struct first_approval *first = arg;
    first->version = version;
    memcpy(first->key_name, key_name, strlen(key_name) + 1);
    return 1;
}

int lorica_approvals_void(struct lorica_txn *txn, const char *name, const char *channel,
                          struct lorica_error *err) {
    struct first_approval first;
    struct lorica_record_key key;
    int rc;
    while ((rc = walk_approvals(txn, name, channel, 0, take_first, &first, err)) == 1) {
        lorica_record_key_approval(name, channel, first.version, first.key_name, &key);
        rc = lorica_store_delete(txn, LORICA_TABLE_APPROVAL, lorica_slice_key(&key), err);
        if (rc)
            return rc == LORICA_ENOTFOUND ? lorica_fail(err, LORICA_EBUG, "an approval is gone")
                                          : rc;
    }
    return rc;
}

static void fill_approval(const char *channel, const struct lorica_audit *audit,
                          struct lorica_approval *ret) {
    memset(ret, 0, sizeof(*ret));
    memcpy(ret->channel, channel, strlen(channel) + 1);
    ret->version = audit->version;
    ret->epoch = audit->epoch;
    ret->given_ms = audit->time_ms;
    memcpy(ret->given_by, audit->actor, sizeof(ret->given_by));
    memcpy(ret->message, audit->message, sizeof(ret->message));
}

static int approval_put(struct lorica_txn *txn, const struct lorica_version *version,
                        const char *channel, const struct lorica_channel_record *now,
                        const struct lorica_actor *actor, const struct lorica_record_key *key,
                        struct lorica_approval *ret, struct lorica_error *err) {
    struct lorica_record value;
    struct lorica_audit audit = {.kind = LORICA_AUDIT_APPROVE,
                                 .version = version->version,
                                 .previous = now->version,
                                 .epoch = now->epoch,
                                 .digest = version->digest};
    memcpy(audit.name, version->name, sizeof(audit.name));
    memcpy(audit.channel, channel, strlen(channel) + 1);
    int rc = lorica_audit_append(txn, actor, &audit, err);
    if (rc)
        return rc;
    const struct lorica_approval_record record = {.epoch = now->epoch, .seq = audit.seq};
    if (lorica_record_encode_approval(&record, &value))
        return lorica_fail(err, LORICA_EBUG, "the approval cannot be encoded");
    fill_approval(channel, &audit, ret);
    return lorica_store_put(txn, LORICA_TABLE_APPROVAL, lorica_slice_key(key),
                            lorica_slice_record(&value), err);
}

static int approve_inside(struct lorica_txn *txn, const char *name, const char *channel,
                          uint64_t number, const struct lorica_actor *actor, bool *ret_changed,
                          struct lorica_approval *ret, struct lorica_error *err) {
    struct lorica_version version;
    struct lorica_channel_record now;
    struct lorica_approval_record there;
    struct lorica_record_key key;
    struct lorica_slice value;
    struct lorica_audit audit;
    int rc = lorica_version_find(txn, name, number, &version, err);
    if (!rc)
        rc = lorica_channel_get(txn, name, channel, &now, err);
    if (rc)
        return rc;
    lorica_record_key_approval(name, channel, number, actor->key_name, &key);
    rc = lorica_store_get(txn, LORICA_TABLE_APPROVAL, lorica_slice_key(&key), &value, err);
    *ret_changed = rc == LORICA_ENOTFOUND;
    if (*ret_changed)
        return approval_put(txn, &version, channel, &now, actor, &key, ret, err);
    if (!rc && lorica_record_decode_approval(value.data, value.len, &there))
        rc = lorica_damaged(err, LORICA_EFORMAT, "an approval for channel %s of %s", channel, name);
    if (!rc)
        rc = lorica_audit_get(txn, there.seq, &audit, err);
    if (!rc)
        fill_approval(channel, &audit, ret);
    return rc;
}

int lorica_registry_approve(struct lorica_registry *registry, const char *name, const char *channel,
                            uint64_t version, const struct lorica_actor *actor,
                            struct lorica_approval *ret, struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    struct lorica_approval approval;
    bool changed = false;
    int rc = lorica_channel_check_names(name, channel, err);
    if (!rc)
        rc = lorica_actor_check(actor, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, true, &txn, err);
    if (!rc)
        rc = approve_inside(txn, name, channel, version, actor, &changed, &approval, err);
    if (!rc && changed)
        rc = lorica_store_commit(txn, err);
    else
        lorica_store_abort(txn);
    if (!rc)
        *ret = approval;
    return rc;
}

/* Whether an approval counts: the key that gave it is in force, and the channel has not moved. */
static int approval_stands(struct lorica_txn *txn, const char *key_name,
                           const struct lorica_approval_record *record, uint64_t epoch, bool *ret,
                           struct lorica_error *err) {
    struct lorica_key_record key;
    const int rc = lorica_key_get(txn, key_name, &key, err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    *ret = (rc || !key.key.revoked_ms) && record->epoch == epoch;
    return 0;
}

struct listing {
    const char *channel;
    uint64_t epoch; /* where it stands */
    lorica_approval_fn fn;
    void *arg;
};

static int list_one(void *arg, struct lorica_txn *txn, uint64_t version, const char *key_name,
                    const struct lorica_approval_record *record, struct lorica_error *err) {
    const struct listing *listing = arg;
    struct lorica_approval approval;
    struct lorica_audit audit;
    bool stands = false;
    int rc = approval_stands(txn, key_name, record, listing->epoch, &stands, err);
    if (!rc && stands)
        rc = lorica_audit_get(txn, record->seq, &audit, err);
    if (rc || !stands)
        return rc;
    fill_approval(listing->channel, &audit, &approval);
    return listing->fn(listing->arg, &approval);
}

int lorica_registry_approvals(struct lorica_registry *registry, const char *name,
                              const char *channel, lorica_approval_fn fn, void *arg,
                              struct lorica_error *err) {
    struct listing listing = {.channel = channel, .fn = fn, .arg = arg};
    struct lorica_channel_record now;
    struct lorica_txn *txn = NULL;
    int rc = lorica_channel_check_names(name, channel, err);
    if (!rc)
        rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = lorica_known_name(txn, name, err);
    if (!rc)
        rc = lorica_channel_get(txn, name, channel, &now, err);
    if (!rc) {
        listing.epoch = now.epoch;
        rc = walk_approvals(txn, name, channel, 0, list_one, &listing, err);
    }
    lorica_store_abort(txn);
    return rc;
}

/* The gates. Each that fails adds its sentence; only faults of the store end the judging. */

struct judge {
    struct lorica_txn *txn;
    const struct lorica_version *version;
    const char *channel;
    const struct lorica_channel_record *now;
    const struct lorica_actor *actor;
    const struct lorica_policy *policy;
    struct lorica_error *err;
    char failed[420]; /* what failed, with the figures */
    size_t len;
};

LORICA_PRINTF(2, 3) static void gate_failed(struct judge *j, const char *fmt, ...) {
    const size_t room = sizeof(j->failed) - j->len;
    const char *comma = j->len ? "; " : "";
    va_list args;
    int n = snprintf(j->failed + j->len, room, "%s", comma);
    j->len += n > 0 && (size_t)n < room ? (size_t)n : 0;
    va_start(args, fmt);
    n = vsnprintf(j->failed + j->len, sizeof(j->failed) - j->len, fmt, args);
    va_end(args);
    if (n > 0)
        j->len +=
            (size_t)n < sizeof(j->failed) - j->len ? (size_t)n : sizeof(j->failed) - j->len - 1;
}

/* The loss on a set as a manifest states it; NaN when it states none. */
static double loss_of(const struct lorica_json *manifest, const char *set) {
    const double listed =
        lorica_json_number(lorica_json_get(lorica_json_get(manifest, "evals"), set), NAN);
    const char *its_set = lorica_json_string(lorica_json_get(manifest, "eval_set"));
    if (isfinite(listed) || !its_set || strcmp(its_set, set) != 0)
        return listed;
    return lorica_json_number(lorica_json_get(manifest, "eval_loss"), NAN);
}

static int read_loss(struct judge *j, const struct lorica_version *version, double *ret) {
    struct lorica_json *manifest = NULL;
    struct lorica_error inner;
    char *text = NULL;
    *ret = NAN;
    if (version->manifest_nbytes == 0)
        return 0;
    int rc = lorica_blob_load(j->txn, &version->manifest_digest, version->manifest_nbytes, &text,
                              j->err);
    if (rc)
        return rc;
    rc = lorica_json_parse(text, (size_t)version->manifest_nbytes, &manifest, &inner);
    free(text);
    if (rc == LORICA_ENOMEM)
        return lorica_fail(j->err, rc, "out of memory");
    if (!rc) /* else it is no JSON, and states nothing */
        *ret = loss_of(manifest, j->policy->eval_set);
    lorica_json_destroy(manifest);
    return 0;
}

static int judge_eval(struct judge *j) {
    struct lorica_version present;
    double mine = NAN, theirs = NAN;
    if (!j->policy->eval_set[0])
        return 0;
    int rc = read_loss(j, j->version, &mine);
    if (!rc && j->now->version) {
        rc = lorica_version_find(j->txn, j->version->name, j->now->version, &present, j->err);
        if (!rc)
            rc = read_loss(j, &present, &theirs);
    }
    if (rc)
        return rc;
    if (!isfinite(mine))
        gate_failed(j, "eval: its manifest states no loss on %s", j->policy->eval_set);
    else if (isfinite(theirs) && mine > theirs + j->policy->max_worse)
        gate_failed(j,
                    "eval: its loss on %s is %.6g, over the %.6g of version %" PRIu64
                    " by more than %.6g",
                    j->policy->eval_set, mine, theirs, j->now->version, j->policy->max_worse);
    return 0;
}

static void judge_size(struct judge *j) {
    if (j->policy->max_rank && j->version->rank > j->policy->max_rank)
        gate_failed(j, "rank: %" PRIu32 ", at most %" PRIu32 " is allowed", j->version->rank,
                    j->policy->max_rank);
    if (j->policy->max_nbytes && j->version->weights_nbytes > j->policy->max_nbytes)
        gate_failed(j, "size: %" PRIu64 " bytes of weights, at most %" PRIu64 " are allowed",
                    j->version->weights_nbytes, j->policy->max_nbytes);
}

static int judge_signature(struct judge *j) {
    unsigned all = 0, trusted = 0;
    if (!j->policy->trusted_signature)
        return 0;
    const int rc = lorica_signatures_count(j->txn, j->version, &all, &trusted, j->err);
    if (rc || trusted)
        return rc;
    if (all)
        gate_failed(j,
                    "signed: of its %u signatures none is by a key that is trusted now and names "
                    "the adapter",
                    all);
    else
        gate_failed(j, "signed: it has no signature");
    return 0;
}

/* The checks were run before the transaction: they count if they were these, of this version. */
static int judge_checks(struct judge *j) {
    const struct lorica_checked *found = j->actor->checked;
    if (!j->policy->checks)
        return 0;
    if (!found || found->policy_epoch != j->policy->epoch ||
        !lorica_digest_equal(&found->checks, &j->policy->checks_digest) ||
        !lorica_digest_equal(&found->content, &j->version->digest))
        return lorica_fail(j->err, LORICA_EPRECOND,
                           "the policy of channel %s of %s changed while its checks were run, or "
                           "they were not; repeat",
                           j->channel, j->version->name);
    if (found->failed)
        gate_failed(j, "checks: %" PRIu32 " of %" PRIu32 " failed", found->failed, found->count);
    return 0;
}

struct tally {
    const struct judge *judge;
    uint32_t count;
    bool own; /* whoever promotes is among them */
};

static int count_one(void *arg, struct lorica_txn *txn, uint64_t version, const char *key_name,
                     const struct lorica_approval_record *record, struct lorica_error *err) {
    struct tally *tally = arg;
    bool stands = false;
    const int rc = approval_stands(txn, key_name, record, tally->judge->now->epoch, &stands, err);
    if (rc || !stands)
        return rc;
    tally->count++;
    tally->own = tally->own || strcmp(key_name, tally->judge->actor->key_name) == 0;
    return 0;
}

static int judge_approvals(struct judge *j) {
    struct tally tally = {.judge = j};
    if (j->policy->approvals == 0)
        return 0;
    const int rc = walk_approvals(j->txn, j->version->name, j->channel, j->version->version,
                                  count_one, &tally, j->err);
    if (rc)
        return rc;
    const uint32_t keys = tally.count + !tally.own;
    if (keys < j->policy->approvals)
        gate_failed(j, "approvals: %" PRIu32 " of %" PRIu32 " keys want it, %s's included", keys,
                    j->policy->approvals, j->actor->key_name);
    return 0;
}

int lorica_policy_judge(struct lorica_txn *txn, const struct lorica_version *version,
                        const char *channel, const struct lorica_channel_record *now,
                        const struct lorica_actor *actor, struct lorica_error *err) {
    struct lorica_policy_record record;
    int rc = policy_get(txn, version->name, channel, &record, err);
    if (rc)
        return rc;
    struct judge j = {.txn = txn,
                      .version = version,
                      .channel = channel,
                      .now = now,
                      .actor = actor,
                      .policy = &record.policy,
                      .err = err};
    if (actor->role < j.policy->min_role)
        return lorica_fail(err, LORICA_EPERM,
                           "channel %s of %s takes a key with the role %s or above; %s has %s",
                           channel, version->name, lorica_role_name(j.policy->min_role),
                           actor->key_name, lorica_role_name(actor->role));
    judge_size(&j);
    rc = judge_signature(&j);
    if (!rc)
        rc = judge_eval(&j);
    if (!rc)
        rc = judge_checks(&j);
    if (!rc)
        rc = judge_approvals(&j);
    if (!rc && j.len)
        rc = lorica_fail(err, LORICA_EGATE, "%s@%" PRIu64 " may not go to channel %s: %s",
                         version->name, version->version, channel, j.failed);
    return rc;
}
