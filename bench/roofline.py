# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A roofline as SVG: what rows reach, over how many operations they have for each byte of weights."""
import math
from html import escape

WIDTH, HEIGHT = 960, 600
LEFT, RIGHT, TOP, BOTTOM = 82, 936, 84, 522
COLOURS = {"float32": "#2e7fd0", "bfloat16": "#e07b2a"}
STYLE = """
  .page { fill: #ffffff; } .ink { fill: #24292f; } .soft { fill: #6a737d; } .grid { stroke: #e4e8ec; stroke-width: 1; }
  .roof { stroke: #57606a; stroke-width: 2.5; fill: none; stroke-linejoin: round; } .other { stroke: #8c959f; }
  .under { fill: #57606a; fill-opacity: 0.06; }
  text { font-family: system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; font-size: 14px; }
  .title { font-size: 20px; font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; } .ink { fill: #e6edf3; } .soft { fill: #9198a1; } .grid { stroke: #21262d; }
    .roof { stroke: #b1bac4; } .under { fill: #b1bac4; } .other { stroke: #8b949e; }
  }
"""


class Axis:
    """A logarithmic axis between two ends on the page."""

    def __init__(self, low, high, start, end):
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self):
        power = math.floor(math.log10(self.low))
        values = [m * 10.0**p for p in range(power, 8) for m in (1, 2, 5)]
        return [v for v in values if self.low <= v <= self.high]


def points(results):
    """(row of kokomo, rate of the fastest other or None) of the forward rows with the load that a router gives."""
    for row in results["rows"]:
        if row["peer"] != "kokomo" or row["load"] != "random":
            continue
        forms = [r for r in results["rows"] if r["peer"] in ("kokomo", "kokomo-packed")
                 and all(r[k] == row[k] for k in ("shape", "T", "dtype", "load"))]
        row = max(forms, key=lambda r: r["gflops"])  # the weights as they are or packed, whichever is faster
        others = [r["gflops"] for r in results["rows"] if "ratio" in r and "+" not in r["peer"]
                  and all(r[k] == row[k] for k in ("shape", "T", "dtype", "load"))]
        yield row, max(others, default=None)


def draw(results):
    limits = results["limits"]
    rate, bandwidth = max(limits["gflops"].values()), limits["bandwidth_gbs"]
    found = list(points(results))
    intensity = [row["flops"] / row["bytes"] for row, _ in found]
    rates = [row["gflops"] for row, _ in found] + [r for _, r in found if r]
    x = Axis(min([0.25, *(0.6 * i for i in intensity)]), max([rate / bandwidth * 20, *(1.5 * i for i in intensity)]),
             LEFT, RIGHT)
    y = Axis(min([rate / 100, *(0.7 * r for r in rates)]), 1.6 * rate, BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           f'aria-label="Roofline of the forward rows">', f"<style>{STYLE}</style>",
           f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="10"/>']

    def text(px, py, content, css="soft", anchor="middle", extra=""):
        out.append(f'<text x="{px:.1f}" y="{py:.1f}" class="{css}" text-anchor="{anchor}" {extra}>{escape(content)}</text>')

    text(LEFT, 36, "Forward, against what the machine can do", "ink title", "start")
    for value in x.ticks():
        out.append(f'<line class="grid" x1="{x(value):.1f}" y1="{TOP}" x2="{x(value):.1f}" y2="{BOTTOM}"/>')
        text(x(value), BOTTOM + 22, f"{value:g}")
    for value in y.ticks():
        out.append(f'<line class="grid" x1="{LEFT}" y1="{y(value):.1f}" x2="{RIGHT}" y2="{y(value):.1f}"/>')
        text(LEFT - 10, y(value) + 5, f"{value:g}", anchor="end")
    text((LEFT + RIGHT) / 2, HEIGHT - 26, "operations for each byte of the active experts' weights")
    text(0, 0, "GFLOP/s", extra=f'transform="translate(26 {(TOP + BOTTOM) / 2}) rotate(-90)"')

    low = max(x.low, y.low / bandwidth)
    ridge = rate / bandwidth
    roof = f"{x(low):.1f},{y(low * bandwidth):.1f} {x(ridge):.1f},{y(rate):.1f} {RIGHT},{y(rate):.1f}"
    out.append(f'<polygon class="under" points="{roof} {RIGHT},{BOTTOM} {x(low):.1f},{BOTTOM}"/>')
    out.append(f'<polyline class="roof" points="{roof}"/>')
    text(RIGHT - 4, y(rate) - 10, f"{rate:.0f} GFLOP/s, multiply-adds from registers", "ink", "end")
    middle = math.sqrt(low * ridge)
    angle = math.degrees(math.atan2(y(ridge * bandwidth) - y(low * bandwidth), x(ridge) - x(low)))
    text(0, 0, f"{bandwidth:.1f} GB/s, read from memory", "ink",
         extra=f'transform="translate({x(middle) - 8:.1f} {y(middle * bandwidth) - 10:.1f}) rotate({angle:.1f})"')

    for row, other in found:  # lines and the others first, so that our points lie above them
        px = x(row["flops"] / row["bytes"])
        if other:
            out.append(f'<line class="other" stroke-width="1.2" x1="{px:.1f}" y1="{y(other):.1f}" x2="{px:.1f}" '
                       f'y2="{y(row["gflops"]):.1f}"/>')
            out.append(f'<circle class="page other" stroke-width="2" cx="{px:.1f}" cy="{y(other):.1f}" r="5"><title>'
                       f'fastest other, {escape(row["shape"])}, {row["T"]} tokens, {row["dtype"]}: {other:.0f} GFLOP/s'
                       "</title></circle>")
    for row, _ in found:
        px = x(row["flops"] / row["bytes"])
        out.append(f'<circle fill="{COLOURS[row["dtype"]]}" cx="{px:.1f}" cy="{y(row["gflops"]):.1f}" r="6.5"><title>'
                   f'Kokomo, {escape(row["shape"])}, {row["T"]} tokens, {row["dtype"]}: {row["gflops"]:.0f} GFLOP/s'
                   "</title></circle>")
    label_tokens(found, x, y, text)

    px = LEFT
    for name, colour in COLOURS.items():
        if any(row["dtype"] == name for row, _ in found):
            out.append(f'<circle fill="{colour}" cx="{px + 7}" cy="60" r="6.5"/>')
            text(px + 20, 65, f"Kokomo, {name}", "ink", "start")
            px += 160
    if any(other for _, other in found):
        out.append(f'<circle class="page other" stroke-width="2" cx="{px + 7}" cy="60" r="5"/>')
        text(px + 20, 65, "fastest other on the same row", "ink", "start")
    return "\n".join([*out, "</svg>"]) + "\n"


def label_tokens(found, x, y, text):
    """One label for each number of tokens and type, below its lowest point."""
    groups = {}
    for row, other in found:
        groups.setdefault((row["T"], row["dtype"]), []).append(
            (x(row["flops"] / row["bytes"]), y(min(row["gflops"], other or row["gflops"]))))
    for (tokens, _), places in groups.items():
        middle = sum(px for px, _ in places) / len(places)
        text(middle, max(py for _, py in places) + 22, f"{tokens} token" + ("s" if tokens > 1 else ""), "ink")
