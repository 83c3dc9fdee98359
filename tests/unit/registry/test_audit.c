/* SPDX-License-Identifier: MIT
 * Finding records in the chain: every question against a plain look at all of them. */
#include "fixture.h"

#include "registry/refused.h"

#define MOST 200

struct found {
    struct lorica_audit *records;
    size_t count, limit;
};

static int keep(void *arg, const struct lorica_audit *record) {
    struct found *found = arg;
    if (found->count == found->limit)
        return 1;
    found->records[found->count++] = *record;
    return 0;
}

/* Makes a chain of two adapters, three actors and several kinds. */
static void fill(struct fixture *f) {
    static const char *const names[] = {"ward", "ward-2"};
    for (unsigned i = 0; i < 60; i++) {
        const struct lorica_actor who = {.key_name = i % 3 ? "anna" : "ben"};
        const char *name = names[i % 5 == 0];
        struct lorica_channel channel;
        if (i < 6) {
            publish_seed(f, name, i, NULL);
        } else if (i % 4) {
            ok(lorica_registry_promote(f->registry, name, "stable", 1, 0, true, &who, &channel,
                                       &err));
        } else {
            const struct lorica_refusal refusal = {.attempt = "promote", .name = name};
            ok(lorica_registry_refused(f->registry, &refusal, who.key_name, &err));
        }
        if (i % 20 == 0)
            usleep(2000); /* so that times differ */
    }
}

static bool wanted(const struct lorica_audit_query *q, const struct lorica_audit *r) {
    return r->seq > q->after && (!q->before || r->seq < q->before) && r->time_ms >= q->since_ms &&
           (!q->until_ms || r->time_ms < q->until_ms) &&
           (!q->name || strcmp(r->name, q->name) == 0) &&
           (!q->actor || strcmp(r->actor, q->actor) == 0) &&
           (!q->kind || strcmp(lorica_audit_kind_name(r->kind), q->kind) == 0);
}

/* Asks in steps of `scan` records, and holds the whole against the plain look. */
static void check(struct fixture *f, const struct found *all, struct lorica_audit_query q,
                  size_t scan) {
    static struct lorica_audit records[MOST];
    const struct lorica_audit_query asked = q;
    struct found found = {.records = records, .limit = MOST};
    uint64_t *cursor = q.newest_first ? &q.before : &q.after, begin;
    size_t at = 0;
    do {
        begin = *cursor;
        ok(lorica_registry_audit_find(f->registry, &q, scan, keep, &found, cursor, &err));
    } while (*cursor != begin);
    for (size_t i = 0; i < all->count; i++) {
        const struct lorica_audit *r = &all->records[asked.newest_first ? all->count - 1 - i : i];
        if (!wanted(&asked, r))
            continue;
        assert_true(at < found.count);
        assert_int_equal(found.records[at++].seq, r->seq);
    }
    assert_int_equal(at, found.count);
}

static void test_find_agrees_with_a_plain_look(void **state) {
    struct fixture *f = *state;
    static struct lorica_audit everything[MOST];
    struct found all = {.records = everything, .limit = MOST};
    fill(f);
    ok(lorica_registry_audit(f->registry, NULL, 0, MOST, keep, &all, &err));
    assert_true(all.count >= 60 && all.count < MOST);
    const int64_t middle = everything[all.count / 2].time_ms;
    static const char *const names[] = {NULL, "ward", "ward-2", "nobody", "No Name"};
    static const char *const actors[] = {NULL, "anna", "ben", "carl"};
    static const char *const kinds[] = {NULL, "refused", "publish"};
    static const struct {
        uint64_t after, before;
    } ranges[] = {{0, 0},    {10, 0},   {0, 40}, {10, 40},        {39, 40},       {40, 10},
                  {1000, 0}, {0, 1000}, {0, 1},  {UINT64_MAX, 0}, {0, UINT64_MAX}};
    for (unsigned n = 0; n < 5; n++)
        for (unsigned a = 0; a < 4; a++)
            for (unsigned k = 0; k < 3; k++)
                for (unsigned r = 0; r < sizeof(ranges) / sizeof(ranges[0]); r++)
                    for (unsigned bits = 0; bits < 8; bits++) {
                        const struct lorica_audit_query q = {.name = names[n],
                                                             .actor = actors[a],
                                                             .kind = kinds[k],
                                                             .after = ranges[r].after,
                                                             .before = ranges[r].before,
                                                             .newest_first = bits & 1,
                                                             .since_ms = bits & 2 ? middle : 0,
                                                             .until_ms = bits & 4 ? middle : 0};
                        check(f, &all, q, bits & 1 ? 7 : 1000);
                        check(f, &all, q, 1);
                    }
}

/* Few are wanted: the walk still ends after as many as it may look at, and says where. */
static void test_find_is_bounded_and_goes_on(void **state) {
    struct fixture *f = *state;
    static struct lorica_audit records[MOST];
    struct found found = {.records = records, .limit = 2};
    struct lorica_audit_query q = {.kind = "rollback"};
    fill(f);
    ok(lorica_registry_audit_find(f->registry, &q, 10, keep, &found, &q.after, &err));
    assert_int_equal(q.after, 10);
    assert_int_equal(found.count, 0);
    q = (struct lorica_audit_query){.name = "ward"};
    struct lorica_error err = {0};
    assert_int_equal(lorica_registry_audit_find(f->registry, &q, 50, keep, &found, &q.after, &err),
                     1);
    assert_int_equal(found.count, 2);
    assert_int_equal(q.after, records[1].seq); /* the one that did not fit comes again */
}

#define with_registry(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_registry(test_find_agrees_with_a_plain_look),
        with_registry(test_find_is_bounded_and_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
