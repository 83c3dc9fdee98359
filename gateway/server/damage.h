/* SPDX-License-Identifier: MIT
 * What a damaged store does to the process. LMDB trusts the pages that it maps: where one of them
 * was overwritten it may touch what is not there, and the system ends the process. It then ends
 * with a sentence that says what is damaged and what to do, and the exit code 1. */
#ifndef LORICA_GATEWAY_SERVER_DAMAGE_H
#define LORICA_GATEWAY_SERVER_DAMAGE_H

/** Watches for it, in all threads, from now on. Other faults end the process as they did. */
void lorica_damage_watch(void);

#endif
