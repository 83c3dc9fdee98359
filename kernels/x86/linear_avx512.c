/* SPDX-License-Identifier: MIT
 * int8 activations, a scale for every 32 inputs; weights as unsigned bytes around 128, so that one
 * vpdpbusd multiplies 64 pairs. The bias of 128 is taken away beforehand: each sum starts at
 * -128 * sum(x). Sums of 32 products are exact integers, and meet float32 in the order of the
 * blocks: so a result does not depend on how many rows are computed together. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define BLOCK 32
#define TILE_BLOCK_BYTES 512
/* How far ahead of the loads to prefetch: hardware prefetchers stop at page ends. */
#define PREFETCH 2048
/* 16 codes become round(127 * value); the factor 1/127 comes back at the end. */
#define CODE_STEPS 127.0f

/* A quantised row: k bytes, then k/32 scales, then k/32 sums of -128 * x. */
struct act {
    const int8_t *q;
    const float *scale;
    const int32_t *start;
};

static struct act act_at(const void *xq, size_t stride, uint32_t row, uint32_t k) {
    const char *base = (const char *)xq + row * stride;
    const float *scale = (const float *)(base + k);
    return (struct act){(const int8_t *)base, scale, (const int32_t *)(scale + k / BLOCK)};
}

static size_t act_nbytes_avx512(uint32_t k) { return ((size_t)k + k / BLOCK * 8 + 63) / 64 * 64; }

static void act_quantise_avx512(void *dst, const float *x, uint32_t k) {
    int8_t *q = dst;
    float *scale = (float *)((char *)dst + k);
    int32_t *start = (int32_t *)(scale + k / BLOCK);
    for (uint32_t b = 0; b < k / BLOCK; b++, x += BLOCK, q += BLOCK) {
        const __m512 lo = _mm512_loadu_ps(x), hi = _mm512_loadu_ps(x + 16);
        const float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(lo), _mm512_abs_ps(hi)));
        const __mmask16 odd = _mm512_fpclass_ps_mask(lo, 0x99) | _mm512_fpclass_ps_mask(hi, 0x99);
        const float inverse = odd || top < 1e-30f ? 0 : 127 / top;
        /* NaN and infinities must come out as NaN: by the scale, since bytes cannot carry them. */
        scale[b] = odd ? __builtin_nanf("") : inverse == 0 ? 0 : top / 127;
        const __m512 v = _mm512_set1_ps(inverse), none = _mm512_setzero_ps();
        const __m512i a = _mm512_cvtps_epi32(odd ? none : _mm512_mul_ps(lo, v));
        const __m512i c = _mm512_cvtps_epi32(odd ? none : _mm512_mul_ps(hi, v));
        _mm_storeu_si128((__m128i *)q, _mm512_cvtsepi32_epi8(a));
        _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtsepi32_epi8(c));
        start[b] = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(a, c));
    }
}

/* The bytes of the 16 NF4 codes, four times over: vpermb then ignores what stands above a nibble.
 */
static __m512i code_bytes(void) {
    uint8_t bytes[16];
    for (int i = 0; i < 16; i++)
        bytes[i] = (uint8_t)(128.5f + CODE_STEPS * lorica_nf4_table[i]);
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)bytes));
}

/* The eight vectors of a 32-block, each 16 rows x 4 inputs, in the order of the inputs. */
static inline __attribute__((always_inline)) void nf4_block(__m512i w[8], const uint8_t *codes,
                                                            __m512i bytes) {
    for (int g = 0; g < 4; g++) {
        const __m512i pair = _mm512_loadu_si512(codes + 64 * g);
        _mm_prefetch((const char *)codes + PREFETCH + 64 * g, _MM_HINT_T0);
        w[2 * g] = _mm512_permutexvar_epi8(pair, bytes);
        w[2 * g + 1] = _mm512_permutexvar_epi8(_mm512_srli_epi16(pair, 4), bytes);
    }
}

