/* SPDX-License-Identifier: MIT
 * The training step on a small random model: gradients against finite differences, and that no
 * result depends on threads, memory, padding or neighbours. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cpu.h"
#include "runtime/train/model.h"

#define LAYERS 3
#define VOCAB 50
#define HIDDEN 64
#define TIME 20
#define BATCH 3
#define LONG 131 /* more than attention takes at a time, and odd */
#define RANK 4

/* A model whose matrices have every format, and an adapter on all its modules. */
struct fixture {
    struct lorica_base base;
    struct lorica_layer layers[LAYERS];
    struct lorica_adapter_pair pairs[LAYERS * LORICA_MODULE_COUNT];
    struct lorica_adapter adapter;
    int32_t ids[LONG], labels[LONG];
    uint32_t batch, time; /* how a step takes them */
    void *owned[256];
    size_t owned_count;
};

static uint64_t random_state;

static float uniform(void) { /* in [-1, 1) */
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) / 8388608.0f - 1.0f;
}

static void *keep(struct fixture *f, size_t nbytes) {
    void *block = calloc(1, nbytes + 64);
    assert_non_null(block);
    assert_true(f->owned_count < 256);
    f->owned[f->owned_count++] = block;
    return block;
}

static float *randoms(struct fixture *f, size_t count, float scale) {
    float *values = keep(f, count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = uniform() * scale;
    return values;
}

static struct lorica_matrix matrix(struct fixture *f, enum lorica_format format, uint32_t n,
                                   uint32_t k) {
    struct lorica_matrix m = {.format = format, .n = n, .k = k};
    float *values = randoms(f, (size_t)n * k, 1.5f / sqrtf((float)k));
    uint16_t *half = keep(f, (size_t)n * k * 2);
    uint8_t *codes = keep(f, lorica_matrix_data_nbytes(format, n, k));
    m.data = codes;
    if (format == LORICA_FORMAT_F32) {
        m.data = values;
    } else if (format == LORICA_FORMAT_BF16) {
        for (size_t i = 0; i < (size_t)n * k; i++)
            half[i] = lorica_f32_to_bf16(values[i]);
        m.data = half;
    } else if (format == LORICA_FORMAT_Q8) {
        uint16_t *scales = keep(f, (size_t)lorica_matrix_tiles(&m) * 16 * (k / 32) * 2);
        lorica_q8_quantise(values, n, k, (int8_t *)codes, scales);
        m.scales = scales;
    } else {
        float *absmax = keep(f, ((size_t)n * k / 64 + 1) * sizeof(float));
        uint8_t *flat = keep(f, (size_t)n * k / 2 + 1);
        lorica_nf4_quantise(values, (size_t)n * k, flat, absmax);
        if (k % 64 == 0)
            lorica_nf4_tile(codes, flat, n, k);
        else
            memcpy(codes, flat, ((size_t)n * k + 1) / 2);
        m.absmax = absmax;
    }
    return m;
}

static float *norm_weights(struct fixture *f) {
    float *values = randoms(f, HIDDEN, 0.3f);
    for (int i = 0; i < HIDDEN; i++)
        values[i] += 1.0f;
    return values;
}

static void add_pair(struct fixture *f, uint32_t layer, int module) {
    struct lorica_adapter_pair *pair = &f->pairs[layer * LORICA_MODULE_COUNT + (uint32_t)module];
    uint32_t n, k;
    lorica_arch_module_shape(&f->base.arch, (enum lorica_module)module, &n, &k);
    pair->rank = RANK;
    pair->scale = 1.5f;
    pair->a = randoms(f, (size_t)RANK * k, 0.2f);
    pair->b = randoms(f, (size_t)n * RANK, 0.2f);
}

static int setup_of(void **state, const enum lorica_format formats[5], uint32_t head_dim,
                    uint32_t intermediate) {
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    random_state = 7;
    f->base.arch = (struct lorica_arch){.vocab = VOCAB,
                                        .hidden = HIDDEN,
                                        .layers = LAYERS,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = head_dim,
                                        .intermediate = intermediate,
                                        .max_positions = 256,
                                        .rms_eps = 1e-5f,
                                        .rope_theta = 10000};
    f->base.embed = matrix(f, LORICA_FORMAT_F32, VOCAB, HIDDEN);
    f->base.head = matrix(f, LORICA_FORMAT_Q8, VOCAB, HIDDEN);
    f->base.final_norm = norm_weights(f);
    f->base.layers = f->layers;
    for (uint32_t l = 0; l < LAYERS; l++) {
        f->layers[l].attn_norm = norm_weights(f);
        f->layers[l].mlp_norm = norm_weights(f);
        for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
            uint32_t n, k;
            lorica_arch_module_shape(&f->base.arch, (enum lorica_module)m, &n, &k);
            enum lorica_format format = formats[(l + (uint32_t)m) % 5];
            if (format == LORICA_FORMAT_Q8 && k % 32 != 0)
                format = LORICA_FORMAT_NF4;
            f->layers[l].modules[m] = matrix(f, format, n, k);
            if (l > 0)
                add_pair(f, l, m);
        }
    }
    f->adapter =
        (struct lorica_adapter){.layers = f->pairs, .layer_count = LAYERS, .max_rank = RANK};
    f->batch = BATCH;
    f->time = TIME;
    for (int i = 0; i < BATCH * TIME; i++) {
        f->ids[i] = (int32_t)((uniform() + 1) * VOCAB / 2);
        f->labels[i] = i % TIME < 5 || i % TIME >= TIME - i / TIME * 3 ? -100 : f->ids[i];
    }
    *state = f;
    return 0;
}

