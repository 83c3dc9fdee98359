/* SPDX-License-Identifier: MIT */
#include "gateway/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_SIZE ((size_t)256 << 10)
#define LINE_SIZE 1200

struct lorica_log {
    int fd;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop;
    unsigned long long lost; /* lines that found the buffer full */
    size_t used;
    char *waiting, *writing; /* two buffers of BUFFER_SIZE that change places */
};

static void write_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        const ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody reads the log any more: there is no better place to say so */
        bytes += n;
        len -= (size_t)n;
    }
}

static void *run(void *arg) {
    struct lorica_log *log = arg;
    bool stop = false;
    while (!stop) {
        char lost[64] = "";
        pthread_mutex_lock(&log->mutex);
        while (log->used == 0 && !log->stop)
            pthread_cond_wait(&log->wake, &log->mutex);
        char *full = log->waiting;
        const size_t used = log->used;
        log->waiting = log->writing;
        log->writing = full;
        log->used = 0;
        stop = log->stop;
        if (log->lost)
            (void)snprintf(lost, sizeof(lost), "level=warning lost_lines=%llu\n", log->lost);
        log->lost = 0;
        pthread_mutex_unlock(&log->mutex);
        write_all(log->fd, full, used);
        write_all(log->fd, lost, strlen(lost));
    }
    return NULL;
}

int lorica_log_create(int fd, struct lorica_log **ret) {
    struct lorica_log *log = calloc(1, sizeof(*log));
    if (!log)
        return LORICA_ENOMEM;
    log->fd = fd;
    log->waiting = malloc(BUFFER_SIZE);
    log->writing = malloc(BUFFER_SIZE);
    pthread_mutex_init(&log->mutex, NULL);
    pthread_cond_init(&log->wake, NULL);
    if (!log->waiting || !log->writing || pthread_create(&log->thread, NULL, run, log) != 0) {
        pthread_cond_destroy(&log->wake);
        pthread_mutex_destroy(&log->mutex);
        free(log->waiting);
        free(log->writing);
        free(log);
        return LORICA_ENOMEM;
    }
    *ret = log;
    return 0;
}

void lorica_log_destroy(struct lorica_log *log) {
    if (!log)
        return;
    pthread_mutex_lock(&log->mutex);
    log->stop = true;
    pthread_cond_signal(&log->wake);
    pthread_mutex_unlock(&log->mutex);
    pthread_join(log->thread, NULL);
    pthread_cond_destroy(&log->wake);
    pthread_mutex_destroy(&log->mutex);
    free(log->waiting);
    free(log->writing);
    free(log);
}

static size_t begin_line(char *line, size_t size, const char *level) {
    struct timespec now;
    struct tm tm;
    char date[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
    return (size_t)snprintf(line, size, "time=%s.%03ldZ level=%s ", date, now.tv_nsec / 1000000,
                            level);
}

void lorica_log_line(struct lorica_log *log, const char *level, const char *fmt, ...) {
    char line[LINE_SIZE];
    va_list args;
    if (!log)
        return;
    size_t len = begin_line(line, sizeof(line), level);
    va_start(args, fmt);
    const int n = vsnprintf(line + len, sizeof(line) - len - 1, fmt, args);
    va_end(args);
    if (n > 0)
        len += (size_t)n < sizeof(line) - len - 1 ? (size_t)n : sizeof(line) - len - 2;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < 32 || line[i] == 127)
            line[i] = '?';
    line[len++] = '\n';
    pthread_mutex_lock(&log->mutex);
    if (BUFFER_SIZE - log->used >= len) {
        memcpy(log->waiting + log->used, line, len);
        log->used += len;
    } else {
        log->lost++;
    }
    pthread_cond_signal(&log->wake);
    pthread_mutex_unlock(&log->mutex);
}
