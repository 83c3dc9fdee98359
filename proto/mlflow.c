/* SPDX-License-Identifier: MIT */
#include "proto/mlflow.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "proto/http_fields.h"

#define ARTIFACTS "/api/2.0/mlflow-artifacts/artifacts"
#define URL_MAX 2000

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* %XX becomes its byte; NULL for a broken escape or a control character. */
static char *unescape(const char *text, size_t len) {
    char *out = malloc(len + 1);
    size_t n = 0;
    for (size_t i = 0; out && i < len; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            const int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
            const int low = i + 2 < len ? hex_digit(text[i + 2]) : -1;
            c = high < 0 || low < 0 ? 0 : 16 * high + low;
            i += 2;
        }
        if (c < 0x20 || c == 0x7f) {
            explicit_bzero(out, n);
            free(out);
            return NULL;
        }
        out[n++] = (char)c;
    }
    if (out)
        out[n] = '\0';
    return out;
}

static int fail_url(struct lorica_error *err) {
    return lorica_fail(
        err, LORICA_EINVAL,
        "the address of MLflow must be http[s]://[USER:PASSWORD@]HOST[:PORT][/PATH]");
}

/* True when the whole host is one of this machine's names. */
static bool is_local(const char *host, size_t len) {
    const char *colon = len > 0 && host[0] != '[' ? memchr(host, ':', len) : NULL;
    const size_t n = colon ? (size_t)(colon - host) : len;
    if (n >= 5 && strncmp(host, "[::1]", 5) == 0)
        return n == 5 || host[5] == ':';
    if (n > 4 && strncmp(host, "127.", 4) == 0)
        return strspn(host, "0123456789.") == n;
    return n == 9 && strncasecmp(host, "localhost", 9) == 0;
}

/* What stands before "@". */
static int take_user(const char *text, size_t len, struct lorica_mlflow_url *ret,
                     struct lorica_error *err) {
    const char *colon = memchr(text, ':', len);
    if (!colon || colon == text)
        return fail_url(err);
    ret->user = unescape(text, (size_t)(colon - text));
    ret->password = unescape(colon + 1, len - (size_t)(colon + 1 - text));
    return ret->user && ret->password ? 0 : fail_url(err);
}

int lorica_mlflow_url_parse(const char *text, struct lorica_mlflow_url *ret,
                            struct lorica_error *err) {
    struct lorica_mlflow_url url = {.plain = strncmp(text, "http://", 7) == 0};
    const char *rest = text + (url.plain ? 7 : 8);
    size_t len = strlen(text);
    if ((!url.plain && strncmp(text, "https://", 8) != 0) || len > URL_MAX ||
        strpbrk(text, " \t\r\n?#\"\\<>"))
        return fail_url(err);
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            return fail_url(err);
    const size_t authority = strcspn(rest, "/");
    const char *at = memrchr(rest, '@', authority);
    const char *host = at ? at + 1 : rest;
    const size_t host_len = authority - (size_t)(host - rest);
    if (host_len == 0 || host[0] == ':')
        return fail_url(err);
    int rc = at ? take_user(rest, (size_t)(at - rest), &url, err) : 0;
    url.local = is_local(host, host_len);
    len = strlen(host);
    while (len > host_len && host[len - 1] == '/')
        len--;
    struct lorica_buf server;
    lorica_buf_init(&server, URL_MAX + 16);
    (void)lorica_buf_puts(&server, url.plain ? "http://" : "https://");
    (void)lorica_buf_append(&server, host, len);
    url.server = lorica_buf_take(&server, NULL);
    lorica_buf_finish(&server);
    if (rc == 0 && !url.server)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0)
        *ret = url;
    else
        lorica_mlflow_url_finish(&url);
    return rc;
}

void lorica_mlflow_url_finish(struct lorica_mlflow_url *url) {
    if (url->password)
        explicit_bzero(url->password, strlen(url->password));
    free(url->server);
    free(url->user);
    free(url->password);
    *url = (struct lorica_mlflow_url){0};
}

const char *lorica_mlflow_id(const struct lorica_json *object, const char *key) {
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    const char *text = lorica_json_string(lorica_json_get(object, key));
    const size_t len = text ? strlen(text) : 0;
    return len > 0 && len <= LORICA_MLFLOW_ID_MAX && strspn(text, allowed) == len ? text : NULL;
}

int64_t lorica_mlflow_number(const struct lorica_json *value) {
    int64_t number = 0;
    const char *text = lorica_json_string(value);
    if (!text)
        return lorica_json_integer(value, 0, (int64_t)1 << 53, &number) == 0 ? number : -1;
    const size_t len = strlen(text);
    if (len == 0 || len > 15 || strspn(text, "0123456789") != len)
        return -1;
    return strtoll(text, NULL, 10);
}