static int setup(void **state) {
    static const enum lorica_format formats[5] = {LORICA_FORMAT_NF4, LORICA_FORMAT_F32,
                                                  LORICA_FORMAT_NF4, LORICA_FORMAT_BF16,
                                                  LORICA_FORMAT_Q8};
    return setup_of(state, formats, 12, 96);
}

/* All matrices in tiles, some of whose last rows fill none. */
static int setup_tiled(void **state) {
    static const enum lorica_format formats[5] = {LORICA_FORMAT_NF4, LORICA_FORMAT_NF4,
                                                  LORICA_FORMAT_Q8, LORICA_FORMAT_NF4,
                                                  LORICA_FORMAT_NF4};
    return setup_of(state, formats, 16, 192);
}

/* One sequence of many blocks of queries. */
static int setup_long(void **state) {
    const int rc = setup(state);
    struct fixture *f = *state;
    f->batch = 1;
    f->time = LONG;
    for (int i = 0; i < LONG; i++)
        f->labels[i] = f->ids[i] = (int32_t)((uniform() + 1) * VOCAB / 2);
    return rc;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    for (size_t i = 0; i < f->owned_count; i++)
        free(f->owned[i]);
    free(f);
    return 0;
}

/* One step; returns the summed loss, and leaves the gradients in *grads when not NULL. */
static double compute_step(const struct fixture *f, enum lorica_train_compute compute,
                           unsigned threads, size_t keep_bytes, float dropout, uint32_t batch,
                           uint32_t time, const int32_t *ids, const int32_t *labels,
                           struct lorica_adapter_grads *grads) {
    const struct lorica_train_model_options options = {.compute = compute,
                                                       .max_tokens = LONG,
                                                       .max_rank = RANK,
                                                       .dropout = dropout > 0,
                                                       .keep_bytes = keep_bytes};
    struct lorica_train_model *model = NULL;
    struct lorica_pool *pool = NULL;
    struct lorica_error err = {0};
    double sum = 0;
    uint64_t count = 0;
    assert_int_equal(lorica_pool_create(threads, &pool, &err), 0);
    assert_int_equal(lorica_train_model_create(&f->base, pool, &options, &model, &err), 0);
    if (grads)
        assert_int_equal(lorica_adapter_grads_init(grads, &f->base, &f->adapter), 0);
    assert_int_equal(lorica_train_model_step(model, &f->adapter, ids, labels, batch, time, dropout,
                                             5, &sum, &count, grads, &err),
                     0);
    assert_true(count > 0);
    lorica_train_model_destroy(model);
    lorica_pool_destroy(pool);
    return sum;
}

