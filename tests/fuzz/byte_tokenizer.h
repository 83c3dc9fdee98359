/* SPDX-License-Identifier: MIT
 * A small tokenizer that knows every byte, for targets that read text: ids 0 to 2 are special, the
 * bytes stand behind them, then a few merges and one added token that is not special. */
#ifndef LORICA_TESTS_BYTE_TOKENIZER_H
#define LORICA_TESTS_BYTE_TOKENIZER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/chat.h"
#include "runtime/tokenizer_parts.h"

#define SPECIAL_IDS 3

static inline void add_special(struct lorica_jsonw *w, int id, const char *text, bool special) {
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_integer(w, "id", id);
    lorica_jsonw_string(w, "content", text);
    lorica_jsonw_bool(w, "special", special);
    lorica_jsonw_end_object(w);
}

static inline void add_character(struct lorica_buf *out, uint32_t c) {
    const char two[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f))};
    const char one = (char)c;
    (void)(c < 0x80 ? lorica_buf_append(out, &one, 1) : lorica_buf_append(out, two, 2));
}

static inline void write_byte_tokenizer(struct lorica_buf *out) {
    static const char *const special[SPECIAL_IDS] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    static const char merged[][8] = {"th", "the", "in", "  ", "    ", "<|", "|>"};
    static const char halves[][2][8] = {{"t", "h"},   {"th", "e"}, {"i", "n"}, {" ", " "},
                                        {"  ", "  "}, {"<", "|"},  {"|", ">"}};
    const int count = sizeof(merged) / sizeof(merged[0]);
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_object(&w, "tokenizer");
    lorica_jsonw_string(&w, "model", "bpe");
    lorica_jsonw_array(&w, "tokens");
    for (int i = 0; i < SPECIAL_IDS + 256 + count; i++) {
        struct lorica_buf text;
        lorica_buf_init(&text, 100);
        if (i < SPECIAL_IDS)
            (void)lorica_buf_puts(&text, special[i]);
        else if (i < SPECIAL_IDS + 256)
            add_character(&text, lorica_byte_to_char((uint8_t)(i - SPECIAL_IDS)));
        for (const char *c = i < SPECIAL_IDS + 256 ? "" : merged[i - SPECIAL_IDS - 256]; *c; c++)
            add_character(&text, lorica_byte_to_char((uint8_t)*c));
        lorica_jsonw_string(&w, NULL, text.data);
        lorica_buf_finish(&text);
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_array(&w, "merges");
    for (int i = 0; i < count; i++)
        for (int half = 0; half < 2; half++) {
            int id = SPECIAL_IDS + (uint8_t)halves[i][half][0];
            for (int m = 0; m < count; m++)
                if (strcmp(halves[i][half], merged[m]) == 0)
                    id = SPECIAL_IDS + 256 + m;
            lorica_jsonw_integer(&w, NULL, id);
        }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_array(&w, "added");
    for (int i = 0; i < SPECIAL_IDS; i++)
        add_special(&w, i, special[i], true);
    add_special(&w, SPECIAL_IDS + 256 + count, "<note>", false);
    lorica_jsonw_end_array(&w);
    const char rest[] = "[{\"type\":\"digits\",\"individual\":true},"
                        "{\"type\":\"bytes\",\"prefix_space\":false,\"regex\":true}]";
    lorica_jsonw_raw(&w, "pre", rest, sizeof(rest) - 1);
    lorica_jsonw_raw(&w, "stop", "[2]", 3);
    lorica_jsonw_end_object(&w);
    lorica_jsonw_object(&w, "chat");
    lorica_jsonw_string(&w, "template", "chatml");
    lorica_jsonw_string(&w, "default_system", "Be brief.");
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_object(&w);
}

/** The tokenizer, and a ChatML template with the default system message "Be brief.". */
static inline void open_byte_tokenizer(struct lorica_tokenizer **ret,
                                       struct lorica_chat_template **ret_chat) {
    struct lorica_buf metadata;
    lorica_buf_init(&metadata, 1u << 20);
    write_byte_tokenizer(&metadata);
    if (lorica_buf_status(&metadata) ||
        lorica_tokenizer_create(metadata.data, metadata.len, ret, NULL) ||
        lorica_chat_create(metadata.data, metadata.len, ret_chat, NULL))
        abort();
    lorica_buf_finish(&metadata);
}

/** The ids' text, special tokens too. */
static inline void decode_all(const struct lorica_tokenizer *tokenizer,
                              const struct lorica_tokens *ids, struct lorica_buf *out) {
    for (size_t i = 0; i < ids->count; i++)
        if (lorica_tokenizer_decode(tokenizer, ids->ids[i], true, out) != 0)
            abort();
}

#endif
