/* SPDX-License-Identifier: MIT
 * Who may do what: the heads of requests as they come from a connection, judged by keys of a real
 * registry. And what of a head a request takes over. */
#include "../registry/fixture.h"

#include <strings.h>

#include "gateway/server/auth.h"
#include "gateway/server/conn.h"
#include "gateway/server/server.h"

#define ROLES 4

/* A server of just what judging needs, one connection, and keys. */
struct judge {
    struct fixture *registry;
    struct lorica_server server;
    struct lorica_conn conn;
    char keys[ROLES][LORICA_KEY_TEXT]; /* one of each role, for all adapters */
    char cardio[LORICA_KEY_TEXT];      /* ops, for cardio* and base alone */
    char revoked[LORICA_KEY_TEXT];
};

static void make_key(struct judge *j, const char *name, enum lorica_role role, const char *glob,
                     char text[LORICA_KEY_TEXT]) {
    struct lorica_key key = {.role = role};
    snprintf(key.name, sizeof(key.name), "%s", name);
    if (glob) {
        key.glob_count = 2;
        snprintf(key.globs[0], sizeof(key.globs[0]), "%s", glob);
        snprintf(key.globs[1], sizeof(key.globs[1]), "base");
    }
    ok(lorica_registry_key_create(j->registry->registry, &key, &actor, text, &err));
}

static int setup(void **state) {
    struct judge *j = calloc(1, sizeof(*j));
    assert_non_null(j);
    assert_int_equal(fixture_setup((void **)&j->registry), 0);
    j->server.parts.registry = j->registry->registry;
    j->server.parts.data_dir = "/var/lib/lorica";
    j->conn.server = &j->server;
    assert_int_equal(lorica_http_init(&j->conn.http), 0);
    for (int role = 0; role < ROLES; role++)
        make_key(j, lorica_role_name((enum lorica_role)role), (enum lorica_role)role, NULL,
                 j->keys[role]);
    make_key(j, "cardio-ops", LORICA_ROLE_OPS, "cardio*", j->cardio);
    make_key(j, "gone", LORICA_ROLE_ADMIN, NULL, j->revoked);
    ok(lorica_registry_key_revoke(j->registry->registry, "gone", &actor, &err));
    *state = j;
    return 0;
}

static int teardown(void **state) {
    struct judge *j = *state;
    lorica_http_finish(&j->conn.http);
    assert_int_equal(j->server.request_count, 0);
    fixture_teardown((void **)&j->registry);
    free(j);
    return 0;
}

/* A request of this method and path with further header lines. */
static struct lorica_request *request_of(struct judge *j, const char *method, const char *path,
                                         const char *headers) {
    char head[2048];
    size_t count;
    const int len =
        snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: a\r\n%s\r\n", method, path, headers);
    struct lorica_http *http = &j->conn.http;
    lorica_http_finish(http);
    assert_int_equal(lorica_http_init(http), 0);
    assert_int_equal(lorica_http_feed(http, head, (size_t)len), len);
    assert_int_equal(http->state, LORICA_HTTP_JUDGED);
    struct lorica_request *request = lorica_request_create(&j->conn);
    assert_non_null(request);
    const struct lorica_route *routes = lorica_routes(&count);
    const char *end = memchr(http->target.text, '?', http->target.len);
    assert_int_equal(lorica_route_find(routes, count, http->method, http->target.text,
                                       end ? (size_t)(end - http->target.text) : http->target.len,
                                       &request->match),
                     0);
    return request;
}

static struct lorica_request *keyed(struct judge *j, const char *method, const char *path,
                                    const char *key) {
    char line[400];
    snprintf(line, sizeof(line), "Authorization: Bearer %s\r\n", key);
    return request_of(j, method, path, line);
}

/* What the check says: 0, or the HTTP status, with the error's code in the answer. */
static void expect(struct lorica_request *request, int status, const char *code) {
    const char nothing[LORICA_BEARER_MAX + 1] = {0};
    const int rc = lorica_auth_check(request);
    if (status == 0) {
        if (rc)
            fail_msg("%s", request->error.text);
        assert_true(request->keyed);
    } else {
        assert_int_not_equal(rc, 0);
        lorica_request_error_response(request);
        assert_int_equal(request->response.status, status);
        assert_non_null(strstr(request->response.body.data, code));
    }
    assert_memory_equal(request->bearer, nothing, sizeof(nothing)); /* the key's text is gone */
    lorica_request_unref(request);
}

