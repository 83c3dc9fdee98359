/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/cmd/cmd.h"
#include "gateway/config.h"

static int parse(struct lorica_config *config, const char *text, struct lorica_error *err) {
    return lorica_config_parse(config, "file", text, strlen(text), err);
}

static void test_config_lines_set_their_fields(void **state) {
    struct lorica_config config;
    struct lorica_error err = {0};
    (void)state;
    assert_int_equal(lorica_config_init(&config), 0);
    assert_int_equal(parse(&config,
                           "# comment\n\n listen = 127.0.0.1:0 \r\nthreads=3\n"
                           "metrics-open = true\nbase = a b",
                           &err),
                     0);
    assert_string_equal(config.listen, "127.0.0.1:0");
    assert_int_equal(config.threads, 3);
    assert_true(config.metrics_open);
    assert_string_equal(config.base, "a b");
    lorica_config_finish(&config);
}

static void test_config_bad_lines_are_named_by_number(void **state) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"\nfrob = 1\n", "file, line 2: there is no setting \"frob\""},
        {"threads\n", "file, line 1: a line reads \"name = value\""},
        {"threads = x\n", "file, line 1: threads must be a whole number"},
        {"threads = 1025\n", "file, line 1: threads must be"},
        {"threads = -1\n", "file, line 1: threads must be"},
        {"threads = 1 2\n", "file, line 1: threads must be"},
        {"threads = 1\nthreads = 2\n", "file, line 2: threads stands here a second time"},
        {"metrics-open = yes\n", "file, line 1: metrics-open must be true or false"},
        {"kv = fp8\n", "file, line 1: kv must be bf16 or int8, not \"fp8\""},
        {"base =\n", "file, line 1: base must not be empty"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_config config;
        struct lorica_error err = {0};
        assert_int_equal(lorica_config_init(&config), 0);
        assert_int_equal(parse(&config, cases[i].text, &err), LORICA_EINVAL);
        if (!strstr(err.text, cases[i].says))
            fail_msg("\"%s\" lacks \"%s\"", err.text, cases[i].says);
        lorica_config_finish(&config);
    }
}

static void test_config_sample_names_every_setting_with_its_default(void **state) {
    struct lorica_config defaults, sampled;
    struct lorica_error err = {0};
    size_t count = 0;
    const struct lorica_setting *settings = lorica_config_settings(&count);
    (void)state;
    for (size_t i = 0; i < count; i++) {
        char line[80];
        (void)snprintf(line, sizeof(line), "\n#%s = ", settings[i].name);
        if (!strstr(lorica_config_sample, line))
            fail_msg("the sample lacks %s", settings[i].name);
    }
    /* With the comment signs taken off the numbers and switches, nothing changes. */
    char *text = strdup(lorica_config_sample);
    assert_non_null(text);
    for (size_t i = 0; i < count; i++) {
        char line[80];
        (void)snprintf(line, sizeof(line), "\n#%s = ", settings[i].name);
        char *at = strstr(text, line);
        if (settings[i].type != LORICA_SETTING_TEXT)
            at[1] = ' ';
    }
    assert_int_equal(lorica_config_init(&defaults), 0);
    assert_int_equal(lorica_config_init(&sampled), 0);
    assert_int_equal(parse(&sampled, text, &err), 0);
    for (size_t i = 0; i < count; i++)
        if (settings[i].type != LORICA_SETTING_TEXT)
            assert_memory_equal(
                (char *)&sampled + settings[i].offset, (char *)&defaults + settings[i].offset,
                settings[i].type == LORICA_SETTING_BOOL ? sizeof(bool) : sizeof(long long));
    free(text);
    lorica_config_finish(&defaults);
    lorica_config_finish(&sampled);
}

static void test_config_sample_is_the_one_in_deploy(void **state) {
    char text[16384];
    FILE *file = fopen(TEST_DATA "/../deploy/lorica.conf.sample", "r");
    (void)state;
    assert_non_null(file);
    const size_t len = fread(text, 1, sizeof(text) - 1, file);
    (void)fclose(file);
    text[len] = '\0';
    assert_string_equal(text, lorica_config_sample);
}

static void test_config_listen_takes_addresses_apart(void **state) {
    static const struct {
        const char *text, *host;
        int port;
    } good[] = {{"127.0.0.1:8443", "127.0.0.1", 8443},
                {"[::1]:0", "::1", 0},
                {"localhost:65535", "127.0.0.1", 65535}};
    static const char *const bad[] = {"",      "127.0.0.1",       ":8443", "127.0.0.1:", "[::1]",
                                      "::1:1", "127.0.0.1:65536", "a:-1",  "a:1x",       "[]:1"};
    struct lorica_error err = {0};
    char host[64];
    int port = -1;
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(lorica_config_listen(good[i].text, host, sizeof(host), &port, &err), 0);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(lorica_config_listen(bad[i], host, sizeof(host), &port, &err),
                         LORICA_EINVAL);
}

static void test_config_priority_is_that_of_the_key(void **state) {
    struct lorica_config config = {.priority_high = (char *)"er-*, desk",
                                   .priority_low = (char *)"batch-?,er-slow ,nightly"};
    const struct lorica_config none = {0};
    (void)state;
    assert_int_equal(lorica_config_priority(&config, "er-1"), LORICA_PRIORITY_HIGH);
    assert_int_equal(lorica_config_priority(&config, "er-slow"), LORICA_PRIORITY_HIGH);
    assert_int_equal(lorica_config_priority(&config, "desk"), LORICA_PRIORITY_HIGH);
    assert_int_equal(lorica_config_priority(&config, "batch-1"), LORICA_PRIORITY_LOW);
    assert_int_equal(lorica_config_priority(&config, "nightly"), LORICA_PRIORITY_LOW);
    assert_int_equal(lorica_config_priority(&config, "batch-10"), LORICA_PRIORITY_NORMAL);
    assert_int_equal(lorica_config_priority(&config, "des"), LORICA_PRIORITY_NORMAL);
    assert_int_equal(lorica_config_priority(&none, "er-1"), LORICA_PRIORITY_NORMAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_lines_set_their_fields),
        cmocka_unit_test(test_config_bad_lines_are_named_by_number),
        cmocka_unit_test(test_config_sample_names_every_setting_with_its_default),
        cmocka_unit_test(test_config_sample_is_the_one_in_deploy),
        cmocka_unit_test(test_config_listen_takes_addresses_apart),
        cmocka_unit_test(test_config_priority_is_that_of_the_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
