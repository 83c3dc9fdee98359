/* SPDX-License-Identifier: MIT
 * Causal attention over whole sequences, forward and backward, in blocks of queries: probabilities
 * of one block at a time exist, and the backward pass computes them again. */
#include <math.h>
#include <string.h>

#include "runtime/train/pass.h"

#define NR LORICA_GEMM_NR
#define BLOCK 64 /* queries at a time */

static size_t padded(size_t n) { return (n + NR - 1) / NR * NR; }

size_t lorica_attention_scratch(const struct lorica_arch *arch, uint32_t length) {
    const size_t dim = arch->head_dim, keys = padded(length);
    return 2 * keys * dim + 2 * keys * padded(dim) + 3 * BLOCK * keys + 2 * BLOCK * padded(dim) +
           BLOCK;
}

/* One (sequence, key/value head) at work. */
struct head {
    struct lorica_pass *pass;
    uint32_t length, dim;
    size_t ldq, ldk;
    const float *k, *v; /* row 0 */
    float scale;
    /* Packed: keys and values as columns [key panel][dim][NR], as rows [dim panel][key][NR]. */
    float *k_cols, *v_cols, *k_rows, *v_rows;
    float *probs, *dprobs;  /* [BLOCK][padded(length)] */
    float *turned;          /* [length][BLOCK] */
    float *q_rows, *o_rows; /* [dim panel][BLOCK][NR] */
    float *dots;            /* [BLOCK] */
};

/* panel[j / NR][p][j % NR] = x[j][p] */
static void pack_cols(float *to, const float *x, size_t ldx, uint32_t rows, uint32_t dim) {
    for (uint32_t j = 0; j < (uint32_t)padded(rows); j++) {
        float *panel = to + (size_t)(j / NR) * dim * NR + j % NR;
        for (uint32_t p = 0; p < dim; p++)
            panel[(size_t)p * NR] = j < rows ? x[j * ldx + p] : 0;
    }
}

/* panel[p / NR][j][p % NR] = x[j][p]; room for `stride` rows in each panel */
static void pack_rows(float *to, const float *x, size_t ldx, uint32_t rows, uint32_t dim,
                      uint32_t stride) {
    for (uint32_t p = 0; p < dim; p += NR) {
        const uint32_t width = dim - p < NR ? dim - p : NR;
        float *panel = to + (size_t)(p / NR) * stride * NR;
        for (uint32_t j = 0; j < rows; j++) {
            memcpy(panel + (size_t)j * NR, x + j * ldx + p, width * sizeof(float));
            memset(panel + (size_t)j * NR + width, 0, (NR - width) * sizeof(float));
        }
    }
}

/* out[rows][keys below `end`] = x[rows][dim] times the columns. */
static void times_cols(const struct head *head, float *out, const float *x, size_t ldx,
                       const float *cols, uint32_t rows, uint32_t end) {
    const size_t ldo = padded(head->length);
    for (uint32_t j = 0; j < end; j += NR)
        head->pass->gemm.panel(out + j, ldo, x, ldx, cols + (size_t)j * head->dim, rows, head->dim,
                               end - j < NR ? end - j : NR, 0);
}

/* out[rows][dim] (+)= x[rows][depth] times packed rows. */
static void times_rows(const struct head *head, float *out, size_t ldo, const float *x, size_t ldx,
                       const float *packed, uint32_t stride, uint32_t rows, uint32_t depth,
                       int accumulate) {
    for (uint32_t p = 0; p < head->dim; p += NR)
        head->pass->gemm.panel(out + p, ldo, x, ldx, packed + (size_t)p * stride, rows, depth,
                               head->dim - p < NR ? head->dim - p : NR, accumulate);
}

