/* SPDX-License-Identifier: MIT */
#include "registry/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "registry/digest.h"

#define FORMAT 1

static const char magic[16] = {'l', 'o', 'r', 'i', 'c', 'a', ' ', 's',
                               'n', 'a', 'p', 's', 'h', 'o', 't', '\n'};

bool lorica_snapshot_holds(enum lorica_table table) {
    return table != LORICA_TABLE_META && table != LORICA_TABLE_CHUNK &&
           table != LORICA_TABLE_STAGED;
}

static void put_uint(uint8_t *out, uint64_t number, size_t nbytes) {
    for (size_t i = 0; i < nbytes; i++)
        out[i] = (uint8_t)(number >> (8 * (nbytes - 1 - i)));
}

static uint64_t get_uint(const uint8_t *bytes, size_t nbytes) {
    uint64_t number = 0;
    for (size_t i = 0; i < nbytes; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* Writing. */

#define PIECE ((size_t)1 << 16) /* given to the sink at once */

struct writer {
    struct lorica_registry *registry;
    struct lorica_txn *txn;
    void *stream;
    lorica_backup_sink sink;
    void *arg;
    struct lorica_error *err;
    size_t len;
    uint8_t bytes[PIECE];
};

static int flush(struct writer *w) {
    if (lorica_sha256_hasher.update(w->stream, w->bytes, w->len))
        return lorica_fail(w->err, LORICA_EBUG, "a snapshot cannot be hashed");
    const int rc = w->sink(w->arg, w->bytes, w->len, w->err);
    w->len = 0;
    return rc;
}

static int put(struct writer *w, const void *bytes, size_t len) {
    const uint8_t *at = bytes;
    while (len > 0) {
        const size_t room = sizeof(w->bytes) - w->len, piece = len < room ? len : room;
        memcpy(w->bytes + w->len, at, piece);
        w->len += piece;
        at += piece;
        len -= piece;
        const int rc = w->len == sizeof(w->bytes) ? flush(w) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

static int put_record(struct writer *w, enum lorica_table table, struct lorica_slice key,
                      struct lorica_slice value) {
    uint8_t head[7];
    if (key.len > LORICA_SNAPSHOT_KEY_MAX || value.len > LORICA_SNAPSHOT_VALUE_MAX)
        return lorica_damaged(w->err, LORICA_EFORMAT, "a record of %zu bytes", value.len);
    put_uint(head, (uint64_t)table + 1, 1);
    put_uint(head + 1, key.len, 2);
    put_uint(head + 3, value.len, 4);
    int rc = put(w, head, sizeof(head));
    if (!rc)
        rc = put(w, key.data, key.len);
    return rc ? rc : put(w, value.data, value.len);
}

typedef int (*step_fn)(struct writer *w, enum lorica_table table, struct lorica_slice key,
                       struct lorica_slice value, void *state);

static int walk(struct writer *w, enum lorica_table table, step_fn step, void *state) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_slice key, value;
    int rc = lorica_store_walk(w->txn, table, &cursor, w->err);
    if (rc)
        return rc;
    rc = lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, w->err);
    while (!rc) {
        rc = step(w, table, key, value, state);
        if (rc)
            break;
        rc = lorica_cursor_next(cursor, &key, &value, w->err);
        if (rc == LORICA_ENOTFOUND) {
            lorica_cursor_close(cursor);
            return 0;
        }
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

static int step_record(struct writer *w, enum lorica_table table, struct lorica_slice key,
                       struct lorica_slice value, void *state) {
    return put_record(w, table, key, value);
}

static int step_size(struct writer *w, enum lorica_table table, struct lorica_slice key,
                     struct lorica_slice value, void *state) {
    struct lorica_backup_info *info = state;
    uint64_t nbytes = 0;
    const int rc = lorica_record_decode_number(value.data, value.len, &nbytes);
    if (rc || nbytes > LORICA_WEIGHTS_BYTES_MAX)
        return lorica_damaged(w->err, rc, "the size of content");
    info->blobs++;
    info->blob_nbytes += nbytes;
    return 0;
}

/* Counts what will be written and notes where the chain stands. */
static int survey(struct writer *w, struct lorica_backup_info *info) {
    struct lorica_audit first = {0}, last;
    int rc = lorica_audit_last(w->txn, &last, w->err);
    if (!rc && last.seq)
        rc = lorica_audit_get(w->txn, 1, &first, w->err);
    info->time_ms = lorica_now_ms();
    info->seq = last.seq;
    info->hash = last.hash;
    info->id = first.hash;
    for (int i = 0; !rc && i < LORICA_TABLE_COUNT; i++) {
        uint64_t count = 0;
        if (!lorica_snapshot_holds((enum lorica_table)i))
            continue;
        rc = lorica_store_count(w->txn, (enum lorica_table)i, &count, w->err);
        info->records += count;
    }
    return rc ? rc : walk(w, LORICA_TABLE_BLOB, step_size, info);
}

#define HEAD_BYTES (16 + 4 + 4 + 8 + 8 + 32 + 32 + 8 + 8 + 8 + LORICA_PEPPER_BYTES)

static int put_head(struct writer *w, const struct lorica_backup_info *info) {
    uint8_t head[HEAD_BYTES];
    memcpy(head, magic, 16);
    put_uint(head + 16, FORMAT, 4);
    put_uint(head + 20, LORICA_STORE_SCHEMA, 4);
    put_uint(head + 24, (uint64_t)info->time_ms, 8);
    put_uint(head + 32, info->seq, 8);
    memcpy(head + 40, info->hash.bytes, 32);
    memcpy(head + 72, info->id.bytes, 32);
    put_uint(head + 104, info->blobs, 8);
    put_uint(head + 112, info->blob_nbytes, 8);
    put_uint(head + 120, info->records, 8);
    memcpy(head + 128, w->registry->pepper, LORICA_PEPPER_BYTES);
    const int rc = put(w, head, sizeof(head));
    explicit_bzero(head, sizeof(head));
    return rc;
}

static int write_all(struct writer *w) {
    struct lorica_backup_info info = {0};
    int rc = survey(w, &info);
    if (!rc)
        rc = put_head(w, &info);
    for (int i = 0; !rc && i < LORICA_TABLE_COUNT; i++)
        if (lorica_snapshot_holds((enum lorica_table)i))
            rc = walk(w, (enum lorica_table)i, step_record, NULL);
    if (!rc)
        rc = put(w, "", 1);
    return rc || !w->len ? rc : flush(w);
}

int lorica_backup_snapshot(struct lorica_registry *registry, lorica_backup_sink sink, void *arg,
                           struct lorica_error *err) {
    struct lorica_error own;
    struct lorica_digest digest;
    struct writer *w = malloc(sizeof(*w));
    if (!w)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    *w = (struct writer){.registry = registry, .sink = sink, .arg = arg, .err = err ? err : &own};
    w->stream = lorica_sha256_hasher.create();
    int rc = w->stream ? lorica_store_begin(registry->store, false, &w->txn, w->err)
                       : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (!rc)
        rc = write_all(w);
    lorica_store_abort(w->txn);
    if (w->stream && lorica_sha256_hasher.finish(w->stream, rc ? NULL : &digest) && !rc)
        rc = lorica_fail(err, LORICA_EBUG, "a snapshot cannot be hashed");
    if (!rc)
        rc = sink(arg, digest.bytes, sizeof(digest.bytes), w->err);
    explicit_bzero(w, sizeof(*w)); /* the pepper went through it */
    free(w);
    return rc;
}

/* Reading. */

struct reader {
    FILE *file;
    const char *path;
    void *stream;
    struct lorica_error *err;
    uint8_t *key, *last_key, *value; /* owned */
    size_t last_len;
    uint64_t records;
};

static int cut_off(const struct reader *r) {
    if (ferror(r->file))
        return lorica_fail(r->err, LORICA_EIO, "%s: cannot be read", r->path);
    return lorica_fail(r->err, LORICA_EFORMAT,
                       "%s: this backup is not whole: it ends too early; take another", r->path);
}

static int wrong(const struct reader *r, const char *what) {
    return lorica_fail(r->err, LORICA_EFORMAT, "%s: this backup is damaged: %s; take another",
                       r->path, what);
}

static int get(struct reader *r, void *out, size_t len) {
    if (fread(out, 1, len, r->file) != len)
        return cut_off(r);
    if (lorica_sha256_hasher.update(r->stream, out, len))
        return lorica_fail(r->err, LORICA_EBUG, "%s: cannot be hashed", r->path);
    return 0;
}

static int get_head(struct reader *r, struct lorica_snapshot_head *head) {
    uint8_t bytes[HEAD_BYTES];
    struct lorica_backup_info *info = &head->info;
    const int rc = get(r, bytes, sizeof(bytes));
    if (rc)
        return rc;
    if (memcmp(bytes, magic, sizeof(magic)) != 0)
        return lorica_fail(r->err, LORICA_EFORMAT, "%s is no snapshot of a registry", r->path);
    if (get_uint(bytes + 16, 4) > FORMAT || get_uint(bytes + 20, 4) > LORICA_STORE_SCHEMA)
        return lorica_fail(r->err, LORICA_EUNSUPPORTED,
                           "%s: this backup was written by a newer lorica than %s; use that one",
                           r->path, LORICA_VERSION);
    const uint64_t time = get_uint(bytes + 24, 8);
    memset(head, 0, sizeof(*head));
    memcpy(&info->time_ms, &time, 8);
    info->seq = get_uint(bytes + 32, 8);
    memcpy(info->hash.bytes, bytes + 40, 32);
    memcpy(info->id.bytes, bytes + 72, 32);
    info->blobs = get_uint(bytes + 104, 8);
    info->blob_nbytes = get_uint(bytes + 112, 8);
    info->records = get_uint(bytes + 120, 8);
    memcpy(head->pepper, bytes + 128, LORICA_PEPPER_BYTES);
    explicit_bzero(bytes, sizeof(bytes));
    return 0;
}

/* Keys ascend within a table: so no record stands there twice. */
static int check_order(const struct reader *r, size_t key_len) {
    const size_t both = key_len < r->last_len ? key_len : r->last_len;
    const int order = memcmp(r->key, r->last_key, both);
    return order < 0 || (order == 0 && key_len <= r->last_len)
               ? wrong(r, "its records are out of order")
               : 0;
}

/* The next record, or *ret_end. */
static int get_record(struct reader *r, enum lorica_table *table,
                      struct lorica_snapshot_record *record, bool *ret_end) {
    uint8_t tag, sizes[6];
    int rc = get(r, &tag, 1);
    *ret_end = !rc && tag == 0;
    if (rc || *ret_end)
        return rc;
    rc = get(r, sizes, sizeof(sizes));
    if (rc)
        return rc;
    const size_t key_len = (size_t)get_uint(sizes, 2), value_len = (size_t)get_uint(sizes + 2, 4);
    const enum lorica_table found = (enum lorica_table)(tag - 1);
    if (tag > LORICA_TABLE_COUNT || !lorica_snapshot_holds(found) || found < *table ||
        key_len == 0 || key_len > LORICA_SNAPSHOT_KEY_MAX || value_len > LORICA_SNAPSHOT_VALUE_MAX)
        return wrong(r, "a record cannot be");
    rc = get(r, r->key, key_len);
    if (!rc && found == *table)
        rc = check_order(r, key_len);
    if (!rc)
        rc = get(r, r->value, value_len);
    if (rc)
        return rc;
    memcpy(r->last_key, r->key, key_len);
    r->last_len = key_len;
    r->records++;
    *table = found;
    *record = (struct lorica_snapshot_record){
        .table = found, .key = {r->key, key_len}, .value = {r->value, value_len}};
    return 0;
}

static int read_all(struct reader *r, struct lorica_snapshot_head *head, lorica_snapshot_fn fn,
                    void *arg) {
    enum lorica_table table = LORICA_TABLE_META; /* holds none: the first record opens its table */
    bool end = false;
    int rc = get_head(r, head);
    while (!rc && !end) {
        struct lorica_snapshot_record record;
        rc = get_record(r, &table, &record, &end);
        if (!rc && !end && fn)
            rc = fn(arg, &record, r->err);
    }
    if (!rc && r->records != head->info.records)
        rc = wrong(r, "it does not hold as many records as it says");
    return rc;
}

int lorica_snapshot_read(FILE *file, const char *path, struct lorica_snapshot_head *ret,
                         lorica_snapshot_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_error own;
    struct lorica_snapshot_head head = {0};
    struct lorica_digest digest, expected;
    struct reader r = {.file = file, .path = path, .err = err ? err : &own};
    uint8_t *room = malloc(2 * LORICA_SNAPSHOT_KEY_MAX + LORICA_SNAPSHOT_VALUE_MAX);
    r.stream = room ? lorica_sha256_hasher.create() : NULL;
    if (!r.stream) {
        free(room);
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", path);
    }
    r.key = room;
    r.last_key = room + LORICA_SNAPSHOT_KEY_MAX;
    r.value = room + 2 * LORICA_SNAPSHOT_KEY_MAX;
    rewind(file);
    int rc = read_all(&r, &head, fn, arg);
    if (lorica_sha256_hasher.finish(r.stream, rc ? NULL : &digest) && !rc)
        rc = lorica_fail(err, LORICA_EBUG, "%s: cannot be hashed", path);
    if (!rc && fread(expected.bytes, 1, sizeof(expected.bytes), file) != sizeof(expected.bytes))
        rc = cut_off(&r);
    if (!rc && !lorica_digest_equal(&digest, &expected))
        rc = wrong(&r, "it does not have its digest");
    if (!rc && fgetc(file) != EOF)
        rc = wrong(&r, "something stands behind its end");
    free(room);
    if (!rc)
        *ret = head;
    explicit_bzero(&head, sizeof(head));
    return rc;
}
