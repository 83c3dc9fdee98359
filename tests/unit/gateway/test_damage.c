/* SPDX-License-Identifier: MIT
 * Which faults within a transaction are told as damage of the store, and which are not. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "gateway/files.h"
#include "gateway/server/damage.h"
#include "registry/internal.h"

static char root[] = "/tmp/lorica-test-XXXXXX";

static int setup(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    lorica_dir_discard(root);
    return 0;
}

/* Ends a process within a read of a registry: `how` 0 by a page behind the file's end, 1 by a
 * pointer of its own, 2 by an abort, 3 by a signal from outside. */
static void fault(int how) {
    struct lorica_registry *registry = NULL;
    struct lorica_txn *txn = NULL;
    struct lorica_slice key, value;
    struct lorica_cursor *cursor = NULL;
    struct lorica_error err = {0};
    volatile uintptr_t near = 8; /* a member of what is NULL */
    const struct rlimit no_core = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &no_core);
    for (int i = 0; i < 3; i++)
        (void)signal((const int[]){SIGSEGV, SIGBUS, SIGABRT}[i], SIG_DFL); /* not cmocka's */
    if (lorica_registry_open(root, NULL, &registry, &err) ||
        lorica_store_begin(registry->store, false, &txn, &err) ||
        lorica_store_walk(txn, LORICA_TABLE_META, &cursor, &err) ||
        lorica_cursor_seek(cursor, (struct lorica_slice){0}, &key, &value, &err))
        _exit(9);
    lorica_damage_watch();
    if (how == 0)
        *(volatile const char *)((const char *)key.data + (1 << 26));
    else if (how == 1)
        *(volatile char *)near = 1;
    else if (how == 2)
        abort();
    else
        (void)kill(getpid(), SIGSEGV);
    _exit(8);
}

/* Returns the status of such a process, and what it said. */
static int run(int how, char said[1000]) {
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        fault(how);
    }
    (void)close(ends[1]);
    size_t len = 0;
    ssize_t n;
    while (len < 999 && (n = read(ends[0], said + len, 999 - len)) > 0)
        len += (size_t)n;
    said[len] = '\0';
    (void)close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_fault_in_the_map_is_damage(void **state) {
    char said[1000];
    (void)state;
    const int status = run(0, said);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    assert_non_null(strstr(said, root));
    assert_non_null(strstr(said, "the store is damaged"));
}

static void test_fault_elsewhere_is_the_programs_own(void **state) {
    static const int signals[] = {0, SIGSEGV, SIGABRT, SIGSEGV};
    (void)state;
    for (int how = 1; how < 4; how++) {
        char said[1000];
        const int status = run(how, said);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signals[how]);
        assert_null(strstr(said, "the store is damaged"));
        assert_non_null(strstr(said, "a fault while this was read or written"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fault_in_the_map_is_damage),
        cmocka_unit_test(test_fault_elsewhere_is_the_programs_own),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
