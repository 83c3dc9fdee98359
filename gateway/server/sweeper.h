/* SPDX-License-Identifier: MIT
 * Sweeps deleted content when its retention is over: at the start of the server and once an hour,
 * on the writer's thread. One step of a sweep is one job there, so that a promote or rollback waits
 * for one step at most. */
#ifndef LORICA_GATEWAY_SERVER_SWEEPER_H
#define LORICA_GATEWAY_SERVER_SWEEPER_H

#include <uv.h>

#include "gateway/server/lane.h"
#include "registry/retire.h"

struct lorica_server;

struct lorica_sweeper {
    struct lorica_server *server;
    uv_timer_t timer;
    struct lorica_lane_job job;
    /* Of the sweep that runs: */
    struct lorica_sweep stats;
    bool more;
    int rc; /**< of its last step */
    struct lorica_error err;
};

/** Unix time in milliseconds: what a sweep compares with. */
int64_t lorica_sweeper_now_ms(void);

/** Starts; part of the server, whose writer and loop it uses. When the server finishes, the writer
 * ends its last job and the timer is closed with the other handles. 0 or a libuv error. */
int lorica_sweeper_start(struct lorica_sweeper *sweeper, struct lorica_server *server);

#endif
