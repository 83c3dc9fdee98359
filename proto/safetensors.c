/* SPDX-License-Identifier: MIT */
#include "proto/safetensors.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

/* Most entries of a header: bounds the work, far above any adapter or shard. */
#define MAX_TENSORS 200000

static const struct {
    const char *name;
    size_t size;
} dtypes[LORICA_DTYPE_COUNT] = {
    [LORICA_DTYPE_F32] = {"F32", 4},   [LORICA_DTYPE_F16] = {"F16", 2},
    [LORICA_DTYPE_BF16] = {"BF16", 2}, [LORICA_DTYPE_F64] = {"F64", 8},
    [LORICA_DTYPE_I8] = {"I8", 1},     [LORICA_DTYPE_U8] = {"U8", 1},
    [LORICA_DTYPE_I16] = {"I16", 2},   [LORICA_DTYPE_I32] = {"I32", 4},
    [LORICA_DTYPE_I64] = {"I64", 8},   [LORICA_DTYPE_BOOL] = {"BOOL", 1},
};

size_t lorica_dtype_size(enum lorica_dtype dtype) { return dtypes[dtype].size; }
const char *lorica_dtype_name(enum lorica_dtype dtype) { return dtypes[dtype].name; }

static uint64_t read_u64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

int lorica_safetensors_header_size(const uint8_t first[8], uint64_t file_size, uint64_t *ret,
                                   struct lorica_error *err) {
    const uint64_t json = read_u64(first);
    if (file_size < 8 || json < 2 || json > file_size - 8)
        return lorica_fail(err, LORICA_EFORMAT,
                           "safetensors: the file of %llu bytes announces a header of %llu",
                           (unsigned long long)file_size, (unsigned long long)json);
    if (json > LORICA_SAFETENSORS_MAX_HEADER)
        return lorica_fail(err, LORICA_EFORMAT, "safetensors: a header of %llu bytes is over %u",
                           (unsigned long long)json, LORICA_SAFETENSORS_MAX_HEADER);
    *ret = json + 8;
    return 0;
}

static int parse_dtype(const struct lorica_json *value, struct lorica_tensor *tensor,
                       struct lorica_error *err) {
    const char *name = lorica_json_string(value);
    for (int i = 0; name && i < LORICA_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            tensor->dtype = (enum lorica_dtype)i;
            return 0;
        }
    }
    return lorica_fail(err, LORICA_EUNSUPPORTED, "safetensors: tensor %.200s has dtype %.20s",
                       tensor->name, name ? name : "(none)");
}

static int parse_shape(const struct lorica_json *value, struct lorica_tensor *tensor,
                       struct lorica_error *err) {
    const size_t ndim = lorica_json_count(value);
    if (lorica_json_type(value) != LORICA_JSON_ARRAY || ndim > LORICA_TENSOR_MAX_DIMS)
        return lorica_fail(err, LORICA_EFORMAT,
                           "safetensors: tensor %.200s has no shape of at most %d dimensions",
                           tensor->name, LORICA_TENSOR_MAX_DIMS);
    tensor->ndim = (uint32_t)ndim;
    tensor->nbytes = lorica_dtype_size(tensor->dtype);
    uint32_t i = 0;
    for (const struct lorica_json *c = lorica_json_first(value); c; c = lorica_json_next(c)) {
        int64_t dim;
        if (lorica_json_integer(c, 0, INT64_C(1) << 48, &dim) != 0 ||
            __builtin_mul_overflow(tensor->nbytes, (uint64_t)dim, &tensor->nbytes))
            return lorica_fail(err, LORICA_EFORMAT, "safetensors: tensor %.200s: bad shape",
                               tensor->name);
        tensor->shape[i++] = (uint64_t)dim;
    }
    return 0;
}

