/* SPDX-License-Identifier: MIT
 * Signatures of versions: judged, stored, counted. */
#include "registry/sign.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "proto/model_signing.h"
#include "proto/statement.h"
#include "registry/digest.h"
#include "registry/internal.h"

const char *lorica_signature_form_name(enum lorica_signature_form form) {
    return form == LORICA_SIGNATURE_STATEMENT ? "statement" : "bundle";
}

/* Judging. What is wrong with the text itself is a signature that does not hold, too. */

static int not_held(struct lorica_error *err, int rc, const struct lorica_error *inner) {
    if (rc != LORICA_EFORMAT && rc != LORICA_EUNSUPPORTED && rc != LORICA_ELIMIT &&
        rc != LORICA_ESIGNATURE)
        return lorica_fail(err, rc, "%s", inner->text);
    return lorica_fail(err, LORICA_ESIGNATURE, "the signature: %.400s", inner->text);
}

/* The version's own statement, "created" aside. */
static void statement_of(const struct lorica_version *version, struct lorica_statement *ret) {
    *ret = (struct lorica_statement){.digest = version->digest,
                                     .base_digest = version->base_digest,
                                     .config_digest = version->config_digest,
                                     .weights_digest = version->weights_digest,
                                     .has_manifest = version->manifest_nbytes > 0,
                                     .manifest_digest = version->manifest_digest};
    memcpy(ret->name, version->name, sizeof(ret->name));
}

static int check_statement(const struct lorica_version *version,
                           const struct lorica_envelope *envelope, struct lorica_digest *ret_key_id,
                           struct lorica_error *err) {
    struct lorica_statement said, is;
    struct lorica_signkey *key = NULL;
    if (strcmp(envelope->payload_type, LORICA_PAYLOAD_STATEMENT) != 0)
        return lorica_fail(err, LORICA_ESIGNATURE,
                           "its payload is \"%.80s\", not " LORICA_PAYLOAD_STATEMENT,
                           envelope->payload_type);
    if (!envelope->public_key)
        return lorica_fail(err, LORICA_ESIGNATURE, "it does not carry its public key");
    int rc = lorica_signkey_public(envelope->public_key, strlen(envelope->public_key), &key, err);
    if (rc)
        return rc;
    if (!lorica_signkey_is_ed25519(key))
        rc = lorica_fail(err, LORICA_ESIGNATURE, "a statement is signed with Ed25519, not with %s",
                         lorica_signkey_algorithm(key));
    if (!rc)
        rc = lorica_signkey_verify(key, envelope, err);
    if (!rc)
        rc = lorica_statement_parse((const char *)envelope->payload, envelope->payload_len, &said,
                                    err);
    statement_of(version, &is);
    const char *differs = rc ? NULL : lorica_statement_differ(&said, &is);
    if (differs)
        rc = lorica_fail(err, LORICA_ESIGNATURE,
                         "it was made over another version: its %s is not that of what is here",
                         differs);
    *ret_key_id = *lorica_signkey_id(key);
    lorica_signkey_destroy(key);
    return rc;
}

/* The key that a bundle names, out of the signers. */
static int find_key(struct lorica_txn *txn, const struct lorica_bundle *bundle, bool stored,
                    struct lorica_signkey **ret, struct lorica_error *err) {
    struct lorica_signer_record signer;
    char name[LORICA_NAME_MAX + 1];
    struct lorica_digest id;
    if (!bundle->hint || lorica_keyid_parse(bundle->hint, &id))
        return lorica_fail(err, LORICA_ESIGNATURE, "the bundle does not name its key by its id");
    const int rc = lorica_signer_find(txn, &id, stored, name, &signer, err);
    if (rc == LORICA_ENOTFOUND)
        return lorica_fail(err, LORICA_ESIGNATURE,
                           "the bundle is signed with the key %s, which is not trusted here "
                           "(lorica signer add)",
                           bundle->hint);
    return rc ? rc : lorica_signkey_public(signer.public_pem, strlen(signer.public_pem), ret, err);
}

static int check_file(const struct lorica_model_manifest *manifest, const char *name, bool needed,
                      const struct lorica_digest *digest, struct lorica_error *err) {
    const struct lorica_model_file *file =
        lorica_model_file_find(manifest->files, manifest->file_count, name);
    if (!file && needed)
        return lorica_fail(err, LORICA_ESIGNATURE, "the bundle does not sign %s", name);
    if (file && !lorica_digest_equal(&file->digest, digest))
        return lorica_fail(err, LORICA_ESIGNATURE, "the bundle signs another %s than is here",
                           name);
    return 0;
}

