/* SPDX-License-Identifier: MIT
 * A Hugging Face directory as a source: config.json, safetensors (one file or shards), and the
 * tokenizer's files. */
#include "runtime/import_hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/safetensors.h"
#include "runtime/base_file.h"

#define MAX_SHARDS 1000
#define MAX_TEXT (64u << 20)
#define PATH_MAX_LEN 4096

struct shard {
    struct lorica_map map;
    struct lorica_safetensors file;
};

struct hf_source {
    struct shard *shards;
    size_t count;
};

static int join(char out[PATH_MAX_LEN], const char *dir, const char *name,
                struct lorica_error *err) {
    const int n = snprintf(out, PATH_MAX_LEN, "%s/%s", dir, name);
    return n < 0 || n >= PATH_MAX_LEN
               ? lorica_fail(err, LORICA_EINVAL, "%s: the path is too long", dir)
               : 0;
}

/* A text file of the directory; an absent one gives an empty map and no error. */
static int map_text(const char *dir, const char *name, struct lorica_map *ret,
                    struct lorica_error *err) {
    char path[PATH_MAX_LEN];
    *ret = (struct lorica_map){0};
    int rc = join(path, dir, name, err);
    if (rc)
        return rc;
    rc = lorica_map_open(path, ret, err);
    if (rc == LORICA_ENOTFOUND)
        return 0;
    if (!rc && ret->len > MAX_TEXT) {
        lorica_map_close(ret);
        rc = lorica_fail(err, LORICA_ELIMIT, "%s: over %u bytes", path, MAX_TEXT);
    }
    return rc;
}

/* A JSON file of the directory; an absent one gives NULL and no error. */
static int read_json(const char *dir, const char *name, struct lorica_json **ret,
                     struct lorica_error *err) {
    struct lorica_map map;
    *ret = NULL;
    int rc = map_text(dir, name, &map, err);
    if (!rc && map.data)
        rc = lorica_json_parse((const char *)map.data, map.len, ret, err);
    lorica_map_close(&map);
    return rc && err ? lorica_fail_prefix(err, "%s", name) : rc;
}

/* -- weights -------------------------------------------------------------------------------------
 */

static int add_shard(struct hf_source *hf, const char *dir, const char *name,
                     struct lorica_error *err) {
    char path[PATH_MAX_LEN];
    int rc = join(path, dir, name, err);
    if (rc)
        return rc;
    struct shard *shard = &hf->shards[hf->count++];
    rc = lorica_map_open(path, &shard->map, err);
    if (!rc)
        rc = lorica_safetensors_parse(shard->map.data, shard->map.len, shard->map.len, &shard->file,
                                      err);
    return rc && err ? lorica_fail_prefix(err, "%s", name) : rc;
}

static bool listed(const struct lorica_json *first, const struct lorica_json *until) {
    for (; first != until; first = lorica_json_next(first))
        if (strcmp(lorica_json_string(first), lorica_json_string(until)) == 0)
            return true;
    return false;
}

/* The shards that the index names, each once. */
static int add_indexed(struct hf_source *hf, const char *dir, const struct lorica_json *index,
                       struct lorica_error *err) {
    const struct lorica_json *map = lorica_json_get(index, "weight_map");
    const struct lorica_json *first = lorica_json_first(map);
    int rc = 0;
    for (const struct lorica_json *f = first; f && !rc; f = lorica_json_next(f)) {
        const char *name = lorica_json_string(f);
        if (!name || strchr(name, '/') || name[0] == '.')
            return lorica_fail(err, LORICA_EFORMAT,
                               "model.safetensors.index.json: %s is assigned to no file here",
                               lorica_json_key(f));
        if (listed(first, f))
            continue;
        if (hf->count == MAX_SHARDS)
            return lorica_fail(err, LORICA_ELIMIT, "model.safetensors.index.json: over %d files",
                               MAX_SHARDS);
        rc = add_shard(hf, dir, name, err);
    }
    return rc;
}

static int open_shards(struct hf_source *hf, const char *dir, struct lorica_error *err) {
    struct lorica_json *index;
    int rc = read_json(dir, "model.safetensors.index.json", &index, err);
    if (rc)
        return rc;
    hf->shards = calloc(MAX_SHARDS, sizeof(*hf->shards));
    if (!hf->shards)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    else if (index)
        rc = add_indexed(hf, dir, index, err);
    else
        rc = add_shard(hf, dir, "model.safetensors", err);
    lorica_json_destroy(index);
    return rc;
}

static const struct lorica_tensor *find(const struct hf_source *hf, const char *name,
                                        const uint8_t **ret_data) {
    for (size_t i = 0; i < hf->count; i++) {
        const struct lorica_tensor *t = lorica_safetensors_find(&hf->shards[i].file, name);
        if (t) {
            *ret_data = hf->shards[i].map.data + t->offset;
            return t;
        }
    }
    return NULL;
}

