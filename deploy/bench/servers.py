# SPDX-License-Identifier: MIT
"""Servers and their clients: lorica over HTTPS against llama-server."""
import http.client
import json
import pathlib
import random
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import adapters
import live
from common import environment, free_port, run

WORDS = """river stone window garden letter doctor morning silver ticket engine winter candle market
bridge pepper violin harbor meadow lantern pocket thunder basket copper island velvet kitchen forest
mirror button castle dragon feather hammer jacket kettle ladder magnet needle orange pencil rabbit
saddle tunnel umbrella valley wagon yellow anchor bottle camera desert elbow finger guitar""".split()
CLIENTS, TOKENS = 16, 64
MANY, CACHED = 2000, 256  # published adapters, and how many of them the cache holds


class Server:
    """A server process that is up within the with block."""

    def __init__(self, command, port, ready, env=None, tls=None):
        self.port, self.tls, self.ready = port, tls, ready
        print("+", *command, file=sys.stderr)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL,
                                        stderr=self.log, env=env)

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


def serve_lorica(args, level=None, conf=""):
    """A server, and the headers that its clients send."""
    port = free_port()
    env = environment(args, LORICA_SERVER=f"https://127.0.0.1:{port}")
    if level:
        env["LORICA_CPU"] = level
    (args.data / "lorica.conf").write_text(conf)
    tls = ssl.create_default_context(cafile=args.data / "tls/ca.pem")
    key = (args.data / "admin.key").read_text().strip()
    return (Server([args.lorica, "serve", "--listen", f"127.0.0.1:{port}", "--threads", 2], port,
                   "/readyz", env, tls),
            {"content-type": "application/json", "authorization": f"Bearer {key}"}, env)


def serve_llama(args, count, build):
    port = free_port()
    loras = ",".join(str(args.work / f"adapter{i}.gguf") for i in range(count))
    return Server([build / "llama-server", "-m", args.q4, "-t", 2, "-np", CLIENTS, "-c",
                   CLIENTS * 1024, "--port", port, "--host", "127.0.0.1", "--lora", loras], port,
                  "/health")


def prompt(rng, words=40):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def lorica_body(model_of, words=40):
    def body(rng, number):
        return "/v1/completions", json.dumps({
            "model": model_of(rng, number), "prompt": prompt(rng, words), "max_tokens": TOKENS,
            "ignore_eos": True, "temperature": 0})
    return body


def llama_body(adapter_of, count, words=40):
    def body(rng, number):
        return "/completion", json.dumps({
            "prompt": prompt(rng, words), "n_predict": TOKENS, "ignore_eos": True, "temperature": 0,
            "cache_prompt": False,
            "lora": [{"id": i, "scale": 1.0 if i == adapter_of(number) else 0.0}
                     for i in range(count)]})
    return body


def load(server, body_of, headers, clients, seconds=None, turn=0):
    """Closed loop, for `seconds` or one request each; generated tokens per second. Another turn asks
    with other prompts, which no cache has seen."""
    done, failures = [0] * clients, []
    stop = time.monotonic() + (seconds or 0)

    def client(number):
        rng, connection = random.Random(f"{number} {seconds} {turn}"), server.connect()
        while not failures:
            status, answer = server.request("POST", *body_of(rng, number), headers, connection)
            if status != 200:
                failures.append(answer[:300])
                return
            done[number] += TOKENS
            if time.monotonic() >= stop:
                return

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise RuntimeError(failures[0])
    return sum(done) / (time.monotonic() - began)


def warm_load(server, body, headers, clients, seconds, turn=0):
    load(server, body, headers, clients, 3, turn)
    return load(server, body, headers, clients, seconds, turn)


CASES = [("1 client over HTTP(S), no adapter", 1, lambda n: None),
         ("1 client over HTTP(S), one adapter (rank 16, all linear)", 1, lambda n: 0),
         ("16 clients, no adapter", CLIENTS, lambda n: None),
         ("16 clients, all on one adapter", CLIENTS, lambda n: 0),
         ("16 clients, 8 distinct adapters", CLIENTS, lambda n: n % 8)]


