/* SPDX-License-Identifier: MIT
 * The products of training, both kinds of operands, and the row steps between them, against double
 * arithmetic. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gemm.h"

#define NR LORICA_GEMM_NR
#define EPS 0x1p-24     /* of a float32 operation */
#define BF16_EPS 0x1p-8 /* of rounding to bfloat16: half a unit of 8 bits, with room */
#define EXP_ERROR 3e-7  /* relative, of the vector exponentials */

static struct lorica_gemm_kernels kernels;

static float *floats(size_t n, size_t offset) { return check_buffer(n * sizeof(float), offset); }

static float *filled(size_t n, size_t offset) {
    float *x = floats(n, offset);
    check_fill(x, n);
    return x;
}

/* `count` operands of floats, and those floats rounded. One more operand lies behind them, which
 * odd depths may read. */
static void *operands(float *values, size_t count, size_t offset) {
    void *made = check_buffer((count + 1) * kernels.operand_nbytes, offset);
    memset(made, 0, (count + 1) * kernels.operand_nbytes);
    for (size_t i = 0; i < count && kernels.operand == LORICA_OPERAND_BF16; i++)
        ((uint16_t *)made)[i] = lorica_f32_to_bf16(values[i]);
    if (kernels.operand == LORICA_OPERAND_F32)
        memcpy(made, values, count * sizeof(float));
    else
        for (size_t i = 0; i < count; i++)
            values[i] = lorica_bf16_to_f32(((uint16_t *)made)[i]);
    return made;
}

static float operand(const void *x, size_t i) {
    return kernels.operand == LORICA_OPERAND_F32 ? ((const float *)x)[i]
                                                 : lorica_bf16_to_f32(((const uint16_t *)x)[i]);
}

static float panel_value(const void *panel, size_t p, size_t j) {
    return kernels.operand == LORICA_OPERAND_F32 ? operand(panel, p * NR + j)
                                                 : operand(panel, (p / 2 * NR + j) * 2 + p % 2);
}

static float rounded(float x) {
    return kernels.operand == LORICA_OPERAND_F32 ? x : lorica_bf16_to_f32(lorica_f32_to_bf16(x));
}

/* -- packing -- */

static void expect_panel(const void *panel, const float *want, uint32_t depth, const char *what) {
    for (uint32_t p = 0; p < depth + depth % 2; p++) {
        if (p == depth && kernels.operand == LORICA_OPERAND_F32)
            break;
        for (uint32_t j = 0; j < NR; j++)
            if (!check_near((double)panel_value(panel, p, j),
                            p < depth ? (double)rounded(want[p * NR + j]) : 0, 0, what, p * NR + j))
                return;
    }
}

static struct lorica_matrix random_matrix(enum lorica_format format, uint32_t n, uint32_t k) {
    float *values = floats((size_t)n * k, 0);
    uint16_t *half = check_buffer((size_t)n * k * 2, 0);
    const size_t nbytes = lorica_matrix_data_nbytes(format, n, k);
    uint8_t *codes = check_buffer(nbytes, 0);
    struct lorica_matrix m = {.format = format, .n = n, .k = k, .data = codes};
    for (size_t i = 0; i < (size_t)n * k; i++)
        values[i] = check_normal();
    for (size_t i = 0; i < (size_t)n * k; i++)
        half[i] = format == LORICA_FORMAT_F16 ? lorica_f32_to_f16(values[i])
                                              : lorica_f32_to_bf16(values[i]);
    if (format == LORICA_FORMAT_F32) {
        m.data = values;
    } else if (format == LORICA_FORMAT_F16 || format == LORICA_FORMAT_BF16) {
        m.data = half;
    } else if (format == LORICA_FORMAT_Q8) {
        uint16_t *scales = check_buffer((size_t)lorica_matrix_tiles(&m) * 16 * (k / 32) * 2, 0);
        lorica_q8_quantise(values, n, k, (int8_t *)codes, scales);
        m.scales = scales;
    } else {
        float *absmax = floats((size_t)n * k / 64 + 1, 0);
        uint8_t *flat = check_buffer((size_t)n * k / 2 + 1, 0);
        lorica_nf4_quantise(values, (size_t)n * k, flat, absmax);
        m.absmax = absmax;
        if (lorica_matrix_is_tiled(&m))
            lorica_nf4_tile(codes, flat, n, k);
        else
            memcpy(codes, flat, nbytes);
    }
    return m;
}

