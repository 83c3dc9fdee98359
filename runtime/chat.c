/* SPDX-License-Identifier: MIT
 * ChatML: <|im_start|>ROLE\nCONTENT<|im_end|>\n for every message. Between two special tokens the
 * text is encoded as one piece, as the reference implementation does. */
#include "runtime/chat.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

#define DEFAULT_SYSTEM_MAX 2000
#define CONTENT_MAX (16u << 20)

static const char name_chatml[] = "chatml";
static const char turn_start[] = "<|im_start|>", turn_end[] = "<|im_end|>";

struct lorica_chat_template {
    char *default_system; /* owned; "" for none */
};

/* `needle` in the `len` bytes at `text`, which need not end with NUL. */
static const char *find(const char *text, size_t len, const char *needle) {
    return memmem(text, len, needle, strlen(needle));
}

/* What an escape in a literal stands for; NUL: one that is not read. */
static char unescape(char letter) {
    static const char letters[] = "nt\\'\"", meanings[] = "\n\t\\'\"";
    const char *at = letter ? strchr(letters, letter) : NULL;
    return at ? meanings[at - letters] : '\0';
}

/* The text up to `turn_end` when it is literal: a quote or a brace is the template's own language.
 */
static bool read_literal(const char *at, size_t len, struct lorica_buf *out) {
    const char *end = find(at, len, turn_end);
    if (!end || end - at > DEFAULT_SYSTEM_MAX)
        return false;
    lorica_buf_clear(out);
    for (; at < end; at++) {
        if (strchr("'\"{}", *at)) /* or NUL */
            return false;
        const char c = *at == '\\' ? unescape(*++at) : *at;
        if (!c)
            return false;
        (void)lorica_buf_append(out, &c, 1);
    }
    return lorica_buf_status(out) == 0;
}

/* Looks at every place where a system message opens. False when two of them hold different texts,
 * or one holds an empty one: which is the default, cannot be told. */
static bool find_default_system(const char *jinja, size_t len, struct lorica_buf *out) {
    static const char *const openings[] = {"<|im_start|>system\n", "<|im_start|>system\\n"};
    struct lorica_buf text;
    bool sure = true;
    lorica_buf_init(&text, DEFAULT_SYSTEM_MAX);
    for (size_t i = 0; i < sizeof(openings) / sizeof(openings[0]); i++) {
        const char *at = jinja;
        while ((at = find(at, len - (size_t)(at - jinja), openings[i]))) {
            at += strlen(openings[i]);
            if (!read_literal(at, len - (size_t)(at - jinja), &text))
                continue;
            sure &= text.len > 0;
            if (out->len == 0)
                (void)lorica_buf_append(out, text.data, text.len);
            else
                sure &= out->len == text.len && memcmp(out->data, text.data, text.len) == 0;
        }
    }
    lorica_buf_finish(&text);
    return sure;
}

/* Whether `name` is called as a method (".strip(") or applied as a filter ("| trim"). */
static bool is_used(const char *jinja, size_t len, const char *name) {
    const size_t n = strlen(name);
    for (const char *at = jinja; (at = find(at, len - (size_t)(at - jinja), name)); at += n) {
        const char *before = at, *after = at + n, *end = jinja + len;
        while (before > jinja && strchr(" \t\r\n", before[-1]))
            before--;
        while (after < end && strchr(" \t\r\n", *after))
            after++;
        const bool word = at + n == end || !(isalnum((unsigned char)at[n]) || at[n] == '_');
        const char operator= before> jinja ? before[-1] : '\0';
        if (word && (operator== '|' ||(operator== '.' && after<end && * after == '(')))
            return true;
    }
    return false;
}

/* Whether contents would not stand in the prompt as they are. */
static bool changes_content(const char *jinja, size_t len) {
    static const char *const changes[] = {
        "trim",  "strip",      "lstrip", "rstrip", "replace", "split",    "rsplit",    "upper",
        "lower", "capitalize", "title",  "escape", "e",       "truncate", "striptags", "indent",
    };
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
        if (is_used(jinja, len, changes[i]))
            return true;
    return false;
}

