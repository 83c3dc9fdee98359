/* SPDX-License-Identifier: MIT
 * lorica adapter diff: what two adapters say and do differently. */
#include <stdlib.h>
#include <string.h>

#include "gateway/cmd/adapter_source.h"
#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "proto/json.h"
#include "runtime/adapter_diff.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CONFIG_MAX ((size_t)1 << 20)
#define MANIFEST_MAX ((size_t)4 << 20)
#define WEIGHTS_MAX ((size_t)2 << 30)
#define KEY_MAX 200
#define OUT_MAX ((size_t)64 << 20)

enum { LEFT, RIGHT, SIDES };

/* One of the two, read whole. */
struct diff_side {
    struct lorica_adapter_source source;
    struct lorica_adapter_bytes bytes;
    char *config_text, *weights;
    struct lorica_json *config, *manifest; /* manifest: NULL where there is none */
};

static void side_finish(struct diff_side *side) {
    lorica_adapter_source_close(&side->source);
    free(side->config_text);
    free(side->weights);
    lorica_json_destroy(side->config);
    lorica_json_destroy(side->manifest);
}

static int read_part(const struct diff_side *side, const char *name, size_t max, char **ret,
                     size_t *ret_len, struct lorica_error *err) {
    char *path = lorica_path_join(side->source.dir, name);
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const int rc = lorica_file_read(path, max, ret, ret_len, err);
    free(path);
    return rc;
}

static int read_manifest(struct diff_side *side, struct lorica_error *err) {
    struct lorica_error inner = {0};
    char *text = NULL;
    size_t len = 0;
    int rc = read_part(side, "manifest.json", MANIFEST_MAX, &text, &len, &inner);
    if (rc == LORICA_ENOTFOUND)
        return 0;
    if (rc == 0)
        rc = lorica_json_parse(text, len, &side->manifest, &inner);
    free(text);
    return rc == 0 ? 0 : lorica_fail(err, rc, "manifest.json: %.400s", inner.text);
}

static int side_open(struct diff_side *side, const char *word,
                     const struct lorica_client_options *where, struct lorica_error *err) {
    struct lorica_error inner = {0};
    int rc = lorica_adapter_source_open(word, where, &side->source, &inner);
    if (rc == 0)
        rc = read_part(side, "adapter_config.json", CONFIG_MAX, &side->config_text,
                       &side->bytes.config_len, &inner);
    if (rc == 0)
        rc = read_part(side, "adapter_model.safetensors", WEIGHTS_MAX, &side->weights,
                       &side->bytes.weights_len, &inner);
    if (rc == 0)
        rc = lorica_json_parse(side->config_text, side->bytes.config_len, &side->config, &inner);
    if (rc == 0)
        rc = read_manifest(side, &inner);
    side->bytes.config = side->config_text;
    side->bytes.weights = side->weights;
    return rc == 0 ? 0 : lorica_fail(err, rc, "%.150s: %.400s", word, inner.text);
}

/* Called for each value that is not the same in both, by its path; NULL: not there. */
typedef void (*differ_fn)(void *arg, const char *key, const struct lorica_json *left,
                          const struct lorica_json *right);

static bool equal(const struct lorica_json *left, const struct lorica_json *right) {
    struct lorica_buf texts[SIDES];
    lorica_buf_init(&texts[LEFT], OUT_MAX);
    lorica_buf_init(&texts[RIGHT], OUT_MAX);
    const bool written =
        lorica_json_write(&texts[LEFT], left) == 0 && lorica_json_write(&texts[RIGHT], right) == 0;
    const bool same = written && texts[LEFT].len == texts[RIGHT].len &&
                      memcmp(texts[LEFT].data, texts[RIGHT].data, texts[LEFT].len) == 0;
    lorica_buf_finish(&texts[LEFT]);
    lorica_buf_finish(&texts[RIGHT]);
    return same;
}

static void compare_values(const char *key, const struct lorica_json *left,
                           const struct lorica_json *right, bool same_too, differ_fn fn, void *arg);

static void compare_member(const char *prefix, const char *name, const struct lorica_json *left,
                           const struct lorica_json *right, bool same_too, differ_fn fn,
                           void *arg) {
    char key[KEY_MAX];
    (void)snprintf(key, sizeof(key), "%s%s%s", prefix, *prefix ? "." : "", name);
    compare_values(key, left, right, same_too, fn, arg);
}

/* Objects are compared member by member, anything else as a whole; `same_too`: equal values are
 * told as well. */
