/* SPDX-License-Identifier: MIT
 * One pass over the model: what forward and backward share. Private to runtime/train.
 *
 * Functions that take a `thread` run on every thread of the team at once (pool.h). Where not said
 * otherwise they end WITHOUT a barrier: the caller puts one before anybody reads the result.
 *
 * Tokens of all sequences lie behind each other without padding: row `start + i` of every
 * activation is position i of a sequence. Every value depends on its inputs only, in a fixed order
 * of operations: neither the number of threads nor the batch changes a bit.
 *
 * What products read is an array of operands (kernels/gemm.h), float32 or bfloat16, and untyped
 * here; the residual stream, its gradient, scores and sums are float32 always. Norms read the
 * residual stream rounded to operands, as the backward pass will find it.
 *
 * The fast mode multiplies frozen weights that lie in tiles by serving's own kernels
 * (kernels/linear.h), whose inputs are quantised: so an adapter learns beside the very products
 * beside which it will answer, and makes up for their rounding, too. The gradient of rounding is
 * taken for 1 (straight through). The products dX = dY W are of bfloat16 where the processor
 * multiplies that fast, and elsewhere of int8, on quantised dY and turned weights: the gradient
 * then is off by some percent at random, which an update's scatter hides. */
#ifndef LORICA_RUNTIME_TRAIN_PASS_H
#define LORICA_RUNTIME_TRAIN_PASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/gemm.h"
#include "runtime/adapter.h"
#include "runtime/base.h"
#include "runtime/model.h"
#include "runtime/pool.h"
#include "runtime/train/clock.h"
#include "runtime/train/full.h"
#include "runtime/train/model.h"

/** One sequence of a pass. */
struct lorica_pass_sequence {
    uint32_t start, length;
};

/** What a layer leaves for its backward pass: arrays [tokens][...]. */
enum lorica_act {
    LORICA_ACT_X,      /**< residual stream at the first norm */
    LORICA_ACT_MIDDLE, /**< and at the second */
    LORICA_ACT_THIN,   /**< A x of each module, one [tokens][rank] behind the other */
    LORICA_ACT_SMALL,  /**< from here on: what can be computed again from those above */
    LORICA_ACT_Q = LORICA_ACT_SMALL, /**< rotated queries */
    LORICA_ACT_K,                    /**< and keys */
    LORICA_ACT_V,
    LORICA_ACT_ATTENDED, /**< attention's output, before the o projection */
    LORICA_ACT_GATE,     /**< MLP, before the activation */
    LORICA_ACT_UP,
    LORICA_ACT_COUNT
};

struct lorica_layer_acts {
    void *of[LORICA_ACT_COUNT];   /**< as products and attention have them: operands */
    void *kept[LORICA_ACT_COUNT]; /**< as they wait for the backward pass: the same arrays, or
                                       others, of bfloat16; then `of` lacks X and MIDDLE */
};

/** Most modules that read the same input. */
#define LORICA_PASS_SLOTS 3
#define LORICA_PASS_LINES 3
/** Sums of products with tiles that are in the making at a time: they stay in the level 2 cache. */
#define LORICA_PASS_SUM_ROWS 132
#define LORICA_PASS_SUM_COLS 192
/** Rows of matrices that are turned at a time, and room for some columns of them: these stay in the
 * level 2 cache beside quantised rows. */
#define LORICA_PASS_PIECE 2048
#define LORICA_PASS_TURNED ((size_t)224 << 10)

struct lorica_pass {
    const struct lorica_base *base;
    const struct lorica_adapter *adapter; /**< NULL: none */
    const struct lorica_full *full;       /**< whose base this is, to be trained whole; or NULL */
    const struct lorica_model *served;    /**< its frozen matrices in tiles; NULL: float32 */
    bool turns;                           /**< their gradients' products are of int8, too */
    struct lorica_pool *pool;
    struct lorica_gemm_kernels gemm;
    uint32_t max_tokens, max_rank;
    float dropout;
    uint64_t seed;
    struct lorica_clock *clock; /**< NULL: nobody asks where time goes */

    struct lorica_pass_sequence *sequences;
    uint32_t count;      /**< sequences */
    uint32_t tokens;     /**< rows in use */
    uint32_t *positions; /**< [tokens] */
    float *rotary;       /**< [max_tokens][head_dim]: cosines, then sines */

    float *stream; /**< [tokens][hidden]: the residual stream */
    float *q, *k;  /**< queries and keys before they are rotated; NULL where operands are floats */
    void *normed;  /**< [tokens][hidden], operands */
    void *wide;    /**< [tokens][intermediate], operands */
    void *dropped; /**< [tokens][widest input], operands; with dropout only */
    char *quantised;     /**< with `served`: rows of what the next products read */
    float **sums;        /**< with `served`, per thread: sums of such products */
    void **turned;       /**< with `turns`, per thread: turned weights */
    size_t panel_depth;  /**< of a panel, at most */
    size_t panel_nbytes; /**< of a thread's panels together */
    void **panels;       /**< per thread: packed panels */
    float **scratch;     /**< per thread: attention's workspace */
    float **lines;       /**< per thread: LORICA_PASS_LINES rows of the widest, as floats */
    uint32_t widest;

