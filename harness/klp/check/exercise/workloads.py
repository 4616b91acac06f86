# SPDX-License-Identifier: Apache-2.0
"""Workloads: what may call a changed function, and which of them most likely does. Pure but for one file.

There are those of the author, commands and stressors of catalogue.toml, and files of /proc, /sys and
debugfs that are read, or written back to what they hold.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path

import msgspec

from klp.files import digest_of
from klp.modules.plan import PatchPlan
from klp.toml import read_toml

_CATALOGUE = Path(__file__).with_name("catalogue.toml")
# A stressor ends after so many operations or seconds, whichever comes first.
_STRESSOR = "stress-ng --{name} 1 --{name}-ops {operations} --timeout 1s --temp-path /tmp --quiet"
_OPERATIONS = 20
# Words that names of functions have whatever they are about, and how much less they tell.
_EVERYWHERE = frozenset(
    ["proc", "sys", "show", "get", "set", "do", "open", "read", "write", "store", "seq", "ops", "handler",
     "init", "single"]
)  # fmt: skip
_COMMON = 0.2
# A program takes a hundred times as long as the reading of a file.
_PROGRAM = 0.7
# Of likenesses, less than this is chance.
_CHANCE = 0.2
_CAT = re.compile(r"\s*cat\s+(/[\w./-]+)\s*")


class WorkloadKind(StrEnum):
    """What is done: a file's beginning is read, a file is written what it holds, a command is run."""

    READ = "read"
    WRITE_BACK = "write-back"
    COMMAND = "command"


class Origin(StrEnum):
    """Where a workload is from."""

    AUTHOR = "author"
    COMMAND = "command"
    STRESSOR = "stressor"
    FILE = "file"


_SLOWEST_LAST = (Origin.AUTHOR, Origin.FILE, Origin.COMMAND, Origin.STRESSOR)


# As much of a command as is told: one of an author's may be a whole script.
_SHOWN = 72


class GuestWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """One workload.

    Attributes:
        text: the file's path, or the command.
        tags: words for what of the kernel it uses, beside those in `text`.
        shell: what runs a command.
        name: what to call it; empty for `text`.
        may_fail: whether it may fail while the livepatch is enabled.
    """

    kind: WorkloadKind
    text: str
    origin: Origin
    tags: str = ""
    shell: str = "sh"
    name: str = ""
    may_fail: bool = False

    @property
    def words(self) -> str:
        """What it is called in reports."""
        match self.kind:
            case WorkloadKind.READ:
                return f"reading {self.text}"
            case WorkloadKind.WRITE_BACK:
                return f"writing {self.text} back to what it holds"
            case _:
                line = " ".join((self.name or self.text).split())
                return f"`{line if len(line) <= _SHOWN else line[: _SHOWN - 2] + ' …'}`"


