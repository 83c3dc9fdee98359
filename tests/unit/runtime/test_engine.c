/* SPDX-License-Identifier: MIT
 * The engine: an answer is the same alone and among strangers, whatever the threads, the chunks and
 * the instruction set; and what may go wrong with one request stays with it. */
#include "engine_fixture.h"
#include "kernels/cpu.h"
#include "runtime/train/model.h"

#define WAYS 4

/* All requests, joining a running batch one after the other, against the same alone. */
static void compare_batch(struct lorica_engine *engine, struct stream alone[STREAMS]) {
    struct stream *together = calloc(STREAMS, sizeof(*together));
    struct made_request made;
    assert_non_null(together);
    for (uint32_t i = 0; i < STREAMS; i++) {
        stream_init(&together[i]);
        make_request(&made, i, &together[i]);
        (void)submit(engine, &made);
        if (i % 4 == 3) /* the next ones come when these are under way */
            stream_wait_tokens(&together[i], 2);
    }
    for (uint32_t i = 0; i < STREAMS; i++) {
        assert_int_equal(stream_wait(&together[i]), LORICA_FINISH_LENGTH);
        assert_int_equal(together[i].finishes, 1);
        expect_equal(&alone[i], &together[i]);
        stream_finish(&together[i]);
    }
    free(together);
}

static void compare_all(size_t ways_count) {
    static const struct {
        unsigned threads;
        uint32_t chunk;
    } ways[WAYS] = {{1, 16}, {2, 128}, {3, 1}, {2, 50}};
    struct stream *alone = calloc(STREAMS, sizeof(*alone));
    assert_non_null(alone);
    struct lorica_engine *engine = start(2, 128, 8192);
    for (uint32_t i = 0; i < STREAMS; i++)
        run_alone(engine, i, &alone[i]);
    compare_batch(engine, alone);
    stop(engine);
    for (size_t w = 0; w < ways_count; w++) {
        engine = start(ways[w].threads, ways[w].chunk, 8192);
        compare_batch(engine, alone);
        stop(engine);
    }
    for (uint32_t i = 0; i < STREAMS; i++)
        stream_finish(&alone[i]);
    free(alone);
}

static void test_engine_answer_is_the_same_alone_and_among_strangers(void **state) {
    const enum lorica_cpu_level best = lorica_cpu_level();
    for (int level = 0; level < LORICA_CPU_COUNT; level++) {
        if (!lorica_cpu_supports((enum lorica_cpu_level)level))
            continue;
        assert_int_equal(lorica_cpu_limit((enum lorica_cpu_level)level), 0);
        compare_all(level == (int)best ? WAYS : 1);
    }
    assert_int_equal(lorica_cpu_limit(best), 0);
}

static void test_engine_adapters_change_the_answer(void **state) {
    struct lorica_engine *engine = start(1, 128, 4096);
    struct stream streams[ADAPTERS];
    for (uint32_t i = 0; i < ADAPTERS; i++) {
        struct made_request made;
        stream_init(&streams[i]);
        make_request(&made, 10, &streams[i]); /* greedy, one prompt for all */
        made.request.adapter = adapters[i];
        (void)submit(engine, &made);
        assert_int_equal(stream_wait(&streams[i]), LORICA_FINISH_LENGTH);
        for (uint32_t j = 0; j < i; j++)
            assert_memory_not_equal(streams[j].logprobs, streams[i].logprobs, 8 * sizeof(float));
    }
    for (uint32_t i = 0; i < ADAPTERS; i++)
        stream_finish(&streams[i]);
    stop(engine);
}

