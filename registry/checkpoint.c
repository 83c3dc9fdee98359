/* SPDX-License-Identifier: MIT */
#include "registry/checkpoint.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/envelope.h"
#include "proto/json.h"
#include "registry/snapshot.h"

#define FORMAT 1

/* Taking. */

static uint64_t step_for(uint64_t seq) {
    uint64_t step = 1;
    while (seq / step > LORICA_CHECKPOINT_TRAIL)
        step *= 2;
    return step;
}

static int take_inside(struct lorica_txn *txn, struct lorica_checkpoint *ret,
                       struct lorica_error *err) {
    struct lorica_audit audit;
    int rc = lorica_audit_last(txn, &audit, err);
    *ret = (struct lorica_checkpoint){.time_ms = lorica_now_ms(), .step = 1};
    if (rc || audit.seq == 0)
        return rc;
    ret->seq = audit.seq;
    ret->hash = audit.hash;
    ret->step = step_for(audit.seq);
    ret->count = (size_t)(audit.seq / ret->step);
    rc = lorica_audit_get(txn, 1, &audit, err);
    ret->id = audit.hash;
    for (size_t i = 0; !rc && i < ret->count; i++) {
        rc = lorica_audit_get(txn, (i + 1) * ret->step, &audit, err);
        ret->trail[i] = audit.hash;
    }
    return rc;
}

int lorica_checkpoint_take(struct lorica_registry *registry, struct lorica_checkpoint *ret,
                           struct lorica_error *err) {
    struct lorica_txn *txn = NULL;
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = take_inside(txn, ret, err);
    lorica_store_abort(txn);
    return rc;
}

/* As JSON. */

void lorica_checkpoint_write(struct lorica_buf *out, const struct lorica_checkpoint *checkpoint) {
    char text[LORICA_DIGEST_TEXT];
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "audit.checkpoint");
    lorica_jsonw_integer(&w, "format", FORMAT);
    lorica_jsonw_string(&w, "registry", lorica_digest_format(&checkpoint->id, text));
    lorica_jsonw_integer(&w, "seq", (int64_t)checkpoint->seq);
    lorica_jsonw_string(&w, "hash", lorica_digest_format(&checkpoint->hash, text));
    lorica_jsonw_integer(&w, "time", checkpoint->time_ms / 1000);
    lorica_jsonw_object(&w, "trail");
    lorica_jsonw_integer(&w, "step", (int64_t)checkpoint->step);
    lorica_jsonw_array(&w, "hashes");
    for (size_t i = 0; i < checkpoint->count; i++)
        lorica_jsonw_string(&w, NULL, lorica_digest_format(&checkpoint->trail[i], text));
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_object(&w);
}

static bool read_digest(const struct lorica_json *value, struct lorica_digest *ret) {
    const char *text = lorica_json_string(value);
    return text && lorica_digest_parse(text, strlen(text), ret) == 0;
}

static bool read_number(const struct lorica_json *object, const char *key, int64_t max,
                        int64_t *ret) {
    return lorica_json_integer(lorica_json_get(object, key), 0, max, ret) == 0;
}

static bool read_trail(const struct lorica_json *trail, struct lorica_checkpoint *ret) {
    const struct lorica_json *hashes = lorica_json_get(trail, "hashes");
    int64_t step = 0;
    if (!read_number(trail, "step", (int64_t)1 << 53, &step) ||
        (uint64_t)step != step_for(ret->seq) || lorica_json_type(hashes) != LORICA_JSON_ARRAY ||
        lorica_json_count(hashes) != ret->seq / (uint64_t)step)
        return false;
    ret->step = (uint64_t)step;
    for (const struct lorica_json *v = lorica_json_first(hashes); v; v = lorica_json_next(v))
        if (!read_digest(v, &ret->trail[ret->count++]))
            return false;
    return true;
}

static int read_members(const struct lorica_json *root, struct lorica_checkpoint *ret,
                        struct lorica_error *err) {
    const char *object = lorica_json_string(lorica_json_get(root, "object"));
    int64_t format = 0, seq = 0, seconds = 0;
    if (!object || strcmp(object, "audit.checkpoint") != 0)
        return lorica_fail(err, LORICA_EFORMAT, "this is no checkpoint of an audit chain");
    if (read_number(root, "format", INT32_MAX, &format) && format > FORMAT)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "this checkpoint was made by a newer lorica than %s; use that one",
                           LORICA_VERSION);
    *ret = (struct lorica_checkpoint){.step = 1};
    bool fine = format == FORMAT && read_number(root, "seq", (int64_t)1 << 53, &seq) &&
                read_number(root, "time", (int64_t)1 << 40, &seconds) &&
                read_digest(lorica_json_get(root, "registry"), &ret->id) &&
                read_digest(lorica_json_get(root, "hash"), &ret->hash);
    ret->seq = (uint64_t)seq;
    ret->time_ms = seconds * 1000;
    fine = fine && read_trail(lorica_json_get(root, "trail"), ret);
    return fine ? 0 : lorica_fail(err, LORICA_EFORMAT, "this checkpoint is damaged; take another");
}

