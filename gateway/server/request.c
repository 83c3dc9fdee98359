/* SPDX-License-Identifier: MIT */
#include "gateway/server/request.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/handlers/checks.h"
#include "gateway/files.h"
#include "gateway/server/server.h"
#include "gateway/server/upload.h"
#include "proto/http_fields.h"
#include "registry/digest.h"

#define RESPONSE_MAX ((size_t)256 << 20)
#define HEADERS_MAX ((size_t)8 << 10)

/* An id of the client's own is taken over when it is fit to stand in a header and a log line. */
static bool id_valid(const struct lorica_http_slice *value) {
    if (!value || value->len == 0 || value->len > LORICA_REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < value->len; i++) {
        const char c = value->text[i];
        if (c <= ' ' || c >= 127 || c == '"' || c == '\\')
            return false;
    }
    return true;
}

static void make_id(char out[LORICA_REQUEST_ID_MAX + 1]) {
    unsigned char bytes[16] = {0};
    if (lorica_random_bytes(bytes, sizeof(bytes)) != 0) {
        const uint64_t now = uv_hrtime(); /* an id need not be a secret */
        memcpy(bytes, &now, sizeof(now));
    }
    memcpy(out, "req-", sizeof("req-"));
    for (size_t i = 0; i < sizeof(bytes); i++)
        (void)snprintf(out + 4 + 2 * i, 3, "%02x", bytes[i]);
}

static char *dup_slice(const struct lorica_http_slice *value) {
    return value ? strndup(value->text, value->len) : NULL;
}

/* The key of the one Authorization header. */
static void take_bearer(struct lorica_request *request, const struct lorica_http *http) {
    const struct lorica_http_slice *value = lorica_http_header(http, "authorization");
    char text[LORICA_BEARER_MAX + 64] = {0};
    size_t len = 0;
    if (lorica_http_header_count(http, "authorization") != 1 || value->len >= sizeof(text))
        return;
    memcpy(text, value->text, value->len);
    const char *key = lorica_http_bearer(text, &len);
    request->has_bearer = key && len <= LORICA_BEARER_MAX;
    if (request->has_bearer)
        memcpy(request->bearer, key, len);
    explicit_bzero(text, sizeof(text));
}

/* The value of the one If-Match header; "", which is none, for several or one too long. */
static void take_if_match(struct lorica_request *request, const struct lorica_http *http) {
    const struct lorica_http_slice *value = lorica_http_header(http, "if-match");
    request->has_if_match = value != NULL;
    if (lorica_http_header_count(http, "if-match") == 1 && value->len < sizeof(request->if_match))
        memcpy(request->if_match, value->text, value->len);
}

static void take_receipt(struct lorica_request *request, const struct lorica_http *http) {
    const struct lorica_http_slice *value = lorica_http_header(http, "lorica-receipt");
    if (!value)
        return;
    request->wants_receipt = lorica_http_slice_is(value, "true");
    request->odd_receipt = lorica_http_header_count(http, "lorica-receipt") != 1 ||
                           (!request->wants_receipt && !lorica_http_slice_is(value, "false"));
}

struct lorica_request *lorica_request_create(struct lorica_conn *conn) {
    const struct lorica_http *http = &conn->http;
    struct lorica_request *request = calloc(1, sizeof(*request));
    if (!request)
        return NULL;
    request->server = conn->server;
    request->conn = conn;
    request->refs = 1;
    request->started_ns = uv_hrtime();
    request->method = http->method;
    lorica_buf_init(&request->body, LORICA_JSON_BODY_MAX);
    lorica_buf_init(&request->piece, LORICA_JSON_BODY_MAX);
    lorica_buf_init(&request->response.headers, HEADERS_MAX);
    lorica_buf_init(&request->response.body, RESPONSE_MAX);
    conn->server->request_count++;
    const struct lorica_http_slice *id = lorica_http_header(http, "x-request-id");
    if (id_valid(id))
        memcpy(request->id, id->text, id->len);
    else
        make_id(request->id);
    const char *question =
        http->target.text ? memchr(http->target.text, '?', http->target.len) : NULL;
    if (question)
        request->query =
            strndup(question + 1, http->target.len - (size_t)(question + 1 - http->target.text));
    request->content_type = dup_slice(lorica_http_header(http, "content-type"));
    take_bearer(request, http);
    take_if_match(request, http);
    take_receipt(request, http);
    if ((question && !request->query) ||
        (lorica_http_header(http, "content-type") && !request->content_type)) {
        lorica_request_unref(request);
        return NULL;
    }
    return request;
}

