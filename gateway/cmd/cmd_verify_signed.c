/* SPDX-License-Identifier: MIT
 * lorica verify model, receipt: check signatures on files, without a server. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gateway/cmd/cmd.h"
#include "gateway/files.h"
#include "gateway/cmd/findings.h"
#include "gateway/cmd/model_dir.h"
#include "gateway/cmd/table.h"
#include "proto/receipt.h"
#include "registry/digest.h"

enum { MODEL, RECEIPT };

#define COMMAND(which) (&lorica_cmd_verify_signed[which])
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Prints what does not match, or the sentence `clean`. Returns an enum lorica_exit. */
static int print_findings(const struct lorica_findings *findings, const char *clean, bool json) {
    struct lorica_error err = {0};
    if (json && lorica_findings_print_json(findings, &err) != 0)
        return lorica_cmd_fail(&err);
    if (!json && findings->count)
        (void)printf("%s", findings->report.data ? findings->report.data : "");
    else if (!json)
        (void)printf("%s\n", clean);
    return findings->count ? LORICA_EXIT_FAILED : LORICA_EXIT_OK;
}

/* A bundle whose signature is by this key. */
static int read_bundle(const char *path, const struct lorica_signkey *key,
                       struct lorica_model_manifest *ret, struct lorica_error *err) {
    struct lorica_bundle bundle = {.hint = NULL};
    char *text = NULL, id[LORICA_KEYID_TEXT];
    size_t len = 0;
    int rc = lorica_file_read(path, LORICA_BUNDLE_MAX, &text, &len, err);
    if (rc != 0)
        return rc;
    rc = lorica_bundle_parse(text, len, &bundle, err);
    free(text);
    if (rc == 0 && bundle.hint &&
        strcmp(bundle.hint, lorica_keyid_format(lorica_signkey_id(key), id)) != 0)
        rc = lorica_fail(err, LORICA_ESIGNATURE,
                         "the bundle says that it is signed with the key %.80s; this one is %s",
                         bundle.hint, id);
    if (rc == 0)
        rc = lorica_signkey_verify(key, &bundle.envelope, err);
    if (rc == 0)
        rc = lorica_model_manifest_parse(bundle.envelope.payload, bundle.envelope.payload_len,
                                         &lorica_sha256_hasher, ret, err);
    lorica_bundle_finish(&bundle);
    return rc == 0 ? 0 : lorica_fail_prefix(err, "%s", path);
}

/* Both lists are walked once each: `is` is sorted, `said` need not be sorted alike. */
static void compare(const struct lorica_model_manifest *said,
                    const struct lorica_model_manifest *is, bool extra_allowed,
                    struct lorica_findings *findings) {
    for (size_t i = 0; i < said->file_count; i++) {
        const struct lorica_model_file *file =
            lorica_model_file_find(is->files, is->file_count, said->files[i].name);
        if (!file)
            lorica_findings_add(findings, "is signed, and missing", said->files[i].name);
        else if (!lorica_digest_equal(&file->digest, &said->files[i].digest))
            lorica_findings_add(findings, "is not what was signed", said->files[i].name);
    }
    for (size_t i = 0; i < is->file_count && !extra_allowed; i++)
        if (!lorica_model_file_find(said->files, said->file_count, is->files[i].name))
            lorica_findings_add(findings, "is here, and not signed", is->files[i].name);
}

static int verify_model(const char *dir, const char *key_path, const char *bundle_path,
                        bool extra_allowed, struct lorica_findings *findings,
                        struct lorica_error *err) {
    struct lorica_model_manifest said = {.subject = NULL}, is = {.subject = NULL};
    struct lorica_signkey *key = NULL;
    struct stat st;
    int rc = lorica_key_file_public(key_path, &key, err);
    if (rc == 0)
        rc = read_bundle(bundle_path, key, &said, err);
    lorica_signkey_destroy(key);
    if (rc == 0)
        rc = lorica_model_dir_read(dir, said.ignored, said.ignored_count,
                                   stat(bundle_path, &st) == 0 ? &st : NULL, &is, err);
    if (rc == 0)
        compare(&said, &is, extra_allowed, findings);
    lorica_model_manifest_finish(&said);
    lorica_model_manifest_finish(&is);
    return rc;
}

