/* SPDX-License-Identifier: MIT */
#include "runtime/adapter_diff.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/matrix.h"
#include "proto/peft.h"
#include "proto/safetensors.h"

enum { LEFT, RIGHT, SIDES };

/* One adapter's pair of tensors for a module. */
struct pair {
    const struct lorica_tensor *a, *b;
};

struct module {
    char name[LORICA_DIFF_MODULE_MAX];
    struct pair pairs[SIDES];
};

struct side {
    const struct lorica_adapter_bytes *bytes;
    struct lorica_peft_config config;
    struct lorica_safetensors file;
};

struct work {
    struct side sides[SIDES];
    struct module *modules; /* owned */
    size_t count;
    struct lorica_error *err;
};

static struct module *find_module(struct work *w, const char *name) {
    for (size_t i = w->count; i-- > 0;) /* the last is the likeliest */
        if (strcmp(w->modules[i].name, name) == 0)
            return &w->modules[i];
    struct module *module = &w->modules[w->count++];
    memcpy(module->name, name, strlen(name) + 1);
    return module;
}

static int add_tensor(struct work *w, unsigned side, const struct lorica_tensor *tensor) {
    char name[LORICA_DIFF_MODULE_MAX];
    bool is_b;
    if (!lorica_peft_tensor_name(tensor->name, name, sizeof(name), &is_b))
        return lorica_fail(w->err, LORICA_EFORMAT,
                           "adapter tensor \"%.160s\" is not the A or B of a LoRA pair",
                           tensor->name);
    if (tensor->dtype > LORICA_DTYPE_BF16 || tensor->ndim != 2)
        return lorica_fail(w->err, LORICA_EUNSUPPORTED,
                           "adapter tensor \"%.160s\" is no matrix of F32, F16 or BF16",
                           tensor->name);
    struct pair *pair = &find_module(w, name)->pairs[side];
    *(is_b ? &pair->b : &pair->a) = tensor;
    return 0;
}

static int open_side(struct work *w, unsigned side, const struct lorica_adapter_bytes *bytes) {
    struct side *s = &w->sides[side];
    s->bytes = bytes;
    int rc = lorica_peft_parse(bytes->config, bytes->config_len, &s->config, w->err);
    return rc ? rc
              : lorica_safetensors_parse(bytes->weights, bytes->weights_len, bytes->weights_len,
                                         &s->file, w->err);
}

static int compare_modules(const void *a, const void *b) {
    return strverscmp(((const struct module *)a)->name, ((const struct module *)b)->name);
}

static int collect(struct work *w) {
    int rc = 0;
    w->modules =
        calloc(w->sides[LEFT].file.count + w->sides[RIGHT].file.count + 1, sizeof(*w->modules));
    if (!w->modules)
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    for (unsigned side = 0; side < SIDES; side++)
        for (size_t i = 0; !rc && i < w->sides[side].file.count; i++)
            rc = add_tensor(w, side, &w->sides[side].file.tensors[i]);
    qsort(w->modules, w->count, sizeof(*w->modules), compare_modules);
    return rc;
}

/* A pair's matrices as [inputs][rank] and, times the scale, [outputs][rank], in doubles, the rank
 * filled up with zeros. */
struct factors {
    uint64_t inputs, outputs;
    double *a, *b; /* owned */
};

static void factors_finish(struct factors *f) {
    free(f->a);
    free(f->b);
}

static double element(const struct side *side, const struct lorica_tensor *tensor, uint64_t i) {
    const uint8_t *at = (const uint8_t *)side->bytes->weights + tensor->offset;
    uint16_t half;
    float whole;
    if (tensor->dtype == LORICA_DTYPE_F32) {
        memcpy(&whole, at + 4 * i, sizeof(whole));
        return whole;
    }
    memcpy(&half, at + 2 * i, sizeof(half));
    return tensor->dtype == LORICA_DTYPE_F16 ? lorica_f16_to_f32(half) : lorica_bf16_to_f32(half);
}

