/* SPDX-License-Identifier: MIT
 * The frozen base model: one immutable `.lorica` file, mapped read-only.
 *
 * File, little-endian:
 *   0   8   magic "LORICA\0\1"
 *   8   u32 format version (1)         12  u32 zero
 *   16  u64 offset of the metadata     24  u64 its length (JSON)
 *   32  u64 offset of the tensor table 40  u64 number of entries
 *   48  u64 offset of the data         56  u64 length of the whole file
 *   64  32  base digest                96  32 zero bytes
 * Each tensor's parts start on 64-byte boundaries, in the order in which a forward pass reads them.
 * The base digest is SHA-256 over the canonical content: metadata without provenance, table, data.
 */
#ifndef LORICA_RUNTIME_BASE_H
#define LORICA_RUNTIME_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/matrix.h"
#include "proto/buf.h"
#include "proto/digest.h"
#include "proto/err.h"

/** The linear layers of one block. Paths in lorica_module_paths. */
enum lorica_module {
    LORICA_MODULE_Q,
    LORICA_MODULE_K,
    LORICA_MODULE_V,
    LORICA_MODULE_O,
    LORICA_MODULE_GATE,
    LORICA_MODULE_UP,
    LORICA_MODULE_DOWN,
    LORICA_MODULE_COUNT
};

/** Path of a module below its layer: "self_attn.q_proj", ..., "mlp.down_proj". */
extern const char *const lorica_module_paths[LORICA_MODULE_COUNT];

/** How positions stretch beyond the trained length (Hugging Face rope types). */
enum lorica_rope_scaling { LORICA_ROPE_DEFAULT, LORICA_ROPE_LINEAR, LORICA_ROPE_LLAMA3 };

/** Architecture as data: what a forward and a backward pass need to know. */
struct lorica_arch {
    uint32_t vocab, hidden, layers, heads, kv_heads, head_dim, intermediate;
    uint32_t max_positions;
    float rms_eps;
    double rope_theta;
    enum lorica_rope_scaling rope_scaling;
    double rope_factor;                   /**< LINEAR, LLAMA3 */
    double rope_low_freq, rope_high_freq; /**< LLAMA3 */
    uint32_t rope_original_positions;     /**< LLAMA3 */
    bool tied_head;                       /**< the output head is the embedding */
};

/** Fills inv_freq[head_dim / 2] for the architecture's rope type. */
void lorica_arch_inv_freq(const struct lorica_arch *arch, float *inv_freq);

/** Shape of a module's matrix. */
void lorica_arch_module_shape(const struct lorica_arch *arch, enum lorica_module module,
                              uint32_t *ret_n, uint32_t *ret_k);

struct lorica_layer {
    struct lorica_matrix modules[LORICA_MODULE_COUNT];
    const float *attn_norm, *mlp_norm; /**< [hidden] */
};

/** An open base. Immutable after open: any number of threads may read it. */
struct lorica_base {
    struct lorica_arch arch;
    struct lorica_digest digest;
    char name[128];
    struct lorica_matrix embed; /**< [vocab][hidden]: F32, F16, BF16, or Q8 (lossless from GGUF) */
    struct lorica_matrix head;  /**< equals embed when tied */
    const float *final_norm;    /**< [hidden] */
    struct lorica_layer *layers;
    const char *metadata; /**< the JSON text, NUL-terminated; borrowed: tokenizer and template */
    size_t metadata_len;
    void *owned; /**< private: mapping */
};

/** Maps and checks a base file: magic, version, bounds of everything, shapes against the
 * architecture. Does not read the data (see lorica_base_verify). On success the caller owns *ret;
 * close it. */
int lorica_base_open(const char *path, struct lorica_base **ret,
                     struct lorica_error *err) LORICA_MUSTCHECK;

/** Unmaps and frees. NULL is accepted. */
void lorica_base_close(struct lorica_base *base);

/** Recomputes the digest over the whole content; LORICA_EFORMAT when it differs. */
int lorica_base_verify(const struct lorica_base *base, const struct lorica_hasher *hasher,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Called now and then in long work; done and total in bytes. */
typedef void (*lorica_progress_fn)(void *arg, const char *what, unsigned long long done,
                                   unsigned long long total);

struct lorica_import_options {
    const char *name;           /**< NULL: from the source's own name */
    enum lorica_format format;  /**< of the linear layers: NF4, Q8, BF16, F32; a matrix already
                                     quantised by bitsandbytes stays as it is under NF4 */
    bool keep_source_precision; /**< no quantising: linear layers as the source has them */
    const char *template_name;  /**< NULL: recognise; else e.g. "chatml" (see chat.h) */
    const struct lorica_hasher *hasher;
    lorica_progress_fn progress; /**< may be NULL */
    void *progress_arg;
};

/** Imports a GGUF file or a Hugging Face directory into a new file at `out_path` (written beside,
 * synced, renamed: whole or not at all; enough room on the disk is checked first). */
int lorica_base_import(const char *source, const char *out_path,
                       const struct lorica_import_options *options,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Opens whatever `path` is: a .lorica file, or a GGUF file or Hugging Face directory, which is
 * then imported with keep_source_precision into an unlinked temporary file. */
int lorica_base_open_any(const char *path, const struct lorica_hasher *hasher,
                         struct lorica_base **ret, struct lorica_error *err) LORICA_MUSTCHECK;

/** Reads only the shape of a model, for reckoning, from the text of a Hugging Face config.json: of
 * any family whose blocks are Llama's (four attention matrices, a gated MLP), whether or not it can
 * be imported. Biases do not count. */
int lorica_hf_read_shape(const char *text, size_t len, struct lorica_arch *ret,
                         struct lorica_error *err) LORICA_MUSTCHECK;

/** Writes a Hugging Face directory with bitsandbytes' bytes as they were (NF4 layers) and
 * tokenizer files as they were imported. A file that is there already is refused
 * (LORICA_ECONFLICT); on failure nothing that was written stays. */
int lorica_base_export(const struct lorica_base *base, const char *dir,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Writes what `lorica base inspect` shows: architecture, digest, bytes per format, bits per
 * weight, and raw codes, scales and dequantised values of the first attention matrix (first 64
 * values, and the matrix's name). As JSON when `json`, else for people. */
int lorica_base_inspect(const struct lorica_base *base, bool json,
                        struct lorica_buf *out) LORICA_MUSTCHECK;

#endif
