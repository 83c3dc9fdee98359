/* SPDX-License-Identifier: MIT
 * Builds a tokenizer from the metadata of a base file. */
#include <stdlib.h>
#include <string.h>

#include "proto/utf8.h"
#include "runtime/tokenizer_parts.h"

uint32_t lorica_byte_to_char(uint8_t byte) {
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173))
        return byte;
    if (byte <= 32)
        return 256u + byte;
    return byte == 173 ? 256u + 33 + 34 : 256u + 33 + (byte - 127u);
}

int lorica_char_to_byte(uint32_t c) {
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 255 && c != 173))
        return (int)c;
    if (c >= 256 && c <= 256 + 32)
        return (int)(c - 256);
    if (c >= 256 + 33 && c < 256 + 33 + 34)
        return (int)(c - 256 - 33 + 127);
    return c == 256 + 33 + 34 ? 173 : -1;
}

#define FAIL_FORMAT(err, ...) lorica_fail(err, LORICA_EFORMAT, "tokenizer: " __VA_ARGS__)

/* Raw bytes of a token: through the byte alphabet when every character is in it, else its text. */
static size_t raw_bytes(const char *text, size_t len, char *out, bool *ret_literal) {
    size_t n = 0;
    *ret_literal = false;
    for (size_t i = 0; i < len;) {
        const int byte = lorica_char_to_byte(lorica_unicode_next(text, &i));
        if (byte < 0) {
            memcpy(out, text, len);
            *ret_literal = true;
            return len;
        }
        out[n++] = (char)byte;
    }
    return n;
}

static int check_tokens(const struct lorica_json *tokens, size_t *ret_count, size_t *ret_bytes,
                        struct lorica_error *err) {
    if (lorica_json_type(tokens) != LORICA_JSON_ARRAY)
        return FAIL_FORMAT(err, "the metadata holds no list of tokens");
    size_t count = 0, bytes = 0;
    for (const struct lorica_json *t = lorica_json_first(tokens); t; t = lorica_json_next(t)) {
        const char *text = lorica_json_string(t);
        if (!text && lorica_json_type(t) != LORICA_JSON_NULL)
            return FAIL_FORMAT(err, "token %zu is no string", count);
        bytes += text ? strlen(text) : 0;
        count++;
    }
    if (count == 0 || count > LORICA_TOKENIZER_MAX_VOCAB || bytes > UINT32_MAX / 2)
        return FAIL_FORMAT(err, "%zu tokens of %zu bytes are not within limits", count, bytes);
    *ret_count = count;
    *ret_bytes = bytes;
    return 0;
}

static int32_t largest_added_id(const struct lorica_json *added) {
    int64_t largest = -1, id = 0;
    for (const struct lorica_json *a = lorica_json_first(added); a; a = lorica_json_next(a))
        if (lorica_json_integer(lorica_json_get(a, "id"), 0, LORICA_TOKENIZER_MAX_VOCAB - 1, &id) ==
                0 &&
            id > largest)
            largest = id;
    return (int32_t)largest;
}

/* tokens[] and bytes: the vocabulary first, added tokens are put over it afterwards. */
static int build_tokens(struct lorica_tokenizer *t, const struct lorica_json *root,
                        struct lorica_error *err) {
    const struct lorica_json *tokens = lorica_json_get(root, "tokens");
    const struct lorica_json *added = lorica_json_get(root, "added");
    size_t count = 0, bytes = 0;
    int rc = check_tokens(tokens, &count, &bytes, err);
    if (rc)
        return rc;
    const size_t with_added = (size_t)(largest_added_id(added) + 1);
    t->vocab = (uint32_t)(with_added > count ? with_added : count);
    for (const struct lorica_json *a = lorica_json_first(added); a; a = lorica_json_next(a)) {
        const char *text = lorica_json_string(lorica_json_get(a, "content"));
        bytes += text ? strlen(text) : 0;
    }
    if (bytes > UINT32_MAX / 2)
        return FAIL_FORMAT(err, "%zu bytes of added tokens are not within limits", bytes);
    t->tokens = calloc(t->vocab, sizeof(*t->tokens));
    t->bytes = malloc(bytes + 1);
    if (!t->tokens || !t->bytes)
        return lorica_fail(err, LORICA_ENOMEM, "tokenizer: out of memory");
    uint32_t id = 0;
    for (const struct lorica_json *j = lorica_json_first(tokens); j; j = lorica_json_next(j)) {
        const char *text = lorica_json_string(j);
        if (text) {
            bool literal = false;
            const size_t n = raw_bytes(text, strlen(text), t->bytes + t->bytes_len, &literal);
            t->tokens[id] = (struct lorica_token_text){.offset = (uint32_t)t->bytes_len,
                                                       .len = (uint32_t)n,
                                                       .known = true,
                                                       .literal = literal};
            t->bytes_len += n;
        }
        id++;
    }
    return 0;
}

