/* SPDX-License-Identifier: MIT
 * The store on LMDB.
 *
 * How LMDB is used, and why. One process has the environment (the caller's flock), so the map size
 * is set once at open and never grows, and the faults that versions 0.9.26 to 0.9.31 have when
 * several processes share the lock file cannot arise. MDB_NOTLS ties a reader's slot to its
 * transaction instead of its thread. Neither NOSYNC nor WRITEMAP: a commit is durable, and a full
 * disk is an error code instead of SIGBUS. No duplicate-sorted tables and no transaction near the
 * limit of dirty pages, so that nothing is ever spilled (the spill lists leak or race up to
 * 0.9.33). The data file is never opened a second time, since closing it would drop LMDB's own
 * locks; what must be known of it is asked through LMDB's descriptor. */
#include "registry/store.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <lmdb.h>

#include "registry/record.h"

#define MAP_LEAST (UINT64_C(64) << 30)
#define MAP_SMALLEST (UINT64_C(64) << 20)
#define READERS 512
#define DISK_FULL_BELOW (UINT64_C(256) << 10)
/* LMDB's own table of free pages. */
#define FREE_TABLE ((MDB_dbi)0)

static const char schema_key[] = "schema";

struct lorica_store {
    MDB_env *env;
    MDB_dbi tables[LORICA_TABLE_COUNT];
    bool read_only;
    _Atomic bool failed; /* a write met a fault: see lorica_store_failed */
    char *dir;           /* owned; for sentences */
};

/* A transaction is LMDB's own and the store it belongs to. */
struct lorica_txn {
    MDB_txn *txn;
    struct lorica_store *store;
    bool write;
};

struct lorica_cursor {
    MDB_cursor *cursor;
    struct lorica_txn *txn; /* borrowed: it outlives the cursor */
};

static const char *const table_names[LORICA_TABLE_COUNT] = {
#define XX(name, text) [LORICA_TABLE_##name] = text,
    LORICA_TABLE_MAP(XX)
#undef XX
};

/* Where this thread is. LMDB trusts the pages of the file: reading damaged ones may be a fault. */
static _Thread_local struct {
    const char *dir; /* borrowed from the store */
    unsigned depth;
    bool asserted; /* a check of LMDB's own failed: it aborts next */
} inside;

static void enter(const struct lorica_store *store) {
    inside.dir = store->dir;
    inside.depth++;
}

static void leave(void) {
    if (inside.depth > 0 && --inside.depth == 0)
        inside.dir = NULL;
}

static void on_assert(MDB_env *env, const char *text) { inside.asserted = true; }

/* Whether an instruction is of the library that LMDB is in. */
static bool is_lmdb(const void *code) {
    struct dl_find_object found, own;
    return _dl_find_object((void *)(uintptr_t)code, &found) == 0 &&
           _dl_find_object((void *)(uintptr_t)mdb_env_open, &own) == 0 &&
           found.dlfo_map_start == own.dlfo_map_start;
}

const char *lorica_store_inside(const void *code, bool *ret_store) {
    *ret_store = inside.asserted || (inside.dir && code && is_lmdb(code));
    return inside.dir;
}

