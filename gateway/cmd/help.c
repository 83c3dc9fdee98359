/* SPDX-License-Identifier: MIT
 * Help on the terminal: from the table of commands, wrapped to 80 columns. */
#include <string.h>

#include "gateway/cmd/cmd.h"

#define COLUMNS 80
#define INDENT 2
#define TERM_COLUMNS 26 /* where the text beside a term begins */

bool lorica_help_next(const char **text, struct lorica_help_item *ret) {
    const char *line = *text;
    if (!line || *line == '\0')
        return false;
    const char *end = strchrnul(line, '\n');
    const char *tab = memchr(line, '\t', (size_t)(end - line));
    ret->term = tab ? line : NULL;
    ret->term_len = tab ? (size_t)(tab - line) : 0;
    ret->text = tab ? tab + 1 : line;
    ret->text_len = (size_t)(end - ret->text);
    *text = *end ? end + 1 : end;
    return true;
}

/* Prints words so that no line goes over COLUMNS; the first line is at `column` already. */
static void wrap(FILE *out, const char *text, size_t len, size_t column, size_t indent) {
    size_t at = column;
    bool first = true;
    for (size_t i = 0; i < len;) {
        size_t word = 0;
        while (i + word < len && text[i + word] != ' ')
            word++;
        if (word > 0) {
            if (!first && at + 1 + word > COLUMNS) {
                (void)fprintf(out, "\n%*s", (int)indent, "");
                at = indent;
            } else if (!first) {
                (void)fputc(' ', out);
                at++;
            }
            (void)fprintf(out, "%.*s", (int)word, text + i);
            at += word;
            first = false;
        }
        i += word + 1;
    }
    (void)fputc('\n', out);
}

static void print_term(FILE *out, const char *term, size_t term_len, const char *text,
                       size_t text_len) {
    (void)fprintf(out, "%*s%.*s", INDENT, "", (int)term_len, term);
    if (INDENT + term_len + 2 > TERM_COLUMNS)
        (void)fprintf(out, "\n%*s", TERM_COLUMNS, "");
    else
        (void)fprintf(out, "%*s", (int)(TERM_COLUMNS - INDENT - term_len), "");
    wrap(out, text, text_len, TERM_COLUMNS, TERM_COLUMNS);
}

void lorica_help_command(FILE *out, const struct lorica_cmd *cmd) {
    (void)fprintf(out, "usage: lorica %s%s", cmd->name, *cmd->synopsis ? " " : "");
    wrap(out, cmd->synopsis, strlen(cmd->synopsis), strlen("usage: lorica  ") + strlen(cmd->name),
         strlen("usage: lorica "));
    (void)fputc('\n', out);
    wrap(out, cmd->summary, strlen(cmd->summary), 0, 0);
    const char *text = cmd->help;
    struct lorica_help_item item;
    bool in_terms = false;
    while (lorica_help_next(&text, &item)) {
        if (!item.term || !in_terms)
            (void)fputc('\n', out);
        in_terms = item.term != NULL;
        if (item.term)
            print_term(out, item.term, item.term_len, item.text, item.text_len);
        else
            wrap(out, item.text, item.text_len, 0, 0);
    }
}

bool lorica_help_group(FILE *out, const char *group) {
    const struct lorica_cmd *cmd;
    const size_t len = strlen(group);
    bool found = false;
    for (size_t i = 0; (cmd = lorica_command_at(i)); i++) {
        if (strncmp(cmd->name, group, len) != 0 || cmd->name[len] != ' ')
            continue;
        found = true;
        if (out)
            print_term(out, cmd->name, strlen(cmd->name), cmd->summary, strlen(cmd->summary));
    }
    if (found && out)
        (void)fprintf(out, "\nlorica %s WORD --help tells more about one\n", group);
    return found;
}

void lorica_help_list(FILE *out) {
    const struct lorica_cmd *cmd;
    (void)fputs("usage: lorica COMMAND [WORDS and OPTIONS]\n"
                "       lorica help COMMAND\n"
                "       lorica --version\n\n"
                "One frozen 4-bit base model, a registry of versioned LoRA adapters, and an HTTPS\n"
                "gateway that answers each request with the adapter it names.\n\n",
                out);
    for (size_t i = 0; (cmd = lorica_command_at(i)); i++)
        print_term(out, cmd->name, strlen(cmd->name), cmd->summary, strlen(cmd->summary));
    (void)fputs("\nExit codes: 0 done, 1 failed, 2 wrong usage.\n", out);
}

static int run(int argc, char **argv) {
    bool man = false;
    const struct lorica_option options[] = {{.name = "man", .flag = &man}};
    const int words = lorica_cmd_options(&lorica_cmd_help, argc, argv, options, 1, 0, 2);
    int used = 0;
    if (words < 0)
        return LORICA_EXIT_USAGE;
    if (man && words > 0)
        return lorica_cmd_usage(&lorica_cmd_help, "--man takes no command: it writes all of them");
    if (man) {
        lorica_help_man(stdout);
        return LORICA_EXIT_OK;
    }
    if (words == 0) {
        lorica_help_list(stdout);
        return LORICA_EXIT_OK;
    }
    const struct lorica_cmd *cmd = lorica_command_find(words, argv, &used);
    if (cmd && used == words) {
        lorica_help_command(stdout, cmd);
        return LORICA_EXIT_OK;
    }
    if (words == 1 && lorica_help_group(stdout, argv[0]))
        return LORICA_EXIT_OK;
    return lorica_cmd_usage(&lorica_cmd_help, "there is no command \"%s%s%s\"", argv[0],
                            words > 1 ? " " : "", words > 1 ? argv[1] : "");
}

const struct lorica_cmd lorica_cmd_help = {
    .name = "help",
    .synopsis = "[COMMAND] [--man]",
    .summary = "tell what there is, or all about one command",
    .help = "COMMAND\ta command, or the first word of several: \"help adapter\"\n"
            "--man\twrite the manual page lorica(1) in troff to standard output\n",
    .run = run,
};
