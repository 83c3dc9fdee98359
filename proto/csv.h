/* SPDX-License-Identifier: MIT
 * CSV as RFC 4180 has it, one byte at a time: fields between commas; in double quotes where they
 * hold commas, quotes (written twice) or line ends. CRLF and LF both end a line, and a field that
 * spans lines gets "\n" for either. A byte order mark at the beginning is passed over by the
 * caller.
 *
 * A record that is not well-formed is read to its end all the same, so that the next one can be
 * read: to the end of its line, or, when it is only too long, to where it would have ended. */
#ifndef LORICA_PROTO_CSV_H
#define LORICA_PROTO_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

/** Most fields of a record. */
#define LORICA_CSV_FIELDS_MAX 256

/** Private but for what is said here. */
struct lorica_csv {
    struct lorica_buf text; /**< the fields, each NUL-terminated */
    size_t starts[LORICA_CSV_FIELDS_MAX + 1];
    uint32_t count;    /**< fields of the record; read them with lorica_csv_field */
    uint32_t line;     /**< where the record begins, from 1 */
    const char *fault; /**< NULL, or what is wrong with the record; static storage */
    int state;
    uint32_t next_line;
};

/** Prepares; a record's fields may have `max` bytes together. finish it. */
void lorica_csv_init(struct lorica_csv *csv, size_t max);
void lorica_csv_finish(struct lorica_csv *csv);

/** Takes the next byte, or EOF (-1) behind the last. True when it ended a record, which is there
 * until the next call: its fields, or its fault. At EOF false: there is nothing more. A line
 * without a byte is a record of one empty field. */
bool lorica_csv_push(struct lorica_csv *csv, int byte) LORICA_MUSTCHECK;

/** Field `index` below count: its bytes and their number (it may hold NUL). Borrowed until the next
 * push. */
const char *lorica_csv_field(const struct lorica_csv *csv, uint32_t index, size_t *ret_len);

#endif
