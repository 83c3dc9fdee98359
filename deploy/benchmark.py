# SPDX-License-Identifier: MIT
"""Runs lorica and its peers side by side and prints one table. Called by deploy/benchmark."""
import argparse
import http.client
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

import benchmark_live

WORDS = """river stone window garden letter doctor morning silver ticket engine winter candle market
bridge pepper violin harbor meadow lantern pocket thunder basket copper island velvet kitchen forest
mirror button castle dragon feather hammer jacket kettle ladder magnet needle orange pencil rabbit
saddle tunnel umbrella valley wagon yellow anchor bottle camera desert elbow finger guitar""".split()
CLIENTS, TOKENS = 16, 64
MODULES = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn",
           "o_proj": "self_attn", "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}
GGUF_NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
              "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


def run(*command, **kwargs):
    print("+", *command, file=sys.stderr)
    return subprocess.run([str(c) for c in command], check=True, text=True,
                          stdout=subprocess.PIPE, **kwargs).stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# -- adapters: random, rank 16 on all linear layers, one set of numbers in two file formats ---------

def shapes(arch):
    q, kv = arch["heads"] * arch["head_dim"], arch["kv_heads"] * arch["head_dim"]
    h, i = arch["hidden"], arch["intermediate"]
    return {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q),
            "gate_proj": (i, h), "up_proj": (i, h), "down_proj": (h, i)}


