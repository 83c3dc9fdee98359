# SPDX-License-Identifier: MIT
"""The optimizer's state under a memory limit that it does not fit into: a run goes on where the
system can page it out, and is killed where it cannot."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import TINY

WIDTH, MLP, RANK = 1024, 2048, 768
SHAPES = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH),
          "self_attn.v_proj": (WIDTH, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
          "mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH), "mlp.down_proj": (WIDTH, MLP)}
TRAINED = RANK * sum(sum(shape) for shape in SHAPES.values())
STATE = 8 * TRAINED  # two moments of four bytes
GROUPS = pathlib.Path("/sys/fs/cgroup")


@pytest.fixture
def wide(lorica, tmp_path):
    """A model of one layer whose adapter is large: 13 million parameters at this rank."""
    source = tmp_path / "wide"
    shutil.copytree(TINY, source)
    config = json.loads((source / "config.json").read_text())
    config.update(hidden_size=WIDTH, intermediate_size=MLP, head_dim=64, num_attention_heads=16,
                  num_key_value_heads=16, num_hidden_layers=1, dtype="float32")
    (source / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(1)
    layer = "model.layers.0"
    tensors = {f"{layer}.{name}.weight": rng.normal(0, 0.02, shape)
               for name, shape in SHAPES.items()}
    tensors["model.embed_tokens.weight"] = rng.normal(0, 0.02, (config["vocab_size"], WIDTH))
    for name in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"):
        tensors[f"{name}.weight"] = np.ones(WIDTH)
    save_file({k: v.astype("float32") for k, v in tensors.items()}, source / "model.safetensors")
    lorica("init")
    lorica("base", "import", source, "--name", "wide")
    return lorica


@pytest.fixture
def examples(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Where is room {i}?", "completion": f"Floor {i}."})
                            + "\n" for i in range(8)))
    return path


class Group:
    """A control group of the system's, whose members share a limit of memory and get no swap."""

    def __init__(self):
        second = (GROUPS / "cgroup.controllers").is_file()
        self.path = (GROUPS if second else GROUPS / "memory") / f"lorica-test-{os.getpid()}"
        self.names = ("memory.max", "memory.swap.max", "0") if second else (
            "memory.limit_in_bytes", "memory.swappiness", "0")
        try:
            if second:
                (GROUPS / "cgroup.subtree_control").write_text("+memory")
            self.path.mkdir()
        except OSError as error:
            pytest.skip(f"no control group of memory can be made here: {error}")

    def limit(self, nbytes):
        name, swap, none = self.names
        try:
            (self.path / name).write_text(str(nbytes))
            if (self.path / swap).exists():
                (self.path / swap).write_text(none)
        except OSError as error:
            pytest.skip(f"no limit of memory can be set here: {error}")

    def run(self, lorica, *words):
        """Runs a command as a member."""
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return subprocess.run(["sh", "-c", script, self.path, lorica.binary, *map(str, words)],
                              env=lorica.env, capture_output=True, encoding="utf-8", timeout=300,
                              check=False)

    def remove(self):
        end = time.monotonic() + 10
        while True:  # it is busy until the last member is gone for good
            try:
                return self.path.rmdir()
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)


@pytest.fixture
def group():
    made = Group()
    yield made
    made.remove()


def kind_of(directory):
    """Of the file system that it is on."""
    return subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True,
                          encoding="utf-8", check=True).stdout.strip()


def test_state_that_does_not_fit_is_paged_out(wide, group, examples, tmp_path):
    if kind_of(tmp_path) == "tmpfs":
        pytest.skip(f"{tmp_path} is in memory: nothing can be paged out there")
    recipe = ["train", "rooms", examples, "--base", "wide", "--rank", RANK, "--steps", 3,
              "--batch", 1, "--threads", 2]
    wide(*recipe, "--out", tmp_path / "free")
    manifest = json.loads((tmp_path / "free/manifest.json").read_text())
    assert manifest["trained_parameters"] == TRAINED
    taken = manifest["memory_mb"] * 1e6
    print(f"state {STATE / 1e6:.0f} MB; without a limit a run takes {taken / 1e6:.0f} MB")
    group.limit(int(taken - STATE / 2))

    paged = group.run(wide, *recipe, "--out", tmp_path / "paged")
    assert paged.returncode == 0, paged.stderr
    name = "adapter_model.safetensors"
    assert (tmp_path / "paged" / name).read_bytes() == (tmp_path / "free" / name).read_bytes()

    # The same run where the state's file lies in memory: there is nowhere to page it out to.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        if kind_of(memory) != "tmpfs":
            pytest.skip("/dev/shm is no memory: there is nothing to compare with")
        held = group.run(wide, *recipe, "--out", memory)
    assert held.returncode == -signal.SIGKILL, (held.returncode, held.stderr)
