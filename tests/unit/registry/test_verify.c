/* SPDX-License-Identifier: MIT
 * Each kind of damage is made through the store below the registry, and must be named. */
#include "fixture.h"

#include "registry/internal.h"
#include "registry/retire.h"

/* A registry with something of everything. Audit: 1 publish, 2 promote, 3 publish, 4 promote,
 * 5 rollback, 6 key-create, 7 key-revoke. */
static int setup_full(void **state) {
    fixture_setup(state);
    struct fixture *f = *state;
    struct lorica_key key = {.name = "app", .role = LORICA_ROLE_INFER};
    char text[LORICA_KEY_TEXT];
    publish_seed(f, "cardiology", 1, "stable");
    publish_seed(f, "cardiology", 2, "stable");
    rollback(f, "cardiology");
    ok(lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    ok(lorica_registry_key_revoke(f->registry, "app", &actor, &err));
    assert_clean(f->registry);
    return 0;
}

static void put(struct fixture *f, enum lorica_table table, const struct lorica_record_key *key,
                const void *bytes, size_t len) {
    struct lorica_txn *txn;
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    ok(lorica_store_put(txn, table, lorica_slice_key(key), (struct lorica_slice){bytes, len},
                        &err));
    ok(lorica_store_commit(txn, &err));
}

static void drop(struct fixture *f, enum lorica_table table, const struct lorica_record_key *key) {
    struct lorica_txn *txn;
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    ok(lorica_store_delete(txn, table, lorica_slice_key(key), &err));
    ok(lorica_store_commit(txn, &err));
}

/* Turns one bit of a stored value. */
static void flip(struct fixture *f, enum lorica_table table, const struct lorica_record_key *key,
                 size_t at) {
    struct lorica_txn *txn;
    struct lorica_slice value;
    static uint8_t bytes[300000];
    ok(lorica_store_begin(f->registry->store, false, &txn, &err));
    ok(lorica_store_get(txn, table, lorica_slice_key(key), &value, &err));
    assert_true(value.len <= sizeof(bytes) && at < value.len);
    memcpy(bytes, value.data, value.len);
    size_t len = value.len;
    lorica_store_abort(txn);
    bytes[at] ^= 1;
    put(f, table, key, bytes, len);
}

static void assert_found(struct fixture *f, const char *words) {
    struct lorica_buf report;
    uint64_t findings = 0;
    lorica_buf_init(&report, 1 << 20);
    ok(lorica_registry_verify(f->registry, &report, &findings, &err));
    assert_true(findings > 0);
    if (!strstr(report.data, words))
        print_error("no \"%s\" in:\n%s\n", words, report.data);
    assert_non_null(strstr(report.data, words));
    lorica_buf_finish(&report);
}

static struct lorica_version version_of(struct fixture *f, uint64_t number) {
    struct lorica_version version;
    ok(lorica_registry_version(f->registry, "cardiology", number, &version, &err));
    return version;
}

static void test_verify_audit_record_altered_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    lorica_record_key_number(4, &key);
    flip(f, LORICA_TABLE_AUDIT, &key, 16); /* its time */
    assert_found(f, "audit record 4 was altered");
}

static void test_verify_audit_record_rehashed_breaks_the_next(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    struct lorica_record record;
    struct lorica_audit first, second;
    struct lorica_txn *txn;
    ok(lorica_store_begin(f->registry->store, false, &txn, &err));
    ok(lorica_audit_get(txn, 1, &first, &err));
    ok(lorica_audit_get(txn, 2, &second, &err));
    lorica_store_abort(txn);
    snprintf(second.actor, sizeof(second.actor), "nobody");
    ok(lorica_audit_hash(&second, &first.hash, &second.hash));
    ok(lorica_record_encode_audit(&second, &record));
    memcpy(record.bytes + record.len, second.hash.bytes, 32);
    lorica_record_key_number(2, &key);
    put(f, LORICA_TABLE_AUDIT, &key, record.bytes, record.len + 32);
    assert_found(f, "audit record 3 was altered");
}

static void test_verify_audit_record_gone_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    lorica_record_key_number(6, &key);
    drop(f, LORICA_TABLE_AUDIT, &key);
    assert_found(f, "audit record 6 is missing");
}