static int check_pair(const struct work *w, const struct module *module, unsigned side,
                      double *ret_scale) {
    const struct pair *pair = &module->pairs[side];
    uint32_t rank = 0;
    if (!pair->a || !pair->b)
        return lorica_fail(w->err, LORICA_EFORMAT, "module %s has but one of A and B",
                           module->name);
    int rc = lorica_peft_module(&w->sides[side].config, module->name, &rank, ret_scale, w->err);
    if (!rc && (pair->a->shape[0] != rank || pair->b->shape[1] != rank))
        rc = lorica_fail(w->err, LORICA_EFORMAT,
                         "module %s: adapter_config.json makes its rank %u, its matrices have "
                         "another",
                         module->name, rank);
    return rc;
}

static int load_pair(const struct work *w, const struct module *module, unsigned side,
                     uint64_t rank, double scale, struct factors *ret) {
    const struct side *s = &w->sides[side];
    const struct pair *pair = &module->pairs[side];
    const uint64_t own = pair->a->shape[0];
    ret->inputs = pair->a->shape[1];
    ret->outputs = pair->b->shape[0];
    ret->a = calloc(ret->inputs * rank + 1, sizeof(*ret->a));
    ret->b = calloc(ret->outputs * rank + 1, sizeof(*ret->b));
    if (!ret->a || !ret->b)
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    for (uint64_t j = 0; j < own; j++)
        for (uint64_t i = 0; i < ret->inputs; i++)
            ret->a[i * rank + j] = element(s, pair->a, j * ret->inputs + i);
    for (uint64_t i = 0; i < ret->outputs; i++)
        for (uint64_t j = 0; j < own; j++)
            ret->b[i * rank + j] = scale * element(s, pair->b, i * own + j);
    return 0;
}

/* gram = p' * q, [rank][rank], of two matrices [len][rank]. */
static void gram(const double *p, const double *q, uint64_t len, uint64_t rank, double *out) {
    memset(out, 0, rank * rank * sizeof(*out));
    for (uint64_t k = 0; k < len; k++)
        for (uint64_t i = 0; i < rank; i++) {
            const double factor = p[k * rank + i];
            for (uint64_t j = 0; j < rank; j++)
                out[i * rank + j] += factor * q[k * rank + j];
        }
}

/* The inner product of p*x' and q*y', of matrices [outputs][rank] and [inputs][rank]: the sum of
 * (p'q) times (x'y), element by element. `room` holds two matrices [rank][rank]. */
static double inner(const double *p, const double *x, const double *q, const double *y,
                    const struct factors *size, uint64_t rank, double *room) {
    double sum = 0;
    gram(p, q, size->outputs, rank, room);
    gram(x, y, size->inputs, rank, room + rank * rank);
    for (uint64_t i = 0; i < rank * rank; i++)
        sum += room[i] * room[rank * rank + i];
    return sum;
}

static void subtract(double *from, const double *what, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        from[i] -= what[i];
}

/* Norms of a module that both have. Uses up the factors. */
static int compare_both(const struct work *w, struct factors *l, struct factors *r, uint64_t rank,
                        struct lorica_module_diff *ret) {
    double *room = calloc(2 * rank * rank, sizeof(*room));
    double *x = calloc(r->inputs * rank + 1, sizeof(*x));
    if (!room || !x) {
        free(room);
        free(x);
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    }
    ret->left = sqrt(fmax(0, inner(l->b, l->a, l->b, l->a, l, rank, room)));
    ret->right = sqrt(fmax(0, inner(r->b, r->a, r->b, r->a, r, rank, room)));
    memcpy(x, r->a, r->inputs * rank * sizeof(*x));
    subtract(r->a, l->a, r->inputs * rank);  /* y */
    subtract(r->b, l->b, r->outputs * rank); /* p */
    const double square = inner(r->b, x, r->b, x, l, rank, room) +
                          inner(l->b, r->a, l->b, r->a, l, rank, room) +
                          2 * inner(r->b, x, l->b, r->a, l, rank, room);
    ret->change = sqrt(fmax(0, square));
    free(room);
    free(x);
    return 0;
}

