#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""expect_error.py compile_commands.json FILE: FILE must fail to compile with every error that it announces.

A line `// expected-error {{regex}}` announces one. There must be no other static_assert, and at most one error behind
each that the compiler runs into for itself. A file that mentions KOKOMO_CORRECTED must also compile once that
macro is defined, so that it fails for the announced reason alone.
"""
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path


def compile_command(database: Path, source: Path) -> "tuple[list[str], str]":
    for entry in json.loads(database.read_text()):
        if Path(entry["file"]).resolve() == source:
            words = shlex.split(entry["command"])
            output = words.index("-o")
            return words[:output] + words[output + 2 :] + ["-fsyntax-only"], entry["directory"]
    sys.exit(f"{source} is not in {database}")


def main() -> int:
    database, source = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    text = source.read_text()
    expected = re.findall(r"//\s*expected-error\s*\{\{(.*?)\}\}\s*$", text, re.MULTILINE)
    if not expected:
        sys.exit(f"{source}: no `// expected-error {{{{regex}}}}`")
    command, directory = compile_command(database, source)

    def compiles(*flags: str) -> "tuple[bool, str]":
        run = subprocess.run([*command, *flags], cwd=directory, text=True, capture_output=True)
        return run.returncode == 0, run.stderr

    success, output = compiles()
    errors = "\n".join(line for line in output.splitlines() if "error" in line)
    missing = [regex for regex in expected if not re.search(regex, errors)]
    for regex in missing:
        print(f"missing: {regex}")
    asserted = len(re.findall(r"error: static(?:_assert| assertion) failed", errors))
    total = len(re.findall(r" error: ", errors))
    noisy = asserted > len(expected) or total > 2 * len(expected)
    if noisy:
        print(f"{asserted} static_asserts among {total} errors, {len(expected)} announced")
    if success or missing or noisy:
        print("it compiled" if success else output)
        return 1
    if "KOKOMO_CORRECTED" in text:
        corrected, output = compiles("-DKOKOMO_CORRECTED")
        if not corrected:
            print(f"it must compile with KOKOMO_CORRECTED:\n{output}")
            return 1
    print(f"{len(expected)} errors as announced")
    return 0


sys.exit(main())
