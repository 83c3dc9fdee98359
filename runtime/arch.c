/* SPDX-License-Identifier: MIT
 * The architecture as data: checks, shapes, positions, and its form in the metadata. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base_file.h"

const char *const lorica_module_paths[LORICA_MODULE_COUNT] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

static const char *const rope_names[] = {"default", "linear", "llama3"};

/* Llama 3's stretching, in float32 and in the reference's order of operations. */
static float stretch(const struct lorica_arch *arch, float f) {
    const float two_pi = 6.283185307179586f, original = (float)arch->rope_original_positions;
    const float low = (float)arch->rope_low_freq, high = (float)arch->rope_high_freq;
    const float factor = (float)arch->rope_factor;
    const float wavelength = 1.0f / f * two_pi;
    if ((double)wavelength > (double)arch->rope_original_positions / arch->rope_low_freq)
        return f / factor;
    if ((double)wavelength < (double)arch->rope_original_positions / arch->rope_high_freq)
        return f;
    const float smooth = (1.0f / wavelength * original - low) / (high - low);
    return (1.0f - smooth) * f / factor + smooth * f;
}

void lorica_arch_inv_freq(const struct lorica_arch *arch, float *inv_freq) {
    for (uint32_t i = 0; i < arch->head_dim / 2; i++) {
        /* float32 from here on, as the reference computes it */
        const float exponent = (float)(2 * i) / (float)arch->head_dim;
        inv_freq[i] = 1.0f / (float)pow(arch->rope_theta, (double)exponent);
        if (arch->rope_scaling == LORICA_ROPE_LINEAR)
            inv_freq[i] = inv_freq[i] / (float)arch->rope_factor;
        if (arch->rope_scaling == LORICA_ROPE_LLAMA3)
            inv_freq[i] = stretch(arch, inv_freq[i]);
    }
}

void lorica_slot_shape(const struct lorica_arch *arch, enum lorica_slot slot, uint32_t *ret_n,
                       uint32_t *ret_k) {
    uint32_t n = 1, k = arch->hidden;
    switch ((int)slot) {
    case LORICA_MODULE_Q:
        n = arch->heads * arch->head_dim;
        break;
    case LORICA_MODULE_K:
    case LORICA_MODULE_V:
        n = arch->kv_heads * arch->head_dim;
        break;
    case LORICA_MODULE_O:
        n = arch->hidden;
        k = arch->heads * arch->head_dim;
        break;
    case LORICA_MODULE_GATE:
    case LORICA_MODULE_UP:
        n = arch->intermediate;
        break;
    case LORICA_MODULE_DOWN:
        n = arch->hidden;
        k = arch->intermediate;
        break;
    case LORICA_SLOT_EMBED:
    case LORICA_SLOT_HEAD:
        n = arch->vocab;
        break;
    default: /* norms */
        break;
    }
    *ret_n = n;
    *ret_k = k;
}

void lorica_arch_module_shape(const struct lorica_arch *arch, enum lorica_module module,
                              uint32_t *ret_n, uint32_t *ret_k) {
    lorica_slot_shape(arch, (enum lorica_slot)module, ret_n, ret_k);
}

static int out_of_range(struct lorica_error *err, const char *where, const char *what,
                        double value) {
    return lorica_fail(err, LORICA_EUNSUPPORTED, "%s: %s %g is outside what lorica reads", where,
                       what, value);
}

int lorica_arch_check(const struct lorica_arch *arch, const char *where, struct lorica_error *err) {
    const struct {
        const char *name;
        uint32_t value, max;
    } limits[] = {
        {"vocabulary size", arch->vocab, 1u << 22},
        {"hidden size", arch->hidden, 1u << 17},
        {"number of layers", arch->layers, 1024},
        {"number of heads", arch->heads, 1024},
        {"number of key/value heads", arch->kv_heads, 1024},
        {"head size", arch->head_dim, 1024},
        {"intermediate size", arch->intermediate, 1u << 19},
        {"number of positions", arch->max_positions, 1u << 27},
    };
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
        if (limits[i].value == 0 || limits[i].value > limits[i].max)
            return out_of_range(err, where, limits[i].name, limits[i].value);
    if (arch->head_dim % 2)
        return out_of_range(err, where, "odd head size", arch->head_dim);
    if (arch->heads % arch->kv_heads)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: %u heads are not divided evenly by %u key/value heads", where,
                           arch->heads, arch->kv_heads);
    if (!(arch->rms_eps >= 0 && arch->rms_eps < 1))
        return out_of_range(err, where, "norm epsilon", (double)arch->rms_eps);
    if (!(arch->rope_theta > 1 && arch->rope_theta < 1e12))
        return out_of_range(err, where, "rope base", arch->rope_theta);
    if (arch->rope_scaling != LORICA_ROPE_DEFAULT &&
        !(arch->rope_factor >= 1 && arch->rope_factor < 1e6))
        return out_of_range(err, where, "rope factor", arch->rope_factor);
    if (arch->rope_scaling == LORICA_ROPE_LLAMA3 &&
        !(arch->rope_low_freq > 0 && arch->rope_high_freq > arch->rope_low_freq &&
          arch->rope_high_freq < 1e6 && arch->rope_original_positions > 0))
        return lorica_fail(err, LORICA_EFORMAT, "%s: llama3 rope scaling is not well formed",
                           where);
    return 0;
}

