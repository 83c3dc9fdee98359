/* SPDX-License-Identifier: MIT
 * Plain C, the reference of the faster versions: one query, one span and one column after the
 * other. Then the ladder. */
#include "kernels/attn.h"

#include <math.h>
#include <string.h>

#include "kernels/attn_page.h"
#include "kernels/kernels.h"
#include "kernels/matrix.h"

static const char *const names[LORICA_KV_COUNT] = {"bf16", "int8"};

const char *lorica_kv_format_name(enum lorica_kv_format format) { return names[format]; }

bool lorica_kv_format_find(const char *name, enum lorica_kv_format *ret) {
    for (int i = 0; i < LORICA_KV_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum lorica_kv_format)i;
            return true;
        }
    }
    return false;
}

size_t lorica_kv_page_nbytes(enum lorica_kv_format format, uint32_t head_dim) {
    const enum lorica_cpu_level level = lorica_cpu_level();
    if (format == LORICA_KV_INT8)
        return lorica_kv_value_scales_at(format, head_dim) + LORICA_KV_SCALES_NBYTES;
    return level == LORICA_CPU_AVX2 || level == LORICA_CPU_AVXVNNI
               ? lorica_kv_value_shares_at(head_dim) + LORICA_KV_SCALES_NBYTES
               : lorica_kv_pairs_nbytes(head_dim);
}

static void put_bf16_c(void *page, uint32_t slot, const float *key, const float *value,
                       uint32_t head_dim) {
    for (uint32_t d = 0; d < head_dim; d++) {
        *lorica_kv_bf16_key(page, slot, d) = lorica_f32_to_bf16(key[d]);
        *lorica_kv_bf16_value(page, slot, d, head_dim) = lorica_f32_to_bf16(value[d]);
    }
    if (head_dim % 2)
        *lorica_kv_bf16_key(page, slot, head_dim) = 0;
}

/* The scale of `count` values: their largest magnitude becomes 127. NaN when one is not finite. */
static float scale_of(const float *x, uint32_t count) {
    float top = 0;
    for (uint32_t d = 0; d < count; d++) {
        if (!isfinite(x[d]))
            return NAN;
        top = fabsf(x[d]) > top ? fabsf(x[d]) : top;
    }
    return top / 127;
}

/* Scales below this are no normal numbers. */
static int8_t code_of(float x, float scale) {
    return scale >= 0x1p-126f ? (int8_t)lrintf(x / scale) : 0;
}

static void put_int8_c(void *page, uint32_t slot, const float *key, const float *value,
                       uint32_t head_dim) {
    const float key_scale = scale_of(key, head_dim), value_scale = scale_of(value, head_dim);
    for (uint32_t d = 0; d < head_dim; d++) {
        *lorica_kv_int8_key(page, slot, d) = code_of(key[d], key_scale);
        *lorica_kv_int8_value(page, slot, d, head_dim) = code_of(value[d], value_scale);
    }
    for (uint32_t d = head_dim; d % 4; d++)
        *lorica_kv_int8_key(page, slot, d) = 0;
    lorica_kv_key_scales(page, LORICA_KV_INT8, head_dim)[slot] = key_scale;
    lorica_kv_value_scales(page, LORICA_KV_INT8, head_dim)[slot] = value_scale;
}

static float key_int8(void *page, uint32_t slot, uint32_t d, uint32_t head_dim) {
    return (float)*lorica_kv_int8_key(page, slot, d) *
           lorica_kv_key_scales(page, LORICA_KV_INT8, head_dim)[slot];
}

static float value_int8(void *page, uint32_t slot, uint32_t d, uint32_t head_dim) {
    return (float)*lorica_kv_int8_value(page, slot, d, head_dim) *
           lorica_kv_value_scales(page, LORICA_KV_INT8, head_dim)[slot];
}

static float key_bf16(void *page, uint32_t slot, uint32_t d, uint32_t head_dim) {
    (void)head_dim;
    return lorica_bf16_to_f32(*lorica_kv_bf16_key(page, slot, d));
}

static float value_bf16(void *page, uint32_t slot, uint32_t d, uint32_t head_dim) {
    return lorica_bf16_to_f32(*lorica_kv_bf16_value(page, slot, d, head_dim));
}

/* Reads an element of a page. */
typedef float (*element_fn)(void *page, uint32_t slot, uint32_t d, uint32_t head_dim);

/* The keys of one span that a query sees. */
struct span {
    void *pages[LORICA_ATTN_SPAN / LORICA_KV_PAGE];
    uint32_t count, head_dim;
};

static float element(const struct span *span, element_fn read, uint32_t key, uint32_t d) {
    return read(span->pages[key / LORICA_KV_PAGE], key % LORICA_KV_PAGE, d, span->head_dim);
}

static struct span span_of(const struct lorica_kv_view *kv, uint32_t start, uint32_t count) {
    struct span span = {.count = count, .head_dim = kv->head_dim};
    for (uint32_t i = 0; i * LORICA_KV_PAGE < count; i++)
        span.pages[i] =
            (uint8_t *)kv->cells + kv->pages[start / LORICA_KV_PAGE + i] * kv->page_nbytes;
    return span;
}