/* Turns scores into probabilities; those of keys behind the query become 0. */
static void softmax(const struct head *head, uint32_t first, uint32_t end) {
    const size_t ld = padded(head->length);
    for (uint32_t i = first; i < end; i++) {
        float *row = head->probs + (i - first) * ld;
        const uint32_t visible = i + 1;
        float max = row[0];
        double sum = 0;
        for (uint32_t j = 1; j < visible; j++)
            max = row[j] > max ? row[j] : max;
        head->pass->gemm.exp(row, row, visible, head->scale, -max * head->scale);
        for (uint32_t j = 0; j < visible; j++)
            sum += (double)row[j];
        const float factor = (float)(1.0 / sum);
        for (uint32_t j = 0; j < visible; j++)
            row[j] *= factor;
        memset(row + visible, 0, (end - visible) * sizeof(float));
    }
}

static struct head head_of(struct lorica_pass *pass, unsigned thread,
                           const struct lorica_layer_acts *acts,
                           const struct lorica_pass_sequence *sequence, uint32_t kv_head) {
    const struct lorica_arch *arch = &pass->base->arch;
    const size_t dim = arch->head_dim, keys = padded(sequence->length);
    const size_t at = (size_t)sequence->start * arch->kv_heads * dim + kv_head * dim;
    float *free_floats = pass->scratch[thread];
    struct head head = {.pass = pass,
                        .length = sequence->length,
                        .dim = arch->head_dim,
                        .ldq = (size_t)arch->heads * dim,
                        .ldk = (size_t)arch->kv_heads * dim,
                        .k = acts->k + at,
                        .v = acts->v + at,
                        .scale = 1.0f / sqrtf((float)dim)};
    const size_t sizes[] = {
        keys * dim,   keys * dim,   keys * padded(dim),  keys * padded(dim),  BLOCK * keys,
        BLOCK * keys, BLOCK * keys, BLOCK * padded(dim), BLOCK * padded(dim), BLOCK};
    float **const parts[] = {&head.k_cols, &head.v_cols, &head.k_rows, &head.v_rows, &head.probs,
                             &head.dprobs, &head.turned, &head.q_rows, &head.o_rows, &head.dots};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        *parts[i] = free_floats;
        free_floats += sizes[i];
    }
    return head;
}

static void attend_head(struct head *head, const float *q, float *out) {
    for (uint32_t i = 0; i < head->length; i += BLOCK) {
        const uint32_t end = head->length - i < BLOCK ? head->length : i + BLOCK;
        times_cols(head, head->probs, q + i * head->ldq, head->ldq, head->k_cols, end - i, end);
        softmax(head, i, end);
        times_rows(head, out + i * head->ldq, head->ldq, head->probs, padded(head->length),
                   head->v_rows, (uint32_t)padded(head->length), end - i, end, 0);
    }
}

void lorica_pass_attend(struct lorica_pass *pass, unsigned thread,
                        const struct lorica_layer_acts *acts) {
    const struct lorica_arch *arch = &pass->base->arch;
    const uint32_t group = arch->heads / arch->kv_heads;
    uint32_t begin, end;
    lorica_pool_range(pass->count * arch->kv_heads, thread, lorica_pool_threads(pass->pool), &begin,
                      &end);
    for (uint32_t task = begin; task < end; task++) {
        const struct lorica_pass_sequence *sequence = &pass->sequences[task / arch->kv_heads];
        const uint32_t kv_head = task % arch->kv_heads;
        struct head head = head_of(pass, thread, acts, sequence, kv_head);
        pack_cols(head.k_cols, head.k, head.ldk, head.length, head.dim);
        pack_rows(head.v_rows, head.v, head.ldk, head.length, head.dim,
                  (uint32_t)padded(head.length));
        for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
            const size_t at = (size_t)sequence->start * head.ldq + (size_t)h * head.dim;
            attend_head(&head, acts->q + at, acts->attended + at);
        }
    }
}

