/* SPDX-License-Identifier: MIT
 * A weight matrix W [n outputs][k inputs] as the base file stores it, and the exact values in it.
 *
 * Tiled layouts (one for every instruction set: 16 rows of a byte column are one zmm, two ymm or
 * four neon registers). With rows rounded up to 16, tile t = rows 16t..16t+15:
 *
 *   NF4, k % 64 == 0: per tile, per 64-block b: 8 groups of 64 bytes. Byte 4*r + j of group g holds
 *     row 16t+r, column 64b + 8g + j in its LOW nibble and column 64b + 8g + 4 + j in its HIGH
 *     nibble (j = 0..3). Rows past n hold code 7 (0.0).
 *   Q8,  k % 32 == 0: per tile, per 32-block b: 8 groups of 64 bytes. Byte 4*r + j of group g holds
 *     int8 of row 16t+r, column 32b + 4g + j. Rows past n hold 0.
 *
 * A matrix whose k does not fit is stored flat: NF4 as bitsandbytes packs it (first element in the
 * high nibble, blocks of 64 running over row ends), never Q8. The dense formats are row-major. */
#ifndef LORICA_KERNELS_MATRIX_H
#define LORICA_KERNELS_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/err.h"

#define LORICA_TILE_ROWS 16
#define LORICA_NF4_BLOCK 64
#define LORICA_NF4_NESTED_BLOCK 256
#define LORICA_Q8_BLOCK 32

enum lorica_format {
    LORICA_FORMAT_F32,
    LORICA_FORMAT_F16,
    LORICA_FORMAT_BF16,
    LORICA_FORMAT_Q8,  /**< int8 with one f16 scale per 32 inputs: value = q * scale */
    LORICA_FORMAT_NF4, /**< 4-bit NormalFloat as bitsandbytes has it */
    LORICA_FORMAT_COUNT
};

/** "f32", "f16", "bf16", "q8", "nf4". */
const char *lorica_format_name(enum lorica_format format);

/** All pointers are borrowed (from the mapped base file, or from whoever built the matrix). */
struct lorica_matrix {
    enum lorica_format format;
    uint32_t n, k;
    const void *data;            /**< codes or values, laid out as above */
    const uint16_t *scales;      /**< Q8: f16 bits, [tile][k/32][16] (rows past n: 0) */
    const float *absmax;         /**< NF4 without double quantisation: [block], row-major order */
    const uint8_t *absmax_codes; /**< NF4 with it: [block], row-major order; absmax is NULL */
    const float *nested_absmax;  /**< NF4 with it: [ceil(blocks/256)] */
    const float *nested_map;     /**< NF4 with it: 256 values */
    float nested_offset;         /**< NF4 with it */
};

/** True when the matrix is in the tiled layout of its format. Dense formats never are. */
bool lorica_matrix_is_tiled(const struct lorica_matrix *m);

/** Number of 16-row tiles, last one possibly partial. */
static inline uint32_t lorica_matrix_tiles(const struct lorica_matrix *m) {
    return (m->n + LORICA_TILE_ROWS - 1) / LORICA_TILE_ROWS;
}

/** Bytes of `data` for a format and shape, padding rows included. */
size_t lorica_matrix_data_nbytes(enum lorica_format format, uint32_t n, uint32_t k);

/** The exact scale of NF4 block `block` (row-major block number): absmax as bitsandbytes
 * dequantises it, map[code] * nested_absmax[block / 256] rounded, then + offset rounded. */
float lorica_nf4_absmax(const struct lorica_matrix *m, size_t block);

/** Exact float32 values of rows [row, row + rows) x all k, row-major into dst[rows][k]:
 * NF4 code * absmax, one rounding. The reference of everything else. Any format, any layout. */
void lorica_matrix_rows_f32(const struct lorica_matrix *m, uint32_t row, uint32_t rows, float *dst);

/** Re-orders NF4 between bitsandbytes' packing and the tiled layout (k % 64 == 0): a bijection on
 * the n*k codes. `tiled` has lorica_matrix_data_nbytes bytes, `flat` n*k/2. */
void lorica_nf4_tile(uint8_t *tiled, const uint8_t *flat, uint32_t n, uint32_t k);
void lorica_nf4_untile(uint8_t *flat, const uint8_t *tiled, uint32_t n, uint32_t k);

/** Quantises `count` values as bitsandbytes' default torch path does: blocks of 64, code by the 15
 * thresholds (ties go down) of x * (1 / absmax), all-zero blocks code 7 with absmax as torch gives;
 * a partial last block divides. codes: ceil(count/2) bytes, first element in the high nibble (odd
 * count: the last low nibble is 7, as bitsandbytes pads); absmax: [ceil(count/64)]. */
void lorica_nf4_quantise(const float *x, size_t count, uint8_t *codes, float *absmax);

/** Second level, as bitsandbytes: offset = mean(absmax), then nearest entry of the dynamic map of
 * (absmax - offset) / nested_absmax in blocks of 256 (midpoint rule, ties down).
 * codes [blocks], nested_absmax [ceil(blocks/256)]. */
void lorica_nf4_quantise_absmax(const float *absmax, size_t blocks, uint8_t *codes,
                                float *nested_absmax, float *ret_offset);

/** The 16 NF4 values and the 256 of the signed dynamic map, bit-exact. */
extern const float lorica_nf4_table[16];
extern const float lorica_dynamic_map[256];

/** Quantises rows to the tiled Q8 layout: per row and 32 inputs, scale = f16(max|x| / 127),
 * q = round(x / scale), clamped to +-127 (k % 32 == 0). */
void lorica_q8_quantise(const float *x, uint32_t n, uint32_t k, int8_t *tiled, uint16_t *scales);

/** Half and bfloat16 conversions, round to nearest even, NaN kept. */
float lorica_f16_to_f32(uint16_t h);
uint16_t lorica_f32_to_f16(float f);
float lorica_bf16_to_f32(uint16_t h);
uint16_t lorica_f32_to_bf16(float f);

#endif