/* LMDB reports a write that was cut short as EIO, which is what a full disk looks like. */
static bool disk_is_full(const struct lorica_store *store) {
    struct statvfs fs;
    struct stat st;
    struct rlimit limit;
    int fd = -1;
    if (statvfs(store->dir, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < DISK_FULL_BELOW)
        return true;
    return mdb_env_get_fd(store->env, &fd) == 0 && fstat(fd, &st) == 0 &&
           getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
           (uint64_t)st.st_size + DISK_FULL_BELOW > limit.rlim_cur;
}

/* The one place where LMDB's codes become lorica's. */
static int store_fail(const struct lorica_store *store, int rc, struct lorica_error *err) {
    if (rc == EIO && disk_is_full(store))
        rc = ENOSPC;
    switch (rc) {
    case 0:
        return 0;
    case MDB_NOTFOUND:
        return LORICA_ENOTFOUND;
    case MDB_MAP_FULL:
        return lorica_fail(err, LORICA_ENOSPC,
                           "%s: the store has reached the largest size that it could be mapped "
                           "with; nothing was changed; delete versions and sweep them, or lift the "
                           "limit of address space (ulimit -v) and restart",
                           store->dir);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return lorica_fail(err, LORICA_ENOSPC,
                           "%s: no space left on the disk; nothing was changed; free some and try "
                           "again",
                           store->dir);
    case MDB_PANIC:
        return lorica_fail(err, LORICA_EIO,
                           "%s: an earlier write to the disk failed and the store has stopped; "
                           "check the disk, then restart",
                           store->dir);
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_INCOMPATIBLE:
    case MDB_BAD_VALSIZE:
    case MDB_BAD_TXN: /* what a transaction says after it has met damage */
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: the store is damaged (%s); restore it from a backup", store->dir,
                           mdb_strerror(rc));
    case MDB_VERSION_MISMATCH:
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "%s: the store was written by another version of LMDB than %s",
                           store->dir, mdb_version(NULL, NULL, NULL));
    case MDB_READERS_FULL:
        return lorica_fail(err, LORICA_EBUSY, "%s: more than %d readers at once; try again",
                           store->dir, READERS);
    case ENOMEM:
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", store->dir);
    case ENOENT:
        return lorica_fail(err, LORICA_ENOTFOUND, "%s: there is no registry here", store->dir);
    case EACCES:
    case EROFS:
    case EPERM:
        return lorica_fail(err, LORICA_EIO, "%s: %s; check owner and permissions", store->dir,
                           mdb_strerror(rc));
    default:
        /* LMDB's remaining codes say that it was used wrongly; positive ones are the system's. */
        return lorica_fail(err, rc < 0 ? LORICA_EBUG : LORICA_EIO, "%s: %s", store->dir,
                           mdb_strerror(rc));
    }
}

/* The same within a transaction: what ends all writing is remembered. */
static int txn_fail(const struct lorica_txn *txn, int rc, struct lorica_error *err) {
    switch (rc) {
    case MDB_PANIC:
        txn->store->failed = true;
        break;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_BAD_TXN:
        if (txn->write)
            txn->store->failed = true;
        break;
    default:
        break;
    }
    return store_fail(txn->store, rc, err);
}

bool lorica_store_failed(const struct lorica_store *store) { return store->failed; }

/* Largest map to try. As large as the file system, so that the disk is full before the map is; half
 * of a limited address space leaves room for the rest of the process. */
static uint64_t map_limit(const char *dir, uint64_t wanted) {
    struct rlimit limit;
    struct statvfs fs;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (wanted == 0) {
        wanted = MAP_LEAST;
        if (statvfs(dir, &fs) == 0 && (uint64_t)fs.f_blocks * fs.f_frsize > wanted)
            wanted = (uint64_t)fs.f_blocks * fs.f_frsize;
        if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
            limit.rlim_cur / 2 < wanted)
            wanted = limit.rlim_cur / 2;
    }
    if (wanted > SIZE_MAX / 2)
        wanted = SIZE_MAX / 2;
    return wanted / page * page;
}

static int env_open_sized(struct lorica_store *store, uint64_t map_bytes) {
    unsigned flags = MDB_NOTLS | (store->read_only ? MDB_RDONLY : 0);
    MDB_env *env = NULL;
    int rc = mdb_env_create(&env);
    if (rc)
        return rc;
    rc = mdb_env_set_mapsize(env, (size_t)map_bytes);
    if (!rc)
        rc = mdb_env_set_maxreaders(env, READERS);
    if (!rc)
        rc = mdb_env_set_maxdbs(env, LORICA_TABLE_COUNT + 8);
    if (!rc)
        rc = mdb_env_open(env, store->dir, flags, 0600);
    if (rc) {
        mdb_env_close(env);
        return rc;
    }
    store->env = env;
    return 0;
}

static int env_open(struct lorica_store *store, uint64_t wanted, struct lorica_error *err) {
    uint64_t map_bytes = map_limit(store->dir, wanted);
    int rc = env_open_sized(store, map_bytes);
    while (rc == ENOMEM && wanted == 0 && map_bytes / 2 >= MAP_SMALLEST) {
        map_bytes = map_limit(store->dir, map_bytes / 2);
        rc = env_open_sized(store, map_bytes);
    }
    if (!rc)
        rc = mdb_env_set_assert(store->env, on_assert);
    if (!rc) {
        int dead;
        rc = mdb_reader_check(store->env, &dead);
    }
    return rc ? store_fail(store, rc, err) : 0;
}

/* A file that ends too early would be SIGBUS on the first touch behind its end. Made as long as the
 * store says it is, the missing part reads as zeroes, which the walk then finds. */
