/* SPDX-License-Identifier: MIT
 * For targets whose parser maps files: mmap gives a copy of just the file's bytes, so that a
 * sanitizer sees one byte too far. Linked with --wrap for mmap, under both its names, and munmap.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *addr, size_t len);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *addr, size_t len);

static struct copy {
    void *bytes;
    struct copy *next;
} * copies;

void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset) {
    if (fd < 0)
        return __real_mmap64(addr, len, prot, flags, fd, offset);
    struct copy *copy = malloc(sizeof(*copy));
    if (!copy || posix_memalign(&copy->bytes, 4096, len))
        abort();
    for (size_t at = 0; at < len;) {
        const ssize_t n = pread(fd, (char *)copy->bytes + at, len - at, offset + (off_t)at);
        if (n <= 0)
            abort();
        at += (size_t)n;
    }
    copy->next = copies;
    copies = copy;
    return copy->bytes;
}

void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset) {
    return __wrap_mmap64(addr, len, prot, flags, fd, offset);
}

int __wrap_munmap(void *addr, size_t len) {
    for (struct copy **at = &copies; *at; at = &(*at)->next) {
        struct copy *copy = *at;
        if (copy->bytes != addr)
            continue;
        *at = copy->next;
        free(copy->bytes);
        free(copy);
        return 0;
    }
    return __real_munmap(addr, len);
}
