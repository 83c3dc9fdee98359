/* SPDX-License-Identifier: MIT */
#include "gateway/client/client_cmd.h"

#include <stdlib.h>

#include "gateway/cmd/cmd.h"

#define JSON_MAX (256 << 20) /* bytes of JSON that are printed at once */
#define TOKENS_MAX 1000000
#define TEMPERATURE_MAX 2.0

bool lorica_client_open(const struct lorica_client_options *options, struct lorica_client **ret) {
    struct lorica_error err = {0};
    if (lorica_client_create(options, ret, &err) == 0)
        return true;
    (void)lorica_cmd_fail(&err);
    return false;
}

const char *lorica_member_text(const struct lorica_json *object, const char *key) {
    const char *text = lorica_json_string(lorica_json_get(object, key));
    return text ? text : "";
}

int64_t lorica_member_number(const struct lorica_json *object, const char *key) {
    int64_t number = 0;
    return lorica_json_integer(lorica_json_get(object, key), INT64_MIN, INT64_MAX, &number) == 0
               ? number
               : 0;
}

int lorica_client_print_json(const struct lorica_json *value) {
    struct lorica_buf out;
    struct lorica_error err = {0};
    lorica_buf_init(&out, JSON_MAX);
    (void)lorica_json_write(&out, value);
    return lorica_cmd_print_json(&out, 0, &err) == 0 ? LORICA_EXIT_OK : lorica_cmd_fail(&err);
}

/* One list on its way out: as JSON, or as a table. */
struct listing {
    struct lorica_jsonw *json;
    struct lorica_table *table;
    lorica_row_fn row;
};

static void on_item(void *arg, const struct lorica_json *item) {
    const struct listing *listing = arg;
    if (listing->json)
        lorica_jsonw_value(listing->json, NULL, item);
    else
        listing->row(listing->table, item);
}

static int print_json_list(struct lorica_client *client, const char *path, const char *cursor) {
    struct lorica_buf out;
    struct lorica_error err = {0};
    lorica_buf_init(&out, JSON_MAX);
    struct lorica_jsonw w = {.out = &out};
    struct listing listing = {.json = &w};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "list");
    lorica_jsonw_array(&w, "data");
    const int rc = lorica_client_list(client, path, cursor, on_item, &listing, &err);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_bool(&w, "has_more", false);
    lorica_jsonw_end_object(&w);
    return lorica_cmd_print_json(&out, rc, &err) == 0 ? LORICA_EXIT_OK : lorica_cmd_fail(&err);
}

int lorica_client_print_list(struct lorica_client *client, const char *path, const char *cursor,
                             bool json, const char *const *headings, lorica_row_fn row) {
    struct lorica_error err = {0};
    struct listing listing = {.row = row};
    if (json)
        return print_json_list(client, path, cursor);
    listing.table = lorica_table_create(headings);
    int rc = listing.table ? lorica_client_list(client, path, cursor, on_item, &listing, &err)
                           : lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && !lorica_table_print(listing.table, stdout))
        rc = lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    lorica_table_destroy(listing.table);
    return rc == 0 ? LORICA_EXIT_OK : lorica_cmd_fail(&err);
}

int lorica_client_list_command(const struct lorica_cmd *cmd, int argc, char **argv,
                               const char *path, const char *cursor, const char *const *headings,
                               lorica_row_fn row) {
    struct lorica_client_options where = {0};
    bool json = false;
    const struct lorica_option options[] = {{.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    if (lorica_cmd_options(cmd, argc, argv, options, sizeof(options) / sizeof(options[0]), 0, 0) <
        0)
        return LORICA_EXIT_USAGE;
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    const int rc = lorica_client_print_list(client, path, cursor, json, headings, row);
    lorica_client_destroy(client);
    return rc;
}

bool lorica_sampling_words_check(const struct lorica_sampling_words *words) {
    long long integer;
    double number;
    return (!words->max_tokens ||
            lorica_cmd_integer("max-tokens", words->max_tokens, 1, TOKENS_MAX, &integer)) &&
           (!words->seed || lorica_cmd_integer("seed", words->seed, 0, 1LL << 53, &integer)) &&
           (!words->temperature ||
            lorica_cmd_number("temperature", words->temperature, 0, TEMPERATURE_MAX, &number));
}

void lorica_sampling_words_write(const struct lorica_sampling_words *words,
                                 struct lorica_jsonw *w) {
    if (words->max_tokens)
        lorica_jsonw_integer(w, "max_tokens", strtoll(words->max_tokens, NULL, 10));
    if (words->seed)
        lorica_jsonw_integer(w, "seed", strtoll(words->seed, NULL, 10));
    if (words->temperature)
        lorica_jsonw_number(w, "temperature", strtod(words->temperature, NULL));
}
