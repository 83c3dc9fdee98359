/* SPDX-License-Identifier: MIT
 * A GGUF file from any bytes. All that a parsed file points to is read, so that a sanitizer sees
 * what lies outside. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static volatile uint8_t sink;

static void touch(const void *bytes, uint64_t len) {
    const uint8_t *at = bytes;
    if (len) {
        sink = at[0];
        sink = at[len - 1];
    }
}

static void touch_value(const struct lorica_gguf_value *value) {
    static const uint8_t sizes[LORICA_GGUF_TYPE_COUNT] = {
        [LORICA_GGUF_U8] = 1,  [LORICA_GGUF_I8] = 1,  [LORICA_GGUF_U16] = 2, [LORICA_GGUF_I16] = 2,
        [LORICA_GGUF_U32] = 4, [LORICA_GGUF_I32] = 4, [LORICA_GGUF_F32] = 4, [LORICA_GGUF_BOOL] = 1,
        [LORICA_GGUF_U64] = 8, [LORICA_GGUF_I64] = 8, [LORICA_GGUF_F64] = 8};
    touch(value->key.data, value->key.len);
    if (value->type == LORICA_GGUF_STRING)
        touch(value->string.data, value->string.len);
    if (value->type != LORICA_GGUF_ARRAY)
        return;
    if (value->element_type == LORICA_GGUF_STRING)
        for (uint64_t i = 0; i < value->count; i++)
            touch(value->strings[i].data, value->strings[i].len);
    else
        touch(value->elements, value->count * sizes[value->element_type]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_gguf file;
    if (lorica_gguf_parse(data, len, &file, NULL) != 0)
        return 0;
    for (size_t i = 0; i < file.value_count; i++)
        touch_value(&file.values[i]);
    for (size_t i = 0; i < file.tensor_count; i++) {
        const struct lorica_gguf_tensor *tensor = &file.tensors[i];
        uint64_t elements = 1;
        for (uint32_t d = 0; d < tensor->ndim; d++)
            elements *= tensor->dims[d];
        const uint64_t nbytes = lorica_ggml_nbytes(tensor->type, elements);
        if (nbytes)
            touch(data + tensor->offset, nbytes);
    }
    lorica_gguf_find(&file, "general.architecture");
    lorica_gguf_tensor(&file, "token_embd.weight");
    lorica_gguf_uint(&file, "general.alignment", 32);
    lorica_gguf_float(&file, "llama.rope.freq_base", 1e4);
    lorica_gguf_finish(&file);
    return 0;
}
