# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.usage FILE COMMAND…`: run a command, and write what it took of time and memory as JSON.

A process of its own that imports next to nothing: to the kernel the memory of whoever starts a command is
the command's own, until it is executed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(file: str, *argv: str) -> None:
    """Run `argv`, its output discarded, and write `file`."""
    begun = time.perf_counter()
    nothing = os.open(os.devnull, os.O_WRONLY)
    child = os.posix_spawnp(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, nothing, 1)])
    _, status, usage = os.wait4(child, 0)
    took = {
        "status": os.waitstatus_to_exitcode(status),
        "wall_s": time.perf_counter() - begun,
        "user_s": usage.ru_utime,
        "peak_mib": usage.ru_maxrss / 1024,
    }
    Path(file).write_text(json.dumps(took))


if __name__ == "__main__":
    main(*sys.argv[1:])
