/* SPDX-License-Identifier: MIT
 * AdamW with its state in float32 and in 8 bits, in memory and in a file, on teams of any size; and
 * checkpoints. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/train/checkpoint.h"
#include "runtime/train/optim.h"

#define ARRAYS 3
#define MOST 20000
#define UPDATES 60

static const size_t counts[ARRAYS] = {20000, 257, 3};

struct fixture {
    float params[ARRAYS][MOST], grads[ARRAYS][MOST];
    double exact[ARRAYS][MOST], mean[ARRAYS][MOST], square[ARRAYS][MOST];
    struct lorica_adamw_array arrays[ARRAYS];
};

static uint64_t random_state;

static float uniform(void) { /* in [-1, 1) */
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) / 8388608.0f - 1.0f;
}

static void begin(struct fixture *f) {
    memset(f, 0, sizeof(*f));
    random_state = 5;
    for (int a = 0; a < ARRAYS; a++) {
        f->arrays[a] = (struct lorica_adamw_array){f->params[a], f->grads[a], counts[a], false};
        for (size_t i = 0; i < counts[a]; i++)
            f->exact[a][i] = (double)(f->params[a][i] = uniform());
    }
}

/* Gradients whose sizes differ as those of a model do. */
static void new_grads(struct fixture *f) {
    for (int a = 0; a < ARRAYS; a++)
        for (size_t i = 0; i < counts[a]; i++)
            f->grads[a][i] =
                (0.3f * uniform() + (i % 3 ? 0.2f : -0.1f)) * (float)pow(10, -(double)(i % 5) / 2);
}

static void exact_update(struct fixture *f, const struct lorica_adamw_options *o, double lr,
                         double factor, int step) {
    for (int a = 0; a < ARRAYS; a++)
        for (size_t i = 0; i < counts[a]; i++) {
            const double g = (double)f->grads[a][i] * factor;
            f->mean[a][i] = o->beta1 * f->mean[a][i] + (1 - o->beta1) * g;
            f->square[a][i] = o->beta2 * f->square[a][i] + (1 - o->beta2) * g * g;
            f->exact[a][i] *= 1 - lr * o->weight_decay;
            f->exact[a][i] -= lr * f->mean[a][i] / (1 - pow(o->beta1, step)) /
                              (sqrt(f->square[a][i] / (1 - pow(o->beta2, step))) + o->eps);
        }
}

/* Runs, and gives the largest distance of a parameter from the exact one. */
static double run(struct fixture *f, bool eight_bit, unsigned threads, const char *dir) {
    struct lorica_adamw_options o;
    struct lorica_adamw adamw;
    struct lorica_pool *pool = NULL;
    struct lorica_error err = {0};
    double worst = 0;
    lorica_adamw_default_options(&o);
    o.weight_decay = 0.01;
    o.eight_bit = eight_bit;
    begin(f);
    assert_int_equal(lorica_pool_create(threads, &pool, &err), 0);
    assert_int_equal(lorica_adamw_init(&adamw, &o, f->arrays, ARRAYS, dir, &err), 0);
    for (int step = 1; step <= UPDATES; step++) {
        new_grads(f);
        lorica_adamw_update(&adamw, pool, 1e-3, 0.7);
        exact_update(f, &o, 1e-3, 0.7, step);
    }
    for (int a = 0; a < ARRAYS; a++)
        for (size_t i = 0; i < counts[a]; i++)
            worst = fmax(worst, fabs((double)f->params[a][i] - f->exact[a][i]));
    lorica_adamw_finish(&adamw);
    lorica_pool_destroy(pool);
    return worst;
}

static void test_update_agrees_with_double_arithmetic(void **state) {
    assert_true(run(*state, false, 2, NULL) < 2e-6);
}

/* The coarse moments make each step a little longer or shorter; over many steps and parameters that
 * evens out. */
static void test_eight_bits_stay_near(void **state) {
    static float start[MOST];
    struct fixture *f = *state;
    double off = 0, moved = 0;
    begin(f);
    memcpy(start, f->params[0], sizeof(start));
    assert_true(run(f, true, 2, NULL) < 0.03); /* of 60 steps of up to 1e-3 each */
    for (size_t i = 0; i < counts[0]; i++) {
        const double way = f->exact[0][i] - (double)start[i];
        const double error = (double)f->params[0][i] - f->exact[0][i];
        moved += way * way;
        off += error * error;
    }
    assert_true(off < 0.02 * moved);
}

static void test_place_and_threads_change_no_bit(void **state) {
    static float first[ARRAYS][MOST];
    struct fixture *f = *state;
    for (int eight_bit = 0; eight_bit < 2; eight_bit++) {
        (void)run(f, eight_bit, 1, NULL);
        memcpy(first, f->params, sizeof(first));
        for (unsigned threads = 1; threads <= 4; threads++) {
            (void)run(f, eight_bit, threads, threads % 2 ? "/tmp" : NULL);
            assert_memory_equal(first, f->params, sizeof(first));
        }
    }
}

