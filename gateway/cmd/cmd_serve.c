/* SPDX-License-Identifier: MIT
 * lorica serve: opens what the server works with, in the order in which it depends on each other,
 * and closes it backwards. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/handlers/listing.h"
#include "gateway/server/notify.h"
#include "gateway/server/receipts.h"
#include "gateway/server/server.h"
#include "gateway/jobs/training_files.h"

#define SETTINGS_MAX 32

/* All that a run owns. */
struct serve {
    char *data_dir, *spool_dir, *certificate, *key;
    struct lorica_config config;
    struct lorica_server_parts parts;
    struct lorica_server *server;
    struct lorica_signkey *receipt_key;
    size_t adapter_count;
};

static int read_configuration(struct serve *serve, const char *const *values,
                              struct lorica_error *err) {
    size_t count = 0;
    const struct lorica_setting *settings = lorica_config_settings(&count);
    int rc = lorica_config_init(&serve->config);
    char *path = lorica_path_join(serve->data_dir, "lorica.conf");
    if (rc != 0 || !path) {
        free(path);
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    }
    rc = lorica_config_read(&serve->config, path, err);
    free(path);
    for (size_t i = 0; i < count && rc == 0; i++)
        if (values[i])
            rc = lorica_config_set(&serve->config, settings[i].name, values[i], err);
    char host[256];
    int port = 0;
    if (rc == 0)
        rc = lorica_config_listen(serve->config.listen, host, sizeof(host), &port, err);
    return rc;
}

static int open_base(struct serve *serve, struct lorica_error *err) {
    struct lorica_server_parts *p = &serve->parts;
    char *path = NULL;
    int rc = lorica_find_base(serve->data_dir, serve->config.base, &path, err);
    if (rc == 0)
        rc = lorica_base_open(path, &p->base, err);
    if (rc == 0)
        rc = lorica_tokenizer_create(p->base->metadata, p->base->metadata_len, &p->tokenizer, err);
    if (rc == 0)
        rc = lorica_chat_create(p->base->metadata, p->base->metadata_len, &p->chat, err);
    free(path);
    return rc;
}

/* Uploads that an earlier run did not bring to an end are of no use to anyone. */
static int open_spool(struct serve *serve, struct lorica_error *err) {
    serve->spool_dir = lorica_path_join(serve->data_dir, "spool");
    if (!serve->spool_dir)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const int rc = lorica_dirs_make(serve->spool_dir, 0700, err);
    if (rc != 0)
        return rc;
    DIR *dir = opendir(serve->spool_dir);
    if (!dir)
        return lorica_fail_errno(err, serve->spool_dir, "cannot be listed");
    for (const struct dirent *entry; (entry = readdir(dir));)
        if (strncmp(entry->d_name, "upload-", 7) == 0)
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    (void)closedir(dir);
    serve->parts.spool_dir = serve->spool_dir;
    return 0;
}

/* Says which channels point to a version of another base: requests for them are refused. */
static int check_channels(struct serve *serve, const char *name, struct lorica_error *err) {
    const struct lorica_server_parts *p = &serve->parts;
    struct lorica_channels channels = {0};
    int rc = lorica_channels_read(p->registry, name, &channels, err);
    for (size_t i = 0; i < channels.count && rc == 0; i++) {
        struct lorica_version version;
        if (channels.items[i].version == 0)
            continue;
        rc = lorica_registry_version(p->registry, name, channels.items[i].version, &version, err);
        if (rc == 0 && !lorica_digest_equal(&version.base_digest, &p->base->digest))
            lorica_log_line(p->log, "warning",
                            "event=other_base adapter=%s:%s version=%llu note=\"published for "
                            "another base model: requests for it are refused\"",
                            name, channels.items[i].channel, (unsigned long long)version.version);
    }
    lorica_channels_finish(&channels);
    return rc;
}

/* What is asked for by the base's name is answered by the base alone: no adapter may stand behind
 * it, as one may that was published while another base was served. */
