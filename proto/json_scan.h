/* SPDX-License-Identifier: MIT
 * The strict grammar of JSON (RFC 8259), checked before cJSON, which is laxer, sees the text. */
#ifndef LORICA_PROTO_JSON_SCAN_H
#define LORICA_PROTO_JSON_SCAN_H

#include <stddef.h>

#include "proto/err.h"

/** Deepest nesting of arrays and objects that is read. */
#define LORICA_JSON_MAX_DEPTH 64

/** 0 when the text is exactly one JSON value in UTF-8 within the depth, without an escaped or raw
 * NUL and without an unpaired surrogate; else LORICA_EFORMAT naming the byte offset. */
int lorica_json_scan(const char *text, size_t len, struct lorica_error *err) LORICA_MUSTCHECK;

#endif
