/* SPDX-License-Identifier: MIT
 * A list in order of use under one mutex: a cache holds tens of adapters, seldom hundreds, and is
 * asked once per request, so that a walk costs less than a table's upkeep. */
#include <pthread.h>
#include <stdlib.h>

#include "runtime/adapter.h"

struct entry {
    struct lorica_adapter *adapter;
    struct entry *next; /* used less recently */
};

/* A digest that somebody is loading. */
struct claim {
    struct lorica_digest digest;
    struct claim *next;
};

struct lorica_adapter_cache {
    pthread_mutex_t mutex;
    pthread_cond_t settled;
    struct claim *claims;
    struct entry *first; /* used last */
    size_t max_bytes, bytes, count;
};

int lorica_adapter_cache_create(size_t max_bytes, struct lorica_adapter_cache **ret) {
    struct lorica_adapter_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return LORICA_ENOMEM;
    if (pthread_mutex_init(&cache->mutex, NULL) != 0) {
        free(cache);
        return LORICA_ENOMEM;
    }
    (void)pthread_cond_init(&cache->settled, NULL);
    cache->max_bytes = max_bytes;
    *ret = cache;
    return 0;
}

void lorica_adapter_cache_destroy(struct lorica_adapter_cache *cache) {
    if (!cache)
        return;
    while (cache->first) {
        struct entry *entry = cache->first;
        cache->first = entry->next;
        (void)lorica_adapter_unref(entry->adapter);
        free(entry);
    }
    (void)pthread_cond_destroy(&cache->settled);
    (void)pthread_mutex_destroy(&cache->mutex);
    free(cache);
}

/* Moves the entry of a digest to the front; NULL when there is none. Under the mutex. */
static struct entry *touch(struct lorica_adapter_cache *cache, const struct lorica_digest *digest) {
    for (struct entry **at = &cache->first; *at; at = &(*at)->next) {
        struct entry *entry = *at;
        if (!lorica_digest_equal(&entry->adapter->digest, digest))
            continue;
        *at = entry->next;
        entry->next = cache->first;
        cache->first = entry;
        return entry;
    }
    return NULL;
}

struct lorica_adapter *lorica_adapter_cache_get(struct lorica_adapter_cache *cache,
                                                const struct lorica_digest *digest) {
    (void)pthread_mutex_lock(&cache->mutex);
    const struct entry *entry = touch(cache, digest);
    struct lorica_adapter *adapter = entry ? lorica_adapter_ref(entry->adapter) : NULL;
    (void)pthread_mutex_unlock(&cache->mutex);
    return adapter;
}

/* Drops the last entries until the rest fits. Under the mutex. */
static void shrink(struct lorica_adapter_cache *cache) {
    while (cache->bytes > cache->max_bytes && cache->first) {
        struct entry **at = &cache->first;
        while ((*at)->next)
            at = &(*at)->next;
        struct entry *last = *at;
        *at = NULL;
        cache->bytes -= last->adapter->nbytes;
        cache->count--;
        (void)lorica_adapter_unref(last->adapter);
        free(last);
    }
}

/* Where the list ends. Under the mutex. */
static struct entry **end_of(struct lorica_adapter_cache *cache) {
    struct entry **at = &cache->first;
    while (*at)
        at = &(*at)->next;
    return at;
}

/* Enters an adapter at a place of the list. Without memory for an entry it is simply not kept.
 * Under the mutex. */
static void enter(struct lorica_adapter_cache *cache, struct entry **at,
                  struct lorica_adapter *adapter) {
    struct entry *entry = malloc(sizeof(*entry));
    if (!entry)
        return;
    *entry = (struct entry){.adapter = lorica_adapter_ref(adapter), .next = *at};
    *at = entry;
    cache->bytes += adapter->nbytes;
    cache->count++;
}

void lorica_adapter_cache_put(struct lorica_adapter_cache *cache, struct lorica_adapter *adapter) {
    if (adapter->nbytes > cache->max_bytes)
        return; /* it would push all others out, and could not stay itself */
    (void)pthread_mutex_lock(&cache->mutex);
    if (!touch(cache, &adapter->digest)) {
        enter(cache, &cache->first, adapter);
        shrink(cache);
    }
    (void)pthread_mutex_unlock(&cache->mutex);
}

void lorica_adapter_cache_offer(struct lorica_adapter_cache *cache,
                                struct lorica_adapter *adapter) {
    (void)pthread_mutex_lock(&cache->mutex);
    if (adapter->nbytes <= cache->max_bytes - cache->bytes && !touch(cache, &adapter->digest))
        enter(cache, end_of(cache), adapter);
    (void)pthread_mutex_unlock(&cache->mutex);
}

/* Where the claim of a digest is linked, or where the list ends. Under the mutex. */
static struct claim **find_claim(struct lorica_adapter_cache *cache,
                                 const struct lorica_digest *digest) {
    struct claim **at = &cache->claims;
    while (*at && !lorica_digest_equal(&(*at)->digest, digest))
        at = &(*at)->next;
    return at;
}

struct lorica_adapter *lorica_adapter_cache_claim(struct lorica_adapter_cache *cache,
                                                  const struct lorica_digest *digest) {
    const struct entry *entry;
    (void)pthread_mutex_lock(&cache->mutex);
    while (!(entry = touch(cache, digest)) && *find_claim(cache, digest))
        (void)pthread_cond_wait(&cache->settled, &cache->mutex);
    struct lorica_adapter *adapter = entry ? lorica_adapter_ref(entry->adapter) : NULL;
    /* Without memory for a claim others may load it too. */
    struct claim *claim = entry ? NULL : malloc(sizeof(*claim));
    if (claim) {
        *claim = (struct claim){.digest = *digest, .next = cache->claims};
        cache->claims = claim;
    }
    (void)pthread_mutex_unlock(&cache->mutex);
    return adapter;
}

void lorica_adapter_cache_settle(struct lorica_adapter_cache *cache,
                                 const struct lorica_digest *digest,
                                 struct lorica_adapter *adapter) {
    if (adapter)
        lorica_adapter_cache_put(cache, adapter);
    (void)pthread_mutex_lock(&cache->mutex);
    struct claim **at = find_claim(cache, digest), *claim = *at;
    if (claim)
        *at = claim->next;
    (void)pthread_cond_broadcast(&cache->settled);
    (void)pthread_mutex_unlock(&cache->mutex);
    free(claim);
}

void lorica_adapter_cache_stats(struct lorica_adapter_cache *cache, size_t *ret_count,
                                size_t *ret_bytes) {
    (void)pthread_mutex_lock(&cache->mutex);
    *ret_count = cache->count;
    *ret_bytes = cache->bytes;
    (void)pthread_mutex_unlock(&cache->mutex);
}
