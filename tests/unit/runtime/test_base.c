/* SPDX-License-Identifier: MIT
 * The base file: what import reads against values made by the reference implementations
 * (tests/golden/make_tiny.py), and what is damaged, foreign or has no room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "golden_json.h"
#include "model_fixture.h"
#include "runtime/base_file.h"

/* -- a directory for each test -- */

static char root[256];

static int setup(void **state) {
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(root, sizeof(root), "%s/lorica-base-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    return remove(path);
}

static int teardown(void **state) { return nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS); }

/* A path in it; up to four may be in use at a time. */
static const char *in_root(const char *name) {
    static char paths[4][512];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    (void)snprintf(path, sizeof(paths[0]), "%s/%s", root, name);
    return path;
}

static size_t count_files(const char *path) {
    size_t count = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *e = readdir(dir); e; e = readdir(dir))
        count += e->d_name[0] != '.';
    (void)closedir(dir);
    return count;
}

static void put_file(const char *path, const void *bytes, size_t len) {
    (void)unlink(path);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static const char *golden(const char *name) {
    static char path[4096];
    (void)snprintf(path, sizeof(path), "%s/golden/%s", TEST_DATA, name);
    return path;
}

static int import(const char *source, const char *out, enum lorica_format format,
                  const char *template_name, struct lorica_error *err) {
    const struct lorica_import_options options = {
        .format = format, .template_name = template_name, .hasher = &sum_hasher};
    *err = (struct lorica_error){0};
    return lorica_base_import(source, out, &options, err);
}

static struct lorica_base *import_and_open(const char *source, const char *out,
                                           enum lorica_format format) {
    struct lorica_error err;
    struct lorica_base *base = NULL;
    if (import(source, out, format, NULL, &err) || lorica_base_open(out, &base, &err) ||
        lorica_base_verify(base, &sum_hasher, &err))
        fail_msg("%s", err.text);
    return base;
}

static void expect_error(int rc, int code, const struct lorica_error *err, const char *part) {
    if (rc != code || err->code != code || !strstr(err->text, part))
        fail_msg("%d, \"%s\": not %d with \"%s\"", rc, err->text, code, part);
}

/* -- values -- */

/* FNV-1a over the float32 values, as make_tiny.py writes it. */
static void hash_values(const struct lorica_matrix *m, char out[17]) {
    uint64_t h = 0xCBF29CE484222325u;
    float *row = malloc(m->k * sizeof(*row));
    assert_non_null(row);
    for (uint32_t r = 0; r < m->n; r++) {
        lorica_matrix_rows_f32(m, r, 1, row);
        for (size_t i = 0; i < m->k * sizeof(*row); i++)
            h = (h ^ ((const uint8_t *)row)[i]) * 0x100000001B3u;
    }
    free(row);
    (void)snprintf(out, 17, "%016llx", (unsigned long long)h);
}

/* Every value of every tensor that the hashes name; `count` of them. */
static void check_values(const struct lorica_base *base, const char *model, size_t count) {
    struct lorica_json *all = golden_json("tiny.hashes.json");
    const struct lorica_json *want = lorica_json_get(all, model);
    uint64_t entries;
    const struct lorica_base_entry *table = lorica_base_table(base, &entries);
    size_t checked = 0;
    for (uint64_t i = 0; i < entries; i++) {
        struct lorica_matrix scratch;
        char got[17];
        const char *hash = lorica_json_string(lorica_json_get(want, table[i].name));
        if (!hash)
            continue;
        hash_values(lorica_base_matrix(base, i, &scratch), got);
        if (strcmp(got, hash) != 0)
            fail_msg("%s: %s has other values", model, table[i].name);
        checked++;
    }
    assert_int_equal(checked, count);
    lorica_json_destroy(all);
}

static void check_golden(const char *path, const char *model, size_t count) {
    struct lorica_base *base = open_golden(path);
    check_values(base, model, count);
    lorica_base_close(base);
}

#define ENTRIES 20 /* of two layers, the head tied */
#define MODULES 14

static void test_open_any_gives_the_sources_values(void **state) {
    check_golden("tiny.gguf", "gguf", ENTRIES);
    check_golden("tiny", "tiny", ENTRIES);
    check_golden("tiny-odd", "tiny-odd", ENTRIES + 1);
}

static void test_open_any_gives_bitsandbytes_values(void **state) {
    check_golden("tiny-nf4", "tiny-nf4", MODULES);
    check_golden("tiny-odd-nf4", "tiny-odd-nf4", MODULES);
}

static void test_import_in_exact_formats_keeps_values(void **state) {
    static const enum lorica_format formats[] = {LORICA_FORMAT_F32, LORICA_FORMAT_BF16};
    for (size_t i = 0; i < 2; i++) {
        struct lorica_base *base = import_and_open(golden("tiny"), in_root("b"), formats[i]);
        assert_int_equal(base->layers[0].modules[0].format, formats[i]);
        check_values(base, "tiny", ENTRIES);
        lorica_base_close(base);
    }
    /* a bitsandbytes matrix dequantised */
    struct lorica_base *base =
        import_and_open(golden("tiny-odd-nf4"), in_root("b"), LORICA_FORMAT_F32);
    assert_int_equal(base->layers[1].modules[6].format, LORICA_FORMAT_F32);
    check_values(base, "tiny-odd-nf4", MODULES);
    lorica_base_close(base);
}

/* What bitsandbytes made of tiny's weights, import makes of them too. On a CPU bitsandbytes rounds
 * what it looks the codes of scales up by, so that these may be the neighbours of the nearest. */
static void test_import_nf4_quantises_as_bitsandbytes(void **state) {
    struct lorica_base *got = import_and_open(golden("tiny"), in_root("b"), LORICA_FORMAT_NF4);
    struct lorica_base *want = open_golden("tiny-nf4");
    for (uint32_t i = 0; i < 2 * LORICA_MODULE_COUNT; i++) {
        const struct lorica_matrix *g = &got->layers[i / LORICA_MODULE_COUNT].modules[i % 7];
        const struct lorica_matrix *w = &want->layers[i / LORICA_MODULE_COUNT].modules[i % 7];
        const size_t blocks = (size_t)w->n * w->k / LORICA_NF4_BLOCK;
        assert_memory_equal(g->data, w->data,
                            lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, w->n, w->k));
        assert_true(blocks <= LORICA_NF4_NESTED_BLOCK);
        for (size_t b = 0; b < blocks; b++)
            assert_true(abs(g->absmax_codes[b] - w->absmax_codes[b]) <= 1);
        assert_memory_equal(g->nested_absmax, w->nested_absmax, sizeof(float));
        assert_memory_equal(g->nested_map, w->nested_map, 256 * sizeof(float));
        assert_memory_equal(&g->nested_offset, &w->nested_offset, sizeof(float));
    }
    lorica_base_close(want);
    lorica_base_close(got);
}

