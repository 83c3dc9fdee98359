#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes full/: what a few updates of PyTorch's AdamW make of a whole model, in float32.

    pip install torch transformers peft bitsandbytes accelerate
    python3 tests/golden/make_full.py

full/CASE/recipe.json            the base, and the options of `lorica train --replay --full`
full/CASE/trace.safetensors      input_ids, labels: int32 [step, batch, time]
full/CASE/expected.safetensors   losses, grad_norms (before clipping): float32 [step]; after the last
                                 update, by their names, norms whole and of matrices the rows 0, 8,
                                 16 and so on; and the same of the gradient of the first batch, with
                                 "grad." before the name

Norms are not decayed, as Hugging Face's trainer has it.
"""
import json
import shutil

import safetensors.torch
import torch
import transformers

import make_training
import reference

STEPS = 5
CASES = {
    "tied": ("tiny", (3, 40), {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6,
                               "weight-decay": 0.1, "max-grad-norm": 0.3}),
    "untied": ("tiny-odd", (2, 32), {"lr": 2e-3, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6,
                                     "weight-decay": 0, "max-grad-norm": 0}),
}


def sampled(tensor):
    return (tensor if tensor.ndim == 1 else tensor[::8]).detach().clone().contiguous()


def make(name, base, shape, options):
    out = reference.here / "full" / name
    out.mkdir(parents=True)
    model = reference.float_model(base).train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(reference.here / base)
    ids, labels = (t[:STEPS] for t in make_training.batches(tokenizer, *shape, seed=7))
    params = dict(model.named_parameters())
    matrices = [p for p in params.values() if p.ndim == 2]
    norms = [p for p in params.values() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": options["weight-decay"]},
         {"params": norms, "weight_decay": 0}],
        lr=options["lr"], betas=(options["beta1"], options["beta2"]), eps=options["eps"])
    expected, losses, grad_norms = {}, [], []
    for step_ids, step_labels in zip(ids.long(), labels.long()):
        loss = model(input_ids=step_ids, labels=step_labels).loss
        loss.backward()
        if not losses:
            expected |= {f"grad.{k}": sampled(p.grad) for k, p in params.items()}
        limit = options["max-grad-norm"] or float("inf")
        grad_norms.append(torch.nn.utils.clip_grad_norm_(list(params.values()), limit).item())
        losses.append(loss.item())
        adamw.step()
        adamw.zero_grad()
    expected |= {k: sampled(p) for k, p in params.items()}
    expected |= {"losses": torch.tensor(losses), "grad_norms": torch.tensor(grad_norms)}
    safetensors.torch.save_file({"input_ids": ids.contiguous(), "labels": labels.contiguous()},
                                out / "trace.safetensors")
    safetensors.torch.save_file(expected, out / "expected.safetensors")
    (out / "recipe.json").write_text(
        json.dumps({"base": base, "options": options}, indent=2) + "\n")
    print(f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, {len(params)} tensors")


def main():
    shutil.rmtree(reference.here / "full", ignore_errors=True)
    for name, case in CASES.items():
        make(name, *case)


if __name__ == "__main__":
    main()
