/* SPDX-License-Identifier: MIT
 * Changes that were asked for and not made: records of kind REFUSED. */
#ifndef LORICA_REGISTRY_REFUSED_H
#define LORICA_REGISTRY_REFUSED_H

#include "registry/registry.h"

/** One refused attempt. All borrowed; any text may be NULL. */
struct lorica_refusal {
    const char *attempt; /**< "promote", "publish", ...: what was asked for */
    const char *name;    /**< the adapter it was about; recorded where it can be one's name */
    const char *channel; /**< likewise */
    const char *subject; /**< what else it was about: the name of a key, the id of a file */
    uint64_t version;    /**< 0: none was named */
    int status;          /**< HTTP status of the answer */
    const char *code;    /**< and its code */
    const char *why;     /**< its sentence: becomes the record's message; bytes that cannot stand
                            in one become '?' */
};

/** Records an attempt by a key. The record's detail is {"attempt","status","code","subject"?}. */
int lorica_registry_refused(struct lorica_registry *registry, const struct lorica_refusal *refusal,
                            const char *key_name, struct lorica_error *err) LORICA_MUSTCHECK;

/** Records that a key was refused `count` more times between two Unix times: the detail is
 * {"refused":count,"from":seconds,"to":seconds}. */
int lorica_registry_refused_more(struct lorica_registry *registry, const char *key_name,
                                 uint64_t count, int64_t from_ms, int64_t to_ms,
                                 struct lorica_error *err) LORICA_MUSTCHECK;

#endif