static int read_added(const struct lorica_json *j, struct lorica_added_token *a,
                      struct lorica_error *err) {
    int64_t id = 0;
    const char *text = lorica_json_string(lorica_json_get(j, "content"));
    if (!text || !*text ||
        lorica_json_integer(lorica_json_get(j, "id"), 0, LORICA_TOKENIZER_MAX_VOCAB - 1, &id))
        return FAIL_FORMAT(err, "an added token has no text or no id");
    *a = (struct lorica_added_token){
        .text = text,
        .len = (uint32_t)strlen(text),
        .id = (int32_t)id,
        .special = lorica_json_is_true(lorica_json_get(j, "special")),
        .lstrip = lorica_json_is_true(lorica_json_get(j, "lstrip")),
        .rstrip = lorica_json_is_true(lorica_json_get(j, "rstrip")),
        .normalized = lorica_json_is_true(lorica_json_get(j, "normalized")),
        .single_word = lorica_json_is_true(lorica_json_get(j, "single_word")),
    };
    return 0;
}

static int trie_node(struct lorica_trie *trie, uint8_t byte, uint32_t *ret) {
    if (trie->count == trie->cap) {
        const uint32_t cap = trie->cap ? 2 * trie->cap : 64;
        struct lorica_trie_node *nodes = realloc(trie->nodes, cap * sizeof(*nodes));
        if (!nodes)
            return LORICA_ENOMEM;
        trie->nodes = nodes;
        trie->cap = cap;
    }
    trie->nodes[trie->count] = (struct lorica_trie_node){.byte = byte, .added = -1};
    *ret = trie->count++;
    return 0;
}

static int trie_insert(struct lorica_trie *trie, const char *text, size_t len, int32_t added) {
    uint32_t at = 0;
    if (trie->count == 0) {
        const int rc = trie_node(trie, 0, &at);
        if (rc)
            return rc;
    }
    for (size_t i = 0; i < len; i++) {
        const uint8_t byte = (uint8_t)text[i];
        uint32_t child = trie->nodes[at].child;
        while (child && trie->nodes[child].byte != byte)
            child = trie->nodes[child].sibling;
        if (!child) {
            const int rc = trie_node(trie, byte, &child);
            if (rc)
                return rc;
            trie->nodes[child].sibling = trie->nodes[at].child;
            trie->nodes[at].child = child;
        }
        at = child;
    }
    if (trie->nodes[at].added < 0)
        trie->nodes[at].added = added;
    return 0;
}

/* Puts one added token into the tree that it belongs to. */
static int index_added(struct lorica_tokenizer *t, size_t index) {
    const struct lorica_added_token *a = &t->added[index];
    if (!a->normalized)
        return trie_insert(&t->raw, a->text, a->len, (int32_t)index);
    lorica_buf_clear(&t->normalised);
    int rc = lorica_unicode_normalise(t->form, a->text, a->len, &t->normalised);
    if (!rc && t->normalised.len > 0)
        rc = trie_insert(&t->norm, t->normalised.data, t->normalised.len, (int32_t)index);
    return rc;
}