static int compare_one(const struct work *w, struct factors *f, uint64_t rank, double *ret) {
    double *room = calloc(2 * rank * rank, sizeof(*room));
    if (!room)
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    *ret = sqrt(fmax(0, inner(f->b, f->a, f->b, f->a, f, rank, room)));
    free(room);
    return 0;
}

static int compare_module(const struct work *w, const struct module *module,
                          struct lorica_module_diff *ret) {
    struct factors factors[SIDES] = {{0}};
    double scales[SIDES] = {0};
    uint64_t rank = 0;
    int rc = 0;
    memcpy(ret->module, module->name, sizeof(ret->module));
    ret->in_left = module->pairs[LEFT].a || module->pairs[LEFT].b;
    ret->in_right = module->pairs[RIGHT].a || module->pairs[RIGHT].b;
    for (unsigned side = 0; !rc && side < SIDES; side++) {
        if (side == LEFT ? !ret->in_left : !ret->in_right)
            continue;
        rc = check_pair(w, module, side, &scales[side]);
        if (!rc && module->pairs[side].a->shape[0] > rank)
            rank = module->pairs[side].a->shape[0];
    }
    if (!rc && ret->in_left)
        rc = load_pair(w, module, LEFT, rank, scales[LEFT], &factors[LEFT]);
    if (!rc && ret->in_right)
        rc = load_pair(w, module, RIGHT, rank, scales[RIGHT], &factors[RIGHT]);
    if (rc) {
        /* said already */
    } else if (!ret->in_right) {
        rc = compare_one(w, &factors[LEFT], rank, &ret->left);
        ret->change = ret->left;
    } else if (!ret->in_left) {
        rc = compare_one(w, &factors[RIGHT], rank, &ret->right);
        ret->change = ret->right;
    } else if (factors[LEFT].inputs != factors[RIGHT].inputs ||
               factors[LEFT].outputs != factors[RIGHT].outputs) {
        rc = lorica_fail(w->err, LORICA_EINVAL,
                         "module %s has other inputs or outputs in the one adapter than in the "
                         "other: they are for different bases",
                         module->name);
    } else {
        rc = compare_both(w, &factors[LEFT], &factors[RIGHT], rank, ret);
    }
    factors_finish(&factors[LEFT]);
    factors_finish(&factors[RIGHT]);
    return rc;
}

static int compare_all(struct work *w, struct lorica_adapter_diff *diff) {
    double left = 0, right = 0, change = 0;
    int rc = collect(w);
    if (rc)
        return rc;
    diff->modules = calloc(w->count + 1, sizeof(*diff->modules));
    if (!diff->modules)
        return lorica_fail(w->err, LORICA_ENOMEM, "out of memory");
    for (; !rc && diff->count < w->count; diff->count++) {
        struct lorica_module_diff *module = &diff->modules[diff->count];
        rc = compare_module(w, &w->modules[diff->count], module);
        left += module->left * module->left;
        right += module->right * module->right;
        change += module->change * module->change;
    }
    diff->left = sqrt(left);
    diff->right = sqrt(right);
    diff->change = sqrt(change);
    return rc;
}

int lorica_adapter_diff(const struct lorica_adapter_bytes *left,
                        const struct lorica_adapter_bytes *right, struct lorica_adapter_diff *ret,
                        struct lorica_error *err) {
    struct work w = {.err = err};
    struct lorica_adapter_diff diff = {0};
    int rc = open_side(&w, LEFT, left);
    if (!rc)
        rc = open_side(&w, RIGHT, right);
    if (!rc)
        rc = compare_all(&w, &diff);
    for (unsigned side = 0; side < SIDES; side++) {
        lorica_peft_finish(&w.sides[side].config);
        lorica_safetensors_finish(&w.sides[side].file);
    }
    free(w.modules);
    if (rc)
        lorica_adapter_diff_finish(&diff);
    else
        *ret = diff;
    return rc;
}

void lorica_adapter_diff_finish(struct lorica_adapter_diff *diff) {
    free(diff->modules);
    *diff = (struct lorica_adapter_diff){0};
}