struct lorica_request *lorica_request_ref(struct lorica_request *request) {
    request->refs++;
    return request;
}

struct lorica_request *lorica_request_create_own(struct lorica_server *server,
                                                 enum lorica_method method, const char *path,
                                                 const struct lorica_key *key) {
    size_t count = 0;
    const struct lorica_route *routes = lorica_routes(&count);
    struct lorica_request *request = calloc(1, sizeof(*request));
    if (!request)
        return NULL;
    request->server = server;
    request->method = method;
    request->key = *key;
    request->keyed = true;
    lorica_buf_init(&request->body, LORICA_JSON_BODY_MAX);
    lorica_buf_init(&request->response.headers, HEADERS_MAX);
    lorica_buf_init(&request->response.body, RESPONSE_MAX);
    make_id(request->id);
    if (lorica_route_find(routes, count, method, path, strlen(path), &request->match) == 0 &&
        request->match.route)
        return request;
    free(request);
    return NULL;
}

void lorica_request_destroy_own(struct lorica_request *request) {
    if (!request)
        return;
    if (request->finish)
        request->finish(request);
    lorica_checks_free(request);
    lorica_upload_destroy(request->upload, &request->server->loop);
    free(request->query);
    free(request->content_type);
    lorica_json_destroy(request->json);
    lorica_buf_finish(&request->body);
    lorica_buf_finish(&request->piece);
    lorica_buf_finish(&request->response.headers);
    lorica_buf_finish(&request->response.body);
    free(request->response.blob);
    if (request->response.source)
        request->response.source->close(request->response.source);
    free(request);
}

void lorica_request_unref(struct lorica_request *request) {
    if (--request->refs > 0)
        return;
    struct lorica_server *server = request->server;
    lorica_request_destroy_own(request);
    server->request_count--;
    lorica_server_released(server);
}

void lorica_request_log(struct lorica_request *request, int status, const char *why) {
    if (request->logged)
        return;
    request->logged = true;
    const double seconds = (double)(uv_hrtime() - request->started_ns) / 1e9;
    const char *route = request->match.route ? request->match.route->pattern : "-";
    lorica_metrics_request(&request->server->metrics, route, status, seconds);
    lorica_log_line(request->server->parts.log, "info",
                    "method=%s route=%s status=%d ms=%.1f key=%s adapter=%s id=%s%s%s%s",
                    lorica_method_name(request->method), route, status, seconds * 1e3,
                    request->keyed ? request->key.name : "-",
                    request->adapter[0] ? request->adapter : "-", request->id, why ? " why=\"" : "",
                    why ? why : "", why ? "\"" : "");
}

struct lorica_jsonw lorica_request_json(struct lorica_request *request, int status) {
    request->response.status = status;
    lorica_buf_clear(&request->response.body);
    return (struct lorica_jsonw){.out = &request->response.body};
}

void lorica_request_header(struct lorica_request *request, const char *name, const char *value) {
    lorica_buf_printf(&request->response.headers, "%s: %s\r\n", name, value);
}

int lorica_request_fail(struct lorica_request *request, int rc, const char *param, const char *code,
                        const char *fmt, ...) {
    char text[sizeof(request->error.text)];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)snprintf(request->error_param, sizeof(request->error_param), "%s", param ? param : "");
    request->error_code = code;
    return lorica_fail(&request->error, rc, "%s", text);
}

int lorica_request_fail_status(struct lorica_request *request, int status, const char *code,
                               const char *fmt, ...) {
    char text[sizeof(request->error.text)];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    request->error_status = status;
    request->error_code = code;
    return lorica_fail(&request->error, LORICA_EINVAL, "%s", text);
}

