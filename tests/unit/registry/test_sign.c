/* SPDX-License-Identifier: MIT
 * Signing keys, signatures of versions, signers, the gate that asks for them, and what the walk
 * says of those that were changed behind the chain. */
#include "fixture.h"

#include "proto/statement.h"
#include "registry/backup.h"
#include "registry/internal.h"
#include "registry/policy.h"
#include "registry/sign.h"

static const struct lorica_actor chief = {.key_name = "chief", .role = LORICA_ROLE_ADMIN};

/* Two keys for all tests: anna's and ben's. */
static struct lorica_signkey *anna, *ben;

static int make_keys(void **state) {
    ok(lorica_signkey_generate(&anna, &err));
    ok(lorica_signkey_generate(&ben, &err));
    return 0;
}

static int free_keys(void **state) {
    lorica_signkey_destroy(anna);
    lorica_signkey_destroy(ben);
    return 0;
}

static int teardown_clean(void **state) {
    const struct fixture *f = *state;
    assert_clean(f->registry);
    return fixture_teardown(state);
}

static struct lorica_version version_of(struct fixture *f, uint64_t number) {
    struct lorica_version version;
    ok(lorica_registry_version(f->registry, "cardiology", number, &version, &err));
    return version;
}

static struct lorica_statement statement_of(const struct lorica_version *v) {
    struct lorica_statement s = {.digest = v->digest,
                                 .base_digest = v->base_digest,
                                 .config_digest = v->config_digest,
                                 .weights_digest = v->weights_digest,
                                 .has_manifest = v->manifest_nbytes > 0,
                                 .manifest_digest = v->manifest_digest,
                                 .created = 1764057317};
    memcpy(s.name, v->name, strlen(v->name) + 1);
    return s;
}

/* The text of a signature over a statement. */
static struct lorica_buf sign(const struct lorica_signkey *key, const struct lorica_statement *s) {
    struct lorica_envelope e = {0};
    struct lorica_buf payload, text;
    lorica_buf_init(&payload, 2000);
    lorica_buf_init(&text, 10000);
    ok(lorica_statement_write(&payload, s));
    ok(lorica_signkey_sign(key, LORICA_PAYLOAD_STATEMENT, payload.data, payload.len, true, &e,
                           &err));
    struct lorica_jsonw w = {.out = &text};
    lorica_envelope_write(&w, NULL, &e);
    lorica_envelope_finish(&e);
    lorica_buf_finish(&payload);
    assert_int_equal(lorica_buf_status(&text), 0);
    return text;
}

/* Publishes the content of a seed with a signature (NULL: none). */
static int publish_signed(struct fixture *f, uint64_t seed, const struct lorica_buf *signature,
                          const char *channel, struct lorica_version *ret, bool *ret_existing,
                          struct lorica_error *err) {
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    publish.channel = channel;
    publish.signature = signature ? signature->data : NULL;
    publish.signature_len = signature ? signature->len : 0;
    write_seeded(f->weights, seed, 1000);
    return lorica_registry_publish(f->registry, &publish, &actor, ret, ret_existing, err);
}

/* What a publish of a seed would make, learned from a publish under another name. */
static struct lorica_statement foresee(struct fixture *f, uint64_t seed) {
    struct lorica_publish publish = publish_of("oracle", f->weights);
    struct lorica_version version;
    bool existing;
    write_seeded(f->weights, seed, 1000);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    struct lorica_statement s = statement_of(&version);
    memcpy(s.name, "cardiology", sizeof("cardiology"));
    return s;
}

static uint64_t publish_by(struct fixture *f, uint64_t seed, const struct lorica_signkey *key) {
    const struct lorica_statement s = foresee(f, seed);
    struct lorica_buf text = sign(key, &s);
    struct lorica_version version;
    bool existing = true;
    ok(publish_signed(f, seed, &text, NULL, &version, &existing, &err));
    lorica_buf_finish(&text);
    return version.version;
}

static void trust(struct fixture *f, const char *name, const struct lorica_signkey *key) {
    const char *pem = lorica_signkey_public_pem(key);
    struct lorica_signer signer;
    ok(lorica_registry_signer_add(f->registry, name, pem, strlen(pem), &chief, &signer, &err));
    assert_string_equal(signer.name, name);
    assert_string_equal(signer.added_by, "chief");
    assert_string_equal(signer.algorithm, "ed25519");
    assert_true(lorica_digest_equal(&signer.key_id, lorica_signkey_id(key)));
}