static double step(const struct fixture *f, unsigned threads, size_t keep_bytes, float dropout,
                   uint32_t batch, uint32_t time, const int32_t *ids, const int32_t *labels,
                   struct lorica_adapter_grads *grads) {
    return compute_step(f, LORICA_TRAIN_EXACT, threads, keep_bytes, dropout, batch, time, ids,
                        labels, grads);
}

static double loss(const struct fixture *f) {
    return step(f, 1, SIZE_MAX, 0, f->batch, f->time, f->ids, f->labels, NULL);
}

/* Slope of the loss along a random direction, by differences and by the gradient. */
static void check_direction(struct fixture *f, float *values, const float *grad, size_t count) {
    float *direction = keep(f, count * sizeof(float)), *before = keep(f, count * sizeof(float));
    const float step_size = 2e-3f;
    double analytic = 0, ends[2];
    memcpy(before, values, count * sizeof(float));
    for (size_t i = 0; i < count; i++) {
        direction[i] = uniform();
        analytic += (double)direction[i] * (double)grad[i];
    }
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < count; i++)
            values[i] = before[i] + (side ? -step_size : step_size) * direction[i];
        ends[side] = loss(f);
    }
    memcpy(values, before, count * sizeof(float));
    const double numeric = (ends[0] - ends[1]) / (2.0 * (double)step_size);
    assert_true(fabs(numeric - analytic) < 3e-3 * fmax(1.0, fabs(numeric)));
}

static void test_gradient_every_module_agrees_with_differences(void **state) {
    struct fixture *f = *state;
    struct lorica_adapter_grads grads = {0};
    (void)step(f, 2, SIZE_MAX, 0, f->batch, f->time, f->ids, f->labels, &grads);
    for (uint32_t l = 1; l < LAYERS; l++) {
        for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
            const size_t at = l * LORICA_MODULE_COUNT + (uint32_t)m;
            uint32_t n, k;
            lorica_arch_module_shape(&f->base.arch, (enum lorica_module)m, &n, &k);
            check_direction(f, f->pairs[at].a, grads.da[at], (size_t)RANK * k);
            check_direction(f, f->pairs[at].b, grads.db[at], (size_t)RANK * n);
        }
    }
    lorica_adapter_grads_finish(&grads);
}

static void test_step_threads_and_memory_same_bits(void **state) {
    struct fixture *f = *state;
    for (int dropout = 0; dropout < 2; dropout++) {
        const float p = dropout ? 0.25f : 0;
        struct lorica_adapter_grads first = {0}, other = {0};
        const double sum = step(f, 1, SIZE_MAX, p, BATCH, TIME, f->ids, f->labels, &first);
        for (unsigned threads = 2; threads <= 4; threads++) {
            const size_t kept = threads == 2 ? 0 : threads == 3 ? 300000 : SIZE_MAX;
            assert_true(step(f, threads, kept, p, BATCH, TIME, f->ids, f->labels, &other) == sum);
            assert_memory_equal(first.values, other.values, first.count * sizeof(float));
            lorica_adapter_grads_finish(&other);
        }
        lorica_adapter_grads_finish(&first);
    }
}

/* |a - b| / |b| */
static double distance(const float *a, const float *b, size_t count) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / size);
}

/* The fast mode's loss and gradients are near the exact ones. In C inputs of products stay float32,
 * while what is kept has eight bits, and turned weights have, too. Elsewhere products with tiles
 * round weights to one in 200 of the largest of a block and their inputs to one in 127: a percent
 * each time, and some twenty of them lie behind each other. */
