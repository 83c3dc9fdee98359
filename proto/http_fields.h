/* SPDX-License-Identifier: MIT
 * Small values inside HTTP messages: entity tags, bearer tokens, percent-encoding, queries. */
#ifndef LORICA_PROTO_HTTP_FIELDS_H
#define LORICA_PROTO_HTTP_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

/** Reads an If-Match value that names one epoch: a decimal number without leading zeros in double
 * quotes ("7"), spaces around it allowed. LORICA_EINVAL for anything else (a list, `*`, a weak tag,
 * no quotes, over 2^64-1); *ret is then untouched. */
int lorica_http_if_match(const char *value, uint64_t *ret) LORICA_MUSTCHECK;

/** The token of an Authorization value "Bearer <token>" (the scheme in any case), borrowed from
 * `value`, with its length in *ret_len. NULL when it is another scheme, or the token is empty or
 * holds a character that RFC 6750 does not allow. */
const char *lorica_http_bearer(const char *value, size_t *ret_len);

/** Decodes a path segment or a query's name or value of `len` bytes into `out`, terminated.
 * `plus_is_space` for queries. Refused with LORICA_EINVAL: a broken escape, a decoded NUL or other
 * control character, a result that is not UTF-8, and, in a segment (plus_is_space false), a decoded
 * slash, a backslash, or a whole segment "." or ".."; with LORICA_ELIMIT: more than `size` - 1
 * bytes. On failure `out` is an empty string. */
int lorica_http_decode(const char *text, size_t len, bool plus_is_space, char *out,
                       size_t size) LORICA_MUSTCHECK;

/** Looks up `name` in a query ("limit=20&after=x", without '?', may be NULL) and decodes its value
 * into `out`. LORICA_ENOTFOUND when absent, LORICA_EINVAL when malformed or given twice,
 * LORICA_ELIMIT when too long. On failure `out` is an empty string. */
int lorica_http_query(const char *query, const char *name, char *out, size_t size) LORICA_MUSTCHECK;
/** Longest name of a parameter with a key in it, decoded. */
#define LORICA_HTTP_KEYED_MAX 300
/** Finds a parameter of a query that is none of `names`, which NULL ends; "metadata[" stands for
 * metadata[KEY] with any KEY. Returns its length, with *ret pointing to it in `query`; 0: there is
 * none. */
size_t lorica_http_query_unknown(const char *query, const char *const *names,
                                 const char **ret) LORICA_MUSTCHECK;

/** Reads a moment into Unix milliseconds: RFC 3339 ("2026-03-01T09:30:00Z",
 * "2026-03-01T10:30:00.5+01:00"; a space stands for "+" too, since that is what an unescaped one
 * becomes in a query), a date alone ("2026-03-01", its beginning in UTC), or up to 15 digits of
 * Unix milliseconds. Years 1970 to 9999; a leap second is the second after it. LORICA_EINVAL for
 * anything else. */
int lorica_http_time(const char *text, int64_t *ret_ms) LORICA_MUSTCHECK;

/** Appends bytes so that they may stand as one part of a path or value of a query: all but letters,
 * digits and "-._~" become %XX. */
void lorica_http_escape(struct lorica_buf *out, const char *text, size_t len);

#endif
