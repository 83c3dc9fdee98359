# SPDX-License-Identifier: MIT
"""Random adapters, one set of numbers in PEFT's files and in GGUF."""
import json

import numpy as np

MODULES = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn",
           "o_proj": "self_attn", "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}
ATTENTION = [name for name, part in MODULES.items() if part == "self_attn"]
GGUF_NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
              "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


def shapes(arch):
    q, kv = arch["heads"] * arch["head_dim"], arch["kv_heads"] * arch["head_dim"]
    h, i = arch["hidden"], arch["intermediate"]
    return {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q),
            "gate_proj": (i, h), "up_proj": (i, h), "down_proj": (h, i)}


def permute(rows, heads):
    """The order of rotary rows that GGUF files have."""
    n = rows.shape[0]
    return rows.reshape(heads, 2, n // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def tensors_of(arch, seed, rank, modules):
    """(layer, module) to A and B."""
    rng = np.random.default_rng(seed)
    found = {}
    for layer in range(arch["layers"]):
        for module in modules:
            n, k = shapes(arch)[module]
            found[layer, module] = (
                rng.uniform(-1, 1, (rank, k)).astype(np.float32) / np.float32(np.sqrt(k)),
                (rng.standard_normal((n, rank)) * 0.02).astype(np.float32))
    return found


def save_peft(directory, tensors, rank, modules):
    from safetensors.numpy import save_file
    directory.mkdir(parents=True, exist_ok=True)
    out = {}
    for (layer, module), (a, b) in tensors.items():
        path = f"base_model.model.model.layers.{layer}.{MODULES[module]}.{module}"
        out[path + ".lora_A.weight"], out[path + ".lora_B.weight"] = a, b
    save_file(out, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    (directory / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank,
        "target_modules": sorted(modules), "bias": "none", "lora_dropout": 0.0}))


def save_gguf(path, arch, tensors, rank):
    import gguf
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * rank)
    for (layer, module), (a, b) in tensors.items():
        heads = {"q_proj": arch["heads"], "k_proj": arch["kv_heads"]}.get(module)
        name = f"blk.{layer}.{GGUF_NAMES[module]}.weight"
        writer.add_tensor(name + ".lora_a", a.astype(np.float16))
        writer.add_tensor(name + ".lora_b", (permute(b, heads) if heads else b).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(work, arch, number, rank=16, modules=tuple(MODULES), name="adapter"):
    """The adapter's directory; its GGUF file lies beside it, with .gguf behind the name."""
    directory = work / f"{name}{number}"
    if not (directory / "adapter_config.json").exists():
        tensors = tensors_of(arch, number, rank, modules)
        save_gguf(work / f"{name}{number}.gguf", arch, tensors, rank)
        save_peft(directory, tensors, rank, modules)
    return directory
