/* SPDX-License-Identifier: MIT
 * lorica adapter policy, approve: what a channel demands of a promote, and who approved of one. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "proto/checks.h"
#include "registry/policy.h"

enum { POLICY, APPROVE };

#define COMMAND(which) (&lorica_cmd_policy[which])
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PATH_BYTES 512 /* a name and a channel fit */
#define BODY_MAX (65536 + LORICA_CHECKS_BYTES)

/* The options of `adapter policy` as given; NULL: not given. */
struct demands {
    const char *approvals, *min_role, *max_rank, *max_mb, *eval_set, *margin;
    const char *checks; /* file */
    bool must_sign, need_not_sign, no_checks, clear;
};

static bool any_given(const struct demands *d) {
    return d->clear || d->approvals || d->min_role || d->max_rank || d->max_mb || d->eval_set ||
           d->margin || d->must_sign || d->need_not_sign || d->checks || d->no_checks;
}

/* The policy that the server has. */
static void read_present(const struct lorica_json *object, struct lorica_policy *ret) {
    const struct lorica_json *policy = lorica_json_get(object, "policy");
    const char *set = lorica_member_text(policy, "eval_set");
    const int role = lorica_role_parse(lorica_member_text(policy, "min_role"));
    *ret = (struct lorica_policy){
        .approvals = (uint32_t)lorica_member_number(policy, "approvals"),
        .min_role = role < 0 ? LORICA_ROLE_INFER : (enum lorica_role)role,
        .max_rank = (uint32_t)lorica_member_number(policy, "max_rank"),
        .max_nbytes = (uint64_t)lorica_member_number(policy, "max_bytes"),
        .max_worse = lorica_json_number(lorica_json_get(policy, "max_worse"), 0),
        .trusted_signature = lorica_json_is_true(lorica_json_get(policy, "signed")),
        .checks = (uint32_t)lorica_member_number(policy, "checks"),
    };
    if (lorica_eval_set_valid(set))
        memcpy(ret->eval_set, set, strlen(set) + 1);
}

/* Changes what the options name; false: printed why. */
static bool apply(const struct demands *d, struct lorica_policy *policy) {
    const struct lorica_cmd *cmd = COMMAND(POLICY);
    long long n = 0;
    if (d->clear)
        *policy = (struct lorica_policy){0};
    if (d->approvals) {
        if (!lorica_cmd_integer("approvals", d->approvals, 0, LORICA_APPROVALS_MAX, &n))
            return false;
        policy->approvals = (uint32_t)n;
    }
    if (d->max_rank) {
        if (!lorica_cmd_integer("max-rank", d->max_rank, 0, INT_MAX, &n))
            return false;
        policy->max_rank = (uint32_t)n;
    }
    if (d->max_mb) {
        if (!lorica_cmd_integer("max-mb", d->max_mb, 0, 2048, &n))
            return false;
        policy->max_nbytes = (uint64_t)n << 20;
    }
    if (d->min_role) {
        const int role = lorica_role_parse(d->min_role);
        if (role < 0) {
            (void)lorica_cmd_usage(cmd, "there is no role \"%.100s\"", d->min_role);
            return false;
        }
        policy->min_role = (enum lorica_role)role;
    }
    if (d->eval_set && d->eval_set[0] && !lorica_eval_set_valid(d->eval_set)) {
        (void)lorica_cmd_usage(cmd, "\"%.150s\" is no evaluation set's name", d->eval_set);
        return false;
    }
    if (d->eval_set) {
        memcpy(policy->eval_set, d->eval_set, strlen(d->eval_set) + 1);
        policy->max_worse = 0;
    }
    if (d->must_sign || d->need_not_sign)
        policy->trusted_signature = d->must_sign;
    return !d->margin || lorica_cmd_number("margin", d->margin, 0, 1e9, &policy->max_worse);
}

