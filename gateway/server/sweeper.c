/* SPDX-License-Identifier: MIT */
#include "gateway/server/sweeper.h"

#include <inttypes.h>
#include <stddef.h>
#include <time.h>

#include "gateway/server/server.h"

#define EVERY_MS (60 * 60 * 1000)
#define RETRY_MS 1000 /* after the writer's queue was full */

static void on_time(uv_timer_t *timer);

static struct lorica_sweeper *sweeper_of(struct lorica_lane_job *job) {
    return (struct lorica_sweeper *)(void *)((char *)job - offsetof(struct lorica_sweeper, job));
}

int64_t lorica_sweeper_now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void run_step(struct lorica_lane_job *job) {
    static const struct lorica_actor actor = {.key_name = "server",
                                              .message = "its retention is over"};
    struct lorica_sweeper *s = sweeper_of(job);
    s->more = false;
    s->rc = lorica_registry_sweep_step(s->server->parts.registry, lorica_sweeper_now_ms(), &actor,
                                       &s->stats, &s->more, &s->err);
}

static void wait_for(struct lorica_sweeper *s, uint64_t ms) {
    if (s->server->phase == LORICA_SERVER_RUNNING)
        (void)uv_timer_start(&s->timer, on_time, ms, 0); /* fails for a missing callback only */
}

/* Queues the next step behind what waits. */
static void submit(struct lorica_sweeper *s) {
    if (lorica_lane_submit(s->server->writer, &s->job) != 0)
        wait_for(s, RETRY_MS);
}

static void end_sweep(struct lorica_sweeper *s) {
    if (s->rc != 0)
        lorica_log_line(s->server->parts.log, "error", "event=sweep_failed error=\"%s\"",
                        s->err.text);
    if (s->stats.versions > 0)
        lorica_log_line(s->server->parts.log, "info",
                        "event=sweep versions=%" PRIu64 " contents=%" PRIu64 " bytes=%" PRIu64,
                        s->stats.versions, s->stats.contents, s->stats.bytes);
    s->stats = (struct lorica_sweep){0};
    wait_for(s, EVERY_MS);
}

static void step_done(struct lorica_lane_job *job) {
    struct lorica_sweeper *s = sweeper_of(job);
    if (s->rc == 0 && s->more && s->server->phase == LORICA_SERVER_RUNNING)
        submit(s);
    else
        end_sweep(s);
}

static void on_time(uv_timer_t *timer) { submit(timer->data); }

int lorica_sweeper_start(struct lorica_sweeper *sweeper, struct lorica_server *server) {
    *sweeper =
        (struct lorica_sweeper){.server = server, .job = {.run = run_step, .done = step_done}};
    const int rc = uv_timer_init(&server->loop, &sweeper->timer);
    if (rc != 0)
        return rc;
    sweeper->timer.data = sweeper;
    return uv_timer_start(&sweeper->timer, on_time, 0, 0);
}
