/* SPDX-License-Identifier: MIT */
#include "runtime/train/save.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/peft.h"
#include "proto/safetensors.h"
#include "runtime/train/random.h"

#define NAME_BYTES 128
#define CONFIG_MAX ((size_t)1 << 20)
#define WEIGHTS_MAX ((size_t)16 << 30)

/* The last part of a module's path: "q_proj". */
static const char *module_name(int module) { return strrchr(lorica_module_paths[module], '.') + 1; }

static int module_find(const char *word, size_t len) {
    for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
        const char *name = module_name(m);
        const size_t full = strlen(name), brief = full - strlen("_proj");
        if ((len == full || len == brief) && strncmp(word, name, len) == 0)
            return m;
    }
    return -1;
}

int lorica_train_targets_parse(const char *text, bool targets[LORICA_MODULE_COUNT],
                               struct lorica_error *err) {
    const bool all = strcmp(text, "all-linear") == 0;
    for (int m = 0; m < LORICA_MODULE_COUNT; m++)
        targets[m] = all;
    for (const char *at = text; !all;) {
        const size_t len = strcspn(at, ",");
        const int module = module_find(at, len);
        if (module < 0)
            return lorica_fail(err, LORICA_EINVAL,
                               "\"%.*s\" is no linear layer: known are q, k, v, o, gate, up, down, "
                               "and all-linear for all of them",
                               (int)(len < 60 ? len : 60), at);
        targets[module] = true;
        at += len;
        if (*at == '\0')
            break;
        at++;
    }
    return 0;
}

int lorica_train_spec_check(const struct lorica_train_spec *spec, const struct lorica_arch *arch,
                            struct lorica_error *err) {
    uint32_t least = UINT32_MAX, rows = 0, cols = 0;
    int which = 0;
    for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
        uint32_t n, k;
        lorica_arch_module_shape(arch, (enum lorica_module)m, &n, &k);
        if (spec->targets[m] && (n < k ? n : k) < least) {
            least = n < k ? n : k;
            rows = n;
            cols = k;
            which = m;
        }
    }
    if (spec->rank <= least)
        return 0;
    return lorica_fail(err, LORICA_EINVAL,
                       "rank %u is above %s, a matrix of %u x %u: use --rank %u or less, or leave "
                       "it out of --targets",
                       spec->rank, module_name(which), rows, cols, least);
}

uint64_t lorica_spec_parameters(const struct lorica_train_spec *spec,
                                const struct lorica_arch *arch) {
    uint64_t sum = 0;
    for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
        uint32_t n, k;
        lorica_arch_module_shape(arch, (enum lorica_module)m, &n, &k);
        sum += spec->targets[m] ? (uint64_t)spec->rank * ((uint64_t)n + k) : 0;
    }
    return sum * arch->layers;
}

int lorica_train_config_encode(const struct lorica_train_spec *spec, const struct lorica_base *base,
                               struct lorica_buf *out) {
    char digest[LORICA_DIGEST_TEXT], name[sizeof(base->name)];
    char names[LORICA_MODULE_COUNT][16];
    char *targets[LORICA_MODULE_COUNT];
    struct lorica_peft_config config = {.r = spec->rank,
                                        .alpha = spec->alpha,
                                        .dropout = spec->dropout,
                                        .use_rslora = spec->rslora,
                                        .target_modules = targets,
                                        .base_model = name,
                                        .base_digest = digest};
    (void)lorica_digest_format(&base->digest, digest);
    (void)snprintf(name, sizeof(name), "%s", base->name);
    for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
        if (!spec->targets[m])
            continue;
        (void)snprintf(names[m], sizeof(names[m]), "%s", module_name(m));
        targets[config.target_count++] = names[m];
    }
    return lorica_peft_write(out, &config);
}

/* -- weights -- */

static void pair_shape(const struct lorica_arch *arch, size_t index, uint32_t *ret_n,
                       uint32_t *ret_k) {
    lorica_arch_module_shape(arch, (enum lorica_module)(index % LORICA_MODULE_COUNT), ret_n, ret_k);
}

uint64_t lorica_train_weights_nbytes(const struct lorica_arch *arch,
                                     const struct lorica_adapter *adapter) {
    const size_t pairs = (size_t)adapter->layer_count * LORICA_MODULE_COUNT;
    uint64_t sum = 4096;
    for (size_t i = 0; i < pairs; i++) {
        uint32_t n, k;
        pair_shape(arch, i, &n, &k);
        if (adapter->layers[i].rank > 0)
            sum += (uint64_t)adapter->layers[i].rank * ((uint64_t)n + k) * sizeof(float) + 400;
    }
    return sum;
}

