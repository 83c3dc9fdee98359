#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes nf4.safetensors: what bitsandbytes on the CPU makes of a few matrices, with and without
double quantisation.

    pip install torch bitsandbytes safetensors
    python3 tests/golden/make_nf4.py

Of each CASE: CASE.x the input (float32; that of `large` follows from a formula), CASE.codes, CASE.absmax, CASE.values (the
dequantised ones, float32), and with double quantisation CASE.nested_absmax_codes,
CASE.nested_absmax, CASE.nested_offset, CASE.nested_scales (the dequantised scales),
CASE.nested_values (the last 192 only, as of CASE.values where the case is `large`).
"""
import pathlib

import bitsandbytes.functional as bnb
from bitsandbytes.backends.default import ops
import safetensors.torch
import torch

THRESHOLD_CODES = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
                   -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
                   0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
                   0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                   0.7229568362236023, 1.0]


def cases():
    """Names and inputs."""
    torch.manual_seed(7)
    yield "square", torch.randn(8, 64)
    yield "odd", torch.randn(7, 41)  # 287 values: a partial block, an odd count
    yield "tiny", torch.randn(5, 1)
    yield "scaled", torch.randn(4, 96) * torch.logspace(-6, 4, 4)[:, None]
    zero = torch.randn(4, 64)
    zero[1] = 0
    zero[3, 5:] = 0
    yield "zero", zero
    codes = torch.tensor(THRESHOLD_CODES)
    middle = (codes[:-1] + codes[1:]) / 2
    ties = torch.zeros(2, 64)
    ties[0, :15], ties[0, 15:30] = middle, torch.nextafter(middle, torch.tensor(2.0))
    ties[0, 30:45], ties[0, 63] = torch.nextafter(middle, torch.tensor(-2.0)), 1
    ties[1] = ties[0] * 4
    yield "ties", ties
    count = torch.arange(130 * 127)
    large = ((count * 2654435761 % 2**32) >> 8).float() / 2**23 - 1
    yield "large", (large * 2.0 ** (count // 64 % 5 - 2)).reshape(130, 127)


def dequantise(codes, absmax, shape):
    """By the path that all devices share. The vectorised one for CPUs (seen in 0.50.2) takes the
    scale of a wrong block where the width is a multiple of 32 but not of 64."""
    values = ops._dequantize_4bit_compute(codes.flatten(), absmax, bnb.get_4bit_type("nf4", device="cpu"), 64,
                                          shape, torch.float32)
    return values.flatten()


def main():
    out = {}
    for name, x in cases():
        codes, state = bnb.quantize_4bit(x, blocksize=64, quant_type="nf4")
        nested_codes, nested = bnb.quantize_4bit(x, blocksize=64, quant_type="nf4",
                                                 compress_statistics=True)
        assert torch.equal(codes, nested_codes)
        scales = bnb.dequantize_blockwise(nested.absmax, nested.state2) + nested.offset
        values = dequantise(codes, state.absmax, x.shape)
        nested_values = dequantise(codes, scales, x.shape)
        if x.shape[1] != 96:
            assert torch.equal(values, bnb.dequantize_4bit(codes, state).flatten())
            assert torch.equal(nested_values, bnb.dequantize_4bit(codes, nested).flatten())
        keep = slice(-192, None) if name == "large" else slice(None)
        out |= {
            f"{name}.codes": codes.flatten(), f"{name}.absmax": state.absmax,
            f"{name}.values": values[keep].clone(),
            f"{name}.nested_absmax_codes": nested.absmax,
            f"{name}.nested_absmax": nested.state2.absmax,
            f"{name}.nested_offset": nested.offset.reshape(1).float(),
            f"{name}.nested_scales": scales, f"{name}.nested_values": nested_values[-192:].clone(),
        }
        if name != "large":
            out[f"{name}.x"] = x
        if "quant_map" not in out:
            out["quant_map"], out["nested_quant_map"] = state.code, nested.state2.code
    path = pathlib.Path(__file__).resolve().parent / "nf4.safetensors"
    path.write_bytes(safetensors.torch.save(out))
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
