/* SPDX-License-Identifier: MIT */
#include "gateway/server/pins.h"

#include <string.h>

void lorica_pins_init(struct lorica_pins *pins) {
    pthread_mutex_init(&pins->step, NULL);
    pthread_mutex_init(&pins->list, NULL);
    pins->first = NULL;
}

void lorica_pins_finish(struct lorica_pins *pins) {
    pthread_mutex_destroy(&pins->list);
    pthread_mutex_destroy(&pins->step);
}

void lorica_pins_lock(struct lorica_pins *pins) { pthread_mutex_lock(&pins->step); }

void lorica_pins_unlock(struct lorica_pins *pins) { pthread_mutex_unlock(&pins->step); }

void lorica_pins_hold(struct lorica_pins *pins, struct lorica_pin *pin,
                      const struct lorica_version *version) {
    pthread_mutex_lock(&pins->list);
    *pin = (struct lorica_pin){.version = version, .next = pins->first};
    if (pins->first)
        pins->first->previous = pin;
    pins->first = pin;
    pthread_mutex_unlock(&pins->list);
}

void lorica_pins_release(struct lorica_pins *pins, struct lorica_pin *pin) {
    if (!pin->version)
        return;
    pthread_mutex_lock(&pins->list);
    if (pin->previous)
        pin->previous->next = pin->next;
    else
        pins->first = pin->next;
    if (pin->next)
        pin->next->previous = pin->previous;
    pthread_mutex_unlock(&pins->list);
    *pin = (struct lorica_pin){NULL};
}

static size_t count_of(struct lorica_pins *pins, const char *name, uint64_t version) {
    size_t count = 0;
    pthread_mutex_lock(&pins->list);
    for (const struct lorica_pin *pin = pins->first; pin; pin = pin->next)
        count += pin->version->version == version && strcmp(pin->version->name, name) == 0;
    pthread_mutex_unlock(&pins->list);
    return count;
}

int lorica_pins_delete(struct lorica_pins *pins, struct lorica_registry *registry, const char *name,
                       uint64_t version, const struct lorica_actor *actor,
                       struct lorica_version *ret_tombstone, struct lorica_error *err) {
    lorica_pins_lock(pins);
    const size_t count = count_of(pins, name, version);
    const int rc =
        count ? lorica_fail(err, LORICA_ECONFLICT,
                            "%s@%llu cannot be deleted: %zu request%s under way %s "
                            "answered with it; try again when %s ended",
                            name, (unsigned long long)version, count, count == 1 ? "" : "s",
                            count == 1 ? "is" : "are", count == 1 ? "it has" : "they have")
              : lorica_registry_delete(registry, name, version, actor, ret_tombstone, err);
    lorica_pins_unlock(pins);
    return rc;
}
