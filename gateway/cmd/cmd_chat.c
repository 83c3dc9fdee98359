/* SPDX-License-Identifier: MIT
 * lorica chat: talks to a running server from a terminal, or asks it one thing for a script. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"

#define TALK_MAX (16 << 20) /* bytes of a whole conversation */
#define MODEL_MAX 256

/* One conversation. */
struct talk {
    struct lorica_client *client;
    const char *model, *system;
    struct lorica_sampling_words sampling;
    struct lorica_buf messages; /* what was said, as the inside of a JSON array */
    struct lorica_buf answer;   /* of the model, as it comes */
    bool plain;                 /* standard output is a terminal: control characters stay out */
};

/* Appends {"role","content"} to what was said. */
static void say(struct lorica_buf *messages, const char *role, const char *content, size_t len) {
    struct lorica_jsonw w = {.out = messages};
    if (messages->len > 0)
        (void)lorica_buf_puts(messages, ",");
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "role", role);
    lorica_jsonw_bytes(&w, "content", content, len);
    lorica_jsonw_end_object(&w);
}

static void write_request(const struct talk *talk, struct lorica_buf *body) {
    struct lorica_jsonw w = {.out = body};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "model", talk->model);
    lorica_jsonw_bool(&w, "stream", true);
    lorica_sampling_words_write(&talk->sampling, &w);
    struct lorica_buf list;
    lorica_buf_init(&list, TALK_MAX);
    (void)lorica_buf_puts(&list, "[");
    (void)lorica_buf_append(&list, talk->messages.data, talk->messages.len);
    if (lorica_buf_puts(&list, "]") == 0)
        lorica_jsonw_raw(&w, "messages", list.data, list.len);
    lorica_jsonw_end_object(&w);
    lorica_buf_finish(&list);
}

/* Prints what one event of the stream brings. */
static int on_data(void *arg, const char *data, size_t len) {
    struct talk *talk = arg;
    struct lorica_json *event = NULL;
    struct lorica_error ignored;
    int rc = lorica_json_parse(data, len, &event, &ignored);
    if (rc != 0)
        return rc;
    const struct lorica_json *choice = lorica_json_first(lorica_json_get(event, "choices"));
    const char *text =
        lorica_json_string(lorica_json_get(lorica_json_get(choice, "delta"), "content"));
    if (text && *text) {
        const size_t n = strlen(text);
        rc = lorica_buf_append(&talk->answer, text, n);
        if (talk->plain)
            lorica_print_plain(stdout, text, n);
        else
            (void)fwrite(text, 1, n, stdout);
        (void)fflush(stdout);
    }
    lorica_json_destroy(event);
    return rc;
}

/* Asks, prints the answer as it comes and then on standard error which version gave it, and keeps
 * both in what was said. A question that failed is taken out again. */
static int ask(struct talk *talk, const char *question, struct lorica_error *err) {
    char answered[MODEL_MAX];
    struct lorica_buf body;
    const size_t before = talk->messages.len;
    lorica_buf_init(&body, TALK_MAX + 4096);
    lorica_buf_clear(&talk->answer);
    say(&talk->messages, "user", question, strlen(question));
    write_request(talk, &body);
    int rc = lorica_buf_status(&talk->messages);
    if (rc == 0)
        rc = lorica_buf_status(&body);
    if (rc != 0) {
        rc = lorica_fail(err, rc, "the conversation is too long; /new begins another");
    } else {
        const struct lorica_client_request request = {
            .path = "/v1/chat/completions", .body = body.data, .body_len = body.len};
        rc = lorica_client_stream(talk->client, &request, on_data, talk, answered, sizeof(answered),
                                  err);
        if (rc == 0 || talk->answer.len > 0)
            (void)putchar('\n');
        (void)fflush(stdout);
    }
    lorica_buf_finish(&body);
    if (rc != 0) {
        talk->messages.len = before;
        return rc;
    }
    (void)fprintf(stderr, "-- %s\n", *answered ? answered : talk->model);
    say(&talk->messages, "assistant", talk->answer.data ? talk->answer.data : "", talk->answer.len);
    return 0;
}

