/* SPDX-License-Identifier: MIT
 * Each gate of a channel's policy at its limit and one over, approvals and what voids them, and
 * what the walk says of policies and approvals that were changed behind the chain. */
#include "fixture.h"

#include <math.h>

#include "registry/internal.h"
#include "registry/policy.h"
#include "registry/split.h"

static const struct lorica_actor anna = {.key_name = "anna", .role = LORICA_ROLE_OPS};
static const struct lorica_actor ben = {.key_name = "ben", .role = LORICA_ROLE_OPS};
static const struct lorica_actor chief = {.key_name = "chief", .role = LORICA_ROLE_ADMIN};

/* Publishes content of its own with a rank and a manifest (NULL: none). */
static int publish_facts(struct fixture *f, uint32_t rank, const char *manifest,
                         const char *channel, const struct lorica_actor *who, uint64_t *ret,
                         struct lorica_error *err) {
    static uint64_t seed = 100;
    struct lorica_publish publish = publish_of("cardiology", f->weights);
    struct lorica_version version;
    bool existing;
    publish.rank = rank;
    publish.manifest = manifest;
    publish.manifest_len = manifest ? strlen(manifest) : 0;
    publish.channel = channel;
    write_seeded(f->weights, ++seed, 1000);
    const int rc = lorica_registry_publish(f->registry, &publish, who, &version, &existing, err);
    if (!rc && ret)
        *ret = version.version;
    return rc;
}

static uint64_t with_manifest(struct fixture *f, const char *manifest) {
    uint64_t version = 0;
    ok(publish_facts(f, 8, manifest, NULL, &anna, &version, &err));
    return version;
}

static uint64_t set_policy(struct fixture *f, const struct lorica_policy *policy) {
    struct lorica_policy before, after;
    ok(lorica_registry_policy(f->registry, "cardiology", "stable", &before, &err));
    ok(lorica_registry_policy_set(f->registry, "cardiology", "stable", policy, before.epoch, &chief,
                                  &after, &err));
    assert_int_equal(after.epoch, before.epoch + 1);
    return after.epoch;
}

static int move_as(struct fixture *f, const struct lorica_actor *who, uint64_t version,
                   struct lorica_error *err) {
    struct lorica_channel channel;
    return lorica_registry_promote(f->registry, "cardiology", "stable", version, 0, true, who,
                                   &channel, err);
}

static int approve_as(struct fixture *f, const struct lorica_actor *who, uint64_t version,
                      struct lorica_error *err) {
    struct lorica_approval approval;
    return lorica_registry_approve(f->registry, "cardiology", "stable", version, who, &approval,
                                   err);
}

static int setup_three(void **state) {
    fixture_setup(state);
    struct fixture *f = *state;
    for (uint64_t seed = 1; seed <= 3; seed++)
        publish_seed(f, "cardiology", seed, NULL);
    ok(move_as(f, &anna, 1, &err));
    return 0;
}

static int teardown_clean(void **state) {
    const struct fixture *f = *state;
    assert_clean(f->registry);
    return fixture_teardown(state);
}

static int count_record(void *arg, const struct lorica_audit *audit) {
    *(struct lorica_audit *)arg = *audit;
    return 0;
}

/* The last record of the chain. */
static struct lorica_audit last_audit(struct fixture *f) {
    struct lorica_audit audit = {0};
    ok(lorica_registry_audit(f->registry, NULL, 0, SIZE_MAX, count_record, &audit, &err));
    return audit;
}

static uint64_t chain_length(struct fixture *f) { return last_audit(f).seq; }

static void test_policy_unset_demands_nothing(void **state) {
    struct fixture *f = *state;
    struct lorica_policy policy = {.approvals = 9};
    const struct lorica_policy none = {0};
    const struct lorica_actor low = {.key_name = "low", .role = LORICA_ROLE_INFER};
    ok(lorica_registry_policy(f->registry, "cardiology", "stable", &policy, &err));
    assert_memory_equal(&policy, &none, sizeof(none));
    ok(move_as(f, &low, 2, &err));
    fails(LORICA_ENOTFOUND, "nobody",
          lorica_registry_policy(f->registry, "nobody", "stable", &policy, &err));
    fails(LORICA_EINVAL, "channel",
          lorica_registry_policy(f->registry, "cardiology", "Stable", &policy, &err));
}