const char *lorica_chat_recognise(const char *jinja, size_t len,
                                  struct lorica_buf *default_system) {
    if (!find(jinja, len, turn_start) || !find(jinja, len, turn_end) ||
        !find(jinja, len, "assistant") || !find(jinja, len, "content"))
        return NULL;
    if (!find_default_system(jinja, len, default_system) || changes_content(jinja, len))
        return NULL;
    return name_chatml;
}

bool lorica_chat_known(const char *name) { return strcmp(name, name_chatml) == 0; }
const char *lorica_chat_names(void) { return name_chatml; }

static int create_from(const struct lorica_json *root, struct lorica_chat_template **ret,
                       struct lorica_error *err) {
    const struct lorica_json *chat = lorica_json_get(root, "chat");
    const char *name = lorica_json_string(lorica_json_get(chat, "template"));
    if (!name)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "the base has no chat template: import it again with --template NAME "
                           "(known: %s)",
                           lorica_chat_names());
    if (!lorica_chat_known(name))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "the base names the chat template \"%.100s\"; "
                           "known: %s",
                           name, lorica_chat_names());
    const char *system = lorica_json_string(lorica_json_get(chat, "default_system"));
    struct lorica_chat_template *made = calloc(1, sizeof(*made));
    char *copy = strdup(system ? system : "");
    if (!made || !copy) {
        free(made);
        free(copy);
        return lorica_fail(err, LORICA_ENOMEM, "no memory for a chat template");
    }
    made->default_system = copy;
    *ret = made;
    return 0;
}

int lorica_chat_create(const char *metadata, size_t len, struct lorica_chat_template **ret,
                       struct lorica_error *err) {
    struct lorica_json *root;
    int rc = lorica_json_parse(metadata, len, &root, err);
    if (rc)
        return rc;
    rc = create_from(root, ret, err);
    lorica_json_destroy(root);
    return rc;
}

void lorica_chat_destroy(struct lorica_chat_template *chat) {
    if (!chat)
        return;
    free(chat->default_system);
    free(chat);
}

/* A prompt in the making. */
struct prompt {
    const struct lorica_tokenizer *tokenizer;
    struct lorica_tokens *ids;
    struct lorica_buf *text, *mask; /* each may be NULL */
    struct lorica_error *err;
};

static int put_mask(struct prompt *p, size_t from, char value) {
    for (size_t i = from; p->mask && i < p->ids->count; i++)
        (void)lorica_buf_append(p->mask, &value, 1);
    return 0;
}

static int put_special(struct prompt *p, const char *token, char mask) {
    const int32_t id = lorica_tokenizer_special_id(p->tokenizer, token);
    if (id < 0)
        return lorica_fail(p->err, LORICA_EUNSUPPORTED,
                           "the tokenizer has no special token %s, which ChatML needs", token);
    if (lorica_tokens_push(p->ids, id) != 0)
        return lorica_fail(p->err, LORICA_ENOMEM, "no memory for a prompt");
    if (p->text)
        (void)lorica_buf_puts(p->text, token);
    return put_mask(p, p->ids->count - 1, mask);
}

/* Marks what begins behind the first `head` bytes of the ids from `from` on. */
static int put_answer_mask(struct prompt *p, size_t from, size_t head) {
    struct lorica_buf bytes;
    lorica_buf_init(&bytes, CONTENT_MAX);
    size_t at = from;
    while (at < p->ids->count && bytes.len < head)
        (void)lorica_tokenizer_decode(p->tokenizer, p->ids->ids[at++], false, &bytes);
    const int rc = lorica_buf_status(&bytes);
    lorica_buf_finish(&bytes);
    if (rc)
        return lorica_fail(p->err, rc, "no memory for a prompt");
    for (size_t i = from; i < p->ids->count; i++)
        (void)lorica_buf_append(p->mask, i < at ? "\0" : "\1", 1);
    return 0;
}

