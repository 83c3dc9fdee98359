/* SPDX-License-Identifier: MIT
 * A checkpoint of the audit chain from any bytes; one that is taken is written back the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "registry/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_checkpoint first, second;
    struct lorica_error err = {0};
    struct lorica_buf json;
    if (lorica_checkpoint_parse((const char *)data, len, &first, &err) != 0) {
        if (err.text[0] == '\0')
            abort();
        return 0;
    }
    if (first.count > LORICA_CHECKPOINT_TRAIL || first.count != first.seq / first.step)
        abort();
    lorica_buf_init(&json, LORICA_CHECKPOINT_BYTES_MAX);
    lorica_checkpoint_write(&json, &first);
    if (lorica_buf_status(&json) != 0 ||
        lorica_checkpoint_parse(json.data, json.len, &second, &err) != 0 ||
        memcmp(&first, &second, sizeof(first)) != 0)
        abort();
    lorica_buf_finish(&json);
    return 0;
}
