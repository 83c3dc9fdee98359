/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "runtime/import.h"
#include "runtime/import_hf.h"

#define WHERE "config.json: "

static bool is_null(const struct lorica_json *j) { return lorica_json_type(j) == LORICA_JSON_NULL; }

static int read_u32(const struct lorica_json *config, const char *key, uint32_t fallback,
                    uint32_t *ret, struct lorica_error *err) {
    const struct lorica_json *j = lorica_json_get(config, key);
    int64_t value;
    if (is_null(j) && fallback > 0) {
        *ret = fallback;
        return 0;
    }
    if (lorica_json_integer(j, 1, UINT32_MAX, &value) != 0)
        return lorica_fail(err, LORICA_EFORMAT, WHERE "\"%s\" is missing or no positive number",
                           key);
    *ret = (uint32_t)value;
    return 0;
}

static int read_sizes(const struct lorica_json *config, struct lorica_arch *a,
                      struct lorica_error *err) {
    int rc = read_u32(config, "vocab_size", 0, &a->vocab, err);
    if (!rc)
        rc = read_u32(config, "hidden_size", 0, &a->hidden, err);
    if (!rc)
        rc = read_u32(config, "intermediate_size", 0, &a->intermediate, err);
    if (!rc)
        rc = read_u32(config, "num_hidden_layers", 0, &a->layers, err);
    if (!rc)
        rc = read_u32(config, "num_attention_heads", 0, &a->heads, err);
    if (!rc)
        rc = read_u32(config, "num_key_value_heads", a->heads, &a->kv_heads, err);
    if (!rc)
        rc = read_u32(config, "head_dim", a->hidden / a->heads, &a->head_dim, err);
    if (!rc)
        rc = read_u32(config, "max_position_embeddings", 2048, &a->max_positions, err);
    a->rms_eps = (float)lorica_json_number(lorica_json_get(config, "rms_norm_eps"), 1e-6);
    a->tied_head = lorica_json_is_true(lorica_json_get(config, "tie_word_embeddings"));
    return rc;
}

/* transformers 5 has all of it in "rope_parameters"; 4 has "rope_theta" and "rope_scaling". */
static int read_rope(const struct lorica_json *config, struct lorica_arch *a,
                     struct lorica_error *err) {
    const struct lorica_json *rope = lorica_json_get(config, "rope_parameters");
    const struct lorica_json *scaling = lorica_json_get(config, "rope_scaling");
    if (lorica_json_type(scaling) == LORICA_JSON_OBJECT)
        rope = scaling;
    const double theta = lorica_json_number(lorica_json_get(config, "rope_theta"), 10000);
    a->rope_theta = lorica_json_number(lorica_json_get(rope, "rope_theta"), theta);
    const char *type = lorica_json_string(lorica_json_get(rope, "rope_type"));
    if (!type)
        type = lorica_json_string(lorica_json_get(rope, "type"));
    a->rope_factor = lorica_json_number(lorica_json_get(rope, "factor"), 1);
    if (!type || strcmp(type, "default") == 0)
        return 0;
    if (strcmp(type, "linear") == 0) {
        a->rope_scaling = LORICA_ROPE_LINEAR;
        return 0;
    }
    if (strcmp(type, "llama3") != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           WHERE "rope type \"%.50s\": default, linear and llama3 are supported",
                           type);
    a->rope_scaling = LORICA_ROPE_LLAMA3;
    a->rope_low_freq = lorica_json_number(lorica_json_get(rope, "low_freq_factor"), 1);
    a->rope_high_freq = lorica_json_number(lorica_json_get(rope, "high_freq_factor"), 4);
    int64_t original = 8192;
    const struct lorica_json *j = lorica_json_get(rope, "original_max_position_embeddings");
    if (!is_null(j) && lorica_json_integer(j, 1, UINT32_MAX, &original) != 0)
        return lorica_fail(err, LORICA_EFORMAT,
                           WHERE "\"original_max_position_embeddings\" is no positive number");
    a->rope_original_positions = (uint32_t)original;
    return 0;
}

