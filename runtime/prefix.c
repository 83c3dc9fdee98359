/* SPDX-License-Identifier: MIT */
#include "runtime/prefix.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define NONE UINT32_MAX
#define TOKENS LORICA_KV_PAGE

/* A key that is in use, once. */
struct lorica_prefix_space {
    struct lorica_prefix_key key;
    uint32_t refs; /* nodes and tables */
    struct lorica_prefix_space *next;
};

/* What a page holds, when it is shared. Its number is that of the page. */
struct lorica_prefix_node {
    struct lorica_prefix_space *space; /* NULL: not shared */
    uint64_t hash;                     /* of all up to here */
    uint32_t parent;                   /* the page before, or NONE */
    uint32_t refs;                     /* tables that have it */
    uint32_t older, newer;             /* in the idle list, while refs is 0 */
    uint32_t next;                     /* in its bucket */
    int32_t tokens[TOKENS];
};

int lorica_prefix_init(struct lorica_prefix *prefix, struct lorica_kv *kv, uint32_t max_idle) {
    uint32_t buckets = 16;
    while (buckets < kv->pages)
        buckets *= 2;
    struct lorica_prefix p = {.kv = kv,
                              .nodes = calloc(kv->pages, sizeof(*p.nodes)),
                              .buckets = malloc(buckets * sizeof(*p.buckets)),
                              .bucket_mask = buckets - 1,
                              .hash_mask = UINT64_MAX,
                              .oldest = NONE,
                              .newest = NONE,
                              .max_idle = max_idle};
    /* Unforeseeable, so that nobody can choose texts that share a bucket; without it the cache is
     * still right. */
    if (getrandom(&p.seed, sizeof(p.seed), GRND_NONBLOCK) != (ssize_t)sizeof(p.seed))
        p.seed = (uintptr_t)p.nodes;
    if (!p.nodes || !p.buckets) {
        free(p.nodes);
        free(p.buckets);
        return LORICA_ENOMEM;
    }
    memset(p.buckets, 0xff, buckets * sizeof(*p.buckets));
    *prefix = p;
    return 0;
}

static void space_unref(struct lorica_prefix *prefix, struct lorica_prefix_space *space) {
    if (--space->refs > 0)
        return;
    struct lorica_prefix_space **at = &prefix->spaces;
    while (*at != space)
        at = &(*at)->next;
    *at = space->next;
    free(space);
}

static bool key_equal(const struct lorica_prefix_key *a, const struct lorica_prefix_key *b) {
    return a->adapted == b->adapted && lorica_digest_equal(&a->base, &b->base) &&
           lorica_digest_equal(&a->adapter, &b->adapter);
}

void lorica_prefix_bind(struct lorica_prefix *prefix, struct lorica_page_table *table,
                        const struct lorica_prefix_key *key) {
    if (table->space || prefix->max_idle == 0)
        return;
    struct lorica_prefix_space *space = prefix->spaces;
    while (space && !key_equal(&space->key, key))
        space = space->next;
    if (!space) {
        space = malloc(sizeof(*space));
        if (!space)
            return;
        *space = (struct lorica_prefix_space){.key = *key, .next = prefix->spaces};
        prefix->spaces = space;
    }
    space->refs++;
    table->space = space;
}

static uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ (hash >> 29);
}

static uint64_t hash_page(const struct lorica_prefix *prefix,
                          const struct lorica_prefix_space *space, uint32_t parent,
                          const int32_t *tokens) {
    uint64_t hash = prefix->seed;
    if (parent != NONE)
        hash = prefix->nodes[parent].hash;
    else
        for (size_t i = 0; i < sizeof(space->key.adapter.bytes); i += sizeof(uint64_t)) {
            uint64_t word;
            memcpy(&word, space->key.adapter.bytes + i, sizeof(word));
            hash = mix(hash, word);
        }
    for (int i = 0; i < TOKENS; i++)
        hash = mix(hash, (uint32_t)tokens[i]);
    return hash & prefix->hash_mask;
}

/* The bucket that a hash belongs to. */
static uint32_t *bucket_of(const struct lorica_prefix *prefix, uint64_t hash) {
    return &prefix->buckets[(uint32_t)(hash >> 32) & prefix->bucket_mask];
}

/* The shared page that follows `parent` with these tokens, or NONE. */
static uint32_t find(const struct lorica_prefix *prefix, const struct lorica_prefix_space *space,
                     uint32_t parent, const int32_t *tokens, uint64_t hash) {
    uint32_t page = *bucket_of(prefix, hash);
    for (; page != NONE; page = prefix->nodes[page].next) {
        const struct lorica_prefix_node *node = &prefix->nodes[page];
        if (node->hash == hash && node->space == space && node->parent == parent &&
            memcmp(node->tokens, tokens, sizeof(node->tokens)) == 0)
            break;
    }
    return page;
}

/* The idle list. */

static void idle_remove(struct lorica_prefix *prefix, uint32_t page) {
    const struct lorica_prefix_node *node = &prefix->nodes[page];
    *(node->older == NONE ? &prefix->oldest : &prefix->nodes[node->older].newer) = node->newer;
    *(node->newer == NONE ? &prefix->newest : &prefix->nodes[node->newer].older) = node->older;
    prefix->idle--;
}

