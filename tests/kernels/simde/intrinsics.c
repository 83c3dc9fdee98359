/* SPDX-License-Identifier: MIT
 * Compiled twice: with the processor's <immintrin.h>, and with SIMDe's beside this file. */
#include "intrinsics.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#ifdef SIMDE_VERSION
#define INTRINSICS intrinsics_simde
#else
#define INTRINSICS intrinsics_native
#endif

static uint32_t *put(uint32_t *out, const void *from, size_t nbytes) {
    memset(out, 0, 64);
    memcpy(out, from, nbytes);
    return out + 16;
}

#define PUT(type, value)                                                                           \
    do {                                                                                           \
        const type put_value = (value);                                                            \
        out = put(out, &put_value, sizeof(put_value));                                             \
    } while (0)

size_t INTRINSICS(uint32_t *out, const uint32_t *a, const uint32_t *b, const uint32_t *c) {
    uint32_t *const begin = out;
    const __m512 x = _mm512_loadu_ps(a), y = _mm512_loadu_ps(b), z = _mm512_loadu_ps(c);
    const __m512i i = _mm512_loadu_si512(a);
    const __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)a);
    const uint32_t mask = c[0];
    uint32_t memory[16] = {0};
    PUT(__m512, _mm512_maskz_loadu_ps((__mmask16)mask, a));
    PUT(__m512i, _mm512_maskz_loadu_epi16(mask, a));
    PUT(__m256i, _mm256_maskz_loadu_epi16((__mmask16)mask, a));
    _mm512_mask_storeu_ps(memory, (__mmask16)mask, x);
    out = put(out, memory, sizeof(memory));
    _mm512_mask_storeu_epi16(memory, mask, i);
    out = put(out, memory, sizeof(memory));
    _mm256_mask_storeu_epi16(memory, (__mmask16)~mask, half);
    out = put(out, memory, sizeof(memory));
    PUT(__m512, _mm512_cvtepi32_ps(i));
    PUT(__m512i, _mm512_cvtps_epi32(x));
    PUT(__m512i, _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)a)));
    PUT(__m512i, _mm512_cvtepu16_epi32(half));
    PUT(__m512, _mm512_cvtph_ps(half));
    PUT(__m256i, (__m256i)_mm512_cvtneps_pbh(x));
    PUT(__m512i, (__m512i)_mm512_cvtne2ps_pbh(x, y));
    PUT(float, _mm512_cvtss_f32(x));
    PUT(__m512i, _mm512_srai_epi32(i, 7));
    PUT(__m512i, _mm512_srai_epi32(i, 40));
    PUT(__m512, _mm512_max_ps(x, y));
    PUT(__m512, _mm512_min_ps(x, y));
    PUT(__m512, _mm512_scalef_ps(x, y));
    PUT(int32_t, _mm512_reduce_add_epi32(i));
    PUT(int32_t, _mm512_reduce_max_epi32(i));
    PUT(float, _mm512_reduce_add_ps(x));
    /* Which lane a compiler takes when some are NaN, or the largest are zeros of both signs, is its
     * own affair. Attention, which alone takes maxima of floats, puts NaN away in this manner. */
    PUT(float, _mm512_reduce_max_ps(_mm512_max_ps(x, _mm512_set1_ps(-INFINITY))) + 0.0f);
    PUT(__m512, _mm512_dpbf16_ps(z, (__m512bh)i, (__m512bh)_mm512_loadu_si512(b)));
    return (size_t)(out - begin);
}
