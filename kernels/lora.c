/* SPDX-License-Identifier: MIT */
#include "kernels/lora.h"

#include "kernels/kernels.h"
#include "kernels/matrix.h"

static void shrink_c(float *t, const float *x, uint32_t k, const uint16_t *a, size_t lda,
                     uint32_t i0, uint32_t i1) {
    for (uint32_t i = i0; i < i1; i++) {
        float sum = 0;
        for (uint32_t j = 0; j < k; j++)
            sum += lorica_bf16_to_f32(a[i * lda + j]) * x[j];
        t[i] = sum;
    }
}

static void expand_c(float *y, const float *t, uint32_t r, const uint16_t *bt, size_t ldb,
                     uint32_t n0, uint32_t n1) {
    for (uint32_t i = n0; i < n1; i++) {
        float sum = y[i];
        for (uint32_t j = 0; j < r; j++)
            sum += lorica_bf16_to_f32(bt[j * ldb + i]) * t[j];
        y[i] = sum;
    }
}

void lorica_lora_kernels_init(struct lorica_lora_kernels *kernels) {
    *kernels = (struct lorica_lora_kernels){.shrink = shrink_c, .expand = expand_c};
#if defined(__x86_64__)
    if (lorica_cpu_level() == LORICA_CPU_C)
        return;
    lorica_lora_kernels_avx2(kernels);
#endif
}
