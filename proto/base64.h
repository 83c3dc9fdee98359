/* SPDX-License-Identifier: MIT
 * Base64 (RFC 4648). Written with the standard alphabet; read with that or the URL-safe one, as
 * DSSE allows, but in one form only: padded, without blanks, without bits left over. */
#ifndef LORICA_PROTO_BASE64_H
#define LORICA_PROTO_BASE64_H

#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

/** Appends the text of bytes. Returns the buffer's sticky status. */
int lorica_base64_encode(struct lorica_buf *out, const void *bytes, size_t len);

/** Reads `len` characters. The caller frees *ret (never NULL, a NUL stands behind the bytes).
 * LORICA_EFORMAT for anything that encode does not write, the alphabet aside; LORICA_ENOMEM. */
int lorica_base64_decode(const char *text, size_t len, uint8_t **ret,
                         size_t *ret_len) LORICA_MUSTCHECK;

#endif
