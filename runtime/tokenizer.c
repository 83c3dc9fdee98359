/* SPDX-License-Identifier: MIT
 * Text to ids and ids to bytes. The way of a text: added tokens are cut out, the rest is normalised
 * and cut again, the pre-tokenizer steps split it into pieces, and BPE encodes each piece. Each
 * step sees a piece as if it were the whole text. */
#include <stdlib.h>
#include <string.h>

#include "proto/utf8.h"
#include "runtime/tokenizer_parts.h"

int lorica_tokens_push(struct lorica_tokens *tokens, int32_t id) {
    if (tokens->count == tokens->cap) {
        const size_t cap = tokens->cap ? 2 * tokens->cap : 64;
        if (cap > SIZE_MAX / sizeof(*tokens->ids))
            return LORICA_ELIMIT;
        int32_t *ids = realloc(tokens->ids, cap * sizeof(*ids));
        if (!ids)
            return LORICA_ENOMEM;
        tokens->ids = ids;
        tokens->cap = cap;
    }
    tokens->ids[tokens->count++] = id;
    return 0;
}

/** One call of encode. */
struct encoder {
    const struct lorica_tokenizer *t;
    struct lorica_tokens *out;
    struct lorica_error *err;
    struct lorica_bpe bpe;
    pcre2_match_data *match;
    bool special;
};

/** A stretch of text, and the same with stand-ins for what the regex library does not know. */
struct piece {
    const char *text;
    const char *shadow;
    size_t len;
};

static int pre_tokenise(struct encoder *e, size_t step, struct piece piece);

static struct piece part(struct piece piece, size_t start, size_t end) {
    return (struct piece){
        .text = piece.text + start, .shadow = piece.shadow + start, .len = end - start};
}

static int split_digits(struct encoder *e, size_t step, struct piece piece) {
    const bool individual = e->t->steps[step].individual;
    size_t start = 0;
    bool in_number = false;
    for (size_t i = 0; i < piece.len;) {
        const size_t at = i;
        const bool numeric = lorica_unicode_is_numeric(lorica_unicode_next(piece.text, &i));
        if (at > start && (numeric != in_number || (numeric && individual))) {
            const int rc = pre_tokenise(e, step + 1, part(piece, start, at));
            if (rc)
                return rc;
            start = at;
        }
        in_number = numeric;
    }
    return start < piece.len ? pre_tokenise(e, step + 1, part(piece, start, piece.len)) : 0;
}

/* Next match at or behind *start: 1 and [*start, *end), 0 when there is none, or an error. */
static int next_match(struct encoder *e, const pcre2_code *regex, struct piece piece, size_t *start,
                      size_t *end) {
    size_t from = *start;
    while (from < piece.len) {
        const uint32_t options = PCRE2_NO_UTF_CHECK;
        int n = pcre2_match(regex, (PCRE2_SPTR)piece.shadow, piece.len, from, options, e->match,
                            e->t->match);
        if (n == PCRE2_ERROR_JIT_STACKLIMIT)
            n = pcre2_match(regex, (PCRE2_SPTR)piece.shadow, piece.len, from,
                            options | PCRE2_NO_JIT, e->match, e->t->match);
        if (n == PCRE2_ERROR_NOMATCH)
            return 0;
        if (n == PCRE2_ERROR_NOMEMORY)
            return lorica_fail(e->err, LORICA_ENOMEM, "tokenizer: out of memory");
        if (n < 0)
            return lorica_fail(e->err, LORICA_ELIMIT,
                               "tokenizer: the model's pattern is too costly for this text "
                               "(PCRE2 error %d); shorten the text",
                               n);
        const size_t *offsets = pcre2_get_ovector_pointer(e->match);
        if (offsets[1] > offsets[0]) {
            *start = offsets[0];
            *end = offsets[1];
            return 1;
        }
        from = offsets[1]; /* an empty match: go on one character later */
        if (from < piece.len)
            (void)lorica_unicode_next(piece.text, &from);
    }
    return 0;
}

