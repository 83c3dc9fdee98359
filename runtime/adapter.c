/* SPDX-License-Identifier: MIT
 * Judging an adapter's two files against a base, then building one of the two forms. Nothing is
 * built before every tensor has found its module and every module its tensors. */
#include "runtime/adapter.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/vec.h"
#include "proto/peft.h"
#include "proto/safetensors.h"

#define MAX_CONFIG_BYTES ((size_t)1 << 20)
#define MAX_WEIGHTS_BYTES ((size_t)1 << 34)
#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)
#define MODULE_NAME_MAX 160

/* The two tensors of one module, while judging. */
struct slot {
    const struct lorica_tensor *a, *b;
    uint32_t rank;
    double scale;
};

/* Everything that create works on. */
struct build {
    const struct lorica_arch *arch;
    enum lorica_adapter_form form;
    const uint8_t *weights;
    struct lorica_peft_config config;
    struct lorica_safetensors file;
    struct slot *slots; /* [layers][LORICA_MODULE_COUNT] */
    struct lorica_vec_kernels vec;
    float *scratch;             /* as long as the longest row of an A or column of a B */
    int8_t *column;             /* likewise */
    void (*between)(void *arg); /* NULL: nothing is done between modules */
    void *between_arg;
    struct lorica_error *err;
};

static void module_name(uint32_t layer, unsigned module, char out[MODULE_NAME_MAX]) {
    (void)snprintf(out, MODULE_NAME_MAX, "model.layers.%u.%s", layer, lorica_module_paths[module]);
}

/* The slot of a module path, or NULL when the base has no such linear layer. */
static struct slot *find_slot(const struct build *build, const char *path) {
    static const char prefix[] = "model.layers.";
    char expected[MODULE_NAME_MAX];
    if (strncmp(path, prefix, sizeof(prefix) - 1) != 0)
        return NULL;
    const char *digits = path + sizeof(prefix) - 1;
    if (*digits < '0' || *digits > '9')
        return NULL;
    const unsigned long layer = strtoul(digits, NULL, 10);
    if (layer >= build->arch->layers)
        return NULL;
    for (unsigned m = 0; m < LORICA_MODULE_COUNT; m++) {
        module_name((uint32_t)layer, m, expected);
        if (strcmp(expected, path) == 0)
            return &build->slots[layer * LORICA_MODULE_COUNT + m];
    }
    return NULL;
}

/* Gives every tensor of the file to its module. */
static int assign_tensors(struct build *build) {
    char path[MODULE_NAME_MAX];
    for (size_t i = 0; i < build->file.count; i++) {
        const struct lorica_tensor *tensor = &build->file.tensors[i];
        bool is_b;
        if (!lorica_peft_tensor_name(tensor->name, path, sizeof(path), &is_b))
            return lorica_fail(build->err, LORICA_EFORMAT,
                               "adapter tensor \"%.160s\" is not the A or B of a LoRA pair",
                               tensor->name);
        struct slot *slot = find_slot(build, path);
        if (!slot)
            return lorica_fail(build->err, LORICA_EFORMAT,
                               "adapter tensor \"%.160s\" belongs to no linear layer of the base",
                               tensor->name);
        if (tensor->dtype != LORICA_DTYPE_F32 && tensor->dtype != LORICA_DTYPE_F16 &&
            tensor->dtype != LORICA_DTYPE_BF16)
            return lorica_fail(build->err, LORICA_EUNSUPPORTED,
                               "adapter tensor \"%.160s\" has type %s: F32, F16 and BF16 are read",
                               tensor->name, lorica_dtype_name(tensor->dtype));
        if (is_b)
            slot->b = tensor;
        else
            slot->a = tensor;
    }
    return 0;
}

/* True when `config` targets any module of the base; errors of patterns pass through. */
static int targets_any(const struct build *build, const struct lorica_peft_config *config,
                       bool *ret) {
    char path[MODULE_NAME_MAX];
    *ret = false;
    for (uint32_t l = 0; l < build->arch->layers && !*ret; l++)
        for (unsigned m = 0; m < LORICA_MODULE_COUNT && !*ret; m++) {
            module_name(l, m, path);
            const int rc = lorica_peft_targets(config, path, ret, build->err);
            if (rc)
                return rc;
        }
    return 0;
}