static int env_check_length(struct lorica_store *store, bool *ret_short, struct lorica_error *err) {
    MDB_envinfo info;
    MDB_stat stat;
    struct stat st;
    int fd = -1;
    int rc = mdb_env_info(store->env, &info);
    if (!rc)
        rc = mdb_env_stat(store->env, &stat);
    if (!rc)
        rc = mdb_env_get_fd(store->env, &fd);
    if (!rc && fstat(fd, &st) != 0)
        rc = errno;
    if (rc)
        return store_fail(store, rc, err);
    uint64_t expected = ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
    bool is_short = (uint64_t)st.st_size < expected;
    if (is_short && store->read_only)
        return lorica_fail(err, LORICA_EFORMAT,
                           "%s: the store is damaged: its file ends after %lld of %llu bytes; "
                           "restore it from a backup",
                           store->dir, (long long)st.st_size, (unsigned long long)expected);
    if (is_short && ftruncate(fd, (off_t)expected) != 0)
        return store_fail(store, errno, err);
    if (ret_short)
        *ret_short = is_short;
    return 0;
}

/* The number of the layout, 0 for a new store; refuses one that this program does not know. Changes
 * nothing, so that a newer store stays as it is. */
static int check_schema(struct lorica_store *store, MDB_txn *txn, uint64_t *ret_schema,
                        struct lorica_error *err) {
    MDB_val key = {.mv_size = sizeof(schema_key) - 1, .mv_data = (void *)schema_key}, value;
    MDB_dbi meta;
    int rc = mdb_dbi_open(txn, table_names[LORICA_TABLE_META], 0, &meta);
    if (rc == MDB_NOTFOUND && !store->read_only) {
        *ret_schema = 0;
        return 0;
    }
    if (!rc)
        rc = mdb_get(txn, meta, &key, &value);
    if (rc == MDB_NOTFOUND)
        rc = MDB_INVALID;
    if (rc)
        return store_fail(store, rc, err);
    rc = lorica_record_decode_number(value.mv_data, value.mv_size, ret_schema);
    if (rc == LORICA_EUNSUPPORTED || (!rc && *ret_schema > LORICA_STORE_SCHEMA))
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "%s: this registry was written by a newer lorica than %s; use that one",
                           store->dir, LORICA_VERSION);
    if (rc || *ret_schema == 0)
        return store_fail(store, MDB_INVALID, err);
    if (store->read_only && *ret_schema < LORICA_STORE_SCHEMA)
        return lorica_fail(
            err, LORICA_EUNSUPPORTED,
            "%s: this registry was written by an older lorica; `lorica serve` brings "
            "it up to date when it starts",
            store->dir);
    return 0;
}

static int write_schema(struct lorica_store *store, MDB_txn *txn, struct lorica_error *err) {
    struct lorica_record record;
    int rc = lorica_record_encode_number(LORICA_STORE_SCHEMA, &record);
    if (rc)
        return lorica_fail(err, rc, "%s: the layout number cannot be written", store->dir);
    MDB_val key = {.mv_size = sizeof(schema_key) - 1, .mv_data = (void *)schema_key};
    MDB_val value = {.mv_size = record.len, .mv_data = record.bytes};
    rc = mdb_put(txn, store->tables[LORICA_TABLE_META], &key, &value, 0);
    return rc ? store_fail(store, rc, err) : 0;
}

/* How many tables a store of each layout has; 0 is one that is being made. */
static const int tables_of_schema[] = {0, LORICA_TABLE_STAGED + 1, LORICA_TABLE_APPROVAL + 1,
                                       LORICA_TABLE_SIGNATURE + 1, LORICA_TABLE_COUNT};
_Static_assert(sizeof(tables_of_schema) / sizeof(tables_of_schema[0]) == LORICA_STORE_SCHEMA + 1,
               "every layout says how many tables it has");

/* Opens all tables; makes those that a new store, or one of an older layout, has not. */
static int open_tables(struct lorica_store *store, MDB_txn *txn, struct lorica_error *err) {
    uint64_t schema = 0;
    int rc = check_schema(store, txn, &schema, err);
    if (rc)
        return rc;
    const bool current = schema == LORICA_STORE_SCHEMA;
    for (int i = 0; i < LORICA_TABLE_COUNT; i++) {
        const bool make = i >= tables_of_schema[schema];
        rc = mdb_dbi_open(txn, table_names[i], make ? MDB_CREATE : 0, &store->tables[i]);
        if (rc)
            return store_fail(store, rc == MDB_NOTFOUND ? MDB_INVALID : rc, err);
    }
    return current ? 0 : write_schema(store, txn, err);
}

