#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes smollm.safetensors: what transformers and PEFT compute with SmolLM2-135M in NF4 on the
text hospital.txt, in float32.

    pip install torch transformers peft bitsandbytes accelerate tokenizers gguf
    python3 tests/golden/make_smollm.py SmolLM2-135M-Instruct.Q4_1.gguf

From the GGUF file on, nothing here is lorica's: the gguf package dequantises it, tokenizers reads
the text, bitsandbytes quantises the linear layers to NF4 with double quantisation and dequantises
them (see reference.py). So the import, its quantisation and the forward pass are checked at once.

input_ids          int32 [1, time]
positions, sample  int32: positions and token ids whose logits are kept
Of CASE, which is base or adapter (large_adapter.py's):
CASE.logsumexp     float32 [time]
CASE.targets       float32 [time - 1]: the logit of the token that comes next
CASE.top_ids, CASE.top_logits      [positions, 16]: the largest logits
CASE.sample_logits                 float32 [positions, sample]

Its metadata holds nf4_sha256: of the bytes of all linear layers in the order of their names, of
each the codes, the codes of the scales, the scales of those, and the offset (float32).
"""
import hashlib
import pathlib
import sys
import tempfile

import bitsandbytes.functional as bnb
import gguf
import numpy as np
import peft
import safetensors.torch
import torch
import transformers

import large_adapter
import make_tiny
import make_tokenizer
import reference

POSITIONS = [0, 1, 17, 60, 121, 242, 363, 430]


def unpermute(weight, heads):
    """Row order of transformers, from that of llama.cpp."""
    order = make_tiny.permute(np.arange(len(weight))[:, None], heads)[:, 0]
    restored = np.empty_like(weight)
    restored[order] = weight
    return restored


def through_nf4(weight, digest):
    """What is left of a weight after bitsandbytes has quantised it, twice; adds to the digest.

    quantize_4bit(compress_statistics=True) would do both at once, but its second half differs from
    machine to machine: torch sums the mean of the scales in an order that depends on the number of
    threads, and the kernel for CPUs looks codes up in a table too coarse for the small ones (1 of
    450 scales of this model gets another code than the nearest). So the mean is taken here, and
    the codes by bitsandbytes' default kernel, which does what the one for CUDA does."""
    codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    offset = state.absmax.double().mean().float()
    quantise = torch.ops.bitsandbytes.quantize_blockwise.default
    dynamic_map = bnb.create_dynamic_map()
    scale_codes, nested = quantise.redispatch(
        torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd),
        state.absmax - offset, dynamic_map, 256)
    for part in (codes, scale_codes, nested, offset):
        digest.update(part.numpy().tobytes())
    state.absmax = bnb.dequantize_blockwise(
        scale_codes, absmax=nested, code=dynamic_map, blocksize=256) + offset
    return bnb.dequantize_4bit(codes, state)


def load(path):
    """The model with its linear layers as NF4 has them, and the digest of their bytes."""
    reader = gguf.GGUFReader(path)
    field = {name: f.contents for name, f in reader.fields.items()}
    heads = {"q_proj": field["llama.attention.head_count"](),
             "k_proj": field["llama.attention.head_count_kv"]()}
    hidden = field["llama.embedding_length"]()
    config = transformers.LlamaConfig(
        vocab_size=field["llama.vocab_size"](), hidden_size=hidden,
        intermediate_size=field["llama.feed_forward_length"](),
        num_hidden_layers=field["llama.block_count"](), num_attention_heads=heads["q_proj"],
        num_key_value_heads=heads["k_proj"],
        max_position_embeddings=field["llama.context_length"](),
        rms_norm_eps=field["llama.attention.layer_norm_rms_epsilon"](), tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": field["llama.rope.freq_base"]()})
    names = {short: long for long, short in make_tiny.GGUF_NAMES.items()}
    names |= {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    state = {}
    for tensor in reader.tensors:
        *block, short, _ = tensor.name.split(".")
        name = (f"model.layers.{block[1]}." if block else "") + names[short] + ".weight"
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        module = name.split(".")[-2]
        if module in heads:
            values = unpermute(values, heads[module])
        state[name] = torch.from_numpy(values.copy())
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("_proj.weight"):
            state[name] = through_nf4(state[name], digest)
    return reference.plain_llama(config, state), digest.hexdigest()


def measure(model, ids, sample):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    sum_of_all = torch.logsumexp(logits.double(), dim=1)
    targets = logits[:-1].gather(1, ids[0, 1:, None])[:, 0]
    top = logits[POSITIONS].topk(16)
    print(f"perplexity {(sum_of_all[:-1] - targets).mean().exp():.4f}, "
          f"largest logit {logits.abs().max():.2f}")
    return {"logsumexp": sum_of_all.float(), "targets": targets.contiguous(),
            "top_ids": top.indices.int(), "top_logits": top.values,
            "sample_logits": logits[POSITIONS][:, sample.long()].contiguous()}


def main():
    source = sys.argv[1]
    model, digest = load(source)
    tokenizer = make_tokenizer.from_gguf(source)
    text = (reference.here / "hospital.txt").read_text(encoding="utf-8")
    ids = torch.tensor([make_tokenizer.ids(tokenizer, text, False)])
    sample = torch.arange(0, model.config.vocab_size, 331).int()
    out = {"input_ids": ids.int(), "positions": torch.tensor(POSITIONS).int(), "sample": sample}
    out |= {f"base.{k}": v for k, v in measure(model, ids, sample).items()}
    with tempfile.TemporaryDirectory() as directory:
        adapter = large_adapter.write(pathlib.Path(directory) / "adapter")
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
        out |= {f"adapter.{k}": v for k, v in measure(model, ids, sample).items()}
    path = reference.here / "smollm.safetensors"
    safetensors.torch.save_file(out, path, metadata={"nf4_sha256": digest})
    print(path.name, path.stat().st_size, "bytes,", ids.shape[1], "tokens")


if __name__ == "__main__":
    main()
