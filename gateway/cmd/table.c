/* SPDX-License-Identifier: MIT */
#include "gateway/cmd/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct cell {
    char *text;
    bool number;
};

struct lorica_table {
    const char *const *headings;
    size_t columns;
    struct cell *cells;
    size_t count, cap;
    bool failed;
};

struct lorica_table *lorica_table_create(const char *const *headings) {
    struct lorica_table *table = calloc(1, sizeof(*table));
    if (table) {
        table->headings = headings;
        while (headings[table->columns])
            table->columns++;
    }
    return table;
}

void lorica_table_destroy(struct lorica_table *table) {
    for (size_t i = 0; table && i < table->count; i++)
        free(table->cells[i].text);
    if (table)
        free(table->cells);
    free(table);
}

/* Takes ownership of the text; NULL is a failed allocation. */
static void add(struct lorica_table *table, char *text, bool number) {
    if (text && table->count == table->cap) {
        const size_t cap = table->cap ? table->cap * 2 : 64;
        struct cell *cells = reallocarray(table->cells, cap, sizeof(*cells));
        if (cells) {
            table->cells = cells;
            table->cap = cap;
        }
    }
    if (!text || table->count == table->cap) {
        free(text);
        table->failed = true;
        return;
    }
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    table->cells[table->count++] = (struct cell){text, number};
}

void lorica_table_text(struct lorica_table *table, const char *text) {
    add(table, strdup(text), false);
}

void lorica_table_format(struct lorica_table *table, const char *fmt, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    if (vasprintf(&text, fmt, args) < 0)
        text = NULL;
    va_end(args);
    add(table, text, false);
}

void lorica_table_number(struct lorica_table *table, int64_t number) {
    char *text = NULL;
    if (asprintf(&text, "%lld", (long long)number) < 0)
        text = NULL;
    add(table, text, true);
}

void lorica_time_format(int64_t unix_seconds, char out[32]) {
    const time_t when = (time_t)unix_seconds;
    struct tm tm;
    if (unix_seconds == 0 || !gmtime_r(&when, &tm) ||
        strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        (void)snprintf(out, 32, "-");
}

void lorica_table_time(struct lorica_table *table, int64_t unix_seconds) {
    char text[32];
    lorica_time_format(unix_seconds, text);
    lorica_table_text(table, text);
}

/* Characters of UTF-8 text, as far as columns go: one each. */
static size_t text_columns(const char *text) {
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static size_t column_width(const struct lorica_table *table, size_t column) {
    size_t width = text_columns(table->headings[column]);
    for (size_t i = column; i < table->count; i += table->columns) {
        const size_t n = text_columns(table->cells[i].text);
        width = n > width ? n : width;
    }
    return width;
}

static void print_cell(FILE *out, const char *text, bool number, size_t width, bool last) {
    const size_t gap = width - text_columns(text);
    (void)fprintf(out, "%*s%s%*s", number ? (int)gap : 0, "", text, number || last ? 0 : (int)gap,
                  "");
    (void)fputs(last ? "\n" : "  ", out);
}

bool lorica_table_print(const struct lorica_table *table, FILE *out) {
    if (table->failed)
        return false;
    size_t *widths = calloc(table->columns, sizeof(*widths));
    if (!widths)
        return false;
    for (size_t c = 0; c < table->columns; c++) {
        widths[c] = column_width(table, c);
        print_cell(out, table->headings[c], c < table->count && table->cells[c].number, widths[c],
                   c + 1 == table->columns);
    }
    for (size_t i = 0; i < table->count; i++) {
        const size_t c = i % table->columns;
        print_cell(out, table->cells[i].text, table->cells[i].number, widths[c],
                   c + 1 == table->columns);
    }
    free(widths);
    return true;
}

void lorica_print_plain(FILE *out, const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)text[i];
        const bool c1 = c == 0xc2 && i + 1 < len && (unsigned char)text[i + 1] < 0xa0;
        if (c1)
            i++;
        (void)fputc(c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? '?' : c, out);
    }
}
