/* SPDX-License-Identifier: MIT
 * Chat templates against prompts that transformers rendered (tests/golden/make_chat.py), and what
 * is refused because it would come out in another way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden_json.h"
#include "model_fixture.h"
#include "runtime/chat.h"

#define SPECIAL_IDS 3 /* of tests/golden/tiny */

static struct lorica_tokenizer *open_tokenizer(void) {
    struct lorica_base *base = open_golden("tiny");
    struct lorica_tokenizer *tokenizer = NULL;
    assert_int_equal(lorica_tokenizer_create(base->metadata, base->metadata_len, &tokenizer, NULL),
                     0);
    lorica_base_close(base);
    return tokenizer;
}

/* A template's text to the template, as an import and an opening make it. */
static struct lorica_chat_template *make_template(const char *jinja) {
    struct lorica_buf system, metadata;
    struct lorica_chat_template *chat = NULL;
    lorica_buf_init(&system, 4096);
    lorica_buf_init(&metadata, 1u << 16);
    const char *name = lorica_chat_recognise(jinja, strlen(jinja), &system);
    assert_non_null(name);
    struct lorica_jsonw w = {.out = &metadata};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_object(&w, "chat");
    lorica_jsonw_string(&w, "template", name);
    lorica_jsonw_string(&w, "default_system", system.len ? system.data : "");
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_object(&w);
    assert_int_equal(lorica_chat_create(metadata.data, metadata.len, &chat, NULL), 0);
    lorica_buf_finish(&system);
    lorica_buf_finish(&metadata);
    return chat;
}

static size_t read_messages(const struct lorica_json *list, struct lorica_chat_message *out) {
    size_t count = 0;
    for (const struct lorica_json *m = lorica_json_first(list); m; m = lorica_json_next(m))
        out[count++] = (struct lorica_chat_message){
            .role = lorica_json_string(lorica_json_get(m, "role")),
            .content = lorica_json_string(lorica_json_get(m, "content"))};
    return count;
}

static size_t count_of(const char *text, const char *part) {
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
        count++;
    return count;
}

