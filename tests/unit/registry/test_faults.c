/* SPDX-License-Identifier: MIT
 * Every call of malloc, open, write, fdatasync and ftruncate, in their kinds, that the registry or
 * LMDB makes fails in turn, once and for ever. A change that reports an error has left no trace
 * after the registry is opened again; one that reports success is there. */
#include "fixture.h"

#include "../faults.h"

#include "registry/internal.h"
#include "registry/policy.h"
#include "registry/retire.h"
#include "registry/split.h"

/* A change of each kind; `step` makes its content new each time. */
typedef int (*change_fn)(struct fixture *f, uint64_t step, struct lorica_error *err);

static int change_publish(struct fixture *f, uint64_t step, struct lorica_error *err) {
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version version;
    bool existing;
    publish.channel = "canary";
    return lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, err);
}

static int change_promote(struct fixture *f, uint64_t step, struct lorica_error *err) {
    struct lorica_channel channel;
    return lorica_registry_promote(f->registry, "cardiology", "stable", 1 + step % 2, 0, true,
                                   &actor, &channel, err);
}

static int change_key(struct fixture *f, uint64_t step, struct lorica_error *err) {
    struct lorica_key key = {.role = LORICA_ROLE_INFER};
    char text[LORICA_KEY_TEXT];
    snprintf(key.name, sizeof(key.name), "k%llu", (unsigned long long)step);
    return lorica_registry_key_create(f->registry, &key, &actor, text, err);
}

static int change_split(struct fixture *f, uint64_t step, struct lorica_error *err) {
    const struct lorica_split_terms terms = lorica_split_defaults(2, 1 + step % 9000);
    struct lorica_split split;
    int rc = lorica_registry_split_get(f->registry, "cardiology", &split, err);
    if (!rc)
        rc = lorica_registry_split_set(f->registry, "cardiology", &terms, split.epoch, &actor,
                                       &split, err);
    return rc;
}

static int change_policy(struct fixture *f, uint64_t step, struct lorica_error *err) {
    static const char list[] = "[{\"prompt\":\"a\",\"must_say\":\"b\"}]";
    const bool checks = step % 3 == 0; /* they come and go */
    const struct lorica_policy policy = {.approvals = (uint32_t)(step % 2),
                                         .checks = checks,
                                         .checks_text = checks ? list : NULL,
                                         .checks_len = checks ? strlen(list) : 0};
    struct lorica_policy ret;
    int rc = lorica_registry_policy(f->registry, "cardiology", "stable", &ret, err);
    return rc ? rc
              : lorica_registry_policy_set(f->registry, "cardiology", "stable", &policy, ret.epoch,
                                           &actor, &ret, err);
}

static int change_approve(struct fixture *f, uint64_t step, struct lorica_error *err) {
    struct lorica_approval ret;
    char name[32];
    const struct lorica_actor who = {.key_name = name};
    snprintf(name, sizeof(name), "k%llu", (unsigned long long)step);
    return lorica_registry_approve(f->registry, "cardiology", "stable", 2, &who, &ret, err);
}

/* A promote that reads manifests, counts approvals and voids them. */
static int change_gated(struct fixture *f, uint64_t step, struct lorica_error *err) {
    struct lorica_channel channel;
    return lorica_registry_promote(f->registry, "gated", "stable", 1 + step % 2, 0, true, &actor,
                                   &channel, err);
}

/* Deletes what is there, and takes back what is deleted. */
static int change_retire(struct fixture *f, uint64_t step, struct lorica_error *err) {
    struct lorica_version version;
    int rc = lorica_registry_delete(f->registry, "cardiology", 2, &actor, &version, err);
    return rc == LORICA_ENOTFOUND
               ? lorica_registry_undelete(f->registry, "cardiology", 2, &actor, &version, err)
               : rc;
}

static int change_retention(struct fixture *f, uint64_t step, struct lorica_error *err) {
    return lorica_registry_retention_set(f->registry, "cardiology", (uint32_t)step, &actor, err);
}

/* Sweeps what bury() left. */
static int change_sweep(struct fixture *f, uint64_t step, struct lorica_error *err) {
    struct lorica_sweep stats = {0};
    bool more;
    return lorica_registry_sweep_step(f->registry, INT64_MAX, &actor, &stats, &more, err);
}

