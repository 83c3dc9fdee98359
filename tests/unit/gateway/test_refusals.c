/* SPDX-License-Identifier: MIT
 * The bucket that bounds how many refused attempts of a key are recorded, and the routes whose
 * attempts are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/server/refusals.h"

#define BURST LORICA_REFUSALS_BURST
#define EVERY LORICA_REFUSALS_EVERY_MS

static struct lorica_refusal_bucket drained(uint64_t now_ms) {
    struct lorica_refusal_bucket bucket;
    lorica_refusal_bucket_init(&bucket, "app", now_ms);
    for (int i = 0; i < BURST; i++)
        assert_true(lorica_refusal_bucket_take(&bucket, now_ms, 0));
    return bucket;
}

static void test_bucket_gives_burst_then_counts(void **state) {
    struct lorica_refusal_bucket bucket = drained(1000);
    assert_false(lorica_refusal_bucket_take(&bucket, 1000, 70));
    assert_false(lorica_refusal_bucket_take(&bucket, 1001, 80));
    assert_int_equal(bucket.missed, 2);
    assert_int_equal(bucket.first_ms, 70);
    assert_int_equal(bucket.last_ms, 80);
    assert_string_equal(bucket.key_name, "app");
}

static void test_bucket_summary_comes_before_further_records(void **state) {
    struct lorica_refusal_bucket bucket = drained(0);
    assert_false(lorica_refusal_bucket_take(&bucket, 0, 70));
    assert_false(lorica_refusal_bucket_summary(&bucket, EVERY - 1)); /* no token yet */
    assert_false(lorica_refusal_bucket_take(&bucket, EVERY, 90)); /* the token is the summary's */
    assert_true(lorica_refusal_bucket_summary(&bucket, EVERY));
    assert_int_equal(bucket.missed, 2);
    bucket.missed = 0; /* as when it was handed over */
    assert_false(lorica_refusal_bucket_summary(&bucket, 10 * EVERY)); /* nothing to tell */
    assert_true(lorica_refusal_bucket_take(&bucket, 10 * EVERY, 0));
}

/* However the attempts come, no more records than the burst and one for each period. */
static void test_bucket_rate_is_bounded(void **state) {
    struct lorica_refusal_bucket bucket;
    uint64_t records = 0, attempts = 0, told = 0;
    const uint64_t hours = 3, end = hours * 3600 * 1000;
    lorica_refusal_bucket_init(&bucket, "app", 0);
    for (uint64_t now = 0; now < end; now += 97) {
        attempts++;
        if (lorica_refusal_bucket_take(&bucket, now, (int64_t)now)) {
            records++;
            told++;
        }
        if (attempts % 10 == 0 && lorica_refusal_bucket_summary(&bucket, now)) {
            records++;
            told += bucket.missed;
            bucket.missed = 0;
        }
    }
    assert_true(records <= BURST + end / EVERY);
    assert_true(records >= BURST + end / EVERY - 10);
    assert_int_equal(told + bucket.missed, attempts); /* none is lost */
}

static void test_bucket_fills_no_further_than_its_burst(void **state) {
    struct lorica_refusal_bucket bucket = drained(0);
    assert_false(lorica_refusal_bucket_idle(&bucket, EVERY));
    assert_true(lorica_refusal_bucket_idle(&bucket, UINT64_C(1000) * EVERY * BURST));
    for (int i = 0; i < BURST; i++)
        assert_true(lorica_refusal_bucket_take(&bucket, UINT64_C(1000) * EVERY * BURST, 0));
    assert_false(lorica_refusal_bucket_take(&bucket, UINT64_C(1000) * EVERY * BURST, 0));
}

/* Whatever is no question and takes more than the right to ask the models is a change. */
static void test_every_changing_route_has_a_word(void **state) {
    size_t count = 0;
    const struct lorica_route *routes = lorica_routes(&count);
    for (size_t i = 0; i < count; i++) {
        const struct lorica_route *r = &routes[i];
        const bool changes = r->method != LORICA_METHOD_GET && r->role > LORICA_ROLE_INFER;
        if (changes != (r->change != NULL))
            print_error("%s\n", r->pattern);
        assert_int_equal(changes, r->change != NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bucket_gives_burst_then_counts),
        cmocka_unit_test(test_bucket_summary_comes_before_further_records),
        cmocka_unit_test(test_bucket_rate_is_bounded),
        cmocka_unit_test(test_bucket_fills_no_further_than_its_burst),
        cmocka_unit_test(test_every_changing_route_has_a_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
