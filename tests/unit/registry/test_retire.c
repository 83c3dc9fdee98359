/* SPDX-License-Identifier: MIT
 * Deletion, undeletion, retention and sweep. */
#include "fixture.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "registry/internal.h"
#include "registry/retire.h"
#include "registry/split.h"

#define DAY_MS INT64_C(86400000)

static struct lorica_version tomb(struct fixture *f, const char *name, uint64_t version) {
    struct lorica_version tombstone;
    ok(lorica_registry_delete(f->registry, name, version, &actor, &tombstone, &err));
    return tombstone;
}

static struct lorica_sweep sweep_at(struct fixture *f, int64_t now_ms) {
    struct lorica_sweep stats;
    ok(lorica_registry_sweep(f->registry, now_ms, &actor, &stats, &err));
    return stats;
}

static void retain(struct fixture *f, const char *name, uint32_t days) {
    ok(lorica_registry_retention_set(f->registry, name, days, &actor, &err));
}

static uint64_t count_of(struct fixture *f, enum lorica_table table) {
    struct lorica_txn *txn;
    uint64_t count;
    ok(lorica_store_begin(f->registry->store, false, &txn, &err));
    ok(lorica_store_count(txn, table, &count, &err));
    lorica_store_abort(txn);
    return count;
}

struct records {
    struct lorica_audit last;
    uint64_t count, of_kind;
    enum lorica_audit_kind kind;
};

static int note_record(void *arg, const struct lorica_audit *audit) {
    struct records *records = arg;
    records->last = *audit;
    records->count++;
    records->of_kind += audit->kind == records->kind;
    return 0;
}

static struct records records_of(struct fixture *f, const char *name, enum lorica_audit_kind kind) {
    struct records records = {.kind = kind};
    ok(lorica_registry_audit(f->registry, name, 0, SIZE_MAX, note_record, &records, &err));
    return records;
}

static void test_deleted_resolves_no_more_and_says_who(void **state) {
    struct fixture *f = *state;
    struct lorica_version version, seen;
    struct lorica_channel channel;
    publish_seed(f, "cardiology", 1, NULL);
    publish_seed(f, "cardiology", 2, "stable");
    version = tomb(f, "cardiology", 1);
    assert_int_equal(version.version, 1);
    assert_true(version.deleted_ms > 0);
    fails(LORICA_ENOTFOUND, "cardiology@1 was deleted on 2",
          lorica_registry_resolve(f->registry, "cardiology@1", &seen, &err));
    fails(LORICA_ENOTFOUND, "by tester",
          lorica_registry_resolve(f->registry, "cardiology@1", &seen, &err));
    fails(LORICA_ENOTFOUND, "deleted",
          lorica_registry_promote(f->registry, "cardiology", "canary", 1, 0, false, &actor,
                                  &channel, &err));
    fails(LORICA_ENOTFOUND, "deleted",
          lorica_registry_delete(f->registry, "cardiology", 1, &actor, &seen, &err));
    ok(lorica_registry_version(f->registry, "cardiology", 1, &seen, &err));
    assert_int_equal(seen.deleted_ms, version.deleted_ms);
    assert_string_equal(seen.deleted_by, "tester");
    assert_false(seen.swept);
    struct records records = records_of(f, "cardiology", LORICA_AUDIT_DELETE);
    assert_int_equal(records.of_kind, 1);
    assert_int_equal(records.last.version, 1);
    assert_string_equal(records.last.message, "because");
    assert_memory_equal(&records.last.digest, &version.digest, sizeof(version.digest));
    assert_clean(f->registry);
}

static void test_delete_refuses_what_is_not_there(void **state) {
    struct fixture *f = *state;
    struct lorica_version seen;
    publish_seed(f, "cardiology", 1, NULL);
    fails(LORICA_ENOTFOUND, "no version 2",
          lorica_registry_delete(f->registry, "cardiology", 2, &actor, &seen, &err));
    fails(LORICA_ENOTFOUND, "no adapter",
          lorica_registry_delete(f->registry, "emergency", 1, &actor, &seen, &err));
    fails(LORICA_ENOTFOUND, "such a name",
          lorica_registry_delete(f->registry, "No!", 1, &actor, &seen, &err));
    fails(LORICA_ENOTFOUND, "no version",
          lorica_registry_delete(f->registry, "cardiology", 0, &actor, &seen, &err));
}