static void print_policy(const struct lorica_json *object) {
    struct lorica_policy p;
    const char *name = lorica_member_text(object, "name");
    const char *channel = lorica_member_text(object, "channel");
    read_present(object, &p);
    (void)printf("%s:%s (policy epoch %lld)\n", name, channel,
                 (long long)lorica_member_number(object, "epoch"));
    if (p.approvals > 1)
        (void)printf("  %u keys must want it\n", p.approvals);
    if (p.min_role > LORICA_ROLE_INFER)
        (void)printf("  whoever promotes has the role %s or above\n", lorica_role_name(p.min_role));
    if (p.max_rank)
        (void)printf("  rank at most %u\n", p.max_rank);
    if (p.max_nbytes)
        (void)printf("  weights of at most %llu bytes\n", (unsigned long long)p.max_nbytes);
    if (p.eval_set[0])
        (void)printf("  loss on %s no more than %g above the present version's\n", p.eval_set,
                     p.max_worse);
    if (p.trusted_signature)
        (void)printf("  signed by a trusted key (lorica signer list)\n");
    if (p.checks)
        (void)printf("  %u prompts are answered well (--json shows them)\n", p.checks);
    if (p.approvals < 2 && p.min_role == LORICA_ROLE_INFER && !p.max_rank && !p.max_nbytes &&
        !p.eval_set[0] && !p.trusted_signature && !p.checks)
        (void)printf("  nothing is demanded\n");
}

/* Sends a policy; *ret gets the server's object. */
static int put_policy(struct lorica_client *client, const char *path,
                      const struct lorica_policy *policy, const char *checks, const char *message,
                      int64_t epoch, struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf body;
    char if_match[32];
    (void)snprintf(if_match, sizeof(if_match), "%lld", (long long)epoch);
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_integer(&w, "approvals", policy->approvals);
    lorica_jsonw_string(&w, "min_role", lorica_role_name(policy->min_role));
    lorica_jsonw_integer(&w, "max_rank", policy->max_rank);
    lorica_jsonw_integer(&w, "max_bytes", (int64_t)policy->max_nbytes);
    lorica_jsonw_string(&w, "eval_set", policy->eval_set[0] ? policy->eval_set : NULL);
    lorica_jsonw_number(&w, "max_worse", policy->max_worse);
    lorica_jsonw_bool(&w, "signed", policy->trusted_signature);
    if (checks)
        lorica_jsonw_raw(&w, "checks", checks, strlen(checks));
    if (message)
        lorica_jsonw_string(&w, "message", message);
    lorica_jsonw_end_object(&w);
    const struct lorica_client_request request = {
        .method = "PUT", .path = path, .if_match = if_match};
    return lorica_client_send(client, &request, &body, "message", ret, err);
}

/* The checks that the policy is to have, as JSON, or "" for none: those of the file, or those it
 * has.
 */
static int choose_checks(const struct demands *d, const struct lorica_json *present,
                         struct lorica_buf *out, struct lorica_error *err) {
    struct lorica_checks checks = {.count = 0};
    const struct lorica_json *list = lorica_json_get(present, "checks");
    int rc = 0;
    if (d->checks) {
        rc = lorica_checks_read_file(d->checks, &checks, err);
        if (rc == 0)
            (void)lorica_buf_append(out, checks.text.data, checks.text.len);
        lorica_checks_finish(&checks);
    } else if (!d->clear && !d->no_checks && lorica_json_type(list) == LORICA_JSON_ARRAY) {
        (void)lorica_json_write(out, list);
    }
    if (rc == 0 && lorica_buf_status(out) != 0)
        rc = lorica_fail(err, lorica_buf_status(out), "the checks are too long");
    return rc;
}

