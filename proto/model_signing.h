/* SPDX-License-Identifier: MIT
 * OpenSSF Model Signing v1.0 (github.com/ossf/model-signing-spec, spec/v1.0.md), the key method: a
 * Sigstore bundle
 *
 *   {"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",
 *    "verificationMaterial":{"publicKey":{"hint":KEY ID},"tlogEntries":[]},
 *    "dsseEnvelope":ENVELOPE}
 *
 * whose envelope (envelope.h) holds an in-toto Statement v1 with the predicate type
 * https://model_signing/signature/v1.0: the list of a model's files with their SHA-256, sorted, and
 * a root digest over them. Read with every doubt against it: what is unsorted, doubled, points out
 * of the directory or is not known is refused. Not taken: certificates and keyless signatures, the
 * "shards" method, other hashes than SHA-256, and the predicate of before v1.0. */
#ifndef LORICA_PROTO_MODEL_SIGNING_H
#define LORICA_PROTO_MODEL_SIGNING_H

#include "proto/digest.h"
#include "proto/envelope.h"

/** Longest text of a bundle. */
#define LORICA_BUNDLE_MAX ((size_t)4 << 20)
/** Files of one model. */
#define LORICA_MODEL_FILES_MAX 10000
/** Longest name of one. */
#define LORICA_MODEL_NAME_MAX 1024

struct lorica_bundle {
    struct lorica_envelope envelope;
    char *hint; /**< id of the key, or NULL: bundles of before v1.1 do not name it so */
};

/** Reads the outer part. Nothing in it is to be believed until the envelope's signature was
 * verified. LORICA_EFORMAT, or LORICA_EUNSUPPORTED for another signing method. */
int lorica_bundle_parse(const char *text, size_t len, struct lorica_bundle *ret,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_bundle_finish(struct lorica_bundle *bundle);
/** Writes a bundle; its hint is the envelope's keyid, which the envelope itself does not carry
 * then. */
int lorica_bundle_write(struct lorica_buf *out, const struct lorica_envelope *envelope);

/** One file: its path within the model, '/' between the parts. */
struct lorica_model_file {
    char *name;
    struct lorica_digest digest;
};

/** What a statement says. All owned; lorica_model_manifest_finish frees. */
struct lorica_model_manifest {
    char *subject; /**< the model's name, usually that of its directory */
    struct lorica_model_file *files;
    size_t file_count;
    char **ignored; /**< paths that were left out, files or whole directories */
    size_t ignored_count;
    bool symlinks; /**< symbolic links were followed */
};

/** Reads the payload of a bundle's envelope. `hasher` must be SHA-256: the root digest is compared.
 * LORICA_EFORMAT with what is wrong and where, LORICA_EUNSUPPORTED for methods not taken. */
int lorica_model_manifest_parse(const void *payload, size_t len, const struct lorica_hasher *hasher,
                                struct lorica_model_manifest *ret,
                                struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_model_manifest_finish(struct lorica_model_manifest *manifest);
/** Appends the payload. The files must be sorted as lorica_model_files_sort does. */
int lorica_model_manifest_write(struct lorica_buf *out,
                                const struct lorica_model_manifest *manifest,
                                const struct lorica_hasher *hasher) LORICA_MUSTCHECK;

/** Sorts by name, in the order of Unicode code points. */
void lorica_model_files_sort(struct lorica_model_file *files, size_t count);
/** The file of a name in a sorted or unsorted list, or NULL. */
const struct lorica_model_file *lorica_model_file_find(const struct lorica_model_file *files,
                                                       size_t count, const char *name);
/** True for what a name may be: relative, no empty part, no "." or "..". */
bool lorica_model_name_valid(const char *name);

#endif
