/* SPDX-License-Identifier: MIT
 * Errors: one list of codes for the whole program, and the sentence that goes with one. */
#ifndef LORICA_PROTO_ERR_H
#define LORICA_PROTO_ERR_H

/** Every code: name, HTTP status that it becomes at the gateway, what it means. */
#define LORICA_ERR_MAP(XX)                                                                         \
    XX(EINVAL, 400, "invalid argument")                                                            \
    XX(EFORMAT, 400, "malformed or damaged data")                                                  \
    XX(EUNSUPPORTED, 400, "valid, but not supported")                                              \
    XX(EAUTH, 401, "no valid key")                                                                 \
    XX(EPERM, 403, "not allowed for this key")                                                     \
    XX(ENOTFOUND, 404, "not found")                                                                \
    XX(ECONFLICT, 409, "conflicts with the present state")                                         \
    XX(EGATE, 409, "a channel's policy is not met")                                                \
    XX(ESIGNATURE, 409, "a signature does not hold")                                               \
    XX(EPRECOND, 412, "the state changed in between")                                              \
    XX(ELIMIT, 413, "over a limit")                                                                \
    XX(EPRECONDREQ, 428, "a precondition is required")                                             \
    XX(ECANCELED, 499, "cancelled")                                                                \
    XX(EBUG, 500, "a fault in lorica itself")                                                      \
    XX(EIO, 500, "input/output error")                                                             \
    XX(ENOMEM, 503, "out of memory")                                                               \
    XX(EBUSY, 503, "busy")                                                                         \
    XX(ETIMEOUT, 504, "timed out")                                                                 \
    XX(ENOSPC, 507, "no space left")

enum lorica_err_index {
#define XX(name, status, text) LORICA_ERR_INDEX_##name,
    LORICA_ERR_MAP(XX)
#undef XX
        LORICA_ERR_COUNT
};

/** 0 is success; every error is negative, so that one int carries both. */
enum lorica_err {
    LORICA_OK = 0,
#define XX(name, status, text) LORICA_##name = -1 - (int)LORICA_ERR_INDEX_##name,
    LORICA_ERR_MAP(XX)
#undef XX
};

#define LORICA_MUSTCHECK __attribute__((warn_unused_result))
#define LORICA_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/** What went wrong, for a person: what, where, and what to do. Caller-owned, no allocation. */
struct lorica_error {
    int code;       /**< enum lorica_err; 0 while nothing failed */
    char text[500]; /**< one sentence, no trailing newline, valid UTF-8 up to truncation */
};

/** Writes code and sentence into `err` (which may be NULL) and returns `code`, so that a failing
 * function can end with `return lorica_fail(err, LORICA_EFORMAT, "%s: no header", path);`. */
int lorica_fail(struct lorica_error *err, int code, const char *fmt, ...) LORICA_PRINTF(3, 4);

/** Puts "prefix: " before the sentence already in `err` and returns err->code. Where a lower layer
 * knows the fault and a higher one knows the place. `err` must not be NULL. */
int lorica_fail_prefix(struct lorica_error *err, const char *fmt, ...) LORICA_PRINTF(2, 3);

/** Short name of a code ("EFORMAT"), "OK" for 0, "E?" for an unknown one. Static storage. */
const char *lorica_err_name(int code);

/** General meaning of a code. Static storage. */
const char *lorica_err_text(int code);

/** HTTP status for a code; 200 for 0, 500 for an unknown one. */
int lorica_err_http_status(int code);

#endif
