/* SPDX-License-Identifier: MIT
 * Who comes next: clients by what they were served, then their adapters; weights; who gives way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/sched.h"

#define MANY 400

static struct lorica_adapter adapters[4];

struct crowd {
    struct lorica_sched sched;
    struct lorica_sequence sequences[MANY];
    uint64_t admissions;
};

static struct crowd *open_crowd(void) {
    struct crowd *crowd = calloc(1, sizeof(*crowd));
    assert_non_null(crowd);
    for (uint8_t i = 0; i < 4; i++)
        adapters[i].digest.bytes[0] = i;
    return crowd;
}

static void close_crowd(struct crowd *crowd) {
    for (int i = 0; i < MANY; i++)
        if (crowd->sequences[i].flow)
            lorica_sched_leave(&crowd->sched, &crowd->sequences[i]);
    assert_int_equal(crowd->sched.waiting, 0);
    lorica_sched_finish(&crowd->sched);
    free(crowd);
}

static struct lorica_sequence *join(struct crowd *crowd, int i, const char *client, int adapter,
                                    enum lorica_priority priority) {
    struct lorica_sequence *s = &crowd->sequences[i];
    s->client = (char *)client;
    s->priority = priority;
    s->adapter = &adapters[adapter];
    assert_int_equal(lorica_sched_join(&crowd->sched, s), 0);
    return s;
}

static struct lorica_sequence *start_next(struct crowd *crowd) {
    struct lorica_sequence *s = lorica_sched_next(&crowd->sched);
    assert_non_null(s);
    lorica_sched_start(&crowd->sched, s);
    if (s->admission == 0)
        s->admission = ++crowd->admissions;
    return s;
}

/* Serves one sequence after the other, `cost` each; counts those of `client` among them. */
static uint32_t serve(struct crowd *crowd, uint32_t count, uint32_t cost, const char *client) {
    uint32_t of_client = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct lorica_sequence *s = start_next(crowd);
        of_client += strcmp(s->client, client) == 0;
        lorica_sched_charge(s, cost);
        lorica_sched_leave(&crowd->sched, s);
    }
    return of_client;
}

static void test_sched_one_client_is_served_in_order_of_arrival(void **state) {
    struct crowd *crowd = open_crowd();
    for (int i = 0; i < 5; i++)
        (void)join(crowd, i, "a", 0, LORICA_PRIORITY_NORMAL);
    for (int i = 0; i < 5; i++)
        assert_ptr_equal(start_next(crowd), &crowd->sequences[i]);
    assert_null(lorica_sched_next(&crowd->sched));
    close_crowd(crowd);
}

static void test_sched_late_client_is_next_after_a_flood(void **state) {
    struct crowd *crowd = open_crowd();
    for (int i = 0; i < 200; i++)
        (void)join(crowd, i, "busy", 0, LORICA_PRIORITY_NORMAL);
    assert_int_equal(serve(crowd, 50, 100, "busy"), 50);
    const struct lorica_sequence *late = join(crowd, 300, "emergency", 0, LORICA_PRIORITY_NORMAL);
    struct lorica_sequence *running = start_next(crowd);
    /* At the same level the order between the two is free; after one more it is not. */
    if (running != late) {
        lorica_sched_charge(running, 1);
        assert_ptr_equal(start_next(crowd), late);
    }
    close_crowd(crowd);
}

static void test_sched_shares_follow_the_weights(void **state) {
    static const struct {
        enum lorica_priority other;
        uint32_t least, most; /* of 100 for the normal one */
    } cases[] = {{LORICA_PRIORITY_NORMAL, 49, 51},
                 {LORICA_PRIORITY_LOW, 79, 81},
                 {LORICA_PRIORITY_HIGH, 19, 21}};
    for (size_t c = 0; c < 3; c++) {
        struct crowd *crowd = open_crowd();
        for (int i = 0; i < 100; i++) {
            (void)join(crowd, i, "normal", 0, LORICA_PRIORITY_NORMAL);
            (void)join(crowd, 100 + i, "other", 0, cases[c].other);
        }
        const uint32_t share = serve(crowd, 100, 64, "normal");
        assert_in_range(share, cases[c].least, cases[c].most);
        close_crowd(crowd);
    }
}

