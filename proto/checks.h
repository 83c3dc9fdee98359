/* SPDX-License-Identifier: MIT
 * Must-say and must-not-say checks: prompts, and what their answers must and must not hold.
 *
 * A CHECK is {"prompt": TEXT, "system": TEXT, "must_say": [PHRASE...], "must_not_say":
 * [PHRASE...]}; "system" may be left out, and one of the two lists; a phrase alone stands for a
 * list of one. An answer says a phrase when it holds it anywhere, whatever the case of the letters
 * A to Z. */
#ifndef LORICA_PROTO_CHECKS_H
#define LORICA_PROTO_CHECKS_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/json.h"

/** Most checks of a list, bytes of the list as JSON without spaces, and phrases of each kind. */
#define LORICA_CHECKS_MAX 64
#define LORICA_CHECKS_BYTES ((size_t)65536)
#define LORICA_CHECK_PHRASES 16
/** Tokens of an answer that are looked at. */
#define LORICA_CHECK_TOKENS 128

/** One check. Texts are borrowed from the list. */
struct lorica_check {
    const char *prompt, *system; /**< system NULL: none */
    const char *must[LORICA_CHECK_PHRASES], *must_not[LORICA_CHECK_PHRASES];
    size_t must_count, must_not_count;
};

/** A list of them. */
struct lorica_checks {
    struct lorica_check items[LORICA_CHECKS_MAX];
    size_t count;
    struct lorica_buf text; /**< the list as JSON without spaces: what is stored and digested */
    void *owned;            /**< private: what the texts are borrowed from */
};

/** Reads a JSON array of at least one check. LORICA_EFORMAT or LORICA_ELIMIT names the check and
 * what is wrong with it. On success finish *ret. */
int lorica_checks_read(const struct lorica_json *array, struct lorica_checks *ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Likewise from the text of such an array. */
int lorica_checks_parse(const char *text, size_t len, struct lorica_checks *ret,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** Likewise from lines, each of them a check; blank ones are passed over. */
int lorica_checks_parse_lines(const char *text, size_t len, struct lorica_checks *ret,
                              struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_checks_finish(struct lorica_checks *checks);

/** The first phrase that an answer lacks, or holds although it must not (*ret_said); NULL: the
 * answer passes. Borrowed from the check. */
const char *lorica_check_fault(const struct lorica_check *check, const char *answer,
                               bool *ret_said);

#endif