/* "/v1/adapters/{}/versions/{}" with a name and a number in it. */
static void fill_pattern(const char *pattern, char out[256]) {
    size_t n = 0, part = 0;
    for (; *pattern; pattern++) {
        if (pattern[0] == '{')
            n += (size_t)snprintf(out + n, 256 - n, "%s", part++ ? "1" : "cardiology");
        else if (pattern[0] != '}')
            out[n++] = *pattern;
    }
    out[n] = '\0';
}

/* A publish is judged once, and may be written in several parts: its key is not revoked between
 * them. What is to be fast is done between them. */
static void test_a_revocation_does_not_pass_a_publish_under_way(void **state) {
    static const struct {
        const char *method, *path;
        bool in_turn;
    } cases[] = {
        {"DELETE", "/v1/keys/a", true},
        {"POST", "/v1/adapters/a/versions", true},
        {"POST", "/v1/sweep", true},
        {"PUT", "/v1/adapters/a/channels/stable", false},
        {"POST", "/v1/adapters/a/channels/stable/rollback", false},
    };
    struct judge *j = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_request *request = request_of(j, cases[i].method, cases[i].path, "");
        assert_non_null(request->match.route);
        assert_int_equal(request->match.route->in_turn, cases[i].in_turn);
        lorica_request_unref(request);
    }
}

static void test_each_route_takes_its_role_and_those_above(void **state) {
    struct judge *j = *state;
    size_t count;
    unsigned refused = 0, taken = 0;
    const struct lorica_route *routes = lorica_routes(&count);
    for (size_t i = 0; i < count; i++) {
        char path[256];
        if (routes[i].open)
            continue;
        fill_pattern(routes[i].pattern, path);
        for (int role = 0; role < ROLES; role++) {
            const bool may = role >= (int)routes[i].role;
            struct lorica_request *request =
                keyed(j, lorica_method_name(routes[i].method), path, j->keys[role]);
            assert_ptr_equal(request->match.route, &routes[i]);
            expect(request, may ? 0 : 403, "role_not_allowed");
            taken += may;
            refused += !may;
        }
    }
    assert_true(taken > 40 && refused > 20);
}

/* The table itself: what changes something asks for more than asking does. */
static void test_routes_ask_for_the_roles_of_the_api(void **state) {
    static const struct {
        const char *method, *path;
        enum lorica_role role;
    } cases[] = {
        {"POST", "/v1/chat/completions", LORICA_ROLE_INFER},
        {"POST", "/v1/completions", LORICA_ROLE_INFER},
        {"GET", "/v1/models", LORICA_ROLE_INFER},
        {"POST", "/v1/adapters/a/versions", LORICA_ROLE_PUBLISH},
        {"PUT", "/v1/adapters/a/channels/stable", LORICA_ROLE_OPS},
        {"POST", "/v1/adapters/a/channels/stable/rollback", LORICA_ROLE_OPS},
        {"GET", "/v1/audit", LORICA_ROLE_OPS},
        {"GET", "/v1/keys", LORICA_ROLE_ADMIN},
        {"POST", "/v1/keys", LORICA_ROLE_ADMIN},
        {"DELETE", "/v1/keys/a", LORICA_ROLE_ADMIN},
    };
    struct judge *j = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_request *request = request_of(j, cases[i].method, cases[i].path, "");
        assert_non_null(request->match.route);
        assert_false(request->match.route->open);
        assert_int_equal(request->match.route->role, cases[i].role);
        lorica_request_unref(request);
    }
}

static void test_a_key_reaches_its_adapters_only(void **state) {
    struct judge *j = *state;
    static const char *const rest[] = {"", "/versions", "/versions/1", "/channels/stable",
                                       "/history"};
    for (size_t i = 0; i < sizeof(rest) / sizeof(rest[0]); i++) {
        char mine[128], other[128];
        snprintf(mine, sizeof(mine), "/v1/adapters/cardiology%s", rest[i]);
        snprintf(other, sizeof(other), "/v1/adapters/oncology%s", rest[i]);
        expect(keyed(j, "GET", mine, j->cardio), 0, "");
        expect(keyed(j, "GET", other, j->cardio), 403, "adapter_not_allowed");
        expect(keyed(j, "GET", other, j->keys[LORICA_ROLE_OPS]), 0, "");
    }
    /* spelled with escapes it is the same name */
    expect(keyed(j, "GET", "/v1/adapters/%6fncology", j->cardio), 403, "adapter_not_allowed");
    expect(keyed(j, "GET", "/v1/adapters/c%61rdiology", j->cardio), 0, "");
    expect(keyed(j, "GET", "/v1/adapters/Cardiology", j->cardio), 403, "adapter_not_allowed");
    expect(keyed(j, "PUT", "/v1/adapters/oncology/channels/cardio", j->cardio), 403,
           "adapter_not_allowed");
    /* the role is judged first */
    expect(keyed(j, "GET", "/v1/keys", j->cardio), 403, "role_not_allowed");
}

