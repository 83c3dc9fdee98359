/* SPDX-License-Identifier: MIT
 * tokenizer.json to the tokenizer metadata of a base. Whatever would change ids and is not
 * understood is refused by name. */
#include <stdlib.h>
#include <string.h>

#include "runtime/import.h"
#include "runtime/tokenizer_parts.h"

#define WHERE "tokenizer.json: "

static int unsupported(struct lorica_error *err, const char *what, const char *value) {
    return lorica_fail(err, LORICA_EUNSUPPORTED,
                       WHERE "%s \"%s\" is not supported; lorica reads byte-level BPE tokenizers",
                       what, value);
}

static const char *type_of(const struct lorica_json *j) {
    const char *type = lorica_json_string(lorica_json_get(j, "type"));
    return type ? type : "?";
}

static bool is_null(const struct lorica_json *j) { return lorica_json_type(j) == LORICA_JSON_NULL; }

/* A member that must be absent, null, empty or zero. */
static bool is_unset(const struct lorica_json *j) {
    const char *text = lorica_json_string(j);
    return is_null(j) || (text && !*text) ||
           (lorica_json_type(j) == LORICA_JSON_NUMBER && lorica_json_number(j, 1) == 0);
}

static int check_model(const struct lorica_json *model, struct lorica_error *err) {
    const char *type = lorica_json_string(lorica_json_get(model, "type"));
    if (type && strcmp(type, "BPE") != 0)
        return unsupported(err, "the model type", type);
    if (lorica_json_is_true(lorica_json_get(model, "byte_fallback")))
        return unsupported(err, "the model option", "byte_fallback");
    static const char *const unset[] = {"dropout", "continuing_subword_prefix",
                                        "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof(unset) / sizeof(unset[0]); i++)
        if (!is_unset(lorica_json_get(model, unset[i])))
            return unsupported(err, "the model option", unset[i]);
    return 0;
}

/* The vocabulary by id: borrowed texts. */
static int read_vocab(const struct lorica_json *vocab, const char ***ret_texts, size_t *ret_count,
                      struct lorica_strmap *map, struct lorica_error *err) {
    int64_t id = 0, largest = -1;
    for (const struct lorica_json *j = lorica_json_first(vocab); j; j = lorica_json_next(j)) {
        if (lorica_json_integer(j, 0, LORICA_TOKENIZER_MAX_VOCAB - 1, &id))
            return lorica_fail(err, LORICA_EFORMAT, WHERE "the id of token \"%s\" is not valid",
                               lorica_json_key(j));
        largest = id > largest ? id : largest;
    }
    if (lorica_json_type(vocab) != LORICA_JSON_OBJECT || largest < 0)
        return lorica_fail(err, LORICA_EFORMAT, WHERE "no model.vocab");
    const char **texts = calloc((size_t)largest + 1, sizeof(*texts));
    int rc = texts ? lorica_strmap_init(map, lorica_json_count(vocab)) : LORICA_ENOMEM;
    for (const struct lorica_json *j = lorica_json_first(vocab); !rc && j;
         j = lorica_json_next(j)) {
        const char *text = lorica_json_key(j);
        rc = lorica_json_integer(j, 0, largest, &id);
        if (!rc && texts[id])
            rc = LORICA_ECONFLICT;
        if (!rc)
            rc = lorica_strmap_put(map, texts[id] = text, strlen(text), (int32_t)id);
    }
    if (rc) {
        free(texts);
        return lorica_fail(err, rc, WHERE "model.vocab: id %lld: %s", (long long)id,
                           lorica_err_text(rc));
    }
    *ret_texts = texts;
    *ret_count = (size_t)largest + 1;
    return 0;
}

/* "left right" or ["left", "right"]. */
static bool read_merge(const struct lorica_json *j, const struct lorica_strmap *map, int32_t *left,
                       int32_t *right) {
    const char *text = lorica_json_string(j);
    if (text) {
        const char *space = *text ? strchr(text + 1, ' ') : NULL;
        if (!space)
            return false;
        *left = lorica_strmap_get(map, text, (size_t)(space - text));
        *right = lorica_strmap_get(map, space + 1, strlen(space + 1));
    } else {
        const struct lorica_json *first = lorica_json_first(j);
        const char *a = lorica_json_string(first);
        const char *b = first ? lorica_json_string(lorica_json_next(first)) : NULL;
        if (!a || !b)
            return false;
        *left = lorica_strmap_get(map, a, strlen(a));
        *right = lorica_strmap_get(map, b, strlen(b));
    }
    return *left >= 0 && *right >= 0;
}

static int write_model(const struct lorica_json *model, struct lorica_jsonw *w,
                       struct lorica_error *err) {
    const char **texts = NULL;
    size_t count = 0;
    struct lorica_strmap map = {0};
    int rc = check_model(model, err);
    if (!rc)
        rc = read_vocab(lorica_json_get(model, "vocab"), &texts, &count, &map, err);
    if (!rc) {
        lorica_jsonw_array(w, "tokens");
        for (size_t i = 0; i < count; i++)
            lorica_jsonw_string(w, NULL, texts[i]);
        lorica_jsonw_end_array(w);
        lorica_jsonw_array(w, "merges");
        size_t rank = 0;
        const struct lorica_json *merges = lorica_json_get(model, "merges");
        for (const struct lorica_json *j = lorica_json_first(merges); !rc && j;
             j = lorica_json_next(j), rank++) {
            int32_t left = 0, right = 0;
            if (!read_merge(j, &map, &left, &right))
                rc = lorica_fail(err, LORICA_EFORMAT,
                                 WHERE "merge %zu is no pair of tokens of the vocabulary", rank);
            lorica_jsonw_integer(w, NULL, left);
            lorica_jsonw_integer(w, NULL, right);
        }
        lorica_jsonw_end_array(w);
        lorica_jsonw_bool(w, "ignore_merges",
                          lorica_json_is_true(lorica_json_get(model, "ignore_merges")));
    }
    free(texts);
    lorica_strmap_finish(&map);
    return rc;
}

static int write_added(const struct lorica_json *list, struct lorica_jsonw *w,
                       struct lorica_error *err) {
    lorica_jsonw_array(w, "added");
    for (const struct lorica_json *j = lorica_json_first(list); j; j = lorica_json_next(j)) {
        int64_t id = 0;
        const char *text = lorica_json_string(lorica_json_get(j, "content"));
        if (!text || !*text ||
            lorica_json_integer(lorica_json_get(j, "id"), 0, LORICA_TOKENIZER_MAX_VOCAB - 1, &id))
            return lorica_fail(err, LORICA_EFORMAT,
                               WHERE "an entry of added_tokens has no id or content");
        static const char *const flags[] = {"special", "lstrip", "rstrip", "normalized",
                                            "single_word"};
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_integer(w, "id", id);
        lorica_jsonw_string(w, "content", text);
        for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
            lorica_jsonw_bool(w, flags[i], lorica_json_is_true(lorica_json_get(j, flags[i])));
        lorica_jsonw_end_object(w);
    }
    lorica_jsonw_end_array(w);
    return 0;
}

static int write_normalizer(const struct lorica_json *j, struct lorica_jsonw *w,
                            struct lorica_error *err) {
    if (strcmp(type_of(j), "Sequence") == 0) {
        const struct lorica_json *list = lorica_json_get(j, "normalizers");
        if (lorica_json_count(list) > 1)
            return unsupported(err, "the normalizer", "Sequence of several");
        j = lorica_json_first(list);
    }
    if (is_null(j)) {
        lorica_jsonw_null(w, "normalizer");
        return 0;
    }
    const char *type = type_of(j);
    if (strcmp(type, "NFC") != 0 && strcmp(type, "NFKC") != 0)
        return unsupported(err, "the normalizer", type);
    lorica_jsonw_string(w, "normalizer", type);
    return 0;
}

static int write_split(const struct lorica_json *j, struct lorica_jsonw *w,
                       struct lorica_error *err) {
    const char *behaviour = lorica_json_string(lorica_json_get(j, "behavior"));
    const char *pattern =
        lorica_json_string(lorica_json_get(lorica_json_get(j, "pattern"), "Regex"));
    if (!pattern)
        return unsupported(err, "the pre-tokenizer", "Split without a regular expression");
    if (!behaviour || (strcmp(behaviour, "Isolated") != 0 && strcmp(behaviour, "Removed") != 0))
        return unsupported(err, "the Split behaviour", behaviour ? behaviour : "?");
    pcre2_code *regex = NULL;
    const int rc = lorica_tokenizer_pattern(pattern, &regex, err);
    if (rc)
        return rc;
    pcre2_code_free(regex);
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "type", "split");
    lorica_jsonw_string(w, "pattern", pattern);
    lorica_jsonw_bool(w, "invert", lorica_json_is_true(lorica_json_get(j, "invert")));
    lorica_jsonw_bool(w, "remove", strcmp(behaviour, "Removed") == 0);
    lorica_jsonw_end_object(w);
    return 0;
}

