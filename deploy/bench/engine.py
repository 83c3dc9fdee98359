# SPDX-License-Identifier: MIT
"""The engine without a server, against llama-bench, for each instruction set."""
import json

import adapters
from common import lorica_json, run


def llama(args, build):
    """Tokens per second by (prompt, generated)."""
    out = run(build / "llama-bench", "-m", args.q4, "-t", 2, "-p", "512,2048", "-n", 128, "-r",
              3 if args.quick else 10, "-o", "json")
    return {(r["n_prompt"], r["n_gen"]): r["avg_ts"] for r in json.loads(out)}


def rate(args, level, verb, *words):
    """The mean of the repeats."""
    return lorica_json(args, "bench", verb, "--threads", 2, *words, LORICA_CPU=level)


def costs(args, arch, level):
    """What an adapter takes from one stream's speed: rank 16 on all layers, rank 8 on attention."""
    found = []
    for label, directory in (
            ("rank 16, all linear", adapters.make(args.work, arch, 0)),
            ("rank 8, attention", adapters.make(args.work, arch, 0, 8, adapters.ATTENTION, "small"))):
        pairs = [(rate(args, level, "decode")["best"],
                  rate(args, level, "decode", "--adapter", directory)["best"]) for _ in range(3)]
        without, with_adapter = map(max, zip(*pairs))
        found.append((label, 1 - with_adapter / without))
    return found


def measure(args, arch):
    """Rows against llama-bench, and (what, figure, aim) of what has no peer."""
    rows, figures = [], []
    for level, build in args.llama_builds.items():
        peer = llama(args, build)
        for verb, label, tokens, key in (("decode", "decode, 1 stream", 128, (0, 128)),
                                         ("prefill", "prefill of 512", 512, (512, 0)),
                                         ("prefill", "prefill of 2,048", 2048, (2048, 0))):
            ours = rate(args, level, verb, "--tokens", tokens)["tokens_per_second"]
            rows.append((f"{level}: {label}, no adapter, tokens/s", ours, peer[key], "llama-bench Q4_0"))
        for label, cost in costs(args, arch, level):
            figures.append((f"{level}: cost of an adapter ({label}), 1 stream", f"{cost:.1%}",
                            "15 %" if "16" in label else "6 %"))
    return rows, figures
