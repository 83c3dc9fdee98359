/* SPDX-License-Identifier: MIT
 * Training data as CSV: a column of questions and one of answers. The first record is a header when
 * it names both in a way that is known, or when the caller names them; without one, there may be
 * two columns only, the question's first. */
#include <string.h>
#include <strings.h>

#include "proto/csv.h"
#include "proto/utf8.h"
#include "runtime/train/data_row.h"

/* Names of a question and its answer that headers use. */
static const char *const known[][2] = {
    {"question", "answer"},      {"questions", "answers"},  {"prompt", "completion"},
    {"prompt", "response"},      {"user", "assistant"},     {"input", "output"},
    {"instruction", "response"}, {"instruction", "output"}, {"q", "a"},
    {"question", "response"},
};

/* Where the two stand. */
struct columns {
    uint32_t count; /* of every record; 0: not known yet */
    uint32_t question, answer;
};

/* A field without the white space around it, as text; NULL when it holds NUL. */
static const char *field(const struct lorica_csv *csv, uint32_t index, size_t *ret_len) {
    const char *text = lorica_csv_field(csv, index, ret_len);
    return memchr(text, '\0', *ret_len) ? NULL : text;
}

static bool is_named(const struct lorica_csv *csv, uint32_t index, const char *name) {
    size_t len;
    const char *text = field(csv, index, &len);
    if (!text)
        return false;
    const size_t blank = strspn(text, " \t");
    text += blank;
    len -= blank;
    while (len > 0 && strchr(" \t", text[len - 1]))
        len--;
    return strlen(name) == len && strncasecmp(text, name, len) == 0;
}

/* Finds both names in the header; *ret_missing is one that is not there, or there twice. */
static bool find_columns(const struct lorica_csv *csv, const char *const names[2],
                         struct columns *ret, const char **ret_missing) {
    uint32_t at[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        uint32_t found = 0;
        for (uint32_t c = 0; c < csv->count; c++) {
            if (!is_named(csv, c, names[i]))
                continue;
            at[i] = c;
            found++;
        }
        *ret_missing = names[i];
        if (found != 1)
            return false;
    }
    *ret = (struct columns){.count = csv->count, .question = at[0], .answer = at[1]};
    return at[0] != at[1];
}

/* Learns from the first record where the columns are; *ret_header: it is no example itself. */
static int choose_columns(const struct lorica_row_reader *reader, const struct lorica_csv *csv,
                          struct columns *ret, bool *ret_header, struct lorica_error *err) {
    const char *const *given = reader->options->columns, *missing = NULL;
    *ret_header = true;
    if (given[0]) {
        if (find_columns(csv, given, ret, &missing))
            return 0;
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "%s: line %u: the header does not name the column \"%.60s\" once",
                           reader->path, csv->line, missing);
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (find_columns(csv, known[i], ret, &missing))
            return 0;
    *ret_header = false;
    *ret = (struct columns){.count = 2, .question = 0, .answer = 1};
    if (csv->count == 2)
        return 0;
    return lorica_fail(err, LORICA_EUNSUPPORTED,
                       csv->count == 1
                           ? "%s: line %u: one column only; a question and an answer are expected, "
                             "with a comma between them"
                           : "%s: line %u: more than two columns; say which they are "
                             "(--columns QUESTION,ANSWER), by names that stand in the first line",
                       reader->path, csv->line);
}

static int read_record(struct lorica_row_reader *reader, const struct lorica_csv *csv,
                       const struct columns *columns, struct lorica_error *err) {
    const uint32_t at[2] = {columns->question, columns->answer};
    const char *texts[2] = {NULL, NULL};
    if (csv->count != columns->count)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%u fields, not %u as before; a field that holds a comma is written in "
                           "quotes",
                           csv->count, columns->count);
    for (int i = 0; i < 2; i++) {
        size_t len;
        texts[i] = field(csv, at[i], &len);
        if (!texts[i] || !lorica_utf8_valid(texts[i], len))
            return lorica_fail(err, LORICA_EFORMAT,
                               "the %s is not UTF-8 text; save the file as UTF-8",
                               i == 0 ? "question" : "answer");
    }
    if (texts[0][strspn(texts[0], " \t\r\n")] == '\0')
        return lorica_fail(err, LORICA_EFORMAT, "the question is empty");
    reader->row.count = 0;
    reader->row.text = NULL;
    const int rc = lorica_row_message(&reader->row, "user", texts[0], true, err);
    return rc ? rc : lorica_row_message(&reader->row, "assistant", texts[1], false, err);
}

static int take_record(struct lorica_row_reader *reader, const struct lorica_csv *csv,
                       struct columns *columns, struct lorica_error *err) {
    size_t len = 0;
    bool header = false;
    if (!csv->fault && csv->count == 1 && (field(csv, 0, &len), len == 0)) {
        lorica_row_blank(reader, csv->line);
        return 0;
    }
    int rc = lorica_row_blanks(reader, csv->line, err);
    if (!rc && !csv->fault && columns->count == 0)
        rc = choose_columns(reader, csv, columns, &header, err);
    if (rc || header)
        return rc;
    rc = csv->fault ? lorica_fail(err, LORICA_EFORMAT, "%s", csv->fault)
                    : read_record(reader, csv, columns, err);
    if (!rc)
        rc = lorica_row_add(reader, csv->line, err);
    return rc ? lorica_row_bad(reader, csv->line, err) : 0;
}

int lorica_row_read_csv(struct lorica_row_reader *reader, struct lorica_error *err) {
    struct lorica_csv csv;
    struct columns columns = {0};
    int rc = 0, byte = 0;
    lorica_csv_init(&csv, LORICA_TRAIN_LINE_MAX);
    while (byte != EOF && !rc) {
        byte = getc_unlocked(reader->file);
        if (lorica_csv_push(&csv, byte))
            rc = take_record(reader, &csv, &columns, err);
    }
    lorica_csv_finish(&csv);
    return rc;
}