static int model(int argc, char **argv) {
    const char *key = NULL, *signature = NULL;
    bool extra = false, json = false;
    const struct lorica_option options[] = {{.name = "key", .value = &key},
                                            {.name = "signature", .value = &signature},
                                            {.name = "ignore-unsigned-files", .flag = &extra},
                                            {.name = "json", .flag = &json}};
    struct lorica_findings findings;
    struct lorica_error err = {0};
    if (lorica_cmd_options(COMMAND(MODEL), argc, argv, options, COUNT(options), 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    if (!key)
        return lorica_cmd_usage(COMMAND(MODEL), "--key is missing");
    char *path = signature ? strdup(signature) : lorica_path_join(argv[0], LORICA_MODEL_SIG);
    lorica_findings_init(&findings);
    int rc = path ? verify_model(argv[0], key, path, extra, &findings, &err)
                  : lorica_fail(&err, LORICA_ENOMEM, "out of memory");
    rc = rc == 0 ? print_findings(&findings, "the files are what was signed", json)
                 : lorica_cmd_fail(&err);
    lorica_buf_finish(&findings.report);
    free(path);
    return rc;
}

/* Receipts. */

/* The payload of an envelope that this key has signed; caller finishes *ret. */
static int open_receipt(const char *path, const struct lorica_signkey *key,
                        struct lorica_envelope *ret, struct lorica_receipt *receipt,
                        struct lorica_error *err) {
    struct lorica_envelope e = {0};
    char *text = NULL;
    size_t len = 0;
    int rc = lorica_file_read(path, LORICA_ENVELOPE_MAX, &text, &len, err);
    if (rc != 0)
        return rc;
    rc = lorica_envelope_parse(text, len, &e, err);
    free(text);
    if (rc == 0 && strcmp(e.payload_type, LORICA_PAYLOAD_RECEIPT) != 0)
        rc = lorica_fail(err, LORICA_EFORMAT, "it is no receipt: its payloadType is \"%.80s\"",
                         e.payload_type);
    if (rc == 0)
        rc = lorica_signkey_verify(key, &e, err);
    if (rc == 0)
        rc = lorica_receipt_parse((const char *)e.payload, e.payload_len, receipt, err);
    if (rc == 0) {
        *ret = e;
        return 0;
    }
    lorica_envelope_finish(&e);
    return lorica_fail_prefix(err, "%s", path);
}

/* A file's text is one of those with these digests. */
static int check_text(const char *path, const char *what, const struct lorica_digest *digests,
                      size_t count, struct lorica_findings *findings, struct lorica_error *err) {
    struct lorica_digest digest;
    if (!path)
        return 0;
    const int rc = lorica_file_digest(path, &digest, err);
    for (size_t i = 0; i < count && rc == 0; i++)
        if (lorica_digest_equal(&digest, &digests[i]))
            return 0;
    if (rc == 0)
        lorica_findings_add(findings, what, path);
    return rc;
}

static int check_texts(const struct lorica_receipt *r, const char *prompt, const char *output,
                       struct lorica_findings *findings, struct lorica_error *err) {
    struct lorica_digest outputs[LORICA_OPENAI_MAX_N];
    for (uint32_t i = 0; i < r->output_count; i++)
        outputs[i] = r->outputs[i].digest;
    const int rc = check_text(prompt, "is not the prompt of this receipt", &r->prompt_digest, 1,
                              findings, err);
    return rc ? rc
              : check_text(output, "is not an output of this receipt", outputs, r->output_count,
                           findings, err);
}

static void print_receipt(const struct lorica_receipt *r) {
    char text[LORICA_DIGEST_TEXT], when[32];
    lorica_time_format(r->created, when);
    (void)printf("%-16s%s\n%-16s%s\n%-16s%s\n", "request", r->request_id, "time", when, "base",
                 lorica_digest_format(&r->base_digest, text));
    (void)printf("%-16s%s\n", "adapter", r->adapter[0] ? r->adapter : "none");
    if (r->adapter[0])
        (void)printf("%-16s%s\n", "adapter_digest", lorica_digest_format(&r->adapter_digest, text));
    (void)printf("%-16s%llu\n", "audit_seq", (unsigned long long)r->audit_seq);
    (void)printf("%-16s%s\n", "prompt", lorica_digest_format(&r->prompt_digest, text));
    for (uint32_t i = 0; i < r->output_count; i++)
        (void)printf("%-16s%s (%u tokens, %s)\n", "output",
                     lorica_digest_format(&r->outputs[i].digest, text), r->outputs[i].tokens,
                     r->outputs[i].finish_reason);
}

/* The key that is named, or that of the data directory. */
static int open_key(const char *key_path, const char *data, struct lorica_signkey **ret,
                    struct lorica_error *err) {
    if (key_path)
        return lorica_key_file_public(key_path, ret, err);
    char *dir = lorica_data_dir(data);
    char *path = dir ? lorica_path_join(dir, "receipt.pub") : NULL;
    int rc = LORICA_ENOMEM;
    if (path && !lorica_path_exists(path))
        rc = lorica_fail(err, LORICA_ENOTFOUND,
                         "%s is not here: name the server's public key with --key; `lorica adapter "
                         "receipt --public-key` prints it",
                         path);
    else if (path)
        rc = lorica_key_file_public(path, ret, err);
    else
        (void)lorica_fail(err, rc, "the data directory's key cannot be found");
    free(path);
    free(dir);
    return rc;
}

static int receipt(int argc, char **argv) {
    const char *key_path = NULL, *data = NULL, *prompt = NULL, *output = NULL;
    bool json = false;
    const struct lorica_option options[] = {{.name = "key", .value = &key_path},
                                            {.name = "prompt", .value = &prompt},
                                            {.name = "output", .value = &output},
                                            {.name = "data", .value = &data},
                                            {.name = "json", .flag = &json}};
    struct lorica_signkey *key = NULL;
    struct lorica_envelope envelope = {0};
    struct lorica_receipt r = {.created = 0};
    struct lorica_findings findings;
    struct lorica_error err = {0};
    if (lorica_cmd_options(COMMAND(RECEIPT), argc, argv, options, COUNT(options), 1, 1) < 0)
        return LORICA_EXIT_USAGE;
    lorica_findings_init(&findings);
    int rc = open_key(key_path, data, &key, &err);
    if (rc == 0)
        rc = open_receipt(argv[0], key, &envelope, &r, &err);
    if (rc == 0)
        rc = check_texts(&r, prompt, output, &findings, &err);
    if (rc == 0 && !json)
        print_receipt(&r);
    rc = rc == 0 ? print_findings(&findings, "the receipt holds", json) : lorica_cmd_fail(&err);
    lorica_buf_finish(&findings.report);
    lorica_envelope_finish(&envelope);
    lorica_signkey_destroy(key);
    return rc;
}

const struct lorica_cmd lorica_cmd_verify_signed[] = {
    [MODEL] =
        {.name = "verify model",
         .synopsis = "DIR --key PUBLIC_KEY [--signature FILE] [--ignore-unsigned-files] [--json]",
         .summary = "check a directory against its OpenSSF Model Signing bundle",
         .help =
             "DIR\tthe files, as `adapter export --sign` or `model_signing sign key` left them\n"
             "--key PUBLIC_KEY\tthe signer's public key, a PEM file: P-256, P-384, P-521 or "
             "Ed25519\n"
             "--signature FILE\tthe bundle; otherwise DIR/model.sig\n"
             "--ignore-unsigned-files\tfiles that are not signed may be there too\n"
             "--json\tprint the findings as JSON\n"
             "Needs no server. Ends with 1 when the signature does not hold, or a file was "
             "changed, is missing, or is there without being signed; each on a line. The format "
             "is OpenSSF Model Signing v1.0, key method, files hashed whole with SHA-256.\n",
         .run = model},
    [RECEIPT] =
        {.name = "verify receipt",
         .synopsis = "FILE [--key PUBLIC_KEY] [--prompt FILE] [--output FILE] [--json] "
                     "[--data DIR]",
         .summary = "check the receipt of an answer",
         .help =
             "FILE\tthe receipt, as the server gave it (adapter receipt)\n"
             "--key PUBLIC_KEY\tthe server's public key, a PEM file; otherwise DIR/receipt.pub. "
             "The "
             "public half of a key that was lost or replaced is kept in DIR/receipt-ID.pub\n"
             "--prompt FILE\talso compare the prompt: of a completion its text, of a chat what "
             "`base render` prints for the messages, byte for byte\n"
             "--output FILE\talso compare the text of the answer (one of them, where there were "
             "several), byte for byte\n"
             "--json\tprint the findings as JSON\n"
             "--data DIR\tthe data directory; otherwise $LORICA_DATA, or lorica in the user's data "
             "directory\n"
             "Needs no server. Prints what the receipt says, and ends with 1 when its signature "
             "does not hold or something that was named does not match.\n",
         .run = receipt},
};
const size_t lorica_cmd_verify_signed_count = COUNT(lorica_cmd_verify_signed);
