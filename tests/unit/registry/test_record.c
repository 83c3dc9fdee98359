/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "registry/internal.h"
#include "registry/record.h"

#include "../../fuzz/fuzz_record.c"

/* Samples stand on zeroes, padding included, so that whole structs can be compared. */

static void sample_version(struct lorica_version *version) {
    memset(version, 0, sizeof(*version));
    version->seq = 258;
    version->digest.bytes[0] = 1;
    version->config_digest.bytes[0] = 2;
    version->canonical_digest.bytes[0] = 3;
    version->weights_digest.bytes[0] = 4;
    version->base_digest.bytes[0] = 5;
    version->manifest_digest.bytes[0] = 6;
    version->config_nbytes = 7;
    version->canonical_nbytes = 8;
    version->weights_nbytes = UINT64_C(9) << 32;
    version->manifest_nbytes = 10;
    version->rank = 16;
    version->base_stated = true;
}

static void sample_audit(struct lorica_audit *audit) {
    memset(audit, 0, sizeof(*audit));
    audit->seq = 3;
    audit->kind = LORICA_AUDIT_ROLLBACK;
    audit->time_ms = 1234567890123;
    memcpy(audit->actor, "ops", 3);
    memcpy(audit->name, "cardiology", 10);
    memcpy(audit->channel, "stable", 6);
    audit->version = 1;
    audit->previous = 2;
    audit->epoch = 5;
    audit->before = 1;
    audit->digest.bytes[0] = 7;
    audit->digest.bytes[1] = 8;
    memcpy(audit->message, "pag\xc3\xa9r at three", 15);
}

static void sample_key(struct lorica_key_record *key) {
    memset(key, 0, sizeof(*key));
    key->secret.bytes[0] = 9;
    memcpy(key->key.name, "app", 3);
    key->key.role = LORICA_ROLE_PUBLISH;
    memcpy(key->key.globs[0], "cardio*", 7);
    memcpy(key->key.globs[1], "?", 1);
    key->key.glob_count = 2;
    key->key.created_ms = 5;
    key->key.revoked_ms = -6;
}

static void sample_policy(struct lorica_policy_record *policy) {
    memset(policy, 0, sizeof(*policy));
    policy->seq = 11;
    policy->policy.epoch = 3;
    policy->policy.approvals = 2;
    policy->policy.min_role = LORICA_ROLE_OPS;
    policy->policy.max_rank = 64;
    policy->policy.max_nbytes = UINT64_C(1) << 30;
    memcpy(policy->policy.eval_set, "ward", 4);
    policy->policy.max_worse = 0.25;
}

typedef int (*decode_fn)(const void *bytes, size_t len);

static int decode_number(const void *bytes, size_t len) {
    uint64_t number;
    return lorica_record_decode_number(bytes, len, &number);
}

static int decode_name(const void *bytes, size_t len) {
    char name[LORICA_NAME_MAX + 1];
    return lorica_record_decode_name(bytes, len, name);
}

static int decode_version(const void *bytes, size_t len) {
    struct lorica_version version;
    return lorica_record_decode_version(bytes, len, &version);
}

static int decode_channel(const void *bytes, size_t len) {
    struct lorica_channel_record channel;
    return lorica_record_decode_channel(bytes, len, &channel);
}

static int decode_audit(const void *bytes, size_t len) {
    struct lorica_audit audit;
    return lorica_record_decode_audit(bytes, len, &audit);
}

static int decode_key(const void *bytes, size_t len) {
    struct lorica_key_record key;
    return lorica_record_decode_key(bytes, len, &key);
}

static int decode_policy(const void *bytes, size_t len) {
    struct lorica_policy_record policy;
    return lorica_record_decode_policy(bytes, len, &policy);
}

static int decode_approval(const void *bytes, size_t len) {
    struct lorica_approval_record approval;
    return lorica_record_decode_approval(bytes, len, &approval);
}

static int decode_signer(const void *bytes, size_t len) {
    struct lorica_signer_record signer;
    return lorica_record_decode_signer(bytes, len, &signer);
}

static int decode_signature(const void *bytes, size_t len) {
    struct lorica_signature_record signature;
    return lorica_record_decode_signature(bytes, len, &signature);
}

/* Whole: accepted. Every shorter one, one byte more, another format number: refused. The copies are
 * allocated at their very size, so that the sanitizers see a read behind the end. */