void lorica_arch_write(const struct lorica_arch *arch, struct lorica_jsonw *w) {
    lorica_jsonw_object(w, "architecture");
    lorica_jsonw_string(w, "family", "llama");
    lorica_jsonw_integer(w, "vocab", arch->vocab);
    lorica_jsonw_integer(w, "hidden", arch->hidden);
    lorica_jsonw_integer(w, "layers", arch->layers);
    lorica_jsonw_integer(w, "heads", arch->heads);
    lorica_jsonw_integer(w, "kv_heads", arch->kv_heads);
    lorica_jsonw_integer(w, "head_dim", arch->head_dim);
    lorica_jsonw_integer(w, "intermediate", arch->intermediate);
    lorica_jsonw_integer(w, "max_positions", arch->max_positions);
    lorica_jsonw_number(w, "rms_eps", (double)arch->rms_eps);
    lorica_jsonw_bool(w, "tied_head", arch->tied_head);
    lorica_jsonw_object(w, "rope");
    lorica_jsonw_string(w, "type", rope_names[arch->rope_scaling]);
    lorica_jsonw_number(w, "theta", arch->rope_theta);
    if (arch->rope_scaling != LORICA_ROPE_DEFAULT)
        lorica_jsonw_number(w, "factor", arch->rope_factor);
    if (arch->rope_scaling == LORICA_ROPE_LLAMA3) {
        lorica_jsonw_number(w, "low_freq", arch->rope_low_freq);
        lorica_jsonw_number(w, "high_freq", arch->rope_high_freq);
        lorica_jsonw_integer(w, "original_positions", arch->rope_original_positions);
    }
    lorica_jsonw_end_object(w);
    lorica_jsonw_end_object(w);
}

static int read_rope(const struct lorica_json *j, struct lorica_arch *a, struct lorica_error *err) {
    const char *type = lorica_json_string(lorica_json_get(j, "type"));
    int scaling = -1;
    for (int i = 0; type && i < 3; i++)
        if (strcmp(type, rope_names[i]) == 0)
            scaling = i;
    if (scaling < 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED, "rope type \"%s\" is unknown",
                           type ? type : "?");
    int64_t original = 0;
    a->rope_scaling = (enum lorica_rope_scaling)scaling;
    a->rope_theta = lorica_json_number(lorica_json_get(j, "theta"), 0);
    a->rope_factor = lorica_json_number(lorica_json_get(j, "factor"), 0);
    a->rope_low_freq = lorica_json_number(lorica_json_get(j, "low_freq"), 0);
    a->rope_high_freq = lorica_json_number(lorica_json_get(j, "high_freq"), 0);
    if (scaling == LORICA_ROPE_LLAMA3 &&
        lorica_json_integer(lorica_json_get(j, "original_positions"), 1, UINT32_MAX, &original))
        return lorica_fail(err, LORICA_EFORMAT, "rope original_positions is no number");
    a->rope_original_positions = (uint32_t)original;
    return 0;
}

