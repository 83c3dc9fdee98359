/* SPDX-License-Identifier: MIT
 * lorica train --replay: given batches in order, so that losses, gradient norms and weights can be
 * compared with another implementation's. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/train/train.h"
#include "proto/safetensors.h"

/* A tensor of token ids or labels [step][batch][time], as int32. Caller frees. */
static int take_tensor(const char *bytes, const struct lorica_safetensors *file, const char *name,
                       struct lorica_replay *shape, int32_t **ret, struct lorica_error *err) {
    const struct lorica_tensor *t = lorica_safetensors_find(file, name);
    const bool wide = t && t->dtype == LORICA_DTYPE_I64;
    if (!t || (t->dtype != LORICA_DTYPE_I32 && !wide) || t->ndim != 3 || t->nbytes == 0 ||
        t->shape[0] > UINT32_MAX || t->shape[1] > UINT32_MAX || t->shape[2] > UINT32_MAX ||
        (shape->steps && (t->shape[0] != shape->steps || t->shape[1] != shape->batch ||
                          t->shape[2] != shape->time)))
        return lorica_fail(err, LORICA_EFORMAT,
                           "input_ids and labels of I32 or I64 [step, batch, time], of one shape, "
                           "are expected: %s is not so",
                           name);
    shape->steps = (uint32_t)t->shape[0];
    shape->batch = (uint32_t)t->shape[1];
    shape->time = (uint32_t)t->shape[2];
    const size_t count = (size_t)(t->nbytes / lorica_dtype_size(t->dtype));
    int32_t *values = malloc(count * sizeof(*values));
    if (!values)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %s", name);
    for (size_t i = 0; i < count; i++) {
        int64_t value = 0;
        memcpy(&value, bytes + t->offset + i * (wide ? 8 : 4), wide ? 8 : 4);
        values[i] = wide ? (value < INT32_MIN || value > INT32_MAX ? INT32_MIN : (int32_t)value)
                         : (int32_t)(uint32_t)value;
    }
    *ret = values;
    return 0;
}

static int write_curves(const char *dir, uint32_t steps, const float *losses, const float *norms,
                        struct lorica_error *err) {
    struct lorica_tensor tensors[] = {
        {.name = "losses", .dtype = LORICA_DTYPE_F32, .ndim = 1, .shape = {steps}},
        {.name = "grad_norms", .dtype = LORICA_DTYPE_F32, .ndim = 1, .shape = {steps}}};
    struct lorica_buf out;
    lorica_buf_init(&out, LORICA_TRAIN_FILE_MAX);
    int rc = lorica_safetensors_write_header(&out, tensors, 2, NULL, 0);
    (void)lorica_buf_append(&out, losses, steps * sizeof(*losses));
    (void)lorica_buf_append(&out, norms, steps * sizeof(*norms));
    if (!rc)
        rc = lorica_buf_status(&out);
    rc = rc ? lorica_fail(err, rc, "replay.safetensors: %s", lorica_err_text(rc))
            : lorica_train_write(dir, "replay.safetensors", &out, err);
    lorica_buf_finish(&out);
    return rc;
}

static void print_curves(const struct lorica_replay *trace, const float *curves, const char *dir) {
    (void)printf("%u updates; loss %.6f at the first, %.6f at the last; written to %s\n",
                 trace->steps, (double)curves[0], (double)curves[trace->steps - 1], dir);
}

static int replay_full(struct lorica_train_session *s, const struct lorica_train_job *job,
                       const struct lorica_replay *trace, struct lorica_error *err) {
    float *curves = calloc((size_t)trace->steps * 2, sizeof(*curves));
    int rc = curves ? lorica_train_full_replay(s, job, trace, curves, err)
                    : lorica_fail(err, LORICA_ENOMEM, "no memory for a replay");
    if (!rc)
        rc = write_curves(job->out, trace->steps, curves, curves + trace->steps, err);
    if (!rc)
        print_curves(trace, curves, job->out);
    free(curves);
    return rc;
}

static int replay_trace(struct lorica_train_session *s, const struct lorica_train_job *job,
                        const char *dir, const struct lorica_replay *trace,
                        struct lorica_error *err) {
    char *path = lorica_path_join(job->init, "adapter_config.json"), *config = NULL;
    size_t config_len = 0;
    float *curves = calloc((size_t)trace->steps * 2, sizeof(*curves));
    int rc = path && curves
                 ? lorica_file_read(path, LORICA_TRAIN_TEXT_MAX, &config, &config_len, err)
                 : lorica_fail(err, LORICA_ENOMEM, "no memory for a replay");
    if (!rc)
        rc = lorica_adapter_load_dir(&s->base->arch, LORICA_ADAPTER_EXACT, job->init, &s->adapter,
                                     err);
    if (!rc)
        rc = lorica_trainer_replay(s->base, s->pool, trace, &job->options, s->adapter, curves,
                                   curves + trace->steps, err);
    if (!rc)
        rc = write_curves(dir, trace->steps, curves, curves + trace->steps, err);
    const struct lorica_buf text = {.data = config, .len = config_len};
    if (!rc)
        rc = lorica_train_write_adapter(dir, s, &text, err);
    if (!rc)
        print_curves(trace, curves, dir);
    free(curves);
    free(config);
    free(path);
    return rc;
}

int lorica_train_replay(const struct lorica_train_job *job) {
    struct lorica_train_session s = {0};
    struct lorica_error err = {0};
    struct lorica_safetensors file = {0};
    struct lorica_replay trace = {0};
    int32_t *ids = NULL, *labels = NULL;
    char *bytes = NULL;
    size_t len = 0;
    int held = -1;
    int rc = lorica_train_open(&s, job, &err);
    if (!rc)
        rc = lorica_dirs_make(job->out, 0755, &err);
    if (!rc)
        rc = lorica_train_dir_hold(job->out, &held, &err);
    if (!rc)
        rc = lorica_file_read(job->replay, LORICA_TRAIN_FILE_MAX, &bytes, &len, &err);
    if (!rc) {
        rc = lorica_safetensors_parse(bytes, len, len, &file, &err);
        if (!rc)
            rc = take_tensor(bytes, &file, "input_ids", &trace, &ids, &err);
        if (!rc)
            rc = take_tensor(bytes, &file, "labels", &trace, &labels, &err);
        if (rc)
            (void)lorica_fail_prefix(&err, "%s", job->replay);
    }
    trace.ids = ids;
    trace.labels = labels;
    if (!rc)
        rc = job->full ? replay_full(&s, job, &trace, &err)
                       : replay_trace(&s, job, job->out, &trace, &err);
    free(ids);
    free(labels);
    lorica_safetensors_finish(&file);
    free(bytes);
    lorica_train_close(&s);
    if (held >= 0)
        (void)close(held);
    return rc ? lorica_cmd_fail(&err) : LORICA_EXIT_OK;
}
