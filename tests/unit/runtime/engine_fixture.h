/* SPDX-License-Identifier: MIT
 * What the engine's tests share: a small base, adapters, made-up requests and what they bring. */
#ifndef LORICA_TESTS_ENGINE_FIXTURE_H
#define LORICA_TESTS_ENGINE_FIXTURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "model_fixture.h"
#include "runtime/engine.h"
#include "runtime/tokenizer.h"

#define STREAMS 16
#define ADAPTERS 5
#define MAX_OUT 64

static struct lorica_base *base;
static struct lorica_tokenizer *tokenizer;
static struct lorica_adapter *adapters[ADAPTERS]; /* [0] stays NULL: the base */

static inline int open_all(void **state) {
    struct lorica_error err = {0};
    base = open_golden("tiny-odd-nf4");
    if (lorica_tokenizer_create(base->metadata, base->metadata_len, &tokenizer, &err) != 0)
        fail_msg("%s", err.text);
    for (uint32_t i = 1; i < ADAPTERS; i++) {
        adapters[i] = make_adapter(&base->arch, LORICA_ADAPTER_FAST, 3 * i - 1, i);
        adapters[i]->digest.bytes[0] = (uint8_t)i; /* pages are shared by digest */
    }
    return 0;
}

static inline int close_all(void **state) {
    for (uint32_t i = 1; i < ADAPTERS; i++) {
        assert_int_equal(adapters[i]->refs, 1);
        (void)lorica_adapter_unref(adapters[i]);
    }
    lorica_tokenizer_destroy(tokenizer);
    lorica_base_close(base);
    return 0;
}

/* What one request brought, written by its events. */
struct stream {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int32_t tokens[MAX_OUT];
    float logprobs[MAX_OUT];
    uint32_t count;
    char text[4096];
    size_t text_len;
    enum lorica_finish finish;
    uint32_t finishes, prompt_tokens, completion_tokens, cached_tokens;
    const atomic_bool *hold; /* while it is set, the engine's thread waits in the events */
    atomic_bool reached;     /* it has come to an event */
};

static inline void stream_init(struct stream *s) {
    *s = (struct stream){.count = 0};
    assert_int_equal(pthread_mutex_init(&s->mutex, NULL), 0);
    assert_int_equal(pthread_cond_init(&s->changed, NULL), 0);
}

static inline void stream_finish(struct stream *s) {
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->mutex);
}

static inline void on_event(void *user, const struct lorica_engine_event *event) {
    struct stream *s = user;
    atomic_store(&s->reached, true);
    while (s->hold && atomic_load(s->hold))
        (void)usleep(100);
    (void)pthread_mutex_lock(&s->mutex);
    if (event->token >= 0 && s->count < MAX_OUT) {
        s->logprobs[s->count] = event->logprob;
        s->tokens[s->count++] = event->token;
    }
    if (s->text_len + event->text_len <= sizeof(s->text)) {
        memcpy(s->text + s->text_len, event->text, event->text_len);
        s->text_len += event->text_len;
    }
    s->prompt_tokens = event->prompt_tokens;
    s->completion_tokens = event->completion_tokens;
    s->cached_tokens = event->cached_tokens;
    s->finishes += event->finish != LORICA_FINISH_NONE;
    s->finish = event->finish;
    (void)pthread_cond_signal(&s->changed);
    (void)pthread_mutex_unlock(&s->mutex);
}

static inline enum lorica_finish stream_wait(struct stream *s) {
    (void)pthread_mutex_lock(&s->mutex);
    while (s->finishes == 0)
        (void)pthread_cond_wait(&s->changed, &s->mutex);
    const enum lorica_finish finish = s->finish;
    (void)pthread_mutex_unlock(&s->mutex);
    return finish;
}

static inline void stream_wait_tokens(struct stream *s, uint32_t count) {
    (void)pthread_mutex_lock(&s->mutex);
    while (s->count < count && s->finishes == 0)
        (void)pthread_cond_wait(&s->changed, &s->mutex);
    (void)pthread_mutex_unlock(&s->mutex);
}

/* Request number i: prompt, adapter, length and settings of its own. */
struct made_request {
    int32_t prompt[128];
    struct lorica_engine_request request;
};

static inline void make_request(struct made_request *made, uint32_t i, struct stream *stream) {
    const uint32_t count = 3 + i * 29 % 97;
    for (uint32_t j = 0; j < count; j++)
        made->prompt[j] = (int32_t)((made_up(1000 * i + j) + 1) * 0.5f * 600);
    made->request =
        (struct lorica_engine_request){.prompt = made->prompt,
                                       .prompt_count = count,
                                       .adapter = adapters[i % ADAPTERS],
                                       .sampling = {.temperature = i % 3 == 2 ? 0.8f : 0,
                                                    .top_p = 0.95f,
                                                    .seed = i,
                                                    .max_tokens = 10 + i * 7 % 40,
                                                    .ignore_eos = true,
                                                    .top_logprobs = 0},
                                       .on_event = on_event,
                                       .user = stream};
}

static inline struct lorica_engine *start_with(const struct lorica_engine_options *options) {
    struct lorica_engine *engine = NULL;
    struct lorica_error err = {0};
    if (lorica_engine_create(base, tokenizer, options, &engine, &err) != 0)
        fail_msg("%s", err.text);
    return engine;
}

static inline struct lorica_engine_options options_of(unsigned threads, uint32_t chunk,
                                                      uint32_t kv_tokens) {
    struct lorica_engine_options options;
    lorica_engine_default_options(&options);
    options.threads = threads;
    options.prefill_chunk = chunk;
    options.kv_tokens = kv_tokens;
    return options;
}

static inline struct lorica_engine *start(unsigned threads, uint32_t chunk, uint32_t kv_tokens) {
    const struct lorica_engine_options options = options_of(threads, chunk, kv_tokens);
    return start_with(&options);
}

static inline uint64_t submit(struct lorica_engine *engine, const struct made_request *made) {
    struct lorica_error err = {0};
    uint64_t id = 0;
    if (lorica_engine_submit(engine, &made->request, &id, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(id > 0);
    return id;
}

/* Nothing is left behind: pages, sequences. */
static inline void stop(struct lorica_engine *engine) {
    struct lorica_engine_stats stats;
    lorica_engine_stats(engine, &stats);
    assert_int_equal(stats.kv_pages_used, 0);
    assert_int_equal(stats.running, 0);
    assert_int_equal(stats.waiting, 0);
    lorica_engine_destroy(engine);
}

static inline void run_alone(struct lorica_engine *engine, uint32_t i, struct stream *stream) {
    struct made_request made;
    stream_init(stream);
    make_request(&made, i, stream);
    (void)submit(engine, &made);
    assert_int_equal(stream_wait(stream), LORICA_FINISH_LENGTH);
    assert_int_equal(stream->count, made.request.sampling.max_tokens);
    assert_int_equal(stream->completion_tokens, stream->count);
    assert_int_equal(stream->prompt_tokens, made.request.prompt_count);
}

static inline void expect_equal(const struct stream *a, const struct stream *b) {
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->tokens, b->tokens, a->count * sizeof(a->tokens[0]));
    assert_memory_equal(a->logprobs, b->logprobs, a->count * sizeof(a->logprobs[0]));
    assert_int_equal(a->text_len, b->text_len);
    assert_memory_equal(a->text, b->text, a->text_len);
}

#endif
