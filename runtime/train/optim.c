/* SPDX-License-Identifier: MIT */
#include "runtime/train/optim.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/matrix.h"

#define PI 3.14159265358979323846
#define BLOCK 256  /* values under one scale */
#define PIECE 8192 /* values that one thread takes at a time; whole blocks */
#define CODES 256

void lorica_adamw_default_options(struct lorica_adamw_options *options) {
    *options = (struct lorica_adamw_options){.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
}

/* -- state -- */

static size_t padded(size_t count) { return (count + BLOCK - 1) / BLOCK * BLOCK; }

/* A nameless file of this size, with its blocks on the disk. */
static int reserve(const char *dir, size_t nbytes, int *ret_fd, struct lorica_error *err) {
    char *path = NULL;
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && asprintf(&path, "%s/.moments.XXXXXX", dir) >= 0) { /* not every system has it */
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            (void)unlink(path);
        free(path);
    }
    if (fd < 0)
        return lorica_fail(err, LORICA_EIO, "%s: no file for the optimizer's state: %s", dir,
                           strerror(errno));
    const int failed = posix_fallocate(fd, 0, (off_t)nbytes);
    if (failed) {
        (void)close(fd);
        return lorica_fail(err, failed == ENOSPC ? LORICA_ENOSPC : LORICA_EIO,
                           "%s: the optimizer's state needs %zu MB: %s", dir, (nbytes >> 20) + 1,
                           strerror(failed));
    }
    *ret_fd = fd;
    return 0;
}

static int map_state(struct lorica_adamw *adamw, const char *dir, struct lorica_error *err) {
    int fd = -1;
    const int rc = dir ? reserve(dir, adamw->nbytes, &fd, err) : 0;
    if (rc)
        return rc;
    void *state = mmap(NULL, adamw->nbytes, PROT_READ | PROT_WRITE,
                       dir ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (fd >= 0)
        (void)close(fd);
    if (state == MAP_FAILED)
        return lorica_fail(err, LORICA_ENOMEM, "no address space for the optimizer's state");
    adamw->state = state;
    return 0;
}

/* The unsigned dynamic map: 2^(i+1) values in the decade 10^(i-7) to 10^(i-6), then 0 and 1. The
 * signed one is a table. Each is followed by the midpoints between neighbours. */
static bool make_maps(struct lorica_adamw *adamw) {
    adamw->maps = malloc(sizeof(*adamw->maps) * 4 * CODES);
    if (!adamw->maps)
        return false;
    float *map = adamw->maps + 2 * CODES;
    size_t count = 0;
    memcpy(adamw->maps, lorica_dynamic_map, CODES * sizeof(float));
    map[count++] = 0;
    for (int i = 0; i < 7; i++)
        for (int j = 0; j < 2 << i; j++)
            map[count++] = (float)((0.1 + 0.9 * (j + 0.5) / (2 << i)) * pow(10, i - 6));
    map[count] = 1;
    for (int m = 0; m < 2; m++) {
        const float *values = adamw->maps + (size_t)m * 2 * CODES;
        float *between = adamw->maps + ((size_t)m * 2 + 1) * CODES;
        for (int i = 0; i + 1 < CODES; i++)
            between[i] = (values[i] + values[i + 1]) / 2;
        between[CODES - 1] = INFINITY;
    }
    return true;
}

int lorica_adamw_init(struct lorica_adamw *adamw, const struct lorica_adamw_options *options,
                      const struct lorica_adamw_array *arrays, size_t count, const char *dir,
                      struct lorica_error *err) {
    *adamw = (struct lorica_adamw){.options = *options, .array_count = count};
    for (size_t i = 0; i < count; i++)
        adamw->values += padded(arrays[i].count);
    adamw->nbytes = options->eight_bit
                        ? adamw->values * 2 + adamw->values / BLOCK * 2 * sizeof(float)
                        : adamw->values * 2 * sizeof(float);
    adamw->nbytes += BLOCK; /* never empty */
    adamw->arrays = malloc((count + 1) * sizeof(*arrays));
    int rc = adamw->arrays && (!options->eight_bit || make_maps(adamw))
                 ? map_state(adamw, dir, err)
                 : lorica_fail(err, LORICA_ENOMEM, "no memory for the optimizer");
    if (rc) {
        lorica_adamw_finish(adamw);
        return rc;
    }
    memcpy(adamw->arrays, arrays, count * sizeof(*arrays));
    if (options->eight_bit) /* code 0 of the signed map is not its zero */
        for (size_t i = 0; i < adamw->values; i++)
            ((uint8_t *)adamw->state)[i] = CODES / 2 - 1;
    return 0;
}

void lorica_adamw_finish(struct lorica_adamw *adamw) {
    if (adamw->state)
        (void)munmap(adamw->state, adamw->nbytes);
    free(adamw->arrays);
    free(adamw->maps);
    *adamw = (struct lorica_adamw){0};
}

/* -- updates -- */

/* The code of the nearest entry, ties down: how many midpoints are less than x. */
static uint8_t nearest(const float *between, float x) {
    unsigned at = 0;
    for (unsigned half = CODES / 2; half > 0; half /= 2)
        at += x > between[at + half - 1] ? half : 0;
    return (uint8_t)at;
}

/* `least`: of the codes for what is not 0. */
static void encode(const float *between, const float *x, uint32_t count, uint8_t least,
                   uint8_t *codes, float *scale) {
    float most = 0;
    for (uint32_t i = 0; i < count; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    const float inverse = most > 0 ? 1 / most : 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t code = nearest(between, x[i] * inverse);
        codes[i] = code < least && x[i] != 0 ? least : code;
    }
    *scale = most;
}

static void decode(const float *map, const uint8_t *codes, float scale, uint32_t count, float *x) {
    for (uint32_t i = 0; i < count; i++)
        x[i] = map[codes[i]] * scale;
}

/* What one update needs besides the state. */
struct update {
    struct lorica_adamw *adamw;
    float factor, step_size, eps, root, keep, new1, beta2, new2;
    double *sums; /* of squares, one per piece; for the norm */
};

static void apply(const struct update *u, float *params, const float *grads, float *restrict mean,
                  float *restrict square, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const float g = grads[i] * u->factor;
        mean[i] += (g - mean[i]) * u->new1;
        square[i] = square[i] * u->beta2 + g * g * u->new2;
        params[i] =
            params[i] * u->keep - u->step_size * mean[i] / (sqrtf(square[i]) / u->root + u->eps);
    }
}

