/* SPDX-License-Identifier: MIT
 * Any bytes as job.json: what is taken has a name and an id of their forms, and what is written of
 * it reads back as the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/jobs/job.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const struct lorica_job *job) {
    struct lorica_buf first, second;
    struct lorica_job again;
    struct lorica_error err = {0};
    if (!lorica_job_id_valid(job->id) || !lorica_name_valid(job->suffix) ||
        (unsigned)job->state >= LORICA_JOB_STATE_COUNT)
        abort();
    lorica_buf_init(&first, (size_t)4 << 20);
    lorica_buf_init(&second, (size_t)4 << 20);
    if (lorica_job_encode(job, &first) != 0 ||
        lorica_job_decode(first.data, first.len, &again, &err) != 0 ||
        lorica_job_encode(&again, &second) != 0 || strcmp(first.data, second.data) != 0)
        abort();
    lorica_buf_clear(&second);
    struct lorica_jsonw w = {.out = &second};
    lorica_job_write(&again, 0, &w);
    if (lorica_buf_status(&second) != 0)
        abort();
    lorica_job_finish(&again);
    lorica_buf_finish(&first);
    lorica_buf_finish(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_job job;
    struct lorica_error err = {0};
    const int rc = lorica_job_decode((const char *)data, len, &job, &err);
    if (rc == 0) {
        check(&job);
        lorica_job_finish(&job);
    } else if (err.code != rc) {
        abort();
    }
    return 0;
}