static int check_name(const struct serve *serve, const char *adapter, struct lorica_error *err) {
    if (strcmp(adapter, serve->parts.base->name) != 0)
        return 0;
    return lorica_fail(
        err, LORICA_ECONFLICT,
        "the base model \"%s\" has the name of an adapter: requests for the adapter "
        "would be answered by the base alone. Serve another base, or move this one's "
        "file out of %s/bases and import it under another name (--name)",
        adapter, serve->data_dir);
}

#define PAGE 256

static int check_adapters(struct serve *serve, struct lorica_error *err) {
    struct lorica_names names = {0};
    char after[LORICA_NAME_MAX + 1] = "";
    int rc;
    do {
        lorica_names_finish(&names);
        rc = lorica_names_read(serve->parts.registry, after[0] ? after : NULL, PAGE, &names, err);
        for (size_t i = 0; i < names.count && rc == 0; i++) {
            (void)snprintf(after, sizeof(after), "%s", names.items[i].name);
            serve->adapter_count++;
            rc = check_name(serve, after, err);
            if (rc == 0)
                rc = check_channels(serve, after, err);
        }
    } while (rc == 0 && names.count == PAGE);
    lorica_names_finish(&names);
    return rc;
}

static int open_registry(struct serve *serve, struct lorica_error *err) {
    const struct lorica_registry_options options = {0};
    char *path = lorica_path_join(serve->data_dir, "registry");
    if (!path)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    const int rc = lorica_registry_open(path, &options, &serve->parts.registry, err);
    free(path);
    return rc;
}

static int open_engine(struct serve *serve, struct lorica_error *err) {
    struct lorica_server_parts *p = &serve->parts;
    struct lorica_engine_options options;
    lorica_engine_default_options(&options);
    options.threads = (unsigned)serve->config.threads;
    options.kv_format = (enum lorica_kv_format)serve->config.kv;
    options.kv_tokens = (uint32_t)serve->config.kv_tokens;
    options.prefix_bytes = (size_t)serve->config.prefix_cache_mb << 20;
    options.step_seconds = (double)serve->config.step_ms / 1000;
    if (serve->config.no_speculation)
        options.speculation = LORICA_SPECULATE_NEVER;
    options.max_running = (uint32_t)serve->config.max_running;
    options.max_waiting = (uint32_t)serve->config.max_waiting;
    if (lorica_adapter_cache_create((size_t)serve->config.adapter_cache_mb << 20, &p->adapters) !=
        0)
        return lorica_fail(err, LORICA_ENOMEM, "the adapter cache: out of memory");
    return lorica_engine_create(p->base, p->tokenizer, &options, &p->engine, err);
}

static int open_receipt_key(struct serve *serve, struct lorica_error *err) {
    bool made = false;
    const int rc = lorica_receipt_key_open(serve->data_dir, &serve->receipt_key, &made, err);
    serve->parts.receipt_key = serve->receipt_key;
    return rc;
}

static int open_tls(struct serve *serve, struct lorica_error *err) {
    serve->certificate = serve->config.tls_certificate
                             ? strdup(serve->config.tls_certificate)
                             : lorica_path_join(serve->data_dir, "tls/server.pem");
    serve->key = serve->config.tls_key ? strdup(serve->config.tls_key)
                                       : lorica_path_join(serve->data_dir, "tls/server.key");
    if (!serve->certificate || !serve->key)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    return lorica_tls_context_create(serve->certificate, serve->key, &serve->parts.tls, err);
}

