/* SPDX-License-Identifier: MIT */
#include "runtime/train/data.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/json.h"
#include "proto/utf8.h"

#define MASK_MAX ((size_t)64 << 20)

/* The messages of a line, borrowed from its JSON. */
struct conversation {
    struct lorica_chat_message *messages;
    size_t count;
};

static int add_message(struct conversation *c, const char *role, const char *content,
                       struct lorica_error *err) {
    if (strcmp(role, "assistant") == 0 && content[strspn(content, " \t\r\n")] == '\0')
        return lorica_fail(err, LORICA_EFORMAT,
                           "the answer is empty; nothing can be learnt from "
                           "it");
    c->messages[c->count++] = (struct lorica_chat_message){.role = role, .content = content};
    return 0;
}

static int read_messages(const struct lorica_json *list, struct conversation *c,
                         struct lorica_error *err) {
    bool answered = false;
    size_t number = 1;
    if (lorica_json_type(list) != LORICA_JSON_ARRAY)
        return lorica_fail(err, LORICA_EFORMAT, "\"messages\" must be an array, not %s",
                           lorica_json_type_name(lorica_json_type(list)));
    if (lorica_json_count(list) > LORICA_TRAIN_MESSAGES_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "more than %d messages in one conversation",
                           LORICA_TRAIN_MESSAGES_MAX);
    const struct lorica_json *item = lorica_json_first(list);
    for (; item; item = lorica_json_next(item), number++) {
        const char *role = lorica_json_string(lorica_json_get(item, "role"));
        const char *content = lorica_json_string(lorica_json_get(item, "content"));
        if (!role || !content)
            return lorica_fail(err, LORICA_EFORMAT,
                               "message %zu needs \"role\" and \"content\", both strings", number);
        const int rc = add_message(c, role, content, err);
        if (rc != 0)
            return rc;
        answered = answered || strcmp(role, "assistant") == 0;
    }
    if (!answered)
        return lorica_fail(err, LORICA_EFORMAT,
                           "no answer: one message must have the role \"assistant\"");
    return 0;
}

static int read_conversation(const struct lorica_json *root, struct conversation *c,
                             struct lorica_error *err) {
    const struct lorica_json *messages = lorica_json_get(root, "messages");
    const struct lorica_json *prompt = lorica_json_get(root, "prompt");
    const struct lorica_json *completion = lorica_json_get(root, "completion");
    if (lorica_json_type(root) != LORICA_JSON_OBJECT)
        return lorica_fail(err, LORICA_EFORMAT, "a JSON object is expected, not %s",
                           lorica_json_type_name(lorica_json_type(root)));
    if (messages)
        return read_messages(messages, c, err);
    if (!prompt && !completion)
        return lorica_fail(err, LORICA_EFORMAT,
                           "neither \"messages\" nor \"prompt\" and \"completion\"");
    if (!lorica_json_string(prompt) || !lorica_json_string(completion))
        return lorica_fail(err, LORICA_EFORMAT,
                           "\"prompt\" and \"completion\" must both be "
                           "strings");
    const int rc = add_message(c, "user", lorica_json_string(prompt), err);
    return rc != 0 ? rc : add_message(c, "assistant", lorica_json_string(completion), err);
}

/* Copies ids and mask into an example. */
static int take(const struct lorica_tokens *tokens, const struct lorica_buf *mask,
                uint32_t max_length, struct lorica_train_example *ret, bool *ret_cut) {
    const size_t length = tokens->count < max_length ? tokens->count : max_length;
    if (mask->len != tokens->count)
        return LORICA_EBUG;
    ret->ids = calloc(length + 1, sizeof(*ret->ids));
    ret->labels = calloc(length + 1, sizeof(*ret->labels));
    if (!ret->ids || !ret->labels) {
        free(ret->ids);
        free(ret->labels);
        return LORICA_ENOMEM;
    }
    ret->length = (uint32_t)length;
    ret->answers = 0;
    for (size_t i = 0; i < length; i++) {
        ret->ids[i] = tokens->ids[i];
        ret->labels[i] = i > 0 && mask->data[i] ? tokens->ids[i] : -100;
        ret->answers += i > 0 && mask->data[i];
    }
    *ret_cut = length < tokens->count;
    return 0;
}

int lorica_train_data_line(const char *line, size_t len, const struct lorica_tokenizer *tokenizer,
                           const struct lorica_chat_template *chat, uint32_t max_length,
                           struct lorica_train_example *ret, bool *ret_cut,
                           struct lorica_error *err) {
    struct lorica_json *root = NULL;
    struct lorica_tokens tokens = {0};
    struct lorica_buf mask;
    struct conversation c = {0};
    if (!lorica_utf8_valid(line, len))
        return lorica_fail(err, LORICA_EFORMAT, "byte %zu is not UTF-8",
                           lorica_utf8_valid_prefix(line, len) + 1);
    int rc = lorica_json_parse(line, len, &root, err);
    if (rc != 0)
        return rc;
    lorica_buf_init(&mask, MASK_MAX);
    c.messages = calloc(LORICA_TRAIN_MESSAGES_MAX, sizeof(*c.messages));
    rc = c.messages ? read_conversation(root, &c, err)
                    : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        rc = lorica_chat_render(chat, tokenizer, c.messages, c.count, false, &tokens, NULL, &mask,
                                err);
    if (rc == 0 && (rc = take(&tokens, &mask, max_length, ret, ret_cut)) != 0)
        rc = lorica_fail(err, rc, "%s", lorica_err_text(rc));
    free(c.messages);
    free(tokens.ids);
    lorica_buf_finish(&mask);
    lorica_json_destroy(root);
    if (rc == LORICA_EINVAL && err)
        err->code = LORICA_EFORMAT;
    return rc == LORICA_EINVAL ? LORICA_EFORMAT : rc;
}

