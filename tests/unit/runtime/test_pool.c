/* SPDX-License-Identifier: MIT */
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
        cmocka_unit_test(test_create_too_many_threads_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
