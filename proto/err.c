/* SPDX-License-Identifier: MIT */
#include "proto/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *text;
    int status;
} errors[LORICA_ERR_COUNT] = {
#define XX(name, status, text) {#name, text, status},
    LORICA_ERR_MAP(XX)
#undef XX
};

/* Index into errors[], or -1 for success and unknown codes. */
static int err_index(int code) {
    return code < 0 && code >= -(int)LORICA_ERR_COUNT ? -1 - code : -1;
}

int lorica_fail(struct lorica_error *err, int code, const char *fmt, ...) {
    if (err) {
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(err->text, sizeof(err->text), fmt, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

int lorica_fail_prefix(struct lorica_error *err, const char *fmt, ...) {
    char old[sizeof(err->text)];
    memcpy(old, err->text, sizeof(old));
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof(err->text))
        (void)snprintf(err->text + n, sizeof(err->text) - (size_t)n, ": %s", old);
    return err->code;
}

const char *lorica_err_name(int code) {
    const int i = err_index(code);
    return code == 0 ? "OK" : i < 0 ? "E?" : errors[i].name;
}

const char *lorica_err_text(int code) {
    const int i = err_index(code);
    return code == 0 ? "success" : i < 0 ? "unknown error" : errors[i].text;
}

int lorica_err_http_status(int code) {
    const int i = err_index(code);
    return code == 0 ? 200 : i < 0 ? 500 : errors[i].status;
}