static void test_policy_set_is_recorded_before_and_after(void **state) {
    struct fixture *f = *state;
    struct lorica_policy policy = {.approvals = 2, .max_rank = 16}, found;
    assert_int_equal(set_policy(f, &policy), 1);
    policy = (struct lorica_policy){.min_role = LORICA_ROLE_ADMIN, .eval_set = "ward-7"};
    assert_int_equal(set_policy(f, &policy), 2);
    struct lorica_audit audit = last_audit(f);
    assert_int_equal(audit.kind, LORICA_AUDIT_POLICY);
    assert_string_equal(audit.actor, "chief");
    assert_string_equal(audit.detail,
                        "{\"before\":{\"approvals\":2,\"min_role\":\"infer\",\"max_rank\":16,"
                        "\"max_bytes\":0,\"eval_set\":null,\"max_worse\":0.0,\"signed\":false,"
                        "\"checks\":0,\"checks_digest\":null},"
                        "\"after\":{\"approvals\":0,\"min_role\":\"admin\",\"max_rank\":0,"
                        "\"max_bytes\":0,\"eval_set\":\"ward-7\",\"max_worse\":0.0,\"signed\":"
                        "false,\"checks\":0,\"checks_digest\":null}}");
    fixture_reopen(f);
    ok(lorica_registry_policy(f->registry, "cardiology", "stable", &found, &err));
    assert_string_equal(found.eval_set, "ward-7");
    assert_int_equal(found.min_role, LORICA_ROLE_ADMIN);
    assert_int_equal(found.epoch, 2);
    assert_int_equal(found.changed_ms, audit.time_ms);
    assert_string_equal(found.changed_by, "chief");
}

static void test_policy_stale_epoch_or_nonsense_changes_nothing(void **state) {
    struct fixture *f = *state;
    struct lorica_policy policy = {.approvals = 2}, ret;
    set_policy(f, &policy);
    const uint64_t before = chain_length(f);
#define SET(epoch)                                                                                 \
    lorica_registry_policy_set(f->registry, "cardiology", "stable", &policy, epoch, &chief, &ret,  \
                               &err)
    fails(LORICA_EPRECOND, "its epoch is 1, not 0", SET(0));
    policy.approvals = LORICA_APPROVALS_MAX + 1;
    fails(LORICA_EINVAL, "at most 32", SET(1));
    policy = (struct lorica_policy){.max_worse = 0.5};
    fails(LORICA_EINVAL, "evaluation set", SET(1));
    policy = (struct lorica_policy){.eval_set = "a", .max_worse = -0.5};
    fails(LORICA_EINVAL, "from 0 on", SET(1));
    policy.max_worse = NAN;
    fails(LORICA_EINVAL, "from 0 on", SET(1));
    policy = (struct lorica_policy){.eval_set = "a\"b"};
    fails(LORICA_EINVAL, "evaluation set", SET(1));
    policy = (struct lorica_policy){.max_nbytes = UINT64_MAX};
    fails(LORICA_EINVAL, "weights", SET(1));
    policy = (struct lorica_policy){.min_role = (enum lorica_role)9};
    fails(LORICA_EINVAL, "role", SET(1));
#undef SET
    assert_int_equal(chain_length(f), before);
    fails(LORICA_EGATE, "1 of 2", move_as(f, &anna, 2, &err));
}

/* What the gateway would say of the checks of stable for a version. */
static struct lorica_checked found_of(struct fixture *f, uint64_t version, uint32_t failed) {
    struct lorica_policy policy;
    struct lorica_version v;
    ok(lorica_registry_policy(f->registry, "cardiology", "stable", &policy, &err));
    ok(lorica_registry_version(f->registry, "cardiology", version, &v, &err));
    return (struct lorica_checked){v.digest, policy.checks_digest, policy.epoch, policy.checks,
                                   failed};
}

static const char two_checks[] = "[{\"prompt\":\"a\",\"must_say\":\"x\"},"
                                 "{\"prompt\":\"b\",\"must_say\":\"y\"}]";

