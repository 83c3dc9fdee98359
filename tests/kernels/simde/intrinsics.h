/* SPDX-License-Identifier: MIT
 * What intrinsics.c offers, once for the processor's instructions and once for SIMDe's. */
#ifndef LORICA_TESTS_KERNELS_SIMDE_INTRINSICS_H
#define LORICA_TESTS_KERNELS_SIMDE_INTRINSICS_H

#include <stddef.h>
#include <stdint.h>

#define INTRINSICS_WORDS 512

/** Applies each intrinsic that immintrin.h supplies to a[16], b[16] and c[16] (any bits), writing
 * 16 words for each, one behind the other; returns how many words. */
size_t intrinsics_native(uint32_t *out, const uint32_t *a, const uint32_t *b, const uint32_t *c);
size_t intrinsics_simde(uint32_t *out, const uint32_t *a, const uint32_t *b, const uint32_t *c);

#endif
