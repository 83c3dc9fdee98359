/* SPDX-License-Identifier: MIT
 * Any bytes as an address, and as a run that a tracking server answered with: an id that is taken
 * may stand in a path, and a path for an artifact holds nothing that would end or climb out of it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/mlflow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_path(const struct lorica_mlflow_run *run) {
    struct lorica_buf path;
    struct lorica_error err = {0};
    lorica_buf_init(&path, 16384);
    const int rc = lorica_mlflow_artifact_path(run->artifacts, "a/b", &path, &err);
    if (rc == 0 && (strpbrk(path.data, " ?#\\\r\n") || strstr(path.data, "/../") ||
                    strstr(path.data, "/./") || strncmp(path.data, "/api/2.0/", 9) != 0))
        abort();
    if (rc != 0 && err.code != rc)
        abort();
    lorica_buf_finish(&path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct lorica_mlflow_url url = {0};
    struct lorica_mlflow_run run = {{0}};
    struct lorica_error err = {0};
    struct lorica_json *json = NULL;
    char *text = strndup((const char *)data, len);
    if (!text)
        return 0;
    if (lorica_mlflow_url_parse(text, &url, &err) == 0) {
        if (strpbrk(url.server, " ?#@\r\n") && !strchr(url.server + 8, '/'))
            abort();
        if (!url.user != !url.password)
            abort();
    }
    lorica_mlflow_url_finish(&url);
    free(text);
    if (lorica_json_parse((const char *)data, len, &json, &err) != 0)
        return 0;
    (void)lorica_mlflow_last_step(json, "loss");
    if (lorica_mlflow_run_read(json, &run, &err) == 0) {
        if (!run.id[0] || strpbrk(run.id, "/'\"%?&. "))
            abort();
        check_path(&run);
    }
    lorica_json_destroy(json);
    return 0;
}
