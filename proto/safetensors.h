/* SPDX-License-Identifier: MIT
 * The safetensors format: 8-byte little-endian header length, a JSON header, tensor bytes. */
#ifndef LORICA_PROTO_SAFETENSORS_H
#define LORICA_PROTO_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/err.h"

enum lorica_dtype {
    LORICA_DTYPE_F32,
    LORICA_DTYPE_F16,
    LORICA_DTYPE_BF16,
    LORICA_DTYPE_F64,
    LORICA_DTYPE_I8,
    LORICA_DTYPE_U8,
    LORICA_DTYPE_I16,
    LORICA_DTYPE_I32,
    LORICA_DTYPE_I64,
    LORICA_DTYPE_BOOL,
    LORICA_DTYPE_COUNT
};

/** Bytes of one element. */
size_t lorica_dtype_size(enum lorica_dtype dtype);
/** The name that safetensors uses: "F32", "BF16", ... */
const char *lorica_dtype_name(enum lorica_dtype dtype);

#define LORICA_TENSOR_MAX_DIMS 8

/** One tensor of a file. */
struct lorica_tensor {
    const char *name; /**< borrowed from the parsed file */
    enum lorica_dtype dtype;
    uint32_t ndim;
    uint64_t shape[LORICA_TENSOR_MAX_DIMS];
    uint64_t offset; /**< of its first byte, from the beginning of the FILE */
    uint64_t nbytes;
};

/** The largest header that is read. Reference implementations allow 100 MB; no adapter or shard
 * comes near this. */
#define LORICA_SAFETENSORS_MAX_HEADER (16u << 20)

/** A parsed header. `metadata` pairs are in file order: key, value, key, value. */
struct lorica_safetensors {
    struct lorica_tensor *tensors; /**< sorted by offset; owned */
    size_t count;
    char **metadata; /**< owned; 2 * metadata_count strings */
    size_t metadata_count;
    uint64_t file_size; /**< as given */
    void *owned;        /**< private */
};

/** Length of the whole header (8 + JSON) that the first 8 bytes of a file announce, to know how
 * much to read before parse. LORICA_EFORMAT when it exceeds the limit or `file_size`. */
int lorica_safetensors_header_size(const uint8_t first[8], uint64_t file_size, uint64_t *ret,
                                   struct lorica_error *err) LORICA_MUSTCHECK;

/** Parses a header. `bytes`/`len` hold at least the whole header; `file_size` is that of the whole
 * file. Everything is checked: known dtypes, shapes without overflow, sizes that agree, ranges that
 * tile the data without hole or overlap and end at the end of the file, no duplicate name.
 * On success the caller owns *ret; finish it. */
int lorica_safetensors_parse(const void *bytes, size_t len, uint64_t file_size,
                             struct lorica_safetensors *ret,
                             struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees. A zeroed struct is accepted. */
void lorica_safetensors_finish(struct lorica_safetensors *file);

/** Tensor by name, or NULL. */
const struct lorica_tensor *lorica_safetensors_find(const struct lorica_safetensors *file,
                                                    const char *name);

/** Metadata value by key, or NULL. */
const char *lorica_safetensors_metadata(const struct lorica_safetensors *file, const char *key);

/** Writes the header for `count` tensors whose data will follow in this order, packed. Reads name,
 * dtype, ndim and shape; fills in offset and nbytes (file offsets). `metadata`: `metadata_count`
 * key/value pairs, may be NULL. The header is padded with spaces to a multiple of 8. */
int lorica_safetensors_write_header(struct lorica_buf *out, struct lorica_tensor *tensors,
                                    size_t count, const char *const *metadata,
                                    size_t metadata_count) LORICA_MUSTCHECK;

#endif
