# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the peers have in common: one layer's weights, its batches, and the conversation with compare.py.

A peer is a program that holds the weights of one layer and serves until standard input ends. It first says

    {"ready": {SYSTEM: version, ...}, "trains": [SYSTEM, ...]}       or       {"skip": why not}

and then answers each line `TOKENS random forward|train SECONDS SYSTEM` with {"times": [ms, ...], "err": e} or
{"error": text}. The layer is that of layer_bench: softmax over the router's logits, top-k, weights normalised, SwiGLU.
"""
import argparse
import json
import os
import sys
import time

try:
    import torch
except ImportError:
    torch = None


class Skip(Exception):
    """This peer cannot run here; the text says why."""


class Layer:
    """Random weights: router [E, H], gate_up [E, 2I, H] (gate rows first) and down [E, H, I] in the storage type."""

    def __init__(self, a):
        self.hidden, self.intermediate, self.experts, self.k = a.hidden, a.intermediate, a.experts, a.k
        self.threads, self.name = a.threads, a.dtype
        self.dtype = getattr(torch, a.dtype)
        torch.manual_seed(0)
        uniform = lambda width, *shape: torch.empty(*shape, dtype=self.dtype).uniform_(-1, 1).mul_((3 / width) ** 0.5)
        self.router = uniform(self.hidden, self.experts, self.hidden)
        self.gate_up = uniform(self.hidden, self.experts, 2 * self.intermediate, self.hidden)
        self.down = uniform(self.intermediate, self.experts, self.hidden, self.intermediate)

    def route(self, x):
        """Weights and experts of every token, [T, k]."""
        weights, experts = torch.softmax((x @ self.router.T).float(), -1).topk(self.k, -1)
        return weights / weights.sum(-1, keepdim=True), experts

    def batches(self, tokens):
        """As layer_bench: batches without a common expert while a batch reaches at most half of them, else one."""
        count = max(1, self.experts // (tokens * self.k))
        noise = [torch.empty(tokens, self.hidden).uniform_(-1, 1).mul_(3**0.5) for _ in range(count)]
        if count > 1:
            rows = self.router.float() / self.router.float().square().sum(-1, keepdim=True)
            wanted = torch.randperm(self.experts)[: count * tokens * self.k].reshape(count, tokens, self.k)
            noise = [x + 12 * rows[w].sum(1) for x, w in zip(noise, wanted)]
        return [x.to(self.dtype) for x in noise]

    def error(self, x, y):
        """||y - reference|| / ||reference|| of the last token, the reference in float64."""
        weights, experts = self.route(x[-1:])
        token, out = x[-1].double(), torch.zeros(self.hidden, dtype=torch.float64)
        for w, e in zip(weights[0].double(), experts[0]):
            gate, up = (self.gate_up[e].double() @ token).chunk(2)
            out += w * (self.down[e].double() @ (torch.nn.functional.silu(gate) * up))
        return float((y[-1].double() - out).norm() / out.norm())


def time_calls(runs, seconds):
    """Milliseconds of calls of the runs in turn: one each to warm up, then at least one and for so many seconds."""
    for run in runs:
        run()
    times, end = [], time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < 2000):
        run = runs[len(times) % len(runs)]
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


class Function:
    """A system that is a function of x: bind(x) gives what to time and a way to its result."""

    def __init__(self, call):
        self.call = call

    def bind(self, x):
        kept = []

        def run():
            kept[:] = [self.call(x)]

        return run, lambda: kept[0]


def serve(prepare):
    """prepare(layer) -> ({system: (version, object with bind(x) and perhaps bind_training(x))}); raises Skip."""
    parser = argparse.ArgumentParser()
    for size in ("--hidden", "--intermediate", "--experts", "--k"):
        parser.add_argument(size, type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    a = parser.parse_args()
    channel = os.fdopen(os.dup(1), "w")  # libraries may print; their lines go to standard error
    os.dup2(2, 1)

    def say(message):
        print(json.dumps(message), file=channel, flush=True)

    try:
        if torch is None:
            raise Skip("torch is not installed")
        torch.set_num_threads(a.threads)
        layer = Layer(a)
        systems = prepare(layer)
    except Skip as why:
        return say({"skip": str(why)})
    except Exception as why:
        return say({"skip": f"{type(why).__name__}: {str(why)[:200]}"})
    trains = [name for name, (_, system) in systems.items() if hasattr(system, "bind_training")]
    say({"ready": {name: version for name, (version, _) in systems.items()}, "trains": trains})
    for line in sys.stdin:
        try:
            tokens, _, step, seconds, name = line.split()
            system = systems[name][1]
            batches = layer.batches(int(tokens))
            if step == "train":
                say({"times": time_calls([system.bind_training(batches[0])], float(seconds))})
                continue
            with torch.no_grad():
                bound = [system.bind(x) for x in batches]
                times = time_calls([run for run, _ in bound], float(seconds))
                bound[0][0]()
                say({"times": times, "err": layer.error(batches[0], bound[0][1]())})
            del bound
        except Exception as why:
            say({"error": f"{type(why).__name__}: {str(why)[:200]}"})
