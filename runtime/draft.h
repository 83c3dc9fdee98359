/* SPDX-License-Identifier: MIT
 * Guessing what comes next without a second model: what followed the last time that the text stood
 * here (prompt lookup). Answers repeat names, numbers and whole sentences of their prompts. */
#ifndef LORICA_RUNTIME_DRAFT_H
#define LORICA_RUNTIME_DRAFT_H

#include <stdint.h>

/** The most tokens that are guessed for one sequence in one step. */
#define LORICA_DRAFT_MAX 12

/** Looks for the longest end of tokens[0..count), of two tokens or more, that stands earlier in it
 * (the latest place of equally long ones), and writes the up to `most` tokens that followed there
 * into ret[], going on through the guess itself where the text repeats. Returns how many. */
uint32_t lorica_draft_lookup(const int32_t *tokens, uint32_t count, uint32_t most, int32_t *ret);

#endif
