/* SPDX-License-Identifier: MIT
 * Writing. */
#include "proto/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json_scan.h"
#include "proto/utf8.h"

static void write_quoted(struct lorica_buf *out, const char *text, size_t len) {
    (void)lorica_buf_append(out, "\"", 1);
    size_t plain = 0; /* bytes before i that can be copied as they are */
    for (size_t i = 0; i <= len; i++) {
        const unsigned char c = i < len ? (unsigned char)text[i] : 0;
        const bool special = i == len || c < 0x20 || c == '"' || c == '\\' || c == 0x7f;
        const size_t valid = special || c < 0x80 ? 1 : lorica_utf8_valid_prefix(text + i, 1);
        if (c >= 0x80 && !special && valid == 0) {
            /* The first byte of a longer character: is all of it there? */
            size_t n = 2;
            while (n <= 4 && n <= len - i && lorica_utf8_valid_prefix(text + i, n) != n)
                n++;
            if (n <= 4 && n <= len - i) {
                i += n - 1;
                continue;
            }
        } else if (!special) {
            continue;
        }
        (void)lorica_buf_append(out, text + plain, i - plain);
        plain = i + 1;
        if (i == len)
            break;
        if (c >= 0x80)
            (void)lorica_buf_puts(out, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\')
            (void)lorica_buf_printf(out, "\\%c", c);
        else if (c == '\n')
            (void)lorica_buf_puts(out, "\\n");
        else if (c == '\r')
            (void)lorica_buf_puts(out, "\\r");
        else if (c == '\t')
            (void)lorica_buf_puts(out, "\\t");
        else
            (void)lorica_buf_printf(out, "\\u%04x", c);
    }
    (void)lorica_buf_append(out, "\"", 1);
}

/* The comma and the key that go before an element. Bit d - 1 of `used` belongs to depth d: at the
 * root there is no comma. */
static void begin(struct lorica_jsonw *w, const char *key) {
    const uint64_t bit = w->depth > 0 ? UINT64_C(1) << (w->depth - 1) : 0;
    if (w->used & bit)
        (void)lorica_buf_append(w->out, ",", 1);
    w->used |= bit;
    if (key) {
        write_quoted(w->out, key, strlen(key));
        (void)lorica_buf_append(w->out, ":", 1);
    }
}

static void open_container(struct lorica_jsonw *w, const char *key, const char *bracket) {
    begin(w, key);
    (void)lorica_buf_puts(w->out, bracket);
    if (w->depth >= LORICA_JSON_MAX_DEPTH) {
        w->out->failure = LORICA_ELIMIT;
        return;
    }
    w->used &= ~(UINT64_C(1) << w->depth);
    w->depth++;
}

static void close_container(struct lorica_jsonw *w, const char *bracket) {
    (void)lorica_buf_puts(w->out, bracket);
    if (w->depth > 0)
        w->depth--;
}

void lorica_jsonw_object(struct lorica_jsonw *w, const char *key) { open_container(w, key, "{"); }
void lorica_jsonw_array(struct lorica_jsonw *w, const char *key) { open_container(w, key, "["); }
void lorica_jsonw_end_object(struct lorica_jsonw *w) { close_container(w, "}"); }
void lorica_jsonw_end_array(struct lorica_jsonw *w) { close_container(w, "]"); }

void lorica_jsonw_bytes(struct lorica_jsonw *w, const char *key, const char *text, size_t len) {
    begin(w, key);
    write_quoted(w->out, text, len);
}

void lorica_jsonw_string(struct lorica_jsonw *w, const char *key, const char *text) {
    if (text)
        lorica_jsonw_bytes(w, key, text, strlen(text));
    else
        lorica_jsonw_null(w, key);
}

void lorica_jsonw_integer(struct lorica_jsonw *w, const char *key, int64_t number) {
    begin(w, key);
    (void)lorica_buf_printf(w->out, "%" PRId64, number);
}

/* Python's repr of a finite double: the shortest digits that read back, written plainly for
 * exponents from -4 to 15 and scientifically beyond. */
static void write_number(struct lorica_buf *out, double number) {
    char text[40];
    int precision = 0;
    do
        (void)snprintf(text, sizeof(text), "%.*e", precision, number);
    while (strtod(text, NULL) != number && ++precision < 17);
    char *e = strchr(text, 'e');
    const long exponent = strtol(e + 1, NULL, 10);
    if (exponent < -4 || exponent > 15) {
        *e = '\0';
        (void)lorica_buf_printf(out, "%se%c%02ld", text, exponent < 0 ? '-' : '+', labs(exponent));
    } else {
        const long decimals = precision - exponent;
        (void)lorica_buf_printf(out, "%.*f", decimals > 0 ? (int)decimals : 1, number);
    }
}

void lorica_jsonw_number(struct lorica_jsonw *w, const char *key, double number) {
    if (!isfinite(number)) {
        lorica_jsonw_null(w, key);
        return;
    }
    begin(w, key);
    write_number(w->out, number);
}

void lorica_jsonw_bool(struct lorica_jsonw *w, const char *key, bool value) {
    begin(w, key);
    (void)lorica_buf_puts(w->out, value ? "true" : "false");
}

void lorica_jsonw_null(struct lorica_jsonw *w, const char *key) {
    begin(w, key);
    (void)lorica_buf_puts(w->out, "null");
}

void lorica_jsonw_raw(struct lorica_jsonw *w, const char *key, const char *json, size_t len) {
    begin(w, key);
    (void)lorica_buf_append(w->out, json, len);
}

void lorica_jsonw_value(struct lorica_jsonw *w, const char *key, const struct lorica_json *value) {
    switch (lorica_json_type(value)) {
    case LORICA_JSON_NULL:
        lorica_jsonw_null(w, key);
        break;
    case LORICA_JSON_BOOL:
        lorica_jsonw_bool(w, key, lorica_json_is_true(value));
        break;
    case LORICA_JSON_NUMBER: {
        int64_t integer;
        if (lorica_json_integer(value, -(INT64_C(1) << 53), INT64_C(1) << 53, &integer) == 0)
            lorica_jsonw_integer(w, key, integer);
        else
            lorica_jsonw_number(w, key, lorica_json_number(value, 0));
        break;
    }
    case LORICA_JSON_STRING:
        lorica_jsonw_string(w, key, lorica_json_string(value));
        break;
    case LORICA_JSON_ARRAY:
    case LORICA_JSON_OBJECT: {
        const bool object = lorica_json_type(value) == LORICA_JSON_OBJECT;
        open_container(w, key, object ? "{" : "[");
        for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c))
            lorica_jsonw_value(w, lorica_json_key(c), c);
        close_container(w, object ? "}" : "]");
        break;
    }
    }
}

int lorica_json_write(struct lorica_buf *out, const struct lorica_json *value) {
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_value(&w, NULL, value);
    return lorica_buf_status(out);
}
