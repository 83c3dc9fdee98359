/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include "registry/internal.h"

/* Three versions; stable points to the first. */
static int setup_three(void **state) {
    fixture_setup(state);
    publish_seed(*state, "cardiology", 1, "stable");
    publish_seed(*state, "cardiology", 2, NULL);
    publish_seed(*state, "cardiology", 3, "next");
    return 0;
}

static struct lorica_split set(struct fixture *f, uint64_t version, uint32_t share,
                               uint64_t epoch) {
    const struct lorica_split_terms terms = lorica_split_defaults(version, share);
    struct lorica_split split;
    ok(lorica_registry_split_set(f->registry, "cardiology", &terms, epoch, &actor, &split, &err));
    return split;
}

static struct lorica_split get(struct fixture *f) {
    struct lorica_split split;
    ok(lorica_registry_split_get(f->registry, "cardiology", &split, &err));
    return split;
}

static uint64_t answering(struct fixture *f, const char *reference, const char *sticky,
                          enum lorica_split_arm arm) {
    struct lorica_version version;
    struct lorica_split_choice choice;
    ok(lorica_registry_resolve_for(f->registry, reference, sticky, strlen(sticky), &version,
                                   &choice, &err));
    assert_int_equal(choice.arm, arm);
    return version.version;
}

static int take_last(void *arg, const struct lorica_audit *audit) {
    *(struct lorica_audit *)arg = *audit;
    return 0;
}

static struct lorica_audit last_audit(struct fixture *f) {
    struct lorica_audit audit = {0};
    ok(lorica_registry_audit(f->registry, NULL, 0, SIZE_MAX, take_last, &audit, &err));
    return audit;
}

static void test_no_split_says_so(void **state) {
    struct fixture *f = *state;
    const struct lorica_split split = get(f);
    struct lorica_split ignored;
    assert_int_equal(split.terms.version, 0);
    assert_int_equal(split.epoch, 0);
    assert_int_equal(split.stable, 1);
    assert_int_equal(split.started_ms, 0);
    assert_int_equal(answering(f, "cardiology", "alice", LORICA_SPLIT_NONE), 1);
    fails(LORICA_ECONFLICT, "no split",
          lorica_registry_split_end(f->registry, "cardiology", NULL, &actor, &ignored, &err));
    fails(LORICA_ENOTFOUND, "nobody",
          lorica_registry_split_get(f->registry, "nobody", &ignored, &err));
    fails(LORICA_ENOTFOUND, "nobody",
          lorica_registry_split_end(f->registry, "nobody", NULL, &actor, &ignored, &err));
}

static void test_set_change_and_end_are_kept_and_recorded(void **state) {
    struct fixture *f = *state;
    struct lorica_split_terms terms = lorica_split_defaults(2, 500);
    struct lorica_split split;
    const struct lorica_split begun = set(f, 2, 500, 0);
    struct lorica_audit audit = last_audit(f);
    assert_true(lorica_split_terms_equal(&begun.terms, &terms));
    assert_int_equal(begun.epoch, 1);
    assert_int_equal(begun.seq, audit.seq);
    assert_string_equal(begun.by, "tester");
    assert_int_equal(audit.kind, LORICA_AUDIT_SPLIT);
    assert_string_equal(audit.channel, "stable");
    assert_int_equal(audit.version, 2);
    assert_int_equal(audit.previous, 1);
    assert_int_equal(audit.epoch, 1);
    assert_string_equal(audit.message, "because");
    assert_string_equal(audit.detail, "{\"before\":null,\"after\":{\"version\":2,\"share\":500,"
                                      "\"window_s\":300,\"min_requests\":50,"
                                      "\"max_error_excess\":200,\"max_latency_ratio\":150}}");
    terms = (struct lorica_split_terms){2, 1000, 5, 1, 10000, 0};
    ok(lorica_registry_split_set(f->registry, "cardiology", &terms, 1, &actor, &split, &err));
    fixture_reopen(f);
    split = get(f);
    audit = last_audit(f);
    assert_true(lorica_split_terms_equal(&split.terms, &terms));
    assert_int_equal(split.started_ms, begun.changed_ms);
    assert_int_equal(split.seq, begun.seq + 1);
    assert_non_null(strstr(audit.detail, "{\"before\":{\"version\":2,\"share\":500,"));
    assert_non_null(strstr(audit.detail, "\"after\":{\"version\":2,\"share\":1000,"));
    ok(lorica_registry_split_end(f->registry, "cardiology", &split.epoch, &actor, &split, &err));
    audit = last_audit(f);
    assert_int_equal(split.terms.version, 0);
    assert_int_equal(split.epoch, 3);
    assert_int_equal(split.started_ms, 0);
    assert_int_equal(audit.version, 0);
    assert_int_equal(audit.previous, 1);
    assert_non_null(strstr(audit.detail, "\"after\":null}"));
    assert_clean(f->registry);
}

