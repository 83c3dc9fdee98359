# SPDX-License-Identifier: MIT
"""What must never get into the registry, or open it: each its own clear error, nothing changed."""
import json
import random
import shutil
import subprocess
import time

import pytest

from api import Api, form
from conftest import Server, make_data, write_adapter

ADAPTERS = "/v1/adapters"


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def ward(api, tmp_path_factory):
    """An adapter with one version, and its directory."""
    directory = write_adapter(tmp_path_factory.mktemp("adapters") / "ward", 1)
    api.publish_new("ward", directory, channel="stable")
    return directory


def state(api):
    """What a refused request must not change: all but the records of refusals."""
    chain = [r for r in api.get("/v1/audit").json["data"] if r["kind"] != "refused"]
    return chain, api.get(ADAPTERS).json


@pytest.mark.parametrize("name", ["Ward", "-ward", ".ward", "ward!", "w" * 129, "a..b", "base", "tiny"])
def test_names_outside_the_pattern(api, ward, name):
    before = state(api)
    answer = api.publish(name, ward)
    assert answer.status in (400, 409), answer.body
    assert f'"{name}"' in answer.error["message"]
    assert state(api) == before


LONG = "x" * 1001


@pytest.mark.parametrize("method,path,body,epoch", [
    ("PUT", "channels/stable", {"version": 1, "message": LONG}, '"1"'),
    ("POST", "channels/stable/rollback", {"reason": LONG}, None),
    ("PUT", "channels/stable/policy", {"message": LONG}, '"0"'),
    ("POST", "channels/stable/approvals", {"version": 1, "reason": LONG}, None),
    ("DELETE", "versions/1", {"reason": LONG}, None),
    ("POST", "versions/1/undelete", {"reason": LONG}, None),
    ("PUT", "retention", {"days": 3, "reason": LONG}, None),
    ("PUT", "split", {"version": 1, "percent": 5, "message": LONG}, '"0"'),
    ("DELETE", "split", {"reason": LONG}, '"0"')])
def test_over_long_reasons(api, ward, method, path, body, epoch):
    before = state(api)
    answer = api(method, f"{ADAPTERS}/ward/{path}", body, if_match=epoch)
    assert answer.status == 400, answer.body
    assert "at most 1000 bytes" in answer.error["message"]
    assert answer.error["param"] in ("message", "reason")
    assert state(api) == before


@pytest.mark.parametrize("method,path,body", [
    ("PUT", "channels/stable", {"version": 1}), ("PUT", "channels/stable/policy", {}),
    ("DELETE", "split", None)])
def test_stale_epochs(api, ward, method, path, body):
    before = state(api)
    answer = api(method, f"{ADAPTERS}/ward/{path}", body, if_match='"77"')
    assert answer.status == 412 and "77" in answer.error["message"], answer.body
    assert api(method, f"{ADAPTERS}/ward/{path}", body).status == 428
    assert state(api) == before


@pytest.mark.parametrize("method,path,body,epoch", [
    ("PUT", "ward/channels/stable", {"version": 9}, '"1"'), ("GET", "ward/versions/9", None, None),
    ("DELETE", "ward/versions/9", None, None), ("POST", "ward/versions/9/undelete", None, None),
    ("PUT", "ward/split", {"version": 9, "percent": 5}, '"0"'),
    ("POST", "ward/channels/stable/approvals", {"version": 9}, None),
    ("GET", "ward/versions/9/adapter_config.json", None, None),
    ("PUT", "nobody/channels/stable", {"version": 1}, '"0"'), ("GET", "nobody", None, None)])
def test_unknown_versions_and_names(api, ward, method, path, body, epoch):
    before = state(api)
    answer = api(method, f"{ADAPTERS}/{path}", body, if_match=epoch)
    assert answer.status == 404, answer.body
    assert "9" in answer.error["message"] or "nobody" in answer.error["message"]
    assert state(api) == before


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_uploads_cut_half_way(api, server, ward, share):
    """The client goes away in the middle: no version, no file left."""
    before = state(api)
    body = form({"config": (ward / "adapter_config.json").read_bytes(),
                 "weights": (ward / "adapter_model.safetensors").read_bytes() * 8})
    head = (f"POST {ADAPTERS}/ward/versions HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {api.key}\r\ncontent-length: {len(body)}\r\n"
            "content-type: multipart/form-data; boundary=XX\r\n\r\n").encode()
    connection = api.raw()
    connection.sendall(head + body[:int(len(body) * share)])
    connection.close()
    end = time.monotonic() + 20
    while list((server.lorica.data / "spool").iterdir()) or api.metric(
            "lorica_requests_in_flight") > 1:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert state(api) == before


@pytest.mark.parametrize("words", [
    ["serve", "--listen", "127.0.0.1:0"], ["verify"]])
def test_a_registry_that_another_process_has_open(server, words):
    refused = server.lorica(*words, code=1)
    assert f"process {server.process.pid} has this registry open" in refused.stderr


