/* SPDX-License-Identifier: MIT */
#include "registry/digest.h"

#include <limits.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

static void *sha256_create(void) {
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

static int sha256_update(void *stream, const void *bytes, size_t len) {
    return EVP_DigestUpdate(stream, bytes, len) == 1 ? 0 : LORICA_EBUG;
}

static int sha256_finish(void *stream, struct lorica_digest *ret) {
    struct lorica_digest digest;
    int rc = 0;
    if (ret) {
        if (EVP_DigestFinal_ex(stream, digest.bytes, NULL) == 1)
            *ret = digest;
        else
            rc = LORICA_EBUG;
    }
    EVP_MD_CTX_free(stream);
    return rc;
}

const struct lorica_hasher lorica_sha256_hasher = {
    .create = sha256_create, .update = sha256_update, .finish = sha256_finish};

int lorica_sha256(const void *bytes, size_t len, struct lorica_digest *ret) {
    struct lorica_digest digest;
    if (EVP_Digest(bytes, len, digest.bytes, NULL, EVP_sha256(), NULL) != 1)
        return LORICA_ENOMEM;
    *ret = digest;
    return 0;
}

int lorica_hmac_sha256(const void *key, size_t key_len, const void *bytes, size_t len,
                       struct lorica_digest *ret) {
    struct lorica_digest digest;
    unsigned nbytes = 0;
    if (key_len > INT_MAX)
        return LORICA_EINVAL;
    if (!HMAC(EVP_sha256(), key, (int)key_len, bytes, len, digest.bytes, &nbytes) ||
        nbytes != sizeof(digest.bytes))
        return LORICA_ENOMEM;
    *ret = digest;
    return 0;
}

int lorica_random_bytes(void *out, size_t len) {
    if (len > INT_MAX)
        return LORICA_EINVAL;
    return RAND_bytes(out, (int)len) == 1 ? 0 : LORICA_EIO;
}

bool lorica_equal_secret(const void *a, const void *b, size_t len) {
    return CRYPTO_memcmp(a, b, len) == 0;
}
