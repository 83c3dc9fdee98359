/* SPDX-License-Identifier: MIT
 * Output head and cross-entropy over the rows that have a label, in chunks: the logits of all rows
 * never exist at once. Private to runtime/train. */
#ifndef LORICA_RUNTIME_TRAIN_HEAD_H
#define LORICA_RUNTIME_TRAIN_HEAD_H

#include "runtime/train/pass.h"

struct lorica_loss_row {
    uint32_t row;  /**< of the residual stream: the position before the label */
    int32_t label; /**< token to come */
};

struct lorica_loss {
    struct lorica_loss_row *rows; /**< [max_tokens] */
    uint32_t count;
    uint32_t chunk; /**< rows at a time, at most */
    /* Where the gradient's product is of int8, [vocab] factors: frequent tokens' rows of the head
     * are small, and would be rounded to steps of their large neighbours'. So each row is divided
     * by its largest scale, and the gradient of its logit multiplied by it. */
    float *levels, *inverse;
    void *normed;   /**< [chunk][hidden], operands */
    float *dnormed; /**< [chunk][hidden] */
    size_t row;     /**< floats from one row of logits to the next */
    float *logits;  /**< [chunk][row]; then their gradient, operands, at the head of each row */
    void *turned;   /**< [vocab][ld]: that gradient turned, operands; of a full model only */
    size_t ld;      /**< chunk, rounded up to 32 */
    double *losses; /**< [max_tokens]: one per row */
};

/** Rows of one chunk for a vocabulary. */
uint32_t lorica_loss_chunk(const struct lorica_arch *arch, uint32_t max_tokens);
/** Allocates for pass->max_tokens rows. False: no memory. */
bool lorica_loss_init(struct lorica_loss *loss, struct lorica_pass *pass);
void lorica_loss_finish(struct lorica_loss *loss);

/** losses[i] of every row; with d not NULL also d[row] += the gradient of the sum with respect to
 * the residual stream, and of a model trained whole those of the head and the last norm. Begins and
 * ends behind a barrier. */
void lorica_pass_loss(struct lorica_pass *pass, unsigned thread, struct lorica_loss *loss,
                      float *d);

#endif
