/* SPDX-License-Identifier: MIT
 * lorica backup and lorica restore: a registry to and from a directory of plain files. */
#include <stdlib.h>
#include <string.h>

#include "gateway/client/client.h"
#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "registry/backup.h"

static char *registry_dir(const char *option) {
    char *data = lorica_data_dir(option);
    char *dir = data ? lorica_path_join(data, "registry") : NULL;
    if (data && !dir)
        (void)fprintf(stderr, "lorica: out of memory\n");
    free(data);
    return dir;
}

/* Through the server's API. */

struct remote {
    struct lorica_client *client;
    lorica_backup_sink sink;
    void *arg;
    uint64_t nbytes; /* that came of the present download */
};

static int remote_write(void *arg, const void *bytes, size_t len, struct lorica_error *err) {
    struct remote *remote = arg;
    remote->nbytes += len;
    return remote->sink(remote->arg, bytes, len, err);
}

/* A download that broke off may be of content that was swept meanwhile: the server says so when it
 * is asked again. */
static int remote_read(void *arg, const struct lorica_digest *digest, lorica_backup_sink sink,
                       void *sink_arg, struct lorica_error *err) {
    struct remote *remote = arg;
    char path[64 + LORICA_DIGEST_TEXT] = "/v1/backup/snapshot", text[LORICA_DIGEST_TEXT];
    struct lorica_error again = {0};
    if (digest)
        (void)snprintf(path, sizeof(path), "/v1/backup/contents/%s",
                       lorica_digest_format(digest, text));
    remote->sink = sink;
    remote->arg = sink_arg;
    remote->nbytes = 0;
    const int rc = lorica_client_download(remote->client, path, remote_write, remote, err);
    if (rc != LORICA_EIO || !digest || remote->nbytes == 0)
        return rc;
    const struct lorica_client_request head = {.method = "HEAD", .path = path};
    if (lorica_client_call(remote->client, &head, NULL, NULL, &again) == LORICA_ENOTFOUND)
        return lorica_fail(err, LORICA_ENOTFOUND, "%s", again.text);
    return rc;
}

static int backup_server(const struct lorica_client_options *options, const char *to,
                         struct lorica_backup_info *info, struct lorica_error *err) {
    struct remote remote = {.client = NULL};
    const struct lorica_backup_source source = {.read = remote_read, .arg = &remote};
    int rc = lorica_client_create(options, &remote.client, err);
    if (rc == 0)
        rc = lorica_backup_write(to, &source, lorica_progress, NULL, info, err);
    lorica_client_destroy(remote.client);
    return rc;
}

/* On files. */
static int backup_files(const char *dir, const char *to, struct lorica_backup_info *info,
                        bool *ret_busy, struct lorica_error *err) {
    struct lorica_registry *registry = NULL;
    const struct lorica_registry_options options = {.read_only = true};
    int rc =
        lorica_path_exists(dir)
            ? lorica_registry_open(dir, &options, &registry, err)
            : lorica_fail(err, LORICA_ENOTFOUND,
                          "%s: there is no registry; --server names a server that has one", dir);
    *ret_busy = rc == LORICA_EBUSY;
    if (rc == 0) {
        const struct lorica_backup_source source = lorica_backup_from(registry);
        rc = lorica_backup_write(to, &source, lorica_progress, NULL, info, err);
    }
    lorica_registry_close(registry);
    return rc;
}

/* On files unless a server is named or has them open. */
static int backup(const struct lorica_client_options *options, const char *to,
                  struct lorica_backup_info *info, struct lorica_error *err) {
    bool busy = options->server != NULL;
    int rc = 0;
    if (!busy) {
        char *dir = registry_dir(options->data);
        if (!dir)
            return lorica_fail(err, LORICA_EINVAL, "there is no data directory");
        rc = backup_files(dir, to, info, &busy, err);
        free(dir);
    }
    return busy ? backup_server(options, to, info, err) : rc;
}

