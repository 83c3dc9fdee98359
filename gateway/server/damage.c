/* SPDX-License-Identifier: MIT */
#include "gateway/server/damage.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include "registry/registry.h"

/* A page behind the file's end, a pointer out of a page, a check of LMDB's own. */
static const int faults[] = {SIGBUS, SIGSEGV, SIGABRT};
#define FAULTS (sizeof(faults) / sizeof(faults[0]))

static struct sigaction before[FAULTS];

/* Members of what a null pointer is taken for lie below this. */
#define NULL_REACH 65536

/* The instruction that met the fault. */
static const void *code_of(const void *context) {
    const mcontext_t *m = &((const ucontext_t *)context)->uc_mcontext;
#if defined(__x86_64__)
    return (const void *)(uintptr_t)m->gregs[REG_RIP];
#elif defined(__aarch64__)
    return (const void *)(uintptr_t)m->pc;
#else
    (void)m;
    return NULL;
#endif
}

/* Where pages lead is somewhere in the map, behind it, or no address at all: next to NULL, where
 * the program's own faults are, only in LMDB's code. What was sent by someone, or aborts without a
 * check of LMDB's, is no fault of the store's either. */
static bool comes_of_damage(int number, const siginfo_t *info) {
    if (number == SIGABRT || info->si_code <= 0)
        return false;
    return number == SIGBUS || info->si_code != SEGV_MAPERR ||
           (uintptr_t)info->si_addr >= NULL_REACH;
}

static void say(const char *dir, const char *what) {
    static const char head[] = "lorica: ";
    const struct iovec text[] = {{(void *)(uintptr_t)head, sizeof(head) - 1},
                                 {(void *)(uintptr_t)dir, strlen(dir)},
                                 {(void *)(uintptr_t)what, strlen(what)}};
    (void)!writev(STDERR_FILENO, text, sizeof(text) / sizeof(text[0]));
}

/* Async-signal-safe throughout. */
static void on_fault(int number, siginfo_t *info, void *context) {
    const bool met = number != SIGABRT && info->si_code > 0;
    bool of_store = false;
    const char *dir = lorica_registry_inside(met ? code_of(context) : NULL, &of_store);
    const bool damaged = of_store || comes_of_damage(number, info);
    if (dir && damaged) {
        say(dir, ": the store is damaged: its pages lead to what is not there; restore it from a "
                 "backup\n");
        _exit(1);
    }
    if (dir)
        say(dir, ": a fault while this was read or written: one of lorica itself, unless `lorica "
                 "verify` finds the store damaged\n");
    for (size_t i = 0; i < FAULTS; i++)
        if (faults[i] == number)
            (void)sigaction(number, &before[i], NULL);
    if (number == SIGABRT || info->si_code <= 0)
        (void)raise(number); /* the others come again by themselves */
}

void lorica_damage_watch(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < FAULTS; i++)
        (void)sigaction(faults[i], &action, &before[i]);
}
