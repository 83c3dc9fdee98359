# SPDX-License-Identifier: MIT
"""Writes the seeds of the fuzz targets: make_corpus.py CORPUS_DIR. Run again after a change here; files
that a fuzzer found stay."""
import json
import pathlib
import struct
import sys

U32, F32, STRING, ARRAY, U64 = 4, 6, 8, 9, 10


def safetensors(header, data=0):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def string(text):
    return struct.pack("<Q", len(text)) + text


def pair(key, kind, value):
    return string(key) + struct.pack("<I", kind) + value


def gguf(pairs, tensors=(), data=0, version=3, counts=None):
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    text = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs)
    for name, dims, kind, offset in tensors:
        text += string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        text += struct.pack("<IQ", kind, offset)
    return text + bytes(-len(text) % 32) + bytes(data)


def part(name, body, extra=b""):
    return (b"--XyZ\r\nContent-Disposition: form-data; name=\"" + name + b"\"" + extra +
            b"\r\n\r\n" + body + b"\r\n")


BASE = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
CHAT = {"model": "cardiology@3", "messages": [{"role": "user", "content": "hi"}]}
HUGE = 2 ** 64 - 1


def peft(**more):
    return json.dumps({**BASE, **more}).encode()


def chat(**more):
    return json.dumps({**CHAT, **more}).encode()


