/* SPDX-License-Identifier: MIT
 * lorica init: makes the data directory, or what is missing of it. Every step looks first whether
 * it was done, so that a run that was cut off is completed by the next one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/server/certificate.h"
#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/server/receipts.h"
#include "registry/registry.h"

#define KEY_NAMES_MAX 1000    /* "admin", "admin-2", ... "admin-1000" */
#define CERTIFICATE_MAX 65536 /* bytes of a PEM file */
#define EXPIRY_WARNING_DAYS 30

/* One run. Paths are owned. */
struct init {
    char *dir, *conf, *registry, *admin_key, *tls, *ca, *server, *server_key;
    const char *const *hosts;
    bool new_admin;
    unsigned made; /* things that were not there before */
};

static void init_finish(struct init *init) {
    free(init->dir);
    free(init->conf);
    free(init->registry);
    free(init->admin_key);
    free(init->tls);
    free(init->ca);
    free(init->server);
    free(init->server_key);
    free((void *)init->hosts);
}

static bool init_paths(struct init *init, const char *data) {
    init->dir = lorica_data_dir(data);
    if (!init->dir)
        return false;
    init->conf = lorica_path_join(init->dir, "lorica.conf");
    init->registry = lorica_path_join(init->dir, "registry");
    init->admin_key = lorica_path_join(init->dir, "admin.key");
    init->tls = lorica_path_join(init->dir, "tls");
    init->ca = lorica_path_join(init->dir, "tls/ca.pem");
    init->server = lorica_path_join(init->dir, "tls/server.pem");
    init->server_key = lorica_path_join(init->dir, "tls/server.key");
    return init->conf && init->registry && init->admin_key && init->tls && init->ca &&
           init->server && init->server_key;
}

static void made(struct init *init, const char *path, const char *what) {
    (void)printf("made %s: %s\n", path, what);
    init->made++;
}

static int make_dirs(struct init *init, struct lorica_error *err) {
    static const struct {
        const char *name, *what;
    } parts[] = {{"bases", "base models"}, {"spool", "uploads in flight"}, {"tls", "certificates"}};
    const bool old = lorica_path_exists(init->dir);
    int rc = lorica_dirs_make(init->dir, 0700, err);
    if (rc == 0 && !old)
        made(init, init->dir, "the data directory");
    for (size_t i = 0; rc == 0 && i < sizeof(parts) / sizeof(parts[0]); i++) {
        char *path = lorica_path_join(init->dir, parts[i].name);
        const bool there = path && lorica_path_exists(path);
        rc = path ? lorica_dirs_make(path, 0700, err)
                  : lorica_fail(err, LORICA_ENOMEM, "out of memory");
        if (rc == 0 && !there)
            made(init, path, parts[i].what);
        free(path);
    }
    return rc;
}

static int make_configuration(struct init *init, struct lorica_error *err) {
    if (lorica_path_exists(init->conf))
        return 0;
    const int rc = lorica_file_replace(init->conf, lorica_config_sample,
                                       strlen(lorica_config_sample), 0600, err);
    if (rc == 0)
        made(init, init->conf, "the configuration");
    return rc;
}

/* Says on standard error when the certificate has ended or soon will. */
static void check_expiry(const struct init *init) {
    struct lorica_error ignored;
    char *pem = NULL;
    size_t len = 0;
    int64_t end = 0;
    if (lorica_file_read(init->server, CERTIFICATE_MAX, &pem, &len, &ignored) != 0)
        return;
    if (lorica_certificate_expiry(pem, len, &end, &ignored) == 0) {
        const int64_t days = (end - (int64_t)time(NULL)) / (24 * 60 * 60);
        if (days < EXPIRY_WARNING_DAYS)
            (void)fprintf(
                stderr, "lorica: %s %s; remove %s and run lorica init again for a new one\n",
                init->server, days < 0 ? "has expired" : "expires within 30 days", init->tls);
    }
    free(pem);
}

