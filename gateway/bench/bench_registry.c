/* SPDX-License-Identifier: MIT */
#include "gateway/bench/bench_registry.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/cmd/table.h"
#include "proto/json.h"
#include "registry/registry.h"

#define PAGE 100u
#define READS 1000u

/* How long the calls of one kind took, in seconds. */
struct samples {
    const char *what;
    double *seconds;
    size_t count;
};

enum measure { PUBLISH, PROMOTE, PAGES, RESOLVE, WEIGHTS, REOPEN, VERIFY, MEASURES };

struct run {
    const struct lorica_bench_registry *size;
    char dir[256];
    char *registry_dir, *weights;
    struct lorica_registry *registry;
    struct samples samples[MEASURES];
    uint64_t file_nbytes;
};

static const struct lorica_actor actor = {.key_name = "bench", .role = LORICA_ROLE_ADMIN};

static double seconds_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void name_of(uint32_t number, char ret[32]) {
    (void)snprintf(ret, 32, "adapter-%06" PRIu32, number);
}

static void took(struct run *run, enum measure measure, double start) {
    struct samples *samples = &run->samples[measure];
    samples->seconds[samples->count++] = seconds_now() - start;
}

static int prepare(struct run *run, struct lorica_error *err) {
    static const char *const words[MEASURES] = {"publish",   "promote",      "list a page of 100",
                                                "resolve",   "read weights", "open",
                                                "verify all"};
    const size_t changes = (size_t)run->size->names * run->size->versions;
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(run->dir, sizeof(run->dir), "%.200s/lorica-bench-XXXXXX",
                   tmp ? tmp : "/var/tmp");
    if (!mkdtemp(run->dir)) {
        run->dir[0] = 0;
        return lorica_fail_errno(err, tmp ? tmp : "/var/tmp", "no temporary directory");
    }
    run->registry_dir = lorica_path_join(run->dir, "registry");
    run->weights = lorica_path_join(run->dir, "weights");
    bool whole = run->registry_dir && run->weights;
    for (int i = 0; i < MEASURES; i++) {
        const size_t room = i == PUBLISH || i == PROMOTE ? changes : READS;
        run->samples[i].what = words[i];
        whole = (run->samples[i].seconds = calloc(room, sizeof(double))) && whole;
    }
    if (!whole)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the benchmark");
    return lorica_registry_open(run->registry_dir, NULL, &run->registry, err);
}

/* Weights that no other version has. */
static int write_weights(const struct run *run, uint32_t seed, struct lorica_error *err) {
    uint64_t x = ((uint64_t)seed + 1) * UINT64_C(0x9E3779B97F4A7C15), block[512];
    FILE *file = fopen(run->weights, "wb");
    bool written = file;
    for (uint32_t left = run->size->nbytes; written && left > 0;) {
        for (size_t i = 0; i < sizeof(block) / sizeof(block[0]); i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            block[i] = x;
        }
        const size_t piece = left < sizeof(block) ? left : sizeof(block);
        written = fwrite(block, 1, piece, file) == piece;
        left -= (uint32_t)piece;
    }
    if (file)
        written = fclose(file) == 0 && written;
    return written ? 0 : lorica_fail_errno(err, run->weights, "cannot be written");
}

static int publish_one(struct run *run, uint32_t number, uint32_t version,
                       struct lorica_error *err) {
    static const char config[] =
        "{\"peft_type\":\"LORA\",\"r\":16,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}";
    static const char canonical[] =
        "{\"r\":16,\"lora_alpha\":16,\"use_rslora\":false,\"target_modules\":[\"q_proj\"],\"layers_"
        "to_transform\":null,\"rank_pattern\":{},\"alpha_pattern\":{}}";
    char name[32];
    struct lorica_version made;
    struct lorica_channel channel;
    bool existing;
    name_of(number, name);
    const struct lorica_publish publish = {.name = name,
                                           .config = config,
                                           .config_len = sizeof(config) - 1,
                                           .canonical = canonical,
                                           .canonical_len = sizeof(canonical) - 1,
                                           .weights_path = run->weights,
                                           .base_digest = {{1}},
                                           .rank = 16};
    int rc = write_weights(run, number * run->size->versions + version, err);
    double start = seconds_now();
    if (!rc)
        rc = lorica_registry_publish(run->registry, &publish, &actor, &made, &existing, err);
    if (rc)
        return rc;
    took(run, PUBLISH, start);
    start = seconds_now();
    rc = lorica_registry_promote(run->registry, name, LORICA_CHANNEL_STABLE, made.version, version,
                                 false, &actor, &channel, err);
    took(run, PROMOTE, start);
    return rc;
}

/* Round by round, so that later versions meet a registry that is full. */
static int publish_all(struct run *run, struct lorica_error *err) {
    int rc = 0;
    for (uint32_t version = 0; version < run->size->versions; version++)
        for (uint32_t i = 0; i < run->size->names && !rc; i++) {
            rc = publish_one(run, i, version, err);
            lorica_progress(NULL, "publishing",
                            (unsigned long long)version * run->size->names + i + 1,
                            (unsigned long long)run->size->versions * run->size->names);
        }
    return rc;
}

static int count_name(void *arg, const char *name, uint64_t latest) {
    *(size_t *)arg += latest > 0;
    return 0;
}

