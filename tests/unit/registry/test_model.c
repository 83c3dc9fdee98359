/* SPDX-License-Identifier: MIT
 * A random history of publishes, promotes, rollbacks, splits, deletes, undeletes and sweeps, held
 * against a model in memory that knows only the rules of registry.h, split.h and retire.h.
 * LORICA_MODEL_OPS and LORICA_MODEL_SEED vary it. */
#include "fixture.h"

#include "registry/retire.h"
#include "registry/split.h"

#define NAMES 4
#define CONTENTS 40
#define CHANNELS 2
#define VERSIONS 4096 /* of one name, at most */

static const char *const names[NAMES] = {"cardiology", "cardiology-2", "emergency", "paediatrics"};
static const char *const channels[CHANNELS] = {"canary", "stable"};

struct model_channel {
    uint64_t stack[4096]; /* versions, the live one on top */
    size_t depth;
    uint64_t epoch;
};

struct model_adapter {
    uint64_t latest;
    uint64_t by_content[CONTENTS]; /* live version; 0: none */
    struct {
        size_t content;
        bool deleted, swept;
    } versions[VERSIONS];
    struct model_channel channels[CHANNELS];
    uint64_t canary, split_epoch; /* 0: no split */
};

#define STABLE 1 /* its place among the channels */

struct model {
    struct model_adapter adapters[NAMES];
    uint64_t records; /* in the audit chain */
    uint64_t random;
};

static uint64_t draw(struct model *model, uint64_t bound) {
    model->random ^= model->random << 13;
    model->random ^= model->random >> 7;
    model->random ^= model->random << 17;
    return model->random % bound;
}

/* A move of stable ends a split, in a record of its own. */
static void model_end_split(struct model *model, struct model_adapter *adapter, size_t channel) {
    if (channel != STABLE || !adapter->canary)
        return;
    adapter->canary = 0;
    adapter->split_epoch++;
    model->records++;
}

static void model_move(struct model *model, struct model_channel *channel, uint64_t version) {
    if (!channel->depth || channel->stack[channel->depth - 1] != version) {
        assert_true(channel->depth < sizeof(channel->stack) / sizeof(channel->stack[0]));
        channel->stack[channel->depth++] = version;
    }
    channel->epoch++;
    model->records++;
}

static void check_channel(const struct model_channel *expected, const struct lorica_channel *got) {
    assert_int_equal(got->version, expected->depth ? expected->stack[expected->depth - 1] : 0);
    assert_int_equal(got->epoch, expected->epoch);
}

static void do_publish(struct fixture *f, struct model *model) {
    size_t name = draw(model, NAMES), content = draw(model, CONTENTS), channel = draw(model, 3);
    struct model_adapter *adapter = &model->adapters[name];
    struct lorica_publish publish = publish_of(names[name], f->weights);
    struct lorica_version version;
    bool existing, expected = adapter->by_content[content] != 0;
    publish.channel = channel < CHANNELS ? channels[channel] : NULL;
    write_seeded(f->weights, content, 100 + content);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    assert_int_equal(existing, expected);
    if (!expected) {
        adapter->by_content[content] = ++adapter->latest;
        assert_true(adapter->latest < VERSIONS);
        adapter->versions[adapter->latest].content = content;
        model->records++;
    }
    assert_int_equal(version.version, adapter->by_content[content]);
    if (channel < CHANNELS) {
        struct model_channel *moved = &adapter->channels[channel];
        if (!moved->depth || moved->stack[moved->depth - 1] != version.version) {
            model_move(model, moved, version.version);
            model_end_split(model, adapter, channel);
        }
    }
}

static void do_promote(struct fixture *f, struct model *model) {
    size_t name = draw(model, NAMES), channel = draw(model, CHANNELS);
    struct model_adapter *adapter = &model->adapters[name];
    struct model_channel *expected = &adapter->channels[channel];
    uint64_t version = 1 + draw(model, adapter->latest + 1);
    uint64_t epoch = expected->epoch + (draw(model, 4) == 0);
    struct lorica_channel got;
    struct lorica_error err = {0};
    int rc = lorica_registry_promote(f->registry, names[name], channels[channel], version, epoch,
                                     false, &actor, &got, &err);
    if (version > adapter->latest || adapter->versions[version].deleted) {
        assert_int_equal(rc, LORICA_ENOTFOUND);
    } else if (epoch != expected->epoch) {
        assert_int_equal(rc, LORICA_EPRECOND);
    } else {
        assert_int_equal(rc, 0);
        model_move(model, expected, version);
        model_end_split(model, adapter, channel);
        check_channel(expected, &got);
    }
}

