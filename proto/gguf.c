/* SPDX-License-Identifier: MIT */
#include "proto/gguf.h"

#include <stdlib.h>
#include <string.h>

/* Limits on counts: far above real files, low enough to bound work and memory. */
#define MAX_VALUES 10000
#define MAX_TENSORS 100000
#define MAX_STRING (64u << 20)
#define MAX_ELEMENTS (16u << 20)

/* A cursor over the file. The first read past the end sets `failed`; reads then give zero. */
struct cursor {
    const uint8_t *bytes;
    size_t len, at;
    bool failed;
};

static const uint8_t *take(struct cursor *c, uint64_t count) {
    if (c->failed || count > c->len - c->at) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *bytes = c->bytes + c->at;
    c->at += (size_t)count;
    return bytes;
}

static uint64_t take_uint(struct cursor *c, size_t size) {
    const uint8_t *bytes = take(c, size);
    uint64_t value = 0;
    for (size_t i = size; bytes && i-- > 0;)
        value = value << 8 | bytes[i];
    return value;
}

static struct lorica_gguf_string take_string(struct cursor *c) {
    const uint64_t len = take_uint(c, 8);
    if (len > MAX_STRING)
        c->failed = true;
    const uint8_t *data = take(c, len);
    return (struct lorica_gguf_string){.data = (const char *)data, .len = data ? len : 0};
}

static size_t scalar_size(enum lorica_gguf_type type) {
    static const size_t sizes[LORICA_GGUF_TYPE_COUNT] = {
        [LORICA_GGUF_U8] = 1,  [LORICA_GGUF_I8] = 1,  [LORICA_GGUF_U16] = 2, [LORICA_GGUF_I16] = 2,
        [LORICA_GGUF_U32] = 4, [LORICA_GGUF_I32] = 4, [LORICA_GGUF_F32] = 4, [LORICA_GGUF_BOOL] = 1,
        [LORICA_GGUF_U64] = 8, [LORICA_GGUF_I64] = 8, [LORICA_GGUF_F64] = 8,
    };
    return sizes[type];
}

static void read_scalar(struct cursor *c, struct lorica_gguf_value *value) {
    const size_t size = scalar_size(value->type);
    const uint64_t bits = take_uint(c, size);
    switch (value->type) {
    case LORICA_GGUF_F32: {
        const uint32_t narrow = (uint32_t)bits;
        float f;
        memcpy(&f, &narrow, sizeof(f));
        value->f = (double)f;
        break;
    }
    case LORICA_GGUF_F64:
        memcpy(&value->f, &bits, sizeof(value->f));
        break;
    case LORICA_GGUF_I8:
        value->i = (int8_t)bits;
        break;
    case LORICA_GGUF_I16:
        value->i = (int16_t)bits;
        break;
    case LORICA_GGUF_I32:
        value->i = (int32_t)bits;
        break;
    case LORICA_GGUF_I64:
        value->i = (int64_t)bits;
        break;
    default:
        value->u = bits;
    }
}

static int read_array(struct cursor *c, struct lorica_gguf_value *value, struct lorica_error *err) {
    const uint32_t element = (uint32_t)take_uint(c, 4);
    value->count = take_uint(c, 8);
    if (element >= LORICA_GGUF_TYPE_COUNT || element == LORICA_GGUF_ARRAY ||
        value->count > MAX_ELEMENTS)
        return lorica_fail(
            err, LORICA_EFORMAT, "GGUF: key %.*s: an array of %llu elements of type %u",
            (int)value->key.len, value->key.data, (unsigned long long)value->count, element);
    value->element_type = (enum lorica_gguf_type)element;
    if (value->element_type != LORICA_GGUF_STRING) {
        value->elements = take(c, value->count * scalar_size(value->element_type));
        return 0;
    }
    if (value->count > (c->len - c->at) / 8) { /* each has a length of 8 bytes at least */
        c->failed = true;
        return 0;
    }
    value->strings = calloc(value->count + 1, sizeof(*value->strings));
    if (!value->strings)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %llu strings of a GGUF file",
                           (unsigned long long)value->count);
    for (uint64_t i = 0; i < value->count && !c->failed; i++)
        value->strings[i] = take_string(c);
    return 0;
}

static int read_value(struct cursor *c, struct lorica_gguf_value *value, struct lorica_error *err) {
    value->key = take_string(c);
    const uint32_t type = (uint32_t)take_uint(c, 4);
    if (c->failed)
        return 0;
    if (value->key.len == 0 || value->key.len > 1024 || type >= LORICA_GGUF_TYPE_COUNT)
        return lorica_fail(err, LORICA_EFORMAT, "GGUF: a metadata key of %llu bytes, type %u",
                           (unsigned long long)value->key.len, type);
    value->type = (enum lorica_gguf_type)type;
    if (value->type == LORICA_GGUF_ARRAY)
        return read_array(c, value, err);
    if (value->type == LORICA_GGUF_STRING)
        value->string = take_string(c);
    else
        read_scalar(c, value);
    return 0;
}

