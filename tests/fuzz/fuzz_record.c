/* SPDX-License-Identifier: MIT
 * Stored records from any bytes. The first byte chooses the kind. What decodes must encode to the
 * very same bytes again: a record has one form, so that nothing can hide in another. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void expect_same(int rc, const struct lorica_record *record, const uint8_t *data,
                        size_t len) {
    if (rc || record->len != len || memcmp(record->bytes, data, len) != 0)
        abort();
}

static void fuzz_audit(const uint8_t *data, size_t len) {
    struct lorica_audit audit;
    struct lorica_record record;
    if (lorica_record_decode_audit(data, len, &audit) != 0)
        return;
    expect_same(lorica_record_encode_audit(&audit, &record), &record, data, len - 32);
    if (memcmp(audit.hash.bytes, data + len - 32, 32) != 0)
        abort();
}

static void fuzz_version(const uint8_t *data, size_t len) {
    struct lorica_version version;
    struct lorica_record record;
    if (lorica_record_decode_version(data, len, &version) == 0)
        expect_same(lorica_record_encode_version(&version, &record), &record, data, len);
}

static void fuzz_key(const uint8_t *data, size_t len) {
    struct lorica_key_record key;
    struct lorica_record record;
    if (lorica_record_decode_key(data, len, &key) == 0)
        expect_same(lorica_record_encode_key(&key, &record), &record, data, len);
}

static void fuzz_policy(const uint8_t *data, size_t len) {
    struct lorica_policy_record policy;
    struct lorica_approval_record approval;
    struct lorica_record record;
    if (lorica_record_decode_policy(data, len, &policy) == 0)
        expect_same(lorica_record_encode_policy(&policy, &record), &record, data, len);
    if (lorica_record_decode_approval(data, len, &approval) == 0)
        expect_same(lorica_record_encode_approval(&approval, &record), &record, data, len);
}

static void fuzz_sign(const uint8_t *data, size_t len) {
    struct lorica_signer_record signer;
    struct lorica_signature_record signature;
    struct lorica_record_key key;
    struct lorica_record record;
    struct lorica_digest id;
    char name[LORICA_NAME_MAX + 1];
    uint64_t number;
    if (lorica_record_decode_signer(data, len, &signer) == 0)
        expect_same(lorica_record_encode_signer(&signer, &record), &record, data, len);
    if (lorica_record_decode_signature(data, len, &signature) == 0) {
        if ((const uint8_t *)signature.text + signature.text_len != data + len)
            abort();
        expect_same(lorica_record_encode_signature(&signature, &record), &record, data,
                    len - signature.text_len);
    }
    if (lorica_record_key_split_signature(data, len, name, &number, &id)) {
        lorica_record_key_signature(name, number, &id, &key);
        if (key.len != len || memcmp(key.bytes, data, len) != 0)
            abort();
    }
}

/* A key that comes apart goes together again. */
static void fuzz_key_split(const uint8_t *data, size_t len) {
    char name[LORICA_NAME_MAX + 1], channel[LORICA_CHANNEL_MAX + 1], by[LORICA_NAME_MAX + 1];
    struct lorica_record_key key;
    uint64_t number;
    if (lorica_record_key_split(data, len, name, channel, NULL, NULL)) {
        lorica_record_key_channel(name, channel, &key);
        if (key.len != len || memcmp(key.bytes, data, len) != 0)
            abort();
    }
    if (lorica_record_key_split(data, len, name, channel, &number, by) && number > 0) {
        lorica_record_key_approval(name, channel, number, by, &key);
        if (key.len != len || memcmp(key.bytes, data, len) != 0)
            abort();
    }
}

static void fuzz_small(const uint8_t *data, size_t len) {
    struct lorica_channel_record channel;
    struct lorica_tombstone_record tombstone;
    struct lorica_retention_record retention;
    struct lorica_record record;
    char name[LORICA_NAME_MAX + 1];
    struct lorica_split_record split;
    uint64_t number;
    if (lorica_record_decode_split(data, len, &split) == 0)
        expect_same(lorica_record_encode_split(&split, &record), &record, data, len);
    if (lorica_record_decode_channel(data, len, &channel) == 0)
        expect_same(lorica_record_encode_channel(&channel, &record), &record, data, len);
    if (lorica_record_decode_tombstone(data, len, &tombstone) == 0)
        expect_same(lorica_record_encode_tombstone(&tombstone, &record), &record, data, len);
    if (lorica_record_decode_retention(data, len, &retention) == 0)
        expect_same(lorica_record_encode_retention(&retention, &record), &record, data, len);
    if (lorica_record_decode_number(data, len, &number) == 0)
        expect_same(lorica_record_encode_number(number, &record), &record, data, len);
    if (lorica_record_decode_name(data, len, name) == 0)
        expect_same(lorica_record_encode_name(name, &record), &record, data, len);
    if (lorica_record_key_of(data, len, "cardiology", &number) && len != 19)
        abort();
    if (lorica_record_key_split_numbered(data, len, name, &number)) {
        struct lorica_record_key key;
        lorica_record_key_numbered(name, number, &key);
        if (key.len != len || memcmp(key.bytes, data, len) != 0)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    static void (*const kinds[])(const uint8_t *, size_t) = {
        fuzz_audit, fuzz_version, fuzz_key, fuzz_small, fuzz_policy, fuzz_key_split, fuzz_sign};
    if (len > 0)
        kinds[data[0] % (sizeof(kinds) / sizeof(kinds[0]))](data + 1, len - 1);
    return 0;
}