class _Named(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command of the catalogue."""

    name: str
    tags: str
    run: str


class _Files(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Which files are left out, and which are written back: regular expressions of whole paths."""

    never: tuple[str, ...]
    write_back: tuple[str, ...]
    never_write: tuple[str, ...]


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What catalogue.toml holds."""

    stressors: tuple[str, ...]
    files: _Files
    command: tuple[_Named, ...]

    @property
    def digest(self) -> str:
        """Differs where another catalogue may find what this one did not."""
        return digest_of({"catalogue": msgspec.json.encode(self).decode()})


@cache
def catalogue() -> Catalogue:
    """Read catalogue.toml."""
    return read_toml(_CATALOGUE, Catalogue)


def of_author(plan: PatchPlan, *, observing: bool = True) -> tuple[GuestWorkload, ...]:
    """Return the author's own: of [[workload]] and, with `observing`, of [[observe]]."""
    named = {each.command: each.may_fail for each in plan.workload}
    looks = {each.command: True for each in plan.observe if observing and each.command not in named}
    return tuple(_of_author(text, may_fail=may_fail) for text, may_fail in (named | looks).items())


def _of_author(text: str, *, may_fail: bool) -> GuestWorkload:
    # A program that only reads a file takes a hundred times as long to start as the file to be read.
    file = _CAT.fullmatch(text)
    kind = WorkloadKind.READ if file else WorkloadKind.COMMAND
    return GuestWorkload(
        kind=kind, text=file[1] if file else text, origin=Origin.AUTHOR, shell="bash", may_fail=may_fail
    )


def commands() -> tuple[GuestWorkload, ...]:
    """Return the catalogue's commands."""
    return tuple(
        GuestWorkload(
            kind=WorkloadKind.COMMAND, text=each.run, origin=Origin.COMMAND, tags=each.tags, name=each.name
        )
        for each in catalogue().command
    )


def stressors(there: Iterable[str]) -> tuple[GuestWorkload, ...]:
    """Return the catalogue's stressors that a guest's stress-ng has."""
    known = set(there)
    return tuple(
        GuestWorkload(
            kind=WorkloadKind.COMMAND, text=_STRESSOR.format(name=name, operations=_OPERATIONS),
            origin=Origin.STRESSOR, tags=name, name=f"stress-ng --{name}",
        )
        for name in catalogue().stressors if name in known
    )  # fmt: skip


def files(readable: Iterable[str], writable: Iterable[str]) -> tuple[GuestWorkload, ...]:
    """Return those of a guest's files that are of use: of many that differ in a number, the first."""
    rules = catalogue().files
    never, back, kept_off = (
        re.compile("|".join(each)) for each in (rules.never, rules.write_back, rules.never_write)
    )
    seen: set[str] = set()
    names: Counter[tuple[str, str]] = Counter()
    found = []
    for path in readable:
        alike = re.sub(r"\d+", "0", path)
        # /sys has an attribute of one name for each device, CPU, slab cache or event: a few show it all.
        place = ("/".join(path.split("/")[:3]), path.rpartition("/")[2])
        if alike in seen or never.fullmatch(path) or names[place] >= _ALIKE:
            continue
        seen.add(alike)
        names[place] += 1
        found.append(GuestWorkload(kind=WorkloadKind.READ, text=path, origin=Origin.FILE))
    found += [
        GuestWorkload(kind=WorkloadKind.WRITE_BACK, text=path, origin=Origin.FILE)
        for path in writable
        if back.fullmatch(path) and not kept_off.fullmatch(path)
    ]
    return tuple(found)


_ALIKE = 4
# What it adds to a likeness that a workload is the author's.
_AUTHOR = 0.3


def tokens(text: str) -> frozenset[str]:
    """Return the words in a name or a command, in lower case: of ``__x64_sys_futex`` x64, sys and futex."""
    return frozenset(each for each in re.split(r"[^a-z]+", text.lower()) if len(each) > 1)


def ranked(
    workloads: Sequence[GuestWorkload], functions: Iterable[tuple[str, str]]
) -> tuple[tuple[GuestWorkload, float], ...]:
    """Return workloads with how alike they are to some functions, the most alike first.

    A word that a function's name shares with a workload counts the more the fewer workloads have it. A file
    whose own name is all in the function's (/proc/version in version_proc_show) comes first of all, and
    before programs what is read without one; the author's come before those that share no rare word.

    Args:
        functions: (object, function).
    """
    own = [tokens(f"{each.text if each.origin is Origin.FILE else ''} {each.tags}") for each in workloads]
    own = [each | tokens(one.text) if one.origin is Origin.AUTHOR else each
           for each, one in zip(own, workloads, strict=True)]  # fmt: skip
    often = Counter(word for each in own for word in each)
    wanted = [tokens(f"{name} {'' if place == 'vmlinux' else place}") for place, name in functions]

    def likeness(one: GuestWorkload, words: frozenset[str]) -> float:
        return max((_likeness(one, words, name, often) for name in wanted), default=0.0)

    scored = (
        (one, likeness(one, words) + (_AUTHOR if one.origin is Origin.AUTHOR else 0.0))
        for one, words in zip(workloads, own, strict=True)
    )
    return tuple(sorted(scored, key=lambda each: _turn(*each)))


def _turn(one: GuestWorkload, score: float) -> tuple[float, int, float]:
    """Return by what workloads are sorted to be tried: of those hardly alike, the quick ones come first."""
    return (-score if score >= _CHANCE else 0.0, _SLOWEST_LAST.index(one.origin), -score)


def _likeness(
    one: GuestWorkload, words: frozenset[str], name: frozenset[str], often: Counter[str]
) -> float:
    shared = sum(_share(word, words, often) * (_COMMON if word in _EVERYWHERE else 1.0) for word in name)
    if one.origin is not Origin.FILE:
        return shared * (1.0 if one.origin is Origin.AUTHOR else _PROGRAM)
    called = tokens(one.text.rpartition("/")[2])
    # In a path of many other words it is the name of something else.
    whole = len(words & name) / len(words) if called and called <= name else 0.0
    return shared + whole


def _share(word: str, words: frozenset[str], often: Counter[str]) -> float:
    """Return what a function's word adds: half as much where one is the other's beginning."""
    if word in words:
        return 1.0 / math.sqrt(1 + often[word])
    alike = [each for each in words if min(len(each), len(word)) >= 3 and _begins(each, word)]
    return max((0.5 / math.sqrt(1 + often[each]) for each in alike), default=0.0)


def _begins(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def tried_words(workloads: Iterable[GuestWorkload]) -> str:
    """Return how many of each kind, in words: ``97 commands, 31 stressors and 3,914 files of …``."""
    counts = Counter(each.origin for each in workloads)
    parts = [
        f"{count:,} {words}{'s' if count != 1 else ''}{place}"
        for count, words, place in (
            (counts[Origin.COMMAND] + counts[Origin.AUTHOR], "command", ""),
            (counts[Origin.STRESSOR], "stressor", ""),
            (counts[Origin.FILE], "file", " of /proc, /sys and debugfs"),
        )
        if count
    ]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "workloads"
