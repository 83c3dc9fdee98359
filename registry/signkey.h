/* SPDX-License-Identifier: MIT
 * Signing keys on OpenSSL, and envelopes signed and verified with them: Ed25519 (RFC 8032), and
 * ECDSA on P-256 with SHA-256, P-384 with SHA-384, P-521 with SHA-512, signatures in DER, as
 * Sigstore's algorithm registry has them. Keys come as PEM: private ones as `openssl genpkey
 * -algorithm ed25519` writes them (not encrypted), public ones as `openssl pkey -pubout` does.
 *
 * Where memory is short the verdict is LORICA_ENOMEM, never another (registry/openssl.h). */
#ifndef LORICA_REGISTRY_SIGNKEY_H
#define LORICA_REGISTRY_SIGNKEY_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/digest.h"
#include "proto/envelope.h"

/** Longest PEM text of a key that is read. */
#define LORICA_PEM_MAX ((size_t)16 << 10)
/** Room for the PEM text of any public key of these kinds. */
#define LORICA_PUBLIC_PEM_MAX 512

struct lorica_signkey;

/** Reads a private key. LORICA_EFORMAT for text that is none or is encrypted, LORICA_EUNSUPPORTED
 * for another kind of key. Caller destroys *ret. */
int lorica_signkey_private(const char *pem, size_t len, struct lorica_signkey **ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Reads a public key, likewise. */
int lorica_signkey_public(const char *pem, size_t len, struct lorica_signkey **ret,
                          struct lorica_error *err) LORICA_MUSTCHECK;
/** Makes an Ed25519 key. */
int lorica_signkey_generate(struct lorica_signkey **ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees, and wipes a private key. NULL is accepted. */
void lorica_signkey_destroy(struct lorica_signkey *key);

/** "ed25519", "ecdsa-p256", "ecdsa-p384" or "ecdsa-p521". Static storage. */
const char *lorica_signkey_algorithm(const struct lorica_signkey *key);
/** True for Ed25519. */
bool lorica_signkey_is_ed25519(const struct lorica_signkey *key);
/** Its public half as PEM, in the one spelling that OpenSSL has. Borrowed. */
const char *lorica_signkey_public_pem(const struct lorica_signkey *key);
/** Its id: the SHA-256 of that text. Borrowed. */
const struct lorica_digest *lorica_signkey_id(const struct lorica_signkey *key);
/** Appends the private key as PEM. The buffer is to be wiped. */
int lorica_signkey_write_private(const struct lorica_signkey *key, struct lorica_buf *out,
                                 struct lorica_error *err) LORICA_MUSTCHECK;

/** 64 hexadecimal digits: how an id stands in a "keyid" or "hint". */
#define LORICA_KEYID_TEXT 65
const char *lorica_keyid_format(const struct lorica_digest *id, char out[LORICA_KEYID_TEXT]);
/** Reads them. LORICA_EFORMAT for anything else. */
int lorica_keyid_parse(const char *text, struct lorica_digest *ret) LORICA_MUSTCHECK;

/** Signs a payload. The envelope carries the key's id, and the public key if `with_key`; caller
 * finishes *ret. */
int lorica_signkey_sign(const struct lorica_signkey *key, const char *payload_type,
                        const void *payload, size_t len, bool with_key, struct lorica_envelope *ret,
                        struct lorica_error *err) LORICA_MUSTCHECK;

/** LORICA_ESIGNATURE unless the envelope's signature is this key's over its payload. Its "keyid"
 * and "publicKey" count for nothing here. */
int lorica_signkey_verify(const struct lorica_signkey *key, const struct lorica_envelope *envelope,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Signs a word with a private key, and verifies that with its public half: for the start of a
 * program that goes on. In its first use OpenSSL makes what it keeps for all later ones; memory
 * that fails it there may end the program or leave OpenSSL unable for good, and is only told from
 * then on. */
int lorica_signkey_try(const struct lorica_signkey *key, struct lorica_error *err) LORICA_MUSTCHECK;

#endif
