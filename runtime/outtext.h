/* SPDX-License-Identifier: MIT
 * A generation's text as it becomes certain: tokens bring bytes, whole characters go out, and what
 * may yet turn out to be a stop string is held back. */
#ifndef LORICA_RUNTIME_OUTTEXT_H
#define LORICA_RUNTIME_OUTTEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/buf.h"
#include "proto/err.h"
#include "runtime/tokenizer.h"

#define LORICA_MAX_STOP_STRINGS 4

/** The most bytes of one stop string. */
#define LORICA_MAX_STOP_BYTES 1024

struct lorica_outtext {
    const struct lorica_tokenizer *tokenizer; /**< borrowed */
    char *stop[LORICA_MAX_STOP_STRINGS];      /**< owned, not empty */
    size_t stop_len[LORICA_MAX_STOP_STRINGS];
    size_t stop_count;
    struct lorica_buf held; /**< bytes not given out yet */
    struct lorica_buf out;  /**< text that became certain; the caller clears it */
};

/** Copies the stop strings (empty ones are left out); at most LORICA_MAX_STOP_STRINGS of at most
 * LORICA_MAX_STOP_BYTES each, else LORICA_ELIMIT. */
int lorica_outtext_init(struct lorica_outtext *text, const struct lorica_tokenizer *tokenizer,
                        const char *const *stop, size_t stop_count) LORICA_MUSTCHECK;

/** Frees. A zeroed struct is accepted. */
void lorica_outtext_finish(struct lorica_outtext *text);

/** Adds a token's bytes and appends to `text->out` the text that became certain by them: valid
 * UTF-8, bytes that never can be replaced by U+FFFD. *ret_stopped: a stop string is complete; it
 * and what follows it are dropped. */
int lorica_outtext_push(struct lorica_outtext *text, int32_t token,
                        bool *ret_stopped) LORICA_MUSTCHECK;

/** Appends to `text->out` all that was held back: nothing more will come. */
int lorica_outtext_flush(struct lorica_outtext *text) LORICA_MUSTCHECK;

#endif