static int build_added(struct lorica_tokenizer *t, const struct lorica_json *list,
                       struct lorica_error *err) {
    t->added = calloc(lorica_json_count(list) + 1, sizeof(*t->added));
    if (!t->added)
        return lorica_fail(err, LORICA_ENOMEM, "tokenizer: out of memory");
    lorica_buf_init(&t->normalised, 1u << 20);
    for (const struct lorica_json *j = lorica_json_first(list); j; j = lorica_json_next(j)) {
        struct lorica_added_token *a = &t->added[t->added_count];
        int rc = read_added(j, a, err);
        if (rc)
            return rc;
        if (t->tokens[a->id].added) /* else a plain text could yield a special id */
            return FAIL_FORMAT(err, "two added tokens have the id %d", a->id);
        a->text = memcpy(t->bytes + t->bytes_len, a->text, a->len);
        t->tokens[a->id] = (struct lorica_token_text){.offset = (uint32_t)t->bytes_len,
                                                      .len = a->len,
                                                      .known = true,
                                                      .added = true,
                                                      .special = a->special};
        t->bytes_len += a->len;
        rc = index_added(t, t->added_count++);
        if (rc)
            return lorica_fail(err, rc, "tokenizer: added token \"%.*s\" is not usable",
                               (int)a->len, a->text);
    }
    return 0;
}

/* Tokens of single bytes, and all by their bytes. An added token that stands in the vocabulary is
 * none of these: no text may turn into it by being split. Nor is one outside the byte alphabet. */
static int build_pieces(struct lorica_tokenizer *t, struct lorica_strmap *map,
                        struct lorica_error *err) {
    for (int i = 0; i < 256; i++)
        t->byte_ids[i] = -1;
    int rc = lorica_strmap_init(map, t->vocab);
    for (uint32_t id = 0; !rc && id < t->vocab; id++) {
        const struct lorica_token_text *token = &t->tokens[id];
        if (!token->known || token->added || token->literal)
            continue;
        if (token->len == 1)
            t->byte_ids[(uint8_t)t->bytes[token->offset]] = (int32_t)id;
        rc = lorica_strmap_put(map, t->bytes + token->offset, token->len, (int32_t)id);
        if (rc == LORICA_ECONFLICT)
            return FAIL_FORMAT(err, "token %u stands twice in the vocabulary", id);
    }
    return rc ? lorica_fail(err, rc, "tokenizer: no memory for the vocabulary") : 0;
}

static void put_merge(struct lorica_tokenizer *t, uint64_t pair, uint32_t rank, int32_t id) {
    size_t i = (size_t)((pair * 0x9E3779B97F4A7C15u) >> 20) & t->merge_mask;
    while (t->merges[i].pair != UINT64_MAX && t->merges[i].pair != pair)
        i = (i + 1) & t->merge_mask;
    t->merges[i] = (struct lorica_merge){.pair = pair, .rank = rank, .id = id};
}

/* Id of two tokens put together, or -1. */
static int32_t joined_id(const struct lorica_tokenizer *t, const struct lorica_strmap *map,
                         int64_t left, int64_t right) {
    char text[1024];
    const struct lorica_token_text *l = &t->tokens[left], *r = &t->tokens[right];
    if (!l->known || !r->known || (size_t)l->len + r->len > sizeof(text))
        return -1;
    memcpy(text, t->bytes + l->offset, l->len);
    memcpy(text + l->len, t->bytes + r->offset, r->len);
    return lorica_strmap_get(map, text, (size_t)l->len + r->len);
}