/* -- bitsandbytes --------------------------------------------------------------------------------
 */

/* A companion "NAME.suffix" of a quantised weight, of a dtype and number of elements. */
static int companion(const struct hf_source *hf, const char *name, const char *suffix,
                     enum lorica_dtype dtype, uint64_t count, const uint8_t **ret,
                     struct lorica_error *err) {
    char full[160];
    (void)snprintf(full, sizeof(full), "%s.%s", name, suffix);
    const struct lorica_tensor *t = find(hf, full, ret);
    if (!t)
        return lorica_fail(err, LORICA_EFORMAT, "tensor %s is missing", full);
    if (t->dtype != dtype || t->nbytes != count * lorica_dtype_size(dtype))
        return lorica_fail(err, LORICA_EFORMAT, "tensor %s is not %llu values of type %s", full,
                           (unsigned long long)count, lorica_dtype_name(dtype));
    return 0;
}

static int check_state(const struct lorica_json *state, const struct lorica_source_tensor *t,
                       const char *name, bool *ret_nested, enum lorica_format *ret_dtype,
                       float *ret_offset, struct lorica_error *err) {
    const struct lorica_json *shape = lorica_json_get(state, "shape");
    const struct lorica_json *rows = lorica_json_first(shape);
    int64_t value = 0;
    const char *type = lorica_json_string(lorica_json_get(state, "quant_type"));
    const char *dtype = lorica_json_string(lorica_json_get(state, "dtype"));
    if (!type || strcmp(type, "nf4") != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED, "%s: quant_type is not nf4", name);
    if (lorica_json_integer(lorica_json_get(state, "blocksize"), LORICA_NF4_BLOCK, LORICA_NF4_BLOCK,
                            &value) != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED, "%s: its blocks are not of %d values", name,
                           LORICA_NF4_BLOCK);
    if (lorica_json_count(shape) != 2 || lorica_json_integer(rows, t->n, t->n, &value) != 0 ||
        lorica_json_integer(lorica_json_next(rows), t->k, t->k, &value) != 0)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: its quant_state names another shape than %u x "
                           "%u",
                           name, t->n, t->k);
    *ret_nested = lorica_json_type(lorica_json_get(state, "nested_offset")) == LORICA_JSON_NUMBER;
    if (*ret_nested &&
        lorica_json_integer(lorica_json_get(state, "nested_blocksize"), LORICA_NF4_NESTED_BLOCK,
                            LORICA_NF4_NESTED_BLOCK, &value) != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED, "%s: its nested blocks are not of %d values",
                           name, LORICA_NF4_NESTED_BLOCK);
    *ret_offset = (float)lorica_json_number(lorica_json_get(state, "nested_offset"), 0);
    *ret_dtype = dtype && strcmp(dtype, "bfloat16") == 0  ? LORICA_FORMAT_BF16
                 : dtype && strcmp(dtype, "float16") == 0 ? LORICA_FORMAT_F16
                                                          : LORICA_FORMAT_F32;
    return 0;
}

static int read_state(const struct hf_source *hf, const char *name, struct lorica_source_tensor *t,
                      bool *ret_nested, struct lorica_error *err) {
    char full[160];
    const uint8_t *data;
    (void)snprintf(full, sizeof(full), "%s.quant_state.bitsandbytes__nf4", name);
    const struct lorica_tensor *found = find(hf, full, &data);
    if (!found || found->dtype != LORICA_DTYPE_U8 || found->nbytes > 65536)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "%s is stored in bytes, but %s is not there: only bitsandbytes' NF4 is "
                           "read",
                           name, full);
    struct lorica_json *state;
    int rc = lorica_json_parse((const char *)data, (size_t)found->nbytes, &state, err);
    if (rc)
        return err ? lorica_fail_prefix(err, "%s", full) : rc;
    rc = check_state(state, t, name, ret_nested, &t->dense, &t->nested_offset, err);
    lorica_json_destroy(state);
    return rc;
}

