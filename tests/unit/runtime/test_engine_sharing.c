/* SPDX-License-Identifier: MIT
 * Shared pages and preemption change no answer: not by hits or misses, not by what else is kept,
 * and never by a page of another adapter. */
#include "engine_fixture.h"

#define PROMPT 90

/* The same prompt and settings for all: only the adapter differs, and the tail after `common`. */
static void make_alike(struct made_request *made, uint32_t adapter, uint32_t common, uint32_t tail,
                       struct stream *stream) {
    make_request(made, 10, stream);
    for (uint32_t j = 0; j < PROMPT; j++)
        made->prompt[j] =
            (int32_t)((made_up(j < common ? j : 1000 * (tail + 1) + j) + 1) * 0.5f * 600);
    made->request.prompt_count = PROMPT;
    made->request.adapter = adapters[adapter];
    made->request.sampling.max_tokens = 12;
}

static uint32_t ask(struct lorica_engine *engine, uint32_t adapter, uint32_t common, uint32_t tail,
                    struct stream *stream) {
    struct made_request made;
    stream_init(stream);
    make_alike(&made, adapter, common, tail, stream);
    (void)submit(engine, &made);
    assert_int_equal(stream_wait(stream), LORICA_FINISH_LENGTH);
    return stream->cached_tokens;
}

static struct lorica_engine *start_uncached(void) {
    struct lorica_engine_options options = options_of(2, 128, 4096);
    options.prefix_bytes = 0;
    return start_with(&options);
}

static void test_sharing_hit_answers_as_a_miss_does(void **state) {
    struct lorica_engine *cold = start_uncached(), *warm = start(2, 128, 4096);
    struct stream expected, got;
    for (uint32_t tail = 0; tail < 4; tail++) {
        assert_int_equal(ask(cold, 1, 70, tail, &expected), 0);
        /* 70 tokens in common: 4 whole pages; a second time all but the last token's page. */
        assert_int_equal(ask(warm, 1, 70, tail, &got), tail == 0 ? 0 : 64);
        expect_equal(&expected, &got);
        stream_finish(&got);
        assert_int_equal(ask(warm, 1, 70, tail, &got), 80);
        expect_equal(&expected, &got);
        stream_finish(&got);
        stream_finish(&expected);
    }
    stop(cold);
    stop(warm);
}

static void test_sharing_last_token_is_always_computed(void **state) {
    struct lorica_engine *engine = start(1, 128, 4096);
    for (uint32_t count = 31; count < 36; count++)
        for (int round = 0; round < 2; round++) {
            struct made_request made;
            struct stream stream;
            stream_init(&stream);
            make_alike(&made, 0, PROMPT, 0, &stream);
            made.request.prompt_count = count;
            made.request.adapter = adapters[2];
            made.prompt[0] = (int32_t)count; /* shares with nobody but itself */
            (void)submit(engine, &made);
            assert_int_equal(stream_wait(&stream), LORICA_FINISH_LENGTH);
            assert_int_equal(stream.cached_tokens, round == 0 ? 0 : count <= 32 ? 16 : 32);
            stream_finish(&stream);
        }
    stop(engine);
}

/* A conversation: the next prompt is the last one with its answer and more. */
static void test_sharing_goes_on_through_the_answer(void **state) {
    struct lorica_engine *engine = start(2, 128, 4096);
    struct made_request made;
    struct stream first, second;
    stream_init(&first);
    make_alike(&made, 1, PROMPT, 0, &first);
    made.request.sampling.max_tokens = 25;
    (void)submit(engine, &made);
    assert_int_equal(stream_wait(&first), LORICA_FINISH_LENGTH);
    memcpy(made.prompt + PROMPT, first.tokens, 25 * sizeof(first.tokens[0]));
    stream_init(&second);
    made.request.prompt_count = PROMPT + 25;
    made.request.user = &second;
    (void)submit(engine, &made);
    assert_int_equal(stream_wait(&second), LORICA_FINISH_LENGTH);
    assert_int_equal(second.cached_tokens, 112); /* 114 had keys and values: 7 whole pages */
    stream_finish(&first);
    stream_finish(&second);
    stop(engine);
}

