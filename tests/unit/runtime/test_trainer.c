/* SPDX-License-Identifier: MIT
 * The training loop on the tiny base: which examples go together, that packing and accumulation
 * change no gradient, and which adapter is kept. */
#include "model_fixture.h"

#include "proto/safetensors.h"
#include "runtime/train/full.h"
#include "runtime/train/model.h"
#include "runtime/train/plan.h"
#include "runtime/train/random.h"
#include "runtime/train/save.h"
#include "runtime/train/trainer.h"

#define MOST 64
#define LONGEST 40

static struct lorica_base *base;
static struct lorica_pool *pool;

/* Examples of these lengths, of made-up ids; the first third of each is not learnt. */
struct fixture {
    struct lorica_train_data data;
    struct lorica_train_example examples[MOST];
    int32_t ids[MOST][LONGEST], labels[MOST][LONGEST];
};

static void make(struct fixture *f, const uint32_t *lengths, size_t count, uint64_t seed) {
    assert_true(count <= MOST);
    *f = (struct fixture){.data = {.examples = f->examples, .count = count}};
    for (size_t i = 0; i < count; i++) {
        struct lorica_train_example *e = &f->examples[i];
        *e = (struct lorica_train_example){.ids = f->ids[i], .labels = f->labels[i]};
        e->length = lengths[i];
        for (uint32_t t = 0; t < e->length; t++) {
            f->ids[i][t] = 3 + (int32_t)(lorica_random_next(&seed) % 200);
            f->labels[i][t] = t > e->length / 3 ? f->ids[i][t] : -100;
            e->answers += t > e->length / 3;
        }
    }
}

static void make_random(struct fixture *f, size_t count, uint64_t seed) {
    uint32_t lengths[MOST];
    for (size_t i = 0; i < count; i++)
        lengths[i] = 4 + (uint32_t)(lorica_random_next(&seed) % (LONGEST - 4));
    make(f, lengths, count, seed);
}

static int open_all(void **state) {
    (void)state;
    base = open_golden("tiny");
    return lorica_pool_create(2, &pool, NULL);
}

static int close_all(void **state) {
    (void)state;
    lorica_pool_destroy(pool);
    lorica_base_close(base);
    return 0;
}

static struct lorica_adapter *new_adapter(void) {
    struct lorica_train_spec spec = {.rank = 4, .alpha = 8, .seed = 5};
    struct lorica_adapter *adapter = NULL;
    memset(spec.targets, true, sizeof(spec.targets));
    assert_int_equal(lorica_train_adapter_new(&spec, base, &adapter, NULL), 0);
    return adapter;
}

static struct lorica_trainer_options plain_options(void) {
    struct lorica_trainer_options options;
    lorica_trainer_default_options(&options);
    options.warmup = 0;
    options.schedule = LORICA_SCHEDULE_CONSTANT;
    options.compute = LORICA_TRAIN_EXACT;
    return options;
}

/* -- which examples go together -- */

/* Every example once; rows of a pass within `batch` or, packed, its tokens. */
static void check_epoch(const struct lorica_train_plan *plan,
                        const struct lorica_train_data *data) {
    bool seen[MOST] = {false};
    size_t begin = 0;
    for (size_t p = 0; p < plan->passes; p++) {
        uint32_t tokens = 0;
        assert_true(plan->ends[p] > begin && plan->ends[p] <= data->count);
        assert_true(plan->ends[p] - begin <= plan->max_rows);
        for (; begin < plan->ends[p]; begin++) {
            const size_t example = plan->order[begin];
            assert_false(seen[example]);
            seen[example] = true;
            tokens += lorica_train_example_tokens(&data->examples[example]);
        }
        assert_true(tokens <= plan->max_tokens);
    }
    assert_int_equal(begin, data->count);
}

static void test_every_example_is_learnt_once_an_epoch(void **state) {
    static struct fixture f;
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        for (uint32_t pack = 0; pack <= 100; pack += 50) {
            struct lorica_train_plan plan, again;
            uint64_t random = seed, same = seed;
            bool differs = false;
            make_random(&f, 1 + seed, seed);
            assert_int_equal(lorica_train_plan_init(&plan, &f.data, 3, pack, NULL), 0);
            assert_int_equal(lorica_train_plan_init(&again, &f.data, 3, pack, NULL), 0);
            for (int epoch = 0; epoch < 3; epoch++) {
                lorica_train_plan_shuffle(&plan, &f.data, &random);
                check_epoch(&plan, &f.data);
                differs |= epoch > 0 &&
                           memcmp(plan.order, again.order, f.data.count * sizeof(*plan.order)) != 0;
                lorica_train_plan_shuffle(&again, &f.data, &same);
                assert_memory_equal(plan.order, again.order, f.data.count * sizeof(*plan.order));
                assert_memory_equal(plan.ends, again.ends, plan.passes * sizeof(*plan.ends));
            }
            assert_true(differs || pack > 0 || f.data.count < 20);
            lorica_train_plan_finish(&plan);
            lorica_train_plan_finish(&again);
        }
    }
}

