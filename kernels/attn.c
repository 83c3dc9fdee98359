/* SPDX-License-Identifier: MIT */
#include "kernels/attn.h"

#include <math.h>

#include "kernels/kernels.h"
#include "kernels/matrix.h"

/* Scores of one head into `scores`; the largest is returned. A NaN stays where it is. */
static float scores_c(float *scores, const float *q, const struct lorica_kv_view *kv,
                      uint32_t length, float scale) {
    float top = -INFINITY;
    for (uint32_t p = 0; p < length; p++) {
        const uint16_t *key = lorica_kv_row(kv->keys, kv, p);
        float sum = 0;
        for (uint32_t d = 0; d < kv->head_dim; d++)
            sum += q[d] * lorica_bf16_to_f32(key[d]);
        scores[p] = sum * scale;
        top = scores[p] > top ? scores[p] : top;
    }
    return top;
}

static void attend_c(float *out, const float *q, uint32_t heads, const struct lorica_kv_view *kv,
                     uint32_t length, float scale, float *scratch) {
    const uint32_t dim = kv->head_dim;
    for (uint32_t h = 0; h < heads; h++, out += dim, q += dim) {
        const float top = scores_c(scratch, q, kv, length, scale);
        float total = 0;
        for (uint32_t d = 0; d < dim; d++)
            out[d] = 0;
        for (uint32_t p = 0; p < length; p++) {
            const float weight = expf(scratch[p] - top);
            const uint16_t *value = lorica_kv_row(kv->values, kv, p);
            total += weight;
            for (uint32_t d = 0; d < dim; d++)
                out[d] += weight * lorica_bf16_to_f32(value[d]);
        }
        for (uint32_t d = 0; d < dim; d++)
            out[d] /= total;
    }
}

void lorica_attn_kernels_init(struct lorica_attn_kernels *kernels) {
    *kernels = (struct lorica_attn_kernels){.attend = attend_c};
#if defined(__x86_64__)
    if (lorica_cpu_level() == LORICA_CPU_C)
        return;
    lorica_attn_kernels_avx2(kernels);
#endif
}
