#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Times layer_bench beside what else one could use, and writes the tables and the roofline of docs/performance.md.

For each shape and storage type it starts layer_bench and one peer after the other (peers/*_peer.py; those that cannot
run here say why), waits until both hold their weights, and lets them take turns. Rows go into a JSON file, where they
replace older ones of the same shape, tokens, type and system, so that a comparison may be made in pieces.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

HERE = Path(__file__).resolve().parent
PEERS = ("torch", "onnxruntime", "vllm", "ggml")
TRAINING_FROM = 16  # tokens: nobody trains on fewer


class Failed(Exception):
    pass


class Program:
    """A program that answers lines with JSON: layer_bench --serve, or a peer."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})})
        self.name = next(Path(word).name for word in command if word.endswith(("_bench", "_peer.py")))

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, line):
        try:
            print(line, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # read says what happened
        return self.read()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Hold:
    """Runs a command for as long as something is measured: `flock FILE` keeps others, who do the same, off the machine.
    It is let go at least every `most` seconds."""

    def __init__(self, command, most):
        self.command, self.most, self.process, self.since = shlex.split(command), most, None, 0.0

    def take(self):
        """Between two measurements."""
        if self.process and time.monotonic() - self.since > self.most:
            self.release()
        if self.command and not self.process:
            self.process = subprocess.Popen([*self.command, "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True)
            self.process.stdout.readline()
            self.since = time.monotonic()

    def release(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


def say(text):
    print(text, file=sys.stderr, flush=True)


def of_turns(answers):
    """One row's numbers from the answers of several turns."""
    times = sorted(t for answer in answers for t in answer["times"])
    at = lambda share: times[min(len(times) - 1, int(share * len(times)))]
    return {"ms": statistics.median(times), "ms_low": at(0.1), "ms_high": at(0.9), "calls": len(times)}


class Comparison:
    def __init__(self, a):
        self.a, self.hold = a, Hold(a.hold, a.hold_seconds)
        self.bench = str(a.build / "bench/layer_bench")
        if not os.path.exists(self.bench):
            raise Failed(f"{self.bench} does not exist; build it, or run `./run bench`")
        listing = subprocess.run([self.bench, "--list"], capture_output=True, text=True, check=True).stdout
        self.sizes = {line.split()[0]: [int(n) for n in line.split()[1:]] for line in listing.splitlines()}
        self.results = json.loads(a.results.read_text()) if a.results.exists() else {"rows": []}
        for name in a.shapes:
            if name not in self.sizes:
                raise Failed(f"--shapes names '{name}', expected some of: {', '.join(self.sizes)}")

    def run(self):
        try:
            self.measure_limits()
            for shape in self.a.shapes:
                for dtype in self.a.dtypes:
                    self.compare(shape, dtype)
                    self.measure_limits()
            for name in self.a.components:
                self.component(name)
        finally:
            self.hold.release()

    def json_of(self, command):
        """Runs a benchmark and returns what it writes."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "out.json"
            self.hold.take()
            done = subprocess.run([*command, "--json", str(file)], stdout=subprocess.DEVNULL)
            if done.returncode != 0:
                raise Failed(f"{command[0]} failed")
            return json.loads(file.read_text())

    def measure_limits(self):
        say("the machine's limits")
        found = self.json_of([self.bench, "--shapes", "tiny", "--tokens", "1", "--dtypes", "float32", "--budget", "0",
                              "--stream-mib", str(self.a.stream_mib)])
        self.hold.release()
        limits, known = found["limits"], self.results.get("limits", {"gflops": {}, "bandwidth_gbs": 0})
        # a disturbed run reaches less: what the machine can do is the most that was ever seen
        limits["bandwidth_gbs"] = max(limits["bandwidth_gbs"], known["bandwidth_gbs"])
        limits["gflops"] = {name: max(rate, known["gflops"].get(name, 0)) for name, rate in limits["gflops"].items()}
        self.results.update(limits=limits, threads=found["threads"], processor=processor())

    def compare(self, shape, dtype):
        say(f"{shape} {dtype}: kokomo")
        ours = Program([self.bench, "--serve", "--shapes", shape, "--dtypes", dtype])
        try:
            self.results["kernel"] = ours.read()["kernel"]
            self.alone = {}
            for peer in self.a.peers:
                self.beside(ours, peer, shape, dtype)
            self.take_turns(ours, None, [], shape, dtype, self.a.tokens, self.a.passes)
            for load in self.a.loads:
                if load != "random" and "forward" in self.a.passes:
                    for tokens in self.a.tokens:
                        self.take_turns(ours, None, [], shape, dtype, [tokens], ["forward"], load)
        finally:
            self.hold.release()
            ours.close()

    def beside(self, ours, peer, shape, dtype):
        hidden, intermediate, experts, k = self.sizes[shape]
        program = Program([self.a.python, str(HERE / f"peers/{peer}_peer.py"), "--hidden", str(hidden),
                           "--intermediate", str(intermediate), "--experts", str(experts), "--k", str(k), "--dtype",
                           dtype], {"KOKOMO_GGML": self.a.ggml})
        try:
            hello = program.read()
            if "skip" in hello:
                return say(f"{shape} {dtype}: {peer} left out: {hello['skip']}")
            wanted = lambda systems: [s for s in systems if not self.a.systems or s in self.a.systems]
            self.results.setdefault("versions", {}).update(hello["ready"])
            for step, systems in (("forward", wanted(hello["ready"])), ("train", wanted(hello["trains"]))):
                if step in self.a.passes and systems:
                    self.take_turns(ours, program, systems, shape, dtype, self.a.tokens, [step])
        except Failed as why:
            say(f"{shape} {dtype}: {peer}: {why}")
        finally:
            self.hold.release()
            program.close()

    def take_turns(self, ours, program, systems, shape, dtype, tokens, steps, load="random"):
        for T in tokens:
            for step in steps:
                if step == "train" and T < TRAINING_FROM or not systems and (T, step, load) in self.alone:
                    continue
                ours_too = ["kokomo", *(["kokomo-packed"] if step == "forward" else [])]
                answers = {name: [] for name in [*ours_too, *systems]}
                for _ in range(self.a.rounds):
                    for name in answers:
                        self.hold.take()
                        source = ours if name in ours_too else program
                        answer = source.ask(f"{T} {load} {step} {self.a.seconds / self.a.rounds} {name}")
                        if "error" in answer:
                            say(f"{shape} {dtype} {T} {name}: {answer['error']}")
                        else:
                            answers[name].append(answer)
                self.record(answers, shape, dtype, T, step, load)

    def record(self, answers, shape, dtype, T, step, load):
        suffix, new = "+backward" if step == "train" else "", []
        for name in ("kokomo", "kokomo-packed"):
            if not answers.get(name):
                continue
            mine = self.alone.setdefault((T, step, load), {}).setdefault(name, [])
            mine += answers[name]
            row = {**{key: value for key, value in mine[-1].items() if key != "times"}, **of_turns(mine)}
            row["gflops"], row["gbs"] = row["flops"] / row["ms"] / 1e6, row["gbs"] * mine[-1]["ms"] / row["ms"]
            new.append(row)
        base = min(of_turns(answers[name])["ms"] for name in answers if name.startswith("kokomo") and answers[name])
        for name in answers:
            if name.startswith("kokomo") or not answers[name]:
                continue
            numbers = of_turns(answers[name])
            new.append({"shape": shape, "T": T, "dtype": dtype, "peer": name + suffix, "load": load, **numbers,
                        "gflops": row["flops"] / numbers["ms"] / 1e6, "err": answers[name][0].get("err"),
                        "bytes": row["bytes"], "flops": row["flops"], "ratio": numbers["ms"] / base})
        key = lambda r: (r["shape"], r["T"], r["dtype"], r["peer"], r["load"])
        for r in new:
            say(f"{r['shape']:16} {r['T']:5} {r['dtype']:8} {r['load']:8} {r['peer']:26} {r['ms']:10.3f} ms"
                f"{r['gflops']:8.1f} GFLOP/s" + (f"  {r['ratio']:5.2f} x kokomo's time" if "ratio" in r else ""))
        replaced = {key(r) for r in new}
        self.results["rows"] = [r for r in self.results["rows"] if key(r) not in replaced] + new
        self.save()

    def component(self, name):
        say(f"{name}_bench")
        self.results[name] = self.json_of([str(self.a.build / f"bench/{name}_bench"), "--budget", str(self.a.seconds / 4)])
        self.hold.release()
        self.save()

    def save(self):
        self.a.results.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.a.results.with_suffix(".new")
        fresh.write_text(json.dumps(self.results, indent=1) + "\n")
        fresh.replace(self.a.results)


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown processor"


def main():
    root = HERE.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    items = lambda text: [item for item in text.split(",") if item]
    add = parser.add_argument
    add("--build", type=Path, default=root / "build/openmp-release", help="folder that bench/layer_bench was built in")
    add("--shapes", type=items, default="olmoe-1b-7b,qwen3-30b-a3b,mixtral-8x7b/4")
    add("--tokens", type=lambda text: [int(t) for t in items(text)], default="1,16,512")
    add("--dtypes", type=items, default="float32,bfloat16")
    add("--loads", type=items, default="random", help="for kokomo alone: random,balanced,hot,zipf")
    add("--passes", type=items, default="forward", help=f"forward,train: the second from {TRAINING_FROM} tokens on")
    add("--peers", type=items, default=",".join(PEERS), help="which programs to compare with; none: ''")
    add("--systems", type=items, default="", help="which of the peers' systems; default: all")
    add("--components", type=items, default="", help="also run these: product,routing")
    add("--seconds", type=float, default=2, help="for each system of a row")
    add("--rounds", type=int, default=3, help="turns of each system in a row")
    add("--stream-mib", type=int, default=1024, help="size of the array that bandwidth is measured on")
    add("--hold", default="", help="command to run while measuring, such as 'flock FILE'")
    add("--hold-seconds", type=float, default=45, help="let go of it this often")
    add("--python", default=sys.executable, help="Python that the peers run in")
    add("--ggml", default="", help="folder of ggml's libraries")
    add("--results", type=Path, default=root / "build/bench/results.json", help="JSON file to add to")
    add("--page", type=Path, default=root / "docs/performance.md", help="its tables are rewritten")
    add("--roofline", type=Path, default=root / "docs/pictures/roofline.svg")
    add("--report-only", action="store_true", help="measure nothing")
    a = parser.parse_args()
    for option, names, known in (("--peers", a.peers, PEERS), ("--passes", a.passes, ("forward", "train"))):
        for name in names:
            if name not in known:
                parser.error(f"{option} names '{name}', expected some of: {', '.join(known)}")
    try:
        if not a.report_only:
            Comparison(a).run()
        if not a.results.exists():
            raise Failed(f"{a.results} does not exist")
        report.write(json.loads(a.results.read_text()), a.page, a.roofline)
    except (Failed, report.Unusable) as why:
        sys.exit(f"compare.py: {why}")


if __name__ == "__main__":
    main()
