/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/buf.h"
#include "proto/openai.h"

#define CHAT "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TEXT "{\"model\":\"m\",\"prompt\":\"hi\""

static struct lorica_openai_request request;
static struct lorica_openai_fault fault;

static int parse(enum lorica_openai_endpoint endpoint, const char *body) {
    return lorica_openai_parse(endpoint, body, strlen(body), &request, &fault);
}

/* A body that must be refused with this code, naming this parameter. */
static void refused(enum lorica_openai_endpoint endpoint, const char *body, int rc,
                    const char *param) {
    assert_int_equal(parse(endpoint, body), rc);
    assert_string_equal(fault.param, param);
    assert_int_equal(fault.err.code, rc);
    if (*param)
        assert_non_null(strstr(fault.err.text, param));
    assert_null(request.root);
}

/* One more member behind the least body, "key":value. */
static int with(enum lorica_openai_endpoint endpoint, const char *key, const char *value) {
    char body[4096];
    snprintf(body, sizeof(body), "%s,\"%s\":%s}", endpoint == LORICA_OPENAI_CHAT ? CHAT : TEXT, key,
             value);
    return parse(endpoint, body);
}

static void accepts(enum lorica_openai_endpoint endpoint, const char *key, const char *value) {
    assert_int_equal(with(endpoint, key, value), 0);
    lorica_openai_finish(&request);
}

static void refuses(enum lorica_openai_endpoint endpoint, const char *key, const char *value) {
    assert_int_not_equal(with(endpoint, key, value), 0);
    assert_string_equal(fault.param, key);
    assert_non_null(fault.code);
}

static void test_chat_least_body_has_defaults(void **state) {
    (void)state;
    assert_int_equal(parse(LORICA_OPENAI_CHAT, CHAT "}"), 0);
    assert_string_equal(request.model, "m");
    assert_int_equal(request.message_count, 1);
    assert_string_equal(request.messages[0].role, "user");
    assert_string_equal(request.messages[0].content, "hi");
    assert_true(request.temperature == 1 && request.top_p == 1 && request.min_p == 0);
    assert_true(request.presence_penalty == 0 && request.frequency_penalty == 0);
    assert_true(!request.stream && !request.include_usage && !request.has_seed);
    assert_true(request.n == 1 && request.max_tokens == 0 && request.top_logprobs == -1);
    assert_true(request.stop_count == 0 && request.bias_count == 0 && request.top_k == 0);
    lorica_openai_finish(&request);
    assert_int_equal(parse(LORICA_OPENAI_COMPLETION, TEXT "}"), 0);
    assert_string_equal(request.prompt, "hi");
    assert_int_equal(request.max_tokens, 16);
    lorica_openai_finish(&request);
}

static void test_chat_every_key_is_read(void **state) {
    (void)state;
    assert_int_equal(
        parse(LORICA_OPENAI_CHAT,
              CHAT ",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                   "\"max_completion_tokens\":7,\"temperature\":0.5,\"top_p\":0.9,\"top_k\":40,"
                   "\"min_p\":0.05,\"seed\":-1,\"stop\":[\"a\",\"b\"],\"n\":2,\"logprobs\":true,"
                   "\"top_logprobs\":3,\"presence_penalty\":-2,\"frequency_penalty\":2,"
                   "\"logit_bias\":{\"7\":-100,\"0\":1.5},\"ignore_eos\":true,\"user\":\"u\"}"),
        0);
    assert_true(request.stream && request.include_usage && request.ignore_eos);
    assert_int_equal(request.max_tokens, 7);
    assert_true(request.temperature == 0.5 && request.top_p == 0.9 && request.min_p == 0.05);
    assert_true(request.presence_penalty == -2 && request.frequency_penalty == 2);
    assert_true(request.has_seed && request.seed == UINT64_MAX);
    assert_true(request.top_k == 40 && request.n == 2 && request.top_logprobs == 3);
    assert_int_equal(request.stop_count, 2);
    assert_string_equal(request.stop[1], "b");
    assert_int_equal(request.bias_count, 2);
    assert_true(request.bias[0].id == 7 && request.bias[0].bias == -100);
    assert_true(request.bias[1].id == 0 && request.bias[1].bias == 1.5f);
    assert_string_equal(request.user, "u");
    lorica_openai_finish(&request);
}

