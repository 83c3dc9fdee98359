/* SPDX-License-Identifier: MIT
 * Formats and quantisers; NF4 against what bitsandbytes wrote (tests/golden/make_nf4.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/matrix.h"
#include "proto/safetensors.h"

static const char *const cases[] = {"square", "odd", "tiny", "scaled", "zero", "ties", "large"};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static struct {
    uint8_t *bytes;
    struct lorica_safetensors index;
} golden;

static int read_golden(void **state) {
    (void)state;
    static uint8_t bytes[1 << 17];
    FILE *file = fopen(TEST_DATA "/golden/nf4.safetensors", "rb");
    if (!file)
        return -1;
    const size_t len = fread(bytes, 1, sizeof(bytes), file);
    (void)fclose(file);
    golden.bytes = bytes;
    return lorica_safetensors_parse(bytes, len, len, &golden.index, NULL);
}

static int free_golden(void **state) {
    (void)state;
    lorica_safetensors_finish(&golden.index);
    return 0;
}

/* A tensor's bytes in memory of their own, aligned and exactly as long; freed by the caller. */
static void *take(const char *name, const char *part, size_t *ret_count) {
    char full[64];
    (void)snprintf(full, sizeof(full), "%s%s", name, part);
    const struct lorica_tensor *tensor = lorica_safetensors_find(&golden.index, full);
    assert_non_null(tensor);
    void *copy = malloc(tensor->nbytes);
    assert_non_null(copy);
    memcpy(copy, golden.bytes + tensor->offset, tensor->nbytes);
    if (ret_count)
        *ret_count = tensor->nbytes / lorica_dtype_size(tensor->dtype);
    return copy;
}

/* Rows and columns of a case. */
static void shape_of(const char *name, uint32_t *n, uint32_t *k) {
    char full[64];
    (void)snprintf(full, sizeof(full), "%s.x", name);
    const struct lorica_tensor *tensor = lorica_safetensors_find(&golden.index, full);
    *n = tensor ? (uint32_t)tensor->shape[0] : 130;
    *k = tensor ? (uint32_t)tensor->shape[1] : 127;
}

/* The input of a case; that of `large` is not in the file. Caller frees. */
static float *take_input(const char *name, size_t *ret_count) {
    if (strcmp(name, "large") != 0)
        return take(name, ".x", ret_count);
    *ret_count = 130 * 127;
    float *x = malloc(*ret_count * sizeof(*x));
    assert_non_null(x);
    for (size_t i = 0; i < *ret_count; i++)
        x[i] = ldexpf((float)((uint32_t)(i * 2654435761u) >> 8) / (1 << 23) - 1,
                      (int)(i / 64 % 5) - 2);
    return x;
}

static void test_tables_are_those_of_bitsandbytes(void **state) {
    (void)state;
    size_t count;
    float *map = take("quant_map", "", &count);
    assert_int_equal(count, 16);
    assert_memory_equal(map, lorica_nf4_table, sizeof(lorica_nf4_table));
    free(map);
    map = take("nested_quant_map", "", &count);
    assert_int_equal(count, 256);
    assert_memory_equal(map, lorica_dynamic_map, sizeof(lorica_dynamic_map));
    free(map);
}

static void test_quantise_each_case_gives_codes_and_absmax_of_bitsandbytes(void **state) {
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        size_t count, blocks;
        float *x = take_input(cases[c], &count);
        uint8_t *want = take(cases[c], ".codes", NULL);
        float *want_absmax = take(cases[c], ".absmax", &blocks);
        uint8_t *codes = malloc((count + 1) / 2);
        float *absmax = malloc(blocks * sizeof(*absmax));
        assert_true(codes && absmax && blocks == (count + 63) / 64);
        lorica_nf4_quantise(x, count, codes, absmax);
        for (size_t i = 0; i < (count + 1) / 2; i++)
            if (codes[i] != want[i])
                fail_msg("%s: byte %zu is %02x, not %02x (absmax %a, values %a %a)", cases[c], i,
                         codes[i], want[i], (double)absmax[i / 32], (double)x[2 * i],
                         2 * i + 1 < count ? (double)x[2 * i + 1] : 0.0);
        assert_memory_equal(absmax, want_absmax, blocks * sizeof(*absmax));
        free(x), free(want), free(want_absmax), free(codes), free(absmax);
    }
}

