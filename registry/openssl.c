/* SPDX-License-Identifier: MIT */
#include "registry/openssl.h"

#include <stdlib.h>

#include <openssl/crypto.h>

static _Thread_local bool starved;

static void *take(size_t size, const char *file, int line) {
    void *memory = malloc(size);
    starved |= !memory && size > 0;
    return memory;
}

static void *take_again(void *old, size_t size, const char *file, int line) {
    void *memory = realloc(old, size);
    starved |= !memory && size > 0;
    return memory;
}

static void give_back(void *memory, const char *file, int line) { free(memory); }

void lorica_openssl_watch(void) { (void)CRYPTO_set_mem_functions(take, take_again, give_back); }

void lorica_openssl_forget(void) { starved = false; }

bool lorica_openssl_starved(void) { return starved; }
