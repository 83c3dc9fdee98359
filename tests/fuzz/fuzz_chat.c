/* SPDX-License-Identifier: MIT
 * Chat templates. "{..." is a template's text to recognise; anything else is messages, each behind
 * the byte 0x1e: the first letter names its role, the rest is its content. The prompt must be
 * ChatML's, and have no special token but ChatML's own. */
#include "byte_tokenizer.h"

#include <string.h>

#include "proto/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct lorica_tokenizer *tokenizer;
static struct lorica_chat_template *chat;

static void recognise(const char *jinja, size_t len) {
    struct lorica_buf system, metadata;
    lorica_buf_init(&system, 4096);
    lorica_buf_init(&metadata, 1u << 20);
    const char *name = lorica_chat_recognise(jinja, len, &system);
    if ((name && !lorica_chat_known(name)) || system.len > 2000 || lorica_buf_status(&system))
        abort();
    if (name && lorica_utf8_valid(jinja, len) && !memchr(jinja, '\0', len)) {
        struct lorica_chat_template *made = NULL;
        struct lorica_jsonw w = {.out = &metadata};
        lorica_jsonw_object(&w, NULL);
        lorica_jsonw_object(&w, "chat");
        lorica_jsonw_string(&w, "template", name);
        lorica_jsonw_string(&w, "default_system", system.len ? system.data : "");
        lorica_jsonw_end_object(&w);
        lorica_jsonw_end_object(&w);
        if (lorica_chat_create(metadata.data, metadata.len, &made, NULL) != 0)
            abort();
        lorica_chat_destroy(made);
    }
    lorica_buf_finish(&system);
    lorica_buf_finish(&metadata);
}

/* One message as ChatML writes it. */
static void expect(struct lorica_buf *out, const char *role, const char *content) {
    (void)lorica_buf_printf(out, "<|im_start|>%s\n", role);
    (void)lorica_buf_puts(out, content);
    (void)lorica_buf_puts(out, "<|im_end|>\n");
}

static void render(const struct lorica_chat_message *messages, size_t count, bool generate,
                   const struct lorica_buf *want, size_t special) {
    struct lorica_tokens ids = {0};
    struct lorica_buf text, mask, again;
    struct lorica_error err = {0};
    lorica_buf_init(&text, 1u << 24);
    lorica_buf_init(&mask, 1u << 24);
    lorica_buf_init(&again, 1u << 24);
    const int rc =
        lorica_chat_render(chat, tokenizer, messages, count, generate, &ids, &text, &mask, &err);
    const bool valid = lorica_utf8_valid(want->data, want->len);
    if ((rc == 0) != valid || (rc && (err.code != rc || !*err.text)))
        abort();
    if (!rc) {
        decode_all(tokenizer, &ids, &again);
        if (text.len != want->len || memcmp(text.data, want->data, want->len) != 0 ||
            again.len != want->len || memcmp(again.data, want->data, want->len) != 0 ||
            mask.len != ids.count)
            abort();
        for (size_t i = 0; i < ids.count; i++)
            special -= ids.ids[i] < SPECIAL_IDS;
        if (special != 0)
            abort();
    }
    free(ids.ids);
    lorica_buf_finish(&text);
    lorica_buf_finish(&mask);
    lorica_buf_finish(&again);
}

static void converse(char *text) {
    static const char *const roles[] = {"system", "user", "assistant"};
    struct lorica_chat_message messages[64];
    struct lorica_buf want;
    size_t count = 0;
    for (char *at = strchr(text, 0x1e); at && at[1] && count < 64; count++) {
        char *next = strchr(at + 1, 0x1e);
        if (next)
            *next = '\0';
        if (!at[1])
            break;
        messages[count].role = roles[(unsigned char)at[1] % 3];
        messages[count].content = at + 2;
        at = next;
    }
    if (count == 0)
        return;
    for (int generate = 0; generate < 2; generate++) {
        lorica_buf_init(&want, 1u << 24);
        const bool own = strcmp(messages[0].role, "system") == 0;
        if (!own)
            expect(&want, "system", "Be brief.");
        for (size_t i = 0; i < count; i++)
            expect(&want, messages[i].role, messages[i].content);
        if (generate)
            (void)lorica_buf_puts(&want, "<|im_start|>assistant\n");
        render(messages, count, generate, &want, 2 * (count + !own) + (size_t)generate);
        lorica_buf_finish(&want);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    if (!tokenizer)
        open_byte_tokenizer(&tokenizer, &chat);
    if (len > 0 && data[0] == '{') {
        recognise((const char *)data, len);
        return 0;
    }
    char *text = malloc(len + 1);
    if (!text)
        return 0;
    memcpy(text, data, len);
    text[len] = '\0';
    converse(text);
    free(text);
    return 0;
}
