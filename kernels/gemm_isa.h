/* SPDX-License-Identifier: MIT
 * What the instruction sets add to the tables of gemm.h. Each function overwrites what it has and
 * leaves the rest. */
#ifndef LORICA_KERNELS_GEMM_ISA_H
#define LORICA_KERNELS_GEMM_ISA_H

#include "kernels/gemm.h"

/** Before a loop over the rows of a register block: without it the block lies in memory. */
#if defined(__clang__)
#define LORICA_GEMM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LORICA_GEMM_UNROLL _Pragma("GCC unroll 32")
#endif

/** The reference, which also serves for what an instruction set has no faster way for. */
void lorica_gemm_pack_w_c(void *panel, const struct lorica_matrix *w, uint32_t row, uint32_t cols,
                          uint32_t k0, uint32_t k1, float scale);
void lorica_gemm_pack_wt_c(void *panel, const struct lorica_matrix *w, uint32_t row0, uint32_t row1,
                           uint32_t col, uint32_t cols, float scale);
/** The same with AVX2, to float32. */
void lorica_gemm_pack_w_avx2(void *panel, const struct lorica_matrix *w, uint32_t row,
                             uint32_t cols, uint32_t k0, uint32_t k1, float scale);
void lorica_gemm_pack_wt_avx2(void *panel, const struct lorica_matrix *w, uint32_t row0,
                              uint32_t row1, uint32_t col, uint32_t cols, float scale);

void lorica_gemm_kernels_init_avx2(struct lorica_gemm_kernels *kernels);
void lorica_gemm_kernels_init_avx512(struct lorica_gemm_kernels *kernels);

#endif