static void idle_append(struct lorica_prefix *prefix, uint32_t page) {
    struct lorica_prefix_node *node = &prefix->nodes[page];
    node->older = prefix->newest;
    node->newer = NONE;
    *(prefix->newest == NONE ? &prefix->oldest : &prefix->nodes[prefix->newest].newer) = page;
    prefix->newest = page;
    prefix->idle++;
}

/* Forgets the page that was idle longest and gives it to the free ones. */
static void evict(struct lorica_prefix *prefix) {
    const uint32_t page = prefix->oldest;
    struct lorica_prefix_node *node = &prefix->nodes[page];
    uint32_t *at = bucket_of(prefix, node->hash);
    idle_remove(prefix, page);
    while (*at != page)
        at = &prefix->nodes[*at].next;
    *at = node->next;
    space_unref(prefix, node->space);
    node->space = NULL;
    lorica_kv_give(prefix->kv, &page, 1);
    prefix->evicted++;
}

static void node_ref(struct lorica_prefix *prefix, uint32_t page) {
    if (prefix->nodes[page].refs++ == 0)
        idle_remove(prefix, page);
}

uint32_t lorica_prefix_available(const struct lorica_prefix *prefix) {
    return prefix->kv->free_count + prefix->idle;
}

void lorica_prefix_finish(struct lorica_prefix *prefix) {
    while (prefix->idle > 0)
        evict(prefix);
    free(prefix->nodes);
    free(prefix->buckets);
    *prefix = (struct lorica_prefix){0};
}

/* Tables. */

int lorica_page_table_init(struct lorica_page_table *table, uint32_t capacity) {
    uint32_t *pages = malloc(capacity * sizeof(*pages));
    if (!pages)
        return LORICA_ENOMEM;
    *table = (struct lorica_page_table){.pages = pages, .capacity = capacity};
    return 0;
}

void lorica_page_table_finish(struct lorica_page_table *table) {
    free(table->pages);
    *table = (struct lorica_page_table){0};
}

static uint32_t last_shared(const struct lorica_page_table *table) {
    return table->shared > 0 ? table->pages[table->shared - 1] : NONE;
}

bool lorica_page_table_alike(const struct lorica_page_table *a, const struct lorica_page_table *b) {
    return a->space && a->space == b->space && a->shared == b->shared &&
           last_shared(a) == last_shared(b);
}

/* Puts a shared page behind those that the table shares, in place of its own. */
static void take_shared(struct lorica_prefix *prefix, struct lorica_page_table *table,
                        uint32_t page) {
    node_ref(prefix, page);
    if (table->shared < table->count)
        lorica_kv_give(prefix->kv, &table->pages[table->shared], 1);
    else
        table->count++;
    table->pages[table->shared++] = page;
}

uint32_t lorica_prefix_adopt(struct lorica_prefix *prefix, struct lorica_page_table *table,
                             const int32_t *tokens, uint32_t limit) {
    const uint32_t before = table->shared;
    limit = limit < table->capacity ? limit : table->capacity;
    while (table->space && table->shared < limit) {
        const int32_t *next = tokens + (size_t)table->shared * TOKENS;
        const uint32_t parent = last_shared(table);
        const uint32_t page =
            find(prefix, table->space, parent, next, hash_page(prefix, table->space, parent, next));
        if (page == NONE)
            break;
        take_shared(prefix, table, page);
    }
    return table->shared - before;
}

void lorica_prefix_publish(struct lorica_prefix *prefix, struct lorica_page_table *table,
                           const int32_t *tokens, uint32_t filled) {
    while (table->space && (table->shared + 1) * TOKENS <= filled) {
        const int32_t *next = tokens + (size_t)table->shared * TOKENS;
        const uint32_t parent = last_shared(table), own = table->pages[table->shared];
        const uint64_t hash = hash_page(prefix, table->space, parent, next);
        const uint32_t page = find(prefix, table->space, parent, next, hash);
        if (page != NONE) {
            take_shared(prefix, table, page);
            continue;
        }
        uint32_t *bucket = bucket_of(prefix, hash);
        struct lorica_prefix_node *node = &prefix->nodes[own];
        *node = (struct lorica_prefix_node){
            .space = table->space, .hash = hash, .parent = parent, .refs = 1, .next = *bucket};
        memcpy(node->tokens, next, sizeof(node->tokens));
        *bucket = own;
        node->space->refs++;
        table->shared++;
    }
}

int lorica_prefix_reserve(struct lorica_prefix *prefix, struct lorica_page_table *table,
                          uint32_t count) {
    if (count <= table->count)
        return 0;
    const uint32_t more = count - table->count;
    if (more > lorica_prefix_available(prefix))
        return LORICA_EBUSY;
    while (prefix->kv->free_count < more)
        evict(prefix);
    const int rc = lorica_kv_take(prefix->kv, table->pages + table->count, more);
    if (!rc)
        table->count = count;
    return rc;
}

void lorica_prefix_release(struct lorica_prefix *prefix, struct lorica_page_table *table) {
    lorica_kv_give(prefix->kv, table->pages + table->shared, table->count - table->shared);
    for (uint32_t i = table->shared; i-- > 0;)
        if (--prefix->nodes[table->pages[i]].refs == 0)
            idle_append(prefix, table->pages[i]);
    while (prefix->idle > prefix->max_idle)
        evict(prefix);
    if (table->space)
        space_unref(prefix, table->space);
    table->space = NULL;
    table->count = table->shared = 0;
}