/* Every target and every layer that the config names must be there. */
static int check_names(const struct build *build) {
    for (size_t i = 0; i < build->config.layers_count; i++)
        if (build->config.layers_to_transform[i] >= build->arch->layers)
            return lorica_fail(build->err, LORICA_EFORMAT,
                               "adapter_config.json: \"layers_to_transform\" names layer %u, but "
                               "the base has %u layers",
                               build->config.layers_to_transform[i], build->arch->layers);
    struct lorica_peft_config one = build->config;
    one.layers_to_transform = NULL;
    one.layers_count = 0;
    for (size_t i = 0; i < build->config.target_count; i++) {
        bool found;
        one.target_modules = &build->config.target_modules[i];
        one.target_count = 1;
        const int rc = targets_any(build, &one, &found);
        if (rc)
            return rc;
        if (!found)
            return lorica_fail(build->err, LORICA_EFORMAT,
                               "adapter_config.json: \"target_modules\" names \"%.100s\", which "
                               "is no linear layer of the base",
                               build->config.target_modules[i]);
    }
    return 0;
}

static int check_shape(const struct build *build, const struct lorica_tensor *tensor, uint64_t rows,
                       uint64_t columns) {
    if (tensor->ndim == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns)
        return 0;
    char shape[100] = "";
    size_t at = 0;
    for (uint32_t i = 0; i < tensor->ndim && at < sizeof(shape) - 24; i++)
        at += (size_t)snprintf(shape + at, sizeof(shape) - at, "%s%llu", i ? "x" : "",
                               (unsigned long long)tensor->shape[i]);
    return lorica_fail(build->err, LORICA_EFORMAT,
                       "adapter tensor \"%.160s\" has shape %s, but the config and the base make "
                       "it %llux%llu",
                       tensor->name, shape, (unsigned long long)rows, (unsigned long long)columns);
}

/* A module's tensors against what the config says of it. */
static int check_slot(const struct build *build, unsigned module, const char *path,
                      struct slot *slot) {
    bool targeted;
    int rc = lorica_peft_targets(&build->config, path, &targeted, build->err);
    if (rc)
        return rc;
    const struct lorica_tensor *present = slot->a ? slot->a : slot->b;
    if (!targeted && present)
        return lorica_fail(build->err, LORICA_EFORMAT,
                           "adapter tensor \"%.160s\" is of a module that adapter_config.json "
                           "does not target",
                           present->name);
    if (!targeted)
        return 0;
    if (!slot->a || !slot->b)
        return lorica_fail(build->err, LORICA_EFORMAT,
                           "the adapter lacks tensor \"base_model.model.%s.lora_%c.weight\", "
                           "which adapter_config.json calls for",
                           path, slot->a ? 'B' : 'A');
    rc = lorica_peft_module(&build->config, path, &slot->rank, &slot->scale, build->err);
    if (rc)
        return rc;
    if (!isfinite((float)slot->scale))
        return lorica_fail(build->err, LORICA_EFORMAT,
                           "adapter_config.json: the scale of module %s is not finite", path);
    uint32_t n, k;
    lorica_arch_module_shape(build->arch, (enum lorica_module)module, &n, &k);
    rc = check_shape(build, slot->a, slot->rank, k);
    return rc ? rc : check_shape(build, slot->b, n, slot->rank);
}

static int check_slots(const struct build *build) {
    char path[MODULE_NAME_MAX];
    bool any = false;
    for (uint32_t l = 0; l < build->arch->layers; l++)
        for (unsigned m = 0; m < LORICA_MODULE_COUNT; m++) {
            struct slot *slot = &build->slots[(size_t)l * LORICA_MODULE_COUNT + m];
            module_name(l, m, path);
            const int rc = check_slot(build, m, path, slot);
            if (rc)
                return rc;
            any = any || slot->rank > 0;
        }
    if (!any)
        return lorica_fail(build->err, LORICA_EFORMAT,
                           "the adapter holds no LoRA pair for any linear layer of the base");
    return 0;
}

