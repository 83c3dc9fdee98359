/* SPDX-License-Identifier: MIT
 * What training and replaying share: what they open and the files they leave. */
#include <stdlib.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/train/train.h"
#include "registry/digest.h"

int lorica_train_open(struct lorica_train_session *s, const struct lorica_train_job *job,
                      struct lorica_error *err) {
    char *dir = lorica_data_dir(job->where.data), *path = NULL;
    if (!dir)
        return lorica_fail(err, LORICA_EINVAL, "there is no data directory");
    int rc = lorica_find_base(dir, job->base, &path, err);
    if (!rc)
        rc = lorica_base_open_any(path, &lorica_sha256_hasher, &s->base, err);
    if (!rc)
        rc = lorica_pool_create(job->threads, &s->pool, err);
    free(path);
    free(dir);
    return rc;
}

void lorica_train_close(struct lorica_train_session *s) {
    (void)lorica_adapter_unref(s->adapter);
    lorica_pool_destroy(s->pool);
    lorica_base_close(s->base);
}

int lorica_train_write(const char *dir, const char *name, const struct lorica_buf *bytes,
                       struct lorica_error *err) {
    char *path = lorica_path_join(dir, name);
    const int rc = path ? lorica_file_replace(path, bytes->data, bytes->len, 0644, err)
                        : lorica_fail(err, LORICA_ENOMEM, "no memory for a path");
    free(path);
    return rc;
}

int lorica_train_write_adapter(const char *dir, const struct lorica_train_session *s,
                               const struct lorica_buf *config, struct lorica_error *err) {
    struct lorica_buf weights;
    lorica_buf_init(&weights, LORICA_TRAIN_FILE_MAX);
    int rc = lorica_train_weights_encode(&s->base->arch, s->adapter, &weights);
    if (rc)
        rc = lorica_fail(err, rc, "%s: the weights: %s", dir, lorica_err_text(rc));
    if (!rc)
        rc = lorica_train_write(dir, "adapter_model.safetensors", &weights, err);
    if (!rc)
        rc = lorica_train_write(dir, "adapter_config.json", config, err);
    lorica_buf_finish(&weights);
    return rc;
}