static void test_norm_agrees_and_threads_change_no_bit(void **state) {
    struct fixture *f = *state;
    struct lorica_adamw_options o;
    struct lorica_adamw adamw;
    struct lorica_error err = {0};
    double sum = 0, first = 0;
    lorica_adamw_default_options(&o);
    begin(f);
    new_grads(f);
    for (int a = 0; a < ARRAYS; a++)
        for (size_t i = 0; i < counts[a]; i++)
            sum += (double)f->grads[a][i] * (double)f->grads[a][i];
    assert_int_equal(lorica_adamw_init(&adamw, &o, f->arrays, ARRAYS, NULL, &err), 0);
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct lorica_pool *pool = NULL;
        assert_int_equal(lorica_pool_create(threads, &pool, &err), 0);
        const double norm = lorica_adamw_grad_norm(&adamw, pool);
        assert_true(fabs(norm - sqrt(sum)) < 1e-12 * norm);
        first = threads == 1 ? norm : first;
        assert_true(norm == first);
        lorica_pool_destroy(pool);
    }
    lorica_adamw_finish(&adamw);
}

static void test_no_place_for_the_state_is_an_error(void **state) {
    struct fixture *f = *state;
    struct lorica_adamw_options o;
    struct lorica_adamw adamw;
    struct lorica_error err = {0};
    begin(f);
    lorica_adamw_default_options(&o);
    assert_int_equal(
        lorica_adamw_init(&adamw, &o, f->arrays, ARRAYS, "/nonexistent/anywhere", &err),
        LORICA_EIO);
    assert_non_null(strstr(err.text, "/nonexistent/anywhere"));
    f->arrays[0].count = (size_t)1 << 50; /* more than any disk has; the arrays are not read */
    assert_true(lorica_adamw_init(&adamw, &o, f->arrays, ARRAYS, "/tmp", &err) < 0);
    assert_non_null(strstr(err.text, "/tmp"));
}

/* -- checkpoints -- */

