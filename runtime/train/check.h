/* SPDX-License-Identifier: MIT
 * What training data is like, before hours are spent on it: lengths, examples that stand there
 * twice, questions that are answered in two ways. */
#ifndef LORICA_RUNTIME_TRAIN_CHECK_H
#define LORICA_RUNTIME_TRAIN_CHECK_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"
#include "runtime/tokenizer.h"
#include "runtime/train/data.h"

/** An example, and an earlier one that it repeats or contradicts: indices into data->examples. */
struct lorica_train_twin {
    size_t earlier, later;
};

struct lorica_train_check {
    uint64_t tokens;                     /**< of all examples */
    uint32_t min, median, p95, max;      /**< tokens of an example; the nearest rank */
    struct lorica_train_twin *duplicate; /**< same question, same answer; owned */
    size_t duplicates;
    struct lorica_train_twin *contradiction; /**< same question, another answer; owned */
    size_t contradictions;
};

/** Looks at examples that were read with answers learnt and nothing cut (`whole` false, max_length
 * UINT32_MAX). The question is all that stands before the last answer, so that of a conversation
 * everything said before counts; upper and lower case and the amount of white space do not. Each
 * example is compared with the first of its question (and answer) only. A text without a question
 * can be a duplicate, no contradiction. `data` has at least one example. On success the caller
 * finishes *ret. */
int lorica_train_check(const struct lorica_train_data *data,
                       const struct lorica_tokenizer *tokenizer, struct lorica_train_check *ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_train_check_finish(struct lorica_train_check *check);

/** Where the last answer of an example begins; for a text, 0. */
uint32_t lorica_train_answer_start(const struct lorica_train_example *e);

#endif
