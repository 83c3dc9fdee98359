/* SPDX-License-Identifier: MIT
 * The list of a model's files as its statement has it: the two orders, names, and writing what is
 * read. tests/http/test_sign.py checks each malformed form on real bundles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/model_signing.h"

/* A hasher that gives the XOR of its input: enough to tell lists apart. */
static void *xor_create(void) { return calloc(1, sizeof(struct lorica_digest)); }
static int xor_update(void *stream, const void *bytes, size_t len) {
    for (size_t i = 0; i < len; i++)
        ((struct lorica_digest *)stream)->bytes[i % 32] ^= ((const uint8_t *)bytes)[i];
    return 0;
}
static int xor_finish(void *stream, struct lorica_digest *ret) {
    if (ret)
        *ret = *(struct lorica_digest *)stream;
    free(stream);
    return 0;
}
static const struct lorica_hasher xor_hasher = {xor_create, xor_update, xor_finish};

static int parse_names(const char *const *names, size_t count, struct lorica_error *err) {
    struct lorica_model_file files[8];
    struct lorica_model_manifest m = {.subject = (char *)(uintptr_t) "m", .files = files}, again;
    struct lorica_buf out;
    for (size_t i = 0; i < count; i++)
        files[i] = (struct lorica_model_file){(char *)(uintptr_t)names[i], {{(uint8_t)(i + 1)}}};
    m.file_count = count;
    lorica_buf_init(&out, 1 << 16);
    assert_int_equal(lorica_model_manifest_write(&out, &m, &xor_hasher), 0);
    const int rc = lorica_model_manifest_parse(out.data, out.len, &xor_hasher, &again, err);
    if (rc == 0) {
        assert_int_equal(again.file_count, count);
        for (size_t i = 0; i < count; i++) {
            assert_string_equal(again.files[i].name, names[i]);
            assert_true(lorica_digest_equal(&again.files[i].digest, &files[i].digest));
        }
        lorica_model_manifest_finish(&again);
    }
    lorica_buf_finish(&out);
    return rc;
}

static void test_files_in_either_order(void **state) {
    struct lorica_error err = {0};
    static const char *const code_points[] = {"a.txt", "a/b", "b", "\xc3\xa9", "\xf0\x9f\x98\x80"};
    static const char *const parts[] = {"a/b", "a/c", "a-x", "a.txt", "b"};
    static const char *const neither[] = {"a/b", "a.txt", "c/d", "c", "b"};
    static const char *const twice[] = {"a", "a"};
    static const char *const mixed[] = {"a/b", "a.txt", "b.txt", "b/c"};
    assert_int_equal(parse_names(code_points, 5, &err), 0);
    assert_int_equal(parse_names(parts, 5, &err), 0);
    assert_int_equal(parse_names(neither, 5, &err), LORICA_EFORMAT);
    assert_non_null(strstr(err.text, "not sorted"));
    assert_int_equal(parse_names(mixed, 4, &err), LORICA_EFORMAT);
    assert_non_null(strstr(err.text, "not sorted"));
    assert_int_equal(parse_names(twice, 2, &err), LORICA_EFORMAT);
    assert_non_null(strstr(err.text, "twice"));
}

static void test_names(void **state) {
    static const char *const good[] = {"a", "a/b", "...", ".a", "a..b", "a b", "\xc3\xa9"};
    static const char *const bad[] = {"",   "/",   "/a",  "a/",   "a//b", ".",
                                      "..", "./a", "a/.", "../a", "a/..", "a/../b"};
    char text[LORICA_MODEL_NAME_MAX + 2];
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(lorica_model_name_valid(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(lorica_model_name_valid(bad[i]));
    memset(text, 'a', sizeof(text));
    text[LORICA_MODEL_NAME_MAX + 1] = '\0';
    assert_false(lorica_model_name_valid(text));
    text[LORICA_MODEL_NAME_MAX] = '\0';
    assert_true(lorica_model_name_valid(text));
}

static void test_bundle_reads_what_it_writes(void **state) {
    struct lorica_envelope e = {.payload_type = (char *)(uintptr_t)LORICA_PAYLOAD_INTOTO,
                                .payload = (uint8_t *)(uintptr_t) "{}",
                                .payload_len = 2,
                                .sig = (uint8_t *)(uintptr_t) "sig",
                                .sig_len = 3,
                                .keyid = (char *)(uintptr_t) "0123"};
    struct lorica_bundle bundle = {.hint = NULL};
    struct lorica_error err = {0};
    struct lorica_buf out;
    lorica_buf_init(&out, 1000);
    assert_int_equal(lorica_bundle_write(&out, &e), 0);
    assert_int_equal(lorica_bundle_parse(out.data, out.len, &bundle, &err), 0);
    assert_string_equal(bundle.hint, "0123");
    assert_null(bundle.envelope.keyid);
    assert_memory_equal(bundle.envelope.payload, "{}", 3);
    lorica_bundle_finish(&bundle);
    lorica_buf_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_in_either_order),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_bundle_reads_what_it_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
