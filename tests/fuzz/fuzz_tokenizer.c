/* SPDX-License-Identifier: MIT
 * Tokenizers from any bytes, and any text through a sound one. "GGUF..." is a GGUF file with a
 * tokenizer's metadata; "{..." a tokenizer.json, with a text behind the byte 0x1e; anything else is
 * text for the tokenizer of byte_tokenizer.h, which must give it back. */
#include "byte_tokenizer.h"

#include <string.h>

#include "proto/utf8.h"
#include "runtime/import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Whatever the tokenizer is: its ids exist, and none is special unless that is wanted. */
static int encode(const struct lorica_tokenizer *t, const char *text, size_t len, bool special,
                  struct lorica_tokens *ids) {
    struct lorica_error err = {0};
    const int rc = lorica_tokenizer_encode(t, text, len, special, ids, &err);
    if (rc && (err.code != rc || !*err.text || ids->count))
        abort();
    for (size_t i = 0; i < ids->count; i++) {
        if (ids->ids[i] < 0 || (uint32_t)ids->ids[i] >= lorica_tokenizer_vocab(t))
            abort();
        if (!special && t->tokens[ids->ids[i]].special)
            abort();
    }
    return rc;
}

static void encode_text(const struct lorica_tokenizer *t, const char *text, size_t len) {
    for (int special = 0; special < 2; special++) {
        struct lorica_tokens ids = {0};
        struct lorica_buf out;
        lorica_buf_init(&out, 1u << 24);
        (void)!encode(t, text, len, special, &ids);
        decode_all(t, &ids, &out);
        lorica_buf_finish(&out);
        free(ids.ids);
    }
}

static void use(struct lorica_buf *member, const char *text, size_t len) {
    static const char fixed[] = "It's 12 o'clock,\n\n <|im_end|>caf\u00e9  \u4e2d\u6587 ";
    struct lorica_buf metadata;
    struct lorica_tokenizer *t = NULL;
    struct lorica_error err = {0};
    lorica_buf_init(&metadata, 1u << 28);
    (void)lorica_buf_puts(&metadata, "{\"tokenizer\":");
    (void)lorica_buf_append(&metadata, member->data, member->len);
    (void)lorica_buf_puts(&metadata, "}");
    const int rc = lorica_tokenizer_create(metadata.data, metadata.len, &t, &err);
    lorica_buf_finish(&metadata);
    if (rc) {
        if (err.code != rc || !*err.text)
            abort();
        return;
    }
    encode_text(t, fixed, sizeof(fixed) - 1);
    encode_text(t, text, len < 64 ? len : 64); /* a pattern may cost much for each byte */
    lorica_tokenizer_destroy(t);
}

static void from_gguf(const uint8_t *data, size_t len) {
    struct lorica_gguf file;
    struct lorica_buf member;
    if (lorica_gguf_parse(data, len, &file, NULL) != 0)
        return;
    lorica_buf_init(&member, 1u << 28);
    if (lorica_import_tokenizer_gguf(&file, &member, NULL) == 0)
        use(&member, "", 0);
    lorica_gguf_finish(&file);
    lorica_buf_finish(&member);
}

static void from_json(const char *data, size_t len) {
    const char *end = memchr(data, 0x1e, len);
    const size_t n = end ? (size_t)(end - data) : len;
    struct lorica_json *json;
    struct lorica_buf member;
    struct lorica_error err = {0};
    if (lorica_json_parse(data, n, &json, NULL) != 0)
        return;
    lorica_buf_init(&member, 1u << 28);
    const int rc = lorica_import_tokenizer_hf(json, json, json, json, &member, &err);
    if (rc && (err.code != rc || !*err.text))
        abort();
    if (!rc)
        use(&member, end ? end + 1 : "", end ? len - n - 1 : 0);
    lorica_json_destroy(json);
    lorica_buf_finish(&member);
}

static void text_comes_back(const char *text, size_t len) {
    static struct lorica_tokenizer *t;
    static struct lorica_chat_template *chat;
    if (!t)
        open_byte_tokenizer(&t, &chat);
    for (int special = 0; special < 2; special++) {
        struct lorica_tokens ids = {0};
        struct lorica_buf out;
        lorica_buf_init(&out, 1u << 24);
        const int rc = encode(t, text, len, special, &ids);
        if ((rc == 0) != lorica_utf8_valid(text, len))
            abort();
        decode_all(t, &ids, &out);
        if (!rc && (out.len != len || (len && memcmp(out.data, text, len) != 0)))
            abort();
        lorica_buf_finish(&out);
        free(ids.ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    if (len >= 4 && memcmp(data, "GGUF", 4) == 0)
        from_gguf(data, len);
    else if (len > 0 && data[0] == '{')
        from_json((const char *)data, len);
    else
        text_comes_back((const char *)data, len);
    return 0;
}
