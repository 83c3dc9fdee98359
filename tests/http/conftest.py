# SPDX-License-Identifier: MIT
"""What the HTTP and command line tests share: the binary, a data directory with the tiny base, a
running server, and adapters that fit it."""
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

REPO = pathlib.Path(__file__).resolve().parents[2]
TINY = REPO / "tests/golden/tiny"
START_SECONDS = 60
# What must not leak into a test from the one who runs it.
OWN_VARIABLES = ("LORICA_DATA", "LORICA_SERVER", "LORICA_API_KEY", "XDG_DATA_HOME")


class Lorica:
    """Runs the binary on one data directory."""

    def __init__(self, binary, data, **variables):
        self.binary, self.data = binary, pathlib.Path(data)
        self.env = {k: v for k, v in os.environ.items() if k not in OWN_VARIABLES}
        self.env.update(LORICA_DATA=str(data), **variables)

    def __call__(self, *words, code=0, text=None, timeout=120, **variables):
        """Runs a command and checks its exit code; text is its standard input."""
        done = subprocess.run([self.binary, *map(str, words)], input=text, capture_output=True,
                              encoding="utf-8", timeout=timeout, env={**self.env, **variables})
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *words, **options):
        """Runs a command with --json and parses what it prints."""
        return json.loads(self(*words, "--json", **options).stdout)


@functools.cache
def reserves_address_space(binary):
    """Whether this is a build under the address sanitizer: what it keeps aside counts as the memory
    of a trainer, which no bound of that fits."""
    return b"__asan_init" in pathlib.Path(binary).read_bytes()


class Server:
    """A running `lorica serve` on a free port."""

    def __init__(self, lorica, *options):
        self.lorica = lorica
        if reserves_address_space(lorica.binary) and "--training-memory-mb" not in options:
            options = (*options, "--training-memory-mb", "0")
        self.log = open(lorica.data.parent / "server.log", "ab+")
        self.process = subprocess.Popen(
            [lorica.binary, "serve", "--listen", "127.0.0.1:0", *options], env=lorica.env,
            stdout=subprocess.PIPE, stderr=self.log, encoding="utf-8")
        os.set_blocking(self.process.stdout.fileno(), False)
        self.url = self._ready()
        self.ca = lorica.data / "tls/ca.pem"
        self.key = (lorica.data / "admin.key").read_text().strip()
        lorica.env["LORICA_SERVER"] = self.url

    def _ready(self):
        line, end = "", time.monotonic() + START_SECONDS
        while "\n" not in line and time.monotonic() < end and self.process.poll() is None:
            try:
                line += os.read(self.process.stdout.fileno(), 4096).decode()
            except BlockingIOError:
                time.sleep(0.02)
        found = re.search(r"https://127\.0\.0\.1:\d+", line)
        if not found:
            self.stop()
            self.log.seek(0)
            raise AssertionError(f"the server did not start: {line!r} {self.log.read()!r}")
        return found.group(0)

    def stop(self):
        """Ends it as an operator does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="session")
def lorica_bin():
    """The binary under test: $LORICA_BIN, or that of the build directory."""
    path = pathlib.Path(os.environ.get("LORICA_BIN", REPO / "build/gateway/lorica"))
    assert path.is_file(), f"{path} is not there: build first, or set LORICA_BIN"
    return str(path)


@pytest.fixture
def lorica(lorica_bin, tmp_path):
    """The binary on an empty data directory."""
    return Lorica(lorica_bin, tmp_path / "data")


def make_data(lorica_bin, parent):
    """A data directory with the tiny base in it, which may here go on for 16,384 positions: long
    enough to be interrupted."""
    source = parent / "tiny"
    shutil.copytree(TINY, source)
    config = json.loads((source / "config.json").read_text())
    config["max_position_embeddings"] = 16384
    (source / "config.json").write_text(json.dumps(config))
    made = Lorica(lorica_bin, parent / "data")
    made("init")
    made("base", "import", source, "--name", "tiny")
    return made


@pytest.fixture
def data_dir(lorica_bin, tmp_path):
    """A data directory of one's own, with the tiny base."""
    return make_data(lorica_bin, tmp_path)


@pytest.fixture(scope="module")
def server(lorica_bin, tmp_path_factory):
    """A server that the tests of one file share."""
    running = Server(make_data(lorica_bin, tmp_path_factory.mktemp("server")))
    yield running
    assert running.stop() == 0


@pytest.fixture
def own_server(data_dir):
    """A server for one test."""
    running = Server(data_dir)
    yield running
    running.stop()


@pytest.fixture
def quick_server(lorica_bin):
    """A server for one test that makes thousands of changes: in memory where that is possible, as
    a disk is asked to keep each."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lorica-", dir=shared) as parent:
        running = Server(make_data(lorica_bin, pathlib.Path(parent)))
        yield running
        running.stop()


MODULES = {"q_proj": (64, 64), "v_proj": (32, 64)}  # of the tiny base: outputs, inputs


def write_adapter(path, seed, rank=4, modules=None, **config):
    """Writes an adapter that PEFT could have written for the tiny base; seed tells them apart."""
    modules = modules or MODULES
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(2):
        for name, (outputs, inputs) in modules.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(0, 0.5, (rank, inputs)).astype("float32")
            tensors[f"{stem}.lora_B.weight"] = rng.normal(0, 0.5, (outputs, rank)).astype("float32")
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank,
                "target_modules": sorted(modules), "bias": "none", "lora_dropout": 0.0,
                "base_model_name_or_path": "tiny", "inference_mode": True, **config}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture
def adapter(tmp_path):
    """Makes adapters: adapter(seed, ...) gives a directory."""
    return lambda seed, **options: write_adapter(tmp_path / f"adapter-{seed}", seed, **options)
