# SPDX-License-Identifier: MIT
"""Training, against PEFT on the same batches."""
import json
import pathlib
import shutil
import sys
import time

import numpy as np

from common import environment, peak_mb, run


def peft_training(hf_dir, trace, quantised):
    """Tokens per second and peak MB of PEFT on the same batches; runs in a process of its own."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from safetensors.torch import load_file
    torch.set_num_threads(2)
    model = transformers.AutoModelForCausalLM.from_pretrained(hf_dir, dtype=torch.float32)
    if quantised:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    else:
        model = model.dequantize()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    data = load_file(trace)
    began = 0.0
    for step, (ids, labels) in enumerate(zip(data["input_ids"], data["labels"])):
        if step == 1:
            began = time.monotonic()
        model(input_ids=ids.long(), labels=labels.long()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.monotonic() - began
    tokens = data["input_ids"][1:].numel()
    print(json.dumps({"tokens_per_second": tokens / seconds, "peak_mb": peak_mb()}))


def measure(args, arch):
    """Rows against PEFT."""
    from safetensors.numpy import save_file
    rng = np.random.default_rng(0)
    steps = 3 if args.quick else 5
    ids = rng.integers(1000, arch["vocab"], (steps, 4, 256)).astype(np.int32)
    trace = args.work / "trace.safetensors"
    save_file({"input_ids": ids, "labels": ids.copy()}, trace)
    hf_dir = args.work / "hf"
    shutil.rmtree(hf_dir, ignore_errors=True)
    env = environment(args)
    run(args.lorica, "base", "export", args.base, hf_dir, env=env)
    peers = {}
    for kind in ("quantised", "float32"):
        out = run(sys.executable, pathlib.Path(__file__).parent, "--peft", kind, "--work", args.work)
        peers[kind] = json.loads(out.splitlines()[-1])
    ours = json.loads(run(args.lorica, "bench", "train", "--base", args.base, "--threads", 2,
                          "--repeat", steps - 1, "--json", env=env))
    rows = []
    for kind, label in (("quantised", "PEFT + bitsandbytes NF4"), ("float32", "PEFT float32")):
        rows.append((f"training, 4 x 256 tokens, rank 16 all linear, tokens/s",
                     ours["tokens_per_second"], peers[kind]["tokens_per_second"], label))
    rows.append(("training, peak memory, MB", ours["peak_mb"], peers["quantised"]["peak_mb"],
                 "PEFT + bitsandbytes NF4"))
    return rows
