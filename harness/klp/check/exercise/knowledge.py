# SPDX-License-Identifier: Apache-2.0
"""Which workloads call which function, kept in the cache: found once for a kernel, known to every check.

A file for each function of each kernel. That none was found is kept as well: it holds for the catalogue
that was tried, while what was found stays true whatever the catalogue has become.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from klp.check.exercise.workloads import GuestWorkload
from klp.files import write_whole
from klp.paths import CacheLayout

_SCHEMA = 1


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that calls a function, how often in one run, and how long that took in the guest."""

    workload: GuestWorkload
    hits: int
    seconds: float


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one function on one kernel.

    Attributes:
        catalogue: the digest of what was tried.
        reached: what calls it; empty where nothing that was tried does.
        tried: what was tried in vain, in words.
        whole: whether all was tried that there is time for, and not the likeliest alone.
    """

    catalogue: str
    reached: tuple[Reached, ...] = ()
    tried: str = ""
    whole: bool = False
    schema: int = _SCHEMA

    def answers(self, catalogue: str, *, quick: bool) -> bool:
        """Whether there is nothing to be looked for again."""
        return bool(self.reached) or (self.catalogue == catalogue and (self.whole or quick))


class Knowledge:
    """What is known of the functions of one kernel.

    Args:
        kernel: its digest.
    """

    def __init__(self, layout: CacheLayout, kernel: str) -> None:
        self._folder = layout.workloads / kernel[:16]

    def of(self, function: tuple[str, str]) -> Known | None:
        """Return what is known of a function, ``object`` and ``name,sympos``; None where nothing is."""
        try:
            known = msgspec.json.decode(self._file(function).read_bytes(), type=Known)
        except (OSError, msgspec.DecodeError):  # never written, or by another version of klp
            return None
        return known if known.schema == _SCHEMA else None

    def learn(self, function: tuple[str, str], known: Known) -> None:
        """Keep what was found out."""
        file = self._file(function)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, msgspec.json.format(msgspec.json.encode(known)))

    def harmful(self) -> frozenset[str]:
        """Return the workloads, by their text, that end a guest of this kernel by themselves."""
        try:
            return frozenset(self._harmful.read_text(encoding="utf-8").splitlines())
        except OSError:
            return frozenset()

    def shun(self, workload: GuestWorkload) -> None:
        """Have a workload left out from now on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        texts = sorted(self.harmful() | {workload.text.replace("\n", " ")})
        write_whole(self._harmful, "".join(f"{each}\n" for each in texts).encode())

    @property
    def _harmful(self) -> Path:
        return self._folder / "harmful.txt"

    def _file(self, function: tuple[str, str]) -> Path:
        return self._folder / (re.sub(r"[^\w.,-]", "_", "-".join(function)) + ".json")


def shunned(workload: GuestWorkload, harmful: frozenset[str]) -> bool:
    """Whether a workload is among those that `Knowledge.harmful` names."""
    return workload.text.replace("\n", " ") in harmful
