/* SPDX-License-Identifier: MIT */
#include "proto/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void lorica_buf_init(struct lorica_buf *buf, size_t max) { *buf = (struct lorica_buf){.max = max}; }

void lorica_buf_finish(struct lorica_buf *buf) {
    free(buf->data);
    lorica_buf_init(buf, buf->max);
}

void lorica_buf_clear(struct lorica_buf *buf) {
    buf->len = 0;
    buf->failure = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

int lorica_buf_status(const struct lorica_buf *buf) { return buf->failure; }

void lorica_buf_fail(struct lorica_buf *buf, int code) {
    if (!buf->failure)
        buf->failure = code;
}

void *lorica_buf_reserve(struct lorica_buf *buf, size_t len) {
    if (buf->failure)
        return NULL;
    if (len > buf->max - buf->len || len >= SIZE_MAX - buf->len) {
        buf->failure = LORICA_ELIMIT;
        return NULL;
    }
    const size_t need = buf->len + len + 1;
    if (need > buf->cap) {
        size_t cap = buf->cap ? buf->cap : 64;
        while (cap < need)
            cap = cap > SIZE_MAX / 2 ? need : cap * 2;
        char *data = realloc(buf->data, cap);
        if (!data) {
            buf->failure = LORICA_ENOMEM;
            return NULL;
        }
        buf->data = data;
        buf->cap = cap;
        data[buf->len] = '\0';
    }
    return buf->data + buf->len;
}

void lorica_buf_commit(struct lorica_buf *buf, size_t len) {
    buf->len += len;
    buf->data[buf->len] = '\0';
}

int lorica_buf_append(struct lorica_buf *buf, const void *bytes, size_t len) {
    void *room = lorica_buf_reserve(buf, len);
    if (!room)
        return buf->failure;
    if (len > 0)
        memcpy(room, bytes, len);
    lorica_buf_commit(buf, len);
    return 0;
}

int lorica_buf_puts(struct lorica_buf *buf, const char *text) {
    return lorica_buf_append(buf, text, strlen(text));
}

int lorica_buf_printf(struct lorica_buf *buf, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    const int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *room = len < 0 ? NULL : lorica_buf_reserve(buf, (size_t)len);
    if (room) {
        (void)vsnprintf(room, (size_t)len + 1, fmt, again);
        lorica_buf_commit(buf, (size_t)len);
    }
    va_end(again);
    return buf->failure;
}

void lorica_buf_consume(struct lorica_buf *buf, size_t len) {
    if (len == 0)
        return;
    memmove(buf->data, buf->data + len, buf->len - len + 1);
    buf->len -= len;
}

char *lorica_buf_take(struct lorica_buf *buf, size_t *ret_len) {
    char *data = lorica_buf_reserve(buf, 0) ? buf->data : NULL;
    if (!data) {
        lorica_buf_finish(buf);
        return NULL;
    }
    if (ret_len)
        *ret_len = buf->len;
    lorica_buf_init(buf, buf->max);
    return data;
}
