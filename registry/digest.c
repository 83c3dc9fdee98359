/* SPDX-License-Identifier: MIT */
#include "registry/digest.h"

#include <limits.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "registry/openssl.h"

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

int lorica_seal_draw(struct lorica_seal *ret) {
    *ret = (struct lorica_seal){0};
    return lorica_random_bytes(ret->key, sizeof(ret->key));
}

void *lorica_seal_create(const struct lorica_seal *seal) {
    static const uint8_t iv[12] = {0}; /* each key makes one tag, over the same bytes */
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx && EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, seal->key, iv) != 1) {
        EVP_CIPHER_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

int lorica_seal_update(void *stream, const void *bytes, size_t len) {
    int ignored;
    if (len > INT_MAX)
        return LORICA_EINVAL;
    return EVP_EncryptUpdate(stream, NULL, &ignored, bytes, (int)len) == 1 ? 0 : LORICA_EBUG;
}

int lorica_seal_finish(void *stream, struct lorica_seal *ret) {
    uint8_t none[16];
    int rc = 0, ignored;
    if (ret &&
        (EVP_EncryptFinal_ex(stream, none, &ignored) != 1 ||
         EVP_CIPHER_CTX_ctrl(stream, EVP_CTRL_AEAD_GET_TAG, sizeof(ret->tag), ret->tag) != 1))
        rc = LORICA_EBUG;
    EVP_CIPHER_CTX_free(stream);
    return rc;
}

int lorica_random_bytes(void *out, size_t len) {
    if (len > INT_MAX)
        return LORICA_EINVAL;
    lorica_openssl_forget();
    if (RAND_bytes(out, (int)len) == 1)
        return 0;
    return lorica_openssl_starved() ? LORICA_ENOMEM : LORICA_EIO;
}

bool lorica_equal_secret(const void *a, const void *b, size_t len) {
    return CRYPTO_memcmp(a, b, len) == 0;
}