static void frozen(enum lorica_format format, uint32_t n, uint32_t k) {
    const struct lorica_matrix w = random_matrix(format, n, k);
    const float scale = check_below(2) ? 1.0f : 1.5f;
    float *exact = floats((size_t)n * k, 0), want[200 * NR];
    void *panel = check_buffer(lorica_gemm_panel_nbytes(&kernels, 200), 0);
    lorica_matrix_rows_f32(&w, 0, n, exact);
    for (uint32_t row = 0; row < n; row += NR) {
        const uint32_t cols = n - row < NR ? n - row : NR;
        for (uint32_t k0 = 0; k0 < k; k0 += 128) {
            const uint32_t k1 = k - k0 < 128 ? k : k0 + 128;
            for (uint32_t p = k0; p < k1; p++)
                for (uint32_t j = 0; j < NR; j++)
                    want[(p - k0) * NR + j] =
                        j < cols ? exact[(size_t)(row + j) * k + p] * scale : 0;
            kernels.pack_w(panel, &w, row, cols, k0, k1, scale);
            expect_panel(panel, want, k1 - k0, "pack_w");
        }
    }
    for (uint32_t col = 0; col < k; col += NR) {
        const uint32_t cols = k - col < NR ? k - col : NR, row1 = n < 200 ? n : 200;
        for (uint32_t i = 0; i < row1; i++)
            for (uint32_t j = 0; j < NR; j++)
                want[i * NR + j] = j < cols ? exact[(size_t)i * k + col + j] * scale : 0;
        kernels.pack_wt(panel, &w, 0, row1, col, cols, scale);
        expect_panel(panel, want, row1, "pack_wt");
    }
}

static void packed_operands(uint32_t depth, uint32_t cols) {
    const uint32_t ld = (depth > cols ? depth : cols) + check_below(3);
    float *values = filled((size_t)ld * ld, 0), *want = floats((size_t)depth * NR, 0);
    const void *x = operands(values, (size_t)ld * ld, 0);
    void *panel = check_buffer(lorica_gemm_panel_nbytes(&kernels, depth), 0);
    for (uint32_t p = 0; p < depth; p++)
        for (uint32_t j = 0; j < NR; j++)
            want[(size_t)p * NR + j] = j < cols ? values[(size_t)p * ld + j] : 0;
    kernels.pack_rows(panel, x, ld, depth, cols);
    expect_panel(panel, want, depth, "pack_rows");
    for (uint32_t p = 0; p < depth; p++)
        for (uint32_t j = 0; j < NR; j++)
            want[(size_t)p * NR + j] = j < cols ? values[(size_t)j * ld + p] : 0;
    kernels.pack_cols(panel, x, ld, depth, cols);
    expect_panel(panel, want, depth, "pack_cols");
}

static void turned(uint32_t rows, uint32_t cols) {
    const uint32_t ldx = cols + check_below(3), ldt = rows + rows % 2 + 2 * check_below(3);
    float *values = filled((size_t)rows * ldx, 0);
    const void *x = operands(values, (size_t)rows * ldx, 0);
    void *to = check_buffer((size_t)cols * ldt * kernels.operand_nbytes, 0);
    kernels.turn(to, ldt, x, ldx, rows, cols);
    for (uint32_t j = 0; j < cols; j++) {
        for (uint32_t i = 0; i < rows; i++)
            if (!check_near((double)operand(to, (size_t)j * ldt + i),
                            (double)values[(size_t)i * ldx + j], 0, "turn", i))
                return;
        if (rows % 2 && kernels.operand == LORICA_OPERAND_BF16)
            check_near((double)operand(to, (size_t)j * ldt + rows), 0, 0, "turn's padding", j);
    }
}