static void test_gate_checks_count_for_exactly_what_they_were_run_for(void **state) {
    struct fixture *f = *state;
    struct lorica_policy policy = {
        .checks = 2, .checks_text = two_checks, .checks_len = strlen(two_checks)};
    set_policy(f, &policy);
    struct lorica_actor who = anna;
    fails(LORICA_EPRECOND, "repeat", move_as(f, &who, 2, &err));
    struct lorica_checked found = found_of(f, 3, 0);
    who.checked = &found;
    fails(LORICA_EPRECOND, "repeat", move_as(f, &who, 2, &err)); /* another content */
    found = found_of(f, 2, 0);
    found.policy_epoch++;
    fails(LORICA_EPRECOND, "repeat", move_as(f, &who, 2, &err)); /* another policy */
    found = found_of(f, 2, 0);
    found.checks.bytes[0] ^= 1;
    fails(LORICA_EPRECOND, "repeat", move_as(f, &who, 2, &err)); /* another list */
    found = found_of(f, 2, 1);
    fails(LORICA_EGATE, "checks: 1 of 2 failed", move_as(f, &who, 2, &err));
    found = found_of(f, 2, 0);
    ok(move_as(f, &who, 2, &err));
    const struct lorica_audit audit = last_audit(f);
    assert_non_null(strstr(audit.detail, "{\"checks\":{\"passed\":2,\"of\":2,\"list\":\"sha256:"));
    struct lorica_channel channel;
    ok(lorica_registry_rollback(f->registry, "cardiology", "stable", &anna, &channel, &err));
}

static void test_checks_are_kept_replaced_and_taken_away(void **state) {
    struct fixture *f = *state;
    struct lorica_policy policy = {.checks = 2,
                                   .checks_text = two_checks,
                                   .checks_len = strlen(two_checks)},
                         now;
    char *text = NULL;
    size_t len = 0;
    set_policy(f, &policy);
    ok(lorica_registry_checks(f->registry, "cardiology", "stable", &now, &text, &len, &err));
    assert_int_equal(now.checks, 2);
    assert_int_equal(len, strlen(two_checks));
    assert_string_equal(text, two_checks);
    free(text);
    set_policy(f, &(struct lorica_policy){.approvals = 2});
    ok(lorica_registry_checks(f->registry, "cardiology", "stable", &now, &text, &len, &err));
    assert_null(text);
    assert_int_equal(now.checks, 0);
    fails(LORICA_EGATE, "1 of 2", move_as(f, &chief, 1, &err));
    policy.checks = 3;
    policy.checks_text = NULL;
    fails(LORICA_EINVAL, "checks",
          lorica_registry_policy_set(f->registry, "cardiology", "stable", &policy, 2, &chief, &now,
                                     &err));
}

static void test_gate_role_below_refused(void **state) {
    struct fixture *f = *state;
    set_policy(f, &(struct lorica_policy){.min_role = LORICA_ROLE_ADMIN});
    fails(LORICA_EPERM, "role admin or above; anna has ops", move_as(f, &anna, 2, &err));
    ok(move_as(f, &chief, 2, &err));
}

static void test_gate_rank_and_size_at_the_limit_pass_one_over_not(void **state) {
    struct fixture *f = *state;
    uint64_t at = 0, over = 0;
    set_policy(f, &(struct lorica_policy){.max_rank = 16});
    ok(publish_facts(f, 16, NULL, NULL, &anna, &at, &err));
    ok(publish_facts(f, 17, NULL, NULL, &anna, &over, &err));
    ok(move_as(f, &anna, at, &err));
    fails(LORICA_EGATE, "rank: 17, at most 16", move_as(f, &anna, over, &err));
    set_policy(f, &(struct lorica_policy){.max_nbytes = 1000});
    ok(move_as(f, &anna, over, &err)); /* its weights have 1000 bytes */
    set_policy(f, &(struct lorica_policy){.max_nbytes = 999});
    fails(LORICA_EGATE, "size: 1000 bytes of weights, at most 999", move_as(f, &anna, at, &err));
}

