/* SPDX-License-Identifier: MIT
 * Products by sdot: four inputs of four rows of W per register, four registers per tile.
 *
 * An activation row is int8 with a float32 scale per 32 inputs, and what rounding left over in a
 * second int8 plane. Weights of NF4 are bytes less 128, looked up by tbl. Per 32 inputs, whatever
 * the number of rows: sum += float(first) + float(second) / 252, times both scales. */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))
/* Rows that share each decoded register. */
#define GROUP_ROWS 2
/* The second plane's steps in one of the first: half a step becomes 126. */
#define FINER 252.0f

/* Of a block of a quantised row: its step, and what its sum begins at with NF4, whose 0 is no whole
 * byte. */
struct block {
    float scale, nf4_start;
};

/* Of a quantised row: [k] codes, [k] codes of the second plane, [k / 32] blocks. */
static size_t act_nbytes_neon(uint32_t k) {
    return (2 * (size_t)k + k / 32 * sizeof(struct block) + 63) / 64 * 64;
}

static const struct block *blocks_of(const int8_t *x, uint32_t k) {
    return (const struct block *)(const void *)(x + 2 * (size_t)k);
}

/* The sum of 32 codes. */
static float sum_of(const int8_t *codes) {
    return (float)(vaddlvq_s8(vld1q_s8(codes)) + vaddlvq_s8(vld1q_s8(codes + 16)));
}

static void quantise_block(int8_t *codes, int8_t *finer, const float *x, float scale) {
    const float32x4_t inverse = vdupq_n_f32(1 / scale), finer_inverse = vdupq_n_f32(FINER / scale);
    int16x4_t first[8], second[8];
    for (int i = 0; i < 8; i++) {
        const float32x4_t v = vld1q_f32(x + 4 * i);
        const int32x4_t q = vcvtnq_s32_f32(vmulq_f32(v, inverse));
        const float32x4_t rest = vfmsq_n_f32(v, vcvtq_f32_s32(q), scale);
        first[i] = vqmovn_s32(q);
        second[i] = vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(rest, finer_inverse)));
    }
    for (int i = 0; i < 8; i += 2) {
        vst1_s8(codes + 4 * i, vqmovn_s16(vcombine_s16(first[i], first[i + 1])));
        vst1_s8(finer + 4 * i, vqmovn_s16(vcombine_s16(second[i], second[i + 1])));
    }
}

static void act_quantise_neon(void *dst, const float *x, uint32_t k) {
    int8_t *codes = dst;
    struct block *blocks = (struct block *)(void *)(codes + 2 * (size_t)k);
    for (uint32_t b = 0; b < k / 32; b++, x += 32, codes += 32) {
        float32x4_t top = vdupq_n_f32(0);
        for (int i = 0; i < 32; i += 4)
            top = vmaxq_f32(top, vabsq_f32(vld1q_f32(x + i)));
        const float max = vmaxvq_f32(top);
        if (isfinite(max) && max >= 0x1p-100f) {
            quantise_block(codes, codes + k, x, max / 127);
            const float sum = sum_of(codes) + sum_of(codes + k) / FINER;
            blocks[b] = (struct block){max / 127, (LORICA_Q8_ZERO - LORICA_NF4_ZERO) * sum};
            continue;
        }
        /* infinity or NaN: the whole block is lost, and says so */
        blocks[b] = (struct block){isfinite(max) ? 0 : NAN, 0};
        memset(codes, 0, 32);
        memset(codes + k, 0, 32);
    }
}

/* Columns 4 * i .. 4 * i + 3 of the 32-input block at `codes`, rows 4 * v .. 4 * v + 3. */
INLINE int8x16_t weights(const uint8_t *codes, int i, int v, bool nf4, int8x16_t book) {
    if (!nf4)
        return vld1q_s8((const int8_t *)codes + 64 * i + 16 * v);
    const uint8x16_t raw = vld1q_u8(codes + 64 * (i / 2) + 16 * v);
    const uint8x16_t index = i % 2 ? vshrq_n_u8(raw, 4) : vandq_u8(raw, vdupq_n_u8(15));
    return vqtbl1q_s8(book, index);
}

/* acc[v] += four inputs of rows 4 * v .. of the weights, times lane `lane` of x. */
#define ADD_LANE(lane)                                                                             \
    for (uint32_t r = 0; r < rows; r++) {                                                          \
        first[r][v] = vdotq_laneq_s32(first[r][v], w[lane], x[r], lane);                           \
        second[r][v] = vdotq_laneq_s32(second[r][v], w[lane], finer[r], lane);                     \
    }