static int check_bundle(struct lorica_txn *txn, const struct lorica_version *version,
                        const struct lorica_bundle *bundle, bool stored,
                        struct lorica_signature_facts *ret, struct lorica_error *err) {
    struct lorica_model_manifest manifest = {.subject = NULL};
    struct lorica_signkey *key = NULL;
    int rc = find_key(txn, bundle, stored, &key, err);
    if (!rc)
        rc = lorica_signkey_verify(key, &bundle->envelope, err);
    if (!rc)
        rc = lorica_model_manifest_parse(bundle->envelope.payload, bundle->envelope.payload_len,
                                         &lorica_sha256_hasher, &manifest, err);
    if (!rc)
        rc = check_file(&manifest, "adapter_config.json", true, &version->config_digest, err);
    if (!rc)
        rc =
            check_file(&manifest, "adapter_model.safetensors", true, &version->weights_digest, err);
    if (!rc && version->manifest_nbytes)
        rc = check_file(&manifest, "manifest.json", !stored, &version->manifest_digest, err);
    if (!rc)
        *ret =
            (struct lorica_signature_facts){.form = LORICA_SIGNATURE_BUNDLE,
                                            .key_id = *lorica_signkey_id(key),
                                            .bound = strcmp(manifest.subject, version->name) == 0};
    lorica_model_manifest_finish(&manifest);
    lorica_signkey_destroy(key);
    return rc;
}

/* A bundle is told from an envelope by its mediaType. */
static int read_form(const char *text, size_t len, bool *ret_bundle, struct lorica_error *err) {
    struct lorica_json *root = NULL;
    if (len > LORICA_SIGNATURE_BYTES_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "it has %zu bytes, at most %zu are taken", len,
                           LORICA_SIGNATURE_BYTES_MAX);
    const int rc = lorica_json_parse(text, len, &root, err);
    *ret_bundle = !rc && lorica_json_get(root, "mediaType");
    lorica_json_destroy(root);
    return rc;
}

int lorica_signature_check(struct lorica_txn *txn, const struct lorica_version *version,
                           const char *text, size_t len, bool stored,
                           struct lorica_signature_facts *ret, struct lorica_error *err) {
    struct lorica_error inner = {0};
    struct lorica_envelope envelope = {0};
    struct lorica_bundle bundle = {.hint = NULL};
    bool is_bundle = false;
    int rc = read_form(text, len, &is_bundle, &inner);
    if (!rc && is_bundle) {
        rc = lorica_bundle_parse(text, len, &bundle, &inner);
        if (!rc)
            rc = check_bundle(txn, version, &bundle, stored, ret, &inner);
    } else if (!rc) {
        *ret = (struct lorica_signature_facts){.form = LORICA_SIGNATURE_STATEMENT, .bound = true};
        rc = lorica_envelope_parse(text, len, &envelope, &inner);
        if (!rc)
            rc = check_statement(version, &envelope, &ret->key_id, &inner);
    }
    lorica_bundle_finish(&bundle);
    lorica_envelope_finish(&envelope);
    return rc ? not_held(err, rc, &inner) : 0;
}

/* Storing. */

/* {"key_id":"sha256:...","form":"statement","signer":NAME or null} */
static int write_detail(struct lorica_txn *txn, const struct lorica_signature_facts *facts,
                        char out[LORICA_DETAIL_MAX + 1], struct lorica_error *err) {
    struct lorica_signer_record signer;
    char name[LORICA_NAME_MAX + 1], id[LORICA_DIGEST_TEXT];
    struct lorica_buf text;
    int rc = lorica_signer_find(txn, &facts->key_id, false, name, &signer, err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    lorica_buf_init(&text, LORICA_DETAIL_MAX);
    struct lorica_jsonw w = {.out = &text};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "key_id", lorica_digest_format(&facts->key_id, id));
    lorica_jsonw_string(&w, "form", lorica_signature_form_name(facts->form));
    lorica_jsonw_string(&w, "signer", rc ? NULL : name);
    lorica_jsonw_end_object(&w);
    rc = lorica_buf_status(&text);
    if (rc)
        rc = lorica_fail(err, rc, "the signature cannot be recorded");
    else
        memcpy(out, text.data, text.len + 1);
    lorica_buf_finish(&text);
    return rc;
}

static int signature_put(struct lorica_txn *txn, const struct lorica_record_key *key,
                         const struct lorica_signature_record *record, struct lorica_error *err) {
    struct lorica_record head;
    if (lorica_record_encode_signature(record, &head))
        return lorica_fail(err, LORICA_EBUG, "the signature cannot be encoded");
    uint8_t *value = malloc(head.len + record->text_len);
    if (!value)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    memcpy(value, head.bytes, head.len);
    memcpy(value + head.len, record->text, record->text_len);
    const int rc = lorica_store_put(txn, LORICA_TABLE_SIGNATURE, lorica_slice_key(key),
                                    (struct lorica_slice){value, head.len + record->text_len}, err);
    free(value);
    return rc;
}

/* Called for each signature of a version; a non-zero return stops the walk and is returned. */
typedef int (*signature_fn)(void *arg, const struct lorica_digest *key_id,
                            const struct lorica_signature_record *record);