/* A stretch of one array whose moments begin at `at`, in whole blocks from there. */
static void apply_stretch(const struct update *u, float *params, const float *grads, size_t at,
                          uint32_t count) {
    struct lorica_adamw *adamw = u->adamw;
    if (!adamw->options.eight_bit) {
        float *mean = (float *)adamw->state + at;
        apply(u, params, grads, mean, mean + adamw->values, count);
        return;
    }
    uint8_t *codes = (uint8_t *)adamw->state + at;
    float *scales = (float *)((uint8_t *)adamw->state + 2 * adamw->values) + at / BLOCK;
    const size_t blocks = adamw->values / BLOCK;
    const float *maps = adamw->maps;
    for (uint32_t i = 0; i < count; i += BLOCK, scales++, codes += BLOCK) {
        const uint32_t n = count - i < BLOCK ? count - i : BLOCK;
        float mean[BLOCK], square[BLOCK];
        decode(maps, codes, scales[0], n, mean);
        decode(maps + 2 * CODES, codes + adamw->values, scales[blocks], n, square);
        apply(u, params + i, grads + i, mean, square, n);
        encode(maps + CODES, mean, n, 0, codes, &scales[0]);
        encode(maps + 3 * CODES, square, n, 1, codes + adamw->values, &scales[blocks]);
    }
}

