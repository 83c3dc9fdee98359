# SPDX-License-Identifier: MIT
"""The command line: help, usage, lorica init, and what acts on a running server."""
import json
import os
import re
import ssl
import stat
import subprocess

import pytest

USAGE, FAILED = 2, 1


def commands(lorica):
    """Names in the list of commands."""
    lines = lorica("--help").stdout.splitlines()
    return [m.group(1) for m in (re.match(r"  ([a-z]+(?: [a-z]+)?)(?:  |$)", l) for l in lines) if m]


def snapshot(directory):
    """What stands in a directory: paths, modes, bytes, times."""
    return {str(p.relative_to(directory)): (p.lstat().st_mode, p.lstat().st_mtime_ns,
                                            p.read_bytes() if p.is_file() else b"")
            for p in sorted(directory.rglob("*"))}


# Help and usage.


def test_help_lists_commands_and_each_has_help_of_its_own(lorica):
    names = commands(lorica)
    assert {"init", "serve", "base import", "adapter publish", "key create", "train", "eval logits",
            "chat", "bench", "verify"} <= set(names)
    for name in names:
        by_option = lorica(*name.split(), "--help").stdout
        assert by_option.startswith(f"usage: lorica {name}")
        assert lorica("help", *name.split()).stdout == by_option
        assert max(map(len, by_option.splitlines())) <= 80, name


@pytest.mark.parametrize("group", ["base", "adapter", "key"])
def test_first_word_alone_lists_its_commands(lorica, group):
    assert f"{group} list" in lorica(group, "--help").stdout
    assert f"{group} list" in lorica(group, code=USAGE).stderr
    assert f"{group} list" in lorica("help", group).stdout


def test_version_is_one_line(lorica):
    assert re.fullmatch(r"lorica \d+\.\d+\.\d+\n", lorica("--version").stdout)


@pytest.mark.parametrize("words, suggestion", [
    (["adapter", "promot"], "adapter promote"), (["inti"], "init"), (["serv"], "serve")])
def test_unknown_command_is_wrong_usage_with_the_nearest(lorica, words, suggestion):
    assert f'"lorica {suggestion}"' in lorica(*words, code=USAGE).stderr


def test_unknown_option_is_wrong_usage_for_every_command(lorica):
    for name in commands(lorica):
        done = lorica(*name.split(), "--no-such-option", code=USAGE)
        assert "no-such-option" in done.stderr and done.stdout == "", name
    assert not lorica.data.exists()


@pytest.mark.parametrize("words", [
    [], ["adapter", "publish", "only-name"], ["adapter", "promote", "name"],
    ["adapter", "promote", "name@0"], ["adapter", "promote", "name@1x"],
    ["adapter", "promote", "name@1", "--epoch", "-1"], ["adapter", "list", "word"],
    ["adapter", "history", "UPPER"], ["adapter", "history", "../up"],
    ["key", "create", "name"], ["key", "create", "name", "--role", "king"],
    ["chat", "--max-tokens", "many"], ["chat", "--temperature", "nan"],
    ["chat", "--prompt"], ["init", "--data", "a", "--data", "b"], ["help", "nothing"]])
def test_wrong_usage_ends_with_two_and_says_why(lorica, words):
    assert lorica(*words, code=USAGE).stderr


def test_unknown_cpu_level_is_wrong_usage(lorica):
    assert "LORICA_CPU" in lorica("adapter", "list", code=USAGE, LORICA_CPU="avx9000").stderr


def test_output_that_cannot_be_written_fails(lorica):
    with open("/dev/full", "w") as full:
        done = subprocess.run([lorica.binary, "help", "--man"], stdout=full, env=lorica.env,
                              stderr=subprocess.PIPE, check=False)
    assert done.returncode == FAILED and b"standard output" in done.stderr


# lorica init.


def test_init_makes_everything_with_the_right_modes(lorica):
    out = lorica("init").stdout
    modes = {p: stat.S_IMODE((lorica.data / p).stat().st_mode)
             for p in ("admin.key", "tls/server.key", "tls/ca.pem", "lorica.conf", ".")}
    assert modes == {"admin.key": 0o600, "tls/server.key": 0o600, "tls/ca.pem": 0o644,
                     "lorica.conf": 0o600, ".": 0o700}
    assert all((lorica.data / p).is_dir() for p in ("bases", "registry", "spool", "tls"))
    key = (lorica.data / "admin.key").read_text()
    assert re.fullmatch(r"lk_[A-Za-z0-9_-]{43}\n", key)
    assert key.strip() not in out
    ssl.create_default_context(cafile=str(lorica.data / "tls/ca.pem"))