/* The difference to the exact forward, root mean square against that of the exact logits. */
static double distance(struct lorica_base *from, const struct lorica_adapter *exact,
                       struct lorica_adapter *fast, const int32_t *ids, uint32_t count) {
    const size_t values = (size_t)count * from->arch.vocab;
    float *a = malloc(values * sizeof(*a)), *b = malloc(values * sizeof(*b));
    struct lorica_pool *pool;
    struct lorica_error err = {0};
    double exact_squares = 0, squares = 0;
    assert_true(a && b);
    assert_int_equal(lorica_pool_create(2, &pool, &err), 0);
    if (lorica_exact_logits(from, exact, pool, ids, 1, count, a, &err) != 0 ||
        lorica_engine_logits(from, fast, LORICA_KV_BF16, 2, ids, count, b, &err) != 0)
        fail_msg("%s", err.text);
    lorica_pool_destroy(pool);
    for (size_t i = 0; i < values; i++) {
        exact_squares += (double)a[i] * a[i];
        squares += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        assert_true(isfinite(b[i]));
    }
    free(a);
    free(b);
    return sqrt(squares / exact_squares);
}

static void test_engine_logits_are_near_the_exact_ones(void **state) {
    static const char *const names[] = {"tiny", "tiny-nf4", "tiny-odd", "tiny-odd-nf4",
                                        "tiny.gguf"};
    int32_t ids[150];
    for (int i = 0; i < 150; i++)
        ids[i] = (int32_t)((made_up((uint64_t)i) + 1) * 0.5f * 600);
    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
        struct lorica_base *other = open_golden(names[n]);
        for (uint32_t rank = 0; rank < 24; rank += 8) {
            struct lorica_adapter *exact = NULL, *fast = NULL;
            if (rank) {
                exact = make_adapter(&other->arch, LORICA_ADAPTER_EXACT, rank, 7);
                fast = make_adapter(&other->arch, LORICA_ADAPTER_FAST, rank, 7);
            }
            const double d = distance(other, exact, fast, ids, 150);
            if (d > 0.06)
                fail_msg("%s with rank %u: off by %g of the logits", names[n], rank, d);
            (void)lorica_adapter_unref(exact);
            (void)lorica_adapter_unref(fast);
        }
        lorica_base_close(other);
    }
}

static void test_engine_logits_outside_bounds_are_refused(void **state) {
    struct lorica_error err = {0};
    float logit;
    const int32_t ids[] = {0, 601};
    assert_int_equal(lorica_engine_logits(base, NULL, LORICA_KV_BF16, 1, ids, 0, &logit, &err),
                     LORICA_EINVAL);
    assert_int_equal(lorica_engine_logits(base, NULL, LORICA_KV_BF16, 1, ids, 2, &logit, &err),
                     LORICA_EINVAL);
    assert_int_equal(lorica_engine_logits(base, NULL, LORICA_KV_BF16, 1, ids, 513, &logit, &err),
                     LORICA_EINVAL);
}

static void test_engine_cancel_ends_running_and_waiting_requests(void **state) {
    struct lorica_engine_options options;
    struct lorica_engine *engine;
    struct stream streams[3];
    atomic_bool hold = true;
    uint64_t ids[3];
    lorica_engine_default_options(&options);
    options.threads = 1;
    options.max_running = 1;
    assert_int_equal(lorica_engine_create(base, tokenizer, &options, &engine, NULL), 0);
    for (uint32_t i = 0; i < 3; i++) {
        struct made_request made;
        stream_init(&streams[i]);
        make_request(&made, i, &streams[i]);
        streams[i].hold = i == 0 ? &hold : NULL;
        made.request.sampling.max_tokens = i == 2 ? 3 : 400;
        ids[i] = submit(engine, &made);
    }
    lorica_engine_cancel(engine, ids[1]); /* waiting */
    lorica_engine_cancel(engine, ids[0]); /* running: its first token is being delivered */
    lorica_engine_cancel(engine, 12345);
    atomic_store(&hold, false);
    assert_int_equal(stream_wait(&streams[1]), LORICA_FINISH_CANCELLED);
    assert_int_equal(streams[1].count, 0);
    assert_int_equal(stream_wait(&streams[0]), LORICA_FINISH_CANCELLED);
    assert_true(streams[0].count <= 1); /* not one step more */
    assert_int_equal(stream_wait(&streams[2]), LORICA_FINISH_LENGTH);
    lorica_engine_cancel(engine, ids[2]);
    struct lorica_engine_stats stats;
    lorica_engine_stats(engine, &stats);
    assert_int_equal(stats.cancelled, 2);
    assert_int_equal(stats.finished, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(streams[i].finishes, 1);
        stream_finish(&streams[i]);
    }
    stop(engine);
}