/* One text on every adapter and the base, in turns, so that whoever could take another's page
 * would: each always answers as it does alone. */
static void test_sharing_never_crosses_adapters(void **state) {
    struct lorica_engine *cold = start_uncached(), *warm = start(2, 128, 4096);
    struct stream expected[ADAPTERS], got;
    for (uint32_t a = 0; a < ADAPTERS; a++)
        (void)ask(cold, a, PROMPT, 0, &expected[a]);
    for (uint32_t round = 0; round < 6; round++)
        for (uint32_t i = 0; i < ADAPTERS; i++) {
            const uint32_t a = (i * 3 + round) % ADAPTERS;
            assert_int_equal(ask(warm, a, PROMPT, 0, &got), round == 0 ? 0 : 80);
            expect_equal(&expected[a], &got);
            stream_finish(&got);
        }
    for (uint32_t a = 0; a < ADAPTERS; a++)
        stream_finish(&expected[a]);
    stop(cold);
    stop(warm);
}

/* An adapter without a digest is nobody that could be recognised. */
static void test_sharing_needs_a_digest(void **state) {
    static const struct lorica_digest none = {{0}};
    const struct lorica_digest digest = adapters[1]->digest;
    struct lorica_engine *engine = start(2, 128, 4096);
    struct stream got;
    adapters[1]->digest = none;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(ask(engine, 1, PROMPT, 0, &got), 0);
        stream_finish(&got);
    }
    adapters[1]->digest = digest;
    stop(engine);
}

/* Many at once with one system prompt: each page of it is computed once. */
static void test_sharing_at_once_computes_once(void **state) {
    struct lorica_engine *cold = start_uncached(), *warm = start(2, 32, 4096);
    struct stream *expected = calloc(8, sizeof(*expected)), *got = calloc(8, sizeof(*got));
    struct lorica_engine_stats stats;
    atomic_bool hold = true;
    assert_true(expected && got);
    for (uint32_t i = 0; i < 8; i++)
        (void)ask(cold, 3, 70, i, &expected[i]);
    struct stream first;
    struct made_request made;
    stream_init(&first); /* holds the engine until all are there */
    first.hold = &hold;
    make_request(&made, 0, &first);
    (void)submit(warm, &made);
    for (uint32_t i = 0; i < 8; i++) {
        stream_init(&got[i]);
        make_alike(&made, 3, 70, i, &got[i]);
        (void)submit(warm, &made);
    }
    atomic_store(&hold, false);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(stream_wait(&got[i]), LORICA_FINISH_LENGTH);
        expect_equal(&expected[i], &got[i]);
        stream_finish(&got[i]);
        stream_finish(&expected[i]);
    }
    (void)stream_wait(&first);
    lorica_engine_stats(warm, &stats);
    assert_int_equal(stats.cached_tokens, 7 * 64);
    assert_int_equal(stats.prompt_tokens, first.prompt_tokens + 8 * PROMPT - 7 * 64);
    stream_finish(&first);
    free(expected);
    free(got);
    stop(cold);
    stop(warm);
}

