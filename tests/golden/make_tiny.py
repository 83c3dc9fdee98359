#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the tiny Llama models that the tests run on, with the reference implementations.

    pip install torch transformers bitsandbytes tokenizers gguf
    python3 tests/golden/make_tiny.py

tiny/          bfloat16, tied head, config.json as transformers 5 writes it
tiny-odd/      float16 in two shards, own head, llama3 positions, 172 inner columns (no multiple of
               64: blocks run over row ends), config.json as transformers 4 wrote it
tiny-nf4/      tiny quantised by bitsandbytes: NF4 with double quantisation
tiny-odd-nf4/  tiny-odd quantised by bitsandbytes: NF4 without it
tiny.gguf      tiny as llama.cpp's converter lays it out, one tensor type after the other
"""

import json
import pathlib
import shutil

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

here = pathlib.Path(__file__).resolve().parent
data = here.parent.parent / "deploy" / "data"

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny test model<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer():
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    texts = []
    for path in sorted(data.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for value in row.get("messages", [row]):
                texts += [v for v in value.values() if isinstance(v, str)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(texts, trainer)
    tok.add_tokens(["<note>"])  # an added token that is not special
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token="<|im_start|>", eos_token="<|im_end|>",
        unk_token="<|endoftext|>", pad_token="<|im_end|>", chat_template=TEMPLATE)


def make_model(seed, vocab, inner, tied, dtype, **more):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=64, intermediate_size=inner, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        initializer_range=0.1, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        bos_token_id=1, eos_token_id=2, pad_token_id=2, **more)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.2 * torch.randn(weight.shape))
    return model.to(dtype)


def save(model, tokenizer, name, **kwargs):
    out = here / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out, **kwargs)
    tokenizer.save_pretrained(out)
    # The template in the configuration, as most published models have it.
    (out / "chat_template.jinja").unlink(missing_ok=True)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = TEMPLATE
    path.write_text(json.dumps(config, indent=2) + "\n")
    return out


def as_transformers_4(out):
    """Rewrites config.json with the keys of transformers 4."""
    path = out / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    path.write_text(json.dumps(config, indent=2) + "\n")


def quantise(source, name, tokenizer, double):
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        here / source, quantization_config=config, device_map="cpu")
    save(model, tokenizer, name)


def permute(weight, heads):
    """Row order of llama.cpp for query and key weights: pairs beside each other."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def fnv(values):
    h = 0xCBF29CE484222325
    for byte in values.astype("<f4").tobytes():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(model, tokenizer, path):
    config, types = model.config, gguf.GGMLQuantizationType
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("Tiny Test")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(config.vocab_size)
    out.add_rope_dimension_count(config.head_dim)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = {i: t for t, i in backend["model"]["vocab"].items()}
    kinds = {i: gguf.TokenType.NORMAL for i in tokens}
    for added in backend["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = (gguf.TokenType.CONTROL if added["special"]
                              else gguf.TokenType.USER_DEFINED)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list([tokens[i] for i in range(len(tokens))])
    out.add_token_types([kinds[i] for i in range(len(tokens))])
    out.add_token_merges([" ".join(pair) for pair in backend["model"]["merges"]])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_add_bos_token(False)
    out.add_chat_template(TEMPLATE)

    cycle = [types.Q4_1, types.Q4_0, types.Q8_0, types.BF16, types.F16, types.F32]
    hashes, turn = {}, 0
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if name == "lm_head.weight":
            continue  # tied
        if name == "model.embed_tokens.weight":
            gname, kind = "token_embd.weight", types.Q8_0
        elif name == "model.norm.weight":
            gname, kind = "output_norm.weight", types.F32
        else:
            _, _, layer, rest = name.removesuffix(".weight").split(".", 3)
            gname = f"blk.{layer}.{GGUF_NAMES[rest]}.weight"
            kind = types.F32
            if "norm" not in rest:
                kind, turn = cycle[turn % len(cycle)], turn + 1
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        module = name.split(".")[-2]
        order = permute(np.arange(len(values))[:, None], heads[module])[:, 0] \
            if module in heads else np.arange(len(values))
        raw = gguf.quants.quantize(np.ascontiguousarray(values[order]), kind)
        exact = gguf.quants.dequantize(raw, kind)
        restored = np.empty_like(exact)
        restored[order] = exact
        hashes[name] = fnv(restored)
        out.add_tensor(gname, raw, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return hashes


def main():
    tokenizer = make_tokenizer()
    vocab = len(tokenizer)
    tiny = make_model(1, vocab, 128, True, torch.bfloat16)
    save(tiny, tokenizer, "tiny")
    odd = make_model(
        2, vocab, 172, False, torch.float16,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                         "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64})
    as_transformers_4(save(odd, tokenizer, "tiny-odd", max_shard_size="200KB"))
    quantise("tiny", "tiny-nf4", tokenizer, True)
    quantise("tiny-odd", "tiny-odd-nf4", tokenizer, False)
    hashes = {"gguf": write_gguf(tiny, tokenizer, here / "tiny.gguf")}
    for name in ("tiny", "tiny-odd"):
        model = transformers.AutoModelForCausalLM.from_pretrained(here / name, dtype=torch.float32)
        hashes[name] = {k: fnv(v.numpy()) for k, v in model.state_dict().items()}
        hashes[name + "/inv_freq"] = [
            float(v) for v in model.model.rotary_emb.inv_freq.float()]
    import bitsandbytes.functional as bnb
    for name in ("tiny-nf4", "tiny-odd-nf4"):
        model = transformers.AutoModelForCausalLM.from_pretrained(here / name, device_map="cpu")
        hashes[name] = {}
        for key, weight in model.named_parameters():
            if hasattr(weight, "quant_state"):
                state = weight.quant_state
                state.dtype = torch.float32
                values = bnb.dequantize_4bit(weight.data, state)
                hashes[name][key] = fnv(values.numpy())
    (here / "tiny.hashes.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
