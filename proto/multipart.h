/* SPDX-License-Identifier: MIT
 * An incremental reader of multipart/form-data (RFC 7578) that is fed any pieces of a body and
 * holds none of it: data go straight to a callback. Strict: what is not well-formed is refused. */
#ifndef LORICA_PROTO_MULTIPART_H
#define LORICA_PROTO_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

#define LORICA_MULTIPART_MAX_PARTS 16
#define LORICA_MULTIPART_MAX_HEADERS 8192 /**< bytes of one part's headers, their last CRLF too */
#define LORICA_MULTIPART_MAX_BOUNDARY 70  /**< RFC 2046 */
#define LORICA_MULTIPART_MAX_NAME 127     /**< bytes of a part's name */
#define LORICA_MULTIPART_MAX_FILENAME 255 /**< and of its filename */

/** Where the parts go. A callback returns 0 to go on or a lorica error, which `feed` then returns
 * (and which it has described in `err`). Pointers are borrowed during the call. */
struct lorica_multipart_sink {
    /** A part begins. `filename` is NULL when the part has none. Both are valid UTF-8 without
     * control characters; a filename is what the client says, and not fit for a path. */
    int (*on_part)(void *user, const char *name, const char *filename, struct lorica_error *err);
    /** More bytes of the part; never 0. */
    int (*on_data)(void *user, const void *bytes, size_t len, struct lorica_error *err);
    /** The part is complete. */
    int (*on_part_end)(void *user, struct lorica_error *err);
    void *user;
};

/** State of a reader. All members are private. */
struct lorica_multipart {
    struct lorica_multipart_sink sink;
    int state;
    int failure;                                       /* sticky */
    unsigned parts;                                    /* begun so far */
    size_t matched;                                    /* bytes of `delimiter` seen */
    size_t delimiter_len;                              /* CRLF, two hyphens, boundary */
    size_t headers_len;                                /* bytes in `headers` */
    char delimiter[4 + LORICA_MULTIPART_MAX_BOUNDARY]; /* not terminated */
    char headers[LORICA_MULTIPART_MAX_HEADERS + 1];
};

/** Prepares a reader from the request's Content-Type. Nothing is allocated, so there is nothing to
 * free. LORICA_EUNSUPPORTED when the type is not multipart/form-data; LORICA_EFORMAT when there is
 * not exactly one boundary of 1 to 70 characters that RFC 2046 allows; LORICA_ELIMIT for a
 * parameter over 255 bytes. A reader that failed refuses what it is fed. */
int lorica_multipart_init(struct lorica_multipart *reader, const char *content_type,
                          const struct lorica_multipart_sink *sink,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads the next bytes of the body, in pieces of any size. The first error stays: later calls
 * return it again. LORICA_EFORMAT for what is malformed, LORICA_ELIMIT for too many parts, headers
 * too long, or a name too long, LORICA_EUNSUPPORTED for a Content-Transfer-Encoding that is not
 * binary, 8bit or 7bit. */
int lorica_multipart_feed(struct lorica_multipart *reader, const void *bytes, size_t len,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** To be called at the end of the body: 0 when the closing boundary was seen, LORICA_EFORMAT when
 * the body is cut short, or the error that feed gave. */
int lorica_multipart_end(struct lorica_multipart *reader,
                         struct lorica_error *err) LORICA_MUSTCHECK;

#endif