static void conversions(uint32_t n, size_t offset) {
    static const float special[] = {0,       -0.0f,       INFINITY,   -INFINITY,
                                    3.4e38f, 1.00390625f, 1.01171875f};
    float *x = filled(n, offset), *back = floats(n, offset);
    uint16_t *bits = check_buffer(n * sizeof(uint16_t), 2 * offset / 4);
    for (uint32_t i = 0; i < n; i++)
        if (check_below(4) == 0)
            x[i] = special[check_below(sizeof(special) / sizeof(special[0]))];
    kernels.squeeze(bits, x, n);
    kernels.expand(back, bits, n);
    for (uint32_t i = 0; i < n; i++) {
        if (bits[i] != lorica_f32_to_bf16(x[i]))
            check_fail("squeeze of %g at %u: %04x", (double)x[i], i, bits[i]);
        if (memcmp(&back[i], &(float){lorica_bf16_to_f32(bits[i])}, sizeof(float)) != 0)
            check_fail("expand at %u", i);
    }
    x[n - 1] = NAN;
    kernels.store(x, x, n); /* in place */
    kernels.load(back, x, n);
    if (!isnan(back[n - 1]))
        check_fail("store: NaN is lost");
    for (uint32_t i = 0; i + 1 < n; i++)
        if (isfinite(back[i]) && kernels.operand == LORICA_OPERAND_BF16)
            check_near((double)back[i], (double)lorica_bf16_to_f32(bits[i]), 0, "store", i);
}

/* -- products -- */

static void product(uint32_t m, uint32_t depth, uint32_t more, uint32_t cols) {
    const uint32_t lda = depth + check_below(4), ldc = cols + check_below(4);
    const uint32_t depths[] = {depth, more};
    const enum lorica_gemm_out outs[] = {LORICA_GEMM_SET, LORICA_GEMM_ADD, LORICA_GEMM_OPERAND};
    struct lorica_gemm_part parts[2];
    double *want = calloc((size_t)m * cols, sizeof(*want)), *size = calloc((size_t)m * cols, 8);
    for (int s = 0; s < 2; s++) {
        const uint32_t ld = s ? more : lda;
        float *a = filled((size_t)m * ld + 1, 0), *b = filled((size_t)depths[s] * NR + 1, 0);
        void *panel = check_buffer(lorica_gemm_panel_nbytes(&kernels, depths[s]), 0);
        parts[s] = (struct lorica_gemm_part){operands(a, (size_t)m * ld, 0), ld, panel, depths[s]};
        kernels.pack_rows(panel, operands(b, (size_t)depths[s] * NR, 0), NR, depths[s], cols);
        for (uint32_t i = 0; i < m; i++)
            for (uint32_t j = 0; j < cols; j++)
                for (uint32_t p = 0; p < depths[s]; p++) {
                    const double term = (double)a[(size_t)i * ld + p] * (double)b[p * NR + j];
                    want[i * cols + j] += term;
                    size[i * cols + j] += fabs(term);
                }
    }
    for (int o = 0; o < 3; o++) {
        const size_t each = outs[o] == LORICA_GEMM_OPERAND ? kernels.operand_nbytes : 4;
        float *before = filled((size_t)m * ldc, 0);
        void *c = check_buffer((size_t)m * ldc * each, 0), *alone = check_buffer(ldc * each, 0);
        if (outs[o] != LORICA_GEMM_OPERAND)
            memcpy(c, before, (size_t)m * ldc * sizeof(float));
        kernels.panel(c, ldc, parts, 2, m, cols, outs[o]);
        for (uint32_t i = 0; i < m; i++)
            for (uint32_t j = 0; j < cols; j++) {
                const size_t at = (size_t)i * ldc + j;
                const double start = outs[o] == LORICA_GEMM_ADD ? (double)before[at] : 0;
                const double sum = want[i * cols + j] + start;
                double bound = (size[i * cols + j] + fabs(start)) * (depth + more + 4.0) * EPS;
                const bool half = each == 2;
                if (half)
                    bound += fabs(sum) * BF16_EPS + bound * BF16_EPS;
                if (!check_near((double)(half ? operand(c, at) : ((float *)c)[at]), sum,
                                bound + 1e-37, "panel", at))
                    i = j = UINT32_MAX - 1;
            }
        /* A row alone gives the same bits. */
        struct lorica_gemm_part one[2] = {parts[0], parts[1]};
        const uint32_t row = check_below(m);
        for (int s = 0; s < 2; s++)
            one[s].a = (const char *)parts[s].a + row * parts[s].lda * kernels.operand_nbytes;
        memcpy(alone, before + (size_t)row * ldc, outs[o] == LORICA_GEMM_OPERAND ? 0 : ldc * each);
        kernels.panel(alone, ldc, one, 2, 1, cols, outs[o]);
        check_same(alone, (char *)c + row * ldc * each, cols * each, "a row alone");
    }
    free(want);
    free(size);
}

