/* SPDX-License-Identifier: MIT
 * Which form each matrix takes:
 *
 *   tiled NF4, scales fit f16   codes as they are, scales derived
 *   tiled Q8                    as it is
 *   F32, F16, BF16              as it is (dense products)
 *   flat NF4, or large scales   float32 copy (dense products)
 *   output head                 Q8 copy, unless it is Q8 already or its rows are not whole blocks
 */
#include "runtime/model.h"

#include <stdlib.h>

#define ALIGNMENT 64
/* Rows of the head that are in float32 at once while it is quantised. */
#define SLAB_ROWS 256

/* Memory that lives as long as the model; NULL with err filled. */
static void *model_allocate(struct lorica_model *model, size_t nbytes, struct lorica_error *err) {
    const size_t rounded = (nbytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *bytes = rounded < nbytes ? NULL : aligned_alloc(ALIGNMENT, rounded);
    if (!bytes) {
        (void)lorica_fail(err, LORICA_ENOMEM, "no memory for %zu MiB of the model", nbytes >> 20);
        return NULL;
    }
    model->owned[model->owned_count++] = bytes;
    model->nbytes += rounded;
    return bytes;
}

static int take_dense_copy(struct lorica_model *model, const struct lorica_matrix *m,
                           struct lorica_linear *ret, struct lorica_error *err) {
    *ret = (struct lorica_linear){.format = LORICA_FORMAT_F32, .n = m->n, .k = m->k};
    if (model->tiled_only)
        return 0;
    float *values = model_allocate(model, (size_t)m->n * m->k * sizeof(*values), err);
    if (!values)
        return LORICA_ENOMEM;
    lorica_matrix_rows_f32(m, 0, m->n, values);
    ret->codes = values;
    return 0;
}

static int take_matrix(struct lorica_model *model, const struct lorica_matrix *m,
                       struct lorica_linear *ret, struct lorica_error *err) {
    *ret = (struct lorica_linear){
        .format = m->format, .n = m->n, .k = m->k, .codes = m->data, .scales = m->scales};
    if (m->format != LORICA_FORMAT_NF4)
        return 0;
    if (!lorica_matrix_is_tiled(m))
        return take_dense_copy(model, m, ret, err);
    const size_t count =
        (size_t)lorica_matrix_tiles(m) * (m->k / LORICA_NF4_BLOCK) * LORICA_TILE_ROWS;
    uint16_t *scales = model_allocate(model, count * sizeof(*scales), err);
    if (!scales)
        return LORICA_ENOMEM;
    if (lorica_linear_nf4_scales(m, scales) != 0)
        return take_dense_copy(model, m, ret, err);
    ret->scales = scales;
    return 0;
}

/* The Q8 copy, slab by slab: the head is the largest matrix and never whole in float32. */
static int take_head_copy(struct lorica_model *model, const struct lorica_matrix *m,
                          struct lorica_error *err) {
    const size_t blocks = m->k / LORICA_Q8_BLOCK;
    int8_t *codes =
        model_allocate(model, lorica_matrix_data_nbytes(LORICA_FORMAT_Q8, m->n, m->k), err);
    uint16_t *scales = codes ? model_allocate(model,
                                              (size_t)lorica_matrix_tiles(m) * blocks *
                                                  LORICA_TILE_ROWS * sizeof(*scales),
                                              err)
                             : NULL;
    if (!scales)
        return LORICA_ENOMEM;
    float *slab = malloc((size_t)SLAB_ROWS * m->k * sizeof(*slab));
    if (!slab)
        return lorica_fail(err, LORICA_ENOMEM, "no memory to quantise the output head");
    for (uint32_t row = 0; row < m->n; row += SLAB_ROWS) {
        const uint32_t rows = m->n - row < SLAB_ROWS ? m->n - row : SLAB_ROWS;
        lorica_matrix_rows_f32(m, row, rows, slab);
        lorica_q8_quantise(slab, rows, m->k, codes + (size_t)row * m->k,
                           scales + (size_t)row * blocks);
    }
    free(slab);
    model->head = (struct lorica_linear){
        .format = LORICA_FORMAT_Q8, .n = m->n, .k = m->k, .codes = codes, .scales = scales};
    return 0;
}

static int take_head(struct lorica_model *model, struct lorica_error *err) {
    const struct lorica_matrix *m = &model->base->head;
    if (m->format == LORICA_FORMAT_Q8 || m->k % LORICA_Q8_BLOCK != 0)
        return take_matrix(model, m, &model->head, err);
    return take_head_copy(model, m, err);
}

static int take_layers(struct lorica_model *model, struct lorica_error *err) {
    for (uint32_t l = 0; l < model->base->arch.layers; l++)
        for (unsigned i = 0; i < LORICA_MODULE_COUNT; i++) {
            const int rc = take_matrix(model, &model->base->layers[l].modules[i],
                                       &model->modules[(size_t)l * LORICA_MODULE_COUNT + i], err);
            if (rc)
                return rc;
        }
    return 0;
}

static int make(struct lorica_model *model, const struct lorica_base *base, bool tiled_only,
                struct lorica_error *err) {
    struct lorica_model m = {.base = base, .tiled_only = tiled_only};
    const size_t count = (size_t)base->arch.layers * LORICA_MODULE_COUNT;
    lorica_linear_kernels_init(&m.linear);
    lorica_lora_kernels_init(&m.lora);
    lorica_attn_kernels_init(&m.attn);
    lorica_vec_kernels_init(&m.vec);
    m.modules = calloc(count, sizeof(*m.modules));
    m.owned = calloc(2 * count + 2, sizeof(*m.owned));
    m.inv_freq = calloc(base->arch.head_dim / 2 + 1, sizeof(*m.inv_freq));
    int rc = 0;
    if (!m.modules || !m.owned || !m.inv_freq)
        rc = lorica_fail(err, LORICA_ENOMEM, "no memory for the model");
    if (!rc) {
        lorica_arch_inv_freq(&base->arch, m.inv_freq);
        rc = take_layers(&m, err);
    }
    if (!rc)
        rc = take_head(&m, err);
    if (rc)
        lorica_model_finish(&m);
    else
        *model = m;
    return rc;
}

int lorica_model_init(struct lorica_model *model, const struct lorica_base *base,
                      struct lorica_error *err) {
    return make(model, base, false, err);
}

int lorica_model_init_tiled(struct lorica_model *model, const struct lorica_base *base,
                            struct lorica_error *err) {
    return make(model, base, true, err);
}

void lorica_model_finish(struct lorica_model *model) {
    for (size_t i = 0; i < model->owned_count; i++)
        free(model->owned[i]);
    free(model->owned);
    free(model->modules);
    free(model->inv_freq);
    *model = (struct lorica_model){0};
}
