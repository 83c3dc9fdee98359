# SPDX-License-Identifier: MIT
"""A disk that is really full: a small file system of its own, filled by publishing."""
import os
import shutil
import subprocess

import pytest

from api import Api, wait_empty
from conftest import Server, make_data, write_adapter

SIZE_MB = 48
WIDE = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64)}


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system of SIZE_MB; only root may make one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def full_server(lorica_bin, small_disk):
    running = Server(make_data(lorica_bin, small_disk))
    yield running
    running.stop()


def logged(server):
    server.log.seek(0)
    return server.log.read().decode()


def state(api):
    """Everything that a change could have left a trace in."""
    adapters = [a["name"] for a in api.get("/v1/adapters").json["data"]]
    audit = [r for r in api.get("/v1/audit?limit=1000").json["data"] if r["kind"] != "refused"]
    return [(name, api.get(f"/v1/adapters/{name}/versions").json,
             api.get(f"/v1/adapters/{name}/channels").json) for name in adapters], audit


def fill(api, small_disk, tmp_path):
    """Publishes versions of 2 MB until one is refused; returns how many there are, and the refusal."""
    for seed in range(1, SIZE_MB):
        directory = write_adapter(tmp_path / f"wide-{seed}", seed, rank=1024, modules=WIDE)
        answer = api.publish("filler", directory, channel="stable")
        shutil.rmtree(directory)
        if answer.status != 201:
            return seed - 1, answer
    raise AssertionError("the disk did not fill up")


def test_full_disk_refuses_and_keeps_what_was(full_server, small_disk, tmp_path):
    api = Api(full_server)
    count, refused = fill(api, small_disk, tmp_path)
    assert count > 2 and refused.status == 507, refused.body
    assert "nothing was changed" in refused.error["message"]
    where = str(full_server.lorica.data)  # the log says it, the client need not know
    assert where not in refused.error["message"]
    assert f'why="{where}/registry: ' in logged(full_server)
    before = state(api)
    for seed in (1001, 1002):  # again and again: nothing is left behind
        again = api.publish("filler", write_adapter(tmp_path / str(seed), seed, rank=1024,
                                                    modules=WIDE), channel="stable")
        assert again.status == 507
    assert state(api) == before
    assert not list((full_server.lorica.data / "spool").iterdir())
    # What was published answers, and an operator can still go back.
    answer = api.complete("filler", max_tokens=2)
    assert answer.status == 200 and answer.headers["lorica-adapter"] == f"filler@{count}"
    back = api.post("/v1/adapters/filler/channels/stable/rollback", {"reason": "at three"})
    assert back.status == 200 and back.json["version"] == count - 1


@pytest.mark.parametrize("missing", [512 << 10, 0])
def test_full_disk_refuses_a_file_to_train_on(full_server, small_disk, missing):
    """While its bytes come, or (0) when all are there but not what is known of them."""
    api, store = Api(full_server), full_server.lorica.data / "train/files"
    size = 4 << 20

    def send(nbytes):
        body = (b'--XX\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
                b'--XX\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' +
                b"x" * nbytes + b"\r\n--XX--\r\n")
        return api.post("/v1/files", body, content_type="multipart/form-data; boundary=XX")

    kept = send(1000).json["id"]
    names = sorted(p.name for p in store.iterdir())
    room, ballast = os.statvfs(small_disk), small_disk / "ballast"
    ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - size + missing))
    for _ in range(3):
        refused = send(size)
        assert refused.status == 507, refused.body
        assert sorted(p.name for p in store.iterdir()) == names
        wait_empty(full_server.lorica.data / "spool")
    ballast.unlink()
    assert api.get(f"/v1/files/{kept}/content").body == b"x" * 1000
    assert send(size).status == 200


def test_full_disk_survives_a_restart_and_takes_more_once_there_is_room(
        lorica_bin, full_server, small_disk, tmp_path):
    api = Api(full_server)
    count, _ = fill(api, small_disk, tmp_path)
    before = state(api)
    assert full_server.stop() == 0
    lorica = full_server.lorica
    assert "clean" in lorica("verify").stdout
    running = Server(lorica)
    try:
        api = Api(running)
        assert state(api) == before
        for number in range(1, count - 1):
            assert api("DELETE", f"/v1/adapters/filler/versions/{number}").status == 200
        api("PUT", "/v1/adapters/filler/retention", {"days": 0})
        assert api.post("/v1/sweep").status == 200
        more = api.publish("filler", write_adapter(tmp_path / "more", 2001, rank=1024, modules=WIDE))
        assert more.status == 201, more.body
        assert more.json["version"] == count + 1
    finally:
        running.stop()
    assert "clean" in lorica("verify").stdout
