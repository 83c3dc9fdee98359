/* SPDX-License-Identifier: MIT
 * A backup's snapshot from any bytes: as they are, and once more with the digest at their end that
 * makes them whole, so that what stands behind it is reached. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "registry/digest.h"
#include "registry/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define LEN_MAX ((size_t)1 << 20)

static int count_record(void *arg, const struct lorica_snapshot_record *record,
                        struct lorica_error *err) {
    struct lorica_digest digest;
    uint64_t nbytes;
    if (!lorica_snapshot_holds(record->table) || record->key.len > LORICA_SNAPSHOT_KEY_MAX ||
        record->value.len > LORICA_SNAPSHOT_VALUE_MAX)
        abort();
    if (record->table == LORICA_TABLE_BLOB &&
        lorica_snapshot_blob(record, &digest, &nbytes, err) != 0)
        return err->code;
    ++*(uint64_t *)arg;
    return 0;
}

static void read_all(uint8_t *bytes, size_t len) {
    struct lorica_snapshot_head head;
    struct lorica_error err = {0};
    uint64_t records = 0;
    FILE *file = fmemopen(bytes, len, "rb");
    if (!file)
        abort();
    if (lorica_snapshot_read(file, "snapshot", &head, count_record, &records, &err) == 0) {
        if (records != head.info.records)
            abort();
    } else if (err.text[0] == '\0') {
        abort(); /* every refusal has a sentence */
    }
    (void)fclose(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_digest digest;
    if (len == 0 || len > LEN_MAX)
        return 0;
    uint8_t *copy = malloc(len + sizeof(digest.bytes));
    if (!copy || lorica_sha256(data, len, &digest) != 0)
        abort();
    memcpy(copy, data, len);
    memcpy(copy + len, digest.bytes, sizeof(digest.bytes));
    read_all(copy, len);
    read_all(copy, len + sizeof(digest.bytes));
    free(copy);
    return 0;
}
