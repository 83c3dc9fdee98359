/* SPDX-License-Identifier: MIT
 * A backup restored is the registry of one moment; what was cut off or damaged passes for none. */
#include "fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "registry/backup.h"
#include "registry/internal.h"
#include "registry/retire.h"

struct places {
    char backup[100], target[100];
};

static struct places places_of(const struct fixture *f) {
    struct places p;
    snprintf(p.backup, sizeof(p.backup), "%s/backup", f->root);
    snprintf(p.target, sizeof(p.target), "%s/restored", f->root);
    return p;
}

static struct lorica_backup_info back_up(struct fixture *f) {
    const struct places p = places_of(f);
    const struct lorica_backup_source source = lorica_backup_from(f->registry);
    struct lorica_backup_info info;
    ok(lorica_backup_write(p.backup, &source, NULL, NULL, &info, &err));
    return info;
}

/* The snapshot of a registry without what is of its own moment: the time, and so the digest. */
static int append(void *arg, const void *bytes, size_t len, struct lorica_error *err) {
    return lorica_buf_append(arg, bytes, len);
}

static void records_of(struct lorica_registry *registry, struct lorica_buf *out) {
    lorica_buf_init(out, 1 << 24);
    ok(lorica_backup_snapshot(registry, append, out, &err));
    memset(out->data + 24, 0, 8);
    out->len -= 32;
}

static struct lorica_registry *open_restored(const struct fixture *f) {
    const struct lorica_registry_options options = {.map_bytes = MAP_BYTES};
    struct lorica_registry *registry = NULL;
    ok(lorica_registry_open(places_of(f).target, &options, &registry, &err));
    assert_clean(registry);
    return registry;
}

static void assert_equal_registries(struct lorica_registry *a, struct lorica_registry *b) {
    struct lorica_buf ours, theirs;
    records_of(a, &ours);
    records_of(b, &theirs);
    assert_int_equal(ours.len, theirs.len);
    assert_memory_equal(ours.data, theirs.data, ours.len);
    lorica_buf_finish(&ours);
    lorica_buf_finish(&theirs);
}

static void publish_large(struct fixture *f) {
    struct lorica_publish publish = publish_of("large", f->weights);
    struct lorica_version version;
    bool existing;
    write_seeded(f->weights, 77, LARGE_BYTES);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
}

static void test_restore_gives_an_equal_registry_and_keys_work(void **state) {
    struct fixture *f = *state;
    const struct places p = places_of(f);
    struct lorica_key key = {.name = "app", .role = LORICA_ROLE_OPS}, found;
    struct lorica_backup_info info;
    char text[LORICA_KEY_TEXT];
    publish_seed(f, "cardiology", 1, "stable");
    publish_seed(f, "cardiology", 2, "stable");
    rollback(f, "cardiology");
    publish_large(f);
    ok(lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    const struct lorica_backup_info made = back_up(f);
    assert_string_equal(made.name, "snapshot-000001");
    ok(lorica_backup_check(p.backup, NULL, NULL, &info, &err));
    assert_int_equal(info.seq, made.seq);
    ok(lorica_backup_restore(p.backup, p.target, NULL, NULL, &info, &err));
    struct lorica_registry *restored = open_restored(f);
    assert_equal_registries(f->registry, restored);
    ok(lorica_registry_key_find(restored, text, strlen(text), &found, &err));
    assert_string_equal(found.name, "app");
    lorica_registry_close(restored);
    fails(LORICA_ECONFLICT, "not empty",
          lorica_backup_restore(p.backup, p.target, NULL, NULL, &info, &err));
}

static void test_second_backup_writes_new_content_only(void **state) {
    struct fixture *f = *state;
    const struct places p = places_of(f);
    struct lorica_backup_info info;
    char first[140];
    publish_seed(f, "cardiology", 1, "stable");
    assert_int_equal(back_up(f).new_blobs, 3); /* config, canonical form, weights */
    publish_seed(f, "cardiology", 2, "stable");
    info = back_up(f);
    assert_int_equal(info.new_blobs, 1);
    assert_int_equal(info.new_nbytes, 1002);
    assert_int_equal(back_up(f).new_blobs, 0);
    snprintf(first, sizeof(first), "%s/snapshot-000001", p.backup);
    ok(lorica_backup_restore(first, p.target, NULL, NULL, &info, &err));
    struct lorica_registry *restored = open_restored(f);
    uint64_t latest = 0;
    ok(lorica_registry_latest(restored, "cardiology", &latest, &err));
    assert_int_equal(latest, 1);
    lorica_registry_close(restored);
}

/* Turns one bit of a file, or cuts it at `at`. */
static void harm(const char *path, long at, bool cut) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    if (cut) {
        assert_int_equal(ftruncate(fileno(file), at), 0);
    } else {
        assert_int_equal(fseek(file, at, SEEK_SET), 0);
        const int c = fgetc(file);
        assert_int_equal(fseek(file, at, SEEK_SET), 0);
        assert_int_not_equal(fputc(c ^ 1, file), EOF);
    }
    assert_int_equal(fclose(file), 0);
}

