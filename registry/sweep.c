/* SPDX-License-Identifier: MIT
 * The sweep: which tombstones are old enough, what of their content nothing else uses, and its
 * removal. Whether content is used is asked of the versions themselves, all of them, once for each
 * step: there is no count beside them that could be wrong. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "registry/internal.h"
#include "registry/retire.h"

#define STEP_VERSIONS 64
#define STEP_CHUNKS (4 * LORICA_BATCH_CHUNKS) /* of content that goes within the step */
#define PARTS 4                               /* config, canonical form, weights, manifest */
#define DAY_MS INT64_C(86400000)
#define DETAIL_ROOM 100 /* for what stands in a detail behind the versions */

/* A tombstone whose time is over. */
struct due {
    char name[LORICA_NAME_MAX + 1];
    uint64_t number, seq;
    uint64_t contents, bytes; /* that went with it */
};

/* Content of such a one. */
struct claim {
    struct lorica_digest digest;
    uint64_t nbytes;
    struct due *due; /* the first that has it */
    bool used;       /* another version has it too */
};

struct step {
    struct lorica_txn *txn;
    struct lorica_error *err;
    int64_t now_ms;
    struct due dues[STEP_VERSIONS];
    size_t due_count;
    struct claim claims[STEP_VERSIONS * PARTS]; /* in order of digests */
    size_t claim_count;
    uint64_t chunks; /* of the content so far, as far as it would go within the step */
    bool full;
    /* the retention of the name that was looked up last */
    char name[LORICA_NAME_MAX + 1];
    int64_t retention_ms;
};

/* The content of a version; a manifest that it has not is left out. Returns the count. */
static size_t parts_of(const struct lorica_version *v, struct claim ret[PARTS]) {
    const struct claim parts[PARTS] = {
        {.digest = v->config_digest, .nbytes = v->config_nbytes},
        {.digest = v->canonical_digest, .nbytes = v->canonical_nbytes},
        {.digest = v->weights_digest, .nbytes = v->weights_nbytes},
        {.digest = v->manifest_digest, .nbytes = v->manifest_nbytes},
    };
    memcpy(ret, parts, sizeof(parts));
    return v->manifest_nbytes ? PARTS : PARTS - 1;
}

static int compare_claims(const void *a, const void *b) {
    return memcmp(((const struct claim *)a)->digest.bytes, ((const struct claim *)b)->digest.bytes,
                  sizeof(((const struct claim *)a)->digest.bytes));
}

static struct claim *find_claim(struct step *s, const struct claim *like) {
    return bsearch(like, s->claims, s->claim_count, sizeof(*s->claims), compare_claims);
}

static struct due *find_due(struct step *s, const char *name, uint64_t number) {
    for (size_t i = 0; i < s->due_count; i++)
        if (s->dues[i].number == number && strcmp(s->dues[i].name, name) == 0)
            return &s->dues[i];
    return NULL;
}

static int is_due(struct step *s, const char *name, uint64_t seq, bool *ret) {
    struct lorica_retention_record retention = {.days = LORICA_RETENTION_DAYS};
    struct lorica_audit audit;
    int rc = lorica_audit_get(s->txn, seq, &audit, s->err);
    if (rc)
        return rc;
    if (strcmp(name, s->name) != 0) {
        rc = lorica_retention_get(s->txn, name, &retention, s->err);
        if (rc && rc != LORICA_ENOTFOUND)
            return rc;
        memcpy(s->name, name, strlen(name) + 1);
        s->retention_ms = retention.days * DAY_MS;
    }
    *ret = s->now_ms >= s->retention_ms && audit.time_ms <= s->now_ms - s->retention_ms;
    return 0;
}

