/* SPDX-License-Identifier: MIT
 * The small steps against double arithmetic. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/matrix.h"
#include "kernels/vec.h"

/* A vector exponential may be off by this much, relatively. */
#define EXP_ERROR 1e-6
#define EPS 0x1p-24

static struct lorica_vec_kernels kernels;

static float *floats(uint32_t n, size_t offset) { return check_buffer(n * sizeof(float), offset); }

static float *filled(uint32_t n, size_t offset) {
    float *x = floats(n, offset);
    check_fill(x, n);
    return x;
}

static void rmsnorm(uint32_t n, size_t offset) {
    const float *x = filled(n, offset), *weight = filled(n, offset);
    float *y = floats(n, offset);
    double squares = 0;
    for (uint32_t i = 0; i < n; i++)
        squares += (double)x[i] * (double)x[i];
    const double inverse = 1 / sqrt(squares / n + (double)1e-5f);
    kernels.rmsnorm(y, x, weight, n, 1e-5f);
    for (uint32_t i = 0; i < n; i++) {
        const double want = (double)x[i] * inverse * (double)weight[i];
        check_near((double)y[i], want, fabs(want) * (n / 2.0 + 6) * EPS + 1e-45, "rmsnorm", i);
    }
    float *in_place = floats(n, 0);
    memcpy(in_place, x, n * sizeof(float));
    kernels.rmsnorm(in_place, in_place, weight, n, 1e-5f);
    check_same(in_place, y, n * sizeof(float), "rmsnorm in place");
    in_place[n - 1] = NAN;
    kernels.rmsnorm(in_place, in_place, weight, n, 1e-5f);
    if (!isnan(in_place[0]))
        check_fail("rmsnorm: NaN is lost");
}

static void rope(uint32_t heads, uint32_t half, size_t offset) {
    const uint32_t n = heads * half * 2;
    const float *x = filled(n, 0);
    float *cs = floats(half, offset), *sn = floats(half, offset), *y = floats(n, offset);
    for (uint32_t i = 0; i < half; i++) {
        const float angle = check_uniform() * 3;
        cs[i] = cosf(angle), sn[i] = sinf(angle);
    }
    memcpy(y, x, n * sizeof(float));
    kernels.rope(y, heads, half * 2, cs, sn);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t in_head = i % (half * 2), pair = in_head % half;
        const double c = (double)cs[pair], s = (double)sn[pair];
        const double own = (double)x[i],
                     other = (double)(in_head < half ? x[i + half] : -x[i - half]);
        const double bound = 3 * EPS * (fabs(own * c) + fabs(other * s)) + 1e-45;
        check_near((double)y[i], own * c - other * s, bound, "rope", i);
    }
}

static void silu_mul(uint32_t n, size_t offset) {
    float *gate = filled(n, offset);
    const float *up = filled(n, offset);
    float *y = floats(n, offset);
    static const float special[] = {0, -0.0f, 88, -88, 90, -90, 1e4f, -1e4f, 1e-40f, INFINITY};
    for (uint32_t i = 0; i < n; i++)
        if (check_below(4) == 0)
            gate[i] = special[check_below(sizeof(special) / sizeof(special[0]))];
    kernels.silu_mul(y, gate, up, n);
    for (uint32_t i = 0; i < n; i++) {
        const double g = (double)gate[i], want = g / (1 + exp(-g)) * (double)up[i];
        /* Where exp(-g) comes near the end of float32's range, below -88, silu is 0 instead of at
         * most 6e-37. */
        const double lost = fabs((double)up[i]) * 6e-37;
        if (isfinite(want) && fabs(want) < 3e38)
            check_near((double)y[i], want, fabs(want) * (EXP_ERROR + 4 * EPS) + lost + 1e-44,
                       "silu_mul", i);
        else if (isfinite(y[i]) && fabs(want) > 3.5e38)
            check_fail("silu_mul: %g * silu(%g) is %g", (double)up[i], g, (double)y[i]);
    }
    gate[n - 1] = NAN;
    kernels.silu_mul(gate, gate, up, n);
    if (!isnan(gate[n - 1]))
        check_fail("silu_mul: NaN is lost");
    check_same(gate, y, (n - 1) * sizeof(float), "silu_mul in place");
}

static void add(uint32_t n, size_t offset) {
    const float *x = filled(n, offset), *y = filled(n, 0);
    float *sum = floats(n, offset);
    memcpy(sum, y, n * sizeof(float));
    kernels.add(sum, x, n);
    for (uint32_t i = 0; i < n; i++)
        check_near((double)sum[i], (double)(y[i] + x[i]), 0, "add", i);
}