static void test_epoch_guards_every_change(void **state) {
    struct fixture *f = *state;
    const struct lorica_split_terms terms = lorica_split_defaults(2, 500);
    const uint64_t stale = 1;
    struct lorica_split split;
    fails(LORICA_EPRECOND, "its epoch is 0, not 1",
          lorica_registry_split_set(f->registry, "cardiology", &terms, 1, &actor, &split, &err));
    set(f, 2, 500, 0);
    fails(LORICA_EPRECOND, "its epoch is 1, not 0",
          lorica_registry_split_set(f->registry, "cardiology", &terms, 0, &actor, &split, &err));
    set(f, 2, 600, 1);
    fails(LORICA_EPRECOND, "its epoch is 2, not 1",
          lorica_registry_split_end(f->registry, "cardiology", &stale, &actor, &split, &err));
    ok(lorica_registry_split_end(f->registry, "cardiology", NULL, &actor, &split, &err));
    set(f, 3, 100, 3);
    assert_int_equal(get(f).epoch, 4);
    assert_clean(f->registry);
}

static void refused(struct fixture *f, struct lorica_split_terms terms, int code,
                    const char *word) {
    struct lorica_split split;
    fails(code, word,
          lorica_registry_split_set(f->registry, "cardiology", &terms, 0, &actor, &split, &err));
}

static void test_terms_out_of_range_refused(void **state) {
    struct fixture *f = *state;
    const uint64_t before = last_audit(f).seq;
    struct lorica_split_terms t = lorica_split_defaults(2, 1);
    refused(f, lorica_split_defaults(2, 0), LORICA_EINVAL, "share");
    refused(f, lorica_split_defaults(2, 10001), LORICA_EINVAL, "share");
    refused(f, (t = lorica_split_defaults(2, 1), t.window_s = 4, t), LORICA_EINVAL, "window");
    refused(f, (t = lorica_split_defaults(2, 1), t.window_s = 86401, t), LORICA_EINVAL, "window");
    refused(f, (t = lorica_split_defaults(2, 1), t.min_requests = 0, t), LORICA_EINVAL, "number");
    refused(f, (t = lorica_split_defaults(2, 1), t.max_error_excess = 10001, t), LORICA_EINVAL,
            "errors");
    refused(f, (t = lorica_split_defaults(2, 1), t.max_latency_ratio = 100, t), LORICA_EINVAL,
            "latency");
    refused(f, (t = lorica_split_defaults(2, 1), t.max_latency_ratio = 10001, t), LORICA_EINVAL,
            "latency");
    refused(f, lorica_split_defaults(4, 1), LORICA_ENOTFOUND, "no version 4");
    refused(f, lorica_split_defaults(0, 1), LORICA_ENOTFOUND, "no version 0");
    refused(f, lorica_split_defaults(1, 1), LORICA_ECONFLICT, "another version");
    assert_int_equal(get(f).epoch, 0);
    assert_int_equal(last_audit(f).seq, before);
}

static void test_split_needs_a_stable_of_the_same_base(void **state) {
    struct fixture *f = *state;
    const struct lorica_split_terms terms = lorica_split_defaults(1, 500);
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version version;
    struct lorica_split split;
    bool existing;
    publish_seed(f, "new", 1, NULL);
    fails(LORICA_ECONFLICT, "points nowhere",
          lorica_registry_split_set(f->registry, "new", &terms, 0, &actor, &split, &err));
    fails(LORICA_ENOTFOUND, "nobody",
          lorica_registry_split_set(f->registry, "nobody", &terms, 0, &actor, &split, &err));
    publish.base_digest.bytes[0] ^= 1;
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    refused(f, lorica_split_defaults(version.version, 1), LORICA_ECONFLICT, "another base");
}

/* The oracle is Python's hashlib with the rule of split.h. */
static void test_places_are_those_of_the_documented_rule(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t version;
        const char *sticky;
        size_t len;
        uint32_t place;
    } known[] = {
        {"cardiology", 2, "alice", 5, 3565},
        {"cardiology", 3, "alice", 5, 1802},
        {"cardiology", 2, "", 0, 6822},
        {"emergency", 2, "alice", 5, 8007},
        {"cardiology", UINT64_MAX, "\0x\0", 3, 8540},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        uint32_t place = 99999;
        assert_int_equal(lorica_split_place(known[i].name, known[i].version, known[i].sticky,
                                            known[i].len, &place),
                         0);
        assert_int_equal(place, known[i].place);
    }
}

