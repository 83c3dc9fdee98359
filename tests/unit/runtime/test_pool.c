/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/pool.h"

#define ROUNDS 2000
#define MAX_TEAM 5

struct relay {
    struct lorica_pool *pool;
    uint32_t seen[MAX_TEAM]; /* written by each thread before a barrier, read by all after it */
    uint32_t wrong[MAX_TEAM];
};

static void relay_job(void *arg, unsigned thread, unsigned threads) {
    struct relay *relay = arg;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        relay->seen[thread] = round;
        lorica_pool_barrier(relay->pool);
        for (unsigned i = 0; i < threads; i++)
            relay->wrong[thread] += relay->seen[i] != round;
        lorica_pool_barrier(relay->pool);
    }
}

static void test_barrier_many_rounds_all_writes_visible(void **state) {
    (void)state;
    for (unsigned threads = 1; threads <= MAX_TEAM; threads++) {
        struct relay relay = {0};
        struct lorica_error err = {0};
        assert_int_equal(lorica_pool_create(threads, &relay.pool, &err), 0);
        assert_int_equal(lorica_pool_threads(relay.pool), threads);
        for (int job = 0; job < 3; job++)
            lorica_pool_run(relay.pool, relay_job, &relay);
        for (unsigned i = 0; i < threads; i++) {
            assert_int_equal(relay.seen[i], ROUNDS);
            assert_int_equal(relay.wrong[i], 0);
        }
        lorica_pool_destroy(relay.pool);
    }
}

static void test_range_covers_all_once(void **state) {
    (void)state;
    for (uint32_t count = 0; count < 40; count++) {
        for (unsigned threads = 1; threads <= 7; threads++) {
            uint32_t next = 0;
            for (unsigned i = 0; i < threads; i++) {
                uint32_t begin, end;
                lorica_pool_range(count, i, threads, &begin, &end);
                assert_int_equal(begin, next);
                assert_true(end - begin <= count / threads + 1);
                next = end;
            }
            assert_int_equal(next, count);
        }
    }
}

/* Where the threads of a bound team may run, each told by itself. */
struct places {
    unsigned threads;
    cpu_set_t of[MAX_TEAM];
};

static void place_job(void *arg, unsigned thread, unsigned threads) {
    struct places *places = arg;
    if (thread == 0)
        places->threads = threads;
    (void)sched_getaffinity(0, sizeof(places->of[thread]), &places->of[thread]);
}

/* On a thread of its own, which stays bound. */
static void *bind_and_tell(void *arg) {
    struct places *places = arg;
    struct lorica_pool *pool;
    if (lorica_pool_create(places->threads, &pool, NULL) != 0)
        return NULL;
    lorica_pool_bind(pool);
    lorica_pool_run(pool, place_job, places);
    lorica_pool_destroy(pool);
    return places;
}

static void tell(struct places *places) {
    pthread_t thread;
    void *told;
    assert_int_equal(pthread_create(&thread, NULL, bind_and_tell, places), 0);
    assert_int_equal(pthread_join(thread, &told), 0);
    assert_ptr_equal(told, places);
}

static void test_bind_as_many_threads_as_processors_one_each(void **state) {
    (void)state;
    cpu_set_t before, set, bound;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    CPU_ZERO(&set); /* at most MAX_TEAM of them */
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&set) < MAX_TEAM; cpu++)
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &set);
    assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
    struct places places = {.threads = 0}; /* as many as may be used */
    tell(&places);
    assert_int_equal(places.threads, CPU_COUNT(&set));
    CPU_ZERO(&bound);
    for (unsigned i = 0; i < places.threads; i++) {
        assert_int_equal(CPU_COUNT(&places.of[i]), 1);
        CPU_OR(&bound, &bound, &places.of[i]);
    }
    assert_true(CPU_EQUAL(&bound, &set));
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

static void test_bind_another_number_left_alone(void **state) {
    (void)state;
    cpu_set_t before;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    struct places places = {.threads = CPU_COUNT(&before) == 3 ? 2 : 3};
    tell(&places);
    for (unsigned i = 0; i < places.threads; i++)
        assert_true(CPU_EQUAL(&places.of[i], &before));
}

static void test_create_too_many_threads_refused(void **state) {
    (void)state;
    struct lorica_pool *pool = NULL;
    struct lorica_error err = {0};
    assert_int_equal(lorica_pool_create(10000, &pool, &err), LORICA_EINVAL);
    assert_non_null(err.text);
    assert_null(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_barrier_many_rounds_all_writes_visible),
        cmocka_unit_test(test_range_covers_all_once),
        cmocka_unit_test(test_bind_as_many_threads_as_processors_one_each),
        cmocka_unit_test(test_bind_another_number_left_alone),
        cmocka_unit_test(test_create_too_many_threads_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