static void check_bounds(const struct lorica_record *record, decode_fn decode) {
    assert_int_equal(decode(record->bytes, record->len), 0);
    for (size_t len = 0; len <= record->len + 1; len++) {
        uint8_t *copy = test_malloc(len + 1);
        memcpy(copy + 1, record->bytes, len > record->len ? record->len : len);
        if (len > record->len)
            copy[len] = 0;
        if (len != record->len)
            assert_int_equal(decode(copy + 1, len), LORICA_EFORMAT);
        test_free(copy);
    }
    struct lorica_record other = *record;
    other.bytes[0] = 9;
    assert_int_equal(decode(other.bytes, other.len), LORICA_EUNSUPPORTED);
    other.bytes[0] = 0;
    assert_int_equal(decode(other.bytes, other.len), LORICA_EFORMAT);
}

static void test_decode_cut_or_longer_refused(void **state) {
    (void)state;
    struct lorica_record record;
    struct lorica_version version;
    sample_version(&version);
    struct lorica_audit audit;
    sample_audit(&audit);
    struct lorica_key_record key;
    sample_key(&key);
    const struct lorica_channel_record channel = {1, 2, 3};
    assert_int_equal(lorica_record_encode_number(77, &record), 0);
    check_bounds(&record, decode_number);
    assert_int_equal(lorica_record_encode_name("name", &record), 0);
    check_bounds(&record, decode_name);
    assert_int_equal(lorica_record_encode_version(&version, &record), 0);
    check_bounds(&record, decode_version);
    version.other_base = true;
    assert_int_equal(lorica_record_encode_version(&version, &record), 0);
    check_bounds(&record, decode_version);
    assert_int_equal(lorica_record_encode_channel(&channel, &record), 0);
    check_bounds(&record, decode_channel);
    assert_int_equal(lorica_record_encode_key(&key, &record), 0);
    check_bounds(&record, decode_key);
    struct lorica_policy_record policy;
    sample_policy(&policy);
    assert_int_equal(lorica_record_encode_policy(&policy, &record), 0);
    check_bounds(&record, decode_policy);
    policy.policy.trusted_signature = true;
    assert_int_equal(lorica_record_encode_policy(&policy, &record), 0);
    check_bounds(&record, decode_policy);
    policy.policy.checks = 2;
    policy.policy.checks_digest.bytes[5] = 7;
    assert_int_equal(lorica_record_encode_policy(&policy, &record), 0);
    check_bounds(&record, decode_policy);
    const struct lorica_signer_record signer = {.public_pem = "PEM\n", .seq = 1, .removed_seq = 2};
    assert_int_equal(lorica_record_encode_signer(&signer, &record), 0);
    check_bounds(&record, decode_signer);
    const struct lorica_signature_record signature = {
        .form = LORICA_SIGNATURE_BUNDLE, .bound = true, .seq = 3, .text = "{}", .text_len = 2};
    assert_int_equal(lorica_record_encode_signature(&signature, &record), 0);
    memcpy(record.bytes + record.len, "{}", 2);
    record.len += 2;
    check_bounds(&record, decode_signature);
    const struct lorica_approval_record approval = {4, 5};
    assert_int_equal(lorica_record_encode_approval(&approval, &record), 0);
    check_bounds(&record, decode_approval);
    assert_int_equal(lorica_record_encode_audit(&audit, &record), 0);
    memset(record.bytes + record.len, 0xAA, 32);
    record.len += 32;
    check_bounds(&record, decode_audit);
}

