/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/buf.h"
#include "proto/multipart.h"

#define TYPE "multipart/form-data; boundary=XyZ"
#define PART "--XyZ\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n"

/* Writes what comes as "[name|filename]data." */
static int on_part(void *user, const char *name, const char *filename, struct lorica_error *err) {
    (void)err;
    return lorica_buf_printf(user, "[%s|%s]", name, filename ? filename : "-");
}
static int on_data(void *user, const void *bytes, size_t len, struct lorica_error *err) {
    (void)err;
    assert_true(len > 0);
    return lorica_buf_append(user, bytes, len);
}
static int on_part_end(void *user, struct lorica_error *err) {
    (void)err;
    return lorica_buf_puts(user, ".");
}

/* Feeds a body in pieces of `step` bytes; the result of the first failure, or of the end. */
static int run(const char *type, const char *body, size_t len, size_t step, struct lorica_buf *out,
               struct lorica_error *err) {
    static struct lorica_multipart reader;
    const struct lorica_multipart_sink sink = {on_part, on_data, on_part_end, out};
    lorica_buf_clear(out);
    int rc = lorica_multipart_init(&reader, type, &sink, err);
    for (size_t at = 0; at < len && rc == 0; at += step)
        rc = lorica_multipart_feed(&reader, body + at, len - at < step ? len - at : step, err);
    return rc ? rc : lorica_multipart_end(&reader, err);
}

static void test_parts_any_piece_size_give_the_same(void **state) {
    (void)state;
    static const char body[] =
        "--XyZ\r\ncontent-disposition: form-data; name=\"config\"\r\n\r\n{\"r\":8}"
        "\r\n--XyZ\r\nContent-Disposition: form-data; name=w; filename=\"a \\\"b\\\".bin\"\r\n"
        "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        "\r\n--Xy\r\r\n--\r\n-\r\n\r\n--XyZ\r\nContent-Disposition: form-data; name=\"e\"\r\n\r\n"
        "\r\n--XyZ--\r\n";
    static const char want[] =
        "[config|-]{\"r\":8}.[w|a \"b\".bin]\r\n--Xy\r\r\n--\r\n-\r\n.[e|-].";
    struct lorica_buf out;
    struct lorica_error err;
    lorica_buf_init(&out, 10000);
    for (size_t step = 1; step < sizeof(body); step++) {
        assert_int_equal(run(TYPE, body, sizeof(body) - 1, step, &out, &err), 0);
        assert_string_equal(out.data, want);
    }
    lorica_buf_finish(&out);
}

static void test_body_cut_anywhere_is_refused(void **state) {
    (void)state;
    static const char body[] = PART "data\r\n--XyZ--";
    struct lorica_buf out;
    struct lorica_error err;
    lorica_buf_init(&out, 10000);
    for (size_t len = 0; len < sizeof(body) - 1; len++)
        assert_int_equal(run(TYPE, body, len, 7, &out, &err), LORICA_EFORMAT);
    assert_int_equal(run(TYPE, body, sizeof(body) - 1, 7, &out, &err), 0);
    lorica_buf_finish(&out);
}

