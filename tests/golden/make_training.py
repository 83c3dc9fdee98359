#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes training/: what 50 updates of PyTorch's AdamW make of a PEFT adapter, in float32.

    pip install torch transformers peft bitsandbytes accelerate
    python3 tests/golden/make_training.py

training/CASE/recipe.json            the base, and the options of `lorica train --replay`
training/CASE/init/                  the adapter to begin with, as PEFT writes it
training/CASE/trace.safetensors      input_ids, labels: int32 [step, batch, time]
training/CASE/expected.safetensors   losses, grad_norms (before clipping): float32 [step]; A and B
                                     after the last update, by PEFT's names

The rows are questions and answers of deploy/data, a few batches again and again so that the loss
falls far; questions and padding are masked with -100. What the reference is for a 4-bit base: see
reference.py.
"""
import json
import shutil

import numpy as np
import peft
import safetensors.torch
import torch
import transformers

import reference

STEPS, BATCHES = 50, 5

CASES = {
    # As lorica train does it when left alone: B = 0, QLoRA's clipping, every linear layer.
    "plain": ("tiny-nf4", dict(r=4, lora_alpha=8, target_modules="all-linear"), None, (3, 40),
              {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight-decay": 0,
               "max-grad-norm": 0.3}),
    # Everything else: weight decay, other moments, rsLoRA, B that is not 0.
    "decay": ("tiny-nf4", dict(r=6, lora_alpha=9, use_rslora=True,
                               target_modules=["q_proj", "v_proj", "down_proj"]), 0.1, (2, 32),
              {"lr": 3e-3, "beta1": 0.8, "beta2": 0.99, "eps": 1e-5, "weight-decay": 0.1,
               "max-grad-norm": 1}),
    # No clipping; ranks that differ, one layer only; blocks of 4-bit values that run over row ends.
    "ranks": ("tiny-odd-nf4", dict(r=5, lora_alpha=10, layers_to_transform=[0],
                                   target_modules=["k_proj", "o_proj", "gate_proj", "up_proj"],
                                   rank_pattern={"k_proj": 3, "o_proj": 8},
                                   alpha_pattern={"(k|o)_proj": 4}), 0.1, (1, 32),
              {"lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight-decay": 0.01,
               "max-grad-norm": 0}),
}


def batches(tokenizer, rows, time, seed):
    """ids and labels [step, batch, time]."""
    examples = []
    for path in sorted((reference.here.parent.parent / "deploy/data").glob("*.eval.jsonl")):
        examples += [json.loads(line)["messages"] for line in open(path, encoding="utf-8")]
    rng = np.random.default_rng(seed)
    rng.shuffle(examples)
    ids = np.full((BATCHES, rows, time), 5, np.int32)
    labels = np.full((BATCHES, rows, time), -100, np.int32)
    for i, messages in enumerate(examples[:BATCHES * rows]):
        question, answer = (tokenizer(m["content"])["input_ids"] for m in messages)
        question = question[:time // 3]
        row = (question + answer)[:time - rng.integers(0, time // 3)]
        at = divmod(i, rows)
        ids[at][:len(row)] = row
        labels[at][len(question):len(row)] = row[len(question):]
        labels[at][len(question) + 2] = -100  # a hole among the labels
        labels[at][0] = row[0]  # a label that no position predicts
    again = np.arange(STEPS) % BATCHES
    return torch.from_numpy(ids[again]), torch.from_numpy(labels[again])


def train(model, ids, labels, options):
    """Losses and gradient norms of one update per batch."""
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(
        trained, lr=options["lr"], betas=(options["beta1"], options["beta2"]), eps=options["eps"],
        weight_decay=options["weight-decay"])
    losses, norms = [], []
    for step_ids, step_labels in zip(ids.long(), labels.long()):
        loss = model(input_ids=step_ids, labels=step_labels).loss
        loss.backward()
        limit = options["max-grad-norm"] or float("inf")
        norms.append(torch.nn.utils.clip_grad_norm_(trained, limit).item())
        losses.append(loss.item())
        adamw.step()
        adamw.zero_grad()
    return losses, norms


def make(name, base, config, scale, shape, options):
    out = reference.here / "training" / name
    (out / "init").mkdir(parents=True)
    torch.manual_seed(11)
    model = peft.get_peft_model(reference.float_model(base),
                                peft.LoraConfig(task_type="CAUSAL_LM", **config))
    if scale:
        reference.randomise(model, scale)
    reference.save_adapter(model, out / "init", base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(reference.here / base)
    ids, labels = batches(tokenizer, *shape, seed=5)
    model = peft.PeftModel.from_pretrained(
        reference.float_model(base), out / "init", is_trainable=True).train()
    losses, norms = train(model, ids, labels, options)
    safetensors.torch.save_file({"input_ids": ids, "labels": labels}, out / "trace.safetensors")
    final = {k: v.contiguous() for k, v in peft.get_peft_model_state_dict(model).items()}
    safetensors.torch.save_file(
        final | {"losses": torch.tensor(losses), "grad_norms": torch.tensor(norms)},
        out / "expected.safetensors")
    (out / "recipe.json").write_text(
        json.dumps({"base": base, "options": options}, indent=2) + "\n")
    print(f"{name:6} loss {losses[0]:.3f} -> {losses[-1]:.3f}, gradient norm "
          f"{min(norms):.3f} to {max(norms):.3f}, {int((labels != -100).sum())} labels")


def main():
    shutil.rmtree(reference.here / "training", ignore_errors=True)
    for name, case in CASES.items():
        make(name, *case)


if __name__ == "__main__":
    main()
