/* SPDX-License-Identifier: MIT
 * A SHA-256 digest as a value of 32 bytes. Text becomes a digest here, once, at the boundary;
 * nothing behind it handles digests as strings. */
#ifndef LORICA_PROTO_DIGEST_H
#define LORICA_PROTO_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

struct lorica_digest {
    uint8_t bytes[32];
};

/** Length of "sha256:" + 64 hexadecimal digits + NUL. */
#define LORICA_DIGEST_TEXT 72

/** Writes "sha256:<64 lower-case hexadecimal digits>" and returns `out`. */
const char *lorica_digest_format(const struct lorica_digest *digest, char out[LORICA_DIGEST_TEXT]);

/** Reads exactly the form that format writes (`len` bytes, no terminator needed). LORICA_EINVAL
 * for anything else; `ret` is then untouched. */
int lorica_digest_parse(const char *text, size_t len, struct lorica_digest *ret) LORICA_MUSTCHECK;

/** True when equal. */
bool lorica_digest_equal(const struct lorica_digest *a, const struct lorica_digest *b);

/** SHA-256 as a service that a higher layer provides, since lower ones hold no cryptography
 * (registry/digest.h has the implementation). One stream at a time per context. */
struct lorica_hasher {
    void *(*create)(void);                                      /**< new stream; NULL: no memory */
    int (*update)(void *stream, const void *bytes, size_t len); /**< 0 or a lorica error */
    int (*finish)(void *stream, struct lorica_digest *ret);     /**< ends and frees; ret may be
                                                                     NULL to abandon */
};

#endif
