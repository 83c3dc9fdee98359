/* SPDX-License-Identifier: MIT */
#include "proto/csv.h"

#include <stdio.h>

enum state {
    STATE_RECORD, /* before the first byte of a record */
    STATE_FIELD,  /* before the first byte of a field */
    STATE_PLAIN,
    STATE_QUOTED,
    STATE_QUOTE,     /* behind a quote within quotes: the end, or the first of two */
    STATE_QUOTED_CR, /* behind a CR within quotes */
    STATE_CR,        /* behind a CR outside */
    STATE_SKIP,      /* a faulty record, until its line ends */
};

void lorica_csv_init(struct lorica_csv *csv, size_t max) {
    *csv = (struct lorica_csv){.next_line = 1};
    lorica_buf_init(&csv->text, max);
}

void lorica_csv_finish(struct lorica_csv *csv) { lorica_buf_finish(&csv->text); }

const char *lorica_csv_field(const struct lorica_csv *csv, uint32_t index, size_t *ret_len) {
    *ret_len = csv->starts[index + 1] - csv->starts[index] - 1;
    return csv->text.data + csv->starts[index];
}

static void put(struct lorica_csv *csv, char byte) {
    (void)lorica_buf_append(&csv->text, &byte, 1);
}

static void end_field(struct lorica_csv *csv) {
    put(csv, '\0');
    if (csv->count < LORICA_CSV_FIELDS_MAX)
        csv->starts[++csv->count] = csv->text.len;
    else if (!csv->fault)
        csv->fault = "it has more than 256 fields";
    csv->state = STATE_FIELD;
}

static bool end_record(struct lorica_csv *csv) {
    if (csv->state != STATE_SKIP)
        end_field(csv);
    const int failure = lorica_buf_status(&csv->text);
    if (failure == LORICA_ELIMIT && !csv->fault)
        csv->fault = "it is too long";
    else if (failure && !csv->fault)
        csv->fault = "there is no memory for it";
    csv->state = STATE_RECORD;
    return true;
}

static void fail(struct lorica_csv *csv, const char *fault) {
    csv->fault = csv->fault ? csv->fault : fault;
    csv->state = STATE_SKIP;
}

static bool at_end(struct lorica_csv *csv) {
    if (csv->state == STATE_RECORD)
        return false;
    if (csv->state == STATE_QUOTED || csv->state == STATE_QUOTED_CR)
        fail(csv, "a quote is opened and never closed");
    return end_record(csv);
}

/* A byte outside quotes that belongs to no field: comma or line end. True: a record ended. */
static bool take_end(struct lorica_csv *csv, int byte) {
    if (byte == '\n')
        return end_record(csv);
    if (byte == '\r')
        csv->state = STATE_CR;
    else
        end_field(csv);
    return false;
}

static bool is_end(int byte) { return byte == ',' || byte == '\r' || byte == '\n'; }

static void take_plain(struct lorica_csv *csv, int byte) {
    if (byte == '"') {
        fail(csv, "a quote stands within a field that does not begin with one (write the field in "
                  "quotes, and the quote twice)");
        return;
    }
    put(csv, (char)byte);
    csv->state = STATE_PLAIN;
}

static void take_quoted(struct lorica_csv *csv, int byte) {
    if (byte == '"')
        csv->state = STATE_QUOTE;
    else if (byte == '\r')
        csv->state = STATE_QUOTED_CR;
    else
        put(csv, (char)byte);
}

/* What follows a state that depends on one more byte. True: a record ended. */
static bool take_behind(struct lorica_csv *csv, int byte) {
    const enum state state = (enum state)csv->state;
    if (state == STATE_QUOTED_CR) {
        if (byte != '\n')
            put(csv, '\r');
        csv->state = STATE_QUOTED;
        take_quoted(csv, byte);
    } else if (state == STATE_QUOTE && byte == '"') {
        put(csv, '"');
        csv->state = STATE_QUOTED;
    } else if (state == STATE_QUOTE && is_end(byte)) {
        return take_end(csv, byte);
    } else if (state == STATE_QUOTE) {
        fail(csv, "something follows the quote that closes a field (a quote within is written "
                  "twice)");
    } else if (byte == '\n') {
        return end_record(csv);
    } else {
        fail(csv, "a carriage return stands within a field without quotes");
    }
    return false;
}

bool lorica_csv_push(struct lorica_csv *csv, int byte) {
    if (csv->state == STATE_RECORD) {
        lorica_buf_clear(&csv->text);
        csv->count = 0;
        csv->fault = NULL;
        csv->line = csv->next_line;
    }
    if (byte == EOF)
        return at_end(csv);
    csv->next_line += byte == '\n';
    switch ((enum state)csv->state) {
    case STATE_RECORD:
    case STATE_FIELD:
        if (byte == '"') {
            csv->state = STATE_QUOTED;
            return false;
        }
        csv->state = STATE_PLAIN;
        break;
    case STATE_PLAIN:
        break;
    case STATE_QUOTED:
        take_quoted(csv, byte);
        return false;
    case STATE_SKIP:
        return byte == '\n' ? end_record(csv) : false;
    case STATE_QUOTE:
    case STATE_QUOTED_CR:
    case STATE_CR:
        return take_behind(csv, byte);
    }
    if (is_end(byte))
        return take_end(csv, byte);
    take_plain(csv, byte);
    return false;
}
