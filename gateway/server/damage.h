/* SPDX-License-Identifier: MIT
 * What a damaged store does to the process. LMDB trusts the pages that it maps: where one of them
 * was overwritten it may touch what is not there, and the system ends the process. It then ends
 * with a sentence that says what is damaged and what to do, and the exit code 1. Not told as damage
 * are a pointer next to NULL outside of LMDB's code, an abort that is not of a check of LMDB's, and
 * a signal that was sent. */
#ifndef LORICA_GATEWAY_SERVER_DAMAGE_H
#define LORICA_GATEWAY_SERVER_DAMAGE_H

/** Watches for it, in all threads, from now on. Other faults end the process as they did; within
 * a transaction a sentence says which registry was in use. */
void lorica_damage_watch(void);

#endif
