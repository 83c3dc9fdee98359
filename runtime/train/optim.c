/* SPDX-License-Identifier: MIT */
#include "runtime/train/optim.h"

#include <math.h>
#include <stdlib.h>

#define PI 3.14159265358979323846

void lorica_adamw_default_options(struct lorica_adamw_options *options) {
    *options = (struct lorica_adamw_options){.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
}

int lorica_adamw_init(struct lorica_adamw *adamw, const struct lorica_adamw_options *options,
                      size_t count) {
    *adamw = (struct lorica_adamw){.options = *options, .count = count};
    adamw->mean = calloc(count + 1, sizeof(float));
    adamw->square = calloc(count + 1, sizeof(float));
    if (adamw->mean && adamw->square)
        return 0;
    lorica_adamw_finish(adamw);
    return LORICA_ENOMEM;
}

void lorica_adamw_finish(struct lorica_adamw *adamw) {
    free(adamw->mean);
    free(adamw->square);
    *adamw = (struct lorica_adamw){0};
}

void lorica_adamw_begin(struct lorica_adamw *adamw) { adamw->step++; }

void lorica_adamw_apply(struct lorica_adamw *adamw, double lr, size_t offset, float *params,
                        const float *grads, size_t count) {
    const struct lorica_adamw_options *o = &adamw->options;
    const double correction1 = 1 - pow(o->beta1, (double)adamw->step),
                 correction2 = sqrt(1 - pow(o->beta2, (double)adamw->step));
    const float step_size = (float)(lr / correction1), eps = (float)o->eps,
                root = (float)correction2, keep = (float)(1 - lr * o->weight_decay),
                new1 = (float)(1 - o->beta1), beta2 = (float)o->beta2, new2 = (float)(1 - o->beta2);
    float *mean = adamw->mean + offset, *square = adamw->square + offset;
    for (size_t i = 0; i < count; i++) {
        const float g = grads[i];
        mean[i] += (g - mean[i]) * new1;
        square[i] = square[i] * beta2 + g * g * new2;
        params[i] = params[i] * keep - step_size * mean[i] / (sqrtf(square[i]) / root + eps);
    }
}

double lorica_grad_norm(const float *grads, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)grads[i] * (double)grads[i];
    return sqrt(sum);
}

double lorica_clip_factor(double norm, double max_norm) {
    const double factor = max_norm / (norm + 1e-6);
    return max_norm > 0 && factor < 1 ? factor : 1;
}

double lorica_schedule_factor(enum lorica_schedule schedule, uint64_t step, uint64_t total,
                              uint64_t warmup) {
    if (step < warmup)
        return (double)step / (double)warmup;
    if (schedule == LORICA_SCHEDULE_CONSTANT)
        return 1;
    if (step >= total)
        return 0;
    const double done = (double)(step - warmup) / (double)(total - warmup);
    return schedule == LORICA_SCHEDULE_LINEAR ? 1 - done : 0.5 * (1 + cos(PI * done));
}
