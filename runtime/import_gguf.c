/* SPDX-License-Identifier: MIT
 * A GGUF file of the llama architecture as a source. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/import.h"

struct gguf_source {
    struct lorica_map map;
    struct lorica_gguf file;
    bool tied;
};

/* GGUF's names of the slots; those of a layer stand behind "blk.N.". */
static const char *const slot_names[] = {
    [LORICA_MODULE_Q] = "attn_q.weight",
    [LORICA_MODULE_K] = "attn_k.weight",
    [LORICA_MODULE_V] = "attn_v.weight",
    [LORICA_MODULE_O] = "attn_output.weight",
    [LORICA_MODULE_GATE] = "ffn_gate.weight",
    [LORICA_MODULE_UP] = "ffn_up.weight",
    [LORICA_MODULE_DOWN] = "ffn_down.weight",
    [LORICA_SLOT_ATTN_NORM] = "attn_norm.weight",
    [LORICA_SLOT_MLP_NORM] = "ffn_norm.weight",
    [LORICA_SLOT_EMBED] = "token_embd.weight",
    [LORICA_SLOT_FINAL_NORM] = "output_norm.weight",
    [LORICA_SLOT_HEAD] = "output.weight",
};
#define SLOT_COUNT (sizeof(slot_names) / sizeof(slot_names[0]))

static void slot_name(enum lorica_slot slot, uint32_t layer, char out[64]) {
    if (slot < LORICA_SLOT_EMBED)
        (void)snprintf(out, 64, "blk.%u.%s", layer, slot_names[slot]);
    else
        (void)snprintf(out, 64, "%s", slot_names[slot]);
}

static int source_kind(uint32_t type, struct lorica_source_tensor *t) {
    switch (type) {
    case LORICA_GGML_F32:
    case LORICA_GGML_F16:
    case LORICA_GGML_BF16:
        t->kind = LORICA_SOURCE_DENSE;
        t->dense = type == LORICA_GGML_F32   ? LORICA_FORMAT_F32
                   : type == LORICA_GGML_F16 ? LORICA_FORMAT_F16
                                             : LORICA_FORMAT_BF16;
        return 0;
    case LORICA_GGML_Q8_0:
        t->kind = LORICA_SOURCE_Q8_0;
        return 0;
    case LORICA_GGML_Q4_0:
        t->kind = LORICA_SOURCE_Q4_0;
        return 0;
    case LORICA_GGML_Q4_1:
        t->kind = LORICA_SOURCE_Q4_1;
        return 0;
    default:
        return LORICA_EUNSUPPORTED;
    }
}

static int find_tensor(const struct lorica_source *source, enum lorica_slot slot, uint32_t layer,
                       struct lorica_source_tensor *ret, struct lorica_error *err) {
    const struct gguf_source *g = source->owned;
    struct lorica_source_tensor t = {0};
    char name[64];
    slot_name(slot == LORICA_SLOT_HEAD && g->tied ? LORICA_SLOT_EMBED : slot, layer, name);
    const struct lorica_gguf_tensor *found = lorica_gguf_tensor(&g->file, name);
    if (!found)
        return lorica_fail(err, LORICA_EFORMAT, "tensor %s is missing", name);
    if (source_kind(found->type, &t) != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "tensor %s has type %s: F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are read",
                           name, lorica_ggml_type_name(found->type));
    lorica_slot_shape(&source->arch, slot, &t.n, &t.k);
    const uint64_t rows = found->dims[1] * found->dims[2] * found->dims[3];
    if (found->dims[0] != t.k || rows != t.n)
        return lorica_fail(err, LORICA_EFORMAT,
                           "tensor %s has shape %llu x %llu, the architecture needs %u x %u", name,
                           (unsigned long long)rows, (unsigned long long)found->dims[0], t.n, t.k);
    if (t.kind != LORICA_SOURCE_DENSE && t.k % 32 != 0)
        return lorica_fail(err, LORICA_EFORMAT, "tensor %s: rows of %u are no whole blocks of %s",
                           name, t.k, lorica_ggml_type_name(found->type));
    t.data = g->map.data + found->offset;
    if ((int)slot == LORICA_MODULE_Q)
        t.permuted_heads = source->arch.heads;
    if ((int)slot == LORICA_MODULE_K)
        t.permuted_heads = source->arch.kv_heads;
    *ret = t;
    return 0;
}

static void close_source(struct lorica_source *source) {
    struct gguf_source *g = source->owned;
    lorica_source_finish(source);
    lorica_gguf_finish(&g->file);
    lorica_map_close(&g->map);
    free(g);
}