static void test_round_trip_gives_the_same(void **state) {
    (void)state;
    struct lorica_record record;
    struct lorica_version version;
    sample_version(&version);
    struct lorica_version version_back;
    assert_int_equal(lorica_record_encode_version(&version, &record), 0);
    assert_int_equal(lorica_record_decode_version(record.bytes, record.len, &version_back), 0);
    assert_memory_equal(&version, &version_back, sizeof(version));
    assert_int_equal(record.bytes[0], 1); /* as it was before there was another form */
    version.other_base = true;
    version.trained_digest.bytes[3] = 7;
    assert_int_equal(lorica_record_encode_version(&version, &record), 0);
    assert_int_equal(lorica_record_decode_version(record.bytes, record.len, &version_back), 0);
    assert_memory_equal(&version, &version_back, sizeof(version));

    struct lorica_key_record key;
    sample_key(&key);
    struct lorica_key_record key_back;
    assert_int_equal(lorica_record_encode_key(&key, &record), 0);
    assert_int_equal(lorica_record_decode_key(record.bytes, record.len, &key_back), 0);
    assert_memory_equal(&key, &key_back, sizeof(key));

    struct lorica_policy_record policy, policy_back;
    sample_policy(&policy);
    assert_int_equal(lorica_record_encode_policy(&policy, &record), 0);
    assert_int_equal(lorica_record_decode_policy(record.bytes, record.len, &policy_back), 0);
    assert_memory_equal(&policy, &policy_back, sizeof(policy));
    /* a policy of before signatures keeps its bytes, and so its fingerprint in the chain */
    assert_int_equal(record.bytes[0], 1);
    const size_t before = record.len;
    policy.policy.trusted_signature = true;
    assert_int_equal(lorica_record_encode_policy(&policy, &record), 0);
    assert_int_equal(record.bytes[0], 2);
    assert_int_equal(record.len, before + 1);
    assert_int_equal(lorica_record_decode_policy(record.bytes, record.len, &policy_back), 0);
    assert_memory_equal(&policy, &policy_back, sizeof(policy));
    record.bytes[before] = 0; /* one form for each policy */
    assert_int_equal(lorica_record_decode_policy(record.bytes, record.len, &policy_back),
                     LORICA_EFORMAT);

    for (int is_signed = 0; is_signed < 2; is_signed++) { /* with checks, either */
        policy.policy.trusted_signature = is_signed;
        policy.policy.checks = 64;
        policy.policy.checks_digest.bytes[31] = 9;
        assert_int_equal(lorica_record_encode_policy(&policy, &record), 0);
        assert_int_equal(record.bytes[0], 3);
        assert_int_equal(lorica_record_decode_policy(record.bytes, record.len, &policy_back), 0);
        assert_memory_equal(&policy, &policy_back, sizeof(policy));
    }

    static const uint8_t signature_bytes[] = "\x01\x01\x01\0\0\0\0\0\0\0\x07\0\0\0\x02{}";
    struct lorica_signature_record signature;
    assert_int_equal(lorica_record_decode_signature(signature_bytes, 17, &signature), 0);
    assert_int_equal(signature.form, LORICA_SIGNATURE_BUNDLE);
    assert_true(signature.bound);
    assert_int_equal(signature.seq, 7);
    assert_int_equal(signature.text_len, 2);
    assert_memory_equal(signature.text, "{}", 2);
    assert_int_equal(lorica_record_encode_signature(&signature, &record), 0);
    assert_int_equal(record.len, 15);
    assert_memory_equal(record.bytes, signature_bytes, 15);
    for (size_t at = 1; at < 3; at++) {
        uint8_t wrong[17];
        memcpy(wrong, signature_bytes, 17);
        wrong[at] = 2;
        assert_int_equal(lorica_record_decode_signature(wrong, 17, &signature), LORICA_EFORMAT);
    }

    struct lorica_audit audit, audit_back;
    sample_audit(&audit);
    assert_int_equal(lorica_record_encode_audit(&audit, &record), 0);
    memset(&audit.hash, 0xAA, sizeof(audit.hash));
    memset(record.bytes + record.len, 0xAA, 32);
    assert_int_equal(lorica_record_decode_audit(record.bytes, record.len + 32, &audit_back), 0);
    assert_memory_equal(&audit, &audit_back, sizeof(audit));
}

static void test_audit_bytes_as_documented(void **state) {
    (void)state;
    static const uint8_t expected[] = "\x01\0\0\0\0\0\0\0\x03"
                                      "\x02"
                                      "\0\0\x01\x1f\x71\xfb\x04\xcb"
                                      "\0\x03ops\0\x0a"
                                      "cardiology\0\x06stable"
                                      "\0\0\0\0\0\0\0\x01"
                                      "\0\0\0\0\0\0\0\x02"
                                      "\0\0\0\0\0\0\0\x05"
                                      "\0\0\0\0\0\0\0\x01"
                                      "\x07\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                                      "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                                      "\0\x0fpag\xc3\xa9r at three";
    struct lorica_audit audit;
    sample_audit(&audit);
    struct lorica_record record;
    assert_int_equal(lorica_record_encode_audit(&audit, &record), 0);
    assert_int_equal(record.len, sizeof(expected) - 1);
    assert_memory_equal(record.bytes, expected, sizeof(expected) - 1);
}

