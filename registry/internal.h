/* SPDX-License-Identifier: MIT
 * What the parts of the registry share among themselves. Functions that take a transaction work
 * inside it and end nothing. LORICA_ENOTFOUND comes without a sentence where that is said, since
 * only the caller knows what the absence means. */
#ifndef LORICA_REGISTRY_INTERNAL_H
#define LORICA_REGISTRY_INTERNAL_H

#include <pthread.h>

#include "registry/record.h"
#include "registry/registry.h"
#include "registry/store.h"

#define LORICA_PEPPER_BYTES 32
/** Largest config, canonical form or manifest. */
#define LORICA_TEXT_BYTES_MAX ((size_t)1 << 20)
/** Largest weights. */
#define LORICA_WEIGHTS_BYTES_MAX (UINT64_C(2) << 30)
/** Content piece: 64 pages less the page header, so that every run of pages is of one size. */
#define LORICA_CHUNK_BYTES ((size_t)262128)
/** Content written per transaction when it is too much for one. */
#define LORICA_BATCH_CHUNKS 128u
/** The same while others want the machine (struct lorica_publish, give_way). */
#define LORICA_SPARING_CHUNKS 4u

struct lorica_registry {
    struct lorica_store *store;
    char *dir;   /**< owned */
    int lock_fd; /**< holds the flock; -1: none */
    uint8_t pepper[LORICA_PEPPER_BYTES];
    /** One publish at a time, since a large one spans several transactions. Promotes, rollbacks and
     * keys do not take it: they never wait for an upload. */
    pthread_mutex_t publishing;
};

static inline struct lorica_slice lorica_slice_key(const struct lorica_record_key *key) {
    return (struct lorica_slice){.data = key->bytes, .len = key->len};
}

static inline struct lorica_slice lorica_slice_record(const struct lorica_record *record) {
    return (struct lorica_slice){.data = record->bytes, .len = record->len};
}

/** Says that a stored thing (named by fmt) cannot be right, and what to do. LORICA_EFORMAT, or
 * `code` where that is LORICA_EUNSUPPORTED. */
int lorica_damaged(struct lorica_error *err, int code, const char *fmt, ...) LORICA_PRINTF(3, 4);

/** Unix time now. */
int64_t lorica_now_ms(void);

/* dir.c: the directory around the store. */

#define LORICA_PATH_MAX 4096
/** "dir/file"; LORICA_ELIMIT when it is too long. */
int lorica_dir_join(char out[LORICA_PATH_MAX], const char *dir, const char *file,
                    struct lorica_error *err) LORICA_MUSTCHECK;

/** Name of a network file system by its statfs magic, or NULL for a local one. */
const char *lorica_dir_remote(uint64_t magic);
/** Makes DIR (its parent must exist) unless `read_only`, refuses network file systems, takes the
 * lock. *ret_fd is to be closed. */
int lorica_dir_lock(const char *dir, bool read_only, int *ret_fd,
                    struct lorica_error *err) LORICA_MUSTCHECK;
