/* SPDX-License-Identifier: MIT
 * Any bytes as a list of checks and as lines of them: what is taken lies within the limits, demands
 * something, and reads the same from the text that would be stored. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/checks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const struct lorica_checks *checks) {
    struct lorica_checks again;
    struct lorica_error err = {0};
    bool said;
    if (checks->count == 0 || checks->count > LORICA_CHECKS_MAX ||
        checks->text.len > LORICA_CHECKS_BYTES)
        abort();
    for (size_t i = 0; i < checks->count; i++) {
        const struct lorica_check *c = &checks->items[i];
        if (!*c->prompt || c->must_count + c->must_not_count == 0 ||
            c->must_count > LORICA_CHECK_PHRASES || c->must_not_count > LORICA_CHECK_PHRASES)
            abort();
        (void)lorica_check_fault(c, c->prompt, &said);
    }
    if (lorica_checks_parse(checks->text.data, checks->text.len, &again, &err) != 0 ||
        again.count != checks->count || strcmp(again.text.data, checks->text.data) != 0)
        abort();
    lorica_checks_finish(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    for (int lines = 0; lines < 2; lines++) {
        struct lorica_checks checks;
        struct lorica_error err = {0};
        const int rc = lines ? lorica_checks_parse_lines((const char *)data, len, &checks, &err)
                             : lorica_checks_parse((const char *)data, len, &checks, &err);
        if (rc == 0)
            check(&checks);
        else if (err.code != rc || checks.owned)
            abort();
        lorica_checks_finish(&checks);
    }
    return 0;
}