def test_a_registry_of_a_newer_version(lorica_bin, tmp_path):
    lorica = make_data(lorica_bin, tmp_path)
    store = lorica.data / "registry/data.mdb"
    data = bytearray(store.read_bytes())
    found, at = 0, data.find(b"schema")
    while at >= 0:
        number = at + len(b"schema") + 1  # behind the record's format: eight bytes, big-endian
        if data[number:number + 7] == bytes(7):
            data[number + 7] = 99
            found += 1
        at = data.find(b"schema", at + 1)
    assert found
    store.write_bytes(data)
    for words in (["serve", "--listen", "127.0.0.1:0"], ["verify"], ["backup", tmp_path / "b"]):
        refused = lorica(*words, code=1)
        assert "was written by a newer lorica" in refused.stderr
    assert store.read_bytes() == data


@pytest.mark.parametrize("harm", ["short", "noise", "empty"])
def test_a_registry_that_is_damaged(lorica_bin, tmp_path, harm):
    lorica = make_data(lorica_bin, tmp_path)
    store = lorica.data / "registry/data.mdb"
    data = store.read_bytes()
    store.write_bytes({"short": data[:len(data) // 2], "noise": b"\x5a" * len(data),
                       "empty": b""}[harm])
    harmed = store.read_bytes()
    refused = lorica("verify", code=1)
    assert str(lorica.data / "registry") in refused.stderr + refused.stdout
    assert lorica("backup", tmp_path / "backup", code=1).stderr
    assert not list((tmp_path / "backup").glob("snapshot-*")) if (tmp_path / "backup").exists() \
        else True
    assert store.read_bytes() == harmed


def test_no_page_that_is_damaged_ends_a_command_without_a_word(own_server, adapter):
    """LMDB trusts its pages: some that are overwritten lead it out of the file."""
    lorica, api = own_server.lorica, Api(own_server)
    for seed in (1, 2, 3):
        api.publish_new(f"ward-{seed}", adapter(seed), channel="stable")
    assert own_server.stop() == 0
    store = lorica.data / "registry/data.mdb"
    whole, found = store.read_bytes(), 0
    for at in range(0, len(whole), 4096):
        noise = random.Random(at).randbytes(4096)
        for page in (noise, bytes(2) + noise[2:16] + whole[at + 16:at + 4096]):
            store.write_bytes(whole[:at] + page + whole[at + 4096:])
            done = subprocess.run([lorica.binary, "verify"], env=lorica.env, capture_output=True,
                                  encoding="utf-8", timeout=60)
            assert done.returncode in (0, 1), (at, done)  # a page may be in nobody's use
            assert done.returncode == 0 or "damaged" in done.stdout + done.stderr or \
                "findings" in done.stdout, (at, done)
            found += done.returncode
    assert found > 10


def test_another_base_answers_for_no_adapter(data_dir, adapter, tmp_path):
    """Adapters stay bound to their base when another is served, and none hides behind its name."""
    ward = adapter(1)
    config = json.loads((tmp_path / "tiny/config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 20000.0
    shutil.copytree(tmp_path / "tiny", tmp_path / "other")
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    data_dir("base", "import", tmp_path / "other", "--name", "other")
    assert "2 base models are there" in data_dir("serve", "--listen", "127.0.0.1:0", code=1).stderr
    running = Server(data_dir, "--base", "tiny")
    api = Api(running)
    api.publish_new("ward", ward, channel="stable")
    text = api.text("ward")
    assert running.stop() == 0
    running = Server(data_dir, "--base", "other")
    api = Api(running)
    for model in ("ward", "ward@1", "ward:stable"):
        refused = api.complete(model)
        assert refused.status == 409 and refused.error["code"] == "other_base", refused.body
    assert api.complete("tiny").status == 404
    again = api.publish_new("ward", ward)  # the same content, bound to this base
    assert again["version"] == 2 and api.text("ward@2") != text
    assert api.publish("other", ward).status == 409
    api.publish_new("tiny", ward)
    assert running.stop() == 0
    refused = data_dir("serve", "--listen", "127.0.0.1:0", "--base", "tiny", code=1)
    assert '"tiny" has the name of an adapter' in refused.stderr


# Stands before the C library and says that every file system is NFS.
REMOTE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/vfs.h>
int statfs(const char *path, struct statfs *fs) {
    int (*real)(const char *, struct statfs *);
    *(void **)&real = dlsym(RTLD_NEXT, "statfs");
    int rc = real(path, fs);
    fs->f_type = 0x6969;
    return rc;
}
int statfs64(const char *path, struct statfs64 *fs) {
    int (*real)(const char *, struct statfs64 *);
    *(void **)&real = dlsym(RTLD_NEXT, "statfs64");
    int rc = real(path, fs);
    fs->f_type = 0x6969;
    return rc;
}
"""


def test_a_registry_on_a_network_file_system(data_dir, tmp_path):
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("there is no C compiler")
    library = tmp_path / "remote.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"],
                   input=REMOTE, encoding="utf-8", check=True)
    for words in (["serve", "--listen", "127.0.0.1:0"], ["verify"]):
        refused = data_dir(*words, code=1, LD_PRELOAD=str(library))
        assert "lies on a NFS file system" in refused.stderr and "local disk" in refused.stderr
    running = Server(data_dir)  # nothing has changed
    assert running.stop() == 0