static long length_of(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (long)st.st_size;
}

static void assert_refused(const struct fixture *f) {
    const struct places p = places_of(f);
    struct lorica_backup_info info;
    struct lorica_error err = {0};
    char beside[120];
    assert_int_not_equal(lorica_backup_restore(p.backup, p.target, NULL, NULL, &info, &err), 0);
    assert_true(err.text[0] != '\0');
    assert_int_not_equal(access(p.target, F_OK), 0);
    snprintf(beside, sizeof(beside), "%s.restore", p.target);
    assert_int_not_equal(access(beside, F_OK), 0);
    assert_int_not_equal(lorica_backup_check(p.backup, NULL, NULL, &info, &err), 0);
}

static void test_any_byte_altered_or_missing_refused(void **state) {
    struct fixture *f = *state;
    char path[140];
    publish_seed(f, "cardiology", 1, "stable");
    back_up(f);
    snprintf(path, sizeof(path), "%s/snapshot-000001", places_of(f).backup);
    for (long at = 0, len = length_of(path); at < len; at++) {
        harm(path, at, false);
        assert_refused(f);
        harm(path, at, false);
    }
    for (long len = length_of(path) - 1; len >= 0; len -= 7) {
        harm(path, len, true);
        assert_refused(f);
    }
}

static void test_content_altered_or_gone_named(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    struct lorica_backup_info info;
    char text[LORICA_DIGEST_TEXT], path[220];
    publish_seed(f, "cardiology", 1, "stable");
    back_up(f);
    ok(lorica_registry_version(f->registry, "cardiology", 1, &version, &err));
    lorica_digest_format(&version.weights_digest, text);
    snprintf(path, sizeof(path), "%s/blobs/%s", places_of(f).backup, text + 7);
    harm(path, 500, false);
    fails(LORICA_EFORMAT, text + 7,
          lorica_backup_check(places_of(f).backup, NULL, NULL, &info, &err));
    assert_refused(f);
    assert_int_equal(unlink(path), 0);
    assert_refused(f);
    assert_int_equal(back_up(f).new_blobs, 1); /* what is gone is written again */
    ok(lorica_backup_check(places_of(f).backup, NULL, NULL, &info, &err));
}

static void test_strange_places_refused(void **state) {
    struct fixture *f = *state;
    const struct places p = places_of(f);
    const struct lorica_backup_source source = lorica_backup_from(f->registry);
    struct lorica_backup_info info;
    publish_seed(f, "cardiology", 1, "stable");
    fails(LORICA_ECONFLICT, "holds other things",
          lorica_backup_write(f->root, &source, NULL, NULL, &info, &err));
    fails(LORICA_ECONFLICT, "is a file",
          lorica_backup_write(f->weights, &source, NULL, NULL, &info, &err));
    fails(LORICA_ENOTFOUND, "no finished backup",
          lorica_backup_restore(f->dir, p.target, NULL, NULL, &info, &err));
    back_up(f);
    char lock[120];
    snprintf(lock, sizeof(lock), "%s/lock", p.backup);
    const int fd = open(lock, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && flock(fd, LOCK_EX) == 0);
    fails(LORICA_EBUSY, "another backup",
          lorica_backup_write(p.backup, &source, NULL, NULL, &info, &err));
    close(fd);
}

/* A source under which, at its first contents, a version is deleted and swept. */
struct swept {
    struct fixture *f;
    int times; /* left */
    unsigned snapshots;
};

static int read_swept(void *arg, const struct lorica_digest *digest, lorica_backup_sink sink,
                      void *sink_arg, struct lorica_error *why) {
    struct swept *swept = arg;
    const struct lorica_backup_source source = lorica_backup_from(swept->f->registry);
    struct lorica_sweep stats = {0};
    struct lorica_version version;
    bool more = true;
    swept->snapshots += !digest;
    if (digest && swept->times > 0) {
        const uint64_t number = (uint64_t)swept->times--;
        ok(lorica_registry_delete(swept->f->registry, "cardiology", number, &actor, &version,
                                  &err));
        while (more)
            ok(lorica_registry_sweep_step(swept->f->registry, INT64_MAX, &actor, &stats, &more,
                                          &err));
    }
    return source.read(source.arg, digest, sink, sink_arg, why);
}

