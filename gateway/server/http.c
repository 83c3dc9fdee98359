/* SPDX-License-Identifier: MIT */
#include "gateway/server/http.h"

#include <llhttp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct lorica_http_impl {
    llhttp_t parser;
    llhttp_settings_t settings;
    struct lorica_buf head;
    size_t scanned;      /* bytes of head that were judged */
    size_t line;         /* where the line being judged begins */
    bool skipped;        /* an empty line stood before the request */
    bool head_parsed;    /* headers that come now are trailers */
    bool complete;       /* llhttp saw the end of the message */
    bool in_trailer;     /* the last chunk's size was read */
    size_t column;       /* bytes of the trailer's present line */
    char before;         /* the trailer's byte before */
    size_t raw, payload; /* of the body: bytes with and without framing */
};

static const char *const method_names[LORICA_METHOD_COUNT] = {"GET", "HEAD",   "POST",
                                                              "PUT", "DELETE", "PATCH"};

const char *lorica_method_name(enum lorica_method method) {
    return method < LORICA_METHOD_COUNT ? method_names[method] : "?";
}

static void fail(struct lorica_http *http, int status, const char *what) {
    if (http->state == LORICA_HTTP_FAILED)
        return;
    http->state = LORICA_HTTP_FAILED;
    http->status = status;
    http->what = what;
}

/* llhttp's callbacks. Head and each piece of body are fed whole, so that a span arrives in one
 * call unless llhttp cuts it at a line. */

static int on_url(llhttp_t *parser, const char *at, size_t len) {
    struct lorica_http *http = parser->data;
    if (http->target.text)
        http->target.len = (size_t)(at + len - http->target.text);
    else
        http->target = (struct lorica_http_slice){at, len};
    return 0;
}

static int on_header_field(llhttp_t *parser, const char *at, size_t len) {
    struct lorica_http *http = parser->data;
    if (http->impl->head_parsed)
        return 0; /* a trailer: nobody here wants one, and none may pass for a header */
    if (http->header_count == LORICA_HTTP_HEADERS_MAX) {
        fail(http, 431, "too many header lines");
        return HPE_USER;
    }
    http->headers[http->header_count].name = (struct lorica_http_slice){at, len};
    http->headers[http->header_count].value = (struct lorica_http_slice){"", 0};
    return 0;
}

static int on_header_value(llhttp_t *parser, const char *at, size_t len) {
    struct lorica_http *http = parser->data;
    if (!http->impl->head_parsed)
        http->headers[http->header_count].value = (struct lorica_http_slice){at, len};
    return 0;
}

static int on_header_value_complete(llhttp_t *parser) {
    struct lorica_http *http = parser->data;
    if (!http->impl->head_parsed)
        http->header_count++;
    return 0;
}