/* Shows the policy, or changes it; an enum lorica_exit. */
static int policy_with(struct lorica_client *client, const char *path, const struct demands *d,
                       const char *message, bool json) {
    const struct lorica_client_request get = {.path = path};
    struct lorica_json *present = NULL, *object = NULL;
    struct lorica_policy policy;
    struct lorica_error err = {0};
    int rc = lorica_client_call(client, &get, NULL, &present, &err);
    if (rc != 0)
        return lorica_cmd_fail(&err);
    read_present(present, &policy);
    if (any_given(d)) {
        const int64_t epoch = lorica_member_number(present, "epoch");
        const bool valid = apply(d, &policy);
        struct lorica_buf checks;
        lorica_buf_init(&checks, LORICA_CHECKS_BYTES);
        rc = choose_checks(d, present, &checks, &err);
        lorica_json_destroy(present);
        if (rc == 0 && valid)
            rc = put_policy(client, path, &policy, checks.data, message, epoch, &object, &err);
        lorica_buf_finish(&checks);
        if (!valid)
            return LORICA_EXIT_USAGE;
        if (rc != 0)
            return lorica_cmd_fail(&err);
    } else {
        object = present;
    }
    if (json)
        rc = lorica_client_print_json(object);
    else
        print_policy(object);
    lorica_json_destroy(object);
    return rc;
}

static int policy(int argc, char **argv) {
    struct lorica_client_options where = {0};
    struct demands d = {0};
    const char *channel = LORICA_CHANNEL_STABLE, *message = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "channel", .value = &channel},
                                            {.name = "approvals", .value = &d.approvals},
                                            {.name = "min-role", .value = &d.min_role},
                                            {.name = "max-rank", .value = &d.max_rank},
                                            {.name = "max-mb", .value = &d.max_mb},
                                            {.name = "eval", .value = &d.eval_set},
                                            {.name = "margin", .value = &d.margin},
                                            {.name = "signed", .flag = &d.must_sign},
                                            {.name = "unsigned", .flag = &d.need_not_sign},
                                            {.name = "checks", .value = &d.checks},
                                            {.name = "no-checks", .flag = &d.no_checks},
                                            {.name = "clear", .flag = &d.clear},
                                            {.name = "message", .value = &message},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_policy probe = {0};
    char path[PATH_BYTES];
    if (lorica_cmd_options(COMMAND(POLICY), argc, argv, options, COUNT(options), 1, 1) < 0 ||
        !lorica_cmd_adapter_name(COMMAND(POLICY), argv[0]) ||
        !lorica_cmd_channel_name(COMMAND(POLICY), channel) || !apply(&d, &probe))
        return LORICA_EXIT_USAGE;
    if (d.must_sign && d.need_not_sign)
        return lorica_cmd_usage(COMMAND(POLICY), "--signed and --unsigned exclude each other");
    if (d.checks && d.no_checks)
        return lorica_cmd_usage(COMMAND(POLICY), "--checks and --no-checks exclude each other");
    if (message && !any_given(&d))
        return lorica_cmd_usage(COMMAND(POLICY), "--message goes with a change");
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/channels/%s/policy", argv[0], channel);
    const int rc = policy_with(client, path, &d, message, json);
    lorica_client_destroy(client);
    return rc;
}

static int send_approval(struct lorica_client *client, const char *path, long long version,
                         const char *reason, struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_integer(&w, "version", version);
    if (reason)
        lorica_jsonw_string(&w, "reason", reason);
    lorica_jsonw_end_object(&w);
    const struct lorica_client_request request = {.method = "POST", .path = path};
    return lorica_client_send(client, &request, &body, "reason", ret, err);
}

static void approval_row(struct lorica_table *table, const struct lorica_json *item) {
    lorica_table_number(table, lorica_member_number(item, "version"));
    lorica_table_text(table, lorica_member_text(item, "given_by"));
    lorica_table_time(table, lorica_member_number(item, "given"));
    lorica_table_text(table, lorica_member_text(item, "message"));
}

/* Approves, or lists where no version is named. */
static int approve_with(struct lorica_client *client, const char *path, long long version,
                        const char *reason, bool json) {
    static const char *const headings[] = {"VERSION", "WHO", "TIME", "REASON", NULL};
    struct lorica_json *approval = NULL;
    struct lorica_error err = {0};
    int rc = LORICA_EXIT_OK;
    if (version == 0)
        return lorica_client_print_list(client, path, NULL, json, headings, approval_row);
    if (send_approval(client, path, version, reason, &approval, &err) != 0)
        return lorica_cmd_fail(&err);
    if (json)
        rc = lorica_client_print_json(approval);
    else
        (void)printf("%s approves that %s:%s answers with version %lld\n",
                     lorica_member_text(approval, "given_by"), lorica_member_text(approval, "name"),
                     lorica_member_text(approval, "channel"), version);
    lorica_json_destroy(approval);
    return rc;
}

