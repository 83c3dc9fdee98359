/* SPDX-License-Identifier: MIT */
#include "gateway/server/route.h"

#include <stdio.h>
#include <string.h>

#include "proto/http_fields.h"

/* The part behind the slash at *at; moves *at to the next slash or the end. */
static struct lorica_http_slice next_part(const char *text, size_t len, size_t *at) {
    const size_t begin = *at + 1;
    size_t end = begin;
    while (end < len && text[end] != '/')
        end++;
    *at = end;
    return (struct lorica_http_slice){text + begin, end - begin};
}

static bool match(const char *pattern, const char *path, size_t len,
                  struct lorica_http_slice params[LORICA_ROUTE_PARAMS], size_t *ret_count) {
    const size_t plen = strlen(pattern);
    size_t i = 0, j = 0, count = 0;
    while (i < plen && j < len) {
        const struct lorica_http_slice want = next_part(pattern, plen, &i);
        const struct lorica_http_slice have = next_part(path, len, &j);
        if (want.len == 2 && memcmp(want.text, "{}", 2) == 0) {
            if (have.len == 0 || count == LORICA_ROUTE_PARAMS)
                return false;
            params[count++] = have;
        } else if (want.len != have.len || memcmp(want.text, have.text, have.len) != 0) {
            return false;
        }
    }
    *ret_count = count;
    return i == plen && j == len;
}

static void add_allowed(struct lorica_route_match *ret, enum lorica_method method) {
    const size_t used = strlen(ret->allow);
    const char *name = lorica_method_name(method);
    if (used + strlen(name) + 3 > sizeof(ret->allow) || strstr(ret->allow, name))
        return;
    (void)snprintf(ret->allow + used, sizeof(ret->allow) - used, "%s%s", used ? ", " : "", name);
}

int lorica_route_find(const struct lorica_route *routes, size_t count, enum lorica_method method,
                      const char *path, size_t len, struct lorica_route_match *ret) {
    struct lorica_http_slice params[LORICA_ROUTE_PARAMS];
    size_t param_count = 0;
    memset(ret, 0, sizeof(*ret));
    for (size_t i = 0; i < count; i++) {
        if (!match(routes[i].pattern, path, len, params, &param_count))
            continue;
        ret->path_known = true;
        add_allowed(ret, routes[i].method);
        if (routes[i].method != method &&
            !(method == LORICA_METHOD_HEAD && routes[i].method == LORICA_METHOD_GET))
            continue;
        for (size_t p = 0; p < param_count; p++)
            if (lorica_http_decode(params[p].text, params[p].len, false, ret->params[p],
                                   sizeof(ret->params[p])) != 0)
                return LORICA_EINVAL;
        ret->route = &routes[i];
        return 0;
    }
    return 0;
}
