# SPDX-License-Identifier: MIT
"""The numbers against PyTorch, transformers, PEFT and bitsandbytes. What those computed stands in
tests/golden, next to the scripts that made it."""
import json
import pathlib
import platform
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
LOGITS, TRAINING = GOLDEN / "logits", GOLDEN / "training"
EXACT_ERROR = 1e-4  # of the largest logit
FAST_KL = 8e-3  # nats per token, mean
TRAINING_ERROR = 1e-3  # relative
CASES = ("none", "rank-4", "rank-8", "rank-16", "rslora", "patterns", "layers")
ADAPTERS = {"tiny": "tiny", "tiny-nf4": "tiny", "tiny-odd-nf4": "tiny-odd"}


LEVELS = ["avx2", "avx512"] if platform.machine() == "x86_64" else ["neon"]


def at_level(level, lorica_bin):
    """The environment for one level of instructions; skips where the machine lacks it."""
    env = {"LORICA_CPU": level}
    done = subprocess.run([lorica_bin, "help"], env=env, capture_output=True, encoding="utf-8",
                          check=False)
    if done.returncode != 0:
        assert "this machine cannot run that" in done.stderr
        pytest.skip(done.stderr.strip())
    return env


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mean_kl(reference, logits):
    """KL(reference || logits), nats, mean over the positions."""
    p, q = log_softmax(reference), log_softmax(logits)
    return (np.exp(p) * (p - q)).sum(axis=-1).mean()


def error(reference, logits):
    """Largest difference over the largest logit."""
    assert logits.shape == reference.shape and np.isfinite(logits).all()
    return np.abs(logits - reference).max() / np.abs(reference).max()


class Logits:
    """`lorica eval logits` at the positions that a file of references keeps."""

    def __init__(self, lorica, directory):
        self.lorica, self.source, self.target = lorica, directory / "in", directory / "out"

    def __call__(self, base, expected, adapter=None, compute="exact", **options):
        save_file({"input_ids": expected["input_ids"]}, self.source)
        self.lorica("eval", "logits", "--base", base, "--tokens", self.source, "--out", self.target,
                    "--compute", compute, *(("--adapter", adapter) if adapter else ()), **options)
        logits = load_file(self.target)["logits"]
        assert logits.shape[:2] == expected["input_ids"].shape and logits.dtype == np.float32
        return logits[:, expected["positions"]]


@pytest.fixture
def logits(lorica, tmp_path):
    return Logits(lorica, tmp_path)


def adapter_of(base, case):
    return None if case == "none" else LOGITS / "adapters" / ADAPTERS[base] / case


# Logits of the tiny models.


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("base", ADAPTERS)
def test_exact_logits_are_those_of_transformers_and_peft(logits, base, case):
    expected = load_file(LOGITS / f"{base}.safetensors")
    got = logits(GOLDEN / base, expected, adapter_of(base, case))
    off = error(expected[case], got)
    print(f"{base} {case}: {off:.1e} of the largest logit")
    assert off <= EXACT_ERROR, f"{off:.3g} of the largest logit"
    # No other case would pass for this one.
    for other in set(CASES) - {case}:
        assert error(expected[other], got) > 100 * EXACT_ERROR, other


@pytest.mark.parametrize("level", ["c", *LEVELS])
@pytest.mark.parametrize("base", ADAPTERS)
def test_fast_logits_are_near_those_of_peft_on_every_cpu(lorica_bin, logits, level, base):
    env = at_level(level, lorica_bin)
    expected = load_file(LOGITS / f"{base}.safetensors")
    for case in CASES:
        got = logits(GOLDEN / base, expected, adapter_of(base, case), "fast", **env)
        off = mean_kl(expected[case], got)
        print(f"{base} {case}: {off:.1e} nats per token")
        assert off <= FAST_KL, f"{case}: mean KL {off:.3g} nats per token"
        assert mean_kl(expected["none" if adapter_of(base, case) else "layers"], got) > FAST_KL


def test_imported_base_computes_as_the_directory_it_came_from(lorica, logits):
    lorica("init")
    lorica("base", "import", GOLDEN / "tiny-nf4", "--name", "imported")
    expected = load_file(LOGITS / "tiny-nf4.safetensors")
    adapter = adapter_of("tiny-nf4", "rank-16")
    got = logits("imported", expected, adapter)
    assert error(expected["rank-16"], got) <= EXACT_ERROR
    assert np.array_equal(got, logits(GOLDEN / "tiny-nf4", expected, adapter))


# Training.


def distance(a, b):
    """Relative to b, in the Frobenius norm."""
    assert a.shape == b.shape
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", ["plain", "decay", "ranks"])
def test_replayed_training_is_that_of_pytorch(lorica, tmp_path, case, threads):
    source, out = TRAINING / case, tmp_path / "out"
    recipe = json.loads((source / "recipe.json").read_text())
    options = [word for key, value in recipe["options"].items() for word in (f"--{key}", value)]
    lorica("train", "--replay", source / "trace.safetensors", "--init", source / "init", "--base",
           GOLDEN / recipe["base"], "--out", out, "--threads", threads, *options)
    expected = load_file(source / "expected.safetensors")
    curves = load_file(out / "replay.safetensors")
    assert set(curves) == {"losses", "grad_norms"}
    for name, curve in curves.items():
        wanted = expected.pop(name)
        off = np.abs(curve / wanted - 1).max()
        print(f"{case} {name}: {off:.1e}")
        assert curve.shape == wanted.shape and off <= TRAINING_ERROR, f"{name}: {off:.3g}"

    before = load_file(source / "init/adapter_model.safetensors")
    after = load_file(out / "adapter_model.safetensors")
    assert set(after) == set(expected) == set(before)
    for name, wanted in expected.items():
        assert distance(before[name], wanted) > 100 * TRAINING_ERROR, f"{name} was not trained"
        off = distance(after[name], wanted)
        assert off <= TRAINING_ERROR, f"{name}: {off:.3g} of its norm"
        moved = distance(after[name] - before[name], wanted - before[name])
        assert moved <= TRAINING_ERROR, f"{name}: {moved:.3g} of what training changed"
    assert (out / "adapter_config.json").read_text() == (source / "init/adapter_config.json"
                                                         ).read_text()
