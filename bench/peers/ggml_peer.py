#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ggml, llama.cpp's tensor library, through its C interface: the graph that llama.cpp builds for such a layer, with
ggml_mul_mat_id for gate, up and down. Weights in the storage type, activations in float32, as it has them.

KOKOMO_GGML names the folder of libggml-base, libggml-cpu and libggml."""
import ctypes
import os
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p

from serve import Skip, serve, torch

F32, BF16 = 0, 30  # enum ggml_type


class InitParams(Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class ThreadpoolParams(Structure):
    _fields_ = [("cpumask", c_bool * 512), ("n_threads", c_int), ("prio", c_int), ("poll", c_uint32),
                ("strict_cpu", c_bool), ("paused", c_bool)]


# result and arguments: p pointer, i int, l int64, z size_t, b bool, s string, v nothing
SIGNATURES = {
    "version": "s", "new_tensor": "ppip", "free": "vp",
    "mul_mat": "pppp", "mul_mat_id": "ppppp", "soft_max": "ppp", "argsort_top_k": "pppi", "get_rows": "pppp",
    "sum_rows": "ppp", "div": "pppp", "mul": "pppp", "add": "pppp", "cont": "ppp", "swiglu_split": "pppp",
    "reshape_2d": "pppll", "reshape_3d": "ppplll", "view_2d": "pppllzz",
    "new_graph_custom": "ppzb", "build_forward_expand": "vpp", "set_output": "vp",
    "backend_cpu_init": "p", "backend_cpu_set_n_threads": "vpi", "backend_cpu_set_threadpool": "vpp",
    "backend_cpu_buffer_type": "p", "backend_alloc_ctx_tensors_from_buft": "ppp", "backend_buffer_free": "vp",
    "backend_tensor_set": "vppzz", "backend_tensor_get": "vppzz", "backend_graph_compute": "ipp",
    "gallocr_new": "pp", "gallocr_alloc_graph": "bpp", "gallocr_free": "vp",
}
KINDS = {"p": c_void_p, "i": c_int, "l": c_int64, "z": c_size_t, "b": c_bool, "s": c_char_p, "v": None}


class Ggml:
    """The functions of ggml without their prefix, and a backend with threads of its own."""

    def __init__(self, folder, threads):
        libraries = [ctypes.CDLL(os.path.join(folder, f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL)
                     for name in ("ggml-base", "ggml-cpu", "ggml")]

        def function(name, result, arguments):
            found = next((getattr(lib, "ggml_" + name) for lib in libraries if hasattr(lib, "ggml_" + name)), None)
            if found is None:
                raise Skip(f"this ggml has no ggml_{name}")
            found.restype, found.argtypes = result, arguments
            return found

        for name, kinds in SIGNATURES.items():
            kinds = [KINDS[kind] for kind in kinds]
            setattr(self, name, function(name, kinds[0], kinds[1:]))
        self.init = function("init", c_void_p, [InitParams])
        pool_params = function("threadpool_params_default", ThreadpoolParams, [c_int])(threads)
        pool = function("threadpool_new", c_void_p, [POINTER(ThreadpoolParams)])(byref(pool_params))
        self.backend = self.backend_cpu_init()
        self.backend_cpu_set_n_threads(self.backend, threads)
        self.backend_cpu_set_threadpool(self.backend, pool)
        self.memory = self.backend_cpu_buffer_type()

    def context(self):
        return self.init(InitParams(4 << 20, None, True))

    def tensor(self, context, kind, *extents):
        return self.new_tensor(context, kind, len(extents), (c_int64 * len(extents))(*extents))

    def put(self, tensor, values):
        values = values.contiguous()
        self.backend_tensor_set(tensor, values.data_ptr(), 0, values.numel() * values.element_size())


class MulMatId:
    def __init__(self, g, layer):
        self.g, self.layer = g, layer
        kind = BF16 if layer.dtype == torch.bfloat16 else F32
        H, I, E = layer.hidden, layer.intermediate, layer.experts
        context = g.context()
        self.router = g.tensor(context, F32, H, E)
        self.gate, self.up = g.tensor(context, kind, H, I, E), g.tensor(context, kind, H, I, E)
        self.down = g.tensor(context, kind, I, H, E)
        if not g.backend_alloc_ctx_tensors_from_buft(context, g.memory):
            raise MemoryError("no memory for ggml's weights")
        g.put(self.router, layer.router.float())
        g.put(self.gate, layer.gate_up[:, :I])
        g.put(self.up, layer.gate_up[:, I:])
        g.put(self.down, layer.down)

    def bind(self, x):
        return Graph(self, x).bound()


class Graph:
    """The layer for one batch. Extents are in ggml's order, the innermost first."""

    def __init__(self, weights, x):
        g, layer = weights.g, weights.layer
        T, H, E, k = len(x), layer.hidden, layer.experts, layer.k
        self.g, self.layer, self.tokens = g, layer, T
        self.inputs, self.context = g.context(), g.context()
        c = self.context
        batch = g.tensor(self.inputs, F32, H, T)
        self.inputs_buffer = g.backend_alloc_ctx_tensors_from_buft(self.inputs, g.memory)
        g.put(batch, x.float())

        scores = g.soft_max(c, g.mul_mat(c, weights.router, batch))
        chosen = g.argsort_top_k(c, scores, k)
        best = g.reshape_2d(c, g.get_rows(c, g.reshape_3d(c, scores, 1, E, T), chosen), k, T)
        share = g.reshape_3d(c, g.div(c, best, g.sum_rows(c, best)), 1, k, T)
        rows = g.reshape_3d(c, batch, H, 1, T)
        gate, up = (g.mul_mat_id(c, w, rows, chosen) for w in (weights.gate, weights.up))
        parts = g.mul(c, g.mul_mat_id(c, weights.down, g.swiglu_split(c, gate, up), chosen), share)
        view = lambda j: g.view_2d(c, parts, H, T, 4 * H * k, 4 * H * j)
        y = view(0) if k > 1 else g.cont(c, view(0))
        for j in range(1, k):
            y = g.add(c, y, view(j))
        g.set_output(y)
        self.y, self.graph = y, g.new_graph_custom(c, 2048, False)
        g.build_forward_expand(self.graph, y)
        self.allocator = g.gallocr_new(g.memory)
        if not g.gallocr_alloc_graph(self.allocator, self.graph):
            raise MemoryError("no memory for ggml's graph")

    def __del__(self):
        self.g.gallocr_free(self.allocator)
        self.g.backend_buffer_free(self.inputs_buffer)
        self.g.free(self.context)
        self.g.free(self.inputs)

    def bound(self):
        return self.run, self.result

    def run(self):
        if self.g.backend_graph_compute(self.g.backend, self.graph) != 0:
            raise RuntimeError("ggml could not compute its graph")

    def result(self):
        y = torch.empty(self.tokens, self.layer.hidden)
        self.g.backend_tensor_get(self.y, y.data_ptr(), 0, y.numel() * 4)
        return y


def prepare(layer):
    folder = os.environ.get("KOKOMO_GGML", "")
    if not os.path.exists(os.path.join(folder, "libggml.so")):
        raise Skip("KOKOMO_GGML names no folder with libggml.so")
    if layer.name not in ("float32", "bfloat16"):
        raise Skip(f"no {layer.name} here")
    g = Ggml(folder, layer.threads)
    return {"ggml-mul_mat_id": (g.version().decode(), MulMatId(g, layer))}


if __name__ == "__main__":
    serve(prepare)
