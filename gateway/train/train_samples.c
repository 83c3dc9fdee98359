/* SPDX-License-Identifier: MIT */
#include "gateway/train/train_samples.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/files.h"
#include "proto/json.h"
#include "runtime/adapter.h"
#include "runtime/engine.h"

#define TEXT_MAX ((size_t)1 << 20)
#define KV_TOKENS 8192

/* One answer on its way; `done` and `text` under the mutex of all. */
struct sample {
    struct samples *all;
    const struct lorica_train_example *example;
    uint32_t prompt; /* ids of it */
    struct lorica_buf text;
    enum lorica_finish finish;
};

struct samples {
    pthread_mutex_t mutex;
    pthread_cond_t done;
    struct sample items[LORICA_TRAIN_SAMPLES];
    size_t count;
    unsigned pending;
};

static void on_event(void *user, const struct lorica_engine_event *event) {
    struct sample *sample = user;
    pthread_mutex_lock(&sample->all->mutex);
    (void)lorica_buf_append(&sample->text, event->text, event->text_len);
    sample->finish = event->finish;
    if (event->finish != LORICA_FINISH_NONE && --sample->all->pending == 0)
        pthread_cond_signal(&sample->all->done);
    pthread_mutex_unlock(&sample->all->mutex);
}

/* What is learnt begins behind the prompt. */
static uint32_t prompt_of(const struct lorica_train_example *e) {
    uint32_t i = 0;
    while (i < e->length && e->labels[i] == -100)
        i++;
    return i >= 2 ? i : (e->length + 1) / 2;
}

static int submit(struct lorica_engine *engine, struct lorica_adapter *adapter,
                  struct sample *sample, struct lorica_error *err) {
    const struct lorica_engine_request request = {
        .prompt = sample->example->ids,
        .prompt_count = sample->prompt,
        .adapter = adapter,
        .sampling = {.top_p = 1, .max_tokens = LORICA_TRAIN_SAMPLE_TOKENS, .top_logprobs = -1},
        .on_event = on_event,
        .user = sample,
    };
    uint64_t id = 0;
    pthread_mutex_lock(&sample->all->mutex);
    sample->all->pending++;
    pthread_mutex_unlock(&sample->all->mutex);
    const int rc = lorica_engine_submit(engine, &request, &id, err);
    if (rc != 0) {
        pthread_mutex_lock(&sample->all->mutex);
        sample->all->pending--;
        pthread_mutex_unlock(&sample->all->mutex);
    }
    return rc;
}

static int answer_all(struct samples *s, const struct lorica_base *base,
                      const struct lorica_tokenizer *tokenizer, struct lorica_adapter *adapter,
                      unsigned threads, struct lorica_error *err) {
    struct lorica_engine *engine = NULL;
    struct lorica_engine_options options;
    lorica_engine_default_options(&options);
    options.threads = threads;
    options.kv_tokens = KV_TOKENS;
    options.max_running = LORICA_TRAIN_SAMPLES;
    int rc = lorica_engine_create(base, tokenizer, &options, &engine, err);
    for (size_t i = 0; i < s->count && rc == 0; i++)
        rc = submit(engine, adapter, &s->items[i], err);
    pthread_mutex_lock(&s->mutex);
    while (rc == 0 && s->pending > 0)
        pthread_cond_wait(&s->done, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
    lorica_engine_destroy(engine); /* what a failure left is cancelled by it */
    return rc;
}

static void put_ids(struct lorica_jsonw *w, const char *key,
                    const struct lorica_tokenizer *tokenizer, const int32_t *ids, size_t count,
                    bool special) {
    struct lorica_buf text;
    lorica_buf_init(&text, TEXT_MAX);
    for (size_t i = 0; i < count; i++)
        (void)lorica_tokenizer_decode(tokenizer, ids[i], special, &text);
    lorica_jsonw_bytes(w, key, text.data ? text.data : "", text.len);
    lorica_buf_finish(&text);
}

static int write_all(const struct samples *s, const char *dir,
                     const struct lorica_tokenizer *tokenizer, struct lorica_error *err) {
    struct lorica_buf out;
    lorica_buf_init(&out, TEXT_MAX * 4);
    for (size_t i = 0; i < s->count; i++) {
        const struct sample *sample = &s->items[i];
        const struct lorica_train_example *e = sample->example;
        struct lorica_jsonw w = {.out = &out};
        uint32_t end = sample->prompt;
        while (end < e->length && e->labels[end] != -100)
            end++;
        lorica_jsonw_object(&w, NULL);
        put_ids(&w, "prompt", tokenizer, e->ids, sample->prompt, true);
        put_ids(&w, "expected", tokenizer, e->ids + sample->prompt, end - sample->prompt, false);
        if (sample->finish == LORICA_FINISH_ERROR)
            lorica_jsonw_null(&w, "answer");
        else
            lorica_jsonw_bytes(&w, "answer", sample->text.data ? sample->text.data : "",
                               sample->text.len);
        lorica_jsonw_end_object(&w);
        (void)lorica_buf_puts(&out, "\n");
    }
    char *path = lorica_path_join(dir, "samples.jsonl");
    int rc = path ? lorica_buf_status(&out) : LORICA_ENOMEM;
    rc = rc ? lorica_fail(err, rc, "the sample answers: %s", lorica_err_text(rc))
            : lorica_file_replace(path, out.data ? out.data : "", out.len, 0644, err);
    free(path);
    lorica_buf_finish(&out);
    return rc;
}

int lorica_train_samples_write(const char *dir, const struct lorica_base *base,
                               const struct lorica_tokenizer *tokenizer,
                               const struct lorica_train_data *data, unsigned threads,
                               struct lorica_error *err) {
    struct samples s = {.count = 0};
    struct lorica_adapter *adapter = NULL;
    pthread_mutex_init(&s.mutex, NULL);
    pthread_cond_init(&s.done, NULL);
    for (size_t i = 0; i < data->count && s.count < LORICA_TRAIN_SAMPLES; i++) {
        const uint32_t prompt = prompt_of(&data->examples[i]);
        if (prompt + LORICA_TRAIN_SAMPLE_TOKENS > base->arch.max_positions ||
            prompt + LORICA_TRAIN_SAMPLE_TOKENS > KV_TOKENS / LORICA_TRAIN_SAMPLES)
            continue;
        struct sample *sample = &s.items[s.count++];
        *sample = (struct sample){.all = &s, .example = &data->examples[i], .prompt = prompt};
        lorica_buf_init(&sample->text, TEXT_MAX);
    }
    int rc = lorica_adapter_load_dir(&base->arch, LORICA_ADAPTER_FAST, dir, &adapter, err);
    if (rc == 0)
        rc = answer_all(&s, base, tokenizer, adapter, threads, err);
    if (rc == 0)
        rc = write_all(&s, dir, tokenizer, err);
    for (size_t i = 0; i < s.count; i++)
        lorica_buf_finish(&s.items[i].text);
    (void)lorica_adapter_unref(adapter);
    pthread_cond_destroy(&s.done);
    pthread_mutex_destroy(&s.mutex);
    return rc;
}
