/* SPDX-License-Identifier: MIT
 * Files of examples: which ids they become, which of them are learnt, and what is said of bad ones.
 */
#include "model_fixture.h"

#include <unistd.h>

#include "runtime/train/data.h"

#define USER "<|im_start|>user\n"
#define ANSWER "<|im_start|>assistant\n"
#define END "<|im_end|>\n"
#define LEARNT "<|im_end|>]\n"

static struct lorica_tokenizer *tokenizer;
static struct lorica_chat_template *chat;
static char path[] = "/tmp/lorica-train-data-XXXXXX.jsonl";

static int open_all(void **state) {
    struct lorica_base *base = open_golden("tiny");
    (void)state;
    assert_int_equal(lorica_tokenizer_create(base->metadata, base->metadata_len, &tokenizer, NULL),
                     0);
    assert_int_equal(lorica_chat_create(base->metadata, base->metadata_len, &chat, NULL), 0);
    lorica_base_close(base);
    const int fd = mkstemps(path, 6);
    assert_true(fd >= 0);
    return close(fd);
}

static int close_all(void **state) {
    (void)state;
    lorica_tokenizer_destroy(tokenizer);
    lorica_chat_destroy(chat);
    return unlink(path);
}

static struct lorica_train_data_options plain_options(void) {
    return (struct lorica_train_data_options){
        .tokenizer = tokenizer, .chat = chat, .max_length = 1000};
}

/* What on_bad heard. */
struct bad {
    size_t count;
    uint32_t line; /* the first */
    char what[300];
};

static void count_bad(void *arg, const char *file, uint32_t line, const char *what) {
    struct bad *bad = arg;
    assert_string_equal(file, path);
    if (bad->count++ == 0) {
        bad->line = line;
        (void)snprintf(bad->what, sizeof(bad->what), "%s", what);
    }
}

/* Reads a file of this text, in which "'" stands for a double quote. */
static int load(const char *text, const struct lorica_train_data_options *options,
                struct lorica_train_data *ret, struct lorica_error *err) {
    const char *const paths[] = {path};
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    for (const char *c = text; *c; c++)
        assert_true(putc(*c == '\'' ? '"' : *c, file) != EOF);
    assert_int_equal(fclose(file), 0);
    *err = (struct lorica_error){0};
    return lorica_train_data_load(paths, 1, options, ret, err);
}

/* The text of an example behind a default system message; what is learnt stands in brackets. */
static char *show(const struct lorica_train_example *e) {
    struct lorica_buf out;
    bool open = false;
    lorica_buf_init(&out, 1u << 20);
    for (uint32_t i = 0; i < e->length; i++) {
        const bool learnt = e->labels[i] != -100;
        if (learnt != open)
            (void)lorica_buf_puts(&out, learnt ? "[" : "]");
        open = learnt;
        (void)lorica_tokenizer_decode(tokenizer, e->ids[i], true, &out);
    }
    (void)lorica_buf_puts(&out, open ? "]" : "");
    char *all = lorica_buf_take(&out, NULL), *user = all ? strstr(all, USER) : NULL;
    assert_non_null(all);
    if (user)
        memmove(all, user, strlen(user) + 1);
    return all;
}