static int read_tensor(struct cursor *c, struct lorica_gguf_tensor *tensor,
                       struct lorica_error *err) {
    tensor->name = take_string(c);
    tensor->ndim = (uint32_t)take_uint(c, 4);
    if (c->failed)
        return 0;
    if (tensor->name.len == 0 || tensor->name.len > 1024 || tensor->ndim < 1 || tensor->ndim > 4)
        return lorica_fail(err, LORICA_EFORMAT,
                           "GGUF: a tensor with a name of %llu bytes and %u dimensions",
                           (unsigned long long)tensor->name.len, tensor->ndim);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < 4; i++) {
        tensor->dims[i] = i < tensor->ndim ? take_uint(c, 8) : 1;
        if (__builtin_mul_overflow(elements, tensor->dims[i], &elements) ||
            elements > INT64_MAX / 64)
            return lorica_fail(err, LORICA_EFORMAT, "GGUF: tensor %.*s: shape too large",
                               (int)tensor->name.len, tensor->name.data);
    }
    tensor->type = (uint32_t)take_uint(c, 4);
    tensor->offset = take_uint(c, 8); /* from the data's beginning; made absolute below */
    return 0;
}

static int compare_strings(const void *a, const void *b) {
    const struct lorica_gguf_string *x = *(const struct lorica_gguf_string *const *)a;
    const struct lorica_gguf_string *y = *(const struct lorica_gguf_string *const *)b;
    const int order = memcmp(x->data, y->data, x->len < y->len ? x->len : y->len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* Refuses two equal names among `count` strings that stand `stride` bytes apart. */
static int check_unique(const void *first, size_t count, size_t stride, const char *what,
                        struct lorica_error *err) {
    const struct lorica_gguf_string **names = malloc((count + 1) * sizeof(*names));
    if (!names)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %zu names of a GGUF file", count);
    for (size_t i = 0; i < count; i++)
        names[i] = (const void *)((const char *)first + i * stride);
    qsort(names, count, sizeof(*names), compare_strings);
    int rc = 0;
    for (size_t i = 1; i < count && !rc; i++)
        if (compare_strings(&names[i - 1], &names[i]) == 0)
            rc = lorica_fail(err, LORICA_EFORMAT, "GGUF: the %s %.*s stands twice", what,
                             (int)names[i]->len, names[i]->data);
    free(names);
    return rc;
}

/* Makes offsets absolute and checks them against the file. */
static int place_tensors(struct lorica_gguf *file, uint64_t alignment, struct lorica_error *err) {
    for (size_t i = 0; i < file->tensor_count; i++) {
        struct lorica_gguf_tensor *t = &file->tensors[i];
        const uint64_t elements = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        const uint64_t nbytes = lorica_ggml_nbytes(t->type, elements);
        const uint64_t room = file->file_size - file->data_offset;
        if (t->offset % alignment != 0 || t->offset > room || nbytes > room - t->offset)
            return lorica_fail(err, LORICA_EFORMAT,
                               "GGUF: tensor %.*s lies outside the file (cut off?)",
                               (int)t->name.len, t->name.data);
        t->offset += file->data_offset;
    }
    return 0;
}

static int read_all(struct cursor *c, struct lorica_gguf *file, struct lorica_error *err) {
    if (take_uint(c, 4) != 0x46554747) /* "GGUF" */
        return lorica_fail(err, LORICA_EFORMAT, "no GGUF file: the magic number is missing");
    const uint32_t version = (uint32_t)take_uint(c, 4);
    if (!c->failed && version != 2 && version != 3)
        return lorica_fail(err, LORICA_EUNSUPPORTED, "GGUF version %u: 2 and 3 are read", version);
    const uint64_t tensors = take_uint(c, 8), values = take_uint(c, 8);
    if (c->failed)
        return lorica_fail(err, LORICA_EFORMAT, "GGUF: the file is cut off at %zu bytes", c->len);
    if (tensors > MAX_TENSORS || values > MAX_VALUES)
        return lorica_fail(err, LORICA_EFORMAT, "GGUF: %llu tensors and %llu metadata values",
                           (unsigned long long)tensors, (unsigned long long)values);
    file->values = calloc(values + 1, sizeof(*file->values));
    file->tensors = calloc(tensors + 1, sizeof(*file->tensors));
    if (!file->values || !file->tensors)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for the tables of a GGUF file");
    int rc = 0;
    for (uint64_t i = 0; i < values && !rc && !c->failed; i++)
        rc = read_value(c, &file->values[file->value_count++], err);
    for (uint64_t i = 0; i < tensors && !rc && !c->failed; i++)
        rc = read_tensor(c, &file->tensors[file->tensor_count++], err);
    if (rc)
        return rc;
    if (c->failed)
        return lorica_fail(err, LORICA_EFORMAT, "GGUF: the file is cut off at %zu bytes", c->len);
    rc = check_unique(file->values, file->value_count, sizeof(*file->values), "key", err);
    if (!rc)
        rc = check_unique(file->tensors, file->tensor_count, sizeof(*file->tensors), "tensor", err);
    if (rc)
        return rc;
    const uint64_t alignment = lorica_gguf_uint(file, "general.alignment", 32);
    if (alignment < 1 || alignment > 65536 || (alignment & (alignment - 1)) != 0)
        return lorica_fail(err, LORICA_EFORMAT, "GGUF: an alignment of %llu",
                           (unsigned long long)alignment);
    file->data_offset = (c->at + alignment - 1) / alignment * alignment;
    if (file->data_offset > c->len)
        return lorica_fail(err, LORICA_EFORMAT, "GGUF: the file is cut off at %zu bytes", c->len);
    return place_tensors(file, alignment, err);
}

int lorica_gguf_parse(const void *bytes, size_t len, struct lorica_gguf *ret,
                      struct lorica_error *err) {
    struct cursor c = {.bytes = bytes, .len = len};
    struct lorica_gguf file = {.file_size = len};
    const int rc = read_all(&c, &file, err);
    if (rc) {
        lorica_gguf_finish(&file);
        return rc;
    }
    *ret = file;
    return 0;
}

void lorica_gguf_finish(struct lorica_gguf *file) {
    for (size_t i = 0; i < file->value_count; i++)
        free(file->values[i].strings);
    free(file->values);
    free(file->tensors);
    *file = (struct lorica_gguf){0};
}

static bool equals(struct lorica_gguf_string string, const char *text) {
    return string.len == strlen(text) && memcmp(string.data, text, string.len) == 0;
}

const struct lorica_gguf_value *lorica_gguf_find(const struct lorica_gguf *file, const char *key) {
    for (size_t i = 0; i < file->value_count; i++)
        if (equals(file->values[i].key, key))
            return &file->values[i];
    return NULL;
}

const struct lorica_gguf_tensor *lorica_gguf_tensor(const struct lorica_gguf *file,
                                                    const char *name) {
    for (size_t i = 0; i < file->tensor_count; i++)
        if (equals(file->tensors[i].name, name))
            return &file->tensors[i];
    return NULL;
}

uint64_t lorica_gguf_uint(const struct lorica_gguf *file, const char *key, uint64_t fallback) {
    const struct lorica_gguf_value *v = lorica_gguf_find(file, key);
    if (!v)
        return fallback;
    switch (v->type) {
    case LORICA_GGUF_U8:
    case LORICA_GGUF_U16:
    case LORICA_GGUF_U32:
    case LORICA_GGUF_U64:
    case LORICA_GGUF_BOOL:
        return v->u;
    case LORICA_GGUF_I8:
    case LORICA_GGUF_I16:
    case LORICA_GGUF_I32:
    case LORICA_GGUF_I64:
        return v->i < 0 ? fallback : (uint64_t)v->i;
    default:
        return fallback;
    }
}

double lorica_gguf_float(const struct lorica_gguf *file, const char *key, double fallback) {
    const struct lorica_gguf_value *v = lorica_gguf_find(file, key);
    return v && (v->type == LORICA_GGUF_F32 || v->type == LORICA_GGUF_F64) ? v->f : fallback;
}

/* Names and block sizes; 0 bytes: not read by lorica. */
static const struct {
    const char *name;
    uint32_t elements, nbytes;
} types[] = {
    [0] = {"F32", 1, 4},       [1] = {"F16", 1, 2},        [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},    [6] = {"Q5_0", 32, 0},      [7] = {"Q5_1", 32, 0},
    [8] = {"Q8_0", 32, 34},    [9] = {"Q8_1", 32, 0},      [10] = {"Q2_K", 256, 0},
    [11] = {"Q3_K", 256, 0},   [12] = {"Q4_K", 256, 0},    [13] = {"Q5_K", 256, 0},
    [14] = {"Q6_K", 256, 0},   [15] = {"Q8_K", 256, 0},    [16] = {"IQ2_XXS", 256, 0},
    [17] = {"IQ2_XS", 256, 0}, [18] = {"IQ3_XXS", 256, 0}, [19] = {"IQ1_S", 256, 0},
    [20] = {"IQ4_NL", 32, 0},  [21] = {"IQ3_S", 256, 0},   [22] = {"IQ2_S", 256, 0},
    [23] = {"IQ4_XS", 256, 0}, [24] = {"I8", 1, 0},        [25] = {"I16", 1, 0},
    [26] = {"I32", 1, 0},      [27] = {"I64", 1, 0},       [28] = {"F64", 1, 0},
    [29] = {"IQ1_M", 256, 0},  [30] = {"BF16", 1, 2},      [34] = {"TQ1_0", 256, 0},
    [35] = {"TQ2_0", 256, 0},  [39] = {"MXFP4", 32, 0},
};

const char *lorica_ggml_type_name(uint32_t type) {
    const size_t count = sizeof(types) / sizeof(types[0]);
    return type < count && types[type].name ? types[type].name : "of an unknown number";
}

uint64_t lorica_ggml_nbytes(uint32_t type, uint64_t elements) {
    if (type >= sizeof(types) / sizeof(types[0]) || types[type].nbytes == 0 ||
        elements % types[type].elements != 0)
        return 0;
    uint64_t nbytes;
    return __builtin_mul_overflow(elements / types[type].elements, types[type].nbytes, &nbytes)
               ? 0
               : nbytes;
}
