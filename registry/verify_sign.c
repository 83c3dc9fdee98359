/* SPDX-License-Identifier: MIT
 * The walk of signers and signatures. Every signature is checked again, with the key that it was
 * checked with when it came. */
#include <string.h>

#include "registry/digest.h"
#include "registry/sign.h"
#include "registry/verify.h"

int lorica_verify_signer_event(struct walk *w, const struct lorica_audit *audit) {
    struct lorica_signer_record record;
    struct lorica_error inner = {0};
    struct lorica_digest id;
    const bool adds = audit->kind == LORICA_AUDIT_SIGNER_ADD;
    w->signer_adds += adds;
    int rc = lorica_signer_get(w->txn, audit->name, &record, &inner);
    if (rc == LORICA_ENOTFOUND) {
        finding(w, "signer %s of audit record %" PRIu64 " is gone", audit->name, audit->seq);
        return 0;
    }
    if (rc)
        return note(w, rc, &inner);
    if (lorica_sha256(record.public_pem, strlen(record.public_pem), &id))
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    if (!lorica_digest_equal(&id, &audit->digest) ||
        audit->seq != (adds ? record.seq : record.removed_seq))
        finding(w, "signer %s is not as audit record %" PRIu64 " made it", audit->name, audit->seq);
    return 0;
}

/* A signer whose removal no record says. */
static int check_signer(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                        void *state) {
    struct lorica_signer_record record;
    struct lorica_error inner = {0};
    struct lorica_audit audit;
    if (key.len > LORICA_NAME_MAX || lorica_record_decode_signer(value.data, value.len, &record)) {
        finding(w, "a signer cannot be read");
        return 0;
    }
    int rc = lorica_audit_get(w->txn, record.removed_seq ? record.removed_seq : record.seq, &audit,
                              &inner);
    if (rc)
        return note(w, rc, &inner);
    if (audit.kind != (record.removed_seq ? LORICA_AUDIT_SIGNER_REMOVE : LORICA_AUDIT_SIGNER_ADD) ||
        strlen(audit.name) != key.len || memcmp(audit.name, key.data, key.len) != 0)
        finding(w, "signer %.*s is not as the chain says", (int)key.len, (const char *)key.data);
    return 0;
}

static int check_again(struct walk *w, const struct lorica_version *version,
                       const struct lorica_digest *key_id,
                       const struct lorica_signature_record *record) {
    struct lorica_signature_facts facts;
    struct lorica_error inner = {0};
    const int rc = lorica_signature_check(w->txn, version, record->text, record->text_len, true,
                                          &facts, &inner);
    if (rc == LORICA_ESIGNATURE) {
        finding(w, "%s@%" PRIu64 ": %s", version->name, version->version, inner.text);
        return 0;
    }
    if (rc)
        return note(w, rc, &inner);
    if (facts.form != record->form || facts.bound != record->bound ||
        !lorica_digest_equal(&facts.key_id, key_id))
        finding(w, "%s@%" PRIu64 ": a signature is stored for what it is not", version->name,
                version->version);
    return 0;
}

static int check_signature(struct walk *w, struct lorica_slice key, struct lorica_slice value,
                           void *state) {
    char name[LORICA_NAME_MAX + 1];
    struct lorica_signature_record record;
    struct lorica_version version;
    struct lorica_error inner = {0};
    struct lorica_audit audit;
    struct lorica_digest id, digest;
    uint64_t number;
    if (!lorica_record_key_split_signature(key.data, key.len, name, &number, &id) ||
        lorica_record_decode_signature(value.data, value.len, &record)) {
        finding(w, "a signature cannot be read");
        return 0;
    }
    int rc = lorica_audit_get(w->txn, record.seq, &audit, &inner);
    if (rc)
        return note(w, rc, &inner);
    if (lorica_sha256(record.text, record.text_len, &digest))
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    if (audit.kind != LORICA_AUDIT_SIGN || strcmp(audit.name, name) != 0 ||
        audit.version != number || !lorica_digest_equal(&audit.digest, &digest))
        finding(w, "a signature of %s@%" PRIu64 " is not as audit record %" PRIu64 " made it", name,
                number, record.seq);
    rc = lorica_version_get(w->txn, name, number, &version, &inner);
    if (rc == LORICA_ENOTFOUND) {
        finding(w, "%s@%" PRIu64 ", which is signed, is gone", name, number);
        return 0;
    }
    return rc ? note(w, rc, &inner) : check_again(w, &version, &id, &record);
}

int lorica_verify_signatures(struct walk *w) {
    int rc = walk_table(w, LORICA_TABLE_SIGNER, check_signer, NULL);
    if (!rc)
        rc = expect_count(w, LORICA_TABLE_SIGNER, w->signer_adds, "signers");
    if (!rc)
        rc = walk_table(w, LORICA_TABLE_SIGNATURE, check_signature, NULL);
    return rc ? rc : expect_count(w, LORICA_TABLE_SIGNATURE, w->signs, "signatures");
}
