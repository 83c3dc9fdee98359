/* SPDX-License-Identifier: MIT
 * Checkpoints of the audit chain: a few kilobytes that are kept elsewhere, and against which the
 * chain is held later. Whoever can write the registry's files can make a chain anew that is sound
 * in itself; it does not then contain a checkpoint that was taken before. So a checkpoint proves
 * what it was kept apart from the registry for, and nothing when it lies beside it.
 *
 *   {"object":"audit.checkpoint","format":1,"registry":<hash of record 1>,"seq","hash","time",
 *    "trail":{"step":8,"hashes":[...]}}
 *
 * `hash` is that of record `seq`, the last one when the checkpoint was taken, at the Unix time
 * `time` in seconds. The trail has the hashes of records step, 2 step, 3 step, ... up to seq, at
 * most LORICA_CHECKPOINT_TRAIL of them: with it the place where a history was rewritten is told, to
 * within `step` records. Digests are "sha256:<64 hex digits>". An empty chain has seq 0.
 *
 * A server signs what it gives, with the key of its receipts: that JSON is then the payload of an
 * envelope (proto/envelope.h). The signature tells that nobody altered the checkpoint where it was
 * kept, to one who knows the server's public key from elsewhere. */
#ifndef LORICA_REGISTRY_CHECKPOINT_H
#define LORICA_REGISTRY_CHECKPOINT_H

#include "registry/registry.h"
#include "registry/signkey.h"

#define LORICA_CHECKPOINT_TRAIL 128
/** No checkpoint is longer. */
#define LORICA_CHECKPOINT_BYTES_MAX ((size_t)64 << 10)

struct lorica_checkpoint {
    struct lorica_digest id; /**< of the registry; zero for an empty chain */
    uint64_t seq;
    struct lorica_digest hash;
    int64_t time_ms; /**< when it was taken */
    uint64_t step;   /**< a power of two */
    size_t count;    /**< of trail: seq / step */
    struct lorica_digest trail[LORICA_CHECKPOINT_TRAIL];
};

/** Takes one of the chain as it stands. */
int lorica_checkpoint_take(struct lorica_registry *registry, struct lorica_checkpoint *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Writes the JSON. The buffer's status tells whether it fitted. */
void lorica_checkpoint_write(struct lorica_buf *out, const struct lorica_checkpoint *checkpoint);
/** Reads it. LORICA_EFORMAT says what is wrong, LORICA_EUNSUPPORTED for a newer format. */
int lorica_checkpoint_parse(const char *text, size_t len, struct lorica_checkpoint *ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Writes it as the payload of an envelope that `key` signs. */
int lorica_checkpoint_sign(struct lorica_buf *out, const struct lorica_checkpoint *checkpoint,
                           const struct lorica_signkey *key,
                           struct lorica_error *err) LORICA_MUSTCHECK;
/** Reads one that is plain, or in an envelope: then its signature must be that of `key`, or, where
 * that is NULL, of the key that the envelope carries. LORICA_ESIGNATURE when it is not, or when
 * `key` is given and nothing is signed. *ret_signer is the key's id; zero when nothing is signed.
 */
int lorica_checkpoint_open(const char *text, size_t len, const struct lorica_signkey *key,
                           struct lorica_checkpoint *ret, struct lorica_digest *ret_signer,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** Holds the chain of a registry against a checkpoint: one line in `report` for what differs, with
 * the first record that does as far as it can be told; adds to *findings. That the chain is sound
 * in itself is for lorica_registry_verify. */
int lorica_checkpoint_check(struct lorica_registry *registry,
                            const struct lorica_checkpoint *checkpoint, struct lorica_buf *report,
                            uint64_t *findings, struct lorica_error *err) LORICA_MUSTCHECK;
/** The same with the chain in a backup (a directory, or one snapshot in it), which is walked: that
 * each record follows from the one before is checked too. `checkpoint` may be NULL. */
int lorica_checkpoint_check_backup(const char *from, const struct lorica_checkpoint *checkpoint,
                                   struct lorica_buf *report, uint64_t *findings,
                                   struct lorica_error *err) LORICA_MUSTCHECK;

#endif
