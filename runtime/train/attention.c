/* SPDX-License-Identifier: MIT
 * Causal attention over whole sequences, forward and backward, in blocks of queries: probabilities
 * of one block at a time exist, and the backward pass computes them again. */
#include <math.h>
#include <string.h>

#include "runtime/train/pass.h"

#define NR LORICA_GEMM_NR
#define BLOCK 96 /* queries at a time */
#define STEP 24  /* of which so many stop at the same key, or begin at the same query */

static size_t padded(size_t n) { return (n + NR - 1) / NR * NR; }

/* Floats of each part of the workspace; operands take no more. */
enum part {
    K_COLS,
    V_COLS,
    K_ROWS,
    V_ROWS,
    SCORES,
    DSCORES,
    PROBS,
    TURNED,
    Q_ROWS,
    O_ROWS,
    DQ,
    DK,
    DV,
    PARTS
};

static void part_sizes(uint32_t head_dim, uint32_t length, size_t sizes[PARTS]) {
    const size_t keys = padded(length), dim = padded(head_dim);
    for (int i = 0; i < PARTS; i++)
        sizes[i] = keys * dim;
    sizes[SCORES] = sizes[DSCORES] = sizes[PROBS] = sizes[TURNED] = BLOCK * keys;
    sizes[Q_ROWS] = sizes[O_ROWS] = sizes[DQ] = BLOCK * dim;
}

size_t lorica_attention_scratch(const struct lorica_arch *arch, uint32_t length) {
    size_t sizes[PARTS], sum = 0;
    part_sizes(arch->head_dim, length, sizes);
    for (int i = 0; i < PARTS; i++)
        sum += sizes[i];
    return sum;
}

/* One (sequence, key/value head) at work. */
struct head {
    struct lorica_pass *pass;
    uint32_t length, dim;
    size_t ldq, ldk;   /* of queries and keys */
    size_t ld;         /* of scores: keys, padded */
    const void *k, *v; /* row 0 */
    float scale;
    /* Packed: keys and values as columns [key panel][dim], as rows [dim panel][key]. */
    void *k_cols, *v_cols, *k_rows, *v_rows;
    float *scores, *dscores; /* [BLOCK][ld] */
    void *probs;             /* [BLOCK][ld]: one of them as operands, where these are no floats */
    void *turned;            /* [length][BLOCK] */
    void *q_rows, *o_rows;   /* [dim panel][BLOCK] */
    float *dq, *dk, *dv;     /* [BLOCK][dim], [length][dim] */
};

static struct head head_of(struct lorica_pass *pass, unsigned thread,
                           const struct lorica_layer_acts *acts,
                           const struct lorica_pass_sequence *sequence, uint32_t kv_head) {
    const struct lorica_arch *arch = &pass->base->arch;
    const size_t dim = arch->head_dim;
    const size_t at = (size_t)sequence->start * arch->kv_heads * dim + kv_head * dim;
    size_t sizes[PARTS];
    float *parts[PARTS], *free_floats = pass->scratch[thread];
    part_sizes(arch->head_dim, sequence->length, sizes);
    for (int i = 0; i < PARTS; free_floats += sizes[i++])
        parts[i] = free_floats;
    return (struct head){.pass = pass,
                         .length = sequence->length,
                         .dim = arch->head_dim,
                         .ldq = (size_t)arch->heads * dim,
                         .ldk = (size_t)arch->kv_heads * dim,
                         .ld = padded(sequence->length),
                         .k = lorica_operands_at(pass, acts->of[LORICA_ACT_K], at),
                         .v = lorica_operands_at(pass, acts->of[LORICA_ACT_V], at),
                         .scale = 1.0f / sqrtf((float)dim),
                         .k_cols = parts[K_COLS],
                         .v_cols = parts[V_COLS],
                         .k_rows = parts[K_ROWS],
                         .v_rows = parts[V_ROWS],
                         .scores = parts[SCORES],
                         .dscores = parts[DSCORES],
                         .probs = parts[PROBS],
                         .turned = parts[TURNED],
                         .q_rows = parts[Q_ROWS],
                         .o_rows = parts[O_ROWS],
                         .dq = parts[DQ],
                         .dk = parts[DK],
                         .dv = parts[DV]};
}

static void *panel_at(const struct head *head, const void *panels, uint32_t index, size_t depth) {
    return (char *)(uintptr_t)panels + index * lorica_gemm_panel_nbytes(&head->pass->gemm, depth);
}

/* All keys (or values) as columns. */
static void pack_cols(const struct head *head, void *to, const void *x) {
    for (uint32_t j = 0; j < head->length; j += NR)
        head->pass->gemm.pack_cols(panel_at(head, to, j / NR, head->dim),
                                   lorica_operands_at(head->pass, x, j * head->ldk), head->ldk,
                                   head->dim, head->length - j < NR ? head->length - j : NR);
}

/* Rows x[rows][dim]; room for `stride` rows in each panel. */
static void pack_rows(const struct head *head, void *to, const void *x, size_t ldx, uint32_t rows,
                      uint32_t stride) {
    for (uint32_t p = 0; p < head->dim; p += NR)
        head->pass->gemm.pack_rows(panel_at(head, to, p / NR, stride),
                                   lorica_operands_at(head->pass, x, p), ldx, rows,
                                   head->dim - p < NR ? head->dim - p : NR);
}