static int parse_offsets(const struct lorica_json *value, uint64_t data, uint64_t file_size,
                         struct lorica_tensor *tensor, struct lorica_error *err) {
    const struct lorica_json *first = lorica_json_first(value);
    const struct lorica_json *second = first ? lorica_json_next(first) : NULL;
    int64_t begin, end;
    const int64_t max = (int64_t)(file_size - data);
    if (lorica_json_type(value) != LORICA_JSON_ARRAY || lorica_json_count(value) != 2 ||
        lorica_json_integer(first, 0, max, &begin) != 0 ||
        lorica_json_integer(second, begin, max, &end) != 0)
        return lorica_fail(err, LORICA_EFORMAT,
                           "safetensors: tensor %.200s: data_offsets outside the file",
                           tensor->name);
    if ((uint64_t)(end - begin) != tensor->nbytes)
        return lorica_fail(
            err, LORICA_EFORMAT, "safetensors: tensor %.200s: %lld bytes, but its shape needs %llu",
            tensor->name, (long long)(end - begin), (unsigned long long)tensor->nbytes);
    tensor->offset = data + (uint64_t)begin;
    return 0;
}

static int parse_tensor(const struct lorica_json *entry, uint64_t data, uint64_t file_size,
                        struct lorica_tensor *tensor, struct lorica_error *err) {
    tensor->name = lorica_json_key(entry);
    if (lorica_json_type(entry) != LORICA_JSON_OBJECT || lorica_json_count(entry) != 3)
        return lorica_fail(err, LORICA_EFORMAT,
                           "safetensors: tensor %.200s: dtype, shape and data_offsets expected",
                           tensor->name);
    int rc = parse_dtype(lorica_json_get(entry, "dtype"), tensor, err);
    if (!rc)
        rc = parse_shape(lorica_json_get(entry, "shape"), tensor, err);
    if (!rc)
        rc = parse_offsets(lorica_json_get(entry, "data_offsets"), data, file_size, tensor, err);
    return rc;
}

static int parse_metadata(const struct lorica_json *entry, struct lorica_safetensors *file,
                          struct lorica_error *err) {
    if (lorica_json_type(entry) != LORICA_JSON_OBJECT)
        return lorica_fail(err, LORICA_EFORMAT, "safetensors: __metadata__ is no object");
    file->metadata = calloc(2 * lorica_json_count(entry) + 1, sizeof(*file->metadata));
    if (!file->metadata)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for safetensors metadata");
    for (const struct lorica_json *c = lorica_json_first(entry); c; c = lorica_json_next(c)) {
        if (!lorica_json_string(c))
            return lorica_fail(err, LORICA_EFORMAT, "safetensors: __metadata__ holds no text");
        file->metadata[2 * file->metadata_count] = (char *)lorica_json_key(c);
        file->metadata[2 * file->metadata_count + 1] = (char *)lorica_json_string(c);
        file->metadata_count++;
    }
    return 0;
}

/* By offset; an empty tensor goes before the one that begins where it lies. */
static int compare_offsets(const void *a, const void *b) {
    const struct lorica_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->nbytes > y->nbytes) - (x->nbytes < y->nbytes);
}

/* The tensors, sorted, tile the data: no hole, no overlap, up to the end of the file. */
static int check_tiling(const struct lorica_safetensors *file, uint64_t data,
                        struct lorica_error *err) {
    uint64_t at = data;
    for (size_t i = 0; i < file->count; i++) {
        if (file->tensors[i].offset != at)
            return lorica_fail(err, LORICA_EFORMAT,
                               "safetensors: tensor %.200s overlaps or leaves a hole",
                               file->tensors[i].name);
        at += file->tensors[i].nbytes;
    }
    if (at != file->file_size)
        return lorica_fail(err, LORICA_EFORMAT,
                           "safetensors: the file has %llu bytes, its tensors end at %llu",
                           (unsigned long long)file->file_size, (unsigned long long)at);
    return 0;
}

static int parse_entries(const struct lorica_json *root, uint64_t data,
                         struct lorica_safetensors *file, struct lorica_error *err) {
    const size_t entries = lorica_json_count(root);
    if (lorica_json_type(root) != LORICA_JSON_OBJECT || entries > MAX_TENSORS)
        return lorica_fail(err, LORICA_EFORMAT, "safetensors: no header of at most %d tensors",
                           MAX_TENSORS);
    file->tensors = calloc(entries + 1, sizeof(*file->tensors));
    if (!file->tensors)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %zu tensors", entries);
    for (const struct lorica_json *c = lorica_json_first(root); c; c = lorica_json_next(c)) {
        const int rc =
            strcmp(lorica_json_key(c), "__metadata__") == 0
                ? parse_metadata(c, file, err)
                : parse_tensor(c, data, file->file_size, &file->tensors[file->count++], err);
        if (rc)
            return rc;
    }
    qsort(file->tensors, file->count, sizeof(*file->tensors), compare_offsets);
    return check_tiling(file, data, err);
}

