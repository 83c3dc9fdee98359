/* SPDX-License-Identifier: MIT
 * What a word for an adapter means to commands that work on files: a directory as PEFT writes it,
 * or a version of the registry. */
#ifndef LORICA_GATEWAY_CMD_ADAPTER_SOURCE_H
#define LORICA_GATEWAY_CMD_ADAPTER_SOURCE_H

#include <stdbool.h>

#include "gateway/client/client.h"
#include "proto/err.h"

/** An adapter as a directory with adapter_config.json and adapter_model.safetensors, and, where it
 * has one, manifest.json. */
struct lorica_adapter_source {
    char *dir;      /**< owned */
    bool temporary; /**< private: the directory goes with the struct */
};

/** Resolves `word`: a directory of that path; else NAME, NAME@V or NAME:CHANNEL from the registry
 * in the data directory, or, where a server has that open or `where` names a server, from the
 * server; it is then in a temporary directory. On success the caller closes *ret. */
int lorica_adapter_source_open(const char *word, const struct lorica_client_options *where,
                               struct lorica_adapter_source *ret,
                               struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees, and removes a temporary directory. A zeroed struct is accepted. */
void lorica_adapter_source_close(struct lorica_adapter_source *source);

#endif