int lorica_checkpoint_parse(const char *text, size_t len, struct lorica_checkpoint *ret,
                            struct lorica_error *err) {
    struct lorica_json *root = NULL;
    if (len > LORICA_CHECKPOINT_BYTES_MAX)
        return lorica_fail(err, LORICA_EFORMAT, "this is no checkpoint: it is too long");
    int rc = lorica_json_parse(text, len, &root, err);
    if (rc)
        return rc == LORICA_ENOMEM ? rc : lorica_fail_prefix(err, "this is no checkpoint");
    rc = read_members(root, ret, err);
    lorica_json_destroy(root);
    return rc;
}

/* Signed. */

int lorica_checkpoint_sign(struct lorica_buf *out, const struct lorica_checkpoint *checkpoint,
                           const struct lorica_signkey *key, struct lorica_error *err) {
    struct lorica_envelope envelope = {0};
    struct lorica_buf json;
    struct lorica_jsonw w = {.out = out};
    lorica_buf_init(&json, LORICA_CHECKPOINT_BYTES_MAX);
    lorica_checkpoint_write(&json, checkpoint);
    int rc = lorica_buf_status(&json);
    if (rc)
        rc = lorica_fail(err, rc, "a checkpoint cannot be written");
    if (!rc)
        rc = lorica_signkey_sign(key, LORICA_PAYLOAD_CHECKPOINT, json.data, json.len, true,
                                 &envelope, err);
    if (!rc)
        lorica_envelope_write(&w, NULL, &envelope);
    lorica_envelope_finish(&envelope);
    lorica_buf_finish(&json);
    return rc;
}

static int open_envelope(const struct lorica_envelope *envelope, const struct lorica_signkey *key,
                         struct lorica_checkpoint *ret, struct lorica_digest *ret_signer,
                         struct lorica_error *err) {
    struct lorica_signkey *carried = NULL;
    int rc = 0;
    if (strcmp(envelope->payload_type, LORICA_PAYLOAD_CHECKPOINT) != 0)
        return lorica_fail(err, LORICA_EFORMAT, "this is no checkpoint: it is \"%.80s\"",
                           envelope->payload_type);
    if (!key && !envelope->public_key)
        return lorica_fail(err, LORICA_ESIGNATURE,
                           "the checkpoint does not carry the key that signed it; name the key");
    if (!key)
        rc = lorica_signkey_public(envelope->public_key, strlen(envelope->public_key), &carried,
                                   err);
    const struct lorica_signkey *signer = key ? key : carried;
    if (!rc)
        rc = lorica_signkey_verify(signer, envelope, err);
    if (!rc)
        rc = lorica_checkpoint_parse((const char *)envelope->payload, envelope->payload_len, ret,
                                     err);
    if (!rc)
        *ret_signer = *lorica_signkey_id(signer);
    lorica_signkey_destroy(carried);
    return rc;
}

int lorica_checkpoint_open(const char *text, size_t len, const struct lorica_signkey *key,
                           struct lorica_checkpoint *ret, struct lorica_digest *ret_signer,
                           struct lorica_error *err) {
    struct lorica_envelope envelope = {0};
    struct lorica_json *root = NULL;
    if (len > LORICA_ENVELOPE_MAX)
        return lorica_fail(err, LORICA_EFORMAT, "this is no checkpoint: it is too long");
    int rc = lorica_json_parse(text, len, &root, err);
    if (rc)
        return rc == LORICA_ENOMEM ? rc : lorica_fail_prefix(err, "this is no checkpoint");
    if (lorica_json_get(root, "payload")) {
        rc = lorica_envelope_read(root, &envelope, err);
        if (!rc)
            rc = open_envelope(&envelope, key, ret, ret_signer, err);
        lorica_envelope_finish(&envelope);
    } else if (key) {
        rc = lorica_fail(err, LORICA_ESIGNATURE, "the checkpoint is not signed");
    } else {
        *ret_signer = (struct lorica_digest){{0}};
        rc = lorica_checkpoint_parse(text, len, ret, err);
    }
    lorica_json_destroy(root);
    return rc;
}

/* Holding a chain against one: records come in order. */

struct judge {
    const struct lorica_checkpoint *checkpoint; /* NULL: none */
    uint64_t last;                              /* record that came last */
    uint64_t good, bad; /* last one before `bad` that agrees; first one that does not; 0: none */
};

static void compare(struct judge *judge, uint64_t seq, const struct lorica_digest *ours,
                    const struct lorica_digest *theirs) {
    if (lorica_digest_equal(ours, theirs)) {
        if (!judge->bad && seq > judge->good)
            judge->good = seq;
    } else if (!judge->bad) {
        judge->bad = seq;
    }
}

