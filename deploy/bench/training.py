# SPDX-License-Identifier: MIT
"""Training, against PEFT on the same batches."""
import json
import os
import pathlib
import shutil
import sys
import time

import numpy as np

from common import environment, lorica_json, peak_mb, run


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


# What holds PyTorch's libraries to the instruction set of a level of LORICA_CPU.
LIMITS = {"avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                   "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}


def peer(args, kind, level):
    out = run(sys.executable, pathlib.Path(__file__).parent, "--peft", kind, "--work", args.work,
              env=dict(os.environ, **LIMITS.get(level, {})))
    return json.loads(out.splitlines()[-1])


def measure_level(args, level, steps):
    """Rows of one instruction set."""
    quantised, plain = peer(args, "quantised", level), peer(args, "float32", level)
    ours = lorica_json(args, "bench", "train", "--base", args.base, "--threads", 2, "--repeat",
                       steps - 1, LORICA_CPU=level)
    label = f"{level}: training, 4 x 256 tokens, rank 16 all linear, tokens/s"
    bnb = "PEFT + bitsandbytes NF4, float32"
    return [(label, ours["tokens_per_second"], quantised["tokens_per_second"], bnb),
            (label, ours["tokens_per_second"], plain["tokens_per_second"], "PEFT float32"),
            (f"{level}: training, peak memory, MB", ours["peak_mb"], quantised["peak_mb"], bnb)]


def measure(args, arch):
    """Rows against PEFT, for each instruction set."""
    from safetensors.numpy import save_file
    rng = np.random.default_rng(0)
    steps = 3 if args.quick else 5
    ids = rng.integers(1000, arch["vocab"], (steps, 4, 256)).astype(np.int32)
    save_file({"input_ids": ids, "labels": ids.copy()}, args.work / "trace.safetensors")
    hf_dir = args.work / "hf"
    shutil.rmtree(hf_dir, ignore_errors=True)
    run(args.lorica, "base", "export", args.base, hf_dir, env=environment(args))
    return [row for level in args.llama_builds for row in measure_level(args, level, steps)]