static void test_auth_adapter_names_key_and_adapter(void **state) {
    struct judge *j = *state;
    struct lorica_request *request = keyed(j, "GET", "/v1/models", j->cardio);
    assert_int_equal(lorica_auth_check(request), 0);
    assert_int_equal(lorica_auth_adapter(request, "cardiology"), 0);
    assert_int_equal(lorica_auth_adapter(request, "base"), 0);
    assert_int_equal(lorica_auth_adapter(request, "oncology"), LORICA_EPERM);
    assert_non_null(strstr(request->error.text, "\"cardio-ops\""));
    assert_non_null(strstr(request->error.text, "\"oncology\""));
    lorica_request_unref(request);
}

static void test_roles_are_ordered(void **state) {
    for (int role = 0; role < ROLES; role++)
        for (int needed = 0; needed < ROLES; needed++)
            assert_int_equal(lorica_auth_role((enum lorica_role)role, (enum lorica_role)needed),
                             role >= needed);
}

static void test_wrong_keys_are_refused(void **state) {
    struct judge *j = *state;
    const char *key = j->keys[LORICA_ROLE_ADMIN];
    char text[300];
    expect(request_of(j, "GET", "/v1/models", ""), 401, "invalid_api_key");
    expect(keyed(j, "GET", "/v1/models", j->revoked), 401, "invalid_api_key");
    for (size_t i = 0; i < strlen(key); i++) { /* each character counts */
        snprintf(text, sizeof(text), "%s", key);
        text[i] = text[i] == 'A' ? 'B' : 'A';
        expect(keyed(j, "GET", "/v1/models", text), 401, "invalid_api_key");
    }
    for (size_t len = 0; len < strlen(key); len++) {
        snprintf(text, sizeof(text), "%.*s", (int)len, key);
        expect(keyed(j, "GET", "/v1/models", text), 401, "invalid_api_key");
    }
    snprintf(text, sizeof(text), "%sA", key);
    expect(keyed(j, "GET", "/v1/models", text), 401, "invalid_api_key");
    expect(keyed(j, "GET", "/v1/models", key), 0, "");
}

static void test_authorization_is_read_one_way(void **state) {
    static const struct {
        const char *before, *after;
        bool taken;
    } cases[] = {
        {"Authorization: Bearer ", "\r\n", true},
        {"authorization:bearer ", " \r\n", true},
        {"AUTHORIZATION:   BEARER    ", "\r\n", true},
        {"Authorization: ", "\r\n", false},
        {"Authorization: Bearer", "\r\n", false},
        {"Authorization: Basic ", "\r\n", false},
        {"Authorization: Bearer\t", "\r\n", false},
        {"Authorization: Bearer ", " x\r\n", false},
        {"Authorization: Bearer ", ",\r\n", false},
        {"Authorization: Bearer \"", "\"\r\n", false},
        {"Authorization: Bearer x\r\nAuthorization: Bearer ", "\r\n", false},
        {"Authorization: Bearer ", "\r\nAuthorization: Bearer x\r\n", false},
        {"Proxy-Authorization: Bearer ", "\r\n", false},
        {"X-Api-Key: ", "\r\n", false},
    };
    struct judge *j = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char line[256];
        snprintf(line, sizeof(line), "%s%s%s", cases[i].before, j->keys[0], cases[i].after);
        expect(request_of(j, "GET", "/v1/models", line), cases[i].taken ? 0 : 401,
               "invalid_api_key");
    }
    /* a key belongs into a header, never into a path that is logged */
    char path[128];
    snprintf(path, sizeof(path), "/v1/models?key=%s", j->keys[0]);
    expect(request_of(j, "GET", path, ""), 401, "invalid_api_key");
}