/* 0: there is nothing to go back to. */
static size_t depth_after_rollback(const struct model_adapter *adapter,
                                   const struct model_channel *channel) {
    if (!channel->depth)
        return 0;
    for (size_t depth = channel->depth - 1; depth > 0; depth--) {
        const uint64_t version = channel->stack[depth - 1];
        if (version != channel->stack[channel->depth - 1] && !adapter->versions[version].deleted)
            return depth;
    }
    return 0;
}

static void do_rollback(struct fixture *f, struct model *model) {
    size_t name = draw(model, NAMES), channel = draw(model, CHANNELS);
    struct model_channel *expected = &model->adapters[name].channels[channel];
    struct lorica_channel got;
    struct lorica_error err = {0};
    size_t depth = depth_after_rollback(&model->adapters[name], expected);
    int rc =
        lorica_registry_rollback(f->registry, names[name], channels[channel], &actor, &got, &err);
    if (model->adapters[name].latest == 0) {
        assert_int_equal(rc, LORICA_ENOTFOUND);
    } else if (depth == 0) {
        assert_int_equal(rc, LORICA_ECONFLICT);
    } else {
        assert_int_equal(rc, 0);
        expected->depth = depth;
        expected->epoch++;
        model->records++;
        model_end_split(model, &model->adapters[name], channel);
        check_channel(expected, &got);
    }
}

static void check_split(const struct model_adapter *adapter, const struct lorica_split *got) {
    assert_int_equal(got->terms.version, adapter->canary);
    assert_int_equal(got->epoch, adapter->split_epoch);
}

static void do_split(struct fixture *f, struct model *model) {
    size_t name = draw(model, NAMES);
    struct model_adapter *adapter = &model->adapters[name];
    const struct model_channel *stable = &adapter->channels[STABLE];
    const uint64_t live = stable->depth ? stable->stack[stable->depth - 1] : 0;
    const uint64_t version = 1 + draw(model, adapter->latest + 1);
    const uint64_t epoch = adapter->split_epoch + (draw(model, 4) == 0);
    const struct lorica_split_terms terms =
        lorica_split_defaults(version, 1 + (uint32_t)draw(model, LORICA_SPLIT_WHOLE));
    struct lorica_split got;
    struct lorica_error err = {0};
    const int rc =
        lorica_registry_split_set(f->registry, names[name], &terms, epoch, &actor, &got, &err);
    if (version > adapter->latest || adapter->versions[version].deleted) {
        assert_int_equal(rc, LORICA_ENOTFOUND);
    } else if (live == 0 || live == version) {
        assert_int_equal(rc, LORICA_ECONFLICT);
    } else if (epoch != adapter->split_epoch) {
        assert_int_equal(rc, LORICA_EPRECOND);
    } else {
        assert_int_equal(rc, 0);
        adapter->canary = version;
        adapter->split_epoch++;
        model->records++;
        check_split(adapter, &got);
    }
}

static void do_split_end(struct fixture *f, struct model *model) {
    size_t name = draw(model, NAMES);
    struct model_adapter *adapter = &model->adapters[name];
    struct lorica_split got;
    struct lorica_error err = {0};
    const int rc = lorica_registry_split_end(f->registry, names[name], NULL, &actor, &got, &err);
    if (adapter->latest == 0) {
        assert_int_equal(rc, LORICA_ENOTFOUND);
    } else if (adapter->canary == 0) {
        assert_int_equal(rc, LORICA_ECONFLICT);
    } else {
        assert_int_equal(rc, 0);
        adapter->canary = 0;
        adapter->split_epoch++;
        model->records++;
        check_split(adapter, &got);
    }
}

static bool is_held(const struct model_adapter *adapter, uint64_t version) {
    for (size_t i = 0; i < CHANNELS; i++)
        if (adapter->channels[i].depth &&
            adapter->channels[i].stack[adapter->channels[i].depth - 1] == version)
            return true;
    return adapter->canary == version;
}

static void do_delete(struct fixture *f, struct model *model) {
    size_t name = draw(model, NAMES);
    struct model_adapter *adapter = &model->adapters[name];
    uint64_t version = 1 + draw(model, adapter->latest + 1);
    struct lorica_version got;
    struct lorica_error err = {0};
    int rc = lorica_registry_delete(f->registry, names[name], version, &actor, &got, &err);
    if (version > adapter->latest || adapter->versions[version].deleted) {
        assert_int_equal(rc, LORICA_ENOTFOUND);
    } else if (is_held(adapter, version)) {
        assert_int_equal(rc, LORICA_ECONFLICT);
    } else {
        assert_int_equal(rc, 0);
        adapter->versions[version].deleted = true;
        adapter->by_content[adapter->versions[version].content] = 0;
        model->records++;
    }
}