static void check_positions(const char *model, const char *member) {
    struct lorica_json *all = golden_json("tiny.hashes.json");
    struct lorica_base *base = open_golden(model);
    float got[64];
    size_t i = 0;
    assert_true(base->arch.head_dim <= 128);
    lorica_arch_inv_freq(&base->arch, got);
    const struct lorica_json *j = lorica_json_first(lorica_json_get(all, member));
    for (; j; j = lorica_json_next(j), i++) {
        const float want = (float)lorica_json_number(j, 0);
        assert_memory_equal(&got[i], &want, sizeof(want));
    }
    assert_int_equal(i, base->arch.head_dim / 2);
    lorica_base_close(base);
    lorica_json_destroy(all);
}

static void test_inv_freq_equals_transformers(void **state) {
    check_positions("tiny", "tiny/inv_freq");
    check_positions("tiny.gguf", "tiny/inv_freq");
    check_positions("tiny-odd", "tiny-odd/inv_freq");
}

/* -- export -- */

static char *read_safetensors(const char *dir, struct lorica_safetensors *ret) {
    char path[4096];
    size_t len;
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    char *bytes = read_all(path, &len);
    assert_int_equal(lorica_safetensors_parse(bytes, len, len, ret, NULL), 0);
    return bytes;
}

static float value_at(const struct lorica_tensor *t, const char *bytes, uint64_t i) {
    uint16_t half;
    float value;
    memcpy(&value, bytes + t->offset + 4 * i, t->dtype == LORICA_DTYPE_F32 ? 4 : 0);
    memcpy(&half, bytes + t->offset + 2 * i, sizeof(half));
    return t->dtype == LORICA_DTYPE_F32    ? value
           : t->dtype == LORICA_DTYPE_BF16 ? lorica_bf16_to_f32(half)
                                           : lorica_f16_to_f32(half);
}