static int bnb_tensor(const struct hf_source *hf, const char *name,
                      const struct lorica_tensor *weight, struct lorica_source_tensor *t,
                      struct lorica_error *err) {
    const uint64_t weights = (uint64_t)t->n * t->k;
    const uint64_t blocks = (weights + LORICA_NF4_BLOCK - 1) / LORICA_NF4_BLOCK;
    const uint64_t nested = (blocks + LORICA_NF4_NESTED_BLOCK - 1) / LORICA_NF4_NESTED_BLOCK;
    bool is_nested = false;
    const uint8_t *map;
    t->kind = LORICA_SOURCE_BNB;
    if (weight->nbytes != (weights + 1) / 2)
        return lorica_fail(err, LORICA_EFORMAT, "tensor %s has %llu bytes, %u x %u codes need %llu",
                           name, (unsigned long long)weight->nbytes, t->n, t->k,
                           (unsigned long long)((weights + 1) / 2));
    int rc = read_state(hf, name, t, &is_nested, err);
    if (!rc)
        rc = companion(hf, name, "absmax", is_nested ? LORICA_DTYPE_U8 : LORICA_DTYPE_F32, blocks,
                       &t->absmax, err);
    if (!rc)
        rc = companion(hf, name, "quant_map", LORICA_DTYPE_F32, 16, &map, err);
    if (!rc && memcmp(map, lorica_nf4_table, sizeof(lorica_nf4_table)) != 0)
        rc = lorica_fail(err, LORICA_EUNSUPPORTED, "%s.quant_map is not the table of NF4", name);
    if (!rc && is_nested)
        rc = companion(hf, name, "nested_absmax", LORICA_DTYPE_F32, nested, &t->nested_absmax, err);
    if (!rc && is_nested)
        rc = companion(hf, name, "nested_quant_map", LORICA_DTYPE_F32, 256, &t->nested_map, err);
    return rc;
}

/* -- the source ----------------------------------------------------------------------------------
 */

static int find_tensor(const struct lorica_source *source, enum lorica_slot slot, uint32_t layer,
                       struct lorica_source_tensor *ret, struct lorica_error *err) {
    const struct hf_source *hf = source->owned;
    struct lorica_source_tensor t = {0};
    char name[64];
    lorica_slot_name(slot == LORICA_SLOT_HEAD && source->arch.tied_head ? LORICA_SLOT_EMBED : slot,
                     layer, name);
    const struct lorica_tensor *found = find(hf, name, &t.data);
    if (!found)
        return lorica_fail(err, LORICA_EFORMAT, "tensor %s is missing", name);
    lorica_slot_shape(&source->arch, slot, &t.n, &t.k);
    if (found->dtype == LORICA_DTYPE_U8 && slot < LORICA_SLOT_ATTN_NORM) {
        const int rc = bnb_tensor(hf, name, found, &t, err);
        if (!rc)
            *ret = t;
        return rc;
    }
    if (found->dtype != LORICA_DTYPE_F32 && found->dtype != LORICA_DTYPE_F16 &&
        found->dtype != LORICA_DTYPE_BF16)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "tensor %s has type %s: F32, F16 and BF16 are read", name,
                           lorica_dtype_name(found->dtype));
    const bool vector = found->ndim == 1 && t.n == 1;
    const bool matrix = found->ndim == 2 && found->shape[0] == t.n;
    if (!(vector || matrix) || found->shape[found->ndim - 1] != t.k)
        return lorica_fail(err, LORICA_EFORMAT, "tensor %s has not the shape %u x %u", name, t.n,
                           t.k);
    t.kind = LORICA_SOURCE_DENSE;
    t.dense = found->dtype == LORICA_DTYPE_F32   ? LORICA_FORMAT_F32
              : found->dtype == LORICA_DTYPE_F16 ? LORICA_FORMAT_F16
                                                 : LORICA_FORMAT_BF16;
    *ret = t;
    return 0;
}

/* Whether a slot takes the tensor: its own name, or, of an NF4 weight, a companion's. */
static bool is_known(const struct lorica_arch *arch, const char *name) {
    char expected[64];
    unsigned layer = 0;
    if (strcmp(name, "lm_head.weight") == 0 || strstr(name, "rotary_emb.inv_freq"))
        return true;
    const bool in_layer = sscanf(name, "model.layers.%u.", &layer) == 1;
    for (int slot = 0; slot <= (int)LORICA_SLOT_HEAD; slot++) {
        lorica_slot_name((enum lorica_slot)slot, layer, expected);
        const size_t n = strlen(expected);
        const bool layered = slot < (int)LORICA_SLOT_EMBED;
        if (layered == in_layer && strncmp(name, expected, n) == 0 &&
            (!layered || layer < arch->layers) &&
            (name[n] == '\0' || (slot < LORICA_MODULE_COUNT && name[n] == '.')))
            return true;
    }
    return false;
}

static int check_names(const struct hf_source *hf, const struct lorica_arch *arch,
                       struct lorica_error *err) {
    for (size_t i = 0; i < hf->count; i++)
        for (size_t t = 0; t < hf->shards[i].file.count; t++)
            if (!is_known(arch, hf->shards[i].file.tensors[t].name))
                return lorica_fail(err, LORICA_EUNSUPPORTED,
                                   "tensor %.200s is none that a llama model has here",
                                   hf->shards[i].file.tensors[t].name);
    return 0;
}

