/* SPDX-License-Identifier: MIT
 * Adapters: both forms hold what the files say, and every file that does not fit is refused by
 * name. */
#include "model_fixture.h"

static struct lorica_base *base;

static int open_base(void **state) {
    base = open_golden("tiny-odd");
    return 0;
}

static int close_base(void **state) {
    lorica_base_close(base);
    return 0;
}

/* Element of the first tensor of a name's module as the spec makes it. */
static float spec_value(const struct adapter_spec *spec, size_t tensor, uint64_t j) {
    return spec->tensors[tensor].scale * made_up((spec->seed << 40) + ((uint64_t)tensor << 24) + j);
}

static void test_adapter_exact_form_holds_the_values(void **state) {
    struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
    struct lorica_adapter *adapter;
    assert_int_equal(spec_build(spec, &base->arch, LORICA_ADAPTER_EXACT, &adapter, NULL), 0);
    assert_int_equal(adapter->max_rank, 4);
    assert_int_equal(adapter->layer_count, base->arch.layers);
    const struct lorica_adapter_pair *pair = lorica_adapter_pair(adapter, 1, LORICA_MODULE_GATE);
    const size_t tensor = 2 * (LORICA_MODULE_COUNT + LORICA_MODULE_GATE);
    assert_int_equal(pair->rank, 4);
    assert_true(pair->scale == 2.0f);
    for (uint32_t i = 0; i < 4 * base->arch.hidden; i++)
        assert_true(pair->a[i] == spec_value(spec, tensor, i));
    for (uint32_t i = 0; i < 4 * base->arch.intermediate; i++)
        assert_true(pair->b[i] == spec_value(spec, tensor + 1, i));
    free(spec);
    (void)lorica_adapter_unref(adapter);
}

/* What one step of int8 is worth in a row of A, or a column of B. */
static float int8_scale(const struct adapter_spec *spec, size_t tensor, uint32_t first,
                        uint32_t step, uint32_t count) {
    float top = 0;
    for (uint32_t i = 0; i < count; i++)
        top = fmaxf(top, fabsf(spec_value(spec, tensor, first + i * step)));
    return top / 127;
}

static void test_adapter_fast_form_has_steps_and_tiles(void **state) {
    struct adapter_spec *spec = spec_full(&base->arch, 3, 1);
    struct lorica_adapter *adapter;
    assert_int_equal(spec_build(spec, &base->arch, LORICA_ADAPTER_FAST, &adapter, NULL), 0);
    const struct lorica_adapter_pair *pair = lorica_adapter_pair(adapter, 0, LORICA_MODULE_UP);
    const size_t tensor = 2 * LORICA_MODULE_UP;
    const uint32_t n = base->arch.intermediate, ld = (n + 15) / 16 * 16;
    assert_true(ld > n);
    for (uint32_t j = 0; j < 3; j++) {
        const float a = int8_scale(spec, tensor, j * base->arch.hidden, 1, base->arch.hidden);
        const float b = int8_scale(spec, tensor + 1, j, 3, n);
        for (uint32_t i = 0; i < base->arch.hidden; i++)
            assert_int_equal(pair->a8[j * base->arch.hidden + i],
                             lrintf(spec_value(spec, tensor, j * base->arch.hidden + i) / a));
        for (uint32_t i = 0; i < ld; i++)
            assert_int_equal(pair->b8[(i / 16 * 3 + j) * 16 + i % 16],
                             i < n ? lrintf(spec_value(spec, tensor + 1, i * 3 + j) / b) : 0);
        assert_true(fabsf(pair->scales[j] - 2.0f * a * b) <= 1e-6f * a * b);
    }
    free(spec);
    (void)lorica_adapter_unref(adapter);
}

