/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/pattern.h"
#include "proto/peft.h"

static int parse(const char *json, struct lorica_peft_config *ret, struct lorica_error *err) {
    *err = (struct lorica_error){0};
    const int rc = lorica_peft_parse(json, strlen(json), ret, err);
    assert_int_equal(rc, err->code);
    return rc;
}

static void test_parse_file_of_peft_0_21_accepted(void **state) {
    (void)state;
    FILE *file = fopen(TEST_DATA "/unit/proto/data/peft_0.21.json", "rb");
    assert_non_null(file);
    char json[8192];
    const size_t len = fread(json, 1, sizeof(json) - 1, file);
    fclose(file);
    json[len] = '\0';
    struct lorica_peft_config config;
    struct lorica_error err;
    assert_int_equal(parse(json, &config, &err), 0);
    assert_int_equal(config.r, 4);
    assert_true(config.use_rslora);
    uint32_t rank;
    double scale;
    assert_int_equal(
        lorica_peft_module(&config, "model.layers.1.self_attn.q_proj", &rank, &scale, &err), 0);
    assert_int_equal(rank, 8);
    assert_true(scale > 2.828 && scale < 2.829); /* 8 / sqrt(8) */
    assert_int_equal(
        lorica_peft_module(&config, "model.layers.2.self_attn.q_proj", &rank, &scale, &err), 0);
    assert_int_equal(rank, 4);
    assert_true(scale == 4);
    assert_int_equal(
        lorica_peft_module(&config, "model.layers.1.self_attn.v_proj", &rank, &scale, &err), 0);
    assert_int_equal(rank, 2);
    assert_true(scale > 22.62 && scale < 22.63); /* 32 / sqrt(2) */
    bool target;
    assert_int_equal(lorica_peft_targets(&config, "model.layers.1.self_attn.v_proj", &target, &err),
                     0);
    assert_true(target);
    assert_int_equal(lorica_peft_targets(&config, "model.layers.1.self_attn.k_proj", &target, &err),
                     0);
    assert_false(target);
    lorica_peft_finish(&config);
}

#define LORA "{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[\"q_proj\"]"

static void test_parse_variants_refused_by_name(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {LORA ",\"use_dora\":true}", "use_dora"},
        {LORA ",\"bias\":\"all\"}", "bias"},
        {LORA ",\"lora_bias\":true}", "lora_bias"},
        {LORA ",\"modules_to_save\":[\"lm_head\"]}", "modules_to_save"},
        {LORA ",\"fan_in_fan_out\":true}", "fan_in_fan_out"},
        {LORA ",\"init_lora_weights\":\"pissa\"}", "init_lora_weights"},
        {LORA ",\"init_lora_weights\":\"loftq\"}", "init_lora_weights"},
        {LORA ",\"exclude_modules\":[\"k\"]}", "exclude_modules"},
        {LORA ",\"a_future_variant\":{\"x\":1}}", "a_future_variant"},
        {LORA ",\"a_future_number\":0}", "a_future_number"},
        {LORA ",\"task_type\":\"SEQ_CLS\"}", "task_type"},
        {LORA ",\"trainable_token_indices\":[1]}", "trainable_token_indices"},
        {LORA ",\"alora_invocation_tokens\":[1]}", "alora_invocation_tokens"},
        {"{\"peft_type\":\"IA3\"}", "peft_type"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_peft_config config;
        struct lorica_error err;
        assert_int_equal(parse(cases[i][0], &config, &err), LORICA_EUNSUPPORTED);
        assert_non_null(strstr(err.text, cases[i][1]));
    }
}

static void test_parse_wrong_types_and_ranges_refused(void **state) {
    (void)state;
    static const char *const cases[] = {
        "[]",
        "{",
        "{\"peft_type\":\"LORA\",\"r\":0,\"target_modules\":[\"q\"]}",
        "{\"peft_type\":\"LORA\",\"r\":4097,\"target_modules\":[\"q\"]}",
        "{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[]}",
        "{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[5]}",
        "{\"peft_type\":\"LORA\",\"r\":8}",
        LORA ",\"lora_alpha\":\"8\"}",
        LORA ",\"rank_pattern\":{\"q\":0}}",
        LORA ",\"layers_to_transform\":[-1]}",
        LORA ",\"lora_dropout\":1}",
        LORA ",\"r\":9}", /* twice */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_peft_config config;
        struct lorica_error err;
        assert_int_equal(parse(cases[i], &config, &err), LORICA_EFORMAT);
    }
}

