/* SPDX-License-Identifier: MIT
 * kill -9 at random moments. The test runs itself again as a worker that changes the registry and
 * writes one line per acknowledged change into a pipe; after each kill every line must be true and
 * the walk clean; how long the registry took to open is told, and with LORICA_LONG held against a
 * second. LORICA_CRASH_CYCLES varies the length. */
#include "fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "registry/retire.h"

#define DEFAULT_CYCLES 50
#define REOPEN_LIMIT_MS 1000
/* More than a small transaction takes. */
#define SPARED_BYTES ((size_t)20 * 262128)

/* What the worker has acknowledged, over all cycles. */
struct known {
    uint64_t latest;
    uint64_t version, epoch; /* of the channel, after its last acknowledged move */
    uint64_t retired;        /* how often a version was deleted or taken back */
    uint64_t subject;        /* which one was last; 0: none */
    bool deleted;            /* and whether it was deleted */
};

/* Deletes the newest version, takes it back or sweeps what is deleted. Writes into `line` what is
 * acknowledged; LORICA_ECONFLICT or LORICA_ENOTFOUND when there was nothing to do. */
static int retire(struct fixture *f, uint64_t i, char line[64], struct lorica_error *err) {
    struct lorica_version version;
    struct lorica_sweep stats;
    uint64_t latest = 0;
    int rc = lorica_registry_latest(f->registry, "cardiology", &latest, err);
    if (rc)
        return rc;
    if (i % 5 == 4 && i / 5 % 2) {
        snprintf(line, 64, "s\n");
        return lorica_registry_sweep(f->registry, INT64_MAX, &actor, &stats, err);
    }
    snprintf(line, 64, "%s %llu\n", i % 5 == 3 ? "d" : "u", (unsigned long long)latest);
    if (latest <= 2) /* the channel moves between these */
        return LORICA_ENOTFOUND;
    return i % 5 == 3
               ? lorica_registry_delete(f->registry, "cardiology", latest, &actor, &version, err)
               : lorica_registry_undelete(f->registry, "cardiology", latest, &actor, &version, err);
}

/* Publishes in small transactions. */
static bool spare(void *arg) { return true; }

/* The worker: changes without end; the first argument is the root, the second a seed. */
static int work(const char *root, uint64_t seed) {
    struct fixture f = {0};
    const struct lorica_registry_options options = {.map_bytes = MAP_BYTES};
    struct lorica_error err = {0};
    snprintf(f.dir, sizeof(f.dir), "%.60s/registry", root);
    snprintf(f.weights, sizeof(f.weights), "%.60s/weights", root);
    if (lorica_registry_open(f.dir, &options, &f.registry, &err)) {
        fprintf(stderr, "worker: %s\n", err.text);
        return 1;
    }
    for (uint64_t i = seed;; i++) {
        struct lorica_publish publish = publish_of("cardiology", f.weights);
        struct lorica_version version;
        struct lorica_channel channel;
        bool existing;
        char line[64];
        int len = 0, rc = 0;
        if (i % 5 == 0) {
            /* now and then large: in a round that soon deletes and sweeps it (see retire) */
            write_seeded(f.weights, i,
                         i % 30 == 15   ? LARGE_BYTES
                         : i % 30 == 25 ? SPARED_BYTES
                                        : 3000 + i % 1000);
            publish.give_way = i % 30 == 25 ? spare : NULL;
            rc = lorica_registry_publish(f.registry, &publish, &actor, &version, &existing, &err);
            len = snprintf(line, sizeof(line), "p %llu\n", (unsigned long long)version.version);
        } else if (i % 5 == 1) {
            rc = lorica_registry_promote(f.registry, "cardiology", "stable", 1 + i % 2, 0, true,
                                         &actor, &channel, &err);
        } else if (i % 5 == 2) {
            rc = lorica_registry_rollback(f.registry, "cardiology", "stable", &actor, &channel,
                                          &err);
            if (rc == LORICA_ECONFLICT)
                continue;
        } else {
            rc = retire(&f, i, line, &err);
            if (rc == LORICA_ECONFLICT || rc == LORICA_ENOTFOUND)
                continue;
            len = (int)strlen(line);
        }
        if (rc) {
            fprintf(stderr, "worker: %s\n", err.text);
            return 1;
        }
        if (!len)
            len = snprintf(line, sizeof(line), "c %llu %llu\n", (unsigned long long)channel.version,
                           (unsigned long long)channel.epoch);
        if (write(STDOUT_FILENO, line, (size_t)len) != len)
            return 1;
    }
}