static void test_verify_channel_moved_behind_the_chain_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    struct lorica_record record;
    const struct lorica_channel_record moved = {.version = 2, .epoch = 3, .seq = 5};
    ok(lorica_record_encode_channel(&moved, &record));
    lorica_record_key_channel("cardiology", "stable", &key);
    put(f, LORICA_TABLE_CHANNEL, &key, record.bytes, record.len);
    assert_found(f, "channel stable of cardiology: stands on version 2");
}

static void test_verify_channel_gone_or_unknown_counted(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    lorica_record_key_channel("cardiology", "stable", &key);
    drop(f, LORICA_TABLE_CHANNEL, &key);
    assert_found(f, "0 channels");
}

static void test_verify_version_gone_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    lorica_record_key_numbered("cardiology", 1, &key);
    drop(f, LORICA_TABLE_VERSION, &key);
    assert_found(f, "published cardiology@1, which is gone");
    assert_found(f, "points to version 1, which is gone");
}

static void test_verify_version_altered_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    lorica_record_key_numbered("cardiology", 2, &key);
    flip(f, LORICA_TABLE_VERSION, &key, 1 + 8 + 32 * 3 + 5); /* weights_digest */
    assert_found(f, "cardiology@2: its weights is gone");
    assert_found(f, "cardiology@2: its digest is not that of its content");
}

/* As a damaged record could have it. */
static void test_weights_of_another_version_are_not_given_out(void **state) {
    struct fixture *f = *state;
    const struct lorica_version other = version_of(f, 1);
    struct lorica_version altered = version_of(f, 2);
    void *weights = NULL;
    size_t len = 0;
    altered.weights_digest = other.weights_digest;
    altered.weights_nbytes = other.weights_nbytes;
    fails(LORICA_EFORMAT, "whose digest is not that of its content",
          lorica_registry_weights(f->registry, &altered, &weights, &len, &err));
    ok(lorica_registry_weights(f->registry, &other, &weights, &len, &err));
    free(weights);
}

/* Nor is a config, though it is sound in itself: here the same adapter with another alpha. */
static void test_config_of_another_version_is_found_and_not_given_out(void **state) {
    struct fixture *f = *state;
    static const char other[] =
        "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":800,\"target_modules\":[\"q_proj\"]}";
    struct lorica_version altered = version_of(f, 2), stored;
    struct lorica_publish publish = publish_of("other", f->weights);
    char *config = NULL;
    size_t len = 0;
    bool existing;
    publish.config = other;
    publish.config_len = sizeof(other) - 1;
    ok(lorica_registry_publish(f->registry, &publish, &actor, &stored, &existing, &err));
    ok(lorica_registry_config(f->registry, &altered, &config, &len, &err));
    free(config);
    altered.config_digest = stored.config_digest;
    altered.config_nbytes = stored.config_nbytes;
    fails(LORICA_EFORMAT, "whose config is not that of its digest",
          lorica_registry_config(f->registry, &altered, &config, &len, &err));
    struct lorica_record_key key;
    struct lorica_record record;
    ok(lorica_record_encode_version(&altered, &record));
    lorica_record_key_numbered("cardiology", 2, &key);
    put(f, LORICA_TABLE_VERSION, &key, record.bytes, record.len);
    assert_found(f, "cardiology@2: its config is not that of its digest");
}

static void test_verify_adapter_number_altered_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    lorica_record_key_name("cardiology", &key);
    flip(f, LORICA_TABLE_ADAPTER, &key, 8);
    assert_found(f, "cardiology: its newest version is 2, its record says 3");
}

static void test_verify_content_altered_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    const struct lorica_version version = version_of(f, 2);
    char text[LORICA_DIGEST_TEXT], words[128];
    void *bytes = NULL;
    size_t len;
    lorica_record_key_chunk(&version.weights_digest, 0, &key);
    flip(f, LORICA_TABLE_CHUNK, &key, 100);
    snprintf(words, sizeof(words), "content %s is damaged",
             lorica_digest_format(&version.weights_digest, text));
    assert_found(f, words);
    fails(LORICA_EFORMAT, "weights of cardiology@2",
          lorica_registry_weights(f->registry, &version, &bytes, &len, &err));
    assert_null(bytes);
}

