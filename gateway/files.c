/* SPDX-License-Identifier: MIT */
#include "gateway/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int lorica_fail_errno(struct lorica_error *err, const char *path, const char *what) {
    const int number = errno;
    int code = LORICA_EIO;
    if (number == ENOENT)
        code = LORICA_ENOTFOUND;
    else if (number == EACCES || number == EPERM || number == EROFS)
        code = LORICA_EPERM;
    else if (number == ENOSPC || number == EDQUOT)
        code = LORICA_ENOSPC;
    else if (number == ENOMEM)
        code = LORICA_ENOMEM;
    return lorica_fail(err, code, "%s: %s: %s", path, what, strerror(number));
}

char *lorica_path_join(const char *dir, const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

bool lorica_path_exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

bool lorica_path_hide(char *text, const char *dir) {
    const size_t len = strlen(dir);
    bool hidden = false;
    if (len < 2 || dir[0] != '/')
        return false;
    for (char *at = text; (at = strstr(at, dir));) {
        const size_t more = strspn(at + len, "/");
        if (more > 0)
            memmove(at, at + len + more, strlen(at + len + more) + 1);
        else
            at += len;
        hidden = hidden || more > 0;
    }
    return hidden;
}

/* Makes one directory, or finds it there. */
static int dir_make(const char *path, mode_t mode, struct lorica_error *err) {
    struct stat st;
    if (mkdir(path, mode) == 0)
        return 0;
    if (errno != EEXIST)
        return lorica_fail_errno(err, path, "the directory cannot be made");
    if (stat(path, &st) != 0)
        return lorica_fail_errno(err, path, "cannot be examined");
    if (!S_ISDIR(st.st_mode))
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s is not a directory; move it away or name another place", path);
    return 0;
}

int lorica_dirs_make(const char *path, mode_t mode, struct lorica_error *err) {
    char *copy = strdup(path);
    int rc = 0;
    if (!copy)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    for (char *p = copy + 1; rc == 0 && *copy && (p = strchr(p, '/')); p++) {
        *p = '\0';
        rc = dir_make(copy, mode, err);
        *p = '/';
    }
    if (rc == 0)
        rc = dir_make(copy, mode, err);
    free(copy);
    return rc;
}

int lorica_path_sync(const char *path, struct lorica_error *err) {
    char copy[PATH_MAX]; /* what was done before this must not fail for want of memory */
    if (strlen(path) >= sizeof(copy)) {
        errno = ENAMETOOLONG;
        return lorica_fail_errno(err, path, "the directory cannot be synced");
    }
    memcpy(copy, path, strlen(path) + 1);
    char *slash = strrchr(copy, '/');
    if (slash)
        slash[slash == copy] = '\0';
    const int fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = 0;
    if (fd < 0 || fsync(fd) != 0)
        rc = lorica_fail_errno(err, slash ? copy : ".", "the directory cannot be synced");
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

static int write_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        const ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_parts(int fd, const struct iovec *parts, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (write_all(fd, parts[i].iov_base, parts[i].iov_len) != 0)
            return -1;
    return fsync(fd);
}

int lorica_file_replace(const char *path, const void *bytes, size_t len, mode_t mode,
                        struct lorica_error *err) {
    const struct iovec part = {(void *)(uintptr_t)bytes, len};
    return lorica_file_replace_parts(path, &part, 1, mode, err);
}

int lorica_file_replace_parts(const char *path, const struct iovec *parts, size_t count,
                              mode_t mode, struct lorica_error *err) {
    char *temporary = NULL;
    int rc = 0;
    if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const int fd = mkostemp(temporary, O_CLOEXEC); /* mode 0600 until it is whole */
    if (fd < 0) {
        rc = lorica_fail_errno(err, path, "cannot be written");
        free(temporary);
        return rc;
    }
    if (write_parts(fd, parts, count) != 0 || fchmod(fd, mode) != 0)
        rc = lorica_fail_errno(err, path, "cannot be written");
    (void)close(fd);
    if (rc == 0 && rename(temporary, path) != 0)
        rc = lorica_fail_errno(err, path, "cannot be put in place");
    if (rc != 0)
        (void)unlink(temporary);
    else
        rc = lorica_path_sync(path, err);
    free(temporary);
    return rc;
}

int lorica_file_read(const char *path, size_t max, char **ret, size_t *ret_len,
                     struct lorica_error *err) {
    FILE *file = fopen(path, "re");
    if (!file)
        return lorica_fail_errno(err, path, "cannot be opened");
    size_t len = 0, cap = 4096 < max ? 4096 : max;
    char *bytes = malloc(cap + 1);
    int rc = bytes ? 0 : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    while (rc == 0) {
        len += fread(bytes + len, 1, cap - len, file);
        if (len < cap || cap == max)
            break;
        cap = cap < max / 2 ? cap * 2 : max;
        char *longer = realloc(bytes, cap + 1);
        if (longer)
            bytes = longer;
        else
            rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    }
    if (rc == 0 && ferror(file))
        rc = lorica_fail_errno(err, path, "cannot be read");
    if (rc == 0 && len == max && fgetc(file) != EOF)
        rc = lorica_fail(err, LORICA_ELIMIT, "%s is larger than %zu bytes", path, max);
    (void)fclose(file);
    if (rc != 0) {
        free(bytes);
        return rc;
    }
    bytes[len] = '\0';
    *ret = bytes;
    *ret_len = len;
    return 0;
}

int lorica_file_read_at(int fd, uint64_t offset, void *out, size_t len, const char *what,
                        struct lorica_error *err) {
    char *to = out;
    while (len > 0) {
        const ssize_t n = pread(fd, to, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return lorica_fail(err, LORICA_EIO, "%s could not be read: %s", what,
                               n < 0 ? strerror(errno) : "it ends too early");
        to += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int lorica_file_move(const char *from, const char *path, struct lorica_error *err) {
    const int fd = open(from, O_RDONLY | O_CLOEXEC);
    int rc = 0;
    if (fd < 0 || fsync(fd) != 0)
        rc = lorica_fail_errno(err, from, "cannot be synced");
    if (fd >= 0)
        (void)close(fd);
    if (rc == 0 && rename(from, path) != 0)
        rc = lorica_fail_errno(err, path, "cannot be put in place");
    return rc == 0 ? lorica_path_sync(path, err) : rc;
}

void lorica_dir_discard(const char *path) {
    DIR *dir = opendir(path);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        (void)closedir(dir);
    (void)rmdir(path);
}
