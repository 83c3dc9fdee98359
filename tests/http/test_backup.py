# SPDX-License-Identifier: MIT
"""Backups of a server that goes on serving, over its API, and what becomes of them."""
import contextlib
import json
import os
import pathlib
import pty
import re
import shutil
import socket
import subprocess
import threading
import urllib.parse

import pytest

from api import Api
from conftest import Lorica, Server, write_adapter

ADAPTERS = "/v1/adapters"
SNAPSHOT = "/v1/backup/snapshot"


@pytest.fixture
def api(own_server):
    return Api(own_server)


def records(snapshot):
    """A snapshot without what is of its own moment: its time, and so its digest."""
    data = pathlib.Path(snapshot).read_bytes()
    return data[:24] + data[32:-32]


def restore(lorica, backup, target):
    """Restores to a data directory of its own, walks it, and gives it."""
    restored = Lorica(lorica.binary, target)
    restored("restore", backup)
    assert restored.json("verify")["clean"]
    return restored


def snapshot_of(lorica, to):
    """Backs up a registry that nobody has open; the path of the snapshot."""
    lorica("backup", to)
    return max(to.glob("snapshot-*"))


def new_bytes(done):
    return int(re.search(r"\((\d+) bytes\) new", done.stdout).group(1))


def test_backup_of_a_running_server_restores_an_equal_registry(own_server, api, adapter, tmp_path):
    lorica, to = own_server.lorica, tmp_path / "backup"
    first = api.publish_new("ward", adapter(1), channel="stable")
    assert new_bytes(lorica("backup", to)) > 0
    api.publish_new("ward", adapter(2), channel="stable", manifest='{"loss": 1}')
    ops = api.make_key("backup", "ops")
    done = lorica("backup", to, "--server", own_server.url, LORICA_API_KEY=ops.key)
    assert done.stdout.startswith("snapshot-000002 is in ")
    assert 0 < new_bytes(done) < first["weights_bytes"] + 2000  # not what was there already
    assert new_bytes(lorica("backup", to)) == 0
    lorica("backup", "--check", to)
    assert sorted(p.name for p in to.iterdir()) == [
        "blobs", "lock", "snapshot-000001", "snapshot-000002", "snapshot-000003"]
    restored = restore(lorica, to, tmp_path / "restored")
    own_server.stop()
    ours = snapshot_of(lorica, tmp_path / "ours")
    assert records(ours) == records(to / "snapshot-000003")
    assert records(ours) == records(snapshot_of(restored, tmp_path / "theirs"))


def test_restored_registry_answers_with_the_same_weights_and_keys(own_server, api, adapter,
                                                                  tmp_path):
    lorica = own_server.lorica
    api.publish_new("ward", adapter(1), channel="stable")
    app = api.make_key("app", "infer")
    said, chain = api.text("ward"), api.get("/v1/audit").json["data"]
    lorica("backup", tmp_path / "backup")
    own_server.stop()
    shutil.rmtree(lorica.data / "registry")
    lorica("restore", tmp_path / "backup")
    again = Server(lorica)
    try:
        assert Api(again).get("/v1/audit").json["data"] == chain
        assert Api(again, app.key).text("ward") == said
    finally:
        again.stop()


class Load(threading.Thread):
    """Publishes, promotes, rolls back, deletes and sweeps until it is stopped."""

    def __init__(self, api, dirs, name):
        super().__init__()
        self.api, self.dirs, self.name_, self.stopped = api, dirs, name, threading.Event()
        self.rounds, self.failure = 0, None

    def run(self):
        try:
            while not self.stopped.is_set():
                self.round()
                self.rounds += 1
        except BaseException as e:  # noqa: B902 - shown by the one who joins
            self.failure = e

    def round(self):
        name, path = self.name_, f"{ADAPTERS}/{self.name_}"
        weights = (self.dirs[self.rounds % 2] / "adapter_model.safetensors").read_bytes()
        made = self.api.publish(name, self.dirs[0], weights=weights, channel="stable",
                                manifest=f'{{"round": {self.rounds}}}')
        assert made.status in (200, 201), made.body
        number = made.json["version"]
        old = self.api.get(f"{path}/versions").json["data"][0]["version"]
        self.api.post(f"{path}/channels/stable/rollback")
        if old != number:
            self.api("DELETE", f"{path}/versions/{old}")
        self.api.post("/v1/sweep")

    def stop(self):
        self.stopped.set()
        self.join()
        if self.failure:
            raise self.failure


