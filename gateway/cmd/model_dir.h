/* SPDX-License-Identifier: MIT
 * The files of a model's directory with their digests, as OpenSSF Model Signing lists them, and
 * keys and signatures in files. */
#ifndef LORICA_GATEWAY_CMD_MODEL_DIR_H
#define LORICA_GATEWAY_CMD_MODEL_DIR_H

#include "proto/model_signing.h"
#include "registry/signkey.h"

/** The name of a bundle beside the files that it signs. */
#define LORICA_MODEL_SIG "model.sig"

/** The paths that no signature covers: git's own. NULL-terminated. */
extern const char *const lorica_model_ignored[];

/** Lists and hashes the regular files below DIR into ret->files, sorted. Left out are
 * lorica_model_ignored, `ignored` (ignored_count paths, with all below them) and the file `skip`
 * (device and inode; NULL: none). LORICA_EINVAL for a symbolic link or anything else that is no
 * file, LORICA_ELIMIT for too many. Only the files of *ret are filled. */
struct stat;
int lorica_model_dir_read(const char *dir, char *const *ignored, size_t ignored_count,
                          const struct stat *skip, struct lorica_model_manifest *ret,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** The SHA-256 of a file. */
int lorica_file_digest(const char *path, struct lorica_digest *ret,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Signs the files of DIR and writes DIR/model.sig, which must not be there. */
int lorica_model_dir_sign(const char *dir, const struct lorica_signkey *key,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads a private, or a public, key from a PEM file. Caller destroys *ret. */
int lorica_key_file_private(const char *path, struct lorica_signkey **ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_key_file_public(const char *path, struct lorica_signkey **ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** Signs the statement of an adapter's directory (proto/statement.h) as a version of `name` for a
 * base; the envelope's text is appended to `out`. LORICA_EINVAL for a key that is not Ed25519. */
int lorica_adapter_sign(const char *dir, const char *name, const struct lorica_digest *base,
                        const struct lorica_signkey *key, struct lorica_buf *out,
                        struct lorica_error *err) LORICA_MUSTCHECK;
/** The base digest that DIR/adapter_config.json carries; LORICA_ENOTFOUND when it carries none. */
int lorica_adapter_base(const char *dir, struct lorica_digest *ret,
                        struct lorica_error *err) LORICA_MUSTCHECK;

#endif
