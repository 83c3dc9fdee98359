/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/openai_write.h"

static const struct lorica_openai_head chat = {LORICA_OPENAI_CHAT, "chatcmpl-1", "cardiology@3",
                                               "fp_1", 7};
static const struct lorica_openai_head text = {LORICA_OPENAI_COMPLETION, "cmpl-1", "base", NULL, 7};
static const struct lorica_openai_usage usage = {10, 2, 4};

#define USAGE                                                                                      \
    "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":2,\"total_tokens\":12,"                 \
    "\"prompt_tokens_details\":{\"cached_tokens\":4}}"
#define CHAT_HEAD(object)                                                                          \
    "{\"id\":\"chatcmpl-1\",\"object\":\"" object                                                  \
    "\",\"created\":7,\"model\":\"cardiology@3\",\"system_fingerprint\":\"fp_1\",\"choices\":["

static struct lorica_buf out;

static int setup(void **state) {
    (void)state;
    lorica_buf_init(&out, 100000);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    lorica_buf_finish(&out);
    return 0;
}

static void test_error_object_has_all_four(void **state) {
    (void)state;
    lorica_openai_write_error(&out, "no \"x\"", "invalid_request_error", "", "c");
    assert_string_equal(out.data, "{\"error\":{\"message\":\"no \\\"x\\\"\",\"type\":"
                                  "\"invalid_request_error\",\"param\":null,\"code\":\"c\"}}");
    lorica_buf_clear(&out);
    lorica_openai_write_error_event(&out, "m", "server_error", NULL);
    assert_string_equal(out.data, "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\","
                                  "\"param\":null,\"code\":null}}\n\n");
    assert_string_equal(lorica_openai_error_type(401), "authentication_error");
    assert_string_equal(lorica_openai_error_type(403), "permission_error");
    assert_string_equal(lorica_openai_error_type(404), "invalid_request_error");
    assert_string_equal(lorica_openai_error_type(429), "rate_limit_error");
    assert_string_equal(lorica_openai_error_type(503), "server_error");
}

static void test_chat_response_is_openais(void **state) {
    (void)state;
    const struct lorica_openai_choice choice = {
        .text = "hi", .text_len = 2, .finish_reason = "stop"};
    lorica_openai_write_response(&out, &chat, &choice, 1, &usage);
    assert_string_equal(out.data,
                        CHAT_HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":"
                                                     "\"assistant\",\"content\":\"hi\","
                                                     "\"refusal\":null},\"logprobs\":null,"
                                                     "\"finish_reason\":\"stop\"}]," USAGE "}");
}

static void test_chat_stream_is_openais(void **state) {
    (void)state;
    struct lorica_openai_choice choice = {.index = 1, .first = true};
    lorica_openai_write_chunk(&out, &chat, &choice, true);
    assert_string_equal(
        out.data, "data: " CHAT_HEAD("chat.completion.chunk") "{\"index\":1,\"delta\":{\"role\":"
                                                              "\"assistant\",\"content\":\"\"},"
                                                              "\"logprobs\":null,\"finish_reason\""
                                                              ":null}],\"usage\":null}\n\n");
    lorica_buf_clear(&out);
    choice.first = false;
    choice.finish_reason = "length";
    lorica_openai_write_chunk(&out, &chat, &choice, false);
    assert_string_equal(
        out.data, "data: " CHAT_HEAD("chat.completion.chunk") "{\"index\":1,\"delta\":{},"
                                                              "\"logprobs\":null,\"finish_reason\""
                                                              ":\"length\"}]}\n\n");
    lorica_buf_clear(&out);
    lorica_openai_write_usage_chunk(&out, &chat, &usage);
    lorica_openai_write_done(&out);
    assert_string_equal(out.data,
                        "data: " CHAT_HEAD("chat.completion.chunk") "]," USAGE "}\n\ndata: "
                                                                    "[DONE]\n\n");
}

static void test_chat_logprobs_show_bytes(void **state) {
    (void)state;
    const struct lorica_openai_top top = {"x", 1, -INFINITY};
    const struct lorica_openai_token token = {"\xe2\x80", 2, -0.5, &top, 1};
    const struct lorica_openai_choice choice = {
        .logprobs = true, .tokens = &token, .token_count = 1};
    lorica_openai_write_chunk(&out, &chat, &choice, false);
    assert_non_null(strstr(out.data, "\"logprob\":-0.5,\"bytes\":[226,128],\"top_logprobs\":[{"
                                     "\"token\":\"x\",\"logprob\":-9999.0,\"bytes\":[120]}]}],"
                                     "\"refusal\":null}"));
}

static void test_text_response_counts_characters(void **state) {
    (void)state;
    const struct lorica_openai_top tops[] = {{"\xc3\xa9", 2, -1}, {"\xc3\xa9", 2, -2}};
    const struct lorica_openai_token tokens[] = {{"\xc3\xa9", 2, -1, tops, 2},
                                                 {"\xff", 1, NAN, NULL, 0}};
    const struct lorica_openai_choice choice = {.text = "\xc3\xa9",
                                                .text_len = 2,
                                                .logprobs = true,
                                                .tokens = tokens,
                                                .token_count = 2,
                                                .text_offset = 5};
    lorica_openai_write_response(&out, &text, &choice, 1, &usage);
    assert_string_equal(
        out.data,
        "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":7,\"model\":\"base\","
        "\"system_fingerprint\":null,\"choices\":[{\"index\":0,\"text\":\"\xc3\xa9\",\"logprobs\":{"
        "\"tokens\":[\"\xc3\xa9\",\"bytes:\\\\xff\"],\"token_logprobs\":[-1.0,-9999.0],"
        "\"top_logprobs\":[{\"\xc3\xa9\":-1.0},{\"bytes:\\\\xff\":-9999.0}],\"text_offset\":[5,6]},"
        "\"finish_reason\":null}]," USAGE "}");
}

static void test_models_are_openais(void **state) {
    (void)state;
    const struct lorica_openai_model models[] = {{"base", 1, "lorica", NULL, "base"},
                                                 {"a", 2, "lorica", "base", "a@3"}};
    lorica_openai_write_models(&out, models, 2);
    assert_string_equal(
        out.data, "{\"object\":\"list\",\"data\":[{\"id\":\"base\",\"object\":\"model\",\"created\""
                  ":1,\"owned_by\":\"lorica\",\"root\":\"base\",\"parent\":null},{\"id\":\"a\","
                  "\"object\":\"model\",\"created\":2,\"owned_by\":\"lorica\",\"root\":\"a@3\","
                  "\"parent\":\"base\"}]}");
}

static void test_buffer_too_small_is_told(void **state) {
    (void)state;
    struct lorica_buf small;
    lorica_buf_init(&small, 20);
    assert_int_equal(lorica_openai_write_usage_chunk(&small, &chat, &usage), LORICA_ELIMIT);
    lorica_buf_finish(&small);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_error_object_has_all_four),       T(test_chat_response_is_openais),
        T(test_chat_stream_is_openais),          T(test_chat_logprobs_show_bytes),
        T(test_text_response_counts_characters), T(test_models_are_openais),
        T(test_buffer_too_small_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