static void test_delete_refused_while_a_channel_points_to_it(void **state) {
    struct fixture *f = *state;
    struct lorica_version seen;
    publish_seed(f, "cardiology", 1, "stable");
    publish_seed(f, "cardiology", 2, "stable");
    publish_seed(f, "cardiology-2", 1, "canary");
    uint64_t records = records_of(f, NULL, LORICA_AUDIT_DELETE).count;
    fails(LORICA_ECONFLICT, "channel stable points to it",
          lorica_registry_delete(f->registry, "cardiology", 2, &actor, &seen, &err));
    fails(LORICA_ECONFLICT, "channel canary points to it",
          lorica_registry_delete(f->registry, "cardiology-2", 1, &actor, &seen, &err));
    assert_int_equal(records_of(f, NULL, LORICA_AUDIT_DELETE).count, records);
    tomb(f, "cardiology", 1); /* only its past holds it */
    assert_clean(f->registry);
}

static void test_delete_refused_while_a_split_sends_requests_to_it(void **state) {
    struct fixture *f = *state;
    const struct lorica_split_terms terms = lorica_split_defaults(2, 500);
    struct lorica_version seen;
    struct lorica_split split;
    for (uint64_t seed = 1; seed <= 3; seed++)
        publish_seed(f, "cardiology", seed, seed == 1 ? "stable" : NULL);
    ok(lorica_registry_split_set(f->registry, "cardiology", &terms, 0, &actor, &split, &err));
    fails(LORICA_ECONFLICT, "a split sends requests to it",
          lorica_registry_delete(f->registry, "cardiology", 2, &actor, &seen, &err));
    fails(LORICA_ECONFLICT, "channel stable points to it",
          lorica_registry_delete(f->registry, "cardiology", 1, &actor, &seen, &err));
    tomb(f, "cardiology", 3); /* no arm of it */
    ok(lorica_registry_split_end(f->registry, "cardiology", NULL, &actor, &split, &err));
    tomb(f, "cardiology", 2);
    fails(LORICA_ENOTFOUND, "was deleted",
          lorica_registry_split_set(f->registry, "cardiology", &terms, split.epoch, &actor, &split,
                                    &err));
    assert_clean(f->registry);
}

static void test_same_content_after_delete_is_a_new_number(void **state) {
    struct fixture *f = *state;
    struct lorica_version seen;
    assert_int_equal(publish_seed(f, "cardiology", 1, NULL), 1);
    tomb(f, "cardiology", 1);
    assert_int_equal(publish_seed(f, "cardiology", 1, NULL), 2);
    assert_int_equal(publish_seed(f, "cardiology", 1, NULL), 2);
    fails(LORICA_ECONFLICT, "as version 2",
          lorica_registry_undelete(f->registry, "cardiology", 1, &actor, &seen, &err));
    tomb(f, "cardiology", 2);
    ok(lorica_registry_undelete(f->registry, "cardiology", 1, &actor, &seen, &err));
    assert_int_equal(seen.deleted_ms, 0);
    assert_int_equal(publish_seed(f, "cardiology", 1, NULL), 1);
    fails(LORICA_ECONFLICT, "as version 1",
          lorica_registry_undelete(f->registry, "cardiology", 2, &actor, &seen, &err));
    fails(LORICA_ECONFLICT, "not deleted",
          lorica_registry_undelete(f->registry, "cardiology", 1, &actor, &seen, &err));
    fails(LORICA_ENOTFOUND, "no version 3",
          lorica_registry_undelete(f->registry, "cardiology", 3, &actor, &seen, &err));
    ok(lorica_registry_resolve(f->registry, "cardiology@1", &seen, &err));
    assert_clean(f->registry);
}

static void test_rollback_passes_what_is_deleted(void **state) {
    struct fixture *f = *state;
    struct lorica_channel channel;
    for (uint64_t seed = 1; seed <= 4; seed++)
        publish_seed(f, "cardiology", seed, "stable");
    tomb(f, "cardiology", 3);
    tomb(f, "cardiology", 2);
    assert_int_equal(rollback(f, "cardiology"), 1);
    fails(LORICA_ECONFLICT, "nothing was live",
          lorica_registry_rollback(f->registry, "cardiology", "stable", &actor, &channel, &err));
    assert_clean(f->registry);
}

static void test_rollback_never_goes_from_a_version_to_itself(void **state) {
    struct fixture *f = *state;
    struct lorica_channel channel;
    struct lorica_version seen;
    publish_seed(f, "cardiology", 1, "stable");
    publish_seed(f, "cardiology", 2, "stable");
    promote(f, "cardiology", 1);
    publish_seed(f, "cardiology", 3, "stable");
    tomb(f, "cardiology", 2);
    assert_int_equal(rollback(f, "cardiology"), 1);
    fails(LORICA_ECONFLICT, "nothing that is not deleted",
          lorica_registry_rollback(f->registry, "cardiology", "stable", &actor, &channel, &err));
    ok(lorica_registry_undelete(f->registry, "cardiology", 2, &actor, &seen, &err));
    assert_int_equal(rollback(f, "cardiology"), 2); /* it was refused: nothing was taken off */
    assert_int_equal(rollback(f, "cardiology"), 1);
    assert_clean(f->registry);
}