def test_backups_under_load_are_consistent(own_server, api, adapter, tmp_path):
    lorica, to = own_server.lorica, tmp_path / "backup"
    dirs = [adapter(seed) for seed in range(2)]
    loads = []
    for name in ("ward", "clinic"):
        api.publish_new(name, adapter(10 + len(loads)))
        assert api("PUT", f"{ADAPTERS}/{name}/retention", {"days": 0}).status == 200
        loads.append(Load(api, dirs, name))
    for load in loads:
        load.start()
    try:
        count = 0
        while count < 8 or any(load.is_alive() and load.rounds < 30 for load in loads):
            lorica("backup", to)
            restored = restore(lorica, to, tmp_path / f"restored-{count}")
            seq, end = chain_end(restored, tmp_path / f"again-{count}")
            record = api.get(f"/v1/audit?after={seq - 1}&limit=1").json["data"][0]
            assert (record["seq"], record["hash"]) == (seq, "sha256:" + end)
            count += 1
    finally:
        for load in loads:
            load.stop()


def chain_end(lorica, to):
    """Number and hash of the last audit record of a registry on files."""
    data = snapshot_of(lorica, to).read_bytes()
    return int.from_bytes(data[32:40], "big"), data[40:72].hex()


class Proxy(threading.Thread):
    """Passes one connection after the other on to a server, and cuts each off after `limit` bytes
    towards the client (None: never)."""

    def __init__(self, server, limit):
        super().__init__(daemon=True)
        url = urllib.parse.urlsplit(server.url)
        self.target, self.limit = (url.hostname, url.port), limit
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.serve(client)

    def serve(self, client):
        upstream = socket.create_connection(self.target)
        threading.Thread(target=self.pump, args=(client, upstream, None), daemon=True).start()
        self.pump(upstream, client, self.limit)

    @staticmethod
    def pump(source, sink, limit):
        sent = 0
        with contextlib.suppress(OSError):
            while (limit is None or sent < limit) and (data := source.recv(4096)):
                sink.sendall(data if limit is None else data[:limit - sent])
                sent += len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_connection_cut_leaves_no_backup_and_the_next_run_goes_on(own_server, api, adapter,
                                                                  tmp_path):
    lorica, to = own_server.lorica, tmp_path / "backup"
    for seed in range(4):
        api.publish_new("ward", adapter(seed, rank=16))
    for limit in (0, 2000, 4000, 20000, 40000):
        proxy = Proxy(own_server, limit)
        failed = lorica("backup", to, "--server", proxy.url, code=1)
        assert "lorica: " in failed.stderr
        assert not list(to.glob("snapshot-*")) and not list(to.glob("**/*.partial"))
        proxy.listener.close()
    kept = sum(p.stat().st_size for p in (to / "blobs").iterdir())
    assert kept > 0  # what came before the cut need not come again
    whole = tmp_path / "whole"
    assert new_bytes(lorica("backup", to)) + kept == new_bytes(lorica("backup", whole))
    lorica("backup", "--check", to)
    assert records(to / "snapshot-000001") == records(whole / "snapshot-000001")


def test_full_disk_is_said_and_nothing_passes_for_a_backup(own_server, api, adapter, tmp_path):
    lorica, to = own_server.lorica, tmp_path / "small"
    to.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", to],
                      capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        for seed in range(8):
            api.publish_new("ward", adapter(seed, rank=16))
        failed = lorica("backup", to, code=1)
        assert "No space left on device" in failed.stderr
        assert not list(to.glob("snapshot-*")) and not list(to.glob("**/*.partial"))
        subprocess.run(["mount", "-o", "remount,size=8m", to], check=True)
        lorica("backup", to)
        lorica("backup", "--check", to)
        restore(lorica, to, tmp_path / "restored")
    finally:
        subprocess.run(["umount", to], check=True)


def test_damaged_content_is_refused_by_its_digest(own_server, api, adapter, tmp_path):
    lorica = own_server.lorica
    directory = adapter(1)
    digest = api.publish_new("ward", directory)["weights_digest"]
    own_server.stop()
    store = lorica.data / "registry/data.mdb"
    data = bytearray(store.read_bytes())
    at = data.index((directory / "adapter_model.safetensors").read_bytes())
    data[at + 1000] ^= 1
    store.write_bytes(data)
    again = Server(lorica)
    try:
        failed = lorica("backup", tmp_path / "backup", code=1)
        assert f"content {digest} came damaged; run `lorica verify`" in failed.stderr
        assert not list((tmp_path / "backup").glob("snapshot-*"))
    finally:
        again.stop()


