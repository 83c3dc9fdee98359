/* SPDX-License-Identifier: MIT */
#include "gateway/server/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A peer that asks for new keys more often than this within a second wants something else. */
#define KEY_UPDATES_MAX 10

struct lorica_tls_context {
    SSL_CTX *ctx;
};

struct lorica_tls {
    SSL *ssl;
    BIO *in, *out; /* owned by ssl */
    unsigned key_updates;
    time_t key_second;
    bool broken;
    char reason[160];
};

/* The last error of OpenSSL as text: the one place where its errors are translated. */
static void tls_text(char *out, size_t size, const char *fallback) {
    const unsigned long code = ERR_peek_last_error();
    if (code)
        ERR_error_string_n(code, out, size);
    else
        (void)snprintf(out, size, "%s", fallback);
    ERR_clear_error();
}

static int tls_fail(struct lorica_error *err, int code, const char *what, const char *path) {
    char text[160];
    tls_text(text, sizeof(text), "unknown reason");
    return lorica_fail(err, code, "%s %s: %s; \"lorica init\" makes a certificate and its key",
                       what, path, text);
}

/* Only HTTP/1.1 is spoken, so that is the only protocol to agree on. */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                   const unsigned char *in, unsigned in_len, void *arg) {
    static const unsigned char ours[] = "\x08http/1.1";
    unsigned char *chosen = NULL;
    if (SSL_select_next_proto(&chosen, out_len, ours, sizeof(ours) - 1, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* Counts key updates, which cost the server work and the peer none. */
static void on_message(int write_p, int version, int content_type, const void *buf, size_t len,
                       SSL *ssl, void *arg) {
    struct lorica_tls *tls = SSL_get_app_data(ssl);
    if (write_p || content_type != SSL3_RT_HANDSHAKE || len < 1 || !tls ||
        *(const unsigned char *)buf != SSL3_MT_KEY_UPDATE)
        return;
    const time_t now = time(NULL);
    if (now != tls->key_second) {
        tls->key_second = now;
        tls->key_updates = 0;
    }
    if (++tls->key_updates > KEY_UPDATES_MAX) {
        tls->broken = true;
        (void)snprintf(tls->reason, sizeof(tls->reason), "too many key updates");
    }
}

/* No terminal is asked for a passphrase: a server has nobody to type it. */
static int on_passphrase(char *buf, int size, int rwflag, void *arg) { return -1; }

static bool configure(SSL_CTX *ctx) {
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    SSL_CTX_set_msg_callback(ctx, on_message);
    SSL_CTX_set_default_passwd_cb(ctx, on_passphrase);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
           SSL_CTX_set_num_tickets(ctx, 0) == 1 && SSL_CTX_set_max_early_data(ctx, 0) == 1 &&
           SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1;
}

int lorica_tls_context_create(const char *certificate, const char *key,
                              struct lorica_tls_context **ret, struct lorica_error *err) {
    struct lorica_tls_context *context = calloc(1, sizeof(*context));
    int rc = LORICA_ENOMEM;
    if (!context)
        return lorica_fail(err, LORICA_ENOMEM, "TLS: out of memory");
    ERR_clear_error();
    context->ctx = SSL_CTX_new(TLS_server_method());
    if (!context->ctx || !configure(context->ctx))
        rc = tls_fail(err, LORICA_ENOMEM, "TLS could not be set up for", certificate);
    else if (SSL_CTX_use_certificate_chain_file(context->ctx, certificate) != 1)
        rc = tls_fail(err, LORICA_EIO, "the certificate could not be read from", certificate);
    else if (SSL_CTX_use_PrivateKey_file(context->ctx, key, SSL_FILETYPE_PEM) != 1)
        rc = tls_fail(err, LORICA_EIO, "the private key could not be read from", key);
    else if (SSL_CTX_check_private_key(context->ctx) != 1)
        rc = tls_fail(err, LORICA_EINVAL,
                      "the private key does not belong to the certificate:", key);
    else {
        *ret = context;
        return 0;
    }
    lorica_tls_context_destroy(context);
    return rc;
}

void lorica_tls_context_destroy(struct lorica_tls_context *context) {
    if (!context)
        return;
    SSL_CTX_free(context->ctx);
    free(context);
}

int lorica_tls_create(struct lorica_tls_context *context, struct lorica_tls **ret) {
    struct lorica_tls *tls = calloc(1, sizeof(*tls));
    if (!tls)
        return LORICA_ENOMEM;
    ERR_clear_error();
    tls->ssl = SSL_new(context->ctx);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    if (!tls->ssl || !in || !out) {
        BIO_free(in);
        BIO_free(out);
        SSL_free(tls->ssl);
        free(tls);
        ERR_clear_error();
        return LORICA_ENOMEM;
    }
    tls->in = in;
    tls->out = out;
    SSL_set_bio(tls->ssl, in, out);
    SSL_set_app_data(tls->ssl, tls);
    SSL_set_accept_state(tls->ssl);
    *ret = tls;
    return 0;
}

void lorica_tls_destroy(struct lorica_tls *tls) {
    if (!tls)
        return;
    ERR_clear_error();
    SSL_free(tls->ssl);
    free(tls);
}

int lorica_tls_put(struct lorica_tls *tls, const void *bytes, size_t len) {
    size_t written = 0;
    if (len > LORICA_TLS_IN_MAX || BIO_ctrl_pending(tls->in) > LORICA_TLS_IN_MAX - len)
        return LORICA_ELIMIT;
    ERR_clear_error();
    if (BIO_write_ex(tls->in, bytes, len, &written) != 1 || written != len)
        return LORICA_ENOMEM;
    return 0;
}

size_t lorica_tls_take(struct lorica_tls *tls, void *bytes, size_t size) {
    size_t len = 0;
    ERR_clear_error();
    if (BIO_ctrl_pending(tls->out) == 0 || BIO_read_ex(tls->out, bytes, size, &len) != 1)
        return 0;
    return len;
}

size_t lorica_tls_waiting(const struct lorica_tls *tls) { return BIO_ctrl_pending(tls->out); }

/* What an SSL call that did not succeed means. */
static enum lorica_tls_result tls_result(struct lorica_tls *tls, int rc) {
    const int code = SSL_get_error(tls->ssl, rc);
    if (tls->broken)
        return LORICA_TLS_FAILED;
    if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE)
        return LORICA_TLS_MORE;
    if (code == SSL_ERROR_ZERO_RETURN)
        return LORICA_TLS_CLOSED;
    tls->broken = true;
    tls_text(tls->reason, sizeof(tls->reason), "TLS failed");
    return LORICA_TLS_FAILED;
}

enum lorica_tls_result lorica_tls_handshake(struct lorica_tls *tls) {
    if (tls->broken)
        return LORICA_TLS_FAILED;
    ERR_clear_error();
    const int rc = SSL_do_handshake(tls->ssl);
    return rc == 1 ? LORICA_TLS_OK : tls_result(tls, rc);
}

enum lorica_tls_result lorica_tls_read(struct lorica_tls *tls, void *bytes, size_t size,
                                       size_t *ret_len) {
    if (tls->broken)
        return LORICA_TLS_FAILED;
    ERR_clear_error();
    const int rc = SSL_read_ex(tls->ssl, bytes, size, ret_len);
    if (tls->broken)
        return LORICA_TLS_FAILED;
    return rc == 1 ? LORICA_TLS_OK : tls_result(tls, rc);
}

enum lorica_tls_result lorica_tls_write(struct lorica_tls *tls, const void *bytes, size_t len) {
    const char *p = bytes;
    while (len > 0) {
        size_t written = 0;
        if (tls->broken)
            return LORICA_TLS_FAILED;
        ERR_clear_error();
        const int rc = SSL_write_ex(tls->ssl, p, len, &written);
        if (rc != 1) {
            /* The buffer behind takes all there is, so that more can never be wanted. */
            (void)tls_result(tls, rc);
            tls->broken = true;
            return LORICA_TLS_FAILED;
        }
        p += written;
        len -= written;
    }
    return LORICA_TLS_OK;
}

void lorica_tls_shutdown(struct lorica_tls *tls) {
    if (tls->broken || !SSL_is_init_finished(tls->ssl))
        return;
    ERR_clear_error();
    (void)SSL_shutdown(tls->ssl);
    ERR_clear_error();
}

const char *lorica_tls_reason(const struct lorica_tls *tls) { return tls->reason; }
