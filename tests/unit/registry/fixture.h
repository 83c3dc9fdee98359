/* SPDX-License-Identifier: MIT
 * A registry in a directory of its own, and short forms of what tests do with it. */
#ifndef LORICA_TESTS_UNIT_REGISTRY_FIXTURE_H
#define LORICA_TESTS_UNIT_REGISTRY_FIXTURE_H

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "registry/registry.h"

#define MAP_BYTES (UINT64_C(16) << 30) /* of addresses: the file grows by what it holds */
/* More than one transaction takes. */
#define LARGE_CHUNKS 134
#define LARGE_BYTES ((size_t)LARGE_CHUNKS * 262128)

struct fixture {
    char root[64]; /* temporary directory; holds the registry and weights */
    char dir[80];  /* the registry */
    char weights[80];
    struct lorica_registry *registry;
};

static const struct lorica_actor actor = {.key_name = "tester", .message = "because"};

/* Fails the test with lorica's own sentence. */
#define ok(call)                                                                                   \
    do {                                                                                           \
        struct lorica_error err = {0};                                                             \
        int ok_rc = (call);                                                                        \
        if (ok_rc)                                                                                 \
            print_error("%s: %s\n", lorica_err_name(ok_rc), err.text);                             \
        assert_int_equal(ok_rc, 0);                                                                \
    } while (0)

/* Expects a code, and a sentence that holds `word`. */
#define fails(code, word, call)                                                                    \
    do {                                                                                           \
        struct lorica_error err = {0};                                                             \
        int fails_rc = (call);                                                                     \
        if (fails_rc != (code))                                                                    \
            print_error("%s: %s\n", lorica_err_name(fails_rc), err.text);                          \
        assert_int_equal(fails_rc, (code));                                                        \
        if (!strstr(err.text, (word)))                                                             \
            print_error("no \"%s\" in: %s\n", (word), err.text);                                   \
        assert_non_null(strstr(err.text, (word)));                                                 \
    } while (0)

static inline void fixture_open(struct fixture *f) {
    const struct lorica_registry_options options = {.map_bytes = MAP_BYTES};
    ok(lorica_registry_open(f->dir, &options, &f->registry, &err));
}

static inline void fixture_reopen(struct fixture *f) {
    lorica_registry_close(f->registry);
    fixture_open(f);
}

static inline void fixture_paths(struct fixture *f) {
    const char *tmp = getenv("TMPDIR");
    snprintf(f->root, sizeof(f->root), "%.30s/lorica-test-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(f->root));
    snprintf(f->dir, sizeof(f->dir), "%s/registry", f->root);
    snprintf(f->weights, sizeof(f->weights), "%s/weights", f->root);
}

static inline int fixture_setup(void **state) {
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    fixture_paths(f);
    fixture_open(f);
    *state = f;
    return 0;
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    return remove(path);
}

static inline int fixture_teardown(void **state) {
    struct fixture *f = *state;
    lorica_registry_close(f->registry);
    nftw(f->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

/* Bytes that follow from a seed, `len` of them, into a file. */
static inline void write_seeded(const char *path, uint64_t seed, size_t len) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (size_t at = 0; at < len; at += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        size_t piece = len - at < 8 ? len - at : 8;
        assert_int_equal(fwrite(&x, 1, piece, file), piece);
    }
    assert_int_equal(fclose(file), 0);
}

static inline struct lorica_publish publish_of(const char *name, const char *weights) {
    static const char config[] = "{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[\"q_proj\"]}";
    static const char canonical[] =
        "{\"r\":8,\"lora_alpha\":8,\"use_rslora\":false,\"target_modules\":[\"q_proj\"],\"layers_"
        "to_transform\":null,\"rank_pattern\":{},\"alpha_pattern\":{}}";
    return (struct lorica_publish){.name = name,
                                   .config = config,
                                   .config_len = sizeof(config) - 1,
                                   .canonical = canonical,
                                   .canonical_len = sizeof(canonical) - 1,
                                   .weights_path = weights,
                                   .base_digest = {{1, 2, 3}},
                                   .rank = 8};
}

/* Publishes weights made from a seed and returns the version. */
static inline uint64_t publish_seed(struct fixture *f, const char *name, uint64_t seed,
                                    const char *channel) {
    struct lorica_publish publish = publish_of(name, f->weights);
    struct lorica_version version;
    bool existing;
    publish.channel = channel;
    write_seeded(f->weights, seed, 1000 + seed % 100);
    ok(lorica_registry_publish(f->registry, &publish, &actor, &version, &existing, &err));
    return version.version;
}

static inline struct lorica_channel promote(struct fixture *f, const char *name, uint64_t version) {
    struct lorica_channel channel;
    ok(lorica_registry_promote(f->registry, name, "stable", version, 0, true, &actor, &channel,
                               &err));
    return channel;
}

static inline uint64_t rollback(struct fixture *f, const char *name) {
    struct lorica_channel channel;
    ok(lorica_registry_rollback(f->registry, name, "stable", &actor, &channel, &err));
    return channel.version;
}

/* The walk must find nothing; what it finds is printed. */
static inline void assert_clean(struct lorica_registry *registry) {
    struct lorica_buf report;
    uint64_t findings = 99;
    lorica_buf_init(&report, 1 << 20);
    ok(lorica_registry_verify(registry, &report, &findings, &err));
    if (findings)
        print_error("%s\n", report.data ? report.data : "(no report)");
    assert_int_equal(findings, 0);
    lorica_buf_finish(&report);
}

static inline int last_record(void *arg, const struct lorica_audit *audit) {
    *(struct lorica_digest *)arg = audit->hash;
    return 0;
}

/* The end of the chain stands for the whole state, which the walk ties to it. */
static inline struct lorica_digest state_of(struct fixture *f) {
    struct lorica_digest digest = {{0}};
    assert_clean(f->registry);
    ok(lorica_registry_audit(f->registry, NULL, 0, SIZE_MAX, last_record, &digest, &err));
    return digest;
}

#endif
