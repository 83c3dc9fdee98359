/* SPDX-License-Identifier: MIT
 * Requests out of bytes: each case is fed whole, byte by byte and cut in two at every place, and
 * must come to the same end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/server/http.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\n"
#define CHUNK "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"

/* What a stream of bytes came to. */
struct outcome {
    int status;    /* 0: no failure */
    int messages;  /* complete ones */
    char body[64]; /* of all of them */
    size_t body_len;
};

static size_t feed(struct lorica_http *http, const char *bytes, size_t len, struct outcome *out) {
    size_t used = 0;
    for (;;) {
        used += lorica_http_feed(http, bytes + used, len - used);
        if (http->body.len > 0) {
            assert_true(out->body_len + http->body.len < sizeof(out->body));
            memcpy(out->body + out->body_len, http->body.data, http->body.len);
            out->body_len += http->body.len;
            lorica_buf_clear(&http->body);
        }
        if (http->state == LORICA_HTTP_JUDGED)
            lorica_http_accept(http);
        else if (http->state == LORICA_HTTP_DONE) {
            out->messages++;
            lorica_http_next(http);
        } else
            break;
    }
    return used;
}

static struct outcome run(const char *text, size_t len, size_t cut, bool bytewise) {
    struct lorica_http http;
    struct outcome out = {0};
    assert_int_equal(lorica_http_init(&http), 0);
    if (bytewise)
        for (size_t i = 0; i < len; i++)
            (void)feed(&http, text + i, 1, &out);
    else {
        (void)feed(&http, text, cut, &out);
        if (http.state != LORICA_HTTP_FAILED)
            (void)feed(&http, text + cut, len - cut, &out);
    }
    out.status = http.state == LORICA_HTTP_FAILED ? http.status : 0;
    lorica_http_finish(&http);
    return out;
}

static void check(const char *text, size_t len, int status, int messages, const char *body) {
    for (size_t cut = 0; cut <= len + 1; cut++) {
        const struct outcome out = run(text, len, cut <= len ? cut : 0, cut == len + 1);
        if (out.status != status || out.messages != messages || strcmp(out.body, body) != 0)
            fail_msg("cut at %zu of %zu: status %d, messages %d, body \"%s\" for:\n%s", cut, len,
                     out.status, out.messages, out.body, text);
    }
}

