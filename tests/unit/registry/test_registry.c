/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "registry/digest.h"
#include "registry/internal.h"

/* Opening */

static void test_open_new_makes_private_files(void **state) {
    struct fixture *f = *state;
    const char *const files[] = {"data.mdb", "lock.mdb", "lock", "pepper"};
    struct stat st;
    assert_int_equal(stat(f->dir, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s/%s", f->dir, files[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
    }
    assert_clean(f->registry);
}

static void test_open_twice_refused_naming_the_process(void **state) {
    struct fixture *f = *state;
    struct lorica_registry *second = NULL;
    const struct lorica_registry_options reading = {.read_only = true};
    char pid[32];
    snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
    fails(LORICA_EBUSY, pid, lorica_registry_open(f->dir, NULL, &second, &err));
    fails(LORICA_EBUSY, pid, lorica_registry_open(f->dir, &reading, &second, &err));
    assert_null(second);
}

static void test_open_absent_parent_or_read_only_refused(void **state) {
    struct fixture *f = *state;
    struct lorica_registry *registry = NULL;
    const struct lorica_registry_options reading = {.read_only = true};
    char path[128];
    snprintf(path, sizeof(path), "%s/none", f->root);
    fails(LORICA_ENOTFOUND, "no registry", lorica_registry_open(path, &reading, &registry, &err));
    snprintf(path, sizeof(path), "%s/none/deeper", f->root);
    fails(LORICA_EIO, "created", lorica_registry_open(path, NULL, &registry, &err));
}

static void test_open_read_only_reads_and_refuses_changes(void **state) {
    struct fixture *f = *state;
    const struct lorica_registry_options reading = {.read_only = true, .map_bytes = MAP_BYTES};
    struct lorica_version version;
    struct lorica_channel channel;
    publish_seed(f, "cardiology", 1, "stable");
    lorica_registry_close(f->registry);
    ok(lorica_registry_open(f->dir, &reading, &f->registry, &err));
    ok(lorica_registry_resolve(f->registry, "cardiology", &version, &err));
    fails(LORICA_EINVAL, "reading only",
          lorica_registry_promote(f->registry, "cardiology", "stable", 1, 0, true, &actor, &channel,
                                  &err));
    assert_clean(f->registry);
}

/* Publishes one version, closes the registry and writes the number of a layout into it. */
static void close_as_schema(struct fixture *f, uint64_t schema) {
    struct lorica_store *store = NULL;
    struct lorica_txn *txn = NULL;
    struct lorica_record record;
    publish_seed(f, "cardiology", 1, "stable");
    lorica_registry_close(f->registry);
    f->registry = NULL;
    ok(lorica_store_open(f->dir, MAP_BYTES, false, &store, NULL, &err));
    ok(lorica_store_begin(store, true, &txn, &err));
    ok(lorica_record_encode_number(schema, &record));
    ok(lorica_store_put(txn, LORICA_TABLE_META, (struct lorica_slice){"schema", 6},
                        lorica_slice_record(&record), &err));
    ok(lorica_store_commit(txn, &err));
    lorica_store_close(store);
}

static void test_open_newer_schema_refused_unchanged(void **state) {
    struct fixture *f = *state;
    close_as_schema(f, LORICA_STORE_SCHEMA + 1);
    fails(LORICA_EUNSUPPORTED, "newer", lorica_registry_open(f->dir, NULL, &f->registry, &err));
    assert_null(f->registry);
}

static void test_open_older_schema_brought_up_to_date(void **state) {
    struct fixture *f = *state;
    const struct lorica_registry_options reading = {.map_bytes = MAP_BYTES, .read_only = true};
    struct lorica_version version;
    for (uint64_t schema = 1; schema < LORICA_STORE_SCHEMA; schema++) {
        close_as_schema(f, schema);
        fails(LORICA_EUNSUPPORTED, "older",
              lorica_registry_open(f->dir, &reading, &f->registry, &err));
        ok(lorica_registry_open(f->dir, NULL, &f->registry, &err));
        ok(lorica_registry_resolve(f->registry, "cardiology", &version, &err));
        lorica_registry_close(f->registry);
        f->registry = NULL;
        ok(lorica_registry_open(f->dir, &reading, &f->registry, &err));
        assert_clean(f->registry);
        lorica_registry_close(f->registry);
        fixture_open(f);
    }
}

static void test_open_garbage_file_refused(void **state) {
    struct fixture *f = *state;
    char path[128];
    lorica_registry_close(f->registry);
    f->registry = NULL;
    snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    write_seeded(path, 7, 100000);
    fails(LORICA_EFORMAT, "damaged", lorica_registry_open(f->dir, NULL, &f->registry, &err));
    assert_null(f->registry);
}

static void test_open_truncated_file_refused(void **state) {
    struct fixture *f = *state;
    char path[128];
    struct stat st;
    for (uint64_t seed = 1; seed <= 20; seed++)
        publish_seed(f, "cardiology", seed, "stable");
    lorica_registry_close(f->registry);
    f->registry = NULL;
    snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size / 2 / 4096 * 4096), 0);
    fails(LORICA_EFORMAT, "damaged", lorica_registry_open(f->dir, NULL, &f->registry, &err));
    assert_null(f->registry);
}

