/* SPDX-License-Identifier: MIT
 * Every call that takes memory fails in turn, once and for ever, where files are signed: what fails
 * says that memory was short and leaves no file behind, and what is made in spite of it holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../faults.h"

#include "gateway/cmd/model_dir.h"
#include "gateway/files.h"
#include "gateway/server/receipts.h"
#include "proto/model_signing.h"
#include "registry/openssl.h"

#define CALLS_MAX 20000

static char dir[64], made[96], made_too[96];
static struct lorica_signkey *key;

static void put(const char *name, const char *text) {
    char path[96];
    struct lorica_error err = {0};
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(lorica_file_replace(path, text, strlen(text), 0644, &err), 0);
}

static int setup(void **state) {
    struct lorica_error err = {0};
    const char *tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    (void)snprintf(dir, sizeof(dir), "%s/lorica-test-XXXXXX", tmp);
    assert_non_null(mkdtemp(dir));
    put("adapter_config.json", "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,"
                               "\"target_modules\":[\"q_proj\"]}");
    put("adapter_model.safetensors", "weights");
    put("manifest.json", "{}");
    return lorica_signkey_generate(&key, &err);
}

static int teardown(void **state) {
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors",
                                        "manifest.json"};
    char path[96];
    lorica_signkey_destroy(key);
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        assert_int_equal(remove(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

static int sign_adapter(struct lorica_error *err) {
    const struct lorica_digest base = {{1}};
    struct lorica_buf text;
    lorica_buf_init(&text, LORICA_ENVELOPE_MAX);
    const int rc = lorica_adapter_sign(dir, "cardiology", &base, key, &text, err);
    assert_true(rc || text.len > 100);
    lorica_buf_finish(&text);
    return rc;
}

static int sign_model(struct lorica_error *err) { return lorica_model_dir_sign(dir, key, err); }

/* A server's start without a key for its receipts. */
static int open_receipts(struct lorica_error *err) {
    struct lorica_signkey *receipts = NULL;
    bool is_new = false;
    const int rc = lorica_receipt_key_open(dir, &receipts, &is_new, err);
    assert_true(rc || (receipts && is_new));
    lorica_signkey_destroy(receipts);
    return rc;
}

/* What a failed attempt left is none, or whole: the next one goes on with it. */
static void check_left(int (*work)(struct lorica_error *err), bool done) {
    struct lorica_error err = {0};
    struct lorica_signkey *receipts = NULL;
    bool is_new;
    if (work == sign_model) {
        assert_int_equal(lorica_path_exists(made), done);
    } else if (work == open_receipts) {
        assert_int_equal(lorica_receipt_key_open(dir, &receipts, &is_new, &err), 0);
        lorica_signkey_destroy(receipts);
        assert_true(lorica_path_exists(made_too));
        assert_int_equal(remove(made_too), 0);
    }
    if (lorica_path_exists(made))
        assert_int_equal(remove(made), 0);
}

static void torture(int (*work)(struct lorica_error *err), const char *file, const char *file_too) {
    (void)snprintf(made, sizeof(made), "%s/%s", dir, file);
    (void)snprintf(made_too, sizeof(made_too), "%s/%s", dir, file_too);
    for (int persistent = 0; persistent < 2; persistent++) {
        bool reached = true;
        unsigned long call = 0, failed = 0;
        while (reached) {
            struct lorica_error err = {0};
            arm(MALLOC, ++call, persistent, ENOMEM);
            const int rc = work(&err);
            reached = disarm();
            if (rc && rc != LORICA_ENOMEM)
                print_error("call %lu: %s\n", call, err.text);
            assert_int_equal(rc, err.code);
            assert_true(rc == 0 || (reached && rc == LORICA_ENOMEM && err.text[0]));
            failed += rc != 0;
            check_left(work, rc == 0);
            assert_true(call < CALLS_MAX);
        }
        print_message("%s: %lu calls failed, with %lu there was an error\n", file, call - 1,
                      failed);
        assert_true(failed > 20);
    }
}

static void test_adapter_is_signed_or_not(void **state) { torture(sign_adapter, "none", "none"); }

static void test_model_is_signed_or_not(void **state) {
    torture(sign_model, LORICA_MODEL_SIG, "none");
}

static void test_receipt_key_is_there_or_not(void **state) {
    torture(open_receipts, "receipt.key", "receipt.pub");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapter_is_signed_or_not),
        cmocka_unit_test(test_model_is_signed_or_not),
        cmocka_unit_test(test_receipt_key_is_there_or_not),
    };
    lorica_openssl_watch();
    return cmocka_run_group_tests(tests, setup, teardown);
}
