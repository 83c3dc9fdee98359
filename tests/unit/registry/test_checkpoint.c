/* SPDX-License-Identifier: MIT
 * A checkpoint that was kept elsewhere finds what was rewritten in the chain since. */
#include "fixture.h"

#include "registry/backup.h"
#include "registry/checkpoint.h"
#include "registry/internal.h"
#include "registry/refused.h"

static void add_records(struct fixture *f, unsigned count) {
    const struct lorica_refusal refusal = {.attempt = "promote"};
    for (unsigned i = 0; i < count; i++)
        ok(lorica_registry_refused(f->registry, &refusal, "app", &err));
}

static struct lorica_checkpoint take(struct fixture *f) {
    struct lorica_checkpoint taken, read;
    struct lorica_buf json;
    ok(lorica_checkpoint_take(f->registry, &taken, &err));
    lorica_buf_init(&json, LORICA_CHECKPOINT_BYTES_MAX);
    lorica_checkpoint_write(&json, &taken);
    assert_int_equal(lorica_buf_status(&json), 0);
    ok(lorica_checkpoint_parse(json.data, json.len, &read, &err));
    taken.time_ms = read.time_ms; /* to the second */
    assert_memory_equal(&taken, &read, sizeof(taken));
    lorica_buf_finish(&json);
    return read;
}

/* The findings, one per line, of the registry and of a backup of it, which must agree. */
static void check(struct fixture *f, const struct lorica_checkpoint *checkpoint,
                  const char *wanted) {
    struct lorica_buf ours, theirs;
    struct lorica_backup_info info;
    const struct lorica_backup_source source = lorica_backup_from(f->registry);
    uint64_t findings = 0, theirs_count = 0;
    char dir[100];
    static unsigned serial;
    snprintf(dir, sizeof(dir), "%s/backup-%u", f->root, ++serial);
    lorica_buf_init(&ours, 4096);
    lorica_buf_init(&theirs, 4096);
    ok(lorica_checkpoint_check(f->registry, checkpoint, &ours, &findings, &err));
    ok(lorica_backup_write(dir, &source, NULL, NULL, &info, &err));
    ok(lorica_checkpoint_check_backup(dir, checkpoint, &theirs, &theirs_count, &err));
    assert_int_equal(findings, wanted ? 1 : 0);
    assert_int_equal(theirs_count, findings);
    if (wanted) {
        if (!strstr(ours.data, wanted))
            print_error("no \"%s\" in: %s\n", wanted, ours.data);
        assert_non_null(strstr(ours.data, wanted));
        assert_string_equal(ours.data, theirs.data);
    }
    lorica_buf_finish(&ours);
    lorica_buf_finish(&theirs);
}

/* What one who may write the files can do: changes record `from` and makes every hash anew, so
 * that the chain is sound in itself; ends it behind `last`. */
static void rewrite(struct fixture *f, uint64_t from, uint64_t last) {
    struct lorica_txn *txn = NULL;
    struct lorica_audit audit, before = {0};
    struct lorica_record record;
    struct lorica_record_key key;
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    ok(lorica_audit_last(txn, &audit, &err));
    const uint64_t end = audit.seq;
    if (from > 1)
        ok(lorica_audit_get(txn, from - 1, &before, &err));
    for (uint64_t seq = from; seq <= end; seq++) {
        lorica_record_key_number(seq, &key);
        if (seq > last) {
            ok(lorica_store_delete(txn, LORICA_TABLE_AUDIT, lorica_slice_key(&key), &err));
            continue;
        }
        ok(lorica_audit_get(txn, seq, &audit, &err));
        if (seq == from)
            audit.message[0] = audit.message[0] == 'x' ? 'y' : 'x';
        assert_int_equal(lorica_audit_hash(&audit, &before.hash, &audit.hash), 0);
        assert_int_equal(lorica_record_encode_audit(&audit, &record), 0);
        memcpy(record.bytes + record.len, audit.hash.bytes, 32);
        record.len += 32;
        ok(lorica_store_put(txn, LORICA_TABLE_AUDIT, lorica_slice_key(&key),
                            lorica_slice_record(&record), &err));
        before = audit;
    }
    ok(lorica_store_commit(txn, &err));
    assert_clean(f->registry); /* nothing in it tells */
}

