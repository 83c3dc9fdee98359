/* SPDX-License-Identifier: MIT */
#include "gateway/handlers/checks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "proto/utf8.h"
#include "registry/policy.h"

#define AT_ONCE 8 /* checks in the engine's batch */
#define ANSWER_MAX ((size_t)64 << 10)
#define POLL_MS 100 /* between two looks whether the client is still there */

/* One answer on its way. */
struct answer {
    struct asking *all;
    struct lorica_buf text;
    uint64_t engine_id;
    enum lorica_finish finish; /* NONE: not yet */
};

/* Some checks that are asked together; `finish` and `text` of each under the mutex. */
struct asking {
    pthread_mutex_t mutex;
    pthread_cond_t done;
    struct answer answers[AT_ONCE];
    size_t count, pending;
};

int lorica_checks_prepare(struct lorica_request *request, const char *name, const char *channel,
                          const struct lorica_digest *content, struct lorica_adapter *adapter) {
    struct lorica_policy policy;
    struct lorica_error err = {0};
    char *text = NULL;
    size_t len = 0;
    int rc = lorica_registry_checks(request->server->parts.registry, name, channel, &policy, &text,
                                    &len, &err);
    if (rc == LORICA_ENOTFOUND || (rc == 0 && !text))
        return 0; /* nothing is demanded yet */
    struct lorica_check_run *run = rc == 0 ? calloc(1, sizeof(*run)) : NULL;
    if (rc == 0 && !run)
        rc = lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        rc = lorica_checks_parse(text, len, &run->checks, &err);
    free(text);
    if (rc != 0) {
        free(run);
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    }
    run->adapter = lorica_adapter_ref(adapter);
    run->found = (struct lorica_checked){.content = *content,
                                         .checks = policy.checks_digest,
                                         .policy_epoch = policy.epoch,
                                         .count = (uint32_t)run->checks.count};
    request->checks = run;
    return 0;
}

int lorica_checks_prepare_version(struct lorica_request *request, const char *name,
                                  const char *channel, uint64_t version) {
    struct lorica_version v;
    struct lorica_adapter *adapter = NULL;
    struct lorica_policy policy;
    struct lorica_error err = {0};
    struct lorica_registry *registry = request->server->parts.registry;
    /* Whatever is wrong with the names is for the writer to say. */
    if (lorica_registry_policy(registry, name, channel, &policy, &err) != 0 || !policy.checks ||
        lorica_registry_version(registry, name, version, &v, &err) != 0 || v.deleted_ms)
        return 0;
    if (!lorica_digest_equal(&v.base_digest, &request->server->parts.base->digest))
        return lorica_request_fail(request, LORICA_ECONFLICT, "version", "other_base",
                                   "%s@%llu was published for another base: the checks of channel "
                                   "%s cannot be run",
                                   name, (unsigned long long)version, channel);
    int rc = lorica_handler_adapter(request, &v, &adapter);
    if (rc == 0)
        rc = lorica_checks_prepare(request, name, channel, &v.digest, adapter);
    (void)lorica_adapter_unref(adapter);
    return rc;
}

static void on_event(void *user, const struct lorica_engine_event *event) {
    struct answer *answer = user;
    pthread_mutex_lock(&answer->all->mutex);
    (void)lorica_buf_append(&answer->text, event->text, event->text_len);
    answer->finish = event->finish;
    if (event->finish != LORICA_FINISH_NONE && --answer->all->pending == 0)
        pthread_cond_signal(&answer->all->done);
    pthread_mutex_unlock(&answer->all->mutex);
}

static int render(struct lorica_request *request, const struct lorica_check *check,
                  struct lorica_tokens *prompt, struct lorica_error *err) {
    struct lorica_chat_message messages[2];
    size_t count = 0;
    if (check->system)
        messages[count++] =
            (struct lorica_chat_message){.role = "system", .content = check->system};
    messages[count++] = (struct lorica_chat_message){.role = "user", .content = check->prompt};
    return lorica_chat_render(request->server->parts.chat, request->server->parts.tokenizer,
                              messages, count, true, prompt, NULL, NULL, err);
}

static int submit(struct lorica_request *request, const struct lorica_check *check,
                  struct asking *all, struct lorica_error *err) {
    struct lorica_tokens prompt = {0};
    struct answer *answer = &all->answers[all->count];
    *answer = (struct answer){.all = all};
    lorica_buf_init(&answer->text, ANSWER_MAX);
    int rc = render(request, check, &prompt, err);
    const struct lorica_engine_request asked = {
        .prompt = prompt.ids,
        .prompt_count = prompt.count,
        .adapter = request->checks->adapter,
        .priority = LORICA_PRIORITY_LOW,
        .sampling = {.top_p = 1, .max_tokens = LORICA_CHECK_TOKENS, .top_logprobs = -1},
        .on_event = on_event,
        .user = answer,
    };
    pthread_mutex_lock(&all->mutex);
    all->pending++;
    pthread_mutex_unlock(&all->mutex);
    if (rc == 0)
        rc = lorica_engine_submit(request->server->parts.engine, &asked, &answer->engine_id, err);
    free(prompt.ids);
    if (rc == 0) {
        all->count++;
        return 0;
    }
    pthread_mutex_lock(&all->mutex);
    all->pending--;
    pthread_mutex_unlock(&all->mutex);
    lorica_buf_finish(&answer->text);
    return rc;
}