static int on_headers_complete(llhttp_t *parser) {
    struct lorica_http *http = parser->data;
    http->impl->head_parsed = true;
    http->minor = parser->http_minor;
    if (parser->http_major != 1 || parser->http_minor > 1) {
        fail(http, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        return HPE_USER;
    }
    if (parser->upgrade) {
        fail(http, 400, "this server does not upgrade connections");
        return HPE_USER;
    }
    http->keep_alive = llhttp_should_keep_alive(parser) != 0;
    return 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t len) {
    struct lorica_http *http = parser->data;
    http->impl->payload += len;
    if (lorica_buf_append(&http->body, at, len) == 0)
        return 0;
    fail(http, 503, "out of memory");
    return HPE_USER;
}

/* llhttp is stopped before the trailer, whose bytes it is more lenient with than these rules. */
static int on_chunk_header(llhttp_t *parser) {
    struct lorica_http *http = parser->data;
    http->impl->in_trailer = parser->content_length == 0;
    return http->impl->in_trailer ? HPE_PAUSED : 0;
}

static int on_message_complete(llhttp_t *parser) {
    struct lorica_http *http = parser->data;
    http->impl->complete = true;
    return HPE_PAUSED;
}

static void begin(struct lorica_http *http) {
    struct lorica_http_impl *impl = http->impl;
    llhttp_settings_init(&impl->settings);
    impl->settings.on_url = on_url;
    impl->settings.on_header_field = on_header_field;
    impl->settings.on_header_value = on_header_value;
    impl->settings.on_header_value_complete = on_header_value_complete;
    impl->settings.on_headers_complete = on_headers_complete;
    impl->settings.on_body = on_body;
    impl->settings.on_chunk_header = on_chunk_header;
    impl->settings.on_message_complete = on_message_complete;
    llhttp_init(&impl->parser, HTTP_REQUEST, &impl->settings);
    impl->parser.data = http;
    lorica_buf_clear(&impl->head);
    lorica_buf_clear(&http->body);
    impl->scanned = impl->line = impl->raw = impl->payload = impl->column = 0;
    impl->head_parsed = impl->complete = impl->skipped = impl->in_trailer = false;
    impl->before = '\n';
    http->state = LORICA_HTTP_HEAD;
    http->target = (struct lorica_http_slice){NULL, 0};
    http->header_count = 0;
    http->keep_alive = http->has_body = http->chunked = http->expect_continue = false;
    http->content_length = 0;
    http->minor = 1;
    http->status = 0;
    http->what = NULL;
}

int lorica_http_init(struct lorica_http *http) {
    memset(http, 0, sizeof(*http));
    http->impl = calloc(1, sizeof(*http->impl));
    if (!http->impl)
        return LORICA_ENOMEM;
    lorica_buf_init(&http->impl->head, LORICA_HTTP_HEAD_MAX);
    lorica_buf_init(&http->body, (size_t)1 << 20);
    begin(http);
    return 0;
}

void lorica_http_finish(struct lorica_http *http) {
    if (!http->impl)
        return;
    lorica_buf_finish(&http->impl->head);
    lorica_buf_finish(&http->body);
    free(http->impl);
    http->impl = NULL;
}

bool lorica_http_slice_is(const struct lorica_http_slice *slice, const char *text) {
    return slice->len == strlen(text) && strncasecmp(slice->text, text, slice->len) == 0;
}

const struct lorica_http_slice *lorica_http_header(const struct lorica_http *http,
                                                   const char *name) {
    for (size_t i = 0; i < http->header_count; i++)
        if (lorica_http_slice_is(&http->headers[i].name, name))
            return &http->headers[i].value;
    return NULL;
}

size_t lorica_http_header_count(const struct lorica_http *http, const char *name) {
    size_t count = 0;
    for (size_t i = 0; i < http->header_count; i++)
        count += lorica_http_slice_is(&http->headers[i].name, name);
    return count;
}

bool lorica_http_begun(const struct lorica_http *http) { return http->impl->head.len > 0; }

/* Judges one byte of the head. Returns true at the end of the blank line that closes it. */
static bool judge_byte(struct lorica_http *http) {
    struct lorica_http_impl *impl = http->impl;
    const char *text = impl->head.data;
    const size_t i = impl->scanned++;
    const char c = text[i];
    const bool after_cr = i > 0 && text[i - 1] == '\r';
    if (c == '\0')
        fail(http, 400, "the head holds a NUL byte");
    else if (after_cr && c != '\n')
        fail(http, 400, "the head holds a CR without LF");
    else if (c == '\n' && !after_cr)
        fail(http, 400, "the head holds a LF without CR");
    else if ((c == ' ' || c == '\t') && i == impl->line)
        fail(http, 400, impl->line ? "a header line is folded" : "the request begins with a space");
    else if (i - impl->line >= LORICA_HTTP_LINE_MAX)
        fail(http, impl->line ? 431 : 414, "a line of the head is too long");
    if (http->state == LORICA_HTTP_FAILED || c != '\n')
        return false;
    const bool blank = i - impl->line == 1;
    impl->line = i + 1;
    return blank;
}

/* The decimal number of Content-Length: digits only. */
static bool parse_length(const struct lorica_http_slice *value, uint64_t *ret) {
    uint64_t n = 0;
    if (value->len == 0 || value->len > 15)
        return false;
    for (size_t i = 0; i < value->len; i++) {
        if (value->text[i] < '0' || value->text[i] > '9')
            return false;
        n = n * 10 + (uint64_t)(value->text[i] - '0');
    }
    *ret = n;
    return true;
}

static void judge_framing(struct lorica_http *http) {
    const size_t te = lorica_http_header_count(http, "transfer-encoding");
    const size_t cl = lorica_http_header_count(http, "content-length");
    if (te > 0) {
        if (te > 1 || cl > 0 || http->minor == 0 ||
            !lorica_http_slice_is(lorica_http_header(http, "transfer-encoding"), "chunked")) {
            fail(http, 400,
                 "Transfer-Encoding must be exactly \"chunked\", without Content-Length");
            return;
        }
        http->has_body = http->chunked = true;
    } else if (cl > 0) {
        if (cl > 1 ||
            !parse_length(lorica_http_header(http, "content-length"), &http->content_length)) {
            fail(http, 400, "Content-Length must be one decimal number");
            return;
        }
        http->has_body = http->content_length > 0;
    }
    const struct lorica_http_slice *expect = lorica_http_header(http, "expect");
    if (expect && !lorica_http_slice_is(expect, "100-continue"))
        fail(http, 417, "only \"Expect: 100-continue\" is understood");
    http->expect_continue = expect && http->minor == 1 && http->has_body;
}

/* Names are tokens; a line that begins with a colon has none. */
static void judge_names(struct lorica_http *http) {
    for (size_t i = 0; i < http->header_count; i++) {
        const struct lorica_http_slice *name = &http->headers[i].name;
        bool token = name->len > 0;
        for (size_t j = 0; j < name->len; j++)
            token = token && (unsigned char)name->text[j] < 127 && name->text[j] > ' ' &&
                    !strchr("()<>@,;:\\\"/[]?={}", name->text[j]);
        if (!token)
            fail(http, 400, "a header's name is malformed");
    }
}

static void judge_host(struct lorica_http *http) {
    const size_t count = lorica_http_header_count(http, "host");
    if (count > 1 || (count == 0 && http->minor == 1)) {
        fail(http, 400, "exactly one Host header is required");
        return;
    }
    const struct lorica_http_slice *host = lorica_http_header(http, "host");
    for (size_t i = 0; host && i < host->len; i++) {
        const char c = host->text[i];
        if (c <= ' ' || c >= 127 || strchr("/\\@,?#\"<>{}|^`", c)) {
            fail(http, 400, "the Host header is malformed");
            return;
        }
    }
}

/* Leaves the origin form; an absolute one must be what a proxy would send here. */
static void judge_target(struct lorica_http *http) {
    struct lorica_http_slice *t = &http->target;
    const size_t scheme = t->len >= 8 && strncasecmp(t->text, "https://", 8) == 0  ? 8
                          : t->len >= 7 && strncasecmp(t->text, "http://", 7) == 0 ? 7
                                                                                   : 0;
    if (scheme) {
        const char *slash = memchr(t->text + scheme, '/', t->len - scheme);
        if (slash)
            *t = (struct lorica_http_slice){slash, t->len - (size_t)(slash - t->text)};
    }
    if (t->len == 0 || t->text[0] != '/') {
        fail(http, 400, "the request target must be a path");
        return;
    }
    for (size_t i = 0; i < t->len; i++)
        if (t->text[i] <= ' ' || (unsigned char)t->text[i] >= 127 || t->text[i] == '#') {
            fail(http, 400, "the request target holds a character that must be escaped");
            return;
        }
}

static void judge_method(struct lorica_http *http) {
    const char *name = llhttp_method_name((llhttp_method_t)http->impl->parser.method);
    for (int i = 0; i < LORICA_METHOD_COUNT; i++)
        if (strcmp(method_names[i], name) == 0) {
            http->method = (enum lorica_method)i;
            return;
        }
    fail(http, 501, "this method is not served here");
}

/* "METHOD TARGET HTTP/1.1" with single spaces: llhttp would overlook more. */
static void judge_request_line(struct lorica_http *http) {
    const struct lorica_buf *head = &http->impl->head;
    const char *end = memchr(head->data, '\r', head->len);
    const char *first = memchr(head->data, ' ', (size_t)(end - head->data));
    const char *second = first ? memchr(first + 1, ' ', (size_t)(end - first - 1)) : NULL;
    if (!first || memchr(head->data, '\t', (size_t)(end - head->data)))
        fail(http, 400, "the request line is malformed");
    else if (!second)
        fail(http, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    else if (second == first + 1 || end - second != 9 || strncmp(second, " HTTP/", 6) != 0)
        fail(http, 400, "the request line must be a method, a target and HTTP/1.1");
}

/* The whole head is there: llhttp, then the rules. */
static void judge_head(struct lorica_http *http) {
    struct lorica_http_impl *impl = http->impl;
    judge_request_line(http);
    if (http->state == LORICA_HTTP_FAILED)
        return;
    const enum llhttp_errno rc = llhttp_execute(&impl->parser, impl->head.data, impl->head.len);
    if (http->state == LORICA_HTTP_FAILED)
        return;
    if (rc == HPE_INVALID_METHOD) {
        fail(http, 501, "this method is not known");
        return;
    }
    if (rc == HPE_INVALID_VERSION) {
        fail(http, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        return;
    }
    if ((rc != HPE_OK && rc != HPE_PAUSED) || !impl->head_parsed ||
        (impl->complete &&
         llhttp_get_error_pos(&impl->parser) != impl->head.data + impl->head.len)) {
        fail(http, 400, "the head of the request is malformed");
        return;
    }
    judge_method(http);
    judge_names(http);
    judge_host(http);
    judge_target(http);
    judge_framing(http);
    if (http->state != LORICA_HTTP_FAILED && http->has_body == impl->complete)
        fail(http, 400, "the length of the body is ambiguous");
    if (http->state != LORICA_HTTP_FAILED)
        http->state = LORICA_HTTP_JUDGED;
}

/* RFC 9112 asks to overlook an empty line before a request: one, not any number. */
static void skip_empty_line(struct lorica_http *http) {
    if (http->impl->skipped)
        fail(http, 400, "empty lines stand before the request");
    http->impl->skipped = true;
    lorica_buf_clear(&http->impl->head);
    http->impl->scanned = http->impl->line = 0;
}

static size_t feed_head(struct lorica_http *http, const char *bytes, size_t len) {
    struct lorica_http_impl *impl = http->impl;
    size_t used = 0;
    while (used < len && http->state == LORICA_HTTP_HEAD) {
        if (lorica_buf_append(&impl->head, bytes + used, 1) != 0) {
            const bool full = lorica_buf_status(&impl->head) == LORICA_ELIMIT;
            fail(http, full ? 431 : 503, full ? "the head is too long" : "out of memory");
            break;
        }
        used++;
        if (judge_byte(http)) {
            if (impl->head.len > 2)
                judge_head(http);
            else
                skip_empty_line(http);
        }
    }
    return used;
}

/* Judges the bytes behind the last chunk up to the blank line, as those of a head. Returns how many
 * they are. */
static size_t judge_trailer(struct lorica_http *http, const char *bytes, size_t len) {
    struct lorica_http_impl *impl = http->impl;
    for (size_t i = 0; i < len; i++) {
        const char c = bytes[i];
        const bool ends = impl->before == '\r';
        if (c == '\0' || ends != (c == '\n') || ((c == ' ' || c == '\t') && impl->column == 0)) {
            fail(http, 400, "the trailer of the body is malformed");
            return len;
        }
        impl->before = c;
        impl->column++;
        if (c == '\n' && impl->column == 2)
            return i + 1;
        if (c == '\n')
            impl->column = 0;
    }
    return len;
}

static size_t feed_body(struct lorica_http *http, const char *bytes, size_t len) {
    struct lorica_http_impl *impl = http->impl;
    if (impl->in_trailer)
        len = judge_trailer(http, bytes, len);
    if (http->state == LORICA_HTTP_FAILED)
        return len;
    const enum llhttp_errno rc = llhttp_execute(&impl->parser, bytes, len);
    size_t used = len;
    if (http->state == LORICA_HTTP_FAILED)
        return len;
    if (rc == HPE_PAUSED)
        used = (size_t)(llhttp_get_error_pos(&impl->parser) - bytes);
    if (rc == HPE_PAUSED && impl->complete) {
        http->state = LORICA_HTTP_DONE;
    } else if (rc == HPE_PAUSED) {
        llhttp_resume(&impl->parser); /* before the trailer */
    } else if (rc != HPE_OK) {
        fail(http, 400, "the chunks of the body are malformed");
        return len;
    }
    impl->raw += used;
    if (impl->raw - impl->payload > LORICA_HTTP_OVERHEAD_MAX)
        fail(http, 400, "chunk framing outweighs the body");
    return used;
}

size_t lorica_http_feed(struct lorica_http *http, const char *bytes, size_t len) {
    size_t used = 0;
    while (used < len) {
        if (http->state == LORICA_HTTP_HEAD)
            used += feed_head(http, bytes + used, len - used);
        else if (http->state == LORICA_HTTP_BODY)
            used += feed_body(http, bytes + used, len - used);
        else
            break;
    }
    return used;
}

void lorica_http_accept(struct lorica_http *http) {
    if (http->state != LORICA_HTTP_JUDGED)
        return;
    if (http->impl->complete)
        http->state = LORICA_HTTP_DONE;
    else
        http->state = LORICA_HTTP_BODY;
}

void lorica_http_next(struct lorica_http *http) {
    if (http->state == LORICA_HTTP_DONE)
        begin(http);
}
