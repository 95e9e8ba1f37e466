#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_snippets.py [--write]: every C++ example in the documentation is the text of a test that is compiled and run.

In tests/docs/ a snippet stands between `// [snippet:NAME]` and `// [/snippet]`. A page shows it as

    ```cpp NAME

and the first block of docs/policies/SLOT/NAME.md, plain ```cpp, shows NAME of tests/docs/SLOT_test.cpp or tests/docs/SLOT_*_test.cpp. Other plain
blocks are left alone: declarations, outlines. --write brings the pages up to date. Also checked: links to files.
"""
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"^ *// \[snippet:(\w+)\]\n(.*?)^ *// \[/snippet\]$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```cpp(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def snippets() -> "dict[tuple[str, str], str]":
    found = {}
    for source in sorted((ROOT / "tests/docs").glob("*.[ch]pp")):
        stem = re.sub("_test$", "", source.stem)
        first = stem.split("_")[0]
        slot = first if first in ("guide", "families") or (ROOT / "docs/policies" / first).is_dir() else stem
        for name, text in MARKED.findall(source.read_text()):
            if found.setdefault((slot, name), textwrap.dedent(text)) != textwrap.dedent(text):
                sys.exit(f"{source}: two snippets {name}")
    return found


def main() -> int:
    write = "--write" in sys.argv[1:]
    known, shown, problems = snippets(), set(), []
    general = {name: key for key in known for name in [key[1]] if key[0] in ("guide", "positive", "families")}
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        if not page.is_file():
            continue
        text, where = page.read_text(), page.relative_to(ROOT)
        policy = (page.parent.name, page.stem) if page.parent.parent == ROOT / "docs/policies" else None
        first = True

        def block(match: "re.Match[str]") -> str:
            nonlocal first
            name, body = match.groups()
            key = general.get(name) if name else policy if first else None
            first = False
            if name and key is None:
                problems.append(f"{where}: there is no snippet {name}")
            if key is None or key not in known:
                return match.group(0)
            shown.add(key)
            if body != known[key] and not write:
                problems.append(f"{where}: a block differs from snippet {key[1]}; run docs/check_snippets.py --write")
            return f"```cpp{' ' + name if name else ''}\n{known[key]}```"

        changed = BLOCK.sub(block, text)
        if policy and policy[1] not in ("index", "README") and policy not in shown:
            problems.append(f"{where}: no snippet {policy[1]} in tests/docs/{policy[0]}_test.cpp, or no block to show it")
        if write and changed != text:
            page.write_text(changed)
        for target in LINK.findall(re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
            if not (page.parent / target).exists():
                problems.append(f"{where}: link to {target}, which does not exist")
    problems += [f"tests/docs: no page shows {slot}/{name}" for slot, name in sorted(set(known) - shown)]
    print("\n".join(problems) or f"{len(shown)} snippets, each as the test has it")
    return 1 if problems else 0


sys.exit(main())