static void begin(struct talk *talk) {
    lorica_buf_clear(&talk->messages);
    if (talk->system)
        say(&talk->messages, "system", talk->system, strlen(talk->system));
}

/* Reads questions line by line until the end of standard input. */
static int converse(struct talk *talk) {
    const bool terminal = isatty(STDIN_FILENO) == 1;
    struct lorica_error err = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int rc = LORICA_EXIT_OK;
    if (terminal)
        (void)fprintf(stderr, "%s at %s; /new forgets what was said, Ctrl-D ends\n", talk->model,
                      lorica_client_server(talk->client));
    for (;;) {
        if (terminal)
            (void)fputs("> ", stderr);
        if ((len = getline(&line, &cap, stdin)) < 0)
            break;
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            line[--len] = '\0';
        if (strcmp(line, "/new") == 0) {
            begin(talk);
        } else if (len > 0 && ask(talk, line, &err) != 0) {
            rc = lorica_cmd_fail(&err);
            if (!terminal)
                break;
        }
    }
    if (terminal)
        (void)fputc('\n', stderr);
    free(line);
    return terminal ? LORICA_EXIT_OK : rc;
}

static int run(int argc, char **argv) {
    struct lorica_client_options where = {0};
    struct talk talk = {.model = "base", .plain = isatty(STDOUT_FILENO) == 1};
    struct lorica_error err = {0};
    const char *prompt = NULL;
    const struct lorica_option options[] = {
        {.name = "prompt", .value = &prompt},
        {.name = "system", .value = &talk.system},
        {.name = "max-tokens", .value = &talk.sampling.max_tokens},
        {.name = "temperature", .value = &talk.sampling.temperature},
        {.name = "seed", .value = &talk.sampling.seed},
        LORICA_CLIENT_OPTIONS(where)};
    const int words = lorica_cmd_options(&lorica_cmd_chat, argc, argv, options,
                                         sizeof(options) / sizeof(options[0]), 0, 1);
    if (words < 0 || !lorica_sampling_words_check(&talk.sampling))
        return LORICA_EXIT_USAGE;
    if (words > 0)
        talk.model = argv[0];
    if (!lorica_client_open(&where, &talk.client))
        return LORICA_EXIT_FAILED;
    lorica_buf_init(&talk.messages, TALK_MAX);
    lorica_buf_init(&talk.answer, TALK_MAX);
    begin(&talk);
    int rc = LORICA_EXIT_OK;
    if (!prompt)
        rc = converse(&talk);
    else if (ask(&talk, prompt, &err) != 0)
        rc = lorica_cmd_fail(&err);
    lorica_buf_finish(&talk.messages);
    lorica_buf_finish(&talk.answer);
    lorica_client_destroy(talk.client);
    return rc;
}

const struct lorica_cmd lorica_cmd_chat = {
    .name = "chat",
    .synopsis = "[NAME] [--prompt TEXT] [--system TEXT] [--max-tokens N] [--temperature T] "
                "[--seed N] " LORICA_CLIENT_SYNOPSIS,
    .summary = "talk to the server from a terminal",
    .help = "NAME\twho answers: an adapter, NAME@V, NAME:CHANNEL, or base, the model without an "
            "adapter, which is also what answers where no name is given\n"
            "--prompt TEXT\task this one thing and end: the answer goes to standard output, the "
            "version that gave it to standard error. Otherwise each line of standard input is a "
            "question, and what was said before is remembered\n"
            "--system TEXT\tthe system message, instead of the model's own\n"
            "--max-tokens N\tlongest answer\n"
            "--temperature T\t0 for the likeliest answer, up to 2\n"
            "--seed N\tthe same answer again for the same question\n" LORICA_CLIENT_HELP,
    .run = run,
};