/* turned[j][i] = x[i][j] for the block's rows and the keys below `end`. */
static void turn(const struct head *head, const float *x, uint32_t rows, uint32_t end) {
    const size_t ld = padded(head->length);
    for (uint32_t j = 0; j < end; j++)
        for (uint32_t i = 0; i < rows; i++)
            head->turned[(size_t)j * BLOCK + i] = x[i * ld + j];
}

/* dprobs becomes the gradient of the scores before scaling: P (dP - sum(P dP)) scale. */
static void softmax_backward(const struct head *head, uint32_t rows, uint32_t end) {
    const size_t ld = padded(head->length);
    for (uint32_t i = 0; i < rows; i++) {
        const float *p = head->probs + i * ld;
        float *d = head->dprobs + i * ld;
        double dot = 0;
        for (uint32_t j = 0; j < end; j++)
            dot += (double)p[j] * (double)d[j];
        for (uint32_t j = 0; j < end; j++)
            d[j] = p[j] * (d[j] - (float)dot) * head->scale;
    }
}

static void attend_head_backward(struct head *head, const float *q, const float *dout, float *dq,
                                 float *dk, float *dv) {
    const uint32_t stride = (uint32_t)padded(head->length);
    for (uint32_t i = 0; i < head->length; i += BLOCK) {
        const uint32_t end = head->length - i < BLOCK ? head->length : i + BLOCK, rows = end - i;
        const float *qi = q + i * head->ldq, *oi = dout + i * head->ldq;
        times_cols(head, head->probs, qi, head->ldq, head->k_cols, rows, end);
        softmax(head, i, end);
        times_cols(head, head->dprobs, oi, head->ldq, head->v_cols, rows, end);
        pack_rows(head->o_rows, oi, head->ldq, rows, head->dim, BLOCK);
        pack_rows(head->q_rows, qi, head->ldq, rows, head->dim, BLOCK);
        turn(head, head->probs, rows, end);
        times_rows(head, dv, head->ldk, head->turned, BLOCK, head->o_rows, BLOCK, end, rows, 1);
        softmax_backward(head, rows, end);
        times_rows(head, dq + i * head->ldq, head->ldq, head->dprobs, stride, head->k_rows, stride,
                   rows, end, 0);
        turn(head, head->dprobs, rows, end);
        times_rows(head, dk, head->ldk, head->turned, BLOCK, head->q_rows, BLOCK, end, rows, 1);
    }
}

void lorica_pass_attend_backward(struct lorica_pass *pass, unsigned thread,
                                 const struct lorica_layer_acts *acts, const float *dout, float *dq,
                                 float *dk, float *dv) {
    const struct lorica_arch *arch = &pass->base->arch;
    const uint32_t group = arch->heads / arch->kv_heads;
    uint32_t begin, end;
    lorica_pool_range(pass->count * arch->kv_heads, thread, lorica_pool_threads(pass->pool), &begin,
                      &end);
    for (uint32_t task = begin; task < end; task++) {
        const struct lorica_pass_sequence *sequence = &pass->sequences[task / arch->kv_heads];
        const uint32_t kv_head = task % arch->kv_heads;
        struct head head = head_of(pass, thread, acts, sequence, kv_head);
        const size_t kv = (size_t)sequence->start * head.ldk + (size_t)kv_head * head.dim;
        const uint32_t stride = (uint32_t)padded(head.length);
        pack_cols(head.k_cols, head.k, head.ldk, head.length, head.dim);
        pack_cols(head.v_cols, head.v, head.ldk, head.length, head.dim);
        pack_rows(head.k_rows, head.k, head.ldk, head.length, head.dim, stride);
        for (uint32_t i = 0; i < head.length; i++) {
            memset(dk + kv + i * head.ldk, 0, head.dim * sizeof(float));
            memset(dv + kv + i * head.ldk, 0, head.dim * sizeof(float));
        }
        for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
            const size_t at = (size_t)sequence->start * head.ldq + (size_t)h * head.dim;
            attend_head_backward(&head, acts->q + at, dout + at, dq + at, dk + kv, dv + kv);
        }
    }
}
