/* SPDX-License-Identifier: MIT
 * The GGUF format, versions 2 and 3, little-endian: metadata and tensor table. */
#ifndef LORICA_PROTO_GGUF_H
#define LORICA_PROTO_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

enum lorica_gguf_type {
    LORICA_GGUF_U8,
    LORICA_GGUF_I8,
    LORICA_GGUF_U16,
    LORICA_GGUF_I16,
    LORICA_GGUF_U32,
    LORICA_GGUF_I32,
    LORICA_GGUF_F32,
    LORICA_GGUF_BOOL,
    LORICA_GGUF_STRING,
    LORICA_GGUF_ARRAY,
    LORICA_GGUF_U64,
    LORICA_GGUF_I64,
    LORICA_GGUF_F64,
    LORICA_GGUF_TYPE_COUNT
};

/** A string inside the file: not terminated, borrowed from the mapped bytes. */
struct lorica_gguf_string {
    const char *data;
    uint64_t len;
};

/** One metadata pair. Scalars are in `u`, `i` or `f` by kind (unsigned and bool, signed, float). */
struct lorica_gguf_value {
    struct lorica_gguf_string key;
    enum lorica_gguf_type type;
    union {
        uint64_t u;
        int64_t i;
        double f;
    };
    struct lorica_gguf_string string;   /**< type STRING */
    enum lorica_gguf_type element_type; /**< type ARRAY: never ARRAY itself (refused) */
    uint64_t count;                     /**< type ARRAY */
    const uint8_t *elements;            /**< type ARRAY, packed scalars: borrowed, unaligned */
    struct lorica_gguf_string *strings; /**< type ARRAY of STRING: owned by the file */
};

/** One tensor: dims[0] is the fastest (inputs k), dims[1] the rows. */
struct lorica_gguf_tensor {
    struct lorica_gguf_string name;
    uint32_t type; /**< ggml's number, checked against nothing here; see gguf_type_name */
    uint32_t ndim;
    uint64_t dims[4];
    uint64_t offset; /**< from the beginning of the FILE */
};

/** A parsed file. Borrows the bytes given to parse. */
struct lorica_gguf {
    struct lorica_gguf_value *values; /**< owned */
    size_t value_count;
    struct lorica_gguf_tensor *tensors; /**< owned */
    size_t tensor_count;
    uint64_t data_offset;
    uint64_t file_size;
};

/** ggml's numbers of the tensor types that lorica reads. */
enum lorica_ggml_type {
    LORICA_GGML_F32 = 0,
    LORICA_GGML_F16 = 1,
    LORICA_GGML_Q4_0 = 2,
    LORICA_GGML_Q4_1 = 3,
    LORICA_GGML_Q8_0 = 8,
    LORICA_GGML_BF16 = 30,
};

/** ggml's name of a tensor type ("Q4_K", ...), "of an unknown number" for one that is not known. */
const char *lorica_ggml_type_name(uint32_t type);

/** Bytes that `elements` values of a readable type occupy; 0 when the type is not one of enum
 * lorica_ggml_type or `elements` is no whole number of its blocks, or on overflow. */
uint64_t lorica_ggml_nbytes(uint32_t type, uint64_t elements);

/** Parses the whole file's bytes. Everything counted or sized is checked against `len`: strings,
 * arrays, offsets (aligned, inside), dims without overflow, no duplicate key or tensor name. The
 * byte range of a tensor is checked when its type is readable. On success the caller owns *ret. */
int lorica_gguf_parse(const void *bytes, size_t len, struct lorica_gguf *ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees. A zeroed struct is accepted. */
void lorica_gguf_finish(struct lorica_gguf *file);

/** Value by key, or NULL. */
const struct lorica_gguf_value *lorica_gguf_find(const struct lorica_gguf *file, const char *key);

/** Tensor by name, or NULL. */
const struct lorica_gguf_tensor *lorica_gguf_tensor(const struct lorica_gguf *file,
                                                    const char *name);

/** Integer or float scalars by key, whatever their width; `fallback` when absent or other kind. */
uint64_t lorica_gguf_uint(const struct lorica_gguf *file, const char *key, uint64_t fallback);
double lorica_gguf_float(const struct lorica_gguf *file, const char *key, double fallback);

#endif