/* -- row steps -- */

static void norms(uint32_t n, size_t offset) {
    const float *x = filled(n, offset), *w = filled(n, offset), *dy = filled(n, offset);
    float *out = floats(n, offset), *dx = filled(n, offset), *before = floats(n, 0);
    double squares = 0, dot = 0, size = 0;
    memcpy(before, dx, n * sizeof(float));
    for (uint32_t i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
        dot += (double)w[i] * (double)dy[i] * (double)x[i];
        size += fabs((double)w[i] * (double)dy[i] * (double)x[i]);
    }
    const double f = 1 / sqrt(squares / n + (double)1e-5f);
    kernels.norm(out, x, w, n, 1e-5f);
    kernels.norm_backward(dx, x, w, dy, n, 1e-5f);
    for (uint32_t i = 0; i < n; i++) {
        const double y = (double)w[i] * (double)x[i] * f;
        const double one = (double)w[i] * (double)dy[i], two = (double)x[i] * f * f * dot / n;
        const double bound = f * (fabs(one) + fabs((double)x[i]) * f * f * size / n);
        check_near((double)out[i], y, fabs(y) * 4 * EPS + 1e-40, "norm", i);
        check_near((double)dx[i], (double)before[i] + f * (one - two),
                   (bound * 8 + fabs((double)before[i])) * 2 * EPS + 1e-40, "norm_backward", i);
    }
}

static void silus(uint32_t n, size_t offset) {
    float *g = filled(n, offset), *u = filled(n, offset), *d = filled(n, offset);
    float *out = floats(n, offset), *dg = floats(n, 0), *du = floats(n, 0);
    memcpy(dg, g, n * sizeof(float));
    memcpy(du, u, n * sizeof(float));
    kernels.silu(out, g, u, n);
    float *lost = floats(n, 0);
    memcpy(lost, d, n * sizeof(float));
    kernels.silu_backward(dg, du, lost, n);
    for (uint32_t i = 0; i < n; i++) {
        const double x = (double)g[i], s = 1 / (1 + exp(-x)), y = x * s;
        const double slope = s * (1 + x * (1 - s)), size = s * (1 + fabs(x * (1 - s)));
        /* Where exp(-x) overflows, 0 comes instead of at most 3e-37. */
        const double tiny = fabs(x) * 1e-37 + 1e-37;
        check_near((double)out[i], y * (double)u[i],
                   (fabs(y) * 1e-6 + tiny) * fabs((double)u[i]) + 1e-40, "silu", i);
        check_near((double)du[i], y * (double)d[i],
                   (fabs(y) * 1e-6 + tiny) * fabs((double)d[i]) + 1e-40, "silu's up", i);
        check_near((double)dg[i], slope * (double)d[i] * (double)u[i],
                   (size * 1e-6 + tiny) * fabs((double)d[i] * (double)u[i]) + 1e-40, "silu's gate",
                   i);
    }
}

