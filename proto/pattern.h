/* SPDX-License-Identifier: MIT
 * The regular expressions that PEFT configs hold, matched in time linear in the text: literals,
 * '.', escapes (\. \d \w \s and escaped punctuation), [sets], (groups), (?:groups), '|', '*', '+',
 * '?',
 * '^' and '$'. Anything else (look-around, back-references, counts, lazy forms) is refused. */
#ifndef LORICA_PROTO_PATTERN_H
#define LORICA_PROTO_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/err.h"

/** Longest expression that is read, in bytes. */
#define LORICA_PATTERN_MAX 512

/** *ret: whether the whole of `text` matches, as Python's re.fullmatch says; with `suffix`, whether
 * ^(.*\.)?(expression)$ does. LORICA_EUNSUPPORTED for an expression that is not of the kind above
 * or is too long. */
int lorica_pattern_match(const char *expression, const char *text, bool suffix, bool *ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;

#endif
