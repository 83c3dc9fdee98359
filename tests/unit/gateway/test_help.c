/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/cmd/cmd.h"

/* Output of a printer as text, for free(). */
static char *printed(void (*print)(FILE *out, const struct lorica_cmd *cmd),
                     const struct lorica_cmd *cmd) {
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    print(out, cmd);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void print_man(FILE *out, const struct lorica_cmd *cmd) {
    (void)cmd;
    lorica_help_man(out);
}

static void test_item_with_tab_is_term_and_text(void **state) {
    (void)state;
    const char *text = "--a N\tfirst\nA paragraph.\n--b\tlast";
    struct lorica_help_item item;
    assert_true(lorica_help_next(&text, &item));
    assert_int_equal(item.term_len, 5);
    assert_memory_equal(item.text, "first", 5);
    assert_int_equal(item.text_len, 5);
    assert_true(lorica_help_next(&text, &item));
    assert_null(item.term);
    assert_int_equal(item.text_len, 12);
    assert_true(lorica_help_next(&text, &item));
    assert_int_equal(item.text_len, 4);
    assert_false(lorica_help_next(&text, &item));
}

static void test_help_no_line_is_wider_than_the_terminal(void **state) {
    (void)state;
    const struct lorica_cmd *cmd;
    for (size_t i = 0; (cmd = lorica_command_at(i)); i++) {
        char *text = printed(lorica_help_command, cmd);
        for (const char *line = text; *line;) {
            const size_t len = strcspn(line, "\n");
            if (len > 80)
                fail_msg("lorica %s: %.*s", cmd->name, (int)len, line);
            line += len + (line[len] == '\n');
        }
        free(text);
    }
}

static void test_help_every_option_of_the_synopsis_is_explained(void **state) {
    (void)state;
    const struct lorica_cmd *cmd;
    for (size_t i = 0; (cmd = lorica_command_at(i)); i++) {
        for (const char *p = cmd->synopsis; (p = strstr(p, "--")); p += 2) {
            char name[64] = "--";
            const size_t len = strspn(p + 2, "abcdefghijklmnopqrstuvwxyz0123456789-");
            assert_true(len > 0 && len < 60);
            memcpy(name + 2, p + 2, len);
            const char *text = cmd->help;
            struct lorica_help_item item;
            bool found = false;
            while (!found && lorica_help_next(&text, &item))
                found = item.term && item.term_len >= len + 2 &&
                        memcmp(item.term, name, len + 2) == 0 &&
                        (item.term_len == len + 2 ||
                         !strchr("abcdefghijklmnopqrstuvwxyz-", item.term[len + 2]));
            if (!found)
                fail_msg("lorica %s does not explain %s", cmd->name, name);
        }
    }
}

static void test_commands_have_distinct_names_and_all_texts(void **state) {
    (void)state;
    const struct lorica_cmd *cmd, *other;
    for (size_t i = 0; (cmd = lorica_command_at(i)); i++) {
        assert_non_null(cmd->name);
        assert_non_null(cmd->synopsis);
        assert_non_null(cmd->help);
        assert_non_null(cmd->run);
        assert_true(strlen(cmd->summary) > 0);
        for (size_t j = 0; j < i && (other = lorica_command_at(j)); j++)
            assert_string_not_equal(cmd->name, other->name);
    }
}

static void test_command_of_two_words_is_found_by_both(void **state) {
    (void)state;
    const struct lorica_cmd *cmd;
    char first[64];
    for (size_t i = 0; (cmd = lorica_command_at(i)); i++) {
        const char *space = strchr(cmd->name, ' ');
        if (!space)
            continue;
        (void)snprintf(first, sizeof(first), "%.*s", (int)(space - cmd->name), cmd->name);
        char *argv[] = {first, (char *)(uintptr_t)(space + 1), NULL};
        int used = 0;
        assert_ptr_equal(lorica_command_find(2, argv, &used), cmd);
        assert_int_equal(used, 2);
        const struct lorica_cmd *alone = lorica_command_find(1, argv, &used);
        if (alone) /* "audit" is one besides "audit checkpoint" */
            assert_string_equal(alone->name, first);
    }
}

static void test_man_names_every_command_and_starts_no_stray_request(void **state) {
    (void)state;
    char *page = printed(print_man, NULL);
    const struct lorica_cmd *cmd;
    char heading[128];
    for (size_t i = 0; (cmd = lorica_command_at(i)); i++) {
        (void)snprintf(heading, sizeof(heading), "\n.SS lorica %s\n", cmd->name);
        if (!strstr(page, heading))
            fail_msg("lorica(1) lacks %s", cmd->name);
    }
    for (const char *line = page; *line; line += strcspn(line, "\n") + 1) {
        static const char *const known[] = {".\\\"", ".TH ", ".SH ", ".SS ", ".B ",
                                            ".I ",   ".PP",  ".TP",  ".br"};
        bool fine = line[0] != '.' && line[0] != '\'';
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            fine = fine || strncmp(line, known[i], strlen(known[i])) == 0;
        assert_true(fine);
    }
    free(page);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_item_with_tab_is_term_and_text),
        cmocka_unit_test(test_help_no_line_is_wider_than_the_terminal),
        cmocka_unit_test(test_help_every_option_of_the_synopsis_is_explained),
        cmocka_unit_test(test_commands_have_distinct_names_and_all_texts),
        cmocka_unit_test(test_command_of_two_words_is_found_by_both),
        cmocka_unit_test(test_man_names_every_command_and_starts_no_stray_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