static void softmaxes(uint32_t n, size_t offset) {
    float *x = filled(n, offset), *p = floats(n, offset), *d = filled(n, offset);
    float *dp = floats(n, offset), *ce = floats(n, offset);
    const float scale = 0.125f;
    const uint32_t label = check_below(n);
    double max = -INFINITY, sum = 0, dot = 0, size = 0, total = 0, top = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        x[i] = fmaxf(fminf(x[i], 300), -300);
        max = fmax(max, (double)(x[i] * scale));
        top = fmax(top, (double)x[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += exp((double)(x[i] * scale) - max);
        total += exp((double)x[i] - top);
    }
    memcpy(p, x, n * sizeof(float));
    memcpy(ce, x, n * sizeof(float));
    memcpy(dp, d, n * sizeof(float));
    kernels.softmax(p, n, scale);
    kernels.softmax_backward(dp, p, n, scale);
    const double loss = kernels.cross_entropy(ce, n, label);
    check_near(loss, log(total) + top - (double)x[label], 1e-6 * (10 + fabs(top)), "cross_entropy",
               label);
    for (uint32_t i = 0; i < n; i++) {
        dot += (double)p[i] * (double)d[i];
        size += fabs((double)p[i] * (double)d[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        /* The float32 argument of exp is off by a part of the scores. */
        const double off = EXP_ERROR + 2 * EPS * fabs(max) + 2 * EPS * fabs((double)x[i] * 0.125);
        const double want = exp((double)(x[i] * scale) - max) / sum;
        check_near((double)p[i], want, want * (2 * off + 1e-6) + 1e-37, "softmax", i);
        check_near((double)dp[i], (double)p[i] * ((double)d[i] - dot) * (double)scale,
                   (double)p[i] * (fabs((double)d[i]) + size) * 8 * EPS + 1e-37, "softmax_backward",
                   i);
        const double q = exp((double)x[i] - top) / total;
        const double wide = EXP_ERROR + 4 * EPS * (fabs(top) + fabs((double)x[i]));
        check_near((double)ce[i], q - (i == label), q * (2 * wide + 1e-6) + EPS,
                   "cross_entropy's gradient", i);
    }
    ce[n / 2] = NAN;
    if (!isnan(kernels.cross_entropy(ce, n, label)))
        check_fail("cross_entropy: NaN is lost");
}

static void check_operand(enum lorica_operand kind) {
    static const uint32_t sizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 192, 513, 577};
    lorica_gemm_kernels_init(&kernels, kind);
    for (int format = 0; format < LORICA_FORMAT_COUNT; format++) {
        frozen((enum lorica_format)format, 16, 64);
        frozen((enum lorica_format)format, 70, 192);
        if (format != LORICA_FORMAT_Q8) {
            frozen((enum lorica_format)format, 5, 37);
            frozen((enum lorica_format)format, 33, 100);
        }
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const uint32_t n = sizes[i];
        packed_operands(n, NR);
        packed_operands(n, 1 + check_below(NR));
        turned(n, 1 + check_below(70));
        turned(64, n);
        conversions(n, 4 * check_below(16));
        product(1 + check_below(40), n, 1 + check_below(20), 1 + check_below(NR));
        product(25, n, 16, NR);
        norms(n, 4 * check_below(16));
        silus(n, 4 * check_below(16));
        softmaxes(n, 4 * check_below(16));
    }
    check_canaries("gemm");
}

static void check(void) {
    check_operand(LORICA_OPERAND_F32);
    check_operand(LORICA_OPERAND_BF16);
}

/* -- timing -- */

struct timed {
    struct lorica_gemm_part part;
    struct lorica_matrix w;
    void *c, *panel;
};

static void time_panel(void *context) {
    struct timed *t = context;
    kernels.panel(t->c, NR, &t->part, 1, 480, NR, LORICA_GEMM_SET);
}

static void time_pack_w(void *context) {
    struct timed *t = context;
    kernels.pack_w(t->panel, &t->w, 0, NR, 0, 576, 1.0f);
}

static void time_pack_wt(void *context) {
    struct timed *t = context;
    kernels.pack_wt(t->panel, &t->w, 0, 576, 0, NR, 1.0f);
}

static void bench(void) {
    for (int kind = 0; kind < 2; kind++) {
        lorica_gemm_kernels_init(&kernels, (enum lorica_operand)kind);
        const char *name = kind ? "bf16" : "f32";
        char text[64];
        float *a = filled((size_t)480 * 576, 0);
        struct timed t = {.w = random_matrix(LORICA_FORMAT_NF4, 576, 576),
                          .c = floats((size_t)480 * NR, 0),
                          .panel = check_buffer(lorica_gemm_panel_nbytes(&kernels, 576), 0)};
        t.part = (struct lorica_gemm_part){operands(a, (size_t)480 * 576, 0), 576, t.panel, 576};
        time_pack_w(&t);
        (void)snprintf(text, sizeof(text), "gemm panel %s, 480 x 576 x 32", name);
        check_bench(text, time_panel, &t, 0, 2.0 * 480 * 576 * NR);
        (void)snprintf(text, sizeof(text), "gemm pack_w nf4 %s", name);
        check_bench(text, time_pack_w, &t, 576.0 * NR / 2, 576.0 * NR);
        (void)snprintf(text, sizeof(text), "gemm pack_wt nf4 %s", name);
        check_bench(text, time_pack_wt, &t, 576.0 * NR / 2, 576.0 * NR);
    }
}

const struct check_family check_gemm = {"gemm", check, bench};
