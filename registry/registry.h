/* SPDX-License-Identifier: MIT
 * The registry: adapters with their versions, channels, history and audit chain, and the API keys.
 *
 * Glossary. An ADAPTER is a name. A VERSION is an immutable (config, weights) pair under a name,
 * numbered 1, 2, 3, ... and never reused. A CHANNEL ("stable", "canary", ...) of an adapter points
 * to one version; its EPOCH counts its moves. CONTENT is found by digest: the same bytes are stored
 * once, however many versions hold them. Every change is one durable transaction that includes its
 * audit record: when a function returns 0, the change survives power loss.
 *
 * Threads: any number may read. Changes are serialised inside; the gateway calls them from its one
 * writer thread. One process has a registry open at a time (an flock of its own on DIR/lock). */
#ifndef LORICA_REGISTRY_REGISTRY_H
#define LORICA_REGISTRY_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/digest.h"
#include "proto/err.h"

#define LORICA_NAME_MAX 128
#define LORICA_CHANNEL_MAX 64
#define LORICA_MESSAGE_MAX 1000
#define LORICA_DETAIL_MAX 1000
#define LORICA_CHANNEL_STABLE "stable"

struct lorica_registry;
struct lorica_seal; /* digest.h */

struct lorica_registry_options {
    /** Largest size of the store; 0: that of the file system, 64 GiB at least, or less where the
     * address space is limited. Address space, not disk. */
    uint64_t map_bytes;
    bool read_only; /**< changes are refused with LORICA_EINVAL; DIR must exist */
};

/** Opens DIR, creating it when absent. LORICA_EBUSY when another process has it (a read_only open
 * is refused too: see the CLI's way round through the API), LORICA_EUNSUPPORTED for a newer schema
 * or a network file system, LORICA_EFORMAT for damage. */
