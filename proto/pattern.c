/* SPDX-License-Identifier: MIT
 * Thompson's construction: the expression becomes a small program, and the set of its states that
 * are alive goes along the text. */
#include "proto/pattern.h"

#include <stdint.h>
#include <string.h>

/* Each byte of an expression adds at most this many instructions. */
#define MAX_PROGRAM (4 * LORICA_PATTERN_MAX + 16)
#define MAX_GROUPS 50

enum op { OP_SET, OP_SPLIT, OP_JUMP, OP_BEGIN, OP_END, OP_MATCH };

struct instruction {
    enum op op;
    uint16_t x, y;   /* targets of SPLIT and JUMP */
    uint32_t set[8]; /* bytes that SET accepts */
};

struct compiler {
    const char *at;
    struct instruction *program;
    size_t length;
    int groups;
    bool bad;
};

static void add_byte(struct instruction *i, unsigned char c) { i->set[c / 32] |= 1u << (c % 32); }

static struct instruction *emit(struct compiler *c, enum op op) {
    static struct instruction overflow;
    if (c->length == MAX_PROGRAM) {
        c->bad = true;
        return &overflow;
    }
    struct instruction *i = &c->program[c->length++];
    *i = (struct instruction){.op = op};
    return i;
}

/* Moves the program from `from` on by one place, to put a SPLIT before it. */
static void insert_split(struct compiler *c, size_t from) {
    (void)emit(c, OP_SPLIT);
    if (c->bad)
        return;
    for (size_t i = c->length - 1; i > from; i--) {
        c->program[i] = c->program[i - 1];
        if (c->program[i].op == OP_SPLIT || c->program[i].op == OP_JUMP) {
            c->program[i].x += c->program[i].x >= from;
            c->program[i].y += c->program[i].y >= from;
        }
    }
    c->program[from] = (struct instruction){.op = OP_SPLIT};
}