/* bitsandbytes sums in another order, so its mean may differ in the last bits; and on the CPU it
 * looks codes up in a table of 65536 steps, so that a value close to the middle between two codes
 * may get the neighbour. Ours are the nearest. */
static void test_quantise_absmax_each_case_near_bitsandbytes(void **state) {
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        size_t blocks, nested_blocks;
        float *absmax = take(cases[c], ".absmax", &blocks);
        uint8_t *want = take(cases[c], ".nested_absmax_codes", NULL);
        float *want_nested = take(cases[c], ".nested_absmax", &nested_blocks);
        float *want_offset = take(cases[c], ".nested_offset", NULL);
        uint8_t *codes = malloc(blocks);
        float *nested = malloc(nested_blocks * sizeof(*nested)), offset;
        assert_true(codes && nested && nested_blocks == (blocks + 255) / 256);
        lorica_nf4_quantise_absmax(absmax, blocks, codes, nested, &offset);
        assert_true(fabsf(offset - *want_offset) <= 1e-6f * fabsf(offset));
        for (size_t i = 0; i < nested_blocks; i++)
            assert_true(fabsf(nested[i] - want_nested[i]) <= 1e-6f * (nested[i] + fabsf(offset)));
        size_t neighbours = 0;
        for (size_t i = 0; i < blocks; i++) {
            const int apart = abs(codes[i] - want[i]);
            /* Around zero the codes lie closer than the steps of that table. */
            const float value = fabsf(lorica_dynamic_map[codes[i]] - lorica_dynamic_map[want[i]]);
            if (apart > 1 && value > 2.0f / 65535)
                fail_msg("%s: scale %zu has code %d, not %d", cases[c], i, codes[i], want[i]);
            neighbours += apart != 0;
        }
        assert_true(neighbours <= blocks / 20 + 1);
        free(absmax), free(want), free(want_nested), free(want_offset), free(codes), free(nested);
    }
}

/* The parts of a case as bitsandbytes wrote them. */
struct loaded {
    struct lorica_matrix flat;
    void *owned[5];
};

static struct loaded load(const char *name, bool nested) {
    struct loaded l = {.flat = {.format = LORICA_FORMAT_NF4}};
    shape_of(name, &l.flat.n, &l.flat.k);
    l.flat.data = l.owned[0] = take(name, ".codes", NULL);
    if (!nested) {
        l.flat.absmax = l.owned[1] = take(name, ".absmax", NULL);
        return l;
    }
    l.flat.absmax_codes = l.owned[1] = take(name, ".nested_absmax_codes", NULL);
    l.flat.nested_absmax = l.owned[2] = take(name, ".nested_absmax", NULL);
    l.flat.nested_map = l.owned[3] = take("nested_quant_map", "", NULL);
    float *offset = l.owned[4] = take(name, ".nested_offset", NULL);
    l.flat.nested_offset = *offset;
    return l;
}

static void unload(struct loaded *l) {
    for (int i = 0; i < 5; i++)
        free(l->owned[i]);
}

/* Values of the matrix, flat or re-tiled where it can be. Caller frees. */
static float *values_of(const struct lorica_matrix *flat, bool tiled) {
    struct lorica_matrix m = *flat;
    const size_t count = (size_t)m.n * m.k;
    float *values = malloc(count * sizeof(*values));
    uint8_t *data = calloc(1, lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, m.n, m.k));
    assert_true(values && data);
    if (m.k % LORICA_NF4_BLOCK == 0) {
        lorica_nf4_tile(data, flat->data, m.n, m.k);
        m.data = data;
    }
    assert_int_equal(lorica_matrix_is_tiled(&m), tiled);
    lorica_matrix_rows_f32(&m, 0, m.n, values);
    free(data);
    return values;
}