static int run_backup(int argc, char **argv) {
    struct lorica_client_options client = {0};
    bool check = false;
    struct lorica_backup_info info = {0};
    struct lorica_error err = {0};
    const struct lorica_option options[] = {{.name = "check", .flag = &check},
                                            LORICA_CLIENT_OPTIONS(client)};
    if (lorica_cmd_options(&lorica_cmd_backup, argc, argv, options,
                           sizeof(options) / sizeof(options[0]), 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    if (check) {
        if (lorica_backup_check(argv[0], lorica_progress, NULL, &info, &err) != 0)
            return lorica_cmd_fail(&err);
        (void)printf("%s in %s is whole: audit record %llu, %llu contents\n", info.name, argv[0],
                     (unsigned long long)info.seq, (unsigned long long)info.blobs);
        return LORICA_EXIT_OK;
    }
    if (backup(&client, argv[0], &info, &err) != 0)
        return lorica_cmd_fail(&err);
    (void)printf("%s is in %s: audit record %llu, %llu contents, %llu of them (%llu bytes) new\n",
                 info.name, argv[0], (unsigned long long)info.seq, (unsigned long long)info.blobs,
                 (unsigned long long)info.new_blobs, (unsigned long long)info.new_nbytes);
    return LORICA_EXIT_OK;
}

static int run_restore(int argc, char **argv) {
    const char *data = NULL;
    struct lorica_backup_info info = {0};
    struct lorica_error err = {0};
    const struct lorica_option options[] = {{.name = "data", .value = &data}};
    if (lorica_cmd_options(&lorica_cmd_restore, argc, argv, options, 1, 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    char *parent = lorica_data_dir(data);
    char *dir = parent ? registry_dir(parent) : NULL;
    int rc = LORICA_EXIT_FAILED;
    if (dir) {
        rc = lorica_dirs_make(parent, 0700, &err);
        if (rc == 0)
            rc = lorica_backup_restore(argv[0], dir, lorica_progress, NULL, &info, &err);
        if (rc != 0)
            rc = lorica_cmd_fail(&err);
        else
            (void)printf("%s is restored to %s: audit record %llu, %llu contents\n", info.name, dir,
                         (unsigned long long)info.seq, (unsigned long long)info.blobs);
    }
    free(dir);
    free(parent);
    return rc;
}

const struct lorica_cmd lorica_cmd_backup = {
    .name = "backup",
    .synopsis = "DIR [--check] " LORICA_CLIENT_SYNOPSIS,
    .summary = "back up the registry into a directory",
    .help =
        "DIR\tmade where it is absent. Each backup adds a file snapshot-NNNNNN and the "
        "adapters' content that is not in DIR/blobs yet\n"
        "--check\twrite nothing: read the newest backup in DIR, or the snapshot that DIR "
        "names, and compare every digest\n"
        "Works on the files of the data directory, or, where a server has them open or "
        "--server names one, through the server while it goes on serving; that takes a key of "
        "the role ops that is not held to some adapters.\n"
        "A backup that was cut off leaves no snapshot behind, and the next one does not "
        "transfer again what came. Content that is swept meanwhile makes it begin again with a "
        "new snapshot.\n"
        "A backup holds what recognises the API keys: keep it as safe as the registry. "
        "Nothing else of the data directory is in it: configuration, TLS keys, admin.key, "
        "receipt.key and receipt.pub, base models (which can be imported again), and the files and "
        "jobs of training in DIR/train. Copy these by other means.\n" LORICA_CLIENT_HELP,
    .run = run_backup,
};

const struct lorica_cmd lorica_cmd_restore = {
    .name = "restore",
    .synopsis = "FILE [--data DIR]",
    .summary = "make a registry of a backup",
    .help = "FILE\ta directory that lorica backup wrote, for its newest backup, or a file "
            "snapshot-NNNNNN in it\n"
            "--data DIR\tthe data directory, which must hold no registry; otherwise $LORICA_DATA, "
            "or lorica in the user's data directory\n"
            "Works on files. Every digest is compared, the new registry is walked as lorica verify "
            "does, and only then put in its place. The API keys work as before.\n",
    .run = run_restore,
};
