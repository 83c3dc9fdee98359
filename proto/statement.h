/* SPDX-License-Identifier: MIT
 * What is signed of an adapter's version: the payload of its envelope. The bytes are exactly
 *
 *   {"type":"lorica.adapter.v1","name":"cardiology","digest":"sha256:...",
 *    "base_digest":"sha256:...","config_digest":"sha256:...","weights_digest":"sha256:...",
 *    "manifest_digest":"sha256:..." or null,"created":1764057317}
 *
 * on one line without blanks or a line feed, members in this order, the name as it is (it needs no
 * escapes), digests as lorica_digest_format writes them, the time in seconds of Unix time. One who
 * verifies writes them from what is there and compares: there is one spelling.
 *
 * digest: the adapter's identity (registry.h). config_digest, weights_digest, manifest_digest: of
 * the bytes of adapter_config.json, adapter_model.safetensors and manifest.json, the last of which
 * holds the trainer's parameters, the digest of its data and its metrics. created: when it was
 * signed, as the signer says. */
#ifndef LORICA_PROTO_STATEMENT_H
#define LORICA_PROTO_STATEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/digest.h"

#define LORICA_STATEMENT_NAME_MAX 128

struct lorica_statement {
    char name[LORICA_STATEMENT_NAME_MAX + 1];
    struct lorica_digest digest, base_digest, config_digest, weights_digest;
    bool has_manifest;
    struct lorica_digest manifest_digest; /**< if has_manifest */
    int64_t created;                      /**< Unix seconds, from 0 to 2^53 */
};

/** Appends the bytes. LORICA_EINVAL for a name that would need escapes or a time out of range. */
int lorica_statement_write(struct lorica_buf *out,
                           const struct lorica_statement *statement) LORICA_MUSTCHECK;

/** Reads them. LORICA_EFORMAT for anything that write does not write. */
int lorica_statement_parse(const char *text, size_t len, struct lorica_statement *ret,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/** The first member in which two statements differ, "created" aside; NULL when there is none.
 * Static storage. */
const char *lorica_statement_differ(const struct lorica_statement *a,
                                    const struct lorica_statement *b);

#endif
