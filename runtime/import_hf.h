/* SPDX-License-Identifier: MIT
 * What a Hugging Face directory's config.json says. Private to runtime. */
#ifndef LORICA_RUNTIME_IMPORT_HF_H
#define LORICA_RUNTIME_IMPORT_HF_H

#include <stdbool.h>

#include "proto/json.h"
#include "runtime/base.h"

/** Reads the architecture, as transformers 4 and 5 write it, and whether bitsandbytes has quantised
 * the layers to NF4. Whatever would change the numbers and is not supported is refused by name. */
int lorica_hf_read_config(const struct lorica_json *config, struct lorica_arch *ret,
                          bool *ret_prequantised, struct lorica_error *err) LORICA_MUSTCHECK;

#endif