/* What folding a partial softmax whose largest score is `b` into a state multiplies each with. */
static void fold_scores(float *state, float b, float sum, float *ret_keep, float *ret_add) {
    const float a = state[LORICA_STATE_MAX], top = a > b ? a : b;
    *ret_keep = expf(a - top);
    *ret_add = expf(b - top);
    state[LORICA_STATE_MAX] = top;
    state[LORICA_STATE_SUM] = state[LORICA_STATE_SUM] * *ret_keep + sum * *ret_add;
}

static void attend_span(float *state, bool begin, const float *q, float scale,
                        const struct span *span, element_fn key, element_fn value) {
    float weights[LORICA_ATTN_SPAN], top = -INFINITY, total = 0, keep = 0, add = 1;
    for (uint32_t i = 0; i < span->count; i++) {
        float sum = 0;
        for (uint32_t d = 0; d < span->head_dim; d++)
            sum += q[d] * element(span, key, i, d);
        weights[i] = sum * scale;
        top = weights[i] > top ? weights[i] : top;
    }
    for (uint32_t i = 0; i < span->count; i++)
        total += weights[i] = expf(weights[i] - top);
    if (begin)
        state[LORICA_STATE_MAX] = top, state[LORICA_STATE_SUM] = total;
    else
        fold_scores(state, top, total, &keep, &add);
    state += LORICA_STATE_VALUES;
    for (uint32_t d = 0; d < span->head_dim; d++) {
        float sum = 0;
        for (uint32_t i = 0; i < span->count; i++)
            sum += weights[i] * element(span, value, i, d);
        state[d] = begin ? sum : state[d] * keep + sum * add;
    }
}

static void attend_c(float *states, bool fresh, const struct lorica_attn_queries *queries,
                     const struct lorica_kv_view *kv, uint32_t span0, uint32_t span1,
                     element_fn key, element_fn value) {
    const size_t each = lorica_attn_state_count(kv->head_dim);
    for (uint32_t s = span0; s < span1; s++) {
        const uint32_t start = s * LORICA_ATTN_SPAN;
        for (uint32_t r = lorica_attn_first_row(queries, s); r < queries->rows; r++) {
            const uint32_t seen = queries->position + r + 1 - start;
            const struct span span =
                span_of(kv, start, seen < LORICA_ATTN_SPAN ? seen : LORICA_ATTN_SPAN);
            for (uint32_t h = 0; h < queries->heads; h++) {
                const uint32_t i = r * queries->heads + h;
                attend_span(states + i * each, fresh && s == span0,
                            lorica_attn_query(queries, i, kv->head_dim), queries->scale, &span, key,
                            value);
            }
        }
    }
}

static void attend_bf16_c(float *states, bool fresh, const struct lorica_attn_queries *queries,
                          const struct lorica_kv_view *kv, uint32_t span0, uint32_t span1) {
    attend_c(states, fresh, queries, kv, span0, span1, key_bf16, value_bf16);
}

static void attend_int8_c(float *states, bool fresh, const struct lorica_attn_queries *queries,
                          const struct lorica_kv_view *kv, uint32_t span0, uint32_t span1) {
    attend_c(states, fresh, queries, kv, span0, span1, key_int8, value_int8);
}

static void fold_c(float *states, const float *parts, const struct lorica_attn_queries *queries,
                   uint32_t head_dim, uint32_t span) {
    const size_t each = lorica_attn_state_count(head_dim);
    for (uint32_t i = lorica_attn_first_row(queries, span) * queries->heads;
         i < queries->rows * queries->heads; i++) {
        float *state = states + i * each, keep, add;
        const float *part = parts + i * each;
        fold_scores(state, part[LORICA_STATE_MAX], part[LORICA_STATE_SUM], &keep, &add);
        for (uint32_t d = LORICA_STATE_VALUES; d < LORICA_STATE_VALUES + head_dim; d++)
            state[d] = state[d] * keep + part[d] * add;
    }
}

static void finish_c(float *out, const float *states, const struct lorica_attn_queries *queries,
                     uint32_t head_dim) {
    const size_t each = lorica_attn_state_count(head_dim);
    for (uint32_t i = 0; i < queries->rows * queries->heads; i++) {
        const float *state = states + i * each;
        float *to =
            out + i / queries->heads * queries->stride + (size_t)(i % queries->heads) * head_dim;
        for (uint32_t d = 0; d < head_dim; d++)
            to[d] = state[LORICA_STATE_VALUES + d] / state[LORICA_STATE_SUM];
    }
}

void lorica_attn_kernels_init(struct lorica_attn_kernels *kernels) {
    *kernels = (struct lorica_attn_kernels){.put = {put_bf16_c, put_int8_c},
                                            .attend = {attend_bf16_c, attend_int8_c},
                                            .fold = fold_c,
                                            .finish = finish_c};
#if defined(__x86_64__)
    if (lorica_cpu_level() == LORICA_CPU_C)
        return;
    lorica_attn_kernels_avx2(kernels);
    if (lorica_cpu_level() <= LORICA_CPU_AVXVNNI)
        return;
    lorica_attn_kernels_avx512(kernels);
#elif defined(__aarch64__)
    if (lorica_cpu_level() == LORICA_CPU_NEON)
        lorica_attn_kernels_neon(kernels);
#endif
}
