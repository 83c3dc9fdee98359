/* SPDX-License-Identifier: MIT
 * The self-signed authority and the server certificate that `lorica init` makes. */
#ifndef LORICA_GATEWAY_SERVER_CERTIFICATE_H
#define LORICA_GATEWAY_SERVER_CERTIFICATE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

/** How long both certificates hold: what clients accept of a server at the most. */
#define LORICA_CERTIFICATE_DAYS 825

/** PEM texts, each for free(). */
struct lorica_certificates {
    char *ca;     /**< certificate of the authority */
    char *server; /**< certificate of the server */
    char *key;    /**< private key of the server */
};

/** Makes an authority and a server certificate for localhost, 127.0.0.1, ::1 and `hosts` (names or
 * addresses, NULL-terminated; NULL: none more), all on P-256. The authority's private key exists
 * only within this call: it can sign nothing else ever, so trusting its certificate trusts this one
 * server. A new server certificate comes with a new authority. */
int lorica_certificates_make(const char *const *hosts, struct lorica_certificates *ret,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees the texts, wiping the key. A zeroed struct is accepted. */
void lorica_certificates_finish(struct lorica_certificates *certificates);

/** End of validity of the first certificate in a PEM text, as Unix seconds. */
int lorica_certificate_expiry(const char *pem, size_t len, int64_t *ret,
                              struct lorica_error *err) LORICA_MUSTCHECK;

#endif
