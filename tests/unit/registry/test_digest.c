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

static void test_seal_of_nothing_under_a_zero_key_published_value(void **state) {
    (void)state;
    static const uint8_t expected[16] = {0x58, 0xe2, 0xfc, 0xce, 0xfa, 0x7e, 0x30, 0x61,
                                         0x36, 0x7f, 0x1d, 0x57, 0xa4, 0xe7, 0x45, 0x5a};
    struct lorica_seal seal = {{0}, {0}}; /* GCM's specification, test case 1 */
    void *stream = lorica_seal_create(&seal);
    assert_non_null(stream);
    assert_int_equal(lorica_seal_finish(stream, &seal), 0);
    assert_memory_equal(seal.tag, expected, sizeof(expected));
}

static void seal_in_pieces(struct lorica_seal *seal, const uint8_t *bytes, size_t len,
                           size_t piece) {
    void *stream = lorica_seal_create(seal);
    assert_non_null(stream);
    for (size_t at = 0; at < len; at += piece)
        assert_int_equal(
            lorica_seal_update(stream, bytes + at, len - at < piece ? len - at : piece), 0);
    assert_int_equal(lorica_seal_finish(stream, seal), 0);
}

static void test_seal_same_bytes_same_tag_other_bytes_or_key_another(void **state) {
    (void)state;
    uint8_t bytes[1000];
    struct lorica_seal whole, pieces, other;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7);
    assert_int_equal(lorica_seal_draw(&whole), 0);
    assert_int_equal(lorica_seal_draw(&other), 0);
    pieces = whole;
    seal_in_pieces(&whole, bytes, sizeof(bytes), sizeof(bytes));
    seal_in_pieces(&pieces, bytes, sizeof(bytes), 37);
    seal_in_pieces(&other, bytes, sizeof(bytes), sizeof(bytes));
    assert_memory_equal(whole.tag, pieces.tag, sizeof(whole.tag));
    assert_memory_not_equal(whole.tag, other.tag, sizeof(whole.tag));
    bytes[999] ^= 1;
    seal_in_pieces(&pieces, bytes, sizeof(bytes), 37);
    assert_memory_not_equal(whole.tag, pieces.tag, sizeof(whole.tag));
    void *stream = lorica_seal_create(&whole);
    assert_non_null(stream);
    assert_int_equal(lorica_seal_finish(stream, NULL), 0);
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
        cmocka_unit_test(test_seal_of_nothing_under_a_zero_key_published_value),
        cmocka_unit_test(test_seal_same_bytes_same_tag_other_bytes_or_key_another),
        cmocka_unit_test(test_hmac_rfc4231_case2_published_value),
        cmocka_unit_test(test_random_bytes_twice_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