static void test_messages_parts_and_roles_are_read(void **state) {
    (void)state;
    assert_int_equal(
        parse(LORICA_OPENAI_CHAT,
              "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":"
              "\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":"
              "\"assistant\",\"content\":\"\",\"refusal\":null,\"tool_calls\":[]},"
              "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"}]}]}"),
        0);
    assert_string_equal(request.messages[0].role, "system");
    assert_string_equal(request.messages[0].content, "a\nb");
    assert_string_equal(request.messages[1].content, "");
    assert_string_equal(request.messages[2].content, "");
    lorica_openai_finish(&request);
}

static void test_messages_wrong_are_refused_by_place(void **state) {
    (void)state;
    static const struct {
        const char *messages;
        int rc;
        const char *param;
    } cases[] = {
        {"[]", LORICA_EINVAL, "messages"},
        {"{}", LORICA_EINVAL, "messages"},
        {"null", LORICA_EINVAL, "messages"},
        {"[1]", LORICA_EINVAL, "messages[0]"},
        {"[{\"content\":\"x\"}]", LORICA_EINVAL, "messages[0].role"},
        {"[{\"role\":\"tool\",\"content\":\"x\"}]", LORICA_EUNSUPPORTED, "messages[0].role"},
        {"[{\"role\":\"user\"}]", LORICA_EINVAL, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":null}]", LORICA_EINVAL, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":[]}]", LORICA_EINVAL, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":3}]", LORICA_EINVAL, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":\"x\",\"name\":\"n\"}]", LORICA_EUNSUPPORTED,
         "messages[0].name"},
        {"[{\"role\":\"user\",\"content\":\"x\",\"zzz\":null}]", LORICA_EUNSUPPORTED,
         "messages[0].zzz"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]", LORICA_EUNSUPPORTED,
         "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", LORICA_EINVAL,
         "messages[0].content[0].text"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\",\"y\":1}]}]",
         LORICA_EUNSUPPORTED, "messages[0].content[0].y"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char body[500];
        snprintf(body, sizeof(body), "{\"model\":\"m\",\"messages\":%s}", cases[i].messages);
        refused(LORICA_OPENAI_CHAT, body, cases[i].rc, cases[i].param);
    }
}

static void test_prompt_forms_are_read_or_refused(void **state) {
    (void)state;
    assert_int_equal(
        parse(LORICA_OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":[0,5,2147483647]}"), 0);
    assert_null(request.prompt);
    assert_int_equal(request.prompt_id_count, 3);
    assert_int_equal(request.prompt_ids[2], INT32_MAX);
    lorica_openai_finish(&request);
    assert_int_equal(parse(LORICA_OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"x\"]}"), 0);
    assert_string_equal(request.prompt, "x");
    lorica_openai_finish(&request);
    static const char *const bad[] = {"[]", "[\"a\",\"b\"]", "[[1]]", "{}", "7", "null"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char body[100];
        snprintf(body, sizeof(body), "{\"model\":\"m\",\"prompt\":%s}", bad[i]);
        assert_int_not_equal(parse(LORICA_OPENAI_COMPLETION, body), 0);
        assert_string_equal(fault.param, "prompt");
    }
    refused(LORICA_OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,2147483648]}", LORICA_EINVAL,
            "prompt[1]");
    refused(LORICA_OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,-1]}", LORICA_EINVAL,
            "prompt[1]");
}