static void do_undelete(struct fixture *f, struct model *model) {
    size_t name = draw(model, NAMES);
    struct model_adapter *adapter = &model->adapters[name];
    uint64_t version = 1 + draw(model, adapter->latest + 1);
    uint64_t *holder = &adapter->by_content[adapter->versions[version].content];
    struct lorica_version got;
    struct lorica_error err = {0};
    int rc = lorica_registry_undelete(f->registry, names[name], version, &actor, &got, &err);
    if (version > adapter->latest) {
        assert_int_equal(rc, LORICA_ENOTFOUND);
    } else if (!adapter->versions[version].deleted || adapter->versions[version].swept || *holder) {
        assert_int_equal(rc, LORICA_ECONFLICT);
    } else {
        assert_int_equal(rc, 0);
        adapter->versions[version].deleted = false;
        *holder = version;
        model->records++;
    }
}

/* All tombstones at once: one record for each name that has some, as these are few. */
static void do_sweep(struct fixture *f, struct model *model) {
    struct lorica_sweep stats = {0};
    uint64_t expected = 0;
    bool more;
    for (size_t name = 0; name < NAMES; name++) {
        struct model_adapter *adapter = &model->adapters[name];
        bool any = false;
        for (uint64_t version = 1; version <= adapter->latest; version++) {
            if (!adapter->versions[version].deleted || adapter->versions[version].swept)
                continue;
            adapter->versions[version].swept = any = true;
            expected++;
        }
        model->records += any;
    }
    assert_true(expected <= 64);
    ok(lorica_registry_sweep_step(f->registry, INT64_MAX, &actor, &stats, &more, &err));
    assert_int_equal(stats.versions, expected);
    assert_int_equal(more, expected > 0);
}

static int check_version(void *arg, const struct lorica_version *version) {
    const struct model_adapter *adapter = arg;
    assert_int_equal(version->deleted_ms != 0, adapter->versions[version->version].deleted);
    assert_int_equal(version->swept, adapter->versions[version->version].swept);
    return 0;
}

static int last_seq(void *arg, const struct lorica_audit *audit) {
    *(uint64_t *)arg = audit->seq;
    return 0;
}

static void check_all(struct fixture *f, const struct model *model) {
    uint64_t seq = 0;
    for (size_t name = 0; name < NAMES; name++) {
        const struct model_adapter *adapter = &model->adapters[name];
        uint64_t latest;
        ok(lorica_registry_latest(f->registry, names[name], &latest, &err));
        assert_int_equal(latest, adapter->latest);
        if (latest)
            ok(lorica_registry_versions(f->registry, names[name], check_version, (void *)adapter,
                                        &err));
        for (size_t channel = 0; latest && channel < CHANNELS; channel++) {
            struct lorica_channel got;
            ok(lorica_registry_channel(f->registry, names[name], channels[channel], &got, &err));
            check_channel(&adapter->channels[channel], &got);
        }
        if (latest) {
            struct lorica_split split;
            ok(lorica_registry_split_get(f->registry, names[name], &split, &err));
            check_split(adapter, &split);
        }
    }
    ok(lorica_registry_audit(f->registry, NULL, 0, SIZE_MAX, last_seq, &seq, &err));
    assert_int_equal(seq, model->records);
    assert_clean(f->registry);
}

static uint64_t from_environment(const char *name, uint64_t fallback) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : fallback;
}

static void test_random_history_equals_model(void **state) {
    struct fixture *f = *state;
    uint64_t ops = from_environment("LORICA_MODEL_OPS", 2000);
    uint64_t seed = from_environment("LORICA_MODEL_SEED", 20261124);
    struct model *model = calloc(1, sizeof(*model));
    assert_non_null(model);
    print_message("seed %llu, %llu operations\n", (unsigned long long)seed,
                  (unsigned long long)ops);
    model->random = seed | 1;
    for (uint64_t i = 0; i < ops; i++) {
        uint64_t kind = draw(model, 52);
        if (kind < 12)
            do_publish(f, model);
        else if (kind < 24)
            do_promote(f, model);
        else if (kind < 32)
            do_rollback(f, model);
        else if (kind < 40)
            do_split(f, model);
        else if (kind < 44)
            do_split_end(f, model);
        else if (kind < 48)
            do_delete(f, model);
        else if (kind < 51)
            do_undelete(f, model);
        else
            do_sweep(f, model);
        if (i % 500 == 499) {
            check_all(f, model);
            fixture_reopen(f);
        }
    }
    check_all(f, model);
    free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_random_history_equals_model, fixture_setup,
                                        fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