static size_t aligned(size_t nbytes) { return (nbytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static uint32_t padded(uint32_t n) {
    return (n + LORICA_TILE_ROWS - 1) / LORICA_TILE_ROWS * LORICA_TILE_ROWS;
}

/* Bytes of a module's A, and of its B and scales, in the form wanted. Ranks are at most 4096 and
 * shapes those of a base, so that no product comes near 64 bits. */
static void pair_nbytes(const struct build *build, unsigned module, uint32_t rank, size_t *ret_a,
                        size_t *ret_b) {
    uint32_t n, k;
    lorica_arch_module_shape(build->arch, (enum lorica_module)module, &n, &k);
    const bool fast = build->form == LORICA_ADAPTER_FAST;
    *ret_a = aligned(fast ? (size_t)rank * k : (size_t)rank * k * sizeof(float));
    *ret_b = fast ? aligned((size_t)rank * padded(n)) + aligned(rank * sizeof(float))
                  : aligned((size_t)rank * n * sizeof(float));
}

/* Element i of a tensor as float32. */
static float element(const uint8_t *bytes, enum lorica_dtype dtype, size_t i) {
    if (dtype == LORICA_DTYPE_F32) {
        float value;
        memcpy(&value, bytes + i * sizeof(value), sizeof(value));
        return value;
    }
    uint16_t half;
    memcpy(&half, bytes + i * sizeof(half), sizeof(half));
    return dtype == LORICA_DTYPE_F16 ? lorica_f16_to_f32(half) : lorica_bf16_to_f32(half);
}

static int not_finite(const struct build *build, const struct lorica_tensor *tensor, size_t i) {
    return lorica_fail(build->err, LORICA_EFORMAT,
                       "adapter tensor \"%.160s\" has a value that is not finite (or too large) at "
                       "row %zu, column %zu",
                       tensor->name, i / (size_t)tensor->shape[1], i % (size_t)tensor->shape[1]);
}

static int fill_exact(const struct build *build, const struct lorica_tensor *tensor, float *dst) {
    const uint8_t *bytes = build->weights + tensor->offset;
    const size_t count = (size_t)(tensor->shape[0] * tensor->shape[1]);
    for (size_t i = 0; i < count; i++) {
        dst[i] = element(bytes, tensor->dtype, i);
        if (!isfinite(dst[i]))
            return not_finite(build, tensor, i);
    }
    return 0;
}

/* `count` elements, `step` apart from `first` on, as int8 with a scale. Fails at the first that is
 * not finite. */
static int fill_int8(const struct build *build, const struct lorica_tensor *tensor, size_t first,
                     size_t step, uint32_t count, int8_t *dst, float *ret_scale) {
    float *scratch = build->scratch;
    const uint8_t *bytes = build->weights + tensor->offset;
    if (tensor->dtype == LORICA_DTYPE_F32 && step == 1)
        memcpy(scratch, bytes + first * sizeof(float), count * sizeof(float));
    else
        for (uint32_t i = 0; i < count; i++)
            scratch[i] = element(bytes, tensor->dtype, first + i * step);
    *ret_scale = build->vec.to_int8(dst, scratch, count);
    if (isfinite(*ret_scale))
        return 0;
    uint32_t i = 0;
    while (isfinite(scratch[i]))
        i++;
    return not_finite(build, tensor, first + i * step);
}

/* Where the tiled form has output i and rank j. */
static size_t b8_at(uint32_t rank, uint32_t i, uint32_t j) {
    return ((size_t)(i / LORICA_TILE_ROWS) * rank + j) * LORICA_TILE_ROWS + i % LORICA_TILE_ROWS;
}

/* One rank of a pair: a row of A, and a column of B, whose outputs past n stay 0 as the arena
 * came. */
static int fill_rank(const struct build *build, const struct slot *slot, uint32_t j,
                     const struct lorica_adapter_pair *pair) {
    const uint32_t k = (uint32_t)slot->a->shape[1], n = (uint32_t)slot->b->shape[0];
    float a, b;
    int rc = fill_int8(build, slot->a, (size_t)j * k, 1, k, pair->a8 + (size_t)j * k, &a);
    if (rc == 0)
        rc = fill_int8(build, slot->b, j, slot->rank, n, build->column, &b);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < n; i += LORICA_TILE_ROWS)
        memcpy(pair->b8 + b8_at(slot->rank, i, j), build->column + i,
               n - i < LORICA_TILE_ROWS ? n - i : LORICA_TILE_ROWS);
    pair->scales[j] = (float)((double)a * (double)b * slot->scale);
    if (isfinite(pair->scales[j]))
        return 0;
    return lorica_fail(build->err, LORICA_EFORMAT,
                       "adapter tensor \"%.160s\" and its lora_B have values at rank %u that are "
                       "too large to be multiplied",
                       slot->a->name, j);
}

static int fill_fast(const struct build *build, const struct slot *slot,
                     const struct lorica_adapter_pair *pair) {
    int rc = 0;
    for (uint32_t j = 0; j < slot->rank && rc == 0; j++)
        rc = fill_rank(build, slot, j, pair);
    return rc;
}

/* One pair into the arena at *at. */
static int fill_pair(const struct build *build, unsigned module, const struct slot *slot,
                     struct lorica_adapter_pair *pair, uint8_t **at) {
    size_t a_nbytes, b_nbytes;
    pair_nbytes(build, module, slot->rank, &a_nbytes, &b_nbytes);
    void *a = *at, *b = *at + a_nbytes;
    *at += a_nbytes + b_nbytes;
    pair->rank = slot->rank;
    pair->scale = (float)slot->scale;
    if (build->form == LORICA_ADAPTER_FAST) {
        pair->a8 = a;
        pair->b8 = b;
        pair->scales = (float *)(void *)(*at - aligned(slot->rank * sizeof(float)));
        return fill_fast(build, slot, pair);
    }
    pair->a = a;
    pair->b = b;
    const int rc = fill_exact(build, slot->a, a);
    return rc ? rc : fill_exact(build, slot->b, b);
}

/* Zeroed memory of its own mapping, on huge pages where there are any: all of an adapter is read in
 * every step, in parts too small for small pages. It goes back to the system as soon as an adapter
 * falls out of the cache. NULL when there is none. */
static void *arena_map(size_t nbytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t size = (nbytes + page - 1) / page * page;
    uint8_t *bytes =
        mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
        return NULL;
    const size_t before = (HUGE_PAGE - (uintptr_t)bytes % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0)
        (void)munmap(bytes, before);
    (void)munmap(bytes + before + size, HUGE_PAGE - before);
#ifdef MADV_HUGEPAGE
    (void)madvise(bytes + before, size, MADV_HUGEPAGE);
#endif
    return bytes + before;
}

static void adapter_free(struct lorica_adapter *adapter) {
    if (!adapter)
        return;
    if (adapter->arena)
        (void)munmap(adapter->arena, adapter->arena_nbytes);
    free(adapter->layers);
    free(adapter);
}

/* An adapter with room for all pairs, zeroed. */
static struct lorica_adapter *adapter_allocate(const struct build *build) {
    const size_t count = (size_t)build->arch->layers * LORICA_MODULE_COUNT;
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        size_t a, b;
        pair_nbytes(build, (unsigned)(i % LORICA_MODULE_COUNT), build->slots[i].rank, &a, &b);
        total += a + b;
    }
    struct lorica_adapter *adapter = calloc(1, sizeof(*adapter));
    if (!adapter)
        return NULL;
    adapter->layers = calloc(count, sizeof(*adapter->layers));
    adapter->arena = arena_map(total);
    adapter->arena_nbytes = total;
    if (!adapter->layers || !adapter->arena) {
        adapter_free(adapter);
        return NULL;
    }
    adapter->nbytes = total + sizeof(*adapter) + count * sizeof(*adapter->layers);
    adapter->layer_count = build->arch->layers;
    adapter->refs = 1;
    return adapter;
}

