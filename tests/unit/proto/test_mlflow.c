/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/mlflow.h"

static struct lorica_json *parse(const char *text) {
    struct lorica_json *json = NULL;
    struct lorica_error err;
    assert_int_equal(lorica_json_parse(text, strlen(text), &json, &err), 0);
    return json;
}

static void test_url_is_taken_apart(void **state) {
    static const struct {
        const char *text, *server, *user, *password;
        bool plain, local;
    } cases[] = {
        {"http://127.0.0.1:5000", "http://127.0.0.1:5000", NULL, NULL, true, true},
        {"http://localhost:5000///", "http://localhost:5000", NULL, NULL, true, true},
        {"https://mlflow.example/some/where/", "https://mlflow.example/some/where", NULL, NULL,
         false, false},
        {"https://u:p%40%2fw@host", "https://host", "u", "p@/w", false, false},
        {"https://u:a@b@host:1", "https://host:1", "u", "a@b", false, false},
        {"http://u:@[::1]:80", "http://[::1]:80", "u", "", true, true},
        {"http://127.0.0.1.example", "http://127.0.0.1.example", NULL, NULL, true, false},
        {"http://localhost.example", "http://localhost.example", NULL, NULL, true, false},
        {"http://127.evil", "http://127.evil", NULL, NULL, true, false},
        {"http://host/@/x", "http://host/@/x", NULL, NULL, true, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_mlflow_url url = {0};
        struct lorica_error err = {0};
        assert_int_equal(lorica_mlflow_url_parse(cases[i].text, &url, &err), 0);
        assert_string_equal(url.server, cases[i].server);
        assert_int_equal(url.plain, cases[i].plain);
        assert_int_equal(url.local, cases[i].local);
        if (cases[i].user) {
            assert_string_equal(url.user, cases[i].user);
            assert_string_equal(url.password, cases[i].password);
        } else {
            assert_null(url.user);
        }
        lorica_mlflow_url_finish(&url);
    }
}

static void test_url_that_is_none_is_refused_without_its_password(void **state) {
    static const char *const bad[] = {
        "",           "host:5000",         "ftp://host",        "http://",
        "http:///x",  "http://u:p@",       "http://u@host",     "http://:p@host",
        "http://a b", "http://host?x=1",   "http://host#x",     "http://:80",
        "file:///x",  "http://u:%zz@host", "http://u:%0a@host", "http://h\xc3\xa4",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct lorica_mlflow_url url = {0};
        struct lorica_error err = {0};
        assert_int_equal(lorica_mlflow_url_parse(bad[i], &url, &err), LORICA_EINVAL);
        assert_null(url.server);
    }
    struct lorica_mlflow_url url = {0};
    struct lorica_error err = {0};
    assert_int_equal(lorica_mlflow_url_parse("ftp://u:secret@host", &url, &err), LORICA_EINVAL);
    assert_null(strstr(err.text, "secret"));
}

static void test_artifact_path_stays_below_the_runs_place(void **state) {
    static const struct {
        const char *uri, *name, *path;
        int rc;
    } cases[] = {
        {"mlflow-artifacts:/3/abc/artifacts", "adapter/x.json",
         "/api/2.0/mlflow-artifacts/artifacts/3/abc/artifacts/adapter/x.json", 0},
        {"mlflow-artifacts://host:80/3/a", "b c#?%.txt",
         "/api/2.0/mlflow-artifacts/artifacts/3/a/b%20c%23%3F%25.txt", 0},
        {"mlflow-artifacts:/3//a/", "x", "/api/2.0/mlflow-artifacts/artifacts/3/a/x", 0},
        {"mlflow-artifacts:/3/../a", "x", NULL, LORICA_EINVAL},
        {"mlflow-artifacts:/3", "../x", NULL, LORICA_EINVAL},
        {"mlflow-artifacts:/3", "./x", NULL, LORICA_EINVAL},
        {"mlflow-artifacts:/3\n", "x", NULL, LORICA_EINVAL},
        {"s3://bucket/3", "x", NULL, LORICA_EUNSUPPORTED},
        {"/srv/mlruns/3", "x", NULL, LORICA_EUNSUPPORTED},
        {"file:///srv", "x", NULL, LORICA_EUNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_buf out;
        struct lorica_error err = {0};
        lorica_buf_init(&out, 4096);
        assert_int_equal(lorica_mlflow_artifact_path(cases[i].uri, cases[i].name, &out, &err),
                         cases[i].rc);
        if (cases[i].rc == 0)
            assert_string_equal(out.data, cases[i].path);
        else
            assert_int_equal(err.code, cases[i].rc);
        lorica_buf_finish(&out);
    }
}

static void test_run_is_read(void **state) {
    struct lorica_json *json =
        parse("{\"info\":{\"run_id\":\"ab12\",\"status\":\"FAILED\",\"artifact_uri\":"
              "\"mlflow-artifacts:/1/ab12/artifacts\"},\"data\":{\"metrics\":["
              "{\"key\":\"loss\",\"value\":1.5,\"step\":3},{\"key\":\"loss\",\"step\":\"7\"},"
              "{\"key\":\"lr\",\"value\":2},{\"key\":\"x\",\"step\":-4},{\"step\":9},7]}}");
    struct lorica_mlflow_run run = {{0}};
    struct lorica_error err = {0};
    assert_int_equal(lorica_mlflow_run_read(json, &run, &err), 0);
    assert_string_equal(run.id, "ab12");
    assert_string_equal(run.artifacts, "mlflow-artifacts:/1/ab12/artifacts");
    assert_true(run.ended);
    assert_int_equal(lorica_mlflow_last_step(json, "loss"), 7);
    assert_int_equal(lorica_mlflow_last_step(json, "lr"), 0);
    assert_int_equal(lorica_mlflow_last_step(json, "x"), -1);
    assert_int_equal(lorica_mlflow_last_step(json, "none"), -1);
    lorica_json_destroy(json);
}

static void test_run_that_could_not_be_addressed_is_refused(void **state) {
    static const char *const bad[] = {
        "{}",
        "{\"info\":{\"run_id\":\"a\"}}",
        "{\"info\":{\"run_id\":\"a/b\",\"artifact_uri\":\"x\"}}",
        "{\"info\":{\"run_id\":\"a'b\",\"artifact_uri\":\"x\"}}",
        "{\"info\":{\"run_id\":\"\",\"artifact_uri\":\"x\"}}",
        "{\"info\":{\"run_id\":7,\"artifact_uri\":\"x\"}}",
        "{\"info\":{\"run_id\":"
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaa\",\"artifact_uri\":\"x\"}}",
        "[]",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct lorica_json *json = parse(bad[i]);
        struct lorica_mlflow_run run = {{0}};
        struct lorica_error err = {0};
        assert_int_equal(lorica_mlflow_run_read(json, &run, &err), LORICA_EFORMAT);
        assert_string_equal(run.id, "");
        lorica_json_destroy(json);
    }
}

static void test_numbers_stand_as_numbers_or_text(void **state) {
    static const struct {
        const char *json;
        int64_t value;
    } cases[] = {{"7", 7},    {"\"7\"", 7}, {"0", 0},       {"-1", -1},
                 {"1.5", -1}, {"\"\"", -1}, {"\"1x\"", -1}, {"\"1234567890123456789\"", -1},
                 {"[]", -1},  {"null", -1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lorica_json *json = parse(cases[i].json);
        assert_int_equal(lorica_mlflow_number(json), cases[i].value);
        lorica_json_destroy(json);
    }
}

static void test_aliases_are_those_that_mlflow_takes(void **state) {
    static const char *const good[] = {"stable", "canary", "a-b_c", "v", "va1", "v1x"};
    static const char *const bad[] = {"", "latest", "LATEST", "v1", "V12", "a.b", "a b", "a/b"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(lorica_mlflow_alias_valid(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(lorica_mlflow_alias_valid(bad[i]));
}

static void test_text_is_cut_between_characters(void **state) {
    struct lorica_buf out;
    lorica_buf_init(&out, 4096);
    struct lorica_jsonw w = {.out = &out};
    lorica_jsonw_array(&w, NULL);
    lorica_mlflow_write_text(&w, "k", "a\xc3\xa4\xc3\xb6", 4);
    lorica_mlflow_write_text(&w, "k", "abc", 3);
    lorica_jsonw_end_array(&w);
    assert_string_equal(out.data, "[{\"key\":\"k\",\"value\":\"a\xc3\xa4\"},"
                                  "{\"key\":\"k\",\"value\":\"abc\"}]");
    lorica_buf_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_url_is_taken_apart),
        cmocka_unit_test(test_url_that_is_none_is_refused_without_its_password),
        cmocka_unit_test(test_artifact_path_stays_below_the_runs_place),
        cmocka_unit_test(test_run_is_read),
        cmocka_unit_test(test_run_that_could_not_be_addressed_is_refused),
        cmocka_unit_test(test_numbers_stand_as_numbers_or_text),
        cmocka_unit_test(test_aliases_are_those_that_mlflow_takes),
        cmocka_unit_test(test_text_is_cut_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