/* out[end - first][keys below `end`] = x[end - first][dim] times the columns; of keys behind the
 * query something or nothing. */
static void times_cols(const struct head *head, float *out, const void *x, const void *cols,
                       uint32_t first, uint32_t end) {
    for (uint32_t j = 0; j < end; j += NR) {
        const uint32_t skip = j > first ? j - first : 0;
        const struct lorica_gemm_part part = {lorica_operands_at(head->pass, x, skip * head->ldq),
                                              head->ldq, panel_at(head, cols, j / NR, head->dim),
                                              head->dim};
        head->pass->gemm.panel(out + skip * head->ld + j, head->ld, &part, 1, end - first - skip,
                               end - j < NR ? end - j : NR, LORICA_GEMM_SET);
    }
}

/* out[rows][dim] (+)= x[rows][depth] times packed rows. */
static void times_rows(const struct head *head, void *out, size_t ldo, const void *x, size_t ldx,
                       const void *packed, uint32_t stride, uint32_t rows, uint32_t depth,
                       enum lorica_gemm_out how) {
    const size_t size =
        how == LORICA_GEMM_OPERAND ? head->pass->gemm.operand_nbytes : sizeof(float);
    for (uint32_t p = 0; p < head->dim; p += NR) {
        const struct lorica_gemm_part part = {x, ldx, panel_at(head, packed, p / NR, stride),
                                              depth};
        head->pass->gemm.panel((char *)out + p * size, ldo, &part, 1, rows,
                               head->dim - p < NR ? head->dim - p : NR, how);
    }
}

/* Rows of queries first..end as operands; of keys behind the query 0, as far as the last pair of an
 * odd number reaches. */
static const void *as_operands(const struct head *head, float *rows, uint32_t first, uint32_t end) {
    const struct lorica_pass *pass = head->pass;
    for (uint32_t i = first; i < end; i++) {
        float *row = rows + (i - first) * head->ld;
        memset(row + i + 1, 0, (end + end % 2 - i - 1) * sizeof(float));
        if (pass->gemm.operand != LORICA_OPERAND_F32)
            pass->gemm.store(lorica_operands_at(pass, head->probs, (i - first) * head->ld), row,
                             end + end % 2);
    }
    return pass->gemm.operand == LORICA_OPERAND_F32 ? rows : head->probs;
}

/* Scores of queries first..end into probabilities; as operands, too. */
static const void *attend_block(const struct head *head, const void *q, uint32_t first,
                                uint32_t end) {
    times_cols(head, head->scores, q, head->k_cols, first, end);
    for (uint32_t i = first; i < end; i++)
        head->pass->gemm.softmax(head->scores + (i - first) * head->ld, i + 1, head->scale);
    return as_operands(head, head->scores, first, end);
}

/* out[end - first][dim] = rows of queries first..end, as operands, times packed rows of keys. */
static void times_keys(const struct head *head, void *out, size_t ldo, const void *rows,
                       const void *packed, uint32_t first, uint32_t end, enum lorica_gemm_out how) {
    const size_t size =
        how == LORICA_GEMM_OPERAND ? head->pass->gemm.operand_nbytes : sizeof(float);
    for (uint32_t i = first; i < end; i += STEP) {
        const uint32_t count = end - i < STEP ? end - i : STEP;
        times_rows(head, (char *)out + (i - first) * ldo * size, ldo,
                   lorica_operands_at(head->pass, rows, (i - first) * head->ld), head->ld, packed,
                   head->length, count, i + count, how);
    }
}

/* out[keys below `end`][dim] += the same rows turned, times packed rows of these queries. */
static void add_queries(const struct head *head, float *out, const void *rows, const void *packed,
                        uint32_t first, uint32_t end) {
    const struct lorica_pass *pass = head->pass;
    pass->gemm.turn(head->turned, BLOCK, rows, head->ld, end - first, end);
    if (first > 0)
        times_rows(head, out, head->dim, head->turned, BLOCK, packed, BLOCK, first, end - first,
                   LORICA_GEMM_ADD);
    for (uint32_t i = first; i < end; i += STEP)
        times_rows(head, out + (size_t)i * head->dim, head->dim,
                   lorica_operands_at(pass, head->turned, (size_t)i * BLOCK + i - first), BLOCK,
                   lorica_operands_at(pass, packed, (size_t)(i - first) * NR), BLOCK,
                   end - i < STEP ? end - i : STEP, end - i, LORICA_GEMM_ADD);
}

/* The tasks of a thread: (sequence, key/value head) pairs. */
static void tasks_of(const struct lorica_pass *pass, unsigned thread, uint32_t *ret_begin,
                     uint32_t *ret_end) {
    lorica_pool_range(pass->count * pass->base->arch.kv_heads, thread,
                      lorica_pool_threads(pass->pool), ret_begin, ret_end);
}