static void test_gate_eval_compares_with_the_present_version(void **state) {
    struct fixture *f = *state;
    const uint64_t silent = with_manifest(f, "{\"evals\":{\"other\":1},\"eval_loss\":1}");
    const uint64_t first = with_manifest(f, "{\"evals\":{\"ward\":1.5}}");
    const uint64_t equal = with_manifest(f, "{\"eval_set\":\"ward\",\"eval_loss\":1.75}");
    const uint64_t worse = with_manifest(f, "{\"evals\":{\"ward\":1.7500001},\"x\":1}");
    const uint64_t text = with_manifest(f, "{\"evals\":{\"ward\":\"1\"}}");
    const uint64_t odd = with_manifest(f, "not JSON");
    set_policy(f, &(struct lorica_policy){.eval_set = "ward", .max_worse = 0.25});
    for (uint64_t i = 0; i < 4; i++) {
        const uint64_t version[] = {silent, text, odd, 2};
        fails(LORICA_EGATE, "states no loss on ward", move_as(f, &anna, version[i], &err));
    }
    ok(move_as(f, &anna, first, &err)); /* the present version states none: no bar */
    fails(LORICA_EGATE, "eval: its loss on ward is 1.75, over the 1.5 of version 5 by more than",
          move_as(f, &anna, worse, &err));
    ok(move_as(f, &anna, equal, &err));
    ok(move_as(f, &anna, worse, &err)); /* against 1.75 now */
}

static void test_gates_that_fail_are_all_named(void **state) {
    struct fixture *f = *state;
    uint64_t version = 0;
    set_policy(f, &(struct lorica_policy){
                      .approvals = 3, .max_rank = 4, .max_nbytes = 10, .eval_set = "ward"});
    ok(publish_facts(f, 8, NULL, NULL, &anna, &version, &err));
    const char *const words[] = {"rank: 8", "; size: 1000", "; eval: ", "; approvals: 1 of 3"};
    for (size_t i = 0; i < 4; i++)
        fails(LORICA_EGATE, words[i], move_as(f, &anna, version, &err));
}

static void test_publish_with_a_channel_passes_the_gates_or_leaves_nothing(void **state) {
    struct fixture *f = *state;
    uint64_t latest = 0, version = 0;
    set_policy(f, &(struct lorica_policy){.max_rank = 8, .eval_set = "ward"});
    fails(LORICA_EGATE, "eval", publish_facts(f, 8, NULL, "stable", &anna, NULL, &err));
    ok(lorica_registry_latest(f->registry, "cardiology", &latest, &err));
    assert_int_equal(latest, 3);
    ok(publish_facts(f, 8, "{\"evals\":{\"ward\":2}}", "stable", &anna, &version, &err));
    assert_int_equal(version, 4);
    set_policy(f, &(struct lorica_policy){.approvals = 2});
    fails(LORICA_EGATE, "approvals", publish_facts(f, 8, NULL, "stable", &anna, NULL, &err));
    ok(publish_facts(f, 8, NULL, "canary", &anna, NULL, &err));
}

static void test_approvals_of_distinct_keys_let_it_pass(void **state) {
    struct fixture *f = *state;
    set_policy(f, &(struct lorica_policy){.approvals = 2});
    fails(LORICA_EGATE, "1 of 2 keys want it, anna's included", move_as(f, &anna, 2, &err));
    ok(approve_as(f, &anna, 2, &err));
    const uint64_t length = chain_length(f);
    ok(approve_as(f, &anna, 2, &err)); /* again: nothing new */
    assert_int_equal(chain_length(f), length);
    fails(LORICA_EGATE, "1 of 2", move_as(f, &anna, 2, &err));
    ok(approve_as(f, &ben, 3, &err)); /* of another version */
    fails(LORICA_EGATE, "1 of 2", move_as(f, &anna, 2, &err));
    ok(approve_as(f, &ben, 2, &err));
    const struct lorica_audit audit = last_audit(f);
    assert_int_equal(audit.kind, LORICA_AUDIT_APPROVE);
    assert_string_equal(audit.actor, "ben");
    assert_true(audit.version == 2 && audit.previous == 1 && audit.epoch == 1);
    ok(move_as(f, &anna, 2, &err));
    fails(LORICA_ENOTFOUND, "9", approve_as(f, &ben, 9, &err));
}

static void test_approval_of_two_others_suffices_for_three(void **state) {
    struct fixture *f = *state;
    set_policy(f, &(struct lorica_policy){.approvals = 3});
    ok(approve_as(f, &anna, 2, &err));
    ok(approve_as(f, &ben, 2, &err));
    fails(LORICA_EGATE, "2 of 3", move_as(f, &ben, 2, &err));
    ok(move_as(f, &chief, 2, &err));
}