static int read_all(struct run *run, struct lorica_error *err) {
    int rc = 0;
    for (uint32_t i = 0; i < READS && !rc; i++) {
        char name[32];
        struct lorica_version version;
        void *weights;
        size_t seen = 0, len;
        name_of((uint32_t)(i * UINT64_C(2654435761) % run->size->names), name);
        double start = seconds_now();
        rc = lorica_registry_names(run->registry, name, PAGE, count_name, &seen, err);
        took(run, PAGES, start);
        start = seconds_now();
        if (!rc)
            rc = lorica_registry_resolve(run->registry, name, &version, err);
        took(run, RESOLVE, start);
        start = seconds_now();
        if (!rc)
            rc = lorica_registry_weights(run->registry, &version, &weights, &len, err);
        if (!rc)
            free(weights);
        took(run, WEIGHTS, start);
    }
    return rc;
}

static int reopen_and_verify(struct run *run, struct lorica_error *err) {
    struct lorica_buf report;
    uint64_t findings = 0;
    lorica_registry_close(run->registry);
    run->registry = NULL;
    double start = seconds_now();
    int rc = lorica_registry_open(run->registry_dir, NULL, &run->registry, err);
    if (rc)
        return rc;
    took(run, REOPEN, start);
    lorica_buf_init(&report, 1u << 20);
    start = seconds_now();
    rc = lorica_registry_verify(run->registry, &report, &findings, err);
    took(run, VERIFY, start);
    if (!rc && findings)
        rc = lorica_fail(err, LORICA_EFORMAT, "verify finds: %.500s", report.data);
    lorica_buf_finish(&report);
    return rc;
}

static int file_size(struct run *run, struct lorica_error *err) {
    struct stat st;
    char *path = lorica_path_join(run->registry_dir, "data.mdb");
    const bool found = path && stat(path, &st) == 0;
    const int rc = found ? 0 : lorica_fail_errno(err, run->registry_dir, "no size");
    run->file_nbytes = found ? (uint64_t)st.st_blocks * 512 : 0;
    free(path);
    return rc;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const struct samples *samples, double share) {
    return samples->seconds[(size_t)(share * (double)(samples->count - 1) + 0.5)];
}

static int print_table(const struct run *run, struct lorica_error *err) {
    static const char *const headings[] = {"call", "calls", "p50 ms", "p99 ms", "max ms", NULL};
    struct lorica_table *table = lorica_table_create(headings);
    for (int i = 0; i < MEASURES; i++) {
        lorica_table_text(table, run->samples[i].what);
        lorica_table_number(table, (int64_t)run->samples[i].count);
        lorica_table_format(table, "%.3f", quantile(&run->samples[i], 0.5) * 1e3);
        lorica_table_format(table, "%.3f", quantile(&run->samples[i], 0.99) * 1e3);
        lorica_table_format(table, "%.3f", quantile(&run->samples[i], 1) * 1e3);
    }
    const bool printed = lorica_table_print(table, stdout);
    lorica_table_destroy(table);
    if (!printed)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the table");
    const double changes = (double)run->size->names * run->size->versions;
    (void)printf("%" PRIu32 " adapters of %" PRIu32 " versions, weights of %" PRIu32
                 " bytes each: the file is %.1f MB, %.0f bytes a version beside its weights\n",
                 run->size->names, run->size->versions, run->size->nbytes,
                 (double)run->file_nbytes * 1e-6,
                 (double)run->file_nbytes / changes - run->size->nbytes);
    return 0;
}

static int print_json(const struct run *run, struct lorica_error *err) {
    struct lorica_buf out;
    struct lorica_jsonw w = {.out = &out};
    lorica_buf_init(&out, 1u << 16);
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_integer(&w, "adapters", run->size->names);
    lorica_jsonw_integer(&w, "versions", run->size->versions);
    lorica_jsonw_integer(&w, "weights_bytes", run->size->nbytes);
    lorica_jsonw_integer(&w, "file_bytes", (int64_t)run->file_nbytes);
    lorica_jsonw_array(&w, "calls");
    for (int i = 0; i < MEASURES; i++) {
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_string(&w, "call", run->samples[i].what);
        lorica_jsonw_integer(&w, "calls", (int64_t)run->samples[i].count);
        lorica_jsonw_number(&w, "p50_seconds", quantile(&run->samples[i], 0.5));
        lorica_jsonw_number(&w, "p99_seconds", quantile(&run->samples[i], 0.99));
        lorica_jsonw_number(&w, "max_seconds", quantile(&run->samples[i], 1));
        lorica_jsonw_end_object(&w);
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    return lorica_cmd_print_json(&out, 0, err);
}

static void discard(struct run *run) {
    lorica_registry_close(run->registry);
    if (run->registry_dir)
        lorica_dir_discard(run->registry_dir);
    if (run->dir[0])
        lorica_dir_discard(run->dir);
    free(run->registry_dir);
    free(run->weights);
    for (int i = 0; i < MEASURES; i++)
        free(run->samples[i].seconds);
}

int lorica_bench_registry(const struct lorica_bench_registry *size, bool json) {
    struct run run = {.size = size};
    struct lorica_error err = {0};
    int rc = prepare(&run, &err);
    if (!rc)
        rc = publish_all(&run, &err);
    if (!rc)
        rc = read_all(&run, &err);
    if (!rc)
        rc = reopen_and_verify(&run, &err);
    if (!rc)
        rc = file_size(&run, &err);
    for (int i = 0; i < MEASURES && !rc; i++)
        qsort(run.samples[i].seconds, run.samples[i].count, sizeof(double), by_size);
    if (!rc)
        rc = json ? print_json(&run, &err) : print_table(&run, &err);
    discard(&run);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}