static int split_regex(struct encoder *e, size_t step, struct piece piece) {
    const struct lorica_pre_step *s = &e->t->steps[step];
    size_t done = 0;
    while (done < piece.len) {
        size_t start = done, end = piece.len;
        const int found = next_match(e, s->regex, piece, &start, &end);
        if (found < 0)
            return found;
        if (!found)
            start = end = piece.len;
        /* Without invert the match is the delimiter, and what lies before it is not. */
        int rc = 0;
        if (start > done && !(s->remove && s->invert))
            rc = pre_tokenise(e, step + 1, part(piece, done, start));
        if (!rc && end > start && !(s->remove && !s->invert))
            rc = pre_tokenise(e, step + 1, part(piece, start, end));
        if (rc)
            return rc;
        done = end;
    }
    return 0;
}

/* The last step: an optional space in front, an optional pattern, then BPE. */
static int split_bytes(struct encoder *e, size_t step, struct piece piece) {
    const struct lorica_pre_step *s = &e->t->steps[step];
    char *copy = NULL;
    if (s->prefix_space && piece.text[0] != ' ') {
        copy = malloc(2 * (piece.len + 1));
        if (!copy)
            return lorica_fail(e->err, LORICA_ENOMEM, "tokenizer: out of memory");
        char *shadow = copy + piece.len + 1;
        copy[0] = shadow[0] = ' ';
        memcpy(copy + 1, piece.text, piece.len);
        memcpy(shadow + 1, piece.shadow, piece.len);
        piece = (struct piece){.text = copy, .shadow = shadow, .len = piece.len + 1};
    }
    const int rc = s->regex ? split_regex(e, step, piece)
                            : lorica_bpe_encode(e->t, &e->bpe, piece.text, piece.len, e->out);
    free(copy);
    return rc;
}

/* Runs steps [step, ...) on one piece; behind the last, BPE. */
static int pre_tokenise(struct encoder *e, size_t step, struct piece piece) {
    if (step == e->t->step_count)
        return lorica_bpe_encode(e->t, &e->bpe, piece.text, piece.len, e->out);
    switch (e->t->steps[step].kind) {
    case LORICA_PRE_DIGITS:
        return split_digits(e, step, piece);
    case LORICA_PRE_SPLIT:
        return split_regex(e, step, piece);
    default:
        return split_bytes(e, step, piece);
    }
}

static int encode_plain(struct encoder *e, const char *text, size_t len) {
    if (len == 0)
        return 0;
    char *shadow = NULL;
    char *unchecked = (char *)text; /* only read: write is false */
    if (lorica_unicode_shadow(unchecked, len, false)) {
        shadow = malloc(len);
        if (!shadow)
            return LORICA_ENOMEM;
        memcpy(shadow, text, len);
        (void)lorica_unicode_shadow(shadow, len, true);
    }
    const int rc = pre_tokenise(
        e, 0, (struct piece){.text = text, .shadow = shadow ? shadow : text, .len = len});
    free(shadow);
    return rc;
}

/* Longest added token that begins at text[0]; NULL when none does. */
static const struct lorica_added_token *match_added(const struct encoder *e,
                                                    const struct lorica_trie *trie,
                                                    const char *text, size_t len, size_t *ret_len) {
    const struct lorica_added_token *best = NULL;
    uint32_t at = 0;
    for (size_t i = 0; i < len; i++) {
        uint32_t child = trie->nodes[at].child;
        while (child && trie->nodes[child].byte != (uint8_t)text[i])
            child = trie->nodes[child].sibling;
        if (!child)
            break;
        at = child;
        if (trie->nodes[at].added >= 0) {
            best = &e->t->added[trie->nodes[at].added];
            *ret_len = i + 1;
        }
    }
    return best;
}

static bool stands_alone(const char *text, size_t len, size_t start, size_t end) {
    size_t before = start, after = end;
    if (start > 0 && lorica_unicode_is_word(lorica_unicode_previous(text, &before)))
        return false;
    return end == len || !lorica_unicode_is_word(lorica_unicode_next(text, &after));
}

/* Takes in the white space that a token with lstrip or rstrip swallows. */
static void widen(const struct lorica_added_token *a, const char *text, size_t len, size_t done,
                  size_t *start, size_t *end) {
    size_t at = *start;
    while (a->lstrip && at > done && lorica_unicode_is_space(lorica_unicode_previous(text, &at)))
        *start = at;
    at = *end;
    while (a->rstrip && at < len && lorica_unicode_is_space(lorica_unicode_next(text, &at)))
        *end = at;
}

