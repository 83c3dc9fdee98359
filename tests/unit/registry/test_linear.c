/* SPDX-License-Identifier: MIT
 * Sixteen clients at once. What each was answered, and when, is held against the one order that the
 * audit chain gives: the history is linearizable. 3,000 operations; 100,000 with LORICA_LONG. */
#include "fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#define CLIENTS 16
#define NAMES 3
#define CONTENTS 400

static const char *const names[NAMES] = {"cardiology", "emergency", "paediatrics"};

enum kind { PUBLISH, PROMOTE, ROLLBACK, READ, KINDS };

/* One operation as its client saw it; stamps come from one counter. */
struct event {
    enum kind kind;
    size_t name, content;
    unsigned client;
    uint64_t expected_epoch; /* promote */
    int rc;
    bool existing;
    uint64_t version, epoch, seq;
    uint64_t begin, end;
};

struct client {
    struct run *run;
    unsigned number;
    uint64_t random;
    struct event *events;
    size_t count;
};

struct run {
    struct fixture *f;
    atomic_ullong clock;
    struct client clients[CLIENTS];
};

/* What the chain says of a channel after each of its moves; [0] is before the first. */
struct point {
    uint64_t version, depth;
    uint64_t begin, end; /* of the operation that made it */
};

struct order {
    struct lorica_audit *records; /* record seq at [seq] */
    size_t count;
    struct point *points[NAMES]; /* by epoch */
    size_t epochs[NAMES];
    const struct event **by_seq; /* the operation that made a record */
};

static uint64_t draw(struct client *client, uint64_t bound) {
    client->random ^= client->random << 13;
    client->random ^= client->random >> 7;
    client->random ^= client->random << 17;
    return client->random % bound;
}

/* -- the clients -- */

static void do_publish(struct client *client, struct event *event, const struct lorica_actor *who) {
    struct lorica_error err = {0};
    struct lorica_version version = {0};
    char path[96];
    (void)snprintf(path, sizeof(path), "%s/content-%zu", client->run->f->root, event->content);
    const struct lorica_publish publish = publish_of(names[event->name], path);
    event->rc = lorica_registry_publish(client->run->f->registry, &publish, who, &version,
                                        &event->existing, &err);
    event->version = version.version;
    event->seq = version.seq;
}

static void do_move(struct client *client, struct event *event, const struct lorica_actor *who) {
    struct lorica_registry *registry = client->run->f->registry;
    struct lorica_error err = {0};
    struct lorica_channel channel = {0};
    if (event->kind == PROMOTE)
        event->rc = lorica_registry_promote(registry, names[event->name], "stable", event->version,
                                            event->expected_epoch, false, who, &channel, &err);
    else if (event->kind == ROLLBACK)
        event->rc =
            lorica_registry_rollback(registry, names[event->name], "stable", who, &channel, &err);
    else
        event->rc = lorica_registry_channel(registry, names[event->name], "stable", &channel, &err);
    event->version = channel.version;
    event->epoch = channel.epoch;
}

static void *client_main(void *arg) {
    struct client *client = arg;
    struct run *run = client->run;
    char who_name[32];
    (void)snprintf(who_name, sizeof(who_name), "client-%u", client->number);
    const struct lorica_actor who = {.key_name = who_name};
    for (size_t i = 0; i < client->count; i++) {
        struct event *event = &client->events[i];
        struct lorica_channel now = {0};
        struct lorica_error err;
        uint64_t latest = 0;
        *event = (struct event){.kind = (enum kind)draw(client, KINDS),
                                .name = draw(client, NAMES),
                                .content = draw(client, CONTENTS),
                                .client = client->number};
        event->rc = lorica_registry_latest(run->f->registry, names[event->name], &latest, &err);
        if (event->rc == 0)
            event->rc =
                lorica_registry_channel(run->f->registry, names[event->name], "stable", &now, &err);
        if (event->rc != 0)
            break; /* no refusal that the check knows: it fails there */
        event->version = 1 + draw(client, latest);
        event->expected_epoch = now.epoch;
        event->begin = atomic_fetch_add(&run->clock, 1);
        if (event->kind == PUBLISH)
            do_publish(client, event, &who);
        else
            do_move(client, event, &who);
        event->end = atomic_fetch_add(&run->clock, 1);
    }
    return NULL;
}