static void test_open_pepper_lost_refused_once_keys_exist(void **state) {
    struct fixture *f = *state;
    struct lorica_key key = {.name = "app", .role = LORICA_ROLE_INFER};
    char path[128], text[LORICA_KEY_TEXT];
    snprintf(path, sizeof(path), "%s/pepper", f->dir);
    assert_int_equal(unlink(path), 0);
    fixture_reopen(f); /* no key depends on it: made anew */
    ok(lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    lorica_registry_close(f->registry);
    f->registry = NULL;
    assert_int_equal(unlink(path), 0);
    fails(LORICA_EFORMAT, "pepper", lorica_registry_open(f->dir, NULL, &f->registry, &err));
}

static void test_remote_file_systems_known_by_magic(void **state) {
    (void)state;
    assert_string_equal(lorica_dir_remote(0x6969), "NFS");
    assert_string_equal(lorica_dir_remote(0xFF534D42), "CIFS");
    assert_string_equal(lorica_dir_remote(0x01021997), "9p");
    assert_string_equal(lorica_dir_remote(0x65735546), "FUSE");
    assert_null(lorica_dir_remote(0xEF53));     /* ext4 */
    assert_null(lorica_dir_remote(0x58465342)); /* XFS */
    assert_null(lorica_dir_remote(0x01021994)); /* tmpfs */
}

static void test_names_and_channels_only_their_grammar(void **state) {
    (void)state;
    char longest[LORICA_NAME_MAX + 2];
    memset(longest, 'a', sizeof(longest));
    longest[LORICA_NAME_MAX + 1] = '\0';
    assert_false(lorica_name_valid(longest));
    longest[LORICA_NAME_MAX] = '\0';
    assert_true(lorica_name_valid(longest));
    longest[LORICA_CHANNEL_MAX + 1] = '\0';
    assert_false(lorica_channel_valid(longest));
    longest[LORICA_CHANNEL_MAX] = '\0';
    assert_true(lorica_channel_valid(longest));
    const char *const bad[] = {"",     "base", "A",   "a b", "a/b",      ".a", "-a",
                               "a..b", "a@1",  "a:b", "a\n", "\xc3\xa4", NULL};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(lorica_name_valid(bad[i]));
    assert_true(lorica_name_valid("a.b_c-9"));
    assert_true(lorica_name_valid("0"));
}

/* Publishing */

static void test_publish_same_content_same_version(void **state) {
    struct fixture *f = *state;
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version first, again, other;
    struct lorica_channel channel;
    bool existing;
    write_seeded(f->weights, 1, 5000);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &first, &existing, &err));
    assert_false(existing);
    assert_int_equal(first.version, 1);
    assert_string_equal(first.created_by, "tester");
    assert_string_equal(first.message, "because");
    publish.channel = "canary";
    for (int i = 0; i < 2; i++) { /* moved by the first repetition, already there at the second */
        ok(lorica_registry_publish(f->registry, &publish, &actor, &again, &existing, &err));
        assert_true(existing);
        assert_int_equal(again.version, first.version);
        assert_int_equal(again.created_ms, first.created_ms);
        assert_string_equal(again.created_by, first.created_by);
        assert_memory_equal(&again.digest, &first.digest, 32);
        assert_memory_equal(&again.config_digest, &first.config_digest, 32);
        ok(lorica_registry_channel(f->registry, "cardiology", "canary", &channel, &err));
        assert_int_equal(channel.version, 1);
        assert_int_equal(channel.epoch, 1);
    }
    publish.base_digest.bytes[0] ^= 1; /* bound to another base: another version */
    ok(lorica_registry_publish(f->registry, &publish, &actor, &other, &existing, &err));
    assert_false(existing);
    assert_int_equal(other.version, 2);
    assert_memory_equal(&first.digest, &other.digest, 32);
    publish.name = "emergency"; /* another name: its own first version */
    ok(lorica_registry_publish(f->registry, &publish, &actor, &other, &existing, &err));
    assert_false(existing);
    assert_int_equal(other.version, 1);
    assert_clean(f->registry);
}