/* Pages for a fraction of what is asked for at once: sequences are driven out and come back. */
static void test_preemption_changes_no_answer(void **state) {
    static const size_t kept[] = {0, (size_t)128 << 20};
    struct lorica_engine *roomy = start(2, 128, 8192);
    struct stream *alone = calloc(STREAMS, sizeof(*alone));
    struct stream *together = calloc(STREAMS, sizeof(*together));
    struct made_request made;
    assert_true(alone && together);
    for (uint32_t i = 0; i < STREAMS; i++)
        run_alone(roomy, i, &alone[i]);
    stop(roomy);
    for (size_t k = 0; k < 2; k++) {
        struct lorica_engine_options options = options_of(2, 16, 240);
        struct lorica_engine_stats stats;
        options.prefix_bytes = kept[k];
        struct lorica_engine *tight = start_with(&options);
        for (uint32_t i = 0; i < STREAMS; i++) {
            static const char *const clients[] = {"a", "b", "c"};
            stream_init(&together[i]);
            make_request(&made, i, &together[i]);
            made.request.client = clients[i % 3];
            made.request.priority = i % 5 == 0 ? LORICA_PRIORITY_HIGH : LORICA_PRIORITY_NORMAL;
            (void)submit(tight, &made);
        }
        for (uint32_t i = 0; i < STREAMS; i++) {
            assert_int_equal(stream_wait(&together[i]), LORICA_FINISH_LENGTH);
            assert_int_equal(together[i].finishes, 1);
            expect_equal(&alone[i], &together[i]);
            assert_int_equal(together[i].completion_tokens, together[i].count);
            stream_finish(&together[i]);
        }
        lorica_engine_stats(tight, &stats);
        assert_true(stats.preempted > 0);
        stop(tight);
    }
    for (uint32_t i = 0; i < STREAMS; i++)
        stream_finish(&alone[i]);
    free(alone);
    free(together);
}

/* Who has a place for long gives it to a client that has none. */
static void test_preemption_lets_another_client_in(void **state) {
    struct lorica_engine_options options = options_of(1, 128, 4096);
    struct stream busy[3], late;
    struct lorica_engine_stats stats;
    struct made_request made;
    atomic_bool holds[2] = {true, true};
    options.max_running = 2;
    struct lorica_engine *engine = start_with(&options);
    for (uint32_t i = 0; i < 3; i++) {
        stream_init(&busy[i]);
        busy[i].hold = i < 2 ? &holds[i] : NULL;
        make_request(&made, 10, &busy[i]);
        made.request.client = "busy";
        made.request.sampling.max_tokens = 400;
        (void)submit(engine, &made);
    }
    atomic_store(&holds[0], false);
    stream_init(&late); /* two run once the second one's first token waits for this to be asked */
    make_request(&made, 10, &late);
    made.request.client = "late";
    made.request.sampling.max_tokens = 2;
    while (!atomic_load(&busy[1].reached))
        (void)usleep(100);
    (void)submit(engine, &made);
    atomic_store(&holds[1], false);
    assert_int_equal(stream_wait(&late), LORICA_FINISH_LENGTH);
    lorica_engine_stats(engine, &stats);
    assert_true(stats.preempted > 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(stream_wait(&busy[i]), LORICA_FINISH_LENGTH);
        assert_int_equal(busy[i].completion_tokens, 400);
        assert_memory_equal(busy[i].tokens, late.tokens, 2 * sizeof(late.tokens[0]));
        stream_finish(&busy[i]);
    }
    stream_finish(&late);
    stop(engine);
}

/* A prompt of its own for each, with a piece that stands in it twice. */
static void make_repeating(struct made_request *made, uint32_t i, struct stream *stream) {
    make_request(made, i, stream);
    for (uint32_t j = 0; j < 60; j++)
        made->prompt[j] = (int32_t)((made_up(1000 * i + j % 30) + 1) * 0.5f * 600);
    made->request.prompt_count = 60;
    made->request.sampling.max_tokens = 40;
    made->request.sampling.frequency_penalty = i % 4 == 1 ? 0.3f : 0;
    made->request.sampling.ignore_eos = i % 4 != 0;
}

/* Guessing ahead, always and where it pays, alone and in a batch, in a cache with and without room:
 * every token, logprob and letter is as without. */