static const struct {
    const char *text;
    int status, messages;
    const char *body;
} cases[] = {
    /* What is right. */
    {GET "\r\n", 0, 1, ""},
    {"\r\n" GET "\r\n", 0, 1, ""},
    {"GET / HTTP/1.0\r\n\r\n", 0, 1, ""},
    {"GET https://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", 0, 1, ""},
    {GET "X:\r\n\r\n", 0, 1, ""},
    {GET "Content-Length: 0\r\n\r\n", 0, 1, ""},
    {POST "Content-Length: 3\r\n\r\nabc", 0, 1, "abc"},
    {POST "Content-Length: 3\r\n\r\nabc" GET "\r\n", 0, 2, "abc"},
    {POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 0, 1, "abcde"},
    {POST "transfer-encoding: CHUNKED\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n" GET "\r\n", 0, 2, "abc"},
    {POST "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n", 0, 1,
     "a"},
    {POST CHUNK "000\r\nX: a\r\nY:\r\n\r\n" GET "\r\n", 0, 2, "a"},
    /* Line ends. */
    {"GET / HTTP/1.1\nHost: a\n\n", 400, 0, ""},
    {"GET /\n", 400, 0, ""},
    {GET "X: a\nY: b\r\n\r\n", 400, 0, ""},
    {GET "X: a\rY: b\r\n\r\n", 400, 0, ""},
    {GET "X: a\r\r\n\r\n", 400, 0, ""},
    {GET "X: a\r\n b\r\n\r\n", 400, 0, ""},
    {GET "X: a\r\n\tb\r\n\r\n", 400, 0, ""},
    {"\r\n\r\n" GET "\r\n", 400, 0, ""},
    {"ab\r\n" GET "\r\n", 400, 0, ""},
    {" " GET "\r\n", 400, 0, ""},
    {POST CHUNK "0\r\n\n" GET "\r\n", 400, 0, "a"},
    {POST CHUNK "0\r\nX: a\nY: b\r\n\r\n", 400, 0, "a"},
    {POST CHUNK "0\r\nX: a\rY: b\r\n\r\n", 400, 0, "a"},
    {POST CHUNK "0\r\nX: a\r\n b\r\n\r\n", 400, 0, "a"},
    {POST CHUNK "0\r\n X: a\r\n\r\n", 400, 0, "a"},
    {POST CHUNK "0\r\nX: a\r\n\n", 400, 0, "a"},
    /* The request line. */
    {"GET /\r\n\r\n", 505, 0, ""},
    {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0, ""},
    {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, 0, ""},
    {"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0, ""},
    {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, 0, ""},
    {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, 0, ""},
    {"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505, 0, ""},
    {"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501, 0, ""},
    {"FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 501, 0, ""},
    {"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501, 0, ""},
    {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 501, 0, ""},
    {"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0, ""},
    {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0, ""},
    {"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0, ""},
    /* Host. */
    {"GET / HTTP/1.1\r\n\r\n", 400, 0, ""},
    {GET "Host: a\r\n\r\n", 400, 0, ""},
    {GET "host: b\r\n\r\n", 400, 0, ""},
    {"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400, 0, ""},
    {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, 0, ""},
    {"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, 0, ""},
    /* Names and values. */
    {GET "X : a\r\n\r\n", 400, 0, ""},
    {GET "X\r\n\r\n", 400, 0, ""},
    {GET ": a\r\n\r\n", 400, 0, ""},
    {GET "X\x01: a\r\n\r\n", 400, 0, ""},
    {GET "X: a\x01\r\n\r\n", 400, 0, ""},
    /* Length. */
    {POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length: 3, 3\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length: +3\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length: -3\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length: 0x3\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length: 3 3\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length:\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length: 99999999999999999999\r\n\r\nabc", 400, 0, ""},
    {POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, 0, ""},
    /* Transfer-Encoding. */
    {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: identity\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: \x0b"
          "chunked\r\n\r\n0\r\n\r\n",
     400, 0, ""},
    {POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
    {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
    /* Chunks. */
    {POST "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400, 0, "abc"},
    {POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", 400, 0, "abc"},
    {POST "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nabc\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 400, 0, ""},
    {POST "Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n", 400, 0, ""},
    /* What is not done here. */
    {GET "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", 400, 0, ""},
    {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0, ""},
    {POST "Expect: a miracle\r\nContent-Length: 3\r\n\r\nabc", 417, 0, ""},
};

static void test_http_each_case_comes_to_its_end_however_it_is_cut(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check(cases[i].text, strlen(cases[i].text), cases[i].status, cases[i].messages,
              cases[i].body);
}

static void test_http_nul_in_the_head_is_refused(void **state) {
    (void)state;
    static const char text[] = GET "X: a\0b\r\n\r\n";
    check(text, sizeof(text) - 1, 400, 0, "");
}

/* Builds: first, `fill` times 'a', last. */
static int long_status(const char *first, size_t fill, const char *last) {
    const size_t len = strlen(first) + fill + strlen(last);
    char *text = malloc(len + 1);
    assert_non_null(text);
    memcpy(text, first, strlen(first));
    memset(text + strlen(first), 'a', fill);
    memcpy(text + strlen(first) + fill, last, strlen(last) + 1);
    const int status = run(text, len, 0, false).status;
    free(text);
    return status;
}

static void test_http_line_lengths_at_the_limit_and_one_over(void **state) {
    (void)state;
    /* The line without its end: "GET /" + fill + " HTTP/1.1" and "X: " + fill; CR counts. */
    const size_t target = LORICA_HTTP_LINE_MAX - 2 - strlen("GET / HTTP/1.1");
    assert_int_equal(long_status("GET /", target - 1, " HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
    assert_int_equal(long_status("GET /", target, " HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
    assert_int_equal(long_status("GET /", target + 1, " HTTP/1.1\r\nHost: a\r\n\r\n"), 414);
    const size_t value = LORICA_HTTP_LINE_MAX - 2 - strlen("X: ");
    assert_int_equal(long_status(GET "X: ", value - 1, "\r\n\r\n"), 0);
    assert_int_equal(long_status(GET "X: ", value, "\r\n\r\n"), 0);
    assert_int_equal(long_status(GET "X: ", value + 1, "\r\n\r\n"), 431);
}

/* A head of `len` bytes, in lines below the line limit. */
static int head_status(size_t len) {
    char *text = malloc(len + 1);
    assert_non_null(text);
    static const char start[] = GET "X: ";
    memcpy(text, start, sizeof(start) - 1);
    memset(text + sizeof(start) - 1, 'a', len - (sizeof(start) - 1));
    memcpy(text + 8000, "\r\nY: ", 5);
    memcpy(text + 16000, "\r\nZ: ", 5);
    memcpy(text + len - 4, "\r\n\r\n", 5);
    const int status = run(text, len, 0, false).status;
    free(text);
    return status;
}

static void test_http_head_length_at_the_limit_and_one_over(void **state) {
    (void)state;
    assert_int_equal(head_status(LORICA_HTTP_HEAD_MAX - 1), 0);
    assert_int_equal(head_status(LORICA_HTTP_HEAD_MAX), 0);
    assert_int_equal(head_status(LORICA_HTTP_HEAD_MAX + 1), 431);
}

static int count_status(size_t count) {
    static const char header[] = "X: a\r\n";
    char text[LORICA_HTTP_HEAD_MAX] = GET; /* one header already */
    size_t len = strlen(text);
    for (size_t i = 1; i < count; i++, len += sizeof(header) - 1)
        memcpy(text + len, header, sizeof(header) - 1);
    memcpy(text + len, "\r\n", 2);
    return run(text, len + 2, 0, false).status;
}

static void test_http_header_count_at_the_limit_and_one_over(void **state) {
    (void)state;
    assert_int_equal(count_status(LORICA_HTTP_HEADERS_MAX - 1), 0);
    assert_int_equal(count_status(LORICA_HTTP_HEADERS_MAX), 0);
    assert_int_equal(count_status(LORICA_HTTP_HEADERS_MAX + 1), 431);
}

static int overhead_status(size_t extension) {
    return long_status(POST "Transfer-Encoding: chunked\r\n\r\n1;", extension,
                       "\r\nx\r\n0\r\n\r\n");
}

static void test_http_chunk_overhead_at_the_limit_and_one_over(void **state) {
    (void)state;
    /* Framing apart from the extension: "1;" CRLF CRLF "0" CRLF CRLF. */
    const size_t most = LORICA_HTTP_OVERHEAD_MAX - 11;
    assert_int_equal(overhead_status(most - 1), 0);
    assert_int_equal(overhead_status(most), 0);
    assert_int_equal(overhead_status(most + 1), 400);
}

static void test_http_trailer_never_becomes_a_header(void **state) {
    (void)state;
    static const char text[] = POST "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
                                    "Authorization: Bearer x\r\n\r\n";
    struct lorica_http http;
    assert_int_equal(lorica_http_init(&http), 0);
    const size_t head = lorica_http_feed(&http, text, sizeof(text) - 1);
    assert_int_equal(http.state, LORICA_HTTP_JUDGED);
    lorica_http_accept(&http);
    assert_int_equal(head + lorica_http_feed(&http, text + head, sizeof(text) - 1 - head),
                     sizeof(text) - 1);
    assert_int_equal(http.state, LORICA_HTTP_DONE);
    assert_null(lorica_http_header(&http, "authorization"));
    lorica_http_finish(&http);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_each_case_comes_to_its_end_however_it_is_cut),
        cmocka_unit_test(test_http_nul_in_the_head_is_refused),
        cmocka_unit_test(test_http_line_lengths_at_the_limit_and_one_over),
        cmocka_unit_test(test_http_head_length_at_the_limit_and_one_over),
        cmocka_unit_test(test_http_header_count_at_the_limit_and_one_over),
        cmocka_unit_test(test_http_chunk_overhead_at_the_limit_and_one_over),
        cmocka_unit_test(test_http_trailer_never_becomes_a_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