static void compare_values(const char *key, const struct lorica_json *left,
                           const struct lorica_json *right, bool same_too, differ_fn fn,
                           void *arg) {
    const bool objects[SIDES] = {left && lorica_json_type(left) == LORICA_JSON_OBJECT,
                                 right && lorica_json_type(right) == LORICA_JSON_OBJECT};
    if ((left && !objects[LEFT]) || (right && !objects[RIGHT])) {
        if (same_too || !left || !right || !equal(left, right))
            fn(arg, key, left, right);
        return;
    }
    for (const struct lorica_json *m = lorica_json_first(left); m; m = lorica_json_next(m))
        compare_member(key, lorica_json_key(m), m, lorica_json_get(right, lorica_json_key(m)),
                       same_too, fn, arg);
    for (const struct lorica_json *m = lorica_json_first(right); m; m = lorica_json_next(m))
        if (!lorica_json_get(left, lorica_json_key(m)))
            compare_member(key, lorica_json_key(m), NULL, m, same_too, fn, arg);
}

/* As JSON. */

static void write_value(struct lorica_jsonw *w, const char *key, const struct lorica_json *value) {
    if (value)
        lorica_jsonw_value(w, key, value);
    else
        lorica_jsonw_null(w, key);
}

static void write_difference(void *arg, const char *key, const struct lorica_json *left,
                             const struct lorica_json *right) {
    struct lorica_jsonw *w = arg;
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "key", key);
    write_value(w, "left", left);
    write_value(w, "right", right);
    lorica_jsonw_end_object(w);
}

static void write_norms(struct lorica_jsonw *w, double left, double right, double change) {
    lorica_jsonw_number(w, "left_norm", left);
    lorica_jsonw_number(w, "right_norm", right);
    lorica_jsonw_number(w, "change", change);
    if (left > 0)
        lorica_jsonw_number(w, "relative", change / left);
    else
        lorica_jsonw_null(w, "relative");
}

static void write_modules(struct lorica_jsonw *w, const struct lorica_adapter_diff *diff) {
    lorica_jsonw_array(w, "modules");
    for (size_t i = 0; i < diff->count; i++) {
        const struct lorica_module_diff *m = &diff->modules[i];
        lorica_jsonw_object(w, NULL);
        lorica_jsonw_string(w, "module", m->module);
        lorica_jsonw_bool(w, "in_left", m->in_left);
        lorica_jsonw_bool(w, "in_right", m->in_right);
        write_norms(w, m->left, m->right, m->change);
        lorica_jsonw_end_object(w);
    }
    lorica_jsonw_end_array(w);
}

static int print_json(char *const *words, const struct diff_side *sides,
                      const struct lorica_adapter_diff *diff, struct lorica_error *err) {
    struct lorica_buf out;
    lorica_buf_init(&out, OUT_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "adapter.diff");
    lorica_jsonw_string(&w, "left", words[LEFT]);
    lorica_jsonw_string(&w, "right", words[RIGHT]);
    lorica_jsonw_array(&w, "config");
    compare_values("", sides[LEFT].config, sides[RIGHT].config, false, write_difference, &w);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_object(&w, "all");
    write_norms(&w, diff->left, diff->right, diff->change);
    lorica_jsonw_end_object(&w);
    write_modules(&w, diff);
    lorica_jsonw_array(&w, "manifest");
    compare_values("", sides[LEFT].manifest, sides[RIGHT].manifest, true, write_difference, &w);
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    const int rc = lorica_buf_status(&out);
    if (rc == 0)
        (void)printf("%.*s\n", (int)out.len, out.data);
    lorica_buf_finish(&out);
    return rc == 0 ? 0 : lorica_fail(err, rc, "the difference is too long to be written");
}

/* As tables. */

static void value_cell(struct lorica_table *table, const struct lorica_json *value) {
    struct lorica_buf text;
    lorica_buf_init(&text, OUT_MAX);
    if (value && lorica_json_write(&text, value) == 0)
        lorica_table_format(table, "%.*s", (int)text.len, text.data);
    else
        lorica_table_text(table, "-");
    lorica_buf_finish(&text);
}

struct rows {
    struct lorica_table *table;
    size_t count;
};

static void add_row(void *arg, const char *key, const struct lorica_json *left,
                    const struct lorica_json *right) {
    struct rows *rows = arg;
    rows->count++;
    lorica_table_text(rows->table, key);
    value_cell(rows->table, left);
    value_cell(rows->table, right);
}

