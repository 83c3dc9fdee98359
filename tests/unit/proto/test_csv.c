/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/csv.h"

#define SOME_BYTES 64

/* What is read, as "LINE:[field][field]\n", or "LINE:fault\n". */
static const char *read_all(const char *text, size_t len, struct lorica_buf *out) {
    struct lorica_csv csv;
    lorica_buf_clear(out);
    lorica_csv_init(&csv, SOME_BYTES);
    for (size_t i = 0; i <= len; i++) {
        if (!lorica_csv_push(&csv, i < len ? (unsigned char)text[i] : EOF))
            continue;
        (void)lorica_buf_printf(out, "%u:%s", csv.line, csv.fault ? "fault" : "");
        for (uint32_t f = 0; f < csv.count && !csv.fault; f++) {
            size_t n;
            const char *field = lorica_csv_field(&csv, f, &n);
            (void)lorica_buf_puts(out, "[");
            (void)lorica_buf_append(out, field, n);
            (void)lorica_buf_puts(out, "]");
        }
        (void)lorica_buf_puts(out, "\n");
    }
    assert_false(lorica_csv_push(&csv, EOF));
    lorica_csv_finish(&csv);
    assert_int_equal(lorica_buf_status(out), 0);
    return out->len ? out->data : "";
}

static void test_records_are_read_as_rfc_4180_says(void **state) {
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"", ""},
        {"aaa,bbb\r\nccc,ddd\r\n", "1:[aaa][bbb]\n2:[ccc][ddd]\n"}, /* section 2, rule 1 */
        {"aaa,bbb\r\nccc,ddd", "1:[aaa][bbb]\n2:[ccc][ddd]\n"},     /* rule 2 */
        {"\"aaa\",\"b \r\nbb\",\"ccc\"\r\nzzz,yyy,xxx",
         "1:[aaa][b \nbb][ccc]\n3:[zzz][yyy][xxx]\n"},
        {"\"aaa\",\"b\"\"bb\",\"ccc\"", "1:[aaa][b\"bb][ccc]\n"}, /* rule 7 */
        {" a , b\n", "1:[ a ][ b]\n"},                            /* spaces belong to fields */
        {",\n\"\",\"\"\n", "1:[][]\n2:[][]\n"},
        {"\n\r\na\n", "1:[]\n2:[]\n3:[a]\n"},
        {"a,\"\"\"\"\n", "1:[a][\"]\n"},
        {"\"a\rb\n\r\r\nc\"\n", "1:[a\rb\n\r\nc]\n"},
        {"a\r", "1:[a]\n"},
    };
    struct lorica_buf out;
    (void)state;
    lorica_buf_init(&out, 10000);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(read_all(cases[i].text, strlen(cases[i].text), &out), cases[i].want);
    assert_string_equal(read_all("a\0b,c\n", 6, &out), "1:[a");
    assert_memory_equal(out.data, "1:[a\0b][c]\n", out.len);
    lorica_buf_finish(&out);
}

static void test_record_behind_a_faulty_one_is_read(void **state) {
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"a,b\"c\"\nd,e\n", "1:fault\n2:[d][e]\n"},
        {"a,\"b\" \nd,e\n", "1:fault\n2:[d][e]\n"},
        {"a\rb\nd\n", "1:fault\n2:[d]\n"},
        {"x\na,\"b\nd,e\n", "1:[x]\n2:fault\n"},
        {"a,\"b", "1:fault\n"},
        {"a,\"b\r", "1:fault\n"},
        {"a,\"0123456789 0123456789 0123456789 0123456789 0123456789 0123456789\n\",b\nc\n",
         "1:fault\n3:[c]\n"},
    };
    struct lorica_buf out;
    (void)state;
    lorica_buf_init(&out, 10000);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(read_all(cases[i].text, strlen(cases[i].text), &out), cases[i].want);
    lorica_buf_finish(&out);
}

static void test_too_many_fields_are_a_fault(void **state) {
    char text[LORICA_CSV_FIELDS_MAX + 1];
    struct lorica_csv csv;
    (void)state;
    memset(text, ',', sizeof(text));
    lorica_csv_init(&csv, 1000);
    for (int more = 0; more < 2; more++) {
        for (size_t i = 0; i < (size_t)LORICA_CSV_FIELDS_MAX - 1 + (size_t)more; i++)
            assert_false(lorica_csv_push(&csv, text[i]));
        assert_true(lorica_csv_push(&csv, '\n'));
        assert_int_equal(csv.count, LORICA_CSV_FIELDS_MAX);
        assert_int_equal(csv.fault != NULL, more);
    }
    lorica_csv_finish(&csv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_are_read_as_rfc_4180_says),
        cmocka_unit_test(test_record_behind_a_faulty_one_is_read),
        cmocka_unit_test(test_too_many_fields_are_a_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
