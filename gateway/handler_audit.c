/* SPDX-License-Identifier: MIT
 * What was done, by whom: the whole audit chain, or one adapter's part of it. */
#include <string.h>

#include "gateway/api.h"
#include "gateway/handlers.h"
#include "gateway/server.h"

/* A page being written. */
struct page {
    struct lorica_jsonw w;
    const struct lorica_key *key;
    long long limit, written;
    uint64_t last;
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
    page->last = record->seq;
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

#define BATCH 1000 /* records read in one transaction */

static int list(struct lorica_request *request, const char *name) {
    struct lorica_error err = {0};
    long long after = 0;
    struct page page = {.key = &request->key, .limit = LORICA_API_LIST_DEFAULT};
    int rc = lorica_request_query_number(request, "limit", 1, LORICA_API_LIST_MAX, &page.limit);
    if (rc == 0)
        rc = lorica_request_query_number(request, "after", 0, (long long)1 << 53, &after);
    if (rc != 0)
        return rc;
    page.w = lorica_request_json(request, 200);
    lorica_api_open_list(&page.w);
    page.last = (uint64_t)after;
    uint64_t begin;
    do {
        begin = page.last;
        rc = lorica_registry_audit(request->server->parts.registry, name, begin, BATCH,
                                   write_record, &page, &err);
    } while (rc == 0 && page.last != begin);
    lorica_api_close_list(&page.w, page.more);
    if (rc != 0 && !page.more)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    return 0;
}

int lorica_handle_audit(struct lorica_request *request) { return list(request, NULL); }

int lorica_handle_history(struct lorica_request *request) {
    struct lorica_error err = {0};
    uint64_t latest = 0;
    const char *name = request->match.params[0];
    const int rc = lorica_name_valid(name) ? lorica_registry_latest(request->server->parts.registry,
                                                                    name, &latest, &err)
                                           : 0;
    if (rc != 0)
        return lorica_request_fail(request, rc, NULL, NULL, "%s", err.text);
    if (latest == 0)
        return lorica_request_fail(request, LORICA_ENOTFOUND, NULL, NULL,
                                   "there is no adapter \"%s\"", name);
    return list(request, name);
}