static void judge_record(struct judge *judge, uint64_t seq, const struct lorica_digest *hash) {
    const struct lorica_checkpoint *c = judge->checkpoint;
    judge->last = seq;
    if (!c || seq > c->seq)
        return;
    if (seq == 1)
        compare(judge, seq, hash, &c->id);
    if (seq % c->step == 0 && seq / c->step <= c->count)
        compare(judge, seq, hash, &c->trail[seq / c->step - 1]);
    if (seq == c->seq)
        compare(judge, seq, hash, &c->hash);
}

LORICA_PRINTF(3, 4)
static void say(struct lorica_buf *report, uint64_t *findings, const char *fmt, ...) {
    char text[300];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    lorica_buf_printf(report, "%s\n", text);
    (*findings)++;
}

static void judge_end(const struct judge *judge, struct lorica_buf *report, uint64_t *findings) {
    const struct lorica_checkpoint *c = judge->checkpoint;
    if (!c || c->seq == 0)
        return;
    if (judge->bad == 1)
        say(report, findings,
            "the audit chain is not the checkpoint's from its first record on: this is another "
            "registry, or its whole history was written anew");
    else if (judge->bad && judge->bad == judge->good + 1)
        say(report, findings,
            "the history was rewritten: audit record %" PRIu64
            " is not the one that the checkpoint holds, those before it are",
            judge->bad);
    else if (judge->bad)
        say(report, findings,
            "the history was rewritten: the first audit record that is not the checkpoint's is "
            "between %" PRIu64 " and %" PRIu64,
            judge->good + 1, judge->bad);
    if (judge->last < c->seq)
        say(report, findings,
            "the audit chain ends with record %" PRIu64 ", before record %" PRIu64
            " of the checkpoint: what came after it is gone",
            judge->last, c->seq);
}

static int check_inside(struct lorica_txn *txn, struct judge *judge, struct lorica_error *err) {
    const struct lorica_checkpoint *c = judge->checkpoint;
    struct lorica_audit audit;
    int rc = lorica_audit_last(txn, &audit, err);
    const uint64_t last = audit.seq;
    for (uint64_t seq = 1; !rc && seq <= c->seq && seq <= last;) {
        rc = lorica_audit_get(txn, seq, &audit, err);
        if (!rc)
            judge_record(judge, seq, &audit.hash);
        const uint64_t next = (seq / c->step + 1) * c->step;
        seq = next > c->seq && seq < c->seq ? c->seq : next;
    }
    judge->last = last;
    return rc;
}

int lorica_checkpoint_check(struct lorica_registry *registry,
                            const struct lorica_checkpoint *checkpoint, struct lorica_buf *report,
                            uint64_t *findings, struct lorica_error *err) {
    struct judge judge = {.checkpoint = checkpoint};
    struct lorica_txn *txn = NULL;
    int rc = lorica_store_begin(registry->store, false, &txn, err);
    if (!rc)
        rc = check_inside(txn, &judge, err);
    lorica_store_abort(txn);
    if (!rc)
        judge_end(&judge, report, findings);
    return rc;
}

/* A walk of a snapshot's chain. */
struct walk {
    struct judge judge;
    struct lorica_digest previous;
    struct lorica_buf *report;
    uint64_t *findings;
};

static int walk_record(void *arg, const struct lorica_snapshot_record *record,
                       struct lorica_error *err) {
    struct walk *walk = arg;
    struct lorica_audit audit;
    struct lorica_digest hash;
    const uint64_t seq = walk->judge.last + 1;
    if (record->table != LORICA_TABLE_AUDIT)
        return 0;
    if (lorica_record_decode_audit(record->value.data, record->value.len, &audit) ||
        audit.seq != seq)
        return lorica_fail(err, LORICA_EFORMAT,
                           "audit record %" PRIu64 " of the backup is missing or cannot be read",
                           seq);
    if (lorica_audit_hash(&audit, &walk->previous, &hash))
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (!lorica_digest_equal(&hash, &audit.hash))
        say(walk->report, walk->findings,
            "audit record %" PRIu64 " does not follow from the one before", seq);
    walk->previous = audit.hash;
    judge_record(&walk->judge, seq, &audit.hash);
    return 0;
}

int lorica_checkpoint_check_backup(const char *from, const struct lorica_checkpoint *checkpoint,
                                   struct lorica_buf *report, uint64_t *findings,
                                   struct lorica_error *err) {
    struct lorica_snapshot_head head = {0};
    struct walk walk = {
        .judge = {.checkpoint = checkpoint}, .report = report, .findings = findings};
    struct lorica_backup_place *place = calloc(1, sizeof(*place));
    if (!place)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = lorica_backup_find(from, place, err);
    if (!rc)
        rc = lorica_snapshot_read_path(place->snapshot, &head, walk_record, &walk, err);
    if (!rc)
        judge_end(&walk.judge, report, findings);
    explicit_bzero(&head, sizeof(head));
    free(place);
    return rc;
}
