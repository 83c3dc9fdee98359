/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "registry/digest.h"

static void assert_hex(const struct lorica_digest *digest, const char *expected) {
    char text[65];
    for (size_t i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", digest->bytes[i]);
    assert_string_equal(text, expected);
}

static void test_sha256_known_inputs_published_digests(void **state) {
    (void)state;
    struct lorica_digest digest;
    assert_int_equal(lorica_sha256("abc", 3, &digest), 0);
    assert_hex(&digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(lorica_sha256("", 0, &digest), 0);
    assert_hex(&digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void test_sha256_stream_in_pieces_equals_whole(void **state) {
    (void)state;
    uint8_t bytes[1000];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7);
    struct lorica_digest whole, pieces;
    assert_int_equal(lorica_sha256(bytes, sizeof(bytes), &whole), 0);
    void *stream = lorica_sha256_hasher.create();
    assert_non_null(stream);
    for (size_t at = 0; at < sizeof(bytes); at += 125)
        assert_int_equal(lorica_sha256_hasher.update(stream, bytes + at, 125), 0);
    assert_int_equal(lorica_sha256_hasher.finish(stream, &pieces), 0);
    assert_memory_equal(&whole, &pieces, sizeof(whole));
}

static void test_sha256_stream_abandoned_frees(void **state) {
    (void)state;
    void *stream = lorica_sha256_hasher.create();
    assert_non_null(stream);
    assert_int_equal(lorica_sha256_hasher.finish(stream, NULL), 0);
}

static void test_hmac_rfc4231_case2_published_value(void **state) {
    (void)state;
    struct lorica_digest digest;
    const char *text = "what do ya want for nothing?";
    assert_int_equal(lorica_hmac_sha256("Jefe", 4, text, strlen(text), &digest), 0);
    assert_hex(&digest, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

static void test_random_bytes_twice_differ(void **state) {
    (void)state;
    uint8_t a[32] = {0}, b[32] = {0};
    assert_int_equal(lorica_random_bytes(a, sizeof(a)), 0);
    assert_int_equal(lorica_random_bytes(b, sizeof(b)), 0);
    assert_false(lorica_equal_secret(a, b, sizeof(a)));
    assert_true(lorica_equal_secret(a, a, sizeof(a)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256_known_inputs_published_digests),
        cmocka_unit_test(test_sha256_stream_in_pieces_equals_whole),
        cmocka_unit_test(test_sha256_stream_abandoned_frees),
        cmocka_unit_test(test_hmac_rfc4231_case2_published_value),
        cmocka_unit_test(test_random_bytes_twice_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