/* -- the order -- */

static int take_record(void *arg, const struct lorica_audit *audit) {
    struct order *order = arg;
    order->records = realloc(order->records, (order->count + 2) * sizeof(*order->records));
    assert_non_null(order->records);
    order->records[++order->count] = *audit;
    return 0;
}

static size_t name_of(const struct lorica_audit *audit) {
    size_t name = 0;
    while (strcmp(names[name], audit->name) != 0)
        assert_true(++name < NAMES);
    return name;
}

/* Plays the moves of one channel by the rule of registry.h. */
static void play(struct order *order, size_t name) {
    uint64_t *stack = calloc(order->count + 1, sizeof(*stack)), depth = 0, latest = 0;
    struct point *points = calloc(order->count + 1, sizeof(*points));
    assert_non_null(stack);
    assert_non_null(points);
    for (size_t seq = 1; seq <= order->count; seq++) {
        const struct lorica_audit *audit = &order->records[seq];
        if (name_of(audit) != name)
            continue;
        if (audit->kind == LORICA_AUDIT_PUBLISH) {
            assert_int_equal(audit->version, ++latest);
            continue;
        }
        assert_int_equal(audit->previous, depth ? stack[depth - 1] : 0);
        if (audit->kind == LORICA_AUDIT_ROLLBACK) {
            assert_true(depth > 1);
            depth--;
        } else if (!depth || stack[depth - 1] != audit->version) {
            stack[depth++] = audit->version;
        }
        assert_true(audit->version == stack[depth - 1] && audit->version <= latest);
        assert_int_equal(audit->epoch, ++order->epochs[name]);
        points[audit->epoch] = (struct point){audit->version, depth, 0, 0};
    }
    free(stack);
    order->points[name] = points;
}

/* -- what was answered against it -- */

/* Finds the record of a change that was acknowledged, and what it says. */
static void match_change(struct order *order, const struct event *event) {
    uint64_t seq = event->seq;
    if (event->kind != PUBLISH)
        for (seq = 1; seq <= order->count; seq++)
            if (order->records[seq].epoch == event->epoch &&
                order->records[seq].kind != LORICA_AUDIT_PUBLISH &&
                name_of(&order->records[seq]) == event->name)
                break;
    assert_true(seq >= 1 && seq <= order->count);
    const struct lorica_audit *audit = &order->records[seq];
    char who[32];
    (void)snprintf(who, sizeof(who), "client-%u", event->client);
    assert_int_equal(audit->version, event->version);
    assert_int_equal(name_of(audit), event->name);
    if (event->existing)
        return;
    assert_string_equal(audit->actor, who);
    if (event->kind == PROMOTE)
        assert_int_equal(event->epoch, event->expected_epoch + 1);
    assert_null(order->by_seq[seq]); /* no two clients were told of one change */
    order->by_seq[seq] = event;
    if (event->kind != PUBLISH) {
        struct point *point = &order->points[event->name][event->epoch];
        point->begin = event->begin;
        point->end = event->end;
    }
}

/* An answer fits if it is right at some moment between its begin and its end. */
static void match_view(const struct order *order, const struct event *event) {
    const struct point *points = order->points[event->name];
    size_t first = order->epochs[event->name], last = first;
    bool fits = false;
    while (first > 0 && points[first].end > event->begin)
        first--;
    while (last > 0 && points[last].begin > event->end)
        last--;
    for (size_t epoch = first; epoch <= last; epoch++)
        fits |= event->kind == READ
                    ? event->epoch == epoch && event->version == points[epoch].version
                : event->kind == PROMOTE  ? event->expected_epoch != epoch
                : event->kind == ROLLBACK ? points[epoch].depth < 2
                                          : false;
    if (!fits)
        print_error("kind %d of %s by client %u at %llu-%llu fits no moment\n", (int)event->kind,
                    names[event->name], event->client, (unsigned long long)event->begin,
                    (unsigned long long)event->end);
    assert_true(fits);
}

static bool is_change(const struct event *event) { return event->kind != READ && event->rc == 0; }

