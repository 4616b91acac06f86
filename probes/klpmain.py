# SPDX-License-Identifier: Apache-2.0
"""Run a probe by name: `python3 FOLDER klptransition -a`, and the same of a zip file of the folder.

`python3 FOLDER` lists the probes, and `python3 FOLDER man klptransition | man -l -` shows a manual page.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

TOOLS = ("klpcallbacks", "klpconsistency", "klpshadow", "klpstates", "klptransition")


def usage() -> str:
    """Return what there is."""
    me = sys.argv[0]
    summaries = (f"  {name:<15} {importlib.import_module(name).__doc__}" for name in TOOLS)
    return "\n".join(
        (f"usage: python3 {me} PROBE [OPTION]...   (as root; PROBE --help tells its options)",
         f"       python3 {me} man PROBE | man -l -", "", *summaries)
    )  # fmt: skip


def manual(name: str) -> str:
    """Return a probe's manual page, in the language of man(1)."""
    return (pkgutil.get_data("klpprobe", f"man/{name}.8") or b"").decode()


def main() -> int:
    """Do what the command line says."""
    command, *words = sys.argv[1:] or ["--help"]
    if command == "man" and words and words[0] in TOOLS:
        print(manual(words[0]), end="")
        return 0
    if command not in TOOLS:
        wrong = command not in ("-h", "--help")
        print(usage(), file=sys.stderr if wrong else sys.stdout)
        return 2 if wrong else 0
    sys.argv = [command, *words]
    return int(importlib.import_module(command).main())


if __name__ == "__main__":
    # A probe of a copied folder is found beside this file; Python puts a zip file into the path itself.
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
