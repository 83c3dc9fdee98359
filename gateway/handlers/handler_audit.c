/* SPDX-License-Identifier: MIT
 * What was done, by whom: the whole audit chain, or one adapter's part of it. */
#include <string.h>

#include "gateway/handlers/api.h"
#include "gateway/handlers/handlers.h"
#include "gateway/server/server.h"
#include "proto/http_fields.h"
#include "registry/checkpoint.h"

#define BATCH 1000    /* records looked at in one transaction */
#define SCAN_MAX 5000 /* and for one request */

/* What a request asks for. */
struct asked {
    struct lorica_audit_query query;
    long long limit;
    char name[LORICA_NAME_MAX + 1], actor[LORICA_NAME_MAX + 1], kind[32];
};

/* A page being written. */
struct page {
    struct lorica_jsonw w;
    const struct lorica_key *key;
    long long limit, written;
    bool more;
};

/* A key that is held to some adapters sees their records only. */
static bool may_see(const struct lorica_key *key, const struct lorica_audit *record) {
    if (key->glob_count == 0)
        return true;
    return lorica_audit_of_adapter(record) && lorica_key_allows(key, record->name);
}

static int write_record(void *arg, const struct lorica_audit *record) {
    struct page *page = arg;
    if (!may_see(page->key, record))
        return 0;
    if (page->written == page->limit) {
        page->more = true;
        return 1;
    }
    lorica_api_write_audit(&page->w, NULL, record);
    page->written++;
    return 0;
}

static int ask_time(struct lorica_request *request, const char *name, int64_t *ret) {
    char text[64];
    const char *given = NULL;
    const int rc = lorica_request_query_text(request, name, text, sizeof(text), &given);
    if (rc != 0 || !given)
        return rc;
    if (lorica_http_time(text, ret) != 0)
        return lorica_request_fail(request, LORICA_EINVAL, name, NULL,
                                   "%s must be a time of RFC 3339 such as 2026-03-01T09:30:00Z, a "
                                   "date, or Unix milliseconds",
                                   name);
    return 0;
}

static int ask_seq(struct lorica_request *request, const char *name, uint64_t *ret) {
    long long number = 0;
    const int rc = lorica_request_query_number(request, name, 0, (long long)1 << 53, &number);
    *ret = (uint64_t)number;
    return rc;
}

static int ask_kind(struct lorica_request *request, struct asked *asked) {
    const int rc = lorica_request_query_text(request, "kind", asked->kind, sizeof(asked->kind),
                                             &asked->query.kind);
    if (rc != 0 || !asked->query.kind)
        return rc;
    for (int i = 0; i < LORICA_AUDIT_COUNT; i++)
        if (strcmp(lorica_audit_kind_name((enum lorica_audit_kind)i), asked->kind) == 0)
            return 0;
    return lorica_request_fail(request, LORICA_EINVAL, "kind", NULL,
                               "there are no records of the kind \"%s\"", asked->kind);
}

static int ask_order(struct lorica_request *request, struct asked *asked) {
    char text[8];
    const char *order = NULL;
    const int rc = lorica_request_query_text(request, "order", text, sizeof(text), &order);
    if (rc != 0 || !order)
        return rc;
    asked->query.newest_first = strcmp(order, "desc") == 0;
    if (!asked->query.newest_first && strcmp(order, "asc") != 0)
        return lorica_request_fail(request, LORICA_EINVAL, "order", NULL,
                                   "order must be asc or desc");
    return 0;
}

/* The chain is asked for one adapter's records by a parameter, its history by the path. */
static int ask(struct lorica_request *request, struct asked *asked) {
    struct lorica_audit_query *query = &asked->query;
    asked->limit = LORICA_API_LIST_DEFAULT;
    int rc = lorica_request_query_number(request, "limit", 1, LORICA_API_LIST_MAX, &asked->limit);
    if (rc == 0)
        rc = ask_seq(request, "after", &query->after);
    if (rc == 0)
        rc = ask_seq(request, "before", &query->before);
    if (rc == 0)
        rc = ask_order(request, asked);
    if (rc == 0)
        rc = lorica_request_query_text(request, "actor", asked->actor, sizeof(asked->actor),
                                       &query->actor);
    if (rc == 0)
        rc = ask_kind(request, asked);
    if (rc == 0)
        rc = ask_time(request, "since", &query->since_ms);
    return rc == 0 ? ask_time(request, "until", &query->until_ms) : rc;
}

/* Writes a page. Where the bound of one request is met first, the page says where to go on, however
 * few records it holds. */
static int list(struct lorica_request *request, struct asked *asked) {
    struct lorica_error err = {0};
    struct page page = {.key = &request->key, .limit = asked->limit};
    struct lorica_audit_query *query = &asked->query;
    uint64_t *cursor = query->newest_first ? &query->before : &query->after;
    uint64_t begin;
    int rc, batches = 0;
    page.w = lorica_request_json(request, 200);
    lorica_api_open_list(&page.w);
    do {
        begin = *cursor;
        rc = lorica_registry_audit_find(request->server->parts.registry, query, BATCH, write_record,
                                        &page, cursor, &err);
        if (rc == 0 && *cursor != begin && ++batches == SCAN_MAX / BATCH)
            page.more = true;
    } while (rc == 0 && *cursor != begin && !page.more);
    lorica_api_close_page(&page.w, page.more, query->newest_first ? "before" : "after", *cursor);
    if (rc != 0 && !page.more)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    return 0;
}

int lorica_handle_audit(struct lorica_request *request) {
    struct asked asked = {.limit = 0};
    int rc = ask(request, &asked);
    if (rc == 0)
        rc = lorica_request_query_text(request, "adapter", asked.name, sizeof(asked.name),
                                       &asked.query.name);
    return rc == 0 ? list(request, &asked) : rc;
}

int lorica_handle_history(struct lorica_request *request) {
    struct asked asked = {.query = {.name = request->match.params[0]}};
    int rc = lorica_handler_known_adapter(request);
    if (rc == 0)
        rc = ask(request, &asked);
    return rc == 0 ? list(request, &asked) : rc;
}

/* Names no adapter: any key of the role may take one. */
int lorica_handle_checkpoint(struct lorica_request *request) {
    struct lorica_error err = {0};
    struct lorica_checkpoint checkpoint;
    int rc = lorica_checkpoint_take(request->server->parts.registry, &checkpoint, &err);
    if (rc == 0)
        rc = lorica_checkpoint_sign(&request->response.body, &checkpoint,
                                    request->server->parts.receipt_key, &err);
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    request->response.status = 200;
    return 0;
}
