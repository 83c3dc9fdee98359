# SPDX-License-Identifier: MIT
"""An adapter for SmolLM2-135M too large to keep in the repository, by a formula: the same values
wherever it is made. Needs NumPy and safetensors only."""
import json

import numpy as np
from safetensors.numpy import save_file

LAYERS, HIDDEN, KV, INNER = 30, 576, 192, 1536
RANK, ALPHA = 8, 16
B_LARGEST = 0.2  # decides how much the adapter changes: 0, nothing
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.v_proj": (KV, HIDDEN),
          "mlp.gate_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}


def scattered(start, shape, largest):
    """Values from -largest to largest: the multiplicative hash of a running number."""
    count = np.arange(start, start + shape[0] * shape[1], dtype=np.uint64)
    value = (count * np.uint64(2654435761) % np.uint64(2**32) >> np.uint64(8)).astype(np.float64)
    return ((value / 2**23 - 1) * largest).astype(np.float32).reshape(shape)


def write(path):
    """Writes it into the directory PATH."""
    tensors, at = {}, 1
    for layer in range(LAYERS):
        for module, (outputs, inputs) in SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            for name, shape, largest in (("A", (RANK, inputs), inputs**-0.5),
                                         ("B", (outputs, RANK), B_LARGEST)):
                tensors[f"{stem}.lora_{name}.weight"] = scattered(at, shape, largest)
                at += shape[0] * shape[1]
    path.mkdir(parents=True)
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    (path / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA,
        "target_modules": [m.split(".")[1] for m in SHAPES], "bias": "none", "lora_dropout": 0.0,
        "base_model_name_or_path": "SmolLM2-135M", "inference_mode": True}))
    return path
