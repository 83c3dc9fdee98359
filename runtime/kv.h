/* SPDX-License-Identifier: MIT
 * The key/value cache: one reservation of address space for all sequences, cut into pages of
 * LORICA_KV_PAGE tokens. A page number stands for the same page in every layer and head. Memory is
 * taken from the system only when a page is first written. Not thread-safe: the engine thread
 * takes and gives pages. */
#ifndef LORICA_RUNTIME_KV_H
#define LORICA_RUNTIME_KV_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/attn.h"
#include "proto/err.h"
#include "runtime/base.h"

struct lorica_kv {
    uint16_t *data;     /**< bf16 bits [layer][kv head][page][keys, values][token][head_dim] */
    size_t head_stride; /**< elements from one (layer, head) to the next */
    size_t page_stride; /**< elements from one page to the next */
    uint32_t head_dim, kv_heads;
    uint32_t pages;      /**< in all */
    uint32_t free_count; /**< pages that no sequence has */
    uint32_t *free_list; /**< private */
    size_t nbytes;       /**< private: of the reservation */
};

/** Pages that `tokens` tokens need. */
static inline uint32_t lorica_kv_pages(uint64_t tokens) {
    return (uint32_t)((tokens + LORICA_KV_PAGE - 1) / LORICA_KV_PAGE);
}

/** Reserves room for `tokens` tokens (rounded up to pages). Finish it. */
int lorica_kv_init(struct lorica_kv *kv, const struct lorica_arch *arch, uint32_t tokens,
                   struct lorica_error *err) LORICA_MUSTCHECK;

/** Gives everything back. A zeroed struct is accepted. */
void lorica_kv_finish(struct lorica_kv *kv);

/** Takes `count` pages, numbers into pages[0..count). LORICA_EBUSY, taking none, when fewer are
 * free. */
int lorica_kv_take(struct lorica_kv *kv, uint32_t *pages, uint32_t count) LORICA_MUSTCHECK;

/** Gives pages back. */
void lorica_kv_give(struct lorica_kv *kv, const uint32_t *pages, uint32_t count);

/** The keys of a (layer, head) at a page; its values follow LORICA_KV_PAGE * head_dim elements
 * behind. */
static inline uint16_t *lorica_kv_at(const struct lorica_kv *kv, uint32_t layer, uint32_t head,
                                     uint32_t page) {
    return kv->data + ((size_t)layer * kv->kv_heads + head) * kv->head_stride +
           page * kv->page_stride;
}

/** What the attention kernel reads for one (layer, head) of a sequence with these pages. */
static inline struct lorica_kv_view lorica_kv_view(const struct lorica_kv *kv, uint32_t layer,
                                                   uint32_t head, const uint32_t *pages) {
    const uint16_t *keys = lorica_kv_at(kv, layer, head, 0);
    return (struct lorica_kv_view){.keys = keys,
                                   .values = keys + (size_t)LORICA_KV_PAGE * kv->head_dim,
                                   .page_stride = kv->page_stride,
                                   .pages = pages,
                                   .head_dim = kv->head_dim};
}

#endif
