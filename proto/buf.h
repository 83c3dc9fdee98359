/* SPDX-License-Identifier: MIT
 * A growable byte buffer with a limit that must be named. Writers need not check each append: a
 * failure is remembered, later appends do nothing, and `lorica_buf_status` tells at the end. */
#ifndef LORICA_PROTO_BUF_H
#define LORICA_PROTO_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

/** Private fields are written by the functions below only; `data` and `len` may be read. */
struct lorica_buf {
    char *data;  /**< owned; NULL while empty; always NUL-terminated one byte past `len` when not */
    size_t len;  /**< bytes in use, without the terminator */
    size_t cap;  /**< private: bytes allocated */
    size_t max;  /**< private: limit for `len` */
    int failure; /**< private: first error (LORICA_ENOMEM or LORICA_ELIMIT), else 0 */
};

/** Prepares an empty buffer that may hold at most `max` bytes. Allocates nothing. */
void lorica_buf_init(struct lorica_buf *buf, size_t max);

/** Frees the bytes and leaves an empty buffer with the same limit. A zeroed buffer is accepted. */
void lorica_buf_finish(struct lorica_buf *buf);

/** Forgets content and failure, keeps the allocation. */
void lorica_buf_clear(struct lorica_buf *buf);

/** 0, or the first failure since init/clear. */
int lorica_buf_status(const struct lorica_buf *buf) LORICA_MUSTCHECK;

/** Makes `code` its status, unless it failed before: for a part of its text that could not be made.
 */
void lorica_buf_fail(struct lorica_buf *buf, int code);

/** Appends bytes. Returns the sticky status, which may be ignored until the end. */
int lorica_buf_append(struct lorica_buf *buf, const void *bytes, size_t len);

/** Appends a NUL-terminated string. */
int lorica_buf_puts(struct lorica_buf *buf, const char *text);

/** Appends formatted text. */
int lorica_buf_printf(struct lorica_buf *buf, const char *fmt, ...) LORICA_PRINTF(2, 3);

/** Makes room for `len` more bytes and returns where to write them; NULL on failure. The caller
 * then adds what it wrote to `buf->len` through `lorica_buf_commit`. */
void *lorica_buf_reserve(struct lorica_buf *buf, size_t len) LORICA_MUSTCHECK;

/** Declares `len` bytes written into the space that reserve gave. */
void lorica_buf_commit(struct lorica_buf *buf, size_t len);

/** Drops the first `len` bytes (len <= buf->len). */
void lorica_buf_consume(struct lorica_buf *buf, size_t len);

/** Takes the bytes out: returns them (caller frees with free(), NUL-terminated), or NULL if the
 * buffer failed or could not be terminated; `ret_len` may be NULL. The buffer is empty after. */
char *lorica_buf_take(struct lorica_buf *buf, size_t *ret_len) LORICA_MUSTCHECK;

#endif
