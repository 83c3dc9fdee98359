/* SPDX-License-Identifier: MIT
 * Training data. A file whose name ends in .csv holds questions and answers in two columns
 * (data_csv.c); any other holds one JSON object per line:
 *   {"messages": [{"role", "content"}, ...]}    every answer of the assistant is learnt, but one
 *                                               that says "weight": 0
 *   {"prompt": ..., "completion": ...}          two strings: a user's message and its answer; or
 *                                               two lists of messages: those of the second are
 * learnt
 *   {"text": "..."}                             learnt whole, with the token that ends a text; the
 *                                               names of special tokens in it mean those tokens
 * All but texts go through the chat template. A byte order mark is passed over. */
#ifndef LORICA_RUNTIME_TRAIN_DATA_H
#define LORICA_RUNTIME_TRAIN_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

/** Longest line (in CSV: record) that is read, in bytes. */
#define LORICA_TRAIN_LINE_MAX ((size_t)1 << 20)
/** Most messages in one line. */
#define LORICA_TRAIN_MESSAGES_MAX 1024

/** One conversation or text. */
struct lorica_train_example {
    int32_t *ids, *labels; /**< owned; label -100: not learnt (see model.h) */
    uint32_t length;
    uint32_t answers; /**< labels that count; >= 1 */
    uint32_t line;    /**< where it begins in its file, from 1 */
    uint32_t file;    /**< which of the files, from 0 */
};

/** All of one or more files. */
struct lorica_train_data {
    struct lorica_train_example *examples; /**< owned */
    size_t count;
    size_t cut;      /**< examples that were longer than max_length and lost their end */
    size_t skipped;  /**< lines left out because nothing of the answer was left after that */
    size_t bad;      /**< lines left out because something is wrong with them */
    uint64_t nbytes; /**< memory that the examples take, about */
};

enum lorica_train_format { LORICA_TRAIN_BY_NAME, LORICA_TRAIN_JSONL, LORICA_TRAIN_CSV };

/** Hears of a bad line, which is then left out. `what` is a sentence without the place. */
typedef void (*lorica_train_bad_fn)(void *arg, const char *path, uint32_t line, const char *what);

/** How to read. Everything is borrowed. */
struct lorica_train_data_options {
    const struct lorica_tokenizer *tokenizer;
    const struct lorica_chat_template *chat;
    uint32_t max_length; /**< ids beyond are cut off */
    uint64_t max_nbytes; /**< memory that the examples may take; 0: any */
    bool whole;          /**< learn every token, not the answers alone */
    enum lorica_train_format format;
    const char *columns[2];     /**< CSV: names of the columns of questions and answers; NULL: those
                                     that are known (data_csv.c), or the only two there are */
    lorica_train_bad_fn on_bad; /**< NULL: the first bad line ends the reading */
    void *on_bad_arg;
};

/** Whether a file of this name is read as CSV. */
bool lorica_train_is_csv(const char *path);

/** Reads files of examples. Errors begin with "file: " and, for a bad line, "line N: ", and say how
 * to go on. A line is bad (LORICA_EFORMAT, LORICA_ELIMIT) when it is empty (but at the end of the
 * file), too long, not UTF-8, no JSON, in none of the forms above, or has no answer or an empty
 * one. LORICA_EFORMAT also when a file has no example left, LORICA_EUNSUPPORTED when the examples
 * take more memory than they may. */
int lorica_train_data_load(const char *const *paths, size_t count,
                           const struct lorica_train_data_options *options,
                           struct lorica_train_data *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** How many examples of `held_apart` stand in `trained` too, token for token: their loss tells
 * nothing of what is new. LORICA_ENOMEM. */
int lorica_train_data_shared(const struct lorica_train_data *trained,
                             const struct lorica_train_data *held_apart,
                             size_t *ret) LORICA_MUSTCHECK;

/** Frees. A zeroed struct is accepted. */
void lorica_train_data_finish(struct lorica_train_data *data);

#endif