static size_t describe(const struct lorica_arch *arch, const struct lorica_adapter *adapter,
                       struct lorica_tensor *tensors, char (*names)[NAME_BYTES]) {
    const size_t pairs = (size_t)adapter->layer_count * LORICA_MODULE_COUNT;
    size_t count = 0;
    for (size_t i = 0; i < pairs; i++) {
        const uint32_t rank = adapter->layers[i].rank;
        uint32_t n, k;
        if (rank == 0)
            continue;
        pair_shape(arch, i, &n, &k);
        for (int is_b = 0; is_b < 2; is_b++, count++) {
            (void)snprintf(names[count], NAME_BYTES,
                           "base_model.model.model.layers.%zu.%s.%s.weight",
                           i / LORICA_MODULE_COUNT, lorica_module_paths[i % LORICA_MODULE_COUNT],
                           is_b ? "lora_B" : "lora_A");
            tensors[count] = (struct lorica_tensor){.name = names[count],
                                                    .dtype = LORICA_DTYPE_F32,
                                                    .ndim = 2,
                                                    .shape = {is_b ? n : rank, is_b ? rank : k}};
        }
    }
    return count;
}

int lorica_train_weights_encode(const struct lorica_arch *arch,
                                const struct lorica_adapter *adapter, struct lorica_buf *out) {
    static const char *const metadata[] = {"format", "pt"};
    const size_t pairs = (size_t)adapter->layer_count * LORICA_MODULE_COUNT;
    struct lorica_tensor *tensors = calloc(2 * pairs + 1, sizeof(*tensors));
    char(*names)[NAME_BYTES] = calloc(2 * pairs + 1, sizeof(*names));
    int rc = LORICA_ENOMEM;
    if (tensors && names) {
        const size_t count = describe(arch, adapter, tensors, names);
        rc = lorica_safetensors_write_header(out, tensors, count, metadata, 1);
    }
    for (size_t i = 0; rc == 0 && i < pairs; i++) {
        const struct lorica_adapter_pair *pair = &adapter->layers[i];
        uint32_t n, k;
        pair_shape(arch, i, &n, &k);
        (void)lorica_buf_append(out, pair->a, (size_t)pair->rank * k * sizeof(float));
        (void)lorica_buf_append(out, pair->b, (size_t)pair->rank * n * sizeof(float));
    }
    free(tensors);
    free(names);
    return rc != 0 ? rc : lorica_buf_status(out);
}

/* -- beginning -- */

/* Gives every targeted module a pair in `values`, or only counts when that is NULL. */
static size_t fill(const struct lorica_train_spec *spec, const struct lorica_arch *arch,
                   struct lorica_adapter_pair *pairs, float *values) {
    const size_t count = (size_t)arch->layers * LORICA_MODULE_COUNT;
    uint64_t state = spec->seed ^ 0x6C6F72696361u;
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t n, k;
        if (!spec->targets[i % LORICA_MODULE_COUNT])
            continue;
        pair_shape(arch, i, &n, &k);
        const size_t na = (size_t)spec->rank * k, nb = (size_t)spec->rank * n;
        if (values) {
            const double bound = 1 / sqrt((double)k);
            pairs[i] = (struct lorica_adapter_pair){
                .rank = spec->rank, .a = values + used, .b = values + used + na};
            for (size_t j = 0; j < na; j++)
                pairs[i].a[j] =
                    (float)(((double)(lorica_random_next(&state) >> 11) * 0x1p-52 - 1) * bound);
        }
        used += na + nb;
    }
    return used;
}

int lorica_train_adapter_new(const struct lorica_train_spec *spec, const struct lorica_base *base,
                             struct lorica_adapter **ret, struct lorica_error *err) {
    const struct lorica_arch *arch = &base->arch;
    int rc = lorica_train_spec_check(spec, arch, err);
    if (rc)
        return rc;
    struct lorica_adapter_pair *pairs =
        calloc((size_t)arch->layers * LORICA_MODULE_COUNT, sizeof(*pairs));
    float *values = calloc(fill(spec, arch, NULL, NULL) + 1, sizeof(*values));
    struct lorica_adapter draft = {
        .layers = pairs, .layer_count = arch->layers, .max_rank = spec->rank};
    struct lorica_buf config, weights;
    rc = LORICA_ENOMEM;
    lorica_buf_init(&config, CONFIG_MAX);
    lorica_buf_init(&weights, WEIGHTS_MAX);
    if (pairs && values) {
        (void)fill(spec, arch, pairs, values);
        rc = lorica_train_config_encode(spec, base, &config);
    }
    if (rc == 0)
        rc = lorica_train_weights_encode(arch, &draft, &weights);
    if (rc == 0)
        rc = lorica_adapter_create(arch, LORICA_ADAPTER_EXACT, config.data, config.len,
                                   weights.data, weights.len, ret, err);
    else
        rc = lorica_fail(err, rc, "no adapter of rank %u could be made: %s", spec->rank,
                         lorica_err_text(rc));
    lorica_buf_finish(&config);
    lorica_buf_finish(&weights);
    free(pairs);
    free(values);
    return rc;
}
