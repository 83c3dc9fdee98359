# SPDX-License-Identifier: MIT
"""What the generators of numeric references share: the tiny models as plain float32 Llamas, and
adapters as PEFT writes them.

A model that bitsandbytes quantised is dequantised here, code x absmax in float32, into the linear
layers of an ordinary LlamaForCausalLM, and run in that. Its own Linear4bit would not do as the
reference: what it rounds in between (to bfloat16, or the scales alone) differs from one device and
one kernel to the next.
"""
import json
import pathlib
import shutil

import bitsandbytes.functional as bnb
import torch
import transformers

here = pathlib.Path(__file__).resolve().parent


def float_model(name):
    """The model of tests/golden/NAME in float32."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        here / name, dtype=torch.float32, device_map="cpu")
    state = {}
    for key, weight in loaded.named_parameters():
        if hasattr(weight, "quant_state"):
            weight.quant_state.dtype = torch.float32
            weight = bnb.dequantize_4bit(weight.data, weight.quant_state)
        state[key] = weight.detach().float()
    config = transformers.AutoConfig.from_pretrained(here / name)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return plain_llama(config, state)


def plain_llama(config, state):
    """A LlamaForCausalLM in float32 with these weights, every one of them."""
    model = transformers.LlamaForCausalLM(config).float().eval()
    if config.tie_word_embeddings:
        state = state | {"lm_head.weight": state["model.embed_tokens.weight"]}
    model.load_state_dict(state, strict=True)
    return model


def randomise(model, scale):
    """Gives A and B of an adapter values that matter; PEFT begins with B = 0."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(scale * torch.randn(weight.shape))


def save_adapter(model, path, base, dtype=None):
    """Saves as PEFT does, with the base's name in place of a path on this machine; DTYPE: the
    weights in that type."""
    shutil.rmtree(path, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = base
    for name, weight in model.named_parameters():
        if dtype and "lora_" in name:
            weight.data = weight.data.to(dtype)
    model.save_pretrained(path)
    (path / "README.md").unlink(missing_ok=True)
    saved = json.loads((path / "adapter_config.json").read_text())
    for key in ("target_modules", "layers_to_transform"):
        if isinstance(saved.get(key), list):  # sets inside PEFT: their order would change
            saved[key].sort()
    (path / "adapter_config.json").write_text(json.dumps(saved, indent=2) + "\n")
