/* SPDX-License-Identifier: MIT */
#include "runtime/train/data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/train/data_row.h"

#define MASK_MAX ((size_t)64 << 20)
#define IGNORED (-100)
#define ALLOCATION 32 /* bytes that go with one */

int lorica_row_message(struct lorica_row *row, const char *role, const char *content, bool given,
                       struct lorica_error *err) {
    if (strcmp(role, "assistant") == 0 && content[strspn(content, " \t\r\n")] == '\0')
        return lorica_fail(err, LORICA_EFORMAT,
                           "the answer is empty; nothing can be learnt from it");
    if (row->count == LORICA_TRAIN_MESSAGES_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "more than %d messages in one conversation",
                           LORICA_TRAIN_MESSAGES_MAX);
    row->messages[row->count++] =
        (struct lorica_chat_message){.role = role, .content = content, .given = given};
    return 0;
}

/* -- from a row to an example -- */

/* The ids of a text, between the tokens that the model expects around one. */
static int encode_text(const struct lorica_train_data_options *o, const char *text,
                       struct lorica_tokens *tokens, struct lorica_error *err) {
    const int32_t bos = lorica_tokenizer_bos_id(o->tokenizer);
    size_t stops;
    const int32_t *stop = lorica_tokenizer_stop_ids(o->tokenizer, &stops);
    int rc = lorica_tokenizer_encode(o->tokenizer, text, strlen(text), true, tokens, err);
    if (rc)
        return rc;
    if (stops > 0 && (tokens->count == 0 || tokens->ids[tokens->count - 1] != stop[0]))
        rc = lorica_tokens_push(tokens, stop[0]);
    if (!rc && bos >= 0 && tokens->ids[0] != bos && !(rc = lorica_tokens_push(tokens, bos))) {
        memmove(tokens->ids + 1, tokens->ids, (tokens->count - 1) * sizeof(*tokens->ids));
        tokens->ids[0] = bos;
    }
    return rc ? lorica_fail(err, rc, "no memory for a text") : 0;
}

/* Copies ids and mask (NULL: everything) into an example. */
static int take(const struct lorica_tokens *tokens, const char *mask, uint32_t max_length,
                struct lorica_train_example *ret, bool *ret_cut) {
    const size_t length = tokens->count < max_length ? tokens->count : max_length;
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
        const bool learnt = i > 0 && (!mask || mask[i]);
        ret->ids[i] = tokens->ids[i];
        ret->labels[i] = learnt ? tokens->ids[i] : IGNORED;
        ret->answers += learnt;
    }
    *ret_cut = length < tokens->count;
    return 0;
}

static int make_example(const struct lorica_train_data_options *o, const struct lorica_row *row,
                        struct lorica_train_example *ret, bool *ret_cut, struct lorica_error *err) {
    struct lorica_tokens tokens = {0};
    struct lorica_buf mask;
    lorica_buf_init(&mask, MASK_MAX);
    int rc = row->text ? encode_text(o, row->text, &tokens, err)
                       : lorica_chat_render(o->chat, o->tokenizer, row->messages, row->count, false,
                                            &tokens, NULL, &mask, err);
    if (!rc && (rc = take(&tokens, row->text || o->whole ? NULL : mask.data, o->max_length, ret,
                          ret_cut)) != 0)
        rc = lorica_fail(err, rc, "%s", lorica_err_text(rc));
    free(tokens.ids);
    lorica_buf_finish(&mask);
    if (rc == LORICA_EINVAL && err)
        err->code = LORICA_EFORMAT;
    return rc == LORICA_EINVAL ? LORICA_EFORMAT : rc;
}

/* An example may be a few bytes of its file, and 150 of memory. */
static int count_memory(struct lorica_row_reader *reader, const struct lorica_train_example *e,
                        struct lorica_error *err) {
    const uint64_t most = reader->options->max_nbytes;
    reader->data->nbytes += 2 * sizeof(*e) + 2 * (e->length * sizeof(*e->ids) + ALLOCATION);
    if (most == 0 || reader->data->nbytes <= most)
        return 0;
    return lorica_fail(err, LORICA_EUNSUPPORTED,
                       "the examples up to here take more than the %llu MB of memory that they "
                       "may have; use fewer",
                       (unsigned long long)(most >> 20));
}

int lorica_row_add(struct lorica_row_reader *reader, uint32_t line, struct lorica_error *err) {
    struct lorica_train_data *data = reader->data;
    struct lorica_train_example example = {.line = line, .file = reader->number};
    bool cut = false;
    int rc = make_example(reader->options, &reader->row, &example, &cut, err);
    if (rc)
        return rc;
    data->cut += cut;
    if (example.answers > 0 && data->count == reader->cap) {
        reader->cap = reader->cap * 2 + 64;
        void *longer = reallocarray(data->examples, reader->cap, sizeof(*data->examples));
        if (longer)
            data->examples = longer;
        else
            rc = lorica_fail(err, LORICA_ENOMEM, "no memory for the examples");
    }
    if (!rc && example.answers > 0)
        rc = count_memory(reader, &example, err);
    if (!rc && example.answers > 0) {
        data->examples[data->count++] = example;
        return 0;
    }
    data->skipped += !rc;
    free(example.ids);
    free(example.labels);
    return rc;
}

/* -- bad lines -- */

