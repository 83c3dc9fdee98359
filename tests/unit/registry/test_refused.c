/* SPDX-License-Identifier: MIT
 * Records of attempts that were refused: what stands in them, where they are found, and that the
 * walk of everything takes them. */
#include "fixture.h"

#include "registry/refused.h"

struct found {
    struct lorica_audit records[16];
    size_t count;
};

static int keep(void *arg, const struct lorica_audit *record) {
    struct found *found = arg;
    assert_true(found->count < 16);
    found->records[found->count++] = *record;
    return 0;
}

static struct found read_audit(struct fixture *f, const char *name) {
    struct found found = {.count = 0};
    ok(lorica_registry_audit(f->registry, name, 0, 16, keep, &found, &err));
    return found;
}

static void refuse(struct fixture *f, const struct lorica_refusal *refusal) {
    ok(lorica_registry_refused(f->registry, refusal, "app", &err));
}

static void test_refused_says_who_what_and_why(void **state) {
    struct fixture *f = *state;
    publish_seed(f, "cardiology", 1, "stable");
    refuse(f, &(struct lorica_refusal){.attempt = "promote",
                                       .name = "cardiology",
                                       .channel = "stable",
                                       .version = 7,
                                       .status = 409,
                                       .code = "policy_not_met",
                                       .why = "rank 64 is over 16"});
    const struct found found = read_audit(f, "cardiology");
    const struct lorica_audit *last = &found.records[found.count - 1];
    assert_int_equal(found.count, 3);
    assert_string_equal(lorica_audit_kind_name(last->kind), "refused");
    assert_string_equal(last->actor, "app");
    assert_string_equal(last->name, "cardiology");
    assert_string_equal(last->channel, "stable");
    assert_int_equal(last->version, 7);
    assert_int_equal(last->epoch, 0);
    assert_string_equal(last->message, "rank 64 is over 16");
    assert_string_equal(last->detail,
                        "{\"attempt\":\"promote\",\"status\":409,\"code\":\"policy_not_met\"}");
    assert_clean(f->registry);
    struct lorica_channel channel; /* no move was made of it */
    fails(LORICA_ECONFLICT, "nothing was live",
          lorica_registry_rollback(f->registry, "cardiology", "stable", &actor, &channel, &err));
}

/* Of an adapter that there is not yet: its history has it once there is one. */
static void test_refused_of_an_unknown_adapter_waits_for_it(void **state) {
    struct fixture *f = *state;
    refuse(f, &(struct lorica_refusal){.attempt = "publish", .name = "later", .status = 403});
    assert_clean(f->registry);
    publish_seed(f, "later", 1, NULL);
    const struct found found = read_audit(f, "later");
    assert_int_equal(found.count, 2);
    assert_int_equal(found.records[0].kind, LORICA_AUDIT_REFUSED);
    assert_string_equal(found.records[0].detail,
                        "{\"attempt\":\"publish\",\"status\":403,\"code\":null}");
    assert_clean(f->registry);
}

static void test_refused_texts_that_cannot_stand_are_cleaned(void **state) {
    struct fixture *f = *state;
    char why[2000], subject[300];
    memset(why, 'x', sizeof(why));
    memcpy(why + 999, "\xC3\xA9", 2); /* a letter of two bytes that the cut goes through */
    why[sizeof(why) - 1] = '\0';
    memset(subject, '"', sizeof(subject)); /* twice as long in JSON */
    subject[sizeof(subject) - 1] = '\0';
    refuse(f, &(struct lorica_refusal){
                  .attempt = "key-create", .subject = subject, .status = 403, .why = why});
    refuse(f, &(struct lorica_refusal){.attempt = "sweep",
                                       .name = "No Name!",
                                       .channel = "../up",
                                       .status = 403,
                                       .why = "line\nbell\a \xff\xfe end"});
    const struct found found = read_audit(f, NULL);
    assert_int_equal(found.count, 2);
    assert_int_equal(strlen(found.records[0].message), 999);
    assert_non_null(strstr(found.records[0].message, "xxx"));
    assert_string_equal(found.records[0].name, "");
    assert_non_null(strstr(found.records[0].detail, "\"subject\":\"\\\""));
    assert_string_equal(found.records[1].name, "");
    assert_string_equal(found.records[1].channel, "");
    assert_string_equal(found.records[1].message, "line?bell? ?? end");
    assert_clean(f->registry);
}

static void test_refused_more_counts(void **state) {
    struct fixture *f = *state;
    ok(lorica_registry_refused_more(f->registry, "app", 37, 1700000000123, 1700000060456, &err));
    const struct found found = read_audit(f, NULL);
    assert_int_equal(found.count, 1);
    assert_string_equal(found.records[0].message, "refused 37 more times");
    assert_string_equal(found.records[0].detail,
                        "{\"refused\":37,\"from\":1700000000,\"to\":1700000060}");
    assert_clean(f->registry);
    fixture_reopen(f);
    assert_clean(f->registry);
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_registry(test_refused_says_who_what_and_why),
        with_registry(test_refused_of_an_unknown_adapter_waits_for_it),
        with_registry(test_refused_texts_that_cannot_stand_are_cleaned),
        with_registry(test_refused_more_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