static bool text_is(const struct lorica_json *j, const char *text) {
    return lorica_json_string(j) && strcmp(lorica_json_string(j), text) == 0;
}

static int check_kind(const struct lorica_json *config, struct lorica_error *err) {
    static const char *const off[] = {"attention_bias", "mlp_bias"};
    const struct lorica_json *type = lorica_json_get(config, "model_type");
    if (!text_is(type, "llama"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           WHERE "model_type is \"%.50s\": llama is supported",
                           lorica_json_string(type) ? lorica_json_string(type) : "");
    for (size_t i = 0; i < sizeof(off) / sizeof(off[0]); i++)
        if (lorica_json_is_true(lorica_json_get(config, off[i])))
            return lorica_fail(err, LORICA_EUNSUPPORTED, WHERE "\"%s\" is not supported", off[i]);
    const struct lorica_json *act = lorica_json_get(config, "hidden_act");
    if (!is_null(act) && !text_is(act, "silu"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           WHERE "\"hidden_act\" is not silu, the only one supported");
    return 0;
}

static int read_quantization(const struct lorica_json *config, bool *ret,
                             struct lorica_error *err) {
    const struct lorica_json *q = lorica_json_get(config, "quantization_config");
    *ret = !is_null(q);
    if (is_null(q))
        return 0;
    const char *method = lorica_json_string(lorica_json_get(q, "quant_method"));
    if (!method || strcmp(method, "bitsandbytes") != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           WHERE "quant_method \"%.50s\": bitsandbytes NF4 is supported",
                           method ? method : "");
    if (lorica_json_is_true(lorica_json_get(q, "load_in_8bit")) ||
        lorica_json_is_true(lorica_json_get(q, "_load_in_8bit")))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           WHERE "load_in_8bit (LLM.int8) is not supported; NF4 is");
    if (!text_is(lorica_json_get(q, "bnb_4bit_quant_type"), "nf4"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           WHERE "bnb_4bit_quant_type is not nf4, the only one supported");
    const struct lorica_json *storage = lorica_json_get(q, "bnb_4bit_quant_storage");
    if (!is_null(storage) && !text_is(storage, "uint8"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           WHERE "bnb_4bit_quant_storage is not uint8, the only one supported");
    return 0;
}

int lorica_hf_read_shape(const char *text, size_t len, struct lorica_arch *ret,
                         struct lorica_error *err) {
    struct lorica_json *config = NULL;
    struct lorica_arch arch = {0};
    int rc = lorica_json_parse(text, len, &config, err);
    if (rc)
        return rc;
    if (lorica_json_get(config, "num_local_experts") || lorica_json_get(config, "num_experts"))
        rc = lorica_fail(err, LORICA_EUNSUPPORTED,
                         WHERE "a mixture of experts: only models of one MLP each layer are known");
    if (!rc)
        rc = read_sizes(config, &arch, err);
    arch.rope_theta = 10000; /* no matter for shapes, but lorica_arch_check asks */
    arch.rope_factor = 1;
    if (!rc)
        rc = lorica_arch_check(&arch, "config.json", err);
    lorica_json_destroy(config);
    if (!rc)
        *ret = arch;
    return rc;
}

int lorica_hf_read_config(const struct lorica_json *config, struct lorica_arch *ret,
                          bool *ret_prequantised, struct lorica_error *err) {
    struct lorica_arch arch = {0};
    bool prequantised = false;
    int rc = check_kind(config, err);
    if (!rc)
        rc = read_sizes(config, &arch, err);
    if (!rc)
        rc = read_rope(config, &arch, err);
    if (!rc)
        rc = read_quantization(config, &prequantised, err);
    if (!rc)
        rc = lorica_arch_check(&arch, "config.json", err);
    if (rc)
        return rc;
    *ret = arch;
    *ret_prequantised = prequantised;
    return 0;
}
