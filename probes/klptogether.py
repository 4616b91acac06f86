# SPDX-License-Identifier: Apache-2.0
"""Starts several klp tools, one after the other, each with -j in a process of its own that writes a file.

    python3 klptogether.py FOLDER TOOL...

What all of them read first, the kernel's symbols, and what they import is read and imported once. Where
CPUs are emulated that is most of what a tool takes to start; and it is memory that they share as long as
they do not write to it. A tool's events go to FOLDER/TOOL.jsonl, what it says to FOLDER/TOOL.err. A line is
written for each: its name and its process. This ends when all of them have attached their probes, or ended.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import klpprobe
from klpsymbols import ProbeError


def main() -> int:
    """Start the tools that the command line names."""
    folder, *names = sys.argv[1:]
    tools = [importlib.import_module(name) for name in names]
    with suppress(ProbeError):  # each tool says it itself
        klpprobe.kernel_symbols().prepare()
    gc.freeze()  # or collecting garbage would write to all that is shared
    for name, tool in zip(names, tools, strict=True):
        attached, ready = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(attached)
            become(tool, Path(folder, name), ready)
        os.close(ready)
        print(name, child, flush=True)
        os.read(attached, 1)  # returns when the other end is closed
        os.close(attached)
    return 0


def become(tool: ModuleType, file: Path, ready: int) -> None:
    """Go on as a tool, in a session of its own; does not return."""
    status = 1
    try:
        os.setsid()
        for target, descriptor in ((os.devnull, 0), (f"{file}.jsonl", 1), (f"{file}.err", 2)):
            flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(target, flags, 0o644), descriptor)
        os.environ[klpprobe.READY] = str(ready)
        sys.argv = [f"{file.name}.py", "-j"]
        status = tool.main()
        sys.stdout.flush()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # not through what the parent has still to do


if __name__ == "__main__":
    sys.exit(main())
