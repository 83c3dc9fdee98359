/* SPDX-License-Identifier: MIT
 * One pass over the model: what forward and backward share. Private to runtime/train.
 *
 * Functions that take a `thread` run on every thread of the team at once (pool.h). Where not said
 * otherwise they end WITHOUT a barrier: the caller puts one before anybody reads the result.
 *
 * Tokens of all sequences lie behind each other without padding: row `start + i` of every
 * activation is position i of a sequence. Every value depends on its inputs only, in a fixed order
 * of operations: neither the number of threads nor the batch changes a bit. */
#ifndef LORICA_RUNTIME_TRAIN_PASS_H
#define LORICA_RUNTIME_TRAIN_PASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/gemm.h"
#include "runtime/adapter.h"
#include "runtime/base.h"
#include "runtime/pool.h"
#include "runtime/train/model.h"

/** One sequence of a pass. */
struct lorica_pass_sequence {
    uint32_t start, length;
};

/** What a layer leaves for its backward pass; [tokens][...] each. */
struct lorica_layer_acts {
    float *q, *k, *v; /**< rotated queries and keys, values */
    float *attended;  /**< attention's output, before the o projection */
    float *middle;    /**< residual stream between attention and MLP */
    float *gate, *up; /**< MLP, before the activation */
};

/** A slot for the thin product of up to three modules that read the same input. */
#define LORICA_PASS_SLOTS 3

struct lorica_pass {
    const struct lorica_base *base;
    const struct lorica_adapter *adapter; /**< NULL: none */
    struct lorica_pool *pool;
    struct lorica_gemm_kernels gemm;
    uint32_t max_tokens, max_rank;
    float dropout;
    uint64_t seed;

    struct lorica_pass_sequence *sequences;
    uint32_t count;      /**< sequences */
    uint32_t tokens;     /**< rows in use */
    uint32_t *positions; /**< [tokens] */
    float *rotary;       /**< [max_tokens][head_dim]: cosines, then sines */

    float *normed;                    /**< [tokens][hidden] */
    float *wide;                      /**< [tokens][intermediate] */
    float *shrunk[LORICA_PASS_SLOTS]; /**< [tokens][max_rank] */
    float *dropped;                   /**< [tokens][widest input]; with dropout only */
    float **panels, **scratch;        /**< per thread: a packed panel; attention's workspace */

    void **owned; /**< every allocation, for finish */
    size_t owned_count;
};

/** Depth of one packed panel; a multiple of 64 (kernels/gemm.h). */
#define LORICA_PASS_DEPTH 512