static int write_step(const struct lorica_json *j, bool last, struct lorica_jsonw *w,
                      struct lorica_error *err) {
    const char *type = type_of(j);
    if ((strcmp(type, "ByteLevel") == 0) != last)
        return unsupported(err,
                           "a pre-tokenizer sequence that does not end with one ByteLevel:", type);
    if (strcmp(type, "Split") == 0)
        return write_split(j, w, err);
    lorica_jsonw_object(w, NULL);
    if (strcmp(type, "Digits") == 0) {
        lorica_jsonw_string(w, "type", "digits");
        lorica_jsonw_bool(w, "individual",
                          lorica_json_is_true(lorica_json_get(j, "individual_digits")));
    } else if (strcmp(type, "ByteLevel") == 0) {
        const struct lorica_json *use_regex = lorica_json_get(j, "use_regex");
        lorica_jsonw_string(w, "type", "bytes");
        lorica_jsonw_bool(w, "prefix_space",
                          lorica_json_is_true(lorica_json_get(j, "add_prefix_space")));
        lorica_jsonw_bool(w, "regex", !use_regex || lorica_json_is_true(use_regex));
    } else {
        return unsupported(err, "the pre-tokenizer", type);
    }
    lorica_jsonw_end_object(w);
    return 0;
}

static int write_pre(const struct lorica_json *pre, struct lorica_jsonw *w,
                     struct lorica_error *err) {
    if (is_null(pre))
        return unsupported(err, "the pre-tokenizer", "null");
    int rc = 0;
    lorica_jsonw_array(w, "pre");
    if (strcmp(type_of(pre), "Sequence") == 0) {
        const struct lorica_json *list = lorica_json_get(pre, "pretokenizers");
        if (lorica_json_count(list) == 0 || lorica_json_count(list) > LORICA_TOKENIZER_MAX_STEPS)
            return unsupported(err, "the pre-tokenizer", "Sequence of none or too many");
        for (const struct lorica_json *j = lorica_json_first(list); !rc && j;
             j = lorica_json_next(j))
            rc = write_step(j, !lorica_json_next(j), w, err);
    } else {
        rc = write_step(pre, true, w, err);
    }
    lorica_jsonw_end_array(w);
    return rc;
}

