/* SPDX-License-Identifier: MIT
 * The walk of everything. The records are walked in one read transaction, so that they fit together
 * while changes go on; content, which never changes, is then read piece by piece. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "registry/digest.h"
#include "registry/internal.h"
#include "registry/verify.h"

struct content {
    struct lorica_digest digest;
    uint64_t nbytes;
    bool used; /* a version has it */
};

/* Content: the list of what is there. */

static int add_content(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                       void *state) {
    size_t *room = state;
    if (key.len != 32) {
        finding(w, "content has a key of %zu bytes", key.len);
        return 0;
    }
    if (w->content_count == *room) {
        size_t more = *room ? *room * 2 : 256;
        struct content *grown = more > SIZE_MAX / 2 / sizeof(*grown)
                                    ? NULL
                                    : realloc(w->contents, more * sizeof(*grown));
        if (!grown)
            return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
        w->contents = grown;
        *room = more;
    }
    struct content *content = &w->contents[w->content_count];
    *content = (struct content){0};
    memcpy(content->digest.bytes, key.data, 32);
    if (lorica_record_decode_number(value.data, value.len, &content->nbytes) ||
        content->nbytes > LORICA_WEIGHTS_BYTES_MAX)
        finding(w, "the size of content %s cannot be read",
                lorica_digest_format(&content->digest, (char[LORICA_DIGEST_TEXT]){0}));
    else
        w->content_count++;
    return 0;
}

static int compare_content(const void *digest, const void *content) {
    return memcmp(digest, ((const struct content *)content)->digest.bytes, 32);
}

static struct content *find_content(const struct walk *w, const uint8_t digest[32]) {
    if (!w->content_count)
        return NULL;
    return bsearch(digest, w->contents, w->content_count, sizeof(*w->contents), compare_content);
}

static void use_content(struct walk *w, const struct lorica_version *version, const char *what,
                        const struct lorica_digest *digest, uint64_t nbytes) {
    struct content *content = find_content(w, digest->bytes);
    if (!content) {
        finding(w, "%s@%" PRIu64 ": its %s is gone", version->name, version->version, what);
        return;
    }
    content->used = true;
    if (content->nbytes != nbytes)
        finding(w, "%s@%" PRIu64 ": its %s has %" PRIu64 " bytes, not %" PRIu64, version->name,
                version->version, what, content->nbytes, nbytes);
}

/* The chain. */

struct chain {
    uint64_t seq;
    struct lorica_digest hash;
    bool known; /* hash is that of record seq */
};

static int check_published(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_error inner = {0};
    struct lorica_version version;
    char detail[LORICA_DETAIL_MAX + 1];
    int rc = lorica_version_get(w->txn, audit->name, audit->version, &version, &inner);
    w->publishes++;
    if (rc == LORICA_ENOTFOUND) {
        finding(w, "audit record %" PRIu64 " published %s@%" PRIu64 ", which is gone", audit->seq,
                audit->name, audit->version);
        return 0;
    }
    if (!rc && (version.seq != audit->seq || !lorica_digest_equal(&version.digest, &audit->digest)))
        finding(w, "audit record %" PRIu64 " published other content than %s@%" PRIu64 " has",
                audit->seq, audit->name, audit->version);
    if (!rc) {
        lorica_version_detail(&version, detail);
        if (strcmp(detail, audit->detail) != 0)
            finding(w,
                    "audit record %" PRIu64 " says otherwise than %s@%" PRIu64
                    " on which base it was trained",
                    audit->seq, audit->name, audit->version);
    }
    return note(w, rc, &inner);
}

