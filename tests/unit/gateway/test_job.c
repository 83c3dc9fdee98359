/* SPDX-License-Identifier: MIT
 * A fine-tuning job's states and its job.json. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/jobs/job.h"

static struct lorica_job sample(void) {
    struct lorica_job job = {
        .id = "ftjob-0123456789abcdef01234567",
        .owner = "dept",
        .suffix = "cardiology",
        .model = "tiny",
        .training = {.id = "file-0123456789abcdef01234567", .filename = "a \"b\".jsonl"},
        .recipe = {.epochs = 3,
                   .batch = 4,
                   .seed = (int64_t)1 << 53,
                   .rank = 8,
                   .max_length = 512,
                   .threads = 1,
                   .lr_multiplier = 0.1,
                   .alpha = 16,
                   .steps = 12},
        .created_ms = 1234567};
    job.metadata = strdup("{\"team\":\"er\"}");
    assert_non_null(job.metadata);
    return job;
}

static char *encode(const struct lorica_job *job, size_t *len) {
    struct lorica_buf out;
    lorica_buf_init(&out, LORICA_JOB_TEXT_MAX);
    assert_int_equal(lorica_job_encode(job, &out), 0);
    char *text = lorica_buf_take(&out, len);
    assert_non_null(text);
    return text;
}

static void assert_same_again(const struct lorica_job *job) {
    struct lorica_job again;
    struct lorica_error err = {0};
    size_t len = 0, again_len = 0;
    char *text = encode(job, &len);
    assert_int_equal(lorica_job_decode(text, len, &again, &err), 0);
    char *second = encode(&again, &again_len);
    assert_string_equal(text, second);
    assert_int_equal(again.state, job->state);
    assert_int_equal(again.recipe.seed, job->recipe.seed);
    assert_string_equal(again.training.filename, job->training.filename);
    lorica_job_finish(&again);
    free(second);
    free(text);
}

static void test_job_of_each_state_reads_back_as_written(void **state) {
    struct lorica_job job = sample();
    for (int s = 0; s < LORICA_JOB_STATE_COUNT; s++) {
        job.state = (enum lorica_job_state)s;
        memset(&job.error, 0, sizeof(job.error));
        memset(&job.result, 0, sizeof(job.result));
        if (s == LORICA_JOB_FAILED) {
            memcpy(job.error.code, "training_failed", sizeof("training_failed"));
            memcpy(job.error.message, "line\n\"two\"", sizeof("line\n\"two\""));
        }
        if (s == LORICA_JOB_SUCCEEDED) {
            memcpy(job.result.model, "cardiology@4", sizeof("cardiology@4"));
            job.result.train_loss = 0.5;
            job.result.valid_loss = NAN;
        }
        assert_same_again(&job);
    }
    lorica_job_finish(&job);
}

/* Every text that lacks its end, or one member, is refused. */
static void test_damaged_job_is_refused(void **state) {
    static const char *const members[] = {"\"id\"",    "\"owner\"",     "\"suffix\"",
                                          "\"base\"",  "\"training\"",  "\"recipe\"",
                                          "\"state\"", "\"created_ms\""};
    struct lorica_job job = sample(), ret;
    struct lorica_error err = {0};
    size_t len = 0;
    char *text = encode(&job, &len);
    for (size_t i = 0; i + 2 < len; i++)
        assert_int_equal(lorica_job_decode(text, i, &ret, &err), LORICA_EFORMAT);
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        char *at = strstr(text, members[i]);
        assert_non_null(at);
        at[1] = '_';
        assert_int_equal(lorica_job_decode(text, len, &ret, &err), LORICA_EFORMAT);
        at[1] = members[i][1];
    }
    assert_int_equal(lorica_job_decode(text, len, &ret, &err), 0);
    lorica_job_finish(&ret);
    lorica_job_finish(&job);
    free(text);
}

static void test_job_that_is_over_stays_what_it_is(void **state) {
    for (int from = 0; from < LORICA_JOB_STATE_COUNT; from++)
        for (int to = 0; to < LORICA_JOB_STATE_COUNT; to++)
            if (lorica_job_is_over((enum lorica_job_state)from))
                assert_false(
                    lorica_job_may_become((enum lorica_job_state)from, (enum lorica_job_state)to));
    assert_true(lorica_job_is_over(LORICA_JOB_CANCELLED));
    assert_false(lorica_job_is_over(LORICA_JOB_PAUSED));
    assert_false(lorica_job_may_become(LORICA_JOB_PUBLISHING, LORICA_JOB_CANCELLED));
    assert_false(lorica_job_may_become(LORICA_JOB_PAUSED, LORICA_JOB_RUNNING));
    assert_true(lorica_job_may_become(LORICA_JOB_PAUSED, LORICA_JOB_QUEUED));
    assert_string_equal(lorica_job_status(LORICA_JOB_PUBLISHING), "running");
}

static void test_id_of_another_form_is_none(void **state) {
    assert_true(lorica_job_id_valid("ftjob-0123456789abcdef01234567"));
    assert_false(lorica_job_id_valid("ftjob-0123456789abcdef0123456"));
    assert_false(lorica_job_id_valid("ftjob-0123456789abcdef012345678"));
    assert_false(lorica_job_id_valid("ftjob-0123456789abcdef0123456A"));
    assert_false(lorica_job_id_valid("ftjob-../../../../../etc/passwd"));
    assert_false(lorica_job_id_valid(""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_of_each_state_reads_back_as_written),
        cmocka_unit_test(test_damaged_job_is_refused),
        cmocka_unit_test(test_job_that_is_over_stays_what_it_is),
        cmocka_unit_test(test_id_of_another_form_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