typedef int (*plain_fn)(struct encoder *e, const char *text, size_t len);

/* Cuts added tokens out of text and gives what lies between them to `plain`. */
static int split_added(struct encoder *e, const struct lorica_trie *trie, const char *text,
                       size_t len, plain_fn plain) {
    size_t done = 0;
    for (size_t i = 0; trie->count > 0 && i < len;) {
        size_t found = 0;
        const struct lorica_added_token *a = match_added(e, trie, text + i, len - i, &found);
        if (!a) {
            i++;
            continue;
        }
        size_t start = i, end = i + found;
        i = end;
        if ((a->special && !e->special) || (a->single_word && !stands_alone(text, len, start, end)))
            continue;
        widen(a, text, len, done, &start, &end);
        if (start < done)
            start = done;
        int rc = start > done ? plain(e, text + done, start - done) : 0;
        if (!rc)
            rc = lorica_tokens_push(e->out, a->id);
        if (rc)
            return rc;
        done = end;
        i = end > i ? end : i;
    }
    return done < len ? plain(e, text + done, len - done) : 0;
}

static int encode_normalised(struct encoder *e, const char *text, size_t len) {
    return split_added(e, &e->t->norm, text, len, encode_plain);
}

static int encode_raw(struct encoder *e, const char *text, size_t len) {
    if (e->t->form == LORICA_NORMAL_NONE)
        return encode_normalised(e, text, len);
    struct lorica_buf normal;
    lorica_buf_init(&normal, 1u << 30);
    int rc = lorica_unicode_normalise(e->t->form, text, len, &normal);
    if (!rc && normal.len > 0)
        rc = encode_normalised(e, normal.data, normal.len);
    lorica_buf_finish(&normal);
    return rc;
}

int lorica_tokenizer_encode(const struct lorica_tokenizer *tokenizer, const char *text, size_t len,
                            bool special, struct lorica_tokens *out, struct lorica_error *err) {
    const size_t valid = lorica_utf8_valid_prefix(text, len);
    if (valid != len)
        return lorica_fail(err, LORICA_EFORMAT, "the text is not UTF-8 at byte %zu", valid);
    struct lorica_error inner = {0};
    struct encoder e = {.t = tokenizer, .out = out, .err = &inner, .special = special};
    e.match = pcre2_match_data_create(4, NULL);
    if (!e.match)
        return lorica_fail(err, LORICA_ENOMEM, "tokenizer: out of memory");
    const size_t before = out->count;
    const int rc = split_added(&e, &tokenizer->raw, text, len, encode_raw);
    lorica_bpe_finish(&e.bpe);
    pcre2_match_data_free(e.match);
    if (!rc)
        return 0;
    out->count = before;
    return inner.code ? lorica_fail(err, rc, "%s", inner.text)
                      : lorica_fail(err, rc, "tokenizer: %s", lorica_err_text(rc));
}

int lorica_tokenizer_decode(const struct lorica_tokenizer *tokenizer, int32_t id, bool special,
                            struct lorica_buf *out) {
    if (id < 0 || (uint32_t)id >= tokenizer->vocab)
        return LORICA_EINVAL;
    const struct lorica_token_text *token = &tokenizer->tokens[id];
    if (!token->known || (token->special && !special))
        return lorica_buf_status(out);
    return lorica_buf_append(out, tokenizer->bytes + token->offset, token->len);
}

int32_t lorica_tokenizer_special_id(const struct lorica_tokenizer *tokenizer, const char *text) {
    const size_t len = strlen(text);
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const struct lorica_added_token *a = &tokenizer->added[i];
        if (a->special && a->len == len && memcmp(a->text, text, len) == 0)
            return a->id;
    }
    return -1;
}

const int32_t *lorica_tokenizer_stop_ids(const struct lorica_tokenizer *tokenizer,
                                         size_t *ret_count) {
    *ret_count = tokenizer->stop_count;
    return tokenizer->stop;
}

int32_t lorica_tokenizer_bos_id(const struct lorica_tokenizer *tokenizer) { return tokenizer->bos; }

uint32_t lorica_tokenizer_vocab(const struct lorica_tokenizer *tokenizer) {
    return tokenizer->vocab;
}
