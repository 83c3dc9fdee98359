/* SPDX-License-Identifier: MIT
 * The stored records and their keys as bytes. Every value begins with a format number, integers are
 * big-endian, texts carry their length; decoding checks every bound and refuses bytes left over, so
 * that a damaged record is an error and never a wrong answer. */
#ifndef LORICA_REGISTRY_RECORD_H
#define LORICA_REGISTRY_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "registry/policy.h"
#include "registry/registry.h"
#include "registry/sign.h"
#include "registry/split.h"

/** No record is longer than this. */
#define LORICA_RECORD_MAX 4096
/** No key is longer than this (LMDB's own limit is 511). */
#define LORICA_RECORD_KEY_MAX 384

/** An encoded record or key: a value, no allocation. */
struct lorica_record {
    uint8_t bytes[LORICA_RECORD_MAX];
    size_t len;
};
struct lorica_record_key {
    uint8_t bytes[LORICA_RECORD_KEY_MAX];
    size_t len;
};

/** Where a channel stands. */
struct lorica_channel_record {
    uint64_t version;
    uint64_t epoch;
    uint64_t seq; /**< audit record of its last move */
};

/** A deleted version. */
struct lorica_tombstone_record {
    uint64_t seq;       /**< audit record of its deletion */
    uint64_t swept_seq; /**< audit record of the sweep of its content; 0: not swept */
};

/** How long an adapter's tombstones keep their content. */
struct lorica_retention_record {
    uint32_t days;
    uint64_t seq; /**< audit record of the setting */
};

/** A key as stored: without its text, with what recognises it. */
struct lorica_key_record {
    struct lorica_digest secret; /**< HMAC-SHA-256(pepper, text) */
    struct lorica_key key;
};

/** The split of an adapter as it stands, ended ones (all terms 0) included. */
struct lorica_split_record {
    struct lorica_split_terms terms;
    uint64_t epoch;
    uint64_t seq;   /**< audit record of its last change */
    uint64_t first; /**< audit record since which the canary has a share; 0: it has none */
};

/** A policy as stored: without who set it and when, which its audit record says. */
struct lorica_policy_record {
    struct lorica_policy policy;
    uint64_t seq; /**< audit record of its last change */
};

/** An approval as stored; its key and its audit record say the rest. */
struct lorica_approval_record {
    uint64_t epoch; /**< where the channel stood when it was given */
    uint64_t seq;   /**< its audit record */
};

/** A signer as stored; its name is the key, its id the SHA-256 of its PEM text. */
struct lorica_signer_record {
    char public_pem[LORICA_PUBLIC_PEM_MAX];
    uint64_t seq;         /**< audit record of its adding */
    uint64_t removed_seq; /**< and of its removal; 0: it is trusted */
};

/** A signature as stored. */
struct lorica_signature_record {
    enum lorica_signature_form form;
    bool bound;       /**< it names the adapter: see sign.h */
    uint64_t seq;     /**< its audit record */
    const char *text; /**< as it was given; borrowed from the value */
    size_t text_len;  /**< 1 .. LORICA_SIGNATURE_BYTES_MAX */
};

/* Encoding: the caller guarantees the limits of registry.h (texts within their arrays); LORICA_EBUG
 * if not. Decoding: LORICA_EFORMAT for anything that encoding does not write, LORICA_EUNSUPPORTED
 * for a format number above the known one; *ret is then undefined. */

