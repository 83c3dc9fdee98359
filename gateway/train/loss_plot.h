/* SPDX-License-Identifier: MIT
 * A plot of a training run's losses: one SVG file that needs nothing besides itself. */
#ifndef LORICA_GATEWAY_TRAIN_LOSS_PLOT_H
#define LORICA_GATEWAY_TRAIN_LOSS_PLOT_H

#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"

/** Most points that a curve keeps. */
#define LORICA_CURVE_POINTS 1024

/** Loss by update. Zeroed: empty. However many values it is given, it keeps means of as many
 * neighbours as needed. */
struct lorica_curve {
    struct lorica_curve_point {
        double step, loss; /**< means of `each` values */
    } points[LORICA_CURVE_POINTS];
    size_t count;
    uint64_t each;             /**< values of a point; 0: one */
    double step_sum, loss_sum; /**< of the point that is not full yet */
    uint64_t pending;
    double last; /**< value that was added last */
};

/** Adds a value; what is not finite is left out. */
void lorica_curve_add(struct lorica_curve *curve, uint64_t step, double loss);

/** What a plot shows. */
struct lorica_loss_plot {
    const char *title, *subtitle;
    const struct lorica_curve *training, *evaluation; /**< may be empty */
};

/** Appends the SVG file: axes with numbers and names, a legend, the title, and the last values.
 * Training loss of many updates also as a moving average. */
int lorica_loss_plot_write(const struct lorica_loss_plot *plot,
                           struct lorica_buf *out) LORICA_MUSTCHECK;

#endif
