/* SPDX-License-Identifier: MIT
 * The tokenizer that stands in a GGUF file's metadata. GGUF names the pre-tokenizer instead of
 * describing it; only names whose meaning is certain are taken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/import.h"
#include "runtime/tokenizer_parts.h"

const char *const lorica_import_stop_names[] = {"<|im_end|>", "<|eot_id|>", "<|endoftext|>", NULL};

#define WORDS                                                                                      \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s| "                        \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** What a name of tokenizer.ggml.pre means. */
struct pre_name {
    const char *name;
    bool digits;     /* single digits first */
    const char *run; /* not NULL: the word pattern with this many digits */
    bool nfc, ignore_merges;
};

static const struct pre_name pre_names[] = {
    {.name = "gpt-2"},
    {.name = "smollm", .digits = true},
    {.name = "starcoder", .digits = true},
    {.name = "llama-bpe", .run = "{1,3}", .ignore_merges = true},
    {.name = "llama3", .run = "{1,3}", .ignore_merges = true},
    {.name = "llama-v3", .run = "{1,3}", .ignore_merges = true},
    {.name = "qwen2", .run = "", .nfc = true},
};

enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED };

static const struct lorica_gguf_value *find_array(const struct lorica_gguf *file, const char *key,
                                                  bool strings) {
    const struct lorica_gguf_value *v = lorica_gguf_find(file, key);
    if (!v || v->type != LORICA_GGUF_ARRAY || (v->element_type == LORICA_GGUF_STRING) != strings)
        return NULL;
    return v;
}

static bool text_is(const struct lorica_gguf_value *v, const char *text) {
    return v && v->type == LORICA_GGUF_STRING && v->string.len == strlen(text) &&
           memcmp(v->string.data, text, v->string.len) == 0;
}

static int refuse_name(struct lorica_error *err, const char *key,
                       const struct lorica_gguf_value *v) {
    const bool text = v && v->type == LORICA_GGUF_STRING;
    return lorica_fail(err, LORICA_EUNSUPPORTED,
                       "%s \"%.*s\" is not supported; import the model from its Hugging Face "
                       "directory, whose tokenizer.json describes it, or use another model",
                       key, text ? (int)(v->string.len < 60 ? v->string.len : 60) : 7,
                       text ? v->string.data : "missing");
}

static uint32_t token_type(const struct lorica_gguf_value *types, uint64_t i) {
    uint32_t type = 0;
    memcpy(&type, types->elements + 4 * i, sizeof(type));
    return type;
}

static int write_vocab(const struct lorica_gguf_value *tokens,
                       const struct lorica_gguf_value *merges, struct lorica_jsonw *w,
                       struct lorica_error *err) {
    struct lorica_strmap map = {0};
    int rc = lorica_strmap_init(&map, (size_t)tokens->count);
    lorica_jsonw_array(w, "tokens");
    for (uint64_t i = 0; !rc && i < tokens->count; i++) {
        const struct lorica_gguf_string *s = &tokens->strings[i];
        rc = lorica_strmap_put(&map, s->data, s->len, (int32_t)i);
        if (rc)
            rc = lorica_fail(err, rc, "tokenizer.ggml.tokens: token %llu \"%.*s\": %s",
                             (unsigned long long)i, (int)(s->len < 60 ? s->len : 60), s->data,
                             lorica_err_text(rc));
        lorica_jsonw_bytes(w, NULL, s->data, s->len);
    }
    lorica_jsonw_end_array(w);
    lorica_jsonw_array(w, "merges");
    for (uint64_t i = 0; !rc && i < merges->count; i++) {
        const struct lorica_gguf_string *s = &merges->strings[i];
        const char *space = s->len > 1 ? memchr(s->data + 1, ' ', s->len - 1) : NULL;
        const size_t left_len = space ? (size_t)(space - s->data) : 0;
        const int32_t left = lorica_strmap_get(&map, s->data, left_len);
        const int32_t right =
            space ? lorica_strmap_get(&map, space + 1, s->len - left_len - 1) : -1;
        if (left < 0 || right < 0)
            rc = lorica_fail(err, LORICA_EFORMAT,
                             "tokenizer.ggml.merges: entry %llu is no pair of tokens",
                             (unsigned long long)i);
        lorica_jsonw_integer(w, NULL, left);
        lorica_jsonw_integer(w, NULL, right);
    }
    lorica_jsonw_end_array(w);
    lorica_strmap_finish(&map);
    return rc;
}

static int write_added(const struct lorica_gguf_value *tokens,
                       const struct lorica_gguf_value *types, struct lorica_jsonw *w,
                       struct lorica_error *err) {
    lorica_jsonw_array(w, "added");
    for (uint64_t i = 0; i < tokens->count; i++) {
        const uint32_t type = token_type(types, i);
        if (type == TOKEN_NORMAL || type == TOKEN_UNUSED)
            continue;
        if (type < TOKEN_NORMAL || type > TOKEN_USER)
            return lorica_fail(
                err, LORICA_EUNSUPPORTED,
                "tokenizer.ggml.token_type: token %llu has type %u, which byte-level "
                "BPE does not have",
                (unsigned long long)i, type);
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_integer(w, "id", (int64_t)i);
        lorica_jsonw_bytes(w, "content", tokens->strings[i].data, tokens->strings[i].len);
        lorica_jsonw_bool(w, "special", type != TOKEN_USER);
        lorica_jsonw_bool(w, "lstrip", false);
        lorica_jsonw_bool(w, "rstrip", false);
        lorica_jsonw_bool(w, "normalized", false);
        lorica_jsonw_bool(w, "single_word", false);
        lorica_jsonw_end_object(w);
    }
    lorica_jsonw_end_array(w);
    return 0;
}