static const char *error_type(int status) {
    if (status == 401)
        return "authentication_error";
    if (status == 403)
        return "permission_error";
    if (status == 429)
        return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

int lorica_request_error_json(struct lorica_request *request, struct lorica_buf *out) {
    const int status =
        request->error_status ? request->error_status : lorica_err_http_status(request->error.code);
    struct lorica_jsonw w = {.out = out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_object(&w, "error");
    char message[sizeof(request->error.text) + sizeof(request->error_aside) + 4];
    (void)snprintf(message, sizeof(message), "%s%s%s", request->error.text,
                   request->error_aside[0] ? ": " : "", request->error_aside);
    if (lorica_path_hide(message, request->server->parts.data_dir)) /* nothing to its clients */
        lorica_log_line(request->server->parts.log, "error", "event=failed id=%s why=\"%s\"",
                        request->id, request->error.text);
    lorica_jsonw_string(&w, "message", message);
    lorica_jsonw_string(&w, "type", error_type(status));
    lorica_jsonw_string(&w, "param", request->error_param[0] ? request->error_param : NULL);
    lorica_jsonw_string(&w, "code", request->error_code);
    lorica_jsonw_end_object(&w);
    lorica_jsonw_end_object(&w);
    return status;
}

void lorica_request_error_response(struct lorica_request *request) {
    struct lorica_response *response = &request->response;
    lorica_buf_clear(&response->body);
    free(response->blob);
    response->blob = NULL;
    if (response->source)
        response->source->close(response->source);
    response->source = NULL;
    response->content_type = NULL;
    response->status = lorica_request_error_json(request, &response->body);
    if (response->status == 503 || response->status == 429)
        lorica_request_header(request, "retry-after", "1");
    if (response->status == 401)
        lorica_request_header(request, "www-authenticate", "Bearer");
}

int lorica_request_parse(struct lorica_request *request, const struct lorica_json **ret) {
    struct lorica_error err = {0};
    int rc = lorica_json_parse(request->body.data ? request->body.data : "", request->body.len,
                               &request->json, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, "invalid_json", "the body: %s", err.text);
    if (lorica_json_type(request->json) != LORICA_JSON_OBJECT)
        return lorica_request_fail(request, LORICA_EINVAL, NULL, "invalid_json",
                                   "the body must be a JSON object");
    *ret = request->json;
    return 0;
}

int lorica_request_only(struct lorica_request *request, const struct lorica_json *object,
                        const char *const *names) {
    const struct lorica_json *child = lorica_json_first(object);
    for (; child; child = lorica_json_next(child)) {
        size_t i = 0;
        while (names[i] && strcmp(names[i], lorica_json_key(child)) != 0)
            i++;
        if (!names[i])
            return lorica_request_fail(request, LORICA_EINVAL, NULL, "unknown_parameter",
                                       "the body: \"%.100s\" is not known here",
                                       lorica_json_key(child));
    }
    return 0;
}

int lorica_request_query_number(struct lorica_request *request, const char *name, long long min,
                                long long max, long long *ret) {
    char text[32];
    const int rc = lorica_http_query(request->query, name, text, sizeof(text));
    if (rc == LORICA_ENOTFOUND)
        return 0;
    const bool digits = rc == 0 && *text && text[strspn(text, "0123456789")] == '\0';
    const long long n = digits ? strtoll(text, NULL, 10) : 0;
    if (!digits || n < min || n > max)
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   "%s must be a whole number from %lld to %lld", name, min, max);
    *ret = n;
    return 0;
}

int lorica_request_query_only(struct lorica_request *request, const char *const *names) {
    const char *unknown = NULL;
    const size_t len = lorica_http_query_unknown(request->query, names, &unknown);
    return len == 0 ? 0
                    : lorica_request_fail(request, LORICA_EINVAL, NULL, "unknown_parameter",
                                          "the query: \"%.*s\" is not known here",
                                          len < 80 ? (int)len : 80, unknown);
}

int lorica_request_query_text(struct lorica_request *request, const char *name, char *text,
                              size_t size, const char **ret) {
    const int rc = lorica_http_query(request->query, name, text, size);
    if (rc == LORICA_ENOTFOUND)
        return 0;
    if (rc != 0 || text[0] == '\0')
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   "%s must be text of 1 to %zu bytes", name, size - 1);
    *ret = text;
    return 0;
}
