/* SPDX-License-Identifier: MIT
 * Isolation: many small requests over adapters of which each can say one word only, a word that
 * comes out of the values its pages hold. With cancels, promotes, hits, evictions and preemption
 * forced, nobody ever says the word of another one. And greedy answers of 200 requests are the same
 * alone and together, whatever the threads. */
#include "engine_fixture.h"
#include "kernels/vec.h"

#define NAMES 32
#define WORDS (2 * NAMES) /* two versions of each name */
#define LETTERS 24        /* tokens that prompts are made of */
#define SYSTEM 40         /* tokens that all prompts begin with */
#define PROMPT_MAX 80
#define SLOTS WORDS /* requests at once: all may be of distinct adapters */

static struct lorica_adapter *speakers[WORDS];
static int32_t words[WORDS];
static struct lorica_adapter_cache *cache;

/* What layer 0's value projection reads for a token. */
static void normed(int32_t token, float *x) {
    const uint32_t hidden = base->arch.hidden;
    double squares = 0;
    lorica_matrix_rows_f32(&base->embed, (uint32_t)token, 1, x);
    for (uint32_t i = 0; i < hidden; i++)
        squares += (double)x[i] * x[i];
    const float scale = (float)(1 / sqrt(squares / hidden + base->arch.rms_eps));
    for (uint32_t i = 0; i < hidden; i++)
        x[i] *= scale * base->layers[0].attn_norm[i];
}

static int32_t letter(uint32_t i) { return (int32_t)(20 + 7 * i); }

/* A direction on whose positive side all letters and the word lie: the perceptron's rule. */
static void separate(int32_t word, float *a) {
    const uint32_t hidden = base->arch.hidden;
    float x[128];
    bool moved = true;
    assert_true(hidden <= 128);
    memset(a, 0, hidden * sizeof(*a));
    for (int round = 0; moved; round++) {
        assert_true(round < 5000);
        moved = false;
        for (uint32_t i = 0; i <= LETTERS; i++) {
            float dot = 0;
            normed(i < LETTERS ? letter(i) : word, x);
            for (uint32_t j = 0; j < hidden; j++)
                dot += a[j] * x[j];
            for (uint32_t j = 0; dot < 1 && j < hidden; j++)
                a[j] += x[j] / (float)hidden;
            moved = moved || dot < 1;
        }
    }
}

/* The word that is said when all values of layer 0 point along w: they go through the output
 * projection into the residual stream, where nothing outweighs them, and to the head. */
static int32_t word_of(const float *w, float *ret_margin) {
    const struct lorica_arch *arch = &base->arch;
    const struct lorica_matrix *o = &base->layers[0].modules[LORICA_MODULE_O];
    const uint32_t group = arch->heads / arch->kv_heads;
    float d[128], row[128];
    float best = -INFINITY, second = -INFINITY;
    int32_t word = 0;
    for (uint32_t i = 0; i < arch->hidden; i++) {
        lorica_matrix_rows_f32(o, i, 1, row);
        d[i] = 0;
        for (uint32_t j = 0; j < arch->heads * arch->head_dim; j++)
            d[i] += row[j] * w[j / arch->head_dim / group * arch->head_dim + j % arch->head_dim];
        d[i] *= base->final_norm[i];
    }
    for (uint32_t t = 0; t < arch->vocab; t++) {
        float logit = 0;
        lorica_matrix_rows_f32(&base->head, t, 1, row);
        for (uint32_t i = 0; i < arch->hidden; i++)
            logit += row[i] * d[i];
        if (logit > best) {
            second = best;
            best = logit;
            word = (int32_t)t;
        } else if (logit > second) {
            second = logit;
        }
    }
    *ret_margin = best / second;
    return word;
}

static bool is_taken(int32_t word, uint32_t count) {
    bool taken = false;
    for (uint32_t i = 0; i < LETTERS; i++)
        taken = taken || letter(i) == word;
    for (uint32_t i = 0; i < count; i++)
        taken = taken || words[i] == word;
    return taken;
}