static void distrust(struct fixture *f, const char *name) {
    struct lorica_signer signer;
    ok(lorica_registry_signer_remove(f->registry, name, &chief, &signer, &err));
    assert_true(signer.removed_ms > 0);
    assert_string_equal(signer.removed_by, "chief");
}

static int keep_audit(void *arg, const struct lorica_audit *audit) {
    *(struct lorica_audit *)arg = *audit;
    return 0;
}

static struct lorica_audit last_audit(struct fixture *f) {
    struct lorica_audit audit = {0};
    ok(lorica_registry_audit(f->registry, NULL, 0, SIZE_MAX, keep_audit, &audit, &err));
    return audit;
}

/* Keys. */

static void test_key_signs_as_vectors_say(void **state) {
    /* The key of RFC 8032, section 7.1, test 2, as PKCS #8; the signature of DSSE's bytes for the
     * type "t" and the payload "payload" by Python's cryptography. */
    static const uint8_t expected[64] = {
        0x3b, 0x53, 0x3b, 0xea, 0x12, 0xc1, 0xa6, 0xec, 0xe5, 0xf5, 0xaa, 0x53, 0xe9,
        0x31, 0xe4, 0x2f, 0x36, 0x0b, 0xe2, 0x22, 0x16, 0x54, 0x7d, 0xa5, 0xe8, 0x99,
        0x92, 0xad, 0x0c, 0xf9, 0x32, 0x70, 0xac, 0xff, 0x43, 0x8c, 0x61, 0x74, 0x6e,
        0x2c, 0xe4, 0x62, 0x87, 0x63, 0x50, 0x98, 0x3d, 0xfa, 0x00, 0x1e, 0xc9, 0xda,
        0x8b, 0xd3, 0xec, 0xe4, 0x56, 0x6d, 0x2c, 0x28, 0x57, 0x9a, 0x3e, 0x09};
    static const char pem[] = "-----BEGIN PRIVATE KEY-----\n"
                              "MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n"
                              "-----END PRIVATE KEY-----\n";
    static const char public_pem[] =
        "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n"
        "-----END PUBLIC KEY-----\n";
    struct lorica_signkey *key = NULL, *public_key = NULL;
    struct lorica_envelope e = {0};
    ok(lorica_signkey_private(pem, sizeof(pem) - 1, &key, &err));
    assert_string_equal(lorica_signkey_public_pem(key), public_pem);
    assert_true(lorica_signkey_is_ed25519(key));
    ok(lorica_signkey_public(public_pem, sizeof(public_pem) - 1, &public_key, &err));
    assert_true(lorica_digest_equal(lorica_signkey_id(key), lorica_signkey_id(public_key)));
    ok(lorica_signkey_sign(key, "t", "payload", 7, false, &e, &err));
    assert_null(e.public_key);
    assert_int_equal(e.sig_len, sizeof(expected));
    assert_memory_equal(e.sig, expected, sizeof(expected));
    ok(lorica_signkey_verify(public_key, &e, &err));
    e.payload[0] ^= 1;
    fails(LORICA_ESIGNATURE, "does not hold", lorica_signkey_verify(public_key, &e, &err));
    e.payload[0] ^= 1;
    e.payload_type[0] = 'u';
    fails(LORICA_ESIGNATURE, "does not hold", lorica_signkey_verify(public_key, &e, &err));
    e.payload_type[0] = 't';
    for (size_t bit = 0; bit < e.sig_len * 8; bit++) {
        struct lorica_error err = {0};
        e.sig[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(lorica_signkey_verify(public_key, &e, &err), LORICA_ESIGNATURE);
        e.sig[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    e.sig_len--;
    fails(LORICA_ESIGNATURE, "does not hold", lorica_signkey_verify(public_key, &e, &err));
    e.sig_len++;
    fails(LORICA_ESIGNATURE, "does not hold", lorica_signkey_verify(anna, &e, &err));
    lorica_envelope_finish(&e);
    lorica_signkey_destroy(key);
    lorica_signkey_destroy(public_key);
}

static void test_key_texts_that_are_none(void **state) {
    struct lorica_signkey *key = NULL;
    struct lorica_buf pem;
    const char *public_pem = lorica_signkey_public_pem(anna);
    lorica_buf_init(&pem, LORICA_PEM_MAX);
    ok(lorica_signkey_write_private(anna, &pem, &err));
    fails(LORICA_EFORMAT, "no private key", lorica_signkey_private("x", 1, &key, &err));
    fails(LORICA_EFORMAT, "no private key",
          lorica_signkey_private(public_pem, strlen(public_pem), &key, &err));
    fails(LORICA_EFORMAT, "no public key", lorica_signkey_public("", 0, &key, &err));
    fails(LORICA_EFORMAT, "no public key",
          lorica_signkey_public(pem.data, pem.len, &key, &err)); /* a private one is not taken */
    fails(LORICA_EFORMAT, "no public key",
          lorica_signkey_public(public_pem, LORICA_PEM_MAX + 1, &key, &err));
    static const char encrypted[] =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
        "MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBAIBW5ZmQ1Xv0DBQb7h\n"
        "h3kFAgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQPmTtBvFJY0mYQF0x\n"
        "rO0L4gRAhl3mBn8Ytyv3x0nQ0yJk7e0m9m3b0l5gq3d2dEcKxqjT3m2K5Zl3wO4h\n"
        "0m8m3b5l5gq3d2dEcKxqjT3m2K5Zlw==\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n";
    fails(LORICA_EFORMAT, "", lorica_signkey_private(encrypted, sizeof(encrypted) - 1, &key, &err));
    static const char x25519[] = "-----BEGIN PUBLIC KEY-----\n"
                                 "MCowBQYDK2VuAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8SrzZgw=\n"
                                 "-----END PUBLIC KEY-----\n";
    fails(LORICA_EUNSUPPORTED, "neither Ed25519 nor",
          lorica_signkey_public(x25519, sizeof(x25519) - 1, &key, &err));
    assert_null(key);
    lorica_buf_finish(&pem);
}

/* Signatures. */

struct seen {
    unsigned count;
    struct lorica_signature last;
    char text[2000];
};

static int see(void *arg, const struct lorica_signature *signature) {
    struct seen *seen = arg;
    seen->count++;
    seen->last = *signature;
    assert_true(signature->text_len < sizeof(seen->text));
    memcpy(seen->text, signature->text, signature->text_len);
    seen->text[signature->text_len] = '\0';
    return 0;
}

static void test_signature_is_kept_as_it_came(void **state) {
    struct fixture *f = *state;
    const struct lorica_statement s = foresee(f, 1);
    struct lorica_buf text = sign(anna, &s);
    struct lorica_version version;
    struct seen seen = {0};
    bool existing = true;
    ok(publish_signed(f, 1, &text, NULL, &version, &existing, &err));
    assert_false(existing);
    const struct lorica_audit audit = last_audit(f);
    assert_int_equal(audit.kind, LORICA_AUDIT_SIGN);
    assert_int_equal(audit.version, 1);
    assert_non_null(strstr(audit.detail, "\"signer\":null"));
    fixture_reopen(f);
    ok(lorica_registry_signatures(f->registry, "cardiology", 1, see, &seen, &err));
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.text, text.data);
    assert_true(lorica_digest_equal(&seen.last.key_id, lorica_signkey_id(anna)));
    assert_string_equal(seen.last.signer, "");
    assert_string_equal(seen.last.added_by, "tester");
    assert_int_equal(seen.last.added_ms, audit.time_ms);
    trust(f, "anna", anna);
    ok(lorica_registry_signatures(f->registry, "cardiology", 1, see, &seen, &err));
    assert_string_equal(seen.last.signer, "anna");
    ok(publish_signed(f, 1, &text, NULL, &version, &existing, &err)); /* again: nothing new */
    assert_true(existing);
    assert_int_equal(last_audit(f).kind, LORICA_AUDIT_SIGNER_ADD);
    lorica_buf_finish(&text);
}

static void test_signature_over_something_else_is_refused(void **state) {
    struct fixture *f = *state;
    const struct lorica_statement right = foresee(f, 1);
    const uint64_t before = last_audit(f).seq;
    struct lorica_version version;
    bool existing;
#define WRONG(change, word)                                                                        \
    do {                                                                                           \
        struct lorica_statement s = right;                                                         \
        change;                                                                                    \
        struct lorica_buf text = sign(anna, &s);                                                   \
        fails(LORICA_ESIGNATURE, word,                                                             \
              publish_signed(f, 1, &text, "stable", &version, &existing, &err));                   \
        lorica_buf_finish(&text);                                                                  \
    } while (0)
    WRONG(s.name[0] = 'k', "its name is not");
    WRONG(s.digest.bytes[0] ^= 1, "its digest is not");
    WRONG(s.base_digest.bytes[31] ^= 1, "its base_digest is not");
    WRONG(s.config_digest.bytes[5] ^= 1, "its config_digest is not");
    WRONG(s.weights_digest.bytes[5] ^= 1, "its weights_digest is not");
    WRONG(s.has_manifest = true, "its manifest_digest is not");
#undef WRONG
    assert_int_equal(last_audit(f).seq, before);
    fails(LORICA_ENOTFOUND, "cardiology",
          lorica_registry_version(f->registry, "cardiology", 1, &version, &err));
}

/* Replaces the first `from` in a signature's text. */
static struct lorica_buf edit(const struct lorica_buf *text, const char *from, const char *to) {
    struct lorica_buf out;
    const char *at = strstr(text->data, from);
    assert_non_null(at);
    lorica_buf_init(&out, 10000);
    lorica_buf_printf(&out, "%.*s%s%s", (int)(at - text->data), text->data, to, at + strlen(from));
    return out;
}

static void test_signature_texts_that_are_none_are_refused(void **state) {
    struct fixture *f = *state;
    const struct lorica_statement s = foresee(f, 1);
    struct lorica_buf text = sign(anna, &s);
    const struct {
        const char *from, *to, *says;
    } cases[] = {
        {"\"publicKey\":\"-----", "\"publicKey\":\"----", "no public key"},
        {"\"publicKey\":", "\"publickey\":", "\"publickey\" is not known"},
        {"vnd.lorica.adapter", "vnd.lorica.receipt", "its payload is"},
        {"\"sig\":\"", "\"sig\":\"AAAA", "does not hold"},
        {"\"payload\":\"", "\"payload\":\"AAAA", "does not hold"},
        {"{", "", ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_buf edited = edit(&text, cases[i].from, cases[i].to);
        struct lorica_version version;
        bool existing;
        fails(LORICA_ESIGNATURE, cases[i].says,
              publish_signed(f, 1, &edited, NULL, &version, &existing, &err));
        lorica_buf_finish(&edited);
    }
    lorica_buf_finish(&text);
}

static void test_signature_of_a_second_key_joins_the_first(void **state) {
    struct fixture *f = *state;
    struct seen seen = {0};
    struct lorica_version version;
    bool existing = false;
    assert_int_equal(publish_by(f, 1, anna), 1);
    assert_int_equal(publish_by(f, 1, ben), 1);
    ok(lorica_registry_signatures(f->registry, "cardiology", 1, see, &seen, &err));
    assert_int_equal(seen.count, 2);
    /* over the manifest that the version has, not over that which comes along */
    const struct lorica_version v = version_of(f, 1);
    struct lorica_statement s = statement_of(&v);
    s.created++;
    struct lorica_buf text = sign(anna, &s);
    ok(publish_signed(f, 1, &text, NULL, &version, &existing, &err));
    assert_true(existing);
    seen.count = 0;
    ok(lorica_registry_signatures(f->registry, "cardiology", 1, see, &seen, &err));
    assert_int_equal(seen.count, 2); /* one for each key: the first stays */
    lorica_buf_finish(&text);
}

static void test_signatures_of_a_version_are_bounded(void **state) {
    struct fixture *f = *state;
    for (int i = 0; i <= LORICA_SIGNATURES_MAX; i++) {
        struct lorica_signkey *key = NULL;
        struct lorica_version version;
        bool existing;
        ok(lorica_signkey_generate(&key, &err));
        const struct lorica_statement s = foresee(f, 1);
        struct lorica_buf text = sign(key, &s);
        if (i < LORICA_SIGNATURES_MAX)
            ok(publish_signed(f, 1, &text, NULL, &version, &existing, &err));
        else
            fails(LORICA_ELIMIT, "the most",
                  publish_signed(f, 1, &text, NULL, &version, &existing, &err));
        lorica_buf_finish(&text);
        lorica_signkey_destroy(key);
    }
}

/* Signers and the gate. */

static void test_signer_names_and_keys_are_taken_once(void **state) {
    struct fixture *f = *state;
    struct lorica_signer signer;
    const char *pem = lorica_signkey_public_pem(anna), *other = lorica_signkey_public_pem(ben);
    trust(f, "anna", anna);
    assert_int_equal(last_audit(f).kind, LORICA_AUDIT_SIGNER_ADD);
    assert_string_equal(last_audit(f).name, "anna");
#define ADD(name, text)                                                                            \
    lorica_registry_signer_add(f->registry, name, text, strlen(text), &chief, &signer, &err)
    fails(LORICA_ECONFLICT, "exists", ADD("anna", other));
    fails(LORICA_ECONFLICT, "already, as anna", ADD("anna-2", pem));
    fails(LORICA_EINVAL, "signer's name", ADD("Anna", other));
    fails(LORICA_EFORMAT, "no public key", ADD("ben", "nothing"));
    distrust(f, "anna");
    const struct lorica_audit removed = last_audit(f);
    assert_int_equal(removed.kind, LORICA_AUDIT_SIGNER_REMOVE);
    distrust(f, "anna");
    assert_int_equal(last_audit(f).seq, removed.seq);
    fails(LORICA_ECONFLICT, "exists (removed)", ADD("anna", other));
    trust(f, "anna-2", anna);
#undef ADD
    fails(LORICA_ENOTFOUND, "no signer",
          lorica_registry_signer_remove(f->registry, "ben", &chief, &signer, &err));
}

static void demand(struct fixture *f) {
    const struct lorica_policy policy = {.trusted_signature = true};
    struct lorica_policy now;
    ok(lorica_registry_policy_set(f->registry, "cardiology", "stable", &policy, 0, &chief, &now,
                                  &err));
    assert_true(now.trusted_signature);
    fixture_reopen(f);
    ok(lorica_registry_policy(f->registry, "cardiology", "stable", &now, &err));
    assert_true(now.trusted_signature);
}

static int promote_as(struct fixture *f, uint64_t version, struct lorica_error *err) {
    struct lorica_channel channel;
    return lorica_registry_promote(f->registry, "cardiology", "stable", version, 0, true, &chief,
                                   &channel, err);
}

static void test_gate_counts_trusted_keys_only(void **state) {
    struct fixture *f = *state;
    publish_seed(f, "cardiology", 1, "stable");
    assert_int_equal(publish_by(f, 2, anna), 2);
    assert_int_equal(publish_by(f, 3, ben), 3);
    demand(f);
    fails(LORICA_EGATE, "signed: it has no signature", promote_as(f, 1, &err));
    fails(LORICA_EGATE, "signed: of its 1 signatures none", promote_as(f, 2, &err));
    trust(f, "anna", anna);
    ok(promote_as(f, 2, &err));
    fails(LORICA_EGATE, "of its 1 signatures none", promote_as(f, 3, &err));
    trust(f, "ben", ben);
    ok(promote_as(f, 3, &err));
    distrust(f, "ben");
    ok(promote_as(f, 2, &err));
    fails(LORICA_EGATE, "of its 1 signatures none", promote_as(f, 3, &err));
    assert_int_equal(rollback(f, "cardiology"), 3); /* history stands: a rollback passes no gate */
}

static void test_gate_holds_a_publish_that_names_the_channel(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    bool existing;
    publish_seed(f, "cardiology", 1, NULL);
    trust(f, "anna", anna);
    demand(f);
    fails(LORICA_EGATE, "it has no signature",
          publish_signed(f, 2, NULL, "stable", &version, &existing, &err));
    const struct lorica_statement s = foresee(f, 2);
    struct lorica_buf text = sign(anna, &s);
    ok(publish_signed(f, 2, &text, "stable", &version, &existing, &err));
    assert_int_equal(version.version, 2);
    lorica_buf_finish(&text);
}

static void test_signed_survives_backup_and_restore(void **state) {
    struct fixture *f = *state;
    struct lorica_backup_info info;
    struct seen seen = {0};
    char to[100], from[100];
    publish_by(f, 1, anna);
    trust(f, "anna", anna);
    demand(f);
    snprintf(to, sizeof(to), "%s/backup", f->root);
    snprintf(from, sizeof(from), "%s/again", f->root);
    const struct lorica_backup_source source = lorica_backup_from(f->registry);
    ok(lorica_backup_write(to, &source, NULL, NULL, &info, &err));
    ok(lorica_backup_restore(to, from, NULL, NULL, &info, &err));
    lorica_registry_close(f->registry);
    const struct lorica_registry_options options = {.map_bytes = MAP_BYTES};
    ok(lorica_registry_open(from, &options, &f->registry, &err));
    ok(lorica_registry_signatures(f->registry, "cardiology", 1, see, &seen, &err));
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.last.signer, "anna");
    ok(promote_as(f, 1, &err));
}

/* The walk. */

static void expect_finding(struct fixture *f, const char *word) {
    struct lorica_buf report;
    uint64_t findings = 0;
    lorica_buf_init(&report, 1 << 20);
    ok(lorica_registry_verify(f->registry, &report, &findings, &err));
    if (!findings || !strstr(report.data, word))
        print_error("no \"%s\" in: %s\n", word, report.data ? report.data : "");
    assert_true(findings > 0);
    assert_non_null(strstr(report.data, word));
    lorica_buf_finish(&report);
}

static void put(struct fixture *f, enum lorica_table table, const struct lorica_record_key *key,
                const void *bytes, size_t len) {
    struct lorica_txn *txn = NULL;
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    if (bytes)
        ok(lorica_store_put(txn, table, lorica_slice_key(key), (struct lorica_slice){bytes, len},
                            &err));
    else
        ok(lorica_store_delete(txn, table, lorica_slice_key(key), &err));
    ok(lorica_store_commit(txn, &err));
}

static void test_walk_names_a_signature_that_was_changed(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key, other;
    struct lorica_txn *txn = NULL;
    struct lorica_slice value;
    uint8_t bytes[3000];
    publish_by(f, 1, anna);
    publish_by(f, 2, anna);
    lorica_record_key_signature("cardiology", 1, lorica_signkey_id(anna), &key);
    lorica_record_key_signature("cardiology", 2, lorica_signkey_id(anna), &other);
    ok(lorica_store_begin(f->registry->store, false, &txn, &err));
    ok(lorica_store_get(txn, LORICA_TABLE_SIGNATURE, lorica_slice_key(&key), &value, &err));
    const size_t len = value.len;
    assert_true(len < sizeof(bytes));
    memcpy(bytes, value.data, len);
    lorica_store_abort(txn);
    char *sig = strstr((char *)bytes + 15, "\"sig\":\"");
    assert_non_null(sig);
    sig[10] = sig[10] == 'A' ? 'B' : 'A';
    put(f, LORICA_TABLE_SIGNATURE, &key, bytes, len);
    expect_finding(f, "cardiology@1: the signature: the signature does not hold");
    sig[10] = 0;
    put(f, LORICA_TABLE_SIGNATURE, &key, bytes, 10);
    expect_finding(f, "a signature cannot be read");
    put(f, LORICA_TABLE_SIGNATURE, &key, NULL, 0);
    expect_finding(f, "there are 1 signatures, the other records say 2");
    put(f, LORICA_TABLE_SIGNATURE, &other, NULL, 0);
    expect_finding(f, "there are 0 signatures, the other records say 2");
}

static void test_walk_names_a_signer_that_was_changed(void **state) {
    struct fixture *f = *state;
    struct lorica_signer_record record = {.seq = 1};
    struct lorica_record_key key;
    struct lorica_record value;
    trust(f, "anna", anna);
    distrust(f, "anna");
    lorica_record_key_name("anna", &key);
    memcpy(record.public_pem, lorica_signkey_public_pem(anna), LORICA_PUBLIC_PEM_MAX);
    ok(lorica_record_encode_signer(&record, &value)); /* trusted again, behind the chain */
    put(f, LORICA_TABLE_SIGNER, &key, value.bytes, value.len);
    expect_finding(f, "signer anna is not as audit record 2 made it");
    memcpy(record.public_pem, lorica_signkey_public_pem(ben), LORICA_PUBLIC_PEM_MAX);
    record.removed_seq = 2;
    ok(lorica_record_encode_signer(&record, &value)); /* another key under her name */
    put(f, LORICA_TABLE_SIGNER, &key, value.bytes, value.len);
    expect_finding(f, "signer anna is not as audit record 1 made it");
    put(f, LORICA_TABLE_SIGNER, &key, NULL, 0);
    expect_finding(f, "signer anna of audit record 1 is gone");
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, teardown_clean)
#define with_damage(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_signs_as_vectors_say),
        cmocka_unit_test(test_key_texts_that_are_none),
        with_registry(test_signature_is_kept_as_it_came),
        with_registry(test_signature_over_something_else_is_refused),
        with_registry(test_signature_texts_that_are_none_are_refused),
        with_registry(test_signature_of_a_second_key_joins_the_first),
        with_registry(test_signatures_of_a_version_are_bounded),
        with_registry(test_signer_names_and_keys_are_taken_once),
        with_registry(test_gate_counts_trusted_keys_only),
        with_registry(test_gate_holds_a_publish_that_names_the_channel),
        with_registry(test_signed_survives_backup_and_restore),
        with_damage(test_walk_names_a_signature_that_was_changed),
        with_damage(test_walk_names_a_signer_that_was_changed),
    };
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