static void test_malformed_body_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "x" PART "\r\n--XyZ--",
        "\r\n" PART "\r\n--XyZ--",
        "--XyZ--x",
        "--XyZ--\r\nx",
        "--XyZ \r\n",
        "--XyZ\n",
        PART "d\r\n--XyZZ",
        "--XyZ\r\n\r\nno headers\r\n--XyZ--",
        "--XyZ\r\nContent-Type: a/b\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: form-data\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: form-data; name=a; name=b\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: form-data; name=a; filename*=utf-8''b\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: form-data; name=\"a\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: form-data; name=\"a\x01\"\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: form-data;\r\n name=a\r\n\r\n\r\n--XyZ--",
        "--XyZ\r\nContent-Disposition: form-data; name=a\nX: y\r\n\r\n\r\n--XyZ--",
        ("--XyZ\r\nContent-Disposition: form-data; name=a\r\nContent-Disposition: form-data; "
         "name=b\r\n\r\n\r\n--XyZ--"),
    };
    struct lorica_buf out;
    struct lorica_error err;
    lorica_buf_init(&out, 10000);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(run(TYPE, bad[i], strlen(bad[i]), 1000, &out, &err), LORICA_EFORMAT);
    static const char base64[] = "--XyZ\r\nContent-Disposition: form-data; name=a\r\n"
                                 "Content-Transfer-Encoding: base64\r\n\r\n\r\n--XyZ--";
    assert_int_equal(run(TYPE, base64, sizeof(base64) - 1, 9, &out, &err), LORICA_EUNSUPPORTED);
    lorica_buf_finish(&out);
}

static void test_content_type_is_judged(void **state) {
    (void)state;
    static const struct {
        const char *type;
        int rc;
    } cases[] = {
        {"Multipart/Form-Data; charset=utf-8; BOUNDARY=\"XyZ\"", 0},
        {"multipart/form-data;boundary=XyZ", 0},
        {"multipart/form-data", LORICA_EFORMAT},
        {"multipart/form-data; boundary=", LORICA_EFORMAT},
        {"multipart/form-data; boundary=\"\"", LORICA_EFORMAT},
        {"multipart/form-data; boundary=\"XyZ", LORICA_EFORMAT},
        {"multipart/form-data; boundary=\"a \"", LORICA_EFORMAT},
        {"multipart/form-data; boundary=XyZ; boundary=XyZ", LORICA_EFORMAT},
        {"multipart/form-data; boundary=a*b", LORICA_EFORMAT},
        {"multipart/form-dataX; boundary=XyZ", LORICA_EUNSUPPORTED},
        {"multipart/mixed; boundary=XyZ", LORICA_EUNSUPPORTED},
        {"", LORICA_EUNSUPPORTED},
    };
    struct lorica_buf out;
    struct lorica_error err;
    lorica_buf_init(&out, 10000);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(run(cases[i].type, "--XyZ--", 7, 3, &out, &err), cases[i].rc);
    char type[400];
    char body[200];
    for (int len = 69; len <= 71; len++) {
        snprintf(type, sizeof(type), "multipart/form-data; boundary=%0*d", len, 0);
        snprintf(body, sizeof(body), "--%0*d--", len, 0);
        assert_int_equal(run(type, body, strlen(body), 9, &out, &err),
                         len <= LORICA_MULTIPART_MAX_BOUNDARY ? 0 : LORICA_EFORMAT);
    }
    snprintf(type, sizeof(type), "multipart/form-data; boundary=XyZ; x=%0300d", 0);
    assert_int_equal(run(type, "--XyZ--", 7, 3, &out, &err), LORICA_ELIMIT);
    lorica_buf_finish(&out);
}

