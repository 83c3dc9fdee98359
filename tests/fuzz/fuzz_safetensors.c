/* SPDX-License-Identifier: MIT
 * A safetensors file from any bytes. What parses must tile the data to the end of the file. */
#include <stdint.h>
#include <stdlib.h>

#include "proto/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_safetensors file;
    uint64_t header = 0;
    if (len < 8 || lorica_safetensors_header_size(data, len, &header, NULL) != 0)
        return 0;
    if (header > len)
        abort();
    if (lorica_safetensors_parse(data, len, len, &file, NULL) != 0)
        return 0;
    uint64_t at = header;
    for (size_t i = 0; i < file.count; i++) {
        if (file.tensors[i].offset != at || file.tensors[i].nbytes > len - at)
            abort();
        at += file.tensors[i].nbytes;
        if (!lorica_safetensors_find(&file, file.tensors[i].name))
            abort();
    }
    if (at != len)
        abort();
    lorica_safetensors_finish(&file);
    return 0;
}
