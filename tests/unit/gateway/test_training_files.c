/* SPDX-License-Identifier: MIT
 * The store of files to train on: who finds what, and what becomes of bytes that were linked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/files.h"
#include "gateway/jobs/training_files.h"

static const char lines[] = "{\"text\":\"On the fourth floor.\"}\n";

struct fixture {
    char dir[32], path[64];
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof(*f));
    struct lorica_error err = {0};
    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/lorica-files-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(lorica_training_files_open(f->dir, &err), 0);
    *state = f;
    return 0;
}

static void discard(const struct fixture *f, const char *name) {
    char *path = lorica_path_join(f->dir, name);
    assert_non_null(path);
    lorica_dir_discard(path);
    free(path);
}

static int teardown(void **state) {
    struct fixture *f = *state;
    discard(f, "train/files");
    discard(f, "train");
    lorica_dir_discard(f->dir);
    free(f);
    return 0;
}

/* Stores `lines` as a file of this key. */
static struct lorica_training_file store(struct fixture *f, const char *owner) {
    struct lorica_training_file file = {.purpose = "fine-tune", .nbytes = strlen(lines)};
    struct lorica_error err = {0};
    (void)snprintf(f->path, sizeof(f->path), "%s/upload", f->dir);
    (void)snprintf(file.owner, sizeof(file.owner), "%s", owner);
    /* A name that takes its longest form in JSON. */
    memset(file.filename, '"', LORICA_TRAINING_FILENAME_MAX);
    assert_int_equal(lorica_sha256(lines, strlen(lines), &file.digest), 0);
    assert_int_equal(lorica_file_replace(f->path, lines, strlen(lines), 0600, &err), 0);
    assert_int_equal(lorica_training_file_store(f->dir, f->path, &file, &err), 0);
    assert_false(lorica_path_exists(f->path));
    return file;
}

static struct lorica_key key_of(const char *name, enum lorica_role role) {
    struct lorica_key key = {.role = role};
    (void)snprintf(key.name, sizeof(key.name), "%s", name);
    return key;
}

static void test_stored_file_is_found_as_it_was_by_its_owner_and_operations(void **state) {
    struct fixture *f = *state;
    const struct lorica_training_file file = store(f, "one");
    const struct lorica_key one = key_of("one", LORICA_ROLE_PUBLISH),
                            two = key_of("two", LORICA_ROLE_PUBLISH),
                            ops = key_of("three", LORICA_ROLE_OPS);
    struct lorica_training_file found;
    struct lorica_error foreign = {0}, unknown = {0}, err = {0};
    char other[LORICA_TRAINING_FILE_ID];
    assert_int_equal(strlen(file.id), LORICA_TRAINING_FILE_ID - 1);
    assert_int_equal(lorica_training_file_find(f->dir, &one, file.id, &found, &err), 0);
    assert_string_equal(found.id, file.id);
    assert_string_equal(found.filename, file.filename);
    assert_string_equal(found.owner, "one");
    assert_string_equal(found.purpose, "fine-tune");
    assert_int_equal(found.nbytes, file.nbytes);
    assert_int_equal(found.created_s, file.created_s);
    assert_true(lorica_digest_equal(&found.digest, &file.digest));
    assert_int_equal(lorica_training_file_find(f->dir, &ops, file.id, &found, &err), 0);

    assert_int_equal(lorica_training_file_find(f->dir, &two, file.id, &found, &foreign),
                     LORICA_ENOTFOUND);
    (void)snprintf(other, sizeof(other), "%s", file.id);
    other[10] = other[10] == '0' ? '1' : '0';
    assert_int_equal(lorica_training_file_find(f->dir, &two, other, &found, &unknown),
                     LORICA_ENOTFOUND);
    assert_non_null(strstr(foreign.text, file.id));
    memcpy(strstr(foreign.text, file.id), other, strlen(other));
    assert_string_equal(foreign.text, unknown.text); /* nothing tells the two apart */
}

static void test_linked_bytes_stay_when_the_file_is_removed(void **state) {
    struct fixture *f = *state;
    const struct lorica_training_file file = store(f, "one");
    const struct lorica_key one = key_of("one", LORICA_ROLE_PUBLISH);
    struct lorica_training_file found;
    struct lorica_error err = {0};
    char path[64], *bytes = NULL;
    size_t len = 0;
    (void)snprintf(path, sizeof(path), "%s/of-a-job", f->dir);
    assert_int_equal(lorica_training_file_link(f->dir, &file, path, &err), 0);
    assert_int_not_equal(lorica_training_file_link(f->dir, &file, path, &err), 0); /* is there */
    assert_int_equal(lorica_training_file_remove(f->dir, &file, &err), 0);
    assert_int_equal(lorica_training_file_find(f->dir, &one, file.id, &found, &err),
                     LORICA_ENOTFOUND);
    assert_int_equal(lorica_training_file_remove(f->dir, &file, &err), LORICA_ENOTFOUND);
    (void)unlink(f->path);
    assert_int_equal(lorica_training_file_link(f->dir, &file, f->path, &err), LORICA_ENOTFOUND);
    assert_int_equal(lorica_file_read(path, 4096, &bytes, &len, &err), 0);
    assert_int_equal(len, strlen(lines));
    assert_memory_equal(bytes, lines, len);
    free(bytes);
}

static void test_store_of_a_file_that_is_not_there_keeps_nothing(void **state) {
    struct fixture *f = *state;
    struct lorica_training_file file = {.purpose = "fine-tune", .owner = "one"};
    struct lorica_training_file_list list;
    struct lorica_error err = {0};
    (void)snprintf(f->path, sizeof(f->path), "%s/nowhere", f->dir);
    assert_int_not_equal(lorica_training_file_store(f->dir, f->path, &file, &err), 0);
    assert_string_equal(file.id, "");
    assert_int_equal(lorica_training_files_list(f->dir, NULL, &list, &err), 0);
    assert_int_equal(list.count, 0);
    lorica_training_files_finish(&list);
}

static void test_list_holds_what_the_key_may_see(void **state) {
    struct fixture *f = *state;
    const struct lorica_key one = key_of("one", LORICA_ROLE_PUBLISH);
    struct lorica_training_file_list list;
    struct lorica_error err = {0};
    for (int i = 0; i < 20; i++)
        (void)store(f, i % 4 == 0 ? "one" : "two");
    assert_int_equal(lorica_training_files_list(f->dir, &one, &list, &err), 0);
    assert_int_equal(list.count, 5);
    for (size_t i = 0; i < list.count; i++)
        assert_string_equal(list.items[i].owner, "one");
    lorica_training_files_finish(&list);
    assert_int_equal(lorica_training_files_list(f->dir, NULL, &list, &err), 0);
    assert_int_equal(list.count, 20);
    for (size_t i = 1; i < list.count; i++)
        assert_true(list.items[i - 1].created_s <= list.items[i].created_s);
    lorica_training_files_finish(&list);
}

int main(void) {
#define with_store(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        with_store(test_stored_file_is_found_as_it_was_by_its_owner_and_operations),
        with_store(test_linked_bytes_stay_when_the_file_is_removed),
        with_store(test_store_of_a_file_that_is_not_there_keeps_nothing),
        with_store(test_list_holds_what_the_key_may_see),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
