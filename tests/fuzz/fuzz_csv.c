/* SPDX-License-Identifier: MIT
 * CSV from any bytes. What is read is written again with every field in quotes, and then reads the
 * same. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define RECORD_MAX 4096

/* Writes what is well-formed; how many records that were. */
static size_t rewrite(const char *text, size_t len, struct lorica_buf *out, bool all_fine) {
    struct lorica_csv csv;
    size_t records = 0;
    uint32_t line = 0;
    lorica_csv_init(&csv, RECORD_MAX);
    for (size_t i = 0; i <= len; i++) {
        if (!lorica_csv_push(&csv, i < len ? (unsigned char)text[i] : EOF))
            continue;
        if (csv.line <= line || (all_fine && csv.fault))
            abort();
        line = csv.line;
        if (csv.fault)
            continue;
        for (uint32_t f = 0; f < csv.count; f++) {
            size_t n;
            const char *field = lorica_csv_field(&csv, f, &n);
            (void)lorica_buf_puts(out, f > 0 ? ",\"" : "\"");
            for (size_t j = 0; j < n; j++) {
                if (field[j] == '"' || field[j] == '\n')
                    (void)lorica_buf_append(out, field[j] == '"' ? "\"" : "\r", 1);
                (void)lorica_buf_append(out, field + j, 1);
            }
            (void)lorica_buf_puts(out, "\"");
        }
        (void)lorica_buf_puts(out, "\n");
        records++;
    }
    lorica_csv_finish(&csv);
    return records;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_buf once, twice;
    lorica_buf_init(&once, 1u << 26);
    lorica_buf_init(&twice, 1u << 26);
    const size_t records = rewrite((const char *)data, len, &once, false);
    if (rewrite(once.data ? once.data : "", once.len, &twice, true) != records ||
        once.len != twice.len || (once.len && memcmp(once.data, twice.data, once.len) != 0))
        abort();
    lorica_buf_finish(&once);
    lorica_buf_finish(&twice);
    return 0;
}
