# SPDX-License-Identifier: MIT
"""Runs lorica and its peers side by side and prints tables. Called by deploy/benchmark."""
import argparse
import os
import pathlib
import shutil
import time

import engine
import registry
import servers
import training
from common import lorica_json, run, environment

PARTS = ("engine", "servers", "registry", "training")


def prepare(args):
    """A data directory with the base in it; the base's shape."""
    args.work.mkdir(parents=True, exist_ok=True)
    args.data = args.work / "data"
    shutil.rmtree(args.data, ignore_errors=True)
    run(args.lorica, "init", env=environment(args))
    run(args.lorica, "base", "import", args.model, env=environment(args))
    args.base = lorica_json(args, "base", "list")["data"][0]["name"]
    return lorica_json(args, "base", "inspect", args.base)["architecture"]


def quantise_for_llama(args):
    args.q4 = args.work / "q4_0.gguf"
    if not args.q4.exists():
        run(next(iter(args.llama_builds.values())) / "llama-quantize", "--allow-requantize",
            args.model, args.q4, "Q4_0")


def llama_builds(words):
    """LEVEL=DIRECTORY words as a dictionary."""
    pairs = [word.split("=", 1) for word in words]
    return {level: pathlib.Path(directory) for level, directory in pairs}


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lorica", type=pathlib.Path)
    parser.add_argument("--llama", action="append", default=[], metavar="LEVEL=DIR",
                        help="llama.cpp's programs for an instruction set of LORICA_CPU")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts only")
    parser.add_argument("--peft", choices=("quantised", "float32"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.llama_builds = llama_builds(args.llama)
    args.parts = args.only or PARTS
    return args


def print_tables(rows, figures):
    cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo")
               if line.startswith("model name"))
    print(f"\n{cpu}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    if rows:
        print("\n| work | lorica | peer | ratio | peer is |\n|---|---|---|---|---|")
    for label, ours, peer, who in rows:
        print(f"| {label} | {ours:.0f} | {peer:.0f} | {ours / peer:.2f} | {who} |")
    if figures:
        print("\n| lorica alone | measured | aim |\n|---|---|---|")
    for row in figures:
        print("| {} | {} | {} |".format(*row))


def main():
    args = parse()
    if args.peft:
        training.peft_training(args.work / "hf", args.work / "trace.safetensors",
                               args.peft == "quantised")
        return
    arch = prepare(args)
    rows, figures = [], []
    if "engine" in args.parts or "servers" in args.parts:
        quantise_for_llama(args)
    for name, part in (("engine", engine), ("servers", servers)):
        if name in args.parts:
            more_rows, more_figures = part.measure(args, arch)
            rows += more_rows
            figures += more_figures
    if "registry" in args.parts:
        figures += registry.measure(args, arch)
    if "training" in args.parts:
        rows += training.measure(args, arch)
    print_tables(rows, figures)


if __name__ == "__main__":
    main()