def test_who_may_back_up_and_what_may_be_asked(own_server, api, adapter, tmp_path):
    made = api.publish_new("ward", adapter(1))
    held = api.make_key("held", "admin", ["ward"])
    for key, code in ((api.make_key("p", "publish"), "role_not_allowed"),
                      (held, "adapter_not_allowed")):
        for path in (SNAPSHOT, f"/v1/backup/contents/{made['weights_digest']}"):
            assert key.get(path).status == 403
            assert key.get(path).error["code"] == code
    failed = own_server.lorica("backup", tmp_path / "backup", code=1, LORICA_API_KEY=held.key)
    assert "is held to some adapters" in failed.stderr
    whole = api.get(f"/v1/backup/contents/{made['weights_digest']}")
    assert whole.status == 200
    assert whole.body == (adapter_dir(tmp_path) / "adapter_model.safetensors").read_bytes()
    head = api("HEAD", f"/v1/backup/contents/{made['weights_digest']}")
    assert head.headers["content-length"] == str(len(whole.body)) and head.body == b""
    assert api.get("/v1/backup/contents/sha256:" + "0" * 64).status == 404
    assert api.get("/v1/backup/contents/sha256:xyz").status == 400
    assert api.get(SNAPSHOT).body.startswith(b"lorica snapshot\n")


def adapter_dir(tmp_path):
    return tmp_path / "adapter-1"


def test_slow_reader_holds_no_transaction_and_few_may_be_slow(quick_server, adapter):
    """A snapshot that is not read on stays a nameless file: the store uses its pages again."""
    api = Api(quick_server)
    api.publish_new("ward", adapter(1))
    line = api.connect()

    def change(count, method, path, body):
        for i in range(count):
            line.request(method, path, json.dumps(body(i)),
                         api.headers(content_type="application/json"))
            answer = line.getresponse()
            assert answer.status in (200, 201) and answer.read()

    # More than fits into the sockets' buffers.
    globs = [f"{i:x}" * 128 for i in range(16)]
    change(2200, "POST", "/v1/keys", lambda i: {"name": f"k{i}", "role": "infer", "adapters": globs})
    stalled = [stall(api) for _ in range(2)]
    busy = api.get(SNAPSHOT)
    assert busy.status == 503 and busy.error["code"] == "server_busy"
    store = quick_server.lorica.data / "registry/data.mdb"
    before = store.stat().st_size
    change(300, "PUT", f"{ADAPTERS}/ward/retention", lambda i: {"days": i % 2 + 1})
    assert store.stat().st_size - before < 2 << 20  # under a reader each change takes new pages
    for connection in stalled:
        connection.close()
    api.wait_metric("lorica_connections", 2)  # ours, and that of the question
    assert api.get(SNAPSHOT).status == 200
    assert not list((quick_server.lorica.data / "spool").iterdir())


def stall(api):
    """A connection on which a snapshot is begun and not read."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(20)
    plain.connect((api.host, api.port))
    connection = api.context.wrap_socket(plain, server_hostname=api.host)
    connection.sendall(f"GET {SNAPSHOT} HTTP/1.1\r\nhost: x\r\n"
                       f"authorization: Bearer {api.key}\r\n\r\n".encode())
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def test_without_a_server_files_are_backed_up_and_nothing_else_is_tried(data_dir, tmp_path):
    done = data_dir("backup", tmp_path / "backup", LORICA_SERVER="https://127.0.0.1:9")
    assert done.stdout.startswith("snapshot-000001 is in ")
    failed = Lorica(data_dir.binary, tmp_path / "empty")("backup", tmp_path / "other", code=1)
    assert "there is no registry; --server names" in failed.stderr
    failed = data_dir("backup", tmp_path / "backup", "--server", "https://127.0.0.1:9", code=1)
    assert "cannot be reached" in failed.stderr


def test_progress_is_shown_on_a_terminal(own_server, api, adapter, tmp_path):
    api.publish_new("ward", adapter(1))
    lorica = own_server.lorica
    ours, theirs = pty.openpty()
    done = subprocess.run([lorica.binary, "backup", tmp_path / "backup"], env=lorica.env,
                          stdout=subprocess.PIPE, stderr=theirs, timeout=60)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert done.returncode == 0
    assert b"backing up" in shown and b"100" in shown
