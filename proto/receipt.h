/* SPDX-License-Identifier: MIT
 * What a server states of one answer that it gave: the payload of a receipt's envelope (envelope.h,
 * payload type LORICA_PAYLOAD_RECEIPT), one object
 *
 *   {"type":"lorica.receipt.v1","request_id","created":Unix seconds,
 *    "endpoint":"chat.completions" or "completions",
 *    "base":name,"base_digest":DIGEST,"adapter":"cardiology@3" or null,"adapter_digest":DIGEST or
 * null, "audit_seq","audit_hash":DIGEST,
 *    "request_digest":DIGEST,"prompt_digest":DIGEST,"prompt_tokens_digest":DIGEST,"prompt_tokens":n,
 *    "sampling":{"temperature","top_p","top_k","min_p","presence_penalty","frequency_penalty","seed",
 *                "max_tokens","n","ignore_eos"},
 *    "outputs":[{"index","digest":DIGEST,"tokens","finish_reason"}...]}
 *
 * Digests are SHA-256, "sha256:<64 hex digits>", over these bytes:
 *   request_digest        the body of the HTTP request
 *   prompt_digest         chat: the text that the template made of the messages (`lorica base
 * render` prints it); completion: the prompt as it was sent, UTF-8 without quotes or escapes; a
 * prompt of token ids: their JSON array without blanks prompt_tokens_digest  the ids that the model
 * was given, each as 32 bits, big-endian outputs[].digest      the text of a choice, UTF-8
 *   adapter_digest, base_digest   as everywhere; audit_seq and audit_hash: the audit chain's last
 *                         record just after the version was chosen (0 and zeroes: none)
 * seed: of choice 0; choice i is drawn with seed + i. No prompt and no answer is in it. */
#ifndef LORICA_PROTO_RECEIPT_H
#define LORICA_PROTO_RECEIPT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/digest.h"
#include "proto/openai.h"

#define LORICA_RECEIPT_TEXT_MAX 256

struct lorica_receipt_output {
    struct lorica_digest digest;
    uint32_t tokens;
    char finish_reason[16];
};

struct lorica_receipt {
    char request_id[LORICA_RECEIPT_TEXT_MAX];
    int64_t created;
    enum lorica_openai_endpoint endpoint;
    char base[LORICA_RECEIPT_TEXT_MAX];
    struct lorica_digest base_digest;
    char adapter[LORICA_RECEIPT_TEXT_MAX]; /**< "": the base alone */
    struct lorica_digest adapter_digest;   /**< unless it is the base alone */
    uint64_t audit_seq;
    struct lorica_digest audit_hash;
    struct lorica_digest request_digest, prompt_digest, prompt_tokens_digest;
    uint32_t prompt_tokens;
    /* sampling; written, and not read back: */
    double temperature, top_p, min_p, presence_penalty, frequency_penalty;
    uint32_t top_k, max_tokens;
    uint64_t seed;
    bool ignore_eos;
    struct lorica_receipt_output outputs[LORICA_OPENAI_MAX_N];
    uint32_t output_count; /**< "n" */
};

/** Appends the bytes. Returns the buffer's status. */
int lorica_receipt_write(struct lorica_buf *out, const struct lorica_receipt *receipt);

/** Reads them, the sampling aside. LORICA_EFORMAT names the member that is wrong. */
int lorica_receipt_parse(const char *text, size_t len, struct lorica_receipt *ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;

#endif
