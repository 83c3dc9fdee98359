/* SPDX-License-Identifier: MIT
 * lorica base: the frozen models in DIR/bases. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/cmd/table.h"
#include "proto/json.h"
#include "registry/digest.h"
#include "runtime/base.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

enum { IMPORT, LIST, INSPECT, EXPORT, TOKENIZE, RENDER };

#define COMMAND(which) (&lorica_cmd_base[which])
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define OUTPUT_MAX (256u << 20)
#define INPUT_MAX (64u << 20)

/* DIR/bases, made when it is not there. For free(); NULL: printed why. */
static char *bases_dir(const char *data_option) {
    struct lorica_error err = {0};
    char *data = lorica_data_dir(data_option);
    char *bases = data ? lorica_path_join(data, "bases") : NULL;
    if (bases && lorica_dirs_make(bases, 0700, &err) != 0) {
        (void)lorica_cmd_fail(&err);
        free(bases);
        bases = NULL;
    }
    free(data);
    return bases;
}

/* -- import --------------------------------------------------------------------------------------
 */

static bool parse_format(const char *word, enum lorica_format *ret) {
    static const struct {
        const char *word;
        enum lorica_format format;
    } formats[] = {{"nf4", LORICA_FORMAT_NF4},
                   {"int8", LORICA_FORMAT_Q8},
                   {"bf16", LORICA_FORMAT_BF16},
                   {"f32", LORICA_FORMAT_F32}};
    for (size_t i = 0; i < COUNT(formats); i++) {
        if (strcmp(word, formats[i].word) == 0) {
            *ret = formats[i].format;
            return true;
        }
    }
    return false;
}

/* Content that is there already keeps the name it has. */
static int report_known(const char *path, const char *wanted, struct lorica_error *err) {
    struct lorica_base *known;
    const int rc = lorica_base_open(path, &known, err);
    if (rc)
        return rc;
    (void)printf("%s was imported before: nothing to do\n", known->name);
    if (strcmp(known->name, wanted) != 0)
        (void)fprintf(stderr,
                      "lorica: the same content is here already as %s, and keeps that name\n",
                      known->name);
    lorica_base_close(known);
    return 0;
}

/* Gives the new file its place by its digest; a file that is there already is the same. */
static int settle(const char *bases, const char *fresh, struct lorica_error *err) {
    struct lorica_base *base;
    char digest[LORICA_DIGEST_TEXT], name[LORICA_DIGEST_TEXT + 8];
    int rc = lorica_base_open(fresh, &base, err);
    if (rc)
        return rc;
    (void)lorica_digest_format(&base->digest, digest);
    (void)snprintf(name, sizeof(name), "%s.lorica", digest + strlen("sha256:"));
    char *path = lorica_path_join(bases, name);
    if (!path)
        rc = lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    else if (lorica_path_exists(path))
        rc = report_known(path, base->name, err);
    else if (rename(fresh, path) != 0)
        rc = lorica_fail_errno(err, path, "cannot rename");
    else
        (void)printf("imported %s: %s\n", base->name, digest);
    free(path);
    lorica_base_close(base);
    return rc;
}

static int import_into(const char *bases, const char *source,
                       struct lorica_import_options *options) {
    struct lorica_error err = {0};
    char name[64];
    (void)snprintf(name, sizeof(name), ".import.%ld", (long)getpid());
    char *fresh = lorica_path_join(bases, name);
    int rc = fresh ? lorica_base_import(source, fresh, options, &err)
                   : lorica_fail(&err, LORICA_ENOMEM, "no memory for a path");
    if (!rc)
        rc = settle(bases, fresh, &err);
    if (fresh)
        (void)unlink(fresh);
    free(fresh);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}