static pid_t start_worker(const char *root, uint64_t seed, FILE **ret_lines) {
    int ends[2];
    char number[24];
    snprintf(number, sizeof(number), "%llu", (unsigned long long)seed);
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", "worker", root, number, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *ret_lines = fdopen(ends[0], "r");
    assert_non_null(*ret_lines);
    return pid;
}

/* Takes over what the lines say; returns how many there were. */
static unsigned read_lines(FILE *lines, struct known *known) {
    char line[64];
    unsigned count = 0;
    while (fgets(line, sizeof(line), lines)) {
        unsigned long long a, b;
        if (sscanf(line, "p %llu", &a) == 1) {
            known->latest = a > known->latest ? a : known->latest;
        } else if (sscanf(line, "c %llu %llu", &a, &b) == 2) {
            assert_true(b > known->epoch);
            known->version = a;
            known->epoch = b;
        } else if (sscanf(line, "d %llu", &a) == 1 || sscanf(line, "u %llu", &a) == 1) {
            known->retired++;
            known->subject = a;
            known->deleted = line[0] == 'd';
        } else if (strcmp(line, "s\n") != 0) {
            fail_msg("strange line: %s", line);
        }
        count++;
    }
    fclose(lines);
    return count;
}

static int64_t clock_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int note_retired(void *arg, const struct lorica_audit *audit) {
    struct known *known = arg;
    if (audit->kind == LORICA_AUDIT_DELETE || audit->kind == LORICA_AUDIT_UNDELETE) {
        known->retired++;
        known->subject = audit->version;
        known->deleted = audit->kind == LORICA_AUDIT_DELETE;
    }
    return 0;
}

/* The worker may have made one change more than it could tell. */
static void check_known(struct fixture *f, struct known *known) {
    struct lorica_channel channel;
    uint64_t latest;
    ok(lorica_registry_latest(f->registry, "cardiology", &latest, &err));
    ok(lorica_registry_channel(f->registry, "cardiology", "stable", &channel, &err));
    struct known found = {.latest = latest, .version = channel.version, .epoch = channel.epoch};
    ok(lorica_registry_audit(f->registry, "cardiology", 0, SIZE_MAX, note_retired, &found, &err));
    uint64_t untold = (latest - known->latest) + (channel.epoch - known->epoch) +
                      (found.retired - known->retired);
    assert_true(latest >= known->latest && channel.epoch >= known->epoch &&
                found.retired >= known->retired && untold <= 1);
    if (found.retired == known->retired && known->subject) {
        struct lorica_version subject;
        ok(lorica_registry_version(f->registry, "cardiology", known->subject, &subject, &err));
        assert_int_equal(subject.deleted_ms != 0, known->deleted);
    }
    if (channel.epoch == known->epoch)
        assert_int_equal(channel.version, known->version);
    *known = found;
    assert_clean(f->registry);
}

static void test_kill_at_random_moments_nothing_lost(void **state) {
    struct fixture *f = *state;
    const char *text = getenv("LORICA_CRASH_CYCLES");
    long cycles = text ? strtol(text, NULL, 10) : DEFAULT_CYCLES;
    struct known known = {0};
    unsigned lines_read = 0;
    int64_t slowest_us = 0;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u, %ld cycles\n", seed, cycles);
    srandom(seed);
    publish_seed(f, "cardiology", 1000001, "stable");
    publish_seed(f, "cardiology", 1000002, NULL);
    known = (struct known){.latest = 2, .version = 1, .epoch = 1};
    check_known(f, &known);
    for (long cycle = 0; cycle < cycles; cycle++) {
        FILE *lines;
        lorica_registry_close(f->registry);
        f->registry = NULL;
        pid_t pid = start_worker(f->root, (uint64_t)random(), &lines);
        usleep((useconds_t)(20000 + random() % 250000));
        assert_int_equal(kill(pid, SIGKILL), 0);
        lines_read += read_lines(lines, &known);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        int64_t began_us = clock_us();
        fixture_open(f);
        int64_t took_us = clock_us() - began_us;
        slowest_us = took_us > slowest_us ? took_us : slowest_us;
        check_known(f, &known);
    }
    print_message("%u acknowledged changes; reopening took %lld us at most\n", lines_read,
                  (long long)slowest_us);
    assert_true(lines_read > 0);
    if (getenv("LORICA_LONG"))
        assert_true(slowest_us < REOPEN_LIMIT_MS * 1000);
}

int main(int argc, char **argv) {
    if (argc == 3)
        return work(argv[1], strtoull(argv[2], NULL, 10));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kill_at_random_moments_nothing_lost, fixture_setup,
                                        fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
