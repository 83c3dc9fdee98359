/* SPDX-License-Identifier: MIT
 * The table of commands, and how words on the command line become one of them. */
#include <string.h>

#include "gateway/cmd/cmd.h"
#include "kernels/cpu.h"

static const size_t one = 1;

/* One line per source file, in the order of the help. */
static const struct {
    const struct lorica_cmd *commands;
    const size_t *count;
} table[] = {
    {&lorica_cmd_help, &one},
    {&lorica_cmd_init, &one},
    {lorica_cmd_base, &lorica_cmd_base_count},
    {lorica_cmd_key, &lorica_cmd_key_count},
    {lorica_cmd_adapter, &lorica_cmd_adapter_count},
    {lorica_cmd_retire, &lorica_cmd_retire_count},
    {lorica_cmd_policy, &lorica_cmd_policy_count},
    {lorica_cmd_signer, &lorica_cmd_signer_count},
    {&lorica_cmd_split, &one},
    {&lorica_cmd_check, &one},
    {&lorica_cmd_diff, &one},
    {&lorica_cmd_receipt, &one},
    {&lorica_cmd_train, &one},
    {&lorica_cmd_serve, &one},
    {&lorica_cmd_chat, &one},
    {&lorica_cmd_bench, &one},
    {lorica_cmd_eval, &lorica_cmd_eval_count},
    {lorica_cmd_audit, &lorica_cmd_audit_count},
    {&lorica_cmd_verify, &one},
    {lorica_cmd_verify_signed, &lorica_cmd_verify_signed_count},
    {&lorica_cmd_backup, &one},
    {&lorica_cmd_restore, &one},
};

#define TABLE_COUNT (sizeof(table) / sizeof(table[0]))

/** More commands than there ever will be: bounds the list of candidates. */
#define COMMANDS_MAX 128

const struct lorica_cmd *lorica_command_at(size_t index) {
    for (size_t i = 0; i < TABLE_COUNT; i++) {
        if (index < *table[i].count)
            return &table[i].commands[index];
        index -= *table[i].count;
    }
    return NULL;
}

const struct lorica_cmd *lorica_command_find(int argc, char **argv, int *ret_words) {
    const struct lorica_cmd *cmd, *single = NULL;
    for (size_t i = 0; argc > 0 && (cmd = lorica_command_at(i)); i++) {
        const char *space = strchr(cmd->name, ' ');
        if (!space && strcmp(cmd->name, argv[0]) == 0)
            single = cmd; /* unless the next word makes it one of two, as in "verify model" */
        if (space && argc > 1 && strlen(argv[0]) == (size_t)(space - cmd->name) &&
            strncmp(cmd->name, argv[0], (size_t)(space - cmd->name)) == 0 &&
            strcmp(space + 1, argv[1]) == 0) {
            *ret_words = 2;
            return cmd;
        }
    }
    *ret_words = single ? 1 : 0;
    return single;
}

#define SUGGEST_MAX 48 /* longest word that is compared */

/* Edit distance with neighbours swapped counting as one; both words at most SUGGEST_MAX long. */
static size_t distance(const char *a, const char *b) {
    size_t rows[3][SUGGEST_MAX + 1] = {{0}};
    const size_t na = strlen(a), nb = strlen(b);
    for (size_t j = 0; j <= nb; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t *now = rows[i % 3];
        const size_t *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[na % 3][nb];
}

const char *lorica_suggest(const char *word, const char *const *candidates) {
    const char *best = NULL;
    size_t best_distance = SUGGEST_MAX;
    if (strlen(word) > SUGGEST_MAX)
        return NULL;
    for (; *candidates; candidates++) {
        if (strlen(*candidates) > SUGGEST_MAX)
            continue;
        const size_t d = distance(word, *candidates);
        const size_t longer =
            strlen(word) > strlen(*candidates) ? strlen(word) : strlen(*candidates);
        if (d < best_distance && d * 5 <= longer * 2) {
            best = *candidates;
            best_distance = d;
        }
    }
    return best;
}

/* Words that may stand first: whole names, and the first words of names of two. */
static int unknown_command(int argc, char **argv) {
    const char *candidates[COMMANDS_MAX + 1];
    size_t count = 0;
    const struct lorica_cmd *cmd;
    char text[2 * SUGGEST_MAX + 2];
    const bool group = lorica_help_group(NULL, argv[0]);
    if (group && argc < 2)
        (void)fprintf(stderr, "lorica %s: a second word is missing\n", argv[0]);
    else
        (void)fprintf(stderr, "lorica: there is no command \"%s%s%s\"\n", argv[0], group ? " " : "",
                      group ? argv[1] : "");
    for (size_t i = 0; (cmd = lorica_command_at(i)) && count < COMMANDS_MAX; i++)
        candidates[count++] = cmd->name;
    candidates[count] = NULL;
    const char *best = NULL;
    if (argc > 1 && strlen(argv[0]) <= SUGGEST_MAX && strlen(argv[1]) <= SUGGEST_MAX) {
        (void)snprintf(text, sizeof(text), "%s %s", argv[0], argv[1]);
        best = lorica_suggest(text, candidates);
    }
    if (!best)
        best = lorica_suggest(argv[0], candidates);
    if (best)
        (void)fprintf(stderr, "did you mean \"lorica %s\"?\n", best);
    if (group)
        (void)lorica_help_group(stderr, argv[0]);
    else
        (void)fprintf(stderr, "lorica --help lists the commands\n");
    return LORICA_EXIT_USAGE;
}

/* True when help is asked for among a command's words. */
static bool asks_for_help(int argc, char **argv) {
    if (argc > 0 && strcmp(argv[0], "-h") == 0)
        return true;
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0)
            return true;
    return false;
}

static int dispatch(int argc, char **argv) {
    int words = 0;
    if (argc < 1) {
        lorica_help_list(stderr);
        return LORICA_EXIT_USAGE;
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        lorica_help_list(stdout);
        return LORICA_EXIT_OK;
    }
    if (strcmp(argv[0], "--version") == 0) {
        (void)printf("lorica %s\n", LORICA_VERSION);
        return LORICA_EXIT_OK;
    }
    const struct lorica_cmd *cmd = lorica_command_find(argc, argv, &words);
    if (!cmd)
        return asks_for_help(argc - 1, argv + 1) && lorica_help_group(stdout, argv[0])
                   ? LORICA_EXIT_OK
                   : unknown_command(argc, argv);
    if (asks_for_help(argc - words, argv + words)) {
        lorica_help_command(stdout, cmd);
        return LORICA_EXIT_OK;
    }
    struct lorica_error err = {0};
    if (lorica_cpu_limit_from_env(&err) != 0) {
        (void)lorica_cmd_fail(&err);
        return LORICA_EXIT_USAGE;
    }
    return cmd->run(argc - words, argv + words);
}

int lorica_cli_run(int argc, char **argv) {
    int rc = dispatch(argc - 1, argv + 1);
    if ((fflush(stdout) != 0 || ferror(stdout)) && rc == LORICA_EXIT_OK) {
        (void)fprintf(stderr, "lorica: standard output could not be written\n");
        rc = LORICA_EXIT_FAILED;
    }
    return rc;
}
