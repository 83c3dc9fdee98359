/* SPDX-License-Identifier: MIT
 * What the tokenizer needs to know about characters. Private to runtime. Text is valid UTF-8
 * wherever it is taken. */
#ifndef LORICA_RUNTIME_UNICODE_H
#define LORICA_RUNTIME_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

/** Normal forms that a tokenizer may ask for. */
enum lorica_normal_form { LORICA_NORMAL_NONE, LORICA_NORMAL_NFC, LORICA_NORMAL_NFKC };

/** Reads the character at *pos and moves *pos behind it. */
uint32_t lorica_unicode_next(const char *text, size_t *pos);

/** Reads the character that ends at *pos (> 0) and moves *pos to its first byte. */
uint32_t lorica_unicode_previous(const char *text, size_t *pos);

/** White_Space. */
bool lorica_unicode_is_space(uint32_t c);
/** Categories Nd, Nl, No. */
bool lorica_unicode_is_numeric(uint32_t c);
/** What \w means: letters, marks, decimal digits, connectors, joiners. */
bool lorica_unicode_is_word(uint32_t c);

/** Replaces, in place, each character whose class the regex library may not know yet (its Unicode
 * version is older than the one that tokenizers are made with) or sees otherwise by one of the same
 * class and the same number of bytes, so that patterns find the same pieces at the same offsets.
 * Returns whether anything was replaced. With `write` false only tells. */
bool lorica_unicode_shadow(char *text, size_t len, bool write);

/** Appends the normal form of text. */
int lorica_unicode_normalise(enum lorica_normal_form form, const char *text, size_t len,
                             struct lorica_buf *out) LORICA_MUSTCHECK;

#endif