static int check_key_event(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_record_key key;
    struct lorica_slice value;
    struct lorica_key_record record;
    struct lorica_digest fingerprint;
    lorica_record_key_name(audit->name, &key);
    w->key_creates += audit->kind == LORICA_AUDIT_KEY_CREATE;
    int rc = lorica_store_get(w->txn, LORICA_TABLE_KEY, lorica_slice_key(&key), &value, w->err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    if (rc || lorica_record_decode_key(value.data, value.len, &record)) {
        finding(w, "key %s of audit record %" PRIu64 " is gone or cannot be read", audit->name,
                audit->seq);
        return 0;
    }
    if (lorica_key_fingerprint(&record, &fingerprint))
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    if (!lorica_digest_equal(&fingerprint, &audit->digest))
        finding(w, "key %s is not as audit record %" PRIu64 " made it", audit->name, audit->seq);
    if (audit->kind == LORICA_AUDIT_KEY_REVOKE && record.key.revoked_ms != audit->time_ms)
        finding(w, "key %s: its revocation differs from audit record %" PRIu64, audit->name,
                audit->seq);
    return 0;
}

/* The policy that a record set has not been set back behind the chain. */
static int check_policy_event(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_record_key key;
    struct lorica_slice value;
    struct lorica_policy_record record;
    lorica_record_key_channel(audit->name, audit->channel, &key);
    w->first_policies += audit->epoch == 1;
    int rc = lorica_store_get(w->txn, LORICA_TABLE_POLICY, lorica_slice_key(&key), &value, w->err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    if (rc || lorica_record_decode_policy(value.data, value.len, &record) ||
        record.seq < audit->seq)
        finding(w, "the policy of channel %s of %s is not as audit record %" PRIu64 " set it",
                audit->channel, audit->name, audit->seq);
    return 0;
}

/* An approval that no move has voided is there. */
static int check_approve_event(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_error inner = {0};
    struct lorica_channel_record now;
    struct lorica_record_key key;
    struct lorica_slice value;
    int rc = lorica_channel_get(w->txn, audit->name, audit->channel, &now, &inner);
    if (rc)
        return note(w, rc, &inner);
    if (now.epoch != audit->epoch)
        return 0;
    lorica_record_key_approval(audit->name, audit->channel, audit->version, audit->actor, &key);
    rc = lorica_store_get(w->txn, LORICA_TABLE_APPROVAL, lorica_slice_key(&key), &value, w->err);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    finding(w, "the approval of audit record %" PRIu64 " is gone", audit->seq);
    return 0;
}

static int check_subject(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_record_key key;
    struct lorica_slice value;
    if (audit->kind == LORICA_AUDIT_KEY_CREATE || audit->kind == LORICA_AUDIT_KEY_REVOKE)
        return check_key_event(w, audit);
    if (audit->kind == LORICA_AUDIT_SIGNER_ADD || audit->kind == LORICA_AUDIT_SIGNER_REMOVE)
        return lorica_verify_signer_event(w, audit);
    if (!lorica_audit_of_adapter(audit))
        return 0;
    w->adapter_records++;
    w->first_moves += lorica_audit_is_move(audit->kind) && audit->epoch == 1;
    w->signs += audit->kind == LORICA_AUDIT_SIGN;
    w->first_splits += audit->kind == LORICA_AUDIT_SPLIT && audit->epoch == 1;
    lorica_record_key_numbered(audit->name, audit->seq, &key);
    int rc = lorica_store_get(w->txn, LORICA_TABLE_HISTORY, lorica_slice_key(&key), &value, w->err);
    if (rc == LORICA_ENOTFOUND) {
        finding(w, "audit record %" PRIu64 " is missing from the history of %s", audit->seq,
                audit->name);
        rc = 0;
    }
    if (!rc && audit->kind == LORICA_AUDIT_PUBLISH)
        rc = check_published(w, audit);
    if (!rc && audit->kind == LORICA_AUDIT_POLICY)
        rc = check_policy_event(w, audit);
    if (!rc && audit->kind == LORICA_AUDIT_APPROVE)
        rc = check_approve_event(w, audit);
    return rc ? rc : lorica_verify_retired(w, audit);
}

static int check_link(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                      void *state) {
    struct chain *chain = state;
    struct lorica_record_key expected;
    struct lorica_audit audit;
    struct lorica_digest hash;
    chain->seq++;
    lorica_record_key_number(chain->seq, &expected);
    if (key.len != expected.len || memcmp(key.data, expected.bytes, key.len) != 0) {
        finding(w, "audit record %" PRIu64 " is missing", chain->seq);
        if (key.len != 8)
            return 0;
        chain->seq = 0;
        for (size_t i = 0; i < 8; i++)
            chain->seq = chain->seq << 8 | ((const uint8_t *)key.data)[i];
        chain->known = false;
    }
    if (lorica_record_decode_audit(value.data, value.len, &audit) || audit.seq != chain->seq) {
        finding(w, "audit record %" PRIu64 " cannot be read", chain->seq);
        chain->known = false;
        return 0;
    }
    if (lorica_audit_hash(&audit, &chain->hash, &hash))
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    if (chain->known && !lorica_digest_equal(&hash, &audit.hash))
        finding(w,
                "audit record %" PRIu64 " was altered: its hash does not follow from the one "
                "before",
                chain->seq);
    chain->hash = audit.hash;
    chain->known = true;
    return check_subject(w, &audit);
}

/* Versions. */

struct numbering {
    char name[LORICA_NAME_MAX + 1];
    uint64_t last, names, live;
};

static int end_name(struct walk *w, struct numbering *numbering) {
    uint64_t latest = 0;
    struct lorica_error inner = {0};
    if (!numbering->last)
        return 0;
    int rc = lorica_latest_get(w->txn, numbering->name, &latest, &inner);
    if (rc == LORICA_ENOTFOUND)
        rc = 0;
    else if (rc)
        return note(w, rc, &inner);
    if (latest != numbering->last)
        finding(w, "%s: its newest version is %" PRIu64 ", its record says %" PRIu64,
                numbering->name, numbering->last, latest);
    return 0;
}

static int check_identity(struct walk *w, const struct lorica_version *version) {
    struct lorica_record_key key;
    struct lorica_slice value;
    struct lorica_digest digest;
    uint64_t number = 0;
    if (lorica_version_digest(&version->canonical_digest, &version->weights_digest, &digest))
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    if (!lorica_digest_equal(&digest, &version->digest))
        finding(w, "%s@%" PRIu64 ": its digest is not that of its content", version->name,
                version->version);
    lorica_record_key_identity(version->name, &version->digest, &version->base_digest, &key);
    int rc =
        lorica_store_get(w->txn, LORICA_TABLE_IDENTITY, lorica_slice_key(&key), &value, w->err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    const bool found = !rc && !lorica_record_decode_number(value.data, value.len, &number) &&
                       number == version->version;
    if (found && version->deleted_ms)
        finding(w, "%s@%" PRIu64 " is deleted, and found by its content", version->name,
                version->version);
    if (!found && !version->deleted_ms)
        finding(w, "%s@%" PRIu64 " is not found by its content", version->name, version->version);
    return 0;
}

static void use_contents(struct walk *w, const struct lorica_version *version) {
    use_content(w, version, "config", &version->config_digest, version->config_nbytes);
    use_content(w, version, "canonical config", &version->canonical_digest,
                version->canonical_nbytes);
    use_content(w, version, "weights", &version->weights_digest, version->weights_nbytes);
    if (version->manifest_nbytes)
        use_content(w, version, "manifest", &version->manifest_digest, version->manifest_nbytes);
}

/* Damaged content is found when all content is read. */
static int check_config(struct walk *w, const struct lorica_version *version) {
    struct lorica_error inner = {0};
    char *text = NULL;
    int rc =
        lorica_blob_load(w->txn, &version->config_digest, version->config_nbytes, &text, &inner);
    if (!rc)
        rc = lorica_config_check(version, text, (size_t)version->config_nbytes, &inner);
    else if (rc == LORICA_EFORMAT)
        return 0;
    free(text);
    if (rc != LORICA_EFORMAT)
        return rc ? lorica_fail(w->err, rc, "%s", inner.text) : 0;
    finding(w, "%s@%" PRIu64 ": its config is not that of its digest", version->name,
            version->version);
    return 0;
}

static int check_version(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                         void *state) {
    struct numbering *numbering = state;
    struct lorica_error inner = {0};
    struct lorica_version version;
    char name[LORICA_NAME_MAX + 1];
    uint64_t number = 0;
    size_t len = strnlen(key.data, key.len);
    if (len > LORICA_NAME_MAX || key.len != len + 9) {
        finding(w, "a version has a malformed key");
        return 0;
    }
    memcpy(name, key.data, len);
    name[len] = '\0';
    (void)lorica_record_key_of(key.data, key.len, name, &number);
    if (strcmp(name, numbering->name) != 0) {
        int rc = end_name(w, numbering);
        if (rc)
            return rc;
        memcpy(numbering->name, name, sizeof(name));
        numbering->last = 0;
        numbering->names++;
    }
    if (number != numbering->last + 1)
        finding(w, "%s: version %" PRIu64 " follows %" PRIu64, name, number, numbering->last);
    numbering->last = number;
    int rc = lorica_version_get(w->txn, name, number, &version, &inner);
    if (rc)
        return note(w, rc, &inner);
    numbering->live += version.deleted_ms == 0;
    if (!version.swept) {
        use_contents(w, &version);
        rc = check_config(w, &version);
    }
    return rc ? rc : check_identity(w, &version);
}

/* Channels: their moves are played again from the chain, with what was deleted at the time. */

struct replay {
    const char *name, *channel;
    struct lorica_audit top; /* last move; all zero before the first */
    bool *deleted;           /* owned; by version */
    uint64_t versions;       /* entries of it */
};

static void replay_deletion(struct replay *replay, const struct lorica_audit *audit) {
    if (audit->version < replay->versions)
        replay->deleted[audit->version] = audit->kind == LORICA_AUDIT_DELETE;
}

/* What a rollback from the top goes back to: version 0 when there is nothing. */
static int replay_rollback(struct walk *w, const struct replay *replay, uint64_t *ret_version,
                           uint64_t *ret_before) {
    struct lorica_error inner = {0};
    struct lorica_audit below;
    uint64_t above = replay->top.seq;
    *ret_version = *ret_before = 0;
    for (uint64_t at = replay->top.before; at && at < above; at = below.before) {
        int rc = lorica_audit_get(w->txn, at, &below, &inner);
        if (rc)
            return note(w, rc, &inner);
        above = at;
        if (below.version == replay->top.version ||
            (below.version < replay->versions && replay->deleted[below.version]))
            continue;
        *ret_version = below.version;
        *ret_before = below.before;
        return 0;
    }
    return 0;
}

static int replay_move(struct walk *w, struct replay *replay, const struct lorica_audit *move) {
    uint64_t before = lorica_channel_before(&replay->top, move->version);
    uint64_t version = move->version;
    if (move->kind == LORICA_AUDIT_ROLLBACK) {
        int rc = replay_rollback(w, replay, &version, &before);
        if (rc)
            return rc;
    }
    if (move->epoch != replay->top.epoch + 1 || move->previous != replay->top.version ||
        move->before != before || move->version != version)
        finding(w, "audit record %" PRIu64 " does not follow from the moves of channel %s of %s",
                move->seq, replay->channel, replay->name);
    replay->top = *move;
    return 0;
}

static int replay_history(struct walk *w, struct replay *replay) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_record_key from;
    struct lorica_slice key, value;
    struct lorica_error inner = {0};
    uint64_t seq;
    lorica_record_key_numbered(replay->name, 0, &from);
    int rc = lorica_store_walk(w->txn, LORICA_TABLE_HISTORY, &cursor, w->err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, w->err);
    while (!rc && lorica_record_key_of(key.data, key.len, replay->name, &seq)) {
        struct lorica_audit audit;
        rc = lorica_audit_get(w->txn, seq, &audit, &inner);
        if (rc)
            rc = note(w, rc, &inner);
        else if (lorica_audit_is_move(audit.kind) && strcmp(audit.name, replay->name) == 0 &&
                 strcmp(audit.channel, replay->channel) == 0)
            rc = replay_move(w, replay, &audit);
        else if (audit.kind == LORICA_AUDIT_DELETE || audit.kind == LORICA_AUDIT_UNDELETE)
            replay_deletion(replay, &audit);
        if (!rc)
            rc = lorica_cursor_next(cursor, &key, &value, w->err);
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int replay_channel(struct walk *w, struct replay *replay) {
    int rc = lorica_store_count(w->txn, LORICA_TABLE_VERSION, &replay->versions, w->err);
    if (rc)
        return rc;
    replay->deleted = calloc((size_t)++replay->versions, sizeof(*replay->deleted));
    rc = replay->deleted ? replay_history(w, replay)
                         : lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    free(replay->deleted);
    return rc;
}

static int check_channel(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                         void *state) {
    char name[LORICA_NAME_MAX + 1], channel[LORICA_CHANNEL_MAX + 1];
    struct replay replay = {.name = name, .channel = channel};
    struct lorica_channel_record record;
    struct lorica_version version;
    struct lorica_error inner = {0};
    if (!lorica_record_key_split(key.data, key.len, name, channel, NULL, NULL)) {
        finding(w, "a channel has a malformed key");
        return 0;
    }
    if (lorica_record_decode_channel(value.data, value.len, &record)) {
        finding(w, "channel %s of %s cannot be read", channel, name);
        return 0;
    }
    int rc = replay_channel(w, &replay);
    if (rc)
        return rc;
    if (record.version != replay.top.version || record.epoch != replay.top.epoch ||
        record.seq != replay.top.seq || record.epoch == 0)
        finding(w,
                "channel %s of %s: stands on version %" PRIu64 " at epoch %" PRIu64
                ", its history says version %" PRIu64 " at epoch %" PRIu64,
                channel, name, record.version, record.epoch, replay.top.version, replay.top.epoch);
    rc = lorica_version_get(w->txn, name, record.version, &version, &inner);
    if (rc == LORICA_ENOTFOUND)
        finding(w, "channel %s of %s points to version %" PRIu64 ", which is gone", channel, name,
                record.version);
    else if (!rc && version.deleted_ms)
        finding(w, "channel %s of %s points to version %" PRIu64 ", which is deleted", channel,
                name, record.version);
    return rc == LORICA_ENOTFOUND ? 0 : note(w, rc, &inner);
}

/* Splits: split.c knows them. */

static void say_finding(void *arg, const char *text) { finding(arg, "%s", text); }

static int check_split(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                       void *state) {
    struct lorica_error inner = {0};
    return note(w, lorica_split_check(w->txn, key, value, say_finding, w, &inner), &inner);
}

/* Policies and approvals: each is as its audit record made it. */

static int check_policy(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                        void *state) {
    char name[LORICA_NAME_MAX + 1], channel[LORICA_CHANNEL_MAX + 1];
    struct lorica_policy_record record;
    struct lorica_digest fingerprint;
    struct lorica_slice list;
    struct lorica_error inner = {0};
    struct lorica_audit audit;
    if (!lorica_record_key_split(key.data, key.len, name, channel, NULL, NULL)) {
        finding(w, "a policy has a malformed key");
        return 0;
    }
    if (lorica_record_decode_policy(value.data, value.len, &record)) {
        finding(w, "the policy of channel %s of %s cannot be read", channel, name);
        return 0;
    }
    if (lorica_policy_fingerprint(&record, &fingerprint))
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    int rc = lorica_audit_get(w->txn, record.seq, &audit, &inner);
    if (rc)
        return note(w, rc, &inner);
    if (audit.kind != LORICA_AUDIT_POLICY || strcmp(audit.name, name) != 0 ||
        strcmp(audit.channel, channel) != 0 || audit.epoch != record.policy.epoch ||
        !lorica_digest_equal(&audit.digest, &fingerprint))
        finding(w, "the policy of channel %s of %s is not as audit record %" PRIu64 " set it",
                channel, name, record.seq);
    if (record.policy.checks == 0)
        return 0;
    rc = lorica_store_get(w->txn, LORICA_TABLE_CHECKS, key, &list, &inner);
    if (rc && rc != LORICA_ENOTFOUND)
        return note(w, rc, &inner);
    if (rc || lorica_sha256(list.data, list.len, &fingerprint) ||
        !lorica_digest_equal(&fingerprint, &record.policy.checks_digest))
        finding(w, "the checks of channel %s of %s are not as audit record %" PRIu64 " set them",
                channel, name, record.seq);
    return 0;
}

/* A list of checks belongs to a policy, which says its digest. */
static int check_checks(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                        void *state) {
    char name[LORICA_NAME_MAX + 1], channel[LORICA_CHANNEL_MAX + 1];
    struct lorica_policy_record record;
    struct lorica_slice policy;
    struct lorica_error inner = {0};
    const bool named = lorica_record_key_split(key.data, key.len, name, channel, NULL, NULL);
    const int rc = lorica_store_get(w->txn, LORICA_TABLE_POLICY, key, &policy, &inner);
    if (rc && rc != LORICA_ENOTFOUND)
        return note(w, rc, &inner);
    if (rc || !named || lorica_record_decode_policy(policy.data, policy.len, &record) ||
        record.policy.checks == 0)
        finding(w, "there are checks of channel %s of %s that no policy has", named ? channel : "?",
                named ? name : "?");
    return 0;
}

static int check_approval(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                          void *state) {
    char name[LORICA_NAME_MAX + 1], channel[LORICA_CHANNEL_MAX + 1], by[LORICA_NAME_MAX + 1];
    struct lorica_approval_record record;
    struct lorica_channel_record now = {0};
    struct lorica_error inner = {0};
    struct lorica_audit audit;
    uint64_t version;
    if (!lorica_record_key_split(key.data, key.len, name, channel, &version, by) ||
        lorica_record_decode_approval(value.data, value.len, &record)) {
        finding(w, "an approval cannot be read");
        return 0;
    }
    int rc = lorica_audit_get(w->txn, record.seq, &audit, &inner);
    if (!rc)
        rc = lorica_channel_get(w->txn, name, channel, &now, &inner);
    if (rc)
        return note(w, rc, &inner);
    if (audit.kind != LORICA_AUDIT_APPROVE || strcmp(audit.name, name) != 0 ||
        strcmp(audit.channel, channel) != 0 || strcmp(audit.actor, by) != 0 ||
        audit.version != version || audit.epoch != record.epoch || now.epoch != record.epoch)
        finding(w, "the approval of %s@%" PRIu64 " for channel %s by %s was never given", name,
                version, channel, by);
    return 0;
}

/* Keys: each is found by its secret. */

static int check_secret(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                        void *state) {
    struct lorica_record_key secret;
    struct lorica_key_record record;
    struct lorica_slice found;
    char name[LORICA_NAME_MAX + 1];
    if (lorica_record_decode_key(value.data, value.len, &record) ||
        key.len != strlen(record.key.name) || memcmp(key.data, record.key.name, key.len) != 0) {
        finding(w, "the record of a key cannot be read");
        return 0;
    }
    lorica_record_key_digest(&record.secret, &secret);
    int rc =
        lorica_store_get(w->txn, LORICA_TABLE_SECRET, lorica_slice_key(&secret), &found, w->err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    if (rc || lorica_record_decode_name(found.data, found.len, name) ||
        strcmp(name, record.key.name) != 0)
        finding(w, "key %s is not found by its secret", record.key.name);
    return 0;
}

/* Pieces: each belongs to content, or to an upload that goes on right now. One step per content. */

static int check_owner(struct walk *w, const uint8_t digest[32], struct lorica_cursor *cursor,
                       struct lorica_slice *key) {
    struct content *content = find_content(w, digest);
    struct lorica_record_key at;
    struct lorica_slice value;
    struct lorica_digest owner;
    memcpy(owner.bytes, digest, 32);
    if (!content) {
        lorica_record_key_digest(&owner, &at);
        int rc =
            lorica_store_get(w->txn, LORICA_TABLE_STAGED, lorica_slice_key(&at), &value, w->err);
        if (rc && rc != LORICA_ENOTFOUND)
            return rc;
        if (rc)
            finding(w, "pieces of content %s belong to nothing",
                    lorica_digest_format(&owner, (char[LORICA_DIGEST_TEXT]){0}));
    } else {
        lorica_record_key_chunk(&owner, lorica_blob_chunks(content->nbytes), &at);
        int rc = lorica_cursor_seek(cursor, lorica_slice_key(&at), key, &value, w->err);
        if (rc)
            return rc;
        if (key->len == at.len && memcmp(key->data, digest, 32) == 0)
            finding(w, "content %s has more pieces than its size says",
                    lorica_digest_format(&owner, (char[LORICA_DIGEST_TEXT]){0}));
    }
    lorica_record_key_chunk(&owner, UINT32_MAX, &at);
    int rc = lorica_cursor_seek(cursor, lorica_slice_key(&at), key, &value, w->err);
    if (!rc && key->len == at.len && memcmp(key->data, at.bytes, at.len) == 0)
        rc = lorica_cursor_next(cursor, key, &value, w->err);
    return rc;
}

static int check_pieces(struct walk *w) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_slice key, value;
    int rc = lorica_store_walk(w->txn, LORICA_TABLE_CHUNK, &cursor, w->err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, w->err);
    while (!rc) {
        uint8_t digest[32];
        if (key.len != 36) {
            finding(w, "a piece of content has a malformed key");
            rc = lorica_cursor_next(cursor, &key, &value, w->err);
            continue;
        }
        memcpy(digest, key.data, 32);
        rc = check_owner(w, digest, cursor, &key);
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int walk_records(struct walk *w) {
    struct chain chain = {.known = true};
    struct numbering numbering = {0};
    uint64_t keys = 0;
    size_t room = 0;
    int rc = walk_table(w, LORICA_TABLE_BLOB, add_content, &room);
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_AUDIT, check_link, &chain);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_HISTORY, w->adapter_records, "entries of history");
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_VERSION, check_version, &numbering);
    if (!rc)
        rc = end_name(w, &numbering);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_VERSION, w->publishes, "versions");
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_IDENTITY, numbering.live, "identities");
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_ADAPTER, numbering.names, "adapters");
    if (!rc)
        rc = lorica_verify_tombstones(w);
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_CHANNEL, check_channel, NULL);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_CHANNEL, w->first_moves, "channels");
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_SPLIT, check_split, NULL);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_SPLIT, w->first_splits, "splits");
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_POLICY, check_policy, NULL);
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_CHECKS, check_checks, NULL);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_POLICY, w->first_policies, "policies");
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_APPROVAL, check_approval, NULL);
    if (!rc)
        rc = lorica_verify_signatures(w);
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_KEY, check_secret, NULL);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_KEY, w->key_creates, "keys");
    if (!rc)
        rc = lorica_store_count(w->txn, LORICA_TABLE_KEY, &keys, w->err);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_SECRET, keys, "secrets");
    return rc ? rc : check_pieces(w);
}