static void test_bearer_longer_than_any_key_is_refused(void **state) {
    struct judge *j = *state;
    for (size_t len = LORICA_BEARER_MAX; len <= LORICA_BEARER_MAX + 1; len++) {
        char line[400];
        const int n = snprintf(line, sizeof(line), "Authorization: Bearer ");
        memset(line + n, 'k', len);
        snprintf(line + n + len, sizeof(line) - (size_t)n - len, "\r\n");
        struct lorica_request *request = request_of(j, "GET", "/v1/models", line);
        assert_int_equal(request->has_bearer, len == LORICA_BEARER_MAX);
        expect(request, 401, "invalid_api_key");
    }
}

static void test_error_response_says_how_to_authenticate(void **state) {
    struct judge *j = *state;
    struct lorica_request *request = request_of(j, "GET", "/v1/models", "");
    struct lorica_json *json;
    assert_int_equal(lorica_auth_check(request), LORICA_EAUTH);
    lorica_request_error_response(request);
    assert_int_equal(request->response.status, 401);
    assert_string_equal(request->response.headers.data, "www-authenticate: Bearer\r\n");
    ok(lorica_json_parse(request->response.body.data, request->response.body.len, &json, &err));
    const struct lorica_json *error = lorica_json_get(json, "error");
    assert_string_equal(lorica_json_string(lorica_json_get(error, "type")), "authentication_error");
    assert_string_equal(lorica_json_string(lorica_json_get(error, "code")), "invalid_api_key");
    assert_non_null(strstr(lorica_json_string(lorica_json_get(error, "message")), "Bearer"));
    assert_int_equal(lorica_json_type(lorica_json_get(error, "param")), LORICA_JSON_NULL);
    lorica_json_destroy(json);
    lorica_request_unref(request);
}

/* -- what a request takes over from its head -- */

static void test_request_id_is_taken_when_fit_else_made(void **state) {
    static const struct {
        const char *id;
        bool taken;
    } cases[] = {{"abc-123", true}, {"!#$%&'()*+,/:;<=>?@[]^_`{|}~", true},
                 {"a b", false},    {"a\"b", false},
                 {"a\\b", false},   {"\xc3\xa9", false},
                 {"", false}};
    struct judge *j = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char line[256];
        snprintf(line, sizeof(line), "X-Request-ID: %s\r\n", cases[i].id);
        struct lorica_request *request = request_of(j, "GET", "/livez", line);
        if (cases[i].taken)
            assert_string_equal(request->id, cases[i].id);
        else
            assert_true(strlen(request->id) == 36 && strncmp(request->id, "req-", 4) == 0);
        lorica_request_unref(request);
    }
    for (int len = LORICA_REQUEST_ID_MAX; len <= LORICA_REQUEST_ID_MAX + 1; len++) {
        char line[256];
        snprintf(line, sizeof(line), "X-Request-ID: %0*d\r\n", len, 7);
        struct lorica_request *request = request_of(j, "GET", "/livez", line);
        assert_int_equal(strlen(request->id), len == LORICA_REQUEST_ID_MAX ? (size_t)len : 36);
        lorica_request_unref(request);
    }
}

static void test_if_match_is_taken_when_there_is_one(void **state) {
    static const struct {
        const char *headers, *value;
        bool has;
    } cases[] = {
        {"", "", false},
        {"If-Match: \"7\"\r\n", "\"7\"", true},
        {"if-match:\r\n", "", true},
        {"If-Match: \"7\"\r\nIf-Match: \"8\"\r\n", "", true}, /* two say nothing */
        {"If-Match: \"0000000000000000000000000000000000000000000000000000000000007\"\r\n",
         "\"0000000000000000000000000000000000000000000000000000000000007\"", true},
        {"If-Match: \"00000000000000000000000000000000000000000000000000000000000007\"\r\n", "",
         true},
    };
    struct judge *j = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_request *request =
            request_of(j, "GET", "/v1/adapters/a/channels/b", cases[i].headers);
        assert_int_equal(request->has_if_match, cases[i].has);
        assert_string_equal(request->if_match, cases[i].value);
        lorica_request_unref(request);
    }
}

