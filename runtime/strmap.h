/* SPDX-License-Identifier: MIT
 * A map from strings to token ids: open addressing, built once, read often. Private to runtime. */
#ifndef LORICA_RUNTIME_STRMAP_H
#define LORICA_RUNTIME_STRMAP_H

#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

struct lorica_strmap_slot {
    const char *text; /**< borrowed; NULL: free slot */
    uint32_t len;
    int32_t id;
};

/** Zero-initialise; finish frees. Keys are borrowed and must outlive the map. */
struct lorica_strmap {
    struct lorica_strmap_slot *slots;
    size_t mask; /**< slots - 1 */
    size_t count, limit;
};

/** Makes room for `count` keys. */
int lorica_strmap_init(struct lorica_strmap *map, size_t count) LORICA_MUSTCHECK;
void lorica_strmap_finish(struct lorica_strmap *map);

/** Adds a key. LORICA_ECONFLICT when it is there already, LORICA_ELIMIT over the count that init
 * was given. */
int lorica_strmap_put(struct lorica_strmap *map, const char *text, size_t len,
                      int32_t id) LORICA_MUSTCHECK;

/** Id of a key, or -1. */
int32_t lorica_strmap_get(const struct lorica_strmap *map, const char *text, size_t len);

#endif
