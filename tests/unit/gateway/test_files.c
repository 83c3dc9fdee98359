/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/files.h"

static char root[] = "/tmp/lorica-files-XXXXXX";

static int make_root(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    lorica_dir_discard(root);
    return lorica_path_exists(root) ? -1 : 0;
}

static void test_file_replaced_is_read_back_with_its_mode(void **state) {
    (void)state;
    char *path = lorica_path_join(root, "file"), *text = NULL;
    struct lorica_error err;
    struct stat st;
    size_t len = 0;
    assert_int_equal(lorica_file_replace(path, "old", 3, 0600, &err), 0);
    assert_int_equal(lorica_file_replace(path, "new text", 8, 0640, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(lorica_file_read(path, 8, &text, &len, &err), 0);
    assert_int_equal(len, 8);
    assert_string_equal(text, "new text");
    free(text);
    assert_int_equal(lorica_file_read(path, 7, &text, &len, &err), LORICA_ELIMIT);
    free(path);
}

static void test_file_absent_or_in_no_directory_is_an_error(void **state) {
    (void)state;
    char *path = lorica_path_join(root, "absent/file"), *text = NULL;
    struct lorica_error err;
    size_t len = 0;
    assert_int_equal(lorica_file_read(path, 10, &text, &len, &err), LORICA_ENOTFOUND);
    assert_int_equal(lorica_file_replace(path, "x", 1, 0600, &err), LORICA_ENOTFOUND);
    assert_null(text);
    free(path);
}

static void test_dirs_are_made_deep_and_a_file_in_the_way_is_an_error(void **state) {
    (void)state;
    char *deep = lorica_path_join(root, "a/b/c"), *file = lorica_path_join(root, "plain");
    char *below = lorica_path_join(root, "plain/d");
    struct lorica_error err;
    struct stat st;
    assert_int_equal(lorica_dirs_make(deep, 0700, &err), 0);
    assert_int_equal(lorica_dirs_make(deep, 0700, &err), 0);
    assert_int_equal(stat(deep, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(lorica_file_replace(file, "", 0, 0600, &err), 0);
    assert_int_equal(lorica_dirs_make(below, 0700, &err), LORICA_ECONFLICT);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rmdir(deep), 0);
        *strrchr(deep, '/') = '\0';
    }
    free(deep);
    free(file);
    free(below);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_replaced_is_read_back_with_its_mode),
        cmocka_unit_test(test_file_absent_or_in_no_directory_is_an_error),
        cmocka_unit_test(test_dirs_are_made_deep_and_a_file_in_the_way_is_an_error),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