static void test_publish_digest_as_documented(void **state) {
    struct fixture *f = *state;
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version version;
    struct lorica_digest digest;
    uint8_t bytes[18 + 64] = "lorica adapter v1\n", weights[77];
    bool existing;
    write_seeded(f->weights, 1, sizeof(weights));
    FILE *file = fopen(f->weights, "rb");
    assert_non_null(file);
    assert_int_equal(fread(weights, 1, sizeof(weights), file), sizeof(weights));
    fclose(file);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    ok(lorica_sha256(publish.canonical, publish.canonical_len, &digest));
    memcpy(bytes + 18, digest.bytes, 32);
    ok(lorica_sha256(weights, sizeof(weights), &digest));
    assert_memory_equal(&digest, &version.weights_digest, 32);
    memcpy(bytes + 50, digest.bytes, 32);
    ok(lorica_sha256(bytes, sizeof(bytes), &digest));
    assert_memory_equal(&digest, &version.digest, 32);
}

static void assert_content(struct fixture *f, uint64_t seed, size_t len,
                           const struct lorica_version *version) {
    void *bytes = NULL;
    size_t found = 0;
    ok(lorica_registry_weights(f->registry, version, &bytes, &found, &err));
    assert_int_equal(found, len);
    write_seeded(f->weights, seed, len);
    FILE *file = fopen(f->weights, "rb");
    uint8_t *expected = malloc(len + 1);
    assert_non_null(file);
    assert_non_null(expected);
    assert_int_equal(fread(expected, 1, len, file), len);
    fclose(file);
    assert_memory_equal(bytes, expected, len);
    free(expected);
    free(bytes);
}

static void test_publish_sizes_around_pieces_and_batches_come_back(void **state) {
    struct fixture *f = *state;
    const size_t sizes[] = {0,
                            1,
                            LORICA_CHUNK_BYTES - 1,
                            LORICA_CHUNK_BYTES,
                            LORICA_CHUNK_BYTES + 1,
                            LORICA_CHUNK_BYTES * LORICA_BATCH_CHUNKS,
                            LORICA_CHUNK_BYTES * LORICA_BATCH_CHUNKS + 1,
                            LORICA_CHUNK_BYTES * (LORICA_BATCH_CHUNKS * 2 + 3)};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct lorica_publish publish = publish_of("cardiology", f->weights);
        struct lorica_version version;
        bool existing;
        write_seeded(f->weights, i, sizes[i]);
        ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
        assert_int_equal(version.version, i + 1);
        assert_int_equal(version.weights_nbytes, sizes[i]);
        assert_content(f, i, sizes[i], &version);
    }
    assert_clean(f->registry);
    fixture_reopen(f);
    assert_clean(f->registry);
}