/* Every tensor of the source stands in the exported file, and no other: byte for byte; a norm,
 * which a base file holds as float32, value for value. */
static void check_tensor(const struct lorica_tensor *w, const char *want,
                         const struct lorica_tensor *g, const char *got) {
    assert_int_equal(g->ndim, w->ndim);
    assert_memory_equal(g->shape, w->shape, w->ndim * sizeof(w->shape[0]));
    if (strstr(w->name, "norm.weight")) {
        assert_int_equal(g->dtype, LORICA_DTYPE_F32);
        for (uint64_t i = 0; i < w->shape[0]; i++)
            assert_true(value_at(w, want, i) == value_at(g, got, i));
        return;
    }
    assert_int_equal(g->dtype, w->dtype);
    assert_int_equal(g->nbytes, w->nbytes);
    if (memcmp(got + g->offset, want + w->offset, w->nbytes) != 0)
        fail_msg("%s has other bytes", w->name);
}

static void check_export_bytes(const char *model, const char *exported) {
    struct lorica_safetensors want, got;
    char *want_bytes = read_safetensors(golden(model), &want);
    char *got_bytes = read_safetensors(exported, &got);
    assert_int_equal(got.count, want.count);
    for (size_t i = 0; i < want.count; i++) {
        const struct lorica_tensor *g = lorica_safetensors_find(&got, want.tensors[i].name);
        if (!g)
            fail_msg("%s is missing", want.tensors[i].name);
        check_tensor(&want.tensors[i], want_bytes, g, got_bytes);
    }
    lorica_safetensors_finish(&want);
    lorica_safetensors_finish(&got);
    free(want_bytes);
    free(got_bytes);
}