/* An adapter of rank 1 on the value projections, its values put in by hand. */
static struct lorica_adapter *make_speaker(const float *a, const float *w, uint32_t number) {
    struct adapter_spec *spec = calloc(1, sizeof(*spec));
    struct lorica_adapter *adapter = NULL;
    const uint32_t n = base->arch.kv_heads * base->arch.head_dim;
    struct lorica_vec_kernels vec;
    lorica_vec_kernels_init(&vec);
    assert_non_null(spec);
    (void)snprintf(spec->config, sizeof(spec->config),
                   "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1,\"bias\":\"none\","
                   "\"target_modules\":[\"v_proj\"]}");
    for (uint32_t l = 0; l < base->arch.layers; l++)
        spec_add(spec, &base->arch, l, LORICA_MODULE_V, 1);
    assert_int_equal(spec_build(spec, &base->arch, LORICA_ADAPTER_FAST, &adapter, NULL), 0);
    free(spec);
    for (uint32_t l = 0; l < base->arch.layers; l++) {
        struct lorica_adapter_pair *pair =
            &adapter->layers[l * LORICA_MODULE_COUNT + LORICA_MODULE_V];
        pair->scales[0] = l == 0 ? 1000 * vec.to_int8(pair->a8, a, base->arch.hidden) *
                                       vec.to_int8(pair->b8, w, n)
                                 : 0;
    }
    adapter->digest.bytes[5] = (uint8_t)(number + 1);
    return adapter;
}

static int open_words(void **state) {
    float a[128], w[128], margin;
    uint32_t count = 0;
    (void)open_all(state);
    for (uint64_t seed = 1; count < WORDS; seed++) {
        assert_true(seed < 100000);
        for (uint32_t i = 0; i < base->arch.kv_heads * base->arch.head_dim; i++)
            w[i] = made_up((seed << 32) + i);
        words[count] = word_of(w, &margin);
        if (margin < 1.2f || is_taken(words[count], count))
            continue;
        separate(words[count], a);
        speakers[count] = make_speaker(a, w, count);
        count++;
    }
    return lorica_adapter_cache_create(20 * speakers[0]->nbytes, &cache);
}

static int close_words(void **state) {
    lorica_adapter_cache_destroy(cache);
    for (uint32_t i = 0; i < WORDS; i++) {
        assert_int_equal(speakers[i]->refs, 1);
        (void)lorica_adapter_unref(speakers[i]);
    }
    return close_all(state);
}

/* As the server does: from the cache, or loaded and put into it. */
static struct lorica_adapter *get_speaker(uint32_t i) {
    struct lorica_adapter *adapter = lorica_adapter_cache_get(cache, &speakers[i]->digest);
    if (adapter)
        return adapter;
    lorica_adapter_cache_put(cache, speakers[i]);
    return lorica_adapter_ref(speakers[i]);
}

/* One request under way. */
struct slot {
    uint64_t id;
    int32_t word;
    atomic_uint wrong, said;
    atomic_bool busy;
    atomic_int finish;
};

static void on_word(void *user, const struct lorica_engine_event *event) {
    struct slot *slot = user;
    if (event->token >= 0) {
        atomic_fetch_add(&slot->said, 1);
        if (event->token != slot->word)
            atomic_fetch_add(&slot->wrong, 1);
    }
    if (event->finish != LORICA_FINISH_NONE) {
        atomic_store(&slot->finish, (int)event->finish);
        atomic_store(&slot->busy, false);
    }
}

static uint64_t random_state = 99;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static void submit_word(struct lorica_engine *engine, struct slot *slot, uint32_t speaker) {
    int32_t prompt[PROMPT_MAX];
    const uint32_t count = SYSTEM + random_below(PROMPT_MAX - SYSTEM);
    struct lorica_error err = {0};
    for (uint32_t i = 0; i < count; i++) /* few different ones: most begin as an earlier one did */
        prompt[i] = letter((i < SYSTEM ? i * 5 : i + random_below(2)) % LETTERS);
    struct lorica_engine_request request = {.prompt = prompt,
                                            .prompt_count = count,
                                            .adapter = get_speaker(speaker),
                                            .client = speaker % 3 ? "a" : "b",
                                            .sampling = {.top_p = 1,
                                                         .temperature = random_below(4) ? 0 : 0.02f,
                                                         .max_tokens = 1 + random_below(6),
                                                         .ignore_eos = true,
                                                         .top_logprobs = -1},
                                            .on_event = on_word,
                                            .user = slot};
    slot->word = words[speaker];
    atomic_store(&slot->said, 0);
    atomic_store(&slot->busy, true);
    if (lorica_engine_submit(engine, &request, &slot->id, &err) != 0)
        fail_msg("%s", err.text);
    (void)lorica_adapter_unref(request.adapter);
}

