/* SPDX-License-Identifier: MIT
 * What the commands that are clients share: opening, reading answers, printing them. */
#ifndef LORICA_GATEWAY_CLIENT_CLIENT_CMD_H
#define LORICA_GATEWAY_CLIENT_CLIENT_CMD_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/client/client.h"
#include "gateway/cmd/table.h"
#include "registry/registry.h"

struct lorica_cmd;

/** Opens the client; false: printed why. */
bool lorica_client_open(const struct lorica_client_options *options, struct lorica_client **ret);

/** Text of a member, "" where it is none. Borrowed. */
const char *lorica_member_text(const struct lorica_json *object, const char *key);
/** Whole number of a member, 0 where it is none. */
int64_t lorica_member_number(const struct lorica_json *object, const char *key);

/** Prints a value as one line of JSON. Returns an enum lorica_exit. */
int lorica_client_print_json(const struct lorica_json *value);

/** Adds one row to a table for one item of a list. */
typedef void (*lorica_row_fn)(struct lorica_table *table, const struct lorica_json *item);

/** Gets a list (see lorica_client_list) and prints it: as one JSON list when `json`, else as a
 * table. Returns an enum lorica_exit; what went wrong is printed. */
int lorica_client_print_list(struct lorica_client *client, const char *path, const char *cursor,
                             bool json, const char *const *headings, lorica_row_fn row);
/** A command without words that prints such a list: takes --json and where the server is. */
int lorica_client_list_command(const struct lorica_cmd *cmd, int argc, char **argv,
                               const char *path, const char *cursor, const char *const *headings,
                               lorica_row_fn row);

struct lorica_checks;
/** Reads a file of checks, a line each (cmd_check.c). On success finish *ret. */
int lorica_checks_read_file(const char *path, struct lorica_checks *ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Options of a request that asks the model, as they stand in the command line; NULL: not given. */
struct lorica_sampling_words {
    const char *max_tokens, *temperature, *seed;
};
/** Prints what is wrong with one and returns false. */
bool lorica_sampling_words_check(const struct lorica_sampling_words *words);
/** Writes those that are given as members of the request, once they were checked. */
void lorica_sampling_words_write(const struct lorica_sampling_words *words, struct lorica_jsonw *w);

/* Words of a command; each prints what is wrong with one and returns false (cmd_adapter.c). */

bool lorica_cmd_adapter_name(const struct lorica_cmd *cmd, const char *name);
/** NULL is accepted. */
bool lorica_cmd_channel_name(const struct lorica_cmd *cmd, const char *channel);
/** Takes NAME@VERSION apart. */
bool lorica_cmd_adapter_version(const struct lorica_cmd *cmd, const char *word,
                                char name[LORICA_NAME_MAX + 1], long long *ret_version);

#endif