/* TemplateProcessing: the special token before the text, when there is one; anything after it is
 * not supported. */
static int template_bos(const struct lorica_json *post, int64_t *bos, struct lorica_error *err) {
    bool seen_text = false;
    const struct lorica_json *single = lorica_json_get(post, "single");
    for (const struct lorica_json *j = lorica_json_first(single); j; j = lorica_json_next(j)) {
        const struct lorica_json *special = lorica_json_get(j, "SpecialToken");
        if (!special) {
            seen_text = true;
            continue;
        }
        const char *name = lorica_json_string(lorica_json_get(special, "id"));
        const struct lorica_json *ids = lorica_json_get(
            lorica_json_get(lorica_json_get(post, "special_tokens"), name ? name : ""), "ids");
        if (seen_text || *bos >= 0 || lorica_json_count(ids) != 1 ||
            lorica_json_integer(lorica_json_first(ids), 0, LORICA_TOKENIZER_MAX_VOCAB - 1, bos))
            return unsupported(err, "a post-processor that adds", name ? name : "?");
    }
    return 0;
}

static int read_bos(const struct lorica_json *post, int64_t *bos, struct lorica_error *err) {
    if (is_null(post) || strcmp(type_of(post), "ByteLevel") == 0)
        return 0;
    if (strcmp(type_of(post), "TemplateProcessing") == 0)
        return template_bos(post, bos, err);
    if (strcmp(type_of(post), "Sequence") != 0)
        return unsupported(err, "the post-processor", type_of(post));
    int rc = 0;
    const struct lorica_json *list = lorica_json_get(post, "processors");
    for (const struct lorica_json *j = lorica_json_first(list); !rc && j; j = lorica_json_next(j)) {
        if (strcmp(type_of(j), "TemplateProcessing") == 0)
            rc = template_bos(j, bos, err);
        else if (strcmp(type_of(j), "ByteLevel") != 0)
            rc = unsupported(err, "the post-processor", type_of(j));
    }
    return rc;
}

