/* SPDX-License-Identifier: MIT
 * Every call that takes memory, opens, writes and syncs fails in turn, once and for ever, within
 * what has to do with signatures: OpenSSL takes memory thousands of times for one. What fails says
 * that memory was short, and leaves no trace; what is well in spite of it is there; and a signature
 * that does not hold is never taken. Each attempt begins with the same registry. */
#include "fixture.h"

#include "../faults.h"

#include "proto/model_signing.h"
#include "proto/receipt.h"
#include "proto/statement.h"
#include "registry/checkpoint.h"
#include "registry/digest.h"
#include "registry/openssl.h"
#include "registry/sign.h"

#define WEIGHTS_BYTES 1000
#define CALLS_MAX 20000

static const char p256_pem[] = "-----BEGIN PRIVATE KEY-----\n"
                               "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg0QyDYws1w+NnM86Q\n"
                               "4JyRDDi4VCcw1n/NYrETVi5RiZKhRANCAAQbPPVQlYk/u3RT4kYLSe+QfrJw83wP\n"
                               "+zWIES6/PPRSwc4kudRiDmA3PZXHschQGO0TX5KMMes6DmG1F1XAOffg\n"
                               "-----END PRIVATE KEY-----\n";

/* Made once: two keys, and signatures over what a publish of f->weights makes. */
static struct lorica_signkey *ed25519, *p256;
static struct lorica_buf statement, bundle, forged;
static struct lorica_checkpoint checkpoint;

/* The registry's file as every attempt begins with it. */
static char *saved;
static size_t saved_len;

struct work {
    const char *name;
    int (*run)(struct fixture *f, struct lorica_error *err);
    int refusal;   /* what it ends in when nothing fails; 0: it is done */
    bool registry; /* it changes the registry */
};

static int publish(struct fixture *f, const struct lorica_buf *signature,
                   struct lorica_error *err) {
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version version;
    bool existing;
    publish.signature = signature->data;
    publish.signature_len = signature->len;
    return lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, err);
}

static int publish_statement(struct fixture *f, struct lorica_error *err) {
    return publish(f, &statement, err);
}

static int publish_bundle(struct fixture *f, struct lorica_error *err) {
    return publish(f, &bundle, err);
}

static int publish_forged(struct fixture *f, struct lorica_error *err) {
    return publish(f, &forged, err);
}

static int add_signer(struct fixture *f, struct lorica_error *err) {
    const char *pem = lorica_signkey_public_pem(ed25519);
    struct lorica_signer signer;
    return lorica_registry_signer_add(f->registry, "anna", pem, strlen(pem), &actor, &signer, err);
}

static int remove_signer(struct fixture *f, struct lorica_error *err) {
    struct lorica_signer signer;
    return lorica_registry_signer_remove(f->registry, "ben", &actor, &signer, err);
}

/* Into an envelope, and what it says back out of it. */
static int sign_checkpoint(struct fixture *f, struct lorica_error *err) {
    struct lorica_checkpoint back;
    struct lorica_digest signer;
    struct lorica_buf text;
    lorica_buf_init(&text, LORICA_ENVELOPE_MAX);
    int rc = lorica_checkpoint_sign(&text, &checkpoint, ed25519, err);
    if (!rc)
        rc = lorica_buf_status(&text) ? lorica_fail(err, LORICA_ENOMEM, "out of memory") : 0;
    if (!rc)
        rc = lorica_checkpoint_open(text.data, text.len, NULL, &back, &signer, err);
    if (!rc)
        assert_true(back.seq == checkpoint.seq &&
                    lorica_digest_equal(&back.hash, &checkpoint.hash) &&
                    lorica_digest_equal(&signer, lorica_signkey_id(ed25519)));
    lorica_buf_finish(&text);
    return rc;
}

static int sign_receipt(struct fixture *f, struct lorica_error *err) {
    const struct lorica_receipt receipt = {
        .request_id = "req-1", .base = "base", .adapter = "cardiology@1", .output_count = 1};
    struct lorica_envelope envelope = {0};
    struct lorica_buf text;
    lorica_buf_init(&text, 8192);
    int rc = lorica_receipt_write(&text, &receipt);
    rc = rc ? lorica_fail(err, rc, "the receipt cannot be written")
            : lorica_signkey_sign(ed25519, LORICA_PAYLOAD_RECEIPT, text.data, text.len, false,
                                  &envelope, err);
    if (!rc)
        rc = lorica_signkey_verify(ed25519, &envelope, err);
    lorica_envelope_finish(&envelope);
    lorica_buf_finish(&text);
    return rc;
}

