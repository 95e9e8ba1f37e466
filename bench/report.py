# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes what compare.py has measured: the tables of a page, between two markers, and the roofline picture."""
import re

import roofline

BEGIN, END = "<!-- measured: begin (written by bench/compare.py) -->", "<!-- measured: end -->"
TITLES = {"torch-eager": "PyTorch, eager", "torch-grouped_mm": "PyTorch, grouped_mm", "onnxruntime-MoE": "ONNX Runtime",
          "vllm-vec": "vLLM", "vllm-amx": "vLLM (AMX)", "ggml-mul_mat_id": "ggml"}
BACKWARD = "+backward"


class Unusable(Exception):
    """The page cannot take the tables."""


def significant(value, digits=3):
    """A number for people: three digits, and no exponent."""
    if value >= 10 ** (digits - 1):
        return f"{value:.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.4f}"


def shares(row, limits):
    """Shares of the two bounds: multiply-adds and bandwidth."""
    rates = limits["gflops"]
    rate = max(v for k, v in rates.items() if row["dtype"] == "bfloat16" or "BF16" not in k)
    return row["flops"] / rate / 1e6 / row["ms"], row["bytes"] / limits["bandwidth_gbs"] / 1e6 / row["ms"]


def table(head, lines):
    if not lines:
        return ""
    rule = ["---" if i < 1 else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines]) + "\n\n"