int lorica_safetensors_parse(const void *bytes, size_t len, uint64_t file_size,
                             struct lorica_safetensors *ret, struct lorica_error *err) {
    uint64_t data;
    if (len < 8)
        return lorica_fail(err, LORICA_EFORMAT, "safetensors: the file has only %zu bytes", len);
    int rc = lorica_safetensors_header_size(bytes, file_size, &data, err);
    if (rc)
        return rc;
    if (len < data || ((const char *)bytes)[8] != '{')
        return lorica_fail(err, LORICA_EFORMAT, "safetensors: the header is cut off or no object");
    struct lorica_json *root;
    rc = lorica_json_parse((const char *)bytes + 8, (size_t)data - 8, &root, err);
    if (rc)
        return err ? lorica_fail_prefix(err, "safetensors header") : rc;
    struct lorica_safetensors file = {.file_size = file_size, .owned = root};
    rc = parse_entries(root, data, &file, err);
    if (rc) {
        lorica_safetensors_finish(&file);
        return rc;
    }
    *ret = file;
    return 0;
}

void lorica_safetensors_finish(struct lorica_safetensors *file) {
    free(file->tensors);
    free(file->metadata);
    lorica_json_destroy(file->owned);
    *file = (struct lorica_safetensors){0};
}

const struct lorica_tensor *lorica_safetensors_find(const struct lorica_safetensors *file,
                                                    const char *name) {
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0)
            return &file->tensors[i];
    return NULL;
}

const char *lorica_safetensors_metadata(const struct lorica_safetensors *file, const char *key) {
    for (size_t i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata[2 * i], key) == 0)
            return file->metadata[2 * i + 1];
    return NULL;
}

int lorica_safetensors_write_header(struct lorica_buf *out, struct lorica_tensor *tensors,
                                    size_t count, const char *const *metadata,
                                    size_t metadata_count) {
    struct lorica_buf json;
    lorica_buf_init(&json, LORICA_SAFETENSORS_MAX_HEADER);
    struct lorica_jsonw w = {.out = &json};
    lorica_jsonw_object(&w, NULL);
    if (metadata_count > 0) {
        lorica_jsonw_object(&w, "__metadata__");
        for (size_t i = 0; i < metadata_count; i++)
            lorica_jsonw_string(&w, metadata[2 * i], metadata[2 * i + 1]);
        lorica_jsonw_end_object(&w);
    }
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        struct lorica_tensor *t = &tensors[i];
        t->nbytes = lorica_dtype_size(t->dtype);
        lorica_jsonw_object(&w, t->name);
        lorica_jsonw_string(&w, "dtype", lorica_dtype_name(t->dtype));
        lorica_jsonw_array(&w, "shape");
        for (uint32_t d = 0; d < t->ndim; d++) {
            t->nbytes *= t->shape[d];
            lorica_jsonw_integer(&w, NULL, (int64_t)t->shape[d]);
        }
        lorica_jsonw_end_array(&w);
        lorica_jsonw_array(&w, "data_offsets");
        lorica_jsonw_integer(&w, NULL, (int64_t)at);
        t->offset = at;
        at += t->nbytes;
        lorica_jsonw_integer(&w, NULL, (int64_t)at);
        lorica_jsonw_end_array(&w);
        lorica_jsonw_end_object(&w);
    }
    lorica_jsonw_end_object(&w);
    while (json.len % 8 != 0 && lorica_buf_puts(&json, " ") == 0)
        ;
    uint8_t size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)((uint64_t)json.len >> (8 * i));
    (void)lorica_buf_append(out, size, sizeof(size));
    (void)lorica_buf_append(out, json.data, json.len);
    for (size_t i = 0; i < count; i++)
        tensors[i].offset += 8 + json.len;
    const int rc = lorica_buf_status(&json);
    lorica_buf_finish(&json);
    return rc ? rc : lorica_buf_status(out);
}