static void check_export(const char *model, enum lorica_format format, bool same_bytes) {
    struct lorica_error err;
    struct lorica_base *base = import_and_open(golden(model), in_root("first"), format);
    const char *dir = in_root("exported");
    if (lorica_base_export(base, dir, &err))
        fail_msg("%s", err.text);
    if (same_bytes)
        check_export_bytes(model, dir);
    struct lorica_base *again = import_and_open(dir, in_root("second"), format);
    assert_memory_equal(&again->digest, &base->digest, sizeof(base->digest));
    lorica_base_close(again);
    lorica_base_close(base);
    assert_int_equal(nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void test_export_gives_bitsandbytes_bytes_back(void **state) {
    check_export("tiny-nf4", LORICA_FORMAT_NF4, true);
    check_export("tiny-odd-nf4", LORICA_FORMAT_NF4, true);
}

static void test_export_and_import_give_the_same_digest(void **state) {
    check_export("tiny", LORICA_FORMAT_NF4, false);
    check_export("tiny-odd", LORICA_FORMAT_NF4, false);
    check_export("tiny", LORICA_FORMAT_BF16, true);
    check_export("tiny-odd", LORICA_FORMAT_F32, false);
}

static void test_export_over_files_is_refused(void **state) {
    struct lorica_error err = {0};
    struct lorica_base *base = import_and_open(golden("tiny"), in_root("b"), LORICA_FORMAT_NF4);
    const char *dir = in_root("exported"), *file = in_root("exported/model.safetensors");
    assert_int_equal(mkdir(dir, 0700), 0);
    put_file(file, "mine", 4);
    expect_error(lorica_base_export(base, dir, &err), LORICA_ECONFLICT, &err, file);
    size_t len;
    char *kept = read_all(file, &len);
    assert_string_equal(kept, "mine");
    free(kept);
    assert_int_equal(count_files(dir), 1); /* and nothing beside it */
    lorica_base_close(base);
}

/* -- what is not imported -- */

/* A refused import leaves nothing behind. */
static void expect_refused(const char *source, const char *part) {
    struct lorica_error err;
    const size_t before = count_files(root);
    const int rc = import(source, in_root("out.lorica"), LORICA_FORMAT_NF4, NULL, &err);
    if (rc == 0 || err.code != rc || !strstr(err.text, part) || !strstr(err.text, source))
        fail_msg("%d, \"%s\": does not name %s and %s", rc, err.text, source, part);
    assert_int_equal(count_files(root), before);
}

struct gguf_bytes {
    char *bytes;
    size_t len;
};

static struct gguf_bytes read_gguf(void) {
    struct gguf_bytes g;
    g.bytes = read_all(golden("tiny.gguf"), &g.len);
    return g;
}

static char *find_in(const struct gguf_bytes *g, const char *text) {
    char *at = memmem(g->bytes, g->len, text, strlen(text));
    assert_non_null(at);
    return at;
}

static void test_import_gguf_of_other_architecture_names_it(void **state) {
    struct gguf_bytes g = read_gguf();
    /* key, u32 type, u64 length, text */
    char *value = find_in(&g, "general.architecture") + strlen("general.architecture") + 12;
    assert_memory_equal(value, "llama", 5);
    memcpy(value, "gemma", 5);
    put_file(in_root("x.gguf"), g.bytes, g.len);
    expect_refused(in_root("x.gguf"), "gemma");
    free(g.bytes);
}

static void test_import_gguf_of_other_type_names_tensor_and_type(void **state) {
    static const struct {
        uint32_t type;
        const char *name;
    } types[] = {{14, "Q6_K"}, {12, "Q4_K"}, {6, "Q5_0"}, {39, "MXFP4"}, {77, "unknown"}};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct gguf_bytes g = read_gguf();
        /* name, u32 dimensions, two u64, u32 type */
        char *at = find_in(&g, "blk.1.ffn_up.weight") + strlen("blk.1.ffn_up.weight") + 20;
        memcpy(at, &types[i].type, sizeof(types[i].type));
        put_file(in_root("x.gguf"), g.bytes, g.len);
        expect_refused(in_root("x.gguf"), types[i].name);
        expect_refused(in_root("x.gguf"), "blk.1.ffn_up.weight");
        free(g.bytes);
    }
}

static void test_import_gguf_with_foreign_tensor_names_it(void **state) {
    struct gguf_bytes g = read_gguf();
    memcpy(find_in(&g, "blk.1.ffn_norm.weight"), "blk.1.ffn_nora", 14);
    put_file(in_root("x.gguf"), g.bytes, g.len);
    expect_refused(in_root("x.gguf"), "blk.1.ffn_nora.weight");
    free(g.bytes);
}

static void test_import_truncated_gguf_refused(void **state) {
    struct gguf_bytes g = read_gguf();
    for (size_t cut = 0; cut < 64; cut++) {
        put_file(in_root("x.gguf"), g.bytes, g.len * cut / 64);
        expect_refused(in_root("x.gguf"), cut < 2 ? "" : "cut off");
    }
    put_file(in_root("x.gguf"), g.bytes, g.len - 64);
    expect_refused(in_root("x.gguf"), "cut off");
    free(g.bytes);
}

static void test_import_gguf_rope_factors_outside_refused(void **state) {
    struct gguf_bytes g = read_gguf();
    /* the last norm becomes rope_freqs.weight with no elements, at the end of the file */
    const char name[] = "blk.1.ffn_norm.weight";
    char *at = find_in(&g, name);
    struct lorica_buf changed;
    lorica_buf_init(&changed, g.len + 100);
    const uint64_t len = strlen("rope_freqs.weight"), dims[2] = {8, 0};
    const uint32_t ndim = 2;
    (void)lorica_buf_append(&changed, g.bytes, (size_t)(at - g.bytes) - 8);
    (void)lorica_buf_append(&changed, &len, 8);
    (void)lorica_buf_puts(&changed, "rope_freqs.weight");
    (void)lorica_buf_append(&changed, &ndim, 4);
    (void)lorica_buf_append(&changed, dims, 16);
    at += strlen(name) + 4 + 8; /* behind its one dimension */
    (void)lorica_buf_append(&changed, at, g.len - (size_t)(at - g.bytes));
    put_file(in_root("x.gguf"), changed.data, changed.len);
    expect_refused(in_root("x.gguf"), "rope_freqs.weight");
    lorica_buf_finish(&changed);
    free(g.bytes);
}

/* A copy of tests/golden/tiny in which one file has another text. */
static const char *changed_directory(const char *name, const char *text) {
    static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "generation_config.json", "model.safetensors"};
    const char *dir = in_root("model");
    (void)nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(mkdir(dir, 0700), 0);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char from[4096], to[4096];
        (void)snprintf(from, sizeof(from), "%s/golden/tiny/%s", TEST_DATA, files[i]);
        (void)snprintf(to, sizeof(to), "%s/%s", dir, files[i]);
        if (strcmp(files[i], name) == 0)
            put_file(to, text, strlen(text));
        else
            assert_int_equal(symlink(from, to), 0);
    }
    return dir;
}

