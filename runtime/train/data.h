/* SPDX-License-Identifier: MIT
 * Training data: one JSON object per line, either {"messages": [{"role", "content"}, ...]} or
 * {"prompt": "...", "completion": "..."}, which is a user's message and its answer. Each becomes
 * the ids of the chat template, with labels on the answers alone. */
#ifndef LORICA_RUNTIME_TRAIN_DATA_H
#define LORICA_RUNTIME_TRAIN_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

/** Longest line that is read, in bytes. */
#define LORICA_TRAIN_LINE_MAX ((size_t)1 << 20)
/** Most messages in one line. */
#define LORICA_TRAIN_MESSAGES_MAX 1024

/** One conversation. */
struct lorica_train_example {
    int32_t *ids, *labels; /**< owned; label -100: not learnt (see model.h) */
    uint32_t length;
    uint32_t answers; /**< labels that count; >= 1 */
    uint32_t line;    /**< in its file, from 1 */
};

/** A file of them. */
struct lorica_train_data {
    struct lorica_train_example *examples; /**< owned */
    size_t count;
    size_t cut;     /**< examples that were longer than max_length and lost their end */
    size_t skipped; /**< lines left out because nothing of the answer was left after that */
};

/** One line (without its newline) to an example; ids beyond `max_length` are cut off. On success
 * the caller frees ret->ids and ret->labels; `answers` may be 0 after cutting, and *ret_cut tells
 * whether that happened. LORICA_EFORMAT says what is wrong: no JSON, not UTF-8, neither of the two
 * forms, an unknown role, no answer or an empty one. */
int lorica_train_data_line(const char *line, size_t len, const struct lorica_tokenizer *tokenizer,
                           const struct lorica_chat_template *chat, uint32_t max_length,
                           struct lorica_train_example *ret, bool *ret_cut,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads a whole file; blank lines are passed over. Errors begin with "file:line: ". LORICA_EFORMAT
 * also when no example is left. */
int lorica_train_data_load(const char *path, const struct lorica_tokenizer *tokenizer,
                           const struct lorica_chat_template *chat, uint32_t max_length,
                           struct lorica_train_data *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees. A zeroed struct is accepted. */
void lorica_train_data_finish(struct lorica_train_data *data);

#endif
