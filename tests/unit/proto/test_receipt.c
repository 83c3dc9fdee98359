/* SPDX-License-Identifier: MIT
 * The bytes of a receipt, and that each member is read back or refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/receipt.h"

#define HEX "00000000000000000000000000000000000000000000000000000000000000"
#define DIGEST(last) "\"sha256:" HEX last "\""

static const char
    expected[] = "{\"type\":\"lorica.receipt.v1\",\"request_id\":\"req-1\",\"created\":1764057317,"
                 "\"endpoint\":\"chat.completions\",\"base\":\"tiny\",\"base_digest\":" DIGEST("01") ",\"adapter\":\"cardiology@3\",\"adapter_digest\":" DIGEST(
                     "02") ",\"audit_seq\":12,"
                           "\"audit_hash\":" DIGEST("03") ",\"request_digest\":" DIGEST(
                               "04") ",\"prompt_digest\":" DIGEST("05") ",\"prompt_tokens_"
                                                                        "digest\":" DIGEST(
                                                                            "06") ","
                                                                                  "\"prompt_"
                                                                                  "tokens\":7,"
                                                                                  "\"sampling\":{"
                                                                                  "\"temperature\":"
                                                                                  "0.5,\"top_p\":1."
                                                                                  "0,\"top_k\":40,"
                                                                                  "\"min_p\":0.0,"
                                                                                  "\"presence_"
                                                                                  "penalty\":0.0,"
                                                                                  "\"frequency_"
                                                                                  "penalty\":-1.5,"
                                                                                  "\"seed\":"
                                                                                  "1844674407370955"
                                                                                  "1615,"
                                                                                  "\"max_tokens\":"
                                                                                  "9,\"n\":2,"
                                                                                  "\"ignore_eos\":"
                                                                                  "false},"
                                                                                  "\"outputs\":["
                                                                                  "{"
                                                                                  "\"index\":0,"
                                                                                  "\"digest\""
                                                                                  ":" DIGEST(
                                                                                      "07") ",\"tok"
                                                                                            "ens\":"
                                                                                            "3,"
                                                                                            "\"fini"
                                                                                            "sh_"
                                                                                            "reason"
                                                                                            "\":"
                                                                                            "\"stop"
                                                                                            "\"},"
                                                                                            "{\"ind"
                                                                                            "ex\":"
                                                                                            "1,"
                                                                                            "\"dige"
                                                                                            "st\""
                                                                                            ":" DIGEST(
                                                                                                "0"
                                                                                                "8") ",\"tokens\":9,\"finish_reason\":\"length\"}]}";

static struct lorica_receipt sample(void) {
    struct lorica_receipt r;
    memset(&r, 0, sizeof(r));
    memcpy(r.request_id, "req-1", 5);
    memcpy(r.base, "tiny", 4);
    memcpy(r.adapter, "cardiology@3", 12);
    r.created = 1764057317;
    r.audit_seq = 12;
    r.prompt_tokens = 7;
    r.temperature = 0.5;
    r.top_p = 1;
    r.frequency_penalty = -1.5;
    r.top_k = 40;
    r.max_tokens = 9;
    r.seed = UINT64_MAX;
    r.output_count = 2;
    struct lorica_digest *const digests[] = {
        &r.base_digest,   &r.adapter_digest,       &r.audit_hash,        &r.request_digest,
        &r.prompt_digest, &r.prompt_tokens_digest, &r.outputs[0].digest, &r.outputs[1].digest};
    for (size_t i = 0; i < sizeof(digests) / sizeof(digests[0]); i++)
        digests[i]->bytes[31] = (uint8_t)(i + 1);
    r.outputs[0].tokens = 3;
    r.outputs[1].tokens = 9;
    memcpy(r.outputs[0].finish_reason, "stop", 4);
    memcpy(r.outputs[1].finish_reason, "length", 6);
    return r;
}

static void test_receipt_bytes_and_back(void **state) {
    struct lorica_receipt r = sample(), again;
    struct lorica_error err = {0};
    struct lorica_buf out;
    lorica_buf_init(&out, 8192);
    assert_int_equal(lorica_receipt_write(&out, &r), 0);
    assert_string_equal(out.data, expected);
    assert_int_equal(lorica_receipt_parse(out.data, out.len, &again, &err), 0);
    r.temperature = r.top_p = r.frequency_penalty = 0; /* the sampling is not read back */
    r.top_k = r.max_tokens = 0;
    r.seed = 0;
    assert_memory_equal(&r, &again, sizeof(r));
    r.adapter[0] = '\0';
    lorica_buf_clear(&out);
    assert_int_equal(lorica_receipt_write(&out, &r), 0);
    assert_non_null(strstr(out.data, "\"adapter\":null,\"adapter_digest\":null"));
    assert_int_equal(lorica_receipt_parse(out.data, out.len, &again, &err), 0);
    assert_string_equal(again.adapter, "");
    lorica_buf_finish(&out);
}

static void test_receipt_members_that_are_not_as_they_must_be(void **state) {
    static const char *const edits[][3] = {
        {"receipt.v1", "receipt.v2", "type"},
        {"\"chat.completions\"", "\"embeddings\"", "endpoint"},
        {"\"request_id\"", "\"request\"", "request_id"},
        {"1764057317", "-1", "created"},
        {"\"tiny\"", "5", "base"},
        {"\"base_digest\":\"sha256:", "\"base_digest\":\"sha1:", "base_digest"},
        {"\"cardiology@3\"", "3", "adapter"},
        {"\"adapter_digest\"", "\"a\"", "adapter_digest"},
        {":12,", ":1.5,", "audit_seq"},
        {"\"audit_hash\"", "\"a\"", "audit_hash"},
        {"\"request_digest\"", "\"a\"", "request_digest"},
        {"\"prompt_digest\"", "\"a\"", "prompt_digest"},
        {"\"prompt_tokens_digest\"", "\"a\"", "prompt_tokens_digest"},
        {"\"prompt_tokens\":7", "\"prompt_tokens\":\"7\"", "prompt_tokens"},
        {"\"outputs\":[", "\"outputs\":[],\"o\":[", "outputs"},
        {"\"tokens\":3", "\"tokens\":-3", "tokens"},
        {"\"stop\"", "\"because of everything\"", "finish_reason"},
    };
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        struct lorica_receipt r;
        struct lorica_error err = {0};
        char text[4096];
        const char *at = strstr(expected, edits[i][0]);
        assert_non_null(at);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - expected), expected, edits[i][1],
                 at + strlen(edits[i][0]));
        assert_int_equal(lorica_receipt_parse(text, strlen(text), &r, &err), LORICA_EFORMAT);
        assert_non_null(strstr(err.text, edits[i][2]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_receipt_bytes_and_back),
        cmocka_unit_test(test_receipt_members_that_are_not_as_they_must_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