int lorica_registry_open(const char *dir, const struct lorica_registry_options *options,
                         struct lorica_registry **ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** True once a change met a fault of the disk or damage after which no more changes are made: the
 * process is to say so and end, so that somebody looks. What was acknowledged is durable. */
bool lorica_registry_failed(const struct lorica_registry *registry);
/** Closes. NULL is accepted. No call may be under way in another thread. */
void lorica_registry_close(struct lorica_registry *registry);

/** [a-z0-9][a-z0-9._-]{0,127}, not "base", no "..". */
bool lorica_name_valid(const char *name);
/** [a-z0-9][a-z0-9._-]{0,63}. */
bool lorica_channel_valid(const char *channel);

/** What an API key may do; each role may do what those before it may. */
enum lorica_role { LORICA_ROLE_INFER, LORICA_ROLE_PUBLISH, LORICA_ROLE_OPS, LORICA_ROLE_ADMIN };
const char *lorica_role_name(enum lorica_role role);
/** -1 for an unknown word. */
int lorica_role_parse(const char *word);

/** What the checks of a channel's policy (policy.h) found of a version, and of which checks. */
struct lorica_checked {
    struct lorica_digest content; /**< of the version that was asked */
    struct lorica_digest checks;  /**< of the list */
    uint64_t policy_epoch;        /**< of the policy that holds the list */
    uint32_t count, failed;
};

/** Who makes a change, and why: into the audit record. */
struct lorica_actor {
    const char *key_name;  /**< name of the API key, "cli", or "auto": the server itself */
    const char *message;   /**< NULL or up to LORICA_MESSAGE_MAX bytes of UTF-8 */
    enum lorica_role role; /**< of the key: a channel's policy may ask for one */
    const struct lorica_checked *checked; /**< NULL: no checks were run */
};

/** One version as stored. Strings are inline so that it can be copied out of a transaction. */
struct lorica_version {
    char name[LORICA_NAME_MAX + 1];
    uint64_t version;
    /** Identity: SHA-256("lorica adapter v1\n" || canonical_digest || weights_digest), the two as
     * 32 bytes each. The base is not part of it; a name holds one version per (digest, base). */
    struct lorica_digest digest;
    struct lorica_digest config_digest;    /**< of the stored adapter_config.json bytes */
    struct lorica_digest canonical_digest; /**< of the config's canonical form */
    struct lorica_digest weights_digest;   /**< of the stored safetensors bytes */
    struct lorica_digest base_digest;      /**< of the base it was published to */
    struct lorica_digest manifest_digest;  /**< of the manifest; zero when manifest_nbytes is 0 */
    uint64_t config_nbytes, canonical_nbytes, weights_nbytes, manifest_nbytes;
    uint64_t seq;     /**< audit record of its publishing */
    uint32_t rank;    /**< largest */
    bool base_stated; /**< true: the publisher stated the base, the config did not carry it */
    /** It was trained on another base than base_digest, by the publisher's statement. */
    bool other_base;
    struct lorica_digest trained_digest; /**< that base, where the config names it; else zero */
    int64_t created_ms;                  /**< Unix time */
    char created_by[LORICA_NAME_MAX + 1];
    char message[LORICA_MESSAGE_MAX + 1];
    /* Of a tombstone (retire.h): */
    int64_t deleted_ms; /**< 0: it is live */
    char deleted_by[LORICA_NAME_MAX + 1];
    bool swept; /**< its content is given up: it cannot be taken back */
};

/** What to publish. The gateway has checked the adapter against the base before
 * (lorica_adapter_create); the registry stores bytes. */
struct lorica_publish {
    const char *name;
    const char *config; /**< adapter_config.json as given */
    size_t config_len;
    const char *canonical; /**< lorica_peft_canonical of it */
    size_t canonical_len;
    const char *weights_path; /**< file with the safetensors bytes; read, not moved */
    /** Its SHA-256 where the caller has hashed it, which saves a reading: a file that proves to
     * have another while it is stored is refused; content that is there already is not read again.
     * NULL: it is found. */
    const struct lorica_digest *weights_digest;
    /** With it: a seal of the same bytes, if there is one. What is stored is then held against the
     * seal instead of being hashed. */
    const struct lorica_seal *weights_seal;
    struct lorica_digest base_digest;
    bool base_stated;
    bool other_base;
    struct lorica_digest trained_digest; /**< of other_base, or zero */
    uint32_t rank;
    const char *manifest; /**< extra JSON facts (trainer parameters, losses), or NULL */
    size_t manifest_len;
    const char *channel; /**< also points this channel to it, in the same transaction; NULL: none */
    const char *signature; /**< a signature of it (sign.h), or NULL */
    size_t signature_len;
    /** If not NULL: called before each transaction that writes weights, none being open; other
     * changes than publishes and sweeps may be made in it. True: others want the machine, so the
     * transaction is to be short. */
    bool (*give_way)(void *arg);
    void *give_way_arg;
};

/** Publishes. *ret gets the version; *ret_existing is true when the same content for the same base
 * was already there under this name: nothing new is made, the first config and manifest stay, and
 * `channel`, if given, is moved unless it points there already. So a publish may be repeated
 * safely when its answer got lost. A signature must hold over what is stored then
 * (LORICA_ESIGNATURE if not); it is added in the same transaction, unless its key has signed the
 * version before. A move must meet the channel's policy as a promote must, or the whole is refused.
 * LORICA_ECONFLICT when `other_base` is stated of content that is there without that statement, or
 * with another: versions are not rewritten. LORICA_ENOSPC when it would not fit: nothing has
 * changed. */
int lorica_registry_publish(struct lorica_registry *registry, const struct lorica_publish *publish,
                            const struct lorica_actor *actor, struct lorica_version *ret,
                            bool *ret_existing, struct lorica_error *err) LORICA_MUSTCHECK;

/** A version by number, deleted ones included (deleted_ms tells); LORICA_ENOTFOUND says whether the
 * name or the number is unknown. */
int lorica_registry_version(struct lorica_registry *registry, const char *name, uint64_t version,
                            struct lorica_version *ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Resolves "name", "name:channel" or "name@3" as design says: the rule that must never break.
 * LORICA_ENOTFOUND says which part is unknown, that `stable` points nowhere yet, or that the
 * version was deleted, when and by whom. */
int lorica_registry_resolve(struct lorica_registry *registry, const char *reference,
                            struct lorica_version *ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Newest version number of a name; 0 in *ret when it has none. */
int lorica_registry_latest(struct lorica_registry *registry, const char *name, uint64_t *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** Called for each item of a listing; a non-zero return stops it and is returned. Runs inside a
 * read transaction: copy what is needed and return quickly. */
typedef int (*lorica_name_fn)(void *arg, const char *name, uint64_t latest);
typedef int (*lorica_version_fn)(void *arg, const struct lorica_version *version);

/** Names in order, after `after` (NULL: from the first), at most `limit`. */
int lorica_registry_names(struct lorica_registry *registry, const char *after, size_t limit,
                          lorica_name_fn fn, void *arg, struct lorica_error *err) LORICA_MUSTCHECK;
/** Versions of a name, deleted ones included, ascending. LORICA_ENOTFOUND for an unknown name. */
int lorica_registry_versions(struct lorica_registry *registry, const char *name,
                             lorica_version_fn fn, void *arg,
                             struct lorica_error *err) LORICA_MUSTCHECK;

struct lorica_channel {
    char channel[LORICA_CHANNEL_MAX + 1];
    uint64_t version; /**< 0: points nowhere */
    uint64_t epoch;   /**< 0 before its first move */
    int64_t moved_ms;
    char moved_by[LORICA_NAME_MAX + 1];
};
typedef int (*lorica_channel_fn)(void *arg, const struct lorica_channel *channel);

/** Channels of a name, in order of their names. */
int lorica_registry_channels(struct lorica_registry *registry, const char *name,
                             lorica_channel_fn fn, void *arg,
                             struct lorica_error *err) LORICA_MUSTCHECK;
/** One channel; a channel that never moved gives version 0, epoch 0 (no error). */
int lorica_registry_channel(struct lorica_registry *registry, const char *name, const char *channel,
                            struct lorica_channel *ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Points a channel to a version if its epoch still is `expected_epoch`; else LORICA_EPRECOND with
 * the present epoch in the sentence. What the channel's policy (policy.h) demands is judged in the
 * same transaction: LORICA_EGATE or LORICA_EPERM, with what failed and the figures. `any_epoch`
 * skips the comparison (the CLI on files). Pointing it to where it points already is a move too: it
 * is counted and recorded. */
int lorica_registry_promote(struct lorica_registry *registry, const char *name, const char *channel,
                            uint64_t version, uint64_t expected_epoch, bool any_epoch,
                            const struct lorica_actor *actor, struct lorica_channel *ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Points a channel back to what it pointed to before the version now live, by its own history;
 * a second rollback goes one further back. LORICA_ECONFLICT when there is nothing before.
 *
 * The rule: a channel's moves form a stack. A promote puts its version on top (unless that version
 * is on top already); a rollback takes the top off and what is below becomes live. So promotes of
 * 1, 2, 3 and rollbacks give 2, then 1, then LORICA_ECONFLICT; a promote of 3 then stands on 1.
 * No policy is asked: what was live before has passed it, and at three in the morning one call must
 * do.
 *
 * A version that is deleted when the rollback comes is taken off like the top; so is what would put
 * the version now live in its own place. After promotes of 1, 2, 1, 3 and the deletion of 2,
 * rollbacks give 1, then LORICA_ECONFLICT. What was taken off does not come back by an undelete. */
int lorica_registry_rollback(struct lorica_registry *registry, const char *name,
                             const char *channel, const struct lorica_actor *actor,
                             struct lorica_channel *ret, struct lorica_error *err) LORICA_MUSTCHECK;

enum lorica_audit_kind {
    LORICA_AUDIT_PUBLISH, /* numbers are on disk and in the chain: add only before COUNT */
    LORICA_AUDIT_PROMOTE,
    LORICA_AUDIT_ROLLBACK,
    LORICA_AUDIT_KEY_CREATE,
    LORICA_AUDIT_KEY_REVOKE,
    LORICA_AUDIT_DELETE,        /* a version becomes a tombstone */
    LORICA_AUDIT_UNDELETE,      /* and is taken back */
    LORICA_AUDIT_SWEEP,         /* content of tombstones is gone for good */
    LORICA_AUDIT_SPLIT,         /* a split begins, changes or ends */
    LORICA_AUDIT_POLICY,        /* what a channel demands of a promote */
    LORICA_AUDIT_APPROVE,       /* a key approves of a promote to come */
    LORICA_AUDIT_REFUSED,       /* a change that was asked for and not made */
    LORICA_AUDIT_RETENTION,     /* how long an adapter's deleted content stays */
    LORICA_AUDIT_SIGNER_ADD,    /* a signing key is trusted from now on */
    LORICA_AUDIT_SIGNER_REMOVE, /* and is not any more */
    LORICA_AUDIT_SIGN,          /* a version gets a signature */
    LORICA_AUDIT_COUNT
};
/** "publish", "promote", ... */
const char *lorica_audit_kind_name(enum lorica_audit_kind kind);

/** One link of the audit chain: hash = SHA-256(previous hash || canonical record), where record 1
 * follows 32 zero bytes. The canonical record is, integers big-endian: u8 format (1, or 2 with a
 * detail), u64 seq, u8 kind, u64 time_ms, actor, name, channel, u64 version, u64 previous, u64
 * epoch, u64 before, digest (32 bytes), message, and in format 2 detail; each text is u16 length
 * and its bytes. */
struct lorica_audit {
    uint64_t seq; /**< 1, 2, 3, ... */
    enum lorica_audit_kind kind;
    int64_t time_ms;
    char actor[LORICA_NAME_MAX + 1];
    char name[LORICA_NAME_MAX + 1]; /**< adapter, or name of a key or signer */
    char channel[LORICA_CHANNEL_MAX + 1];
    uint64_t version;            /**< version published, or pointed to after */
    uint64_t previous;           /**< version pointed to before; 0: none */
    uint64_t epoch;              /**< of the channel after a move, or when approved; of a policy */
    uint64_t before;             /**< of a move: seq of the move that a rollback goes back to; of
                                    an undelete: that of the delete; 0: none */
    struct lorica_digest digest; /**< of the version, the signature's text, the key's record, ... */
    char message[LORICA_MESSAGE_MAX + 1];
    char detail[LORICA_DETAIL_MAX + 1]; /**< JSON of what the kind needs besides, or empty */
    struct lorica_digest hash;
};
/** True for records that are about an adapter, not about a key, a signer or about everything: they
 * stand in the adapter's history. */
bool lorica_audit_of_adapter(const struct lorica_audit *audit);
typedef int (*lorica_audit_fn)(void *arg, const struct lorica_audit *record);

/** Records after `after_seq`, ascending, at most `limit`; `name` NULL: all, else of one adapter. */
int lorica_registry_audit(struct lorica_registry *registry, const char *name, uint64_t after_seq,
                          size_t limit, lorica_audit_fn fn, void *arg,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Which records are wanted; zero fields ask for nothing. */
struct lorica_audit_query {
    const char *name;       /**< of one adapter; NULL: all */
    const char *actor;      /**< by one key; NULL: all */
    const char *kind;       /**< of one kind, by its name; NULL: all */
    int64_t since_ms;       /**< not made before */
    int64_t until_ms;       /**< made before; 0: no end */
    uint64_t after, before; /**< after < seq < before; before 0: no end */
    bool newest_first;      /**< in descending order */
};

/** Hands the records that are wanted to `fn`, of at most `scan` records that are looked at: so one
 * call's work is bounded, however few are wanted. *ret_last becomes the seq of the last one looked
 * at, wanted or not, where the next call goes on (as `after`, or as `before` when the newest come
 * first); it stays as it is when there was none left. What `fn` returns other than 0 ends the walk
 * and is returned; the record that it was called for does not count as looked at. */
int lorica_registry_audit_find(struct lorica_registry *registry,
                               const struct lorica_audit_query *query, size_t scan,
                               lorica_audit_fn fn, void *arg, uint64_t *ret_last,
                               struct lorica_error *err) LORICA_MUSTCHECK;

/** Number and hash of the chain's last record; 0 and zeroes for an empty chain. */
int lorica_registry_audit_head(struct lorica_registry *registry, uint64_t *ret_seq,
                               struct lorica_digest *ret_hash,
                               struct lorica_error *err) LORICA_MUSTCHECK;

/** Content of a version, whole, into memory: caller frees with free(). It is checked against the
 * digest that the record names for it, and that against the version's own: LORICA_EFORMAT. */
int lorica_registry_config(struct lorica_registry *registry, const struct lorica_version *version,
                           char **ret, size_t *ret_len, struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_registry_weights(struct lorica_registry *registry, const struct lorica_version *version,
                            void **ret, size_t *ret_len, struct lorica_error *err) LORICA_MUSTCHECK;

/** The manifest that was published with it, in the same way; LORICA_ENOTFOUND when there is none.
 */
int lorica_registry_manifest(struct lorica_registry *registry, const struct lorica_version *version,
                             char **ret, size_t *ret_len,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** Walks chain, pointers and every blob. *ret_report gets one line per finding (none: clean). */
int lorica_registry_verify(struct lorica_registry *registry, struct lorica_buf *report,
                           uint64_t *ret_findings, struct lorica_error *err) LORICA_MUSTCHECK;

/** Directory of the registry that this thread is inside of with a transaction, NULL: of none.
 * Borrowed. *ret_store: the instruction `code`, which met a fault, is one of its store's, or
 * the store has found itself damaged and aborts. Async-signal-safe: what a handler of faults asks.
 */
const char *lorica_registry_inside(const void *code, bool *ret_store);

/* API keys. Only HMAC-SHA-256(pepper, secret) is stored. */

#define LORICA_KEY_GLOBS 16
/** Text of a key: "lk_" + 43 characters of base64url + NUL. */
#define LORICA_KEY_TEXT 48

struct lorica_key {
    char name[LORICA_NAME_MAX + 1];
    enum lorica_role role; /**< each role may do what those before it may */
    char globs[LORICA_KEY_GLOBS][LORICA_NAME_MAX + 1]; /**< adapters it may use; none: all */
    size_t glob_count;
    int64_t created_ms;
    int64_t revoked_ms; /**< 0: in force */
};
typedef int (*lorica_key_fn)(void *arg, const struct lorica_key *key);

/** Makes a key of key->name (as lorica_name_valid, not "auto", "cli" or "server"), role and globs
 * (letters, digits, '.', '_', '-', and '*' for any text, '?' for any one character); its text goes
 * to `ret_text` and is never available again. LORICA_ECONFLICT when the name is taken (revoked ones
 * included). */
int lorica_registry_key_create(struct lorica_registry *registry, const struct lorica_key *key,
                               const struct lorica_actor *actor, char ret_text[LORICA_KEY_TEXT],
                               struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_registry_key_revoke(struct lorica_registry *registry, const char *name,
                               const struct lorica_actor *actor,
                               struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_registry_keys(struct lorica_registry *registry, lorica_key_fn fn, void *arg,
                         struct lorica_error *err) LORICA_MUSTCHECK;
/** The key of a name, revoked or not; LORICA_ENOTFOUND when there is none. */
int lorica_registry_key(struct lorica_registry *registry, const char *name, struct lorica_key *ret,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** The key in force that a text belongs to; LORICA_EAUTH otherwise. Compared in constant time. */
int lorica_registry_key_find(struct lorica_registry *registry, const char *text, size_t len,
                             struct lorica_key *ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** True when the key's globs allow the adapter ("base" is matched like a name). */
bool lorica_key_allows(const struct lorica_key *key, const char *adapter);

#endif