/* Adds a tombstone and its content, unless that would be too much for this step. */
static int add_due(struct step *s, const char *name, uint64_t number, uint64_t seq) {
    struct lorica_version version;
    struct claim parts[PARTS];
    uint64_t chunks = 0;
    int rc = lorica_version_get(s->txn, name, number, &version, s->err);
    if (rc == LORICA_ENOTFOUND)
        rc = lorica_damaged(s->err, LORICA_EFORMAT, "%s@%" PRIu64 " is gone", name, number);
    if (rc)
        return rc;
    const size_t count = parts_of(&version, parts);
    for (size_t i = 0; i < count; i++)
        if (lorica_blob_chunks(parts[i].nbytes) <= LORICA_BATCH_CHUNKS)
            chunks += lorica_blob_chunks(parts[i].nbytes);
    s->full = s->due_count == STEP_VERSIONS || (s->due_count && s->chunks + chunks > STEP_CHUNKS);
    if (s->full)
        return 0;
    struct due *due = &s->dues[s->due_count++];
    *due = (struct due){.number = number, .seq = seq};
    memcpy(due->name, name, strlen(name) + 1);
    s->chunks += chunks;
    for (size_t i = 0; i < count; i++) {
        if (find_claim(s, &parts[i]))
            continue;
        parts[i].due = due;
        s->claims[s->claim_count++] = parts[i];
        qsort(s->claims, s->claim_count, sizeof(*s->claims), compare_claims);
    }
    return 0;
}

