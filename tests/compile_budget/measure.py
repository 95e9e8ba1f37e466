#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Counts what each .cpp of this folder costs over baseline.cpp, and compares with budget.txt.

Two counts that are the same from run to run, unlike times: preprocessed lines, and the classes and functions that
clang instantiates (-ftime-trace). A file may exceed its budget by 5 %, or by 50 where that is more. --update writes
the counts of now.
"""
import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUDGET = HERE / "budget.txt"
HEADER = """# File, preprocessed lines and instantiations over <Kokkos_Core.hpp> alone: measure.py compares, --update rewrites.
"""
SKIPPED = 77


def run(command: "list[str]", directory: str = ".") -> str:
    done = subprocess.run(command, cwd=directory, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stderr}")
    return done.stdout


def flags(entry: dict) -> "list[str]":
    """The include paths, macros and language of a compile command; Kokkos' system headers stay system headers."""
    words = shlex.split(entry["command"])
    kept = [word for word in words[1:] if re.match(r"-(I|D|std=|fopenmp)", word)]
    return kept + [flag for i, word in enumerate(words) if word == "-isystem" for flag in (word, words[i + 1])]


def measure(clang: str, entry: dict, work: Path, omp: "list[str]") -> "tuple[int, int]":
    source = Path(entry["file"])
    command = [clang, *flags(entry), *omp, "-std=c++20", "-w"]
    lines = sum(not line.startswith("#") for line in run([*command, "-E", str(source)]).splitlines())
    output = work / f"{source.stem}.o"
    run([*command, "-c", "-ftime-trace", "-ftime-trace-granularity=0", str(source), "-o", str(output)])
    events = json.loads(output.with_suffix(".json").read_text())["traceEvents"]
    return lines, sum(event["name"] in ("InstantiateClass", "InstantiateFunction") for event in events)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=Path, required=True, help="compile_commands.json")
    parser.add_argument("--clang", required=True, help="clang++, or empty")
    parser.add_argument("--gcc", required=True, help="the compiler whose omp.h clang borrows")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the object files")
    parser.add_argument("--update", action="store_true", help="write budget.txt instead of comparing with it")
    arguments = parser.parse_args()
    if not shutil.which(arguments.clang or "clang++"):
        print("skipped: no clang++, whose -ftime-trace does the counting")
        return SKIPPED

    # clang without libomp has no omp.h; gcc's serves, without the one attribute that clang has not.
    omp = arguments.work / "omp"
    omp.mkdir(parents=True, exist_ok=True)
    header = Path(run([arguments.gcc, "-print-file-name=include/omp.h"]).strip())
    if header.is_file():
        (omp / "omp.h").write_text(re.sub(r"__malloc__ \(\w+\)", "__malloc__", header.read_text()))

    entries = [e for e in json.loads(arguments.commands.read_text()) if Path(e["file"]).resolve().parent == HERE]
    counts = {
        Path(entry["file"]).stem: measure(arguments.clang, entry, arguments.work, ["-isystem", str(omp)])
        for entry in sorted(entries, key=lambda entry: entry["file"])
    }
    base = counts.pop("baseline")
    costs = {name: (lines - base[0], instantiations - base[1]) for name, (lines, instantiations) in counts.items()}

    if arguments.update:
        BUDGET.write_text(HEADER + "".join(f"{name} {lines} {made}\n" for name, (lines, made) in costs.items()))
        return 0
    budget = {}
    for line in BUDGET.read_text().splitlines():
        if line and not line.startswith("#"):
            name, lines, made = line.split()
            budget[name] = (int(lines), int(made))

    failed = 0
    for name in sorted(costs.keys() | budget.keys()):
        if name not in costs or name not in budget:
            print(f"{name}: in {'budget.txt' if name in budget else 'the folder'} only")
            failed += 1
            continue
        for what, cost, limit in zip(("lines", "instantiations"), costs[name], budget[name]):
            over = cost > limit + max(0.05 * limit, 50)
            print(f"{name}: {cost} {what} over Kokkos_Core, budget {limit}{': TOO MANY' if over else ''}")
            failed += over
    return 1 if failed else 0


sys.exit(main())