static void test_rows_are_packed_by_best_fit(void **state) {
    /* Tokens are one less than ids. 7 + 3, 6 + 4, 5 + 5; taking each in turn would need 4 rows. */
    static const uint32_t lengths[] = {5, 4, 6, 8, 7, 6};
    static struct fixture f;
    struct lorica_train_plan plan;
    uint64_t random = 1;
    (void)state;
    make(&f, lengths, 6, 1);
    assert_int_equal(lorica_train_plan_init(&plan, &f.data, 1, 10, NULL), 0);
    assert_int_equal(plan.passes, 3);
    lorica_train_plan_shuffle(&plan, &f.data, &random);
    check_epoch(&plan, &f.data);
    lorica_train_plan_finish(&plan);
    /* A row is as long as the longest example at least. */
    assert_int_equal(lorica_train_plan_init(&plan, &f.data, 2, 2, NULL), 0);
    assert_int_equal(plan.pack, 7);
    assert_int_equal(plan.max_tokens, 14);
    lorica_train_plan_finish(&plan);
    assert_int_equal(lorica_train_plan_init(&plan, &f.data, 1u << 31, 10, NULL), LORICA_ELIMIT);
}

static void test_share_is_held_apart_by_the_seed(void **state) {
    static struct fixture f;
    (void)state;
    uint32_t first[3] = {0};
    for (uint64_t run = 0; run < 3; run++) {
        struct lorica_train_data apart = {0};
        make_random(&f, 20, 3);
        for (uint32_t i = 0; i < 20; i++)
            f.examples[i].line = i + 1;
        assert_int_equal(lorica_train_data_split(&f.data, 0.1, run / 2, &apart, NULL), 0);
        assert_int_equal(apart.count, 2);
        assert_int_equal(f.data.count, 18);
        uint64_t lines = 0;
        for (size_t i = 0; i < 2; i++)
            lines |= UINT64_C(1) << apart.examples[i].line;
        for (size_t i = 0; i < 18; i++)
            lines |= UINT64_C(1) << f.data.examples[i].line;
        assert_int_equal(lines, (UINT64_C(1) << 21) - 2);
        first[run] = apart.examples[0].line * 100 + apart.examples[1].line;
        free(apart.examples);
    }
    assert_int_equal(first[0], first[1]);
    assert_int_not_equal(first[0], first[2]);
    struct lorica_train_data apart = {0};
    make_random(&f, 2, 3);
    assert_int_equal(lorica_train_data_split(&f.data, 0.9, 0, &apart, NULL), 0);
    assert_int_equal(apart.count, 1);
    free(apart.examples);
    make_random(&f, 1, 3);
    assert_int_equal(lorica_train_data_split(&f.data, 0.5, 0, &apart, NULL), LORICA_EINVAL);
}

/* -- gradients -- */

static void add_gradients(struct lorica_train_model *model, const struct lorica_adapter *adapter,
                          const struct lorica_train_example *e, size_t count, double *loss,
                          struct lorica_adapter_grads *grads) {
    struct lorica_train_row rows[MOST];
    uint64_t labels = 0;
    for (size_t i = 0; i < count; i++)
        rows[i] = (struct lorica_train_row){e[i].ids, e[i].labels, e[i].length};
    assert_int_equal(
        lorica_train_model_step_rows(model, adapter, rows, count, 0, 0, loss, &labels, grads, NULL),
        0);
}