static int build_adapter(const struct build *build, struct lorica_adapter **ret) {
    struct lorica_adapter *adapter = adapter_allocate(build);
    if (!adapter)
        return lorica_fail(build->err, LORICA_ENOMEM, "no memory for an adapter");
    uint8_t *at = adapter->arena;
    const size_t count = (size_t)build->arch->layers * LORICA_MODULE_COUNT;
    for (size_t i = 0; i < count; i++) {
        const struct slot *slot = &build->slots[i];
        if (slot->rank == 0)
            continue;
        if (slot->rank > adapter->max_rank)
            adapter->max_rank = slot->rank;
        const int rc =
            fill_pair(build, (unsigned)(i % LORICA_MODULE_COUNT), slot, &adapter->layers[i], &at);
        if (rc) {
            adapter_free(adapter);
            return rc;
        }
        if (build->between)
            build->between(build->between_arg);
    }
    *ret = adapter;
    return 0;
}

/* The most inputs or outputs that a module has. */
static uint32_t longest_vector(const struct lorica_arch *arch) {
    uint32_t longest = 0;
    for (unsigned m = 0; m < LORICA_MODULE_COUNT; m++) {
        uint32_t n, k;
        lorica_arch_module_shape(arch, (enum lorica_module)m, &n, &k);
        longest = n > longest ? n : longest;
        longest = k > longest ? k : longest;
    }
    return longest;
}

int lorica_adapter_create(const struct lorica_arch *arch, enum lorica_adapter_form form,
                          const char *config, size_t config_len, const void *weights,
                          size_t weights_len, struct lorica_adapter **ret,
                          struct lorica_error *err) {
    return lorica_adapter_create_sparing(arch, form, config, config_len, weights, weights_len, NULL,
                                         NULL, ret, err);
}

