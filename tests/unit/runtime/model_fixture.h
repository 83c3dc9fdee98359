/* SPDX-License-Identifier: MIT
 * The small committed models, and adapters made up for them, for the tests of serving. */
#ifndef LORICA_TESTS_MODEL_FIXTURE_H
#define LORICA_TESTS_MODEL_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/safetensors.h"
#include "runtime/adapter.h"
#include "runtime/base.h"

/* A sum in place of SHA-256: these tests compare no digests. */

static void *sum_create(void) { return calloc(1, sizeof(uint64_t)); }

static int sum_update(void *stream, const void *bytes, size_t len) {
    uint64_t *sum = stream;
    for (size_t i = 0; i < len; i++)
        *sum = *sum * 31 + ((const uint8_t *)bytes)[i];
    return 0;
}

static int sum_finish(void *stream, struct lorica_digest *ret) {
    if (ret) {
        memset(ret, 0, sizeof(*ret));
        memcpy(ret->bytes, stream, sizeof(uint64_t));
    }
    free(stream);
    return 0;
}

static const struct lorica_hasher sum_hasher = {sum_create, sum_update, sum_finish};

/** Opens tests/golden/NAME. */
static inline struct lorica_base *open_golden(const char *name) {
    char path[4096];
    struct lorica_error err = {0};
    struct lorica_base *base = NULL;
    (void)snprintf(path, sizeof(path), "%s/golden/%s", TEST_DATA, name);
    if (lorica_base_open_any(path, &sum_hasher, &base, &err) != 0)
        fail_msg("%s", err.text);
    return base;
}

/** A number in [-1, 1) that depends on `counter` alone. */
static inline float made_up(uint64_t counter) {
    uint64_t z = (counter + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z ^= z >> 27;
    return (float)(int32_t)(z >> 32) * 0x1p-31f;
}

#define MAX_SPEC_TENSORS 64

/** An adapter's files as a test wants them; every field may be changed before writing. */
struct adapter_spec {
    char config[1024];
    struct spec_tensor {
        char name[160];
        enum lorica_dtype dtype;
        uint64_t rows, columns;
        float scale;  /**< values are made up in (-scale, scale) */
        float poison; /**< value of the last element, when not 0 */
    } tensors[MAX_SPEC_TENSORS];
    size_t count;
    uint64_t seed;
};

/** Appends the pair of a module. */
static inline void spec_add(struct adapter_spec *spec, const struct lorica_arch *arch,
                            uint32_t layer, enum lorica_module module, uint32_t rank) {
    uint32_t n, k;
    lorica_arch_module_shape(arch, module, &n, &k);
    for (int b = 0; b < 2; b++) {
        assert_true(spec->count < MAX_SPEC_TENSORS);
        struct spec_tensor *t = &spec->tensors[spec->count++];
        (void)snprintf(t->name, sizeof(t->name),
                       "base_model.model.model.layers.%u.%s.lora_%c.weight", layer,
                       lorica_module_paths[module], b ? 'B' : 'A');
        t->dtype = LORICA_DTYPE_F32;
        t->rows = b ? n : rank;
        t->columns = b ? rank : k;
        t->scale = b ? 0.3f : 1.0f / sqrtf((float)k);
    }
}

/** An adapter of this rank on every linear layer. */
static inline struct adapter_spec *spec_full(const struct lorica_arch *arch, uint32_t rank,
                                             uint64_t seed) {
    struct adapter_spec *spec = calloc(1, sizeof(*spec));
    assert_non_null(spec);
    spec->seed = seed;
    (void)snprintf(spec->config, sizeof(spec->config),
                   "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"bias\":\"none\","
                   "\"init_lora_weights\":true,\"r\":%u,\"lora_alpha\":%u,\"target_modules\":"
                   "[\"q_proj\",\"k_proj\",\"v_proj\",\"o_proj\",\"gate_proj\",\"up_proj\","
                   "\"down_proj\"]}",
                   rank, 2 * rank);
    for (uint32_t l = 0; l < arch->layers; l++)
        for (int m = 0; m < LORICA_MODULE_COUNT; m++)
            spec_add(spec, arch, l, (enum lorica_module)m, rank);
    return spec;
}

static inline void spec_write_value(struct lorica_buf *out, enum lorica_dtype dtype, float value) {
    if (dtype == LORICA_DTYPE_F16 || dtype == LORICA_DTYPE_BF16) {
        const uint16_t half =
            dtype == LORICA_DTYPE_F16 ? lorica_f32_to_f16(value) : lorica_f32_to_bf16(value);
        (void)lorica_buf_append(out, &half, sizeof(half));
    } else if (dtype == LORICA_DTYPE_F64) {
        const double wide = (double)value;
        (void)lorica_buf_append(out, &wide, sizeof(wide));
    } else {
        (void)lorica_buf_append(out, &value, sizeof(value));
    }
}

/** The bytes of adapter_model.safetensors; caller finishes `out`. */
static inline void spec_weights(const struct adapter_spec *spec, struct lorica_buf *out) {
    struct lorica_tensor tensors[MAX_SPEC_TENSORS];
    for (size_t i = 0; i < spec->count; i++)
        tensors[i] =
            (struct lorica_tensor){.name = spec->tensors[i].name,
                                   .dtype = spec->tensors[i].dtype,
                                   .ndim = 2,
                                   .shape = {spec->tensors[i].rows, spec->tensors[i].columns}};
    lorica_buf_init(out, (size_t)64 << 20);
    assert_int_equal(lorica_safetensors_write_header(out, tensors, spec->count, NULL, 0), 0);
    for (size_t i = 0; i < spec->count; i++) {
        const struct spec_tensor *t = &spec->tensors[i];
        const uint64_t count = t->rows * t->columns;
        for (uint64_t j = 0; j < count; j++) {
            const float value =
                j + 1 == count && t->poison != 0
                    ? t->poison
                    : t->scale * made_up((spec->seed << 40) + ((uint64_t)i << 24) + j);
            spec_write_value(out, t->dtype, value);
        }
    }
    assert_int_equal(lorica_buf_status(out), 0);
}

/** Builds; the code that lorica_adapter_create returned. */
static inline int spec_build(const struct adapter_spec *spec, const struct lorica_arch *arch,
                             enum lorica_adapter_form form, struct lorica_adapter **ret,
                             struct lorica_error *err) {
    struct lorica_buf weights;
    spec_weights(spec, &weights);
    const int rc = lorica_adapter_create(arch, form, spec->config, strlen(spec->config),
                                         weights.data, weights.len, ret, err);
    lorica_buf_finish(&weights);
    return rc;
}

/** A whole adapter of this rank, or a failed test. */
static inline struct lorica_adapter *make_adapter(const struct lorica_arch *arch,
                                                  enum lorica_adapter_form form, uint32_t rank,
                                                  uint64_t seed) {
    struct lorica_error err = {0};
    struct lorica_adapter *adapter = NULL;
    struct adapter_spec *spec = spec_full(arch, rank, seed);
    if (spec_build(spec, arch, form, &adapter, &err) != 0)
        fail_msg("%s", err.text);
    free(spec);
    return adapter;
}

#endif
