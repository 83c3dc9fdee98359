/* SPDX-License-Identifier: MIT
 * HTTP/1.x requests out of bytes that arrive in pieces: llhttp behind the rules that it leaves to
 * its user. A message that could be read in two ways is refused, never guessed.
 *
 * The head is collected whole (its size is bounded) and judged byte by byte before llhttp sees it:
 * no bare CR or LF, no NUL, no folded line. Then llhttp parses it in one piece, so that names and
 * values are slices of the collected bytes. The body goes through llhttp as it comes.
 *
 *   HEAD --(blank line)--> JUDGED --lorica_http_accept--> BODY --> DONE --lorica_http_next--> HEAD
 *
 * feed() never goes past JUDGED or DONE: what it leaves belongs to the caller. */
#ifndef LORICA_GATEWAY_SERVER_HTTP_H
#define LORICA_GATEWAY_SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"

/** Bytes of a request line, and of one header line. */
#define LORICA_HTTP_LINE_MAX 8192
/** Bytes of the whole head with its blank line. */
#define LORICA_HTTP_HEAD_MAX 16384
/** Header lines. */
#define LORICA_HTTP_HEADERS_MAX 100
/** Bytes that chunk framing and trailers may add to a body. */
#define LORICA_HTTP_OVERHEAD_MAX 102400

enum lorica_method {
    LORICA_METHOD_GET,
    LORICA_METHOD_HEAD,
    LORICA_METHOD_POST,
    LORICA_METHOD_PUT,
    LORICA_METHOD_DELETE,
    LORICA_METHOD_PATCH,
    LORICA_METHOD_COUNT
};
/** "GET", ... Static storage. */
const char *lorica_method_name(enum lorica_method method);

enum lorica_http_state {
    LORICA_HTTP_HEAD,   /**< collecting the head */
    LORICA_HTTP_JUDGED, /**< the head stands in the fields; waiting for accept */
    LORICA_HTTP_BODY,   /**< body bytes come out of feed */
    LORICA_HTTP_DONE,   /**< the message is complete; waiting for next */
    LORICA_HTTP_FAILED, /**< answer `status` and close */
};

/** A slice of the head. */
struct lorica_http_slice {
    const char *text; /**< not terminated */
    size_t len;
};
struct lorica_http_header {
    struct lorica_http_slice name, value;
};

struct lorica_http_impl;

struct lorica_http {
    enum lorica_http_state state;
    /* Of the head, from JUDGED until next: */
    enum lorica_method method;
    unsigned minor;                  /**< 0 or 1: HTTP/1.minor */
    struct lorica_http_slice target; /**< origin form: "/path?query" */
    struct lorica_http_header headers[LORICA_HTTP_HEADERS_MAX];
    size_t header_count;
    bool keep_alive;         /**< the client would keep the connection */
    bool has_body;           /**< a body is announced */
    bool chunked;            /**< its length is not known before */
    uint64_t content_length; /**< if has_body and not chunked */
    bool expect_continue;
    /* Of a failure: */
    int status;       /**< 4xx or 5xx */
    const char *what; /**< a sentence; static storage */

    struct lorica_buf body;        /**< what the last feed brought; the caller empties it */
    struct lorica_http_impl *impl; /**< private */
};

/** Prepares for the first message. */
int lorica_http_init(struct lorica_http *http) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_http_finish(struct lorica_http *http);

/** Takes bytes. Returns how many were used: less than `len` only at JUDGED, DONE or FAILED. Body
 * bytes are appended to `http->body`, at most `len` of them. */
size_t lorica_http_feed(struct lorica_http *http, const char *bytes, size_t len);

/** JUDGED: goes on to the body, or to DONE where there is none. */
void lorica_http_accept(struct lorica_http *http);
/** DONE: forgets the message and waits for the next head. */
void lorica_http_next(struct lorica_http *http);

/** True when bytes of a head have come. */
bool lorica_http_begun(const struct lorica_http *http);

/** Value of the first header of that name (lower case), or NULL. */
const struct lorica_http_slice *lorica_http_header(const struct lorica_http *http,
                                                   const char *name);
/** How many headers have that name. */
size_t lorica_http_header_count(const struct lorica_http *http, const char *name);

/** True when the slice equals the text, letters compared without case. */
bool lorica_http_slice_is(const struct lorica_http_slice *slice, const char *text);

#endif
