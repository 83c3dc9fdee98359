/* SPDX-License-Identifier: MIT
 * Receipts: an answer that was asked for with the header `lorica-receipt: true` comes with a signed
 * statement of what gave it (proto/receipt.h): in the header `lorica-receipt` of the response, or,
 * for a stream, as the member "lorica_receipt" of a chunk without choices behind the last token.
 * The key is Ed25519, the server's own: DIR/receipt.key, with its public half in DIR/receipt.pub.
 * Prompt and answer are hashed as they pass and not kept. */
#ifndef LORICA_GATEWAY_SERVER_RECEIPTS_H
#define LORICA_GATEWAY_SERVER_RECEIPTS_H

#include "proto/buf.h"
#include "registry/signkey.h"

struct lorica_generation;
struct lorica_receipting;

/** Reads DIR/receipt.key, or makes it (mode 0600) with DIR/receipt.pub beside it; *ret_made tells
 * which. A missing DIR/receipt.pub is written again; that of another key, which was lost or
 * replaced, is kept as DIR/receipt-ID.pub, ID being the first 16 digits of its id. Caller destroys
 * *ret. */
int lorica_receipt_key_open(const char *dir, struct lorica_signkey **ret, bool *ret_made,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Begins the receipt of a generation whose prompt is ready, if one was asked for: on a worker.
 * `prompt`: what prompt_digest is over. Fails the request. */
int lorica_receipt_begin(struct lorica_generation *g, const char *prompt,
                         size_t len) LORICA_MUSTCHECK;
/** Takes a further piece of a choice's text. NULL is accepted. */
void lorica_receipt_piece(struct lorica_receipting *receipting, uint32_t choice, const char *text,
                          size_t len);
/** Signs, behind the last token, and appends the envelope's text. Fails the request. */
int lorica_receipt_end(struct lorica_generation *g, struct lorica_buf *out) LORICA_MUSTCHECK;
/** Frees. NULL is accepted. */
void lorica_receipt_free(struct lorica_receipting *receipting);

#endif
