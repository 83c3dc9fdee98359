/* SPDX-License-Identifier: MIT
 * lorica verify: reads everything that the registry holds, on files, and says what is not right. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/cmd/findings.h"
#include "gateway/cmd/model_dir.h"
#include "registry/backup.h"
#include "registry/checkpoint.h"
#include "registry/digest.h"
#include "registry/registry.h"
#include "runtime/base.h"

/* What is verified, and against what. */
struct wish {
    const char *data, *checkpoint_path, *key_path, *backup;
    bool bases, json;
    struct lorica_checkpoint *checkpoint; /* NULL: none */
    struct lorica_digest signer;          /* of it; zero: nobody */
};

static int read_checkpoint(struct wish *wish, struct lorica_error *err) {
    struct lorica_signkey *key = NULL;
    char *text = NULL;
    size_t len = 0;
    if (!wish->checkpoint_path)
        return 0;
    int rc = lorica_file_read(wish->checkpoint_path, LORICA_ENVELOPE_MAX, &text, &len, err);
    if (rc == 0 && wish->key_path)
        rc = lorica_key_file_public(wish->key_path, &key, err);
    if (rc != 0) {
        free(text);
        return rc;
    }
    wish->checkpoint = malloc(sizeof(*wish->checkpoint));
    rc = wish->checkpoint
             ? lorica_checkpoint_open(text, len, key, wish->checkpoint, &wish->signer, err)
             : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    lorica_signkey_destroy(key);
    free(text);
    return rc == 0 ? 0 : lorica_fail_prefix(err, "%s", wish->checkpoint_path);
}

/* A backup: every digest, its chain, and the checkpoint. */
static int verify_backup(const struct wish *wish, struct lorica_findings *findings,
                         struct lorica_error *err) {
    struct lorica_backup_info info;
    int rc = lorica_backup_check(wish->backup, lorica_progress, NULL, &info, err);
    if (rc == LORICA_EFORMAT) {
        findings->count++;
        return lorica_buf_printf(&findings->report, "%s\n", err->text);
    }
    if (rc == 0)
        rc = lorica_checkpoint_check_backup(wish->backup, wish->checkpoint, &findings->report,
                                            &findings->count, err);
    return rc;
}

static int verify_registry(const char *dir, const struct wish *wish,
                           struct lorica_findings *findings, struct lorica_error *err) {
    struct lorica_registry *registry = NULL;
    const struct lorica_registry_options options = {.read_only = true};
    char *path = lorica_path_join(dir, "registry");
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    int rc = lorica_path_exists(path)
                 ? lorica_registry_open(path, &options, &registry, err)
                 : lorica_fail(err, LORICA_ENOTFOUND,
                               "%s: there is no registry; lorica init makes one", path);
    if (rc == 0)
        rc = lorica_registry_verify(registry, &findings->report, &findings->count, err);
    if (rc == 0 && wish->checkpoint)
        rc = lorica_checkpoint_check(registry, wish->checkpoint, &findings->report,
                                     &findings->count, err);
    lorica_registry_close(registry);
    free(path);
    return rc;
}

/* A base that cannot be opened or has another digest is a finding; no memory is an error. */
static int verify_base(const char *path, struct lorica_findings *findings,
                       struct lorica_error *err) {
    struct lorica_base *base = NULL;
    int rc = lorica_base_open(path, &base, err);
    if (rc == 0)
        rc = lorica_base_verify(base, &lorica_sha256_hasher, err);
    lorica_base_close(base);
    if (rc == 0 || rc == LORICA_ENOMEM)
        return rc;
    findings->count++;
    return lorica_buf_printf(&findings->report, "base %s: %s\n", path, err->text);
}

static bool is_base(const char *name) {
    const char *end = strrchr(name, '.');
    return end && name[0] != '.' && strcmp(end, ".lorica") == 0;
}

static int verify_bases(const char *dir, struct lorica_findings *findings,
                        struct lorica_error *err) {
    char *path = lorica_path_join(dir, "bases");
    DIR *bases = path ? opendir(path) : NULL;
    const struct dirent *entry;
    int rc = 0;
    if (!path)
        rc = lorica_fail(err, LORICA_ENOMEM, "out of memory");
    else if (!bases)
        rc = lorica_fail_errno(err, path, "cannot be listed");
    while (rc == 0 && (entry = readdir(bases))) {
        if (!is_base(entry->d_name))
            continue;
        char *file = lorica_path_join(path, entry->d_name);
        rc = file ? verify_base(file, findings, err)
                  : lorica_fail(err, LORICA_ENOMEM, "out of memory");
        free(file);
    }
    if (bases)
        (void)closedir(bases);
    free(path);
    return rc;
}