static void test_engine_full_queue_refuses_more(void **state) {
    struct lorica_engine_options options;
    struct lorica_engine *engine;
    struct stream streams[4];
    atomic_bool hold = true;
    struct made_request made;
    struct lorica_error err = {0};
    uint64_t ids[4] = {0};
    lorica_engine_default_options(&options);
    options.threads = 1;
    options.max_running = 1;
    options.max_waiting = 2;
    assert_int_equal(lorica_engine_create(base, tokenizer, &options, &engine, NULL), 0);
    for (uint32_t i = 0; i < 4; i++) {
        stream_init(&streams[i]);
        make_request(&made, i, &streams[i]);
        streams[i].hold = &hold;
        made.request.sampling.max_tokens = 400;
        if (i < 3)
            ids[i] = submit(engine, &made);
        else
            assert_int_equal(lorica_engine_submit(engine, &made.request, &ids[i], &err),
                             LORICA_EBUSY);
    }
    assert_int_equal(streams[3].finishes, 0);
    atomic_store(&hold, false);
    for (uint32_t i = 0; i < 3; i++) {
        lorica_engine_cancel(engine, ids[i]);
        (void)stream_wait(&streams[i]);
    }
    for (uint32_t i = 0; i < 4; i++)
        stream_finish(&streams[i]);
    stop(engine);
}

static void test_engine_full_cache_makes_requests_wait(void **state) {
    /* Room for one or two at a time. */
    struct lorica_engine *engine = start(2, 32, 160);
    struct stream *streams = calloc(STREAMS, sizeof(*streams));
    struct made_request made;
    struct lorica_engine_stats stats;
    assert_non_null(streams);
    for (uint32_t i = 0; i < STREAMS; i++) {
        stream_init(&streams[i]);
        make_request(&made, i, &streams[i]);
        (void)submit(engine, &made);
    }
    for (uint32_t i = 0; i < STREAMS; i++) {
        lorica_engine_stats(engine, &stats);
        assert_true(stats.kv_pages_used <= stats.kv_pages_total);
        assert_int_equal(stream_wait(&streams[i]), LORICA_FINISH_LENGTH);
        stream_finish(&streams[i]);
    }
    free(streams);
    stop(engine);
}

static void test_engine_requests_that_cannot_be_served_are_refused(void **state) {
    struct lorica_engine *engine = start(1, 32, 160);
    struct stream stream;
    struct made_request made;
    struct lorica_error err = {0};
    struct lorica_adapter *exact = make_adapter(&base->arch, LORICA_ADAPTER_EXACT, 2, 1);
    static const struct lorica_logit_bias bias = {601, 1};
    uint64_t id;
    stream_init(&stream);
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        make_request(&made, 1, &stream);                                                           \
        change;                                                                                    \
        assert_int_equal(lorica_engine_submit(engine, &made.request, &id, &err), LORICA_EINVAL);   \
    } while (0)
    REFUSED(made.request.prompt_count = 0);
    REFUSED(made.prompt[1] = 601);
    REFUSED(made.prompt[1] = -1);
    REFUSED(made.request.sampling.max_tokens = 0);
    REFUSED(made.request.sampling.max_tokens = 160);
    assert_non_null(strstr(err.text, "160"));
    REFUSED(made.request.sampling.temperature = NAN);
    REFUSED(made.request.sampling.temperature = -1);
    REFUSED(made.request.sampling.top_p = 1.5f);
    REFUSED(made.request.sampling.min_p = 2);
    REFUSED(made.request.sampling.top_logprobs = 21);
    REFUSED(made.request.sampling.presence_penalty = INFINITY);
    REFUSED((made.request.sampling.logit_bias = &bias, made.request.sampling.logit_bias_count = 1));
    REFUSED(made.request.sampling.stop_count = 5);
    REFUSED(made.request.adapter = exact);
