# SPDX-License-Identifier: MIT
"""The engine without a server, against llama-bench, for each instruction set."""
import json
from statistics import mean

import adapters
from common import lorica_json, run


def llama(args, build, *words):
    """Its mean of two repeats, tokens per second."""
    out = run(build / "llama-bench", "-m", args.q4, "-t", 2, *words, "-r", 2, "-o", "json")
    return json.loads(out)[0]["avg_ts"]


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


CASES = (("decode", "decode, 1 stream", 128, ("-p", 0, "-n", 128)),
         ("prefill", "prefill of 512", 512, ("-p", 512, "-n", 0)),
         ("prefill", "prefill of 2,048", 2048, ("-p", 2048, "-n", 0)))


def measure(args, arch):
    """Rows against llama-bench, and (what, figure, aim) of what has no peer. The two take turns: a
    shared machine has faster and slower minutes."""
    rows, figures = [], []
    for level, build in args.llama_builds.items():
        for verb, label, tokens, words in CASES:
            peer, ours = [], []
            for _ in range(3 if args.quick else 8):
                peer.append(llama(args, build, *words))
                ours.append(rate(args, level, verb, "--tokens", tokens)["tokens_per_second"])
            rows.append((f"{level}: {label}, no adapter, tokens/s", mean(ours), mean(peer),
                         "llama-bench Q4_0"))
        for label, cost in costs(args, arch, level):
            figures.append((f"{level}: cost of an adapter ({label}), 1 stream", f"{cost:.1%}",
                            "15 %" if "16" in label else "6 %"))
    return rows, figures