static void test_import_unknown_template_says_how_to_name_one(void **state) {
    struct lorica_error err;
    struct lorica_base *base = NULL;
    static const char *const unknown[] = {
        "{\"chat_template\":\"{{ '[INST]' + m.content + '[/INST]' }}\"}",
        "{\"chat_template\":\"{{ '<|im_start|>system\\nBe kind.<|im_end|>' }}"
        "{{ '<|im_start|>assistant' + m.content | trim + '<|im_end|>' }}\"}"};
    for (size_t i = 0; i < 2; i++) {
        const char *dir = changed_directory("tokenizer_config.json", unknown[i]);
        expect_refused(dir, "--template");
        expect_refused(dir, "chatml");
    }
    /* named, it is taken, with the model's own default system message */
    const char *dir = in_root("model"), *out = in_root("out");
    assert_int_equal(import(dir, out, LORICA_FORMAT_NF4, "chatml", &err), 0);
    assert_int_equal(lorica_base_open(out, &base, &err), 0);
    assert_non_null(strstr(base->metadata, "\"default_system\":\"Be kind.\""));
    lorica_base_close(base);
    expect_error(import(dir, out, LORICA_FORMAT_NF4, "llama9", &err), LORICA_EUNSUPPORTED, &err,
                 "llama9");
    expect_error(import(dir, out, LORICA_FORMAT_NF4, "llama9", &err), LORICA_EUNSUPPORTED, &err,
                 "chatml");
}

static void test_import_unreadable_directory_names_the_file(void **state) {
    static const char *const broken[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                         "model.safetensors"};
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
        expect_refused(changed_directory(broken[i], "{\"a\""), broken[i]);
    expect_refused(changed_directory("config.json", "{\"model_type\":\"mamba\"}"), "mamba");
    expect_refused(changed_directory("config.json", "{\"model_type\":\"llama\"}"), "vocab_size");
    expect_refused(in_root("absent"), "No such file");
}

/* -- no room, no right -- */

static void test_import_without_a_place_leaves_nothing(void **state) {
    struct lorica_error err;
    put_file(in_root("file"), "", 0);
    assert_int_equal(mkdir(in_root("taken"), 0700), 0);
    const char *const places[] = {in_root("absent/b"), in_root("file/b"), in_root("taken")};
    for (size_t i = 0; i < 3; i++) {
        expect_error(import(golden("tiny"), places[i], LORICA_FORMAT_NF4, NULL, &err), LORICA_EIO,
                     &err, places[i]);
        assert_int_equal(count_files(root), 2);
    }
    assert_int_equal(count_files(in_root("taken")), 0);
    if (geteuid() == 0)
        return; /* every directory is open to root */
    assert_int_equal(chmod(in_root("taken"), 0500), 0);
    expect_error(import(golden("tiny"), in_root("taken/b"), LORICA_FORMAT_NF4, NULL, &err),
                 LORICA_EIO, &err, "taken/b");
    assert_int_equal(chmod(in_root("taken"), 0700), 0);
    assert_int_equal(count_files(in_root("taken")), 0);
}