#undef REFUSED
    assert_int_equal(stream.finishes, 0);
    assert_int_equal(exact->refs, 1);
    (void)lorica_adapter_unref(exact);
    stream_finish(&stream);
    stop(engine);
}

static void test_engine_stop_string_and_stop_token_end_the_answer(void **state) {
    struct lorica_engine *engine = start(1, 32, 2048);
    struct stream whole, cut;
    struct made_request made;
    char stop_text[4] = "";
    run_alone(engine, 10, &whole);
    assert_true(whole.text_len > 12);
    /* A piece from the middle of the answer stops it there, or where it first stands. */
    memcpy(stop_text, whole.text + 10, 1);
    const char *const stops[] = {stop_text};
    stream_init(&cut);
    make_request(&made, 10, &cut);
    made.request.sampling.stop = stops;
    made.request.sampling.stop_count = 1;
    (void)submit(engine, &made);
    assert_int_equal(stream_wait(&cut), LORICA_FINISH_STOP);
    assert_true(cut.text_len <= 10 && cut.count <= whole.count);
    assert_memory_equal(cut.text, whole.text, cut.text_len);
    assert_int_equal(whole.text[cut.text_len], stop_text[0]);
    stream_finish(&cut);
    /* The end token, made certain, ends it with nothing. */
    size_t count;
    const struct lorica_logit_bias bias = {lorica_tokenizer_stop_ids(tokenizer, &count)[0], 1000};
    stream_init(&cut);
    make_request(&made, 10, &cut);
    made.request.sampling.ignore_eos = false;
    made.request.sampling.logit_bias = &bias;
    made.request.sampling.logit_bias_count = 1;
    (void)submit(engine, &made);
    assert_int_equal(stream_wait(&cut), LORICA_FINISH_STOP);
    assert_int_equal(cut.count, 0);
    assert_int_equal(cut.text_len, 0);
    stream_finish(&cut);
    stream_finish(&whole);
    stop(engine);
}

/* An adapter whose products overflow: its request fails, its neighbours' answers stand, and the
 * pages that held its values do no harm to who has them next. */
static void test_engine_numeric_failure_stays_with_its_request(void **state) {
    struct adapter_spec *spec = spec_full(&base->arch, 4, 3);
    struct lorica_adapter *broken;
    struct lorica_engine *engine = start(2, 32, 512);
    struct stream alone, bad, good;
    struct made_request made;
    for (size_t i = 0; i < spec->count; i++)
        spec->tensors[i].scale = 1e19f;
    assert_int_equal(spec_build(spec, &base->arch, LORICA_ADAPTER_FAST, &broken, NULL), 0);
    run_alone(engine, 10, &alone);
    for (int round = 0; round < 4; round++) {
        stream_init(&bad);
        stream_init(&good);
        make_request(&made, 11, &bad);
        made.request.adapter = broken;
        (void)submit(engine, &made);
        make_request(&made, 10, &good);
        (void)submit(engine, &made);
        assert_int_equal(stream_wait(&bad), LORICA_FINISH_ERROR);
        assert_int_equal(bad.count, 0);
        assert_int_equal(stream_wait(&good), LORICA_FINISH_LENGTH);
        expect_equal(&alone, &good);
        stream_finish(&bad);
        stream_finish(&good);
    }
    stop(engine);
    stream_finish(&alone);
    (void)lorica_adapter_unref(broken);
    free(spec);
}

static void test_engine_destroy_cancels_what_runs(void **state) {
    struct lorica_engine *engine = start(2, 32, 2048);
    struct stream streams[6];
    atomic_bool hold = true;
    struct made_request made;
    for (uint32_t i = 0; i < 6; i++) {
        stream_init(&streams[i]);
        make_request(&made, i, &streams[i]);
        streams[i].hold = &hold;
        made.request.sampling.max_tokens = 400;
        (void)submit(engine, &made);
    }
    atomic_store(&hold, false);
    lorica_engine_destroy(engine);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(streams[i].finishes, 1);
        assert_int_equal(streams[i].finish, LORICA_FINISH_CANCELLED);
        stream_finish(&streams[i]);
    }
}