static int import(int argc, char **argv) {
    const char *data = NULL, *format = "nf4";
    struct lorica_import_options options = {.hasher = &lorica_sha256_hasher,
                                            .progress = lorica_progress};
    const struct lorica_option words[] = {{.name = "name", .value = &options.name},
                                          {.name = "format", .value = &format},
                                          {.name = "template", .value = &options.template_name},
                                          {.name = "data", .value = &data}};
    if (lorica_cmd_options(COMMAND(IMPORT), argc, argv, words, COUNT(words), 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    if (!parse_format(format, &options.format))
        return lorica_cmd_usage(COMMAND(IMPORT), "--format %s: nf4, int8, bf16 or f32 expected",
                                format);
    if (options.template_name && !lorica_chat_known(options.template_name))
        return lorica_cmd_usage(COMMAND(IMPORT), "--template %s: known are %s",
                                options.template_name, lorica_chat_names());
    char *bases = bases_dir(data);
    if (!bases)
        return LORICA_EXIT_FAILED;
    const int rc = import_into(bases, argv[0], &options);
    free(bases);
    return rc;
}

/* -- list ----------------------------------------------------------------------------------------
 */

struct listing {
    struct lorica_jsonw *json; /* one of the two */
    struct lorica_table *table;
};

static void list_one(const struct listing *listing, const struct lorica_base *base,
                     uint64_t nbytes) {
    char digest[LORICA_DIGEST_TEXT];
    const char *format = lorica_format_name(base->layers[0].modules[0].format);
    (void)lorica_digest_format(&base->digest, digest);
    if (listing->table) {
        lorica_table_text(listing->table, base->name);
        lorica_table_text(listing->table, format);
        lorica_table_number(listing->table, (int64_t)(nbytes / 1000000));
        lorica_table_text(listing->table, digest);
        return;
    }
    lorica_jsonw_object(listing->json, NULL);
    lorica_jsonw_string(listing->json, "object", "base");
    lorica_jsonw_string(listing->json, "name", base->name);
    lorica_jsonw_string(listing->json, "digest", digest);
    lorica_jsonw_string(listing->json, "format", format);
    lorica_jsonw_integer(listing->json, "bytes", (int64_t)nbytes);
    lorica_jsonw_end_object(listing->json);
}

static int is_base_name(const struct dirent *entry) {
    const size_t len = strlen(entry->d_name), end = strlen(".lorica");
    return entry->d_name[0] != '.' && len > end &&
           strcmp(entry->d_name + len - end, ".lorica") == 0;
}

/* Files in the order of their names; one that cannot be read is named and fails the command. */
static int list_dir(const char *bases, const struct listing *listing) {
    struct dirent **entries = NULL;
    struct lorica_error err = {0};
    const int count = scandir(bases, &entries, is_base_name, alphasort);
    int rc = LORICA_EXIT_OK;
    if (count < 0) {
        (void)lorica_fail_errno(&err, bases, "cannot read");
        return lorica_cmd_fail(&err);
    }
    for (int i = 0; i < count; i++) {
        struct lorica_base *base;
        struct stat st;
        char *path = lorica_path_join(bases, entries[i]->d_name);
        if (path && stat(path, &st) == 0 && lorica_base_open(path, &base, &err) == 0) {
            list_one(listing, base, (uint64_t)st.st_size);
            lorica_base_close(base);
        } else {
            rc = lorica_cmd_fail(&err);
        }
        free(path);
        free(entries[i]);
    }
    free(entries);
    return rc;
}

static int list(int argc, char **argv) {
    const char *data = NULL;
    bool json = false;
    const struct lorica_option words[] = {{.name = "json", .flag = &json},
                                          {.name = "data", .value = &data}};
    if (lorica_cmd_options(COMMAND(LIST), argc, argv, words, COUNT(words), 0, 0) < 0)
        return LORICA_EXIT_USAGE;
    char *bases = bases_dir(data);
    if (!bases)
        return LORICA_EXIT_FAILED;
    struct lorica_buf out;
    lorica_buf_init(&out, OUTPUT_MAX);
    struct lorica_jsonw w = {.out = &out};
    static const char *const headings[] = {"NAME", "FORMAT", "MB", "DIGEST", NULL};
    const struct listing listing = {json ? &w : NULL, json ? NULL : lorica_table_create(headings)};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "list");
    lorica_jsonw_array(&w, "data");
    int rc = json || listing.table ? list_dir(bases, &listing) : LORICA_EXIT_FAILED;
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    if (json && lorica_buf_status(&out) == 0)
        (void)printf("%s\n", out.data);
    else if (!json && listing.table)
        (void)lorica_table_print(listing.table, stdout);
    lorica_table_destroy(listing.table);
    lorica_buf_finish(&out);
    free(bases);
    return rc;
}

/* -- what works on one base ----------------------------------------------------------------------
 */

/* Opens the base that a word means (NULL: the only one). NULL: printed why. */
static struct lorica_base *open_base(const char *data_option, const char *word) {
    struct lorica_error err = {0};
    struct lorica_base *base = NULL;
    char *path = NULL, *data = lorica_data_dir(data_option);
    if (!data)
        return NULL;
    int rc = lorica_find_base(data, word, &path, &err);
    if (!rc)
        rc = lorica_base_open_any(path, &lorica_sha256_hasher, &base, &err);
    if (rc)
        (void)lorica_cmd_fail(&err);
    free(path);
    free(data);
    return rc ? NULL : base;
}

/* Prints the buffer, or why there is nothing to print. */
static int print_buf(struct lorica_buf *out, int rc, struct lorica_error *err) {
    if (!rc) {
        rc = lorica_buf_status(out);
        if (rc)
            (void)lorica_fail(err, rc, "the output is too long");
    }
    if (!rc)
        (void)fwrite(out->data, 1, out->len, stdout);
    lorica_buf_finish(out);
    return rc ? lorica_cmd_fail(err) : LORICA_EXIT_OK;
}

static int inspect(int argc, char **argv) {
    const char *data = NULL;
    bool json = false;
    const struct lorica_option words[] = {{.name = "json", .flag = &json},
                                          {.name = "data", .value = &data}};
    const int count = lorica_cmd_options(COMMAND(INSPECT), argc, argv, words, COUNT(words), 0, 1);
    if (count < 0)
        return LORICA_EXIT_USAGE;
    struct lorica_base *base = open_base(data, count > 0 ? argv[0] : NULL);
    if (!base)
        return LORICA_EXIT_FAILED;
    struct lorica_error err = {0};
    struct lorica_buf out;
    lorica_buf_init(&out, OUTPUT_MAX);
    int rc = lorica_base_inspect(base, json, &out);
    if (rc)
        (void)lorica_fail(&err, rc, "%s: %s", base->name, lorica_err_text(rc));
    lorica_base_close(base);
    return print_buf(&out, rc, &err);
}

static int export(int argc, char **argv) {
    const char *data = NULL;
    const struct lorica_option words[] = {{.name = "data", .value = &data}};
    if (lorica_cmd_options(COMMAND(EXPORT), argc, argv, words, COUNT(words), 2, 2) < 0)
        return LORICA_EXIT_USAGE;
    struct lorica_error err = {0};
    struct lorica_base *base = open_base(data, argv[0]);
    if (!base)
        return LORICA_EXIT_FAILED;
    const int rc = lorica_base_export(base, argv[1], &err);
    if (!rc)
        (void)printf("exported %s to %s\n", base->name, argv[1]);
    lorica_base_close(base);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}

/* All of standard input. */
static int read_input(struct lorica_buf *in, struct lorica_error *err) {
    lorica_buf_init(in, INPUT_MAX);
    for (;;) {
        char *room = lorica_buf_reserve(in, 65536);
        if (!room)
            return lorica_fail(err, lorica_buf_status(in), "standard input is over %u bytes",
                               INPUT_MAX);
        const size_t n = fread(room, 1, 65536, stdin);
        lorica_buf_commit(in, n);
        if (n == 0)
            return ferror(stdin) ? lorica_fail(err, LORICA_EIO, "standard input cannot be read")
                                 : 0;
    }
}

static void write_ids(struct lorica_jsonw *w, const char *key, const struct lorica_tokens *ids) {
    lorica_jsonw_array(w, key);
    for (size_t i = 0; i < ids->count; i++)
        lorica_jsonw_integer(w, NULL, ids->ids[i]);
    lorica_jsonw_end_array(w);
}

static int tokenize_text(const struct lorica_base *base, bool special, struct lorica_buf *out,
                         struct lorica_error *err) {
    struct lorica_tokenizer *tokenizer = NULL;
    struct lorica_tokens ids = {0};
    struct lorica_buf in;
    int rc = read_input(&in, err);
    if (!rc)
        rc = lorica_tokenizer_create(base->metadata, base->metadata_len, &tokenizer, err);
    if (!rc)
        rc = lorica_tokenizer_encode(tokenizer, in.data, in.len, special, &ids, err);
    struct lorica_jsonw w = {.out = out};
    write_ids(&w, NULL, &ids);
    (void)lorica_buf_puts(out, "\n");
    free(ids.ids);
    lorica_tokenizer_destroy(tokenizer);
    lorica_buf_finish(&in);
    return rc;
}

#define MESSAGES_MAX 1000

/* Reads [{role, content}, ...], bare or as "messages" of an object. Texts are borrowed. */
static int read_messages(const struct lorica_json *root, struct lorica_chat_message **ret,
                         size_t *ret_count, struct lorica_error *err) {
    const struct lorica_json *list =
        lorica_json_type(root) == LORICA_JSON_OBJECT ? lorica_json_get(root, "messages") : root;
    const size_t count = lorica_json_count(list);
    if (lorica_json_type(list) != LORICA_JSON_ARRAY || count > MESSAGES_MAX)
        return lorica_fail(err, LORICA_EFORMAT, "a JSON array of at most %d messages is expected",
                           MESSAGES_MAX);
    struct lorica_chat_message *messages = calloc(count + 1, sizeof(*messages));
    if (!messages)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %zu messages", count);
    size_t i = 0;
    for (const struct lorica_json *m = lorica_json_first(list); m; m = lorica_json_next(m), i++) {
        messages[i].role = lorica_json_string(lorica_json_get(m, "role"));
        messages[i].content = lorica_json_string(lorica_json_get(m, "content"));
        if (!messages[i].role || !messages[i].content) {
            free(messages);
            return lorica_fail(err, LORICA_EFORMAT,
                               "message %zu: \"role\" and \"content\" must be strings", i + 1);
        }
    }
    *ret = messages;
    *ret_count = count;
    return 0;
}

static int render_messages(const struct lorica_base *base,
                           const struct lorica_chat_message *messages, size_t count,
                           bool generation_prompt, struct lorica_buf *out,
                           struct lorica_error *err) {
    struct lorica_tokenizer *tokenizer = NULL;
    struct lorica_chat_template *chat = NULL;
    struct lorica_tokens ids = {0};
    struct lorica_buf text;
    lorica_buf_init(&text, INPUT_MAX);
    int rc = lorica_tokenizer_create(base->metadata, base->metadata_len, &tokenizer, err);
    if (!rc)
        rc = lorica_chat_create(base->metadata, base->metadata_len, &chat, err);
    if (!rc)
        rc = lorica_chat_render(chat, tokenizer, messages, count, generation_prompt, &ids, &text,
                                NULL, err);
    if (!rc) {
        struct lorica_jsonw w = {.out = out};
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_bytes(&w, "prompt", text.data, text.len);
        write_ids(&w, "ids", &ids);
        lorica_jsonw_end_object(&w);
        (void)lorica_buf_puts(out, "\n");
    }
    free(ids.ids);
    lorica_buf_finish(&text);
    lorica_chat_destroy(chat);
    lorica_tokenizer_destroy(tokenizer);
    return rc;
}

static int render_input(const struct lorica_base *base, bool closed, struct lorica_buf *out,
                        struct lorica_error *err) {
    struct lorica_json *root = NULL;
    struct lorica_chat_message *messages = NULL;
    size_t count = 0;
    struct lorica_buf in;
    int rc = read_input(&in, err);
    if (!rc)
        rc = lorica_json_parse(in.data, in.len, &root, err);
    if (!rc)
        rc = read_messages(root, &messages, &count, err);
    if (!rc)
        rc = render_messages(base, messages, count, !closed, out, err);
    free(messages);
    lorica_json_destroy(root);
    lorica_buf_finish(&in);
    return rc;
}

typedef int (*answer_fn)(const struct lorica_base *base, bool flag, struct lorica_buf *out,
                         struct lorica_error *err);

/* A command that reads its standard input, asks a base, and has one flag. */
static int answer(const struct lorica_cmd *command, const char *flag_name, answer_fn fn, int argc,
                  char **argv) {
    const char *data = NULL;
    bool flag = false;
    const struct lorica_option words[] = {{.name = flag_name, .flag = &flag},
                                          {.name = "data", .value = &data}};
    const int count = lorica_cmd_options(command, argc, argv, words, COUNT(words), 0, 1);
    if (count < 0)
        return LORICA_EXIT_USAGE;
    struct lorica_base *base = open_base(data, count > 0 ? argv[0] : NULL);
    if (!base)
        return LORICA_EXIT_FAILED;
    struct lorica_error err = {0};
    struct lorica_buf out;
    lorica_buf_init(&out, OUTPUT_MAX);
    const int rc = fn(base, flag, &out, &err);
    lorica_base_close(base);
    return print_buf(&out, rc, &err);
}

static int tokenize(int argc, char **argv) {
    return answer(COMMAND(TOKENIZE), "special", tokenize_text, argc, argv);
}

static int render(int argc, char **argv) {
    return answer(COMMAND(RENDER), "no-generation-prompt", render_input, argc, argv);
}

#define DATA_HELP "--data DIR\tdata directory (else $LORICA_DATA, else ~/.local/share/lorica)"
#define BASE_HELP "BASE\ta base's name or digest, or a file; without it, the only base there is\n"

const struct lorica_cmd lorica_cmd_base[] = {
    [IMPORT] =
        {
            .name = "base import",
            .synopsis = "FILE|DIR [--name N] [--format nf4|int8|bf16|f32] [--template NAME]",
            .summary = "import a base model from a GGUF file or a Hugging Face directory",
            .help = "Writes DIR/bases/<digest>.lorica, whole or not at all. A directory that "
                    "bitsandbytes quantised to NF4 keeps its bytes.\n"
                    "--name N\tname of the base (else from the source)\n"
                    "--format F\thow the linear layers are kept: nf4 (4 bits, double "
                    "quantisation; the default), int8, bf16 or f32\n"
                    "--template NAME\tchat template, where the model's own is not recognised: "
                    "chatml\n" DATA_HELP,
            .run = import,
        },
    [LIST] =
        {
            .name = "base list",
            .synopsis = "[--json]",
            .summary = "list the base models",
            .help = "--json\tprint JSON\n" DATA_HELP,
            .run = list,
        },
    [INSPECT] =
        {
            .name = "base inspect",
            .synopsis = "[BASE] [--json]",
            .summary = "show what a base model holds",
            .help =
                "Prints architecture, digest, bytes per format, bits per weight, and raw codes, "
                "scales and values of the first attention matrix.\n" BASE_HELP
                "--json\tprint JSON\n" DATA_HELP,
            .run = inspect,
        },
    [EXPORT] =
        {
            .name = "base export",
            .synopsis = "BASE DIR",
            .summary = "write a base model as a Hugging Face directory",
            .help = "NF4 layers become the bytes that bitsandbytes would have written.\n" BASE_HELP
                    "DIR\tdirectory to write\n" DATA_HELP,
            .run = export,
        },
    [TOKENIZE] =
        {
            .name = "base tokenize",
            .synopsis = "[BASE] [--special] < TEXT",
            .summary = "token ids of standard input, as a JSON array",
            .help = BASE_HELP "--special\talso recognise special tokens in the text\n" DATA_HELP,
            .run = tokenize,
        },
    [RENDER] =
        {
            .name = "base render",
            .synopsis = "[BASE] [--no-generation-prompt] < MESSAGES.json",
            .summary = "the prompt that the chat template makes of messages, and its ids",
            .help = "Reads a JSON array of {\"role\",\"content\"} and prints {\"prompt\",\"ids\"}, "
                    "with the opening of the assistant's turn at the end.\n" BASE_HELP
                    "--no-generation-prompt\tleave that opening out\n" DATA_HELP,
            .run = render,
        },
};
const size_t lorica_cmd_base_count = COUNT(lorica_cmd_base);