static void add_class(struct compiler *c, struct instruction *i, char letter) {
    for (int b = 0; b < 128; b++) {
        const bool digit = b >= '0' && b <= '9';
        const bool word = digit || (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || b == '_';
        const bool space = b == ' ' || (b >= '\t' && b <= '\r');
        if ((letter == 'd' && digit) || (letter == 'w' && word) || (letter == 's' && space))
            add_byte(i, (unsigned char)b);
    }
    if (!strchr("dws", letter))
        c->bad = true;
}

/* Behind a backslash. */
static void escape(struct compiler *c, struct instruction *i) {
    const char letter = *c->at;
    if (letter == '\0') {
        c->bad = true;
        return;
    }
    c->at++;
    const bool alphanumeric = (letter >= '0' && letter <= '9') ||
                              (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z');
    if (alphanumeric)
        add_class(c, i, letter);
    else
        add_byte(i, (unsigned char)letter);
}

/* Behind an opening bracket. */
static void set(struct compiler *c, struct instruction *i) {
    const bool negated = *c->at == '^';
    c->at += negated;
    bool first = true;
    while (*c->at && (*c->at != ']' || first) && !c->bad) {
        first = false;
        const unsigned char low = (unsigned char)*c->at++;
        if (low == '\\') {
            escape(c, i);
            c->bad |= c->at[0] == '-' && c->at[1] != ']'; /* a range from an escape */
        } else if (c->at[0] == '-' && c->at[1] && c->at[1] != ']') {
            const unsigned char high = (unsigned char)c->at[1];
            c->at += 2;
            c->bad |= high == '\\' || high < low;
            for (unsigned b = low; b <= high; b++)
                add_byte(i, (unsigned char)b);
        } else {
            add_byte(i, low);
        }
    }
    if (*c->at == ']')
        c->at++;
    else
        c->bad = true;
    for (int w = 0; negated && w < 8; w++)
        i->set[w] = ~i->set[w];
}

static void alternatives(struct compiler *c);

static void atom(struct compiler *c) {
    const char letter = *c->at++;
    if (letter == '(') {
        if (c->at[0] == '?' && c->at[1] == ':')
            c->at += 2;
        if (++c->groups > MAX_GROUPS) {
            c->bad = true;
            return;
        }
        alternatives(c);
        if (*c->at == ')')
            c->at++;
        else
            c->bad = true;
    } else if (letter == '^' || letter == '$') {
        (void)emit(c, letter == '^' ? OP_BEGIN : OP_END);
    } else if (strchr("*+?{}", letter)) {
        c->bad = true;
    } else {
        struct instruction *i = emit(c, OP_SET);
        if (letter == '.')
            for (int b = 0; b < 256; b++)
                add_byte(i, (unsigned char)b);
        else if (letter == '[')
            set(c, i);
        else if (letter == '\\')
            escape(c, i);
        else
            add_byte(i, (unsigned char)letter);
    }
}

static void repeated(struct compiler *c) {
    const size_t from = c->length;
    const bool anchor = *c->at == '^' || *c->at == '$';
    atom(c);
    const char repeat = *c->at;
    if (c->bad || (repeat != '*' && repeat != '+' && repeat != '?'))
        return;
    c->at++;
    c->bad |= anchor;                                          /* nothing to repeat */
    c->bad |= *c->at == '?' || *c->at == '+' || *c->at == '*'; /* lazy, possessive, doubled */
    if (repeat == '+') {
        struct instruction *i = emit(c, OP_SPLIT);
        i->x = (uint16_t)from;
        i->y = (uint16_t)c->length;
        return;
    }
    insert_split(c, from);
    if (repeat == '*')
        emit(c, OP_JUMP)->x = (uint16_t)from;
    c->program[from].x = (uint16_t)(from + 1);
    c->program[from].y = (uint16_t)c->length;
}

static void alternatives(struct compiler *c) {
    const size_t from = c->length;
    while (*c->at && *c->at != '|' && *c->at != ')' && !c->bad)
        repeated(c);
    if (*c->at != '|' || c->bad)
        return;
    c->at++;
    insert_split(c, from);
    const size_t jump = c->length;
    (void)emit(c, OP_JUMP);
    if (c->bad)
        return;
    c->program[from].x = (uint16_t)(from + 1);
    c->program[from].y = (uint16_t)c->length;
    alternatives(c);
    c->program[jump].x = (uint16_t)c->length;
}

/* Adds a state, and those that it reaches without reading a byte. */
static void follow(const struct instruction *program, size_t length, uint8_t *alive, size_t state,
                   bool begin, bool end) {
    uint16_t stack[2 * MAX_PROGRAM];
    size_t depth = 0;
    stack[depth++] = (uint16_t)state;
    while (depth > 0) {
        const size_t s = stack[--depth];
        if (s >= length || alive[s])
            continue;
        alive[s] = 1;
        const struct instruction *i = &program[s];
        if (i->op == OP_SPLIT || i->op == OP_JUMP)
            stack[depth++] = i->x;
        if (i->op == OP_SPLIT)
            stack[depth++] = i->y;
        if ((i->op == OP_BEGIN && begin) || (i->op == OP_END && end))
            stack[depth++] = (uint16_t)(s + 1);
    }
}

static bool run(const struct instruction *program, size_t length, const char *text) {
    uint8_t alive[MAX_PROGRAM] = {0}, next[MAX_PROGRAM];
    follow(program, length, alive, 0, true, *text == '\0');
    for (const char *at = text; *at; at++) {
        memset(next, 0, length);
        const unsigned char c = (unsigned char)*at;
        for (size_t s = 0; s < length; s++)
            if (alive[s] && program[s].op == OP_SET && (program[s].set[c / 32] >> (c % 32) & 1))
                follow(program, length, next, s + 1, false, at[1] == '\0');
        memcpy(alive, next, length);
    }
    return alive[length - 1];
}

int lorica_pattern_match(const char *expression, const char *text, bool suffix, bool *ret,
                         struct lorica_error *err) {
    struct instruction program[MAX_PROGRAM];
    struct compiler c = {.program = program};
    if (strlen(expression) <= LORICA_PATTERN_MAX) {
        if (suffix) {
            c.at = "(.*\\.)?";
            alternatives(&c);
        }
        c.at = expression;
        alternatives(&c);
        c.bad |= *c.at != '\0';
    } else {
        c.bad = true;
    }
    (void)emit(&c, OP_MATCH);
    if (c.bad)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "the regular expression \"%.100s\" is longer than %d bytes or uses more "
                           "than literals, sets, groups, |, *, + and ?",
                           expression, LORICA_PATTERN_MAX);
    *ret = run(program, c.length, text);
    return 0;
}