static void test_rollback_takes_off_for_good(void **state) {
    struct fixture *f = *state;
    struct lorica_channel channel;
    struct lorica_version seen;
    for (uint64_t seed = 1; seed <= 3; seed++)
        publish_seed(f, "cardiology", seed, "stable");
    tomb(f, "cardiology", 2);
    assert_int_equal(rollback(f, "cardiology"), 1);
    ok(lorica_registry_undelete(f->registry, "cardiology", 2, &actor, &seen, &err));
    fails(LORICA_ECONFLICT, "nothing was live",
          lorica_registry_rollback(f->registry, "cardiology", "stable", &actor, &channel, &err));
    assert_clean(f->registry);
}

static void test_sweep_waits_for_the_retention(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    struct lorica_retention retention;
    publish_seed(f, "cardiology", 1, NULL);
    publish_seed(f, "emergency", 2, NULL);
    int64_t deleted = tomb(f, "cardiology", 1).deleted_ms;
    int64_t other = tomb(f, "emergency", 1).deleted_ms;
    ok(lorica_registry_retention(f->registry, "cardiology", &retention, &err));
    assert_true(retention.is_default && retention.days == LORICA_RETENTION_DAYS);
    retain(f, "emergency", 30);
    ok(lorica_registry_retention(f->registry, "emergency", &retention, &err));
    assert_true(!retention.is_default && retention.days == 30);
    assert_int_equal(sweep_at(f, deleted + 7 * DAY_MS - 1).versions, 0);
    assert_int_equal(sweep_at(f, 0).versions, 0);
    assert_int_equal(sweep_at(f, INT64_MIN).versions, 0);
    assert_int_equal(sweep_at(f, deleted + 7 * DAY_MS).versions, 1);
    ok(lorica_registry_version(f->registry, "cardiology", 1, &version, &err));
    assert_true(version.swept);
    assert_int_equal(sweep_at(f, other + 30 * DAY_MS - 1).versions, 0);
    assert_int_equal(sweep_at(f, other + 30 * DAY_MS).versions, 1);
    assert_clean(f->registry);
    fails(LORICA_EINVAL, "36500",
          lorica_registry_retention_set(f->registry, "emergency", 36501, &actor, &err));
    fails(LORICA_ENOTFOUND, "no adapter",
          lorica_registry_retention_set(f->registry, "nobody", 1, &actor, &err));
    fails(LORICA_ENOTFOUND, "no adapter",
          lorica_registry_retention(f->registry, "nobody", &retention, &err));
}

static void test_sweep_removes_only_what_nothing_uses(void **state) {
    struct fixture *f = *state;
    struct lorica_version version, kept;
    void *weights;
    size_t len;
    char *config;
    publish_seed(f, "cardiology", 1, NULL);
    publish_seed(f, "cardiology", 2, NULL);
    publish_seed(f, "emergency", 1, NULL); /* the same weights and config */
    ok(lorica_registry_version(f->registry, "cardiology", 2, &version, &err));
    tomb(f, "cardiology", 1);
    int64_t now = tomb(f, "cardiology", 2).deleted_ms;
    retain(f, "cardiology", 0);
    struct lorica_sweep stats = sweep_at(f, now);
    assert_int_equal(stats.versions, 2);
    assert_int_equal(stats.contents, 1); /* the weights of version 2 */
    assert_int_equal(stats.bytes, version.weights_nbytes);
    struct records records = records_of(f, "cardiology", LORICA_AUDIT_SWEEP);
    char detail[100];
    (void)snprintf(detail, sizeof(detail),
                   "{\"versions\":[1,2],\"contents\":1,\"bytes\":%" PRIu64 "}",
                   version.weights_nbytes);
    assert_int_equal(records.of_kind, 1);
    assert_string_equal(records.last.detail, detail);
    assert_clean(f->registry);
    fails(LORICA_ENOTFOUND, "content swept",
          lorica_registry_weights(f->registry, &version, &weights, &len, &err));
    ok(lorica_registry_version(f->registry, "emergency", 1, &kept, &err));
    ok(lorica_registry_weights(f->registry, &kept, &weights, &len, &err));
    free(weights);
    ok(lorica_registry_config(f->registry, &version, &config, &len, &err)); /* shared */
    free(config);
    fails(LORICA_ECONFLICT, "has been swept",
          lorica_registry_undelete(f->registry, "cardiology", 2, &actor, &version, &err));
    fails(LORICA_ENOTFOUND, "publish it again",
          lorica_registry_resolve(f->registry, "cardiology@2", &version, &err));
    assert_int_equal(publish_seed(f, "cardiology", 2, NULL), 3);
    assert_clean(f->registry);
    assert_int_equal(sweep_at(f, now + DAY_MS).versions, 0);
}