/* Waits for all answers; `cancel` (or a client that is gone) ends them early. */
static void await(struct lorica_request *request, struct asking *all, bool cancel) {
    pthread_mutex_lock(&all->mutex);
    while (all->pending > 0) {
        struct timespec until;
        if (cancel || atomic_load(&request->gone)) {
            cancel = false;
            pthread_mutex_unlock(&all->mutex);
            for (size_t i = 0; i < all->count; i++)
                lorica_engine_cancel(request->server->parts.engine, all->answers[i].engine_id);
            pthread_mutex_lock(&all->mutex);
        }
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += POLL_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        if (all->pending > 0)
            (void)pthread_cond_timedwait(&all->done, &all->mutex, &until);
    }
    pthread_mutex_unlock(&all->mutex);
}

/* At most `size` - 1 bytes of a text, whole characters of it, its lines on one. */
static void excerpt(char *out, size_t size, const char *text) {
    size_t len = strlen(text);
    if (len >= size)
        for (len = size - 1; len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80;)
            len--;
    for (size_t i = 0; i < len; i++)
        out[i] = (unsigned char)text[i] < 0x20 ? ' ' : text[i];
    out[len] = '\0';
}

static void judge(struct lorica_check_run *run, size_t i, const char *text) {
    const struct lorica_check *check = &run->checks.items[i];
    char prompt[81], phrase[61], said[161];
    bool is_said = false;
    const char *fault = lorica_check_fault(check, text, &is_said);
    if (!fault)
        return;
    if (run->found.failed++ > 0)
        return;
    excerpt(prompt, sizeof(prompt), check->prompt);
    excerpt(phrase, sizeof(phrase), fault);
    excerpt(said, sizeof(said), text);
    (void)snprintf(run->failure, sizeof(run->failure),
                   "check %zu, \"%s\": the answer %s \"%s\"; it is \"%s\"", i + 1, prompt,
                   is_said ? "says" : "does not say", phrase, said);
}

/* Asks the checks from `from` on, as many as go together. */
static int ask_some(struct lorica_request *request, size_t from, size_t *ret_asked,
                    struct lorica_error *err) {
    struct lorica_check_run *run = request->checks;
    struct asking all = {.count = 0};
    int rc = 0;
    pthread_mutex_init(&all.mutex, NULL);
    pthread_cond_init(&all.done, NULL);
    while (rc == 0 && all.count < AT_ONCE && from + all.count < run->checks.count)
        if ((rc = submit(request, &run->checks.items[from + all.count], &all, err)) != 0)
            (void)lorica_fail_prefix(err, "check %zu", from + all.count + 1);
    await(request, &all, rc != 0);
    for (size_t i = 0; i < all.count; i++) {
        const enum lorica_finish finish = all.answers[i].finish;
        if (rc == 0 && finish == LORICA_FINISH_CANCELLED)
            rc = lorica_fail(err, LORICA_ECANCELED, "the checks were broken off");
        else if (rc == 0 && finish == LORICA_FINISH_ERROR)
            rc = lorica_fail(err, LORICA_EGATE, "check %zu: the version computes what is no number",
                             from + i + 1);
        if (rc == 0)
            judge(run, from + i, all.answers[i].text.data ? all.answers[i].text.data : "");
        lorica_buf_finish(&all.answers[i].text);
    }
    *ret_asked = all.count;
    pthread_cond_destroy(&all.done);
    pthread_mutex_destroy(&all.mutex);
    return rc;
}

int lorica_checks_run(struct lorica_request *request) {
    struct lorica_error err = {0};
    int rc = 0;
    for (size_t i = 0, asked = 0; rc == 0 && i < request->checks->checks.count; i += asked)
        rc = atomic_load(&request->gone)
                 ? lorica_fail(&err, LORICA_ECANCELED, "nobody waits for the checks")
                 : ask_some(request, i, &asked, &err);
    return rc == 0 ? 0 : lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
}

const struct lorica_checked *lorica_checks_found(const struct lorica_request *request) {
    return request->checks ? &request->checks->found : NULL;
}

void lorica_checks_explain(struct lorica_request *request) {
    const struct lorica_check_run *run = request->checks;
    if (run && run->failure[0] && request->error.code == LORICA_EGATE)
        (void)snprintf(request->error_aside, sizeof(request->error_aside), "%s", run->failure);
}

void lorica_checks_free(struct lorica_request *request) {
    if (!request->checks)
        return;
    lorica_checks_finish(&request->checks->checks);
    (void)lorica_adapter_unref(request->checks->adapter);
    free(request->checks);
    request->checks = NULL;
}
