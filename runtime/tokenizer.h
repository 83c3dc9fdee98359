/* SPDX-License-Identifier: MIT
 * Byte-level BPE as the model's own metadata describes it: same ids as Hugging Face `tokenizers`.
 * Immutable after create: any number of threads may use one. */
#ifndef LORICA_RUNTIME_TOKENIZER_H
#define LORICA_RUNTIME_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

struct lorica_tokenizer;

/** Growable list of token ids, caller-owned; zero-initialise, free `ids` with free(). */
struct lorica_tokens {
    int32_t *ids;
    size_t count, cap;
};

/** Appends one id. */
int lorica_tokens_push(struct lorica_tokens *tokens, int32_t id) LORICA_MUSTCHECK;

/** Builds from a base file's metadata JSON (the "tokenizer" member). The caller owns *ret. */
int lorica_tokenizer_create(const char *metadata, size_t len, struct lorica_tokenizer **ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees. NULL is accepted. */
void lorica_tokenizer_destroy(struct lorica_tokenizer *tokenizer);

/** Appends the ids of UTF-8 text. With `special` false no text whatever yields a special token:
 * "<|im_end|>" becomes the pieces of its characters. With true, special tokens are recognised.
 * LORICA_EFORMAT when the text is not UTF-8. */
int lorica_tokenizer_encode(const struct lorica_tokenizer *tokenizer, const char *text, size_t len,
                            bool special, struct lorica_tokens *out,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Appends the bytes of one token to `out`: raw bytes, which may be part of a UTF-8 character.
 * Special tokens yield nothing unless `special`. */
int lorica_tokenizer_decode(const struct lorica_tokenizer *tokenizer, int32_t id, bool special,
                            struct lorica_buf *out);

/** Id of a special (added) token by its exact text, or -1. */
int32_t lorica_tokenizer_special_id(const struct lorica_tokenizer *tokenizer, const char *text);

/** Ids that end a generation (eos, and end-of-turn where they differ). Borrowed. */
const int32_t *lorica_tokenizer_stop_ids(const struct lorica_tokenizer *tokenizer,
                                         size_t *ret_count);

/** The id that the model expects before any text, when its tokenizer adds one; else -1. */
int32_t lorica_tokenizer_bos_id(const struct lorica_tokenizer *tokenizer);

/** Number of ids (largest id + 1). */
uint32_t lorica_tokenizer_vocab(const struct lorica_tokenizer *tokenizer);

#endif
