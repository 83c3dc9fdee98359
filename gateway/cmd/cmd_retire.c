/* SPDX-License-Identifier: MIT
 * lorica adapter delete, undelete, retention, sweep: versions out of service, through the server's
 * API. */
#include <inttypes.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "registry/retire.h"

enum { DELETE, UNDELETE, RETENTION, SWEEP };

#define COMMAND(which) (&lorica_cmd_retire[which])
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PATH_BYTES 512 /* a name and a number fit */
#define BODY_MAX 65536

/* One change as it goes to the server. */
struct change {
    const char *method, *path;
    const char *reason; /* NULL: none */
    long long days;     /* negative: no such member */
};

static int send_change(struct lorica_client *client, const struct change *change,
                       struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    if (change->days >= 0)
        lorica_jsonw_integer(&w, "days", change->days);
    if (change->reason)
        lorica_jsonw_string(&w, "reason", change->reason);
    lorica_jsonw_end_object(&w);
    const struct lorica_client_request request = {.method = change->method, .path = change->path};
    return lorica_client_send(client, &request, &body, "reason", ret, err);
}

/* `adapter delete` and `adapter undelete`: `tail` ends the path, `said` the sentence. */
static int change_version(int argc, char **argv, const struct lorica_cmd *cmd, const char *method,
                          const char *tail, const char *said) {
    struct lorica_client_options where = {0};
    const char *reason = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "reason", .value = &reason},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_json *object = NULL;
    struct lorica_error err = {0};
    char path[PATH_BYTES], name[LORICA_NAME_MAX + 1];
    long long version = 0;
    if (lorica_cmd_options(cmd, argc, argv, options, COUNT(options), 1, 1) < 0 ||
        !lorica_cmd_adapter_version(cmd, argv[0], name, &version))
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/versions/%lld%s", name, version, tail);
    const struct change change = {.method = method, .path = path, .reason = reason, .days = -1};
    int rc = send_change(client, &change, &object, &err);
    if (rc != 0)
        rc = lorica_cmd_fail(&err);
    else if (json)
        rc = lorica_client_print_json(object);
    else
        (void)printf("%s@%lld %s\n", name, version, said);
    lorica_json_destroy(object);
    lorica_client_destroy(client);
    return rc;
}

static int delete_version(int argc, char **argv) {
    return change_version(argc, argv, COMMAND(DELETE), "DELETE", "",
                          "is deleted; adapter undelete takes it back until its content is swept");
}

static int undelete(int argc, char **argv) {
    return change_version(argc, argv, COMMAND(UNDELETE), "POST", "/undelete", "is back");
}

/* Shows the retention, or sets it when `days` is not negative; an enum lorica_exit. */
static int retention_with(struct lorica_client *client, const char *path, long long days,
                          const char *reason, bool json) {
    const struct lorica_client_request get = {.path = path};
    const struct change change = {.method = "PUT", .path = path, .reason = reason, .days = days};
    struct lorica_json *object = NULL;
    struct lorica_error err = {0};
    int rc = days < 0 ? lorica_client_call(client, &get, NULL, &object, &err)
                      : send_change(client, &change, &object, &err);
    if (rc != 0)
        rc = lorica_cmd_fail(&err);
    else if (json)
        rc = lorica_client_print_json(object);
    else
        (void)printf(
            "content of deleted versions of %s stays for %lld days%s\n",
            lorica_member_text(object, "name"), (long long)lorica_member_number(object, "days"),
            lorica_json_is_true(lorica_json_get(object, "default")) ? " (the default)" : "");
    lorica_json_destroy(object);
    return rc;
}

static int retention(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *days = NULL, *reason = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "days", .value = &days},
                                            {.name = "reason", .value = &reason},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    char path[PATH_BYTES];
    long long number = -1;
    if (lorica_cmd_options(COMMAND(RETENTION), argc, argv, options, COUNT(options), 1, 1) < 0 ||
        !lorica_cmd_adapter_name(COMMAND(RETENTION), argv[0]) ||
        (days && !lorica_cmd_integer("days", days, 0, LORICA_RETENTION_DAYS_MAX, &number)))
        return LORICA_EXIT_USAGE;
    if (reason && !days)
        return lorica_cmd_usage(COMMAND(RETENTION), "--reason goes with --days");
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/retention", argv[0]);
    const int rc = retention_with(client, path, number, reason, json);
    lorica_client_destroy(client);
    return rc;
}

