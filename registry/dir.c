/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "registry/digest.h"
#include "registry/internal.h"

/* File systems whose locks or shared maps a store cannot rely on. */
static const struct {
    uint64_t magic;
    const char *name;
} remotes[] = {
    {0x6969, "NFS"},        {0x517B, "SMB"},        {0xFF534D42, "CIFS"}, {0xFE534D42, "SMB2"},
    {0x564C, "NCP"},        {0x73757245, "Coda"},   {0x5346414F, "AFS"},  {0x6B414653, "AFS"},
    {0x01021997, "9p"},     {0x65735546, "FUSE"},   {0x00C36400, "Ceph"}, {0x01161970, "GFS2"},
    {0x7461636F, "OCFS2"},  {0x0BD00BD0, "Lustre"}, {0x47504653, "GPFS"}, {0x786F4256, "vboxsf"},
    {0xBACBACBC, "VMware"}, {0x19830326, "BeeGFS"},
};

const char *lorica_dir_remote(uint64_t magic) {
    for (size_t i = 0; i < sizeof(remotes) / sizeof(remotes[0]); i++) {
        if (remotes[i].magic == magic)
            return remotes[i].name;
    }
    return NULL;
}

int lorica_dir_join(char out[LORICA_PATH_MAX], const char *dir, const char *file,
                    struct lorica_error *err) {
    int len = snprintf(out, LORICA_PATH_MAX, "%s/%s", dir, file);
    if (len < 0 || len >= LORICA_PATH_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "the path %.100s... is too long", dir);
    return 0;
}

static int check_local(const char *dir, struct lorica_error *err) {
    struct statfs fs;
    if (statfs(dir, &fs) != 0)
        return lorica_fail(err, errno == ENOENT ? LORICA_ENOTFOUND : LORICA_EIO, "%s: %s", dir,
                           errno == ENOENT ? "there is no registry here" : strerror(errno));
    const char *remote = lorica_dir_remote((uint64_t)fs.f_type & 0xFFFFFFFF);
    if (remote)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "%s: lies on a %s file system, on which no store is safe; put it on a "
                           "local disk",
                           dir, remote);
    return 0;
}

static int refuse_locked(const char *dir, int fd, struct lorica_error *err) {
    char text[32] = "";
    ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
    long pid = 0;
    if (len > 0 && sscanf(text, "%ld", &pid) == 1 && pid > 0)
        return lorica_fail(err, LORICA_EBUSY,
                           "%s: process %ld has this registry open; stop it, or ask it through "
                           "its server",
                           dir, pid);
    return lorica_fail(err, LORICA_EBUSY,
                       "%s: another process has this registry open; stop it, or ask it through "
                       "its server",
                       dir);
}

int lorica_dir_lock(const char *dir, bool read_only, int *ret_fd, struct lorica_error *err) {
    char path[LORICA_PATH_MAX], pid[32];
    if (!read_only && mkdir(dir, 0700) != 0 && errno != EEXIST)
        return lorica_fail(err, errno == ENOSPC ? LORICA_ENOSPC : LORICA_EIO,
                           "%s: cannot be created: %s", dir, strerror(errno));
    int rc = check_local(dir, err);
    if (!rc)
        rc = lorica_dir_join(path, dir, "lock", err);
    if (rc)
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && read_only)
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return lorica_fail(err, errno == ENOSPC ? LORICA_ENOSPC : LORICA_EIO, "%s: %s", path,
                           strerror(errno));
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR)
            continue;
        rc = errno == EWOULDBLOCK ? refuse_locked(dir, fd, err)
                                  : lorica_fail(err, LORICA_EIO, "%s: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    /* The number only helps the sentence of whoever is refused; the lock does not depend on it. */
    int len = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
    if (!read_only && (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)len, 0) != len)) {
        rc = lorica_fail(err, errno == ENOSPC ? LORICA_ENOSPC : LORICA_EIO, "%s: %s", path,
                         strerror(errno));
        close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

int lorica_dir_sync(const char *dir, struct lorica_error *err) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return rc ? lorica_fail(err, LORICA_EIO, "%s: %s", dir, strerror(rc)) : 0;
}

int lorica_dir_pepper_read(const char *dir, uint8_t ret[LORICA_PEPPER_BYTES],
                           struct lorica_error *err) {
    char path[LORICA_PATH_MAX];
    uint8_t bytes[LORICA_PEPPER_BYTES + 1];
    int rc = lorica_dir_join(path, dir, "pepper", err);
    if (rc)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return LORICA_ENOTFOUND;
    if (fd < 0)
        return lorica_fail(err, LORICA_EIO, "%s: %s", path, strerror(errno));
    ssize_t len = read(fd, bytes, sizeof(bytes));
    rc = errno;
    close(fd);
    if (len < 0)
        return lorica_fail(err, LORICA_EIO, "%s: %s", path, strerror(rc));
    if (len != LORICA_PEPPER_BYTES)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: must hold %d bytes; restore it from a backup, keys depend on it",
                           path, LORICA_PEPPER_BYTES);
    memcpy(ret, bytes, LORICA_PEPPER_BYTES);
    return 0;
}

int lorica_dir_pepper_write(const char *dir, const uint8_t pepper[LORICA_PEPPER_BYTES],
                            struct lorica_error *err) {
    char path[LORICA_PATH_MAX], temporary[LORICA_PATH_MAX];
    int rc = lorica_dir_join(path, dir, "pepper", err);
    if (!rc)
        rc = lorica_dir_join(temporary, dir, "pepper.new", err);
    if (rc)
        return rc;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool done = fd >= 0 && write(fd, pepper, LORICA_PEPPER_BYTES) == (ssize_t)LORICA_PEPPER_BYTES &&
                fsync(fd) == 0 && rename(temporary, path) == 0;
    int failure = errno;
    if (fd >= 0)
        close(fd);
    if (!done)
        return lorica_fail(err, failure == ENOSPC || failure == EDQUOT ? LORICA_ENOSPC : LORICA_EIO,
                           "%s: cannot be written: %s", path, strerror(failure));
    return lorica_dir_sync(dir, err);
}

int lorica_dir_pepper_create(const char *dir, uint8_t ret[LORICA_PEPPER_BYTES],
                             struct lorica_error *err) {
    uint8_t bytes[LORICA_PEPPER_BYTES];
    int rc = lorica_random_bytes(bytes, sizeof(bytes));
    if (rc)
        return lorica_fail(err, rc, "%s/pepper: the system gives no random bytes", dir);
    rc = lorica_dir_pepper_write(dir, bytes, err);
    if (!rc)
        memcpy(ret, bytes, sizeof(bytes));
    explicit_bzero(bytes, sizeof(bytes));
    return rc;
}
