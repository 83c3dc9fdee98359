/* SPDX-License-Identifier: MIT
 * From rows of a file to examples: what the readers of each format share. Private to data*.c. */
#ifndef LORICA_RUNTIME_TRAIN_DATA_ROW_H
#define LORICA_RUNTIME_TRAIN_DATA_ROW_H

#include <stdio.h>

#include "runtime/train/data.h"

/** What one row says: a conversation, or a text. Borrowed. */
struct lorica_row {
    struct lorica_chat_message *messages; /**< room for LORICA_TRAIN_MESSAGES_MAX */
    size_t count;
    const char *text; /**< instead of messages, when not NULL */
};

/** A file on its way in. */
struct lorica_row_reader {
    const struct lorica_train_data_options *options;
    const char *path;
    FILE *file;
    uint32_t number; /**< of the file */
    uint32_t blank;  /**< first of the empty lines just read; 0: none */
    struct lorica_row row;
    struct lorica_train_data *data;
    size_t cap; /**< of data->examples */
};

/** Appends a message to the row. LORICA_EFORMAT for an answer of nothing but white space. */
int lorica_row_message(struct lorica_row *row, const char *role, const char *content, bool given,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Makes an example of the row, which began at `line`. */
int lorica_row_add(struct lorica_row_reader *reader, uint32_t line,
                   struct lorica_error *err) LORICA_MUSTCHECK;

/** Deals with the fault of a line that is in `err`: 0 when on_bad heard of it and it is left out,
 * else the error with its place and what to do. Only LORICA_EFORMAT and LORICA_ELIMIT can be left
 * out. */
int lorica_row_bad(struct lorica_row_reader *reader, uint32_t line,
                   struct lorica_error *err) LORICA_MUSTCHECK;

/** Remembers an empty line; the next row makes it a bad one (the end of the file does not). */
void lorica_row_blank(struct lorica_row_reader *reader, uint32_t line);
/** Reports the empty lines before `line`. */
int lorica_row_blanks(struct lorica_row_reader *reader, uint32_t line,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads the file as CSV (data_csv.c) or as JSON lines (data_jsonl.c). */
int lorica_row_read_csv(struct lorica_row_reader *reader,
                        struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_row_read_jsonl(struct lorica_row_reader *reader,
                          struct lorica_error *err) LORICA_MUSTCHECK;

#endif