static void test_decode_bad_values_refused(void **state) {
    (void)state;
    struct lorica_record record;
    struct lorica_version version;
    sample_version(&version);
    struct lorica_key_record key;
    sample_key(&key);
    struct lorica_audit audit;
    sample_audit(&audit);
    assert_int_equal(lorica_record_encode_version(&version, &record), 0);
    record.bytes[record.len - 1] = 2; /* unknown flag */
    assert_int_equal(decode_version(record.bytes, record.len), LORICA_EFORMAT);
    assert_int_equal(lorica_record_encode_key(&key, &record), 0);
    record.bytes[1 + 32 + 2 + 3] = LORICA_ROLE_ADMIN + 1;
    assert_int_equal(decode_key(record.bytes, record.len), LORICA_EFORMAT);
    record.bytes[1 + 32 + 2 + 3] = LORICA_ROLE_ADMIN;
    record.bytes[1 + 32 + 2 + 3 + 17] = LORICA_KEY_GLOBS + 1;
    assert_int_equal(decode_key(record.bytes, record.len), LORICA_EFORMAT);
    struct lorica_policy_record policy;
    sample_policy(&policy);
    policy.policy.max_worse = INFINITY;
    assert_int_equal(lorica_record_encode_policy(&policy, &record), 0);
    assert_int_equal(decode_policy(record.bytes, record.len), LORICA_EFORMAT);
    policy.policy.max_worse = 0;
    assert_int_equal(lorica_record_encode_policy(&policy, &record), 0);
    record.bytes[1 + 8 + 8 + 4] = LORICA_ROLE_ADMIN + 1;
    assert_int_equal(decode_policy(record.bytes, record.len), LORICA_EFORMAT);
    assert_int_equal(lorica_record_encode_audit(&audit, &record), 0);
    record.len += 32;
    assert_int_equal(decode_audit(record.bytes, record.len), 0);
    record.bytes[9] = LORICA_AUDIT_COUNT;
    assert_int_equal(decode_audit(record.bytes, record.len), LORICA_EFORMAT);
    assert_int_equal(lorica_record_encode_name("name", &record), 0);
    record.bytes[4] = '\0';
    assert_int_equal(decode_name(record.bytes, record.len), LORICA_EFORMAT);
    record.bytes[4] = 0xFF;
    assert_int_equal(decode_name(record.bytes, record.len), LORICA_EFORMAT);
}

static int decode_split(const void *bytes, size_t len) {
    struct lorica_split_record split;
    return lorica_record_decode_split(bytes, len, &split);
}

static void test_split_records_hold(void **state) {
    (void)state;
    struct lorica_split_record split, back;
    struct lorica_record record;
    memset(&split, 0, sizeof(split));
    split.epoch = 4;
    split.seq = 5;
    assert_int_equal(lorica_record_encode_split(&split, &record), 0);
    check_bounds(&record, decode_split); /* one that ended */
    split.terms = lorica_split_defaults(3, LORICA_SPLIT_WHOLE);
    split.first = 2;
    assert_int_equal(lorica_record_encode_split(&split, &record), 0);
    check_bounds(&record, decode_split);
    assert_int_equal(lorica_record_decode_split(record.bytes, record.len, &back), 0);
    assert_true(lorica_split_terms_equal(&back.terms, &split.terms));
    assert_true(back.epoch == 4 && back.seq == 5 && back.first == 2);
    record.bytes[12]++; /* a share above the whole */
    assert_int_equal(decode_split(record.bytes, record.len), LORICA_EFORMAT);
    split.terms.share = 0;
    assert_int_equal(lorica_record_encode_split(&split, &record), 0);
    assert_int_equal(decode_split(record.bytes, record.len), LORICA_EFORMAT);
    split.terms = (struct lorica_split_terms){.window_s = 5};
    split.first = 0;
    assert_int_equal(lorica_record_encode_split(&split, &record), 0);
    assert_int_equal(decode_split(record.bytes, record.len), LORICA_EFORMAT);
}