/* Each message brings two special tokens, and the opening of the answer one; none is a client's. */
static void check_special(const struct lorica_tokens *ids, const char *text,
                          const struct lorica_chat_message *messages, size_t count) {
    static const char *const tokens[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    for (int32_t t = 0; t < SPECIAL_IDS; t++) {
        size_t own = count_of(text, tokens[t]), got = 0;
        for (size_t m = 0; m < count; m++)
            own -= count_of(messages[m].content, tokens[t]);
        for (size_t i = 0; i < ids->count; i++)
            got += ids->ids[i] == t;
        assert_int_equal(got, own);
    }
}

/* The mask's ones are the answers, each with the token that ends it. */
static void check_mask(const struct lorica_tokenizer *tokenizer, const struct lorica_tokens *ids,
                       const struct lorica_buf *mask, const struct lorica_chat_message *messages,
                       size_t count) {
    struct lorica_buf learnt, want;
    lorica_buf_init(&learnt, 1u << 16);
    lorica_buf_init(&want, 1u << 16);
    assert_int_equal(mask->len, ids->count);
    for (size_t i = 0; i < ids->count; i++)
        if (mask->data[i])
            (void)lorica_tokenizer_decode(tokenizer, ids->ids[i], true, &learnt);
    for (size_t m = 0; m < count; m++)
        if (strcmp(messages[m].role, "assistant") == 0)
            (void)lorica_buf_printf(&want, "%s<|im_end|>", messages[m].content);
    assert_int_equal(learnt.len, want.len);
    if (want.len > 0)
        assert_memory_equal(learnt.data, want.data, want.len);
    lorica_buf_finish(&learnt);
    lorica_buf_finish(&want);
}

static void check_row(const struct lorica_chat_template *chat,
                      const struct lorica_tokenizer *tokenizer, const struct lorica_json *row) {
    struct lorica_chat_message messages[8];
    const size_t count = read_messages(lorica_json_get(row, "messages"), messages);
    const char *want = lorica_json_string(lorica_json_get(row, "text"));
    const struct lorica_json *want_ids = lorica_json_get(row, "ids");
    struct lorica_tokens ids = {0};
    struct lorica_buf text, mask, again;
    lorica_buf_init(&text, 1u << 16);
    lorica_buf_init(&mask, 1u << 16);
    lorica_buf_init(&again, 1u << 16);
    assert_int_equal(lorica_chat_render(chat, tokenizer, messages, count,
                                        lorica_json_is_true(lorica_json_get(row, "generate")), &ids,
                                        &text, &mask, NULL),
                     0);
    assert_string_equal(text.data, want);
    for (size_t i = 0; i < ids.count; i++)
        (void)lorica_tokenizer_decode(tokenizer, ids.ids[i], true, &again);
    assert_string_equal(again.data, want);
    check_special(&ids, want, messages, count);
    check_mask(tokenizer, &ids, &mask, messages, count);
    size_t i = 0;
    for (const struct lorica_json *j = lorica_json_first(want_ids); j; j = lorica_json_next(j), i++)
        assert_true(i < ids.count && ids.ids[i] == (int32_t)lorica_json_number(j, -1));
    assert_true(!want_ids || i == ids.count);
    free(ids.ids);
    lorica_buf_finish(&text);
    lorica_buf_finish(&mask);
    lorica_buf_finish(&again);
}

static void test_render_gives_reference_prompts(void **state) {
    struct lorica_json *templates = golden_json("chat.vectors.json");
    struct lorica_tokenizer *tokenizer = open_tokenizer();
    size_t rows = 0;
    for (const struct lorica_json *t = lorica_json_first(templates); t; t = lorica_json_next(t)) {
        struct lorica_chat_template *chat =
            make_template(lorica_json_string(lorica_json_get(t, "template")));
        const struct lorica_json *row = lorica_json_first(lorica_json_get(t, "rows"));
        for (; row; row = lorica_json_next(row), rows++)
            check_row(chat, tokenizer, row);
        lorica_chat_destroy(chat);
    }
    assert_int_equal(rows, 96);
    lorica_tokenizer_destroy(tokenizer);
    lorica_json_destroy(templates);
}

#define MESSAGE "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }} assistant "
#define SYSTEM(text) "{{ '<|im_start|>system\n" text "<|im_end|>\n' }}"

/* The default system message that recognise finds; NULL when it refuses the template. */
static const char *recognise(const char *jinja) {
    static char system[4096];
    struct lorica_buf out;
    lorica_buf_init(&out, sizeof(system) - 1);
    const char *name = lorica_chat_recognise(jinja, strlen(jinja), &out);
    if (name)
        assert_true(lorica_chat_known(name));
    (void)snprintf(system, sizeof(system), "%s", out.len ? out.data : "");
    lorica_buf_finish(&out);
    return name ? system : NULL;
}

static void test_recognise_other_formats_refused(void **state) {
    assert_null(recognise(""));
    assert_null(
        recognise("{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content }}"));
    assert_null(recognise("{{ '[INST]' + m.content + '[/INST]' }} assistant"));
}

static void test_recognise_changed_content_refused(void **state) {
    static const char *const contents[] = {
        "m.content | trim",      "m['content']|trim",          "m.content.strip()",
        "m.content.rstrip('x')", "m['content'] .lstrip ()",    "m.content\n  | trim",
        "m.content | upper",     "m.content.split('</a>')[1]", "m.content|replace('a', 'b')",
        "m.content | e",         "(m.content)|trim",
    };
    for (size_t i = 0; i < sizeof(contents) / sizeof(contents[0]); i++) {
        char jinja[512];
        (void)snprintf(jinja, sizeof(jinja),
                       "{{ '<|im_start|>' + m.role + '\n' + %s + '<|im_end|>\n' }} assistant",
                       contents[i]);
        if (recognise(jinja))
            fail_msg("%s was taken", contents[i]);
    }
    /* the same words that change nothing */
    assert_string_equal(recognise(SYSTEM("Strip, trim and replace | nothing.") MESSAGE),
                        "Strip, trim and replace | nothing.");
    assert_string_equal(recognise(MESSAGE "{% if messages | length > 1 and m.title %}"), "");
}

static void test_recognise_looks_at_every_opening(void **state) {
    assert_string_equal(recognise(MESSAGE), "");
    assert_string_equal(recognise(SYSTEM("Be kind.") MESSAGE), "Be kind.");
    /* first openings that hold no literal */
    assert_string_equal(recognise("{{ '<|im_start|>system\n' + m.content + '<|im_end|>\n' }}"
                                  "{{ '<|im_start|>system\n{{x}}<|im_end|>' }}" SYSTEM("Be kind.")
                                      MESSAGE),
                        "Be kind.");
    assert_string_equal(recognise("{{ '<|im_start|>system\\n' + s }}" SYSTEM("Be kind.") MESSAGE),
                        "Be kind.");
    assert_string_equal(
        recognise("{{ '<|im_start|>system\\nIt\\'s \\\"b\\\\c\\\".\\n\\tEnd<|im_end|>' }}" MESSAGE),
        "It's \"b\\c\".\n\tEnd");
    /* the same text twice is one; two texts are none */
    assert_string_equal(recognise(SYSTEM("a") SYSTEM("a") MESSAGE), "a");
    assert_null(recognise(SYSTEM("a") SYSTEM("b") MESSAGE));
    assert_null(recognise(SYSTEM("") MESSAGE));
    /* an escape that is not read is no literal */
    assert_string_equal(recognise("{{ '<|im_start|>system\\n\\x41<|im_end|>' }}" MESSAGE), "");
    /* cut off behind the opening, and in an escape */
    assert_string_equal(recognise("<|im_end|> assistant content <|im_start|>system"), "");
    assert_string_equal(recognise("<|im_end|> assistant content <|im_start|>system\n"), "");
    assert_string_equal(recognise("<|im_end|> assistant content <|im_start|>system\n\\"), "");
}

static void test_recognise_default_system_is_bounded(void **state) {
    struct lorica_buf jinja;
    for (int len = 2000; len <= 2001; len++) {
        lorica_buf_init(&jinja, 8192);
        (void)lorica_buf_puts(&jinja, "{{ '<|im_start|>system\n");
        for (int i = 0; i < len; i++)
            (void)lorica_buf_puts(&jinja, "x");
        (void)lorica_buf_puts(&jinja, "<|im_end|>' }}" MESSAGE);
        assert_int_equal(strlen(recognise(jinja.data)), len == 2000 ? 2000 : 0);
        lorica_buf_finish(&jinja);
    }
}

static int create(const char *metadata, struct lorica_error *err) {
    struct lorica_chat_template *chat = NULL;
    const int rc = lorica_chat_create(metadata, strlen(metadata), &chat, err);
    lorica_chat_destroy(chat);
    return rc;
}

static void test_create_unknown_says_how_to_name_one(void **state) {
    struct lorica_error err = {0};
    assert_int_equal(create("{\"chat\":null}", &err), LORICA_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "--template"));
    assert_non_null(strstr(err.text, "chatml"));
    assert_int_equal(create("{\"chat\":{\"template\":\"llama9\"}}", &err), LORICA_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "llama9"));
    assert_non_null(strstr(err.text, "chatml"));
    assert_int_equal(create("{\"chat\":{\"template\":\"chatml\"}}", &err), 0);
    assert_int_equal(create("{", &err), LORICA_EFORMAT);
}