static void test_checkpoint_of_what_goes_on_is_contained(void **state) {
    struct fixture *f = *state;
    const struct lorica_checkpoint empty = take(f);
    assert_int_equal(empty.seq, 0);
    add_records(f, 1);
    const struct lorica_checkpoint one = take(f);
    add_records(f, 20);
    const struct lorica_checkpoint many = take(f);
    assert_int_equal(many.seq, 21);
    add_records(f, 3);
    check(f, &empty, NULL);
    check(f, &one, NULL);
    check(f, &many, NULL);
}

static void test_checkpoint_names_the_first_record_that_differs(void **state) {
    struct fixture *f = *state;
    add_records(f, 20);
    const struct lorica_checkpoint checkpoint = take(f);
    add_records(f, 5);
    rewrite(f, 23, UINT64_MAX); /* after it: none of its business */
    check(f, &checkpoint, NULL);
    rewrite(f, 20, UINT64_MAX);
    check(f, &checkpoint, "audit record 20 is not the one");
    rewrite(f, 7, UINT64_MAX);
    check(f, &checkpoint, "audit record 7 is not the one");
    rewrite(f, 1, UINT64_MAX);
    check(f, &checkpoint, "from its first record on");
}

static void test_checkpoint_of_a_long_chain_tells_between_which_records(void **state) {
    struct fixture *f = *state;
    add_records(f, 300);
    const struct lorica_checkpoint checkpoint = take(f);
    assert_int_equal(checkpoint.step, 4);
    assert_int_equal(checkpoint.count, 75);
    rewrite(f, 299, UINT64_MAX);
    check(f, &checkpoint, "between 297 and 300");
    rewrite(f, 122, UINT64_MAX);
    check(f, &checkpoint, "between 121 and 124");
    rewrite(f, 2, UINT64_MAX);
    check(f, &checkpoint, "between 2 and 4");
}

static void test_checkpoint_finds_a_chain_that_was_cut(void **state) {
    struct fixture *f = *state;
    add_records(f, 20);
    const struct lorica_checkpoint checkpoint = take(f);
    rewrite(f, 21, 20);
    check(f, &checkpoint, NULL);
    rewrite(f, 13, 12);
    check(f, &checkpoint, "ends with record 12, before record 20");
}

static void test_checkpoint_that_is_none_is_refused(void **state) {
    struct fixture *f = *state;
    struct lorica_checkpoint read;
    struct lorica_buf json;
    add_records(f, 3);
    const struct lorica_checkpoint taken = take(f);
    lorica_buf_init(&json, LORICA_CHECKPOINT_BYTES_MAX);
    lorica_checkpoint_write(&json, &taken);
    for (size_t len = 0; len < json.len; len++) { /* cut off anywhere */
        struct lorica_error err = {0};
        assert_int_not_equal(lorica_checkpoint_parse(json.data, len, &read, &err), 0);
        assert_true(err.text[0] != '\0');
    }
    static const char *const strange[] = {"[]", "{}", "{\"object\":\"audit.checkpoint\"}",
                                          "{\"object\":\"audit.checkpoint\",\"format\":0}",
                                          "{\"object\":\"list\",\"data\":[]}"};
    for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++)
        fails(LORICA_EFORMAT, "checkpoint",
              lorica_checkpoint_parse(strange[i], strlen(strange[i]), &read, &err));
    static const char newer[] = "{\"object\":\"audit.checkpoint\",\"format\":2}";
    fails(LORICA_EUNSUPPORTED, "newer lorica",
          lorica_checkpoint_parse(newer, sizeof(newer) - 1, &read, &err));
    lorica_buf_finish(&json);
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_registry(test_checkpoint_of_what_goes_on_is_contained),
        with_registry(test_checkpoint_names_the_first_record_that_differs),
        with_registry(test_checkpoint_of_a_long_chain_tells_between_which_records),
        with_registry(test_checkpoint_finds_a_chain_that_was_cut),
        with_registry(test_checkpoint_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