static void test_values_each_case_those_of_bitsandbytes_to_the_bit(void **state) {
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        for (int nested = 0; nested < 2; nested++) {
            struct loaded l = load(cases[c], nested);
            const size_t all = (size_t)l.flat.n * l.flat.k;
            size_t count;
            float *want = take(cases[c], nested ? ".nested_values" : ".values", &count);
            float *values = values_of(&l.flat, l.flat.k % 64 == 0);
            assert_true(count <= all);
            for (size_t i = 0; i < count; i++)
                if (memcmp(&want[i], &values[all - count + i], sizeof(float)) != 0)
                    fail_msg("%s: value %zu is %a, not %a", cases[c], all - count + i,
                             (double)values[all - count + i], (double)want[i]);
            free(values), free(want), unload(&l);
        }
    }
}

static void test_nested_scales_each_case_those_of_bitsandbytes_to_the_bit(void **state) {
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        struct loaded l = load(cases[c], true);
        size_t blocks;
        float *want = take(cases[c], ".nested_scales", &blocks);
        for (size_t i = 0; i < blocks; i++) {
            const float got = lorica_nf4_absmax(&l.flat, i);
            assert_memory_equal(&got, &want[i], sizeof(got));
        }
        free(want), unload(&l);
    }
}

static uint64_t seed = 3;
static uint32_t random_bits(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}

static void test_tile_any_shape_back_and_forth_is_the_same(void **state) {
    (void)state;
    for (uint32_t n = 1; n < 40; n += 3) {
        for (uint32_t k = 64; k <= 256; k += 64) {
            const size_t nbytes = lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, n, k);
            const size_t flat_nbytes = (size_t)n * k / 2;
            uint8_t *flat = malloc(flat_nbytes), *back = malloc(flat_nbytes);
            uint8_t *tiled = malloc(nbytes);
            assert_true(flat && back && tiled && nbytes == (size_t)((n + 15) / 16 * 16) * k / 2);
            for (size_t i = 0; i < flat_nbytes; i++)
                flat[i] = (uint8_t)random_bits();
            lorica_nf4_tile(tiled, flat, n, k);
            lorica_nf4_untile(back, tiled, n, k);
            assert_memory_equal(flat, back, flat_nbytes);
            free(flat), free(back), free(tiled);
        }
    }
}

/* Byte and nibble of each element, as the header says it. */
static void test_tile_layout_as_documented(void **state) {
    (void)state;
    enum { n = 20, k = 128 };
    static uint8_t flat[n * k / 2], tiled[32 * k / 2];
    for (size_t i = 0; i < sizeof(flat); i++)
        flat[i] = (uint8_t)random_bits();
    lorica_nf4_tile(tiled, flat, n, k);
    for (size_t t = 0; t < 2; t++) {
        for (size_t b = 0; b < k / 64; b++) {
            for (size_t g = 0; g < 8; g++) {
                for (size_t r = 0; r < 16; r++) {
                    for (size_t j = 0; j < 8; j++) {
                        const uint8_t *group = tiled + ((t * (k / 64) + b) * 8 + g) * 64;
                        const unsigned got = group[4 * r + j % 4] >> (j < 4 ? 0 : 4) & 15;
                        const size_t row = 16 * t + r, e = row * k + 64 * b + 8 * g + j;
                        const unsigned want = row >= n ? 7 : flat[e / 2] >> (e % 2 ? 0 : 4) & 15;
                        assert_int_equal(got, want);
                    }
                }
            }
        }
    }
}