class Report:
    def __init__(self, results):
        self.results = results
        self.rows = results["rows"]
        order = {name: i for i, name in enumerate(dict.fromkeys(row["shape"] for row in self.rows))}
        self.rows.sort(key=lambda row: (order[row["shape"]], row["T"], row["dtype"], row["peer"], row["load"]))

    def text(self):
        parts = [self.machine()]
        for dtype in ("float32", "bfloat16"):
            parts.append(self.comparison(f"Forward, {dtype}", dtype, ""))
        for dtype in ("float32", "bfloat16"):
            parts.append(self.comparison(f"Forward and backward, {dtype}", dtype, BACKWARD))
        parts += [self.packing(), self.loads(), self.routing(), self.product()]
        return "".join(parts)

    def machine(self):
        limits, versions = self.results["limits"], self.results.get("versions", {})
        rates = ", ".join(f"{rate:.0f} GFLOP/s ({name})" for name, rate in limits["gflops"].items())
        text = (f"Processor: {self.results['processor']}, {self.results['threads']} threads, microkernel "
                f"{self.results.get('kernel', '?')}.\nLimits: {rates}, "
                f"{limits['bandwidth_gbs']:.1f} GB/s.\n")
        if versions:
            text += "Versions: " + ", ".join(f"{TITLES.get(n, n)} {v}" for n, v in sorted(versions.items())) + ".\n"
        return text + "\n"

    def comparison(self, title, dtype, suffix):
        ours = [r for r in self.rows if r["peer"] == "kokomo" + suffix and r["dtype"] == dtype and r["load"] == "random"]
        of = lambda row: {r["peer"].removesuffix(BACKWARD): r for r in self.rows
                          if r["peer"].endswith(BACKWARD) == bool(suffix) and "ratio" in r
                          and all(r[k] == row[k] for k in ("shape", "T", "dtype", "load"))}
        peers = [name for name in TITLES if any(name in of(row) for row in ours)]
        with_packed = not suffix and any(r["peer"] == "kokomo-packed" for r in self.rows)
        lines = []
        for row in ours:
            others = of(row)
            packed = next((r for r in self.rows if r["peer"] == "kokomo-packed" and not suffix and all(
                r[k] == row[k] for k in ("shape", "T", "dtype", "load"))), None)
            best_form = min((row, packed or row), key=lambda r: r["ms"])
            compute, memory = shares(best_form, self.results["limits"])
            bound = f"{100 * compute:.0f} % of multiply-adds" if compute > memory else f"{100 * memory:.0f} % of bandwidth"
            cells = [row["shape"], str(row["T"]),
                     f"{significant(row['ms'])} ({significant(row['ms_low'])} – {significant(row['ms_high'])})",
                     *([significant(packed["ms"]) if packed else ""] if with_packed else []), bound,
                     f"{(row['workspace_bytes'] + row['tape_bytes']) / 2**20:.1f}"]
            if peers:
                best = min(others.values(), key=lambda r: r["ms"], default=None)
                cells.append(f"**{best['ratio']:.2f}**" if best else "")
                cells += [significant(others[p]["ms"]) if p in others else "" for p in peers]
            lines.append(cells)
        head = ["layer", "tokens", "Kokomo, ms (10 – 90 %)", *(["packed, ms"] if with_packed else []), "share of the bound", "memory, MiB"]
        if peers:
            head += ["fastest other / Kokomo"] + [f"{TITLES[p]}, ms" for p in peers]
        content = table(head, lines)
        return f"### {title}\n\n{content}" if content else ""

    def packing(self):
        once = {(r["shape"], r["dtype"]): r for r in self.rows if "pack_ms" in r}
        lines = [[shape, dtype, significant(r["pack_ms"])] for (shape, dtype), r in once.items()]
        content = table(["layer", "type", "ms"], lines)
        return "### Packing all weights, once\n\n" + content if content else ""

    def loads(self):
        named = lambda row, load: next((r for r in self.rows if r["load"] == load and r["peer"] == "kokomo" and all(
            r[k] == row[k] for k in ("shape", "T", "dtype"))), None)
        loads = [load for load in ("balanced", "hot", "zipf") if any(r["load"] == load for r in self.rows)]
        lines = []
        for row in self.rows:
            found = [named(row, load) for load in loads]
            if row["peer"] != "kokomo" or row["load"] != "random" or not any(found):
                continue
            cells = [row["shape"], row["dtype"], str(row["T"])]
            lines.append(cells + [f"{significant(r['ms'])} ({r['most_rows']})" if r else "" for r in [row, *found]])
        content = table(["layer", "type", "tokens", *(f"{load}, ms" for load in ["random", *loads])], lines)
        return "### Loads\n\nIn brackets the tokens of the busiest expert.\n\n" + content if content else ""

    def routing(self):
        rows = self.results.get("routing", {}).get("rows", [])
        parts = ("scorer", "selector", "gate", "grouping", "other")
        lines = [[r["router"], r["shape"], str(r["T"]), significant(r["ms"]), f"{100 * r['share']:.1f} %" if r["share"] else "",
                  *(significant(1e3 * r[f"{part}_ms"]) for part in parts)] for r in rows]
        head = ["router", "layer", "tokens", "whole, ms", "share of the layer", *(f"{part}, µs" for part in parts)]
        content = table(head, lines)
        return "### Routing path\n\n" + content if content else ""

    def product(self):
        text = ""
        titles = {"product": "Grouped product", "outer": "Grouped outer product (gradient of the weights)"}
        for kind, title in titles.items():
            rows = [r for r in self.results.get("product", {}).get("rows", []) if r["kind"] == kind]
            keys = list(dict.fromkeys((r["load"], r["experts"], r["most_rows"]) for r in rows))
            lines = []
            for load, experts, most in keys:
                cells = [f"{most} rows each" if load == "equal" else f"{load}, at most {most}", str(experts)]
                for dtype in ("float32", "bfloat16"):
                    r = next((r for r in rows if (r["load"], r["experts"], r["most_rows"], r["dtype"]) ==
                              (load, experts, most, dtype)), None)
                    cells += [significant(r["ms"]), significant(r["gflops"]), f"{100 * r['share']:.0f} %"] if r else [""] * 3
                lines.append(cells)
            content = table(["rows", "experts", *(f"{d}: {c}" for d in ("float32", "bfloat16")
                                                  for c in ("ms", "GFLOP/s", "share of the bound"))], lines)
            text += f"### {title}\n\n{content}" if content else ""
        tiles = [[r["cache"], significant(r["gflops"]), f"{100 * r['share']:.0f} %"]
                 for r in self.results.get("product", {}).get("rows", []) if r["kind"] == "tile"]
        content = table(["operands in", "GFLOP/s", "share of multiply-adds measured in turns"], tiles)
        return text + (f"### Microkernel alone, float32\n\n{content}" if content else "")


def write(results, page, picture):
    if not results["rows"]:
        raise Unusable("nothing has been measured")
    text = page.read_text() if page.exists() else ""
    if BEGIN not in text or END not in text:
        raise Unusable(f"{page} lacks the lines '{BEGIN}' and '{END}'")
    content = Report(results).text().rstrip("\n")
    page.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n\n{content}\n\n{END}", text,
                           flags=re.DOTALL))
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(roofline.draw(results))
