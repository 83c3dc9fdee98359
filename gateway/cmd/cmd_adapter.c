/* SPDX-License-Identifier: MIT
 * lorica adapter: the registry of a running server, through its API. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/cmd/model_dir.h"
#include "registry/sign.h"

enum { PUBLISH, LIST, SHOW, HISTORY, PROMOTE, ROLLBACK, EXPORT };

#define COMMAND(which) (&lorica_cmd_adapter[which])
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PATH_BYTES 512 /* a name, a channel and a number fit */
#define BODY_MAX 65536
#define SHOW_MAX (64 << 20) /* a version with all its signatures */

bool lorica_cmd_adapter_name(const struct lorica_cmd *cmd, const char *name) {
    if (lorica_name_valid(name))
        return true;
    (void)lorica_cmd_usage(cmd, "\"%.150s\" is no adapter name", name);
    return false;
}

bool lorica_cmd_channel_name(const struct lorica_cmd *cmd, const char *channel) {
    if (!channel || lorica_channel_valid(channel))
        return true;
    (void)lorica_cmd_usage(cmd, "\"%.150s\" is no channel name", channel);
    return false;
}

/* The server's base. */
static int base_of_server(struct lorica_client *client, struct lorica_digest *ret,
                          struct lorica_error *err) {
    const struct lorica_client_request request = {.path = "/v1/models/base"};
    struct lorica_json *base = NULL;
    int rc = lorica_client_call(client, &request, NULL, &base, err);
    const char *text = lorica_member_text(base, "base_digest");
    if (rc == 0 && lorica_digest_parse(text, strlen(text), ret) != 0)
        rc = lorica_fail(err, LORICA_EFORMAT, "the server does not say which base it has");
    lorica_json_destroy(base);
    return rc;
}

/* The signature that goes along: made with a key, or read from a file. */
static int make_signature(struct lorica_client *client, char **argv, const char *key_path,
                          const char *path, struct lorica_buf *out, struct lorica_error *err) {
    struct lorica_signkey *key = NULL;
    struct lorica_digest base;
    char *text = NULL;
    size_t len = 0;
    int rc = 0;
    if (path) {
        rc = lorica_file_read(path, LORICA_SIGNATURE_BYTES_MAX, &text, &len, err);
        if (rc == 0 && lorica_buf_append(out, text, len) != 0)
            rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
        free(text);
        return rc;
    }
    rc = lorica_key_file_private(key_path, &key, err);
    if (rc == 0)
        rc = lorica_adapter_base(argv[1], &base, err);
    if (rc == LORICA_ENOTFOUND && key)
        rc = base_of_server(client, &base, err);
    if (rc == 0)
        rc = lorica_adapter_sign(argv[1], argv[0], &base, key, out, err);
    lorica_signkey_destroy(key);
    return rc;
}