/* sum[r][v] += 32-input block b of `rows` (a constant after inlining) rows. */
INLINE void add_block(float32x4_t (*sum)[4], const int8_t *const *xs, uint32_t k, uint32_t b,
                      uint32_t rows, const uint8_t *codes, const float32x4_t *scales, bool nf4) {
    const int8x16_t book =
        vreinterpretq_s8_u8(veorq_u8(vld1q_u8(lorica_nf4_bytes), vdupq_n_u8(0x80)));
    int32x4_t first[GROUP_ROWS][4], second[GROUP_ROWS][4];
    for (uint32_t r = 0; r < rows; r++)
        for (int v = 0; v < 4; v++)
            first[r][v] = second[r][v] = vdupq_n_s32(0);
    for (int half = 0; half < 2; half++) {
        int8x16_t x[GROUP_ROWS], finer[GROUP_ROWS];
        for (uint32_t r = 0; r < rows; r++) {
            x[r] = vld1q_s8(xs[r] + (size_t)b * 32 + 16 * half);
            finer[r] = vld1q_s8(xs[r] + k + (size_t)b * 32 + 16 * half);
        }
        for (int v = 0; v < 4; v++) {
            int8x16_t w[4];
            for (int i = 0; i < 4; i++)
                w[i] = weights(codes, 4 * half + i, v, nf4, book);
            ADD_LANE(0) ADD_LANE(1) ADD_LANE(2) ADD_LANE(3)
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        const struct block *block = &blocks_of(xs[r], k)[b];
        for (int v = 0; v < 4; v++) {
            float32x4_t product =
                vfmaq_n_f32(vcvtq_f32_s32(first[r][v]), vcvtq_f32_s32(second[r][v]), 1 / FINER);
            if (nf4)
                product = vaddq_f32(product, vdupq_n_f32(block->nf4_start));
            sum[r][v] = vfmaq_f32(sum[r][v], product, vmulq_n_f32(scales[v], block->scale));
        }
    }
}

INLINE void load_scales(float32x4_t *to, const uint16_t *scales, bool nf4) {
    for (int v = 0; v < 4; v++) {
        to[v] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scales + 4 * v)));
        if (nf4)
            to[v] = vmulq_n_f32(to[v], 1 / LORICA_NF4_FACTOR);
    }
}

/* `rows` rows of x, from xq on, against one tile, whose scales are for `each` inputs. */
INLINE void multiply(float *y, size_t ldy, const int8_t *xq, size_t stride, uint32_t rows,
                     uint32_t k, const uint8_t *codes, const uint16_t *scales, uint32_t each,
                     bool nf4, bool add) {
    const int8_t *x[GROUP_ROWS];
    float32x4_t sum[GROUP_ROWS][4], scale[4];
    for (uint32_t r = 0; r < rows; r++) {
        x[r] = xq + r * stride;
        for (int v = 0; v < 4; v++)
            sum[r][v] = add ? vld1q_f32(y + r * ldy + 4 * v) : vdupq_n_f32(0);
    }
    for (uint32_t b = 0; b < k / 32; b++, codes += nf4 ? 256 : 512) {
        load_scales(scale, scales + (size_t)(b * 32 / each) * LORICA_TILE_ROWS, nf4);
        add_block(sum, x, k, b, rows, codes, scale, nf4);
    }
    for (uint32_t r = 0; r < rows; r++)
        for (int v = 0; v < 4; v++)
            vst1q_f32(y + r * ldy + 4 * v, sum[r][v]);
}

INLINE void multiply_tiles(float *y, size_t ldy, const void *xq, size_t stride, uint32_t rows,
                           const struct lorica_linear *w, uint32_t tile0, uint32_t tile1,
                           uint32_t each, bool nf4, bool add) {
    const size_t blocks = w->k / each, nbytes = (size_t)each * (nf4 ? 8 : 16);
    for (uint32_t t = tile0; t < tile1; t++) {
        const uint8_t *codes = (const uint8_t *)w->codes + t * blocks * nbytes;
        const uint16_t *scales = w->scales + t * blocks * LORICA_TILE_ROWS;
        float *to = y + (size_t)t * LORICA_TILE_ROWS;
        const int8_t *x = xq;
        uint32_t r = 0;
        for (; r + 2 <= rows; r += 2)
            multiply(to + r * ldy, ldy, x + r * stride, stride, 2, w->k, codes, scales, each, nf4,
                     add);
        if (r < rows)
            multiply(to + r * ldy, ldy, x + r * stride, stride, 1, w->k, codes, scales, each, nf4,
                     add);
    }
}

static void nf4_neon(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                     const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    multiply_tiles(y, ldy, xq, xq_stride, rows, w, tile0, tile1, LORICA_NF4_BLOCK, true, false);
}

static void q8_neon(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                    const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    multiply_tiles(y, ldy, xq, xq_stride, rows, w, tile0, tile1, LORICA_Q8_BLOCK, false, false);
}

static void turned_neon(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                        const struct lorica_linear *w, bool add) {
    multiply_tiles(y, ldy, xq, xq_stride, rows, w, 0, w->n / LORICA_TILE_ROWS, LORICA_TURN_BLOCK,
                   false, add);
}

void lorica_linear_kernels_neon(struct lorica_linear_kernels *kernels) {
    kernels->act_nbytes = act_nbytes_neon;
    kernels->act_quantise = act_quantise_neon;
    kernels->nf4 = nf4_neon;
    kernels->q8 = q8_neon;
    kernels->turned = turned_neon;
}
