/* SPDX-License-Identifier: MIT */
#include "gateway/server/certificate.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/bn.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "proto/buf.h"

#define SERIAL_BITS 127      /* random: two authorities of one name never share one */
#define CLOCK_SKEW (60 * 60) /* seconds that a client's clock may be behind */
#define HOST_MAX 253
#define NAMES_MAX 65536 /* bytes of all names */

static int fail_openssl(struct lorica_error *err, const char *what) {
    char text[200];
    ERR_error_string_n(ERR_peek_last_error(), text, sizeof(text));
    ERR_clear_error();
    return lorica_fail(err, LORICA_EBUG, "%s: %s", what, text);
}

/* An extension as OpenSSL's configuration would write it. */
static int add_extension(X509 *cert, X509 *issuer, int nid, const char *value) {
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    const int ok = ext && X509_add_ext(cert, ext, -1);
    X509_EXTENSION_free(ext);
    return ok;
}

static int set_serial(X509 *cert) {
    BIGNUM *number = BN_new();
    const int ok = number && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
                   BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert));
    BN_free(number);
    return ok;
}

static int set_name(X509_NAME *name, const char *common) {
    return X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC, (const unsigned char *)"lorica", -1,
                                      -1, 0) &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common, -1,
                                      -1, 0);
}

/* What both certificates have: version, serial number, times, subject, key. */
static X509 *certificate_new(EVP_PKEY *key, const char *common) {
    X509 *cert = X509_new();
    const long seconds = (long)LORICA_CERTIFICATE_DAYS * 24 * 60 * 60;
    if (!cert || !X509_set_version(cert, X509_VERSION_3) || !set_serial(cert) ||
        !X509_gmtime_adj(X509_getm_notBefore(cert), -CLOCK_SKEW) ||
        !X509_gmtime_adj(X509_getm_notAfter(cert), seconds - CLOCK_SKEW) ||
        !set_name(X509_get_subject_name(cert), common) || !X509_set_pubkey(cert, key)) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

static X509 *make_authority(EVP_PKEY *key) {
    X509 *ca = certificate_new(key, "lorica authority");
    if (ca && X509_set_issuer_name(ca, X509_get_subject_name(ca)) &&
        add_extension(ca, ca, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
        add_extension(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign") &&
        add_extension(ca, ca, NID_subject_key_identifier, "hash") &&
        add_extension(ca, ca, NID_authority_key_identifier, "keyid:always") &&
        X509_sign(ca, key, EVP_sha256()) > 0)
        return ca;
    X509_free(ca);
    return NULL;
}

static X509 *make_server(EVP_PKEY *key, X509 *ca, EVP_PKEY *ca_key, const char *names) {
    X509 *cert = certificate_new(key, "lorica server");
    if (cert && X509_set_issuer_name(cert, X509_get_subject_name(ca)) &&
        add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(cert, ca, NID_key_usage, "critical,digitalSignature") &&
        add_extension(cert, ca, NID_ext_key_usage, "serverAuth") &&
        add_extension(cert, ca, NID_subject_key_identifier, "hash") &&
        add_extension(cert, ca, NID_authority_key_identifier, "keyid:always") &&
        add_extension(cert, ca, NID_subject_alt_name, names) &&
        X509_sign(cert, ca_key, EVP_sha256()) > 0)
        return cert;
    X509_free(cert);
    return NULL;
}

/* True for a DNS name that may stand in a certificate; only such reach OpenSSL's own syntax. */
static int host_valid(const char *host) {
    const size_t len = strlen(host);
    return len > 0 && len <= HOST_MAX && host[0] != '.' && host[0] != '-' &&
           strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == len;
}

/* Writes "DNS:localhost,IP:127.0.0.1,..." */
static int write_names(struct lorica_buf *out, const char *const *hosts, struct lorica_error *err) {
    unsigned char address[sizeof(struct in6_addr)];
    (void)lorica_buf_puts(out, "DNS:localhost,IP:127.0.0.1,IP:::1");
    for (; hosts && *hosts; hosts++) {
        const int ip =
            inet_pton(AF_INET, *hosts, address) == 1 || inet_pton(AF_INET6, *hosts, address) == 1;
        if (!ip && !host_valid(*hosts))
            return lorica_fail(err, LORICA_EINVAL,
                               "\"%.80s\" is neither a host name nor an address", *hosts);
        (void)lorica_buf_printf(out, ",%s:%s", ip ? "IP" : "DNS", *hosts);
    }
    const int rc = lorica_buf_status(out);
    return rc == 0 ? 0 : lorica_fail(err, rc, "the names of the certificate are too long");
}

/* Content of a memory BIO as text for free(); NULL: no memory. Frees the BIO. */
static char *take_text(BIO *bio) {
    char *bytes = NULL;
    const long len = bio ? BIO_get_mem_data(bio, &bytes) : 0;
    char *text = len > 0 ? strndup(bytes, (size_t)len) : NULL;
    BIO_free(bio);
    return text;
}

static char *certificate_text(X509 *cert) {
    BIO *bio = BIO_new(BIO_s_mem());
    if (bio && PEM_write_bio_X509(bio, cert))
        return take_text(bio);
    BIO_free(bio);
    return NULL;
}

static char *key_text(EVP_PKEY *key) {
    BIO *bio = BIO_new(BIO_s_secmem());
    if (bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL))
        return take_text(bio);
    BIO_free(bio);
    return NULL;
}

int lorica_certificates_make(const char *const *hosts, struct lorica_certificates *ret,
                             struct lorica_error *err) {
    struct lorica_certificates made = {NULL};
    struct lorica_buf names;
    lorica_buf_init(&names, NAMES_MAX);
    int rc = write_names(&names, hosts, err);
    if (rc != 0) {
        lorica_buf_finish(&names);
        return rc;
    }
    EVP_PKEY *ca_key = EVP_EC_gen("P-256"), *key = EVP_EC_gen("P-256");
    X509 *ca = ca_key ? make_authority(ca_key) : NULL;
    X509 *server = ca && key ? make_server(key, ca, ca_key, names.data) : NULL;
    if (server) {
        made.ca = certificate_text(ca);
        made.server = certificate_text(server);
        made.key = key_text(key);
    }
    if (!made.ca || !made.server || !made.key)
        rc = fail_openssl(err, "the server's certificate could not be made");
    X509_free(server);
    X509_free(ca);
    EVP_PKEY_free(key);
    EVP_PKEY_free(ca_key); /* wiped by OpenSSL: nobody can sign in this authority's name again */
    lorica_buf_finish(&names);
    if (rc == 0)
        *ret = made;
    else
        lorica_certificates_finish(&made);
    return rc;
}

void lorica_certificates_finish(struct lorica_certificates *certificates) {
    if (certificates->key)
        OPENSSL_cleanse(certificates->key, strlen(certificates->key));
    free(certificates->ca);
    free(certificates->server);
    free(certificates->key);
    *certificates = (struct lorica_certificates){NULL};
}

int lorica_certificate_expiry(const char *pem, size_t len, int64_t *ret, struct lorica_error *err) {
    BIO *bio = len > 0 && len <= INT_MAX ? BIO_new_mem_buf(pem, (int)len) : NULL;
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    struct tm tm;
    int rc = 0;
    if (!cert || !ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm))
        rc = lorica_fail(err, LORICA_EFORMAT, "this is no certificate in PEM form");
    else
        *ret = timegm(&tm);
    ERR_clear_error();
    X509_free(cert);
    BIO_free(bio);
    return rc;
}