/** Allocates for `max_tokens` rows, adapters of rank up to `max_rank`, dropout or not. */
int lorica_pass_init(struct lorica_pass *pass, const struct lorica_base *base,
                     struct lorica_pool *pool, uint32_t max_tokens, uint32_t max_rank, bool dropout,
                     struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_pass_finish(struct lorica_pass *pass);

/** A block of rows * columns floats, zeroed, that finish frees; NULL: no memory. */
float *lorica_pass_floats(struct lorica_pass *pass, size_t rows, size_t columns);
/** Allocates a layer's activations. False: no memory. */
bool lorica_pass_acts(struct lorica_pass *pass, struct lorica_layer_acts *acts);
/** Floats of one token in lorica_layer_acts. */
size_t lorica_pass_acts_floats(const struct lorica_arch *arch);

/** Begins a new set of sequences; add appends one of 1 to max_tokens rows. */
void lorica_pass_begin(struct lorica_pass *pass, const struct lorica_adapter *adapter);
void lorica_pass_add(struct lorica_pass *pass, uint32_t length);

/** LORICA_EINVAL naming the first id that the vocabulary does not have (exact.c). */
int lorica_train_check_ids(const struct lorica_arch *arch, const int32_t *ids, size_t count,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/* Products (product.c). */

/** One summand of a product: A[rows][depth] times a packed matrix. */
struct lorica_term {
    const float *a;
    size_t lda;
    const struct lorica_matrix *w;
    bool by_rows; /**< false: A W^T, depth w->k; true: A W, depth w->n */
    float scale;  /**< multiplies the packed values */
};

/** out[rows][cols] (+)= sum of the terms, leading dimension ldo. */
void lorica_pass_product(struct lorica_pass *pass, unsigned thread, float *out, size_t ldo,
                         uint32_t rows, uint32_t cols, const struct lorica_term *terms,
                         size_t count, bool accumulate);

/** A dense float32 matrix over somebody's values. */
static inline struct lorica_matrix lorica_dense(const float *values, uint32_t n, uint32_t k) {
    return (struct lorica_matrix){.format = LORICA_FORMAT_F32, .n = n, .k = k, .data = values};
}

/* LoRA (lora.c). */

/** Pair of a module, or NULL when there is none. */
const struct lorica_adapter_pair *lorica_pass_pair(const struct lorica_pass *pass, uint32_t layer,
                                                   enum lorica_module module);

/** shrunk[slot] = dropout(x) A^T. Contains barriers with dropout on; none without. Nothing when the
 * module has no pair. */
void lorica_pass_shrink(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                        enum lorica_module module, const float *x, unsigned slot);

/** out = x W^T + scale * shrunk[slot] B^T (accumulate: out +=). */
void lorica_pass_linear(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                        enum lorica_module module, const float *x, unsigned slot, float *out,
                        bool accumulate);

/** to[rows of the thread][k] = x with the module's dropout mask. `add`: to += instead. */
void lorica_pass_mask(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                      enum lorica_module module, const float *x, float *to, bool add);

/* Small steps on the rows of one thread (ops.c). */

void lorica_pass_norm(struct lorica_pass *pass, unsigned thread, const float *x,
                      const float *weight, float *out);
/** dx += gradient of the norm of x with respect to x, times dy. */
void lorica_pass_norm_backward(struct lorica_pass *pass, unsigned thread, const float *x,
                               const float *weight, const float *dy, float *dx);
/** One row of each. */
void lorica_norm_row(const float *x, const float *weight, uint32_t n, float eps, float *out);
void lorica_norm_row_backward(const float *x, const float *weight, const float *dy, uint32_t n,
                              float eps, float *dx);
/** Rotates heads of [tokens][heads * head_dim]; `backward` by the opposite angles. */
void lorica_pass_rotate(struct lorica_pass *pass, unsigned thread, float *x, uint32_t heads,
                        bool backward);
/** out = silu(gate) * up. */
void lorica_pass_silu(struct lorica_pass *pass, unsigned thread, const float *gate, const float *up,
                      float *out);
/** Replaces gate and up by their gradients, given that of the product. `work`: [tokens][inner],
 * overwritten. */
void lorica_pass_silu_backward(struct lorica_pass *pass, unsigned thread, float *gate, float *up,
                               const float *dout, float *work);

/* Attention (attention.c). Each thread takes whole (sequence, key/value head) pairs. */

/** Floats of workspace for sequences of up to `length`. */
size_t lorica_attention_scratch(const struct lorica_arch *arch, uint32_t length);
void lorica_pass_attend(struct lorica_pass *pass, unsigned thread,
                        const struct lorica_layer_acts *acts);
/** dq, dk, dv are overwritten; shapes as q, k, v. */
void lorica_pass_attend_backward(struct lorica_pass *pass, unsigned thread,
                                 const struct lorica_layer_acts *acts, const float *dout, float *dq,
                                 float *dk, float *dv);

/* Whole layers (forward.c, backward.c); they begin and end behind a barrier. */

/** x[tokens][hidden] = embeddings of ids[tokens]. */
void lorica_pass_embed(struct lorica_pass *pass, unsigned thread, const int32_t *ids, float *x);
/** y = layer(x), leaving its activations in acts; y may not be x. */
void lorica_pass_layer(struct lorica_pass *pass, unsigned thread, uint32_t layer, const float *x,
                       const struct lorica_layer_acts *acts, float *y);

/** Buffers of the backward pass; [tokens][...] each but the last three. */
struct lorica_backward {
    float *dnormed;         /**< [hidden] */
    float *dwide;           /**< [widest] */
    float *dq, *dk, *dv;    /**< as q, k, v */
    float *extra;           /**< [widest]; with dropout only */
    float *thin;            /**< [max_rank] */
    float *thin_t, *wide_t; /**< [max_rank][tokens]: transposed thin matrices */
    float *db_t;            /**< [max_rank][widest output] */
};

/** Turns d, the gradient of the layer's output, into that of its input x (left undone when
 * `lowest`: nothing below needs it), and adds to the adapter's gradients. Overwrites acts. */
void lorica_pass_layer_backward(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                                const float *x, const struct lorica_layer_acts *acts,
                                const struct lorica_backward *work,
                                struct lorica_adapter_grads *grads, bool lowest, float *d);

#endif