static void test_split_is_no_way_round_what_stable_demands(void **state) {
    struct fixture *f = *state;
    const struct lorica_split_terms terms = lorica_split_defaults(2, 5000);
    struct lorica_split split;
    set_policy(f, &(struct lorica_policy){.approvals = 2});
    fails(LORICA_EGATE, "approvals: 1 of 2",
          lorica_registry_split_set(f->registry, "cardiology", &terms, 0, &anna, &split, &err));
    ok(approve_as(f, &ben, 2, &err));
    ok(lorica_registry_split_set(f->registry, "cardiology", &terms, 0, &anna, &split, &err));
    assert_int_equal(split.terms.version, 2);
}

static int count_approval(void *arg, const struct lorica_approval *approval) {
    ++*(int *)arg;
    return 0;
}

static int approvals_of(struct fixture *f) {
    int count = 0;
    ok(lorica_registry_approvals(f->registry, "cardiology", "stable", count_approval, &count,
                                 &err));
    return count;
}

static void test_any_move_voids_the_approvals(void **state) {
    struct fixture *f = *state;
    struct lorica_channel channel;
    ok(approve_as(f, &ben, 2, &err));
    ok(approve_as(f, &ben, 3, &err));
    ok(lorica_registry_approve(f->registry, "cardiology", "canary", 3, &ben,
                               &(struct lorica_approval){0}, &err));
    assert_int_equal(approvals_of(f), 2);
    ok(move_as(f, &anna, 2, &err));
    assert_int_equal(approvals_of(f), 0);
    set_policy(f, &(struct lorica_policy){.approvals = 2});
    fails(LORICA_EGATE, "1 of 2", move_as(f, &anna, 3, &err));
    ok(approve_as(f, &ben, 3, &err));
    ok(lorica_registry_rollback(f->registry, "cardiology", "stable", &anna, &channel, &err));
    assert_int_equal(channel.version, 1); /* a rollback asks nobody */
    assert_int_equal(approvals_of(f), 0);
    fails(LORICA_EGATE, "1 of 2", move_as(f, &anna, 3, &err));
}

static void test_approval_of_a_revoked_key_does_not_count(void **state) {
    struct fixture *f = *state;
    struct lorica_key key = {.name = "ben", .role = LORICA_ROLE_OPS};
    char text[LORICA_KEY_TEXT];
    ok(lorica_registry_key_create(f->registry, &key, &chief, text, &err));
    set_policy(f, &(struct lorica_policy){.approvals = 2});
    ok(approve_as(f, &ben, 2, &err));
    assert_int_equal(approvals_of(f), 1);
    ok(lorica_registry_key_revoke(f->registry, "ben", &chief, &err));
    assert_int_equal(approvals_of(f), 0);
    fails(LORICA_EGATE, "1 of 2", move_as(f, &anna, 2, &err));
    ok(approve_as(f, &chief, 2, &err));
    ok(move_as(f, &anna, 2, &err));
}

/* What the walk finds. */

static void put(struct fixture *f, enum lorica_table table, const struct lorica_record_key *key,
                const struct lorica_record *value) {
    struct lorica_txn *txn;
    ok(lorica_store_begin(f->registry->store, true, &txn, &err));
    if (value)
        ok(lorica_store_put(txn, table, lorica_slice_key(key), lorica_slice_record(value), &err));
    else
        ok(lorica_store_delete(txn, table, lorica_slice_key(key), &err));
    ok(lorica_store_commit(txn, &err));
}

static void assert_found(struct fixture *f, const char *words) {
    struct lorica_buf report;
    uint64_t findings = 0;
    lorica_buf_init(&report, 1 << 20);
    ok(lorica_registry_verify(f->registry, &report, &findings, &err));
    if (!report.data || !strstr(report.data, words))
        print_error("no \"%s\" in:\n%s\n", words, report.data ? report.data : "");
    assert_non_null(report.data);
    assert_non_null(strstr(report.data, words));
    lorica_buf_finish(&report);
}