/* A digest that is easy to make: a sum with carry. */
static void *sum_create(void) { return calloc(1, sizeof(uint64_t)); }
static int sum_update(void *stream, const void *bytes, size_t len) {
    uint64_t *sum = stream;
    for (size_t i = 0; i < len; i++)
        *sum = (*sum ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
    return 0;
}
static int sum_finish(void *stream, struct lorica_digest *ret) {
    if (ret) {
        memset(ret, 0, sizeof(*ret));
        memcpy(ret, stream, sizeof(uint64_t));
    }
    free(stream);
    return 0;
}
static const struct lorica_hasher sum_hasher = {sum_create, sum_update, sum_finish};

/* The places of a checkpoint. */
struct places {
    struct lorica_checkpoint_fact facts[2];
    struct lorica_checkpoint_state state;
    float a[5], b[3];
    uint8_t moments[64];
    size_t order[4], ends[2];
    float best[8];
    char notes[6];
    struct iovec weights[2];
    struct lorica_checkpoint checkpoint;
};

static void lay_out(struct places *p) {
    memset(p, 0, sizeof(*p));
    p->facts[0] = (struct lorica_checkpoint_fact){"--lr", "0.5"};
    p->facts[1] = (struct lorica_checkpoint_fact){"base", "sha256:12"};
    p->weights[0] = (struct iovec){p->a, sizeof(p->a)};
    p->weights[1] = (struct iovec){p->b, sizeof(p->b)};
    p->checkpoint = (struct lorica_checkpoint){.facts = p->facts,
                                               .fact_count = 2,
                                               .state = &p->state,
                                               .weights = p->weights,
                                               .weights_count = 2,
                                               .best = p->best,
                                               .best_count = 8,
                                               .moments = p->moments,
                                               .moments_nbytes = sizeof(p->moments),
                                               .order = p->order,
                                               .order_count = 4,
                                               .ends = p->ends,
                                               .ends_count = 2,
                                               .max_rows = 3,
                                               .notes = {p->notes, sizeof(p->notes)}};
}

/* The bytes of a checkpoint's file, for free(). */
static char *file_of(const struct places *p, size_t *ret_len) {
    struct lorica_buf front;
    struct lorica_error err = {0};
    struct iovec *parts = NULL;
    size_t count = 0, len = 0;
    lorica_buf_init(&front, 1u << 20);
    assert_int_equal(
        lorica_checkpoint_encode(&p->checkpoint, &sum_hasher, &front, &parts, &count, &err), 0);
    for (size_t i = 0; i < count; i++)
        len += parts[i].iov_len;
    char *bytes = malloc(len + 1), *at = bytes;
    assert_non_null(bytes);
    for (size_t i = 0; i < count; at += parts[i++].iov_len)
        memcpy(at, parts[i].iov_base, parts[i].iov_len);
    free(parts);
    lorica_buf_finish(&front);
    *ret_len = len;
    return bytes;
}

static void fill(struct places *p) {
    lay_out(p);
    p->state = (struct lorica_checkpoint_state){7,   1,    UINT64_MAX, 999,  12,  6,   1,
                                                1.5, 2.25, 3.5,        3.25, 4.5, 4.25};
    p->ends[0] = 3;
    p->ends[1] = 4;
    memcpy(p->notes, "curves", sizeof(p->notes));
    for (int i = 0; i < 8; i++)
        p->best[i] = uniform();
    for (int i = 0; i < 5; i++)
        p->a[i] = uniform();
    for (int i = 0; i < 64; i++)
        p->moments[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < 4; i++)
        p->order[i] = 3 - i;
}

static void test_checkpoint_comes_back_as_it_was(void **state) {
    struct places from, to;
    struct lorica_error err = {0};
    size_t len;
    (void)state;
    fill(&from);
    lay_out(&to);
    char *bytes = file_of(&from, &len);
    assert_int_equal(lorica_checkpoint_decode(bytes, len, &sum_hasher, &to.checkpoint, &err), 0);
    assert_memory_equal(&from.state, &to.state, sizeof(to.state));
    assert_memory_equal(from.a, to.a, sizeof(to.a));
    assert_memory_equal(from.b, to.b, sizeof(to.b));
    assert_memory_equal(from.moments, to.moments, sizeof(to.moments));
    assert_memory_equal(from.order, to.order, sizeof(to.order));
    assert_memory_equal(from.ends, to.ends, sizeof(to.ends));
    assert_memory_equal(from.best, to.best, sizeof(to.best));
    assert_memory_equal(from.notes, to.notes, sizeof(to.notes));
    free(bytes);
}

static void expect_refused(struct places *to, const char *bytes, size_t len, int code,
                           const char *says) {
    struct lorica_error err = {0};
    struct places before = *to;
    assert_int_equal(lorica_checkpoint_decode(bytes, len, &sum_hasher, &to->checkpoint, &err),
                     code);
    if (says)
        assert_non_null(strstr(err.text, says));
    assert_memory_equal(&before, to, sizeof(before));
}

static void test_checkpoint_of_another_run_is_refused(void **state) {
    struct places from, to;
    size_t len;
    (void)state;
    fill(&from);
    char *bytes = file_of(&from, &len);
    lay_out(&to);
    (void)snprintf(to.facts[0].value, sizeof(to.facts[0].value), "0.25");
    expect_refused(&to, bytes, len, LORICA_ECONFLICT, "--lr was 0.5");
    lay_out(&to);
    to.facts[1].name = "data";
    expect_refused(&to, bytes, len, LORICA_ECONFLICT, "data was unknown");
    lay_out(&to);
    to.checkpoint.order_count = 3;
    expect_refused(&to, bytes, len, LORICA_ECONFLICT, "4 order");
    lay_out(&to);
    to.checkpoint.weights_count = 1;
    expect_refused(&to, bytes, len, LORICA_ECONFLICT, "8 weights");
    free(bytes);
}

static void test_checkpoint_harmed_anywhere_is_refused(void **state) {
    struct places from, to;
    size_t len;
    (void)state;
    fill(&from);
    char *bytes = file_of(&from, &len);
    for (size_t cut = 0; cut < len; cut++) {
        struct lorica_error err = {0};
        lay_out(&to);
        assert_true(lorica_checkpoint_decode(bytes, cut, &sum_hasher, &to.checkpoint, &err) < 0);
    }
    const size_t data = len - sizeof(from.a) - sizeof(from.b) - sizeof(from.best) - 64 -
                        sizeof(from.order) - sizeof(from.ends) - sizeof(from.state) -
                        sizeof(from.notes);
    for (size_t i = data; i < len; i++) {
        lay_out(&to);
        bytes[i] ^= 4;
        expect_refused(&to, bytes, len, LORICA_EFORMAT, NULL);
        bytes[i] ^= 4;
    }
    free(bytes);
    for (int kind = 0; kind < 5; kind++) { /* whole, but no run's */
        fill(&from);
        from.order[2] = kind == 0 ? 4 : 1;
        from.ends[0] = kind == 1 ? 0 : kind == 2 ? SIZE_MAX : 3;
        from.ends[1] = kind == 3 ? 5 : 4;
        from.state.pass = kind == 4 ? 3 : 1;
        bytes = file_of(&from, &len);
        lay_out(&to);
        expect_refused(&to, bytes, len, LORICA_EFORMAT, "order");
        free(bytes);
    }
}

static int setup(void **state) {
    *state = calloc(1, sizeof(struct fixture));
    return *state ? 0 : -1;
}

static int teardown(void **state) {
    free(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_update_agrees_with_double_arithmetic),
        cmocka_unit_test(test_eight_bits_stay_near),
        cmocka_unit_test(test_place_and_threads_change_no_bit),
        cmocka_unit_test(test_norm_agrees_and_threads_change_no_bit),
        cmocka_unit_test(test_no_place_for_the_state_is_an_error),
        cmocka_unit_test(test_checkpoint_comes_back_as_it_was),
        cmocka_unit_test(test_checkpoint_of_another_run_is_refused),
        cmocka_unit_test(test_checkpoint_harmed_anywhere_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