static void test_guessing_changes_no_answer(void **state) {
    static const struct {
        enum lorica_speculation speculation;
        uint32_t kv_tokens;
    } ways[] = {{LORICA_SPECULATE_ALWAYS, 8192},
                {LORICA_SPECULATE_ALWAYS, 240},
                {LORICA_SPECULATE_WHERE_IT_PAYS, 8192}};
    struct stream *plain = calloc(STREAMS, sizeof(*plain));
    struct stream *guessed = calloc(STREAMS, sizeof(*guessed));
    struct lorica_engine_options options = options_of(2, 64, 8192);
    struct lorica_engine_stats stats;
    struct made_request made;
    assert_true(plain && guessed);
    options.speculation = LORICA_SPECULATE_NEVER;
    struct lorica_engine *engine = start_with(&options);
    for (uint32_t i = 0; i < STREAMS; i++) {
        stream_init(&plain[i]);
        make_repeating(&made, i, &plain[i]);
        (void)submit(engine, &made);
        (void)stream_wait(&plain[i]);
    }
    lorica_engine_stats(engine, &stats);
    assert_int_equal(stats.drafted_tokens, 0);
    stop(engine);
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        options.speculation = ways[w].speculation;
        options.kv_tokens = ways[w].kv_tokens;
        engine = start_with(&options);
        for (uint32_t i = 0; i < 2 * STREAMS; i++) { /* alone, then together */
            struct stream *s = &guessed[i % STREAMS];
            stream_init(s);
            make_repeating(&made, i % STREAMS, s);
            (void)submit(engine, &made);
            if (i < STREAMS) {
                (void)stream_wait(s);
                expect_equal(&plain[i], s);
                stream_finish(s);
            }
        }
        for (uint32_t i = 0; i < STREAMS; i++) {
            assert_int_equal(stream_wait(&guessed[i]), plain[i].finish);
            assert_int_equal(guessed[i].completion_tokens, plain[i].completion_tokens);
            expect_equal(&plain[i], &guessed[i]);
            stream_finish(&guessed[i]);
        }
        lorica_engine_stats(engine, &stats);
        assert_true(stats.accepted_tokens <= stats.drafted_tokens);
        if (ways[w].speculation == LORICA_SPECULATE_ALWAYS)
            assert_true(stats.accepted_tokens > 0 && stats.accepted_tokens < stats.drafted_tokens);
        stop(engine);
    }
    for (uint32_t i = 0; i < STREAMS; i++)
        stream_finish(&plain[i]);
    free(plain);
    free(guessed);
}

/* Every token of an answer but its first has a gap, every request a time in the queue. */
static void test_times_are_counted(void **state) {
    struct lorica_engine *engine = start(1, 128, 4096);
    struct lorica_engine_stats stats;
    struct stream stream;
    for (uint32_t i = 0; i < 3; i++) {
        run_alone(engine, i, &stream);
        stream_finish(&stream);
    }
    lorica_engine_stats(engine, &stats);
    assert_int_equal(stats.queue.count, 3);
    assert_int_equal(stats.between.count, stats.completion_tokens - 3);
    assert_int_equal(stats.step.count, stats.steps);
    uint64_t sum = 0;
    for (int i = 0; i <= LORICA_ENGINE_TIMES; i++)
        sum += stats.between.buckets[i];
    assert_int_equal(sum, stats.between.count);
    assert_true(stats.step.sum > 0 && stats.between.sum > 0);
    stop(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sharing_hit_answers_as_a_miss_does),
        cmocka_unit_test(test_sharing_last_token_is_always_computed),
        cmocka_unit_test(test_sharing_goes_on_through_the_answer),
        cmocka_unit_test(test_sharing_never_crosses_adapters),
        cmocka_unit_test(test_sharing_needs_a_digest),
        cmocka_unit_test(test_sharing_at_once_computes_once),
        cmocka_unit_test(test_preemption_changes_no_answer),
        cmocka_unit_test(test_preemption_lets_another_client_in),
        cmocka_unit_test(test_guessing_changes_no_answer),
        cmocka_unit_test(test_times_are_counted),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