static int approve(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *channel = LORICA_CHANNEL_STABLE, *reason = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "channel", .value = &channel},
                                            {.name = "reason", .value = &reason},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    char path[PATH_BYTES], name[LORICA_NAME_MAX + 1];
    long long version = 0;
    if (lorica_cmd_options(COMMAND(APPROVE), argc, argv, options, COUNT(options), 1, 1) < 0 ||
        !lorica_cmd_channel_name(COMMAND(APPROVE), channel))
        return LORICA_EXIT_USAGE;
    if (strchr(argv[0], '@')
            ? !lorica_cmd_adapter_version(COMMAND(APPROVE), argv[0], name, &version)
            : !lorica_cmd_adapter_name(COMMAND(APPROVE), argv[0]))
        return LORICA_EXIT_USAGE;
    if (reason && version == 0)
        return lorica_cmd_usage(COMMAND(APPROVE), "--reason goes with NAME@V");
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/channels/%s/approvals",
                   version ? name : argv[0], channel);
    const int rc = approve_with(client, path, version, reason, json);
    lorica_client_destroy(client);
    return rc;
}

const struct lorica_cmd lorica_cmd_policy[] = {
    [POLICY] =
        {.name = "adapter policy",
         .synopsis = "NAME [--channel C] [--approvals N] [--min-role R] [--max-rank R] "
                     "[--max-mb M] [--eval SET [--margin X]] [--signed|--unsigned] "
                     "[--checks FILE|--no-checks] [--clear] "
                     "[--message TEXT] "
                     "[--json] " LORICA_CLIENT_SYNOPSIS,
         .summary = "show or set what a channel demands of a promote",
         .help =
             "NAME\tthe adapter. Without a demand its channel's policy is shown. What is not named "
             "stays as it is; 0, infer or an empty SET takes a demand away\n"
             "--channel C\tthe channel; stable where none is named\n"
             "--approvals N\tN distinct keys must want a promote: those that approved of it "
             "(adapter approve) and the one that promotes\n"
             "--min-role R\tthe key that promotes needs the role publish, ops or admin\n"
             "--max-rank R\tlargest rank\n"
             "--max-mb M\tlargest weights, in MiB\n"
             "--eval SET\tthe version's manifest must state its loss on SET, no more than the "
             "margin above that of the version that the channel points to, where that states one: "
             "{\"evals\":{\"SET\":1.25}}\n"
             "--margin X\tthe margin; 0 otherwise\n"
             "--signed\tthe version must be signed by a key that is trusted when the channel moves "
             "(lorica signer)\n"
             "--unsigned\tit need not be\n"
             "--checks FILE\tthe version must answer these prompts well, which the server asks it "
             "before the channel moves: a line of JSON each (adapter check)\n"
             "--no-checks\tno prompts are asked any more\n"
             "--clear\tfirst take every demand away\n"
             "--message TEXT\twhy, for the history\n"
             "--json\tprint the server's object as JSON\n" LORICA_CLIENT_HELP
             "A change takes a key with the role admin. Publishing with --channel passes the same "
             "gates as a promote; a rollback passes none.\n",
         .run = policy},
    [APPROVE] = {.name = "adapter approve",
                 .synopsis = "NAME[@V] [--channel C] [--reason T] [--json] " LORICA_CLIENT_SYNOPSIS,
                 .summary = "approve of a promote to come, or list who does",
                 .help = "NAME@V\tthe version that the channel should point to\n"
                         "NAME\tlist the approvals that stand\n"
                         "--channel C\tthe channel; stable where none is named\n"
                         "--reason T\twhy, for the history\n"
                         "--json\tprint the server's objects as JSON\n" LORICA_CLIENT_HELP
                         "Any move of the channel voids its approvals; so does revoking the key "
                         "that gave one.\n",
                 .run = approve},
};
const size_t lorica_cmd_policy_count = COUNT(lorica_cmd_policy);