static void test_render_bad_messages_refused(void **state) {
    const struct lorica_chat_message tool = {.role = "tool", .content = "x"},
                                     broken = {.role = "user", .content = "a\xff"};
    struct lorica_chat_template *chat = make_template(MESSAGE);
    struct lorica_tokenizer *tokenizer = open_tokenizer();
    struct lorica_tokens ids = {0};
    struct lorica_error err = {0};
    assert_int_equal(lorica_chat_render(chat, tokenizer, &tool, 0, true, &ids, NULL, NULL, &err),
                     LORICA_EINVAL);
    assert_non_null(strstr(err.text, "messages is empty"));
    assert_int_equal(lorica_chat_render(chat, tokenizer, &tool, 1, true, &ids, NULL, NULL, &err),
                     LORICA_EINVAL);
    assert_non_null(strstr(err.text, "messages[0]"));
    assert_non_null(strstr(err.text, "\"tool\""));
    assert_int_equal(lorica_chat_render(chat, tokenizer, &broken, 1, true, &ids, NULL, NULL, &err),
                     LORICA_EFORMAT);
    assert_non_null(strstr(err.text, "UTF-8"));
    free(ids.ids);
    lorica_tokenizer_destroy(tokenizer);
    lorica_chat_destroy(chat);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render_gives_reference_prompts),
        cmocka_unit_test(test_recognise_other_formats_refused),
        cmocka_unit_test(test_recognise_changed_content_refused),
        cmocka_unit_test(test_recognise_looks_at_every_opening),
        cmocka_unit_test(test_recognise_default_system_is_bounded),
        cmocka_unit_test(test_create_unknown_says_how_to_name_one),
        cmocka_unit_test(test_render_bad_messages_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