    void **owned; /**< every allocation, for finish */
    size_t owned_count;
};

/** Allocates for `max_tokens` rows, adapters of rank up to `max_rank`, dropout or not. `served` is
 * borrowed, or NULL. */
int lorica_pass_init(struct lorica_pass *pass, const struct lorica_base *base,
                     const struct lorica_model *served, struct lorica_pool *pool,
                     enum lorica_operand operand, uint32_t max_tokens, uint32_t max_rank,
                     bool dropout, struct lorica_error *err) LORICA_MUSTCHECK;
/** Frees. A zeroed struct is accepted. */
void lorica_pass_finish(struct lorica_pass *pass);

/** Bytes of what init allocates. */
size_t lorica_pass_nbytes(const struct lorica_arch *arch, unsigned threads,
                          enum lorica_operand operand, bool served, uint32_t max_tokens,
                          uint32_t max_rank, bool dropout);

/** A block of rows * columns * size bytes, zeroed, that finish frees; NULL: no memory. */
void *lorica_pass_block(struct lorica_pass *pass, size_t rows, size_t columns, size_t size);
/** Of floats; of operands. */
float *lorica_pass_floats(struct lorica_pass *pass, size_t rows, size_t columns);
void *lorica_pass_operands(struct lorica_pass *pass, size_t rows, size_t columns);

/** Elements of one token in an array of activations. */
size_t lorica_act_width(const struct lorica_arch *arch, uint32_t max_rank, enum lorica_act act);
/** Allocates arrays of the activations [first, last) with elements of `size` bytes. False: no
 * memory. */
bool lorica_pass_acts(struct lorica_pass *pass, void *arrays[LORICA_ACT_COUNT],
                      enum lorica_act first, enum lorica_act last, size_t size);

/** The operand `index` elements behind `base`. */
static inline void *lorica_operands_at(const struct lorica_pass *pass, const void *base,
                                       size_t index) {
    return (char *)(uintptr_t)base + index * pass->gemm.operand_nbytes;
}
/** A row of n operands as floats: itself where operands are floats, else a copy in `line`. */
static inline const float *lorica_pass_read(const struct lorica_pass *pass, const void *row,
                                            uint32_t n, float *line) {
    if (pass->gemm.operand == LORICA_OPERAND_F32)
        return row;
    pass->gemm.load(line, row, n);
    return line;
}
/** Where the floats of a row of operands are made: in the row itself, or in `line`. */
static inline float *lorica_pass_place(const struct lorica_pass *pass, void *row, float *line) {
    return pass->gemm.operand == LORICA_OPERAND_F32 ? row : line;
}
/** Brings them from there to the row. */
static inline void lorica_pass_write(const struct lorica_pass *pass, void *row, const float *from,
                                     size_t n) {
    if (row != (const void *)from)
        pass->gemm.store(row, from, n);
}
/** A x of a module. */
static inline void *lorica_act_thin(const struct lorica_pass *pass,
                                    const struct lorica_layer_acts *acts,
                                    enum lorica_module module) {
    return lorica_operands_at(pass, acts->of[LORICA_ACT_THIN],
                              (size_t)module * pass->max_tokens * pass->max_rank);
}

/** Begins a new set of sequences; add appends one of 1 to max_tokens rows. */
void lorica_pass_begin(struct lorica_pass *pass, const struct lorica_adapter *adapter);
void lorica_pass_add(struct lorica_pass *pass, uint32_t length);

/** The rows of a thread. */
void lorica_pass_rows(const struct lorica_pass *pass, unsigned thread, uint32_t *ret_begin,
                      uint32_t *ret_end);

/** Tells the clock that thread 0 did `part` since the last mark. */
static inline void lorica_pass_mark(const struct lorica_pass *pass, unsigned thread,
                                    enum lorica_part part) {
    if (thread == 0)
        lorica_clock_mark(pass->clock, part);
}
/** A barrier, and that mark. */
static inline void lorica_pass_barrier(const struct lorica_pass *pass, unsigned thread,
                                       enum lorica_part part) {
    lorica_pool_barrier(pass->pool);
    lorica_pass_mark(pass, thread, part);
}

/** LORICA_EINVAL naming the first id that the vocabulary does not have (exact.c). */
int lorica_train_check_ids(const struct lorica_arch *arch, const int32_t *ids, size_t count,
                           struct lorica_error *err) LORICA_MUSTCHECK;

