/* SPDX-License-Identifier: MIT
 * Stands before the compiler's <immintrin.h> where AVX-512 sources are compiled to run on any x86
 * processor: SIMDe in plain C, and what Debian 12's SIMDe 0.7.4 does not have, or has with other
 * results than the processor. Each of these follows the "Operation" of its instruction in Intel's
 * "64 and IA-32 Architectures Software Developer's Manual", volume 2, whose name stands beside it;
 * agree.c compares them with the processor's own, to the bit. */
#ifndef LORICA_TESTS_KERNELS_SIMDE_IMMINTRIN_H
#define LORICA_TESTS_KERNELS_SIMDE_IMMINTRIN_H

#define SIMDE_NO_NATIVE
#define SIMDE_NO_INLINE /* compiles in seconds rather than minutes */
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* What sources ask for to know that they are the AVX-512 ones. */
#ifndef __AVX512F__
#define __AVX512F__ 1
#endif

/* What 0.7.4 gives no native names. */
#ifndef __mmask16
#define __mmask16 simde__mmask16
#endif
#ifndef __mmask32
#define __mmask32 simde__mmask32
#endif
#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif

#undef _mm512_scalef_ps
#undef _mm512_dpbf16_ps
#undef _mm512_max_ps
#undef _mm512_min_ps

/* The lanes of a register as an array, and back. */
#define SIMDE_LANES(type, count, name, from)                                                       \
    type name[count];                                                                              \
    memcpy(name, &(from), sizeof(name))
#define SIMDE_RETURN(type, lanes)                                                                  \
    type result;                                                                                   \
    memcpy(&result, lanes, sizeof(result));                                                        \
    return result

/* -- memory under a mask: VMOVUPS, VMOVDQU16; what the mask leaves out is not touched -- */

static inline __m512 _mm512_maskz_loadu_ps(uint16_t mask, const void *from) {
    float y[16] = {0};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            memcpy(&y[i], (const char *)from + i * 4, 4);
    SIMDE_RETURN(__m512, y);
}

static inline void _mm512_mask_storeu_ps(void *to, uint16_t mask, __m512 a) {
    SIMDE_LANES(float, 16, x, a);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            memcpy((char *)to + i * 4, &x[i], 4);
}

static inline __m512i _mm512_maskz_loadu_epi16(uint32_t mask, const void *from) {
    uint16_t y[32] = {0};
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            memcpy(&y[i], (const char *)from + i * 2, 2);
    SIMDE_RETURN(__m512i, y);
}

static inline void _mm512_mask_storeu_epi16(void *to, uint32_t mask, __m512i a) {
    SIMDE_LANES(uint16_t, 32, x, a);
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            memcpy((char *)to + i * 2, &x[i], 2);
}

static inline __m256i _mm256_maskz_loadu_epi16(uint16_t mask, const void *from) {
    uint16_t y[16] = {0};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            memcpy(&y[i], (const char *)from + i * 2, 2);
    SIMDE_RETURN(__m256i, y);
}

static inline void _mm256_mask_storeu_epi16(void *to, uint16_t mask, __m256i a) {
    SIMDE_LANES(uint16_t, 16, x, a);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            memcpy((char *)to + i * 2, &x[i], 2);
}

/* -- conversions -- */

/* VCVTDQ2PS, rounded to nearest even */
static inline __m512 _mm512_cvtepi32_ps(__m512i a) {
    SIMDE_LANES(int32_t, 16, x, a);
    float y[16];
    for (int i = 0; i < 16; i++)
        y[i] = (float)x[i];
    SIMDE_RETURN(__m512, y);
}

/* VCVTPS2DQ, rounded to nearest even; what does not fit, and NaN, become INT32_MIN */
static inline __m512i _mm512_cvtps_epi32(__m512 a) {
    SIMDE_LANES(float, 16, x, a);
    int32_t y[16];
    for (int i = 0; i < 16; i++)
        y[i] = x[i] >= -0x1p31f && x[i] < 0x1p31f ? (int32_t)lrintf(x[i]) : INT32_MIN;
    SIMDE_RETURN(__m512i, y);
}

/* VPMOVSXBD */
static inline __m512i _mm512_cvtepi8_epi32(__m128i a) {
    SIMDE_LANES(int8_t, 16, x, a);
    int32_t y[16];
    for (int i = 0; i < 16; i++)
        y[i] = x[i];
    SIMDE_RETURN(__m512i, y);
}

/* VPMOVZXWD */
static inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
    SIMDE_LANES(uint16_t, 16, x, a);
    uint32_t y[16];
    for (int i = 0; i < 16; i++)
        y[i] = x[i];
    SIMDE_RETURN(__m512i, y);
}

/* VCVTPH2PS: exact; a signalling NaN becomes quiet */
static inline __m512 _mm512_cvtph_ps(__m256i a) {
    SIMDE_LANES(uint16_t, 16, x, a);
    uint32_t y[16];
    for (int i = 0; i < 16; i++) {
        const uint32_t sign = (uint32_t)(x[i] & 0x8000) << 16, exponent = x[i] >> 10 & 31,
                       fraction = x[i] & 1023;
        const float small = (float)fraction * 0x1p-24f;
        if (exponent == 31)
            y[i] = 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0);
        else if (exponent > 0)
            y[i] = (exponent + 112) << 23 | fraction << 13;
        else
            memcpy(&y[i], &small, sizeof(small));
        y[i] |= sign;
    }
    SIMDE_RETURN(__m512, y);
}