def permute(rows, heads):
    """The order of rotary rows that GGUF files have."""
    n = rows.shape[0]
    return rows.reshape(heads, 2, n // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def make_adapters(work, arch, count, rank=16):
    import gguf
    from safetensors.numpy import save_file
    for number in range(count):
        directory = work / f"adapter{number}"
        directory.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        tensors = {}
        writer = gguf.GGUFWriter(work / f"adapter{number}.gguf", "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 2.0 * rank)
        for layer in range(arch["layers"]):
            for module, (n, k) in shapes(arch).items():
                a = rng.uniform(-1, 1, (rank, k)).astype(np.float32) / np.float32(np.sqrt(k))
                b = (rng.standard_normal((n, rank)) * 0.02).astype(np.float32)
                path = f"base_model.model.model.layers.{layer}.{MODULES[module]}.{module}"
                tensors[path + ".lora_A.weight"], tensors[path + ".lora_B.weight"] = a, b
                heads = {"q_proj": arch["heads"], "k_proj": arch["kv_heads"]}.get(module)
                name = f"blk.{layer}.{GGUF_NAMES[module]}.weight"
                writer.add_tensor(name + ".lora_a", a.astype(np.float16))
                writer.add_tensor(name + ".lora_b",
                                  (permute(b, heads) if heads else b).astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        (directory / "adapter_config.json").write_text(json.dumps({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank,
            "target_modules": sorted(MODULES), "bias": "none", "lora_dropout": 0.0}))


# -- servers and clients -----------------------------------------------------------------------------

class Server:
    """A server process that is up within the with block."""

    def __init__(self, command, port, ready, env=None, tls=None):
        self.port, self.tls = port, tls
        print("+", *command, file=sys.stderr)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL,
                                        stderr=self.log, env=env)
        self.ready = ready

    def __enter__(self):
        end = time.monotonic() + 300
        while time.monotonic() < end:
            try:
                if self.request("GET", self.ready)[0] == 200:
                    return self
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        self.process.kill()
        self.process.wait()
        self.log.seek(0)
        raise RuntimeError(f"a server did not start: {self.log.read()[-2000:]!r}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def connect(self):
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=300)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def request(self, method, path, body=None, headers=None, connection=None):
        connection = connection or self.connect()
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def memory_mb(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0


def prompt(rng):
    return " ".join(rng.choice(WORDS) for _ in range(40))


def load(server, body_of, headers, clients, seconds):
    """Closed loop; returns generated tokens per second, warm-up not counted."""
    done, stop = [0] * clients, time.monotonic() + seconds
    failures = []

    def client(number):
        rng, connection = random.Random(number), server.connect()
        while time.monotonic() < stop and not failures:
            status, answer = server.request("POST", *body_of(number, prompt(rng)), headers,
                                            connection)
            if status != 200:
                failures.append(answer[:300])
                return
            done[number] += TOKENS

    def round_trip():
        threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
        began = time.monotonic()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failures:
            raise RuntimeError(failures[0])
        return sum(done) / (time.monotonic() - began)

    return round_trip()


def serve_lorica(args, arch):
    port = free_port()
    env = dict(os.environ, LORICA_DATA=str(args.data), LORICA_SERVER=f"https://127.0.0.1:{port}")
    tls = ssl.create_default_context(cafile=args.data / "tls/ca.pem")
    return env, Server([args.lorica, "serve", "--listen", f"127.0.0.1:{port}", "--threads", 2], port,
                       "/readyz", env, tls)


def lorica_body(adapter_of):
    def body(number, text):
        return "/v1/completions", json.dumps({
            "model": adapter_of(number), "prompt": text, "max_tokens": TOKENS, "ignore_eos": True,
            "temperature": 0})
    return body


def llama_body(adapter_of, count):
    def body(number, text):
        return "/completion", json.dumps({
            "prompt": text, "n_predict": TOKENS, "ignore_eos": True, "temperature": 0,
            "cache_prompt": False,
            "lora": [{"id": i, "scale": 1.0 if i == adapter_of(number) else 0.0}
                     for i in range(count)]})
    return body


def bench_servers(args, arch, rows):
    seconds = 10 if args.quick else 30
    make_adapters(args.work, arch, 8)
    cases = [("1 client over HTTP(S), no adapter", 1, lambda n: None),
             ("1 client over HTTP(S), one adapter (rank 16, all linear)", 1, lambda n: 0),
             ("16 clients, no adapter", CLIENTS, lambda n: None),
             ("16 clients, all on one adapter", CLIENTS, lambda n: 0),
             ("16 clients, 8 distinct adapters", CLIENTS, lambda n: n % 8)]
    env, server = serve_lorica(args, arch)
    ours, peers = {}, {}
    with server:
        for i in range(8):
            run(args.lorica, "adapter", "publish", f"bench{i}", args.work / f"adapter{i}",
                "--channel", "stable", env=env)
        key = (args.data / "admin.key").read_text().strip()
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        for name, clients, which in cases:
            body = lorica_body(lambda n: "base" if which(n) is None else f"bench{which(n)}")
            load(server, body, headers, clients, 3)
            ours[name] = load(server, body, headers, clients, seconds)
        ours_memory = server.memory_mb()
    port = free_port()
    loras = ",".join(str(args.work / f"adapter{i}.gguf") for i in range(8))
    with Server([args.llama / "llama-server", "-m", args.q4, "-t", 2, "-np", CLIENTS, "-c", 16384,
                 "--port", port, "--host", "127.0.0.1", "--lora", loras], port, "/health") as server:
        headers = {"content-type": "application/json"}
        for name, clients, which in cases:
            body = llama_body(which, 8)
            load(server, body, headers, clients, 3)
            peers[name] = load(server, body, headers, clients, seconds)
        peer_memory = server.memory_mb()
    for name, _, _ in cases:
        rows.append((name + ", tokens/s", ours[name], peers[name], "llama-server"))
    rows.append(("resident memory after that, MB", ours_memory, peer_memory, "llama-server"))


def bench_engine(args, rows):
    out = run(args.llama / "llama-bench", "-m", args.q4, "-t", 2, "-p", 512, "-n", 128, "-r",
              3 if args.quick else 10, "-o", "json")
    peer = {("decode" if r["n_gen"] else "prefill"): r["avg_ts"] for r in json.loads(out)}
    env = dict(os.environ, LORICA_DATA=str(args.data))
    for verb, label, tokens in (("decode", "decode, 1 stream, no adapter", 128),
                                ("prefill", "prefill of 512 tokens", 512)):
        ours = json.loads(run(args.lorica, "bench", verb, "--threads", 2, "--tokens", tokens,
                              "--json", env=env))
        rows.append((label + ", tokens/s", ours["tokens_per_second"], peer[verb], "llama-bench Q4_0"))


# -- the registry -------------------------------------------------------------------------------------

def bench_registry(args, arch):
    """Rows of (what, figure, promise)."""
    make_adapters(args.work, arch, 1)
    size = ["--names", 1000] if args.quick else []
    seen = json.loads(run(args.lorica, "bench", "registry", "--json", *size,
                          env=dict(os.environ, TMPDIR=str(args.work))))
    calls = {call["call"]: call for call in seen["calls"]}
    each = seen["adapters"] * seen["versions"]
    promises = []
    for name in ("publish", "promote", "list a page of 100", "open"):
        promises.append((f"{name}, {seen['adapters']} adapters x {seen['versions']} versions "
                         f"of {seen['weights_bytes'] // 1024} KB, p99",
                         f"{calls[name]['p99_seconds'] * 1e3:.3f} ms",
                         "1 s" if name == "open" else ""))
    promises.append(("file, beside the weights themselves, a version",
                     f"{(seen['file_bytes'] / each - seen['weights_bytes']) / 1024:.1f} KB", ""))
    env, server = serve_lorica(args, arch)
    with server:
        headers = {"authorization": f"Bearer {(args.data / 'admin.key').read_text().strip()}"}
        promises += benchmark_live.measure(server, headers, args.work / "adapter0", args.quick)
    return promises


# -- training ----------------------------------------------------------------------------------------

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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"tokens_per_second": tokens / seconds, "peak_mb": peak}))