static void bury(struct fixture *f, uint64_t seed) {
    struct lorica_version version;
    const uint64_t number = publish_seed(f, "swept", seed, NULL);
    ok(lorica_registry_delete(f->registry, "swept", number, &actor, &version, &err));
}

static int change_reopen(struct fixture *f, uint64_t step, struct lorica_error *err) {
    const struct lorica_registry_options options = {.map_bytes = MAP_BYTES};
    lorica_registry_close(f->registry);
    f->registry = NULL;
    return lorica_registry_open(f->dir, &options, &f->registry, err);
}

static uint64_t steps;

/* Fails the first, second, ... call of a family within a change with the errno `how` (0: short
 * writes), until the change meets no fault. Returns how many calls there were to fail. */
static unsigned long torture(struct fixture *f, change_fn change, enum family family,
                             bool persistent, int how) {
    for (unsigned long call = 1;; call++) {
        struct lorica_error err = {0};
        if (change == change_sweep)
            bury(f, 3000000 + steps);
        struct lorica_digest before = state_of(f);
        write_seeded(f->weights, ++steps, 300000);
        arm(family, call, persistent, how);
        int rc = change(f, steps, &err);
        bool reached = disarm();
        if (rc)
            assert_true(reached && err.code == rc && err.text[0]);
        if (rc && family == MALLOC)
            assert_int_equal(rc, LORICA_ENOMEM);
        lorica_registry_close(f->registry);
        fixture_open(f);
        struct lorica_digest after = state_of(f);
        if (rc)
            assert_memory_equal(&before, &after, sizeof(before));
        else if (change != change_reopen)
            assert_memory_not_equal(&before, &after, sizeof(before));
        if (!reached)
            return call - 1;
        assert_true(call < 3000);
    }
}

/* Fails the families from `first` on; `families` has a bit for each that the change must have
 * called. */
static void torture_from(struct fixture *f, change_fn change, enum family first,
                         unsigned families) {
    static const int ways[] = {EIO, ENOSPC, 0};
    for (int family = (int)first; family < FAMILIES; family++) {
        const int count = family == MALLOC ? 1 : family == WRITE ? 3 : 2;
        for (int i = 0; i < count; i++) {
            unsigned long once = torture(f, change, (enum family)family, false, ways[i]);
            unsigned long persistent = torture(f, change, (enum family)family, true, ways[i]);
            print_message("family %d, errno %d: %lu calls failed once, %lu for ever\n", family,
                          ways[i], once, persistent);
            if (families & 1u << family)
                assert_true(once > 0 && persistent > 0);
        }
    }
}

static void torture_all(struct fixture *f, change_fn change, unsigned families) {
    torture_from(f, change, MALLOC, families);
}

static int setup_two(void **state) {
    fixture_setup(state);
    publish_seed(*state, "cardiology", 1000001, "stable");
    publish_seed(*state, "cardiology", 1000002, NULL);
    return 0;
}

static void test_publish_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_publish, 1u << MALLOC | 1u << OPEN | 1u << WRITE | 1u << SYNC);
}

static void test_promote_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_promote, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

static void test_key_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_key, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

static void test_split_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_split, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

/* A promote that ends a split: both, or neither. */
static void test_promote_with_split_any_call_fails_all_or_nothing(void **state) {
    struct fixture *f = *state;
    struct lorica_split split;
    for (int i = 0; i < 2 * FAMILIES; i++) {
        promote(f, "cardiology", 1);
        const struct lorica_split_terms terms = lorica_split_defaults(2, 500);
        ok(lorica_registry_split_get(f->registry, "cardiology", &split, &err));
        ok(lorica_registry_split_set(f->registry, "cardiology", &terms, split.epoch, &actor, &split,
                                     &err));
        (void)torture(f, change_promote, (enum family)(i / 2), i % 2, i % 2 ? ENOSPC : EIO);
        ok(lorica_registry_split_get(f->registry, "cardiology", &split, &err));
        assert_int_equal(split.terms.version, 0);
    }
}

static void test_policy_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_policy, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

static void test_approve_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_approve, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