#define USERS 20000

/* Counts users of the canary at a share, and that those who had it before still have it. */
static unsigned count_canary(const char *name, uint64_t version, uint32_t share, uint8_t *had) {
    unsigned count = 0;
    for (unsigned i = 0; i < USERS; i++) {
        char user[24];
        uint32_t place;
        snprintf(user, sizeof(user), "user-%u", i);
        assert_int_equal(lorica_split_place(name, version, user, strlen(user), &place), 0);
        assert_true(place < LORICA_SPLIT_WHOLE);
        const bool canary = place < share;
        if (had) {
            assert_true(canary || !had[i]);
            had[i] = canary;
        }
        count += canary;
    }
    return count;
}

/* Within five standard deviations of the binomial distribution: a fair draw misses that once in two
 * million. */
static void test_share_is_what_was_asked_and_grows_without_loss(void **state) {
    (void)state;
    static uint8_t had[USERS];
    static const uint32_t shares[] = {1, 50, 500, 1000, 3333, 5000, 9000, 9999, 10000};
    memset(had, 0, sizeof(had));
    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        const double p = shares[i] / 10000.0;
        const double off = count_canary("cardiology", 2, shares[i], had) - USERS * p;
        assert_true(off * off <= 25 * USERS * p * (1 - p));
    }
    assert_int_equal(count_canary("cardiology", 2, 10000, NULL), USERS);
}

/* Another canary, or the same number of another adapter, goes to other people: of a tenth, a tenth
 * is in both. */
static void test_each_canary_draws_anew(void **state) {
    (void)state;
    unsigned both_versions = 0, both_names = 0;
    for (unsigned i = 0; i < USERS; i++) {
        char user[24];
        uint32_t a, b, c;
        snprintf(user, sizeof(user), "user-%u", i);
        assert_int_equal(lorica_split_place("cardiology", 2, user, strlen(user), &a), 0);
        assert_int_equal(lorica_split_place("cardiology", 3, user, strlen(user), &b), 0);
        assert_int_equal(lorica_split_place("emergency", 2, user, strlen(user), &c), 0);
        both_versions += a < 1000 && b < 1000;
        both_names += a < 1000 && c < 1000;
    }
    const double off_versions = both_versions - USERS * 0.01, off_names = both_names - USERS * 0.01;
    assert_true(off_versions * off_versions <= 25 * USERS * 0.01 * 0.99);
    assert_true(off_names * off_names <= 25 * USERS * 0.01 * 0.99);
}

static void test_resolve_for_obeys_the_split_and_nothing_else(void **state) {
    struct fixture *f = *state;
    set(f, 2, 3000, 0);
    unsigned canaries = 0;
    for (unsigned i = 0; i < 400; i++) {
        char user[24];
        uint32_t place;
        struct lorica_version version;
        snprintf(user, sizeof(user), "u%u", i);
        assert_int_equal(lorica_split_place("cardiology", 2, user, strlen(user), &place), 0);
        const bool canary = place < 3000;
        const enum lorica_split_arm arm = canary ? LORICA_SPLIT_CANARY : LORICA_SPLIT_STABLE;
        canaries += canary;
        assert_int_equal(answering(f, "cardiology", user, arm), canary ? 2 : 1);
        assert_int_equal(answering(f, "cardiology:stable", user, arm), canary ? 2 : 1);
        assert_int_equal(answering(f, "cardiology:next", user, LORICA_SPLIT_NONE), 3);
        assert_int_equal(answering(f, "cardiology@1", user, LORICA_SPLIT_NONE), 1);
        assert_int_equal(answering(f, "cardiology@2", user, LORICA_SPLIT_NONE), 2);
        ok(lorica_registry_resolve(f->registry, "cardiology", &version, &err));
        assert_int_equal(version.version, 1);
    }
    assert_in_range(canaries, 60, 200);
    struct lorica_version version;
    struct lorica_split_choice choice;
    fails(
        LORICA_ENOTFOUND, "no version 9",
        lorica_registry_resolve_for(f->registry, "cardiology@9", "a", 1, &version, &choice, &err));
    fails(LORICA_ENOTFOUND, "nobody",
          lorica_registry_resolve_for(f->registry, "nobody", "a", 1, &version, &choice, &err));
}