static int build_merges(struct lorica_tokenizer *t, const struct lorica_json *list,
                        const struct lorica_strmap *map, struct lorica_error *err) {
    const size_t count = lorica_json_count(list);
    if (lorica_json_type(list) != LORICA_JSON_ARRAY || count % 2 || count / 2 > UINT32_MAX / 4)
        return FAIL_FORMAT(err, "the metadata holds no list of pairs to merge");
    size_t size = 16;
    while (size < count) /* twice the pairs */
        size *= 2;
    t->merges = malloc(size * sizeof(*t->merges));
    if (!t->merges)
        return lorica_fail(err, LORICA_ENOMEM, "tokenizer: no memory for %zu merges", count / 2);
    for (size_t i = 0; i < size; i++)
        t->merges[i] = (struct lorica_merge){.pair = UINT64_MAX};
    t->merge_mask = size - 1;
    uint32_t rank = 0;
    for (const struct lorica_json *j = lorica_json_first(list); j; rank++) {
        int64_t left = 0, right = 0;
        const struct lorica_json *second = lorica_json_next(j);
        if (lorica_json_integer(j, 0, (int64_t)t->vocab - 1, &left) ||
            lorica_json_integer(second, 0, (int64_t)t->vocab - 1, &right))
            return FAIL_FORMAT(err, "merge %u is no pair of token ids", rank);
        const int32_t id = joined_id(t, map, left, right);
        if (id < 0)
            return FAIL_FORMAT(err, "merge %u makes a token that the vocabulary lacks", rank);
        put_merge(t, (uint64_t)left << 32 | (uint64_t)right, rank, id);
        j = lorica_json_next(second);
    }
    return 0;
}

static int build_step(const struct lorica_json *j, struct lorica_pre_step *step,
                      struct lorica_error *err) {
    const char *type = lorica_json_string(lorica_json_get(j, "type"));
    const char *pattern = lorica_json_string(lorica_json_get(j, "pattern"));
    if (type && strcmp(type, "digits") == 0) {
        step->kind = LORICA_PRE_DIGITS;
        step->individual = lorica_json_is_true(lorica_json_get(j, "individual"));
        return 0;
    }
    if (type && strcmp(type, "split") == 0 && pattern) {
        step->kind = LORICA_PRE_SPLIT;
        step->invert = lorica_json_is_true(lorica_json_get(j, "invert"));
        step->remove = lorica_json_is_true(lorica_json_get(j, "remove"));
        return lorica_tokenizer_pattern(pattern, &step->regex, err);
    }
    if (type && strcmp(type, "bytes") == 0) {
        step->kind = LORICA_PRE_BYTES;
        step->prefix_space = lorica_json_is_true(lorica_json_get(j, "prefix_space"));
        if (!lorica_json_is_true(lorica_json_get(j, "regex")))
            return 0;
        return lorica_tokenizer_pattern(lorica_gpt2_pattern, &step->regex, err);
    }
    return FAIL_FORMAT(err, "pre-tokenizer step \"%s\" is unknown", type ? type : "?");
}

static int build_steps(struct lorica_tokenizer *t, const struct lorica_json *list,
                       struct lorica_error *err) {
    for (const struct lorica_json *j = lorica_json_first(list); j; j = lorica_json_next(j)) {
        if (t->step_count == LORICA_TOKENIZER_MAX_STEPS)
            return lorica_fail(err, LORICA_ELIMIT, "tokenizer: more than %d pre-tokenizer steps",
                               LORICA_TOKENIZER_MAX_STEPS);
        const int rc = build_step(j, &t->steps[t->step_count++], err);
        if (rc)
            return rc;
        const bool last = !lorica_json_next(j);
        if ((t->steps[t->step_count - 1].kind == LORICA_PRE_BYTES) != last)
            return FAIL_FORMAT(err, "the byte-level step must be the last and only the last");
    }
    if (t->step_count == 0)
        return FAIL_FORMAT(err, "no pre-tokenizer steps");
    t->match = pcre2_match_context_create(NULL);
    if (!t->match)
        return lorica_fail(err, LORICA_ENOMEM, "tokenizer: out of memory");
    pcre2_set_match_limit(t->match, 50000000);
    pcre2_set_heap_limit(t->match, 1u << 18); /* KiB */
    return 0;
}

