/* SPDX-License-Identifier: MIT
 * What a channel demands before it points to another version, and who approved of it.
 *
 * A POLICY belongs to one channel of one adapter; a channel without one demands nothing. Each of
 * its demands is a GATE, judged inside the transaction of the promote (or of the publish that names
 * the channel). Rollbacks pass no gate. The figures on evaluation sets are facts that the publisher
 * states in the manifest: {"evals":{"SET":loss,...}}, or {"eval_set":"SET","eval_loss":loss}. A
 * list of CHECKS (proto/checks.h) is kept here and run by the gateway, before the transaction; what
 * they found counts for exactly the content, list and policy that they were run for.
 *
 * An APPROVAL says that a key wants a channel to point to a version. It counts while the channel
 * stands where it stood when it was given and the key is in force: any move voids all of the
 * channel's approvals. The key that promotes counts as one of those that approve. */
#ifndef LORICA_REGISTRY_POLICY_H
#define LORICA_REGISTRY_POLICY_H

#include "proto/json.h"
#include "registry/registry.h"

#define LORICA_EVAL_SET_MAX 128
/** Largest number of approvals that a policy may ask for. */
#define LORICA_APPROVALS_MAX 32

struct lorica_policy {
    uint32_t approvals;        /**< distinct keys that must want it; 0 and 1: whoever promotes */
    enum lorica_role min_role; /**< least role of the key that promotes */
    uint32_t max_rank;         /**< largest rank; 0: any */
    uint64_t max_nbytes;       /**< largest weights; 0: any size */
    /** The version must state its loss on this set, and where the version that the channel points
     * to states one, be no more than max_worse above it. "": none. [A-Za-z0-9][A-Za-z0-9._-]* */
    char eval_set[LORICA_EVAL_SET_MAX + 1];
    double max_worse;       /**< >= 0 */
    bool trusted_signature; /**< a key that is trusted now has signed the version (sign.h) */
    uint32_t checks;        /**< prompts that the version must answer well; 0: none */
    struct lorica_digest checks_digest; /**< SHA-256 of their list; zero for none */
    /** The list (struct lorica_checks.text) to set, borrowed, up to LORICA_CHECKS_BYTES; NULL with
     * `checks` 0, and in what is read: lorica_registry_checks reads it. */
    const char *checks_text;
    size_t checks_len;

    uint64_t epoch; /**< counts its changes; 0: it was never set */
    int64_t changed_ms;
    char changed_by[LORICA_NAME_MAX + 1];
};

/** True for a set's name that a policy may hold. */
bool lorica_eval_set_valid(const char *set);

/** Writes the demands as an object: {"approvals","min_role","max_rank","max_bytes","eval_set",
 * "max_worse","signed","checks","checks_digest"}; eval_set and checks_digest are null for none. */
void lorica_policy_write(struct lorica_jsonw *w, const char *key,
                         const struct lorica_policy *policy);

/** A channel's policy; one that was never set demands nothing and has epoch 0 (no error).
 * LORICA_ENOTFOUND for an unknown adapter. */
int lorica_registry_policy(struct lorica_registry *registry, const char *name, const char *channel,
                           struct lorica_policy *ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** The list of checks of a channel's policy, in one view with *ret_policy: caller frees *ret with
 * free(); NULL where there is none. */
int lorica_registry_checks(struct lorica_registry *registry, const char *name, const char *channel,
                           struct lorica_policy *ret_policy, char **ret, size_t *ret_len,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** Replaces a channel's policy by the demands of `policy` if its epoch still is `expected_epoch`,
 * else LORICA_EPRECOND. Demands of nothing take it away; its epoch goes on. *ret: as it is now. */
int lorica_registry_policy_set(struct lorica_registry *registry, const char *name,
                               const char *channel, const struct lorica_policy *policy,
                               uint64_t expected_epoch, const struct lorica_actor *actor,
                               struct lorica_policy *ret,
                               struct lorica_error *err) LORICA_MUSTCHECK;

struct lorica_approval {
    char channel[LORICA_CHANNEL_MAX + 1];
    uint64_t version;
    uint64_t epoch; /**< of the channel: any move voids the approval */
    int64_t given_ms;
    char given_by[LORICA_NAME_MAX + 1];
    char message[LORICA_MESSAGE_MAX + 1];
};
typedef int (*lorica_approval_fn)(void *arg, const struct lorica_approval *approval);

/** Gives the approval of actor->key_name to a promote of `version` to come. The same key approving
 * of the same version again changes nothing: *ret is the approval that stands. */
int lorica_registry_approve(struct lorica_registry *registry, const char *name, const char *channel,
                            uint64_t version, const struct lorica_actor *actor,
                            struct lorica_approval *ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** The approvals of a channel that stand, by version and key. Runs `fn` inside a read transaction.
 */
int lorica_registry_approvals(struct lorica_registry *registry, const char *name,
                              const char *channel, lorica_approval_fn fn, void *arg,
                              struct lorica_error *err) LORICA_MUSTCHECK;

#endif
