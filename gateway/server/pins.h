/* SPDX-License-Identifier: MIT
 * Versions that requests under way were resolved to. A request pins its version from resolution to
 * the end of its answer; a pinned version is not deleted.
 *
 * Nothing comes between: resolution and pinning are one step under the pins' lock (a worker's), and
 * so are the look at the pins and the deletion's transaction (the writer's). So either the deletion
 * comes first, and the resolution no longer finds the version; or the pin does, and the deletion is
 * refused. Resolutions wait for the disk only while a version is being deleted. Letting go, which
 * the loop does, waits for neither: it takes the list's mutex alone, which none keeps for long. */
#ifndef LORICA_GATEWAY_SERVER_PINS_H
#define LORICA_GATEWAY_SERVER_PINS_H

#include <pthread.h>
#include <stddef.h>

#include "registry/retire.h"

/** One request's hold on a version. Part of whatever the request is; zeroed: holds nothing. */
struct lorica_pin {
    const struct lorica_version *version; /**< borrowed; NULL: holds nothing */
    struct lorica_pin *previous, *next;   /**< private */
};

struct lorica_pins {
    pthread_mutex_t step; /**< that of pinning or deleting; taken before `list` */
    pthread_mutex_t list;
    struct lorica_pin *first;
};

void lorica_pins_init(struct lorica_pins *pins);
/** No pin may be left. */
void lorica_pins_finish(struct lorica_pins *pins);

/** Begins and ends the step in which a version is resolved and pinned. Any thread. */
void lorica_pins_lock(struct lorica_pins *pins);
void lorica_pins_unlock(struct lorica_pins *pins);
/** Pins a version, which must live as long as the pin holds. Between lock and unlock. */
void lorica_pins_hold(struct lorica_pins *pins, struct lorica_pin *pin,
                      const struct lorica_version *version);
/** Lets go. A pin that holds nothing is accepted. Any thread, not between lock and unlock. */
void lorica_pins_release(struct lorica_pins *pins, struct lorica_pin *pin);

/** lorica_registry_delete, refused with LORICA_ECONFLICT while a request holds the version. */
int lorica_pins_delete(struct lorica_pins *pins, struct lorica_registry *registry, const char *name,
                       uint64_t version, const struct lorica_actor *actor,
                       struct lorica_version *ret_tombstone,
                       struct lorica_error *err) LORICA_MUSTCHECK;

#endif
