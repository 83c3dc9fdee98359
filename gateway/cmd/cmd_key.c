/* SPDX-License-Identifier: MIT
 * lorica key: the API keys of a running server. */
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "proto/http_fields.h"
#include "registry/registry.h"

enum { CREATE, LIST, REVOKE };

#define COMMAND(which) (&lorica_cmd_key[which])
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BODY_MAX 65536

/* Writes {"name","role","adapters"}. */
static void write_request(struct lorica_buf *body, const char *name, const char *role,
                          const char *const *globs) {
    struct lorica_jsonw w = {.out = body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "name", name);
    lorica_jsonw_string(&w, "role", role);
    if (globs) {
        lorica_jsonw_array(&w, "adapters");
        for (; *globs; globs++)
            lorica_jsonw_string(&w, NULL, *globs);
        lorica_jsonw_end_array(&w);
    }
    lorica_jsonw_end_object(&w);
}

/* Prints the key on standard output, alone, so that a script can take it. */
static int print_created(const struct lorica_json *key, bool json) {
    const char *text = lorica_json_string(lorica_json_get(key, "key"));
    if (json)
        return lorica_client_print_json(key);
    if (!text) {
        (void)fprintf(stderr, "lorica: the server's answer holds no key\n");
        return LORICA_EXIT_FAILED;
    }
    (void)fprintf(stderr, "key \"%s\", role %s; the server will not tell it again:\n",
                  lorica_member_text(key, "name"), lorica_member_text(key, "role"));
    (void)printf("%s\n", text);
    return LORICA_EXIT_OK;
}

static int create_with(const struct lorica_client_options *where, const char *name,
                       const char *role, const char *const *globs, bool json) {
    struct lorica_client *client = NULL;
    struct lorica_json *key = NULL;
    struct lorica_error err = {0};
    struct lorica_buf body;
    if (!lorica_client_open(where, &client))
        return LORICA_EXIT_FAILED;
    lorica_buf_init(&body, BODY_MAX);
    write_request(&body, name, role, globs);
    const struct lorica_client_request request = {.path = "/v1/keys"};
    int rc =
        lorica_client_send(client, &request, &body, "name or the list of patterns", &key, &err);
    rc = rc == 0 ? print_created(key, json) : lorica_cmd_fail(&err);
    lorica_json_destroy(key);
    lorica_client_destroy(client);
    return rc;
}

static int create(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *role = NULL;
    const char **globs = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "role", .value = &role},
                                            {.name = "adapter", .list = &globs},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    if (lorica_cmd_options(COMMAND(CREATE), argc, argv, options, COUNT(options), 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    int rc = LORICA_EXIT_USAGE;
    if (!role)
        (void)lorica_cmd_usage(COMMAND(CREATE), "--role is missing");
    else if (lorica_role_parse(role) < 0)
        (void)lorica_cmd_usage(COMMAND(CREATE), "there is no role \"%.100s\"", role);
    else
        rc = create_with(&where, argv[0], role, globs, json);
    free((void *)globs);
    return rc;
}

static void list_row(struct lorica_table *table, const struct lorica_json *item) {
    struct lorica_buf globs;
    lorica_buf_init(&globs, BODY_MAX);
    const struct lorica_json *glob = lorica_json_first(lorica_json_get(item, "adapters"));
    for (; glob; glob = lorica_json_next(glob)) {
        const char *text = lorica_json_string(glob);
        (void)lorica_buf_printf(&globs, "%s%s", globs.len > 0 ? " " : "", text ? text : "?");
    }
    lorica_table_text(table, lorica_member_text(item, "name"));
    lorica_table_text(table, lorica_member_text(item, "role"));
    lorica_table_text(table, globs.len > 0 ? globs.data : "all");
    lorica_table_time(table, lorica_member_number(item, "created"));
    lorica_table_time(table, lorica_member_number(item, "revoked"));
    lorica_buf_finish(&globs);
}

static int list(int argc, char **argv) {
    static const char *const headings[] = {"NAME", "ROLE", "ADAPTERS", "CREATED", "REVOKED", NULL};
    return lorica_client_list_command(COMMAND(LIST), argc, argv, "/v1/keys", "name", headings,
                                      list_row);
}

static int revoke_name(struct lorica_client *client, const char *name, struct lorica_error *err) {
    struct lorica_buf path;
    lorica_buf_init(&path, BODY_MAX);
    (void)lorica_buf_puts(&path, "/v1/keys/");
    lorica_http_escape(&path, name, strlen(name));
    int rc = lorica_buf_status(&path);
    if (rc != 0) {
        rc = lorica_fail(err, rc, "the name is too long");
    } else {
        const struct lorica_client_request request = {.method = "DELETE", .path = path.data};
        rc = lorica_client_call(client, &request, NULL, NULL, err);
    }
    lorica_buf_finish(&path);
    return rc;
}

static int revoke(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const struct lorica_option options[] = {LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_error err = {0};
    if (lorica_cmd_options(COMMAND(REVOKE), argc, argv, options, COUNT(options), 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    int rc = revoke_name(client, argv[0], &err);
    if (rc == 0)
        (void)printf("key \"%s\" is revoked\n", argv[0]);
    else
        rc = lorica_cmd_fail(&err);
    lorica_client_destroy(client);
    return rc;
}

const struct lorica_cmd lorica_cmd_key[] = {
    [CREATE] = {.name = "key create",
                .synopsis = "NAME --role infer|publish|ops|admin [--adapter GLOB]... "
                            "[--json] " LORICA_CLIENT_SYNOPSIS,
                .summary = "make an API key and print it, once",
                .help = "NAME\twho will hold it, for the history\n"
                        "--role ROLE\tinfer asks models; publish also publishes adapters; ops also "
                        "promotes and rolls back; admin also makes and revokes keys\n"
                        "--adapter GLOB\tonly adapters whose name matches, as \"cardio*\"; may be "
                        "given several times; \"base\" is the bare base model\n"
                        "--json\tprint the server's object as JSON\n" LORICA_CLIENT_HELP,
                .run = create},
    [LIST] = {.name = "key list",
              .synopsis = "[--json] " LORICA_CLIENT_SYNOPSIS,
              .summary = "list the API keys, never their text",
              .help = "--json\tprint the server's objects as JSON\n" LORICA_CLIENT_HELP,
              .run = list},
    [REVOKE] = {.name = "key revoke",
                .synopsis = "NAME " LORICA_CLIENT_SYNOPSIS,
                .summary = "take an API key out of force, at once and for ever",
                .help = "NAME\tthe key\n" LORICA_CLIENT_HELP,
                .run = revoke},
};
const size_t lorica_cmd_key_count = COUNT(lorica_cmd_key);
