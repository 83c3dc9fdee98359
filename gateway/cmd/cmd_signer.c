/* SPDX-License-Identifier: MIT
 * lorica signer: the public keys whose signatures a running server trusts. */
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "gateway/cmd/model_dir.h"

enum { ADD, LIST, REMOVE };

#define COMMAND(which) (&lorica_cmd_signer[which])
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PATH_BYTES 512 /* an escaped name fits */
#define BODY_MAX 65536

static int send_key(struct lorica_client *client, const char *name,
                    const struct lorica_signkey *key, const char *message, struct lorica_json **ret,
                    struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "name", name);
    lorica_jsonw_string(&w, "public_key", lorica_signkey_public_pem(key));
    if (message)
        lorica_jsonw_string(&w, "message", message);
    lorica_jsonw_end_object(&w);
    const struct lorica_client_request request = {.path = "/v1/signers"};
    return lorica_client_send(client, &request, &body, "message", ret, err);
}

/* Prints a signer after a change, and frees it. */
static int print_signer(struct lorica_json *signer, const char *what, bool json) {
    int rc = LORICA_EXIT_OK;
    if (json)
        rc = lorica_client_print_json(signer);
    else
        (void)printf("%s (%s, %s) %s\n", lorica_member_text(signer, "name"),
                     lorica_member_text(signer, "algorithm"), lorica_member_text(signer, "key_id"),
                     what);
    lorica_json_destroy(signer);
    return rc;
}

static int add(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *message = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "message", .value = &message},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_signkey *key = NULL;
    struct lorica_json *signer = NULL;
    struct lorica_error err = {0};
    if (lorica_cmd_options(COMMAND(ADD), argc, argv, options, COUNT(options), 2, 2) < 0)
        return LORICA_EXIT_USAGE;
    if (!lorica_name_valid(argv[0]))
        return lorica_cmd_usage(COMMAND(ADD), "\"%.150s\" is no name for a signer", argv[0]);
    int rc = lorica_key_file_public(argv[1], &key, &err);
    if (rc != 0)
        return lorica_cmd_fail(&err);
    if (lorica_client_open(&where, &client)) {
        rc = send_key(client, argv[0], key, message, &signer, &err);
        rc = rc == 0 ? print_signer(signer, "is trusted to sign", json) : lorica_cmd_fail(&err);
    } else {
        rc = LORICA_EXIT_FAILED;
    }
    lorica_signkey_destroy(key);
    lorica_client_destroy(client);
    return rc;
}

static void list_row(struct lorica_table *table, const struct lorica_json *item) {
    lorica_table_text(table, lorica_member_text(item, "name"));
    lorica_table_text(table, lorica_member_text(item, "algorithm"));
    lorica_table_format(table, "%.19s", lorica_member_text(item, "key_id"));
    lorica_table_time(table, lorica_member_number(item, "added"));
    lorica_table_text(table, lorica_member_text(item, "added_by"));
    lorica_table_time(table, lorica_member_number(item, "removed"));
}

static int list(int argc, char **argv) {
    static const char *const headings[] = {"NAME", "ALGORITHM", "KEY", "ADDED",
                                           "BY",   "REMOVED",   NULL};
    return lorica_client_list_command(COMMAND(LIST), argc, argv, "/v1/signers", NULL, headings,
                                      list_row);
}

static int remove_signer(int argc, char **argv) {
    struct lorica_client_options where = {0};
    bool json = false;
    const struct lorica_option options[] = {{.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_json *signer = NULL;
    struct lorica_error err = {0};
    char path[PATH_BYTES];
    if (lorica_cmd_options(COMMAND(REMOVE), argc, argv, options, COUNT(options), 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    if (!lorica_name_valid(argv[0]))
        return lorica_cmd_usage(COMMAND(REMOVE), "\"%.150s\" is no name of a signer", argv[0]);
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    (void)snprintf(path, sizeof(path), "/v1/signers/%s", argv[0]);
    const struct lorica_client_request request = {.method = "DELETE", .path = path};
    int rc = lorica_client_call(client, &request, NULL, &signer, &err);
    rc = rc == 0 ? print_signer(signer, "is not trusted any more", json) : lorica_cmd_fail(&err);
    lorica_client_destroy(client);
    return rc;
}

const struct lorica_cmd lorica_cmd_signer[] = {
    [ADD] = {.name = "signer add",
             .synopsis = "NAME PUBLIC_KEY [--message TEXT] [--json] " LORICA_CLIENT_SYNOPSIS,
             .summary = "trust a public key to sign adapters",
             .help =
                 "NAME\twho signs with it; a name is used once\n"
                 "PUBLIC_KEY\ta PEM file as `openssl pkey -in KEY -pubout` writes it: Ed25519, for "
                 "`adapter publish --sign`, or P-256, P-384 or P-521, for bundles of OpenSSF Model "
                 "Signing\n"
                 "--message TEXT\twhy, for the history\n"
                 "--json\tprint the server's object as JSON\n" LORICA_CLIENT_HELP
                 "It takes a key with the role admin. A channel whose policy demands a signature "
                 "(adapter policy --signed) counts those of trusted keys.\n",
             .run = add},
    [LIST] = {.name = "signer list",
              .synopsis = "[--json] " LORICA_CLIENT_SYNOPSIS,
              .summary = "list the public keys that are, or were, trusted to sign",
              .help = "--json\tprint the server's objects as JSON\n" LORICA_CLIENT_HELP,
              .run = list},
    [REMOVE] = {.name = "signer remove",
                .synopsis = "NAME [--json] " LORICA_CLIENT_SYNOPSIS,
                .summary = "trust a public key no longer",
                .help = "NAME\tthe signer\n"
                        "--json\tprint the server's object as JSON\n" LORICA_CLIENT_HELP
                        "What was signed and where channels point stays as it is; no promote to "
                        "come counts the key.\n",
                .run = remove_signer},
};
const size_t lorica_cmd_signer_count = COUNT(lorica_cmd_signer);
