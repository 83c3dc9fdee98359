/* SPDX-License-Identifier: MIT */
#include "runtime/train/estimate.h"

const char *lorica_train_way_name(enum lorica_train_way way) {
    static const char *const names[LORICA_WAY_COUNT] = {"full, float32", "full, bfloat16",
                                                        "LoRA, bfloat16 base", "QLoRA, 4-bit base"};
    return names[way];
}

/* Values of the linear layers. */
static uint64_t linear_values(const struct lorica_arch *arch) {
    uint64_t sum = 0;
    for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
        uint32_t n, k;
        lorica_arch_module_shape(arch, (enum lorica_module)m, &n, &k);
        sum += (uint64_t)n * k;
    }
    return sum * arch->layers;
}

static uint64_t embed_values(const struct lorica_arch *arch) {
    return (uint64_t)arch->vocab * arch->hidden * (arch->tied_head ? 1 : 2);
}

static uint64_t norm_values(const struct lorica_arch *arch) {
    return (2 * (uint64_t)arch->layers + 1) * arch->hidden;
}

uint64_t lorica_arch_parameters(const struct lorica_arch *arch) {
    return linear_values(arch) + embed_values(arch) + norm_values(arch);
}

/* NF4: 4 bits a value; of each block of 64 a code of 8 bits, of each 256 blocks a float. */
static uint64_t nf4_nbytes(uint64_t values) {
    const uint64_t blocks = (values + LORICA_NF4_BLOCK - 1) / LORICA_NF4_BLOCK;
    return values / 2 + blocks +
           (blocks + LORICA_NF4_NESTED_BLOCK - 1) / LORICA_NF4_NESTED_BLOCK * sizeof(float);
}

void lorica_train_estimate(const struct lorica_arch *arch, enum lorica_train_way way,
                           const struct lorica_train_estimate_options *options,
                           struct lorica_train_estimate *ret) {
    static const struct lorica_full whole; /* that there is one is all that matters */
    const bool full = way == LORICA_WAY_FULL_F32 || way == LORICA_WAY_FULL_BF16;
    const uint64_t all = lorica_arch_parameters(arch);
    const uint64_t trained = full ? all : lorica_spec_parameters(&options->spec, arch);
    const uint64_t size = way == LORICA_WAY_FULL_BF16 ? 2 : sizeof(float); /* of what is trained */
    struct lorica_train_model_options model = options->model;
    model.max_tokens = options->batch * options->length;
    model.max_rank = full ? 0 : options->spec.rank;
    model.full = full ? &whole : NULL;
    if (way == LORICA_WAY_FULL_F32)
        model.compute = LORICA_TRAIN_EXACT;
    struct lorica_train_estimate e = {.parameters = all, .trained = trained};
    if (full)
        e.weights = all * size;
    else if (way == LORICA_WAY_LORA_BF16)
        e.weights = all * 2;
    else
        e.weights = nf4_nbytes(linear_values(arch)) +
                    (uint64_t)(options->embed_bytes * (double)embed_values(arch)) +
                    norm_values(arch) * sizeof(float);
    if (!full)
        e.weights += trained * size;
    e.gradients = trained * size;
    e.optimizer = trained * 2 * sizeof(float);
    e.activations = lorica_train_model_nbytes(arch, options->threads, &model);
    e.total = e.weights + e.gradients + e.optimizer + e.activations;
    e.file = trained * size;
    *ret = e;
}