/** One counter: newest version of an adapter, version of an identity, bytes of a blob, ... */
int lorica_record_encode_number(uint64_t number, struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_number(const void *bytes, size_t len, uint64_t *ret) LORICA_MUSTCHECK;

/** One text of at most LORICA_NAME_MAX bytes. */
int lorica_record_encode_name(const char *name, struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_name(const void *bytes, size_t len,
                              char ret[LORICA_NAME_MAX + 1]) LORICA_MUSTCHECK;

/** A version without what its key and its audit record say: name, version, created_ms, created_by
 * and message are neither written nor read (decoding clears them). */
int lorica_record_encode_version(const struct lorica_version *version,
                                 struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_version(const void *bytes, size_t len,
                                 struct lorica_version *ret) LORICA_MUSTCHECK;

int lorica_record_encode_channel(const struct lorica_channel_record *channel,
                                 struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_channel(const void *bytes, size_t len,
                                 struct lorica_channel_record *ret) LORICA_MUSTCHECK;

int lorica_record_encode_tombstone(const struct lorica_tombstone_record *tombstone,
                                   struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_tombstone(const void *bytes, size_t len,
                                   struct lorica_tombstone_record *ret) LORICA_MUSTCHECK;
int lorica_record_encode_retention(const struct lorica_retention_record *retention,
                                   struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_retention(const void *bytes, size_t len,
                                   struct lorica_retention_record *ret) LORICA_MUSTCHECK;

/** The canonical audit record that is hashed (registry.h describes it), without its hash. */
int lorica_record_encode_audit(const struct lorica_audit *audit,
                               struct lorica_record *ret) LORICA_MUSTCHECK;
/** The stored form: canonical record and 32 bytes of hash behind it. */
int lorica_record_decode_audit(const void *bytes, size_t len,
                               struct lorica_audit *ret) LORICA_MUSTCHECK;

int lorica_record_encode_key(const struct lorica_key_record *key,
                             struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_key(const void *bytes, size_t len,
                             struct lorica_key_record *ret) LORICA_MUSTCHECK;

int lorica_record_encode_split(const struct lorica_split_record *split,
                               struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_split(const void *bytes, size_t len,
                               struct lorica_split_record *ret) LORICA_MUSTCHECK;

/** A policy is written in the oldest format that can say it, so that the fingerprint of one that
 * was set by an older lorica stays what the chain says: 1 without, 2 with the demand of a
 * signature. */
int lorica_record_encode_policy(const struct lorica_policy_record *policy,
                                struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_policy(const void *bytes, size_t len,
                                struct lorica_policy_record *ret) LORICA_MUSTCHECK;

int lorica_record_encode_approval(const struct lorica_approval_record *approval,
                                  struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_approval(const void *bytes, size_t len,
                                  struct lorica_approval_record *ret) LORICA_MUSTCHECK;

int lorica_record_encode_signer(const struct lorica_signer_record *signer,
                                struct lorica_record *ret) LORICA_MUSTCHECK;
int lorica_record_decode_signer(const void *bytes, size_t len,
                                struct lorica_signer_record *ret) LORICA_MUSTCHECK;

/** What stands before the text; the caller puts that behind it. */
int lorica_record_encode_signature(const struct lorica_signature_record *signature,
                                   struct lorica_record *ret) LORICA_MUSTCHECK;
/** The whole; ret->text points into `bytes`. */
int lorica_record_decode_signature(const void *bytes, size_t len,
                                   struct lorica_signature_record *ret) LORICA_MUSTCHECK;

/* Keys. A part that others follow ends with NUL, which no name holds; numbers are big-endian, so
 * that the store's order is the order of names and numbers. */

/** The bytes of one name alone. */
void lorica_record_key_name(const char *name, struct lorica_record_key *ret);
/** name NUL number: versions, tombstones and audit records of an adapter. */
void lorica_record_key_numbered(const char *name, uint64_t number, struct lorica_record_key *ret);
/** name NUL channel. */
void lorica_record_key_channel(const char *name, const char *channel,
                               struct lorica_record_key *ret);
/** name NUL channel NUL number key_name: an approval. Cut off behind the second NUL or the number
 * it begins those of a channel (key_name NULL, number 0) or of a version (key_name NULL). */
void lorica_record_key_approval(const char *name, const char *channel, uint64_t number,
                                const char *key_name, struct lorica_record_key *ret);
/** Takes the key of an approval, or of a channel's record (`ret_number` and `key_name` NULL),
 * apart; false for a malformed one. */
bool lorica_record_key_split(const void *bytes, size_t len, char name[LORICA_NAME_MAX + 1],
                             char channel[LORICA_CHANNEL_MAX + 1], uint64_t *ret_number,
                             char key_name[LORICA_NAME_MAX + 1]);
/** name NUL number key-id: a signature. Without the id (NULL) it begins those of a version. */
void lorica_record_key_signature(const char *name, uint64_t number,
                                 const struct lorica_digest *key_id, struct lorica_record_key *ret);
/** Takes the key of a signature apart; false for a malformed one. */
bool lorica_record_key_split_signature(const void *bytes, size_t len,
                                       char name[LORICA_NAME_MAX + 1], uint64_t *ret_number,
                                       struct lorica_digest *ret_key_id);
/** name NUL digest base: the version that holds this content for this base. */
void lorica_record_key_identity(const char *name, const struct lorica_digest *digest,
                                const struct lorica_digest *base, struct lorica_record_key *ret);
/** number alone: an audit record. */
void lorica_record_key_number(uint64_t number, struct lorica_record_key *ret);
/** digest alone: a blob, a secret. */
void lorica_record_key_digest(const struct lorica_digest *digest, struct lorica_record_key *ret);
/** digest and u32 chunk number: a piece of a blob. */
void lorica_record_key_chunk(const struct lorica_digest *digest, uint32_t chunk,
                             struct lorica_record_key *ret);

/** Reads the number at the end of a numbered key that belongs to `name`; false for another name's
 * key, or a malformed one. */
bool lorica_record_key_of(const void *bytes, size_t len, const char *name, uint64_t *ret);
/** Takes any numbered key apart; false for a malformed one. */
bool lorica_record_key_split_numbered(const void *bytes, size_t len,
                                      char ret_name[LORICA_NAME_MAX + 1], uint64_t *ret);

#endif