static bool value_is(const struct lorica_gguf_value *v, const char *text) {
    return v && v->type == LORICA_GGUF_STRING && v->string.len == strlen(text) &&
           memcmp(v->string.data, text, v->string.len) == 0;
}

/* The factors of rope_freqs.weight are those of Llama 3.1 (8) or 3.2 (32): which, if any? */
static int read_rope_factors(const struct gguf_source *g, struct lorica_arch *arch,
                             struct lorica_error *err) {
    const struct lorica_gguf_tensor *t = lorica_gguf_tensor(&g->file, "rope_freqs.weight");
    if (!t)
        return 0;
    const uint32_t half = arch->head_dim / 2;
    const bool fits = t->type == LORICA_GGML_F32 && t->ndim == 1 && t->dims[0] == half;
    static const double factors[] = {8, 32, 16, 4, 2};
    for (size_t f = 0; fits && half <= 512 && f < sizeof(factors) / sizeof(factors[0]); f++) {
        struct lorica_arch plain = *arch, tried = *arch;
        float without[512], with[512];
        tried.rope_scaling = LORICA_ROPE_LLAMA3;
        tried.rope_factor = factors[f];
        tried.rope_low_freq = 1;
        tried.rope_high_freq = 4;
        tried.rope_original_positions = 8192;
        lorica_arch_inv_freq(&plain, without);
        lorica_arch_inv_freq(&tried, with);
        bool same = true;
        for (uint32_t i = 0; i < half; i++) {
            float stored;
            memcpy(&stored, g->map.data + t->offset + 4 * i, sizeof(stored));
            same &= fabsf(without[i] / with[i] - stored) <= 1e-4f * fabsf(stored);
        }
        if (same) {
            *arch = tried;
            return 0;
        }
    }
    return lorica_fail(err, LORICA_EUNSUPPORTED,
                       "tensor rope_freqs.weight holds factors that are not those of Llama 3");
}

static int read_rope(const struct gguf_source *g, struct lorica_arch *arch,
                     struct lorica_error *err) {
    const struct lorica_gguf *file = &g->file;
    const struct lorica_gguf_value *type = lorica_gguf_find(file, "llama.rope.scaling.type");
    arch->rope_theta = lorica_gguf_float(file, "llama.rope.freq_base", 10000);
    if (type && !value_is(type, "none") && !value_is(type, "linear"))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "llama.rope.scaling.type is %.*s: none and linear are supported",
                           type->type == LORICA_GGUF_STRING ? (int)type->string.len : 1,
                           type->type == LORICA_GGUF_STRING ? type->string.data : "?");
    if (value_is(type, "linear")) {
        arch->rope_scaling = LORICA_ROPE_LINEAR;
        arch->rope_factor = lorica_gguf_float(file, "llama.rope.scaling.factor", 1);
    }
    if (lorica_gguf_uint(file, "llama.rope.dimension_count", arch->head_dim) != arch->head_dim)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "llama.rope.dimension_count differs from the head size %u",
                           arch->head_dim);
    return read_rope_factors(g, arch, err);
}

static uint32_t read_u32(const struct lorica_gguf *file, const char *key, uint64_t fallback) {
    const uint64_t value = lorica_gguf_uint(file, key, fallback);
    return value > UINT32_MAX ? 0 : (uint32_t)value; /* 0 is refused by lorica_arch_check */
}

static int read_arch(struct gguf_source *g, struct lorica_arch *arch, struct lorica_error *err) {
    const struct lorica_gguf *file = &g->file;
    const struct lorica_gguf_value *kind = lorica_gguf_find(file, "general.architecture");
    if (!value_is(kind, "llama"))
        return lorica_fail(
            err, LORICA_EUNSUPPORTED, "general.architecture is %.*s: llama is supported",
            kind && kind->type == LORICA_GGUF_STRING ? (int)kind->string.len : 7,
            kind && kind->type == LORICA_GGUF_STRING ? kind->string.data : "missing");
    if (lorica_gguf_uint(file, "llama.expert_count", 0) != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "llama.expert_count: experts are not supported");
    const struct lorica_gguf_tensor *embed = lorica_gguf_tensor(file, "token_embd.weight");
    if (!embed || embed->dims[1] > UINT32_MAX)
        return lorica_fail(err, LORICA_EFORMAT, "tensor token_embd.weight is missing or too large");
    arch->vocab = (uint32_t)embed->dims[1];
    arch->hidden = read_u32(file, "llama.embedding_length", 0);
    arch->layers = read_u32(file, "llama.block_count", 0);
    arch->intermediate = read_u32(file, "llama.feed_forward_length", 0);
    arch->heads = read_u32(file, "llama.attention.head_count", 0);
    arch->kv_heads = read_u32(file, "llama.attention.head_count_kv", arch->heads);
    arch->head_dim =
        read_u32(file, "llama.attention.key_length", arch->heads ? arch->hidden / arch->heads : 0);
    arch->max_positions = read_u32(file, "llama.context_length", 0);
    arch->rms_eps = (float)lorica_gguf_float(file, "llama.attention.layer_norm_rms_epsilon", 1e-5);
    arch->tied_head = g->tied = !lorica_gguf_tensor(file, "output.weight");
    if (lorica_gguf_uint(file, "llama.attention.value_length", arch->head_dim) != arch->head_dim)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "llama.attention.value_length differs from key_length");
    if (arch->head_dim == 0 || arch->head_dim > 1024)
        return lorica_fail(err, LORICA_EFORMAT, "the heads have no size from 1 to 1024");
    const int rc = read_rope(g, arch, err);
    return rc ? rc : lorica_arch_check(arch, "GGUF", err);
}

