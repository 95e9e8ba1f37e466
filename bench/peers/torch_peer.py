#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""PyTorch: a loop over the experts that have tokens, and its grouped matrix product; both with autograd's backward."""
from serve import Function, Skip, serve, torch


def grouped_product():
    for module, name in ((torch.nn.functional, "grouped_mm"), (torch, "_grouped_mm")):
        if hasattr(module, name):
            return getattr(module, name)
    raise Skip("this torch has no grouped_mm")


class Trained(Function):
    """call(x, router, gate_up, down); in training gradients of all four are computed anew each time."""

    def __init__(self, layer, call):
        super().__init__(lambda x: call(x, layer.router, layer.gate_up, layer.down))
        self.layer, self.with_weights = layer, call

    def bind_training(self, x):
        layer = self.layer
        leaves = [tensor.detach().requires_grad_() for tensor in (x, layer.router, layer.gate_up, layer.down)]
        upstream = torch.ones_like(x)

        def run():
            for leaf in leaves:
                leaf.grad = None
            self.with_weights(*leaves).backward(upstream)

        return run


def prepare(layer):
    silu, k = torch.nn.functional.silu, layer.k
    grouped_mm = grouped_product()

    def route(x, router):
        weights, experts = torch.softmax((x @ router.T).float(), -1).topk(k, -1)
        return (weights / weights.sum(-1, keepdim=True)).to(x.dtype), experts

    def eager(x, router, gate_up, down):
        weights, experts = route(x, router)
        y = torch.zeros_like(x)
        for expert in experts.unique().tolist():
            tokens, places = (experts == expert).nonzero(as_tuple=True)
            gate, up = (x[tokens] @ gate_up[expert].T).chunk(2, -1)
            part = (silu(gate) * up) @ down[expert].T
            y = y.index_add(0, tokens, part * weights[tokens, places].unsqueeze(-1))
        return y

    def grouped(x, router, gate_up, down):
        weights, experts = route(x, router)
        flat = experts.flatten()
        order = flat.argsort()
        ends = flat.bincount(minlength=layer.experts).cumsum(0).to(torch.int32)
        tokens = order // k
        gate, up = grouped_mm(x[tokens], gate_up.transpose(1, 2), offs=ends).chunk(2, -1)
        rows = grouped_mm(silu(gate) * up, down.transpose(1, 2), offs=ends)
        return torch.zeros_like(x).index_add(0, tokens, rows * weights.flatten()[order].unsqueeze(-1))

    return {
        "torch-eager": (torch.__version__, Trained(layer, eager)),
        "torch-grouped_mm": (torch.__version__, Trained(layer, grouped)),
    }


if __name__ == "__main__":
    serve(prepare)
