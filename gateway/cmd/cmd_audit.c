/* SPDX-License-Identifier: MIT
 * lorica audit: the chain of all that was done, page by page. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "proto/http_fields.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PATH_MAX_BYTES 8192
#define JSON_MAX (256 << 20)
#define PAGE 1000 /* records in one answer at most */

enum { CHECKPOINT, LIST };

/* The filters, as they stand in the query. */
struct wish {
    const char *adapter, *actor, *kind, *since, *until, *after, *before, *newest;
    long long count; /* of --newest; 0: all there are, the oldest first */
};

/* Where records go. */
struct target {
    struct lorica_table *table;
    struct lorica_jsonw *json;
    long long written;
};

static bool read_time(const char *name, const char *text) {
    int64_t ms;
    if (!text || lorica_http_time(text, &ms) == 0)
        return true;
    (void)lorica_cmd_usage(&lorica_cmd_audit[LIST],
                           "--%s must be a time such as 2026-03-01T09:30:00Z, a date, or Unix "
                           "milliseconds, not \"%.60s\"",
                           name, text);
    return false;
}

static bool read_wish(struct wish *wish) {
    long long ignored;
    return read_time("since", wish->since) && read_time("until", wish->until) &&
           (!wish->after || lorica_cmd_integer("after", wish->after, 0, 1LL << 53, &ignored)) &&
           (!wish->before || lorica_cmd_integer("before", wish->before, 1, 1LL << 53, &ignored)) &&
           (!wish->newest || lorica_cmd_integer("newest", wish->newest, 1, 1000000, &wish->count));
}

static void add(struct lorica_buf *path, const char *name, const char *text) {
    if (!text)
        return;
    lorica_buf_printf(path, "&%s=", name);
    lorica_http_escape(path, text, strlen(text));
}

/* The path of a page; `cursor` stands for --after, or with --newest for --before, once there was a
 * page. */
static void write_path(const struct wish *wish, const char *cursor, long long limit,
                       struct lorica_buf *path) {
    lorica_buf_clear(path);
    lorica_buf_printf(path, "/v1/audit?limit=%lld%s", limit, wish->count ? "&order=desc" : "");
    add(path, "adapter", wish->adapter);
    add(path, "actor", wish->actor);
    add(path, "kind", wish->kind);
    add(path, "since", wish->since);
    add(path, "until", wish->until);
    add(path, "after", wish->count || !cursor ? wish->after : cursor);
    add(path, "before", wish->count && cursor ? cursor : wish->before);
}

static void number_cell(struct lorica_table *table, const struct lorica_json *item,
                        const char *key) {
    const int64_t number = lorica_member_number(item, key);
    if (number > 0)
        lorica_table_number(table, number);
    else
        lorica_table_text(table, "-");
}

static void write_record(struct target *target, const struct lorica_json *item) {
    target->written++;
    if (target->json) {
        lorica_jsonw_value(target->json, NULL, item);
        return;
    }
    struct lorica_table *table = target->table;
    const char *name = lorica_member_text(item, "name");
    const char *channel = lorica_member_text(item, "channel");
    lorica_table_number(table, lorica_member_number(item, "seq"));
    lorica_table_time(table, lorica_member_number(item, "time"));
    lorica_table_text(table, lorica_member_text(item, "actor"));
    lorica_table_text(table, lorica_member_text(item, "kind"));
    lorica_table_text(table, *name ? name : "-");
    lorica_table_text(table, *channel ? channel : "-");
    number_cell(table, item, "version");
    number_cell(table, item, "previous");
    lorica_table_text(table, lorica_member_text(item, "message"));
}

/* Takes one page; *ret_more with the cursor of the next one in `cursor`. */
static int take_page(struct lorica_client *client, const struct wish *wish, const char *path,
                     struct target *target, char cursor[32], bool *ret_more,
                     struct lorica_error *err) {
    const struct lorica_client_request request = {.path = path};
    struct lorica_json *page = NULL;
    int64_t next = 0;
    int rc = lorica_client_call(client, &request, NULL, &page, err);
    const struct lorica_json *data = lorica_json_get(page, "data");
    if (rc == 0 && lorica_json_type(data) != LORICA_JSON_ARRAY)
        rc = lorica_fail(err, LORICA_EFORMAT, "%s answered with no list",
                         lorica_client_server(client));
    for (const struct lorica_json *item = rc == 0 ? lorica_json_first(data) : NULL; item;
         item = lorica_json_next(item))
        write_record(target, item);
    *ret_more = rc == 0 && lorica_json_is_true(lorica_json_get(page, "has_more"));
    if (*ret_more && lorica_json_integer(lorica_json_get(lorica_json_get(page, "next"),
                                                         wish->count ? "before" : "after"),
                                         0, INT64_MAX, &next) != 0)
        rc = lorica_fail(err, LORICA_EFORMAT, "%s says that there is more, but not from where",
                         lorica_client_server(client));
    (void)snprintf(cursor, 32, "%lld", (long long)next);
    lorica_json_destroy(page);
    return rc;
}

static int take_all(struct lorica_client *client, const struct wish *wish, struct target *target,
                    struct lorica_error *err) {
    struct lorica_buf path;
    char cursor[32] = "";
    bool more = true;
    int rc = 0;
    lorica_buf_init(&path, PATH_MAX_BYTES);
    while (rc == 0 && more && (!wish->count || target->written < wish->count)) {
        const long long left = wish->count ? wish->count - target->written : PAGE;
        write_path(wish, *cursor ? cursor : NULL, left < PAGE ? left : PAGE, &path);
        rc = lorica_buf_status(&path) == 0
                 ? take_page(client, wish, path.data, target, cursor, &more, err)
                 : lorica_fail(err, LORICA_ELIMIT, "the filters are too long");
    }
    lorica_buf_finish(&path);
    return rc;
}