static void test_audit_detail_makes_another_format(void **state) {
    (void)state;
    struct lorica_record plain, detailed;
    struct lorica_audit audit, back;
    sample_audit(&audit);
    assert_int_equal(lorica_record_encode_audit(&audit, &plain), 0);
    assert_int_equal(plain.bytes[0], 1);
    memcpy(audit.detail, "{\"percent\":5}", 13);
    assert_int_equal(lorica_record_encode_audit(&audit, &detailed), 0);
    assert_int_equal(detailed.bytes[0], 2);
    assert_int_equal(detailed.len, plain.len + 2 + 13);
    detailed.len += 32; /* the hash */
    memset(detailed.bytes + detailed.len - 32, 0, 32);
    assert_int_equal(lorica_record_decode_audit(detailed.bytes, detailed.len, &back), 0);
    assert_string_equal(back.detail, audit.detail);
    detailed.bytes[0] = 3;
    assert_int_equal(decode_audit(detailed.bytes, detailed.len), LORICA_EUNSUPPORTED);
    /* An empty detail is written as format 1 only. */
    plain.bytes[0] = 2;
    memset(plain.bytes + plain.len, 0, 34);
    assert_int_equal(decode_audit(plain.bytes, plain.len + 34), LORICA_EFORMAT);
}

static void test_largest_records_fit(void **state) {
    (void)state;
    struct lorica_record record;
    struct lorica_audit audit;
    sample_audit(&audit);
    struct lorica_key_record key;
    sample_key(&key);
    memset(audit.actor, 'a', LORICA_NAME_MAX);
    memset(audit.name, 'n', LORICA_NAME_MAX);
    memset(audit.channel, 'c', LORICA_CHANNEL_MAX);
    memset(audit.message, 'm', LORICA_MESSAGE_MAX);
    memset(audit.detail, 'd', LORICA_DETAIL_MAX);
    assert_int_equal(lorica_record_encode_audit(&audit, &record), 0);
    assert_true(record.len + 32 <= LORICA_RECORD_MAX);
    key.key.glob_count = LORICA_KEY_GLOBS;
    for (size_t i = 0; i < LORICA_KEY_GLOBS; i++)
        memset(key.key.globs[i], '*', LORICA_NAME_MAX);
    memset(key.key.name, 'k', LORICA_NAME_MAX);
    assert_int_equal(lorica_record_encode_key(&key, &record), 0);
    key.key.glob_count++;
    assert_int_equal(lorica_record_encode_key(&key, &record), LORICA_EBUG);
}

static void test_keys_sort_by_name_then_number(void **state) {
    (void)state;
    struct lorica_record_key a, b;
    uint64_t number = 0;
    lorica_record_key_numbered("a", 255, &a);
    lorica_record_key_numbered("a", 256, &b);
    assert_true(memcmp(a.bytes, b.bytes, a.len) < 0);
    lorica_record_key_numbered("a", UINT64_MAX, &a);
    lorica_record_key_numbered("a-", 0, &b);
    assert_true(memcmp(a.bytes, b.bytes, a.len) < 0);
    assert_true(lorica_record_key_of(a.bytes, a.len, "a", &number));
    assert_true(number == UINT64_MAX);
    assert_false(lorica_record_key_of(b.bytes, b.len, "a", &number));
    assert_false(lorica_record_key_of(a.bytes, a.len - 1, "a", &number));
}

