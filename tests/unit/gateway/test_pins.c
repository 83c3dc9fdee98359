/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/server/pins.h"

static void test_letting_go_waits_for_no_deletion(void **state) {
    const struct lorica_version version = {.name = "cardiology", .version = 2};
    struct lorica_pins pins;
    struct lorica_pin first = {NULL}, second = {NULL};
    lorica_pins_init(&pins);
    lorica_pins_lock(&pins);
    lorica_pins_hold(&pins, &first, &version);
    lorica_pins_hold(&pins, &second, &version);
    lorica_pins_unlock(&pins);
    (void)alarm(20);
    lorica_pins_lock(&pins); /* as a deletion does until it is on the disk */
    lorica_pins_release(&pins, &first);
    lorica_pins_unlock(&pins);
    (void)alarm(0);
    assert_null(first.version);
    assert_ptr_equal(pins.first, &second);
    lorica_pins_release(&pins, &second);
    lorica_pins_release(&pins, &second); /* holds nothing any more */
    assert_null(pins.first);
    lorica_pins_finish(&pins);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_letting_go_waits_for_no_deletion)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
