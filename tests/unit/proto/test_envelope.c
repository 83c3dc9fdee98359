/* SPDX-License-Identifier: MIT
 * Base64, envelopes and statements: the vectors of their specifications, and each malformed form by
 * its own sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base64.h"
#include "proto/envelope.h"
#include "proto/statement.h"

/* RFC 4648, section 10. */
static const struct {
    const char *bytes, *text;
} vectors[] = {{"", ""},
               {"f", "Zg=="},
               {"fo", "Zm8="},
               {"foo", "Zm9v"},
               {"foob", "Zm9vYg=="},
               {"fooba", "Zm9vYmE="},
               {"foobar", "Zm9vYmFy"}};

static void test_base64_vectors(void **state) {
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        struct lorica_buf out;
        uint8_t *bytes = NULL;
        size_t len = 99;
        lorica_buf_init(&out, 100);
        assert_int_equal(lorica_base64_encode(&out, vectors[i].bytes, strlen(vectors[i].bytes)), 0);
        assert_string_equal(out.data ? out.data : "", vectors[i].text);
        assert_int_equal(
            lorica_base64_decode(vectors[i].text, strlen(vectors[i].text), &bytes, &len), 0);
        assert_int_equal(len, strlen(vectors[i].bytes));
        assert_memory_equal(bytes, vectors[i].bytes, len + 1);
        free(bytes);
        lorica_buf_finish(&out);
    }
}

static void test_base64_both_alphabets_and_nothing_else(void **state) {
    static const char *const wrong[] = {"Z",     "Zg",   "Zg=",  "Zm9",  "Zm9v Zm9v",
                                        "Zh==",  "Zm9=", "====", "Z===", "Zg==Zg==",
                                        "Zm\nv", "Zm9.", "=m9v", "Zm=v"};
    uint8_t *bytes = NULL;
    size_t len = 0;
    assert_int_equal(lorica_base64_decode("-_+/", 4, &bytes, &len), 0);
    assert_memory_equal(bytes, "\xfb\xff\xbf", 3);
    free(bytes);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(lorica_base64_decode(wrong[i], strlen(wrong[i]), &bytes, &len),
                         LORICA_EFORMAT);
}

/* The example of DSSE's protocol.md. */
static void test_envelope_pae_vector(void **state) {
    struct lorica_buf out;
    lorica_buf_init(&out, 200);
    assert_int_equal(lorica_envelope_pae(&out, "http://example.com/HelloWorld", "hello world", 11),
                     0);
    assert_string_equal(out.data, "DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    lorica_buf_finish(&out);
}

#define SIG "\"signatures\":[{\"sig\":\"Zm9v\"}]"

static void test_envelope_reads_what_it_writes(void **state) {
    static const char text[] = "{\"payload\":\"Zm9vYg==\",\"payloadType\":\"t\",\"signatures\":"
                               "[{\"sig\":\"Zm9v\",\"keyid\":\"k\"}],\"publicKey\":\"p\\n\"}";
    struct lorica_envelope e = {0};
    struct lorica_error err = {0};
    struct lorica_buf out;
    lorica_buf_init(&out, 1000);
    struct lorica_jsonw w = {.out = &out};
    assert_int_equal(lorica_envelope_parse(text, strlen(text), &e, &err), 0);
    assert_int_equal(e.payload_len, 4);
    assert_memory_equal(e.payload, "foob", 5);
    assert_int_equal(e.sig_len, 3);
    assert_string_equal(e.keyid, "k");
    assert_string_equal(e.public_key, "p\n");
    lorica_envelope_write(&w, NULL, &e);
    assert_string_equal(out.data, text);
    lorica_buf_finish(&out);
    lorica_envelope_finish(&e);
    static const char null_id[] = "{\"payload\":\"Zm9vYg==\",\"payloadType\":\"t\",\"signatures\":"
                                  "[{\"sig\":\"Zm9v\",\"keyid\":null}]}";
    assert_int_equal(lorica_envelope_parse(null_id, strlen(null_id), &e, &err), 0);
    assert_null(e.keyid);
    assert_null(e.public_key);
    lorica_envelope_finish(&e);
}

static void test_envelope_malformed_is_named(void **state) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"[]", "must be a JSON object"},
        {"{\"payloadType\":\"t\"," SIG "}", "payload must be base64"},
        {"{\"payload\":\"\",\"payloadType\":\"t\"," SIG "}", "payload must be base64"},
        {"{\"payload\":\"Zm9\",\"payloadType\":\"t\"," SIG "}", "cut off"},
        {"{\"payload\":\"Zm9v\"," SIG "}", "payloadType must be text"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":1," SIG "}", "payloadType must be text"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":\"t\"}", "exactly one signature"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":\"t\",\"signatures\":[]}", "exactly one"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":\"t\",\"signatures\":[{\"sig\":\"Zm9v\"},"
         "{\"sig\":\"Zm9v\"}]}",
         "exactly one"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":\"t\",\"signatures\":[5]}", "must be an object"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":\"t\",\"signatures\":[{}]}", "sig must be base64"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":\"t\",\"signatures\":[{\"sig\":\"Zm9\"}]}",
         "cut off"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":\"t\",\"signatures\":[{\"sig\":\"Zm9v\",\"x\":1}]}",
         "\"x\" is not known"},
        {"{\"payload\":\"Zm9v\",\"payloadType\":\"t\"," SIG ",\"x\":1}", "\"x\" is not known"},
        {"{\"payload\":\"Zm9v\",\"payload\":\"Zm9v\",\"payloadType\":\"t\"," SIG "}", "payload"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_envelope e = {0};
        struct lorica_error err = {0};
        assert_int_equal(lorica_envelope_parse(cases[i].text, strlen(cases[i].text), &e, &err),
                         LORICA_EFORMAT);
        if (!strstr(err.text, cases[i].says))
            print_error("%s: %s\n", cases[i].text, err.text);
        assert_non_null(strstr(err.text, cases[i].says));
    }
}

