/* SPDX-License-Identifier: MIT
 * Pages of one (layer, head) lie side by side, keys beside values, so that a long sequence is read
 * as one stream. The free list is a stack: what was given back last is warm and is taken first. */
#include "runtime/kv.h"

#include <stdlib.h>
#include <sys/mman.h>

int lorica_kv_init(struct lorica_kv *kv, const struct lorica_arch *arch,
                   enum lorica_kv_format format, uint32_t tokens, struct lorica_error *err) {
    const uint32_t pages = lorica_kv_pages(tokens);
    const size_t page_nbytes = lorica_kv_page_nbytes(format, arch->head_dim);
    size_t head_nbytes, nbytes;
    if (pages == 0)
        return lorica_fail(err, LORICA_EINVAL, "a key/value cache of 0 tokens");
    if (__builtin_mul_overflow(page_nbytes, (size_t)pages, &head_nbytes) ||
        __builtin_mul_overflow(head_nbytes, (size_t)arch->layers * arch->kv_heads, &nbytes))
        return lorica_fail(err, LORICA_ELIMIT, "a key/value cache of %u tokens is too large",
                           tokens);
    uint32_t *list = malloc(pages * sizeof(*list));
    if (!list)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the key/value cache's list");
    void *data = mmap(NULL, nbytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
        free(list);
        return lorica_fail(err, LORICA_ENOMEM,
                           "no address space for a key/value cache of %u tokens (%zu MiB): ask "
                           "for fewer",
                           tokens, nbytes >> 20);
    }
    for (uint32_t i = 0; i < pages; i++)
        list[i] = pages - 1 - i;
    *kv = (struct lorica_kv){.format = format,
                             .data = data,
                             .head_nbytes = head_nbytes,
                             .page_nbytes = page_nbytes,
                             .head_dim = arch->head_dim,
                             .kv_heads = arch->kv_heads,
                             .pages = pages,
                             .free_count = pages,
                             .free_list = list,
                             .nbytes = nbytes};
    return 0;
}

void lorica_kv_finish(struct lorica_kv *kv) {
    if (kv->data)
        (void)munmap(kv->data, kv->nbytes);
    free(kv->free_list);
    *kv = (struct lorica_kv){0};
}

int lorica_kv_take(struct lorica_kv *kv, uint32_t *pages, uint32_t count) {
    if (count > kv->free_count)
        return LORICA_EBUSY;
    for (uint32_t i = 0; i < count; i++)
        pages[i] = kv->free_list[--kv->free_count];
    return 0;
}

void lorica_kv_give(struct lorica_kv *kv, const uint32_t *pages, uint32_t count) {
    for (uint32_t i = count; i-- > 0;)
        kv->free_list[kv->free_count++] = pages[i];
}
