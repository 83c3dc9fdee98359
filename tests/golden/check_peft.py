#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that PEFT reads what lorica writes, and computes the same with it.

    pip install torch transformers peft bitsandbytes accelerate
    python3 tests/golden/check_peft.py [LORICA]     (else build/gateway/lorica)

Adapters that `lorica train` made (whose adapter_config.json is lorica's own), that `--replay` left,
and that a server gave back after they were published to it (`adapter publish`, `adapter export`:
one of lorica's, and all that PEFT itself had saved) are loaded with
PeftModel.from_pretrained on the tiny models in float32. Their logits must be those of
`lorica eval logits --adapter`, within 1e-4 of the largest, and no tensor may be missing or left
over. PyTorch is needed, so this is no part of deploy/test; run it when what is written changes.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import peft
import safetensors.torch
import torch

import reference

REPO = reference.here.parent.parent
DATA = REPO / "deploy/data/cardiology.jsonl"
LIMIT = 1e-4
# Options of `lorica train`, by what they bring into the config.
TRAINED = {
    "all-linear": ("--rank", "4"),
    "rslora": ("--rank", "6", "--alpha", "9", "--rslora", "--dropout", "0.1", "--targets", "q,v,down"),
}


class Lorica:
    def __init__(self, binary, data):
        self.binary, self.data = binary, data

    def __call__(self, *words):
        return subprocess.run([self.binary, *map(str, words), "--data", self.data], check=True,
                              capture_output=True, encoding="utf-8").stdout


def adapters(lorica, directory):
    """Makes them: name, base, directory."""
    for base in ("tiny-nf4", "tiny-odd-nf4"):
        for name, options in TRAINED.items():
            out = directory / f"{base}-{name}"
            lorica("train", name, DATA, "--base", reference.here / base, "--out", out, "--lr",
                   "0.01", "--steps", "20", "--max-length", "96", *options)
            yield f"train, {name}", base, out
    for case in ("plain", "decay"):
        source, out = reference.here / "training" / case, directory / case
        lorica("train", "--replay", source / "trace.safetensors", "--init", source / "init",
               "--base", reference.here / "tiny-nf4", "--out", out)
        yield f"replay, {case}", "tiny-nf4", out


def exported(lorica, directory):
    """Adapters through a server: published, and exported from it. The files are those published."""
    lorica("init")
    lorica("base", "import", reference.here / "tiny-nf4", "--name", "tiny")
    server = subprocess.Popen(
        [lorica.binary, "serve", "--listen", "127.0.0.1:0", "--data", lorica.data],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")
    try:
        line = server.stdout.readline()
        at = ("--server", next(word for word in line.split() if word.startswith("https://")))
        peft_made = sorted((reference.here / "logits/adapters/tiny").iterdir())
        for source in (directory / "tiny-nf4-all-linear", *peft_made):
            name, out = source.name, directory / f"exported-{source.name}"
            lorica("adapter", "publish", name, source, *at)
            lorica("adapter", "export", f"{name}@1", out, *at)
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                assert (out / file).read_bytes() == (source / file).read_bytes(), out / file
            base = "tiny" if source in peft_made else "tiny-nf4"
            yield f"exported, {name}", base, out
    finally:
        server.terminate()
        server.wait()


def logits_of_lorica(lorica, base, adapter, ids, directory):
    source, target = directory / "in.safetensors", directory / "out.safetensors"
    safetensors.torch.save_file({"input_ids": ids.int()}, source)
    lorica("eval", "logits", "--base", reference.here / base, "--tokens", source, "--out", target,
           "--adapter", adapter)
    return safetensors.torch.load_file(target)["logits"]


def logits_of_peft(base, adapter, ids):
    """With the adapter, all of whose tensors must have found their place, and without. (PEFT warns
    of the key lorica_base_digest, and ignores it.)"""
    model = reference.float_model(base)
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
        logits = model(input_ids=ids).logits
    saved = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    loaded = peft.get_peft_model_state_dict(model)
    assert set(saved) == set(loaded) and all(torch.equal(saved[k], loaded[k]) for k in saved)
    return logits, plain


def check(lorica, name, base, adapter, directory):
    ids = torch.from_numpy(np.random.default_rng(8).integers(0, 600, (2, 64)))
    wanted, plain = logits_of_peft(base, adapter, ids)
    got = logits_of_lorica(lorica, base, adapter, ids, directory)
    largest = wanted.abs().max()
    off, moved = (got - wanted).abs().max() / largest, (wanted - plain).abs().max() / largest
    print(f"{name:29} on {base:13} {off:.1e} of the largest logit, which it moved by {moved:.2f}")
    return off <= LIMIT and moved > 100 * LIMIT


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else REPO / "build/gateway/lorica"
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        lorica = Lorica(pathlib.Path(binary).resolve(), directory / "data")
        made = list(adapters(lorica, directory))
        made += exported(lorica, directory)
        fine = [check(lorica, *one, directory) for one in made]
    print(f"{sum(fine)} of {len(fine)} adapters are read and computed alike")
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