static inline __attribute__((always_inline)) void q8_block(__m512i w[8], const uint8_t *codes) {
    for (int g = 0; g < 8; g++) {
        _mm_prefetch((const char *)codes + PREFETCH + 64 * g, _MM_HINT_T0);
        w[g] = _mm512_xor_si512(_mm512_loadu_si512(codes + 64 * g), _mm512_set1_epi8((char)0x80));
    }
}

/* One tile for R rows: R is a constant after inlining, and so is `nf4`. */
static inline __attribute__((always_inline)) void
tile_rows(float *y, size_t ldy, const void *xq, size_t stride, const uint8_t *codes,
          const uint16_t *scales, uint32_t k, const int R, const int nf4, __m512i bytes) {
    __m512 sum[16];
    struct act x[16];
    for (int r = 0; r < R; r++) {
        sum[r] = _mm512_setzero_ps();
        x[r] = act_at(xq, stride, (uint32_t)r, k);
    }
    for (uint32_t b = 0; b < k / BLOCK; b++) {
        __m512i w[8];
        if (nf4)
            nf4_block(w, codes + (size_t)b * (TILE_BLOCK_BYTES / 2), bytes);
        else
            q8_block(w, codes + (size_t)b * TILE_BLOCK_BYTES);
        const __m512 step = _mm512_cvtph_ps(
            _mm256_loadu_si256((const __m256i *)(scales + (nf4 ? b / 2 : b) * LORICA_TILE_ROWS)));
        for (int r = 0; r < R; r++) {
            const int8_t *q = x[r].q + (size_t)b * BLOCK;
            __m512i dot = _mm512_set1_epi32(x[r].start[b]);
            for (int g = 0; g < 8; g++) {
                int32_t four;
                memcpy(&four, q + 4 * g, sizeof(four));
                dot = _mm512_dpbusd_epi32(dot, w[g], _mm512_set1_epi32(four));
            }
            const __m512 scaled =
                _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(x[r].scale[b]));
            sum[r] = _mm512_fmadd_ps(scaled, step, sum[r]);
        }
    }
    for (int r = 0; r < R; r++)
        _mm512_storeu_ps(y + (size_t)r * ldy,
                         nf4 ? _mm512_mul_ps(sum[r], _mm512_set1_ps(1 / CODE_STEPS)) : sum[r]);
}

static inline __attribute__((always_inline)) void
product(float *y, size_t ldy, const void *xq, size_t stride, uint32_t rows,
        const struct lorica_linear *w, uint32_t tile0, uint32_t tile1, const int nf4) {
    const uint32_t block = nf4 ? LORICA_NF4_BLOCK : LORICA_Q8_BLOCK;
    const size_t blocks = w->k / block;
    const __m512i bytes = code_bytes();
    for (uint32_t t = tile0; t < tile1; t++) {
        const uint8_t *codes = (const uint8_t *)w->codes + t * blocks * TILE_BLOCK_BYTES;
        const uint16_t *scales = w->scales + t * blocks * LORICA_TILE_ROWS;
        uint32_t r = 0;
#define ROWS(R)                                                                                    \
    for (; rows - r >= (R); r += (R))                                                              \
    tile_rows(y + r * ldy + (size_t)t * LORICA_TILE_ROWS, ldy, (const char *)xq + r * stride,      \
              stride, codes, scales, w->k, (R), nf4, bytes)
        ROWS(16);
        ROWS(8);
        ROWS(4);
        ROWS(2);
        ROWS(1);
#undef ROWS
    }
}

static void nf4_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                       const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, 1);
}

static void q8_avx512(float *y, size_t ldy, const void *xq, size_t xq_stride, uint32_t rows,
                      const struct lorica_linear *w, uint32_t tile0, uint32_t tile1) {
    product(y, ldy, xq, xq_stride, rows, w, tile0, tile1, 0);
}

void lorica_linear_kernels_avx512(struct lorica_linear_kernels *kernels) {
    kernels->act_nbytes = act_nbytes_avx512;
    kernels->act_quantise = act_quantise_avx512;
    kernels->nf4 = nf4_avx512;
    kernels->q8 = q8_avx512;
}
