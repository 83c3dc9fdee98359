/* SPDX-License-Identifier: MIT
 * The body of a publish request: multipart parts that go to the disk as they come (the weights) or
 * into bounded memory (all others). Never the weights whole in memory. */
#ifndef LORICA_GATEWAY_UPLOAD_H
#define LORICA_GATEWAY_UPLOAD_H

#include <stdbool.h>

#include "gateway/request.h"

/** Bytes of body that are given to a worker at once. */
#define LORICA_UPLOAD_PIECE ((size_t)256 << 10)
/** Largest part other than the weights. */
#define LORICA_UPLOAD_PART_MAX ((size_t)1 << 20)

enum lorica_upload_part {
    LORICA_UPLOAD_CONFIG,
    LORICA_UPLOAD_MANIFEST,
    LORICA_UPLOAD_CHANNEL,
    LORICA_UPLOAD_MESSAGE,
    LORICA_UPLOAD_SIGNATURE,
    LORICA_UPLOAD_OTHER_BASE,     /**< trained_on_other_base */
    LORICA_UPLOAD_WEIGHTS_DIGEST, /**< what the weights are to have */
    LORICA_UPLOAD_TEXT_PARTS,     /**< those above are kept in memory */
    LORICA_UPLOAD_WEIGHTS = LORICA_UPLOAD_TEXT_PARTS,
    LORICA_UPLOAD_PARTS
};

/** Prepares for the request's body; fails the request when its Content-Type is not multipart. */
int lorica_upload_create(struct lorica_request *request) LORICA_MUSTCHECK;
/** Takes the request's body bytes; on a worker. `last`: no more will come. Fails the request for a
 * malformed body, an unknown, repeated or missing part. */
int lorica_upload_feed(struct lorica_request *request, bool last) LORICA_MUSTCHECK;
/** Frees, and removes the file. NULL is accepted. */
void lorica_upload_destroy(struct lorica_upload *upload);

/** A part kept in memory: NULL when it did not come. NUL-terminated, borrowed. */
const char *lorica_upload_text(const struct lorica_upload *upload, enum lorica_upload_part part,
                               size_t *ret_len);
/** Path of the file with the weights. Borrowed. */
const char *lorica_upload_weights(const struct lorica_upload *upload);
/** SHA-256 of the weights as they came; valid once all has come. */
const struct lorica_digest *lorica_upload_digest(const struct lorica_upload *upload);

#endif
