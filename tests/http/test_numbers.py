# SPDX-License-Identifier: MIT
"""The numbers against PyTorch, transformers, PEFT and bitsandbytes. What those computed stands in
tests/golden, next to the scripts that made it."""
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys

import numpy as np
import pytest
from conftest import Lorica
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import large_adapter  # noqa: E402
LOGITS, TRAINING = GOLDEN / "logits", GOLDEN / "training"
EXACT_ERROR = 1e-4  # of the largest logit
FAST_KL = 8e-3  # nats per token, mean
FAST_PERPLEXITY = 7e-3  # relative
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


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", ["tied", "untied"])
def test_replayed_full_training_is_that_of_pytorch(lorica, tmp_path, case, threads):
    source, out = GOLDEN / "full" / case, tmp_path / "out"
    recipe = json.loads((source / "recipe.json").read_text())
    options = [word for key, value in recipe["options"].items() for word in (f"--{key}", value)]
    lorica("train", "--replay", source / "trace.safetensors", "--full", "--base",
           GOLDEN / recipe["base"], "--out", out, "--threads", threads, *options)
    expected = load_file(source / "expected.safetensors")
    curves = load_file(out / "replay.safetensors")
    for name in ("losses", "grad_norms"):
        off = np.abs(curves[name] / expected.pop(name) - 1).max()
        print(f"{case} {name}: {off:.1e}")
        assert off <= TRAINING_ERROR, f"{name}: {off:.3g}"
    after = load_file(out / "model.safetensors")
    wanted = {name: value for name, value in expected.items() if not name.startswith("grad.")}
    assert set(after) == set(wanted)
    for name, value in wanted.items():
        got = after[name] if after[name].ndim == 1 else after[name][::8]
        off = distance(got, value)
        assert off <= TRAINING_ERROR, f"{name}: {off:.3g} of its norm"
    lorica("init")
    assert "imported" in lorica("base", "import", out, "--name", "trained").stdout


# SmolLM2-135M, imported as NF4 with double quantisation.

SMOLLM, TEXT = GOLDEN / "smollm.safetensors", GOLDEN / "hospital.txt"


@pytest.fixture(scope="module")
def smollm(lorica_bin, tmp_path_factory):
    """A data directory with SmolLM2 as the base `smollm`, and adapter/ beside it."""
    if not os.environ.get("LORICA_TEST_MODEL"):
        pytest.skip("LORICA_TEST_MODEL is not set: no real model")
    directory = tmp_path_factory.mktemp("smollm")
    made = Lorica(lorica_bin, directory / "data")
    made("init")
    made("base", "import", os.environ["LORICA_TEST_MODEL"], "--name", "smollm", timeout=600)
    large_adapter.write(directory / "adapter")
    return made


def adapter_options(lorica, case):
    return () if case == "base" else ("--adapter", lorica.data.parent / "adapter")


def test_import_quantises_as_bitsandbytes_does_to_the_bit(smollm, tmp_path):
    smollm("base", "export", "smollm", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(n for n in tensors if n.endswith("_proj.weight")):
        state = json.loads(tensors[f"{name}.quant_state.bitsandbytes__nf4"].tobytes())
        for part in (tensors[name], tensors[f"{name}.absmax"], tensors[f"{name}.nested_absmax"],
                     np.float32(state["nested_offset"])):
            digest.update(part.tobytes())
    with safe_open(SMOLLM, "numpy") as expected:
        assert digest.hexdigest() == expected.metadata()["nf4_sha256"]


def test_text_is_read_as_tokenizers_reads_it(smollm):
    ids = json.loads(smollm("base", "tokenize", "smollm", text=TEXT.read_text()).stdout)
    assert ids == load_file(SMOLLM)["input_ids"][0].tolist()


@pytest.mark.parametrize("case", ["base", "adapter"])
def test_exact_logits_of_smollm_are_those_of_transformers_and_peft(smollm, tmp_path, case):
    expected = load_file(SMOLLM)
    ids, positions = expected["input_ids"][0], expected["positions"]
    save_file({"input_ids": ids[None]}, tmp_path / "in")
    smollm("eval", "logits", "--base", "smollm", "--tokens", tmp_path / "in", "--out",
           tmp_path / "out", *adapter_options(smollm, case), timeout=600)
    logits = load_file(tmp_path / "out")["logits"][0]
    got = {
        "logsumexp": logits.max(axis=1) - log_softmax(logits).max(axis=1),
        "targets": np.take_along_axis(logits[:-1], ids[1:, None], axis=1)[:, 0],
        "top_logits": np.take_along_axis(logits[positions], expected[f"{case}.top_ids"], axis=1),
        "sample_logits": logits[positions][:, expected["sample"]],
    }
    largest = np.abs(expected[f"{case}.top_logits"]).max()
    other = "adapter" if case == "base" else "base"
    for name, values in got.items():
        off = np.abs(values - expected[f"{case}.{name}"]).max() / largest
        print(f"{case} {name}: {off:.1e} of the largest logit")
        assert off <= EXACT_ERROR, f"{name}: {off:.3g} of the largest logit"
        assert np.abs(values - expected[f"{other}.{name}"]).max() / largest > 10 * EXACT_ERROR
    # Nothing else is among the largest.
    threshold = expected[f"{case}.top_logits"].min(axis=1) + EXACT_ERROR * largest
    for at, limit in zip(positions, threshold):
        assert (logits[at] > limit).sum() < 16


@pytest.mark.parametrize("case", ["base", "adapter"])
@pytest.mark.parametrize("level", LEVELS)
def test_serving_is_within_its_bounds_of_exact(lorica_bin, smollm, level, case):
    env = at_level(level, lorica_bin)
    result = smollm.json("eval", "perplexity", "smollm", "--text", TEXT, "--kl",
                         *adapter_options(smollm, case), timeout=600, **env)
    expected = load_file(SMOLLM)
    nll = (expected[f"{case}.logsumexp"][:-1] - expected[f"{case}.targets"]).mean(dtype=np.float64)
    assert result["tokens"] == len(expected["input_ids"][0]) - 1 >= 400
    assert abs(result["nll"] - nll) <= 1e-4, f"{result['nll']} for {nll}"
    moved = result["fast_perplexity"] / result["perplexity"] - 1
    print(f"{level} {case}: mean KL {result['mean_kl']:.2e}, perplexity {100 * moved:+.3f} %")
    assert 0 < result["mean_kl"] <= FAST_KL, f"mean KL {result['mean_kl']:.3g} nats per token"
    assert abs(moved) <= FAST_PERPLEXITY, f"perplexity moves by {100 * moved:.2f} %"