static void test_packed_examples_have_the_gradients_that_they_have_alone(void **state) {
    static struct fixture f;
    struct lorica_adapter *adapter = new_adapter();
    struct lorica_adapter_grads together, alone;
    struct lorica_train_model *model = NULL;
    double loss_together = 0, loss_alone = 0, difference = 0, size = 0;
    (void)state;
    make_random(&f, 12, 9);
    for (uint32_t l = 0; l < base->arch.layers; l++) /* B is 0 at first, and then dA would be */
        for (int m = 0; m < LORICA_MODULE_COUNT; m++)
            adapter->layers[l * LORICA_MODULE_COUNT + (uint32_t)m].b[0] = 0.1f;
    const struct lorica_train_model_options options = {.max_tokens = 12 * LONGEST, .max_rank = 4};
    assert_int_equal(lorica_train_model_create(base, pool, &options, &model, NULL), 0);
    assert_int_equal(lorica_adapter_grads_init(&together, base, adapter), 0);
    assert_int_equal(lorica_adapter_grads_init(&alone, base, adapter), 0);
    add_gradients(model, adapter, f.examples, 12, &loss_together, &together);
    for (size_t i = 0; i < 12; i++)
        add_gradients(model, adapter, f.examples + i, 1, &loss_alone, &alone);
    assert_true(fabs(loss_together - loss_alone) <= 1e-6 * loss_alone);
    for (size_t i = 0; i < alone.count; i++) {
        const double d = (double)together.values[i] - (double)alone.values[i];
        difference += d * d;
        size += (double)alone.values[i] * (double)alone.values[i];
    }
    assert_true(size > 0 && sqrt(difference) <= 1e-5 * sqrt(size));
    lorica_adapter_grads_finish(&together);
    lorica_adapter_grads_finish(&alone);
    lorica_train_model_destroy(model);
    lorica_adapter_unref(adapter);
}

/* The adapter after one update over all of the data. */
static struct lorica_adapter *one_update(const struct lorica_train_data *data, uint32_t batch,
                                         uint32_t accumulate, uint32_t pack, double *ret_loss) {
    struct lorica_adapter *adapter = new_adapter();
    struct lorica_trainer_options options = plain_options();
    struct lorica_trainer_result result;
    struct lorica_error err = {0};
    options.batch = batch;
    options.accumulate = accumulate;
    options.pack = pack;
    options.steps = 1;
    options.adamw.eps = 1e-2; /* so that tiny gradients make no great steps */
    if (lorica_trainer_run(base, pool, data, &options, adapter, NULL, NULL, &result, &err) != 0)
        fail_msg("%s", err.text);
    *ret_loss = result.loss;
    return adapter;
}

static void test_batch_accumulation_and_packing_make_the_same_update(void **state) {
    static struct fixture f;
    static const uint32_t ways[][3] = {{12, 1, 0}, {1, 12, 0}, {3, 4, 0}, {1, 1, 500}, {5, 3, 0}};
    struct lorica_adapter *first = NULL;
    double want = 0;
    (void)state;
    make_random(&f, 12, 4);
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        double loss = 0;
        struct lorica_adapter *adapter =
            one_update(&f.data, ways[w][0], ways[w][1], ways[w][2], &loss);
        if (!first) {
            first = adapter;
            want = loss;
            continue;
        }
        assert_true(fabs(loss - want) <= 1e-6 * want);
        for (uint32_t i = 0; i < base->arch.layers * LORICA_MODULE_COUNT; i++) {
            uint32_t n, k;
            lorica_arch_module_shape(&base->arch, (enum lorica_module)(i % LORICA_MODULE_COUNT), &n,
                                     &k);
            for (size_t j = 0; j < (size_t)4 * n; j++)
                assert_true(fabsf(adapter->layers[i].b[j] - first->layers[i].b[j]) <= 1e-7f);
        }
        lorica_adapter_unref(adapter);
    }
    lorica_adapter_unref(first);
}

/* -- a whole model against PyTorch (tests/golden/make_full.py) -- */

static char *read_golden(const char *name, struct lorica_safetensors *ret) {
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/golden/full/%s.safetensors", TEST_DATA, name);
    FILE *file = fopen(path, "rbe");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const size_t len = (size_t)ftell(file);
    char *bytes = malloc(len);
    assert_non_null(bytes);
    rewind(file);
    assert_int_equal(fread(bytes, 1, len, file), len);
    (void)fclose(file);
    assert_int_equal(lorica_safetensors_parse(bytes, len, len, ret, NULL), 0);
    return bytes;
}