def bench_training(args, arch, rows):
    from safetensors.numpy import save_file
    rng = np.random.default_rng(0)
    steps = 3 if args.quick else 5
    ids = rng.integers(1000, arch["vocab"], (steps, 4, 256)).astype(np.int32)
    trace = args.work / "trace.safetensors"
    save_file({"input_ids": ids, "labels": ids.copy()}, trace)
    hf_dir = args.work / "hf"
    shutil.rmtree(hf_dir, ignore_errors=True)
    env = dict(os.environ, LORICA_DATA=str(args.data))
    run(args.lorica, "base", "export", args.base, hf_dir, env=env)
    peers = {}
    for kind in ("quantised", "float32"):
        out = run(sys.executable, __file__, "--peft", kind, "--work", args.work)
        peers[kind] = json.loads(out.splitlines()[-1])
    began = time.monotonic()
    process = subprocess.Popen([str(args.lorica), "train", "--replay", str(trace), "--init",
                                str(args.work / "adapter0"), "--base", args.base, "--out",
                                str(args.work / "replayed"), "--threads", "2"],
                               env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError("lorica train --replay failed")
    ours = ids.size / (time.monotonic() - began)
    for kind, label in (("quantised", "PEFT + bitsandbytes NF4"), ("float32", "PEFT float32")):
        rows.append((f"training, 4 x 256 tokens, rank 16 all linear, tokens/s", ours,
                     peers[kind]["tokens_per_second"], label))
    rows.append(("training, peak memory, MB", usage.ru_maxrss / 1024, peers["quantised"]["peak_mb"],
                 "PEFT + bitsandbytes NF4"))


# -- main --------------------------------------------------------------------------------------------

def prepare(args):
    args.work.mkdir(parents=True, exist_ok=True)
    args.data = args.work / "data"
    shutil.rmtree(args.data, ignore_errors=True)
    env = dict(os.environ, LORICA_DATA=str(args.data))
    run(args.lorica, "init", env=env)
    run(args.lorica, "base", "import", args.model, env=env)
    args.base = json.loads(run(args.lorica, "base", "list", "--json", env=env))["data"][0]["name"]
    return json.loads(run(args.lorica, "base", "inspect", args.base, "--json", env=env))["architecture"]


def quantise_for_llama(args):
    args.q4 = args.work / "q4_0.gguf"
    if not args.q4.exists():
        run(args.llama / "llama-quantize", "--allow-requantize", args.model, args.q4, "Q4_0")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lorica", type=pathlib.Path)
    parser.add_argument("--llama", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--skip-training", action="store_true")
    parser.add_argument("--only", choices=("engine", "servers", "registry", "training"),
                        help="one part of it")
    parser.add_argument("--peft", choices=("quantised", "float32"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peft:
        peft_training(args.work / "hf", args.work / "trace.safetensors", args.peft == "quantised")
        return
    arch = prepare(args)
    rows, promises = [], []
    wanted = {args.only} if args.only else {"engine", "servers", "registry", "training"}
    if args.skip_training:
        wanted.discard("training")
    if wanted & {"engine", "servers"}:
        quantise_for_llama(args)
    if "engine" in wanted:
        bench_engine(args, rows)
    if "servers" in wanted:
        bench_servers(args, arch, rows)
    if "registry" in wanted:
        promises = bench_registry(args, arch)
    if "training" in wanted:
        make_adapters(args.work, arch, 1)
        bench_training(args, arch, rows)
    cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo")
               if line.startswith("model name"))
    print(f"\n{cpu}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}\n")
    if rows:
        print("| work | lorica | peer | ratio | peer is |\n|---|---|---|---|---|")
    for label, ours, peer, who in rows:
        print(f"| {label} | {ours:.0f} | {peer:.0f} | {ours / peer:.2f} | {who} |")
    if promises:
        print("\n| registry | measured | promised |\n|---|---|---|")
    for row in promises:
        print("| {} | {} | {} |".format(*row))


if __name__ == "__main__":
    main()