static int publish(int argc, char **argv) {
    struct lorica_client_options where = {0};
    struct lorica_client_words words = {.channel = NULL};
    const char *key = NULL, *signature = NULL;
    bool json = false, existing = false;
    const struct lorica_option options[] = {
        {.name = "channel", .value = &words.channel},
        {.name = "message", .value = &words.message},
        {.name = "trained-on-other-base", .flag = &words.other_base},
        {.name = "sign", .value = &key},
        {.name = "signature", .value = &signature},
        {.name = "json", .flag = &json},
        LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_json *version = NULL;
    struct lorica_buf text;
    struct lorica_error err = {0};
    if (lorica_cmd_options(COMMAND(PUBLISH), argc, argv, options, COUNT(options), 2, 2) < 0 ||
        !lorica_cmd_adapter_name(COMMAND(PUBLISH), argv[0]) ||
        !lorica_cmd_channel_name(COMMAND(PUBLISH), words.channel))
        return LORICA_EXIT_USAGE;
    if (key && signature)
        return lorica_cmd_usage(COMMAND(PUBLISH), "--sign and --signature exclude each other");
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    lorica_buf_init(&text, LORICA_SIGNATURE_BYTES_MAX);
    int rc = key || signature ? make_signature(client, argv, key, signature, &text, &err) : 0;
    words.signature = text.data;
    if (rc == 0)
        rc = lorica_client_publish(client, argv[0], argv[1], &words, &version, &existing, &err);
    lorica_buf_finish(&text);
    if (rc != 0)
        rc = lorica_cmd_fail(&err);
    else if (json)
        rc = lorica_client_print_json(version);
    else
        (void)printf("%s@%lld %s%s%s (%s)%s\n", argv[0],
                     (long long)lorica_member_number(version, "version"),
                     existing ? "was published before with this very content" : "is published",
                     words.channel ? " and answers for channel " : "",
                     words.channel ? words.channel : "", lorica_member_text(version, "digest"),
                     existing ? "; its manifest and message stay what they were" : "");
    lorica_json_destroy(version);
    lorica_client_destroy(client);
    return rc;
}

static void list_row(struct lorica_table *table, const struct lorica_json *item) {
    struct lorica_buf channels;
    lorica_buf_init(&channels, BODY_MAX);
    const struct lorica_json *channel = lorica_json_first(lorica_json_get(item, "channels"));
    for (; channel; channel = lorica_json_next(channel))
        if (lorica_member_number(channel, "version") > 0)
            (void)lorica_buf_printf(&channels, "%s%s@%lld", channels.len > 0 ? " " : "",
                                    lorica_member_text(channel, "channel"),
                                    (long long)lorica_member_number(channel, "version"));
    lorica_table_text(table, lorica_member_text(item, "name"));
    lorica_table_number(table, lorica_member_number(item, "latest"));
    lorica_table_text(table, channels.len > 0 ? channels.data : "-");
    lorica_buf_finish(&channels);
}

static int list(int argc, char **argv) {
    static const char *const headings[] = {"NAME", "LATEST", "CHANNELS", NULL};
    return lorica_client_list_command(COMMAND(LIST), argc, argv, "/v1/adapters", "name", headings,
                                      list_row);
}

/* Prints one version, a line for each fact. */
static void print_version(const struct lorica_json *version) {
    static const char *const texts[] = {"digest",      "config_digest", "weights_digest",
                                        "base_digest", "created_by",    "message"};
    char created[32];
    lorica_time_format(lorica_member_number(version, "created"), created);
    (void)printf("%-16s%s@%lld\n", "version", lorica_member_text(version, "name"),
                 (long long)lorica_member_number(version, "version"));
    (void)printf("%-16s%s\n", "created", created);
    (void)printf("%-16s%lld\n", "rank", (long long)lorica_member_number(version, "rank"));
    (void)printf("%-16s%lld\n", "config_bytes",
                 (long long)lorica_member_number(version, "config_bytes"));
    (void)printf("%-16s%lld\n", "weights_bytes",
                 (long long)lorica_member_number(version, "weights_bytes"));
    for (size_t i = 0; i < COUNT(texts); i++) {
        const char *text = lorica_member_text(version, texts[i]);
        (void)printf("%-16s", texts[i]);
        lorica_print_plain(stdout, *text ? text : "-", *text ? strlen(text) : 1);
        (void)putchar('\n');
    }
    if (lorica_json_is_true(lorica_json_get(version, "trained_on_other_base"))) {
        const char *base = lorica_member_text(version, "trained_base_digest");
        (void)printf("%-16s%s\n", "trained_on", *base ? base : "another base, which was not named");
    }
    if (lorica_member_number(version, "deleted") == 0)
        return;
    lorica_time_format(lorica_member_number(version, "deleted"), created);
    (void)printf("%-16s%s\n%-16s%s\n%-16s%s\n", "deleted", created, "deleted_by",
                 lorica_member_text(version, "deleted_by"), "content",
                 lorica_json_is_true(lorica_json_get(version, "swept")) ? "swept" : "kept");
}

/* A line for each signature of a version. */
static void print_signature(void *arg, const struct lorica_json *item) {
    const char *signer = lorica_json_string(lorica_json_get(item, "signer"));
    const bool bound = lorica_json_is_true(lorica_json_get(item, "bound"));
    (void)printf("%-16s%s (%s) %s%s\n", "signed_by", lorica_member_text(item, "key_id"),
                 lorica_member_text(item, "form"), signer ? "trusted as " : "not trusted",
                 signer ? signer : "");
    if (!bound)
        (void)printf("%-16sit does not name the adapter: no policy counts it\n", "");
    (void)arg;
}

/* Collects the items of a list. */
static void collect(void *arg, const struct lorica_json *item) {
    lorica_jsonw_value(arg, NULL, item);
}

/* Prints one version with its signatures, as lines or as {..., "signatures":[...]}. */
static int show_version(struct lorica_client *client, const struct lorica_json *version,
                        bool json) {
    char path[PATH_BYTES];
    struct lorica_error err = {0};
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/versions/%lld/signatures",
                   lorica_member_text(version, "name"),
                   (long long)lorica_member_number(version, "version"));
    if (!json) {
        print_version(version);
        return lorica_client_list(client, path, NULL, print_signature, NULL, &err) == 0
                   ? LORICA_EXIT_OK
                   : lorica_cmd_fail(&err);
    }
    struct lorica_buf out;
    lorica_buf_init(&out, SHOW_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    for (const struct lorica_json *m = lorica_json_first(version); m; m = lorica_json_next(m))
        lorica_jsonw_value(&w, lorica_json_key(m), m);
    lorica_jsonw_array(&w, "signatures");
    int rc = lorica_client_list(client, path, NULL, collect, &w, &err);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    rc = lorica_cmd_print_json(&out, rc, &err);
    return rc == 0 ? LORICA_EXIT_OK : lorica_cmd_fail(&err);
}

static const char *state_of(const struct lorica_json *version) {
    if (lorica_json_is_true(lorica_json_get(version, "swept")))
        return "swept";
    return lorica_member_number(version, "deleted") > 0 ? "deleted" : "live";
}

static void version_row(struct lorica_table *table, const struct lorica_json *item) {
    lorica_table_number(table, lorica_member_number(item, "version"));
    lorica_table_time(table, lorica_member_number(item, "created"));
    lorica_table_text(table, lorica_member_text(item, "created_by"));
    lorica_table_number(table, lorica_member_number(item, "rank"));
    lorica_table_format(table, "%.19s", lorica_member_text(item, "digest"));
    lorica_table_text(table, state_of(item));
    lorica_table_text(table, lorica_member_text(item, "message"));
}

/* Shows a name: where its channels point, and its versions. */
static int show_name(struct lorica_client *client, const char *name, bool json) {
    static const char *const headings[] = {"VERSION", "CREATED", "BY",      "RANK",
                                           "DIGEST",  "STATE",   "MESSAGE", NULL};
    char path[PATH_BYTES];
    struct lorica_json *adapter = NULL;
    struct lorica_error err = {0};
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s", name);
    const struct lorica_client_request request = {.path = path};
    if (lorica_client_call(client, &request, NULL, &adapter, &err) != 0)
        return lorica_cmd_fail(&err);
    int rc = LORICA_EXIT_OK;
    if (json) {
        rc = lorica_client_print_json(adapter);
    } else {
        const struct lorica_json *channel = lorica_json_first(lorica_json_get(adapter, "channels"));
        for (; channel; channel = lorica_json_next(channel))
            (void)printf("%s:%s answers with version %lld (epoch %lld)\n", name,
                         lorica_member_text(channel, "channel"),
                         (long long)lorica_member_number(channel, "version"),
                         (long long)lorica_member_number(channel, "epoch"));
        (void)snprintf(path, sizeof(path), "/v1/adapters/%s/versions", name);
        rc = lorica_client_print_list(client, path, "version", false, headings, version_row);
    }
    lorica_json_destroy(adapter);
    return rc;
}

static int show(int argc, char **argv) {
    struct lorica_client_options where = {0};
    bool json = false;
    const struct lorica_option options[] = {{.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_json *version = NULL;
    struct lorica_error err = {0};
    if (lorica_cmd_options(COMMAND(SHOW), argc, argv, options, COUNT(options), 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    const bool whole = !strpbrk(argv[0], "@:");
    if (whole && !lorica_cmd_adapter_name(COMMAND(SHOW), argv[0]))
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    int rc = LORICA_EXIT_OK;
    if (whole)
        rc = show_name(client, argv[0], json);
    else if (lorica_client_resolve(client, argv[0], &version, &err) != 0)
        rc = lorica_cmd_fail(&err);
    else
        rc = show_version(client, version, json);
    lorica_json_destroy(version);
    lorica_client_destroy(client);
    return rc;
}

/* A version number in a table; none is "-". */
static void version_cell(struct lorica_table *table, const struct lorica_json *item,
                         const char *key) {
    const int64_t version = lorica_member_number(item, key);
    if (version > 0)
        lorica_table_number(table, version);
    else
        lorica_table_text(table, "-");
}

static void history_row(struct lorica_table *table, const struct lorica_json *item) {
    const char *channel = lorica_member_text(item, "channel");
    lorica_table_number(table, lorica_member_number(item, "seq"));
    lorica_table_time(table, lorica_member_number(item, "time"));
    lorica_table_text(table, lorica_member_text(item, "actor"));
    lorica_table_text(table, lorica_member_text(item, "kind"));
    lorica_table_text(table, *channel ? channel : "-");
    version_cell(table, item, "version");
    version_cell(table, item, "previous");
    lorica_table_text(table, lorica_member_text(item, "message"));
}

static int history(int argc, char **argv) {
    static const char *const headings[] = {"SEQ",     "TIME",   "WHO",     "WHAT", "CHANNEL",
                                           "VERSION", "BEFORE", "MESSAGE", NULL};
    struct lorica_client_options where = {0};
    bool json = false;
    const struct lorica_option options[] = {{.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    char path[PATH_BYTES];
    if (lorica_cmd_options(COMMAND(HISTORY), argc, argv, options, COUNT(options), 1, 1) < 0 ||
        !lorica_cmd_adapter_name(COMMAND(HISTORY), argv[0]))
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/history", argv[0]);
    const int rc = lorica_client_print_list(client, path, "seq", json, headings, history_row);
    lorica_client_destroy(client);
    return rc;
}

bool lorica_cmd_adapter_version(const struct lorica_cmd *cmd, const char *word,
                                char name[LORICA_NAME_MAX + 1], long long *ret_version) {
    const char *at = strchr(word, '@');
    const size_t len = at ? (size_t)(at - word) : 0;
    char *end = NULL;
    bool valid = at && len <= LORICA_NAME_MAX && at[1] >= '1' && at[1] <= '9';
    if (valid) {
        memcpy(name, word, len);
        name[len] = '\0';
        errno = 0;
        *ret_version = strtoll(at + 1, &end, 10);
        valid = lorica_name_valid(name) && *end == '\0' && errno == 0;
    }
    if (!valid)
        (void)lorica_cmd_usage(cmd, "\"%.150s\" is not NAME@VERSION", word);
    return valid;
}

/* One change of a channel as it goes to the server. */
struct move {
    const char *method, *path, *epoch;
    long long version;     /* 0: no such member */
    const char *key, *why; /* a text member and its name; `why` NULL: none */
};

/* Sends it; *ret gets the channel object. */
static int send_move(struct lorica_client *client, const struct move *move,
                     struct lorica_json **ret, struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, BODY_MAX);
    struct lorica_jsonw w = {.out = &body};
    lorica_jsonw_object(&w, NULL);
    if (move->version > 0)
        lorica_jsonw_integer(&w, "version", move->version);
    if (move->why)
        lorica_jsonw_string(&w, move->key, move->why);
    lorica_jsonw_end_object(&w);
    const struct lorica_client_request request = {
        .method = move->method, .path = move->path, .if_match = move->epoch};
    return lorica_client_send(client, &request, &body, move->key, ret, err);
}

/* Finds a channel in a list. */
struct find {
    const char *channel;
    int64_t epoch; /* 0: it never moved */
};

static void find_item(void *arg, const struct lorica_json *item) {
    struct find *find = arg;
    if (strcmp(lorica_member_text(item, "channel"), find->channel) == 0)
        find->epoch = lorica_member_number(item, "epoch");
}

/* Sets `number` to the epoch that a channel has now. */
static int read_epoch(struct lorica_client *client, const char *name, const char *channel,
                      char number[32], struct lorica_error *err) {
    char path[PATH_BYTES];
    struct find find = {.channel = channel};
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/channels", name);
    const int rc = lorica_client_list(client, path, "channel", find_item, &find, err);
    (void)snprintf(number, 32, "%lld", (long long)find.epoch);
    return rc;
}

/* Prints a channel after a change, and frees it. */
static int print_moved(struct lorica_json *channel, const char *name, bool json) {
    int rc = LORICA_EXIT_OK;
    if (json)
        rc = lorica_client_print_json(channel);
    else
        (void)printf("%s:%s answers with version %lld now (epoch %lld)\n", name,
                     lorica_member_text(channel, "channel"),
                     (long long)lorica_member_number(channel, "version"),
                     (long long)lorica_member_number(channel, "epoch"));
    lorica_json_destroy(channel);
    return rc;
}

static int promote(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *channel = LORICA_CHANNEL_STABLE, *epoch = NULL, *message = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "channel", .value = &channel},
                                            {.name = "epoch", .value = &epoch},
                                            {.name = "message", .value = &message},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_json *moved = NULL;
    struct lorica_error err = {0};
    char name[LORICA_NAME_MAX + 1], path[PATH_BYTES], present[32];
    long long version = 0, number = 0;
    if (lorica_cmd_options(COMMAND(PROMOTE), argc, argv, options, COUNT(options), 1, 1) < 0 ||
        !lorica_cmd_adapter_version(COMMAND(PROMOTE), argv[0], name, &version) ||
        !lorica_cmd_channel_name(COMMAND(PROMOTE), channel) ||
        (epoch && !lorica_cmd_integer("epoch", epoch, 0, LLONG_MAX, &number)))
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    int rc = epoch ? 0 : read_epoch(client, name, channel, present, &err);
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/channels/%s", name, channel);
    const struct move move = {.method = "PUT",
                              .path = path,
                              .epoch = epoch ? epoch : present,
                              .version = version,
                              .key = "message",
                              .why = message};
    if (rc == 0)
        rc = send_move(client, &move, &moved, &err);
    rc = rc == 0 ? print_moved(moved, name, json) : lorica_cmd_fail(&err);
    lorica_client_destroy(client);
    return rc;
}

static int rollback(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *channel = LORICA_CHANNEL_STABLE, *reason = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "channel", .value = &channel},
                                            {.name = "reason", .value = &reason},
                                            {.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_json *moved = NULL;
    struct lorica_error err = {0};
    char path[PATH_BYTES];
    if (lorica_cmd_options(COMMAND(ROLLBACK), argc, argv, options, COUNT(options), 1, 1) < 0 ||
        !lorica_cmd_adapter_name(COMMAND(ROLLBACK), argv[0]) ||
        !lorica_cmd_channel_name(COMMAND(ROLLBACK), channel))
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/channels/%s/rollback", argv[0], channel);
    const struct move move = {.method = "POST", .path = path, .key = "reason", .why = reason};
    int rc = send_move(client, &move, &moved, &err);
    rc = rc == 0 ? print_moved(moved, argv[0], json) : lorica_cmd_fail(&err);
    lorica_client_destroy(client);
    return rc;
}

/* A signature covers all that the directory holds: it must not hold anything else. */
static int check_empty(const char *dir, struct lorica_error *err) {
    struct lorica_model_manifest there = {.subject = NULL};
    if (!lorica_path_exists(dir))
        return 0;
    int rc = lorica_model_dir_read(dir, NULL, 0, NULL, &there, err);
    if (rc == 0 && there.file_count > 0)
        rc = lorica_fail(err, LORICA_ECONFLICT,
                         "%s holds %s, which --sign would sign too; name a new directory", dir,
                         there.files[0].name);
    lorica_model_manifest_finish(&there);
    return rc;
}

static int export_files(int argc, char **argv) {
    struct lorica_client_options where = {0};
    const char *key_path = NULL;
    struct lorica_signkey *key = NULL;
    const struct lorica_option options[] = {{.name = "sign", .value = &key_path},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_json *version = NULL;
    struct lorica_error err = {0};
    if (lorica_cmd_options(COMMAND(EXPORT), argc, argv, options, COUNT(options), 2, 2) < 0)
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    int rc = key_path ? lorica_key_file_private(key_path, &key, &err) : 0;
    if (rc == 0 && key)
        rc = check_empty(argv[1], &err);
    if (rc == 0)
        rc = lorica_client_resolve(client, argv[0], &version, &err);
    if (rc == 0)
        rc = lorica_client_export(client, version, argv[1], &err);
    if (rc == 0 && key)
        rc = lorica_model_dir_sign(argv[1], key, &err);
    if (rc == 0)
        (void)printf("%s@%lld is in %s%s\n", lorica_member_text(version, "name"),
                     (long long)lorica_member_number(version, "version"), argv[1],
                     key ? ", signed in " LORICA_MODEL_SIG : "");
    else
        rc = lorica_cmd_fail(&err);
    lorica_json_destroy(version);
    lorica_signkey_destroy(key);
    lorica_client_destroy(client);
    return rc;
}

#define JSON_HELP "--json\tprint the server's objects as JSON\n"

const struct lorica_cmd lorica_cmd_adapter[] = {
    [PUBLISH] = {.name = "adapter publish",
                 .synopsis = "NAME DIR [--channel C] [--message TEXT] "
                             "[--trained-on-other-base] [--sign KEY|--signature FILE] "
                             "[--json] " LORICA_CLIENT_SYNOPSIS,
                 .summary = "publish an adapter as the next version of a name",
                 .help =
                     "NAME\tthe adapter: lower-case letters, digits, \".\", \"_\" and \"-\"\n"
                     "DIR\tholds adapter_config.json and adapter_model.safetensors as PEFT writes "
                     "them; a manifest.json goes along where there is one\n"
                     "--channel C\talso point this channel to the version; otherwise none moves\n"
                     "--message TEXT\twhy, for the history\n"
                     "--sign KEY\tsign the version with this Ed25519 private key (PEM; openssl "
                     "genpkey -algorithm ed25519 -out KEY makes one): its name, base, files, and "
                     "through manifest.json the trainer's parameters, data and metrics\n"
                     "--signature FILE\tsend a signature that was made before: such a one, or an "
                     "OpenSSF Model Signing bundle by a trusted key (adapter export "
                     "--sign)\n"
                     "--trained-on-other-base\tpublish it though it was trained on another base "
                     "model than the server's; the version and the audit chain say so\n" JSON_HELP
                         LORICA_CLIENT_HELP
                     "The server checks every tensor against its base model and refuses an adapter "
                     "that does not fit. The same content published again is the same version.\n",
                 .run = publish},
    [LIST] = {.name = "adapter list",
              .synopsis = "[--json] " LORICA_CLIENT_SYNOPSIS,
              .summary = "list the adapters and where their channels point",
              .help = JSON_HELP LORICA_CLIENT_HELP,
              .run = list},
    [SHOW] = {.name = "adapter show",
              .synopsis = "NAME[@V|:CHANNEL] [--json] " LORICA_CLIENT_SYNOPSIS,
              .summary = "show an adapter with its versions, or one version in full",
              .help = "NAME\tchannels and versions of this adapter\n"
                      "NAME@V\tversion V of it\n"
                      "NAME:CHANNEL\tthe version that the channel points to; the command fails "
                      "when it points nowhere\n" JSON_HELP LORICA_CLIENT_HELP,
              .run = show},
    [HISTORY] = {.name = "adapter history",
                 .synopsis = "NAME [--json] " LORICA_CLIENT_SYNOPSIS,
                 .summary = "list what was done to an adapter, when and by whom",
                 .help = "NAME\tthe adapter\n" JSON_HELP LORICA_CLIENT_HELP,
                 .run = history},
    [PROMOTE] =
        {.name = "adapter promote",
         .synopsis =
             "NAME@V [--channel C] [--epoch N] [--message TEXT] [--json] " LORICA_CLIENT_SYNOPSIS,
         .summary = "point a channel to a version",
         .help = "NAME@V\tthe version that will answer\n"
                 "--channel C\tthe channel that moves; stable where none is named\n"
                 "--epoch N\tonly if the channel's epoch still is N (adapter show tells it); "
                 "otherwise the epoch is read just before\n"
                 "--message TEXT\twhy, for the history\n" JSON_HELP LORICA_CLIENT_HELP,
         .run = promote},
    [ROLLBACK] = {.name = "adapter rollback",
                  .synopsis = "NAME [--channel C] [--reason T] [--json] " LORICA_CLIENT_SYNOPSIS,
                  .summary = "point a channel back to what it pointed to before",
                  .help = "NAME\tthe adapter\n"
                          "--channel C\tthe channel that moves; stable where none is named\n"
                          "--reason T\twhy, for the history\n" JSON_HELP LORICA_CLIENT_HELP
                          "A second rollback goes one version further back.\n",
                  .run = rollback},
    [EXPORT] = {.name = "adapter export",
                .synopsis = "NAME[@V|:CHANNEL] DIR [--sign KEY] " LORICA_CLIENT_SYNOPSIS,
                .summary = "download a version as the two files that PEFT reads",
                .help = "NAME\tthe version that channel stable points to; NAME@V and NAME:CHANNEL "
                        "name another\n"
                        "DIR\tmade where it is absent; must not hold an adapter "
                        "already\n"
                        "--sign KEY\talso write DIR/model.sig, an OpenSSF Model Signing v1.0 "
                        "bundle over the files, made with this private key (PEM: ECDSA on P-256, "
                        "P-384 or P-521, which every verifier takes, or "
                        "Ed25519)\n" LORICA_CLIENT_HELP,
                .run = export_files},
};
const size_t lorica_cmd_adapter_count = COUNT(lorica_cmd_adapter);
