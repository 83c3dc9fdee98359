/* SPDX-License-Identifier: MIT
 * The rungs of the ladders: each replaces in a table what its instruction set does better. Private
 * to this folder. */
#ifndef LORICA_KERNELS_KERNELS_H
#define LORICA_KERNELS_KERNELS_H

#include "kernels/attn.h"
#include "kernels/cpu.h"
#include "kernels/linear.h"
#include "kernels/lora.h"
#include "kernels/vec.h"

/** Bytes of codes of 16 rows of one block, in both tiled layouts. */
#define LORICA_TILE_BLOCK_NBYTES 512
/** And of turned weights. */
#define LORICA_TURN_BLOCK_NBYTES ((size_t)LORICA_TURN_BLOCK * LORICA_TILE_ROWS)

/** NF4's table in bytes: a value is (byte - ZERO) / FACTOR, within 0.0025. Of all such tables the
 * one with the least square error for normally distributed weights: 0.0013, where a table with 0 at
 * a whole byte has 0.0018 at best. */
extern const uint8_t lorica_nf4_bytes[16];
#define LORICA_NF4_ZERO 128.16f
/** The byte that stands for 0 when int8 is made unsigned. */
#define LORICA_Q8_ZERO 128.0f
#define LORICA_NF4_FACTOR 124.113f
/** NF4's table in steps of 1 / 32767. */
extern const int16_t lorica_nf4_steps[16];
/** What turned weights, made words of S / steps where S is the largest scale, are brought to: codes
 * = word * (CODES / largest word) / 2^15, so that a code stands for UNIT * S / steps / that. */
#define LORICA_TURN_CODES (127.0f * 32768.0f)
#define LORICA_TURN_UNIT (32768.0f * 32768.0f / 32767.0f)

#if defined(__x86_64__)
void lorica_linear_kernels_avx2(struct lorica_linear_kernels *kernels);
void lorica_linear_kernels_avx512(struct lorica_linear_kernels *kernels);
void lorica_lora_kernels_avx2(struct lorica_lora_kernels *kernels);
void lorica_lora_kernels_avx512(struct lorica_lora_kernels *kernels);
void lorica_attn_kernels_avx2(struct lorica_attn_kernels *kernels);
void lorica_attn_kernels_avx512(struct lorica_attn_kernels *kernels);
void lorica_vec_kernels_avx2(struct lorica_vec_kernels *kernels);
void lorica_vec_kernels_avx512(struct lorica_vec_kernels *kernels);
#endif
#if defined(__aarch64__)
void lorica_linear_kernels_neon(struct lorica_linear_kernels *kernels);
void lorica_lora_kernels_neon(struct lorica_lora_kernels *kernels);
void lorica_attn_kernels_neon(struct lorica_attn_kernels *kernels);
void lorica_vec_kernels_neon(struct lorica_vec_kernels *kernels);
#endif

#endif
