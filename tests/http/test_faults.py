# SPDX-License-Identifier: MIT
"""A disk that fails under a running server: it says so, finishes what it can, and ends."""
import shutil
import subprocess

import pytest

from api import Api
from conftest import Server, write_adapter

# LMDB writes a commit's last page with the only small pwrite that it makes; a failure there leaves
# open what the disk holds.
FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pwrite64");
    if (len < 4096 && at < 8192 && access(getenv("FAIL_WHILE"), F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return real(fd, bytes, len, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) {
    return pwrite64(fd, bytes, len, at);
}
"""


@pytest.fixture
def failing(tmp_path):
    """A library that makes the disk fail while a file is there; and that file."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("there is no C compiler")
    library, flag = tmp_path / "failing.so", tmp_path / "fail"
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"],
                   input=FAILING, encoding="utf-8", check=True)
    return library, flag


def test_a_server_whose_disk_fails_ends_with_a_clear_word(data_dir, failing, tmp_path):
    library, flag = failing
    data_dir.env.update(LD_PRELOAD=str(library), FAIL_WHILE=str(flag))
    server = Server(data_dir)
    api = Api(server)
    for seed in (1, 2):
        api.publish_new("ward", write_adapter(tmp_path / str(seed), seed), channel="stable")
    flag.touch()
    answer = api.post("/v1/adapters/ward/channels/stable/rollback")
    assert answer.status == 500 and "registry" in answer.error["message"]
    assert server.process.wait(timeout=60) == 1
    server.log.seek(0)
    log = server.log.read().decode()
    assert "event=store_failed" in log
    assert "made no more changes" in log and "lorica verify" in log
    flag.unlink()
    assert data_dir.json("verify")["clean"]
    again = Server(data_dir)
    try:
        assert Api(again).complete("ward").status == 200
        assert Api(again).post("/v1/adapters/ward/channels/stable/rollback").status in (200, 409)
    finally:
        assert again.stop() == 0