/** Reads DIR/pepper; LORICA_ENOTFOUND without a sentence when there is none. */
int lorica_dir_pepper_read(const char *dir, uint8_t ret[LORICA_PEPPER_BYTES],
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Makes DIR/pepper of random bytes, durably. */
int lorica_dir_pepper_create(const char *dir, uint8_t ret[LORICA_PEPPER_BYTES],
                             struct lorica_error *err) LORICA_MUSTCHECK;
/** Writes DIR/pepper, durably. */
int lorica_dir_pepper_write(const char *dir, const uint8_t pepper[LORICA_PEPPER_BYTES],
                            struct lorica_error *err) LORICA_MUSTCHECK;
/** Makes DIR's entries durable. */
int lorica_dir_sync(const char *dir, struct lorica_error *err) LORICA_MUSTCHECK;

/* version.c */

/** Newest version of a name; LORICA_ENOTFOUND without a sentence. */
int lorica_latest_get(struct lorica_txn *txn, const char *name, uint64_t *ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** A version, live or deleted; LORICA_ENOTFOUND without a sentence. */
int lorica_version_get(struct lorica_txn *txn, const char *name, uint64_t number,
                       struct lorica_version *ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** A live version; LORICA_ENOTFOUND says what is unknown, the name or the number, or that it was
 * deleted. */
int lorica_version_find(struct lorica_txn *txn, const char *name, uint64_t number,
                        struct lorica_version *ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** What the record of its publishing says besides: {"trained_on_other_base":true,"base":<digest or
 * null>} of a version of which that was stated; otherwise nothing. */
void lorica_version_detail(const struct lorica_version *version, char out[LORICA_DETAIL_MAX + 1]);
/** Refuses what can be no adapter's name: LORICA_ENOTFOUND, since none has it. */
int lorica_name_check(const char *name, struct lorica_error *err) LORICA_MUSTCHECK;
/** There is an adapter of this name; LORICA_ENOTFOUND says that there is none. */
int lorica_known_name(struct lorica_txn *txn, const char *name,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/* retire.c */

/** The tombstone of a deleted version; LORICA_ENOTFOUND without a sentence. */
int lorica_tombstone_get(struct lorica_txn *txn, const char *name, uint64_t number,
                         struct lorica_tombstone_record *ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;
/** Writes one. */
int lorica_tombstone_put(struct lorica_txn *txn, const char *name, uint64_t number,
                         const struct lorica_tombstone_record *tombstone,
                         struct lorica_error *err) LORICA_MUSTCHECK;
/** An adapter's own setting; LORICA_ENOTFOUND without a sentence when it has none. */
int lorica_retention_get(struct lorica_txn *txn, const char *name,
                         struct lorica_retention_record *ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;
/** Says that a version was deleted, when and by whom; LORICA_ENOTFOUND. */
int lorica_version_gone(struct lorica_error *err, const struct lorica_version *version);

/* audit.c */

/** Refuses an actor that cannot be recorded. */
int lorica_actor_check(const struct lorica_actor *actor, struct lorica_error *err) LORICA_MUSTCHECK;
/** Reads record `seq`. Its absence is damage: callers come with numbers that the store gave. */
int lorica_audit_get(struct lorica_txn *txn, uint64_t seq, struct lorica_audit *ret,
                     struct lorica_error *err) LORICA_MUSTCHECK;
/** Reads the end of the chain; all zero while it is empty. */
int lorica_audit_last(struct lorica_txn *txn, struct lorica_audit *ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Hash of a record that follows `previous`. */
int lorica_audit_hash(const struct lorica_audit *audit, const struct lorica_digest *previous,
                      struct lorica_digest *ret) LORICA_MUSTCHECK;
/** Adds a link. The caller has filled kind, name and what else the kind says; seq, time, actor,
 * message and hash are filled here. */
int lorica_audit_append(struct lorica_txn *txn, const struct lorica_actor *actor,
                        struct lorica_audit *audit, struct lorica_error *err) LORICA_MUSTCHECK;
/** True for promotes and rollbacks: what a channel's stack is made of. */
bool lorica_audit_is_move(enum lorica_audit_kind kind);

/* channel.c */

/** Where a channel stands; all zero when it never moved. */
int lorica_channel_get(struct lorica_txn *txn, const char *name, const char *channel,
                       struct lorica_channel_record *ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Points a channel, standing at `now`, to a version as a promote does, if its policy is met. */
int lorica_channel_promote(struct lorica_txn *txn, const struct lorica_version *version,
                           const char *channel, const struct lorica_channel_record *now,
                           const struct lorica_actor *actor, struct lorica_channel *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** The `before` that a promote to `version` gets when the channel's last move is `last`. */
uint64_t lorica_channel_before(const struct lorica_audit *last, uint64_t version);

/** Refuses what can be no adapter's or channel's name. */
int lorica_channel_check_names(const char *name, const char *channel,
                               struct lorica_error *err) LORICA_MUSTCHECK;

/* policy.c */

/** Judges whether `actor` may point a channel, standing at `now`, to a version: LORICA_EGATE, or
 * LORICA_EPERM where the role does not suffice, with every gate that failed. */
int lorica_policy_judge(struct lorica_txn *txn, const struct lorica_version *version,
                        const char *channel, const struct lorica_channel_record *now,
                        const struct lorica_actor *actor,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** Removes the approvals of a channel that moves. */
int lorica_approvals_void(struct lorica_txn *txn, const char *name, const char *channel,
                          struct lorica_error *err) LORICA_MUSTCHECK;
/** SHA-256 of a policy's record without the audit record's number: the chain holds it. */
int lorica_policy_fingerprint(const struct lorica_policy_record *policy,
                              struct lorica_digest *ret) LORICA_MUSTCHECK;

/* signer.c */

/** A signer's record; LORICA_ENOTFOUND without a sentence. */
int lorica_signer_get(struct lorica_txn *txn, const char *name, struct lorica_signer_record *ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Called for each signer; a non-zero return stops the walk and is returned. */
typedef int (*lorica_signer_record_fn)(void *arg, const char *name,
                                       const struct lorica_digest *key_id,
                                       const struct lorica_signer_record *record);
int lorica_signers_walk(struct lorica_txn *txn, lorica_signer_record_fn fn, void *arg,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** Finds the signer with a key: one that is trusted, or (`removed_too`) one that was, if none is.
 * LORICA_ENOTFOUND without a sentence. */
int lorica_signer_find(struct lorica_txn *txn, const struct lorica_digest *key_id, bool removed_too,
                       char ret_name[LORICA_NAME_MAX + 1], struct lorica_signer_record *ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/* sign.c */

/** What a signature turned out to be. */
struct lorica_signature_facts {
    enum lorica_signature_form form;
    struct lorica_digest key_id;
    bool bound;
};
/** Holds a signature against a version: LORICA_ESIGNATURE with what differs. A bundle's key is
 * looked for among the signers. `stored`: it was added before, when what is asked of a new one may
 * not have been: a key that is trusted still, and the manifest, where there is one, among the files
 * that a bundle signs. */
int lorica_signature_check(struct lorica_txn *txn, const struct lorica_version *version,
                           const char *text, size_t len, bool stored,
                           struct lorica_signature_facts *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Adds a signature to a version, with its audit record. *ret_changed is set to true unless its key
 * has signed the version before. */
int lorica_signature_add(struct lorica_txn *txn, const struct lorica_version *version,
                         const char *text, size_t len, const struct lorica_actor *actor,
                         bool *ret_changed, struct lorica_error *err) LORICA_MUSTCHECK;
/** How many signatures a version has, and how many of those count: bound, by a trusted key. */
int lorica_signatures_count(struct lorica_txn *txn, const struct lorica_version *version,
                            unsigned *ret_all, unsigned *ret_trusted,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/* split.c */

/** The split of a name as it stands; all zero when it never had one. */
int lorica_split_read(struct lorica_txn *txn, const char *name, struct lorica_split_record *ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Ends the split, if there is one, because `stable` of `name` moved to version `target` by a
 * record of `kind`. Called behind that record. */
int lorica_split_moved(struct lorica_txn *txn, const char *name, enum lorica_audit_kind kind,
                       uint64_t target, const struct lorica_actor *actor,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Checks the record of one split against the adapter's history and versions. Each thing that
 * cannot be right is told to `say`; only failures are returned. */
int lorica_split_check(struct lorica_txn *txn, struct lorica_slice key, struct lorica_slice value,
                       void (*say)(void *arg, const char *text), void *arg,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/* key.c */

/** A key; LORICA_ENOTFOUND without a sentence. */
int lorica_key_get(struct lorica_txn *txn, const char *name, struct lorica_key_record *ret,
                   struct lorica_error *err) LORICA_MUSTCHECK;

/** SHA-256 of a key's record as it was made, before any revocation: the chain holds it, so that
 * rights cannot be changed behind it. */
int lorica_key_fingerprint(const struct lorica_key_record *key,
                           struct lorica_digest *ret) LORICA_MUSTCHECK;

/* blob.c */

/** Content in a file that is being published. */
struct lorica_blob_file {
    int fd;
    const char *path; /**< borrowed; for sentences */
    struct lorica_digest digest;
    const struct lorica_seal *seal; /**< of the bytes that have the digest; borrowed; may be NULL */
    uint64_t nbytes;
    bool staged; /**< its pieces are written, in transactions of their own */
};

/** Opens a file; hashes it, unless `known` says its digest (which holds only if it does once the
 * file is stored). LORICA_ELIMIT when it is over LORICA_WEIGHTS_BYTES_MAX. */
int lorica_blob_file_open(const char *path, const struct lorica_digest *known,
                          struct lorica_blob_file *ret, struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_blob_file_close(struct lorica_blob_file *file);

/** Size of complete content; LORICA_ENOTFOUND without a sentence. */
int lorica_blob_size(struct lorica_txn *txn, const struct lorica_digest *digest, uint64_t *ret,
                     struct lorica_error *err) LORICA_MUSTCHECK;
/** Stores memory as content, unless it is there. */
int lorica_blob_put(struct lorica_txn *txn, const void *bytes, size_t len,
                    struct lorica_digest *ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** Writes the pieces of a file that is too large for one transaction, in transactions of its own,
 * marked as staged. Does nothing for a small file or content that is there. `give_way` (NULL: none)
 * is called before each transaction and says whether it is to be small (struct lorica_publish).
 * What a failure leaves behind is swept. The caller holds `publishing`. */
int lorica_blob_stage(struct lorica_registry *registry, struct lorica_blob_file *file,
                      bool (*give_way)(void *arg), void *arg,
                      struct lorica_error *err) LORICA_MUSTCHECK;
/** Takes back what staging wrote, when the publish failed after it. */
void lorica_blob_unstage(struct lorica_registry *registry, const struct lorica_blob_file *file);
/** Completes a file's content: writes its pieces if they were not staged, and its size. */
int lorica_blob_put_file(struct lorica_txn *txn, const struct lorica_blob_file *file,
                         struct lorica_error *err) LORICA_MUSTCHECK;
/** Hands the pieces of content to `fn` in order, in read transactions of bounded length. A wrong
 * size or digest is LORICA_EFORMAT. */
typedef int (*lorica_piece_fn)(void *arg, const void *bytes, size_t len);
int lorica_blob_read(struct lorica_store *store, const struct lorica_digest *digest,
                     uint64_t nbytes, lorica_piece_fn fn, void *arg,
                     struct lorica_error *err) LORICA_MUSTCHECK;
/** Whether all pieces of content of a size are there, each as long as it should be; LORICA_EFORMAT
 * names one that is not. */
int lorica_blob_check_pieces(struct lorica_txn *txn, const struct lorica_digest *digest,
                             uint64_t nbytes, struct lorica_error *err) LORICA_MUSTCHECK;
/** Copies `len` bytes at `offset` out of content of `nbytes`, without comparing its digest. */
int lorica_blob_read_at(struct lorica_txn *txn, const struct lorica_digest *digest, uint64_t nbytes,
                        uint64_t offset, void *out, size_t len,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** Reads content of at most LORICA_TEXT_BYTES_MAX bytes inside a transaction; caller frees *ret,
 * which has a NUL behind it. */
int lorica_blob_load(struct lorica_txn *txn, const struct lorica_digest *digest, uint64_t nbytes,
                     char **ret, struct lorica_error *err) LORICA_MUSTCHECK;
/** Whether the config that a version names is the one whose canonical form its digest is over;
 * LORICA_EFORMAT: in a damaged record it may be another's. */
int lorica_config_check(const struct lorica_version *version, const char *text, size_t len,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** True when content is not there at all. What a read found damaged may have been swept under it.
 */
bool lorica_blob_gone(struct lorica_store *store, const struct lorica_digest *digest);
/** Number of pieces of content of a size. */
uint32_t lorica_blob_chunks(uint64_t nbytes);
/** Removes complete content: its size now; its pieces now if they are few, else its pieces are
 * marked as staged and left to the sweep. *ret_found is false when there was none. */
int lorica_blob_remove(struct lorica_txn *txn, const struct lorica_digest *digest, bool *ret_found,
                       struct lorica_error *err) LORICA_MUSTCHECK;
/** Removes what unfinished publishes left behind, and pieces of removed content. */
int lorica_blob_sweep(struct lorica_store *store, struct lorica_error *err) LORICA_MUSTCHECK;
/** One transaction of that; *ret_more is false when nothing was left to do. The caller holds
 * `publishing`. */
int lorica_blob_sweep_step(struct lorica_store *store, bool *ret_more,
                           struct lorica_error *err) LORICA_MUSTCHECK;

#endif