def measure_level(args, arch, level, build):
    seconds = 10 if args.quick else 30
    ours, peers = {}, {}
    directories = [adapters.make(args.work, arch, i) for i in range(8)]
    server, headers, env = serve_lorica(args, level)
    with server:
        for i, directory in enumerate(directories):
            run(args.lorica, "adapter", "publish", f"bench{i}", directory, "--channel", "stable",
                env=env)
        for name, clients, which in CASES:
            body = lorica_body(lambda rng, n: "base" if which(n) is None else f"bench{which(n)}")
            ours[name] = warm_load(server, body, headers, clients, seconds)
    with serve_llama(args, 8, build) as server:
        for name, clients, which in CASES:
            peers[name] = warm_load(server, llama_body(which, 8),
                                    {"content-type": "application/json"}, clients, seconds)
    distinct = ours["16 clients, 8 distinct adapters"] / ours["16 clients, all on one adapter"]
    return ([(f"{level}: {name}, tokens/s", ours[name], peers[name], "llama-server")
             for name, _, _ in CASES],
            [(f"{level}: 16 clients, 8 distinct adapters against all on one", f"{distinct:.0%}",
              "90 %")])


def measure_memory(args, arch, build):
    """Base, 3 adapters, and 16 requests of about 1,000 tokens at once."""
    server, headers, env = serve_lorica(args)
    with server:
        for i in range(3):
            run(args.lorica, "adapter", "publish", f"bench{i}", adapters.make(args.work, arch, i),
                "--channel", "stable", env=env)
        load(server, lorica_body(lambda rng, n: f"bench{n % 3}", 520), headers, CLIENTS)
        ours = server.memory_mb()
    with serve_llama(args, 3, build) as server:
        load(server, llama_body(lambda n: n % 3, 3, 520), {"content-type": "application/json"},
             CLIENTS)
        peer = server.memory_mb()
    return [("resident memory, base, 3 adapters, 16 x 1,024 tokens, MB", ours, peer, "llama-server")]


def measure_many(args, arch):
    """What 2,000 adapters, of which the cache holds 256, cost against one."""
    count, cached, seconds = (200, 26, 5) if args.quick else (MANY, CACHED, 10)
    directory = adapters.make(args.work, arch, 0, 4, adapters.ATTENTION, "tiny")
    # Adapters lie in the cache as bf16: half of their file.
    size = (directory / "adapter_model.safetensors").stat().st_size / 2 / 2**20
    server, headers, _ = serve_lorica(args, conf=f"adapter-cache-mb = {round(size * cached)}\n")
    rates = {}
    with server:
        publisher = live.Publisher(server, {"authorization": headers["authorization"]}, directory)
        for i in range(count):
            publisher.publish(f"many-{i}")
        choices = {"one": lambda rng, n: "many-0@1",
                   "uniform": lambda rng, n: f"many-{rng.randrange(count)}@1",
                   "power law": lambda rng, n:
                       f"many-{min(count - 1, int(rng.paretovariate(1.0)) - 1)}@1"}
        # In turn, since the machine's own speed varies by more than what is to be seen.
        for turn in range(3):
            for name, choose in choices.items():
                rates.setdefault(name, []).append(
                    warm_load(server, lorica_body(choose), headers, CLIENTS, seconds, turn))
    middle = {name: statistics.median(found) for name, found in rates.items()}
    return [(f"16 clients, {count:,} adapters of which {cached} are cached, {name}, against one",
             f"{middle[name] / middle['one']:.0%}", aim)
            for name, aim in (("uniform", "80 %"), ("power law", "94 %"))]


def measure(args, arch):
    """Rows against llama-server, and (what, figure, aim) of what has no peer."""
    rows, figures = [], []
    for level, build in args.llama_builds.items():
        more_rows, more_figures = measure_level(args, arch, level, build)
        rows += more_rows
        figures += more_figures
    rows += measure_memory(args, arch, next(iter(args.llama_builds.values())))
    figures += measure_many(args, arch)
    return rows, figures
