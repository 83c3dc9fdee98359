/* SPDX-License-Identifier: MIT */
#include "gateway/cmd/findings.h"

#include <stdio.h>
#include <string.h>

#include "gateway/cmd/cmd.h"
#include "proto/json.h"

#define REPORT_MAX ((size_t)64 << 20)

void lorica_findings_init(struct lorica_findings *findings) {
    *findings = (struct lorica_findings){.count = 0};
    lorica_buf_init(&findings->report, REPORT_MAX);
}

void lorica_findings_add(struct lorica_findings *findings, const char *what, const char *name) {
    findings->count++;
    (void)lorica_buf_printf(&findings->report, "%s: %s\n", name, what);
}

int lorica_findings_print_json(const struct lorica_findings *findings, struct lorica_error *err) {
    struct lorica_buf out;
    lorica_buf_init(&out, 2 * REPORT_MAX);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_object(&w, NULL);
    lorica_jsonw_string(&w, "object", "verification");
    lorica_jsonw_bool(&w, "clean", findings->count == 0);
    lorica_jsonw_array(&w, "findings");
    const char *line = findings->report.data ? findings->report.data : "";
    while (*line) {
        const size_t len = strcspn(line, "\n");
        lorica_jsonw_bytes(&w, NULL, line, len);
        line += len + (line[len] == '\n');
    }
    lorica_jsonw_end_array(&w);
    lorica_jsonw_end_object(&w);
    const int rc = lorica_buf_status(&findings->report);
    if (rc != 0)
        (void)lorica_fail(err, rc, "the findings cannot be printed: %s", lorica_err_text(rc));
    return lorica_cmd_print_json(&out, rc, err);
}