/* Waits for a slot whose request is over, and judges it. */
static struct slot *take_slot(struct slot *slots, uint32_t *answers) {
    for (uint32_t i = random_below(SLOTS);; i = (i + 1) % SLOTS) {
        struct slot *slot = &slots[i];
        if (atomic_load(&slot->busy)) {
            if (i == 0)
                (void)usleep(50);
            continue;
        }
        assert_int_equal(atomic_load(&slot->wrong), 0);
        const int finish = atomic_load(&slot->finish);
        assert_true(finish != LORICA_FINISH_ERROR);
        *answers += finish == LORICA_FINISH_LENGTH && atomic_load(&slot->said) > 0;
        atomic_store(&slot->finish, LORICA_FINISH_NONE);
        return slot;
    }
}

static void run_words(unsigned threads, uint32_t requests) {
    struct lorica_engine_options options = options_of(threads, 48, 2048);
    struct slot *slots = calloc(SLOTS, sizeof(*slots));
    uint8_t live[NAMES] = {0}; /* which version the name means now */
    uint32_t answers = 0;
    struct lorica_engine_stats stats;
    assert_non_null(slots);
    options.speculation = threads == 1 ? LORICA_SPECULATE_ALWAYS : LORICA_SPECULATE_WHERE_IT_PAYS;
    options.prefix_bytes = (size_t)60 * 16 * 2 * 2 * 64 * 2; /* fewer pages than there are */
    struct lorica_engine *engine = start_with(&options);
    for (uint32_t i = 0; i < requests; i++) {
        struct slot *slot = take_slot(slots, &answers);
        const uint32_t name = random_below(NAMES);
        submit_word(engine, slot, 2 * name + live[name]);
        if (random_below(12) == 0)
            live[random_below(NAMES)] ^= 1; /* promoted: later requests mean the other version */
        if (random_below(10) == 0)
            lorica_engine_cancel(engine, slots[random_below(SLOTS)].id);
    }
    for (uint32_t i = 0; i < SLOTS; i++)
        while (atomic_load(&slots[i].busy))
            (void)usleep(100);
    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(atomic_load(&slots[i].wrong), 0);
    lorica_engine_stats(engine, &stats);
    assert_int_equal(stats.finished, requests);
    assert_true(answers > requests / 2 && stats.cancelled > 0);
    assert_true(stats.cached_tokens > 0 && stats.evicted_pages > 0 && stats.preempted > 0);
    stop(engine);
    free(slots);
}

static void test_words_of_other_adapters_are_never_said(void **state) {
    const uint32_t requests = getenv("LORICA_LONG") ? 100000 : 1000;
    run_words(2, requests);
    run_words(1, requests / 4);
}

static void make_greedy(struct made_request *made, uint32_t i, struct stream *stream) {
    make_request(made, i, stream);
    made->request.sampling.temperature = 0;
    made->request.sampling.max_tokens = 6 + i % 11;
}

static void test_greedy_answers_depend_on_nobody_else(void **state) {
    enum { REQUESTS = 200 };
    struct stream *alone = calloc(REQUESTS, sizeof(*alone));
    struct stream *together = calloc(REQUESTS, sizeof(*together));
    struct made_request made;
    assert_true(alone && together);
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct lorica_engine *engine = start(threads, 64, 16384);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            struct stream *s = threads == 1 ? &alone[i] : &together[i];
            stream_init(s);
            make_greedy(&made, i, s);
            (void)submit(engine, &made);
            if (threads == 1)
                assert_int_equal(stream_wait(s), LORICA_FINISH_LENGTH);
        }
        for (uint32_t i = 0; threads > 1 && i < REQUESTS; i++) {
            assert_int_equal(stream_wait(&together[i]), LORICA_FINISH_LENGTH);
            expect_equal(&alone[i], &together[i]);
            stream_finish(&together[i]);
        }
        stop(engine);
    }
    for (uint32_t i = 0; i < REQUESTS; i++)
        stream_finish(&alone[i]);
    free(alone);
    free(together);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_of_other_adapters_are_never_said),
        cmocka_unit_test(test_greedy_answers_depend_on_nobody_else),
    };
    return cmocka_run_group_tests(tests, open_words, close_words);
}
