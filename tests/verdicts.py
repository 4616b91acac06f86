# SPDX-License-Identifier: Apache-2.0
"""What `klp check` has to say of each livepatch in tests/livepatches, and of good ones elsewhere."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from klp import paths

LIVEPATCHES = Path(__file__).parent / "livepatches"
FILE = LIVEPATCHES / "verdicts.toml"


@dataclass(frozen=True)
class Expected:
    """One livepatch.

    Attributes:
        name: what `klp check` calls it, too; of `samples`, each has its own.
        word: what to call it for `klp check`.
        scenarios: in which it is tried.
        fault: what is wrong with a bad one, in a few words; None for a good one.
        says: found in the first reason that `klp check` gives for a bad one.
        unseen: whether a bad one's plain life shows nothing of its fault.
        held_up: whether a transition of it never ends.
        debug: whether it takes a kernel that looks for faults in memory.
        near: the bad one that a good one is most like.
        bare: whether it is tried without its patch.toml.
    """

    name: str
    word: str
    scenarios: tuple[str, ...]
    fault: str | None = None
    says: str = ""
    unseen: bool = False
    held_up: bool = False
    near: str = ""
    bare: bool = False
    debug: bool = False

    def named_by(self, reason: str) -> bool:
        """Whether a reason names the fault."""
        return re.search(self.says, reason) is not None


def expected() -> tuple[Expected, ...]:
    """Return what verdicts.toml says, the bad ones first."""
    told = tomllib.loads(FILE.read_text())
    bad = [
        Expected(
            name, str(LIVEPATCHES / "bad" / name), (each["scenario"],),
            each["fault"], each["says"], each.get("unseen", False), each.get("held_up", False),
            debug=each.get("debug", False),
        )
        for name, each in told["bad"].items()
    ]  # fmt: skip
    good = [
        Expected(
            name, _word(name), tuple(each["scenarios"]),
            near=each.get("near", ""), debug=each.get("debug", False),
        )
        for name, each in told["good"].items()
    ]  # fmt: skip
    return (*bad, *good)


def expected_bare() -> tuple[Expected, ...]:
    """Return the bad ones whose fault is named without their patch.toml as well, where and how."""
    bare = {name: each for name, each in tomllib.loads(FILE.read_text())["bad"].items() if "bare" in each}
    return tuple(
        replace(
            each, scenarios=(bare[each.name]["bare"],), bare=True,
            says=bare[each.name].get("bare_says", each.says),
        )
        for each in expected()
        if each.fault and each.name in bare
    )  # fmt: skip


def _word(name: str) -> str:
    own = LIVEPATCHES / "good" / name
    if own.is_dir():
        return str(own)
    return str(paths.PATCHES / name) if (paths.PATCHES / name).is_dir() else name
