/* SPDX-License-Identifier: MIT
 * The inside of a tokenizer, shared by tokenizer_build.c (makes one), tokenizer.c and bpe.c (use
 * one). Private to runtime.
 *
 * The "tokenizer" member of a base's metadata:
 *   {"model": "bpe",
 *    "tokens": [text or null, ...]      by id, in the byte alphabet of byte-level BPE
 *    "merges": [left, right, ...]       ids, in order of rank
 *    "added": [{"id", "content", "special", "lstrip", "rstrip", "normalized", "single_word"}, ...]
 *    "normalizer": null | "NFC" | "NFKC"
 *    "pre": [{"type": "digits", "individual": bool}
 *          | {"type": "split", "pattern": text, "invert": bool, "remove": bool}
 *          | {"type": "bytes", "prefix_space": bool, "regex": bool}]     the last is "bytes"
 *    "ignore_merges": bool,
 *    "bos": id put before text, or null
 *    "stop": [id, ...]} */
#ifndef LORICA_RUNTIME_TOKENIZER_PARTS_H
#define LORICA_RUNTIME_TOKENIZER_PARTS_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/json.h"
#include "runtime/strmap.h"
#include "runtime/tokenizer.h"
#include "runtime/unicode.h"

#define LORICA_TOKENIZER_MAX_STEPS 8
#define LORICA_TOKENIZER_MAX_STOP 16
#define LORICA_TOKENIZER_MAX_VOCAB (1 << 22)

/** The pattern that byte-level BPE applies when it is told to use its own. */
extern const char lorica_gpt2_pattern[];

enum lorica_pre_kind { LORICA_PRE_DIGITS, LORICA_PRE_SPLIT, LORICA_PRE_BYTES };

struct lorica_pre_step {
    enum lorica_pre_kind kind;
    bool individual;   /**< DIGITS */
    bool invert;       /**< SPLIT: what lies between matches is the delimiter */
    bool remove;       /**< SPLIT: delimiters are dropped, else pieces of their own */
    bool prefix_space; /**< BYTES */
    pcre2_code *regex; /**< SPLIT, BYTES with a pattern; else NULL */
};

struct lorica_merge {
    uint64_t pair; /**< left << 32 | right; UINT64_MAX: free slot */
    uint32_t rank;
    int32_t id; /**< of the two together */
};

struct lorica_token_text {
    uint32_t offset, len; /**< in bytes_of_tokens */
    bool known;
    bool literal; /**< not in the byte alphabet: stands for its own text, no piece becomes it */
    bool added;
    bool special;
};

struct lorica_added_token {
    const char *text; /**< in the tokenizer's bytes, not terminated */
    uint32_t len;
    int32_t id;
    bool special, lstrip, rstrip, normalized, single_word;
};

/** Added tokens as a tree of bytes: children of a node are a list. Node 0 is the root. */
struct lorica_trie_node {
    uint8_t byte;
    uint32_t child, sibling; /**< 0: none */
    int32_t added;           /**< index into added tokens, -1: none ends here */
};

struct lorica_trie {
    struct lorica_trie_node *nodes;
    uint32_t count, cap;
};

struct lorica_tokenizer {
    struct lorica_token_text *tokens;
    uint32_t vocab;
    char *bytes; /**< raw bytes of all tokens, one after the other */
    size_t bytes_len;
    int32_t byte_ids[256]; /**< token of a single byte, -1: none */
    struct lorica_merge *merges;
    size_t merge_mask;
    struct lorica_strmap whole; /**< raw texts, only with ignore_merges */
    bool ignore_merges;
    struct lorica_added_token *added;
    size_t added_count;
    struct lorica_buf normalised; /**< scratch while building */
    struct lorica_trie raw, norm; /**< tokens found before and after normalisation */
    enum lorica_normal_form form;
    struct lorica_pre_step steps[LORICA_TOKENIZER_MAX_STEPS];
    size_t step_count;
    pcre2_match_context *match;
    int32_t bos;
    int32_t stop[LORICA_TOKENIZER_MAX_STOP];
    size_t stop_count;
};

/** Working memory of bpe. Zero-initialise; finish frees. */
struct lorica_bpe {
    struct lorica_bpe_symbol {
        int32_t id;
        int32_t prev, next; /**< -1: none */
    } * symbols;
    struct lorica_bpe_candidate {
        uint32_t rank;
        int32_t pos;
        int32_t id; /**< that the two would become */
    } * heap;
    size_t symbol_cap, heap_cap, heap_count;
};

void lorica_bpe_finish(struct lorica_bpe *bpe);

/** Appends the ids of one piece, given as raw bytes. */
int lorica_bpe_encode(const struct lorica_tokenizer *tokenizer, struct lorica_bpe *bpe,
                      const char *piece, size_t len, struct lorica_tokens *out) LORICA_MUSTCHECK;

/** Compiles a pattern as tokenizers mean it. Refused, with the construct named: what PCRE2 would
 * read in another way than they. */
int lorica_tokenizer_pattern(const char *pattern, pcre2_code **ret,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** The byte alphabet: which character stands for a byte, and back (-1: none). */
uint32_t lorica_byte_to_char(uint8_t byte);
int lorica_char_to_byte(uint32_t c);

#endif
