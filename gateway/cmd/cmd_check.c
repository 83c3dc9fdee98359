/* SPDX-License-Identifier: MIT
 * lorica adapter check: runs a list of checks from here, and says which fail. */
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "proto/checks.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define FILE_MAX_BYTES ((size_t)1 << 20)
#define BODY_MAX ((size_t)256 << 10)

int lorica_checks_read_file(const char *path, struct lorica_checks *ret, struct lorica_error *err) {
    char *text = NULL;
    size_t len = 0;
    int rc = lorica_file_read(path, FILE_MAX_BYTES, &text, &len, err);
    if (rc == 0 && (rc = lorica_checks_parse_lines(text, len, ret, err)) != 0)
        (void)lorica_fail_prefix(err, "%s", path);
    free(text);
    return rc;
}

static void add_message(struct lorica_jsonw *w, const char *role, const char *content) {
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "role", role);
    lorica_jsonw_string(w, "content", content);
    lorica_jsonw_end_object(w);
}

/* Asks one prompt greedily; *ret is the server's answer object. */
static int ask(struct lorica_client *client, const char *model, const struct lorica_check *check,
               struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "model", model);
    lorica_jsonw_array(&w, "messages");
    if (check->system)
        add_message(&w, "system", check->system);
    add_message(&w, "user", check->prompt);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_integer(&w, "temperature", 0);
    lorica_jsonw_integer(&w, "max_tokens", LORICA_CHECK_TOKENS);
    lorica_jsonw_end_object(&w);
    const struct lorica_client_request request = {.path = "/v1/chat/completions"};
    return lorica_client_send(client, &request, &body, "prompt", ret, err);
}

/* What came of one check, as a row or as JSON. */
struct report {
    struct lorica_table *table;
    struct lorica_jsonw *json;
    size_t failed;
};

static void add(struct report *report, size_t number, const struct lorica_check *check,
                const char *answer) {
    bool is_said = false;
    const char *fault = lorica_check_fault(check, answer, &is_said);
    report->failed += fault != NULL;
    if (report->json) {
        lorica_jsonw_object(report->json, NULL);
        lorica_jsonw_integer(report->json, "check", (int64_t)number);
        lorica_jsonw_bool(report->json, "passed", !fault);
        lorica_jsonw_string(report->json, "prompt", check->prompt);
        lorica_jsonw_string(report->json, "answer", answer);
        lorica_jsonw_string(report->json, "lacks", is_said ? NULL : fault);
        lorica_jsonw_string(report->json, "says", is_said ? fault : NULL);
        lorica_jsonw_end_object(report->json);
        return;
    }
    lorica_table_number(report->table, (int64_t)number);
    lorica_table_text(report->table, fault ? "failed" : "passed");
    lorica_table_text(report->table, check->prompt);
    lorica_table_text(report->table, !fault ? "" : is_said ? "says" : "lacks");
    lorica_table_text(report->table, fault ? fault : "");
    lorica_table_text(report->table, fault ? answer : "");
}

static int run_all(struct lorica_client *client, const char *model,
                   const struct lorica_checks *checks, struct report *report,
                   struct lorica_error *err) {
    int rc = 0;
    for (size_t i = 0; i < checks->count && rc == 0; i++) {
        struct lorica_json *object = NULL;
        rc = ask(client, model, &checks->items[i], &object, err);
        const struct lorica_json *choice = lorica_json_first(lorica_json_get(object, "choices"));
        const char *answer =
            lorica_json_string(lorica_json_get(lorica_json_get(choice, "message"), "content"));
        if (rc == 0)
            add(report, i + 1, &checks->items[i], answer ? answer : "");
        else
            (void)lorica_fail_prefix(err, "check %zu", i + 1);
        lorica_json_destroy(object);
    }
    return rc;
}

static int run_table(struct lorica_client *client, const char *model,
                     const struct lorica_checks *checks, size_t *ret_failed,
                     struct lorica_error *err) {
    static const char *const headings[] = {"CHECK",  "RESULT", "PROMPT", "",
                                           "PHRASE", "ANSWER", NULL};
    struct report report = {.table = lorica_table_create(headings)};
    int rc = report.table ? run_all(client, model, checks, &report, err)
                          : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && !lorica_table_print(report.table, stdout))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        (void)printf("%zu of %zu checks passed\n", checks->count - report.failed, checks->count);
    lorica_table_destroy(report.table);
    *ret_failed = report.failed;
    return rc;
}

static int run_json(struct lorica_client *client, const char *model,
                    const struct lorica_checks *checks, size_t *ret_failed,
                    struct lorica_error *err) {
    struct lorica_buf out;
    lorica_buf_init(&out, (size_t)16 << 20);
    struct lorica_jsonw w = {.out = &out};
    struct report report = {.json = &w};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "list");
    lorica_jsonw_array(&w, "data");
    const int rc = run_all(client, model, checks, &report, err);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_integer(&w, "failed", (int64_t)report.failed);
    lorica_jsonw_end_object(&w);
    *ret_failed = report.failed;
    return lorica_cmd_print_json(&out, rc, err);
}

static int check(int argc, char **argv) {
    struct lorica_client_options where = {0};
    struct lorica_client *client = NULL;
    struct lorica_checks checks = {.count = 0};
    struct lorica_error err = {0};
    char name[LORICA_NAME_MAX + 1];
    long long version = 0;
    size_t failed = 0;
    bool json = false;
    const struct lorica_option options[] = {{.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    if (lorica_cmd_options(&lorica_cmd_check, argc, argv, options, COUNT(options), 2, 2) < 0 ||
        !lorica_cmd_adapter_version(&lorica_cmd_check, argv[0], name, &version))
        return LORICA_EXIT_USAGE;
    int rc = lorica_checks_read_file(argv[1], &checks, &err);
    if (rc != 0)
        return lorica_cmd_fail(&err);
    if (!lorica_client_open(&where, &client)) {
        lorica_checks_finish(&checks);
        return LORICA_EXIT_FAILED;
    }
    rc = json ? run_json(client, argv[0], &checks, &failed, &err)
              : run_table(client, argv[0], &checks, &failed, &err);
    lorica_client_destroy(client);
    lorica_checks_finish(&checks);
    if (rc != 0)
        return lorica_cmd_fail(&err);
    return failed ? LORICA_EXIT_FAILED : LORICA_EXIT_OK;
}

const struct lorica_cmd lorica_cmd_check = {
    .name = "adapter check",
    .synopsis = "NAME@V FILE.jsonl [--json] " LORICA_CLIENT_SYNOPSIS,
    .summary = "ask a version what a channel's checks would ask it",
    .help =
        "NAME@V\tthe version, which need be on no channel\n"
        "FILE.jsonl\ta line for each check: {\"prompt\":TEXT, \"system\":TEXT, "
        "\"must_say\":[PHRASE...], \"must_not_say\":[PHRASE...]}; system and one of the lists "
        "may be left out. Phrases are looked for anywhere in the answer, whatever the case of "
        "the letters A to Z\n"
        "--json\tprint the answers and what is wrong with them as "
        "JSON\n" LORICA_CLIENT_HELP
        "Answers are the likeliest ones (temperature 0), 128 tokens at most. The exit code is 1 "
        "when a check fails. `lorica adapter policy --checks` has the server ask them before "
        "every promote.\n",
    .run = check,
};