static void write_pre(const struct pre_name *pre, struct lorica_jsonw *w) {
    lorica_jsonw_array(w, "pre");
    if (pre->digits) {
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_string(w, "type", "digits");
        lorica_jsonw_bool(w, "individual", true);
        lorica_jsonw_end_object(w);
    }
    if (pre->run) {
        char pattern[256];
        (void)snprintf(pattern, sizeof(pattern), WORDS, pre->run);
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_string(w, "type", "split");
        lorica_jsonw_string(w, "pattern", pattern);
        lorica_jsonw_bool(w, "invert", false);
        lorica_jsonw_bool(w, "remove", false);
        lorica_jsonw_end_object(w);
    }
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "type", "bytes");
    lorica_jsonw_bool(w, "prefix_space", false);
    lorica_jsonw_bool(w, "regex", !pre->run);
    lorica_jsonw_end_object(w);
    lorica_jsonw_end_array(w);
}

/* End-of-text, end-of-turn, and the tokens that are one by name. */
static void write_stop(const struct lorica_gguf *file, const struct lorica_gguf_value *tokens,
                       const struct lorica_gguf_value *types, struct lorica_jsonw *w) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id"};
    uint64_t ids[8];
    size_t count = 0;
    for (size_t i = 0; i < 2; i++) {
        const uint64_t id = lorica_gguf_uint(file, keys[i], UINT64_MAX);
        if (id < tokens->count && (count == 0 || ids[0] != id))
            ids[count++] = id;
    }
    for (uint64_t i = 0; i < tokens->count && count < 8; i++) {
        bool is_stop = false;
        for (size_t n = 0; token_type(types, i) == TOKEN_CONTROL && lorica_import_stop_names[n];
             n++)
            is_stop |= tokens->strings[i].len == strlen(lorica_import_stop_names[n]) &&
                       memcmp(tokens->strings[i].data, lorica_import_stop_names[n],
                              tokens->strings[i].len) == 0;
        for (size_t n = 0; n < count; n++)
            is_stop &= ids[n] != i;
        if (is_stop)
            ids[count++] = i;
    }
    lorica_jsonw_array(w, "stop");
    for (size_t i = 0; i < count; i++)
        lorica_jsonw_integer(w, NULL, (int64_t)ids[i]);
    lorica_jsonw_end_array(w);
}

static const struct pre_name *find_pre(const struct lorica_gguf_value *v) {
    for (size_t i = 0; i < sizeof(pre_names) / sizeof(pre_names[0]); i++)
        if (text_is(v, pre_names[i].name))
            return &pre_names[i];
    return NULL;
}

int lorica_import_tokenizer_gguf(const struct lorica_gguf *file, struct lorica_buf *out,
                                 struct lorica_error *err) {
    const struct lorica_gguf_value *model = lorica_gguf_find(file, "tokenizer.ggml.model");
    const struct lorica_gguf_value *pre_value = lorica_gguf_find(file, "tokenizer.ggml.pre");
    const struct pre_name *pre = find_pre(pre_value);
    if (!text_is(model, "gpt2"))
        return refuse_name(err, "tokenizer.ggml.model", model);
    if (!pre)
        return refuse_name(err, "tokenizer.ggml.pre", pre_value);
    if (lorica_gguf_uint(file, "tokenizer.ggml.add_space_prefix", 0) ||
        lorica_gguf_uint(file, "tokenizer.ggml.add_eos_token", 0))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "tokenizer.ggml.add_space_prefix and add_eos_token are not supported");
    const struct lorica_gguf_value *tokens = find_array(file, "tokenizer.ggml.tokens", true);
    const struct lorica_gguf_value *merges = find_array(file, "tokenizer.ggml.merges", true);
    const struct lorica_gguf_value *types = find_array(file, "tokenizer.ggml.token_type", false);
    if (!tokens || !merges || !types || types->element_type != LORICA_GGUF_I32 ||
        types->count != tokens->count || tokens->count > LORICA_TOKENIZER_MAX_VOCAB)
        return lorica_fail(err, LORICA_EFORMAT,
                           "tokenizer.ggml.tokens, token_type and merges are missing or disagree");
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "model", "bpe");
    int rc = write_vocab(tokens, merges, &w, err);
    if (!rc) {
        lorica_jsonw_bool(&w, "ignore_merges", pre->ignore_merges);
        rc = write_added(tokens, types, &w, err);
    }
    if (rc)
        return rc;
    lorica_jsonw_string(&w, "normalizer", pre->nfc ? "NFC" : NULL);
    write_pre(pre, &w);
    const uint64_t bos = lorica_gguf_uint(file, "tokenizer.ggml.bos_token_id", UINT64_MAX);
    if (lorica_gguf_uint(file, "tokenizer.ggml.add_bos_token", 0) && bos < tokens->count)
        lorica_jsonw_integer(&w, "bos", (int64_t)bos);
    else
        lorica_jsonw_null(&w, "bos");
    write_stop(file, tokens, types, &w);
    lorica_jsonw_end_object(&w);
    rc = lorica_buf_status(out);
    return rc ? lorica_fail(err, rc, "tokenizer: %s", lorica_err_text(rc)) : 0;
}
