/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "gateway/server/certificate.h"

static X509 *read_certificate(const char *pem) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(cert);
    return cert;
}

/* Verifies as a strict client does that trusts `ca` alone. */
static int verify(X509 *ca, X509 *server, const char *host, const char *ip) {
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    assert_int_equal(X509_STORE_add_cert(store, ca), 1);
    assert_int_equal(X509_STORE_CTX_init(ctx, store, server, NULL), 1);
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_X509_STRICT | X509_V_FLAG_CHECK_SS_SIGNATURE);
    X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_SSL_SERVER);
    if (host)
        X509_VERIFY_PARAM_set1_host(param, host, 0);
    if (ip)
        X509_VERIFY_PARAM_set1_ip_asc(param, ip);
    const int ok = X509_verify_cert(ctx);
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    return ok;
}

static void test_certificates_verify_for_this_machine_and_named_hosts_only(void **state) {
    (void)state;
    static const char *const hosts[] = {"lorica.tantanila.example", "192.0.2.7", NULL};
    struct lorica_certificates texts;
    struct lorica_error err;
    assert_int_equal(lorica_certificates_make(hosts, &texts, &err), 0);
    X509 *ca = read_certificate(texts.ca), *server = read_certificate(texts.server);
    assert_int_equal(verify(ca, server, "localhost", NULL), 1);
    assert_int_equal(verify(ca, server, NULL, "127.0.0.1"), 1);
    assert_int_equal(verify(ca, server, NULL, "::1"), 1);
    assert_int_equal(verify(ca, server, "lorica.tantanila.example", NULL), 1);
    assert_int_equal(verify(ca, server, NULL, "192.0.2.7"), 1);
    assert_int_equal(verify(ca, server, "other.example", NULL), 0);
    assert_int_equal(verify(ca, server, NULL, "192.0.2.8"), 0);
    X509_free(ca);
    X509_free(server);
    lorica_certificates_finish(&texts);
    assert_null(texts.key);
}

static void test_certificates_key_belongs_and_others_authority_does_not(void **state) {
    (void)state;
    struct lorica_certificates one, two;
    struct lorica_error err;
    assert_int_equal(lorica_certificates_make(NULL, &one, &err), 0);
    assert_int_equal(lorica_certificates_make(NULL, &two, &err), 0);
    X509 *ca = read_certificate(two.ca), *server = read_certificate(one.server);
    BIO *bio = BIO_new_mem_buf(one.key, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    assert_non_null(key);
    assert_int_equal(X509_check_private_key(server, key), 1);
    assert_int_equal(verify(ca, server, NULL, NULL), 0);
    assert_string_not_equal(one.key, two.key);
    EVP_PKEY_free(key);
    BIO_free(bio);
    X509_free(ca);
    X509_free(server);
    lorica_certificates_finish(&one);
    lorica_certificates_finish(&two);
}

static void test_certificates_hostile_host_is_refused(void **state) {
    (void)state;
    static const char *const wrong[] = {"",  "a b", "a,DNS:evil.example", "-a", ".a", "a/b",
                                        "*", "a\nb"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const char *const hosts[] = {wrong[i], NULL};
        struct lorica_certificates texts = {NULL};
        struct lorica_error err;
        assert_int_equal(lorica_certificates_make(hosts, &texts, &err), LORICA_EINVAL);
        assert_null(texts.ca);
    }
}

static void test_expiry_is_read_and_rubbish_is_refused(void **state) {
    (void)state;
    struct lorica_certificates texts;
    struct lorica_error err;
    int64_t end = 0;
    assert_int_equal(lorica_certificates_make(NULL, &texts, &err), 0);
    assert_int_equal(lorica_certificate_expiry(texts.server, strlen(texts.server), &end, &err), 0);
    const int64_t days = (end - (int64_t)time(NULL)) / (24 * 60 * 60);
    assert_in_range(days, LORICA_CERTIFICATE_DAYS - 1, LORICA_CERTIFICATE_DAYS);
    assert_int_equal(lorica_certificate_expiry("rubbish", 7, &end, &err), LORICA_EFORMAT);
    assert_int_equal(lorica_certificate_expiry("", 0, &end, &err), LORICA_EFORMAT);
    lorica_certificates_finish(&texts);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_certificates_verify_for_this_machine_and_named_hosts_only),
        cmocka_unit_test(test_certificates_key_belongs_and_others_authority_does_not),
        cmocka_unit_test(test_certificates_hostile_host_is_refused),
        cmocka_unit_test(test_expiry_is_read_and_rubbish_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
