/* SPDX-License-Identifier: MIT
 * A map from strings to token ids. */
#include <stdlib.h>
#include <string.h>

#include "runtime/strmap.h"

/* FNV-1a with a final mix. Keys come from a model file that its owner imports, so the worst case of
 * chosen collisions costs that owner's time only. */
static uint64_t hash_of(const char *text, size_t len) {
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)text[i]) * 0x100000001B3u;
    return h ^ h >> 29;
}

int lorica_strmap_init(struct lorica_strmap *map, size_t count) {
    size_t size = 16;
    if (count > SIZE_MAX / 64)
        return LORICA_ELIMIT;
    while (size < 2 * count)
        size *= 2;
    map->slots = calloc(size, sizeof(*map->slots));
    if (!map->slots)
        return LORICA_ENOMEM;
    map->mask = size - 1;
    map->count = 0;
    map->limit = count;
    return 0;
}

void lorica_strmap_finish(struct lorica_strmap *map) {
    free(map->slots);
    memset(map, 0, sizeof(*map));
}

static size_t find_slot(const struct lorica_strmap *map, const char *text, size_t len) {
    size_t i = (size_t)hash_of(text, len) & map->mask;
    while (map->slots[i].text &&
           (map->slots[i].len != len || memcmp(map->slots[i].text, text, len) != 0))
        i = (i + 1) & map->mask;
    return i;
}

int lorica_strmap_put(struct lorica_strmap *map, const char *text, size_t len, int32_t id) {
    if (map->count == map->limit || len > UINT32_MAX)
        return LORICA_ELIMIT;
    struct lorica_strmap_slot *slot = &map->slots[find_slot(map, text, len)];
    if (slot->text)
        return LORICA_ECONFLICT;
    *slot = (struct lorica_strmap_slot){.text = text, .len = (uint32_t)len, .id = id};
    map->count++;
    return 0;
}

int32_t lorica_strmap_get(const struct lorica_strmap *map, const char *text, size_t len) {
    if (!map->slots)
        return -1;
    const struct lorica_strmap_slot *slot = &map->slots[find_slot(map, text, len)];
    return slot->text ? slot->id : -1;
}