static void test_sched_idle_time_is_no_credit(void **state) {
    struct crowd *crowd = open_crowd();
    for (int i = 0; i < 150; i++)
        (void)join(crowd, i, "a", 0, LORICA_PRIORITY_NORMAL);
    (void)serve(crowd, 50, 100, "a");
    for (int i = 150; i < 250; i++)
        (void)join(crowd, i, "b", 0, LORICA_PRIORITY_NORMAL);
    assert_in_range(serve(crowd, 40, 100, "b"), 19, 21);
    close_crowd(crowd);
}

static void test_sched_debt_is_remembered(void **state) {
    struct crowd *crowd = open_crowd();
    for (int i = 0; i < 20; i++)
        (void)join(crowd, i, "a", 0, LORICA_PRIORITY_NORMAL);
    (void)join(crowd, 20, "greedy", 0, LORICA_PRIORITY_NORMAL);
    lorica_sched_start(&crowd->sched, &crowd->sequences[20]);
    lorica_sched_charge(&crowd->sequences[20], 1000);
    lorica_sched_leave(&crowd->sched, &crowd->sequences[20]);
    (void)join(crowd, 21, "greedy", 0, LORICA_PRIORITY_NORMAL);
    assert_int_equal(serve(crowd, 10, 100, "greedy"), 0);
    close_crowd(crowd);
}

static void test_sched_adapters_of_a_client_share(void **state) {
    struct crowd *crowd = open_crowd();
    for (int i = 0; i < 60; i++)
        (void)join(crowd, i, "a", 1, LORICA_PRIORITY_NORMAL);
    for (int i = 60; i < 80; i++)
        (void)join(crowd, i, "a", 2, LORICA_PRIORITY_NORMAL);
    uint32_t second = 0;
    for (int i = 0; i < 20; i++) {
        struct lorica_sequence *s = start_next(crowd);
        second += s->adapter == &adapters[2];
        lorica_sched_charge(s, 10);
        lorica_sched_leave(&crowd->sched, s);
    }
    assert_in_range(second, 9, 11);
    close_crowd(crowd);
}

static void test_sched_who_gives_way(void **state) {
    struct crowd *crowd = open_crowd();
    struct lorica_sequence *s[8];
    for (int i = 0; i < 3; i++)
        s[i] = join(crowd, i, "a", 0, LORICA_PRIORITY_NORMAL);
    s[3] = join(crowd, 3, "b", 0, LORICA_PRIORITY_NORMAL);
    s[4] = join(crowd, 4, "high", 0, LORICA_PRIORITY_HIGH);
    s[5] = join(crowd, 5, "low", 0, LORICA_PRIORITY_LOW);
    for (int i = 0; i < 6; i++)
        (void)start_next(crowd);
    for (int i = 0; i < 5; i++)
        assert_true(lorica_sched_yields(s[5], s[i]) && !lorica_sched_yields(s[i], s[5]));
    assert_true(lorica_sched_yields(s[2], s[3])); /* three against one */
    assert_int_equal(lorica_sched_yields(s[0], s[1]), s[0]->admission > s[1]->admission);
    assert_true(lorica_sched_yields(s[3], s[4])); /* priority */
    assert_false(lorica_sched_yields(s[3], s[3]));
    s[6] = join(crowd, 6, "c", 0, LORICA_PRIORITY_NORMAL);
    assert_true(lorica_sched_displaces(s[6], s[0]));  /* none against three */
    assert_false(lorica_sched_displaces(s[6], s[3])); /* none against one: it waits */
    assert_false(lorica_sched_displaces(s[6], s[4]));
    assert_true(lorica_sched_displaces(s[6], s[5]));
    /* Who gave way is the first of its queue again. */
    s[7] = join(crowd, 7, "a", 0, LORICA_PRIORITY_NORMAL);
    lorica_sched_return(&crowd->sched, s[2]);
    lorica_sched_charge(s[6], 1000);
    assert_ptr_equal(start_next(crowd), s[2]);
    atomic_store(&s[7]->cancelled, true);
    assert_ptr_equal(lorica_sched_cancelled(&crowd->sched, false), s[7]);
    close_crowd(crowd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sched_one_client_is_served_in_order_of_arrival),
        cmocka_unit_test(test_sched_late_client_is_next_after_a_flood),
        cmocka_unit_test(test_sched_shares_follow_the_weights),
        cmocka_unit_test(test_sched_idle_time_is_no_credit),
        cmocka_unit_test(test_sched_debt_is_remembered),
        cmocka_unit_test(test_sched_adapters_of_a_client_share),
        cmocka_unit_test(test_sched_who_gives_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