def test_init_twice_changes_nothing_and_says_so(lorica):
    lorica("init")
    before = snapshot(lorica.data)
    assert "nothing was changed" in lorica("init").stdout
    assert snapshot(lorica.data) == before


@pytest.mark.parametrize("lost", ["lorica.conf", "bases", "spool", "tls", "tls/server.key"])
def test_init_completes_a_half_made_directory(lorica, lost):
    lorica("init")
    path = lorica.data / lost
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink()
    before = snapshot(lorica.data)
    assert lost in lorica("init").stdout
    assert path.exists()
    after = snapshot(lorica.data)
    kept = [p for p in before if not p.startswith("tls")]
    assert {p: after[p][2] for p in kept} == {p: before[p][2] for p in kept}
    assert "nothing was changed" in lorica("init").stdout


def test_init_cut_off_while_the_key_was_made_makes_another(lorica):
    lorica("init")
    (lorica.data / "admin.key").write_text("")
    lorica("init")
    assert (lorica.data / "admin.key").read_text().startswith("lk_")


def test_init_admin_key_moved_away_is_not_replaced_unless_asked(lorica):
    lorica("init")
    first = (lorica.data / "admin.key").read_text()
    (lorica.data / "admin.key").unlink()
    assert "--new-admin" in lorica("init").stdout
    assert not (lorica.data / "admin.key").exists()
    lorica("init", "--new-admin")
    assert (lorica.data / "admin.key").read_text() not in ("", first)
    assert "move it away" in lorica("init", "--new-admin", code=FAILED).stderr


def test_init_host_is_in_the_certificate(lorica):
    lorica("init", "--host", "lorica.tantanila.example", "--host", "192.0.2.7")
    names = subprocess.run(["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in",
                            lorica.data / "tls/server.pem"], capture_output=True, check=True).stdout
    for name in (b"DNS:localhost", b"IP Address:127.0.0.1", b"DNS:lorica.tantanila.example",
                 b"IP Address:192.0.2.7"):
        assert name in names
    assert "tls" in lorica("init", "--host", "other.example", code=FAILED).stderr


def test_init_where_a_file_is_in_the_way_fails(lorica):
    lorica.data.write_text("a file")
    assert str(lorica.data) in lorica("init", code=FAILED).stderr


def test_init_key_without_certificate_is_left_alone(lorica):
    lorica("init")
    (lorica.data / "tls/server.pem").unlink()
    before = snapshot(lorica.data / "tls")
    assert "server.pem" in lorica("init", code=FAILED).stderr
    assert snapshot(lorica.data / "tls") == before


# lorica verify, on files.


def test_verify_of_a_new_registry_is_clean(lorica):
    lorica("init")
    assert "is clean" in lorica("verify").stdout
    assert lorica.json("verify") == {"object": "verification", "clean": True, "findings": []}


def test_verify_without_a_registry_fails_and_makes_none(lorica):
    assert "lorica init" in lorica("verify", code=FAILED).stderr
    assert not lorica.data.exists()


