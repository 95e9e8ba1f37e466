#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""smoke.py FOLDER: the benchmarks in FOLDER run on a tiny shape and write what they say they write; bad arguments fail
with a sentence. No time decides anything here."""
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(sys.argv[1])
QUICK = ["--budget", "0"]
problems = []


def expect(condition, what):
    if not condition:
        problems.append(what)


def run(command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=240, **options)


def output_of(name, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "out.json"
        done = run([FOLDER / name, *arguments, *QUICK, "--json", file])
        expect(done.returncode == 0, f"{name} {arguments} ended with {done.returncode}: {done.stderr}")
        return json.loads(file.read_text()) if file.exists() else {"rows": []}


def layer():
    out = output_of("layer_bench", "--shapes", "tiny", "--tokens", "1,32", "--loads", "all", "--train", "--packed", "--phases",
                    "--stream-mib", "8")
    expect(out["limits"]["bandwidth_gbs"] > 0 and min(out["limits"]["gflops"].values()) > 0, "limits are positive")
    expect(len(out["rows"]) == 2 * 2 * 4 * 3, f"{len(out['rows'])} rows, expected 48")
    for row in out["rows"]:
        where = " ".join(str(row[k]) for k in ("shape", "T", "dtype", "load", "peer"))
        expect(row["ms_low"] <= row["ms"] <= row["ms_high"] and row["calls"] >= 2, f"{where}: median outside its spread")
        expect(row["err"] < (1e-5 if row["dtype"] == "float32" else 2e-2), f"{where}: err = {row['err']}")
        expect(row["flops"] == (6 * 64 * 48 * 2 + 2 * 64 * 8) * row["T"] * (3 if "backward" in row["peer"] else 1),
               f"{where}: flops = {row['flops']}")
        expect(row["bound"] in ("multiply-adds", "bandwidth") and row["share"] > 0, f"{where}: no bound")
        expect(row["routings"] == (4 if row["T"] == 1 and row["load"] in ("random", "balanced") else 1),
               f"{where}: {row['routings']} routings")
        expect(row["workspace_bytes"] > 0 and row["tape_bytes"] > 0 and row["phases"], f"{where}: no memory or phases")
        expect(("pack_ms" in row) == (row["peer"] == "kokomo-packed"), f"{where}: time to pack")
        if row["load"] == "balanced" and row["T"] == 32:
            expect(row["most_rows"] <= 10, f"{where}: {row['most_rows']} tokens for one expert, 8 are its share")
        if row["load"] == "hot" and row["T"] == 32:
            expect(row["most_rows"] >= 14, f"{where}: {row['most_rows']} tokens for the busiest expert, 16 were wanted")


def components():
    out = output_of("product_bench", "--rows", "1,3", "--loads", "zipf", "--stream-mib", "8", "--dtypes", "float32")
    expect({(r["kind"], r.get("most_rows")) for r in out["rows"]} >= {("product", 1), ("product", 3), ("outer", 3)},
           "product_bench: rows are missing")
    expect({r["cache"] for r in out["rows"] if r["kind"] == "tile" and r["gflops"] > 0} == {"L1", "L2"},
           "product_bench: the microkernel alone is missing")
    out = output_of("routing_bench", "--shapes", "tiny", "--tokens", "1,5")
    expect(len(out["rows"]) >= 4 and all((r["share"] is None or 0 < r["share"] < 1) and r["scorer_ms"] > 0 and r["selector_ms"] > 0 and
                                         r["gate_ms"] > 0 and r["grouping_ms"] > 0 for r in out["rows"]),
           f"routing_bench: {out['rows']}")


def arguments():
    for words, sentence in (
            (["--tokens", "0"], "--tokens is '0', expected whole numbers from 1"),
            (["--tokens", "1,x"], "--tokens is 'x'"),
            (["--tokens", ""], "--tokens is ''"),
            (["--shapes", "olmo"], "--shapes names 'olmo', expected some of: olmoe-1b-7b"),
            (["--dtypes", "int3"], "--dtypes names 'int3'"),
            (["--budget", "-1"], "--budget is '-1', expected a number of seconds"),
            (["--json", "/nowhere/at/all.json"], "expected a file in an existing folder"),
            (["--loads"], "--loads has no value"),
            (["--fast"], "unknown argument '--fast'"),
            (["--serve"], "--serve takes one shape and one dtype")):
        done = run([FOLDER / "layer_bench", *words])
        expect(done.returncode == 2 and sentence in done.stderr, f"layer_bench {words}: {done.returncode} {done.stderr}")
    done = run([FOLDER / "layer_bench", "--serve", "--shapes", "tiny", "--dtypes", "float32"], input="many random\n")
    expect(done.returncode == 2 and "expected TOKENS LOAD" in done.stderr, f"--serve: {done.returncode} {done.stderr}")


def comparison():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results, page, picture = folder / "results.json", folder / "page.md", folder / "roofline.svg"
        command = [sys.executable, ROOT / "bench/compare.py", "--build", FOLDER.parent, "--shapes", "tiny", "--tokens",
                   "1,32", "--passes", "forward,train", "--loads", "random,hot", "--peers", "", "--seconds", "0", "--stream-mib", "8",
                   "--results", results, "--page", page, "--roofline", picture, "--hold", "env"]
        page.write_text("by hand\n")
        done = run(command)
        expect(done.returncode == 1 and "lacks the lines" in done.stderr, f"a page without markers: {done.stderr}")
        page.write_text("above\n" + "\nbelow\n".join(markers()) + "\nend\n")
        done = run(command)
        expect(done.returncode == 0, f"compare.py: {done.stderr}")
        text = page.read_text()
        expect(text.startswith("above\n") and text.endswith("\nend\n") and "below" not in text,
               "what stands outside the markers is kept, what stands between them replaced")
        for title in ("### Forward, float32", "### Forward and backward, bfloat16", "### Loads"):
            expect(title in text, f"the page has no {title}")
        expect(len(json.loads(results.read_text())["rows"]) == 2 * (2 * 2 + 1 + 2 * 2), "rows of one run replace older ones")
        drawn = xml.parse(picture).getroot()
        expect(drawn.tag.endswith("svg") and len(drawn.findall(".//{*}circle")) >= 4, "the picture has its points")


def markers():
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(ROOT / "bench"))
    import report
    return report.BEGIN, report.END


for part in (layer, components, arguments, comparison):
    part()
print("\n".join(problems) or "benchmarks: as they should be")
sys.exit(1 if problems else 0)