static void test_sweep_keeps_what_another_tombstone_retains(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    publish_seed(f, "cardiology", 1, NULL);
    publish_seed(f, "emergency", 1, NULL);
    retain(f, "cardiology", 0);
    tomb(f, "cardiology", 1);
    int64_t now = tomb(f, "emergency", 1).deleted_ms;
    assert_int_equal(sweep_at(f, now).contents, 0);
    assert_clean(f->registry);
    ok(lorica_registry_undelete(f->registry, "emergency", 1, &actor, &version, &err));
    tomb(f, "emergency", 1);
    struct lorica_sweep stats = sweep_at(f, lorica_now_ms() + 7 * DAY_MS);
    assert_int_equal(stats.versions, 1);
    assert_int_equal(stats.contents, 3);
    assert_int_equal(count_of(f, LORICA_TABLE_BLOB), 0);
    assert_int_equal(count_of(f, LORICA_TABLE_CHUNK), 0);
    assert_clean(f->registry);
}

static void publish_large(struct fixture *f, const char *name, uint64_t seed) {
    struct lorica_publish publish = publish_of(name, f->weights);
    struct lorica_version version;
    bool existing;
    write_seeded(f->weights, seed, LARGE_BYTES);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
}

static void test_large_content_goes_in_steps_and_survives_a_crash(void **state) {
    struct fixture *f = *state;
    struct lorica_sweep stats = {0};
    bool more = false;
    publish_large(f, "cardiology", 1);
    retain(f, "cardiology", 0);
    int64_t now = tomb(f, "cardiology", 1).deleted_ms;
    ok(lorica_registry_sweep_step(f->registry, now, &actor, &stats, &more, &err));
    assert_true(more && stats.versions == 1 && stats.contents == 3);
    assert_int_equal(count_of(f, LORICA_TABLE_BLOB), 0);
    assert_int_equal(count_of(f, LORICA_TABLE_STAGED), 1);
    assert_int_equal(count_of(f, LORICA_TABLE_CHUNK), LARGE_CHUNKS);
    assert_clean(f->registry);
    fixture_reopen(f); /* what a crash after the first step leaves is taken up */
    assert_int_equal(count_of(f, LORICA_TABLE_STAGED), 0);
    assert_int_equal(count_of(f, LORICA_TABLE_CHUNK), 0);
    publish_large(f, "cardiology", 1);
    now = tomb(f, "cardiology", 2).deleted_ms;
    ok(lorica_registry_sweep_step(f->registry, now, &actor, &stats, &more, &err));
    publish_large(f, "cardiology", 1); /* again, over the pieces that are left */
    assert_clean(f->registry);
    unsigned steps = 0;
    for (more = true; more && steps < 10; steps++)
        ok(lorica_registry_sweep_step(f->registry, now, &actor, &stats, &more, &err));
    assert_int_equal(stats.versions, 2);
    assert_false(more);
    assert_int_equal(count_of(f, LORICA_TABLE_STAGED), 0);
    assert_int_equal(count_of(f, LORICA_TABLE_CHUNK), LARGE_CHUNKS + 2);
    assert_clean(f->registry);
}

static void test_many_tombstones_take_several_steps_each_named(void **state) {
    struct fixture *f = *state;
    struct lorica_sweep stats;
    uint64_t *numbers;
    size_t count;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        publish_seed(f, "cardiology", seed, NULL);
        publish_seed(f, "emergency", seed + 1000, NULL);
    }
    for (uint64_t number = 1; number <= 100; number++) {
        tomb(f, "cardiology", number);
        tomb(f, "emergency", number);
    }
    ok(lorica_registry_deleted(f->registry, "cardiology", &numbers, &count, &err));
    assert_int_equal(count, 100);
    assert_true(numbers[0] == 1 && numbers[99] == 100);
    free(numbers);
    stats = sweep_at(f, lorica_now_ms() + 8 * DAY_MS);
    assert_int_equal(stats.versions, 200);
    assert_int_equal(stats.contents, 202);
    /* 64 in a step: 64 + 36 of the one, 28 + 64 + 8 of the other */
    assert_int_equal(records_of(f, "cardiology", LORICA_AUDIT_SWEEP).of_kind, 2);
    assert_int_equal(records_of(f, "emergency", LORICA_AUDIT_SWEEP).of_kind, 3);
    ok(lorica_registry_deleted(f->registry, "cardiology", &numbers, &count, &err));
    assert_int_equal(count, 0);
    free(numbers);
    assert_clean(f->registry);
    fixture_reopen(f);
    assert_clean(f->registry);
}

