/* SPDX-License-Identifier: MIT
 * lorica adapter split: a share of stable's traffic for a canary. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "registry/split.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PATH_BYTES 512 /* a name fits */
#define BODY_MAX 65536

/* What the command line asks for; NULL: not given. */
struct wish {
    const char *canary, *percent, *epoch, *reason, *message;
    const char *window, *min_requests, *max_errors, *max_latency;
    bool end;
    long long version; /* of the canary; 0: show or end */
    double number;     /* percent */
    long long seconds, requests;
    double errors, latency;
};

/* Reads the words; false: printed why. */
static bool read_wish(struct wish *wish) {
    const struct lorica_cmd *cmd = &lorica_cmd_split;
    const char *version = wish->canary;
    long long epoch = 0;
    const bool set = wish->message || wish->window || wish->min_requests || wish->max_errors ||
                     wish->max_latency;
    const bool fits = wish->end ? !wish->canary && !wish->percent && !set
                                : !wish->reason && !wish->canary == !wish->percent &&
                                      (wish->canary || (!set && !wish->epoch));
    if (!fits) {
        (void)lorica_cmd_usage(cmd, "--canary and --percent go together, --message and what ends "
                                    "the split with these; --reason goes with --end");
        return false;
    }
    if (wish->epoch && !lorica_cmd_integer("epoch", wish->epoch, 0, LLONG_MAX, &epoch))
        return false;
    if (!wish->canary)
        return true;
    version += *version == '@';
    return lorica_cmd_integer("canary", version, 1, LLONG_MAX, &wish->version) &&
           lorica_cmd_number("percent", wish->percent, 0.01, 100, &wish->number) &&
           (!wish->window || lorica_cmd_integer("window", wish->window, LORICA_SPLIT_WINDOW_MIN,
                                                LORICA_SPLIT_WINDOW_MAX, &wish->seconds)) &&
           (!wish->min_requests ||
            lorica_cmd_integer("min-requests", wish->min_requests, 1, LORICA_SPLIT_REQUESTS_MAX,
                               &wish->requests)) &&
           (!wish->max_errors ||
            lorica_cmd_number("max-errors", wish->max_errors, 0, 100, &wish->errors)) &&
           (!wish->max_latency ||
            lorica_cmd_number("max-latency", wish->max_latency, 0, 100, &wish->latency));
}

/* What the words leave out stays as it is, where the canary does. */
static void keep_present(struct wish *wish, const struct lorica_json *split) {
    const struct lorica_split_terms usual = lorica_split_defaults(1, 1);
    const bool same = lorica_member_number(split, "version") == wish->version;
    if (!wish->window)
        wish->seconds = same ? lorica_member_number(split, "window") : usual.window_s;
    if (!wish->min_requests)
        wish->requests = same ? lorica_member_number(split, "min_requests") : usual.min_requests;
    if (!wish->max_errors)
        wish->errors = same ? lorica_json_number(lorica_json_get(split, "max_error_excess"), 0)
                            : usual.max_error_excess / 100.0;
    if (!wish->max_latency)
        wish->latency = same ? lorica_json_number(lorica_json_get(split, "max_latency_ratio"), 0)
                             : usual.max_latency_ratio / 100.0;
}

/* Sends a change; *ret gets the server's object. */
static int send_wish(struct lorica_client *client, const char *path, const struct wish *wish,
                     const char *epoch, struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    if (!wish->end) {
        lorica_jsonw_integer(&w, "version", wish->version);
        lorica_jsonw_number(&w, "percent", wish->number);
        lorica_jsonw_integer(&w, "window", wish->seconds);
        lorica_jsonw_integer(&w, "min_requests", wish->requests);
        lorica_jsonw_number(&w, "max_error_excess", wish->errors);
        lorica_jsonw_number(&w, "max_latency_ratio", wish->latency);
    }
    if (wish->reason)
        lorica_jsonw_string(&w, "reason", wish->reason);
    if (wish->message)
        lorica_jsonw_string(&w, "message", wish->message);
    lorica_jsonw_end_object(&w);
    const struct lorica_client_request request = {
        .method = wish->end ? "DELETE" : "PUT", .path = path, .if_match = epoch};
    return lorica_client_send(client, &request, &body, wish->end ? "reason" : "message", ret, err);
}