/* Calls `fn` for the pieces of a thread. A piece ends with its array. */
static void each_piece(struct update *u, unsigned thread, unsigned threads,
                       void (*fn)(struct update *u, const struct lorica_adamw_array *array,
                                  size_t offset, size_t at, uint32_t count, size_t piece)) {
    const struct lorica_adamw *adamw = u->adamw;
    size_t piece = 0, at = 0;
    for (size_t i = 0; i < adamw->array_count; i++) {
        const struct lorica_adamw_array *array = &adamw->arrays[i];
        for (size_t from = 0; from < array->count; from += PIECE, piece++) {
            const size_t left = array->count - from;
            if (piece % threads == thread)
                fn(u, array, from, at + from, (uint32_t)(left < PIECE ? left : PIECE), piece);
        }
        at += padded(array->count);
    }
}

static void update_piece(struct update *u, const struct lorica_adamw_array *array, size_t offset,
                         size_t at, uint32_t count, size_t piece) {
    struct update own = *u;
    (void)piece;
    if (array->no_decay)
        own.keep = 1;
    apply_stretch(&own, array->params + offset, array->grads + offset, at, count);
}

static void update_job(void *arg, unsigned thread, unsigned threads) {
    each_piece(arg, thread, threads, update_piece);
}

void lorica_adamw_update(struct lorica_adamw *adamw, struct lorica_pool *pool, double lr,
                         double factor) {
    const struct lorica_adamw_options *o = &adamw->options;
    adamw->step++;
    struct update u = {.adamw = adamw,
                       .factor = (float)factor,
                       .step_size = (float)(lr / (1 - pow(o->beta1, (double)adamw->step))),
                       .eps = (float)o->eps,
                       .root = (float)sqrt(1 - pow(o->beta2, (double)adamw->step)),
                       .keep = (float)(1 - lr * o->weight_decay),
                       .new1 = (float)(1 - o->beta1),
                       .beta2 = (float)o->beta2,
                       .new2 = (float)(1 - o->beta2)};
    lorica_pool_run(pool, update_job, &u);
}

static void norm_piece(struct update *u, const struct lorica_adamw_array *array, size_t offset,
                       size_t at, uint32_t count, size_t piece) {
    const float *grads = array->grads + offset;
    double sums[4] = {0};
    uint32_t i = 0;
    (void)at;
    for (; i + 4 <= count; i += 4)
        for (uint32_t j = 0; j < 4; j++)
            sums[j] += (double)grads[i + j] * (double)grads[i + j];
    for (; i < count; i++)
        sums[0] += (double)grads[i] * (double)grads[i];
    u->sums[piece] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

static void norm_job(void *arg, unsigned thread, unsigned threads) {
    each_piece(arg, thread, threads, norm_piece);
}

double lorica_adamw_grad_norm(const struct lorica_adamw *adamw, struct lorica_pool *pool) {
    size_t pieces = 0;
    double sum = 0;
    for (size_t i = 0; i < adamw->array_count; i++)
        pieces += (adamw->arrays[i].count + PIECE - 1) / PIECE;
    struct update u = {.adamw = (struct lorica_adamw *)adamw,
                       .sums = calloc(pieces + 1, sizeof(double))};
    if (!u.sums)
        return NAN; /* as if the gradients were not finite: the run stops, and keeps its state */
    lorica_pool_run(pool, norm_job, &u);
    for (size_t i = 0; i < pieces; i++)
        sum += u.sums[i];
    free(u.sums);
    return sqrt(sum);
}

double lorica_clip_factor(double norm, double max_norm) {
    const double factor = max_norm / (norm + 1e-6);
    return max_norm > 0 && factor < 1 ? factor : 1;
}

double lorica_schedule_factor(enum lorica_schedule schedule, uint64_t step, uint64_t total,
                              uint64_t warmup) {
    if (step < warmup)
        return (double)step / (double)warmup;
    if (schedule == LORICA_SCHEDULE_CONSTANT)
        return 1;
    if (step >= total)
        return 0;
    const double done = (double)(step - warmup) / (double)(total - warmup);
    return schedule == LORICA_SCHEDULE_LINEAR ? 1 - done : 0.5 * (1 + cos(PI * done));
}