def test_verify_bases_finds_a_changed_byte(data_dir):
    assert "is clean" in data_dir("verify", "--bases").stdout
    base = next((data_dir.data / "bases").glob("*.lorica"))
    base.chmod(0o600)
    with open(base, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    assert base.name in data_dir("verify", "--bases", code=FAILED).stdout
    assert data_dir.json("verify", "--bases", code=FAILED)["clean"] is False


# Clients without a server.


@pytest.mark.parametrize("words", [
    ["adapter", "list"], ["key", "list"], ["chat", "--prompt", "hello"],
    ["adapter", "export", "name", "out"]])
def test_server_that_is_not_there_is_a_clear_error(lorica, words):
    lorica("init")
    done = lorica(*words, "--server", "https://127.0.0.1:1", code=FAILED)
    assert "https://127.0.0.1:1 cannot be reached" in done.stderr and "lorica serve" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("server", ["http://127.0.0.1:8443", "127.0.0.1:8443", "https://",
                                    "https:///", "https://user@host", "https://host/?a"])
def test_server_that_is_no_https_address_is_refused(lorica, server):
    assert "https://HOST" in lorica("adapter", "list", "--server", server, code=FAILED).stderr


def test_key_with_control_characters_is_refused(lorica):
    done = lorica("adapter", "list", code=FAILED, LORICA_API_KEY="lk_a\r\nX-Evil: 1")
    assert "LORICA_API_KEY" in done.stderr


# The life of an adapter on a running server.


def test_adapter_life(server, adapter, tmp_path):
    lorica = server.lorica
    one, two = adapter(1), adapter(2)
    first = lorica.json("adapter", "publish", "heart", one, "--message", "first")
    assert (first["object"], first["version"], first["message"]) == ("adapter.version", 1, "first")
    again = lorica("adapter", "publish", "heart", one)
    assert "heart@1 was published before" in again.stdout

    # Publishing moved no channel: the name answers nothing yet.
    assert "stable" in lorica("adapter", "show", "heart:stable", code=FAILED).stderr
    assert lorica("chat", "heart", "--prompt", "hello", code=FAILED).stderr

    moved = lorica.json("adapter", "promote", "heart@1")
    assert (moved["channel"], moved["version"], moved["epoch"]) == ("stable", 1, 1)
    second = lorica.json("adapter", "publish", "heart", two, "--channel", "canary")
    assert second["version"] == 2
    assert lorica.json("adapter", "show", "heart:canary")["version"] == 2
    assert lorica.json("adapter", "show", "heart:stable")["digest"] == first["digest"]
    assert lorica.json("adapter", "show", "heart@2")["digest"] == second["digest"]
    assert second["digest"] in lorica("adapter", "show", "heart@2").stdout

    stale = lorica("adapter", "promote", "heart@2", "--epoch", "0", code=FAILED)
    assert "1" in stale.stderr
    assert "version 2 now" in lorica("adapter", "promote", "heart@2", "--epoch", "1").stdout
    back = lorica("adapter", "rollback", "heart", "--reason", "worse than before")
    assert "heart:stable answers with version 1 now" in back.stdout
    assert lorica("adapter", "rollback", "heart", code=FAILED).stderr

    listed = {a["name"]: a for a in lorica.json("adapter", "list")["data"]}
    assert listed["heart"]["latest"] == 2
    table = lorica("adapter", "list").stdout.splitlines()
    assert table[0].split() == ["NAME", "LATEST", "CHANNELS"]
    assert any(set(line.split()) == {"heart", "2", "canary@2", "stable@1"} for line in table[1:])
    assert "first" in lorica("adapter", "show", "heart").stdout

    kinds = [r["kind"] for r in lorica.json("adapter", "history", "heart")["data"]]
    assert kinds.count("publish") == 2 and kinds[-2:] == ["rollback", "refused"]
    assert "worse than before" in lorica("adapter", "history", "heart").stdout

    for reference, source in (("heart", one), ("heart@2", two), ("heart:canary", two)):
        out = tmp_path / "out" / re.sub(r"\W", "-", reference)
        lorica("adapter", "export", reference, out)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            assert (out / name).read_bytes() == (source / name).read_bytes()
        assert "holds an adapter already" in lorica("adapter", "export", reference, out,
                                                    code=FAILED).stderr


def test_adapter_that_does_not_fit_is_refused_and_nothing_is_made(server, adapter):
    wrong = adapter(3, modules={"q_proj": (64, 48)})
    assert "q_proj" in server.lorica("adapter", "publish", "misfit", wrong, code=FAILED).stderr
    assert server.lorica("adapter", "show", "misfit", code=FAILED).stderr


def test_adapter_directory_without_weights_is_named(server, adapter):
    path = adapter(4)
    (path / "adapter_model.safetensors").unlink()
    done = server.lorica("adapter", "publish", "half", path, code=FAILED)
    assert str(path / "adapter_model.safetensors") in done.stderr


@pytest.mark.parametrize("words", [
    ["adapter", "show", "nobody"], ["adapter", "show", "nobody@1"], ["adapter", "history", "nobody"],
    ["adapter", "promote", "nobody@1"], ["adapter", "rollback", "nobody"],
    ["key", "revoke", "nobody"]])
def test_unknown_name_fails_and_is_named(server, words):
    assert "nobody" in server.lorica(*words, code=FAILED).stderr


# Keys.


def test_key_life(server, adapter):
    lorica = server.lorica
    done = lorica("key", "create", "ward-7", "--role", "publish", "--adapter", "ward-*")
    key = done.stdout.strip()
    assert re.fullmatch(r"lk_[A-Za-z0-9_-]{43}", key) and key not in done.stderr
    listed = {k["name"]: k for k in lorica.json("key", "list")["data"]}
    assert listed["ward-7"]["role"] == "publish" and listed["ward-7"]["adapters"] == ["ward-*"]
    assert "key" not in listed["ward-7"] and "admin" in listed
    assert "ward-*" in lorica("key", "list").stdout
    assert "ward-7" in lorica("key", "create", "ward-7", "--role", "infer", code=FAILED).stderr

    path = adapter(5)
    lorica("adapter", "publish", "ward-notes", path, LORICA_API_KEY=key)
    assert lorica("adapter", "publish", "other", path, code=FAILED, LORICA_API_KEY=key).stderr
    assert lorica("key", "list", code=FAILED, LORICA_API_KEY=key).stderr

    lorica("key", "revoke", "ward-7")
    assert lorica("adapter", "list", code=FAILED, LORICA_API_KEY=key).stderr
    revoked = {k["name"]: k for k in lorica.json("key", "list")["data"]}["ward-7"]["revoked"]
    assert isinstance(revoked, int)


def test_no_key_is_an_error_that_says_where_keys_come_from(server, tmp_path):
    done = server.lorica("adapter", "list", "--data", tmp_path / "none", "--ca", server.ca,
                         code=FAILED)
    assert "LORICA_API_KEY" in done.stderr


def test_certificate_of_another_authority_is_refused(server, lorica):
    lorica("init")
    done = lorica("adapter", "list", "--server", server.url, code=FAILED,
                  LORICA_API_KEY=server.key)
    assert "--ca" in done.stderr
    assert lorica("adapter", "list", "--server", server.url, "--ca", server.ca,
                  LORICA_API_KEY=server.key).stdout.startswith("NAME")


# lorica chat.


def test_chat_prompt_prints_the_answer_and_who_gave_it(server, adapter):
    lorica = server.lorica
    lorica("adapter", "publish", "talker", adapter(6), "--channel", "stable")
    options = ("--max-tokens", "8", "--temperature", "0")
    done = lorica("chat", "talker", "--prompt", "hello", *options)
    assert done.stdout.endswith("\n") and done.stderr == "-- talker@1\n"
    assert lorica("chat", "talker@1", "--prompt", "hello", *options).stdout == done.stdout
    assert lorica("chat", "base", "--prompt", "hello", *options).stderr.startswith("-- ")


def test_chat_lines_of_standard_input_are_questions(server):
    done = server.lorica("chat", "--max-tokens", "4", "--temperature", "0",
                         text="one\n\ntwo\n/new\none\n")
    assert done.stderr.count("-- ") == 3


def test_chat_unknown_model_fails_and_is_named(server):
    assert "nobody" in server.lorica("chat", "nobody", "--prompt", "hello", code=FAILED).stderr


# What must be refused while a server has the registry open.


def test_verify_beside_a_server_says_that_it_is_open(server):
    assert "open" in server.lorica("verify", code=FAILED).stderr


def test_init_beside_a_server_changes_nothing(server):
    assert "nothing was changed" in server.lorica("init").stdout


def test_bench_machine_measures_peaks(lorica):
    seen = json.loads(lorica("bench", "machine", "--threads", "1", "--json").stdout)
    assert seen["threads"] == 1 and seen["products_form"]
    for what in ("products_gops", "f32_gflops", "memory_gb_per_second", "level3_gb_per_second"):
        assert seen[what] > 0, what
    assert "--tokens does not go with machine" in lorica(
        "bench", "machine", "--tokens", "5", code=USAGE
    ).stderr


def test_bench_registry_measures_and_leaves_nothing(lorica, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    seen = json.loads(lorica("bench", "registry", "--names", "5", "--versions", "2", "--bytes",
                             "1000", "--json").stdout)
    assert (seen["adapters"], seen["versions"], seen["weights_bytes"]) == (5, 2, 1000)
    calls = {call["call"]: call for call in seen["calls"]}
    assert calls["publish"]["calls"] == calls["promote"]["calls"] == 10
    assert all(0 < c["p50_seconds"] <= c["p99_seconds"] <= c["max_seconds"] for c in seen["calls"])
    assert seen["file_bytes"] > 10 * 1000
    assert not list(tmp_path.glob("lorica-bench-*"))
    assert "--names does not go with decode" in lorica(
        "bench", "decode", "--names", "5", code=USAGE
    ).stderr
    assert "--threads does not go with registry" in lorica(
        "bench", "registry", "--threads", "1", code=USAGE
    ).stderr
