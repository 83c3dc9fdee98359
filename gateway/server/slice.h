/* SPDX-License-Identifier: MIT
 * Of the time of the processors, a slice that suits the loop: what it has to do is short, and
 * somebody waits for it. */
#ifndef LORICA_GATEWAY_SERVER_SLICE_H
#define LORICA_GATEWAY_SERVER_SLICE_H

/** Asks for short slices for the calling thread, not for those that it starts: the system then lets
 * it run as soon as it has something to do, instead of when a thread that computes has had its own
 * slice. Before Linux 6.12 the wish is ignored, and less needed. That it may fail is no harm. */
void lorica_slice_shorten(void);

#endif
