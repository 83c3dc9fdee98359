/* SPDX-License-Identifier: MIT */
#include "gateway/cmd/adapter_source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gateway/client/client_cmd.h"
#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "registry/registry.h"

#define MANIFEST_MAX                                                                               \
    ((size_t)4 << 20) /* 1 MiB as published; it may be longer when written anew                    \
                       */

static bool is_directory(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Writes bytes to DIR/name. */
static int write_part(const char *dir, const char *name, const void *bytes, size_t len,
                      struct lorica_error *err) {
    char *path = lorica_path_join(dir, name);
    const int rc = path ? lorica_file_replace(path, bytes, len, 0600, err)
                        : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    free(path);
    return rc;
}

/* Copies a version out of an open registry. */
static int copy_out(struct lorica_registry *registry, const char *word, const char *dir,
                    struct lorica_error *err) {
    struct lorica_version version;
    char *config = NULL, *manifest = NULL;
    void *weights = NULL;
    size_t config_len = 0, weights_len = 0, manifest_len = 0;
    int rc = lorica_registry_resolve(registry, word, &version, err);
    if (rc == 0)
        rc = lorica_registry_config(registry, &version, &config, &config_len, err);
    if (rc == 0)
        rc = lorica_registry_weights(registry, &version, &weights, &weights_len, err);
    if (rc == 0)
        rc = write_part(dir, "adapter_config.json", config, config_len, err);
    if (rc == 0)
        rc = write_part(dir, "adapter_model.safetensors", weights, weights_len, err);
    if (rc == 0 && version.manifest_nbytes > 0)
        rc = lorica_registry_manifest(registry, &version, &manifest, &manifest_len, err);
    if (rc == 0 && manifest)
        rc = write_part(dir, "manifest.json", manifest, manifest_len, err);
    free(config);
    free(weights);
    free(manifest);
    return rc;
}

/* From the registry in the data directory. *ret_elsewhere: it is open in a server, or there is none
 * here, so that a server is to be asked. */
static int from_files(const char *data, const char *word, const char *dir, bool *ret_elsewhere,
                      struct lorica_error *err) {
    const struct lorica_registry_options options = {.read_only = true};
    struct lorica_registry *registry = NULL;
    char *data_dir = lorica_data_dir(data);
    char *path = data_dir ? lorica_path_join(data_dir, "registry") : NULL;
    int rc = 0;
    if (!path)
        rc = lorica_fail(err, LORICA_EINVAL, "no data directory could be found");
    else if (!lorica_path_exists(path))
        *ret_elsewhere = true;
    else
        rc = lorica_registry_open(path, &options, &registry, err);
    if (rc == LORICA_EBUSY)
        *ret_elsewhere = true;
    if (rc == 0 && registry)
        rc = copy_out(registry, word, dir, err);
    lorica_registry_close(registry);
    free(path);
    free(data_dir);
    return *ret_elsewhere ? 0 : rc;
}

/* The manifest of a version, where it has one. */
static int fetch_manifest(struct lorica_client *client, const struct lorica_json *version,
                          const char *dir, struct lorica_error *err) {
    struct lorica_json *manifest = NULL;
    struct lorica_buf text;
    char path[LORICA_NAME_MAX + 64];
    if (lorica_member_number(version, "manifest_bytes") == 0)
        return 0;
    (void)snprintf(path, sizeof(path), "/v1/adapters/%s/versions/%lld/manifest.json",
                   lorica_member_text(version, "name"),
                   (long long)lorica_member_number(version, "version"));
    const struct lorica_client_request request = {.path = path};
    int rc = lorica_client_call(client, &request, NULL, &manifest, err);
    if (rc != 0)
        return rc;
    lorica_buf_init(&text, MANIFEST_MAX);
    if (lorica_json_write(&text, manifest) != 0)
        rc = lorica_fail(err, LORICA_ENOMEM, "the manifest is too long");
    if (rc == 0)
        rc = write_part(dir, "manifest.json", text.data, text.len, err);
    lorica_buf_finish(&text);
    lorica_json_destroy(manifest);
    return rc;
}

static int from_server(const struct lorica_client_options *where, const char *word, const char *dir,
                       struct lorica_error *err) {
    struct lorica_client *client = NULL;
    struct lorica_json *version = NULL;
    int rc = lorica_client_create(where, &client, err);
    if (rc == 0)
        rc = lorica_client_resolve(client, word, &version, err);
    if (rc == 0)
        rc = lorica_client_export(client, version, dir, err);
    if (rc == 0)
        rc = fetch_manifest(client, version, dir, err);
    lorica_json_destroy(version);
    lorica_client_destroy(client);
    return rc;
}

/* Makes a directory that only this user can read. */
static char *make_temporary(struct lorica_error *err) {
    const char *parent = getenv("TMPDIR");
    char *dir = lorica_path_join(parent && *parent ? parent : "/tmp", "lorica-adapter-XXXXXX");
    if (dir && mkdtemp(dir))
        return dir;
    if (dir)
        (void)lorica_fail_errno(err, dir, "a temporary directory cannot be made");
    else
        (void)lorica_fail(err, LORICA_ENOMEM, "out of memory");
    free(dir);
    return NULL;
}

int lorica_adapter_source_open(const char *word, const struct lorica_client_options *where,
                               struct lorica_adapter_source *ret, struct lorica_error *err) {
    struct lorica_adapter_source source = {.temporary = !is_directory(word)};
    if (source.temporary && (strchr(word, '/') || lorica_path_exists(word)))
        return lorica_fail(err, LORICA_ENOTFOUND,
                           "%s is no directory; an adapter is one with adapter_config.json, or "
                           "NAME[@VERSION] of the registry",
                           word);
    source.dir = source.temporary ? make_temporary(err) : strdup(word);
    if (!source.dir)
        return source.temporary ? err->code : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = 0;
    bool elsewhere = where->server != NULL;
    if (source.temporary && !elsewhere)
        rc = from_files(where->data, word, source.dir, &elsewhere, err);
    if (source.temporary && elsewhere)
        rc = from_server(where, word, source.dir, err);
    if (rc == 0)
        *ret = source;
    else
        lorica_adapter_source_close(&source);
    return rc;
}

void lorica_adapter_source_close(struct lorica_adapter_source *source) {
    if (source->temporary && source->dir)
        lorica_dir_discard(source->dir);
    free(source->dir);
    *source = (struct lorica_adapter_source){NULL};
}
