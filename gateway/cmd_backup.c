/* SPDX-License-Identifier: MIT
 * lorica backup and lorica restore: a registry to and from a directory of plain files. */
#include <stdlib.h>
#include <string.h>

#include "gateway/cmd.h"
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

static int backup_files(const char *dir, const char *to, struct lorica_backup_info *info,
                        struct lorica_error *err) {
    struct lorica_registry *registry = NULL;
    const struct lorica_registry_options options = {.read_only = true};
    int rc = lorica_path_exists(dir)
                 ? lorica_registry_open(dir, &options, &registry, err)
                 : lorica_fail(err, LORICA_ENOTFOUND, "%s: there is no registry", dir);
    if (rc == 0) {
        const struct lorica_backup_source source = lorica_backup_from(registry);
        rc = lorica_backup_write(to, &source, lorica_progress, NULL, info, err);
    }
    lorica_registry_close(registry);
    return rc;
}

static int run_backup(int argc, char **argv) {
    const char *data = NULL;
    bool check = false;
    struct lorica_backup_info info = {0};
    struct lorica_error err = {0};
    const struct lorica_option options[] = {{.name = "check", .flag = &check},
                                            {.name = "data", .value = &data}};
    if (lorica_cmd_options(&lorica_cmd_backup, argc, argv, options, 2, 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    if (check) {
        if (lorica_backup_check(argv[0], lorica_progress, NULL, &info, &err) != 0)
            return lorica_cmd_fail(&err);
        (void)printf("%s in %s is whole: audit record %llu, %llu contents\n", info.name, argv[0],
                     (unsigned long long)info.seq, (unsigned long long)info.blobs);
        return LORICA_EXIT_OK;
    }
    char *dir = registry_dir(data);
    if (!dir)
        return LORICA_EXIT_FAILED;
    const int rc = backup_files(dir, argv[0], &info, &err);
    free(dir);
    if (rc != 0)
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
    .synopsis = "DIR [--check] [--data DIR]",
    .summary = "back up the registry into a directory",
    .help = "DIR\tmade where it is absent. Each backup adds a file snapshot-NNNNNN and the "
            "adapters' content that is not in DIR/blobs yet\n"
            "--check\twrite nothing: read the newest backup in DIR, or the snapshot that DIR "
            "names, and compare every digest\n"
            "--data DIR\tthe data directory; otherwise $LORICA_DATA, or lorica in the user's data "
            "directory\n"
            "Works on files: the server must not be running. A backup that was cut off leaves no "
            "snapshot behind.\n"
            "A backup holds what recognises the API keys: keep it as safe as the registry. "
            "Configuration, TLS keys, admin.key and base models are not in it.\n",
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