static int verify(const char *dir, struct wish *wish, struct lorica_findings *findings,
                  struct lorica_error *err) {
    int rc = read_checkpoint(wish, err);
    if (rc == 0)
        rc = wish->backup ? verify_backup(wish, findings, err)
                          : verify_registry(dir, wish, findings, err);
    if (rc == 0 && wish->bases)
        rc = verify_bases(dir, findings, err);
    if (rc == 0 && lorica_buf_status(&findings->report) != 0)
        rc = lorica_fail(err, lorica_buf_status(&findings->report), "there are too many findings");
    if (rc == 0 && wish->json)
        rc = lorica_findings_print_json(findings, err);
    return rc;
}

static void print_contained(const char *what, const struct wish *wish) {
    static const struct lorica_digest nobody = {{0}};
    char text[LORICA_KEYID_TEXT];
    (void)printf("%s is clean and contains the checkpoint of record %llu, ", what,
                 (unsigned long long)wish->checkpoint->seq);
    if (lorica_digest_equal(&wish->signer, &nobody))
        (void)printf("which is not signed\n");
    else
        (void)printf("signed by the key %s%s\n", lorica_keyid_format(&wish->signer, text),
                     wish->key_path ? "" : " that it carries (--key names one to trust)");
}

static void print_plain(const char *what, const struct wish *wish,
                        const struct lorica_findings *findings) {
    if (findings->count > 0)
        (void)printf("%s%llu findings in %s\n", findings->report.data ? findings->report.data : "",
                     (unsigned long long)findings->count, what);
    else if (wish->checkpoint)
        print_contained(what, wish);
    else
        (void)printf("%s is clean\n", what);
}

static int run(int argc, char **argv) {
    struct wish wish = {.data = NULL};
    struct lorica_findings findings;
    struct lorica_error err = {0};
    const struct lorica_option options[] = {{.name = "bases", .flag = &wish.bases},
                                            {.name = "checkpoint", .value = &wish.checkpoint_path},
                                            {.name = "key", .value = &wish.key_path},
                                            {.name = "backup", .value = &wish.backup},
                                            {.name = "json", .flag = &wish.json},
                                            {.name = "data", .value = &wish.data}};
    if (lorica_cmd_options(&lorica_cmd_verify, argc, argv, options,
                           sizeof(options) / sizeof(options[0]), 0, 0) < 0)
        return LORICA_EXIT_USAGE;
    if (wish.key_path && !wish.checkpoint_path)
        return lorica_cmd_usage(&lorica_cmd_verify, "--key goes with --checkpoint");
    char *dir = lorica_data_dir(wish.data);
    if (!dir)
        return LORICA_EXIT_FAILED;
    lorica_findings_init(&findings);
    int rc = verify(dir, &wish, &findings, &err);
    if (rc != 0)
        rc = lorica_cmd_fail(&err);
    else if (!wish.json)
        print_plain(wish.backup ? wish.backup : dir, &wish, &findings);
    if (rc == 0 && findings.count > 0)
        rc = LORICA_EXIT_FAILED;
    lorica_buf_finish(&findings.report);
    free(wish.checkpoint);
    free(dir);
    return rc;
}

const struct lorica_cmd lorica_cmd_verify = {
    .name = "verify",
    .synopsis = "[--checkpoint FILE [--key FILE]] [--backup DIR] [--bases] [--json] [--data DIR]",
    .summary = "check everything that the registry holds",
    .help = "Reads the audit chain, every channel, version and blob, and compares every digest. "
            "Works on files: the server must not be running. Ends with 1 when something was "
            "found, each on a line.\n"
            "--checkpoint FILE\talso hold the audit chain against a checkpoint of `lorica audit "
            "checkpoint`: a history that was rewritten or cut since then is named, with the first "
            "record that differs as far as that can be told\n"
            "--key FILE\tthe checkpoint must be signed by this public key (receipt.pub of the "
            "server's data directory, copied when the server was set up); otherwise its signature "
            "is compared with the key that it carries\n"
            "--backup DIR\tread a backup, or one snapshot in it, instead of the registry: every "
            "digest, and that each audit record follows from the one before\n"
            "--bases\talso compare the digest of every base model\n"
            "--json\tprint the findings as JSON\n"
            "--data DIR\tthe data directory; otherwise $LORICA_DATA, or lorica in the user's data "
            "directory\n",
    .run = run,
};