static void test_content_swept_meanwhile_begins_again(void **state) {
    struct fixture *f = *state;
    const struct places p = places_of(f);
    struct swept swept = {.f = f, .times = 4};
    const struct lorica_backup_source source = {.read = read_swept, .arg = &swept};
    struct lorica_backup_info info;
    for (uint64_t seed = 1; seed <= 6; seed++)
        publish_seed(f, "cardiology", seed, NULL);
    ok(lorica_backup_write(p.backup, &source, NULL, NULL, &info, &err));
    assert_int_equal(swept.times, 0);
    assert_true(swept.snapshots > 1);
    assert_string_equal(info.name, "snapshot-000001");
    ok(lorica_backup_restore(p.backup, p.target, NULL, NULL, &info, &err));
    struct lorica_registry *restored = open_restored(f);
    assert_equal_registries(f->registry, restored);
    lorica_registry_close(restored);
}

/* A source that never finds content, as if every sweep came first. */
static int read_nothing(void *arg, const struct lorica_digest *digest, lorica_backup_sink sink,
                        void *sink_arg, struct lorica_error *err) {
    const struct lorica_backup_source source = lorica_backup_from(arg);
    return digest ? LORICA_ENOTFOUND : source.read(source.arg, NULL, sink, sink_arg, err);
}

static void test_content_swept_each_time_is_given_up(void **state) {
    struct fixture *f = *state;
    const struct places p = places_of(f);
    const struct lorica_backup_source source = {.read = read_nothing, .arg = f->registry};
    struct lorica_backup_info info;
    publish_seed(f, "cardiology", 1, "stable");
    fails(LORICA_ECONFLICT, "was swept while",
          lorica_backup_write(p.backup, &source, NULL, NULL, &info, &err));
    fails(LORICA_ENOTFOUND, "no finished backup",
          lorica_backup_check(p.backup, NULL, NULL, &info, &err));
}

/* Content in pieces of odd sizes, and what is asked for behind its end or is not all there. */
static void test_content_read_in_pieces(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    struct lorica_digest none = {{1}};
    static uint8_t whole[600001], part[400000];
    uint64_t nbytes = 0;
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    bool existing;
    write_seeded(f->weights, 5, sizeof(whole));
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    ok(lorica_backup_content_size(f->registry, &version.weights_digest, &nbytes, &err));
    assert_int_equal(nbytes, sizeof(whole));
    FILE *file = fopen(f->weights, "rb");
    assert_non_null(file);
    assert_int_equal(fread(whole, 1, sizeof(whole), file), sizeof(whole));
    fclose(file);
    static const struct {
        size_t at, len;
    } pieces[] = {{0, 1}, {262127, 2}, {262128, 262128}, {100, 400000}, {600000, 1}, {600001, 0}};
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        ok(lorica_backup_content_at(f->registry, &version.weights_digest, nbytes, pieces[i].at,
                                    part, pieces[i].len, &err));
        assert_memory_equal(part, whole + pieces[i].at, pieces[i].len);
    }
    fails(LORICA_EBUG, "so far",
          lorica_backup_content_at(f->registry, &version.weights_digest, nbytes, 600000, part, 2,
                                   &err));
    fails(LORICA_ENOTFOUND, "there is no content",
          lorica_backup_content_size(f->registry, &none, &nbytes, &err));
    struct lorica_txn *txn = NULL;
    struct lorica_record_key key;
    lorica_record_key_chunk(&version.weights_digest, 1, &key);
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    ok(lorica_store_delete(txn, LORICA_TABLE_CHUNK, lorica_slice_key(&key), &err));
    ok(lorica_store_commit(txn, &err));
    fails(LORICA_EFORMAT, "piece 1 of content",
          lorica_backup_content_size(f->registry, &version.weights_digest, &nbytes, &err));
    fails(LORICA_EFORMAT, "piece 1 of content",
          lorica_backup_content_at(f->registry, &version.weights_digest, sizeof(whole), 300000,
                                   part, 10, &err));
}

/* A child that is killed at the n-th call of its progress, for n = 1, 2, ... */
static int left;

static void countdown(void *arg, const char *what, unsigned long long done,
                      unsigned long long total) {
    if (--left == 0)
        (void)kill(getpid(), SIGKILL);
}

static int read_dying(void *arg, const struct lorica_digest *digest, lorica_backup_sink sink,
                      void *sink_arg, struct lorica_error *err) {
    const struct lorica_backup_source source = lorica_backup_from(arg);
    countdown(NULL, "", 0, 0);
    int rc = source.read(source.arg, digest, sink, sink_arg, err);
    countdown(NULL, "", 0, 0);
    return rc;
}