int lorica_arch_read(const struct lorica_json *j, struct lorica_arch *ret,
                     struct lorica_error *err) {
    struct lorica_arch a = {0};
    const struct {
        const char *key;
        uint32_t *value;
    } numbers[] = {
        {"vocab", &a.vocab},
        {"hidden", &a.hidden},
        {"layers", &a.layers},
        {"heads", &a.heads},
        {"kv_heads", &a.kv_heads},
        {"head_dim", &a.head_dim},
        {"intermediate", &a.intermediate},
        {"max_positions", &a.max_positions},
    };
    const char *family = lorica_json_string(lorica_json_get(j, "family"));
    if (!family || strcmp(family, "llama") != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED, "architecture family \"%s\" is unknown",
                           family ? family : "?");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        int64_t value = 0;
        if (lorica_json_integer(lorica_json_get(j, numbers[i].key), 0, UINT32_MAX, &value))
            return lorica_fail(err, LORICA_EFORMAT, "architecture: \"%s\" is no number",
                               numbers[i].key);
        *numbers[i].value = (uint32_t)value;
    }
    a.rms_eps = (float)lorica_json_number(lorica_json_get(j, "rms_eps"), -1);
    a.tied_head = lorica_json_is_true(lorica_json_get(j, "tied_head"));
    int rc = read_rope(lorica_json_get(j, "rope"), &a, err);
    if (!rc)
        rc = lorica_arch_check(&a, "architecture", err);
    if (!rc)
        *ret = a;
    return rc;
}

uint64_t lorica_base_entry_count(const struct lorica_arch *arch) {
    return 2 + (uint64_t)arch->layers * (LORICA_MODULE_COUNT + 2) + !arch->tied_head;
}

enum lorica_slot lorica_base_entry_slot(const struct lorica_arch *arch, uint64_t index,
                                        uint32_t *ret_layer) {
    static const enum lorica_slot order[] = {
        LORICA_SLOT_ATTN_NORM,
        (enum lorica_slot)LORICA_MODULE_Q,
        (enum lorica_slot)LORICA_MODULE_K,
        (enum lorica_slot)LORICA_MODULE_V,
        (enum lorica_slot)LORICA_MODULE_O,
        LORICA_SLOT_MLP_NORM,
        (enum lorica_slot)LORICA_MODULE_GATE,
        (enum lorica_slot)LORICA_MODULE_UP,
        (enum lorica_slot)LORICA_MODULE_DOWN,
    };
    const uint64_t per_layer = sizeof(order) / sizeof(order[0]);
    *ret_layer = 0;
    if (index == 0)
        return LORICA_SLOT_EMBED;
    index--;
    if (index < arch->layers * per_layer) {
        *ret_layer = (uint32_t)(index / per_layer);
        return order[index % per_layer];
    }
    return index == arch->layers * per_layer ? LORICA_SLOT_FINAL_NORM : LORICA_SLOT_HEAD;
}

void lorica_slot_name(enum lorica_slot slot, uint32_t layer, char out[64]) {
    memset(out, 0, 64);
    const char *path = "input_layernorm";
    switch (slot) {
    case LORICA_SLOT_EMBED:
        (void)snprintf(out, 64, "model.embed_tokens.weight");
        return;
    case LORICA_SLOT_FINAL_NORM:
        (void)snprintf(out, 64, "model.norm.weight");
        return;
    case LORICA_SLOT_HEAD:
        (void)snprintf(out, 64, "lm_head.weight");
        return;
    case LORICA_SLOT_ATTN_NORM:
        break;
    case LORICA_SLOT_MLP_NORM:
        path = "post_attention_layernorm";
        break;
    default:
        path = lorica_module_paths[slot];
        break;
    }
    (void)snprintf(out, 64, "model.layers.%u.%s.weight", layer, path);
}

void lorica_base_part_sizes(const struct lorica_base_entry *entry,
                            uint64_t ret[LORICA_PART_COUNT]) {
    const uint64_t n = entry->n, k = entry->k;
    memset(ret, 0, LORICA_PART_COUNT * sizeof(*ret));
    ret[LORICA_PART_DATA] =
        lorica_matrix_data_nbytes((enum lorica_format)entry->format, entry->n, entry->k);
    if (entry->format == LORICA_FORMAT_Q8)
        ret[LORICA_PART_SCALES] = (n + 15) / 16 * 16 * (k / LORICA_Q8_BLOCK) * 2;
    if (entry->format != LORICA_FORMAT_NF4)
        return;
    const uint64_t blocks = (n * k + LORICA_NF4_BLOCK - 1) / LORICA_NF4_BLOCK;
    if (!(entry->flags & LORICA_ENTRY_NESTED)) {
        ret[LORICA_PART_SCALES] = blocks * sizeof(float);
        return;
    }
    ret[LORICA_PART_SCALES] = blocks;
    ret[LORICA_PART_NESTED_ABSMAX] =
        (blocks + LORICA_NF4_NESTED_BLOCK - 1) / LORICA_NF4_NESTED_BLOCK * sizeof(float);
    ret[LORICA_PART_NESTED_MAP] = 256 * sizeof(float);
}