static void test_choice_tells_the_terms_and_both_arms(void **state) {
    struct fixture *f = *state;
    struct lorica_version version;
    struct lorica_split_choice choice;
    const struct lorica_split split = set(f, 3, 10000, 0);
    ok(lorica_registry_resolve_for(f->registry, "cardiology", NULL, 0, &version, &choice, &err));
    assert_int_equal(version.version, 3);
    assert_string_equal(version.name, "cardiology");
    assert_int_equal(choice.arm, LORICA_SPLIT_CANARY);
    assert_int_equal(choice.stable, 1);
    assert_int_equal(choice.epoch, 1);
    assert_true(lorica_split_terms_equal(&choice.terms, &split.terms));
}

/* The move, and right behind it the end of the split with its reason. */
static void ended_by_move(struct fixture *f, uint64_t move, uint64_t target, const char *reason) {
    const struct lorica_audit audit = last_audit(f);
    const struct lorica_split split = get(f);
    assert_int_equal(split.terms.version, 0);
    assert_int_equal(split.stable, target);
    assert_int_equal(audit.kind, LORICA_AUDIT_SPLIT);
    assert_int_equal(audit.seq, move + 1);
    assert_int_equal(audit.version, 0);
    assert_int_equal(audit.previous, target);
    assert_string_equal(audit.message, reason);
    assert_string_equal(audit.actor, "tester");
    assert_int_equal(answering(f, "cardiology", "alice", LORICA_SPLIT_NONE), target);
    assert_clean(f->registry);
}

static void test_promote_of_the_canary_ends_the_split(void **state) {
    struct fixture *f = *state;
    const struct lorica_split split = set(f, 2, 5000, 0);
    promote(f, "cardiology", 2);
    ended_by_move(f, split.seq + 1, 2, "ended: the canary, version 2, became stable");
}

static void test_other_moves_of_stable_end_the_split(void **state) {
    struct fixture *f = *state;
    struct lorica_split split = set(f, 2, 5000, 0);
    promote(f, "cardiology", 3);
    ended_by_move(f, split.seq + 1, 3, "ended: version 3 became stable");
    split = set(f, 2, 5000, 2);
    assert_int_equal(rollback(f, "cardiology"), 1);
    ended_by_move(f, split.seq + 1, 1, "ended: stable was rolled back to version 1");
    split = set(f, 2, 5000, 4);
    assert_int_equal(publish_seed(f, "cardiology", 3, "stable"), 3);
    ended_by_move(f, split.seq + 1, 3, "ended: version 3 became stable");
}

static void test_moves_of_other_channels_leave_the_split(void **state) {
    struct fixture *f = *state;
    struct lorica_channel channel;
    set(f, 2, 5000, 0);
    ok(lorica_registry_promote(f->registry, "cardiology", "next", 1, 0, true, &actor, &channel,
                               &err));
    ok(lorica_registry_rollback(f->registry, "cardiology", "next", &actor, &channel, &err));
    publish_seed(f, "emergency", 1, "stable");
    assert_int_equal(get(f).terms.version, 2);
    assert_clean(f->registry);
}

static void assert_found(struct fixture *f, const char *words) {
    struct lorica_buf report;
    uint64_t findings = 0;
    lorica_buf_init(&report, 1 << 20);
    ok(lorica_registry_verify(f->registry, &report, &findings, &err));
    assert_true(findings > 0);
    if (!strstr(report.data, words))
        print_error("no \"%s\" in:\n%s\n", words, report.data);
    assert_non_null(strstr(report.data, words));
    lorica_buf_finish(&report);
}

/* Replaces the stored split by what `change` makes of it; NULL: removes it. */
static void tamper(struct fixture *f, void (*change)(struct lorica_split_record *)) {
    struct lorica_txn *txn;
    struct lorica_record_key key;
    struct lorica_split_record split;
    struct lorica_record record;
    lorica_record_key_name("cardiology", &key);
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    ok(lorica_split_read(txn, "cardiology", &split, &err));
    if (change) {
        change(&split);
        ok(lorica_record_encode_split(&split, &record));
        ok(lorica_store_put(txn, LORICA_TABLE_SPLIT, lorica_slice_key(&key),
                            lorica_slice_record(&record), &err));
    } else {
        ok(lorica_store_delete(txn, LORICA_TABLE_SPLIT, lorica_slice_key(&key), &err));
    }
    ok(lorica_store_commit(txn, &err));
}