static void test_verify_content_gone_or_unowned_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    struct lorica_record record;
    const struct lorica_version version = version_of(f, 2);
    const struct lorica_digest stray = {{0x55}};
    lorica_record_key_chunk(&stray, 0, &key);
    put(f, LORICA_TABLE_CHUNK, &key, "x", 1);
    assert_found(f, "belong to nothing");
    ok(lorica_record_encode_number(1, &record));
    lorica_record_key_digest(&stray, &key);
    put(f, LORICA_TABLE_BLOB, &key, record.bytes, record.len);
    assert_found(f, "belongs to no version");
    lorica_record_key_chunk(&version.weights_digest, 1, &key);
    put(f, LORICA_TABLE_CHUNK, &key, "x", 1);
    assert_found(f, "more pieces than its size says");
    lorica_record_key_digest(&version.weights_digest, &key);
    drop(f, LORICA_TABLE_BLOB, &key);
    assert_found(f, "cardiology@2: its weights is gone");
}

static void test_verify_key_rights_altered_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    lorica_record_key_name("app", &key);
    flip(f, LORICA_TABLE_KEY, &key, 1 + 32 + 2 + 3); /* infer becomes publish */
    assert_found(f, "key app is not as audit record 6 made it");
}

static void test_verify_key_revocation_undone_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    lorica_record_key_name("app", &key);
    flip(f, LORICA_TABLE_KEY, &key, 1 + 32 + 2 + 3 + 1 + 8 + 7); /* when it was revoked */
    assert_found(f, "key app: its revocation differs from audit record 7");
}

static void test_verify_history_or_identity_gone_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    const struct lorica_version version = version_of(f, 1);
    lorica_record_key_numbered("cardiology", 3, &key);
    drop(f, LORICA_TABLE_HISTORY, &key);
    assert_found(f, "audit record 3 is missing from the history of cardiology");
    lorica_record_key_identity("cardiology", &version.digest, &version.base_digest, &key);
    drop(f, LORICA_TABLE_IDENTITY, &key);
    assert_found(f, "cardiology@1 is not found by its content");
}

/* Version 3, deleted; returns its tombstone and, in *ret_key, where it is. */
static struct lorica_tombstone_record bury(struct fixture *f, struct lorica_record_key *ret_key) {
    struct lorica_tombstone_record tombstone;
    struct lorica_version version;
    struct lorica_txn *txn;
    publish_seed(f, "cardiology", 3, NULL);
    ok(lorica_registry_delete(f->registry, "cardiology", 3, &actor, &version, &err));
    ok(lorica_store_begin(f->registry->store, false, &txn, &err));
    ok(lorica_tombstone_get(txn, "cardiology", 3, &tombstone, &err));
    lorica_store_abort(txn);
    assert_clean(f->registry);
    lorica_record_key_numbered("cardiology", 3, ret_key);
    return tombstone;
}

static void put_tombstone(struct fixture *f, uint64_t number,
                          struct lorica_tombstone_record tombstone) {
    struct lorica_record_key key;
    struct lorica_record record;
    assert_int_equal(lorica_record_encode_tombstone(&tombstone, &record), 0);
    lorica_record_key_numbered("cardiology", number, &key);
    put(f, LORICA_TABLE_TOMBSTONE, &key, record.bytes, record.len);
}

static void test_verify_tombstone_gone_named(void **state) {
    struct lorica_record_key key;
    (void)bury(*state, &key);
    drop(*state, LORICA_TABLE_TOMBSTONE, &key);
    assert_found(*state, "cardiology@3, whose tombstone is gone");
}

static void test_verify_tombstone_forged_named(void **state) {
    struct lorica_record_key key;
    put_tombstone(*state, 1, bury(*state, &key));
    assert_found(*state, "the tombstone of cardiology@1 names audit record");
}

static void test_verify_tombstone_of_nothing_named(void **state) {
    struct lorica_record_key key;
    put_tombstone(*state, 9, bury(*state, &key));
    assert_found(*state, "the tombstone of cardiology@9 belongs to no version");
}

static void test_verify_tombstone_swept_by_nobody_named(void **state) {
    struct lorica_record_key key;
    struct lorica_tombstone_record tombstone = bury(*state, &key);
    tombstone.swept_seq = tombstone.seq;
    put_tombstone(*state, 3, tombstone);
    assert_found(*state, "1 tombstones are swept, the other records say 0");
}

static void test_verify_sweep_undone_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    struct lorica_tombstone_record tombstone = bury(f, &key);
    struct lorica_sweep stats;
    ok(lorica_registry_sweep(f->registry, INT64_MAX, &actor, &stats, &err));
    assert_clean(f->registry);
    put_tombstone(f, 3, tombstone);
    assert_found(f, "swept cardiology@3, which is not swept by it");
}

