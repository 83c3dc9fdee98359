/* SPDX-License-Identifier: MIT
 * Training data as JSON lines. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"
#include "proto/utf8.h"
#include "runtime/train/data_row.h"

/* One message of a list. `given`: the list is the question, whatever its roles. */
static int read_message(const struct lorica_json *item, size_t number, bool given,
                        struct lorica_row *row, bool *answered, struct lorica_error *err) {
    const char *role = lorica_json_string(lorica_json_get(item, "role"));
    const char *content = lorica_json_string(lorica_json_get(item, "content"));
    const struct lorica_json *weight = lorica_json_get(item, "weight");
    int64_t counts = 1;
    if (!role || !content)
        return lorica_fail(err, LORICA_EFORMAT,
                           "message %zu needs \"role\" and \"content\", both strings", number);
    if (weight && lorica_json_integer(weight, 0, 1, &counts) != 0)
        return lorica_fail(err, LORICA_EFORMAT, "message %zu has a \"weight\" that is not 0 or 1",
                           number);
    given |= counts == 0;
    *answered |= !given && strcmp(role, "assistant") == 0;
    return lorica_row_message(row, role, content, given, err);
}

static int read_messages(const struct lorica_json *list, const char *name, bool given,
                         struct lorica_row *row, struct lorica_error *err) {
    bool answered = given;
    size_t number = 1;
    if (lorica_json_type(list) != LORICA_JSON_ARRAY)
        return lorica_fail(err, LORICA_EFORMAT, "\"%s\" must be an array, not %s", name,
                           lorica_json_type_name(lorica_json_type(list)));
    for (const struct lorica_json *item = lorica_json_first(list); item;
         item = lorica_json_next(item), number++) {
        const int rc = read_message(item, number, given, row, &answered, err);
        if (rc)
            return rc;
    }
    if (!answered)
        return lorica_fail(err, LORICA_EFORMAT,
                           "no answer: one message must have the role \"assistant\", and no "
                           "\"weight\" of 0");
    return 0;
}

static int read_pair(const struct lorica_json *prompt, const struct lorica_json *completion,
                     struct lorica_row *row, struct lorica_error *err) {
    const enum lorica_json_type type = lorica_json_type(prompt);
    if (!prompt || !completion || type != lorica_json_type(completion) ||
        (type != LORICA_JSON_STRING && type != LORICA_JSON_ARRAY))
        return lorica_fail(err, LORICA_EFORMAT,
                           "\"prompt\" and \"completion\" must be two strings, or two lists of "
                           "messages");
    if (type == LORICA_JSON_STRING) {
        const int rc = lorica_row_message(row, "user", lorica_json_string(prompt), true, err);
        return rc ? rc
                  : lorica_row_message(row, "assistant", lorica_json_string(completion), false,
                                       err);
    }
    const int rc = read_messages(prompt, "prompt", true, row, err);
    return rc ? rc : read_messages(completion, "completion", false, row, err);
}

static int read_object(const struct lorica_json *root, struct lorica_row *row,
                       struct lorica_error *err) {
    const struct lorica_json *messages = lorica_json_get(root, "messages");
    const struct lorica_json *prompt = lorica_json_get(root, "prompt");
    const struct lorica_json *completion = lorica_json_get(root, "completion");
    const struct lorica_json *text = lorica_json_get(root, "text");
    if (lorica_json_type(root) != LORICA_JSON_OBJECT)
        return lorica_fail(err, LORICA_EFORMAT, "a JSON object is expected, not %s",
                           lorica_json_type_name(lorica_json_type(root)));
    if (messages)
        return read_messages(messages, "messages", false, row, err);
    if (prompt || completion)
        return read_pair(prompt, completion, row, err);
    if (!text)
        return lorica_fail(err, LORICA_EFORMAT,
                           "neither \"messages\", nor \"prompt\" and \"completion\", nor \"text\"");
    row->text = lorica_json_string(text);
    if (!row->text || row->text[strspn(row->text, " \t\r\n")] == '\0')
        return lorica_fail(err, LORICA_EFORMAT,
                           row->text ? "the text is empty; nothing can be learnt from it"
                                     : "\"text\" must be a string");
    return 0;
}

static int read_line(struct lorica_row_reader *reader, const char *line, size_t len,
                     uint32_t number, struct lorica_error *err) {
    struct lorica_json *root = NULL;
    if (!lorica_utf8_valid(line, len))
        return lorica_fail(err, LORICA_EFORMAT, "byte %zu is not UTF-8, which JSON is written in",
                           lorica_utf8_valid_prefix(line, len) + 1);
    int rc = lorica_json_parse(line, len, &root, err);
    if (rc)
        return rc;
    reader->row.count = 0;
    reader->row.text = NULL;
    rc = read_object(root, &reader->row, err);
    if (!rc)
        rc = lorica_row_add(reader, number, err);
    lorica_json_destroy(root);
    return rc;
}

/* Reads one line without its newline: 1; 0 at the end; LORICA_ELIMIT for one that is too long, of
 * which nothing is left in the file. */
static int next_line(FILE *file, char *line, size_t *ret_len) {
    size_t len = 0;
    bool fits = true;
    int c = 0;
    while ((c = getc_unlocked(file)) != EOF && c != '\n') {
        fits = len < LORICA_TRAIN_LINE_MAX;
        if (fits)
            line[len++] = (char)c;
    }
    *ret_len = len;
    return !fits ? LORICA_ELIMIT : c == EOF && len == 0 ? 0 : 1;
}

static bool is_blank(const char *line, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (!memchr(" \t\r", line[i], 3))
            return false;
    return true;
}

static int take_line(struct lorica_row_reader *reader, int got, const char *line, size_t len,
                     uint32_t number, struct lorica_error *err) {
    if (got > 0 && is_blank(line, len)) {
        lorica_row_blank(reader, number);
        return 0;
    }
    int rc = lorica_row_blanks(reader, number, err);
    if (rc)
        return rc;
    rc = got < 0 ? lorica_fail(err, got, "it is longer than %zu bytes", LORICA_TRAIN_LINE_MAX)
                 : read_line(reader, line, len, number, err);
    return rc ? lorica_row_bad(reader, number, err) : 0;
}

int lorica_row_read_jsonl(struct lorica_row_reader *reader, struct lorica_error *err) {
    char *line = malloc(LORICA_TRAIN_LINE_MAX + 1);
    int rc = line ? 0 : lorica_fail(err, LORICA_ENOMEM, "no memory for a line");
    for (uint32_t number = 1; !rc; number++) {
        size_t len = 0;
        const int got = number == UINT32_MAX ? 0 : next_line(reader->file, line, &len);
        if (got == 0)
            break;
        rc = take_line(reader, got, line, len, number, err);
    }
    free(line);
    return rc;
}