static void test_publish_config_and_manifest_come_back(void **state) {
    struct fixture *f = *state;
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version version;
    char *text = NULL;
    size_t len = 0;
    bool existing;
    write_seeded(f->weights, 1, 10);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    ok(lorica_registry_config(f->registry, &version, &text, &len, &err));
    assert_int_equal(len, publish.config_len);
    assert_string_equal(text, publish.config);
    free(text);
    fails(LORICA_ENOTFOUND, "without a manifest",
          lorica_registry_manifest(f->registry, &version, &text, &len, &err));
    write_seeded(f->weights, 2, 10);
    publish.manifest = "{\"loss\":0.5}";
    publish.manifest_len = strlen(publish.manifest);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    ok(lorica_registry_manifest(f->registry, &version, &text, &len, &err));
    assert_string_equal(text, "{\"loss\":0.5}");
    free(text);
    assert_clean(f->registry);
}

static void test_publish_bad_arguments_refused_unchanged(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    bool existing;
    char message[LORICA_MESSAGE_MAX + 2];
    write_seeded(f->weights, 1, 10);
    memset(message, 'm', sizeof(message));
    message[LORICA_MESSAGE_MAX + 1] = '\0';
    struct lorica_publish publish = publish_of("Cardiology", f->weights);
#define refuse(code, word, who)                                                                    \
    fails(code, word,                                                                              \
          lorica_registry_publish(f->registry, &publish, who, &version, &existing, &err))
    refuse(LORICA_EINVAL, "name", &actor);
    publish.name = "cardiology";
    publish.channel = "no channel";
    refuse(LORICA_EINVAL, "channel", &actor);
    publish.channel = NULL;
    publish.weights_path = f->root;
    refuse(LORICA_EINVAL, "plain file", &actor);
    publish.weights_path = "/nonexistent/weights";
    refuse(LORICA_EIO, "/nonexistent/weights", &actor);
    publish.weights_path = f->weights;
    refuse(LORICA_EINVAL, "who", (&(struct lorica_actor){.key_name = ""}));
    refuse(LORICA_ELIMIT, "message", (&(struct lorica_actor){.key_name = "a", .message = message}));
    refuse(LORICA_EINVAL, "UTF-8", (&(struct lorica_actor){.key_name = "a", .message = "\xff"}));
    refuse(LORICA_EINVAL, "control", (&(struct lorica_actor){.key_name = "a", .message = "\x1b["}));
    publish.config_len = 0;
    refuse(LORICA_EINVAL, "config", &actor);
#undef refuse
    message[LORICA_MESSAGE_MAX] = '\0';
    publish = publish_of("cardiology", f->weights);
    ok(lorica_registry_publish(f->registry, &publish,
                               &(struct lorica_actor){.key_name = "a", .message = message},
                               &version, &existing, &err));
    assert_int_equal(version.version, 1);
    assert_string_equal(version.message, message);
}

/* Resolving */

static void test_resolve_each_form_its_version(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    publish_seed(f, "cardiology", 1, NULL);
    publish_seed(f, "cardiology", 2, NULL);
    publish_seed(f, "cardiology", 3, "canary");
    fails(LORICA_ENOTFOUND, "points nowhere yet",
          lorica_registry_resolve(f->registry, "cardiology", &version, &err));
    promote(f, "cardiology", 2);
    ok(lorica_registry_resolve(f->registry, "cardiology", &version, &err));
    assert_int_equal(version.version, 2);
    ok(lorica_registry_resolve(f->registry, "cardiology:stable", &version, &err));
    assert_int_equal(version.version, 2);
    ok(lorica_registry_resolve(f->registry, "cardiology:canary", &version, &err));
    assert_int_equal(version.version, 3);
    ok(lorica_registry_resolve(f->registry, "cardiology@1", &version, &err));
    assert_int_equal(version.version, 1);
}

