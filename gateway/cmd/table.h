/* SPDX-License-Identifier: MIT
 * A table on the terminal: columns as wide as their widest cell. */
#ifndef LORICA_GATEWAY_CMD_TABLE_H
#define LORICA_GATEWAY_CMD_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/err.h"

struct lorica_table;

/** A table with these headings (borrowed until destroyed; NULL-terminated). NULL: out of memory. */
struct lorica_table *lorica_table_create(const char *const *headings);
/** NULL is accepted. */
void lorica_table_destroy(struct lorica_table *table);

/** Adds the next cell, left to right, row by row; copies the text, control characters become "?".
 * A failure is remembered for print. */
void lorica_table_text(struct lorica_table *table, const char *text);
/** A cell made like printf. */
void lorica_table_format(struct lorica_table *table, const char *fmt, ...) LORICA_PRINTF(2, 3);
/** A number, right-aligned. */
void lorica_table_number(struct lorica_table *table, int64_t number);
/** A time in UTC ("2026-03-01 09:30:00"); "-" for 0. */
void lorica_table_time(struct lorica_table *table, int64_t unix_seconds);

/** Prints headings and rows; false when memory had run out. */
bool lorica_table_print(const struct lorica_table *table, FILE *out);

/** Writes a time as lorica_table_time does. */
void lorica_time_format(int64_t unix_seconds, char out[32]);

/** Prints text with control characters (but newline and tab) replaced by "?": what comes from a
 * server or a model must not drive the terminal. */
void lorica_print_plain(FILE *out, const char *text, size_t len);

#endif
