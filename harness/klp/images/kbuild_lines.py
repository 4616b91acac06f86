# SPDX-License-Identifier: Apache-2.0
"""What Kbuild says while it works, as how far it is."""

from __future__ import annotations

import re
from collections.abc import Callable

# What `counter` is to be told that is counted.
BUILD_STEPS = "build steps"
# Such as `  CC [M]  fix.o`, `  HOSTCC  scripts/basic/fixdep`: one line for each thing that it makes.
_STEP = re.compile(r"^ {2}[A-Z][A-Z0-9_-]*(?: \[M\])? +\S")


def count_steps(count: Callable[[int], None]) -> Callable[[str], None]:
    """Return what takes the lines of a make that is not silent, and tells the steps that have begun.

    Args:
        count: gets how many, as what `klp.progress.counter` returns.
    """
    begun = 0

    def take(line: str) -> None:
        nonlocal begun
        if _STEP.match(line):
            begun += 1
            count(begun)

    return take