static void test_resolve_anything_else_not_found(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    char longest[400];
    publish_seed(f, "cardiology", 1, "stable");
    const char *const bad[] = {"",
                               "base",
                               "cardiolog",
                               "cardiologyx",
                               "Cardiology",
                               "cardiology@",
                               "cardiology@0",
                               "cardiology@01",
                               "cardiology@+1",
                               "cardiology@ 1",
                               "cardiology@1x",
                               "cardiology@2",
                               "cardiology@99999999999999999999999",
                               "cardiology@18446744073709551617",
                               "cardiology:",
                               "cardiology:canary",
                               "cardiology:stable@1",
                               "cardiology@1:stable",
                               ":stable",
                               "@1",
                               "cardiology\n",
                               NULL};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        fails(LORICA_ENOTFOUND, "", lorica_registry_resolve(f->registry, bad[i], &version, &err));
    memset(longest, 'a', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    fails(LORICA_ENOTFOUND, "", lorica_registry_resolve(f->registry, longest, &version, &err));
    longest[10] = ':';
    fails(LORICA_ENOTFOUND, "", lorica_registry_resolve(f->registry, longest, &version, &err));
}

static void test_version_unknown_says_what(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    uint64_t latest = 7;
    publish_seed(f, "cardiology", 1, NULL);
    fails(LORICA_ENOTFOUND, "newest is 1",
          lorica_registry_version(f->registry, "cardiology", 2, &version, &err));
    fails(LORICA_ENOTFOUND, "no adapter is named emergency",
          lorica_registry_version(f->registry, "emergency", 1, &version, &err));
    ok(lorica_registry_latest(f->registry, "cardiology", &latest, &err));
    assert_int_equal(latest, 1);
    ok(lorica_registry_latest(f->registry, "emergency", &latest, &err));
    assert_int_equal(latest, 0);
}

/* Channels */

static void test_promote_compares_epoch(void **state) {
    struct fixture *f = *state;
    struct lorica_channel channel;
    publish_seed(f, "cardiology", 1, NULL);
    publish_seed(f, "cardiology", 2, NULL);
    ok(lorica_registry_promote(f->registry, "cardiology", "stable", 1, 0, false, &actor, &channel,
                               &err));
    assert_int_equal(channel.epoch, 1);
    assert_string_equal(channel.moved_by, "tester");
    fails(LORICA_EPRECOND, "epoch is 1",
          lorica_registry_promote(f->registry, "cardiology", "stable", 2, 0, false, &actor,
                                  &channel, &err));
    fails(LORICA_ENOTFOUND, "no version 3",
          lorica_registry_promote(f->registry, "cardiology", "stable", 3, 1, false, &actor,
                                  &channel, &err));
    fails(LORICA_EINVAL, "channel",
          lorica_registry_promote(f->registry, "cardiology", "a b", 2, 0, false, &actor, &channel,
                                  &err));
    ok(lorica_registry_channel(f->registry, "cardiology", "stable", &channel, &err));
    assert_int_equal(channel.version, 1);
    assert_int_equal(channel.epoch, 1);
    ok(lorica_registry_channel(f->registry, "cardiology", "never", &channel, &err));
    assert_int_equal(channel.version, 0);
    assert_int_equal(channel.epoch, 0);
    fails(LORICA_ENOTFOUND, "emergency",
          lorica_registry_channel(f->registry, "emergency", "stable", &channel, &err));
}

static void test_rollback_follows_the_channels_history(void **state) {
    struct fixture *f = *state;
    struct lorica_channel channel;
    for (uint64_t seed = 1; seed <= 3; seed++)
        publish_seed(f, "cardiology", seed, NULL);
    fails(LORICA_ECONFLICT, "never moved",
          lorica_registry_rollback(f->registry, "cardiology", "stable", &actor, &channel, &err));
    for (uint64_t version = 1; version <= 3; version++)
        promote(f, "cardiology", version);
    assert_int_equal(rollback(f, "cardiology"), 2);
    assert_int_equal(rollback(f, "cardiology"), 1);
    fails(LORICA_ECONFLICT, "before version 1",
          lorica_registry_rollback(f->registry, "cardiology", "stable", &actor, &channel, &err));
    promote(f, "cardiology", 3);
    assert_int_equal(rollback(f, "cardiology"), 1);
    promote(f, "cardiology", 2);
    promote(f, "cardiology", 2); /* a move, but nothing new to go back to */
    assert_int_equal(promote(f, "cardiology", 3).epoch, 10);
    assert_int_equal(rollback(f, "cardiology"), 2);
    promote(f, "cardiology", 3);
    assert_int_equal(rollback(f, "cardiology"), 2);
    assert_int_equal(rollback(f, "cardiology"), 1);
    fails(LORICA_ECONFLICT, "before",
          lorica_registry_rollback(f->registry, "cardiology", "stable", &actor, &channel, &err));
    fails(LORICA_ENOTFOUND, "emergency",
          lorica_registry_rollback(f->registry, "emergency", "stable", &actor, &channel, &err));
    fixture_reopen(f);
    ok(lorica_registry_channel(f->registry, "cardiology", "stable", &channel, &err));
    assert_int_equal(channel.version, 1);
    assert_int_equal(channel.epoch, 14);
    assert_clean(f->registry);
}

/* Listings */

struct list {
    size_t count, stop_at;
    char text[4096];
};

static int list_name(void *arg, const char *name, uint64_t latest) {
    struct list *list = arg;
    size_t len = strlen(list->text);
    snprintf(list->text + len, sizeof(list->text) - len, "%s=%d ", name, (int)latest);
    return ++list->count == list->stop_at ? -1000 : 0;
}

static int list_version(void *arg, const struct lorica_version *version) {
    return list_name(arg, version->name, version->version);
}

static int list_channel(void *arg, const struct lorica_channel *channel) {
    return list_name(arg, channel->channel, channel->version);
}

static int list_audit(void *arg, const struct lorica_audit *audit) {
    struct list *list = arg;
    size_t len = strlen(list->text);
    snprintf(list->text + len, sizeof(list->text) - len, "%d:%s:%s:%s:%d<%d ", (int)audit->seq,
             lorica_audit_kind_name(audit->kind), audit->name, audit->channel, (int)audit->version,
             (int)audit->previous);
    return ++list->count == list->stop_at ? -1000 : 0;
}

static void test_names_in_order_and_in_pages(void **state) {
    struct fixture *f = *state;
    publish_seed(f, "b", 1, NULL);
    publish_seed(f, "a", 2, NULL);
    publish_seed(f, "a", 3, NULL);
    publish_seed(f, "a-b", 4, NULL);
    struct list list = {0};
    ok(lorica_registry_names(f->registry, NULL, 100, list_name, &list, &err));
    assert_string_equal(list.text, "a=2 a-b=1 b=1 ");
    list = (struct list){0};
    ok(lorica_registry_names(f->registry, "a", 1, list_name, &list, &err));
    assert_string_equal(list.text, "a-b=1 ");
    list = (struct list){0};
    ok(lorica_registry_names(f->registry, "b", 100, list_name, &list, &err));
    assert_string_equal(list.text, "");
    ok(lorica_registry_names(f->registry, NULL, 0, list_name, &list, &err));
    assert_string_equal(list.text, "");
    list = (struct list){.stop_at = 2};
    struct lorica_error err;
    assert_int_equal(lorica_registry_names(f->registry, NULL, 100, list_name, &list, &err), -1000);
    assert_int_equal(list.count, 2);
}

static void test_versions_and_channels_only_of_the_name(void **state) {
    struct fixture *f = *state;
    publish_seed(f, "a", 1, "stable");
    publish_seed(f, "a", 2, "canary");
    publish_seed(f, "a-b", 3, "stable");
    struct list list = {0};
    ok(lorica_registry_versions(f->registry, "a", list_version, &list, &err));
    assert_string_equal(list.text, "a=1 a=2 ");
    list = (struct list){0};
    ok(lorica_registry_channels(f->registry, "a", list_channel, &list, &err));
    assert_string_equal(list.text, "canary=2 stable=1 ");
    fails(LORICA_ENOTFOUND, "named c",
          lorica_registry_versions(f->registry, "c", list_version, &list, &err));
    fails(LORICA_ENOTFOUND, "named c",
          lorica_registry_channels(f->registry, "c", list_channel, &list, &err));
}

static void test_audit_tells_every_change(void **state) {
    struct fixture *f = *state;
    struct lorica_key key = {.name = "a", .role = LORICA_ROLE_OPS}; /* named like an adapter */
    char text[LORICA_KEY_TEXT];
    publish_seed(f, "a", 1, "stable");
    ok(lorica_registry_key_create(f->registry, &key, &actor, text, &err));
    publish_seed(f, "b", 2, NULL);
    publish_seed(f, "a", 3, "stable");
    rollback(f, "a");
    ok(lorica_registry_key_revoke(f->registry, "a", &actor, &err));
    struct list list = {0};
    ok(lorica_registry_audit(f->registry, NULL, 0, 100, list_audit, &list, &err));
    assert_string_equal(list.text, "1:publish:a::1<0 2:promote:a:stable:1<0 3:key-create:a::0<0 "
                                   "4:publish:b::1<0 5:publish:a::2<0 6:promote:a:stable:2<1 "
                                   "7:rollback:a:stable:1<2 8:key-revoke:a::0<0 ");
    list = (struct list){0};
    ok(lorica_registry_audit(f->registry, "a", 2, 2, list_audit, &list, &err));
    assert_string_equal(list.text, "5:publish:a::2<0 6:promote:a:stable:2<1 ");
    list = (struct list){0};
    ok(lorica_registry_audit(f->registry, NULL, 7, 100, list_audit, &list, &err));
    assert_string_equal(list.text, "8:key-revoke:a::0<0 ");
    list = (struct list){0};
    ok(lorica_registry_audit(f->registry, NULL, UINT64_MAX, 100, list_audit, &list, &err));
    ok(lorica_registry_audit(f->registry, NULL, 8, 100, list_audit, &list, &err));
    ok(lorica_registry_audit(f->registry, "zzz", 0, 100, list_audit, &list, &err));
    assert_string_equal(list.text, "");
    assert_clean(f->registry);
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

static void test_known_digest_saves_a_reading_and_must_hold(void **state) {
    struct fixture *f = *state;
    const size_t sizes[] = {5000, LARGE_BYTES}; /* in one transaction, and staged */
    for (size_t i = 0; i < 2; i++) {
        struct lorica_publish publish = publish_of("known", f->weights);
        struct lorica_version found, version;
        bool existing;
        write_seeded(f->weights, 10 + i, sizes[i]);
        ok(lorica_registry_publish(f->registry, &publish, &actor, &found, &existing, &err));
        const struct lorica_digest digest = found.weights_digest;
        publish.name = "other";
        publish.weights_digest = &digest;
        ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
        assert_true(!existing && lorica_digest_equal(&version.digest, &found.digest));
        const struct lorica_digest wrong = {{(uint8_t)(1 + i)}};
        publish.name = "wrong";
        publish.weights_digest = &wrong;
        fails(LORICA_ECONFLICT, "changed while it was read",
              lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
        fails(LORICA_ENOTFOUND, "wrong",
              lorica_registry_version(f->registry, "wrong", 1, &version, &err));
        assert_clean(f->registry);
    }
}

/* Digest and seal of what is in the fixture's file. */
static void seal_file(const struct fixture *f, size_t len, struct lorica_digest *ret_digest,
                      struct lorica_seal *ret_seal) {
    FILE *file = fopen(f->weights, "rb");
    void *bytes = malloc(len);
    assert_true(file && bytes && fread(bytes, 1, len, file) == len);
    assert_int_equal(lorica_sha256(bytes, len, ret_digest), 0);
    assert_int_equal(lorica_seal_draw(ret_seal), 0);
    void *stream = lorica_seal_create(ret_seal);
    assert_non_null(stream);
    assert_int_equal(lorica_seal_update(stream, bytes, len), 0);
    assert_int_equal(lorica_seal_finish(stream, ret_seal), 0);
    (void)fclose(file);
    free(bytes);
}

static void flip_byte(const char *path, size_t at) {
    FILE *file = fopen(path, "r+b");
    assert_true(file && fseek(file, (long)at, SEEK_SET) == 0);
    const int byte = fgetc(file);
    assert_true(byte != EOF && fseek(file, (long)at, SEEK_SET) == 0);
    assert_int_equal(fputc(byte ^ 1, file), byte ^ 1);
    assert_int_equal(fclose(file), 0);
}

static void test_sealed_weights_that_change_are_refused(void **state) {
    struct fixture *f = *state;
    const size_t sizes[] = {5000, LARGE_BYTES};
    for (size_t i = 0; i < 2; i++) {
        struct lorica_publish publish = publish_of("sealed", f->weights);
        struct lorica_digest digest;
        struct lorica_seal seal;
        struct lorica_version version;
        bool existing;
        write_seeded(f->weights, 20 + i, sizes[i]);
        seal_file(f, sizes[i], &digest, &seal);
        publish.weights_digest = &digest;
        publish.weights_seal = &seal;
        flip_byte(f->weights, sizes[i] - 1);
        fails(LORICA_ECONFLICT, "changed while it was read",
              lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
        flip_byte(f->weights, sizes[i] - 1);
        assert_clean(f->registry);
        ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
        assert_int_equal(version.version, i + 1);
        assert_content(f, 20 + i, sizes[i], &version);
        assert_clean(f->registry);
    }
}

/* What a publish gives way to: a promote of version 1, each time. */
struct between {
    struct fixture *f;
    unsigned times;
};

static bool promote_between(void *arg) {
    struct between *between = arg;
    const struct lorica_channel moved = promote(between->f, "ward", 1);
    assert_int_equal(moved.epoch, ++between->times);
    return true;
}

static void test_a_publish_that_gives_way_is_written_in_small_transactions(void **state) {
    struct fixture *f = *state;
    const size_t sizes[] = {LORICA_CHUNK_BYTES * LORICA_SPARING_CHUNKS,
                            LORICA_CHUNK_BYTES * LORICA_SPARING_CHUNKS + 1,
                            LORICA_CHUNK_BYTES * LORICA_SPARING_CHUNKS * 3};
    const unsigned times[] = {1, 1 + 3, 1 + 3 + 4}; /* once, and then behind each transaction */
    struct between between = {.f = f};
    (void)publish_seed(f, "ward", 1, NULL);
    for (size_t i = 0; i < 3; i++) {
        struct lorica_publish publish = publish_of("large", f->weights);
        struct lorica_version version;
        bool existing;
        publish.give_way = promote_between;
        publish.give_way_arg = &between;
        write_seeded(f->weights, 30 + i, sizes[i]);
        ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
        assert_int_equal(between.times, times[i]);
        assert_content(f, 30 + i, sizes[i], &version);
        assert_clean(f->registry);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        with_registry(test_known_digest_saves_a_reading_and_must_hold),
        with_registry(test_sealed_weights_that_change_are_refused),
        with_registry(test_a_publish_that_gives_way_is_written_in_small_transactions),
        with_registry(test_open_new_makes_private_files),
        with_registry(test_open_twice_refused_naming_the_process),
        with_registry(test_open_absent_parent_or_read_only_refused),
        with_registry(test_open_read_only_reads_and_refuses_changes),
        with_registry(test_open_newer_schema_refused_unchanged),
        with_registry(test_open_older_schema_brought_up_to_date),
        with_registry(test_open_garbage_file_refused),
        with_registry(test_open_truncated_file_refused),
        with_registry(test_open_pepper_lost_refused_once_keys_exist),
        cmocka_unit_test(test_remote_file_systems_known_by_magic),
        cmocka_unit_test(test_names_and_channels_only_their_grammar),
        with_registry(test_publish_same_content_same_version),
        with_registry(test_publish_digest_as_documented),
        with_registry(test_publish_sizes_around_pieces_and_batches_come_back),
        with_registry(test_publish_config_and_manifest_come_back),
        with_registry(test_publish_bad_arguments_refused_unchanged),
        with_registry(test_resolve_each_form_its_version),
        with_registry(test_resolve_anything_else_not_found),
        with_registry(test_version_unknown_says_what),
        with_registry(test_promote_compares_epoch),
        with_registry(test_rollback_follows_the_channels_history),
        with_registry(test_names_in_order_and_in_pages),
        with_registry(test_versions_and_channels_only_of_the_name),
        with_registry(test_audit_tells_every_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
