/* SPDX-License-Identifier: MIT
 * An adapter from any bytes: adapter_config.json, the byte 0x1e, adapter_model.safetensors. What is
 * taken fits the architecture and holds finite numbers; what is refused has a sentence. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct lorica_arch arch = {.vocab = 7,
                                        .hidden = 4,
                                        .layers = 2,
                                        .heads = 2,
                                        .kv_heads = 1,
                                        .head_dim = 2,
                                        .intermediate = 6,
                                        .max_positions = 64,
                                        .rms_eps = 1e-5f,
                                        .rope_theta = 1e4,
                                        .tied_head = true};

static void expect_finite(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            abort();
}

static void check(const struct lorica_adapter *adapter, enum lorica_adapter_form form) {
    for (uint32_t i = 0; i < arch.layers * LORICA_MODULE_COUNT; i++) {
        const struct lorica_adapter_pair *pair = &adapter->layers[i];
        uint32_t n, k;
        lorica_arch_module_shape(&arch, (enum lorica_module)(i % LORICA_MODULE_COUNT), &n, &k);
        if (pair->rank > adapter->max_rank)
            abort();
        if (pair->rank == 0)
            continue;
        if (!isfinite(pair->scale))
            abort();
        if (form == LORICA_ADAPTER_EXACT) {
            expect_finite(pair->a, (size_t)pair->rank * k);
            expect_finite(pair->b, (size_t)n * pair->rank);
        } else {
            expect_finite(pair->scales, pair->rank);
        }
    }
}

/* Builds in one form; true when it was taken. */
static bool build(enum lorica_adapter_form form, const char *config, size_t config_len,
                  const char *weights, size_t len) {
    struct lorica_adapter *adapter = NULL;
    struct lorica_error err = {0};
    const int rc =
        lorica_adapter_create(&arch, form, config, config_len, weights, len, &adapter, &err);
    if (rc ? err.code != rc || !*err.text || adapter : !adapter)
        abort();
    if (!rc)
        check(adapter, form);
    lorica_adapter_unref(adapter);
    return !rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    const uint8_t *end = len ? memchr(data, 0x1e, len) : NULL;
    const size_t config = end ? (size_t)(end - data) : len;
    const size_t weights = end ? len - config - 1 : 0;
    char *text = malloc(config + 1), *bytes = aligned_alloc(64, (weights + 64) / 64 * 64);
    if (!text || !bytes)
        abort();
    if (config)
        memcpy(text, data, config);
    if (weights)
        memcpy(bytes, end + 1, weights);
    const bool exact = build(LORICA_ADAPTER_EXACT, text, config, bytes, weights);
    if (build(LORICA_ADAPTER_FAST, text, config, bytes, weights) && !exact)
        abort(); /* the fast form takes less: what fits into 16 bits */
    free(text);
    free(bytes);
    return 0;
}