static void test_verify_retention_altered_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    ok(lorica_registry_retention_set(f->registry, "cardiology", 300, &actor, &err));
    assert_clean(f->registry);
    lorica_record_key_numbered("cardiology", 0, &key);
    flip(f, LORICA_TABLE_TOMBSTONE, &key, 4); /* its days, or what stands before them */
    assert_found(f, "the retention of cardiology");
}

static void test_staged_content_swept_at_open(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    struct lorica_record record;
    struct lorica_txn *txn;
    struct lorica_slice value;
    const struct lorica_digest stray = {{0x55}};
    for (uint32_t i = 0; i < 600; i++) { /* more than one transaction sweeps */
        lorica_record_key_chunk(&stray, i, &key);
        put(f, LORICA_TABLE_CHUNK, &key, "x", 1);
    }
    ok(lorica_record_encode_number(600, &record));
    lorica_record_key_digest(&stray, &key);
    put(f, LORICA_TABLE_STAGED, &key, record.bytes, record.len);
    assert_clean(f->registry); /* an upload under way is no finding */
    fixture_reopen(f);
    assert_clean(f->registry);
    ok(lorica_store_begin(f->registry->store, false, &txn, &err));
    for (uint32_t i = 0; i < 600; i += 599) {
        lorica_record_key_chunk(&stray, i, &key);
        assert_int_equal(
            lorica_store_get(txn, LORICA_TABLE_CHUNK, lorica_slice_key(&key), &value, NULL),
            LORICA_ENOTFOUND);
    }
    lorica_store_abort(txn);
}

#define with_full(test) cmocka_unit_test_setup_teardown(test, setup_full, fixture_teardown)

static int keep_last(void *arg, const struct lorica_audit *record) {
    *(struct lorica_audit *)arg = *record;
    return 0;
}

/* The statement that a version was trained on another base stands in the chain too. */
static void test_trained_on_other_base_is_held_by_the_chain(void **state) {
    struct fixture *f = *state;
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version version, found;
    struct lorica_audit last;
    struct lorica_record record;
    struct lorica_record_key key;
    bool existing;
    write_seeded(f->weights, 3, 1000);
    publish.other_base = true;
    publish.trained_digest.bytes[0] = 0xAB;
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    assert_true(version.other_base);
    fixture_reopen(f);
    ok(lorica_registry_version(f->registry, "cardiology", 3, &found, &err));
    assert_true(found.other_base && found.trained_digest.bytes[0] == 0xAB);
    ok(lorica_registry_audit(f->registry, "cardiology", 0, 100, keep_last, &last, &err));
    assert_non_null(strstr(last.detail, "{\"trained_on_other_base\":true,\"base\":\"sha256:ab00"));
    assert_clean(f->registry);
    found.other_base = false;
    assert_int_equal(lorica_record_encode_version(&found, &record), 0);
    lorica_record_key_numbered("cardiology", 3, &key);
    put(f, LORICA_TABLE_VERSION, &key, record.bytes, record.len);
    assert_found(f, "says otherwise than cardiology@3");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        with_full(test_verify_audit_record_altered_named),
        with_full(test_verify_audit_record_rehashed_breaks_the_next),
        with_full(test_verify_audit_record_gone_named),
        with_full(test_verify_channel_moved_behind_the_chain_named),
        with_full(test_verify_channel_gone_or_unknown_counted),
        with_full(test_verify_version_gone_named),
        with_full(test_verify_version_altered_named),
        with_full(test_verify_adapter_number_altered_named),
        with_full(test_verify_content_altered_named),
        with_full(test_verify_content_gone_or_unowned_named),
        with_full(test_verify_key_rights_altered_named),
        with_full(test_verify_key_revocation_undone_named),
        with_full(test_config_of_another_version_is_found_and_not_given_out),
        with_full(test_weights_of_another_version_are_not_given_out),
        with_full(test_verify_history_or_identity_gone_named),
        with_full(test_verify_tombstone_gone_named),
        with_full(test_verify_tombstone_forged_named),
        with_full(test_verify_tombstone_of_nothing_named),
        with_full(test_verify_tombstone_swept_by_nobody_named),
        with_full(test_verify_sweep_undone_named),
        with_full(test_verify_retention_altered_named),
        with_full(test_trained_on_other_base_is_held_by_the_chain),
        with_full(test_staged_content_swept_at_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
