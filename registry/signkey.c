/* SPDX-License-Identifier: MIT */
#include "registry/signkey.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "registry/digest.h"
#include "registry/openssl.h"

struct kind {
    const char *name;
    const char *type;  /* OpenSSL's names of the algorithm */
    const char *group; /* and of the curve; NULL: it has none */
    const char *hash;  /* NULL: it takes the bytes as they are */
};

static const struct kind kinds[] = {
    {"ed25519", "ED25519", NULL, NULL},
    {"ecdsa-p256", "EC", "prime256v1", "SHA256"},
    {"ecdsa-p384", "EC", "secp384r1", "SHA384"},
    {"ecdsa-p521", "EC", "secp521r1", "SHA512"},
};
#define KIND_COUNT (sizeof(kinds) / sizeof(kinds[0]))

struct lorica_signkey {
    EVP_PKEY *pkey; /* owned */
    const struct kind *kind;
    struct lorica_digest id;
    char public_pem[LORICA_PUBLIC_PEM_MAX];
};

/* What OpenSSL has to say goes nowhere: the queue must be empty for the next one. A verdict for
 * which it had no memory is none. */
static int fail_key(struct lorica_error *err, int code, const char *sentence) {
    ERR_clear_error();
    if (code == LORICA_ENOMEM || lorica_openssl_starved())
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    return lorica_fail(err, code, "%s", sentence);
}

/* A private key is never asked a password for: it would wait at a terminal. */
static int no_password(char *buf, int size, int writing, void *arg) {
    *(bool *)arg = true;
    return -1;
}

static const struct kind *kind_of(const EVP_PKEY *pkey) {
    char group[64] = "";
    for (size_t i = 0; i < KIND_COUNT; i++) {
        if (!EVP_PKEY_is_a(pkey, kinds[i].type))
            continue;
        if (!kinds[i].group)
            return &kinds[i];
        if (EVP_PKEY_get_group_name(pkey, group, sizeof(group), NULL) == 1 &&
            strcmp(group, kinds[i].group) == 0)
            return &kinds[i];
    }
    return NULL;
}

static int describe(struct lorica_signkey *key, struct lorica_error *err) {
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL;
    int rc = 0;
    key->kind = kind_of(key->pkey);
    const long len = bio && key->kind && PEM_write_bio_PUBKEY(bio, key->pkey) == 1
                         ? BIO_get_mem_data(bio, &text)
                         : -1;
    if (!key->kind)
        rc = fail_key(err, LORICA_EUNSUPPORTED,
                      "the key is neither Ed25519 nor ECDSA on P-256, P-384 or P-521");
    else if (len <= 0 || len >= (long)sizeof(key->public_pem))
        rc = fail_key(err, LORICA_EFORMAT, "the public key cannot be written");
    if (!rc) {
        memcpy(key->public_pem, text, (size_t)len);
        rc = lorica_sha256(text, (size_t)len, &key->id);
        if (rc)
            rc = fail_key(err, rc, "the public key cannot be hashed");
    }
    BIO_free(bio);
    return rc;
}

/* Takes the key over, also when it fails. */
static int wrap(EVP_PKEY *pkey, struct lorica_signkey **ret, struct lorica_error *err) {
    struct lorica_signkey *key = calloc(1, sizeof(*key));
    if (!key) {
        EVP_PKEY_free(pkey);
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    }
    key->pkey = pkey;
    const int rc = describe(key, err);
    if (rc)
        lorica_signkey_destroy(key);
    else
        *ret = key;
    return rc;
}

static BIO *reading(const char *pem, size_t len) {
    return len <= LORICA_PEM_MAX ? BIO_new_mem_buf(pem, (int)len) : NULL;
}

int lorica_signkey_private(const char *pem, size_t len, struct lorica_signkey **ret,
                           struct lorica_error *err) {
    bool asked = false;
    lorica_openssl_forget();
    BIO *bio = reading(pem, len);
    EVP_PKEY *pkey = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, &asked) : NULL;
    BIO_free(bio);
    if (!pkey && asked)
        return fail_key(err, LORICA_EFORMAT,
                        "the private key is encrypted; write it once without a password (openssl "
                        "pkey -in KEY -out KEY2), in a file that only you can read");
    if (!pkey)
        return fail_key(err, LORICA_EFORMAT,
                        "this is no private key in PEM; `openssl genpkey -algorithm ed25519 -out "
                        "KEY` makes one");
    return wrap(pkey, ret, err);
}

int lorica_signkey_public(const char *pem, size_t len, struct lorica_signkey **ret,
                          struct lorica_error *err) {
    lorica_openssl_forget();
    BIO *bio = reading(pem, len);
    EVP_PKEY *pkey = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    if (!pkey)
        return fail_key(err, LORICA_EFORMAT,
                        "this is no public key in PEM; `openssl pkey -in KEY -pubout` writes that "
                        "of a private key");
    return wrap(pkey, ret, err);
}

int lorica_signkey_generate(struct lorica_signkey **ret, struct lorica_error *err) {
    lorica_openssl_forget();
    EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (!pkey)
        return fail_key(err, LORICA_EIO, "OpenSSL makes no Ed25519 key");
    return wrap(pkey, ret, err);
}

void lorica_signkey_destroy(struct lorica_signkey *key) {
    if (!key)
        return;
    EVP_PKEY_free(key->pkey);
    free(key);
}

const char *lorica_signkey_algorithm(const struct lorica_signkey *key) { return key->kind->name; }

bool lorica_signkey_is_ed25519(const struct lorica_signkey *key) { return !key->kind->group; }

