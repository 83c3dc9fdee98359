/* SPDX-License-Identifier: MIT
 * Signatures of versions, and the keys that are trusted to make them.
 *
 * A SIGNATURE is the text that a publisher gives with a version, kept as it came. It has one of two
 * forms: a STATEMENT, an envelope (proto/envelope.h) signed with Ed25519 whose payload is the
 * version's statement (proto/statement.h) and that carries its public key; or a BUNDLE, an OpenSSF
 * Model Signing bundle (proto/model_signing.h) over a directory that holds the version's files,
 * which only names its key, so that the key must be trusted when it comes. Neither is stored unless
 * it holds. A version has at most one signature of each key, and a later publish of the same
 * content may add one.
 *
 * A statement is bound to the adapter's name and base; a bundle is bound to the name where its
 * subject is called so, else to none: it then counts for no policy, since it could be moved to
 * another adapter.
 *
 * A SIGNER is a public key that admins trust, under a name that is used once, like that of an API
 * key. Removing one changes no signature and no channel; from then on it counts for no promote. */
#ifndef LORICA_REGISTRY_SIGN_H
#define LORICA_REGISTRY_SIGN_H

#include "registry/registry.h"
#include "registry/signkey.h"

/** Longest signature. */
#define LORICA_SIGNATURE_BYTES_MAX LORICA_ENVELOPE_MAX
/** Signatures of one version. */
#define LORICA_SIGNATURES_MAX 16
/** Signers, removed ones included. */
#define LORICA_SIGNERS_MAX 1024

struct lorica_signer {
    char name[LORICA_NAME_MAX + 1];
    struct lorica_digest key_id;
    const char *algorithm; /**< static */
    char public_pem[LORICA_PUBLIC_PEM_MAX];
    int64_t added_ms;
    char added_by[LORICA_NAME_MAX + 1];
    int64_t removed_ms; /**< 0: it is trusted */
    char removed_by[LORICA_NAME_MAX + 1];
};
typedef int (*lorica_signer_fn)(void *arg, const struct lorica_signer *signer);

/** Trusts a public key (PEM) under a name. LORICA_ECONFLICT when the name was used before or the
 * key is trusted already. */
int lorica_registry_signer_add(struct lorica_registry *registry, const char *name, const char *pem,
                               size_t pem_len, const struct lorica_actor *actor,
                               struct lorica_signer *ret,
                               struct lorica_error *err) LORICA_MUSTCHECK;
/** Trusts it no longer. Done twice it changes nothing. */
int lorica_registry_signer_remove(struct lorica_registry *registry, const char *name,
                                  const struct lorica_actor *actor, struct lorica_signer *ret,
                                  struct lorica_error *err) LORICA_MUSTCHECK;
/** All signers, removed ones included, in order of their names; `fn` runs in a read transaction. */
int lorica_registry_signers(struct lorica_registry *registry, lorica_signer_fn fn, void *arg,
                            struct lorica_error *err) LORICA_MUSTCHECK;

enum lorica_signature_form {
    LORICA_SIGNATURE_STATEMENT, /* numbers are on disk: add only before COUNT */
    LORICA_SIGNATURE_BUNDLE,
    LORICA_SIGNATURE_COUNT
};
/** "statement" or "bundle". */
const char *lorica_signature_form_name(enum lorica_signature_form form);

struct lorica_signature {
    struct lorica_digest key_id;
    enum lorica_signature_form form;
    bool bound;                       /**< it names this adapter */
    char signer[LORICA_NAME_MAX + 1]; /**< who is trusted with this key now; "": nobody */
    int64_t added_ms;
    char added_by[LORICA_NAME_MAX + 1];
    const char *text; /**< JSON as it was given; borrowed during the call */
    size_t text_len;
};
typedef int (*lorica_signature_fn)(void *arg, const struct lorica_signature *signature);

/** The signatures of a version, in order of their keys' ids; `fn` runs in a read transaction. */
int lorica_registry_signatures(struct lorica_registry *registry, const char *name, uint64_t version,
                               lorica_signature_fn fn, void *arg,
                               struct lorica_error *err) LORICA_MUSTCHECK;

/** Identity of content (lorica_version.digest): for one who makes a statement. */
int lorica_version_digest(const struct lorica_digest *canonical,
                          const struct lorica_digest *weights,
                          struct lorica_digest *ret) LORICA_MUSTCHECK;

#endif