/* Growth: publish, delete, sweep without end while readers read. What stays of a cycle is its
 * record: a version, a tombstone and three links of the chain. */

#define CYCLES_SHORT 400
#define CYCLES_LONG 100000
#define EVIDENCE_BYTES 1500 /* most that a cycle may leave, in pages of the store */

struct readers {
    struct lorica_registry *registry;
    atomic_bool stop;
    atomic_ulong reads;
};

static int read_name(void *arg, const char *name, uint64_t latest) {
    (*(unsigned long *)arg)++;
    return 0;
}

static void *read_on(void *arg) {
    struct readers *readers = arg;
    while (!atomic_load(&readers->stop)) {
        struct lorica_error err;
        struct lorica_version version;
        unsigned long names = 0;
        void *weights = NULL;
        size_t len;
        (void)!lorica_registry_names(readers->registry, NULL, 100, read_name, &names, &err);
        if (!lorica_registry_resolve(readers->registry, "cardiology", &version, &err) &&
            !lorica_registry_weights(readers->registry, &version, &weights, &len, &err))
            atomic_fetch_add(&readers->reads, 1);
        free(weights);
        usleep(500);
    }
    return NULL;
}

static uint64_t data_bytes(const struct fixture *f) {
    char path[120];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

static void cycle(struct fixture *f, uint64_t seed) {
    struct lorica_publish publish = publish_of("emergency", f->weights);
    struct lorica_version version;
    bool existing;
    write_seeded(f->weights, seed, 200000);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    assert_false(existing);
    tomb(f, "emergency", version.version);
    if (seed % 10 == 0)
        assert_int_equal(sweep_at(f, lorica_now_ms() + 1000).versions, 10);
}

static void test_cycles_with_readers_do_not_grow_the_file(void **state) {
    struct fixture *f = *state;
    const uint64_t cycles = getenv("LORICA_LONG") ? CYCLES_LONG : CYCLES_SHORT;
    const uint64_t warm = 200; /* the plateau: ten tombstones' content and what readers hold */
    struct readers readers = {.registry = f->registry};
    pthread_t threads[2];
    uint64_t plateau = 0;
    publish_seed(f, "cardiology", 1, "stable");
    publish_seed(f, "emergency", 1, NULL);
    retain(f, "emergency", 0);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, &readers), 0);
    for (uint64_t i = 1; i <= cycles; i++) {
        cycle(f, i);
        if (i == warm)
            plateau = data_bytes(f);
    }
    atomic_store(&readers.stop, true);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    const uint64_t end = data_bytes(f);
    print_message("%" PRIu64 " cycles of 200,000 bytes, %lu reads: %" PRIu64 " bytes after %" PRIu64
                  ", %" PRIu64 " at the end\n",
                  cycles, atomic_load(&readers.reads), plateau, warm, end);
    assert_true(atomic_load(&readers.reads) > 0);
    assert_true(end <= plateau + plateau / 2 + (cycles - warm) * EVIDENCE_BYTES);
    assert_true(end < cycles * 200000 / 4); /* nothing like the sum of what was published */
    assert_int_equal(count_of(f, LORICA_TABLE_BLOB), 3);
    assert_clean(f->registry);
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_registry(test_deleted_resolves_no_more_and_says_who),
        with_registry(test_delete_refuses_what_is_not_there),
        with_registry(test_delete_refused_while_a_channel_points_to_it),
        with_registry(test_delete_refused_while_a_split_sends_requests_to_it),
        with_registry(test_same_content_after_delete_is_a_new_number),
        with_registry(test_rollback_passes_what_is_deleted),
        with_registry(test_rollback_never_goes_from_a_version_to_itself),
        with_registry(test_rollback_takes_off_for_good),
        with_registry(test_sweep_waits_for_the_retention),
        with_registry(test_sweep_removes_only_what_nothing_uses),
        with_registry(test_sweep_keeps_what_another_tombstone_retains),
        with_registry(test_large_content_goes_in_steps_and_survives_a_crash),
        with_registry(test_many_tombstones_take_several_steps_each_named),
        with_registry(test_cycles_with_readers_do_not_grow_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
