/* SPDX-License-Identifier: MIT
 * The cache of adapters: bounded, least recently used out first, safe between threads. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "model_fixture.h"

static struct lorica_base *base;

static int open_base(void **state) {
    base = open_golden("tiny-nf4");
    return 0;
}

static int close_base(void **state) {
    lorica_base_close(base);
    return 0;
}

static struct lorica_digest digest_of(uint8_t number) {
    return (struct lorica_digest){.bytes = {number, 1}};
}

static struct lorica_adapter *numbered(uint8_t number) {
    struct lorica_adapter *adapter = make_adapter(&base->arch, LORICA_ADAPTER_FAST, 2, number);
    adapter->digest = digest_of(number);
    return adapter;
}

/* Puts adapter `number` in and gives the maker's reference back; its size. */
static size_t put(struct lorica_adapter_cache *cache, uint8_t number) {
    struct lorica_adapter *adapter = numbered(number);
    const size_t nbytes = adapter->nbytes;
    lorica_adapter_cache_put(cache, adapter);
    (void)lorica_adapter_unref(adapter);
    return nbytes;
}

static bool holds(struct lorica_adapter_cache *cache, uint8_t number) {
    const struct lorica_digest digest = digest_of(number);
    struct lorica_adapter *adapter = lorica_adapter_cache_get(cache, &digest);
    const bool found = adapter && lorica_digest_equal(&adapter->digest, &digest);
    (void)lorica_adapter_unref(adapter);
    return found;
}

static void test_cache_gives_what_was_put_in(void **state) {
    struct lorica_adapter_cache *cache;
    size_t count, bytes;
    assert_int_equal(lorica_adapter_cache_create(1 << 20, &cache), 0);
    assert_false(holds(cache, 1));
    const size_t nbytes = put(cache, 1);
    assert_true(holds(cache, 1));
    (void)put(cache, 1);
    lorica_adapter_cache_stats(cache, &count, &bytes);
    assert_int_equal(count, 1);
    assert_int_equal(bytes, nbytes);
    lorica_adapter_cache_destroy(cache);
}

static void test_cache_over_its_limit_drops_the_least_recently_used(void **state) {
    struct lorica_adapter_cache *cache;
    struct lorica_adapter *probe = numbered(9);
    size_t count, bytes;
    assert_int_equal(lorica_adapter_cache_create(3 * probe->nbytes, &cache), 0);
    for (uint8_t i = 1; i <= 3; i++)
        (void)put(cache, i);
    assert_true(holds(cache, 1)); /* used now: 2 is the oldest */
    (void)put(cache, 4);
    assert_false(holds(cache, 2));
    assert_true(holds(cache, 1) && holds(cache, 3) && holds(cache, 4));
    lorica_adapter_cache_stats(cache, &count, &bytes);
    assert_int_equal(count, 3);
    assert_int_equal(bytes, 3 * probe->nbytes);
    (void)lorica_adapter_unref(probe);
    lorica_adapter_cache_destroy(cache);
}

static void test_cache_keeps_the_others_when_one_is_larger_than_all_of_it(void **state) {
    struct lorica_adapter_cache *cache;
    struct lorica_adapter *large = make_adapter(&base->arch, LORICA_ADAPTER_FAST, 64, 9);
    large->digest = digest_of(9);
    assert_int_equal(lorica_adapter_cache_create(large->nbytes - 1, &cache), 0);
    (void)put(cache, 1);
    (void)put(cache, 2);
    lorica_adapter_cache_put(cache, large);
    assert_true(holds(cache, 1) && holds(cache, 2) && !holds(cache, 9));
    (void)lorica_adapter_unref(large);
    lorica_adapter_cache_destroy(cache);
}

static void test_offered_pushes_none_out_and_goes_first(void **state) {
    struct lorica_adapter_cache *cache;
    struct lorica_adapter *offered[2] = {numbered(8), numbered(9)};
    assert_int_equal(lorica_adapter_cache_create(3 * offered[0]->nbytes, &cache), 0);
    (void)put(cache, 1);
    (void)put(cache, 2);
    lorica_adapter_cache_offer(cache, offered[0]);
    lorica_adapter_cache_offer(cache, offered[1]); /* there is no room left */
    (void)put(cache, 3);
    assert_true(holds(cache, 1) && holds(cache, 2) && holds(cache, 3));
    assert_false(holds(cache, 8) || holds(cache, 9));
    lorica_adapter_cache_destroy(cache);
    assert_int_equal(lorica_adapter_cache_create(3 * offered[0]->nbytes, &cache), 0);
    lorica_adapter_cache_offer(cache, offered[0]);
    (void)put(cache, 1);
    assert_true(holds(cache, 8)); /* asked for: it has a place like any other */
    (void)put(cache, 2);
    (void)put(cache, 3);
    assert_true(holds(cache, 8) && !holds(cache, 1));
    lorica_adapter_cache_destroy(cache);
    for (int i = 0; i < 2; i++)
        (void)lorica_adapter_unref(offered[i]);
}

