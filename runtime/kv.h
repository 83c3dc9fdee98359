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
    enum lorica_kv_format format;
    uint8_t *data;      /**< [layer][kv head][page] */
    size_t head_nbytes; /**< from one (layer, head) to the next */
    size_t page_nbytes; /**< from one page to the next */
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
int lorica_kv_init(struct lorica_kv *kv, const struct lorica_arch *arch,
                   enum lorica_kv_format format, uint32_t tokens,
                   struct lorica_error *err) LORICA_MUSTCHECK;

/** Gives everything back. A zeroed struct is accepted. */
void lorica_kv_finish(struct lorica_kv *kv);

/** Takes `count` pages, numbers into pages[0..count). LORICA_EBUSY, taking none, when fewer are
 * free. */
int lorica_kv_take(struct lorica_kv *kv, uint32_t *pages, uint32_t count) LORICA_MUSTCHECK;

/** Gives pages back. */
void lorica_kv_give(struct lorica_kv *kv, const uint32_t *pages, uint32_t count);

/** The keys and values of a (layer, head) at a page. */
static inline void *lorica_kv_at(const struct lorica_kv *kv, uint32_t layer, uint32_t head,
                                 uint32_t page) {
    return kv->data + ((size_t)layer * kv->kv_heads + head) * kv->head_nbytes +
           page * kv->page_nbytes;
}

/** What the attention kernel reads for one (layer, head) of a sequence with these pages. */
static inline struct lorica_kv_view lorica_kv_view(const struct lorica_kv *kv, uint32_t layer,
                                                   uint32_t head, const uint32_t *pages) {
    return (struct lorica_kv_view){.cells = lorica_kv_at(kv, layer, head, 0),
                                   .page_nbytes = kv->page_nbytes,
                                   .pages = pages,
                                   .head_dim = kv->head_dim};
}

#endif
