/* SPDX-License-Identifier: MIT
 * lorica adapter receipt: asks a model one thing and prints the receipt of its answer. */
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "gateway/files.h"

#define TEXT_MAX ((size_t)16 << 20)

/* What is asked, and what comes. */
struct asking {
    const char *model, *prompt_path;
    struct lorica_sampling_words sampling;
    struct lorica_buf answer, receipt;
};

static int write_request(const struct asking *a, struct lorica_buf *body,
                         struct lorica_error *err) {
    struct lorica_jsonw w = {.out = body};
    char *prompt = NULL;
    size_t len = 0;
    int rc = lorica_file_read(a->prompt_path, TEXT_MAX, &prompt, &len, err);
    if (rc != 0)
        return rc;
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "model", a->model);
    lorica_jsonw_bool(&w, "stream", true);
    lorica_jsonw_bytes(&w, "prompt", prompt, len);
    lorica_sampling_words_write(&a->sampling, &w);
    lorica_jsonw_end_object(&w);
    free(prompt);
    rc = lorica_buf_status(body);
    return rc == 0 ? 0 : lorica_fail(err, rc, "the prompt is too long");
}

/* Takes a piece of the answer, or the receipt. */
static int on_data(void *arg, const char *data, size_t len) {
    struct asking *a = arg;
    struct lorica_json *event = NULL;
    struct lorica_error ignored;
    int rc = lorica_json_parse(data, len, &event, &ignored);
    if (rc != 0)
        return rc;
    const struct lorica_json *choice = lorica_json_first(lorica_json_get(event, "choices"));
    const char *text = lorica_json_string(lorica_json_get(choice, "text"));
    const struct lorica_json *receipt = lorica_json_get(event, "lorica_receipt");
    if (text)
        rc = lorica_buf_puts(&a->answer, text);
    if (rc == 0 && receipt)
        rc = lorica_json_write(&a->receipt, receipt);
    lorica_json_destroy(event);
    return rc;
}

static int ask(struct lorica_client *client, struct asking *a, const char *answer_path,
               struct lorica_error *err) {
    struct lorica_buf body;
    lorica_buf_init(&body, 2 * TEXT_MAX);
    int rc = write_request(a, &body, err);
    if (rc == 0) {
        const struct lorica_client_request request = {
            .path = "/v1/completions", .body = body.data, .body_len = body.len, .receipt = true};
        rc = lorica_client_stream(client, &request, on_data, a, NULL, 0, err);
    }
    lorica_buf_finish(&body);
    if (rc == 0 && a->receipt.len == 0)
        rc = lorica_fail(err, LORICA_EFORMAT, "%s gave an answer without a receipt",
                         lorica_client_server(client));
    if (rc == 0 && answer_path)
        rc = lorica_file_replace(answer_path, a->answer.data ? a->answer.data : "", a->answer.len,
                                 0600, err);
    if (rc == 0)
        (void)printf("%s\n", a->receipt.data);
    return rc;
}

static int print_key(struct lorica_client *client, struct lorica_error *err) {
    const struct lorica_client_request request = {.path = "/v1/receipts/key"};
    struct lorica_json *key = NULL;
    const int rc = lorica_client_call(client, &request, NULL, &key, err);
    if (rc == 0)
        (void)printf("%s", lorica_member_text(key, "public_key"));
    lorica_json_destroy(key);
    return rc;
}

static int run(int argc, char **argv) {
    struct lorica_client_options where = {0};
    struct asking a = {.model = NULL};
    const char *answer = NULL;
    bool key = false;
    const struct lorica_option options[] = {
        {.name = "prompt", .value = &a.prompt_path},
        {.name = "answer", .value = &answer},
        {.name = "max-tokens", .value = &a.sampling.max_tokens},
        {.name = "temperature", .value = &a.sampling.temperature},
        {.name = "seed", .value = &a.sampling.seed},
        {.name = "public-key", .flag = &key},
        LORICA_CLIENT_OPTIONS(where)};
    struct lorica_client *client = NULL;
    struct lorica_error err = {0};
    const int words = lorica_cmd_options(&lorica_cmd_receipt, argc, argv, options,
                                         sizeof(options) / sizeof(options[0]), 0, 1);
    if (words < 0 || !lorica_sampling_words_check(&a.sampling))
        return LORICA_EXIT_USAGE;
    if (key ? words > 0 || a.prompt_path : words == 0 || !a.prompt_path)
        return lorica_cmd_usage(&lorica_cmd_receipt,
                                "it takes MODEL and --prompt, or --public-key alone");
    if (!lorica_client_open(&where, &client))
        return LORICA_EXIT_FAILED;
    a.model = words > 0 ? argv[0] : NULL;
    lorica_buf_init(&a.answer, TEXT_MAX);
    lorica_buf_init(&a.receipt, TEXT_MAX);
    const int rc = key ? print_key(client, &err) : ask(client, &a, answer, &err);
    lorica_buf_finish(&a.answer);
    lorica_buf_finish(&a.receipt);
    lorica_client_destroy(client);
    return rc == 0 ? LORICA_EXIT_OK : lorica_cmd_fail(&err);
}

const struct lorica_cmd lorica_cmd_receipt = {
    .name = "adapter receipt",
    .synopsis =
        "MODEL --prompt FILE [--answer FILE] [--max-tokens N] [--temperature X] [--seed N] | "
        "--public-key " LORICA_CLIENT_SYNOPSIS,
    .summary = "get an answer with a signed receipt of what gave it",
    .help =
        "MODEL\tas in a request: cardiology, cardiology:canary, cardiology@3, base\n"
        "--prompt FILE\tthe text that is to be completed\n"
        "--answer FILE\twrite the answer there (mode 0600)\n"
        "--max-tokens N\tmost tokens of the answer\n"
        "--temperature X\t0 to 2\n"
        "--seed N\twhat the answer is drawn with\n"
        "--public-key\tprint the server's public key instead, in PEM\n" LORICA_CLIENT_HELP
        "Prints the receipt, one line of JSON, for `verify receipt`: a statement, signed by the "
        "server, of the base and the adapter's version with their digests, the hashes of prompt "
        "and answer, the sampling and the seed, and where the audit chain stood. Any client gets "
        "one that sends the header \"lorica-receipt: true\". The server keeps neither.\n",
    .run = run,
};
