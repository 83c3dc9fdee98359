/* SPDX-License-Identifier: MIT
 * A lane's long job lets the quick ones in between its parts, and them alone. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/server/lane.h"

#define PARTS 3

/* Who ran and who was completed, in order. */
static char ran[32], completed[32];
static struct lorica_lane *lane;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

struct letter {
    struct lorica_lane_job job;
    char name;
};

static void note(char *list, char name) {
    const size_t len = strlen(list);
    list[len] = name;
    list[len + 1] = '\0';
}

static void run_letter(struct lorica_lane_job *job) {
    note(ran, ((struct letter *)(void *)job)->name);
}

static void done_letter(struct lorica_lane_job *job) {
    note(completed, ((struct letter *)(void *)job)->name);
}

/* Begins only once all others are queued. */
static void run_long(struct lorica_lane_job *job) {
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < PARTS; i++) {
        lorica_lane_let_in(lane, 0);
        run_letter(job);
    }
}

static void start(uv_loop_t *loop) {
    struct lorica_error err = {0};
    ran[0] = completed[0] = '\0';
    assert_int_equal(uv_loop_init(loop), 0);
    assert_int_equal(lorica_lane_create(loop, NULL, NULL, &lane, &err), 0);
}

/* Waits for all that was submitted. */
static void finish(uv_loop_t *loop) {
    lorica_lane_destroy(lane);
    (void)uv_run(loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(loop), 0);
}

static void submit(struct letter *letter, char name, bool quick) {
    *letter = (struct letter){.job = {.run = run_letter, .done = done_letter, .quick = quick},
                              .name = name};
    assert_int_equal(lorica_lane_submit(lane, &letter->job), 0);
}

static void test_quick_jobs_come_between_the_parts_of_a_long_one(void **state) {
    (void)state;
    uv_loop_t loop;
    struct letter letters[6];
    start(&loop);
    pthread_mutex_lock(&gate);
    letters[0] = (struct letter){.job = {.run = run_long, .done = done_letter}, .name = 'L'};
    assert_int_equal(lorica_lane_submit(lane, &letters[0].job), 0);
    submit(&letters[1], 'a', false);
    submit(&letters[2], 'q', true);
    submit(&letters[3], 'b', false);
    submit(&letters[4], 'r', true); /* the last in the queue, so that its end moves */
    pthread_mutex_unlock(&gate);
    submit(&letters[5], 'c', false);
    finish(&loop);
    assert_string_equal(ran, "qrLLLabc");
    assert_string_equal(completed, "qrLabc");
}

static void run_waiting(struct lorica_lane_job *job) {
    lorica_lane_let_in(lane, 60000); /* ends with the lane */
    run_letter(job);
}

static void test_a_job_that_waits_takes_quick_ones_and_ends_with_the_lane(void **state) {
    (void)state;
    uv_loop_t loop;
    struct letter letters[3];
    start(&loop);
    letters[0] = (struct letter){.job = {.run = run_waiting, .done = done_letter}, .name = 'W'};
    assert_int_equal(lorica_lane_submit(lane, &letters[0].job), 0);
    submit(&letters[1], 'q', true);
    submit(&letters[2], 'a', false);
    while (strcmp(completed, "q") != 0) /* the long one is still there: it runs meanwhile */
        (void)uv_run(&loop, UV_RUN_ONCE);
    finish(&loop);
    assert_string_equal(ran, "qWa");
    assert_string_equal(completed, "qWa");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quick_jobs_come_between_the_parts_of_a_long_one),
        cmocka_unit_test(test_a_job_that_waits_takes_quick_ones_and_ends_with_the_lane),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
