/* SPDX-License-Identifier: MIT
 * Import, in three parts: a source (GGUF file, Hugging Face directory) is opened and says what it
 * holds (import_gguf.c, import_hf.c), the writer lays it out (base_write.c), import.c joins them.
 * Private to runtime. */
#ifndef LORICA_RUNTIME_IMPORT_H
#define LORICA_RUNTIME_IMPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/gguf.h"
#include "proto/json.h"
#include "runtime/base.h"

/** How the source stores a matrix. */
enum lorica_source_kind {
    LORICA_SOURCE_DENSE, /**< F32, F16, BF16 rows */
    LORICA_SOURCE_Q8_0,  /**< ggml blocks of 32: f16 scale, 32 int8 */
    LORICA_SOURCE_Q4_0,  /**< ggml blocks of 32: f16 scale, 16 bytes; value = (q - 8) * scale */
    LORICA_SOURCE_Q4_1,  /**< ggml blocks of 32: f16 scale, f16 minimum, 16 bytes */
    LORICA_SOURCE_BNB,   /**< NF4 as bitsandbytes packs it */
};

/** One tensor of a source. Pointers are borrowed from its mapping and may be unaligned. */
struct lorica_source_tensor {
    enum lorica_source_kind kind;
    enum lorica_format dense; /**< DENSE: F32, F16 or BF16; BNB: the dtype that was quantised */
    uint32_t n, k;            /**< a vector has n = 1 */
    const uint8_t *data;
    uint32_t permuted_heads; /**< not 0: rows stand in llama.cpp's order for that many heads */
    /* BNB: */
    const uint8_t *absmax;        /**< uint8 codes when nested, else float32 */
    const uint8_t *nested_absmax; /**< NULL: not nested */
    const uint8_t *nested_map;
    float nested_offset;
};

/** Which tensor of the model. */
enum lorica_slot {
    LORICA_SLOT_MODULE, /**< + a module: slots 0 .. LORICA_MODULE_COUNT - 1 of a layer */
    LORICA_SLOT_ATTN_NORM = LORICA_MODULE_COUNT,
    LORICA_SLOT_MLP_NORM,
    LORICA_SLOT_EMBED, /**< layer is ignored from here on */
    LORICA_SLOT_FINAL_NORM,
    LORICA_SLOT_HEAD,
};

/** An open source. */
struct lorica_source {
    struct lorica_arch arch;
    char name[128];    /**< proposed name of the base */
    const char *kind;  /**< "gguf" or "huggingface" */
    bool prequantised; /**< holds bitsandbytes matrices: its dense ones are dense on purpose */
    struct lorica_buf tokenizer; /**< the "tokenizer" member of the metadata */
    struct lorica_buf jinja;     /**< chat template text; empty when there is none */
    struct lorica_buf files;     /**< JSON object: name to text of the files kept for export */
    void *owned;                 /**< of the implementation */
    /** Finds a tensor and checks its type and shape. */
    int (*tensor)(const struct lorica_source *source, enum lorica_slot slot, uint32_t layer,
                  struct lorica_source_tensor *ret, struct lorica_error *err);
    void (*close)(struct lorica_source *source);
};

/** Opens a source; on success close it with source->close(source). */
int lorica_source_open_gguf(const char *path, struct lorica_source *ret,
                            struct lorica_error *err) LORICA_MUSTCHECK;
int lorica_source_open_hf(const char *path, struct lorica_source *ret,
                          struct lorica_error *err) LORICA_MUSTCHECK;

/** Frees what every source has; the implementations' close calls it. */
void lorica_source_finish(struct lorica_source *source);

/** Expected shape of a tensor; a vector has n = 1. */
void lorica_slot_shape(const struct lorica_arch *arch, enum lorica_slot slot, uint32_t *ret_n,
                       uint32_t *ret_k);

/** Checks the architecture's numbers against each other and against limits; the sentence names
 * `where`. */
int lorica_arch_check(const struct lorica_arch *arch, const char *where,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/** Exact values of rows [row, row + rows) in Hugging Face's order. Not for BNB. */
void lorica_source_rows(const struct lorica_source_tensor *t, uint32_t row, uint32_t rows,
                        float *dst);

/** Copies a base's name into `out`, reduced to [a-z0-9._-]. */
void lorica_base_make_name(const char *text, size_t len, char out[128]);

/** Special tokens that end a turn in models that do not all name them as end of text;
 * NULL-terminated. */
extern const char *const lorica_import_stop_names[];

/** Tokenizer metadata from tokenizer.json and the configurations beside it (NULL when absent). */
int lorica_import_tokenizer_hf(const struct lorica_json *tokenizer,
                               const struct lorica_json *tokenizer_config,
                               const struct lorica_json *config,
                               const struct lorica_json *generation_config, struct lorica_buf *out,
                               struct lorica_error *err) LORICA_MUSTCHECK;

/** Tokenizer metadata from a GGUF file's. */
int lorica_import_tokenizer_gguf(const struct lorica_gguf *file, struct lorica_buf *out,
                                 struct lorica_error *err) LORICA_MUSTCHECK;

/** A read-only mapping of a whole regular file; {NULL, 0} when empty. */
struct lorica_map {
    uint8_t *data;
    size_t len;
};
int lorica_map_open(const char *path, struct lorica_map *ret,
                    struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_map_close(struct lorica_map *map);

/** Writes a base file to an open descriptor. */
int lorica_base_write(int fd, const struct lorica_source *source,
                      const struct lorica_import_options *options,
                      struct lorica_error *err) LORICA_MUSTCHECK;

#endif