static bool run_killed(struct fixture *f, int calls, bool restoring) {
    const struct places p = places_of(f);
    int status = 0;
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct lorica_error err = {0};
        struct lorica_backup_info info;
        const struct lorica_registry_options options = {.map_bytes = MAP_BYTES, .read_only = true};
        struct lorica_registry *registry = NULL;
        left = calls;
        int rc = 0;
        if (restoring) {
            rc = lorica_backup_restore(p.backup, p.target, countdown, NULL, &info, &err);
        } else {
            rc = lorica_registry_open(f->dir, &options, &registry, &err);
            const struct lorica_backup_source source = {.read = read_dying, .arg = registry};
            if (!rc)
                rc = lorica_backup_write(p.backup, &source, countdown, NULL, &info, &err);
        }
        _exit(rc ? 1 : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void test_killed_backup_and_restore_pass_for_nothing(void **state) {
    struct fixture *f = *state;
    const struct places p = places_of(f);
    struct lorica_backup_info info;
    publish_seed(f, "cardiology", 1, "stable");
    publish_large(f);
    lorica_registry_close(f->registry);
    f->registry = NULL;
    int calls = 1;
    for (; run_killed(f, calls, false); calls++)
        fails(LORICA_ENOTFOUND, "no finished backup",
              lorica_backup_check(p.backup, NULL, NULL, &info, &err));
    assert_true(calls > 5);
    ok(lorica_backup_check(p.backup, NULL, NULL, &info, &err));
    for (calls = 1; run_killed(f, calls, true); calls++)
        assert_int_not_equal(access(p.target, F_OK), 0);
    assert_true(calls > 3);
    fixture_open(f);
    struct lorica_registry *restored = open_restored(f);
    assert_equal_registries(f->registry, restored);
    lorica_registry_close(restored);
}

struct load {
    struct fixture *f;
    atomic_bool done;
    atomic_uint wrong;
};

static void *change_all_the_time(void *arg) {
    struct load *load = arg;
    for (unsigned i = 0; !atomic_load(&load->done); i++) {
        struct lorica_channel channel;
        struct lorica_error err;
        struct lorica_publish publish = publish_of("cardiology", load->f->weights);
        struct lorica_version version;
        bool existing;
        publish.channel = i % 2 ? "stable" : NULL;
        write_seeded(load->f->weights, 1000 + i, 2000);
        int rc =
            lorica_registry_publish(load->f->registry, &publish, &actor, &version, &existing, &err);
        if (!rc)
            rc = lorica_registry_promote(load->f->registry, "cardiology", "canary", 1, 0, true,
                                         &actor, &channel, &err);
        atomic_fetch_add(&load->wrong, rc != 0);
    }
    return NULL;
}

static int take_hash(void *arg, const struct lorica_audit *audit) {
    *(struct lorica_digest *)arg = audit->hash;
    return 0;
}

static void test_backup_under_load_is_one_moment(void **state) {
    struct fixture *f = *state;
    const struct places p = places_of(f);
    struct load load = {.f = f};
    struct lorica_backup_info info[6];
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, change_all_the_time, &load), 0);
    for (int i = 0; i < 6; i++)
        info[i] = back_up(f);
    atomic_store(&load.done, true);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&load.wrong), 0);
    for (int i = 0; i < 6; i++) {
        char snapshot[140], target[120];
        struct lorica_backup_info found;
        struct lorica_registry *restored = NULL;
        struct lorica_digest live = {{0}};
        snprintf(snapshot, sizeof(snapshot), "%s/%s", p.backup, info[i].name);
        snprintf(target, sizeof(target), "%s-%d", p.target, i);
        /* The walk ties every record to the chain; the chain is that of the live registry. */
        ok(lorica_backup_restore(snapshot, target, NULL, NULL, &found, &err));
        ok(lorica_registry_open(target, NULL, &restored, &err));
        assert_clean(restored);
        lorica_registry_close(restored);
        if (!info[i].seq)
            continue;
        ok(lorica_registry_audit(f->registry, NULL, info[i].seq - 1, 1, take_hash, &live, &err));
        assert_true(lorica_digest_equal(&live, &info[i].hash));
        assert_int_equal(found.seq, info[i].seq);
    }
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_registry(test_restore_gives_an_equal_registry_and_keys_work),
        with_registry(test_second_backup_writes_new_content_only),
        with_registry(test_any_byte_altered_or_missing_refused),
        with_registry(test_content_altered_or_gone_named),
        with_registry(test_content_swept_meanwhile_begins_again),
        with_registry(test_content_swept_each_time_is_given_up),
        with_registry(test_content_read_in_pieces),
        with_registry(test_strange_places_refused),
        with_registry(test_killed_backup_and_restore_pass_for_nothing),
        with_registry(test_backup_under_load_is_one_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