/* The key is written last: with it the certificate is complete. */
static int make_certificate(struct init *init, struct lorica_error *err) {
    struct lorica_certificates texts;
    const bool key = lorica_path_exists(init->server_key), cert = lorica_path_exists(init->server);
    if (key && !cert)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s is there without %s; put its certificate beside it, or remove the "
                           "key and run lorica init again",
                           init->server_key, init->server);
    if (key && init->hosts)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s is there already; remove %s to make a certificate for other hosts",
                           init->server, init->tls);
    if (key) {
        check_expiry(init);
        return 0;
    }
    int rc = lorica_certificates_make(init->hosts, &texts, err);
    if (rc != 0)
        return rc;
    rc = lorica_file_replace(init->ca, texts.ca, strlen(texts.ca), 0644, err);
    if (rc == 0)
        rc = lorica_file_replace(init->server, texts.server, strlen(texts.server), 0644, err);
    if (rc == 0)
        rc = lorica_file_replace(init->server_key, texts.key, strlen(texts.key), 0600, err);
    lorica_certificates_finish(&texts);
    if (rc != 0)
        return rc;
    made(init, init->ca, "the authority that clients trust");
    made(init, init->server, "the server's certificate");
    made(init, init->server_key, "its key");
    return 0;
}

/* What the registry knows of admins. */
struct admins {
    bool in_force;                  /* there is one that was not revoked */
    char name[LORICA_NAME_MAX + 1]; /* of the last such */
    bool taken[KEY_NAMES_MAX];      /* [0] "admin", [1] "admin-2", ... */
};

static size_t admin_name(char *out, size_t size, size_t index) {
    const int n =
        index == 0 ? snprintf(out, size, "admin") : snprintf(out, size, "admin-%zu", index + 1);
    return (size_t)n;
}

static int note_key(void *arg, const struct lorica_key *key) {
    struct admins *admins = arg;
    char name[LORICA_NAME_MAX + 1];
    if (key->role == LORICA_ROLE_ADMIN && key->revoked_ms == 0) {
        admins->in_force = true;
        memcpy(admins->name, key->name, sizeof(admins->name));
    }
    for (size_t i = 0; i < KEY_NAMES_MAX; i++) {
        (void)admin_name(name, sizeof(name), i);
        if (strcmp(name, key->name) == 0)
            admins->taken[i] = true;
    }
    return 0;
}

/* Makes an admin key under the first free name and writes it to admin.key. The file stands there
 * empty while the registry makes the key: an empty file is a run that was cut off. */
static int create_admin(struct init *init, struct lorica_registry *registry,
                        const struct admins *admins, struct lorica_error *err) {
    const struct lorica_actor actor = {.key_name = "cli", .message = "lorica init"};
    struct lorica_key key = {.role = LORICA_ROLE_ADMIN};
    char line[LORICA_KEY_TEXT + 1];
    size_t index = 0;
    while (index < KEY_NAMES_MAX && admins->taken[index])
        index++;
    if (index == KEY_NAMES_MAX)
        return lorica_fail(err, LORICA_ELIMIT, "too many admin keys were made already");
    (void)admin_name(key.name, sizeof(key.name), index);
    int rc = lorica_file_replace(init->admin_key, "", 0, 0600, err);
    if (rc == 0)
        rc = lorica_registry_key_create(registry, &key, &actor, line, err);
    if (rc != 0)
        return rc;
    const size_t len = strlen(line);
    line[len] = '\n';
    rc = lorica_file_replace(init->admin_key, line, len + 1, 0600, err);
    explicit_bzero(line, sizeof(line));
    if (rc == 0)
        made(init, init->admin_key, "an admin key; keep it secret, it is printed nowhere");
    return rc;
}