static void test_write_then_parse_gives_the_same_config(void **state) {
    (void)state;
    struct lorica_peft_config config, again;
    struct lorica_error err;
    assert_int_equal(parse(LORA ",\"lora_alpha\":16.5,\"layers_to_transform\":[3,1],"
                                "\"rank_pattern\":{\"a.b\":3},\"lorica_base_digest\":\"x\"}",
                           &config, &err),
                     0);
    struct lorica_buf first, second, third;
    lorica_buf_init(&first, 10000);
    lorica_buf_init(&second, 10000);
    lorica_buf_init(&third, 10000);
    assert_int_equal(lorica_peft_write(&first, &config), 0);
    assert_int_equal(parse(first.data, &again, &err), 0);
    assert_string_equal(again.base_digest, "x");
    assert_int_equal(lorica_peft_canonical(&second, &config), 0);
    assert_int_equal(lorica_peft_canonical(&third, &again), 0);
    assert_string_equal(second.data, third.data);
    lorica_buf_finish(&first);
    lorica_buf_finish(&second);
    lorica_buf_finish(&third);
    lorica_peft_finish(&config);
    lorica_peft_finish(&again);
}

static void test_pattern_matches_as_python_does(void **state) {
    (void)state;
    static const struct {
        const char *expression, *text;
        bool suffix, match;
    } cases[] = {
        {"q_proj", "model.layers.0.self_attn.q_proj", true, true},
        {"q_proj", "model.layers.0.self_attn.xq_proj", true, false},
        {"q_proj", "q_proj", true, true},
        {"^q_proj", "a.q_proj", true, false},
        {"^q_proj$", "q_proj", true, true},
        {"layers.1.q", "model.layers.1.q", true, true},
        {"layers.1.q", "model.layers.11.q", true, false},
        {"layers\\.(0|2|10)\\.q", "layers.10.q", false, true},
        {"layers\\.(0|2|10)\\.q", "layers.1.q", false, false},
        {".*\\.[qkv]_proj", "a.k_proj", false, true},
        {".*\\.[^qkv]_proj", "a.k_proj", false, false},
        {"a\\d+b?", "a12", false, true},
        {"a\\d+b?", "ab", false, false},
        {"(ab)*c", "ababc", false, true},
        {"(?:x|y)+", "xyyx", false, true},
        {"a|b", "ab", false, false},
        {"", "", false, true},
        {"(a*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false, false},
        {"[a-c\\d-]+", "a-3", false, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool match;
        struct lorica_error err;
        assert_int_equal(
            lorica_pattern_match(cases[i].expression, cases[i].text, cases[i].suffix, &match, &err),
            0);
        if (match != cases[i].match)
            fail_msg("%s against %s", cases[i].expression, cases[i].text);
    }
}

static void test_pattern_beyond_the_grammar_refused(void **state) {
    (void)state;
    static const char *const cases[] = {"a{2}", "(?=a)", "a**", "a+?",   "(a",      "a)", "[a",
                                        "\\1",  "*a",    "a\\", "[b-a]", "[\\.-z]", "^*", "\\q"};
    char longest[LORICA_PATTERN_MAX + 2];
    memset(longest, 'a', sizeof(longest));
    bool match;
    struct lorica_error err;
    longest[LORICA_PATTERN_MAX] = '\0';
    assert_int_equal(lorica_pattern_match(longest, "a", false, &match, &err), 0);
    longest[LORICA_PATTERN_MAX] = 'a';
    longest[LORICA_PATTERN_MAX + 1] = '\0';
    assert_int_equal(lorica_pattern_match(longest, "a", false, &match, &err), LORICA_EUNSUPPORTED);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (lorica_pattern_match(cases[i], "a", false, &match, &err) != LORICA_EUNSUPPORTED)
            fail_msg("%s was accepted", cases[i]);
}

static void test_tensor_name_only_lora_a_and_b_accepted(void **state) {
    (void)state;
    char module[64];
    bool is_b;
    assert_true(lorica_peft_tensor_name("base_model.model.model.layers.3.mlp.up_proj.lora_B.weight",
                                        module, sizeof(module), &is_b));
    assert_string_equal(module, "model.layers.3.mlp.up_proj");
    assert_true(is_b);
    static const char *const others[] = {"base_model.model..lora_C.weight", "lora_A.weight",
                                         "base_model.model.x.lora_A.default.weight",
                                         "base_model.model.x.lora_magnitude_vector",
                                         "base_model.model.lora_A.weight"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_false(lorica_peft_tensor_name(others[i], module, sizeof(module), &is_b));
    assert_false(
        lorica_peft_tensor_name("base_model.model.model.up.lora_A.weight", module, 8, &is_b));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_file_of_peft_0_21_accepted),
        cmocka_unit_test(test_parse_variants_refused_by_name),
        cmocka_unit_test(test_parse_wrong_types_and_ranges_refused),
        cmocka_unit_test(test_write_then_parse_gives_the_same_config),
        cmocka_unit_test(test_pattern_matches_as_python_does),
        cmocka_unit_test(test_pattern_beyond_the_grammar_refused),
        cmocka_unit_test(test_tensor_name_only_lora_a_and_b_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
