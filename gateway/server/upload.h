/* SPDX-License-Identifier: MIT
 * The body of an upload: multipart parts of which one goes to the disk as it comes and all others
 * into bounded memory. Never the file whole in memory. Which parts there are, a form says. */
#ifndef LORICA_GATEWAY_SERVER_UPLOAD_H
#define LORICA_GATEWAY_SERVER_UPLOAD_H

#include <stdbool.h>

#include "gateway/server/request.h"
#include "proto/multipart.h"

/** Milliseconds between two such pieces, of all uploads together, while answers are computed. */
#define LORICA_UPLOAD_TURN_MS 20
/** Bytes of body that are given to a worker at once. */
#define LORICA_UPLOAD_PIECE ((size_t)128 << 10)
/** Largest part other than the file. */
#define LORICA_UPLOAD_PART_MAX ((size_t)1 << 20)
/** Parts of a form, at most. */
#define LORICA_UPLOAD_PARTS 8

/** What an upload may hold. Each part once, in any order; no others. */
struct lorica_upload_form {
    struct lorica_upload_part {
        const char *name; /**< NULL: there are no more parts */
        size_t max;       /**< bytes, of one that is kept in memory */
        bool file;        /**< goes to the disk; one part of the form does */
        bool required;
    } parts[LORICA_UPLOAD_PARTS];
    const char *note;       /**< for a client that left a part out: what they are; may be NULL */
    const char *limit_name; /**< setting of the largest body */
    size_t limit_mb;        /**< and its offset in struct lorica_config */
};

/** Largest body of the request's form, in bytes. */
uint64_t lorica_upload_limit(const struct lorica_request *request);
/** Prepares for the request's body, which its route's form describes; fails the request when its
 * Content-Type is not multipart. */
int lorica_upload_create(struct lorica_request *request) LORICA_MUSTCHECK;
/** Makes an upload of what is there already, for a request of the server's own: `path` is the file,
 * which stays where it is. Texts are added with put. Any thread. */
int lorica_upload_create_own(struct lorica_request *request, const char *path) LORICA_MUSTCHECK;
int lorica_upload_put(struct lorica_request *request, const char *name, const char *text,
                      size_t len) LORICA_MUSTCHECK;
/** Takes body bytes; on a worker, meanwhile the request is the loop's. `last`: no more will come.
 * Refuses a malformed body, an unknown, repeated or missing part; *ret_param (borrowed) is then the
 * part at fault, if it is one. */
int lorica_upload_feed(struct lorica_upload *upload, const struct lorica_buf *bytes, bool last,
                       const char **ret_param, struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees, and has a worker remove the file unless it was moved away.
 * Loop thread, or any for one of the server's own. NULL is accepted. */
void lorica_upload_destroy(struct lorica_upload *upload, uv_loop_t *loop);

/** A part kept in memory, by its name: NULL when it did not come, or the form has none such.
 * NUL-terminated, borrowed. */
const char *lorica_upload_text(const struct lorica_upload *upload, const char *name,
                               size_t *ret_len);
/** Path of the file's bytes. Borrowed. */
const char *lorica_upload_file(const struct lorica_upload *upload);
/** What the client calls the file: valid UTF-8 without control characters, "" when it does not say.
 * Borrowed. */
const char *lorica_upload_filename(const struct lorica_upload *upload);
/** Size and SHA-256 of the file as it came; valid once all has come. */
uint64_t lorica_upload_nbytes(const struct lorica_upload *upload);
const struct lorica_digest *lorica_upload_digest(const struct lorica_upload *upload);
/** Its seal, for whoever reads it back; NULL for a file that did not come over the network.
 * Borrowed. */
const struct lorica_seal *lorica_upload_seal(const struct lorica_upload *upload);

#endif