static void test_numbers_limits_are_exact(void **state) {
    (void)state;
    static const struct {
        const char *key;
        const char *good[3];
        const char *bad[4];
    } cases[] = {
        {"temperature", {"0", "2", "1.999"}, {"-0.001", "2.001", "\"1\"", "[]"}},
        {"top_p", {"0", "1", "0.5"}, {"-0.1", "1.001", "true", "{}"}},
        {"min_p", {"0", "1", "0.5"}, {"-0.1", "1.001", "true", "{}"}},
        {"top_k", {"-1", "0", "2147483647"}, {"-2", "2147483648", "1.5", "\"1\""}},
        {"n", {"1", "7", "8"}, {"0", "9", "1.5", "true"}},
        {"max_tokens", {"1", "1048575", "1048576"}, {"0", "-1", "1048577", "1.5"}},
        {"presence_penalty", {"-2", "0", "2"}, {"-2.01", "2.01", "\"\"", "[]"}},
        {"frequency_penalty", {"-2", "0", "2"}, {"-2.01", "2.01", "\"\"", "[]"}},
        {"seed", {"0", "-9007199254740992", "9007199254740992"}, {"1e17", "0.5", "\"\"", "[]"}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        accepts(LORICA_OPENAI_CHAT, cases[i].key, "null");
        for (int j = 0; j < 3; j++)
            accepts(LORICA_OPENAI_CHAT, cases[i].key, cases[i].good[j]);
        for (int j = 0; j < 4; j++)
            refuses(LORICA_OPENAI_CHAT, cases[i].key, cases[i].bad[j]);
    }
}

static void test_logprobs_differ_by_endpoint(void **state) {
    (void)state;
    assert_int_equal(with(LORICA_OPENAI_CHAT, "logprobs", "true"), 0);
    assert_int_equal(request.top_logprobs, 0);
    lorica_openai_finish(&request);
    assert_int_equal(with(LORICA_OPENAI_COMPLETION, "logprobs", "20"), 0);
    assert_int_equal(request.top_logprobs, 20);
    lorica_openai_finish(&request);
    accepts(LORICA_OPENAI_CHAT, "logprobs", "false");
    refuses(LORICA_OPENAI_CHAT, "logprobs", "1");
    refuses(LORICA_OPENAI_COMPLETION, "logprobs", "true");
    refuses(LORICA_OPENAI_COMPLETION, "logprobs", "21");
    refuses(LORICA_OPENAI_CHAT, "top_logprobs", "5");
    refused(LORICA_OPENAI_CHAT, CHAT ",\"logprobs\":true,\"top_logprobs\":21}", LORICA_EINVAL,
            "top_logprobs");
}

static void test_counts_limits_are_exact(void **state) {
    (void)state;
    struct lorica_buf body;
    lorica_buf_init(&body, 1 << 20);
    for (int count = 255; count <= 257; count++) {
        lorica_buf_clear(&body);
        lorica_buf_puts(&body, "{\"model\":\"m\",\"messages\":[");
        for (int i = 0; i < count; i++)
            lorica_buf_printf(&body, "%s{\"role\":\"user\",\"content\":\"x\"}", i ? "," : "");
        lorica_buf_puts(&body, "]}");
        assert_int_equal(parse(LORICA_OPENAI_CHAT, body.data), count <= 256 ? 0 : LORICA_ELIMIT);
        lorica_openai_finish(&request);
    }
    for (int count = 1023; count <= 1025; count++) {
        lorica_buf_clear(&body);
        lorica_buf_puts(&body, TEXT ",\"logit_bias\":{");
        for (int i = 0; i < count; i++)
            lorica_buf_printf(&body, "%s\"%d\":1", i ? "," : "", i);
        lorica_buf_puts(&body, "}}");
        assert_int_equal(parse(LORICA_OPENAI_COMPLETION, body.data),
                         count <= 1024 ? 0 : LORICA_ELIMIT);
        lorica_openai_finish(&request);
    }
    for (int len = 1023; len <= 1025; len++) {
        char stop[1100], model[700];
        snprintf(stop, sizeof(stop), "\"%0*d\"", len, 0);
        assert_int_equal(with(LORICA_OPENAI_CHAT, "stop", stop), len <= 1024 ? 0 : LORICA_EINVAL);
        lorica_openai_finish(&request);
        snprintf(model, sizeof(model), "{\"prompt\":\"\",\"model\":\"%0*d\"}", len - 512, 0);
        assert_int_equal(parse(LORICA_OPENAI_COMPLETION, model), len <= 1024 ? 0 : LORICA_EINVAL);
        lorica_openai_finish(&request);
    }
    lorica_buf_finish(&body);
    accepts(LORICA_OPENAI_CHAT, "stop", "[\"a\",\"b\",\"c\",\"d\"]");
    refuses(LORICA_OPENAI_CHAT, "stop", "[\"a\",\"b\",\"c\",\"d\",\"e\"]");
    refuses(LORICA_OPENAI_CHAT, "stop", "\"\"");
    refuses(LORICA_OPENAI_CHAT, "stop", "3");
}

static void test_logit_bias_hostile_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"\"-1\":1",    "\"07\":1",         "\"x\":1",
                                      "\"\":1",      "\"1\":101",        "\"1\":-100.5",
                                      "\"1\":\"a\"", "\"2147483648\":1", "\"99999999999\":1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char value[100];
        snprintf(value, sizeof(value), "{%s}", bad[i]);
        assert_int_equal(with(LORICA_OPENAI_CHAT, "logit_bias", value), LORICA_EINVAL);
        assert_int_equal(strncmp(fault.param, "logit_bias.", 11), 0);
    }
    accepts(LORICA_OPENAI_CHAT, "logit_bias", "{\"2147483647\":100}");
    refuses(LORICA_OPENAI_CHAT, "logit_bias", "[]");
}