ARCHITECTURE = pair(b"general.architecture", STRING, string(b"llama"))
SEEDS = {
    "json": {
        "plain": b'{"a":[1,-0.5,1e-7,true,false,null,"\\u00e9\\ud83d\\ude00\\n"],"b":{}}',
        "deep64": b"[" * 64 + b"]" * 64, "deep65": b"[" * 65 + b"]" * 65, "deep9999": b"[" * 9999,
        "duplicate": b'{"a":1,"a":2}', "duplicate-escaped": b'{"a":1,"\\u0061":2}',
        "nul": b'"\\u0000"', "lone": b'"\\ud800"', "overlong": b'"\xc0\xaf"', "cut": b'{"a":[1,',
        "huge": b"1e999", "digits": b"1" * 400, "zero": b"[01]", "plus": b"+1", "dot": b"[1.]",
        "nan": b"NaN", "tail": b"{}x", "minus-zero": b"-0",
    },
    "safetensors": {
        "two": safetensors({"__metadata__": {"format": "pt"}, "a": tensor([2, 3], 0, 24),
                            "b": tensor([4], 24, 32, "BF16")}, 32),
        "empty": safetensors({}), "overlap": safetensors({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, 12),
        "hole": safetensors({"a": tensor([2], 0, 8), "b": tensor([1], 12, 16)}, 16),
        "overflow": safetensors({"a": tensor([2 ** 32, 2 ** 32], 0, 0)}),
        "overflow-big": safetensors({"a": tensor([2 ** 53, 2 ** 53, 2 ** 53], 0, 8)}, 8),
        "zero-times-big": safetensors({"a": tensor([0, 2 ** 53, 2 ** 53], 0, 0)}),
        "backwards": safetensors({"a": tensor([2], 8, 0)}, 8), "short": safetensors({"a": tensor([2], 0, 8)}, 7),
        "long": safetensors({"a": tensor([2], 0, 8)}, 9), "dims9": safetensors({"a": tensor([1] * 9, 0, 4)}, 4),
        "negative": safetensors({"a": tensor([-1], 0, 4)}, 4), "dtype": safetensors({"a": tensor([1], 0, 4, "F128")}, 4),
        "duplicate": safetensors(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},'
                                 b'"a":{"dtype":"U8","shape":[],"data_offsets":[1,2]}}', 2),
        "length": struct.pack("<Q", HUGE) + b"{}", "metadata": safetensors({"__metadata__": {"a": 1}}),
    },
    "gguf": {
        "small": gguf([ARCHITECTURE, pair(b"n", U32, struct.pack("<I", 3)), pair(b"f", F32, struct.pack("<f", 1)),
                       pair(b"s", ARRAY, struct.pack("<IQ", STRING, 2) + string(b"a") + string(b"b")),
                       pair(b"i", ARRAY, struct.pack("<IQ", U32, 2) + bytes(8))],
                      [(b"t", [32, 2], 3, 0), (b"u", [8], 0, 64)], 96),
        "version2": gguf([ARCHITECTURE], version=2), "version1": gguf([], version=1),
        "counts": gguf([], counts=(HUGE, HUGE)), "counts-big": gguf([], counts=(2 ** 40, 2 ** 40)),
        "string": gguf([struct.pack("<Q", HUGE)], counts=(0, 1)),
        "array": gguf([pair(b"a", ARRAY, struct.pack("<IQ", U64, 2 ** 61))]),
        "strings": gguf([pair(b"a", ARRAY, struct.pack("<IQ", STRING, 2 ** 60))]),
        "nested": gguf([pair(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "type": gguf([pair(b"a", 99, b"")]),
        "duplicate": gguf([ARCHITECTURE, ARCHITECTURE]),
        "alignment0": gguf([pair(b"general.alignment", U32, struct.pack("<I", 0))]),
        "alignment7": gguf([pair(b"general.alignment", U32, struct.pack("<I", 7))]),
        "dims-overflow": gguf([], [(b"t", [2 ** 33, 2 ** 33], 0, 0)], 32),
        "dims5": gguf([], [(b"t", [1] * 5, 0, 0)], 32), "offset": gguf([], [(b"t", [1], 0, HUGE - 31)], 32),
        "outside": gguf([], [(b"t", [64], 0, 32)], 64), "crooked": gguf([], [(b"t", [1], 0, 4)], 32),
        "twice": gguf([], [(b"t", [1], 0, 0), (b"t", [1], 0, 32)], 64), "magic": b"GGML" + bytes(28),
    },
    "peft": {
        "plain": peft(), "rslora": peft(use_rslora=True), "regex": peft(target_modules=r".*\.[qv]_proj"),
        "all": peft(target_modules="all-linear"), "layers": peft(layers_to_transform=[0, 3]),
        "patterns": peft(rank_pattern={r"layers\.\d+\.self_attn\.q_proj": 4, "^model.layers.1.*": 2},
                         alpha_pattern={"(k|v)_proj": 8.5}),
        "dora": peft(use_dora=True), "bias": peft(bias="all"), "modules": peft(modules_to_save=["lm_head"]),
        "rank0": peft(r=0), "rank4097": peft(r=4097), "rank-text": peft(r="8"), "unknown": peft(no_such_key=1),
        "explosion": peft(rank_pattern={"(.*)*" * 20 + "x": 4}), "groups": peft(target_modules="(" * 500),
        "stars": peft(rank_pattern={".*" * 60 + "z": 4}), "set": peft(target_modules="[^a-"),
        "alpha": peft(lora_alpha=-1e308), "no-targets": peft(target_modules=[]),
    },
    "openai": {
        "chat": chat(stream=True, stream_options={"include_usage": True}, stop=["a"], logit_bias={"5": -100}, n=2,
                     logprobs=True, top_logprobs=3, seed=-7, max_tokens=5),
        "parts": chat(messages=[{"role": "developer", "content": [{"type": "text", "text": "a"},
                                                                  {"type": "text", "text": "b"}]}]),
        "image": chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        "text": b'{"model":"m","prompt":"hello","logprobs":5,"echo":false,"suffix":null}',
        "ids": b'{"model":"m","prompt":[1,2,3]}', "tools": chat(tools=[{"type": "function"}]),
        "unknown": chat(**{"k" * 300: 1}), "unknown-utf8": chat(**{"\u00e9" * 100: 1}),
        "many": chat(messages=[{"role": "user", "content": "x"}] * 257), "array": b"[]",
        "bias": chat(logit_bias={"99999999999999999999": 1}), "range": chat(temperature=2.5),
        "duplicate": b'{"model":"a","model":"b","prompt":""}',
    },
    "multipart": {
        "two": part(b"config", b"{}") + part(b"weights", bytes(100), b"; filename=\"a\\\"b.bin\"") + b"--XyZ--\r\n",
        "look-alike": part(b"a", b"\r\n--Xy\r\r\n--\r\n-") + b"--XyZ--", "many": part(b"a", b"x") * 17 + b"--XyZ--",
        "headers": b"--XyZ\r\nA: " + b"x" * 8300, "name": part(b"n" * 200, b""), "none": b"--XyZ--",
        "no-name": b"--XyZ\r\n\r\nx\r\n--XyZ--", "fold": part(b"a", b"", b";\r\n filename=b") + b"--XyZ--",
        "control": part(b"a\x00", b""), "utf8": part(b"\xff", b""), "stray": b"--XyZ--x",
        "encoding": part(b"a", b"", b"\r\nContent-Transfer-Encoding: base64"), "type": b" boundary=\"a b\"; x=y",
    },
    "http_fields": {
        "epoch": b'"18446744073709551615"', "epoch-over": b'"18446744073709551616"', "bearer": b"Bearer lor_abc==",
        "query": b"limit=20&after=a%20b&limit=3", "segment": b"caf%C3%A9", "dots": b"%2e%2e", "slash": b"a%2fb",
        "broken": b"limit=%", "nul": b"limit=%00", "overlong": b"limit=%c0%af", "long": b"limit=" + b"x" * 64,
    },
    "record": {
        **{f"zeros-{kind}": bytes([kind]) + bytes(300) for kind in range(4)},
        **{f"ones-{kind}": bytes([kind]) + b"\xff" * 300 for kind in range(4)},
        "number": bytes([3]) + struct.pack("<Q", 7), "name": bytes([3]) + b"cardiology",
    },
}


def main():
    for target, seeds in SEEDS.items():
        folder = pathlib.Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
