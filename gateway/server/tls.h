/* SPDX-License-Identifier: MIT
 * TLS between two buffers: ciphertext is put in and taken out, plaintext is read and written. No
 * socket is known here, and nothing else in the gateway knows OpenSSL.
 *
 * TLS 1.3 and 1.2; no renegotiation, compression, early data, tickets or session cache: nothing is
 * kept of a connection once it is closed. Both buffers are bounded. */
#ifndef LORICA_GATEWAY_SERVER_TLS_H
#define LORICA_GATEWAY_SERVER_TLS_H

#include <stddef.h>

#include "proto/err.h"

/** Ciphertext that may wait inside to be read. */
#define LORICA_TLS_IN_MAX ((size_t)128 << 10)

/** Certificate, key and settings, shared by all connections of a server. */
struct lorica_tls_context;

/** Reads a PEM certificate chain and its key. On success the caller owns *ret. */
int lorica_tls_context_create(const char *certificate, const char *key,
                              struct lorica_tls_context **ret,
                              struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. NULL is accepted. */
void lorica_tls_context_destroy(struct lorica_tls_context *context);

/** One connection, server side. */
struct lorica_tls;

/** `context` must outlive it. */
int lorica_tls_create(struct lorica_tls_context *context, struct lorica_tls **ret) LORICA_MUSTCHECK;
/** Frees. NULL is accepted. */
void lorica_tls_destroy(struct lorica_tls *tls);

/** Puts received ciphertext in. LORICA_ELIMIT when more than LORICA_TLS_IN_MAX would wait. */
int lorica_tls_put(struct lorica_tls *tls, const void *bytes, size_t len) LORICA_MUSTCHECK;
/** Takes ciphertext to send out: at most `size` bytes; 0 when there is none. After every other call
 * here there may be some. */
size_t lorica_tls_take(struct lorica_tls *tls, void *bytes, size_t size);
/** How much ciphertext there is to take. */
size_t lorica_tls_waiting(const struct lorica_tls *tls);

enum lorica_tls_result {
    LORICA_TLS_OK,     /**< done, or bytes came */
    LORICA_TLS_MORE,   /**< needs more ciphertext */
    LORICA_TLS_CLOSED, /**< the peer closed properly */
    LORICA_TLS_FAILED, /**< broken: see lorica_tls_reason */
};

/** Carries the handshake on. */
enum lorica_tls_result lorica_tls_handshake(struct lorica_tls *tls);
/** Reads plaintext. OK: 1 <= *ret_len <= size. */
enum lorica_tls_result lorica_tls_read(struct lorica_tls *tls, void *bytes, size_t size,
                                       size_t *ret_len);
/** Encrypts all of it. */
enum lorica_tls_result lorica_tls_write(struct lorica_tls *tls, const void *bytes, size_t len);
/** Says goodbye (close_notify). */
void lorica_tls_shutdown(struct lorica_tls *tls);

/** Why it failed, for the log. Borrowed. */
const char *lorica_tls_reason(const struct lorica_tls *tls);

#endif
