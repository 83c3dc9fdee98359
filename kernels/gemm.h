/* SPDX-License-Identifier: MIT
 * Matrix products with packed right-hand panels, and the row steps between them: training, and the
 * exact forward. The frozen weights are never whole in float32 or bfloat16: a panel of them is
 * decoded, used for all rows, and forgotten.
 *
 * What the products multiply are OPERANDS: float32 in the exact table, bfloat16 in the fast one of
 * processors that multiply pairs of bfloat16 (sums are float32 in both). One table per kind; who
 * uses it treats operands as untyped arrays of `operand_nbytes` each. Leading dimensions and
 * offsets count elements.
 *
 * A panel of depth d holds NR columns: [d][NR] in float32, [(d + 1) / 2][NR][2] in bfloat16, the
 * missing second half of an odd depth zero. */
#ifndef LORICA_KERNELS_GEMM_H
#define LORICA_KERNELS_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/matrix.h"

/** Columns of one packed panel. */
#define LORICA_GEMM_NR 32

/** What operands are. */
enum lorica_operand { LORICA_OPERAND_F32, LORICA_OPERAND_BF16 };

/** What becomes of a sum. */
enum lorica_gemm_out {
    LORICA_GEMM_SET,    /**< stored as float32 */
    LORICA_GEMM_ADD,    /**< added to float32 */
    LORICA_GEMM_OPERAND /**< stored as an operand, rounded to nearest even */
};

/** One summand: operands a[m][depth] times a panel. With an odd depth the element behind a row of
 * `a` is read, and must be no NaN or infinity. */
struct lorica_gemm_part {
    const void *a;
    size_t lda;
    const void *panel;
    uint32_t depth;
};

/** C[i * ldc + j] = sum over the parts of sum_p a[i * lda + p] * panel(p, j), for i < m, j < cols
 * (<= NR); `out` says what C is. The order of each sum depends on the depths alone, not on m. */
typedef void (*lorica_gemm_panel_fn)(void *c, size_t ldc, const struct lorica_gemm_part *parts,
                                     size_t count, uint32_t m, uint32_t cols,
                                     enum lorica_gemm_out out);

/** Decodes into a panel, times `scale`, the columns [row, row + cols) of W^T, i.e. rows of W, over
 * inputs [k0, k1): panel(p - k0, j) = scale * W[row + j][p]; columns past cols or n are 0. Values
 * as lorica_matrix_rows_f32 before scaling and rounding. Tiled NF4 is the fast case: row % 16 == 0,
 * k0 % 64 == 0. */
typedef void (*lorica_gemm_pack_w_fn)(void *panel, const struct lorica_matrix *w, uint32_t row,
                                      uint32_t cols, uint32_t k0, uint32_t k1, float scale);

/** Decodes for the backward product dX = dY W: panel(i - row0, j) = scale * W[i][col + j] for rows
 * [row0, row1), columns [col, col + cols); the rest 0. col % 32 == 0. */
typedef void (*lorica_gemm_pack_wt_fn)(void *panel, const struct lorica_matrix *w, uint32_t row0,
                                       uint32_t row1, uint32_t col, uint32_t cols, float scale);

/** Packs operands: panel(i, j) = x[i * ldx + j] for i < depth, j < cols; further columns 0. */
typedef void (*lorica_gemm_pack_rows_fn)(void *panel, const void *x, size_t ldx, uint32_t depth,
                                         uint32_t cols);
/** The same of the transposed: panel(p, j) = x[j * ldx + p] for p < depth, j < cols. */
typedef void (*lorica_gemm_pack_cols_fn)(void *panel, const void *x, size_t ldx, uint32_t depth,
                                         uint32_t cols);

/** to[j * ldt + i] = x[i * ldx + j] for i < rows, j < cols; with an odd `rows` of bfloat16 also
 * to[j * ldt + rows] = 0, so that `to` can be a left operand of that depth. */
typedef void (*lorica_gemm_turn_fn)(void *to, size_t ldt, const void *x, size_t ldx, uint32_t rows,
                                    uint32_t cols);