static int open_all(struct serve *serve, struct lorica_error *err) {
    serve->parts.config = &serve->config;
    serve->parts.data_dir = serve->data_dir;
    if (lorica_log_create(STDERR_FILENO, &serve->parts.log) != 0)
        return lorica_fail(err, LORICA_ENOMEM, "the log: out of memory");
    int rc = open_tls(serve, err);
    if (rc == 0)
        rc = open_receipt_key(serve, err);
    if (rc == 0)
        rc = open_base(serve, err);
    if (rc == 0)
        rc = open_registry(serve, err);
    if (rc == 0)
        rc = check_adapters(serve, err);
    if (rc == 0)
        rc = open_spool(serve, err);
    if (rc == 0)
        rc = lorica_training_files_open(serve->data_dir, err);
    if (rc == 0)
        rc = open_engine(serve, err);
    if (rc != 0)
        return rc;
    serve->server = malloc(sizeof(*serve->server));
    if (!serve->server)
        return lorica_fail(err, LORICA_ENOMEM, "out of memory");
    rc = lorica_server_init(serve->server, &serve->parts, err);
    if (rc != 0) {
        free(serve->server);
        serve->server = NULL;
    }
    return rc;
}

static void close_all(struct serve *serve) {
    if (serve->server)
        lorica_server_finish(serve->server);
    lorica_engine_destroy(serve->parts.engine);
    lorica_adapter_cache_destroy(serve->parts.adapters);
    lorica_registry_close(serve->parts.registry);
    lorica_chat_destroy(serve->parts.chat);
    lorica_tokenizer_destroy(serve->parts.tokenizer);
    lorica_base_close(serve->parts.base);
    lorica_tls_context_destroy(serve->parts.tls);
    lorica_signkey_destroy(serve->receipt_key);
    lorica_log_destroy(serve->parts.log);
    free(serve->server);
    lorica_config_finish(&serve->config);
    free(serve->certificate);
    free(serve->key);
    free(serve->spool_dir);
    free(serve->data_dir);
}

/* Core files would hold keys and patients' words. */
static void harden(void) {
    const struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)umask(077);
}

static void announce(const struct serve *serve) {
    const char *listen = serve->config.listen;
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    (void)printf("lorica: serving %s on https://%.*s:%d (%zu adapters, %lld threads)\n",
                 serve->parts.base->name, (int)(strrchr(listen, ':') - listen), listen,
                 serve->server->port, serve->adapter_count,
                 serve->config.threads ? serve->config.threads : (long long)cores);
    (void)fflush(stdout);
    lorica_notify("READY=1");
}

static int serve_all(struct serve *serve) {
    struct lorica_error err = {0};
    int rc = open_all(serve, &err);
    if (rc == 0) {
        announce(serve);
        lorica_server_run(serve->server);
        lorica_notify("STOPPING=1");
        if (serve->server->store_failed)
            rc = lorica_fail(&err, LORICA_EIO,
                             "the registry in %s made no more changes after a write met a fault of "
                             "the disk or damage; what was acknowledged is kept. Check the disk, "
                             "run `lorica verify`, then start again, or restore a backup",
                             serve->data_dir);
    }
    close_all(serve);
    return rc == 0 ? LORICA_EXIT_OK : lorica_cmd_fail(&err);
}

static int run(int argc, char **argv) {
    struct serve serve = {0};
    struct lorica_error err = {0};
    const char *data = NULL;
    const char *values[SETTINGS_MAX] = {NULL};
    bool flags[SETTINGS_MAX] = {false};
    struct lorica_option options[SETTINGS_MAX + 1] = {{.name = "data", .value = &data}};
    size_t count = 0;
    const struct lorica_setting *settings = lorica_config_settings(&count);
    for (size_t i = 0; i < count && i < SETTINGS_MAX; i++) {
        options[i + 1].name = settings[i].name;
        if (settings[i].type == LORICA_SETTING_BOOL)
            options[i + 1].flag = &flags[i];
        else
            options[i + 1].value = &values[i];
    }
    if (lorica_cmd_options(&lorica_cmd_serve, argc, argv, options, count + 1, 0, 0) < 0)
        return LORICA_EXIT_USAGE;
    for (size_t i = 0; i < count; i++)
        if (flags[i])
            values[i] = "true";
    harden();
    serve.data_dir = lorica_data_dir(data);
    if (!serve.data_dir)
        return LORICA_EXIT_FAILED;
    const int rc = read_configuration(&serve, values, &err);
    if (rc != 0) {
        close_all(&serve);
        return rc == LORICA_EINVAL ? lorica_cmd_usage(&lorica_cmd_serve, "%s", err.text)
                                   : lorica_cmd_fail(&err);
    }
    return serve_all(&serve);
}

