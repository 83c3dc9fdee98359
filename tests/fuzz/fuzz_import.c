/* SPDX-License-Identifier: MIT
 * A model from any bytes: "GGUF..." is a GGUF file, anything else the files of a Hugging Face
 * directory with the byte 0x1e between them (an empty one is absent, the last has the rest). What
 * can be imported must give a base file that opens, has the digest of its content, and holds finite
 * values. */
#include "base_input.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char *const names[] = {
    "config.json",           "tokenizer.json",
    "tokenizer_config.json", "generation_config.json",
    "chat_template.jinja",   "model.safetensors.index.json",
    "model.safetensors",
};
#define NAME_COUNT (sizeof(names) / sizeof(names[0]))

static char directory[64];

static void remove_directory(void) {
    for (size_t i = 0; i < NAME_COUNT; i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(directory);
}

static void make_directory(void) {
    static const char *const parents[] = {"/dev/shm", "/tmp"};
    for (size_t i = 0; i < 2 && !directory[0]; i++) {
        (void)snprintf(directory, sizeof(directory), "%s/lorica-fuzz-XXXXXX", parents[i]);
        if (!mkdtemp(directory))
            directory[0] = '\0';
    }
    if (!directory[0] || atexit(remove_directory))
        abort();
}

static void put_file(const char *name, const uint8_t *bytes, size_t len) {
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    (void)unlink(path);
    if (len == 0)
        return;
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, bytes, len) != (ssize_t)len || close(fd))
        abort();
}

static int open_directory(const uint8_t *data, size_t len, struct lorica_source *ret,
                          struct lorica_error *err) {
    if (!directory[0])
        make_directory();
    for (size_t i = 0; i < NAME_COUNT; i++) {
        const uint8_t *end = i + 1 < NAME_COUNT && len ? memchr(data, 0x1e, len) : NULL;
        const size_t n = end ? (size_t)(end - data) : len;
        put_file(names[i], data, n);
        data += n + (end != NULL);
        len -= n + (end != NULL);
    }
    return lorica_source_open_hf(directory, ret, err);
}

static int open_source(const uint8_t *data, size_t len, struct lorica_source *ret,
                       struct lorica_error *err) {
    char path[64];
    if (len < 4 || memcmp(data, "GGUF", 4) != 0)
        return open_directory(data, len, ret, err);
    const int fd = file_of(data, len);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const int rc = lorica_source_open_gguf(path, ret, err);
    (void)close(fd);
    return rc;
}

static void expect_finite(const struct lorica_base *base) {
    uint64_t count;
    (void)lorica_base_table(base, &count);
    for (uint64_t i = 0; i < count; i++) {
        struct lorica_matrix scratch;
        const struct lorica_matrix *m = lorica_base_matrix(base, i, &scratch);
        float *row = malloc(m->k * sizeof(*row));
        for (uint32_t r = 0; row && r < m->n; r++) {
            lorica_matrix_rows_f32(m, r, 1, row);
            for (uint32_t c = 0; c < m->k; c++)
                if (!isfinite(row[c]))
                    abort();
        }
        free(row);
    }
}

static void write_base(const struct lorica_source *source, enum lorica_format format, bool keep) {
    const struct lorica_import_options options = {
        .format = format, .keep_source_precision = keep, .hasher = &fnv_hasher};
    struct lorica_error err = {0};
    struct lorica_base *base = NULL;
    const int fd = file_of("", 0);
    const int rc = lorica_base_write(fd, source, &options, &err);
    if (rc == LORICA_ENOSPC)
        abort(); /* a file in memory has no limit */
    if (rc)
        expect_sentence(rc, &err);
    else if (lorica_base_open_fd(fd, "written", &base, &err) != 0 ||
             lorica_base_verify(base, &fnv_hasher, &err) != 0)
        abort();
    if (base)
        expect_finite(base);
    lorica_base_close(base);
    (void)close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_source source = {0};
    struct lorica_error err = {0};
    const int rc = open_source(data, len, &source, &err);
    if (rc) {
        expect_sentence(rc, &err);
        return 0;
    }
    write_base(&source, LORICA_FORMAT_NF4, true);
    write_base(&source, LORICA_FORMAT_NF4, false);
    write_base(&source, LORICA_FORMAT_Q8, false);
    write_base(&source, LORICA_FORMAT_BF16, false);
    source.close(&source);
    return 0;
}
