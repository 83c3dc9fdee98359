#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes logits/: what transformers and PEFT compute with the tiny models, in float32, without an
adapter and with many kinds of adapters.

    pip install torch transformers peft bitsandbytes accelerate
    python3 tests/golden/make_logits.py

logits/adapters/SHAPE/CASE/  the adapters, as PEFT's save_pretrained writes them; SHAPE is tiny or
                             tiny-odd, so that a model and its 4-bit copy share them
logits/BASE.safetensors      input_ids int32 [batch, time]; positions int32: those whose logits are
                             kept; none, CASE...: logits float32 [batch, positions, vocab]

What the reference is for a 4-bit base: see reference.py.
"""
import shutil

import numpy as np
import peft
import safetensors.torch
import torch

import reference

BASES = {"tiny": "tiny", "tiny-nf4": "tiny", "tiny-odd-nf4": "tiny-odd"}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
BATCH, TIME, POSITIONS = 2, 96, [0, 9, 50, 95]

# Of each case: the config, the standard deviation of A and B, the type of the file.
CASES = {
    "rank-4": (dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]), 0.15, None),
    "rank-8": (dict(r=8, lora_alpha=16, target_modules=ATTENTION), 0.1, torch.float16),
    "rank-16": (dict(r=16, lora_alpha=16, target_modules="all-linear"), 0.1, torch.bfloat16),
    # Targets by a regular expression, which the whole path must match.
    "rslora": (dict(r=9, lora_alpha=6, use_rslora=True,
                    target_modules=r"model\.layers\.\d+\.(self_attn\.[kv]|mlp\.up)_proj"), 0.1,
               None),
    # Keys are expressions that a path, or its end behind a dot, must match; the first that does
    # counts, in the order of the file, where PEFT sorts them. q: rank 5 and alpha 9, but 2 and 3 in
    # layer 1. v: rank 6, alpha 10. down: alpha 2.5, in layer 0 rank 1. gate: no key. "proj" matches
    # nothing, as it begins at no dot, nor does "".
    "patterns": (dict(r=3, lora_alpha=7,
                      target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"],
                      rank_pattern={r".*\.1\.self_attn\.q_proj": 2, r".*\.q_proj": 5,
                                    "self_attn.(v|o)_proj": 6, r"[0]\.mlp\.down_proj": 1,
                                    "proj": 12},
                      alpha_pattern={"1.self_attn.[pq]_proj": 3, "q_proj": 9, "v_proj": 10,
                                     r"^model\.layers\.\d+\.mlp\.down_proj": 2.5, "": 99}), 0.2,
                 None),
    "layers": (dict(r=4, lora_alpha=12, layers_to_transform=[1],
                    target_modules=["q_proj", "o_proj", "up_proj"]), 0.15, None),
}


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits[:, POSITIONS].contiguous()


def make_adapter(path, shape, seed, config, scale, dtype):
    """An adapter for the shape of a base, which is itself only the place to put it."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(
        reference.float_model(shape),
        peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.05, **config))
    reference.randomise(model, scale)
    reference.save_adapter(model, path, shape, dtype)


def main():
    out = reference.here / "logits"
    shutil.rmtree(out, ignore_errors=True)
    for shape in sorted(set(BASES.values())):
        for seed, (case, made) in enumerate(CASES.items(), start=100):
            make_adapter(out / "adapters" / shape / case, shape, seed, *made)
    for base, shape in BASES.items():
        plain = reference.float_model(base)
        ids = np.random.default_rng(3).integers(0, plain.config.vocab_size, (BATCH, TIME))
        ids = torch.from_numpy(ids)
        tensors = {"input_ids": ids.int(), "positions": torch.tensor(POSITIONS).int(),
                   "none": logits(plain, ids)}
        for case in CASES:
            model = peft.PeftModel.from_pretrained(
                reference.float_model(base), out / "adapters" / shape / case)
            tensors[case] = logits(model.eval(), ids)
            moved = (tensors[case] - tensors["none"]).abs().max() / tensors["none"].abs().max()
            print(f"{base:14} {case:10} moves the logits by {100 * moved:.0f} % of the largest")
        safetensors.torch.save_file(tensors, out / f"{base}.safetensors")


if __name__ == "__main__":
    main()
