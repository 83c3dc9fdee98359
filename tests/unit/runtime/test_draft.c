/* SPDX-License-Identifier: MIT
 * What is guessed from the text so far. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/draft.h"

#define EXPECT(text, most, ...)                                                                    \
    do {                                                                                           \
        static const int32_t wanted[] = {__VA_ARGS__};                                             \
        int32_t got[LORICA_DRAFT_MAX] = {0};                                                       \
        assert_int_equal(lorica_draft_lookup(text, sizeof(text) / sizeof((text)[0]), most, got),   \
                         sizeof(wanted) / sizeof(wanted[0]));                                      \
        assert_memory_equal(got, wanted, sizeof(wanted));                                          \
    } while (0)

static void test_draft_is_what_followed_the_same_words(void **state) {
    static const int32_t text[] = {1, 2, 3, 4, 5, 9, 2, 3};
    EXPECT(text, 3, 4, 5, 9);
    EXPECT(text, 1, 4);
}

static void test_draft_longest_match_wins_then_the_latest(void **state) {
    static const int32_t longest[] = {7, 1, 2, 50, 1, 2, 60, 7, 1, 2};
    EXPECT(longest, 1, 50);
    static const int32_t latest[] = {1, 2, 50, 1, 2, 60, 1, 2};
    EXPECT(latest, 1, 60);
}

static void test_draft_goes_on_through_a_repetition(void **state) {
    static const int32_t text[] = {8, 5, 6, 5, 6};
    EXPECT(text, 5, 5, 6, 5, 6, 5);
    static const int32_t same[] = {4, 4, 4, 4};
    EXPECT(same, 4, 4, 4, 4, 4);
}

static void test_draft_of_nothing_known_is_empty(void **state) {
    static const int32_t text[] = {1, 2, 3, 4, 1, 5, 2};
    int32_t got[LORICA_DRAFT_MAX];
    for (uint32_t count = 0; count <= 7; count++)
        assert_int_equal(lorica_draft_lookup(text, count, 4, got), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draft_is_what_followed_the_same_words),
        cmocka_unit_test(test_draft_longest_match_wins_then_the_latest),
        cmocka_unit_test(test_draft_goes_on_through_a_repetition),
        cmocka_unit_test(test_draft_of_nothing_known_is_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
