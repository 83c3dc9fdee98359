/* SPDX-License-Identifier: MIT */
#include "gateway/handlers/listing.h"

#include <stdio.h>
#include <stdlib.h>

/* Room for one more item; NULL: out of memory. `items` is the list's pointer. */
static void *grow(void *items, size_t count, size_t *cap, size_t size) {
    if (count < *cap)
        return items;
    const size_t more = *cap ? *cap * 2 : 16;
    void *bigger = reallocarray(items, more, size);
    if (bigger)
        *cap = more;
    return bigger;
}

static int add_name(void *arg, const char *name, uint64_t latest) {
    struct lorica_names *names = arg;
    struct lorica_names_item *items =
        grow(names->items, names->count, &names->cap, sizeof(*names->items));
    if (!items)
        return LORICA_ENOMEM;
    names->items = items;
    struct lorica_names_item *item = &items[names->count++];
    (void)snprintf(item->name, sizeof(item->name), "%s", name);
    item->latest = latest;
    return 0;
}

int lorica_names_read(struct lorica_registry *registry, const char *after, size_t limit,
                      struct lorica_names *ret, struct lorica_error *err) {
    const int rc = lorica_registry_names(registry, after, limit, add_name, ret, err);
    return rc == LORICA_ENOMEM ? lorica_fail(err, rc, "out of memory") : rc;
}

void lorica_names_finish(struct lorica_names *names) {
    free(names->items);
    *names = (struct lorica_names){0};
}

static int add_channel(void *arg, const struct lorica_channel *channel) {
    struct lorica_channels *channels = arg;
    struct lorica_channel *items =
        grow(channels->items, channels->count, &channels->cap, sizeof(*channels->items));
    if (!items)
        return LORICA_ENOMEM;
    channels->items = items;
    items[channels->count++] = *channel;
    return 0;
}

int lorica_channels_read(struct lorica_registry *registry, const char *name,
                         struct lorica_channels *ret, struct lorica_error *err) {
    const int rc = lorica_registry_channels(registry, name, add_channel, ret, err);
    return rc == LORICA_ENOMEM ? lorica_fail(err, rc, "out of memory") : rc;
}

void lorica_channels_finish(struct lorica_channels *channels) {
    free(channels->items);
    *channels = (struct lorica_channels){0};
}