struct client {
    struct lorica_engine *engine;
    const struct stream *alone;
    uint32_t number;
    uint32_t wrong;
};

/* Submits, now and then cancels, and compares what came whole. */
static void *client_main(void *arg) {
    struct client *c = arg;
    for (uint32_t round = 0; round < 6; round++) {
        const uint32_t i = (c->number * 5 + round) % STREAMS;
        struct stream stream;
        struct made_request made;
        uint64_t id;
        stream_init(&stream);
        make_request(&made, i, &stream);
        if (lorica_engine_submit(c->engine, &made.request, &id, NULL) != 0) {
            c->wrong++;
            continue;
        }
        if ((round + c->number) % 3 == 0)
            lorica_engine_cancel(c->engine, id);
        const enum lorica_finish finish = stream_wait(&stream);
        if (finish == LORICA_FINISH_LENGTH)
            c->wrong += memcmp(stream.tokens, c->alone[i].tokens,
                               stream.count * sizeof(stream.tokens[0])) != 0;
        else
            c->wrong += finish != LORICA_FINISH_CANCELLED;
        stream_finish(&stream);
    }
    return NULL;
}

static void test_engine_many_clients_get_their_own_answers(void **state) {
    struct lorica_engine *engine = start(2, 32, 2048);
    struct stream *alone = calloc(STREAMS, sizeof(*alone));
    struct client clients[8];
    pthread_t threads[8];
    assert_non_null(alone);
    for (uint32_t i = 0; i < STREAMS; i++)
        run_alone(engine, i, &alone[i]);
    for (uint32_t i = 0; i < 8; i++) {
        clients[i] = (struct client){engine, alone, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, client_main, &clients[i]), 0);
    }
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(clients[i].wrong, 0);
    }
    for (uint32_t i = 0; i < STREAMS; i++)
        stream_finish(&alone[i]);
    free(alone);
    stop(engine);
}

static void test_engine_options_out_of_range_are_refused(void **state) {
    struct lorica_engine_options good, options;
    struct lorica_engine *engine = NULL;
    struct lorica_error err = {0};
    lorica_engine_default_options(&good);
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        options = good;                                                                            \
        change;                                                                                    \
        assert_true(lorica_engine_create(base, tokenizer, &options, &engine, &err) != 0);          \
        assert_null(engine);                                                                       \
    } while (0)
    REFUSED(options.max_running = 0);
    REFUSED(options.max_running = 1u << 30);
    REFUSED(options.max_waiting = UINT32_MAX);
    REFUSED(options.prefill_chunk = 0);
    REFUSED(options.kv_tokens = 0);
    REFUSED(options.threads = 1000);
#undef REFUSED
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_answer_is_the_same_alone_and_among_strangers),
        cmocka_unit_test(test_engine_adapters_change_the_answer),
        cmocka_unit_test(test_engine_logits_are_near_the_exact_ones),
        cmocka_unit_test(test_engine_logits_outside_bounds_are_refused),
        cmocka_unit_test(test_engine_cancel_ends_running_and_waiting_requests),
        cmocka_unit_test(test_engine_full_queue_refuses_more),
        cmocka_unit_test(test_engine_full_cache_makes_requests_wait),
        cmocka_unit_test(test_engine_requests_that_cannot_be_served_are_refused),
        cmocka_unit_test(test_engine_stop_string_and_stop_token_end_the_answer),
        cmocka_unit_test(test_engine_numeric_failure_stays_with_its_request),
        cmocka_unit_test(test_engine_destroy_cancels_what_runs),
        cmocka_unit_test(test_engine_many_clients_get_their_own_answers),
        cmocka_unit_test(test_engine_options_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