static void test_limits_are_exact(void **state) {
    (void)state;
    struct lorica_buf out, body;
    struct lorica_error err;
    lorica_buf_init(&out, 100000);
    lorica_buf_init(&body, 100000);
    for (int parts = 15; parts <= 17; parts++) {
        lorica_buf_clear(&body);
        for (int i = 0; i < parts; i++)
            lorica_buf_puts(&body, i ? "\r\n" PART : PART);
        lorica_buf_puts(&body, "\r\n--XyZ--");
        assert_int_equal(run(TYPE, body.data, body.len, 100, &out, &err),
                         parts <= LORICA_MULTIPART_MAX_PARTS ? 0 : LORICA_ELIMIT);
    }
    for (int name = 126; name <= 128; name++) {
        lorica_buf_clear(&body);
        lorica_buf_printf(&body, "--XyZ\r\nContent-Disposition: form-data; name=%0*d\r\n\r\n", name,
                          0);
        lorica_buf_puts(&body, "\r\n--XyZ--");
        assert_int_equal(run(TYPE, body.data, body.len, 100, &out, &err),
                         name <= LORICA_MULTIPART_MAX_NAME ? 0 : LORICA_ELIMIT);
    }
    for (int name = 254; name <= 256; name++) {
        lorica_buf_clear(&body);
        lorica_buf_printf(&body,
                          "--XyZ\r\nContent-Disposition: form-data; name=a; filename=\"%0*d\"\r\n"
                          "\r\n\r\n--XyZ--",
                          name, 0);
        assert_int_equal(run(TYPE, body.data, body.len, 100, &out, &err),
                         name <= LORICA_MULTIPART_MAX_FILENAME ? 0 : LORICA_ELIMIT);
    }
    for (int extra = -1; extra <= 1; extra++) {
        static const char line[] = "Content-Disposition: form-data; name=a\r\n";
        const int fill = LORICA_MULTIPART_MAX_HEADERS + extra - (int)sizeof(line) + 1 - 4 - 3;
        lorica_buf_clear(&body);
        lorica_buf_printf(&body, "--XyZ\r\n%sX: %0*d\r\n\r\n\r\n--XyZ--", line, fill, 0);
        assert_int_equal(run(TYPE, body.data, body.len, 100, &out, &err),
                         extra <= 0 ? 0 : LORICA_ELIMIT);
    }
    lorica_buf_finish(&out);
    lorica_buf_finish(&body);
}

static void test_failure_of_a_callback_stays(void **state) {
    (void)state;
    static const char body[] = PART "more than fits\r\n--XyZ--";
    struct lorica_buf out;
    struct lorica_error err;
    lorica_buf_init(&out, 8);
    struct lorica_multipart reader;
    const struct lorica_multipart_sink sink = {on_part, on_data, on_part_end, &out};
    assert_int_equal(lorica_multipart_init(&reader, TYPE, &sink, &err), 0);
    assert_int_equal(lorica_multipart_feed(&reader, body, sizeof(body) - 1, &err), LORICA_ELIMIT);
    assert_int_equal(lorica_multipart_feed(&reader, "x", 1, &err), LORICA_ELIMIT);
    assert_int_equal(lorica_multipart_end(&reader, &err), LORICA_ELIMIT);
    lorica_buf_finish(&out);
}

static int count_piece(void *user, const void *bytes, size_t len, struct lorica_error *err) {
    (void)bytes;
    (void)len;
    (void)err;
    (*(size_t *)user)++;
    return 0;
}
static int no_part(void *user, const char *name, const char *filename, struct lorica_error *err) {
    return 0;
}
static int no_end(void *user, struct lorica_error *err) { return 0; }

static void test_data_full_of_line_ends_comes_in_one_piece(void **state) {
    (void)state;
    char body[4096] = PART;
    size_t pieces = 0, len = strlen(body);
    struct lorica_multipart reader;
    struct lorica_error err;
    const struct lorica_multipart_sink sink = {no_part, count_piece, no_end, &pieces};
    for (; len < 4000; len++)
        body[len] = len % 3 ? '\r' : '\n';
    memcpy(body + len, "\r\n--XyZ--", 9);
    assert_int_equal(lorica_multipart_init(&reader, TYPE, &sink, &err), 0);
    assert_int_equal(lorica_multipart_feed(&reader, body, len + 9, &err), 0);
    assert_int_equal(lorica_multipart_end(&reader, &err), 0);
    assert_int_equal(pieces, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_any_piece_size_give_the_same),
        cmocka_unit_test(test_body_cut_anywhere_is_refused),
        cmocka_unit_test(test_malformed_body_is_refused),
        cmocka_unit_test(test_content_type_is_judged),
        cmocka_unit_test(test_limits_are_exact),
        cmocka_unit_test(test_failure_of_a_callback_stays),
        cmocka_unit_test(test_data_full_of_line_ends_comes_in_one_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