struct stop_list {
    int64_t ids[LORICA_TOKENIZER_MAX_STOP];
    size_t count;
};

static void add_stop(struct stop_list *stop, int64_t id) {
    for (size_t i = 0; i < stop->count; i++)
        if (stop->ids[i] == id)
            return;
    if (stop->count < LORICA_TOKENIZER_MAX_STOP)
        stop->ids[stop->count++] = id;
}

/* "eos_token_id" as a number or a list of numbers. */
static void add_eos(struct stop_list *stop, const struct lorica_json *config) {
    const struct lorica_json *eos = lorica_json_get(config, "eos_token_id");
    int64_t id = 0;
    if (lorica_json_integer(eos, 0, LORICA_TOKENIZER_MAX_VOCAB - 1, &id) == 0)
        add_stop(stop, id);
    for (const struct lorica_json *j = lorica_json_first(eos); j; j = lorica_json_next(j))
        if (lorica_json_integer(j, 0, LORICA_TOKENIZER_MAX_VOCAB - 1, &id) == 0)
            add_stop(stop, id);
}

static void add_stop_named(struct stop_list *stop, const struct lorica_json *added,
                           const char *name) {
    for (const struct lorica_json *j = lorica_json_first(added); name && j;
         j = lorica_json_next(j)) {
        const char *text = lorica_json_string(lorica_json_get(j, "content"));
        int64_t id = 0;
        if (text && strcmp(text, name) == 0 && lorica_json_is_true(lorica_json_get(j, "special")) &&
            lorica_json_integer(lorica_json_get(j, "id"), 0, LORICA_TOKENIZER_MAX_VOCAB - 1, &id) ==
                0)
            add_stop(stop, id);
    }
}

int lorica_import_tokenizer_hf(const struct lorica_json *tokenizer,
                               const struct lorica_json *tokenizer_config,
                               const struct lorica_json *config,
                               const struct lorica_json *generation_config, struct lorica_buf *out,
                               struct lorica_error *err) {
    const struct lorica_json *added = lorica_json_get(tokenizer, "added_tokens");
    const char *decoder = type_of(lorica_json_get(tokenizer, "decoder"));
    if (!is_null(lorica_json_get(tokenizer, "decoder")) && strcmp(decoder, "ByteLevel") != 0)
        return unsupported(err, "the decoder", decoder);
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "model", "bpe");
    int64_t bos = -1;
    int rc = write_model(lorica_json_get(tokenizer, "model"), &w, err);
    if (!rc)
        rc = write_added(added, &w, err);
    if (!rc)
        rc = write_normalizer(lorica_json_get(tokenizer, "normalizer"), &w, err);
    if (!rc)
        rc = write_pre(lorica_json_get(tokenizer, "pre_tokenizer"), &w, err);
    if (!rc)
        rc = read_bos(lorica_json_get(tokenizer, "post_processor"), &bos, err);
    if (rc)
        return rc;
    if (bos < 0)
        lorica_jsonw_null(&w, "bos");
    else
        lorica_jsonw_integer(&w, "bos", bos);
    struct stop_list stop = {0};
    const struct lorica_json *eos = lorica_json_get(tokenizer_config, "eos_token");
    const char *text = lorica_json_string(eos);
    add_stop_named(&stop, added, text ? text : lorica_json_string(lorica_json_get(eos, "content")));
    add_eos(&stop, generation_config);
    add_eos(&stop, config);
    for (size_t i = 0; lorica_import_stop_names[i]; i++)
        add_stop_named(&stop, added, lorica_import_stop_names[i]);
    lorica_jsonw_array(&w, "stop");
    for (size_t i = 0; i < stop.count; i++)
        lorica_jsonw_integer(&w, NULL, stop.ids[i]);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    rc = lorica_buf_status(out);
    return rc ? lorica_fail(err, rc, WHERE "%s", lorica_err_text(rc)) : 0;
}