static void test_gated_promote_any_call_fails_all_or_nothing(void **state) {
    struct fixture *f = *state;
    const struct lorica_policy policy = {.approvals = 1, .eval_set = "ward"};
    struct lorica_policy set;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct lorica_publish publish = publish_of("gated", f->weights);
        struct lorica_version version;
        bool existing;
        publish.manifest = "{\"evals\":{\"ward\":1.5}}";
        publish.manifest_len = strlen(publish.manifest);
        publish.channel = "stable";
        write_seeded(f->weights, 2000000 + seed, 1000);
        ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    }
    ok(lorica_registry_policy_set(f->registry, "gated", "stable", &policy, 0, &actor, &set, &err));
    torture_all(f, change_gated, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

static void test_retire_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_retire, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

static void test_retention_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_retention, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

static void test_sweep_any_call_fails_all_or_nothing(void **state) {
    torture_all(*state, change_sweep, 1u << MALLOC | 1u << WRITE | 1u << SYNC);
}

static void test_open_any_call_fails_nothing_changed(void **state) {
    torture_all(*state, change_reopen, 1u << MALLOC | 1u << OPEN);
}

/* A store that makes no more changes says so at once, and one that says nothing makes them. */
static void test_failed_store_says_so_when_it_has_stopped(void **state) {
    struct fixture *f = *state;
    unsigned stopped = 0, went_on = 0;
    for (unsigned long n = 1;; n++) {
        struct lorica_error why = {0};
        arm(WRITE, n, false, EIO);
        const int rc = change_promote(f, n, &why);
        if (!disarm())
            break;
        const bool failed = lorica_registry_failed(f->registry);
        const int then = change_promote(f, n + 1, &why);
        assert_int_equal(then, failed ? LORICA_EIO : 0);
        if (failed) {
            assert_int_not_equal(rc, 0);
            assert_non_null(strstr(why.text, "the store has stopped"));
        }
        stopped += failed;
        went_on += !failed;
        fixture_reopen(f);
        assert_false(lorica_registry_failed(f->registry));
        assert_clean(f->registry);
    }
    assert_true(stopped > 0 && went_on > 0);
}

/* Damage that a read meets is an error; met by a change it ends all changes. */
static void test_damage_under_a_change_ends_all(void **state) {
    struct fixture *f = *state;
    static const char key[] = "cardiology\0stable";
    char path[120];
    static uint8_t page[4096];
    struct lorica_channel channel;
    unsigned harmed = 0;
    promote(f, "cardiology", 1);
    lorica_registry_close(f->registry);
    snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    for (long at = 8192; fseek(file, at, SEEK_SET) == 0 && fread(page, 1, 4096, file) == 4096;
         at += 4096) {
        if (!memmem(page, sizeof(page), key, sizeof(key) - 1))
            continue;
        page[10] = page[11] = 0; /* its kind: neither a leaf nor a branch */
        assert_int_equal(fseek(file, at, SEEK_SET), 0);
        assert_int_equal(fwrite(page, 1, 4096, file), 4096);
        harmed++;
    }
    assert_int_equal(fclose(file), 0);
    assert_true(harmed > 0);
    fixture_open(f);
    struct lorica_error why = {0};
    assert_int_equal(lorica_registry_channel(f->registry, "cardiology", "stable", &channel, &why),
                     LORICA_EFORMAT);
    assert_false(lorica_registry_failed(f->registry));
    assert_int_equal(change_promote(f, 1, &why), LORICA_EFORMAT);
    assert_non_null(strstr(why.text, "the store is damaged"));
    assert_true(lorica_registry_failed(f->registry));
}

#define with_two(test) cmocka_unit_test_setup_teardown(test, setup_two, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_two(test_publish_any_call_fails_all_or_nothing),
        with_two(test_promote_any_call_fails_all_or_nothing),
        with_two(test_key_any_call_fails_all_or_nothing),
        with_two(test_split_any_call_fails_all_or_nothing),
        with_two(test_promote_with_split_any_call_fails_all_or_nothing),
        with_two(test_policy_any_call_fails_all_or_nothing),
        with_two(test_approve_any_call_fails_all_or_nothing),
        with_two(test_gated_promote_any_call_fails_all_or_nothing),
        with_two(test_retire_any_call_fails_all_or_nothing),
        with_two(test_retention_any_call_fails_all_or_nothing),
        with_two(test_sweep_any_call_fails_all_or_nothing),
        with_two(test_open_any_call_fails_nothing_changed),
        with_two(test_failed_store_says_so_when_it_has_stopped),
        with_two(test_damage_under_a_change_ends_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