static int build_form(struct lorica_tokenizer *t, const struct lorica_json *j,
                      struct lorica_error *err) {
    const char *name = lorica_json_string(j);
    if (lorica_json_type(j) == LORICA_JSON_NULL)
        t->form = LORICA_NORMAL_NONE;
    else if (name && strcmp(name, "NFC") == 0)
        t->form = LORICA_NORMAL_NFC;
    else if (name && strcmp(name, "NFKC") == 0)
        t->form = LORICA_NORMAL_NFKC;
    else
        return FAIL_FORMAT(err, "normalizer \"%s\" is unknown", name ? name : "?");
    return 0;
}

static int build_ends(struct lorica_tokenizer *t, const struct lorica_json *root,
                      struct lorica_error *err) {
    const struct lorica_json *bos = lorica_json_get(root, "bos");
    int64_t id = -1;
    if (lorica_json_type(bos) != LORICA_JSON_NULL &&
        lorica_json_integer(bos, 0, (int64_t)t->vocab - 1, &id))
        return FAIL_FORMAT(err, "\"bos\" is no token id");
    t->bos = (int32_t)id;
    const struct lorica_json *list = lorica_json_get(root, "stop");
    for (const struct lorica_json *j = lorica_json_first(list); j; j = lorica_json_next(j)) {
        if (t->stop_count == LORICA_TOKENIZER_MAX_STOP ||
            lorica_json_integer(j, 0, (int64_t)t->vocab - 1, &id))
            return FAIL_FORMAT(err, "\"stop\" is no list of at most %d token ids",
                               LORICA_TOKENIZER_MAX_STOP);
        t->stop[t->stop_count++] = (int32_t)id;
    }
    return 0;
}

static int build(struct lorica_tokenizer *t, const struct lorica_json *root,
                 struct lorica_error *err) {
    const char *model = lorica_json_string(lorica_json_get(root, "model"));
    if (!model || strcmp(model, "bpe") != 0)
        return FAIL_FORMAT(err, "the metadata holds no byte-level BPE tokenizer");
    t->ignore_merges = lorica_json_is_true(lorica_json_get(root, "ignore_merges"));
    struct lorica_strmap map = {0};
    int rc = build_form(t, lorica_json_get(root, "normalizer"), err);
    if (!rc)
        rc = build_tokens(t, root, err);
    if (!rc)
        rc = build_added(t, lorica_json_get(root, "added"), err);
    if (!rc)
        rc = build_pieces(t, &map, err);
    if (!rc)
        rc = build_merges(t, lorica_json_get(root, "merges"), &map, err);
    if (!rc)
        rc = build_steps(t, lorica_json_get(root, "pre"), err);
    if (!rc)
        rc = build_ends(t, root, err);
    if (!rc && t->ignore_merges)
        t->whole = map;
    else
        lorica_strmap_finish(&map);
    return rc;
}

int lorica_tokenizer_create(const char *metadata, size_t len, struct lorica_tokenizer **ret,
                            struct lorica_error *err) {
    struct lorica_tokenizer *t = calloc(1, sizeof(*t));
    if (!t)
        return lorica_fail(err, LORICA_ENOMEM, "tokenizer: out of memory");
    struct lorica_json *json = NULL;
    int rc = lorica_json_parse(metadata, len, &json, err);
    if (!rc)
        rc = build(t, lorica_json_get(json, "tokenizer"), err);
    lorica_json_destroy(json);
    lorica_buf_finish(&t->normalised);
    if (rc) {
        lorica_tokenizer_destroy(t);
        return rc;
    }
    *ret = t;
    return 0;
}

void lorica_tokenizer_destroy(struct lorica_tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    for (size_t i = 0; i < tokenizer->step_count; i++)
        pcre2_code_free(tokenizer->steps[i].regex);
    pcre2_match_context_free(tokenizer->match);
    lorica_strmap_finish(&tokenizer->whole);
    free(tokenizer->raw.nodes);
    free(tokenizer->norm.nodes);
    free(tokenizer->merges);
    free(tokenizer->added);
    free(tokenizer->tokens);
    free(tokenizer->bytes);
    free(tokenizer);
}
