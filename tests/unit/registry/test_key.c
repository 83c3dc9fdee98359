/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include "registry/internal.h"

static struct lorica_key key_of(const char *name, enum lorica_role role) {
    struct lorica_key key = {.role = role};
    snprintf(key.name, sizeof(key.name), "%s", name);
    return key;
}

static void test_key_found_by_its_text_only(void **state) {
    struct fixture *f = *state;
    struct lorica_key key = key_of("app", LORICA_ROLE_PUBLISH), found;
    char text[LORICA_KEY_TEXT], other[LORICA_KEY_TEXT];
    key.glob_count = 1;
    snprintf(key.globs[0], sizeof(key.globs[0]), "%s", "cardio*");
    ok(lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    key = key_of("app2", LORICA_ROLE_INFER);
    ok(lorica_registry_key_create(f->registry, &key, &actor, other, &err));
    assert_int_equal(strlen(text), 46);
    assert_memory_equal(text, "lk_", 3);
    assert_int_equal(strspn(text + 3, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                      "0123456789-_"),
                     43);
    assert_string_not_equal(text, other);
    fixture_reopen(f);
    ok(lorica_registry_key_find(f->registry, text, 46, &found, &err));
    assert_string_equal(found.name, "app");
    assert_int_equal(found.role, LORICA_ROLE_PUBLISH);
    assert_int_equal(found.glob_count, 1);
    assert_string_equal(found.globs[0], "cardio*");
    assert_int_equal(found.revoked_ms, 0);
    for (size_t i = 0; i < 46; i++) {
        char wrong[LORICA_KEY_TEXT];
        memcpy(wrong, text, sizeof(wrong));
        wrong[i] = wrong[i] == 'A' ? 'B' : 'A';
        fails(LORICA_EAUTH, "no key",
              lorica_registry_key_find(f->registry, wrong, 46, &found, &err));
    }
    fails(LORICA_EAUTH, "no key", lorica_registry_key_find(f->registry, text, 45, &found, &err));
    fails(LORICA_EAUTH, "no key", lorica_registry_key_find(f->registry, "", 0, &found, &err));
    fails(LORICA_EAUTH, "no key", lorica_registry_key_find(f->registry, NULL, 0, &found, &err));
    assert_clean(f->registry);
}

static void test_key_text_is_not_stored(void **state) {
    struct fixture *f = *state;
    struct lorica_key key = key_of("app", LORICA_ROLE_ADMIN);
    char text[LORICA_KEY_TEXT], path[128];
    ok(lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    lorica_registry_close(f->registry);
    f->registry = NULL;
    snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char bytes[1 << 20];
    size_t len = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    assert_true(len > 0 && len < sizeof(bytes));
    assert_non_null(memmem(bytes, len, "app", 3));
    assert_null(memmem(bytes, len, text + 3, 20));
}

static void test_key_revoked_refused_and_name_stays_taken(void **state) {
    struct fixture *f = *state;
    struct lorica_key key = key_of("app", LORICA_ROLE_ADMIN), found;
    char text[LORICA_KEY_TEXT], again[LORICA_KEY_TEXT];
    ok(lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    fails(LORICA_ECONFLICT, "exists; choose",
          lorica_registry_key_create(f->registry, &key, &actor, again, &err));
    ok(lorica_registry_key_revoke(f->registry, "app", &actor, &err));
    ok(lorica_registry_key_revoke(f->registry, "app", &actor, &err)); /* nothing more to do */
    fails(LORICA_EAUTH, "no key", lorica_registry_key_find(f->registry, text, 46, &found, &err));
    fails(LORICA_ECONFLICT, "revoked",
          lorica_registry_key_create(f->registry, &key, &actor, again, &err));
    fails(LORICA_ENOTFOUND, "key list",
          lorica_registry_key_revoke(f->registry, "other", &actor, &err));
    assert_clean(f->registry);
}

static int list_key(void *arg, const struct lorica_key *key) {
    struct lorica_buf *list = arg;
    lorica_buf_printf(list, "%s%c ", key->name, key->revoked_ms ? '-' : '+');
    return 0;
}

static void test_keys_listed_in_order(void **state) {
    struct fixture *f = *state;
    const char *const names[] = {"c", "a", "b"};
    char text[LORICA_KEY_TEXT];
    struct lorica_buf list;
    lorica_buf_init(&list, 64);
    for (size_t i = 0; i < 3; i++) {
        struct lorica_key key = key_of(names[i], LORICA_ROLE_INFER);
        ok(lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    }
    ok(lorica_registry_key_revoke(f->registry, "b", &actor, &err));
    ok(lorica_registry_keys(f->registry, list_key, &list, &err));
    assert_string_equal(list.data, "a+ b- c+ ");
    lorica_buf_finish(&list);
}

static void test_key_bad_arguments_refused(void **state) {
    struct fixture *f = *state;
    char text[LORICA_KEY_TEXT];
    struct lorica_key key = key_of("App", LORICA_ROLE_INFER);
    fails(LORICA_EINVAL, "name", lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    key = key_of("app", (enum lorica_role)4);
    fails(LORICA_EINVAL, "role", lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    key = key_of("app", LORICA_ROLE_INFER);
    key.glob_count = LORICA_KEY_GLOBS + 1;
    fails(LORICA_ELIMIT, "globs",
          lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    key.glob_count = 2;
    snprintf(key.globs[0], sizeof(key.globs[0]), "%s", "ok*");
    snprintf(key.globs[1], sizeof(key.globs[1]), "%s", "[a-z]");
    fails(LORICA_EINVAL, "glob 2",
          lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    key.globs[1][0] = '\0';
    fails(LORICA_EINVAL, "glob 2",
          lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    assert_clean(f->registry);
}

static void test_globs_stars_and_question_marks(void **state) {
    (void)state;
    static const struct {
        const char *glob, *text;
        bool allowed;
    } cases[] = {
        {"*", "anything", true},
        {"*", "", true},
        {"cardio*", "cardiology", true},
        {"cardio*", "cardio", true},
        {"cardio*", "cardi", false},
        {"*logy", "cardiology", true},
        {"*logy", "cardiologyx", false},
        {"c*o*y", "cardiology", true},
        {"?", "a", true},
        {"?", "", false},
        {"?", "ab", false},
        {"a?c", "abc", true},
        {"a?c", "ac", false},
        {"abc", "abc", true},
        {"abc", "abcd", false},
        {"**a**", "bab", true},
        {"base", "base", true},
        {"*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false},
    };
    struct lorica_key key = key_of("app", LORICA_ROLE_INFER);
    assert_true(lorica_key_allows(&key, "anything"));
    key.glob_count = 1;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(key.globs[0], sizeof(key.globs[0]), "%s", cases[i].glob);
        assert_int_equal(lorica_key_allows(&key, cases[i].text), cases[i].allowed);
    }
    snprintf(key.globs[0], sizeof(key.globs[0]), "%s", "a");
    snprintf(key.globs[1], sizeof(key.globs[1]), "%s", "b");
    key.glob_count = 2;
    assert_true(lorica_key_allows(&key, "b"));
    assert_false(lorica_key_allows(&key, "c"));
}

static void test_roles_words_both_ways(void **state) {
    (void)state;
    const char *const words[] = {"infer", "publish", "ops", "admin"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(lorica_role_parse(words[i]), i);
        assert_string_equal(lorica_role_name((enum lorica_role)i), words[i]);
    }
    assert_int_equal(lorica_role_parse("root"), -1);
    assert_int_equal(lorica_role_parse(""), -1);
    assert_int_equal(lorica_role_parse(NULL), -1);
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_registry(test_key_found_by_its_text_only),
        with_registry(test_key_text_is_not_stored),
        with_registry(test_key_revoked_refused_and_name_stays_taken),
        with_registry(test_keys_listed_in_order),
        with_registry(test_key_bad_arguments_refused),
        cmocka_unit_test(test_globs_stars_and_question_marks),
        cmocka_unit_test(test_roles_words_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
