/* SPDX-License-Identifier: MIT
 * Serving's matrix products: y = W x for a few or many rows of activations, on the 4-bit or 8-bit
 * codes as they lie in the base file.
 *
 * Contract that serving stands on: the value of y[r][i] depends on row r of x and row i of W alone,
 * to the bit: not on how many rows or tiles one call is given, nor on the alignment of anything. */
#ifndef LORICA_KERNELS_LINEAR_H
#define LORICA_KERNELS_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/matrix.h"

/** A matrix made ready for the fast products. */
struct lorica_linear {
    enum lorica_format format; /**< NF4 or Q8: tiled; F32, F16, BF16: dense rows */
    uint32_t n, k;
    const void *codes;      /**< borrowed: matrix data */
    const uint16_t *scales; /**< f16 bits [tile][k/block][16], block 64 for NF4, 32 for Q8. NF4: the
                                 exact absmax rounded to f16; Q8: those of the matrix */
};

/** Fills the f16 scales of a tiled NF4 matrix: scales[tiles * k/64 * 16], 0 for rows past n.
 * LORICA_EUNSUPPORTED if an absmax does not fit f16 (over 65504): the caller then keeps such a
 * matrix dense. */
int lorica_linear_nf4_scales(const struct lorica_matrix *m, uint16_t *scales) LORICA_MUSTCHECK;

/** Quantises one activation row x[k] (k % 32 == 0) into the opaque form that the same table's
 * products take. Non-finite values must make the outputs non-finite, not crash. */
typedef void (*lorica_act_quantise_fn)(void *dst, const float *x, uint32_t k);

/** y[r * ldy + i] = sum_j W[i][j] x[r][j] for rows r < `rows` and i in the tiles [tile0, tile1):
 * whole tiles are written, so y needs room for tiles * 16 columns and ldy counts floats.
 * xq: rows quantised by act_quantise, xq_stride bytes apart (64-byte aligned rows). */
typedef void (*lorica_linear_fn)(float *y, size_t ldy, const void *xq, size_t xq_stride,
                                 uint32_t rows, const struct lorica_linear *w, uint32_t tile0,
                                 uint32_t tile1);

/** The same on dense weights and plain activations x[r * ldx + j], any k; float32 accumulation.
 * Outputs i in [16*tile0, min(16*tile1, n)); columns past n are set to 0. */
typedef void (*lorica_linear_dense_fn)(float *y, size_t ldy, const float *x, size_t ldx,
                                       uint32_t rows, const struct lorica_linear *w, uint32_t tile0,
                                       uint32_t tile1);

/* Turned weights: for the gradient of their input, dX = dY W, columns of W become rows of tiles
 * whose inputs are rows of W. They lie as Q8 does, but for the number of inputs that share a scale:
 * codes [tile][inputs / 4][16][4], f16 scales [tile][inputs / 64][16]. */

/** Inputs that share a scale in turned weights. */
#define LORICA_TURN_BLOCK 64

/** Turns one block: columns [col, col + 16) of w, tiled NF4 or Q8, over its rows
 * [row, row + LORICA_TURN_BLOCK), row % 16 == 0. Row i counts by[i] times, which is positive (NULL:
 * once; else there is room for whole tiles of rows); rows past n count as 0. Fills 16 columns of
 * codes and the 16 scales, both 32-byte aligned. A scale is a 127th of the largest of its column's
 * 64 values. A value is within half of it, and two words, of the one it stands for, where a word is
 * a 32512th or less of what the largest scale of the 64 rows can make; then there is the scale's
 * rounding to f16. The result is the same to the bit on every level. */
typedef void (*lorica_linear_turn_fn)(int8_t *codes, uint16_t *scales,
                                      const struct lorica_linear *w, const float *by, uint32_t row,
                                      uint32_t col);

/** y[r * ldy + i] = the product with turned weights, or with `add` += that, for all of its outputs
 * i < n, n % 16 == 0, and k inputs, k % LORICA_TURN_BLOCK == 0; otherwise as above. Only codes and
 * scales of w are as turn fills them: w->format is not read. */
typedef void (*lorica_linear_turned_fn)(float *y, size_t ldy, const void *xq, size_t xq_stride,
                                        uint32_t rows, const struct lorica_linear *w, bool add);

/** One table per process; filled by the ladder in linear.c for lorica_cpu_level(). */
struct lorica_linear_kernels {
    size_t (*act_nbytes)(uint32_t k); /**< bytes of one quantised row, a multiple of 64 */
    lorica_act_quantise_fn act_quantise;
    lorica_linear_fn nf4;
    lorica_linear_fn q8;
    lorica_linear_dense_fn dense;
    lorica_linear_turn_fn turn;
    lorica_linear_turned_fn turned;
    /** Does `rounds` rounds of the tiled products' innermost instructions, in registers; returns
     * the number of operations, a product and its addition being two. What a machine's peak is
     * measured with. */
    double (*peak)(uint64_t rounds);
    const char *peak_form; /**< those instructions */
};

/** Fills the table: C first, then what the level adds. Cannot fail. */
void lorica_linear_kernels_init(struct lorica_linear_kernels *kernels);

/** Turns the columns [16 tile0, 16 tile1) of w over its rows [row, row + depth),
 * depth % LORICA_TURN_BLOCK == 0: codes [(tile1 - tile0) * 16 * depth], scales
 * [tile][depth / 64][16]. The rest is as for one block. */
void lorica_linear_turn(const struct lorica_linear_kernels *kernels, int8_t *codes,
                        uint16_t *scales, const struct lorica_linear *w, const float *by,
                        uint32_t row, uint32_t depth, uint32_t tile0, uint32_t tile1);

#endif