static int walk_signatures(struct lorica_txn *txn, const char *name, uint64_t number,
                           signature_fn fn, void *arg, struct lorica_error *err) {
    struct lorica_cursor *cursor = NULL;
    struct lorica_record_key from;
    struct lorica_slice key, value;
    lorica_record_key_signature(name, number, NULL, &from);
    int rc = lorica_store_walk(txn, LORICA_TABLE_SIGNATURE, &cursor, err);
    if (!rc)
        rc = lorica_cursor_seek(cursor, lorica_slice_key(&from), &key, &value, err);
    while (!rc && key.len > from.len && memcmp(key.data, from.bytes, from.len) == 0) {
        char its_name[LORICA_NAME_MAX + 1];
        struct lorica_signature_record record;
        struct lorica_digest id;
        uint64_t its_number;
        if (!lorica_record_key_split_signature(key.data, key.len, its_name, &its_number, &id) ||
            lorica_record_decode_signature(value.data, value.len, &record))
            rc = lorica_damaged(err, LORICA_EFORMAT, "a signature of %s@%" PRIu64, name, number);
        else
            rc = fn(arg, &id, &record);
        if (!rc)
            rc = lorica_cursor_next(cursor, &key, &value, err);
    }
    lorica_cursor_close(cursor);
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

struct count {
    struct lorica_txn *txn;
    struct lorica_error *err;
    unsigned all, trusted;
};

static int count_one(void *arg, const struct lorica_digest *key_id,
                     const struct lorica_signature_record *record) {
    struct count *count = arg;
    struct lorica_signer_record signer;
    char name[LORICA_NAME_MAX + 1];
    count->all++;
    const int rc = lorica_signer_find(count->txn, key_id, false, name, &signer, count->err);
    if (!rc)
        count->trusted += record->bound;
    return rc == LORICA_ENOTFOUND ? 0 : rc;
}

int lorica_signatures_count(struct lorica_txn *txn, const struct lorica_version *version,
                            unsigned *ret_all, unsigned *ret_trusted, struct lorica_error *err) {
    struct count count = {.txn = txn, .err = err};
    const int rc = walk_signatures(txn, version->name, version->version, count_one, &count, err);
    *ret_all = count.all;
    *ret_trusted = count.trusted;
    return rc;
}

int lorica_signature_add(struct lorica_txn *txn, const struct lorica_version *version,
                         const char *text, size_t len, const struct lorica_actor *actor,
                         bool *ret_changed, struct lorica_error *err) {
    struct lorica_signature_facts facts;
    struct lorica_record_key key;
    struct lorica_slice value;
    unsigned all = 0, trusted = 0;
    struct lorica_audit audit = {.kind = LORICA_AUDIT_SIGN, .version = version->version};
    int rc = lorica_signature_check(txn, version, text, len, false, &facts, err);
    if (rc)
        return rc;
    lorica_record_key_signature(version->name, version->version, &facts.key_id, &key);
    rc = lorica_store_get(txn, LORICA_TABLE_SIGNATURE, lorica_slice_key(&key), &value, err);
    if (rc != LORICA_ENOTFOUND)
        return rc;
    rc = lorica_signatures_count(txn, version, &all, &trusted, err);
    if (!rc && all >= LORICA_SIGNATURES_MAX)
        rc = lorica_fail(err, LORICA_ELIMIT, "%s@%" PRIu64 " has %d signatures; that is the most",
                         version->name, version->version, LORICA_SIGNATURES_MAX);
    if (!rc)
        rc = write_detail(txn, &facts, audit.detail, err);
    if (!rc && lorica_sha256(text, len, &audit.digest))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    memcpy(audit.name, version->name, sizeof(audit.name));
    if (!rc)
        rc = lorica_audit_append(txn, actor, &audit, err);
    if (rc)
        return rc;
    const struct lorica_signature_record record = {
        .form = facts.form, .bound = facts.bound, .seq = audit.seq, .text = text, .text_len = len};
    *ret_changed = true;
    return signature_put(txn, &key, &record, err);
}

/* Listing. */

struct listing {
    struct lorica_txn *txn;
    lorica_signature_fn fn;
    void *arg;
    struct lorica_error *err;
};

static int list_one(void *arg, const struct lorica_digest *key_id,
                    const struct lorica_signature_record *record) {
    const struct listing *listing = arg;
    struct lorica_signature signature = {.key_id = *key_id,
                                         .form = record->form,
                                         .bound = record->bound,
                                         .text = record->text,
                                         .text_len = record->text_len};
    struct lorica_signer_record signer;
    struct lorica_audit audit;
    int rc =
        lorica_signer_find(listing->txn, key_id, false, signature.signer, &signer, listing->err);
    if (rc && rc != LORICA_ENOTFOUND)
        return rc;
    rc = lorica_audit_get(listing->txn, record->seq, &audit, listing->err);
    if (rc)
        return rc;
    signature.added_ms = audit.time_ms;
    memcpy(signature.added_by, audit.actor, sizeof(signature.added_by));
    return listing->fn(listing->arg, &signature);
}

int lorica_registry_signatures(struct lorica_registry *registry, const char *name, uint64_t version,
                               lorica_signature_fn fn, void *arg, struct lorica_error *err) {
    struct listing listing = {.fn = fn, .arg = arg, .err = err};
    int rc = lorica_store_begin(registry->store, false, &listing.txn, err);
    if (!rc)
        rc = walk_signatures(listing.txn, name, version, list_one, &listing, err);
    lorica_store_abort(listing.txn);
    return rc;
}