static void test_query_numbers_have_bounds(void **state) {
    static const struct {
        const char *query;
        int rc;
        long long value;
    } cases[] = {
        {"", 0, -1},
        {"?", 0, -1},
        {"?limit", LORICA_EINVAL, -1},
        {"?limit=", LORICA_EINVAL, -1},
        {"?limit=1", 0, 1},
        {"?limit=100", 0, 100},
        {"?after=x&limit=7", 0, 7},
        {"?xlimit=7", 0, -1},
        {"?limit=%37", 0, 7},
        {"?limit=0", LORICA_EINVAL, -1},
        {"?limit=101", LORICA_EINVAL, -1},
        {"?limit=-1", LORICA_EINVAL, -1},
        {"?limit=7x", LORICA_EINVAL, -1},
        {"?limit=0x7", LORICA_EINVAL, -1},
        {"?limit=7.0", LORICA_EINVAL, -1},
        {"?limit=+7", LORICA_EINVAL, -1},
        {"?limit=%2B7", LORICA_EINVAL, -1},
        {"?limit=%207", LORICA_EINVAL, -1},
        {"?limit=%00", LORICA_EINVAL, -1},
        {"?limit=%", LORICA_EINVAL, -1},
        {"?limit=7&limit=7", LORICA_EINVAL, -1},
        {"?limit=99999999999999999999999999", LORICA_EINVAL, -1},
        {"?limit=00000000000000000000000000000000000000001", LORICA_EINVAL, -1},
    };
    struct judge *j = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char path[128];
        long long value = -1;
        snprintf(path, sizeof(path), "/v1/audit%s", cases[i].query);
        struct lorica_request *request = request_of(j, "GET", path, "");
        const int rc = lorica_request_query_number(request, "limit", 1, 100, &value);
        if (rc != cases[i].rc || value != cases[i].value)
            fail_msg("%s: %d, %lld", path, rc, value);
        if (rc)
            assert_string_equal(request->error_param, "limit");
        lorica_request_unref(request);
    }
}

static void test_body_must_be_an_object_of_known_members(void **state) {
    static const char *const names[] = {"version", "message", NULL};
    static const struct {
        const char *body;
        int parse, only;
    } cases[] = {
        {"{}", 0, 0},
        {"{\"version\":3,\"message\":\"x\"}", 0, 0},
        {"{\"Version\":3}", 0, LORICA_EINVAL},
        {"{\"version\":3,\"versions\":3}", 0, LORICA_EINVAL},
        {"[]", LORICA_EINVAL, 0},
        {"null", LORICA_EINVAL, 0},
        {"", LORICA_EFORMAT, 0},
        {"{", LORICA_EFORMAT, 0},
        {"{} {}", LORICA_EFORMAT, 0},
        {"{\"version\":3,\"version\":4}", LORICA_EFORMAT, 0},
    };
    struct judge *j = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_request *request =
            request_of(j, "PUT", "/v1/adapters/a/channels/b", "Content-Length: 1\r\n");
        const struct lorica_json *json = NULL;
        ok(lorica_buf_puts(&request->body, cases[i].body));
        assert_int_equal(lorica_request_parse(request, &json), cases[i].parse);
        if (!cases[i].parse)
            assert_int_equal(lorica_request_only(request, json, names), cases[i].only);
        else
            assert_null(json);
        lorica_request_unref(request);
    }
}

static void test_json_body_has_a_limit(void **state) {
    struct judge *j = *state;
    struct lorica_request *request =
        request_of(j, "POST", "/v1/completions", "Content-Length: 1\r\n");
    char *bytes = calloc(1, LORICA_JSON_BODY_MAX);
    assert_non_null(bytes);
    assert_int_equal(lorica_buf_append(&request->body, bytes, LORICA_JSON_BODY_MAX), 0);
    assert_int_equal(lorica_buf_append(&request->body, bytes, 1), LORICA_ELIMIT);
    assert_int_equal(request->body.len, LORICA_JSON_BODY_MAX);
    free(bytes);
    lorica_request_unref(request);
}

#define judged(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        judged(test_a_revocation_does_not_pass_a_publish_under_way),
        judged(test_each_route_takes_its_role_and_those_above),
        judged(test_routes_ask_for_the_roles_of_the_api),
        judged(test_a_key_reaches_its_adapters_only),
        judged(test_auth_adapter_names_key_and_adapter),
        cmocka_unit_test(test_roles_are_ordered),
        judged(test_wrong_keys_are_refused),
        judged(test_authorization_is_read_one_way),
        judged(test_bearer_longer_than_any_key_is_refused),
        judged(test_error_response_says_how_to_authenticate),
        judged(test_request_id_is_taken_when_fit_else_made),
        judged(test_if_match_is_taken_when_there_is_one),
        judged(test_query_numbers_have_bounds),
        judged(test_body_must_be_an_object_of_known_members),
        judged(test_json_body_has_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