static int print_json(struct lorica_client *client, const struct wish *wish,
                      struct lorica_error *err) {
    struct lorica_buf out;
    lorica_buf_init(&out, JSON_MAX);
    struct lorica_jsonw w = {.out = &out};
    struct target target = {.json = &w};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "list");
    lorica_jsonw_array(&w, "data");
    int rc = take_all(client, wish, &target, err);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_bool(&w, "has_more", false);
    lorica_jsonw_end_object(&w);
    if (rc == 0 && lorica_buf_status(&out) != 0)
        rc = lorica_fail(err, lorica_buf_status(&out), "there are too many records; ask for fewer");
    if (rc == 0)
        (void)printf("%s\n", out.data);
    lorica_buf_finish(&out);
    return rc;
}

static int print_table(struct lorica_client *client, const struct wish *wish,
                       struct lorica_error *err) {
    static const char *const headings[] = {"SEQ",     "TIME",    "WHO",    "WHAT",    "NAME",
                                           "CHANNEL", "VERSION", "BEFORE", "MESSAGE", NULL};
    struct target target = {.table = lorica_table_create(headings)};
    int rc = target.table ? take_all(client, wish, &target, err)
                          : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && !lorica_table_print(target.table, stdout))
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    lorica_table_destroy(target.table);
    return rc;
}

static int run_list(int argc, char **argv) {
    struct lorica_client_options where = {0};
    struct wish wish = {0};
    bool json = false;
    struct lorica_error err = {0};
    struct lorica_client *client = NULL;
    const struct lorica_option options[] = {{.name = "adapter", .value = &wish.adapter},
                                            {.name = "actor", .value = &wish.actor},
                                            {.name = "kind", .value = &wish.kind},
                                            {.name = "since", .value = &wish.since},
                                            {.name = "until", .value = &wish.until},
                                            {.name = "after", .value = &wish.after},
                                            {.name = "before", .value = &wish.before},
                                            {.name = "newest", .value = &wish.newest},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    if (lorica_cmd_options(&lorica_cmd_audit[LIST], argc, argv, options, COUNT(options), 0, 0) <
            0 ||
        !read_wish(&wish))
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    const int rc = json ? print_json(client, &wish, &err) : print_table(client, &wish, &err);
    lorica_client_destroy(client);
    return rc == 0 ? LORICA_EXIT_OK : lorica_cmd_fail(&err);
}

static int run_checkpoint(int argc, char **argv) {
    struct lorica_client_options where = {0};
    struct lorica_error err = {0};
    struct lorica_client *client = NULL;
    struct lorica_json *checkpoint = NULL;
    const struct lorica_client_request request = {.path = "/v1/audit/checkpoint"};
    const struct lorica_option options[] = {LORICA_CLIENT_OPTIONS(where)};
    if (lorica_cmd_options(&lorica_cmd_audit[CHECKPOINT], argc, argv, options, COUNT(options), 0,
                           0) < 0)
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    int rc = lorica_client_call(client, &request, NULL, &checkpoint, &err);
    lorica_client_destroy(client);
    rc = rc == 0 ? lorica_client_print_json(checkpoint) : lorica_cmd_fail(&err);
    lorica_json_destroy(checkpoint);
    return rc;
}

const struct lorica_cmd lorica_cmd_audit[] = {
    [CHECKPOINT] =
        {.name = "audit checkpoint",
         .synopsis = LORICA_CLIENT_SYNOPSIS,
         .summary = "note where the audit chain stands, to be kept elsewhere",
         .help = "Prints a small JSON file: number and hash of the last audit record, and hashes "
                 "on the way there. Keep it where those who can write the registry's files cannot "
                 "reach it: `lorica verify --checkpoint FILE` says later whether the chain still "
                 "contains it, or where its history was rewritten. It proves nothing when it lies "
                 "beside the registry. It is signed with the key of the server's receipts. Takes a "
                 "key of the role ops.\n" LORICA_CLIENT_HELP,
         .run = run_checkpoint},
    [LIST] =
        {.name = "audit",
         .synopsis = "[--adapter NAME] [--actor KEY] [--kind KIND] [--since TIME] [--until TIME] "
                     "[--after SEQ] [--before SEQ] [--newest N] [--json] " LORICA_CLIENT_SYNOPSIS,
         .summary = "who did what, and who was refused what",
         .help =
             "Prints the records of the audit chain, the oldest first, all that match. Takes a "
             "key of the role ops; one that is held to some adapters sees theirs.\n"
             "--adapter NAME\tof one adapter\n"
             "--actor KEY\tby the key of this name; \"auto\" and \"server\" are the server\n"
             "--kind KIND\tpublish, promote, rollback, delete, undelete, sweep, split, policy, "
             "approve, retention, key-create, key-revoke, refused, ...\n"
             "--since TIME\tmade then or later. A time is one of RFC 3339 (2026-03-01T09:30:00Z, "
             "2026-03-01T10:30:00+01:00), a date for its beginning in UTC, or Unix milliseconds\n"
             "--until TIME\tmade before then\n"
             "--after SEQ\twith a higher number\n"
             "--before SEQ\twith a lower number\n"
             "--newest N\tthe last N that match, the newest first\n"
             "--json\tprint a JSON list with everything that the records hold\n" LORICA_CLIENT_HELP,
         .run = run_list},
};
const size_t lorica_cmd_audit_count = COUNT(lorica_cmd_audit);