static int collect_due(struct step *s) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_slice key, value;
    int rc = lorica_store_walk(s->txn, LORICA_TABLE_TOMBSTONE, &cursor, s->err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, s->err);
    while (!rc && !s->full) {
        struct lorica_tombstone_record tombstone;
        char name[LORICA_NAME_MAX + 1];
        uint64_t number = 0;
        bool due = false;
        if (!lorica_record_key_split_numbered(key.data, key.len, name, &number) ||
            (number && lorica_record_decode_tombstone(value.data, value.len, &tombstone)))
            rc = lorica_damaged(s->err, LORICA_EFORMAT, "a tombstone");
        else if (number && !tombstone.swept_seq)
            rc = is_due(s, name, tombstone.seq, &due);
        if (!rc && due)
            rc = add_due(s, name, number, tombstone.seq);
        if (!rc)
            rc = lorica_cursor_next(cursor, &key, &value, s->err);
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

/* True in *ret when a version needs its content: it is neither swept nor about to be. */
static int retains(struct step *s, const char *name, uint64_t number, bool *ret) {
    struct lorica_tombstone_record tombstone;
    *ret = false;
    if (find_due(s, name, number))
        return 0;
    const int rc = lorica_tombstone_get(s->txn, name, number, &tombstone, s->err);
    *ret = rc == LORICA_ENOTFOUND || (!rc && !tombstone.swept_seq);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int mark_version(struct step *s, struct lorica_slice key, struct lorica_slice value) {
    struct lorica_version version;
    struct claim parts[PARTS];
    char name[LORICA_NAME_MAX + 1];
    uint64_t number = 0;
    bool retained = false;
    if (!lorica_record_key_split_numbered(key.data, key.len, name, &number) ||
        lorica_record_decode_version(value.data, value.len, &version))
        return lorica_damaged(s->err, LORICA_EFORMAT, "the record of a version");
    const size_t count = parts_of(&version, parts);
    for (size_t i = 0; i < count; i++) {
        struct claim *claim = find_claim(s, &parts[i]);
        if (!claim || claim->used)
            continue;
        int rc = retained ? 0 : retains(s, name, number, &retained);
        if (rc || !retained)
            return rc;
        claim->used = true;
    }
    return 0;
}

/* Marks the claims that other versions have too. */
static int mark_used(struct step *s) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_slice key, value;
    int rc = lorica_store_walk(s->txn, LORICA_TABLE_VERSION, &cursor, s->err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, s->err);
    while (!rc) {
        rc = mark_version(s, key, value);
        if (!rc)
            rc = lorica_cursor_next(cursor, &key, &value, s->err);
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int remove_unused(struct step *s, struct lorica_sweep *stats) {
    int rc = 0;
    for (size_t i = 0; !rc && i < s->claim_count; i++) {
        struct claim *claim = &s->claims[i];
        bool found = false;
        if (!claim->used)
            rc = lorica_blob_remove(s->txn, &claim->digest, &found, s->err);
        if (rc || !found)
            continue;
        claim->due->contents++;
        claim->due->bytes += claim->nbytes;
        stats->contents++;
        stats->bytes += claim->nbytes;
    }
    return rc;
}

/* Records the sweep of tombstones of one name, from `first` on, as many as its detail can name, and
 * marks them. Returns in *ret_count how many. */
static int record_group(struct step *s, size_t first, const struct lorica_actor *actor,
                        size_t *ret_count) {
    struct lorica_audit audit = {.kind = LORICA_AUDIT_SWEEP};
    uint64_t contents = 0, bytes = 0;
    const size_t room = sizeof(audit.detail) - DETAIL_ROOM;
    size_t count = 0, len = (size_t)snprintf(audit.detail, sizeof(audit.detail), "{\"versions\":[");
    memcpy(audit.name, s->dues[first].name, sizeof(audit.name));
    while (first + count < s->due_count && len < room &&
           strcmp(s->dues[first + count].name, audit.name) == 0) {
        const struct due *due = &s->dues[first + count];
        len += (size_t)snprintf(audit.detail + len, sizeof(audit.detail) - len, "%s%" PRIu64,
                                count ? "," : "", due->number);
        contents += due->contents;
        bytes += due->bytes;
        count++;
    }
    (void)snprintf(audit.detail + len, sizeof(audit.detail) - len,
                   "],\"contents\":%" PRIu64 ",\"bytes\":%" PRIu64 "}", contents, bytes);
    int rc = lorica_audit_append(s->txn, actor, &audit, s->err);
    for (size_t i = first; !rc && i < first + count; i++) {
        const struct lorica_tombstone_record tombstone = {.seq = s->dues[i].seq,
                                                          .swept_seq = audit.seq};
        rc = lorica_tombstone_put(s->txn, audit.name, s->dues[i].number, &tombstone, s->err);
    }
    *ret_count = count;
    return rc;
}

/* All of a step but its end; nothing is due: *ret_changed false. */
static int sweep_inside(struct step *s, const struct lorica_actor *actor,
                        struct lorica_sweep *stats, bool *ret_changed) {
    int rc = collect_due(s);
    *ret_changed = s->due_count > 0;
    if (rc || !s->due_count)
        return rc;
    rc = mark_used(s);
    if (!rc)
        rc = remove_unused(s, stats);
    for (size_t at = 0, count = 0; !rc && at < s->due_count; at += count)
        rc = record_group(s, at, actor, &count);
    stats->versions += s->due_count;
    return rc;
}

static int sweep_due(struct lorica_registry *registry, int64_t now_ms,
                     const struct lorica_actor *actor, struct lorica_sweep *stats, bool *ret_more,
                     struct lorica_error *err) {
    struct lorica_sweep done = {0};
    struct step *s = calloc(1, sizeof(*s));
    bool changed = false;
    if (!s)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    s->err = err;
    s->now_ms = now_ms;
    int rc = lorica_store_begin(registry->store, true, &s->txn, err);
    if (!rc)
        rc = sweep_inside(s, actor, &done, &changed);
    if (!rc && changed)
        rc = lorica_store_commit(s->txn, err);
    else
        lorica_store_abort(s->txn);
    free(s);
    if (rc)
        return rc;
    stats->versions += done.versions;
    stats->contents += done.contents;
    stats->bytes += done.bytes;
    *ret_more = changed;
    return 0;
}

int lorica_registry_sweep_step(struct lorica_registry *registry, int64_t now_ms,
                               const struct lorica_actor *actor, struct lorica_sweep *stats,
                               bool *ret_more, struct lorica_error *err) {
    int rc = lorica_actor_check(actor, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&registry->publishing); /* so that what is staged is left over */
    rc = lorica_blob_sweep_step(registry->store, ret_more, err);
    if (!rc && !*ret_more)
        rc = sweep_due(registry, now_ms, actor, stats, ret_more, err);
    pthread_mutex_unlock(&registry->publishing);
    return rc;
}

int lorica_registry_sweep(struct lorica_registry *registry, int64_t now_ms,
                          const struct lorica_actor *actor, struct lorica_sweep *ret_stats,
                          struct lorica_error *err) {
    bool more = true;
    int rc = 0;
    *ret_stats = (struct lorica_sweep){0};
    while (!rc && more)
        rc = lorica_registry_sweep_step(registry, now_ms, actor, ret_stats, &more, err);
    return rc;
}