static void check_fast_step(struct fixture *f) {
    const double most = lorica_cpu_level() == LORICA_CPU_C ? 0.015 : 0.12;
    for (int dropout = 0; dropout < 2; dropout++) {
        const float p = dropout ? 0.25f : 0;
        struct lorica_adapter_grads exact = {0}, fast = {0};
        const double want = step(f, 2, SIZE_MAX, p, f->batch, f->time, f->ids, f->labels, &exact);
        for (size_t keep = 0; keep < 2; keep++) {
            const double got = compute_step(f, LORICA_TRAIN_FAST, 2, keep ? SIZE_MAX : 0, p,
                                            f->batch, f->time, f->ids, f->labels, &fast);
            assert_true(fabs(got - want) < 5e-3 * want);
            for (uint32_t i = LORICA_MODULE_COUNT; i < LAYERS * LORICA_MODULE_COUNT; i++) {
                uint32_t n, k;
                lorica_arch_module_shape(&f->base.arch,
                                         (enum lorica_module)(i % LORICA_MODULE_COUNT), &n, &k);
                assert_true(distance(fast.da[i], exact.da[i], (size_t)RANK * k) < most);
                assert_true(distance(fast.db[i], exact.db[i], (size_t)RANK * n) < most);
            }
            lorica_adapter_grads_finish(&fast);
        }
        lorica_adapter_grads_finish(&exact);
    }
}

static void check_fast_threads(struct fixture *f) {
    struct lorica_adapter_grads first = {0}, other = {0};
    const double sum = compute_step(f, LORICA_TRAIN_FAST, 1, SIZE_MAX, 0.25f, f->batch, f->time,
                                    f->ids, f->labels, &first);
    for (unsigned threads = 2; threads <= 5; threads++) {
        assert_true(compute_step(f, LORICA_TRAIN_FAST, threads, SIZE_MAX, 0.25f, f->batch, f->time,
                                 f->ids, f->labels, &other) == sum);
        assert_memory_equal(first.values, other.values, first.count * sizeof(float));
        lorica_adapter_grads_finish(&other);
    }
    lorica_adapter_grads_finish(&first);
}

/* Every level that this machine runs has a fast way of its own. */
static void test_fast_step_every_level_near_exact_and_same_bits(void **state) {
    static const enum lorica_cpu_level levels[] = {LORICA_CPU_C, LORICA_CPU_AVX2, LORICA_CPU_AVX512,
                                                   LORICA_CPU_NEON};
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (!lorica_cpu_supports(levels[i]))
            continue;
        assert_int_equal(lorica_cpu_limit(levels[i]), 0);
        check_fast_step(*state);
        check_fast_threads(*state);
    }
    assert_int_equal(lorica_cpu_limit(lorica_cpu_detect()), 0);
}

static void test_step_padding_changes_nothing(void **state) {
    struct fixture *f = *state;
    int32_t ids[BATCH * (TIME + 9)], labels[BATCH * (TIME + 9)];
    struct lorica_adapter_grads first = {0}, padded = {0};
    for (int b = 0; b < BATCH; b++) {
        for (int t = 0; t < TIME + 9; t++) {
            ids[b * (TIME + 9) + t] = t < TIME ? f->ids[b * TIME + t] : 3;
            labels[b * (TIME + 9) + t] = t < TIME ? f->labels[b * TIME + t] : -100;
        }
    }
    const double sum = step(f, 2, SIZE_MAX, 0, BATCH, TIME, f->ids, f->labels, &first);
    assert_true(step(f, 2, SIZE_MAX, 0, BATCH, TIME + 9, ids, labels, &padded) == sum);
    assert_memory_equal(first.values, padded.values, first.count * sizeof(float));
    lorica_adapter_grads_finish(&first);
    lorica_adapter_grads_finish(&padded);
}

