/* SPDX-License-Identifier: MIT
 * The envelope in which everything that lorica signs travels: DSSE v1.0 (secure-systems-lab/dsse),
 * a JSON object
 *
 *   {"payload":BASE64,"payloadType":TYPE,"signatures":[{"sig":BASE64,"keyid":TEXT?}],
 *    "publicKey":PEM?}
 *
 * with exactly one signature over the bytes that lorica_envelope_pae gives, so that nothing depends
 * on how JSON is spelled. "publicKey", lorica's addition, lets a signature be checked by one who
 * does not know the key yet; whether it is trusted is another question. A key's id is the
 * hexadecimal SHA-256 of its public PEM text, as `sha256sum` prints it of the file that
 * `openssl pkey -pubout` writes. */
#ifndef LORICA_PROTO_ENVELOPE_H
#define LORICA_PROTO_ENVELOPE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/json.h"

/** Longest JSON text of an envelope, and of a bundle around one. */
#define LORICA_ENVELOPE_MAX ((size_t)256 << 10)

/** The payload types. */
#define LORICA_PAYLOAD_STATEMENT "application/vnd.lorica.adapter+json" /**< proto/statement.h */
#define LORICA_PAYLOAD_RECEIPT "application/vnd.lorica.receipt+json"   /**< proto/receipt.h */
#define LORICA_PAYLOAD_CHECKPOINT                                                                  \
    "application/vnd.lorica.checkpoint+json"                 /**< registry/checkpoint.h */
#define LORICA_PAYLOAD_INTOTO "application/vnd.in-toto+json" /**< proto/model_signing.h */

/** All owned; lorica_envelope_finish frees. */
struct lorica_envelope {
    char *payload_type;
    uint8_t *payload; /**< decoded; a NUL stands behind it */
    size_t payload_len;
    uint8_t *sig; /**< decoded */
    size_t sig_len;
    char *keyid;      /**< NULL: none */
    char *public_key; /**< PEM; NULL: none */
};

/** Reads an envelope. LORICA_EFORMAT names what is wrong: base64 that is cut off, a number of
 * signatures other than one, a member that is not known, ... */
int lorica_envelope_parse(const char *text, size_t len, struct lorica_envelope *ret,
                          struct lorica_error *err) LORICA_MUSTCHECK;
/** The same from an object that is parsed already. */
int lorica_envelope_read(const struct lorica_json *object, struct lorica_envelope *ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_envelope_finish(struct lorica_envelope *envelope);

/** Writes it as one compact line of ASCII. */
void lorica_envelope_write(struct lorica_jsonw *w, const char *key,
                           const struct lorica_envelope *envelope);

/** Appends the bytes that are signed (DSSE's pre-authentication encoding): "DSSEv1", the length of
 * the type, the type, the length of the payload, the payload, with one blank between. */
int lorica_envelope_pae(struct lorica_buf *out, const char *payload_type, const void *payload,
                        size_t payload_len);

#endif