/* The expected gradient, every eighth row of a matrix, against ours over the number of labels. */
static void check_gradient(const char *bytes, const struct lorica_safetensors *expected,
                           const char *name, const float *grad, uint32_t n, uint32_t k,
                           uint64_t labels) {
    char full_name[100];
    (void)snprintf(full_name, sizeof(full_name), "grad.%s.weight", name);
    const struct lorica_tensor *t = lorica_safetensors_find(expected, full_name);
    double difference = 0, size = 0;
    assert_non_null(t);
    assert_int_equal(t->nbytes, (size_t)((n + 7) / 8) * k * sizeof(float));
    for (size_t i = 0; i < n; i += 8)
        for (size_t j = 0; j < k; j++) {
            float wanted;
            memcpy(&wanted, bytes + t->offset + (i / 8 * k + j) * sizeof(float), sizeof(wanted));
            const double d = (double)grad[i * k + j] / (double)labels - (double)wanted;
            difference += d * d;
            size += (double)wanted * (double)wanted;
        }
    if (!(size > 0 && sqrt(difference) <= 1e-4 * sqrt(size)))
        fail_msg("%s: %g of %g", name, sqrt(difference), sqrt(size));
}

static void check_gradients(const struct lorica_full *full, const char *bytes,
                            const struct lorica_safetensors *expected, uint64_t labels) {
    const struct lorica_base *b = &full->base;
    char name[100];
    check_gradient(bytes, expected, "model.embed_tokens", lorica_full_grad(full, b->embed.data),
                   b->arch.vocab, b->arch.hidden, labels);
    if (!b->arch.tied_head)
        check_gradient(bytes, expected, "lm_head", lorica_full_grad(full, b->head.data),
                       b->arch.vocab, b->arch.hidden, labels);
    check_gradient(bytes, expected, "model.norm", lorica_full_grad(full, b->final_norm), 1,
                   b->arch.hidden, labels);
    for (uint32_t l = 0; l < b->arch.layers; l++) {
        (void)snprintf(name, sizeof(name), "model.layers.%u.input_layernorm", l);
        check_gradient(bytes, expected, name, lorica_full_grad(full, b->layers[l].attn_norm), 1,
                       b->arch.hidden, labels);
        (void)snprintf(name, sizeof(name), "model.layers.%u.post_attention_layernorm", l);
        check_gradient(bytes, expected, name, lorica_full_grad(full, b->layers[l].mlp_norm), 1,
                       b->arch.hidden, labels);
        for (int m = 0; m < LORICA_MODULE_COUNT; m++) {
            const struct lorica_matrix *w = &b->layers[l].modules[m];
            (void)snprintf(name, sizeof(name), "model.layers.%u.%s", l, lorica_module_paths[m]);
            check_gradient(bytes, expected, name, lorica_full_grad(full, w->data), w->n, w->k,
                           labels);
        }
    }
}

static void check_full(const char *model_name, const char *trace_name, const char *expected_name) {
    struct lorica_safetensors trace = {0}, expected = {0};
    char *trace_bytes = read_golden(trace_name, &trace),
         *expected_bytes = read_golden(expected_name, &expected);
    const struct lorica_tensor *ids = lorica_safetensors_find(&trace, "input_ids"),
                               *labels = lorica_safetensors_find(&trace, "labels");
    const uint32_t batch = (uint32_t)ids->shape[1], time = (uint32_t)ids->shape[2];
    const size_t nbytes = sizeof(int32_t) * batch * time;
    struct lorica_base *source = open_golden(model_name);
    struct lorica_full *full = NULL;
    struct lorica_train_model *model = NULL;
    struct lorica_adapter_grads none = {0};
    int32_t *own_ids = malloc(nbytes), *own_labels = malloc(nbytes);
    double loss = 0;
    uint64_t count = 0;
    assert_true(own_ids && own_labels);
    memcpy(own_ids, trace_bytes + ids->offset, nbytes);
    memcpy(own_labels, trace_bytes + labels->offset, nbytes);
    assert_int_equal(lorica_full_create(source, &full, NULL), 0);
    const struct lorica_train_model_options options = {
        .max_tokens = batch * time, .keep_bytes = LORICA_TRAIN_KEEP_BYTES, .full = full};
    assert_int_equal(lorica_train_model_create(&full->base, pool, &options, &model, NULL), 0);
    assert_int_equal(lorica_train_model_step(model, NULL, own_ids, own_labels, batch, time, 0, 0,
                                             &loss, &count, &none, NULL),
                     0);
    check_gradients(full, expected_bytes, &expected, count);
    lorica_train_model_destroy(model);
    lorica_full_destroy(full);
    lorica_base_close(source);
    lorica_safetensors_finish(&trace);
    lorica_safetensors_finish(&expected);
    free(trace_bytes);
    free(expected_bytes);
    free(own_ids);
    free(own_labels);
}

