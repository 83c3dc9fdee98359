/* SPDX-License-Identifier: MIT
 * Listings of the registry copied out of their transactions, so that nothing is written or looked
 * up while one is open. */
#ifndef LORICA_GATEWAY_HANDLERS_LISTING_H
#define LORICA_GATEWAY_HANDLERS_LISTING_H

#include "registry/registry.h"

/** A page of names. */
struct lorica_names {
    struct lorica_names_item {
        char name[LORICA_NAME_MAX + 1];
        uint64_t latest;
    } * items; /**< owned */
    size_t count, cap;
};
int lorica_names_read(struct lorica_registry *registry, const char *after, size_t limit,
                      struct lorica_names *ret, struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_names_finish(struct lorica_names *names);

/** All channels of a name. */
struct lorica_channels {
    struct lorica_channel *items; /**< owned */
    size_t count, cap;
};
int lorica_channels_read(struct lorica_registry *registry, const char *name,
                         struct lorica_channels *ret, struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_channels_finish(struct lorica_channels *channels);

#endif