/* -- files -- */

/* A file on its way in. */
struct load {
    const char *path;
    const struct lorica_tokenizer *tokenizer;
    const struct lorica_chat_template *chat;
    uint32_t max_length;
    size_t cap;
};

static int add_line(struct load *load, const char *line, size_t len, uint32_t number,
                    struct lorica_train_data *data, struct lorica_error *err) {
    struct lorica_train_example example = {.line = number};
    bool cut = false;
    int rc = lorica_train_data_line(line, len, load->tokenizer, load->chat, load->max_length,
                                    &example, &cut, err);
    if (rc != 0)
        return err ? lorica_fail_prefix(err, "%s: line %u", load->path, number) : rc;
    data->cut += cut;
    if (example.answers == 0) {
        data->skipped++;
    } else {
        if (data->count == load->cap) {
            load->cap = load->cap * 2 + 64;
            void *longer = reallocarray(data->examples, load->cap, sizeof(*data->examples));
            if (!longer) {
                rc = lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", load->path);
                goto discard;
            }
            data->examples = longer;
        }
        data->examples[data->count++] = example;
        return 0;
    }
discard:
    free(example.ids);
    free(example.labels);
    return rc;
}

static bool is_blank(const char *line, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (!memchr(" \t\r", line[i], 3))
            return false;
    return true;
}

/* Reads one line without its newline: 1, 0 at the end, or an error. At most LINE_MAX bytes. */
static int next_line(FILE *file, char *line, size_t *ret_len) {
    size_t len = 0;
    int c = 0;
    while ((c = getc_unlocked(file)) != EOF && c != '\n') {
        if (len == LORICA_TRAIN_LINE_MAX)
            return LORICA_ELIMIT;
        line[len++] = (char)c;
    }
    *ret_len = len;
    if (ferror(file))
        return LORICA_EIO;
    return c == EOF && len == 0 ? 0 : 1;
}

static int read_lines(struct load *load, FILE *file, char *line, struct lorica_train_data *data,
                      struct lorica_error *err) {
    size_t len = 0;
    for (uint32_t number = 1; number < UINT32_MAX; number++) {
        const int got = next_line(file, line, &len);
        if (got == LORICA_ELIMIT)
            return lorica_fail(err, got, "%s: line %u is longer than %zu bytes", load->path, number,
                               LORICA_TRAIN_LINE_MAX);
        if (got < 0)
            return lorica_fail(err, got, "%s cannot be read: %s", load->path, strerror(errno));
        if (got == 0)
            return 0;
        if (is_blank(line, len))
            continue;
        const int rc = add_line(load, line, len, number, data, err);
        if (rc != 0)
            return rc;
    }
    return lorica_fail(err, LORICA_ELIMIT, "%s has too many lines", load->path);
}

int lorica_train_data_load(const char *path, const struct lorica_tokenizer *tokenizer,
                           const struct lorica_chat_template *chat, uint32_t max_length,
                           struct lorica_train_data *ret, struct lorica_error *err) {
    struct load load = {
        .path = path, .tokenizer = tokenizer, .chat = chat, .max_length = max_length};
    struct lorica_train_data data = {0};
    FILE *file = fopen(path, "re");
    if (!file)
        return lorica_fail(err, errno == ENOENT ? LORICA_ENOTFOUND : LORICA_EIO,
                           "%s cannot be opened: %s", path, strerror(errno));
    char *line = malloc(LORICA_TRAIN_LINE_MAX + 1);
    int rc = line ? read_lines(&load, file, line, &data, err)
                  : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && data.count == 0)
        rc = lorica_fail(err, LORICA_EFORMAT,
                         data.skipped > 0 ? "%s: no usable example: %zu answers lie behind the "
                                            "longest length; allow longer ones"
                                          : "%s: no usable example; one JSON object per line is "
                                            "expected",
                         path, data.skipped);
    free(line);
    (void)fclose(file);
    if (rc == 0)
        *ret = data;
    else
        lorica_train_data_finish(&data);
    return rc;
}

void lorica_train_data_finish(struct lorica_train_data *data) {
    for (size_t i = 0; i < data->count; i++) {
        free(data->examples[i].ids);
        free(data->examples[i].labels);
    }
    free(data->examples);
    *data = (struct lorica_train_data){0};
}