/* Products (product.c). */

/** One summand of a product: operands A[rows][depth] times a matrix that is packed. */
struct lorica_term {
    const void *a;
    size_t lda;
    const struct lorica_matrix *w; /**< frozen or the adapter's; NULL: x instead */
    bool by_rows;                  /**< false: A W^T, depth w->k; true: A W, depth w->n */
    float scale;                   /**< of w */
    /* Instead of a and w, in the first terms of a product, LORICA_PASS_SLOTS at most: */
    const struct lorica_linear *tiled; /**< a frozen matrix that `served` has in tiles, or NULL */
    const void *quantised;             /**< rows of A, quantised; with by_rows in pieces */
    size_t quantised_stride;           /**< bytes from one to the next */
    const float *by;                   /**< with by_rows: factors of the rows of `tiled`, or NULL */
    const void *x;                     /**< operands [depth][cols], leading dimension ldx */
    size_t ldx;
    uint32_t depth;
};

/** out[rows][cols] = (or +=) sum of the terms, leading dimension ldo. As operands only when the
 * depths of all terms fit one panel: one matrix of the model and one of an adapter do. */
void lorica_pass_product(struct lorica_pass *pass, unsigned thread, void *out, size_t ldo,
                         uint32_t rows, uint32_t cols, const struct lorica_term *terms,
                         size_t count, enum lorica_gemm_out how);

/** Inputs of products with so many rows of a matrix, turned. */
static inline uint32_t lorica_turned_depth(uint32_t n) {
    return (n + LORICA_TURN_BLOCK - 1) / LORICA_TURN_BLOCK * LORICA_TURN_BLOCK;
}
/** The same of the piece that begins at row `first` of n. */
static inline uint32_t lorica_turned_piece(uint32_t n, uint32_t first) {
    return lorica_turned_depth(n - first < LORICA_PASS_PIECE ? n - first : LORICA_PASS_PIECE);
}
/** Bytes of a panel's columns of turned matrices of that depth together. */
static inline size_t lorica_turned_nbytes(size_t depth) {
    return LORICA_GEMM_NR * (depth + depth / LORICA_TURN_BLOCK * sizeof(uint16_t));
}

/** A module's frozen matrix as it is served; NULL where products take operands: in float32, and
 * where it is not in tiles. */
const struct lorica_linear *lorica_pass_tiled(const struct lorica_pass *pass, uint32_t layer,
                                              enum lorica_module module);

/** This thread's share of rows x[rows][k] of operands, quantised for products with tiles, or
 * with their turned columns (`by_rows`): then in pieces, one behind the other. */
void lorica_pass_quantise(struct lorica_pass *pass, unsigned thread, void *to, const void *x,
                          uint32_t rows, uint32_t k, bool by_rows);
/** Bytes from one such row to the next. */
size_t lorica_pass_quantised(const struct lorica_linear_kernels *linear, uint32_t k, bool by_rows);

/** A dense float32 matrix over somebody's values. */
static inline struct lorica_matrix lorica_dense(const float *values, uint32_t n, uint32_t k) {
    return (struct lorica_matrix){.format = LORICA_FORMAT_F32, .n = n, .k = k, .data = values};
}

/* LoRA (lora.c). */

/** Pair of a module, or NULL when there is none. */
const struct lorica_adapter_pair *lorica_pass_pair(const struct lorica_pass *pass, uint32_t layer,
                                                   enum lorica_module module);

/** The thin product of acts = dropout(x) A^T. Contains barriers with dropout on; none without.
 * Nothing when the module has no pair. */
void lorica_pass_shrink(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                        enum lorica_module module, const void *x,
                        const struct lorica_layer_acts *acts);

/** out = x W^T + scale * thin B^T. What products with tiles read of x is in pass->quantised. */
void lorica_pass_linear(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                        enum lorica_module module, const void *x,
                        const struct lorica_layer_acts *acts, void *out, enum lorica_gemm_out how);

/** pass->dropped = x with the module's dropout mask, this thread's rows. */
void lorica_pass_mask(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                      enum lorica_module module, const void *x);
/** to += x with that mask, in floats. */
void lorica_pass_mask_add(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                          enum lorica_module module, const float *x, float *to);

/* Small steps on the rows of one thread (ops.c). */

/** Keeps x as `act`; out = norm of x, rounded to operands where that is kept as operands. */
void lorica_pass_norm(struct lorica_pass *pass, unsigned thread, const float *x,
                      const float *weight, const struct lorica_layer_acts *acts,
                      enum lorica_act act, void *out);
/** Of what is kept already. */
void lorica_pass_norm_kept(struct lorica_pass *pass, unsigned thread,
                           const struct lorica_layer_acts *acts, enum lorica_act act,
                           const float *weight, void *out);