static void test_step_batch_is_the_sum_of_its_rows(void **state) {
    struct fixture *f = *state;
    double sum = 0;
    for (int b = 0; b < BATCH; b++)
        sum += step(f, 2, SIZE_MAX, 0, 1, TIME, f->ids + b * TIME, f->labels + b * TIME, NULL);
    assert_true(fabs(sum - loss(f)) < 1e-9 * fabs(sum));
}

static void test_loss_agrees_with_exact_logits(void **state) {
    struct fixture *f = *state;
    float *logits = keep(f, (size_t)BATCH * TIME * VOCAB * sizeof(float));
    struct lorica_pool *pool = NULL;
    struct lorica_error err = {0};
    double sum = 0;
    assert_int_equal(lorica_pool_create(2, &pool, &err), 0);
    assert_int_equal(
        lorica_exact_logits(&f->base, &f->adapter, pool, f->ids, BATCH, TIME, logits, &err), 0);
    for (int i = 1; i < BATCH * TIME; i++) {
        const float *row = logits + (size_t)(i - 1) * VOCAB;
        double total = 0;
        if (i % TIME == 0 || f->labels[i] == -100)
            continue;
        for (int v = 0; v < VOCAB; v++)
            total += exp((double)row[v]);
        sum += log(total) - (double)row[f->labels[i]];
    }
    assert_true(fabs(sum - loss(f)) < 1e-5 * sum);
    lorica_pool_destroy(pool);
}

static void test_step_bad_input_refused(void **state) {
    struct fixture *f = *state;
    const struct lorica_train_model_options options = {
        .max_tokens = 30, .max_rank = RANK, .keep_bytes = SIZE_MAX};
    struct lorica_train_model *model = NULL;
    struct lorica_pool *pool = NULL;
    struct lorica_error err = {0};
    int32_t labels[TIME];
    double sum = 0;
    uint64_t count = 0;
    assert_int_equal(lorica_pool_create(1, &pool, &err), 0);
    assert_int_equal(lorica_train_model_create(&f->base, pool, &options, &model, &err), 0);
    assert_int_equal(lorica_train_model_step(model, &f->adapter, f->ids, f->labels, BATCH, TIME, 0,
                                             0, &sum, &count, NULL, &err),
                     LORICA_EINVAL); /* too many tokens */
    f->ids[3] = VOCAB;
    assert_int_equal(lorica_train_model_step(model, &f->adapter, f->ids, f->labels, 1, TIME, 0, 0,
                                             &sum, &count, NULL, &err),
                     LORICA_EINVAL);
    assert_non_null(strstr(err.text, "50"));
    f->ids[3] = 0;
    memcpy(labels, f->labels, sizeof(labels));
    labels[8] = -5;
    assert_int_equal(lorica_train_model_step(model, &f->adapter, f->ids, labels, 1, TIME, 0, 0,
                                             &sum, &count, NULL, &err),
                     LORICA_EINVAL);
    for (int i = 0; i < TIME; i++)
        labels[i] = -100;
    assert_int_equal(lorica_train_model_step(model, &f->adapter, f->ids, labels, 1, TIME, 0, 0,
                                             &sum, &count, NULL, &err),
                     LORICA_EINVAL);
    assert_true(sum == 0 && count == 0);
    lorica_train_model_destroy(model);
    lorica_pool_destroy(pool);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_gradient_every_module_agrees_with_differences),
        cmocka_unit_test_setup_teardown(test_gradient_every_module_agrees_with_differences,
                                        setup_long, teardown),
        T(test_step_threads_and_memory_same_bits),
        T(test_fast_step_every_level_near_exact_and_same_bits),
        cmocka_unit_test_setup_teardown(test_fast_step_every_level_near_exact_and_same_bits,
                                        setup_tiled, teardown),
        cmocka_unit_test_setup_teardown(test_fast_step_every_level_near_exact_and_same_bits,
                                        setup_long, teardown),
        T(test_step_padding_changes_nothing),
        T(test_step_batch_is_the_sum_of_its_rows),
        T(test_loss_agrees_with_exact_logits),
        T(test_step_bad_input_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