static int walk_content(struct walk *w) {
    for (size_t i = 0; i < w->content_count; i++) {
        const struct content *content = &w->contents[i];
        struct lorica_error inner = {0};
        char text[LORICA_DIGEST_TEXT];
        int rc = lorica_blob_read(w->registry->store, &content->digest, content->nbytes, NULL, NULL,
                                  &inner);
        if (rc == LORICA_EFORMAT && lorica_blob_gone(w->registry->store, &content->digest))
            continue; /* swept since the records were walked */
        if (rc == LORICA_EFORMAT)
            finding(w, "content %s is damaged", lorica_digest_format(&content->digest, text));
        else if (rc)
            return note(w, rc, &inner);
        if (!content->used)
            finding(w, "content %s belongs to no version",
                    lorica_digest_format(&content->digest, text));
    }
    return 0;
}

int lorica_registry_verify(struct lorica_registry *registry, struct lorica_buf *report,
                           uint64_t *ret_findings, struct lorica_error *err) {
    struct lorica_error own;
    struct walk w = {.registry = registry, .report = report, .err = err ? err : &own};
    int rc = lorica_store_begin(registry->store, false, &w.txn, w.err);
    if (!rc)
        rc = walk_records(&w);
    lorica_store_abort(w.txn);
    if (rc == LORICA_EFORMAT) {
        finding(&w, "%s", w.err->text); /* the store itself: no further walk means anything */
        rc = 0;
    } else if (!rc) {
        rc = walk_content(&w);
    }
    free(w.contents);
    if (rc)
        return rc;
    *ret_findings = w.findings;
    return 0;
}
