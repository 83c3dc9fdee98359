/* SPDX-License-Identifier: MIT
 * Choosing tokens: each setting against its definition, and that choices repeat. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/sampler.h"

#define VOCAB 1003

struct fixture {
    struct lorica_vec_kernels vec;
    struct lorica_sampler_scratch scratch;
    float logits[VOCAB];
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    lorica_vec_kernels_init(&f->vec);
    assert_int_equal(lorica_sampler_scratch_init(&f->scratch, VOCAB), 0);
    for (int i = 0; i < VOCAB; i++)
        f->logits[i] = (float)((i * 7919) % VOCAB) * 0.01f; /* all different; id 0 is lowest */
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    lorica_sampler_scratch_finish(&f->scratch);
    free(f);
    return 0;
}

static struct lorica_sampling plain(float temperature) {
    return (struct lorica_sampling){
        .temperature = temperature, .top_p = 1, .max_tokens = 100000, .top_logprobs = -1};
}

/* One choice of a fresh request whose random numbers stand at `position`. */
static struct lorica_choice choose_at(struct fixture *f, const struct lorica_sampling *sampling,
                                      uint32_t position) {
    struct lorica_sampler sampler;
    struct lorica_choice choice = {.id = -1};
    assert_int_equal(lorica_sampler_init(&sampler, sampling), 0);
    sampler.position = position;
    assert_int_equal(
        lorica_sampler_choose(&sampler, &f->vec, &f->scratch, f->logits, VOCAB, &choice), 0);
    lorica_sampler_finish(&sampler);
    return choice;
}

/* The id with the rank-th largest logit, 0 the largest. */
static int32_t ranked(const struct fixture *f, int rank) {
    for (int i = 0; i < VOCAB; i++) {
        int above = 0;
        for (int j = 0; j < VOCAB; j++)
            above += f->logits[j] > f->logits[i];
        if (above == rank)
            return i;
    }
    return -1;
}

static void test_sampler_greedy_takes_the_largest_wherever_it_stands(void **state) {
    struct fixture *f = *state;
    const struct lorica_sampling greedy = plain(0);
    for (int i = 0; i < VOCAB; i++) {
        const float saved = f->logits[i];
        f->logits[i] = 50;
        assert_int_equal(choose_at(f, &greedy, 0).id, i);
        f->logits[i] = saved;
    }
}

static void test_sampler_greedy_tie_goes_to_the_lower_id(void **state) {
    struct fixture *f = *state;
    const struct lorica_sampling greedy = plain(0);
    f->logits[700] = f->logits[31] = f->logits[32] = 50;
    assert_int_equal(choose_at(f, &greedy, 0).id, 31);
}

static void test_sampler_logit_not_finite_chooses_nothing(void **state) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct fixture *f = *state;
    const struct lorica_sampling settings[] = {plain(0), plain(1)};
    for (int s = 0; s < 2; s++)
        for (int b = 0; b < 3; b++)
            for (int i = 0; i < VOCAB; i += 167) {
                struct lorica_sampler sampler;
                struct lorica_choice choice = {.id = -7};
                const float saved = f->logits[i];
                f->logits[i] = bad[b];
                assert_int_equal(lorica_sampler_init(&sampler, &settings[s]), 0);
                assert_int_equal(lorica_sampler_choose(&sampler, &f->vec, &f->scratch, f->logits,
                                                       VOCAB, &choice),
                                 LORICA_EFORMAT);
                assert_int_equal(choice.id, -7);
                lorica_sampler_finish(&sampler);
                f->logits[i] = saved;
            }
}

static void test_sampler_frequencies_follow_the_distribution(void **state) {
    struct fixture *f = *state;
    const struct lorica_sampling warm = plain(0.5f);
    const int draws = 20000;
    int counts[4] = {0};
    double weights[4], total = 0;
    for (int i = 0; i < VOCAB; i++)
        f->logits[i] = i < 4 ? (float)i * 0.5f : -30.0f;
    for (int i = 0; i < 4; i++)
        total += weights[i] = exp(i * 0.5 / 0.5);
    for (int i = 0; i < draws; i++) {
        const int32_t id = choose_at(f, &warm, (uint32_t)i).id;
        assert_true(id >= 0 && id < 4);
        counts[id]++;
    }
    for (int i = 0; i < 4; i++) { /* within five standard deviations */
        const double p = weights[i] / total;
        assert_true(fabs(counts[i] - draws * p) < 5 * sqrt(draws * p * (1 - p)));
    }
}

static void test_sampler_same_seed_and_place_repeat_the_choice(void **state) {
    struct fixture *f = *state;
    struct lorica_sampling warm = plain(1.5f);
    int differ = 0;
    for (uint32_t i = 0; i < 200; i++) {
        warm.seed = 5;
        const int32_t first = choose_at(f, &warm, i).id;
        assert_int_equal(choose_at(f, &warm, i).id, first);
        warm.seed = 6;
        differ += choose_at(f, &warm, i).id != first;
    }
    assert_true(differ > 100);
}

static void test_sampler_top_k_lets_in_the_k_largest(void **state) {
    struct fixture *f = *state;
    struct lorica_sampling hot = plain(100);
    bool seen[3] = {false};
    hot.top_k = 3;
    for (uint32_t i = 0; i < 300; i++) {
        const int32_t id = choose_at(f, &hot, i).id;
        assert_true(id == ranked(f, 0) || id == ranked(f, 1) || id == ranked(f, 2));
        for (int k = 0; k < 3; k++)
            seen[k] = seen[k] || id == ranked(f, k);
    }
    assert_true(seen[0] && seen[1] && seen[2]);
}