/* What ended before another began comes before it in the chain. */
static void check_real_time(const struct order *order) {
    uint64_t latest_begin = 0;
    for (size_t seq = 1; seq <= order->count; seq++) {
        assert_non_null(order->by_seq[seq]);
        assert_true(latest_begin <= order->by_seq[seq]->end);
        if (order->by_seq[seq]->begin > latest_begin)
            latest_begin = order->by_seq[seq]->begin;
    }
}

static void check_answers(struct order *order, const struct run *run) {
    size_t changes = 0, refused = 0;
    for (unsigned c = 0; c < CLIENTS; c++)
        for (size_t i = 0; i < run->clients[c].count; i++)
            if (is_change(&run->clients[c].events[i]))
                match_change(order, &run->clients[c].events[i]);
    for (unsigned c = 0; c < CLIENTS; c++)
        for (size_t i = 0; i < run->clients[c].count; i++) {
            const struct event *event = &run->clients[c].events[i];
            changes += is_change(event);
            if (is_change(event))
                continue;
            refused += event->rc != 0;
            assert_true(event->rc == 0 ||
                        (event->kind == PROMOTE && event->rc == LORICA_EPRECOND) ||
                        (event->kind == ROLLBACK && event->rc == LORICA_ECONFLICT));
            match_view(order, event);
        }
    assert_true(changes > order->count / 2 && refused > 0);
    check_real_time(order);
}

/* Every name has a version and a live one from the start, so that none is unknown. */
static void begin_names(struct fixture *f, struct event *first) {
    for (size_t name = 0; name < NAMES; name++) {
        struct lorica_version version = {0};
        struct lorica_channel channel;
        bool existing;
        char path[96];
        (void)snprintf(path, sizeof(path), "%s/content-%zu", f->root, name);
        const struct lorica_publish publish = publish_of(names[name], path);
        const struct lorica_actor who = {.key_name = "client-99"};
        ok(lorica_registry_publish(f->registry, &publish, &who, &version, &existing, &err));
        ok(lorica_registry_promote(f->registry, names[name], "stable", 1, 0, false, &who, &channel,
                                   &err));
        first[2 * name] = (struct event){
            .kind = PUBLISH, .name = name, .client = 99, .version = 1, .seq = version.seq};
        first[2 * name + 1] =
            (struct event){.kind = PROMOTE, .name = name, .client = 99, .version = 1, .epoch = 1};
    }
}

static void test_history_of_many_clients_is_linearizable(void **state) {
    struct fixture *f = *state;
    const size_t each = (getenv("LORICA_LONG") ? 100000 : 3000) / CLIENTS;
    struct run *run = calloc(1, sizeof(*run));
    struct event first[2 * NAMES];
    pthread_t threads[CLIENTS];
    struct order order = {0};
    assert_non_null(run);
    run->f = f;
    atomic_store(&run->clock, 1);
    for (size_t content = 0; content < CONTENTS; content++) {
        char path[96];
        (void)snprintf(path, sizeof(path), "%s/content-%zu", f->root, content);
        write_seeded(path, content, 200 + content);
    }
    begin_names(f, first);
    for (unsigned c = 0; c < CLIENTS; c++) {
        struct client *client = &run->clients[c];
        *client = (struct client){run, c, 77 + 1000 * c, calloc(each, sizeof(struct event)), each};
        assert_non_null(client->events);
        assert_int_equal(pthread_create(&threads[c], NULL, client_main, client), 0);
    }
    for (unsigned c = 0; c < CLIENTS; c++)
        pthread_join(threads[c], NULL);
    ok(lorica_registry_audit(f->registry, NULL, 0, SIZE_MAX, take_record, &order, &err));
    order.by_seq = calloc(order.count + 1, sizeof(*order.by_seq));
    assert_non_null(order.by_seq);
    for (size_t name = 0; name < NAMES; name++)
        play(&order, name);
    for (size_t i = 0; i < 2 * NAMES; i++)
        match_change(&order, &first[i]);
    check_answers(&order, run);
    assert_clean(f->registry);
    print_message("%zu operations, %zu changes\n", each * CLIENTS, order.count);
    for (unsigned c = 0; c < CLIENTS; c++)
        free(run->clients[c].events);
    for (size_t name = 0; name < NAMES; name++)
        free(order.points[name]);
    free(order.by_seq);
    free(order.records);
    free(run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_history_of_many_clients_is_linearizable, fixture_setup,
                                        fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
