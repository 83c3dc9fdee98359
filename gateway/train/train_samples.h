/* SPDX-License-Identifier: MIT
 * What a trained adapter answers, for people to read. */
#ifndef LORICA_GATEWAY_TRAIN_TRAIN_SAMPLES_H
#define LORICA_GATEWAY_TRAIN_TRAIN_SAMPLES_H

#include "runtime/base.h"
#include "runtime/tokenizer.h"
#include "runtime/train/data.h"

/** Most prompts that are answered, and tokens of an answer. */
#define LORICA_TRAIN_SAMPLES 5
#define LORICA_TRAIN_SAMPLE_TOKENS 96

/** Answers the prompts of the first examples with the adapter in DIR, greedily and as serving
 * computes it, and writes DIR/samples.jsonl: {"prompt","expected","answer"}, the prompt as the
 * model sees it. Of a text without a question the first half is the prompt. Prompts that are too
 * long for the model's length are passed over. */
int lorica_train_samples_write(const char *dir, const struct lorica_base *base,
                               const struct lorica_tokenizer *tokenizer,
                               const struct lorica_train_data *data, unsigned threads,
                               struct lorica_error *err) LORICA_MUSTCHECK;

#endif
