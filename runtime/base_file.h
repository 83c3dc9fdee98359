/* SPDX-License-Identifier: MIT
 * The bytes of a base file, shared by what writes it and what reads it. Private to runtime. The
 * header is described in base.h; behind it stand
 *   the metadata (JSON) and a NUL,
 *   the tensor table: one entry per tensor, in the order embedding, per layer the attention norm,
 *     q, k, v, o, the mlp norm, gate, up, down, then the last norm and, unless tied, the head,
 *   the data. */
#ifndef LORICA_RUNTIME_BASE_FILE_H
#define LORICA_RUNTIME_BASE_FILE_H

#include <stdint.h>

#include "runtime/import.h"

#define LORICA_BASE_MAGIC "LORICA\0\1"
#define LORICA_BASE_VERSION 1
#define LORICA_BASE_ALIGN 64
#define LORICA_BASE_PAGE 4096 /* the data begins on a page */

struct lorica_base_header {
    uint8_t magic[8];
    uint32_t version, zero;
    uint64_t metadata_offset, metadata_len;
    uint64_t table_offset, table_count;
    uint64_t data_offset, file_len;
    struct lorica_digest digest;
    uint8_t reserved[32];
};
_Static_assert(sizeof(struct lorica_base_header) == 128, "header layout");

/** Parts of a tensor. */
enum lorica_base_part {
    LORICA_PART_DATA,
    LORICA_PART_SCALES, /**< Q8: f16 scales; NF4: absmax, or its codes */
    LORICA_PART_NESTED_ABSMAX,
    LORICA_PART_NESTED_MAP,
    LORICA_PART_COUNT
};

#define LORICA_ENTRY_NESTED 1u /* NF4 with double quantisation */

/** One entry of the table. Offsets count from the beginning of the data. */
struct lorica_base_entry {
    char name[64]; /**< as in a Hugging Face checkpoint, NUL-padded */
    uint32_t format;
    uint32_t flags;
    uint32_t n, k;
    uint32_t source; /**< NF4: the format that was quantised */
    float nested_offset;
    struct {
        uint64_t offset, len;
    } parts[LORICA_PART_COUNT];
    uint8_t reserved[8];
};
_Static_assert(sizeof(struct lorica_base_entry) == 160, "entry layout");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "base files are little-endian");

/** Number of entries for an architecture. */
uint64_t lorica_base_entry_count(const struct lorica_arch *arch);

/** Which tensor entry `index` is, and its name. */
enum lorica_slot lorica_base_entry_slot(const struct lorica_arch *arch, uint64_t index,
                                        uint32_t *ret_layer);
void lorica_slot_name(enum lorica_slot slot, uint32_t layer, char out[64]);

/** Bytes of each part for a format and shape. */
void lorica_base_part_sizes(const struct lorica_base_entry *entry, uint64_t ret[LORICA_PART_COUNT]);

/** The table of an open base. */
const struct lorica_base_entry *lorica_base_table(const struct lorica_base *base,
                                                  uint64_t *ret_count);

/** The matrix of entry `index` of an open base. */
const struct lorica_matrix *lorica_base_matrix(const struct lorica_base *base, uint64_t index,
                                               struct lorica_matrix *scratch);

/** As lorica_base_export, but with other values: float32, row-major, of entry `index`. */
typedef const float *(*lorica_base_values_fn)(const void *arg, uint64_t index);
int lorica_base_export_values(const struct lorica_base *base, lorica_base_values_fn values,
                              const void *arg, const char *dir,
                              struct lorica_error *err) LORICA_MUSTCHECK;

/** Architecture to and from the metadata. */
void lorica_arch_write(const struct lorica_arch *arch, struct lorica_jsonw *w);
int lorica_arch_read(const struct lorica_json *j, struct lorica_arch *ret,
                     struct lorica_error *err) LORICA_MUSTCHECK;

/** Opens from a descriptor (which stays the caller's); `label` names it in messages. */
int lorica_base_open_fd(int fd, const char *label, struct lorica_base **ret,
                        struct lorica_error *err) LORICA_MUSTCHECK;

/** Digest over the canonical content of a whole file image whose offsets are known to be sound. */
int lorica_base_compute_digest(const uint8_t *file, const struct lorica_hasher *hasher,
                               lorica_progress_fn progress, void *progress_arg,
                               struct lorica_digest *ret,
                               struct lorica_error *err) LORICA_MUSTCHECK;

#endif