/* A tensor that no slot takes would change the numbers: a bias, another norm. */
static int check_names(const struct gguf_source *g, const struct lorica_arch *arch,
                       struct lorica_error *err) {
    for (size_t i = 0; i < g->file.tensor_count; i++) {
        const struct lorica_gguf_string *name = &g->file.tensors[i].name;
        char text[64], expected[64];
        unsigned layer = 0;
        bool known = name->len < sizeof(text);
        (void)snprintf(text, sizeof(text), "%.*s", known ? (int)name->len : 0, name->data);
        if (known && strcmp(text, "rope_freqs.weight") == 0)
            continue;
        const bool in_layer = sscanf(text, "blk.%u.", &layer) == 1;
        bool taken = false;
        for (size_t s = 0; known && s < SLOT_COUNT; s++) {
            if (!slot_names[s] || (s < LORICA_SLOT_EMBED) != in_layer)
                continue;
            slot_name((enum lorica_slot)s, layer, expected);
            taken |= strcmp(text, expected) == 0 && (!in_layer || layer < arch->layers);
        }
        if (!taken)
            return lorica_fail(err, LORICA_EUNSUPPORTED,
                               "tensor %.*s is none that a llama model has here",
                               (int)(name->len < 100 ? name->len : 100), name->data);
    }
    return 0;
}

static int read_texts(const struct gguf_source *g, const char *path, struct lorica_source *source,
                      struct lorica_error *err) {
    const struct lorica_gguf_value *name = lorica_gguf_find(&g->file, "general.name");
    const struct lorica_gguf_value *jinja = lorica_gguf_find(&g->file, "tokenizer.chat_template");
    if (name && name->type == LORICA_GGUF_STRING && name->string.len > 0) {
        lorica_base_make_name(name->string.data, (size_t)name->string.len, source->name);
    } else {
        const char *slash = strrchr(path, '/');
        const char *file = slash ? slash + 1 : path;
        const size_t len = strlen(file), end = strlen(".gguf");
        const bool suffix = len > end && strcmp(file + len - end, ".gguf") == 0;
        lorica_base_make_name(file, suffix ? len - end : len, source->name);
    }
    if (jinja && jinja->type == LORICA_GGUF_STRING) {
        const int rc =
            lorica_buf_append(&source->jinja, jinja->string.data, (size_t)jinja->string.len);
        if (rc)
            return lorica_fail(err, rc, "tokenizer.chat_template is too long");
    }
    return lorica_import_tokenizer_gguf(&g->file, &source->tokenizer, err);
}

int lorica_source_open_gguf(const char *path, struct lorica_source *ret, struct lorica_error *err) {
    struct gguf_source *g = calloc(1, sizeof(*g));
    if (!g)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    struct lorica_source source = {
        .kind = "gguf", .owned = g, .tensor = find_tensor, .close = close_source};
    lorica_buf_init(&source.tokenizer, 256u << 20);
    lorica_buf_init(&source.jinja, 1u << 20);
    lorica_buf_init(&source.files, 256u << 20);
    int rc = lorica_map_open(path, &g->map, err);
    if (!rc)
        rc = lorica_gguf_parse(g->map.data, g->map.len, &g->file, err);
    if (!rc)
        rc = read_arch(g, &source.arch, err);
    if (!rc)
        rc = check_names(g, &source.arch, err);
    if (!rc)
        rc = read_texts(g, path, &source, err);
    if (rc) {
        close_source(&source);
        return rc;
    }
    *ret = source;
    return 0;
}
