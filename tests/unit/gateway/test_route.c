/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/server/route.h"

static const struct lorica_route table[] = {
    {.method = LORICA_METHOD_GET, .pattern = "/a"},
    {.method = LORICA_METHOD_POST, .pattern = "/a"},
    {.method = LORICA_METHOD_GET, .pattern = "/a/{}"},
    {.method = LORICA_METHOD_PUT, .pattern = "/a/{}/b/{}"},
};
#define COUNT (sizeof(table) / sizeof(table[0]))

static int find(enum lorica_method method, const char *path, struct lorica_route_match *ret) {
    return lorica_route_find(table, COUNT, method, path, strlen(path), ret);
}

static void test_route_methods_and_parts_choose_the_entry(void **state) {
    struct lorica_route_match m;
    (void)state;
    assert_int_equal(find(LORICA_METHOD_GET, "/a", &m), 0);
    assert_ptr_equal(m.route, &table[0]);
    assert_int_equal(find(LORICA_METHOD_HEAD, "/a", &m), 0);
    assert_ptr_equal(m.route, &table[0]);
    assert_int_equal(find(LORICA_METHOD_POST, "/a", &m), 0);
    assert_ptr_equal(m.route, &table[1]);
    assert_int_equal(find(LORICA_METHOD_PUT, "/a/x%40y/b/z", &m), 0);
    assert_ptr_equal(m.route, &table[3]);
    assert_string_equal(m.params[0], "x@y");
    assert_string_equal(m.params[1], "z");
}

static void test_route_other_method_tells_those_allowed(void **state) {
    struct lorica_route_match m;
    (void)state;
    assert_int_equal(find(LORICA_METHOD_DELETE, "/a", &m), 0);
    assert_null(m.route);
    assert_true(m.path_known);
    assert_string_equal(m.allow, "GET, POST");
}

static void test_route_paths_that_only_look_alike_are_unknown(void **state) {
    static const char *const paths[] = {"/", "", "/b", "/a/", "/a//b/c", "/a/x/b", "/a/x/b/", "/A"};
    struct lorica_route_match m;
    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        assert_int_equal(find(LORICA_METHOD_GET, paths[i], &m), 0);
        assert_null(m.route);
        assert_false(m.path_known);
    }
}

static void test_route_bad_escapes_are_refused(void **state) {
    static const char *const paths[] = {"/a/%",   "/a/%4",  "/a/%zz", "/a/%2f",
                                        "/a/%5c", "/a/%00", "/a/..",  "/a/%ff"};
    struct lorica_route_match m;
    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        assert_int_equal(find(LORICA_METHOD_GET, paths[i], &m), LORICA_EINVAL);
}

static void test_route_part_longer_than_the_limit_is_refused(void **state) {
    char path[LORICA_ROUTE_PARAM_MAX + 8] = "/a/";
    struct lorica_route_match m;
    (void)state;
    memset(path + 3, 'x', LORICA_ROUTE_PARAM_MAX);
    assert_int_equal(find(LORICA_METHOD_GET, path, &m), 0);
    path[3 + LORICA_ROUTE_PARAM_MAX] = 'x';
    assert_int_equal(find(LORICA_METHOD_GET, path, &m), LORICA_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route_methods_and_parts_choose_the_entry),
        cmocka_unit_test(test_route_other_method_tells_those_allowed),
        cmocka_unit_test(test_route_paths_that_only_look_alike_are_unknown),
        cmocka_unit_test(test_route_bad_escapes_are_refused),
        cmocka_unit_test(test_route_part_longer_than_the_limit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
