/* SPDX-License-Identifier: MIT
 * JSON. The only header through which the rest of the program sees it: reading on top of cJSON with
 * the limits that outside bytes need, writing straight into a buffer. */
#ifndef LORICA_PROTO_JSON_H
#define LORICA_PROTO_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

/** A parsed value. Opaque; children are borrowed from the root and live as long as it. */
struct lorica_json;

enum lorica_json_type {
    LORICA_JSON_NULL,
    LORICA_JSON_BOOL,
    LORICA_JSON_NUMBER,
    LORICA_JSON_STRING,
    LORICA_JSON_ARRAY,
    LORICA_JSON_OBJECT,
};

/** Parses exactly one value and nothing behind it. Refused with LORICA_EFORMAT and the byte offset:
 * text that is not UTF-8, depth over 64, a duplicate key, a key or string holding NUL (written as
 * \u0000 too), an unpaired surrogate, NaN/Infinity, trailing bytes. Cost is O(n log n).
 * On success the caller owns *ret and frees it with lorica_json_destroy. */
int lorica_json_parse(const char *text, size_t len, struct lorica_json **ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees a root. NULL is accepted. */
void lorica_json_destroy(struct lorica_json *root);

/** Type of a value; a NULL pointer counts as LORICA_JSON_NULL. */
enum lorica_json_type lorica_json_type(const struct lorica_json *value);

/** Name of a type for messages: "a string", "an object", ... */
const char *lorica_json_type_name(enum lorica_json_type type);

/** Member of an object by exact key, else NULL (also when `object` is NULL or no object). */
const struct lorica_json *lorica_json_get(const struct lorica_json *object, const char *key);

/** Elements of an array or members of an object; 0 for anything else. O(n). */
size_t lorica_json_count(const struct lorica_json *value);

/** First child of an array or object, or NULL; then each next one, or NULL. */
const struct lorica_json *lorica_json_first(const struct lorica_json *value);
const struct lorica_json *lorica_json_next(const struct lorica_json *child);

/** Key under which a child stands in its object; NULL in an array. Borrowed. */
const char *lorica_json_key(const struct lorica_json *child);

/** Text of a string value, borrowed, else NULL. */
const char *lorica_json_string(const struct lorica_json *value);

/** True for the value `true` only. */
bool lorica_json_is_true(const struct lorica_json *value);

/** Number of a number value; `fallback` for anything else. */
double lorica_json_number(const struct lorica_json *value, double fallback);

/** Reads an integer: 0 and *ret, or LORICA_EINVAL when the value is no number, has a fraction, lies
 * outside [min, max], or beyond what a double holds exactly (2^53). */
int lorica_json_integer(const struct lorica_json *value, int64_t min, int64_t max,
                        int64_t *ret) LORICA_MUSTCHECK;

/** Writes any parsed value back, compact, keys in their order. */
int lorica_json_write(struct lorica_buf *out, const struct lorica_json *value);

/** A streaming writer: commas and quotes are put by themselves. Zero-initialise with the buffer
 * named: `struct lorica_jsonw w = {.out = &buf};`. `key` is NULL inside arrays and at the root. */
struct lorica_jsonw {
    struct lorica_buf *out; /**< borrowed; its sticky status tells whether all fitted */
    unsigned depth;         /**< private */
    uint64_t used;          /**< private: bit per depth, set once an element was written there */
};

void lorica_jsonw_object(struct lorica_jsonw *w, const char *key); /**< opens { */
void lorica_jsonw_array(struct lorica_jsonw *w, const char *key);  /**< opens [ */
void lorica_jsonw_end_object(struct lorica_jsonw *w);
void lorica_jsonw_end_array(struct lorica_jsonw *w);
/** Writes a string, escaped; invalid UTF-8 bytes become U+FFFD. `text` NULL writes null. */
void lorica_jsonw_string(struct lorica_jsonw *w, const char *key, const char *text);
/** The same for bytes with a length (may hold NUL). */
void lorica_jsonw_bytes(struct lorica_jsonw *w, const char *key, const char *text, size_t len);
void lorica_jsonw_integer(struct lorica_jsonw *w, const char *key, int64_t number);
/** Shortest decimal form that reads back to the same double, as Python's repr writes it
 * (0.1, 1e-05, 1e+16, 3.0); NaN and infinities write null. */
void lorica_jsonw_number(struct lorica_jsonw *w, const char *key, double number);
void lorica_jsonw_bool(struct lorica_jsonw *w, const char *key, bool value);
void lorica_jsonw_null(struct lorica_jsonw *w, const char *key);
/** Inserts JSON text that is already written. */
void lorica_jsonw_raw(struct lorica_jsonw *w, const char *key, const char *json, size_t len);
/** Inserts a parsed value. */
void lorica_jsonw_value(struct lorica_jsonw *w, const char *key, const struct lorica_json *value);

#endif