int lorica_store_open(const char *dir, uint64_t map_bytes, bool read_only,
                      struct lorica_store **ret, bool *ret_short, struct lorica_error *err) {
    struct lorica_store *store = calloc(1, sizeof(*store));
    MDB_txn *txn = NULL;
    int rc;
    if (store)
        store->dir = strdup(dir);
    if (!store || !store->dir) {
        free(store);
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", dir);
    }
    store->read_only = read_only;
    enter(store);
    rc = env_open(store, map_bytes, err);
    if (!rc)
        rc = env_check_length(store, ret_short, err);
    if (!rc) {
        rc = mdb_txn_begin(store->env, NULL, read_only ? MDB_RDONLY : 0, &txn);
        if (rc)
            rc = store_fail(store, rc, err);
    }
    if (!rc)
        rc = open_tables(store, txn, err);
    if (!rc) {
        rc = mdb_txn_commit(txn);
        txn = NULL;
        if (rc)
            rc = store_fail(store, rc, err);
    }
    if (rc && txn)
        mdb_txn_abort(txn);
    leave();
    if (rc) {
        lorica_store_close(store);
        return rc;
    }
    *ret = store;
    return 0;
}

void lorica_store_close(struct lorica_store *store) {
    if (!store)
        return;
    if (store->env)
        mdb_env_close(store->env);
    free(store->dir);
    free(store);
}

/* A reader notes the number of the newest commit and then copies the roots of the tables from that
 * commit's page. The two commits' pages take turns: if the reader is held up in between while one
 * commit ends and the next begins to write its page, the copy is of a state that is not durable
 * yet, or half of each, and a later read may see an older one. Then the read begins anew. */
static int settle(struct lorica_store *store, MDB_txn *txn) {
    MDB_envinfo info;
    for (;;) {
        int rc = mdb_env_info(store->env, &info);
        if (rc || info.me_last_txnid < mdb_txn_id(txn) + 2)
            return rc;
        mdb_txn_reset(txn);
        rc = mdb_txn_renew(txn);
        if (rc)
            return rc;
    }
}

int lorica_store_begin(struct lorica_store *store, bool write, struct lorica_txn **ret,
                       struct lorica_error *err) {
    if (write && store->read_only)
        return lorica_fail(err, LORICA_EINVAL, "%s: opened for reading only", store->dir);
    struct lorica_txn *txn = malloc(sizeof(*txn));
    if (!txn)
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", store->dir);
    *txn = (struct lorica_txn){.store = store, .write = write};
    enter(store);
    int rc = mdb_txn_begin(store->env, NULL, write ? 0 : MDB_RDONLY, &txn->txn);
    if (!rc && !write && (rc = settle(store, txn->txn)))
        mdb_txn_abort(txn->txn);
    if (rc) {
        rc = txn_fail(txn, rc, err);
        leave();
        free(txn);
        return rc;
    }
    *ret = txn;
    return 0;
}

/* Whether LMDB has stopped: it says so only to the next who wants to write. */
static void notice_panic(struct lorica_store *store) {
    MDB_txn *txn = NULL;
    const int rc = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (rc == MDB_PANIC)
        store->failed = true;
    if (rc == 0)
        mdb_txn_abort(txn);
}

int lorica_store_commit(struct lorica_txn *txn, struct lorica_error *err) {
    const bool write = txn->write;
    struct lorica_store *store = txn->store;
    int rc = mdb_txn_commit(txn->txn);
    if (rc)
        rc = txn_fail(txn, rc, err);
    leave();
    free(txn);
    if (rc && write)
        notice_panic(store);
    return rc;
}

void lorica_store_abort(struct lorica_txn *txn) {
    if (!txn)
        return;
    mdb_txn_abort(txn->txn);
    leave();
    free(txn);
}

int lorica_store_end(struct lorica_txn *txn, int rc, struct lorica_error *err) {
    if (!rc)
        return lorica_store_commit(txn, err);
    lorica_store_abort(txn);
    return rc;
}

static MDB_val to_val(struct lorica_slice slice) {
    return (MDB_val){.mv_size = slice.len, .mv_data = (void *)slice.data};
}

static struct lorica_slice to_slice(MDB_val val) {
    return (struct lorica_slice){.data = val.mv_data, .len = val.mv_size};
}

int lorica_store_get(struct lorica_txn *txn, enum lorica_table table, struct lorica_slice key,
                     struct lorica_slice *ret, struct lorica_error *err) {
    MDB_val k = to_val(key), v;
    int rc = mdb_get(txn->txn, txn->store->tables[table], &k, &v);
    if (rc)
        return txn_fail(txn, rc, err);
    *ret = to_slice(v);
    return 0;
}