/** Operands, or bfloat16, of floats (rounded to nearest even), and back. What is
 * no normal number may become 0. Storing, `to` may be `from`. */
typedef void (*lorica_gemm_store_fn)(void *to, const float *from, size_t count);
typedef void (*lorica_gemm_load_fn)(float *to, const void *from, size_t count);

/** y[i] = exp(scale * x[i] + offset), within 2 ulp of exp of that float32 argument where the result
 * is a normal number (below, 0 may come, above, a finite 3.4e38); NaN stays NaN. y may be x. */
typedef void (*lorica_gemm_exp_fn)(float *y, const float *x, uint32_t n, float scale, float offset);

/* Row steps on floats. Sums are kept in eight double lanes, so they are the same on every level. */

/** out[i] = weight[i] * x[i] / sqrt(mean(x^2) + eps). No two of the arrays overlap. */
typedef void (*lorica_gemm_norm_fn)(float *out, const float *x, const float *weight, uint32_t n,
                                    float eps);
/** dx[i] += the gradient of that, given dy. */
typedef void (*lorica_gemm_norm_backward_fn)(float *dx, const float *x, const float *weight,
                                             const float *dy, uint32_t n, float eps);
/** out = silu(gate) * up, none of them overlapping. */
typedef void (*lorica_gemm_silu_fn)(float *out, const float *gate, const float *up, uint32_t n);
/** Replaces gate and up by their gradients, given that of the product, which is lost. */
typedef void (*lorica_gemm_silu_backward_fn)(float *gate, float *up, float *dout, uint32_t n);
/** x = softmax(scale * x). */
typedef void (*lorica_gemm_softmax_fn)(float *x, uint32_t n, float scale);
/** dp = scale * p (dp - sum(p dp)): the gradient of the scores. */
typedef void (*lorica_gemm_softmax_backward_fn)(float *dp, const float *p, uint32_t n, float scale);
/** Negative log-likelihood of `label`; x becomes the gradient, softmax(x) - one-hot. */
typedef double (*lorica_gemm_cross_entropy_fn)(float *x, uint32_t n, uint32_t label);

/** Does `rounds` rounds of the fastest multiply-add on operands, in registers; returns the number
 * of floating-point operations done. What a machine's peak is measured with. */
typedef double (*lorica_gemm_peak_fn)(uint64_t rounds);

struct lorica_gemm_kernels {
    enum lorica_operand operand;
    size_t operand_nbytes;
    lorica_gemm_panel_fn panel;
    lorica_gemm_pack_w_fn pack_w;
    lorica_gemm_pack_wt_fn pack_wt;
    lorica_gemm_pack_rows_fn pack_rows;
    lorica_gemm_pack_cols_fn pack_cols;
    lorica_gemm_turn_fn turn;
    lorica_gemm_store_fn store;
    lorica_gemm_load_fn load;
    lorica_gemm_store_fn squeeze; /**< to bfloat16, whatever operands are */
    lorica_gemm_load_fn expand;   /**< from it */
    lorica_gemm_exp_fn exp;
    lorica_gemm_norm_fn norm;
    lorica_gemm_norm_backward_fn norm_backward;
    lorica_gemm_silu_fn silu;
    lorica_gemm_silu_backward_fn silu_backward;
    lorica_gemm_softmax_fn softmax;
    lorica_gemm_softmax_backward_fn softmax_backward;
    lorica_gemm_cross_entropy_fn cross_entropy;
    lorica_gemm_peak_fn peak;
};

/** Fills the table for lorica_cpu_level(). */
void lorica_gemm_kernels_init(struct lorica_gemm_kernels *kernels, enum lorica_operand operand);

/** The operands with which this level trains fastest: bfloat16 where it multiplies pairs of them,
 * else float32. */
enum lorica_operand lorica_gemm_fastest(void);

/** Bytes of a panel of this depth. */
static inline size_t lorica_gemm_panel_nbytes(const struct lorica_gemm_kernels *kernels,
                                              size_t depth) {
    return (depth + 1) / 2 * 2 * LORICA_GEMM_NR * kernels->operand_nbytes;
}

#endif
