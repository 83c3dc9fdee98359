/* SPDX-License-Identifier: MIT
 * Calls that fail on demand: malloc, open, write, fdatasync and ftruncate, in their kinds, whoever
 * makes them in this process, libraries included. One .c file of a test includes this. The test's
 * own functions stand before the C library's, and before those that a sanitizer puts there, which
 * they then call. */
#ifndef LORICA_TESTS_FAULTS_H
#define LORICA_TESTS_FAULTS_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED
#define real_malloc __interceptor_malloc
#define real_calloc __interceptor_calloc
#define real_realloc __interceptor_realloc
#else
#define real_malloc __libc_malloc
#define real_calloc __libc_calloc
#define real_realloc __libc_realloc
#endif

#define EXPORTED __attribute__((visibility("default")))

enum family { MALLOC, OPEN, WRITE, SYNC, TRUNCATE, FAMILIES };

static enum family armed = FAMILIES;
static unsigned long countdown; /* calls of the family until one fails */
static bool for_ever, triggered;
static int fault_errno;

static bool fault(enum family family) {
    if (family != armed)
        return false;
    if (countdown > 1) {
        countdown--;
        return false;
    }
    if (countdown == 0 && !for_ever)
        return false;
    countdown = 0;
    triggered = true;
    errno = family == MALLOC ? ENOMEM : fault_errno;
    return true;
}

/* Lets the call'th call of a family from now on fail, and, if `persistent`, all behind it; with the
 * errno `how`, where 0 stands for writes that are cut short. */
static void arm(enum family family, unsigned long call, bool persistent, int how) {
    for_ever = persistent;
    fault_errno = how;
    countdown = call;
    triggered = false;
    armed = family;
}

/* Ends that. True: a call failed. */
static bool disarm(void) {
    armed = FAMILIES;
    return triggered;
}

void *real_malloc(size_t size);
void *real_calloc(size_t count, size_t size);
void *real_realloc(void *old, size_t size);

EXPORTED void *malloc(size_t size) { return fault(MALLOC) ? NULL : real_malloc(size); }

EXPORTED void *calloc(size_t count, size_t size) {
    return fault(MALLOC) ? NULL : real_calloc(count, size);
}

EXPORTED void *realloc(void *old, size_t size) {
    return fault(MALLOC) ? NULL : real_realloc(old, size);
}

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

/* Each call under both of its names, plain and for large files: which one a library has depends on
 * how it was built. `named` gives a function the name that the linker sees. */
#define named(symbol) __asm__(symbol) EXPORTED

#define FAKE_OPEN(fake, symbol)                                                                    \
    int fake(const char *path, int flags, ...) named(symbol);                                      \
    int fake(const char *path, int flags, ...) {                                                   \
        static int (*real)(const char *, int, ...);                                                \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        int mode = flags & O_CREAT ? va_arg(args, int) : 0;                                        \
        va_end(args);                                                                              \
        if (!real)                                                                                 \
            *(void **)&real = next(symbol);                                                        \
        return fault(OPEN) ? -1 : real(path, flags, mode);                                         \
    }

#define FAKE_PWRITE(fake, symbol)                                                                  \
    ssize_t fake(int fd, const void *bytes, size_t len, off_t at) named(symbol);                   \
    ssize_t fake(int fd, const void *bytes, size_t len, off_t at) {                                \
        static ssize_t (*real)(int, const void *, size_t, off_t);                                  \
        if (!real)                                                                                 \
            *(void **)&real = next(symbol);                                                        \
        return !fault(WRITE) ? real(fd, bytes, len, at)                                            \
               : fault_errno ? -1                                                                  \
                             : real(fd, bytes, (len + 1) / 2, at);                                 \
    }

#define FAKE_FTRUNCATE(fake, symbol)                                                               \
    int fake(int fd, off_t len) named(symbol);                                                     \
    int fake(int fd, off_t len) {                                                                  \
        static int (*real)(int, off_t);                                                            \
        if (!real)                                                                                 \
            *(void **)&real = next(symbol);                                                        \
        return fault(TRUNCATE) ? -1 : real(fd, len);                                               \
    }

#define FAKE_SYNC(fake, symbol)                                                                    \
    int fake(int fd) named(symbol);                                                                \
    int fake(int fd) {                                                                             \
        static int (*real)(int);                                                                   \
        if (!real)                                                                                 \
            *(void **)&real = next(symbol);                                                        \
        return fault(SYNC) ? -1 : real(fd);                                                        \
    }

FAKE_OPEN(fake_open, "open")
FAKE_OPEN(fake_open64, "open64")
FAKE_PWRITE(fake_pwrite, "pwrite")
FAKE_PWRITE(fake_pwrite64, "pwrite64")
FAKE_FTRUNCATE(fake_ftruncate, "ftruncate")
FAKE_FTRUNCATE(fake_ftruncate64, "ftruncate64")
FAKE_SYNC(fake_fdatasync, "fdatasync")
FAKE_SYNC(fake_fsync, "fsync")

ssize_t fake_writev(int fd, const struct iovec *pieces, int count) named("writev");
ssize_t fake_writev(int fd, const struct iovec *pieces, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real)
        *(void **)&real = next("writev");
    if (!fault(WRITE))
        return real(fd, pieces, count);
    const struct iovec half = {pieces[0].iov_base, (pieces[0].iov_len + 1) / 2};
    return fault_errno ? -1 : real(fd, &half, 1);
}

ssize_t fake_write(int fd, const void *bytes, size_t len) named("write");
ssize_t fake_write(int fd, const void *bytes, size_t len) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real)
        *(void **)&real = next("write");
    return !fault(WRITE) ? real(fd, bytes, len) : fault_errno ? -1 : real(fd, bytes, (len + 1) / 2);
}

#endif
