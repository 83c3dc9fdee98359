/* SPDX-License-Identifier: MIT
 * What the targets around the base file share. */
#ifndef LORICA_TESTS_BASE_INPUT_H
#define LORICA_TESTS_BASE_INPUT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/digest.h"
#include "runtime/base_file.h"

/* FNV in place of SHA-256: nothing here depends on which digest it is. */

static inline void *fnv_create(void) {
    uint64_t *sum = malloc(sizeof(*sum));
    if (sum)
        *sum = 0xCBF29CE484222325u;
    return sum;
}

static inline int fnv_update(void *stream, const void *bytes, size_t len) {
    uint64_t *sum = stream;
    for (size_t i = 0; i < len; i++)
        *sum = (*sum ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3u;
    return 0;
}

static inline int fnv_finish(void *stream, struct lorica_digest *ret) {
    if (ret) {
        memset(ret, 0, sizeof(*ret));
        memcpy(ret->bytes, stream, sizeof(uint64_t));
    }
    free(stream);
    return 0;
}

static const struct lorica_hasher fnv_hasher = {fnv_create, fnv_update, fnv_finish};

/** A file of these bytes, in memory. */
static inline int file_of(const void *bytes, size_t len) {
    const int fd = memfd_create("input", MFD_CLOEXEC);
    if (fd < 0)
        abort();
    for (size_t at = 0; at < len;) {
        const ssize_t n = write(fd, (const char *)bytes + at, len - at);
        if (n <= 0)
            abort();
        at += (size_t)n;
    }
    return fd;
}

/** A refusal has a code and a sentence. */
static inline void expect_sentence(int rc, const struct lorica_error *err) {
    if (rc >= 0 || err->code != rc || !*err->text)
        abort();
}

#endif