#define HEX "00000000000000000000000000000000000000000000000000000000000000"
#define STATEMENT                                                                                  \
    "{\"type\":\"lorica.adapter.v1\",\"name\":\"cardiology\",\"digest\":\"sha256:" HEX "01\","     \
    "\"base_digest\":\"sha256:" HEX "02\",\"config_digest\":\"sha256:" HEX "03\","                 \
    "\"weights_digest\":\"sha256:" HEX "04\",\"manifest_digest\":%s,\"created\":1764057317}"

static void test_statement_bytes(void **state) {
    struct lorica_statement s = {.name = "cardiology", .created = 1764057317}, again;
    struct lorica_error err = {0};
    struct lorica_buf out;
    char expected[1000];
    s.digest.bytes[31] = 1;
    s.base_digest.bytes[31] = 2;
    s.config_digest.bytes[31] = 3;
    s.weights_digest.bytes[31] = 4;
    lorica_buf_init(&out, 2000);
    assert_int_equal(lorica_statement_write(&out, &s), 0);
    snprintf(expected, sizeof(expected), STATEMENT, "null");
    assert_string_equal(out.data, expected);
    assert_int_equal(lorica_statement_parse(out.data, out.len, &again, &err), 0);
    assert_null(lorica_statement_differ(&s, &again));
    assert_int_equal(again.created, s.created);
    s.has_manifest = true;
    s.manifest_digest.bytes[31] = 5;
    assert_string_equal(lorica_statement_differ(&s, &again), "manifest_digest");
    lorica_buf_clear(&out);
    assert_int_equal(lorica_statement_write(&out, &s), 0);
    snprintf(expected, sizeof(expected), STATEMENT, "\"sha256:" HEX "05\"");
    assert_string_equal(out.data, expected);
    s.name[0] = '"';
    assert_int_equal(lorica_statement_write(&out, &s), LORICA_EINVAL);
    lorica_buf_finish(&out);
}

static void test_statement_has_one_spelling(void **state) {
    static const char *const edits[][2] = {
        {"{\"type", "{ \"type"}, {"v1\"", "v2\""},         {"\"cardiology\"", "\"Card\""},
        {"1764057317", "-1"},    {"1764057317", "1.5"},    {"1764057317", "1764057317.0"},
        {"\"name\"", "\"nam\""}, {"sha256:" HEX "03", ""}, {"\"created\"", "\"x\":1,\"created\""}};
    char text[1000], edited[1200];
    snprintf(text, sizeof(text), STATEMENT, "null");
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        struct lorica_statement s;
        struct lorica_error err = {0};
        const char *at = strstr(text, edits[i][0]);
        assert_non_null(at);
        snprintf(edited, sizeof(edited), "%.*s%s%s", (int)(at - text), text, edits[i][1],
                 at + strlen(edits[i][0]));
        assert_int_equal(lorica_statement_parse(edited, strlen(edited), &s, &err), LORICA_EFORMAT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base64_vectors),
        cmocka_unit_test(test_base64_both_alphabets_and_nothing_else),
        cmocka_unit_test(test_envelope_pae_vector),
        cmocka_unit_test(test_envelope_reads_what_it_writes),
        cmocka_unit_test(test_envelope_malformed_is_named),
        cmocka_unit_test(test_statement_bytes),
        cmocka_unit_test(test_statement_has_one_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
