/* SPDX-License-Identifier: MIT */
#include "runtime/outtext.h"

#include <stdlib.h>
#include <string.h>

#include "proto/utf8.h"

/* Far more than one token's bytes and the longest stop string. */
#define MAX_HELD ((size_t)1 << 20)

int lorica_outtext_init(struct lorica_outtext *text, const struct lorica_tokenizer *tokenizer,
                        const char *const *stop, size_t stop_count) {
    struct lorica_outtext t = {.tokenizer = tokenizer};
    if (stop_count > LORICA_MAX_STOP_STRINGS)
        return LORICA_ELIMIT;
    lorica_buf_init(&t.held, MAX_HELD);
    lorica_buf_init(&t.out, 4 * MAX_HELD);
    for (size_t i = 0; i < stop_count; i++) {
        const size_t len = strlen(stop[i]);
        char *copy = len <= LORICA_MAX_STOP_BYTES ? strdup(stop[i]) : NULL;
        if (!copy) {
            lorica_outtext_finish(&t);
            return len <= LORICA_MAX_STOP_BYTES ? LORICA_ENOMEM : LORICA_ELIMIT;
        }
        if (len == 0) {
            free(copy);
            continue;
        }
        t.stop[t.stop_count] = copy;
        t.stop_len[t.stop_count++] = len;
    }
    *text = t;
    return 0;
}

void lorica_outtext_finish(struct lorica_outtext *text) {
    for (size_t i = 0; i < text->stop_count; i++)
        free(text->stop[i]);
    lorica_buf_finish(&text->held);
    lorica_buf_finish(&text->out);
    text->stop_count = 0;
}

/* Where the first stop string in `held` begins, or SIZE_MAX. */
static size_t find_stop(const struct lorica_outtext *text) {
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < text->stop_count && text->held.len > 0; i++) {
        const char *at = memmem(text->held.data, text->held.len, text->stop[i], text->stop_len[i]);
        if (at && (size_t)(at - text->held.data) < first)
            first = (size_t)(at - text->held.data);
    }
    return first;
}

/* Length of the longest end of `held` that begins a stop string. */
static size_t partial_stop(const struct lorica_outtext *text) {
    size_t longest = 0;
    for (size_t i = 0; i < text->stop_count; i++) {
        size_t n = text->stop_len[i] - 1;
        n = n < text->held.len ? n : text->held.len;
        for (; n > longest; n--)
            if (memcmp(text->held.data + text->held.len - n, text->stop[i], n) == 0)
                longest = n;
    }
    return longest;
}

/* Bytes at the start of invalid text that one U+FFFD stands for: the beginning of a character that
 * is broken off, or a single byte. */
static size_t wrong_bytes(const char *bytes, size_t len) {
    for (size_t n = len < 3 ? len : 3; n > 1; n--)
        if (lorica_utf8_incomplete_tail(bytes, n) == n)
            return n;
    return 1;
}

/* Moves `len` bytes from held to out, as valid UTF-8. */
static void give_out(struct lorica_outtext *text, size_t len) {
    const char *bytes = text->held.data;
    for (size_t at = 0; at < len;) {
        const size_t valid = lorica_utf8_valid_prefix(bytes + at, len - at);
        (void)lorica_buf_append(&text->out, bytes + at, valid);
        at += valid;
        if (at < len) {
            (void)lorica_buf_puts(&text->out, "\xef\xbf\xbd");
            at += wrong_bytes(bytes + at, len - at);
        }
    }
    lorica_buf_consume(&text->held, len);
}

int lorica_outtext_push(struct lorica_outtext *text, int32_t token, bool *ret_stopped) {
    int rc = lorica_tokenizer_decode(text->tokenizer, token, false, &text->held);
    if (!rc)
        rc = lorica_buf_status(&text->held);
    if (rc)
        return rc;
    const size_t stop = find_stop(text);
    *ret_stopped = stop != SIZE_MAX;
    if (*ret_stopped) {
        give_out(text, stop);
        lorica_buf_clear(&text->held);
        return lorica_buf_status(&text->out);
    }
    const size_t partial = partial_stop(text);
    const size_t certain = text->held.len - partial;
    give_out(text, certain - lorica_utf8_incomplete_tail(text->held.data, certain));
    return lorica_buf_status(&text->out);
}

int lorica_outtext_flush(struct lorica_outtext *text) {
    give_out(text, text->held.len);
    return lorica_buf_status(&text->out);
}
