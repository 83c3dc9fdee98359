/* SPDX-License-Identifier: MIT
 * What OpenSSL does when memory is short. It says it as anything: of the allocations in making and
 * checking a signature most are made good or leave no word in its queue of errors, and one that
 * fails can end as "the signature does not hold". So failed allocations are noted here, and whoever
 * asks OpenSSL for a verdict asks here whether it had the memory for one. */
#ifndef LORICA_REGISTRY_OPENSSL_H
#define LORICA_REGISTRY_OPENSSL_H

#include <stdbool.h>

/** Has OpenSSL's allocations noted from here on: for the start of main(), since OpenSSL takes it
 * only before its first allocation. Until then nothing is noted. */
void lorica_openssl_watch(void);

/** Forgets what was noted in this thread: before a call whose verdict matters. */
void lorica_openssl_forget(void);

/** An allocation failed in this thread since. */
bool lorica_openssl_starved(void);

#endif
