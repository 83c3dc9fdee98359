/* SPDX-License-Identifier: MIT */
#include "runtime/train/check.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define IGNORED (-100)
#define TEXT_MAX ((size_t)64 << 20)

/* What is compared of an example. */
struct item {
    uint64_t question, answer;
    size_t index;
    bool asked; /* there is a question */
};

/* FNV-1a over text of which case and the amount of white space do not count. */
static uint64_t hash_text(const char *text, size_t len) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    bool gap = false, begun = false;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == ' ' || (c >= '\t' && c <= '\r')) {
            gap = begun;
            continue;
        }
        if (gap)
            hash = (hash ^ ' ') * UINT64_C(0x100000001b3);
        if (c >= 'A' && c <= 'Z')
            c = (unsigned char)(c - 'A' + 'a');
        hash = (hash ^ c) * UINT64_C(0x100000001b3);
        gap = false;
        begun = true;
    }
    return hash;
}

static int hash_ids(const struct lorica_tokenizer *tokenizer, const int32_t *ids, uint32_t count,
                    struct lorica_buf *text, uint64_t *ret) {
    lorica_buf_clear(text);
    for (uint32_t i = 0; i < count; i++)
        (void)lorica_tokenizer_decode(tokenizer, ids[i], false, text);
    *ret = hash_text(text->data ? text->data : "", text->len);
    return lorica_buf_status(text);
}

uint32_t lorica_train_answer_start(const struct lorica_train_example *e) {
    uint32_t at = e->length;
    if (e->answers + 1 == e->length)
        return 0;
    while (at > 0 && e->labels[at - 1] == IGNORED)
        at--;
    while (at > 0 && e->labels[at - 1] != IGNORED)
        at--;
    return at;
}

static int compare_items(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->question != y->question)
        return x->question < y->question ? -1 : 1;
    if (x->answer != y->answer)
        return x->answer < y->answer ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int compare_lengths(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int compare_twins(const void *a, const void *b) {
    const struct lorica_train_twin *x = a, *y = b;
    return x->later < y->later ? -1 : x->later > y->later;
}

static int make_items(const struct lorica_train_data *data,
                      const struct lorica_tokenizer *tokenizer, struct item *items) {
    struct lorica_buf text;
    int rc = 0;
    lorica_buf_init(&text, TEXT_MAX);
    for (size_t i = 0; i < data->count && !rc; i++) {
        const struct lorica_train_example *e = &data->examples[i];
        const uint32_t start = lorica_train_answer_start(e);
        items[i] = (struct item){.index = i, .asked = start > 0};
        rc = hash_ids(tokenizer, e->ids, start, &text, &items[i].question);
        if (!rc)
            rc = hash_ids(tokenizer, e->ids + start, e->length - start, &text, &items[i].answer);
        if (start == 0)
            items[i].question = items[i].answer;
    }
    lorica_buf_finish(&text);
    return rc;
}

/* The examples of one question, sorted by answer and then by place: each repeats the first of its
 * answer; and those first contradict the first of the question. */
static void compare_group(const struct item *items, size_t count, struct lorica_train_check *ret) {
    size_t first = 0;
    for (size_t i = 1; i < count; i++)
        if (items[i].index < items[first].index)
            first = i;
    for (size_t i = 0, run = 0; i < count; i++) {
        if (i > 0 && items[i].answer == items[i - 1].answer) {
            ret->duplicate[ret->duplicates++] =
                (struct lorica_train_twin){items[run].index, items[i].index};
            continue;
        }
        run = i;
        if (i != first && items[i].asked)
            ret->contradiction[ret->contradictions++] =
                (struct lorica_train_twin){items[first].index, items[i].index};
    }
}

static int find_twins(const struct lorica_train_data *data,
                      const struct lorica_tokenizer *tokenizer, struct item *items,
                      struct lorica_train_check *ret) {
    const int rc = make_items(data, tokenizer, items);
    if (rc)
        return rc;
    qsort(items, data->count, sizeof(*items), compare_items);
    for (size_t begin = 0, end = 0; begin < data->count; begin = end) {
        while (end < data->count && items[end].question == items[begin].question)
            end++;
        compare_group(items + begin, end - begin, ret);
    }
    qsort(ret->duplicate, ret->duplicates, sizeof(*ret->duplicate), compare_twins);
    qsort(ret->contradiction, ret->contradictions, sizeof(*ret->contradiction), compare_twins);
    return 0;
}

/* The nearest rank of a share of the sorted lengths. */
static uint32_t quantile(const uint32_t *sorted, size_t count, unsigned percent) {
    return sorted[(count * percent + 99) / 100 - 1];
}

static void measure(const struct lorica_train_data *data, uint32_t *lengths,
                    struct lorica_train_check *ret) {
    for (size_t i = 0; i < data->count; i++) {
        lengths[i] = data->examples[i].length;
        ret->tokens += lengths[i];
    }
    qsort(lengths, data->count, sizeof(*lengths), compare_lengths);
    ret->min = lengths[0];
    ret->median = quantile(lengths, data->count, 50);
    ret->p95 = quantile(lengths, data->count, 95);
    ret->max = lengths[data->count - 1];
}

int lorica_train_check(const struct lorica_train_data *data,
                       const struct lorica_tokenizer *tokenizer, struct lorica_train_check *ret,
                       struct lorica_error *err) {
    struct lorica_train_check check = {0};
    struct item *items = calloc(data->count, sizeof(*items));
    uint32_t *lengths = calloc(data->count, sizeof(*lengths));
    int rc = LORICA_ENOMEM;
    check.duplicate = calloc(data->count, sizeof(*check.duplicate));
    check.contradiction = calloc(data->count, sizeof(*check.contradiction));
    if (items && lengths && check.duplicate && check.contradiction) {
        measure(data, lengths, &check);
        rc = find_twins(data, tokenizer, items, &check);
    }
    free(items);
    free(lengths);
    if (rc == 0) {
        *ret = check;
        return 0;
    }
    lorica_train_check_finish(&check);
    return lorica_fail(err, rc, "the examples cannot be compared: %s", lorica_err_text(rc));
}

void lorica_train_check_finish(struct lorica_train_check *check) {
    free(check->duplicate);
    free(check->contradiction);
    *check = (struct lorica_train_check){0};
}
