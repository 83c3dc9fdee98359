/* SPDX-License-Identifier: MIT */
#include "gateway/jobs/job_process.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/files.h"

#define LOCK_FD 3
#define APART 10 /* above these */
#define NICEST 19
/* linux/ioprio.h */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_IDLE (3 << 13)

extern char **environ;

/* Between fork() and execve() of a process with threads: system calls alone. */
static _Noreturn void become(const struct lorica_process_plan *plan, int out, pid_t parent,
                             char *const *environment) {
    const struct sched_param none = {.sched_priority = 0};
    const struct rlimit memory = {plan->memory_bytes, plan->memory_bytes};
    sigset_t empty;
    (void)sigemptyset(&empty);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, &empty, NULL);
    /* Out of the way of the numbers that they get. */
    const int null = fcntl(open("/dev/null", O_RDONLY), F_DUPFD, APART);
    const int lock = fcntl(plan->lock, F_DUPFD, APART);
    out = fcntl(out, F_DUPFD, APART);
    /* Of its own group, so that a Ctrl-C at the server is the server's to answer; not of its own
     * session: the scheduler would then weigh the two as equals. */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent || setpgid(0, 0) != 0 ||
        dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 || dup2(lock, LOCK_FD) < 0 ||
        close_range(LOCK_FD + 1, ~0U, 0) != 0)
        _exit(127);
    (void)setpriority(PRIO_PROCESS, 0, NICEST);
    (void)sched_setscheduler(0, SCHED_IDLE, &none);
    (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
    if (plan->memory_bytes > 0 && setrlimit(RLIMIT_DATA, &memory) != 0)
        _exit(127);
    (void)execve("/proc/self/exe", plan->argv, environment);
    _exit(127);
}

/* Which of the processor's instructions are used decides what is learnt to the last bit. */
static char *cpu_variable(void) {
    for (char **at = environ; *at; at++)
        if (strncmp(*at, "LORICA_CPU=", strlen("LORICA_CPU=")) == 0)
            return *at;
    return NULL;
}

int lorica_process_start(const struct lorica_process_plan *plan, struct lorica_process *ret,
                         struct lorica_error *err) {
    char *const environment[] = {cpu_variable(), NULL};
    const pid_t parent = getpid();
    const int out = open(plan->out, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (out < 0)
        return lorica_fail_errno(err, plan->out, "cannot be written");
    const pid_t pid = fork();
    if (pid == 0)
        become(plan, out, parent, environment);
    (void)close(out);
    if (pid < 0)
        return lorica_fail(err, LORICA_ENOMEM, "the trainer could not be started: %s",
                           strerror(errno));
    const int fd = pidfd_open(pid, 0);
    if (fd < 0) {
        const int number = errno;
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return lorica_fail(err, LORICA_EIO, "the trainer could not be watched: %s",
                           strerror(number));
    }
    *ret = (struct lorica_process){.pid = pid, .fd = fd};
    return 0;
}

void lorica_process_signal(const struct lorica_process *process, int number) {
    (void)kill(process->pid, number); /* not waited for yet: the number is still its own */
}

int lorica_process_wait(struct lorica_process *process) {
    int status = 0;
    while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    (void)close(process->fd);
    process->fd = -1;
    return status;
}