/* Makes a key, as a server does that has none for its receipts. */
static int make_key(struct fixture *f, struct lorica_error *err) {
    struct lorica_signkey *key = NULL, *again = NULL;
    struct lorica_buf pem;
    lorica_buf_init(&pem, LORICA_PEM_MAX);
    int rc = lorica_signkey_generate(&key, err);
    if (!rc)
        rc = lorica_signkey_write_private(key, &pem, err);
    if (!rc)
        rc = lorica_signkey_private(pem.data, pem.len, &again, err);
    if (!rc)
        rc = lorica_signkey_try(again, err);
    if (!rc)
        assert_true(lorica_digest_equal(lorica_signkey_id(key), lorica_signkey_id(again)));
    lorica_signkey_destroy(key);
    lorica_signkey_destroy(again);
    lorica_buf_finish(&pem);
    return rc;
}

static char *data_path(const struct fixture *f, char path[120]) {
    (void)snprintf(path, 120, "%s/data.mdb", f->dir);
    return path;
}

static void save(struct fixture *f) {
    char path[120];
    lorica_registry_close(f->registry);
    FILE *file = fopen(data_path(f, path), "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    saved_len = (size_t)ftell(file);
    rewind(file);
    saved = malloc(saved_len);
    assert_non_null(saved);
    assert_int_equal(fread(saved, 1, saved_len, file), saved_len);
    assert_int_equal(fclose(file), 0);
    fixture_open(f);
}

static void take_back(struct fixture *f) {
    char path[120];
    lorica_registry_close(f->registry);
    FILE *file = fopen(data_path(f, path), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(saved, 1, saved_len, file), saved_len);
    assert_int_equal(fclose(file), 0);
    fixture_open(f);
}

/* Fails the first, second, ... call of a family with the errno `how`, until the work meets no
 * fault. Returns how many calls there were to fail. */
static unsigned long torture(struct fixture *f, const struct work *work, enum family family,
                             bool persistent, int how, const struct lorica_digest *before) {
    /* Where all memory fails from a call on, the calls before it do not matter much. */
    const unsigned long stride = persistent && family == MALLOC ? 7 : 1;
    for (unsigned long call = 1;; call += stride) {
        struct lorica_error why = {0};
        arm(family, call, persistent, how);
        const int rc = work->run(f, &why);
        const bool reached = disarm();
        assert_true(call < CALLS_MAX);
        assert_int_equal(why.code, rc);
        if (!reached || (!rc && family == MALLOC))
            assert_int_equal(rc, work->refusal);
        else if (rc && rc != work->refusal && family == MALLOC)
            assert_int_equal(rc, LORICA_ENOMEM);
        if (work->registry && rc) {
            fixture_reopen(f);
            const struct lorica_digest after = state_of(f);
            assert_memory_equal(before, &after, sizeof(after));
        } else if (work->registry) {
            struct lorica_digest after = {{0}};
            ok(lorica_registry_audit(f->registry, NULL, 0, SIZE_MAX, last_record, &after, &err));
            assert_memory_not_equal(before, &after, sizeof(after));
            take_back(f);
        }
        if (!reached)
            return call - 1;
    }
}

static void torture_all(struct fixture *f, const struct work *work) {
    static const int ways[] = {EIO, ENOSPC, 0};
    const struct lorica_digest before = state_of(f);
    for (int family = MALLOC; family < FAMILIES; family++) {
        const int count = family == MALLOC ? 1 : family == WRITE ? 3 : 2;
        for (int i = 0; i < count; i++) {
            const unsigned long once =
                torture(f, work, (enum family)family, false, ways[i], &before);
            const unsigned long ever =
                torture(f, work, (enum family)family, true, ways[i], &before);
            print_message("%s: family %d, errno %d: %lu calls failed once, %lu for ever\n",
                          work->name, family, ways[i], once, ever);
            if (family == MALLOC)
                assert_true(once > 0 && ever > 0);
        }
    }
}

/* Setting up. */

static struct lorica_digest digest_of(const struct lorica_publish *publish,
                                      struct lorica_statement *ret) {
    static uint8_t weights[WEIGHTS_BYTES];
    struct lorica_digest canonical;
    FILE *file = fopen(publish->weights_path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(weights, 1, sizeof(weights), file), sizeof(weights));
    assert_int_equal(fclose(file), 0);
    *ret = (struct lorica_statement){
        .name = "cardiology", .base_digest = publish->base_digest, .created = 1764057317};
    assert_int_equal(lorica_sha256(weights, sizeof(weights), &ret->weights_digest), 0);
    assert_int_equal(lorica_sha256(publish->config, publish->config_len, &ret->config_digest), 0);
    assert_int_equal(lorica_sha256(publish->canonical, publish->canonical_len, &canonical), 0);
    assert_int_equal(lorica_version_digest(&canonical, &ret->weights_digest, &ret->digest), 0);
    return ret->digest;
}

static void sign_statement(const struct lorica_statement *s) {
    struct lorica_envelope envelope = {0};
    struct lorica_buf payload;
    lorica_buf_init(&payload, 2000);
    ok(lorica_statement_write(&payload, s));
    ok(lorica_signkey_sign(ed25519, LORICA_PAYLOAD_STATEMENT, payload.data, payload.len, true,
                           &envelope, &err));
    struct lorica_jsonw w = {.out = &statement}, wrong = {.out = &forged};
    lorica_envelope_write(&w, NULL, &envelope);
    envelope.sig[10] ^= 1;
    lorica_envelope_write(&wrong, NULL, &envelope);
    lorica_envelope_finish(&envelope);
    lorica_buf_finish(&payload);
    assert_int_equal(lorica_buf_status(&statement) | lorica_buf_status(&forged), 0);
}

static void sign_bundle(const struct lorica_statement *s) {
    struct lorica_model_file files[] = {{(char *)"adapter_config.json", s->config_digest},
                                        {(char *)"adapter_model.safetensors", s->weights_digest}};
    const struct lorica_model_manifest manifest = {
        .subject = (char *)"cardiology", .files = files, .file_count = 2};
    struct lorica_envelope envelope = {0};
    struct lorica_buf payload;
    lorica_buf_init(&payload, 10000);
    ok(lorica_model_manifest_write(&payload, &manifest, &lorica_sha256_hasher));
    ok(lorica_signkey_sign(p256, LORICA_PAYLOAD_INTOTO, payload.data, payload.len, false, &envelope,
                           &err));
    ok(lorica_bundle_write(&bundle, &envelope));
    lorica_envelope_finish(&envelope);
    lorica_buf_finish(&payload);
}

static int setup(void **state) {
    struct lorica_statement s;
    struct lorica_signer signer;
    fixture_setup(state);
    struct fixture *f = *state;
    ok(lorica_signkey_generate(&ed25519, &err));
    ok(lorica_signkey_private(p256_pem, strlen(p256_pem), &p256, &err));
    const char *pem = lorica_signkey_public_pem(p256);
    ok(lorica_registry_signer_add(f->registry, "ben", pem, strlen(pem), &actor, &signer, &err));
    publish_seed(f, "cardiology", 1, "stable");
    write_seeded(f->weights, 2, WEIGHTS_BYTES);
    const struct lorica_publish publish = publish_of("cardiology", f->weights);
    (void)digest_of(&publish, &s);
    lorica_buf_init(&statement, 10000);
    lorica_buf_init(&bundle, 10000);
    lorica_buf_init(&forged, 10000);
    sign_statement(&s);
    sign_bundle(&s);
    ok(lorica_checkpoint_take(f->registry, &checkpoint, &err));
    save(f);
    return 0;
}

static int teardown(void **state) {
    lorica_signkey_destroy(ed25519);
    lorica_signkey_destroy(p256);
    lorica_buf_finish(&statement);
    lorica_buf_finish(&bundle);
    lorica_buf_finish(&forged);
    free(saved);
    return fixture_teardown(state);
}

static void test_any_call_fails_all_or_nothing(void **state) {
    static const struct work works[] = {
        {"publish with a statement", publish_statement, 0, true},
        {"publish with a bundle", publish_bundle, 0, true},
        {"publish with a forged statement", publish_forged, LORICA_ESIGNATURE, true},
        {"signer add", add_signer, 0, true},
        {"signer remove", remove_signer, 0, true},
        {"checkpoint", sign_checkpoint, 0, false},
        {"receipt", sign_receipt, 0, false},
        {"key", make_key, 0, false},
    };
    for (size_t i = 0; i < sizeof(works) / sizeof(works[0]); i++)
        torture_all(*state, &works[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_any_call_fails_all_or_nothing, setup, teardown),
    };
    lorica_openssl_watch();
    if (access("/dev/shm", W_OK) == 0)
        (void)setenv("TMPDIR", "/dev/shm", 1); /* a registry for each of 50,000 calls */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
