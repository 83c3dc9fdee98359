/* SPDX-License-Identifier: MIT */
#include "gateway/server/damage.h"

#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "registry/registry.h"

/* A page behind the file's end, a pointer out of a page, a check of LMDB's own. */
static const int faults[] = {SIGBUS, SIGSEGV, SIGABRT};
#define FAULTS (sizeof(faults) / sizeof(faults[0]))

static struct sigaction before[FAULTS];

/* Async-signal-safe throughout. */
static void on_fault(int number) {
    static const char head[] = "lorica: ";
    static const char tail[] = ": the store is damaged: its pages lead to what is not there; "
                               "restore it from a backup\n";
    const char *dir = lorica_registry_inside();
    if (dir) {
        const struct iovec text[] = {{(void *)head, sizeof(head) - 1},
                                     {(void *)dir, strlen(dir)},
                                     {(void *)tail, sizeof(tail) - 1}};
        (void)!writev(STDERR_FILENO, text, sizeof(text) / sizeof(text[0]));
        _exit(1);
    }
    for (size_t i = 0; i < FAULTS; i++)
        if (faults[i] == number)
            (void)sigaction(number, &before[i], NULL);
    if (number == SIGABRT)
        (void)raise(number); /* the others come again by themselves */
}

void lorica_damage_watch(void) {
    struct sigaction action = {.sa_handler = on_fault};
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < FAULTS; i++)
        (void)sigaction(faults[i], &action, &before[i]);
}
