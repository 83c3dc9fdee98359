/* SPDX-License-Identifier: MIT
 * Byte-pair encoding of one piece: the pair of lowest rank is merged first, the leftmost of equals,
 * by a heap over a linked list, so that a piece of n bytes costs O(n log n). */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/tokenizer_parts.h"

void lorica_bpe_finish(struct lorica_bpe *bpe) {
    free(bpe->symbols);
    free(bpe->heap);
    memset(bpe, 0, sizeof(*bpe));
}

/* Room for `count` symbols and every candidate they can bring: at first one per neighbouring pair,
 * then at most two per merge, and there are at most count - 1 merges. */
static int reserve(struct lorica_bpe *bpe, size_t count) {
    if (count > INT32_MAX / 4)
        return LORICA_ELIMIT;
    if (count <= bpe->symbol_cap)
        return 0;
    size_t cap = bpe->symbol_cap ? bpe->symbol_cap : 64;
    while (cap < count)
        cap *= 2;
    void *symbols = realloc(bpe->symbols, cap * sizeof(*bpe->symbols));
    if (!symbols)
        return LORICA_ENOMEM;
    bpe->symbols = symbols;
    void *heap = realloc(bpe->heap, 3 * cap * sizeof(*bpe->heap));
    if (!heap)
        return LORICA_ENOMEM;
    bpe->heap = heap;
    bpe->heap_cap = 3 * cap;
    bpe->symbol_cap = cap;
    return 0;
}

static bool comes_before(const struct lorica_bpe_candidate *a,
                         const struct lorica_bpe_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->pos < b->pos;
}

static void heap_push(struct lorica_bpe *bpe, struct lorica_bpe_candidate item) {
    size_t i = bpe->heap_count++;
    while (i > 0 && comes_before(&item, &bpe->heap[(i - 1) / 2])) {
        bpe->heap[i] = bpe->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    bpe->heap[i] = item;
}

static struct lorica_bpe_candidate heap_pop(struct lorica_bpe *bpe) {
    const struct lorica_bpe_candidate top = bpe->heap[0];
    const struct lorica_bpe_candidate last = bpe->heap[--bpe->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= bpe->heap_count)
            break;
        if (child + 1 < bpe->heap_count && comes_before(&bpe->heap[child + 1], &bpe->heap[child]))
            child++;
        if (!comes_before(&bpe->heap[child], &last))
            break;
        bpe->heap[i] = bpe->heap[child];
        i = child;
    }
    bpe->heap[i] = last;
    return top;
}

static const struct lorica_merge *find_merge(const struct lorica_tokenizer *tokenizer, int32_t left,
                                             int32_t right) {
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)((pair * 0x9E3779B97F4A7C15u) >> 20) & tokenizer->merge_mask;
    while (tokenizer->merges[i].pair != UINT64_MAX) {
        if (tokenizer->merges[i].pair == pair)
            return &tokenizer->merges[i];
        i = (i + 1) & tokenizer->merge_mask;
    }
    return NULL;
}

static void propose(const struct lorica_tokenizer *tokenizer, struct lorica_bpe *bpe, int32_t pos) {
    const int32_t next = bpe->symbols[pos].next;
    if (next < 0)
        return;
    const struct lorica_merge *m =
        find_merge(tokenizer, bpe->symbols[pos].id, bpe->symbols[next].id);
    if (m)
        heap_push(bpe, (struct lorica_bpe_candidate){.rank = m->rank, .pos = pos, .id = m->id});
}

/* Merges until no pair has a rank. A dead symbol has id -1. */
static void merge_all(const struct lorica_tokenizer *tokenizer, struct lorica_bpe *bpe) {
    while (bpe->heap_count > 0) {
        const struct lorica_bpe_candidate top = heap_pop(bpe);
        struct lorica_bpe_symbol *left = &bpe->symbols[top.pos];
        if (left->id < 0 || left->next < 0)
            continue;
        struct lorica_bpe_symbol *right = &bpe->symbols[left->next];
        const struct lorica_merge *m = find_merge(tokenizer, left->id, right->id);
        if (!m || m->rank != top.rank || m->id != top.id)
            continue; /* one of the two has changed since */
        left->id = m->id;
        right->id = -1;
        left->next = right->next;
        if (right->next >= 0)
            bpe->symbols[right->next].prev = top.pos;
        if (left->prev >= 0)
            propose(tokenizer, bpe, left->prev);
        propose(tokenizer, bpe, top.pos);
    }
}

int lorica_bpe_encode(const struct lorica_tokenizer *tokenizer, struct lorica_bpe *bpe,
                      const char *piece, size_t len, struct lorica_tokens *out) {
    if (tokenizer->ignore_merges) {
        const int32_t id = lorica_strmap_get(&tokenizer->whole, piece, len);
        if (id >= 0)
            return lorica_tokens_push(out, id);
    }
    int rc = reserve(bpe, len);
    if (rc)
        return rc;
    int32_t count = 0;
    for (size_t i = 0; i < len; i++) {
        const int32_t id = tokenizer->byte_ids[(uint8_t)piece[i]];
        if (id < 0)
            continue; /* tokenizers drops a character that has no token, too */
        bpe->symbols[count] =
            (struct lorica_bpe_symbol){.id = id, .prev = count - 1, .next = count + 1};
        count++;
    }
    if (count == 0)
        return 0;
    bpe->symbols[count - 1].next = -1;
    bpe->heap_count = 0;
    for (int32_t i = 0; i < count; i++)
        propose(tokenizer, bpe, i);
    merge_all(tokenizer, bpe);
    for (int32_t i = 0; i >= 0; i = bpe->symbols[i].next)
        if ((rc = lorica_tokens_push(out, bpe->symbols[i].id)))
            return rc;
    return 0;
}