const struct lorica_cmd lorica_cmd_serve = {
    .name = "serve",
    .synopsis = "[--listen HOST:PORT] [--base NAME] [--threads N] [--data DIR] [option...]",
    .summary = "answer HTTPS requests with the adapter that each one names",
    .help =
        "Prints one line when it is ready. SIGTERM or SIGINT ends it: no new work is taken, "
        "answers "
        "under way are finished.\n"
        "--listen HOST:PORT\taddress to listen on (127.0.0.1:8443); port 0 takes a free one\n"
        "--base NAME\tbase model; needed when there are several\n"
        "--threads N\tthreads that compute; 0, the default: one per core. As many as there are "
        "cores that may be used are bound to one each\n"
        "--data DIR\tthe data directory\n"
        "--kv-tokens N\ttokens that the key/value cache holds for all requests together (32768)\n"
        "--kv bf16|int8\thow it holds them; int8 takes about half of the memory and is a little "
        "less exact (bf16)\n"
        "--prefix-cache-mb N\tmemory for pages of it that are kept for prompts that begin alike; "
        "0: "
        "none (128)\n"
        "--max-running N\tsequences computed in one batch (64)\n"
        "--max-waiting N\tsequences that may wait; more are answered 503 (256)\n"
        "--step-ms N\thow long prompts may make a step that running answers wait for; 0: no bound "
        "(40)\n"
        "--no-speculation\tdo not guess ahead from the text so far; answers are the same either "
        "way\n"
        "--priority-high KEYS\tnames of keys (er-*, separated by commas) whose requests count four "
        "times as much\n"
        "--priority-low KEYS\tthose whose requests count a quarter\n"
        "--adapter-cache-mb N\tmemory for adapters that are ready to answer (512)\n"
        "--upload-limit-mb N\tlargest upload of an adapter (2048)\n"
        "--training-file-mb N\tlargest upload of a file to train on (512)\n"
        "--no-training\trefuse fine-tuning jobs; those there are wait\n"
        "--training-threads N\tthreads of the trainer, which gives way to those that answer; 0, "
        "the default: half of the cores\n"
        "--training-memory-mb N\tmemory that the trainer may have besides the base; 0: no bound "
        "(2048)\n"
        "--max-connections N\topen connections; more wait to be taken (1024)\n"
        "--max-per-key N\trequests of one key at once; more are answered 429 (64)\n"
        "--drain-seconds N\thow long answers may take to finish at the end (25)\n"
        "--tls-certificate FILE\tcertificate chain in PEM (DIR/tls/server.pem)\n"
        "--tls-key FILE\tits private key (DIR/tls/server.key)\n"
        "--mlflow-url URL\tregister each published version as a model version of this MLflow "
        "tracking server, and channels as aliases, behind the answers: what could not be sent is "
        "sent later. MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN, in the environment say who asks\n"
        "--mlflow-ca FILE\ttrust the authority in this PEM file (the system's)\n"
        "--mlflow-experiment NAME\texperiment of the runs that hold the versions' files "
        "(lorica-versions)\n"
        "--metrics-open\tanswer /metrics without a key; otherwise any key will do\n"
        "Every option but --data may also stand in DIR/lorica.conf as a line \"name = value\" "
        "(metrics-open = true); the command line stands over it.\n"
        "The log, one line for each request, goes to standard error. It never holds prompts, "
        "answers or keys.\n",
    .run = run,
};