static void test_adapter_half_types_are_read(void **state) {
    static const enum lorica_dtype dtypes[] = {LORICA_DTYPE_F16, LORICA_DTYPE_BF16};
    for (int d = 0; d < 2; d++) {
        struct adapter_spec *spec = spec_full(&base->arch, 2, 1);
        struct lorica_adapter *adapter;
        for (size_t i = 0; i < spec->count; i++)
            spec->tensors[i].dtype = dtypes[d];
        assert_int_equal(spec_build(spec, &base->arch, LORICA_ADAPTER_EXACT, &adapter, NULL), 0);
        const float expected = spec_value(spec, 0, 5);
        const float got = lorica_adapter_pair(adapter, 0, LORICA_MODULE_Q)->a[5];
        assert_true(got == (d ? lorica_bf16_to_f32(lorica_f32_to_bf16(expected))
                              : lorica_f16_to_f32(lorica_f32_to_f16(expected))));
        free(spec);
        (void)lorica_adapter_unref(adapter);
    }
}

static void test_adapter_patterns_subset_and_rslora_decide_rank_and_scale(void **state) {
    struct adapter_spec *spec = calloc(1, sizeof(*spec));
    struct lorica_adapter *adapter;
    struct lorica_error err = {0};
    assert_non_null(spec);
    (void)snprintf(spec->config, sizeof(spec->config),
                   "{\"peft_type\":\"LORA\",\"bias\":\"none\",\"init_lora_weights\":true,\"r\":4,"
                   "\"lora_alpha\":8,\"use_rslora\":true,\"target_modules\":[\"q_proj\","
                   "\"v_proj\"],\"layers_to_transform\":[1],\"rank_pattern\":{\"v_proj\":9},"
                   "\"alpha_pattern\":{\"v_proj\":6}}");
    spec_add(spec, &base->arch, 1, LORICA_MODULE_Q, 4);
    spec_add(spec, &base->arch, 1, LORICA_MODULE_V, 9);
    if (spec_build(spec, &base->arch, LORICA_ADAPTER_FAST, &adapter, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(adapter->max_rank, 9);
    assert_true(lorica_adapter_pair(adapter, 1, LORICA_MODULE_Q)->scale == 4.0f);
    assert_true(lorica_adapter_pair(adapter, 1, LORICA_MODULE_V)->scale == 2.0f);
    assert_int_equal(lorica_adapter_pair(adapter, 0, LORICA_MODULE_Q)->rank, 0);
    assert_int_equal(lorica_adapter_pair(adapter, 1, LORICA_MODULE_K)->rank, 0);
    free(spec);
    (void)lorica_adapter_unref(adapter);
}

/* Builds a spoiled spec and checks code and the word that the sentence must hold. */
static void expect_refused(struct adapter_spec *spec, int code, const char *word) {
    for (int form = 0; form < 2; form++) {
        struct lorica_adapter *adapter = NULL;
        struct lorica_error err = {0};
        assert_int_equal(
            spec_build(spec, &base->arch, (enum lorica_adapter_form)form, &adapter, &err), code);
        assert_null(adapter);
        if (!strstr(err.text, word))
            fail_msg("\"%s\" does not name %s", err.text, word);
    }
    free(spec);
}

static void test_adapter_wrong_shape_is_refused(void **state) {
    struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
    spec->tensors[0].columns++;
    expect_refused(spec, LORICA_EFORMAT, "layers.0.self_attn.q_proj.lora_A.weight");
    spec = spec_full(&base->arch, 4, 1);
    spec->tensors[3].rows--;
    expect_refused(spec, LORICA_EFORMAT, "layers.0.self_attn.k_proj.lora_B.weight");
    spec = spec_full(&base->arch, 4, 1); /* a rank that is not the config's */
    spec->tensors[0].rows = spec->tensors[1].columns = 5;
    expect_refused(spec, LORICA_EFORMAT, "4x64");
}

static void test_adapter_value_not_finite_is_refused(void **state) {
    static const float poisons[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++)
        for (size_t t = 0; t < 2; t++) {
            struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
            spec->tensors[26 + t].poison = poisons[i];
            expect_refused(spec, LORICA_EFORMAT,
                           t ? "layers.1.mlp.down_proj.lora_B.weight\" has a value that is not "
                               "finite (or too large) at row 63, column 3"
                             : "layers.1.mlp.down_proj.lora_A.weight");
        }
}

static void test_adapter_product_too_large_is_refused(void **state) {
    struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
    struct lorica_adapter *adapter = NULL;
    struct lorica_error err = {0};
    spec->tensors[26].scale = spec->tensors[27].scale = 1e30f;
    assert_int_equal(spec_build(spec, &base->arch, LORICA_ADAPTER_FAST, &adapter, &err),
                     LORICA_EFORMAT);
    assert_non_null(strstr(err.text, "layers.1.mlp.down_proj.lora_A.weight"));
    assert_non_null(strstr(err.text, "too large"));
    assert_null(adapter);
    free(spec);
}

static void test_adapter_unknown_tensor_is_refused(void **state) {
    static const char *const names[] = {
        "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", /* no such layer */
        "base_model.model.model.layers.01.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.x_proj.lora_A.weight",
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "base_model.model.model.layers.0.input_layernorm.weight",
        "q_proj.lora_A.weight",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
        struct spec_tensor *extra = &spec->tensors[spec->count++];
        *extra = spec->tensors[0];
        (void)snprintf(extra->name, sizeof(extra->name), "%s", names[i]);
        expect_refused(spec, LORICA_EFORMAT, names[i]);
    }
}

static void test_adapter_missing_tensor_is_refused(void **state) {
    for (size_t gone = 0; gone < 2; gone++) {
        struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
        spec->count--; /* the last is a B; with `gone` its A in place of it */
        if (gone)
            spec->tensors[spec->count - 1] = spec->tensors[spec->count];
        expect_refused(spec, LORICA_EFORMAT,
                       gone ? "layers.1.mlp.down_proj.lora_A.weight"
                            : "layers.1.mlp.down_proj.lora_B.weight");
    }
    struct adapter_spec *spec = spec_full(&base->arch, 4, 1); /* the pair */
    spec->count -= 2;
    expect_refused(spec, LORICA_EFORMAT, "layers.1.mlp.down_proj.lora_A.weight");
}

static void test_adapter_other_type_is_refused(void **state) {
    struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
    spec->tensors[0].dtype = LORICA_DTYPE_F64;
    expect_refused(spec, LORICA_EUNSUPPORTED, "layers.0.self_attn.q_proj.lora_A.weight");
}

/* A config with these members more, over tensors for everything. */
static struct adapter_spec *spec_with(const char *members) {
    struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
    const size_t len = strlen(spec->config) - 1;
    (void)snprintf(spec->config + len, sizeof(spec->config) - len, ",%s}", members);
    return spec;
}

static void test_adapter_variants_are_refused_by_key(void **state) {
    expect_refused(spec_with("\"use_dora\":true"), LORICA_EUNSUPPORTED, "use_dora");
    expect_refused(spec_with("\"lora_bias\":true"), LORICA_EUNSUPPORTED, "lora_bias");
    expect_refused(spec_with("\"modules_to_save\":[\"lm_head\"]"), LORICA_EUNSUPPORTED,
                   "modules_to_save");
    expect_refused(spec_with("\"some_new_key\":1"), LORICA_EUNSUPPORTED, "some_new_key");
    struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
    char *bias = strstr(spec->config, "none");
    assert_non_null(bias);
    memcpy(bias, "all\" ", 5);
    expect_refused(spec, LORICA_EUNSUPPORTED, "bias");
}

static void test_adapter_config_that_does_not_fit_is_refused(void **state) {
    expect_refused(spec_with("\"layers_to_transform\":[0]"), LORICA_EFORMAT, "layers.1.");
    expect_refused(spec_with("\"layers_to_transform\":[0,1,2]"), LORICA_EFORMAT,
                   "layers_to_transform");
    struct adapter_spec *spec = spec_full(&base->arch, 4, 1);
    char *name = strstr(spec->config, "down_proj");
    assert_non_null(name);
    memcpy(name, "dawn_proj", 9);
    expect_refused(spec, LORICA_EFORMAT, "dawn_proj");
    spec = spec_full(&base->arch, 4, 1);
    (void)snprintf(spec->config, sizeof(spec->config), "{\"peft_type\":");
    expect_refused(spec, LORICA_EFORMAT, "adapter_config.json");
}

static void test_adapter_truncated_weights_are_refused(void **state) {
    struct adapter_spec *spec = spec_full(&base->arch, 2, 1);
    struct lorica_buf weights;
    spec_weights(spec, &weights);
    for (size_t len = 0; len < weights.len; len += len < 64 ? 1 : 997) {
        struct lorica_adapter *adapter = NULL;
        struct lorica_error err = {0};
        assert_true(lorica_adapter_create(&base->arch, LORICA_ADAPTER_FAST, spec->config,
                                          strlen(spec->config), weights.data, len, &adapter,
                                          &err) != 0);
        assert_non_null(strstr(err.text, "adapter_model.safetensors"));
    }
    lorica_buf_finish(&weights);
    free(spec);
}

static void count_one(void *arg) { ++*(unsigned *)arg; }

static void test_adapter_others_have_a_turn_behind_each_module(void **state) {
    struct adapter_spec *spec = spec_full(&base->arch, 2, 1);
    struct lorica_buf weights;
    struct lorica_adapter *adapter = NULL;
    struct lorica_error err = {0};
    unsigned turns = 0;
    spec_weights(spec, &weights);
    assert_int_equal(lorica_adapter_create_sparing(&base->arch, LORICA_ADAPTER_FAST, spec->config,
                                                   strlen(spec->config), weights.data, weights.len,
                                                   count_one, &turns, &adapter, &err),
                     0);
    assert_int_equal(turns, base->arch.layers * LORICA_MODULE_COUNT);
    (void)lorica_adapter_unref(adapter);
    lorica_buf_finish(&weights);
    free(spec);
}

static void test_adapter_directory_that_is_missing_is_named(void **state) {
    struct lorica_adapter *adapter = NULL;
    struct lorica_error err = {0};
    assert_int_equal(lorica_adapter_load_dir(&base->arch, LORICA_ADAPTER_FAST, "/nowhere/at/all",
                                             &adapter, &err),
                     LORICA_ENOTFOUND);
    assert_non_null(strstr(err.text, "/nowhere/at/all/adapter_config.json"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapter_exact_form_holds_the_values),
        cmocka_unit_test(test_adapter_fast_form_has_steps_and_tiles),
        cmocka_unit_test(test_adapter_half_types_are_read),
        cmocka_unit_test(test_adapter_patterns_subset_and_rslora_decide_rank_and_scale),
        cmocka_unit_test(test_adapter_wrong_shape_is_refused),
        cmocka_unit_test(test_adapter_value_not_finite_is_refused),
        cmocka_unit_test(test_adapter_product_too_large_is_refused),
        cmocka_unit_test(test_adapter_unknown_tensor_is_refused),
        cmocka_unit_test(test_adapter_missing_tensor_is_refused),
        cmocka_unit_test(test_adapter_other_type_is_refused),
        cmocka_unit_test(test_adapter_variants_are_refused_by_key),
        cmocka_unit_test(test_adapter_config_that_does_not_fit_is_refused),
        cmocka_unit_test(test_adapter_truncated_weights_are_refused),
        cmocka_unit_test(test_adapter_others_have_a_turn_behind_each_module),
        cmocka_unit_test(test_adapter_directory_that_is_missing_is_named),
    };
    return cmocka_run_group_tests(tests, open_base, close_base);
}
