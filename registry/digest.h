/* SPDX-License-Identifier: MIT
 * SHA-256, HMAC, seals and random bytes on OpenSSL: the only cryptography below the gateway. */
#ifndef LORICA_REGISTRY_DIGEST_H
#define LORICA_REGISTRY_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/digest.h"

/** SHA-256 as a stream, for layers that take a hasher. */
extern const struct lorica_hasher lorica_sha256_hasher;

/** SHA-256 of one piece of memory. */
int lorica_sha256(const void *bytes, size_t len, struct lorica_digest *ret) LORICA_MUSTCHECK;

/** HMAC-SHA-256. */
int lorica_hmac_sha256(const void *key, size_t key_len, const void *bytes, size_t len,
                       struct lorica_digest *ret) LORICA_MUSTCHECK;

/** Tells whether bytes that were put aside come back as they were, five times as fast as SHA-256:
 * a tag (GMAC) under a key that is drawn at random for these bytes alone and told to nobody. */
struct lorica_seal {
    uint8_t key[16], tag[16];
};

/** Draws the key. */
int lorica_seal_draw(struct lorica_seal *ret) LORICA_MUSTCHECK;
/** New stream under the seal's key; NULL: no memory. */
void *lorica_seal_create(const struct lorica_seal *seal) LORICA_MUSTCHECK;
int lorica_seal_update(void *stream, const void *bytes, size_t len) LORICA_MUSTCHECK;
/** Ends and frees; sets the tag. `ret` may be NULL to abandon. */
int lorica_seal_finish(void *stream, struct lorica_seal *ret) LORICA_MUSTCHECK;

/** True when equal; takes the same time wherever they differ. */
bool lorica_equal_secret(const void *a, const void *b, size_t len);

/** Fills with random bytes fit for keys. */
int lorica_random_bytes(void *out, size_t len) LORICA_MUSTCHECK;

#endif