/* VCVTNEPS2BF16: to nearest even; denormals become 0 of their sign, NaN quiet */
static inline uint16_t simde_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    const uint32_t exponent = bits & 0x7f800000u, fraction = bits & 0x007fffffu;
    if (exponent == 0)
        return bits >> 16 & 0x8000;
    if (exponent == 0x7f800000u)
        return (uint16_t)(bits >> 16 | (fraction ? 0x40 : 0));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline __m256i _mm512_cvtneps_pbh(__m512 a) {
    SIMDE_LANES(float, 16, x, a);
    uint16_t y[16];
    for (int i = 0; i < 16; i++)
        y[i] = simde_bf16(x[i]);
    SIMDE_RETURN(__m256i, y);
}

/* VCVTNE2PS2BF16: the second operand fills the low half */
static inline __m512i _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
    SIMDE_LANES(float, 16, h, high);
    SIMDE_LANES(float, 16, l, low);
    uint16_t y[32];
    for (int i = 0; i < 16; i++) {
        y[i] = simde_bf16(l[i]);
        y[16 + i] = simde_bf16(h[i]);
    }
    SIMDE_RETURN(__m512i, y);
}

static inline float _mm512_cvtss_f32(__m512 a) {
    SIMDE_LANES(float, 16, x, a);
    return x[0];
}

/* -- arithmetic -- */

/* VPSRAD with a constant: from 32 on the sign is left */
static inline __m512i _mm512_srai_epi32(__m512i a, unsigned count) {
    SIMDE_LANES(int32_t, 16, x, a);
    for (int i = 0; i < 16; i++)
        x[i] >>= count < 31 ? count : 31;
    SIMDE_RETURN(__m512i, x);
}

/* VMAXPS, VMINPS: with a NaN, and of two zeros, the second operand */
static inline __m512 _mm512_max_ps(__m512 a, __m512 b) {
    SIMDE_LANES(float, 16, x, a);
    SIMDE_LANES(float, 16, y, b);
    for (int i = 0; i < 16; i++)
        y[i] = x[i] > y[i] ? x[i] : y[i];
    SIMDE_RETURN(__m512, y);
}

static inline __m512 _mm512_min_ps(__m512 a, __m512 b) {
    SIMDE_LANES(float, 16, x, a);
    SIMDE_LANES(float, 16, y, b);
    for (int i = 0; i < 16; i++)
        y[i] = x[i] < y[i] ? x[i] : y[i];
    SIMDE_RETURN(__m512, y);
}

/* VSCALEFPS: a 2^floor(b), rounded once; SIMDe's loses what exp2 of b alone loses */
static inline __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
    SIMDE_LANES(float, 16, x, a);
    SIMDE_LANES(float, 16, y, b);
    for (int i = 0; i < 16; i++) {
        const float power = floorf(y[i]);
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        if (isnan(x[i]) && isinf(power) && (bits & 0x400000u)) /* quiet NaN: 2^b stands alone */
            x[i] = power > 0 ? power : 0;
        else if (isnan(x[i]) || isnan(power))
            x[i] += power;
        else if (isinf(power)) /* NaN from 0 2^infinity and infinity 2^-infinity */
            x[i] *= power > 0 ? power : 0;
        else
            x[i] = ldexpf(x[i], (int)fmaxf(fminf(power, 1000), -1000));
    }
    SIMDE_RETURN(__m512, x);
}

static inline float simde_flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }

static inline float simde_of_bf16(uint16_t bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof(x));
    return simde_flushed(x);
}

/* VDPBF16PS: of a pair the odd element first, each product added to the sum with one rounding, to
 * nearest even; denormals count as 0 and become 0 */
static inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
    SIMDE_LANES(float, 16, s, sum);
    SIMDE_LANES(uint16_t, 32, x, a);
    SIMDE_LANES(uint16_t, 32, y, b);
    for (int i = 0; i < 16; i++) {
        const float odd =
            fmaf(simde_of_bf16(x[2 * i + 1]), simde_of_bf16(y[2 * i + 1]), simde_flushed(s[i]));
        s[i] = simde_flushed(
            fmaf(simde_of_bf16(x[2 * i]), simde_of_bf16(y[2 * i]), simde_flushed(odd)));
    }
    SIMDE_RETURN(__m512, s);
}

/* -- sums and maxima of all lanes: no instructions, but what compilers make of them, by halves --
 */

#define SIMDE_REDUCE(name, register_type, type, expression)                                        \
    static inline type name(register_type a) {                                                     \
        SIMDE_LANES(type, 16, x, a);                                                               \
        for (int half = 8; half > 0; half /= 2)                                                    \
            for (int i = 0; i < half; i++)                                                         \
                x[i] = (expression);                                                               \
        return x[0];                                                                               \
    }
SIMDE_REDUCE(_mm512_reduce_add_ps, __m512, float, x[i] + x[i + half])
SIMDE_REDUCE(_mm512_reduce_max_ps, __m512, float, x[i] > x[i + half] ? x[i] : x[i + half])
SIMDE_REDUCE(_mm512_reduce_add_epi32, __m512i, int32_t,
             (int32_t)((uint32_t)x[i] + (uint32_t)x[i + half]))
SIMDE_REDUCE(_mm512_reduce_max_epi32, __m512i, int32_t, x[i] > x[i + half] ? x[i] : x[i + half])

#endif