void lorica_pass_attend(struct lorica_pass *pass, unsigned thread,
                        const struct lorica_layer_acts *acts) {
    const uint32_t kv_heads = pass->base->arch.kv_heads, group = pass->base->arch.heads / kv_heads;
    uint32_t begin, end;
    tasks_of(pass, thread, &begin, &end);
    for (uint32_t task = begin; task < end; task++) {
        const struct lorica_pass_sequence *sequence = &pass->sequences[task / kv_heads];
        const uint32_t kv_head = task % kv_heads;
        const struct head head = head_of(pass, thread, acts, sequence, kv_head);
        pack_cols(&head, head.k_cols, head.k);
        pack_rows(&head, head.v_rows, head.v, head.ldk, head.length, head.length);
        for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
            for (uint32_t i = 0; i < head.length; i += BLOCK) {
                const uint32_t last = head.length - i < BLOCK ? head.length : i + BLOCK;
                const size_t at = (sequence->start + i) * head.ldq + (size_t)h * head.dim;
                const void *probs = attend_block(
                    &head, lorica_operands_at(pass, acts->of[LORICA_ACT_Q], at), i, last);
                times_keys(&head, lorica_operands_at(pass, acts->of[LORICA_ACT_ATTENDED], at),
                           head.ldq, probs, head.v_rows, i, last, LORICA_GEMM_OPERAND);
            }
        }
    }
}

/* Queries first..end of one head: adds to dk and dv, and leaves dq. */
static void block_backward(const struct head *head, const void *q, const void *dout, void *dq,
                           uint32_t first, uint32_t end) {
    const struct lorica_pass *pass = head->pass;
    const uint32_t rows = end - first;
    const void *probs = attend_block(head, q, first, end);
    times_cols(head, head->dscores, dout, head->v_cols, first, end);
    pack_rows(head, head->o_rows, dout, head->ldq, rows, BLOCK);
    pack_rows(head, head->q_rows, q, head->ldq, rows, BLOCK);
    add_queries(head, head->dv, probs, head->o_rows, first, end);
    for (uint32_t i = first; i < end; i++)
        pass->gemm.softmax_backward(head->dscores + (i - first) * head->ld,
                                    head->scores + (i - first) * head->ld, i + 1, head->scale);
    const void *dscores = as_operands(head, head->dscores, first, end);
    times_keys(head, head->dq, head->dim, dscores, head->k_rows, first, end, LORICA_GEMM_SET);
    for (uint32_t i = 0; i < rows; i++) {
        lorica_pass_rotate_head(pass, head->dq + (size_t)i * head->dim, first + i, true);
        pass->gemm.store(lorica_operands_at(pass, dq, i * head->ldq),
                         head->dq + (size_t)i * head->dim, head->dim);
    }
    add_queries(head, head->dk, dscores, head->q_rows, first, end);
}

static void store_keys(const struct head *head, void *dk, void *dv) {
    const struct lorica_pass *pass = head->pass;
    for (uint32_t i = 0; i < head->length; i++) {
        lorica_pass_rotate_head(pass, head->dk + (size_t)i * head->dim, i, true);
        pass->gemm.store(lorica_operands_at(pass, dk, i * head->ldk),
                         head->dk + (size_t)i * head->dim, head->dim);
        pass->gemm.store(lorica_operands_at(pass, dv, i * head->ldk),
                         head->dv + (size_t)i * head->dim, head->dim);
    }
}

void lorica_pass_attend_backward(struct lorica_pass *pass, unsigned thread,
                                 const struct lorica_layer_acts *acts, const void *dout, void *dq,
                                 void *dk, void *dv) {
    const uint32_t kv_heads = pass->base->arch.kv_heads, group = pass->base->arch.heads / kv_heads;
    uint32_t begin, end;
    tasks_of(pass, thread, &begin, &end);
    for (uint32_t task = begin; task < end; task++) {
        const struct lorica_pass_sequence *sequence = &pass->sequences[task / kv_heads];
        const uint32_t kv_head = task % kv_heads;
        const struct head head = head_of(pass, thread, acts, sequence, kv_head);
        const size_t kv = sequence->start * head.ldk + (size_t)kv_head * head.dim;
        pack_cols(&head, head.k_cols, head.k);
        pack_cols(&head, head.v_cols, head.v);
        pack_rows(&head, head.k_rows, head.k, head.ldk, head.length, head.length);
        memset(head.dk, 0, (size_t)head.length * head.dim * sizeof(float));
        memset(head.dv, 0, (size_t)head.length * head.dim * sizeof(float));
        for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
            for (uint32_t i = 0; i < head.length; i += BLOCK) {
                const uint32_t last = head.length - i < BLOCK ? head.length : i + BLOCK;
                const size_t at = (sequence->start + i) * head.ldq + (size_t)h * head.dim;
                block_backward(&head, lorica_operands_at(pass, acts->of[LORICA_ACT_Q], at),
                               lorica_operands_at(pass, dout, at), lorica_operands_at(pass, dq, at),
                               i, last);
            }
        }
        store_keys(&head, lorica_operands_at(pass, dk, kv), lorica_operands_at(pass, dv, kv));
    }
}
