/* SPDX-License-Identifier: MIT
 * Taking versions out of service, in two steps.
 *
 * A DELETE makes a version a TOMBSTONE: nothing resolves to it, no channel can be pointed to it, no
 * rollback stops at it, and publishing the same content again makes a new version with a new
 * number. Until the adapter's RETENTION is over an undelete takes it back. A SWEEP then removes the
 * content of tombstones that are old enough, as far as no other version uses it. The record of the
 * version stays for ever: which weights it had, who published, deleted and swept it, and when. */
#ifndef LORICA_REGISTRY_RETIRE_H
#define LORICA_REGISTRY_RETIRE_H

#include "registry/registry.h"

/** Days that the content of a deleted version stays where the adapter has no setting of its own. */
#define LORICA_RETENTION_DAYS 7
#define LORICA_RETENTION_DAYS_MAX 36500

/** Deletes a version; *ret_tombstone is it, with deleted_ms and deleted_by. LORICA_ENOTFOUND for a
 * version that is not there or was deleted before (the sentence says when and by whom).
 * LORICA_ECONFLICT, naming the holder, while a channel points to it or a split sends requests to
 * it. That channels were once there and may come back by rollback holds nothing: see
 * lorica_registry_rollback. Who answers requests with versions refuses while one is under way. */
int lorica_registry_delete(struct lorica_registry *registry, const char *name, uint64_t version,
                           const struct lorica_actor *actor, struct lorica_version *ret_tombstone,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** Takes a deleted version back. LORICA_ECONFLICT when it is not deleted, when its content was
 * swept, or when the same content for the same base was published again in the meantime (the
 * sentence names that version): a name holds one version of it. */
int lorica_registry_undelete(struct lorica_registry *registry, const char *name, uint64_t version,
                             const struct lorica_actor *actor, struct lorica_version *ret,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** Numbers of the deleted versions of a name that can still be taken back, ascending; LORICA_ENOMEM
 * or 0. The caller frees *ret with free(). A name without any, or an unknown one, gives none. */
int lorica_registry_deleted(struct lorica_registry *registry, const char *name, uint64_t **ret,
                            size_t *ret_count, struct lorica_error *err) LORICA_MUSTCHECK;

/** How many days the content of an adapter's deleted versions stays. */
struct lorica_retention {
    uint32_t days;
    bool is_default; /**< nobody has set it */
};
/** LORICA_ENOTFOUND for an unknown name. */
int lorica_registry_retention(struct lorica_registry *registry, const char *name,
                              struct lorica_retention *ret,
                              struct lorica_error *err) LORICA_MUSTCHECK;
/** Sets it, for tombstones there are and those to come; 0: the next sweep takes them.
 * LORICA_EINVAL over LORICA_RETENTION_DAYS_MAX. */
int lorica_registry_retention_set(struct lorica_registry *registry, const char *name, uint32_t days,
                                  const struct lorica_actor *actor,
                                  struct lorica_error *err) LORICA_MUSTCHECK;

/** What sweeps removed. */
struct lorica_sweep {
    uint64_t versions; /**< tombstones whose content is given up */
    uint64_t contents; /**< pieces of content that nothing used any more */
    uint64_t bytes;    /**< their size */
};

/** One step of a sweep, one transaction of bounded size: adds to *stats, and tells in *ret_more
 * whether there may be more to do. A change (a promote, a rollback) waits for one step at most.
 *
 * A step marks up to 64 tombstones as swept and removes the records of the content that no version
 * but swept ones has, together with an audit record of kind SWEEP for each adapter (or several,
 * when the numbers of its versions do not fit into one): its detail
 * {"versions":[3,4],"contents":2,"bytes":70000} names each version, and counts what was removed.
 * Content of many pieces goes from the list of content to that of unfinished uploads in the same
 * transaction, and piece by piece in steps of its own, or when the registry is next opened: so a
 * crash at any moment leaves either the whole tombstone or nothing that is not swept later. */
int lorica_registry_sweep_step(struct lorica_registry *registry, int64_t now_ms,
                               const struct lorica_actor *actor, struct lorica_sweep *stats,
                               bool *ret_more, struct lorica_error *err) LORICA_MUSTCHECK;

/** Steps until nothing is left: content of tombstones whose retention is over at `now_ms` is gone.
 * *ret_stats is also set when it fails in the middle. */
int lorica_registry_sweep(struct lorica_registry *registry, int64_t now_ms,
                          const struct lorica_actor *actor, struct lorica_sweep *ret_stats,
                          struct lorica_error *err) LORICA_MUSTCHECK;

#endif