static void test_other_keys_only_when_they_ask_for_nothing(void **state) {
    (void)state;
    static const char *const good[][2] = {
        {"metadata", "{\"a\":\"b\"}"},
        {"store", "false"},
        {"service_tier", "\"auto\""},
        {"tools", "[]"},
        {"tools", "null"},
        {"tool_choice", "\"none\""},
        {"parallel_tool_calls", "true"},
        {"response_format", "{ \"type\" : \"text\" }"},
        {"modalities", "[\"text\"]"},
        {"repetition_penalty", "1.0"},
        {"audio", "null"},
        {"safety_identifier", "\"x\""},
    };
    static const char *const bad[][2] = {
        {"metadata", "3"},
        {"store", "true"},
        {"service_tier", "\"flex\""},
        {"tools", "[{\"type\":\"function\"}]"},
        {"tool_choice", "\"required\""},
        {"response_format", "{\"type\":\"json_object\"}"},
        {"modalities", "[\"text\",\"audio\"]"},
        {"repetition_penalty", "1.1"},
        {"audio", "{}"},
        {"reasoning_effort", "\"high\""},
        {"best_of", "1"},
        {"prompt", "\"x\""},
        {"no_such_key", "null"},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        accepts(LORICA_OPENAI_CHAT, good[i][0], good[i][1]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        refuses(LORICA_OPENAI_CHAT, bad[i][0], bad[i][1]);
        assert_int_equal(fault.err.code, LORICA_EUNSUPPORTED);
    }
    accepts(LORICA_OPENAI_COMPLETION, "echo", "false");
    accepts(LORICA_OPENAI_COMPLETION, "suffix", "null");
    accepts(LORICA_OPENAI_COMPLETION, "best_of", "1");
    refuses(LORICA_OPENAI_COMPLETION, "echo", "true");
    refuses(LORICA_OPENAI_COMPLETION, "suffix", "\"x\"");
    refuses(LORICA_OPENAI_COMPLETION, "best_of", "2");
}

static void test_whole_body_is_judged(void **state) {
    (void)state;
    refused(LORICA_OPENAI_CHAT, "", LORICA_EFORMAT, "");
    refused(LORICA_OPENAI_CHAT, "[]", LORICA_EFORMAT, "");
    refused(LORICA_OPENAI_CHAT, "{", LORICA_EFORMAT, "");
    refused(LORICA_OPENAI_CHAT, CHAT ",\"model\":\"n\"}", LORICA_EFORMAT, "");
    refused(LORICA_OPENAI_CHAT, "{}", LORICA_EINVAL, "model");
    refused(LORICA_OPENAI_CHAT, "{\"model\":\"\"}", LORICA_EINVAL, "model");
    refused(LORICA_OPENAI_CHAT, "{\"model\":\"m\"}", LORICA_EINVAL, "messages");
    refused(LORICA_OPENAI_COMPLETION, "{\"model\":\"m\"}", LORICA_EINVAL, "prompt");
    refused(LORICA_OPENAI_CHAT, CHAT ",\"max_tokens\":1,\"max_completion_tokens\":2}",
            LORICA_EINVAL, "max_completion_tokens");
    refused(LORICA_OPENAI_CHAT, CHAT ",\"stream_options\":{}}", LORICA_EINVAL, "stream_options");
    refused(LORICA_OPENAI_CHAT, CHAT ",\"stream\":true,\"stream_options\":{\"x\":true}}",
            LORICA_EUNSUPPORTED, "stream_options.x");
    refused(LORICA_OPENAI_CHAT,
            CHAT ",\"stream\":true,\"stream_options\":{\"include_obfuscation\":true}}",
            LORICA_EUNSUPPORTED, "stream_options.include_obfuscation");
    accepts(LORICA_OPENAI_CHAT, "max_tokens", "2,\"max_completion_tokens\":2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_least_body_has_defaults),
        cmocka_unit_test(test_chat_every_key_is_read),
        cmocka_unit_test(test_messages_parts_and_roles_are_read),
        cmocka_unit_test(test_messages_wrong_are_refused_by_place),
        cmocka_unit_test(test_prompt_forms_are_read_or_refused),
        cmocka_unit_test(test_numbers_limits_are_exact),
        cmocka_unit_test(test_logprobs_differ_by_endpoint),
        cmocka_unit_test(test_counts_limits_are_exact),
        cmocka_unit_test(test_logit_bias_hostile_is_refused),
        cmocka_unit_test(test_other_keys_only_when_they_ask_for_nothing),
        cmocka_unit_test(test_whole_body_is_judged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