static int make_admin(struct init *init, struct lorica_error *err) {
    struct stat st;
    const bool there = stat(init->admin_key, &st) == 0;
    const bool registry_there = lorica_path_exists(init->registry);
    if (there && st.st_size > 0 && init->new_admin)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s is there already; move it away to make another admin key",
                           init->admin_key);
    if (there && st.st_size > 0 && !registry_there)
        return lorica_fail(err, LORICA_ECONFLICT,
                           "%s is there, but the registry that knows it is not; restore %s, or "
                           "remove the key and run lorica init again",
                           init->admin_key, init->registry);
    if (there && st.st_size > 0)
        return 0;
    struct lorica_registry *registry = NULL;
    const struct lorica_registry_options options = {0};
    int rc = lorica_registry_open(init->registry, &options, &registry, err);
    if (rc != 0)
        return rc;
    if (!registry_there)
        made(init, init->registry, "the registry");
    struct admins *admins = calloc(1, sizeof(*admins));
    rc = admins ? lorica_registry_keys(registry, note_key, admins, err)
                : lorica_fail(err, LORICA_ENOMEM, "out of memory");
    if (rc == 0 && (there || init->new_admin || !admins->in_force))
        rc = create_admin(init, registry, admins, err);
    else if (rc == 0)
        (void)printf("%s is not here; the registry knows the admin key \"%s\". If that is lost, "
                     "lorica init --new-admin makes another\n",
                     init->admin_key, admins->name);
    free(admins);
    lorica_registry_close(registry);
    return rc;
}

static int make_receipt_key(struct init *init, struct lorica_error *err) {
    struct lorica_signkey *key = NULL;
    bool new_key = false;
    const int rc = lorica_receipt_key_open(init->dir, &key, &new_key, err);
    lorica_signkey_destroy(key);
    char *path = rc == 0 && new_key ? lorica_path_join(init->dir, "receipt.key") : NULL;
    if (path)
        made(init, path, "the key that signs receipts of answers");
    free(path);
    return rc;
}

static int run(int argc, char **argv) {
    struct init init = {0};
    struct lorica_error err = {0};
    const char *data = NULL;
    const char **hosts = NULL;
    const struct lorica_option options[] = {
        {.name = "data", .value = &data},
        {.name = "host", .list = &hosts},
        {.name = "new-admin", .flag = &init.new_admin},
    };
    if (lorica_cmd_options(&lorica_cmd_init, argc, argv, options,
                           sizeof(options) / sizeof(options[0]), 0, 0) < 0)
        return LORICA_EXIT_USAGE;
    init.hosts = hosts;
    int rc = init_paths(&init, data) ? 0 : LORICA_EINVAL;
    if (rc != 0) {
        init_finish(&init);
        return LORICA_EXIT_FAILED;
    }
    (void)umask(077);
    rc = make_dirs(&init, &err);
    if (rc == 0)
        rc = make_configuration(&init, &err);
    if (rc == 0)
        rc = make_certificate(&init, &err);
    if (rc == 0)
        rc = make_receipt_key(&init, &err);
    if (rc == 0)
        rc = make_admin(&init, &err);
    if (rc != 0)
        rc = lorica_cmd_fail(&err);
    else if (init.made == 0)
        (void)printf("%s is complete already: nothing was changed\n", init.dir);
    else
        (void)printf("%s is ready; next: lorica base import FILE, then lorica serve\n", init.dir);
    init_finish(&init);
    return rc;
}

const struct lorica_cmd lorica_cmd_init = {
    .name = "init",
    .synopsis = "[--data DIR] [--host NAME]... [--new-admin]",
    .summary = "make the data directory, its certificate and the first admin key",
    .help =
        "Makes what is missing and leaves what is there: run twice, it changes nothing.\n"
        "--data DIR\tthe data directory; otherwise $LORICA_DATA, or lorica in the user's data "
        "directory\n"
        "--host NAME\ta further name or address that the server's certificate holds for, next to "
        "localhost, 127.0.0.1 and ::1; may be given several times\n"
        "--new-admin\tmake another admin key in DIR/admin.key, for when the first is lost; the "
        "server must not be running\n"
        "The certificate (P-256, 825 days) is signed by an authority made for it alone, whose key "
        "is "
        "thrown away at once: DIR/tls/ca.pem, which clients trust, can vouch for no other server. "
        "To renew both, remove DIR/tls and run lorica init again. A certificate of your own goes "
        "to DIR/tls/server.pem (with its chain) and DIR/tls/server.key.\n"
        "DIR/receipt.key signs receipts of answers (adapter receipt); keep DIR/receipt.pub for as "
        "long as they are to be checked.\n",
    .run = run,
};
