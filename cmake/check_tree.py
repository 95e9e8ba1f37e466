#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Every policy header has its documentation page, and some test includes it; ctest can run every test case."""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SLOTS = ("router", "gate", "balancer", "adjust", "capacity", "space", "experts", "combine", "placement", "schedule",
         "transform", "compress", "cache")


def main() -> int:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.[ch]pp"))
    included = set(re.findall(r"#include\s*[<\"](kokomo/[\w/]+\.hpp)[>\"]", tests))
    problems = []
    policies = 0
    for slot in SLOTS:
        for header in sorted((ROOT / "include/kokomo" / slot).glob("*.hpp")):
            policies += 1
            page = ROOT / "docs/policies" / slot / f"{header.stem}.md"
            if not page.is_file():
                problems.append(f"{page.relative_to(ROOT)} is missing")
            if f"kokomo/{slot}/{header.name}" not in included:
                problems.append(f"no test includes <kokomo/{slot}/{header.name}>")
    for page in sorted((ROOT / "docs/policies").glob("*/*.md")):
        header = ROOT / "include/kokomo" / page.parent.name / f"{page.stem}.hpp"
        if page.stem not in ("index", "README") and not header.is_file():
            problems.append(f"{page.relative_to(ROOT)} documents no header")
    for path in sorted((ROOT / "tests").rglob("*_test.cpp")):
        for name in re.findall(r'TEST_CASE\(\s*((?:"[^"]*"\s*)+)', path.read_text()):
            if ";" in name:  # CMake lists split there: two ctest tests that match no case, and pass
                problems.append(f"{path.relative_to(ROOT)}: a test case's name has a semicolon: {name.strip()}")
    print("\n".join(problems) or f"{policies} policies, each with a page and a test")
    return 1 if problems else 0


sys.exit(main())