static void test_import_on_a_full_disk_leaves_nothing(void **state) {
    struct rlimit before, limit;
    struct lorica_error err;
    struct stat st;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(import(golden("tiny"), in_root("b"), LORICA_FORMAT_NF4, NULL, &err), 0);
    assert_int_equal(stat(in_root("b"), &st), 0);
    limit = before;
    for (int i = 0; i < 16; i++) {
        const char *out = in_root("c");
        limit.rlim_cur = (rlim_t)st.st_size * (rlim_t)i / 16;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        const int rc = import(golden("tiny"), out, LORICA_FORMAT_NF4, NULL, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        expect_error(rc, LORICA_EIO, &err, "writing the base file");
        assert_int_equal(count_files(root), 1);
    }
    (void)signal(SIGXFSZ, SIG_DFL);
}

static void test_export_on_a_full_disk_leaves_nothing(void **state) {
    struct rlimit before, limit;
    struct lorica_error err = {0};
    struct lorica_base *base = import_and_open(golden("tiny"), in_root("b"), LORICA_FORMAT_NF4);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    limit = before;
    static const rlim_t sizes[] = {0, 100, 5000, 50000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        limit.rlim_cur = sizes[i];
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        const int rc = lorica_base_export(base, in_root("exported"), &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        expect_error(rc, LORICA_EIO, &err, "cannot be written");
        assert_int_equal(count_files(root), 1);
    }
    (void)signal(SIGXFSZ, SIG_DFL);
    /* and with room, in the same place */
    assert_int_equal(lorica_base_export(base, in_root("exported"), &err), 0);
    lorica_base_close(base);
}

/* An export that is killed (here by the limit of its files) leaves nothing that could be taken for
 * one, and is no hindrance to the next. */
static void test_killed_export_leaves_no_model(void **state) {
    struct lorica_error err = {0};
    struct lorica_base *base = import_and_open(golden("tiny"), in_root("b"), LORICA_FORMAT_NF4);
    const char *dir = in_root("exported");
    int status = 0;
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct rlimit limit = {50000, 50000};
        (void)signal(SIGXFSZ, SIG_DFL);
        (void)setrlimit(RLIMIT_FSIZE, &limit);
        (void)!lorica_base_export(base, dir, &err);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
    assert_int_not_equal(access(in_root("exported/model.safetensors"), F_OK), 0);
    assert_int_not_equal(access(in_root("exported/config.json"), F_OK), 0);
    assert_true(count_files(dir) > 0);
    assert_int_equal(lorica_base_export(base, dir, &err), 0);
    assert_int_equal(access(in_root("exported/model.safetensors"), F_OK), 0);
    assert_int_not_equal(access(in_root("exported/model.safetensors.part"), F_OK), 0);
    assert_int_not_equal(access(in_root("exported/config.json.part"), F_OK), 0);
    lorica_base_close(base);
}

/* -- a damaged base file -- */

/* Opens, then verifies: which of the two says what? 0 when neither. */
static int open_and_verify(const char *path, struct lorica_error *err) {
    struct lorica_base *base = NULL;
    *err = (struct lorica_error){0};
    int rc = lorica_base_open(path, &base, err);
    if (rc) {
        assert_null(base);
        assert_non_null(strstr(err->text, path));
        return rc;
    }
    rc = lorica_base_verify(base, &sum_hasher, err);
    if (rc)
        assert_non_null(strstr(err->text, "import it again"));
    lorica_base_close(base);
    return rc;
}

static char *import_bytes(const char *path, size_t *ret_len) {
    struct lorica_error err;
    assert_int_equal(import(golden("tiny-nf4"), path, LORICA_FORMAT_NF4, NULL, &err), 0);
    return read_all(path, ret_len);
}

static void test_open_truncated_base_refused(void **state) {
    size_t len;
    struct lorica_error err;
    const char *path = in_root("b");
    char *bytes = import_bytes(path, &len);
    for (size_t cut = 0; cut <= 64; cut++) {
        put_file(path, bytes, cut == 64 ? len - 1 : len * cut / 64);
        assert_int_equal(open_and_verify(path, &err), LORICA_EFORMAT);
        assert_non_null(
            strstr(err.text, "the file is damaged or cut short: import the model again"));
    }
    char *longer = calloc(1, len + 1);
    assert_non_null(longer);
    memcpy(longer, bytes, len);
    put_file(path, longer, len + 1);
    expect_error(open_and_verify(path, &err), LORICA_EFORMAT, &err, "its length is not");
    free(longer);
    free(bytes);
}

static void test_open_other_version_says_both(void **state) {
    size_t len;
    struct lorica_error err;
    const char *path = in_root("b");
    char *bytes = import_bytes(path, &len);
    bytes[8] = 9;
    put_file(path, bytes, len);
    expect_error(open_and_verify(path, &err), LORICA_EUNSUPPORTED, &err,
                 "version 9, this lorica reads version 1");
    bytes[8] = 1;
    bytes[0] = 'l';
    put_file(path, bytes, len);
    expect_error(open_and_verify(path, &err), LORICA_EFORMAT, &err, "not a lorica base file");
    expect_error(open_and_verify(golden("tiny.gguf"), &err), LORICA_EFORMAT, &err,
                 "lorica base import");
    expect_error(open_and_verify(root, &err), LORICA_EIO, &err, "not a regular file");
    expect_error(open_and_verify(in_root("absent"), &err), LORICA_ENOTFOUND, &err, "No such file");
    free(bytes);
}

static void flip(const char *path, char *bytes, size_t len, size_t at) {
    struct lorica_error err;
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    const char flipped = (char)(bytes[at] ^ 1 << at % 8);
    assert_true(fd >= 0 && pwrite(fd, &flipped, 1, (off_t)at) == 1);
    if (open_and_verify(path, &err) == 0)
        fail_msg("a flip of byte %zu of %zu is not seen", at, len);
    assert_true(err.code != 0 && err.text[0]);
    assert_int_equal(pwrite(fd, &bytes[at], 1, (off_t)at), 1);
    (void)close(fd);
}

static void test_flipped_byte_is_seen(void **state) {
    size_t len;
    struct lorica_error err;
    const char *path = in_root("b");
    char *bytes = import_bytes(path, &len);
    put_file(path, bytes, len);
    const struct lorica_base_header *h = (const void *)bytes;
    const size_t table = h->table_offset;
    const size_t table_len = h->table_count * sizeof(struct lorica_base_entry);
    for (size_t at = 0; at < sizeof(*h); at++)
        flip(path, bytes, len, at);
    for (size_t at = 0; at < table_len; at += 7)
        flip(path, bytes, len, table + at);
    for (size_t at = h->data_offset; at < len; at += len / 50)
        flip(path, bytes, len, at);
    assert_int_equal(open_and_verify(path, &err), 0); /* all put back */
    free(bytes);
}

#define in_directory(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        in_directory(test_open_any_gives_the_sources_values),
        in_directory(test_open_any_gives_bitsandbytes_values),
        in_directory(test_import_in_exact_formats_keeps_values),
        in_directory(test_import_nf4_quantises_as_bitsandbytes),
        in_directory(test_inv_freq_equals_transformers),
        in_directory(test_export_gives_bitsandbytes_bytes_back),
        in_directory(test_export_and_import_give_the_same_digest),
        in_directory(test_export_over_files_is_refused),
        in_directory(test_import_gguf_of_other_architecture_names_it),
        in_directory(test_import_gguf_of_other_type_names_tensor_and_type),
        in_directory(test_import_gguf_with_foreign_tensor_names_it),
        in_directory(test_import_truncated_gguf_refused),
        in_directory(test_import_gguf_rope_factors_outside_refused),
        in_directory(test_import_unknown_template_says_how_to_name_one),
        in_directory(test_import_unreadable_directory_names_the_file),
        in_directory(test_import_without_a_place_leaves_nothing),
        in_directory(test_import_on_a_full_disk_leaves_nothing),
        in_directory(test_export_on_a_full_disk_leaves_nothing),
        in_directory(test_killed_export_leaves_no_model),
        in_directory(test_open_truncated_base_refused),
        in_directory(test_open_other_version_says_both),
        in_directory(test_flipped_byte_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