static void print_split(const struct lorica_json *split) {
    const char *name = lorica_member_text(split, "name");
    const long long version = lorica_member_number(split, "version");
    const long long stable = lorica_member_number(split, "stable");
    const long long epoch = lorica_member_number(split, "epoch");
    const double latency = lorica_json_number(lorica_json_get(split, "max_latency_ratio"), 0);
    char started[32];
    if (version == 0) {
        (void)printf("%s has no split (epoch %lld)\n", name, epoch);
        return;
    }
    lorica_time_format(lorica_member_number(split, "started"), started);
    (void)printf("%s: %g %% of the requests for stable, which is version %lld, go to version %lld "
                 "(epoch %lld)\n",
                 name, lorica_json_number(lorica_json_get(split, "percent"), 0), stable, version,
                 epoch);
    (void)printf("  ended when, in %lld s and at least %lld requests%s, %g %% more of them fail",
                 (long long)lorica_member_number(split, "window"),
                 (long long)lorica_member_number(split, "min_requests"),
                 lorica_json_number(lorica_json_get(split, "percent"), 0) < 100 ? " on each side"
                                                                                : "",
                 lorica_json_number(lorica_json_get(split, "max_error_excess"), 0));
    if (latency > 0)
        (void)printf(" or the canary takes over %g times as long", latency);
    (void)printf("\n  since %s, last changed by %s\n", started,
                 lorica_member_text(split, "changed_by"));
}

/* Shows the split, or changes it first; an enum lorica_exit. */
static int split_with(struct lorica_client *client, const char *path, struct wish *wish,
                      bool json) {
    const struct lorica_client_request get = {.path = path};
    struct lorica_json *split = NULL, *changed = NULL;
    struct lorica_error err = {0};
    char present[32];
    int rc = lorica_client_call(client, &get, NULL, &split, &err);
    if (rc != 0)
        return lorica_cmd_fail(&err);
    if (wish->end || wish->canary) {
        keep_present(wish, split);
        (void)snprintf(present, sizeof(present), "%lld",
                       (long long)lorica_member_number(split, "epoch"));
        rc = send_wish(client, path, wish, wish->epoch ? wish->epoch : present, &changed, &err);
        lorica_json_destroy(split);
        if (rc != 0)
            return lorica_cmd_fail(&err);
        split = changed;
    }
    if (json)
        rc = lorica_client_print_json(split);
    else
        print_split(split);
    lorica_json_destroy(split);
    return rc;
}

static int split(int argc, char **argv) {
    struct lorica_client_options where = {0};
    struct wish wish = {0};
    bool json = false;
    const struct lorica_option options[] = {{.name = "canary", .value = &wish.canary},
                                            {.name = "percent", .value = &wish.percent},
                                            {.name = "epoch", .value = &wish.epoch},
                                            {.name = "message", .value = &wish.message},
                                            {.name = "window", .value = &wish.window},
                                            {.name = "min-requests", .value = &wish.min_requests},
                                            {.name = "max-errors", .value = &wish.max_errors},
                                            {.name = "max-latency", .value = &wish.max_latency},
                                            {.name = "end", .flag = &wish.end},
                                            {.name = "reason", .value = &wish.reason},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    char path[PATH_BYTES];
    if (lorica_cmd_options(&lorica_cmd_split, argc, argv, options, COUNT(options), 1, 1) < 0 ||
        !lorica_cmd_adapter_name(&lorica_cmd_split, argv[0]) || !read_wish(&wish))
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/split", argv[0]);
    const int rc = split_with(client, path, &wish, json);
    lorica_client_destroy(client);
    return rc;
}

const struct lorica_cmd lorica_cmd_split = {
    .name = "adapter split",
    .synopsis = "NAME [--canary @V --percent P [--window S] [--min-requests N] [--max-errors P] "
                "[--max-latency R] [--message TEXT] | --end [--reason T]] "
                "[--epoch N] [--json] " LORICA_CLIENT_SYNOPSIS,
    .summary = "give a canary a share of stable's traffic, end that, or show it",
    .help = "NAME\tthe adapter; without --canary and --end its split is shown\n"
            "--canary @V\tthe version that gets a share of the requests for NAME and NAME:stable\n"
            "--percent P\tthe share: 0.01 to 100, in steps of 0.01\n"
            "--window S\tthe split ends by itself for what happened in the last S seconds; 300 "
            "where nothing else was said\n"
            "--min-requests N\tbut not before N requests on each side; 50. With 100 percent, where "
            "stable has none, failures are counted by themselves\n"
            "--max-errors P\tit ends when more than P percent more of the requests fail at the "
            "canary than at stable; 2. 100: never for that\n"
            "--max-latency R\tand when the median time to the first token, or for each further "
            "one, is over R times stable's; 1.5. 0: never for that\n"
            "--message TEXT\twhy, for the history\n"
            "--end\tend the split: stable answers all requests\n"
            "--reason T\twhy it ends, for the history\n"
            "--epoch N\tonly if the split's epoch still is N; otherwise the epoch is read just "
            "before\n"
            "--json\tprint the server's object as JSON\n" LORICA_CLIENT_HELP
            "Who asks (the request's \"user\", or else its key's name) always gets the same side, "
            "and keeps the canary when the share grows. The canary must pass what stable demands "
            "of a promote (adapter policy). Promoting or rolling back stable ends the split.\n",
    .run = split};
