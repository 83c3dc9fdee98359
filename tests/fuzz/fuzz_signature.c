/* SPDX-License-Identifier: MIT
 * Signatures from any bytes: base64, envelopes, bundles, their lists of files, statements, keys,
 * receipts. The first byte chooses. What is read must be written in the same way again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base64.h"
#include "proto/model_signing.h"
#include "proto/receipt.h"
#include "proto/statement.h"
#include "registry/digest.h"
#include "registry/signkey.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void expect(bool holds) {
    if (!holds)
        abort();
}

static void fuzz_base64(const char *text, size_t len) {
    uint8_t *bytes = NULL, *again = NULL;
    size_t nbytes = 0, same = 0;
    struct lorica_buf out;
    if (lorica_base64_decode(text, len, &bytes, &nbytes) != 0)
        return;
    lorica_buf_init(&out, 2 * len + 8);
    expect(lorica_base64_encode(&out, bytes, nbytes) == 0 && out.len == len);
    expect(lorica_base64_decode(len ? out.data : "", len, &again, &same) == 0 && same == nbytes &&
           memcmp(bytes, again, same) == 0);
    lorica_buf_finish(&out);
    free(bytes);
    free(again);
}

static void fuzz_envelope(const char *text, size_t len) {
    struct lorica_envelope e, again;
    struct lorica_error err;
    struct lorica_buf out;
    if (lorica_envelope_parse(text, len, &e, &err) != 0)
        return;
    lorica_buf_init(&out, 4 * LORICA_ENVELOPE_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_envelope_write(&w, NULL, &e);
    expect(lorica_buf_status(&out) == 0);
    if (out.len <= LORICA_ENVELOPE_MAX) { /* escapes may make it longer than what was read */
        expect(lorica_envelope_parse(out.data, out.len, &again, &err) == 0);
        expect(again.payload_len == e.payload_len && again.sig_len == e.sig_len &&
               strcmp(again.payload_type, e.payload_type) == 0 &&
               memcmp(again.payload, e.payload, e.payload_len) == 0);
        lorica_envelope_finish(&again);
    }
    lorica_buf_finish(&out);
    lorica_envelope_finish(&e);
}

static void fuzz_manifest(const char *text, size_t len) {
    struct lorica_model_manifest m, again;
    struct lorica_error err;
    struct lorica_buf out;
    if (lorica_model_manifest_parse(text, len, &lorica_sha256_hasher, &m, &err) != 0)
        return;
    expect(m.file_count > 0);
    for (size_t i = 0; i < m.file_count; i++)
        expect(m.files[i].name[0] != '/' && strcmp(m.files[i].name, "..") != 0 &&
               strncmp(m.files[i].name, "../", 3) != 0 && !strstr(m.files[i].name, "/../"));
    lorica_buf_init(&out, 64 * (len + 1024));
    expect(lorica_model_manifest_write(&out, &m, &lorica_sha256_hasher) == 0);
    expect(lorica_model_manifest_parse(out.data, out.len, &lorica_sha256_hasher, &again, &err) ==
           0);
    expect(again.file_count == m.file_count && again.ignored_count == m.ignored_count &&
           strcmp(again.subject, m.subject) == 0);
    lorica_model_manifest_finish(&again);
    lorica_model_manifest_finish(&m);
    lorica_buf_finish(&out);
}

static void fuzz_bundle(const char *text, size_t len) {
    struct lorica_bundle bundle;
    struct lorica_error err;
    if (lorica_bundle_parse(text, len, &bundle, &err) != 0)
        return;
    fuzz_manifest((const char *)bundle.envelope.payload, bundle.envelope.payload_len);
    lorica_bundle_finish(&bundle);
}

static void fuzz_statement(const char *text, size_t len) {
    struct lorica_statement s;
    struct lorica_error err;
    struct lorica_buf out;
    if (lorica_statement_parse(text, len, &s, &err) != 0)
        return;
    lorica_buf_init(&out, 2000);
    expect(lorica_statement_write(&out, &s) == 0 && out.len == len &&
           memcmp(out.data, text, len) == 0);
    lorica_buf_finish(&out);
}

static void fuzz_key(const char *text, size_t len) {
    struct lorica_signkey *key = NULL, *again = NULL;
    struct lorica_error err;
    if (lorica_signkey_public(text, len, &key, &err) != 0)
        return;
    const char *pem = lorica_signkey_public_pem(key);
    expect(lorica_signkey_public(pem, strlen(pem), &again, &err) == 0);
    expect(lorica_digest_equal(lorica_signkey_id(key), lorica_signkey_id(again)));
    lorica_signkey_destroy(key);
    lorica_signkey_destroy(again);
}

static void fuzz_receipt(const char *text, size_t len) {
    struct lorica_receipt r, again;
    struct lorica_error err;
    struct lorica_buf out;
    if (lorica_receipt_parse(text, len, &r, &err) != 0)
        return;
    lorica_buf_init(&out, 1 << 16);
    expect(lorica_receipt_write(&out, &r) == 0);
    expect(lorica_receipt_parse(out.data, out.len, &again, &err) == 0);
    expect(memcmp(&r, &again, sizeof(r)) == 0);
    lorica_buf_finish(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    static void (*const kinds[])(const char *, size_t) = {
        fuzz_base64,    fuzz_envelope, fuzz_bundle, fuzz_manifest,
        fuzz_statement, fuzz_key,      fuzz_receipt};
    if (len > 0)
        kinds[data[0] % (sizeof(kinds) / sizeof(kinds[0]))]((const char *)data + 1, len - 1);
    return 0;
}