static void widen(struct lorica_split_record *split) { split->terms.share = 10000; }
static void redirect(struct lorica_split_record *split) { split->terms.version = 3; }
static void relax(struct lorica_split_record *split) { split->terms.max_error_excess = 10000; }
static void age(struct lorica_split_record *split) { split->epoch++; }
static void spoil(struct lorica_split_record *split) { split->first = 0; }
static void lose_canary(struct lorica_split_record *split) { split->terms.version = 9; }

static void test_verify_names_a_split_that_was_tampered_with(void **state) {
    static void (*const changes[])(struct lorica_split_record *) = {widen, redirect, relax, age};
    struct fixture *f = *state;
    set(f, 2, 500, 0);
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        tamper(f, changes[i]);
        assert_found(f, "the split of cardiology stands at epoch");
        tamper(f, NULL);
        assert_found(f, "there are 0 splits, the other records say 1");
        fixture_teardown(state);
        setup_three(state);
        f = *state;
        set(f, 2, 500, 0);
    }
    tamper(f, lose_canary);
    assert_found(f, "one of them is gone");
    tamper(f, spoil);
    assert_found(f, "the split of cardiology cannot be read");
}

/* A move of stable without the end of the split, as a program with a fault would write it. */
static void test_verify_names_a_split_that_outlived_a_move(void **state) {
    struct fixture *f = *state;
    struct lorica_audit audit = {.kind = LORICA_AUDIT_PROMOTE,
                                 .name = "cardiology",
                                 .channel = "stable",
                                 .version = 3,
                                 .previous = 1,
                                 .epoch = 2,
                                 .before = 2};
    struct lorica_channel_record moved = {.version = 3, .epoch = 2};
    struct lorica_record record;
    struct lorica_record_key key;
    struct lorica_txn *txn;
    set(f, 2, 500, 0);
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    ok(lorica_audit_append(txn, &actor, &audit, &err));
    moved.seq = audit.seq;
    ok(lorica_record_encode_channel(&moved, &record));
    lorica_record_key_channel("cardiology", "stable", &key);
    ok(lorica_store_put(txn, LORICA_TABLE_CHANNEL, lorica_slice_key(&key),
                        lorica_slice_record(&record), &err));
    ok(lorica_store_commit(txn, &err));
    assert_found(f, "the split of cardiology outlived the move");
}

/* A record that does not follow from the one before: its terms, or the version it names. */
static void append_split(struct fixture *f, uint64_t version, const char *detail) {
    struct lorica_audit audit = {.kind = LORICA_AUDIT_SPLIT,
                                 .name = "cardiology",
                                 .channel = "stable",
                                 .version = version,
                                 .previous = 1,
                                 .epoch = 2};
    struct lorica_txn *txn;
    memcpy(audit.detail, detail, strlen(detail) + 1);
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    ok(lorica_audit_append(txn, &actor, &audit, &err));
    ok(lorica_store_commit(txn, &err));
}

static void test_verify_names_a_record_that_does_not_follow(void **state) {
    static const char *const details[] = {
        "", "{", "{\"before\":null,\"after\":null}",
        ("{\"before\":{\"version\":2,\"share\":500,\"window_s\":300,\"min_requests\":50,"
         "\"max_error_excess\":200,\"max_latency_ratio\":150},\"after\":{\"version\":3,\"x\":1}}")};
    for (size_t i = 0; i < sizeof(details) / sizeof(details[0]); i++) {
        struct fixture *f = *state;
        set(f, 2, 500, 0);
        append_split(f, i < 3 ? 0 : 2, details[i]);
        assert_found(f, "does not follow from the split of cardiology");
        fixture_teardown(state);
        setup_three(state);
    }
}

#define with_three(test) cmocka_unit_test_setup_teardown(test, setup_three, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_three(test_no_split_says_so),
        with_three(test_set_change_and_end_are_kept_and_recorded),
        with_three(test_epoch_guards_every_change),
        with_three(test_terms_out_of_range_refused),
        with_three(test_split_needs_a_stable_of_the_same_base),
        cmocka_unit_test(test_places_are_those_of_the_documented_rule),
        cmocka_unit_test(test_share_is_what_was_asked_and_grows_without_loss),
        cmocka_unit_test(test_each_canary_draws_anew),
        with_three(test_resolve_for_obeys_the_split_and_nothing_else),
        with_three(test_choice_tells_the_terms_and_both_arms),
        with_three(test_promote_of_the_canary_ends_the_split),
        with_three(test_other_moves_of_stable_end_the_split),
        with_three(test_moves_of_other_channels_leave_the_split),
        with_three(test_verify_names_a_split_that_was_tampered_with),
        with_three(test_verify_names_a_split_that_outlived_a_move),
        with_three(test_verify_names_a_record_that_does_not_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