/* "ROLE\nCONTENT" as one piece; `answer`: CONTENT is what training learns. */
static int put_text(struct prompt *p, const char *role, const char *content, bool answer) {
    struct lorica_buf piece;
    lorica_buf_init(&piece, CONTENT_MAX);
    (void)lorica_buf_puts(&piece, role);
    (void)lorica_buf_puts(&piece, "\n");
    const size_t head = piece.len, from = p->ids->count;
    (void)lorica_buf_puts(&piece, content);
    int rc = lorica_buf_status(&piece);
    if (rc)
        rc = lorica_fail(p->err, rc, "a message is longer than %u bytes", CONTENT_MAX);
    else
        rc = lorica_tokenizer_encode(p->tokenizer, piece.data, piece.len, false, p->ids, p->err);
    if (!rc && p->text)
        (void)lorica_buf_append(p->text, piece.data, piece.len);
    lorica_buf_finish(&piece);
    if (rc)
        return rc;
    return answer && p->mask ? put_answer_mask(p, from, head) : put_mask(p, from, 0);
}

static int put_message(struct prompt *p, const struct lorica_chat_message *m) {
    const bool answer = strcmp(m->role, "assistant") == 0 && !m->given;
    int rc = put_special(p, turn_start, 0);
    if (!rc)
        rc = put_text(p, m->role, m->content, answer);
    if (!rc)
        rc = put_special(p, turn_end, answer);
    const size_t from = p->ids->count;
    if (!rc)
        rc = lorica_tokenizer_encode(p->tokenizer, "\n", 1, false, p->ids, p->err);
    if (!rc && p->text)
        (void)lorica_buf_puts(p->text, "\n");
    return rc ? rc : put_mask(p, from, 0);
}

static int check_messages(const struct lorica_chat_message *messages, size_t count,
                          struct lorica_error *err) {
    static const char *const roles[] = {"system", "user", "assistant"};
    if (count == 0)
        return lorica_fail(err, LORICA_EINVAL, "messages is empty: at least one is needed");
    for (size_t i = 0; i < count; i++) {
        bool known = false;
        for (size_t r = 0; r < sizeof(roles) / sizeof(roles[0]); r++)
            known |= strcmp(messages[i].role, roles[r]) == 0;
        if (!known)
            return lorica_fail(err, LORICA_EINVAL,
                               "messages[%zu] has the role \"%.50s\": system, user or assistant "
                               "expected",
                               i, messages[i].role);
    }
    return 0;
}

int lorica_chat_render(const struct lorica_chat_template *chat,
                       const struct lorica_tokenizer *tokenizer,
                       const struct lorica_chat_message *messages, size_t count,
                       bool generation_prompt, struct lorica_tokens *ids, struct lorica_buf *text,
                       struct lorica_buf *answer_mask, struct lorica_error *err) {
    struct prompt p = {tokenizer, ids, text, answer_mask, err};
    const struct lorica_chat_message system = {.role = "system", .content = chat->default_system};
    int rc = check_messages(messages, count, err);
    if (!rc && chat->default_system[0] && strcmp(messages[0].role, "system") != 0)
        rc = put_message(&p, &system);
    for (size_t i = 0; i < count && !rc; i++)
        rc = put_message(&p, &messages[i]);
    if (!rc && generation_prompt)
        rc = put_special(&p, turn_start, 0);
    if (!rc && generation_prompt)
        rc = put_text(&p, "assistant", "", false);
    if (!rc && text)
        rc = lorica_buf_status(text);
    if (!rc && answer_mask)
        rc = lorica_buf_status(answer_mask);
    return rc && err && !err->code ? lorica_fail(err, rc, "the prompt is too long") : rc;
}