static void test_verify_policy_changed_behind_the_chain_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    struct lorica_record record;
    set_policy(f, &(struct lorica_policy){.approvals = 2});
    const uint64_t old = chain_length(f);
    set_policy(f, &(struct lorica_policy){.approvals = 3});
    struct lorica_policy_record forged = {.policy = {.approvals = 1, .epoch = 2}, .seq = old + 1};
    lorica_record_key_channel("cardiology", "stable", &key);
    ok(lorica_record_encode_policy(&forged, &record));
    put(f, LORICA_TABLE_POLICY, &key, &record);
    assert_found(f, "policy of channel stable of cardiology is not as audit record 6 set it");
    forged = (struct lorica_policy_record){.policy = {.approvals = 2, .epoch = 1}, .seq = old};
    ok(lorica_record_encode_policy(&forged, &record)); /* as it once was */
    put(f, LORICA_TABLE_POLICY, &key, &record);
    assert_found(f, "policy of channel stable of cardiology is not as audit record 6 set it");
    put(f, LORICA_TABLE_POLICY, &key, NULL);
    assert_found(f, "there are 0 policies, the other records say 1");
}

static void test_verify_approval_forged_or_gone_named(void **state) {
    struct fixture *f = *state;
    struct lorica_record_key key;
    struct lorica_record record;
    ok(approve_as(f, &anna, 2, &err));
    const struct lorica_approval_record given = {.epoch = 1, .seq = chain_length(f)};
    ok(lorica_record_encode_approval(&given, &record));
    lorica_record_key_approval("cardiology", "stable", 2, "ben", &key);
    put(f, LORICA_TABLE_APPROVAL, &key, &record);
    assert_found(f, "the approval of cardiology@2 for channel stable by ben was never given");
    put(f, LORICA_TABLE_APPROVAL, &key, NULL);
    assert_clean(f->registry);
    lorica_record_key_approval("cardiology", "stable", 2, "anna", &key);
    put(f, LORICA_TABLE_APPROVAL, &key, NULL);
    assert_found(f, "the approval of audit record 5 is gone");
}

static void test_verify_checks_changed_or_gone_or_of_no_policy_named(void **state) {
    struct fixture *f = *state;
    const struct lorica_policy policy = {
        .checks = 2, .checks_text = two_checks, .checks_len = strlen(two_checks)};
    struct lorica_record other = {.bytes = "[]", .len = 2};
    struct lorica_record_key key;
    char *text = NULL;
    size_t len = 0;
    struct lorica_policy now;
    set_policy(f, &policy);
    assert_clean(f->registry);
    lorica_record_key_channel("cardiology", "stable", &key);
    put(f, LORICA_TABLE_CHECKS, &key, &other);
    assert_found(f, "the checks of channel stable of cardiology are not as audit record 5 set");
    fails(LORICA_EFORMAT, "checks",
          lorica_registry_checks(f->registry, "cardiology", "stable", &now, &text, &len, &err));
    put(f, LORICA_TABLE_CHECKS, &key, NULL);
    assert_found(f, "the checks of channel stable of cardiology are not as audit record 5 set");
    lorica_record_key_channel("cardiology", "other", &key);
    put(f, LORICA_TABLE_CHECKS, &key, &other);
    assert_found(f, "there are checks of channel other of cardiology that no policy has");
}

#define with_three(test) cmocka_unit_test_setup_teardown(test, setup_three, teardown_clean)
#define damaging(test) cmocka_unit_test_setup_teardown(test, setup_three, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_three(test_policy_unset_demands_nothing),
        with_three(test_policy_set_is_recorded_before_and_after),
        with_three(test_policy_stale_epoch_or_nonsense_changes_nothing),
        with_three(test_gate_role_below_refused),
        with_three(test_gate_checks_count_for_exactly_what_they_were_run_for),
        with_three(test_checks_are_kept_replaced_and_taken_away),
        with_three(test_gate_rank_and_size_at_the_limit_pass_one_over_not),
        with_three(test_gate_eval_compares_with_the_present_version),
        with_three(test_gates_that_fail_are_all_named),
        with_three(test_publish_with_a_channel_passes_the_gates_or_leaves_nothing),
        with_three(test_approvals_of_distinct_keys_let_it_pass),
        with_three(test_approval_of_two_others_suffices_for_three),
        with_three(test_split_is_no_way_round_what_stable_demands),
        with_three(test_any_move_voids_the_approvals),
        with_three(test_approval_of_a_revoked_key_does_not_count),
        damaging(test_verify_policy_changed_behind_the_chain_named),
        damaging(test_verify_approval_forged_or_gone_named),
        damaging(test_verify_checks_changed_or_gone_or_of_no_policy_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