int lorica_mlflow_run_read(const struct lorica_json *run, struct lorica_mlflow_run *ret,
                           struct lorica_error *err) {
    const struct lorica_json *info = lorica_json_get(run, "info");
    const char *id = lorica_mlflow_id(info, "run_id");
    const char *uri = lorica_json_string(lorica_json_get(info, "artifact_uri"));
    const char *status = lorica_json_string(lorica_json_get(info, "status"));
    if (!id || !uri || strlen(uri) > LORICA_MLFLOW_URI_MAX)
        return lorica_fail(err, LORICA_EFORMAT,
                           "MLflow answered with a run that has no id or no "
                           "place for its artifacts");
    struct lorica_mlflow_run made = {0};
    memcpy(made.id, id, strlen(id));
    memcpy(made.artifacts, uri, strlen(uri));
    made.ended = status && (strcmp(status, "FINISHED") == 0 || strcmp(status, "FAILED") == 0 ||
                            strcmp(status, "KILLED") == 0);
    *ret = made;
    return 0;
}

int64_t lorica_mlflow_last_step(const struct lorica_json *run, const char *metric) {
    const struct lorica_json *list = lorica_json_get(lorica_json_get(run, "data"), "metrics");
    int64_t last = -1;
    if (lorica_json_type(list) != LORICA_JSON_ARRAY)
        return -1;
    for (const struct lorica_json *m = lorica_json_first(list); m; m = lorica_json_next(m)) {
        const char *key = lorica_json_string(lorica_json_get(m, "key"));
        if (!key || strcmp(key, metric) != 0)
            continue;
        /* Step 0 may be left out, as Protocol Buffers' JSON does with zeros. */
        const struct lorica_json *step = lorica_json_get(m, "step");
        const int64_t number = step ? lorica_mlflow_number(step) : 0;
        if (number > last)
            last = number;
    }
    return last;
}

/* Appends "/part/part" escaped; false for a part that would climb, or a control character. */
static bool append_parts(struct lorica_buf *out, const char *path) {
    for (const char *part = path; *part;) {
        const size_t len = strcspn(part, "/");
        if ((len == 1 && part[0] == '.') || (len == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        for (size_t i = 0; i < len; i++)
            if ((unsigned char)part[i] < 0x20)
                return false;
        if (len > 0) {
            (void)lorica_buf_puts(out, "/");
            lorica_http_escape(out, part, len);
        }
        part += len;
        part += *part == '/';
    }
    return true;
}

int lorica_mlflow_artifact_path(const char *uri, const char *name, struct lorica_buf *out,
                                struct lorica_error *err) {
    static const char scheme[] = "mlflow-artifacts:";
    if (strncmp(uri, scheme, sizeof(scheme) - 1) != 0)
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "MLflow keeps artifacts at \"%.200s\" and does not take them itself: "
                           "start mlflow server with --serve-artifacts",
                           uri);
    const char *path = uri + sizeof(scheme) - 1;
    if (strncmp(path, "//", 2) == 0)
        path += 2 + strcspn(path + 2, "/"); /* a host: the server's own */
    (void)lorica_buf_puts(out, ARTIFACTS);
    if (!append_parts(out, path) || !append_parts(out, name))
        return lorica_fail(err, LORICA_EINVAL, "\"%.200s\" is no place for an artifact", uri);
    const int rc = lorica_buf_status(out);
    return rc ? lorica_fail(err, rc, "the path of an artifact: %s", lorica_err_text(rc)) : 0;
}

bool lorica_mlflow_alias_valid(const char *alias) {
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    const size_t len = strlen(alias);
    if (len == 0 || len > LORICA_MLFLOW_KEY_MAX || strspn(alias, allowed) != len ||
        strcasecmp(alias, "latest") == 0)
        return false;
    return !((alias[0] == 'v' || alias[0] == 'V') && len > 1 &&
             strspn(alias + 1, "0123456789") == len - 1);
}

void lorica_mlflow_write_text(struct lorica_jsonw *w, const char *key, const char *value,
                              size_t max) {
    size_t len = strlen(value);
    if (len > max)
        for (len = max; len > 0 && ((unsigned char)value[len] & 0xc0) == 0x80;)
            len--;
    lorica_jsonw_object(w, NULL);
    lorica_jsonw_string(w, "key", key);
    lorica_jsonw_bytes(w, "value", value, len);
    lorica_jsonw_end_object(w);
}