static void expect(const char *text, const struct lorica_train_data_options *options,
                   const char *const *want, size_t count) {
    struct lorica_train_data data = {0};
    struct lorica_error err;
    if (load(text, options, &data, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(data.count, count);
    for (size_t i = 0; i < count; i++) {
        char *got = show(&data.examples[i]);
        assert_string_equal(got, want[i]);
        free(got);
    }
    lorica_train_data_finish(&data);
}

static void test_answers_of_json_lines_are_learnt(void **state) {
    static const char *const want[] = {
        USER "1?" END ANSWER "[1." LEARNT USER "2?" END ANSWER "[2." LEARNT,
        USER "1?" END ANSWER "[1." LEARNT,
        USER "1?" END ANSWER "1." END USER "2?" END ANSWER "[2." LEARNT,
        USER "1?" END ANSWER "1." END ANSWER "[2." LEARNT,
        "P[lain<|im_end|> text.<|im_end|>]",
    };
    const struct lorica_train_data_options options = plain_options();
    (void)state;
    expect("\xef\xbb\xbf"
           "{'messages':[{'role':'user','content':'1?'},{'role':'assistant','content':'1.'},"
           "{'role':'user','content':'2?'},{'role':'assistant','content':'2.'}]}\r\n"
           "{'prompt':'1?','completion':'1.'}\n"
           "{'prompt':[{'role':'user','content':'1?'},{'role':'assistant','content':'1.'},"
           "{'role':'user','content':'2?'}],'completion':[{'role':'assistant','content':'2.'}]}\n"
           "{'messages':[{'role':'user','content':'1?'},"
           "{'role':'assistant','content':'1.','weight':0},"
           "{'role':'assistant','content':'2.','weight':1}]}\n"
           "{'text':'Plain<|im_end|> text.'}\n\n \n",
           &options, want, 5);
}

static void test_whole_text_is_learnt_when_asked(void **state) {
    struct lorica_train_data_options options = plain_options();
    struct lorica_train_data data = {0};
    struct lorica_error err;
    (void)state;
    options.whole = true;
    assert_int_equal(load("{'prompt':'1?','completion':'1.'}", &options, &data, &err), 0);
    assert_int_equal(data.examples[0].labels[0], -100);
    assert_int_equal(data.examples[0].answers, data.examples[0].length - 1);
    lorica_train_data_finish(&data);
}

static void test_columns_of_csv_are_found(void **state) {
    static const char *const want[] = {USER "1, \"one\"?" END ANSWER "[1.\n1." LEARNT,
                                       USER "2?" END ANSWER "[2." LEARNT};
    struct lorica_train_data_options options = plain_options();
    struct lorica_train_data data = {0};
    struct lorica_error err;
    (void)state;
    options.format = LORICA_TRAIN_CSV;
    expect("'1, ''one''?','1.\r\n1.'\r\n2?,2.\r\n", &options, want, 2);
    expect("\xef\xbb\xbf Question ,ANSWER\n'1, ''one''?','1.\n1.'\n2?,2.", &options, want, 2);
    expect("\xef\xbb\xbf'answer',id,'question'\n'1.\n1.',1,'1, ''one''?'\n2.,2,2?\n\n\n", &options,
           want, 2);
    options.columns[0] = "frage";
    options.columns[1] = "Antwort";
    expect("question,answer,Antwort,Frage\n,,'1.\n1.','1, ''one''?'\nx,y,2.,2?\n", &options, want,
           2);
    assert_int_equal(load("question,answer\n1,2\n", &options, &data, &err), LORICA_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "\"frage\""));
    options.columns[0] = NULL;
    assert_int_equal(load("a,b,c\n1,2,3\n", &options, &data, &err), LORICA_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "--columns"));
    assert_int_equal(load("a;b\n1;2\n", &options, &data, &err), LORICA_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "comma"));
}