int lorica_adapter_create_sparing(const struct lorica_arch *arch, enum lorica_adapter_form form,
                                  const char *config, size_t config_len, const void *weights,
                                  size_t weights_len, void (*between)(void *arg), void *arg,
                                  struct lorica_adapter **ret, struct lorica_error *err) {
    struct build build = {.arch = arch,
                          .form = form,
                          .weights = weights,
                          .between = between,
                          .between_arg = arg,
                          .err = err};
    struct lorica_error local;
    lorica_vec_kernels_init(&build.vec);
    int rc = lorica_peft_parse(config, config_len, &build.config, err);
    if (rc)
        return rc;
    rc = lorica_safetensors_parse(weights, weights_len, weights_len, &build.file, &local);
    if (rc) {
        rc = lorica_fail(err, rc, "adapter_model.safetensors: %s", local.text);
        goto error_config;
    }
    const uint32_t longest = longest_vector(arch);
    build.slots = calloc((size_t)arch->layers * LORICA_MODULE_COUNT, sizeof(*build.slots));
    build.scratch = malloc(longest * sizeof(*build.scratch));
    build.column = malloc(longest);
    rc = build.slots && build.scratch && build.column
             ? check_names(&build)
             : lorica_fail(err, LORICA_ENOMEM, "no memory for an adapter");
    if (!rc)
        rc = assign_tensors(&build);
    if (!rc)
        rc = check_slots(&build);
    if (!rc)
        rc = build_adapter(&build, ret);
    free(build.slots);
    free(build.scratch);
    free(build.column);
    lorica_safetensors_finish(&build.file);
error_config:
    lorica_peft_finish(&build.config);
    return rc;
}

bool lorica_adapter_has_effect(const struct lorica_adapter *adapter) {
    const size_t count = (size_t)adapter->layer_count * LORICA_MODULE_COUNT;
    for (size_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < adapter->layers[i].rank; j++)
            if (adapter->layers[i].scales[j] != 0)
                return true;
    return false;
}

/* Reads exactly `size` bytes. */
static int read_whole(int fd, char *dst, size_t size) {
    size_t done = 0;
    while (done < size) {
        const ssize_t got = read(fd, dst + done, size - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return LORICA_EIO;
        done += (size_t)got;
    }
    return 0;
}

/* DIR/name, whole; caller frees *ret. */
static int read_file(const char *dir, const char *name, size_t max, char **ret, size_t *ret_len,
                     struct lorica_error *err) {
    char path[4096];
    struct stat st;
    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return lorica_fail(err, LORICA_EINVAL, "%.200s...: the path is too long", dir);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lorica_fail(err, errno == ENOENT ? LORICA_ENOTFOUND : LORICA_EIO, "%s: %s", path,
                           strerror(errno));
    int rc = 0;
    char *bytes = NULL;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = lorica_fail(err, LORICA_EINVAL, "%s: not a regular file", path);
    else if ((uint64_t)st.st_size > max)
        rc = lorica_fail(err, LORICA_ELIMIT, "%s: larger than %zu bytes", path, max);
    else if (!(bytes = malloc((size_t)st.st_size + 1)))
        rc = lorica_fail(err, LORICA_ENOMEM, "%s: no memory for it", path);
    else if (read_whole(fd, bytes, (size_t)st.st_size) != 0)
        rc = lorica_fail(err, LORICA_EIO, "%s: could not be read whole", path);
    (void)close(fd);
    if (rc) {
        free(bytes);
        return rc;
    }
    *ret = bytes;
    *ret_len = (size_t)st.st_size;
    return 0;
}

int lorica_adapter_load_dir(const struct lorica_arch *arch, enum lorica_adapter_form form,
                            const char *dir, struct lorica_adapter **ret,
                            struct lorica_error *err) {
    char *config, *weights;
    size_t config_len, weights_len;
    int rc = read_file(dir, "adapter_config.json", MAX_CONFIG_BYTES, &config, &config_len, err);
    if (rc)
        return rc;
    rc =
        read_file(dir, "adapter_model.safetensors", MAX_WEIGHTS_BYTES, &weights, &weights_len, err);
    if (!rc) {
        rc = lorica_adapter_create(arch, form, config, config_len, weights, weights_len, ret, err);
        free(weights);
    }
    free(config);
    return rc;
}

struct lorica_adapter *lorica_adapter_ref(struct lorica_adapter *adapter) {
    if (adapter)
        (void)__atomic_fetch_add(&adapter->refs, 1, __ATOMIC_RELAXED);
    return adapter;
}

struct lorica_adapter *lorica_adapter_unref(struct lorica_adapter *adapter) {
    if (adapter && __atomic_fetch_sub(&adapter->refs, 1, __ATOMIC_ACQ_REL) == 1)
        adapter_free(adapter);
    return NULL;
}