static void test_q8_values_within_half_a_step(void **state) {
    (void)state;
    enum { n = 19, k = 96 };
    static float x[n * k], values[n * k];
    static int8_t tiled[32 * k];
    static uint16_t scales[32 * k / 32];
    for (size_t i = 0; i < n * k; i++)
        x[i] = (float)(int32_t)random_bits() * 0x1p-31f * (i / k == 4 ? 0.0f : 3.0f);
    lorica_q8_quantise(x, n, k, tiled, scales);
    const struct lorica_matrix m = {
        .format = LORICA_FORMAT_Q8, .n = n, .k = k, .data = tiled, .scales = scales};
    assert_true(lorica_matrix_is_tiled(&m));
    lorica_matrix_rows_f32(&m, 0, n, values);
    for (size_t i = 0; i < n * k; i++) {
        float top = 0;
        for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; j++)
            top = fmaxf(top, fabsf(x[j]));
        assert_true(fabsf(values[i] - x[i]) <= top / 127 * 0.51f + top * 0x1p-11f);
    }
    for (size_t b = 0; b < k / 32; b++)
        for (size_t r = 3; r < 16; r++)
            assert_int_equal(scales[(k / 32 + b) * 16 + r], 0);
    static float row[k];
    lorica_matrix_rows_f32(&m, 17, 1, row);
    assert_memory_equal(row, values + 17 * k, sizeof(row));
}

static void test_half_conversions_round_trip_and_round_to_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = lorica_f16_to_f32((uint16_t)h), b = lorica_bf16_to_f32((uint16_t)h);
        assert_true(isnan(f) || lorica_f32_to_f16(f) == h);
        assert_true(isnan(b) || lorica_f32_to_bf16(b) == h);
        assert_int_equal(isnan(f), isnan(lorica_f16_to_f32(lorica_f32_to_f16(f))));
        assert_int_equal(isnan(b), isnan(lorica_bf16_to_f32(lorica_f32_to_bf16(b))));
    }
    static const struct {
        float f;
        uint16_t f16, bf16;
    } known[] = {
        {1, 0x3c00, 0x3f80},          {-2, 0xc000, 0xc000},          {65504, 0x7bff, 0x4780},
        {65519.996f, 0x7bff, 0x4780}, {65520, 0x7c00, 0x4780},       {0x1p-24f, 0x0001, 0x3380},
        {0x1p-25f, 0x0000, 0x3300},   {0x1.8p-25f, 0x0001, 0x3340},  {0x1.002p0f, 0x3c00, 0x3f80},
        {0x1.006p0f, 0x3c02, 0x3f80}, {0x1.01p0f, 0x3c04, 0x3f80},   {0x1.03p0f, 0x3c0c, 0x3f82},
        {3.4e38f, 0x7c00, 0x7f80},    {0x1.8p-149f, 0x0000, 0x0000},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        assert_int_equal(lorica_f32_to_f16(known[i].f), known[i].f16);
        assert_int_equal(lorica_f32_to_bf16(known[i].f), known[i].bf16);
    }
}

static void test_data_nbytes_each_format(void **state) {
    (void)state;
    assert_int_equal(lorica_matrix_data_nbytes(LORICA_FORMAT_F32, 3, 5), 60);
    assert_int_equal(lorica_matrix_data_nbytes(LORICA_FORMAT_F16, 3, 5), 30);
    assert_int_equal(lorica_matrix_data_nbytes(LORICA_FORMAT_BF16, 3, 5), 30);
    assert_int_equal(lorica_matrix_data_nbytes(LORICA_FORMAT_Q8, 17, 32), 32 * 32);
    assert_int_equal(lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, 17, 64), 32 * 32);
    assert_int_equal(lorica_matrix_data_nbytes(LORICA_FORMAT_NF4, 3, 5), 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_are_those_of_bitsandbytes),
        cmocka_unit_test(test_quantise_each_case_gives_codes_and_absmax_of_bitsandbytes),
        cmocka_unit_test(test_quantise_absmax_each_case_near_bitsandbytes),
        cmocka_unit_test(test_values_each_case_those_of_bitsandbytes_to_the_bit),
        cmocka_unit_test(test_nested_scales_each_case_those_of_bitsandbytes_to_the_bit),
        cmocka_unit_test(test_tile_any_shape_back_and_forth_is_the_same),
        cmocka_unit_test(test_tile_layout_as_documented),
        cmocka_unit_test(test_q8_values_within_half_a_step),
        cmocka_unit_test(test_half_conversions_round_trip_and_round_to_even),
        cmocka_unit_test(test_data_nbytes_each_format),
    };
    return cmocka_run_group_tests(tests, read_golden, free_golden);
}
