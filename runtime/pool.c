/* SPDX-License-Identifier: MIT */
#include "runtime/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Polls before a waiting thread sleeps. About 50 us: longer than the longest stage of a step on one
 * token, short enough not to hold a core that somebody else needs. */
#define SPINS 2000
#define MAX_THREADS 256

struct pool_member {
    struct lorica_pool *pool;
    pthread_t thread;
    unsigned number;
};

struct lorica_pool {
    unsigned threads;
    lorica_pool_fn fn;
    void *arg;
    bool stop;
    _Atomic uint32_t job;      /* one more for each job: what workers sleep on */
    _Atomic uint32_t arrived;  /* threads that reached the present barrier */
    _Atomic uint32_t barriers; /* barriers passed: what waiting threads watch */
    _Atomic uint32_t sleepers; /* threads in futex_wait, or about to be: who else needs no call */
    struct pool_member members[];
};

static void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Adds one to *word and wakes who sleeps on it. The orders here and in wait_change are sequential:
 * either the sleeper sees the new value, or this thread sees the sleeper. */
static void bump(struct lorica_pool *pool, _Atomic uint32_t *word) {
    atomic_fetch_add(word, 1);
    if (atomic_load(&pool->sleepers) > 0)
        (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, MAX_THREADS, NULL, NULL, 0);
}

/* Returns once *word differs from `seen`. */
static void wait_change(struct lorica_pool *pool, _Atomic uint32_t *word, uint32_t seen) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen)
            return;
        cpu_relax();
    }
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(word) == seen)
        (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&pool->sleepers, 1);
}

uint32_t lorica_pool_arrive(struct lorica_pool *pool) {
    const uint32_t ticket = atomic_load_explicit(&pool->barriers, memory_order_acquire);
    const uint32_t before = atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel);
    if (before + 1 == pool->threads) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        bump(pool, &pool->barriers);
    }
    return ticket;
}

void lorica_pool_wait(struct lorica_pool *pool, uint32_t ticket) {
    wait_change(pool, &pool->barriers, ticket);
}

void lorica_pool_barrier(struct lorica_pool *pool) {
    if (pool->threads > 1)
        lorica_pool_wait(pool, lorica_pool_arrive(pool));
}

static void *pool_worker(void *arg) {
    const struct pool_member *member = arg;
    struct lorica_pool *pool = member->pool;
    for (uint32_t job = 0;;) {
        wait_change(pool, &pool->job, job++);
        if (pool->stop)
            return NULL;
        pool->fn(pool->arg, member->number, pool->threads);
        lorica_pool_barrier(pool);
    }
}

static void pool_stop(struct lorica_pool *pool, unsigned started) {
    pool->stop = true;
    bump(pool, &pool->job);
    for (unsigned i = 1; i < started; i++)
        (void)pthread_join(pool->members[i].thread, NULL);
    free(pool);
}

/* Processors that the calling thread may use; 0: not known. */
static unsigned allowed(cpu_set_t *set) {
    return sched_getaffinity(0, sizeof(*set), set) == 0 ? (unsigned)CPU_COUNT(set) : 0;
}

int lorica_pool_create(unsigned threads, struct lorica_pool **ret, struct lorica_error *err) {
    if (threads == 0) {
        cpu_set_t set;
        threads = allowed(&set);
        threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    }
    if (threads > MAX_THREADS)
        return lorica_fail(err, LORICA_EINVAL, "%u threads: 1 to %d are possible", threads,
                           MAX_THREADS);
    struct lorica_pool *pool = calloc(1, sizeof(*pool) + threads * sizeof(pool->members[0]));
    if (!pool)
        return lorica_fail(err, LORICA_ENOMEM, "no memory for %u threads", threads);
    pool->threads = threads;
    for (unsigned i = 1; i < threads; i++) {
        pool->members[i] = (struct pool_member){.pool = pool, .number = i};
        if (pthread_create(&pool->members[i].thread, NULL, pool_worker, &pool->members[i]) != 0) {
            pool_stop(pool, i);
            return lorica_fail(err, LORICA_ENOMEM, "thread %u of %u could not be started", i + 1,
                               threads);
        }
    }
    *ret = pool;
    return 0;
}

void lorica_pool_bind(struct lorica_pool *pool) {
    cpu_set_t set;
    if (allowed(&set) != pool->threads)
        return;
    int cpu = -1;
    for (unsigned i = 0; i < pool->threads; i++) {
        cpu_set_t one;
        while (!CPU_ISSET(++cpu, &set))
            ;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        /* That it may fail is no harm: the thread then runs where the system puts it. */
        (void)pthread_setaffinity_np(i == 0 ? pthread_self() : pool->members[i].thread, sizeof(one),
                                     &one);
    }
}

void lorica_pool_destroy(struct lorica_pool *pool) {
    if (pool)
        pool_stop(pool, pool->threads);
}

unsigned lorica_pool_threads(const struct lorica_pool *pool) { return pool->threads; }

void lorica_pool_run(struct lorica_pool *pool, lorica_pool_fn fn, void *arg) {
    pool->fn = fn;
    pool->arg = arg;
    bump(pool, &pool->job);
    fn(arg, 0, pool->threads);
    lorica_pool_barrier(pool);
}

void lorica_pool_range(uint32_t count, unsigned thread, unsigned threads, uint32_t *ret_begin,
                       uint32_t *ret_end) {
    *ret_begin = (uint32_t)((uint64_t)count * thread / threads);
    *ret_end = (uint32_t)((uint64_t)count * (thread + 1) / threads);
}