static bool print_values(const char *heading, char *const *words, const struct lorica_json *left,
                         const struct lorica_json *right, bool same_too) {
    const char *const headings[] = {heading, words[LEFT], words[RIGHT], NULL};
    struct rows rows = {.table = lorica_table_create(headings)};
    bool done = rows.table != NULL;
    if (done)
        compare_values("", left, right, same_too, add_row, &rows);
    if (done && rows.count > 0)
        done = lorica_table_print(rows.table, stdout) && putchar('\n') != EOF;
    lorica_table_destroy(rows.table);
    return done;
}

static void norm_row(struct lorica_table *table, const char *name, bool in_left, bool in_right,
                     double left, double right, double change) {
    lorica_table_text(table, name);
    if (in_left)
        lorica_table_format(table, "%.6g", left);
    else
        lorica_table_text(table, "-");
    if (in_right)
        lorica_table_format(table, "%.6g", right);
    else
        lorica_table_text(table, "-");
    lorica_table_format(table, "%.6g", change);
    if (left > 0)
        lorica_table_format(table, "%.2f %%", 100 * change / left);
    else
        lorica_table_text(table, "-");
}

static bool print_norms(char *const *words, const struct lorica_adapter_diff *diff) {
    const char *const headings[] = {"MODULE", words[LEFT], words[RIGHT],
                                    "CHANGE", "RELATIVE",  NULL};
    struct lorica_table *table = lorica_table_create(headings);
    if (!table)
        return false;
    for (size_t i = 0; i < diff->count; i++) {
        const struct lorica_module_diff *m = &diff->modules[i];
        norm_row(table, m->module, m->in_left, m->in_right, m->left, m->right, m->change);
    }
    norm_row(table, "all", true, true, diff->left, diff->right, diff->change);
    const bool done = lorica_table_print(table, stdout);
    lorica_table_destroy(table);
    return done;
}

static int print_tables(char *const *words, const struct diff_side *sides,
                        const struct lorica_adapter_diff *diff, struct lorica_error *err) {
    if (print_values("CONFIG", words, sides[LEFT].config, sides[RIGHT].config, false) &&
        print_values("MANIFEST", words, sides[LEFT].manifest, sides[RIGHT].manifest, true) &&
        print_norms(words, diff))
        return 0;
    return lorica_fail(err, LORICA_ENOMEM, "out of memory");
}

static int run(int argc, char **argv) {
    struct lorica_client_options where = {0};
    bool json = false;
    const struct lorica_option options[] = {{.name = "json", .flag = &json},
                                            LORICA_CLIENT_OPTIONS(where)};
    struct diff_side sides[SIDES] = {{{0}}};
    struct lorica_adapter_diff diff = {0};
    struct lorica_error err = {0};
    if (lorica_cmd_options(&lorica_cmd_diff, argc, argv, options, COUNT(options), 2, 2) < 0)
        return LORICA_EXIT_USAGE;
    int rc = side_open(&sides[LEFT], argv[LEFT], &where, &err);
    if (rc == 0)
        rc = side_open(&sides[RIGHT], argv[RIGHT], &where, &err);
    if (rc == 0)
        rc = lorica_adapter_diff(&sides[LEFT].bytes, &sides[RIGHT].bytes, &diff, &err);
    if (rc == 0)
        rc = json ? print_json(argv, sides, &diff, &err) : print_tables(argv, sides, &diff, &err);
    lorica_adapter_diff_finish(&diff);
    side_finish(&sides[LEFT]);
    side_finish(&sides[RIGHT]);
    return rc == 0 ? LORICA_EXIT_OK : lorica_cmd_fail(&err);
}

const struct lorica_cmd lorica_cmd_diff = {
    .name = "adapter diff",
    .synopsis = "NAME[@V|:CHANNEL]|DIR NAME[@V|:CHANNEL]|DIR [--json] " LORICA_CLIENT_SYNOPSIS,
    .summary = "show what differs between two adapters",
    .help = "NAME\tthe version that channel stable points to; NAME@V and NAME:CHANNEL name "
            "another\n"
            "DIR\ta directory with adapter_config.json and adapter_model.safetensors\n"
            "--json\tprint the differences as JSON\n" LORICA_CLIENT_HELP
            "Three parts: the keys of the config whose values differ; the manifests side by side; "
            "and for each module the Frobenius norm of what each adapter adds to the base, "
            "scale*B*A, that of the difference of the two, and how large it is beside the first. "
            "No base model is needed.\n",
    .run = run,
};