int lorica_store_put(struct lorica_txn *txn, enum lorica_table table, struct lorica_slice key,
                     struct lorica_slice value, struct lorica_error *err) {
    MDB_val k = to_val(key), v = to_val(value);
    int rc = mdb_put(txn->txn, txn->store->tables[table], &k, &v, 0);
    return rc ? txn_fail(txn, rc, err) : 0;
}

int lorica_store_delete(struct lorica_txn *txn, enum lorica_table table, struct lorica_slice key,
                        struct lorica_error *err) {
    MDB_val k = to_val(key);
    int rc = mdb_del(txn->txn, txn->store->tables[table], &k, NULL);
    return rc ? txn_fail(txn, rc, err) : 0;
}

int lorica_store_count(struct lorica_txn *txn, enum lorica_table table, uint64_t *ret,
                       struct lorica_error *err) {
    MDB_stat stat;
    int rc = mdb_stat(txn->txn, txn->store->tables[table], &stat);
    if (rc)
        return txn_fail(txn, rc, err);
    *ret = stat.ms_entries;
    return 0;
}

int lorica_store_reusable(struct lorica_txn *txn, uint64_t *ret, struct lorica_error *err) {
    MDB_cursor *cursor;
    MDB_stat stat;
    MDB_val key, value;
    uint64_t pages = 0;
    int rc = mdb_stat(txn->txn, FREE_TABLE, &stat);
    if (!rc)
        rc = mdb_cursor_open(txn->txn, FREE_TABLE, &cursor);
    if (rc)
        return txn_fail(txn, rc, err);
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        size_t count; /* page numbers that follow */
        if (value.mv_size < sizeof(count))
            continue;
        memcpy(&count, value.mv_data, sizeof(count));
        pages += count;
    }
    mdb_cursor_close(cursor);
    if (rc != MDB_NOTFOUND)
        return txn_fail(txn, rc, err);
    *ret = pages * stat.ms_psize;
    return 0;
}

int lorica_store_walk(struct lorica_txn *txn, enum lorica_table table, struct lorica_cursor **ret,
                      struct lorica_error *err) {
    struct lorica_cursor *cursor = malloc(sizeof(*cursor));
    if (!cursor)
        return lorica_fail(err, LORICA_ENOMEM, "%s: out of memory", txn->store->dir);
    cursor->txn = txn;
    int rc = mdb_cursor_open(txn->txn, txn->store->tables[table], &cursor->cursor);
    if (rc) {
        free(cursor);
        return txn_fail(txn, rc, err);
    }
    *ret = cursor;
    return 0;
}

void lorica_cursor_close(struct lorica_cursor *cursor) {
    if (!cursor)
        return;
    mdb_cursor_close(cursor->cursor);
    free(cursor);
}

static int cursor_get(struct lorica_cursor *cursor, MDB_val key, MDB_cursor_op op,
                      struct lorica_slice *ret_key, struct lorica_slice *ret_value,
                      struct lorica_error *err) {
    MDB_val value;
    int rc = mdb_cursor_get(cursor->cursor, &key, &value, op);
    if (rc)
        return txn_fail(cursor->txn, rc, err);
    *ret_key = to_slice(key);
    *ret_value = to_slice(value);
    return 0;
}

int lorica_cursor_seek(struct lorica_cursor *cursor, struct lorica_slice key,
                       struct lorica_slice *ret_key, struct lorica_slice *ret_value,
                       struct lorica_error *err) {
    return cursor_get(cursor, to_val(key), key.len ? MDB_SET_RANGE : MDB_FIRST, ret_key, ret_value,
                      err);
}

int lorica_cursor_next(struct lorica_cursor *cursor, struct lorica_slice *ret_key,
                       struct lorica_slice *ret_value, struct lorica_error *err) {
    return cursor_get(cursor, (MDB_val){0}, MDB_NEXT, ret_key, ret_value, err);
}

int lorica_cursor_previous(struct lorica_cursor *cursor, struct lorica_slice *ret_key,
                           struct lorica_slice *ret_value, struct lorica_error *err) {
    return cursor_get(cursor, (MDB_val){0}, MDB_PREV, ret_key, ret_value, err);
}

int lorica_cursor_last(struct lorica_cursor *cursor, struct lorica_slice *ret_key,
                       struct lorica_slice *ret_value, struct lorica_error *err) {
    return cursor_get(cursor, (MDB_val){0}, MDB_LAST, ret_key, ret_value, err);
}