int lorica_row_bad(struct lorica_row_reader *reader, uint32_t line, struct lorica_error *err) {
    const struct lorica_train_data_options *o = reader->options;
    const bool of_line = err->code == LORICA_EFORMAT || err->code == LORICA_ELIMIT;
    const struct lorica_error what = *err;
    if (of_line && o->on_bad) {
        reader->data->bad++;
        o->on_bad(o->on_bad_arg, reader->path, line, what.text);
        *err = (struct lorica_error){0};
        return 0;
    }
    return lorica_fail(err, what.code, "%s: line %u: %.300s%s", reader->path, line, what.text,
                       of_line ? "; correct it, or leave such lines out (--skip-bad)" : "");
}

void lorica_row_blank(struct lorica_row_reader *reader, uint32_t line) {
    if (reader->blank == 0)
        reader->blank = line;
}

int lorica_row_blanks(struct lorica_row_reader *reader, uint32_t line, struct lorica_error *err) {
    int rc = 0;
    for (uint32_t i = reader->blank; i > 0 && i < line && !rc; i++) {
        (void)lorica_fail(err, LORICA_EFORMAT, "it is empty");
        rc = lorica_row_bad(reader, i, err);
    }
    reader->blank = 0;
    return rc;
}

/* -- files -- */

static void skip_byte_order_mark(FILE *file) {
    static const unsigned char mark[] = {0xef, 0xbb, 0xbf};
    for (size_t i = 0; i < sizeof(mark); i++) {
        const int c = getc(file);
        if (c == mark[i])
            continue;
        /* What was taken for the mark's beginning is no UTF-8, but for the reader to say so. */
        (void)ungetc(c, file);
        while (i > 0)
            (void)ungetc(mark[--i], file);
        return;
    }
}

bool lorica_train_is_csv(const char *path) {
    const size_t len = strlen(path);
    return len > 4 && strcasecmp(path + len - 4, ".csv") == 0;
}

static bool is_csv(const struct lorica_train_data_options *o, const char *path) {
    return o->format == LORICA_TRAIN_BY_NAME ? lorica_train_is_csv(path)
                                             : o->format == LORICA_TRAIN_CSV;
}

static int read_file(struct lorica_row_reader *reader, struct lorica_error *err) {
    const struct lorica_train_data *data = reader->data;
    const size_t before = data->count, skipped = data->skipped, bad = data->bad;
    reader->file = fopen(reader->path, "re");
    if (!reader->file)
        return lorica_fail(err, errno == ENOENT ? LORICA_ENOTFOUND : LORICA_EIO,
                           "%s cannot be opened: %s", reader->path, strerror(errno));
    skip_byte_order_mark(reader->file);
    int rc = is_csv(reader->options, reader->path) ? lorica_row_read_csv(reader, err)
                                                   : lorica_row_read_jsonl(reader, err);
    if (!rc && ferror(reader->file))
        rc = lorica_fail(err, LORICA_EIO, "%s cannot be read: %s", reader->path, strerror(errno));
    (void)fclose(reader->file);
    if (rc || data->count > before)
        return rc;
    if (data->skipped > skipped)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: no usable example: %zu answers lie behind the longest length; "
                           "allow longer ones (--max-length)",
                           reader->path, data->skipped - skipped);
    return lorica_fail(err, LORICA_EFORMAT,
                       "%s: no usable example%s; one JSON object per line is expected, or in a "
                       "file named *.csv a question and an answer",
                       reader->path, data->bad > bad ? ": every line is bad" : "");
}

int lorica_train_data_load(const char *const *paths, size_t count,
                           const struct lorica_train_data_options *options,
                           struct lorica_train_data *ret, struct lorica_error *err) {
    struct lorica_train_data data = {0};
    struct lorica_error own;
    struct lorica_row_reader reader = {.options = options, .data = &data};
    int rc = 0;
    err = err ? err : &own;
    reader.row.messages = calloc(LORICA_TRAIN_MESSAGES_MAX, sizeof(*reader.row.messages));
    if (!reader.row.messages)
        rc = lorica_fail(err, LORICA_ENOMEM, "no memory for a conversation");
    for (size_t i = 0; i < count && !rc; i++) {
        reader.path = paths[i];
        reader.number = (uint32_t)i;
        reader.blank = 0;
        rc = read_file(&reader, err);
    }
    free(reader.row.messages);
    if (rc == 0)
        *ret = data;
    else
        lorica_train_data_finish(&data);
    return rc;
}

/* -- what two of them share -- */

static int compare_ids(const void *a, const void *b) {
    const struct lorica_train_example *x = *(const struct lorica_train_example *const *)a,
                                      *y = *(const struct lorica_train_example *const *)b;
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    return memcmp(x->ids, y->ids, x->length * sizeof(*x->ids));
}

int lorica_train_data_shared(const struct lorica_train_data *trained,
                             const struct lorica_train_data *held_apart, size_t *ret) {
    const struct lorica_train_example **sorted = malloc((trained->count + 1) * sizeof(*sorted));
    size_t shared = 0;
    if (!sorted)
        return LORICA_ENOMEM;
    for (size_t i = 0; i < trained->count; i++)
        sorted[i] = &trained->examples[i];
    qsort(sorted, trained->count, sizeof(*sorted), compare_ids);
    for (size_t i = 0; i < held_apart->count; i++) {
        const struct lorica_train_example *e = &held_apart->examples[i];
        shared += bsearch(&e, sorted, trained->count, sizeof(*sorted), compare_ids) != NULL;
    }
    free(sorted);
    *ret = shared;
    return 0;
}

void lorica_train_data_finish(struct lorica_train_data *data) {
    for (size_t i = 0; i < data->count; i++) {
        free(data->examples[i].ids);
        free(data->examples[i].labels);
    }
    free(data->examples);
    *data = (struct lorica_train_data){0};
}
