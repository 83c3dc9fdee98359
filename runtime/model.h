/* SPDX-License-Identifier: MIT
 * A base made ready to serve: every linear layer as the fast kernels take it. The 4-bit codes stay
 * where they are, in the mapped file; only scales in half precision are made, an 8-bit copy of an
 * output head that is not 8-bit already, and float32 copies of what is not in tiles. */
#ifndef LORICA_RUNTIME_MODEL_H
#define LORICA_RUNTIME_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/attn.h"
#include "kernels/linear.h"
#include "kernels/lora.h"
#include "kernels/vec.h"
#include "proto/err.h"
#include "runtime/base.h"

struct lorica_model {
    const struct lorica_base *base; /**< borrowed */
    struct lorica_linear *modules;  /**< [layers][LORICA_MODULE_COUNT] */
    struct lorica_linear head;
    float *inv_freq; /**< [head_dim / 2] */
    struct lorica_linear_kernels linear;
    struct lorica_lora_kernels lora;
    struct lorica_attn_kernels attn;
    struct lorica_vec_kernels vec;
    bool tiled_only; /**< private: no float32 copies */
    void **owned;    /**< private: copies */
    size_t owned_count;
    size_t nbytes; /**< memory taken beside the mapped file */
};

/** Prepares `base`, which is borrowed until finish, for the present CPU level. */
int lorica_model_init(struct lorica_model *model, const struct lorica_base *base,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/** The same without float32 copies: what is not in tiles gets no codes (NULL), and is the caller's
 * to multiply in another way. Training takes this. */
int lorica_model_init_tiled(struct lorica_model *model, const struct lorica_base *base,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees the copies. A zeroed struct is accepted. */
void lorica_model_finish(struct lorica_model *model);

/** A layer's module. */
static inline const struct lorica_linear *
lorica_model_module(const struct lorica_model *model, uint32_t layer, enum lorica_module module) {
    return &model->modules[(size_t)layer * LORICA_MODULE_COUNT + module];
}

/** True for weights in tiles, whose products take quantised activations. */
static inline bool lorica_linear_is_tiled(const struct lorica_linear *w) {
    return w->format == LORICA_FORMAT_NF4 || w->format == LORICA_FORMAT_Q8;
}

/** The rows [16 * tile, min(16 * tile + rows, n)) of a matrix in tiles. */
static inline struct lorica_linear lorica_linear_rows(const struct lorica_linear *w, uint32_t tile,
                                                      uint32_t rows) {
    const uint32_t block = w->format == LORICA_FORMAT_NF4 ? LORICA_NF4_BLOCK : LORICA_Q8_BLOCK;
    const uint32_t before = tile * LORICA_TILE_ROWS;
    struct lorica_linear part = *w;
    part.n = w->n - before < rows ? w->n - before : rows;
    part.codes = (const char *)w->codes + lorica_matrix_data_nbytes(w->format, before, w->k);
    part.scales += (size_t)tile * (w->k / block) * LORICA_TILE_ROWS;
    return part;
}

/** Number of 16-row tiles of a module. */
static inline uint32_t lorica_linear_tiles(const struct lorica_linear *w) {
    return (w->n + LORICA_TILE_ROWS - 1) / LORICA_TILE_ROWS;
}

#endif