static void test_sampler_top_p_lets_in_the_smallest_set_that_reaches_it(void **state) {
    struct fixture *f = *state;
    struct lorica_sampling s = plain(1);
    bool seen[3] = {false};
    /* Probabilities 0.5, 0.3, 0.15, 0.05. */
    static const float p[] = {0.05f, 0.5f, 0.15f, 0.3f};
    for (int i = 0; i < VOCAB; i++)
        f->logits[i] = i < 4 ? logf(p[i]) : -100.0f;
    s.top_p = 0.7f;
    for (uint32_t i = 0; i < 400; i++) {
        const int32_t id = choose_at(f, &s, i).id;
        assert_true(id == 1 || id == 3);
        seen[id == 3] = true;
    }
    assert_true(seen[0] && seen[1]);
    s.top_p = 0; /* the likeliest alone */
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(choose_at(f, &s, i).id, 1);
}

static void test_sampler_min_p_drops_what_is_far_below_the_likeliest(void **state) {
    struct fixture *f = *state;
    struct lorica_sampling s = plain(1);
    bool seen[4] = {false};
    static const float p[] = {0.05f, 0.5f, 0.15f, 0.3f};
    for (int i = 0; i < VOCAB; i++)
        f->logits[i] = i < 4 ? logf(p[i]) : -100.0f;
    s.min_p = 0.25f; /* at least 0.125 */
    for (uint32_t i = 0; i < 400; i++) {
        const int32_t id = choose_at(f, &s, i).id;
        assert_true(id >= 1 && id < 4);
        seen[id] = true;
    }
    assert_true(seen[1] && seen[2] && seen[3]);
}

static void test_sampler_bias_moves_the_choice_but_not_the_logprob(void **state) {
    struct fixture *f = *state;
    static const struct lorica_logit_bias bias[] = {{400, 100}, {401, -100}};
    struct lorica_sampling s = plain(0);
    s.top_logprobs = 2;
    const struct lorica_choice before = choose_at(f, &s, 0);
    s.logit_bias = bias;
    s.logit_bias_count = 2;
    const struct lorica_choice after = choose_at(f, &s, 0);
    assert_int_equal(after.id, 400);
    assert_int_equal(after.top[0].id, before.id);
    const float gap = f->logits[before.id] - f->logits[400];
    assert_true(fabsf(before.logprob - after.logprob - gap) < 1e-4f);
}

static void test_sampler_penalties_count_generated_tokens(void **state) {
    struct fixture *f = *state;
    struct lorica_sampling s = plain(0);
    struct lorica_sampler sampler;
    struct lorica_choice choice;
    for (int i = 0; i < VOCAB; i++)
        f->logits[i] = -50;
    f->logits[10] = 3.0f;
    f->logits[20] = 2.0f;
    s.presence_penalty = 0.6f;
    s.frequency_penalty = 0.3f;
    /* 10 (3.0) -> 10 is 2.1 -> 10 is 1.8, 20 (2.0) -> 20 is 1.1 -> 10 at 1.8 -> 10 at 1.5. */
    static const int32_t expected[] = {10, 10, 20, 10, 10, 10};
    assert_int_equal(lorica_sampler_init(&sampler, &s), 0);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        assert_int_equal(
            lorica_sampler_choose(&sampler, &f->vec, &f->scratch, f->logits, VOCAB, &choice), 0);
        assert_int_equal(choice.id, expected[i]);
    }
    lorica_sampler_finish(&sampler);
}

static void test_sampler_logprobs_are_of_the_raw_distribution(void **state) {
    struct fixture *f = *state;
    struct lorica_sampling s = plain(0.3f);
    double total = 0;
    s.top_logprobs = 20;
    for (int i = 0; i < VOCAB; i++)
        total += exp(f->logits[i]);
    const struct lorica_choice choice = choose_at(f, &s, 3);
    assert_true(fabs(choice.logprob - (f->logits[choice.id] - log(total))) < 1e-4);
    assert_int_equal(choice.top_count, 20);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(choice.top[i].id, ranked(f, i));
        assert_true(fabs(choice.top[i].logprob - (f->logits[ranked(f, i)] - log(total))) < 1e-4);
    }
    s.top_logprobs = 0;
    assert_int_equal(choose_at(f, &s, 3).top_count, 0);
    assert_true(choose_at(f, &s, 3).logprob == choice.logprob);
}

static void test_sampler_random_numbers_are_even(void **state) {
    int buckets[16] = {0};
    for (uint64_t i = 0; i < 16000; i++) {
        const double u = lorica_sampler_random(i / 100, i % 100);
        assert_true(u >= 0 && u < 1);
        buckets[(int)(u * 16)]++;
    }
    for (int i = 0; i < 16; i++)
        assert_true(buckets[i] > 840 && buckets[i] < 1160);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_sampler_greedy_takes_the_largest_wherever_it_stands),
        TEST(test_sampler_greedy_tie_goes_to_the_lower_id),
        TEST(test_sampler_logit_not_finite_chooses_nothing),
        TEST(test_sampler_frequencies_follow_the_distribution),
        TEST(test_sampler_same_seed_and_place_repeat_the_choice),
        TEST(test_sampler_top_k_lets_in_the_k_largest),
        TEST(test_sampler_top_p_lets_in_the_smallest_set_that_reaches_it),
        TEST(test_sampler_min_p_drops_what_is_far_below_the_likeliest),
        TEST(test_sampler_bias_moves_the_choice_but_not_the_logprob),
        TEST(test_sampler_penalties_count_generated_tokens),
        TEST(test_sampler_logprobs_are_of_the_raw_distribution),
        TEST(test_sampler_random_numbers_are_even),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
