/* SPDX-License-Identifier: MIT
 * Import: whole or not at all. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base_file.h"

void lorica_source_finish(struct lorica_source *source) {
    lorica_buf_finish(&source->tokenizer);
    lorica_buf_finish(&source->jinja);
    lorica_buf_finish(&source->files);
}

void lorica_base_make_name(const char *text, size_t len, char out[128]) {
    size_t n = 0;
    for (size_t i = 0; i < len && n < 100; i++) {
        const char c = (char)tolower((unsigned char)text[i]);
        const bool fine = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_';
        if (fine)
            out[n++] = c;
        else if (n > 0 && out[n - 1] != '-')
            out[n++] = '-';
    }
    while (n > 0 && (out[n - 1] == '-' || out[n - 1] == '.'))
        n--;
    out[n] = '\0';
    size_t skip = strspn(out, ".-_");
    memmove(out, out + skip, n - skip + 1);
    if (!out[0])
        (void)snprintf(out, 128, "base-model");
}

static int open_source(const char *path, struct lorica_source *ret, struct lorica_error *err) {
    struct stat st;
    if (stat(path, &st))
        return lorica_fail(err, errno == ENOENT ? LORICA_ENOTFOUND : LORICA_EIO, "%s: %s", path,
                           strerror(errno));
    int rc = 0;
    if (S_ISDIR(st.st_mode))
        rc = lorica_source_open_hf(path, ret, err);
    else
        rc = lorica_source_open_gguf(path, ret, err);
    return rc && err ? lorica_fail_prefix(err, "%s", path) : rc;
}

static int import_to(int fd, const char *source_path, const struct lorica_import_options *options,
                     struct lorica_error *err) {
    struct lorica_source source = {0};
    int rc = open_source(source_path, &source, err);
    if (rc)
        return rc;
    rc = lorica_base_write(fd, &source, options, err);
    source.close(&source);
    return rc && err ? lorica_fail_prefix(err, "%s", source_path) : rc;
}

static int sync_directory(const char *path, struct lorica_error *err) {
    char dir[4096];
    (void)snprintf(dir, sizeof(dir), "%s", path);
    char *slash = strrchr(dir, '/');
    if (!slash)
        (void)snprintf(dir, sizeof(dir), ".");
    else
        slash[slash == dir] = '\0';
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int bad = fd < 0 || fsync(fd);
    const int code = errno;
    if (fd >= 0)
        (void)close(fd);
    return bad ? lorica_fail(err, LORICA_EIO, "%s: cannot sync: %s", dir, strerror(code)) : 0;
}

int lorica_base_import(const char *source, const char *out_path,
                       const struct lorica_import_options *options, struct lorica_error *err) {
    char temp[4096];
    const int n = snprintf(temp, sizeof(temp), "%s.XXXXXX", out_path);
    if (n < 0 || (size_t)n >= sizeof(temp))
        return lorica_fail(err, LORICA_EINVAL, "%s: the path is too long", out_path);
    const int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0)
        return lorica_fail(err, LORICA_EIO, "%s: cannot create: %s", temp, strerror(errno));
    struct lorica_error inner = {0};
    int rc = import_to(fd, source, options, &inner);
    if (rc)
        (void)lorica_fail(err, rc, "%s", inner.text);
    else if (fchmod(fd, 0444) || fsync(fd))
        rc = lorica_fail(err, errno == ENOSPC ? LORICA_ENOSPC : LORICA_EIO, "%s: %s", temp,
                         strerror(errno));
    (void)close(fd);
    if (!rc && rename(temp, out_path))
        rc = lorica_fail(err, LORICA_EIO, "%s: cannot rename: %s", out_path, strerror(errno));
    if (rc) {
        (void)unlink(temp);
        return rc;
    }
    return sync_directory(out_path, err);
}

static int open_temporary(struct lorica_error *err) {
    const char *dir = getenv("TMPDIR");
    char path[4096];
    dir = dir && *dir ? dir : "/tmp";
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    (void)snprintf(path, sizeof(path), "%s/lorica-XXXXXX", dir);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return lorica_fail(err, LORICA_EIO, "%s: cannot create a temporary file: %s", dir,
                           strerror(errno));
    (void)unlink(path);
    return fd;
}

static bool is_base_file(const char *path) {
    uint8_t magic[8] = {0};
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, magic, sizeof(magic));
    if (fd >= 0)
        (void)close(fd);
    return n == (ssize_t)sizeof(magic) && memcmp(magic, LORICA_BASE_MAGIC, 6) == 0;
}

int lorica_base_open_any(const char *path, const struct lorica_hasher *hasher,
                         struct lorica_base **ret, struct lorica_error *err) {
    if (is_base_file(path))
        return lorica_base_open(path, ret, err);
    const int fd = open_temporary(err);
    if (fd < 0)
        return fd;
    const struct lorica_import_options options = {
        .format = LORICA_FORMAT_NF4, .keep_source_precision = true, .hasher = hasher};
    struct lorica_error inner = {0};
    int rc = import_to(fd, path, &options, &inner);
    if (rc)
        (void)lorica_fail(err, rc, "%s", inner.text);
    else
        rc = lorica_base_open_fd(fd, path, ret, err);
    (void)close(fd);
    return rc;
}
