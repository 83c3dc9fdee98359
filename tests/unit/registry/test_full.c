/* SPDX-License-Identifier: MIT
 * A store that cannot grow: a map too small, and a disk that takes no more bytes. The change fails
 * with LORICA_ENOSPC, the state is the one before, and work goes on once there is room. */
#include "fixture.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define SMALL_MAP (UINT64_C(2) << 20)

static void open_sized(struct fixture *f, uint64_t map_bytes) {
    const struct lorica_registry_options options = {.map_bytes = map_bytes};
    lorica_registry_close(f->registry);
    ok(lorica_registry_open(f->dir, &options, &f->registry, &err));
}

static int publish_sized(struct fixture *f, uint64_t seed, size_t len) {
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version version;
    struct lorica_error err = {0};
    bool existing;
    publish.channel = "stable";
    write_seeded(f->weights, seed, len);
    int rc = lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err);
    if (rc) {
        assert_string_equal(lorica_err_name(rc), "ENOSPC");
        assert_non_null(strstr(err.text, "nothing was changed"));
    }
    return rc;
}

static void assert_stands(struct fixture *f, uint64_t latest, uint64_t epoch) {
    struct lorica_channel channel;
    uint64_t found;
    ok(lorica_registry_latest(f->registry, "cardiology", &found, &err));
    assert_int_equal(found, latest);
    ok(lorica_registry_channel(f->registry, "cardiology", "stable", &channel, &err));
    assert_int_equal(channel.epoch, epoch);
    assert_clean(f->registry);
}

static void test_map_full_refused_unchanged(void **state) {
    struct fixture *f = *state;
    open_sized(f, SMALL_MAP);
    uint64_t published = 0;
    while (publish_sized(f, published + 1, 300000) == 0)
        assert_true(++published < 100);
    assert_true(published > 0);
    for (int i = 0; i < 20; i++) { /* again and again: nothing leaks into the store */
        assert_int_equal(publish_sized(f, published + 1, 300000), LORICA_ENOSPC);
        assert_stands(f, published, published);
    }
    open_sized(f, MAP_BYTES);
    assert_stands(f, published, published);
    assert_int_equal(publish_sized(f, published + 1, 300000), 0);
    assert_stands(f, published + 1, published + 1);
}

/* Bytes of address space that the store's file is mapped with. */
static uint64_t mapped_bytes(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    uint64_t from = 0, to = 0;
    assert_non_null(maps);
    while (to == 0 && fgets(line, sizeof(line), maps))
        if (strstr(line, "data.mdb"))
            assert_int_equal(sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to), 2);
    (void)fclose(maps);
    return to - from;
}

static void test_map_is_no_smaller_than_the_disk(void **state) {
    struct fixture *f = *state;
    struct statvfs fs;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_AS, &limit), 0);
    if (limit.rlim_cur != RLIM_INFINITY)
        skip();
    open_sized(f, 0);
    assert_int_equal(statvfs(f->dir, &fs), 0);
    assert_true(mapped_bytes() + 65536 > (uint64_t)fs.f_blocks * fs.f_frsize);
    assert_true(mapped_bytes() >= UINT64_C(64) << 30);
    open_sized(f, MAP_BYTES);
}

static void test_map_full_in_large_upload_leaves_nothing(void **state) {
    struct fixture *f = *state;
    open_sized(f, UINT64_C(40) << 20);
    assert_int_equal(publish_sized(f, 1, 1000), 0);
    for (int i = 0; i < 3; i++) { /* each time as far as before: the staged pieces were swept */
        assert_int_equal(publish_sized(f, 2, 60 << 20), LORICA_ENOSPC);
        assert_stands(f, 1, 1);
    }
    assert_int_equal(publish_sized(f, 3, 20 << 20), 0);
    assert_stands(f, 2, 2);
}

static void limit_files(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static rlim_t data_size(struct fixture *f) {
    char path[128];
    struct stat st;
    snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    assert_int_equal(stat(path, &st), 0);
    return (rlim_t)st.st_size;
}

static void test_disk_takes_no_more_refused_unchanged(void **state) {
    struct fixture *f = *state;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(publish_sized(f, 1, 1000000), 0);
    /* at the end of the file, in the middle of a page, and some pages further */
    const rlim_t steps[] = {0, 1000, 4096, 100000, 263000};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct lorica_publish publish = publish_of("cardiology", f->weights);
        struct lorica_version version;
        struct lorica_error err = {0};
        bool existing;
        write_seeded(f->weights, 2, 2000000);
        limit_files(data_size(f) + steps[i]);
        int rc = lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_string_equal(lorica_err_name(rc), "ENOSPC");
        assert_stands(f, 1, 1);
    }
    assert_int_equal(publish_sized(f, 3, 2000000), 0);
    assert_stands(f, 2, 2);
    fixture_reopen(f);
    assert_stands(f, 2, 2);
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_registry(test_map_is_no_smaller_than_the_disk),
        with_registry(test_map_full_refused_unchanged),
        with_registry(test_map_full_in_large_upload_leaves_nothing),
        with_registry(test_disk_takes_no_more_refused_unchanged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