/** dx += gradient of the norm of what is kept as `act`, times dy; then to = dx as operands, where
 * it is another array. */
void lorica_pass_norm_backward(struct lorica_pass *pass, unsigned thread,
                               const struct lorica_layer_acts *acts, enum lorica_act act,
                               const float *weight, const float *dy, float *dx, void *to);
/** dweight[begin, end) += gradient of the weight of a norm of x[n], given that of its output. */
void lorica_norm_gradient_row(const float *x, const float *dy, uint32_t n, float eps,
                              uint32_t begin, uint32_t end, float *dweight);
/** dweight += gradient of the norm's weight; each thread does some columns of all rows. */
void lorica_pass_norm_gradient(struct lorica_pass *pass, unsigned thread,
                               const struct lorica_layer_acts *acts, enum lorica_act act,
                               const float *dy, float *dweight);
/** to = x [tokens][heads * head_dim], each head rotated by its position; to may be x. */
void lorica_pass_rotate(struct lorica_pass *pass, unsigned thread, float *x, uint32_t heads,
                        void *to);
/** Rotates one head of one position; backward by the opposite angle. */
void lorica_pass_rotate_head(const struct lorica_pass *pass, float *x, uint32_t position,
                             bool backward);
/** out = silu(gate) * up, which are kept. */
void lorica_pass_silu(struct lorica_pass *pass, unsigned thread,
                      const struct lorica_layer_acts *acts, void *out);
/** Of what is kept already. */
void lorica_pass_silu_kept(struct lorica_pass *pass, unsigned thread,
                           const struct lorica_layer_acts *acts, void *out);
/** Puts the gradients of gate and up in their places, given that of the product, which is lost. */
void lorica_pass_silu_backward(struct lorica_pass *pass, unsigned thread,
                               const struct lorica_layer_acts *acts, void *dout);

/* Attention (attention.c). Each thread takes whole (sequence, key/value head) pairs. */

/** Floats of workspace for sequences of up to `length`. */
size_t lorica_attention_scratch(const struct lorica_arch *arch, uint32_t length);
void lorica_pass_attend(struct lorica_pass *pass, unsigned thread,
                        const struct lorica_layer_acts *acts);
/** Gradients with respect to q, k, v before rotation, operands of the shapes of q, k, v, given
 * that of the output. */
void lorica_pass_attend_backward(struct lorica_pass *pass, unsigned thread,
                                 const struct lorica_layer_acts *acts, const void *dout, void *dq,
                                 void *dk, void *dv);

/* Whole layers (forward.c, backward.c); they begin and end behind a barrier. */

/** stream[tokens][hidden] = embeddings of ids[tokens]. */
void lorica_pass_embed(struct lorica_pass *pass, unsigned thread, const int32_t *ids);
/** Of a model trained whole: their gradients += d[tokens][hidden]. */
void lorica_pass_embed_backward(struct lorica_pass *pass, unsigned thread, const int32_t *ids,
                                const float *d);
/** stream = layer(stream), leaving its activations in acts. */
void lorica_pass_layer(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                       const struct lorica_layer_acts *acts);
/** Computes the activations from LORICA_ACT_SMALL on again, bit for bit, from those before. */
void lorica_pass_layer_again(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                             const struct lorica_layer_acts *acts);

/** Buffers of the backward pass; [tokens][...] each but the last three. */
struct lorica_backward {
    float *d;                       /**< [hidden]: gradient of the residual stream */
    void *dy;                       /**< [hidden]: the same, operands */
    float *dnormed;                 /**< [hidden] */
    void *dwide;                    /**< [widest], operands */
    void *dq, *dk, *dv;             /**< as q, k, v, operands */
    float *extra, *sum;             /**< [widest]; with dropout only */
    void *u[LORICA_PASS_SLOTS];     /**< [max_rank], operands: scale * dy B */
    void *u_t[LORICA_PASS_SLOTS];   /**< [max_rank][ld], operands: the same, turned */
    void *t_t[LORICA_PASS_SLOTS];   /**< [max_rank][ld], operands: A x, turned */
    size_t ld;                      /**< tokens, rounded up to 32 */
    float *db_t[LORICA_PASS_SLOTS]; /**< [max_rank][widest output] */
    void *dy_t;                     /**< [widest output][ld], operands; of a full model only */
};

/** Turns work->d (and dy), the gradient of the layer's output, into that of its input (left undone
 * when `lowest`: nothing below needs it), and adds to the adapter's gradients. Overwrites acts. */
void lorica_pass_layer_backward(struct lorica_pass *pass, unsigned thread, uint32_t layer,
                                const struct lorica_layer_acts *acts,
                                const struct lorica_backward *work,
                                struct lorica_adapter_grads *grads, bool lowest);

#endif
