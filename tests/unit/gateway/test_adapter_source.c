/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/cmd/adapter_source.h"
#include "gateway/files.h"
#include "registry/registry.h"

static char root[] = "/tmp/lorica-source-XXXXXX";
static char *data, *registry_path;

static int make_root(void **state) {
    (void)state;
    if (!mkdtemp(root))
        return -1;
    data = strdup(root);
    registry_path = lorica_path_join(root, "registry");
    (void)unsetenv("LORICA_SERVER");
    (void)unsetenv("LORICA_API_KEY");
    return setenv("TMPDIR", root, 1);
}

static int remove_root(void **state) {
    (void)state;
    lorica_dir_discard(registry_path);
    lorica_dir_discard(root);
    free(data);
    free(registry_path);
    return lorica_path_exists(root) ? -1 : 0;
}

static const char config_text[] =
    "{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[\"q_proj\"]}";

/* Puts an adapter "heart" into the registry, on channel stable. */
static void publish(void) {
    struct lorica_registry *registry = NULL;
    struct lorica_error err;
    struct lorica_version version;
    bool existing;
    char *weights = lorica_path_join(root, "weights");
    const struct lorica_registry_options options = {0};
    const struct lorica_actor actor = {.key_name = "cli"};
    static const char canonical[] =
        "{\"r\":8,\"lora_alpha\":8,\"use_rslora\":false,\"target_modules\":[\"q_proj\"],\"layers_"
        "to_transform\":null,\"rank_pattern\":{},\"alpha_pattern\":{}}";
    const struct lorica_publish publish = {.name = "heart",
                                           .config = config_text,
                                           .config_len = sizeof(config_text) - 1,
                                           .canonical = canonical,
                                           .canonical_len = sizeof(canonical) - 1,
                                           .weights_path = weights,
                                           .rank = 1,
                                           .channel = "stable"};
    assert_int_equal(lorica_file_replace(weights, "weights!", 8, 0600, &err), 0);
    assert_int_equal(lorica_registry_open(registry_path, &options, &registry, &err), 0);
    assert_int_equal(lorica_registry_publish(registry, &publish, &actor, &version, &existing, &err),
                     0);
    lorica_registry_close(registry);
    assert_int_equal(unlink(weights), 0);
    free(weights);
}

static void test_source_directory_is_taken_as_it_is_and_stays(void **state) {
    (void)state;
    struct lorica_adapter_source source;
    struct lorica_error err;
    const struct lorica_client_options where = {.data = data};
    assert_int_equal(lorica_adapter_source_open(root, &where, &source, &err), 0);
    assert_string_equal(source.dir, root);
    lorica_adapter_source_close(&source);
    assert_true(lorica_path_exists(root));
}

static void test_source_version_is_copied_out_and_removed_at_the_end(void **state) {
    (void)state;
    static const char *const words[] = {"heart", "heart@1", "heart:stable"};
    const struct lorica_client_options where = {.data = data};
    publish();
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        struct lorica_adapter_source source;
        struct lorica_error err;
        char *text = NULL;
        size_t len = 0;
        assert_int_equal(lorica_adapter_source_open(words[i], &where, &source, &err), 0);
        char *config = lorica_path_join(source.dir, "adapter_config.json");
        char *weights = lorica_path_join(source.dir, "adapter_model.safetensors");
        assert_int_equal(lorica_file_read(config, 100, &text, &len, &err), 0);
        assert_string_equal(text, config_text);
        free(text);
        assert_int_equal(lorica_file_read(weights, 100, &text, &len, &err), 0);
        assert_string_equal(text, "weights!");
        free(text);
        char *dir = strdup(source.dir);
        lorica_adapter_source_close(&source);
        assert_false(lorica_path_exists(dir));
        free(dir);
        free(config);
        free(weights);
    }
}

static void test_source_unknown_word_is_an_error_and_leaves_nothing(void **state) {
    (void)state;
    static const char *const words[] = {"lungs", "heart@2", "heart:canary", "no/such/dir", "a b"};
    const struct lorica_client_options where = {.data = data};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        struct lorica_adapter_source source = {NULL};
        struct lorica_error err;
        assert_true(lorica_adapter_source_open(words[i], &where, &source, &err) < 0);
        assert_true(err.text[0] != '\0');
        assert_null(source.dir);
    }
}

static void test_source_registry_in_use_is_asked_from_its_server(void **state) {
    (void)state;
    struct lorica_registry *registry = NULL;
    struct lorica_adapter_source source = {NULL};
    struct lorica_error err;
    const struct lorica_registry_options options = {0};
    const struct lorica_client_options where = {.data = data};
    (void)setenv("LORICA_SERVER", "https://127.0.0.1:1", 1);
    assert_int_equal(lorica_registry_open(registry_path, &options, &registry, &err), 0);
    assert_int_equal(lorica_adapter_source_open("heart", &where, &source, &err), LORICA_EIO);
    assert_non_null(strstr(err.text, "https://127.0.0.1:1"));
    lorica_registry_close(registry);
    (void)unsetenv("LORICA_SERVER");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_source_directory_is_taken_as_it_is_and_stays),
        cmocka_unit_test(test_source_version_is_copied_out_and_removed_at_the_end),
        cmocka_unit_test(test_source_unknown_word_is_an_error_and_leaves_nothing),
        cmocka_unit_test(test_source_registry_in_use_is_asked_from_its_server),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
