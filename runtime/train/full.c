/* SPDX-License-Identifier: MIT */
#include "runtime/train/full.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base_file.h"

/* Gives out stretches of the values; NULL values: only counts. */
struct cursor {
    float *values;
    size_t at;
};

static float *take(struct cursor *c, size_t count) {
    float *values = c->values ? c->values + c->at : NULL;
    c->at += count;
    return values;
}

static void take_matrix(struct cursor *c, const struct lorica_matrix *from,
                        struct lorica_matrix *to) {
    float *values = take(c, (size_t)from->n * from->k);
    *to = (struct lorica_matrix){
        .format = LORICA_FORMAT_F32, .n = from->n, .k = from->k, .data = values};
    if (values)
        lorica_matrix_rows_f32(from, 0, from->n, values);
}

static const float *take_norm(struct cursor *c, const float *from, uint32_t n) {
    float *values = take(c, n);
    if (values)
        memcpy(values, from, n * sizeof(*values));
    return values;
}

/* Lays the weights out in c: matrices first. How many values are theirs. */
static size_t lay_out(const struct lorica_base *from, struct lorica_base *to, struct cursor *c) {
    const struct lorica_arch *arch = &from->arch;
    take_matrix(c, &from->embed, &to->embed);
    to->head = to->embed;
    if (!arch->tied_head)
        take_matrix(c, &from->head, &to->head);
    for (uint32_t l = 0; l < arch->layers; l++)
        for (int m = 0; m < LORICA_MODULE_COUNT; m++)
            take_matrix(c, &from->layers[l].modules[m], &to->layers[l].modules[m]);
    const size_t matrices = c->at;
    for (uint32_t l = 0; l < arch->layers; l++) {
        to->layers[l].attn_norm = take_norm(c, from->layers[l].attn_norm, arch->hidden);
        to->layers[l].mlp_norm = take_norm(c, from->layers[l].mlp_norm, arch->hidden);
    }
    to->final_norm = take_norm(c, from->final_norm, arch->hidden);
    return matrices;
}

int lorica_full_create(const struct lorica_base *source, struct lorica_full **ret,
                       struct lorica_error *err) {
    struct lorica_full *full = calloc(1, sizeof(*full));
    struct cursor count = {0};
    if (!full)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    full->source = source;
    full->base = *source;
    full->base.owned = NULL;
    full->base.layers = calloc(source->arch.layers, sizeof(*full->base.layers));
    if (full->base.layers) {
        (void)lay_out(source, &full->base, &count);
        full->count = count.at;
        full->values = calloc(full->count, sizeof(*full->values));
        full->grads = calloc(full->count, sizeof(*full->grads));
    }
    if (!full->values || !full->grads) {
        lorica_full_destroy(full);
        return lorica_fail(err, LORICA_ENOMEM, "no memory for all weights and their gradients");
    }
    struct cursor fill = {.values = full->values};
    full->matrices = lay_out(source, &full->base, &fill);
    *ret = full;
    return 0;
}

void lorica_full_destroy(struct lorica_full *full) {
    if (!full)
        return;
    free(full->base.layers);
    free(full->values);
    free(full->grads);
    free(full);
}

float *lorica_full_grad(const struct lorica_full *full, const void *value) {
    return full->grads + ((const float *)value - full->values);
}

/* The values of an entry of the source's table. */
static const float *entry_values(const void *arg, uint64_t index) {
    const struct lorica_full *full = arg;
    uint32_t l = 0;
    const enum lorica_slot slot = lorica_base_entry_slot(&full->base.arch, index, &l);
    switch ((int)slot) {
    case LORICA_SLOT_EMBED:
        return full->base.embed.data;
    case LORICA_SLOT_HEAD:
        return full->base.head.data;
    case LORICA_SLOT_ATTN_NORM:
        return full->base.layers[l].attn_norm;
    case LORICA_SLOT_MLP_NORM:
        return full->base.layers[l].mlp_norm;
    case LORICA_SLOT_FINAL_NORM:
        return full->base.final_norm;
    default:
        return full->base.layers[l].modules[slot].data;
    }
}

int lorica_full_export(const struct lorica_full *full, const char *dir, struct lorica_error *err) {
    return lorica_base_export_values(full->source, entry_values, full, dir, err);
}