static void to_int8(uint32_t n, size_t offset) {
    float *x = filled(n, 4 * offset), top = 0;
    int8_t *q = check_buffer(n, offset);
    const float size = ldexpf(1, (int)check_below(200) - 130);
    for (uint32_t i = 0; i < n; i++) {
        x[i] *= size;
        top = fmaxf(top, fabsf(x[i]));
    }
    const float scale = kernels.to_int8(q, x, n);
    const bool none = top < LORICA_INT8_LEAST;
    check_near((double)scale, none ? 0 : (double)(top / 127), 0, "to_int8: scale", n);
    for (uint32_t i = 0; i < n; i++)
        check_near((double)q[i], none ? 0 : (double)rintf(x[i] * (127 / top)), 0, "to_int8", i);
    for (uint32_t i = 0; i < n; i++)
        x[i] = 0;
    if (kernels.to_int8(q, x, n) != 0 || q[0] != 0 || q[n - 1] != 0)
        check_fail("to_int8: zeros do not stay zero");
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    x[check_below(n)] = odd[check_below(3)];
    if (!isnan(kernels.to_int8(q, x, n)))
        check_fail("to_int8: a value that is not finite is lost");
}

static void logsumexp(uint32_t n, size_t offset) {
    float *x = filled(n, offset), max, sum;
    if (check_below(3) == 0)
        x[check_below(n)] = -INFINITY;
    x[check_below(n)] = 3; /* one is finite */
    double top = -INFINITY, want = 0;
    for (uint32_t i = 0; i < n; i++)
        top = fmax(top, (double)x[i]);
    for (uint32_t i = 0; i < n; i++)
        want += exp((double)x[i] - top);
    kernels.logsumexp(x, n, &max, &sum);
    check_near((double)max, top, 0, "logsumexp: largest", n);
    /* A difference of float32 is rounded before it is exponentiated: 105 * 2^-24 at most. */
    check_near((double)sum, want, want * (EXP_ERROR + 105 * EPS + n * EPS), "logsumexp: sum", n);
    x[check_below(n)] = NAN;
    kernels.logsumexp(x, n, &max, &sum);
    if (!isnan(sum))
        check_fail("logsumexp: NaN is lost");
}

static void check(void) {
    lorica_vec_kernels_init(&kernels);
    for (uint32_t n = 1; n < 1000; n += 1 + (n > 40 ? n / 5 : 0)) {
        const size_t offset = 4 * check_below(2);
        rmsnorm(n, offset);
        rope(1 + check_below(3), n < 130 ? n : 64, offset);
        silu_mul(n, offset);
        add(n, offset);
        to_int8(n, offset / 4);
        logsumexp(n, offset);
        check_canaries("vec");
    }
    logsumexp(49152, 0);
}

struct timed {
    float *y, *x, *w;
    int8_t *q;
    uint32_t n;
};

static void time_rmsnorm(void *context) {
    struct timed *p = context;
    kernels.rmsnorm(p->y, p->x, p->w, p->n, 1e-5f);
}

static void time_rope(void *context) {
    struct timed *p = context;
    kernels.rope(p->x, 9, 64, p->w, p->w + 32);
}

static void time_silu_mul(void *context) {
    struct timed *p = context;
    kernels.silu_mul(p->y, p->x, p->w, p->n);
}

static void time_add(void *context) {
    struct timed *p = context;
    kernels.add(p->y, p->x, p->n);
}

static void time_to_int8(void *context) {
    struct timed *p = context;
    (void)kernels.to_int8(p->q, p->x, p->n);
}

static void time_logsumexp(void *context) {
    struct timed *p = context;
    float max, sum;
    kernels.logsumexp(p->x, p->n, &max, &sum);
}

static void bench(void) {
    lorica_vec_kernels_init(&kernels);
    struct timed p = {floats(49152, 0), floats(49152, 0), floats(49152, 0), check_buffer(49152, 0),
                      576};
    for (int i = 0; i < 49152; i++)
        p.x[i] = check_normal(), p.w[i] = i < 64 ? 0.5f : 1, p.y[i] = 0;
    check_bench("rmsnorm 576", time_rmsnorm, &p, 576 * 4.0, 0);
    check_bench("rope 9 x 64", time_rope, &p, 576 * 4.0, 0);
    check_bench("add 576", time_add, &p, 576 * 4.0, 0);
    check_bench("to_int8 576", time_to_int8, &p, 576 * 4.0, 0);
    p.n = 1536;
    check_bench("silu_mul 1536", time_silu_mul, &p, 1536 * 4.0, 0);
    p.n = 49152;
    check_bench("logsumexp 49152", time_logsumexp, &p, 49152 * 4.0, 0);
}

const struct check_family check_vec = {"vec", check, bench};