static void test_keys_of_approvals_come_apart_or_are_refused(void **state) {
    (void)state;
    char name[LORICA_NAME_MAX + 1], channel[LORICA_CHANNEL_MAX + 1], by[LORICA_NAME_MAX + 1];
    char longest[LORICA_NAME_MAX + 1] = {0}, widest[LORICA_CHANNEL_MAX + 1] = {0};
    struct lorica_record_key key, prefix;
    uint64_t number = 0;
    memset(longest, 'n', LORICA_NAME_MAX);
    memset(widest, 'c', LORICA_CHANNEL_MAX);
    lorica_record_key_approval(longest, widest, UINT64_MAX, longest, &key);
    assert_int_equal(key.len, 2 * LORICA_NAME_MAX + LORICA_CHANNEL_MAX + 10);
    assert_true(lorica_record_key_split(key.bytes, key.len, name, channel, &number, by));
    assert_string_equal(name, longest);
    assert_string_equal(channel, widest);
    assert_string_equal(by, longest);
    assert_true(number == UINT64_MAX);
    lorica_record_key_approval("a", "stable", 7, "x", &key);
    lorica_record_key_approval("a", "stable", 0, NULL, &prefix);
    assert_true(prefix.len == 9 && memcmp(key.bytes, prefix.bytes, 9) == 0);
    for (size_t len = 0; len < key.len; len++)
        assert_false(lorica_record_key_split(key.bytes, len, name, channel, &number, by));
    key.bytes[key.len++] = '\0';
    assert_false(lorica_record_key_split(key.bytes, key.len, name, channel, &number, by));
    assert_false(lorica_record_key_split("\0stable\0", 8, name, channel, NULL, NULL));
    assert_false(lorica_record_key_split("a\0stable\0", 9, name, channel, NULL, NULL));
    assert_true(lorica_record_key_split("a\0stable", 8, name, channel, NULL, NULL));
}

static uint64_t draw(uint64_t *random, uint64_t bound) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random % bound;
}

/* Changes, cuts or lengthens the bytes in a few places. */
static size_t mutate(uint8_t *bytes, size_t len, size_t max, uint64_t *random) {
    for (uint64_t i = draw(random, 4); len > 0 && i-- > 0;) {
        uint64_t kind = draw(random, 8);
        if (kind == 0)
            len = (size_t)draw(random, len + 1);
        else if (kind == 1 && len < max)
            bytes[len++] = (uint8_t)draw(random, 256);
        else
            bytes[draw(random, len)] ^= (uint8_t)(1u << draw(random, 8));
    }
    return len;
}

static void test_fuzz_target_mutated_records_hold(void **state) {
    (void)state;
    struct lorica_record records[7];
    struct lorica_record_key approval;
    struct lorica_policy_record policy;
    struct lorica_split_record split;
    struct lorica_version version;
    struct lorica_audit audit;
    struct lorica_key_record key;
    uint64_t random = 20261124;
    sample_audit(&audit);
    sample_version(&version);
    sample_key(&key);
    assert_int_equal(lorica_record_encode_audit(&audit, &records[0]), 0);
    memset(records[0].bytes + records[0].len, 0xAA, 32);
    records[0].len += 32;
    assert_int_equal(lorica_record_encode_version(&version, &records[1]), 0);
    assert_int_equal(lorica_record_encode_key(&key, &records[2]), 0);
    assert_int_equal(lorica_record_encode_name("cardiology", &records[3]), 0);
    split = (struct lorica_split_record){
        .terms = lorica_split_defaults(2, 500), .epoch = 3, .seq = 9, .first = 8};
    assert_int_equal(lorica_record_encode_split(&split, &records[6]), 0);
    sample_policy(&policy);
    assert_int_equal(lorica_record_encode_policy(&policy, &records[4]), 0);
    lorica_record_key_approval("cardiology", "stable", 3, "anna", &approval);
    memcpy(records[5].bytes, approval.bytes, approval.len);
    records[5].len = approval.len;
    for (unsigned i = 0; i < 60000; i++) {
        uint8_t bytes[1 + LORICA_RECORD_MAX];
        const struct lorica_record *record = &records[i % 7];
        bytes[0] = (uint8_t)(i % 7 < 6 ? i % 7 : 3); /* splits are of kind 3 */
        memcpy(bytes + 1, record->bytes, record->len);
        size_t len = mutate(bytes + 1, record->len, LORICA_RECORD_MAX, &random);
        assert_int_equal(LLVMFuzzerTestOneInput(bytes, len + 1), 0); /* it aborts at a fault */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_cut_or_longer_refused),
        cmocka_unit_test(test_round_trip_gives_the_same),
        cmocka_unit_test(test_audit_bytes_as_documented),
        cmocka_unit_test(test_decode_bad_values_refused),
        cmocka_unit_test(test_split_records_hold),
        cmocka_unit_test(test_audit_detail_makes_another_format),
        cmocka_unit_test(test_largest_records_fit),
        cmocka_unit_test(test_keys_sort_by_name_then_number),
        cmocka_unit_test(test_keys_of_approvals_come_apart_or_are_refused),
        cmocka_unit_test(test_fuzz_target_mutated_records_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
