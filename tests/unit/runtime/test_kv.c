/* SPDX-License-Identifier: MIT
 * The paged cache: pages are distinct, come back, and lie where the kernel's view says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/kv.h"

static const struct lorica_arch arch = {.layers = 3, .kv_heads = 2, .head_dim = 10};

static void test_kv_take_beyond_what_is_free_takes_none(void **state) {
    struct lorica_kv kv;
    uint32_t pages[8];
    assert_int_equal(lorica_kv_init(&kv, &arch, LORICA_KV_BF16, 5 * LORICA_KV_PAGE - 3, NULL), 0);
    assert_int_equal(kv.pages, 5);
    assert_int_equal(lorica_kv_take(&kv, pages, 6), LORICA_EBUSY);
    assert_int_equal(kv.free_count, 5);
    assert_int_equal(lorica_kv_take(&kv, pages, 3), 0);
    assert_int_equal(lorica_kv_take(&kv, pages + 3, 3), LORICA_EBUSY);
    assert_int_equal(lorica_kv_take(&kv, pages + 3, 2), 0);
    assert_int_equal(kv.free_count, 0);
    for (int i = 0; i < 5; i++) {
        assert_true(pages[i] < 5);
        for (int j = 0; j < i; j++)
            assert_true(pages[i] != pages[j]);
    }
    lorica_kv_give(&kv, pages, 5);
    assert_int_equal(kv.free_count, 5);
    lorica_kv_finish(&kv);
}

static void test_kv_pages_given_back_are_taken_again(void **state) {
    struct lorica_kv kv;
    uint32_t first[4], second[4];
    assert_int_equal(lorica_kv_init(&kv, &arch, LORICA_KV_BF16, 64 * LORICA_KV_PAGE, NULL), 0);
    assert_int_equal(lorica_kv_take(&kv, first, 4), 0);
    lorica_kv_give(&kv, first, 4);
    assert_int_equal(lorica_kv_take(&kv, second, 4), 0);
    assert_memory_equal(first, second, sizeof(first));
    lorica_kv_finish(&kv);
}

/* Marks every page of every head through lorica_kv_at, finds the marks through the view. */
static void test_kv_view_reads_what_was_written(void **state) {
    struct lorica_kv kv;
    uint32_t pages[3];
    assert_int_equal(lorica_kv_init(&kv, &arch, LORICA_KV_BF16, 3 * LORICA_KV_PAGE, NULL), 0);
    assert_int_equal(lorica_kv_take(&kv, pages, 3), 0);
    assert_true(kv.page_nbytes >= (size_t)4 * LORICA_KV_PAGE * arch.head_dim);
    uint8_t mark = 0;
    for (uint32_t l = 0; l < arch.layers; l++)
        for (uint32_t h = 0; h < arch.kv_heads; h++)
            for (uint32_t p = 0; p < 3; p++)
                memset(lorica_kv_at(&kv, l, h, pages[p]), mark++, kv.page_nbytes);
    mark = 0;
    for (uint32_t l = 0; l < arch.layers; l++)
        for (uint32_t h = 0; h < arch.kv_heads; h++) {
            const struct lorica_kv_view view = lorica_kv_view(&kv, l, h, pages);
            assert_int_equal((uintptr_t)view.cells % 64, 0);
            for (uint32_t p = 0; p < 3; p++, mark++)
                for (size_t i = 0; i < kv.page_nbytes; i++)
                    assert_int_equal(view.cells[view.pages[p] * view.page_nbytes + i], mark);
        }
    lorica_kv_finish(&kv);
}

static void test_kv_of_no_or_too_many_tokens_is_refused(void **state) {
    static const struct lorica_arch huge = {
        .layers = UINT32_MAX, .kv_heads = UINT32_MAX, .head_dim = 1u << 20};
    struct lorica_kv kv;
    struct lorica_error err = {0};
    assert_int_equal(lorica_kv_init(&kv, &arch, LORICA_KV_BF16, 0, &err), LORICA_EINVAL);
    assert_int_equal(lorica_kv_init(&kv, &huge, LORICA_KV_BF16, 1u << 30, &err), LORICA_ELIMIT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_take_beyond_what_is_free_takes_none),
        cmocka_unit_test(test_kv_pages_given_back_are_taken_again),
        cmocka_unit_test(test_kv_view_reads_what_was_written),
        cmocka_unit_test(test_kv_of_no_or_too_many_tokens_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