static void test_bad_line_ends_the_reading_or_is_left_out(void **state) {
    static const struct {
        bool csv;
        uint32_t line, bad;
        const char *text, *says;
    } cases[] = {
        {false, 2, 1, "{'text':'a'}\n{'text':\n{'text':'b'}\n", "JSON"},
        {false, 2, 1, "{'text':'a'}\n\n{'text':'b'}\n", "empty"},
        {false, 1, 1, "{'text':'a\xff'}\n{'text':'b'}\n{'text':'c'}\n", "UTF-8"},
        {false, 2, 1, "{'text':'a'}\n{'text':' '}\n{'text':'b'}\n", "empty"},
        {false, 2, 1, "{'text':'a'}\n{'prompt':'q'}\n{'text':'b'}\n", "completion"},
        {false, 2, 1, "{'text':'a'}\n{'prompt':'q','completion':' \\n'}\n{'text':'b'}", "answer"},
        {false, 2, 1, "{'text':'a'}\n{'prompt':[],'completion':'c'}\n{'text':'b'}", "lists"},
        {false, 2, 1,
         "{'text':'a'}\n{'messages':[{'role':'assistant','content':'b','weight':0}]}\n{'text':'b'}",
         "no \"weight\" of 0"},
        {false, 2, 1,
         "{'text':'a'}\n{'messages':[{'role':'assistant','content':'b','weight':2}]}\n{'text':'b'}",
         "weight"},
        {true, 2, 2, "a,b\n,x\n\ny,z\n", "question"},
        {true, 2, 1, "a,b\nc, \nc,d\n", "answer"},
        {true, 2, 1, "a,b\nc,d,e\nc,d\n", "3 fields"},
        {true, 2, 1, "a,b\nc\xff,d\nc,d\n", "UTF-8"},
        {true, 3, 1, "a,b\nc,d\n'x,y\nu,v\n", "never closed"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_train_data_options options = plain_options();
        struct lorica_train_data data = {0};
        struct lorica_error err;
        struct bad bad = {0};
        char place[100];
        options.format = cases[i].csv ? LORICA_TRAIN_CSV : LORICA_TRAIN_JSONL;
        const int rc = load(cases[i].text, &options, &data, &err);
        assert_int_equal(rc, LORICA_EFORMAT);
        (void)snprintf(place, sizeof(place), "%s: line %u: ", path, cases[i].line);
        assert_int_equal(strncmp(err.text, place, strlen(place)), 0);
        assert_non_null(strstr(err.text, cases[i].says));
        assert_non_null(strstr(err.text, "--skip-bad"));
        options.on_bad = count_bad;
        options.on_bad_arg = &bad;
        assert_int_equal(load(cases[i].text, &options, &data, &err), 0);
        assert_int_equal(data.count, 2);
        assert_int_equal(data.bad, cases[i].bad);
        assert_int_equal(bad.count, cases[i].bad);
        assert_int_equal(bad.line, cases[i].line);
        assert_non_null(strstr(bad.what, cases[i].says));
        lorica_train_data_finish(&data);
    }
}

static void test_line_that_is_too_long_is_named_and_the_next_one_read(void **state) {
    const size_t len = 10u << 20;
    struct lorica_train_data_options options = plain_options();
    struct lorica_train_data data = {0};
    struct lorica_error err;
    struct bad bad = {0};
    char *text = malloc(len + 100);
    (void)state;
    assert_non_null(text);
    memset(text, 'a', len);
    memcpy(text + len, "\n{'text':'b'}\n", 15);
    assert_int_equal(load(text, &options, &data, &err), LORICA_ELIMIT);
    assert_non_null(strstr(err.text, "line 1"));
    options.on_bad = count_bad;
    options.on_bad_arg = &bad;
    assert_int_equal(load(text, &options, &data, &err), 0);
    assert_int_equal(data.count, 1);
    assert_int_equal(data.examples[0].line, 2);
    assert_int_equal(bad.count, 1);
    lorica_train_data_finish(&data);
    free(text);
}

static void test_file_without_a_usable_example_is_refused(void **state) {
    struct lorica_train_data_options options = plain_options();
    struct lorica_train_data data = {0};
    struct lorica_error err;
    struct bad bad = {0};
    (void)state;
    assert_int_equal(load("", &options, &data, &err), LORICA_EFORMAT);
    assert_int_equal(load("\n\n", &options, &data, &err), LORICA_EFORMAT);
    assert_non_null(strstr(err.text, "no usable example"));
    options.on_bad = count_bad;
    options.on_bad_arg = &bad;
    assert_int_equal(load("{}\n", &options, &data, &err), LORICA_EFORMAT);
    assert_int_equal(bad.count, 1);
    options.max_length = 10;
    assert_int_equal(load("{'prompt':'a long question','completion':'c'}\n", &options, &data, &err),
                     LORICA_EFORMAT);
    assert_non_null(strstr(err.text, "--max-length"));
}

static void test_examples_take_no_more_memory_than_they_may(void **state) {
    static const char line[] = "{'text':'on the fourth floor'}\n";
    struct lorica_train_data_options options = plain_options();
    struct lorica_train_data data = {0};
    struct lorica_error err = {0};
    char text[1000 * (sizeof(line) - 1) + 1] = "";
    (void)state;
    for (size_t i = 0; i < 1000; i++)
        memcpy(text + i * (sizeof(line) - 1), line, sizeof(line));
    assert_int_equal(load(text, &options, &data, &err), 0);
    const uint64_t whole = data.nbytes;
    assert_true(whole >= 1000 * (sizeof(*data.examples) + 2 * sizeof(int32_t) * 5));
    lorica_train_data_finish(&data);
    options.max_nbytes = whole;
    assert_int_equal(load(text, &options, &data, &err), 0);
    lorica_train_data_finish(&data);
    options.max_nbytes = whole - 1;
    assert_int_equal(load(text, &options, &data, &err), LORICA_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "line 1000: "));
    /* Nor is a line that is too much left out as a bad one. */
    struct bad bad = {0};
    options.on_bad = count_bad;
    options.on_bad_arg = &bad;
    assert_int_equal(load(text, &options, &data, &err), LORICA_EUNSUPPORTED);
    assert_int_equal(bad.count, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_of_json_lines_are_learnt),
        cmocka_unit_test(test_whole_text_is_learnt_when_asked),
        cmocka_unit_test(test_columns_of_csv_are_found),
        cmocka_unit_test(test_bad_line_ends_the_reading_or_is_left_out),
        cmocka_unit_test(test_line_that_is_too_long_is_named_and_the_next_one_read),
        cmocka_unit_test(test_file_without_a_usable_example_is_refused),
        cmocka_unit_test(test_examples_take_no_more_memory_than_they_may),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
