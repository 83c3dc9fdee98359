/* SPDX-License-Identifier: MIT
 * Text of a generation: however tokens cut it, what goes out is the whole text, in whole
 * characters, up to a stop string. */
#include "model_fixture.h"
#include "runtime/outtext.h"
#include "runtime/tokenizer.h"

#include "proto/utf8.h"

struct fixture {
    struct lorica_base *base;
    struct lorica_tokenizer *tokenizer;
};

static struct fixture fixture;

static int setup(void **state) {
    struct lorica_error err = {0};
    fixture.base = open_golden("tiny-nf4");
    if (lorica_tokenizer_create(fixture.base->metadata, fixture.base->metadata_len,
                                &fixture.tokenizer, &err) != 0)
        fail_msg("%s", err.text);
    return 0;
}

static int teardown(void **state) {
    lorica_tokenizer_destroy(fixture.tokenizer);
    lorica_base_close(fixture.base);
    return 0;
}

/* The tokens that are one raw byte each: a text can then be cut anywhere. */
static int32_t byte_token(char byte) {
    for (int32_t id = 0; id < (int32_t)lorica_tokenizer_vocab(fixture.tokenizer); id++) {
        struct lorica_buf bytes;
        lorica_buf_init(&bytes, 1024);
        const bool found = lorica_tokenizer_decode(fixture.tokenizer, id, false, &bytes) == 0 &&
                           bytes.len == 1 && bytes.data[0] == byte;
        lorica_buf_finish(&bytes);
        if (found)
            return id;
    }
    fail_msg("no token for byte %d", byte);
    return -1;
}

/* Pushes the bytes one by one; the text that came out in `all`. Every part must be valid. Returns
 * how many bytes went in before a stop string was complete. */
static size_t feed(struct lorica_outtext *text, const char *bytes, size_t len,
                   struct lorica_buf *all) {
    for (size_t i = 0; i < len; i++) {
        bool stopped;
        lorica_buf_clear(&text->out);
        assert_int_equal(lorica_outtext_push(text, byte_token(bytes[i]), &stopped), 0);
        assert_true(lorica_utf8_valid(text->out.data ? text->out.data : "", text->out.len));
        (void)lorica_buf_append(all, text->out.data ? text->out.data : "", text->out.len);
        if (stopped)
            return i + 1;
    }
    lorica_buf_clear(&text->out);
    assert_int_equal(lorica_outtext_flush(text), 0);
    (void)lorica_buf_append(all, text->out.data ? text->out.data : "", text->out.len);
    return len;
}

/* Feeds `bytes` with these stop strings and compares all that came out. */
static void expect(const char *bytes, const char *const *stop, size_t stop_count,
                   const char *expected, size_t used) {
    struct lorica_outtext text;
    struct lorica_buf all;
    lorica_buf_init(&all, 1 << 20);
    assert_int_equal(lorica_outtext_init(&text, fixture.tokenizer, stop, stop_count), 0);
    assert_int_equal(feed(&text, bytes, strlen(bytes), &all), used);
    assert_int_equal(all.len, strlen(expected));
    assert_memory_equal(all.data ? all.data : "", expected, all.len);
    lorica_buf_finish(&all);
    lorica_outtext_finish(&text);
}

static void test_outtext_split_characters_come_out_whole(void **state) {
    const char *text = "na\xc3\xafve \xe2\x82\xac \xf0\x9f\x8f\xa5 end";
    expect(text, NULL, 0, text, strlen(text));
}

static void test_outtext_bytes_that_are_no_text_are_replaced(void **state) {
    expect("a\xff"
           "b",
           NULL, 0,
           "a\xef\xbf\xbd"
           "b",
           3);
    /* A character broken off is one replacement, not one for each byte. */
    expect("a\xe2\x82"
           "b",
           NULL, 0,
           "a\xef\xbf\xbd"
           "b",
           4);
    expect("a\xf0\x9f\x8f", NULL, 0, "a\xef\xbf\xbd", 4);
}

static void test_outtext_stop_string_ends_the_text_before_it(void **state) {
    static const char *const stop[] = {"STOP", "END"};
    expect("one STOP two", stop, 2, "one ", 8);
    expect("one END STOP", stop, 2, "one ", 7);
    expect("one two", stop, 2, "one two", 7);
}

static void test_outtext_partial_stop_string_is_given_out_when_it_fails(void **state) {
    static const char *const stop[] = {"aab"};
    expect("xaaaab", stop, 1, "xaa", 6);
    expect("xaaac", stop, 1, "xaaac", 5);
    expect("xaa", stop, 1, "xaa", 3);
}

static void test_outtext_holds_back_only_what_may_be_a_stop(void **state) {
    static const char *const stop[] = {"##"};
    struct lorica_outtext text;
    bool stopped;
    assert_int_equal(lorica_outtext_init(&text, fixture.tokenizer, stop, 1), 0);
    assert_int_equal(lorica_outtext_push(&text, byte_token('a'), &stopped), 0);
    assert_int_equal(text.out.len, 1);
    assert_int_equal(lorica_outtext_push(&text, byte_token('#'), &stopped), 0);
    assert_int_equal(text.out.len, 1);
    assert_int_equal(lorica_outtext_push(&text, byte_token('b'), &stopped), 0);
    assert_int_equal(text.out.len, 3);
    lorica_outtext_finish(&text);
}

static void test_outtext_stop_string_within_a_character_works_on_bytes(void **state) {
    static const char *const stop[] = {"\xc3\xaf"};
    expect("na\xc3\xafve", stop, 1, "na", 4);
}

static void test_outtext_special_tokens_bring_no_text(void **state) {
    struct lorica_outtext text;
    bool stopped;
    size_t count;
    const int32_t *ids = lorica_tokenizer_stop_ids(fixture.tokenizer, &count);
    assert_true(count > 0);
    assert_int_equal(lorica_outtext_init(&text, fixture.tokenizer, NULL, 0), 0);
    assert_int_equal(lorica_outtext_push(&text, ids[0], &stopped), 0);
    assert_int_equal(text.out.len, 0);
    lorica_outtext_finish(&text);
}

static void test_outtext_too_many_or_too_long_stop_strings_are_refused(void **state) {
    static const char *const five[] = {"a", "b", "c", "d", "e"};
    char *text = calloc(1, LORICA_MAX_STOP_BYTES + 2);
    struct lorica_outtext out;
    assert_non_null(text);
    memset(text, 'x', LORICA_MAX_STOP_BYTES + 1);
    const char *const one[] = {text};
    assert_int_equal(lorica_outtext_init(&out, fixture.tokenizer, five, 5), LORICA_ELIMIT);
    assert_int_equal(lorica_outtext_init(&out, fixture.tokenizer, one, 1), LORICA_ELIMIT);
    text[LORICA_MAX_STOP_BYTES] = '\0';
    assert_int_equal(lorica_outtext_init(&out, fixture.tokenizer, one, 1), 0);
    lorica_outtext_finish(&out);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outtext_split_characters_come_out_whole),
        cmocka_unit_test(test_outtext_bytes_that_are_no_text_are_replaced),
        cmocka_unit_test(test_outtext_stop_string_ends_the_text_before_it),
        cmocka_unit_test(test_outtext_partial_stop_string_is_given_out_when_it_fails),
        cmocka_unit_test(test_outtext_holds_back_only_what_may_be_a_stop),
        cmocka_unit_test(test_outtext_stop_string_within_a_character_works_on_bytes),
        cmocka_unit_test(test_outtext_special_tokens_bring_no_text),
        cmocka_unit_test(test_outtext_too_many_or_too_long_stop_strings_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
