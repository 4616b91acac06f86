# SPDX-License-Identifier: Apache-2.0
"""Commands that go on in a guest beside what a scenario does, and end with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from klp.drive.case import TestedGuest

_FOLDER = "/run/klp"


@contextmanager
def in_background(guest: TestedGuest, name: str, commands: Iterable[str]) -> Iterator[None]:
    """Have commands run side by side for the length of a block.

    As everywhere, an author's command is run by bash, in the home folder, with nothing to read.

    Args:
        name: of the script that they are put in.

    Raises:
        CheckFailed: they cannot be started.
    """
    script = f"{_FOLDER}/{name}"
    guest.write(script, "\n".join([*(f"({each}) &" for each in commands), "wait", ""]).encode())
    started = f"setsid bash {script} >/dev/null 2>&1 </dev/null & echo $!"
    group = int(guest.run(started).must("starting commands in the background").stdout)
    try:
        yield
    finally:
        # setsid has made them one process group, which their shells have not left.
        guest.run(f"kill -KILL -- -{group} 2>/dev/null")
