/* SPDX-License-Identifier: MIT
 * The command line: one table of commands, each in its own cmd_*.c. */
#ifndef LORICA_GATEWAY_CMD_CMD_H
#define LORICA_GATEWAY_CMD_CMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "kernels/attn.h"
#include "proto/buf.h"
#include "proto/err.h"

/** Exit codes of every command. */
enum lorica_exit { LORICA_EXIT_OK = 0, LORICA_EXIT_FAILED = 1, LORICA_EXIT_USAGE = 2 };

/** One command, or one with a second word ("base import"). */
struct lorica_cmd {
    const char *name;     /**< "serve" or "base import" */
    const char *synopsis; /**< after the name: "FILE|DIR [--name N]" */
    const char *summary;  /**< one line */
    /** What --help and the man page print, one item per line. A line that holds a tab is an option
     * or operand and what it does ("--name N\tname of the base"); a line without one is a
     * paragraph. Lines are not wrapped by hand: the printer does it. */
    const char *help;
    /** Runs with argv[0] the first word behind the name. Returns an enum lorica_exit. */
    int (*run)(int argc, char **argv);
};

/** Commands of each file; commands.c lists them in one table. */
extern const struct lorica_cmd lorica_cmd_init;
extern const struct lorica_cmd lorica_cmd_base[], lorica_cmd_adapter[], lorica_cmd_key[];
extern const size_t lorica_cmd_base_count, lorica_cmd_adapter_count, lorica_cmd_key_count;
extern const struct lorica_cmd lorica_cmd_policy[];
extern const size_t lorica_cmd_policy_count;
extern const struct lorica_cmd lorica_cmd_retire[];
extern const size_t lorica_cmd_retire_count;
extern const struct lorica_cmd lorica_cmd_audit[];
extern const size_t lorica_cmd_audit_count;
extern const struct lorica_cmd lorica_cmd_signer[], lorica_cmd_verify_signed[];
extern const size_t lorica_cmd_signer_count, lorica_cmd_verify_signed_count;
extern const struct lorica_cmd lorica_cmd_receipt;
extern const struct lorica_cmd lorica_cmd_split;
extern const struct lorica_cmd lorica_cmd_check;
extern const struct lorica_cmd lorica_cmd_diff;
extern const struct lorica_cmd lorica_cmd_serve, lorica_cmd_train, lorica_cmd_chat,
    lorica_cmd_bench;
extern const struct lorica_cmd lorica_cmd_eval[];
extern const size_t lorica_cmd_eval_count;
extern const struct lorica_cmd lorica_cmd_verify, lorica_cmd_backup, lorica_cmd_restore;

/* The table (commands.c). */

/** The commands in the order of the help; NULL behind the last. */
const struct lorica_cmd *lorica_command_at(size_t index);

/** Finds the command that argv[0] (and argv[1], for one of two words) names. *ret_words: how many
 * words its name took. NULL when there is none. */
const struct lorica_cmd *lorica_command_find(int argc, char **argv, int *ret_words);

/** The candidate that is most like `word`, or NULL when none is like it. `candidates` is
 * NULL-terminated. */
const char *lorica_suggest(const char *word, const char *const *candidates);

/** Runs the program: what main does. Returns an enum lorica_exit. */
int lorica_cli_run(int argc, char **argv);

/** lorica.conf as init writes it: every setting of config.h with its default, commented out
 * (config_sample.c). */
extern const char lorica_config_sample[];

/* Help (help.c, man.c). */

extern const struct lorica_cmd lorica_cmd_help;

/** Prints the list of commands. */
void lorica_help_list(FILE *out);
/** Prints the help of one command. */
void lorica_help_command(FILE *out, const struct lorica_cmd *cmd);
/** Prints the commands whose first word is `group`; false when there are none. */
bool lorica_help_group(FILE *out, const char *group);
/** Writes lorica(1) as troff. */
void lorica_help_man(FILE *out);

/** One line of lorica_cmd.help, taken apart. Borrowed from the text. */
struct lorica_help_item {
    const char *term; /**< NULL: a paragraph */
    size_t term_len;
    const char *text;
    size_t text_len;
};

/** Takes the next item off *text; false at the end. */
bool lorica_help_next(const char **text, struct lorica_help_item *ret);

/* What commands share (cmd.c). */

/** An option of a command: `--name VALUE`, `--name=VALUE`, or a flag. */
struct lorica_option {
    const char *name;   /**< without the dashes */
    const char **value; /**< receives the text; NULL for a flag */
    bool *flag;         /**< set to true for a flag */
    const char ***list; /**< instead of value: a repeatable option; NULL-terminated, malloc'd */
};

/** Takes the options out of argv, in any order among the positional words ("--" ends them), and
 * leaves the positional words in argv[0..return value). Prints what is wrong (unknown option,
 * missing value, an option twice, too few or too many words) with the usage line to stderr and
 * returns -1: the command then returns LORICA_EXIT_USAGE. A value that begins with "--" must be
 * written `--name=VALUE`. On failure every list is NULL. `--help` is handled before run. */
int lorica_cmd_options(const struct lorica_cmd *cmd, int argc, char **argv,
                       const struct lorica_option *options, size_t count, int min_words,
                       int max_words);

/** Prints "lorica <command>: <sentence>" and the usage line to stderr; returns LORICA_EXIT_USAGE.
 */
int lorica_cmd_usage(const struct lorica_cmd *cmd, const char *fmt, ...) LORICA_PRINTF(2, 3);

/** Reads a whole number option in [min, max]; prints and returns false when it is not one. */
bool lorica_cmd_integer(const char *option, const char *text, long long min, long long max,
                        long long *ret);
/** Likewise the name of a format of the key/value cache. */
bool lorica_cmd_kv(const char *text, enum lorica_kv_format *ret);
/** Likewise a finite decimal number. */
bool lorica_cmd_number(const char *option, const char *text, double min, double max, double *ret);

/** Prints "lorica: <sentence>" to stderr and returns LORICA_EXIT_FAILED. */
int lorica_cmd_fail(const struct lorica_error *err);

/** Ends what --json prints: unless `rc` says that it failed, prints the buffer as a line. Finishes
 * the buffer; returns rc, or why it could not be printed. */
int lorica_cmd_print_json(struct lorica_buf *out, int rc,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** The data directory: `option` if not NULL, else $LORICA_DATA, else $XDG_DATA_HOME/lorica, else
 * ~/.local/share/lorica. Caller frees. NULL: printed why. */
char *lorica_data_dir(const char *option);

/** The base file a word means: a path to an existing file or directory, else the base of that name
 * (or digest) in DIR/bases; NULL word: the only base there is. Caller frees. */
int lorica_find_base(const char *data_dir, const char *word, char **ret,
                     struct lorica_error *err) LORICA_MUSTCHECK;

/** A progress bar on a terminal, plain lines elsewhere (at most one each 10 %); fits
 * lorica_progress_fn. */
void lorica_progress(void *arg, const char *what, unsigned long long done,
                     unsigned long long total);

#endif