/* Steps until nothing is left; adds up what they removed. */
static int sweep_all(struct lorica_client *client, struct lorica_sweep *sum,
                     struct lorica_error *err) {
    const struct lorica_client_request request = {.method = "POST", .path = "/v1/sweep"};
    bool more = true;
    while (more) {
        struct lorica_json *step = NULL;
        const int rc = lorica_client_call(client, &request, NULL, &step, err);
        if (rc != 0)
            return rc;
        sum->versions += (uint64_t)lorica_member_number(step, "versions");
        sum->contents += (uint64_t)lorica_member_number(step, "contents");
        sum->bytes += (uint64_t)lorica_member_number(step, "bytes");
        more = lorica_json_is_true(lorica_json_get(step, "has_more"));
        lorica_json_destroy(step);
    }
    return 0;
}

static int sweep(int argc, char **argv) {
    struct lorica_client_options where = {0};
    bool json = false;
    const struct lorica_option options[] = {{.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_sweep sum = {0};
    struct lorica_error err = {0};
    if (lorica_cmd_options(COMMAND(SWEEP), argc, argv, options, COUNT(options), 0, 0) < 0)
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    const int rc = sweep_all(client, &sum, &err);
    lorica_client_destroy(client);
    if (rc != 0)
        return lorica_cmd_fail(&err);
    (void)printf(json ? "{\"object\":\"sweep\",\"versions\":%" PRIu64 ",\"contents\":%" PRIu64
                        ",\"bytes\":%" PRIu64 "}\n"
                      : "%" PRIu64 " versions are swept: %" PRIu64 " pieces of content, %" PRIu64
                        " bytes\n",
                 sum.versions, sum.contents, sum.bytes);
    return LORICA_EXIT_OK;
}

#define REASON_HELP "--reason T\twhy, for the history\n"
#define JSON_HELP "--json\tprint the server's object as JSON\n"

const struct lorica_cmd lorica_cmd_retire[] = {
    [DELETE] =
        {.name = "adapter delete",
         .synopsis = "NAME@V [--reason T] [--json] " LORICA_CLIENT_SYNOPSIS,
         .summary = "take a version out of service",
         .help =
             "NAME@V\tthe version; refused while a channel points to it, a split sends "
             "requests to it, or a request under way is answered with it\n" REASON_HELP JSON_HELP
                 LORICA_CLIENT_HELP
             "Its number is never given again. The content stays until the adapter's retention is "
             "over (adapter retention), and adapter undelete takes the version back "
             "until then. What the history says of it stays for ever.\n",
         .run = delete_version},
    [UNDELETE] = {.name = "adapter undelete",
                  .synopsis = "NAME@V [--reason T] [--json] " LORICA_CLIENT_SYNOPSIS,
                  .summary = "take a deleted version back",
                  .help =
                      "NAME@V\tthe version; refused when its content was swept, or was "
                      "published again in the meantime\n" REASON_HELP JSON_HELP LORICA_CLIENT_HELP,
                  .run = undelete},
    [RETENTION] = {.name = "adapter retention",
                   .synopsis = "NAME [--days N [--reason T]] [--json] " LORICA_CLIENT_SYNOPSIS,
                   .summary = "show or set how long the content of deleted versions stays",
                   .help = "NAME\tthe adapter\n"
                           "--days N\tdays from the deletion on, also for what is deleted "
                           "already; 7 where none was set, 0: until the next sweep\n" REASON_HELP
                               JSON_HELP LORICA_CLIENT_HELP
                           "The server sweeps when it starts and once an hour.\n",
                   .run = retention},
    [SWEEP] = {.name = "adapter sweep",
               .synopsis = "[--json] " LORICA_CLIENT_SYNOPSIS,
               .summary = "remove the content of deleted versions whose retention is over",
               .help = "--json\tprint what was removed as JSON\n" LORICA_CLIENT_HELP
                       "What the server does when it starts and once an hour. It takes a key with "
                       "the role admin.\n",
               .run = sweep},
};
const size_t lorica_cmd_retire_count = COUNT(lorica_cmd_retire);
