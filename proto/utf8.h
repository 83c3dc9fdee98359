/* SPDX-License-Identifier: MIT
 * UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef LORICA_PROTO_UTF8_H
#define LORICA_PROTO_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/** Bytes of the longest valid prefix of `text`; equals `len` when all of it is valid. */
size_t lorica_utf8_valid_prefix(const char *text, size_t len);

/** True when all bytes are valid UTF-8. */
bool lorica_utf8_valid(const char *text, size_t len);

/** Bytes at the end of `text` that begin a character but do not finish it (0 to 3). They may be
 * held back until more bytes come; anything else invalid is not counted. */
size_t lorica_utf8_incomplete_tail(const char *text, size_t len);

#endif