/* The chat template: a file of its own, or in tokenizer_config.json. */
static int read_template(const char *dir, const struct lorica_json *tokenizer_config,
                         struct lorica_source *source, struct lorica_error *err) {
    struct lorica_map map;
    int rc = map_text(dir, "chat_template.jinja", &map, err);
    if (rc)
        return rc;
    const char *text = lorica_json_string(lorica_json_get(tokenizer_config, "chat_template"));
    if (map.data)
        rc = lorica_buf_append(&source->jinja, map.data, map.len);
    else if (text)
        rc = lorica_buf_puts(&source->jinja, text);
    lorica_map_close(&map);
    return rc ? lorica_fail(err, rc, "the chat template: %s", lorica_err_text(rc)) : 0;
}

/* The texts that an export gives back. */
static int keep_files(const char *dir, struct lorica_source *source, struct lorica_error *err) {
    static const char *const names[] = {"tokenizer.json",         "tokenizer_config.json",
                                        "generation_config.json", "special_tokens_map.json",
                                        "chat_template.jinja",    NULL};
    struct lorica_jsonw w = {.out = &source->files};
    lorica_jsonw_object(&w, NULL);
    for (int i = 0; names[i]; i++) {
        struct lorica_map map;
        const int rc = map_text(dir, names[i], &map, err);
        if (rc)
            return rc;
        if (map.data)
            lorica_jsonw_bytes(&w, names[i], (const char *)map.data, map.len);
        lorica_map_close(&map);
    }
    lorica_jsonw_end_object(&w);
    const int rc = lorica_buf_status(&source->files);
    return rc ? lorica_fail(err, rc, "the tokenizer's files: %s", lorica_err_text(rc)) : 0;
}

static int read_tokenizer(const char *dir, const struct lorica_json *config,
                          struct lorica_source *source, struct lorica_error *err) {
    struct lorica_json *tokenizer = NULL, *tokenizer_config = NULL, *generation = NULL;
    int rc = read_json(dir, "tokenizer.json", &tokenizer, err);
    if (!rc)
        rc = read_json(dir, "tokenizer_config.json", &tokenizer_config, err);
    if (!rc)
        rc = read_json(dir, "generation_config.json", &generation, err);
    if (!rc && tokenizer)
        rc = lorica_import_tokenizer_hf(tokenizer, tokenizer_config, config, generation,
                                        &source->tokenizer, err);
    if (!rc)
        rc = read_template(dir, tokenizer_config, source, err);
    if (!rc)
        rc = keep_files(dir, source, err);
    lorica_json_destroy(tokenizer);
    lorica_json_destroy(tokenizer_config);
    lorica_json_destroy(generation);
    return rc;
}

static void close_source(struct lorica_source *source) {
    struct hf_source *hf = source->owned;
    lorica_source_finish(source);
    for (size_t i = 0; i < hf->count; i++) {
        lorica_safetensors_finish(&hf->shards[i].file);
        lorica_map_close(&hf->shards[i].map);
    }
    free(hf->shards);
    free(hf);
}

static void name_after(const char *dir, char out[128]) {
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && dir[begin - 1] != '/')
        begin--;
    lorica_base_make_name(dir + begin, end - begin, out);
}

static int open_all(const char *dir, struct lorica_source *source, struct lorica_error *err) {
    struct hf_source *hf = source->owned;
    struct lorica_json *config;
    int rc = read_json(dir, "config.json", &config, err);
    if (rc)
        return rc;
    if (!config)
        return lorica_fail(err, LORICA_ENOTFOUND,
                           "config.json is missing: no Hugging Face model directory");
    rc = lorica_hf_read_config(config, &source->arch, &source->prequantised, err);
    if (!rc)
        rc = open_shards(hf, dir, err);
    if (!rc)
        rc = check_names(hf, &source->arch, err);
    if (!rc)
        rc = read_tokenizer(dir, config, source, err);
    lorica_json_destroy(config);
    return rc;
}

int lorica_source_open_hf(const char *path, struct lorica_source *ret, struct lorica_error *err) {
    struct hf_source *hf = calloc(1, sizeof(*hf));
    if (!hf)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    struct lorica_source source = {
        .kind = "huggingface", .owned = hf, .tensor = find_tensor, .close = close_source};
    lorica_buf_init(&source.tokenizer, 4 * MAX_TEXT);
    lorica_buf_init(&source.jinja, 1u << 20);
    lorica_buf_init(&source.files, 4 * MAX_TEXT);
    name_after(path, source.name);
    const int rc = open_all(path, &source, err);
    if (rc) {
        close_source(&source);
        return rc;
    }
    *ret = source;
    return 0;
}