const char *lorica_signkey_public_pem(const struct lorica_signkey *key) { return key->public_pem; }

const struct lorica_digest *lorica_signkey_id(const struct lorica_signkey *key) { return &key->id; }

int lorica_signkey_write_private(const struct lorica_signkey *key, struct lorica_buf *out,
                                 struct lorica_error *err) {
    lorica_openssl_forget();
    BIO *bio = BIO_new(BIO_s_secmem());
    char *text = NULL;
    const long len = bio && PEM_write_bio_PrivateKey(bio, key->pkey, NULL, NULL, 0, NULL, NULL) == 1
                         ? BIO_get_mem_data(bio, &text)
                         : -1;
    int rc = len > 0 ? lorica_buf_append(out, text, (size_t)len) : LORICA_EBUG;
    BIO_free(bio);
    if (rc)
        rc = fail_key(err, rc, "the private key cannot be written");
    return rc;
}

const char *lorica_keyid_format(const struct lorica_digest *id, char out[LORICA_KEYID_TEXT]) {
    char text[LORICA_DIGEST_TEXT];
    memcpy(out, lorica_digest_format(id, text) + strlen("sha256:"), LORICA_KEYID_TEXT);
    return out;
}

int lorica_keyid_parse(const char *text, struct lorica_digest *ret) {
    char whole[LORICA_DIGEST_TEXT] = "sha256:";
    const size_t len = strnlen(text, LORICA_KEYID_TEXT);
    if (len != LORICA_KEYID_TEXT - 1)
        return LORICA_EFORMAT;
    memcpy(whole + strlen("sha256:"), text, len + 1);
    return lorica_digest_parse(whole, strlen(whole), ret) ? LORICA_EFORMAT : 0;
}

static int make_signature(const struct lorica_signkey *key, const struct lorica_buf *pae,
                          struct lorica_envelope *e) {
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    const unsigned char *bytes = (const unsigned char *)pae->data;
    int rc = LORICA_EBUG;
    if (ctx &&
        EVP_DigestSignInit_ex(ctx, NULL, key->kind->hash, NULL, NULL, key->pkey, NULL) == 1 &&
        EVP_DigestSign(ctx, NULL, &e->sig_len, bytes, pae->len) == 1) {
        e->sig = malloc(e->sig_len);
        if (!e->sig)
            rc = LORICA_ENOMEM;
        else if (EVP_DigestSign(ctx, e->sig, &e->sig_len, bytes, pae->len) == 1)
            rc = 0;
    }
    EVP_MD_CTX_free(ctx);
    return rc;
}

int lorica_signkey_sign(const struct lorica_signkey *key, const char *payload_type,
                        const void *payload, size_t len, bool with_key, struct lorica_envelope *ret,
                        struct lorica_error *err) {
    char keyid[LORICA_KEYID_TEXT];
    struct lorica_envelope e = {.payload_type = strdup(payload_type),
                                .payload = malloc(len + 1),
                                .payload_len = len,
                                .keyid = strdup(lorica_keyid_format(&key->id, keyid)),
                                .public_key = with_key ? strdup(key->public_pem) : NULL};
    struct lorica_buf pae;
    lorica_openssl_forget();
    lorica_buf_init(&pae, len + 256);
    int rc = e.payload_type && e.payload && e.keyid && (e.public_key || !with_key)
                 ? lorica_envelope_pae(&pae, payload_type, payload, len)
                 : LORICA_ENOMEM;
    if (!rc) {
        memcpy(e.payload, payload, len);
        e.payload[len] = 0;
        rc = make_signature(key, &pae, &e);
    }
    lorica_buf_finish(&pae);
    if (rc) {
        lorica_envelope_finish(&e);
        return fail_key(err, rc, "the key cannot sign");
    }
    *ret = e;
    return 0;
}

int lorica_signkey_verify(const struct lorica_signkey *key, const struct lorica_envelope *envelope,
                          struct lorica_error *err) {
    struct lorica_buf pae;
    lorica_openssl_forget();
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    lorica_buf_init(&pae, envelope->payload_len + strlen(envelope->payload_type) + 64);
    int rc = ctx ? lorica_envelope_pae(&pae, envelope->payload_type, envelope->payload,
                                       envelope->payload_len)
                 : LORICA_ENOMEM;
    if (rc)
        rc = fail_key(err, rc, "the envelope is too long");
    else if (EVP_DigestVerifyInit_ex(ctx, NULL, key->kind->hash, NULL, NULL, key->pkey, NULL) !=
                 1 ||
             EVP_DigestVerify(ctx, envelope->sig, envelope->sig_len,
                              (const unsigned char *)pae.data, pae.len) != 1)
        rc = fail_key(err, LORICA_ESIGNATURE,
                      "the signature does not hold: it was made with another key or over other "
                      "content");
    lorica_buf_finish(&pae);
    EVP_MD_CTX_free(ctx);
    return rc;
}

int lorica_signkey_try(const struct lorica_signkey *key, struct lorica_error *err) {
    static const char text[] = "trial";
    struct lorica_envelope envelope = {0};
    struct lorica_signkey *half = NULL;
    int rc = lorica_signkey_sign(key, text, text, strlen(text), false, &envelope, err);
    if (!rc)
        rc = lorica_signkey_public(key->public_pem, strlen(key->public_pem), &half, err);
    if (!rc)
        rc = lorica_signkey_verify(half, &envelope, err);
    lorica_signkey_destroy(half);
    lorica_envelope_finish(&envelope);
    return rc;
}