static void test_gradients_of_every_weight_are_those_of_pytorch(void **state) {
    (void)state;
    check_full("tiny", "tied/trace", "tied/expected");
    check_full("tiny-odd", "untied/trace", "untied/expected");
}

/* -- what is kept -- */

struct heard {
    double lowest, before;
    uint64_t lowest_step, evals, last;
};

static void hear(void *arg, const struct lorica_trainer_progress *p) {
    struct heard *heard = arg;
    if (p->step == 0)
        heard->before = p->eval_loss;
    else if (isfinite(p->eval_loss) && (heard->evals == 0 || p->eval_loss < heard->lowest)) {
        heard->lowest = p->eval_loss;
        heard->lowest_step = p->step;
    }
    heard->evals += p->step > 0 && isfinite(p->eval_loss);
    heard->last = p->step;
}

static void test_adapter_with_the_lowest_loss_is_the_result(void **state) {
    static struct fixture f, other;
    struct lorica_trainer_options options = plain_options();
    struct lorica_trainer_result result;
    (void)state;
    make_random(&f, 8, 4);
    make_random(&other, 8, 77); /* nothing to learn here: the loss on it rises in the end */
    options.held_apart = &other.data;
    options.lr = 0.01;
    options.steps = 40;
    options.eval_every = 4;
    for (uint32_t patience = 0; patience < 3; patience += 2) {
        struct lorica_adapter *adapter = new_adapter();
        struct heard heard = {0};
        struct lorica_error err = {0};
        options.patience = patience;
        if (lorica_trainer_run(base, pool, &f.data, &options, adapter, hear, &heard, &result,
                               &err) != 0)
            fail_msg("%s", err.text);
        assert_true(heard.lowest == result.eval_loss);
        assert_true(heard.before == result.eval_loss_before);
        assert_int_equal(result.best_step, heard.lowest_step);
        assert_int_equal(result.steps, heard.last);
        assert_true(result.best_step < result.steps);
        assert_int_equal(result.stopped, patience > 0);
        assert_int_equal(result.steps, patience ? result.best_step + 8 : 40);
        /* The adapter is that one: its loss, measured again, is the lowest. */
        struct lorica_trainer_options again = plain_options();
        struct heard check = {0};
        again.held_apart = &other.data;
        again.lr = 1e-9;
        again.steps = 1;
        assert_int_equal(
            lorica_trainer_run(base, pool, &f.data, &again, adapter, hear, &check, &result, NULL),
            0);
        assert_true(fabs(check.lowest - heard.lowest) <= 1e-5);
        lorica_adapter_unref(adapter);
    }
}

static void test_learning_rate_that_diverges_is_named(void **state) {
    static struct fixture f;
    struct lorica_trainer_options options = plain_options();
    struct lorica_trainer_result result;
    struct lorica_adapter *adapter = new_adapter();
    struct lorica_error err = {0};
    (void)state;
    make_random(&f, 3, 4);
    options.lr = 0.01;
    options.steps = 150;
    assert_int_equal(
        lorica_trainer_run(base, pool, &f.data, &options, adapter, NULL, NULL, &result, &err), 0);
    assert_true(result.loss < 2); /* from here it can rise: what the tiny model guesses costs 6 */
    options.lr = 30;
    assert_int_equal(
        lorica_trainer_run(base, pool, &f.data, &options, adapter, NULL, NULL, &result, &err),
        LORICA_EINVAL);
    assert_non_null(strstr(err.text, "learning rate 30"));
    assert_non_null(strstr(err.text, "--lr"));
    lorica_adapter_unref(adapter);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_example_is_learnt_once_an_epoch),
        cmocka_unit_test(test_rows_are_packed_by_best_fit),
        cmocka_unit_test(test_share_is_held_apart_by_the_seed),
        cmocka_unit_test(test_packed_examples_have_the_gradients_that_they_have_alone),
        cmocka_unit_test(test_batch_accumulation_and_packing_make_the_same_update),
        cmocka_unit_test(test_gradients_of_every_weight_are_those_of_pytorch),
        cmocka_unit_test(test_adapter_with_the_lowest_loss_is_the_result),
        cmocka_unit_test(test_learning_rate_that_diverges_is_named),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