static void test_cache_dropped_adapter_lives_through_its_references(void **state) {
    struct lorica_adapter_cache *cache;
    struct lorica_adapter *first = numbered(1);
    assert_int_equal(lorica_adapter_cache_create(first->nbytes, &cache), 0);
    lorica_adapter_cache_put(cache, first);
    (void)put(cache, 2);
    assert_false(holds(cache, 1));
    assert_int_equal(lorica_adapter_pair(first, 0, LORICA_MODULE_Q)->rank, 2);
    lorica_adapter_cache_destroy(cache);
    assert_int_equal(lorica_adapter_pair(first, 0, LORICA_MODULE_Q)->rank, 2);
    (void)lorica_adapter_unref(first);
}

static void test_cache_smaller_than_an_adapter_keeps_none(void **state) {
    struct lorica_adapter_cache *cache;
    size_t count, bytes;
    assert_int_equal(lorica_adapter_cache_create(10, &cache), 0);
    (void)put(cache, 1);
    lorica_adapter_cache_stats(cache, &count, &bytes);
    assert_int_equal(count, 0);
    assert_int_equal(bytes, 0);
    lorica_adapter_cache_destroy(cache);
}

struct crowd {
    struct lorica_adapter_cache *cache;
    struct lorica_adapter *adapters[8];
    uint32_t number;
};

static void *use_cache(void *arg) {
    const struct crowd *crowd = arg;
    for (uint32_t i = 0; i < 2000; i++) {
        const uint8_t which = (uint8_t)((i * 5 + crowd->number * 3) % 8);
        const struct lorica_digest digest = digest_of(which);
        struct lorica_adapter *adapter = lorica_adapter_cache_get(crowd->cache, &digest);
        if (adapter) {
            if (!lorica_digest_equal(&adapter->digest, &digest))
                return arg;
            (void)lorica_adapter_unref(adapter);
        } else {
            lorica_adapter_cache_put(crowd->cache, crowd->adapters[which]);
        }
    }
    return NULL;
}

static void test_cache_used_by_threads_mixes_nothing_up(void **state) {
    struct lorica_adapter_cache *cache;
    struct crowd crowds[4];
    pthread_t threads[4];
    for (uint8_t i = 0; i < 8; i++)
        crowds[0].adapters[i] = numbered(i);
    assert_int_equal(lorica_adapter_cache_create(5 * crowds[0].adapters[0]->nbytes, &cache), 0);
    crowds[0].cache = cache;
    for (uint32_t i = 0; i < 4; i++) {
        crowds[i] = crowds[0];
        crowds[i].number = i;
        assert_int_equal(pthread_create(&threads[i], NULL, use_cache, &crowds[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *wrong;
        assert_int_equal(pthread_join(threads[i], &wrong), 0);
        assert_null(wrong);
    }
    lorica_adapter_cache_destroy(cache);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(crowds[0].adapters[i]->refs, 1);
        (void)lorica_adapter_unref(crowds[0].adapters[i]);
    }
}

static atomic_uint loads;

/* Asks for one digest; who is to load it takes a while, and the first of all fails. */
static void *claim_one(void *arg) {
    const struct crowd *crowd = arg;
    const struct lorica_digest digest = digest_of(3);
    struct lorica_adapter *adapter = lorica_adapter_cache_claim(crowd->cache, &digest);
    if (adapter) {
        (void)lorica_adapter_unref(adapter);
        return NULL;
    }
    const bool fails = atomic_fetch_add(&loads, 1) == 0;
    (void)usleep(2000);
    lorica_adapter_cache_settle(crowd->cache, &digest, fails ? NULL : crowd->adapters[3]);
    return NULL;
}

static void test_cache_claimed_by_threads_is_loaded_once(void **state) {
    struct crowd crowd = {.number = 0};
    pthread_t threads[8];
    crowd.adapters[3] = numbered(3);
    assert_int_equal(lorica_adapter_cache_create(crowd.adapters[3]->nbytes, &crowd.cache), 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, claim_one, &crowd), 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&loads), 2); /* the failed one, and the one after it */
    assert_true(holds(crowd.cache, 3));
    lorica_adapter_cache_destroy(crowd.cache);
    assert_int_equal(crowd.adapters[3]->refs, 1);
    (void)lorica_adapter_unref(crowd.adapters[3]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cache_gives_what_was_put_in),
        cmocka_unit_test(test_cache_over_its_limit_drops_the_least_recently_used),
        cmocka_unit_test(test_cache_keeps_the_others_when_one_is_larger_than_all_of_it),
        cmocka_unit_test(test_offered_pushes_none_out_and_goes_first),
        cmocka_unit_test(test_cache_dropped_adapter_lives_through_its_references),
        cmocka_unit_test(test_cache_smaller_than_an_adapter_keeps_none),
        cmocka_unit_test(test_cache_used_by_threads_mixes_nothing_up),
        cmocka_unit_test(test_cache_claimed_by_threads_is_loaded_once),
    };
    return cmocka_run_group_tests(tests, open_base, close_base);
}
