/* SPDX-License-Identifier: MIT
 * Readers beside writers: every read sees a whole state, never one half made. */
#include "fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#define READERS 8
#define CHANGES 150
#define SEEDS 6

struct shared {
    struct fixture *f;
    atomic_bool done;
    atomic_uint wrong;
    atomic_uint reads;
};

static int same_name(void *arg, const struct lorica_version *version) {
    uint64_t *last = arg;
    return version->version == ++*last ? 0 : -1000;
}

/* A read of each kind; counts what does not fit. */
static void read_once(struct shared *shared) {
    struct lorica_registry *registry = shared->f->registry;
    struct lorica_error err;
    struct lorica_version version;
    struct lorica_channel channel;
    uint64_t last = 0, latest = 0;
    char *config = NULL;
    size_t len = 0;
    bool fine = lorica_registry_resolve(registry, "cardiology", &version, &err) == 0;
    fine = fine && lorica_registry_channel(registry, "cardiology", "stable", &channel, &err) == 0 &&
           channel.version != 0;
    fine = fine && lorica_registry_versions(registry, "cardiology", same_name, &last, &err) == 0;
    fine = fine && lorica_registry_latest(registry, "cardiology", &latest, &err) == 0 &&
           latest >= last && version.version <= latest;
    fine = fine && lorica_registry_config(registry, &version, &config, &len, &err) == 0;
    free(config);
    atomic_fetch_add(&shared->wrong, !fine);
    atomic_fetch_add(&shared->reads, 1);
}

static void *reader(void *arg) {
    struct shared *shared = arg;
    while (!atomic_load(&shared->done))
        read_once(shared);
    return NULL;
}

/* A second writer, beside the test's own thread. */
static void *promoter(void *arg) {
    struct shared *shared = arg;
    for (unsigned i = 0; i < CHANGES; i++) {
        struct lorica_channel channel;
        struct lorica_error err;
        int rc = lorica_registry_promote(shared->f->registry, "cardiology", "stable", 1 + i % 2, 0,
                                         true, &actor, &channel, &err);
        atomic_fetch_add(&shared->wrong, rc != 0);
    }
    return NULL;
}

static void test_readers_beside_writers_see_whole_states(void **state) {
    struct fixture *f = *state;
    struct shared shared = {.f = f};
    pthread_t readers[READERS], second;
    publish_seed(f, "cardiology", 1, "stable");
    publish_seed(f, "cardiology", 2, NULL);
    for (size_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, reader, &shared), 0);
    assert_int_equal(pthread_create(&second, NULL, promoter, &shared), 0);
    for (unsigned i = 0; i < CHANGES; i++)
        publish_seed(f, "cardiology", 3 + i, i % 4 ? NULL : "canary");
    assert_clean(f->registry); /* while the others go on */
    pthread_join(second, NULL);
    while (atomic_load(&shared.reads) < 10)
        usleep(1000);
    atomic_store(&shared.done, true);
    for (size_t i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    assert_int_equal(atomic_load(&shared.wrong), 0);
    struct lorica_channel channel;
    ok(lorica_registry_channel(f->registry, "cardiology", "stable", &channel, &err));
    assert_int_equal(channel.epoch, 1 + CHANGES);
    assert_clean(f->registry);
}

/* Several threads publish the same and different content at once: versions stay dense. */
static void *publisher(void *arg) {
    struct shared *shared = arg;
    char path[96];
    snprintf(path, sizeof(path), "%s/w%lx", shared->f->root, (unsigned long)pthread_self());
    for (unsigned i = 0; i < SEEDS; i++) {
        struct lorica_publish publish = publish_of("cardiology", path);
        struct lorica_version version;
        struct lorica_error err;
        bool existing;
        write_seeded(path, i, i == 3 ? LARGE_BYTES : 5000);
        int rc = lorica_registry_publish(shared->f->registry, &publish, &actor, &version, &existing,
                                         &err);
        atomic_fetch_add(&shared->wrong, rc != 0);
    }
    return NULL;
}

static void test_publishers_at_once_versions_dense(void **state) {
    struct fixture *f = *state;
    struct shared shared = {.f = f};
    pthread_t threads[4];
    uint64_t latest = 0;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, publisher, &shared), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&shared.wrong), 0);
    ok(lorica_registry_latest(f->registry, "cardiology", &latest, &err));
    assert_int_equal(latest, SEEDS);
    assert_clean(f->registry);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_readers_beside_writers_see_whole_states, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_publishers_at_once_versions_dense, fixture_setup,
                                        fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
